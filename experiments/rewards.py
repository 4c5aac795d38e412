"""Reward functions for TRL, beside the correctness of the answer: what other methods pay for short responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ibpo.demo import correctness_reward
from ibpo.types import ResponseGroup

RewardFunction = Callable[..., list[float]]


def length_penalty(strength: float, max_length: int) -> RewardFunction:
    """A price on tokens: - strength * tokens / max_length.

    Added to the correctness, the best policy under it takes the extended response exactly where its gain is worth
    strength / max_length a token: a budget's price, set by hand instead of found.

    Example:
        >>> length_penalty(0.5, 10)(completions=["a b"], completion_ids=[[1, 2]])
        [-0.1]
    """

    def penalty(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        del completions
        return [-strength * len(ids) / max_length for ids in completion_ids]

    return penalty


def thinkless_reward(gap: float, response_groups: Sequence[ResponseGroup]) -> RewardFunction:
    """Thinkless (Fang et al. 2025, arXiv 2505.13379): a right standard response 1, a right other one 1 - gap, wrong -1.

    Example:
        >>> from ibpo.responses.thinking import EXTENDED, STANDARD
        >>> reward = thinkless_reward(0.5, (STANDARD, EXTENDED))
        >>> reward(completions=["<answer> 4", "<think> a 4 </think> <answer> 4", "<answer> 5"], answer=["4"] * 3)
        [1.0, 0.5, -1.0]
    """
    correctness, standard = correctness_reward(response_groups), response_groups[0]

    def thinkless(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
        right = correctness(completions=completions, answer=answer, **columns)
        return [
            (1.0 if standard.matches(text) else 1.0 - gap) if one > 0 else -1.0
            for text, one in zip(completions, right, strict=True)
        ]

    return thinkless


def standard_bonus(bonus: float, standard: ResponseGroup) -> RewardFunction:
    """AdaptThink (Zhang et al. 2025, arXiv 2505.13417): `bonus` (its delta) for a response of the standard group.

    Example:
        >>> from ibpo.responses.thinking import STANDARD
        >>> standard_bonus(0.05, STANDARD)(completions=["<answer> 4", "<think> a 4 </think> <answer> 4"])
        [0.05, 0.0]
    """

    def answers_at_once(completions: list[str], **_: Any) -> list[float]:
        return [bonus * standard.matches(text) for text in completions]

    return answers_at_once
