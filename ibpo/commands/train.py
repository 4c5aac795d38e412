"""`ibpo train`: IBPO on one's own problems with any causal language model, from a TOML recipe."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibpo.budget import parse_budget_entry
from ibpo.commands.options import (
    Overrides,
    RunFolder,
    quiet_libraries,
    run_command,
)
from ibpo.errors import IbpoError
from ibpo.markdown import markdown_code, markdown_table, markdown_text
from ibpo.terminal import plain_console, print_table

if TYPE_CHECKING:
    from rich.console import Console

    from ibpo.config import RunConfig
    from ibpo.runs import RunDir
    from ibpo.training import Job


def train_command(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A TOML recipe; the folder recipes/ of ibpo's source has examples.")
    ],
    set_: Overrides = None,
    out: RunFolder = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
) -> None:
    """Train a policy to spend its costlier response groups where they pay, then evaluate it on held-out problems."""
    from ibpo.runs import RunDir

    run = RunDir(out or Path("runs") / recipe.stem)
    overrides = set_ or []
    command = run_command("train", recipe, overrides, run.path)
    try:
        _train(recipe, overrides, run, resume, command)
    except KeyboardInterrupt:
        typer.echo(_how_to_resume(run, command), err=True)
        raise typer.Exit(130) from None


def _train(recipe: Path, overrides: list[str], run: RunDir, resume: bool, command: str) -> None:

    from ibpo.config import RunConfig, read_recipe
    from ibpo.runs import to_toml, working_in, write_text_atomic

    config = read_recipe(recipe, overrides)
    config_text = to_toml(config.model_dump(), command)
    _check_run(run, config_text, resume, command)
    console = plain_console(stderr=True)
    if run.is_finished:
        console.print(f"{run.path}: this run is finished", highlight=False, soft_wrap=True)
        try:
            return _show(json.loads(run.results.read_text(encoding="utf-8")), run)
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError, OverflowError):
            raise IbpoError(f"{run.results}: is damaged; remove it, and evaluate again with --resume") from None
    try:
        job = _job(config, config_text, run)
        with working_in(run.path), quiet_libraries():
            results = _run(job, console)
            write_text_atomic(run.report, _report(results, command))
            write_text_atomic(run.results, json.dumps(results, indent=2) + "\n")
    except IbpoError as error:
        text = str(error)
        # What is in the recipe is named by its key; say where the key is.
        key = text.partition(":")[0]
        parts = RunConfig.model_fields
        raise IbpoError(f"{recipe}: {text}" if key.split(".")[0] in parts else text) from None
    _show(results, run)


def _job(config: RunConfig, config_text: str, run: RunDir) -> Job:
    """Everything that can be checked before the heavy libraries are loaded."""
    from ibpo.demo import resolve_model
    from ibpo.responses import build_response_groups, check_reads_programs
    from ibpo.tasks import build_judge, hold_out, load_given

    data, train = config.data, config.train
    task, problems = load_given(data)
    training, held_out = hold_out(problems, data.holdout)
    judge_name = data.judge or task.judge
    if len(training) < train.prompts_per_step:
        num_problems = len(problems)
        num_twins = num_problems - len(training) - len(held_out)
        twins = f" and {num_twins} with the text of one of these" if num_twins else ""
        raise IbpoError(
            f"data.holdout: {num_problems} problems less {data.holdout} held out{twins} leave {len(training)} for "
            f"training, a step needs {train.prompts_per_step}; "
            "give more problems or lower holdout or train.prompts_per_step"
        )
    groups = build_response_groups(config.response_group)
    if judge_name == "code":
        check_reads_programs(config.response_group)
    judge = build_judge(judge_name, config.judge, config.constraints, groups)
    path = resolve_model(config.model.path, "model.path")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from ibpo.training import Job
    except ModuleNotFoundError as error:
        raise IbpoError(f"training needs {error.name}: pip install 'ibpo[train]'") from None
    return Job(
        config=config,
        config_text=config_text,
        model_path=path,
        training=training,
        held_out=held_out,
        response_groups=groups,
        judge=judge,
        run=run,
    )


def _run(job: Job, console: Console) -> dict[str, Any]:
    from ibpo.training import as_rows, run_job

    config = job.config
    rows = run_job(job, console)
    return {
        "model": config.model.path,
        "steps": config.train.steps,
        "num_training_problems": len(job.training),
        "num_held_out_problems": len(job.held_out),
        "budget": config.budget,
        "held_out": as_rows(rows),
    }


def _check_run(run: RunDir, config_text: str, resume: bool, command: str) -> None:
    if run.is_foreign:
        raise IbpoError(f"{run.path}: holds something else than a run; name another folder with --out")
    if not run.is_begun:
        return
    state = "a finished run" if run.is_finished else "an unfinished run"
    if not resume:
        raise IbpoError(
            f"{run.path}: holds {state}; name another folder with --out"
            + ("" if run.is_finished else f", or go on with it: {command} --resume")
        )
    changed = run.changed_keys(config_text)
    if changed:
        raise IbpoError(
            f"{run.path}: was begun with another recipe (in {', '.join(changed)}); "
            f"resume with `ibpo train {run.config} --out {run.path} --resume`, or name another folder with --out"
        )


def _how_to_resume(run: RunDir, command: str) -> str:
    if not run.is_begun:
        return f"interrupted before the first checkpoint; start again with: {command}"
    checkpoint = run.last_checkpoint()
    kept = checkpoint.name if checkpoint else run.model
    return f"interrupted, {kept} is kept; go on with: {command} --resume"


def _table_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    head = ["response group", "right", "95 % interval", "cut off", "no answer", "mean tokens", "shares"]
    body = [
        [
            str(row["policy"]),
            f"{row['num_right']} of {row['num_problems']}",
            "{:.3f} to {:.3f}".format(*row["interval_95"]),
            str(row["num_truncated"]),
            str(row["num_unanswered"]),
            f"{row['mean_tokens']:.1f}",
            ", ".join(f"{name or 'none'} {share:.2f}" for name, share in row["share"].items()),
        ]
        for row in results["held_out"]
    ]
    return head, body


def _headline(results: dict[str, Any]) -> str:
    budgets = [parse_budget_entry(key, amount) for key, amount in results["budget"].items()]
    budget = ", ".join(f"{b.key.removesuffix('>=')} at {b.sense.removeprefix('at_')} {b.amount_text}" for b in budgets)
    return (
        f"{results['model']}: {results['steps']} steps on {results['num_training_problems']} problems, "
        f"{results['num_held_out_problems']} held out, budget: {budget or 'none'}"
    )


NOTE = (
    "One response sampled per held-out problem. The first row lets the policy choose its response group, the others "
    "force it. Responses cut off at the length limit are counted apart and never as right."
)


def _report(results: dict[str, Any], command: str) -> str:
    head, body = _table_rows(results)
    lines = [f"# {markdown_text(_headline(results))}", "", markdown_code(command), ""]
    if body:
        lines += [*markdown_table(head, body), "", NOTE]
    else:
        lines += ["No problems were held out (`data.holdout = 0`), so nothing is known about unseen ones."]
    return "\n".join(lines) + "\n"


def _show(results: dict[str, Any], run: RunDir) -> None:
    head, body = _table_rows(results)
    console = plain_console()
    if body:
        print_table(console, head, body, title=_headline(results))
        console.print(NOTE, highlight=False)
    console.print(f"report: {run.report}", highlight=False, soft_wrap=True)
