"""What a job of the demo does: train one policy and sample it, or sample the models that no policy was trained from.

`python -m ibpo.demo.policy JOB.json` does what is missing of one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ibpo.demo.experiments import Experiment, experiment_named
from ibpo.demo.run import UNTRAINED, DemoJob
from ibpo.evaluation import write_choices, write_responses
from ibpo.rewards import ExactJudge
from ibpo.rollouts import score
from ibpo.runs import RunDir, write_text_atomic
from ibpo.tasks import distinct, stream
from ibpo.training import (
    RAFT,
    STATE_OF_ONE_PROCESS,
    IBPOConfig,
    IBPOTrainer,
    check_checkpoint,
    go_on,
    held_up_schedule,
    saving,
)
from ibpo.types import Problem, ResponseGroup, Rollout

NUM_EXTENDED, NUM_SAMPLED = 2, 2
"""Responses to each unseen problem: forced extended, and of the group that the policy chooses."""
PROMPTS_PER_STEP, NUM_GENERATIONS = 64, 4
ROLLOUTS: dict[str, Any] = {
    "per_device_train_batch_size": PROMPTS_PER_STEP * NUM_GENERATIONS,
    "num_generations": NUM_GENERATIONS,
    "steps_per_generation": 1,
}
"""Per update, where an experiment does not say otherwise."""


def quiet_libraries() -> None:
    """One thread, and no bars or warnings of libraries: what a job says is its error."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def run_job(job: DemoJob) -> None:
    """Do what is missing of a job."""
    quiet_libraries()
    experiment = experiment_named(job.experiment)
    if job.name == UNTRAINED:
        sample_untrained(job, experiment)
    else:
        train_policy(
            experiment,
            Path(job.cold_start),
            job.policy_dir,
            budget=job.budget,
            seed=job.seed,
            num_steps=job.num_steps,
            on_progress=lambda done: job.report("training", 0.8 * done),
        )
        sample_policy(job, experiment)
    job.report("done", 1.0)


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


class StepProgress(TrainerCallback):
    """Calls `report(share of the steps done)` after every step of a trainer."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.report = report

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report."""
        self.report(state.global_step / max(1, state.max_steps))


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
    if last is not None:
        check_checkpoint(last, needed=STATE_OF_ONE_PROCESS)
    go_on(trainer, last)
    with saving(out_dir):
        partial = out_dir / "model.partial"
        trainer.model.save_pretrained(partial)  # pyright: ignore[reportCallIssue]  # the stubs lose it on a module
        tokenizer.save_pretrained(partial)
        write_text_atomic(out_dir / "metrics.json", json.dumps(trainer.state.log_history))
        os.replace(partial, model_dir)


def sample_untrained(job: DemoJob, experiment: Experiment) -> None:
    """Sample the models that no policy was trained from: pretrained, where there is one, and cold start."""
    counts = {"standard": experiment.num_siblings_standard, "extended": NUM_EXTENDED, "sampled": NUM_SAMPLED}
    if job.pretrained:
        _sample(job, Path(job.pretrained), "pretrained", {"standard": counts["standard"]}, 10_000)
    job.report("sampling the cold start", 0.3)
    _sample(job, Path(job.cold_start), "cold_start", counts, 10_001)


def sample_policy(job: DemoJob, experiment: Experiment) -> None:
    """Sample a trained policy on the unseen problems, and read its choice on them and on unlabelled prompts."""
    model, tokenizer = _load(job.policy_dir / "model")
    # Unlabelled prompts of the train split, drawn as the test is; their answers are never looked at.
    calibration = distinct(experiment.task, "train", job.num_calibration, seed=5000 + job.seed)
    for split, prompts in (("test", job.unseen_problems()), ("calibration", calibration)):
        path = job.choices(split)
        if not path.exists():
            write_choices(path, model, tokenizer, prompts, experiment.response_groups[1])
    job.report("sampling", 0.85)
    # As many standard responses as of the cold start: they cost little, and the luck of two guesses a problem blurs
    # every comparison with it (docs/log.md).
    counts = {"sampled": NUM_SAMPLED, "standard": experiment.num_siblings_standard, "extended": NUM_EXTENDED}
    _sample(job, job.policy_dir / "model", job.name, counts, 20_000)


def _sample(job: DemoJob, model_dir: Path, policy: str, counts: Mapping[str, int], first_seed: int) -> None:
    """Sample one policy on the unseen problems in each way, as often as `counts` says; finished files are kept."""
    experiment = experiment_named(job.experiment)
    model, tokenizer = _load(model_dir)
    prefixes = {group.name: group.prefix for group in experiment.response_groups} | {"sampled": ""}
    for i, (how, num_samples) in enumerate(counts.items()):
        path = job.responses(policy, how)
        if not path.exists():
            write_responses(
                path,
                model,
                tokenizer,
                job.unseen_problems(),
                experiment.response_groups,
                prefix=prefixes[how],
                num_samples=num_samples,
                max_completion_length=experiment.max_completion_length,
                seed=first_seed + 100 * job.seed + i,
            )


def _load(model_dir: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(model_dir)


if __name__ == "__main__":
    run_job(DemoJob.begin(sys.argv[1]))
