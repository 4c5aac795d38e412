r"""Many processes on one budget: each spends a part of it that it has leased, without asking for every request.

A process keeps accounts of its own in memory, and decides there. For every account with a bound (the total, the
ceilings of tenants and slices) it holds a *lease*, the room R_i that it may use up: what its requests bring is added to
it, what they cost is taken out. A few times a second it exchanges with the shared accounts, in one transaction: it
reports what has changed, gives back what it has too much of, and takes what it has too little of.

Letters: for one account and budget, b the mean, B the balance of the shared account (b n - spent - estimated -
forfeited, of all that has been reported), R_i the lease of process i as of its last report, `overdraft` the largest in
force. A process admits by its own accounts as if R_i were all that there is: the conditions of
`ibpo.serving.controller.admission.Admission` with R_i, less what is held for promises, in the place of E + room.

**Theorem.** At any time, whatever the processes do, however long one is paused or the shared accounts are out of reach,

    spent + reserved - b n  <=  overdraft + sum_i excess_i + slip + backed

over all processes, where excess_i, slip and backed are those of each process's own theorem, summed: its inequality (2).
There is no counterpart of (1): the allowance A (`overcommit`) is not divided among processes, so policies with one are
not leased (`ibpo.serving.gateway.leased_controller.make_controller`).

*Proof.* An exchange keeps sum_i R_i <= B + overdraft: (a) a report adds the same amount to B and to R_i; (b) credit is
forfeited only as far as B + overdraft - sum_i R_i is positive; (c) a lease grows by no more than that; (d) what is
given back has not been usable since before the report was made. A process's own theorem says that since its last report
it has spent and reserved at most R_i + excess_i + slip_i + backed_i beyond b times its requests. Summed, with what has
been reported: spent + reserved - b n <= -B - forfeited + sum_i (R_i + excess_i + slip_i + backed_i): the claim.
A process may report more than it had leased, by its excess; a lease that ends below 0 so leaves sum_i R_i above
B + overdraft, by no more than the excess that the claim counts, and nothing is lent until that is made up for.

**A process that is gone.** Whoever sees that a lease has not moved for long enough, by its own clock, ends it: the
lease counts as spent (its process may have used it up since its last report), and what was in flight as it was
expected. A process that was only paused finds its lease ended at its next exchange; that is taken back, and it goes on.
The bound needs neither: value is lost, at most R_i for each crash.

**When it is not known whether an exchange was stored** (the connection broke at its end), the next one finds out by the
number of the last report that the lease holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ibpo.serving.controller.accounts import TOTAL, AccountStore, MemoryStore, TokenBucket
from ibpo.serving.controller.admission import Admission

MOVED = ("balance", "overcommitted", "estimated", "forfeited", "num_requests", "returned", "spent", "unmet", "waiting")
"""Fields of a bucket that are reported as differences; promises (`owed`, `held`) stay in each process."""
IN_FLIGHT = ("estimated", "overcommitted", "waiting")
"""Those of them that a process takes with it when it is gone."""
REMEMBER_SECONDS = 7 * 86400.0
"""How long the lease of a process that is gone is remembered, should it come back."""


class LeaseStore(AccountStore, Protocol):
    """Shared accounts that also know who leases what. All is called inside `transaction`."""

    def leases(self) -> dict[str, dict[str, Any]]:
        """All leases, by the holder's name."""
        ...

    def put_lease(self, holder: str, lease: dict[str, Any] | None) -> None:
        """Store a lease; None: there is none any more."""
        ...


@dataclass(kw_only=True, slots=True)
class Report:
    """What a process tells the shared accounts, and what it offers them, by account and budget. It crosses threads."""

    holder: str
    number: int
    """1, 2, ...: of this holder's reports."""
    moved: dict[str, list[list[float]]] = field(default_factory=dict)
    """The differences of `MOVED` since the last report."""
    keeps: dict[str, list[float]] = field(default_factory=dict)
    """What the process goes on with until the answer: the rest of its lease is offered."""
    in_flight: dict[str, list[list[float]]] = field(default_factory=dict)
    """`IN_FLIGHT`, of this process."""
    overdraft: dict[str, list[float]] = field(default_factory=dict)
    """In force; infinite: the account has no bound."""
    burst: dict[str, list[float]] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Grant:
    """The answer."""

    number: int
    values: dict[str, list[list[float]]]
    """`MOVED` of the shared accounts as they are now."""
    room: dict[str, list[float]]
    """R_i from now on."""
    num_holders: int


