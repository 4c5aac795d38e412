"""What a demo run leaves: rows, figures of merit, pictures and one page; all made from the files of its jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ibpo.demo.experiments import experiment_named
from ibpo.demo.run import NUM_WORKERS, DemoSettings
from ibpo.evaluation.compare import compare, load_responses, summarise
from ibpo.evaluation.frontier import plot_frontier, plot_share_by_level
from ibpo.evaluation.report import Example, ReportData, pick_examples, terminal_table, write_report
from ibpo.runs import noted_calls, write_text_atomic
from ibpo.serving import find_threshold

ARTEFACTS = ("results.json", "merits.json", "frontier.png", "share_by_level.png", "report.html", "report.md")


LAST = 0.2
"""Part of the training, at its end, whose prices tell whether the budget had slack."""
Choice = Callable[[NDArray[np.float64], NDArray[np.float64], float], NDArray[np.bool_]]
"""(probabilities on unlabelled prompts, on the test's prompts, budget) -> which of the latter to answer extended."""


def write_outcome(run_dir: Path, settings: DemoSettings, console: Console, seconds: float) -> None:
    """Compare the policies of every experiment and seed; write the artefacts; print the table and the page's path."""
    rows: list[dict[str, Any]] = []
    merits: list[dict[str, Any]] = []
    areas: list[dict[str, Any]] = []
    examples: list[Example] = []
    training: list[dict[str, Any]] = []
    for name in settings.experiments:
        experiment = experiment_named(name)
        levels = list(experiment.task.MIX)
        for seed in settings.seeds:
            seed_dir = run_dir / name / f"seed{seed}"
            comparison = compare(seed_dir, name, seed, calibrated_choice(seed_dir), levels)
            rows += comparison.rows
            merits += comparison.merits
            areas += comparison.areas
            training += [step for q in settings.budgets for step in training_steps(seed_dir, name, seed, q)]
        responses = load_responses(run_dir / name / f"seed{settings.seeds[0]}")
        policy = f"ibpo-{settings.budgets[len(settings.budgets) // 2]:g}"
        examples += pick_examples(name, responses[policy, "standard"], responses[policy, "extended"], levels)
    titles = {name: experiment_named(name).title for name in settings.experiments}
    write_text_atomic(run_dir / "results.json", json.dumps(rows, indent=1))
    over_seeds = summarise([merits])
    write_text_atomic(
        run_dir / "merits.json", json.dumps({"per_seed": merits, "over_seeds": over_seeds, "areas": areas}, indent=1)
    )
    for plot, file in ((plot_frontier, "frontier.png"), (plot_share_by_level, "share_by_level.png")):
        plot(rows, run_dir / file, titles)
    data = ReportData(
        title="A language model that spends its inference budget where it pays",
        answer=_answer(rows, merits, settings),
        asked=_asked(settings),
        experiments=titles,
        rows=rows,
        merits=merits,
        areas=areas,
        examples=examples,
        training=training,
        what_ran=_what_ran(run_dir, settings, seconds),
        limits=[
            *(experiment_named(name).designed_in for name in settings.experiments),
            "The models are tiny (0.36 million parameters) and the tasks are made up: this shows that the method does "
            "what it says, not how much it gains on a large model.",
            "Calibrated policies choose the response group by a threshold set on prompts without answers; their "
            "accuracy is that of their own forced responses.",
            "Standard errors are over problems, of one seed; nothing here was run on a GPU.",
        ],
    )
    write_report(run_dir / "report.html", data)
    console.print(terminal_table(rows))
    console.print(f"[bold]{(run_dir / 'report.html').resolve()}[/bold]", soft_wrap=True)


def training_steps(seed_dir: Path, name: str, seed: int, budget: float) -> list[dict[str, Any]]:
    """Share and price of each step in which one of the demo's policies was trained."""
    path = seed_dir / "policies" / f"ibpo-{budget:g}" / "metrics.json"
    steps = json.loads(path.read_text())
    share, price = "ibpo/share/extended", "ibpo/price/extended"
    return [
        {"experiment": name, "seed": seed, "budget": budget, "step": s["step"], "share": s[share], "price": s[price]}
        for s in steps
        if share in s and price in s
    ]


def _mean(rows: list[dict[str, Any]], method: str, key: str, budget: float | None, experiment: str) -> float:
    found = [
        row[key]
        for row in rows
        if row["method"] == method and row["budget"] == budget and row["experiment"] == experiment
    ]
    return float(np.mean(found))


def _answer(rows: list[dict[str, Any]], merits: list[dict[str, Any]], settings: DemoSettings) -> str:
    budget = settings.budgets[len(settings.budgets) // 2]
    parts = []
    for name in settings.experiments:
        accuracy = {
            method: _mean(rows, method, "accuracy", q, name)
            for method, q in (
                ("standard only", None),
                ("extended only", None),
                ("random mix", budget),
                ("IBPO sampled", budget),
                ("IBPO calibrated", budget),
            )
        }
        share = _mean(rows, "IBPO sampled", "extended_share", budget, name)
        parts.append(
            f"{name.capitalize()}: allowed to answer {budget:.0%} of unseen problems by extended reasoning, the "
            f"trained policy used it on {share:.1%} and was right on {accuracy['IBPO sampled']:.1%} "
            f"({accuracy['IBPO calibrated']:.1%} calibrated); spending all of it at random gives "
            f"{accuracy['random mix']:.1%}, always extended {accuracy['extended only']:.1%}, never "
            f"{accuracy['standard only']:.1%}."
        )
    return " ".join(parts)


def _asked(settings: DemoSettings) -> list[str]:
    budgets = ", ".join(f"{q:.0%}" for q in settings.budgets)
    return [
        "A model can answer cheaply (standard) or at length (extended). The budget q+ is the largest share of problems "
        f"that may be answered at length: here {budgets}. Trained on problems with checkable answers, the policy must "
        "learn by itself where the long answer pays, and keep inside the budget on problems that it has never seen.",
        *(experiment_named(name).asked for name in settings.experiments),
    ]


def _what_ran(run_dir: Path, settings: DemoSettings, seconds: float) -> list[tuple[str, str]]:
    return [
        *noted_calls(run_dir),
        ("Unseen problems per seed", f"{settings.num_problems:,}"),
        ("Unlabelled prompts for the calibration", f"{settings.num_calibration:,}"),
        ("Model", "remade from nothing" if settings.from_scratch else "the shipped cold start"),
        ("Time of this call", f"{seconds / 60:.1f} min (what an earlier call had finished is not in it)"),
        ("Peak memory", _peak_memory()),
    ]


def _peak_memory() -> str:
    """Of this process and its largest jobs: an upper bound, since they need not peak at the same time."""
    try:
        import resource
    except ModuleNotFoundError:  # not on Windows
        return "not measured"
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    here, jobs = (
        resource.getrusage(who).ru_maxrss * unit / 2**30 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    if jobs == 0:
        return f"{here:.1f} GiB (every job was finished before)"
    return f"at most {here + NUM_WORKERS * jobs:.1f} GiB ({NUM_WORKERS} jobs of at most {jobs:.1f} GiB each)"


def had_slack(policy_dir: Path) -> bool:
    """Whether the budget bought nothing at the end of the training: the median price of the last updates is 0."""
    path = policy_dir / "metrics.json"
    if not path.exists():
        return False
    price = [step["ibpo/price/extended"] for step in json.loads(path.read_text()) if "ibpo/price/extended" in step]
    last = price[-max(1, round(LAST * len(price))) :]
    return bool(last) and median(last) <= 0


def calibrated_choice(seed_dir: Path) -> Choice:
    """The calibrated choice of this seed's policies: with a floor of one half for those whose budget had slack."""

    def choose(calibration: NDArray[np.float64], test: NDArray[np.float64], budget: float) -> NDArray[np.bool_]:
        slack = had_slack(seed_dir / "policies" / f"ibpo-{budget:g}")
        return find_threshold(calibration, budget, floor=0.5 if slack else 0.0).choose(test)

    return choose
