"""Rows gathered by problem: segments of equal ids, worked through in blocks, and sums that no order can change.

At 1e7 responses the time goes into memory, not arithmetic: a dozen passes over a block that is in the processor's cache
cost what two passes over the whole array do. Maxima and copies do not round, so neither the size of a block nor the
layout of the rows can change a bit of an answer. Ids are equal or not, and are ordered by a hash that no row order and
no machine can change. Letters: R rows (responses), P problems.
"""

import hashlib
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation import kernels
from ibpo.errors import IbpoError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
KeyArray = NDArray[np.uint64]
ObjectArray = NDArray[np.object_]
"""Python's whole numbers or fractions, for what floats cannot hold."""

BLOCK = 131_072
"""Rows of a block: a megabyte of float64. Smaller ones cost more in calls than they save in memory traffic."""
FEW = 1000
"""Numbers that Python sums as fast."""
WIDE = 24
"""Rows per problem from which numpy's own reduction along a row is faster than one pass per column."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, odd."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segments:
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
    def from_start(cls, start: IntArray, num_rows: int) -> "Segments":
        """Segments that begin at these rows; finds out whether all are of one length."""
        width, left = divmod(num_rows, len(start)) if len(start) else (0, 1)
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
        if self.width is not None:
            return np.full(self.num_problems, self.width)
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
        # Halve as long as it comes out even: the maximum of the maxima of pairs.
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

    def rows_of(self, problems: IntArray) -> IntArray:
        """All rows of these problems, problem after problem."""
        if self.width is not None:
            return (problems[:, None] * self.width + np.arange(self.width)).ravel()
        size = self.length[problems]
        # Row i of the result is row i - (rows before its problem) of its problem.
        before = np.cumsum(size) - size
        return np.repeat(self.start[problems] - before, size) + np.arange(int(size.sum()))

    def problem_of(self, rows: IntArray) -> IntArray:
        """The problem of each of these rows."""
        if self.width is not None:
            return rows // self.width
        return np.searchsorted(self.start, rows, side="right") - 1

    @property
    def longest_block(self) -> int:
        """Rows of the longest block."""
        return max(rows.stop - rows.start for _, rows, _ in self.blocks())

    def blocks(self, most: int = BLOCK) -> Iterator[tuple[slice, slice, "Segments"]]:
        """Consecutive blocks of about `most` rows: which problems, which rows, and the segments of these rows."""
        if self.width is not None:
            step = max(1, most // self.width)
            for first in range(0, self.num_problems, step):
                last = min(first + step, self.num_problems)
                rows = slice(first * self.width, last * self.width)
                yield slice(first, last), rows, Segments(num_rows=rows.stop - rows.start, width=self.width, begin=None)
            return
        ends = np.unique(np.searchsorted(self.start, np.arange(most, self.num_rows + most, most)))
        first = 0
        for last in ends.tolist():
            begin = self.start[first:last]
            rows = slice(int(begin[0]), int(self.start[last]) if last < len(self.start) else self.num_rows)
            block = Segments(num_rows=rows.stop - rows.start, width=None, begin=begin - begin[0])
            yield slice(first, last), rows, block
            first = last


def is_first(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each value begins a stretch of equal ones."""
    return np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]


def slices_of(num_rows: int) -> Iterator[slice]:
    """Consecutive blocks of rows, without regard to problems."""
    return (slice(first, min(first + BLOCK, num_rows)) for first in range(0, num_rows, BLOCK))


def exact_sum(values: NDArray[np.float64]) -> float:
    """The exact sum, rounded once, as `math.fsum` gives it, but at numpy's speed.

    Block by block; each round takes from every number of a block its leading bits on a common grid, so coarse that no
    addition rounds, until nothing is left (Demmel and Nguyen, "Fast reproducible floating-point summation", 2013, run
    to exhaustion). The sums of all rounds of all blocks go to `math.fsum`.

    Example:
        >>> exact_sum(np.array([1e16, 1.0, -1e16] * 1000))
        1000.0
    """
    if len(values) < FEW:
        return math.fsum(values.tolist()) + 0.0  # never -0.0
    parts: list[float] = []
    for rows in slices_of(len(values)):
        add_parts(values[rows], parts)
    return math.fsum(parts) + 0.0


