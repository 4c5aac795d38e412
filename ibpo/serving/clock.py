"""What time is it? The module `time` answers, or in tests a clock that one sets: `ibpo.testing.Clock`."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """What the gateway counts days, months and ages by; Python's module `time` is one."""

    def time(self) -> float:
        """Seconds since 1970: which day and month it is."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, never set back: how long ago something was."""
        ...
