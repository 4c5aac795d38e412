"""Several budgets: optimal prices by narrowing a box around them until HiGHS can finish.

Letters: C candidates, P problems, K budgets.
"""

import math
import time

import numpy as np

from ibpo.allocation.core import Core
from ibpo.allocation.exact_sum import exact_sum
from ibpo.allocation.ids import IntArray
from ibpo.allocation.problem import AllocationProblem, FloatArray, best_candidates

SMALL = 2_500
"""Problems, or types of problems, that HiGHS gets at once."""
SAMPLE = 700
NUM_SAMPLES = 3


def prices(instance: AllocationProblem) -> tuple[FloatArray, IntArray | None]:
    """Prices `[K]`, and where the linear relaxation is integral its optimal choice `[P]`.

    The dual function sum_p max_c (u_c - price . cost_c) + price . bound is convex, so a minimum inside a box is the
    minimum. Samples of problems say where the box is; problems whose best candidate is the same throughout the box are
    settled, and the samples of the next, smaller box come from the rest, until HiGHS can solve all that is left. If
    its prices lie inside every box on the way, they are optimal for the whole.
    """
    low, high = (np.array(side) for side in zip(*map(instance.bounds, range(len(instance.cost))), strict=True))
    widen = 1.0
    price = np.zeros(len(low))
    for _ in range(3):
        open_ = np.arange(len(instance.utility))
        settled = np.zeros(0, np.int64)
        floor, ceiling = np.full((2, len(low)), -np.inf) * [[1.0], [-1.0]]
        while True:
            problem = instance.problem_of(open_)
            problems, local = np.unique(problem, return_inverse=True)
            total = np.array(instance.total(settled)) if len(settled) else np.zeros(len(low))
            few = len(problems) <= SMALL
            if not few:
                found = [
                    _sample(instance, open_, local, problems, low - total, high - total, i) for i in range(NUM_SAMPLES)
                ]
                price = np.mean([x for x, _ in found], axis=0)
                reach = widen * (4.0 * np.ptp([x for x, _ in found], axis=0) + 1e-9 * np.abs(price).max() + 1e-15)
                new_floor, new_ceiling = np.maximum(floor, price - reach), np.minimum(ceiling, price + reach)
                narrow, fixed = (open_, None)
                if (new_floor < new_ceiling).all():
                    narrow, fixed = _inside(instance, open_, new_floor, new_ceiling)
                if fixed is not None and len(narrow) < 0.7 * len(open_):
                    floor, ceiling = new_floor, new_ceiling
                    open_, settled = narrow, np.concatenate([settled, fixed])
                    continue
                if max(types for _, types in found) > SAMPLE // 2:
                    return price, None  # the box shrinks no further: good prices, not optimal ones
            if not len(problems):
                return price, np.sort(settled)
            core = _core(instance, open_, local, problems, low - total, high - total)
            amount, price = core.relax()
            if amount is None:
                return np.zeros(len(low)), None
            if ((price > floor) & (price < ceiling)).all():
                whole = np.rint(amount)
                if np.abs(amount - whole).max() > 1e-7:
                    return price, None
                return price, np.sort(np.concatenate([settled, open_[core.candidates(whole.astype(np.int64))]]))
            break
        widen *= 8.0
    return price, None


def _core(
    instance: AllocationProblem,
    open_: IntArray,
    local: IntArray,
    problems: IntArray,
    low: FloatArray,
    high: FloatArray,
) -> Core:
    return Core.from_candidates(
        instance.utility[open_], instance.cost[:, open_], local, instance.ids.key(problems), low, high
    )


