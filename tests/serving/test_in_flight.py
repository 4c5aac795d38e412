"""Many responses in flight: the budget is held and used, and no crash or failed commit stops the learning."""

import copy
import json
import math
from contextlib import contextmanager

import numpy as np
import pytest

from ibpo.errors import IbpoError
from ibpo.serving.controller import TOTAL, Candidate, Controller, MemoryStore, Reservation, ServingPolicy
from tests.serving.test_controller import best, two


def in_flight(controller, num_requests, latency, caps):
    """Lengths that vary by half, told by their means and bounded by caps; (cost, value, best value) per request."""
    rng = np.random.default_rng(9)
    gains = rng.random(num_requests)
    lengths = np.stack([m * rng.lognormal(-0.125, 0.5, num_requests) for m in (400.0, 5000.0)], 1)
    lengths = np.minimum(lengths, caps)
    means = lengths.mean(axis=0)
    cost, value, waiting = np.zeros(num_requests), np.zeros(num_requests), []
    for i, gain in enumerate(gains):
        options = [
            Candidate(response_group=name, gain=g, cost={"tokens": mean}, reserve={"tokens": cap})
            for name, g, mean, cap in zip(("short", "long"), (0.0, gain), means, caps, strict=True)
        ]
        made = controller.decide(options, request_id=str(i), now=0.0)
        long = made.response_group == "long"
        cost[i], value[i] = lengths[i, int(long)], gain * long
        waiting.append(i)
        if len(waiting) > latency:
            ended = waiting.pop(0)
            controller.settle(str(ended), {"tokens": cost[ended]})
    kept = value.sum() / best(gains, np.full(num_requests, means[0]), np.full(num_requests, means[1]), cost.mean())
    return cost, kept


@pytest.mark.parametrize("latency", [0, 20, 100, 600])
def test_tokens_are_held_and_used_with_many_capped_responses_in_flight(latency):
    """The page of the gateway: caps of 4,096 and 16,384, room for 20,000. All that are in flight are never at them."""
    controller = Controller(ServingPolicy.from_dict({"budget": {"tokens": {"mean": 2000.0, "overdraft": 20000.0}}}))
    cost, kept = in_flight(controller, 5000, latency, (4096.0, 16384.0))
    assert cost[1000:].mean() == pytest.approx(2000, rel=0.02)
    assert kept >= 0.97
    (bucket,) = controller.store.buckets(TOTAL)
    assert bucket.peak <= 20000 + (latency + 1) * (16384 - 5000 / 8)


def test_a_finite_overcommit_bounds_what_the_caps_can_add():
    budget = {"mean": 2000.0, "overdraft": 20000.0, "overcommit": 100_000.0}
    controller = Controller(ServingPolicy.from_dict({"budget": {"tokens": budget}}))
    in_flight(controller, 2000, 100, (2000.0, 16384.0))
    (bucket,) = controller.store.buckets(TOTAL)
    assert 100_000 < bucket.peak <= 120_000


def test_a_process_that_was_killed_does_not_stop_the_learning_of_lengths(tmp_path):
    """Restored from a state 100 requests old, on a book that is not: what ended meanwhile is waited for by nobody."""
    from ibpo.serving.stores import SqliteStore

    plan = ServingPolicy.from_dict({"budget": {"tokens": {"mean": 2000.0}}})
    rng = np.random.default_rng(0)
    waiting, cost = [], []
    with SqliteStore(tmp_path / "book.sqlite", ["tokens"]) as book:
        controller = Controller(plan, book)
        for i in range(3000):
            made = controller.decide(two(rng.random(), 400.0, 5000.0), request_id=str(i), now=float(i))
            actual = 5000.0 if made.response_group == "long" else 400.0
            cost.append(actual if i < 600 else actual / 2)
            waiting.append(i)
            if i == 500:
                saved = json.dumps(controller.state_dict())
            if i == 600:  # killed; 15 of what it had in flight are lost, and found by their age
                controller = Controller.from_state(plan, json.loads(saved), book)
                del waiting[:15]
            if i == 1000:
                assert len(controller.expire(700.0)) == 15
            if len(waiting) > 30:
                controller.settle(str(waiting[0]), {"tokens": cost[waiting.pop(0)]})
        assert np.mean(cost[1500:]) == pytest.approx(2000, rel=0.05)
        while waiting:
            controller.settle(str(waiting[0]), {"tokens": cost[waiting.pop(0)]})
        assert book.accounts()[TOTAL][0].waiting == pytest.approx(0.0, abs=1e-3)


