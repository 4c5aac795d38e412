"""A log larger than memory, in two passes: sums per (problem, response group), then the chosen rows.

What stays in memory grows with problems x response groups, not with rows. Letters: P problems, G response groups.
"""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation.given import FloatArray
from ibpo.allocation.ids import IntArray
from ibpo.allocation.log_file import LogColumns, LogError, OnError, parsed_rows

BLOCK = 1_000_000
"""Rows of Parquet read at a time; text is read by rows and gathered to a tenth of it."""

Block = tuple[Any, NDArray[Any], FloatArray, FloatArray]
"""Problem ids, names of response groups, rewards, costs."""


class StreamedCells:
    """Sums of rewards and costs per (problem, response group), added block by block."""

    def __init__(self) -> None:
        self.groups: list[str] = []
        self.num_rows = 0
        self._index: dict[Any, int] = {}  # of ids that are not whole numbers
        self._ids: IntArray = np.zeros(0, np.int64)  # whole-number ids, sorted, and their numbers
        self._number: IntArray = np.zeros(0, np.int64)
        self._sums: list[FloatArray] = []  # per response group [3, room]: count, reward, cost

    @property
    def num_problems(self) -> int:
        """P."""
        return len(self._ids) + len(self._index)

    def add(self, block: Block) -> None:
        """Add rows."""
        problem, group, reward, cost = block
        number = self._numbers(problem)
        self.num_rows += len(number)
        for name in dict.fromkeys(group.tolist()):
            if name not in self.groups:
                self.groups.append(name)
                self._sums.append(np.zeros((3, 0)))
            g = self.groups.index(name)
            if self._sums[g].shape[1] < self.num_problems:
                room = np.zeros(
                    (3, max(self.num_problems, min(2 * self._sums[g].shape[1], 4 * self.num_problems // 3)))
                )
                room[:, : self._sums[g].shape[1]] = self._sums[g]
                self._sums[g] = room
            here = group == name
            order = np.argsort(number[here], kind="stable")
            sorted_ = number[here][order]
            start = np.flatnonzero(np.concatenate([[True], sorted_[1:] != sorted_[:-1]]))
            at = sorted_[start]
            self._sums[g][0, at] += np.diff(start, append=len(sorted_))
            self._sums[g][1, at] += np.add.reduceat(reward[here][order], start)
            self._sums[g][2, at] += np.add.reduceat(cost[here][order], start)

    def _numbers(self, problem: Any) -> IntArray:
        """The number of each id, new ones counted on."""
        if not isinstance(problem, np.ndarray):
            return np.fromiter((self._index.setdefault(x, len(self._index)) for x in problem), np.int64, len(problem))
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

    def find(self, problem: Any) -> IntArray:
        """The number of each id, all of them seen before."""
        if isinstance(problem, np.ndarray):
            return self._number[np.searchsorted(self._ids, problem)]
        return np.fromiter(map(self._index.__getitem__, problem), np.int64, len(problem))

    def problems(self) -> list[Any] | IntArray:
        """P ids by number."""
        if self._index:
            return list(self._index)
        ids = np.empty(len(self._ids), np.int64)
        ids[self._number] = self._ids
        return ids

    def tables(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`[P, G]` count, mean reward, mean cost; frees the sums."""
        tables = np.zeros((3, self.num_problems, len(self.groups)))
        for g, sums in enumerate(self._sums):
            known = min(sums.shape[1], self.num_problems)
            tables[:, :known, g] = sums[:, :known]
        self._sums = []
        with np.errstate(invalid="ignore"):
            tables[1:] /= tables[0]
        return tables[0], tables[1], tables[2]


def blocks(
    path: Path, names: LogColumns, on_error: OnError, bad: list[str], columns: dict[str, str]
) -> Iterator[Block]:
    """The log in blocks of arrays; `columns` is filled with field -> column.

    Parquet columns of numbers are read as such; anything else goes by rows, checked one by one.
    """
    if path.name.endswith(".parquet") and path.is_file():
        yield from _parquet_blocks(path, names, on_error, bad, columns)
        return
    rows: list[dict[str, Any]] = []
    for found, row in parsed_rows(path, names, on_error, bad):
        columns.update(found)
        rows.append(row)
        if len(rows) == BLOCK // 10:
            yield _from_rows(rows)
            rows = []
    if rows:
        yield _from_rows(rows)


def _from_rows(rows: list[dict[str, Any]]) -> Block:
    return (
        [row["problem"] for row in rows],
        np.array([row["response_group"] for row in rows]),
        np.array([row["reward"] for row in rows]),
        np.array([row["cost"] for row in rows]),
    )


def _parquet_blocks(
    path: Path, names: LogColumns, on_error: OnError, bad: list[str], columns: dict[str, str]
) -> Iterator[Block]:
    try:
        from pyarrow import ArrowException, parquet, types
        from pyarrow import compute as _compute
    except ImportError:
        raise LogError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or give a .jsonl file") from None
    pc: Any = _compute  # its functions are made at import; no stub knows them
    try:
        with parquet.ParquetFile(path) as file:
            columns.update(names.resolve(path, dict.fromkeys(file.schema_arrow.names)))
            wanted = [columns[field] for field in ("problem", "response_group", "reward", "cost")]
            before = 0
            for batch in file.iter_batches(BLOCK, columns=list(dict.fromkeys(wanted))):
                problem, group, reward, cost = (batch.column(batch.schema.get_field_index(x)) for x in wanted)
                for field, values in (("reward", reward), ("cost", cost)):
                    kind = values.type
                    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
                        raise LogError(f"{path}, column {columns[field]!r}: {kind}, not numbers; store it as numbers")
                reward, cost = (
                    pc.fill_null(pc.cast(x, "float64"), np.nan).to_numpy(zero_copy_only=False) for x in (reward, cost)
                )
                missing = pc.or_(pc.is_null(problem), pc.is_null(group)).to_numpy(zero_copy_only=False)
                good = ~missing & np.isfinite(reward) & np.isfinite(cost) & (cost >= 0)
                if not good.all():
                    for r in np.flatnonzero(~good).tolist():
                        message = f"{path}, row {before + r + 1}: a field is missing, not finite, or a negative cost"
                        if on_error == "fail":
                            raise LogError(f"{message}; mend the row, or leave such rows out with --on-error skip")
                        bad.append(message)
                before += len(batch)
                whole = types.is_integer(problem.type)
                ids: Any = problem.filter(good) if not good.all() else problem
                ids = (
                    ids.to_numpy(zero_copy_only=False).astype(np.int64) if whole else pc.cast(ids, "string").to_pylist()
                )
                names_of = pc.cast(group, "string").dictionary_encode()
                texts = np.array([str(x) for x in names_of.dictionary.to_pylist()] or [""])
                code = pc.fill_null(names_of.indices, 0).to_numpy(zero_copy_only=False)
                yield ids, texts[code[good]], reward[good], cost[good]
    except (ArrowException, OSError) as error:
        raise LogError(f"{path}: cannot be read as Parquet: {error}") from None


def sum_cells(
    path: Path,
    names: LogColumns,
    *,
    on_error: OnError,
    bad: list[str],
    columns: dict[str, str],
    progress: Callable[[int], None] | None = None,
) -> StreamedCells:
    """The first pass.

    Raises:
        LogError: With file, row and mend; no rows at all.
    """
    cells = StreamedCells()
    for block in blocks(path, names, on_error, bad, columns):
        cells.add(block)
        if progress:
            progress(cells.num_rows)
    if not cells.num_rows:
        raise LogError(f"{path}: no {'usable ' if bad else ''}rows; a log needs one row per response")
    return cells
