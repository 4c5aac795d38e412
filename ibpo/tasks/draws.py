"""Drawing problems of an embedded task: an endless stream for training, a distinct stratified set for a test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from ibpo.types import Problem


class EmbeddedTask(Protocol):
    """What the embedded tasks' modules offer."""

    @property
    def MIX(self) -> Mapping[str, float]:
        """Level -> share of the problems."""
        ...

    def draw(self, level: str, rng: np.random.Generator) -> Problem:
        """A random problem of this level."""
        ...

    def split_of(self, problem_id: str) -> str:
        """`"train"` or `"test"`, decided by a hash of the problem itself."""
        ...


def stream(task: EmbeddedTask, split: str, seed: int, mix: Mapping[str, float] | None = None) -> Iterator[Problem]:
    """Problems of one split without end, levels drawn by the task's mix or by another; repeats are possible."""
    rng = np.random.default_rng([seed, 0 if split == "train" else 1])
    mix = task.MIX if mix is None else mix
    levels, shares = list(mix), list(mix.values())
    while True:
        level = levels[rng.choice(len(levels), p=shares)]
        problem = task.draw(level, rng)
        while task.split_of(problem.problem_id) != split:
            problem = task.draw(level, rng)
        yield problem


def distinct(task: EmbeddedTask, split: str, num_problems: int, seed: int) -> list[Problem]:
    """Distinct problems of one split, the levels in the exact proportions of the task's mix, in random order.

    Raises:
        ValueError: if a level has not that many distinct problems.
    """
    rng = np.random.default_rng([seed, 2 if split == "train" else 3])
    counts = {level: round(share * num_problems) for level, share in task.MIX.items()}
    counts[max(counts, key=lambda level: counts[level])] += num_problems - sum(counts.values())
    chosen: dict[str, Problem] = {}
    for level, count in counts.items():
        wanted, in_vain = len(chosen) + count, 0
        while len(chosen) < wanted:
            problem = task.draw(level, rng)
            if task.split_of(problem.problem_id) == split and problem.problem_id not in chosen:
                chosen[problem.problem_id] = problem
                in_vain = 0
            elif (in_vain := in_vain + 1) > 20_000:
                raise ValueError(f"level {level!r} has fewer than {count} distinct problems in split {split!r}")
    ordered = list(chosen.values())
    return [ordered[i] for i in rng.permutation(len(ordered))]
