"""Baselines that train nothing, against enumeration, closed forms and the package's own held-out value."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import beta

from experiments.supervised import learn, oracle_labels
from experiments.votes import adaptive_votes, consensus, oracle_by_problem, posterior
from ibpo.allocation import holdout_value
from ibpo.evaluation.metrics import majority_accuracy


def one_vote(answers, correct, tokens, stop):
    """The rule, written out for one order of one problem's responses."""
    for used in range(1, len(answers) + 1):
        counts = Counter(a for a in answers[:used] if a is not None)
        ranked = [count for _, count in counts.most_common()] + [0, 0]
        if used == len(answers) or stop(np.array([ranked[0]]), np.array([ranked[1]]))[0]:
            leaders = [a for a, count in counts.items() if count == ranked[0]]
            right = dict(zip(answers, correct, strict=True))
            return sum(right[a] for a in leaders) / max(len(leaders), 1), sum(tokens[:used])
    raise AssertionError


@pytest.mark.parametrize("stop", [consensus(2), consensus(3), posterior(0.8), posterior(0.95)])
def test_votes_equal_the_rule_written_out(stop):
    rng = np.random.default_rng(0)
    answers = rng.choice(np.array(["a", "b", "c", None], dtype=object), (30, 5), p=[0.5, 0.25, 0.15, 0.1])
    correct, tokens = (answers == "a").astype(float), rng.integers(1, 9, (30, 5))
    accuracy, cost = adaptive_votes(answers, correct, tokens, stop, num_orders=4, seed=3)
    rng = np.random.default_rng(3)
    orders = [rng.permutation(5) for _ in range(4)]
    for p in range(30):
        each = [one_vote(answers[p, o].tolist(), correct[p, o].tolist(), tokens[p, o].tolist(), stop) for o in orders]
        assert accuracy[p] == pytest.approx(np.mean([a for a, _ in each]))
        assert cost[p] == pytest.approx(np.mean([c for _, c in each]))


def test_a_vote_that_never_stops_is_self_consistency_and_one_that_stops_at_once_a_single_response():
    rng = np.random.default_rng(1)
    answers = rng.choice(np.array(["a", "b", None], dtype=object), (40, 6))
    correct, tokens = (answers == "a").astype(float), np.ones((40, 6))
    accuracy, cost = adaptive_votes(answers, correct, tokens, consensus(99))
    assert cost == pytest.approx(np.full(40, 6)) and accuracy == pytest.approx(majority_accuracy(answers, correct, 6))
    accuracy, cost = adaptive_votes(answers, correct, tokens, consensus(0), num_orders=400)
    assert cost == pytest.approx(np.ones(40)) and accuracy.mean() == pytest.approx(correct.mean(), abs=0.02)


@pytest.mark.parametrize(("first", "second"), itertools.product(range(5), repeat=2))
def test_posterior_is_the_beta_distributions(first, second):
    probability = 1 - float(beta.cdf(0.5, first + 1, second + 1))
    for threshold in (probability - 1e-6, probability + 1e-6):
        stops = posterior(threshold)(np.array([first]), np.array([second]))
        assert bool(stops[0]) == (threshold < probability)


def test_the_oracle_by_problem_equals_the_held_out_value_of_a_share_budget():
    rng = np.random.default_rng(0)
    chance = rng.random((80, 2))
    rewards = (rng.random((80, 2, 6)) < chance[:, :, None]).astype(float)
    accuracy, share, in_sample = oracle_by_problem(rewards[:, 0], rewards[:, 1], 0.3, num_splits=200)
    names = np.repeat(np.tile(["a standard", "b extended"], 80), 6)
    problem = np.repeat([f"p{p:02d}" for p in range(80)], 12)
    [row] = holdout_value(rewards.ravel(), problem, names, (names == "b extended").astype(float), [0.3], num_splits=60)
    assert accuracy.mean() == pytest.approx(row.reward, abs=3 * 0.4 / np.sqrt(80 * 60))
    assert share.mean() == pytest.approx(row.share["b extended"], abs=0.02) and share.mean() <= 0.3
    assert in_sample.mean() == pytest.approx(row.in_sample, abs=0.02) and in_sample.mean() > accuracy.mean()


def test_the_oracle_gains_nothing_where_nothing_can_be_gained():
    rng = np.random.default_rng(2)
    standard, extended = (rng.random((3000, 4)) < 0.5).astype(float), (rng.random((3000, 4)) < 0.5).astype(float)
    accuracy, _, in_sample = oracle_by_problem(standard, extended, 0.5, num_splits=20)
    assert accuracy.mean() == pytest.approx(0.5, abs=0.015) and in_sample.mean() > 0.58


def test_the_oracle_needs_two_responses():
    with pytest.raises(ValueError, match="two responses"):
        oracle_by_problem([[1]], [[1, 0]], 0.5)


def test_labels_are_the_largest_positive_gains():
    gain = np.array([0.5, 0.5, 0.5, -0.1, 0.0, 1.0])
    drawn = [oracle_labels(gain, 1 / 3, np.random.default_rng(seed)) for seed in range(40)]
    assert all(labels.sum() == 2 and labels[5] for labels in drawn)
    assert {int(np.flatnonzero(labels)[0]) for labels in drawn} == {0, 1, 2}  # ties at random
    assert oracle_labels(gain, 1.0, np.random.default_rng(0)).tolist() == [True, True, True, False, False, True]


def test_a_classifier_learns_what_the_features_tell():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 5))
    labels = features[:, 2] > 0.3
    learnt = learn(features[:400], labels[:400], 1.0).predict(features[400:])
    assert (learnt == labels[400:]).mean() > 0.95