def add_parts(rest: NDArray[np.float64], parts: list[float]) -> None:
    """Append a few numbers whose exact sum is that of the block: `math.fsum` of all parts rounds once."""
    if not len(rest):
        return
    if kernels.LIBRARY is not None and rest.flags.c_contiguous:
        found = np.empty(136)
        count = kernels.LIBRARY.exact_parts(kernels.at(rest), kernels.Int(len(rest)), kernels.at(found))
        if count >= 0:  # all are finite
            parts += found[:count].tolist()
            return
    carry = math.frexp(len(rest))[1] + 1  # bits by which a sum of that many numbers can outgrow the largest
    while True:
        largest = max(float(rest.max()), -float(rest.min()))
        if largest == 0.0:
            return
        exponent = math.frexp(largest)[1] + carry
        if exponent > 1020 or not math.isfinite(largest):  # the grid would overflow
            parts += rest.tolist()
            return
        grid = math.ldexp(1.5, exponent)
        leading = (rest + grid) - grid  # rounded to multiples of the last bit of the grid
        parts.append(float(leading.sum()))
        rest = rest - leading


def sum_whole(values: NDArray[np.float64]) -> int:
    """The exact sum of floats that are whole numbers below 2^53, of any size."""
    total = 0
    for rows in slices_of(len(values)):
        here = values[rows].astype(np.int64)  # in halves of 26 bits, sums of a block of which fit into 64
        total += (int((here >> 26).sum()) << 26) + int((here & (2**26 - 1)).sum())
    return total


MISSING = {"None", "nan", "NaT", "<NA>"}
"""The repr of what stands for no id: Python's, numpy's, and pandas' for dates, texts and whole numbers."""


def id_items(values: ArrayLike | Sequence[Hashable], argument: str = "ids") -> list[Hashable]:
    """Ids as plain Python objects; what a column of pyarrow or torch holds is none by itself.

    Raises:
        IbpoError: for what is no sequence.
    """
    held = cast(Any, values)
    to_list = getattr(held, "to_pylist", None) or getattr(held, "tolist", None)
    try:
        items = cast(list[Hashable], list(held if to_list is None else to_list()))
    except TypeError:
        raise IbpoError(f"{argument}: needs a sequence, one for each response, got {held!r}") from None
    return [x.item() if isinstance(x, np.generic) else x for x in items]


def id_names(argument: str, values: ArrayLike | Sequence[Hashable], length: int) -> list[str]:
    """Ids as their repr: equal repr, equal id; the same in every run for int, str and tuples of these."""
    items = id_items(values, argument)
    if len(items) != length:
        raise IbpoError(f"{argument}: needs one id per response, {length}, got {len(items)}")
    names = list(map(repr, items))
    for bad in MISSING & set(names):
        raise IbpoError(f"{argument}[{names.index(bad)}] is {bad}: give every response an id")
    return names


def number_texts(texts: Sequence[str]) -> tuple[list[str], IntArray]:
    """The different texts in order, and which of them each one is: a tenth of the time that sorting all of them takes.

    Example:
        >>> names, which = number_texts(["b", "a", "b"])
        >>> names, which.tolist()
        (['a', 'b'], [1, 0, 1])
    """
    names = sorted(set(texts))
    at = {name: i for i, name in enumerate(names)}
    return names, np.fromiter(map(at.__getitem__, texts), np.int64, len(texts))


