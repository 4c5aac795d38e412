"""Which response may be admitted: the bounds hold whatever the gains, the prices and the estimates say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import NamedTuple

from ibpo.serving.controller.accounts import QUOTA, TOTAL, AccountStore, Ended, MemoryStore, Reservation, TokenBucket
from ibpo.serving.controller.policy import ServingPolicy, TenantPolicy

_KEPT = 1.0 - 1.0 / 1000
"""What is left of `TokenBucket.returned` after a request: it is released over some 1,000. Faster, and a surprise is
paid back within the windows that did not have it; slower, and what was saved is lost at the bound on what is kept."""
_MOST_NAMED = 10_000
_MOST_RETURNED = 4.0
"""Most that `TokenBucket.returned` holds, in parts of `burst`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What holds for one account, per budget `[K]`, in units of the budget's cost."""

    at_most: tuple[float, ...]
    """Mean per request; infinite: no ceiling."""
    overdraft: tuple[float, ...]
    burst: tuple[float, ...]
    overcommit: tuple[float, ...]
    at_least: tuple[float, ...]
    """Promise, mean per request."""
    depth: tuple[float, ...]
    """Most that the promise's balance keeps."""
    promising: bool
    """Whether anything is promised."""
    binding: bool
    """Whether anything is promised or forbidden."""
    credit: tuple[float, ...]
    """What a request brings to the balance: its mean, and nothing where there is no ceiling."""
    is_quota: bool = False
    """Whether it is a total, and no mean."""


class Account(NamedTuple):
    """One account that a request is booked in: the total first, then its tenant's and its slice's."""

    name: str
    bounds: Bounds
    buckets: list[TokenBucket]
    lines: list[tuple[TokenBucket, float, float, float, float]]
    """Per budget the bucket, at_most, overdraft, burst and overcommit: what a request needs, side by side."""


def _account(name: str, bounds: Bounds, buckets: list[TokenBucket]) -> Account:
    terms = zip(buckets, bounds.at_most, bounds.overdraft, bounds.burst, bounds.overcommit, strict=True)
    return Account(name, bounds, buckets, list(terms))


