"""A clock that stands still until you move it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ibpo.errors import IbpoError

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    """The time of a test: for `gateway`, `Service(clock=...)`, and `Controller.decide(now=clock.time())`.

    Args:
        start: What time it is first; without a zone it is UTC.

    Example:
        >>> clock = Clock("2026-03-31 23:59")
        >>> clock.advance(minutes=1)
        >>> clock.now().isoformat(), clock.monotonic()
        ('2026-04-01T00:00:00+00:00', 60.0)
    """

    def __init__(self, start: datetime | str = START) -> None:
        self._changed = threading.Condition()
        self._began = self._time = _read(start).timestamp()
        self._monotonic = 0.0
        self._listeners: list[Callable[[], None]] = []

    def time(self) -> float:
        """Seconds since 1970, as `time.time()`."""
        return self._time

    def monotonic(self) -> float:
        """Seconds that have passed since the beginning, as `time.monotonic()`."""
        return self._monotonic

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.fromtimestamp(self._time, UTC)

    def advance(self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0) -> None:
        """Let time pass. What is due by then has happened when this returns: time-outs, retries, the end of a day.

        Raises:
            IbpoError: Less than nothing; `move_to` sets a clock back.
        """
        step = timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days).total_seconds()
        if step < 0:
            raise IbpoError(f"advance: {step:g} seconds; time goes on only. `move_to` sets a clock back, as people do")
        self._move(step, step)

    def move_to(self, when: datetime | str) -> None:
        """Set the clock, also back: as when somebody sets a machine's. Time that goes on passes, else none does."""
        step = _read(when).timestamp() - self._time
        self._move(step, max(step, 0.0))

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Wait, in a thread, until so many seconds have passed on this clock, or `until()` is true."""
        with self._changed:
            end = self._monotonic + seconds
            while self._monotonic < end and not until():
                self._changed.wait(0.05)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` whenever the clock has moved; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _move(self, time: float, passed: float) -> None:
        with self._changed:
            self._time += time
            self._monotonic += passed
            self._changed.notify_all()
        for listener in [*self._listeners]:
            listener()

    def __repr__(self) -> str:
        return f"Clock({self.now().isoformat()!r})"


def _read(when: datetime | str) -> datetime:
    try:
        found = datetime.fromisoformat(when) if isinstance(when, str) else when
    except ValueError:
        raise IbpoError(f"{when!r} is no time; write it as '2026-03-31 23:59'") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
