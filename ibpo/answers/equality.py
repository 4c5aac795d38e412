r"""Do two answers that were read say the same?

The conventions are those of docs/reference/judges.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from ibpo.answers.nodes import Node, exact, written
from ibpo.answers.regions import as_interval, is_plain, is_region, same_region, with_points
from ibpo.answers.text import MONTHS, same_unit
from ibpo.answers.values import COLLECTIONS, approximate, same_equation, same_value

SETS = ("empty", "reals", "union", "intersection", "difference")
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
    ours, theirs = with_points(settled(ours)), with_points(settled(theirs))
    if "matrix" in (ours.kind, theirs.kind):
        ours, theirs = _in_rows(ours), _in_rows(theirs)
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
    for a, b in ((ours, theirs), (theirs, ours)):
        if b.kind == "tuple" and (interval := as_interval(a)) is not None and _same_collection(interval, b):
            return True
    if (is_region(ours) or is_region(theirs)) and not ours.kind == theirs.kind == "tuple":
        found = same_region(ours, theirs)
        if found is not None:
            return found
    if ours.kind == theirs.kind == "relation":
        return _same_relation(ours, theirs)
    if "relation" in (ours.kind, theirs.kind) or "dots" in (ours.kind, theirs.kind):
        return False
    if ours.kind in COLLECTIONS or theirs.kind in COLLECTIONS:
        return _same_collection(ours, theirs)
    if "ratio" in (ours.kind, theirs.kind) and "quantity" not in (ours.kind, theirs.kind):  # 10:30 a.m.
        return _same_ratio(ours, theirs)
    return same_quantity(ours, theirs)


def settled(node: Node) -> Node:
    r"""Without chains: the one value that `1/3 = 2/6`, `1/3 \approx 0.33` say.

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
    """Whether a matrix is in a formula."""
    return node.kind == "matrix" or (node.kind in ("sum", "product", "quotient") and any(map(holds_matrix, node.parts)))


def matrix_of(node: Node) -> Node:
    """The matrix that a sum or product of matrices and factors is; the formula itself where it is no matrix."""
    parts = [matrix_of(part) if holds_matrix(part) else part for part in node.parts]
    rows = [[list(row.parts) for row in part.parts] if part.kind == "matrix" else None for part in parts]
    if node.kind == "matrix":
        return node
    first, *others = rows
    if node.kind == "sum" and first and all(o and [len(r) for r in o] == [len(r) for r in first] for o in others):
        found = [
            [Node("sum", tuple(part[i][j] for part in rows if part)) for j in range(len(row))]
            for i, row in enumerate(first)
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


def _in_rows(node: Node) -> Node:
    """The matrix that `[[1,2],[3,4]]` is, as programs write it; anything else as it is."""
    rows = node.parts
    of_brackets = all(one.kind == "tuple" and one.name == "[]" for one in (node, *rows))
    if not of_brackets or len({len(row.parts) for row in rows}) != 1:
        return node
    return Node("matrix", tuple(Node("list", row.parts) for row in rows))


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
    value = exact(a)
    without_sign = value is not None and abs(value) > 1  # half a percent is not a half, and one percent not one
    return (without_sign and same_value(a, b)) or same_value(
        Node("quotient", (a, Node("number", number=Fraction(100)))), b
    )


def _congruent(ours: Node, theirs: Node) -> bool:
    values = [exact(part) for node in (ours, theirs) for part in node.parts]
    if ours.name and theirs.name and ours.name != theirs.name:
        return False
    a, m, b, n = values
    if a is None or b is None or not m or not n:
        return written(ours) == written(theirs)
    return m == n and (a - b) % m == 0


def _same_text(ours: Node, theirs: Node) -> bool:
    """Words are compared without case, punctuation and article; several in any order, as long as none is denied."""
    a, b = _words(ours), _words(theirs)
    if a == b != "":
        return True
    several = [_several(node) for node in (ours, theirs)]
    return several[0] == several[1] and len(several[0]) > 1


def _several(node: Node) -> list[str]:
    """The words of a list, in one order; empty for anything else."""
    if node.kind == "list" and node.name != "or":
        found = [_words(part) for part in node.parts]
    elif node.kind == "text" and " or " not in node.name:
        found = [_words(Node("text", name=part)) for part in re.split(r",\s*(?:and\s)?|\sand\s", node.name)]
    else:
        return []
    return sorted(found) if all(found) else []


def _words(node: Node) -> str:
    if node.kind in ("text", "variable", "constant"):
        name = re.sub(r"^(?:an?|the) ", "", node.name.lower())
        return "".join(character for character in name if character.isalnum())
    if node.kind == "product" or (node.kind == "list" and any(part.kind == "text" for part in node.parts)):
        return "".join(_words(part) for part in node.parts)  # a date is written with commas
    if node.kind == "number" and node.number.denominator == 1:
        return str(node.number)
    if node.kind == "quantity" and node.name in MONTHS:  # 25 December
        return node.name + _words(node.parts[0])
    return ""


def _equation(node: Node) -> Node:
    return Node("relation", node.parts, name="=")


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
        # A set of one is its element, if that is no set itself; a compound of quantities is no single one.
        one = several.kind == "set" and len(several.parts) == 1 and single.kind not in SETS
        return one and same(several.parts[0], single)
    if "compound" in (ours.name, theirs.name) and ours.kind != theirs.kind:  # 1 day 2 hours is no set
        return False
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
