"""Solve the allocation problem exactly: by selection for one share, by HiGHS for everything else."""

# scipy.optimize ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import math
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from ibpo.allocation.problem import (
    Allocation,
    AllocationProblem,
    Budget,
    Choose,
    FloatArray,
    InfeasibleBudget,
    IntArray,
)
from ibpo.errors import IbpoError


def allocate(
    utility: ArrayLike,
    problem: ArrayLike | Sequence[Hashable],
    cost: ArrayLike,
    budget: Budget | Sequence[Budget] | NDArray[np.float64],
    *,
    choose: Choose = "exactly_one",
    tie_break: str | None = None,
    response: ArrayLike | Sequence[Hashable] | None = None,
    time_limit_s: float = 60.0,
) -> Allocation:
    r"""Choose the responses with the largest total utility inside the budgets.

    The lower level of IBPO (Yu et al., arXiv 2501.17974). With P distinct problems and responses r,

        maximise    sum_r utility_r weight_r                   over weight in {0, 1}^R
        subject to  sum_r cost_kr weight_r <= budget_k P       for every budget k
                    sum_{r of p} weight_r = 1 (or <= 1)        for every problem p

    One 0/1 cost is solved by selection: with a_p, b_p the best utility of problem p among its free and its costly
    responses, the floor(budget P) largest *positive* gains b_p - a_p get the costly response (exchange argument); a
    gain of 0 spends nothing. Everything else goes to HiGHS, without the responses that another response to the same
    problem dominates. Ties between problems are broken by a hash of the problem's id, never by the order of the rows;
    within a problem the cheaper of two equally good responses wins, then a hash of `response`. Without `response`,
    equal responses (same problem, utility and costs) are interchangeable and the first row stands for them.

    Args:
        utility: `[R]` what choosing the response is worth, e.g. `reward_margin(...)`. Any finite number.
        problem: `[R]` id of the problem of each response: int or str (or a tuple of these), in any order, any number of
            responses each. Ids are told apart by their `repr`.
        cost: `[R]` or `[K, R]`, at least 0, in any unit: tokens, money, or `share(...)` for a 0/1 cost.
        budget: One number, or K: the mean cost allowed *per problem*, in the unit of the cost (a share of problems for
            a 0/1 cost). A float is read as the decimal that it prints; for a third give `Fraction(1, 3)`.
        choose: "exactly_one" response per problem, or "at_most_one" (then a response is only chosen for utility > 0).
        tie_break: Seed of the hash that orders ties; None is the seed "".
        response: `[R]` ids of the responses, used only to order ties within a problem.
        time_limit_s: Limit on HiGHS's branch and bound, seconds. The linear relaxation before it has no limit.

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
        utility, problem, cost, budget, choose=choose, tie_break=tie_break, response=response
    )
    num_budgets = len(instance.cap)
    if instance.all_fit(instance.first):
        return _allocation(instance, instance.first, price=np.zeros(num_budgets), rule="unconstrained")
    for k in range(num_budgets):
        total = math.fsum(np.minimum.reduceat(instance.cost[k], instance.first))
        if not instance.fits(total, k):
            raise InfeasibleBudget(k, float(instance.budget[k]), _enough(total, instance.num_problems))
    if num_budgets == 1 and np.isin(instance.cost, (0.0, 1.0)).all():
        return _select(instance)
    return _solve_milp(instance, time_limit_s)


def _select(instance: AllocationProblem) -> Allocation:
    """One 0/1 cost: the budget goes to the largest positive gains."""
    best_P = np.full((2, instance.num_problems), -1)  # best free, best costly candidate of each problem
    for costly in (0, 1):
        candidates = np.flatnonzero(instance.cost[0] == costly)
        problems, where = np.unique(instance.problem[candidates], return_index=True)
        best_P[costly, problems] = candidates[where]
    forced = best_P[0] < 0
    both = ~forced & (best_P[1] >= 0)
    gain = np.zeros(instance.num_problems)
    gain[both] = instance.utility[best_P[1, both]] - instance.utility[best_P[0, both]]
    room = math.floor(instance.cap[0]) - int(forced.sum())
    order = np.argsort(-gain, kind="stable")[: np.count_nonzero(gain > 0)]  # ties: problems stand in hash order
    chosen = np.where(forced, best_P[1], best_P[0])
    chosen[order[:room]] = best_P[1, order[:room]]
    price = np.array([gain[order[room]] if room < len(order) else 0.0])
    return _allocation(instance, chosen, price=price, rule="selection")


def _solve_milp(instance: AllocationProblem, time_limit_s: float) -> Allocation:
    """Everything else: the linear relaxation for price and bound, then branch and bound with gap 0.

    HiGHS minimises regrets (best utility of the problem minus utility), scaled so that its absolute tolerances
    (1e-6 on the gap) are 1e-10 of the largest regret, and costs scaled to at most 1.
    """
    kept = _undominated(instance)
    problem, utility, cost = instance.problem[kept], instance.utility[kept], instance.cost[:, kept]
    best = instance.utility[instance.first]
    regret = best[problem] - utility
    value_scale = 1e4 / (regret.max() or 1.0)
    row_scale = np.where(cost.max(axis=1) > 0, cost.max(axis=1), 1.0)
    limit = [float(math.floor(cap) if whole else cap) for cap, whole in zip(instance.cap, instance.whole, strict=True)]
    one_each = csr_array((np.ones(len(kept)), (problem, np.arange(len(kept)))))
    rows, right = cost / row_scale[:, None], np.array(limit) / row_scale
    objective = regret * value_scale

    relaxed: Any = linprog(  # pyright: ignore[reportCallIssue]
        objective,
        A_ub=rows,
        b_ub=right,
        A_eq=one_each,  # pyright: ignore[reportArgumentType]  # the stubs do not know that sparse arrays are taken
        b_eq=np.ones(len(best)),
        method="highs",
    )
    if relaxed.status == 2:
        raise _jointly_infeasible(instance, one_each, rows, right, row_scale)
    if relaxed.x is None:
        raise RuntimeError(f"HiGHS stopped on the linear relaxation: {relaxed.message}")
    price = np.maximum(-relaxed.ineqlin.marginals, 0.0) / (value_scale * row_scale)
    bound = relaxed.fun
    # With one budget, the cheapest of each problem's fractional responses is an allocation inside the budget.
    guesses = [_first_by(problem, cost[0]), _first_by(problem, np.where(relaxed.x > 1e-9, cost[0], np.inf))]
    integral = (relaxed.x.round() == relaxed.x).all() and instance.all_fit(kept[guesses[-1]])
    for attempt in range(0 if integral else 3):
        found: Any = milp(
            objective,
            integrality=np.ones(len(kept), np.int64),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(rows, -np.inf, right), LinearConstraint(one_each, 1, 1)],  # type: ignore[arg-type]
            options={"mip_rel_gap": 0, "time_limit": time_limit_s},
        )
        if found.status == 2 and attempt == 0:
            raise _jointly_infeasible(instance, one_each, rows, right, row_scale)
        if attempt == 0 and found.mip_dual_bound is not None:
            bound = max(bound, found.mip_dual_bound)
        if found.x is None:
            break
        guesses.append(_first_by(problem, -found.x))
        if instance.all_fit(kept[guesses[-1]]):
            break
        # A tolerance of HiGHS let it through: ask again, a little tighter. The bound stays that of the first attempt.
        over = [max(0.0, t - x) for t, x in zip(instance.total(kept[guesses[-1]]), limit, strict=True)]
        right = right - 2 * np.array(over) / row_scale

    feasible = [kept[guess] for guess in guesses if instance.all_fit(kept[guess])]
    if not feasible:
        raise IbpoError(
            f"time_limit_s: no allocation was found within {time_limit_s:g} s; allow more, or widen a budget"
        )
    chosen = max(feasible, key=lambda x: math.fsum(instance.utility[x]))
    return _allocation(instance, chosen, price=price, rule="milp", bound=math.fsum(best) - bound / value_scale)


def _allocation(
    instance: AllocationProblem,
    chosen: IntArray,
    *,
    price: FloatArray,
    rule: Literal["unconstrained", "selection", "milp"],
    bound: float = -math.inf,
) -> Allocation:
    """The certificate of the chosen candidates; a gap within the solver's tolerance counts as 0."""
    objective = math.fsum(instance.utility[chosen])
    spread = float(np.ptp(instance.utility)) + abs(objective)
    gap = bound - objective if bound - objective > 1e-9 * spread else 0.0
    weight = np.zeros(instance.num_responses, np.int8)
    weight[instance.row[chosen[instance.row[chosen] >= 0]]] = 1
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


