"""The serving policy: which budgets hold while answering, and what tenants and slices are promised and allowed."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ibpo.budget import Budget, check_budget, check_distinct, parse_budget, parse_budget_entry
from ibpo.config import read_toml
from ibpo.errors import IbpoError

_MOST_MEANS = 256.0
_NO_TRAFFIC = "nothing is spent before the first request; give a number, e.g. tokens=2000"
_REFUSED = {
    "at_least": "a controller holds upper bounds; a minimum is promised to a tenant or slice: at_least in --plan",
    "slice": "a part of the traffic has its ceiling in --plan: [slice.NAME] at_most",
    "now": _NO_TRAFFIC,
    "range": _NO_TRAFFIC,
}
"""What a controller cannot mean; see `ibpo.budget.check_budget`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetPolicy:
    r"""A bound on the mean cost per request, and how far the running total may stray from it.

    A token bucket: every request brings `mean` into the balance and its response takes its cost out. The controller
    keeps the balance between -`overdraft` and `burst`, so any run of m requests in a row costs at most

        mean m + overdraft + burst,

    and, while there are gains left, at least mean m - overdraft - burst. A share's are 5 responses each: one point
    over 1,000 requests; a share of 0 has none. A cost's, unless given, follow what the budget buys: see
    `largest_overdraft`.

    Example:
        >>> BudgetPolicy(name="extended", mean=0.3, response_group="extended").overdraft
        5.0
        >>> tokens = BudgetPolicy(name="tokens", mean=2000.0)
        >>> tokens.overdraft, tokens.least_overdraft, tokens.largest_overdraft
        (None, 10000.0, 512000.0)
    """

    name: str
    """Any name for a share; for a cost the key of `Candidate.cost` that it bounds, e.g. "tokens"."""
    mean: float
    """Largest mean cost per request; for a share, the share of the requests, in [0, 1]. Infinite: the cost is counted
    only, for quotas (`ibpo.serving.controller.Controller.decide`)."""
    response_group: str | None = None
    """Given: a budget on the share of requests answered by this response group, each costing 1."""
    overdraft: float | None = None
    """Most by which the balance may fall below 0, in units of cost. None: 5 responses for a share; for a cost it
    follows the allocation that the budget implies (`ibpo.serving.controller.pricing.find_room`)."""
    burst: float | None = None
    """Most that can be saved up and spent at once, in units of cost: unspent credit beyond it is lost. None: as
    `overdraft`."""
    overcommit: float = math.inf
    """How far beyond `overdraft` the reserves of what is in flight may reach, in units of cost: the larger, the more
    capped responses at a time. Infinite: responses are admitted by their expected cost, and the caps of what is in
    flight bound the rest; see the theorem of `ibpo.serving.controller.admission.Admission`."""
    is_room_given: bool = field(init=False, repr=False, compare=False)
    """Whether `overdraft` or `burst` was."""

    def __post_init__(self) -> None:
        where = f"budget {self.name!r}"
        if not self.is_counted_only:
            _check_number(where, "mean", self.mean)
        if self.response_group is not None and self.mean > 1:
            raise IbpoError(f"{where}: mean is {show(self.mean)}; a share of requests must be in [0, 1]")
        object.__setattr__(self, "is_room_given", self.overdraft is not None or self.burst is not None)
        if self.overdraft is None and self.response_group is not None:
            object.__setattr__(self, "overdraft", self.slack(self.mean))
        if self.burst is None:
            object.__setattr__(self, "burst", self.overdraft)
        for key in ("overdraft", "burst"):
            if getattr(self, key) is not None:
                _check_number(where, key, getattr(self, key))
        if self.overcommit != math.inf and not 0 <= self.overcommit <= LARGEST:
            raise IbpoError(f"{where}: overcommit is {show(self.overcommit)}; it must be a number, at least 0, or inf")

    @property
    def is_counted_only(self) -> bool:
        """Whether there is no bound on the mean: what it costs is booked, and bounded by quotas if at all."""
        return self.mean == math.inf and self.response_group is None

    @property
    def least_overdraft(self) -> float:
        """The overdraft before anything is known of the traffic: as given, else 5 means."""
        return self.slack(self.mean) if self.overdraft is None else self.overdraft

    @property
    def largest_overdraft(self) -> float:
        """The overdraft that no traffic and no estimate can make larger: as given, else 256 means."""
        return _MOST_MEANS * self.mean if self.overdraft is None else self.overdraft

    def slack(self, mean: float) -> float:
        """Room for a bound of `mean`, where nothing is known of what it buys; 0 for a bound of 0, which means never."""
        return 5.0 if self.response_group is not None and mean else 5.0 * mean


