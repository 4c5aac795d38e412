"""The run of `ibpo eval`: what each of its calls took, so that a run that was killed keeps its bill; how far it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ibpo.endpoint import Bill, Endpoint
from ibpo.errors import IbpoError
from ibpo.rollouts import RolloutStore, Sampled
from ibpo.runs import Journal

Json = dict[str, Any]


class Calls:
    """`RUN/calls.jsonl`: a line when a call begins to sample, another when it ends; a killed call has no second line.

    What a killed call sampled stands in the store, which keeps the order of arrival: its tokens are counted there, so
    that its bill lacks only retries and what was in flight.
    """

    def __init__(self, path: Path, store: RolloutStore) -> None:
        self.journal, self.store = Journal(path), store
        self.journal.rows()  # cuts off what a kill left
        self._begun, self._started = time.time(), time.monotonic()

    def begin(self, command: str, engine: Mapping[str, Any], price: tuple[float, float]) -> None:
        """Write down who samples, before anything is sampled."""
        self.journal.add({"command": command, "engine": dict(engine), "begun": self._begun, "price_per_million": price,
                      "num_kept": len(self.store)})  # fmt: skip

    def end(self, num_new: int, endpoint: Endpoint | None) -> None:
        """Write down what the call took, also where it stopped at an error."""
        bill = {name: getattr(endpoint.bill, name) for name in endpoint.bill.__dataclass_fields__} if endpoint else None
        self.journal.add({"num_new": num_new, "seconds": time.monotonic() - self._started, "bill": bill})

    def all(self) -> list[Json]:
        """Every call with what it took; `ended` tells whether it said so itself.

        Raises:
            IbpoError: for a line that is no call.
        """
        calls: list[Json] = []
        for number, row in enumerate(self.journal.rows(), start=1):
            if "command" in row:
                calls.append(row | {"ended": False})
            elif calls:
                calls[-1] |= row | {"ended": True}
            else:
                raise IbpoError(f"{self.journal.path} line {number}: is no call; remove the line")
        begins = [call["num_kept"] for call in calls] + [len(self.store)]
        stored = list(self.store.rows()) if any(not call["ended"] for call in calls) else []
        for call, first, end in zip(calls, begins, begins[1:], strict=False):
            if not call["ended"]:
                kept = stored[first:end]
                used = [(row["num_prompt_tokens"], row["num_completion_tokens"]) for row in kept]
                tokens = [sum(filter(None, column)) for column in zip(*used, strict=True)] or [0, 0]
                cost = sum(n * price for n, price in zip(tokens, call["price_per_million"], strict=True)) / 1e6
                call |= {"num_new": len(kept), "seconds": None, "bill": {
                    "num_requests": len(kept), "num_unmetered": sum(None in pair for pair in used),
                    "prompt_tokens": tokens[0], "completion_tokens": tokens[1], "cost": cost}}  # fmt: skip
        return calls


def total_bill(calls: list[Json]) -> Json | None:
    """The bills of all calls in one; None where nothing is paid for. What was not reported is unknown, not free.

    Example:
        >>> total_bill([{"bill": {"cost": 1.0}}, {"bill": {"cost": 2.0, "num_retries": 3}}])["cost"]
        3.0
    """
    bills = [call["bill"] for call in calls if call.get("bill") is not None]
    if not bills:
        return None
    total = {name: sum(bill.get(name, 0) for bill in bills) for name in Bill.__dataclass_fields__}
    return total | {"cost": None} if total["num_unmetered"] else total


SECONDS_BETWEEN_LINES = 30.0
SECONDS_TO_MEASURE = 5.0
"""From the first response on, before the time left is estimated: until then the model is loaded, a batch is made."""


class EvalProgress:
    """Counts outcomes; estimates what is left from what this call has done so far."""

    def __init__(
        self, console: Console, total: int, num_kept: int, endpoint: Endpoint | None, *, more: Callable[[], str] = str
    ) -> None:
        self.console, self.total, self.num_kept, self.endpoint = console, total, num_kept, endpoint
        self.more = more
        self.num_new = self.num_failed = 0
        columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[more]}"))  # fmt: skip
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total, completed=num_kept, more="")
        self._last = time.monotonic()
        self._first = math.inf
        self._num_first = 0

    def __enter__(self) -> EvalProgress:
        if self.num_kept:
            self._say(f"{self.num_kept} of {self.total} responses are there already")
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
        if self.num_new and error is None:
            self._say(self.text())

    def on_outcome(self, outcome: Sampled | IbpoError) -> None:
        """One more response, or one more failure."""
        bad = isinstance(outcome, IbpoError)
        self.num_failed, self.num_new = self.num_failed + bad, self.num_new + (not bad)
        now = time.monotonic()
        if self._first == math.inf and not bad:
            self._first = now
        if now - self._first < 1.0:
            self._num_first = self.num_new  # the batch that the first one came with
        self._bar.update(self._task, completed=self.num_kept + self.num_new, more=self.text())
        if not self.console.is_terminal and now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            self._say(self.text())

    def text(self) -> str:
        """Responses so far, time left, money spent and still to come.

        Example:
            >>> progress = EvalProgress(Console(stderr=True), total=100, num_kept=40, endpoint=None)
            >>> progress.text()
            '40 of 100 responses'
        """
        done = self.num_kept + self.num_new
        left = self.total - done
        parts = [f"{done} of {self.total} responses"]
        measured, since = self.num_new - self._num_first, time.monotonic() - self._first
        if measured > 0 and since >= SECONDS_TO_MEASURE and left > 0:
            parts.append(f"about {_duration(since / measured * left)} left")
        bill = self.endpoint.bill if self.endpoint else None
        if bill is not None and bill.num_unmetered and max(self.endpoint.price_per_million) > 0:  # pyright: ignore[reportOptionalMemberAccess]
            parts.append(f"cost unknown: of {bill.num_unmetered} replies the server reported no usage")
        elif bill is not None and bill.cost > 0 and self.num_new:
            parts.append(f"cost {bill.cost:.4g}, about {bill.cost / self.num_new * left:.4g} to come")
        if self.num_failed:
            parts.append(f"{self.num_failed} failed so far")
        if more := self.more():
            parts.append(more)
        return ", ".join(parts)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
