"""What a run of baselines leaves: rows beside the demo's, what was tuned, a picture, one page."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ibpo.baselines.recipes import BUDGETS
from ibpo.baselines.run import BaselineSettings
from ibpo.baselines.table import tabulate
from ibpo.baselines.tuning import read_tuning
from ibpo.evaluation.compare import Row, compare, load_responses, mean_over_seeds
from ibpo.evaluation.frontier import plot_frontier
from ibpo.evaluation.report import ReportData, pick_examples, write_report
from ibpo.evaluation.report_parts import above_random_mix, percent, points
from ibpo.experiments.job import experiment_named
from ibpo.runs import write_text_atomic
from ibpo.serving.calibrate import threshold

PACKAGES = ("ibpo", "torch", "transformers", "trl", "numpy", "scikit-learn")


def write_outcome(run_dir: Path, settings: BaselineSettings, console: Console, seconds: float) -> None:
    """Write `baselines.json`, `baselines.png` and `baselines.html`; print the table and the page's path."""
    rows: list[Row] = []
    merits: list[dict[str, Any]] = []
    areas: list[dict[str, Any]] = []
    tuning: dict[str, Any] = {}
    examples = []
    for name in settings.experiments:
        levels = list(experiment_named(name).task.MIX)
        for seed in settings.seeds:
            seed_dir = run_dir / name / f"seed{seed}"
            there = compare(
                seed_dir, name, seed, lambda c, t, share: threshold(c, share).choose(t), levels, budgets=BUDGETS
            )
            own, own_areas = tabulate(seed_dir, name, seed, levels, settings.baselines)
            rows += [*there.rows, *own]
            merits += there.merits
            areas += [*there.areas, *own_areas]
        tuning[name] = read_tuning(run_dir / name / "tuning.json")
        routed = run_dir / name / f"seed{settings.seeds[0]}" / "solve-then-learn.json"
        tuning[name] += [{"policy": "solve-then-learn"} | row for row in _read(routed)]
        cold = load_responses(run_dir / name / f"seed{settings.seeds[0]}")
        examples += pick_examples(name, cold["cold_start", "standard"], cold["cold_start", "extended"], levels)
    write_text_atomic(
        run_dir / "baselines.json", json.dumps({"rows": rows, "areas": areas, "tuning": tuning}, indent=1)
    )
    titles = {name: experiment_named(name).title for name in settings.experiments}
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
        training=[],
        what_ran=_what_ran(settings, tuning, seconds),
        limits=[
            *(experiment_named(name).designed_in for name in settings.experiments),
            f"Policies trained by reinforcement learning had {', '.join(_steps(settings))} updates of 256 responses, "
            "IBPO's own where they stand here as many as their experiment says: more updates might change the order.",
            "“Like” means: the published rewards and losses on TRL's GRPO, not the authors' code.",
            "The embedded models never saw a second turn: self-correction by prompting has no chance with them; "
            "SCoRe first learns dialogues out of the model's own responses.",
            "Standard errors are over problems, of one seed; nothing here was run on a GPU.",
        ],
    )
    write_report(run_dir / "baselines.html", data)
    console.print(_table(rows))
    console.print(f"[bold]{(run_dir / 'baselines.html').resolve()}[/bold]", soft_wrap=True)


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _steps(settings: BaselineSettings) -> list[str]:
    return [f"{steps} ({name})" for name, steps in zip(settings.experiments, settings.num_steps, strict=True)]


def _answer(name: str, rows: Sequence[Row]) -> str:
    """The best of each kind by what it gains over a random mix that costs the same."""
    judged = [(above_random_mix(row, rows), row) for row in mean_over_seeds(rows)]
    known = [(gain, row) for gain, row in judged if gain is not None and "forced" not in row["method"]]
    texts = []
    for spoken, keep in (
        ("IBPO", lambda method: method.startswith("IBPO")),
        ("the best other method that knows no answers", lambda method: not method.startswith(("IBPO", "oracle"))),
    ):
        found = [one for one in known if keep(one[1]["method"])]
        if found:
            gain, row = max(found, key=lambda one: one[0])
            q = "" if row["budget"] is None else f" at q+ = {row['budget']:.0%}"
            texts.append(
                f"{spoken} gains {points(gain)} points over a random mix that costs the same ({row['method']}{q}: "
                f"{percent(row['accuracy'])} at {row['relative_cost']:.2f} ×)"
            )
    return f"{name.capitalize()}: " + "; ".join(texts) + "."


def _what_ran(settings: BaselineSettings, tuning: Mapping[str, Any], seconds: float) -> list[tuple[str, str]]:
    facts = [
        ("Command", " ".join(["ibpo", *sys.argv[1:]])),
        ("Seeds", ", ".join(map(str, settings.seeds))),
        ("Unseen problems per seed", f"{settings.num_problems:,}"),
        ("Validation problems, for tuning alone", f"{settings.num_validation:,}"),
        ("Probe problems (SFT, solve-then-learn)", f"{settings.num_probe:,}"),
        ("Updates", ", ".join(_steps(settings))),
    ]
    for experiment, found in tuning.items():
        for row in found:
            options = row.get("options") or {"q+": row["budget"], "C": row["C"]}
            text = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in options.items())
            error = f" ± {100 * row['stderr']:.1f}" if "stderr" in row else ""
            told = (
                f"{text}: {percent(row['accuracy'])}{error} right, {points(row['above_random_mix'])} above random mix"
                f"{'; chosen' if row['chosen'] else ''}"
            )
            facts.append((f"Tuned, {experiment}: {row['policy']}", told))
    return [
        *facts,
        ("Time of this call", f"{seconds / 60:.1f} min (what an earlier call had finished is not in it)"),
        ("Python", f"{platform.python_version()} on {platform.machine()}"),
        *((package, version(package)) for package in PACKAGES),
    ]


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="Unseen problems, dearest last (every curve whole on the page)", title_justify="left")
    several = len({row["experiment"] for row in rows}) > 1
    if several:
        table.add_column("experiment")
    table.add_column("method", overflow="fold")
    for name in ("budget", "accuracy", "extended", "cost", "above mix"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = [row for row in mean_over_seeds(rows) if not re.search(r"forced|maj@|consensus|posterior", row["method"])]
    shown += [row for row in mean_over_seeds(rows) if row["method"].endswith("posterior 0.95")]
    for row in sorted(shown, key=lambda row: (row["experiment"], row["relative_cost"])):
        table.add_row(
            *([row["experiment"]] if several else []),
            row["method"],
            "" if row["budget"] is None else f"{row['budget']:.0%}",
            f"{row['accuracy']:.1%} ± {100 * row['stderr']:.1f}",
            f"{row['extended_share']:.1%}",
            f"{row['relative_cost']:.2f}×",
            points(above_random_mix(row, [r for r in rows if r["experiment"] == row["experiment"]])),
            style="bold" if row["method"] == "IBPO calibrated" else None,
        )
    return table
