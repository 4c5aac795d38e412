"""How long answers will be: learned without bias, by the prompt where that tells something, with a quantile."""

import heapq
import json
import math

import numpy as np
import pytest

from ibpo.errors import IbpoError
from ibpo.serving.controller import BudgetPolicy, Candidate, Controller, ServingPolicy
from ibpo.serving.lengths import Lengths


def stream(actual, size, *, rate=20.0, speed=50.0, group="long", guess=100.0):
    """Predictions of answers that come `rate` a second and end `actual / speed` seconds later."""
    lengths, ends, found = Lengths(), [], []
    for i, tokens in enumerate(actual.tolist()):
        while ends and ends[0][0] <= i / rate:
            _, name, done = heapq.heappop(ends)
            lengths.end(name, done)
        found.append(lengths.begin(str(i), group, size=float(size[i]), guess=guess))
        heapq.heappush(ends, (i / rate + tokens / speed, str(i), tokens))
    return np.array(found)


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_is_not_that_of_those_that_end_first(seed):
    """Heavy tails, a hundred in flight: the mean and the quantile are those of all answers."""
    rng = np.random.default_rng(seed)
    actual = 300 * (1 + rng.pareto(2.5, 6000))
    found = stream(actual, np.full(6000, 1000.0))
    assert found[2000:, 0].mean() == pytest.approx(actual.mean(), rel=0.06)
    assert (actual[2000:] > found[2000:, 1]).mean() == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_the_prompt_counts_where_it_tells_something_and_not_where_it_does_not(seed):
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(3, 10, 5000))
    told = 20 * np.sqrt(size) * np.exp(rng.normal(-0.08, 0.4, 5000))
    found, kept = stream(told, size, guess=900.0), slice(1500, None)
    error = ((found[kept, 0] - told[kept]) ** 2).mean() / told[kept].var()
    assert error < 0.6  # nearly all of it is chance
    silent = 900 * np.exp(rng.normal(-0.5, 1.0, 5000))
    found = stream(silent, size, guess=900.0)
    assert ((found[kept, 0] - silent[kept]) ** 2).mean() < 1.03 * silent[kept].var()


def test_what_sizes_do_to_one_group_is_expected_of_another():
    lengths = Lengths()
    for i in range(400):
        long = i % 2
        lengths.begin(f"a{i}", "a", size=10_000.0 if long else 100.0, guess=1.0)
        lengths.end(f"a{i}", 900.0 if long else 100.0)
        if i < 80:  # of b only short prompts and long ones in turn, few
            lengths.begin(f"b{i}", "b", size=10_000.0 if long else 100.0, guess=1.0)
            lengths.end(f"b{i}", 9000.0 if long else 1000.0)
    ratio = lengths.expect("b", 10_000.0, 1.0).mean / lengths.expect("b", 100.0, 1.0).mean
    assert 5.0 < ratio < 10.0  # 40 answers of each size alone would be shrunk to some 5


def test_before_enough_answers_it_is_the_guess_and_what_is_unknown_teaches_nothing():
    lengths = Lengths()
    for i in range(31):
        lengths.begin(str(i), "g", size=5.0, guess=70.0)
        lengths.end(str(i), 7.0)
    assert lengths.expect("g", 5.0, 70.0).mean == 70.0
    for i in range(50):
        lengths.begin(f"x{i}", "g", size=5.0, guess=70.0)
        lengths.end(f"x{i}", None)
        lengths.end(f"x{i}", 1e6)  # a second end is none
        lengths.end("never begun", 1e6)
    assert lengths.expect("g", 5.0, 70.0).mean == 70.0


