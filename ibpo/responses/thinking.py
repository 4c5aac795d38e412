"""Answer at once, or think first: the two response groups of today's hybrid reasoning models."""

from __future__ import annotations

import re

from ibpo.types import ResponseGroup

ANSWER = re.compile(r"<answer>\s*(\S+)\s*$")


def tagged_answer(completion: str) -> str | None:
    """The word after the last `<answer>`, if the completion ends with it."""
    found = ANSWER.search(completion)
    return found.group(1) if found else None


def thought_answer(completion: str) -> str | None:
    """Like `tagged_answer`, for a response whose thought was closed; an unclosed thought gives no answer."""
    return tagged_answer(completion) if completion.count("</think>") == 1 else None


STANDARD = ResponseGroup(name="standard", prefix="<answer>", extract_answer=tagged_answer)
EXTENDED = ResponseGroup(name="extended", prefix="<think>", extract_answer=thought_answer)
