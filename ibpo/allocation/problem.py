"""The allocation problem and its answer.

Letters in names and shapes: R responses, P problems, K budgets, C candidates (the responses, and for `at_most_one` one
empty response per problem).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation.exact_sum import exact_sum
from ibpo.allocation.given import Choose, FloatArray, Given
from ibpo.allocation.ids import KeyArray, ProblemIds, id_items
from ibpo.allocation.limits import Limits
from ibpo.allocation.runs import IntArray, Runs

Rule = Literal["unconstrained", "selection", "transportation", "knapsack", "general"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
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
        status: "optimal", or "feasible" where the solver stopped before it had closed the gap.
        rule: "unconstrained" (no budget binds), "selection" (shares of separate sets of problems: the largest gains),
            "transportation" (nested or disjoint shares: the linear programme is integral), "knapsack" (one general
            cost: its price, then an integer programme on the few open problems) or "general" (the same for several).
    """

    weight: NDArray[np.int8]
    objective: float
    upper_bound: float
    gap: float
    price: FloatArray
    spent: FloatArray
    status: Literal["optimal", "feasible"]
    rule: Rule


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AllocationProblem:
    """Validated candidates, gathered by problem. Never sorted: whatever depends on an order asks for `key`.

    Attributes:
        utility: `[C]`.
        cost: `[K, C]`.
        row: `[C]` the caller's row, -1 for the empty response; None where candidates are the caller's rows.
        runs: Where the candidates of each problem stand.
        ids: What orders ties between problems.
        tie: `[C]` what orders equal candidates of one problem, or None.
        limits: Bounds on the K total costs.
        num_responses: R.
    """

    utility: FloatArray
    cost: FloatArray
    row: IntArray | None
    runs: Runs
    ids: ProblemIds
    tie: KeyArray | None
    limits: Limits
    num_responses: int

    @property
    def num_problems(self) -> int:
        """P."""
        return self.runs.num_problems

    @property
    def start(self) -> IntArray:
        """`[P]` the first candidate of each problem."""
        return self.runs.start

    @property
    def length(self) -> IntArray:
        """`[P]` number of candidates of each problem."""
        return self.runs.length

    def spread(self, of_problem: NDArray[Any]) -> NDArray[Any]:
        """`[P]` -> `[C]`."""
        return self.runs.spread(of_problem)

    def problem_of(self, candidates: IntArray) -> IntArray:
        """The problem of each candidate."""
        return self.runs.problem_of(candidates)

    def total(self, chosen: IntArray) -> list[float]:
        """Total cost of the chosen candidates under each of the K costs, rounded once."""
        return [exact_sum(row[chosen]) for row in self.cost]

    def all_fit(self, chosen: IntArray) -> bool:
        """Whether the chosen candidates keep every bound."""
        keeps = self.limits
        return all(
            keeps.keeps_high(total, k) and keeps.keeps_low(total, k) for k, total in enumerate(self.total(chosen))
        )

    @classmethod
    def from_arrays(
        cls,
        utility: ArrayLike,
        problem: ArrayLike | Sequence[Hashable],
        cost: ArrayLike,
        budget: Any,
        *,
        choose: Choose = "exactly_one",
    ) -> "AllocationProblem":
        """Check the arguments of `allocate` and gather the candidates by problem.

        Raises:
            IbpoError: With the argument, the place and the mend.
        """
        return cls.from_given(Given.from_arrays(utility, problem, cost, budget, choose=choose))

    @classmethod
    def from_given(cls, given: Given) -> "AllocationProblem":
        """Gather the candidates by problem."""
        row, runs, utility, tie = given.ids.order, given.ids.runs, given.utility, given.tie
        cost = given.cost.astype(np.float64, copy=False)
        if row is not None:
            utility, cost = utility[row], cost[:, row]
            tie = None if tie is None else tie[row]
        if given.may_skip:  # an empty response per problem, free and worth 0, makes it exactly one of C
            start = runs.start
            row = np.arange(len(utility)) if row is None else row
            utility, row = np.insert(utility, start, 0.0), np.insert(row, start, -1)
            tie = None if tie is None else np.insert(tie, start, np.uint64(0))
            cost = np.insert(cost, start, 0.0, axis=1)
            runs = Runs.from_start(start + np.arange(len(start)), len(utility))
        return cls(
            utility=utility,
            cost=cost,
            row=row,
            runs=runs,
            ids=given.ids,
            tie=tie,
            limits=given.limits,
            num_responses=len(given.utility),
        )


