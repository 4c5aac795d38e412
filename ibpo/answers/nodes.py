"""What answers are made of: the tree that reading an answer gives, and what can be said of it without numerics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

MAX_BITS = 8000
"""Most bits of a number that is computed exactly."""


class Unread(ValueError):
    """A part of an answer that the reader does not understand."""


@dataclass(frozen=True, slots=True)
class Node:
    """One part of an answer.

    Kinds: number, constant (pi, e, i, infinity), variable, sum, product, quotient, power, function, plus_minus; tuple,
    set, list, matrix, union, intersection, difference, reals, empty; relation (`name` has the signs between the parts),
    assignment (name, value), quantity (`name` has the unit), percent, ratio, modulo, in_base, text, dots.
    """

    kind: str
    parts: tuple[Node, ...] = ()
    name: str = ""
    number: Fraction = Fraction(0)
    places: int = -1
    """Digits after the point of a number written as a decimal; -1 for others, -2 for a decimal that repeats."""


ZERO = Node("number")


def times(node: Node, factor: Node) -> Node:
    """A product with one more factor: one long product is not nested, so that no answer makes it deep."""
    return Node("product", (*(node.parts if node.kind == "product" else (node,)), factor))


def has_variable(node: Node) -> bool:
    """Whether a variable is anywhere in it."""
    return (
        node.kind == "variable"
        or (node.name.endswith("()") and node.kind == "function")
        or any(map(has_variable, node.parts))
    )


def has_plus_minus(node: Node) -> bool:
    """Whether it stands for two values."""
    return node.kind == "plus_minus" or any(map(has_plus_minus, node.parts))


def spread(node: Node) -> Node:
    """Both values of what has a plus-minus sign, as two items."""
    if not has_plus_minus(node):
        return node
    return Node("list", (resolved(node, 1), resolved(node, -1)), name="pm")


def resolved(node: Node, sign: int) -> Node:
    """The node with one of the two signs of every plus-minus."""
    if node.kind == "plus_minus":
        inner = resolved(node.parts[0], sign)
        return inner if (sign > 0) == (node.name == "pm") else negated(inner)
    return Node(node.kind, tuple(resolved(part, sign) for part in node.parts), node.name, node.number, node.places)


def negated(node: Node) -> Node:
    """The node times -1."""
    if node.kind == "number":
        return Node("number", number=-node.number, places=node.places)
    return Node("product", (Node("number", number=Fraction(-1)), node))


def is_name(node: Node) -> bool:
    """Whether a side of an equation only names what the other side is: x, f(x), AB, (p, q), |AB|, S:T, W_1."""
    if node.kind == "variable":
        return True
    if node.kind == "quotient" and is_derivative(node):
        return True
    if node.kind == "product":
        return all(
            (part.kind == "variable" and part.name.isupper()) or (part.kind == "product" and is_name(part))
            for part in node.parts
        )
    if node.kind == "function":
        return node.name.endswith("()") or (node.name == "abs" and is_name(node.parts[0]))
    if node.kind in ("tuple", "ratio", "list", "quotient"):
        return all(map(is_name, node.parts))
    return node.kind == "text"


def relation(sides: list[Node], signs: list[str]) -> Node:
    """Sides with the signs between them; equations that name a value are assignments."""
    if any(side.kind == "text" for side in (sides if set(signs) - {"=", "~"} else sides[1:-1])):
        raise Unread("words in a relation")
    if set(signs) <= {"=", "~"}:
        if signs == ["="] and is_name(sides[1]) and not is_name(sides[0]):
            sides = sides[::-1]
        named = is_name(sides[0])
        values = sides[1:] if named else sides
        if named and len(values) == 1 and not (has_variable(values[0]) and shares(sides[0], values[0])):
            value = spread(values[0])
            return Node("assignment", (sides[0], value))
        if len(values) > 1 and not any(map(has_variable, values)):
            chain = Node("chain", tuple(values), name=" ".join(signs[1:] if named else signs))
            return Node("assignment", (sides[0], chain)) if named else chain
        if named and len(values) > 1:
            return Node("assignment", (sides[0], Node("chain", tuple(values), name=" ".join(signs[1:]))))
        if len(sides) == 2 and signs == ["="]:
            return Node("relation", tuple(sides), name="=")
        raise Unread("a chain of equations")
    return Node("relation", tuple(sides), name=" ".join(signs))


def is_derivative(node: Node) -> bool:
    """Whether it is dy/dx, which names a function."""
    d = Node("variable", name="d")
    return node.kind == "quotient" and all(
        part.kind == "product" and len(part.parts) == 2 and part.parts[0] == d and part.parts[1].kind == "variable"
        for part in node.parts
    )


def shares(name: Node, value: Node) -> bool:
    """Whether a variable of the name is in the value too; the argument of a function may."""
    if name.kind == "function" or is_derivative(name):
        return False
    return bool(variables(name) & variables(value))


def variables(node: Node) -> set[str]:
    """The names of all variables."""
    found = {node.name} if node.kind == "variable" else set[str]()
    return found.union(*(variables(part) for part in node.parts))


def exact(node: Node) -> Fraction | None:
    """The exact value of a rational expression; None for any other node, or where a number has too many digits."""
    if node.kind == "number":
        return node.number
    if node.kind not in ("sum", "product", "quotient", "power", "function", "percent") or (
        node.kind == "function"
        and node.name not in ("factorial", "abs", "binom", "floor", "ceil", "max", "min", "gcd", "lcm")
    ):
        return None
    values = [exact(part) for part in node.parts]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    result = COMPUTE[node.name if node.kind == "function" else node.kind](known)
    if result is None or max(result.numerator.bit_length(), result.denominator.bit_length()) > MAX_BITS:
        return None
    return result


def _power(values: list[Fraction]) -> Fraction | None:
    base, power = values
    if power.denominator != 1 or (base == 0 and power <= 0):
        return None
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    return base ** int(power) if size * abs(int(power)) <= MAX_BITS else None


def _factorial(values: list[Fraction]) -> Fraction | None:
    n = values[0]
    if n.denominator != 1 or not 0 <= n <= 700:
        return None
    product = 1
    for factor in range(2, int(n) + 1):
        product *= factor
    return Fraction(product)


def _binomial(values: list[Fraction]) -> Fraction | None:
    n, k = values
    return Fraction(math.comb(int(n), int(k))) if n.denominator == k.denominator == 1 and 0 <= k <= n <= 1000 else None


def _of_integers(function: Callable[..., int], values: list[Fraction]) -> Fraction | None:
    return Fraction(function(*map(int, values))) if all(value.denominator == 1 for value in values) else None


def _product(values: list[Fraction]) -> Fraction:
    product = Fraction(1)
    for value in values:
        product *= value
    return product


COMPUTE: dict[str, Callable[[list[Fraction]], Fraction | None]] = {
    "sum": lambda values: sum(values, Fraction(0)),
    "product": _product,
    "quotient": lambda values: values[0] / values[1] if values[1] else None,
    "power": _power,
    "percent": lambda values: values[0] / 100,
    "factorial": _factorial,
    "binom": _binomial,
    "abs": lambda values: abs(values[0]),
    "floor": lambda values: Fraction(values[0].__floor__()),
    "ceil": lambda values: Fraction(values[0].__ceil__()),
    "max": lambda values: max(values),
    "min": lambda values: min(values),
    "gcd": lambda values: _of_integers(math.gcd, values),
    "lcm": lambda values: _of_integers(math.lcm, values),
}


def written(node: Node) -> str:
    """A text that is the same for nodes that are read the same; numbers by their value."""
    value = exact(node)
    if value is not None and node.kind != "percent":
        return str(value)
    parts = ",".join(written(part) for part in node.parts)
    return f"{node.kind}:{node.name}({parts or (node.number if node.kind == 'in_base' else '')})"
