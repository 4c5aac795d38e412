from collections import Counter
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibpo.evaluation.comparison import describe
from ibpo.evaluation.metrics import (
    area_under_curve,
    best_mix,
    estimate_area,
    estimate_gain_ratio,
    majority_accuracy,
    mix_at_cost,
    pass_at_k,
    vote_at_k,
)
from ibpo.evaluation.responses import Responses

answers = st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=7)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 12))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(num, right, k):
    right, k = min(right, num), min(k, num)
    responses = [1] * right + [0] * (num - right)
    hits = [any(subset) for subset in combinations(responses, k)]
    assert pass_at_k([right], [num], k)[0] == pytest.approx(np.mean(hits))


def lighteval_pass_at_k(n, c, k):
    """PassAtK.pass_at_k of lighteval 0.13, MIT."""
    if n - c < k:
        return 1.0
    return 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))


def test_pass_at_k_is_lightevals():
    for n in (1, 2, 7, 64):
        for c in range(n + 1):
            for k in {1, min(2, n), n // 2 + 1, n}:
                assert pass_at_k([c], [n], k)[0] == pytest.approx(lighteval_pass_at_k(n, c, k))
                assert pass_at_k([c], [n], k)[0] == pytest.approx(1 - comb(n - c, k) / comb(n, k))


def verl_maj(answer, correct, k):
    """maj@k/mean of verl 0.10 (process_validation_metrics, calc_maj_val), its draws *with* replacement done in full."""
    scores = []
    for draw in product(range(len(answer)), repeat=k):
        votes = Counter(answer[i] for i in draw)
        winner = max(votes, key=lambda a: votes[a])
        scores.append(next(correct[i] for i in draw if answer[i] == winner))
    return np.mean(scores)


def test_votes_approach_verls_as_repeated_draws_of_one_response_become_rare():
    """verl draws responses with replacement, which is biased; the bias falls as 1/n and is none at k = 1."""
    base = ["1", "1", "2", "3", "1", "2"]
    gaps = []
    for times in (1, 2, 4):
        answer = base * times
        correct = [float(a == "1") for a in answer]
        assert verl_maj(answer, correct, 1) == pytest.approx(majority_accuracy([answer], [correct], 1)[0])
        gaps.append(abs(verl_maj(answer, correct, 3) - ours_without_ties(answer, correct)))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] == pytest.approx(gaps[1] / 2, rel=0.3)


def ours_without_ties(answer, correct):
    """verl takes the first of tied answers, which splits ties evenly on average over the orders of a draw."""
    return majority_accuracy([answer], [correct], 3, max_subsets=10**6)[0]


@settings(deadline=None)
@given(st.lists(answers, min_size=1, max_size=4), st.integers(1, 4))
def test_votes_of_unequal_problems_are_those_of_each_alone(problems, k):
    problem = [f"p{i}" for i, row in enumerate(problems) for _ in row]
    answer = [a for row in problems for a in row]
    correct = [float(a == "1") for a in answer]
    names, vote = vote_at_k(problem, answer, correct, k)
    assert names == sorted(set(problem))
    for name, found in zip(names, vote, strict=True):
        row = problems[int(name[1:])]
        if len(row) < k:
            assert np.isnan(found)
        else:
            expected = majority_accuracy(np.array([row], dtype=object), [[float(a == "1") for a in row]], k)[0]
            assert found == pytest.approx(expected)


def test_area_is_the_integral_of_the_best_mix():
    cost, accuracy = [1, 2, 3, 5], [0.5, 0.4, 0.8, 0.7]
    grid = np.linspace(1, 5, 100_001)
    hull = np.interp(grid, [1, 3, 5], [0.5, 0.8, 0.7])
    assert area_under_curve(cost, accuracy, 1, 5) == pytest.approx(np.trapezoid(hull, grid) / 4)
    assert area_under_curve(cost, accuracy, 1.5, 2.5) == pytest.approx(0.65)


