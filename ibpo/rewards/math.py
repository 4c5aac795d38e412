"""Is a mathematical answer equivalent to the gold? Plain matches first, then math-verify (LaTeX, sympy) in a pool.

math-verify's time-outs use signals, which work in the main thread only, and a formula can hold a computer algebra
system up in one C call, where no signal helps. So each pair goes to a worker process with limits of its own; see
`ibpo.rewards.workers`. Callers may use threads, or fork.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from importlib.util import find_spec

from ibpo.errors import IbpoError
from ibpo.rewards.equivalence import MAX_BYTES, bare, compare_plainly, is_hostile, is_text
from ibpo.rewards.judgement import Candidate, Judgement
from ibpo.rewards.workers import RequestFailed, WorkerPool

SEPARATOR = b"\0"
"""Between the predicted and the gold answer in a request; neither may hold it."""
MAX_SECONDS = 30.0
"""Wall time of one pair; the workers' own limit, `math_worker.CPU_SECONDS`, counts CPU time."""


class MathJudge:
    r"""1.0 where the predicted answer is equivalent to the gold, else 0.0; every pair is judged once.

    Equivalent: equal as text or as plain numbers, or equal by `math_verify.verify(gold, predicted)` with its defaults
    (six decimals, order kept in lists and tuples). Measured against published graders' tests: docs/judges.md.

    Raises:
        IbpoError: on construction, where math-verify is not installed.

    Example:
        >>> judge = MathJudge()
        >>> judge("1,000.0", "1000"), judge(r"\frac{2}{4}", "0.5"), judge("x+1", "x+2"), judge(None, "3")
        (1.0, 1.0, 0.0, 0.0)
    """

    def __init__(self, *, num_workers: int | None = None, cache_size: int = 65_536) -> None:
        """Workers (default: one per CPU, at most eight) start when the first pair needs one."""
        if find_spec("math_verify") is None:
            raise IbpoError("the mathematics judge needs math-verify: pip install 'ibpo[math]'")
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
        """In a forked child: what was under way there belongs to the parent."""
        self._lock = threading.Lock()
        self._cache = OrderedDict((pair, future) for pair, future in self._cache.items() if future.done())

    def _begin(self, predicted: str | None, gold: str) -> Judgement | Future[bytes]:
        if predicted is None:
            return Judgement(reward=0.0, reason="no answer")
        predicted, gold = bare(predicted), bare(gold)
        plain = compare_plainly(predicted, gold)
        if plain is not None:
            return Judgement(reward=float(plain), reason="equal as it stands" if plain else "another number")
        if not predicted:
            return Judgement(reward=0.0, reason="empty answer")
        if not _fits(predicted) or not _fits(gold):
            return Judgement(reward=0.0, reason="too long, or no text")
        # In a text only the last formula counts, and much else looks costly: there the workers' limits have to do.
        if any(is_hostile(answer) for answer in (predicted, gold) if not is_text(answer)):
            return Judgement(reward=0.0, reason="too costly to compute: towers of powers, factorials or deep nesting")
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
