"""Totals besides the averages: what one session may cost over all its calls, and what an hour, a day, a month may.

A session is a conversation, an agent's run, whatever the caller calls by one name (`x-ibpo-session`). It has the
operator's total, or a lower one of its own (`x-ibpo-session-budget: money=0.2`). A calendar budget begins again with
each local hour, day or month. Both are accounts of the controller (`Controller.decide`, `quotas`), booked together with
all others: at their end nobody is refused, requests are answered as cheaply as can be.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

from ibpo.errors import IbpoError
from ibpo.serving.gateway.settings import PERIODS, CalendarSettings, Period, Settings

SESSION = "session"
SESSION_HEADER = "x-ibpo-session"
SESSION_BUDGET_HEADER = "x-ibpo-session-budget"
MOST_NAME = 256
_KEEP_DAYS: dict[Period, float] = {"hour": 1.0, "day": 3.0, "month": 63.0}
"""How long a period's account is kept after its last use: longer than the period, and than anything is in flight."""


class Quota(NamedTuple):
    """A total that a request counts against."""

    account: str
    kind: str
    """`session`, `hour`, `day` or `month`."""
    totals: Mapping[str, float]
    """Budget -> the most that all its requests may cost."""


class Quotas:
    """Which totals does a request count against?

    Args:
        settings: With `[session]` and `[calendar]`.
    """

    def __init__(self, settings: Settings) -> None:
        self._session, self._calendar = settings.session, settings.calendar
        self.zone = zone_of(settings.calendar)
        self._periods: list[tuple[Period, dict[str, float]]] = [
            (period, totals) for period in PERIODS if (totals := settings.calendar.totals(period))
        ]

    def find(self, caller: Mapping[str, str], tenant: str, now: float) -> list[Quota]:
        """The quotas of a request; none where nothing is set.

        Args:
            caller: The caller's headers.
            tenant: Whose session it is: one tenant cannot name another's.
            now: Seconds since 1970.

        Raises:
            IbpoError: A header that cannot be read, with the fix.
        """
        found = [
            Quota(account=period_name(period, now, self.zone), kind=period, totals=totals)
            for period, totals in self._periods
        ]
        if self._session is not None and (name := caller.get(SESSION_HEADER, "").strip()):
            if len(name) > MOST_NAME:
                raise IbpoError(f"header {SESSION_HEADER}: is longer than {MOST_NAME} characters; shorten it")
            digest = hashlib.blake2b(f"{tenant}\0{name}".encode("utf-8", "surrogateescape"), digest_size=16)
            totals = lower_totals(self._session.totals(), caller.get(SESSION_BUDGET_HEADER, ""))
            found.append(Quota(account=f"{SESSION} {digest.hexdigest()}", kind=SESSION, totals=totals))
        elif SESSION_BUDGET_HEADER in caller:
            why = "needs x-ibpo-session too" if self._session else "this gateway has no [session]"
            raise IbpoError(f"header {SESSION_BUDGET_HEADER}: {why}")
        return found

    def forgotten(self, now: float, least_seconds: float) -> list[tuple[str, float]]:
        """What is to be forgotten: beginning of the accounts' names, and before which time they were used last.

        Args:
            now: Seconds since 1970.
            least_seconds: What is in flight ends within that.
        """
        rows = [(f"{period} ", now - max(least_seconds, 86400.0 * _KEEP_DAYS[period])) for period, _ in self._periods]
        if self._session is not None:
            rows.append((f"{SESSION} ", now - max(least_seconds, self._session.idle_seconds)))
        return rows

    def current(self, now: float) -> list[tuple[Quota, float]]:
        """The calendar's quotas as they are now, and when each ends, in seconds since 1970."""
        return [
            (Quota(account=period_name(p, now, self.zone), kind=p, totals=totals), period_end(p, now, self.zone))
            for p, totals in self._periods
        ]

    def begins(self, now: float) -> dict[str, float]:
        """When each of the calendar's current periods began, in seconds since 1970."""
        return {period: period_begin(period, now, self.zone) for period, _ in self._periods}


def open_quotas(settings: Settings) -> Quotas | None:
    """The quotas, where there are any."""
    is_any = settings.session is not None or any(settings.calendar.totals(period) for period in PERIODS)
    return Quotas(settings) if is_any else None


def zone_of(calendar: CalendarSettings) -> tzinfo:
    """The calendar's time zone."""
    return UTC if calendar.time_zone == "UTC" else ZoneInfo(calendar.time_zone)


def lower_totals(totals: Mapping[str, float], asked: str) -> dict[str, float]:
    """The operator's totals, each lowered to what the caller asks for, if that is less.

    Raises:
        IbpoError: A text that is no such budget.

    Example:
        >>> lower_totals({"money": 1.0, "tokens": math.inf}, "money=0.2, tokens=9e9")
        {'money': 0.2, 'tokens': 9000000000.0}
        >>> lower_totals({"money": 1.0}, "money=5")
        {'money': 1.0}
    """
    found = dict(totals)
    for part in filter(None, map(str.strip, asked.split(","))):
        name, _, text = (piece.strip() for piece in part.partition("="))
        try:
            total = float(text)
        except ValueError:
            total = math.nan
        if name not in totals or not 0 <= total < math.inf:
            known = " or ".join(f"{unit}=0.5" if unit == "money" else f"{unit}=20000" for unit in totals)
            raise IbpoError(f"header {SESSION_BUDGET_HEADER}: {part[:60]!r} is not a total; write {known}")
        found[name] = min(found[name], total)
    return found


def period_name(period: Period, now: float, zone: tzinfo) -> str:
    """The account of the hour, day or month of this time; the hour that a clock is set back over has two.

    Example:
        >>> [period_name(period, 1.8e9, UTC) for period in PERIODS]
        ['hour 2027-01-15T08+0000', 'day 2027-01-15', 'month 2027-01']
    """
    form = {"hour": "hour %Y-%m-%dT%H%z", "day": "day %Y-%m-%d", "month": "month %Y-%m"}[period]
    return datetime.fromtimestamp(now, zone).strftime(form)


def period_begin(period: Period, now: float, zone: tzinfo) -> float:
    """When this hour, day or month began, in seconds since 1970.

    Example:
        >>> 1.8e9 - period_begin("day", 1.8e9, UTC)
        28800.0
    """
    if period == "hour":
        return period_end(period, now, zone) - 3600.0
    midnight = datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return (midnight if period == "day" else midnight.replace(day=1)).timestamp()


def period_end(period: Period, now: float, zone: tzinfo) -> float:
    """When the next hour, day or month begins, in seconds since 1970.

    Example:
        >>> period_end("day", 1.8e9, UTC) - 1.8e9
        57600.0
    """
    at = datetime.fromtimestamp(now, zone)
    if period == "hour":  # by the offset in force: an hour has 3,600 seconds whatever the clocks do
        offset = at.utcoffset() or timedelta()
        local = now + offset.total_seconds()
        return now + 3600.0 - local % 3600.0
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period == "day":
        return (midnight + timedelta(days=1)).timestamp()
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()
