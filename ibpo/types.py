"""One frozen record per stage: problem -> rollout -> scored rollout. No logic, no field filled in later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Prompt = str | list[dict[str, str]]
"""Plain text, or chat messages (``{"role": ..., "content": ...}``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A question with a checkable answer.

    Example:
        >>> Problem(problem_id="p1", prompt="+3 -4 =", answer="9", level="2").answer
        '9'
    """

    problem_id: str
    prompt: Prompt
    answer: str
    level: str = ""
    """Difficulty as the source states it; used for reports only, never by the policy or the allocation."""
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseGroup:
    """One way of answering: how it is asked for, how it opens, and how its answer is read.

    The space of responses is split into disjoint response groups (Yu et al. 2025, section 3); two or more may be
    given. The first response group of a list is the *standard* one, to which costs are relative.
    """

    name: str
    prefix: str
    """The text that opens a response of this group. Prefixes of different groups must differ in their first token."""
    extract_answer: Callable[[str], str | None]
    """Completion text -> the answer that it gives, or None if it gives none."""
    instruction: str = ""
    """Asks for this kind of response; empty where the policy chooses by itself."""

    def matches(self, completion: str) -> bool:
        """Whether the completion is of this response group: it opens with the group's prefix."""
        return completion.lstrip().startswith(self.prefix)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One response of a policy to one problem."""

    problem_id: str
    prompt_token_ids: tuple[int, ...]
    completion_token_ids: tuple[int, ...]
    completion: str
    finish_reason: str
    """``"stop"`` (ended by itself) or ``"length"`` (truncated: never imitated, counted apart)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRollout:
    """A rollout with what is known about it once it has been judged."""

    rollout: Rollout
    response_group: str
    """Name of the response group, or ``""`` where the completion opens like none of them."""
    predicted_answer: str | None
    reward: float
    """In [0, 1]; correctness."""
    cost: float
    """In tokens of the completion, prefix and end-of-sequence token included."""
