"""What was tried on validation problems, and what was chosen: one JSON file per experiment, shown with the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.context import Context
from experiments.recipes import RECIPES, Recipe
from ibpo.evaluation.metrics import random_mix
from ibpo.evaluation.statistics import estimate_mean
from ibpo.evaluation.store import find_problems, per_problem, read_columns
from ibpo.runs import write_text_atomic


def candidate_name(policy: str, candidate: Mapping[str, Any]) -> str:
    """Of the candidate's folder.

    Example:
        >>> candidate_name("grpo", {"learning_rate": 0.001})
        'grpo~learning_rate-0.001'
    """
    return policy + "~" + "~".join(f"{key}-{value:g}" for key, value in candidate.items())


def value(context: Context, name: str) -> dict[str, float]:
    """Accuracy, share, cost and accuracy above the random mix of the same cost, of a policy's validation responses."""
    files = {
        how: read_columns(context.responses("cold_start", how, split="validation")) for how in ("standard", "extended")
    }
    problems = find_problems(files["standard"])
    standard, extended = (per_problem(files[how], problems) for how in ("standard", "extended"))
    own = per_problem(read_columns(context.responses(name, split="validation")), problems)
    accuracy = estimate_mean(own.accuracy, problems.problem_id)
    cost, low, high = (float(one.tokens.mean()) for one in (own, standard, extended))
    # Beyond both ends the line goes on level: what costs more than extended only is compared with it.
    part = float(np.clip((cost - low) / (high - low), 0, 1)) if high > low else 0.0
    mix = random_mix(float(standard.accuracy.mean()), float(extended.accuracy.mean()), part)
    return {
        "accuracy": accuracy.value,
        "stderr": accuracy.stderr,
        "extended_share": float(own.share.mean()),
        "relative_cost": cost / low,
        "above_random_mix": accuracy.value - mix,
    }


def choose(context: Context, recipe: Recipe) -> list[dict[str, Any]]:
    """Value every candidate, choose the best by the recipe's goal, keep all in the tuning file."""
    rows = [
        {"policy": recipe.name, "goal": recipe.goal, "options": dict(candidate)}
        | value(context, candidate_name(recipe.name, candidate))
        for candidate in recipe.candidates
    ]
    best = max(range(len(rows)), key=lambda i: rows[i][recipe.goal])
    rows = [
        row | {"seed": context.job.seed, "num_validation": context.job.num_validation, "chosen": i == best}
        for i, row in enumerate(rows)
    ]
    _keep(context, recipe.name, rows)
    return rows


def keep_route(context: Context) -> None:
    """Keep what solve-then-learn tried at this seed; the other seeds take over what it chose."""
    tried = json.loads((context.home / "solve-then-learn.json").read_text(encoding="utf-8"))
    _keep(context, "solve-then-learn", tried)


def _keep(context: Context, policy: str, rows: list[dict[str, Any]]) -> None:
    path = Path(context.job.tuning_file)
    kept = [row for row in read_tuning(path) if row["policy"] != policy]
    write_text_atomic(path, json.dumps([*kept, *rows], indent=1))


def read_tuning(path: Path) -> list[dict[str, Any]]:
    """All candidates of all policies so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def is_tuned(path: Path, policy: str) -> bool:
    """Whether this policy's options have been chosen."""
    return any(row["policy"] == policy for row in read_tuning(path))


def options_of(recipe: Recipe, tuning: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Its own options, and those that were chosen for it and for the policy that it takes over from."""
    chosen = {row["policy"]: dict(row["options"]) for row in tuning if row["chosen"]}
    return {key: v for name in (recipe.as_tuned, recipe.name) for key, v in chosen.get(name, {}).items()} | dict(
        recipe.options
    )


def tuned_by(name: str) -> tuple[Recipe, dict[str, Any] | None]:
    """A job's name -> its policy, and the candidate's options where it is one.

    Example:
        >>> recipe, candidate = tuned_by("grpo~learning_rate-0.001")
        >>> recipe.name, candidate
        ('grpo', {'learning_rate': 0.001})
    """
    policy, _, rest = name.partition("~")
    recipe = RECIPES[policy]
    if not rest:
        return recipe, None
    return recipe, next(dict(c) for c in recipe.candidates if candidate_name(policy, c) == name)
