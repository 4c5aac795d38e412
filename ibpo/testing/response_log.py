"""A small log of judged responses, as columns, rows and a file: what `allocate`, `frontier` and the commands take."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.errors import IbpoError
from ibpo.testing.policy import FakePolicy, problems
from ibpo.types import Problem

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResponseLog:
    """Columns, one entry per response; N of them."""

    problem: list[str]
    level: list[str]
    response_group: list[str]
    number: list[int]
    """Which of its problem's responses of this response group."""
    reward: NDArray[np.float64]
    """1 where it is right, else 0."""
    tokens: NDArray[np.int64]
    """Completion tokens."""
    answer: list[str | None]
    """None where it was cut off."""
    finish_reason: list[str]
    prompt: list[str]

    def __len__(self) -> int:
        return len(self.problem)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """As `ibpo eval` writes them: for `ibpo.evaluation.Responses.of_table`, a data frame, or a file."""
        return [
            {
                "problem_id": self.problem[i],
                "configuration": self.response_group[i],
                "response_group": self.response_group[i],
                "number": self.number[i],
                "level": self.level[i],
                "reward": float(self.reward[i]),
                "tokens": int(self.tokens[i]),
                "answer": self.answer[i],
                "finish_reason": self.finish_reason[i],
                "prompt": self.prompt[i],
            }
            for i in range(len(self))
        ]

    def write(self, path: str | Path) -> Path:
        """Write the rows, for a command: JSON lines, a JSON list, CSV or TSV, as the name ends.

        Raises:
            IbpoError: Another ending.
        """
        path, rows = Path(path), self.rows
        if path.suffix not in SUFFIXES:
            raise IbpoError(f"{path}: cannot be written so; end its name in {', '.join(SUFFIXES)}")
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".json":
                json.dump(rows, file)
            elif path.suffix == ".jsonl":
                file.writelines(json.dumps(row) + "\n" for row in rows)
            else:
                names = list(rows[0]) if rows else []
                writer = csv.DictWriter(file, names, delimiter="," if path.suffix == ".csv" else "\t")
                writer.writeheader()
                writer.writerows(rows)
        return path


def responses(
    policy: FakePolicy | None = None, *, num_problems: int = 100, num_each: int = 4, asked: Sequence[Problem] = ()
) -> ResponseLog:
    """A log of a fake policy: each response group answers each problem some times.

    Args:
        policy: `FakePolicy()` by default: two response groups, five levels, and an extended one that gains most on the
            hard levels.
        num_problems: Sums of `ibpo.testing.problems`.
        num_each: Answers of each response group to each problem.
        asked: Your own problems, in the place of sums.

    Example:
        >>> import ibpo
        >>> log = responses(num_problems=50)
        >>> len(log), log.rows[0]["response_group"]
        (400, 'standard')
        >>> allocation = ibpo.allocate(log.reward, log.problem, log.tokens, budget=300)
        >>> allocation.status, float(allocation.spent[0]) <= 300
        ('optimal', True)
    """
    policy = FakePolicy() if policy is None else policy
    if num_each < 1:
        raise IbpoError(f"num_each: is {num_each!r}; it must be at least 1")
    asked = asked or problems(num_problems, seed=policy.seed)
    order = [(problem, group, i) for problem in asked for group in policy.groups for i in range(num_each)]
    answers = [policy.answer(problem, group, i) for problem, group, i in order]
    return ResponseLog(
        problem=[problem.problem_id for problem, _, _ in order],
        level=[problem.level for problem, _, _ in order],
        response_group=[group for _, group, _ in order],
        number=[i for _, _, i in order],
        reward=np.array([float(answer.right) for answer in answers]),
        tokens=np.array([answer.tokens for answer in answers], np.int64),
        answer=[answer.answer or None for answer in answers],
        finish_reason=[answer.finish_reason for answer in answers],
        prompt=[p.prompt if isinstance(p.prompt, str) else str(p.prompt[-1]["content"]) for p, _, _ in order],
    )
