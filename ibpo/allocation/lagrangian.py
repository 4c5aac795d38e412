"""Several budgets: optimal prices by narrowing a box around them until HiGHS can finish.

Letters: C candidates, P problems, K budgets.
"""

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from ibpo.allocation.highs import Effort, HighsProgram
from ibpo.allocation.problem import AllocationProblem, best_candidates, scores
from ibpo.allocation.segments import FloatArray, IntArray, exact_sum

SMALL = 2_500
"""Problems, or types of problems, that HiGHS gets at once."""
SAMPLE = 600
NUM_SAMPLES = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Band:
    """What a box of prices leaves open.

    Attributes:
        floor: `[K]` corner of the box.
        ceiling: `[K]` the opposite corner.
        open: Candidates that can be best somewhere in the box, of problems with several such.
        settled: The choices of the other problems.
        start: Where each open problem begins in `open`.
        problems: The open problems.
        low: `[K]` lower bounds on what the open problems cost in all.
        high: `[K]` upper bounds.
    """

    floor: FloatArray
    ceiling: FloatArray
    open: IntArray
    settled: IntArray
    start: IntArray
    problems: IntArray
    low: FloatArray
    high: FloatArray

    @property
    def local(self) -> IntArray:
        """The problem of each open candidate, as an index into `problems`."""
        return np.repeat(np.arange(len(self.start)), np.diff(self.start, append=len(self.open)))


def prices(instance: AllocationProblem) -> tuple[FloatArray, IntArray | None]:
    """Prices `[K]`, and where the linear relaxation is integral its optimal choice `[P]`.

    The dual function sum_p max_c (u_c - price . cost_c) + price . bound is convex, so a minimum inside a box is the
    minimum. Samples of problems say where the box is; problems whose best candidate is the same throughout the box are
    settled, and the samples of the next, smaller box come from the rest, until HiGHS can solve all that is left. If
    its prices lie inside the box, they are optimal for the whole; if not, the box before is narrowed with more care.
    """
    low, high = (np.array(side) for side in zip(*map(instance.limits.bounds, range(len(instance.cost))), strict=True))
    everywhere = np.full(len(low), np.inf)
    bands = [
        _Band(
            floor=-everywhere,
            ceiling=everywhere,
            open=np.arange(len(instance.utility)),
            settled=np.zeros(0, np.int64),
            start=instance.start,
            problems=np.arange(instance.num_problems),
            low=low,
            high=high,
        )
    ]
    price, care, size = np.zeros(len(low)), 1.0, SAMPLE
    while care < 1000:
        band = bands[-1]
        if len(band.problems) > SMALL:
            sampled = [_sample(instance, band, which, size) for which in range(NUM_SAMPLES)]
            price, spread = np.mean([x for x, _ in sampled], axis=0), np.ptp([x for x, _ in sampled], axis=0)
            # A small spread of one price may be luck: none is trusted far beyond what the others show.
            scale = np.maximum(np.abs(price), 1e-12)
            reach = care * (np.maximum(spread, float((spread / scale).mean()) * scale) + 1e-9 * scale)
            inner = _narrow(instance, band, price, reach)
            if inner is not None and len(inner.open) < 0.7 * len(band.open):
                bands.append(inner)
                continue
            if size < SMALL:  # larger samples know more
                size *= 4
                continue
            if len(band.problems) > 4 * SMALL and min(types for _, types in sampled) > size // 2:
                return price, None  # good prices, not optimal ones
        if len(band.problems):
            core = HighsProgram.from_candidates(
                instance.utility[band.open],
                instance.cost[:, band.open],
                band.local,
                instance.ids.key(band.problems),
                band.low,
                band.high,
            )
            amount, price = core.relax()
            if amount is None and len(bands) == 1:
                return np.zeros(len(low)), None
            if amount is not None and ((price > band.floor) & (price < band.ceiling)).all():
                whole = np.rint(amount)
                if np.abs(amount - whole).max() > 1e-7:
                    return price, None
                rest = band.open[core.candidates(whole.astype(np.int64))]
                return price, np.sort(np.concatenate([band.settled, rest]))
        bands.pop()
        care *= 3.0
    return price, None


