"""Set the trained policies beside every other way of spending the same: one row per method, then figures of merit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.evaluation.curves import areas
from ibpo.evaluation.merits import Allocated, SelfConsistency, figures_of_merit, summarise
from ibpo.evaluation.metrics import majority_accuracy
from ibpo.evaluation.oracles import level_oracle_held_out
from ibpo.evaluation.statistics import FloatArray, estimate_mean
from ibpo.evaluation.store import (
    Columns,
    PerProblem,
    Problems,
    by_sample,
    find_problems,
    load_choices,
    load_responses,
    mix,
    per_problem,
)

__all__ = ["Choose", "Comparison", "compare", "load_responses", "mean_over_seeds", "summarise"]

MAX_VOTES = 12
SHOWN_VOTES = (2, 4, 8)
"""Votes of a trained policy that get a row; its curve has them all, and one vote is the policy forced standard."""
CURVES = ("IBPO sampled", "IBPO calibrated", "oracle by level")
"""Methods whose points at several budgets make a curve with an area under it."""
Row = dict[str, Any]
Choose = Callable[[FloatArray, FloatArray, float], NDArray[np.bool_]]
"""(p_extended `[C]` on unlabelled calibration prompts, p_extended `[P]` on the test prompts, share) -> extended `[P]`.

The rule that holds the budget while answering; `ibpo.serving.find_threshold` is the shipped one.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What `compare` found: the first three hold plain values only, ready for JSON (None where there is no number)."""

    rows: list[Row]
    """One per method and budget: `experiment, method, budget, seed, num_problems, accuracy, stderr, extended_share,
    share_by_level, accuracy_by_level, mean_tokens, relative_cost, truncated_share`."""
    areas: list[dict[str, Any]]
    """One per curve of several points: `name`, the relative costs `low` and `high` between which it was measured, its
    `area` and the random mix's between the same, `mix`, each with an interval (`ibpo.evaluation.curves.areas`)."""
    merits: list[dict[str, Any]]
    """One per budget and variant ("sampled", "calibrated"); `ibpo.evaluation.merits.figures_of_merit` explains them."""
    results: list[PerProblem] = field(default_factory=list[PerProblem])
    """What each row was made of, in the rows' order; arrays, not for JSON."""


