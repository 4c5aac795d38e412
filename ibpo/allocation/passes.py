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
from ibpo.allocation.segments import FloatArray, IntArray, KeyArray, ScatteredRows, Segments, add_parts, is_first

MAX_TURNS = 40
"""Most turns of the search for the prices of shares."""
LANES = 4
"""Lanes of `Sums` in kernels.c."""


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
    """The best row of each problem and its score, and the other rows near it, with their regrets.

    Args:
        utility: `[C]`.
        cost: `[K, C]`.
        tie: `[C]` what orders rows of equal scores and costs, or None.
        segments: Where each problem's rows begin.
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
) -> tuple[IntArray, list[list[float]]]:
    """What a box of prices, price +- half, leaves open.

    Returns:
        The rows that can be best somewhere in it, of problems with several such; and `[K]` numbers that add up exactly
        to the costs of the best rows of the others.
    """
    found = _block(utility, cost, None, segments, price)
    if found is not None and kernels.LIBRARY is not None:
        near, regret = np.empty(segments.num_rows + 1, np.int64), np.empty(segments.num_rows + 1)
        half, sums = np.ascontiguousarray(half), np.zeros((len(cost), 3 * LANES))
        count = kernels.LIBRARY.open_rows(ctypes.byref(found[0]), *map(at, (half, near, regret, sums)))
        if not sums[:, 2 * LANES :].any():  # nothing was lost
            return near[:count].copy(), sums[:, : 2 * LANES].tolist()
    best, top, _, _ = best_rows(utility, cost, None, segments, price)
    score, apart = utility, np.zeros(len(utility))
    for y, reach, row in zip(price.tolist(), half.tolist(), cost, strict=True):
        score = score - y * row if y else score
        apart += reach * np.abs(row - segments.spread(row[best]))
    dust = 1e-12 * (1.0 + np.abs(top))
    alive = segments.spread(top) - score <= apart * (1 + 1e-9) + segments.spread(dust)
    several = np.add.reduceat(alive, segments.start, dtype=np.int64) > 1
    parts: list[list[float]] = [[] for _ in cost]
    for row, own in zip(cost, parts, strict=True):
        add_parts(row[best[~several]], own)
    return np.flatnonzero(alive & segments.spread(several)), parts


def best_of_kinds(utility: FloatArray, marks: NDArray[Any], segments: Segments, kind: IntArray) -> FloatArray | None:
    """`[G, P]` the largest utility of each kind in each problem, -inf where it has none; None where numpy has to do it.

    Args:
        utility: `[C]`.
        marks: `[C]`.
        segments: Where each problem's rows begin.
        kind: `[256]`, of marks of 16 bits `[65536]`, the kind of a response with each mark.
    """
    found = _block(utility, utility[None], None, segments, np.zeros(1))
    if found is None or kernels.LIBRARY is None or marks.dtype != np.uint8 or not marks.flags.c_contiguous:
        return None
    num_kinds = int(kind.max()) + 1
    best = np.empty((num_kinds, segments.num_problems))
    kernels.LIBRARY.best_of_kinds(ctypes.byref(found[0]), at(marks), at(kind), Int(num_kinds), at(best))
    return best


def best_of_scattered(utility: FloatArray, marks: NDArray[Any], rows: ScatteredRows, kind: IntArray) -> FloatArray:
    """`best_of_kinds` of rows in random order."""
    assert kernels.LIBRARY is not None
    best = np.full((int(kind.max()) + 1, rows.span), -math.inf)
    size = map(kernels.Int, (len(marks), rows.low, rows.span))
    kernels.LIBRARY.scatter_best(*map(at, (utility, marks, rows.values)), *size, at(kind), at(best))
    return rows.by_problem(best)


def order_statistic(values: FloatArray, place: int) -> tuple[float, float]:
    """The value that `place` others are sorted before, and the one before it (-inf for the first)."""
    if kernels.LIBRARY is not None and values.flags.c_contiguous:
        found, work = np.empty(2), np.empty(len(values))
        kernels.LIBRARY.order_statistic(at(values), Int(len(values)), Int(place), at(work), at(found))
        return float(found[0]), float(found[1])
    ordered = np.partition(values, place)
    return float(ordered[place]), float(ordered[:place].max(initial=-math.inf))


def shift_costs(cost: FloatArray, segments: Segments, out: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Writes costs `[C]` less the smallest of their problem; `[P]` that one, and the largest that is left."""
    least, most = np.empty((2, segments.num_problems))
    found = _block(cost, cost[None], None, segments, np.zeros(1))
    if found is not None and kernels.LIBRARY is not None and out.flags.c_contiguous:
        kernels.LIBRARY.shift_costs(ctypes.byref(found[0]), *map(at, (cost, out, least, most)))
        return least, most
    for problems, rows, block in segments.blocks():
        here = cost[rows]
        least[problems] = block.min(here)
        np.subtract(here, block.spread(least[problems]), out=out[rows])
        most[problems] = block.max(out[rows])
    return least, most


