"""The allocation problem: checked arguments, bounds on total costs, and candidates gathered by problem.

Letters in names and shapes: R responses, P problems, K budgets, C candidates (the responses, and for `at_most_one` one
empty response per problem).
"""

import math
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation import kernels
from ibpo.allocation.passes import best_rows, cheapest
from ibpo.allocation.segments import (
    FloatArray,
    IntArray,
    KeyArray,
    ObjectArray,
    ProblemIds,
    Segments,
    exact_sum,
    id_items,
    id_names,
    mix,
    slices_of,
    text_key,
    whole_ids,
)
from ibpo.budget import amount_to_ask
from ibpo.errors import IbpoError
from ibpo.pictures import number_text

Choose = Literal["exactly_one", "at_most_one"]
Amount = float | str | Fraction
CostArray = NDArray[np.float64 | np.bool_]
MarkArray = NDArray[np.uint8 | np.uint16]

MOST_PLACES = 15
"""After the point, of floats of less than 64 bits that are read as decimals."""
SMALLEST = 1e-250
"""Utilities, the largest of which is smaller, are no longer held to the last of their digits."""
MAX_OVERLAPPING = 16
"""Up to so many share budgets any combination is distinguished; beyond, only budgets without a common response."""


class InfeasibleBudget(IbpoError):
    """A budget that no allocation keeps.

    Attributes:
        budget_index: Which of the K budgets, counted from 0.
        budget: Its value, mean cost per problem.
        nearest: The nearest value that can be kept (given the budgets before it), mean cost per problem.
        floor: Whether it is a lower bound (`at_least`) that is missed.
    """

    def __init__(
        self, budget_index: int, budget: float, nearest: float, given: str = "", *, floor: bool = False
    ) -> None:
        """State the budget, by how much it is missed, and the nearest feasible value."""
        self.budget_index, self.budget, self.nearest, self.floor = budget_index, budget, nearest, floor
        self._given = given
        asked, found = tell_apart(budget, nearest, digits=6)
        by, ask = number_text(abs(budget - nearest)), amount_to_ask(nearest, at_least=floor)
        if floor:
            text = (
                f"at_least {budget_index}: a mean cost of at least {asked} per problem cannot be reached{given}: "
                f"the most expensive allocation costs {found}, short by {by}; lower it to at most {ask}"
            )
        else:
            text = (
                f"budget {budget_index}: a mean cost of {asked} per problem cannot be kept{given}: the cheapest "
                f"allocation costs {found}, over by {by}; raise it to at least {ask}"
            )
        super().__init__(text)

    def __reduce__(self) -> Any:
        """Survive pickling, as when it is raised in a worker process."""
        return _infeasible, (self.budget_index, self.budget, self.nearest, self._given, self.floor)


def _infeasible(index: int, budget: float, nearest: float, given: str, floor: bool) -> InfeasibleBudget:
    return InfeasibleBudget(index, budget, nearest, given, floor=floor)


def tell_apart(number: float | Fraction, other: float | Fraction, *, digits: int = 12) -> tuple[str, str]:
    """Two numbers as texts, with as many digits as it takes to see how far they are apart."""
    apart = Fraction(number) - Fraction(other)
    for places in range(digits, 18):
        texts = _shown(float(number), places), _shown(float(other), places)
        if abs(Fraction(texts[0].replace(",", "")) - Fraction(texts[1].replace(",", "")) - apart) * 100 <= abs(apart):
            return texts
    return str(number), str(other)  # fractions, closer than floats


def _shown(number: float, places: int) -> str:
    """With so many digits, and all of its whole part: 20,000, not 2e+04."""
    whole = len(f"{abs(number):.0f}") if abs(number) < 1e15 else 0
    return f"{number:,.{max(places, whole)}g}"