def test_a_live_process_is_not_disturbed_when_another_goes_on_after_a_crash(tmp_path):
    """What the live one has waiting is forgotten once, not taken out of the book a second time."""
    plan = ServingPolicy.from_dict({"budget": {"tokens": {"mean": 10.0}}})
    accounts = MemoryStore(1)
    live, dead = Controller(plan, accounts), Controller(plan, accounts)
    option = [Candidate(response_group="long", gain=1.0, cost={"tokens": 10.0})]
    for name in "abcd":
        (live if name < "c" else dead).decide(option, request_id=name, now=0.0)
    live.settle("b", {"tokens": 4.0})  # waits for a
    dead.settle("d", {"tokens": 7.0})  # waits for c
    (bucket,) = accounts.buckets(TOTAL)
    assert bucket.waiting == pytest.approx(9.0)
    Controller.from_state(plan, json.loads(json.dumps({**dead.state_dict(), "book": None})), accounts)
    assert bucket.waiting == 0.0
    live.settle("a", {"tokens": 10.0})
    assert bucket.waiting == 0.0


class FailingStore(MemoryStore):
    """Rolls back what is done while `failing`, as a shared book whose commit fails; or does it, and says it failed."""

    failing = ""

    @contextmanager
    def transaction(self):
        before = copy.deepcopy((self.accounts, self.reservations))
        yield
        if self.failing == "rolled back":
            self.accounts, self.reservations = before
        if self.failing:
            raise IbpoError("the commit failed")


@pytest.mark.parametrize("failing", ["rolled back", "said so only"])
@pytest.mark.parametrize("what", ["decide", "settle", "cancel"])
def test_a_commit_that_fails_leaves_no_response_that_others_wait_for(what, failing):
    book = FailingStore(1)
    controller = Controller(ServingPolicy.from_dict({"budget": {"tokens": {"mean": 10.0}}}), book)
    option = [Candidate(response_group="long", gain=1.0, cost={"tokens": 10.0})]
    for name in "abc":
        controller.decide(option, request_id=name, now=0.0)
    before = json.dumps(controller.state_dict())
    book.failing = failing
    with pytest.raises(IbpoError, match="commit failed"):
        if what == "decide":
            controller.decide(option, request_id="d", now=0.0)
        else:
            getattr(controller, what)("a")
    book.failing = ""
    if failing == "rolled back":
        assert json.dumps(controller.state_dict()) == before
    # As the gateway does: it gives up a request that the book did not take, and ends the others again.
    for name in "abc":
        controller.settle(name, {"tokens": 4.0})
    assert book.buckets(TOTAL)[0].waiting == 0.0
    for number in range(600):
        controller.decide(option, request_id=str(number), now=0.0)
        controller.settle(str(number), {"tokens": 4.0})
    assert controller.decide(option, request_id="e", now=0.0).estimate[0] == pytest.approx(4.0)


def plan_of(tokens, share=0.0, **terms):
    return ServingPolicy.from_dict(
        {
            "budget": {"tokens": {"mean": tokens, "overdraft": 1e6}, "long": {"mean": share, "response_group": "long"}},
            "tenant": {"a": terms} if terms else {},
        }
    )