def exchange(store: LeaseStore, report: Report, *, now: float) -> Grant:
    """Book a report, and settle what its process may use from now on: one transaction.

    Args:
        store: The shared accounts.
        report: A report from `Leaseholder.report`.
        now: Seconds since 1970; only for how long ended leases are remembered.
    """
    with store.transaction():
        leases = store.leases()
        for holder, row in leases.items():
            if row["ended"] and now - row["ended"] > REMEMBER_SECONDS:
                store.put_lease(holder, None)
        lease = leases.get(report.holder)
        if lease is not None and lease["ended"]:
            _count_as_spent(store, lease, sign=-1)
        num_holders = sum(not row["ended"] for holder, row in leases.items() if holder != report.holder) + 1
        found = {account: store.buckets(account) for account in report.moved}
        if lease is not None and lease["number"] == report.number:  # it had been stored after all
            granted = lease["room"]
            store.put_lease(report.holder, {**lease, "ended": 0.0})
        else:
            lent = {} if lease is None else lease["room"]
            granted = {
                account: [
                    _exchange_one(
                        bucket,
                        report.moved[account][k],
                        lent=lent[account][k] if account in lent else 0.0,
                        keeps=report.keeps[account][k],
                        overdraft=report.overdraft[account][k],
                        burst=report.burst[account][k],
                        num_holders=num_holders,
                    )
                    for k, bucket in enumerate(buckets)
                ]
                for account, buckets in found.items()
            }
            row = {"number": report.number, "room": granted, "in_flight": report.in_flight, "ended": 0.0}
            store.put_lease(report.holder, row)
        values = {
            account: [[getattr(bucket, name) for name in MOVED] for bucket in buckets]
            for account, buckets in found.items()
        }
    return Grant(number=report.number, values=values, room=granted, num_holders=num_holders)


def _exchange_one(
    bucket: TokenBucket,
    moved: Sequence[float],
    *,
    lent: float,
    keeps: float,
    overdraft: float,
    burst: float,
    num_holders: int,
) -> float:
    """One account, one budget; returns R_i from now on."""
    for name, difference in zip(MOVED, moved, strict=True):
        setattr(bucket, name, getattr(bucket, name) + difference)
    bucket.returned = max(0.0, bucket.returned)
    if overdraft == math.inf:  # there is no bound: nothing to lease
        return 0.0
    room = lent + moved[0]
    bucket.held += moved[0]  # (a); `held` is the sum of all leases
    free = bucket.balance + overdraft - bucket.held
    # (b) credit beyond the burst, as far as nobody holds it
    excess = min(bucket.balance - burst - bucket.deferred, free)
    if excess > 0:
        bucket.balance -= excess
        bucket.forfeited += excess
        free -= excess
    # Each holder the same part of what there is.
    fair = max(0.0, (bucket.balance + overdraft) / num_holders)
    more = min(fair - room, max(0.0, free))  # (c)
    now = room + more if room <= fair else max(fair, min(room, keeps))  # (d)
    bucket.held += now - room
    beyond = bucket.overcommitted - bucket.balance - bucket.forfeited
    bucket.peak = max(bucket.peak, beyond)
    return now


def end_lease(store: LeaseStore, holder: str, *, now: float, spent: bool) -> bool:
    """End a lease: what was in flight counts as it was expected.

    Args:
        store: The shared accounts.
        holder: Whose.
        now: Seconds since 1970.
        spent: Whether the lease counts as spent, as its process is gone and may have used it up since its last report;
            it is remembered, should the process come back. Otherwise it is given back.

    Returns:
        False: it had none.
    """
    with store.transaction():
        lease = store.leases().get(holder)
        if lease is None or lease["ended"]:
            return False
        _count_as_spent(store, lease, sign=1)
        if not spent:
            for account, rooms in lease["room"].items():
                for bucket, lent in zip(store.buckets(account), rooms, strict=True):
                    bucket.balance += lent
                    bucket.forfeited -= lent
        store.put_lease(holder, {**lease, "ended": now} if spent else None)
    return True


def _count_as_spent(store: LeaseStore, lease: dict[str, Any], *, sign: int) -> None:
    """Count a lease as spent (1), or no longer (-1)."""
    for account, rooms in lease["room"].items():
        for bucket, lent, (estimated, overcommitted, waiting) in zip(
            store.buckets(account), rooms, lease["in_flight"][account], strict=True
        ):
            bucket.spent += sign * estimated
            bucket.estimated -= sign * estimated
            bucket.overcommitted -= sign * overcommitted
            bucket.waiting -= sign * waiting
            bucket.held -= sign * lent
            bucket.balance -= sign * lent
            bucket.forfeited += sign * lent


