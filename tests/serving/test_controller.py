import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ibpo.allocation import allocate
from ibpo.errors import IbpoError
from ibpo.serving.controller import TOTAL, BudgetPolicy, Candidate, Controller, ServingPolicy, TenantPolicy, read_policy

SHARE = {"long": {"mean": 0.3, "response_group": "long"}}
TOKENS = {"tokens": {"mean": 6000.0}}


def two(gain, short=1200.0, long=14000.0):
    return [
        Candidate(response_group="short", gain=0.0, cost={"tokens": short}),
        Candidate(response_group="long", gain=gain, cost={"tokens": long}),
    ]


def windows(cost, width=1000):
    total = np.concatenate([[0], np.cumsum(cost)])
    return (total[width:] - total[:-width]) / width


def stream(controller, gains, short, long, *, tenant=lambda i: "", latency=0, start=0):
    """Decide one by one, settling each `latency` requests later; returns cost and value per request."""
    cost, value = np.zeros(len(gains)), np.zeros(len(gains))
    waiting = []
    for i, gain in enumerate(gains):
        made = controller.decide(
            two(float(gain), short[i], long[i]), request_id=f"{start + i}", now=float(i), tenant=tenant(i)
        )
        extended = made.response_group == "long"
        cost[i], value[i] = (long[i], gain) if extended else (short[i], 0.0)
        waiting.append((made.request_id, cost[i]))
        if len(waiting) > latency:
            name, spent = waiting.pop(0)
            given = {"tokens": spent} if any(b.name == "tokens" for b in controller.policy.budgets) else None
            assert controller.settle(name, given)
    return cost, value


def best(gains, short, long, mean):
    problem = np.repeat(np.arange(len(gains)), 2)
    utility = np.stack([np.zeros(len(gains)), gains], 1).ravel()
    return allocate(utility, problem, np.stack([short, long], 1).ravel(), repr(float(mean))).objective


@pytest.mark.parametrize("share", [0.05, 0.3, 0.75])
def test_a_share_is_held_in_every_window_and_keeps_its_value(share):
    gains = np.random.default_rng(0).random(6000)
    plan = ServingPolicy.from_dict({"budget": {"long": {"mean": share, "response_group": "long"}}})
    cost, value = stream(Controller(plan), gains, np.zeros(6000), np.ones(6000))
    assert np.abs(windows(cost) - share).max() <= 0.01
    kept = np.sort(gains)[::-1][: int(cost.sum())].sum()
    assert value.sum() >= 0.97 * kept


def test_tokens_are_held_in_every_window_and_keep_their_value():
    rng = np.random.default_rng(1)
    gains = rng.random(6000)
    short, long = 1200 * np.exp(rng.normal(0, 0.4, 6000)), 14000 * np.exp(rng.normal(0, 0.4, 6000))
    # Five means of room hold every window; the room that follows what is bought is wider, and keeps more value.
    for room, off, kept in (({"overdraft": 30000.0}, 0.01, 0.95), ({}, 0.015, 0.97)):
        policy = ServingPolicy.from_dict({"budget": {"tokens": {"mean": 6000.0, **room}}})
        cost, value = stream(Controller(policy), gains, short, long)
        assert np.abs(windows(cost)[512:] / 6000 - 1).max() <= off
        assert value.sum() >= kept * best(gains, short, long, cost.mean())


def test_several_budgets_hold_together_and_the_slack_one_has_no_price():
    rng = np.random.default_rng(2)
    gains, short, long = rng.random(4000), np.full(4000, 1000.0), rng.choice([5000.0, 40000.0], 4000)
    controller = Controller(ServingPolicy.from_dict({"budget": {**SHARE, "tokens": {"mean": 50000.0}}}))
    cost, _ = stream(controller, gains, short, long)
    assert np.abs(windows(cost > 1000) - 0.3).max() <= 0.01
    assert controller.prices[1] == 0.0
    controller = Controller(
        ServingPolicy.from_dict({"budget": {**SHARE, "tokens": {"mean": 6000.0, "overdraft": 3e4}}})
    )
    cost, _ = stream(controller, gains, short, long)
    assert windows(cost).max() <= 6000 * 1.01
    assert windows(cost > 1000).max() <= 0.31
    assert cost.mean() > 0.97 * 6000 or (cost > 1000).mean() > 0.29


