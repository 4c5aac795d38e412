"""The command line: parses, and calls one function."""

from __future__ import annotations

from typing import Annotated

import typer

from ibpo import __version__
from ibpo.commands.allocate import allocate_command
from ibpo.commands.calibrate import calibrate_command
from ibpo.commands.cold_start import cold_start_command
from ibpo.commands.demo import demo_command
from ibpo.commands.eval import eval_command
from ibpo.commands.groups import groups_app
from ibpo.commands.replay import replay_command
from ibpo.commands.report import report_command
from ibpo.commands.route import route_app
from ibpo.commands.serve import serve_command
from ibpo.commands.simulate import simulate_command
from ibpo.commands.task import task_app
from ibpo.commands.train import train_command

app = typer.Typer(
    name="ibpo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which response should each prompt get, so that the total stays inside an inference budget?",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ibpo {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    del version


app.command("demo")(demo_command)
app.command("cold-start")(cold_start_command)
app.command("train")(train_command)
app.command("eval")(eval_command)
app.command("report")(report_command)
app.command("allocate")(allocate_command)
app.command("calibrate")(calibrate_command)
app.command("simulate")(simulate_command)
app.command("serve")(serve_command)
app.command("replay")(replay_command)
app.add_typer(route_app, name="route")
app.add_typer(groups_app, name="groups")
app.add_typer(task_app, name="task")


def main() -> None:
    """Entry point of the `ibpo` script."""
    app()
