r"""Is a mathematical answer equivalent to the gold? Plain matches first, then what both say (`ibpo.answers`) in a pool.

math-verify, which finds answers in texts, has time-outs that use signals: these work in the main thread only, and a
formula can hold a computer algebra system up in one C call, where no signal helps. So each pair goes to a worker
process with limits of its own; see `ibpo.rewards.workers`. Callers may use threads, or fork.

`10^{10^{10}}` or 300 nested parentheses keep a computer algebra system busy until its limit of time: `is_hostile`
turns such answers away unread, so that a policy that writes many of them does not slow training down.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ibpo.answers import EMPHASIS, unwrapped
from ibpo.errors import IbpoError
from ibpo.rewards.judges import Candidate, Judgement, as_answer
from ibpo.rewards.workers import RequestFailed, WorkerPool

MAX_BYTES = 20_000
"""Most bytes of an answer, in UTF-8; a longer text is no answer."""
MAX_DIGITS = 1000
MAX_DEPTH = 12
MAX_EXPONENT_DIGITS = 4

MAX_BRACKET_POWER = 100
"""Largest product of the exponents on brackets with letters: what expanding them costs grows with it."""
MAX_NUMBER_POWER = 20_000
"""The same of brackets that hold numbers alone: `(5/6)^{200}`."""
PLAIN_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:(?:,|\\,|,?\{,\}|,\\!| )\d{3})+|\d+)?(?:\.\d+)?")
FRACTION = re.compile(r"([-+]?)(?:\\[dt]?frac\s*\{(-?\d+)\}\s*\{(\d+)\}|(\d+)\s*/\s*(\d+))")
POWER = re.compile(r"\^|\*\*")
TOWER = re.compile(r"[\d)}\]]\s*(?:\^|\*\*|!)")

BIG_FACTORIAL = re.compile(r"(?<!\d)\d{5,}\s*!|!\s*!")
"""Begins where a number does: a search from each of its digits takes the square of their number."""
BRACKET_FACTORIAL = re.compile(r"[)}\]]\s*!")
GROWS = re.compile(r"[!^*]|\d{4}|[)}\]]\s*[(\[{]|\\(?:times|cdot|binom)")
"""In a bracket with a factorial: what may make a large number of it, as `(9!)!`; `(10-3)!` and `(n-1)!` have none."""
LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
BIG_NUMBER = re.compile(r"\d{6,}")
DELIMITER = re.compile(r"\$|\\boxed|\\\[|\\\(|\\begin\{(?:align|equation|displaymath|math)")

PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}\s+[A-Za-z]{2,}\s|[^\x00-\u024F\u0370-\u03FF\u2010-\u2BFF]")
"""Two words in a row, or letters of a script that formulas do not use."""


def bare(answer: str) -> str:
    r"""Without what is around it and says nothing: dollar signs, a box, emphasis, a full stop, white space.

    Example:
        >>> bare(" $72$. "), bare(r"\$72.00"), bare("**72**")
        ('72', '72.00', '72')
    """
    answer, before = " ".join(answer.split()), None
    while before != answer:
        before, answer = answer, unwrapped(answer)
    return answer.replace("\\$", "").strip()


def as_number(answer: str) -> Fraction | None:
    r"""A plain number's or fraction's exact value; None for anything else.

    Thousands may be set apart by commas or spaces.

    Example:
        >>> as_number("1,250.50"), as_number("$3"), as_number("1 000"), as_number("1,2"), as_number(r"-\frac{2}{4}")
        (Fraction(2501, 2), Fraction(3, 1), Fraction(1000, 1), None, Fraction(-1, 2))
    """
    text = answer.removeprefix("$").strip()
    if len(text) > MAX_DIGITS or not text.isascii() or not any(map(str.isdigit, text)):
        return None
    if PLAIN_NUMBER.fullmatch(text):
        return Fraction(re.sub(r"[^-+.\d]", "", text))
    if fraction := FRACTION.fullmatch(text):
        sign, over, under, left, right = fraction.groups()
        if int(under or right) == 0:
            return None
        return Fraction(int(over or left), int(under or right)) * (-1 if sign == "-" else 1)
    return None


def compare_plainly(predicted: str, gold: str) -> bool | None:
    """Whether two bare answers are equal, where text or plain numbers decide it; None where they have to be read.

    Example:
        >>> compare_plainly("1,000", "1000.0"), compare_plainly("72", "73"), compare_plainly("x+1", "1+x")
        (True, False, None)
    """
    if predicted == gold:
        return True
    ours, theirs = as_number(predicted), as_number(gold)
    if ours is None or theirs is None:
        return None
    if ours == theirs:
        return True
    # A decimal may stand for the fraction that it rounds; two decimals, and two fractions, are equal or not.
    return None if ("." in predicted) != ("." in gold) else False


def delimited(answer: str) -> str:
    """As math-verify reads it: a bare formula goes between dollar signs, text with formulas stays as it is.

    Example:
        >>> delimited("x+1"), delimited(r"so it is $x+1$"), delimited("the answer is 3/4 of it")
        ('$x+1$', 'so it is $x+1$', 'the answer is 3/4 of it')
    """
    return answer if is_text(answer) else f"${answer}$"


def is_text(answer: str) -> bool:
    """Whether formulas are in a text here, rather than one formula alone."""
    return bool(DELIMITER.search(answer) or PROSE.search(answer))


def is_hostile(answer: str) -> bool:
    r"""Whether an answer might keep a computer algebra system busy for long; itself it takes time linear in the length.

    It runs in the caller, before every other answer of the batch, so no answer may be able to make it slow.

    Example:
        >>> is_hostile("10^{10^{10}}"), is_hostile("e^{x^2} + 10^{12}")
        (True, False)
    """
    answer = EMPHASIS.sub(r"\1", answer)  # bold print is no power
    if _depth(answer) > MAX_DEPTH or BIG_FACTORIAL.search(answer):
        return True
    binomial = answer.find("binom")
    if binomial >= 0 and BIG_NUMBER.search(answer, binomial):
        return True
    opened = _openings(answer)
    for factorial in BRACKET_FACTORIAL.finditer(answer):
        end = factorial.start()
        if GROWS.search(answer, opened.get(end, -1) + 1, end):
            return True
    bracket_power = number_power = 1
    for power in POWER.finditer(answer):
        exponent, rest = _exponent(answer[power.end() : power.end() + 200].lstrip())
        if sum(map(str.isdigit, exponent)) > MAX_EXPONENT_DIGITS or TOWER.search(exponent):
            return True
        if POWER.match(rest.lstrip()):
            return True
        value = exponent.strip("{}() ")
        start = max(power.start() - 20, 0)
        end = start + len(answer[start : power.start()].rstrip()) - 1
        if answer[end : end + 1] in (")", "}", "]") and value.isdecimal():
            if LETTER.search(answer, opened.get(end, -1) + 1, end):
                bracket_power *= max(int(value), 1)
            else:
                number_power *= max(int(value), 1)
    return bracket_power > MAX_BRACKET_POWER or number_power > MAX_NUMBER_POWER


def _openings(answer: str) -> dict[int, int]:
    """Where each bracket that closes was opened; brackets of every kind close each other."""
    opened: list[int] = []
    found: dict[int, int] = {}
    for position, character in enumerate(answer):
        if character in "([{":
            opened.append(position)
        elif character in ")]}" and opened:
            found[position] = opened.pop()
    return found


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


SEPARATOR = b"\0"
"""Between the predicted and the gold answer in a request; neither may hold it."""

MAX_SECONDS = 30.0
"""Wall time of one pair; the workers' own limit, `math_worker.CPU_SECONDS`, counts CPU time."""

