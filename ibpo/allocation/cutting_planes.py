"""The minimum of a convex, piecewise linear function of a few prices, from its values and slopes: cutting planes.

The dual function D of an allocation problem (`ibpo.allocation.lagrangian`) at prices y costs one pass over the
candidates, which also tells what the best candidates are worth, v, and what they cost, total; with b the bounds,

    D(y') >= v + g . y'  for all y',    g = b - total,    with equality at y' = y.

So the largest of such planes bounds D from below, and its minimum over a box, a linear programme in K + 1 unknowns,
says where to look next (Kelley 1960). Its dual mixes the choices found so far (Dantzig and Wolfe 1960): that is what
`_Planes` solves, by the simplex method on a basis of K + 1 columns. It is written out in Python's floats, as no linear
algebra library gives the same bits on all machines. Letters: K budgets, N planes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ibpo.allocation.segments import FloatArray

Plane = tuple[float, list[float]]
"""v and g `[K]`."""
DUST = 1e-13
"""A smaller part of the value is a rounding error."""
MANY = 12
"""Rows from which on numpy's overhead pays."""
MOST_TURNS = 40
"""Columns that enter for one plane: as a rule one to five, and rounding errors must not turn in a circle."""


def minimum(
    plane_at: Callable[[list[float]], Plane],
    floor: FloatArray,
    ceiling: FloatArray,
    start: FloatArray,
    scale: FloatArray,
    *,
    most: int,
    close: float = 0.0,
) -> tuple[FloatArray, bool]:
    """Where the function is least inside a box, `[K]`, and whether that is certain.

    Args:
        plane_at: The plane at some prices.
        floor: `[K]` the box.
        ceiling: `[K]`.
        start: `[K]` prices inside it, to look at first.
        scale: `[K]` a typical size of each price, above 0.
        most: How often the function may be looked at.
        close: Above 0: any prices will do at which the function is within this part of its minimum.
    """
    low, high = (floor / scale).tolist(), (ceiling / scale).tolist()
    planes = _Planes(low, high)
    at, best, best_value = (start / scale).tolist(), (start / scale).tolist(), math.inf
    lowest, least = at, -math.inf
    for turn in range(most):
        v, g = plane_at([x * s for x, s in zip(at, scale.tolist(), strict=True)])
        g = [x * s for x, s in zip(g, scale.tolist(), strict=True)]
        value = v + sum(x * s for x, s in zip(g, at, strict=True))
        if value < best_value:
            best, best_value = at, value
        dust = DUST * (abs(v) + sum(abs(x * s) for x, s in zip(g, at, strict=True)))
        if at == lowest and value - least <= 4 * dust:
            # A crossing at 0 is found up to rounding: a bound that costs nothing has the price 0.
            return np.array([x if abs(x) > DUST else 0.0 for x in at]) * scale + 0.0, True
        lowest, least = planes.add(v, g, dust)
        if best_value - least <= close * abs(best_value):
            return np.array(best) * scale + 0.0, True
        # Halfway to the lowest point of the planes, which jumps about while they are few; the point itself now and
        # then, and in the end: it is a vertex.
        part = 1.0 if turn % 4 == 3 or best_value - least <= 1e-9 * abs(best_value) else 0.5
        if part == 1.0:
            at = lowest
            continue
        halfway = (x + part * (y - x) for x, y in zip(best, lowest, strict=True))
        at = [min(max(x, a), b) for x, a, b in zip(halfway, low, high, strict=True)]
    return np.array(best) * scale, best_value - least <= 1e-9 * abs(best_value)


