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
