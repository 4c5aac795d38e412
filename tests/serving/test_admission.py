"""The theorem of `ibpo.serving.controller.admission.Admission`, with an account of its own kept beside it."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibpo.serving.controller import TOTAL, BudgetPolicy, Candidate, Controller, ServingPolicy
from ibpo.serving.controller.correction import Correction

GAINS = st.floats(-1, 1) | st.sampled_from([0.0, 0.5])
COSTS = st.floats(0, 40) | st.sampled_from([0.0, 1.0, 10.0, 2.2e-313])
NAMES = st.sampled_from(["", "a", "b"])

plans = st.builds(
    lambda share, tokens, slack, overcommit, fair, least, most: ServingPolicy.from_dict(
        {
            "budget": {
                "long": {"mean": share, "response_group": "long"},
                "tokens": {"mean": tokens, "overdraft": slack, "burst": slack / 2, "overcommit": overcommit},
            },
            "fair_share": fair,
            "tenant": {"a": {"at_least": {"tokens": least}}},
            "slice": {"a": {"at_most": {"long": most}, "at_least": {"tokens": least / 2}}},
        }
    ),
    st.floats(0, 1),
    st.floats(0, 20),
    st.floats(0, 60),
    st.floats(0, 60) | st.just(math.inf),
    st.floats(0, 1),
    st.floats(0, 20),
    st.floats(0, 1),
)
# A step: a request with its options, then what happens to an open one: (which, how it ends, how much it cost); last as
# how many requests it counts.
steps = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(["short", "long", "longer"]), GAINS, COSTS, COSTS), min_size=1, max_size=3),
        NAMES,
        NAMES,
        st.integers(0, 5),
        st.sampled_from(["settle", "cancel", "expire", "leave", "progress"]),
        st.floats(0, 60),
        st.integers(1, 3),
    ),
    max_size=25,
)


class Shadow:
    """Spent, reserved, counted and both bounds of one account, by the theorem's words."""

    def __init__(self, bucket, mean, overdraft, overcommit):
        self.bucket, self.mean, self.overdraft, self.overcommit = bucket, mean, overdraft, overcommit
        self.spent = self.count = self.excess = 0.0
        self.slip = [0.0, 0.0]  # of the first bound, and of the second with `backed`
        self.open, self.expected = {}, {}

    def slips(self, amount, backed=0.0):
        self.slip = [self.slip[0] + max(0.0, amount), self.slip[1] + max(0.0, amount) + max(0.0, backed)]

    def check(self):
        overcommitted = sum(self.open.values()) - sum(self.expected[name] for name in self.open)
        left = self.bucket.balance - self.bucket.held + self.overdraft
        assert self.bucket.overcommitted == pytest.approx(overcommitted, abs=1e-6)
        if left - overcommitted + self.overcommit >= -1e-9:
            self.slip[0] = 0.0
        if left >= -1e-9:
            self.slip[1], self.excess = 0.0, overcommitted
        beyond = self.spent + sum(self.open.values()) - self.mean * self.count
        assert beyond <= self.overdraft + self.overcommit + self.slip[0] + 1e-6
        assert beyond <= self.overdraft + self.excess + self.slip[1] + 1e-6
        assert self.bucket.peak >= beyond - 1e-6
        assert self.bucket.num_requests == self.count
        assert self.bucket.spent == pytest.approx(self.spent, abs=1e-6)


