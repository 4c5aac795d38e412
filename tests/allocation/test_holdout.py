"""Held-out values: honest where in-sample values are not."""

from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest

from ibpo.allocation import InfeasibleBudget, RankedSteps, allocate, by_problem_picks, holdout_value, random_mix
from ibpo.allocation.many import choose_each, whole
from ibpo.errors import IbpoError


def log(accuracy, cost, num_responses=8, seed=0):
    """Bernoulli rewards: accuracy `[P, G]`, cost `[G]` -> reward, problem, response group, cost."""
    rng = np.random.default_rng(seed)
    problem, group, _ = np.indices((*accuracy.shape, num_responses)).reshape(3, -1)
    reward = (rng.random(len(problem)) < accuracy[problem, group]).astype(float)
    return reward, problem, np.array(["low", "high", "max"])[group], np.array(cost, float)[group]


def test_nothing_to_gain_where_random_mixing_is_optimal():
    """All problems alike: no choice can beat a coin, but in-sample values claim that it does."""
    rows = log(np.tile([0.4, 0.6], (200, 1)), [1, 9])
    row = holdout_value(*rows, budgets=[5], num_splits=10)[0]
    assert abs(row.gain) < 3 * row.gain_stderr and row.gain_stderr < 0.03
    assert row.in_sample > row.reward + 0.08
    assert row.random_mix == pytest.approx(row.straight_line)
    assert row.spent <= 5


def test_finds_the_gain_where_problems_differ():
    accuracy = np.array([[0.95, 0.95], [0.05, 0.95]])[np.arange(100) % 2]
    row = holdout_value(*log(accuracy, [1, 9]), budgets=[5], num_splits=10)[0]
    assert row.gain > 0.15 and row.gain > 5 * row.gain_stderr
    assert row.always_cheapest < row.random_mix < row.reward
    assert row.kept == pytest.approx(row.reward / row.always_most_expensive) and row.kept > 0.95
    assert sum(row.share.values()) == pytest.approx(1)


def test_standard_error_is_about_the_spread_between_logs():
    rng = np.random.default_rng(5)
    rows = [
        holdout_value(*log(rng.random((40, 2)) * [0.6, 1], [1, 9], seed=seed), budgets=[5], num_splits=4)[0]
        for seed in range(25)
    ]
    spread, claimed = np.std([row.gain for row in rows]), np.mean([row.gain_stderr for row in rows])
    assert 0.6 < claimed / spread < 1.6


def test_order_of_rows_and_seed():
    rows = log(np.random.default_rng(1).random((12, 3)), [1, 3, 9], num_responses=5)
    order = np.random.default_rng(2).permutation(len(rows[0]))
    first = holdout_value(*rows, budgets=[4, 8], num_splits=5, seed=3)
    assert first == holdout_value(*(x[order] for x in rows), budgets=[4, 8], num_splits=5, seed=3)
    assert first != holdout_value(*rows, budgets=[4, 8], num_splits=5, seed=4)
    assert [row.budget for row in first] == [4, 8]


