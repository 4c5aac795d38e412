"""One general cost (a multiple-choice knapsack): its price, a greedy filling, and value and price at every budget.

Letters: R responses, C candidates, P problems, B breakpoints (steps from one response of a problem to its next on its
envelope).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ibpo.allocation.problem import (
    AllocationProblem,
    Choose,
    best_at,
    best_candidates,
    cheapest_of,
    gather,
    rounding,
    validate,
)
from ibpo.allocation.segments import FloatArray, IntArray, exact_sum, is_first
from ibpo.errors import IbpoError

SAMPLE = 20_000
"""Problems that bracket the price of a larger instance; up to twice as many are searched outright."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Steps:
    """The steps of all problems, in no particular order between problems, in their order within one.

    Attributes:
        base: `[P]` the candidate that each problem starts from: its cheapest, and the best of these.
        problem: `[B]` index into `base`.
        to: `[B]` the candidate that the step leads to.
        cost: `[B]` what the step costs, above 0.
        gain: `[B]` what it adds to the utility, above 0.
        slope: `[B]` gain / cost; falls within a problem.
    """

    base: IntArray
    problem: IntArray
    to: IntArray
    cost: FloatArray
    gain: FloatArray
    slope: FloatArray


def envelope(problem: IntArray, utility: FloatArray, cost: FloatArray) -> Steps:
    """Steps up the concave envelope of every problem, by repeated removal of points on or below a chord.

    A point on or below the chord of its neighbours, or no better than a cheaper one, is no vertex of the rising
    envelope, whatever else is removed with it: whole sweeps go over all problems at once, until one removes nothing.

    Args:
        problem: `[C]` not decreasing, 0 .. P-1, each at least once.
        utility: `[C]`.
        cost: `[C]`, of any sign.

    Returns:
        The steps with a positive gain, candidates as positions in the arguments.
    """
    order = np.lexsort((-utility, cost, problem))
    p, c = problem[order], cost[order]
    keep = np.ones(len(p), bool)
    keep[1:] = (p[1:] != p[:-1]) | (c[1:] != c[:-1])  # of equal costs the best
    order = order[keep]
    while True:
        p, c, u = problem[order], cost[order], utility[order]
        inner = p[1:] == p[:-1]
        slope = np.full(len(order) + 1, -np.inf)  # slope[i]: from point i - 1 to point i, within a problem
        slope[1:-1][inner] = (u[1:][inner] - u[:-1][inner]) / (c[1:][inner] - c[:-1][inner])
        has_before = np.concatenate([[False], inner])
        has_after = np.concatenate([inner, [False]])
        # Below a chord, or no better than the cheaper point before it.
        drop = has_before & ((slope[:-1] <= 0) | (has_after & (slope[:-1] <= slope[1:])))
        if not drop.any():
            break
        order = order[~drop]
    first = is_first(p)
    steps = np.flatnonzero(~first)
    return Steps(
        base=order[first],
        problem=p[steps],
        to=order[steps],
        cost=c[steps] - c[steps - 1],
        gain=u[steps] - u[steps - 1],
        slope=slope[steps],
    )


