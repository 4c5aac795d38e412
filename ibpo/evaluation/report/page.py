"""The page of an evaluation: one self-contained HTML file, and the same as Markdown, figures and JSON.

`ibpo report`, the demo and the baselines make the same page: each part is a comparison with its figures, tables, notes
and example responses; only what a part is made of differs (`comparison_part`, `methods_part`). What a reader wants to
know first stands first (`first_words`): was a budget kept, what would half of it buy, which problems want the money? It
is the verdict that `ibpo allocate` gives of the same responses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ibpo.budget import cost_text
from ibpo.data import Log
from ibpo.errors import IbpoError
from ibpo.evaluation.comparison import splits_of_report
from ibpo.evaluation.log_allocation import Answer, answer_questions, questions
from ibpo.evaluation.log_parts import LogPart, part_of_log
from ibpo.evaluation.log_verdict import verdict
from ibpo.evaluation.methods import mean_over_seeds
from ibpo.evaluation.report import figures
from ibpo.evaluation.report.tables import TableData, dash_notes, methods_tables, published, tables_of
from ibpo.evaluation.responses import Responses, natural, with_levels
from ibpo.evaluation.run_facts import share_in_training
from ibpo.evaluation.statistics import number_problems
from ibpo.markdown import markdown_text
from ibpo.runs import atomic_path, cannot_write, number_equal_names, write_text_atomic

MAX_CHARACTERS = 1500
MAX_SLUG = 100
"""Characters of a part's name that the names of its figures have."""
MAX_EXAMPLES = 4
"""Configurations of which example responses are shown."""
Json = dict[str, Any]
Draw = Callable[[Sequence[Path]], None]
WORDS = {
    "pass@1": "The chance that one response is right: the mean over problems of the share of right responses.",
    "pass@k, maj@k": "The chance that one of k responses is right; that the most frequent answer of k responses is "
    "right, ties split evenly. k responses cost k times as much.",
    "Random mix": "Answering a part of the problems, drawn blindly, by one configuration and the rest by another.",
    "Gain ratio": "Gain of accuracy over one standard response, divided by what voting over standard responses "
    "(self-consistency) gains at the same cost. Above 1: better than voting. Empty where voting was not measured at "
    "that cost, or gains nothing to speak of.",
    "Oracle share": "Of what choosing by level (by problem, where levels have no names) between the cheapest and "
    "the most expensive configuration could gain over a blind draw at the same cost, the part that a configuration "
    "gains. 0 is a blind draw, 1 the best choice by level; more is possible, by choosing well within levels or by "
    "better responses. One half of the responses decides the oracle's choice, the other half values it.",
    "By its own responses": "The same between the trained policy's own forced responses, so that only its choice "
    "counts.",
    "Rank correlation": "Whether the levels that gain more got more budget: 1 in the same order, 0 unrelated, −1 "
    "reversed.",
    "Wasted": "Share of the extended responses spent on levels where they gain next to nothing (under 3 points), "
    "because the problems are too easy or hopeless; beside it, what a blind draw would spend there.",
    "Erosion": "How accuracy changed in training where the response group is forced, in percentage points ± paired "
    "standard error. Below zero: training cost something.",
    "Retained": "Accuracy as a part of what answering everything extended gets.",
    "Area under accuracy against cost": "The mean accuracy over all mean costs between two ends, mixing a curve's "
    "own points as is best. A curve has no area beyond the costs at which it was measured; beside it stands the "
    "random mix between the same ends.",
    "Held out": "Half of each problem's responses decide which configuration it gets; the other half says what that "
    "is worth. An allocation valued on the responses that decided it looks better than it is.",
}
"""What the page explains; a part says which of them it needs."""
COMPARISON_WORDS = ("pass@1", "pass@k, maj@k", "Gain ratio", "Oracle share", "Area under accuracy against cost",
                    "Random mix", "Held out")  # fmt: skip
