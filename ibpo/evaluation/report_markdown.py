"""The page of the demo and of the baselines as Markdown: the same sentences and tables, for a pull request or a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ibpo.evaluation.page_tables import Cell, TableData
from ibpo.evaluation.report_parts import MERITS, NO_BREAK, percent, points

if TYPE_CHECKING:  # report.py imports this file
    from ibpo.evaluation.report import ReportData

Part = Mapping[str, Any]


def report_markdown(data: ReportData, parts: Sequence[Part], about: str, others: TableData) -> str:
    """Title, answer, one set of tables for each experiment, what was run, what it does not show, what others published.

    Args:
        data: The sentences.
        parts: As from `ibpo.evaluation.report_parts.experiment_part`.
        about: What the published numbers are.
        others: The published numbers.
    """
    lines = [f"# {data.title}", "", data.answer, ""]
    for paragraph in data.asked:
        lines += [paragraph, ""]
    for part in parts:
        lines += [f"## {part['title']}", ""]
        for found in _tables(part):
            lines += [found.markdown(), ""]
    lines += ["## What was run", "", *(f"- {label}: {value}" for label, value in data.what_ran), ""]
    lines += ["## What this does not show", "", *(f"- {limit}" for limit in data.limits), ""]
    lines += ["## Published by others", "", about, "", others.markdown()]
    return "\n".join(lines)


def _tables(part: Part) -> list[TableData]:
    head = [
        "method",
        "q+",
        "accuracy ± stderr",
        "extended share",
        "mean tokens",
        "cost",
        "above random mix",
        "truncated",
    ]
    methods = [
        [
            row["method"],
            _budget(row["budget"]),
            f"{percent(row['accuracy'])} ± {100 * row['stderr']:.1f}",
            percent(row["extended_share"]),
            f"{row['mean_tokens']:.1f}",
            f"{row['relative_cost']:.2f} ×",
            points(row["above_mix"]),
            percent(row.get("truncated_share")),
        ]
        for row in part["rows"]
    ]
    spread = "smallest to largest seed" if part["num_seeds"] > 1 else "95 % interval"
    seeds = f", means over {part['num_seeds']} seeds" if part["num_seeds"] > 1 else ""
    found = [_table(f"All methods, {part['rows'][0]['num_problems']} unseen problems{seeds}", head, methods)]
    if part["merits"]:
        kept = [
            [
                _budget(one["budget"]),
                one["variant"],
                *(one[key] for key in ("share", "share_error", "in_training", "binds")),
            ]
            for one in part["merits"]
        ]
        head = ["q+", "choice", "share on unseen", "error, points", "in training", "binds?"]
        found.append(_table(f"Budget kept; in brackets: {spread}", head, kept))
        merits = [
            [f"{_budget(one['budget'])}, {one['variant']}", *(one[key] for key in MERITS)] for one in part["merits"]
        ]
        found.append(_table(f"Figures of merit; in brackets: {spread}", ["q+", *MERITS.values()], merits))
    if part["areas"]:
        areas = [[one[key] for key in ("name", "costs", "area", "mix")] for one in part["areas"]]
        head = ["curve", "costs", "area", "random mix, same costs"]
        found.append(_table(f"Area under accuracy against cost; in brackets: {spread}", head, areas))
    return found


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> TableData:
    texts = [[text.replace(NO_BREAK, " ") for text in row] for row in rows]
    return TableData(caption=caption, head=head, rows=[[Cell(text=text, sort=text) for text in row] for row in texts])


def _budget(budget: float | None) -> str:
    return "" if budget is None else f"{100 * budget:.0f} %"