def test_three_response_groups():
    rng = np.random.default_rng(3)
    controller = Controller(ServingPolicy.from_dict({"budget": {"tokens": {"mean": 3000.0}}}))
    utility, cost, taken = [], [], []
    for i in range(4000):
        middle, top = sorted(rng.random(2))
        options = [("low", 0.0, 500.0), ("medium", middle, 3000.0), ("high", top, 9000.0)]
        made = controller.decide(
            [Candidate(response_group=name, gain=gain, cost={"tokens": c}) for name, gain, c in options],
            request_id=str(i),
            now=0.0,
        )
        controller.settle(str(i))
        taken.append([name for name, _, _ in options].index(made.response_group))
        utility.append([0.0, middle, top])
        cost.append([500.0, 3000.0, 9000.0])
    rows = np.arange(4000)
    spent, value = np.array(cost)[rows, taken], np.array(utility)[rows, taken]
    assert np.abs(windows(spent)[512:] / 3000 - 1).max() <= 0.01
    problem = np.repeat(rows, 3)
    bound = allocate(np.ravel(utility), problem, np.ravel(cost), repr(float(spent.mean()))).objective
    assert value.sum() >= 0.97 * bound


def models(size, seed):
    """Three models of very different price: gains `[N, 3]` and costs `[N, 3]`."""
    rng = np.random.default_rng(seed)
    gain = np.stack([np.zeros(size), rng.normal(0.13, 0.1, size), rng.normal(0.14, 0.13, size)], 1)
    return gain, np.array([3e-5, 5e-4, 1.5e-2]) * np.exp(rng.normal(0, 0.5, (size, 3)))


def spend(policy, gain, cost):
    """Mean cost and mean gain of what the controller chooses, settled at once; and the controller."""
    controller, groups, place = Controller(policy), ("cheap", "middle", "expensive"), []
    for i, (gains, costs) in enumerate(zip(gain.tolist(), cost.tolist(), strict=True)):
        made = controller.decide(
            [
                Candidate(response_group=name, gain=value, cost={"dollars": dollars})
                for name, value, dollars in zip(groups, gains, costs, strict=True)
            ],
            request_id=str(i),
            now=0.0,
        )
        controller.settle(str(i), {"dollars": costs[groups.index(made.response_group)]})
        place.append(groups.index(made.response_group))
    rows = np.arange(len(gain))
    return cost[rows, place].mean(), gain[rows, place].mean(), controller


def test_value_never_falls_as_the_budget_grows_and_is_never_below_the_best_constant_policy_that_fits():
    """From the cheapest model's price to the most expensive one's, whose 5 means once took what others needed."""
    gain, cost = models(4000, 0)
    values = []
    for mean in np.geomspace(cost[:, 0].mean() * 1.02, cost[:, 2].mean(), 9).tolist():
        spent, value, controller = spend(ServingPolicy(budgets=(BudgetPolicy(name="dollars", mean=mean),)), gain, cost)
        fits = cost.mean(axis=0) <= mean
        assert value >= gain.mean(axis=0)[fits].max() - 1e-3
        assert spent <= mean * 1.02
        (bucket,) = controller.store.buckets(TOTAL)
        # The theorem's bound: the largest room so far, and the slip of requests that found none.
        slip = controller.num_over * cost[:, 0].max()
        assert bucket.peak <= controller._admission.largest_overdraft[0] + slip + 1e-9
        assert controller._admission.largest_overdraft[0] <= 256 * mean * (1 + 1e-9)
        values.append(value)
    assert (np.diff(values) >= -1e-3).all()


def test_a_group_that_a_given_room_cannot_hold_is_not_bought_and_is_said():
    """The budget of `middle`, and a room that `expensive` alone exceeds: its cheapest would starve all others."""
    gain, cost = models(3000, 1)
    mean = 1.2 * cost[:, 1].mean()
    budget = BudgetPolicy(name="dollars", mean=mean, overdraft=5 * mean)
    spent, value, controller = spend(ServingPolicy(budgets=(budget,)), gain, cost)
    assert value >= gain.mean(axis=0)[1] and spent <= mean * 1.01
    (said,) = controller.cautions()
    assert "response group 'expensive'" in said and "more than there is room for" in said
    again = Controller.from_state(controller.policy, json.loads(json.dumps(controller.state_dict())))
    assert again.cautions() == controller.cautions()
    assert spend(ServingPolicy.from_dict({"budget": {"dollars": 1.0}}), gain, cost)[2].cautions() == []


