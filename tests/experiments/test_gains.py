"""Gain ratio, oracle share and gain over the random mix of any row, against the package's own figures of merit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiments.gains import Yardsticks
from ibpo.evaluation.merits import Allocated, SelfConsistency, figures_of_merit
from ibpo.evaluation.store import PerProblem, Problems, mix

NUM = 600


@pytest.fixture(scope="module")
def world():
    """Three levels: extended gains nothing, .5 and .2; votes gain .1 with three and .15 with five responses."""
    rng = np.random.default_rng(0)
    level = np.arange(NUM) % 3
    problems = Problems(problem_id=np.arange(NUM), levels=("a", "b", "c"), level=level)

    def result(rates, tokens, share):
        accuracy = (rng.random((NUM, 8)) < np.asarray(rates)[level][:, None]).mean(1)
        fill = np.full(NUM, float(share))
        return PerProblem(accuracy=accuracy, tokens=tokens + rng.random(NUM), share=fill, truncated=0 * fill)

    standard, extended = result([0.8, 0.2, 0.1], 10, 0), result([0.8, 0.7, 0.3], 60, 1)
    votes_KP = np.array([standard.accuracy + gain for gain in (0.0, 0.1, 0.15)])
    tokens_KP = np.array([k * standard.tokens for k in (1, 3, 5)])
    chosen = mix(standard, extended, np.array([0.0, 0.9, 0.3])[level])
    return problems, standard, extended, chosen, votes_KP, tokens_KP


def test_values_are_the_figures_of_merit(world):
    problems, standard, extended, chosen, votes_KP, tokens_KP = world
    found = Yardsticks(standard, extended, problems, {"cold_start": (votes_KP, tokens_KP)}, num_draws=200).of(chosen)
    cost_K = tokens_KP.mean(1) / standard.tokens.mean()
    consistency = SelfConsistency(standard=standard.accuracy, accuracy=votes_KP, relative_cost=cost_K)
    allocated = Allocated(budget=0.4, variant="sampled", result=chosen, own_standard=None, own_extended=None)
    merit = figures_of_merit(allocated, standard, extended, problems, {"cold_start": consistency}, num_draws=2)
    for name in ("gain_ratio_cold_start", "oracle_share_tokens"):
        assert found[name]["value"] == pytest.approx(merit[name]), name
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    part = (chosen.tokens.mean() - standard.tokens.mean()) / (extended.tokens.mean() - standard.tokens.mean())
    blind = (1 - part) * standard.accuracy.mean() + part * extended.accuracy.mean()
    assert found["above_random_mix"]["value"] == pytest.approx(chosen.accuracy.mean() - blind)
    assert found["above_random_mix"]["low"] > 0.05


def test_the_ends_lie_on_the_mix_and_what_costs_more_has_no_number(world):
    problems, standard, extended, _, votes_KP, tokens_KP = world
    yardsticks = Yardsticks(standard, extended, problems, {"pretrained": (votes_KP, tokens_KP)}, num_draws=50)
    for end in (standard, extended):
        found = yardsticks.of(end)
        assert found["above_random_mix"]["value"] == pytest.approx(0, abs=1e-9)
        assert found["oracle_share_tokens"] is None  # the oracle has no room there
    found = yardsticks.of(replace(extended, tokens=extended.tokens + 1))
    assert set(found) == {"gain_ratio_pretrained", "above_random_mix", "oracle_share_tokens"}
    assert list(found.values()) == [None, None, None]


def test_a_blind_draw_has_an_interval_around_nothing(world):
    problems, standard, extended, *_ = world
    blind = mix(standard, extended, np.full(NUM, 0.5))
    share = Yardsticks(standard, extended, problems, {}, num_draws=200).of(blind)["oracle_share_tokens"]
    assert share["value"] == pytest.approx(0, abs=1e-6) and share["low"] <= 1e-6 and share["high"] >= -1e-6


def test_no_ratio_at_hardly_more_than_the_cost_of_one_response(world):
    problems, standard, extended, _, votes_KP, tokens_KP = world
    yardsticks = Yardsticks(standard, extended, problems, {"cold_start": (votes_KP, tokens_KP)}, num_draws=50)
    for more, there in ((1.001, False), (1.2, True)):
        found = yardsticks.of(replace(extended, tokens=more * standard.tokens))["gain_ratio_cold_start"]
        assert (found is not None) is there, more
