"""What responses really cost compared with what was expected: corrects the estimates of later ones. K budgets."""

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
        self._groups: dict[str, _Group] = {}
        self._open: set[str] = set()  # ids in `_Group.begun` that have not ended
        self._ended: dict[str, Ended] = {}
        self.ratios: dict[str, list[float]] = {}
        """Response group -> per budget by what to multiply an estimate; 1 where there is none."""
        self.num_believed = 0
        """Response groups of which 32 responses have ended: from then on estimates are corrected."""

    def follow(self, reservation: Reservation) -> None:
        """A response begins."""
        name = reservation.request_id
        group = self._groups.get(reservation.response_group)
        if group is None:
            group = self._groups[reservation.response_group] = _Group(self._num_budgets)
        group.number += 1
        if len(group.begun) < _MOST_FOLLOWED and name not in self._ended:
            group.begun.append((name, group.number))
            self._open.add(name)

    def ready(self, ended: Ended) -> list[Ended]:
        """Were this the next to end: those that have ended and all that began before them have ended too.

        One that failed, and one that is not followed, waits for none. Nothing is changed: `end` does.
        """
        name, group = ended.reservation.request_id, self._groups.get(ended.reservation.response_group)
        followed = name in self._open
        done = [] if followed and not ended.cancelled else [ended]
        for other, number in group.begun if group is not None else ():
            found = ended if other == name and followed else self._ended.get(other)
            if found is None and other in self._open and group is not None and group.number - number <= _LOST_AFTER:
                break
            if found is not None and not found.cancelled:
                done.append(found)
        return done

    def end(self, ended: Ended) -> list[Ended]:
        """A response has ended, or failed; what `ready` would have said."""
        name, open_ids, all_ended = ended.reservation.request_id, self._open, self._ended
        group = self._groups.get(ended.reservation.response_group)
        followed = name in open_ids
        if group is None:
            return [ended]
        begun, done = group.begun, []
        if followed:
            open_ids.remove(name)
            if begun and begun[0][0] == name:  # the oldest of its group: it waits for none
                begun.popleft()
                if not ended.cancelled:
                    done.append(ended)
            else:
                all_ended[name] = ended
        while begun and (begun[0][0] not in open_ids or group.number - begun[0][1] > _LOST_AFTER):
            first = begun.popleft()[0]
            open_ids.discard(first)
            found = all_ended.pop(first, None)
            if found is not None and not found.cancelled:
                done.append(found)
        if done:
            before = group.sums[0][5]
            ratios = group.learn(done)
            if before < _FEWEST <= group.sums[0][5]:
                self.num_believed += 1
            self.ratios[ended.reservation.response_group] = ratios
        return done if followed and not ended.cancelled else [ended, *done]

    def follows(self, request_id: str) -> bool:
        """Whether this one has begun, and not ended as far as is known here."""
        return request_id in self._open

    def begin_anew(self, response_group: str) -> list[Ended]:
        """Forget what has been learned of a response group, and follow none of its responses in flight.

        Returns:
            Those that had ended and waited for others.
        """
        group = self._groups.pop(response_group, None)
        self.ratios.pop(response_group, None)
        if group is None:
            return []
        self.num_believed -= group.sums[0][5] >= _FEWEST
        names = [name for name, _ in group.begun]
        self._open.difference_update(names)
        return [ended for name in names if (ended := self._ended.pop(name, None)) is not None and not ended.cancelled]

    def forget(self) -> None:
        """Follow none of those that have begun; what has been learned stays."""
        for group in self._groups.values():
            group.begun.clear()
        self._open.clear()
        self._ended.clear()

    def state(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "sums": {name: [list(row) for row in group.sums] for name, group in self._groups.items() if group.learned},
            "begun": {name: [list(row) for row in group.begun] for name, group in self._groups.items()},
            "number": {name: group.number for name, group in self._groups.items()},
            "open": sorted(self._open),
            "ended": [[row.reservation.state(), list(row.actual), *row[2:]] for row in self._ended.values()],
        }

    @classmethod
    def from_state(cls, num_budgets: int, state: dict[str, Any]) -> Correction:
        """The inverse of `state`."""
        correction = cls(num_budgets)
        for name, number in state["number"].items():
            group = correction._groups[name] = _Group(num_budgets)
            group.number = number
            group.begun.extend((i, n) for i, n in state["begun"].get(name, ()))
            if name in state["sums"]:
                group.sums = [list(row) for row in state["sums"][name]]
                correction.ratios[name] = [_ratio(*row) for row in group.sums]
        correction.num_believed = sum(group.sums[0][5] >= _FEWEST for group in correction._groups.values())
        correction._open = set(state["open"])
        for values, actual, cancelled, restarts in state["ended"]:
            reservation = Reservation.from_state(values)
            correction._ended[reservation.request_id] = Ended(reservation, tuple(actual), cancelled, restarts)
        return correction


class _Group:
    """The responses of one group."""

    __slots__ = ("begun", "number", "sums")

    def __init__(self, num_budgets: int) -> None:
        self.begun: deque[tuple[str, int]] = deque()
        """Request id and number in the group of those that are followed, in the order in which they began."""
        self.number = 0
        """How many have begun."""
        self.sums = [[0.0] * 6 for _ in range(num_budgets)]
        """Per budget weighted sums: actual, estimate, their squares and product, count."""

    @property
    def learned(self) -> bool:
        return self.sums[0][5] > 0

    def learn(self, done: list[Ended]) -> list[float]:
        """Take in what has ended; the new ratios."""
        for reservation, actual, _, _ in done:
            for row, cost, raw in zip(self.sums, actual, reservation.raw, strict=True):
                a, b, aa, bb, ab, count = row
                row[:] = (
                    a + cost - a / _MEMORY,
                    b + raw - b / _MEMORY,
                    aa + cost * cost - aa / _MEMORY,
                    bb + raw * raw - bb / _MEMORY,
                    ab + cost * raw - ab / _MEMORY,
                    count + 1,
                )
        return [_ratio(*row) for row in self.sums]


def _ratio(actual: float, estimate: float, actual_2: float, estimate_2: float, product: float, count: float) -> float:
    """The factor of `Correction` from the weighted sums of actual, estimate, their squares and their product."""
    if count < _FEWEST or estimate <= 0:
        return 1.0
    ratio = actual / estimate  # r
    noise = (actual_2 - 2 * ratio * product + ratio * ratio * estimate_2) / estimate**2  # s^2
    off = ratio - 1
    if noise > 0:
        kept = 1 - noise / off**2 if off else 0.0
        shrunk = 1 + off * kept if kept > 0 else 1.0
    else:
        shrunk = 1 + off
    return 16.0 if shrunk > 16.0 else 0.125 if shrunk < 0.125 else shrunk
