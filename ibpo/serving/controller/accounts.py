"""The accounts of a controller: what each has spent, owes and keeps ready. No prices here, only sums."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, NamedTuple, Protocol

from ibpo.errors import IbpoError

TOTAL = "total"
"""Name of the account of all requests."""
QUOTA = "quota "
"""How the names of accounts with a total of their own begin: see `Controller.decide`."""


class StoreError(IbpoError):
    """Shared accounts cannot be used, now: a server that is gone or silent, a file that is locked, a full disk."""


class TokenBucket:
    r"""One budget in one account: the total, a tenant or a slice. All in units of the budget's cost.

    With n requests counted (answered or in flight), the balance is

        balance = mean n - spent - estimated - forfeited,

    `estimated` being the expected cost of what is in flight. `overcommitted` is by how much the reserves of what is in
    flight exceed their estimates, and `held` (of the total only) what tenants and slices have been promised and have
    not used. What may still be spent is balance - held as far as expected costs go, and
    balance - overcommitted - held as far as reserves do. Without a bound there is nothing to owe: the balance is
    -estimated, and a bound that comes later counts from then on.
    """

    # In this order they are stored (`state`): files of earlier versions are read by it.
    FIELDS = (
        *("balance", "overcommitted", "estimated", "forfeited", "held", "num_requests", "owed"),
        *("peak", "restarts", "returned", "spent", "unmet", "waiting"),
    )
    __slots__ = (*FIELDS, "away")

    def __init__(self) -> None:
        self.num_requests = 0
        """Answered or in flight; cancelled ones are not counted."""
        self.spent = 0.0
        """Actual cost of what has ended."""
        self.estimated = 0.0
        """Expected cost of what is in flight."""
        self.overcommitted = 0.0
        self.balance = 0.0
        """What may be spent now; negative: overdrawn."""
        self.held = 0.0
        self.away = 0.0
        """Part of the room that other processes have leased, so that it may not be used here; not stored: see
        `ibpo.serving.controller.leases`."""
        self.owed = 0.0
        """The promise's own balance (`TenantPolicy.at_least`); negative after more than was promised."""
        self.forfeited = 0.0
        """Credit lost because more than `burst` was unspent."""
        self.unmet = 0.0
        """Promised credit that the total had no room for."""
        self.waiting = 0.0
        """What responses gave back that ended before others that had begun earlier: those that end first are short."""
        self.peak = 0.0
        """Largest overdraft so far: spent and reserved beyond mean n."""
        self.restarts = 0
        """How often `waiting` was forgotten because a process that knew of it is gone: see `Admission.restart`."""
        self.returned = 0.0
        """Part of the balance that ended responses gave back and that is released slowly; at least 0."""

    @property
    def deferred(self) -> float:
        """Part of the balance that must not be spent yet: see `returned` and `waiting`; at least 0."""
        return self.returned + max(0.0, self.waiting)

    def room(self, overdraft: float, overcommit: float) -> float:
        """What anybody may still use, as far as both expected costs and reserves go; may be negative."""
        left = self.balance - self.held - self.away + overdraft
        return min(left, left - self.overcommitted + overcommit)

    def give_back(self, amount: float, most: float) -> None:
        """A response has ended, by `amount` cheaper than it was counted; negative: more expensive."""
        returned = self.returned + amount
        self.returned = most if returned > most else returned if returned > 0.0 else 0.0

    def forfeit(self, overdraft: float, burst: float, overcommit: float) -> None:
        """Lose the credit beyond `burst` that no reserve needs, except what is deferred."""
        excess = self.balance - self.held - self.away - burst - self.deferred
        if excess > 0:
            excess = max(0.0, min(excess, self.room(overdraft, overcommit)))
            self.balance -= excess
            self.forfeited += excess

    def owe_nothing(self) -> None:
        """There is no bound on this account: what has been spent is no debt."""
        self.balance = 0.0 - self.estimated

    def owe(self, amount: float, depth: float, room: float) -> float:
        """Move the promise's balance by `amount` inside [-depth, depth]; its positive part grows by `room` at most.

        Returns:
            By how much the positive part has grown: what has to be held.
        """
        before = max(0.0, self.owed)
        after = min(depth, max(-depth, self.owed + amount))
        if after > before + room:
            self.unmet += after - before - room
            after = before + room
        self.owed = after
        return max(0.0, after) - before

    def state(self) -> list[float]:
        """The fields in the order of `FIELDS`."""
        return [getattr(self, name) for name in self.FIELDS]

    @classmethod
    def from_state(cls, values: list[float]) -> TokenBucket:
        """The inverse of `state`."""
        bucket = cls()
        for name, value in zip(cls.FIELDS, values, strict=True):
            setattr(bucket, name, value)
        return bucket


