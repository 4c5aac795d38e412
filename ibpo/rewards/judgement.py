"""What a judge sees and what it says: one candidate in, one judgement out, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ibpo.types import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One response to one problem, as judges see it."""

    problem: Problem
    completion: str
    predicted_answer: str | None
    """What the response group read out of the completion; None where it gives no answer."""
    finish_reason: str = "stop"
    """`"stop"`, or `"length"` where the response was cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The reward of a response with its reason, and the constraints that it violates.

    A response may be imitated only if it violates nothing, whatever its reward (Xu et al. 2024, CGPO, section 3: only
    constraint-satisfying responses enter the update). A violation does not change the reward, so that accuracy and
    violations can be reported apart.

    Example:
        >>> Judgement(reward=1.0, reason="equal as text").imitable
        True
        >>> Judgement(reward=1.0, reason="equal as text", violations=("truncated",)).imitable
        False
    """

    reward: float
    """In [0, 1]."""
    reason: str
    """One line: why this reward."""
    violations: tuple[str, ...] = ()
    """Names of the violated constraints."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.reward <= 1.0:  # NaN fails too
            raise ValueError(f"reward: needs a number from 0 to 1, got {self.reward}")

    @property
    def imitable(self) -> bool:
        """Whether the update may imitate the response."""
        return not self.violations


class Judge(Protocol):
    """Anything that judges a batch in order; one candidate's failure never touches another's judgement."""

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """One judgement per candidate."""
        ...
