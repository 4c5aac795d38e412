"""Tasks: a data set's columns and which judge decides, the shipped benchmarks, and whether a task proves itself.

Your own task is three lines: name, columns, judge. The revisions of the shipped benchmarks are commits of the hub's
data sets, so that a name always means the same rows. Embedded tasks are modules that draw problems at random. A task
proves itself where its own answers score 1 and slightly wrong ones 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ibpo.errors import IbpoError
from ibpo.responses import boxed
from ibpo.rewards import Candidate, CodeJudge, ExactJudge, Judge, Judgement, MathJudge
from ibpo.tasks.data_files import Part, Row, hub_parts, local_parts
from ibpo.types import Problem

JudgeName = Literal["math", "code", "exact"]
"""Judges that a task can name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where the hub keeps a data set; the revision is a commit, so that the rows never change.

    "": none could be verified; the data set is then read from a local copy only.
    """

    name: str
    revision: str
    split: str
    configs: tuple[str, ...] = ("",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A data set and which column is what. Where a column has several names, the first that a row has counts.

    Example:
        >>> mine = Task(name="mine", problem=("q",), answer=("a",), judge="exact")
        >>> mine.to_problem(("line 1", {"q": "1 + 1 =", "a": 2})).answer
        '2'
    """

    name: str
    judge: JudgeName = "math"
    problem: tuple[str, ...] = ("problem", "question")
    """Text, or the messages of a chat, the user's last."""
    answer: tuple[str, ...] = ("answer",)
    answer_after: str = ""
    """The answer follows this marker, where it occurs."""
    boxed_in: tuple[str, ...] = ()
    """Where there is no answer: it is boxed in this column."""
    problem_id: tuple[str, ...] = ()
    level: tuple[str, ...] = ()
    domain: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    """Source that raises where a program is wrong, or a list of such lines."""
    setup: tuple[str, ...] = ()
    """Source that goes before the answer."""
    test_setup: tuple[str, ...] = ()
    """Source that goes between the answer and the tests, and may use the answer's names."""
    entry_point: tuple[str, ...] = ()
    """HumanEval: the tests define `check`, which is called with this function."""
    cases: tuple[str, ...] = ()
    """LiveCodeBench: columns of JSON text, each a list of `input`, `output`, `testtype`; all of them count."""
    starter: tuple[str, ...] = ()
    """LiveCodeBench: the source that a program begins with; a problem without it reads stdin and prints."""
    source: Source | None = None
    may_lack_answers: bool = False
    """Rows without an answer are left out, rather than an error."""
    template: str = "{problem}"
    """The prompt: `{problem}`, `{tests}` and, for LiveCodeBench, `{form}` are filled in."""
    named: tuple[str, ...] = ()
    """Columns that a row may not lack, as their user named them."""
    kept: tuple[str, ...] = ()
    """Columns that go along as they are, as text, in `Problem.info["columns"]`."""
    marker_needed: bool = False
    """An answer without the marker of `answer_after` is an error."""

    def load(self, path: Path | None = None, *, limit: int | None = None) -> list[Problem]:
        """All problems, of a local file or folder, or else of the hub's pinned revision.

        From a folder, those of the source's configurations and split. Rows without an id get their number, and where
        there are several configurations or files its name before that.

        Raises:
            IbpoError: names the place, the field and the fix, or how to get the data.
        """
        if path is None and self.source is None:
            raise IbpoError(f"{self.name}: has no source; name a file or folder")
        problems: list[Problem] = []
        seen: dict[str, str] = {}
        for row, part in ((row, part) for part, rows in self._parts(path) for row in rows):
            problem = self.to_problem(row, part)
            if problem is None:
                continue
            if problem.problem_id in seen:
                first = seen[problem.problem_id]
                raise IbpoError(f"{row[0]}: id {problem.problem_id!r} is already at {first}; ids must be unique")
            seen[problem.problem_id] = row[0]
            problems.append(problem)
            if len(problems) == limit:
                break
        if not problems:
            raise IbpoError(f"{path or self.name}: holds no problems; name another file")
        return problems

    def to_problem(self, row: Row, part: str = "") -> Problem | None:
        """One row of a part of the data set as a problem; None where it has no answer and may lack one."""
        place, fields = row
        self._check_named(row)
        number = place.rpartition(" ")[2]
        messages = self._messages(row)
        answer = self._answer(row)
        if answer is None:
            return None
        tests = self._tests(row)
        info: dict[str, Any] = {"task": self.name}
        if self.domain:
            info["domain"] = _optional(self.domain, fields)
        if self.kept:
            info["columns"] = {name: _optional((name,), fields) for name in self.kept}
        if self.cases:
            info |= self._contest(row)
        if tests:
            if self.entry_point:
                info["entry_point"] = _optional(self.entry_point, fields)
            before = _optional(self.test_setup, fields)
            info |= {"tests": f"{before}\n{tests}" if before else tests, "setup": _optional(self.setup, fields)}
        content = messages[-1]["content"].strip()
        prompt = self._prompt({"form": self._form(fields), "tests": tests, "problem": content})
        messages[-1] = messages[-1] | {"content": prompt}
        return Problem(
            problem_id=_optional(self.problem_id, fields) or (f"{part}-{number}" if part else number),
            # A single message is its text: the same problem, whichever way a row has it.
            prompt=messages if len(messages) > 1 else prompt,
            answer=answer,
            level=_optional(self.level, fields).removeprefix("Level ").replace("?", ""),
            info=info,
        )

    def _parts(self, path: Path | None) -> list[Part]:
        source = self.source
        if path is not None:
            return local_parts(path, source.configs, source.split) if source else local_parts(path)
        assert source is not None
        if not source.revision:
            name = source.name
            raise IbpoError(
                f"{self.name}: no revision of {name} is pinned here, so it is not fetched; run `hf download {name} "
                f"--repo-type dataset --revision COMMIT --local-dir {self.name}` with a commit of your choice, and "
                f"name that folder (`ibpo task check {self.name} --set data.path={self.name}`)"
            )
        return hub_parts(source.name, source.configs, source.split, source.revision)

    def _check_named(self, row: Row) -> None:
        place, fields = row
        for name in self.named:
            if name not in fields:
                known = ", ".join(map(str, fields)) or "none"
                raise IbpoError(f"{place}: no field {name!r}; the row's fields are {known}: name one of them")
            value = fields[name]
            if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal | list) or (
                isinstance(value, list) and name not in (*self.tests, *self.problem)
            ):  # fmt: skip
                raise IbpoError(f"{place}: field {name!r} holds {str(value)[:40]}; text or a number is needed")

    def _answer(self, row: Row) -> str | None:
        place, fields = row
        answer = _optional(self.answer, fields)
        if not answer.strip() and self.boxed_in:
            answer = boxed(_optional(self.boxed_in, fields)) or ""
        if self.answer_after and self.answer_after in answer:
            answer = answer.rpartition(self.answer_after)[2]
        elif self.marker_needed:
            raise IbpoError(
                f"{place}: the answer holds no {self.answer_after!r}, which it should follow; fix the row or "
                "data.answer_after"
            )
        if self.judge != "code":
            answer = answer.strip()
        if answer.strip() or self.cases:
            return answer
        if self.may_lack_answers:
            return None
        raise _missing(place, fields, self.answer, "answer")

    def _tests(self, row: Row) -> str:
        place, fields = row
        if not self.tests:
            return ""
        value = next((fields[name] for name in self.tests if name in fields), None)
        given = value if isinstance(value, list) else [value]
        lines = [line for line in given if isinstance(line, str) and line.strip()]
        if not lines or len(lines) < len(given):
            raise _missing(place, fields, self.tests, "tests")
        call = _optional(self.entry_point, fields)
        return "\n".join([*lines, *([f"check({call})"] if call else [])])

    def _form(self, fields: dict[str, Any]) -> str:
        """What a program of LiveCodeBench has to look like."""
        starter = _optional(self.starter, fields).strip()
        if starter:
            return f"Begin with this code:\n\n```python\n{starter}\n```"
        return "The program reads its input from stdin and prints its answer to stdout."

    def _contest(self, row: Row) -> dict[str, Any]:
        """The cases of a problem of LiveCodeBench, all of one kind, and the function's name where they are calls."""
        place, fields = row
        cases = [case for name in self.cases if fields.get(name) for case in _read_cases(name, row)]
        if not cases:
            raise _missing(place, fields, self.cases, "cases")
        kinds = {case["testtype"] for case in cases}
        if len(kinds) > 1:
            raise IbpoError(f"{place}: has tests of two kinds, stdin and functional; split the row")
        if kinds == {"stdin"}:
            return {"cases": cases}
        name = _metadata(row).get("func_name")
        if not isinstance(name, str) or not name.isidentifier():
            raise IbpoError(f"{place}: field 'metadata' names no function; write {{\"func_name\": NAME}}")
        return {"cases": cases, "fn_name": name}

    def _prompt(self, parts: Mapping[str, str]) -> str:
        """The template filled in at once: what is in a part is its text, `{problem}` too."""
        return re.sub(r"\{(form|tests|problem)\}", lambda found: parts[found[1]], self.template)

    def _messages(self, row: Row) -> list[dict[str, str]]:
        """The problem as messages of a chat, of which the last is the user's."""
        place, fields = row
        name = next((name for name in self.problem if fields.get(name) is not None), "")
        if name and isinstance(fields[name], list):
            return _read_chat(name, row)
        text = _optional(self.problem, fields)
        if not text.strip():
            raise _missing(place, fields, self.problem, "problem")
        return [{"role": "user", "content": text}]


