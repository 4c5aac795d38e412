"""What responses really cost beside what was expected: mends the estimates of later ones. K budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ibpo.serving.book import Reservation

MEMORY = 512
FEWEST = 32


class Correction:
    r"""Per response group and budget the ratio of actual to estimated cost, over about the last 512 responses.

    ratio = sum_i (1 - 1/512)^(n-i) actual_i / sum_i (1 - 1/512)^(n-i) estimate_i, kept in [1/8, 8]; 1 before 32
    responses have ended. `noise` is the mean square of actual cost less what was expected, over all response groups.
    """

    def __init__(self, num_budgets: int) -> None:
        self.noise = [0.0] * num_budgets
        self._sums: dict[str, list[list[float]]] = {}  # response group -> per budget: actual, estimate, count

    def ratio(self, response_group: str, budget: int) -> float:
        """By what to multiply an estimate."""
        sums = self._sums.get(response_group)
        if sums is None:
            return 1.0
        actual, estimate, count = sums[budget]
        if count < FEWEST or estimate <= 0:
            return 1.0
        return min(8.0, max(0.125, actual / estimate))

    def learn(self, reservation: Reservation, actual: Sequence[float]) -> None:
        """A response has ended."""
        sums = self._sums.setdefault(reservation.response_group, [[0.0, 0.0, 0.0] for _ in actual])
        for k, cost in enumerate(actual):
            sums[k][0] += cost - sums[k][0] / MEMORY
            sums[k][1] += reservation.raw[k] - sums[k][1] / MEMORY
            sums[k][2] += 1
            self.noise[k] += ((cost - reservation.estimate[k]) ** 2 - self.noise[k]) / MEMORY

    def state(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "noise": list(self.noise),
            "sums": {name: [list(row) for row in rows] for name, rows in self._sums.items()},
        }

    @classmethod
    def from_state(cls, num_budgets: int, state: dict[str, Any]) -> Correction:
        """The inverse of `state`."""
        correction = cls(num_budgets)
        correction.noise = list(state["noise"])
        correction._sums = {name: [list(row) for row in rows] for name, rows in state["sums"].items()}
        return correction
