"""The allocation problem and its answer.

Letters in names and shapes: R responses, P problems, K budgets, C candidates (the responses, and for `at_most_one` one
empty response per problem).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation.exact_sum import exact_sum
from ibpo.allocation.ids import IntArray, KeyArray, ProblemIds, id_items, id_names, mix, text_key, whole_ids
from ibpo.errors import IbpoError

Choose = Literal["exactly_one", "at_most_one"]
Budget = float | str | Fraction
Rule = Literal["unconstrained", "selection", "transportation", "knapsack", "general"]
FloatArray = NDArray[np.float64]

RELATIVE_TOLERANCE = 1e-9
"""How far a sum of costs that are not all whole numbers may miss its bound. Whole-number costs get no tolerance."""


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
        start: `[P]` the first candidate of each problem.
        ids: What orders ties between problems.
        tie: `[C]` what orders equal candidates of one problem, or None.
        low: `[K]` lower bounds on the total cost, exact; None where there is none.
        high: `[K]` upper bounds on the total cost, exact.
        whole: `[K]` whether all costs of this row are whole numbers.
        shares: Whether all costs are 0 or 1.
        num_responses: R.
    """

    utility: FloatArray
    cost: FloatArray
    row: IntArray | None
    start: IntArray
    ids: ProblemIds
    tie: KeyArray | None
    low: tuple[Fraction | None, ...]
    high: tuple[Fraction, ...]
    whole: tuple[bool, ...]
    shares: bool
    num_responses: int

    @property
    def num_problems(self) -> int:
        """P."""
        return len(self.start)

    @property
    def length(self) -> IntArray:
        """`[P]` number of candidates of each problem."""
        return np.diff(self.start, append=len(self.utility))

    def spread(self, of_problem: NDArray[Any]) -> NDArray[Any]:
        """`[P]` -> `[C]`."""
        return np.repeat(of_problem, self.length)

    def problem_of(self, candidates: IntArray) -> IntArray:
        """The problem of each candidate."""
        return np.searchsorted(self.start, candidates, side="right") - 1

    def total(self, chosen: IntArray) -> list[float]:
        """Total cost of the chosen candidates under each of the K costs, rounded once."""
        return [exact_sum(row[chosen]) for row in self.cost]

    def bounds(self, k: int) -> tuple[float, float]:
        """Lower and upper bound on the total cost k: to what whole numbers can reach, or with the tolerance."""
        low, high = self.low[k], self.high[k]
        if self.whole[k]:
            return (-math.inf if low is None else float(math.ceil(low))), float(math.floor(high))
        slack = 1 + RELATIVE_TOLERANCE
        return (-math.inf if low is None else float(low) / slack), float(high) * slack

    def keeps_high(self, total: float, k: int) -> bool:
        """Whether a total is inside its upper bound: exactly for whole numbers, else within the tolerance."""
        return Fraction(total) <= self.high[k] or (
            not self.whole[k] and total <= float(self.high[k]) * (1 + RELATIVE_TOLERANCE)
        )

    def keeps_low(self, total: float, k: int) -> bool:
        """Whether a total reaches its lower bound, if it has one."""
        low = self.low[k]
        return (
            low is None
            or Fraction(total) >= low
            or (not self.whole[k] and total >= float(low) / (1 + RELATIVE_TOLERANCE))
        )

    def all_fit(self, chosen: IntArray) -> bool:
        """Whether the chosen candidates keep every bound."""
        return all(self.keeps_high(total, k) and self.keeps_low(total, k) for k, total in enumerate(self.total(chosen)))

    @classmethod
    def from_arrays(
        cls,
        utility: ArrayLike,
        problem: ArrayLike | Sequence[Hashable],
        cost: ArrayLike,
        budget: Any,
        *,
        at_least: Any = None,
        choose: Choose = "exactly_one",
        tie_break: str | None = None,
        response: ArrayLike | Sequence[Hashable] | None = None,
    ) -> "AllocationProblem":
        """Check the arguments of `allocate` and gather the candidates by problem.

        Raises:
            IbpoError: With the argument, the place and the mend.
        """
        u = finite_array("utility", utility)
        if u.ndim != 1 or not len(u):
            raise IbpoError(f"utility: needs one number per response, at least one, got shape {u.shape}")
        c = np.atleast_2d(finite_array("cost", cost))
        if c.ndim != 2 or not len(c) or c.shape[1] != len(u):
            raise IbpoError(f"cost: needs shape [{len(u)}] or [K, {len(u)}] to match utility, got {np.shape(cost)}")
        for k, row in enumerate(c):
            if row.min() < 0:
                r = int(np.flatnonzero(row < 0)[0])
                raise IbpoError(f"cost[{k}, {r}] is {row[r]:g}: costs must be at least 0")
        if choose not in ("exactly_one", "at_most_one"):
            raise IbpoError(f"choose: must be 'exactly_one' or 'at_most_one', got {choose!r}")
        high = _exact_budget("budget", budget, len(c))
        low = [None] * len(c) if at_least is None else _exact_budget("at_least", at_least, len(c))
        for k, (floor, cap) in enumerate(zip(low, high, strict=True)):
            if floor is not None and cap is not None and floor > cap:
                raise IbpoError(f"at_least[{k}] is {float(floor):g}, above budget[{k}], {float(cap):g}: lower it")
        seed = tie_break or ""
        ids = ProblemIds.from_values(problem, len(u), seed)
        whole = [_kind(row) for row in c]
        num_responses, row, start = len(u), ids.order, ids.start
        tie = None if response is None else _response_keys(response, len(u), seed)
        if row is not None:
            u, c = u[row], c[:, row]
            tie = None if tie is None else tie[row]
        if choose == "at_most_one":  # an empty response per problem, free and worth 0, makes it exactly one of C
            row = np.arange(len(u)) if row is None else row
            u, row = np.insert(u, start, 0.0), np.insert(row, start, -1)
            tie = None if tie is None else np.insert(tie, start, np.uint64(0))
            c = np.insert(c, start, 0.0, axis=1)
            start = start + np.arange(len(start))
        most = [None if b is None else b * len(start) for b in high]
        return cls(
            utility=u,
            cost=c,
            row=row,
            start=start,
            ids=ids,
            tie=tie,
            low=tuple(None if b is None else b * len(start) for b in low),
            high=tuple(Fraction(exact_sum(x) + 1) if b is None else b for b, x in zip(most, c, strict=True)),
            whole=tuple(kind != "real" for kind in whole),
            shares=all(kind == "share" for kind in whole),
            num_responses=num_responses,
        )


