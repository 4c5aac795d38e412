"""The problems that a recipe or a command names: a shipped task, rows of one's own, or a data set on the hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from ibpo.config import DataConfig, DataRecipe, JudgeConfig, RecipeReader, RunConfig, nearest
from ibpo.errors import IbpoError
from ibpo.tasks.benchmarks import TASKS
from ibpo.tasks.task import JudgeName, Source, Task
from ibpo.types import Problem

HUB = "hub:"
PINNED = re.compile(r"([^/@]+/[^/@]+)@([0-9a-f]{40})")
COLD_START_TABLES = ("sample", "build", "gate", "sft", "template")
OWN = Task(name="own", problem_id=("id",), level=("level",), domain=("domain", "subject", "type"))
"""Which columns are tried for what, where the user names none."""
COLUMNS = {"id": "problem_id", "problem": "problem", "answer": "answer", "level": "level", "domain": "domain",
           "tests": "tests", "setup": "setup", "entry_point": "entry_point"}  # fmt: skip
"""Key of `[data]` -> field of `Task`."""


def load_given(data: DataConfig) -> tuple[Task, list[Problem]]:
    """The task that is meant, its columns and judge as the user names them, and its problems.

    Raises:
        IbpoError: names key or place, column and mend.
    """
    task, path = _task(data)
    named = {key: getattr(data, key) for key in COLUMNS if getattr(data, key)}
    more: dict[str, Any] = {COLUMNS[key]: (column,) for key, column in named.items()}
    if data.answer_after:
        more |= {"answer_after": data.answer_after, "marker_needed": True}
    if data.template:
        more["template"] = data.template
    if data.judge in get_args(JudgeName):
        more["judge"] = cast(JudgeName, data.judge)
    task = replace(task, named=tuple(named.values()), **more)
    if task.judge == "code" and not task.tests:
        raise IbpoError(
            f"{task.name}: names no column with tests, which judging programs needs; write data.tests in a recipe"
        )
    return task, task.load(path, limit=data.limit)


def read_problems(data: DataConfig) -> tuple[list[Problem], list[Problem], str]:
    """Problems to train on, those held out, and the name of their judge; see `load_given` and `hold_out`."""
    task, problems = load_given(data)
    return *hold_out(problems, data.holdout), data.judge or task.judge


def read_data_recipe(path: Path) -> tuple[DataConfig, JudgeConfig]:
    """`[data]` and `[judge]` of any recipe, be it of these tables alone.

    Raises:
        IbpoError: names file, key and mend.
    """
    reader = RecipeReader(path, (), DataRecipe)
    known = {*RunConfig.model_fields, *COLD_START_TABLES}
    for key in reader.tables:
        if key not in known:
            reader.fail(key, f"unknown table; {nearest(key, known)}")
    reader.tables = {key: table for key, table in reader.tables.items() if key in DataRecipe.model_fields}
    recipe = reader.read(DataRecipe)
    return recipe.data, recipe.judge


def named_data(name: str, path: Path | None = None, others: Sequence[str] = ()) -> tuple[DataConfig, JudgeConfig]:
    """What a command's argument means: a shipped task, a recipe, a file or folder, or `hub:OWNER/NAME@COMMIT`.

    Args:
        name: the argument.
        path: a local copy of the task, or the recipe's data elsewhere.
        others: what else the command knows by name.

    Raises:
        IbpoError: where it is none of these.

    Example:
        >>> named_data("gsm8k")[0].task, named_data("hub:me/mine@" + "0" * 40)[0].path[:11]
        ('gsm8k', 'hub:me/mine')
    """
    if name in TASKS:
        return DataConfig(task=name, path=str(path or "")), JudgeConfig()
    if name.endswith(".toml"):
        data, judge = read_data_recipe(Path(name))
        return data.model_copy(update={"path": str(path or data.path)}), judge
    if path is not None or name.startswith(HUB) or Path(name).expanduser().exists():
        return DataConfig(path=str(path or name)), JudgeConfig()
    raise IbpoError(f"{name}: is no task, recipe or file; {nearest(name, (*TASKS, *others))}")


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
                f"{data.path}: names no commit, so its problems may be others tomorrow; write hub:OWNER/NAME@COMMIT, "
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