def _float(number: Fraction | int) -> float:
    """The number, or as far from 0 as floats can be used."""
    try:
        return float(number)
    except OverflowError:
        return 1e300 if number > 0 else -1e300


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bounds:
    """Bounds on the total costs, and from their units (`ibpo.allocation.units`) back to what was asked.

    Attributes:
        low: `[K]` lower bounds, exact; None where there is none.
        high: `[K]` upper bounds, exact.
        whole: `[K]` whether all costs of this row are whole numbers.
        unit: `[K]` what a cost of 1 stands for.
        shift: `[K]` what has been subtracted from the total costs.
        asked: The bounds in the caller's unit; None where these are.
    """

    low: tuple[Fraction | None, ...]
    high: tuple[Fraction, ...]
    whole: tuple[bool, ...]
    unit: tuple[Fraction, ...] = ()
    shift: tuple[Fraction, ...] = ()
    asked: "Bounds | None" = None

    def ends(self, k: int) -> tuple[float, float]:
        """Lower and upper bound on the total cost k, as floats: where they are whole numbers, what these can reach."""
        low, high = self.low[k], self.high[k]
        if self.whole[k]:
            return (-math.inf if low is None else _float(-(-low // 1))), _float(high // 1)
        return (-math.inf if low is None else _float(low)), _float(high)

    def arrays(self) -> tuple[FloatArray, FloatArray]:
        """`[K]` lower and `[K]` upper bounds, as `ends` has them."""
        low, high = zip(*map(self.ends, range(len(self.high))), strict=True)
        return np.array(low), np.array(high)

    def paid(self, price: FloatArray) -> list[float]:
        """The terms price_k b_k of the dual function; b_k is the bound on that side on which price_k says it binds."""
        ends = map(self.ends, range(len(price)))
        return [p * (high if p > 0 else low) for p, (low, high) in zip(price.tolist(), ends, strict=True) if p]

    def fit(self, total: Sequence[float | Fraction]) -> bool:
        """Whether the K total costs keep every bound."""
        return all(self.keeps_high(x, k) and self.keeps_low(x, k) for k, x in enumerate(total))

    def keeps_high(self, total: float | Fraction, k: int) -> bool:
        """Whether a total is inside its upper bound."""
        return Fraction(total) <= self.high[k]

    def keeps_low(self, total: float | Fraction, k: int) -> bool:
        """Whether a total reaches its lower bound, if it has one."""
        low = self.low[k]
        return low is None or Fraction(total) >= low

    def in_full(self, total: float | Fraction, k: int) -> Fraction:
        """A total in the caller's unit."""
        return Fraction(total) * self.unit[k] + self.shift[k] if self.unit else Fraction(total)

    def per_cost(self, price: float, k: int) -> float:
        """A price in utility per cost of the caller's unit."""
        return _float(Fraction(price) / self.unit[k]) if self.unit else price

    def leave_room(self, k: int) -> bool:
        """Whether a total can lie between both bounds k: where costs are whole, whether a whole number does."""
        low, high = self.ends(k)
        return low <= high

    def check(self, k: int, least: float | Fraction, most: float | Fraction, num_problems: int) -> None:
        """Raise if bound k cannot be kept even alone, by totals from `least` to `most`."""
        if not self.keeps_high(least, k):
            raise self.infeasible(k, least, num_problems)
        if not self.keeps_low(most, k):
            raise self.infeasible(k, most, num_problems, floor=True)

    def infeasible(
        self, k: int, total: float | Fraction, num_problems: int, given: str = "", *, floor: bool = False
    ) -> InfeasibleBudget:
        """The error, with the nearest float whose decimal, times the number of problems, is feasible."""
        asked = self.asked or self
        bound = asked.low[k] if floor else asked.high[k]
        assert bound is not None
        mean = self.in_full(total, k) / num_problems
        value, away = float(mean), -math.inf if floor else math.inf
        while (Fraction(str(value)) - mean) * (-1 if floor else 1) < 0:
            value = math.nextafter(value, away)
        return InfeasibleBudget(k, float(bound / num_problems), value, given, floor=floor)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Arguments:
    """Checked arguments, rows in the caller's order.

    Attributes:
        utility: `[R]` finite.
        largest: The largest size of a utility.
        cost: `[K, R]` finite, at least 0; bool where all are given as shares.
        exact: `[K]` the costs of a row as fractions `[R]`, where floats do not hold what was given; else None.
        ids: The rows by problem.
        tie: `[R]` what orders equal responses of one problem, or None.
        may_skip: Whether a problem may go without a response.
        bounds: Bounds on the K total costs.
        marks: `[R]` which shares a response counts in, or None where not all costs are 0 or 1: bit k for cost k, and
            for more than 16 costs k + 1 (None where a response counts in several).
    """

    utility: FloatArray
    largest: float
    cost: CostArray
    exact: tuple[ObjectArray | None, ...]
    ids: ProblemIds
    tie: KeyArray | None
    may_skip: bool
    bounds: Bounds
    marks: MarkArray | None


def validate(
    utility: ArrayLike,
    problem: ArrayLike | Sequence[Hashable],
    cost: ArrayLike,
    budget: Any,
    *,
    at_least: Any = None,
    choose: Choose = "exactly_one",
    tie_break: str | None = None,
    response: ArrayLike | Sequence[Hashable] | None = None,
) -> Arguments:
    """Check the arguments.

    Raises:
        IbpoError: With the argument, the place and the fix.
    """
    utility, cost = _widened(utility), _widened(cost)
    u, largest = _finite("utility", utility)
    if u.ndim != 1 or not len(u):
        raise IbpoError(f"utility: needs one number per response, at least one, got shape {u.shape}")
    c = np.atleast_2d(costs(cost))
    if c.ndim != 2 or not len(c) or c.shape[1] != len(u):
        finite_array("cost", cost)
        raise IbpoError(f"cost: needs shape [{len(u)}] or [K, {len(u)}] to match utility, got {np.shape(cost)}")
    # Every cost: is it a share (0 or 1 throughout)? are all its numbers whole, with a sum that a float holds exactly?
    sums: list[float | None] = []
    given = _as_marks(c)
    marks = np.zeros(len(u), np.uint8 if len(c) <= 8 else np.uint16) if given is None else given
    exact: list[ObjectArray | None] = []
    for k, row in enumerate(c):
        if given is not None:
            count = int(np.count_nonzero(given))
        else:
            count = None if marks is None else _mark_share(row, marks, k, len(c))
        total = _checked_sum(row) if count is None else float(count)
        if total is None:
            finite_array("cost", cost)
        rest = None if total is None else _given_exactly(cost, c, k)
        below = row if rest is None else rest
        if total is None or (rest is not None and rest.min() < 0):
            r = int(np.flatnonzero(below < 0)[0])
            raise IbpoError(f"cost[{k}, {r}] is {float(below[r]):g}: costs must be at least 0")
        if rest is not None:
            count = None  # as floats they may look like a share
        marks = None if count is None else marks
        sums.append(total)
        exact.append(rest)
    whole = [
        rest is None and total is not None and not math.isnan(total) and total < 2**53
        for rest, total in zip(exact, sums, strict=True)
    ]
    if choose not in ("exactly_one", "at_most_one"):
        raise IbpoError(f"choose: must be 'exactly_one' or 'at_most_one', got {choose!r}")
    high = exact_budget("budget", budget, len(c))
    low = [None] * len(c) if at_least is None else exact_budget("at_least", at_least, len(c))
    for k, (floor, cap) in enumerate(zip(low, high, strict=True)):
        if floor is not None and cap is not None and floor > cap:
            above, below = tell_apart(floor, cap, digits=6)
            raise IbpoError(f"at_least[{k}] is {above}, above budget[{k}], {below}: lower it")
    seed = tie_break or ""
    ids = ProblemIds.from_values(problem, len(u), seed)
    num_problems = ids.num_problems
    if largest > np.finfo(np.float64).max / 16 / num_problems:
        raise IbpoError(
            f"utility: the sum of {num_problems} numbers of up to {largest:.3g} overflows; divide all by one number"
        )
    if 0 < largest < SMALLEST:
        raise IbpoError(
            f"utility: numbers of up to {largest:.3g} are too small to distinguish; multiply all by one number"
        )
    most = [None if b is None else b * num_problems for b in high]  # budgets are means, bounds are totals
    return Arguments(
        utility=u,
        largest=largest,
        cost=c,
        exact=tuple(exact),
        ids=ids,
        tie=None if response is None else _response_keys(response, len(u), seed),
        may_skip=choose == "at_most_one",
        bounds=Bounds(
            low=tuple(None if b is None else b * num_problems for b in low),
            high=tuple(_above_all(x, num_problems) if b is None else b for b, x in zip(most, c, strict=True)),
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
    if kernels.LIBRARY is not None and len(flat) and flat.flags.c_contiguous:
        found = np.empty(4)
        kernels.LIBRARY.check_numbers(kernels.at(flat), kernels.Int(len(flat)), kernels.at(found))
        if math.isfinite(found[2]):
            return array, float(np.abs(found[:2]).max())
    ends = [end for rows in slices_of(len(flat)) for end in (flat[rows].min(), flat[rows].max())]
    if not np.isfinite(ends).all():
        place = ", ".join(map(str, np.argwhere(~np.isfinite(array))[0]))
        raise IbpoError(f"{argument}[{place}] is not finite: drop that response or give it a number")
    return array, float(np.abs(ends).max()) if ends else 0.0


def costs(values: ArrayLike) -> CostArray:
    """Costs as floats, but truth values, a share's, as they are: they take an eighth of the memory."""
    given = cast(Any, values)
    kind = getattr(getattr(values, "dtype", None), "kind", "")
    if kind == "b" and isinstance(values, np.ndarray) and not isinstance(values, np.ma.MaskedArray):
        return cast(CostArray, values)
    if not isinstance(given, np.ndarray):
        with suppress(ValueError, TypeError, RuntimeError):  # `_numbers` says what is wrong
            given = np.asarray(given)
    short = None if isinstance(given, np.ma.MaskedArray) else _short(given)
    if short is not None and short.size:
        return np.stack([_as_printed(row) for row in np.atleast_2d(short)]).reshape(short.shape)
    return cast(CostArray, _numbers("cost", cast(ArrayLike, given)))


def _short(values: Any) -> NDArray[np.floating] | None:
    """An array of floats of less than 64 bits as it is; of anything else None."""
    array = cast("NDArray[np.floating]", values) if isinstance(values, np.ndarray) else None
    return None if array is None or array.dtype.kind != "f" or array.dtype.itemsize >= 8 else array


def _as_printed(values: NDArray[np.floating]) -> FloatArray:
    """Floats of less than 64 bits as the decimals that they print: .1 in 32 bits is .1, not .10000000149011612.

    Where some have more digits than such a float holds of any decimal, as measurements and divisions leave them, all
    are taken as they are.
    """
    wide = values.astype(np.float64)
    found, most = wide.copy(), 10.0 ** np.finfo(values.dtype).precision
    left = np.flatnonzero(np.isfinite(wide) & (wide != np.rint(wide)))
    for places in range(1, MOST_PLACES + 1):
        if not len(left):
            return found
        whole = np.rint(wide[left] * 10.0**places)
        if not (np.abs(whole) < most).all():
            break
        found[left] = whole / 10.0**places
        left = left[found[left].astype(values.dtype) != values[left]]
    return wide


def _above_all(cost: CostArray, num_problems: int) -> Fraction:
    """More than any allocation can cost."""
    return num_problems * (2 * Fraction(float(cost.max())) + 1)


def _given_exactly(values: Any, floats: CostArray, k: int) -> ObjectArray | None:
    """Row k of the costs as fractions, where they were given as numbers that floats do not hold; else None."""
    given = cast(Any, values if isinstance(values, list | tuple) else np.asarray(values))
    row: Any = given[k] if len(floats) > 1 or np.shape(given[0]) else given
    kind = getattr(getattr(row, "dtype", None), "kind", "O")
    if kind in "fb":
        return None
    kinds = set(map(type, row)) if kind == "O" else set[type]()
    if not kinds & {Decimal, Fraction} and not float(floats[k].max()) >= 2**53:
        return None
    exact = np.empty(len(row), object)
    items: list[Any] = id_items(row)
    exact[:] = [Fraction(x if isinstance(x, int | Decimal | Fraction) else str(x)) for x in items]
    return None if all(x in (0, 1) for x in exact.tolist()) else exact


def _widened(values: ArrayLike) -> ArrayLike:
    """Floats of 16 bits that only torch has as those of 32 bits, which hold them; anything else as it is."""
    given = cast(Any, values)
    return given.float() if str(getattr(given, "dtype", "")) == "torch.bfloat16" else values


def _numbers(argument: str, values: ArrayLike) -> FloatArray:
    given = cast(Any, values)
    kind = getattr(getattr(given, "dtype", None), "kind", "")
    if given is None or kind == "c":
        raise IbpoError(f"{argument}: needs an array of numbers, got {'complex ones' if kind else 'none'}")
    try:
        if hasattr(given, "filled"):  # a masked array: what is masked is not a number
            return cast(FloatArray, given.astype(np.float64).filled(np.nan))
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # torch: a tensor that needs its gradient
        raise IbpoError(f"{argument}: needs an array of numbers: {error}") from None


def _as_marks(cost: CostArray) -> MarkArray | None:
    """The truth values of a single share as they are, without a copy."""
    held = cost[0].view(np.uint8) if len(cost) == 1 and cost.dtype == bool else None
    return held if held is not None and held.flags.c_contiguous and held.max() <= 1 else None


def _mark_share(cost: CostArray, marks: MarkArray, k: int, num_costs: int) -> int | None:
    """Mark the responses of cost 1, and count them; None where a cost is neither 0 nor 1, or marks cannot say it."""
    total = 0
    for rows in slices_of(len(cost)):
        here = cost[rows]
        first = k == 0 and marks.dtype == np.uint8  # then the comparison is the mark
        out = marks[rows].view(bool) if first else None
        # Truth values as bytes: five times as fast as made numbers.
        one = np.equal(here, 1.0, out=out) if cost.dtype != bool else np.not_equal(here.view(np.uint8), 0, out=out)
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
            marks[rows] |= mark * marks.dtype.type(1 << k)  # a ninth of the time of a shift
        elif k + 1 > np.iinfo(marks.dtype).max or marks[rows][one].any():
            return None
        else:
            marks[rows] += mark * marks.dtype.type(k + 1)
    return total


def _checked_sum(cost: CostArray) -> float | None:
    """The sum, NaN where not all costs are whole numbers, None where one is not finite or below 0."""
    if kernels.LIBRARY is not None and cost.dtype == np.float64 and cost.flags.c_contiguous:
        found = np.empty(4)
        kernels.LIBRARY.check_numbers(kernels.at(cost), kernels.Int(len(cost)), kernels.at(found))
        least, most, total, off = found.tolist()
        if math.isfinite(total) and most < 2**52:
            return None if least < 0 else math.nan if off else total
    ends: list[float] = []
    total, whole = 0.0, True
    for rows in slices_of(len(cost)):
        here = cost[rows]
        ends += [float(here.min()), float(here.max())]
        whole = whole and ends[-1] < 2**53 and bool((here == np.floor(here)).all())
        total += float(here.sum()) if whole else 0.0
    if not (np.isfinite(ends).all() and min(ends) >= 0):
        return None
    return total if whole else math.nan


def _response_keys(response: ArrayLike | Sequence[Hashable], length: int, seed: str) -> KeyArray:
    if not isinstance(response, np.ndarray | list):
        response = id_items(response, "response")  # an iterator can be read once
    response = cast(Sequence[Hashable], response)
    whole = whole_ids(response)
    if whole is None or len(whole) != length:
        names = id_names("response", response, length)
        return np.array([text_key(name, seed) for name in names], np.uint64)
    return mix(whole, seed)


def exact_budget(argument: str, budget: Any, num_budgets: int) -> list[Fraction | None]:
    """Budgets as the decimal fractions that were meant: 0.29 is 29/100, so 0.29 of 100 problems is 29, not 28."""
    values: list[Any] = np.atleast_1d(np.asarray(budget, dtype=object)).tolist()
    short = _short(budget)
    if short is not None:
        values = list(np.atleast_1d(short))  # .7 in 32 bits prints .7, as Python's float .699999988
    if len(values) != num_budgets:
        raise IbpoError(f"{argument}: needs one number per cost row, {num_budgets}, got {len(values)}")
    exact: list[Fraction | None] = []
    for k, value in enumerate(values):
        if value is None:
            exact.append(None)
            continue
        try:
            number = Fraction(str(value))
            float(number)
        except (ValueError, ZeroDivisionError, OverflowError):
            shown = (
                f"a number of type {type(value).__name__}" if isinstance(value, int | Fraction) else repr(value)[:80]
            )
            raise IbpoError(f"{argument}[{k}] is {shown}: needs a finite number, the mean cost per problem") from None
        if number < 0:
            raise IbpoError(f"{argument}[{k}] is {value!r}: a budget must be at least 0")
        exact.append(number)
    return exact


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AllocationProblem:
    """Validated candidates, gathered by problem. Never sorted: whatever depends on an order asks for `key`.

    Attributes:
        utility: `[C]`.
        cost: `[K, C]`.
        exact: `[K]` a row's costs as fractions `[C]`, where the floats in `cost` only come close; else None.
        row: `[C]` the caller's row, -1 for the empty response; None where candidates are the caller's rows.
        segments: Where the candidates of each problem are.
        ids: What orders ties between problems.
        tie: `[C]` what orders equal candidates of one problem, or None.
        bounds: Bounds on the K total costs.
        num_responses: R.
        exact_utility: `[C]` utilities as fractions where floats only come close; else None.
        largest: The largest size of a utility; None where it has not been looked for.
        most: `[K]` the largest costs; None in the same way.
    """

    utility: FloatArray
    cost: FloatArray
    exact: tuple[ObjectArray | None, ...]
    row: IntArray | None
    segments: Segments
    ids: ProblemIds
    tie: KeyArray | None
    bounds: Bounds
    num_responses: int
    exact_utility: ObjectArray | None = None
    largest: float | None = None
    most: tuple[float, ...] | None = None

    @property
    def num_problems(self) -> int:
        """P."""
        return self.segments.num_problems

    def total(self, chosen: IntArray) -> list[float | Fraction]:
        """Total cost of the chosen candidates under each of the K costs, rounded once if they are no whole numbers."""
        return [
            exact_sum(np.take(row, chosen, mode="clip")) if exact is None else sum(exact[chosen].tolist(), Fraction(0))
            for row, exact in zip(self.cost, self.exact, strict=True)
        ]

    def all_fit(self, chosen: IntArray) -> bool:
        """Whether the chosen candidates keep every bound."""
        return self.bounds.fit(self.total(chosen))


def gather(arguments: Arguments) -> AllocationProblem:
    """Gather the candidates by problem."""
    (row, segments), utility, tie = arguments.ids.gathered(), arguments.utility, arguments.tie
    cost, exact = arguments.cost.astype(np.float64, copy=False), arguments.exact
    if row is not None:
        # "clip" is not about these rows, which are inside: numpy then takes two thirds of the time.
        utility, cost = np.take(utility, row, mode="clip"), np.take(cost, row, axis=1, mode="clip")
        exact = tuple(x if x is None else x[row] for x in exact)
        tie = None if tie is None else tie[row]
    if arguments.may_skip:  # an empty response per problem, free and worth 0, makes it exactly one of C
        start = segments.start
        row = np.arange(len(utility)) if row is None else row
        utility, row = np.insert(utility, start, 0.0), np.insert(row, start, -1)
        tie = None if tie is None else np.insert(tie, start, np.uint64(0))
        cost = np.insert(cost, start, 0.0, axis=1)
        exact = tuple(x if x is None else np.insert(x, start, [0]) for x in exact)
        segments = Segments.from_start(start + np.arange(len(start)), len(utility))
    return AllocationProblem(
        utility=utility,
        cost=cost,
        exact=exact,
        row=row,
        segments=segments,
        ids=arguments.ids,
        tie=tie,
        bounds=arguments.bounds,
        num_responses=len(arguments.utility),
        largest=arguments.largest,
    )


def best_candidates(instance: AllocationProblem, price: FloatArray | None = None) -> IntArray:
    """`[P]` the candidate with the largest utility - price . cost; of equal ones the cheapest, by `tie`, the first."""
    found: list[IntArray] = []
    price = np.zeros(len(instance.cost)) if price is None else price
    for _, rows, block in instance.segments.blocks():
        tie = None if instance.tie is None else instance.tie[rows]
        best, _, _, _ = best_rows(instance.utility[rows], instance.cost[:, rows], tie, block, price)
        found.append(best + rows.start)
    return np.concatenate(found)


def largest_score(instance: AllocationProblem, price: FloatArray) -> float:
    """What no score at these prices exceeds in size."""
    size, most = instance.largest, instance.most
    if size is None:
        size = max(float(instance.utility.max()), -float(instance.utility.min()))
    if most is None:
        most = instance.cost.max(axis=1).tolist()
    return size + sum(abs(y) * cost for y, cost in zip(price.tolist(), most, strict=True))


def rounding(instance: AllocationProblem, price: FloatArray, size: float) -> float:
    """How far the scores at these prices, of all problems together and with the bounds, may be from what they mean.

    None of them is larger than `size` (`largest_score`).
    """
    if not price.any():
        return 0.0
    paid = sum(map(abs, instance.bounds.paid(price)))
    return 2.0**-52 * (len(price) + 3) * (size * instance.num_problems + paid)


def cheapest_of(instance: AllocationProblem, candidates: IntArray, num_problems: int) -> IntArray:
    """One of the given candidates (rising) for each of their problems: the cheapest, then by `tie`, then the first."""
    return cheapest(candidates, num_problems, instance.cost, instance.tie, instance.segments)


def first_twins(instance: AllocationProblem, chosen: IntArray) -> IntArray:
    """`[P]` the first, by `tie`, then by row, of the candidates with the utility and the costs of the chosen ones."""
    found: list[IntArray] = []
    for problems, rows, block in instance.segments.blocks():
        same = instance.utility[rows] == block.spread(instance.utility[chosen[problems]])
        for cost in instance.cost:
            same &= cost[rows] == block.spread(cost[chosen[problems]])
        found.append(cheapest_of(instance, np.flatnonzero(same) + rows.start, problems.stop - problems.start))
    return np.concatenate(found)
