"""A figure with its interval, as the tables of the baselines show it."""

from __future__ import annotations

Interval = dict[str, float | None]


def spoken(one: Interval | None, form: str = "{:.2f}", times: float = 1.0) -> str:
    """A figure with its interval, as tables show it.

    Example:
        >>> spoken({"value": 1.234, "low": 0.5, "high": None}), spoken(None)
        ('1.23 (0.50 to –)', '–')
    """
    if one is None:
        return "–"
    value, low, high = ("–" if x is None else form.format(times * x) for x in (one["value"], one["low"], one["high"]))
    return f"{value} ({low} to {high})"
