"""RAFT, RFT and unconstrained selection are settings of the same trainer: who is imitated, and by what gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from trl import GRPOConfig

from ibpo.errors import IbpoError
from ibpo.training.config import RAFT, RENAMED, RFT, UNCONSTRAINED, IBPOConfig
from tests.training.closed_form import Recorder, closed_form_gradient, flat, relative_error
from tests.training.tiny import disturb_reference_model

PRESETS = {"RAFT": RAFT, "RFT": RFT, "unconstrained": UNCONSTRAINED}


@pytest.fixture
def step(make_trainer, tmp_path):
    """One update with a preset, held against its closed form: the rows of its rollout log, by prompt."""

    def run(name):
        import pyarrow.parquet as pq

        from ibpo.training.reference_model import frozen_copy

        log = tmp_path / "rollout_log"
        trainer = make_trainer(cls=Recorder, dtype=torch.float64, rollout_log_dir=str(log), **PRESETS[name])
        disturb_reference_model(trainer)
        before, start = frozen_copy(trainer.model).requires_grad_(True), flat(trainer.model.parameters())
        trainer.train()
        moved = start - flat(trainer.model.parameters())
        expected = closed_form_gradient(
            before, trainer.reference_model or before, trainer.seen, trainer.groups.prefix_ids
        )
        rows = pq.read_table(next(log.glob("*.parquet"))).to_pylist()
        # transformers takes the log-probabilities in float32, and of these the policy is nearly certain: 1 - p is small
        assert relative_error(moved, expected) < 1e-4
        return [rows[start : start + 4] for start in range(0, 32, 4)]

    return run


def test_raft_imitates_one_of_the_best_responses_of_each_prompt(step):
    for siblings in step("RAFT"):
        imitated = [row for row in siblings if row["prefix_loss_weight"] or row["completion_loss_weight"]]
        best = max(row["reward"] for row in siblings)
        assert len(imitated) == (best > 0)
        assert all(row["reward"] == best == row["completion_loss_weight"] for row in imitated)


def test_rft_imitates_every_rewarded_response(step):
    prompts = step("RFT")
    for siblings in prompts:
        for row in siblings:
            assert (row["prefix_loss_weight"], row["completion_loss_weight"]) == (
                float(row["reward"] > 0),
                row["reward"],
            )
    assert max(sum(row["reward"] > 0 for row in siblings) for siblings in prompts) > 1


def test_without_a_constraint_each_prompt_gets_the_group_that_gains_most(step):
    prompts = step("unconstrained")
    for siblings in prompts:
        (chosen,) = (row for row in siblings if row["chosen"])
        standard, extended = (
            next((row["utility"] for row in siblings if row["response_group"] == name), -np.inf)
            for name in ("standard", "extended")
        )
        wanted = "extended" if extended - standard > 0.03 else "standard"
        assert chosen["response_group"] == wanted or abs(extended - standard - 0.03) < 1e-4
    assert np.mean([any(row["chosen"] and row["response_group"] == "extended" for row in p) for p in prompts]) > 0.3


def test_rft_leaves_nothing_for_a_budget_to_decide(make_trainer):
    with pytest.raises(IbpoError, match="a budget would decide nothing: leave budget out"):
        make_trainer(**RFT | {"budget": {"extended": 0.5}})


def test_a_preset_says_all_that_it_relies_on():
    """Whatever the defaults become, these are RAFT; only what does not bear on who is imitated is left to them."""
    own = set(IBPOConfig.__dataclass_fields__) - set(GRPOConfig.__dataclass_fields__)
    free = {"window", "price", "averaging", "guards", "sampling_batch_size", "rollout_log_dir"}
    assert own - free - {"kl_weight", "kl_weight_start"} == set(RAFT) == set(RFT)


@pytest.mark.parametrize(("old", "new"), sorted(RENAMED.items()))
def test_names_of_earlier_versions_are_refused_with_the_new_one(tmp_path, old, new):
    settings: dict[str, Any] = {"output_dir": str(tmp_path), old: 1}
    with pytest.raises(IbpoError, match=f"{old} is now called {new}"):
        IBPOConfig(**settings)


def test_the_learning_rate_is_held_up_where_the_number_of_steps_is_known(tmp_path):
    machine: dict[str, Any] = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    args = IBPOConfig(max_steps=100, **machine)
    assert args.lr_scheduler_kwargs == {"num_decay_steps": 35, "min_lr_ratio": 0.03}
    assert IBPOConfig(**machine).lr_scheduler_type == "linear"
    assert IBPOConfig(max_steps=100, lr_scheduler_type="cosine", **machine).lr_scheduler_kwargs is None
