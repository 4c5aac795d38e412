"""Every other way of spending the budget, by name, on the embedded experiments' problems: one command, resumable.

    python -m experiments.baselines --experiment both --seeds 3

Work is split into jobs, each a process of its own; what a job has finished is never repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from experiments.context import BaselineJob, Context
from experiments.recipes import BUDGETS, NAMES, NUM_STEPS, PART_OF_OTHERS, RECIPES, recipes_of, to_tune
from ibpo.demo import (
    EXPERIMENTS,
    FORCED,
    OF_BUDGETS,
    RAFT_NAME,
    TRAINED,
    UNTRAINED,
    DemoJob,
    check_policies,
    model_path,
    run_jobs,
)
from ibpo.errors import IbpoError
from ibpo.runs import note_call, write_text_atomic

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
        int | None, typer.Option(min=1, help="Unseen problems. Default: the demo's, if it is there, else 2,000.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few minutes: too few updates and problems to say anything.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the run; a demo of that name is shown next to it.")] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are stored.")] = Path("runs"),
    show: Annotated[bool, typer.Option("--list", help="Print the names of all baselines and exit.")] = False,
) -> None:
    """Run baselines on the problems of the demo: tuned on validation problems, judged on unseen ones, one page.

    IBPO's and RAFT's policies are those of a demo run of that name; what it lacks of them is trained here. Interrupted,
    it goes on where it was when it is called again.
    """
    try:
        if show:
            typer.echo("\n".join(NAMES))
            return
        if experiment not in (*EXPERIMENTS, "both"):
            raise IbpoError(f"--experiment: {experiment!r} is not one of thinking, voting, both")
        wanted = tuple(name for name in NAMES if name in (baseline or NAMES))
        recipes_of(baseline or [])
        experiments = EXPERIMENTS if experiment == "both" else (experiment,)
        run_dir = runs / (name or f"{experiment}{'-quick-baselines' if quick else ''}")
        console, started = Console(), time.time()
        from experiments.page import write_outcome  # here, so that what is not installed gets its one line

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
        check_policies(run_dir)
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
        typer.echo("interrupted; the same command continues", err=True)
        raise typer.Exit(130) from None


KEPT = ("num_problems", "num_validation", "num_probe", "num_steps", "num_steps_of_others")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineSettings:
    """What a run consists of; its directory keeps this and refuses other numbers."""

    experiments: tuple[str, ...]
    baselines: tuple[str, ...]
    seeds: tuple[int, ...]
    num_problems: int
    num_validation: int
    num_probe: int
    num_steps: tuple[int, ...]
    """Updates of a policy that reinforcement learning trains, one number per experiment."""
    num_steps_of_others: tuple[int, ...]
    """The same of the policies without `Recipe.all_updates`."""
    num_steps_of_demo: int | None = None
    """Updates of IBPO and RAFT where no demo has trained them; None: the experiment's own number."""
    num_calibration: int = 4_096
    """Unlabelled prompts that IBPO's choice is calibrated on, as in a demo run."""

    def steps_of(self, experiment: str, name: str) -> int:
        """Updates of a policy, or of a candidate of its tuning."""
        recipe = RECIPES.get(name.partition("~")[0])
        steps = self.num_steps if recipe is None or recipe.all_updates else self.num_steps_of_others
        return steps[self.experiments.index(experiment)]


def shorter(num_steps: int, experiment: str) -> int:
    """Updates of the policies that cannot have all of them.

    Example:
        >>> shorter(60, "voting"), shorter(95, "thinking")
        (30, 95)
    """
    return max(1, round(PART_OF_OTHERS[experiment] * num_steps))


