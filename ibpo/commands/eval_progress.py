"""How far an evaluation is: a bar on a terminal, a line now and then elsewhere; time and money still to come."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ibpo.endpoint import Endpoint
from ibpo.errors import IbpoError
from ibpo.rollouts import Sampled

SECONDS_BETWEEN_LINES = 30.0


class EvalProgress:
    """Counts outcomes; estimates what is left from what this call has done so far."""

    def __init__(self, console: Console, total: int, num_kept: int, endpoint: Endpoint | None) -> None:
        self.console, self.total, self.num_kept, self.endpoint = console, total, num_kept, endpoint
        self.num_new = self.num_failed = 0
        columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[more]}"))  # fmt: skip
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total, completed=num_kept, more="")
        self._begun = self._last = time.monotonic()

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
        if self.num_new and left > 0:
            parts.append(f"about {_duration((time.monotonic() - self._begun) / self.num_new * left)} left")
        bill = self.endpoint.bill if self.endpoint else None
        if bill is not None and bill.num_unmetered and max(self.endpoint.price_per_million) > 0:  # pyright: ignore[reportOptionalMemberAccess]
            parts.append(f"cost unknown: of {bill.num_unmetered} replies the server told no usage")
        elif bill is not None and bill.cost > 0 and self.num_new:
            parts.append(f"cost {bill.cost:.4g}, about {bill.cost / self.num_new * left:.4g} to come")
        if self.num_failed:
            parts.append(f"{self.num_failed} failed so far")
        return ", ".join(parts)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
