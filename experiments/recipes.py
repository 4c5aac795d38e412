"""Which baselines there are: what each trains, in which strengths, and what is tuned for it on validation problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ibpo.errors import IbpoError

BUDGETS = (0.25, 0.5, 0.75)
REFERENCES = ("standard-only", "extended-only", "random-mix", "self-consistency", "oracle-by-level")
"""Made of the responses that every run samples, so that their rows stand in every table; alone they sample no more."""
UNTRAINED = ("adaptive-self-consistency", "oracle-by-problem", "solve-then-learn", "self-correction")
"""Baselines that train no policy; all of them are made of the cold start's (and the pretrained model's) responses."""
OF_DEMO = ("raft", "ibpo")
"""Policies that a demo run of the same name has; without one they are trained here, as there."""
LEARNING_RATES = ({"learning_rate": 3e-4}, {"learning_rate": 1e-3})
OPENING_WEIGHTS = (0.01, 1.0)
"""Thinkless publishes 0.001, for responses of thousands of tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One policy: one strength of one baseline."""

    name: str
    """Of its folder, and of its responses."""
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
    """Trained for as long as the time allows, where others have to make do with less (`experiments.training_cost`)."""


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
        train="sft:sft",
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
"""What `ibpo baselines --baseline` takes."""


def recipes_of(names: Sequence[str]) -> list[Recipe]:
    """The policies of these baselines, in the order of their training.

    Raises:
        IbpoError: for a name that is none.

    Example:
        >>> [recipe.name for recipe in recipes_of(["grpo-length"])]
        ['grpo-length-0.1', 'grpo-length-0.4', 'grpo-length-1']
    """
    for name in names:
        if name not in NAMES:
            raise IbpoError(f"--baseline: {name!r} is none of {', '.join(NAMES)}")
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
    import importlib

    module, _, function = recipe.train.partition(":")
    return getattr(importlib.import_module(f"experiments.{module}"), function)