def best_candidates(instance: AllocationProblem, price: FloatArray | None = None) -> IntArray:
    """`[P]` the candidate with the largest utility - price . cost; of equal ones the cheapest, by `tie`, the first."""
    return best_at(instance, [price])[0]


def best_at(instance: AllocationProblem, prices: Sequence[FloatArray | None]) -> list[IntArray]:
    """The best candidates at each of these prices, in one pass over memory."""
    found: list[list[IntArray]] = [[] for _ in prices]
    for problems, rows, part in instance.runs.blocks():
        for price, choices in zip(prices, found, strict=True):
            score = scores(instance, price, rows)
            hits = np.flatnonzero(score == part.spread(part.max(score))) + rows.start
            choices.append(cheapest_of(instance, hits, problems.stop - problems.start))
    return [np.concatenate(choices) for choices in found]


def scores(instance: AllocationProblem, price: FloatArray | None, rows: slice) -> FloatArray:
    """Utility - price . cost of these candidates: term by term, so that it is the same in blocks of any size."""
    score = instance.utility[rows]
    for k, of_one in enumerate([] if price is None else price.tolist()):
        if of_one:
            score = score - of_one * instance.cost[k, rows]
    return score


def cheapest_of(instance: AllocationProblem, candidates: IntArray, num_problems: int) -> IntArray:
    """One of the given candidates (rising) for each of their problems: the cheapest, then by `tie`, then the first."""
    if len(candidates) == num_problems:
        return candidates
    keys: list[NDArray[Any]] = list(instance.cost)
    keys += [] if instance.tie is None else [instance.tie]
    problem = instance.problem_of(candidates)
    again = problem[1:] == problem[:-1]
    tied = np.flatnonzero(np.concatenate([again, [False]]) | np.concatenate([[False], again]))
    rest, problem = candidates[tied], problem[tied]
    for key in keys:
        start = np.flatnonzero(np.concatenate([[True], problem[1:] != problem[:-1]]))
        least = np.minimum.reduceat(key[rest], start)
        left = key[rest] == np.repeat(least, np.diff(start, append=len(rest)))
        rest, problem = rest[left], problem[left]
    first = np.concatenate([[True], problem[1:] != problem[:-1]])
    single = np.ones(len(candidates), bool)
    single[tied] = False
    return np.sort(np.concatenate([candidates[single], rest[first]]))


def first_twins(instance: AllocationProblem, chosen: IntArray) -> IntArray:
    """`[P]` of the candidates with the utility and the costs of the chosen ones: the first by `tie`, then by row."""
    found: list[IntArray] = []
    for problems, rows, part in instance.runs.blocks():
        same = instance.utility[rows] == part.spread(instance.utility[chosen[problems]])
        for cost in instance.cost:
            same &= cost[rows] == part.spread(cost[chosen[problems]])
        found.append(cheapest_of(instance, np.flatnonzero(same) + rows.start, problems.stop - problems.start))
    return np.concatenate(found)


def share(response_group: ArrayLike | Sequence[Hashable], name: Hashable) -> NDArray[np.bool_]:
    """The 0/1 cost that makes a budget a share of problems answered by one response group.

    Args:
        response_group: `[R]` response group of each response.
        name: The response group that is budgeted.

    Returns:
        `[R]` true (a cost of 1) where the response is of that response group, else false.

    Example:
        >>> share(["standard", "extended", "standard"], "extended").tolist()
        [False, True, False]
    """
    groups = cast(NDArray[Any], response_group)
    if getattr(getattr(groups, "dtype", None), "kind", "O") in "biuU":  # at once: == means what it does for one item
        same = np.asarray(groups == name)
        if same.shape == groups.shape:
            return same
    return np.array([x == name for x in id_items(response_group)], bool)