def _read_chat(name: str, row: Row) -> list[dict[str, str]]:
    """A prompt as TRL's data sets have it: a list of messages, each of role and content."""
    place, fields = row
    messages: list[dict[str, str]] = []
    for number, message in enumerate(fields[name], start=1):
        where = f"{place}: field {name!r}, message {number}"
        # Parquet gives every message the keys of all, with nothing in them.
        given = {k: v for k, v in message.items() if v is not None} if isinstance(message, dict) else {}
        if not all(isinstance(given.get(key), str) for key in ("role", "content")):
            raise IbpoError(f"{where}: needs texts role and content, got {str(message)[:60]}; fix it")
        if more := sorted(given.keys() - {"role", "content"}):
            raise IbpoError(f"{where}: holds {more[0]!r}, and a prompt is of role and content alone; remove it")
        messages.append(given)
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise IbpoError(
            f"{place}: field {name!r}: a chat must end with a message of the user, which the policy responds to; "
            "remove what follows it"
        )
    return messages


def _optional(names: Iterable[str], fields: dict[str, Any]) -> str:
    value = next((fields[name] for name in names if fields.get(name) is not None), "")
    if isinstance(value, float | Decimal) and not math.isfinite(value):  # how tables write that there is nothing
        return ""
    if isinstance(value, Decimal):  # a data base's number
        return format(value.to_integral_value() if value == value.to_integral_value() else value, "f")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:  # a column of whole numbers with gaps
        value = int(value)
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


