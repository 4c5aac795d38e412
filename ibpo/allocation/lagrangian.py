"""Several budgets: their prices, by a box around them and cutting planes inside it, and the few choices these leave.

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
from fractions import Fraction

import numpy as np

from ibpo.allocation.cutting_planes import minimum
from ibpo.allocation.highs import Effort, HighsProgram
from ibpo.allocation.passes import best_rows, best_sums, open_rows
from ibpo.allocation.problem import AllocationProblem, best_candidates, largest_score, rounding
from ibpo.allocation.search import Base, search
from ibpo.allocation.segments import FloatArray, IntArray, Segments, add_parts, exact_sum, is_first
from ibpo.allocation.units import utility_unit

SMALL = 20_000
"""Open problems that cutting planes get at once."""
SAMPLE = 600
NUM_SAMPLES = 4
CERTAIN = 6.0
"""Standard errors of a sample's mean that are taken for certain."""
CLOSE = 1e-5
"""Part of D at which the minimum of a sample is good enough."""
FAR = 64.0
"""Typical prices up to which a minimum is looked for at first; further out where there is none."""
HAIR = 1e-4
"""Bounds are widened by this part of a unit of cost where D is minimised: of several optimal prices those that say what
one unit more would add, not what one less would take away."""
NEAREST = 4_096
"""Candidates, besides the best of each problem, that are kept in mind: those of the smallest regrets."""
DUST = 1e-12
"""Part of a score that rounding may be wrong by."""
FIRST = 20
"""Candidates of a first search; each further one has half as many again."""
MOST_EXCHANGES, MOST_TRIES = 60, 30
"""Moves in two problems at once, and pairs that are tried for each."""
GOOD = 1e-3
"""Part of the objective: where effort is limited in nodes, HiGHS is asked where a larger gap is left."""
FEW, MANY = 50_000, 1_000_000
"""States of a search in whole numbers: one that is tried before HiGHS, and one that proves what HiGHS found."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Band:
    """What a box of prices leaves open.

    Attributes:
        floor: `[K]` corner of the box.
        ceiling: `[K]` the opposite corner.
        open: Candidates that can be best somewhere in the box, of problems with several such; None for all there are.
        segments: The open problems' places in `open`.
        problems: The open problems; None for all.
        low: `[K]` lower bounds on what the open problems cost in all.
        high: `[K]` upper bounds.
    """

    floor: FloatArray
    ceiling: FloatArray
    open: IntArray | None
    segments: Segments
    problems: IntArray | None
    low: FloatArray
    high: FloatArray


def is_surely_over(instance: AllocationProblem) -> bool:
    """Whether a sample says that the best of each problem cannot fit, which need not be looked at then.

    Their mean cost is above a bound by more than chance makes of a sample. Where it is wrong only time is lost.
    """
    some = instance.ids.sample(SAMPLE)
    if instance.num_problems <= 4 * SAMPLE or len(some) < SAMPLE // 2:
        return False
    rows, length = instance.segments.rows_of(some), instance.segments.length[some]
    start = np.cumsum(length) - length
    utility = instance.utility[rows]
    is_best = utility == np.repeat(np.maximum.reduceat(utility, start), length)
    high = instance.bounds.arrays()[1] / instance.num_problems
    for row, bound in zip(instance.cost, high.tolist(), strict=True):
        least = np.minimum.reduceat(np.where(is_best, row[rows], np.inf), start)
        if least.mean() - CERTAIN * least.std() / math.sqrt(len(some)) > bound:
            return True
    return False


def prices(instance: AllocationProblem) -> FloatArray:
    """Prices `[K]` at which D is least, or close to them.

    The dual function D is convex, so a minimum inside a box is the minimum. Samples of problems say where the box is;
    problems whose best candidate is the same throughout the box are settled, and the samples of the next, smaller box
    come from the rest, until cutting planes can finish with all that is left. If their minimum is inside the box, it is
    that of the whole; if not, the box before is narrowed with more care.
    """
    low, high = instance.bounds.arrays()
    scale = _typical_prices(instance)
    bands = [
        _Band(
            floor=np.where(low > -np.inf, -FAR * scale, 0.0),
            ceiling=FAR * scale,
            open=None,
            segments=instance.segments,
            problems=None,
            low=low,
            high=high,
        )
    ]
    price, care, size = scale, 1.0, SAMPLE
    while care < 1000:
        band = bands[-1]
        # Many open problems: a box around the mean of the samples' prices, as wide as these differ.
        if band.segments.num_problems > SMALL:
            # Samples whose dual functions are flat all stop where they begin, and look as if they agreed: once a box
            # has missed, they are minimised to the end.
            sampled = _samples(instance, band, size, scale, CLOSE if care == 1.0 else 0.0)
            price, spread = np.mean(sampled, axis=0), np.ptp(sampled, axis=0)
            # A small spread of one price may be luck: none is trusted far beyond what the others show.
            around = np.maximum(np.abs(price), 1e-12 * scale)
            reach = care * (np.maximum(spread, float((spread / around).mean()) * around) + 1e-9 * around)
            inner = _narrow(instance, band, price, reach)
            if inner is not None and inner.segments.num_rows < 0.7 * band.segments.num_rows:
                bands.append(inner)
                continue
            if size < SMALL // 8:  # larger samples know more
                size *= 4
                continue
        # Few enough, or as few as it gets: the minimum of D over the box.
        pick = slice(None) if band.open is None else band.open
        price, found = _least(instance.utility[pick], instance.cost[:, pick], band, price, scale)
        rim = 1e-9 * (band.ceiling - band.floor)
        inside = ((price > band.floor + rim) | (band.floor == 0.0)) & (price < band.ceiling - rim)
        if found and inside.all():
            return price
        if len(bands) == 1:
            if not found or (band.ceiling > 1e12 * scale).any():
                return price
            bands = [replace(band, floor=FAR * band.floor, ceiling=FAR * band.ceiling)]
            continue
        # A minimum on the rim of the box: the box before it, and more care.
        bands.pop()
        care *= 3.0
    # No box was right: all candidates at once.
    return _least(instance.utility, instance.cost, bands[0], price, scale)[0]


def _typical_prices(instance: AllocationProblem) -> FloatArray:
    """`[K]` how much utilities differ within a problem, over how much costs do."""
    every = np.arange(instance.num_problems)
    some = instance.ids.sample(SAMPLE) if len(every) > 4 * SAMPLE else every
    some = some if len(some) else every
    rows, length = instance.segments.rows_of(some), instance.segments.length[some]
    start = np.cumsum(length) - length

    def spread(values: FloatArray) -> float:
        here = values[rows]
        return exact_sum(np.maximum.reduceat(here, start) - np.minimum.reduceat(here, start))

    worth = spread(instance.utility)
    found = [worth / x if (x := spread(cost)) > 0 else 0.0 for cost in instance.cost]
    return np.array([x if 1e-250 < x < 1e250 else 1.0 for x in found])


def _least(
    utility: FloatArray, cost: FloatArray, band: _Band, start: FloatArray, scale: FloatArray, close: float = 0.0
) -> tuple[FloatArray, bool]:
    """Where D of these candidates `[C]`, the band's segments and bounds, is least in its box; False if not sure."""
    low, high = (band.low - HAIR).tolist(), (band.high + HAIR).tolist()

    def plane(price: list[float]) -> tuple[float, list[float]]:
        value, total = best_sums(utility, cost, band.segments, np.array(price))
        bound = [b if y < 0 else h for y, b, h in zip(price, low, high, strict=True)]
        return math.fsum(value), [math.fsum([b, *(-x for x in parts)]) for b, parts in zip(bound, total, strict=True)]

    inside = np.clip(start, band.floor, band.ceiling)
    return minimum(plane, band.floor, band.ceiling, inside, scale, most=60 + 60 * len(low), close=close)


