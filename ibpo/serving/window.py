"""The price of a unit of cost, from a window of recent requests. W requests, G response groups, K budgets."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import envelope

FloatArray = NDArray[np.float64]

_Row = tuple[Sequence[float], Sequence[Sequence[float]], Sequence[float] | None, Sequence[float] | None]

PROHIBITIVE = 1e100
"""A price that nothing is worth; infinity times a cost of 0 would not be a number."""
RECENT = 64
DRIFT_SIGMAS = 6.0
FEWEST = 16


class Window:
    r"""The last requests of an account, and at which price they would spend a target.

    At price lambda of budget k, the others' prices fixed, request i takes the steps of its concave envelope of (cost,
    gain less the other budgets' price) whose slope is above lambda (`ibpo.allocation.envelope`). Sorted by slope, their
    costs add up to the curve lambda -> mean cost; `price` reads it backwards, in O(log W). The curve is made anew after
    every `stride` requests, O(W log W): amortised O((W / stride) log W) a request.

    A request may be bound to prices of its own: it never pays less than `low` nor more than `high`.

    Drift: at current prices the recent 64 requests would cost as much as the older ones, up to chance. Where the means
    are more than 6 standard errors apart for a budget, the older ones are dropped, and `num_drifts` counts it.

    Args:
        num_budgets: K.
        size: W.
        stride: Requests between two curves.
    """

    def __init__(self, num_budgets: int, size: int = 512, stride: int = 32) -> None:
        self.size, self.stride = size, stride
        self.num_drifts = 0
        self.variance: list[float] = [math.nan] * num_budgets
        """Of the cost of a request at current prices; NaN as long as it is unknown."""
        self._num_budgets = num_budgets
        self._count = 0  # requests ever added
        self._length = 0  # requests in the window
        self._pending: list[_Row] = []  # since the last curve
        self._utility: FloatArray = np.zeros((size, 2))
        self._cost: FloatArray = np.zeros((size, 2, num_budgets))
        self._low: FloatArray = np.zeros((size, num_budgets))
        self._high: FloatArray = np.full((size, num_budgets), math.inf)
        # Of each budget: slopes from the largest down, cumulated costs with them, cost without any step, requests.
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
        waiting, length = len(self._pending), self._length
        return waiting >= (self.stride if length >= 2 * self.stride else self.stride // 4)

    def price(self, budget: int, target: float) -> float | None:
        """The price at which the window spends `target` per request on this budget; None: too few requests to say."""
        slopes, total, base, length = self._curves[budget]
        if length < FEWEST:
            return None
        if math.isinf(target):
            return 0.0 if target > 0 else PROHIBITIVE
        place = bisect_right(total, target * length - base)
        return slopes[place] if place < len(slopes) else 0.0

    def reprice(self, targets: Sequence[float], prices: list[float]) -> None:
        """Make the curves anew, budget after budget, each with the prices found so far; `prices` `[K]` is changed."""
        self._take()
        rows = np.arange(self._count - self._length, self._count) % self.size
        utility, cost, low, high = self._utility[rows], self._cost[rows], self._low[rows], self._high[rows]
        for budget in range(self._num_budgets):
            paid = np.maximum(low, np.minimum(high, prices))
            paid[:, budget] = 0.0
            value = utility - _paid(cost, paid) if self._num_budgets > 1 else utility
            base, problem, step_cost, slope = _steps(value, cost[:, :, budget])
            slope = np.where(slope > high[problem, budget], PROHIBITIVE, slope)
            kept = (slope > low[problem, budget]) & (slope > 0)
            slope, step_cost = slope[kept], step_cost[kept]
            order = np.argsort(-slope)
            self._curves[budget] = (
                slope[order].tolist(),
                np.cumsum(step_cost[order]).tolist(),
                float(base.sum()),
                len(utility),
            )
            found = self.price(budget, targets[budget])
            # Half way: two binding budgets that answer each other in full swing for ever.
            if found is not None and found < PROHIBITIVE:
                prices[budget] = found if self._num_budgets == 1 else (prices[budget] + found) / 2
        self._watch(utility, cost, np.maximum(low, np.minimum(high, prices)))

    def _watch(self, utility: FloatArray, cost: FloatArray, paid: FloatArray) -> None:
        """Note the variance of the cost at current prices; drop the older requests after a drift."""
        chosen = np.argmax(utility - _paid(cost, paid), axis=1)
        spent = cost[np.arange(len(chosen)), chosen]
        spread = spent.var(axis=0)
        self.variance = spread.tolist()
        older = len(spent) - RECENT
        if older < RECENT:
            return
        gap = np.abs(spent[older:].mean(axis=0) - spent[:older].mean(axis=0))
        if (gap > DRIFT_SIGMAS * np.sqrt(spread * (1 / RECENT + 1 / older))).any():
            self.num_drifts += 1
            self._length = RECENT

    def _take(self) -> None:
        """Move the requests since the last curve into the window."""
        if not self._pending:
            return
        widest = max(len(utility) for utility, _, _, _ in self._pending)
        more = widest - self._utility.shape[1]
        if more > 0:
            self._utility = np.hstack([self._utility, np.repeat(self._utility[:, :1], more, axis=1)])
            self._cost = np.hstack([self._cost, np.repeat(self._cost[:, :1], more, axis=1)])
        width, none, free = self._utility.shape[1], [0.0] * self._num_budgets, [math.inf] * self._num_budgets
        rows = (self._count + np.arange(len(self._pending))) % self.size
        # A response group given twice changes nothing: it fills the width.
        self._utility[rows] = [[*u, *[u[0]] * (width - len(u))] for u, _, _, _ in self._pending]
        self._cost[rows] = [[*c, *[c[0]] * (width - len(c))] for _, c, _, _ in self._pending]
        self._low[rows] = [none if low is None else low for _, _, low, _ in self._pending]
        self._high[rows] = [free if high is None else high for _, _, _, high in self._pending]
        self._count += len(self._pending)
        self._length = min(self.size, self._length + len(self._pending))
        self._pending.clear()

    def state(self) -> dict[str, Any]:
        """Everything, for JSON; infinite bounds are left out."""
        rows = (np.arange(self._count - self._length, self._count) % self.size).tolist()
        return {
            "count": self._count,
            "num_drifts": self.num_drifts,
            "variance": [None if math.isnan(x) else x for x in self.variance],
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
    def from_state(cls, num_budgets: int, state: dict[str, Any], size: int = 512, stride: int = 32) -> Window:
        """The inverse of `state`."""
        window = cls(num_budgets, size, stride)
        window._count = state["count"] - len(state["rows"])
        for name in ("rows", "pending"):
            window._take()
            for utility, cost, low, high in state[name]:
                window.add(utility, cost, low, None if high is None else _infinite(high))
        window.num_drifts = state["num_drifts"]
        window.variance = [math.nan if x is None else x for x in state["variance"]]
        window._curves = [(slopes, total, base, length) for slopes, total, base, length in state["curves"]]
        return window


def drift(position: float, overdraft: float, carry: float, variance: float) -> float:
    """By how much to spend above the mean with this much in the bank: see `ibpo.serving.controller.Controller`."""
    half = (overdraft + carry) / 2
    if half == 0:
        return 0.0
    place = (position - (carry - overdraft) / 2) / half
    if abs(place) > 0.999:
        return math.copysign(math.inf, place)
    return variance * (math.pi / (2 * half)) * math.tan(math.pi / 2 * place)


NOTHING = 1e-100
"""Costs below this, in any unit, are taken for 0."""


def _paid(cost: FloatArray, price: FloatArray) -> FloatArray:
    """`[W, G]` from costs `[W, G, K]` and prices `[W, K]`."""
    if cost.shape[2] == 1:
        return cost[:, :, 0] * price
    return np.einsum("wgk,wk->wg", cost, price)


def _steps(value: FloatArray, cost: FloatArray) -> tuple[FloatArray, NDArray[np.int64], FloatArray, FloatArray]:
    """Cost of the cheapest response `[W]`; request, cost and slope of every step up the envelopes."""
    size, width = value.shape
    # A cost that is next to nothing is nothing: no slope may overflow.
    cost = np.where(np.abs(cost) < NOTHING, 0.0, cost)
    if width == 2:  # nine in ten uses: no need of the general envelope
        extra = cost[:, 1] - cost[:, 0]
        gain = np.where(extra < 0, -1.0, 1.0) * (value[:, 1] - value[:, 0])
        step = np.abs(extra)
        problem = np.flatnonzero((step > 0) & (gain > 0))
        return cost.min(axis=1), problem, step[problem], gain[problem] / step[problem]
    found = envelope(np.repeat(np.arange(size), width), value.ravel(), cost.ravel())
    return cost.ravel()[found.base], found.problem, found.cost, found.slope


def _finite(values: Sequence[float] | FloatArray) -> list[float | None]:
    """JSON knows no infinity."""
    return [None if math.isinf(x) else float(x) for x in values]


def _infinite(values: Sequence[float | None]) -> list[float]:
    return [math.inf if x is None else x for x in values]
