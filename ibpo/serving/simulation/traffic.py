"""Traffic to simulate: request traces, and what their requests would have gained and cost.

Letters: N requests, G response groups.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from ibpo.budget import costs_named
from ibpo.data import NUM_PEEKED, LogColumns, good_rows, identifier_of, read_log
from ibpo.errors import IbpoError
from ibpo.routing import Router, read_routed_log
from ibpo.serving.calibration import Calibration
from ibpo.serving.simulation.simulate import TOKENS, FloatArray, Requests

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Units of a trace's times, in seconds."""
TIMES = {"t": "", "TIMESTAMP": "s", "Timestamp": "s", "timestamp": "", "arrival_time": "", "time": ""}
"""Columns that are tried for the time, in order, and the unit that they are published in; "": it is guessed.

`TIMESTAMP`: Azure's LLM inference traces of 2023 and 2024, dates; `Timestamp`: BurstGPT, seconds; `timestamp`:
Mooncake, milliseconds, and Bailian (Alibaba), seconds: only Bailian's have `chat_id`.
"""
LENGTHS = ("output_tokens", "GeneratedTokens", "Response tokens", "output_length", "completion_tokens")
"""Columns that are tried for the length of the answer."""
PROMPTS = ("prompt_tokens", "input_tokens", "ContextTokens", "Request tokens", "input_length")
"""Columns that are tried for the length of the prompt."""
_SPARSE_SECONDS = 30.0
_FEWEST = 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trace:
    """When requests came, how long their answers were, and from whom."""

    time: FloatArray
    """`[N]` seconds from the first, not falling."""
    output_tokens: FloatArray
    """`[N]`."""
    gain: FloatArray | None
    """`[N]` of the extended over the standard response, where the trace records it."""
    tenant: list[str]
    slice_name: list[str]
    prompt_tokens: FloatArray | None = None
    """`[N]`, where the trace records them."""
    unit: str = "s"
    """The unit in which the file has the times: a key of `UNITS`; "" for dates, which need none."""
    time_column: str = "t"
    num_failed: int = 0
    """Requests with an answer of no tokens, which are left out: that is how published traces write failures."""


def guess_unit(time: FloatArray) -> str:
    """The unit of times `[N]`.

    Since 1970 about 1.7e9 seconds have passed, which tells the unit of such times. For others it is the largest unit by
    which a request comes every 30 seconds or more often, if there are 20 requests or more; else they are seconds.

    Example:
        >>> (
        ...     guess_unit(np.array([1.7e12, 1.7e12 + 5])),
        ...     guess_unit(np.arange(100) * 250.0),
        ...     guess_unit(np.arange(100) * 0.25),
        ... )
        ('ms', 'ms', 's')
    """
    for unit, least in (("ns", 1e17), ("us", 1e14), ("ms", 1e11), ("s", 1e8)):
        if time[0] >= least:
            return unit
    gap = (time[-1] - time[0]) / max(1, len(time) - 1)
    if len(time) < _FEWEST:
        return "s"
    return next((unit for unit, seconds in UNITS.items() if gap * seconds <= _SPARSE_SECONDS), "ns")


def read_trace(path: Path, *, unit: str | None = None) -> Trace:
    """Read time and length of every request, and where there are, its `gain`, `tenant` and `slice`.

    Args:
        path: A table, one row per request, in order of time: with `t` and `output_tokens`, or as Azure, BurstGPT,
            Mooncake and Bailian publish their traces (`TIMES`, `LENGTHS`).
        unit: Unit of the times, a key of `UNITS`; None: the publisher's, else see `guess_unit`.

    Raises:
        IbpoError: Names file, row, field and fix.
    """
    rows = list(good_rows(path))
    if not rows:
        raise IbpoError(f"{path}: no requests; a trace needs one row per request")
    # A column may be missing from the first row.
    first = {name: None for _, row in rows[:NUM_PEEKED] for name in row}
    when = next((name for name in TIMES if name in first), "t")
    length = next((name for name in LENGTHS if name in first), "output_tokens")
    tokens = np.array([_number(place, row, length, 0.0) for place, row in rows])
    prompt = next((name for name in PROMPTS if name in first), None)
    failed = tokens == 0 if length != "output_tokens" else np.zeros(len(rows), bool)
    if failed.all():
        raise IbpoError(f"{path}, column {length!r}: no answer has a token; there is nothing to simulate")
    rows = [row for row, is_out in zip(rows, failed.tolist(), strict=True) if not is_out]
    time = np.array([_when(place, row, when) for place, row in rows])
    late = np.flatnonzero(np.diff(time) < 0)
    if len(late):
        place, row = rows[late[0] + 1]
        has_no_zone = _is_date(date := row.get(when)) and not re.search(r"(Z|[+-]\d\d:?\d\d)$", str(date))
        # Sorted, the hour that comes twice where clocks are set back would be two mixed into one.
        hint = "; or give each date its offset from UTC, if the clocks were set back: 2026-10-25T02:00:00+01:00"
        raise IbpoError(f"{place}: column {when!r} falls; sort the trace by time{hint if has_no_zone else ''}")
    has_gain = "gain" in first
    published = {"hash_ids": "ms", "chat_id": "s"} if when == "timestamp" else {}
    known = TIMES.get(when) or next(
        (published[name] for name in ("chat_id", "hash_ids") if name in first and published), ""
    )
    if _is_date(rows[0][1].get(when)):
        if unit not in (None, "s"):
            raise IbpoError(f"{path}, column {when!r}: holds dates, which have no unit; leave time_unit={unit} out")
        unit = ""
    elif unit is None:
        unit = known or guess_unit(time)
    return Trace(
        unit=unit,
        time=(time - time[0]) * UNITS[unit or "s"],
        output_tokens=tokens[~failed],
        gain=np.array([_number(place, row, "gain", -math.inf) for place, row in rows]) if has_gain else None,
        tenant=[_name(row.get("tenant")) for _, row in rows],
        slice_name=[_name(row.get("slice")) for _, row in rows],
        prompt_tokens=np.array([_number(place, row, prompt, 0.0) for place, row in rows]) if prompt else None,
        time_column=when,
        num_failed=int(failed.sum()),
    )


