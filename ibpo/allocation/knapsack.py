"""One general cost (a multiple-choice knapsack): its price by a bracketed search, and a greedy filling.

Letters: C candidates, P problems, B steps on the envelopes.
"""

import math
from dataclasses import dataclass

import numpy as np

from ibpo.allocation.exact_sum import exact_sum
from ibpo.allocation.hull import Steps, envelope
from ibpo.allocation.problem import AllocationProblem, best_at, best_candidates, cheapest_of
from ibpo.allocation.runs import IntArray

SAMPLE = 20_000
"""Problems that bracket the price of a larger instance; up to twice as many are searched outright."""


def knapsack(instance: AllocationProblem) -> tuple[IntArray, float, float]:
    """A choice `[P]` inside the one bound that binds, one envelope step from optimal, its price, and a bound on all.

    The total cost of the best candidates under utility - price * cost falls as the price rises. Only problems whose
    best candidate differs between the two ends of a bracket are open; their envelope steps are taken in the order of
    their slopes until the next no longer fits. Its slope is the price: an optimal dual variable. The other problems
    keep their candidate at every price in the bracket: the dual function at this price needs no further pass.
    """
    low, high = instance.limits.bounds(0)
    sign, limit, freest = 1.0, high, None
    if instance.num_problems <= 2 * SAMPLE or low > -math.inf:
        freest = best_candidates(instance)
        spent = instance.total(freest)[0]
        if instance.limits.keeps_high(spent, 0):
            if instance.limits.keeps_low(spent, 0):
                return freest, 0.0, exact_sum(instance.utility[freest])
            sign, limit = -1.0, -low  # the same search with costs negated: "at most -low of -cost"
    bracket = _bracket(instance, sign, limit, freest)
    dear, cheap = bracket.dear, bracket.cheap
    if cheap is None:  # price 0
        return dear, 0.0, exact_sum(instance.utility[dear])
    different = dear != cheap
    open_ = np.flatnonzero(different)
    chosen = cheap.copy()
    candidates = candidates_of(instance, open_)
    problem = np.repeat(np.arange(len(open_)), instance.length[open_])
    cost = sign * instance.cost[0, candidates]
    ends = sign * instance.cost[0, [cheap[open_], dear[open_]]]
    between = (cost >= ends[0][problem]) & (cost <= ends[1][problem])
    some, of_some, cost = candidates[between], problem[between], cost[between]
    steps = envelope(of_some, instance.utility[some], cost)
    chosen[open_] = some[steps.base]
    order = np.lexsort((instance.ids.key(open_)[steps.problem], -steps.slope))
    spent = sign * instance.total(chosen)[0]
    fitting = int(np.searchsorted(np.cumsum(steps.cost[order]), limit - spent, side="right"))
    last = np.full(len(open_), -1)
    np.maximum.at(last, steps.problem[order[:fitting]], order[:fitting])  # steps of a problem stand in rising order
    moved = np.flatnonzero(last >= 0)
    chosen[open_[moved]] = some[steps.to[last[moved]]]
    slack = limit - sign * instance.total(chosen)[0]
    _fill(chosen, open_, some, steps, order[fitting : fitting + 2000], slack)
    price = float(steps.slope[order[fitting]]) if fitting < len(order) else 0.0
    bound = math.inf
    if bracket.low <= price <= bracket.high:
        settled = cheap[~different]
        score = instance.utility[candidates] - sign * price * instance.cost[0, candidates]
        top = np.maximum.reduceat(score, np.cumsum(instance.length[open_]) - instance.length[open_])
        parts = [exact_sum(instance.utility[settled]), -sign * price * instance.total(settled)[0], exact_sum(top)]
        bound = math.fsum([*parts, price * limit])
    return chosen, sign * price, bound


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Bracket:
    """Choices `[P]` at two prices: `dear` at the low one overspends, `cheap` at the high one does not.

    `cheap` is None where nothing overspends: `dear` is then the choice at price 0.
    """

    low: float
    high: float
    dear: IntArray
    cheap: IntArray | None


