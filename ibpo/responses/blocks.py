r"""Responses made of marked blocks: `[TRIAL] ... [/TRIAL] [TRIAL] ... [/TRIAL] ... \boxed{7}`.

One reader for all formats that have blocks. It is strict: a marker that is nested, unclosed, of another format or in
the wrong place makes the response malformed, with the reason, and a malformed response gives no answer. Only these
exact markers count: `[TRIAL]` in full-width brackets or in another language is plain text. Linear in the length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ibpo.errors import IbpoError
from ibpo.responses.groups import boxed

TAGS = ("TRIAL", "DRAFT", "REFLECTION", "ATTEMPT", "REVISION", "VOICE")
"""Every tag of every shipped format: one format's marker inside another's response is an error, not text."""
MARKER = re.compile(rf"\[(/?)({'|'.join(TAGS)})\]")
BOX = re.compile(r"\\boxed\s*\{")


class CannotBuild(IbpoError):
    """The parts do not make a response that would be read back as them; says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a response holds, read back from its text."""

    attempts: tuple[str, ...] = ()
    """The answers of its blocks, in order; of blocks that must give one."""
    answer: str | None = None
    """The final answer; None where the response is malformed."""
    problem: str | None = None
    """What is wrong with its form, in one line; None where nothing is."""


def malformed(problem: str, attempts: tuple[str, ...] = ()) -> Reading:
    """A response that gives no answer, for a reason."""
    return Reading(attempts=attempts, problem=problem)


def split_blocks(completion: str) -> tuple[list[tuple[str, str]], str]:
    """(tag, body) of each block, and the text after the last one.

    Raises:
        CannotBuild: says which marker is out of place.

    Example:
        >>> split_blocks("[TRIAL] a [/TRIAL] [TRIAL] b [/TRIAL] so c")
        ([('TRIAL', 'a'), ('TRIAL', 'b')], 'so c')
    """
    blocks: list[tuple[str, str]] = []
    opened, start, end = "", 0, 0
    for marker in MARKER.finditer(completion):
        closing, tag = marker.groups()
        if closing:
            if tag != opened:
                raise CannotBuild(f"{marker[0]} closes nothing that is open")
            blocks.append((tag, completion[start : marker.start()].strip()))
            opened, end = "", marker.end()
        else:
            if opened:
                raise CannotBuild(f"{marker[0]} stands inside [{opened}]")
            if completion[end : marker.start()].strip():
                raise CannotBuild(f"there is text between blocks, before {marker[0]}")
            opened, start = tag, marker.end()
    if opened:
        raise CannotBuild(f"[{opened}] is not closed")
    return blocks, completion[end:].strip()


def one_box(text: str, place: str) -> str:
    r"""The answer of a text that boxes one; several boxes are allowed if they hold the same.

    Raises:
        CannotBuild: where there is none, an unclosed one, or several that differ.
    """
    starts = [match.start() for match in BOX.finditer(text)]
    if not starts:
        raise CannotBuild(f"{place} boxes no answer")
    # Each box up to where the next one begins; a box within a box leaves the outer one unclosed.
    found = [boxed(text[start:end]) for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    answers = [answer for answer in found if answer is not None]
    if len(answers) < len(found):
        raise CannotBuild(f"{place} holds a box that is empty, unclosed or nested")
    if len({canonical(answer) for answer in answers}) > 1:
        raise CannotBuild(f"{place} boxes several answers")
    return answers[-1]


def canonical(answer: str) -> str:
    r"""The form in which two answers of one response are compared: by a vote, without computer algebra.

    Example:
        >>> canonical("$1,250$") == canonical("1250"), canonical(r"\dfrac{1}{2}") == canonical(r"\frac{1} {2}")
        (True, True)
    """
    text = re.sub(r"\\[dt]frac\b", r"\\frac", "".join(answer.split()).strip("$"))
    text = re.sub(r"\\(?:left|right|!|,)(?![a-zA-Z])", "", text)
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        text = text.replace(",", "")
    return text.removesuffix(".")
