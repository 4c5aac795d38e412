"""A judge that is anybody's program: responses go in as JSON lines, rewards come out.

The program runs as a process of its own, once for a batch. It reads a line for each response, with `problem_id`,
`prompt` (text or messages), `answer` (the gold answer, "" without one), `completion`, `predicted_answer` and
`finish_reason`, and writes a line for each, in the same order: a number from 0 to 1, or an object with `reward` and,
if it likes, `reason`.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

from ibpo.errors import IbpoError
from ibpo.rewards.judges import Candidate, Judgement


class CommandJudge:
    """Asks a program, such as `python judge.py`; no shell reads its name.

    Example:
        >>> from ibpo.types import Problem
        >>> judge = CommandJudge("sed s/.*/0.5/")
        >>> problem = Problem(problem_id="p", prompt="1 + 1 =", answer="2")
        >>> judge.judge([Candidate(problem=problem, completion="2", predicted_answer="2")])[0].reward
        0.5
    """

    def __init__(self, command: str) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise IbpoError(f"--judge-command {command}: {error}; write it as in a shell") from None
        if not self._command:
            raise IbpoError("--judge-command: is empty; give a program that reads JSON lines and writes rewards")
        self._place = f"--judge-command {self._command[0]}"

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """See `Judge`.

        Raises:
            IbpoError: where it cannot be started, fails, or writes something else than a reward for each.
        """
        if not candidates:
            return []
        asked = "".join(json.dumps(_line(candidate)) + "\n" for candidate in candidates)
        try:
            done = subprocess.run(self._command, input=asked.encode(), capture_output=True, check=False)
        except OSError as error:
            raise IbpoError(f"{self._place}: cannot be started: {error.strerror}; name a program that can") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise IbpoError(
                f"{self._place}: ended with exit status {done.returncode}: {said[-1][:300] if said else 'said nothing'}"
            )
        lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
        if len(lines) != len(candidates):
            raise IbpoError(
                f"{self._place}: wrote {len(lines)} lines for {len(candidates)} responses; write one reward for each"
            )
        return [self._read(line, candidate) for line, candidate in zip(lines, candidates, strict=True)]

    def _read(self, line: str, candidate: Candidate) -> Judgement:
        try:
            said = json.loads(line)
            row: dict[str, Any] = said if isinstance(said, dict) else {"reward": said}
            reward = float(row["reward"])
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            reward, row = math.nan, {}
        if not 0 <= reward <= 1:
            raise IbpoError(
                f"{self._place}: problem {candidate.problem.problem_id}: {line[:80]!r} is no reward; write a number "
                "from 0 to 1, or an object with it as 'reward'"
            )
        return Judgement(reward=reward, reason=str(row.get("reason", ""))[:300])


def _line(candidate: Candidate) -> dict[str, Any]:
    problem = candidate.problem
    return {
        "problem_id": problem.problem_id,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "completion": candidate.completion,
        "predicted_answer": candidate.predicted_answer,
        "finish_reason": candidate.finish_reason,
    }
