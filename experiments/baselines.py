"""Every other way of spending the budget, by name, on the embedded experiments' problems: one command, resumable.

python -m experiments.baselines --experiment both --seeds 3
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ibpo.errors import IbpoError

EXPERIMENTS = ("thinking", "voting")
NUM_PROBLEMS, NUM_VALIDATION, NUM_PROBE, NUM_CALIBRATION = 2_000, 1_000, 2_000, 4_096
QUICK_PROBLEMS, QUICK_VALIDATION, QUICK_PROBE, QUICK_STEPS = 200, 100, 200, 2


COMMAND = ("python", "-m", "experiments.baselines")
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def baselines(
    experiment: Annotated[str, typer.Option(help="Which embedded experiment: thinking, voting, or both.")] = "thinking",
    baseline: Annotated[
        list[str] | None, typer.Option(help="Run this baseline; may be repeated. Default: all.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds; results are averaged over them.")] = 1,
    num_steps: Annotated[
        int | None, typer.Option(min=1, help="Updates of each policy. Default: thinking 95, voting 60 or 30.")
    ] = None,
    num_problems: Annotated[
        int | None, typer.Option(min=1, help="Unseen problems. Default: the demo's where it lies there, else 2,000.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few minutes: too few updates and problems to say anything.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the run; a demo of that name is shown beside.")] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are stored.")] = Path("runs"),
    show: Annotated[bool, typer.Option("--list", help="Print the names of all baselines and exit.")] = False,
) -> None:
    """Run baselines on the problems of the demo: tuned on validation problems, judged on unseen ones, one page.

    IBPO's and RAFT's policies are those of a demo run of that name; what it lacks of them is trained here. Interrupted,
    it goes on where it was when it is called again.
    """
    try:
        from experiments.recipes import NAMES, recipes_of

        if show:
            typer.echo("\n".join(NAMES))
            return
        if experiment not in (*EXPERIMENTS, "both"):
            raise IbpoError(f"--experiment: {experiment!r} is none of thinking, voting, both")
        wanted = tuple(name for name in NAMES if name in (baseline or NAMES))
        recipes_of(baseline or [])
        experiments = EXPERIMENTS if experiment == "both" else (experiment,)
        run_dir = runs / (name or f"{experiment}{'-quick-baselines' if quick else ''}")
        console, started = Console(), time.time()
        from experiments.page import write_outcome
        from experiments.run import BaselineSettings, check_settings, run_baselines, shorter
        from experiments.training_cost import NUM_STEPS
        from ibpo.runs import note_call

        steps = {name: num_steps or (QUICK_STEPS if quick else NUM_STEPS[name]) for name in experiments}
        settings = BaselineSettings(
            experiments=experiments,
            baselines=wanted,
            seeds=tuple(range(seeds)),
            num_problems=num_problems or (QUICK_PROBLEMS if quick else _problems_of_demo(run_dir) or NUM_PROBLEMS),
            num_validation=QUICK_VALIDATION if quick else NUM_VALIDATION,
            num_probe=QUICK_PROBE if quick else NUM_PROBE,
            num_steps=tuple(steps.values()),
            num_steps_of_others=tuple(n if num_steps or quick else shorter(n, e) for e, n in steps.items()),
            num_steps_of_demo=QUICK_STEPS if quick else None,
            num_calibration=QUICK_PROBLEMS if quick else NUM_CALIBRATION,
        )
        check_settings(run_dir, settings)
        note_call(run_dir, settings.seeds, COMMAND)
        run_baselines(run_dir, settings, console)
        write_outcome(run_dir, settings, console, seconds=time.time() - started)
    except IbpoError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed: pip install -e '.[demo,router]'")
    except OSError as error:
        _fail(f"{runs}: {error.strerror or error}")
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on", err=True)
        raise typer.Exit(130) from None


def _problems_of_demo(run_dir: Path) -> int | None:
    """Of a demo that lies there: its responses are to these problems, and are not sampled again."""
    try:
        return int(json.loads((run_dir / "settings.json").read_text(encoding="utf-8"))["num_problems"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def _fail(message: str) -> None:
    typer.echo(f"baselines: {message}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
