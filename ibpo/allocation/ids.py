"""Ids of problems and responses: equal or not, and in an order that no row order and no machine can change.

Letters: R responses, P problems.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation.runs import IntArray, Runs, slices_of
from ibpo.errors import IbpoError

KeyArray = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, odd."""


def id_items(values: ArrayLike | Sequence[Hashable]) -> list[Hashable]:
    """Ids as plain Python objects."""
    items = cast(list[Hashable], values.tolist() if isinstance(values, np.ndarray) else list(cast(Any, values)))
    return [x.item() if isinstance(x, np.generic) else x for x in items]


def id_names(argument: str, values: ArrayLike | Sequence[Hashable], length: int) -> list[str]:
    """Ids as their repr: equal repr, equal id; stable between runs for int, str and tuples of these."""
    items = id_items(values)
    if len(items) != length:
        raise IbpoError(f"{argument}: needs one id per response, {length}, got {len(items)}")
    names = list(map(repr, items))
    for bad in {"None", "nan"} & set(names):
        raise IbpoError(f"{argument}[{names.index(bad)}] is {bad}: give every response an id")
    return names


def whole_ids(values: ArrayLike | Sequence[Hashable]) -> IntArray | None:
    """The ids as an int64 array where all of them are whole numbers, else None. Never a copy of an int64 array."""
    if isinstance(values, np.ndarray):
        fits = values.dtype.kind == "i" or (values.dtype.kind == "u" and values.dtype.itemsize < 8)
        return cast(IntArray, values).astype(np.int64, copy=False) if fits and values.ndim == 1 else None
    items: list[Any] = list(cast(Any, values))
    if not all(issubclass(kind, int | np.integer) and kind is not bool for kind in set(map(type, items))):
        return None
    try:
        return np.fromiter(items, np.int64, len(items))
    except OverflowError:
        return None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProblemIds:
    """Rows gathered by problem.

    Attributes:
        order: `[R]` rows so that equal ids stand together, rows of one problem in their own order; None where they
            already do.
        runs: The rows of each problem, in that order.
        ids: `[P]` whole-number ids, or None.
        names: P names (the repr of each id), or None where `ids` is given.
        seed: Of the hash.
    """

    order: IntArray | None
    runs: Runs
    ids: IntArray | None
    names: list[str] | None
    seed: str

    @classmethod
    def from_values(cls, values: ArrayLike | Sequence[Hashable], length: int, seed: str) -> "ProblemIds":
        """Gather the rows: nothing to do where the rows of every problem stand together, else a sort."""
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
        gathered = _together(whole)
        if gathered is None:
            order, whole = _stable_sort(whole)
            gathered = _together(whole)
            assert gathered is not None
        runs, ids = gathered
        if names is not None:
            return cls(order=order, runs=runs, ids=None, names=[names[p] for p in ids.tolist()], seed=seed)
        return cls(order=order, runs=runs, ids=ids, names=None, seed=seed)

    def of(self, problems: IntArray) -> "ProblemIds":
        """These problems only, one row each."""
        return ProblemIds(
            order=None,
            runs=Runs(num_rows=len(problems), width=1, begin=None),
            ids=None if self.ids is None else self.ids[problems],
            names=None if self.names is None else [self.names[p] for p in problems.tolist()],
            seed=self.seed,
        )

    def sample(self, size: int) -> IntArray:
        """About `size` of the problems (all, if they are not more), whatever their order: those with small hashes."""
        if self.ids is None:
            return np.flatnonzero(self.key(np.arange(self.runs.num_problems)) <= _part(size, self.runs.num_problems))
        # The golden ratio's multiples are spread more evenly than chance would, and cost one multiplication.
        return np.flatnonzero(self.ids.view(np.uint64) * GOLDEN <= _part(size, self.runs.num_problems))

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


def _together(ids: IntArray) -> tuple[Runs, IntArray] | None:
    """The runs of equal ids and the id of each, in one pass; None where some id has two runs."""
    width = _first_run(ids)
    runs = Runs(num_rows=len(ids), width=width, begin=None)
    heads = None if len(ids) % width else _heads(ids, runs)
    if heads is None:
        starts = [np.zeros(1, np.int64)]
        for rows in slices_of(len(ids) - 1):
            before, after = ids[rows], ids[rows.start + 1 : rows.stop + 1]
            starts.append(np.flatnonzero(before != after) + (rows.start + 1))
        start = np.concatenate(starts)
        heads, runs = ids[start], Runs.from_start(start, len(ids))
    if not (heads[1:] > heads[:-1]).all() and not _distinct(heads):
        return None
    return runs, heads


def _first_run(ids: IntArray) -> int:
    for rows in slices_of(len(ids)):
        other = np.flatnonzero(ids[rows] != ids[0])
        if len(other):
            return rows.start + int(other[0])
    return len(ids)


def _heads(ids: IntArray, runs: Runs) -> IntArray | None:
    """`[P]` the first id of each run; None unless ids, if those of the runs are distinct, change between runs only."""
    heads, width = np.empty(runs.num_problems, np.int64), runs.width
    for problems, rows, part in runs.blocks():
        here, of_run = ids[rows], heads[problems]
        of_run[:] = here[::width]
        if np.count_nonzero(here[1:] != here[:-1]) != part.num_problems - 1 or width is None:
            return None
        if not (here[width - 1 :: width] == of_run).all():
            return None
    return heads


def _distinct(ids: IntArray) -> bool:
    low, span = int(ids.min()), int(ids.max()) - int(ids.min())
    if span < 16 * len(ids):
        seen = np.zeros(span + 1, bool)
        seen[ids - low] = True
        return int(np.count_nonzero(seen)) == len(ids)
    return len(np.unique(ids)) == len(ids)


def _stable_sort(ids: IntArray) -> tuple[IntArray, IntArray]:
    """A stable argsort, and the sorted ids."""
    low, span, bits = int(ids.min()), int(ids.max()) - int(ids.min()), len(ids).bit_length()
    if span >> (62 - bits):
        order = np.argsort(ids, kind="stable")
        return order, ids[order]
    # Id and row in one number: numpy's sort of plain numbers is several times faster than its argsort.
    both = ((ids - low) << bits) | np.arange(len(ids))
    both.sort()
    return both & ((1 << bits) - 1), (both >> bits) + low
