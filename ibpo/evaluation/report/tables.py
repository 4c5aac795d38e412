"""Tables of a page: the same cells for HTML, which sorts them by `sort`, and for Markdown.

Of one comparison (`ibpo.evaluation.comparison.compare`), and of the methods of a demo or of baselines, means over seeds
(`ibpo.evaluation.methods`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np

from ibpo.evaluation.methods import mean_over_seeds, summarise

Json = Mapping[str, Any]
BINDS = {(True,): "yes", (False,): "no"}
KINDS = ("right", "wrong", "cut off")
THIN, NO_BREAK = "\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}"


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

    def markdown(self) -> str:
        """As a GitHub table under its caption."""
        lines = [f"{self.caption}.", "", _line(self.head), _line(["---", *["---:"] * (len(self.head) - 1)])]
        return "\n".join([*lines, *(_line([cell.line for cell in row]) for row in self.rows)]) + "\n"


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
    cells = [[Cell(text=row[name], sort=row[name]) for name in names] for row in data["rows"]]
    caption = "Published by others, as they state it; nothing of it was measured here"
    return data["about"], TableData(caption=caption, head=head, rows=cells)


def _configurations(part: Json) -> TableData:
    unit = part["cost_unit"]
    rows = []
    for one in part["configurations"]:
        every = one["numbers"]["overall"]["all"]
        row = {
            "Configuration": Cell(text=one["name"], sort=one["name"]),
            "pass@1": _rate(every.get("pass@1")),
            f"against {part['standard']}, points": _points(one["difference"]),
            "cost, ×": _number(one["relative_cost"], 2),
        } | _numbers(every, unit)
        row["above random mix, points"] = _points(one["above_random_mix"])
        row[f"gain ratio against votes of {part['standard']}"] = _number(one["gain_ratio"], 2)
        row["oracle share"] = _number(one["oracle_share"], 2)
        row["responses"] = Cell(text=f"{one['num_responses']:,}", sort=one["num_responses"])
        rows.append(row)
    return _table(f"{part['num_problems']} problems; in brackets 95 % intervals, clustered by problem", rows)


def _right_and_wrong(part: Json) -> TableData:
    rows = []
    for one in part["configurations"]:
        row = {"Configuration": Cell(text=one["name"], sort=one["name"])}
        for kind in KINDS:
            row |= _spent(one["numbers"]["overall"], kind, part["cost_unit"])
        rows.append(row)
    return _table("What right and wrong answers cost, and responses that were cut off", rows)


def _by(part: Json, name: str) -> TableData | None:
    """One row for each level or domain and configuration, with every number."""
    first = part["configurations"][0]["numbers"]
    values = [key for key in first if key.startswith(f"{name}=")]
    if len(values) < 2:
        return None
    rows = []
    for place, value in enumerate(values):
        for one in part["configurations"]:
            found = one["numbers"].get(value)
            if found is None:
                continue
            row = {name.capitalize(): Cell(text=value.partition("=")[2], sort=place)}
            row["Configuration"] = Cell(text=one["name"], sort=one["name"])
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
        f"mean {unit}": _number(every.get("mean_tokens"), 0),
        f"median {unit}": _number(every.get("median_tokens"), 0),
        f"95th percentile, {unit}": _number(every.get("p95_tokens"), 0),
        "thinking": _number(every.get("thinking_tokens"), 0),
        "answer": _number(every.get("answer_tokens"), 0),
        "truncated": _rate(every.get("truncated")),
        "no answer": _rate(every.get("unanswered")),
        **{name: _rate(every[name]) for name in every if name.startswith(("maj@", "pass@")) and name != "pass@1"},
    }


def _spent(numbers: Json, kind: str, unit: str) -> dict[str, Cell]:
    found = numbers.get(kind, {})
    mixes = _mixes(numbers["all"].get("extended_share"))
    return {
        f"mean {unit}, {kind}": _number(found.get("mean_tokens"), 0),
        f"95th percentile, {kind}": _number(found.get("p95_tokens"), 0),
        f"thinking, {kind}": _number(found.get("thinking_tokens"), 0),
        f"extended share, {kind}": _rate(found.get("extended_share")) if mixes else EMPTY,
    }


def _allocation(part: Json) -> TableData:
    rows = []
    for one in part["allocation"]:
        row = {
            "Budget": Cell(text=f"{one['fraction']:.0%} of the way: {_amount(one['budget'])}", sort=one["fraction"]),
            f"spent, {part['cost_unit']}": Cell(text=_amount(one["spent"]), sort=one["spent"]),
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
            "Curve": Cell(text=one["name"], sort=one["name"]),
            f"from, {part['cost_unit']}": Cell(text=_amount(one["low"]), sort=one["low"]),
            "to": Cell(text=_amount(one["high"]), sort=one["high"]),
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
            "Configuration": Cell(text=one["name"], sort=one["name"]),
            "budget": Cell(text=f"{budget:.0%}", sort=budget),
            "share on unseen problems": _rate(share),
            "minus the budget, points": _points(error),
        }
        if trained is not None:
            row["share in training"] = Cell(text=f"{100 * trained:.1f}{THIN}%", sort=trained)
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
    return _cell(estimate, lambda value: f"{100 * value:.1f}", f"{THIN}%")


def _points(estimate: Json | None) -> Cell:
    return _cell(estimate, _signed)


def _number(estimate: Json | None, digits: int) -> Cell:
    return _cell(estimate, lambda value: f"{value:,.{digits}f}")


def _cell(estimate: Json | None, show: Callable[[float], str], unit: str = "") -> Cell:
    if estimate is None or estimate["value"] is None:
        return EMPTY
    low, high = estimate["low"], estimate["high"]
    interval = "" if low is None or high is None or low == high else f"{show(low)} to {show(high)}"
    if low is not None and high is None:
        interval = f"at least {show(low)}"
    return Cell(text=show(estimate["value"]) + unit, sort=estimate["value"], interval=interval)


def _plus_minus(value: float, stderr: float | None, *, signed: bool = False) -> Cell:
    text = _signed(value) if signed else f"{100 * value:.1f}{THIN}%"
    return Cell(text=text + (f" ± {100 * stderr:.1f}" if stderr is not None else ""), sort=value)


def _signed(value: float) -> str:
    text = f"{100 * value:+.1f}".replace("-", "−")
    return text.lstrip("+−") if text in ("+0.0", "−0.0") else text


def _count(estimate: Json) -> Cell:
    return Cell(text=str(estimate["num_problems"]), sort=estimate["num_problems"])


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    safe = (cell.replace("|", "\\|").replace("\n", " ").replace(THIN, " ").replace(NO_BREAK, " ") for cell in cells)
    return "| " + " | ".join(safe) + " |"


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
            "method": Cell(text=row["method"], sort=row["method"]),
            "q+": EMPTY if row["budget"] is None else _percent_cell(row["budget"], 0),
            "accuracy ± stderr": Cell(
                text=f"{percent(row['accuracy'])} ± {100 * row['stderr']:.1f}", sort=row["accuracy"]
            ),
            "extended share": _percent_cell(row["extended_share"]),
            "mean tokens": Cell(text=f"{row['mean_tokens']:.1f}", sort=row["mean_tokens"]),
            "cost": Cell(text=f"{row['relative_cost']:.2f} ×", sort=row["relative_cost"]),
            "above random mix, points": _shown(above_random_mix(row, rows), points),
            "truncated": _percent_cell(row.get("truncated_share")),
        }
        for row in merged
    ]
    ours = [i for i, row in enumerate(merged) if row["method"] in ("IBPO sampled", "IBPO calibrated")]
    caption = f"All methods, {merged[0]['num_problems']} unseen problems{seeds}; cost relative to one standard response"
    found = [replace(_table(caption, made), marked=ours)]
    judged = summarise([merits])
    if judged:
        kept, figures = [], []
        for one in judged:
            same = [m for m in merits if (m["budget"], m["variant"]) == (one["budget"], one["variant"])]
            own = partial(_spread, one, same)
            share = trained.get(one["budget"]) or []
            ends = f" ({percent(min(share))} to {percent(max(share))})" if len(share) > 1 else ""
            binds = {m["binds"] for m in same}
            head = {"q+": _percent_cell(one["budget"], 0), "choice": Cell(text=one["variant"], sort=one["variant"])}
            kept.append(
                head
                | {"share on unseen": own("share", percent), "error, points": own("share_error", points)}
                | {"in training": Cell(text=percent(float(np.mean(share))) + ends, sort=0.0) if share else DASH}
                | {"binds?": Cell(text=BINDS.get((*binds,), "for some seeds"), sort="")}
            )
            figures.append(head | {name: own(key, show) for key, (name, show) in MERITS.items()} | _erosion(one))
        found.append(_table(f"Was the budget kept? In brackets: {spread}", kept))
        found.append(_table(f"Figures of merit; in brackets: {spread}; a dash: no such number, see the notes", figures))
    lines = []
    for name in dict.fromkeys(row["name"] for row in areas):
        own = [row for row in areas if row["name"] == name]
        low, high = (float(np.mean([row[end] for row in own])) for end in ("low", "high"))
        line = {"curve": Cell(text=name, sort=name), "costs": Cell(text=f"{low:.2f} to {high:.2f} ×", sort=low)}
        for key, head in (("area", "area"), ("mix", "random mix, same costs")):
            line[head] = _area([row[key] for row in own if row[key] is not None])
        lines.append(line)
    if lines:
        found.append(_table(f"Area under accuracy against cost; in brackets: {spread}", lines))
    return found


def dash_notes(merits: Sequence[Json]) -> list[str]:
    """Why some figures of merit do not exist."""
    return [
        f"q+ = {100 * one['budget']:.0f} %, {one['variant']}: {name.replace('_', ' ')}: {why}"
        for one in summarise([merits])
        for name, why in sorted(one["reasons"].items())
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


def _spread(summary: Json, seeds: Sequence[Json], name: str, show: Callable[[float | None], str]) -> Cell:
    """One figure of merit over the seeds, or one seed's with its interval."""
    found = summary.get(name)
    if not found:
        return DASH
    if not isinstance(found, Mapping):
        return _shown(found, show)
    low, high, value = found["min"], found["max"], found["mean"]
    if len(seeds) == 1:
        low, high = seeds[0].get(f"{name}_interval") or (value, value)
        if high is None:
            return Cell(text=show(value), sort=value, interval=f"at least {show(low)}")
    return Cell(text=show(value), sort=value, interval="" if low == high else f"{show(low)} to {show(high)}")


