r"""`python -m ibpo.rewards.math_worker`: compares answers for `MathJudge`'s pool.

Both answers are read by `ibpo.answers`, whole or not at all, and compared by what they say. math-verify does two things
here: it finds the answer in a text, and it compares sums and integrals, which `ibpo.answers` does not read; they must
consist of the same letters, digits and signs. It never decides alone: it passes over what it does not understand.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ibpo import answers
from ibpo.answers import clean, same_words, understood, unmarked, unwrapped
from ibpo.rewards.math import SEPARATOR, delimited, is_text
from ibpo.rewards.workers import serve, start_failed

DENIED_BEFORE = re.compile(
    r"(?:\b(?:more|less|fewer|greater|smaller) than|\bat (?:least|most)|\bup to|\bnot|n't|\bnever|\bneither|\bnor"
    r"|\\neq?|≠|\\neg|~~|[<>≤≥±]|\\(?:[lg](?:t|eq?|eqslant)|pm|mp)"
    r"|\d[\s$)}\\]*(?:text\{)?\s*(?:[a-z]+\s+){0,3}(?:or|and)[\s}]*"
    r"|\b(?:half|twice|double|triple|thrice|square|cube|root|third|quarter|fourth|fifth|tenth|percent|reciprocal|inverse"
    r"|opposite|negative|minus|plus|times|multiples?|factors?|divisors?|power)(?:\s+of)?)"
    r"\s*(?:equal to\s*)?[$\\({\[]*\s*$"
)
DENIED_BEHIND = re.compile(
    r"[$)}\]\\]*\s*(?:~~|,?\s*(?:it|this|that)\s+(?:is|was)\s*(?:not|n't)\W*$|(?:\\?(?:text|mathrm)\s*\{\s*)?"
    r"(?:(?:is|was)\s+(?:not|wrong|incorrect|false)|(?:is|was)n't|can(?:no|')t be)\b"
    r"|(?:squared|cubed|hundred|thousand|million|billion|dozen|plus|minus|times|divided)\b"
    r"|(?:\\text\s*\{)?\s*(?:[a-z]+\s+){0,3}or\s*[$\\({}]*\s*\d)"
)
"""Around the answer of a text: what denies it, makes it a bound, one of two or another number."""
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
MANY_CHARACTERS = 40
"""An answer with more, and with three words, is a text."""
ROMAN = re.compile(r"\\(?:text|mbox|mathrm)(?![A-Za-z])")
CHOICE_ALONE = re.compile("[A-HJ]")
PLAIN = re.compile(r"[-_\d.,\\ {}/a-z%]+")
PIECE = re.compile(r"\\[A-Za-z]+|[A-Za-z]+|\d+(?:\.\d+)?|\S")
ONE_RAISED = re.compile(r"(?<=[\^_])\s*\{\s*(\w)\s*\}")
"""The index of a sum in braces that it does not need."""


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
    """What math-verify finds, without its own time-outs, which count wall time: this process has limits of its own."""
    from math_verify import parse

    return parse(delimited(answer), parsing_timeout=None)  # pyright: ignore[reportArgumentType]


def found_in(text: str) -> str:
    """The answer that is in a text; empty where there is none, or where it is denied.

    One formula in a text without other digits is the answer, if it can be read; else math-verify finds it.
    """
    formulas = [*FORMULA.finditer(text)]
    if len(formulas) == 1 and "\\boxed" not in text:
        start, end = formulas[0].span()
        answer = formulas[0][formulas[0].lastindex or 0]
        if not re.search(r"\d", text[:start] + text[end:]) and understood(answer) is not None:
            return "" if denied(text, start, end) else answer
    found = parsed(text)
    answer = next((part for part in reversed(found) if isinstance(part, str)), "")
    if (found and getattr(found[0], "is_Rational", False)) or getattr(found[0] if found else None, "is_Float", False):
        answer = answer if PLAIN.fullmatch(answer) else str(found[0])
    start = text.rfind(answer)
    end = start + len(answer)
    if start < 0 and formulas and answers.equal(formulas[-1][formulas[-1].lastindex or 0], answer):
        start, end = formulas[-1].span()  # spelled otherwise
    return "" if answer and start >= 0 and denied(text, start, end) else answer


def denied(text: str, start: int, end: int) -> bool:
    """Whether the words around the answer of a text say that it is no answer."""
    return bool(DENIED_BEFORE.search(text[max(start - 40, 0) : start]) or DENIED_BEHIND.match(text[end:][:40]))


def settled(answer: str, *, trusted: bool = False) -> tuple[str, bool]:
    """(the answer, out of the text around it; whether it can be read); of a trusted one, a gold, any part will do."""
    if is_read(answer):
        return answer, True
    before = answer if trusted else ""
    while before != answer:  # a formula alone is not text: `$> 5$` is not 5
        before, answer = answer, unwrapped(answer)
    in_roman = ROMAN.search(answer) and "\\boxed" not in answer and not FORMULA.search(answer)  # a formula with words
    if (is_text(answer) and not in_roman) or (len(answer) > MANY_CHARACTERS and len(WORD.findall(answer)) > 2):
        answer = found_in(answer)
    return answer, is_read(answer)


def is_read(answer: str) -> bool:
    """Whether an answer can be read, be it with letters that are units: `2 h 30 min`."""
    return understood(answer) is not None or understood(answer, True) is not None


def equal(predicted: str, gold: str) -> bool:
    """Whether two answers are equal, in all that they say."""
    if same_words(predicted, gold):
        return True
    for one, other in ((predicted, gold), (gold, predicted)):
        if CHOICE_ALONE.fullmatch(unwrapped(one)) and (named := NAMED_CHOICE.match(clean(unmarked(other)))):
            return named[1] == unwrapped(one)
    (ours, ours_read), (theirs, theirs_read) = settled(predicted), settled(gold, trusted=True)
    if ours_read and theirs_read:
        return bool(answers.equal(ours, theirs))
    if (CHOICE_ALONE.fullmatch(ours) and not theirs_read) or (CHOICE_ALONE.fullmatch(theirs) and not ours_read):
        return (ours if ours_read else choice_in(predicted)) == (theirs if theirs_read else choice_in(gold))
    return bool(ours) and same_pieces(ours, theirs)


def same_pieces(predicted: str, gold: str) -> bool:
    """Whether two answers that cannot be read are written alike, or are reordered sums that math-verify calls equal."""
    ours, theirs = (PIECE.findall(ONE_RAISED.sub(r"\1 ", clean(answer))) for answer in (predicted, gold))
    if ours == theirs:
        return True
    if Counter(ours) != Counter(theirs) or not REORDERED & set(ours) or "\\dots" in ours:
        return False
    from math_verify import verify

    return bool(verify(parsed(gold), parsed(predicted), timeout_seconds=None))


REORDERED = {r"\sum", r"\prod", r"\int", r"\lim"}
"""What math-verify reads and the reader does not."""
CHOICE = r"(?<![A-Za-z\d\\])\(?([A-HJ])\)?(?![A-Za-z\d'])"
CHOICES = (
    re.compile(rf".*(?:answer|réponse|option|choice)\b[^A-J.\n]{{0,20}}\n?{CHOICE}", re.DOTALL),
    re.compile(rf"\s*{CHOICE}(?=[.:)。,、]|[^\x00-\xff])"),
    re.compile(rf"(?:.*(?<!not )(?<!n't be )(?<!or )){CHOICE}", re.DOTALL),
)


NAMED_CHOICE = re.compile(r"(?:\\text(?:bf)?\s*\{\s*)?\(?([A-HJ])\)?[.:)]\s+(?![A-HJ]\b)\S")
"""A choice with what it stands for: `C: 12`, which is no ratio."""
ANOTHER = re.compile(rf"\s*(?:or|and|/|,)\s*{CHOICE}")
"""Behind a choice: a second one."""


def choice_in(text: str) -> str:
    """The letter of multiple choice that a text settles on; empty where there is none.

    Example:
        >>> choice_in("It's not A, so I think it's B"), choice_in("The answer is for sure D, it can't be A or B")
        ('B', 'D')
        >>> choice_in("It is A or B")
        ''
    """
    text = text[-500:]
    for pattern in CHOICES:
        if found := pattern.match(text):
            return "" if ANOTHER.match(text, found.end()) or DENIED_BEHIND.match(text, found.end()) else found[1]
    return ""


CPU_SECONDS = 2.0
"""CPU seconds for one pair: six times the slowest honest pair of the published tests, so no slow machine decides."""
MEMORY_BYTES = 2 << 30


def _comparison() -> Callable[[bytes], bytes]:
    """Request -> `b"1"` or `b"0"`; math-verify and sympy are loaded here."""
    install()
    logging.disable(logging.CRITICAL)

    def compare(request: bytes) -> bytes:
        predicted, gold = (part.decode() for part in request.split(SEPARATOR))
        return b"1" if equal(predicted, gold) else b"0"

    equal(
        r"so it is $\frac{1}{2}$, or $\int_0^1 x$", "x+1"
    )  # the first one builds grammars: before there is a limit of time
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
