"""The page of an evaluation: one self-contained HTML file, and the same as Markdown, figures and JSON.

`ibpo report`, the demo and the baselines make the same page: each part is a comparison with its figures, tables, notes
and example responses; only what a part is made of differs (`comparison_part`, `methods_part`). What a reader wants to
know first stands first (`ibpo.evaluation.report.lead`): a gain, a loss or no conclusion, and was a budget kept? What
half of today's cost would buy (`conclude`) is the verdict that `ibpo allocate` gives of the same responses.
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

from ibpo.data import Log
from ibpo.errors import IbpoError
from ibpo.evaluation.comparison import splits_of_report
from ibpo.evaluation.log_allocation import Answer, answer_questions, as_shown, questions
from ibpo.evaluation.log_parts import LogPart, part_of_log
from ibpo.evaluation.log_verdict import gain_of_choosing, verdict
from ibpo.evaluation.methods import mean_over_seeds
from ibpo.evaluation.report import figures
from ibpo.evaluation.report.lead import (
    GAIN,
    NONE,
    budget_text,
    gain_text,
    lead_of_comparison,
    more_text,
    verdict_of,
)
from ibpo.evaluation.report.tables import (
    MOST_ROWS,
    TableData,
    dash_notes,
    first_configurations,
    methods_tables,
    published,
    tables_of,
)
from ibpo.evaluation.report.terms import TERMS
from ibpo.evaluation.responses import Responses, natural, with_levels
from ibpo.evaluation.run_facts import share_in_training
from ibpo.evaluation.statistics import number_problems
from ibpo.markdown import markdown_text
from ibpo.runs import atomic_path, cannot_write, number_equal_names, write_text_atomic

MAX_CHARACTERS = 1500
MAX_SLUG = 100
"""Characters of a part's name that the names of its figures have."""
MAX_LINES = 3
"""Parts of which the page begins with what they say."""
MAX_EXAMPLES = 4
"""Configurations of which example responses are shown."""
Json = dict[str, Any]
Draw = Callable[[Sequence[Path]], None]


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
    cost_unit: str = "tokens"
    said: Sequence[str] = ()
    """Sentences on its numbers, beside those that begin the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageData:
    """What the page says. All texts are plain text; nothing is read as HTML."""

    title: str
    answer: str
    """What the measured numbers say, in a few sentences; a line for each part."""
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
    explained: set[str] = set()
    slugs = _slugs([part.name for part in data.parts])
    markdown = [f"# {markdown_text(data.title)}", ""]
    for paragraph in (*data.answer.splitlines(), *data.asked):
        markdown += [markdown_text(paragraph), ""]
    for number, (part, slug) in enumerate(zip(data.parts, slugs, strict=True)):
        markdown += [f"## {markdown_text(part.name)}", ""] if part.name else []
        markdown += [line for said in (*part.said, part.intro) for line in (markdown_text(said), "")]
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
        tables = []
        for table in part.tables:
            new = [term for term in table.terms if term not in explained]
            explained.update(new)
            terms = [(term, TERMS[term], _anchor(term), term in new) for term in table.terms]
            tables.append((table, terms))
            markdown += [table.markdown()]
            markdown += [*(f"- **{markdown_text(term)}**: {markdown_text(TERMS[term])}" for term in new), ""]
        markdown += [f"- {markdown_text(note)}" for note in part.notes] + [""] * bool(part.notes)
        shown.append({"key": f"p{number}", "part": part, "figures": drawn, "tables": tables})
    about, others = published()
    environment = Environment(
        loader=PackageLoader("ibpo.evaluation.report", "."), autoescape=True, undefined=StrictUndefined
    )
    html = environment.get_template("page.html.j2").render(
        data=data,
        shown=shown,
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
        head = {"title": data.title, "answer": data.answer, "parts": data.numbers}
        what_ran: dict[str, str] = {}
        for label, value in data.what_ran:  # two runs may have a label in common
            what_ran[label] = f"{what_ran[label]}; {value}" if label in what_ran else value
        tail = {"what_ran": what_ran, "limits": list(data.limits)}
        files[f"{name}.json"] = json.dumps(head | tail, indent=1) + "\n"
    for file, text in files.items():
        write_text_atomic(folder / file, text)
        written.append(folder / file)
    return written


def _anchor(term: str) -> str:
    """Where a term is explained."""
    return "term-" + re.sub(r"[^a-z0-9]+", "-", term.lower().replace("±", "plus-minus")).strip("-")


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
        name: Name of the task or model; "" where there is only one.
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
        cost_unit=part["cost_unit"],
        said=part.get("first_words", ()),
    )


def _some(part: Json, most: int, most_votes: int) -> Json:
    """As much of a part as a figure can show."""
    rows = [part["configurations"][i] for i in first_configurations(part, most)]
    right = {row["name"]: row["numbers"]["overall"]["all"]["pass@1"]["value"] for row in rows}
    voting = sorted((n for n in right if n in part["votes"]), key=lambda n: (n != part["standard"], -right[n]))
    votes = {name: part["votes"][name] for name in voting[:most_votes]}
    return part | {"configurations": rows, "votes": votes, "every": [row["name"] for row in part["configurations"]]}


def _comparison_figures(part: Json) -> list[PageFigure]:
    """Each figure that there is something to show in."""

    def one(key: str, caption: str, spoken: str, draw: Draw) -> PageFigure:
        return PageFigure(key=key, caption=caption, spoken=spoken, draw=draw, is_wide=key == "training")

    num, drawn = len(part["configurations"]), figures.MOST_DRAWN
    some = _some(part, MOST_ROWS, drawn["votes"])
    few = _some(part, drawn["levels"], 0)["configurations"]
    of_them = (
        f" It shows the {MOST_ROWS} of {num} configurations that the table shows first." if num > MOST_ROWS else ""
    )
    of_few = f" Drawn are {len(few)} of {num} configurations; the tables have all." if len(few) < num else ""
    found = [
        one(
            "tradeoff",
            "Accuracy against cost; bars are 95 % intervals, clustered by problem. Grey: what answering a random part "
            "of the problems by the more expensive configuration gets. Dashed: choosing by problem or level, decided "
            "by one half of the responses and valued on the other." + of_them,
            figures.spoken_tradeoff(some),
            partial(figures.plot_tradeoff, some),
        )
    ]
    levels = part["levels"]
    for key, metric, rows, axis, caption in (
        ("levels", "pass@1", few, "Accuracy (pass@1)", f"Accuracy by level, 95 % intervals.{of_few}"),
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
            found.append(one(key, caption, spoken, partial(figures.plot_by_level, some, values, levels, axis)))
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
    merged, titles = mean_over_seeds(rows), {name: ""}  # the part's heading has it
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
        lines = [
            step | {"configuration": f"q+ {step['budget']:.0%}, seed {step['seed']}"}
            for step in sorted(training, key=lambda step: step["step"])
            if step["budget"] is not None
        ]
        spoken = figures.spoken_training(lines)
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
    """Some comparisons in a few sentences, of measured numbers only: a line for each of the first parts.

    Args:
        parts: Name -> as from `compare`, with what `conclude` says of it.
    """
    lines = [f"{f'{name}: ' if name else ''}{part['lead']['text']}" for name, part in parts.items()]
    more = len(lines) - MAX_LINES
    return "\n".join(lines[:MAX_LINES] + ([f"{more} more parts stand below."] if more > 0 else []))


def pick_examples(responses: Responses, names: Sequence[str]) -> list[Example]:
    """Responses of each configuration to an easy and a hard problem: the one most, and the one least often solved.

    They are drawn from the problems that are sometimes solved, if there are any; the first response of each.
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