def mark_rows(
    utility: FloatArray,
    marks: NDArray[Any],
    tie: KeyArray | None,
    segments: Segments,
    value: FloatArray,
    mark: NDArray[Any],
    *,
    whole: bool,
) -> NDArray[np.bool_]:
    """`[C]` one row of each problem that has its utility and mark `[P]`: of the smallest `tie`, then the first.

    Marks count as they are, or (not `whole`) as whether they are 0. Problems without such a row get none.
    """
    hit = np.empty(segments.num_rows, bool)
    found = _block(utility, utility[None], tie, segments, np.zeros(1))
    if found is not None and kernels.LIBRARY is not None and marks.dtype == np.uint8 and marks.flags.c_contiguous:
        held = [np.ascontiguousarray(x) for x in (value, mark)]
        kernels.LIBRARY.mark_rows(ctypes.byref(found[0]), at(marks), Int(whole), *map(at, held), at(hit))
        return hit
    for problems, rows, block in segments.blocks():
        here = hit[rows]
        np.equal(utility[rows], block.spread(value[problems]), out=here)
        here &= (marks[rows] if whole else marks[rows] != 0) == block.spread(mark[problems])
        several = np.flatnonzero(here)
        problem = block.problem_of(several)
        if not is_first(problem).all():
            if tie is not None:
                order = np.lexsort((tie[rows][several], problem))
                several, problem = several[order], problem[order]
            here[:] = False
            here[several[is_first(problem)]] = True
    return hit


def mark_scattered(
    utility: FloatArray,
    marks: NDArray[Any],
    rows: ScatteredRows,
    value: FloatArray,
    mark: NDArray[Any],
    *,
    whole: bool,
) -> NDArray[np.bool_]:
    """`mark_rows` of rows in random order: of several the first."""
    assert kernels.LIBRARY is not None
    hit = np.empty(len(marks), bool)
    held = [rows.by_place(value, math.nan), rows.by_place(mark, 0)]
    size = map(kernels.Int, (len(marks), rows.low, whole))
    kernels.LIBRARY.scatter_marks(*map(at, (utility, marks, rows.values)), *size, *map(at, held), at(hit))
    return hit


def slices_of_scattered(marks: NDArray[Any], rows: ScatteredRows) -> NDArray[np.uint8] | None:
    """`[P]` the one mark besides 0 that a problem's rows have, 0 where they have none; None where some have two."""
    assert kernels.LIBRARY is not None
    found = np.zeros(rows.span, np.uint8)
    size = map(kernels.Int, (len(marks), rows.low))
    is_one = kernels.LIBRARY.scatter_slices(*map(at, (marks, rows.values)), *size, at(found))
    return rows.by_problem(found) if is_one else None