class Reservation(NamedTuple):
    """The response group of one request, and what is kept ready for it until `settle` or `cancel`."""

    request_id: str
    response_group: str
    price: tuple[float, ...]
    """Per budget: gain that one unit of cost had to bring for this request."""
    estimate: tuple[float, ...]
    """Per budget: expected cost, corrected by what earlier responses cost."""
    reserve: tuple[float, ...]
    """Per budget: what is kept ready, at least the estimate."""
    raw: tuple[float, ...]
    """Per budget: the caller's estimate."""
    time: float
    tenant: str
    slice_name: str
    within: bool
    """Whether every bound had room; False: no response group had, and this one overdraws least."""
    num_requests: int = 1
    """As how many requests it counts: of that many all costs are the sum."""
    propensity: float = 1.0
    """With which probability this response group was chosen: below 1 only where the policy explores."""
    quotas: tuple[str, ...] = ()
    """The accounts with a total of their own that it is booked in: see `Controller.decide`."""
    credit: tuple[tuple[float, ...], ...] = ()
    """Per account without a total of its own, and per budget: what each of its requests brought to the balance. If it
    fails, so much is taken back, whatever the policy says by then. (): as the policy says (of earlier versions)."""
    promised: tuple[tuple[float, ...], ...] = ()
    """The same of what each brought to the account's promise; (): nothing was promised."""

    def state(self) -> list[Any]:
        """As a JSON list; what is as usual at its end is left out, as earlier versions write it."""
        values, usual = list(self), (1, 1.0, (), (), ())
        for value in reversed(usual):
            if values[-1] != value:
                break
            values.pop()
        return values

    @classmethod
    def from_state(cls, values: list[Any]) -> Reservation:
        """The inverse of `state`."""
        row: list[Any] = [tuple(value) if isinstance(value, list) else value for value in values]
        for place in range(_CREDIT, len(row)):
            row[place] = tuple(map(tuple, row[place]))
        return cls(*row)


_CREDIT = Reservation._fields.index("credit")


class Ended(NamedTuple):
    """What became of a reservation."""

    reservation: Reservation
    actual: tuple[float, ...]
    """Per budget: what it cost."""
    cancelled: bool
    """Whether it failed permanently."""
    restarts: int
    """`TokenBucket.restarts` when it ended."""


class AccountStore(Protocol):
    """Where accounts and reservations are stored. All other methods are called inside `transaction`."""

    def transaction(self) -> AbstractContextManager[Any]:
        """Everything that happens inside is kept together, or not at all; other processes wait."""
        ...

    def buckets(self, account: str) -> list[TokenBucket]:
        """The buckets of an account, one per budget, new where it is new; changes to them are stored."""
        ...

    def put(self, reservation: Reservation) -> None:
        """Store a reservation."""
        ...

    def get(self, request_id: str) -> Reservation | None:
        """The reservation that is open under this id."""
        ...

    def pop(self, request_id: str) -> Reservation | None:
        """Remove and return it."""
        ...

    def older_than(self, time: float) -> list[str]:
        """Ids of the reservations made before `time`."""
        ...

    def touch(self, account: str, time: float) -> None:
        """Note when an account was used: only such accounts can be forgotten."""
        ...

    def forget(self, prefix: str, before: float) -> int:
        """Remove the accounts that begin so and were touched last before this time; how many they are."""
        ...


@dataclass
class MemoryStore:
    """Accounts in memory, for one process."""

    num_budgets: int
    accounts: dict[str, list[TokenBucket]] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    new_away: float = 0.0
    """`TokenBucket.away` of a new account: infinite where nothing may be spent before it is leased."""
    touched: dict[str, float] = field(default_factory=dict)
    """Account -> when it was used last, of those that can be forgotten; the one that was used last at the end."""
    _lock: AbstractContextManager[Any] = field(default_factory=RLock, init=False, repr=False, compare=False)

    def transaction(self) -> AbstractContextManager[Any]:
        """See `AccountStore`; other threads wait. A controller checks a request before it changes anything."""
        return self._lock

    def buckets(self, account: str) -> list[TokenBucket]:
        """See `AccountStore`."""
        found = self.accounts.get(account)
        if found is None:
            found = self.accounts[account] = [TokenBucket() for _ in range(self.num_budgets)]
            for bucket in found:
                bucket.away = self.new_away
        return found

    def put(self, reservation: Reservation) -> None:
        """See `AccountStore`."""
        self.reservations[reservation.request_id] = reservation

    def get(self, request_id: str) -> Reservation | None:
        """See `AccountStore`."""
        return self.reservations.get(request_id)

    def pop(self, request_id: str) -> Reservation | None:
        """See `AccountStore`."""
        return self.reservations.pop(request_id, None)

    def older_than(self, time: float) -> list[str]:
        """See `AccountStore`."""
        return [name for name, reservation in self.reservations.items() if reservation.time < time]

    def touch(self, account: str, time: float) -> None:
        """See `AccountStore`."""
        self.touched.pop(account, None)
        self.touched[account] = time

    def forget(self, prefix: str, before: float) -> int:
        """See `AccountStore`."""
        gone = [name for name, time in self.touched.items() if time < before and name.startswith(prefix)]
        for name in gone:
            del self.touched[name]
            self.accounts.pop(name, None)
        return len(gone)

    def state(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "accounts": {name: [bucket.state() for bucket in buckets] for name, buckets in self.accounts.items()},
            "reservations": [reservation.state() for reservation in self.reservations.values()],
            "touched": self.touched,
        }

    @classmethod
    def from_state(cls, num_budgets: int, state: dict[str, Any]) -> MemoryStore:
        """The inverse of `state`."""
        store = cls(num_budgets)
        for name, buckets in state["accounts"].items():
            store.accounts[name] = [TokenBucket.from_state(values) for values in buckets]
        for values in state["reservations"]:
            store.put(Reservation.from_state(values))
        store.touched = dict(state.get("touched", {}))
        return store
