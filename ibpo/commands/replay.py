"""`ibpo replay`: what another budget would have chosen in a finished or running training, from its rollout log."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from ibpo.budget import budget_table, parse_budget, parse_budget_entry, parse_budget_table
from ibpo.commands.completion import keys
from ibpo.errors import IbpoError
from ibpo.terminal import plain_console, print_table


def replay_command(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder of `ibpo train`, of a policy of `ibpo demo`, or its rollout log."),
    ],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUDGET",
            autocompletion=keys("extended", "tokens"),
            help="extended=0.4 (or 40%): largest share of the prompts; tokens=200: mean tokens per prompt; "
            "tokens=0.5x: half of what the run spent; 'extended>=0.1': smallest share; extended@level=3=0.2: within a "
            "slice. Repeated budgets hold together. Default: the run's own.",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="STEPS", min=1, help="Number of steps that are solved together. Default: as the run did, or 1."
        ),
    ] = None,
    min_gain: Annotated[
        float | None,
        typer.Option(
            metavar="REWARD",
            help="Least gain, in reward, for which a prompt gets more than the standard group. Default: as the run.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file for the whole answer. Default: it is printed only.")
    ] = None,
) -> None:
    """Say which response group each prompt would have got under another budget, and what it would have been worth."""
    from ibpo.runs import write_text_atomic

    if min_gain is not None and not math.isfinite(min_gain):
        raise IbpoError(f"--min-gain {min_gain}: must be a finite number, a reward")
    answer = _answer(run, budget or [], window, min_gain)
    if out is not None:
        write_text_atomic(out, json.dumps(answer, indent=2) + "\n")
    _show(answer)


def _answer(run: Path, texts: list[str], window: int | None, min_gain: float | None) -> dict[str, Any]:
    import numpy as np

    try:
        import pyarrow  # noqa: F401  # heavy, and not there without the extra
    except ModuleNotFoundError as error:
        raise IbpoError(f"a rollout log needs {error.name}: pip install 'ibpo[train]'") from None
    from ibpo.training import bind_budgets, compare, find_rollout_log, read_rollout_log, replay, tokens_spent

    asked = [parse_budget(text) for text in texts]
    table = read_rollout_log(find_rollout_log(run))
    settings = table.settings
    own = parse_budget_table(settings.get("budget", {}), f"{run}: budget ")
    budgets = asked or own
    if not budgets:
        raise IbpoError(f"{run}: its rollout log names no budget; ask for one, e.g. --budget {table.names[-1]}=0.4")
    window = window or int(settings.get("window", 1))
    if min_gain is None and "min_gain" not in settings:
        typer.echo("the rollout log is of an older version: window 1 and min_gain 0 unless given", err=True)

    def values_of(column: str) -> set[str]:
        if column not in table.columns:
            raise IbpoError(f"the rollout log has no column {column!r}, only {', '.join(table.columns)}")
        return set(table.columns[column].tolist())

    spent = tokens_spent(table)
    terms = bind_budgets(budgets, table.names, values_of, spent=spent, where="--budget ")
    answer = replay(table, terms, window=window, min_gain=min_gain)
    first = np.unique(table.step, return_index=True)[1]
    result = {
        "run": str(run),
        "budget": budget_table(budgets),
        "window": window,
        # From the run: each response group's mean over the prompts, as it may be estimated anew in each step.
        "min_gain": dict(zip(table.names, table.min_gain.mean(0).tolist(), strict=True))
        if min_gain is None
        else min_gain,
        "num_steps": len(np.unique(table.step)),
        "price": dict(zip((term.key for term in terms), answer.price.tolist(), strict=True)),
        "recorded_budget": budget_table(own),
        "recorded_price": {key: float(price[first].mean()) for key, price in table.price.items()},
        "num_steps_missed": answer.num_missed,
        **compare(table, answer),
    }
    if own and budgets != own:
        kept = bind_budgets(own, table.names, values_of, spent=spent, where=f"{run}: budget ")
        again = replay(table, kept, window=window, min_gain=min_gain)
        result["own_budget_changed"] = compare(table, again)["changed"]
    return result


def _show(answer: dict[str, Any]) -> None:
    console = plain_console()
    names = list(answer["recorded"]["share"])
    asked, own = (
        ", ".join(str(parse_budget_entry(key, amount)) for key, amount in answer[name].items())
        for name in ("budget", "recorded_budget")
    )
    title = f"{answer['run']}: {answer['num_steps']} steps, {answer['recorded']['num_prompts']:,} prompts"
    rows: list[list[str]] = []
    for label, part, price in (
        (f"as recorded ({own or 'budget not recorded'})", "recorded", "recorded_price"),
        (asked, "replayed", "price"),
    ):
        row, prices = answer[part], ", ".join(f"{value:.4f}" for value in answer[price].values())
        shares = [f"{row['share'][name]:.3f}" for name in names]
        values = [f"{row['reward']:.3f}", f"{row['random_mix']:.3f}", f"{row['tokens']:.1f}"]
        rows.append([label, *values, prices, *shares])
    print_table(console, ["budget", "reward", "random mix", "tokens", "price", *names], rows, title=title)
    if answer["by_level"]:
        by_level: list[list[str]] = []
        for line in answer["by_level"]:
            old, new = line["recorded"], line["replayed"]
            shares = [f"{old['share'][name]:.2f} -> {new['share'][name]:.2f}" for name in names[1:]]
            rewards = f"{old['reward']:.3f} -> {new['reward']:.3f}"
            by_level.append([line["level"], f"{old['num_prompts']:,}", *shares, rewards])
        title = "by level: share of each response group and reward, recorded -> replayed"
        print_table(console, ["level", "prompts", *names[1:], "reward"], by_level, title=title)
    changes = ", ".join(f"{change['from']} -> {change['to']} {change['share']:.1%}" for change in answer["changes"])
    typer.echo(f"choices that change: {answer['changed']:.1%}" + (f" ({changes})" if changes else ""))
    if "own_budget_changed" in answer:
        typer.echo(
            f"the run's own budget, replayed, changes {answer['own_budget_changed']:.1%}: utilities were regressed "
            "anew at each step, ties drawn at random, and the budget offset by what the policy spent"
        )
    if answer["num_steps_missed"]:
        typer.echo(
            f"in {answer['num_steps_missed']} steps the budget cannot be kept with the step's responses", err=True
        )
    typer.echo("rewards are of the responses that decided, so they flatter the replayed choice; random mix does not")