def compare(
    directory: Path,
    experiment: str,
    seed: int,
    choose: Choose,
    levels: Sequence[str] = (),
    *,
    num_draws: int = 500,
    budgets: Sequence[float] = (),
) -> Comparison:
    """Compare all policies whose responses lie in `directory`; what was not sampled is left out.

    Costs are relative to the mean tokens of a standard response of the cold start.

    Args:
        directory: The folder of one experiment and seed, with `responses/` and `choices/`.
        experiment: Its name, for the rows.
        seed: Its seed, for the rows and the draws.
        choose: The rule that calibrates a trained policy's choice.
        levels: Names of the levels, easiest first.
        num_draws: Bootstrap draws for the intervals of the figures of merit.
        budgets: Budgets to show random mix and oracle at, besides those of the policies that are there.

    Returns:
        Rows and figures of merit.

    Raises:
        ValueError: the forced responses of the cold start are missing, or policies answered different problems.
    """
    responses, choices = load_responses(Path(directory)), load_choices(Path(directory))
    missing = [how for how in ("standard", "extended") if ("cold_start", how) not in responses]
    if missing:
        raise ValueError(f"{directory}: no responses/cold_start__{missing[0]}.parquet to compare with")
    problems = find_problems(responses["cold_start", "standard"], levels)
    found: dict[tuple[str, str], PerProblem] = {}
    for (policy, how), columns in responses.items():
        try:
            found[policy, how] = per_problem(columns, problems)
        except ValueError as error:
            raise ValueError(f"{directory}: {policy}__{how}: {error}") from None
    standard, extended = found["cold_start", "standard"], found["cold_start", "extended"]
    trained_for = {float(policy.removeprefix("ibpo-")) for policy, _ in found if policy.startswith("ibpo-")}
    budgets = sorted({*budgets, *trained_for})
    base_tokens = float(standard.tokens.mean())
    rows: list[Row] = []
    results: list[PerProblem] = []
    curves: dict[str, list[PerProblem]] = {"random mix": [standard, extended]}

    def add(method: str, budget: float | None, result: PerProblem) -> None:
        row = {"experiment": experiment, "method": method, "budget": budget, "seed": seed}
        if budget is not None and method in CURVES:
            curves.setdefault(method, []).append(result)
        rows.append(row | numbers(result, problems, base_tokens))
        results.append(result)

    add("standard only", None, standard)
    add("extended only", None, extended)
    for budget in budgets:
        add("random mix", budget, mix(standard, extended, np.full(len(problems.level), budget)))
    consistency: dict[str, SelfConsistency] = {}
    for policy, name in (("cold_start", "cold start"), ("pretrained", "pretrained")):
        if (policy, "standard") not in found:
            continue
        curve = _vote_curve(responses[policy, "standard"], found[policy, "standard"])
        curves[f"self-consistency ({name})"] = curve
        for k, result in enumerate(curve, start=1):
            add(f"self-consistency ({name}) maj@{k}", None, result)
        consistency[policy] = SelfConsistency(
            standard=found[policy, "standard"].accuracy,
            accuracy=np.array([result.accuracy for result in curve]),
            relative_cost=np.array([result.tokens for result in curve]) / base_tokens,
        )
    trained = [("IBPO", budget, f"ibpo-{budget:g}") for budget in budgets] + [("RAFT", None, "raft")]
    for name, budget, policy in trained:
        if (policy, "standard") not in found:
            continue
        votes = _vote_curve(responses[policy, "standard"], found[policy, "standard"])
        curves[f"self-consistency ({name}{'' if budget is None else f', {budget:.0%}'})"] = votes
        for k in SHOWN_VOTES:
            if k <= len(votes):
                add(f"self-consistency ({name}) maj@{k}", budget, votes[k - 1])
    if ("raft", "sampled") in found:
        add("RAFT without budget", None, found["raft", "sampled"])

    merits: list[dict[str, Any]] = []
    for budget in budgets:
        policy = f"ibpo-{budget:g}"
        own = found.get((policy, "standard")), found.get((policy, "extended"))
        variants = {"sampled": found.get((policy, "sampled"))}
        if (policy, "calibration") in choices and (policy, "test") in choices and own[0] and own[1]:
            p_test = _in_order(choices[policy, "test"], problems, f"{directory}: {policy}__test")
            chosen = choose(choices[policy, "calibration"]["p_extended"].astype(float), p_test, budget)
            variants["calibrated"] = mix(own[0], own[1], np.asarray(chosen, float))
        for variant, result in variants.items():
            if result is None:
                continue
            add(f"IBPO {variant}", budget, result)
            allocated = Allocated(
                budget=budget, variant=variant, result=result, own_standard=own[0], own_extended=own[1]
            )
            head = {"experiment": experiment, "seed": seed, "budget": budget, "variant": variant}
            merit = figures_of_merit(
                allocated, standard, extended, problems, consistency, num_draws=num_draws, seed=seed
            )
            merits.append(head | merit)
    reward0, reward1 = (by_sample(responses["cold_start", how], "reward") for how in ("standard", "extended"))
    for budget in budgets if min(reward0.shape[1], reward1.shape[1]) > 1 else ():
        accuracy, share, _ = level_oracle_held_out(reward0, reward1, problems, budget, seed=seed)
        add("oracle by level", budget, replace(mix(standard, extended, share), accuracy=accuracy))
    for how in ("standard", "extended"):
        for name, budget, policy in trained:
            if (policy, how) in found:
                add(f"{name} forced {how}", budget, found[policy, how])
    head = {"experiment": experiment, "seed": seed}
    areas = [head | row for row in areas_of(curves, base_tokens, seed)]
    return Comparison(rows=rows, merits=merits, areas=areas, results=results)