TEST_KINDS = ("stdin", "functional")


def _read_cases(name: str, row: Row) -> list[dict[str, str]]:
    place, fields = row
    text = fields[name]
    try:
        cases = json.loads(text) if isinstance(text, str) else text
    except json.JSONDecodeError:
        raise IbpoError(
            f"{place}: field {name!r} is not JSON. LiveCodeBench's lite edition compresses and pickles it, and "
            "unpickling runs whatever the file says, so ibpo does not; take livecodebench/code_generation, whose field "
            "is JSON, or convert it on a throw-away machine by "
            "json.loads(pickle.loads(zlib.decompress(base64.b64decode(field)))), or leave it out"
        ) from None
    if not isinstance(cases, list):
        raise IbpoError(f"{place}: field {name!r} holds no list of tests; fix it")
    for number, case in enumerate(cases, start=1):
        if not isinstance(case, dict) or not all(isinstance(case.get(key), str) for key in ("input", "output")):
            raise IbpoError(f"{place}: field {name!r}, test {number}: needs texts input and output; fix it")
        if case.get("testtype") not in TEST_KINDS:
            raise IbpoError(f"{place}: field {name!r}, test {number}: testtype is neither stdin nor functional; fix it")
        if case["testtype"] == "functional":
            try:
                for line in [*case["input"].split("\n"), case["output"]]:
                    json.loads(line or "null")
            except json.JSONDecodeError:
                raise IbpoError(
                    f"{place}: field {name!r}, test {number}: arguments, one a line, and result must be JSON; fix it"
                ) from None
    return [{key: case[key] for key in ("input", "output", "testtype")} for case in cases]


def _metadata(row: Row) -> dict[str, Any]:
    metadata = row[1].get("metadata")
    try:
        found = json.loads(metadata) if isinstance(metadata, str) else metadata
    except json.JSONDecodeError:
        raise IbpoError(f"{row[0]}: field 'metadata' is not JSON; fix it") from None
    return found if isinstance(found, dict) else {}


def _missing(place: str, fields: dict[str, Any], names: tuple[str, ...], what: str) -> IbpoError:
    present = [name for name in names if name in fields]
    value = next((fields[name] for name in present if fields[name] is not None), None)
    if what in ("answer", "problem") and value is not None and not isinstance(value, str | float | Decimal):
        return IbpoError(f"{place}: field {present[0]!r} holds {str(value)[:40]}; text or a number is needed")
    if present:
        return IbpoError(f"{place}: field {present[0]!r}: there is nothing for the {what}; fix or remove the row")
    known = ", ".join(map(str, fields)) or "none"
    return IbpoError(
        f"{place}: no field {' or '.join(names)} for the {what}; the row's fields are {known}: name one of them "
        f"with data.{what}, on the command line --set data.{what}=FIELD"
    )


MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
GSM8K_SOURCE = Source(
    name="openai/gsm8k", configs=("main",), split="test", revision="e53f048856ff4f594e959d75785d2c2d37b678ee"
)
GSM8K = Task(name="gsm8k", answer_after="####", problem_id=("id",), level=("level",), source=GSM8K_SOURCE)
GSM8K_TRAIN = replace(GSM8K, name="gsm8k_train", source=replace(GSM8K_SOURCE, split="train"))
MATH_TRAIN = Task(
    name="math_train",
    boxed_in=("solution",),
    problem_id=("id", "unique_id"),
    level=("level",),
    domain=("subject", "type"),
    may_lack_answers=True,  # two of 7,500 in one published copy
    source=Source(
        name="EleutherAI/hendrycks_math",
        configs=MATH_SUBJECTS,
        split="train",
        revision="21a5633873b6a120296cce3e2df9d5550074f4a3",
    ),
)
MATH_500 = Task(
    name="math_500",
    problem_id=("unique_id", "id"),
    level=("level",),
    domain=("subject", "type"),
    source=Source(name="HuggingFaceH4/MATH-500", split="test", revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
)
AIME_24 = Task(
    name="aime_24",
    problem_id=("id",),
    source=Source(name="HuggingFaceH4/aime_2024", split="train", revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a"),
)
AIME_25 = Task(
    name="aime_25",
    problem_id=("id",),
    source=Source(name="math-ai/aime25", split="test", revision="563bb8404243c5f09de6ec262f2db674fe5bce9b"),
)
AMC_23 = Task(
    name="amc_23",
    problem_id=("id",),
    source=Source(name="math-ai/amc23", split="test", revision="80815d37005feb82cd7f8fbc6901d5d3eff43057"),
)
HUMANEVAL = Task(
    name="humaneval",
    judge="code",
    problem=("prompt",),
    answer=("canonical_solution",),
    problem_id=("id", "task_id"),
    tests=("test",),
    setup=("prompt",),
    entry_point=("entry_point",),
    template="Complete this Python function:\n\n```python\n{problem}\n```\n\n"
    "Give the whole function in one ```python block.",
    source=Source(name="openai/openai_humaneval", split="test", revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"),
)
MBPP = Task(
    name="mbpp",
    judge="code",
    problem=("text", "prompt"),
    answer=("code",),
    problem_id=("id", "task_id"),
    tests=("test_list",),
    test_setup=("test_setup_code",),
    template="{problem}\n\nYour code should pass these tests:\n\n```python\n{tests}\n```\n\n"
    "Give the whole program in one ```python block.",
    source=Source(
        name="google-research-datasets/mbpp",
        configs=("full",),
        split="test",
        revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
    ),
)
LIVECODEBENCH = Task(
    name="livecodebench",
    judge="code",
    problem=("question_content",),
    answer=("answer", "code"),  # not published; for rows of your own
    problem_id=("question_id", "id"),
    level=("difficulty",),
    domain=("platform",),
    cases=("public_test_cases", "private_test_cases"),
    starter=("starter_code",),
    template="{problem}\n\n{form}\n\nGive the whole program in one ```python block.",
    source=Source(
        name="livecodebench/code_generation_lite",
        configs=("release_v6",),
        split="test",
        revision="48d36ed304dca42cf8ab20e941262ccd096518a3",
    ),
)
TASKS = {
    task.name: task
    for task in (
        *(GSM8K, GSM8K_TRAIN, MATH_TRAIN, MATH_500, AIME_24, AIME_25, AMC_23),
        *(HUMANEVAL, MBPP, LIVECODEBENCH),
    )
}
"""Name -> a shipped task."""


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
    """Draw problems of one split without end, levels drawn by the task's mix or by another; repeats are possible."""
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
        ValueError: A level has fewer distinct problems.
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

    Code: the function under test, and every other, redefined to return a new object. Otherwise another last number, or
    a word put before an answer without digits. What a judge may rightly pass over is left alone: units, digits that
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
    r"""Judge each problem's own answer, boxed as in a response, and a perturbed one; skip problems without answers.

    Returns:
        Own answers that do not score 1, and perturbed ones that do not score 0.
    """
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
