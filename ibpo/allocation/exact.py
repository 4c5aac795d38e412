"""Solve the allocation problem exactly, by the cheapest rule that its structure allows."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ibpo.allocation.dual import close_gap, prices
from ibpo.allocation.exact_sum import exact_sum
from ibpo.allocation.ids import IntArray
from ibpo.allocation.infeasible import InfeasibleBudget
from ibpo.allocation.knapsack import knapsack
from ibpo.allocation.problem import (
    Allocation,
    AllocationProblem,
    Choose,
    FloatArray,
    Rule,
    best_candidates,
    cheapest_of,
)
from ibpo.allocation.selection import select, separate_shares
from ibpo.errors import IbpoError

MAX_SHARES = 16
"""Share budgets up to which their structure is looked at."""


def allocate(
    utility: ArrayLike,
    problem: ArrayLike | Sequence[Hashable],
    cost: ArrayLike,
    budget: Any,
    *,
    at_least: Any = None,
    choose: Choose = "exactly_one",
    tie_break: str | None = None,
    response: ArrayLike | Sequence[Hashable] | None = None,
    time_limit_s: float = 60.0,
    relative_gap: float = 0.0,
) -> Allocation:
    r"""Choose the responses with the largest total utility inside the budgets.

    The lower level of IBPO (Yu et al., arXiv 2501.17974). With P distinct problems and responses r,

        maximise    sum_r utility_r weight_r                                      over weight in {0, 1}^R
        subject to  at_least_k P <= sum_r cost_kr weight_r <= budget_k P          for every budget k
                    sum_{r of p} weight_r = 1 (or <= 1)                           for every problem p

    The rule is chosen by structure, and the result names it. Shares of separate sets of problems: *selection* of the
    largest gains. Nested or disjoint shares: *transportation*, whose linear relaxation is integral. One general cost: a
    multiple-choice *knapsack*, by its price, a greedy filling with a certificate, and an integer programme (HiGHS) on
    the few problems that the price leaves open. Several: *general*, the same with several prices. Ties between problems
    are broken by a hash of the problem's id, never by the order of the rows; within a problem the cheaper of two
    equally good responses wins, then a hash of `response`. Without `response`, equal responses (same problem, utility
    and costs) are interchangeable and the first row stands for them.

    Args:
        utility: `[R]` what choosing the response is worth, e.g. `reward_margin(...)`. Any finite number.
        problem: `[R]` id of the problem of each response: int or str (or a tuple of these), in any order, any number of
            responses each. Other ids than whole numbers are told apart by their `repr`.
        cost: `[R]` or `[K, R]`, at least 0, in any unit: tokens, money, or `share(...)` for a 0/1 cost.
        budget: One number, or K: the mean cost allowed *per problem*, in the unit of the cost (a share of problems for
            a 0/1 cost). A float is read as the decimal that it prints; for a third give "1/3" or `Fraction(1, 3)`.
            None: no upper bound.
        at_least: None, or one number per budget (None where there is none): the mean cost per problem that must be
            reached.
        choose: "exactly_one" response per problem, or "at_most_one" (then a response is only chosen for utility > 0,
            unless a lower bound asks for it).
        tie_break: Seed of the hash that orders ties; None is the seed "".
        response: `[R]` ids of the responses, used only to order ties within a problem.
        time_limit_s: Limit on HiGHS's branch and bound, seconds.
        relative_gap: Stop at a gap of this part of the objective instead of 0.

    Returns:
        The allocation with its certificate: `objective <= upper_bound`, `spent <= budget`, verified on the 0/1 weights
        (whole-number costs exactly, others within 1e-9 relative).

    Raises:
        IbpoError: An argument is malformed.
        InfeasibleBudget: No allocation keeps the budgets; names the first that fails.

    Example:
        >>> allocation = allocate([0, 1, 0, 0.5, 0, 0], [7, 7, 8, 8, 9, 9], [0, 1, 0, 1, 0, 1], 0.4)
        >>> allocation.weight.tolist(), allocation.price.tolist(), allocation.rule
        ([0, 1, 1, 0, 1, 0], [0.5], 'selection')
    """
    instance = AllocationProblem.from_arrays(
        utility, problem, cost, budget, at_least=at_least, choose=choose, tie_break=tie_break, response=response
    )
    if not relative_gap >= 0:
        raise IbpoError(f"relative_gap: must be at least 0, got {relative_gap!r}")
    for k in range(len(instance.cost)):
        _check_feasible(instance, k)
    smaller, chosen, price, rule, bound = _solve(instance, time_limit_s, relative_gap)
    if chosen is None:
        raise _jointly_infeasible(instance, time_limit_s)
    return _allocation(smaller, chosen, price=price, rule=rule, bound=bound)


def _solve(
    instance: AllocationProblem, time_limit_s: float, relative_gap: float
) -> tuple[AllocationProblem, IntArray | None, FloatArray, Rule, float]:
    """The instance without hopeless candidates, the choice `[P]` in it (None: none found), prices, rule and bound."""
    slices = separate_shares(instance)
    if slices is not None:
        chosen, price = select(instance, slices)
        rule = "selection" if price.any() else "unconstrained"
        return instance, chosen, price, rule, exact_sum(instance.utility[chosen])
    chosen = best_candidates(instance, instance.utility)
    if instance.all_fit(chosen):
        bound = exact_sum(instance.utility[chosen])
        return instance, chosen, np.zeros(len(instance.cost)), "unconstrained", bound
    rule: Rule = "general"
    if len(instance.cost) == 1:
        rule = "knapsack"
        chosen, one = knapsack(instance)
        price = np.array([one])
    else:
        if instance.shares and len(instance.cost) <= MAX_SHARES:
            instance, laminar = _best_by_pattern(instance)
            rule = "transportation" if laminar else "general"
        price, chosen = prices(instance)
    if chosen is not None and not instance.all_fit(chosen):
        chosen = None
    value = 0.0 if chosen is None else exact_sum(instance.utility[chosen])
    tolerance = max(relative_gap * abs(value), _rounding(instance.utility, value))
    chosen, bound = close_gap(instance, price, chosen, tolerance=tolerance, time_limit_s=time_limit_s)
    return instance, chosen, price, rule, bound


def _best_by_pattern(instance: AllocationProblem) -> tuple[AllocationProblem, bool]:
    """For each problem and each set of shares that a candidate counts in, only the best such candidate.

    Also whether any two shares are nested or disjoint: with the one-of-each-problem rows these make two laminar
    families, whose matrix is totally unimodular, so that every vertex of the relaxation is integral.
    """
    pattern = np.zeros(len(instance.utility), np.uint16)
    for k, row in enumerate(instance.cost):
        pattern |= row.astype(np.uint16) << np.uint16(k)
    present = np.flatnonzero(np.bincount(pattern))
    kept: list[IntArray] = []
    for code in present.tolist():
        rows = np.flatnonzero(pattern == code)
        problem = instance.problem_of(rows)
        start = np.concatenate([[0], np.flatnonzero(problem[1:] != problem[:-1]) + 1])
        top = np.repeat(np.maximum.reduceat(instance.utility[rows], start), np.diff(start, append=len(rows)))
        kept.append(cheapest_of(instance, rows[instance.utility[rows] == top]))
    keep = np.sort(np.concatenate(kept))
    laminar = not any(
        {1, 2, 3} <= {int(code >> i & 1) + 2 * int(code >> j & 1) for code in present.tolist()}
        for i in range(len(instance.cost))
        for j in range(i)
    )
    smaller = replace(
        instance,
        utility=instance.utility[keep],
        cost=instance.cost[:, keep],
        row=keep if instance.row is None else instance.row[keep],
        start=np.searchsorted(keep, instance.start),
        tie=None if instance.tie is None else instance.tie[keep],
    )
    return smaller, laminar


def _rounding(utility: FloatArray, value: float) -> float:
    """A gap up to this is the solver's tolerance, not a doubt."""
    return 1e-9 * (float(np.ptp(utility)) + abs(value))