def whole_ids(values: ArrayLike | Sequence[Hashable]) -> IntArray | None:
    """The ids as an int64 array where all of them are whole numbers, else None. Never a copy of an int64 array."""
    if isinstance(values, np.ndarray) and not isinstance(values, np.ma.MaskedArray):
        fits = values.dtype.kind == "i" or (values.dtype.kind == "u" and values.dtype.itemsize < 8)
        return cast(IntArray, values).astype(np.int64, copy=False) if fits and values.ndim == 1 else None
    held = cast(Any, values)
    items = cast(list[Any], held if isinstance(held, list) else id_items(held))
    if not all(issubclass(kind, int | np.integer) and kind is not bool for kind in set(map(type, items))):
        return None
    try:
        return np.fromiter(items, np.int64, len(items))
    except OverflowError:
        return None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScatteredRows:
    """Rows in random order, as compiled passes take them without gathering: in tables by id (`scatter_*` of kernels.c).

    Attributes:
        values: `[R]` the id of each row.
        low: The smallest.
        span: The largest less the smallest, and 1: the places of a table.
        there: `[P]` places of ids that there are; None where all places are such.
    """

    values: IntArray
    low: int
    span: int
    there: IntArray | None

    @classmethod
    def from_ids(cls, ids: IntArray) -> "ScatteredRows | None":
        """None where the tables would be mostly empty, or nothing is compiled."""
        if kernels.LIBRARY is None or not ids.flags.c_contiguous:
            return None
        low, span = int(ids.min()), int(ids.max()) - int(ids.min()) + 1
        if span > len(ids):
            return None
        seen = np.zeros(span, np.uint8)
        kernels.LIBRARY.see_ids(kernels.at(ids), kernels.Int(len(ids)), kernels.Int(low), kernels.at(seen))
        there = np.flatnonzero(seen)
        if 2 * len(there) < span:
            return None
        return cls(values=ids, low=low, span=span, there=None if len(there) == span else there)

    @property
    def ids(self) -> IntArray:
        """`[P]` rising."""
        return np.arange(self.low, self.low + self.span) if self.there is None else self.there + self.low

    def by_problem(self, table: NDArray[Any]) -> NDArray[Any]:
        """`[..., span]` -> `[..., P]`."""
        return table if self.there is None else table[..., self.there]

    def by_place(self, of_problem: NDArray[Any], otherwise: float) -> NDArray[Any]:
        """`[P]` -> `[span]`, a copy."""
        if self.there is None:
            return of_problem.copy()
        table = np.full(self.span, otherwise, of_problem.dtype)
        table[self.there] = of_problem
        return table


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProblemIds:
    """Rows by problem.

    Attributes:
        rows: The rows of each problem: where they stand after `order`, or, before `gathered`, scattered.
        order: `[R]` rows so that equal ids are together, rows of one problem in their own order; None where they
            already do, or are scattered.
        ids: `[P]` whole-number ids, or None.
        names: P names (the repr of each id), or None where `ids` is given.
        seed: Seed of the hash.
    """

    rows: Segments | ScatteredRows
    order: IntArray | None
    ids: IntArray | None
    names: list[str] | None
    seed: str

    @classmethod
    def from_values(cls, values: ArrayLike | Sequence[Hashable], length: int, seed: str) -> "ProblemIds":
        """The rows by problem: nothing to do where those of every problem are together."""
        if not isinstance(values, np.ndarray | list):
            values = id_items(values, "problem")  # an iterator can be read once
        values = cast(Sequence[Hashable], values)
        whole = whole_ids(values)
        names = None
        if whole is None:
            text = id_names("problem", values, length)
            number = {name: p for p, name in enumerate(dict.fromkeys(text))}
            names = list(number)
            whole = np.fromiter(map(number.__getitem__, text), np.int64, length)
        if len(whole) != length:
            raise IbpoError(f"problem: needs one id per response, {length}, got {len(whole)}")
        order = None
        if (gathered := _together(whole)) is not None:
            rows, ids = gathered
        elif (rows := ScatteredRows.from_ids(whole)) is not None:
            ids = rows.ids
        else:
            order, (rows, ids) = _sorted_rows(whole)
        if names is not None:
            return cls(rows=rows, order=order, ids=None, names=[names[p] for p in ids.tolist()], seed=seed)
        return cls(rows=rows, order=order, ids=ids, names=None, seed=seed)

    @property
    def num_problems(self) -> int:
        """P."""
        if isinstance(self.rows, Segments):
            return self.rows.num_problems
        return self.rows.span if self.rows.there is None else len(self.rows.there)

    def gathered(self) -> tuple[IntArray | None, Segments]:
        """`order`, and the rows of each problem in that order: a sort where they are scattered."""
        if isinstance(self.rows, Segments):
            return self.order, self.rows
        order, (segments, _) = _sorted_rows(self.rows.values)
        return order, segments

    def of(self, problems: IntArray) -> "ProblemIds":
        """These problems only, one row each."""
        return ProblemIds(
            rows=Segments(num_rows=len(problems), width=1, begin=None),
            order=None,
            ids=None if self.ids is None else self.ids[problems],
            names=None if self.names is None else [self.names[p] for p in problems.tolist()],
            seed=self.seed,
        )

    def sample(self, size: int) -> IntArray:
        """About `size` of the problems (all, if they are not more), whatever their order: those with small hashes."""
        if self.ids is None:
            return np.flatnonzero(self.key(np.arange(self.num_problems)) <= _part(size, self.num_problems))
        # The golden ratio's multiples are spread more evenly than chance would, and cost one multiplication.
        return np.flatnonzero(self.ids.view(np.uint64) * GOLDEN <= _part(size, self.num_problems))

    def key(self, problems: IntArray) -> KeyArray:
        """Hash of these problems' ids: what orders ties. Distinct for whole-number ids."""
        if self.ids is not None:
            return mix(self.ids[problems], self.seed)
        assert self.names is not None
        return np.array([text_key(self.names[int(p)], self.seed) for p in problems], np.uint64)


