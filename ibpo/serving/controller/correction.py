"""What responses really cost beside what was expected: corrects the estimates of later ones. K budgets."""

from __future__ import annotations

from collections import deque
from typing import Any

from ibpo.serving.controller.accounts import Ended, Reservation

_MEMORY = 512
_FEWEST = 32
_MOST_FOLLOWED = 16_384
_LOST_AFTER = 50_000


class Correction:
    r"""Per response group and budget the ratio of actual to estimated cost, over about the last 512 responses.

    With weights w_i = (1 - 1/512)^(n - i),

        r = sum_i w_i actual_i / sum_i w_i estimate_i,
        s^2 = sum_i w_i (actual_i - r estimate_i)^2 / (sum_i w_i estimate_i)^2,

    the estimates are multiplied by 1 + (r - 1) (1 - s^2 / (r - 1)^2)^+, kept in [1/8, 16]: a ratio that is within
    its standard error of 1 is noise, and would make the spend follow it. 1 before 32 responses have ended.

    Responses are learned from in the order in which they *began*, each only when all before it have ended: those that
    end first are the short ones, and a ratio of them alone would be too small. Up to 16,384 of a response group are
    followed at a time, others are not learned from; one that has not ended after 50,000 later ones is given up.
    """

    def __init__(self, num_budgets: int) -> None:
        self._num_budgets = num_budgets
        self._sums: dict[str, list[list[float]]] = {}  # per budget: actual, estimate, their squares and product, count
        self._begun: dict[str, deque[tuple[str, int]]] = {}  # request id, number in its response group
        self._number: dict[str, int] = {}
        self._open: set[str] = set()  # ids in _begun that have not ended
        self._ended: dict[str, Ended] = {}
        self.ratios: dict[str, list[float]] = {}
        """Response group -> per budget by what to multiply an estimate; 1 where there is none."""

    def follow(self, reservation: Reservation) -> None:
        """A response begins."""
        group, name = reservation.response_group, reservation.request_id
        begun = self._begun.get(group)
        if begun is None:
            begun = self._begun[group] = deque()
        self._number[group] = number = self._number.get(group, 0) + 1
        if len(begun) < _MOST_FOLLOWED and name not in self._ended:
            begun.append((name, number))
            self._open.add(name)

    def ready(self, ended: Ended) -> list[Ended]:
        """Were this the next to end: those that have ended and all that began before them have ended too.

        One that failed, and one that is not followed, waits for none. Nothing is changed: `end` does.
        """
        name, group = ended.reservation.request_id, ended.reservation.response_group
        followed = name in self._open
        done = [] if followed and not ended.cancelled else [ended]
        for other, number in self._begun.get(group, ()):
            found = ended if other == name and followed else self._ended.get(other)
            if found is None and other in self._open and self._number[group] - number <= _LOST_AFTER:
                break
            if found is not None and not found.cancelled:
                done.append(found)
        return done

    def end(self, ended: Ended) -> list[Ended]:
        """A response has ended, or failed; what `ready` would have said."""
        name, group = ended.reservation.request_id, ended.reservation.response_group
        alone = [ended] if ended.cancelled or name not in self._open else []
        if name in self._open:
            self._open.discard(name)
            self._ended[name] = ended
        done: list[Ended] = []
        begun = self._begun.setdefault(group, deque())
        while begun and (begun[0][0] not in self._open or self._number[group] - begun[0][1] > _LOST_AFTER):
            first = begun.popleft()[0]
            self._open.discard(first)
            found = self._ended.pop(first, None)
            if found is not None and not found.cancelled:
                done.append(found)
        if done:
            self._learn(group, done)
        return alone + done

    def follows(self, request_id: str) -> bool:
        """Whether this one has begun, and not ended as far as is known here."""
        return request_id in self._open

    def forget(self) -> None:
        """Follow none of those that have begun; what has been learned stays."""
        self._begun.clear()
        self._open.clear()
        self._ended.clear()

    def _learn(self, group: str, done: list[Ended]) -> None:
        sums = self._sums.get(group)
        if sums is None:
            sums = self._sums[group] = [[0.0] * 6 for _ in range(self._num_budgets)]
        for reservation, actual, _, _ in done:
            for row, cost, raw in zip(sums, actual, reservation.raw, strict=True):
                a, b, aa, bb, ab, count = row
                row[:] = (
                    a + cost - a / _MEMORY,
                    b + raw - b / _MEMORY,
                    aa + cost * cost - aa / _MEMORY,
                    bb + raw * raw - bb / _MEMORY,
                    ab + cost * raw - ab / _MEMORY,
                    count + 1,
                )
        self.ratios[group] = [_ratio(*row) for row in sums]

    def state(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "sums": {name: [list(row) for row in rows] for name, rows in self._sums.items()},
            "begun": {name: [list(row) for row in rows] for name, rows in self._begun.items()},
            "number": dict(self._number),
            "open": sorted(self._open),
            "ended": [[row.reservation.state(), list(row.actual), *row[2:]] for row in self._ended.values()],
        }

    @classmethod
    def from_state(cls, num_budgets: int, state: dict[str, Any]) -> Correction:
        """The inverse of `state`."""
        correction = cls(num_budgets)
        correction._sums = {name: [list(row) for row in rows] for name, rows in state["sums"].items()}
        correction._begun = {name: deque((i, n) for i, n in rows) for name, rows in state["begun"].items()}
        correction._number, correction._open = dict(state["number"]), set(state["open"])
        for values, actual, cancelled, restarts in state["ended"]:
            reservation = Reservation.from_state(values)
            correction._ended[reservation.request_id] = Ended(reservation, tuple(actual), cancelled, restarts)
        correction.ratios = {name: [_ratio(*row) for row in rows] for name, rows in correction._sums.items()}
        return correction


def _ratio(actual: float, estimate: float, actual_2: float, estimate_2: float, product: float, count: float) -> float:
    """The factor of `Correction` from the weighted sums of actual, estimate, their squares and their product."""
    if count < _FEWEST or estimate <= 0:
        return 1.0
    ratio = actual / estimate  # r
    noise = max(0.0, actual_2 - 2 * ratio * product + ratio * ratio * estimate_2) / estimate**2  # s^2
    off = ratio - 1
    shrunk = 1.0 if off == 0 else 1 + off * max(0.0, 1 - noise / off**2)
    return min(16.0, max(0.125, shrunk))