def _finite(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(0.0 if value == math.inf else value for value in values)


class Admission:
    r"""Admit response groups inside all bounds, and settle what they cost in the end.

    Letters: for the total and one budget, b its mean, B the balance (b n - spent - estimated - forfeited), C what is
    overcommitted (by how much the reserves of what is in flight exceed its estimates), A the policy's allowance for it
    (`BudgetPolicy.overcommit`), H what is held for promises, E = B - H and F = E - C; `room` is the overdraft in force
    (`set_overdraft`), and `overdraft` the largest that has been in force so far: at most
    `BudgetPolicy.largest_overdraft`, whatever the traffic and the estimates were, and the policy's where it says one.

    A response group of estimate e and reserve r >= e is admitted if both

        e <= (E + room)^+ + o     and     r <= (F + room + A)^+ + min(e, o),

    o >= 0 being the balance of its own promise (the fuller of its tenant's and its slice's). By the first, what is
    expected to be spent keeps the budget, however many responses are in flight; by the second, what *can* be spent has
    a bound.

    **Theorem.** For any requests, any choices and any order of settlements and cancellations, at any time,

        spent + reserved - b n  <=  overdraft + A + slip,                                   (1)
        spent + reserved - b n  <=  overdraft + excess + slip + backed.                     (2)

    `excess` is C when E was last at least -overdraft: the sum of reserve - estimate of what was in flight then, so at
    most the largest number in flight at a time, times the largest reserve - estimate. `slip` is at most the sum, over
    what has happened since F was last at least -overdraft - A in (1), and E at least -overdraft in (2), of

        (actual - reserve)^+  of each settlement,     b + (actual - reserve)^+  of each cancellation,
        (reserve - b)^+  of each request for which no response group had room;

    `backed` is that of (reserve - estimate - b)^+ of each other response that was admitted meanwhile: such a response
    has its estimate in a promise's balance, or costs nothing.

    So slip is 0 as long as no response costs more than its reserve, none is cancelled, and every request that finds no
    room has a response group whose reserve is no more than b in any budget. Where reserves are the estimates, excess
    and backed are 0, and with A infinite the overdraft is the whole bound. Then any run of m requests costs at most
    b m + overdraft + burst + all promises' depths, and R more, R being what the balance keeps because earlier responses
    failed or were cheaper than estimated: `TokenBucket.deferred`, at most 4 burst and what waits for responses that
    began earlier.

    *Proof.* As H >= 0, spent + reserved - b n = C - B - forfeited <= -F. It is shown that -F is at most the right side
    of (1) and of (2), by induction; F = E = 0 at the start. Wherever F >= -overdraft - A, (1) holds with slip 0, and
    wherever E >= -overdraft, -F = C - E <= overdraft + C is (2) with slip 0. What can happen:

    - A request adds b to B, and the response that is admitted takes e from B, adds r - e to C and takes at least
      min(e, o) from H: E falls by at most e - min(e, o) - b, F by at most r - min(e, o) - b. By the second condition
      r - min(e, o) <= (F + room + A)^+: afterwards F >= -room - A >= -overdraft - A, or F has not fallen. By the first,
      afterwards E >= -overdraft, or it was not so before either and e <= o: then F has fallen by at most r - e - b,
      which `backed` counts.
    - If none has room, the one that overdraws least is admitted, and F falls by (r - b)^+ at most.
    - Then the promises accrue and what exceeds `burst` + R is forfeited: both take from E and F no more than the
      positive part of both E + room and F + room + A.
    - A settlement adds reserve - actual to B - C and estimate - actual to B, and at most the positive part of the
      latter to H: F falls by (actual - reserve)^+ at most. A cancellation takes b from B besides.

    - A response that turns out longer while it is in flight (`expect_more`) has its estimate raised within its reserve:
      E and C fall by as much, F stays. Where more has come than the reserve was, that is raised to what has come: F
      falls by the part of (actual - reserve)^+ that is certain already, and slip counts it then.

    A request that counts as n (`Controller.decide`) has the costs of n together and brings n b: read n b for b above.

    For a run with C = 0: B <= burst + R + H where it starts, and -B <= overdraft where it ends. A ceiling of a tenant
    or a slice is an account of the same kind with H = 0. So is a *quota*, a total T that a session or a day may cost:
    with b = 0, overdraft = T and A = 0 (1) says that spent + reserved <= T + slip. A request whose response groups all
    lack room in a quota gets the cheapest of them, whose reserve counts in that quota's slip: nobody is refused.
    """

    def __init__(self, policy: ServingPolicy, store: AccountStore) -> None:
        self.policy, self.store = policy, store
        # Accounts in memory stay the same objects: they need not be looked up for every request.
        self._keeps = type(store) is MemoryStore
        self._kept: dict[tuple[str, str], list[Account]] = {}
        self._alone: list[Account] | None = None  # of who is no tenant's and no slice's: most requests
        self.largest_overdraft = [0.0] * len(policy.budgets)
        """Per budget the largest overdraft that has been in force."""
        self._named: dict[tuple[str, str], list[tuple[str, Bounds]]] = {}  # tenant, slice -> accounts
        self.on_overdraft: Callable[[], None] = lambda: None
        """Called when another overdraft is in force: a lease does not grow by it."""
        self.set_overdraft([budget.least_overdraft for budget in policy.budgets])

    def set_overdraft(self, overdraft: Sequence[float]) -> None:
        """What is in force from now on, `[K]`; the bursts follow where the policy does not say what they are."""
        budgets, self._overdraft = self.policy.budgets, tuple(overdraft)
        self.largest_overdraft = list(map(max, self.largest_overdraft, overdraft))
        self._burst = tuple(
            room if budget.burst is None else budget.burst for budget, room in zip(budgets, overdraft, strict=True)
        )
        none = (0.0,) * len(budgets)
        self._total = Bounds(
            at_most=tuple(budget.mean for budget in budgets),
            overdraft=self._overdraft,
            burst=self._burst,
            overcommit=tuple(budget.overcommit for budget in budgets),
            at_least=none,
            depth=none,
            promising=False,
            binding=True,
            credit=_finite(budget.mean for budget in budgets),
        )
        fair = {budget.name: self.policy.fair_share * budget.mean for budget in budgets if budget.mean < math.inf}
        self._tenants = {name: self._bounds(terms, fair) for name, terms in self.policy.tenants.items()}
        self._slices = {name: self._bounds(terms, {}) for name, terms in self.policy.slices.items()}
        self._other_tenant, self._other_slice = self._bounds(TenantPolicy(), fair), self._bounds(TenantPolicy(), {})
        self._named.clear()
        self._kept.clear()
        self._alone = None
        self.on_overdraft()

    def bounds_of(self, account: str) -> Bounds:
        """What holds for an account of `accounts`, by its name."""
        kind, _, name = account.partition(" ")
        if kind == "tenant":
            return self._tenants.get(name, self._other_tenant)
        return self._slices.get(name, self._other_slice) if kind == "slice" else self._total

    def quotas(self, named: Iterable[tuple[str, Mapping[str, float]]]) -> list[Account]:
        """Accounts with totals of their own: name, and budget -> the most that it may cost in all."""
        found: list[Account] = []
        none = (0.0,) * len(self.policy.budgets)
        for name, totals in named:
            most = [totals.get(budget.name, math.inf) for budget in self.policy.budgets]
            bounds = Bounds(
                at_most=tuple(math.inf if total == math.inf else 0.0 for total in most),
                overdraft=tuple(0.0 if total == math.inf else total for total in most),
                burst=(math.inf,) * len(most),
                overcommit=none,
                at_least=none,
                depth=none,
                promising=False,
                binding=False,
                credit=none,
                is_quota=True,
            )
            found.append(_account(QUOTA + name, bounds, self.store.buckets(QUOTA + name)))
        return found

    def _booked(self, reservation: Reservation) -> list[Account]:
        """The accounts that a reservation is booked in."""
        accounts = self.accounts(reservation.tenant, reservation.slice_name)
        if not reservation.quotas:
            return accounts
        return accounts + self.quotas((name, {}) for name in reservation.quotas)

    def accounts(self, tenant: str, slice_name: str) -> list[Account]:
        """The accounts of a request, without quotas."""
        if self._alone is not None and not tenant and not slice_name:
            return self._alone
        kept = self._kept.get((tenant, slice_name)) if self._keeps else None
        if kept is not None:
            if len(kept) > 1:
                self._follow_restarts(kept)
            return kept
        named = self._named.get((tenant, slice_name))
        if named is None:
            named = [(TOTAL, self._total)]
            if tenant:
                named.append((f"tenant {tenant}", self._tenants.get(tenant, self._other_tenant)))
            if slice_name:
                named.append((f"slice {slice_name}", self._slices.get(slice_name, self._other_slice)))
            if len(self._named) < _MOST_NAMED:
                self._named[tenant, slice_name] = named
        found = [_account(name, bounds, self.store.buckets(name)) for name, bounds in named]
        self._follow_restarts(found)
        self._follow_promises(found)
        if self._keeps and len(found) == 1:
            self._alone = found
        elif self._keeps and len(self._kept) < _MOST_NAMED:
            self._kept[tenant, slice_name] = found
        return found

    @staticmethod
    def credit_of(accounts: Sequence[Account]) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
        """What a request brings to accounts without quotas: `Reservation.credit` and `Reservation.promised`."""
        promised = ()
        if any(account.bounds.promising for account in accounts):
            promised = tuple(account.bounds.at_least for account in accounts)
        return tuple(account.bounds.credit for account in accounts), promised

    def _credit(self, reservation: Reservation, cancelled: bool) -> Iterator[Sequence[float]]:
        """Per account, quotas at the end, the credit that is taken back: of what failed, as it was given."""
        none = (0.0,) * len(self.policy.budgets)
        if not cancelled:
            return repeat(none)
        given = reservation.credit or self.credit_of(self.accounts(reservation.tenant, reservation.slice_name))[0]
        count = reservation.num_requests
        return chain((tuple(mean * count for mean in row) for row in given), repeat(none))

    @staticmethod
    def _follow_restarts(accounts: Sequence[Account]) -> None:
        restarts = accounts[0].buckets[0].restarts
        for account in accounts:
            if account.buckets[0].restarts != restarts:
                for bucket in account.buckets:
                    bucket.restarts, bucket.waiting = restarts, 0.0

    @staticmethod
    def _follow_promises(accounts: Sequence[Account]) -> None:
        """Keep no more of an earlier policy's promises than this one makes: the rest is for everybody again."""
        for account in accounts[1:]:
            for main, bucket, depth in zip(accounts[0].buckets, account.buckets, account.bounds.depth, strict=True):
                if abs(bucket.owed) > depth:
                    main.held += bucket.owe(0.0, depth, 0.0)

    def restart(self) -> None:
        """Forget what ended responses have in `waiting`: the process that knew of them is gone.

        Other accounts than the total follow when they are used next; other processes see it by `Ended.restarts`.
        """
        total = self.store.buckets(TOTAL)
        restarts = total[0].restarts + 1
        for bucket in total:
            bucket.restarts, bucket.waiting = restarts, 0.0

    def begin(self, accounts: Sequence[Account], num_requests: int = 1) -> None:
        """A request has come: it counts, as several if it asks for several answers, and brings its credit."""
        kept = _KEPT if num_requests == 1 else _KEPT**num_requests
        for account in accounts:
            for bucket, mean, _, _, _ in account.lines:
                bucket.num_requests += num_requests
                if mean != math.inf:
                    bucket.balance += mean * num_requests
                    bucket.returned *= kept

    def shortage(self, accounts: Sequence[Account], estimate: Sequence[float], reserve: Sequence[float]) -> float:
        """By how much a response `[K]` exceeds the room, in parts of the mean; 0: it may be admitted."""
        worst = 0.0
        for account in accounts:
            k = -1
            for bucket, mean, overdraft, _, overcommit in account.lines:
                k += 1
                most = reserve[k]
                if most <= 0:
                    continue
                # E + overdraft, and F + overdraft + A
                cost, left = estimate[k], bucket.balance - bucket.held - bucket.away + overdraft
                room = left - bucket.overcommitted + overcommit
                if (cost <= left and most <= room) or mean == math.inf:
                    continue
                own = 0.0  # min(e, o): what the request's own promise pays
                if account is accounts[0] and len(accounts) > 1:
                    own = min(cost, max(0.0, *(other.buckets[k].owed for other in accounts[1:])))
                need = max(cost - own - max(0.0, left), most - own - max(0.0, room))
                # Rounding must not refuse what was set aside to the last bit.
                if need > 1e-9 * (1.0 + most):
                    worst = max(worst, need / mean if mean else math.inf, 1e-300)
        return worst

    def charge(
        self, accounts: Sequence[Account], estimate: Sequence[float], reserve: Sequence[float], num_requests: int = 1
    ) -> None:
        """Keep the reserve of the response that was chosen; then let the promises accrue, and forfeit."""
        if len(accounts) == 1:  # as below and `_close`, in one go: most requests
            for k, (bucket, mean, overdraft, burst, overcommit) in enumerate(accounts[0].lines):
                cost, most = estimate[k], reserve[k]
                bucket.balance = balance = bucket.balance - cost
                bucket.overcommitted = above = bucket.overcommitted + (most - cost)
                bucket.estimated += cost
                if mean == math.inf:
                    bucket.owe_nothing()
                    continue
                if balance - bucket.held > burst:
                    bucket.forfeit(overdraft, burst, overcommit)
                    balance = bucket.balance
                beyond = above - balance - bucket.forfeited
                if beyond > bucket.peak:
                    bucket.peak = beyond
            return
        for account in accounts:
            for bucket, cost, most in zip(account.buckets, estimate, reserve, strict=True):
                bucket.balance -= cost
                bucket.overcommitted += most - cost
                bucket.estimated += cost
        if len(accounts) > 1:
            self._promise(accounts, estimate, num_requests)
        self._close(accounts)

    def _promise(self, accounts: Sequence[Account], estimate: Sequence[float], num_requests: int) -> None:
        """What was charged comes out of the promises first, and the request adds to them what there is room for."""
        bound = [account for account in accounts if account.bounds.promising]
        for k, cost in enumerate(estimate) if bound else ():
            main, _, overdraft, _, overcommit = accounts[0].lines[k]
            for account in bound:
                main.held += account.buckets[k].owe(-cost, account.bounds.depth[k], math.inf)
            room = max(0.0, main.room(overdraft, overcommit))
            for account in bound:
                bounds = account.bounds
                grown = account.buckets[k].owe(bounds.at_least[k] * num_requests, bounds.depth[k], room)
                main.held += grown
                room -= max(0.0, grown)

    def expect_more(self, reservation: Reservation, estimate: Sequence[float], reserve: Sequence[float]) -> None:
        """A response that is in flight turns out longer: `[K]` each, not below what was booked for it."""
        for account in self._booked(reservation):
            for bucket, was, now, kept, most in zip(
                account.buckets, reservation.estimate, estimate, reservation.reserve, reserve, strict=True
            ):
                bucket.balance -= now - was
                bucket.estimated += now - was
                bucket.overcommitted += (most - kept) - (now - was)
        if reservation.tenant or reservation.slice_name:
            accounts = self.accounts(reservation.tenant, reservation.slice_name)
            self._owe_back(accounts, reservation, estimate, cancelled=False)
        self._close(self._booked(reservation))

    def end(self, reservation: Reservation, actual: Sequence[float], *, cancelled: bool) -> int:
        """A response has ended, and cost `actual` `[K]`; if it failed for good (`cancelled`), it counts no longer.

        Returns:
            How often these accounts have been restarted.
        """
        accounts = (
            self._booked(reservation)
            if reservation.quotas
            else self.accounts(reservation.tenant, reservation.slice_name)
        )
        estimate, reserve = reservation.estimate, reservation.reserve
        if len(accounts) == 1 and not cancelled:  # as below and `_close`, in one go: most responses
            for k, (bucket, mean, overdraft, burst, overcommit) in enumerate(accounts[0].lines):
                expected, cost = estimate[k], actual[k]
                bucket.overcommitted = above = bucket.overcommitted - (reserve[k] - expected)
                back = expected - cost
                bucket.balance = balance = bucket.balance + back
                bucket.estimated -= expected
                bucket.spent += cost
                if back:
                    bucket.waiting += back
                if mean == math.inf:
                    bucket.owe_nothing()
                    continue
                if balance - bucket.held > burst:
                    bucket.forfeit(overdraft, burst, overcommit)
                    balance = bucket.balance
                beyond = above - balance - bucket.forfeited
                if beyond > bucket.peak:
                    bucket.peak = beyond
            return accounts[0].buckets[0].restarts
        for account, credit in zip(accounts, self._credit(reservation, cancelled), strict=False):
            for bucket, expected, most, cost, brought in zip(
                account.buckets, estimate, reserve, actual, credit, strict=True
            ):
                back = expected - cost - brought
                bucket.balance += back
                bucket.overcommitted -= most - expected
                bucket.estimated -= expected
                bucket.spent += cost
                if not account.bounds.is_quota:  # which loses no credit, so nothing is held back
                    bucket.waiting += back
                if cancelled:
                    bucket.num_requests -= reservation.num_requests
        if len(accounts) > 1:
            self._owe_back(accounts, reservation, actual, cancelled)
        self._close(accounts)
        return accounts[0].buckets[0].restarts

    @staticmethod
    def _owe_back(
        accounts: Sequence[Account], reservation: Reservation, actual: Sequence[float], cancelled: bool
    ) -> None:
        """What a response gave back goes to the promises that paid for it; of one that failed, its credit is gone."""
        total = accounts[0].buckets
        promised = reservation.promised
        if not reservation.credit:  # of an earlier version
            promised = Admission.credit_of(accounts)[1]
        for k, cost in enumerate(actual) if promised else ():
            back = reservation.estimate[k] - cost
            room = max(0.0, back)
            for account, each in zip(accounts, promised, strict=False):
                if each[k]:
                    credit = each[k] * reservation.num_requests if cancelled else 0.0
                    grown = account.buckets[k].owe(back - credit, account.bounds.depth[k], room)
                    total[k].held += grown
                    room -= max(0.0, grown)

    def release(self, ended: Ended) -> None:
        """A response has ended, and so have all that began before it: what it gave back may be released.

        Not in quotas: they lose no credit, and have all of it back at once.
        """
        reservation, actual, cancelled, restarts = ended
        if not cancelled and reservation.estimate == actual:
            return
        accounts = self.accounts(reservation.tenant, reservation.slice_name)
        for account, credit in zip(accounts, self._credit(reservation, cancelled), strict=False):
            for (bucket, mean, overdraft, burst, overcommit), expected, cost, brought in zip(
                account.lines, reservation.estimate, actual, credit, strict=True
            ):
                back = expected - cost - brought
                if bucket.restarts == restarts:
                    bucket.waiting -= back
                if mean != math.inf:
                    bucket.give_back(back, _MOST_RETURNED * burst)
                    # What that does not hold is lost now, not after one more request could have used it.
                    if bucket.balance - bucket.held > burst:
                        bucket.forfeit(overdraft, burst, overcommit)

    @staticmethod
    def _close(accounts: Sequence[Account]) -> None:
        """Lose the credit beyond `burst` that no reserve needs, and remember the largest overdraft."""
        for account in accounts:
            for bucket, mean, overdraft, burst, overcommit in account.lines:
                if mean == math.inf:
                    if not account.bounds.is_quota:
                        bucket.owe_nothing()
                    continue
                balance = bucket.balance
                if balance - bucket.held > burst:
                    bucket.forfeit(overdraft, burst, overcommit)
                    balance = bucket.balance
                beyond = bucket.overcommitted - balance - bucket.forfeited
                if beyond > bucket.peak:
                    bucket.peak = beyond

    def _bounds(self, terms: TenantPolicy, default: dict[str, float]) -> Bounds:
        budgets = self.policy.budgets
        most = [terms.at_most.get(budget.name, math.inf) for budget in budgets]
        least = [
            terms.at_least.get(budget.name, min(default.get(budget.name, 0.0), top))
            for budget, top in zip(budgets, most, strict=True)
        ]
        slack = [
            0.0
            if top == math.inf
            else budget.slack(top)
            if budget.overdraft is not None
            else max(budget.slack(top), room if room < math.inf else 0.0)
            for budget, top, room in zip(budgets, most, self._overdraft, strict=True)
        ]
        return Bounds(
            at_most=tuple(most),
            overdraft=tuple(slack),
            burst=tuple(slack),
            overcommit=tuple(budget.overcommit for budget in budgets),
            at_least=tuple(least),
            promising=any(least),
            binding=any(least) or min(most) < math.inf,
            credit=_finite(most),
            depth=tuple(budget.slack(mean) for budget, mean in zip(budgets, least, strict=True)),
        )
