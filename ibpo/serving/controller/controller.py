"""Which response group does each request get, so that the budget holds while the traffic comes? No I/O, no clock."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ibpo.errors import IbpoError
from ibpo.pictures import number_text
from ibpo.serving.controller.accounts import QUOTA, TOTAL, AccountStore, Ended, MemoryStore, Reservation
from ibpo.serving.controller.admission import Account, Admission, Bounds
from ibpo.serving.controller.correction import Correction
from ibpo.serving.controller.leases import Leaseholder
from ibpo.serving.controller.policy import LARGEST, ServingPolicy, show
from ibpo.serving.controller.pricing import Pricing
from ibpo.usage import MAX_COUNT

_GOLDEN = 0.6180339887498949
_INFINITY = math.inf  # a name of this module is found sooner
_ONCE = (0,)
_NO_QUOTAS: Mapping[str, Mapping[str, float]] = {}
_VERSION = 4
"""The format of `Controller.state_dict`."""

_new_tuple = tuple.__new__

_Costs = tuple[float, ...]
"""A candidate's cost per budget `[K]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One response group that a request may be answered by."""

    response_group: str
    gain: float
    """What answering so is worth; only differences between the candidates of one request count."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Budget -> expected cost, at least 0. Budgets on a share need none."""
    reserve: Mapping[str, float] = field(default_factory=dict)
    """Budget -> the most that it can cost, where that is known (a cap on its tokens); else what is expected."""