class _Filling(ctypes.Structure):
    """`Filling` of kernels.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("best", "uses", "low", "high")),
        *((name, Int) for name in ("num_problems", "num_kinds", "num_shares")),
    ]


def fill_shares(
    best: FloatArray,
    uses: FloatArray,
    ends: FloatArray,
    off: FloatArray,
    inside: FloatArray,
    price: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Prices `[K]` by turns, each the order statistic at which its share is filled given the others.

    Args:
        best: `[G, N]` the best utility of each kind.
        uses: `[K, G]` 1 where a kind counts in a share, else 0.
        ends: `[2, K]` the least and the most problems in each share.
        off: `[K]` by how many problems a share may be off; a third of it ends the turns.
        inside: `[2, K]` the least and the largest prices.
        price: `[K]` to begin with.

    Returns:
        `[K]` prices, and the prices at which `off` more, and `off` fewer, problems would count in each share.
    """
    (low, high), price = np.ascontiguousarray(ends), price.copy()
    if kernels.LIBRARY is not None and best.flags.c_contiguous:
        size, (lower, upper) = best.shape[1], np.empty((2, len(uses)))
        held = [best, np.ascontiguousarray(uses), low, high]
        filling = _Filling(*map(at, held), size, *reversed(uses.shape))
        given = [np.ascontiguousarray(x) for x in (off, *inside)]
        room = np.empty((len(uses) + 1, size))
        kernels.LIBRARY.fill_shares(
            ctypes.byref(filling), *map(at, given), Int(MAX_TURNS), *map(at, (price, lower, upper, room, room[-1]))
        )
        return price, lower, upper
    gain = [np.zeros(0)] * len(uses)
    for turn in range(MAX_TURNS):
        if turn:
            _shift(best, uses, price, high)
        misses = np.zeros(len(uses))
        for k, share in enumerate(uses):
            # Price k given the others: the order statistic of the gains of counting in share k that fills it.
            before, price[k] = price[k], 0.0
            gain[k] = _gains(best, _paid(price, uses), share > 0)
            price[k] = np.clip(_price(gain[k], low[k], high[k]), *inside[:, k])
            between = (gain[k] > min(before, price[k])) & (gain[k] <= max(before, price[k]))
            misses[k] = np.count_nonzero(between)
        if (misses <= off / 3).all():
            break
    # As many ranks to either side as the sample, or the turns, may be off.
    sides = [[_price(x, *end) for x, end in zip(gain, (ends + o * off).T, strict=True)] for o in (1, -1)]
    return price, np.array(sides[0]), np.array(sides[1])


def _paid(price: FloatArray, uses: FloatArray) -> FloatArray:
    """`[G]` what each kind pays, summed in the order of the shares."""
    return np.add.reduce(price[:, None] * uses, axis=0)


def _gains(best: FloatArray, paid: FloatArray, inside: NDArray[np.bool_]) -> FloatArray:
    """`[N]` what the best kind inside, of `best` `[G, N]` less `paid` `[G]`, is worth more than the best outside."""
    net = best - paid[:, None]
    return net[inside].max(axis=0, initial=-math.inf) - net[~inside].max(axis=0, initial=-math.inf)


def _price(gain: FloatArray, low: float, high: float) -> float:
    """The price at which between `low` and `high` of the gains are above it: the one nearest to 0."""
    positive = np.count_nonzero(gain > 0)
    if positive > high:
        rank = max(0, math.floor(high))
    elif positive < low:
        rank = min(len(gain), math.ceil(low)) - 1
    else:
        return 0.0
    place = len(gain) - 1 - rank
    found = float(np.partition(gain, place)[place])
    if math.isinf(found):  # of the finite gains the one that is furthest on that side
        finite = gain[np.isfinite(gain)]
        found = float(finite.max(initial=0.0) if found > 0 else finite.min(initial=0.0))
    return found + 0.0  # no -0.0


def _shift(best: FloatArray, uses: FloatArray, price: FloatArray, high: FloatArray) -> None:
    """Move the prices that bind together: one by one they would follow each other in small steps."""
    up = price > 0
    count = up @ uses
    if np.count_nonzero(up) < 2 or set(count.tolist()) != {0.0, 1.0}:
        return
    place = best.shape[1] - 1 - math.floor(sum(high[up].tolist()))
    if not 0 <= place < best.shape[1]:  # beyond all, or before all where the settled ones already use too much
        return
    gain = _gains(best, _paid(price, uses), count > 0)
    step = float(np.partition(gain, place)[place]) + 0.0
    price[up] += max(step, -float(price[up].min())) if math.isfinite(step) else 0.0