def run(plan, steps):
    controller = Controller(plan)
    shadows = [
        Shadow(bucket, budget.mean, budget.overdraft, budget.overcommit)
        for bucket, budget in zip(controller.store.buckets(TOTAL), plan.budgets, strict=True)
    ]
    ceiling = Shadow(controller.store.buckets("slice a")[0], plan.slices["a"].at_most["long"], 5.0, math.inf)
    weights = {}
    for number, (options, tenant, part, which, end, cost, weight) in enumerate(steps):
        made = controller.decide(
            [
                Candidate(response_group=name, gain=gain, cost={"tokens": tokens}, reserve={"tokens": most})
                for name, gain, tokens, most in options
            ],
            request_id=str(number),
            now=float(number),
            tenant=tenant,
            slice_name=part,
            num_requests=weight,
        )
        weights[made.request_id] = weight
        booked = [(shadow, k) for k, shadow in enumerate(shadows)] + ([(ceiling, 0)] if part == "a" else [])
        for shadow, k in booked:
            shadow.open[made.request_id], shadow.expected[made.request_id] = made.reserve[k], made.estimate[k]
            shadow.count += weight
            if made.within:
                shadow.slips(0.0, made.reserve[k] - made.estimate[k] - shadow.mean * weight)
            else:
                shadow.slips(made.reserve[k] - shadow.mean * weight)
            shadow.check()
        waiting = list(shadows[0].open)
        if end == "leave" or not waiting:
            continue
        name = waiting[which % len(waiting)]
        if end == "progress":  # half of its cost has come, and that is expected in all
            before = controller.store.get(name)
            controller.progress(name, {"tokens": cost / 2}, {"tokens": cost})
            after = controller.store.get(name)
            assert before is not None and after is not None
            assert after.reserve[1] == max(before.reserve[1], cost / 2)
            assert after.estimate[1] == min(after.reserve[1], max(before.estimate[1], cost))
            assert not controller.progress(name, {"tokens": cost / 2}, {"tokens": cost})
            shadows[1].open[name], shadows[1].expected[name] = after.reserve[1], after.estimate[1]
            shadows[1].slips(after.reserve[1] - before.reserve[1])
            shadows[1].check()
            continue
        reserved = {id(shadow): shadow.open.get(name) for shadow in (*shadows, ceiling)}
        if end == "expire":
            name = waiting[0]
            reserved = {id(shadow): shadow.open.get(name) for shadow in (*shadows, ceiling)}
            assert controller.expire(float(name) + 0.5) == [name]
            actual = [shadow.expected[name] for shadow in shadows]
        else:
            share = shadows[0].open[name] if end == "settle" else 0.0
            actual = [share, cost]
            assert getattr(controller, end)(name, {"tokens": cost})
            assert not controller.settle(name, {"tokens": cost})
            assert not controller.cancel(name)
        for shadow, k in ((shadows[0], 0), (shadows[1], 1), (ceiling, 0)):
            reserve = reserved[id(shadow)]
            if reserve is None:
                continue
            del shadow.open[name]
            shadow.spent += actual[k]
            shadow.slips(actual[k] - reserve)
            if end == "cancel":
                shadow.count -= weights[name]
                shadow.slips(shadow.mean * weights[name])
            shadow.check()
    return controller


@given(plans, steps)
@settings(max_examples=150)
def test_the_overdraft_is_never_above_the_bound(plan, steps):
    controller = run(plan, steps)
    for bucket, budget in zip(controller.store.buckets(TOTAL), plan.budgets, strict=True):
        assert bucket.held >= -1e-9
        assert 0 <= bucket.returned <= 4 * budget.burst
        # What is kept back from the price is never kept back from the bound.
        left = bucket.balance - bucket.held + 3.0
        assert bucket.room(3.0, 2.0) == min(left, left - bucket.overcommitted + 2.0)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 200)), min_size=30, max_size=120),
    st.integers(1, 20),
    st.floats(0, 30),
    st.floats(0, 100) | st.just(math.inf),
)
@settings(max_examples=60)
def test_what_is_in_flight_bounds_the_overdraft(requests, most, overdraft, overcommit):
    """At most `most` in flight, none more expensive than its cap: then the caps say how much can ever be overspent."""
    budget = {"mean": 10.0, "overdraft": overdraft, "burst": 10.0, "overcommit": overcommit}
    controller = Controller(ServingPolicy.from_dict({"budget": {"tokens": budget}}))
    caps, in_flight, spent = {"short": 10.0, "long": 90.0}, [], 0.0
    for number, (gain, part, which) in enumerate(requests):
        options = [
            Candidate(response_group="short", gain=0.0, cost={"tokens": 4.0}, reserve={"tokens": 10.0}),
            Candidate(response_group="long", gain=gain, cost={"tokens": 20.0}, reserve={"tokens": 90.0}),
        ]
        made = controller.decide(options, request_id=str(number), now=0.0)
        in_flight.append((made.request_id, made.response_group))
        if len(in_flight) >= most:
            name, group = in_flight.pop(which % len(in_flight))
            # Often at the cap: what was expected is no help.
            actual = caps[group] * min(1.0, 2 * part)
            controller.settle(name, {"tokens": actual})
            spent += actual
        reserved = sum(caps[group] for _, group in in_flight)
        # Estimates are learned, so that of a long response may fall to an eighth.
        largest = most * (90.0 - 20.0 / 8)
        assert spent + reserved - 10.0 * (number + 1) <= overdraft + min(overcommit, largest) + 1e-6