def _sample(instance: AllocationProblem, band: _Band, which: int, most_problems: int) -> tuple[FloatArray, int]:
    """Prices from the problems with the `which`-th smallest keys, under their part of the bounds; number of types."""
    key = instance.ids.key(band.problems)
    size = min(most_problems, (len(key) - 1) // NUM_SAMPLES)
    some = np.argpartition(key, size * (which + 1))[: size * (which + 1)]
    some = np.sort(some[np.argsort(key[some])][size * which :])
    length = np.diff(band.start, append=len(band.open))[some]
    start = np.cumsum(length) - length
    candidates = band.open[np.repeat(band.start[some] - start, length) + np.arange(int(length.sum()))]
    part = size / len(key)
    cost = instance.cost[:, candidates]
    least, most = np.minimum.reduceat(cost, start, axis=1).sum(1), np.maximum.reduceat(cost, start, axis=1).sum(1)
    core = HighsProgram.from_candidates(
        instance.utility[candidates],
        cost,
        np.repeat(np.arange(size), length),
        key[some],
        np.minimum(band.low * part, most),
        np.maximum(band.high * part, least),
    )
    return core.relax()[1], len(core.count)


def _narrow(instance: AllocationProblem, band: _Band, price: FloatArray, reach: FloatArray) -> _Band | None:
    """The band of the box `price` +- `reach` inside the present one; None where that is empty."""
    floor, ceiling = np.maximum(band.floor, price - reach), np.minimum(band.ceiling, price + reach)
    if not (floor < ceiling).all():
        return None
    centre, half = (floor + ceiling) / 2, (ceiling - floor) / 2
    everything = len(band.open) == len(instance.utility)
    pick = slice(None) if everything else band.open
    size = np.diff(band.start, append=len(band.open))
    score = instance.utility[pick] - centre @ instance.cost[:, pick]
    at_top = np.flatnonzero(score == np.repeat(np.maximum.reduceat(score, band.start), size))
    best = at_top[np.searchsorted(at_top, band.start)]
    regret = np.repeat(score[best], size) - score
    apart = np.zeros(len(score))
    for k, row in enumerate(instance.cost):
        row = row[pick]
        apart += half[k] * np.abs(row - np.repeat(row[best], size))
    alive = regret <= apart * (1 + 1e-9) + 1e-12 * (1.0 + float(np.abs(score[best]).max()))
    several = np.add.reduceat(alive, band.start, dtype=np.int64) > 1
    open_ = band.open[alive & np.repeat(several, size)]
    settled = band.open[best[~several]]
    total = np.array(instance.total(settled)) if len(settled) else np.zeros(len(price))
    problem = instance.problem_of(open_)
    start = np.flatnonzero(np.concatenate([[True], problem[1:] != problem[:-1]])) if len(open_) else open_
    return _Band(
        floor=floor,
        ceiling=ceiling,
        open=open_,
        settled=np.concatenate([band.settled, settled]),
        start=start,
        problems=problem[start],
        low=band.low - total,
        high=band.high - total,
    )


def close_gap(
    instance: AllocationProblem,
    price: FloatArray,
    chosen: IntArray | None,
    *,
    tolerance: float,
    effort: Effort,
) -> tuple[IntArray | None, float]:
    """The best choice `[P]` that can be found, and an upper bound on all of them.

    At these prices a choice is worth at most bound - (its regrets): candidates with a regret above the gap are out, and
    HiGHS gets the problems with more than one left. Small cores first: they improve the choice, which shrinks the gap.

    Args:
        instance: The problem.
        price: `[K]` any prices; good ones make small cores.
        chosen: `[P]` a choice that keeps the bounds, if one is known.
        tolerance: Gap at which to stop.
        effort: When to stop though a gap is left; its seconds are for all of HiGHS's work, its nodes for each core.
    """
    top = np.empty(instance.num_problems)
    for problems, rows, part in instance.segments.blocks():
        top[problems] = part.max(scores(instance, price, rows))
    bounds = map(instance.limits.bounds, range(len(price)))
    paid = [p * (high if p > 0 else low) for p, (low, high) in zip(price.tolist(), bounds, strict=True) if p]
    bound = math.fsum([exact_sum(top), *paid])
    if chosen is None:  # a little dearer than the best prices is often inside
        for times in (1.0, 1.0001, 1.001, 1.01, 1.1, 2.0, 10.0, 1000.0):
            guess = best_candidates(instance, times * price)
            if instance.all_fit(guess):
                chosen = guess
                break
    value = -math.inf if chosen is None else exact_sum(instance.utility[chosen])
    dust = 1e-12 * (float(np.abs(top).max()) + 1.0)
    deadline = time.monotonic() + effort.time_limit_s
    upper, size = bound, 300
    near = regret = None
    while upper - value > tolerance:
        if near is None or regret is None:
            near, regret = _near(instance, price, top, max((bound - value) * (1 + 1e-9), 0.0) + dust)
        open_regrets = regret[regret > dust]
        reach = math.inf
        if len(open_regrets) > size:
            reach = float(np.partition(open_regrets, size)[size])
        reach = min(reach, (bound - value) * (1 + 1e-9) + dust)
        left = deadline - time.monotonic()
        if left <= 0:
            break
        slack = 0.0 if chosen is None else effort.relative_gap * abs(value)
        core_choice, core_bound = _solve_core(
            instance, near[regret <= max(reach, dust)], replace(effort, time_limit_s=left), slack, bound
        )
        if core_choice is not None and instance.all_fit(core_choice):
            core_value = exact_sum(instance.utility[core_choice])
            if core_value > value:
                chosen, value = core_choice, core_value
        upper = max(value, min(upper, max(core_bound, bound - reach)))
        if math.isinf(reach) or reach >= bound - value:
            break
        size *= 8
    return chosen, upper


def _near(instance: AllocationProblem, price: FloatArray, top: FloatArray, reach: float) -> tuple[IntArray, FloatArray]:
    """The candidates whose regret is at most `reach`, and their regrets."""
    near: list[IntArray] = []
    regrets: list[FloatArray] = []
    for problems, rows, part in instance.segments.blocks():
        regret = part.spread(top[problems]) - scores(instance, price, rows)
        inside = np.flatnonzero(regret <= reach)
        near.append(inside + rows.start)
        regrets.append(regret[inside])
    return np.concatenate(near), np.concatenate(regrets)


def _solve_core(
    instance: AllocationProblem, candidates: IntArray, effort: Effort, slack: float, known: float
) -> tuple[IntArray | None, float]:
    """The best choice among these candidates, at least one for each problem, and an upper bound on it.

    Args:
        instance: The problem.
        candidates: Rows.
        effort: When to stop.
        slack: Gap to be content with.
        known: An upper bound on the whole.
    """
    problem = instance.problem_of(candidates)
    several = np.bincount(problem)[problem] > 1
    fixed, open_ = candidates[~several], candidates[several]
    base = exact_sum(instance.utility[fixed]) if len(fixed) else 0.0
    if not len(open_):
        return (fixed, base) if instance.all_fit(fixed) else (None, -math.inf)
    total = np.array(instance.total(fixed)) if len(fixed) else np.zeros(len(instance.cost))
    low, high = (np.array(side) for side in zip(*map(instance.limits.bounds, range(len(instance.cost))), strict=True))
    problems, local = np.unique(problem[several], return_inverse=True)
    utility, cost, key = instance.utility[open_], instance.cost[:, open_], instance.ids.key(problems)
    core = HighsProgram.from_candidates(utility, cost, local, key, low - total, high - total)
    amount, bound, _ = core.integer(effort, slack=slack, known=known - base)
    if amount is None:
        return None, bound + base
    return np.sort(np.concatenate([fixed, open_[core.candidates(amount)]])), bound + base
