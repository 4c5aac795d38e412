"""The hard part of the controller: who may spend what. Holds whatever the gains, the prices and the estimates say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ibpo.serving.book import TOTAL, Book, Reservation, Tally
from ibpo.serving.plan import Plan, Terms

KEPT = 1.0 - 1.0 / 4000
"""What is left of `Tally.returned` after a request: it is let out over some 4,000. Faster, and a surprise is made good
within the windows that did not have it; slower, and it is not made good."""
MOST_NAMED = 10_000
MOST_RETURNED = 4.0
"""Most that `Tally.returned` holds, in parts of `carry`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What holds for one account, per budget `[K]`, in units of the budget's cost."""

    at_most: tuple[float, ...]
    """Mean per request; infinite: no ceiling."""
    overdraft: tuple[float, ...]
    carry: tuple[float, ...]
    at_least: tuple[float, ...]
    """Promise, mean per request."""
    depth: tuple[float, ...]
    """Most that the promise's bucket keeps."""
    promising: bool
    """Whether anything is promised."""
    binding: bool
    """Whether anything is promised or forbidden."""


def back_of(reservation: Reservation, k: int, actual: float, bounds: Bounds, cancelled: bool) -> float:
    """What an ended response gave back to an account: its estimate, less its cost, and where it failed its credit."""
    return reservation.estimate[k] - actual - (bounds.at_most[k] if cancelled else 0.0)


class Account(NamedTuple):
    """One account that a request is booked in: the total first, then its tenant's and its slice's."""

    name: str
    bounds: Bounds
    tallies: list[Tally]


