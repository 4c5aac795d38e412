"""What a run of baselines leaves: one page, a picture, and the complete table, a row for each method and strength."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from experiments.recipes import BUDGETS, read_tuning, training_of
from experiments.table import hold_against, tabulate
from ibpo.demo import calibrated_choice, experiment_named, training_steps
from ibpo.evaluation import (
    PageData,
    compare_methods,
    gain_text,
    join,
    lead_of_methods,
    load_run,
    mean_over_seeds,
    methods_part,
    percent,
    pick_examples,
    plot_frontier,
    points,
    verdict_of,
    write_page,
)
from ibpo.runs import noted_calls, write_text_atomic
from ibpo.terminal import print_table

if TYPE_CHECKING:  # it runs as __main__
    from experiments.baselines import BaselineSettings


NOTE = """Cost: mean tokens, as a multiple of one standard response of the cold start. Above mix: accuracy less that
of the random mix of standard only and extended only that costs the same, in points. Gain ratio: gain over one standard
response of the cold start, as a multiple of what its majority votes gain at that cost (dash: votes gain nothing there,
or were not measured there). Oracle share: of what the best choice by level gains over the random mix of that cost, the
part gained; one half of the responses decides the oracle's choice, the other half values it. ±: one standard error over
problems. In brackets: 95 %
intervals over problems, of one seed; numbers are means over seeds. Sampled in training: responses, both turns of a
dialogue; the candidates of its tuning are not counted."""


Json = dict[str, Any]


def write_outcome(run_dir: Path, settings: BaselineSettings, console: Console, seconds: float) -> None:
    """Write `baselines.json`, `.md`, `.png` and `.html`; print the table and the page's path."""
    rows: list[dict[str, Any]] = []
    merits: list[dict[str, Any]] = []
    areas: list[dict[str, Any]] = []
    tuning: dict[str, Any] = {}
    examples: dict[str, Any] = {}
    training: list[dict[str, Any]] = []
    for name in settings.experiments:
        levels = list(experiment_named(name).task.MIX)
        for seed in settings.seeds:
            seed_dir = run_dir / name / f"seed{seed}"
            there = compare_methods(seed_dir, name, seed, calibrated_choice(seed_dir), levels, budgets=BUDGETS)
            own = tabulate(seed_dir, name, seed, levels, settings.baselines)
            assert there.yardsticks is not None
            for row, result in zip([*there.rows, *own.rows], [*there.results, *own.results], strict=True):
                got = (row["method"], row["budget"], seed_dir, name, partial(settings.steps_of, name))
                rows.append(row | hold_against(there.yardsticks, result) | training_of(*got, settings.num_probe))
            merits += there.merits
            areas += [*there.areas, *own.areas]
            training += training_steps(seed_dir, name, seed, BUDGETS)
        tuning[name] = read_tuning(run_dir / name / "tuning.json")
        cold, _ = load_run(run_dir / name / f"seed{settings.seeds[0]}", "cold_start")
        forced = join([cold["cold_start", "standard"], cold["cold_start", "extended"]])
        examples[name] = pick_examples(forced, forced.configurations)
    titles = {name: experiment_named(name).title for name in settings.experiments}
    leads = {name: _lead(name, *_of(name, rows, merits)) for name in titles}
    answer = "\n".join(lead["text"] for lead in leads.values())
    found = {"answer": answer, "leads": leads, "rows": rows, "areas": areas, "tuning": tuning}
    write_text_atomic(run_dir / "baselines.json", json.dumps(found, indent=1))
    write_text_atomic(run_dir / "table.md", markdown(rows, titles))
    plot_frontier(rows, run_dir / "baselines.png", titles)
    data = PageData(
        title="Many ways to spend the same inference budget",
        answer=answer,
        asked=[
            "Who decides where a model answers at length, and does it pay? Every method here starts from the same cold "
            "start, meets the same problems, and is tested on the same unseen ones; a method with a setting "
            "for its cost shows its curve. "
            "What was tuned was tuned on problems that are neither trained on nor judged, see What was run.",
            *(experiment_named(name).asked for name in settings.experiments),
        ],
        parts=[
            methods_part(name, title, *_of(name, rows, merits, areas, training), examples=examples[name])
            for name, title in titles.items()
        ],
        what_ran=_what_ran(run_dir, settings, rows, tuning, seconds),
        limits=[
            *(experiment_named(name).designed_in for name in settings.experiments),
            "Means are not equal everywhere: What was run names the updates and the responses that each policy was "
            "trained with. More of them might change the order.",
            "“Like” means: the published rewards and losses on TRL's GRPO, not the authors' code.",
            "The embedded models never saw a second turn: self-correction by prompting has no chance with them; "
            "SCoRe first learns dialogues out of the model's own responses.",
            "Standard errors are over problems, of one seed; nothing here was run on a GPU.",
        ],
    )
    write_page(run_dir, data, "baselines")
    console.print(answer, markup=False, highlight=False, soft_wrap=True)
    print_methods(console, rows)
    console.print(f"[bold]{(run_dir / 'baselines.html').resolve()}[/bold]", soft_wrap=True)


