r"""Equal answers among several: which answers of a problem are one answer, for votes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ibpo.answers.equality import Contradiction, same
from ibpo.answers.nodes import Node, Unread, has_variable
from ibpo.answers.reading import read
from ibpo.answers.text import clean, unmarked
from ibpo.answers.values import MIN_PLACES

UNSPACED = re.compile(r"(?<=\d)(?=[A-Za-z])")


@lru_cache(maxsize=8192)
def understood(answer: str, loose: bool = False) -> Node | None:
    """What an answer says, formulas and boxes in it or around it; None where it cannot be read."""
    for text in (answer, unmarked(answer)):
        try:
            return read(text, loose=loose)
        except Unread:
            continue
    return None


def equal(predicted: str, gold: str) -> bool | None:
    r"""Whether two answers are equal, in all that they say; None where one of them cannot be read.

    Example:
        >>> equal("5 m", "5"), equal("5", r"5\text{ m}"), equal("5m", "5x"), equal(r"43 \to 42", "42")
        (True, True, False, None)
    """
    ours, theirs = understood(predicted), understood(gold)
    if ours is None or theirs is None:
        return None
    # A letter that may be a unit is one where the other answer has no letters; a gold's only where that names a unit.
    readings = [(ours, theirs)]
    if has_variable(ours) and not has_variable(theirs):
        readings.append((understood(predicted, True) or ours, theirs))
        if theirs.kind == "quantity":  # 15m^3
            readings.append((understood(UNSPACED.sub(" ", predicted), True) or ours, theirs))
    elif has_variable(theirs) and ours.kind == "quantity":
        readings.append((ours, understood(gold, True) or theirs))
    try:
        return any(same(a, b) for a, b in readings)
    except Contradiction:
        return False


def representatives(answers: Sequence[str]) -> list[str]:
    """For each answer the first one that is equal to it; what cannot be read is equal where it is written alike.

    Example:
        >>> representatives(["1/2", "7", "0.5", "7.0", "?", "7 apples"])
        ['1/2', '7', '1/2', '7', '?', '7']
    """
    first: dict[str, str] = {}
    kept: list[str] = []
    by_value: dict[tuple[int, int], str] = {}  # of their ratios: fractions hash slowly
    for answer in answers:
        if answer in first:
            continue
        value = _plain_value(answer)
        others = kept if value is None else [other for other in kept if _plain_value(other) is None]
        found = by_value.get(value) if value is not None else None
        first[answer] = found or next((other for other in others if _alike(answer, other)), answer)
        if first[answer] == answer:
            kept.append(answer)
            if value is not None:
                by_value[value] = answer
    return [first[answer] for answer in answers]


def _plain_value(answer: str) -> tuple[int, int] | None:
    """The value of a number that stands for no other one, as a ratio."""
    node = understood(answer)
    is_plain = node is not None and node.kind == "number" and node.places < MIN_PLACES
    return node.number.as_integer_ratio() if node is not None and is_plain else None


@lru_cache(maxsize=65_536)
def _alike(ours: str, theirs: str) -> bool:
    found = equal(ours, theirs)
    return clean(ours) == clean(theirs) if found is None else found or bool(equal(theirs, ours))