@given(st.integers(1, 6), st.integers(0, 10_000))
def test_the_best_mix_is_the_one_of_the_figures_of_merit(num, seed):
    rng = np.random.default_rng(seed)
    cost, accuracy = rng.integers(1, 6, (2, num)) * 1.0, rng.random((2, num))
    at = rng.uniform(0.5, 6, 2)
    expected = [mix_at_cost(c, a, x) @ a for c, a, x in zip(cost, accuracy, at, strict=True)]
    np.testing.assert_allclose(best_mix(cost, accuracy, at), expected)


@pytest.mark.parametrize(("low", "high"), [(0.5, 2), (1, 6), (2, 2), (3, 2)])
def test_areas_are_never_extrapolated(low, high):
    assert np.isnan(area_under_curve([1, 5], [0, 1], low, high))


def test_area_and_gain_ratio_with_intervals():
    rng = np.random.default_rng(0)
    hardness = rng.random(300)
    cost = np.vstack([np.full(300, 1.0), rng.lognormal(1.1, 0.1, 300)])
    accuracy = (np.vstack([hardness, hardness]) < np.array([[0.4], [0.8]])).astype(float)
    found = estimate_area(cost, accuracy, 1.0, float(cost[1].mean()))
    assert found.value == pytest.approx(accuracy.mean()) and found.low < found.value < found.high
    assert np.isnan(estimate_area(cost, accuracy, 0.5, 2).value)
    votes = np.vstack([accuracy[0], accuracy[0] * 0 + 0.6])
    ratio = estimate_gain_ratio(accuracy[1], cost[1], votes, np.vstack([cost[0], 4 * cost[0]]))
    assert ratio.low < ratio.value < ratio.high
    flat = np.vstack([accuracy[0], accuracy[0]])
    assert np.isnan(estimate_gain_ratio(accuracy[1], cost[1], flat, np.vstack([cost[0], 4 * cost[0]])).value)
    assert np.isnan(estimate_gain_ratio(accuracy[1], 9 * cost[1], votes, np.vstack([cost[0], 4 * cost[0]])).value)


def rows():
    """Two problems by hand: "a" of level 1 (2 of 3 right), "b" of level 2 (0 of 2)."""
    made = []
    for problem, level, reward, tokens, answer, group in (
        ("a", "1", 1, 10, "7", "standard"),
        ("a", "1", 1, 30, "7", "extended"),
        ("a", "1", 0, 50, "8", "extended"),
        ("b", "2", 0, 100, None, "extended"),
        ("b", "2", 0, 200, "9", "standard"),
    ):
        made.append(
            {"problem": problem, "configuration": "c", "level": level, "domain": "d", "reward": reward}
            | {"tokens": tokens, "thinking_tokens": tokens / 2, "answer": answer, "response_group": group}
            | {"truncated": float(answer is None)}
        )
    return made


def test_describe_by_hand():
    found = describe(Responses.from_rows(rows()))
    every = found["overall"]["all"]
    assert every["pass@1"].value == pytest.approx((2 / 3 + 0) / 2)
    assert every["pass@2"].value == pytest.approx((1 + 0) / 2)
    assert every["maj@2"].value == pytest.approx((1 + 0.5 + 0.5) / 3 / 2)
    assert every["mean_tokens"].value == pytest.approx((30 + 150) / 2)
    assert every["answer_tokens"].value == pytest.approx(45)
    assert every["extended_share"].value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert every["truncated"].value == every["unanswered"].value == 0.25
    assert found["overall"]["right"]["mean_tokens"].value == 20
    assert found["overall"]["wrong"]["mean_tokens"].value == pytest.approx((50 / 3 + 200 / 2) / (1 / 3 + 1 / 2))
    assert found["overall"]["cut off"]["mean_tokens"].value == 100
    assert set(found) == {"overall", "level=1", "level=2", "domain=d"}
    assert found["level=2"]["all"]["pass@1"].value == 0 and "mean_tokens" not in found["level=2"]["right"]
    assert found["domain=d"]["all"] == every


def test_describe_leaves_out_what_is_not_known():
    bare = [{"problem": row["problem"], "configuration": "c", "reward": row["reward"]} for row in rows()]
    assert set(describe(Responses.from_rows(bare))["overall"]["all"]) == {"pass@1", "pass@2"}
