"""Which responses are chosen: the room's entry. Every problem is solved exactly, by the cheapest rule that fits.

The terms of the problem, and what the code calls them:

    objective    sum_r utility_r weight_r, to be maximised
    total_k      sum_r cost_kr weight_r, a total cost; budgets are means per problem, so
    bounds       low_k = at_least_k P <= total_k <= high_k = budget_k P
    score_r      utility_r - sum_k price_k cost_kr, what a response is worth at prices
    bound        sum_p max_{r of p} score_r + sum_k price_k b_k, b_k = high_k (low_k where price_k < 0): the dual
                 function. Whatever the prices, no allocation has a larger objective: the certificate.
    regret_r     (largest score of r's problem) - score_r: what choosing r takes away from the bound
    gap          bound - objective

Every rule looks for prices at which the bound is small, takes the responses of the largest scores, and repairs the few
problems where that spends too much or too little. Letters: R responses, P problems, K budgets, C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation.highs import Effort
from ibpo.allocation.lagrangian import close_gap, is_surely_over, prices
from ibpo.allocation.problem import (
    AllocationProblem,
    Arguments,
    Choose,
    best_candidates,
    cheapest_of,
    exact_budget,
    first_twins,
    gather,
    validate,
)
from ibpo.allocation.segments import FloatArray, IntArray, exact_sum
from ibpo.allocation.share_budgets import Shares, is_met, select, transport
from ibpo.allocation.units import in_units
from ibpo.errors import IbpoError
from ibpo.pictures import bars, number_text, show, table, text_table

OWN_BUDGET = " together with its budget"
Rule = Literal["unconstrained", "selection", "transportation", "knapsack", "general"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Allocation:
    """Which responses are chosen, what that is worth, and how good it could have been.

    Attributes:
        weight: `[R]` int8, 1 for a chosen response, 0 for the others, in the caller's row order.
        objective: Sum of `utility * weight` over all responses (a sum, not a mean per problem: sums of slices add up).
        upper_bound: No allocation inside the budgets has a larger objective.
        gap: `upper_bound - objective`, at least 0; 0 where optimality is proved.
        price: `[K]` what one more unit of *total* cost would add to `objective`: utility per unit of cost, at least 0
            where an upper bound binds, at most 0 where a lower one does. The exact one-sided slope for rule
            "selection", a dual optimum of the linear relaxation otherwise.
        spent: `[K]` mean cost per problem of the chosen responses.
        status: "optimal" where that is proved, in whole numbers or to the last bits of a sum of floats, else
            "feasible".
        rule: "unconstrained" (no budget binds), "selection" (shares of separate sets of problems: the largest gains),
            "transportation" (nested or disjoint shares: the linear programme is integral), "knapsack" (one general
            cost: its price, then an integer programme on the few open problems) or "general" (the same for several).
        budget: `[K]` the mean cost that was allowed; inf where nothing was.
        at_least: `[K]` the mean cost that had to be reached; 0 where nothing had.
        num_problems: P.

    A notebook shows it as a picture and a table, `print` as a table.

    Example:
        >>> print(allocate([0, 1, 0, 0.5, 0, 0], [7, 7, 8, 8, 9, 9], [0, 1, 0, 1, 0, 1], "1/3"))
        Allocation: chosen 3 of 6 responses to 3 problems, by rule "selection"
        objective 1, proved to be the best
          budget     spent  allowed    used  price
          budget 0  0.3333   0.3333  100.0%    0.5
    """

    weight: NDArray[np.int8]
    objective: float
    upper_bound: float
    gap: float
    price: FloatArray
    spent: FloatArray
    status: Literal["optimal", "feasible"]
    rule: Rule
    budget: FloatArray = field(default_factory=lambda: np.empty(0))
    at_least: FloatArray = field(default_factory=lambda: np.empty(0))
    num_problems: int = 0

    def __repr__(self) -> str:
        return (
            f"Allocation({self._chosen()}, objective={self.objective:.6g}, gap={self.gap:.3g}, "
            f"spent={_listed(self.spent)}, budget={_listed(self.budget)}, price={_listed(self.price)}, "
            f"status={self.status!r}, rule={self.rule!r})"
        )

    def __str__(self) -> str:
        lead = f'Allocation: chosen {self._chosen()}, by rule "{self.rule}"\n{self._proof()}'
        return f"{lead}\n{text_table(*self._table())}" if len(self.spent) else lead

    def _repr_html_(self) -> str:
        """For notebooks: what was spent of each budget; of the same size however many responses there are."""
        head, body = self._table()
        parts: list[tuple[str, float, float, str]] = []
        for k, most in enumerate(self.budget.tolist()):
            if math.isfinite(most):
                spent = float(self.spent[k])
                part, least = (spent / most, float(self.at_least[k]) / most) if most else (1.0, 0.0)
                text = f"{number_text(spent)} of {number_text(most)}"
                parts.append((body[k][0], part, least, text))
        what = "; ".join(f"{name}: {text}" for name, _, _, text in parts)
        drawing = bars(parts, what=f"spent of each budget: {what}") if parts else ""
        lead = f'chose {self._chosen()}, by rule "{self.rule}"'
        return show("Allocation", lead, drawing, table(head, body) if body else "", f"{self._proof()}.")

    def _chosen(self) -> str:
        """How many responses."""
        of = f" to {self.num_problems:,} problems" if self.num_problems else ""
        return f"{int(np.count_nonzero(self.weight)):,} of {len(self.weight):,} responses{of}"

    def _proof(self) -> str:
        """How good it is known to be."""
        found = f"objective {number_text(self.objective)}"
        if self.status == "optimal":
            return f"{found}, proved to be the best"
        return f"{found}, at most {number_text(self.gap)} below the best"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """A row per budget."""
        lowest = bool(np.any(self.at_least > 0))
        head = ["budget", "spent", *(["at least"] if lowest else []), "allowed", "used", "price"]
        body: list[list[str]] = []
        for k, (spent, price) in enumerate(zip(self.spent.tolist(), self.price.tolist(), strict=True)):
            most = float(self.budget[k]) if len(self.budget) else math.nan
            used = f"{spent / most:.1%}" if 0 < most < math.inf else ""
            least = [number_text(float(self.at_least[k]))] if lowest else []
            body.append([f"budget {k}", number_text(spent), *least, number_text(most), used, number_text(price)])
        return head, body


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
    node_limit: int | None = None,
) -> Allocation:
    r"""Choose the responses with the largest total utility inside the budgets.

    The lower level of IBPO (Yu et al., arXiv 2501.17974). With P distinct problems and responses r,

        maximise    sum_r utility_r weight_r                                      over weight in {0, 1}^R
        subject to  at_least_k P <= sum_r cost_kr weight_r <= budget_k P          for every budget k
                    sum_{r of p} weight_r = 1 (or <= 1)                           for every problem p

    The rule is chosen by structure, and the result names it. Shares of separate sets of problems: *selection* of the
    largest gains. Nested or disjoint shares: *transportation*, whose linear relaxation is integral. One general cost: a
    multiple-choice *knapsack*, by its price, a greedy filling with a certificate, and a search in whole numbers among
    the few responses that the price leaves open. Several: *general*, the same with several prices by cutting planes;
    HiGHS looks for good choices where these responses are many. No statement rests on HiGHS's tolerances. Ties between
    problems are broken by a hash of the problem's id, never by the order of the rows; within a problem the cheaper of
    two equally good responses wins, then a hash of `response`. Without `response`, equal responses (same problem,
    utility and costs) are interchangeable and the first row stands for them.

    Args:
        utility: `[R]` what choosing the response is worth, e.g. `reward_margin(...)`. Any finite number.
        problem: `[R]` id of the problem of each response: int or str (or a tuple of these), in any order, any number of
            responses each. Other ids than whole numbers are distinguished by their `repr`.
        cost: `[R]` or `[K, R]`, at least 0, in any unit: tokens, money, or `share(...)` for a 0/1 cost. Floats are
            read as the decimals that they print (of 32 bits, where all of a cost have at most six digits), and
            Python's whole numbers, `Decimal`s and `Fraction`s are exact at any size.
        budget: One number, or K: the mean cost allowed *per problem*, in the unit of the cost (a share of problems for
            a 0/1 cost). A float is read as the decimal that it prints; for a third give "1/3" or `Fraction(1, 3)`.
            None: no upper bound.
        at_least: None, or one number per budget (None where there is none): the mean cost per problem that must be
            reached.
        choose: "exactly_one" response per problem, or "at_most_one" (then a response is only chosen for utility > 0,
            unless a lower bound asks for it).
        tie_break: Seed of the hash that orders ties; None is the seed "".
        response: `[R]` ids of the responses, used only to order ties within a problem.
        time_limit_s: Limit on closing the gap, seconds.
        relative_gap: Stop at a gap of this part of the objective instead of 0.
        node_limit: Limit on the nodes of one branch and bound of HiGHS, None: any number; with it, only short searches
            of our own prove what is found, and HiGHS is asked only where they leave a gap above a thousandth. What it
            stops is the same on every machine, what the clock stops is not; the gap says what is not proved.

    Returns:
        The allocation with its certificate: `objective <= upper_bound`, `spent <= budget`, verified on the 0/1 weights:
        exactly, at any size, where a row's costs are whole or decimal numbers; within 1e-12 relative where some have
        more than 15 digits, as divisions and logarithms leave them.

    Raises:
        IbpoError: An argument is malformed.
        InfeasibleBudget: Proved that no allocation keeps the budgets; names the first that fails.

    Example:
        >>> allocation = allocate([0, 1, 0, 0.5, 0, 0], [7, 7, 8, 8, 9, 9], [0, 1, 0, 1, 0, 1], 0.4)
        >>> allocation.weight.tolist(), allocation.price.tolist(), allocation.rule
        ([0, 1, 1, 0, 1, 0], [0.5], 'selection')
    """
    arguments = validate(
        utility, problem, cost, budget, at_least=at_least, choose=choose, tie_break=tie_break, response=response
    )
    for name, limit in (("time_limit_s", time_limit_s), ("relative_gap", relative_gap)):
        if not (isinstance(limit, Real) and limit >= 0):
            raise IbpoError(f"{name}: must be at least 0, got {limit!r}")
    if node_limit is not None and not (isinstance(node_limit, Integral) and node_limit >= 1):
        raise IbpoError(f"node_limit: must be at least 1, a whole number, got {node_limit!r}")
    effort = Effort(time_limit_s=time_limit_s, relative_gap=relative_gap, node_limit=node_limit)
    # Every cost is 0 or 1, a share: of each problem only the best response under each set of shares can be chosen.
    shares = Shares.from_arguments(arguments)
    if shares is not None:
        found = _allocate_shares(arguments, shares, effort)
    else:
        found = _allocate_candidates(in_units(gather(arguments)), effort)
    most, least = (
        exact_budget(name, values, len(found.spent)) if values is not None else []
        for name, values in (("budget", budget), ("at_least", at_least))
    )
    budgets, floors = _floats(most, len(found.spent), math.inf), _floats(least, len(found.spent), 0.0)
    # No price but of a bound that was given: rounding leaves one beside utilities of 1e-200 or 1e150.
    price = np.clip(found.price, np.where(floors > 0, -np.inf, 0.0), np.where(np.isfinite(budgets), np.inf, 0.0))
    return replace(
        found,
        price=price + 0.0,  # no -0.0
        budget=budgets,
        at_least=floors,
        num_problems=arguments.ids.num_problems,
    )


def _floats(exact: Sequence[Fraction | None], num: int, otherwise: float) -> FloatArray:
    """`[num]` with a number where none is given."""
    return np.array([otherwise if value is None else float(value) for value in exact] or [otherwise] * num)


def _listed(values: FloatArray) -> str:
    """An array in one line."""
    return "[" + ", ".join(f"{value:.6g}" for value in values.tolist()) + "]"


def _allocate_shares(arguments: Arguments, shares: Shares, effort: Effort) -> Allocation:
    """Where all costs are 0 or 1: selection, transportation, or the general way on the best response of each kind."""
    bounds, num_problems = arguments.bounds, arguments.ids.num_problems
    for k, (least, most) in enumerate(shares.ranges()):
        bounds.check(k, least, most, num_problems)
        if not bounds.leave_room(k):  # every number of shares between the least and the most is possible
            raise bounds.infeasible(k, bounds.ends(k)[1], num_problems, OWN_BUDGET, floor=True)
    values, bound = None, None  # no bound: exact by an argument, not by a certificate
    if shares.slice_P is not None:
        takes, price = select(shares, shares.slice_P, bounds)
        pick = takes.view(np.uint8)
        rule = "selection" if price.any() else "unconstrained"
    elif (found := transport(shares, bounds)) is not None:
        pick, price, values = found
        rule = "transportation" if price.any() else "unconstrained"
    else:
        instance, kind = shares.candidates(bounds)
        rule = "transportation" if shares.laminar else "general"
        chosen, price, rule, bound = _solve(instance, rule, effort)
        chosen = _some_choice(instance, effort) if chosen is None else chosen
        pick = kind[chosen]
        values = shares.values(pick)
        bound = None if is_met(shares, price, bounds, values) else bound
    values, total = shares.values(pick) if values is None else values, shares.total(pick)
    assert bounds.fit(total)
    spent = np.array(total) / num_problems
    return _certified(shares.weight(pick, values), values, spent, price=price, rule=rule, bound=bound)


def _allocate_candidates(instance: AllocationProblem, effort: Effort) -> Allocation:
    """Where a cost is any number: prices, then what they leave open."""
    # Can each bound be kept by itself? sum_p min_r cost_kr <= high_k, and sum_p max_r cost_kr >= low_k.
    bounds, num_problems = instance.bounds, instance.num_problems
    for k in range(len(instance.cost)):
        least, most = (0, 0) if bounds.low[k] is None else (instance.total(end)[k] for end in _ends(instance, k))
        bounds.check(k, least, most, num_problems)
    chosen, price, rule, bound = None, np.zeros(len(instance.cost)), "general", -math.inf
    if all(map(bounds.leave_room, range(len(instance.cost)))):
        chosen, price, rule, bound = _solve(instance, "general", effort)
    chosen = _some_choice(instance, effort) if chosen is None else chosen
    if instance.tie is not None:  # HiGHS takes any of equal responses
        chosen = first_twins(instance, chosen)
    # weight_r = 1 for the chosen: from candidates to the caller's rows, without the empty responses.
    weight = np.zeros(instance.num_responses, np.int8)
    rows = chosen if instance.row is None else instance.row[chosen]
    weight[rows[rows >= 0]] = 1
    spent = [float(bounds.in_full(x, k) / num_problems) for k, x in enumerate(instance.total(chosen))]
    price = np.array([bounds.per_cost(y, k) for k, y in enumerate(price.tolist())])
    return _certified(weight, instance.utility[chosen], np.array(spent), price=price, rule=rule, bound=bound)


def _solve(instance: AllocationProblem, rule: Rule, effort: Effort) -> tuple[IntArray | None, FloatArray, Rule, float]:
    """The choice `[P]` (None: none found), prices `[K]`, rule and bound on the objective."""
    # 1. Does the best of each problem fit? Then all prices are 0.
    if not is_surely_over(instance) and instance.all_fit(chosen := best_candidates(instance)):
        return chosen, np.zeros(len(instance.cost)), "unconstrained", exact_sum(instance.utility[chosen])
    # 2. Prices at which the bound is least. gap = bound - objective: if it is not closed, searches among the responses
    # whose regret is below it.
    price = prices(instance)
    chosen, bound = close_gap(instance, price, effort)
    return chosen, price, "knapsack" if len(instance.cost) == 1 else rule, bound


def _certified(
    weight: NDArray[np.int8],
    values: FloatArray,
    spent: FloatArray,
    *,
    price: FloatArray,
    rule: Rule,
    bound: float | None,
) -> Allocation:
    """The answer with its certificate; without a bound it is exact.

    Args:
        weight: `[R]`.
        values: `[P]` utility of the chosen candidate of each problem.
        spent: `[K]` mean costs.
        price: `[K]`.
        rule: How it was solved.
        bound: On the objective.
    """
    objective = exact_sum(values)
    gap = 0.0 if bound is None else max(0.0, bound - objective)
    return Allocation(
        weight=weight,
        objective=objective,
        upper_bound=objective + gap,
        gap=gap,
        price=price + 0.0,  # no -0.0
        spent=spent,
        status="feasible" if gap else "optimal",
        rule=rule,
    )


def _ends(instance: AllocationProblem, k: int) -> tuple[IntArray, IntArray]:
    """`[P]` the candidates of the smallest and of the largest cost k."""
    found: tuple[list[IntArray], list[IntArray]] = [], []
    for problems, rows, block in instance.segments.blocks():
        cost = instance.cost[k, rows]
        for end, choices in ((block.min(cost), found[0]), (block.max(cost), found[1])):
            hits = np.flatnonzero(cost == block.spread(end)) + rows.start
            choices.append(cheapest_of(instance, hits, problems.stop - problems.start))
    return np.concatenate(found[0]), np.concatenate(found[1])


def _some_choice(instance: AllocationProblem, effort: Effort) -> IntArray:
    """A choice that keeps all bounds, each of which can be kept alone.

    Raises:
        InfeasibleBudget: Proved that there is none: the first bound that fails given those before it.
        IbpoError: None was found.
    """
    bounds, chosen = instance.bounds, None
    for k in range(len(instance.cost)):
        given = "" if k == 0 else f" together with budget{'s 0 to ' + str(k - 1) if k > 1 else ' 0'}"
        for floor in (False, True):
            if (k == 0 and not floor) or (floor and bounds.low[k] is None):
                continue
            # The least (for a floor, the largest) total_k inside the bounds before k: allocated with it as the utility.
            before, sign = (k + 1, 1) if floor else (k, -1)
            exact = instance.exact[k]
            question = replace(
                instance,
                utility=sign * instance.cost[k],
                exact_utility=None if exact is None else sign * exact,
                cost=instance.cost[:before],
                largest=None,
                most=None,
                exact=instance.exact[:before],
                bounds=replace(
                    bounds,
                    low=(*bounds.low[:k], None)[:before],
                    high=bounds.high[:before],
                    whole=bounds.whole[:before],
                ),
            )
            chosen, _, _, bound = _solve(question, "general", Effort(time_limit_s=effort.time_limit_s))
            if chosen is None:
                break
            total = instance.total(chosen)[k]
            keeps = bounds.keeps_low if floor else bounds.keeps_high
            if not keeps(total, k):
                # Proved where this is the best total, or where even the bound on it is outside.
                if bound > exact_sum(question.utility[chosen]) and keeps(sign * bound, k):
                    chosen = None
                    break
                if floor and not bounds.keeps_high(instance.total(_ends(instance, k)[1])[k], k):
                    given = f"{given} and its own" if given else OWN_BUDGET
                raise bounds.infeasible(k, total, instance.num_problems, given, floor=floor)
    if chosen is not None and instance.all_fit(chosen):
        return chosen
    raise IbpoError(
        f"time_limit_s: within {effort.time_limit_s:g} s no allocation was found, nor a proof that there is none; "
        "allow more, or widen a budget"
    )
