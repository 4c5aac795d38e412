"""A tiny trainer on a task that a fresh model can be sampled on."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


@pytest.fixture
def make_trainer(tmp_path):
    """A function that builds a trainer on a fresh tiny model; keyword arguments go to `IBPOConfig`."""
    import torch
    from datasets import Dataset

    from ibpo.experiments.thinking import THINKING
    from ibpo.experiments.tiny_model import build_model, build_tokenizer
    from ibpo.tasks.draws import distinct
    from ibpo.training.trainer import IBPOConfig, IBPOTrainer

    def reward(completions, answer, **_):
        # Something that a random model gets now and then, so that some responses are rewarded.
        return [float(int(gold) % 2 == len(text) % 2) for text, gold in zip(completions, answer, strict=True)]

    def make(directory="run", cls=IBPOTrainer, groups=THINKING.response_groups, model=None, **options):
        tokenizer = build_tokenizer(THINKING.words)
        torch.manual_seed(0)
        settings = {
            "output_dir": str(tmp_path / directory),
            "per_device_train_batch_size": 32,
            "num_generations": 4,
            "max_completion_length": 12,
            "max_steps": 1,
            "learning_rate": 1.0,
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "max_grad_norm": 1e9,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "averaging": 0.0,
            "budget": {"extended": 0.5},
            "seed": 0,
        } | options
        problems = distinct(THINKING.task, "train", 64, seed=0)
        rows = [
            {"prompt": p.prompt, "answer": p.answer, "problem_id": p.problem_id, "level": p.level} for p in problems
        ]
        return cls(
            model=model or build_model(tokenizer, hidden_size=32, num_layers=1),
            reward_funcs=reward,
            response_groups=list(groups),
            args=IBPOConfig(**settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )

    return make
