"""What a job of the demo does with a real language model: cold start by program, recorded responses, then the choice.

    cold-start     the model imitates both kinds of response, whose bodies a program wrote (`ibpo.training.ColdStart`)
    rollouts       one response of each group to each training problem, judged; the prompts' states
    untrained      responses of the cold start to the unseen problems, and the prompts' states
    ibpo-Q         the choice is trained for the budget Q (`ibpo.training.train_choice`), and the policy is sampled

`python -m ibpo.demo.real_policy JOB.json` does what is missing of one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.console import Console

from ibpo.config import JudgeConfig
from ibpo.demo.experiments import Experiment, experiment_named
from ibpo.demo.policy import quiet_libraries
from ibpo.demo.run import UNTRAINED, DemoSettings, ProcessJob
from ibpo.evaluation import Responses, read_table, write_chances, write_responses, write_table
from ibpo.responses import EncodedGroups, encode_groups
from ibpo.rollouts import encode_prompt, load_policy
from ibpo.runs import RunDir, write_text_atomic
from ibpo.tasks import build_judge, distinct, local_rows
from ibpo.training import (
    Batch,
    ChoiceStates,
    ColdStart,
    ColdStartConfig,
    ColdStartJob,
    LowerLevel,
    choose_by_rows,
    read_bodies,
    read_budget,
    read_states,
    saving,
    train_choice,
)
from ibpo.types import Problem

COLD_START, ROLLOUTS = "cold-start", "rollouts"
NUM_BODIES = 80
"""Training problems whose responses show the choice where no opening may be likely."""
NUM_STANDARD, NUM_EXTENDED, NUM_SAMPLED = 4, 2, 8
"""Responses to each unseen problem: forced at once, forced step by step, and of the group that the policy chooses."""


@dataclass(frozen=True, kw_only=True)
class RealJob(ProcessJob):
    """One of the jobs above; `cold_start` is the folder in which the taught model will be."""

    module: ClassVar[str] = "ibpo.demo.real_policy"
    model: str
    """Folder or hub id of the model that others made."""
    num_taught: int
    """Problems of the cold start; both responses to each are imitated."""
    num_train: int
    """Problems on which the choice is trained."""
    num_calibration: int
    """Unlabelled prompts that a policy's choice is calibrated on."""
    budget: float | None = None

    def states(self, split: str) -> Path:
        """What the taught model says of the prompts of `train`, `test` or `calibration`."""
        return Path(self.seed_dir) / "states" / f"{split}.npz"

    def recorded(self, group: str) -> Path:
        """Responses to the training problems, forced into a response group."""
        return Path(self.seed_dir) / "rollouts" / f"{group}.jsonl.gz"

    def inputs(self) -> list[Path]:
        """What the cold start needs is there; then comes what is recorded of it, and then the policies."""
        if self.name == COLD_START:
            return []
        recorded = [] if self.name in (ROLLOUTS, UNTRAINED) else [ROLLOUTS, UNTRAINED]
        return [path for name in (COLD_START, *recorded) for path in replace(self, name=name).outputs()]

    def outputs(self) -> list[Path]:
        """The files of the finished job."""
        hows = ("sampled", "standard", "extended")
        if self.name == COLD_START:
            return [Path(self.cold_start) / "config.json", RunDir(Path(self.cold_start).parent).results]
        if self.name == ROLLOUTS:
            return [self.recorded("standard"), self.recorded("extended"), self.states("train"), self.states("bodies")]
        if self.name == UNTRAINED:
            return [
                *(self.responses("cold_start", how) for how in hows[1:]),
                self.states("test"),
                self.states("calibration"),
            ]
        return [
            self.policy_dir / "model" / "config.json",
            *(self.responses(self.name, how) for how in hows),
            self.choices(self.name, "test"),
            self.choices(self.name, "calibration"),
        ]

    def problems(self, split: str) -> list[Problem]:
        """Those of the cold start (`taught`), of the training, unlabelled ones, or the unseen ones (`test`).

        All but the last are of the train split. Those of the training are drawn after those of the cold start, on
        which the model would look better than it is.
        """
        if split == "test":
            return self.unseen_problems()
        task = experiment_named(self.experiment).task
        taught = distinct(task, "train", self.num_taught, seed=3000 + self.seed)
        if split == "taught":
            return taught
        number, first = (self.num_train, 4000) if split == "train" else (self.num_calibration, 5000)
        seen = {problem.problem_id for problem in taught}
        return [p for p in distinct(task, "train", number, seed=first + self.seed) if p.problem_id not in seen]


def plan_real_jobs(run_dir: Path, settings: DemoSettings) -> list[RealJob]:
    """The jobs of each seed: the cold start, what is recorded of it, the policies."""
    jobs: list[RealJob] = []
    experiment = settings.experiments[0]
    for seed in settings.seeds:
        seed_dir = run_dir / experiment / f"seed{seed}"
        common: dict[str, Any] = {
            "experiment": experiment,
            "seed_dir": str(seed_dir),
            "cold_start": str(seed_dir / "cold_start" / "model"),
            "seed": seed,
            "num_problems": settings.num_problems,
            "model": settings.model,
            "num_taught": settings.num_taught,
            "num_train": settings.num_train,
            "num_calibration": settings.num_calibration,
        }
        jobs += [RealJob(name=name, **common) for name in (COLD_START, UNTRAINED, ROLLOUTS)]
        jobs += [RealJob(name=f"ibpo-{q:g}", budget=q, **common) for q in settings.budgets]
    return jobs