def test_a_share_of_none_is_no_reason_for_a_caution():
    """It said to raise the budget of 0 that had been asked for."""
    controller = Controller(ServingPolicy.from_dict({"budget": {"long": "0%"}}))
    for i in range(50):
        pair = [Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=1.0)]
        assert controller.decide(pair, request_id=str(i), now=0.0).response_group == "short"
    assert controller.cautions() == []


def test_what_the_caller_has_learned_is_not_corrected_once_more():
    """A gateway learns lengths from as many answers as the controller: for a while both had corrected the guess."""
    controller = Controller(ServingPolicy(budgets=(BudgetPolicy(name="tokens", mean=math.inf),)))

    def ask(number, expected):
        row = Candidate(response_group="a", gain=1.0, cost={"tokens": expected})
        return controller.decide([row], request_id=str(number), now=0.0)

    for number in range(40):
        ask(number, 512.0)
        if number >= 4:  # some are in flight all the time
            controller.settle(str(number - 4), {"tokens": 5000.0})
    assert ask(40, 512.0).estimate[0] == pytest.approx(5000.0, rel=0.05)
    controller.expect_change("a")
    assert ask(41, 5000.0).estimate[0] == 5000.0
    for number in range(36, 42):
        controller.settle(str(number), {"tokens": 5000.0})
    assert ask(42, 5000.0).estimate[0] == 5000.0
    total = controller.store.buckets(TOTAL)[0]
    assert total.waiting == pytest.approx(0.0, abs=1e-6) and total.estimated == pytest.approx(5000.0)


def test_wrong_estimates_are_corrected_by_what_responses_cost():
    rng = np.random.default_rng(4)
    controller = Controller(ServingPolicy.from_dict({"budget": TOKENS}))
    cost = np.zeros(8000)
    waiting = []
    for i in range(8000):
        made = controller.decide(two(rng.random(), 600.0, 30000.0), request_id=str(i), now=0.0)  # half and twice
        cost[i] = 15000.0 if made.response_group == "long" else 1200.0
        waiting.append(i)
        if i >= 50:
            controller.settle(str(waiting.pop(0)), {"tokens": cost[i - 50]})
    assert np.abs(windows(cost)[2000:] / 6000 - 1).max() <= 0.04
    assert cost[2000:].mean() == pytest.approx(6000, rel=0.005)


def test_an_abrupt_shift_is_noticed_and_the_budget_held():
    rng = np.random.default_rng(5)
    easy, hard = rng.random(3000) * 0.2, 0.5 + rng.random(3000) * 0.5
    gains = np.concatenate([easy, hard, easy])
    controller = Controller(ServingPolicy.from_dict({"budget": SHARE}))
    cost, value = stream(controller, gains, np.zeros(9000), np.ones(9000))
    assert controller.num_drifts >= 2
    assert np.abs(windows(cost) - 0.3).max() <= 0.01
    # Once the window is that of the new traffic the choice is as good as before.
    late = slice(4000, 6000)
    assert value[late].sum() >= 0.97 * np.sort(gains[late])[::-1][: int(cost[late].sum())].sum()


def test_no_gain_spends_nothing_and_saves_up_no_more_than_the_burst():
    controller = Controller(ServingPolicy.from_dict({"budget": SHARE}))
    cost, _ = stream(controller, np.full(500, -0.1), np.zeros(500), np.ones(500))
    assert cost.sum() == 0
    assert controller.balance_of("long") == 5.0
    cost, _ = stream(controller, np.ones(1000), np.zeros(1000), np.ones(1000), start=500)
    assert cost.sum() <= 300 + 10


def test_a_tenant_gets_its_promise_and_the_rest_goes_to_the_gains():
    rng = np.random.default_rng(6)
    who = rng.choice(["loud", "quiet"], 8000, p=[0.8, 0.2])
    gains = np.where(who == "loud", 0.5 + 0.5 * rng.random(8000), 0.3 * rng.random(8000))
    for terms, least in (
        ({}, 0.0),
        ({"fair_share": 0.5}, 0.15),
        ({"tenant": {"quiet": {"at_least": {"long": 0.6}}}}, 0.6),
    ):
        controller = Controller(ServingPolicy.from_dict({"budget": SHARE, **terms}))
        cost, value = stream(controller, gains, np.zeros(8000), np.ones(8000), tenant=lambda i: str(who[i]))
        quiet = who == "quiet"
        assert cost.mean() == pytest.approx(0.3, abs=0.002)
        assert cost[quiet].mean() == pytest.approx(least, abs=0.01)
        if least:
            assert (windows(cost[quiet], 500) >= least - 0.02).all()
            # The promise goes to the best of its own requests.
            own = np.sort(gains[quiet])[::-1][: int(cost[quiet].sum())].sum()
            assert value[quiet].sum() >= 0.95 * own


