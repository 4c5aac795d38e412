r"""`python -m ibpo.rewards.math_worker`: compares answers for `MathJudge`'s pool.

Both answers are read by `ibpo.answers`, whole or not at all, and compared by what they say. math-verify does two things
here: it finds the answer in a text, and it compares two formulas that cannot be read, which then must consist of the same
letters, digits and signs, in any order. It never decides alone, because it passes over what it does not understand.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ibpo.answers import Contradiction, Node, Unread, clean, has_variable, read, same, unmarked
from ibpo.rewards.math import SEPARATOR, delimited, is_text
from ibpo.rewards.workers import serve, start_failed

DENIED = r"(?:\bnot|n't|\bnever|\bneither|\bnor|\\neq?|≠|\\neg)\s*(?:equal to\s*)?[$\\({{\[]*\s*{}|{}[$\\)}}\]]*\s*(?:is|was)\s+(?:not|wrong|incorrect|false)\b"
"""Around an answer in a text: what denies it."""
PLAIN = re.compile(r"[-_\d.,\\ {}/a-z%]+")
PIECE = re.compile(r"\\[A-Za-z]+|[A-Za-z]+|\d+(?:\.\d+)?|\S")


def two_stage(parser: Any) -> Any:
    """The parser class, whose entry rule tries ANTLR's SLL prediction first, whose steps it remembers.

    Where SLL parses without an error, LL gives the same tree (Parr, Harwell and Fisher, "Adaptive LL(*) parsing",
    OOPSLA 2014, section 3.2); where it does not, LL parses, and says what is wrong.
    """
    from antlr4 import BailErrorStrategy
    from antlr4.atn.PredictionMode import PredictionMode
    from antlr4.error.Errors import ParseCancellationException
    from antlr4.error.ErrorStrategy import DefaultErrorStrategy

    class TwoStage(parser):
        def math(self) -> Any:
            self._interp.predictionMode, self._errHandler = PredictionMode.SLL, BailErrorStrategy()
            try:
                return super().math()
            except ParseCancellationException:
                self.reset()
                self._interp.predictionMode, self._errHandler = PredictionMode.LL, DefaultErrorStrategy()
                return super().math()

    return TwoStage


def install() -> None:
    """Put two-stage parsing into the math-verify of this process; a release that names it otherwise is only slower."""
    from latex2sympy2_extended import latex2sympy2

    if hasattr(latex2sympy2, "PSParser"):
        latex2sympy2.PSParser = two_stage(latex2sympy2.PSParser)


@lru_cache(maxsize=4096)
def parsed(answer: str) -> Any:
    """What math-verify finds, without its own time-outs: they count wall time, and this process has limits of its own."""
    from math_verify import parse

    return parse(delimited(answer), parsing_timeout=None)  # pyright: ignore[reportArgumentType]


def found_in(text: str) -> str:
    """The answer that stands in a text, as math-verify finds it; empty where there is none, or where it is denied."""
    found = parsed(text)
    answer = next((part for part in reversed(found) if isinstance(part, str)), "")
    if found and getattr(found[0], "is_Rational", False) or getattr(found[0] if found else None, "is_Float", False):
        answer = answer if PLAIN.fullmatch(answer) else str(found[0])
    quoted = re.escape(answer)
    return "" if answer and re.search(DENIED.format(quoted, quoted), text[-500:]) else answer


@lru_cache(maxsize=4096)
def understood(answer: str, loose: bool) -> tuple[str, Node | None]:
    """(the answer, out of the text around it; what it says, None where it cannot be read)."""
    for text in (answer, unmarked(answer)):
        try:
            return text, read(text, loose=loose)
        except Unread:
            continue
    if not is_text(answer) and not (len(answer) > 40 and len(re.findall(r"[A-Za-z]{3,}", answer)) > 2):
        return answer, None
    text = found_in(answer)
    try:
        return text, read(text, loose=loose)
    except Unread:
        return text, None


def equal(predicted: str, gold: str) -> bool:
    r"""Whether two answers are equal, in all that they say.

    Example:
        >>> equal("5 m", "5"), equal("5", r"5\text{ m}"), equal("5m", "5x"), equal(r"43 \to 42", "42")
        (True, True, False, False)
    """
    theirs_text, theirs = understood(gold, False)
    ours_text, ours = understood(predicted, False)
    if re.fullmatch("[A-J]", ours_text) and theirs is None or re.fullmatch("[A-J]", theirs_text) and ours is None:
        letters = [text if known else choice_in(full) for text, known, full in (
            (ours_text, ours, predicted), (theirs_text, theirs, gold))]  # fmt: skip
        return letters[0] == letters[1]
    if ours is None or theirs is None:
        return bool(ours_text) and same_pieces(ours_text, theirs_text)
    # A letter that may be a unit is one where the other answer has no letters, and a named unit.
    readings = [(ours, theirs)]
    for text, is_ours in ((ours_text, True), (theirs_text, False)):
        here, other = (ours, theirs) if is_ours else (theirs, ours)
        if has_variable(here) and not has_variable(other) and (is_ours or other.kind == "quantity"):
            loose = understood(text, True)[1]
            if loose is not None and not has_variable(loose):
                readings.append((loose, other) if is_ours else (other, loose))
    try:
        return any(same(a, b) for a, b in readings)
    except Contradiction:
        return False


def same_pieces(predicted: str, gold: str) -> bool:
    """Whether two answers that cannot be read are written alike, or are reorderings that math-verify takes for equal."""
    ours, theirs = (PIECE.findall(clean(answer)) for answer in (predicted, gold))
    if ours == theirs:
        return True
    if Counter(ours) != Counter(theirs) or not REORDERED & set(ours) or "\\dots" in ours:
        return False
    from math_verify import verify

    return bool(verify(parsed(gold), parsed(predicted), timeout_seconds=None))


REORDERED = {r"\sum", r"\prod", r"\int", r"\lim"}
"""What math-verify reads and the reader does not."""
CHOICE = r"(?<![A-Za-z\d\\])\(?([A-J])\)?(?![A-Za-z\d'])"
CHOICES = (
    re.compile(rf"(?:answer|réponse|option|choice)\b[^A-J.\n]{{0,20}}\n?{CHOICE}"),
    re.compile(rf"\s*{CHOICE}(?=[.:)。,、]|[^\x00-\xff])"),
    re.compile(rf"(?:.*(?<!not )(?<!n't be )(?<!or )){CHOICE}", re.DOTALL),
)


def choice_in(text: str) -> str:
    """The letter of multiple choice that a text settles on; empty where there is none.

    Example:
        >>> choice_in("It's not A, so I think it's B"), choice_in("The answer is for sure D, it can't be A or B")
        ('B', 'D')
    """
    text = text[-500:]
    for pattern in CHOICES:
        if found := (pattern.match(text) or pattern.search(text)):
            return found[1]
    return ""


CPU_SECONDS = 2.0
"""Of one pair: six times what the slowest honest pair of the published tests takes, so that no slow machine decides."""
MEMORY_BYTES = 2 << 30


def _comparison() -> Callable[[bytes], bytes]:
    """Request -> `b"1"` or `b"0"`; math-verify and sympy are loaded here."""
    install()
    logging.disable(logging.CRITICAL)

    def compare(request: bytes) -> bytes:
        predicted, gold = (part.decode() for part in request.split(SEPARATOR))
        return b"1" if equal(predicted, gold) else b"0"

    equal(r"so it is $\frac{1}{2}$, or $\int_0^1 x$", "x+1")  # the first one builds grammars: before there is a limit of time
    return compare


def main() -> None:
    """Serve until stdin ends."""
    try:
        compare = _comparison()
    except Exception as error:
        start_failed(error)
        raise
    serve(compare, cpu_seconds=CPU_SECONDS, memory_bytes=MEMORY_BYTES)


if __name__ == "__main__":
    main()