class Controller:
    r"""Hold every budget of a serving policy on a stream of requests.

    **Choice.** A request takes the response group with the largest gain - sum_k price_k cost_k that every bound has
    room for. The price of budget k is the one at which the last 512 requests would spend (`Window`)

        mean + sigma^2 (pi / 2w) tan(pi x / 2w)          per request,

    x the balance less what is held for promises, counted from the middle of [-overdraft, burst], w half the length of
    that interval, sigma^2 the variance of a request's cost: of all drifts that keep a diffusion inside an interval
    forever, the one of least mean square (its stationary density is cos^2), so the least loss of value; of a cost no
    less than .6 mean, so that who overdraws repays over many requests. Where the
    policy does not say how long the interval is, it follows what the budget buys, so that the drift stays small and the
    most expensive of it fits (`ibpo.serving.controller.pricing.find_room`). A response group that costs more than the
    larger half of an interval that is given is not bought, unless it is the cheapest: it would press the balance to its
    bounds, at the loss of all others (`cautions`). A tenant or slice with a promise pays at most the
    price at which its own window would spend its promise, one with a ceiling at least that at which it would spend its
    ceiling. Equal gains are made distinct by a factor 1 + 1e-9 frac(n golden).

    **Exploration** (`ServingPolicy.explore`, off by default). With T above 0, a response group g of those that every
    bound has room for is drawn with probability proportional to exp(net_g / T), net_g = gain - sum_k price_k cost_k:
    at most T log G of net gain are lost, and what costs far more than it may bring is not tried. Its probability is the
    reservation's `propensity`, as `ibpo.routing.evaluate_off_policy` needs it. The draw is a hash of the request's id.

    **Bound.** Nothing is admitted that the accounts have no room for, by its expected cost and by its reserve: see the
    theorem of `ibpo.serving.controller.admission.Admission`, which holds whatever the gains and the prices, and however
    many responses are in flight.

    Args:
        policy: The budgets to hold.
        store: Where the accounts are stored; in memory if None. Several controllers on one shared store hold the
            policy together, each with the prices of the traffic that it sees.

    Example:
        >>> half = {"budget": {"extended": {"mean": 0.5, "response_group": "long"}}}
        >>> controller = Controller(ServingPolicy.from_dict(half))
        >>> candidates = [Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=0.4)]
        >>> reservation = controller.decide(candidates, request_id="a", now=0.0)
        >>> reservation.response_group, controller.settle("a"), controller.settle("a")
        ('long', True, False)
        >>> controller.balance_of("extended")
        -0.5
    """

    def __init__(self, policy: ServingPolicy, store: AccountStore | None = None) -> None:
        self.policy, num_budgets = policy, len(policy.budgets)
        self.store: AccountStore = MemoryStore(num_budgets) if store is None else store
        self.prices = [0.0] * num_budgets
        """The last request's prices, per budget: gain per unit of cost."""
        self.balances = [0.0] * num_budgets
        """Per budget the balance once the last request had been decided; negative: overdrawn."""
        self.num_decisions = 0
        self.num_over = 0
        """Requests for which no response group had room in every bound."""
        self.num_too_dear: dict[str, int] = {}
        """Response group -> requests for which it was expected to cost more than there is room for (`overdraft`)."""
        self.quota_balances: dict[str, list[float]] = {}
        """The last request's: quota -> per budget what it has spent and expects to spend, as a negative number."""
        self.short_quotas: list[str] = []
        """The quotas that had no room for all candidates of the last request."""
        self._in_memory = type(self.store) is MemoryStore
        self._explores = policy.explore > 0
        self._admission = Admission(policy, self.store)
        self._pricing = Pricing(policy)
        self._correction = Correction(num_budgets)
        self._num_believed = 0
        self._limits = self._find_limits()
        self._names = [budget.name for budget in policy.budgets]
        self._learning = any(budget.response_group is None for budget in policy.budgets)  # a share costs what it costs
        self._only_cost = self._names[0] if num_budgets == 1 and self._learning else None
        self._no_share: _Costs = (0.0,) * num_budgets
        self._share_of: dict[str, _Costs] | None = None  # costs of a response, where all budgets are on shares
        if not self._learning:
            groups = [budget.response_group for budget in policy.budgets]
            self._share_of = {
                group: tuple(float(group == other) for other in groups) for group in groups if group is not None
            }

    @property
    def num_drifts(self) -> int:
        """How often the traffic has changed permanently: see `ibpo.serving.controller.alarm.Alarm`."""
        return self._pricing.num_drifts

    @property
    def overdraft(self) -> list[float]:
        """Per budget the overdraft in force: the policy's, or what follows from what the budget buys."""
        return self._pricing.overdraft

    @property
    def corrections(self) -> dict[str, list[float]]:
        """Response group -> per budget by what its expected costs are multiplied, as earlier answers cost otherwise."""
        return self._correction.ratios

    def bounds_of(self, account: str) -> Bounds:
        """What holds for an account by its name: `total`, `tenant NAME` or `slice NAME`."""
        return self._admission.bounds_of(account)

    def cautions(self) -> list[str]:
        """A sentence for each response group that most requests could not have, as it is expected to cost too much."""
        rooms = ", ".join(
            f"{number_text(room)} {budget.name}"
            for budget, room in zip(self.policy.budgets, self.overdraft, strict=True)
        )
        never = {budget.response_group for budget in self.policy.budgets if budget.mean == 0}  # a share of 0 says so
        return [
            f"response group {group!r} is expected to cost more than there is room for at a time ({rooms}): out of "
            f"reach of {count} of {self.num_decisions} requests; raise the budget, or set overdraft to that or more"
            for group, count in sorted(self.num_too_dear.items())
            if 2 * count > self.num_decisions and group not in never
        ]

    def decide(
        self,
        candidates: Sequence[Candidate],
        *,
        request_id: str,
        now: float,
        tenant: str = "",
        slice_name: str = "",
        num_requests: int = 1,
        quotas: Mapping[str, Mapping[str, float]] = _NO_QUOTAS,
    ) -> Reservation:
        """Choose a response group, and keep its cost ready until `settle` or `cancel`.

        Args:
            candidates: The response groups that this request may have. A single one is taken whatever it costs; it
                counts.
            request_id: Deciding again under the id of an open reservation returns that one: a retry counts once.
            now: The caller's clock, in seconds; stored with the reservation.
            tenant: Who asks; "" belongs to nobody.
            slice_name: Which part of the traffic it belongs to.
            num_requests: As how many requests it counts, e.g. one for each of several answers; all get one response
                group. The candidates' costs are those of all together, their gains those of one.
            quotas: Totals that it counts against as well, e.g. its session's and its day's: the name of an account ->
                budget -> the most that all its requests may cost. What has no room in one of them by its reserve is
                not chosen, unless it is the cheapest: at the end of a quota requests are answered as cheaply as can
                be. A cost that no mean bounds needs a budget with an infinite one.

        Raises:
            IbpoError: No candidate, a cost that is missing or negative, a number that is not finite, or less than one
                request; nothing is changed.
        """
        # Equal gains of different requests must not be all above or all below a price.
        factor = 1.0 + 1e-9 * (self.num_decisions * _GOLDEN % 1.0)
        # What this process knows changes once the transaction is through: a store that fails must not leave it ahead.
        with self.store.transaction():
            found = self.store.get(request_id)
            if found is not None:
                return found
            if not candidates:
                raise IbpoError(
                    f"request {request_id!r}: no response group to choose from; give at least one candidate"
                )
            if num_requests != 1 and not (isinstance(num_requests, int) and 1 < num_requests <= MAX_COUNT):
                raise IbpoError(
                    f"request {request_id!r}: num_requests is {show(num_requests)}; it must be 1, 2, 3, ..., at most "
                    f"{MAX_COUNT}"
                )
            if not -LARGEST <= now <= LARGEST:
                raise IbpoError(f"request {request_id!r}: now is {show(now)}; it must be a finite number of seconds")
            utility, estimates, reserves, raws = self._read(candidates, factor, num_requests)
            accounts = self._admission.accounts(tenant, slice_name)
            quote = self._pricing.quote(accounts)
            prices = quote.prices
            if len(accounts) == 1:
                credit, promised = (accounts[0].bounds.credit,), ()
            else:
                credit, promised = self._admission.credit_of(accounts)
            if quotas:
                accounts = accounts + self._read_quotas(quotas, now)
            self._admission.begin(accounts, num_requests)
            short = self._find_short(accounts, estimates, reserves) if quotas else []
            place, within, too_expensive = self._choose(utility, estimates, reserves, prices, accounts, num_requests)
            propensity = 1.0
            if self._explores and within and len(estimates) > 1:
                # Each may be too expensive for a budget of its own: then only what is chosen anyway is left.
                options = [i for i in range(len(estimates)) if i == place or i not in too_expensive]
                gains = [value * num_requests for value in utility]
                options = [i for i in options if not self._admission.shortage(accounts, estimates[i], reserves[i])]
                if options:  # none where a quota is used up: the cheapest is taken all the same
                    place, propensity = self._draw(request_id, options, gains, estimates, prices)
            estimate, reserve = estimates[place], reserves[place]
            self._admission.charge(accounts, estimate, reserve, num_requests)
            # As `Reservation(...)`, which is a function of Python's more.
            reservation = _new_tuple(
                Reservation,
                (
                    request_id,
                    candidates[place].response_group,
                    tuple(prices),
                    estimate,
                    reserve,
                    raws[place],
                    now,
                    tenant,
                    slice_name,
                    within,
                    num_requests,
                    propensity,
                    tuple(quotas),
                    credit,
                    promised,
                ),
            )
            self.store.put(reservation)
            balances = [bucket.balance for bucket in accounts[0].buckets]
        self.balances, self.prices = balances, prices
        if quotas:
            self.quota_balances = {
                row.name.removeprefix(QUOTA): [bucket.balance for bucket in row.buckets]
                for row in accounts
                if row.bounds.is_quota
            }
            self.short_quotas = short
        if self._learning:
            self._correction.follow(reservation)
        self.num_decisions += 1
        if not within:
            self.num_over += 1
        if too_expensive:
            for group in {candidates[i].response_group for i in too_expensive}:
                self.num_too_dear[group] = self.num_too_dear.get(group, 0) + 1
        if num_requests > 1:
            estimates = [tuple(cost / num_requests for cost in row) for row in estimates]
        # A window remembers no more than its size, however many they were.
        for _ in range(min(num_requests, self._pricing.size)) if num_requests > 1 else _ONCE:
            if self._pricing.add(quote, utility, estimates, accounts):
                self._admission.set_overdraft(self._pricing.overdraft)
                self._limits = self._find_limits()
        return reservation

    def _read_quotas(self, quotas: Mapping[str, Mapping[str, float]], now: float) -> list[Account]:
        """The accounts of quotas, noted as used.

        Raises:
            IbpoError: A budget that there is not, or a total that is not a number.
        """
        for name, totals in quotas.items():
            for budget, total in totals.items():
                if budget not in self._names:
                    raise IbpoError(
                        f"quota {name!r}: there is no budget {budget!r}; name one of {', '.join(self._names)}"
                    )
                if total != _INFINITY and not 0 <= total <= LARGEST:
                    raise IbpoError(f"quota {name!r}: {budget} is {show(total)}; it must be a number, at least 0")
        for name in quotas:
            self.store.touch(QUOTA + name, now)
        return self._admission.quotas(quotas.items())

    def _find_short(
        self, accounts: Sequence[Account], estimates: Sequence[_Costs], reserves: Sequence[_Costs]
    ) -> list[str]:
        """The quotas that lack room for one of the candidates."""
        return [
            account.name.removeprefix(QUOTA)
            for account in accounts
            if account.bounds.is_quota
            and any(
                self._admission.shortage([account], estimate, reserve)
                for estimate, reserve in zip(estimates, reserves, strict=True)
            )
        ]

    def _find_limits(self) -> list[float]:
        """Per budget the largest expected cost of a response that there is room for: more is too expensive."""
        return [
            room if budget.overdraft is None else max(room, budget.burst or 0.0)
            for budget, room in zip(self.policy.budgets, self._pricing.overdraft, strict=True)
        ]

    def _choose(
        self,
        utility: Sequence[float],
        estimates: Sequence[_Costs],
        reserves: Sequence[_Costs],
        prices: Sequence[float],
        accounts: Sequence[Account],
        num_requests: int,
    ) -> tuple[int, bool, Sequence[int]]:
        """The best candidate that there is room for, else the one that overdraws least.

        Returns:
            Its place; whether there was room; which candidates are expected to cost more than there is room for at all.
        """
        best, most, least, expensive = -1, -_INFINITY, _INFINITY, False
        parts: Sequence[float] | None = None
        place, limits = 0, self._limits
        if len(prices) == 1:  # as below, for most policies
            price, limit = prices[0], limits[0] * num_requests
            for (cost,) in estimates:
                net = utility[place] * num_requests
                if cost > 0:
                    net -= price * cost
                    if cost > limit:
                        expensive = True
                if net > most or (net == most and cost < least):
                    best, most, least = place, net, cost
                place += 1
        else:
            for value, estimate in zip(utility, estimates, strict=True):
                net = value * num_requests  # gain - sum_k price_k cost_k
                for cost, price, limit in zip(estimate, prices, limits, strict=True):
                    if cost > 0:
                        net -= price * cost
                        if cost > limit * num_requests:
                            expensive = True
                if net > most:
                    best, most = place, net
                elif net == most:
                    parts = parts or _in_parts(estimates)
                    if parts[place] < parts[best]:
                        best = place
                place += 1
        if not expensive and not self._admission.shortage(accounts, estimates[best], reserves[best]):
            return best, True, ()
        return self._choose_among(utility, estimates, reserves, prices, accounts, num_requests)

    def _choose_among(
        self,
        utility: Sequence[float],
        estimates: Sequence[_Costs],
        reserves: Sequence[_Costs],
        prices: Sequence[float],
        accounts: Sequence[Account],
        num_requests: int,
    ) -> tuple[int, bool, Sequence[int]]:
        """As `_choose`, where something may be too expensive, or there is no room for the best."""
        places: Sequence[int] = range(len(estimates))
        too_expensive: list[int] = []
        for k, limit in enumerate(self._limits):
            costs = [row[k] for row in estimates]
            most, least = limit * num_requests, min(costs)
            expensive = [place for place in places if costs[place] > most and costs[place] > least]
            too_expensive += expensive
            # What follows what is bought forbids nothing: where it is too narrow now, there may be credit.
            if self.policy.budgets[k].overdraft is not None and len(expensive) < len(places):
                places = [place for place in places if place not in expensive]
        order: list[tuple[float, float, int]] = []
        parts = _in_parts(estimates)
        for place in places:
            net, estimate = utility[place] * num_requests, estimates[place]  # gain - sum_k price_k cost_k
            for price, cost in zip(prices, estimate, strict=True):
                if cost > 0:
                    net -= price * cost
            order.append((-net, parts[place], place))
        order.sort()
        short: dict[int, float] = {}
        for _, _, place in order:
            short[place] = self._admission.shortage(accounts, estimates[place], reserves[place])
            if not short[place]:
                return place, True, too_expensive
        kept = _in_parts(reserves)
        own = [account for account in accounts if not account.bounds.is_quota]
        if len(own) < len(accounts):  # a quota is used up: the cheapest, if the budgets themselves have room for it
            used_up = [
                (k, total)
                for account in accounts
                if account.bounds.is_quota
                for k, (bucket, mean, total, _, overcommit) in enumerate(account.lines)
                if mean < _INFINITY and max(reserves[i][k] for i in places) > bucket.room(total, overcommit)
            ]

            def in_totals(costs: _Costs) -> float:
                """In parts of the totals that are used up: tokens and money are not added."""
                row = [costs[k] / total if total else costs[k] * _INFINITY for k, total in used_up]
                return sum(x for x in row if x > 0)

            def cost_of(i: int) -> tuple[float, float, float, float]:
                # The most that it can cost comes first: of a group that has answered twice the estimate knows little.
                return in_totals(reserves[i]), in_totals(estimates[i]), parts[i], kept[i]

            place = min(places, key=cost_of)
            if not self._admission.shortage(own, estimates[place], reserves[place]):
                return place, True, too_expensive
        return min(places, key=lambda i: (short[i], kept[i])), False, too_expensive

    def _draw(
        self,
        request_id: str,
        places: Sequence[int],
        gains: Sequence[float],
        estimates: Sequence[_Costs],
        prices: Sequence[float],
    ) -> tuple[int, float]:
        """One of the candidates that there is room for, by chance, and its probability: see `Controller`."""
        net: list[float] = []
        for i in places:
            paid = sum(price * cost for price, cost in zip(prices, estimates[i], strict=True) if cost > 0)
            net.append(gains[i] - paid)
        most = max(net)
        weights = [math.exp((value - most) / self.policy.explore) for value in net]
        # By the id: a request that is decided again after a crash is decided alike, and no state has to be kept.
        digest = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        left = int.from_bytes(digest) / 2**64 * sum(weights)
        for place, weight in zip(places, weights, strict=True):
            left -= weight
            if left < 0:
                return place, weight / sum(weights)
        return places[-1], weights[-1] / sum(weights)

    def _read(
        self, candidates: Sequence[Candidate], factor: float, num_requests: int
    ) -> tuple[list[float], list[_Costs], list[_Costs], list[_Costs]]:
        """Per candidate its utility, and the costs of so many requests together, per budget `[K]`.

        Returns:
            Utility; expected costs, corrected by what earlier responses cost; what is kept ready, at least that; what
            the caller expects. All plain floats: numpy's take several times as long in what follows.

        Raises:
            IbpoError: A gain that is not finite, a cost that is missing, negative or not finite.
        """
        utility: list[float] = []
        estimates: list[_Costs] = []
        reserves: list[_Costs] = []
        raws: list[_Costs] = []
        share_of = self._share_of if num_requests == 1 else None
        name, all_ratios = self._only_cost, self._correction.ratios
        for candidate in candidates:
            gain, group = candidate.gain, candidate.response_group
            if not -LARGEST <= gain <= LARGEST:
                raise IbpoError(f"candidate {group!r}: gain is {show(gain)}; it must be a finite number")
            utility.append((gain if type(gain) is float else float(gain)) * factor)
            if share_of is not None:  # known beforehand, and the same in all three
                estimates.append(share_of.get(group, self._no_share))
            elif name is not None and not candidate.reserve:  # as `_read_costs`, for most policies
                cost = candidate.cost.get(name, -1.0)
                if not 0 <= cost <= LARGEST:
                    raise _bad_cost(candidate, name)
                if type(cost) is not float:
                    cost = float(cost)
                row = (cost * all_ratios[group][0],) if group in all_ratios else (cost,)
                estimates.append(row)
                reserves.append(row)
                raws.append((cost,))
            else:
                estimate, reserve, raw = self._read_costs(candidate, num_requests)
                estimates.append(estimate)
                reserves.append(reserve)
                raws.append(raw)
        if share_of is not None:
            return utility, estimates, estimates, estimates
        return utility, estimates, reserves, raws

    def _read_costs(self, candidate: Candidate, num_requests: int) -> tuple[_Costs, _Costs, _Costs]:
        """Expected, kept ready, and as the caller expects."""
        group = candidate.response_group
        budgets, ratios = self.policy.budgets, self._correction.ratios.get(group)
        raw: list[float] = []
        estimate: list[float] = []
        reserve: list[float] = []
        for k, budget in enumerate(budgets):
            if budget.response_group is not None:
                cost = expected = most = float(num_requests) if group == budget.response_group else 0.0
            else:
                cost = candidate.cost.get(budget.name, -1.0)
                if not 0 <= cost <= LARGEST:
                    raise _bad_cost(candidate, budget.name)
                cost = float(cost)
                expected = cost * ratios[k] if ratios else cost
                most = expected
                if candidate.reserve:
                    most = candidate.reserve.get(budget.name, expected)
                    if not 0 <= most <= LARGEST:
                        raise IbpoError(
                            f"candidate {group!r}: reserve of {budget.name} is {show(most)}; it must be finite, at "
                            "least 0"
                        )
                    most = float(most)
                    expected = min(expected, most)
            raw.append(cost)
            estimate.append(expected)
            reserve.append(most)
        return tuple(estimate), tuple(reserve), tuple(raw)

    def progress(self, request_id: str, so_far: Mapping[str, float], expected: Mapping[str, float]) -> bool:
        """A response in flight is longer than expected: book it now, and not at its end.

        So a stream that runs away is paid for while it runs. Its estimate rises within what is kept ready for it, and
        what is kept ready rises to what has come; neither ever falls.

        Args:
            request_id: As given to `decide`.
            so_far: Budget -> what it has cost so far.
            expected: Budget -> what it is expected to cost in all, given that.

        Returns:
            False if nothing is open under this id, or nothing has changed.

        Raises:
            IbpoError: A budget that there is not, or a cost that is negative or not finite; nothing is changed.
        """
        with self.store.transaction():
            was = self.store.get(request_id)
            if was is None:
                return False
            least = _read_actual(was, self._names, so_far, (0.0,) * len(self._names))
            more = _read_actual(was, self._names, expected, was.estimate)
            reserve = tuple(map(max, was.reserve, least))
            estimate = tuple(
                min(most, max(e, x, y)) for most, e, x, y in zip(reserve, was.estimate, more, least, strict=True)
            )
            if estimate == was.estimate and reserve == was.reserve:
                return False
            self._admission.expect_more(was, estimate, reserve)
            self.store.pop(request_id)
            self.store.put(was._replace(estimate=estimate, reserve=reserve))
        return True

    def settle(self, request_id: str, actual: Mapping[str, float] | None = None) -> bool:
        """The response has ended: book what it really cost.

        Args:
            request_id: As given to `decide`.
            actual: Budget -> cost; what is left out cost what was expected.

        Returns:
            False if nothing is open under this id, e.g. because it was settled before: nothing is counted twice.

        Raises:
            IbpoError: A cost that is negative or not finite; the reservation stays open.
        """
        return self._end(request_id, actual, cancelled=False)

    def cancel(self, request_id: str, actual: Mapping[str, float] | None = None) -> bool:
        """The request has failed permanently: it counts no longer, and its reserve is free again.

        Args:
            request_id: As given to `decide`.
            actual: Budget -> what it cost nevertheless; what is left out cost nothing.

        Returns:
            False if nothing is open under this id.
        """
        return self._end(request_id, actual, cancelled=True)

    def expire(self, before: float) -> list[str]:
        """Settle as expected the requests decided before this time: the process that should end them is gone.

        What they really cost is not known. It is above what was expected by (reserve - estimate) of each at most, the
        *excess* that the theorem of `ibpo.serving.controller.admission.Admission` allows while they are in flight.
        """
        with self.store.transaction():
            names = self.store.older_than(before)
        return [name for name in names if self._end(name, None, cancelled=False)]

    def _end(self, request_id: str, actual: Mapping[str, float] | None, *, cancelled: bool) -> bool:
        """Book what a request cost; what responses gave back is released in the order in which they began."""
        store = self.store
        with store.transaction():
            reservation = store.get(request_id)
            if reservation is None:
                # Another process has ended it, or a commit that seemed to fail had not: what was known here is stale.
                lost = self._correction.follows(request_id)
                if lost:
                    self._admission.restart()
            else:
                default = self._no_share if cancelled else reservation.estimate
                costs = _read_actual(reservation, self._names, actual, default) if actual else default
                store.pop(request_id)
                restarts = self._admission.end(reservation, costs, cancelled=cancelled)
                ended = _new_tuple(Ended, (reservation, costs, cancelled, restarts))
                # In memory nothing can fail any more, and it need not be known beforehand what is ready.
                if self._learning:
                    ready = self._correction.end(ended) if self._in_memory else self._correction.ready(ended)
                    for one in ready:
                        self._admission.release(one)
                elif cancelled or costs is not default:
                    self._admission.release(ended)
        if reservation is None:
            if lost:
                self._correction.forget()
            return False
        if self._learning:
            if not self._in_memory:
                self._correction.end(ended)
            if not cancelled:
                self._pricing.learn(reservation, costs)
            if self._correction.num_believed != self._num_believed:
                self._num_believed = self._correction.num_believed
                self._pricing.expect_change()
        return True

    def expect_change(self, response_group: str | None = None) -> None:
        """Expected costs change because the caller has learned something: that is no drift of the traffic.

        Args:
            response_group: Whose costs the caller expects otherwise from now on: how far its earlier expectations were
                from what came says nothing of the new ones.
        """
        self._pricing.expect_change()
        if response_group is not None:
            with self.store.transaction():
                for ended in self._correction.begin_anew(response_group):
                    self._admission.release(ended)
            self._num_believed = self._correction.num_believed

    def lease(self, holder: str) -> Leaseholder:
        """Spend no more of the accounts here than a lease of shared ones allows: see `ibpo.serving.controller.leases`.

        Args:
            holder: A name that no other process has had.
        """
        assert isinstance(self.store, MemoryStore)
        return Leaseholder(holder, self.store, self._admission)

    def forget(self, prefix: str, before: float) -> int:
        """Remove the quotas whose name begins so and that no request was decided in since this time.

        What is still in flight in them must have been ended: nothing is known of them any more.

        Returns:
            How many they were.
        """
        with self.store.transaction():
            return self.store.forget(QUOTA + prefix, before)

    def recover(self) -> None:
        """Go on after a process that is gone, on a shared store: forget what only it knew of responses in flight.

        To be called before the first request of a process, when the one before it may have been killed; `from_state`
        does. What the process learned of lengths and prices until its state was saved stays, and what it had in flight
        stays reserved until `expire`.
        """
        if self._learning:
            with self.store.transaction():
                self._admission.restart()
            self._correction.forget()

    def balance_of(self, budget: str) -> float:
        """The balance of a budget, in units of its cost; negative: overdrawn."""
        k = [b.name for b in self.policy.budgets].index(budget)
        with self.store.transaction():
            return self.store.buckets(TOTAL)[k].balance

    def state_dict(self) -> dict[str, Any]:
        """Everything but the policy and a shared store: `json.dumps` keeps every bit."""
        return {
            "version": _VERSION,
            "budgets": [budget.name for budget in self.policy.budgets],
            "book": self.store.state() if isinstance(self.store, MemoryStore) else None,
            "prices": self.prices,
            "num_decisions": self.num_decisions,
            "num_over": self.num_over,
            "num_too_dear": self.num_too_dear,
            **self._pricing.state(),
            "correction": self._correction.state(),
        }

    @classmethod
    def from_state(
        cls, policy: ServingPolicy, state: Mapping[str, Any], store: AccountStore | None = None
    ) -> Controller:
        """The controller that goes on where `state_dict` was taken, bit for bit; on a shared store, see `recover`.

        Args:
            policy: With budgets of the same names; their means and everything else may differ.
            state: As `state_dict` gave it.
            store: The shared store; None: the accounts in the state.

        Raises:
            IbpoError: A state of something else, or of other budgets.
        """
        names, shared = [budget.name for budget in policy.budgets], store is not None
        try:
            if state["version"] != _VERSION or state["budgets"] != names:
                raise IbpoError(
                    f"state: of version {state['version']!r} with budgets {state['budgets']!r}, not {names!r}; start "
                    "again without it"
                )
            if store is None:
                store = MemoryStore.from_state(len(names), state["book"])
            controller = cls(policy, store)
            controller.prices = list(state["prices"])
            controller.num_decisions, controller.num_over = state["num_decisions"], state["num_over"]
            controller.num_too_dear = dict(state["num_too_dear"])
            controller._pricing = Pricing.from_state(policy, state)
            controller._admission.set_overdraft(controller._pricing.overdraft)
            controller._limits = controller._find_limits()
            controller._correction = Correction.from_state(len(names), state["correction"])
            controller._num_believed = controller._correction.num_believed
        except IbpoError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise IbpoError(f"state: not one of Controller.state_dict: {error!r}; start again without it") from None
        if shared:
            controller.recover()
        return controller


