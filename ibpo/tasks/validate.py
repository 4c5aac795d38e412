"""Does a task prove itself? Its own answers score 1, slightly wrong ones 0."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ibpo.responses import boxed
from ibpo.rewards import Candidate, CodeJudge, ExactJudge, Judge, Judgement, MathJudge
from ibpo.tasks.task import JudgeName
from ibpo.types import Problem

NUMBER_OR_UNIT = re.compile(r"\d+(?:\.\d*)?|\\(?:text|mbox|mathrm)\{[^{}]*\}(?:\^\{?\d+\}?)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One answer that did not get what it should."""

    problem_id: str
    kind: str
    """`gold` scored below 1, or `perturbed` above 0."""
    answer: str
    judgement: Judgement


def judge_for(name: JudgeName, *, isolate: bool = True) -> Judge:
    """The judge that a task names; `isolate=False` lets programs run with the user's own rights."""
    if name == "code":
        return CodeJudge(isolate=isolate)
    return {"math": MathJudge, "exact": ExactJudge}[name]()


def perturb(problem: Problem, judge: JudgeName) -> str:
    r"""An answer that is nearly the gold one and wrong.

    Code: the function under test, and every other, redefined to return a new object. Else another last number, or a
    word put before an answer without digits. What a judge may rightly pass over is left alone: units, digits that
    rounding forgives, and the second form of a value that is given twice, which is left out.

    Example:
        >>> perturb(Problem(problem_id="p", prompt="", answer=r"\frac{3}{19}"), "math")
        '\\frac{3}{29}'
    """
    if judge == "code":
        return _broken(problem)
    answer = problem.answer
    first, *others = re.split(r"=|\\approx", answer)
    if others and re.search(r"\d", first) and not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", answer)):
        answer = first.strip()
    numbers = [found for found in NUMBER_OR_UNIT.finditer(answer) if found[0][0].isdigit()]
    if not numbers:
        return f"not {problem.answer}"
    start = numbers[-1].start()  # its first digit: the last one of an exponent may make no difference to six decimals
    return answer[:start] + str(int(answer[start]) % 9 + 1) + answer[start + 1 :]


def _broken(problem: Problem) -> str:
    source = f"{problem.info.get('setup', '')}\n{problem.answer}"
    names = dict.fromkeys(re.findall(r"^def\s+(\w+)", source.replace("\r", ""), re.MULTILINE))
    stubs = "".join(f"def {name}(*args, **kwargs):\n    return object()\n\n\n" for name in names)
    return stubs or "raise ValueError('nothing is defined')\n"


def check_task(problems: Sequence[Problem], judge_name: JudgeName, judge: Judge | None = None) -> list[Failure]:
    r"""Judge every problem's own answer, as a response would box it, and a perturbed one; contests publish none."""
    judge = judge or judge_for(judge_name)
    problems = [problem for problem in problems if problem.answer.strip()]
    failures: list[Failure] = []
    for kind in ("gold", "perturbed"):
        candidates = []
        for problem in problems:
            answer = problem.answer if kind == "gold" else perturb(problem, judge_name)
            completion = answer if judge_name == "code" else f"So the answer is \\boxed{{{answer}}}."
            predicted = answer if judge_name == "code" else boxed(completion)
            candidates.append(Candidate(problem=problem, completion=completion, predicted_answer=predicted))
        for candidate, judgement in zip(candidates, judge.judge(candidates), strict=True):
            if judgement.reward != float(kind == "gold"):
                failures.append(
                    Failure(
                        problem_id=candidate.problem.problem_id,
                        kind=kind,
                        answer=str(candidate.predicted_answer),
                        judgement=judgement,
                    )
                )
    return failures
