"""How good is a policy on problems it has not seen, what does it spend, and what would each response group give?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from ibpo.evaluation.statistics import estimate_rate
from ibpo.responses import EncodedGroups
from ibpo.rewards import Judge
from ibpo.rollouts import rollout_of_ids, score
from ibpo.types import Problem, ScoredResponse


class Sampler(Protocol):
    """What evaluation needs of a sampler."""

    def sample(self, prompts: Sequence[Sequence[int]], prefixes: Sequence[Sequence[int]]) -> list[list[int]]:
        """One completion per prompt; an empty prefix lets the policy choose how to open its response."""
        ...


class Scorer:
    """Reads and judges completions in token ids (`ibpo.rollouts.score`)."""

    def __init__(self, groups: EncodedGroups, tokenizer: PreTrainedTokenizerBase, judge: Judge) -> None:
        self.groups, self.tokenizer, self.judge = groups, tokenizer, judge

    def score(
        self, problems: Sequence[Problem], prompt_ids: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[ScoredResponse]:
        """Judge one completion to each problem, all at once."""
        eos: Any = self.tokenizer.eos_token_id
        rollouts = [
            rollout_of_ids(self.tokenizer, problem.problem_id, prompt, ids, eos_token_ids={eos})
            for problem, prompt, ids in zip(problems, prompt_ids, completions, strict=True)
        ]
        return score(rollouts, problems, self.groups.groups, self.judge)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutResult:
    """One way of using the policy, one response to each held-out problem."""

    policy: str
    num_problems: int
    num_right: int
    """Right answers of responses that ended by themselves."""
    num_truncated: int
    """Responses cut off at the length limit: counted apart, never as right."""
    num_unanswered: int
    """Responses that ended by themselves without an answer that could be read."""
    share: dict[str, float]
    """Response group -> share of the problems; "" opens like none of them."""
    mean_tokens: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.num_right / self.num_problems

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (`ibpo.evaluation.statistics.estimate_rate`).

        Example:
            >>> HeldOutResult(
            ...     policy="",
            ...     num_problems=16,
            ...     num_right=0,
            ...     num_truncated=0,
            ...     num_unanswered=0,
            ...     share={},
            ...     mean_tokens=1.0,
            ... ).interval
            (0.0, 0.22)
        """
        right = np.arange(self.num_problems) < self.num_right
        found = estimate_rate(right, np.arange(self.num_problems))
        return found.low, found.high


def evaluate_held_out(
    sampler: Sampler, scorer: Scorer, problems: Sequence[Problem], prompt_ids: Sequence[Sequence[int]]
) -> list[HeldOutResult]:
    """Let the policy choose its response groups by itself, then force each group in turn.

    Args:
        sampler: of the policy.
        scorer: reads and judges.
        problems: P of them, at least one.
        prompt_ids: their prompts' token ids.
    """
    names = scorer.groups.names
    forced = [(f"always {name}", ids) for name, ids in zip(names, scorer.groups.prefix_ids, strict=True)]
    ways: list[tuple[str, list[int]]] = [("chooses itself", []), *forced]
    results = []
    for policy, prefix in ways:
        completions = sampler.sample(prompt_ids, [prefix] * len(problems))
        scored = scorer.score(problems, prompt_ids, completions)
        results.append(_summary(policy, scored, names))
    return results


def _summary(policy: str, scored: Sequence[ScoredResponse], names: Sequence[str]) -> HeldOutResult:
    ended = [s for s in scored if s.rollout.finish_reason == "stop"]
    return HeldOutResult(
        policy=policy,
        num_problems=len(scored),
        num_right=sum(s.reward > 0 for s in ended),
        num_truncated=len(scored) - len(ended),
        num_unanswered=sum(s.predicted_answer is None for s in ended),
        share={name: sum(s.response_group == name for s in scored) / len(scored) for name in [*names, ""]},
        mean_tokens=sum(s.cost for s in scored) / len(scored),
    )