def check_settings(run_dir: Path, settings: BaselineSettings) -> None:
    """Keep the settings in the run directory, or refuse if it holds baselines (or a demo) with other numbers.

    Raises:
        IbpoError: names what differs, and the fix.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    asked = asdict(settings)
    for name in ("settings.json", "baselines-settings.json"):
        path = run_dir / name
        if not path.exists():
            continue
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise IbpoError(f"{path}: not readable ({error}); delete the directory or choose another --name") from None
        keys = ("num_problems",) if name == "settings.json" else KEPT
        if before.get("from_scratch"):
            raise IbpoError(f"{run_dir} holds a demo of a model remade from nothing: choose another --name")
        for key in keys:
            now, then = asked[key], before.get(key)
            if key.startswith("num_steps"):
                steps = dict(zip(settings.experiments, now, strict=True))
                old = dict(zip(before["experiments"], then or (), strict=False))
                now = {e: n for e, n in steps.items() if e in old}
                then = {e: n for e, n in old.items() if e in steps}
            if now != then:
                raise IbpoError(
                    f"{run_dir} holds a run with {key} = {then}, this one asks for {now}: choose another --name, "
                    "or delete the directory"
                )
    write_text_atomic(run_dir / "baselines-settings.json", json.dumps(asked, indent=2))


def run_baselines(run_dir: Path, settings: BaselineSettings, console: Console) -> None:
    """Sample the cold start, tune at the first seed, train and sample everything; two jobs at a time.

    Raises:
        IbpoError: if a job fails, with the end of what it said.
    """
    from experiments.jobs import CORRECT, PROBE, ROUTE

    recipes = recipes_of(settings.baselines)
    run_jobs([job for name in settings.experiments for job in _cold_start_jobs(run_dir, settings, name)], console)
    needs_probe = bool({ROUTE, "oracle-by-problem"} & set(settings.baselines)) or bool(recipes)
    if needs_probe:
        _run(_jobs(run_dir, settings, [PROBE]), console)
    _tune(run_dir, settings, console)
    names = [recipe.name for recipe in reversed(recipes)]  # SCoRe, the longest, first
    names += [name for name in (ROUTE, CORRECT) if name in settings.baselines]
    _run(_jobs(run_dir, settings, names), console)
    demo = [job for name in settings.experiments for job in _demo_jobs(run_dir, settings, name)]
    if not all(job.is_done() for job in demo):
        several = len(settings.experiments) > 1
        command = f"ibpo demo --experiment {'both' if several else ''.join(settings.experiments)}"
        command += f" --seeds {len(settings.seeds)} --name {run_dir.name}"
        console.print(
            f"IBPO's and RAFT's policies that are not in {run_dir} are trained now, as [bold]{command}[/bold] does "
            "before this command: about 4 minutes a seed (thinking), 13 (voting)"
        )
        run_jobs(demo, console)


def _tune(run_dir: Path, settings: BaselineSettings, console: Console) -> None:
    """Train and value every candidate at the first seed; what was chosen before is kept."""
    from experiments.jobs import ROUTE
    from experiments.recipes import candidate_name, choose, is_tuned, keep_route

    waiting = [
        (recipe, name)
        for recipe in to_tune(recipes_of(settings.baselines))
        for name in settings.experiments
        if not is_tuned(run_dir / name / "tuning.json", recipe.name)
    ]
    wanted = {(candidate_name(r.name, c), name) for r, name in waiting for c in r.candidates}
    routed = [name for name in settings.experiments if not is_tuned(run_dir / name / "tuning.json", ROUTE)]
    wanted |= {(ROUTE, name) for name in routed if ROUTE in settings.baselines}
    names = list(dict.fromkeys(name for name, _ in sorted(wanted, reverse=True)))  # SCoRe, the longest, early
    first = [job for job in _jobs(run_dir, settings, names) if job.seed == min(settings.seeds)]
    _run([job for job in first if (job.name, job.experiment) in wanted], console)
    of_experiment = {job.experiment: job for job in first}
    for recipe, experiment in waiting:
        choose(Context(of_experiment[experiment]), recipe)
    for experiment in routed:
        if (ROUTE, experiment) in wanted:
            keep_route(Context(of_experiment[experiment]))


def _run(jobs: Sequence[BaselineJob], console: Console) -> None:
    if jobs:
        run_jobs(jobs, console)


def _jobs(run_dir: Path, settings: BaselineSettings, names: Sequence[str]) -> list[BaselineJob]:
    return [
        BaselineJob(
            name=name,
            experiment=experiment,
            seed_dir=str(run_dir / experiment / f"seed{seed}"),
            cold_start=str(model_path(experiment)),
            seed=seed,
            num_problems=settings.num_problems,
            num_validation=settings.num_validation,
            num_probe=settings.num_probe,
            num_steps=settings.steps_of(experiment, name),
            tuning_file=str(run_dir / experiment / "tuning.json"),
        )
        for name in names
        for experiment in settings.experiments
        for seed in settings.seeds
    ]


def _demo_jobs(run_dir: Path, settings: BaselineSettings, experiment: str) -> list[DemoJob]:
    """The demo's own jobs of the policies wanted; what a demo of this name has finished is never repeated."""
    kept = run_dir / "settings.json"
    as_demo = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    names = [FORCED, TRAINED] if "ibpo" in settings.baselines else []
    names += [RAFT_NAME] if "raft" in settings.baselines else []
    return [
        DemoJob(
            name=name,
            budgets=BUDGETS if name in OF_BUDGETS else (),
            num_calibration=as_demo.get("num_calibration", settings.num_calibration),
            num_steps=as_demo.get("num_steps", settings.num_steps_of_demo),
            **_common(run_dir, settings, experiment, seed),
        )
        for name in names
        for seed in settings.seeds
    ]


def _cold_start_jobs(run_dir: Path, settings: BaselineSettings, experiment: str) -> list[DemoJob]:
    """The demo's own job that samples cold start and pretrained model, so that its files are shared."""
    return [
        DemoJob(name=UNTRAINED, num_calibration=0, **_common(run_dir, settings, experiment, seed))
        for seed in settings.seeds
    ]


def _common(run_dir: Path, settings: BaselineSettings, experiment: str, seed: int) -> dict[str, Any]:
    """What the demo's jobs of one experiment and seed have in common."""
    return {
        "experiment": experiment,
        "seed": seed,
        "seed_dir": str(run_dir / experiment / f"seed{seed}"),
        "cold_start": str(model_path(experiment)),
        "pretrained": str(model_path(experiment, "pretrained")),
        "num_problems": settings.num_problems,
    }


def _problems_of_demo(run_dir: Path) -> int | None:
    """The demo's that is stored there: its responses are to these problems, and are not sampled again."""
    try:
        return int(json.loads((run_dir / "settings.json").read_text(encoding="utf-8"))["num_problems"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def _fail(message: str) -> None:
    typer.echo(f"baselines: {message}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
