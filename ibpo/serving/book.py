"""The account books of a controller: what each account has spent, owes and holds. No prices here, only sums."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

TOTAL = "total"


class Tally:
    r"""One budget in one account: the total, a tenant or a slice. All in units of the budget's cost.

    With n requests counted (answered or under way), the bank is

        bank = mean n - spent - estimated - forfeited,

    `estimated` being the expected cost of what is under way. `cushion` is what the reserves of these lie above their
    estimates, and `held` (of the total only) what tenants and slices have been promised and have not used. What may
    still be spent is bank - held as far as expected costs go, and bank - cushion - held as far as reserves do.
    """

    __slots__ = (
        "bank",
        "cushion",
        "estimated",
        "forfeited",
        "held",
        "num_requests",
        "owed",
        "peak",
        "restarts",
        "returned",
        "spent",
        "unmet",
        "waiting",
    )

    def __init__(self) -> None:
        self.num_requests = 0
        """Answered or under way; cancelled ones are not counted."""
        self.spent = 0.0
        """Actual cost of what has ended."""
        self.estimated = 0.0
        """Expected cost of what is under way."""
        self.cushion = 0.0
        self.bank = 0.0
        self.held = 0.0
        self.owed = 0.0
        """What is in the bucket of the promise (`Terms.at_least`); negative after more than was promised."""
        self.forfeited = 0.0
        """Credit lost because more than `carry` was unspent."""
        self.unmet = 0.0
        """Promised credit that the total had no room for."""
        self.waiting = 0.0
        """What responses gave back that ended before others that had begun earlier: their kind is the short one."""
        self.peak = 0.0
        """Largest overdraft so far: spent and reserved beyond mean n."""
        self.restarts = 0
        """How often `waiting` was forgotten because a process that knew of it is gone: see `Ledger.restart`."""
        self.returned = 0.0
        """Part of the bank that ended responses gave back and that is let out slowly; at least 0."""

    @property
    def kept(self) -> float:
        """Part of the bank that is not to be spent yet: see `returned` and `waiting`; at least 0."""
        return self.returned + max(0.0, self.waiting)

    def room(self, overdraft: float, cushion: float) -> float:
        """What anybody may still use, as far as both expected costs and reserves go; may be negative."""
        left = self.bank - self.held + overdraft
        return min(left, left - self.cushion + cushion)

    def charge(self, estimate: float, reserve: float) -> None:
        """A response of this estimate begins, and `reserve` is kept ready for it."""
        self.bank -= estimate
        self.cushion += reserve - estimate
        self.estimated += estimate

    def discharge(self, estimate: float, reserve: float, actual: float) -> None:
        """A response has ended and cost `actual`."""
        self.bank += estimate - actual
        self.cushion -= reserve - estimate
        self.estimated -= estimate
        self.spent += actual

    def give_back(self, amount: float, most: float) -> None:
        """A response has ended that many units of cost cheaper than it was counted; negative: dearer."""
        self.returned = min(most, max(0.0, self.returned + amount))

    def close(self, overdraft: float, carry: float, cushion: float) -> None:
        """Lose the credit beyond `carry` that no reserve needs, and remember the largest overdraft."""
        excess = self.bank - self.held - self.kept - carry
        if excess > 0:
            excess = max(0.0, min(excess, self.room(overdraft, cushion)))
            self.bank -= excess
            self.forfeited += excess
        beyond = self.cushion - self.bank - self.forfeited
        if beyond > self.peak:
            self.peak = beyond

    def owe(self, amount: float, depth: float, room: float) -> float:
        """Move the promise's bucket by `amount` inside [-depth, depth]; its positive part grows by `room` at most.

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
        """The fields in alphabetical order."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def from_state(cls, values: list[float]) -> Tally:
        """The inverse of `state`."""
        tally = cls()
        for name, value in zip(cls.__slots__, values, strict=True):
            setattr(tally, name, value)
        return tally


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

    def state(self) -> list[Any]:
        """As a JSON list."""
        return list(self)

    @classmethod
    def from_state(cls, values: list[Any]) -> Reservation:
        """The inverse of `state`."""
        row: list[Any] = [tuple(value) if isinstance(value, list) else value for value in values]
        return cls(*row)


class Ended(NamedTuple):
    """What became of a reservation."""

    reservation: Reservation
    actual: tuple[float, ...]
    """Per budget: what it cost."""
    cancelled: bool
    """Whether it failed for good."""
    restarts: int
    """`Tally.restarts` when it ended."""


class Book(Protocol):
    """Where accounts and reservations are kept. All other methods are called inside `transaction`."""

    def transaction(self) -> AbstractContextManager[Any]:
        """Everything that happens inside is kept together, or not at all; other processes wait."""
        ...

    def tallies(self, account: str) -> list[Tally]:
        """The tallies of an account, one per budget, new where it is new; changes to them are kept."""
        ...

    def put(self, reservation: Reservation) -> None:
        """Keep a reservation."""
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


@dataclass
class MemoryBook:
    """A book in memory."""

    num_budgets: int
    accounts: dict[str, list[Tally]] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)

    def transaction(self) -> AbstractContextManager[Any]:
        """See `Book`; a controller checks a request before it changes anything."""
        return nullcontext()

    def tallies(self, account: str) -> list[Tally]:
        """See `Book`."""
        found = self.accounts.get(account)
        if found is None:
            found = self.accounts[account] = [Tally() for _ in range(self.num_budgets)]
        return found

    def put(self, reservation: Reservation) -> None:
        """See `Book`."""
        self.reservations[reservation.request_id] = reservation

    def get(self, request_id: str) -> Reservation | None:
        """See `Book`."""
        return self.reservations.get(request_id)

    def pop(self, request_id: str) -> Reservation | None:
        """See `Book`."""
        return self.reservations.pop(request_id, None)

    def older_than(self, time: float) -> list[str]:
        """See `Book`."""
        return [name for name, reservation in self.reservations.items() if reservation.time < time]

    def state(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "accounts": {name: [tally.state() for tally in tallies] for name, tallies in self.accounts.items()},
            "reservations": [reservation.state() for reservation in self.reservations.values()],
        }

    @classmethod
    def from_state(cls, num_budgets: int, state: dict[str, Any]) -> MemoryBook:
        """The inverse of `state`."""
        book = cls(num_budgets)
        for name, tallies in state["accounts"].items():
            book.accounts[name] = [Tally.from_state(values) for values in tallies]
        for values in state["reservations"]:
            book.put(Reservation.from_state(values))
        return book
