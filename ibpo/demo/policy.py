"""Train one policy of an embedded experiment, by IBPO at one budget or by RAFT without."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ibpo.demo.experiments import Experiment
from ibpo.rewards import ExactJudge
from ibpo.rollouts import score
from ibpo.runs import RunDir, write_text_atomic
from ibpo.tasks import stream
from ibpo.training import RAFT, IBPOConfig, IBPOTrainer, held_up_schedule
from ibpo.types import Problem, ResponseGroup, Rollout

PROMPTS_PER_STEP, NUM_GENERATIONS = 64, 4
ROLLOUTS: dict[str, Any] = {
    "per_device_train_batch_size": PROMPTS_PER_STEP * NUM_GENERATIONS,
    "num_generations": NUM_GENERATIONS,
    "steps_per_generation": 1,
}
"""Per update, where an experiment does not say otherwise."""


class StepProgress(TrainerCallback):
    """Calls `report(share of the steps done)` after every step of a trainer."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.report = report

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report."""
        self.report(state.global_step / max(1, state.max_steps))


def common_settings(experiment: Experiment, seed: int, num_steps: int) -> dict[str, Any]:
    """TRL's settings of every policy, whatever trains it: rollouts per step, schedule, length, precision."""
    return {
        **ROLLOUTS,
        "gradient_accumulation_steps": 1,
        "max_completion_length": experiment.max_completion_length,
        "temperature": 1.0,
        "max_steps": num_steps,
        **held_up_schedule(num_steps),
        "max_grad_norm": 1.0,
        "beta": 0.0,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "report_to": "none",
        "logging_steps": 1,
        "seed": seed,
    }


def settings_of(experiment: Experiment, budget: float | None, seed: int, num_steps: int | None) -> dict[str, Any]:
    """The trainer's settings for one policy: defaults, the experiment's own, then RAFT's or the budget."""
    updates: int = num_steps or experiment.training["max_steps"]
    settings: dict[str, Any] = {
        **common_settings(experiment, seed, updates),
        "learning_rate": 1e-3,
        "save_strategy": "steps",
        "save_steps": 20,
        "save_total_limit": 1,
        **experiment.training,
        "max_steps": updates,
    }
    if budget is not None:
        return settings | {"budget": {experiment.response_groups[1].name: budget}}
    # README's tables were made with these two, which the preset sets otherwise.
    tables = {"imitate_completions": "every_group", "min_gain": experiment.training["min_gain"]}
    return settings | ROLLOUTS | RAFT | tables


def correctness_reward(response_groups: Sequence[ResponseGroup]) -> Callable[..., list[float]]:
    """TRL's reward function: 1 where the answer, read as the response's own group reads it, is the problem's."""

    def correctness(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        problems = [Problem(problem_id="", prompt="", answer=gold) for gold in answer]
        rollouts = [
            Rollout(
                problem_id="", prompt_token_ids=(), completion_token_ids=(), completion=text, finish_reason="stop"
            )  # the trainer itself leaves out what was truncated
            for text in completions
        ]
        return [scored.reward for scored in score(rollouts, problems, response_groups, ExactJudge())]

    return correctness


def train_policy(
    experiment: Experiment,
    cold_start: Path,
    out_dir: Path,
    *,
    budget: float | None,
    seed: int,
    num_steps: int | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
    **overrides: Any,
) -> None:
    """Train from the cold start; `out_dir/model` appears when it is done, and checkpoints are resumed before that."""
    model_dir = out_dir / "model"
    if model_dir.exists():
        return
    settings = settings_of(experiment, budget, seed, num_steps) | overrides
    args = IBPOConfig(output_dir=str(out_dir / "checkpoints"), rollout_log_dir=str(out_dir / "rollout_log"), **settings)
    tokenizer = AutoTokenizer.from_pretrained(cold_start)
    model = AutoModelForCausalLM.from_pretrained(cold_start, dtype=torch.float32)
    num_prompts = args.per_device_train_batch_size // (args.num_generations or 1)
    source = stream(experiment.task, "train", 1000 + seed)
    rows = [
        {"prompt": p.prompt, "answer": p.answer, "problem_id": p.problem_id, "level": p.level}
        for p in islice(source, num_prompts * args.max_steps)
    ]
    trainer = IBPOTrainer(
        model=model,
        reward_funcs=correctness_reward(experiment.response_groups),
        response_groups=list(experiment.response_groups),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[StepProgress(on_progress)],
    )
    last = RunDir(out_dir).last_checkpoint()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    partial = out_dir / "model.partial"
    trainer.model.save_pretrained(partial)  # pyright: ignore[reportCallIssue]  # the stubs lose it on a module
    tokenizer.save_pretrained(partial)
    write_text_atomic(out_dir / "metrics.json", json.dumps(trainer.state.log_history))
    os.replace(partial, model_dir)