def test_it_goes_on_where_it_was_and_says_no_to_another_state():
    rng, one = np.random.default_rng(0), Lengths()
    for i, tokens in enumerate(rng.lognormal(5, 1, 300).tolist()):
        one.begin(str(i), "g", size=tokens, guess=10.0)
        one.end(str(i), tokens)
    other = Lengths()
    other.load_state(json.loads(json.dumps(one.state_dict())))
    assert [one.expect("g", size, 1.0) for size in (1, 100, 1e4)] == [other.expect("g", s, 1.0) for s in (1, 100, 1e4)]
    state = one.state_dict()
    for damaged in (
        {"means": 3},
        {**state, "means": {"g": ["x", 1.0, 1.0]}},
        {**state, "bins": {"g 1": [1.0]}},
        {**state, "errors": {"g": [math.nan, 1.0]}},
        {**state, "means": {"g": [50.0, -900.0, 1.0]}},  # no request could be decided: its cost was below 0
        {**state, "ratios": {"g": [1.0]}},
    ):
        with pytest.raises(IbpoError, match="start again without it"):
            other.load_state(damaged)
        assert other.state_dict() == state


def test_what_has_come_says_how_much_will():
    """Of lognormal lengths: the mean of those that are longer, by the answers themselves."""
    rng = np.random.default_rng(0)
    actual, lengths = rng.lognormal(6, 0.7, 3000), Lengths()
    for i, tokens in enumerate(actual.tolist()):
        lengths.begin(str(i), "g", size=50.0, guess=500.0)
        lengths.end(str(i), tokens)
    lengths.begin("now", "g", size=50.0, guess=500.0)
    for so_far in (10.0, 400.0, 1000.0):
        assert lengths.given("now", so_far) == pytest.approx(actual[-600:][actual[-600:] > so_far].mean(), rel=0.12)
    assert lengths.given("now", 1e6) == 1.25e6
    assert lengths.given("unknown", 7.0) == 7.0


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, 1e200, -1.0], ids=["nan", "inf", "huge", "1e200", "-1"])
def test_a_number_that_is_none_is_refused_and_changes_nothing(value):
    """One length that is no number would be in every mean from then on; of 1e200 the square was a traceback."""
    lengths = Lengths()
    for size, guess in ((value, 1.0), (1.0, value), (1.0, -1.0)):
        with pytest.raises(IbpoError, match="must be finite"):
            lengths.begin("a", "long", size=size, guess=guess)
    lengths.begin("a", "long", size=1.0, guess=10.0)
    for what in (lengths.given, lengths.end):
        with pytest.raises(IbpoError, match="must be a finite number"):
            what("a", value)
    before = json.dumps(lengths.state_dict())
    lengths.end("a", 10.0)
    assert json.dumps(lengths.state_dict()) != before


@pytest.mark.parametrize("learn", [False, True], ids=["correction", "lengths"])
@pytest.mark.parametrize("guess", [15_000.0, 1500.0])
def test_a_wrong_guess_that_is_left_is_no_drift(learn, guess):
    """Three times too much, or too little: nothing has changed but what is expected. Then lengths do change: one."""
    rng, lengths, waiting = np.random.default_rng(0), Lengths(), []
    policy = ServingPolicy(budgets=(BudgetPolicy(name="tokens", mean=1900.0),))
    controller = Controller(policy)
    guesses = {"short": 400.0, "long": guess}
    for i in range(5000):
        if i == 2500:
            assert controller.num_drifts == 0
        actual = {"short": 400.0, "long": 5000.0 * (4 if i >= 2500 else 1)}
        expected = {g: lengths.expect(g, 100.0, tokens).mean if learn else tokens for g, tokens in guesses.items()}
        made = controller.decide(
            [
                Candidate(response_group=g, gain=rng.random() * (g == "long"), cost={"tokens": expected[g]})
                for g in guesses
            ],
            request_id=str(i),
            now=0.0,
        )
        group = made.response_group
        lengths.begin(str(i), group, size=100.0, guess=guesses[group])
        waiting.append((str(i), actual[group] * rng.lognormal(-0.08, 0.4)))
        if len(waiting) > 30:
            name, tokens = waiting.pop(0)
            believed = lengths.num_believed
            controller.settle(name, {"tokens": tokens})
            lengths.end(name, tokens)
            if learn and lengths.num_believed != believed:
                controller.expect_change()
    assert 1 <= controller.num_drifts <= 4  # a change by four, learned step by step: at most one for each half