@dataclass(slots=True)
class _Planes:
    """Planes over a box, and the lowest point of their maximum.

    The columns of the dual linear programme are (g, 1) of each plane, worth v; (-e_k, 0) for the floor of the box,
    worth floor_k; and (e_k, 0) for its ceiling, worth -ceiling_k. Weights, none below 0, have to add up to (0, 1) and
    be worth as much as possible; the prices are minus the multipliers of the first K rows.
    """

    floor: list[float]
    ceiling: list[float]
    columns: list[tuple[list[float], float]] = field(default_factory=lambda: [])
    basis: list[int] = field(default_factory=lambda: [])
    values: list[list[float]] = field(default_factory=lambda: [])
    """`[N][K + 1]` the planes: g, then v."""

    def add(self, v: float, g: list[float], dust: float) -> tuple[list[float], float]:
        """With one more plane: the lowest point, and how low it is."""
        size = len(self.floor)
        if not self.columns:
            for k in range(size):
                self.columns.append(([-1.0 if j == k else 0.0 for j in range(size)] + [0.0], self.floor[k]))
                self.columns.append(([1.0 if j == k else 0.0 for j in range(size)] + [0.0], -self.ceiling[k]))
            self.basis = [2 * k if g[k] > 0 else 2 * k + 1 for k in range(size)] + [2 * size]
        self.columns.append(([*g, 1.0], v))
        self.values.append([*g, v])
        right = [0.0] * size + [1.0]
        table = np.array(self.values)
        turn = 0
        while True:
            turn += 1
            rows = [self.columns[j][0] for j in self.basis]
            # Multipliers w, t of the rows: column . (w, t) = worth for the columns of the basis; y = -w.
            [multiplier] = _solved(rows, [self.columns[j][1] for j in self.basis])
            y, t = [-x for x in multiplier[:size]], multiplier[size]
            for j in self.basis:  # on the box's side, not where rounding leaves it
                if j < 2 * size:
                    y[j // 2] = self.ceiling[j // 2] if j % 2 else self.floor[j // 2]
            above = table[:, size].copy()
            with np.errstate(over="ignore"):  # beside bounds of 1e300: infinitely far above is above
                for k in range(size):
                    above += table[:, k] * y[k]
            above -= t
            above[[j - 2 * size for j in self.basis if j >= 2 * size]] = 0.0
            enters = int(np.argmax(above))
            if above[enters] > dust:
                enters += 2 * size
            else:
                outside = [x for k in range(size) for x in (self.floor[k] - y[k], y[k] - self.ceiling[k])]
                for j in self.basis:
                    if j < 2 * size:
                        outside[j] = 0.0
                enters = max(range(2 * size), key=outside.__getitem__)
                if outside[enters] <= 1e-12 * (1.0 + abs(y[enters // 2])):
                    return [min(max(x, a), b) for x, a, b in zip(y, self.floor, self.ceiling, strict=True)], t
            # Which column leaves: weights = B^-1 right, and they change by B^-1 (the entering column).
            turned = [list(row) for row in zip(*rows, strict=True)]
            weight, change = _solved(turned, right, self.columns[enters][0])
            ratios = [(max(w, 0.0) / d, i) for i, (w, d) in enumerate(zip(weight, change, strict=True)) if d > 1e-12]
            if not ratios or turn == MOST_TURNS:
                return [min(max(x, a), b) for x, a, b in zip(y, self.floor, self.ceiling, strict=True)], t
            self.basis[min(ratios)[1]] = enters


def _solved(matrix: list[list[float]], *rights: list[float]) -> list[list[float]]:
    """Solve matrix x = right for each right side, by elimination with the largest pivot of each column."""
    size = len(matrix)
    rows = [[*row, *ends] for row, *ends in zip(matrix, *rights, strict=True)]
    rows = eliminated(rows) if size < MANY else eliminated_at_once(rows)
    found = [[0.0] * size for _ in rights]
    for end, x in enumerate(found, start=size):
        for k in reversed(range(size)):
            rest = rows[k][end] - sum(a * y for a, y in zip(rows[k][k + 1 : size], x[k + 1 :], strict=True))
            x[k] = rest / (rows[k][k] or 1e-300)
    return found


def eliminated(rows: list[list[float]]) -> list[list[float]]:
    """Rows whose columns are 0 below the diagonal (or stand for 0)."""
    size = len(rows)
    for k in range(size):
        pivot = max(range(k, size), key=lambda i: abs(rows[i][k]))
        rows[k], rows[pivot] = rows[pivot], rows[k]
        head = rows[k][k] or 1e-300
        for i in range(k + 1, size):
            factor = rows[i][k] / head
            if factor:
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return rows


def eliminated_at_once(rows: list[list[float]]) -> list[list[float]]:
    """The same numbers to the last bit, each product and difference by itself, as `eliminated`; faster of many rows."""
    table = np.array(rows)
    for k in range(len(table)):
        pivot = k + int(abs(table[k:, k]).argmax())
        if pivot != k:
            table[k], table[pivot] = table[pivot].copy(), table[k].copy()
        factor = table[k + 1 :, k : k + 1] / (table[k, k] or 1e-300)
        table[k + 1 :, k:] -= factor * table[k, k:]
    return table.tolist()
