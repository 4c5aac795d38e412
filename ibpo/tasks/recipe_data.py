"""What a recipe or a command names: its problems, and who judges the responses to them.

Problems come from a shipped task, from rows of your own, or from a data set on the hub.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from ibpo.config import ConstraintsConfig, DataConfig, DataRecipe, JudgeConfig, RecipeReader, RunConfig, nearest
from ibpo.endpoint import Endpoint, read_api_key
from ibpo.errors import IbpoError
from ibpo.responses import FORMATS, find_group, messages_before
from ibpo.rewards import (
    CORRECTNESS,
    GIVES_ANSWER,
    AtLeast,
    Candidate,
    Constraint,
    LLMJudge,
    MixtureOfJudges,
    Rule,
    free_of,
    in_script,
)
from ibpo.tasks.task import TASKS, JudgeName, Source, Task, judge_for
from ibpo.types import Problem, ResponseGroup

HUB = "hub:"
PINNED = re.compile(r"([^/@]+/[^/@]+)@([0-9a-f]{40})")
COLD_START_TABLES = ("sample", "build", "gate", "sft", "template")

OWN = Task(
    name="own",
    problem=("problem", "question", "prompt"),
    problem_id=("id",),
    level=("level",),
    domain=("domain", "subject", "type"),
)
"""Which columns are tried for what, where the user names none."""

COLUMNS = {"id": "problem_id", "problem": "problem", "answer": "answer", "level": "level", "domain": "domain",
           "tests": "tests", "setup": "setup", "entry_point": "entry_point"}  # fmt: skip
"""Key of `[data]` -> field of `Task`."""


def load_given(data: DataConfig, kept: Sequence[str] = ()) -> tuple[Task, list[Problem]]:
    """Load the task that a recipe names: its columns and judge as the user names them, and its problems.

    Args:
        data: what a recipe says of them.
        kept: further columns, which go along in `Problem.info["columns"]`.

    Raises:
        IbpoError: names key or place, column and fix.
    """
    task, path = _task(data)
    named = {key: getattr(data, key) for key in COLUMNS if getattr(data, key)}
    more: dict[str, Any] = {COLUMNS[key]: (column,) for key, column in named.items()}
    if data.answer_after:
        more |= {"answer_after": data.answer_after, "marker_needed": True}
    if data.template:
        if "{problem}" not in data.template:  # every prompt would be the same
            raise IbpoError(
                f"data.template: {data.template[:60]!r} does not hold {{problem}}, where the problem's text goes, "
                "whatever its column is called; write it in"
            )
        more["template"] = data.template
    if data.judge in get_args(JudgeName):
        more["judge"] = cast(JudgeName, data.judge)
    task = replace(task, named=(*named.values(), *kept), kept=tuple(kept), **more)
    if task.judge == "code" and not (task.tests or task.cases):
        raise IbpoError(
            f"{task.name}: names no column with tests, which judging programs needs; write data.tests in a recipe"
        )
    problems = task.load(path, limit=data.limit)
    if data.system or data.examples:
        problems = [replace(problem, prompt=_with_messages_before(problem, data)) for problem in problems]
    return task, problems


def _with_messages_before(problem: Problem, data: DataConfig) -> list[dict[str, str]]:
    """`data.system`, or the problem's own system message; `data.examples`; the problem."""
    chat = [{"role": "user", "content": problem.prompt}] if isinstance(problem.prompt, str) else problem.prompt
    num_system = int(chat[0]["role"] == "system")
    if num_system and data.system:
        raise IbpoError(
            f"data.system: problem {problem.problem_id} has a system message of its own; leave data.system out, or "
            "remove the rows' own"
        )
    before = messages_before(data.system, [example.model_dump() for example in data.examples])
    return [*chat[:num_system], *before, *chat[num_system:]]


def read_problems(data: DataConfig, kept: Sequence[str] = ()) -> tuple[list[Problem], list[Problem], str]:
    """Problems to train on, those held out, and the name of their judge; see `load_given` and `hold_out`."""
    task, problems = load_given(data, kept)
    return *hold_out(problems, data.holdout), data.judge or task.judge


def named_data(name: str, overrides: Sequence[str] = (), others: Sequence[str] = ()) -> tuple[DataConfig, JudgeConfig]:
    """What a command's argument means: a shipped task, a recipe, a file or folder, or `hub:OWNER/NAME@COMMIT`.

    Args:
        name: the argument; of a recipe only `[data]` and `[judge]` count, and it needs no more.
        overrides: `data.KEY=VALUE` and `judge.KEY=VALUE`, as in a recipe; `data.path` may name a copy of the task.
        others: what else the command knows by name.

    Raises:
        IbpoError: where it is not one of these, or names file (or override), key and fix.

    Example:
        >>> named_data("gsm8k")[0].task, named_data("hub:me/mine@" + "0" * 40)[0].path[:11]
        ('gsm8k', 'hub:me/mine')
    """
    tables: dict[str, Any] | None = None
    if name in TASKS or name in others:
        tables = {"data": {"task": name}}
    elif not name.endswith(".toml"):
        tables = {"data": {"path": name}}
    for text in overrides:
        if text.partition(".")[0].strip() not in ("data", "judge"):
            raise IbpoError(f"--set {text}: needs data.KEY=VALUE or judge.KEY=VALUE, as in a recipe")
    reader = RecipeReader(Path(name), overrides, DataRecipe, tables)
    own = tables is not None and "path" in tables["data"] and "data.path" not in reader.overridden
    if own and not name.startswith(HUB) and not Path(name).expanduser().exists():
        raise IbpoError(f"{name}: is not a task, recipe or file; {nearest(name, (*TASKS, *others))}")
    known = {*RunConfig.model_fields, *COLD_START_TABLES}
    for key in reader.tables:
        if key not in known:
            reader.fail(key, f"unknown table; {nearest(key, known)}")
    reader.tables = {key: table for key, table in reader.tables.items() if key in DataRecipe.model_fields}
    recipe = reader.read(DataRecipe)
    return recipe.data, recipe.judge