def _of(name: str, *found: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What belongs to one experiment."""
    return [[one for one in every if one["experiment"] == name] for every in found]


def _lead(name: str, rows: Sequence[Json], merits: Sequence[Json]) -> Json:
    """What IBPO gains at the middle budget, and of the others the one that looks best, by the gain over the mix."""
    lead = lead_of_methods(name, rows, merits)
    judged = [row for row in mean_over_seeds(rows) if row.get("above_random_mix") and "forced" not in row["method"]]
    others = [r for r in judged if "IBPO" not in r["method"] and not r["method"].startswith("oracle")]
    others = [row for row in others if row["method"] not in ("standard only", "extended only", "random mix")]
    if not others:
        return lead | {"best_other": None}
    best = max(others, key=lambda row: row["above_random_mix"]["value"])
    gain = best["above_random_mix"]
    q = "" if best["budget"] is None else f" at q+ = {best['budget']:.0%}"
    said = gain_text(f"{best['method']}{q}", gain, "a random mix of the same cost")
    text = (
        f"{lead['text']} The best of the other methods that know no answers, chosen on these very problems, "
        f"which flatters it: {said} ({best['accuracy']:.1%} right at {best['relative_cost']:.2f} × the cost)."
    )
    other = {"method": best["method"], "budget": best["budget"], "verdict": verdict_of(gain), "gain": gain}
    return lead | {"text": text, "best_other": other}


def _what_ran(
    run_dir: Path,
    settings: BaselineSettings,
    rows: Sequence[Mapping[str, Any]],
    tuning: Mapping[str, Any],
    seconds: float,
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
            text = f"{updates}, {number(row['num_training_responses'])} responses sampled"
            facts.append((f"Trained, {row['experiment']}: {row['method']}{q}", text))
    for experiment, found in tuning.items():
        for row in found:
            options = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in row["options"].items())
            error = f" ± {100 * row['stderr']:.1f}" if "stderr" in row else ""
            text = (
                f"{options}: {percent(row['accuracy'])}{error} right, "
                f"{points(row['above_random_mix'])} above random mix{'; chosen' if row['chosen'] else ''}"
            )
            facts.append((f"Tuned, {experiment}: {row['policy']}", text))
    return [*facts, ("Time of this call", f"{seconds / 60:.1f} min (without what an earlier call had finished)")]


def print_methods(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Short enough for a screen; every curve whole is in the Markdown and on the page."""
    hidden = re.compile(r"forced|maj@[^4]|consensus|posterior 0\.(?!95)")
    merged = [row for row in mean_over_seeds(rows) if not hidden.search(row["method"])]
    for name in sorted({row["experiment"] for row in merged}):
        cells: list[list[str]] = []
        for row in sorted(merged, key=lambda row: row["relative_cost"]):
            if row["experiment"] != name:
                continue
            above = row["above_random_mix"]
            cells.append(
                [
                    row["method"],
                    "" if row["budget"] is None else f"{row['budget']:.0%}",
                    f"{row['accuracy']:.1%} ± {100 * row['stderr']:.1f}",
                    f"{row['extended_share']:.1%}",
                    f"{row['relative_cost']:.2f}×",
                    "–" if above is None else f"{round(100 * above['value'], 1) + 0.0:+.1f}",
                    number(row["num_training_responses"]),
                ]
            )
        print_table(
            console,
            ["method", "budget", "accuracy", "extended", "cost", "above mix", "sampled"],
            cells,
            title=f"{name}: unseen problems, most expensive last (every curve whole on the page)",
            bold=[row for row in cells if row[0] == "IBPO calibrated"],
        )


def markdown(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Every row of every experiment, the cheapest first, and what the columns mean."""
    merged = mean_over_seeds(rows)
    lines: list[str] = []
    for name, title in titles.items():
        own = sorted((row for row in merged if row["experiment"] == name), key=lambda row: row["relative_cost"])
        if not own:
            continue
        head = f"{own[0]['num_problems']:,} unseen problems, seeds: {max(row['num_seeds'] for row in own)}"
        lines += [f"## {title}", "", f"{head}, most expensive last.", ""]
        lines += [
            "| method | q+ | accuracy, % | extended share | cost | above mix, pp | gain ratio | oracle share "
            "| updates | sampled in training |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *map(_line, own),
            "",
        ]
    return "\n".join([*lines, NOTE, ""])


def _line(row: Mapping[str, Any]) -> str:
    cells = [
        row["method"],
        "" if row["budget"] is None else f"{row['budget']:.0%}",
        f"{100 * row['accuracy']:.1f} ± {100 * row['stderr']:.1f}",
        f"{row['extended_share']:.1%}",
        f"{row['relative_cost']:.2f} x",
        spoken(row["above_random_mix"], "{:+.1f}", 100),
        spoken(row.get("gain_ratio_cold_start")),
        spoken(row["oracle_share"]),
        "one epoch" if row["num_updates"] is None and row["num_training_responses"] else number(row["num_updates"]),
        number(row["num_training_responses"]),
    ]
    return "| " + " | ".join(cells) + " |"


def number(value: float | None) -> str:
    """A count, a mean over seeds; a dash where it is not known.

    Example:
        >>> number(24320.0), number(None)
        ('24,320', '–')
    """
    return "–" if value is None else f"{value:,.0f}"


def spoken(one: Mapping[str, float | None] | None, form: str = "{:.2f}", times: float = 1.0) -> str:
    """A figure with its interval, as tables show it.

    Example:
        >>> spoken({"value": 1.234, "low": 0.5, "high": None}), spoken(None)
        ('1.23 (0.50 to –)', '–')
    """
    if one is None:
        return "–"
    value, low, high = ("–" if x is None else form.format(times * x) for x in (one["value"], one["low"], one["high"]))
    return f"{value} ({low} to {high})"
