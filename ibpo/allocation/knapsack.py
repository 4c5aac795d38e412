"""One general cost (a multiple-choice knapsack): value and price at every budget.

Letters: R responses, C candidates, P problems, B breakpoints (steps from one response of a problem to its next on its
envelope).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ibpo.allocation.problem import Amount, Choose, gather, tell_apart, validate
from ibpo.allocation.segments import FloatArray, IntArray, exact_sum, is_first
from ibpo.budget import amount_to_ask
from ibpo.errors import IbpoError
from ibpo.pictures import MOST_POINTS, Mark, chart, number_text, show, table, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTTED = 2000
"""Points of a curve that is plotted: more would show no other line."""


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


def envelope(problem: IntArray, utility: FloatArray, cost: FloatArray, order: IntArray | None = None) -> Steps:
    """Steps up the concave envelope of every problem, by repeated removal of points on or below a chord.

    A point on or below the chord of its neighbours, or no better than a cheaper one, is no vertex of the rising
    envelope, whatever else is removed with it: whole sweeps go over all problems at once, until one removes nothing.

    Args:
        problem: `[C]` not decreasing, 0 .. P-1, each at least once.
        utility: `[C]`.
        cost: `[C]`, of any sign.
        order: `[C]` the candidates by problem, cost and falling utility, where that is known.

    Returns:
        The steps with a positive gain, candidates as positions in the arguments.
    """
    if order is None:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierPoint:
    """One budget: all per problem. `value` is exact at a breakpoint and an upper bound between two."""

    budget: float
    value: float
    price: float
    spent: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Frontier:
    """Best mean utility against mean cost: concave, piecewise linear, from the cheapest allocation to the best.

    Attributes:
        spent: `[B + 1]` mean cost per problem, rising.
        value: `[B + 1]` mean utility per problem of an allocation that costs this: an optimal one.
        price: `[B + 1]` the slope from each point to the next, falling; 0 at the last.
        num_problems: P.

    A notebook shows it as a picture and a table, `print` as a table; `plot` draws it with matplotlib.

    Example:
        >>> print(frontier([0, 1, 0, 0.5], [1, 1, 2, 2], [0, 1, 0, 1]))
        Frontier: 3 points for 2 problems, 0 to 1 cost per problem
          cost per problem   value  price  of the gain
          0                      0      1         0.0%
          0.25                0.25      1        33.3%
          0.5                  0.5    0.5        66.7%
          0.75               0.625    0.5        83.3%
          1                   0.75      0       100.0%
    """

    spent: FloatArray
    value: FloatArray
    price: FloatArray
    num_problems: int

    def __repr__(self) -> str:
        ends = f"spent={float(self.spent[0]):.6g}..{float(self.spent[-1]):.6g}"
        values = f"value={float(self.value[0]):.6g}..{float(self.value[-1]):.6g}"
        return f"Frontier({len(self.spent)} points, num_problems={self.num_problems}, {ends}, {values})"

    def __str__(self) -> str:
        return f"Frontier: {self._lead()}\n{text_table(*self._table())}"

    def _repr_html_(self) -> str:
        """For notebooks: the curve, and its value at five budgets; of the same size however many points there are."""
        some = self._some(MOST_POINTS)
        spent, value = self.spent[some].tolist(), self.value[some].tolist()
        ends = [Mark(x=spent[0], y=value[0], name="cheapest"), Mark(x=spent[-1], y=value[-1], name="best")]
        drawing = chart(
            [(spent, value)],
            ends if len(spent) > 1 else ends[:1],
            x_label="cost per problem",
            y_label="value per problem",
            what=f"value against cost per problem: {self._lead()}",
        )
        return show("Frontier", self._lead(), drawing, table(*self._table()))

    def plot(self, ax: Axes | None = None, *, budget: Amount | Sequence[Amount] = (), **style: Any) -> Axes:
        """Draw the curve with matplotlib: value against cost, both per problem.

        Args:
            ax: Axes to draw on; None: new ones, of a figure of their own.
            budget: One budget, or several, to mark on the curve.
            **style: Style of the line, as for `Axes.plot`: `color`, `label`, `linewidth`, ...

        Returns:
            The axes, for titles, limits, and `ax.figure.savefig("frontier.png")`.

        Raises:
            IbpoError: matplotlib is missing, or a budget is below the cheapest allocation.

        Example:
            >>> curve = frontier([0, 1, 0, 0.5], [1, 1, 2, 2], [0, 1, 0, 1])
            >>> ax = curve.plot(budget=0.75)  # doctest: +SKIP
        """
        asked = budget if isinstance(budget, Sequence) and not isinstance(budget, str) else [budget]
        points = [self.at(amount) for amount in asked]
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError:
                raise IbpoError("a picture needs matplotlib: pip install 'ibpo[report]'") from None
            ax = pyplot.subplots(layout="constrained")[1]
            ax.set(xlabel="cost per problem", ylabel="value per problem")
        some = self._some(PLOTTED)
        axes: Any = ax  # matplotlib leaves types of its own options open
        (line,) = axes.plot(self.spent[some], self.value[some], **style)
        for point in points:
            where = (point.spent, point.value)
            axes.plot(*where, "o", color=line.get_color())
            text = f"{number_text(point.budget)}: {number_text(point.value)}"
            axes.annotate(text, where, (6, -12), textcoords="offset points")
        return ax

    def _some(self, most: int) -> IntArray:
        """At most so many points of the curve, both ends among them: evenly over the cost, and over their number."""
        num = len(self.spent)
        if num <= most:
            return np.arange(num)
        at: FloatArray = np.linspace(float(self.spent[0]), float(self.spent[-1]), most // 2)
        by_cost: IntArray = np.minimum(np.searchsorted(self.spent, at), num - 1)
        return np.unique(np.concatenate([by_cost, np.linspace(0, num - 1, most - len(by_cost)).astype(np.int64)]))

    def _lead(self) -> str:
        low, high = (number_text(float(self.spent[i])) for i in (0, -1))
        return f"{len(self.spent):,} points for {self.num_problems:,} problems, {low} to {high} cost per problem"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Value and price at five budgets."""
        low, high = float(self.spent[0]), float(self.spent[-1])
        first, gain = float(self.value[0]), float(self.value[-1] - self.value[0])
        body: list[list[str]] = []
        for part in (0.0, 0.25, 0.5, 0.75, 1.0) if high > low else (1.0,):
            point = self.at(high if part == 1.0 else max(low, low + part * (high - low)))
            of = f"{(point.value - first) / gain:.1%}" if gain > 0 else ""
            body.append([number_text(point.budget), number_text(point.value), number_text(point.price), of])
        return ["cost per problem", "value", "price", "of the gain"], body

    def at(self, budget: Amount) -> FrontierPoint:
        """Value, price and spend at a mean cost per problem.

        Between two breakpoints the value is that of the linear relaxation, above the best allocation by less than one
        step of one problem. Beyond the last breakpoint nothing more is spent.

        Raises:
            IbpoError: A budget below the cheapest allocation, or one that is not a number.
        """
        try:
            amount = float(Fraction(budget)) if isinstance(budget, str) else float(budget)
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            amount = math.nan
        if math.isnan(amount):
            raise IbpoError(f"budget: needs one number, the mean cost per problem, got {budget!r}")
        if amount < self.spent[0]:
            asked, found = tell_apart(amount, float(self.spent[0]), digits=6)
            raise IbpoError(
                f"budget {asked}: the cheapest allocation costs {found} per problem; ask for at least "
                f"{amount_to_ask(float(self.spent[0]))}"
            )
        place = int(np.searchsorted(self.spent, amount, side="right")) - 1
        spent = min(amount, float(self.spent[-1]))
        value = float(self.value[place] + self.price[place] * (spent - self.spent[place]))
        return FrontierPoint(budget=amount, value=value, price=float(self.price[place]), spent=spent)


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