class Ledger:
    r"""Admit response groups inside all bounds, and settle what they cost in the end.

    Letters: for the total and one budget, b its mean, B the bank (b n - spent - estimated - forfeited), C the cushion,
    H what is held for promises, F = B - C - H.

    **Theorem.** For any requests, any choices and any order of settlements and cancellations, at any time,

        spent + reserved - b n  <=  overdraft + slip,

    where slip is at most the sum, over what has happened since F was last at least -overdraft, of

        (actual - reserve)^+  of each settlement,     b + (actual - reserve)^+  of each cancellation,
        (reserve - b)^+  of each request for which no response group had room.

    So it is 0 as long as no response costs more than its reserve, none is cancelled, and every request has a response
    group that all bounds have room for (one that costs no more than b in any budget always finds it). Then, where
    reserves are the estimates, any run of m requests costs at most b m + overdraft + carry + all promises' depths, and
    R more, R being what the bank keeps because earlier responses failed or were cheaper than estimated: `Tally.kept`,
    at most 4 carry and what waits for responses that began earlier.

    *Proof.* By induction; F = 0 at the start.

    - A request adds b to B. A response group of reserve r is admitted if r <= (F + overdraft)^+ + o, where o >= 0 lies
      in its own promise bucket (the fuller of its tenant's and its slice's). Its charge takes r from B - C, and at
      least min(r, o) from H: F falls by r - min(r, o) <= (F + overdraft)^+, so F >= -overdraft, or F has not fallen.
    - If none has room, the one that overdraws least is admitted, and the request lowers F by (r - b)^+ at most.
    - Then the promises accrue: credit moves from F to H, by (F + overdraft)^+ at most.
    - A settlement adds reserve - actual to B - C and at most the positive part of it to H: F falls by
      (actual - reserve)^+ at most. A cancellation takes b from B besides.
    - Forfeiting takes from B what B - H has above `carry` + R, but (F + overdraft)^+ at most.

    Last, spent + reserved - b n = C - B - forfeited <= -F - H <= overdraft + slip, as H >= 0. For a run with C = 0:
    B <= carry + R + H where it starts, and -B <= overdraft where it ends. A ceiling of a tenant or a slice is an
    account of the same kind with H = 0.
    """

    def __init__(self, plan: Plan, book: Book) -> None:
        self.plan, self.book = plan, book
        budgets = plan.budgets
        none = (0.0,) * len(budgets)
        self._total = Bounds(
            at_most=tuple(budget.mean for budget in budgets),
            overdraft=tuple(budget.overdraft for budget in budgets),
            carry=tuple(budget.carry for budget in budgets),
            at_least=none,
            depth=none,
            promising=False,
            binding=True,
        )
        fair = {budget.name: plan.fair_share * budget.mean for budget in budgets}
        self._tenants = {name: self._bounds(terms, fair) for name, terms in plan.tenants.items()}
        self._slices = {name: self._bounds(terms, {}) for name, terms in plan.slices.items()}
        self._named: dict[tuple[str, str], list[tuple[str, Bounds]]] = {}  # tenant, slice -> accounts
        self._other_tenant, self._other_slice = self._bounds(Terms(), fair), self._bounds(Terms(), {})

    def accounts(self, tenant: str, slice_name: str) -> list[Account]:
        """The accounts of a request."""
        named = self._named.get((tenant, slice_name))
        if named is None:
            named = [(TOTAL, self._total)]
            if tenant:
                named.append((f"tenant {tenant}", self._tenants.get(tenant, self._other_tenant)))
            if slice_name:
                named.append((f"slice {slice_name}", self._slices.get(slice_name, self._other_slice)))
            if len(self._named) < MOST_NAMED:
                self._named[tenant, slice_name] = named
        return [Account(name, bounds, self.book.tallies(name)) for name, bounds in named]

    def begin(self, accounts: Sequence[Account]) -> None:
        """A request has come: it counts, and brings its credit."""
        for _, bounds, tallies in accounts:
            for mean, tally in zip(bounds.at_most, tallies, strict=True):
                tally.num_requests += 1
                if mean < math.inf:
                    tally.bank += mean
                    tally.returned *= KEPT

    def shortage(self, accounts: Sequence[Account], reserve: Sequence[float]) -> float:
        """By how much the reserve `[K]` of a response exceeds the room, in parts of the mean; 0: it may be admitted."""
        worst = 0.0
        for place, (_, bounds, tallies) in enumerate(accounts):
            for k, tally in enumerate(tallies):
                need, mean = reserve[k], bounds.at_most[k]
                if need <= 0 or mean == math.inf:
                    continue
                room = tally.bank - tally.cushion - tally.held + bounds.overdraft[k]
                if need <= room:
                    continue
                need -= max(0.0, room)
                if place == 0 and len(accounts) > 1:
                    need -= max(0.0, *(other.tallies[k].owed for other in accounts[1:]))
                # Rounding must not refuse what was set aside to the last bit.
                if need > 1e-9 * (1.0 + reserve[k]):
                    worst = max(worst, need / mean if mean else math.inf, 1e-300)
        return worst

    def charge(self, accounts: Sequence[Account], estimate: Sequence[float], reserve: Sequence[float]) -> None:
        """Keep the reserve of the response that was chosen; then let the promises accrue, and forfeit."""
        _, total_bounds, total = accounts[0]
        bound = [account for account in accounts if account.bounds.promising]
        for k, cost in enumerate(estimate):
            for _, _, tallies in accounts:
                tallies[k].charge(cost, reserve[k])
            main = total[k]
            for _, bounds, tallies in bound:
                main.held += tallies[k].owe(-reserve[k], bounds.depth[k], math.inf)
            room = max(0.0, main.bank - main.cushion - main.held + total_bounds.overdraft[k])
            for _, bounds, tallies in bound:
                grown = tallies[k].owe(bounds.at_least[k], bounds.depth[k], room)
                main.held += grown
                room -= max(0.0, grown)
            self._close(accounts, k)

    def settle(self, reservation: Reservation, actual: Sequence[float]) -> None:
        """A response has ended, and cost `actual` `[K]`."""
        accounts = self.accounts(reservation.tenant, reservation.slice_name)
        self._end(accounts, reservation, actual, cancelled=False)

    def cancel(self, reservation: Reservation, actual: Sequence[float]) -> None:
        """A request has failed for good: it counts no longer; what it cost nevertheless is booked."""
        accounts = self.accounts(reservation.tenant, reservation.slice_name)
        for account in accounts:
            for tally in account.tallies:
                tally.num_requests -= 1
        self._end(accounts, reservation, actual, cancelled=True)

    def _end(
        self,
        accounts: Sequence[Account],
        reservation: Reservation,
        actual: Sequence[float],
        *,
        cancelled: bool,
    ) -> None:
        total = accounts[0].tallies
        for k, cost in enumerate(actual):
            room = max(0.0, reservation.reserve[k] - cost)
            for _, bounds, tallies in accounts:
                tally = tallies[k]
                tally.discharge(reservation.estimate[k], reservation.reserve[k], cost)
                if bounds.at_most[k] < math.inf:
                    if cancelled:
                        tally.bank -= bounds.at_most[k]
                    tally.waiting += back_of(reservation, k, cost, bounds, cancelled)
                if bounds.promising:
                    credit = bounds.at_least[k] if cancelled else 0.0
                    grown = tally.owe(reservation.reserve[k] - cost - credit, bounds.depth[k], room)
                    total[k].held += grown
                    room -= max(0.0, grown)
            self._close(accounts, k)

    def release(self, reservation: Reservation, actual: Sequence[float], *, cancelled: bool) -> None:
        """A response has ended, and so have all that began before it: what it gave back may be let out."""
        if not cancelled and reservation.estimate == tuple(actual):
            return
        for _, bounds, tallies in self.accounts(reservation.tenant, reservation.slice_name):
            for k, cost in enumerate(actual):
                if bounds.at_most[k] < math.inf:
                    back = back_of(reservation, k, cost, bounds, cancelled)
                    tallies[k].waiting -= back
                    tallies[k].give_back(back, MOST_RETURNED * bounds.carry[k])

    @staticmethod
    def _close(accounts: Sequence[Account], k: int) -> None:
        for _, bounds, tallies in accounts:
            if bounds.at_most[k] < math.inf:
                tallies[k].close(bounds.overdraft[k], bounds.carry[k])

    def _bounds(self, terms: Terms, default: dict[str, float]) -> Bounds:
        budgets = self.plan.budgets
        most = [terms.at_most.get(budget.name, math.inf) for budget in budgets]
        least = [
            terms.at_least.get(budget.name, min(default.get(budget.name, 0.0), top))
            for budget, top in zip(budgets, most, strict=True)
        ]
        slack = [0.0 if top == math.inf else budget.slack(top) for budget, top in zip(budgets, most, strict=True)]
        return Bounds(
            at_most=tuple(most),
            overdraft=tuple(slack),
            carry=tuple(slack),
            at_least=tuple(least),
            promising=any(least),
            binding=any(least) or min(most) < math.inf,
            depth=tuple(budget.slack(mean) for budget, mean in zip(budgets, least, strict=True)),
        )
