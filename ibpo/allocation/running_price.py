"""The price carried from batch to batch, so that a stream of small batches spends as one big one would.

A batch of 8 prompts under a share of 10 % may not answer a single one at length when solved alone. Here the price comes
from a window of past problems, and what was left unspent (or overdrawn) is carried on. W problems in the window,
R responses and P problems of a batch.
"""

import math
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation.allocate import allocate
from ibpo.allocation.knapsack import envelope
from ibpo.allocation.problem import Budget, Choose, gather, validate
from ibpo.allocation.segments import FloatArray, exact_sum, mix
from ibpo.errors import IbpoError


class RunningPrice:
    r"""Allocate batch after batch under one budget on the mean cost per problem of the whole stream.

    With n problems and a total cost of S so far, the bank is budget n - S. A batch of P problems is chosen at the price
    at which the window (the last max(`window`, 2 P) problems, this batch included) would spend

        budget + bank / max(window / 4, 4 P)         per problem,

    where a step up the envelope whose slope is the price itself is taken with the probability that makes the window's
    spend exact (by a hash of its number in the stream, not by chance). If that would overdraw the bank by more than
    `overdraft` problems, each at the dearest response seen so far, the batch is solved exactly inside what is left.

    So after every batch: total cost <= budget n + overdraft * (largest cost of a response so far), unless even the
    cheapest responses cost more.

    Args:
        budget: Mean cost allowed per problem over the stream, as in `allocate`.
        overdraft: In problems; see above.
        window: Number of past problems that set the price.
        choose: "exactly_one" response per problem, or "at_most_one".

    Example:
        >>> running = RunningPrice("1/2")
        >>> running.allocate([0, 1, 0, 0.2], [1, 1, 2, 2], [0, 1, 0, 1]).tolist()
        [0, 1, 1, 0]
    """

    def __init__(
        self, budget: Budget, *, overdraft: float = 25.0, window: int = 2048, choose: Choose = "exactly_one"
    ) -> None:
        try:
            self._budget = Fraction(str(budget))
        except (ValueError, ZeroDivisionError):
            raise IbpoError(f"budget is {budget!r}: needs a finite number, the mean cost per problem") from None
        if self._budget < 0 or not overdraft >= 0 or window < 1:
            raise IbpoError("RunningPrice: budget and overdraft must be at least 0 and window at least 1")
        self.overdraft, self.window = float(overdraft), int(window)
        self.choose: Choose = choose
        self.num_problems = 0
        """Problems allocated so far."""
        self.spent = 0.0
        """Total cost so far."""
        self.price = 0.0
        """Of the last batch: utility per unit of cost."""
        self.dearest = 0.0
        """Largest cost of a response seen so far."""
        self._steps: NDArray[Any] = np.zeros((3, 0))  # of the window: number of the problem in the stream, cost, slope
        self._base: NDArray[Any] = np.zeros(
            (2, 0)
        )  # of the window: number of the problem, cost of its cheapest response

    @property
    def bank(self) -> float:
        """What is left of the budget so far, in units of cost; negative when overdrawn."""
        return float(self._budget * self.num_problems) - self.spent

    def allocate(
        self, utility: ArrayLike, problem: ArrayLike | Sequence[Hashable], cost: ArrayLike
    ) -> NDArray[np.int8]:
        """Choose within one batch, and carry on the rest.

        Args:
            utility: `[R]`.
            problem: `[R]` ids, told apart within the batch only.
            cost: `[R]` at least 0.

        Returns:
            weight `[R]`, 1 for a chosen response.

        Raises:
            IbpoError: Malformed input; the state is then unchanged.
        """
        if np.ndim(cost) != 1:
            raise IbpoError(f"cost: a running price is of one cost, shape [R], got shape {np.shape(cost)}")
        batch = gather(validate(utility, problem, cost, [None], choose=self.choose))
        size = batch.num_problems
        of_candidate = batch.spread(np.arange(size))
        steps = envelope(of_candidate, batch.utility, batch.cost[0])
        number = self.num_problems + np.arange(size)
        seen = self.num_problems + size - max(self.window, 2 * size)
        base = np.hstack([self._base, [number, batch.cost[0][steps.base]]])
        window = np.hstack([self._steps, [number[steps.problem], steps.cost, steps.slope]])
        base, window = base[:, base[0] >= seen], window[:, window[0] >= seen]

        target = float(self._budget) + self.bank / max(self.window / 4, 4 * size)
        price, part = _price(window[1], window[2], target * base.shape[1] - exact_sum(base[1]))
        # A step at the price itself leaves both its ends equally good.
        taken = np.flatnonzero(
            (steps.slope > price) | ((steps.slope == price) & (_uniform(number[steps.problem]) < part))
        )
        chosen = steps.base.copy()
        chosen[steps.problem[taken]] = steps.to[taken]  # steps of a problem rise: the last one stays
        dearest = max(self.dearest, float(batch.cost.max()))
        room = float(self._budget * (self.num_problems + size)) - self.spent + self.overdraft * dearest
        if exact_sum(batch.cost[0][chosen]) > room:
            least = exact_sum(batch.cost[0][steps.base])
            weight = allocate(utility, problem, cost, repr(max(room, least) / size), choose=self.choose).weight
        else:
            weight = np.zeros(batch.num_responses, np.int8)
            rows = chosen if batch.row is None else batch.row[chosen]
            weight[rows[rows >= 0]] = 1
        self.spent = math.fsum([self.spent, exact_sum(np.asarray(cost, np.float64)[weight == 1])])
        self.num_problems, self.price, self.dearest = self.num_problems + size, price, dearest
        self._base, self._steps = base, window
        return weight

    def state_dict(self) -> dict[str, Any]:
        """Everything, as numbers, strings and lists: `json.dumps` keeps every bit."""
        return {
            "budget": str(self._budget),
            "overdraft": self.overdraft,
            "window": self.window,
            "choose": self.choose,
            "num_problems": self.num_problems,
            "spent": self.spent,
            "price": self.price,
            "dearest": self.dearest,
            "steps": self._steps.tolist(),
            "base": self._base.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "RunningPrice":
        """The allocator that goes on where `state_dict` was taken, bit for bit."""
        try:
            running = cls(state["budget"], overdraft=state["overdraft"], window=state["window"], choose=state["choose"])
            running.num_problems, running.spent = int(state["num_problems"]), float(state["spent"])
            running.price, running.dearest = float(state["price"]), float(state["dearest"])
            running._steps = np.array(state["steps"], np.float64).reshape(3, -1)
            running._base = np.array(state["base"], np.float64).reshape(2, -1)
        except (KeyError, TypeError, ValueError) as error:
            raise IbpoError(f"state: not one of RunningPrice.state_dict: {error}") from None
        return running


def _price(cost: FloatArray, slope: FloatArray, room: float) -> tuple[float, float]:
    """The price at which the window's steps fill the room, and the part of the steps at that price that fits."""
    order = np.lexsort((cost, -slope))
    total = np.cumsum(cost[order])
    place = int(np.searchsorted(total, room, side="right"))
    if place == len(order):
        return 0.0, 0.0
    price = float(slope[order[place]])
    tied = slope == price
    before = exact_sum(cost[slope > price])
    return price, min(1.0, max(0.0, (room - before) / exact_sum(cost[tied])))


def _uniform(number: NDArray[Any]) -> FloatArray:
    """Numbers in [0, 1) that look random, fixed for each place in the stream."""
    return mix(number.astype(np.int64), "running price").astype(np.float64) / 2.0**64
