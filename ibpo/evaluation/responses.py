"""Judged responses, whoever sampled them: the one table, and the one file format, of an evaluation.

`ibpo eval`, the demo, the baselines, the end of `ibpo train` and the gate of a cold start write it (`write_table`), one
JSON object a line, gzipped where the name says so: `problem_id`, `configuration`, `response_group` ("" where it opens
like none), `number` (which of its problem's responses of this configuration), `answer`, `reward`, `tokens`,
`thinking_tokens`, `finish_reason`, `budget`, `level`, `domain`, `prompt`, `completion`; what is not known is left out
or null.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.evaluation.statistics import FloatArray
from ibpo.runs import atomic_path
from ibpo.types import Problem, ScoredResponse

MAX_LEVELS = 12
Texts = NDArray[np.object_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Responses:
    """A table of N responses, by columns.

    A *configuration* is one way of answering that is one row in a report: a policy that chooses by itself, a
    response group that was forced, an effort level, a baseline.

    Example:
        >>> rows = [{"problem": "p", "configuration": "low", "reward": r, "tokens": 9} for r in (0, 1)]
        >>> Responses.from_rows(rows).reward.tolist()
        [0.0, 1.0]
    """

    problem: Texts
    configuration: Texts
    reward: FloatArray
    """In [0, 1]."""
    tokens: FloatArray
    """Cost of each response, nan where unknown."""
    thinking_tokens: FloatArray
    """The thinking's part of the tokens; nan where unknown."""
    truncated: FloatArray
    """1 where the response was cut off, 0 where it ended by itself, nan where unknown."""
    response_group: Texts
    """As the response itself opens; "" where unknown."""
    answer: Texts
    """None where the response gives none."""
    level: Texts
    domain: Texts
    budget: FloatArray
    """The share of extended responses that the configuration was trained to keep; nan without one."""
    prompt: Texts
    completion: Texts
    number: FloatArray
    """Which of its problem's responses of this configuration; nan where unknown."""

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Responses:
        """From rows with some of the columns; what a row lacks is unknown."""
        rows = list(rows)
        unknown: dict[str, Any] = dict.fromkeys(cls.__dataclass_fields__, "") | {"answer": None}
        columns: dict[str, Any] = {}
        for field in fields(cls):
            values = [row.get(field.name) for row in rows]
            if field.type in ("FloatArray", FloatArray):
                columns[field.name] = np.array(values, np.float64)  # None becomes nan
            else:
                columns[field.name] = np.empty(len(rows), dtype=object)
                columns[field.name][:] = [unknown[field.name] if v is None else v for v in values]
        return cls(**columns)

    @classmethod
    def of_table(cls, rows: Sequence[Mapping[str, Any]], configuration: str = "") -> Responses:
        """From rows as `write_table` writes them, sorted by problem and number; `configuration` in place of theirs."""
        rows = sorted(rows, key=lambda row: (str(row["problem_id"]), row.get("number", row.get("sample")) or 0))
        table = cls.from_rows(rows)
        table.problem[:] = [str(row["problem_id"]) for row in rows]
        table.answer[:] = [row.get("answer", row.get("predicted_answer")) for row in rows]
        if configuration:
            table.configuration[:] = configuration
        number = [row.get("number", row.get("sample")) for row in rows]
        table.number[:] = [np.nan if value is None else value for value in number]
        ended = [row.get("finish_reason") for row in rows]
        table.truncated[:] = [np.nan if reason is None else reason == "length" for reason in ended]
        return table

    def __len__(self) -> int:
        return len(self.problem)

    def where(self, keep: NDArray[Any] | Sequence[int]) -> Responses:
        """Only these responses: a mask, or positions."""
        return Responses(**{name: getattr(self, name)[keep] for name in self.__dataclass_fields__})

    def of(self, configuration: str) -> Responses:
        """Only those of one configuration."""
        return self.where(self.configuration == configuration)

    @property
    def configurations(self) -> list[str]:
        """In order of their first appearance."""
        return list(dict.fromkeys(self.configuration.tolist()))

    @property
    def right(self) -> FloatArray:
        """`[N]` 1 where the reward is at least one half."""
        return (self.reward >= 0.5).astype(float)

    @property
    def has_votes(self) -> bool:
        """Whether answers are there to vote on."""
        return bool(len(self)) and any(answer is not None for answer in self.answer)


def join(tables: Iterable[Responses]) -> Responses:
    """The responses of several tables, one after the other."""
    tables = list(tables)
    columns = {name: np.concatenate([getattr(one, name) for one in tables]) for name in Responses.__dataclass_fields__}
    return Responses(**columns)