METHODS_WORDS = tuple(word for word in WORDS if word not in ("pass@1", "pass@k, maj@k", "Held out"))


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFigure:
    """One figure."""

    key: str
    caption: str
    spoken: str
    """The same in words, for those who cannot see it."""
    draw: Draw
    is_wide: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One response to show."""

    configuration: str
    kind: str
    problem: str
    level: str
    prompt: str
    completion: str
    is_right: bool
    cost: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PagePart:
    """One comparison of the page."""

    name: str
    intro: str
    figures: Sequence[PageFigure]
    tables: Sequence[TableData]
    notes: Sequence[str] = ()
    examples: Sequence[Example] = ()
    words: Sequence[str] = METHODS_WORDS
    """Of `WORDS`."""
    cost_unit: str = "tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class PageData:
    """What the page says. All texts are plain text; nothing is read as HTML."""

    title: str
    answer: str
    """One or two sentences with the measured numbers."""
    parts: Sequence[PagePart]
    what_ran: Sequence[tuple[str, str]]
    """(label, value): command, seeds, versions, times, numbers of problems."""
    limits: Sequence[str]
    """What this does not show, among them every error that is designed into the data."""
    asked: Sequence[str] = ()
    """Paragraphs: what was asked, in plain words."""
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Part -> its plain data, for the JSON file; empty: there is none."""


def write_page(folder: Path, data: PageData, name: str = "report") -> list[Path]:
    """Write `NAME.html`, `NAME.md`, each figure as PNG and SVG under `figures/`, and `NAME.json` where there is data.

    Returns:
        What was written; each file is whole or absent.

    Raises:
        IbpoError: where the disk is full or the folder cannot be written.
    """
    try:
        return _write(folder, data, name)
    except OSError as error:
        raise cannot_write(folder, error) from None


def _write(folder: Path, data: PageData, name: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    shown, written = [], []
    slugs = _slugs([part.name for part in data.parts])
    markdown = [f"# {markdown_text(data.title)}", "", markdown_text(data.answer), ""]
    for paragraph in data.asked:
        markdown += [markdown_text(paragraph), ""]
    for number, (part, slug) in enumerate(zip(data.parts, slugs, strict=True)):
        markdown += [f"## {markdown_text(part.name)}", ""] if part.name else []
        drawn = []
        for figure in part.figures:
            file = "_".join(filter(None, (figure.key, slug)))
            written += _draw([folder / "figures" / f"{file}{suffix}" for suffix in (".png", ".svg")], figure.draw)
            svg = written[-1].read_text(encoding="utf-8")
            drawn.append((figure, figures.inline_svg(f"p{number}{figure.key}", svg, figure.spoken)))
            markdown += [
                f"![{markdown_text(figure.spoken)}](figures/{file}.png)",
                "",
                markdown_text(figure.caption),
                "",
            ]
        for table in part.tables:
            markdown += [table.markdown(), ""]
        markdown += [f"- {markdown_text(note)}" for note in part.notes] + [""] * bool(part.notes)
        shown.append({"key": f"p{number}", "part": part, "figures": drawn})
    about, others = published()
    used = {word for part in data.parts for word in part.words}
    environment = Environment(
        loader=PackageLoader("ibpo.evaluation.report", "."), autoescape=True, undefined=StrictUndefined
    )
    html = environment.get_template("page.html.j2").render(
        data=data,
        shown=shown,
        words={word: text for word, text in WORDS.items() if word in used},
        published=others,
        published_about=about,
    )
    markdown += [
        "## What was run",
        "",
        *(f"- {markdown_text(f'{label}: {value}')}" for label, value in data.what_ran),
        "",
    ]
    markdown += ["## What this does not show", "", *(f"- {markdown_text(limit)}" for limit in data.limits), ""]
    markdown += ["## Published by others", "", markdown_text(about), "", others.markdown()]
    files = {f"{name}.html": html, f"{name}.md": "\n".join(markdown)}
    if data.numbers:
        head = {"title": data.title, "parts": data.numbers}
        what_ran: dict[str, str] = {}
        for label, value in data.what_ran:  # two runs may have a label in common
            what_ran[label] = f"{what_ran[label]}; {value}" if label in what_ran else value
        tail = {"what_ran": what_ran, "limits": list(data.limits)}
        files[f"{name}.json"] = json.dumps(head | tail, indent=1) + "\n"
    for file, text in files.items():
        write_text_atomic(folder / file, text)
        written.append(folder / file)
    return written


def _slugs(names: Sequence[str]) -> list[str]:
    """What the parts are called in names of files, each otherwise.

    Example:
        >>> _slugs(["", "a/b", "a b", "A.b"]), _slugs(["模型甲", "模型乙"])
        (['', 'a_b', 'a_b_2', 'A.b'], ['', '2'])
    """
    return number_equal_names([re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:MAX_SLUG].strip("_") for name in names])


