"""`ibpo report`: one self-contained page, and the same as Markdown, JSON and pictures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ibpo.errors import IbpoError
from ibpo.evaluation.describe import natural
from ibpo.evaluation.page_figures import (
    choosing,
    plot_choices,
    plot_kept,
    plot_levels,
    plot_shares,
    plot_tradeoff,
    plot_training_of,
    spoken_choices,
    spoken_kept,
    spoken_levels,
    spoken_shares,
    spoken_tradeoff,
    spoken_training,
)
from ibpo.evaluation.page_tables import published_table, tables_of
from ibpo.evaluation.published import published
from ibpo.evaluation.report_parts import inline_svg
from ibpo.evaluation.responses import Responses
from ibpo.runs import write_text_atomic

MAX_CHARACTERS = 1500
MAX_EXAMPLES = 4
"""Configurations of which example responses are shown."""
Json = dict[str, Any]
Draw = Callable[[Path | IO[bytes]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PageData:
    """What the page says; all texts are plain text."""

    title: str
    parts: Mapping[str, Json]
    """Name -> as from `contrast`, with `cost_unit`, `examples` and `training` (`ibpo.evaluation.run_facts`)."""
    what_ran: Sequence[tuple[str, str]]
    limits: Sequence[str]


def write_page(out: Path, data: PageData) -> list[Path]:
    """Write `report.html`, `report.md`, `report.json`, and each figure as PNG and SVG under `figures/`.

    Returns:
        What was written; each file is whole or absent.

    Raises:
        IbpoError: where the disk is full or the folder cannot be written.
    """
    try:
        return _write(out, data)
    except OSError as error:
        said = error.strerror or str(error)
        raise IbpoError(f"{out}: cannot be written: {said}; make room, or name another folder by --out") from None


def _write(out: Path, data: PageData) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    environment = Environment(loader=PackageLoader("ibpo.evaluation", "."), autoescape=True, undefined=StrictUndefined)
    about, rows = published()
    shown, written, markdown = [], [], [f"# {data.title}", "", answer(data), ""]
    for number, (name, part) in enumerate(data.parts.items()):
        figures = []
        slug = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_")
        markdown += [f"## {name}", ""] if name else []
        for key, caption, spoken, draw in _figures(part):
            file = "_".join(filter(None, (key, slug)))
            for suffix in (".png", ".svg"):
                path = out / "figures" / f"{file}{suffix}"
                path.parent.mkdir(exist_ok=True)
                partial = path.with_name(f".{path.name}")
                try:
                    draw(partial)
                    os.replace(partial, path)
                finally:
                    partial.unlink(missing_ok=True)
                written.append(path)
            figures.append((key, caption, inline_svg(f"p{number}{key}", draw, spoken)))
            markdown += [f"![{spoken}](figures/{file}.png)", "", f"{caption}", ""]
        tables = tables_of(part)
        for table in tables:
            markdown += [table.markdown(), ""]
        markdown += [f"- {note}" for note in part["notes"]] + [""] * bool(part["notes"])
        shown.append({"key": f"p{number}", "name": name, "part": part, "figures": figures, "tables": tables})
    table = published_table(rows)
    html = environment.get_template("page.html.j2").render(
        data=data, answer=answer(data), shown=shown, published=table, published_about=about
    )
    markdown += ["## What was run", "", *(f"- {label}: {value}" for label, value in data.what_ran), ""]
    markdown += ["## What this does not show", "", *(f"- {limit}" for limit in data.limits), ""]
    markdown += ["## Published by others", "", about, "", table.markdown()]
    files = {
        "report.html": html,
        "report.md": "\n".join(markdown),
        "report.json": json.dumps(
            {"title": data.title, "parts": data.parts, "what_ran": dict(data.what_ran), "limits": list(data.limits)},
            indent=1,
        )
        + "\n",
    }
    for name, text in files.items():
        write_text_atomic(out / name, text)
        written.append(out / name)
    return written


def answer(data: PageData) -> str:
    """The page in one or two sentences, of measured numbers only."""
    texts = []
    for name, part in list(data.parts.items())[:2]:
        rows = {row["name"]: row for row in part["configurations"]}
        standard = rows[part["standard"]]
        best = max(rows.values(), key=lambda row: row["numbers"]["overall"]["all"]["pass@1"]["value"])
        text = f"{name + ': ' if name else ''}{standard['name']} is right on {_accuracy(standard)}"
        if best is not standard:
            text += f", {best['name']} on {_accuracy(best)} at {best['relative_cost']['value']:.1f} times the cost"
        if part["allocation"]:
            middle = part["allocation"][len(part["allocation"]) // 2]
            text += (
                f"; with {middle['spent']:,.0f} {part['cost_unit']} a response, choosing by problem gets "
                f"{middle['reward']:.1%} on responses that had no say, a random mix {middle['random_mix']:.1%}"
            )
        texts.append(text + ".")
    return " ".join(texts)


def pick_examples(responses: Responses, names: Sequence[str]) -> list[Json]:
    """Responses of each configuration to an easy and a hard problem: the one most, and the one least often solved.

    Of the problems that are sometimes solved, if there are any; the first response of each.
    """
    if not any(responses.completion.tolist()):
        return []
    problems = sorted(set(responses.problem.astype(str).tolist()), key=natural)
    solved = {p: float(responses.reward[responses.problem.astype(str) == p].mean()) for p in problems}
    hard = min((p for p in problems if solved[p] > 0), key=lambda p: solved[p], default=problems[0])
    easy = max(problems, key=lambda p: solved[p])
    examples = []
    for kind, problem in (("easy", easy), ("hard", hard)):
        for name in list(names)[:MAX_EXAMPLES]:
            mask = (responses.problem.astype(str) == problem) & (responses.configuration == name)
            own = responses.where(mask)
            if not len(own) or not own.completion[0]:
                continue
            examples.append(
                {
                    "kind": f"{kind} (solved {solved[problem]:.0%})",
                    "problem": problem,
                    "configuration": name,
                    "level": str(own.level[0]),
                    "prompt": _short(str(own.prompt[0])),
                    "completion": _short(str(own.completion[0])),
                    "is_right": bool(own.reward[0] >= 0.5),
                    "cost": None if own.tokens[0] != own.tokens[0] else float(own.tokens[0]),
                }
            )
        if easy == hard:
            break
    return examples


def _accuracy(row: Json) -> str:
    return f"{row['numbers']['overall']['all']['pass@1']['value']:.1%}"


def _short(text: str) -> str:
    more = len(text) - MAX_CHARACTERS
    return text if more <= 0 else f"{text[:MAX_CHARACTERS]} … ({more:,} more characters)"


def _figures(part: Json) -> list[tuple[str, str, str, Draw]]:
    """(key, caption, words for those who cannot see it, drawing) of each figure that there is something to show in."""
    found: list[tuple[str, str, str, Draw]] = [
        (
            "tradeoff",
            "Accuracy against cost; bars are 95 % intervals, clustered by problem. Grey: what answering a random part "
            "of the problems by the dearer configuration gets. Dashed: choosing by problem or by level, decided by one "
            "half of the responses and valued on the other.",
            spoken_tradeoff(part),
            lambda out: plot_tradeoff(part, out),
        )
    ]
    if len(part["levels"]) > 1:
        found.append(
            ("levels", "Accuracy by level, 95 % intervals.", spoken_levels(part), lambda out: plot_levels(part, out))
        )
        if choosing(part):
            caption = (
                "Who got the budget: extended share by level of policies that choose by themselves, 95 % intervals."
            )
            found.append(("choices", caption, spoken_choices(part), lambda out: plot_choices(part, out)))
    if part["share_by_level"]:
        caption = "Which configuration each level's problems get under the middle budget, as all responses decide."
        found.append(("shares", caption, spoken_shares(part["share_by_level"]), lambda out: plot_shares(part, out)))
    if part["budget_kept"]:
        caption = "Was the budget kept? Extended share on unseen problems, and in training, minus the budget."
        found.append(("kept", caption, spoken_kept(part["budget_kept"]), lambda out: plot_kept(part, out)))
    if part["training"]:
        caption = (
            "Share and price over training. The price is what the last unit of budget buys: the reward margin below "
            "which no extended response was worth its share; at 0 the budget does not bind. Dashed: the budgets."
        )
        found.append(("training", caption, spoken_training(part["training"]), lambda out: plot_training_of(part, out)))
    return found