@given(
    st.lists(st.tuples(st.floats(0.1, 1), st.floats(0, 30), st.integers(0, 30), st.booleans()), min_size=1, max_size=80)
)
def test_what_has_ended_waits_for_what_began_before(requests):
    """In any order of ends, `waiting` holds what those gave back that ended before an older one of their group."""
    controller = Controller(ServingPolicy.from_dict({"budget": {"tokens": {"mean": 10.0}}}))
    bucket = controller.store.buckets(TOTAL)[0]
    begun, ended, when = [], {}, {}
    for number, (gain, cost, delay, fails) in enumerate(requests):
        options = [Candidate(response_group="long", gain=gain, cost={"tokens": 10.0})]
        begun.append(controller.decide(options, request_id=str(number), now=0.0))
        when.setdefault(number + delay, []).append((number, cost, fails))
        for other, actual, failed in when.pop(number, []):
            if failed:
                controller.cancel(str(other))
                ended[other] = 0.0
            else:
                controller.settle(str(other), {"tokens": actual})
                ended[other] = begun[other].estimate[0] - actual
        oldest = next((i for i in range(len(begun)) if i not in ended), len(begun))
        assert bucket.waiting == pytest.approx(sum(back for i, back in ended.items() if i > oldest), abs=1e-6)
        assert Correction.from_state(1, controller._correction.state()).state() == controller._correction.state()


@given(
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=1, max_size=120),
    st.integers(1, 8),
)
def test_any_run_of_a_share_is_inside_its_bound(share, requests, slack):
    budget = {"mean": share, "response_group": "long", "overdraft": slack, "burst": slack}
    controller = Controller(ServingPolicy.from_dict({"budget": {"long": budget}}))
    total = [0.0]  # cost less budget, after each request
    for number, (gain, settled) in enumerate(requests):
        options = [Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=gain)]
        made = controller.decide(options, request_id=str(number), now=0.0)
        total.append(total[-1] + (made.response_group == "long") - share)
        assert made.within
        if settled:
            controller.settle(made.request_id)
    lowest = math.inf
    for value in total:
        lowest = min(lowest, value)
        assert value - lowest <= 2 * slack + 1e-6


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.01, 1)), min_size=50, max_size=150), st.floats(0.05, 0.3))
def test_a_promise_is_kept_against_a_neighbour_who_wants_everything(requests, promise):
    plan = {
        "budget": {"long": {"mean": 0.3, "response_group": "long"}},
        "tenant": {"a": {"at_least": {"long": promise}}},
    }
    controller = Controller(ServingPolicy.from_dict(plan))
    count = got = 0
    for number, (tenant, gain) in enumerate(requests):
        gain = gain if tenant == "a" else 100 + gain
        options = [Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=gain)]
        made = controller.decide(options, request_id=str(number), now=0.0, tenant=tenant)
        if tenant == "a":
            count += 1
            got += made.response_group == "long"
            # Its bucket keeps 5; while it waits for a whole response, one more may be on its way.
            assert got >= promise * count - 6
    assert controller.store.buckets("tenant a")[0].unmet <= 1.0


def test_what_a_cheap_response_gave_back_is_no_credit_for_one_more_request():
    """Any run of m requests costs at most b m + overdraft + burst + R, and R, `deferred`, is 0 here: burst is."""
    policy = BudgetPolicy(name="tokens", mean=1.0, overdraft=3.0, burst=0.0)
    controller = Controller(ServingPolicy(budgets=(policy,)))
    candidates = [
        Candidate(response_group="a", gain=0.0, cost={"tokens": 0.0}),
        Candidate(response_group="b", gain=1.0, cost={"tokens": 3.0}),
    ]
    controller.decide(candidates, request_id="first", now=0.0)
    controller.settle("first", {"tokens": 0.0})
    bucket = controller.store.buckets(TOTAL)[0]
    assert bucket.balance == 0 and bucket.deferred == 0
    spent = 0.0
    for i in range(2):
        spent += controller.decide(candidates, request_id=str(i), now=0.0).estimate[0]
        controller.settle(str(i))
    assert spent <= 2 * 1 + 3


