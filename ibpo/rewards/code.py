"""Does a program pass its tests? Run in the sandbox, several at a time."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ibpo.errors import IbpoError
from ibpo.rewards.judgement import Candidate, Judgement
from ibpo.rewards.sandbox import Limits, run_program, why_not_isolated


class CodeJudge:
    """1.0 where the predicted answer, a program, passes the problem's tests, else 0.0.

    A problem's `info` holds `tests`, source that raises where the program is wrong, and may hold `setup`, source that
    goes before it (HumanEval: the prompt, whose imports and helpers an answer may leave out). An answer that begins
    with an indented line continues the setup, as HumanEval's own solutions do; any other stands for itself after it.

    Raises:
        IbpoError: on construction, where model-written code cannot be confined, unless `isolate=False`.

    Example:
        >>> from ibpo.types import Problem
        >>> problem = Problem(problem_id="1", prompt="Double x.", answer="", info={"tests": "assert double(3) == 6"})
        >>> answers = ["def double(x): return 2 * x", "def double(x): return x"]
        >>> candidates = [Candidate(problem=problem, completion=a, predicted_answer=a) for a in answers]
        >>> [(j.reward, j.reason) for j in CodeJudge().judge(candidates)]
        [(1.0, 'passed its tests'), (0.0, 'failed: AssertionError (line 5)')]
    """

    def __init__(self, *, limits: Limits | None = None, num_workers: int | None = None, isolate: bool = True) -> None:
        """Programs run in `num_workers` processes at a time (default: one per CPU, at most eight).

        `isolate=False` is for machines that hold nothing of value: programs then run with the user's own rights.
        """
        if isolate and (reason := why_not_isolated()):
            raise IbpoError(
                f"{reason}; judge on a machine that can, or on a throw-away one with --no-isolation (isolate=False), "
                "in a recipe judge.isolation = false, where programs run with your own rights"
            )
        self._limits, self._isolate = limits or Limits(), isolate
        self._num_workers = num_workers or min(os.cpu_count() or 1, 8)

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """Run each distinct program once.

        Raises:
            IbpoError: for a problem without tests.
        """
        programs = [assemble(candidate) for candidate in candidates]
        distinct = list(dict.fromkeys(program for program in programs if program is not None))
        with ThreadPoolExecutor(self._num_workers) as threads:
            judged = dict(zip(distinct, threads.map(self._run, distinct), strict=True))
        nothing = Judgement(reward=0.0, reason="no answer")
        return [nothing if program is None else judged[program] for program in programs]

    def _run(self, program: str) -> Judgement:
        outcome = run_program(program, limits=self._limits, isolate=self._isolate)
        if outcome.passed:
            return Judgement(reward=1.0, reason="passed its tests")
        return Judgement(reward=0.0, reason=f"{outcome.status}{f': {outcome.detail}' if outcome.detail else ''}")


def assemble(candidate: Candidate) -> str | None:
    """Setup, answer and tests as one program; None where there is no answer."""
    problem, answer = candidate.problem, candidate.predicted_answer
    tests, setup = problem.info.get("tests"), problem.info.get("setup", "")
    if not isinstance(tests, str) or not tests.strip():
        raise IbpoError(f"problem {problem.problem_id}: has no tests; give source text in info['tests']")
    if answer is None or not answer.strip():
        return None
    answer = answer.replace("\r\n", "\n")
    first = next(line for line in answer.splitlines() if line.strip())
    if first[0].isspace() and not setup:
        answer = textwrap.dedent(answer)
    gap = "" if first[0].isspace() else "\n\n"
    return f"{setup}{gap}{answer}\n\n{tests}\n"