@dataclass(frozen=True, kw_only=True, slots=True)
class TenantPolicy:
    """What one tenant, or one slice of the traffic, is promised and allowed; per budget, mean cost per its request.

    A promise is a balance of its own: each request of the tenant adds `at_least` to it, at most `BudgetPolicy.slack` of
    that mean is saved up, and nobody else can spend it. The total comes first: a promise above the budget's mean is
    kept only as far as the rest of the traffic leaves room.
    """

    at_least: Mapping[str, float] = field(default_factory=dict)
    """Budget -> guaranteed minimum, as far as there are gains."""
    at_most: Mapping[str, float] = field(default_factory=dict)
    """Budget -> ceiling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingPolicy:
    """Everything that a controller holds.

    Example:
        >>> policy = ServingPolicy.from_dict(
        ...     {
        ...         "budget": {"extended": {"mean": 0.3, "response_group": "extended"}, "tokens": {"mean": 2000}},
        ...         "fair_share": 0.5,
        ...         "tenant": {"gold": {"at_least": {"extended": 0.2}}},
        ...     }
        ... )
        >>> [budget.name for budget in policy.budgets], policy.fair_share
        (['extended', 'tokens'], 0.5)
    """

    budgets: tuple[BudgetPolicy, ...]
    fair_share: float = 0.0
    """In [0, 1]: the part of the budget that a tenant's own requests bring which nobody else can take from it. 0: the
    budget goes to the largest gains, whoever asks; 1: a tenant gets at least what it would get alone."""
    tenants: Mapping[str, TenantPolicy] = field(default_factory=dict)
    slices: Mapping[str, TenantPolicy] = field(default_factory=dict)
    explore: float = 0.0
    """In units of gain: response groups that are worse than the best by about this much are tried too, so that their
    rewards can be learned from; see `ibpo.serving.controller.Controller`. 0: the best is always taken."""

    def __post_init__(self) -> None:
        names = [budget.name for budget in self.budgets]
        shares = {budget.name for budget in self.budgets if budget.response_group is not None}
        if not names:
            raise IbpoError("serving policy: no budget; give at least one, e.g. extended=30% or tokens=2000")
        if len(set(names)) < len(names):
            raise IbpoError(f"serving policy: two budgets of one name among {', '.join(names)}; rename one")
        if not 0 <= self.fair_share <= 1:
            raise IbpoError(f"serving policy: fair_share is {show(self.fair_share)}; it must be in [0, 1]")
        _check_number("serving policy", "explore", self.explore)
        for kind, table in (("tenant", self.tenants), ("slice", self.slices)):
            for name, terms in table.items():
                for key, bounds in (("at_least", terms.at_least), ("at_most", terms.at_most)):
                    for budget, value in bounds.items():
                        where = f"{kind} {name!r}, {key}"
                        if budget not in names:
                            raise IbpoError(f"{where}: there is no budget {budget!r}; name one of {', '.join(names)}")
                        _check_number(where, budget, value)
                        if budget in shares and value > 1:
                            raise IbpoError(
                                f"{where}: {budget} is {show(value)}; a share of requests must be in [0, 1]: 30 % is "
                                "0.3"
                            )
                        most = terms.at_most.get(budget, math.inf)
                        if key == "at_least" and value > most:
                            raise IbpoError(f"{where}: {budget} is promised {value!r}, above its ceiling {most!r}")

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], budgets: Iterable[BudgetPolicy] = ()) -> ServingPolicy:
        """Read a serving policy from a parsed TOML or JSON table; an unknown key is an error.

        A budget is a table of `BudgetPolicy`'s fields, or a text or number as on the command line: `extended = "30%"`.

        Args:
            table: `budget`, `fair_share`, `explore`, `tenant` and `slice`.
            budgets: More of them, from the command line.

        Raises:
            IbpoError: Names the field.
        """
        _check_keys("serving policy", table, ("budget", "fair_share", "explore", "tenant", "slice"))
        budgets = list(budgets)
        for name, row in _table("budget", table.get("budget", {})).items():
            if name in (*_NUMBERS, *_RENAMED) and isinstance(row, int | float):  # "10%": a group that has this name
                field = _RENAMED.get(name, name)
                raise IbpoError(
                    f"budget.{name}: {field} is a field of one budget, and no budget; give that budget a table of its "
                    f"own, say [budget.extended] with mean = 0.3 and {field} = {row!r}"
                    if field != "mean"
                    else "budget.mean: is the mean of which budget? Say [budget.extended] with mean = 0.3"
                )
            if isinstance(row, str | int | float):  # extended = "30%": as on the command line
                where = f"budget.{name}"
                if not isinstance(row, str):
                    _number("budget", name, row)
                budgets.append(_budget_policy(parse_budget_entry(name, row, where), where))
                continue
            row = _table(f"budget {name!r}", row)
            for old, new in _RENAMED.items():
                if old in row:
                    raise IbpoError(
                        f"budget {name!r}: {old} is now called {new}, with the same meaning; rename the field"
                    )
            _check_keys(f"budget {name!r}", row, [f.name for f in fields(BudgetPolicy) if f.init and f.name != "name"])
            if "mean" not in row:
                raise IbpoError(f"budget {name!r}: no mean; give the largest mean cost per request")
            group = row.get("response_group")
            numbers = {key: _number(f"budget {name!r}", key, value) for key, value in row.items() if key in _NUMBERS}
            budgets.append(BudgetPolicy(name=name, response_group=None if group is None else str(group), **numbers))
        return cls(
            budgets=tuple(budgets),
            fair_share=_number("serving policy", "fair_share", table.get("fair_share", 0.0)),
            explore=_number("serving policy", "explore", table.get("explore", 0.0)),
            tenants={
                name: _terms(f"tenant {name!r}", row) for name, row in _table("tenant", table.get("tenant", {})).items()
            },
            slices={
                name: _terms(f"slice {name!r}", row) for name, row in _table("slice", table.get("slice", {})).items()
            },
        )


def widen(policy: ServingPolicy) -> ServingPolicy:
    """The policy with the room that leases need, where it does not say how much there is.

    50 responses of a share (none of a share of 0), 100 means of a cost: between two exchanges nobody knows what the
    other processes spend. With 300 requests of each of four processes, a share of 30 % strays by 16 responses (one
    standard deviation). A narrower room holds as well, and loses value.

    Example:
        >>> policy = widen(ServingPolicy.from_dict({"budget": {"tokens": {"mean": 2000}, "long": "30%"}}))
        >>> [budget.overdraft for budget in policy.budgets]
        [200000.0, 50.0]
    """
    rows = [
        budget
        if budget.is_room_given or budget.is_counted_only or (budget.response_group and not budget.mean)
        else replace(budget, overdraft=(room := 50.0 if budget.response_group else 100 * budget.mean), burst=room)
        for budget in policy.budgets
    ]
    return replace(policy, budgets=tuple(rows))


def parse_budget_policies(texts: Iterable[str]) -> tuple[BudgetPolicy, ...]:
    """Read budgets as on the command line (`ibpo.budget`); overdraft, burst and overcommit are the defaults.

    Raises:
        IbpoError: Where a text is no budget, or a controller cannot hold it, with the reason and the fix.

    Example:
        >>> share, tokens = parse_budget_policies(["extended=30%", "tokens=2000"])
        >>> (share.mean, share.response_group), (tokens.mean, tokens.response_group)
        ((0.3, 'extended'), (2000.0, None))
    """
    budgets = [parse_budget(text) for text in texts]
    check_distinct(budgets)
    return tuple(_budget_policy(budget, f"--budget {budget}") for budget in budgets)


def _budget_policy(budget: Budget, where: str) -> BudgetPolicy:
    is_share = check_budget(budget, groups=None, refused=_REFUSED, where=where)
    group = budget.name if is_share else None
    return BudgetPolicy(name=budget.name, mean=float(budget.amount), response_group=group)


def read_policy(path: str | Path) -> ServingPolicy:
    """Read a serving policy from a TOML file: see `ServingPolicy.from_dict`.

    Raises:
        IbpoError: Names file and field.
    """
    table = read_toml(Path(path))
    try:
        return ServingPolicy.from_dict(table)
    except IbpoError as error:
        raise IbpoError(f"{path}: {error}") from None


LARGEST = sys.float_info.max
"""A larger whole number is refused."""
_NUMBERS = ("mean", "overdraft", "burst", "overcommit")
_RENAMED = {"carry": "burst", "cushion": "overcommit"}
"""Fields of budgets in files of earlier versions."""


def _terms(where: str, row: Any) -> TenantPolicy:
    row = _table(where, row)
    _check_keys(where, row, ("at_least", "at_most"))
    return TenantPolicy(
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
    if isinstance(value, int) and abs(value) > LARGEST:
        raise IbpoError(f"{where}: {key} is {show(value)}; give a number below 1e308")
    return float(value)


def _check_number(where: str, key: str, value: float) -> None:
    if not 0 <= value <= LARGEST:
        raise IbpoError(f"{where}: {key} is {show(value)}; it must be a finite number, at least 0")


def show(value: Any) -> str:
    """A value as an error names it: of a whole number that is larger than any float, how many digits it has.

    Example:
        >>> show(0.5), show(10**400), show(1 - 10**400)
        ('0.5', 'a number of 401 digits', 'a number of 400 digits')
    """
    if not isinstance(value, int) or abs(value) <= LARGEST:
        return repr(value)
    most = math.ceil(value.bit_length() * math.log10(2))
    return f"a number of {most - (abs(value) < 10 ** (most - 1))} digits"