def _sample(
    instance: AllocationProblem,
    open_: IntArray,
    local: IntArray,
    problems: IntArray,
    low: FloatArray,
    high: FloatArray,
    which: int,
) -> tuple[FloatArray, int]:
    """Prices from the problems with the `which`-th smallest keys, under their part of the bounds; number of types."""
    key = instance.ids.key(problems)
    size = min(SAMPLE, (len(problems) - 1) // NUM_SAMPLES)
    some = np.argpartition(key, size * (which + 1))[: size * (which + 1)]
    some = np.sort(some[np.argsort(key[some])][size * which :])
    mine = np.zeros(len(problems), np.int64) - 1
    mine[some] = np.arange(len(some))
    candidates, place = open_[mine[local] >= 0], mine[local][mine[local] >= 0]
    part = len(some) / len(problems)
    start = np.searchsorted(place, np.arange(len(some)))
    cost = instance.cost[:, candidates]
    least, most = np.minimum.reduceat(cost, start, axis=1).sum(1), np.maximum.reduceat(cost, start, axis=1).sum(1)
    core = Core.from_candidates(
        instance.utility[candidates],
        cost,
        place,
        key[some],
        np.minimum(low * part, most),
        np.maximum(high * part, least),
    )
    return core.relax()[1], len(core.count)


def _inside(
    instance: AllocationProblem, open_: IntArray, floor: FloatArray, ceiling: FloatArray
) -> tuple[IntArray, IntArray]:
    """The candidates that can be best somewhere in the box, and the choice of the problems with only one such."""
    centre, reach = (floor + ceiling) / 2, (ceiling - floor) / 2
    everything = len(open_) == len(instance.utility)
    pick = slice(None) if everything else open_
    score = instance.utility[pick] - centre @ instance.cost[:, pick]
    if everything:
        start, size = instance.start, instance.length
        best = best_candidates(instance, score)
    else:
        problem = instance.problem_of(open_)
        start = np.concatenate([[0], np.flatnonzero(problem[1:] != problem[:-1]) + 1])
        size = np.diff(start, append=len(open_))
        at_top = np.flatnonzero(score == np.repeat(np.maximum.reduceat(score, start), size))
        best = at_top[np.searchsorted(at_top, start)]
    regret = np.repeat(score[best], size) - score
    apart = np.zeros(len(score))
    for k, row in enumerate(instance.cost):
        row = row[pick]
        apart += reach[k] * np.abs(row - np.repeat(row[best], size))
    alive = regret <= apart * (1 + 1e-9) + 1e-12 * (1.0 + np.abs(score).max())
    count = np.add.reduceat(alive, start, dtype=np.int64)
    stays = alive & np.repeat(count > 1, size)
    return open_[stays], open_[best[count == 1]]


def close_gap(
    instance: AllocationProblem,
    price: FloatArray,
    chosen: IntArray | None,
    *,
    tolerance: float,
    time_limit_s: float,
) -> tuple[IntArray | None, float]:
    """The best choice `[P]` that can be found, and an upper bound on all of them.

    At these prices a choice is worth at most bound - (its regrets): candidates with a regret above the gap are out, and
    HiGHS gets the problems with more than one left. Small cores first: they improve the choice, which shrinks the gap.

    Args:
        instance: The problem.
        price: `[K]` any prices; good ones make small cores.
        chosen: `[P]` a choice that keeps the bounds, if one is known.
        tolerance: Gap at which to stop.
        time_limit_s: For all of HiGHS's work.
    """
    score = instance.utility - price @ instance.cost if price.any() else instance.utility
    top = np.maximum.reduceat(score, instance.start)
    regret = instance.spread(top) - score
    bounds = map(instance.bounds, range(len(price)))
    paid = [p * (high if p > 0 else low) for p, (low, high) in zip(price.tolist(), bounds, strict=True) if p]
    bound = math.fsum([exact_sum(top), *paid])
    value = -math.inf if chosen is None else exact_sum(instance.utility[chosen])
    dust = 1e-12 * (float(np.abs(top).max()) + 1.0)
    deadline = time.monotonic() + time_limit_s
    upper, size = bound, 300
    while upper - value > tolerance:
        open_regrets = regret[regret > dust]
        reach = math.inf
        if len(open_regrets) > size:
            reach = float(np.partition(open_regrets, size)[size])
        reach = min(reach, (bound - value) * (1 + 1e-9) + dust)
        left = deadline - time.monotonic()
        if left <= 0:
            break
        core_choice, core_bound = _solve_core(instance, np.flatnonzero(regret <= max(reach, dust)), left)
        if core_choice is not None and instance.all_fit(core_choice):
            core_value = exact_sum(instance.utility[core_choice])
            if core_value > value:
                chosen, value = core_choice, core_value
        upper = max(value, min(upper, max(core_bound, bound - reach)))
        if math.isinf(reach) or reach >= bound - value:
            break
        size *= 8
    return chosen, upper


def _solve_core(
    instance: AllocationProblem, candidates: IntArray, time_limit_s: float
) -> tuple[IntArray | None, float]:
    """The best choice among these candidates, at least one for each problem, and an upper bound on it."""
    problem = instance.problem_of(candidates)
    several = np.bincount(problem)[problem] > 1
    fixed, open_ = candidates[~several], candidates[several]
    base = exact_sum(instance.utility[fixed]) if len(fixed) else 0.0
    if not len(open_):
        return (fixed, base) if instance.all_fit(fixed) else (None, -math.inf)
    total = np.array(instance.total(fixed)) if len(fixed) else np.zeros(len(instance.cost))
    low, high = (np.array(side) for side in zip(*map(instance.bounds, range(len(instance.cost))), strict=True))
    problems, local = np.unique(problem[several], return_inverse=True)
    core = _core(instance, open_, local, problems, low - total, high - total)
    amount, bound, _ = core.integer(time_limit_s)
    if amount is None:
        return None, bound + base
    return np.sort(np.concatenate([fixed, open_[core.candidates(amount)]])), bound + base