def _name(value: Any) -> str:
    """A tenant or slice as the plan writes it; the number 0 is one, too."""
    return "" if value is None or value != value else identifier_of(value)


def _is_date(value: Any) -> TypeGuard[datetime | str]:
    return isinstance(value, datetime) or (isinstance(value, str) and "-" in value[1:] and ":" in value)


def _when(place: str, row: Mapping[str, Any], column: str) -> float:
    """A time as a number; of a date, in seconds since 1970 (UTC where it names no zone)."""
    text = row.get(column)
    if _is_date(text):
        try:
            # Azure writes seven digits of a second, one more than a datetime holds.
            date = text if isinstance(text, datetime) else datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
        except ValueError:
            raise IbpoError(
                f"{place}, column {column!r}: {text!r} is not a date; write it as 2026-11-29 12:00:00"
            ) from None
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return _number(place, dict(row), column, -math.inf)


def repeat_trace(trace: Trace, num_requests: int) -> Trace:
    """The trace over and over, one after the other, cut to this many requests."""
    size = len(trace.time)
    number = np.arange(num_requests)
    lap, place = number // size, number % size
    span = trace.time[-1] + max(1e-3, trace.time[-1] / size)
    return replace(
        trace,
        time=trace.time[place] + lap * span,
        output_tokens=trace.output_tokens[place],
        gain=None if trace.gain is None else trace.gain[place],
        tenant=[trace.tenant[i] for i in place],
        slice_name=[trace.slice_name[i] for i in place],
        prompt_tokens=None if trace.prompt_tokens is None else trace.prompt_tokens[place],
    )


def synthetic_requests(
    trace: Trace,
    *,
    factor: float = 10.0,
    calibration: Calibration | None = None,
    tokens_per_second: float = 50.0,
    failures: float = 0.0,
    seed: int = 0,
) -> Requests:
    """Two response groups: "standard" as long as the trace says, "extended" `factor` times as long.

    Gains are those of a calibration, drawn at random, else the trace's, else uniform in [0, 1]. The controller expects
    the mean length of each response group, and learns by the lengths of prompts where the trace has them.

    Args:
        trace: What came.
        factor: Above 0.
        calibration: A policy's or a router's scores on prompts like these; a score counts from the calibration's floor,
            so prompts that are not above it gain nothing.
        tokens_per_second: Speed of one response.
        failures: Share of the requests that fail.
        seed: Decides gains and failures.
    """
    rng = np.random.default_rng(seed)
    size = len(trace.time)
    if calibration is not None:
        gain = rng.choice(calibration.scores, size) - calibration.floor
    else:
        gain = rng.random(size) if trace.gain is None else trace.gain
    cost = trace.output_tokens[:, None] * np.array([1.0, factor])
    return Requests(
        time=trace.time,
        groups=("standard", "extended"),
        gain=np.stack([np.zeros(size), gain], axis=1),
        cost=cost,
        estimate=np.tile(cost.mean(axis=0), (size, 1)),
        seconds=cost / tokens_per_second,
        failed=rng.random(size) < failures,
        tenant=trace.tenant,
        slice_name=trace.slice_name,
        prompt_tokens=trace.prompt_tokens,
    )


