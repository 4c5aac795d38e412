"""`benchmarks/gsm8k_choice.py` on the log that lies beside it, and its figures against slower ways to the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.gsm8k_choice import GROUPS, above_mixture, read_dialogues, read_packed, table
from ibpo.allocation import random_mix


@pytest.fixture(scope="module")
def packed():
    return read_packed()


def test_the_packed_log_is_whole(packed):
    assert (len(packed["train"].reward), len(packed["test"].reward)) == (600, 400)
    assert (packed["train"].reward.shape[2], packed["test"].reward.shape[2]) == (2, 4)
    dialogues = read_dialogues()
    assert sorted(dialogues) == ["steps, corrected", "steps, debated", "steps, refined"]
    for reward, tokens in dialogues.values():  # at the cost of all turns
        assert len(reward) == 200 and tokens.mean() > packed["test"].means()[1][:200, 2].mean()
    for recorded in packed.values():
        assert np.isfinite(recorded.tokens).all() and set(np.unique(recorded.reward)) == {0.0, 1.0}
        _, tokens = recorded.means()
        assert (np.diff(tokens.mean(0)) > 0).all()


def test_the_allocation_can_be_made_again_from_the_packed_log(tmp_path, capsys):
    table(None, None, None, tmp_path / "rows.json")
    assert "| steps |" in capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())
    oracle = {row["budget"]: row for row in rows if row["name"] == "oracle"}
    assert len(oracle) == 6
    for name, row in oracle.items():
        assert name.startswith("steps") or row["low"] > 0  # even of responses that it has not seen
    assert (tmp_path / "rows.png").stat().st_size > 10_000


def test_above_the_mixture_is_above_random_mix():
    rng = np.random.default_rng(0)
    cost = rng.random((200, len(GROUPS))) + np.array([0, 3, 7])
    reward = (rng.random(cost.shape) < [0.1, 0.5, 0.6]).astype(float)
    for _ in range(20):
        choice = np.eye(len(GROUPS))[rng.integers(0, len(GROUPS), 200)]
        own, spent = (choice * reward).sum(1), (choice * cost).sum(1)
        weight = random_mix(cost.mean(0), reward.mean(0), spent.mean())[0]
        above = above_mixture(own, spent, reward, cost)
        assert above[0] == pytest.approx(own.mean() - weight @ reward.mean(0), abs=1e-9)
        low, high = np.quantile(above[1:], [0.025, 0.975])
        assert low < above[0] < high and 0.01 < above[1:].std() < 0.1
