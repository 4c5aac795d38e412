"""`ibpo groups check`: response groups against a model's tokenizer and chat template, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibpo.commands.options import ResponseGroups, load_tokenizer, split_recipe
from ibpo.errors import IbpoError

if TYPE_CHECKING:
    from ibpo.responses import Format, Reading
    from ibpo.types import ResponseGroup

groups_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Response groups: how a response asks, looks and ends.",
)


@groups_app.callback()
def _root() -> None:
    pass


@groups_app.command("check", epilog="Example: ibpo groups check ./model --response-group thinking_on")
def check_command(
    model: Annotated[str, typer.Argument(help="A folder with a tokenizer, or a hub id.")],
    response_group: ResponseGroups = None,
) -> None:
    """Say whether response groups can be told apart, forced and read with a tokenizer and its chat template.

    Exit code 1 if there are errors.
    """
    from ibpo.responses import check_formats

    forms = _forms(*split_recipe(response_group or ()))
    findings = check_formats(forms, load_tokenizer(model))
    for finding in findings:
        typer.echo(f"{finding.level}: {finding.subject}: {finding.text}")
    count = {level: sum(finding.level == level for finding in findings) for level in ("error", "warning")}
    names = ", ".join(form.group.name for form in forms)
    typer.echo(f"{names} with {model}: {count['error']} errors, {count['warning']} warnings")
    if count["error"]:
        raise typer.Exit(1)


def _forms(names: list[str], recipe: Path | None) -> list[Format]:
    from ibpo.config import nearest, read_recipe
    from ibpo.responses import FORMATS, build_response_groups

    if recipe is not None:
        return [_as_format(group) for group in build_response_groups(read_recipe(recipe).response_group)]
    for name in names:
        if name not in FORMATS:
            raise IbpoError(f"--response-group {name}: no such response group; {nearest(name, FORMATS)}")
    return [FORMATS[name] for name in names or ("standard", "sequential_voting")]


def _as_format(group: ResponseGroup) -> Format:
    """A recipe's response group: well-formed where its reader finds an answer."""
    from ibpo.responses import Format, Reading, malformed

    def read(completion: str) -> Reading:
        answer = group.extract_answer(completion)
        return malformed("gives no answer") if answer is None else Reading(attempts=(answer,), answer=answer)

    return Format(group=group, read=read)