def knapsack(instance: AllocationProblem) -> tuple[IntArray, float, float]:
    """A choice `[P]` inside the one bound that binds, one envelope step from optimal, its price, and a bound on all.

    The total cost of the best candidates under utility - price * cost falls as the price rises. Only problems whose
    best candidate differs between the two ends of a bracket are open; their envelope steps are taken in the order of
    their slopes until the next no longer fits. Its slope is the price: an optimal dual variable. The other problems
    keep their candidate at every price in the bracket: the dual function at this price needs no further pass.
    """
    low, high = instance.bounds.ends(0)
    sign, limit, freest = 1.0, high, None
    if instance.num_problems <= 2 * SAMPLE or low > -math.inf:
        freest = best_candidates(instance)
        spent = instance.total(freest)[0]
        if instance.bounds.keeps_high(spent, 0):
            if instance.bounds.keeps_low(spent, 0):
                return freest, 0.0, exact_sum(instance.utility[freest])
            sign, limit = -1.0, -low  # the same search with costs negated: "at most -low of -cost"
    bracket = _bracket(instance, sign, limit, freest)
    expensive, cheap = bracket.expensive, bracket.cheap
    if cheap is None:  # price 0
        return expensive, 0.0, exact_sum(instance.utility[expensive])
    # Open problems: their envelopes between the choices at the two ends of the bracket.
    different = expensive != cheap
    open_ = np.flatnonzero(different)
    length = instance.segments.length[open_]
    chosen = cheap.copy()
    candidates = instance.segments.rows_of(open_)
    problem = np.repeat(np.arange(len(open_)), length)
    cost = sign * instance.cost[0, candidates]
    ends = sign * instance.cost[0, [cheap[open_], expensive[open_]]]
    between = (cost >= ends[0][problem]) & (cost <= ends[1][problem])
    some, of_some, cost = candidates[between], problem[between], cost[between]
    steps = envelope(of_some, instance.utility[some], cost)
    chosen[open_] = some[steps.base]
    # Greedy: steps by falling slope (gain per cost) until the next would overspend.
    order = np.lexsort((instance.ids.key(open_)[steps.problem], -steps.slope))
    spent = sign * float(instance.total(chosen)[0])
    fitting = int(np.searchsorted(np.cumsum(steps.cost[order]), limit - spent, side="right"))
    last = np.full(len(open_), -1)
    np.maximum.at(last, steps.problem[order[:fitting]], order[:fitting])  # steps of a problem stand in rising order
    moved = np.flatnonzero(last >= 0)
    chosen[open_[moved]] = some[steps.to[last[moved]]]
    slack = limit - sign * float(instance.total(chosen)[0])  # what is left to spend
    _fill(chosen, open_, some, steps, order[fitting : fitting + 2000], slack)
    price = float(steps.slope[order[fitting]]) if fitting < len(order) else 0.0
    # bound = sum_p max_r (utility_r - price cost_r) + price limit; settled problems' choice is their best response.
    bound = math.inf
    if bracket.low <= price <= bracket.high:
        settled = cheap[~different]
        score = instance.utility[candidates] - sign * price * instance.cost[0, candidates]
        top = np.maximum.reduceat(score, np.cumsum(length) - length)
        parts = [
            exact_sum(instance.utility[settled]),
            -sign * price * float(instance.total(settled)[0]),
            exact_sum(top),
        ]
        bound = math.fsum([*parts, price * limit, rounding(instance, np.array([sign * price]))])
    return chosen, sign * price, bound


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Bracket:
    """Choices `[P]` at two prices: `expensive` at the low one overspends, `cheap` at the high one does not.

    `cheap` is None where nothing overspends: `expensive` is then the choice at price 0.
    """

    low: float
    high: float
    expensive: IntArray
    cheap: IntArray | None


def _bracket(instance: AllocationProblem, sign: float, limit: float, freest: IntArray | None) -> _Bracket:
    """Choices at two prices close to each other.

    The prices come from a sample of problems; the whole instance confirms them, or a wider bracket is tried.
    """
    if instance.num_problems <= 2 * SAMPLE and freest is not None:
        return _Bracket(low=0.0, high=math.inf, expensive=freest, cheap=_cheapest(instance, sign))
    some = instance.ids.sample(SAMPLE)
    some = some[np.argsort(instance.ids.key(some))]
    # The sample's own frontier: mean cost after each step, steps by falling slope.
    candidates = instance.segments.rows_of(some)
    problem = np.repeat(np.arange(len(some)), instance.segments.length[some])
    cost = sign * instance.cost[0, candidates]
    steps = envelope(problem, instance.utility[candidates], cost)
    order = np.argsort(-steps.slope, kind="stable")
    base = cost[steps.base]
    mean = (exact_sum(base) + np.cumsum(steps.cost[order])) / len(some)
    target = limit / instance.num_problems
    # Four standard errors of the mean cost that the sample would spend at the target.
    taken = order[: int(np.searchsorted(mean, target))]
    spent = base.copy()
    np.add.at(spent, steps.problem[taken], steps.cost[taken])
    error = 4.0 * math.sqrt(exact_sum((spent - exact_sum(spent) / len(some)) ** 2)) / len(some)
    # The prices at which the sample would spend a little more and a little less; are these the ends of a bracket?
    for care in (1.0, 4.0, 16.0):
        ends: list[float] = []
        for aim in (target + care * error, target - care * error):
            place = int(np.searchsorted(mean, aim))
            ends.append(float(steps.slope[order[place]]) if place < len(order) else 0.0)
        ends[1] = ends[1] if ends[1] > 0 else float(np.finfo(float).tiny)
        expensive, cheap = best_at(instance, [np.array([sign * price]) for price in ends])
        over, inside = (sign * exact_sum(instance.cost[0][x]) > limit for x in (expensive, cheap))
        if over and not inside:
            return _Bracket(low=ends[0], high=ends[1], expensive=expensive, cheap=cheap)
        if not over and ends[0] == 0.0:
            return _Bracket(low=0.0, high=0.0, expensive=expensive, cheap=None)
    freest = best_candidates(instance) if freest is None else freest
    if sign * exact_sum(instance.cost[0][freest]) <= limit:
        return _Bracket(low=0.0, high=0.0, expensive=freest, cheap=None)
    return _Bracket(low=0.0, high=math.inf, expensive=freest, cheap=_cheapest(instance, sign))