def row_of(problem: Problem, scored: ScoredResponse, *, configuration: str, number: int) -> dict[str, Any]:
    """A scored response as a row of the table."""
    return {
        "problem_id": problem.problem_id,
        "configuration": configuration,
        "response_group": scored.response_group,
        "number": number,
        "answer": scored.predicted_answer,
        "reward": scored.reward,
        "tokens": None if scored.cost != scored.cost else scored.cost,
        "finish_reason": scored.rollout.finish_reason,
        "level": problem.level,
        "domain": str(problem.info.get("domain", "")),
        "prompt": problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"],
        "completion": scored.rollout.completion,
    }


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of the table, one JSON object a line; the file is whole or absent."""
    # No time in the gzip header: the same rows make the same bytes.
    with atomic_path(path) as partial, partial.open("wb") as raw:
        zipped = path.suffix == ".gz"
        file = gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=4, mtime=0) if zipped else raw
        file.writelines((json.dumps(row) + "\n").encode() for row in rows)
        if zipped:
            file.close()


def read_table(path: Path, configuration: str = "") -> Responses:
    """Read a file that `write_table` wrote, sorted by problem and number; Parquet files of older runs too.

    Files that others made are read, and checked, by `ibpo.evaluation.importing.import_responses`.

    Args:
        path: The file.
        configuration: Name of them all, in place of the file's.
    """
    from ibpo.tasks import local_rows  # with every judge: half of the start-up of whoever reads no table

    return Responses.of_table([row for _, row in local_rows(path)], configuration)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorting key that orders numbers by value: 2 before 10.

    Example:
        >>> sorted(["level 10", "level 2"], key=natural)
        ['level 2', 'level 10']
    """
    parts = (part for part in re.split(r"(\d+)", name) if part)
    # The name itself last: 1 and 01 have an order, too.
    return [*((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts), (-1, 0, name)]


def level_names(responses: Responses) -> list[str]:
    """The levels that are named, 2 before 10."""
    return sorted({str(level) for level in responses.level.tolist() if level != ""}, key=natural)


def with_levels(responses: Responses) -> Responses:
    """Level and domain of a problem on all its responses, also on those that say none.

    Some configurations' files may name them and others' not. Where a problem's responses say several, those that say
    none stay so.

    Example:
        >>> rows = [{"problem": "p", "configuration": "c", "reward": 1, "level": level} for level in ("", "3")]
        >>> with_levels(Responses.from_rows(rows)).level.tolist()
        ['3', '3']
    """
    columns: dict[str, Texts] = {}
    for name in ("level", "domain"):
        said_N: Texts = getattr(responses, name)
        said: dict[str, set[str]] = {}
        for problem, text in zip(responses.problem.tolist(), said_N.tolist(), strict=True):
            if text != "":
                said.setdefault(str(problem), set()).add(text)
        if not said or all(said_N != ""):
            continue
        columns[name] = said_N.copy()
        for n in np.flatnonzero(said_N == "").tolist():
            of_problem = said.get(str(responses.problem[n]), set())
            columns[name][n] = next(iter(of_problem)) if len(of_problem) == 1 else ""
    return replace(responses, **columns) if columns else responses


def coarse_levels(responses: Responses) -> Responses:
    """Levels that are more than twelve numbers, in four classes of about equally many problems.

    Example:
        >>> rows = [{"problem": i, "configuration": "c", "reward": 1, "level": i} for i in range(20)]
        >>> sorted(set(coarse_levels(Responses.from_rows(rows)).level), key=natural)
        ['0 to 4', '5 to 9', '10 to 14', '15 to 19']
    """
    texts = responses.level.astype(str)
    names = sorted(set(texts.tolist()) - {""}, key=natural)
    if len(names) <= MAX_LEVELS:
        return responses
    try:
        number_N = np.array([float(text) if text else np.nan for text in texts.tolist()])
    except ValueError:
        return responses
    _, first = np.unique(responses.problem.astype(str), return_index=True)
    edges = np.nanquantile(number_N[first], [0.25, 0.5, 0.75], method="higher")
    part_N = np.searchsorted(edges, number_N, side="right")
    level = np.empty(len(responses), dtype=object)
    for part in range(4):
        inside = (part_N == part) & ~np.isnan(number_N)
        if inside.any():
            level[inside] = f"{number_N[inside].min():g} to {number_N[inside].max():g}"
    level[np.isnan(number_N)] = ""
    return replace(responses, level=level)
