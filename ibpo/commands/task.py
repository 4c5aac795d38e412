"""`ibpo task check`: a task proves itself: its own answers score 1, perturbed ones 0."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ibpo.commands.options import Columns, read_pairs
from ibpo.config import JUDGES
from ibpo.errors import IbpoError

SHOWN = 20
COLUMNS = ("problem", "answer", "id", "level", "domain", "tests", "setup", "entry_point")
KEYS = ("data.config", "data.split", "data.answer_after", "data.template", "data.judge")
task_app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Tasks: where problems come from."
)


@task_app.callback()
def _root() -> None:
    pass


@task_app.command("check", epilog="Example: ibpo task check gsm8k --limit 100")
def check_command(
    name: Annotated[
        str,
        typer.Argument(
            help="gsm8k, math_500, humaneval, ...; a file or folder; hub:OWNER/NAME@COMMIT; or a recipe with [data]."
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="A local copy: .jsonl, .jsonl.gz, .parquet, or a folder.")] = None,
    columns: Columns = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="data.KEY=VALUE, as in a recipe: data.split=test, data.judge=exact; repeat."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Check this many problems.")] = None,
    no_isolation: Annotated[
        bool, typer.Option("--no-isolation", help="Run programs with your own rights: on throw-away machines only.")
    ] = False,
) -> None:
    """Judge every problem's own answer and a slightly wrong one. Exit code 1 if a verdict is wrong."""
    from ibpo.config import nearest
    from ibpo.tasks import build_judge, check_task, load_given, named_data

    own: dict[str, Any] = (
        _set(set_ or ()) | read_pairs(columns or (), COLUMNS, "--columns") | ({"limit": limit} if limit else {})
    )
    if (judge := own.get("judge")) and judge not in JUDGES:
        raise IbpoError(f"--set data.judge={judge}: no such judge; {nearest(str(judge), JUDGES)}")
    given, grader = named_data(name, data)
    given = given.model_copy(update=own)
    grader = grader.model_copy(update={"isolation": grader.isolation and not no_isolation})
    task, problems = load_given(given)
    failures = check_task(problems, task.judge, build_judge(given.judge or task.judge, grader))
    for failure in failures[:SHOWN]:
        reward, reason = failure.judgement.reward, failure.judgement.reason
        typer.echo(f"{failure.problem_id}: {failure.kind} answer {failure.answer[:60]!r} scores {reward:g}: {reason}")
    if len(failures) > SHOWN:
        typer.echo(f"and {len(failures) - SHOWN} more")
    wrong = {kind: sum(f.kind == kind for f in failures) for kind in ("gold", "perturbed")}
    without = sum(not p.answer.strip() for p in problems)
    levels = len({p.level for p in problems if p.level})
    typer.echo(
        f"{task.name}: {len(problems)} problems, {levels} levels; own answers that do not score 1: {wrong['gold']}; "
        f"perturbed answers that do not score 0: {wrong['perturbed']}"
        + (f"; without an own answer, so not checked: {without}" if without else "")
    )
    if failures:
        raise typer.Exit(1)


def _set(texts: Iterable[str]) -> dict[str, str]:
    """What `--set data.KEY=VALUE` says beside the columns."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in KEYS:
            raise IbpoError(f"--set {text}: needs KEY=VALUE with one of {', '.join(KEYS)}; columns by --columns")
        found[key.removeprefix("data.")] = value
    return found
