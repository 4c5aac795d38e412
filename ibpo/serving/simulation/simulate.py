"""Run traffic through a controller faster than it came. Letters: N requests, G response groups, K budgets."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ibpo.budget import amount_to_ask
from ibpo.errors import IbpoError
from ibpo.pictures import number_text
from ibpo.serving.controller import TOTAL, Candidate, Controller, Reservation, ServingPolicy
from ibpo.serving.lengths import Lengths

FloatArray = NDArray[np.float64]
TOKENS = "tokens"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Requests:
    """The traffic: what came, and what would have happened to each request in each response group."""

    time: FloatArray
    """`[N]` seconds, not falling."""
    groups: tuple[str, ...]
    """G response groups."""
    gain: FloatArray
    """`[N, G]` what an answer is worth."""
    cost: FloatArray
    """`[N, G]` tokens that a response really takes."""
    estimate: FloatArray
    """`[N, G]` tokens that the controller expects."""
    seconds: FloatArray
    """`[N, G]` from the decision to the end of the response."""
    failed: NDArray[np.bool_]
    """`[N]` whether the response fails at its end, permanently, without having cost anything."""
    tenant: list[str]
    slice_name: list[str]
    predicted_gain: FloatArray | None = None
    """`[N, G]` the gain that the controller decides by, e.g. a router's; None: the gain itself."""
    prompt_tokens: FloatArray | None = None
    """`[N]`; given, lengths are learned by it (`ibpo.serving.Lengths`) as in a gateway; `estimate` is the guess."""
    cap: Mapping[str, float] = field(default_factory=dict)
    """Response group -> most tokens of a response, which are kept ready for it; without one, what is expected."""
    notes: tuple[str, ...] = ()
    """How the log was read that they are drawn from."""

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Simulation:
    """What a controller did."""

    choice: NDArray[np.int64]
    """`[N]` index of the response group."""
    estimate: FloatArray
    """`[N, G]` tokens that the controller expected."""
    over: NDArray[np.bool_]
    """`[N]` whether no response group had room in every bound."""
    overdraft: FloatArray
    """`[K]` largest spent + reserved - mean n."""
    beyond: FloatArray
    """`[K]` largest excess of the overdraft over the bound at the same time (the theorem of
    `ibpo.serving.controller.admission.Admission`); at most 0, up to rounding."""
    overdraft_allowed: FloatArray
    """`[K]` largest overdraft that was in force: the policy's, or what followed from the traffic."""
    bound: FloatArray
    """`[K]` largest value that this bound took: the lesser of the theorem's two."""
    num_drifts: int
    cautions: list[str]
    """A sentence for each response group that costs more than there is room for at a time."""
    most_in_flight: int
    """Largest number of responses in flight at a time."""


def check_feasible(requests: Requests, policy: ServingPolicy) -> None:
    """Check that some choice of response groups keeps each budget, as `ibpo allocate` does.

    Raises:
        IbpoError: A budget below the cheapest responses, or shares that do not add up to all requests.
    """
    cheapest = float(requests.cost.min(axis=1).mean())
    for budget in policy.budgets:
        if budget.name == TOKENS and budget.response_group is None and budget.mean < cheapest:
            raise IbpoError(
                f"budget {budget.name}={amount_to_ask(budget.mean)}: the cheapest responses cost "
                f"{number_text(cheapest)} per request; write {budget.name}={amount_to_ask(cheapest)}"
            )
    shares = {budget.response_group: budget.mean for budget in policy.budgets if budget.response_group is not None}
    if set(shares) >= set(requests.groups) and sum(shares.values()) < 1 - 1e-9:
        raise IbpoError(
            f"budgets {', '.join(map(str, shares))}: allow {number_text(100 * sum(shares.values()))}% of the requests "
            "together, and there is no other response group; raise one"
        )


def find_unbounded(requests: Requests, policy: ServingPolicy) -> list[str]:
    """Response groups that no budget bounds though they cost more than one that has a budget; the costliest last."""
    bounded = {budget.response_group for budget in policy.budgets}
    if None in bounded:  # a budget of tokens bounds them all
        return []
    means = dict(zip(requests.groups, requests.estimate.mean(axis=0).tolist(), strict=True))
    least = min((means[name] for name in bounded if name in means), default=math.inf)
    return sorted((name for name in means if name not in bounded and means[name] > least), key=means.__getitem__)


