r"""Do two answers that were read say the same?

Rational values are compared exactly. What is irrational or has variables is computed by mpmath with many digits, at
a few points where it has variables: expressions that are equal to 60 digits at points chosen without looking at them are
taken for equal (Schwartz 1980, Zippel 1979, for polynomials). The conventions are those of docs/judges.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from ibpo.answers.reading import Node, exact, has_variable, variables, written
from ibpo.answers.text import same_unit

FEW, MANY = 40, 120
"""Digits of the first computation, and of the one that confirms an equality."""
POINTS = (
    ("0.57721566490153286060651209", "0.3819660112501051517954131656"),
    ("1.6449340668482264364724151666", "0.2360679774997896964091736687"),
    ("-0.9159655941772190150546035149", "0.4142135623730950488016887242"),
    ("-57.295779513082320876798154814", "2.6854520010653064453097148354"),
    ("83.14462618153240112233445566778", "-1.2020569031595942853997381615"),
)
"""Value of the first variable, and what each further one has more. At negative ones a root or
logarithm that has no real value says nothing."""
MIN_PLACES, MIN_DIGITS = 10, 10
"""A decimal stands for the number that it rounds if it gives so many places, and digits that are not leading zeros: a
double that was printed. Fewer digits are another number."""
CHAIN_TOLERANCE = Fraction(1, 100)
"""How far a value and what is said to be near it may lie apart."""


class Contradiction(ValueError):
    """An answer that says two things."""


def same(ours: Node, theirs: Node) -> bool:
    r"""Whether two answers are equal.

    Raises:
        Contradiction: where one of them says two things: 4 = 3.

    Example:
        >>> from ibpo.answers.reading import read
        >>> [same(read(a), read(b)) for a, b in (("x=5", "5"), ("(1,2)", "1<x<2"), ("5 cm", "5 m"), ("2ab", "2ba"))]
        [True, True, False, True]
    """
    ours, theirs = settled(ours), settled(theirs)
    if written(ours) == written(theirs):
        return True
    if ours.kind == theirs.kind == "assignment":
        if written(ours.parts[0]) == written(theirs.parts[0]) and same(ours.parts[1], theirs.parts[1]):
            return True
        return same_equation(_equation(ours), _equation(theirs))
    if "assignment" in (ours.kind, theirs.kind):
        named, other = (ours, theirs) if ours.kind == "assignment" else (theirs, ours)
        if other.kind == "relation":
            return other.name == "=" and same_equation(_equation(named), other)
        return same(named.parts[1], other)
    if "in_base" in (ours.kind, theirs.kind):
        return False
    if ours.kind == "modulo" or theirs.kind == "modulo":
        return ours.kind == theirs.kind and _congruent(ours, theirs)
    if "text" in (ours.kind, theirs.kind):
        return _same_text(ours, theirs)
    if is_region(ours) or is_region(theirs):
        found = same_region(ours, theirs)
        if found is not None:
            return found
    if ours.kind == theirs.kind == "relation":
        return _same_relation(ours, theirs)
    if "relation" in (ours.kind, theirs.kind) or "dots" in (ours.kind, theirs.kind):
        return False
    if ours.kind in COLLECTIONS or theirs.kind in COLLECTIONS:
        return _same_collection(ours, theirs)
    if ours.kind == "ratio" or theirs.kind == "ratio":
        return _same_ratio(ours, theirs)
    return same_quantity(ours, theirs)


COLLECTIONS = ("tuple", "list", "set", "matrix")


def settled(node: Node) -> Node:
    """Without chains: the one value that `1/3 = 2/6`, `1/3 \\approx 0.33` say.

    Raises:
        Contradiction: where the values differ.
    """
    if node.kind == "chain":
        first = settled(node.parts[0])
        for sign, part in zip(node.name.split(), node.parts[1:], strict=True):
            if not (near(first, part) if sign == "~" else same(first, settled(part))):
                raise Contradiction("it gives two values")
        return first
    if node.kind == "relation" and node.name == "in" and is_plain(node.parts[0]):
        return node.parts[1]
    if node.kind in ("sum", "product", "quotient") and any(map(holds_matrix, node.parts)):
        return matrix_of(node)
    if node.kind == "assignment":
        return Node("assignment", (node.parts[0], settled(node.parts[1])))
    if node.kind in ("list", "set") and any(part.kind in ("chain", "assignment") for part in node.parts):
        return Node(node.kind, tuple(settled(part) for part in node.parts), name=node.name)
    return node


def holds_matrix(node: Node) -> bool:
    """Whether a matrix stands in a formula."""
    return node.kind == "matrix" or node.kind in ("sum", "product", "quotient") and any(map(holds_matrix, node.parts))


def matrix_of(node: Node) -> Node:
    """The matrix that a sum or product of matrices and factors is; the formula itself where it is none."""
    parts = [matrix_of(part) if holds_matrix(part) else part for part in node.parts]
    rows = [[list(row.parts) for row in part.parts] if part.kind == "matrix" else None for part in parts]
    if node.kind == "matrix":
        return node
    first, *others = rows
    if node.kind == "sum" and first and all(o and [len(r) for r in o] == [len(r) for r in first] for o in others):
        found = [
            [Node("sum", tuple(part[i][j] for part in rows if part)) for j in range(len(row))] for i, row in enumerate(first)
        ]
    elif len(parts) == 2 and first and rows[1] and node.kind == "product" and len(first[0]) == len(rows[1]):
        columns = list(zip(*rows[1], strict=True))
        found = [
            [Node("sum", tuple(Node("product", pair) for pair in zip(row, column, strict=True))) for column in columns]
            for row in first
        ]
    elif len(parts) == 2 and first and not rows[1]:
        found = [[Node(node.kind, (cell, parts[1])) for cell in row] for row in first]
    elif len(parts) == 2 and rows[1] and not first and node.kind == "product":
        found = [[Node("product", (parts[0], cell)) for cell in row] for row in rows[1]]
    else:
        return node
    return Node("matrix", tuple(Node("list", tuple(row)) for row in found))


def near(ours: Node, theirs: Node) -> bool:
    """Whether two values lie within a hundredth of each other."""
    values = [approximate(unwrapped(node)[0]) for node in (ours, theirs)]
    if values[0] is None or values[1] is None:
        return False
    return abs(values[0] - values[1]) <= float(CHAIN_TOLERANCE) * max(abs(values[0]), abs(values[1]))


def unwrapped(node: Node) -> tuple[Node, str, bool]:
    """(value, unit, whether it is a percentage)."""
    if node.kind == "quantity":
        inner, _, percent = unwrapped(node.parts[0])
        return inner, node.name, percent
    if node.kind == "percent":
        return node.parts[0], "", True
    return node, "", False


def same_quantity(ours: Node, theirs: Node) -> bool:
    """Whether two values agree, each with or without its unit or percent sign."""
    a, unit_a, percent_a = unwrapped(ours)
    b, unit_b, percent_b = unwrapped(theirs)
    if not same_unit(unit_a, unit_b):
        return False
    if a.kind in COLLECTIONS or b.kind in COLLECTIONS or "ratio" in (a.kind, b.kind):
        return percent_a == percent_b and same(a, b)
    if percent_a == percent_b:
        return same_value(a, b)
    if percent_b:
        a, b = b, a  # a is the percentage
    return same_value(a, b) or same_value(Node("quotient", (a, Node("number", number=Fraction(100)))), b)


def same_value(ours: Node, theirs: Node) -> bool:
    """Whether two expressions have one value, exactly; a decimal may stand for what it rounds."""
    a, b = exact(ours), exact(theirs)
    if a is not None and b is not None:
        return a == b or rounds(ours, theirs) or rounds(theirs, ours)
    if has_variable(ours) or has_variable(theirs):
        return agree(ours, theirs)
    return agree(ours, theirs) or rounds(ours, theirs) or rounds(theirs, ours)


def rounds(decimal: Node, value: Node) -> bool:
    """Whether one is a decimal that rounds the other, which is none."""
    if decimal.kind != "number" or decimal.places < MIN_PLACES or value.kind == "number" and value.places != -1:
        return False
    digits = str(abs(decimal.number.numerator * 10**decimal.places // decimal.number.denominator))
    if len(digits) < MIN_DIGITS or decimal.number == 0:
        return False
    known = exact(value)
    if known is None:
        number = numeric(value, MANY, {})
        if number is None or abs(number.imag) > 1e-50:
            return False
        known = Fraction(int(number.real * 10 ** (decimal.places + 3)), 10 ** (decimal.places + 3))
    elif known.denominator == 1 or not _goes_on(known):
        return False
    return abs(decimal.number - known) * 10**decimal.places <= Fraction(1, 2) + Fraction(1, 500)


def _goes_on(value: Fraction) -> bool:
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
    for first, further in POINTS if names else POINTS[:1]:
        few = _pair(ours, theirs, names, first, further, FEW)
        if few is None:
            continue
        a, b = few
        if first.startswith("-") and (abs(a.imag) > 1e-30 or abs(b.imag) > 1e-30) and compared:
            continue
        size = max(abs(a), abs(b))
        apart = abs(a - b)
        if apart > size * _power_of_ten(8 - FEW) and apart > _power_of_ten(8 - FEW):
            return False
        many = _pair(ours, theirs, names, first, further, MANY)
        if many is None:
            return False
        c, d = many
        # Zero is what shrinks with the digits; a small number that is none does not.
        if abs(c - d) > max(abs(c), abs(d)) * _power_of_ten(-60) and abs(c - d) > apart * _power_of_ten(-40):
            return False
        compared += 1
    return compared > 0


def _power_of_ten(exponent: int) -> Any:
    import mpmath

    return mpmath.mpf(10) ** exponent


def _pair(ours: Node, theirs: Node, names: Sequence[str], first: str, further: str, digits: int) -> tuple[Any, Any] | None:
    import mpmath

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
    import mpmath

    with mpmath.workdps(digits):
        try:
            value = mpmath.mpmathify(_compute(node, values))
        except (ValueError, ZeroDivisionError, OverflowError, TypeError, KeyError, mpmath.libmp.NoConvergence):
            return None
        value = mpmath.mpc(value)
        return None if mpmath.isnan(value) or mpmath.isinf(value) else value


def _compute(node: Node, values: dict[str, Any]) -> Any:
    import mpmath

    known = exact(node)
    if known is not None:
        return mpmath.mpf(known.numerator) / known.denominator
    kind = node.kind
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
    import mpmath

    x = parts[0]
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


def _congruent(ours: Node, theirs: Node) -> bool:
    values = [exact(part) for node in (ours, theirs) for part in node.parts]
    if ours.name and theirs.name and ours.name != theirs.name:
        return False
    a, m, b, n = values
    if a is None or b is None or not m or not n:
        return written(ours) == written(theirs)
    return m == n and (a - b) % m == 0


def _same_text(ours: Node, theirs: Node) -> bool:
    """Words are compared without case and punctuation; a list of words too."""
    return _words(ours) == _words(theirs) != ""


def _words(node: Node) -> str:
    if node.kind in ("text", "variable", "constant"):
        return "".join(character for character in node.name.lower() if character.isalnum())
    if node.kind == "product":
        return "".join(_words(part) for part in node.parts)
    return ""


def _equation(node: Node) -> Node:
    return Node("relation", node.parts, name="=")


def _difference(node: Node) -> Node:
    minus = Node("product", (Node("number", number=Fraction(-1)), node.parts[1]))
    return Node("sum", (node.parts[0], minus))


def same_equation(ours: Node, theirs: Node, *, positive: bool = False) -> bool:
    """Whether two equations are the same but for a constant factor; for inequalities a positive one."""
    import mpmath

    a, b = _difference(ours), _difference(theirs)
    if any(part.kind in COLLECTIONS + ("text", "ratio") for node in (a, b) for part in node.parts):
        return False
    names = sorted(variables(a) | variables(b))
    if not names or variables(a) != variables(b):
        return False
    factor: Any = None
    for first, further in POINTS:
        found = _pair(a, b, names, first, further, FEW)
        if found is None:
            continue
        if not abs(found[1]) or not abs(found[0]):
            return False
        ratio = found[0] / found[1]
        with mpmath.workdps(FEW):
            if factor is not None and abs(ratio - factor) > abs(factor) * _power_of_ten(-20):
                return False
        factor = ratio
        if positive and not (abs(ratio.imag) < 1e-20 and ratio.real > 0):
            return False
    return factor is not None


TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


def _same_relation(ours: Node, theirs: Node) -> bool:
    a, b = ours.name.split(), theirs.name.split()
    if len(a) == len(b) == 1 and a[0] in TURNED and b[0] in TURNED:
        for sign, node in ((b[0], theirs), (TURNED[b[0]], Node("relation", theirs.parts[::-1], name=TURNED[b[0]]))):
            if sign == a[0] and same_equation(ours, node, positive=sign not in ("=", "!=")):
                return True
        return False
    if a == [TURNED.get(sign, "") for sign in b[::-1]]:
        theirs = Node("relation", theirs.parts[::-1], name=" ".join(a))
    elif a != b:
        return False
    return all(same(x, y) for x, y in zip(ours.parts, theirs.parts, strict=True))


def _same_ratio(ours: Node, theirs: Node) -> bool:
    a, b = ours, theirs
    if a.kind != "ratio" or b.kind != "ratio":
        return False
    return len(a.parts) == len(b.parts) and all(map(same_value, a.parts, b.parts))


def _same_collection(ours: Node, theirs: Node) -> bool:
    """Tuples and matrices in their order, sets and lists in any; a list also as the tuple of its items."""
    kinds = {ours.kind, theirs.kind}
    if ours.kind not in COLLECTIONS or theirs.kind not in COLLECTIONS:
        single, several = (theirs, ours) if ours.kind in COLLECTIONS else (ours, theirs)
        # A set of one is its element; a compound of quantities is no single one.
        return several.kind == "set" and len(several.parts) == 1 and same(several.parts[0], single)
    a, b = list(ours.parts), list(theirs.parts)
    if kinds in ({"set"}, {"set", "list"}) or (kinds == {"list"} and all(part.kind == "tuple" for part in a + b)):
        a, b = _distinct(a), _distinct(b)
    if len(a) != len(b):
        return False
    if kinds == {"matrix"}:
        return ours.name == theirs.name and all(
            len(x.parts) == len(y.parts) and all(map(same, x.parts, y.parts)) for x, y in zip(a, b, strict=True)
        )
    if kinds == {"tuple"}:
        return (ours.name == theirs.name or len(a) > 2) and all(map(same, a, b))
    if kinds == {"tuple", "list"}:
        brackets = ours.name if ours.kind == "tuple" else theirs.name
        return brackets == "()" and all(map(same, a, b))
    if kinds <= {"set", "list"}:
        return matched(a, b)
    return False


def _distinct(nodes: Sequence[Node]) -> list[Node]:
    kept: list[Node] = []
    for node in nodes:
        if not any(same(node, other) for other in kept):
            kept.append(node)
    return kept


def matched(ours: Sequence[Node], theirs: Sequence[Node]) -> bool:
    """Whether each of ours is one of theirs, each used once; equality is transitive, so the first that fits will do."""
    left = list(theirs)
    for node in ours:
        for i, other in enumerate(left):
            if same(node, other):
                del left[i]
                break
        else:
            return False
    return not left


def is_region(node: Node) -> bool:
    """Whether it is a set of real numbers: an interval, an inequality, a union of such."""
    if node.kind in ("union", "intersection", "difference", "reals", "empty"):
        return True
    if node.kind == "relation":
        return node.name == "in" or (set(node.name.split()) <= {"<", "<=", ">", ">=", "!="} and _subject(node) is not None)
    if node.kind == "tuple":
        return len(node.parts) == 2 and (node.name != "()" or any("infinity" in written(part) for part in node.parts))
    if node.kind == "list":
        return bool(node.parts) and all(map(is_region, node.parts)) and all(
            part.kind == "relation" for part in node.parts) and node.name in ("or", "and")
    return False


def _subject(node: Node) -> tuple[int, Node] | None:
    """(position, side) of the one side with variables of an inequality; None where there is none, or no plain one."""
    found = [(i, part) for i, part in enumerate(node.parts) if has_variable(part)]
    if len(found) != 1 or not (is_plain(found[0][1]) or absolute(found[0][1])):
        return None
    return found[0]


def is_plain(node: Node) -> bool:
    """Whether it is a variable or the value of an unknown function."""
    return node.kind == "variable" or (node.kind == "function" and node.name.endswith("()")) or (
        node.kind == "product" and len(node.parts) == 2 and all(part.kind == "variable" for part in node.parts)
    )


def absolute(node: Node) -> bool:
    """Whether it is the absolute value of a variable."""
    return node.kind == "function" and node.name == "abs" and is_plain(node.parts[0])


def same_region(ours: Node, theirs: Node) -> bool | None:
    """Whether two sets of reals are the same; None where one of them is none."""
    import mpmath

    subjects = {written(subject) for node in (ours, theirs) for subject in _subjects(node)}
    if len(subjects) > 1:
        return None
    try:
        with mpmath.workdps(FEW):
            ends = sorted({*_ends(ours), *_ends(theirs)})
            ends = [end for i, end in enumerate(ends) if i == 0 or abs(end - ends[i - 1]) > abs(end) * mpmath.mpf(10) ** -30]
            if not ends:
                ends = [mpmath.mpf(0)]
            between = [(a + b) / 2 for a, b in itertools.pairwise(ends)]
            points = [ends[0] - 1, *ends, *between, ends[-1] + 1]
            return all(_holds(ours, point) == _holds(theirs, point) for point in points)
    except NotAKnownRegion:
        return None


class NotAKnownRegion(ValueError):
    """No set of real numbers."""


def _subjects(node: Node) -> list[Node]:
    if node.kind == "relation":
        if node.name == "in":
            return [node.parts[0]] if is_plain(node.parts[0]) else []
        subject = _subject(node)
        return [] if subject is None else [subject[1].parts[0] if absolute(subject[1]) else subject[1]]
    return [subject for part in node.parts for subject in _subjects(part)] if node.kind in ("union", "list", "difference", "intersection") else []


def _end(node: Node) -> Any:
    import mpmath

    text = written(node)
    if "infinity" in text:
        return -mpmath.inf if "-1" in text else mpmath.inf
    value = None if has_variable(node) else numeric(unwrapped(node)[0], FEW, {})
    if value is None or abs(value.imag) > 1e-20:
        raise NotAKnownRegion
    return value.real


def _ends(node: Node) -> list[Any]:
    import mpmath

    if node.kind == "tuple" and len(node.parts) == 2:
        return [end for end in map(_end, node.parts) if not mpmath.isinf(end)]
    if node.kind == "set":
        return [_end(part) for part in node.parts]
    if node.kind == "relation" and node.name == "in":
        return _ends(node.parts[1])
    if node.kind == "relation":
        subject = _subject(node)
        if subject is None:
            raise NotAKnownRegion
        found = [_end(part) for i, part in enumerate(node.parts) if i != subject[0]]
        return [end for e in found for end in ((e, -e) if absolute(subject[1]) else (e,)) if not mpmath.isinf(end)]
    if node.kind in ("union", "intersection", "difference", "list"):
        return [end for part in node.parts for end in _ends(part)]
    if node.kind in ("reals", "empty"):
        return []
    raise NotAKnownRegion


def _holds(node: Node, point: Any) -> bool:
    if node.kind == "tuple":
        low, high = map(_end, node.parts)
        return (low < point or (low == point and node.name[0] == "[")) and (
            point < high or (high == point and node.name[1] == "]")
        )
    if node.kind == "set":
        return any(_end(part) == point for part in node.parts)
    if node.kind == "relation" and node.name == "in":
        return _holds(node.parts[1], point)
    if node.kind == "relation":
        subject = _subject(node)
        assert subject is not None
        value = abs(point) if absolute(subject[1]) else point
        sides = [value if i == subject[0] else _end(part) for i, part in enumerate(node.parts)]
        return all(_compare(sign, a, b) for sign, a, b in zip(node.name.split(), sides, sides[1:], strict=False))
    if node.kind == "list" and node.name == "and":
        return all(_holds(part, point) for part in node.parts)
    if node.kind in ("union", "list"):
        return any(_holds(part, point) for part in node.parts)
    if node.kind == "intersection":
        return all(_holds(part, point) for part in node.parts)
    if node.kind == "difference":
        return _holds(node.parts[0], point) and not _holds(node.parts[1], point)
    return node.kind == "reals"


def _compare(sign: str, a: Any, b: Any) -> bool:
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "!=": a != b}[sign]
