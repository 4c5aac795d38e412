"""The main job: train at every budget, evaluate on unseen problems, compare, and leave a page to look at.

Work is split into jobs, each a process of its own (`ibpo.demo.job`); what a job has finished is never repeated,
so an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ibpo.demo.job import Job, JobSpec, progress_file, write_spec
from ibpo.demo.models import CHECKOUT, has_checkout, model_path, pretrained_path
from ibpo.errors import IbpoError
from ibpo.runs import write_text_atomic

NUM_WORKERS = 2


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


def check_settings(run_dir: Path, settings: DemoSettings) -> None:
    """Keep the settings in the run directory, or refuse if it holds a run with others.

    More seeds, budgets or experiments may join a run; anything else would mix results that cannot be compared.

    Raises:
        IbpoError: names what differs, or what `from_scratch` lacks here, and the fix.
    """
    if settings.from_scratch and not has_checkout():
        raise IbpoError(
            "--from-scratch needs experiments/build.py, which an installed package has not: run it in a checkout of "
            "the repository, or leave it out, which uses the model that was made so"
        )
    path = run_dir / "settings.json"
    run_dir.mkdir(parents=True, exist_ok=True)
    if path.exists():
        try:
            before = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise IbpoError(f"{path}: not readable ({error}); delete the directory or choose another --name") from None
        for key in ("num_problems", "num_calibration", "num_steps", "from_scratch"):
            if before.get(key) != asdict(settings)[key]:
                raise IbpoError(
                    f"{run_dir} holds a run with {key} = {before.get(key)}, this one asks for "
                    f"{asdict(settings)[key]}: choose another --name, or delete the directory"
                )
    write_text_atomic(path, json.dumps(asdict(settings), indent=2))


def plan_jobs(run_dir: Path, settings: DemoSettings) -> list[list[JobSpec]]:
    """Jobs in two phases: models (if from scratch), then policies and baselines, the longest first."""
    build, rest = [], []
    for seed in settings.seeds:
        for experiment in settings.experiments:
            seed_dir = run_dir / experiment / f"seed{seed}"
            own = run_dir / experiment / "models" if settings.from_scratch else None
            common = {
                "experiment": experiment,
                "seed_dir": str(seed_dir),
                "cold_start": str(own / "cold_start" if own else model_path(experiment)),
                "pretrained": str(own / "pretrained" if own else pretrained_path(experiment) or ""),
                "seed": seed,
                "num_problems": settings.num_problems,
                "num_calibration": settings.num_calibration,
                "num_steps": settings.num_steps,
            }
            if own and seed == settings.seeds[0]:
                build.append(JobSpec(kind="build", **common))
            rest += [JobSpec(kind="policy", policy=f"ibpo-{q:g}", budget=q, **common) for q in settings.budgets]
            rest.append(JobSpec(kind="policy", policy="raft", **common))
            rest.append(JobSpec(kind="baselines", **common))
    return [build, rest]


def run_jobs(jobs: Sequence[Job], console: Console) -> None:
    """Run jobs, two at a time, with a bar each; Ctrl-C ends them and leaves what is finished.

    Args:
        jobs: dataclasses that their module reads back from JSON.
        console: where the bars go.

    Raises:
        IbpoError: if a job fails, with the end of what it said and where the rest is.
    """
    waiting = [job for job in jobs if not job.is_done()]
    running: list[tuple[Job, subprocess.Popen, TaskID, Path]] = []
    with _bars(console) as bars:
        whole = bars.add_task(_label(jobs, len(jobs) - len(waiting)), total=len(jobs))
        bars.update(whole, completed=len(jobs) - len(waiting))
        try:
            while waiting or running:
                while waiting and len(running) < NUM_WORKERS:
                    job = waiting.pop(0)
                    running.append(_start(job, bars.add_task(_bar_label(job), total=1)))
                time.sleep(0.3)
                for entry in list(running):
                    job, process, bar, log = entry
                    done, stage = _read_progress(job)
                    bars.update(bar, completed=done, description=f"{_bar_label(job)}, {stage}")
                    if process.poll() is None:
                        continue
                    running.remove(entry)
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
                process.wait()


def _label(jobs: Sequence[Job], finished: int) -> str:
    return f"{finished} of {len(jobs)} jobs"


def _bar_label(job: Job) -> str:
    return f"  {job.experiment} seed {job.seed}: {job.name}"


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=120) as bars:
        yield bars


def _start(job: Job, bar: TaskID) -> tuple[Job, subprocess.Popen, TaskID, Path]:
    spec_path = Path(job.seed_dir) / "progress" / f"{job.name}.spec.json"
    write_spec(job, spec_path)
    progress_file(job).unlink(missing_ok=True)
    log = Path(job.seed_dir) / "progress" / f"{job.name}.log"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    if has_checkout():  # where the other modules of jobs are
        paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", job.module, str(spec_path)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    return job, process, bar, log


def _read_progress(job: Job) -> tuple[float, str]:
    try:
        told = json.loads(progress_file(job).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return 0.0, "starting"
    return float(told["done"]), str(told["stage"])


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it said nothing'} (all of it in {log})"
