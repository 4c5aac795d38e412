"""Run requests through a controller faster than they came. N requests, G response groups, K budgets."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibpo.errors import IbpoError
from ibpo.serving.book import TOTAL
from ibpo.serving.controller import Controller, Option
from ibpo.serving.plan import Plan

FloatArray = NDArray[np.float64]
TOKENS = "tokens"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Requests:
    """What came, and what would have happened."""

    time: FloatArray
    """`[N]` seconds, not falling."""
    groups: tuple[str, ...]
    """G response groups."""
    gain: FloatArray
    """`[N, G]` what an answer is worth."""
    cost: FloatArray
    """`[N, G]` tokens that a response really takes."""
    estimate: FloatArray
    """`[N, G]` tokens that the controller is told beforehand."""
    seconds: FloatArray
    """`[N, G]` from the decision to the end of the response."""
    failed: NDArray[np.bool_]
    """`[N]` whether the response fails at its end, for good, without having cost anything."""
    tenant: list[str]
    slice_name: list[str]
    told_gain: FloatArray | None = None
    """`[N, G]` what the controller is told of the gain, e.g. by a router; None: the gain itself."""

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Replay:
    """What a controller did."""

    choice: NDArray[np.int64]
    """`[N]` index of the response group."""
    over: NDArray[np.bool_]
    """`[N]` whether no response group had room in every bound."""
    overdraft: FloatArray
    """`[K]` largest spent + reserved - mean n."""
    beyond: FloatArray
    """`[K]` largest excess of the overdraft over the bound at the same time (`ibpo.serving.ledger.Ledger`); at most 0
    but for rounding."""
    bound: FloatArray
    """`[K]` largest value that this bound took: overdraft + slip."""
    num_drifts: int


def replay(requests: Requests, plan: Plan, *, progress: Callable[[int], None] | None = None) -> Replay:
    """Decide every request at its time, and settle or cancel it when its response ends.

    The stated bound is kept beside the controller by the theorem's own words, from what happens to each request.

    Args:
        requests: In order of time.
        plan: Budgets on shares of the response groups, and on "tokens".
        progress: Told the number of decided requests, now and then.

    Raises:
        IbpoError: A budget on another cost than tokens.
    """
    for budget in plan.budgets:
        if budget.response_group is None and budget.name != TOKENS:
            raise IbpoError(f"budget {budget.name!r}: a replay knows shares of response groups and 'tokens' only")
        if budget.response_group is not None and budget.response_group not in requests.groups:
            raise IbpoError(
                f"budget {budget.name!r}: there is no response group {budget.response_group!r} in the replay"
            )
    controller = Controller(plan)
    tallies = controller.book.tallies(TOTAL)
    size, num_budgets = len(requests), len(plan.budgets)
    choice, over = np.zeros(size, np.int64), np.zeros(size, bool)
    slip, bound, beyond = [0.0] * num_budgets, [0.0] * num_budgets, [-math.inf] * num_budgets
    ends: list[tuple[float, int]] = []
    reserves: dict[int, tuple[float, ...]] = {}
    place_of = {name: place for place, name in enumerate(requests.groups)}

    held = [(k, budget.mean, budget.overdraft, tallies[k]) for k, budget in enumerate(plan.budgets)]

    def note(causes: list[float]) -> None:
        for k, mean, allowed, tally in held:
            slip[k] = more = 0.0 if tally.bank - tally.cushion - tally.held >= -allowed else slip[k] + causes[k]
            over = tally.spent + tally.estimated + tally.cushion - mean * tally.num_requests - allowed - more
            if over > beyond[k]:
                beyond[k] = over
            if allowed + more > bound[k]:
                bound[k] = allowed + more

    def end(number: int) -> None:
        reserve = reserves.pop(number)
        if requests.failed[number]:
            controller.cancel(str(number))
            note([budget.mean for budget in plan.budgets])
            return
        cost = float(requests.cost[number, choice[number]])
        tokens = {b.name: cost for b in plan.budgets if b.response_group is None}
        controller.settle(str(number), tokens)
        note([max(0.0, tokens.get(b.name, 0.0) - reserve[k]) for k, b in enumerate(plan.budgets)])

    told = requests.gain if requests.told_gain is None else requests.told_gain
    gains, estimates = told.tolist(), requests.estimate.tolist()
    for number, now in enumerate(requests.time.tolist()):
        while ends and ends[0][0] <= now:
            end(heapq.heappop(ends)[1])
        options = [
            Option(response_group=name, gain=gain, cost={TOKENS: tokens})
            for name, gain, tokens in zip(requests.groups, gains[number], estimates[number], strict=True)
        ]
        made = controller.decide(
            options,
            request_id=str(number),
            now=now,
            tenant=requests.tenant[number],
            slice_name=requests.slice_name[number],
        )
        choice[number], over[number] = place_of[made.response_group], not made.within
        reserves[number] = made.reserve
        note([0.0 if made.within else max(0.0, r - b.mean) for r, b in zip(made.reserve, plan.budgets, strict=True)])
        heapq.heappush(ends, (now + float(requests.seconds[number, choice[number]]), number))
        if progress and number % 1000 == 0:
            progress(number)
    while ends:
        end(heapq.heappop(ends)[1])
    return Replay(
        choice=choice,
        over=over,
        overdraft=np.array([tally.peak for tally in tallies]),
        beyond=np.array(beyond),
        bound=np.array(bound),
        num_drifts=controller.num_drifts,
    )