def _samples(instance: AllocationProblem, band: _Band, size: int, scale: FloatArray, close: float) -> list[FloatArray]:
    """Prices from a few samples of open problems, those with the smallest keys."""
    ids = instance.ids if band.problems is None else instance.ids.of(band.problems)
    num_open = band.segments.num_problems
    size = min(size, (num_open - 1) // NUM_SAMPLES)
    some = ids.sample(6 * size)  # half as many again as are wanted: few to put in order
    if len(some) < size * NUM_SAMPLES:
        some = np.arange(num_open)
    some = some[np.argsort(ids.key(some))[: size * NUM_SAMPLES]].reshape(NUM_SAMPLES, size)
    return [_sample(instance, band, np.sort(each), scale, close) for each in some]


def _sample(instance: AllocationProblem, band: _Band, some: IntArray, scale: FloatArray, close: float) -> FloatArray:
    """Prices from some of the open problems, under their part of the bounds."""
    length = band.segments.length[some]
    start = np.cumsum(length) - length
    candidates = band.segments.rows_of(some)
    candidates = candidates if band.open is None else band.open[candidates]
    part = len(some) / band.segments.num_problems  # of the bounds, but no less than the sample's cheapest choice costs
    cost = instance.cost[:, candidates]
    least, most = np.minimum.reduceat(cost, start, axis=1).sum(1), np.maximum.reduceat(cost, start, axis=1).sum(1)
    sample = replace(
        band,
        open=candidates,
        segments=Segments.from_start(start, len(candidates)),
        low=np.minimum(band.low * part, most),
        high=np.maximum(band.high * part, least),
    )
    start_at = scale if band.open is None else (band.floor + band.ceiling) / 2
    return _least(instance.utility[candidates], cost, sample, start_at, scale, close=close)[0]


def _narrow(instance: AllocationProblem, band: _Band, price: FloatArray, reach: FloatArray) -> _Band | None:
    """The band of the box `price` +- `reach` inside the present one; None where that is empty."""
    floor, ceiling = np.maximum(band.floor, price - reach), np.minimum(band.ceiling, price + reach)
    if not (floor < ceiling).all():
        return None
    centre, half = (floor + ceiling) / 2, (ceiling - floor) / 2
    open_: list[IntArray] = []
    total: list[list[float]] = [[] for _ in centre]
    for _, rows, block in band.segments.blocks():
        here = rows if band.open is None else band.open[rows]
        left, settled = open_rows(instance.utility[here], instance.cost[:, here], block, centre, half)
        open_.append(left + rows.start if band.open is None else band.open[rows][left])
        for parts, more in zip(total, settled, strict=True):
            parts += more
    rest = np.concatenate(open_)
    problem = instance.segments.problem_of(rest)
    start = np.flatnonzero(is_first(problem))
    settled = np.array([math.fsum(parts) for parts in total])
    return _Band(
        floor=floor,
        ceiling=ceiling,
        open=rest,
        segments=Segments.from_start(start, len(rest)),
        problems=problem[start],
        low=band.low - settled,
        high=band.high - settled,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Regrets:
    """At some prices the best candidates and the nearest others.

    Attributes:
        bound: D, no less than any objective.
        best: `[P]` the candidate of the largest score: of equal ones the cheapest.
        near: Other candidates, those of the smallest regrets, by rising regret, then by problem and row.
        regret: The regrets of these rows.
        reach: No candidate that is not among them has a regret of this or less.
        dust: Regrets up to here are rounding errors.
    """

    bound: float
    best: IntArray
    near: IntArray
    regret: FloatArray
    reach: float
    dust: float


def _regrets(instance: AllocationProblem, price: FloatArray) -> _Regrets:
    """All of it in one pass."""
    best = np.empty(instance.num_problems, np.int64)
    near: list[IntArray] = []
    regrets: list[FloatArray] = []
    parts: list[float] = []
    # No score is larger than `most`. Regrets up to `faint` may be rounding errors, so that none is nearer than another:
    # with binary rewards the optimal prices make thousands of candidates equal otherwise.
    most = largest_score(instance, price)
    blur = rounding(instance, price, most)
    faint = DUST * (most + 1.0) + blur
    reach, largest, waiting = math.inf, 0.0, 0
    for problems, rows, block in instance.segments.blocks():
        tie = None if instance.tie is None else instance.tie[rows]
        chosen, top, inside, regret = best_rows(
            instance.utility[rows], instance.cost[:, rows], tie, block, price, reach
        )
        np.add(chosen, rows.start, out=best[problems])
        near.append(inside + rows.start)
        regrets.append(regret)
        add_parts(top, parts)
        largest = max(largest, float(np.abs(top).max()))
        waiting += len(inside)
        if waiting > 4 * NEAREST:  # those of the smallest regrets, all that are equal to the last
            some = np.concatenate(regrets)
            reach = max(float(np.partition(some, NEAREST)[NEAREST]), faint)
            keep = some <= reach
            near, regrets = [np.concatenate(near)[keep]], [some[keep]]
            waiting = 0 if len(regrets[0]) > 2 * NEAREST else len(regrets[0])
    rows, regret = np.concatenate(near), np.concatenate(regrets)
    if len(regret) > NEAREST:
        reach = max(float(np.partition(regret, NEAREST)[NEAREST]), faint)
        rows, regret = rows[regret <= reach], regret[regret <= reach]
    order = np.argsort(regret, kind="stable")
    return _Regrets(
        bound=math.fsum([*parts, *instance.bounds.paid(price), blur]),
        best=best,
        near=rows[order],
        regret=regret[order],
        reach=reach,
        dust=DUST * (largest + 1.0) + blur,
    )


def close_gap(
    instance: AllocationProblem,
    price: FloatArray,
    effort: Effort,
) -> tuple[IntArray | None, float]:
    """The best choice `[P]` that can be found, and a proved upper bound on all: -inf where there is no choice.

    At these prices a choice is worth D(price) - (its regrets) - price . (what it leaves of the bounds) at most. So one
    that is worth more than D(price) - reach has no candidate with a regret above `reach`: searches in whole numbers
    look for it among the 20, 30, 45 ... candidates of the smallest regrets, each of which either finds the optimum or
    lowers the bound by its reach. Few candidates are needed: at good prices the gap is about the regret of the dozenth.
    Where these searches become too long, HiGHS looks for a better choice among those of small regrets. What HiGHS says
    of its bounds is good enough to stop, but proves nothing: a longer search does.

    Args:
        instance: The problem.
        price: `[K]` any prices; good ones leave few candidates.
        effort: When to stop though a gap is left; its seconds are for all that is done, its nodes for each of HiGHS's
            programmes, and with a limit on nodes only a short search proves what HiGHS found.
    """
    found = _regrets(instance, price)
    base = Base.from_choice(instance, found.best)
    chosen: IntArray | None = None
    value = -math.inf
    deadline = time.monotonic() + effort.time_limit_s
    proved = believed = found.bound
    unit = None if instance.exact_utility is not None else utility_unit(instance.utility)
    # What floats are off the multiples of the unit, all chosen ones together.
    off = 0.0 if unit is None or unit[1] else 2.0**-50 * instance.num_problems * largest_score(instance, 0.0 * price)

    def lowered(bound: float) -> float:
        """Objectives are multiples of the utilities' unit: the largest that is not above the bound."""
        if unit is None or not math.isfinite(bound) or not off < unit[0] / 4:
            return bound
        steps = math.floor((Fraction(bound) + Fraction(off)) / unit[0])
        if math.isfinite(value) and steps <= round(Fraction(value) / unit[0]):
            return min(bound, value)
        return min(bound, math.nextafter(float(steps * unit[0]) + off, math.inf))

    def is_enough(bound: float) -> bool:
        return effort.is_enough(value, lowered(bound))

    def searched(reach: float, limit: int) -> bool:
        """A search among candidates of regrets up to `reach`: whether nothing is left to be found within it."""
        nonlocal chosen, value, proved
        gap = found.bound - value
        near = found.near[found.regret <= min(reach, gap) * (1 + 1e-9) + found.dust]
        above = value if reach >= gap else found.bound - reach
        got = search(instance, base, near, price, chosen, above=above, limit=limit, deadline=deadline)
        if got.chosen is not None and (worth := exact_sum(instance.utility[got.chosen])) >= value:
            chosen, value = got.chosen, worth
            proved = max(value, proved)
        if got.done:
            proved = min(proved, value if got.chosen is not None or reach >= gap else max(value, found.bound - reach))
        elif reach >= gap and math.isinf(found.reach):
            proved = max(value, min(proved, got.bound))
        return got.done

    # 1. Short searches, each of half as many candidates again.
    size = FIRST
    while not is_enough(proved):
        reach = found.reach if size > len(found.regret) else float(found.regret[size - 1])
        before = value
        if not searched(reach, FEW):
            if value == before:
                break
        elif size > len(found.regret):
            break
        else:
            size += size // 2
    # 2. A choice, where none is known or the best is in doubt: the most promising states among a few candidates, and
    # at prices a little higher the best candidates often fit.
    for size in (60, 240):
        if not is_enough(proved) and size // 4 <= len(found.near):
            near = found.near[found.regret <= float(found.regret[:size][-1])]
            got = search(instance, base, near, price, chosen, above=value, limit=None, deadline=deadline)
            if got.chosen is not None and (worth := exact_sum(instance.utility[got.chosen])) > value:
                chosen, value = got.chosen, worth
    for times in (1.0, 1.0001, 1.001, 1.01, 1.1, 2.0, 10.0, 1000.0):
        if chosen is not None or is_enough(proved):
            break
        guess = best_candidates(instance, times * price)
        if instance.all_fit(guess):
            chosen = _filled(instance, guess, found.near)
            value = exact_sum(instance.utility[chosen])
    if chosen is not None and not is_enough(proved):
        chosen = _exchanged(instance, chosen, found, price)  # pyright: ignore[reportUnknownArgumentType]
        value = exact_sum(instance.utility[chosen])
    proved = max(value, proved)
    if effort.node_limit and chosen is not None:
        if not is_enough(proved) and np.count_nonzero(found.regret <= found.bound - value) <= 240:
            searched(found.bound - value, FEW)
        if lowered(proved) - value <= GOOD * abs(value):
            return chosen, lowered(proved)
    # 3. HiGHS, among candidates of small regrets.
    believed, size = proved, 300
    while not is_enough(believed) and (left := deadline - time.monotonic()) > 0:
        gap = found.bound - value
        open_regrets = found.regret[found.regret > found.dust]
        reach = found.reach if len(open_regrets) <= size else float(open_regrets[size])
        reach = min(reach, gap * (1 + 1e-9) + found.dust)
        near = found.near[found.regret <= max(reach, found.dust)]
        slack = 0.0 if chosen is None else effort.relative_gap * abs(value)
        candidates = np.sort(np.concatenate([found.best, near]))
        better, near_bound = _solve_near(instance, candidates, replace(effort, time_limit_s=left), slack, found.bound)
        # A choice is among these candidates, or has a regret above `reach`.
        believed = max(value, min(believed, max(near_bound, found.bound - reach)))
        complete = math.isinf(reach) or reach >= gap or len(near) == len(found.near)
        before = value
        if better is not None and instance.all_fit(better) and exact_sum(instance.utility[better]) > value:
            chosen, value = better, exact_sum(instance.utility[better])
            believed = max(value, believed)
        if value > before and searched(found.bound - value, FEW):
            break
        if complete:
            break
        size *= 8
    # 4. A long search proves what HiGHS found.
    if not is_enough(proved) and not effort.node_limit:
        searched(min(found.reach, found.bound - value), MANY)
    return chosen, lowered(proved)


def _filled(instance: AllocationProblem, chosen: IntArray, near: IntArray) -> IntArray:
    """The choice, made better one by one by candidates that are worth more and fit, in the order of their regrets."""
    filled = chosen.copy()
    low, high = instance.bounds.arrays()
    total = np.array([float(x) for x in instance.total(chosen)])
    for row, p in zip(near.tolist(), instance.segments.problem_of(near).tolist(), strict=True):
        if instance.utility[row] > instance.utility[filled[p]]:
            moved = total + instance.cost[:, row] - instance.cost[:, filled[p]]
            if (moved <= high).all() and (moved >= low).all():
                total, filled[p] = moved, row
    return filled if instance.all_fit(filled) else chosen


def _exchanged(instance: AllocationProblem, chosen: IntArray, found: _Regrets, price: FloatArray) -> IntArray:
    """The choice, made better by moves in two problems at once that together fit and are worth more, while there are.

    Where costs are nearly equal, one move spends too much or leaves too much; a more expensive response here for a
    cheaper one there does not.
    """
    low, high = instance.bounds.arrays()
    main = int(np.argmax(np.abs(price) * np.where(np.isfinite(high), 1.0, 0.0)))
    changed = chosen.copy()
    total = np.array([float(x) for x in instance.total(chosen)])
    problem_of = instance.segments.problem_of
    for _ in range(MOST_EXCHANGES):
        back = found.best[np.flatnonzero(changed != found.best)]
        rows = np.concatenate([found.near, back[:NEAREST]])
        problem = problem_of(rows)
        now = changed[problem]
        gain, step = instance.utility[rows] - instance.utility[now], instance.cost[:, rows] - instance.cost[:, now]
        # By the cost whose price counts most: for each move the best one among those that fit with it.
        order = np.lexsort((-gain, step[main]))
        rising, best = step[main][order], np.maximum.accumulate(gain[order])
        first = np.flatnonzero(gain[order] == best)
        room: FloatArray = high[main] - total[main] - step[main]
        fits = np.searchsorted(rising, room, side="right") - 1
        ahead = np.where(fits >= 0, gain + best[np.maximum(fits, 0)], -np.inf)
        moved = False
        for a in np.argsort(-ahead, kind="stable")[:MOST_TRIES].tolist():
            if not ahead[a] > 1e-9 * abs(gain[a]):
                break
            b = int(order[first[np.searchsorted(first, fits[a], side="right") - 1]])
            spent = total + step[:, a] + step[:, b]
            if problem[a] != problem[b] and (spent <= high).all() and (spent >= low).all():
                changed[problem[[a, b]]], total, moved = rows[[a, b]], spent, True
                break
        if not moved:
            break
    return changed if instance.all_fit(changed) else chosen


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