def mean_over_seeds(rows: Iterable[Row]) -> list[Row]:
    """One row per experiment, method and budget: means over the seeds, `seed` None, and `num_seeds`.

    The stderr is the root mean square of the seeds' own, what one seed's problems leave open; it does not shrink with
    the number of seeds, and no more do the ends of intervals, which are the means of the seeds' own. What some seeds
    have no number for is the mean of the others. `accuracy_range` is the smallest and the largest accuracy of a seed.

    Example:
        >>> row = dict(experiment="e", method="m", budget=None, seed=0, accuracy=0.5, stderr=0.1)
        >>> mean_over_seeds([row, row | {"seed": 1, "accuracy": 0.7}])[0]["accuracy"]
        0.6
    """
    siblings: dict[tuple[str, str, float | None], list[Row]] = {}
    for row in rows:
        siblings.setdefault((row["experiment"], row["method"], row["budget"]), []).append(row)
    merged = []
    for same in siblings.values():
        row = dict(same[0])
        row |= {key: _mean([r.get(key) for r in same]) for key in row if key not in ("budget", "seed", "num_problems")}
        row["stderr"] = float(np.sqrt(np.mean([r["stderr"] ** 2 for r in same])))
        row["accuracy_range"] = [min(r["accuracy"] for r in same), max(r["accuracy"] for r in same)]
        merged.append(row | {"seed": None, "num_seeds": len(same)})
    return merged


def _mean(values: Sequence[Any]) -> Any:
    """Of the seeds' numbers, or name by name; texts are the same for all."""
    known = [value for value in values if value is not None]
    if not known or isinstance(known[0], str):
        return known[0] if known else None
    if isinstance(known[0], dict):
        names = dict.fromkeys(name for value in known for name in value)
        return {name: _mean([value.get(name) for value in known]) for name in names}
    return float(np.mean(known))


def numbers(result: PerProblem, problems: Problems, base_tokens: float) -> Row:
    """The numbers of a row of `Comparison.rows`; costs are relative to `base_tokens`."""
    accuracy = estimate_mean(result.accuracy, problems.problem_id)
    truncated = float(result.truncated.mean())
    return {
        "num_problems": len(problems.level),
        "accuracy": accuracy.value,
        "stderr": accuracy.stderr,
        "extended_share": float(result.share.mean()),
        "share_by_level": _named(problems.by_level(result.share), problems),
        "accuracy_by_level": _named(problems.by_level(result.accuracy), problems),
        "mean_tokens": float(result.tokens.mean()),
        "relative_cost": float(result.tokens.mean()) / base_tokens,
        "truncated_share": None if np.isnan(truncated) else truncated,
    }


def _named(value_L: FloatArray, problems: Problems) -> dict[str, float]:
    return dict(zip(problems.levels, value_L.tolist(), strict=True))


def _vote_curve(columns: Columns, single: PerProblem) -> list[PerProblem]:
    """maj@k of standard responses for k = 1, 2, ...; k votes cost k responses."""
    answers, correct = by_sample(columns, "predicted_answer"), by_sample(columns, "reward")
    return [
        replace(single, accuracy=majority_accuracy(answers, correct, k), tokens=k * single.tokens)
        for k in range(1, min(MAX_VOTES, answers.shape[1]) + 1)
    ]


def areas_of(curves: dict[str, list[PerProblem]], base_tokens: float, seed: int) -> list[dict[str, Any]]:
    """Areas under curves: name -> the points' results; `"random mix"` must be standard only and extended only.

    Between the costs of standard only and extended only; a curve has the part that it reaches.
    """
    points = {
        name: (np.array([r.tokens for r in results]) / base_tokens, np.array([r.accuracy for r in results]))
        for name, results in curves.items()
    }
    low, high = sorted(float(cost_P.mean()) for cost_P in points["random mix"][0])
    found = areas(points, low, high, mix="random mix", seed=seed)
    return [
        row | {key: None if row[key] is None else asdict(row[key]) for key in ("area", "mix")}
        for row in found
        if not np.isnan(row["area"].value)
    ]


def _in_order(columns: Columns, problems: Problems, where: str) -> FloatArray:
    """`[P]` p_extended in the order of the problems."""
    p_extended = dict(zip(columns["problem_id"], columns["p_extended"].astype(float), strict=True))
    try:
        return np.array([p_extended[problem_id] for problem_id in problems.problem_id])
    except KeyError as error:
        raise ValueError(f"{where}: no choice for problem {error}") from None
