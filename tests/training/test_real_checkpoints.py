"""Training, evaluation and fine-tuning on a small checkpoint of each kind, with the settings as they come."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from datasets import Dataset

from ibpo.rollouts import load_policy
from ibpo.training.trainer import IBPOConfig, IBPOTrainer
from ibpo.types import ResponseGroup
from tests.checkpoints import KINDS, make_checkpoint

GROUPS = [ResponseGroup(name="standard", prefix="Answer:"), ResponseGroup(name="extended", prefix="Steps:")]


def train(folder, out, model=None, rewards=None, rows=8, **options):
    """Two updates of two prompts with IBPOConfig's defaults, but for lengths and numbers."""
    settings: dict[str, Any] = {"max_steps": 2, "max_completion_length": 32, "num_generations": 4, "logging_steps": 1}
    settings |= {"guards": "warn", "use_cpu": True, "budget": {"extended": 0.5}} | options
    prompts = [f"{i} + {i} =" for i in range(rows)]
    chat = load_policy(str(folder))[1].chat_template
    data = [
        {"prompt": [{"role": "user", "content": text}] if chat else text, "problem_id": f"p{i}"}
        for i, text in enumerate(prompts)
    ]
    trainer = IBPOTrainer(
        model=model or str(folder),
        reward_funcs=rewards or (lambda completions, **_: [0.5] * len(completions)),
        response_groups=GROUPS,
        args=IBPOConfig(output_dir=str(out), **settings),
        train_dataset=Dataset.from_list(data),
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request, tmp_path_factory):
    return request.param, make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.slow
def test_the_trainer_as_it_comes_trains_it(checkpoint, tmp_path):
    kind, folder = checkpoint
    options: dict[str, Any] = {"router_aux_loss_coef": 0.0} if kind == "linear" else {}
    trainer = train(folder, tmp_path / "run", **options)
    assert trainer.args.bf16  # TRL's default
    logs = [log for log in trainer.state.log_history if "ibpo/share/extended" in log]
    assert len(logs) == 2
    for log in logs:
        assert math.isfinite(log["loss"]) and math.isfinite(log["grad_norm"]) and log["grad_norm"] > 0
    assert logs[0]["ibpo/kl"] == pytest.approx(0.0, abs=1e-4)  # both policies in the same precision
    _, tokenizer = load_policy(str(folder))
    if kind == "bos":
        assert all(ids[0] == tokenizer.bos_token_id for ids in trainer.handover.prompt_ids)
    trainer.save_model(str(tmp_path / "kept"))
    again, _ = load_policy(str(tmp_path / "kept"))
    assert all(torch.isfinite(p).all() for p in again.parameters())