def best_candidates(instance: AllocationProblem, score: FloatArray) -> IntArray:
    """`[P]` the candidate with the largest score; of equal ones the cheapest, then by `tie`, then the first."""
    top = np.maximum.reduceat(score, instance.start)
    return cheapest_of(instance, np.flatnonzero(score == instance.spread(top)))


def cheapest_of(instance: AllocationProblem, candidates: IntArray) -> IntArray:
    """One of the given candidates for each problem among them: the cheapest, then by `tie`, then the first."""
    keys: list[NDArray[Any]] = list(instance.cost)
    keys += [] if instance.tie is None else [instance.tie]
    start, problem = _runs(instance, candidates)
    for key in keys:
        if len(start) == len(candidates):
            return candidates
        least = np.minimum.reduceat(key[candidates], start)
        candidates = candidates[key[candidates] == np.repeat(least, np.diff(start, append=len(problem)))]
        start, problem = _runs(instance, candidates)
    return candidates[start]


def _runs(instance: AllocationProblem, candidates: IntArray) -> tuple[IntArray, IntArray]:
    """Where each problem begins among sorted candidates, and their problems."""
    problem = instance.problem_of(candidates)
    return np.concatenate([[0], np.flatnonzero(problem[1:] != problem[:-1]) + 1]), problem


def share(response_group: ArrayLike | Sequence[Hashable], name: Hashable) -> FloatArray:
    """The 0/1 cost that makes a budget a share of problems answered by one response group.

    Args:
        response_group: `[R]` response group of each response.
        name: The response group that is budgeted.

    Returns:
        `[R]` 1.0 where the response is of that response group, else 0.0.

    Example:
        >>> share(["standard", "extended", "standard"], "extended").tolist()
        [0.0, 1.0, 0.0]
    """
    return np.array([x == name for x in id_items(response_group)], np.float64)


def finite_array(argument: str, values: ArrayLike) -> FloatArray:
    """The values as floats; an error names the argument and the place of the first that is not finite."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise IbpoError(f"{argument}: needs an array of numbers: {error}") from None
    # The smallest and the largest of an array with a NaN are NaN: two passes and no copy.
    if array.size and not (math.isfinite(array.min()) and math.isfinite(array.max())):
        place = ", ".join(map(str, np.argwhere(~np.isfinite(array))[0]))
        raise IbpoError(f"{argument}[{place}] is not finite: drop that response or give it a number")
    return array


def _kind(cost: FloatArray) -> Literal["share", "whole", "real"]:
    """Whether a cost is 0 or 1 throughout, whole throughout with exact sums, or neither."""
    if cost.max() <= 1.0:
        inside = cost != np.floor(cost)
        return "real" if inside.any() else "share"
    return "whole" if bool((cost == np.floor(cost)).all()) and float(cost.sum()) < 2**53 else "real"


def _response_keys(response: ArrayLike | Sequence[Hashable], length: int, seed: str) -> KeyArray:
    whole = whole_ids(response)
    if whole is None or len(whole) != length:
        names = id_names("response", response, length)
        return np.array([text_key(name, seed) for name in names], np.uint64)
    return mix(whole, seed)


def _exact_budget(argument: str, budget: Any, num_budgets: int) -> list[Fraction | None]:
    """Budgets as the decimal fractions that were meant: 0.29 is 29/100, so 0.29 of 100 problems is 29, not 28."""
    values: list[Any] = np.atleast_1d(np.asarray(budget, dtype=object)).tolist()
    if len(values) != num_budgets:
        raise IbpoError(f"{argument}: needs one number per cost row, {num_budgets}, got {len(values)}")
    exact: list[Fraction | None] = []
    for k, value in enumerate(values):
        if value is None:
            exact.append(None)
            continue
        try:
            number = Fraction(str(value))
        except (ValueError, ZeroDivisionError):
            raise IbpoError(f"{argument}[{k}] is {value!r}: needs a finite number, the mean cost per problem") from None
        if number < 0:
            raise IbpoError(f"{argument}[{k}] is {value!r}: a budget must be at least 0")
        exact.append(number)
    return exact
