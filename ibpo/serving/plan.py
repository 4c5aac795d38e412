"""What is to be held while answering: budgets, and what tenants and slices are promised and allowed."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    r"""A bound on the mean cost per request, and how far the running total may stray from it.

    Every request brings `mean` into a bank and its response takes its cost out. What lies in the bank is kept between
    -`overdraft` and `carry` by the controller, so any run of m requests in a row costs at most

        mean m + overdraft + carry,

    and, while there are gains to be had, at least mean m - overdraft - carry. The defaults make both 1 % of the budget
    (of a share: one point) over 1,000 requests.

    Example:
        >>> Budget(name="extended", mean=0.3, response_group="extended").overdraft
        5.0
        >>> Budget(name="tokens", mean=2000.0).overdraft
        10000.0
    """

    name: str
    """Of a share: any. Of a cost: the key of `Option.cost` that it bounds, e.g. "tokens"."""
    mean: float
    """Largest mean cost per request; for a share, the share of the requests, in [0, 1]."""
    response_group: str | None = None
    """Given: a budget on the share of requests answered by this response group, each costing 1."""
    overdraft: float = -1.0
    """In units of cost; -1: 5 responses for a share, 5 times the mean for a cost."""
    carry: float = -1.0
    """Most that can be saved up, in units of cost: unspent credit beyond it is lost. -1: as `overdraft`."""
    cushion: float = math.inf
    """How far beyond `overdraft` the reserves of what is under way may reach, in units of cost: the larger, the more
    capped responses at a time. Infinite: responses are admitted by their expected cost, and the caps of what is under
    way bound the rest; see the theorem of `ibpo.serving.ledger.Ledger`."""

    def __post_init__(self) -> None:
        where = f"budget {self.name!r}"
        _check_number(where, "mean", self.mean)
        if self.response_group is not None and self.mean > 1:
            raise IbpoError(f"{where}: mean is {self.mean!r}; a share of requests lies in [0, 1]")
        for key in ("overdraft", "carry"):
            if getattr(self, key) != -1.0:
                _check_number(where, key, getattr(self, key))
        if not self.cushion >= 0:
            raise IbpoError(f"{where}: cushion is {self.cushion!r}; it must be a number, at least 0, or inf")
        if self.overdraft == -1.0:
            object.__setattr__(self, "overdraft", self.slack(self.mean))
        if self.carry == -1.0:
            object.__setattr__(self, "carry", self.overdraft)

    def slack(self, mean: float) -> float:
        """The default of `overdraft` and `carry` for a bound of `mean`."""
        return 5.0 if self.response_group is not None else 5.0 * mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What one tenant, or one slice of the traffic, is promised and allowed; per budget, mean cost per its request.

    A promise is a bucket of its own: each request of the tenant brings `at_least` into it, at most `slack` (the
    default of `Budget.overdraft` for that mean) is kept, and what lies in it is set aside from everybody else. The
    total comes first: a promise above the budget's mean is kept only as far as the rest of the traffic leaves room.
    """

    at_least: Mapping[str, float] = field(default_factory=dict)
    """Budget -> guaranteed minimum, as far as there are gains to be had."""
    at_most: Mapping[str, float] = field(default_factory=dict)
    """Budget -> ceiling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that a controller holds.

    Example:
        >>> plan = Plan.from_dict(
        ...     {
        ...         "budget": {"extended": {"mean": 0.3, "response_group": "extended"}, "tokens": {"mean": 2000}},
        ...         "fair_share": 0.5,
        ...         "tenant": {"gold": {"at_least": {"extended": 0.2}}},
        ...     }
        ... )
        >>> [budget.name for budget in plan.budgets], plan.fair_share
        (['extended', 'tokens'], 0.5)
    """

    budgets: tuple[Budget, ...]
    fair_share: float = 0.0
    """In [0, 1]: the part of the budget that a tenant's own requests bring which nobody else can take from it. 0: the
    budget goes to the largest gains, whoever asks; 1: a tenant gets at least what it would get alone."""
    tenants: Mapping[str, Terms] = field(default_factory=dict)
    slices: Mapping[str, Terms] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [budget.name for budget in self.budgets]
        if not names:
            raise IbpoError("plan: no budget; give at least one, e.g. extended=30% or tokens=2000")
        if len(set(names)) < len(names):
            raise IbpoError(f"plan: two budgets of one name among {', '.join(names)}; rename one")
        if not 0 <= self.fair_share <= 1:
            raise IbpoError(f"plan: fair_share is {self.fair_share!r}; it lies in [0, 1]")
        for kind, table in (("tenant", self.tenants), ("slice", self.slices)):
            for name, terms in table.items():
                for key, bounds in (("at_least", terms.at_least), ("at_most", terms.at_most)):
                    for budget, value in bounds.items():
                        where = f"{kind} {name!r}, {key}"
                        if budget not in names:
                            raise IbpoError(f"{where}: there is no budget {budget!r}; name one of {', '.join(names)}")
                        _check_number(where, budget, value)
                        most = terms.at_most.get(budget, math.inf)
                        if key == "at_least" and value > most:
                            raise IbpoError(f"{where}: {budget} is promised {value!r}, above its ceiling {most!r}")

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Plan:
        """Read a plan from a parsed TOML or JSON table; an unknown key is an error.

        Raises:
            IbpoError: Names the field.
        """
        _check_keys("plan", table, ("budget", "fair_share", "tenant", "slice"))
        budgets: list[Budget] = []
        for name, row in _table("budget", table.get("budget", {})).items():
            row = _table(f"budget {name!r}", row)
            _check_keys(f"budget {name!r}", row, [f.name for f in fields(Budget)])
            if "mean" not in row:
                raise IbpoError(f"budget {name!r}: no mean; give the largest mean cost per request")
            group = row.get("response_group")
            numbers = {key: _number(f"budget {name!r}", key, value) for key, value in row.items() if key in _NUMBERS}
            budgets.append(Budget(name=name, response_group=None if group is None else str(group), **numbers))
        return cls(
            budgets=tuple(budgets),
            fair_share=_number("plan", "fair_share", table.get("fair_share", 0.0)),
            tenants={
                name: _terms(f"tenant {name!r}", row) for name, row in _table("tenant", table.get("tenant", {})).items()
            },
            slices={
                name: _terms(f"slice {name!r}", row) for name, row in _table("slice", table.get("slice", {})).items()
            },
        )


