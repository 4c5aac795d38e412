"""The oracle by level whose choice is valued on responses that had no say."""

from __future__ import annotations

import numpy as np
import pytest

from ibpo.evaluation.comparison import Problems
from ibpo.evaluation.methods import level_oracle_held_out
from ibpo.evaluation.metrics import oracle_by_level


def drawn(rates, num_per_level, num_responses, seed):
    """Rewards of problems whose levels have these rates."""
    rng = np.random.default_rng(seed)
    level = np.repeat(np.arange(len(rates)), num_per_level)
    return (rng.random((len(level), num_responses)) < np.asarray(rates)[level][:, None]).astype(float), level


def of_levels(level):
    names = tuple(str(name) for name in sorted(set(level.tolist())))
    return Problems(problem_id=np.arange(len(level)), levels=names, level=level)


def test_known_gains_are_bought_as_in_sample():
    rewards0, level = drawn([1, 0, 0], 20, 4, 0)
    rewards1, _ = drawn([1, 1, 0], 20, 4, 0)
    accuracy, share = level_oracle_held_out(rewards0, rewards1, of_levels(level), 0.2)
    assert accuracy.mean() == pytest.approx(1 / 3 + 0.2) and share.mean() == pytest.approx(0.2)
    assert share[level != 1].sum() == 0


def test_where_nothing_can_be_gained_nothing_is():
    """Ten levels of pure noise: choosing the best of them looks like a gain in sample, and is none."""
    found, in_sample = [], []
    for seed in range(30):
        (rewards0, level), (rewards1, _) = drawn([0.5] * 10, 20, 4, seed), drawn([0.5] * 10, 20, 4, 100 + seed)
        problems = of_levels(level)
        accuracy, _ = level_oracle_held_out(rewards0, rewards1, problems, 0.5, num_splits=4, seed=seed)
        before, after = (problems.by_level(rewards.mean(1)) for rewards in (rewards0, rewards1))
        best, _ = oracle_by_level(before, after, problems.level_share, 0.5)
        # What a blind choice of the same problems would get.
        found.append(accuracy.mean() - (rewards0.mean() + rewards1.mean()) / 2)
        in_sample.append(best - (rewards0.mean() + rewards1.mean()) / 2)
    stderr = np.std(found, ddof=1) / np.sqrt(30)
    assert abs(np.mean(found)) < 4 * stderr + 0.004 and np.mean(in_sample) > 0.015 > 3 * np.mean(found)


def test_it_needs_two_responses():
    with pytest.raises(ValueError, match="two responses"):
        level_oracle_held_out(np.ones((2, 1)), np.ones((2, 4)), of_levels(np.array([0, 1])), 0.5)
