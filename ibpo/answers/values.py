r"""The values of formulas, and whether two of them agree.

Rational values are compared exactly. What is irrational or has variables is computed by mpmath with many digits, at a
few points where it has variables: expressions that are equal to 60 digits at points chosen without looking at them are
equal (Schwartz 1980, Zippel 1979, for polynomials).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import mpmath
from mpmath.libmp import NoConvergence

from ibpo.answers.nodes import Node, exact, has_variable, variables

COLLECTIONS = ("tuple", "list", "set", "matrix")
FEW, MANY = 40, 120
"""Digits of the first computation, and of the one that confirms an equality."""
POINTS = (
    ("0.57721566490153286060651209", "0.3819660112501051517954131656"),
    ("1.6449340668482264364724151666", "0.2360679774997896964091736687"),
    ("-0.9159655941772190150546035149", "0.4142135623730950488016887242"),
    ("-57.295779513082320876798154814", "2.6854520010653064453097148354"),
    ("83.14462618153240112233445566778", "-1.2020569031595942853997381615"),
)
"""Value of the first variable, and what each further one has more. At negative ones a root or logarithm that has no
real value says nothing."""
FAR = (("-71828182.8459045", "31415.926535897932"), ("66260701.5", "-1380.649"))
"""More points, for what bends: |x + 300| is x + 300 at most places."""
MAX_MAGNITUDE = 10_000
"""Bits before the point of what a function is computed of: a sine reduces all of them."""
BENDS = ("abs", "root", "max", "min", "floor", "ceil")
MIN_PLACES, MIN_DIGITS = 10, 10
"""A decimal stands for the number that it rounds if it gives so many places, and digits that are not leading zeros: a
double that was printed. Fewer digits are another number."""
DIGITS_OF_DOUBLE = 17
"""Most digits of a double that was printed; it may be off by the distance of two doubles."""


def same_value(ours: Node, theirs: Node) -> bool:
    """Whether two expressions have one value, exactly; a decimal may stand for what it rounds."""
    a, b = exact(ours), exact(theirs)
    if a is not None and b is not None:
        return a == b or rounds(ours, theirs) or rounds(theirs, ours)
    if has_variable(ours) or has_variable(theirs):
        return agree(ours, theirs)
    return agree(ours, theirs) or rounds(ours, theirs) or rounds(theirs, ours)


def rounds(decimal: Node, value: Node) -> bool:
    """Whether one is a decimal, and rounds the other, which is not a decimal."""
    if decimal.kind != "number" or decimal.places < MIN_PLACES or (value.kind == "number" and value.places != -1):
        return False
    digits = str(abs(decimal.number.numerator * 10**decimal.places // decimal.number.denominator))
    if len(digits) < MIN_DIGITS or decimal.number == 0:
        return False
    known = exact(value)
    if known is None:
        number = numeric(value, MANY, {})
        if number is None or abs(number.imag) > 1e-50:
            return False
        with mpmath.workdps(MANY):
            known = Fraction(int(number.real * 10 ** (decimal.places + 3)), 10 ** (decimal.places + 3))
    elif known.denominator == 1 or not goes_on(known):
        return False
    rounding = (Fraction(1, 2) + Fraction(1, 500)) / 10**decimal.places
    printed = abs(known) / 2**52 if len(digits) <= DIGITS_OF_DOUBLE else 0
    return abs(decimal.number - known) <= max(rounding, printed)


def goes_on(value: Fraction) -> bool:
    """Whether a fraction is no decimal of finitely many digits."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest > 1


def agree(ours: Node, theirs: Node) -> bool:
    """Whether two expressions have the same value at every point where they have one."""
    names = sorted(variables(ours) | variables(theirs))
    if bool(variables(ours)) != bool(variables(theirs)) and not names:
        return False
    compared = 0
    points = POINTS + FAR if bends(ours) or bends(theirs) else POINTS
    for first, further in points if names else POINTS[:1]:
        few = values_at(ours, theirs, names, first, further, FEW)
        if few is None:
            continue
        a, b = few
        if first.startswith("-") and (abs(a.imag) > 1e-30 or abs(b.imag) > 1e-30) and compared:
            continue
        size = max(abs(a), abs(b))
        apart = abs(a - b)
        if apart > size * power_of_ten(8 - FEW) and apart > power_of_ten(8 - FEW):
            return False
        many = values_at(ours, theirs, names, first, further, MANY)
        if many is None:
            return False
        c, d = many
        # Zero is what shrinks with the digits; a small number that is not zero does not.
        if abs(c - d) > max(abs(c), abs(d)) * power_of_ten(-60) and abs(c - d) > apart * power_of_ten(-40):
            return False
        compared += 1
    return compared > 0


def bends(node: Node) -> bool:
    """Whether a function is in it that follows another rule elsewhere."""
    return (node.kind == "function" and node.name in BENDS) or any(map(bends, node.parts))


def power_of_ten(exponent: int) -> Any:
    """In the digits of the present computation."""
    return mpmath.mpf(10) ** exponent


