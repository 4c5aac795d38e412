"""A window of recent requests: at which price would they spend a target? W requests, G response groups, K budgets."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import reduce
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import envelope
from ibpo.serving.controller.alarm import Alarm, moments

FloatArray = NDArray[np.float64]

_Row = tuple[Sequence[float], Sequence[Sequence[float]], Sequence[float] | None, Sequence[float] | None]

PROHIBITIVE = 1e100
"""A price that nothing is worth; infinity times a cost of 0 would not be a number."""
_NOTHING = 1e-100
"""Costs below this, in any unit, are taken for 0."""
_RECENT = 64
_CUT_SIGMAS = 6.0
_FEWEST = 16
_MOST_EXPENSIVE = 100


class Window:
    r"""The last requests of an account, and at which price they would spend a target.

    At price lambda of budget k, the others' prices fixed, request i takes the steps of its concave envelope of (cost,
    gain less the other budgets' price) whose slope is above lambda (`ibpo.allocation.envelope`). Sorted by slope, their
    costs add up to the curve lambda -> mean cost; `price` reads it backwards, in O(log W). The curve is made again
    after every eighth of the window, O(W log W): amortised O(log W) a request.

    A request may be bound to prices of its own: it never pays less than `low` nor more than `high`. A response whose
    cost is above `most`, that no balance will ever have room for, is not on the curve.

    Where at these prices the recent 64 requests would cost something else than the older ones (6 standard errors),
    the older ones are dropped. Whether that is worth an alarm is another question: `ibpo.serving.controller.alarm`.

    Args:
        num_budgets: K.
        size: W.
    """

    def __init__(self, num_budgets: int, size: int = 512) -> None:
        self.size = size
        self.alarm = Alarm()
        self.variance: list[float] = [math.nan] * num_budgets
        """Variance of the cost of a request at the prices that the budgets imply; NaN as long as it is unknown."""
        self.most_expensive: list[float] = [0.0] * num_budgets
        """Mean cost of the most expensive hundredth of the responses at these prices, at least 2 of them."""
        self._num_budgets = num_budgets
        self._count = 0  # requests ever added
        self._length = 0  # requests in the window
        self._pending: list[_Row] = []  # since the last curve
        self._due = 8
        self._bounded = False  # whether any request has been bound to prices of its own
        # The window is the rows before `_end`: it moves down its arrays, and back to their head where they end.
        self._end = 0
        self._utility: FloatArray = np.zeros((2 * size, 2))
        self._cost: FloatArray = np.zeros((2 * size, 2, num_budgets))
        self._low: FloatArray = np.zeros((2 * size, num_budgets))
        self._high: FloatArray = np.full((2 * size, num_budgets), math.inf)
        # For each budget: slopes from the largest down, cumulated costs with them, cost without any step, requests.
        self._curves: list[tuple[list[float], list[float], float, int]] = [([], [], 0.0, 0)] * num_budgets

    def __len__(self) -> int:
        return self._length + len(self._pending)

    def add(
        self,
        utility: Sequence[float],
        cost: Sequence[Sequence[float]],
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
    ) -> bool:
        """Take a request in: utility `[G]`, cost `[G, K]`, bounds on its prices `[K]`; True if a curve is due."""
        self._pending.append((utility, cost, low, high))
        if low is not None or high is not None:
            self._bounded = True
        return len(self._pending) >= self._due

    def price(self, budget: int, target: float) -> float | None:
        """The price at which the window spends `target` per request on this budget; None: too few requests to say."""
        slopes, total, base, length = self._curves[budget]
        if length < _FEWEST:
            return None
        if not -math.inf < target < math.inf:
            return 0.0 if target > 0 else PROHIBITIVE
        place = bisect_right(total, target * length - base)
        return slopes[place] if place < len(slopes) else 0.0

    def reprice(
        self,
        targets: Sequence[float],
        prices: list[float],
        most: Sequence[float] | None = None,
        means: Sequence[float] | None = None,
    ) -> None:
        """Make the curves again, budget after budget, each with the prices found so far; `prices` `[K]` is changed.

        Args:
            targets: `[K]` what should be spent per request now.
            prices: `[K]` as they are.
            most: `[K]` the largest cost that there can be room for; None: any.
            means: `[K]` what should be spent in the long run; None: as now.
        """
        implied = list(prices)
        num_new = len(self._pending)
        self._take()
        rows = slice(self._end - self._length, self._end)
        told, cost = self._utility[rows], self._cost[rows]
        utility = told if most is None else _possible(told, cost, most)
        low, high = (self._low[rows], self._high[rows]) if self._bounded else (None, None)
        for budget in range(self._num_budgets):
            value = utility
            if self._num_budgets > 1:
                paid = _within(prices, low, high)
                paid[:, budget] = 0.0
                value = utility - _paid(cost, paid)
            base, problem, step_cost, slope = _steps(value, cost[:, :, budget])
            kept = slope > 0
            if low is not None and high is not None:
                slope = np.where(slope > high[problem, budget], PROHIBITIVE, slope)
                kept &= slope > low[problem, budget]
            slope, step_cost = slope[kept], step_cost[kept]
            order = np.argsort(-slope)
            self._curves[budget] = (
                slope[order].tolist(),
                np.cumsum(step_cost[order]).tolist(),
                float(np.add.reduce(base)),
                len(utility),
            )
            found = self.price(budget, targets[budget])
            # Half way: with full steps two binding budgets answer each other's swings forever.
            if found is not None and found < PROHIBITIVE:
                prices[budget] = found if self._num_budgets == 1 else (prices[budget] + found) / 2
            alone = self.price(budget, means[budget]) if means is not None and self._num_budgets == 1 else None
            implied[budget] = prices[budget] if alone is None else alone
        self.alarm.watch(np.column_stack([_most(told) - _least(told), _most(cost)]), num_new)
        self._watch(utility, cost, _within(implied, low, high))
        self._due = max(8, min(self._length // 8, self.size // 8))

    def _watch(self, utility: FloatArray, cost: FloatArray, paid: FloatArray) -> None:
        """Note what is bought at current prices; drop the older requests after a change."""
        size = len(utility)
        value = utility - _paid(cost, paid)
        if value.shape[1] == 2:
            spent = np.where((value[:, 1] > value[:, 0])[:, None], cost[:, 1], cost[:, 0])
        else:
            spent = cost[np.arange(size), np.argmax(value, axis=1)]
        self.variance = moments(spent)[1].tolist()
        few = max(2, size // _MOST_EXPENSIVE)
        if size > few:
            self.most_expensive = (
                np.add.reduce(np.partition(spent, size - few, axis=0)[size - few :], axis=0) / few
            ).tolist()
        older = size - _RECENT
        if older < _RECENT:
            return
        recent = (np.add.reduce(spent[older:], axis=0) / _RECENT).tolist()
        before = (np.add.reduce(spent[:older], axis=0) / older).tolist()
        per_request = 1 / _RECENT + 1 / older
        for now, was, spread in zip(recent, before, self.variance, strict=True):
            if abs(now - was) > _CUT_SIGMAS * math.sqrt(spread * per_request):
                self._length = _RECENT

    def _take(self) -> None:
        """Move the requests since the last curve into the window."""
        if not self._pending:
            return
        utility, cost, low, high = zip(*self._pending, strict=True)
        num_new, width, num_budgets = len(utility), self._utility.shape[1], self._num_budgets
        sizes = set(map(len, utility))
        more = max(sizes) - width
        if more > 0:
            width += more
            self._utility = np.hstack([self._utility, np.repeat(self._utility[:, :1], more, axis=1)])
            self._cost = np.hstack([self._cost, np.repeat(self._cost[:, :1], more, axis=1)])
        if min(sizes) < width:
            # A response group given twice changes nothing: it fills the width.
            utility = [[*u, *[u[0]] * (width - len(u))] for u in utility]
            cost = [[*c, *[c[0]] * (width - len(c))] for c in cost]
        if self._end + num_new > len(self._utility):
            kept = slice(self._end - min(self._length, self.size - num_new), self._end)
            self._end = kept.stop - kept.start
            for array in (self._utility, self._cost, self._low, self._high):
                array[: self._end] = array[kept].copy()
        rows = slice(self._end, self._end + num_new)
        self._utility[rows] = np.fromiter(chain.from_iterable(utility), float, num_new * width).reshape(num_new, width)
        numbers = np.fromiter(chain.from_iterable(chain.from_iterable(cost)), float, num_new * width * num_budgets)
        self._cost[rows] = numbers.reshape(num_new, width, num_budgets)
        if self._bounded:
            none, free = [0.0] * num_budgets, [math.inf] * num_budgets
            self._low[rows] = [none if bound is None else bound for bound in low]
            self._high[rows] = [free if bound is None else bound for bound in high]
        self._end += num_new
        self._count += num_new
        self._length = min(self.size, self._length + num_new)
        self._pending.clear()

    def state(self) -> dict[str, Any]:
        """Everything, for JSON; infinite bounds are left out."""
        rows = range(self._end - self._length, self._end)
        return {
            "count": self._count,
            "alarm": self.alarm.state(),
            "variance": [None if math.isnan(x) else x for x in self.variance],
            "most_expensive": self.most_expensive,
            "due": self._due,
            "rows": [
                [self._utility[i].tolist(), self._cost[i].tolist(), self._low[i].tolist(), _finite(self._high[i])]
                for i in rows
            ],
            "pending": [
                [list(u), [list(row) for row in c], low and list(low), None if high is None else _finite(high)]
                for u, c, low, high in self._pending
            ],
            "curves": [list(curve) for curve in self._curves],
        }

    @classmethod
    def from_state(cls, num_budgets: int, state: dict[str, Any], size: int = 512) -> Window:
        """The inverse of `state`."""
        window = cls(num_budgets, size)
        window._count = state["count"] - len(state["rows"])
        for name in ("rows", "pending"):
            window._take()
            for utility, cost, low, high in state[name]:
                window.add(utility, cost, low, None if high is None else _infinite(high))
        window.alarm = Alarm.from_state(state["alarm"])
        window._due, window.most_expensive = state["due"], list(state["most_expensive"])
        window.variance = [math.nan if x is None else x for x in state["variance"]]
        window._curves = [(slopes, total, base, length) for slopes, total, base, length in state["curves"]]
        return window


def _possible(utility: FloatArray, cost: FloatArray, most: Sequence[float]) -> FloatArray:
    """Utility `[W, G]`, -inf where a cost `[W, G, K]` is above `most` `[K]` and another response is cheaper."""
    above = cost > np.asarray(most)
    if not above.any():
        return utility
    above = (above & (cost > cost.min(axis=1, keepdims=True))).any(axis=2)
    return np.where(above & ~above.all(axis=1, keepdims=True), -math.inf, utility)


def _within(prices: Sequence[float], low: FloatArray | None, high: FloatArray | None) -> FloatArray:
    """`[W, K]` what every request pays, `[1, K]` where none has bounds of its own."""
    if low is None or high is None:
        return np.array([prices])
    return np.maximum(low, np.minimum(high, prices))


def _paid(cost: FloatArray, price: FloatArray) -> FloatArray:
    """`[W, G]` from costs `[W, G, K]` and prices `[W, K]` or `[1, K]`."""
    if cost.shape[2] == 1:
        return cost[:, :, 0] * price
    return (cost * price[:, None, :]).sum(axis=2)


def _most(values: FloatArray) -> FloatArray:
    """Largest over the second axis, candidate after candidate: numpy reduces a short axis many times as slowly."""
    return reduce(np.maximum, (values[:, g] for g in range(values.shape[1])))


def _least(values: FloatArray) -> FloatArray:
    """Smallest over the second axis."""
    return reduce(np.minimum, (values[:, g] for g in range(values.shape[1])))


def _steps(value: FloatArray, cost: FloatArray) -> tuple[FloatArray, NDArray[np.int64], FloatArray, FloatArray]:
    """Cost of the cheapest response `[W]`; request, cost and slope of every step up the envelopes."""
    size, width = value.shape
    # A cost that is almost 0 is 0: no slope may overflow.
    cost = np.where(np.abs(cost) < _NOTHING, 0.0, cost)
    if width == 2:  # nine in ten uses: no need of the general envelope
        extra = cost[:, 1] - cost[:, 0]
        gain = np.where(extra < 0, -1.0, 1.0) * (value[:, 1] - value[:, 0])
        step = np.abs(extra)
        problem = np.flatnonzero((step > 0) & (gain > 0))
        return _least(cost), problem, step[problem], gain[problem] / step[problem]
    rows = np.repeat(np.arange(size), width)
    value, cost = value.ravel(), cost.ravel()
    kept = np.isfinite(value)
    if not kept.all():
        rows, value, cost = rows[kept], value[kept], cost[kept]
    found = envelope(rows, value, cost)
    return cost[found.base], found.problem, found.cost, found.slope


def _finite(values: Sequence[float] | FloatArray) -> list[float | None]:
    """JSON knows no infinity."""
    return [None if math.isinf(x) else float(x) for x in values]


def _infinite(values: Sequence[float | None]) -> list[float]:
    return [math.inf if x is None else x for x in values]