class Leaseholder:
    """The side of one process: what it reports, and what it does with the answer. Not for several threads.

    Args:
        holder: A name that no other process has had: a lease belongs to one life of a process.
        store: The process's own accounts; nothing may be spent in them before the first answer.
        admission: Admission to the same accounts.
    """

    def __init__(self, holder: str, store: MemoryStore, admission: Admission) -> None:
        self.holder, self._store, self._admission = holder, store, admission
        self.num_holders = 1
        """Processes that had a lease when the last answer came."""
        self._last = Report(holder=holder, number=0)  # the last one that was answered
        self._pending: Report | None = None  # sent, and not known to be stored
        self._snapshot: dict[str, list[list[float]]] = {}  # account -> per budget MOVED when it was written
        self._known: dict[str, list[list[float]]] = {}  # the same as of the last answer
        self._room: dict[str, list[float]] = {}  # account -> per budget R_i as of the last answer
        self._offered: dict[str, list[float]] = {}  # account -> per budget what the pending report offers of it
        store.new_away = math.inf
        store.buckets(TOTAL)  # leased from the first report on
        for buckets in store.accounts.values():
            for bucket in buckets:
                bucket.away = math.inf
        admission.on_overdraft = self._hold_back

    def room_of(self, account: str, k: int) -> float:
        """R_i now; 0: nothing has been leased yet."""
        bucket = self._store.buckets(account)[k]
        if account not in self._room:
            return 0.0
        return self._room[account][k] + bucket.balance - self._known[account][k][0]

    def is_short(self, costs: Sequence[float]) -> bool:
        """Whether the lease has no room for costs `[K]` in the total, while other processes may have."""
        return any(
            cost > 0 and bucket.away > 0 and cost > bucket.balance - bucket.held - bucket.away + overdraft
            for cost, bucket, overdraft in zip(
                costs, self._store.buckets(TOTAL), self._admission.bounds_of(TOTAL).overdraft, strict=True
            )
        )

    def report(self) -> Report:
        """What has changed since the last answer; after a failure the same once more.

        Until `take` the room that it offers is not used.
        """
        if self._pending is not None:
            return self._pending
        report = Report(holder=self.holder, number=self._last.number + 1)
        for account, buckets in self._store.accounts.items():
            bounds = self._admission.bounds_of(account)
            now = [[getattr(bucket, name) for name in MOVED] for bucket in buckets]
            known = self._known.get(account) or [[0.0] * len(MOVED) for _ in buckets]
            moved = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(now, known, strict=True)]
            was = self._last.in_flight.get(account) or [[0.0] * len(IN_FLIGHT) for _ in buckets]
            report.in_flight[account] = [
                [value + row[MOVED.index(name)] for name, value in zip(IN_FLIGHT, old, strict=True)]
                for old, row in zip(was, moved, strict=True)
            ]
            self._snapshot[account], report.moved[account] = now, moved
            report.overdraft[account] = [
                room if mean < math.inf else math.inf
                for room, mean in zip(bounds.overdraft, bounds.at_most, strict=True)
            ]
            report.burst[account] = list(bounds.burst)
            rooms = [self.room_of(account, k) for k in range(len(buckets))]
            # Nothing is offered of the last fair part, or at least of what is held for promises.
            report.keeps[account] = [
                max(bucket.held, (bucket.balance + overdraft) / self.num_holders)
                for bucket, overdraft in zip(buckets, report.overdraft[account], strict=True)
            ]
            report.keeps[account] = list(map(min, rooms, report.keeps[account]))
            self._offered[account] = [room - kept for room, kept in zip(rooms, report.keeps[account], strict=True)]
        self._pending = report
        self._hold_back()
        return report

    def take(self, grant: Grant) -> None:
        """Go on with the shared accounts as they are now, and with what has happened here since the report."""
        assert self._pending is not None and grant.number == self._pending.number
        self._last, self._pending, self.num_holders = self._pending, None, grant.num_holders
        self._room = grant.room
        self._known = grant.values
        for account, values in grant.values.items():
            for bucket, new, then in zip(self._store.buckets(account), values, self._snapshot[account], strict=True):
                for name, shared, before in zip(MOVED, new, then, strict=True):
                    setattr(bucket, name, shared + (getattr(bucket, name) - before))
        self._hold_back()

    def _hold_back(self) -> None:
        """Set what may not be used here: all but the lease, and but for what is being offered."""
        for account, buckets in self._store.accounts.items():
            rooms = self._room.get(account)
            overdraft = self._admission.bounds_of(account).overdraft
            for k, bucket in enumerate(buckets):
                if rooms is None:
                    bucket.away = math.inf
                    continue
                # balance + overdraft - away = R_i
                bucket.away = self._known[account][k][0] + overdraft[k] - rooms[k]
                if self._pending is not None and account in self._offered:
                    bucket.away += self._offered[account][k]
