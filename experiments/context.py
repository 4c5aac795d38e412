"""What every baseline works on: which problems train it, which tune it, and where its files are stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from ibpo.demo import Experiment, ProcessJob, experiment_named, table_file
from ibpo.tasks import distinct, stream
from ibpo.types import Problem

NUM_PROBE_RESPONSES = 4
"""Responses of each group to each probe problem: they say what a group gains there, and are what SFT imitates."""


@dataclass(frozen=True, kw_only=True)
class BaselineJob(ProcessJob):
    """A policy, a candidate of its tuning (`grpo~learning_rate-0.001`), or another job of `experiments.jobs`."""

    module: ClassVar[str] = "experiments.jobs"
    num_validation: int
    num_probe: int
    num_steps: int
    """Updates of a policy that reinforcement learning trains."""
    tuning_file: str
    """What was chosen on validation problems; see `experiments.recipes`."""

    def outputs(self) -> list[Path]:
        """The files of the finished job."""
        from experiments.jobs import outputs

        return outputs(self)


class Context:
    """A job's problems and files."""

    def __init__(self, job: BaselineJob) -> None:
        self.job = job
        self.experiment: Experiment = experiment_named(job.experiment)
        self.home = Path(job.seed_dir)
        self.cold_start = Path(job.cold_start)

    @cached_property
    def _of_train_split(self) -> list[Problem]:
        count = self.job.num_validation + self.job.num_probe
        return distinct(self.experiment.task, "train", count, seed=9000 + self.job.seed)

    @property
    def validation(self) -> list[Problem]:
        """Problems of the train split that nothing is trained on: all tuning is done on them."""
        return self._of_train_split[: self.job.num_validation]

    @property
    def probe(self) -> list[Problem]:
        """Problems of the train split on which the cold start's responses of both groups are sampled and judged."""
        return self._of_train_split[self.job.num_validation :]

    def training_rows(self, count: int, *, skip: int = 0) -> list[dict[str, Any]]:
        """The stream that IBPO's policies are trained on, without the validation problems; `skip` were used before."""
        held_out = {problem.problem_id for problem in self.validation}
        source = stream(self.experiment.task, "train", 1000 + self.job.seed)
        return [
            {"prompt": p.prompt, "answer": p.answer, "problem_id": p.problem_id, "level": p.level}
            for p in islice((p for p in source if p.problem_id not in held_out), skip, skip + count)
        ]

    def responses(self, policy: str, how: str = "sampled", *, split: str = "test") -> Path:
        """The file of a policy's responses: those to the test as in a demo run, others in folders of their own."""
        return table_file(self.home / ("responses" if split == "test" else split) / f"{policy}__{how}.jsonl.gz")
