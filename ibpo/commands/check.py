"""`ibpo groups check` and `ibpo task check`: what a run stands on proves itself, before anything is trained or paid.

Response groups against a model's tokenizer and chat template; a task by its own answers, which score 1, and perturbed
ones, which score 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibpo.commands.completion import tasks
from ibpo.commands.options import ResponseGroups, SetData, load_tokenizer, split_recipe
from ibpo.commands.plain_help import PlainCommand, PlainGroup
from ibpo.errors import IbpoError

if TYPE_CHECKING:
    from ibpo.responses import Format, Reading
    from ibpo.types import ResponseGroup

groups_app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Response groups: how a response asks, looks and ends.",
)


@groups_app.callback()
def _groups_root() -> None:
    pass


@groups_app.command("check", cls=PlainCommand, epilog="Example: ibpo groups check ./model --response-group thinking_on")
def check_groups(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder with a tokenizer, or a hub id.")],
    response_group: ResponseGroups = None,
) -> None:
    """Check that response groups can be distinguished, forced and read with a tokenizer and its chat template.

    Exit code 1 if there are errors.
    """
    from ibpo.responses import check_formats

    forms, options, where = _forms(*split_recipe(response_group or ()))
    findings = check_formats(forms, load_tokenizer(model), options, where=where)
    for finding in findings:
        typer.echo(f"{finding.level}: {finding.subject}: {finding.text}")
    count = {level: sum(finding.level == level for finding in findings) for level in ("error", "warning")}
    names = ", ".join(form.group.name for form in forms)
    typer.echo(f"{names} with {model}: {count['error']} errors, {count['warning']} warnings")
    if count["error"]:
        raise typer.Exit(1)


def _forms(names: list[str], recipe: Path | None) -> tuple[list[Format], dict[str, Any], str]:
    """The response groups, and the options of the chat template that a recipe renders its prompts with; their key."""
    from ibpo.config import COLD_START_TABLES, RecipeReader, RunConfig, nearest, read_recipe
    from ibpo.responses import FORMATS, build_response_groups

    where = "trl.chat_template_kwargs"
    if recipe is not None:
        if {*COLD_START_TABLES} & {*RecipeReader(recipe, (), RunConfig).tables}:
            return *_forms_of_cold_start(recipe), "template"
        config = read_recipe(recipe)
        options = dict(config.trl.get("chat_template_kwargs") or {})
        return [_as_format(group) for group in build_response_groups(config.response_group)], options, where
    for name in names:
        if name not in FORMATS:
            raise IbpoError(f"--response-group {name}: no such response group; {nearest(name, FORMATS)}")
    return [FORMATS[name] for name in names or ("standard", "sequential_voting")], {}, where


def _forms_of_cold_start(recipe: Path) -> tuple[list[Format], dict[str, Any]]:
    """The response groups that a cold start teaches, and its options of the chat template."""
    from ibpo.responses import FORMATS, FORMS, build_response_groups
    from ibpo.training import read_cold_start_recipe

    config = read_cold_start_recipe(recipe)
    form = FORMS[config.build.form]
    groups = build_response_groups(config.response_group) or [form.standard, form.voting]
    shipped = {form.group: form for form in FORMATS.values()}
    return [shipped.get(group) or _as_format(group) for group in groups], dict(config.template)


def _as_format(group: ResponseGroup) -> Format:
    """A recipe's response group: well-formed where its reader finds an answer."""
    from ibpo.responses import Format, Reading, malformed

    def read(completion: str) -> Reading:
        answer = group.extract_answer(completion)
        return malformed("gives no answer") if answer is None else Reading(attempts=(answer,), answer=answer)

    return Format(group=group, read=read)


SHOWN = 20
task_app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Tasks: where problems come from.",
)


@task_app.callback()
def _task_root() -> None:
    pass


@task_app.command("check", cls=PlainCommand, epilog="Example: ibpo task check gsm8k --set data.limit=100")
def check_task_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            autocompletion=tasks,
            help="gsm8k, math_500, humaneval, ...; a file or folder; hub:OWNER/NAME@COMMIT; or a recipe with [data].",
        ),
    ],
    set_: SetData = None,
) -> None:
    """Judge every problem's own answer and a slightly wrong one. Exit code 1 if a verdict is wrong."""
    from ibpo.tasks import build_judge, check_task, load_given, named_data

    given, grader = named_data(name, set_ or ())
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