def recorded_requests(
    trace: Trace,
    log: Path,
    *,
    by: str | None = None,
    part: str | None = None,
    response_group: str | None = None,
    reward: str | None = None,
    cost: str | None = None,
    problem: str | None = None,
    prompt: str | None = None,
    router: Router | None = None,
    tokens_per_second: float = 50.0,
    failures: float = 0.0,
    seed: int = 0,
) -> Requests:
    """Every request asks one of a log's problems, drawn at random; its gains are the mean rewards recorded for it.

    A response takes as many tokens as one of the recorded ones, drawn at random; the controller expects the mean for
    this problem and response group.

    Args:
        trace: When they come.
        log: Scored responses, as `ibpo allocate` reads them.
        by: Column that splits the log.
        part: Its value to take; None: the only one.
        response_group: Column with the response group; None, as of the next three: found.
        reward: Column with the reward.
        cost: Column with the cost, in tokens.
        problem: Column with the problem.
        prompt: Column with the prompt, which the router reads; None: the one that it was fitted on.
        router: Predicts gains and costs for the controller, in the place of the recorded ones.
        tokens_per_second: Speed of one response.
        failures: Share of the requests that fail.
        seed: Decides all draws.

    Raises:
        IbpoError: A log that cannot be used.
    """
    names = LogColumns(by=by, response_group=response_group, reward=reward, cost=cost, problem=problem)
    rows = read_log(log, names).one_part(part, log)
    if TOKENS not in costs_named(column := rows.columns["cost"]):
        raise IbpoError(
            f"{log}: column {column!r} holds money, and a simulation counts tokens, by which answers take time; "
            "name a column of tokens with --columns cost=COLUMN"
        )
    cells: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(rows.problem, rows.response_group, strict=True)):
        cells.setdefault(key, []).append(i)
    groups = sorted({g for _, g in cells}, key=lambda g: float(rows.cost[[x == g for x in rows.response_group]].mean()))
    problems = [p for p in dict.fromkeys(rows.problem) if all((p, g) in cells for g in groups)]
    if len(groups) < 2 or not problems:
        raise IbpoError(f"{log}: needs a problem with responses of two response groups; found {', '.join(groups)}")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(problems), size=len(trace.time))
    mean = np.array([[rows.reward[cells[p, g]].mean() for g in groups] for p in problems])
    length = np.array([[rows.cost[cells[p, g]].mean() for g in groups] for p in problems])
    spent = np.array(
        [[rows.cost[rng.choice(cells[problems[i], g])] for g in groups] for i in drawn.tolist()], dtype=np.float64
    )
    predicted, expected = (
        (mean, length) if router is None else _routed(router, log, names, prompt, part, problems, groups)
    )
    return Requests(
        time=trace.time,
        groups=tuple(groups),
        gain=mean[drawn],
        predicted_gain=predicted[drawn],
        cost=spent,
        estimate=expected[drawn],
        seconds=spent / tokens_per_second,
        failed=rng.random(len(drawn)) < failures,
        tenant=trace.tenant,
        slice_name=trace.slice_name,
        notes=rows.notes,
    )


def _routed(
    router: Router,
    log: Path,
    columns: LogColumns,
    prompt: str | None,
    part: str | None,
    problems: list[str],
    groups: list[str],
) -> tuple[FloatArray, FloatArray]:
    """Per problem and response group, in the order given, the gain and the cost that a router expects."""
    if set(groups) != set(router.groups):
        raise IbpoError(
            f"{log}: has the response groups {', '.join(groups)}, but the router knows {', '.join(router.groups)}"
        )
    if TOKENS not in costs_named(router.cost_name):
        raise IbpoError(
            f"the router expects costs in {router.cost_name!r}, and a simulation counts tokens; fit it with --columns "
            "cost=COLUMN, a column of tokens"
        )
    prompt = prompt or router.source.get("columns", {}).get("prompt")
    numbers = () if router.is_mix else router.number_names
    table = read_routed_log(log, columns=columns, prompt=prompt, numbers=numbers, part=part)
    gain, cost = router.scores(table.prompts, table.numbers)
    place = {name: i for i, name in enumerate(table.problems)}
    rows, order = [place[name] for name in problems], [router.groups.index(group) for group in groups]
    return gain[rows][:, order], cost[rows][:, order]


def with_exact_estimates(requests: Requests) -> Requests:
    """The same requests; the controller knows each response's own length."""
    return replace(requests, estimate=requests.cost, prompt_tokens=None)


def with_caps(requests: Requests, cap: Mapping[str, float]) -> Requests:
    """The same requests at an upstream that cuts responses off at their group's cap.

    Args:
        requests: What came.
        cap: Response group -> `max_tokens`.

    Raises:
        IbpoError: A response group that there is not.
    """
    for name in cap:
        if name not in requests.groups:
            raise IbpoError(
                f"--max-tokens {name}: there is no such response group; name one of {', '.join(requests.groups)}"
            )
    most = np.array([cap.get(name, math.inf) for name in requests.groups])
    cost = np.minimum(requests.cost, most)
    return replace(
        requests,
        cost=cost,
        estimate=np.minimum(requests.estimate, most),
        seconds=requests.seconds * cost / np.maximum(requests.cost, 1e-300),
        cap=dict(cap),
    )


def _number(place: str, row: dict[str, Any], name: str, least: float) -> float:
    if row.get(name) in (None, ""):
        needs = "time and length in every row: t and output_tokens" if name in (*TIMES, *LENGTHS) else "it in all rows"
        raise IbpoError(f"{place}: no value in column {name!r}; a trace needs {needs}")
    try:
        value = math.nan if isinstance(row[name], bool) else float(row[name])
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        what = "a finite number" if least == -math.inf else "a finite number, at least 0"
        raise IbpoError(f"{place}, column {name!r}: {row[name]!r} is not {what}; fix or remove the row")
    return value
