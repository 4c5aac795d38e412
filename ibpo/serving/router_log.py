"""A log of scored responses with the prompts that they answer. P problems, G response groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.allocation import GroupMeans
from ibpo.data import Log, LogColumns, LogError, raw_rows, read_log
from ibpo.errors import IbpoError
from ibpo.serving.features import FloatArray, as_text

PROMPTS = ("prompt", "question", "problem", "messages", "input")
"""Column names that are tried, in order, for the prompt."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RoutedLog:
    """Mean reward and cost of every problem and response group, and what a router may see of the problem."""

    problems: list[str]
    """P ids, sorted."""
    groups: tuple[str, ...]
    """From the cheapest in the mean to the dearest."""
    reward: FloatArray
    """`[P, G]` mean."""
    cost: FloatArray
    """`[P, G]` mean."""
    count: FloatArray
    """`[P, G]` number of responses, at least 1."""
    prompts: list[str]
    """P texts; empty ones where there is no prompt column."""
    numbers: dict[str, list[float]]
    """Column -> P means over the problem's rows."""
    columns: dict[str, str]
    """Field -> column."""
    left_out: int
    """Problems without a response of every response group."""
    log: Log
    """The rows of the problems kept."""

    def take(self, keep: Sequence[int]) -> RoutedLog:
        """Only these problems; `log` stays whole."""
        rows = np.asarray(keep, int)
        return RoutedLog(
            problems=[self.problems[i] for i in rows],
            groups=self.groups,
            reward=self.reward[rows],
            cost=self.cost[rows],
            count=self.count[rows],
            prompts=[self.prompts[i] for i in rows],
            numbers={name: [values[i] for i in rows] for name, values in self.numbers.items()},
            columns=self.columns,
            left_out=self.left_out,
            log=self.log,
        )


def read_routed_log(
    path: Path,
    *,
    columns: LogColumns,
    prompt: str | None = None,
    numbers: Sequence[str] = (),
    part: str | None = None,
) -> RoutedLog:
    """Read a log as `ibpo allocate` does, and the prompts beside it.

    Args:
        path: .jsonl, .csv (both also .gz) or .parquet, one row per response.
        columns: Which columns hold what.
        prompt: Column with the prompt, as text or chat messages; None: guessed, and left out where `numbers` are given
            and there is none.
        numbers: Columns with numbers that are known before answering.
        part: Value of the column `columns.by` to take; None: the only one.

    Raises:
        IbpoError: Names file, row, field and mend.
    """
    log = read_log(
        path,
        problem=columns.problem,
        response_group=columns.response_group,
        reward=columns.reward,
        cost=columns.cost,
        by=columns.by,
    )
    log = _part(path, log, columns.by, part)
    means = GroupMeans.from_arrays(log.reward, log.problem, log.response_group, log.cost)
    if len(means.response_groups) < 2:
        raise IbpoError(
            f"{path}: column {log.columns['response_group']!r} has one response group, {means.response_groups[0]}; a "
            "router chooses between at least two; name another column with --response-group"
        )
    full = np.flatnonzero(np.array((means.count > 0).all(axis=1)))
    if not len(full):
        raise IbpoError(f"{path}: no problem has a response of every response group; log every problem with every one")
    names = [str(means.problems[i]) for i in full.tolist()]
    prompt_column, prompts, seen = _read_prompts(path, log.columns["problem"], prompt, numbers, set(names))
    order = np.argsort(means.mean_cost[full].mean(axis=0), kind="stable")
    kept = set(names)
    return RoutedLog(
        problems=names,
        groups=tuple(means.response_groups[g] for g in order.tolist()),
        reward=means.mean_reward[full][:, order],
        cost=means.mean_cost[full][:, order],
        count=means.count[full][:, order].astype(np.float64),
        prompts=[prompts[name] if prompt_column else "" for name in names],
        numbers={column: [seen[column][name] for name in names] for column in numbers},
        columns=log.columns | ({"prompt": prompt_column} if prompt_column else {}),
        left_out=len(means.problems) - len(full),
        log=log.rows([i for i, name in enumerate(log.problem) if name in kept]),
    )


def _part(path: Path, log: Log, by: str | None, part: str | None) -> Log:
    parts = log.parts()
    if part is None and len(parts) > 1:
        raise IbpoError(f"{path}: column {by!r} holds {', '.join(parts)}; name one of them with --part")
    if part is not None and part not in parts:
        raise IbpoError(f"{path}: column {by!r} holds no {part!r} but {', '.join(parts)}")
    return parts[part] if part is not None else next(iter(parts.values()))


def _read_prompts(
    path: Path, problem: str, prompt: str | None, numbers: Sequence[str], wanted: set[str]
) -> tuple[str, dict[str, str], dict[str, dict[str, float]]]:
    """The prompt's column ("": none), problem -> prompt, and column -> problem -> mean number."""
    column, prompts = "", dict[str, str]()
    sums: dict[str, dict[str, list[float]]] = {name: {} for name in numbers}
    for line, row in raw_rows(path):
        if isinstance(row, LogError):
            continue  # read_log has complained, or was told not to
        if not column and not prompts and not any(sums.values()):
            column = _prompt_column(path, row, prompt, bool(numbers))
        name = str(row.get(problem))
        if name not in wanted:
            continue
        place = f"{path}, line {line}, column"
        for number in numbers:
            try:
                value = float(row[number])
            except (KeyError, TypeError, ValueError):
                value = math.nan
            if not math.isfinite(value):
                raise IbpoError(f"{place} {number!r}: {row.get(number)!r} is not a finite number; fill it in")
            sums[number].setdefault(name, []).append(value)
        if not column:
            continue
        value = row.get(column)
        if value is None or value == "":
            raise IbpoError(f"{place} {column!r}: no prompt; fill it in, or name another column with --prompt")
        try:
            text = as_text(value)
        except IbpoError as error:
            raise IbpoError(f"{place} {column!r}: {error}") from None
        if prompts.setdefault(name, text) != text:
            raise IbpoError(f"{place} {column!r}: problem {name!r} has another prompt than before; mend its id")
    averages = {
        number: {name: sum(values) / len(values) for name, values in rows.items()} for number, rows in sums.items()
    }
    return column, prompts, averages


def _prompt_column(path: Path, row: dict[str, Any], prompt: str | None, has_numbers: bool) -> str:
    if prompt is not None:
        if prompt not in row:
            raise IbpoError(f"{path}: no column {prompt!r}; name one of {', '.join(map(repr, row))} with --prompt")
        return prompt
    for name in PROMPTS:
        if row.get(name):
            return name
    if has_numbers:
        return ""
    raise IbpoError(
        f"{path}: no column with the prompt ({', '.join(map(repr, PROMPTS))}); name it with --prompt, or columns of "
        f"numbers with --number; there are {', '.join(map(repr, row))}"
    )
