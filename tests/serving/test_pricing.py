"""Prices and corrected lengths by their formulas, with numbers worked out here."""

import json
import math

import numpy as np
import pytest

from ibpo.serving.controller import BudgetPolicy, Candidate, Controller, Reservation, ServingPolicy
from ibpo.serving.controller.accounts import Ended
from ibpo.serving.controller.alarm import Alarm
from ibpo.serving.controller.correction import Correction
from ibpo.serving.controller.pricing import drift
from ibpo.serving.controller.window import Window


def ended(number, expected, actual, group="long"):
    """What became of the response of this number."""
    reservation = Reservation(
        request_id=str(number),
        response_group=group,
        price=(0.0,),
        estimate=(expected,),
        reserve=(expected,),
        raw=(expected,),
        time=0.0,
        tenant="",
        slice_name="",
        within=True,
    )
    return Ended(reservation, (actual,), False, 0)


def learned(expected, actual):
    """The factor after these responses, one after the other."""
    correction = Correction(1)
    for number, (x, y) in enumerate(zip(expected, actual, strict=True)):
        done = ended(number, x, y)
        correction.follow(done.reservation)
        correction.end(done)
    return correction.ratios["long"][0]


def formula(expected, actual):
    """r = sum w actual / sum w estimate, shrunk by s^2 / (r - 1)^2 and kept in [1/8, 16]: see `Correction`."""
    expected, actual = np.array(expected), np.array(actual)
    weight = (1 - 1 / 512) ** np.arange(len(expected))[::-1]
    r = (weight * actual).sum() / (weight * expected).sum()
    s2 = (weight * (actual - r * expected) ** 2).sum() / (weight * expected).sum() ** 2
    return min(16.0, max(1 / 8, 1 + (r - 1) * max(0.0, 1 - s2 / (r - 1) ** 2)))


def test_lengths_are_corrected_by_what_responses_took():
    rng = np.random.default_rng(0)
    expected = rng.uniform(50, 150, 700)
    actual = expected * rng.uniform(1.5, 2.5, 700)
    found = learned(expected, actual)
    assert found == pytest.approx(formula(expected, actual), rel=1e-9)
    assert found == pytest.approx(2.0, abs=0.1)
    # The first 31 say nothing; then the ratio is believed.
    assert learned(expected[:31], actual[:31]) == 1.0
    assert learned(expected[:32], actual[:32]) == pytest.approx(formula(expected[:32], actual[:32]), rel=1e-9)
    # Within its standard error of 1 it is noise.
    noisy = [1.0, 199.0] * 20
    assert np.mean(noisy) == 100 and learned([99.0] * 40, noisy) == 1.0
    assert learned([1.0] * 40, [100.0] * 40) == 16.0
    assert learned([100.0] * 40, [1.0] * 40) == 1 / 8


def test_a_corrected_length_is_what_is_charged_and_what_is_priced():
    """Twice as long as expected: the estimate doubles, and a response that no longer has room is not admitted."""
    budget = {"tokens": {"mean": 100.0, "overdraft": 250.0, "burst": 0.0}}
    controller = Controller(ServingPolicy.from_dict({"budget": budget}))
    short = Candidate(response_group="short", gain=0.0, cost={"tokens": 0.0})
    for number in range(40):
        controller.decide(
            [Candidate(response_group="long", gain=1.0, cost={"tokens": 50.0})], request_id=str(number), now=0.0
        )
        controller.settle(str(number), {"tokens": 100.0})
    # What the first ones left unspent was lost (no burst), and what they took beyond it is owed.
    assert controller.balance_of("tokens") == pytest.approx(-50.0, abs=1e-9)
    made = controller.decide(
        [short, Candidate(response_group="long", gain=1.0, cost={"tokens": 200.0})], request_id="a", now=0.0
    )
    # 200 expected would fit into 100 - 50 + 250; the 400 that it will take do not.
    assert made.response_group == "short"
    made = controller.decide([Candidate(response_group="long", gain=1.0, cost={"tokens": 30.0})], request_id="b", now=0)
    assert (made.raw, made.estimate) == ((30.0,), (pytest.approx(60.0),))


def filled(num_budgets, gains):
    """A window of requests whose long response costs 1 in every budget."""
    window = Window(num_budgets)
    for gain in gains:
        window.add([0.0, gain], [[0.0] * num_budgets, [1.0] * num_budgets])
    return window


def test_one_price_is_found_at_once_and_two_go_half_way_each_time():
    gains = [(i + 0.5) / 100 for i in range(100)]
    prices = [0.0]
    filled(1, gains).reprice([0.3], prices)
    # Thirty of a hundred gain more than the 31st.
    assert prices == [pytest.approx(0.695)]
    window, prices = filled(2, gains), [0.0, 0.0]
    for step in range(1, 7):
        window.reprice([0.3, 1.0], prices)  # the second budget is slack
        assert prices == [pytest.approx(0.695 * (1 - 0.5**step)), 0.0]


