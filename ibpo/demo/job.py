"""One job of a demo run, in a process of its own: `python -m ibpo.demo.job SPEC.json`.

Two such processes of one thread each use two cores far better than one process of two threads, and a job that dies
takes nothing along: its finished files stay, and the next run does what is missing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ibpo.demo.experiments import Experiment, experiment_named
from ibpo.runs import write_text_atomic
from ibpo.types import Problem

NUM_EXTENDED, NUM_SAMPLED = 2, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec:
    """What a job does and where; everything that it writes lies under `seed_dir`."""

    kind: str
    """`"build"`, `"baselines"` or `"policy"`."""
    experiment: str
    seed_dir: str
    cold_start: str
    """Folder of the model that every policy begins with."""
    pretrained: str
    """Folder of the model before its cold start; empty where this installation has none."""
    seed: int
    num_problems: int
    num_calibration: int
    policy: str = ""
    budget: float | None = None
    num_steps: int | None = None

    @property
    def name(self) -> str:
        """Unique within a seed of an experiment."""
        return self.policy or self.kind

    @property
    def module(self) -> str:
        """What runs it."""
        return "experiments.build" if self.kind == "build" else "ibpo.demo.job"

    def is_done(self) -> bool:
        """Whether every file of the job is there."""
        return all(path.exists() for path in outputs(self))


def outputs(spec: JobSpec) -> list[Path]:
    """The files of a finished job."""
    base = Path(spec.seed_dir)
    if spec.kind == "build":
        return [Path(folder) / "model.safetensors" for folder in (spec.pretrained, spec.cold_start)]
    if spec.kind == "baselines":
        names = ["cold_start__standard", "cold_start__extended", "cold_start__sampled"]
        names += ["pretrained__standard"] if spec.pretrained else []
        return [base / "responses" / f"{name}.parquet" for name in names]
    responses = [base / "responses" / f"{spec.policy}__{how}.parquet" for how in ("sampled", "standard", "extended")]
    choices = [base / "choices" / f"{spec.policy}__{split}.parquet" for split in ("test", "calibration")]
    return [base / "policies" / spec.policy / "model" / "model.safetensors", *responses, *choices]


class Job(Protocol):
    """What running a job takes; `experiments.jobs` has jobs of its own."""

    @property
    def name(self) -> str:
        """Unique within a seed of an experiment."""
        ...

    @property
    def experiment(self) -> str:
        """Its experiment."""
        ...

    @property
    def seed(self) -> int:
        """Its seed."""
        ...

    @property
    def seed_dir(self) -> str:
        """Where it writes."""
        ...

    @property
    def module(self) -> str:
        """Runs it, as `python -m MODULE JOB.json`."""
        ...

    def is_done(self) -> bool:
        """Whether all that it writes is there."""
        ...


def progress_file(spec: Job) -> Path:
    """The file that says how far the job is."""
    return Path(spec.seed_dir) / "progress" / f"{spec.name}.json"


def quiet_libraries() -> None:
    """One thread, and no bars or warnings of libraries: what a job says is its error."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def run_job(spec: JobSpec) -> None:
    """Do what is missing of a job."""
    quiet_libraries()
    experiment = experiment_named(spec.experiment)
    tell = teller(progress_file(spec))
    if spec.kind == "baselines":
        sample_baselines(spec, experiment, tell)
    else:
        from ibpo.demo.policy import train_policy

        out_dir = Path(spec.seed_dir) / "policies" / spec.policy
        train_policy(
            experiment,
            Path(spec.cold_start),
            out_dir,
            budget=spec.budget,
            seed=spec.seed,
            num_steps=spec.num_steps,
            on_progress=lambda done: tell("training", 0.8 * done),
        )
        sample_policy(spec, experiment, out_dir / "model", tell)
    tell("done", 1.0)


def teller(path: Path) -> Callable[[str, float], None]:
    """A function that writes a job's stage, and the share of it that is done, into a file."""

    def tell(stage: str, done: float) -> None:
        write_text_atomic(path, json.dumps({"stage": stage, "done": done, "time": time.time()}))

    return tell


def test_problems(spec: JobSpec, experiment: Experiment) -> list[Problem]:
    """The unseen problems of this seed: distinct, of the test split."""
    from ibpo.tasks import distinct

    return distinct(experiment.task, "test", spec.num_problems, seed=spec.seed)


def _load(model_dir: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(model_dir)


def sample_baselines(spec: JobSpec, experiment: Experiment, tell: Callable[[str, float], None]) -> None:
    """Sample the models that no policy was trained from: pretrained and cold start."""
    counts = {"standard": experiment.num_siblings_standard, "extended": NUM_EXTENDED, "sampled": NUM_SAMPLED}
    if spec.pretrained:
        _sample(spec, experiment, Path(spec.pretrained), "pretrained", {"standard": counts["standard"]}, 10_000)
    tell("sampling the pretrained model", 0.3)
    _sample(spec, experiment, Path(spec.cold_start), "cold_start", counts, 10_001)


def sample_policy(spec: JobSpec, experiment: Experiment, model_dir: Path, tell: Callable[[str, float], None]) -> None:
    """Sample a trained policy on the unseen problems, and read its choice on them and on unlabelled prompts."""
    from ibpo.evaluation.sample import write_choices
    from ibpo.tasks import distinct

    model, tokenizer = _load(model_dir)
    # Unlabelled prompts of the train split, drawn as the test is; their answers are never looked at.
    calibration = distinct(experiment.task, "train", spec.num_calibration, seed=5000 + spec.seed)
    for split, prompts in (("test", test_problems(spec, experiment)), ("calibration", calibration)):
        path = Path(spec.seed_dir) / "choices" / f"{spec.policy}__{split}.parquet"
        if not path.exists():
            write_choices(path, model, tokenizer, prompts, experiment.response_groups[1])
    tell("sampling", 0.85)
    # As many standard responses as of the cold start: they cost little, and the luck of two guesses a problem blurs
    # every comparison with it (docs/log.md).
    counts = {"sampled": NUM_SAMPLED, "standard": experiment.num_siblings_standard, "extended": NUM_EXTENDED}
    _sample(spec, experiment, model_dir, spec.policy, counts, 20_000)


def _sample(
    spec: JobSpec, experiment: Experiment, model_dir: Path, policy: str, counts: dict[str, int], first_seed: int
) -> None:
    """Sample one policy on the unseen problems in each way, as often as `counts` says; finished files are kept."""
    from ibpo.evaluation.sample import write_responses

    model, tokenizer = _load(model_dir)
    prefixes = {group.name: group.prefix for group in experiment.response_groups} | {"sampled": ""}
    for i, (how, num_samples) in enumerate(counts.items()):
        path = Path(spec.seed_dir) / "responses" / f"{policy}__{how}.parquet"
        if not path.exists():
            write_responses(
                path,
                model,
                tokenizer,
                test_problems(spec, experiment),
                experiment.response_groups,
                prefix=prefixes[how],
                num_samples=num_samples,
                max_completion_length=experiment.max_completion_length,
                seed=first_seed + 100 * spec.seed + i,
            )


def write_spec(spec: Any, path: Path) -> None:
    """A job's dataclass as JSON."""
    write_text_atomic(path, json.dumps(asdict(spec), indent=2))


if __name__ == "__main__":
    run_job(JobSpec(**json.loads(Path(sys.argv[1]).read_text())))
