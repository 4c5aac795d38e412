"""The controller, asked from an event loop: decide, and end each reservation once, whatever happens to its request."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ibpo.errors import IbpoError
from ibpo.serving.book import Book, MemoryBook
from ibpo.serving.controller import Controller
from ibpo.serving.option import Option
from ibpo.serving.plan import Plan

Result = TypeVar("Result")
SAVE_SECONDS = 30.0
SETTLE_TRIES = 60
HISTORY = 360


@dataclass(kw_only=True, slots=True)
class Ticket:
    """A request's reservation, until `Desk.settle` or `Desk.cancel`; the second of them does nothing."""

    request_id: str
    response_group: str
    price: Mapping[str, float]
    """Budget -> gain that one unit of cost had to bring."""
    left: Mapping[str, float]
    """Budget -> what is in the bank."""
    within: bool
    open: bool = field(default=True)


class Desk:
    """Holds a plan for one process.

    Without `state` the book is in memory, and every call takes some 0.1 ms in the event loop. A shared book waits for
    files, locks and other processes: it is asked from one thread of its own.

    Args:
        plan: What is to be held.
        state: A SQLite file, `redis://...`, or None.
        name: Of this process among those that share the book: its window of recent traffic is kept under it.
        stale_seconds: A reservation older than this belongs to a process that is gone: settled at its reserve.
        on_failure: Told what went wrong with the book.
    """

    def __init__(
        self,
        plan: Plan,
        state: str | None = None,
        *,
        name: str = "gateway",
        stale_seconds: float = 7200.0,
        on_failure: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.plan, self.num_open, self.last_drift = plan, 0, 0.0
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._state, self._name, self._stale, self._on_failure = state, name, stale_seconds, on_failure
        self._names = [budget.name for budget in plan.budgets]
        self._thread = None if state is None else ThreadPoolExecutor(1, thread_name_prefix="ibpo-book")
        self._book: Any = None
        self._controller: Any = None
        self._pending: set[asyncio.Future[Any]] = set()
        self._num_drifts = 0
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the book, and go on where this process left off.

        Raises:
            IbpoError: The book cannot be used.
        """
        await self._run(self._open)
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Wait for what is being written, and keep the window and the prices."""
        if self._keeper is not None:
            self._keeper.cancel()
        give_up = time.monotonic() + 30
        while self._pending and time.monotonic() < give_up:
            await asyncio.wait(self._pending, timeout=1.0)
        await self._run(self._save)
        if self._thread is not None:
            await self._run(self._book.close)
            self._thread.shutdown()

    async def decide(self, options: Sequence[Option], *, request_id: str, tenant: str, slice_name: str) -> Ticket:
        """See `Controller.decide`.

        Raises:
            IbpoError: The book cannot be used.
        """

        def ask() -> Ticket:
            controller: Controller = self._controller
            found = controller.decide(
                options, request_id=request_id, now=time.time(), tenant=tenant, slice_name=slice_name
            )
            return Ticket(
                request_id=request_id,
                response_group=found.response_group,
                price=dict(zip(self._names, found.price, strict=True)),
                left=dict(zip(self._names, controller.banks, strict=True)),
                within=found.within,
            )

        if self._thread is None:
            ticket = ask()
        else:
            try:
                ticket = await self._run(ask)
            except asyncio.CancelledError:
                # The thread may have decided by now: its next task gives it back.
                self._submit(lambda: self._controller.cancel(request_id), SETTLE_TRIES)
                raise
        self.num_open += 1
        return ticket

    def settle(self, ticket: Ticket, actual: Mapping[str, float] | None) -> None:
        """The answer has ended: book what it cost; what is not known cost what was expected. Never waits."""
        if self._end(ticket):
            known = {name: cost for name, cost in (actual or {}).items() if name in self._names}
            self._submit(lambda: self._controller.settle(ticket.request_id, known), SETTLE_TRIES)

    def cancel(self, ticket: Ticket) -> None:
        """There was no answer: the request counts no longer. Never waits."""
        if self._end(ticket):
            self._submit(lambda: self._controller.cancel(ticket.request_id), SETTLE_TRIES)

    async def snapshot(self) -> dict[str, Any]:
        """Budgets, prices, tenants and alarms as they are now, for the page and the metrics."""
        return await self._run(self._snapshot)

    def _end(self, ticket: Ticket) -> bool:
        if not ticket.open:
            return False
        ticket.open = False
        self.num_open -= 1
        return True

    def _submit(self, act: Callable[[], Any], tries: int) -> None:
        """Do it now, or in the book's thread; while the book cannot be reached, again every second."""
        if self._thread is None:
            act()
            return
        future = asyncio.get_running_loop().run_in_executor(self._thread, act)
        self._pending.add(future)

        def done(future: asyncio.Future[Any]) -> None:
            self._pending.discard(future)
            if future.cancelled() or future.exception() is None:
                return
            self._on_failure(str(future.exception()))
            if tries > 1:
                asyncio.get_running_loop().call_later(1.0, self._submit, act, tries - 1)

        future.add_done_callback(done)

    async def _run(self, act: Callable[[], Result]) -> Result:
        if self._thread is None:
            return act()
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    def _open(self) -> None:
        if self._state is None:
            self._book = MemoryBook(len(self.plan.budgets))
            self._controller = Controller(self.plan, self._book)
            return
        book: Any
        if self._state.startswith(("redis://", "rediss://", "unix://")):
            from ibpo.serving.store_redis import RedisBook

            book = RedisBook(self._state, self._names)
        else:
            from ibpo.serving.store_sqlite import SqliteBook

            book = SqliteBook(Path(self._state), self._names)
        self._book = book
        shared: Book = book
        saved = book.load_state(self._name)
        try:
            self._controller = Controller.from_state(self.plan, saved, shared) if saved else None
        except IbpoError as error:
            self._on_failure(str(error))
        if self._controller is None:
            self._controller = Controller(self.plan, shared)
            self._controller.recover()
        self._num_drifts = self._controller.num_drifts
        self._controller.expire(before=time.time() - self._stale)

    def _save(self) -> None:
        if self._thread is not None and self._controller is not None:
            self._book.save_state(self._name, self._controller.state_dict())

    async def _keep(self) -> None:
        """Every five seconds a point of the history; every half minute the state, and what dead processes left."""
        beat = 0
        while True:
            try:
                shown = await self.snapshot()
                self.history.append(
                    {"time": shown["time"], "budgets": {b["name"]: [b["used"], b["price"]] for b in shown["budgets"]}}
                )
                beat += 1
                if beat % 6 == 0:
                    await self._run(self._save)
                    expired = await self._run(lambda: self._controller.expire(before=time.time() - self._stale))
                    if expired:
                        self._on_failure(f"{len(expired)} reservations of a process that is gone: settled")
            except IbpoError as error:
                self._on_failure(str(error))
            await asyncio.sleep(SAVE_SECONDS / 6)

    def _snapshot(self) -> dict[str, Any]:
        controller: Controller = self._controller
        accounts = self._book.accounts if isinstance(self._book, MemoryBook) else self._book.accounts()
        now = time.time()
        if controller.num_drifts > self._num_drifts:
            self._num_drifts, self.last_drift = controller.num_drifts, now
        total = accounts.get("total")
        budgets = []
        for k, budget in enumerate(self.plan.budgets):
            tally = total[k] if total else None
            count = tally.num_requests if tally else 0
            budgets.append(
                {
                    "name": budget.name,
                    "mean": budget.mean,
                    "is_share": budget.response_group is not None,
                    "used": (tally.spent + tally.estimated) / count if tally and count else 0.0,
                    "num_requests": count,
                    "spent": tally.spent if tally else 0.0,
                    "under_way": tally.estimated if tally else 0.0,
                    "left": tally.bank if tally else 0.0,
                    "overdraft": budget.overdraft,
                    "carry": budget.carry,
                    "largest_overdraft": tally.peak if tally else 0.0,
                    "price": min(controller.prices[k], 1e99),
                }
            )
        tenants = [
            {
                "name": name.removeprefix("tenant "),
                "num_requests": tallies[0].num_requests,
                "used": {
                    budget.name: (tally.spent + tally.estimated) / max(1, tally.num_requests)
                    for budget, tally in zip(self.plan.budgets, tallies, strict=True)
                },
                "spent": {b.name: tally.spent for b, tally in zip(self.plan.budgets, tallies, strict=True)},
            }
            for name, tallies in sorted(accounts.items())
            if name.startswith("tenant ")
        ]
        return {
            "time": now,
            "budgets": budgets,
            "tenants": tenants,
            "num_under_way": self.num_open,
            "num_over": controller.num_over,
            "num_drifts": controller.num_drifts,
            "last_drift": self.last_drift,
        }
