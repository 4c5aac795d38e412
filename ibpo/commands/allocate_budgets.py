"""What `ibpo allocate` is asked: budgets that hold together, as limits of one part of a log."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import Allocation, allocate
from ibpo.budget import Budget, check_budget, check_distinct, costs_named, parse_budget

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
DEFAULT = ("tokens=25%range", "tokens=50%range", "tokens=75%range")
REFUSED = {
    "slice": "a log is not sliced inside a budget; --by COLUMN solves each part of the log on its own",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Budgets that hold together, and how often their upper bounds are taken: one row of the table."""

    label: str
    budgets: tuple[Budget, ...]
    times: Fraction = Fraction(1)

    def limits(self, cost_name: str, groups: Sequence[str], mean_cost: FloatArray, now: float) -> list["GroupLimit"]:
        """The budgets for one part of a log.

        Args:
            cost_name: The log's column.
            groups: The log's response groups, G of them.
            mean_cost: `[G]`, of always taking one of them.
            now: Mean cost per problem of the responses as logged.
        """
        return [_limit(budget, self.times, cost_name, groups, mean_cost, now) for budget in self.budgets]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLimit:
    """A budget on one part of a log: mean cost per problem, or the share of response group number `group`."""

    name: str
    group: int | None
    at_most: Fraction | None
    at_least: Fraction | None


def questions(texts: Sequence[str]) -> list[Question]:
    """All budgets together, at half, once and twice their amount; without any, three on the way in cost."""
    if not texts:
        return [Question(label=text, budgets=(parse_budget(text),)) for text in DEFAULT]
    budgets = tuple(map(parse_budget, texts))
    check_distinct(budgets)
    label = ", ".join(map(str, budgets))
    if all(budget.sense == "at_least" for budget in budgets):
        return [Question(label=label, budgets=budgets)]
    scaled = (("half of it", Fraction(1, 2)), (label, Fraction(1)), ("twice it", Fraction(2)))
    return [Question(label=name, budgets=budgets, times=times) for name, times in scaled]


def choose_groups(
    reward: FloatArray, cost: FloatArray, limits: Sequence[GroupLimit], problems: Sequence[Any] | IntArray | None = None
) -> tuple[Allocation, IntArray]:
    """The best response group `[P]` of each problem, from `[P, G]` means, under the limits; ids order the ties."""
    num_problems, num_groups = reward.shape
    problems = np.arange(num_problems) if problems is None else problems
    if isinstance(problems, np.ndarray):
        problem = np.repeat(problems, num_groups)
    else:
        problem = [x for x in problems for _ in range(num_groups)]
    group = np.tile(np.arange(num_groups), num_problems)
    rows = [cost.ravel() if x.group is None else (group == x.group).astype(np.float64) for x in limits]
    floors: dict[str, Any] = {}
    if any(x.at_least is not None for x in limits):
        floors["at_least"] = [x.at_least for x in limits]
    allocation = allocate(reward.ravel(), problem, np.stack(rows), [x.at_most for x in limits], **floors)
    return allocation, allocation.weight.reshape(num_problems, num_groups).argmax(1)


def _limit(
    budget: Budget, times: Fraction, cost_name: str, groups: Sequence[str], mean_cost: FloatArray, now: float
) -> GroupLimit:
    if check_budget(budget, groups=groups, costs=costs_named(cost_name), refused=REFUSED):
        amount, group = budget.amount, list(groups).index(budget.name)
    else:
        group, ends = None, (float(mean_cost.min()), float(mean_cost.max()))
        amount = budget.in_cost(now=now, cheapest=ends[0], most_expensive=ends[1])
    if budget.sense == "at_least":
        return GroupLimit(name=budget.name, group=group, at_most=None, at_least=amount)
    return GroupLimit(name=budget.name, group=group, at_most=amount * times, at_least=None)
