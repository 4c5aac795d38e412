"""Several budgets: optimal prices by narrowing a box around them until HiGHS can finish.

With u_c the utility and cost_c the `[K]` costs of candidate c of problem p, and b the bounds on the total costs, the
dual function at prices y is

    D(y) = sum_p max_{c of p} (u_c - y . cost_c) + y . b,        y_k >= 0 where only an upper bound is given.

It is convex, at least the objective of every allocation inside the bounds, and its minimum is the value of the linear
relaxation. `prices` looks for that minimum, `close_gap` for the allocation. Letters: C candidates, P problems, K
budgets.
"""

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from ibpo.allocation.highs import Effort, HighsProgram
from ibpo.allocation.problem import AllocationProblem, best_candidates, rounding, scores
from ibpo.allocation.search import search
from ibpo.allocation.segments import FloatArray, IntArray, Segments, exact_sum, is_first

SMALL = 2_500
"""Problems, or types of problems, that HiGHS gets at once."""
SAMPLE = 600
NUM_SAMPLES = 4
FEW, MANY = 50_000, 1_000_000
"""States of a search in whole numbers: one that is tried before HiGHS, and one that proves what HiGHS found."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Band:
    """What a box of prices leaves open.

    Attributes:
        floor: `[K]` corner of the box.
        ceiling: `[K]` the opposite corner.
        open: Candidates that can be best somewhere in the box, of problems with several such.
        segments: The open problems' places in `open`.
        problems: The open problems.
        settled: The choices of the other problems.
        low: `[K]` lower bounds on what the open problems cost in all.
        high: `[K]` upper bounds.
    """

    floor: FloatArray
    ceiling: FloatArray
    open: IntArray
    segments: Segments
    problems: IntArray
    settled: IntArray
    low: FloatArray
    high: FloatArray


def prices(instance: AllocationProblem) -> tuple[FloatArray, IntArray | None]:
    """Prices `[K]`, and where the linear relaxation is integral its optimal choice `[P]`.

    The dual function D is convex, so a minimum inside a box is the minimum. Samples of problems say where the box is;
    problems whose best candidate is the same throughout the box are settled, and the samples of the next, smaller box
    come from the rest, until HiGHS can solve all that is left. If its prices are inside the box, they are optimal for
    the whole; if not, the box before is narrowed with more care.
    """
    low, high = instance.bounds.arrays()
    everywhere = np.full(len(low), np.inf)
    bands = [
        _Band(
            floor=-everywhere,
            ceiling=everywhere,
            open=np.arange(len(instance.utility)),
            segments=instance.segments,
            problems=np.arange(instance.num_problems),
            settled=np.zeros(0, np.int64),
            low=low,
            high=high,
        )
    ]
    price, care, size = np.zeros(len(low)), 1.0, SAMPLE
    while care < 1000:
        band = bands[-1]
        # Too many open problems for HiGHS: a box around the mean of the samples' prices, as wide as these differ.
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
        # Few enough: the linear relaxation of the open problems under what the settled ones leave of the bounds.
        if len(band.problems):
            program = HighsProgram.from_candidates(
                instance.utility[band.open],
                instance.cost[:, band.open],
                band.segments.spread(np.arange(len(band.problems))),
                instance.ids.key(band.problems),
                band.low,
                band.high,
            )
            amount, price = program.relax()
            if amount is None and len(bands) == 1:
                return np.zeros(len(low)), None
            if amount is not None and ((price > band.floor) & (price < band.ceiling)).all():
                whole = np.rint(amount)
                if np.abs(amount - whole).max() > 1e-7:
                    return price, None
                rest = band.open[program.candidates(whole.astype(np.int64))]
                return price, np.sort(np.concatenate([band.settled, rest]))
        # A minimum on the rim of the box, or none: the box before it, and more care.
        bands.pop()
        care *= 3.0
    return price, None


def _sample(instance: AllocationProblem, band: _Band, which: int, most_problems: int) -> tuple[FloatArray, int]:
    """Prices from the problems with the `which`-th smallest keys, under their part of the bounds; number of types."""
    key = instance.ids.key(band.problems)
    size = min(most_problems, (len(key) - 1) // NUM_SAMPLES)
    some = np.argpartition(key, size * (which + 1))[: size * (which + 1)]
    some = np.sort(some[np.argsort(key[some])][size * which :])
    length = band.segments.length[some]
    start = np.cumsum(length) - length
    candidates = band.open[band.segments.rows_of(some)]
    part = size / len(key)  # of the bounds, but no less than the sample's cheapest choice costs
    cost = instance.cost[:, candidates]
    least, most = np.minimum.reduceat(cost, start, axis=1).sum(1), np.maximum.reduceat(cost, start, axis=1).sum(1)
    program = HighsProgram.from_candidates(
        instance.utility[candidates],
        cost,
        np.repeat(np.arange(size), length),
        key[some],
        np.minimum(band.low * part, most),
        np.maximum(band.high * part, least),
    )
    return program.relax()[1], len(program.count)


def _narrow(instance: AllocationProblem, band: _Band, price: FloatArray, reach: FloatArray) -> _Band | None:
    """The band of the box `price` +- `reach` inside the present one; None where that is empty."""
    floor, ceiling = np.maximum(band.floor, price - reach), np.minimum(band.ceiling, price + reach)
    if not (floor < ceiling).all():
        return None
    centre, half = (floor + ceiling) / 2, (ceiling - floor) / 2
    everything = len(band.open) == len(instance.utility)
    pick = slice(None) if everything else band.open
    segments, start = band.segments, band.segments.start
    # regret_c = (largest score of the problem) - (u_c - centre . cost_c), at the centre of the box
    score = instance.utility[pick] - centre @ instance.cost[:, pick]
    at_top = np.flatnonzero(score == segments.spread(segments.max(score)))
    best = at_top[np.searchsorted(at_top, start)]
    regret = segments.spread(score[best]) - score
    # Within the box a score moves against the best one's by at most sum_k half_k |cost_kc - cost_k,best|.
    apart = np.zeros(len(score))
    for k, row in enumerate(instance.cost):
        row = row[pick]
        apart += half[k] * np.abs(row - segments.spread(row[best]))
    alive = regret <= apart * (1 + 1e-9) + 1e-12 * (1.0 + float(np.abs(score[best]).max()))
    several = np.add.reduceat(alive, start, dtype=np.int64) > 1
    open_ = band.open[alive & segments.spread(several)]
    settled = band.open[best[~several]]
    total = np.array(instance.total(settled)) if len(settled) else np.zeros(len(price))
    problem = instance.segments.problem_of(open_)
    start = np.flatnonzero(is_first(problem))
    return _Band(
        floor=floor,
        ceiling=ceiling,
        open=open_,
        segments=Segments.from_start(start, len(open_)),
        problems=problem[start],
        settled=np.concatenate([band.settled, settled]),
        low=band.low - total,
        high=band.high - total,
    )


def close_gap(
    instance: AllocationProblem,
    price: FloatArray,
    chosen: IntArray | None,
    effort: Effort,
) -> tuple[IntArray | None, float]:
    """The best choice `[P]` that can be found, and a proved upper bound on all: -inf where there is no choice.

    At these prices a choice is worth at most D(price) - (its regrets): candidates with a regret above the gap are out.
    A search in whole numbers goes through the others, where they are few. Where they are too many HiGHS looks for a
    better choice among those of small regrets, which shrinks the gap and with it what there is to go through. What
    HiGHS says of its bounds is good enough to stop, but proves nothing.

    Args:
        instance: The problem.
        price: `[K]` any prices; good ones leave few candidates.
        chosen: `[P]` a choice that keeps the bounds, if one is known.
        effort: When to stop though a gap is left; its seconds are for all that is done, its nodes for each of HiGHS's
            programmes, and with a limit on nodes only a short search proves what HiGHS found.
    """
    # bound = D(price) = sum_p top_p + price . b, top_p the largest score of problem p
    top = np.empty(instance.num_problems)
    for problems, rows, block in instance.segments.blocks():
        top[problems] = block.max(scores(instance, price, rows))
    blur = rounding(instance, price)
    bound = math.fsum([exact_sum(top), *instance.bounds.paid(price), blur])
    if chosen is None:  # at prices a little higher than the best, the best candidates often fit
        for times in (1.0, 1.0001, 1.001, 1.01, 1.1, 2.0, 10.0, 1000.0):
            guess = best_candidates(instance, times * price)
            if instance.all_fit(guess):
                chosen = guess
                break
    value = -math.inf if chosen is None else exact_sum(instance.utility[chosen])
    dust = 1e-12 * (float(np.abs(top).max()) + 1.0)  # regrets that are rounding errors
    deadline = time.monotonic() + effort.time_limit_s
    proved = believed = bound
    size = 300
    near = regret = None
    while not effort.is_enough(value, believed):
        if near is None or regret is None:
            near, regret = _near(instance, price, top, max((bound - value) * (1 + 1e-9), 0.0) + dust + blur)
            found = search(instance, near, price, chosen, limit=FEW, deadline=deadline)
            if found.chosen is not None:
                chosen, value, near = found.chosen, exact_sum(instance.utility[found.chosen]), None
            if found.done:
                return chosen, value
            proved = max(value, min(proved, found.bound))
            if near is None:
                continue
        # Candidates of the `size` smallest regrets, none above the gap.
        open_regrets = regret[regret > dust]
        reach = math.inf
        if len(open_regrets) > size:
            reach = float(np.partition(open_regrets, size)[size])
        reach = min(reach, (bound - value) * (1 + 1e-9) + dust)
        left = deadline - time.monotonic()
        if left <= 0:
            break
        slack = 0.0 if chosen is None else effort.relative_gap * abs(value)
        better, near_bound = _solve_near(
            instance, near[regret <= max(reach, dust)], replace(effort, time_limit_s=left), slack, bound
        )
        # A choice is among these candidates, or has a regret above `reach`.
        believed = max(value, min(believed, max(near_bound, bound - reach)))
        complete = math.isinf(reach) or reach >= bound - value
        if better is not None and instance.all_fit(better):
            better_value = exact_sum(instance.utility[better])
            if better_value > value:
                chosen, value, near = better, better_value, None
                believed = max(value, believed)
        if complete:
            break
        size *= 8
    if not effort.is_enough(value, proved) and not effort.node_limit:
        near, _ = _near(instance, price, top, max((bound - value) * (1 + 1e-9), 0.0) + dust + blur)
        found = search(instance, near, price, chosen, limit=MANY, deadline=deadline)
        if found.chosen is not None:
            chosen, value = found.chosen, exact_sum(instance.utility[found.chosen])
        if found.done:
            return chosen, value
        proved = max(value, min(proved, found.bound))
    return chosen, proved


def _near(instance: AllocationProblem, price: FloatArray, top: FloatArray, reach: float) -> tuple[IntArray, FloatArray]:
    """The candidates whose regret is at most `reach`, and their regrets."""
    near: list[IntArray] = []
    regrets: list[FloatArray] = []
    for problems, rows, block in instance.segments.blocks():
        regret = block.spread(top[problems]) - scores(instance, price, rows)
        inside = np.flatnonzero(regret <= reach)
        near.append(inside + rows.start)
        regrets.append(regret[inside])
    return np.concatenate(near), np.concatenate(regrets)


def _solve_near(
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
    problem = instance.segments.problem_of(candidates)
    several = np.bincount(problem)[problem] > 1
    fixed, open_ = candidates[~several], candidates[several]
    base = exact_sum(instance.utility[fixed]) if len(fixed) else 0.0
    if not len(open_):
        return (fixed, base) if instance.all_fit(fixed) else (None, -math.inf)
    total = np.array(instance.total(fixed)) if len(fixed) else np.zeros(len(instance.cost))
    low, high = instance.bounds.arrays()
    problems, local = np.unique(problem[several], return_inverse=True)
    utility, cost, key = instance.utility[open_], instance.cost[:, open_], instance.ids.key(problems)
    program = HighsProgram.from_candidates(utility, cost, local, key, low - total, high - total)
    amount, bound = program.integer(effort, slack=slack, known=known - base)
    if amount is None:
        return None, bound + base
    return np.sort(np.concatenate([fixed, open_[program.candidates(amount)]])), bound + base
