"""Tables of a page: the same cells for HTML, which sorts them by `sort`, and for Markdown.

They show a comparison (`ibpo.evaluation.comparison.compare`), or the methods of a demo or of baselines as means
(`ibpo.evaluation.methods`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from ibpo.budget import cost_text
from ibpo.evaluation.methods import mean_over_seeds
from ibpo.evaluation.report.terms import terms_of
from ibpo.evaluation.responses import natural
from ibpo.markdown import markdown_table, markdown_text

Json = Mapping[str, Any]
BINDS = {(True,): "yes", (False,): "no"}
KINDS = ("right", "wrong", "cut off")
NO_BREAK = "\N{NO-BREAK SPACE}"
MOST_ROWS = 12
"""So many rows of a table are shown first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One entry."""

    text: str
    sort: float | str
    """What the page sorts by: numbers before texts, empty ones last."""
    interval: str = ""
    """The 95 % interval, which the page puts under the number."""

    @property
    def line(self) -> str:
        """Number and interval in one line."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class TableData:
    """A table whose first column names the rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    is_long: bool = False
    """The page folds it up."""
    marked: Sequence[int] = ()
    """Rows that the page sets off."""
    first: Sequence[int] = ()
    """Rows that the page shows first, all of them folded up behind; of more than `MOST_ROWS` always some."""
    why: str = ""
    """Which rows these are, and why."""
    things: str = "rows"
    """What the rows are."""

    def __post_init__(self) -> None:
        """Show the first rows of a table that is too long to show whole, where nobody said which rows count."""
        if self.is_long:
            object.__setattr__(self, "first", ())
        elif len(self.rows) > MOST_ROWS and not self.first:
            object.__setattr__(self, "first", tuple(range(MOST_ROWS)))

    @property
    def whole(self) -> str:
        """What stands on the fold behind which all rows are."""
        if self.first:
            return f"All {self.things} ({len(self.rows)})"
        return f"{self.caption} ({len(self.rows)} {self.things})"

    @property
    def shown(self) -> TableData:
        """The rows that are shown first, as a table."""
        marked = tuple(i for i, row in enumerate(self.first) if row in self.marked)
        caption = f"{len(self.first)} of {len(self.rows)} {self.things}. {self.caption}"
        rows = [self.rows[i] for i in self.first]
        return replace(self, caption=caption, rows=rows, marked=marked, first=(), why="")

    @property
    def terms(self) -> list[str]:
        """What the reader must know to read it, of `TERMS`."""
        return terms_of(self.head, [row[0].text for row in self.rows])

    def markdown(self) -> str:
        """As a GitHub table under its caption; what the page folds up is folded up on GitHub, too."""
        if self.first:
            shown = self.shown.markdown() + (f"\n{markdown_text(self.why)}\n" if self.why else "")
            return f"{shown}\n{self._folded()}"
        if self.is_long:
            return self._folded()
        return "\n".join([f"{markdown_text(self.caption)}.", "", *self._lines()]) + "\n"

    def _folded(self) -> str:
        lines = [f"<details><summary>{escape(self.whole)}</summary>", "", *self._lines(), "", "</details>"]
        return "\n".join(lines) + "\n"

    def _lines(self) -> list[str]:
        return markdown_table(self.head, [[cell.line for cell in row] for row in self.rows])


def tables_of(part: Json) -> list[TableData]:
    """All tables of one part; columns of which nothing is known are left out."""
    found = [_configurations(part), _right_and_wrong(part)]
    found += [table for name in ("level", "domain") if (table := _by(part, name)) is not None]
    found += [_allocation(part)] if part["allocation"] else []
    found += [_areas(part)] if part["areas"] else []
    found += [_budget_kept(part)] if part["budget_kept"] else []
    return [table for table in found if table.rows and len(table.head) > 1]


def published() -> tuple[str, TableData]:
    """What others published, with its conditions: what the numbers are, in one sentence, and the numbers.

    Example:
        >>> about, table = published()
        >>> [cell.text for cell in table.rows[0]][1:5:3]
        ['arXiv 2501.17974', 'pass@1 +4.14 points (+8.08 % relative)']
    """
    data = json.loads(files("ibpo.evaluation.report").joinpath("published.json").read_text(encoding="utf-8"))
    head = ["Method", "Paper", "Model", "Benchmark", "Result", "Cost", "Conditions", "Read in"]
    names = ("method", "paper", "model", "benchmark", "result", "cost", "conditions", "evidence")
    cells = [[_word(row[name]) for name in names] for row in data["rows"]]
    caption = "Published by others, as they state it; nothing of it was measured here"
    return data["about"], TableData(caption=caption, head=head, rows=cells, is_long=True, things="results")


def _configurations(part: Json) -> TableData:
    unit = part["cost_unit"]
    rows = []
    for one in part["configurations"]:
        every = one["numbers"]["overall"]["all"]
        row = {
            "Configuration": _word(one["name"]),
            "pass@1": _rate(every.get("pass@1")),
            f"against {part['standard']}, points": _points(one["difference"]),
            "cost, ×": _number(one["relative_cost"], 2),
        } | _numbers(every, unit)
        row["above random mix, points"] = _points(one["above_random_mix"])
        row[f"gain ratio against votes of {part['standard']}"] = _number(one["gain_ratio"], 2)
        row["oracle share"] = _number(one["oracle_share"], 2)
        row["responses"] = Cell(text=f"{one['num_responses']:,}", sort=one["num_responses"])
        rows.append(row)
    table = _table(f"{part['num_problems']} problems; in brackets 95 % intervals, clustered by problem", rows)
    return _first_configurations(table, part)


def first_configurations(part: Json, most: int = MOST_ROWS) -> list[int]:
    """Those of many configurations that a reader needs, at most `most`, in their order."""
    rows, by_cost = part["configurations"], range(len(part["configurations"]))
    right = [row["numbers"]["overall"]["all"]["pass@1"]["value"] for row in rows]
    share = [row["numbers"]["overall"]["all"].get("extended_share") for row in rows]
    kept, names = {row["name"] for row in part["budget_kept"]}, [row["name"] for row in rows]
    wanted = [names.index(part["standard"]), *(names.index(name) for name in part["reference"])]
    wanted += [i for i in by_cost if names[i] in kept] + [i for i in by_cost if _mixes(share[i])]
    # Cheapest first: those that are right more often than all that cost less.
    wanted += [i for i in by_cost if all(right[i] > right[j] for j in range(i))]
    wanted += sorted(by_cost, key=lambda i: -right[i])
    return sorted(list(dict.fromkeys(wanted))[:most])


def _first_configurations(table: TableData, part: Json) -> TableData:
    """The table, with those that a reader needs before the others."""
    table = replace(table, things="configurations")
    if len(table.rows) <= MOST_ROWS:
        return table
    why = (
        f"Shown first: {part['standard']}, to which costs are relative, the cheapest and the most expensive "
        "configuration, policies with a budget or a choice of their own, and those that are right more often than all "
        "cheaper ones; then the most accurate of the rest."
    )
    return replace(table, first=first_configurations(part), why=why)


def _right_and_wrong(part: Json) -> TableData:
    rows = []
    for one in part["configurations"]:
        row = {"Configuration": _word(one["name"])}
        for kind in KINDS:
            row |= _spent(one["numbers"]["overall"], kind, part["cost_unit"])
        rows.append(row)
    return _table("What right and wrong answers cost, and responses that were cut off", rows)


def _by(part: Json, name: str) -> TableData | None:
    """One row for each level or domain and configuration, with every number."""
    # Not every configuration has answered all of them, where files call domains otherwise.
    every = {key for one in part["configurations"] for key in one["numbers"] if key.startswith(f"{name}=")}
    values = sorted(every, key=natural)
    if len(values) < 2:
        return None
    rows = []
    for place, value in enumerate(values):
        for one in part["configurations"]:
            found = one["numbers"].get(value)
            if found is None:
                continue
            row = {name.capitalize(): Cell(text=value.partition("=")[2], sort=place)}
            row["Configuration"] = _word(one["name"])
            row["problems"] = _count(found["all"]["pass@1"])
            row |= _numbers(found["all"], part["cost_unit"])
            for kind in KINDS:
                row |= _spent(found, kind, part["cost_unit"])
            rows.append(row)
    return replace(_table(f"By {name}: every number", rows), is_long=True)


def _numbers(every: Json, unit: str) -> dict[str, Cell]:
    share = every.get("extended_share")
    return {
        "pass@1": _rate(every.get("pass@1")),
        "extended share": _rate(share) if _mixes(share) else EMPTY,
        f"mean {unit}": _cost(every.get("mean_tokens"), unit),
        f"median {unit}": _cost(every.get("median_tokens"), unit),
        f"95th percentile, {unit}": _cost(every.get("p95_tokens"), unit),
        "thinking" if unit == "tokens" else "thinking tokens": _number(every.get("thinking_tokens"), 0),
        "answer": _number(every.get("answer_tokens"), 0),
        "truncated": _rate(every.get("truncated")),
        "no answer": _rate(every.get("unanswered")),
        **{name: _rate(every[name]) for name in every if name.startswith(("maj@", "pass@")) and name != "pass@1"},
    }


def _spent(numbers: Json, kind: str, unit: str) -> dict[str, Cell]:
    found = numbers.get(kind, {})
    mixes = _mixes(numbers["all"].get("extended_share"))
    return {
        f"mean {unit}, {kind}": _cost(found.get("mean_tokens"), unit),
        f"95th percentile, {kind}": _cost(found.get("p95_tokens"), unit),
        f"{'thinking' if unit == 'tokens' else 'thinking tokens'}, {kind}": _number(found.get("thinking_tokens"), 0),
        f"extended share, {kind}": _rate(found.get("extended_share")) if mixes else EMPTY,
    }


def _allocation(part: Json) -> TableData:
    rows = []
    for one in part["allocation"]:
        row = {
            "Budget": Cell(text=f"{one['fraction']:.0%} of the way: {cost_text(one['budget'])}", sort=one["fraction"]),
            f"spent, {part['cost_unit']}": Cell(text=cost_text(one["spent"]), sort=one["spent"]),
            "accuracy": _plus_minus(one["reward"], one["reward_stderr"]),
            "random mix": Cell(text=f"{one['random_mix']:.1%}", sort=one["random_mix"]),
            "gain, points": _plus_minus(one["gain"], one["gain_stderr"], signed=True),
        }
        for name, share in one["share"].items():
            row[f"share of {name}"] = Cell(text=f"{share:.0%}", sort=share)
        rows.append(row)
    halves = (
        f"decided by half of the responses, valued on the other half ({part['allocation'][0]['num_splits']} splits)"
    )
    return _table(f"One configuration for each problem under a budget: {halves}; ± one standard error", rows)


def _areas(part: Json) -> TableData:
    rows = [
        {
            "Curve": _word(one["name"]),
            f"from, {part['cost_unit']}": Cell(text=cost_text(one["low"]), sort=one["low"]),
            "to": Cell(text=cost_text(one["high"]), sort=one["high"]),
            "area": _rate(one["area"]),
            "random mix, same costs": _rate(one["mix"]),
        }
        for one in part["areas"]
    ]
    return _table("Area under accuracy against cost: mean accuracy over the costs that a curve reaches", rows)


def _budget_kept(part: Json) -> TableData:
    rows = []
    for one in part["budget_kept"]:
        share, budget, trained = one["share"], one["budget"], one.get("in_training")
        error = {key: None if share[key] is None else share[key] - budget for key in ("value", "low", "high")}
        row = {
            "Configuration": _word(one["name"]),
            "budget": Cell(text=f"{budget:.0%}", sort=budget),
            "share on unseen problems": _rate(share),
            "minus the budget, points": _points(error),
        }
        if trained is not None:
            row["share in training"] = _rate(_exact(trained))
        rows.append(row)
    return _table("Was the budget kept? Share in training: over the last tenth of the steps", rows)


EMPTY = Cell(text="", sort="")
DASH = Cell(text="–", sort="")


def _table(caption: str, rows: Sequence[Mapping[str, Cell]]) -> TableData:
    heads = list(dict.fromkeys(head for row in rows for head in row))
    used = [head for head in heads if any(row.get(head, EMPTY).text for row in rows)]
    return TableData(caption=caption, head=used, rows=[[row.get(head, EMPTY) for head in used] for row in rows])


def _mixes(share: Json | None) -> bool:
    return share is not None and 0 < share["value"] < 1


def _rate(estimate: Json | None) -> Cell:
    return _cell(estimate, lambda value: f"{100 * value:.1f}", f"{NO_BREAK}%")


def _points(estimate: Json | None) -> Cell:
    return _cell(estimate, _signed)


def _number(estimate: Json | None, digits: int) -> Cell:
    return _cell(estimate, lambda value: f"{value:,.{digits}f}".replace("-", "−"))


def _cost(estimate: Json | None, unit: str) -> Cell:
    """Tokens are whole; a response may cost a hundredth of a cent."""
    return _cell(estimate, cost_text) if unit == "money" else _number(estimate, 0)


def _ratio(estimate: Json | None) -> Cell:
    return _number(estimate, 2)


def _exact(value: float | None) -> Json:
    """A number without an interval, as an estimate."""
    return {"value": value, "low": None, "high": None}


def _word(text: str) -> Cell:
    return Cell(text=text, sort=text)


def _cell(estimate: Json | None, show: Callable[[float], str], unit: str = "") -> Cell:
    if estimate is None or estimate["value"] is None:
        return EMPTY
    low, high = estimate["low"], estimate["high"]
    interval = "" if low is None or high is None or low == high else f"{show(low)} to {show(high)}"
    if low is not None and high is None:
        interval = f"at least {show(low)}"
    return Cell(text=show(estimate["value"]) + unit, sort=estimate["value"], interval=interval)


def _plus_minus(value: float, stderr: float | None, *, signed: bool = False) -> Cell:
    text = _signed(value) if signed else f"{100 * value:.1f}{NO_BREAK}%"
    return Cell(text=text + (f" ± {100 * stderr:.1f}" if stderr is not None else ""), sort=value)


def _signed(value: float) -> str:
    text = f"{100 * value:+.1f}".replace("-", "−")
    return text.lstrip("+−") if text in ("+0.0", "−0.0") else text


def _count(estimate: Json) -> Cell:
    return Cell(text=str(estimate["num_problems"]), sort=estimate["num_problems"])


def methods_tables(
    rows: Sequence[Json], merits: Sequence[Json], areas: Sequence[Json], trained: Mapping[float, Sequence[float]]
) -> list[TableData]:
    """Every method of one experiment, whether the budget was kept, the figures of merit and the areas.

    Numbers are means over the seeds; in brackets: the smallest and the largest seed's, or one seed's 95 % interval.

    Args:
        rows: As `ibpo.evaluation.methods.Methods.rows`, of all seeds.
        merits: Its figures of merit, of all seeds.
        areas: Its areas, of all seeds.
        trained: Budget -> share of each seed's policy at the end of its training.
    """
    merged = mean_over_seeds(rows)
    num_seeds = max(row["num_seeds"] for row in merged)
    spread = "smallest to largest seed" if num_seeds > 1 else "95 % interval"
    seeds = f", means over {num_seeds} seeds" if num_seeds > 1 else ""
    made = [
        {
            "method": _word(row["method"]),
            "q+": EMPTY if row["budget"] is None else Cell(text=percent(row["budget"], 0), sort=row["budget"]),
            "accuracy ± stderr": _plus_minus(row["accuracy"], row["stderr"]),
            "extended share": _rate(_exact(row["extended_share"])),
            "mean tokens": Cell(text=f"{row['mean_tokens']:.1f}", sort=row["mean_tokens"]),
            "cost": Cell(text=f"{row['relative_cost']:.2f} ×", sort=row["relative_cost"]),
        }
        | _dashed(
            {
                "above random mix, points": _points(_exact(above_random_mix(row, rows))),
                "truncated": _rate(_exact(row.get("truncated_share"))),
            }
        )
        for row in merged
    ]
    ours = [i for i, row in enumerate(merged) if row["method"] in ("IBPO sampled", "IBPO calibrated")]
    caption = f"{merged[0]['num_problems']:,} unseen problems{seeds}; cost relative to one standard response"
    first, why = first_methods(merged)
    found = [replace(_table(caption, made), marked=ours, first=first, why=why, things="methods")]
    kept, figures = [], []
    for (budget, variant), same in _policies(merits).items():
        head = {"q+": Cell(text=percent(budget, 0), sort=budget), "choice": _word(variant)}
        error, share = ([merit_of(one, name) for one in same] for name in ("share_error", "share"))
        row = {
            "share on unseen": _rate(_over_seeds(share)),
            "error, points": _points(_over_seeds(error)),
            "in training": _rate(_over_seeds([_exact(one) for one in trained.get(budget, ())])),
            "binds?": Cell(text=BINDS.get((*{one["binds"] for one in same},), "for some seeds"), sort=""),
        }
        kept.append(head | _dashed(row))
        row = {name: show(_over_seeds([merit_of(one, key) for one in same])) for key, (name, show) in MERITS.items()}
        figures.append(head | _dashed(row | _erosion(same)))
    if kept:
        found.append(_table(f"Was the budget kept? In brackets: {spread}", kept))
        found.append(_table(f"Figures of merit; in brackets: {spread}; a dash: no such number, see the notes", figures))
    lines = []
    for name in dict.fromkeys(row["name"] for row in areas):
        own = [row for row in areas if row["name"] == name]
        low, high = (float(np.mean([row[end] for row in own])) for end in ("low", "high"))
        line = {"curve": _word(name), "costs": Cell(text=f"{low:.2f} to {high:.2f} ×", sort=low)}
        for key, head in (("area", "area"), ("mix", "random mix, same costs")):
            line[head] = _rate(_over_seeds([row[key] or _exact(None) for row in own]))
        lines.append(_dashed(line))
    if lines:
        found.append(_table(f"Area under accuracy against cost; in brackets: {spread}", lines))
    return found


def first_methods(merged: Sequence[Json]) -> tuple[list[int], str]:
    """The rows of one experiment that a reader needs first, at most `MOST_ROWS`, and why these; none if all are few.

    Args:
        merged: As from `mean_over_seeds`, of one experiment.
    """
    if len(merged) <= MOST_ROWS:
        return [], ""
    place = {(row["method"], row["budget"]): i for i, row in enumerate(merged)}
    budgets = sorted({row["budget"] for row in merged if row["budget"] is not None})
    middle = budgets[len(budgets) // 2] if budgets else None
    near = sorted(budgets, key=lambda budget: abs(budget - (middle or 0.0)))
    at = {name: [(name, budget) for budget in near] for name in (*POLICIES, "random mix", "oracle by level")}
    wanted: list[tuple[str, float | None]] = [("standard only", None), ("extended only", None)]
    wanted += [one for name in at for one in at[name][:1]]
    votes = [near_votes(merged, model) for model in ("cold start", "pretrained")]
    wanted += [*votes[:1], ("RAFT without budget", None), *best_of_others(merged)]
    wanted += [one for name in POLICIES for one in at[name][1:]] + votes[1:]
    wanted += [one for name in ("random mix", "oracle by level") for one in at[name][1:]]
    there = [place[one] for one in dict.fromkeys(wanted) if one in place][:MOST_ROWS]
    chosen = "" if middle is None else f" at q+ = {percent(middle, 0)}"
    known, votes_of = {*POLICIES, *WITH_OWN_PLACE}, "self-consistency"
    named = [merged[i]["method"] for i in there]
    others = ""
    if any(name not in known and not name.startswith(votes_of) for name in named):
        others = ", the best of each other method by what it gains on these very problems, which flatters it"
    why = (
        f"Shown first: never and always extended; the policies, the random mix and the oracle{chosen}; the votes that "
        f"cost about as much; RAFT{others}; then the policies at the other budgets."
    )
    return sorted(there), why


POLICIES = ("IBPO sampled", "IBPO calibrated")
WITH_OWN_PLACE = ("standard only", "extended only", "random mix", "oracle by level", "RAFT without budget")


def near_votes(merged: Sequence[Json], model: str) -> tuple[str, None]:
    """The maj@k, k > 1, of an untrained model that costs about what the middle policy costs."""
    family = f"self-consistency ({model}) maj@"
    votes = [row for row in merged if row["method"].startswith(family) and not row["method"].endswith("maj@1")]
    costs = sorted(row["relative_cost"] for row in merged if row["method"] in POLICIES[1:]) or sorted(
        row["relative_cost"] for row in merged if row["method"] in POLICIES
    )
    middle = costs[len(costs) // 2] if costs else 1.0
    near = min(votes, key=lambda row: abs(row["relative_cost"] - middle), default={"method": ""})
    return near["method"], None


def best_of_others(merged: Sequence[Json]) -> list[tuple[str, float | None]]:
    """The strength of each other baseline that gains most over the random mix of its cost, the largest gain first."""
    found: dict[str, tuple[float, tuple[str, float | None]]] = {}
    for name, rows in families(merged).items():
        gains = [(above_random_mix(row, merged), (row["method"], row["budget"])) for row in rows]
        known = [(gain, key) for gain, key in gains if gain is not None]
        if known and not name.startswith("oracle"):  # it knows answers
            found[name] = max(known, key=lambda one: one[0])
    return [key for _, key in sorted(found.values(), key=lambda one: -one[0])]


DRAWN_OTHERWISE = (*WITH_OWN_PLACE[2:], *POLICIES, "self-consistency", "IBPO forced", "RAFT forced")


def families(rows: Iterable[Json]) -> dict[str, list[Json]]:
    """Other baselines, their strengths brought together: the method's name up to its comma or number.

    Example:
        >>> families({"method": name} for name in ("GRPO", "ASV-SFT-0.5", "ASV-SFT-1", "random mix")).keys()
        dict_keys(['GRPO', 'ASV-SFT'])
    """
    found: dict[str, list[Json]] = {}
    for row in rows:
        if row["method"] not in WITH_OWN_PLACE and not row["method"].startswith(DRAWN_OTHERWISE):
            name = re.sub(r",? ?-?[0-9.]+$", "", row["method"])
            found.setdefault(name, []).append(row)
    return found


def _policies(merits: Sequence[Json]) -> dict[tuple[float, str], list[Json]]:
    """(budget, variant) -> its figures of merit, one per seed."""
    found: dict[tuple[float, str], list[Json]] = {}
    for one in merits:
        found.setdefault((one["budget"], one["variant"]), []).append(one)
    return found


def dash_notes(merits: Sequence[Json]) -> list[str]:
    """Why some figures of merit do not exist."""
    return [
        f"q+ = {100 * budget:.0f} %, {variant}: {name.replace('_', ' ')}: {why}"
        for (budget, variant), same in _policies(merits).items()
        for name, why in sorted({name: why for one in same for name, why in one.get("reasons", {}).items()}.items())
    ]


def above_random_mix(row: Json, rows: Sequence[Json]) -> float | None:
    """Accuracy of a method less that of a random mix of standard only and extended only at the same mean tokens.

    None where the mix has no such cost. `rows` are of one experiment; means over its seeds.
    """
    ends = [[r for r in rows if r["method"] == method] for method in ("standard only", "extended only")]
    if not all(ends):
        return None
    cost, accuracy = ([float(np.mean([r[key] for r in end])) for end in ends] for key in ("relative_cost", "accuracy"))
    if not cost[0] <= row["relative_cost"] <= cost[1] or cost[0] == cost[1]:
        return None
    part = (row["relative_cost"] - cost[0]) / (cost[1] - cost[0])
    return row["accuracy"] - (1 - part) * accuracy[0] - part * accuracy[1]


def merit_of(one: Json, name: str) -> dict[str, Any]:
    """A figure of merit with its interval, where it has one."""
    low, high = one.get(f"{name}_interval") or (None, None)
    return {"value": one.get(name), "low": low, "high": high}


def _over_seeds(seeds: Sequence[Json]) -> Json | None:
    """The estimate of one seed; of several the mean, the smallest and the largest of the values that exist."""
    if len(seeds) == 1:
        return seeds[0]
    values = [one["value"] for one in seeds if one["value"] is not None]
    return {"value": float(np.mean(values)), "low": min(values), "high": max(values)} if values else None


def _erosion(seeds: Sequence[Json]) -> dict[str, Cell]:
    cells = {}
    for name in ("standard", "extended"):
        found = [one["erosion"][name] for one in seeds if name in (one.get("erosion") or {})]
        stderrs = [one["stderr"] for one in found if one["stderr"]]
        stderr = float(np.mean(stderrs)) if stderrs else None
        mean = float(np.mean([one["difference"] for one in found])) if found else 0.0
        cells[f"erosion, {name}"] = _plus_minus(mean, stderr, signed=True) if found else EMPTY
    return cells


def _dashed(row: Mapping[str, Cell]) -> dict[str, Cell]:
    """A dash for what does not exist, so that its column stays."""
    return {head: cell if cell.text else DASH for head, cell in row.items()}


def percent(value: float | None, digits: int = 1) -> str:
    """0.625 -> "62.5 %"; None -> a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}{NO_BREAK}%"


def points(value: float | None) -> str:
    """A difference of rates in percentage points: 0.0123 -> "+1.2"; None -> a dash."""
    return "–" if value is None else _signed(value)


MERITS: dict[str, tuple[str, Callable[[Json | None], Cell]]] = {
    "above_random_mix": ("above random mix, points", _points),
    "oracle_share": ("oracle share", _ratio),
    "oracle_share_own": ("of its own", _ratio),
    "gain_ratio_cold_start": ("gain ratio, cold start", _ratio),
    "gain_ratio_pretrained": ("gain ratio, pretrained", _ratio),
    "rank_correlation": ("rank correlation", _ratio),
    "waste": ("wasted", _rate),
    "waste_level_share": ("a blind draw wastes", _rate),
    "retained": ("retained", _rate),
}
"""Figure of merit -> its name on the page, and how it is shown."""
