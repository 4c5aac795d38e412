"""`python -m ibpo.rewards.math_worker`: compares answers by math-verify, for `MathJudge`'s pool."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ibpo.rewards.equivalence import delimited
from ibpo.rewards.math import SEPARATOR
from ibpo.rewards.faster_math_verify import install
from ibpo.rewards.worker_process import serve, start_failed

CPU_SECONDS = 2.0
"""Of one pair: six times what the slowest honest pair of the published tests takes, so that no slow machine decides."""
MEMORY_BYTES = 2 << 30


def _comparison() -> Callable[[bytes], bytes]:
    """Request -> `b"1"` or `b"0"`; math-verify and sympy are loaded here."""
    from math_verify import parse, verify

    install()
    logging.disable(logging.CRITICAL)

    # Without math-verify's own time-outs: they count wall time, and this process has limits of its own.
    @lru_cache(maxsize=4096)
    def parsed(answer: str) -> Any:
        return parse(delimited(answer), parsing_timeout=None)  # pyright: ignore[reportArgumentType]

    def compare(request: bytes) -> bytes:
        predicted, gold = (part.decode() for part in request.split(SEPARATOR))
        return b"1" if verify(parsed(gold), parsed(predicted), timeout_seconds=None) else b"0"

    compare(b"\\frac{1}{2}\0x+1")  # the first one builds grammars: before there is a limit of time
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
