"""What a demo run leaves: rows, figures of merit, pictures and one page; all made from the files of its jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ibpo.demo.experiments import EXPERIMENTS, experiment_named
from ibpo.demo.run import NUM_WORKERS, TRAINED, TRAINED_AT, DemoSettings
from ibpo.evaluation import (
    PageData,
    compare_methods,
    first_methods,
    join,
    lead_of_methods,
    load_run,
    mean_over_seeds,
    methods_part,
    pick_examples,
    plot_frontier,
    plot_share_by_level,
    summarise,
    write_page,
)
from ibpo.runs import noted_calls, write_text_atomic
from ibpo.serving import find_threshold
from ibpo.terminal import print_table

ARTEFACTS = (
    *("results.json", "merits.json", "frontier.png", "share_by_level.png"),
    *("report.html", "report.md", "report.json"),
)


LAST = 0.2
"""Part of the training, at its end, whose prices tell whether the budget had slack."""
ONE_POLICY = (
    f"One policy was trained, at {TRAINED_AT:.0%}; at each budget it is the same policy, its choice moved there on "
    "prompts without answers. Within responses nothing is moved, so that its forced responses were sampled once."
)
Choice = Callable[[NDArray[np.float64], NDArray[np.float64], float], NDArray[np.bool_]]
"""(probabilities on unlabelled prompts, on the test's prompts, budget) -> which of the latter to answer extended."""


def write_outcome(run_dir: Path, settings: DemoSettings, console: Console, seconds: float) -> None:
    """Compare the policies of every experiment and seed; write the artefacts; print the table and the page's path."""
    rows: list[dict[str, Any]] = []
    merits: list[dict[str, Any]] = []
    areas: list[dict[str, Any]] = []
    examples: dict[str, Any] = {}
    training: list[dict[str, Any]] = []
    for name in settings.experiments:
        experiment = experiment_named(name)
        levels = list(experiment.task.MIX)
        for seed in settings.seeds:
            seed_dir = run_dir / name / f"seed{seed}"
            comparison = compare_methods(seed_dir, name, seed, calibrated_choice(seed_dir), levels)
            rows += comparison.rows
            merits += comparison.merits
            areas += comparison.areas
            training += training_steps(seed_dir, name, seed, settings.budgets)
        policy = f"ibpo-{settings.budgets[len(settings.budgets) // 2]:g}"
        responses, _ = load_run(run_dir / name / f"seed{settings.seeds[0]}", policy)
        forced = join([responses[policy, "standard"], responses[policy, "extended"]])
        examples[name] = pick_examples(forced, forced.configurations)
    titles = {name: experiment_named(name).title for name in settings.experiments}
    leads = {name: lead_of_methods(name, *_of(name, rows, merits)) for name in titles}
    write_text_atomic(run_dir / "results.json", json.dumps(rows, indent=1))
    over_seeds = summarise([merits])
    write_text_atomic(
        run_dir / "merits.json", json.dumps({"per_seed": merits, "over_seeds": over_seeds, "areas": areas}, indent=1)
    )
    for plot, file in ((plot_frontier, "frontier.png"), (plot_share_by_level, "share_by_level.png")):
        plot(rows, run_dir / file, titles)
    data = PageData(
        title="A language model under an inference budget",
        answer="\n".join(filter(None, [*(lead["text"] for lead in leads.values()), _quick(settings)])),
        asked=_asked(settings),
        parts=[
            methods_part(name, title, *_of(name, rows, merits, areas, training), examples=examples[name])
            for name, title in titles.items()
        ],
        what_ran=_what_ran(run_dir, settings, seconds),
        limits=[
            *(experiment_named(name).designed_in for name in settings.experiments),
            *dict.fromkeys(experiment_named(name).model for name in settings.experiments),
            *([ONE_POLICY] if set(settings.experiments) <= set(EXPERIMENTS) else []),
            "Calibrated policies choose the response group by a threshold set on prompts without answers; their "
            "accuracy is that of their own forced responses.",
            "Standard errors are over problems, of one seed; nothing here was run on a GPU.",
        ],
        numbers={name: {"lead": leads[name], "methods": _of(name, mean_over_seeds(rows))[0]} for name in titles},
    )
    write_page(run_dir, data)
    console.print(data.answer, markup=False, highlight=False, soft_wrap=True)
    print_methods(console, rows)
    console.print(str((run_dir / "report.html").resolve()), style="bold", soft_wrap=True)


def training_steps(seed_dir: Path, name: str, seed: int, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """Share and price of each step of the demo's trainings: of one policy, or (the real model's) one at each budget."""
    policies = {TRAINED: TRAINED_AT} | ({f"ibpo-{q:g}": q for q in budgets} if name not in EXPERIMENTS else {})
    share, price = "ibpo/share/extended", "ibpo/price/extended"
    paths = [(seed_dir / "policies" / policy / "metrics.json", budget) for policy, budget in policies.items()]
    return [
        {"experiment": name, "seed": seed, "budget": budget, "step": s["step"], "share": s[share], "price": s[price]}
        for path, budget in paths
        if path.exists()
        for s in json.loads(path.read_text(encoding="utf-8"))
        if share in s and price in s
    ]


def _of(name: str, *found: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What belongs to one experiment."""
    return [[one for one in every if one["experiment"] == name] for every in found]


def _quick(settings: DemoSettings) -> str:
    """What a reader of a quick run must know before its numbers; "" of a whole one."""
    if settings.num_steps is None:
        return ""
    return f"A quick run, of {settings.num_steps} updates: without --quick the policy is trained for longer."


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
        ("Model", settings.model or ("remade from nothing" if settings.from_scratch else "the shipped cold start")),
        ("Time of this call", f"{seconds / 60:.1f} min (what an earlier call had finished is not in it)"),
        ("Peak memory", _peak_memory()),
    ]


def _peak_memory() -> str:
    """Peak memory of this process and its largest jobs: an upper bound, since they need not peak at the same time."""
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


def print_methods(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """A short table of each experiment, means over seeds: the methods that the page shows first."""
    merged = mean_over_seeds(rows)
    hidden = 0
    for name in dict.fromkeys(row["experiment"] for row in merged):
        own = [row for row in merged if row["experiment"] == name]
        shown = first_methods(own)[0] or range(len(own))
        cells = [
            [
                row["method"],
                "" if row["budget"] is None else f"{row['budget']:.0%}",
                f"{row['accuracy']:.1%} ± {100 * row['stderr']:.1f}",
                f"{row['extended_share']:.1%}",
                f"{row['relative_cost']:.2f}×",
            ]
            for row in (own[i] for i in shown)
        ]
        print_table(
            console,
            ["method", "q+", "accuracy ± stderr", "extended share", "cost"],
            cells,
            title=f"{name}: unseen problems; cost in mean tokens, × one standard response",
            bold=[row for row in cells if row[0] == "IBPO calibrated"],
        )
        hidden += len(own) - len(shown)
    if hidden:
        console.print("The page has all methods.")


def had_slack(policy_dir: Path) -> bool:
    """Whether the budget is more than pays: for a moved policy, or by the median price of a training's last updates."""
    path = policy_dir / "metrics.json"
    if not path.exists():
        return False
    steps = json.loads(path.read_text(encoding="utf-8"))
    if most := [step["ibpo/pays_to/extended"] for step in steps if "ibpo/pays_to/extended" in step]:
        return most[-1] <= steps[-1]["ibpo/spent/extended"]
    price = [step["ibpo/price/extended"] for step in steps if "ibpo/price/extended" in step]
    last = price[-max(1, round(LAST * len(price))) :]
    return bool(last) and median(last) <= 0


def calibrated_choice(seed_dir: Path) -> Choice:
    """The calibrated choice of this seed's policies: with a floor of one half for those whose budget had slack."""

    def choose(calibration: NDArray[np.float64], test: NDArray[np.float64], budget: float) -> NDArray[np.bool_]:
        slack = had_slack(seed_dir / "policies" / f"ibpo-{budget:g}")
        return find_threshold(calibration, budget, floor=0.5 if slack else 0.0).choose(test)

    return choose
