"""`ibpo demo`: the main job from the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ibpo.budget import check_budget, parse_budget
from ibpo.commands.completion import words
from ibpo.errors import IbpoError
from ibpo.terminal import plain_console

EXTENDED = "extended"
BUDGETS = (0.25, 0.5, 0.75)
EXPERIMENTS = ("thinking", "voting")
REAL = "smollm2"
QUICK_STEPS, QUICK_PROBLEMS = 30, 600
NUM_PROBLEMS, NUM_CALIBRATION = 4_000, 4_096
REAL_SIZES = {"num_problems": 400, "num_calibration": 400, "num_taught": 300, "num_train": 400}
REAL_QUICK = {"num_problems": 60, "num_calibration": 60, "num_taught": 60, "num_train": 60}
"""Sizes of the experiment with a real model, whose responses cost a thousand times as much."""


def demo_command(
    experiment: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=words("thinking", "voting", "both", "smollm2"),
            help="thinking, voting, or both; or smollm2: a real model, see --model.",
        ),
    ] = "thinking",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="For --experiment smollm2: its folder, as `ibpo models get smollm2` makes it. Default: "
            "models/smollm2.",
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="extended=PERCENT",
            autocompletion=words("extended=25%", "extended=50%", "extended=75%"),
            help="extended=50%: largest share of the problems answered by extended reasoning, in percent of the "
            "problems; repeat. Default: 25%, 50% and 75%.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, max=1000, help="Number of seeds; results are averaged over them.")
    ] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="About a minute: fewer updates, fewer problems. The numbers are then rough.")
    ] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Remake the embedded model first, instead of using the shipped one.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the run; an interrupted run of that name goes on. Default: the experiment's."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder that holds the runs.")] = Path("runs"),
) -> None:
    """Train a tiny language model to think long only where it pays, inside a budget, and show what came out.

    Interrupted, it goes on where it was when it is called again.
    """
    if experiment not in (*EXPERIMENTS, "both", REAL):
        raise IbpoError(f"--experiment: {experiment!r} is not one of thinking, voting, both, {REAL}")
    if experiment != REAL and model is not None:
        raise IbpoError(f"--model: is of --experiment {REAL}; {experiment} has a model of its own: leave it out")
    model = model or "models/smollm2"
    if experiment == REAL:
        if from_scratch:
            raise IbpoError("--from-scratch: remakes an embedded model; others made this one: leave it out")
        if not Path(model).expanduser().is_dir():
            raise IbpoError(f"--model: {model}: no such folder; make it: ibpo models get smollm2 --out {model}")
    budgets = read_budgets(budget or [])
    run_dir = runs / (name or f"{experiment}{'-quick' if quick else ''}{'-from-scratch' if from_scratch else ''}")
    console = plain_console()
    started = time.monotonic()
    try:
        from ibpo.demo import DemoSettings, check_settings, plan_jobs, plan_real_jobs, run_jobs, write_outcome
        from ibpo.runs import note_call, working_in

        sizes: dict[str, Any] = {
            "num_problems": QUICK_PROBLEMS if quick else NUM_PROBLEMS,
            "num_calibration": NUM_CALIBRATION,
        }
        if experiment == REAL:
            sizes = (REAL_QUICK if quick else REAL_SIZES) | {"model": str(Path(model).expanduser().resolve())}
        settings = DemoSettings(
            experiments=EXPERIMENTS if experiment == "both" else (experiment,),
            budgets=budgets,
            seeds=tuple(range(seeds)),
            **sizes,
            num_steps=QUICK_STEPS if quick else None,
            from_scratch=from_scratch,
        )
        with working_in(run_dir):
            check_settings(run_dir, settings)
            note_call(run_dir, settings.seeds)
            run_jobs((plan_real_jobs if experiment == REAL else plan_jobs)(run_dir, settings), console)
            write_outcome(run_dir, settings, console, seconds=time.monotonic() - started)
    except ModuleNotFoundError as error:
        raise IbpoError(f"{error.name} is not installed: pip install 'ibpo[demo]'") from None
    except OSError as error:
        raise IbpoError(f"{run_dir}: {error.strerror or error}") from None
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the same command goes on from {run_dir}", err=True)
        raise typer.Exit(130) from None


def read_budgets(texts: list[str]) -> tuple[float, ...]:
    """The shares that the demo's policy is moved to, each for itself.

    Raises:
        IbpoError: for what is no largest share of extended reasoning.
    """
    only = "the demo's budgets are largest shares of extended reasoning, e.g. extended=50%"
    refused = {"cost": only, "at_least": only, "slice": only}
    budgets = [parse_budget(text) for text in texts]
    for budget in budgets:
        check_budget(budget, groups=(EXTENDED,), refused=refused)
    return tuple(sorted({float(budget.amount) for budget in budgets})) or BUDGETS
