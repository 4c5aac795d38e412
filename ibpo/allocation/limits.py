"""Bounds on total costs, and the error that names the one that cannot be kept. Letters: K budgets."""

import math
from dataclasses import dataclass
from fractions import Fraction

from ibpo.allocation.infeasible import InfeasibleBudget

RELATIVE_TOLERANCE = 1e-9
"""How far a sum of costs that are not all whole numbers may miss its bound. Whole-number costs get no tolerance."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Limits:
    """Bounds on the total costs.

    Attributes:
        low: `[K]` lower bounds, exact; None where there is none.
        high: `[K]` upper bounds, exact.
        whole: `[K]` whether all costs of this row are whole numbers.
    """

    low: tuple[Fraction | None, ...]
    high: tuple[Fraction, ...]
    whole: tuple[bool, ...]

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

    def check(self, k: int, least: float, most: float, num_problems: int) -> None:
        """Raise if bound k cannot be kept even alone, by totals from `least` to `most`."""
        if not self.keeps_high(least, k):
            raise self.infeasible(k, least, num_problems)
        if self.low[k] is not None:
            if not self.keeps_low(most, k):
                raise self.infeasible(k, most, num_problems, floor=True)
            low, high = self.bounds(k)
            if low > high:  # no whole number lies between
                raise self.infeasible(k, high, num_problems, " together with its budget", floor=True)

    def infeasible(
        self, k: int, total: float, num_problems: int, given: str = "", *, floor: bool = False
    ) -> InfeasibleBudget:
        """The error, with the nearest float whose decimal, times the number of problems, is feasible."""
        bound = self.low[k] if floor else self.high[k]
        assert bound is not None
        value, away = total / num_problems, -math.inf if floor else math.inf
        while (Fraction(str(value)) * num_problems - Fraction(total)) * (-1 if floor else 1) < 0:
            value = math.nextafter(value, away)
        return InfeasibleBudget(k, float(bound / num_problems), value, given, floor=floor)