def conclude(responses: Responses, part: Json, unit: str, *, num_splits: int | None, seed: int) -> Json:
    """What a report says first of some responses, and next: sentences of measured numbers only.

    Args:
        responses: All of the part.
        part: As from `compare`.
        unit: Unit of the costs.
        num_splits: Random halvings; None: `splits_of_report`.
        seed: Seed of the halvings.

    Returns:
        `lead` (as from `lead_of_comparison`) and `first_words`, the sentences that stand at the head of the part.
    """
    kept = [budget_text(row["name"], row["budget"], row["share"]) for row in part["budget_kept"]]
    choice, said = _choosing(responses, part, unit, num_splits, seed)
    return {"lead": lead_of_comparison(part | {"cost_unit": unit}, choice), "first_words": [*kept, *said]}


def _choosing(responses: Responses, part: Json, unit: str, num_splits: int | None, seed: int) -> tuple[Json, list[str]]:
    """What choosing per problem at half of today's cost gains, as `lead_of_comparison` takes it, and more on it."""

    def nothing(why: str) -> tuple[Json, list[str]]:
        return {"verdict": NONE, "gain": None, "text": f"No conclusion on choosing per problem: {why}"}, [
            why[0].upper() + why[1:]
        ]

    gathered = _gather(responses, part["among"], unit)
    if gathered is None:
        return nothing(f"what half of the {unit} would buy is not known: it takes two ways of answering to choose.")
    [asked] = questions(["0.5x"], cost=unit)[1:2]
    num_splits = splits_of_report(num_splits, len(gathered.problems))
    try:
        [answer] = answer_questions(
            gathered, [asked], holdout=None, num_splits=num_splits, seed=seed, say=lambda _: None
        )
    except IbpoError:
        if not gathered.now()[1]:
            return nothing(f"all of it costs nothing today: there are no {unit} to save.")
        cheapest = float(gathered.cost.mean(0).min()) / gathered.now()[1]
        return nothing(f"half of today's {unit} is not possible: the cheapest way of answering takes {cheapest:.0%}.")
    text = verdict(gathered, answer).text.removeprefix(f"{asked.label}: ")
    return _choice(gathered, answer, unit), [f"At half of today's {unit}: {text}", _wants(gathered, answer)]


