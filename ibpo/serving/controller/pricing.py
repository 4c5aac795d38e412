"""What does a unit of each budget cost the next request? From a window of recent traffic.

Letters: W requests, G response groups, K budgets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ibpo.serving.controller.accounts import Reservation
from ibpo.serving.controller.admission import Account, Bounds
from ibpo.serving.controller.policy import ServingPolicy
from ibpo.serving.controller.window import Window

_OWN_WINDOW = 256
"""Requests in the window of a tenant or slice with a policy of its own."""
_MEMORY = 512
"""Responses over which the variance of surprises is averaged."""
_GROWING, _SHRINKING = 2.0, 0.125
"""The room grows by this factor at most, after each curve, and shrinks by this part of the way to what it should be."""
_EDGE = 0.999
"""Beyond this part of the half room the drift is infinite: nothing is bought, or all is."""
_RIGHT_ANGLE = math.pi / 2
_MOST_REPAID = 0.4
"""Part of the mean: an overdraft is repaid by no more than this per request. Where one response costs most of the room,
repaying it at once would deny the next requests all but the cheapest; what there is no room for is refused anyway."""

_new_tuple = tuple.__new__


class Quote(NamedTuple):
    """Prices for one request, `[K]` each."""

    prices: list[float]
    """What it pays: the price at which the total spends its target, inside `low` and `high`."""
    low: list[float] | None
    """The least that its ceilings allow; None: it has none, and no promise."""
    high: list[float] | None
    """The most that its promises allow."""
    targets: list[float]
    """What the total is to spend per request."""


class Pricing:
    """The windows of the total and of every account with a policy of its own, and the prices read from them.

    See `ibpo.serving.controller.Controller` for the rule.

    Args:
        policy: The budgets to hold.
    """

    def __init__(self, policy: ServingPolicy) -> None:
        self._budgets = policy.budgets
        self._total = Window(len(policy.budgets))
        self._own: dict[str, Window] = {}  # of accounts with a policy of their own
        self._unbound = [0.0] * len(policy.budgets)  # the total's prices, before any tenant's bounds
        self._surprise = [0.0] * len(policy.budgets)  # variance of what responses cost relative to their estimates
        self.overdraft = [budget.least_overdraft for budget in policy.budgets]
        """Per budget the overdraft in force: as the policy says, else as `find_room` does."""
        # What no balance will ever have room for is not on the curves.
        self._most = [max(budget.largest_overdraft, self._burst(k)) for k, budget in enumerate(policy.budgets)]
        self._means = [budget.mean for budget in policy.budgets]
        self._least_target = [
            -math.inf if budget.response_group is not None else budget.mean * (1 - _MOST_REPAID)
            for budget in policy.budgets
        ]
        self._variances = [self._variance(k) for k in range(len(self._means))]  # as of the last curve
        self._follows = [budget.overdraft is None and not budget.is_counted_only for budget in policy.budgets]
        self._spring: list[tuple[float, float, float, float]] = []  # `drift`'s terms, per budget
        self._spring_of: Bounds | None = None  # whose they are; None: the variances have changed

    @property
    def num_drifts(self) -> int:
        """How often the traffic has changed permanently."""
        return self._total.alarm.num_drifts

    @property
    def size(self) -> int:
        """How many requests are remembered at most."""
        return self._total.size

    def expect_change(self) -> None:
        """Estimates change because something has been learned of costs: that is no drift."""
        self._total.alarm.expect_change()

    def quote(self, accounts: Sequence[Account]) -> Quote:
        """The prices for a request that is booked in these accounts, the total first."""
        account = accounts[0]
        if account.bounds is not self._spring_of:
            self._set_spring(account.bounds)
        if len(accounts) == 1 and len(self._spring) == 1:  # as below, for most policies
            mean, centre, half, force = self._spring[0]
            bucket = account.buckets[0]
            waiting = bucket.waiting
            if waiting < 0:
                waiting = 0.0
            place = (bucket.balance - bucket.held - (bucket.returned + waiting) - centre) / half
            if -_EDGE <= place <= _EDGE:
                target = mean + force * math.tan(_RIGHT_ANGLE * place)
            else:
                target = math.copysign(math.inf, place)
            if target < self._least_target[0]:
                target = self._least_target[0]
            return _new_tuple(Quote, ([self._total.price(0, target) or 0.0], None, None, [target]))
        targets: list[float] = []
        prices: list[float] = []
        tan, price_of = math.tan, self._total.price
        for k, (mean, centre, half, force) in enumerate(self._spring):
            bucket = account.buckets[k]
            # mean + drift(balance - held - deferred)
            waiting = bucket.waiting
            position = bucket.balance - bucket.held - (bucket.returned + (waiting if waiting > 0 else 0.0))
            place = (position - centre) / half
            if -_EDGE <= place <= _EDGE:
                target = mean + force * tan(_RIGHT_ANGLE * place)
            else:
                target = math.copysign(math.inf, place)
            target = max(target, self._least_target[k])
            targets.append(target)
            prices.append(price_of(k, target) or 0.0)
        if len(accounts) == 1 or not any(account.bounds.binding for account in accounts[1:]):
            return Quote(prices, None, None, targets)
        low, high = self._bounds(accounts[1:])
        return Quote([max(low[k], min(high[k], price)) for k, price in enumerate(prices)], low, high, targets)

    def add(
        self,
        quote: Quote,
        utility: Sequence[float],
        cost: Sequence[Sequence[float]],
        accounts: Sequence[Account],
    ) -> bool:
        """Take a request in: utility `[G]` and cost `[G, K]` of its G candidates, with what it was quoted.

        Returns:
            Whether `overdraft` has changed.
        """
        changed = False
        if self._total.add(utility, cost, quote.low, quote.high):
            self._total.reprice(quote.targets, self._unbound, self._most, self._means)
            self._variances = [self._variance(k) for k in range(len(self._means))]
            self._spring_of = None
            changed = self._follow()
        if len(accounts) == 1:
            return changed
        for account in accounts[1:]:
            if account.bounds.binding:
                window = self._own.get(account.name)
                if window is None:
                    window = self._own[account.name] = Window(len(self._budgets), size=_OWN_WINDOW)
                if window.add(utility, cost):
                    window.reprice(quote.targets, list(self._unbound))
        return changed

    def learn(self, reservation: Reservation, actual: Sequence[float]) -> None:
        """A response has ended, and cost `actual` `[K]`."""
        for k, cost in enumerate(actual):
            surprise, known = (cost - reservation.estimate[k]) / reservation.num_requests, self._surprise[k]
            self._surprise[k] = known + (surprise * surprise - known) / _MEMORY

    def _follow(self) -> bool:
        """Let the overdrafts follow what the budgets buy: up at once, down slowly."""
        changed = False
        for k, budget in enumerate(self._budgets):
            if not self._follows[k]:
                continue
            found = find_room(self._expected_variance(k), self._surprise[k], self._total.most_expensive[k], budget.mean)
            found = min(budget.largest_overdraft, max(budget.least_overdraft, found))
            was = self.overdraft[k]
            found = min(_GROWING * was, found) if found > was else was + (found - was) * _SHRINKING
            if abs(found - was) > 1e-3 * was:
                self.overdraft[k], changed = found, True
        return changed

    def _set_spring(self, bounds: Bounds) -> None:
        """What `drift` makes of these bounds and variances, so that a request has only the position to put in."""
        self._spring = []
        for mean, overdraft, burst, variance in zip(
            self._means, bounds.overdraft, bounds.burst, self._variances, strict=True
        ):
            if mean == math.inf:  # counted only: no price
                self._spring.append((mean, 0.0, math.inf, 0.0))
                continue
            half = (overdraft + burst) / 2
            force = variance * (math.pi / (2 * half)) if half else 0.0
            self._spring.append((mean, (burst - overdraft) / 2, half or math.inf, force))
        self._spring_of = bounds

    def _burst(self, k: int) -> float:
        given = self._budgets[k].burst
        return self.overdraft[k] if given is None else given

    def _bounds(self, accounts: Sequence[Account]) -> tuple[list[float], list[float]]:
        """Per budget the least and the largest price that the ceilings and the promises of a request allow."""
        low, high = [0.0] * len(self._budgets), [math.inf] * len(self._budgets)
        for account in accounts:
            if not account.bounds.binding:
                continue
            window, bounds = self._own.get(account.name), account.bounds
            for k, bucket in enumerate(account.buckets):
                variance = self._variances[k]
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
        """Variance of what a request costs: of what is expected, and of what responses cost relative to that."""
        return self._expected_variance(k) + self._surprise[k]

    def _expected_variance(self, k: int) -> float:
        spread, budget = self._total.variance[k], self._budgets[k]
        if budget.is_counted_only:
            return 0.0
        # Where all recent requests would be answered alike there is none to be seen, and no reason to let the balance
        # run into its bounds.
        share = budget.response_group is not None
        least = budget.mean * (1 - budget.mean) if share else budget.mean * budget.mean / 4
        return max(least, 0.0 if math.isnan(spread) else spread)

    def state(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "unbound": self._unbound,
            "surprise": self._surprise,
            "variances": self._variances,
            "overdraft": self.overdraft,
            "window": self._total.state(),
            "windows": {name: window.state() for name, window in self._own.items()},
        }

    @classmethod
    def from_state(cls, policy: ServingPolicy, state: Mapping[str, Any]) -> Pricing:
        """The inverse of `state`."""
        pricing, num_budgets = cls(policy), len(policy.budgets)
        pricing._unbound, pricing._surprise = list(state["unbound"]), list(state["surprise"])
        pricing.overdraft = [
            least if budget.overdraft is not None else min(budget.largest_overdraft, max(least, found))
            for budget, least, found in zip(policy.budgets, pricing.overdraft, state["overdraft"], strict=True)
        ]
        pricing._total = Window.from_state(num_budgets, state["window"])
        pricing._variances = list(state["variances"])
        for name, window in state["windows"].items():
            pricing._own[name] = Window.from_state(num_budgets, window, size=_OWN_WINDOW)
        return pricing


def drift(position: float, overdraft: float, burst: float, variance: float) -> float:
    """By how much to spend above the mean at this balance: see `ibpo.serving.controller.Controller`."""
    half = (overdraft + burst) / 2  # w
    if half == 0:
        return 0.0
    place = (position - (burst - overdraft) / 2) / half  # x / w
    if abs(place) > _EDGE:
        return math.copysign(math.inf, place)
    return variance * (math.pi / (2 * half)) * math.tan(_RIGHT_ANGLE * place)


def find_room(known: float, unknown: float, most_expensive: float, mean: float) -> float:
    r"""How far a balance may stray, above and below 0, so that what the budget buys does not press it to its bounds.

    The drift of least mean square that keeps a balance within [-w, w], its steps of variance sigma^2, has the root mean
    square pi sigma^2 / 2w: a narrow room holds every short window and costs value, the more the more costs differ. With
    b the mean,

        w = max(5/4 most_expensive, (6 (sigma_e^2 / b^2)^2 + 10 pi sigma_s^2 / b^2) b),

    sigma_e^2 the variance of what is expected of a request at current prices, sigma_s^2 that of what responses cost
    relative to their estimates. The second part keeps the drift that surprises ask for at a twentieth of the mean, for
    who pays them back at once disturbs the windows that had no part in them. The first is a rule of thumb, between
    traffic where all windows of 1,000 can be within 1 % (costs that differ by less than their mean) and traffic where
    one response in fifty costs twenty means: its factor was chosen on recorded mock AIME responses and synthetic
    traffic (docs/log.md). And the most expensive of what is bought fits.

    Args:
        known: sigma_e^2.
        unknown: sigma_s^2.
        most_expensive: Mean cost of the most expensive hundredth of the responses that the budget buys at
            current prices.
        mean: b.

    Example:
        >>> find_room(known=0.0, unknown=0.0, most_expensive=12.0, mean=1.0), find_room(4.0, 0.0, 12.0, 1.0)
        (15.0, 96.0)
    """
    if not mean:
        return 0.0
    return max(1.25 * most_expensive, 6 * known / mean**3 * known + 10 * math.pi * unknown / mean)