def _bracket(instance: AllocationProblem, sign: float, limit: float, freest: IntArray | None) -> _Bracket:
    """Choices at two prices close to each other.

    The prices come from a sample of problems; the whole instance confirms them, or a wider bracket is tried.
    """
    if instance.num_problems <= 2 * SAMPLE and freest is not None:
        return _Bracket(low=0.0, high=math.inf, dear=freest, cheap=_cheapest(instance, sign))
    some = instance.ids.sample(SAMPLE)
    some = some[np.argsort(instance.ids.key(some))]
    candidates = candidates_of(instance, some)
    problem = np.repeat(np.arange(len(some)), instance.length[some])
    cost = sign * instance.cost[0, candidates]
    steps = envelope(problem, instance.utility[candidates], cost)
    order = np.argsort(-steps.slope, kind="stable")
    base = cost[steps.base]
    mean = (exact_sum(base) + np.cumsum(steps.cost[order])) / len(some)
    target = limit / instance.num_problems
    taken = order[: int(np.searchsorted(mean, target))]
    spent = base.copy()
    np.add.at(spent, steps.problem[taken], steps.cost[taken])
    error = 4.0 * math.sqrt(exact_sum((spent - exact_sum(spent) / len(some)) ** 2)) / len(some)
    for care in (1.0, 4.0, 16.0):
        ends: list[float] = []
        for aim in (target + care * error, target - care * error):
            place = int(np.searchsorted(mean, aim))
            ends.append(float(steps.slope[order[place]]) if place < len(order) else 0.0)
        ends[1] = ends[1] if ends[1] > 0 else float(np.finfo(float).tiny)
        dear, cheap = best_at(instance, [np.array([sign * price]) for price in ends])
        over, inside = (sign * exact_sum(instance.cost[0][x]) > limit for x in (dear, cheap))
        if over and not inside:
            return _Bracket(low=ends[0], high=ends[1], dear=dear, cheap=cheap)
        if not over and ends[0] == 0.0:
            return _Bracket(low=0.0, high=0.0, dear=dear, cheap=None)
    freest = best_candidates(instance) if freest is None else freest
    if sign * exact_sum(instance.cost[0][freest]) <= limit:
        return _Bracket(low=0.0, high=0.0, dear=freest, cheap=None)
    return _Bracket(low=0.0, high=math.inf, dear=freest, cheap=_cheapest(instance, sign))


def candidates_of(instance: AllocationProblem, problems: IntArray) -> IntArray:
    """All candidates of these problems, problem after problem."""
    size = instance.length[problems]
    begin = np.cumsum(size) - size
    return np.repeat(instance.start[problems] - begin, size) + np.arange(int(size.sum()))


def _cheapest(instance: AllocationProblem, sign: float) -> IntArray:
    """`[P]` the cheapest candidate, the best of these: what an infinite price chooses."""
    found: list[IntArray] = []
    for problems, rows, part in instance.runs.blocks():
        cost = instance.cost[0, rows]
        least = part.spread(part.min(cost) if sign > 0 else part.max(cost))
        score = np.where(cost == least, instance.utility[rows], -np.inf)
        hits = np.flatnonzero(score == part.spread(part.max(score))) + rows.start
        found.append(cheapest_of(instance, hits, problems.stop - problems.start))
    return np.concatenate(found)


def _fill(chosen: IntArray, open_: IntArray, candidates: IntArray, steps: Steps, rest: IntArray, slack: float) -> None:
    """Spend what is left on the next steps that fit; a problem whose step did not fit takes no later one."""
    blocked: set[int] = set()
    for step in rest.tolist():
        p = int(steps.problem[step])
        if p in blocked:
            continue
        if steps.cost[step] <= slack:
            slack -= float(steps.cost[step])
            chosen[open_[p]] = candidates[steps.to[step]]
        else:
            blocked.add(p)
