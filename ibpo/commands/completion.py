"""`ibpo --show-completion` and `--install-completion` for a named shell, or the one that runs."""

from __future__ import annotations

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