PLANS = [
    (100.0, {"share": 0.5}),
    (300.0, {"share": 0.25, "at_least": {"tokens": 40.0}, "at_most": {"tokens": 120.0}}),
    (math.inf, {"share": 0.125, "at_least": {"long": 0.125}}),
    (50.0, {"at_most": {"tokens": 20.0, "long": 0.75}}),
]


@pytest.mark.parametrize("after", range(len(PLANS)))
@pytest.mark.parametrize("before", range(len(PLANS)))
def test_what_fails_takes_back_what_it_had_brought_whatever_the_policy_says_by_then(before, after):
    """Cancelled under another policy, a request leaves nothing behind: not in balances, nor in what waits."""
    tokens, terms = PLANS[before]
    controller = Controller(plan_of(tokens, **terms))
    long = [Candidate(response_group="long", gain=1.0, cost={"tokens": 64.0}, reserve={"tokens": 96.0})]
    for name in "xyz":  # `y` and `z` wait for `x`, which began before them
        controller.decide(
            long,
            request_id=name,
            now=0.0,
            tenant="a",
            num_requests=2,
            quotas={"day": {"tokens": 1e6}} if name != "z" else {},
        )
    controller.settle("y", {"tokens": 16.0, "long": 2.0})
    controller.cancel("z")
    tokens, terms = PLANS[after]
    controller = Controller.from_state(plan_of(tokens, **terms), json.loads(json.dumps(controller.state_dict())))
    controller.cancel("x")
    for account in ("total", "tenant a", "quota day"):
        for k, bucket in enumerate(controller.store.buckets(account)):
            assert (bucket.waiting, bucket.estimated, bucket.overcommitted) == (0.0, 0.0, 0.0), (account, k)
            assert bucket.num_requests == 2
            assert bucket.spent == (16.0, 2.0)[k]
    old, new = PLANS[before], PLANS[after]
    if math.inf not in (old[0], new[0]):  # what `y` brought, less what it cost and what was lost
        total = controller.store.buckets("total")[0]
        assert total.balance == 2 * old[0] - 16.0 - total.forfeited


@pytest.mark.parametrize("ends", ["settle", "cancel"])
def test_a_promise_that_did_not_pay_gets_nothing_back(ends):
    """A tenant that is promised something only after its request began has no more of it than it brought."""
    controller = Controller(plan_of(100.0))
    long = [Candidate(response_group="long", gain=1.0, cost={"tokens": 64.0})]
    controller.decide(long, request_id="x", now=0.0, tenant="a")
    promising = plan_of(100.0, at_least={"tokens": 50.0})
    controller = Controller.from_state(promising, controller.state_dict())
    controller.settle("x", {"tokens": 0.0}) if ends == "settle" else controller.cancel("x")
    assert controller.store.buckets("tenant a")[0].owed == 0.0
    assert controller.store.buckets("total")[0].held == 0.0


def test_a_reservation_of_an_earlier_version_takes_back_what_the_policy_says():
    """Stored before credits were: as it was cancelled then, in the balance and in the promise."""
    policy = plan_of(100.0, at_least={"tokens": 40.0}, at_most={"tokens": 120.0})
    controller = Controller(policy)
    long = [Candidate(response_group="long", gain=1.0, cost={"tokens": 64.0})]
    controller.decide(long, request_id="x", now=0.0, tenant="a", num_requests=2)
    state = json.loads(json.dumps(controller.state_dict()))
    (row,) = state["book"]["reservations"]
    state["book"]["reservations"] = [row[: Reservation._fields.index("num_requests") + 1]]
    earlier = Controller.from_state(policy, state)
    found = earlier.store.get("x")
    assert found is not None and (found.credit, found.promised, found.num_requests) == ((), (), 2)
    for one in (controller, earlier):
        one.cancel("x")
    for account in ("total", "tenant a"):
        new, old = (one.store.buckets(account)[0] for one in (controller, earlier))
        assert new.balance == 0.0 and new.state() == old.state()
