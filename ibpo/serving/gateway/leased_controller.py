"""The controller of one of many processes that share a budget by leases: decisions ask nobody.

`AsyncController` on a shared store makes a transaction of each decision. Here a process decides by accounts of its own,
within a lease of the shared ones (`ibpo.serving.controller.leases` has the theorem), and exchanges a few times a
second, in the store's thread. Where the lease has no room for a response while others may have some, one exchange is
waited for, at most `WAIT_SECONDS` and not more often than each `LEAST_SECONDS`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ibpo.errors import IbpoError
from ibpo.serving.controller import (
    AccountStore,
    Candidate,
    Controller,
    MemoryStore,
    ServingPolicy,
    end_lease,
    exchange,
    widen,
)
from ibpo.serving.gateway.async_controller import AsyncController, Clock, Keeper
from ibpo.serving.gateway.learning import Learner
from ibpo.serving.gateway.quotas import Quotas

LEAST_SECONDS = 0.02
"""Between two exchanges that decisions wait for."""
WAIT_SECONDS = 0.05
"""Longest wait of a decision: a store that is slow, or gone, delays nobody."""


class LeasedController(AsyncController):
    """Holds a policy's budgets for one process of many.

    Args:
        policy: The budgets. Where one does not say how much room it has, it gets what leases need (`widen`).
        state: A SQLite file or `redis://...`, shared by all processes.
        seconds: Between two exchanges.
        name: Name of this process: its window of recent traffic is kept under it.
        stale_seconds: After which reservations are settled that a process without a lease, now gone, has left open.
        on_failure: Called with what went wrong with the store.
        learner: Whose state is stored with the controller's.
        keepers: What else this process knows, by name, which is stored too.
        clock: As for `AsyncController`.
    """

    def __init__(
        self,
        policy: ServingPolicy,
        state: str,
        *,
        seconds: float = 0.25,
        name: str = "gateway",
        stale_seconds: float = 7200.0,
        on_failure: Callable[[str], None] = lambda message: None,
        learner: Learner | None = None,
        keepers: Mapping[str, Keeper] | None = None,
        clock: Clock | None = None,
    ) -> None:
        more: dict[str, Any] = {"on_failure": on_failure, "learner": learner, "keepers": keepers, "clock": clock}
        super().__init__(widen(policy), state, name=name, stale_seconds=stale_seconds, **more)
        self.num_exchanges = 0
        self._seconds = seconds
        self._holder = f"{name} {secrets.token_hex(8)}"
        self._local = MemoryStore(len(policy.budgets))
        self._lease: Any = None
        self._exchanging: asyncio.Task[None] | None = None
        self._exchanged = -math.inf
        self._is_reachable = True
        self._said: set[str] = set()  # why it is not
        self._loop: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the store, and take a first lease."""
        await super().open()
        self._lease = self._controller.lease(self._holder)
        await self.exchange()
        self._loop = asyncio.get_running_loop().create_task(self._exchange_often())

    async def close(self) -> None:
        """Give the lease back, and save the window and the prices."""
        if self._loop is not None:
            self._loop.cancel()
        if self._exchanging is not None:  # its report was made before what has happened since
            await asyncio.wait([self._exchanging])
        await self.exchange()
        try:
            if self._is_reachable:
                await self._run(lambda: end_lease(self._store, self._holder, now=self.clock.time(), spent=False))
        except IbpoError as error:
            self._on_failure(f"leases: {error}; what is left of the lease counts as spent")
        await super().close()

    async def _make_room(self, candidates: Sequence[Candidate], num_requests: int) -> None:
        """Exchange first, where the lease has no room for a candidate and other processes may have some."""
        if self._is_reachable and self._lease.is_short(self._largest(candidates, num_requests)):
            now = time.monotonic()
            if self._exchanging is not None or now - self._exchanged >= LEAST_SECONDS:
                await asyncio.wait([self._begin_exchange()], timeout=WAIT_SECONDS)

    async def exchange(self) -> None:
        """Report what has happened, and take what may be spent; the lease goes on as it is where that fails."""
        await asyncio.wait([self._begin_exchange()])

    def _begin_exchange(self) -> asyncio.Task[None]:
        """The exchange that has begun, or a new one."""
        if self._exchanging is None:
            self._exchanging = asyncio.get_running_loop().create_task(self._exchange())
        return self._exchanging

    async def _exchange(self) -> None:
        report = self._lease.report()
        try:
            grant = await self._run(lambda: exchange(self._store, report, now=self.clock.time()))
            self._lease.take(grant)
            self._is_reachable = True
            self._said.clear()
        except IbpoError as error:
            why = str(error)
            if why not in self._said:  # an outage is said once, and what else it turns out to be
                self._said.add(why)
                self._on_failure(f"leases: {why}; continuing with what is left")
            self._is_reachable = False
        finally:
            self._exchanging, self._exchanged = None, time.monotonic()
            self.num_exchanges += 1

    async def _exchange_often(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            await self.exchange()

    def _largest(self, candidates: Sequence[Candidate], num_requests: int) -> list[float]:
        """Per budget what the most expensive candidate is expected to cost."""
        return [
            max(candidate.cost.get(budget.name, 0.0) for candidate in candidates)
            if budget.response_group is None
            else num_requests * any(candidate.response_group == budget.response_group for candidate in candidates)
            for budget in self.policy.budgets
        ]

    # Decisions and their ends are made here and now; all else that the base class does is in the store's thread.

    async def _act(self, act: Callable[[], Any]) -> Any:
        return act()

    def _submit(self, act: Callable[[], Any], tries: int) -> None:
        act()

    def _accounts(self) -> AccountStore:
        return self._local

    def _shared(self) -> Controller:
        return Controller(self.policy, self._store)


def make_controller(
    policy: ServingPolicy,
    state: str | None,
    *,
    lease: float | None,
    name: str,
    stale_seconds: float,
    on_failure: Callable[[str], None],
    keepers: Mapping[str, Keeper],
    learner: Learner | None = None,
    quotas: Quotas | None = None,
    clock: Clock | None = None,
) -> AsyncController:
    """The controller of a process: by leases where `lease` says how many seconds are between two exchanges.

    Raises:
        IbpoError: Leases without a shared store, or with what they cannot hold: totals of sessions or of the calendar,
            and `overcommit`.
    """
    more: dict[str, Any] = {"name": name, "on_failure": on_failure, "learner": learner, "keepers": keepers}
    more["clock"] = clock
    if lease is None:
        return AsyncController(policy, state, stale_seconds=stale_seconds, quotas=quotas, **more)
    if state is None:
        raise IbpoError("a lease needs accounts that processes share: name a SQLite file or a redis://... as state too")
    if not 0.01 <= lease <= 60:
        raise IbpoError(f"lease: is {lease!r}; it must be seconds between two exchanges, 0.01 to 60, e.g. 0.25")
    if any(budget.overcommit < math.inf for budget in policy.budgets):
        raise IbpoError("leases do not divide overcommit among processes: take it out of the budget, or the lease")
    if quotas is not None:
        raise IbpoError(
            "leases hold averages only, and the settings have totals of sessions or of the calendar: take [session] "
            "and [calendar] out, or the lease"
        )
    return LeasedController(policy, state, seconds=lease, stale_seconds=stale_seconds, **more)