def _part(size: int, of: int) -> np.uint64:
    return np.uint64(min(size * 2**64 // of, 2**64 - 1))


def mix(ids: IntArray, seed: str) -> KeyArray:
    """A permutation of the 64-bit numbers that looks random (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = ids.astype(np.uint64) + np.uint64(text_key("seed", seed))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def text_key(name: str, seed: str) -> int:
    """64 bits of BLAKE2b: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest(), "big")


def _together(ids: IntArray) -> tuple[Segments, IntArray] | None:
    """The segments of equal ids and the id of each, in one pass; None where some id has two segments."""
    width = _first_segment(ids)
    segments = Segments(num_rows=len(ids), width=width, begin=None)
    heads = None if len(ids) % width else _heads(ids, segments)
    if heads is None:
        starts = [np.zeros(1, np.int64)]
        for rows in slices_of(len(ids) - 1):
            starts.append(_changes(ids[rows.start : rows.stop + 1]) + rows.start)
            if not rows.start and not _distinct(ids[np.concatenate(starts)]):
                return None  # rows in random order: no need to look at all
        start = np.concatenate(starts)
        heads, segments = ids[start], Segments.from_start(start, len(ids))
    if not (heads[1:] > heads[:-1]).all() and not _distinct(heads):
        return None
    return segments, heads


def _changes(ids: IntArray) -> IntArray:
    """The rows whose id is another than that of the row before."""
    if kernels.LIBRARY is None or not ids.flags.c_contiguous:
        return np.flatnonzero(ids[1:] != ids[:-1]) + 1
    found = np.empty(len(ids), np.int64)
    return found[: kernels.LIBRARY.starts(kernels.at(ids), kernels.Int(len(ids)), kernels.at(found))]


def _first_segment(ids: IntArray) -> int:
    for rows in slices_of(len(ids)):
        other = np.flatnonzero(ids[rows] != ids[0])
        if len(other):
            return rows.start + int(other[0])
    return len(ids)


def _heads(ids: IntArray, segments: Segments) -> IntArray | None:
    """`[P]` the id of each segment; None unless ids change between segments, and there only."""
    heads, width = np.empty(segments.num_problems, np.int64), segments.width
    assert width is not None
    if kernels.LIBRARY is not None and ids.flags.c_contiguous:
        size = kernels.Int(len(ids)), kernels.Int(width)
        return heads if kernels.LIBRARY.heads(kernels.at(ids), *size, kernels.at(heads)) else None
    for problems, rows, block in segments.blocks():
        here, of_segment = ids[rows], heads[problems]
        of_segment[:] = here[::width]
        if np.count_nonzero(here[1:] != here[:-1]) != block.num_problems - 1:
            return None
        if not (here[width - 1 :: width] == of_segment).all():
            return None
    return heads


def _distinct(ids: IntArray) -> bool:
    low, span = int(ids.min()), int(ids.max()) - int(ids.min())
    if span < 16 * len(ids):
        seen = np.zeros(span + 1, bool)
        seen[ids - low] = True
        return int(np.count_nonzero(seen)) == len(ids)
    return len(np.unique(ids)) == len(ids)


def _sorted_rows(ids: IntArray) -> tuple[IntArray, tuple[Segments, IntArray]]:
    """A stable argsort; the segments of equal ids in that order, and the id of each."""
    low, span, bits = int(ids.min()), int(ids.max()) - int(ids.min()), len(ids).bit_length()
    if kernels.LIBRARY is not None and ids.flags.c_contiguous and span < 4 * len(ids):
        # By counting, as fast as memory is at random places.
        end, order = np.zeros(span + 2, np.int64), np.empty(len(ids), np.int64)
        size = kernels.Int(len(ids)), kernels.Int(low), kernels.Int(span + 1)
        kernels.LIBRARY.sorted_rows(kernels.at(ids), *size, kernels.at(end), kernels.at(order))
        length = np.diff(end[:-1], prepend=0)
        there = np.flatnonzero(length)
        return order, (Segments.from_start(end[there] - length[there], len(ids)), there + low)
    if span >> (62 - bits):
        order = np.argsort(ids, kind="stable")
        gathered = _together(ids[order])
    else:  # id and row in one number: numpy's sort of plain numbers is several times faster than its argsort
        both = ((ids - low) << bits) | np.arange(len(ids))
        both.sort()
        order, gathered = both & ((1 << bits) - 1), _together((both >> bits) + low)
    assert gathered is not None
    return order, gathered
