"""`ibpo task check`: a task proves itself: its own answers score 1, perturbed ones 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer

from ibpo.config import nearest
from ibpo.errors import IbpoError
from ibpo.tasks.benchmarks import TASKS
from ibpo.tasks.check import check_task, judge_for
from ibpo.tasks.task import JudgeName, Task

SHOWN = 20
task_app = typer.Typer(no_args_is_help=True, help="Tasks: where problems come from.")


@task_app.callback()
def _root() -> None:
    pass


@task_app.command("check")
def check_command(
    name: Annotated[str, typer.Argument(help=f"{', '.join(TASKS)}; or a file or folder of your own.")],
    data: Annotated[Path | None, typer.Option(help="A local copy: .jsonl, .jsonl.gz, .parquet, or a folder.")] = None,
    problem: Annotated[str | None, typer.Option(help="Column with the problem.")] = None,
    answer: Annotated[str | None, typer.Option(help="Column with the answer.")] = None,
    tests: Annotated[str | None, typer.Option(help="Column with the tests of a program.")] = None,
    judge: Annotated[str | None, typer.Option(help="math, code or exact.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Check this many problems.")] = None,
    no_isolation: Annotated[
        bool, typer.Option("--no-isolation", help="Run programs with your own rights: on throw-away machines only.")
    ] = False,
) -> None:
    """Judge every problem's own answer and a slightly wrong one. Exit code 1 if a verdict is wrong."""
    try:
        task, path = _task(name, data)
        own = {"problem": problem, "answer": answer, "tests": tests}
        task = replace(task, **{key: (column,) for key, column in own.items() if column is not None})
        if judge is not None:
            if judge not in ("math", "code", "exact"):
                raise IbpoError(f"--judge {judge}: no such judge; {nearest(judge, ('math', 'code', 'exact'))}")
            task = replace(task, judge=cast(JudgeName, judge))
        if task.judge == "code" and not task.tests:
            raise IbpoError("--judge code: needs the column with the tests; name it with --tests")
        judging = judge_for(task.judge, isolate=not no_isolation)
        problems = task.load(path, limit=limit)
        failures = check_task(problems, task.judge, judging)
    except IbpoError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    for failure in failures[:SHOWN]:
        reward, reason = failure.judgement.reward, failure.judgement.reason
        typer.echo(f"{failure.problem_id}: {failure.kind} answer {failure.answer[:60]!r} scores {reward:g}: {reason}")
    if len(failures) > SHOWN:
        typer.echo(f"and {len(failures) - SHOWN} more")
    wrong = {kind: sum(f.kind == kind for f in failures) for kind in ("gold", "perturbed")}
    levels = len({p.level for p in problems if p.level})
    typer.echo(
        f"{task.name}: {len(problems)} problems, {levels} levels; own answers that do not score 1: {wrong['gold']}; "
        f"perturbed answers that do not score 0: {wrong['perturbed']}"
    )
    if failures:
        raise typer.Exit(1)


def _task(name: str, data: Path | None) -> tuple[Task, Path | None]:
    if name in TASKS:
        return TASKS[name], data
    path = Path(name).expanduser()
    if path.exists():
        return Task(name=path.name), path
    if data is not None:
        return Task(name=name), data
    raise IbpoError(f"{name}: is no task and no file; {nearest(name, TASKS)}")
