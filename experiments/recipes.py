"""Which baselines there are: what each trains, in which strengths, what its training costs, and how it is tuned.

Equal means? Every policy's row names its updates and the responses that were sampled for it in training. What is tuned
is chosen on validation problems: what was tried is kept in one JSON file per experiment, and shown with the results.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.context import NUM_PROBE_RESPONSES, Context
from ibpo.errors import IbpoError
from ibpo.evaluation import estimate_mean, find_problems, per_problem, random_mix, read_table
from ibpo.runs import write_text_atomic

BUDGETS = (0.25, 0.5, 0.75)
REFERENCES = ("standard-only", "extended-only", "random-mix", "self-consistency", "oracle-by-level")
"""Made of the responses that every run samples, so that their rows are in every table; alone they sample no more."""
UNTRAINED = ("adaptive-self-consistency", "oracle-by-problem", "solve-then-learn", "self-correction")
"""Baselines that train no policy; all of them are made of the cold start's (and the pretrained model's) responses."""
OF_DEMO = ("raft", "ibpo")
"""Policies that a demo run of the same name has; without one they are trained here, as there."""
LEARNING_RATES = ({"learning_rate": 3e-4}, {"learning_rate": 1e-3})
OPENING_WEIGHTS = (0.01, 1.0)
"""Thinkless publishes 0.001, for responses of thousands of tokens."""
RESPONSES_PER_UPDATE = {"thinking": 256, "voting": 128}
"""Responses per update of reinforcement learning. Voting's are long: with half as many there are twice the updates."""
NUM_STEPS = {"thinking": 95, "voting": 60}
"""Updates that let three seeds of everything end within 90 minutes on two idle cores (docs/results/baselines.md).
Thinking's are as many responses as IBPO's own 190 updates of 128; voting's are a sixteenth."""
PART_OF_OTHERS = {"thinking": 1.0, "voting": 0.5}
"""Where not all policies can have so many updates: the part that those without `Recipe.all_updates` get."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One policy: one strength of one baseline."""

    name: str
    """Name of its folder, and of its responses."""
    baseline: str
    method: str
    """What its row is called."""
    train: str
    """`module:function` in `experiments`, which takes context, folder and the options."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    candidates: Sequence[Mapping[str, Any]] = ()
    """Options to choose from on validation problems; empty: nothing is tuned for it."""
    goal: str = "accuracy"
    """What decides: `accuracy`, or `above_random_mix`, accuracy less that of a random mix that costs the same."""
    as_tuned: str = ""
    """The policy whose chosen options it takes over."""
    two_turns: bool = False
    all_updates: bool = False
    """Trained for as long as the time allows, where others have to make do with less (`NUM_STEPS`)."""


def _length_penalty(strength: float) -> Recipe:
    tuned = strength == 0.4
    return Recipe(
        name=f"grpo-length-{strength:g}",
        baseline="grpo-length",
        method=f"GRPO, length penalty {strength:g}",
        train="grpo:grpo_with_length_penalty",
        options={"strength": strength},
        candidates=LEARNING_RATES if tuned else (),
        goal="above_random_mix",
        as_tuned="" if tuned else "grpo-length-0.4",
        all_updates=True,
    )


def _adaptthink(bonus: float) -> Recipe:
    tuned = bonus == 0.05  # as published
    return Recipe(
        name=f"adaptthink-{bonus:g}",
        baseline="adaptthink",
        method=f"AdaptThink-like, bonus {bonus:g}",
        train="grpo:adaptthink",
        options={"bonus": bonus},
        candidates=LEARNING_RATES if tuned else (),
        goal="above_random_mix",
        as_tuned="" if tuned else "adaptthink-0.05",
    )


def _sft(name: str, method: str, **options: Any) -> Recipe:
    tuned = name == "asv-sft-1"
    return Recipe(
        name=name,
        baseline="sv-sft" if name == "sv-sft" else "asv-sft",
        method=method,
        train="supervised:sft",
        options=options,
        candidates=LEARNING_RATES if tuned else (),
        goal="above_random_mix",
        as_tuned="" if tuned else "asv-sft-1",
    )


ALL = (
    _sft("sv-sft", "SV-SFT", mixture="sv"),
    _sft("asv-sft-0.5", "ASV-SFT-0.5", mixture="asv", alpha=0.5),
    _sft("asv-sft-1", "ASV-SFT-1", mixture="asv", alpha=1.0),
    Recipe(name="grpo", baseline="grpo", method="GRPO", train="grpo:grpo", candidates=LEARNING_RATES),
    *map(_length_penalty, (0.1, 0.4, 1.0)),
    Recipe(
        name="thinkless-0.5",
        baseline="thinkless",
        method="Thinkless-like, gap 0.5",
        train="grpo:thinkless",
        options={"gap": 0.5},  # as published
        candidates=[rate | {"opening_weight": weight} for rate in LEARNING_RATES for weight in OPENING_WEIGHTS],
        goal="above_random_mix",
    ),
    *map(_adaptthink, (0.05, 0.3)),
    Recipe(
        name="score",
        baseline="score",
        method="SCoRe, two turns",
        train="two_turns:score_policy",
        candidates=LEARNING_RATES,
        goal="above_random_mix",
        two_turns=True,
        all_updates=True,
    ),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in ALL}
NAMES = (*REFERENCES, *OF_DEMO, *UNTRAINED, *dict.fromkeys(recipe.baseline for recipe in RECIPES.values()))
"""What `experiments/baselines.py --baseline` takes."""


def recipes_of(names: Sequence[str]) -> list[Recipe]:
    """The policies of these baselines, in the order of their training.

    Raises:
        IbpoError: The name is unknown.

    Example:
        >>> [recipe.name for recipe in recipes_of(["grpo-length"])]
        ['grpo-length-0.1', 'grpo-length-0.4', 'grpo-length-1']
    """
    for name in names:
        if name not in NAMES:
            raise IbpoError(f"--baseline: {name!r} is not one of {', '.join(NAMES)}")
    return [recipe for recipe in RECIPES.values() if recipe.baseline in names]


def to_tune(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Policies to tune before these are trained: themselves, or the ones whose options they take over.

    Example:
        >>> [recipe.name for recipe in to_tune(recipes_of(["grpo-length", "sv-sft"]))]
        ['asv-sft-1', 'grpo-length-0.4']
    """
    wanted = {recipe.as_tuned or recipe.name for recipe in recipes}
    return [recipe for recipe in RECIPES.values() if recipe.name in wanted and recipe.candidates]