def test_a_ceiling_of_a_slice_is_held():
    rng = np.random.default_rng(7)
    plan = ServingPolicy(
        budgets=(BudgetPolicy(name="long", mean=0.3, response_group="long"),),
        slices={"law": TenantPolicy(at_most={"long": 0.1})},
    )
    controller = Controller(plan)
    taken = []
    for i in range(4000):
        law = bool(rng.random() < 0.5)
        made = controller.decide(two(rng.random()), request_id=str(i), now=0.0, slice_name="law" if law else "other")
        taken.append((law, made.response_group == "long"))
    law, long = np.array(taken).T
    assert long.mean() == pytest.approx(0.3, abs=0.005)
    assert long[law].mean() == pytest.approx(0.1, abs=0.005)


def test_deciding_and_settling_again_counts_once():
    controller = Controller(ServingPolicy.from_dict({"budget": SHARE}))
    first = controller.decide(two(1.0), request_id="a", now=0.0)
    assert controller.decide(two(-1.0), request_id="a", now=1.0) == first
    assert controller.store.buckets(TOTAL)[0].num_requests == 1
    assert controller.settle("a")
    assert not controller.settle("a")
    assert not controller.cancel("a")
    bucket = controller.store.buckets(TOTAL)[0]
    assert (bucket.num_requests, bucket.spent, bucket.estimated) == (1, 1.0, 0.0)
    controller.decide(two(1.0), request_id="b", now=0.0)
    assert controller.cancel("b")
    assert (bucket.num_requests, bucket.spent, bucket.estimated) == (1, 1.0, 0.0)
    assert controller.balance_of("long") == pytest.approx(0.3 - 1.0)


def test_a_lost_request_is_settled_as_expected():
    """At its reserve, one kill would take what thousands of requests have brought."""
    controller = Controller(ServingPolicy.from_dict({"budget": TOKENS}))
    option = Candidate(response_group="long", gain=1.0, cost={"tokens": 10.0}, reserve={"tokens": 50.0})
    controller.decide([option], request_id="a", now=1.0)
    controller.decide([option], request_id="b", now=3.0)
    assert controller.expire(2.0) == ["a"]
    assert controller.store.buckets(TOTAL)[0].spent == 10.0
    assert not controller.settle("a")


def test_the_state_goes_through_json_bit_for_bit():
    rng = np.random.default_rng(8)
    plan = ServingPolicy.from_dict(
        {
            "budget": {**SHARE, "tokens": {"mean": 5000.0}},
            "fair_share": 0.5,
            "slice": {"b": {"at_most": {"long": 0.2}}},
        }
    )

    def step(controller, i, row):
        gain, short, long, tenant, part, end, cost = row
        made = controller.decide(
            [*two(gain, short, long), Candidate(response_group="medium", gain=gain / 2, cost={"tokens": long / 3})][
                : 2 + i % 2
            ],
            request_id=str(i),
            now=float(i),
            tenant="xy"[tenant],
            slice_name="ab"[part],
        )
        if i >= 20:
            (controller.cancel if end < 0.1 else controller.settle)(str(i - 20), {"tokens": cost})
        return made

    rows = [
        (
            rng.random(),
            1000 * rng.random(),
            20000 * rng.random(),
            rng.integers(2),
            rng.integers(2),
            rng.random(),
            9000 * rng.random(),
        )
        for _ in range(1500)
    ]
    controller = Controller(plan)
    for i in range(1000):
        step(controller, i, rows[i])
    text = json.dumps(controller.state_dict(), allow_nan=False)
    again = Controller.from_state(plan, json.loads(text))
    assert json.dumps(again.state_dict()) == text
    for i in range(1000, 1500):
        assert step(controller, i, rows[i]) == step(again, i, rows[i])
    assert again.state_dict() == controller.state_dict()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop("window"), "not one of Controller.state_dict"),
        (lambda state: state.update(budgets=["tokens"]), "start again"),
        (lambda state: state.update(version=3), "version 3"),
    ],
)
def test_a_strange_state_is_refused(change, message):
    plan = ServingPolicy.from_dict({"budget": SHARE})
    state = Controller(plan).state_dict()
    change(state)
    with pytest.raises(IbpoError, match=message):
        Controller.from_state(plan, state)