def _draw(paths: Sequence[Path], draw: Draw) -> Sequence[Path]:
    with ExitStack() as stack:
        draw([stack.enter_context(atomic_path(path)) for path in paths])
    return paths


def comparison_part(name: str, part: Json, examples: Sequence[Example] = ()) -> PagePart:
    """A part of `ibpo report`.

    Args:
        name: Of the task or model; "" where there is only one.
        part: As from `compare`, with `cost_unit` and `training` (`ibpo.evaluation.run_facts`).
        examples: As from `pick_examples`.
    """
    left_out = part["num_left_out"]
    more = f" ({left_out} that not every configuration answered are left out)" if left_out else ""
    return PagePart(
        name=name,
        intro=f"Higher and further left is better. {part['num_problems']} problems{more}; costs are relative to "
        f"{part['standard']}.",
        figures=_comparison_figures(part),
        tables=tables_of(part),
        notes=part["notes"],
        examples=examples,
        words=COMPARISON_WORDS,
        cost_unit=part["cost_unit"],
    )


def _comparison_figures(part: Json) -> list[PageFigure]:
    """Each figure that there is something to show in."""

    def one(key: str, caption: str, spoken: str, draw: Draw) -> PageFigure:
        return PageFigure(key=key, caption=caption, spoken=spoken, draw=draw, is_wide=key == "training")

    found = [
        one(
            "tradeoff",
            "Accuracy against cost; bars are 95 % intervals, clustered by problem. Grey: what answering a random part "
            "of the problems by the more expensive configuration gets. Dashed: choosing by problem or level, decided "
            "by one half of the responses and valued on the other.",
            figures.spoken_tradeoff(part),
            partial(figures.plot_tradeoff, part),
        )
    ]
    levels = part["levels"]
    for key, metric, rows, axis, caption in (
        ("levels", "pass@1", part["configurations"], "Accuracy (pass@1)", "Accuracy by level, 95 % intervals."),
        (
            "choices",
            "extended_share",
            figures.choosing(part),
            "Extended share",
            "Who got the budget: extended share by level of policies that choose by themselves, 95 % intervals.",
        ),
    ):
        if rows and len(levels) > 1:
            values = figures.by_level(rows, levels, metric)
            rates = {name: {level: one["value"] for level, one in of.items()} for name, of in values.items()}
            spoken = figures.spoken_by_level(f"{axis} by level", rates)
            found.append(one(key, caption, spoken, partial(figures.plot_by_level, values, levels, axis)))
    if shares := part["share_by_level"]:
        caption = "Which configuration each level's problems get under the middle budget, as all responses decide."
        spoken = figures.spoken_by_level("Share of each configuration by level", shares)
        found.append(one("shares", caption, spoken, partial(figures.plot_shares, part)))
    if kept := part["budget_kept"]:
        caption = "Was the budget kept? Extended share on unseen problems, and in training, minus the budget."
        found.append(one("kept", caption, figures.spoken_kept(kept), partial(figures.plot_kept, kept)))
    if steps := part["training"]:
        draw = partial(figures.plot_training, [step | {"seed": step["configuration"]} for step in steps])
        found.append(one("training", TRAINING, figures.spoken_training(steps), draw))
    return found


TRAINING = (
    "Share and price over training. The price is what the last unit of budget buys: the reward margin below which no "
    "extended response was worth its share; at 0 the budget does not bind. Dashed: the budgets."
)


