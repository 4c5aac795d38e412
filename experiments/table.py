"""One row for each baseline and strength, with the keys of `results.json`, from the responses that its jobs left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.recipes import BUDGETS, recipes_of
from experiments.votes import adaptive_votes, consensus, oracle_by_problem, posterior
from ibpo.demo import table_file
from ibpo.evaluation import (
    MODELS,
    Methods,
    PerProblem,
    Responses,
    Yardsticks,
    areas_of,
    by_number,
    estimate_gain_ratio,
    find_problems,
    mix,
    numbers,
    per_problem,
    read_table,
    table_files,
)

POSTERIORS = (0.6, 0.8, 0.9, 0.95, 0.99)
CONSENSUS = (2, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One method at one strength or budget."""

    method: str
    budget: float | None
    curve: str
    """Points of one name make a curve with an area under it; "": none."""
    result: PerProblem


def tabulate(seed_dir: Path, experiment: str, seed: int, levels: Sequence[str], names: Sequence[str]) -> Methods:
    """Rows and areas of these baselines; what has not been sampled is left out. It has no figures of merit of its own.

    Args:
        seed_dir: The folder of one experiment and seed.
        experiment: Its name.
        seed: Its seed.
        levels: Names of the levels, easiest first.
        names: Baselines, as `experiments/baselines.py` takes them.
    """
    files = {
        path.name.removesuffix(".jsonl.gz").removesuffix(".parquet"): path
        for path in table_files(seed_dir, "responses")
    }
    cold = {how: read_table(files[f"cold_start__{how}"]) for how in ("standard", "extended")}
    problems = find_problems(cold["standard"], levels)
    standard, extended = (per_problem(cold[how], problems) for how in ("standard", "extended"))
    points: list[Point] = []
    if "adaptive-self-consistency" in names:
        for model, spoken in MODELS.items():
            if f"{model}__standard" in files:
                columns = read_table(files[f"{model}__standard"])
                points += _adaptive_votes(columns, per_problem(columns, problems), spoken)
    more = table_file(seed_dir / "oracle" / "cold_start__extended.jsonl.gz")
    if "oracle-by-problem" in names and more.exists():
        rewards = by_number(cold["standard"], "reward"), by_number(read_table(more), "reward")
        for budget in BUDGETS:
            accuracy, share, _ = oracle_by_problem(*rewards, budget, seed=seed)
            result = replace(mix(standard, extended, share), accuracy=accuracy)
            points.append(Point(method=HELD_OUT, budget=budget, curve=HELD_OUT, result=result))
    sampled = [
        *(("self-correction", "self-correction by prompting", None, "") for _ in range("self-correction" in names)),
        *(
            (f"solve-then-learn-{q:g}", "solve-then-learn", q, "solve-then-learn")
            for q in BUDGETS
            if "solve-then-learn" in names
        ),
        *((r.name, r.method, None, r.baseline) for r in recipes_of(names)),
    ]
    for policy, method, budget, curve in sampled:
        if f"{policy}__sampled" in files:
            result = per_problem(read_table(files[f"{policy}__sampled"]), problems)
            points.append(Point(method=method, budget=budget, curve=curve, result=result))
    base_tokens = float(standard.tokens.mean())
    head = {"experiment": experiment, "seed": seed}
    rows = [
        {"experiment": experiment, "method": p.method, "budget": p.budget, "seed": seed}
        | numbers(p.result, problems, base_tokens)
        for p in points
    ]
    curves: dict[str, list[PerProblem]] = {"random mix": [standard, extended]}
    for point in points:
        if point.curve:
            curves.setdefault(point.curve, []).append(point.result)
    areas = [row for row in areas_of(curves, base_tokens, seed) if row["name"] != "random mix"]
    found = [p.result for p in points]
    return Methods(rows=rows, merits=[], areas=[head | row for row in areas], results=found)


def hold_against(yardsticks: Yardsticks, result: PerProblem) -> dict[str, Any]:
    """Gain ratios, oracle share and gain over the random mix of one row, at its own mean tokens.

    `gain_ratio_MODEL` of each model with votes (`ibpo.evaluation.estimate_gain_ratio`), `above_random_mix` and
    `oracle_share` (`ibpo.evaluation.Reference`). Each has `value`, `low` and `high`, or is None where the number does
    not exist.
    """
    accuracy, tokens, seed = result.accuracy, result.tokens, yardsticks.seed
    found: dict[str, Any] = {}
    for model, curve in yardsticks.votes.items():
        with np.errstate(invalid="ignore"):  # where votes gain almost nothing some draws are infinite
            ratio = estimate_gain_ratio(accuracy, tokens, curve.accuracy, curve.cost, seed=seed)
        found[f"gain_ratio_{model}"] = None if np.isnan(ratio.value) else ratio
    found["above_random_mix"] = yardsticks.reference.above_random_mix(accuracy, tokens, seed=seed)
    found["oracle_share"] = yardsticks.reference.oracle_share(accuracy, tokens, seed=seed)
    ends = ("value", "low", "high")
    return {
        name: None if one is None else {end: x if np.isfinite(x := float(getattr(one, end))) else None for end in ends}
        for name, one in found.items()
    }


HELD_OUT = "oracle by problem, held out"


def _adaptive_votes(columns: Responses, single: PerProblem, model: str) -> Iterator[Point]:
    answers, correct, tokens = (by_number(columns, name) for name in ("answer", "reward", "tokens"))
    name = f"adaptive self-consistency ({model})"
    for curve, label, stop in (
        *((f"{name}, consensus", f"{name}, consensus {k}", consensus(k)) for k in CONSENSUS),
        *((f"{name}, posterior", f"{name}, posterior {t:g}", posterior(t)) for t in POSTERIORS),
    ):
        accuracy, cost = adaptive_votes(answers, correct, tokens, stop)
        result = replace(single, accuracy=accuracy, tokens=np.asarray(cost))
        yield Point(method=label, budget=None, curve=curve, result=result)
