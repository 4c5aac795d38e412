"""The demo's jobs, each a process of its own, two at a time: what a job has finished is never repeated.

Two processes of one thread each use two cores far better than one process of two threads, and a job that dies takes
nothing along: its finished files stay, and the next run does what is missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ibpo.demo.experiments import EXPERIMENTS, experiment_named
from ibpo.demo.models import CHECKOUT, has_checkout, model_path, pretrained_path
from ibpo.errors import IbpoError
from ibpo.runs import LOCK, write_text_atomic
from ibpo.tasks import distinct
from ibpo.types import Problem

NUM_WORKERS = 2
UNTRAINED = "untrained"
"""Name of the job that samples the models that no policy was trained from."""
TRAINED, RAFT_NAME = "ibpo", "raft"
"""Names of the jobs that train a policy: at one budget, and without any."""
FORCED = "ibpo-forced"
"""Name of the job that samples the trained policy, forced into each group, while it is moved to the budgets."""
OF_BUDGETS = (TRAINED, FORCED)
"""Names of the jobs that are about the demo's budgets."""
TRAINED_AT = 0.5
"""Budget of the one policy that is trained; it orders the problems for all others (docs/log.md)."""


@dataclass(frozen=True, kw_only=True)
class ProcessJob(ABC):
    """What every job knows; its kinds add what they do. Everything that it writes is stored under `seed_dir`."""

    module: ClassVar[str]
    """Runs it, as `python -m MODULE JOB.json`."""
    name: str
    """Unique within a seed of an experiment."""
    experiment: str
    seed_dir: str
    cold_start: str
    """Folder of the model that every policy begins with."""
    seed: int
    num_problems: int
    """Unseen problems that policies are judged on."""

    @classmethod
    def begin(cls, path: str) -> Self:
        """The job that `run_jobs` wrote for this process, which ends when `run_jobs` does, however that ends.

        Otherwise a job of a run that was killed would continue next to the same job of its rerun.
        """
        threading.Thread(target=_end_with_parent, daemon=True).start()
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    @property
    def files(self) -> Path:
        """Its file of progress; next to it are its description and its log."""
        return Path(self.seed_dir) / "progress" / f"{self.name}.json"

    def inputs(self) -> list[Path]:
        """Files of other jobs that must be there before it begins."""
        return []

    @abstractmethod
    def outputs(self) -> list[Path]:
        """The files of the finished job."""

    def is_ready(self) -> bool:
        """Whether it can begin."""
        return all(path.exists() for path in self.inputs())

    def is_done(self) -> bool:
        """Whether every file of the job is there."""
        return all(path.exists() for path in self.outputs())

    def report(self, stage: str, done: float) -> None:
        """Say which stage it is at, and which share of the whole is done."""
        write_text_atomic(self.files, json.dumps({"stage": stage, "done": done}))

    @property
    def policy_dir(self) -> Path:
        """The folder of the policy of this job's name."""
        return self.folder_of(self.name)

    def folder_of(self, policy: str) -> Path:
        """A policy's folder."""
        return Path(self.seed_dir) / "policies" / policy

    def weights(self, policy: str) -> Path:
        """A policy's weights, which appear when the rest of its folder is there."""
        return self.folder_of(policy) / "model" / "model.safetensors"

    def responses(self, policy: str, how: str) -> Path:
        """The table of a policy's responses: forced into a response group, or `sampled`."""
        return table_file(Path(self.seed_dir) / "responses" / f"{policy}__{how}.jsonl.gz")

    def forced(self, policy: str, group: str) -> Path:
        """The table of a trained policy's responses, forced into a response group, of which moved ones have copies."""
        return self.folder_of(policy) / "forced" / f"{group}.jsonl.gz"

    @property
    def worth(self) -> Path:
        """Up to which share the one trained policy's extended responses pay."""
        return self.folder_of(TRAINED) / "pays_to.json"

    def choices(self, policy: str, split: str) -> Path:
        """The table of a policy's probabilities of an extended response."""
        return table_file(Path(self.seed_dir) / "choices" / f"{policy}__{split}.jsonl.gz")

    def unseen_problems(self) -> list[Problem]:
        """The problems of this seed that nothing is trained on: distinct, of the test split."""
        return distinct(experiment_named(self.experiment).task, "test", self.num_problems, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class DemoJob(ProcessJob):
    """A policy is trained and moved to each budget (`TRAINED`, as `ibpo-Q`), and sampled forced (`FORCED`).

    RAFT's policy is trained and sampled; cold start and pretrained model are sampled (`UNTRAINED`).
    """

    module: ClassVar[str] = "ibpo.demo.policy"
    pretrained: str
    """Folder of the model before its cold start; empty where this installation has none."""
    num_calibration: int
    """Unlabelled prompts that a policy's choice is calibrated on."""
    budgets: Sequence[float] = ()
    """That the trained policy is moved to."""
    num_steps: int | None = None
    """Updates; None: the experiment's own number."""

    def inputs(self) -> list[Path]:
        """The model that it begins with."""
        return [self.weights(TRAINED) if self.name == FORCED else Path(self.cold_start) / "model.safetensors"]

    def outputs(self) -> list[Path]:
        """The files of the finished job."""
        groups, splits = ("standard", "extended"), ("test", "calibration")
        moved = [moved_name(budget) for budget in self.budgets]
        if self.name == UNTRAINED:
            more = [self.responses("pretrained", "standard")] if self.pretrained else []
            return [*(self.responses("cold_start", how) for how in ("sampled", *groups)), *more]
        if self.name == FORCED:
            copies = [self.responses(policy, group) for policy in moved for group in groups]
            return [*(self.forced(TRAINED, group) for group in groups), *copies]
        policies, hows = (moved, ("sampled",)) if self.name == TRAINED else ([self.name], ("sampled", *groups))
        files = [self.weights(TRAINED), self.worth] if self.name == TRAINED else []
        for policy in policies:
            files += [self.weights(policy), *(self.responses(policy, how) for how in hows)]
            files += [self.choices(policy, split) for split in splits]
        return files


def moved_name(budget: float) -> str:
    """The trained policy at one of the demo's budgets."""
    return f"{TRAINED}-{budget:g}"


def table_file(path: Path) -> Path:
    """A table `NAME.jsonl.gz`, or the Parquet file that an older version wrote in its place."""
    older = path.with_name(path.name.replace(".jsonl.gz", ".parquet"))
    return older if older.exists() else path


@dataclass(frozen=True, kw_only=True)
class ModelJob(DemoJob):
    """Make the models themselves from nothing, which the repository's `experiments/build.py` does."""

    module: ClassVar[str] = "experiments.build"

    def inputs(self) -> list[Path]:
        """None: it begins with nothing."""
        return []

    def outputs(self) -> list[Path]:
        """The weights of both."""
        return [Path(folder) / "model.safetensors" for folder in (self.pretrained, self.cold_start)]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSettings:
    """What a demo run consists of; a run directory keeps its settings and refuses others."""

    experiments: tuple[str, ...]
    budgets: tuple[float, ...]
    seeds: tuple[int, ...]
    num_problems: int
    num_calibration: int
    num_steps: int | None
    """Updates per policy; None: the experiment's own number."""
    from_scratch: bool
    model: str = ""
    """Folder or hub id of the real model; "": of the embedded experiments."""
    num_taught: int = 0
    """Real model: problems of the cold start; below, those that the choice is trained on."""
    num_train: int = 0


def check_settings(run_dir: Path, settings: DemoSettings) -> None:
    """Keep the settings in the run directory, or refuse if it holds a run with others.

    More seeds, budgets or experiments may join a run; anything else would mix results that cannot be compared.

    Raises:
        IbpoError: names what differs, or what `from_scratch` lacks here, and the fix; or the directory holds no run.
    """
    if settings.from_scratch and not has_checkout():
        raise IbpoError(
            "--from-scratch needs experiments/build.py, which an installed package does not have: run it in a "
            "checkout of "
            "the repository, or leave it out, which uses the model that was made so"
        )
    check_policies(run_dir)
    path = run_dir / "settings.json"
    run_dir.mkdir(parents=True, exist_ok=True)
    if path.exists():
        try:
            before = json.loads(path.read_text())
            if not isinstance(before, dict):
                raise ValueError("no settings")
        except (ValueError, RecursionError) as error:
            raise IbpoError(f"{path}: not readable ({error}); delete the directory or choose another --name") from None
        for key in ("num_problems", "num_calibration", "num_steps", "from_scratch", "model", "num_taught", "num_train"):
            if before.get(key, getattr(DemoSettings, key, None)) != asdict(settings)[key]:
                raise IbpoError(
                    f"{run_dir} holds a run with {key} = {before.get(key)}, this one asks for "
                    f"{asdict(settings)[key]}: choose another --name, or delete the directory"
                )
    elif any(file.name not in (LOCK, *EXPERIMENTS) for file in run_dir.iterdir()):
        raise IbpoError(f"{run_dir}: holds something else than a run of the demo; choose another --name")
    write_text_atomic(path, json.dumps(asdict(settings), indent=2))


def check_policies(run_dir: Path) -> None:
    """Refuse to go on with a run of an earlier version, which trained a policy for each budget.

    Raises:
        IbpoError: names the run, and the fix.
    """
    for experiment in EXPERIMENTS:
        for policies in sorted(run_dir.glob(f"{experiment}/seed*/policies")):
            if any(policies.glob("ibpo-*")) and not (policies / TRAINED).exists():
                raise IbpoError(
                    f"{run_dir} holds a run of an earlier version, which trained a policy for each budget: this one "
                    "trains one for all; choose another --name (ibpo report still reads the old one)"
                )


def plan_jobs(run_dir: Path, settings: DemoSettings) -> list[DemoJob]:
    """In the order of urgency: models (if from scratch), what waits for a trained policy, trainings, the rest."""
    build: list[DemoJob] = []
    rest: dict[str, list[DemoJob]] = {name: [] for name in (FORCED, TRAINED, RAFT_NAME, UNTRAINED)}
    # The longest trainings first.
    for experiment in sorted(settings.experiments, key=lambda name: -experiment_named(name).training["max_steps"]):
        for seed in settings.seeds:
            own = run_dir / experiment / "models" if settings.from_scratch else None
            common: dict[str, Any] = {
                "experiment": experiment,
                "seed_dir": str(run_dir / experiment / f"seed{seed}"),
                "cold_start": str(own / "cold_start" if own else model_path(experiment)),
                "pretrained": str(own / "pretrained" if own else pretrained_path(experiment) or ""),
                "seed": seed,
                "num_problems": settings.num_problems,
                "num_calibration": settings.num_calibration,
                "num_steps": settings.num_steps,
            }
            if own and seed == settings.seeds[0]:
                build.append(ModelJob(name="build", **common))
            for name, jobs in rest.items():
                jobs.append(DemoJob(name=name, **common, budgets=settings.budgets if name in OF_BUDGETS else ()))
    return build + [job for jobs in rest.values() for job in jobs]


def run_jobs(jobs: Sequence[ProcessJob], console: Console) -> None:
    """Run jobs, two at a time, with a bar each: the first whose inputs are there is the next.

    Ctrl-C ends them and leaves what is finished.

    Raises:
        IbpoError: if a job fails, with the end of what it said and where the rest is; or its inputs are no job's.
    """
    waiting = [job for job in jobs if not job.is_done()]
    running: list[tuple[ProcessJob, subprocess.Popen, TaskID, Path]] = []
    with _bars(console) as bars:
        whole = bars.add_task(_label(jobs, len(jobs) - len(waiting)), total=len(jobs))
        bars.update(whole, completed=len(jobs) - len(waiting))
        try:
            while waiting or running:
                while len(running) < NUM_WORKERS and (job := next((job for job in waiting if job.is_ready()), None)):
                    waiting.remove(job)
                    running.append(_start(job, bars.add_task(_bar_label(job), total=1)))
                if not running:
                    missing = [path for path in waiting[0].inputs() if not path.exists()]
                    raise IbpoError(f"job {waiting[0].name} waits for {missing[0]}, which no other job writes")
                time.sleep(0.3)
                for entry in list(running):
                    job, process, bar, log = entry
                    done, stage = _read_progress(job)
                    bars.update(bar, completed=done, description=f"{_bar_label(job)}, {stage}")
                    if process.poll() is None:
                        continue
                    running.remove(entry)
                    process.communicate()  # closes its pipe
                    bars.remove_task(bar)
                    if process.returncode != 0 or not job.is_done():
                        raise IbpoError(f"job {job.name} of {job.experiment}, seed {job.seed}, failed: {_tail(log)}")
                    if not console.is_terminal:
                        console.print(f"{job.experiment} seed {job.seed}: {job.name} done")
                finished = len(jobs) - len(waiting) - len(running)
                partly = sum(_read_progress(job)[0] for job, *_ in running)
                bars.update(whole, completed=finished + partly, description=_label(jobs, finished))
        finally:
            for _, process, _, _ in running:
                process.terminate()
            for _, process, _, _ in running:
                process.communicate()


def _end_with_parent() -> None:
    # The other end of the pipe closes with the process that holds it.
    while os.read(0, 1024):
        pass
    os._exit(1)


def _label(jobs: Sequence[ProcessJob], finished: int) -> str:
    return f"{finished} of {len(jobs)} jobs"


def _bar_label(job: ProcessJob) -> str:
    return f"  {job.experiment} seed {job.seed}: {job.name}"


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    time_left = TextColumn("left"), TimeRemainingColumn()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), *time_left
    with Progress(*columns, console=console, speed_estimate_period=120) as bars:
        yield bars


def _start(job: ProcessJob, bar: TaskID) -> tuple[ProcessJob, subprocess.Popen, TaskID, Path]:
    job.files.unlink(missing_ok=True)
    spec, log = job.files.with_suffix(".spec.json"), job.files.with_suffix(".log")
    write_text_atomic(spec, json.dumps(asdict(job), indent=2))
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    if has_checkout():  # where the modules of `experiments` are
        paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", job.module, str(spec)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    return job, process, bar, log


def _read_progress(job: ProcessJob) -> tuple[float, str]:
    try:
        found: dict[str, Any] = json.loads(job.files.read_text())
        return float(found["done"]), str(found["stage"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0, "starting"


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = lines[-1].removeprefix("ibpo.errors.IbpoError: ") if lines else "it said nothing"
    return f"{said} (all of it in {log})"