def test_calls_back():
    seen = []
    rows = log(np.full((3, 2), 0.5), [1, 9])
    holdout_value(*rows, budgets=[5], num_splits=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_half_that_cannot_keep_the_budget_takes_the_cheapest():
    cost = [1, 3, 1, 3, 8, 8, 8, 8]
    row = holdout_value([0] * 4 + [1] * 4, ["p"] * 8, ["low"] * 4 + ["high"] * 4, cost, [2.0], num_splits=40)[0]
    assert 0 < row.num_unmet < 80
    assert row.share["high"] == 0 and row.reward == 0


def test_random_mix_is_the_upper_concave_envelope():
    cost, reward = np.array([1.0, 4.0, 10.0]), np.array([0.2, 0.8, 0.6])
    for at, value in [(0.5, 0.2), (1, 0.2), (2.5, 0.5), (4, 0.8), (7, 0.8), (12, 0.8)]:
        weight, _ = random_mix(cost, reward, at)
        assert weight @ reward == pytest.approx(value) and weight.sum() == pytest.approx(1)
    weight, slope = random_mix(cost[[0, 2]], reward[[0, 2]], 5.5, line=True)
    assert weight.tolist() == [0.5, 0.5] and slope == pytest.approx(0.4 / 9)


def test_bad_input_is_named():
    rows = log(np.full((3, 2), 0.5), [1, 9])
    with pytest.raises(InfeasibleBudget, match="raise it to at least 1"):
        holdout_value(*rows, budgets=[0.5])
    with pytest.raises(IbpoError, match="problem 2, response group high: 1 response"):
        holdout_value(*(x[:-7] for x in rows), budgets=[5])
    with pytest.raises(IbpoError, match="num_splits"):
        holdout_value(*rows, budgets=[5], num_splits=0)
    with pytest.raises(IbpoError, match="same shape"):
        holdout_value(rows[0], rows[1], rows[2], rows[3][:-1], budgets=[5])


def best_mean(reward, cost, count):
    """The response group with the best mean reward; one without a response has none."""
    return np.where(count > 0, np.nan_to_num(reward), 0.5).argmax(2)


def test_extrapolated_to_all_responses():
    """A rule that looks at nothing is worth the same; one that looks is worth nearly what all responses make it."""
    num_problems, found = 60, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        accuracy = rng.uniform(0.2, 0.8, (num_problems, 2))
        _, problem, group, cost = log(accuracy, [1, 9], num_responses=4)
        rows = (np.repeat(accuracy.ravel(), 4) + rng.normal(0, 0.3, len(cost)), problem, group, cost)
        more = {"num_splits": 10, "against": [np.array([0.0, 1.0])] * 2}
        rules = [best_mean, lambda reward, cost, count: np.zeros(reward.shape[:2], np.int64)]
        half, blind = holdout_value(*rows, rules, **more)
        whole, same = holdout_value(*rows, rules, **more, extrapolate=True)
        for name in ("reward", "reward_stderr", "spent", "gain", "gain_stderr", "mixture", "mixture_gain"):
            assert getattr(same, name) == pytest.approx(getattr(blind, name))
        means = rows[0].reshape(num_problems, 2, 4).mean(2)[:, ::-1]  # response groups are sorted: high, low
        pick = best_mean(means[None], None, np.ones((1, num_problems, 2)))[0]
        truth = np.take_along_axis(accuracy[:, ::-1], pick[:, None], 1).mean()
        found.append([half.reward - truth, whole.reward - truth])
        assert whole.spent == half.spent and whole.mixture == pytest.approx(half.mixture)
    half, whole = np.mean(found, axis=0)
    assert half < -0.01 and abs(whole) < 0.6 * abs(half)


def test_against_the_best_mixture_by_the_same_half():
    """Where all is luck, the mixture that is best by all responses is the luckiest; by a half it is not."""
    gains = []
    for seed in range(30):
        rows = log(np.full((30, 2), 0.5), [1, 9], num_responses=2, seed=seed)
        constant = [lambda reward, cost, count: np.zeros(reward.shape[:2], np.int64)]
        lucky = np.eye(2)[int(rows[0].reshape(30, 2, 2).mean((0, 2))[::-1].argmax())]
        gains.append([holdout_value(*rows, constant, against=[x], num_splits=5)[0].mixture_gain for x in (lucky, 9.0)])
    by_all, by_half = np.mean(gains, axis=0)
    assert by_all < -0.02 and abs(by_half) < 0.015


def test_halves_together_choose_what_allocate_chooses():
    """In whole numbers, all halves at once: the value that `allocate` proves for each."""
    rng = np.random.default_rng(0)
    for turn in range(60):
        num_halves, num_problems, num_groups = (int(rng.integers(1, most)) for most in (20, 40, 5))
        shape = num_halves, num_problems, num_groups
        utility, cost = rng.integers(0, 4 if turn % 2 else 1000, shape), rng.integers(0, 5 if turn % 3 else 500, shape)
        least, most = cost.min(2).sum(1).mean(), cost.max(2).sum(1).mean()
        high = int(least + 0.6 * rng.random() * (most - least))
        pick, unsolved = choose_each(utility, cost, Fraction(high))
        assert not unsolved
        problem, problems = np.arange(num_problems).repeat(num_groups), np.arange(num_problems)
        for u, c, chosen in zip(utility, cost, pick, strict=True):
            try:
                found = allocate(u.ravel(), problem, c.ravel(), Fraction(high, num_problems))
            except InfeasibleBudget:
                assert (chosen == -1).all()
                continue
            assert c[problems, chosen].sum() <= high
            assert u[problems, chosen].sum() == found.objective and found.status == "optimal"


def test_rules_that_share_their_sorting_choose_as_each_alone():
    """Halves with ties, of three response groups; a rule may be asked about other halves in between."""
    rng = np.random.default_rng(0)
    tables = [(rng.integers(0, 3, (6, 40, 3)) / 2, rng.integers(1, 6, (6, 40, 3)) / 1.0) for _ in range(2)]
    amounts = [1.0, 2.2, 3.1, 9.0]
    rules = by_problem_picks(amounts)
    for reward, cost in (*tables, tables[0]):
        for rule, amount in zip(rules, amounts, strict=True):
            pick = rule(reward, cost, np.ones_like(cost))
            assert (pick == RankedSteps(reward.copy(), cost.copy()).within(amount)).all()
            for h in range(6):  # a half has the same choice whatever stands beside it
                assert (pick[h] == RankedSteps(reward[h], cost[h]).within(amount)).all()
                spent = np.take_along_axis(cost[h], pick[h][:, None], 1).mean()
                assert spent <= max(amount, cost[h].min(1).mean()) + 1e-9


def test_means_as_whole_numbers():
    means, count = np.array([[[1.5, 2.25]]]), np.array([[[2.0, 4.0]]])
    numbers = whole(means, count, 0)
    assert numbers is not None and numbers[0].tolist() == [[[6, 9]]] and numbers[1] == 4
    assert whole(means, count, None) is None and whole(means, count * 0, 0) is None


def test_what_a_held_out_value_is_asked_is_checked():
    rows: Any = (
        [0, 0, 1, 1] + [1] * 4,
        ["hard"] * 4 + ["easy"] * 4,
        ["low", "low", "high", "high"] * 2,
        [1, 1, 9, 9] * 2,
    )
    questions: Any = (
        ({"budgets": "20"}, "budgets: needs a list"),  # not the budgets 2 and 0
        ({"budgets": 5}, "budgets: needs a list"),
        ({"budgets": [5, None]}, r"budgets\[1\] is None"),
        ({"budgets": [5, "x"]}, r"budgets\[1\] is 'x'"),
        ({"budgets": [5], "against": [5, 6]}, "against: needs at most one for each of 1 budgets, got 2"),
        ({"budgets": [5], "against": [np.array([0.5])]}, r"against\[0\]: needs weights .* for each of high, low"),
        ({"budgets": [5], "against": [np.array([0.5, 0.9])]}, r"against\[0\]: needs weights that add up to 1"),
        ({"budgets": [5], "against": ["x"]}, r"against\[0\] is 'x'"),
        ({"budgets": [lambda reward, cost, count: np.zeros(2, int)]}, "a rule has to give whole numbers of shape"),
        ({"budgets": [lambda reward, cost, count: np.full(reward.shape[:2], 2)]}, r"from -1 \(none\) to 1"),
        ({"budgets": [5], "seed": -1}, "seed: must be at least 0"),
        ({"budgets": [5], "num_splits": "3"}, "num_splits: must be at least 1"),
        ({"budgets": [5], "extrapolate": True}, "extrapolate: problem easy, response group high: 2 responses"),
    )
    for asked, message in questions:
        with pytest.raises(IbpoError, match=message):
            holdout_value(*rows, **asked)
    with pytest.raises(IbpoError, match=r"cost\[2\] is -9"):
        holdout_value(rows[0], rows[1], rows[2], [1, 1, -9, 9] * 2, [5])
    budgets: Any = iter([5])
    [once] = holdout_value(rows[0], iter(rows[1]), iter(rows[2]), rows[3], budgets, num_splits=4)
    assert once.reward == holdout_value(*rows, budgets=[5], num_splits=4)[0].reward == 1.0
    cost, reward = cast(Any, [1, 9]), cast(Any, [0.5, 1])
    assert random_mix(cost, reward, 5)[0].tolist() == [0.5, 0.5]
