"""How good is a policy on problems it has not seen, what does it spend, and what would each response group give?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from ibpo.evaluation.statistics import estimate_rate
from ibpo.rewards.judgement import Candidate, Judge
from ibpo.types import Problem, ResponseGroup, Rollout, ScoredRollout


class Sampler(Protocol):
    """What evaluation needs of a sampler."""

    def sample(self, prompts: Sequence[Sequence[int]], prefixes: Sequence[Sequence[int]]) -> list[list[int]]:
        """One completion per prompt; an empty prefix lets the policy choose how to open its response."""
        ...


class Scorer:
    """Reads completions: their response group by its opening tokens, the answer by that group's reader."""

    def __init__(
        self,
        response_groups: Sequence[ResponseGroup],
        prefix_ids: Sequence[Sequence[int]],
        tokenizer: PreTrainedTokenizerBase,
        judge: Judge,
    ) -> None:
        self.response_groups, self.prefix_ids = response_groups, [list(ids) for ids in prefix_ids]
        self.tokenizer, self.judge = tokenizer, judge

    def score(
        self, problems: Sequence[Problem], prompt_ids: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[ScoredRollout]:
        """Judge one completion to each problem, all at once; one that opens like no response group gives no answer."""
        read = [self._read(*row) for row in zip(problems, prompt_ids, completions, strict=True)]
        candidates = [
            Candidate(
                problem=problem,
                completion=rollout.completion,
                predicted_answer=answer,
                finish_reason=rollout.finish_reason,
            )
            for problem, (rollout, _, answer) in zip(problems, read, strict=True)
        ]
        return [
            ScoredRollout(
                rollout=rollout,
                response_group=group,
                predicted_answer=answer,
                reward=judgement.reward,
                cost=float(len(rollout.completion_token_ids)),
            )
            for (rollout, group, answer), judgement in zip(read, self.judge.judge(candidates), strict=True)
        ]

    def _read(self, problem: Problem, prompt_ids: Sequence[int], ids: Sequence[int]) -> tuple[Rollout, str, str | None]:
        """The response, its response group's name, and its answer."""
        stopped = bool(ids) and ids[-1] == self.tokenizer.eos_token_id
        body = list(ids[:-1] if stopped else ids)
        completion = str(self.tokenizer.decode(body, skip_special_tokens=False))
        group = next(
            (g for g, p in zip(self.response_groups, self.prefix_ids, strict=True) if body[: len(p)] == p), None
        )
        rollout = Rollout(
            problem_id=problem.problem_id,
            prompt_token_ids=tuple(prompt_ids),
            completion_token_ids=tuple(ids),
            completion=completion,
            finish_reason="stop" if stopped else "length",
        )
        return rollout, group.name if group else "", group.extract_answer(completion) if group else None


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
    ways = [("chooses itself", []), *((f"always {g.name}", p) for g, p in zip_groups(scorer))]
    results = []
    for policy, prefix in ways:
        completions = sampler.sample(prompt_ids, [prefix] * len(problems))
        scored = scorer.score(problems, prompt_ids, completions)
        results.append(_summary(policy, scored, [g.name for g in scorer.response_groups]))
    return results


def zip_groups(scorer: Scorer) -> list[tuple[ResponseGroup, list[int]]]:
    """Response groups with their opening tokens."""
    return list(zip(scorer.response_groups, scorer.prefix_ids, strict=True))


def _summary(policy: str, scored: Sequence[ScoredRollout], names: Sequence[str]) -> HeldOutResult:
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
