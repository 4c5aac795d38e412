"""Rows gathered by problem, worked through in blocks that stay in the processor's cache.

At 1e7 responses the time goes into memory, not arithmetic: a dozen passes over a block that is in the cache cost what
two passes over the whole array do. Maxima and copies do not round, so neither the size of a block nor the layout of the
rows can change a bit of an answer. Letters: R rows, P problems.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

BLOCK = 131_072
"""Rows of a block: a megabyte of float64. Smaller ones cost more in calls than they save in memory traffic."""
WIDE = 24
"""Rows per problem from which numpy's own reduction along a row is faster than one pass per column."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Runs:
    """Where the rows of each problem stand: together, problem after problem.

    Attributes:
        num_rows: R.
        width: Rows of every problem, where all have as many; else None.
        begin: `[P]` first row of each problem; None where `width` says it.
    """

    num_rows: int
    width: int | None
    begin: IntArray | None

    @classmethod
    def from_start(cls, start: IntArray, num_rows: int) -> "Runs":
        """Runs that begin at these rows; finds out whether all are of one length."""
        width, left = divmod(num_rows, len(start))
        if not left and (np.diff(start, append=num_rows) == width).all():
            return cls(num_rows=num_rows, width=width, begin=None)
        return cls(num_rows=num_rows, width=None, begin=start)

    @property
    def num_problems(self) -> int:
        """P."""
        return self.num_rows // self.width if self.begin is None and self.width else len(self.start)

    @property
    def start(self) -> IntArray:
        """`[P]` the first row of each problem."""
        return np.arange(0, self.num_rows, self.width) if self.begin is None else self.begin

    @property
    def length(self) -> IntArray:
        """`[P]` number of rows of each problem."""
        return np.diff(self.start, append=self.num_rows)

    def max(self, values: NDArray[Any]) -> NDArray[Any]:
        """`[R]` -> `[P]` the largest value of each problem."""
        return self._reduced(np.maximum, values)

    def min(self, values: NDArray[Any]) -> NDArray[Any]:
        """`[R]` -> `[P]` the smallest value of each problem."""
        return self._reduced(np.minimum, values)

    def _reduced(self, ufunc: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
        if self.width is None:
            return ufunc.reduceat(values, self.start)
        left = self.width
        while left % 2 == 0:
            values, left = ufunc(values[0::2], values[1::2]), left // 2
        if left == 1:
            return values
        table = values.reshape(-1, left)
        if left >= WIDE:
            return ufunc.reduce(table, axis=1)
        result = table[:, 0].copy()
        for column in range(1, left):
            ufunc(result, table[:, column], out=result)
        return result

    def spread(self, of_problem: NDArray[Any]) -> NDArray[Any]:
        """`[P]` -> `[R]`."""
        return np.repeat(of_problem, self.length if self.width is None else self.width)

    def problem_of(self, rows: IntArray) -> IntArray:
        """The problem of each of these rows."""
        if self.width is not None:
            return rows // self.width
        return np.searchsorted(self.start, rows, side="right") - 1

    @property
    def longest_block(self) -> int:
        """Rows of the longest block."""
        return max(rows.stop - rows.start for _, rows, _ in self.blocks())

    def blocks(self) -> Iterator[tuple[slice, slice, "Runs"]]:
        """Consecutive blocks: which problems, which rows, and the runs of these rows."""
        if self.width is not None:
            step = max(1, BLOCK // self.width)
            for first in range(0, self.num_problems, step):
                last = min(first + step, self.num_problems)
                rows = slice(first * self.width, last * self.width)
                yield slice(first, last), rows, Runs(num_rows=rows.stop - rows.start, width=self.width, begin=None)
            return
        ends = np.unique(np.searchsorted(self.start, np.arange(BLOCK, self.num_rows + BLOCK, BLOCK)))
        first = 0
        for last in ends.tolist():
            begin = self.start[first:last]
            rows = slice(int(begin[0]), int(self.start[last]) if last < len(self.start) else self.num_rows)
            yield slice(first, last), rows, Runs(num_rows=rows.stop - rows.start, width=None, begin=begin - begin[0])
            first = last


def slices_of(num_rows: int) -> Iterator[slice]:
    """Consecutive blocks of rows, without regard to problems."""
    return (slice(first, min(first + BLOCK, num_rows)) for first in range(0, num_rows, BLOCK))
