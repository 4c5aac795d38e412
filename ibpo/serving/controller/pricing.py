"""What does a unit of each budget cost the next request? From a window of recent traffic.

Letters: W requests, G response groups, K budgets.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import envelope
from ibpo.serving.controller.admission import Account
from ibpo.serving.controller.policy import ServingPolicy

FloatArray = NDArray[np.float64]

_Row = tuple[Sequence[float], Sequence[Sequence[float]], Sequence[float] | None, Sequence[float] | None]

PROHIBITIVE = 1e100
"""A price that nothing is worth; infinity times a cost of 0 would not be a number."""
_NOTHING = 1e-100
"""Costs below this, in any unit, are taken for 0."""
_RECENT = 64
_DRIFT_SIGMAS = 6.0
_FEWEST = 16
_OWN_WINDOW = 256
"""Requests in the window of a tenant or slice with a policy of its own."""


class Quote(NamedTuple):
    """Prices for one request, `[K]` each."""

    prices: list[float]
    """What it pays: the price at which the total spends its target, inside `low` and `high`."""
    low: list[float]
    """The least that its ceilings allow."""
    high: list[float]
    """The most that its promises allow."""
    targets: list[float]
    """What the total is to spend per request."""


class Pricing:
    """The windows of the total and of every account with a policy of its own, and the prices read from them.

    See `ibpo.serving.controller.Controller` for the rule.

    Args:
        policy: What is to be held.
    """

    def __init__(self, policy: ServingPolicy) -> None:
        self._budgets = policy.budgets
        self._total = Window(len(policy.budgets))
        self._own: dict[str, Window] = {}  # of accounts with a policy of their own
        self._unbound = [0.0] * len(policy.budgets)  # the total's prices, before any tenant's bounds

    @property
    def num_drifts(self) -> int:
        """How often the traffic has changed so much that the window was cut."""
        return self._total.num_drifts

    def quote(self, accounts: Sequence[Account]) -> Quote:
        """The prices for a request that is booked in these accounts, the total first."""
        targets = [
            budget.mean
            + drift(bucket.balance - bucket.held - bucket.deferred, budget.overdraft, budget.burst, self._variance(k))
            for k, (budget, bucket) in enumerate(zip(self._budgets, accounts[0].buckets, strict=True))
        ]
        low, high = self._bounds(accounts[1:])
        prices = [max(low[k], min(high[k], self._total.price(k, target) or 0.0)) for k, target in enumerate(targets)]
        return Quote(prices, low, high, targets)

    def add(
        self,
        quote: Quote,
        utility: Sequence[float],
        cost: Sequence[Sequence[float]],
        accounts: Sequence[Account],
    ) -> None:
        """Take a request in: utility `[G]` and cost `[G, K]` of its G candidates, with what it was quoted."""
        if self._total.add(utility, cost, quote.low, quote.high):
            self._total.reprice(quote.targets, self._unbound)
        for account in accounts[1:]:
            if account.bounds.binding:
                window = self._own.get(account.name)
                if window is None:
                    window = self._own[account.name] = Window(len(self._budgets), size=_OWN_WINDOW)
                if window.add(utility, cost):
                    window.reprice(quote.targets, list(self._unbound))

    def _bounds(self, accounts: Sequence[Account]) -> tuple[list[float], list[float]]:
        """Per budget the least and the largest price that the ceilings and the promises of a request allow."""
        low, high = [0.0] * len(self._budgets), [math.inf] * len(self._budgets)
        for account in accounts:
            if not account.bounds.binding:
                continue
            window, bounds = self._own.get(account.name), account.bounds
            for k, bucket in enumerate(account.buckets):
                variance = self._variance(k)
                least, most = bounds.at_least[k], bounds.at_most[k]
                if least:
                    target = least + drift(bucket.owed, bounds.depth[k], bounds.depth[k], variance)
                    price = window.price(k, target) if window else None
                    if price is None and target == math.inf:
                        price = 0.0
                    high[k] = high[k] if price is None else min(high[k], price)
                if most < math.inf:
                    target = most + drift(
                        bucket.balance - bucket.deferred, bounds.overdraft[k], bounds.burst[k], variance
                    )
                    price = window.price(k, target) if window else None
                    low[k] = max(low[k], price or 0.0)
        return low, high

    def _variance(self, k: int) -> float:
        """Variance of a request's expected cost: what it really costs goes through `TokenBucket.returned`."""
        spread, budget = self._total.variance[k], self._budgets[k]
        # Where all recent requests would be answered alike there is none to be seen, and no reason to let the balance
        # run into its bounds.
        share = budget.response_group is not None
        least = budget.mean * (1 - budget.mean) if share else budget.mean * budget.mean / 4
        return max(least, 0.0 if math.isnan(spread) else spread)

    def state(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "unbound": self._unbound,
            "window": self._total.state(),
            "windows": {name: window.state() for name, window in self._own.items()},
        }

    @classmethod
    def from_state(cls, policy: ServingPolicy, state: Mapping[str, Any]) -> Pricing:
        """The inverse of `state`."""
        pricing, num_budgets = cls(policy), len(policy.budgets)
        pricing._unbound = list(state["unbound"])
        pricing._total = Window.from_state(num_budgets, state["window"])
        for name, window in state["windows"].items():
            pricing._own[name] = Window.from_state(num_budgets, window, size=_OWN_WINDOW)
        return pricing


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
        """Variance of the cost of a request at current prices; NaN as long as it is unknown."""
        self._num_budgets = num_budgets
        self._count = 0  # requests ever added
        self._length = 0  # requests in the window
        self._pending: list[_Row] = []  # since the last curve
        self._utility: FloatArray = np.zeros((size, 2))
        self._cost: FloatArray = np.zeros((size, 2, num_budgets))
        self._low: FloatArray = np.zeros((size, num_budgets))
        self._high: FloatArray = np.full((size, num_budgets), math.inf)
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
        waiting, length = len(self._pending), self._length
        return waiting >= (self.stride if length >= 2 * self.stride else self.stride // 4)

    def price(self, budget: int, target: float) -> float | None:
        """The price at which the window spends `target` per request on this budget; None: too few requests to say."""
        slopes, total, base, length = self._curves[budget]
        if length < _FEWEST:
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
            # Half way: with full steps two binding budgets answer each other's swings for ever.
            if found is not None and found < PROHIBITIVE:
                prices[budget] = found if self._num_budgets == 1 else (prices[budget] + found) / 2
        self._watch(utility, cost, np.maximum(low, np.minimum(high, prices)))

    def _watch(self, utility: FloatArray, cost: FloatArray, paid: FloatArray) -> None:
        """Note the variance of the cost at current prices; drop the older requests after a drift."""
        chosen = np.argmax(utility - _paid(cost, paid), axis=1)
        spent = cost[np.arange(len(chosen)), chosen]
        spread = spent.var(axis=0)
        self.variance = spread.tolist()
        older = len(spent) - _RECENT
        if older < _RECENT:
            return
        gap = np.abs(spent[older:].mean(axis=0) - spent[:older].mean(axis=0))
        if (gap > _DRIFT_SIGMAS * np.sqrt(spread * (1 / _RECENT + 1 / older))).any():
            self.num_drifts += 1
            self._length = _RECENT

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


def drift(position: float, overdraft: float, burst: float, variance: float) -> float:
    """By how much to spend above the mean at this balance: see `ibpo.serving.controller.Controller`."""
    half = (overdraft + burst) / 2  # w
    if half == 0:
        return 0.0
    place = (position - (burst - overdraft) / 2) / half  # x / w
    if abs(place) > 0.999:
        return math.copysign(math.inf, place)
    return variance * (math.pi / (2 * half)) * math.tan(math.pi / 2 * place)


def _paid(cost: FloatArray, price: FloatArray) -> FloatArray:
    """`[W, G]` from costs `[W, G, K]` and prices `[W, K]`."""
    if cost.shape[2] == 1:
        return cost[:, :, 0] * price
    return np.einsum("wgk,wk->wg", cost, price)


def _steps(value: FloatArray, cost: FloatArray) -> tuple[FloatArray, NDArray[np.int64], FloatArray, FloatArray]:
    """Cost of the cheapest response `[W]`; request, cost and slope of every step up the envelopes."""
    size, width = value.shape
    # A cost that is next to nothing is nothing: no slope may overflow.
    cost = np.where(np.abs(cost) < _NOTHING, 0.0, cost)
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
