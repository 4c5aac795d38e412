"""Is a mathematical answer equivalent to the gold? Cheap matches first, then math-verify (LaTeX, sympy).

Some short answers keep a computer algebra system busy without end (`10^{10^{10}}`, 300 nested parentheses), and a
policy under training writes all sorts of things: `is_hostile` turns those away unread. What still slips through is cut
off after `TIMEOUT_SECONDS` in the main thread, where signals work; in other threads only the filter guards.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec

from ibpo.errors import IbpoError

MAX_LENGTH = 200
MAX_DEPTH = 8
MAX_EXPONENT_DIGITS = 4
MAX_BRACKET_POWER = 100
"""Largest product of the exponents on brackets: what expanding them costs grows with it."""
TIMEOUT_SECONDS = 2
PLAIN_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
POWER = re.compile(r"\^|\*\*")
TOWER = re.compile(r"[\d)}\]]\s*(?:\^|\*\*|!)")
BIG_FACTORIAL = re.compile(r"\d{5,}\s*!|[)}\]!]\s*!|binom.*\d{6,}")


class MathJudge:
    r"""1.0 where the predicted answer is equivalent to the gold, else 0.0; every pair is judged once.

    Raises:
        IbpoError: on construction, where math-verify is not installed.

    Example:
        >>> judge = MathJudge()
        >>> judge("1,000.0", "1000"), judge(r"\frac{2}{4}", "0.5"), judge("x+1", "x+2"), judge(None, "3")
        (1.0, 1.0, 0.0, 0.0)
    """

    def __init__(self, *, cache_size: int = 65_536) -> None:
        if find_spec("math_verify") is None:
            raise IbpoError("the mathematics judge needs math-verify: pip install 'ibpo[math]'")
        self._judge = lru_cache(maxsize=cache_size)(judge_pair)

    def __call__(self, predicted: str | None, gold: str) -> float:
        """The reward of one answer."""
        return 0.0 if predicted is None else self._judge(predicted, gold)


def judge_pair(predicted: str, gold: str) -> float:
    """Judge one pair, without a cache: the function that a pool of processes would run."""
    predicted, gold = _bare(predicted), _bare(gold)
    if predicted == gold:
        return 1.0
    if not predicted or is_hostile(predicted) or is_hostile(gold):
        return 0.0
    ours, theirs = _number(predicted), _number(gold)
    if ours is not None and theirs is not None and (ours == theirs or ours.denominator == theirs.denominator == 1):
        return float(ours == theirs)
    return float(_verify(predicted, gold))


def is_hostile(answer: str) -> bool:
    r"""Whether an answer might keep a computer algebra system busy for long.

    Example:
        >>> is_hostile("10^{10^{10}}"), is_hostile("e^{x^2} + 10^{12}")
        (True, False)
    """
    if len(answer) > MAX_LENGTH or _depth(answer) > MAX_DEPTH or BIG_FACTORIAL.search(answer):
        return True
    bracket_power = 1
    for power in POWER.finditer(answer):
        exponent, rest = _exponent(answer[power.end() :].lstrip())
        if sum(map(str.isdigit, exponent)) > MAX_EXPONENT_DIGITS or TOWER.search(exponent):
            return True
        if POWER.match(rest.lstrip()):
            return True
        value = exponent.strip("{}() ")
        if answer[: power.start()].rstrip()[-1:] in (")", "}", "]") and value.isdecimal():
            bracket_power *= max(int(value), 1)
    return bracket_power > MAX_BRACKET_POWER


def _depth(answer: str) -> int:
    depth = deepest = 0
    for character in answer:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _exponent(text: str) -> tuple[str, str]:
    """Split what follows a power sign: (exponent, rest)."""
    if text[:1] in ("{", "("):
        depth = 0
        for i, character in enumerate(text):
            depth += (character in "({") - (character in ")}")
            if depth == 0:
                return text[: i + 1], text[i + 1 :]
        return text, ""
    found = re.match(r"[-+]?\d+|\\[a-zA-Z]+|.?", text)
    size = found.end() if found else 0
    return text[:size], text[size:]


def _bare(answer: str) -> str:
    """Without dollar signs around it, a full stop behind it, and repeated white space."""
    answer = " ".join(answer.split())
    if len(answer) > 1 and answer[0] == answer[-1] == "$":
        answer = answer[1:-1].strip()
    return answer.removesuffix(".")


def _number(answer: str) -> Fraction | None:
    text = answer.removeprefix("\\").removeprefix("$").strip()
    if not PLAIN_NUMBER.fullmatch(text) or not any(map(str.isdigit, text)):
        return None
    return Fraction(text.replace(",", ""))


def _verify(predicted: str, gold: str) -> bool:
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns on every call without a time-out
    in_main = threading.current_thread() is threading.main_thread() and os.name == "posix"
    seconds = TIMEOUT_SECONDS if in_main else None
    ours, theirs = (
        parse(text if "$" in text else f"${text}$", parsing_timeout=seconds)  # pyright: ignore[reportArgumentType]
        for text in (predicted, gold)
    )
    return bool(verify(theirs, ours, timeout_seconds=seconds))
