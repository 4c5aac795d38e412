"""A tiny trainer on a task that a fresh model can be sampled on."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


@pytest.fixture
def make_trainer(tmp_path):
    """A function that builds a trainer on the embedded model; keyword arguments go to `IBPOConfig`."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ibpo.experiments.embedded import model_path
    from ibpo.experiments.thinking import THINKING
    from ibpo.rewards.exact import exact_match
    from ibpo.tasks.draws import distinct
    from ibpo.training.trainer import IBPOConfig, IBPOTrainer

    def reward(completions, answer, **_):
        return [
            max(exact_match(group.extract_answer(text), gold) for group in THINKING.response_groups)
            for text, gold in zip(completions, answer, strict=True)
        ]

    def make(directory="run", cls=IBPOTrainer, groups=THINKING.response_groups, model=None, **options):
        path = model_path("thinking", "cold_start")
        tokenizer = AutoTokenizer.from_pretrained(path)
        torch.manual_seed(0)
        settings = {
            "output_dir": str(tmp_path / directory),
            "per_device_train_batch_size": 32,
            "num_generations": 4,
            "max_completion_length": 40,
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
            model=model or AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
            reward_funcs=reward,
            response_groups=list(groups),
            args=IBPOConfig(**settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )

    return make
