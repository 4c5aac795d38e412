from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from ibpo.evaluation import metrics

rates = st.floats(0, 1).map(lambda x: round(x, 3))


@st.composite
def levels(draw, num_arrays: int):
    size = draw(st.integers(1, 6))
    part = draw(arrays(float, size, elements=st.floats(0.01, 1)))
    return part / part.sum(), *(draw(arrays(float, size, elements=rates)) for _ in range(num_arrays))


def brute_majority(answers, correct, k):
    scores = []
    for subset in combinations(range(len(answers)), k):
        voted = [answers[i] for i in subset if answers[i] is not None]
        top = max((voted.count(a) for a in voted), default=0)
        tied = sorted({a for a in voted if voted.count(a) == top})
        right = [max(correct[i] for i in subset if answers[i] == a) for a in tied]
        scores.append(np.mean(right) if right else 0.0)
    return np.mean(scores)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_majority_equals_brute_force(num, k, random):
    k = min(k, num)
    answers = [[random.choice(["1", "2", "3", None]) for _ in range(num)] for _ in range(3)]
    correct = [[float(a == "1") for a in row] for row in answers]
    expected = [brute_majority(a, c, k) for a, c in zip(answers, correct, strict=True)]
    np.testing.assert_allclose(metrics.majority_accuracy(answers, correct, k), expected)


def test_votes_count_answers_and_not_spellings():
    answers, correct = [["1/2", "0.5", "7", "7"]], [[1, 1, 0, 0]]
    assert metrics.majority_accuracy(answers, correct, 4).tolist() == [0.5]
    assert metrics.vote_at_k(["p"] * 4, answers[0], correct[0], 4)[1].tolist() == [0.5]
    # What the judge found right is one answer, and what it found wrong is never the same as that.
    assert metrics.answer_codes([["a", "b", "a", None]], [[1, 1, 0, 0]]).tolist() == [[0, 0, 1, -1]]


def test_majority_one_and_two_votes_are_one_response():
    rng = np.random.default_rng(1)
    answers = rng.integers(0, 4, (20, 12)).astype(str)
    correct = answers == "0"
    for k in (1, 2):
        np.testing.assert_allclose(metrics.majority_accuracy(answers, correct, k), correct.mean(1))


def test_majority_from_random_subsets_is_near_the_exact_one():
    rng = np.random.default_rng(2)
    answers = rng.integers(0, 3, (200, 12)).astype(str)
    correct = answers == "0"
    exact = metrics.majority_accuracy(answers, correct, 5, max_subsets=10_000)
    drawn = metrics.majority_accuracy(answers, correct, 5, max_subsets=256)
    assert abs(exact.mean() - drawn.mean()) < 0.005
    assert not np.array_equal(exact, drawn)
    np.testing.assert_array_equal(drawn, metrics.majority_accuracy(answers, correct, 5, max_subsets=256))


def test_majority_refuses_more_votes_than_responses():
    with pytest.raises(ValueError, match=r"1\.\.2"):
        metrics.majority_accuracy([["a", "b"]], [[1, 0]], 3)


@settings(deadline=None)
@given(levels(2), rates)
def test_oracle_laws(case, share):
    part, acc0, acc1 = case
    accuracy, x = metrics.oracle_by_level(acc0, acc1, part, share)
    mix = metrics.random_mix(part @ acc0, part @ acc1, share)
    assert part @ x <= share + 1e-9
    assert accuracy >= max(mix, part @ acc0) - 1e-9
    assert (x[acc1 <= acc0] == 0).all()
    more, _ = metrics.oracle_by_level(acc0, acc1, part, min(1.0, share + 0.1))
    assert more >= accuracy - 1e-9
    assert metrics.oracle_by_level(acc0, acc1, part, 1.0)[0] == pytest.approx(part @ np.maximum(acc0, acc1))