def methods_part(
    name: str,
    title: str,
    rows: Sequence[Json],
    merits: Sequence[Json],
    areas: Sequence[Json] = (),
    training: Sequence[Json] = (),
    examples: Sequence[Example] = (),
) -> PagePart:
    """An experiment of the demo or of the baselines, means over its seeds.

    Args:
        name: The experiment.
        title: Its title.
        rows: `ibpo.evaluation.methods.Methods.rows` of all its seeds.
        merits: Its figures of merit, of all seeds.
        areas: Its areas under accuracy against cost, of all seeds.
        training: One entry per step of each policy: `seed, budget, step, share, price`.
        examples: As from `pick_examples`.
    """
    merged, titles = mean_over_seeds(rows), {name: title}
    num_seeds = max(row["num_seeds"] for row in merged)
    steps: dict[tuple[float, int], list[Json]] = {}
    for step in training:
        steps.setdefault((step["budget"], step["seed"]), []).append(step | {"configuration": ""})
    share = {policy: share_in_training(own, "") for policy, own in sorted(steps.items())}
    trained: dict[float, list[float]] = {}
    for (budget, _), found_there in share.items():
        trained.setdefault(budget, []).extend([] if found_there is None else [found_there])
    kept = [
        {
            "name": f"IBPO {one['variant']}",
            "budget": one["budget"],
            "share": dict(zip(("low", "high"), one["share_interval"] or (None, None), strict=True))
            | {"value": one["share"]},
            "in_training": share.get((one["budget"], one["seed"])) if one["variant"] == "sampled" else None,
        }
        for one in merits
    ]
    seeds = f"; means over {num_seeds} seeds" if num_seeds > 1 else ""
    found = [
        PageFigure(
            key="frontier",
            caption=f"{title}. Bars: 95 % intervals, clustered by problem; percentages beside the marks: the budget q+"
            f"{seeds}. Grey: a blind draw of prompts at the same cost; dashed: the best choice by level with the cold "
            "start's responses. Self-consistency goes on to the right of what is shown.",
            spoken=figures.spoken_frontier(merged),
            draw=lambda out: figures.plot_frontier(rows, out, titles),
        ),
        PageFigure(
            key="share_by_level",
            caption="Who got the budget. Bars: the share of each level's problems that was answered extended. Outline: "
            "what an extended response gains there over a standard one. Policies never see the level.",
            spoken=figures.spoken_by_level(
                "Extended share by level",
                {
                    figures.spoken_name(row): row["share_by_level"]
                    for row in merged
                    if row["method"] in ("IBPO sampled", "IBPO calibrated")
                },
            ),
            draw=lambda out: figures.plot_share_by_level(rows, out, titles),
        ),
    ]
    if merits:
        found.append(
            PageFigure(
                key="kept",
                caption="Was the budget kept? One mark per seed, with its 95 % interval: the share's distance from the "
                "budget q+, the largest share of prompts that may be answered extended. “Sampled” lets the policy "
                "choose; “calibrated” puts a threshold on its choice, set on other prompts without using any answer. "
                "In training: the policy's own choices over the last tenth of the steps.",
                spoken=figures.spoken_kept(kept),
                draw=partial(figures.plot_kept, kept),
            )
        )
    if training:
        spoken = "Extended share and price of the budget at each training step, one line per policy."
        draw = partial(figures.plot_training, training)
        found.append(PageFigure(key="training", caption=TRAINING, spoken=spoken, draw=draw, is_wide=True))
    return PagePart(
        name=title,
        intro="Higher and further left is better. A budget binds if extended responses gain something on more problems "
        "than it allows; where it does not, spending less is right."
        + ("" if merits else " No policy here was trained to keep a budget."),
        figures=found,
        tables=methods_tables(rows, merits, areas, trained),
        notes=dash_notes(merits),
        examples=examples,
    )


