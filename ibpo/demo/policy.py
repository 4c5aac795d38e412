"""What a job of the demo does: train a policy, sample it, move it to the budgets, or sample the untrained models.

One policy is trained (`TRAINED`), at one budget; those of the demo's budgets are that policy, moved to each of them on
unlabelled prompts (`ibpo.training.repricing`).

`python -m ibpo.demo.policy JOB.json` does what is missing of one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
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
from ibpo.demo.run import FORCED, TRAINED, TRAINED_AT, UNTRAINED, DemoJob, moved_name
from ibpo.evaluation import write_chances, write_choices, write_responses, write_table
from ibpo.responses import encode_groups
from ibpo.rewards import ExactJudge
from ibpo.rollouts import HFSampler, encode_prompt, score
from ibpo.runs import RunDir, write_text_atomic
from ibpo.tasks import distinct, local_rows, stream
from ibpo.training import (
    RAFT,
    STATE_OF_ONE_PROCESS,
    IBPOConfig,
    IBPOTrainer,
    check_checkpoint,
    choose_by_rows,
    go_on,
    held_up_schedule,
    least_significant_gain,
    read_rollout_log,
    read_states,
    reprice,
    sample_bodies,
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
TIES_TO_STANDARD = 1e-5
"""A least gain that breaks ties, and outdoes no reward."""


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
    elif job.name == TRAINED:
        train(job, experiment, TRAINED_AT, 0.75)
        if not job.worth.exists():
            write_text_atomic(job.worth, json.dumps({"pays_to": pays_to(job, experiment)}))
        move_to_budgets(job, experiment)
    elif job.name == FORCED:
        sample_forced(job, experiment, TRAINED)
        copy_forced(job, experiment)
    else:
        train(job, experiment, None, 0.7)
        sample_policy(job, experiment, forced_counts(experiment))
    job.report("done", 1.0)


def train(job: DemoJob, experiment: Experiment, budget: float | None, part: float) -> None:
    """Train the job's policy for a budget (None: RAFT), which is this part of the job."""
    train_policy(
        experiment,
        Path(job.cold_start),
        job.policy_dir,
        budget=budget,
        seed=job.seed,
        num_steps=job.num_steps,
        on_progress=lambda done: job.report("training", part * done),
    )


def pays_to(job: DemoJob, experiment: Experiment) -> float:
    """Up to which share extended responses pay, in the trained policy's own order of the prompts.

    By the responses of the later half of its training: beyond that share they gained nothing significant together. The
    policy was trained on them, so that its order fits them a little too well.
    """
    table = read_rollout_log(job.policy_dir / "rollout_log")
    gain = table.reward[:, 1] - table.reward[:, 0]
    seen = (table.step >= table.step.max() / 2) & ~np.isnan(gain)
    if not seen.any():
        return 1.0
    rows = islice(stream(experiment.task, "train", 1000 + job.seed), len(table.step))
    prompts = {problem.problem_id: problem.prompt for problem in rows}
    model, tokenizer = _load(job.policy_dir / "model")
    ids = [encode_prompt(tokenizer, prompts[name]) for name in table.columns["problem_id"][seen].tolist()]
    opening = read_states(model, tokenizer, ids, encode_groups(experiment.response_groups, tokenizer)).opening
    order = opening[:, 1] - opening[:, 0]
    return float(np.mean(order >= least_significant_gain(order, gain[seen])))


def move_to_budgets(job: DemoJob, experiment: Experiment) -> None:
    """Write down the trained policy at each budget, with its choices, and sample it there.

    Where the budget has slack, the share is that up to which extended responses pay (`pays_to`). What the trained
    policy says of prompts is read once: moved, it differs in the rows that open a response.
    """
    if job.is_done():
        return
    policies = {moved_name(budget): budget for budget in job.budgets}
    trained = job.folder_of(TRAINED) / "model"
    model, tokenizer = _load(trained)
    groups = encode_groups(experiment.response_groups, tokenizer)
    job.report("reading prompts", 0.76)
    problems = {"test": job.unseen_problems(), "calibration": unlabelled(job, experiment)}
    ids = {split: [encode_prompt(tokenizer, p.prompt) for p in some] for split, some in problems.items()}
    states = {split: read_states(model, tokenizer, some, groups) for split, some in ids.items()}
    torch.manual_seed(60_000 + job.seed)
    sampler = HFSampler(model, tokenizer, max_completion_length=experiment.max_completion_length, batch_size=256)
    bodies = sample_bodies(sampler, ids["calibration"], groups)
    most = float(json.loads(job.worth.read_text(encoding="utf-8"))["pays_to"])
    extended = experiment.response_groups[1].name
    for i, (name, budget) in enumerate(policies.items()):
        job.report(f"at {budget:.0%}", 0.8 + 0.2 * i / len(policies))
        spent = min(budget, most)
        delta, share = reprice(states["calibration"], [1.0 - spent, spent], bodies)
        for split, some in problems.items():
            if not job.choices(name, split).exists():
                write_chances(job.choices(name, split), some, states[split].shares(delta)[:, 1])
        if not job.weights(name).exists():
            moved, _ = _load(trained)
            choose_by_rows(moved, groups, delta)
            step = {
                "step": 1,
                f"ibpo/share/{extended}": float(share[1]),
                f"ibpo/spent/{extended}": spent,
                f"ibpo/pays_to/{extended}": most,
            }
            write_policy(job.folder_of(name), moved, tokenizer, [step])
        _sample(job, job.folder_of(name) / "model", {"sampled": NUM_SAMPLED}, partial(job.responses, name), 20_000)