def test_bad_requests_change_nothing():
    controller = Controller(ServingPolicy.from_dict({"budget": TOKENS}))
    before = json.dumps(controller.state_dict())
    for options, message in (
        ([], "no response group"),
        ([Candidate(response_group="long", gain=math.nan, cost={"tokens": 1.0})], "gain is nan"),
        ([Candidate(response_group="long", gain=0.0)], "no cost for the budget 'tokens'"),
        ([Candidate(response_group="long", gain=0.0, cost={"tokens": -1.0})], "cost of tokens is -1.0"),
        ([Candidate(response_group="long", gain=0.0, cost={"tokens": 1.0}, reserve={"tokens": math.inf})], "reserve"),
    ):
        with pytest.raises(IbpoError, match=message):
            controller.decide(options, request_id="a", now=0.0)
        assert json.dumps(controller.state_dict()) == before
    long, huge = Candidate(response_group="long", gain=0.0, cost={"tokens": 1.0}), 10**400
    for options, said in (
        ([replace(long, gain=huge)], "gain is a number of 401 digits"),
        ([replace(long, gain=-(10**5000))], "gain is a number of 5001 digits"),
        ([replace(long, cost={"tokens": huge})], "cost of tokens is a number"),
        ([replace(long, reserve={"tokens": huge})], "reserve of tokens is a number"),
    ):
        with pytest.raises(IbpoError, match=said):
            controller.decide(options, request_id="a", now=0.0)
    for values, said in (
        ({"now": huge}, "now is a number of 401 digits"),
        ({"now": math.nan}, "now is nan"),
        ({"num_requests": huge}, "num_requests is a number of 401 digits"),
    ):
        with pytest.raises(IbpoError, match=said):
            controller.decide([long], **{"request_id": "a", "now": 0.0, **values})
    assert json.dumps(controller.state_dict()) == before
    with pytest.raises(IbpoError, match="quota 'day': tokens is a number of 401 digits"):
        Controller(controller.policy).decide([long], request_id="a", now=0.0, quotas={"day": {"tokens": huge}})
    for count in (0, -1, 1.5):  # -1 brought the budget what a request costs
        with pytest.raises(IbpoError, match="num_requests is"):
            controller.decide(two(1.0), request_id="a", now=0.0, num_requests=count)  # pyright: ignore[reportArgumentType]
        assert json.dumps(controller.state_dict()) == before
    controller.decide(two(1.0), request_id="a", now=0.0)
    for actual, message in (({"token": 1.0}, "no such budget"), *(({"tokens": n}, "finite") for n in (math.nan, huge))):
        for book in (controller.settle, controller.cancel, lambda name, cost: controller.progress(name, cost, {})):
            with pytest.raises(IbpoError, match=message):
                book("a", actual)
    assert controller.settle("a")


@pytest.mark.parametrize(
    "table, message",
    [
        ({}, "no budget"),
        ({"budget": {"x": {"mean": 1.2, "response_group": "long"}}}, "a share of requests must be in"),
        ({"budget": {"x": {"mean": -1}}}, "mean is -1"),
        ({"budget": {"x": {}}}, "no mean"),
        ({"budget": {"x": {"mean": "a"}}}, "must be a number"),
        ({"budget": {"x": {"mean": 10**400}}}, "mean is a number of 401 digits"),
        ({"budget": {"x": 10**5000}}, "budget: x is a number of 5001 digits"),
        ({"budget": {"x": {"mean": 1, "overcommit": 10**400}}}, "overcommit is a number of 401 digits"),
        ({"budget": TOKENS, "explore": 10**400}, "explore is a number of 401 digits"),
        ({"budget": {"x": {"mean": 1, "maen": 2}}}, "unknown field 'maen'"),
        ({"budget": {"x": {"mean": 1, "name": "money"}}}, "unknown field 'name'"),  # which was left without effect
        ({"budget": {"x": {"mean": 1, "carry": 2}}}, "carry is now called burst"),
        ({"budget": {"x": {"mean": 1, "cushion": 2}}}, "cushion is now called overcommit"),
        ({"budget": {"extended": "30%", "carry": 9}}, r"burst is a field of one .* with mean = 0.3 and burst = 9"),
        ({"budget": {"mean": 0.3}}, r"the mean of which budget\? Say \[budget.extended\]"),
        ({"budget": {"long": "30 percent"}}, "budget.long: .* is not an amount"),
        ({"budget": {"long>=": "30%"}}, "at_least in --plan"),
        ({"budget": TOKENS, "fair_share": 2}, "fair_share"),
        ({"budget": TOKENS, "tenant": {"a": {"at_least": {"token": 2}}}}, "no budget 'token'"),
        (
            {"budget": {"long": "30%"}, "tenant": {"a": {"at_least": {"long": 20}}}},
            r"tenant 'a', at_least: long is 20\.0; a share of requests must be in \[0, 1\]",
        ),
        ({"budget": {"long": "30%"}, "slice": {"a": {"at_most": {"long": 1.1}}}}, "slice 'a', at_most: long is 1.1"),
        ({"budgets": TOKENS}, "unknown field 'budgets'"),
        (
            {"budget": TOKENS, "slice": {"a": {"at_least": {"tokens": 2}, "at_most": {"tokens": 1}}}},
            "above its ceiling",
        ),
    ],
)
def test_bad_plans(table, message):
    base = {"budget": TOKENS} if not table and message != "no budget" else {}
    with pytest.raises(IbpoError, match=message):
        ServingPolicy.from_dict({**base, **table})


