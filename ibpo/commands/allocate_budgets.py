"""`--budget` texts: what is limited, and to how much."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import Allocation, allocate
from ibpo.errors import IbpoError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dial:
    """One `--budget`: the log's cost or the share of a response group, at most (or at least) so much."""

    text: str
    name: str
    sense: Literal["at_most", "at_least"]
    amount: Fraction
    percent: bool

    @classmethod
    def parse(cls, text: str) -> "Dial":
        """Read NAME=NUMBER, NAME=NUMBER% or NAME>=NUMBER[%]."""
        found = re.fullmatch(r"\s*([^<>=]+?)\s*(=|<=|>=)\s*([^<>=%]+?)\s*(%?)\s*", text)
        try:
            amount = Fraction(found[3]) / (100 if found[4] else 1) if found else Fraction(-1)
        except (ValueError, ZeroDivisionError):
            amount = Fraction(-1)
        if found is None or amount < 0:
            raise IbpoError(
                f"--budget {text}: needs NAME=NUMBER or NAME=PERCENT%, e.g. tokens=2000, tokens=25%, extended=30% or, "
                "for a lower bound, 'extended>=10%'"
            )
        sense = "at_least" if found[2] == ">=" else "at_most"
        return cls(text=text, name=found[1], sense=sense, amount=amount, percent=bool(found[4]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Dials that hold together, and how often their upper bounds are taken: one row of the table."""

    label: str
    dials: tuple[Dial, ...]
    times: Fraction = Fraction(1)

    def limits(self, cost_name: str, groups: Sequence[str], mean_cost: FloatArray) -> list["GroupLimit"]:
        """The dials for one part of a log; `mean_cost` `[G]` is that of always taking one response group."""
        return [_limit(dial, self.times, cost_name, groups, mean_cost) for dial in self.dials]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLimit:
    """A dial resolved: mean cost per problem, or the share of response group number `group`."""

    name: str
    group: int | None
    at_most: Fraction | None
    at_least: Fraction | None


def questions(budgets: Sequence[str]) -> list[Question]:
    """All budgets together, at half, once and twice their amount; without any, 25, 50 and 75 % of the way in tokens."""
    if not budgets:
        return [Question(label=x, dials=(Dial.parse(x),)) for x in ("tokens=25%", "tokens=50%", "tokens=75%")]
    dials = tuple(map(Dial.parse, budgets))
    label = ", ".join(dial.text for dial in dials)
    if all(dial.sense == "at_least" for dial in dials):
        return [Question(label=label, dials=dials)]
    scaled = (("half of it", Fraction(1, 2)), (label, Fraction(1)), ("twice it", Fraction(2)))
    return [Question(label=name, dials=dials, times=times) for name, times in scaled]


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


def _limit(dial: Dial, times: Fraction, cost_name: str, groups: Sequence[str], mean_cost: FloatArray) -> GroupLimit:
    amount, group = dial.amount, None
    if dial.name in ("tokens", "cost", cost_name):
        if dial.percent:
            cheapest, dearest = float(mean_cost.min()), float(mean_cost.max())
            amount = Fraction(str(cheapest + float(amount) * (dearest - cheapest)))
    elif dial.name not in groups:
        raise IbpoError(
            f"--budget {dial.text}: no response group {dial.name!r}; name tokens or one of {', '.join(groups)}"
        )
    elif amount > 1:
        raise IbpoError(f"--budget {dial.text}: a share is at most 1; did you mean {dial.name}={amount}%?")
    else:
        group = list(groups).index(dial.name)
    if dial.sense == "at_least":
        return GroupLimit(name=dial.name, group=group, at_most=None, at_least=amount)
    return GroupLimit(name=dial.name, group=group, at_most=amount * times, at_least=None)
