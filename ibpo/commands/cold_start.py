"""`ibpo cold-start`: give a model its second response group, out of its own solutions, and check that both work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibpo.commands.options import (
    Overrides,
    RunFolder,
    quiet_libraries,
    run_command,
)
from ibpo.config import TrainConfig
from ibpo.errors import IbpoError
from ibpo.markdown import markdown_code, markdown_table, markdown_text
from ibpo.terminal import plain_console, print_table

if TYPE_CHECKING:
    from ibpo.runs import RunDir
    from ibpo.training import ColdStartConfig

DEFAULT_ROLLOUTS = TrainConfig.model_fields["rollouts_per_prompt"].default
MAY_CHANGE = ("sample.batch_size", "sample.num_concurrent", "sample.base_url", "sample.api_key_file", "sample.engine",
              "sample.price_prompt", "sample.price_completion")  # fmt: skip
"""What a rerun may change: not what is asked, only how."""


def cold_start_command(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A TOML recipe; the folder recipes/ of ibpo's source has examples.")
    ],
    set_: Overrides = None,
    out: RunFolder = None,
) -> None:
    """Sample a model's own solutions, build standard and voting responses of them, fine-tune on these, and check.

    Interrupted, it goes on where it was when it is called again. Exit code 1 if a response group does not work.
    """
    from ibpo.runs import RunDir

    run = RunDir(out or Path("runs") / recipe.stem)
    overrides = set_ or []
    command = run_command("cold-start", recipe, overrides, run.path)
    try:
        results = _cold_start(recipe, overrides, run, command)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; what is done is kept, go on with: {command}", err=True)
        raise typer.Exit(130) from None
    _show(results, run)
    if not results["passed"]:
        raise typer.Exit(1)


def _cold_start(recipe: Path, overrides: list[str], run: RunDir, command: str) -> dict[str, Any]:

    from ibpo.demo import resolve_model
    from ibpo.runs import to_toml, working_in, write_text_atomic
    from ibpo.tasks import build_judge, read_problems
    from ibpo.training import read_cold_start_recipe

    config = read_cold_start_recipe(recipe, overrides)
    config_text = to_toml(config.model_dump(), command)
    _check_run(run, config_text)
    if run.is_finished:
        typer.echo(f"{run.path}: this run is finished", err=True)
        return json.loads(run.results.read_text(encoding="utf-8"))
    data = config.data
    try:
        kept = [one.body for one in config.response_group if not one.body.startswith("own")]
        training, held_out, judge_name = read_problems(data, kept)
        if judge_name == "code" and not config.response_group:
            raise IbpoError(
                "data.judge: a vote compares answers, and programs are compared by their tests only; "
                "take another task, or train without a cold start"
            )
        # The format is kept by construction: what is built is read back before it counts.
        judge = build_judge(judge_name, config.judge, config.constraints.model_copy(update={"format": False}))
    except IbpoError as error:
        in_recipe = str(error).partition(".")[0] in ("data", "judge", "constraints")
        raise IbpoError(f"{recipe}: {error}" if in_recipe else str(error)) from None
    if not training:
        raise IbpoError(
            f"{recipe}: data.holdout: {len(held_out)} problems less {data.holdout} held out leave none to train on; "
            "give more problems or lower it"
        )
    path = resolve_model(config.model.path, "model.path")
    console = plain_console(stderr=True)
    with working_in(run.path), quiet_libraries():
        from ibpo.training import ColdStart, ColdStartJob

        job = ColdStartJob(config=config, model_path=path, problems=training, held_out=held_out, judge=judge, run=run)
        stages = ColdStart(job, console)
        write_text_atomic(run.config, config_text)  # settings that are refused leave no run behind
        try:
            results = stages.go()
        except IbpoError:
            _remove_unbegun(run)
            raise
        write_text_atomic(run.next_recipe, _next_recipe(config, run))
        write_text_atomic(run.report, _report(results, command, run))
        write_text_atomic(run.results, json.dumps(results, indent=2) + "\n")
    return results


def _check_run(run: RunDir, config_text: str) -> None:
    if run.is_foreign:
        raise IbpoError(f"{run.path}: holds something else than a run; name another folder with --out")
    if not run.exists:
        return
    changed = run.changed_keys(config_text)
    changed = [key for key in changed if key not in MAY_CHANGE]
    if changed:
        kept = f" --set sample.rollouts={run.rollouts}" if run.rollouts.exists() else ""
        raise IbpoError(
            f"{run.path}: was begun with another recipe (in {', '.join(changed)}); name another folder with --out"
            + (f", its solutions can be used again:{kept}" if kept else "")
        )


def _remove_unbegun(run: RunDir) -> None:
    """A run without a solution or a data set leaves nothing behind: the corrected recipe goes into its folder."""
    if run.rollouts.exists():
        with run.rollouts.open("rb") as file:
            if sum(1 for _ in file) > 1:  # more than what the store begins with
                return
    if not run.dataset.exists():
        run.rollouts.unlink(missing_ok=True)
        run.config.unlink()


def _next_recipe(config: ColdStartConfig, run: RunDir) -> str:
    """`ibpo train` from here: the same problems, the same response groups."""
    from ibpo.responses import FORMS
    from ibpo.runs import to_toml
    from ibpo.training import groups_of

    form = FORMS[config.build.form]
    reader = "boxed" if form.name == "boxed" else "after:<answer>"
    readers = {one.name: one.answer for one in config.response_group}
    groups = tuple(
        {
            "name": group.name,
            "prefix": group.prefix,
            "instruction": group.instruction,
            "answer": readers.get(group.name, reader),
        }
        for group in groups_of(config)
    )
    tables = {
        "model": {"path": str(run.model), "dtype": config.model.dtype},
        "data": config.data.model_dump(),
        "judge": config.judge.model_dump(),
        "constraints": config.constraints.model_dump(),
        "response_group": groups,
        "budget": {groups[-1]["name"]: 0.5},
        "train": {
            "max_completion_length": config.gate.max_completion_length,
            "rollouts_per_prompt": -(-DEFAULT_ROLLOUTS // len(groups)) * len(groups),
        },
        "trl": {"chat_template_kwargs": config.template} if config.template else {},
    }
    return to_toml(tables, f"ibpo train {run.next_recipe}")


HEAD = ["response group", "right", "95 % interval", "cut off", "no answer", "mean tokens", "chosen"]
NOTE = (
    "Held-out problems, responses forced into each response group; cut off: neither right nor wrong, counted as not "
    "right. External: voting over separate standard responses by the same rule, eight at most. Chosen: where the "
    "policy opens its response by itself."
)


def _rows(results: dict[str, Any]) -> list[list[str]]:
    gate = results["gate"]
    if "groups" in gate:
        measured = list(gate["groups"].items())
    else:
        names = list(gate["share"])[:2] or ["standard", "voting"]
        measured = [(name, gate[key]) for name, key in zip(names, ("standard", "voting"), strict=True)]
    rows = []
    for name, group in measured:
        chosen = f"{gate['share'][name]:.1%}" if gate["share"] else ""
        rows.append(
            [
                name,
                f"{group['accuracy']:.3f}",
                "{:.3f} to {:.3f}".format(*group["interval_95"]),
                f"{group['truncated']:.1%}",
                f"{group['unanswered']:.1%}",
                f"{group['mean_tokens']:.1f}",
                chosen,
            ]
        )
    if "external_accuracy" in gate:
        rows.append(["external voting", f"{gate['external_accuracy']:.3f}", "", "", "", "", ""])
    return rows


def _lines(results: dict[str, Any], run: RunDir) -> list[str]:
    gate, counts = results["gate"], results["data_set"]["counts"]
    built = ", ".join(f"{number} {name}" for name, number in results["data_set"]["responses"].items())
    lines = [
        f"solutions: {counts['solutions']}, of which {counts.get('truncated', 0)} cut off (not used), "
        f"{counts.get('unanswered', 0)} without answer, {counts.get('violating', 0)} violating a constraint, "
        f"{counts.get('right', 0)} right; responses built: {built}",
    ]
    if "keeps_rule" in gate:
        lines.append(
            f"votes: {gate['keeps_rule']:.1%} keep form and stop rule, {gate['mean_trials']:.2f} trials on average "
            f"(external {gate['external_trials']:.2f}); accuracy {0 - gate['below_external']:+.3f} against external, "
            "95 % interval {:+.3f} to {:+.3f}".format(*(0 - x for x in reversed(gate["below_external_95"])))
        )
    bill = results["data_set"].get("bill")  # data sets of before have none
    if bill is not None:
        lines.insert(1, f"bill of the solutions: {_bill(bill)}")
    lines += [f"FAILED: {f['what']}; {f['fix']}" for f in results["failures"]]
    lines += [f"gate passed; go on with: ibpo train {run.next_recipe}"] if results["passed"] else []
    return lines


def _bill(bill: dict[str, Any]) -> str:
    if bill["num_unmetered"]:
        return f"unknown, the server reported no usage for {bill['num_unmetered']} of {bill['num_responses']} responses"
    cost = f", cost {bill['cost']:.4g}" if bill["cost"] else ""
    return f"{bill['prompt_tokens']:,} prompt and {bill['completion_tokens']:,} completion tokens{cost}"


def _report(results: dict[str, Any], command: str, run: RunDir) -> str:
    title = f"# {markdown_text(_title(results))}"
    lines = [f"- {markdown_text(line)}" for line in _lines(results, run)]
    table = markdown_table(HEAD, _rows(results))
    return "\n".join([title, "", markdown_code(command), "", *table, "", NOTE, "", *lines]) + "\n"


def _title(results: dict[str, Any]) -> str:
    return f"Cold start of {results['model']}, {results['gate']['num_problems']} held-out problems"


def _show(results: dict[str, Any], run: RunDir) -> None:
    console = plain_console()
    print_table(console, HEAD, _rows(results), title=_title(results))
    console.print(NOTE, highlight=False)
    for line in _lines(results, run):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"report: {run.report}", highlight=False, soft_wrap=True)
