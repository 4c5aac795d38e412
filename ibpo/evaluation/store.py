"""Read what a sampling stage wrote: responses and choices of each policy, as plain columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ibpo.evaluation.statistics import FloatArray

EXTENDED = "extended"
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PerProblem:
    """The responses of one policy, averaged for each problem; problems in sorted order, the same for all policies."""

    accuracy: FloatArray
    """`[P]` mean reward."""
    tokens: FloatArray
    """`[P]` mean tokens."""
    share: FloatArray
    """`[P]` share of extended responses."""
    truncated: FloatArray
    """`[P]` share of responses that were cut off; nan where the files do not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problems:
    """The unseen problems of an evaluation."""

    problem_id: NDArray[Any]
    """`[P]`, sorted."""
    levels: tuple[str, ...]
    """Names of the L levels, easiest first."""
    level: NDArray[np.int64]
    """`[P]` index into `levels`."""

    @property
    def level_share(self) -> FloatArray:
        """`[L]` part of the problems of each level."""
        return np.bincount(self.level, minlength=len(self.levels)) / len(self.level)

    def by_level(self, value: FloatArray) -> FloatArray:
        """`[P]` values -> `[L]` means."""
        return np.bincount(self.level, value, len(self.levels)) / np.bincount(self.level, minlength=len(self.levels))


def load_responses(directory: Path) -> dict[tuple[str, str], Columns]:
    """Read `responses/<policy>__<how>.parquet` of one experiment and seed.

    Args:
        directory: The folder of one experiment and seed.

    Returns:
        (policy, how) -> column name -> array, sorted by problem and sample.
    """
    return {_two_names(path): read_columns(path) for path in sorted((directory / "responses").glob("*__*.parquet"))}


def load_choices(directory: Path) -> dict[tuple[str, str], Columns]:
    """Read `choices/<policy>__<split>.parquet`: (policy, split) -> column name -> array, sorted by problem."""
    return {_two_names(path): read_columns(path) for path in sorted((directory / "choices").glob("*__*.parquet"))}


def find_problems(columns: Columns, levels: Sequence[str] = ()) -> Problems:
    """The problems that these responses answer.

    Args:
        columns: Responses of any policy.
        levels: Names of the levels in the order wanted; those not named come after, in natural order (2 before 10).

    Returns:
        The problems, sorted by id.
    """
    problem_id, first = np.unique(columns["problem_id"], return_index=True)
    level_P = columns["level"][first]
    found = sorted(set(level_P), key=_natural)
    names = tuple([name for name in levels if name in found] + [name for name in found if name not in levels])
    index = {name: i for i, name in enumerate(names)}
    return Problems(problem_id=problem_id, levels=names, level=np.array([index[name] for name in level_P]))


def per_problem(columns: Columns, problems: Problems) -> PerProblem:
    """Average the responses of each problem.

    Raises:
        ValueError: the responses are to other problems.
    """
    problem_id, p_N = np.unique(columns["problem_id"], return_inverse=True)
    if not np.array_equal(problem_id, problems.problem_id):
        raise ValueError(f"{len(problem_id)} problems answered, not the same {len(problems.problem_id)} as elsewhere")
    count_P = np.bincount(p_N)

    def mean(value: NDArray[Any]) -> FloatArray:
        return np.bincount(p_N, value.astype(float)) / count_P

    extended = columns["response_group"] == EXTENDED
    cut = columns["finish_reason"] == "length" if "finish_reason" in columns else np.full(len(p_N), np.nan)
    return PerProblem(
        accuracy=mean(columns["reward"]),
        tokens=mean(columns["tokens"]),
        share=mean(extended),
        truncated=mean(np.asarray(cut)),
    )


def mix(standard: PerProblem, extended: PerProblem, share: FloatArray) -> PerProblem:
    """Each problem is answered extended with its own share `[P]`."""
    return PerProblem(
        share=share,
        **{
            name: (1 - share) * getattr(standard, name) + share * getattr(extended, name)
            for name in ("accuracy", "tokens", "truncated")
        },
    )


def by_sample(columns: Columns, name: str) -> NDArray[Any]:
    """One column as `[P, S]`; problems with more than the smallest number of responses lose the last ones."""
    _, start, count = np.unique(columns["problem_id"], return_index=True, return_counts=True)
    return columns[name][start[:, None] + np.arange(count.min())]


def _two_names(path: Path) -> tuple[str, str]:
    policy, how = path.stem.rsplit("__", 1)
    return policy, how


def read_columns(path: Path) -> Columns:
    """One file of responses or choices: column name -> array, sorted by problem and sample."""
    columns: Columns = {}
    for name, values in pq.read_table(path).to_pydict().items():
        numeric = len(values) > 0 and isinstance(values[0], (int, float))
        columns[name] = np.array(values) if numeric else np.array(values, dtype=object)
    sample = columns.get("sample", np.zeros(len(columns["problem_id"])))
    order = np.lexsort((sample, columns["problem_id"]))
    return {name: values[order] for name, values in columns.items()}


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
