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
from rich.table import Table

from ibpo.demo.experiments import EXPERIMENTS, experiment_named
from ibpo.demo.run import NUM_WORKERS, TRAINED, TRAINED_AT, DemoSettings
from ibpo.evaluation import (
    PageData,
    compare_methods,
    join,
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

ARTEFACTS = ("results.json", "merits.json", "frontier.png", "share_by_level.png", "report.html", "report.md")


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
    write_text_atomic(run_dir / "results.json", json.dumps(rows, indent=1))
    over_seeds = summarise([merits])
    write_text_atomic(
        run_dir / "merits.json", json.dumps({"per_seed": merits, "over_seeds": over_seeds, "areas": areas}, indent=1)
    )
    for plot, file in ((plot_frontier, "frontier.png"), (plot_share_by_level, "share_by_level.png")):
        plot(rows, run_dir / file, titles)
    data = PageData(
        title="A language model that spends its inference budget where it pays",
        answer=_answer(rows, merits, settings),
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
    )
    write_page(run_dir, data)
    console.print(terminal_table(rows))
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


def _mean(rows: list[dict[str, Any]], method: str, key: str, budget: float | None, experiment: str) -> float:
    found = [
        row[key]
        for row in rows
        if row["method"] == method and row["budget"] == budget and row["experiment"] == experiment
    ]
    return float(np.mean(found))


def _of(name: str, *found: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What belongs to one experiment."""
    return [[one for one in every if one["experiment"] == name] for every in found]


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
            _conclusion(name, merits, budget)
            + f"{name.capitalize()}: allowed to answer {budget:.0%} of unseen problems by extended reasoning, the "
            f"trained policy used it on {share:.1%} and was right on {accuracy['IBPO sampled']:.1%} "
            f"({accuracy['IBPO calibrated']:.1%} calibrated); spending all of it at random gives "
            f"{accuracy['random mix']:.1%}, always extended {accuracy['extended only']:.1%}, never "
            f"{accuracy['standard only']:.1%}."
        )
    return " ".join(parts)


def _conclusion(name: str, merits: list[dict[str, Any]], budget: float) -> str:
    """What comes first where the gain over spending at random may be chance, or is none; "" where it is a gain."""
    gains = [
        (one["oracle_share"], *one["oracle_share_interval"])
        for one in merits
        if (one["experiment"], one["budget"], one["variant"]) == (name, budget, "sampled")
        and one.get("oracle_share_interval") is not None
    ]
    if not gains:
        return f"No conclusion for {name}: what the policy gains over spending at random was not measured. "
    value = float(np.mean([gain[0] for gain in gains]))
    # Half the width of the mean of independent seeds.
    half = float(np.sqrt(np.sum([((gain[2] - gain[1]) / 2) ** 2 for gain in gains]))) / len(gains)
    said = (
        f"over spending as much at random it gains {100 * value:+.0f} % of what an oracle by level would "
        f"(95 %: {100 * (value - half):+.0f} to {100 * (value + half):+.0f}). "
    )
    if value - half > 0:
        return ""
    return f"Against the claim, in {name}: {said}" if value + half < 0 else f"No conclusion for {name}: {said}"


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


def terminal_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A short table for the end of a run: means over seeds; of self-consistency only the cost next to IBPO's."""
    merged = mean_over_seeds(rows)
    table = Table(title="Unseen problems: accuracy against cost", title_justify="left")
    for name in ("experiment", "method"):
        table.add_column(name, overflow="fold")
    for name in ("budget", "accuracy", "extended share", "cost"):
        table.add_column(name, justify="right", no_wrap=name != "extended share")
    last = None
    for row in merged:
        if "forced" in row["method"] or ("self-consistency" in row["method"] and not _is_next_to_ibpo(row, merged)):
            continue
        table.add_row(
            row["experiment"] if row["experiment"] != last else "",
            row["method"],
            "" if row["budget"] is None else f"{row['budget']:.0%}",
            f"{row['accuracy']:.1%} ± {100 * row['stderr']:.1f}",
            f"{row['extended_share']:.1%}",
            f"{row['relative_cost']:.2f}×",
            style="bold" if row["method"] == "IBPO calibrated" else None,
        )
        last = row["experiment"]
    return table


def _is_next_to_ibpo(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Of an untrained model's maj@k, k > 1, the one whose cost is nearest to that of the middle calibrated policy."""
    if "(IBPO)" in row["method"] or "(RAFT)" in row["method"]:
        return False
    same = [r for r in rows if r["experiment"] == row["experiment"]]
    family = row["method"].rsplit("@", 1)[0]
    votes = [r for r in same if r["method"].startswith(family) and not r["method"].endswith("maj@1")]
    costs = sorted(r["relative_cost"] for r in same if r["method"] == "IBPO calibrated")
    middle = costs[len(costs) // 2] if costs else 1.0
    return bool(votes) and row is min(votes, key=lambda r: abs(r["relative_cost"] - middle))


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