def hold_out(problems: Sequence[Problem], num_problems: int) -> tuple[list[Problem], list[Problem]]:
    """Split off problems for evaluation: (training, held out).

    A hash of the id decides, so the same problems are held out whatever the seed. Problems whose text is also a
    held-out problem's are left out of training.

    Example:
        >>> rows = [Problem(problem_id=str(i), prompt=f"{i} + 1 =", answer=str(i + 1)) for i in range(5)]
        >>> [len(part) for part in hold_out(rows, 2)]
        [3, 2]
    """
    order = sorted(problems, key=lambda p: hashlib.blake2b(p.problem_id.encode(), digest_size=8).digest())
    held_out = order[:num_problems]
    ids, texts = {p.problem_id for p in held_out}, {str(p.prompt) for p in held_out}
    training = [p for p in problems if p.problem_id not in ids and str(p.prompt) not in texts]
    return training, held_out


def _task(data: DataConfig) -> tuple[Task, Path | None]:
    if data.task and data.task not in TASKS:
        raise IbpoError(f"data.task: no task {data.task!r}; {nearest(data.task, TASKS)}")
    task = TASKS[data.task] if data.task else OWN
    if data.path.startswith(HUB):
        pinned = PINNED.fullmatch(data.path.removeprefix(HUB))
        if pinned is None:
            raise IbpoError(
                f"{data.path}: names no commit, so its problems may change; write hub:OWNER/NAME@COMMIT, "
                "with the commit's 40 digits (on the data set's page: Files, History)"
            )
        source = Source(name=pinned[1], revision=pinned[2], split=data.split or "train", configs=(data.config,))
        return replace(task, name=data.task or pinned[1], source=source), None
    if data.split or data.config:  # of a folder, or of the shipped task's own source
        old = task.source or Source(name=data.path, revision="", split="")
        configs = (data.config,) if data.config else old.configs
        task = replace(task, source=replace(old, split=data.split or old.split, configs=configs))
    if not data.path:
        return task, None
    path = Path(data.path).expanduser()
    return replace(task, name=data.task or path.name), path


NOTHING_MORE = ConstraintsConfig()


def build_judge(
    name: str,
    judge: JudgeConfig,
    constraints: ConstraintsConfig = NOTHING_MORE,
    response_groups: Sequence[ResponseGroup] = (),
) -> MixtureOfJudges:
    """Make the judge of a recipe; a truncated response is not shown to it, gets 0 and violates `truncated`.

    Args:
        name: `math`, `exact`, `code` or `llm`.
        judge: the language model, for `llm` and for a rubric among the constraints; and whether programs are confined.
        constraints: what a response must keep to be imitated.
        response_groups: of the recipe, for `constraints.format`.

    Raises:
        IbpoError: names the key and the fix.
    """
    if name == "llm":
        gives = _language_model(judge, judge.rubric)
    else:
        gives = judge_for(cast(JudgeName, name), isolate=judge.isolation)
    return MixtureOfJudges(rewards={name: gives}, constraints=_constraints(constraints, judge, response_groups))


def _constraints(
    config: ConstraintsConfig, judge: JudgeConfig, response_groups: Sequence[ResponseGroup]
) -> list[Constraint]:
    found: list[Constraint] = [GIVES_ANSWER] if config.answered else []
    if config.format:
        found.append(_format(response_groups))
    if config.script:
        try:
            found.append(in_script(config.script, share=config.script_share))
        except IbpoError as error:
            raise IbpoError(f"constraints.script: {error}") from None
    if config.free_of:
        try:
            found.append(free_of(config.free_of))
        except IbpoError as error:
            raise IbpoError(f"constraints.free_of: {error}") from None
    if config.rubric:
        found.append(AtLeast(name="rubric", judge=_language_model(judge, config.rubric, scale=1)))
    return found


def _format(response_groups: Sequence[ResponseGroup]) -> Rule:
    unknown = [group.name for group in response_groups if group.name not in FORMATS]
    if unknown:
        raise IbpoError(
            f"constraints.format: response group {unknown[0]!r} is not a shipped format "
            f"({', '.join(FORMATS)}); rename it "
            "or write false"
        )

    def check(candidate: Candidate) -> str | None:
        group = find_group(candidate.completion, response_groups)
        return "opens like no response group" if group is None else FORMATS[group.name].problem_of(candidate.completion)

    return Rule(name="format", check=check)


def _language_model(judge: JudgeConfig, rubric: str, scale: int | None = None) -> LLMJudge:
    if not (judge.base_url and judge.model):
        raise IbpoError(
            "judge.base_url: is needed for a language model as judge; write [judge] with base_url and model"
        )
    on_failure: Any = judge.on_failure
    return LLMJudge(
        Endpoint(
            base_url=judge.base_url,
            model=judge.model,
            api_key=read_api_key(judge.api_key_file, "judge.api_key_file"),
            num_concurrent=judge.num_concurrent,
        ),
        rubric=rubric or CORRECTNESS,
        scale=scale or judge.scale,
        on_failure=on_failure,
        show_reference=judge.show_reference,
        max_tokens=judge.max_tokens,
    )