def parse_budget(text: str) -> Budget:
    """A budget as on the command line: `extended=30%` of the requests, or `tokens=2000` each in the mean.

    Raises:
        IbpoError: Says what was given and what is meant.

    Example:
        >>> parse_budget("extended=30%").mean, parse_budget("tokens=2000").response_group
        (0.3, None)
    """
    name, found, value = text.partition("=")
    share = value.endswith("%")
    try:
        mean = float(value.removesuffix("%")) / (100 if share else 1)
    except ValueError:
        mean = math.nan
    if not (name and found and math.isfinite(mean)):
        raise IbpoError(f"--budget {text}: is neither like extended=30% nor like tokens=2000")
    if not share and name != "tokens":
        raise IbpoError(f"--budget {text}: give a share of the requests as {name}=30%, or tokens=2000")
    return Budget(name=name, mean=mean, response_group=name if share else None)


def read_plan(path: str | Path) -> Plan:
    """Read a plan from a TOML file: see `Plan.from_dict`.

    Raises:
        IbpoError: Names file and field.
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IbpoError(f"{path}: cannot be read as TOML: {error}") from None
    try:
        return Plan.from_dict(table)
    except IbpoError as error:
        raise IbpoError(f"{path}: {error}") from None


_NUMBERS = ("mean", "overdraft", "carry", "cushion")


def _terms(where: str, row: Any) -> Terms:
    row = _table(where, row)
    _check_keys(where, row, ("at_least", "at_most"))
    return Terms(
        **{
            key: {name: _number(f"{where}, {key}", name, value) for name, value in _table(where, bounds).items()}
            for key, bounds in row.items()
        }
    )


def _table(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise IbpoError(f"{where}: is {value!r}; it must be a table")
    return value


def _check_keys(where: str, row: Mapping[str, Any], known: Any) -> None:
    for key in row:
        if key not in known:
            raise IbpoError(f"{where}: unknown field {key!r}; known: {', '.join(known)}")


def _number(where: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise IbpoError(f"{where}: {key} is {value!r}; it must be a number")
    return float(value)


def _check_number(where: str, key: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise IbpoError(f"{where}: {key} is {value!r}; it must be a finite number, at least 0")