def _in_parts(costs: Sequence[_Costs]) -> list[float]:
    """Candidates' costs over all budgets, each in parts of the largest: tokens, shares and money have no common unit.

    Example:
        >>> _in_parts([(500.0, 0.05), (505.0, 0.005)])
        [1.99..., 1.1...]
    """
    largest = [max(column) for column in zip(*costs, strict=True)]
    return [sum(cost / most for cost, most in zip(row, largest, strict=True) if most > 0) for row in costs]


def _bad_cost(candidate: Candidate, budget: str) -> IbpoError:
    group, cost = candidate.response_group, candidate.cost.get(budget)
    if cost is None:
        return IbpoError(f"candidate {group!r}: no cost for the budget {budget!r}; give one")
    return IbpoError(f"candidate {group!r}: cost of {budget} is {show(cost)}; it must be finite, at least 0")


def _read_actual(
    reservation: Reservation, names: Sequence[str], actual: Mapping[str, float], default: Sequence[float]
) -> tuple[float, ...]:
    """What a response cost, per budget `[K]`: as given, else the default.

    Raises:
        IbpoError: An unknown budget, a cost that is negative or not finite.
    """
    for name, cost in actual.items():
        if name not in names:
            raise IbpoError(
                f"request {reservation.request_id!r}: cost of {name}: there is no such budget; name one of "
                f"{', '.join(names)}"
            )
        if not 0 <= cost <= LARGEST:
            raise IbpoError(
                f"request {reservation.request_id!r}: cost of {name} is {show(cost)}; it must be finite, at least 0"
            )
    if len(names) == 1:
        return (float(actual.get(names[0], default[0])),)
    return tuple(float(actual.get(name, default[k])) for k, name in enumerate(names))
