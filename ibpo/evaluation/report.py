"""One page that tells what was asked, what was found and what was not: a self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table

from ibpo.evaluation.methods import Json as Row
from ibpo.evaluation.methods import mean_over_seeds
from ibpo.evaluation.page_tables import published_table
from ibpo.evaluation.published import published
from ibpo.evaluation.report_markdown import report_markdown
from ibpo.evaluation.report_parts import FILTERS, MERITS, Merit, experiment_part
from ibpo.evaluation.responses import Responses
from ibpo.runs import write_text_atomic


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One response to show."""

    experiment: str
    response_group: str
    level: str
    prompt: str
    response: str
    is_right: bool
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """Everything that the page says. All texts are plain text; nothing is read as HTML."""

    title: str
    answer: str
    """One sentence with the measured numbers."""
    asked: Sequence[str]
    """Paragraphs: what was asked, in plain words."""
    experiments: Mapping[str, str]
    """Experiment -> title, in the order of the page."""
    rows: Sequence[Row]
    """`Comparison.rows` of all experiments and seeds."""
    merits: Sequence[Merit]
    """`Comparison.merits` of all experiments and seeds."""
    examples: Sequence[Example]
    """About three of each response group and experiment; `pick_examples` helps."""
    training: Sequence[Mapping[str, Any]]
    """One entry per step: `experiment, seed, budget, step, share, price`; empty leaves the section short."""
    what_ran: Sequence[tuple[str, str]]
    """(label, value): command, seeds, versions, times, numbers of problems."""
    limits: Sequence[str]
    """What this does not show, among them every error that is designed into the data."""
    areas: Sequence[Mapping[str, Any]] = ()
    """`Comparison.areas` of all experiments and seeds."""


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, and the same as Markdown beside it; it loads nothing from anywhere.

    Args:
        path: The HTML file; the Markdown file has its name and the suffix `.md`. Each is whole or absent.
        data: What it says.
    """
    environment = Environment(loader=PackageLoader("ibpo.evaluation", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters |= FILTERS
    parts = []
    for number, (name, title) in enumerate(data.experiments.items()):
        own = [row for row in data.rows if row["experiment"] == name]
        if own:
            judged = [merit for merit in data.merits if merit["experiment"] == name]
            steps = [step for step in data.training if step["experiment"] == name]
            areas = [area for area in data.areas if area["experiment"] == name]
            part = experiment_part(f"e{number}", name, title, own, judged, steps, areas)
            parts.append(part | {"examples": [e for e in data.examples if e.experiment == name]})
    about, rows = published()
    others = published_table(rows)
    html = environment.get_template("report.html.j2").render(
        data=data, parts=parts, merit_names=MERITS, published=others, published_about=about
    )
    write_text_atomic(path, html)
    write_text_atomic(path.with_suffix(".md"), report_markdown(data, parts, about, others))


def pick_examples(
    experiment: str, standard: Responses, extended: Responses, levels: Sequence[str], count: int = 3
) -> list[Example]:
    """Responses of both response groups to the same problems: one problem each of levels spread from first to last.

    Args:
        experiment: Its name.
        standard: Forced standard responses, as from `load_responses`.
        extended: Forced extended responses.
        levels: Levels, easiest first.
        count: Problems to show.

    Returns:
        `2 * count` examples or less; of each level the first problem that both answered, its first response.
    """
    picked = (
        levels if len(levels) <= count else [levels[round(i * (len(levels) - 1) / (count - 1))] for i in range(count)]
    )
    first = [{name: i for i, name in reversed(list(enumerate(one.problem.tolist())))} for one in (standard, extended)]
    examples = []
    for level in picked:
        both = [p for p, i in first[0].items() if standard.level[i] == level and p in first[1]]
        for name, columns, index in zip(("standard", "extended"), (standard, extended), first, strict=True):
            for problem_id in sorted(both)[:1]:
                i = index[problem_id]
                examples.append(
                    Example(
                        experiment=experiment,
                        response_group=name,
                        level=level,
                        prompt=str(columns.prompt[i]),
                        response=str(columns.completion[i]),
                        is_right=bool(columns.reward[i] >= 0.5),
                        tokens=int(columns.tokens[i]),
                    )
                )
    return examples


def terminal_table(rows: Iterable[Row]) -> Table:
    """A short table for the end of a run: means over seeds; of self-consistency only the cost next to IBPO's."""
    merged = mean_over_seeds(rows)
    table = Table(title="Unseen problems: accuracy against cost", title_justify="left")
    for name in ("experiment", "method"):
        table.add_column(name, overflow="fold")
    for name in ("budget", "accuracy", "extended share", "cost"):
        table.add_column(name, justify="right", no_wrap=name != "extended share")
    last = None
    for row in merged:
        if "forced" in row["method"] or ("self-consistency" in row["method"] and not _is_next_to_ibpo(row, merged)):
            continue
        table.add_row(
            row["experiment"] if row["experiment"] != last else "",
            row["method"],
            "" if row["budget"] is None else f"{row['budget']:.0%}",
            f"{row['accuracy']:.1%} ± {100 * row['stderr']:.1f}",
            f"{row['extended_share']:.1%}",
            f"{row['relative_cost']:.2f}×",
            style="bold" if row["method"] == "IBPO calibrated" else None,
        )
        last = row["experiment"]
    return table


def _is_next_to_ibpo(row: Row, rows: Sequence[Row]) -> bool:
    """Of an untrained model's maj@k, k > 1, the one whose cost is nearest to that of the middle calibrated policy."""
    if "(IBPO)" in row["method"] or "(RAFT)" in row["method"]:
        return False
    same = [r for r in rows if r["experiment"] == row["experiment"]]
    family = row["method"].rsplit("@", 1)[0]
    votes = [r for r in same if r["method"].startswith(family) and not r["method"].endswith("maj@1")]
    costs = sorted(r["relative_cost"] for r in same if r["method"] == "IBPO calibrated")
    middle = costs[len(costs) // 2] if costs else 1.0
    return bool(votes) and row is min(votes, key=lambda r: abs(r["relative_cost"] - middle))