def _undominated(instance: AllocationProblem) -> IntArray:
    """Candidates for which no earlier one of the same problem (as good or better) is as cheap under every cost."""
    kept: list[int] = []
    costs = instance.cost.T.tolist()
    problem = -1
    frontier: list[list[float]] = []
    for candidate, (p, cost) in enumerate(zip(instance.problem.tolist(), costs, strict=True)):
        if p != problem:
            problem, frontier = p, []
        if not any(all(a <= b for a, b in zip(other, cost, strict=True)) for other in frontier):
            frontier.append(cost)
            kept.append(candidate)
    return np.array(kept)


def _first_by(problem: IntArray, key: FloatArray) -> IntArray:
    """Per problem the candidate with the smallest key."""
    order = np.lexsort((key, problem))
    return order[np.searchsorted(problem, np.arange(problem[-1] + 1))]


def _enough(total: float, num_problems: int) -> float:
    """The smallest float whose decimal, times the number of problems, is at least `total`."""
    value = total / num_problems
    while Fraction(str(value)) * num_problems < Fraction(total):
        value = math.nextafter(value, math.inf)
    return value


def _jointly_infeasible(
    instance: AllocationProblem, one_each: csr_array, rows: FloatArray, right: FloatArray, row_scale: FloatArray
) -> InfeasibleBudget:
    """Each budget can be kept alone, all together cannot: find the first that fails given those before it."""
    for k in range(1, len(rows)):
        cheapest: Any = milp(
            rows[k],
            integrality=np.ones(rows.shape[1]),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(rows[:k], -np.inf, right[:k]), LinearConstraint(one_each, 1, 1)],  # type: ignore[arg-type]
            options={"mip_rel_gap": 0},
        )
        if cheapest.fun > right[k]:
            total = cheapest.fun * row_scale[k]
            total = float(round(total)) if instance.whole[k] else total
            given = f" together with budget{'s 0 to ' + str(k - 1) if k > 1 else ' 0'}"
            return InfeasibleBudget(k, float(instance.budget[k]), _enough(total, instance.num_problems), given)
    raise RuntimeError("HiGHS called the budgets infeasible, but each can be kept given those before it")
