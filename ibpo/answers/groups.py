r"""Equal answers among several: which answers of a problem are one answer, for votes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ibpo.answers.equality import Contradiction, same
from ibpo.answers.lexing import FUNCTIONS, LETTERS
from ibpo.answers.nodes import Node, Unread, has_variable
from ibpo.answers.reading import read
from ibpo.answers.text import FORMULA_AMONG_WORDS, clean, unmarked
from ibpo.answers.values import MIN_PLACES

UNSPACED = re.compile(r"(?<=\d)(?=[A-Za-z])")
ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
WORDS = re.compile(r"[A-Za-z]{2,}(?:[ -][A-Za-z]{2,})*")
SIGNS = frozenset("0123456789=<>^+,;|$")
"""None of which is in words."""
NAMED_UNIT = re.compile(r"[a-z]{3}|/")
"""What is no product of variables: `5 cup`, `9.8 m/s^2`."""


@lru_cache(maxsize=8192)
def understood(answer: str, loose: bool = False) -> Node | None:
    """Read what an answer says, with formulas and boxes in it or around it; None where it cannot be read."""
    # Dollar signs around formulas are not a currency where more is next to them: `$5$ cm`.
    apart = FORMULA_AMONG_WORDS.search(answer) is not None and "$" in clean(answer)
    texts = (answer, unmarked(answer))
    for text in texts[::-1] if apart else texts:
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
    if same_words(predicted, gold):
        return True
    ours, theirs = (understood(text) or understood(text, True) for text in (predicted, gold))
    if ours is None or theirs is None:
        return None
    # A letter that may be a unit is one where the other answer has no letters; a gold's only where that names a unit.
    readings = [(ours, theirs)]
    if has_variable(ours) and not has_variable(theirs):
        readings.append((understood(predicted, True) or ours, theirs))
        if theirs.kind == "quantity":  # 15m^3
            readings.append((understood(UNSPACED.sub(" ", predicted), True) or ours, theirs))
    elif has_variable(theirs) and not has_variable(ours):
        loose = understood(gold, True) or theirs
        if ours.kind == "quantity" or (loose.kind == "quantity" and NAMED_UNIT.search(loose.name)):
            readings.append((ours, loose))
    try:
        return any(same(a, b) for a, b in readings)
    except Contradiction:
        return False


def same_words(ours: str, theirs: str) -> bool:
    """Whether two answers are the same words, apart from case and article; short ones would be read as letters.

    Example:
        >>> same_words("Red", "red"), same_words("the red ball", "Red ball"), same_words("AB", "ab")
        (True, True, False)
    """
    if not SIGNS.isdisjoint(ours + theirs):
        return False
    a, b = (ARTICLE.sub("", clean(text)) for text in (ours, theirs))
    if a.lower() != b.lower() or not WORDS.fullmatch(a):
        return False
    known = [word for word in re.split("[ -]", a) if len(word) > 2 and word not in FUNCTIONS | LETTERS]
    return bool(known) and (" " in a or a.istitle() or b.istitle() or a == b)


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
