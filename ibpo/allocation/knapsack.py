"""One general cost (a multiple-choice knapsack): its price by a bracketed search, and a greedy filling.

Letters: C candidates, P problems, B steps on the envelopes.
"""

import math

import numpy as np

from ibpo.allocation.exact_sum import exact_sum
from ibpo.allocation.hull import Steps, envelope
from ibpo.allocation.ids import IntArray
from ibpo.allocation.problem import AllocationProblem, FloatArray, best_candidates, cheapest_of

SAMPLE = 20_000
"""Problems that bracket the price of a larger instance; up to twice as many are searched outright."""


def knapsack(instance: AllocationProblem) -> tuple[IntArray, float]:
    """A choice `[P]` inside the one bound that binds, one envelope step from optimal, and the price of that bound.

    The total cost of the best candidates under utility - price * cost falls as the price rises. Only problems whose
    best candidate differs between the two ends of a bracket are open; their envelope steps are taken in the order of
    their slopes until the next no longer fits. Its slope is the price: an optimal dual variable.
    """
    low, high = instance.bounds(0)
    freest = best_candidates(instance, instance.utility)
    # Under a lower bound that binds, the same search with costs negated: "at most -low of -cost".
    sign, limit = (1.0, high) if instance.total(freest)[0] > high else (-1.0, -low)
    cost = sign * instance.cost[0]
    if instance.num_problems <= 2 * SAMPLE:
        dear, cheap = freest, _cheapest(instance, cost)
    else:
        dear, cheap = _bracket(instance, cost, limit, freest)
    open_ = np.flatnonzero(dear != cheap)
    chosen = cheap.copy()
    candidates = candidates_of(instance, open_)
    problem = np.repeat(np.arange(len(open_)), instance.length[open_])
    between = (cost[candidates] >= cost[cheap[open_]][problem]) & (cost[candidates] <= cost[dear[open_]][problem])
    candidates, problem = candidates[between], problem[between]
    steps = envelope(problem, instance.utility[candidates], cost[candidates])
    chosen[open_] = candidates[steps.base]
    order = np.lexsort((instance.ids.key(open_)[steps.problem], -steps.slope))
    spent = exact_sum(cost[chosen])
    fitting = int(np.searchsorted(np.cumsum(steps.cost[order]), limit - spent, side="right"))
    last = np.full(len(open_), -1)
    np.maximum.at(last, steps.problem[order[:fitting]], order[:fitting])  # steps of a problem stand in rising order
    moved = np.flatnonzero(last >= 0)
    chosen[open_[moved]] = candidates[steps.to[last[moved]]]
    slack = limit - exact_sum(cost[chosen])
    _fill(chosen, open_, candidates, steps, order[fitting : fitting + 2000], slack)
    price = float(steps.slope[order[fitting]]) if fitting < len(order) else 0.0
    return chosen, sign * price


def candidates_of(instance: AllocationProblem, problems: IntArray) -> IntArray:
    """All candidates of these problems, problem after problem."""
    size = instance.length[problems]
    begin = np.cumsum(size) - size
    return np.repeat(instance.start[problems] - begin, size) + np.arange(int(size.sum()))


def _cheapest(instance: AllocationProblem, cost: FloatArray) -> IntArray:
    """`[P]` the cheapest candidate, the best of these: what an infinite price chooses."""
    least = instance.spread(np.minimum.reduceat(cost, instance.start))
    score = np.where(cost == least, instance.utility, -np.inf)
    top = instance.spread(np.maximum.reduceat(score, instance.start))
    return cheapest_of(instance, np.flatnonzero(score == top))


def _bracket(
    instance: AllocationProblem, cost: FloatArray, limit: float, freest: IntArray
) -> tuple[IntArray, IntArray]:
    """Choices at two prices, one that overspends and one that does not, close to each other.

    The prices come from a sample of problems (those with the smallest keys); the whole instance confirms them, or an
    end of the whole range stands in.
    """
    key = instance.ids.key(np.arange(instance.num_problems))
    sample = np.argpartition(key, SAMPLE)[:SAMPLE]
    sample = sample[np.argsort(key[sample])]
    candidates = candidates_of(instance, sample)
    problem = np.repeat(np.arange(SAMPLE), instance.length[sample])
    steps = envelope(problem, instance.utility[candidates], cost[candidates])
    order = np.argsort(-steps.slope, kind="stable")
    mean = (exact_sum(cost[candidates[steps.base]]) + np.cumsum(steps.cost[order])) / SAMPLE
    price_ends: list[float] = []
    if len(order):
        error = 5.0 * float(np.std(cost[candidates])) / math.sqrt(SAMPLE)
        for target in (limit / instance.num_problems + error, limit / instance.num_problems - error):
            place = int(np.searchsorted(mean, target))
            price_ends.append(float(steps.slope[order[place]]) if place < len(order) else 0.0)
    dear, cheap = freest, None
    for price in price_ends:
        choice = best_candidates(instance, instance.utility - price * cost)
        if exact_sum(cost[choice]) > limit:
            dear = choice
        else:
            cheap = choice
            break
    return dear, _cheapest(instance, cost) if cheap is None else cheap


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
