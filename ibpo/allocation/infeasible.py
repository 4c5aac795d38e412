"""The error that says which budget cannot be kept, by how much, and what could be."""

from typing import Any

from ibpo.errors import IbpoError


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
        if floor:
            text = (
                f"at_least {budget_index}: a mean cost of at least {budget:.12g} per problem cannot be reached{given}: "
                f"the dearest allocation costs {nearest!r}, short by {budget - nearest:.6g}; lower it to at most "
                f"{nearest!r}"
            )
        else:
            text = (
                f"budget {budget_index}: a mean cost of {budget:.12g} per problem cannot be kept{given}: the cheapest "
                f"allocation costs {nearest!r}, over by {nearest - budget:.6g}; raise it to at least {nearest!r}"
            )
        super().__init__(text)

    def __reduce__(self) -> Any:
        """Survive pickling, as when it is raised in a worker process."""
        return _infeasible, (self.budget_index, self.budget, self.nearest, self._given, self.floor)


def _infeasible(index: int, budget: float, nearest: float, given: str, floor: bool) -> InfeasibleBudget:
    return InfeasibleBudget(index, budget, nearest, given, floor=floor)