@settings(deadline=None)
@given(levels(4), st.floats(0, 1))
def test_oracle_at_cost_equals_linear_programming(case, where):
    part, acc0, acc1, cost0, cost1 = case
    cost0, cost1 = 5 + 20 * cost0, 5 + 60 * cost1
    lowest = part @ np.minimum(cost0, cost1)
    budget = lowest + where * (part @ np.maximum(cost0, cost1) - lowest)
    accuracy, x = metrics.oracle_by_level_at_cost(acc0, acc1, cost0, cost1, part, budget)
    room = [budget - part @ cost0]
    best = linprog(-part * (acc1 - acc0), A_ub=[part * (cost1 - cost0)], b_ub=room, bounds=(0, 1))
    assert part @ (cost0 + x * (cost1 - cost0)) <= budget + 1e-9
    assert ((x >= -1e-12) & (x <= 1 + 1e-12)).all()
    if best.success:  # on the edge of infeasible HiGHS may say no where rounding says yes
        assert accuracy == pytest.approx(part @ acc0 - best.fun, abs=1e-6)


def test_oracle_at_cost_below_the_cheapest_is_nan():
    assert np.isnan(metrics.oracle_by_level_at_cost([0.5], [0.9], [10], [20], [1.0], 9)[0])


def test_a_mix_at_a_cost_lies_on_the_envelope_and_never_extrapolates():
    assert metrics.mix_at_cost([2, 1], [0.8, 0.4], 1.5) == pytest.approx([0.5, 0.5])
    assert metrics.mix_at_cost([2, 1], [0.8, 0.4], 2) == pytest.approx([1, 0])
    assert all(np.isnan(metrics.mix_at_cost([2, 1], [0.8, 0.4], cost)).all() for cost in (0.99, 2.01))
    assert len(metrics.mix_at_cost([], [], 1)) == 0
    rng = np.random.default_rng(0)
    for _ in range(100):
        cost_N, acc_N = rng.uniform(1, 5, 6), rng.uniform(0, 1, 6)
        cost = rng.uniform(cost_N.min(), cost_N.max())
        solved = linprog(-acc_N, A_eq=[cost_N, np.ones(6)], b_eq=[cost, 1])
        mix_N = metrics.mix_at_cost(cost_N, acc_N, cost)
        assert mix_N @ cost_N == pytest.approx(cost) and mix_N.sum() == pytest.approx(1)
        assert mix_N @ acc_N == pytest.approx(acc_N @ np.asarray(solved.x))


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e-10])
def test_costs_of_any_unit(unit):
    """A millionth of a dollar is no rounding: what was a billionth short counted as affordable."""
    levels = [0.5, 0.2], [0.9, 0.6], np.array([1.0, 2.0]) * unit, np.array([3.0, 4.0]) * unit, [0.5, 0.5]
    assert np.isnan(metrics.oracle_by_level_at_cost(*levels, 1.4999 * unit)[0])
    assert metrics.oracle_by_level_at_cost(*levels, 1.5 * unit)[0] == pytest.approx(0.35)
    assert metrics.oracle_by_level_at_cost(*levels, 2.5 * unit)[0] == pytest.approx(0.55)
    rng = np.random.default_rng(0)
    cost = np.array([[1.0], [2.0], [5.0]]) * rng.uniform(0.9, 1.1, (3, 40))
    accuracy = np.array([[0.3], [0.5], [0.8]]) + 0.2 * rng.random((3, 40))
    same = metrics.estimate_area(cost, accuracy, 1.5, 4.5)
    found = metrics.estimate_area(cost * unit, accuracy, 1.5 * unit, 4.5 * unit)
    assert (found.value, found.low, found.high) == pytest.approx((same.value, same.low, same.high))


def test_one_problem_has_no_ratio_to_votes_that_gain_nothing():
    """It was infinite: no standard error is known of one problem, and nothing is below that."""
    found = metrics.estimate_gain_ratio([0.7], [2.0], [[0.5], [0.5], [0.5]], [[1.0], [2.0], [3.0]])
    assert np.isnan(found.value)
    assert metrics.estimate_gain_ratio([0.7], [2.0], [[0.5], [0.6]], [[1.0], [2.0]]).value == pytest.approx(2)


def test_votes_are_at_least_one():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        metrics.vote_at_k(["a"], ["1"], [1], 0)
