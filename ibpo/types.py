"""One frozen record per stage: problem -> rollout -> scored response; and what a response group is."""

from __future__ import annotations

import re
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


def no_answer(completion: str) -> None:
    """The reader of a response group that has none."""
    del completion


OPEN_TAG = re.compile(r"<([^<>/]+)>$")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseGroup:
    """One way of answering: how it is asked for, how it opens, and how its answer is read.

    The space of responses is split into disjoint response groups (Yu et al. 2025, section 3); two or more may be
    given. The first response group of a list is the *standard* one, to which costs are relative.
    """

    name: str
    prefix: str
    """The text that opens a response of this group. Prefixes of different groups must differ in their first token."""
    extract_answer: Callable[[str], str | None] = no_answer
    """Completion text -> the answer that it gives, or None if it gives none. Not needed where your own reward function
    reads the responses."""
    instruction: str = ""
    """Asks for this kind of response; empty where the policy chooses by itself."""

    def matches(self, completion: str) -> bool:
        r"""Whether the completion belongs to this response group: it opens with the group's prefix.

        This is the only definition of membership, in training as in evaluation and serving. It looks at *text*: token
        ids are decoded first (`ibpo.responses.EncodedGroups`), because the same text has many spellings in tokens, and
        a stored or served response has no tokens at all. If ids decided in training and text in evaluation, the budget
        would count one share and the report another.

        White space does not count, neither before the prefix nor inside or after it: models open with a blank, and
        put one line break or two after `<think>`. Where the prefix ends by opening a tag, as `<think>` does, a
        completion that closes it at once (`<think>\n\n</think>`) does not belong to the group: an empty thought is how
        hybrid models answer *without* thinking. A response that was cut off before its prefix was complete belongs to
        no group.

        Where several groups of a list could match, `ibpo.responses.find_group` takes the longest prefix.

        Example:
            >>> thinking = ResponseGroup(name="thinking", prefix="<think>\n")
            >>> [thinking.matches(text) for text in ("<think>\n3 + 4", " <think>3 + 4", "<think>\n\n</think>\n7", "7")]
            [True, True, False, False]
        """
        prefix, text = "".join(self.prefix.split()), "".join(completion.split())
        opened = OPEN_TAG.search(prefix)
        return text.startswith(prefix) and not (opened and text.startswith(f"</{opened[1]}>", len(prefix)))


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
class ScoredResponse:
    """A rollout that has been read and judged; `ibpo.rollouts.score` makes them."""

    rollout: Rollout
    response_group: str
    """Name of the response group, or ``""`` where the completion opens like none of them."""
    predicted_answer: str | None
    """None where it gives none; a truncated response gives none."""
    reward: float
    """In [0, 1]; correctness. A truncated response earns 0."""
    cost: float
    """In tokens of the completion, prefix and end-of-sequence token included; NaN where a server does not report it."""
    reason: str = ""
    """Why this reward, in one line of the judge's."""
    violations: tuple[str, ...] = ()
    """Names of the violated constraints."""
