"""Shell completion: the script for each shell, and what is completed behind an option.

A shell asks after each press of the tab key, so nothing here loads more than the words' own room. Where nothing fits,
shells go on with file names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from ibpo.errors import IbpoError

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
BASH = r"""_ibpo_completion() {
    # Words as typed: bash itself ends a word at = and :, which KEY=VALUE and embedded:NAME hold.
    local line="${COMP_LINE:0:${COMP_POINT:-0}}" word prefix words IFS=' '
    [[ -n "$line" ]] || line="${COMP_WORDS[*]:0:COMP_CWORD+1}"
    read -ra words <<< "$line"
    local count=$(( ${#words[@]} - 1 ))
    [[ "$line" == *' ' ]] && count=${#words[@]}
    word="${words[count]}"
    IFS=$'\n'
    COMPREPLY=( $( env COMP_WORDS="$line" COMP_CWORD=$count _IBPO_COMPLETE=complete_bash "$1" ) )
    prefix="${word%"${word##*[=:]}"}"
    COMPREPLY=( "${COMPREPLY[@]#"$prefix"}" )
    # Behind KEY= a value follows, without a space.
    [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2> /dev/null
    return 0
}

complete -o default -F _ibpo_completion ibpo"""
"""In place of Typer's script, which completes no word with `=` or `:` in it."""


def show(shell: str) -> None:
    """Print the script that makes a shell complete."""
    from typer.completion import get_completion_script

    shell = _known(shell, "--show-completion")
    typer.echo(
        BASH if shell == "bash" else get_completion_script(prog_name="ibpo", complete_var="_IBPO_COMPLETE", shell=shell)
    )


def install(shell: str) -> None:
    """Write that script where the shell looks for it."""
    from typer.completion import install

    shell = _known(shell, "--install-completion")
    _, path = install(shell=shell, prog_name="ibpo", complete_var="_IBPO_COMPLETE")
    if shell == "bash":
        Path(path).write_text(BASH + "\n", encoding="utf-8")
    typer.echo(f"{shell} completion is in {path}; it works in the next terminal that you open")


def _known(shell: str, option: str) -> str:
    """The shell, or the one that runs.

    Raises:
        IbpoError: for one that is not supported.
    """
    if not shell:
        import shellingham  # Typer needs it

        try:
            shell = shellingham.detect_shell()[0]
        except shellingham.ShellDetectionFailure:
            raise IbpoError(f"{option}: which shell? Name it: ibpo {option} bash, zsh or fish") from None
    if shell not in SHELLS:
        raise IbpoError(f"{option} {shell}: no such shell; name one of {', '.join(SHELLS)}")
    return shell


# The words of a closed set, and keys of `KEY=VALUE`.


def words(*known: str) -> Callable[[str], list[str]]:
    """Completes one of these."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(incomplete, known)

    return complete


def keys(*known: str) -> Callable[[str], list[str]]:
    """Completes a key of `KEY=VALUE,KEY=VALUE` up to its `=`."""

    def complete(incomplete: str) -> list[str]:
        return _keys(incomplete, known)

    return complete


def response_groups(incomplete: str) -> list[str]:
    """The shipped response groups."""
    from ibpo.responses import FORMATS

    return _beginning(incomplete, FORMATS)


def tasks(incomplete: str) -> list[str]:
    """The shipped tasks."""
    from ibpo.tasks import TASKS

    return _beginning(incomplete, TASKS)


def eval_tasks(incomplete: str) -> list[str]:
    """The shipped tasks and the embedded experiments."""
    from ibpo.tasks import TASKS

    return _beginning(incomplete, ["thinking", "voting", *TASKS])


def real_models(incomplete: str) -> list[str]:
    """The models of `ibpo models get`."""
    from ibpo.demo import REAL_MODELS

    return _beginning(incomplete, REAL_MODELS)


def engine_keys(incomplete: str) -> list[str]:
    """The keys of `--engine`."""
    from ibpo.config import Engine

    return _keys(incomplete, Engine.model_fields)


def data_keys(incomplete: str) -> list[str]:
    """The keys of [data] and [judge] in a recipe."""
    from ibpo.config import DataRecipe

    return _keys(incomplete, _table_keys(DataRecipe, ("data", "judge")))


def recipe_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """The keys of a training's recipe, or of a cold start's."""
    if ctx.info_name == "cold-start":
        from ibpo.training import ColdStartConfig as Config
    else:
        from ibpo.config import RunConfig as Config
    return _keys(incomplete, _table_keys(Config, Config.model_fields))


def _table_keys(model: type, tables: Iterable[str]) -> list[str]:
    from pydantic import BaseModel

    assert issubclass(model, BaseModel)
    found: list[str] = []
    for table in tables:
        inner = model.model_fields[table].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += [f"{table}.{key}" for key in inner.model_fields]
    return found


def _keys(incomplete: str, known: Iterable[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{key}=" for key in _beginning(last, known)]


def _beginning(incomplete: str, known: Iterable[str]) -> list[str]:
    return [word for word in known if word.startswith(incomplete)]
