"""What does a unit of each budget cost the next request? From the recent traffic of its accounts. K budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ibpo.serving.ledger import Account
from ibpo.serving.plan import Plan
from ibpo.serving.window import Window, drift

OWN_WINDOW = 256
"""Requests in the window of a tenant or slice with terms of its own."""


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


class Prices:
    """The windows of the total and of every account with terms, and the prices read from them.

    See `ibpo.serving.controller.Controller` for the rule.

    Args:
        plan: What is to be held.
    """

    def __init__(self, plan: Plan) -> None:
        self._budgets = plan.budgets
        self._total = Window(len(plan.budgets))
        self._own: dict[str, Window] = {}  # of accounts with terms
        self._unbound = [0.0] * len(plan.budgets)  # the total's prices, before any tenant's bounds

    @property
    def num_drifts(self) -> int:
        """How often the traffic has changed so much that the window was cut."""
        return self._total.num_drifts

    def quote(self, accounts: Sequence[Account]) -> Quote:
        """The prices for a request that is booked in these accounts, the total first."""
        targets = [
            budget.mean + drift(tally.bank - tally.held - tally.kept, budget.overdraft, budget.carry, self._variance(k))
            for k, (budget, tally) in enumerate(zip(self._budgets, accounts[0].tallies, strict=True))
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
        """Take a request in: utility `[G]` and cost `[G, K]` of its G options, with what it was quoted."""
        if self._total.add(utility, cost, quote.low, quote.high):
            self._total.reprice(quote.targets, self._unbound)
        for account in accounts[1:]:
            if account.bounds.binding:
                window = self._own.get(account.name)
                if window is None:
                    window = self._own[account.name] = Window(len(self._budgets), size=OWN_WINDOW)
                if window.add(utility, cost):
                    window.reprice(quote.targets, list(self._unbound))

    def _bounds(self, accounts: Sequence[Account]) -> tuple[list[float], list[float]]:
        """Per budget the least and the largest price that the ceilings and the promises of a request allow."""
        low, high = [0.0] * len(self._budgets), [math.inf] * len(self._budgets)
        for account in accounts:
            if not account.bounds.binding:
                continue
            window, bounds = self._own.get(account.name), account.bounds
            for k, tally in enumerate(account.tallies):
                variance = self._variance(k)
                least, most = bounds.at_least[k], bounds.at_most[k]
                if least:
                    target = least + drift(tally.owed, bounds.depth[k], bounds.depth[k], variance)
                    price = window.price(k, target) if window else None
                    if price is None and target == math.inf:
                        price = 0.0
                    high[k] = high[k] if price is None else min(high[k], price)
                if most < math.inf:
                    target = most + drift(tally.bank - tally.kept, bounds.overdraft[k], bounds.carry[k], variance)
                    price = window.price(k, target) if window else None
                    low[k] = max(low[k], price or 0.0)
        return low, high

    def _variance(self, k: int) -> float:
        """Of the expected cost of a request, between requests: what it really costs goes through `Tally.returned`."""
        spread, budget = self._total.variance[k], self._budgets[k]
        # Where all recent requests would be answered alike there is none to be seen, and no reason to let the bank run
        # into its bounds.
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
    def from_state(cls, plan: Plan, state: Mapping[str, Any]) -> Prices:
        """The inverse of `state`."""
        prices, num_budgets = cls(plan), len(plan.budgets)
        prices._unbound = list(state["unbound"])
        prices._total = Window.from_state(num_budgets, state["window"])
        for name, window in state["windows"].items():
            prices._own[name] = Window.from_state(num_budgets, window, size=OWN_WINDOW)
        return prices
