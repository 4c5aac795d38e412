"""The controller in an event loop: decides, and ends each reservation once, whatever happens to its request."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ibpo.errors import IbpoError
from ibpo.serving.controller import (
    PROHIBITIVE,
    QUOTA,
    AccountStore,
    Candidate,
    Controller,
    MemoryStore,
    ServingPolicy,
    StoreError,
    TokenBucket,
    end_lease,
)
from ibpo.serving.gateway.learning import Learner
from ibpo.serving.gateway.quotas import Quota, Quotas

Result = TypeVar("Result")
HISTORY_SECONDS = 5.0
HISTORY_LENGTH = 360
"""Points of the history: half an hour."""
SAVE_SECONDS = 30.0
"""Between two writings of the state."""
END_TRIES = 60
"""A second apart: how often the end of a reservation is tried while the store cannot be used."""
CLOSE_SECONDS = 30.0
GONE_SECONDS = 60.0
"""A lease that has not moved for so long, as this process sees it, is that of a process that is gone."""
PATIENCE_SECONDS = 1.0
"""Who has waited for longer behind a failure of the store shares it."""


class Clock(Protocol):
    """What the gateway counts days, months and ages by; Python's module `time` is one."""

    def time(self) -> float:
        """Seconds since 1970: which day and month it is."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, never set back: how long ago something was."""
        ...


class Keeper(Protocol):
    """What a process knows beside its accounts, and keeps over a restart."""

    def state_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        ...


