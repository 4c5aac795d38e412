"""Equal means? How many updates each policy gets, and how many responses are sampled for it in training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.context import NUM_PROBE_RESPONSES
from experiments.recipes import OF_DEMO, RECIPES, Recipe

RESPONSES_PER_UPDATE = {"thinking": 256, "voting": 128}
"""Of reinforcement learning. Voting's responses are long: half of them an update leaves twice as many updates."""
NUM_STEPS = {"thinking": 95, "voting": 60}
"""Updates that let three seeds of everything end within 90 minutes on two idle cores (docs/evaluation.md). Thinking's
are as many responses as IBPO's own 190 updates of 128; voting's are an eighth."""
PART_OF_OTHERS = {"thinking": 1.0, "voting": 0.5}
"""Where not all policies can have so many updates: the part that those without `Recipe.all_updates` get."""


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
    elif "IBPO" in method and budget is not None:
        updates, responses = sampled_for_demo(seed_dir, f"ibpo-{budget:g}", experiment)
    else:
        updates, responses = 0, 0
    return {"num_updates": updates, "num_training_responses": responses}


def sampled_for(recipe: Recipe, experiment: str, num_steps: int, num_probe: int) -> tuple[int | None, int]:
    """Updates (None: one epoch of SFT) and responses sampled for training one policy.

    Both turns of a dialogue are responses. What SFT imitates, and SCoRe's dialogues are built of, are the responses to
    the probe problems, which are sampled once for all. Tuning takes as much again for each candidate not chosen.

    Example:
        >>> from experiments.recipes import RECIPES
        >>> sampled_for(RECIPES["grpo"], "thinking", 95, 2000), sampled_for(RECIPES["score"], "thinking", 95, 2000)
        ((95, 24320), (94, 64128))
    """
    probe = 2 * NUM_PROBE_RESPONSES * num_probe
    if recipe.train.startswith("sft:"):
        return None, probe
    per_update = RESPONSES_PER_UPDATE[experiment]
    if recipe.two_turns:
        updates = 2 * max(1, num_steps // 2)  # two stages
        return updates, 2 * per_update * updates + probe
    return num_steps, per_update * num_steps


def sampled_for_demo(seed_dir: Path, policy: str, experiment: str) -> tuple[int | None, int | None]:
    """The same of a policy of the demo, `raft` or `ibpo-Q`, as its training told; None where it left no metrics."""
    from ibpo.demo import experiment_named, settings_of

    assert policy.startswith(OF_DEMO)
    path = seed_dir / "policies" / policy / "metrics.json"
    if not path.exists():
        return None, None
    told: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    updates = max((int(row["step"]) for row in told if "step" in row), default=0)
    budget = None if policy == "raft" else float(policy.removeprefix("ibpo-"))
    settings = settings_of(experiment_named(experiment), budget, 0, updates)
    return updates, updates * int(settings["per_device_train_batch_size"])