def _choice(gathered: LogPart, answer: Answer, unit: str) -> Json:
    """The gain of choosing per problem under one budget, in a sentence or two."""
    found, where, num = gain_of_choosing(gathered, answer), f"with half of today's {unit}", int(gathered.repeats.sum())
    over = "the best mixture that does not look at the problems"
    if found is None:
        why = "no mixture that does not look at the problems keeps to that, to compare with"
        if answer.held_out is None:
            why = "that takes two responses of every configuration to some problems, to hold one out"
        return {"verdict": NONE, "gain": None, "text": f"No conclusion on choosing per problem {where}: {why}."}
    known = np.isfinite([found.low, found.high]).all() and num > 1
    low, high = (found.low, found.high) if known else (None, None)
    gain = {"value": found.value, "low": low, "high": high, "num_problems": num}
    if verdict_of(gain) == GAIN and not found.is_better:
        spends = "it spends more than that, and a mixture of that cost is as good"
        text = f"No conclusion on choosing per problem {where}: {spends}."
        return {"verdict": NONE, "gain": gain, "text": text}
    text = f"{gain_text(f'choosing per problem {where}', gain, over)}, on responses that did not decide"
    assert answer.held_out is not None
    now, held = gathered.now(gathered.repeats)[0], as_shown(gathered, answer.held_out)
    if verdict_of(gain) == GAIN and now:
        text += f", and {'keeps' if held.reward <= now else 'gets'} {held.reward / now:.0%} of today's right answers"
    some = "" if num == len(gathered.problems) else f" ({num} of {len(gathered.problems)} problems have two responses.)"
    more = f" {more_text(gain, num)}" if verdict_of(gain) == NONE else ""
    return {"verdict": verdict_of(gain), "gain": gain, "text": f"{text[0].upper()}{text[1:]}.{some}{more}"}


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