def _cheapest(instance: AllocationProblem, sign: float) -> IntArray:
    """`[P]` the cheapest candidate, the best of these: what an infinite price chooses."""
    found: list[IntArray] = []
    for problems, rows, block in instance.segments.blocks():
        cost = instance.cost[0, rows]
        least = block.spread(block.min(cost) if sign > 0 else block.max(cost))
        score = np.where(cost == least, instance.utility[rows], -np.inf)
        hits = np.flatnonzero(score == block.spread(block.max(score))) + rows.start
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


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierPoint:
    """One budget: all per problem. `value` is exact at a breakpoint and an upper bound between two."""

    budget: float
    value: float
    price: float
    spent: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frontier:
    """Best mean utility against mean cost: concave, piecewise linear, from the cheapest allocation to the best.

    Attributes:
        spent: `[B + 1]` mean cost per problem, rising.
        value: `[B + 1]` mean utility per problem of an allocation that costs this: an optimal one.
        price: `[B + 1]` the slope from each point to the next, falling; 0 at the last.
        num_problems: P.
    """

    spent: FloatArray
    value: FloatArray
    price: FloatArray
    num_problems: int

    def at(self, budget: float) -> FrontierPoint:
        """Value, price and spend at a mean cost per problem.

        Between two breakpoints the value is that of the linear relaxation, above the best allocation by less than one
        step of one problem. Beyond the last breakpoint nothing more is spent.

        Raises:
            IbpoError: A budget below the cheapest allocation.
        """
        if not budget >= self.spent[0]:
            raise IbpoError(
                f"budget {budget:.12g}: the cheapest allocation costs {self.spent[0]!r} per problem; ask for that much"
            )
        place = int(np.searchsorted(self.spent, budget, side="right")) - 1
        spent = min(float(budget), float(self.spent[-1]))
        value = float(self.value[place] + self.price[place] * (spent - self.spent[place]))
        return FrontierPoint(budget=float(budget), value=value, price=float(self.price[place]), spent=spent)


def frontier(
    utility: ArrayLike,
    problem: ArrayLike | Sequence[Hashable],
    cost: ArrayLike,
    *,
    choose: Choose = "exactly_one",
) -> Frontier:
    r"""Value, price and spend of the best allocation at every budget on one cost.

    Every problem starts at its cheapest response and climbs the concave envelope of its (cost, utility) points; the
    steps of all problems are taken in the order of their slopes. After each whole step the allocation is optimal for
    what it spends, and the next slope is the price there.

    Args:
        utility: `[R]` what choosing the response is worth.
        problem: `[R]` problem ids.
        cost: `[R]` at least 0, in any unit.
        choose: "exactly_one" response per problem, or "at_most_one".

    Raises:
        IbpoError: Malformed input, or more than one cost.

    Example:
        >>> curve = frontier([0, 1, 0, 0.5], [1, 1, 2, 2], [0, 1, 0, 1])
        >>> curve.spent.tolist(), curve.value.tolist(), curve.price.tolist()
        ([0.0, 0.5, 1.0], [0.0, 0.5, 0.75], [1.0, 0.5, 0.0])
        >>> curve.at(0.75).value
        0.625
    """
    if np.ndim(cost) != 1:
        raise IbpoError(f"cost: a frontier is over one cost, shape [R], got shape {np.shape(cost)}")
    instance = gather(validate(utility, problem, cost, [None], choose=choose))
    of_candidate = instance.segments.spread(np.arange(instance.num_problems))
    # From each problem's cheapest response up its envelope, the steps of all problems by falling slope.
    steps = envelope(of_candidate, instance.utility, instance.cost[0])
    order = np.lexsort((steps.cost, instance.ids.key(steps.problem), -steps.slope))
    base = [exact_sum(x[steps.base]) for x in (instance.cost[0], instance.utility)]
    spent, value = (
        np.concatenate([[start], start + np.cumsum(x[order])]) / instance.num_problems
        for start, x in zip(base, (steps.cost, steps.gain), strict=True)
    )
    price = np.append(steps.slope[order], 0.0)
    return Frontier(spent=spent, value=value, price=price, num_problems=instance.num_problems)
