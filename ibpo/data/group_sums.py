"""Sums per (problem, response group) of a log larger than memory, added block by rows.

What stays in memory grows with problems x response groups, not with rows. Letters: P problems, G response groups.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.data.log_rows import FloatArray, IntArray, Labels, LogRows
from ibpo.data.response_log import LogReader


class GroupSums:
    """Sums of rewards and costs per (problem, response group), added block by rows."""

    def __init__(self) -> None:
        self.groups: list[str] = []
        self.num_rows = 0
        self._index: dict[str, int] = {}  # of ids that are not whole numbers
        self._ids: IntArray = np.zeros(0, np.int64)  # whole-number ids, sorted, and their numbers
        self._number: IntArray = np.zeros(0, np.int64)
        self._sums: list[FloatArray] = []  # per response group [3, room]: count, reward, cost
        self._squares: list[FloatArray] = []  # per response group [2, 2]: products of reward and cost less `offset`
        self._offset: list[float] = []  # per response group: the cost of its first row
        self._shown_names: dict[str, int] = {}
        self._shown: NDArray[np.int32] = np.zeros(0, np.int32)  # [room]

    @property
    def num_problems(self) -> int:
        """Number of problems, P."""
        return len(self._ids) + len(self._index)

    def add(self, rows: LogRows) -> None:
        """Add rows."""
        number = self._numbers(rows.problem)
        self.num_rows += len(rows)
        for code, name in enumerate(rows.response_group.names):
            here = np.flatnonzero(rows.response_group.code == code)
            if not len(here):
                continue
            if name not in self.groups:
                self.groups.append(name)
                self._sums.append(np.zeros((3, 0)))
                self._squares.append(np.zeros((2, 2)))
                self._offset.append(float(rows.cost[here[0]]))
            g = self.groups.index(name)
            self._sums[g] = self._with_room(self._sums[g])
            both = np.stack([rows.reward[here], rows.cost[here]])
            for total, values in zip(self._sums[g], (1.0, *both), strict=True):
                np.add.at(total, number[here], values)
            both[1] -= self._offset[g]
            self._squares[g] += both @ both.T
        if rows.shown is not None:
            self._shown = self._with_room(self._shown)
            codes = [self._shown_names.setdefault(name, len(self._shown_names)) for name in rows.shown.names]
            names, code, was = list(self._shown_names), np.array(codes, np.int32)[rows.shown.code], self._shown[number]
            rank = np.empty(len(names), np.int32)
            rank[np.array(sorted(range(len(names)), key=names.__getitem__))] = np.arange(len(names), dtype=np.int32)
            # Where they differ within a problem the first by name, whatever the order of the rows; 0: none yet.
            least = np.where((was > 0) & (rank[was - 1] < rank[code]), was - 1, code)
            order = np.argsort(-rank[least], kind="stable")
            self._shown[number[order]] = least[order] + 1

    def _with_room(self, values: NDArray[Any]) -> NDArray[Any]:
        """The same with a place for every problem, and some more."""
        room = values.shape[-1]
        if room >= self.num_problems:
            return values
        more = np.zeros(
            (*values.shape[:-1], max(self.num_problems, min(2 * room, 4 * self.num_problems // 3))), values.dtype
        )
        more[..., :room] = values
        return more

    def _numbers(self, problem: IntArray | Labels) -> IntArray:
        """The number of each id, new ones counted on."""
        if isinstance(problem, Labels):
            used = np.zeros(len(problem.names), bool)
            used[problem.code] = True
            number = np.full(len(used), -1, np.int64)
            for n in np.flatnonzero(used).tolist():
                number[n] = self._index.setdefault(problem.names[n], len(self._index))
            return number[problem.code]
        ids, inverse = np.unique(problem, return_inverse=True)
        place = np.searchsorted(self._ids, ids)
        known = place < len(self._ids)
        known[known] = self._ids[place[known]] == ids[known]
        if not known.all():
            fresh = ids[~known]
            number = len(self._ids) + np.arange(len(fresh))
            self._ids = np.insert(self._ids, place[~known], fresh)
            self._number = np.insert(self._number, place[~known], number)
        return self._number[np.searchsorted(self._ids, ids)][inverse]

    def find(self, problem: IntArray | Labels) -> IntArray:
        """The number of each id, all of them seen before."""
        if isinstance(problem, np.ndarray):
            return self._number[np.searchsorted(self._ids, problem)]
        return np.array([self._index.get(x, -1) for x in problem.names], np.int64)[problem.code]

    def problems(self) -> list[Any] | IntArray:
        """P ids by number."""
        if self._index:
            return list(self._index)
        ids = np.empty(len(self._ids), np.int64)
        ids[self._number] = self._ids
        return ids

    def shown(self) -> Labels | None:
        """`[P]` the `show` column of each problem, the first by name where its rows differ; None without one."""
        if not self._shown_names:
            return None
        return Labels(code=self._shown[: self.num_problems] - 1, names=list(self._shown_names))

    def squares(self) -> FloatArray:
        """`[G, 2, 2]` sums over responses of the products of (reward, cost - offset) with each other."""
        return np.array(self._squares)

    def offsets(self) -> FloatArray:
        """`[G]` the cost of each response group's first row: squares of large, nearly equal costs are all rounding."""
        return np.array(self._offset)

    def tables(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`[P, G]` count, mean reward, mean cost; frees the sums."""
        tables = np.zeros((3, self.num_problems, len(self.groups)))
        for g in range(len(self.groups)):
            known = min(self._sums[g].shape[1], self.num_problems)
            tables[:, :known, g] = self._sums[g][:, :known]
            self._sums[g] = np.zeros((3, 0))
        with np.errstate(invalid="ignore"):
            tables[1:] /= tables[0]
        return tables[0], tables[1], tables[2]


def sum_parts(reader: LogReader, progress: Callable[[int], None] | None = None) -> dict[str, GroupSums]:
    """Sums for each value of the `by` column ("" without one), in order of first appearance.

    Raises:
        LogError: With file, row and fix; no rows at all.
    """
    parts: dict[str, GroupSums] = {}
    for block in reader.blocks(progress):
        for name, rows in block.by_part():
            parts.setdefault(name, GroupSums()).add(rows)
    return parts
