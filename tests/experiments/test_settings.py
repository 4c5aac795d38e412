"""What each experiment's policies are trained with, to the last number: the tables were made so."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum

import pytest

pytest.importorskip("trl")

from trl import GRPOConfig

from ibpo.demo import experiment_named, settings_of
from ibpo.training.trainer import IBPOConfig

SAME = {
    "averaging": 0.25,
    "beta": 0.0,
    "bf16": False,
    "prefix_loss_weight": 1.0,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "guards": "stop",
    "rollout_log_dir": None,
    "learning_rate": 0.001,
    "logging_steps": 1,
    "loss_type": "dr_grpo",
    "lr_scheduler_type": "warmup_stable_decay",
    "max_grad_norm": 1.0,
    "price": None,
    "sampling_batch_size": 256,
    "save_steps": 20,
    "save_strategy": "steps",
    "save_total_limit": 1,
    "seed": 0,
    "steps_per_generation": 2,
    "temperature": 1.0,
    "use_cpu": True,
    "warmup_steps": 5,
    "window": 128,
}
OF_EXPERIMENT = {
    "thinking": {
        "kl_weight": 0.25,
        "per_device_train_batch_size": 128,
        "kl_weight_start": 0.1,
        "lr_scheduler_kwargs": {"min_lr_ratio": 0.03, "num_decay_steps": 66},
        "max_completion_length": 42,
        "max_steps": 190,
    },
    "voting": {
        "kl_weight": 0.025,
        "kl_weight_start": 0.025,
        "lr_scheduler_kwargs": {"min_lr_ratio": 0.03, "num_decay_steps": 168},
        "max_completion_length": 102,
        "max_steps": 480,
        "per_device_train_batch_size": 256,
    },
}
IBPO = {
    "imitate_completions": "every_group",
    "min_gain": None,
    "budget": {"extended": 0.5},
    "imitate_denied": True,
    "stratified": True,
    "utility": "regression",
}
OF_IBPO = {
    "thinking": {
        "kl_share": 1.0,
        "completion_loss_weight": 0.3,
        "integral_gain": 0.1,
        "num_generations": 2,
        "balance_groups": False,
    },
    "voting": {
        "kl_share": 0.5,
        "completion_loss_weight": 2.0,
        "integral_gain": 0.06,
        "num_generations": 4,
        "balance_groups": True,
    },
}
RAFT = {
    "kl_share": 0.0,
    "completion_loss_weight": 1.0,
    "budget": None,
    "integral_gain": 0.0,
    "min_gain": 1e-5,
    "imitate_denied": False,
    "num_generations": 4,
    "balance_groups": False,
    "imitate_completions": "chosen",
    "stratified": False,
    "utility": "reward",
}


@pytest.mark.parametrize("name", ["thinking", "voting"])
@pytest.mark.parametrize("budget", [0.5, None])
def test_effective_settings_are_those_of_the_tables(name, budget, tmp_path):
    expected = SAME | OF_EXPERIMENT[name] | (RAFT if budget is None else IBPO | OF_IBPO[name])
    settings = settings_of(experiment_named(name), budget, 0, None)
    args = IBPOConfig(output_dir=str(tmp_path), **settings)
    found = {key: getattr(args, key) for key in expected}
    assert {key: value.value if isinstance(value, Enum) else value for key, value in found.items()} == expected
    # Whatever else an experiment sets has to be listed above.
    assert set(settings) <= set(expected) | {"disable_tqdm", "report_to"}
    own = {field.name for field in fields(IBPOConfig)} - {field.name for field in fields(GRPOConfig)}
    assert own <= set(expected)