ANTLR = "4.13.2"
"""math-verify has one grammar per runtime of ANTLR, and takes that of whichever is installed; they read differently."""


def check_grammar() -> None:
    """Refuse a runtime of ANTLR with which math-verify reads answers otherwise.

    Raises:
        IbpoError: names the one that was found.
    """
    try:
        found = version("antlr4-python3-runtime")
    except PackageNotFoundError:
        found = "missing"
    if found != ANTLR:
        raise IbpoError(
            f"antlr4-python3-runtime is {found}; with any version but {ANTLR} math-verify finds other answers "
            "in texts: "
            f"pip install antlr4-python3-runtime=={ANTLR}, in an environment without packages that need another"
        )


class MathJudge:
    r"""1.0 where the predicted answer is equivalent to the gold, else 0.0; every pair is judged once.

    Equivalent: equal as text or as plain numbers, or equal in all that both say when they are read; what is not read
    must be written alike. Conventions, and how it agrees with published graders' tests: docs/reference/judges.md.

    Raises:
        IbpoError: on construction, where math-verify is not installed, or with another version of ANTLR.

    Example:
        >>> judge = MathJudge()
        >>> judge("1,000.0", "1000"), judge(r"\frac{2}{4}", "0.5"), judge("x+1", "x+2"), judge(None, "3")
        (1.0, 1.0, 0.0, 0.0)
    """

    def __init__(self, *, num_workers: int | None = None, cache_size: int = 65_536) -> None:
        """Workers (default: one per CPU, at most eight) start when the first pair needs one."""
        if find_spec("math_verify") is None:
            raise IbpoError("the mathematics judge needs math-verify: pip install 'ibpo[math]'")
        check_grammar()
        if num_workers is not None and num_workers < 1:
            raise IbpoError(f"num_workers: must be at least 1, got {num_workers!r}")
        self._options = (num_workers, cache_size)
        num_workers = num_workers or min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 8)
        self._pool = WorkerPool("ibpo.rewards.math_worker", num_workers=num_workers, max_seconds=MAX_SECONDS)
        self._cache: OrderedDict[tuple[str, str], Future[bytes]] = OrderedDict()
        self._cache_size = cache_size
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def __call__(self, predicted: str | None, gold: str) -> float:
        """The reward of one answer."""
        return self.compare([(predicted, gold)])[0].reward

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """Judge the predicted answers against the problems' golds."""
        return self.compare([(c.predicted_answer, c.problem.answer) for c in candidates])

    def compare(self, pairs: Sequence[tuple[str | None, str]]) -> list[Judgement]:
        """Judge (predicted, gold) pairs, all workers at once.

        Raises:
            IbpoError: if the worker processes do not start.
        """
        begun = [self._begin(predicted, gold) for predicted, gold in pairs]
        return [_finish(outcome) if isinstance(outcome, Future) else outcome for outcome in begun]

    def close(self) -> None:
        """Stop the worker processes; a later call starts them again."""
        self._pool.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, self._options

    def _forget(self) -> None:
        """In a forked child: what was in flight there belongs to the parent."""
        self._lock = threading.Lock()
        self._cache = OrderedDict((pair, future) for pair, future in self._cache.items() if future.done())

    def _begin(self, predicted: str | None, gold: str) -> Judgement | Future[bytes]:
        if predicted is None:
            return Judgement(reward=0.0, reason="no answer")
        if not _fits(as_answer(predicted)) or not _fits(as_answer(gold)):
            return Judgement(reward=0.0, reason="too long, or no text")
        ours, theirs = bare(predicted), bare(gold)
        plain = compare_plainly(ours, theirs)
        if plain is not None:
            return Judgement(reward=float(plain), reason="equal as written" if plain else "another number")
        if not ours:
            return Judgement(reward=0.0, reason="empty answer")
        # In a text only the last formula counts, and much else looks costly: there the workers' limits have to do.
        if any(is_hostile(answer) for answer in (ours, theirs) if not is_text(answer)):
            return Judgement(reward=0.0, reason="too costly to compute: towers of powers, factorials or deep nesting")
        predicted, gold = " ".join(predicted.split()), " ".join(gold.split())  # with the signs of currencies
        with self._lock:
            future = self._cache.get((predicted, gold))
            if future is None or (future.done() and isinstance(future.exception(), IbpoError)):
                future = self._pool.submit(predicted.encode() + SEPARATOR + gold.encode())
                self._cache[predicted, gold] = future
                if len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)
            self._cache.move_to_end((predicted, gold))
        return future


def _finish(future: Future[bytes]) -> Judgement:
    try:
        equal = future.result() == b"1"
    except RequestFailed as error:
        return Judgement(reward=0.0, reason=f"the comparison {error}")
    return Judgement(reward=float(equal), reason="equivalent" if equal else "not equivalent")


def _fits(answer: str) -> bool:
    if "\0" in answer:
        return False
    try:
        return len(answer.encode()) <= MAX_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _rebuild(num_workers: int | None, cache_size: int) -> MathJudge:
    return MathJudge(num_workers=num_workers, cache_size=cache_size)