def _erosion(summary: Json) -> dict[str, Cell]:
    cells = {}
    for name in ("standard", "extended"):
        found = (summary.get("erosion") or {}).get(name)
        stderr = "" if not found or not found["stderr"] else f" ± {100 * found['stderr']['mean']:.1f}"
        text = points(found["difference"]["mean"]) + stderr if found else ""
        cells[f"erosion, {name}"] = Cell(text=text, sort=found["difference"]["mean"]) if found else DASH
    return cells


def _area(estimates: Sequence[Json]) -> Cell:
    if not estimates:
        return DASH
    values = [one["value"] for one in estimates]
    low, high = (estimates[0]["low"], estimates[0]["high"]) if len(values) == 1 else (min(values), max(values))
    mean = float(np.mean(values))
    return Cell(text=percent(mean), sort=mean, interval=f"{percent(low)} to {percent(high)}")


def percent(value: float | None, digits: int = 1) -> str:
    """0.625 -> "62.5 %"; None -> a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}{NO_BREAK}%"


def points(value: float | None) -> str:
    """A difference of rates in percentage points: 0.0123 -> "+1.2"; None -> a dash."""
    return "–" if value is None else _signed(value)


def two_digits(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


MERITS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "oracle_share": ("oracle share", two_digits),
    "oracle_share_own": ("by its own responses", two_digits),
    "gain_ratio_cold_start": ("gain ratio, cold start", two_digits),
    "gain_ratio_pretrained": ("gain ratio, pretrained", two_digits),
    "rank_correlation": ("rank correlation", two_digits),
    "waste": ("wasted", percent),
    "waste_level_share": ("a blind draw wastes", percent),
    "retained": ("retained", percent),
}
"""Figure of merit -> its name on the page, and how it is shown."""


def _percent_cell(value: float | None, digits: int = 1) -> Cell:
    return _shown(value, lambda one: percent(one, digits))


def _shown(value: float | None, show: Callable[[float | None], str]) -> Cell:
    return DASH if value is None else Cell(text=show(value), sort=value)