@pytest.mark.parametrize("name", ["add-a-plug-in", "calibrate", "money-and-sessions", "learn-while-serving"])
def test_the_pages_on_serving_run(tmp_path, monkeypatch, capsys, name):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / f"{name}.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert snippets
    names = {}
    for code in snippets:
        exec(code, names)
    promised = re.findall(r"^print\(.*\)  # (.*)", "\n".join(snippets), re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == promised


def test_the_plan_of_the_documentation_is_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "calibrate.md").read_text(encoding="utf-8")
    (plan,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "plan.toml").write_text(plan)
    assert read_policy(tmp_path / "plan.toml").tenants["gold"].at_least == {"extended": 0.2}


@pytest.mark.parametrize("name", ["mean", "overdraft", "burst", "overcommit"])
def test_a_number_that_is_larger_than_any_float_is_refused_in_python_too(name):
    with pytest.raises(IbpoError, match=f"{name} is a number of 401 digits"):
        BudgetPolicy(name="tokens", **{"mean": 1.0, name: 10**400})
    with pytest.raises(IbpoError, match="a number of 401 digits"):
        ServingPolicy(budgets=(BudgetPolicy(name="tokens", mean=1.0),), fair_share=10**400)


@pytest.mark.parametrize("count", [10**6, 2**53])
def test_very_many_answers_are_decided_at_once(count):
    """A window remembers 512 requests: more of one kind change nothing in it, and each took some microseconds."""
    plan = ServingPolicy.from_dict({"budget": TOKENS})
    made = []
    for number in (1000, count):
        controller = Controller(plan)
        one = Candidate(response_group="long", gain=1.0, cost={"tokens": 10.0 * number})
        controller.decide([one], request_id="a", now=0.0, num_requests=number)
        assert controller.store.buckets(TOTAL)[0].num_requests == number
        made.append(controller.decide(two(0.5), request_id="b", now=0.0).price)
    assert made[0] == made[1]


def test_a_request_of_several_answers_is_several_requests():
    """As if each had come by itself, in the accounts and in the state."""
    plan = ServingPolicy.from_dict({"budget": {**TOKENS, "long": {"mean": 0.5, "response_group": "long"}}})
    together, apart = Controller(plan), Controller(plan)
    one = Candidate(response_group="long", gain=1.0, cost={"tokens": 10.0}, reserve={"tokens": 50.0})
    all_four = Candidate(response_group="long", gain=1.0, cost={"tokens": 40.0}, reserve={"tokens": 200.0})
    made = together.decide([all_four], request_id="a", now=0.0, num_requests=4)
    for number in range(4):
        apart.decide([one], request_id=str(number), now=0.0)
    assert (made.estimate, made.reserve, made.num_requests) == ((40.0, 4.0), (200.0, 4.0), 4)
    together = Controller.from_state(plan, json.loads(json.dumps(together.state_dict())))
    for end in ("settle", "cancel"):
        for one_bucket, other in zip(together.store.buckets(TOTAL), apart.store.buckets(TOTAL), strict=True):
            assert one_bucket.state() == pytest.approx(other.state())
        getattr(together, end)("a")
        for number in range(4):
            getattr(apart, end)(str(number))
        if end == "settle":
            together.decide([all_four], request_id="a", now=1.0, num_requests=4)
            for number in range(4):
                apart.decide([one], request_id=str(number), now=1.0)
    assert together.store.buckets(TOTAL)[0].num_requests == 4