def trainer_of(recipe: Recipe) -> Callable[..., None]:
    """The function that trains it; imported here, so that the command line need not wait for torch."""
    module, _, function = recipe.train.partition(":")
    return getattr(importlib.import_module(f"experiments.{module}"), function)


def training_of(
    method: str, budget: float | None, seed_dir: Path, experiment: str, steps_of: Callable[[str], int], num_probe: int
) -> dict[str, int | None]:
    """`num_updates` and `num_training_responses` of a row; 0 where nothing was trained for it.

    Args:
        method: The row's.
        budget: The row's.
        seed_dir: The folder of its experiment and seed.
        experiment: Its experiment.
        steps_of: A recipe's name -> its updates.
        num_probe: Probe problems.
    """
    recipe = next((r for r in RECIPES.values() if r.method == method), None)
    if recipe is not None:
        updates, responses = sampled_for(recipe, experiment, steps_of(recipe.name), num_probe)
    elif method == "solve-then-learn":
        updates, responses = None, 2 * NUM_PROBE_RESPONSES * num_probe
    elif "RAFT" in method:
        updates, responses = sampled_for_demo(seed_dir, "raft", experiment)
    elif "IBPO" in method:
        updates, responses = sampled_for_demo(seed_dir, "ibpo", experiment)
    else:
        updates, responses = 0, 0
    return {"num_updates": updates, "num_training_responses": responses}


def sampled_for(recipe: Recipe, experiment: str, num_steps: int, num_probe: int) -> tuple[int | None, int]:
    """Updates (None: one epoch of SFT) and responses sampled for training one policy.

    Both turns of a dialogue are responses. What SFT imitates, and SCoRe's dialogues are built of, are the responses to
    the probe problems, which are sampled once for all. Tuning takes as much again for each candidate not chosen.

    Example:
        >>> sampled_for(RECIPES["grpo"], "thinking", 95, 2000), sampled_for(RECIPES["score"], "thinking", 95, 2000)
        ((95, 24320), (94, 64128))
    """
    probe = 2 * NUM_PROBE_RESPONSES * num_probe
    if recipe.train.startswith("supervised:"):
        return None, probe
    per_update = RESPONSES_PER_UPDATE[experiment]
    if recipe.two_turns:
        updates = 2 * max(1, num_steps // 2)  # two stages
        return updates, 2 * per_update * updates + probe
    return num_steps, per_update * num_steps


def sampled_for_demo(seed_dir: Path, policy: str, experiment: str) -> tuple[int | None, int | None]:
    """The same of a policy of the demo, `raft` or `ibpo`, as its training recorded; None where it left no metrics."""
    from ibpo.demo import TRAINED_AT, experiment_named, settings_of

    assert policy in OF_DEMO
    path = seed_dir / "policies" / policy / "metrics.json"
    if not path.exists():
        return None, None
    steps: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    updates = max((int(row["step"]) for row in steps if "step" in row), default=0)
    settings = settings_of(experiment_named(experiment), None if policy == "raft" else TRAINED_AT, 0, updates)
    return updates, updates * int(settings["per_device_train_batch_size"])


def candidate_name(policy: str, candidate: Mapping[str, Any]) -> str:
    """Name of the candidate's folder.

    Example:
        >>> candidate_name("grpo", {"learning_rate": 0.001})
        'grpo~learning_rate-0.001'
    """
    return policy + "~" + "~".join(f"{key}-{value:g}" for key, value in candidate.items())


def value(context: Context, name: str) -> dict[str, float]:
    """Accuracy, share, cost and accuracy above the random mix of the same cost, of a policy's validation responses."""
    files = {
        how: read_table(context.responses("cold_start", how, split="validation")) for how in ("standard", "extended")
    }
    problems = find_problems(files["standard"])
    standard, extended = (per_problem(files[how], problems) for how in ("standard", "extended"))
    own = per_problem(read_table(context.responses(name, split="validation")), problems)
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
