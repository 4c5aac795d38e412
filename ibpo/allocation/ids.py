"""Ids of problems and responses: equal or not, and in an order that no row order and no machine can change.

Letters: R responses, P problems.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array

from ibpo.errors import IbpoError

IntArray = NDArray[np.int64]
KeyArray = NDArray[np.uint64]


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
        start: `[P]` place of the first row of each problem, in that order.
        ids: `[P]` whole-number ids, or None.
        names: P names (the repr of each id), or None where `ids` is given.
        seed: Of the hash.
    """

    order: IntArray | None
    start: IntArray
    ids: IntArray | None
    names: list[str] | None
    seed: str

    @classmethod
    def from_values(cls, values: ArrayLike | Sequence[Hashable], length: int, seed: str) -> "ProblemIds":
        """Gather the rows: nothing to do for sorted ids, a counting sort for dense ones, else a sort."""
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
        if (whole[1:] < whole[:-1]).any():
            order = _stable_order(whole)
            whole = whole[order]
        start = np.concatenate([[0], np.flatnonzero(whole[1:] != whole[:-1]) + 1])
        ids = whole[start]
        if names is not None:
            return cls(order=order, start=start, ids=None, names=[names[p] for p in ids.tolist()], seed=seed)
        return cls(order=order, start=start, ids=ids, names=None, seed=seed)

    def key(self, problems: IntArray) -> KeyArray:
        """Hash of these problems' ids: what orders ties. Distinct for whole-number ids."""
        if self.ids is not None:
            return mix(self.ids[problems], self.seed)
        assert self.names is not None
        return np.array([text_key(self.names[int(p)], self.seed) for p in problems], np.uint64)


def mix(ids: IntArray, seed: str) -> KeyArray:
    """A permutation of the 64-bit numbers that looks random (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = ids.astype(np.uint64) + np.uint64(text_key("seed", seed))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def text_key(name: str, seed: str) -> int:
    """64 bits of BLAKE2b: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest(), "big")


def _stable_order(ids: IntArray) -> IntArray:
    low, span = int(ids.min()), int(ids.max()) - int(ids.min())
    if span < 4 * len(ids):  # scipy's conversion to compressed rows is a counting sort in C
        place = (np.arange(len(ids)), (ids - low, np.arange(len(ids))))
        return coo_array(place, shape=(span + 1, len(ids))).tocsr().data.astype(np.int64, copy=False)
    return np.argsort(ids, kind="stable")
