"""The arguments of `allocate`, checked. Letters: R responses, P problems, K budgets."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation.exact_sum import exact_sum
from ibpo.allocation.ids import KeyArray, ProblemIds, id_names, mix, text_key, whole_ids
from ibpo.allocation.limits import Limits
from ibpo.allocation.runs import slices_of
from ibpo.errors import IbpoError

Choose = Literal["exactly_one", "at_most_one"]
Budget = float | str | Fraction
FloatArray = NDArray[np.float64]
CostArray = NDArray[np.float64 | np.bool_]
MarkArray = NDArray[np.uint8 | np.uint16]

MAX_OVERLAPPING = 16
"""Share budgets up to which any sets of them are told apart; of more, only those that no response shares."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Given:
    """Checked arguments, rows in the caller's order.

    Attributes:
        utility: `[R]` finite.
        largest: A bound on the size of the utilities.
        cost: `[K, R]` finite, at least 0; bool where all are given as shares.
        ids: The rows by problem.
        tie: `[R]` what orders equal responses of one problem, or None.
        may_skip: Whether a problem may go without a response.
        limits: Bounds on the K total costs.
        marks: `[R]` which shares a response counts in, or None where not all costs are 0 or 1: bit k for cost k, and
            for more than 16 costs k + 1 (None where a response counts in several).
    """

    utility: FloatArray
    largest: float
    cost: CostArray
    ids: ProblemIds
    tie: KeyArray | None
    may_skip: bool
    limits: Limits
    marks: MarkArray | None

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
    ) -> "Given":
        """Check the arguments.

        Raises:
            IbpoError: With the argument, the place and the mend.
        """
        u, largest = _finite("utility", utility)
        if u.ndim != 1 or not len(u):
            raise IbpoError(f"utility: needs one number per response, at least one, got shape {u.shape}")
        c = np.atleast_2d(costs(cost))
        if c.ndim != 2 or not len(c) or c.shape[1] != len(u):
            finite_array("cost", cost)
            raise IbpoError(f"cost: needs shape [{len(u)}] or [K, {len(u)}] to match utility, got {np.shape(cost)}")
        marks: MarkArray | None = np.zeros(len(u), np.uint8 if len(c) <= 8 else np.uint16)
        sums: list[float | None] = []
        for k, row in enumerate(c):
            count = None if marks is None else _mark_share(row, marks, k, len(c))
            marks = None if count is None else marks
            sums.append(_checked_sum(row) if count is None else float(count))
            if sums[-1] is None:
                finite_array("cost", cost)
                r = int(np.flatnonzero(row < 0)[0])
                raise IbpoError(f"cost[{k}, {r}] is {row[r]:g}: costs must be at least 0")
        whole = [total is not None and not math.isnan(total) and total < 2**53 for total in sums]
        if choose not in ("exactly_one", "at_most_one"):
            raise IbpoError(f"choose: must be 'exactly_one' or 'at_most_one', got {choose!r}")
        high = _exact_budget("budget", budget, len(c))
        low = [None] * len(c) if at_least is None else _exact_budget("at_least", at_least, len(c))
        for k, (floor, cap) in enumerate(zip(low, high, strict=True)):
            if floor is not None and cap is not None and floor > cap:
                raise IbpoError(f"at_least[{k}] is {float(floor):g}, above budget[{k}], {float(cap):g}: lower it")
        seed = tie_break or ""
        ids = ProblemIds.from_values(problem, len(u), seed)
        num_problems = ids.runs.num_problems
        most = [None if b is None else b * num_problems for b in high]
        return cls(
            utility=u,
            largest=largest,
            cost=c,
            ids=ids,
            tie=None if response is None else _response_keys(response, len(u), seed),
            may_skip=choose == "at_most_one",
            limits=Limits(
                low=tuple(None if b is None else b * num_problems for b in low),
                high=tuple(Fraction(_total(x) + 1) if b is None else b for b, x in zip(most, c, strict=True)),
                whole=tuple(whole),
            ),
            marks=marks,
        )


def finite_array(argument: str, values: ArrayLike) -> FloatArray:
    """The values as floats; an error names the argument and the place of the first that is not finite."""
    return _finite(argument, values)[0]


def _finite(argument: str, values: ArrayLike) -> tuple[FloatArray, float]:
    array = _numbers(argument, values)
    flat = array.reshape(-1)
    # A sum of squares that is finite is one of finite numbers, none larger than its root: no copy, and twice as fast as
    # the smallest and the largest number, which are asked where squares overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = [float(np.dot(flat[rows], flat[rows])) for rows in slices_of(len(flat))]
    if np.isfinite(squares).all():
        return array, math.sqrt(max(squares, default=0.0))
    ends = [end for rows in slices_of(len(flat)) for end in (flat[rows].min(), flat[rows].max())]
    if not np.isfinite(ends).all():
        place = ", ".join(map(str, np.argwhere(~np.isfinite(array))[0]))
        raise IbpoError(f"{argument}[{place}] is not finite: drop that response or give it a number")
    return array, float(np.abs(ends).max()) if ends else 0.0


def costs(values: ArrayLike) -> CostArray:
    """Costs as floats, but truth values, a share's, as they are: they take an eighth of the memory."""
    if getattr(getattr(values, "dtype", None), "kind", "") == "b":
        return cast(CostArray, values)
    return cast(CostArray, _numbers("cost", values))


def _total(cost: CostArray) -> float:
    return float(np.count_nonzero(cost)) if cost.dtype == bool else exact_sum(np.asarray(cost, np.float64))


def _numbers(argument: str, values: ArrayLike) -> FloatArray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise IbpoError(f"{argument}: needs an array of numbers: {error}") from None


def _mark_share(cost: CostArray, marks: MarkArray, k: int, num_costs: int) -> int | None:
    """Mark the responses of cost 1, and count them; None where a cost is neither 0 nor 1, or marks cannot say it."""
    total = 0
    for rows in slices_of(len(cost)):
        here = cost[rows]
        first = k == 0 and marks.dtype == np.uint8  # then the comparison is the mark
        one = np.equal(here, 1.0, out=marks[rows].view(bool) if first else None)
        count = int(np.count_nonzero(one))
        if cost.dtype != bool and count + int(np.count_nonzero(here == 0.0)) != len(here):
            return None
        total += count
        if first:
            continue
        mark = one.view(np.uint8).astype(marks.dtype, copy=False)
        if k == 0:
            marks[rows] = mark
        elif num_costs <= MAX_OVERLAPPING:
            marks[rows] |= mark << marks.dtype.type(k)
        elif k + 1 > np.iinfo(marks.dtype).max or marks[rows][one].any():
            return None
        else:
            marks[rows] += mark * marks.dtype.type(k + 1)
    return total


def _checked_sum(cost: CostArray) -> float | None:
    """The sum, NaN where not all costs are whole numbers, None where one is not finite or below 0."""
    ends: list[float] = []
    total, whole = 0.0, True
    for rows in slices_of(len(cost)):
        here = cost[rows]
        ends += [float(here.min()), float(here.max())]
        whole = whole and bool((here == np.floor(here)).all())
        total += float(here.sum()) if whole else 0.0
    if not (np.isfinite(ends).all() and min(ends) >= 0):
        return None
    return total if whole else math.nan


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
