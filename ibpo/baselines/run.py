"""A run of baselines: which jobs, in which order; what is finished is never repeated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from ibpo.baselines.context import BaselineJob, Context
from ibpo.baselines.job import CORRECT, PROBE, ROUTE, is_done
from ibpo.baselines.recipes import recipes_of, tuned_first
from ibpo.baselines.tuning import candidate_name, choose, is_tuned
from ibpo.errors import IbpoError
from ibpo.experiments.demo import run_jobs
from ibpo.experiments.embedded import model_path
from ibpo.experiments.job import JobSpec
from ibpo.runs import write_text_atomic

NUM_STEPS = {"thinking": 100, "voting": 25}
"""Updates that let three seeds of everything end within 90 minutes on two idle cores (docs/evaluation.md)."""
KEPT = ("num_problems", "num_validation", "num_probe", "num_steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineSettings:
    """What a run consists of; its directory keeps this and refuses other numbers."""

    experiments: tuple[str, ...]
    baselines: tuple[str, ...]
    seeds: tuple[int, ...]
    num_problems: int
    num_validation: int
    num_probe: int
    num_steps: tuple[int, ...]
    """Updates of a policy that reinforcement learning trains, one number per experiment."""


def check_settings(run_dir: Path, settings: BaselineSettings) -> None:
    """Keep the settings in the run directory, or refuse if it holds baselines (or a demo) with other numbers.

    Raises:
        IbpoError: names what differs, and the mend.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    asked = asdict(settings)
    steps = dict(zip(settings.experiments, settings.num_steps, strict=True))
    for name in ("settings.json", "baselines-settings.json"):
        path = run_dir / name
        if not path.exists():
            continue
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise IbpoError(f"{path}: not readable ({error}); delete the directory or choose another --name") from None
        keys = ("num_problems",) if name == "settings.json" else KEPT
        if before.get("from_scratch"):
            raise IbpoError(f"{run_dir} holds a demo of a model remade from nothing: choose another --name")
        for key in keys:
            now, then = asked[key], before.get(key)
            if key == "num_steps":
                old = dict(zip(before["experiments"], then or (), strict=False))
                now = {e: n for e, n in steps.items() if e in old}
                then = {e: n for e, n in old.items() if e in steps}
            if now != then:
                raise IbpoError(
                    f"{run_dir} holds a run with {key} = {then}, this one asks for {now}: choose another --name, "
                    "or delete the directory"
                )
    write_text_atomic(run_dir / "baselines-settings.json", json.dumps(asked, indent=2))


def run_baselines(run_dir: Path, settings: BaselineSettings, console: Console) -> None:
    """Sample the cold start, tune at the first seed, train and sample everything; two jobs at a time.

    Raises:
        IbpoError: if a job fails, with the end of what it said.
    """
    recipes = recipes_of(settings.baselines)
    run_jobs([job for name in settings.experiments for job in _cold_start_jobs(run_dir, settings, name)], console)
    needs_probe = bool({ROUTE, "oracle-by-problem"} & set(settings.baselines)) or bool(recipes)
    if needs_probe:
        _run(_jobs(run_dir, settings, [PROBE]), console)
    for phase in tuned_first(recipes):
        waiting = [
            (recipe, name)
            for recipe in phase
            for name in settings.experiments
            if not is_tuned(run_dir / name / "tuning.json", recipe)
        ]
        candidates = [
            job
            for recipe, experiment in waiting
            for job in _jobs(run_dir, settings, [candidate_name(recipe.name, c) for c in recipe.candidates])
            if job.experiment == experiment and job.seed == settings.seeds[0]
        ]
        _run(candidates, console)
        for recipe, experiment in waiting:
            job = next(
                job
                for job in _jobs(run_dir, settings, [recipe.name])
                if job.experiment == experiment and job.seed == settings.seeds[0]
            )
            choose(Context(job), recipe)
    names = [recipe.name for recipe in reversed(recipes)]  # SCoRe, the longest, first
    names += [name for name in (ROUTE, CORRECT) if name in settings.baselines]
    _run(_jobs(run_dir, settings, names), console)


def _run(jobs: Sequence[BaselineJob], console: Console) -> None:
    if jobs:
        run_jobs(jobs, console, module="ibpo.baselines.job", is_done=is_done)


def _jobs(run_dir: Path, settings: BaselineSettings, names: Sequence[str]) -> list[BaselineJob]:
    return [
        BaselineJob(
            name=name,
            experiment=experiment,
            seed_dir=str(run_dir / experiment / f"seed{seed}"),
            models_dir=str(model_path(experiment).parent),
            seed=seed,
            num_problems=settings.num_problems,
            num_validation=settings.num_validation,
            num_probe=settings.num_probe,
            num_steps=num_steps,
            tuning_file=str(run_dir / experiment / "tuning.json"),
        )
        for name in names
        for experiment, num_steps in zip(settings.experiments, settings.num_steps, strict=True)
        for seed in settings.seeds
    ]


def _cold_start_jobs(run_dir: Path, settings: BaselineSettings, experiment: str) -> list[JobSpec]:
    """The demo's own job that samples cold start and pretrained model, so that its files are shared."""
    return [
        JobSpec(
            kind="baselines",
            experiment=experiment,
            seed_dir=str(run_dir / experiment / f"seed{seed}"),
            models_dir=str(model_path(experiment).parent),
            seed=seed,
            num_problems=settings.num_problems,
            num_calibration=0,
        )
        for seed in settings.seeds
    ]
