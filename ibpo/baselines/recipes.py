"""Which baselines there are: what each trains, in which strengths, and what is tuned for it on validation problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ibpo.errors import IbpoError

BUDGETS = (0.25, 0.5, 0.75)
UNTRAINED = ("adaptive-self-consistency", "oracle-by-problem", "solve-then-learn", "self-correction")
"""Baselines that train no policy; all of them are made of the cold start's (and the pretrained model's) responses."""
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
    """`module:function` in `ibpo.baselines`, which takes context, folder and the options."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    candidates: Sequence[Mapping[str, Any]] = ()
    """Options to choose from on validation problems; empty: nothing is tuned for it."""
    goal: str = "accuracy"
    """What decides: `accuracy`, or `above_random_mix`, accuracy less that of a random mix that costs the same."""
    as_tuned: str = ""
    """The policy whose chosen options it takes over."""
    two_turns: bool = False

    @property
    def needs_tuning_of(self) -> tuple[str, ...]:
        """Policies that must have been tuned before."""
        return ((self.name,) if self.candidates else ()) + ((self.as_tuned,) if self.as_tuned else ())


def _length_penalty(strength: float) -> Recipe:
    return Recipe(
        name=f"grpo-length-{strength:g}",
        baseline="grpo-length",
        method=f"GRPO, length penalty {strength:g}",
        train="grpo:grpo_with_length_penalty",
        options={"strength": strength},
        as_tuned="grpo",
    )


def _adaptthink(bonus: float) -> Recipe:
    return Recipe(
        name=f"adaptthink-{bonus:g}",
        baseline="adaptthink",
        method=f"AdaptThink-like, bonus {bonus:g}",
        train="grpo:adaptthink",
        options={"bonus": bonus},
        as_tuned="grpo",
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
        candidates=[{"opening_weight": weight} for weight in OPENING_WEIGHTS],
        goal="above_random_mix",
        as_tuned="grpo",
    ),
    *map(_adaptthink, (0.05, 0.3)),  # the first as published
    Recipe(
        name="score",
        baseline="score",
        method="SCoRe, two turns",
        train="two_turns:score_policy",
        as_tuned="grpo",
        two_turns=True,
    ),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in ALL}
NAMES = (*UNTRAINED, *dict.fromkeys(recipe.baseline for recipe in RECIPES.values()))
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


def tuned_first(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """Policies to tune for these, in phases: each phase needs what the ones before it have chosen.

    Example:
        >>> [[recipe.name for recipe in phase] for phase in tuned_first([RECIPES["thinkless-0.5"]])]
        [['grpo'], ['thinkless-0.5']]
    """
    wanted = {name for recipe in recipes for name in recipe.needs_tuning_of}
    wanted |= {more for name in wanted for more in RECIPES[name].needs_tuning_of}
    first = [RECIPES[name] for name in sorted(wanted) if not RECIPES[name].as_tuned]
    second = [RECIPES[name] for name in sorted(wanted) if RECIPES[name].as_tuned]
    return [phase for phase in (first, second) if phase]


def trainer_of(recipe: Recipe) -> Callable[..., None]:
    """The function that trains it; imported here, so that the command line need not wait for torch."""
    import importlib

    module, _, function = recipe.train.partition(":")
    return getattr(importlib.import_module(f"ibpo.baselines.{module}"), function)
