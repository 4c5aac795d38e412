"""The allocation problem and its answer.

Letters in names and shapes: R responses, P problems, K budgets, C candidates (the responses, and for `at_most_one` one
empty response per problem).
"""

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.errors import IbpoError

Choose = Literal["exactly_one", "at_most_one"]
Budget = float | Fraction
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

RELATIVE_TOLERANCE = 1e-9
"""How far a sum of costs that are not all whole numbers may exceed its budget. Whole-number costs get no tolerance."""


class InfeasibleBudget(IbpoError):
    """A budget that no allocation keeps.

    Attributes:
        budget_index: Which of the K budgets, counted from 0.
        budget: Its value, mean cost per problem.
        smallest: The smallest value that can be kept (given the budgets before it), mean cost per problem.
    """

    def __init__(self, budget_index: int, budget: float, smallest: float, given: str = "") -> None:
        """State the budget, by how much it is missed, and the smallest feasible value."""
        self.budget_index, self.budget, self.smallest = budget_index, budget, smallest
        super().__init__(
            f"budget {budget_index}: a mean cost of {budget:.12g} per problem cannot be kept{given}: the cheapest "
            f"allocation costs {smallest!r}, over by {smallest - budget:.6g}; raise it to at least {smallest!r}"
        )

    def __reduce__(self) -> tuple[type, tuple[int, float, float]]:
        """Survive pickling, as when it is raised in a worker process."""
        return type(self), (self.budget_index, self.budget, self.smallest)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Allocation:
    """Which responses are chosen, what that is worth, and how good it could have been.

    Attributes:
        weight: `[R]` int8, 1 for a chosen response, 0 for the others, in the caller's row order.
        objective: Sum of `utility * weight` over all responses (a sum, not a mean per problem: sums of slices add up).
        upper_bound: No allocation inside the budget has a larger objective.
        gap: `upper_bound - objective`, at least 0; 0 where optimality is proved.
        price: `[K]` what one more unit of *total* cost would add to `objective`: utility per unit of cost, at least 0.
            Exact one-sided slope for rule "selection", a dual optimum of the linear relaxation for rule "milp".
        spent: `[K]` mean cost per problem of the chosen responses, at most the budget.
        status: "optimal", or "feasible" where the solver stopped before it had closed the gap.
        rule: "unconstrained" (no budget binds), "selection" (one 0/1 cost: the largest gains) or "milp" (HiGHS).
    """

    weight: NDArray[np.int8]
    objective: float
    upper_bound: float
    gap: float
    price: FloatArray
    spent: FloatArray
    status: Literal["optimal", "feasible"]
    rule: Literal["unconstrained", "selection", "milp"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AllocationProblem:
    """Validated candidates in an order that does not depend on the order of the rows.

    Candidates are sorted by (hash of the problem, falling utility, rising costs, hash of the response), so the first
    candidate of each problem is its best and, among equally good ones, its cheapest.

    Attributes:
        utility: `[C]`.
        cost: `[K, C]`.
        problem: `[C]` 0 .. P-1, not decreasing.
        row: `[C]` the caller's row, -1 for the empty response.
        first: `[P]` the first candidate of each problem.
        budget: `[K]` mean cost per problem.
        cap: K exact fractions, budget times P: the total cost allowed.
        whole: `[K]` whether all costs of this row are whole numbers.
        num_responses: R.
    """

    utility: FloatArray
    cost: FloatArray
    problem: IntArray
    row: IntArray
    first: IntArray
    budget: FloatArray
    cap: tuple[Fraction, ...]
    whole: tuple[bool, ...]
    num_responses: int

    @property
    def num_problems(self) -> int:
        """P."""
        return len(self.first)

    def total(self, chosen: IntArray) -> list[float]:
        """Total cost of the chosen candidates under each of the K costs, rounded once."""
        return [math.fsum(row[chosen]) for row in self.cost]

    def fits(self, total: float, k: int) -> bool:
        """Whether a total of cost k is inside its budget: exactly for whole numbers, else within the tolerance."""
        return Fraction(total) <= self.cap[k] or (
            not self.whole[k] and total <= float(self.cap[k]) * (1 + RELATIVE_TOLERANCE)
        )

    def all_fit(self, chosen: IntArray) -> bool:
        """Whether the chosen candidates keep every budget."""
        return all(self.fits(total, k) for k, total in enumerate(self.total(chosen)))

    @classmethod
    def from_arrays(
        cls,
        utility: ArrayLike,
        problem: ArrayLike | Sequence[Hashable],
        cost: ArrayLike,
        budget: Budget | Sequence[Budget] | NDArray[np.float64],
        *,
        choose: Choose = "exactly_one",
        tie_break: str | None = None,
        response: ArrayLike | Sequence[Hashable] | None = None,
    ) -> "AllocationProblem":
        """Check the arguments of `allocate` and put the candidates in their canonical order.

        Raises:
            IbpoError: With the argument, the place and the mend.
        """
        u = finite_array("utility", utility)
        if u.ndim != 1 or not len(u):
            raise IbpoError(f"utility: needs one number per response, at least one, got shape {u.shape}")
        name = id_names("problem", problem, len(u))
        c = np.atleast_2d(finite_array("cost", cost))
        if c.ndim != 2 or c.shape[1] != len(u):
            raise IbpoError(f"cost: needs shape [{len(u)}] or [K, {len(u)}] to match utility, got {np.shape(cost)}")
        if (c < 0).any():
            k, r = np.argwhere(c < 0)[0]
            raise IbpoError(f"cost[{k}, {r}] is {c[k, r]:g}: costs must be at least 0")
        if choose not in ("exactly_one", "at_most_one"):
            raise IbpoError(f"choose: must be 'exactly_one' or 'at_most_one', got {choose!r}")
        exact_budget = _exact_budget(budget, len(c))

        seed = tie_break or ""
        ordered = sorted(set(name), key=lambda x: (_hash(seed, x), x))
        rank = {x: p for p, x in enumerate(ordered)}
        p = np.fromiter((rank[x] for x in name), np.int64, len(name))
        row = np.arange(len(u))
        tie = np.zeros(len(u), np.uint64)
        if response is not None:
            tie = np.array([_hash(seed, x) for x in id_names("response", response, len(u))], np.uint64)
        if choose == "at_most_one":  # an empty response per problem, free and worth 0, makes it exactly one of C
            empty = len(ordered)
            u, c = np.append(u, np.zeros(empty)), np.hstack([c, np.zeros((len(c), empty))])
            p, row = np.append(p, np.arange(empty)), np.append(row, np.full(empty, -1))
            tie = np.append(tie, np.zeros(empty, np.uint64))
        order = np.lexsort((tie, row >= 0, *c[::-1], -u, p))
        return cls(
            utility=u[order],
            cost=c[:, order],
            problem=p[order],
            row=row[order],
            first=np.searchsorted(p[order], np.arange(len(ordered))),
            budget=np.array([float(b) for b in exact_budget]),
            cap=tuple(b * len(ordered) for b in exact_budget),
            whole=tuple(bool((k == np.floor(k)).all() and k.sum() < 2**53) for k in c),
            num_responses=len(name),
        )


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


def id_items(values: ArrayLike | Sequence[Hashable]) -> list[Hashable]:
    """Ids as plain Python objects."""
    items = cast(list[Hashable], values.tolist() if isinstance(values, np.ndarray) else list(cast(Any, values)))
    return [x.item() if isinstance(x, np.generic) else x for x in items]


def id_names(argument: str, values: ArrayLike | Sequence[Hashable], length: int) -> list[str]:
    """Ids as their repr: equal repr, equal id; stable between runs for int, str and tuples of these."""
    items = id_items(values)
    if len(items) != length:
        raise IbpoError(f"{argument}: needs one id per response, {length}, got {len(items)}")
    names = list(map(repr, items))
    for bad in {"None", "nan"} & set(names):
        raise IbpoError(f"{argument}[{names.index(bad)}] is {bad}: give every response an id")
    return names


def _hash(seed: str, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest(), "big")


def finite_array(argument: str, values: ArrayLike) -> FloatArray:
    """The values as floats; an error names the argument and the place of the first that is not finite."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise IbpoError(f"{argument}: needs an array of numbers: {error}") from None
    if not np.isfinite(array).all():
        place = ", ".join(map(str, np.argwhere(~np.isfinite(array))[0]))
        raise IbpoError(f"{argument}[{place}] is not finite: drop that response or give it a number")
    return array


def _exact_budget(budget: Budget | Sequence[Budget] | NDArray[np.float64], num_budgets: int) -> list[Fraction]:
    """Budgets as the decimal fractions that were meant: 0.29 is 29/100, so 0.29 of 100 problems is 29, not 28."""
    values: list[Any] = np.atleast_1d(np.asarray(budget, dtype=object)).tolist()
    if len(values) != num_budgets:
        raise IbpoError(f"budget: needs one number per cost row, {num_budgets}, got {len(values)}")
    exact: list[Fraction] = []
    for k, value in enumerate(values):
        try:
            exact.append(Fraction(str(value)))
        except ValueError:
            raise IbpoError(f"budget[{k}] is {value!r}: needs a finite number, the mean cost per problem") from None
        if exact[-1] < 0:
            raise IbpoError(f"budget[{k}] is {value!r}: a budget must be at least 0")
    return exact