def run_real_job(job: RealJob) -> None:
    """Do what is missing of a job."""
    quiet_libraries()
    experiment = experiment_named(job.experiment)
    does = {COLD_START: teach, ROLLOUTS: record, UNTRAINED: sample_untrained}
    does.get(job.name, train_and_sample)(job, experiment)
    job.report("done", 1.0)


def cold_start_config(job: RealJob, experiment: Experiment) -> ColdStartConfig:
    """The recipe of the demo's cold start, as `ibpo cold-start` takes it."""
    return ColdStartConfig.model_validate(
        {
            "model": {"path": job.model},
            "data": {
                "path": f"{experiment.name}, drawn with seed {job.seed}",
                "judge": "exact",
                "holdout": max(2, job.num_taught // 10),
            },
            "response_group": [
                {"name": group.name, "prefix": group.prefix, "answer": "after:Answer:", "body": body}
                for group, body in zip(experiment.response_groups, ("direct", "steps"), strict=True)
            ],
            "train": {"num_epochs": 1.0, "batch_size": 16, "seed": job.seed} | dict(experiment.training["cold_start"]),
            "gate": {
                "max_completion_length": experiment.max_completion_length,
                "num_rounds": 1,
                "well_formed": 0.9,
                "truncated": 0.1,
            },
            # A checkpoint holds the optimiser too, 1.6 GB: save it rarely.
            "sft": {"save_steps": 16, "logging_steps": 1},
        }
    )


def teach(job: RealJob, experiment: Experiment) -> None:
    """The cold start, by the bodies that the task's program writes."""
    config = cold_start_config(job, experiment)
    run = RunDir(Path(job.cold_start).parent)
    problems = job.problems("taught")
    num_held_out = config.data.holdout
    judge = build_judge("exact", JudgeConfig())
    job.report("cold start", 0.05)
    run.path.mkdir(parents=True, exist_ok=True)
    results = ColdStart(
        ColdStartJob(
            config=config,
            model_path=job.model,
            problems=problems[num_held_out:],
            held_out=problems[:num_held_out],
            judge=judge,
            run=run,
        ),
        Console(file=sys.stderr),
    ).go()
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    write_text_atomic(run.results, json.dumps(results, indent=2) + "\n")


def record(job: RealJob, experiment: Experiment) -> None:
    """One response of each group to each training problem, and the prompts' states."""
    model, tokenizer = load_policy(job.cold_start)
    problems = job.problems("train")
    for i, group in enumerate(experiment.response_groups):
        job.report(f"sampling {group.name}", 0.1 + 0.4 * i)
        _sample(job, experiment, model, tokenizer, job.recorded(group.name), problems, group.prefix, 1, 30_000 + i)
    job.report("reading prompts", 0.9)
    _write_states(job, experiment, model, tokenizer, "train")
    if not job.states("bodies").exists():
        groups = encode_groups(experiment.response_groups, tokenizer)
        prompt = {p.problem_id: encode_prompt(tokenizer, p.prompt) for p in job.problems("train")[:NUM_BODIES]}
        rows = [row for name in ("standard", "extended") for row in _rows(job.recorded(name))]
        rows = [row for row in rows if row["problem_id"] in prompt]
        texts = [tokenizer(row["completion"], add_special_tokens=False)["input_ids"] for row in rows]
        written = [[*ids, tokenizer.eos_token_id] for ids in texts]
        prompts = [prompt[row["problem_id"]] for row in rows]
        read_bodies(model, tokenizer, prompts, written, groups, experiment.temperature).save(job.states("bodies"))


def sample_untrained(job: RealJob, experiment: Experiment) -> None:
    """Responses of the cold start to the unseen problems, and the states of theirs and of the unlabelled prompts."""
    model, tokenizer = load_policy(job.cold_start)
    prefixes = {group.name: group.prefix for group in experiment.response_groups}
    for i, (how, number) in enumerate({"extended": NUM_EXTENDED, "standard": NUM_STANDARD}.items()):
        job.report(f"sampling {how}", 0.1 + 0.4 * i)
        path = job.responses("cold_start", how)
        _sample(job, experiment, model, tokenizer, path, job.problems("test"), prefixes[how], number, 10_001 + i)
    job.report("reading prompts", 0.85)
    for split in ("test", "calibration"):
        _write_states(job, experiment, model, tokenizer, split)


def train_and_sample(job: RealJob, experiment: Experiment) -> None:
    """Train the choice for one budget, write the policy down, and sample it."""
    model, tokenizer = load_policy(job.cold_start)
    groups = encode_groups(experiment.response_groups, tokenizer)
    standard, extended = experiment.response_groups
    states = ChoiceStates.load(job.states("train"))
    batch = recorded_batch(job, states)
    budgets = read_budget({extended.name: job.budget}, [standard.name, extended.name], lambda _: None)
    lower_level = LowerLevel(num_groups=2, budgets=budgets, utility="regression", window=1, min_gain=None)
    found = train_choice(
        states,
        batch,
        lower_level,
        ChoiceStates.load(job.states("calibration")),
        ChoiceStates.load(job.states("bodies")),
    )
    step = {
        "step": 1,
        "ibpo/share/extended": float(found.share[1]),
        "ibpo/spent/extended": float(np.mean(found.selection.assigned_group == 1)),
        "ibpo/price/extended": float(found.selection.price[0]),
        "ibpo/choice/l2": found.strength,
        "ibpo/choice/factor": found.factor,
    }
    choose_by_rows(model, groups, found.delta)
    with saving(job.policy_dir):
        job.policy_dir.mkdir(parents=True, exist_ok=True)
        write_text_atomic(job.policy_dir / "metrics.json", json.dumps([step]))
        partial = job.policy_dir / "model.partial"
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        shutil.rmtree(job.policy_dir / "model", ignore_errors=True)
        os.replace(partial, job.policy_dir / "model")
    job.report("sampling", 0.3)
    for split in ("test", "calibration"):
        chance = ChoiceStates.load(job.states(split)).shares(found.delta)[:, 1]
        write_chances(job.choices(job.name, split), job.problems(split), chance)
    # The bodies are frozen: forced responses of this policy are the cold start's.
    for group in experiment.response_groups:
        path = job.responses(job.name, group.name)
        write_table(path, [row | {"configuration": job.name} for row in _rows(job.responses("cold_start", group.name))])
    shares = ChoiceStates.load(job.states("test")).shares(found.delta)
    write_table(
        job.responses(job.name, "sampled"), draw_sampled(job, [g.name for g in experiment.response_groups], shares)
    )


def draw_sampled(job: RealJob, names: list[str], shares: np.ndarray) -> list[dict[str, Any]]:
    """What the policy answers when it chooses: the group by its probabilities, the body among the cold start's.

    The bodies are frozen, so a response of a group is distributed as the cold start's forced into it. Nothing is
    decoded: each of `NUM_SAMPLED` draws per problem takes one of the recorded responses of the drawn group.

    Args:
        job: of the policy.
        names: of the G response groups.
        shares: float [P, G]: probability of each group on each unseen problem.
    """
    rng = np.random.default_rng([job.seed, round(1000 * (job.budget or 0))])
    recorded: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in names:
        for row in _rows(job.responses("cold_start", name)):
            recorded.setdefault((name, str(row["problem_id"])), []).append(row)
    drawn = []
    for problem, share in zip(job.problems("test"), shares / shares.sum(1, keepdims=True), strict=True):
        for number, group in enumerate(rng.choice(len(names), NUM_SAMPLED, p=share).tolist()):
            rows = recorded[names[group], problem.problem_id]
            row = rows[int(rng.integers(len(rows)))]
            drawn.append(row | {"configuration": f"{job.name}, sampled", "number": number})
    return drawn


def recorded_batch(job: RealJob, states: ChoiceStates) -> Batch:
    """The recorded responses to the training problems, as the lower level takes them."""
    tables: list[Responses] = [read_table(job.recorded(group), group) for group in ("standard", "extended")]
    number = {p.problem_id: i for i, p in enumerate(job.problems("train"))}
    prompt = np.concatenate([[number[str(name)] for name in table.problem] for table in tables])
    return Batch(
        prompt=prompt,
        response_group=np.concatenate([np.full(len(table), g) for g, table in enumerate(tables)]),
        reward=np.concatenate([np.nan_to_num(table.reward) for table in tables]),
        tokens=np.concatenate([table.tokens for table in tables]),
        features=states.features,
        truncated=np.concatenate([table.truncated == 1 for table in tables]),
    )


def _sample(
    job: RealJob,
    experiment: Experiment,
    model: Any,
    tokenizer: Any,
    path: Path,
    problems: list[Problem],
    prefix: str,
    num_samples: int,
    first_seed: int,
) -> None:
    if not path.exists():
        write_responses(
            path,
            model,
            tokenizer,
            problems,
            experiment.response_groups,
            prefix=prefix,
            num_samples=num_samples,
            max_completion_length=experiment.max_completion_length,
            temperature=experiment.temperature,
            seed=first_seed + 100 * job.seed,
        )


def _write_states(job: RealJob, experiment: Experiment, model: Any, tokenizer: Any, split: str) -> None:
    path = job.states(split)
    if path.exists():
        return
    groups: EncodedGroups = encode_groups(experiment.response_groups, tokenizer)
    prompts = [encode_prompt(tokenizer, p.prompt) for p in job.problems(split)]
    path.parent.mkdir(parents=True, exist_ok=True)
    read_states(model, tokenizer, prompts, groups, experiment.temperature).save(path)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [dict(row) for _, row in local_rows(path)]


if __name__ == "__main__":
    run_real_job(RealJob.begin(sys.argv[1]))
