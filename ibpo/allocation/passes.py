"""The passes over candidates that take most of the time: in C where it was built (`kernels.c`), else in numpy.

Both give the same bits: a score is one float operation after the other in the same order, comparisons do not round, and
sums are exact. Letters: C candidates, P problems, K budgets.
"""

import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import kernels
from ibpo.allocation.kernels import Float, Int, at
from ibpo.allocation.segments import FloatArray, IntArray, KeyArray, Segments, add_parts, is_first

LANES = 4
"""Of `Sums` of kernels.c."""


class _Block(ctypes.Structure):
    """`Block` of kernels.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("utility", "cost", "tie", "begin", "price")),
        *((name, Int) for name in ("stride", "num_rows", "num_problems", "width", "num_costs")),
    ]


def _block(
    utility: FloatArray, cost: FloatArray, tie: KeyArray | None, segments: Segments, price: FloatArray
) -> tuple[_Block, list[Any]] | None:
    """The structure, and what it points to; None where numpy has to do it."""
    if kernels.LIBRARY is None or cost.strides[-1:] != (8,) or not utility.flags.c_contiguous:
        return None
    begin = None if segments.width is not None else np.ascontiguousarray(segments.start)
    held = [utility, cost, tie, begin, np.ascontiguousarray(price)]
    block = _Block(
        *map(at, held),
        cost.strides[0] // 8 if len(cost) > 1 else 0,
        segments.num_rows,
        segments.num_problems,
        segments.width or 0,
        len(cost),
    )
    return block, held


def best_rows(
    utility: FloatArray,
    cost: FloatArray,
    tie: KeyArray | None,
    segments: Segments,
    price: FloatArray,
    reach: float | None = None,
) -> tuple[IntArray, FloatArray, IntArray, FloatArray]:
    """Of each problem the best row and its score; and the other rows near it, with their regrets.

    Args:
        utility: `[C]`.
        cost: `[K, C]`.
        tie: `[C]` what orders rows of equal scores and costs, or None.
        segments: Of the rows.
        price: `[K]`; score = utility - price . cost, term by term.
        reach: The largest regret of a row that is near; None: none is asked for.

    Returns:
        `[P]` rows: the largest score, of equal ones the cheapest (by the first cost that differs), the first by `tie`,
        the first; `[P]` scores; rows near them, rising, and their regrets.
    """
    found = _block(utility, cost, tie, segments, price)
    if found is not None and kernels.LIBRARY is not None:
        best, top = np.empty(segments.num_problems, np.int64), np.empty(segments.num_problems)
        size = 0 if reach is None else segments.num_rows + 1
        near, regret = np.empty(size, np.int64), np.empty(size)
        count = kernels.LIBRARY.best_rows(
            ctypes.byref(found[0]),
            at(best),
            at(top),
            Float(0.0 if reach is None else reach),
            None,
            at(near if size else None),
            at(regret),
        )
        return best, top, near[:count], regret[:count]
    score = utility
    for k, y in enumerate(price.tolist()):
        if y:
            score = score - y * cost[k]
    top = segments.max(score)
    best = cheapest(np.flatnonzero(score == segments.spread(top)), len(top), cost, tie, segments)
    if reach is None:
        return best, top, best[:0], top[:0]
    regret = segments.spread(top) - score
    inside = regret <= reach
    inside[best] = False
    near = np.flatnonzero(inside)
    return best, top, near, regret[near]


def best_sums(
    utility: FloatArray, cost: FloatArray, segments: Segments, price: FloatArray
) -> tuple[list[float], list[list[float]]]:
    """Numbers that add up exactly to the utilities of the best rows (see `best_rows`), and `[K]` to their costs."""
    found = _block(utility, cost, None, segments, price)
    if found is not None and kernels.LIBRARY is not None:
        sums = np.zeros((1 + len(cost), 3 * LANES))
        kernels.LIBRARY.best_sums(ctypes.byref(found[0]), at(sums))
        if not sums[:, 2 * LANES :].any():  # nothing was lost
            value, *total = sums[:, : 2 * LANES].tolist()
            return value, total
    value: list[float] = []
    total: list[list[float]] = [[] for _ in cost]
    for _, rows, block in segments.blocks():
        best, _, _, _ = best_rows(utility[rows], cost[:, rows], None, block, price)
        best += rows.start
        for values, parts in zip((utility, *cost), (value, *total), strict=True):
            add_parts(values[best], parts)
    return value, total


def cheapest(rows: IntArray, num_problems: int, cost: FloatArray, tie: KeyArray | None, segments: Segments) -> IntArray:
    """One of the given rows (rising) for each of their problems: the cheapest, then by `tie`, then the first."""
    if len(rows) == num_problems:
        return rows
    problem = segments.problem_of(rows)
    again = problem[1:] == problem[:-1]
    is_tied = np.concatenate([again, [False]]) | np.concatenate([[False], again])  # not alone in its problem
    rest, problem = rows[is_tied], problem[is_tied]
    for key in [*cost, *([] if tie is None else [tie])]:  # one after the other, each keeps those of the smallest key
        start = np.flatnonzero(is_first(problem))
        least = np.minimum.reduceat(key[rest], start)
        left = key[rest] == np.repeat(least, np.diff(start, append=len(rest)))
        rest, problem = rest[left], problem[left]
    return np.sort(np.concatenate([rows[~is_tied], rest[is_first(problem)]]))


def open_rows(
    utility: FloatArray, cost: FloatArray, segments: Segments, price: FloatArray, half: FloatArray
) -> tuple[IntArray, IntArray]:
    """What a box of prices, price +- half, leaves open.

    Returns:
        The rows that can be best somewhere in it, of problems with several such; and the best rows of the others.
    """
    found = _block(utility, cost, None, segments, price)
    if found is not None and kernels.LIBRARY is not None:
        best, top = np.empty(segments.num_problems, np.int64), np.empty(segments.num_problems)
        near, regret = np.empty(segments.num_rows + 1, np.int64), np.empty(segments.num_rows + 1)
        half = np.ascontiguousarray(half)
        count = kernels.LIBRARY.best_rows(
            ctypes.byref(found[0]), at(best), at(top), Float(0.0), at(half), at(near), at(regret)
        )
        near = near[:count].copy()
        several = np.zeros(len(best), bool)
        several[segments.problem_of(near)] = True
        return near, best[~several]
    best, top, _, _ = best_rows(utility, cost, None, segments, price)
    score, apart = utility, np.zeros(len(utility))
    for y, reach, row in zip(price.tolist(), half.tolist(), cost, strict=True):
        score = score - y * row if y else score
        apart += reach * np.abs(row - segments.spread(row[best]))
    dust = 1e-12 * (1.0 + np.abs(top))
    alive = segments.spread(top) - score <= apart * (1 + 1e-9) + segments.spread(dust)
    several = np.add.reduceat(alive, segments.start, dtype=np.int64) > 1
    return np.flatnonzero(alive & segments.spread(several)), best[~several]


def best_of_kinds(utility: FloatArray, marks: NDArray[Any], segments: Segments, kind: IntArray) -> FloatArray | None:
    """`[G, P]` the largest utility of each kind in each problem, -inf where it has none; None where numpy has to do it.

    Args:
        utility: `[C]`.
        marks: `[C]`.
        segments: Of the rows.
        kind: `[256]` the kind of a response with each mark.
    """
    found = _block(utility, utility[None], None, segments, np.zeros(1))
    if found is None or kernels.LIBRARY is None or marks.dtype != np.uint8 or not marks.flags.c_contiguous:
        return None
    num_kinds = int(kind.max()) + 1
    best = np.empty((num_kinds, segments.num_problems))
    kernels.LIBRARY.best_of_kinds(ctypes.byref(found[0]), at(marks), at(kind), Int(num_kinds), at(best))
    return best


def gains(best: FloatArray, paid: FloatArray, inside: NDArray[np.bool_]) -> FloatArray:
    """`[N]` what the best kind inside, of `best` `[G, N]` less `paid` `[G]`, is worth more than the best outside."""
    if kernels.LIBRARY is not None and best.flags.c_contiguous:
        gain, side, paid = np.empty(best.shape[1]), inside.astype(np.int64), np.ascontiguousarray(paid)
        kernels.LIBRARY.gains(at(best), Int(best.shape[1]), Int(len(best)), at(paid), at(side), at(gain))
        return gain
    net = best - paid[:, None]
    return net[inside].max(axis=0) - net[~inside].max(axis=0)


def ranked(values: FloatArray, place: int) -> float:
    """The value that `place` of the others are sorted before."""
    found = math.nan
    if kernels.LIBRARY is not None:
        size, work = Int(len(values)), np.empty(len(values))
        found = float(kernels.LIBRARY.ranked(at(values), size, Int(place), at(work)))
    return (float(np.partition(values, place)[place]) if math.isnan(found) else found) + 0.0  # no -0.0
