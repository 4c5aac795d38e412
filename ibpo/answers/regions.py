r"""Sets of real numbers: intervals, inequalities and unions of them, compared at their ends and between them."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath

from ibpo.answers.nodes import Node, has_variable, written
from ibpo.answers.values import FEW, numeric


def is_region(node: Node) -> bool:
    """Whether it is a set of real numbers: an interval, an inequality, a union of such."""
    if node.kind in ("union", "intersection", "difference", "reals", "empty"):
        return True
    if node.kind == "relation":
        return node.name == "in" or (
            set(node.name.split()) <= {"<", "<=", ">", ">=", "!="} and _subject(node) is not None
        )
    if node.kind == "tuple":
        return len(node.parts) == 2 and (node.name != "()" or any("infinity" in written(part) for part in node.parts))
    if node.kind == "list":
        return (
            bool(node.parts)
            and all(map(is_region, node.parts))
            and all(part.kind == "relation" for part in node.parts)
            and node.name in ("or", "and")
        )
    return False


def as_interval(node: Node) -> Node | None:
    """The interval that two bounds make, as it is written; None for other relations."""
    bounds = {"< <": "()", "<= <": "[)", "< <=": "(]", "<= <=": "[]"}
    if node.kind != "relation" or node.name not in bounds or _subject(node) is None or has_variable(node.parts[0]):
        return None
    return Node("tuple", (node.parts[0], node.parts[2]), name=bounds[node.name])


def _subject(node: Node) -> tuple[int, Node] | None:
    """(position, side) of the one side with variables of an inequality; None where there is none, or no plain one."""
    found = [(i, part) for i, part in enumerate(node.parts) if has_variable(part)]
    if len(found) != 1 or not (is_plain(found[0][1]) or absolute(found[0][1])):
        return None
    return found[0]


def is_plain(node: Node) -> bool:
    """Whether it is a variable or the value of an unknown function."""
    return (
        node.kind == "variable"
        or (node.kind == "function" and node.name.endswith("()"))
        or (node.kind == "product" and len(node.parts) == 2 and all(part.kind == "variable" for part in node.parts))
    )


def absolute(node: Node) -> bool:
    """Whether it is the absolute value of a variable."""
    return node.kind == "function" and node.name == "abs" and is_plain(node.parts[0])


def with_points(node: Node) -> Node:
    """`x = 1 or 2 < x < 3` as the union that it is; anything else as it is."""
    if node.kind != "list" or node.name != "or" or {part.kind for part in node.parts} != {"relation", "assignment"}:
        return node
    subjects = {written(subject) for part in node.parts for subject in _subjects(part)}
    names = {written(part.parts[0]) for part in node.parts if part.kind == "assignment"}
    if subjects != names or not all(is_region(part) for part in node.parts if part.kind == "relation"):
        return node
    return Node(
        "union", tuple(Node("set", part.parts[1:]) if part.kind == "assignment" else part for part in node.parts)
    )


def same_region(ours: Node, theirs: Node) -> bool | None:
    """Whether two sets of reals are the same; None where one of them is none."""
    subjects = {written(subject) for node in (ours, theirs) for subject in _subjects(node)}
    if len(subjects) > 1:
        return None
    try:
        with mpmath.workdps(FEW):
            ends = sorted({*_ends(ours), *_ends(theirs)})
            ends = [
                end for i, end in enumerate(ends) if i == 0 or abs(end - ends[i - 1]) > abs(end) * mpmath.mpf(10) ** -30
            ]
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
    return (
        [subject for part in node.parts for subject in _subjects(part)]
        if node.kind in ("union", "list", "difference", "intersection")
        else []
    )


def _end(node: Node) -> Any:
    text = written(node)
    if "infinity" in text:
        return -mpmath.inf if "-1" in text else mpmath.inf
    value = (
        None
        if has_variable(node)
        else numeric(node.parts[0] if node.kind in ("quantity", "percent") else node, FEW, {})
    )
    if value is None or abs(value.imag) > 1e-20:
        raise NotAKnownRegion
    return value.real


def _ends(node: Node) -> list[Any]:
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
        if low > high or (low == high and node.name != "[]"):  # (6, 6) is a point of the plane, not the empty set
            raise NotAKnownRegion
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