def simulate(requests: Requests, policy: ServingPolicy) -> Simulation:
    """Decide every request at its time, and settle or cancel it when its response ends.

    The stated bound is computed apart from the controller, as the theorem says, from what happens to each request.

    Args:
        requests: In order of time.
        policy: Budgets on shares of the response groups, and on "tokens".

    Raises:
        IbpoError: A budget on another cost than tokens.
    """
    for budget in policy.budgets:
        if budget.is_counted_only:
            raise IbpoError(
                f"budget {budget.name!r}: mean is inf, which bounds nothing; give the largest mean cost per request"
            )
        if budget.response_group is None and budget.name != TOKENS:
            raise IbpoError(f"budget {budget.name!r}: a simulation knows shares of response groups and 'tokens' only")
        if budget.response_group is not None and budget.response_group not in requests.groups:
            raise IbpoError(
                f"budget {budget.name!r}: there is no response group {budget.response_group!r} in the traffic"
            )
    controller = Controller(policy)
    buckets = controller.store.buckets(TOTAL)
    size, num_budgets = len(requests), len(policy.budgets)
    choice, over = np.zeros(size, np.int64), np.zeros(size, bool)
    bound, beyond = [0.0] * num_budgets, [-math.inf] * num_budgets
    largest = [0.0] * num_budgets  # overdraft that has been in force
    slip, excess = [(0.0, 0.0)] * num_budgets, [0.0] * num_budgets  # of both bounds; of the second
    most_in_flight = 0
    ends: list[tuple[float, int]] = []
    in_flight: dict[int, Reservation] = {}
    place_of = {name: place for place, name in enumerate(requests.groups)}

    held = [(k, budget.mean, budget.overcommit, buckets[k]) for k, budget in enumerate(policy.budgets)]

    def note(causes: list[float], backed: list[float] | None = None) -> None:
        """Add to `slip` and `backed` of the theorem what has just happened, and compare overdraft and bound."""
        for k, mean, overcommit, bucket in held:
            overdraft = largest[k] = max(largest[k], controller.overdraft[k])
            left = bucket.balance - bucket.held + overdraft
            one, two = slip[k][0] + causes[k], slip[k][1] + causes[k] + (backed[k] if backed else 0.0)
            if left - bucket.overcommitted + overcommit >= 0:
                one = 0.0
            if left >= 0:
                two, excess[k] = 0.0, bucket.overcommitted
            slip[k] = one, two
            allowed = overdraft + min(overcommit + one, excess[k] + two)
            over = bucket.spent + bucket.estimated + bucket.overcommitted - mean * bucket.num_requests - allowed
            if over > beyond[k]:
                beyond[k] = over
            if allowed > bound[k]:
                bound[k] = allowed

    def end(number: int) -> None:
        made = in_flight.pop(number)
        if lengths is not None:
            tokens = None if requests.failed[number] else float(requests.cost[number, choice[number]])
            believed = lengths.num_believed
            lengths.end(str(number), tokens)
            if lengths.num_believed != believed:
                controller.expect_change(made.response_group)
        if requests.failed[number]:
            controller.cancel(str(number))
            note([budget.mean for budget in policy.budgets])
            return
        cost = float(requests.cost[number, choice[number]])
        tokens = {b.name: cost for b in policy.budgets if b.response_group is None}
        controller.settle(str(number), tokens)
        note([max(0.0, tokens.get(b.name, 0.0) - made.reserve[k]) for k, b in enumerate(policy.budgets)])

    predicted = requests.gain if requests.predicted_gain is None else requests.predicted_gain
    gains, estimates = predicted.tolist(), requests.estimate.tolist()
    lengths = Lengths() if requests.prompt_tokens is not None else None
    sizes = [] if requests.prompt_tokens is None else requests.prompt_tokens.tolist()
    caps = [{TOKENS: requests.cap[name]} if name in requests.cap else {} for name in requests.groups]
    for number, now in enumerate(requests.time.tolist()):
        while ends and ends[0][0] <= now:
            end(heapq.heappop(ends)[1])
        if lengths is not None:
            expected = [
                lengths.expect(name, sizes[number], guess)
                for name, guess in zip(requests.groups, estimates[number], strict=True)
            ]
            estimates[number] = [
                min(length.mean, requests.cap.get(name, math.inf))
                for name, length in zip(requests.groups, expected, strict=True)
            ]
        candidates = [
            Candidate(response_group=name, gain=gain, cost={TOKENS: tokens}, reserve=cap)
            for name, gain, tokens, cap in zip(requests.groups, gains[number], estimates[number], caps, strict=True)
        ]
        made = controller.decide(
            candidates,
            request_id=str(number),
            now=now,
            tenant=requests.tenant[number],
            slice_name=requests.slice_name[number],
        )
        choice[number], over[number] = place_of[made.response_group], not made.within
        in_flight[number] = made
        if lengths is not None:
            guess = float(requests.estimate[number, choice[number]])
            lengths.begin(str(number), made.response_group, size=sizes[number], guess=guess)
        most_in_flight = max(most_in_flight, len(in_flight))
        above = [max(0.0, r - b.mean) for r, b in zip(made.reserve, policy.budgets, strict=True)]
        none = [0.0] * num_budgets
        note(none if made.within else above, [max(0.0, a - e) for a, e in zip(above, made.estimate, strict=True)])
        heapq.heappush(ends, (now + float(requests.seconds[number, choice[number]]), number))
    while ends:
        end(heapq.heappop(ends)[1])
    return Simulation(
        choice=choice,
        estimate=np.array(estimates).reshape(requests.estimate.shape),
        over=over,
        overdraft=np.array([bucket.peak for bucket in buckets]),
        beyond=np.array(beyond),
        overdraft_allowed=np.array(largest),
        bound=np.array(bound),
        num_drifts=controller.num_drifts,
        most_in_flight=most_in_flight,
        cautions=controller.cautions(),
    )
