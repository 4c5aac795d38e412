"""What a request may be answered by, and what it cost in the end, checked against the budgets of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ibpo.errors import IbpoError
from ibpo.serving.book import Reservation
from ibpo.serving.correction import Correction
from ibpo.serving.plan import Budget


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One response group that a request may be answered by."""

    response_group: str
    gain: float
    """What answering so is worth; only differences between the options of one request count."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Budget -> expected cost, at least 0. Budgets on a share need none."""
    reserve: Mapping[str, float] = field(default_factory=dict)
    """Budget -> the most that it can cost, where that is known (a cap on its tokens); else what is expected."""


class Costs(NamedTuple):
    """An option's costs, per budget `[K]`."""

    estimate: tuple[float, ...]
    """Expected, corrected by what earlier responses cost."""
    reserve: tuple[float, ...]
    """What is kept ready, at least the estimate."""
    raw: tuple[float, ...]
    """The caller's estimate."""


WHOLE, NOTHING = Costs((1.0,), (1.0,), (1.0,)), Costs((0.0,), (0.0,), (0.0,))


def read_option(option: Option, budgets: Sequence[Budget], correction: Correction) -> Costs:
    """The costs of an option.

    Raises:
        IbpoError: A gain that is not finite, a cost that is missing, negative or not finite.
    """
    group = option.response_group
    if len(budgets) == 1 and budgets[0].response_group is not None and math.isfinite(option.gain):
        return WHOLE if group == budgets[0].response_group else NOTHING  # a share alone: no cost to be read
    if not math.isfinite(option.gain):
        raise IbpoError(f"option {group!r}: gain is {option.gain!r}; it must be a finite number")
    raw: list[float] = []
    estimate: list[float] = []
    reserve: list[float] = []
    for k, budget in enumerate(budgets):
        if budget.response_group is not None:
            cost = expected = most = 1.0 if group == budget.response_group else 0.0
        else:
            try:
                cost = option.cost[budget.name]
            except KeyError:
                raise IbpoError(f"option {group!r}: no cost for the budget {budget.name!r}; give one") from None
            if not 0 <= cost < math.inf:
                raise IbpoError(f"option {group!r}: cost of {budget.name} is {cost!r}; it must be finite, at least 0")
            expected = cost * correction.ratio(group, k)
            most = option.reserve.get(budget.name, expected) if option.reserve else expected
            if not 0 <= most < math.inf:
                raise IbpoError(
                    f"option {group!r}: reserve of {budget.name} is {most!r}; it must be finite, at least 0"
                )
            expected = min(expected, most)
        raw.append(cost)
        estimate.append(expected)
        reserve.append(most)
    return Costs(tuple(estimate), tuple(reserve), tuple(raw))


def read_actual(
    reservation: Reservation, budgets: Sequence[Budget], actual: Mapping[str, float] | None, default: Sequence[float]
) -> tuple[float, ...]:
    """What a response cost, per budget `[K]`: as given, else the default.

    Raises:
        IbpoError: An unknown budget, a cost that is negative or not finite.
    """
    given = actual or {}
    names = [budget.name for budget in budgets]
    for name, cost in given.items():
        where = f"request {reservation.request_id!r}: cost of {name}"
        if name not in names:
            raise IbpoError(f"{where}: there is no such budget; name one of {', '.join(names)}")
        if not 0 <= cost < math.inf:
            raise IbpoError(f"{where} is {cost!r}; it must be finite, at least 0")
    return tuple(float(given.get(name, default[k])) for k, name in enumerate(names))
