r"""One chain of thought and sequential voting over it, in a form: how attempts are read, built, and read back.

Two forms are shipped: `boxed`, for language models (`ibpo.responses.formats`), and `tally`, the embedded models' own,
whose answers are tokens and whose blocks close with a count (`ibpo.responses.sequential_voting`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ibpo.responses.blocks import CannotBuild, Reading, canonical, malformed, one_box
from ibpo.responses.build import build_single, build_voting, with_box
from ibpo.responses.formats import COT, SEQUENTIAL_VOTING
from ibpo.responses.sequential_voting import (
    EXTENDED,
    STANDARD,
    build_sequential_vote,
    final_answer,
    read_sequential_vote,
    vote,
)
from ibpo.types import ResponseGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One solution and the answer that it gives."""

    text: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VotingForm:
    """A standard response group and sequential voting over its responses; whatever is built is read back first."""

    name: str
    standard: ResponseGroup
    voting: ResponseGroup
    read_attempt: Callable[[str, Callable[[str], str | None]], Attempt]
    """(what a model wrote, reader of answers that stand in no box) -> attempt; raises `CannotBuild`."""
    build_standard: Callable[[Attempt], str]
    build_voting: Callable[[Sequence[Attempt]], str]
    """At most eight attempts, of which the rule says how many are used; raises `CannotBuild`."""
    read_vote: Callable[[str], Reading]
    """A response -> its trials' answers; its `problem` says how it breaks form or rule."""
    canonical: Callable[[str], str]
    """The form in which the vote compares answers."""


def external_vote(answers: Sequence[str | None], key: Callable[[str], str] = str) -> tuple[str | None, int]:
    """Voting over separate responses by the rule of sequential voting: (winning answer, number of responses used).

    A response without answer uses up its turn and agrees with no other.

    Example:
        >>> external_vote(["4", None, "4", "7", "4"])
        ('4', 5)
        >>> external_vote([None, None])
        (None, 2)
    """
    keys = [f"none{i}" if answer is None else f"={key(answer)}" for i, answer in enumerate(answers)]
    winner, used = vote(keys)
    return answers[keys.index(winner)], used


def _read_boxed(completion: str, reader: Callable[[str], str | None]) -> Attempt:
    text = completion.strip().removeprefix(COT.group.prefix).strip()
    boxed = with_box(text, reader(text))
    return Attempt(text=boxed, answer=one_box(boxed, "the solution"))


def _read_tallied(completion: str, reader: Callable[[str], str | None]) -> Attempt:
    del reader  # the form's answers are tokens of their own
    answer = final_answer(completion)
    if answer is None:
        raise CannotBuild("the solution gives no answer")
    text = completion.removeprefix(STANDARD.prefix).split("<answer>")[0].strip()
    return Attempt(text=text, answer=answer)


def _build_tallied(attempt: Attempt) -> str:
    text = " ".join(f"{STANDARD.prefix} {attempt.text} <answer> {attempt.answer}".split())
    if not STANDARD.matches(text) or STANDARD.extract_answer(text) != attempt.answer:
        raise CannotBuild("reads back as something else")
    return text


def _vote_tallied(attempts: Sequence[Attempt]) -> str:
    if not attempts:
        raise CannotBuild("a vote needs solutions")
    winner, used = vote([a.answer for a in attempts])
    text = build_sequential_vote([(a.text, a.answer) for a in attempts])
    reading = _read_tally(text)
    if reading.problem is not None:
        raise CannotBuild(reading.problem)
    if reading != Reading(attempts=tuple(a.answer for a in attempts[:used]), answer=winner):
        raise CannotBuild("reads back as something else")
    return text


def _read_tally(completion: str) -> Reading:
    check = read_sequential_vote(completion)
    if not check.keeps_rule:
        return malformed("its trials cannot be read, or it breaks the rule of the vote", check.answers)
    return Reading(attempts=check.answers, answer=check.final)


BOXED = VotingForm(
    name="boxed",
    standard=COT.group,
    voting=SEQUENTIAL_VOTING.group,
    read_attempt=_read_boxed,
    build_standard=lambda attempt: build_single(attempt.text),
    build_voting=lambda attempts: build_voting([attempt.text for attempt in attempts]),
    read_vote=SEQUENTIAL_VOTING.read,
    canonical=canonical,
)
TALLY = VotingForm(
    name="tally",
    standard=STANDARD,
    voting=EXTENDED,
    read_attempt=_read_tallied,
    build_standard=_build_tallied,
    build_voting=_vote_tallied,
    read_vote=_read_tally,
    canonical=str,
)
FORMS = {form.name: form for form in (BOXED, TALLY)}
