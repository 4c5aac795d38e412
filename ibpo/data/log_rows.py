"""Rows of a log as columns: texts of few kinds as numbers, rewards and costs as arrays. Letters: R responses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.data.fields import identifier_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labels:
    """Texts of few kinds: `names[code[r]]` is the text of row r."""

    code: NDArray[Any]
    names: list[str]

    @classmethod
    def from_list(cls, texts: list[str]) -> Labels:
        """Number the texts in order of first appearance."""
        number = {name: n for n, name in enumerate(dict.fromkeys(texts))}
        return cls(code=np.fromiter(map(number.__getitem__, texts), np.int64, len(texts)), names=list(number))

    def take(self, keep: IntArray) -> Labels:
        """The labels of these rows."""
        return Labels(code=self.code[keep], names=self.names)

    def hashes(self) -> IntArray:
        """A number for each row's text, the same for equal ones."""
        return np.fromiter(map(hash, self.names), np.int64, len(self.names))[self.code]

    def tolist(self) -> list[str]:
        """The text of each row."""
        return [self.names[code] for code in self.code.tolist()]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogRows:
    """Good rows of a log as columns.

    Attributes:
        problem: Problem ids, whole numbers or texts.
        response_group: Names of the response groups.
        reward: `[R]` finite.
        cost: `[R]` finite, at least 0, in the log's unit.
        part: Value of the `by` column; "" without one.
        shown: Value of the `show` column; None without one.
    """

    problem: IntArray | Labels
    response_group: Labels
    reward: FloatArray
    cost: FloatArray
    part: Labels
    shown: Labels | None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.reward)

    def by_part(self) -> Iterator[tuple[str, LogRows]]:
        """The rows of each part of the log among these."""
        for code, name in enumerate(self.part.names):
            here = self.part.code == code
            if here.all():
                yield name, self
            elif here.any():
                yield name, self.take(np.flatnonzero(here))

    def take(self, keep: IntArray) -> LogRows:
        """Only these rows."""
        return LogRows(
            problem=self.problem[keep] if isinstance(self.problem, np.ndarray) else self.problem.take(keep),
            response_group=self.response_group.take(keep),
            reward=self.reward[keep],
            cost=self.cost[keep],
            part=self.part.take(keep),
            shown=None if self.shown is None else self.shown.take(keep),
        )


REPEATED = 0.1
"""Share of the rows; fewer repeats are not worth a note."""
WHOLE = 10
"""Different rows of which it does not happen by chance that each occurs twice."""
BY_CHANCE = 3.0
"""Times as many as costs would meet by chance: costs of one problem are more alike than those of two."""


def note_repeats(cell: IntArray, group: IntArray, reward: FloatArray, cost: FloatArray) -> str:
    """Say that many rows repeat an earlier one, as copies and answers from a cache do; "" where few do.

    Where few different costs occur, rows are often alike by chance: as many are expected.

    Args:
        cell: `[R]` a number for each problem and response group.
        group: `[R]` a number for each response group.
        reward: `[R]`.
        cost: `[R]`.

    Example:
        >>> cell, group, reward = np.arange(8) // 2, np.zeros(8, np.int64), np.ones(8)
        >>> note_repeats(cell, group, reward, cost=np.array([7.0, 7, 9, 9, 12, 12, 4, 4]))[:28]
        '4 of 8 rows say what an earl'
        >>> note_repeats(cell, group, reward, cost=np.ones(8))
        ''
    """
    names, odd = (cell, reward.view(np.int64), cost.view(np.int64)), 0x9E3779B97F4A7C15
    row = np.zeros(len(cell), np.uint64)
    for numbers in names:
        row = (row ^ numbers.astype(np.uint64)) * np.uint64(odd)
        row ^= row >> np.uint64(32)
    in_order = np.sort(row)
    num_repeats = int((in_order[1:] == in_order[:-1]).sum())
    if num_repeats < max(2, REPEATED * len(row)):
        return ""
    _, first, times = np.unique(row, return_index=True, return_counts=True)
    _, num_alike = np.unique(np.stack([group[first], names[2][first]]), axis=1, return_counts=True)
    _, num_other = np.unique(group[first], return_counts=True)
    chance = (num_alike * (num_alike - 1)).sum() / max(1, (num_other * (num_other - 1)).sum())
    size = np.unique(cell, return_counts=True)[1]
    expected = (size - (1 - (1 - chance) ** size) / chance).sum() if chance else 0.0
    is_whole = len(first) >= WHOLE and not (times % 2).any()  # each of them twice, as in a file behind itself
    if num_repeats < BY_CHANCE * expected and not is_whole:
        return ""
    return (
        f"{num_repeats:,} of {len(row):,} rows say what an earlier row says: problem, response group, reward and cost; "
        "if they are copies or answers from a cache, take them out: they make intervals and held-out values look surer "
        "than they are"
    )


def array_of(column: Any, kind: str, empty: float, arrow: Any) -> NDArray[Any]:
    """A column of pyarrow, cast to a type of numbers, `empty` where nothing is. Not `to_numpy`, which loads pandas."""
    compute = arrow.compute
    numbers = compute.cast(column, kind, safe=False)
    return np.from_dlpack(compute.fill_null(numbers, arrow.scalar(empty, kind)) if numbers.null_count else numbers)


def labels_of(column: Any, arrow: Any) -> tuple[Labels, NDArray[np.bool_]]:
    """The texts of a column of pyarrow (`identifier_of`), and which rows certainly have one."""
    found = column if arrow.types.is_dictionary(column.type) else column.dictionary_encode()
    values = found.dictionary.to_pylist() or [None]
    said = np.array([value not in (None, "", "nan") and value == value for value in values])
    code = array_of(found.indices, "int32", -1, arrow)
    there = (code >= 0) & said[code]
    texts = list(map(identifier_of, values))
    number = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    if len(number) < len(texts):
        code = np.array([number[text] for text in texts])[code]
    return Labels(code=code, names=list(number)), there
