"""IBPO beside the best baseline at every cost, out of a run of `ibpo demo`: `python -m benchmarks.dominance RUN`.

At each cost (mean tokens, in multiples of one standard response of the cold start; 1 % more is let pass) the best that
can be had without IBPO: the two of standard only, extended only, RAFT and majority votes of 2 to 8 of the cold start,
the pretrained model and RAFT whose mixture at that cost is right most often. Beside it the same of IBPO's policy, as it
was sampled at the demo's budgets and forced into either response group; then with majority votes of its standard
responses, too, as the baselines have them. The differences are paired by problem; the intervals (95 %, normal) are over
problems, and over seeds by the mean of independent ones. All mixtures are chosen by what they are judged by.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ibpo.demo import calibrated_choice, experiment_named
from ibpo.evaluation import compare_methods
from ibpo.evaluation.methods import Methods

COSTS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5)
OURS = ("IBPO sampled", "IBPO forced standard", "IBPO forced extended")
BASELINES = ("standard only", "extended only", "RAFT without budget", "RAFT forced standard", "RAFT forced extended")
OWN_VOTES = ("self-consistency (IBPO) maj@",)
VOTES = tuple(f"self-consistency ({name}) maj@" for name in ("cold start", "pretrained", "RAFT"))


Points = list[tuple[str, float, np.ndarray]]
"""Name, cost and accuracy [P] of each."""
Run = tuple[Points, Points, Points]
"""Of one seed: the baselines, IBPO, and IBPO with the votes of its own policy."""


def best_at(points: Points, cost: float) -> tuple[str, np.ndarray, float]:
    """Of the single points that fit the cost and the mixtures of two that come to it, the one that is right most often.

    Args:
        points: of one seed.
        cost: what may be spent.

    Returns:
        Its name, its accuracy [P] and its mean.
    """
    found = [(name, accuracy) for name, own, accuracy in points if own <= 1.01 * cost]
    for name, low, first in points:
        for other, high, second in points:
            if low < cost < high:
                part = (cost - low) / (high - low)
                found.append((f"{name} + {other}", (1 - part) * first + part * second))
    name, accuracy = max(found, key=lambda one: float(one[1].mean()))
    return name, accuracy, float(accuracy.mean())


def points_of(found: Methods, wanted: Sequence[str], votes: Sequence[str]) -> Points:
    """Name, relative cost and accuracy [P] of the rows of these methods."""
    return [
        (
            row["method"] + ("" if row["budget"] is None else f" {row['budget']:.0%}"),
            row["relative_cost"],
            np.asarray(result.accuracy, float),
        )
        for row, result in zip(found.rows, found.results, strict=True)
        if row["method"] in wanted or row["method"].startswith(tuple(votes) or ("\0",))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run of `ibpo demo`")
    parser.add_argument("--picture", type=Path, help="also draw the curves, with their 95 %% bands")
    options = parser.parse_args()
    settings = json.loads((options.run / "settings.json").read_text(encoding="utf-8"))
    drawn: dict[str, list[Run]] = {}
    for experiment in settings["experiments"]:
        levels = list(experiment_named(experiment).task.MIX)
        runs: list[Run] = []
        for seed in settings["seeds"]:
            folder = options.run / experiment / f"seed{seed}"
            found = compare_methods(folder, experiment, seed, calibrated_choice(folder), levels, num_draws=20)
            points = points_of(found, OURS, ()), points_of(found, OURS, OWN_VOTES)
            runs.append((points_of(found, BASELINES, VOTES), *points))
        most = min(max(cost for _, cost, _ in ours) for _, ours, _ in runs)
        print(f"\n**{experiment}**, seeds: {len(runs)}\n")
        print("| cost | best baseline | % right | IBPO | difference, points | IBPO and its votes | difference |")
        print("|---|---|---|---|---|---|---|")
        for cost in [c for c in COSTS if c < most] + [most]:
            best = [[best_at(points, cost) for points in run] for run in runs]
            names = [baseline[0] for baseline, _, _ in best]
            line = f"| {cost:.2f} | {max(set(names), key=names.count)} | {mean_right(best, 0):.1f}"
            for k in (1, 2):
                differences = [seed[k][1] - seed[0][1] for seed in best]
                value = 100 * float(np.mean([d.mean() for d in differences]))
                error = 100 * float(np.sqrt(np.sum([d.var(ddof=1) / len(d) for d in differences]))) / len(differences)
                low, high = value - 1.96 * error, value + 1.96 * error
                line += f" | {mean_right(best, k):.1f} | {value:+.1f} ({low:+.1f} to {high:+.1f})"
            print(line + " |")
        drawn[experiment] = runs
    if options.picture:
        draw(drawn, options.picture)


def draw(runs: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Accuracy against cost of the best baseline, of IBPO, and of IBPO and its votes, one panel per experiment."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2 * len(runs), 4.8), layout="constrained")
    grid = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, (experiment, own) in zip(grid, runs.items(), strict=True):
        most = min(max(cost for _, cost, _ in ours) for _, ours, _ in own)
        costs = np.linspace(1.0, most, 60)
        for k, label, colour, style in (
            (0, "best baseline at each cost", "#8a8a8a", "--"),
            (1, "IBPO", "#d55e00", "-"),
            (2, "IBPO and its own votes", "#0072b2", ":"),
        ):
            right = [[best_at(run[k], cost)[1] for run in own] for cost in costs.tolist()]
            mean = np.array([np.mean([one.mean() for one in seeds]) for seeds in right])
            error = np.array([np.sqrt(sum(one.var(ddof=1) / len(one) for one in seeds)) / len(own) for seeds in right])
            axes.plot(costs, mean, style, color=colour, label=label)
            axes.fill_between(costs, mean - 1.96 * error, mean + 1.96 * error, color=colour, alpha=0.15, linewidth=0)
        points = [(cost, accuracy.mean(), name) for name, cost, accuracy in own[0][0] if cost <= most]
        for cost, accuracy, name in points:
            voted = "self-consistency" in name
            axes.plot(cost, accuracy, "^" if voted else "s", color="#8a8a8a", markersize=4, markerfacecolor="none")
        axes.set(xlabel="cost, in standard responses", ylabel="accuracy", title=experiment)
        axes.grid(alpha=0.25)
    grid[0].plot([], [], "s", color="#8a8a8a", markersize=4, markerfacecolor="none", label="a baseline (first seed)")
    grid[0].plot([], [], "^", color="#8a8a8a", markersize=4, markerfacecolor="none", label="votes (first seed)")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=150)


def mean_right(best: Sequence[Sequence[tuple[str, np.ndarray, float]]], which: int) -> float:
    """Mean over seeds, in percent."""
    return 100 * float(np.mean([seed[which][2] for seed in best]))


if __name__ == "__main__":
    main()
