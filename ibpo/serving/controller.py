"""Which response group does each request get, so that the budget holds while the traffic comes? No I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ibpo.errors import IbpoError
from ibpo.serving.book import TOTAL, Book, Ended, MemoryBook, Reservation
from ibpo.serving.correction import Correction
from ibpo.serving.ledger import Account, Ledger
from ibpo.serving.option import Costs, Option, read_actual, read_option
from ibpo.serving.plan import Plan
from ibpo.serving.prices import Prices, Quote

GOLDEN = 0.6180339887498949
VERSION = 3
"""Of `Controller.state_dict`."""


class Controller:
    r"""Hold every budget of a plan on a stream of requests.

    **Choice.** A request takes the response group with the largest gain - sum_k price_k cost_k that every bound has
    room for. The price of budget k is the one at which the last 512 requests would spend (`Window`)

        mean + sigma^2 (pi / 2w) tan(pi x / 2w)          per request,

    x the bank less what is held for promises, counted from the middle of [-overdraft, carry], w half the length of
    that interval, sigma^2 the variance of a request's cost: of all drifts that keep a diffusion inside an interval for
    ever, the one of least mean square (its stationary density is cos^2), hence the least loss of value. A tenant or
    slice with a promise pays at most the price at which its own window would spend its promise, one with a ceiling at
    least that at which it would spend its ceiling. Equal gains are told apart by a factor 1 + 1e-9 frac(n golden).

    **Bound.** Nothing is admitted that the accounts have no room for, by its expected cost and by its reserve: see the
    theorem of `ibpo.serving.ledger.Ledger`, which holds whatever the gains and the prices, and however many responses
    are under way.

    Args:
        plan: What is to be held.
        book: Where the accounts are kept; in memory if None. Several controllers on one shared book hold the plan
            together, each with the prices of the traffic that it sees.

    Example:
        >>> controller = Controller(Plan.from_dict({"budget": {"extended": {"mean": 0.5, "response_group": "long"}}}))
        >>> ask = [Option(response_group="short", gain=0.0), Option(response_group="long", gain=0.4)]
        >>> reservation = controller.decide(ask, request_id="a", now=0.0)
        >>> reservation.response_group, controller.settle("a"), controller.settle("a"), controller.left("extended")
        ('long', True, False, -0.5)
    """

    def __init__(self, plan: Plan, book: Book | None = None) -> None:
        self.plan = plan
        self.book: Book = MemoryBook(len(plan.budgets)) if book is None else book
        self._ledger = Ledger(plan, self.book)
        self.prices = [0.0] * len(plan.budgets)
        """Of the last request, per budget: gain per unit of cost."""
        self.banks = [0.0] * len(plan.budgets)
        """Per budget what was in the bank once the last request had been decided; negative: overdrawn."""
        self.num_decisions = 0
        self.num_over = 0
        """Requests for which no response group had room in every bound."""
        self._prices = Prices(plan)
        self._correction = Correction(len(plan.budgets))
        self._learning = any(budget.response_group is None for budget in plan.budgets)  # a share costs what it costs

    @property
    def num_drifts(self) -> int:
        """How often the traffic has changed so much that the window was cut."""
        return self._prices.num_drifts

    def decide(
        self, options: Sequence[Option], *, request_id: str, now: float, tenant: str = "", slice_name: str = ""
    ) -> Reservation:
        """Choose a response group, and keep its cost ready until `settle` or `cancel`.

        Args:
            options: The response groups that this request may have. A single one is taken whatever it costs; it counts.
            request_id: Deciding again under the id of an open reservation returns that one: a retry counts once.
            now: The caller's clock, in seconds; kept with the reservation.
            tenant: Who asks; "" belongs to nobody.
            slice_name: Which part of the traffic it belongs to.

        Raises:
            IbpoError: No option, a cost that is missing or negative, a gain that is not finite; nothing is changed.
        """
        # What this process knows changes once the transaction is through: a book that fails must not leave it ahead.
        with self.book.transaction():
            found = self.book.get(request_id)
            if found is not None:
                return found
            if not options:
                raise IbpoError(f"request {request_id!r}: no response group to choose from; give at least one option")
            rows = [read_option(option, self.plan.budgets, self._correction) for option in options]
            accounts = self._ledger.accounts(tenant, slice_name)
            utility, quote, made = self._decide(options, rows, accounts, request_id, now, tenant, slice_name)
            banks = [tally.bank for tally in accounts[0].tallies]
        self.banks, self.prices = banks, quote.prices
        if self._learning:
            self._correction.follow(made)
        self.num_decisions += 1
        self.num_over += not made.within
        self._prices.add(quote, utility, [row.estimate for row in rows], accounts)
        return made

    def _decide(
        self,
        options: Sequence[Option],
        rows: Sequence[Costs],
        accounts: Sequence[Account],
        request_id: str,
        now: float,
        tenant: str,
        slice_name: str,
    ) -> tuple[list[float], Quote, Reservation]:
        """Choose and book; returns the utilities and the prices with the reservation."""
        # Equal gains of different requests must not be all above or all below a price.
        factor = 1.0 + 1e-9 * math.fmod(self.num_decisions * GOLDEN, 1.0)
        utility = [option.gain * factor for option in options]
        quote = self._prices.quote(accounts)
        self._ledger.begin(accounts)
        place, within = self._choose(utility, rows, quote.prices, accounts)
        estimate, reserve, raw = rows[place]
        self._ledger.charge(accounts, estimate, reserve)
        reservation = Reservation(
            request_id=request_id,
            response_group=options[place].response_group,
            price=tuple(quote.prices),
            estimate=estimate,
            reserve=reserve,
            raw=raw,
            time=now,
            tenant=tenant,
            slice_name=slice_name,
            within=within,
        )
        self.book.put(reservation)
        return utility, quote, reservation

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
        """The request has failed for good: it counts no longer, and its reserve is free again.

        Args:
            request_id: As given to `decide`.
            actual: Budget -> what it cost nevertheless; what is left out cost nothing.

        Returns:
            False if nothing is open under this id.
        """
        return self._end(request_id, actual, cancelled=True)

    def expire(self, before: float) -> list[str]:
        """Settle at their reserve the requests decided before this time: whoever should have ended them is gone."""
        with self.book.transaction():
            names = self.book.older_than(before)
        return [name for name in names if self._end(name, None, cancelled=False, expired=True)]

    def _end(
        self, request_id: str, actual: Mapping[str, float] | None, *, cancelled: bool, expired: bool = False
    ) -> bool:
        """Book what a request cost; what responses gave back is let out in the order in which they began."""
        with self.book.transaction():
            reservation = self.book.get(request_id)
            if reservation is None:
                # Another process has ended it, or a commit that seemed to fail had not: what was known here is stale.
                lost = self._correction.follows(request_id)
                if lost:
                    self._ledger.restart()
            else:
                default = (0.0,) * len(reservation.estimate) if cancelled else reservation.estimate
                costs = read_actual(reservation, self.plan.budgets, actual, reservation.reserve if expired else default)
                self.book.pop(request_id)
                book = self._ledger.cancel if cancelled else self._ledger.settle
                ended = Ended(reservation, costs, cancelled, book(reservation, costs))
                for one in self._correction.ready(ended) if self._learning else [ended]:
                    self._ledger.release(one)
        if reservation is None:
            if lost:
                self._correction.forget()
            return False
        if self._learning:
            self._correction.end(ended)
        return True

    def recover(self) -> None:
        """Go on after a process that is gone, on a shared book: forget what only it knew of responses under way.

        To be called before the first request of a process, when the one before it may have been killed; `from_state`
        does. What the process learned of lengths and prices until its state was saved stays, and what it had under way
        stays reserved until `expire`.
        """
        if self._learning:
            with self.book.transaction():
                self._ledger.restart()
            self._correction.forget()

    def left(self, budget: str) -> float:
        """What is in the bank of a budget, in units of its cost; negative: overdrawn."""
        k = [b.name for b in self.plan.budgets].index(budget)
        with self.book.transaction():
            return self.book.tallies(TOTAL)[k].bank

    def state_dict(self) -> dict[str, Any]:
        """Everything but the plan and a shared book: `json.dumps` keeps every bit."""
        return {
            "version": VERSION,
            "budgets": [budget.name for budget in self.plan.budgets],
            "book": self.book.state() if isinstance(self.book, MemoryBook) else None,
            "prices": self.prices,
            "num_decisions": self.num_decisions,
            "num_over": self.num_over,
            **self._prices.state(),
            "correction": self._correction.state(),
        }

    @classmethod
    def from_state(cls, plan: Plan, state: Mapping[str, Any], book: Book | None = None) -> Controller:
        """The controller that goes on where `state_dict` was taken, bit for bit; on a shared book, see `recover`.

        Args:
            state: Of `state_dict`.
            plan: With budgets of the same names; their means and all terms may be others.
            book: The shared book; None: the one in the state.

        Raises:
            IbpoError: A state of something else, or of other budgets.
        """
        num_budgets, shared = len(plan.budgets), book is not None
        try:
            if state["version"] != VERSION or state["budgets"] != [budget.name for budget in plan.budgets]:
                raise IbpoError(
                    f"state: of version {state['version']!r} with budgets {state['budgets']!r}, not "
                    f"{[budget.name for budget in plan.budgets]!r}; start anew without it"
                )
            if book is None:
                book = MemoryBook.from_state(num_budgets, state["book"])
            controller = cls(plan, book)
            controller.prices = list(state["prices"])
            controller.num_decisions, controller.num_over = state["num_decisions"], state["num_over"]
            controller._prices = Prices.from_state(plan, state)
            controller._correction = Correction.from_state(num_budgets, state["correction"])
        except IbpoError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IbpoError(f"state: not one of Controller.state_dict: {error!r}; start anew without it") from None
        if shared:
            controller.recover()
        return controller

    def _choose(
        self,
        utility: Sequence[float],
        rows: Sequence[Costs],
        prices: Sequence[float],
        accounts: Sequence[Account],
    ) -> tuple[int, bool]:
        """The best option that there is room for, else the one that overdraws least; and whether there was room."""
        order: list[tuple[float, float, int]] = []
        for place, row in enumerate(rows):
            net = utility[place]
            for price, cost in zip(prices, row.estimate, strict=True):
                if cost > 0:
                    net -= price * cost
            order.append((-net, sum(row.estimate), place))
        order.sort()
        short: list[float] = [math.inf] * len(rows)
        for _, _, place in order:
            short[place] = self._ledger.shortage(accounts, rows[place].estimate, rows[place].reserve)
            if not short[place]:
                return place, True
        return min(range(len(rows)), key=lambda i: (short[i], sum(rows[i].reserve))), False