@dataclass(kw_only=True, slots=True)
class OpenReservation:
    """What is kept ready for a request until `AsyncController.settle` or `cancel`; a second of them does nothing."""

    request_id: str
    response_group: str
    price: Mapping[str, float | None]
    """Budget -> gain that one unit of cost had to bring; None: no gain was enough."""
    balance: Mapping[str, float]
    """Budget -> what may still be spent; negative: overdrawn."""
    propensity: float = 1.0
    """With which probability the response group was chosen; below 1 where the policy explores."""
    quota_left: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Kind of each quota -> budget -> what of it is left, if all in flight costs what is expected."""
    used_up: Sequence[str] = ()
    """Kinds of the quotas that had no room for all response groups."""
    is_open: bool = field(default=True)


class AsyncController:
    """Holds a policy's budgets for one process.

    Without `state` the accounts are in memory, and every call takes some 0.1 ms in the event loop. A shared store waits
    for files, locks and other processes: it is asked from one thread of its own, so calls keep their order.

    Args:
        policy: The budgets, and what tenants and slices are promised.
        state: A SQLite file, `redis://...`, or None.
        name: Name of this process among those that share the store: its window of recent traffic is kept under it.
        stale_seconds: A reservation that is open for longer belongs to a process that is gone: it is settled as
            expected. One that is older when this process starts is at once, by the clock.
        on_failure: Called with what went wrong with the store.
        learner: Whose state is stored with the controller's.
        keepers: What else this process knows, by name, which is stored too.
        quotas: Says which accounts of sessions and of the calendar are over, and can be forgotten.
        clock: What days and ages are counted by; None: the machine's.
    """

    def __init__(
        self,
        policy: ServingPolicy,
        state: str | None = None,
        *,
        name: str = "gateway",
        stale_seconds: float = 7200.0,
        on_failure: Callable[[str], None] = lambda message: None,
        learner: Learner | None = None,
        keepers: Mapping[str, Keeper] | None = None,
        quotas: Quotas | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock: Clock = time if clock is None else clock
        self.policy, self.num_open, self.last_drift, self._learner = policy, 0, 0.0, learner
        self._keepers: dict[str, Keeper] = {**(keepers or {}), **({} if learner is None else {"learner": learner})}
        self._quotas = quotas
        self._counted = {budget.name for budget in policy.budgets if budget.is_counted_only}
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY_LENGTH)
        self._state, self._name, self._stale, self._on_failure = state, name, stale_seconds, on_failure
        self._names = [budget.name for budget in policy.budgets]
        self._thread = None if state is None else ThreadPoolExecutor(1, thread_name_prefix="ibpo-store")
        self._store: Any = None
        self._controller: Any = None
        self._pending: set[asyncio.Future[Any]] = set()
        self._is_closed = False
        self._num_retries = 0  # ends of reservations that are waiting to be tried again
        self._failure = -math.inf, ""  # when the store failed last, and how
        self._num_drifts = 0
        self._seen: dict[str, float] = {}  # open reservations, whosever they are: when they were first seen here
        self._began = self.clock.time() - self.clock.monotonic()  # the clock, as it was when this process began
        self._moved: dict[str, tuple[int, float]] = {}  # holder -> number of its last report, when it was first seen
        self._holder = ""  # whose lease is this process's own
        self._keeper: asyncio.Task[None] | None = None
        self.on_beat: Callable[[], None] = lambda: None
        """Called every five seconds, whether the store can be used or not."""

    async def open(self) -> None:
        """Open the store, and go on where this process stopped.

        Raises:
            IbpoError: The store cannot be used.
        """
        try:
            await self._run(self._open)
        except BaseException:
            self._controller = None  # half open is not open
            raise
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Wait for what is being written, and save the window and the prices."""
        if self._keeper is not None:
            self._keeper.cancel()
        give_up = time.monotonic() + CLOSE_SECONDS
        while (self._pending or self._num_retries) and time.monotonic() < give_up:
            if self._pending:
                await asyncio.wait(self._pending, timeout=1.0)
            else:
                await asyncio.sleep(0.05)
        self._is_closed = True  # what has not been booked by now stays reserved, until it is settled as expected
        try:
            await self._keep_state()
        except IbpoError as error:
            self._on_failure(str(error))
        if self._thread is not None:
            await self._run(self._store.close)
            self._thread.shutdown()

    async def decide(
        self,
        candidates: Sequence[Candidate],
        *,
        request_id: str,
        tenant: str,
        slice_name: str,
        num_requests: int = 1,
        quotas: Sequence[Quota] = (),
    ) -> OpenReservation:
        """Choose a response group and reserve its cost; see `Controller.decide`.

        Raises:
            IbpoError: The store cannot be used.
        """

        def decide() -> OpenReservation:
            controller: Controller = self._controller
            found = controller.decide(
                candidates,
                request_id=request_id,
                now=self.clock.time(),
                tenant=tenant,
                slice_name=slice_name,
                num_requests=num_requests,
                quotas={quota.account: quota.totals for quota in quotas},
            )
            return OpenReservation(
                request_id=request_id,
                response_group=found.response_group,
                price=dict(zip(self._names, map(_finite_price, found.price), strict=True)),
                balance={
                    name: balance
                    for name, balance in zip(self._names, controller.balances, strict=True)
                    if name not in self._counted
                },
                propensity=found.propensity,
                quota_left={quota.kind: self._left(quota) for quota in quotas if found.quotas},
                used_up=[quota.kind for quota in quotas if quota.account in controller.short_quotas],
            )

        if self._controller is None:
            raise StoreError("the store could not be opened")
        await self._make_room(candidates, num_requests)
        try:
            reservation = await self._act(decide)
        except asyncio.CancelledError:
            # The thread may have decided by now: its next task gives the reservation back.
            self._submit(lambda: self._controller.cancel(request_id), END_TRIES)
            raise
        self.num_open += 1
        return reservation

    def _left(self, quota: Quota) -> dict[str, float]:
        balances = dict(zip(self._names, self._controller.quota_balances.get(quota.account, ()), strict=False))
        return {name: total + balances.get(name, 0.0) for name, total in quota.totals.items()}

    def progress(
        self, reservation: OpenReservation, so_far: Mapping[str, float], expected: Mapping[str, float]
    ) -> None:
        """An answer in flight is longer than expected: see `Controller.progress`. Never waits, and is not repeated."""
        known, more = ({name: row[name] for name in self._names if name in row} for row in (so_far, expected))
        if reservation.is_open:
            self._submit(lambda: self._controller.progress(reservation.request_id, known, more), 1)

    def settle(self, reservation: OpenReservation, actual: Mapping[str, float] | None) -> None:
        """The answer has ended: charge what it cost, or what was expected where that is not known. Never waits."""
        known = {name: cost for name, cost in (actual or {}).items() if name in self._names}
        self._end(reservation, lambda: self._controller.settle(reservation.request_id, known))

    def cancel(self, reservation: OpenReservation, actual: Mapping[str, float] | None = None) -> None:
        """There was no answer: the request no longer counts, except what it cost nevertheless. Never waits."""
        known = {name: cost for name, cost in (actual or {}).items() if name in self._names}
        self._end(reservation, lambda: self._controller.cancel(reservation.request_id, known))

    def expect_change(self, response_group: str) -> None:
        """What is expected of its answers changes because it has been learned: see `Controller.expect_change`."""
        self._submit(lambda: self._controller.expect_change(response_group), 1)

    async def snapshot(self) -> dict[str, Any]:
        """Budgets, prices, tenants and alarms as they are now, for the page and the metrics."""
        return await self._run(self._snapshot)

    def _end(self, reservation: OpenReservation, act: Callable[[], Any]) -> None:
        if reservation.is_open:
            reservation.is_open = False
            self.num_open -= 1
            self._submit(act, END_TRIES)

    def _submit(self, act: Callable[[], Any], tries: int) -> None:
        """Do it now, or in the store's thread; while the store cannot be used, again every second."""
        if self._thread is None:
            act()
            return
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._in_turn(act))
        self._pending.add(future)

        def done(future: asyncio.Future[Any]) -> None:
            self._pending.discard(future)
            if future.cancelled() or future.exception() is None:
                return
            self._on_failure(str(future.exception()))
            if tries > 1:
                self._num_retries += 1
                asyncio.get_running_loop().call_later(1.0, again)

        def again() -> None:
            self._num_retries -= 1
            if not self._is_closed:
                self._submit(act, tries - 1)

        future.add_done_callback(done)

    def _in_turn(self, act: Callable[[], Result]) -> Callable[[], Result]:
        """As the store's thread does it: who has waited behind a failure of the store shares it.

        Each would wait as long for a store that is silent, one after the other, and callers for all before them.
        """
        asked = time.monotonic()

        def attempt() -> Result:
            when, why = self._failure
            if asked + PATIENCE_SECONDS < when:
                raise StoreError(why)
            try:
                return act()
            except StoreError as error:
                self._failure = time.monotonic(), str(error)
                raise

        return attempt

    async def _make_room(self, candidates: Sequence[Candidate], num_requests: int) -> None:
        """What has to be waited for before a decision: nothing, where the accounts are here."""

    async def _act(self, act: Callable[[], Result]) -> Result:
        """Do it where decisions are made."""
        return await self._run(act)

    async def _run(self, act: Callable[[], Result]) -> Result:
        """Do it where the store is used."""
        if self._thread is None:
            return act()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._in_turn(act))

    def _open(self) -> None:
        if self._state is None:
            self._store = MemoryStore(len(self.policy.budgets))
            self._controller = Controller(self.policy, self._store)
            return
        from ibpo.serving.stores import open_store

        store: Any = open_store(self._state, self._names)
        self._store = store
        accounts = self._accounts()
        saved = store.load_state(self._name)
        try:
            self._controller = Controller.from_state(self.policy, saved, accounts) if saved else None
        except IbpoError as error:
            self._on_failure(str(error))
        if self._controller is None:
            self._controller = Controller(self.policy, accounts)
            self._controller.recover()
        self._num_drifts = self._controller.num_drifts
        for name, keeper in self._keepers.items():
            known = store.load_state(f"{self._name} {name}")
            try:
                if known:
                    keeper.load_state(known)
            except IbpoError as error:
                self._on_failure(str(error))
        self._shared().expire(before=self.clock.time() - self._stale)

    def _shared(self) -> Controller:
        """Ends what others have left in the store."""
        return self._controller

    def _accounts(self) -> AccountStore:
        """The accounts by which is decided."""
        return self._store

    async def _keep_state(self) -> None:
        """Store what this process knows; each part is read where it changes, else it would while it is read."""
        if self._thread is None:
            return
        state = await self._act(self._controller.state_dict)
        known = {name: keeper.state_dict() for name, keeper in self._keepers.items()}
        await self._run(lambda: self._save(state, known))

    def _save(self, state: dict[str, Any] | None = None, known: Mapping[str, dict[str, Any]] | None = None) -> None:
        """Store the controller's state and the keepers', as they are now unless given."""
        if self._thread is None:
            return
        if known is None:
            known = {name: keeper.state_dict() for name, keeper in self._keepers.items()}
        self._store.save_state(self._name, self._controller.state_dict() if state is None else state)
        for name, row in known.items():
            self._store.save_state(f"{self._name} {name}", row)

    async def _keep(self) -> None:
        """Every five seconds a point of the history; every half minute the state, and what dead processes left."""
        saved = self.clock.monotonic()
        while True:
            try:
                self.on_beat()
                now = await self.snapshot()
                budgets = {row["name"]: [row["used"], row["price"]] for row in now["budgets"]}
                self.history.append({"time": now["time"], "budgets": budgets})
                # By the clock and not by a count of points: a test may let a day pass at once.
                if self.clock.monotonic() - saved >= SAVE_SECONDS:
                    saved = self.clock.monotonic()
                    await self._keep_state()
                    await self._run(self._forget)
                    expired = await self._run(self._expire)
                    if expired:
                        self._on_failure(f"{len(expired)} reservations of a process that is gone: settled")
            except Exception as error:  # a task that ends keeps nothing any more, and says nothing
                self._on_failure(str(error) if isinstance(error, IbpoError) else repr(error))
            await asyncio.sleep(HISTORY_SECONDS)

    def _forget(self) -> None:
        """Remove the accounts of sessions that are idle, and of hours, days and months that are over.

        By the earlier of two clocks: one that is set forward must not give back to anybody what was spent.
        """
        now = min(self.clock.time(), self._began + self.clock.monotonic())
        for prefix, before in () if self._quotas is None else self._quotas.forgotten(now, 2 * self._stale):
            self._controller.forget(prefix, before)

    def _expire(self) -> list[str]:
        """Settle as expected what has been open for longer than any answer takes.

        That is how long this process has seen it, not the time stored with it: a clock that is set, here or on another
        machine, ends nothing that is in flight, and keeps nothing reserved.
        """
        now, open_now, shared = self.clock.monotonic(), self._store.older_than(math.inf), self._shared()
        self._seen = {name: self._seen.get(name, now) for name in open_now}
        gone = [name for name, since in self._seen.items() if now - since > self._stale]
        settled = [name for name in gone if shared.settle(name)]
        return settled if isinstance(self._store, MemoryStore) else settled + self._end_leases(now)

    def _end_leases(self, now: float) -> list[str]:
        """End the leases of processes that are gone, and count them as spent.

        Also where this process has none: it may come after one that had.
        """
        with self._store.transaction():
            found = {holder: lease["number"] for holder, lease in self._store.leases().items()}
        self._moved = {
            holder: self._moved[holder] if self._moved.get(holder, (-1, now))[0] == number else (number, now)
            for holder, number in found.items()
        }
        gone = [name for name, (_, since) in self._moved.items() if name != self._holder and now - since > GONE_SECONDS]
        return [holder for holder in gone if end_lease(self._store, holder, now=self.clock.time(), spent=True)]

    def _calendar(self, now: float) -> list[dict[str, Any]]:
        """What the current hour, day and month have cost."""
        rows: list[dict[str, Any]] = []
        begins = {} if self._quotas is None else self._quotas.begins(now)
        for quota, end in [] if self._quotas is None else self._quotas.current(now):
            with self._store.transaction():
                buckets = dict(zip(self._names, self._store.buckets(QUOTA + quota.account), strict=True))
            rows += [
                {
                    "period": quota.kind,
                    "budget": name,
                    "total": total,
                    "spent": buckets[name].spent,
                    "in_flight": max(0.0, round(buckets[name].estimated, 9)),
                    "num_requests": buckets[name].num_requests,
                    "begins": begins[quota.kind],
                    "ends": end,
                }
                for name, total in quota.totals.items()
            ]
        return rows

    def _part(self, account: str, rows: Sequence[TokenBucket]) -> dict[str, Any]:
        """A tenant's or a slice's part of the traffic, and what it is promised and allowed."""
        bounds, names = self._controller.bounds_of(account), self._names
        return {
            "name": account.partition(" ")[2],
            "num_requests": rows[0].num_requests,
            "used": dict(zip(names, map(_mean_cost, rows), strict=True)),
            "spent": {name: row.spent for name, row in zip(names, rows, strict=True)},
            "in_flight": {name: max(0.0, round(row.estimated, 9)) for name, row in zip(names, rows, strict=True)},
            "balance": {name: row.balance for name, row in zip(names, rows, strict=True)},
            "at_most": {name: _bound(value) for name, value in zip(names, bounds.at_most, strict=True)},
            "overdraft": {name: _bound(value) for name, value in zip(names, bounds.overdraft, strict=True)},
            "at_least": dict(zip(names, bounds.at_least, strict=True)),
            "unmet": {name: row.unmet for name, row in zip(names, rows, strict=True)},
        }

    def _snapshot(self) -> dict[str, Any]:
        controller, budgets = self._controller, self.policy.budgets
        accounts = self._store.accounts if isinstance(self._store, MemoryStore) else self._store.accounts()
        now = self.clock.time()
        if controller.num_drifts > self._num_drifts:
            self._num_drifts, self.last_drift = controller.num_drifts, now
        total = accounts.get("total") or [TokenBucket() for _ in budgets]
        return {
            "time": now,
            "budgets": [
                {
                    "name": budget.name,
                    "mean": budget.mean,
                    "is_share": budget.response_group is not None,
                    "used": _mean_cost(account),
                    "num_requests": account.num_requests,
                    "spent": account.spent,
                    "in_flight": max(0.0, round(account.estimated, 9)),  # sums of floats
                    "balance": account.balance,
                    "held": account.held,
                    "overdraft": overdraft,
                    "burst": overdraft if budget.burst is None else budget.burst,
                    "largest_overdraft": account.peak,
                    "price": _finite_price(price),
                }
                for budget, account, price, overdraft in zip(
                    budgets, total, controller.prices, controller.overdraft, strict=True
                )
                if not budget.is_counted_only
            ],
            "calendar": self._calendar(now),
            "tenants": [
                self._part(name, rows) for name, rows in sorted(accounts.items()) if name.startswith("tenant ")
            ],
            "slices": [self._part(name, rows) for name, rows in sorted(accounts.items()) if name.startswith("slice ")],
            "corrections": {
                group: dict(zip(self._names, ratios, strict=True)) for group, ratios in controller.corrections.items()
            },
            "num_in_flight": self.num_open,
            "num_over": controller.num_over,
            "num_drifts": controller.num_drifts,
            "last_drift": self.last_drift,
            "cautions": [*controller.cautions(), *([] if self._learner is None else self._learner.cautions())],
        }


def _bound(value: float) -> float | None:
    """A bound for JSON; None: there is none."""
    return value if value < math.inf else None


def _finite_price(price: float) -> float | None:
    """A price for others to see; None: no gain is enough."""
    return price if price < PROHIBITIVE else None


def _mean_cost(account: TokenBucket) -> float:
    """Per request, what is expected of those in flight included."""
    return (account.spent + account.estimated) / max(1, account.num_requests)
