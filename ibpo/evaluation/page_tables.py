"""Tables of the report: the same cells for the page, which sorts them by `sort`, and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ibpo.evaluation.published import Published

Json = Mapping[str, Any]
KINDS = ("right", "wrong", "cut off")
THIN = "\N{NARROW NO-BREAK SPACE}"


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


def published_table(rows: Sequence[Published]) -> TableData:
    """What others published."""
    head = ["Method", "Paper", "Model", "Benchmark", "Result", "Cost", "Conditions", "Read in"]
    names = ("method", "paper", "model", "benchmark", "result", "cost", "conditions", "evidence")
    cells = [[Cell(text=getattr(row, name), sort=getattr(row, name)) for name in names] for row in rows]
    return TableData(
        caption="Published by others, as they state it; nothing of it was measured here", head=head, rows=cells
    )


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
    safe = (cell.replace("|", "\\|").replace("\n", " ").replace(THIN, " ") for cell in cells)
    return "| " + " | ".join(safe) + " |"
