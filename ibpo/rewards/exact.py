"""Correctness by exact match: for tasks whose answers are single words."""

from __future__ import annotations

from collections.abc import Sequence

from ibpo.rewards.judgement import Candidate, Judgement


def exact_match(predicted: str | None, gold: str) -> float:
    """1.0 if the predicted answer is the gold one, white space aside; 0.0 otherwise, and for no answer at all.

    Example:
        >>> exact_match(" 7", "7"), exact_match(None, "7")
        (1.0, 0.0)
    """
    return float(predicted is not None and predicted.strip() == gold.strip())


class ExactJudge:
    """1.0 where the predicted answer is the gold one, letter by letter."""

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """See `Judge`."""
        rewards = [exact_match(c.predicted_answer, c.problem.answer) for c in candidates]
        return [Judgement(reward=r, reason="the same" if r else "another answer") for r in rewards]