def _allocation(
    instance: AllocationProblem, chosen: IntArray, *, price: FloatArray, rule: Rule, bound: float
) -> Allocation:
    """The certificate of the chosen candidates; a gap within the solver's tolerance counts as 0."""
    objective = exact_sum(instance.utility[chosen])
    gap = bound - objective if bound - objective > _rounding(instance.utility, objective) else 0.0
    weight = np.zeros(instance.num_responses, np.int8)
    rows = chosen if instance.row is None else instance.row[chosen]
    weight[rows[rows >= 0]] = 1
    return Allocation(
        weight=weight,
        objective=objective,
        upper_bound=objective + gap,
        gap=gap,
        price=price,
        spent=np.array([total / instance.num_problems for total in instance.total(chosen)]),
        status="feasible" if gap else "optimal",
        rule=rule,
    )


def _check_feasible(instance: AllocationProblem, k: int) -> None:
    """Raise if bound k cannot be kept even alone."""
    cost = instance.cost[k]
    least = exact_sum(np.minimum.reduceat(cost, instance.start))
    if not instance.keeps_high(least, k):
        raise _infeasible(instance, k, least)
    if instance.low[k] is not None:
        most = exact_sum(np.maximum.reduceat(cost, instance.start))
        if not instance.keeps_low(most, k):
            raise _infeasible(instance, k, most, floor=True)
        least, most = instance.bounds(k)
        if least > most:  # no whole number lies between
            raise _infeasible(instance, k, most, " together with its budget", floor=True)


def _jointly_infeasible(instance: AllocationProblem, time_limit_s: float) -> IbpoError:
    """Each bound can be kept alone, all together cannot: find the first that fails given those before it."""
    for k in range(len(instance.cost)):
        given = "" if k == 0 else f" together with budget{'s 0 to ' + str(k - 1) if k > 1 else ' 0'}"
        for floor in (False, True):
            if (k == 0 and not floor) or (floor and instance.low[k] is None):
                continue
            rows = k + 1 if floor else k
            question = replace(
                instance,
                utility=instance.cost[k] if floor else -instance.cost[k],
                cost=instance.cost[:rows],
                low=(*instance.low[:k], None)[:rows],
                high=instance.high[:rows],
                whole=instance.whole[:rows],
            )
            answer, chosen, *_ = _solve(question, time_limit_s, 0.0)
            if chosen is None:
                break
            total = abs(exact_sum(answer.utility[chosen]))
            if not (instance.keeps_low if floor else instance.keeps_high)(total, k):
                return _infeasible(instance, k, total, given, floor=floor)
    return IbpoError(f"time_limit_s: no allocation was found within {time_limit_s:g} s; allow more, or widen a budget")


def _infeasible(
    instance: AllocationProblem, k: int, total: float, given: str = "", *, floor: bool = False
) -> InfeasibleBudget:
    """The error, with the nearest float whose decimal, times the number of problems, is feasible."""
    num_problems = instance.num_problems
    bound = instance.low[k] if floor else instance.high[k]
    assert bound is not None
    value, away = total / num_problems, -math.inf if floor else math.inf
    while (Fraction(str(value)) * num_problems - Fraction(total)) * (-1 if floor else 1) < 0:
        value = math.nextafter(value, away)
    return InfeasibleBudget(k, float(bound / num_problems), value, given, floor=floor)
