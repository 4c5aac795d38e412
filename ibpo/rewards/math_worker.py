"""`python -m ibpo.rewards.math_worker`: compares answers by math-verify, for `MathJudge`'s pool.

Two shortcuts that change no verdict are put into math-verify here, in the judge's worker processes only:

- **Two-stage parsing**: ANTLR's SLL prediction, whose steps it remembers, before its LL prediction, which it works out
  anew each time. Where SLL parses without an error, LL gives the same tree (Parr, Harwell and Fisher, "Adaptive LL(*)
  parsing", OOPSLA 2014, section 3.2); where it does not, LL parses, and says what is wrong.
- **A look at two points**: expressions that differ at a point are not equal; simplifying their difference, which takes
  a hundred times as long, would say so too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ibpo.rewards.math import SEPARATOR, delimited
from ibpo.rewards.workers import serve, start_failed

POINTS = ((0.5772156649, 0.3819660113), (1.7320508076, 0.2360679775))
"""First symbol, and what each further one has more: positive, so that no root or logarithm of a product is on a branch
where a simplification would not hold."""

TOLERANCE = 1e-9
"""Relative: a million times the rounding error of a double, so that it is never taken for a difference."""
ENDLESS = ("Sum", "Product", "Integral", "Limit", "Derivative")


def install() -> None:
    """Put both shortcuts into the math-verify of this process; a release that names things otherwise is only slower."""
    from latex2sympy2_extended import latex2sympy2
    from math_verify import grader

    if hasattr(latex2sympy2, "PSParser"):
        latex2sympy2.PSParser = two_stage(latex2sympy2.PSParser)
    if hasattr(grader, "sympy_symbolic_eq"):
        grader.sympy_symbolic_eq = looked_at(grader.sympy_symbolic_eq)


def two_stage(parser: Any) -> Any:
    """The parser class, whose entry rule tries SLL first."""
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


def looked_at(symbolic_eq: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """`symbolic_eq`, asked only where the values do not answer."""

    def compare(a: Any, b: Any) -> bool:
        return not differ(a, b) and symbolic_eq(a, b)

    return compare


def differ(a: Any, b: Any) -> bool:
    """Whether two sympy expressions have different values at one of two points; False where that cannot be said.

    Example:
        >>> from sympy.abc import x
        >>> differ(x**2, x**3), differ((x + 1) ** 2, x**2 + 2 * x + 1)
        (True, False)
    """
    from sympy import Expr, Symbol

    if not (isinstance(a, Expr) and isinstance(b, Expr)) or not (a.is_commutative and b.is_commutative):
        return False
    if any(type(node).__name__ in ENDLESS for expr in (a, b) for node in expr.atoms(Expr)):
        return False
    symbols = sorted((a.free_symbols | b.free_symbols), key=str)
    if not all(isinstance(symbol, Symbol) for symbol in symbols):
        return False
    for first, further in POINTS:
        values: Any = {symbol: first + number * further for number, symbol in enumerate(symbols)}
        try:
            ours, theirs = complex(a.evalf(15, subs=values)), complex(b.evalf(15, subs=values))
            distance, size = abs(ours - theirs), max(abs(ours), abs(theirs))
        except (TypeError, ValueError, OverflowError, ArithmeticError, AttributeError, NotImplementedError):
            return False
        if not distance < float("inf"):
            return False
        if distance > TOLERANCE * size:
            return True
    return False


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
