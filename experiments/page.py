"""What a run of baselines leaves: rows beside the demo's, what was tuned, a picture, the complete table, one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from experiments.complete_table import markdown, number, terminal_table
from experiments.recipes import BUDGETS, training_of
from experiments.table import tabulate, yardsticks_of
from experiments.tuning import read_tuning
from ibpo.demo import calibrated_choice, experiment_named, training_steps
from ibpo.evaluation.compare import Row, compare, load_responses, mean_over_seeds
from ibpo.evaluation.frontier import plot_frontier
from ibpo.evaluation.report import ReportData, pick_examples, write_report
from ibpo.evaluation.report_parts import percent, points
from ibpo.runs import noted_calls, write_text_atomic

if TYPE_CHECKING:  # it runs as __main__
    from experiments.baselines import BaselineSettings


def write_outcome(run_dir: Path, settings: BaselineSettings, console: Console, seconds: float) -> None:
    """Write `baselines.json`, `.md`, `.png` and `.html`; print the table and the page's path."""
    rows: list[Row] = []
    merits: list[dict[str, Any]] = []
    areas: list[dict[str, Any]] = []
    tuning: dict[str, Any] = {}
    examples = []
    training: list[dict[str, Any]] = []
    for name in settings.experiments:
        levels = list(experiment_named(name).task.MIX)
        for seed in settings.seeds:
            seed_dir = run_dir / name / f"seed{seed}"
            there = compare(seed_dir, name, seed, calibrated_choice(seed_dir), levels, budgets=BUDGETS)
            own = tabulate(seed_dir, name, seed, levels, settings.baselines)
            yardsticks = yardsticks_of(seed_dir, levels, there, seed=seed)
            for row, result in zip([*there.rows, *own.rows], [*there.results, *own.results], strict=True):
                got = (row["method"], row["budget"], seed_dir, name, partial(settings.steps_of, name))
                rows.append(row | yardsticks.of(result) | training_of(*got, settings.num_probe))
            merits += there.merits
            areas += [*there.areas, *own.areas]
            training += [step for q in BUDGETS for step in training_steps(seed_dir, name, seed, q)]
        tuning[name] = read_tuning(run_dir / name / "tuning.json")
        cold = load_responses(run_dir / name / f"seed{settings.seeds[0]}")
        examples += pick_examples(name, cold["cold_start", "standard"], cold["cold_start", "extended"], levels)
    write_text_atomic(
        run_dir / "baselines.json", json.dumps({"rows": rows, "areas": areas, "tuning": tuning}, indent=1)
    )
    titles = {name: experiment_named(name).title for name in settings.experiments}
    write_text_atomic(run_dir / "table.md", markdown(rows, titles))
    plot_frontier(rows, run_dir / "baselines.png", titles)
    data = ReportData(
        title="Many ways of spending the same inference budget",
        answer=" ".join(_answer(name, [row for row in rows if row["experiment"] == name]) for name in titles),
        asked=[
            "Who decides where a model answers at length, and does it pay? Every method here starts from the same cold "
            "start, meets the same problems, and is judged on the same unseen ones; what has a dial shows its curve. "
            "What was tuned was tuned on problems that are neither trained on nor judged, see What was run.",
            *(experiment_named(name).asked for name in settings.experiments),
        ],
        experiments=titles,
        rows=rows,
        merits=merits,
        areas=areas,
        examples=examples,
        training=training,
        what_ran=_what_ran(run_dir, settings, rows, tuning, seconds),
        limits=[
            *(experiment_named(name).designed_in for name in settings.experiments),
            "Means are not equal everywhere: What was run tells the updates and the responses that each policy was "
            "trained with. More of them might change the order.",
            "“Like” means: the published rewards and losses on TRL's GRPO, not the authors' code.",
            "The embedded models never saw a second turn: self-correction by prompting has no chance with them; "
            "SCoRe first learns dialogues out of the model's own responses.",
            "Standard errors are over problems, of one seed; nothing here was run on a GPU.",
        ],
    )
    write_report(run_dir / "baselines.html", data)
    console.print(terminal_table(rows))
    console.print(f"[bold]{(run_dir / 'baselines.html').resolve()}[/bold]", soft_wrap=True)


def _answer(name: str, rows: Sequence[Row]) -> str:
    """IBPO at the middle budget, and of the others the one that looks best here, by the gain over the random mix."""
    judged = [row for row in mean_over_seeds(rows) if row["above_random_mix"] and "forced" not in row["method"]]
    middle = BUDGETS[len(BUDGETS) // 2]
    own = [r for r in judged if r["method"] in ("IBPO calibrated", "IBPO sampled") and r["budget"] == middle]
    others = [r for r in judged if "IBPO" not in r["method"] and not r["method"].startswith("oracle")]
    shown = [("IBPO", row) for row in own[-1:]]
    if others:
        best = max(others, key=lambda row: row["above_random_mix"]["value"])
        shown.append(("the other method that looks best on these very problems and knows no answers", best))
    texts = []
    for spoken, row in shown:
        gain = row["above_random_mix"]
        ends = f" ({points(gain['low'])} to {points(gain['high'])})" if gain["low"] is not None else ""
        q = "" if row["budget"] is None else f" at q+ = {row['budget']:.0%}"
        texts.append(
            f"{spoken} gains {points(gain['value'])} points{ends} over a random mix that costs the same "
            f"({row['method']}{q}: {percent(row['accuracy'])} at {row['relative_cost']:.2f} ×)"
        )
    return f"{name.capitalize()}: " + "; ".join(texts) + "."


def _what_ran(
    run_dir: Path, settings: BaselineSettings, rows: Sequence[Row], tuning: Mapping[str, Any], seconds: float
) -> list[tuple[str, str]]:
    facts = [
        *noted_calls(run_dir),
        ("Unseen problems per seed", f"{settings.num_problems:,}"),
        ("Validation problems, for tuning alone", f"{settings.num_validation:,}"),
        ("Probe problems (SFT, solve-then-learn)", f"{settings.num_probe:,}"),
    ]
    for row in mean_over_seeds(rows):
        if row["num_training_responses"] and not row["method"].startswith("self-") and "forced" not in row["method"]:
            updates = "one epoch" if row["num_updates"] is None else f"{number(row['num_updates'])} updates"
            q = "" if row["budget"] is None else f" at q+ = {row['budget']:.0%}"
            told = f"{updates}, {number(row['num_training_responses'])} responses sampled"
            facts.append((f"Trained, {row['experiment']}: {row['method']}{q}", told))
    for experiment, found in tuning.items():
        for row in found:
            text = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in row["options"].items())
            error = f" ± {100 * row['stderr']:.1f}" if "stderr" in row else ""
            told = (
                f"{text}: {percent(row['accuracy'])}{error} right, {points(row['above_random_mix'])} above random mix"
                f"{'; chosen' if row['chosen'] else ''}"
            )
            facts.append((f"Tuned, {experiment}: {row['policy']}", told))
    return [*facts, ("Time of this call", f"{seconds / 60:.1f} min (what an earlier call had finished is not in it)")]