def values_at(
    ours: Node, theirs: Node, names: Sequence[str], first: str, further: str, digits: int
) -> tuple[Any, Any] | None:
    """Both values at one point; None where one has none there."""
    with mpmath.workdps(digits):
        values = {name: mpmath.mpf(first) + number * mpmath.mpf(further) for number, name in enumerate(names)}
    a, b = numeric(ours, digits, values), numeric(theirs, digits, values)
    return None if a is None or b is None else (a, b)


def approximate(node: Node) -> float | None:
    """The real value of an expression without variables, as a double."""
    value = exact(node)
    if value is not None:
        try:
            return float(value)
        except OverflowError:
            return None
    if has_variable(node):
        return None
    number = numeric(node, FEW, {})
    return None if number is None or abs(number.imag) > 1e-20 else float(number.real)


def numeric(node: Node, digits: int, values: dict[str, Any]) -> Any:
    """The complex value of an expression, to many digits; None where there is none."""
    with mpmath.workdps(digits):
        try:
            value = mpmath.mpmathify(_compute(node, values))
        except (ValueError, ZeroDivisionError, OverflowError, TypeError, KeyError, AttributeError, NoConvergence):
            return None
        value = mpmath.mpc(value)
        return None if mpmath.isnan(value) or mpmath.isinf(value) else value


def _compute(node: Node, values: dict[str, Any]) -> Any:
    kind = node.kind
    if kind == "number":
        return mpmath.mpf(node.number.numerator) / node.number.denominator
    if kind == "variable":
        return values[node.name]
    if kind == "constant":
        if node.name == "infinity":
            raise ValueError("infinity has no value")
        return {"pi": +mpmath.pi, "e": +mpmath.e, "i": mpmath.mpc(0, 1)}[node.name]
    if kind == "quantity" and node.name in ("", "degree"):
        return _compute(node.parts[0], values)
    parts = [_compute(part, values) for part in node.parts]
    if kind == "sum":
        return mpmath.fsum(parts)
    if kind == "product":
        return mpmath.fprod(parts)
    if kind == "quotient":
        return parts[0] / parts[1]
    if kind == "percent":
        return parts[0] / 100
    if kind == "power":
        return mpmath.power(parts[0], _small(parts[1]))
    if kind == "function":
        return _apply(node.name, parts)
    raise ValueError(f"{kind} has no value")


def _small(power: Any) -> Any:
    if abs(power) > 1e6:
        raise OverflowError("a power too large to compute")
    return power


def _apply(name: str, parts: list[Any]) -> Any:
    x = parts[0]
    if any(mpmath.isfinite(part) and part != 0 and mpmath.mag(part) > MAX_MAGNITUDE for part in parts):
        raise OverflowError("a number too large for a function")
    if name == "root":
        degree = parts[1]
        real = mpmath.im(x) == 0
        if real and mpmath.re(x) < 0 and degree == int(degree) and int(degree) % 2:
            return -mpmath.root(-mpmath.re(x), int(degree))
        return mpmath.power(x, 1 / mpmath.mpmathify(degree))
    if name == "log":
        return mpmath.log(x) / mpmath.log(parts[1] if len(parts) > 1 else 10)
    if name == "ln":
        return mpmath.log(x)
    if name == "lg":
        return mpmath.log10(x)
    if name == "factorial":
        return mpmath.factorial(x) if abs(x) < 1e4 else mpmath.gamma(_small(x) + 1)
    if name == "binom":
        return mpmath.binomial(*parts)
    if name in ("max", "min"):
        return {"max": max, "min": min}[name](parts)
    if name.endswith("()"):  # an unknown function: some function, the same for both
        return mpmath.cos(x * sum(map(ord, name))) + ord(name[0])
    functions: dict[str, Callable[[Any], Any]] = {
        "abs": abs, "exp": mpmath.exp, "floor": mpmath.floor, "ceil": mpmath.ceil, "arcsin": mpmath.asin,
        "arccos": mpmath.acos, "arctan": mpmath.atan, "arccot": mpmath.acot,
    }  # fmt: skip
    return (functions.get(name) or getattr(mpmath, name))(x)


def same_equation(ours: Node, theirs: Node, *, positive: bool = False) -> bool:
    """Whether two equations are the same up to a constant factor; for inequalities a positive one."""
    a, b = _difference(ours), _difference(theirs)
    if any(part.kind in (*COLLECTIONS, "text", "ratio") for node in (a, b) for part in node.parts):
        return False
    names = sorted(variables(a) | variables(b))
    if not names or variables(a) != variables(b):
        return False
    factor: Any = None
    for first, further in POINTS:
        found = values_at(a, b, names, first, further, FEW)
        if found is None:
            continue
        if not abs(found[1]) or not abs(found[0]):
            return False
        ratio = found[0] / found[1]
        with mpmath.workdps(FEW):
            if factor is not None and abs(ratio - factor) > abs(factor) * power_of_ten(-20):
                return False
        factor = ratio
        if positive and not (abs(ratio.imag) < 1e-20 and ratio.real > 0):
            return False
    return factor is not None


def _difference(node: Node) -> Node:
    minus = Node("product", (Node("number", number=Fraction(-1)), node.parts[1]))
    return Node("sum", (node.parts[0], minus))