@pytest.mark.parametrize(("kind", "tenant", "part"), [("tenant", "gold", ""), ("slice", "", "gold")])
def test_a_promise_that_is_taken_back_is_nobodys_room(kind, tenant, part):
    """What it had saved up paid for every request of the former tenant: 11,160 tokens over, where 2,400 may be."""
    budget = {"tokens": {"mean": 100.0, "overdraft": 1000.0, "burst": 1000.0}}
    promised = ServingPolicy.from_dict({"budget": budget, kind: {"gold": {"at_least": {"tokens": 80}}}})

    def candidates(gain):
        short = Candidate(response_group="short", gain=0.0, cost={"tokens": 10.0})
        return [short, Candidate(response_group="long", gain=gain, cost={"tokens": 400.0})]

    first = Controller(promised)
    for i in range(100):
        first.decide(candidates(-1.0), request_id=str(i), now=0.0, tenant=tenant, slice_name=part)
        first.settle(str(i))
    assert first.store.buckets(TOTAL)[0].held == 400
    controller = Controller.from_state(ServingPolicy.from_dict({"budget": budget}), first.state_dict())
    total, most, lowest = 0.0, 0.0, 0.0  # cost less budget: now, and over any run of requests
    for i in range(100, 300):
        made = controller.decide(candidates(0.5), request_id=str(i), now=0.0, tenant=tenant, slice_name=part)
        total += made.estimate[0] - 100
        controller.settle(str(i))
        lowest = min(lowest, total)
        most = max(most, total - lowest)
    assert most <= 1000 + 1000 + 400
    assert controller.store.buckets(TOTAL)[0].held == 0


@pytest.mark.parametrize("plan", [{}, {"slice": {"law": {"at_most": {"long": 0}}}}])
def test_a_share_of_none_is_none(plan):
    """Five responses were given before a bound of 0 was held."""
    share = 0.3 if plan else 0
    controller = Controller(ServingPolicy.from_dict({"budget": {"long": share}, **plan}))
    candidates = [Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=1.0)]
    made = [controller.decide(candidates, request_id=str(i), now=0.0, slice_name="law") for i in range(50)]
    assert {reservation.response_group for reservation in made} == {"short"} and controller.num_over == 0
    # Where nothing else can answer, it is given all the same.
    assert not controller.decide(candidates[1:], request_id="a", now=0.0, slice_name="law").within


@pytest.mark.parametrize("kind", ["tenant", "slice", "mean"])
def test_a_bound_that_is_new_counts_from_when_it_is_there(kind):
    """All that had been spent without it was a debt: nothing but the cheapest for 500 requests and on."""
    free = {"tokens": {"mean": 200.0}, "money": {"mean": math.inf}}
    bounded = {"budget": free, kind: {"law": {"at_most": {"tokens": 100}}}}
    if kind == "mean":
        bounded = {"budget": {**free, "money": {"mean": 0.2}}}
    options = [
        Candidate(response_group="short", gain=0.0, cost={"tokens": 10.0, "money": 0.01}),
        Candidate(response_group="long", gain=0.5, cost={"tokens": 400.0, "money": 0.4}),
    ]

    def serve(controller, first, count):
        made = [
            controller.decide(options, request_id=str(first + i), now=0.0, tenant="law", slice_name="law")
            for i in range(count)
        ]
        for reservation in made[: count - 5]:
            controller.settle(reservation.request_id)
        return [reservation.response_group for reservation in made].count("long")

    controller = Controller(ServingPolicy.from_dict({"budget": free}))
    serve(controller, 0, 600)
    again = Controller.from_state(ServingPolicy.from_dict(bounded), json.loads(json.dumps(controller.state_dict())))
    for i in range(595, 600):
        assert again.settle(str(i))
    fresh = serve(Controller(ServingPolicy.from_dict(bounded)), 600, 300)
    assert serve(again, 600, 300) == pytest.approx(fresh, abs=0.1 * 300)
    assert fresh > 0 and again.num_over <= 5  # what was in flight counts
