"""The whole frontier of one cost: value, price and spend for every budget, from one pass.

Letters: R responses, P problems, B breakpoints.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ibpo.allocation.knapsack import envelope
from ibpo.allocation.problem import Choose, gather, validate
from ibpo.allocation.segments import FloatArray, exact_sum
from ibpo.errors import IbpoError


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