def test_the_drift_is_the_tangent_of_the_controller_s_rule():
    # sigma^2 (pi / 2w) tan(pi x / 2w), x counted from the middle of [-overdraft, burst].
    for balance, overdraft, burst, variance in ((0.0, 5.0, 5.0, 0.2), (2.0, 5.0, 5.0, 0.2), (-3.0, 8.0, 2.0, 7.0)):
        w, x = (overdraft + burst) / 2, balance - (burst - overdraft) / 2
        expected = variance * math.pi / (2 * w) * math.tan(math.pi * x / (2 * w))
        assert drift(balance, overdraft, burst, variance) == pytest.approx(expected)
    assert drift(5.0, 5.0, 5.0, 0.2) == math.inf and drift(-5.0, 5.0, 5.0, 0.2) == -math.inf
    assert drift(1.0, 0.0, 0.0, 0.2) == 0.0


def test_a_change_of_the_traffic_is_one_alarm_and_a_ramp_few():
    rng = np.random.default_rng(1)

    def alarms(level):
        alarm, figures = Alarm(), level[:, None] * rng.lognormal(0, 1, (len(level), 1))
        for end in range(64, len(level) + 1, 64):
            alarm.watch(figures[max(0, end - 512) : end], 64)
            again = Alarm.from_state(json.loads(json.dumps(alarm.state())))
            assert json.dumps(again.state()) == json.dumps(alarm.state())
            alarm = again
        return alarm.num_drifts

    assert alarms(np.ones(20_000)) == 0
    assert alarms(np.repeat([1.0, 10.0], 10_000)) == 1
    assert alarms(np.repeat([10.0, 1.0], 10_000)) == 1
    # Ten times as much, by and by: one for each half that is added, ln 10 / ln 1.5 = 5.7.
    assert 3 <= alarms(np.geomspace(1, 10, 20_000)) <= 7
    assert alarms(np.where(np.arange(20_000) % 400 < 80, 3.0, 1.0)) == 0  # bursts that come and go


def test_the_room_follows_what_the_budget_buys_inside_its_limits():
    budget = BudgetPolicy(name="tokens", mean=100.0)
    controller = Controller(ServingPolicy(budgets=(budget,)))
    assert controller.overdraft == [500.0]
    rng, seen = np.random.default_rng(2), []
    for number in range(1500):
        # First what is bought costs 200, then also 6,000 for one request in a hundred, with the largest gain.
        expensive = number >= 500 and number % 100 == 0
        gain, tokens = (90.0, 6000.0) if expensive else (rng.random(), 200.0)
        options = [
            Candidate(response_group="short", gain=0.0, cost={"tokens": 10.0}),
            Candidate(response_group="long", gain=gain, cost={"tokens": tokens}),
        ]
        controller.decide(options, request_id=str(number), now=0.0)
        controller.settle(str(number))
        seen.append(controller.overdraft[0])
    assert max(seen[:500]) < 1500
    assert seen[-1] > 6000  # one of them fits
    assert max(seen) <= budget.largest_overdraft == 25600
    given = Controller(ServingPolicy(budgets=(BudgetPolicy(name="tokens", mean=100.0, overdraft=700.0),)))
    for number in range(200):
        given.decide(options, request_id=str(number), now=0.0)
    assert given.overdraft == [700.0]


def test_an_overdraft_is_repaid_without_denying_the_next_requests_all_but_the_cheapest():
    """Always a cheap model, a middle one worth .1 more for .8 of the mean, or one worth .12 more for 23 means."""
    rng, lowest, targets, made = np.random.default_rng(0), 1.0, [], []
    controller = Controller(ServingPolicy(budgets=(BudgetPolicy(name="money", mean=1.0, overdraft=24.0, burst=6.0),)))
    for i in range(4000):
        gains = (0.0, rng.normal(0.1, 0.05), rng.normal(0.12, 0.1))
        candidates = [
            Candidate(response_group=str(k), gain=gain, cost={"money": cost})
            for k, (gain, cost) in enumerate(zip(gains, (0.05, 0.8, 23.0), strict=True))
        ]
        targets.append(controller._pricing.quote(controller._admission.accounts("", "")).targets[0])
        made.append(controller.decide(candidates, request_id=str(i), now=0.0).response_group)
        controller.settle(str(i))
        lowest = min(lowest, controller.balance_of("money"))
    assert lowest >= -24.0 - 1e-9
    assert min(targets) == pytest.approx(0.6)
    assert made.count("2") > 20 and made.count("0") < 0.09 * len(made)  # .10 where all was repaid at once
