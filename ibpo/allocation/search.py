"""The best choice for a few problems outright, in whole numbers: what is called optimal or impossible is proved here.

Problem by problem, all choices that can still lead to an optimum are kept as *states*: what they lose against the best
candidate of each problem, and what they cost. With loss_c the best utility of candidate c's problem less its own, any
prices y, and "rest" the problems that are still to come, no completion of a state loses less than

    loss + y . (cost - bound) + sum_{p of rest} min_{c of p} (loss_c + y . cost_c).

Dropped are states that cannot keep a bound, that lose as much as what is known, or that lose and cost no less than
another one. Losses and costs are int64, or Python's whole numbers where these are too small; only the line above is a
float, and it is lowered by what it may be rounded. Letters: C candidates, P problems, K budgets, S states.
"""

import ctypes
import itertools
import math
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import kernels
from ibpo.allocation.problem import AllocationProblem
from ibpo.allocation.segments import FloatArray, IntArray, exact_sum, is_first
from ibpo.allocation.units import decimal_places

Whole = NDArray[Any]
"""Whole numbers: int64, or Python's in an array of objects."""
FITS = 2**62
MOST_PROBLEMS = 1_000
"""Problems of a search: each takes a few dozen passes over its states."""
WIDTH = 300
"""States that are kept where a good choice is looked for, not the best."""
MOST_ROWS = 16
"""Costs that the kernel takes."""
RIVALS = 16
"""States that all others are compared with."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Found:
    """What a search came to.

    Attributes:
        chosen: `[P]` the best choice, where it is better than what was known; else None.
        done: Whether nothing is left to be looked at: nothing is better than `chosen`, or than what was known.
        bound: No choice among the candidates is better than this and than what is known or found.
    """

    chosen: IntArray | None
    done: bool
    bound: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Base:
    """A choice that others differ from in few problems.

    Attributes:
        chosen: `[P]` candidates.
        value: Sum of their utilities.
        total: `[K]` total costs.
    """

    chosen: IntArray
    value: float
    total: list[float | Fraction]

    @classmethod
    def from_choice(cls, instance: AllocationProblem, chosen: IntArray) -> "Base":
        """Value and total costs of a choice."""
        return cls(chosen=chosen, value=exact_sum(instance.utility[chosen]), total=instance.total(chosen))

    def without(self, instance: AllocationProblem, problems: IntArray) -> list[Fraction]:
        """`[K]` total costs of all but these problems."""
        some = instance.total(self.chosen[problems])
        rounded = [
            not whole and rest is None for whole, rest in zip(instance.bounds.whole, instance.exact, strict=True)
        ]
        if any(rounded):  # a difference of rounded sums is not the rounded sum
            rest = instance.total(np.delete(self.chosen, problems))
            return [Fraction(x) for x in rest]
        return [Fraction(all_) - Fraction(x) for all_, x in zip(self.total, some, strict=True)]


def search(
    instance: AllocationProblem,
    base: Base,
    near: IntArray,
    price: FloatArray,
    known: IntArray | None,
    *,
    above: float = -math.inf,
    limit: int | None,
    deadline: float = math.inf,
) -> Found:
    """The best choice among some candidates.

    Args:
        instance: The problem.
        base: The candidates of the largest scores.
        near: The other candidates, rows.
        price: `[K]` any prices; good ones leave few states.
        known: `[P]` candidates that keep the bounds; only better choices are looked for.
        above: Only choices that are worth this, or more, are looked for.
        limit: How many states may be looked at in all; None: only the most promising ones are.
        deadline: On the monotonic clock.
    """
    differs = np.zeros(0, np.int64) if known is None else np.flatnonzero(known != base.chosen)
    if known is None or len(differs) > MOST_PROBLEMS:  # too far away to be compared to the last digit
        known, differs = None, differs[:0]
    near = near if known is None else np.concatenate([near, known[differs]])
    problems = np.unique(instance.segments.problem_of(near))
    if len(problems) > MOST_PROBLEMS:
        return Found(chosen=None, done=False, bound=math.inf)
    open_ = np.unique(np.concatenate([near, base.chosen[problems]]))
    local = np.searchsorted(problems, instance.segments.problem_of(open_))
    # An order that does not depend on that of the rows: within a problem the best first, then the cheapest.
    order = np.lexsort((*instance.cost[::-1, open_], -instance.utility[open_], local))
    open_, local = open_[order], local[order]
    start = np.flatnonzero(is_first(local))
    loss, worth = _losses(instance, open_, start, local)
    rows: list[Row] = []
    for k, total in enumerate(base.without(instance, problems)):
        row = Row.from_instance(instance, k, open_, total, start, local, float(price[k]) / worth)
        if row is None:
            return Found(chosen=None, done=True, bound=-math.inf)
        if row.low is not None or row.high is not None:
            rows.append(row)
    # What may be lost: less than the known choice does, and no more than best - above.
    parts = [base.value, -exact_sum(instance.utility[base.chosen[problems]]), exact_sum(instance.utility[open_[start]])]
    best, blur = math.fsum(parts), 2.0**-50 * math.fsum(map(abs, parts))
    most = None if known is None else int(loss[np.isin(open_, known)].sum())
    if above > -math.inf:
        allowed = math.floor((best - above + blur + 2.0**-50 * abs(above)) / worth) + 1
        most = allowed if most is None else min(most, allowed)
    states = States(loss, rows, start, instance.ids.key(problems), most)
    picked, done = (None, False) if limit is None else states.run(limit, deadline)
    if not done:
        picked, _ = states.run(WIDTH * len(open_), deadline, width=WIDTH)
        if picked is not None and limit is not None:  # fewer states are left once a better choice is known
            better, done = states.run(limit, deadline)
            picked = picked if better is None else better
    chosen = None
    if picked is not None:
        chosen = base.chosen.copy()
        chosen[problems[local[picked]]] = open_[picked]
    bound = best - states.least * worth
    return Found(chosen=chosen, done=done, bound=bound + blur + 2.0**-50 * abs(bound))


def _losses(instance: AllocationProblem, rows: IntArray, start: IntArray, local: IntArray) -> tuple[Whole, float]:
    """`[C]` what each candidate loses against the first, the best of its problem, and what a loss of 1 is worth."""
    utility, exact = instance.utility[rows], instance.exact_utility
    places = decimal_places(utility) if exact is None else None
    if places is not None:
        whole = np.rint(utility * 10.0**places).astype(np.int64)
        loss = whole[start][local] - whole
        if loss.astype(np.float64).sum() < FITS:
            return loss, 10.0**-places
        return _fitted(loss.tolist()), 10.0**-places
    numbers, scale = _whole_numbers(utility if exact is None else exact[rows])
    of_best: list[int] = start[local].tolist()
    losses = [numbers[best] - x for best, x in zip(of_best, numbers, strict=True)]
    # Losses of floats that are no decimals are cut to 62 bits in all: less than what a sum of floats is rounded.
    bits = max(0, sum(losses).bit_length() - 61) if exact is None else 0
    return _fitted([x >> bits for x in losses]), math.ldexp(1 / scale, bits)


def _whole_numbers(values: NDArray[Any]) -> tuple[list[int], int]:
    """The numbers, floats as what they are in binary, times a common scale that makes them whole."""
    ratios = [x.as_integer_ratio() for x in values.tolist()]
    scale = math.lcm(*{below for _, below in ratios})
    return [above * (scale // below) for above, below in ratios], scale


def _fitted(values: list[int]) -> Whole:
    """As int64 where no sum of some of them can overflow."""
    if sum(map(abs, values)) < FITS:
        return np.array(values, np.int64)
    found = np.empty(len(values), object)
    found[:] = values
    return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """One cost in whole numbers.

    Attributes:
        cost: `[C]` at least 0.
        low: What the total has to reach; None where it always does.
        high: What the total must not exceed; None where it never does.
        slope: Price, in losses per cost, on the side of a bound that there is.
    """

    cost: Whole
    low: int | None
    high: int | None
    slope: float

    @classmethod
    def from_instance(
        cls,
        instance: AllocationProblem,
        k: int,
        rows: IntArray,
        fixed: Fraction,
        start: IntArray,
        local: IntArray,
        price: float,
    ) -> "Row | None":
        """Row k of these candidates, added to what costs `fixed`; None where its bounds cannot be kept."""
        exact, low, high = instance.exact[k], instance.bounds.low[k], instance.bounds.high[k]
        if exact is None and instance.bounds.whole[k]:
            whole, scale = instance.cost[k, rows].astype(np.int64), 1
        else:
            numbers, scale = _whole_numbers(instance.cost[k, rows] if exact is None else exact[rows])
            whole = _fitted(numbers)
        least = np.minimum.reduceat(whole, start) if len(start) else whole
        whole = whole - least[local]
        largest = sum(np.maximum.reduceat(whole, start).tolist()) if len(start) else 0
        # low <= fixed + (sum + shift) / scale <= high, in multiples of the largest common factor
        factor, shift = int(np.gcd.reduce(whole)) if len(whole) else 0, sum(least.tolist())
        factor = factor or 1
        most = ((high - fixed) * scale - shift) // factor
        need = None if low is None else -((shift - (low - fixed) * scale) // factor)
        largest //= factor
        if most < 0 or (need is not None and need > min(largest, most)):
            return None
        need = None if need is None or need <= 0 else need
        room = None if most >= largest else most
        slope = price * (factor / scale) if largest.bit_length() < 900 else 0.0
        return cls(
            cost=whole if factor == 1 else whole // factor,
            low=need,
            high=room,
            slope=0.0 if (need if slope < 0 else room) is None else slope,
        )


class _CStates(ctypes.Structure):
    """`States` of kernels.c."""

    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("loss", "cost", "start", "length", "rest", "room", "low", "high", "slope")),
        *((name, kernels.Int) for name in ("num_candidates", "num_problems", "num_costs", "most")),
        *((name, kernels.Float) for name in ("paid", "rounding")),
    ]


class States:
    """All choices for the first problems that are worth going on with.

    Args:
        loss: `[C]`, candidates gathered by problem.
        rows: The costs, of the same candidates, that have a bound.
        start: `[P]` the first candidate of each problem.
        key: `[P]` orders the problems where nothing else does.
        most: Only choices that lose less are looked for; None: any.
    """

    def __init__(self, loss: Whole, rows: list[Row], start: IntArray, key: NDArray[Any], most: int | None) -> None:
        self.rows, self.most, self.least = rows, most, -math.inf
        """`least`: no choice loses less than this, or less than `most`, too."""
        total = loss.astype(np.float64)
        for row in rows:
            total = total + row.slope * row.cost.astype(np.float64) if row.slope else total
        length = np.diff(start, append=len(loss))
        local = np.repeat(np.arange(len(start)), length)
        # Problems with the most to lose first: fewest states in between.
        ranked = total[np.lexsort((total, local))]
        order = np.lexsort((key, ranked[start] - ranked[start + 1])) if len(start) else np.zeros(0, np.int64)
        self.start, self.length, self.loss = start[order], length[order], loss
        self.rest = np.append(np.cumsum(ranked[start][order][::-1])[::-1], 0.0).tolist()
        self.room: list[list[int]] = []
        """For each row with a lower bound what is still to come costs at most."""
        for row in rows:
            largest: list[int] = []
            if row.low is not None:
                largest = np.maximum.reduceat(row.cost, start)[order][::-1].tolist()
            self.room.append([0, *itertools.accumulate(largest)][::-1])
        paid = [row.slope * ((row.high if row.slope > 0 else row.low) or 0) for row in rows if row.slope]
        self.paid = math.fsum(paid)
        size = [float(loss.sum()), *map(abs, paid)]
        size += [abs(row.slope) * float(row.cost.astype(np.float64).sum()) for row in rows if row.slope]
        self.rounding = 2.0**-40 * math.fsum(size)

    def run(self, limit: int, deadline: float, *, width: int | None = None) -> tuple[IntArray | None, bool]:
        """The candidates of the best choice (None: no such), and whether all states were looked at.

        Args:
            limit: How many states may be looked at in all.
            deadline: On the monotonic clock.
            width: How many of them are kept, those that promise most; None: all. What is found is then known.
        """
        limit = limit if len(self.start) <= MOST_PROBLEMS else 0
        if self.most is not None and self.most <= 0:
            return None, True
        if kernels.LIBRARY is not None and self._whole():
            return self._run_in_c(limit, width)
        loss: Whole = np.zeros(1, self.loss.dtype)
        cost: list[Whole] = [np.zeros(1, row.cost.dtype) for row in self.rows]
        trace: list[tuple[IntArray, IntArray]] = []
        starts: list[int] = self.start.tolist()
        lengths: list[int] = self.length.tolist()
        if not self._promising(0, loss, cost).any():
            return None, True
        for j, (begin, size) in enumerate(zip(starts, lengths, strict=True)):
            options = np.arange(begin, begin + size)
            limit -= len(loss) * size
            if limit < 0 or time.monotonic() > deadline:
                if width is None:
                    self.least = max(self.least, float(self._bounds(j, loss, cost).min()))
                return None, False
            loss = (loss[:, None] + self.loss[options]).ravel()
            cost = [(x[:, None] + row.cost[options]).ravel() for x, row in zip(cost, self.rows, strict=True)]
            keep = np.flatnonzero(self._promising(j + 1, loss, cost))
            keep = keep[self._undominated(loss[keep], [x[keep] for x in cost])]
            if width is not None and len(keep) > width:
                keep = np.sort(keep[self._promise(j + 1, loss[keep], [x[keep] for x in cost], width)])
            if not len(keep):
                return None, True
            loss, cost = loss[keep], [x[keep] for x in cost]
            parent, option = np.divmod(keep, size)
            trace.append((parent, options[option]))
        state = int(np.argmin(loss))
        self.most = int(loss[state])
        picked: list[int] = []
        for parent, option in reversed(trace):
            picked.append(int(option[state]))
            state = int(parent[state])
        return np.array(picked, np.int64), True

    def _whole(self) -> bool:
        """Whether all numbers are int64, and not too many rows for the kernel."""
        known = 0 if self.most is None else self.most
        ends = [x for row in self.rows for x in (row.low, row.high) if x is not None]
        columns = [self.loss, *(row.cost for row in self.rows)]
        return (
            len(self.rows) <= MOST_ROWS
            and max([known, *ends]) < FITS
            and all(column.dtype == np.int64 for column in columns)
        )

    def _run_in_c(self, limit: int, width: int | None) -> tuple[IntArray | None, bool]:
        """`run`, by `run_states` of kernels.c; it does not look at the clock: `limit` holds it back."""
        num_rows, num_problems = len(self.rows), len(self.start)
        cost = np.array([row.cost for row in self.rows], np.int64).reshape(num_rows, len(self.loss))
        room = np.zeros((num_rows, num_problems + 1), np.int64)
        for k, (row, of_row) in enumerate(zip(self.rows, self.room, strict=True)):
            if row.low is not None:
                room[k] = of_row
        ends = [[-1 if x is None else x for x in (row.low, row.high)] for row in self.rows]
        low, high = np.array(ends, np.int64).reshape(-1, 2).T.copy()
        slope = np.array([row.slope for row in self.rows], np.float64)
        loss, start, length = (np.ascontiguousarray(x, np.int64) for x in (self.loss, self.start, self.length))
        held = [loss, cost, start, length, np.array(self.rest), room, low, high, slope]
        states = _CStates(
            *map(kernels.at, held),
            len(loss),
            num_problems,
            num_rows,
            -1 if self.most is None else self.most,
            self.paid,
            self.rounding,
        )
        size = limit + 2 * (width or 0) + 64
        work, floats, flag = np.empty((8 + 2 * num_rows) * size, np.int64), np.empty(2 * size), np.empty(size, np.int8)
        picked, out, least = np.empty(max(num_problems, 1), np.int64), np.zeros(1, np.int64), np.zeros(1)
        found = kernels.LIBRARY and kernels.LIBRARY.run_states(
            ctypes.byref(states),
            *map(kernels.Int, (limit, width or 0, RIVALS, size)),
            *map(kernels.at, (work, floats, flag, picked, out, least)),
        )
        if found == -1:
            if width is None:
                self.least = max(self.least, float(least[0]))
            return None, False
        if not found:
            return None, True
        self.most = int(out[0])
        return picked[:num_problems], True

    def _promise(self, j: int, loss: Whole, cost: list[Whole], width: int) -> IntArray:
        """About `width` states: half of them those of the least bounds, half the best at each level of what is paid.

        What is left of a bound in the end decides, and only levels that are kept open can meet it.
        """
        rank = np.argsort(self._bounds(j, loss, cost), kind="stable")
        paid = np.zeros(len(loss))
        for row, x in zip(self.rows, cost, strict=True):
            if row.slope:
                paid += row.slope * x.astype(np.float64)
        low, high = float(paid.min()), float(paid.max())
        if not high > low:
            return rank[:width]
        level = ((paid[rank] - low) * (width // 2 / (high - low))).astype(np.int64)
        best = rank[np.unique(level, return_index=True)[1]]
        return np.unique(np.concatenate([rank[: width // 2], best]))

    def _bounds(self, j: int, loss: Whole, cost: list[Whole]) -> FloatArray:
        """`[S]` what their completions lose at least, j problems being chosen for."""
        bound = loss.astype(np.float64) + (self.rest[j] - self.paid - self.rounding)
        for row, x in zip(self.rows, cost, strict=True):
            if row.slope:
                bound += row.slope * x.astype(np.float64)
        return bound

    def _promising(self, j: int, loss: Whole, cost: list[Whole]) -> NDArray[np.bool_]:
        """`[S]` which can keep the bounds, and may lose less than what is known."""
        alive = np.ones(len(loss), bool)
        for k, (row, x) in enumerate(zip(self.rows, cost, strict=True)):
            if row.high is not None:
                alive &= (x <= row.high).astype(bool)
            if row.low is not None:
                alive &= (x >= row.low - self.room[k][j]).astype(bool)
        if self.most is not None:
            alive &= (loss < self.most).astype(bool)
            alive &= self._bounds(j, loss, cost) <= self.most - 1
        return alive

    def _undominated(self, loss: Whole, cost: list[Whole]) -> IntArray:
        """States, rising, without those that lose and cost no less than another one."""
        if len(loss) < 2:
            return np.arange(len(loss))
        if not cost:
            return np.array([int(np.argmin(loss))])
        # What has one bound only is better when it is smaller (larger, for a lower bound); else it has to be the same.
        signed = [x if row.low is None else -x for row, x in zip(self.rows, cost, strict=True)]
        two_sided = any(row.low is not None and row.high is not None for row in self.rows)
        keys = [_sortable(x) for x in (loss, *signed)]
        order = np.lexsort(keys)
        same = np.ones(len(order) - 1, bool)
        for key in keys[1:]:
            same &= key[order][1:] == key[order][:-1]
        if len(cost) == 1 and not two_sided:
            least = np.minimum.accumulate(keys[0][order])
            same = keys[0][order][1:] >= least[:-1]
        kept = order[np.concatenate([[True], ~same])]
        if len(kept) > 4 * RIVALS and len(cost) > 1 and not two_sided:
            rank = np.argsort(self._bounds(0, loss[kept], [x[kept] for x in cost]), kind="stable")
            columns = [key[kept] for key in keys]
            worse = np.zeros(len(kept), bool)
            for rival in rank[:RIVALS].tolist():
                if not worse[rival]:
                    dominated = np.ones(len(kept), bool)
                    for column in columns:
                        dominated &= column >= column[rival]
                    dominated[rival] = False
                    worse |= dominated
            kept = kept[~worse]
        return np.sort(kept)


def _sortable(values: Whole) -> IntArray:
    """int64 as they are, Python's whole numbers by rank."""
    return values if values.dtype != object else np.unique(values, return_inverse=True)[1]