def unlabelled(job: DemoJob, experiment: Experiment) -> list[Problem]:
    """Prompts of the train split, drawn as the test is; their answers are never looked at."""
    return distinct(experiment.task, "train", job.num_calibration, seed=5000 + job.seed)


def write_policy(policy_dir: Path, model: Any, tokenizer: Any, steps: Sequence[dict[str, Any]]) -> None:
    """A policy's folder; `model` appears when the rest is there."""
    with saving(policy_dir):
        policy_dir.mkdir(parents=True, exist_ok=True)
        partial = policy_dir / "model.partial"
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_text_atomic(policy_dir / "metrics.json", json.dumps(steps))
        os.replace(partial, policy_dir / "model")


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


def settings_of(
    experiment: Experiment, budget: float | Mapping[str, Any] | None, seed: int, num_steps: int | None
) -> dict[str, Any]:
    """The trainer's settings for one policy: defaults, the experiment's own, then RAFT's or the budget.

    RAFT samples as many responses as IBPO, takes as many updates, and gives ties between the response groups to the
    standard one: of right responses it imitates the cheapest. In *thinking* that loses less to a random mix than ties
    at random do (`benchmarks/raft_ties.py`).
    """
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
    if isinstance(budget, Mapping):
        return settings | {"budget": dict(budget)}
    if budget is not None:
        return settings | {"budget": {experiment.response_groups[1].name: budget}}
    return settings | RAFT | {"min_gain": TIES_TO_STANDARD, "num_generations": NUM_GENERATIONS}


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
    budget: float | Mapping[str, Any] | None,
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
    write_policy(out_dir, trainer.model, tokenizer, trainer.state.log_history)


def sample_untrained(job: DemoJob, experiment: Experiment) -> None:
    """Sample the models that no policy was trained from: pretrained, where there is one, and cold start."""
    counts = {"standard": experiment.num_siblings_standard, "extended": NUM_EXTENDED, "sampled": NUM_SAMPLED}
    if job.pretrained:
        _sample(
            job, Path(job.pretrained), {"standard": counts["standard"]}, partial(job.responses, "pretrained"), 10_000
        )
    job.report("sampling the cold start", 0.3)
    _sample(job, Path(job.cold_start), counts, partial(job.responses, "cold_start"), 10_001)


def sample_forced(job: DemoJob, experiment: Experiment, policy: str) -> None:
    """Sample a trained policy on the unseen problems, forced into each response group."""
    _sample(job, job.folder_of(policy) / "model", forced_counts(experiment), partial(job.forced, policy), 20_001)


def copy_forced(job: DemoJob, experiment: Experiment) -> None:
    """The trained policy's forced responses as those of each moved one, which within responses is the same policy."""
    for group in experiment.response_groups:
        rows = [row for _, row in local_rows(job.forced(TRAINED, group.name))]
        for policy in map(moved_name, job.budgets):
            if not job.responses(policy, group.name).exists():
                name = f"{policy}, {group.name}"
                write_table(job.responses(policy, group.name), [row | {"configuration": name} for row in rows])


def forced_counts(experiment: Experiment) -> dict[str, int]:
    """Forced responses of a trained policy to each unseen problem.

    As many standard ones as of the cold start: they cost little, and the luck of two guesses a problem blurs every
    comparison with it (docs/log.md).
    """
    return {"standard": experiment.num_siblings_standard, "extended": NUM_EXTENDED}


def sample_policy(job: DemoJob, experiment: Experiment, forced: Mapping[str, int]) -> None:
    """Sample a policy on the unseen problems, free and forced, and read its choice there and on unlabelled prompts."""
    folder = job.policy_dir / "model"
    model, tokenizer = _load(folder)
    for split, prompts in (("test", job.unseen_problems()), ("calibration", unlabelled(job, experiment))):
        path = job.choices(job.name, split)
        if not path.exists():
            write_choices(path, model, tokenizer, prompts, experiment.response_groups[1])
    job.report("sampling", 0.85)
    _sample(job, folder, {"sampled": NUM_SAMPLED, **forced}, partial(job.responses, job.name), 20_000)


def _sample(
    job: DemoJob, model_dir: Path, counts: Mapping[str, int], path_of: Callable[[str], Path], first_seed: int
) -> None:
    """Sample one model on the unseen problems in each way, as often as `counts` says; finished files are kept."""
    experiment = experiment_named(job.experiment)
    model, tokenizer = _load(model_dir)
    prefixes = {group.name: group.prefix for group in experiment.response_groups} | {"sampled": ""}
    for i, (how, num_samples) in enumerate(counts.items()):
        path = path_of(how)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
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