def answer_of(parts: Mapping[str, Json]) -> str:
    """Some comparisons in a few sentences, of measured numbers only; what to do comes first."""
    texts = []
    for name, part in list(parts.items())[:2]:
        rows = {row["name"]: row for row in part["configurations"]}
        standard = rows[part["standard"]]
        best = max(rows.values(), key=lambda row: row["numbers"]["overall"]["all"]["pass@1"]["value"])
        head = f"{name + ': ' if name else ''}{' '.join(part.get('first_words', ()))} ".lstrip()
        text = f"{head}{standard['name']} is right on {_accuracy(standard)}"
        if best is not standard:
            times = best["relative_cost"]["value"]
            cost = f"{cost_text(best['cost']['value'])} {part['cost_unit']}"  # beside what costs nothing
            text += (
                f", {best['name']} on {_accuracy(best)} at {cost if times is None else f'{times:.1f} times the cost'}"
            )
        if part["allocation"]:
            middle = part["allocation"][len(part["allocation"]) // 2]
            text += (
                f"; with {cost_text(middle['spent'])} {part['cost_unit']} a response, choosing by problem gets"
                f"{_on_some(part)} "
                f"{middle['reward']:.1%} on responses that had no say, a random mix {middle['random_mix']:.1%}"
            )
        texts.append(text + ".")
    return " ".join(texts)


def _accuracy(row: Json) -> str:
    return f"{row['numbers']['overall']['all']['pass@1']['value']:.1%}"


def _on_some(part: Json) -> str:
    """Of which problems a held-out value is, where that is not all of them."""
    num = part.get("num_held_out") or part["num_problems"]
    return (
        f", on the {num} of {part['num_problems']} problems with two responses of each,"
        if num < part["num_problems"]
        else ""
    )


def pick_examples(responses: Responses, names: Sequence[str]) -> list[Example]:
    """Responses of each configuration to an easy and a hard problem: the one most, and the one least often solved.

    Of the problems that are sometimes solved, if there are any; the first response of each.
    """
    if not any(responses.completion.tolist()):
        return []
    names_P, p_N = number_problems(responses.problem)
    mean_P = np.bincount(p_N, responses.reward) / np.bincount(p_N)
    solved = dict(zip(names_P.tolist(), mean_P.tolist(), strict=True))
    problems = sorted(solved, key=natural)
    hard = min((p for p in problems if solved[p] > 0), key=lambda p: solved[p], default=problems[0])
    easy = max(problems, key=lambda p: solved[p])
    examples = []
    for kind, problem in (("easy", easy), ("hard", hard)):
        of_it_N = p_N == names_P.tolist().index(problem)
        for name in list(names)[:MAX_EXAMPLES]:
            own = responses.where(of_it_N & (responses.configuration == name))
            if not len(own) or not own.completion[0]:
                continue
            examples.append(
                Example(
                    configuration=name,
                    kind=f"{kind} (solved {solved[problem]:.0%})",
                    problem=problem,
                    level=str(own.level[0]),
                    prompt=_short(str(own.prompt[0])),
                    completion=_short(str(own.completion[0])),
                    is_right=bool(own.reward[0] >= 0.5),
                    cost=None if own.tokens[0] != own.tokens[0] else float(own.tokens[0]),
                )
            )
        if easy == hard:
            break
    return examples


def _short(text: str) -> str:
    more = len(text) - MAX_CHARACTERS
    return text if more <= 0 else f"{text[:MAX_CHARACTERS]} … ({more:,} more characters)"


MOST = 0.8
"""The problems that are named take this part of what is spent above the cheapest response group."""
MAX_SHOWN = 5


def first_words(responses: Responses, part: Json, unit: str, *, num_splits: int | None, seed: int) -> list[str]:
    """The first sentences of a report on some responses, of measured numbers only.

    Args:
        responses: All of the part.
        part: As from `compare`.
        unit: Of the costs.
        num_splits: Random halvings; None: `splits_of_report`.
        seed: Of the halvings.
    """
    kept = [_kept(row["name"], row["budget"], row["share"]) for row in part["budget_kept"]]
    gathered = _gather(responses, part["among"], unit)
    if gathered is None:
        return [*kept, f"What half of the {unit} would buy is not known: it takes two ways of answering to choose."]
    [asked] = questions(["0.5x"], cost=unit)[1:2]
    num_splits = splits_of_report(num_splits, len(gathered.problems))
    try:
        [answer] = answer_questions(
            gathered, [asked], holdout=None, num_splits=num_splits, seed=seed, say=lambda _: None
        )
    except IbpoError:
        if not gathered.now()[1]:
            return [*kept, f"All of it costs nothing today: there are no {unit} to save."]
        cheapest = float(gathered.cost.mean(0).min()) / gathered.now()[1]
        return [*kept, f"Half of today's {unit} is not possible: the cheapest way of answering takes {cheapest:.0%}."]
    text = verdict(gathered, answer).text.removeprefix(f"{asked.label}: ")
    return [*kept, f"At half of today's {unit}: {text}", _wants(gathered, answer)]


def _kept(name: str, budget: float, share: Json) -> str:
    allowed = f"{budget:.1%} allowed"
    if share["low"] is None:  # of one problem there is no interval
        return f"Whether {name} kept its budget is not known: {share['value']:.1%} on one problem, {allowed}."
    said = f"{share['value']:.1%} of its responses extended (95 %: {share['low']:.1%} to {share['high']:.1%})"
    if share["value"] <= budget * (1 + 1e-9):  # a mean of thirds rounds
        return f"{name} kept its budget: {said}, {allowed}."
    if share["low"] > budget:
        return f"{name} did not keep its budget: {said}, {allowed}."
    return f"Whether {name} kept its budget is not known: {said}, {allowed}."


def _gather(responses: Responses, among: list[str], unit: str) -> LogPart | None:
    """The responses between which an allocation could choose, as `ibpo allocate` gathers them; None: there are none."""
    responses = with_levels(responses)
    own = responses.where(np.isin(responses.configuration.astype(str), among) & ~np.isnan(responses.tokens))
    if len(set(own.configuration.tolist())) < 2:
        return None
    columns = {"problem": "problem", "response_group": "configuration", "reward": "accuracy", "cost": unit}
    log = Log(
        problem=own.problem.astype(str).tolist(),
        response_group=own.configuration.astype(str).tolist(),
        reward=own.reward,
        cost=own.tokens,
        part=[""] * len(own),
        shown=own.level.astype(str).tolist(),
        columns=columns | ({"show": "level"} if any(own.level.tolist()) else {}),
        guessed=(),
    )
    try:
        return part_of_log("", log, lambda _: None)
    except IbpoError:
        return None


def _wants(part: LogPart, answer: Answer) -> str:
    """Which problems get more than the cheapest response group under this budget."""
    cheapest = int(part.cost.mean(0).argmin())
    every = np.arange(len(part.problems))
    extra = np.maximum(part.expected_cost[every, answer.pick] - part.expected_cost[:, cheapest], 0.0)
    total = float(extra.sum())
    if not total:
        return f"No problem wants more than {part.groups[cheapest]} there."
    order = np.argsort(-extra, kind="stable")
    num = 1 + int(np.searchsorted(np.cumsum(extra[order]), MOST * total * (1 - 1e-12)))
    text = f"{MOST:.0%} of what that spends above {part.groups[cheapest]} goes to {num} of {len(every)} problems"
    shares = _by_level(part, extra > 0)
    if shares:
        told = ", ".join(f"{level}: {share:.0%}" for level, share in shares)
        return f"{text}; by level, the problems that get more than {part.groups[cheapest]}: {told}."
    shown = [str(part.problems[p]) for p in order[: min(num, MAX_SHOWN)].tolist()]
    return f"{text}: {', '.join(shown)}{', ...' if num > len(shown) else '.'}"


def _by_level(part: LogPart, more: Any) -> list[tuple[str, float]]:
    """Level -> share of its problems; of many levels the first and the last by that share."""
    if part.shown is None:
        return []
    there = {part.shown.names[code]: code for code in set(part.shown.code.tolist())}
    names = sorted(set(there) - {""}, key=natural)
    found = [(name, float(more[part.shown.code == there[name]].mean())) for name in names]
    found.sort(key=lambda one: -one[1])  # stable: levels of one share in their order
    return found if len(found) <= MAX_SHOWN else [*found[: MAX_SHOWN - 1], found[-1]]
