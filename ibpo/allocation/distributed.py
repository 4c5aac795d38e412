"""Allocation of more responses than memory holds: partitions are read one by one, a few times, by as many workers.

    some partitions   ->  samples of their problems  ->  prices, and a box around them as wide as the samples differ
    every partition   ->  problems whose best response is the same at all prices of the box: settled, only sums are kept
                      ->  the others: open, their responses are kept
    open problems     ->  `allocate`, with what the settled ones leave of the budgets
    every partition   ->  weights, where they are asked for (`PartitionedAllocation.weight`)

Why that is exact. With score_r(y) = utility_r - y . cost_r, s the best row of r's problem at the middle m of the box
m +- w, the regret of r is linear in the prices, so everywhere in the box

    score_s(y) - score_r(y)  >=  score_s(m) - score_r(m) - sum_k w_k |cost_kr - cost_ks|  =  slack_r

Rows with slack_r above the reach are dropped, and so are rows that s dominates (worth no more, and no better for any
bound). At prices y of the box the dual bound D(y) is that of the open problems plus a constant, and whoever chooses a
dropped row is below D(y) by more than the reach. So if the open problems' answer is within the reach of D(y), no
allocation with a dropped row is better, and its certificate is that of the whole. If not, or if the prices leave the
box, the box moves and the partitions are read again.

Letters: R responses and P problems of a partition, K budgets, C rows that are kept.
"""

import math
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from numbers import Integral
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation.allocate import Allocation, allocate
from ibpo.allocation.cutting_planes import minimum
from ibpo.allocation.lagrangian import FAR, HAIR
from ibpo.allocation.passes import best_rows, best_sums
from ibpo.allocation.problem import (
    AllocationProblem,
    Bounds,
    Choose,
    InfeasibleBudget,
    costs,
    exact_budget,
    gather,
    validate,
)
from ibpo.allocation.segments import FloatArray, IntArray, add_parts, exact_sum, id_items, sum_whole
from ibpo.allocation.units import TOLERANCE, decimal_places
from ibpo.errors import IbpoError

Read = Callable[[Any], tuple[ArrayLike, ArrayLike, ArrayLike]]
"""A partition -> utility `[R]`, problem `[R]`, cost `[R]` or `[K, R]`, as `allocate` takes them."""
Map = Callable[..., Iterable[Any]]
"""Like `map`; a pool's runs the partitions on many processes or machines."""

SAMPLED_PARTITIONS = 16
NUM_SAMPLES = 4
CARE = 1.0
"""How many times the largest difference between the samples' prices the box is wide to each side: that is some four
standard errors of their mean, and a box that misses the prices costs one more pass."""
MOST_BOXES = 12
SOME, MOST_SOME = 64, 2**20
"""Problems of a partition, at least, and of all together, about, whose ids are compared with those of the others."""
FARTHEST = 1e150
"""Half the width of a box in which every price is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionedAllocation:
    """What `allocate_partitions` found; the fields of `Allocation` without the weights.

    Attributes:
        objective: Sum of the chosen responses' utilities, over all partitions.
        upper_bound: No allocation inside the budgets has a larger objective.
        gap: `upper_bound - objective`; 0 where optimality is proved.
        price: `[K]` utility per unit of cost at the budgets' margin.
        spent: `[K]` mean cost per problem of the chosen responses.
        status: "optimal" where that is proved, else "feasible".
        num_problems: Problems of all partitions.
        num_responses: Responses of all partitions.
        num_passes: How often all partitions were read, samples not counted.
        num_open: Problems that were solved together, in memory.
    """

    objective: float
    upper_bound: float
    gap: float
    price: FloatArray
    spent: FloatArray
    status: str
    num_problems: int
    num_responses: int
    num_passes: int
    num_open: int
    _read: Read
    _rule: "_Rule"
    _box: "_Box"
    _chosen: tuple[IntArray, ...]

    def weight(self, number: int, partition: Any) -> NDArray[np.int8]:
        """Read a partition once more: `[R]` 1 for its chosen responses, 0 for the others.

        Args:
            number: its place among the partitions, from 0.
            partition: the partition.
        """
        instance = self._rule.gathered(self._read, partition)
        if instance is None:
            return np.zeros(0, np.int8)
        weight = np.zeros(instance.num_responses, np.int8)
        best, _, open_ = _near_rows(instance, self._rule, self._box)
        best = np.delete(best, open_)
        rows = best if instance.row is None else instance.row[best]
        weight[rows[rows >= 0]] = 1
        weight[self._chosen[number]] = 1
        return weight


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """What is asked of every partition."""

    budget: Any
    at_least: Any
    choose: Choose
    tie_break: str | None

    def gathered(self, read: Read, partition: Any) -> AllocationProblem | None:
        """The candidates of a partition; its bounds mean nothing. None: it has no rows, as a filter leaves some."""
        given = read(partition)
        try:
            utility, problem, cost = given
        except (TypeError, ValueError):
            raise IbpoError(f"partition {partition!r}: read has to give utility, problem and cost") from None
        if all(isinstance(x, Sized) and len(x) == 0 for x in (utility, problem)) and np.size(cost) == 0:
            return None
        try:
            found = validate(
                utility,
                problem,
                cost,
                self.budget,
                at_least=self.at_least,
                choose=self.choose,
                tie_break=self.tie_break,
            )
        except IbpoError as error:
            raise IbpoError(f"partition {partition!r}: {error}") from None
        if any(exact is not None for exact in found.exact):
            raise IbpoError(f"partition {partition!r}: cost: needs floats or whole numbers below 2^53")
        return gather(found)

    def means(self, num_costs: int) -> tuple[list[Fraction | None], list[Fraction | None]]:
        """Lower and upper bounds as fractions, per problem."""
        none: list[Fraction | None] = [None] * num_costs
        low = none if self.at_least is None else exact_budget("at_least", self.at_least, num_costs)
        return low, exact_budget("budget", self.budget, num_costs)


class _Name(str):
    """An id by its repr, which is its own: ties hang on the repr, and are those of `allocate`."""

    __slots__ = ()
    __repr__ = str.__str__


@dataclass(frozen=True, kw_only=True, slots=True)
class _Box:
    """Prices m +- w, and the slack up to which rows are kept."""

    middle: FloatArray
    half: FloatArray
    reach: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Settled:
    """What is kept of a partition.

    Attributes:
        num_problems: P, open ones included.
        num_responses: R.
        value: Numbers that add up to the settled problems' utilities.
        total: `[K]` what they cost, exact where costs are decimals.
        ends: `[K]` least and most that all problems can cost.
        decimal: `[K]` whether the costs are decimals, so that sums are exact.
        utility: `[C]` of the open problems' rows.
        cost: `[K, C]`.
        problem: `[C]` ids.
        row: `[C]` rows of the partition.
        num_open: Open problems.
        num_near: Their rows except the best of each, which are left out where they are more than memory may hold.
        some: Ids of some problems, open or not: those of the smallest hashes.
    """

    num_problems: int
    num_responses: int
    value: list[float]
    total: list[Fraction]
    ends: list[tuple[Fraction, Fraction]]
    decimal: list[bool]
    utility: FloatArray
    cost: FloatArray
    problem: NDArray[Any]
    row: IntArray
    num_open: int
    num_near: int
    some: NDArray[Any]


def allocate_partitions(
    partitions: Sequence[Any],
    read: Read,
    budget: Any,
    *,
    at_least: Any = None,
    choose: Choose = "exactly_one",
    tie_break: str | None = None,
    map: Map = map,
    sample: int = 800_000,
    most_open: int = 50_000_000,
    time_limit_s: float = 60.0,
) -> PartitionedAllocation:
    """`allocate` for partitions that do not fit into memory together: the same answer, with its certificate.

    All responses to a problem are in one partition, and no two problems have the same id: the ids of about a million
    problems, and of those that are solved in memory, are compared. Partitions may be empty, but not all of them. Each
    partition is read once
    or twice, some of them once before for the samples, and once more for the weights. Memory: one partition per worker,
    and the open problems, as a rule a few hundredths of all; more where very many problems have the same gain to the
    last digit at the budget's margin.

    Args:
        partitions: What `read` takes: paths, numbers of row groups, ...
        read: Reads one; for a pool of processes a function of a module.
        budget: As in `allocate`: mean cost per problem, one number or K; None: no upper bound.
        at_least: As in `allocate`.
        choose: As in `allocate`.
        tie_break: As in `allocate`.
        map: How a function is applied to all partitions: `ProcessPoolExecutor(...).map`, Ray's
            `ray.util.multiprocessing.Pool().imap`, ...; results in the partitions' order.
        sample: Problems that say where the prices are.
        most_open: Rows of open problems that memory may hold.
        time_limit_s: Limit on closing the gap of the open problems, seconds.

    Raises:
        IbpoError: A partition is malformed, the same id is in two of them, or the open problems are too many.
        InfeasibleBudget: Proved that no allocation keeps the budgets.

    Example:
        >>> halves = [([0, 1, 0, 0.5], [7, 7, 8, 8], [0, 1, 0, 1]), ([0, 0], [9, 9], [0, 1])]
        >>> found = allocate_partitions([0, 1], halves.__getitem__, 0.4)
        >>> found.status, found.objective, found.weight(0, 0).tolist()
        ('optimal', 1.0, [0, 1, 1, 0])
    """
    partitions = list(partitions)
    if not partitions:
        raise IbpoError("partitions: at least one is needed")
    if not (isinstance(sample, Integral) and sample >= 1):
        raise IbpoError(f"sample: must be at least 1, a whole number, got {sample!r}")
    rule = _Rule(budget=budget, at_least=at_least, choose=choose, tie_break=tie_break)
    guess = _sampled(partitions, read, rule, map, sample)
    box, num_passes, asked_planes = guess.box, 0, False
    for turn in range(MOST_BOXES):
        settle = partial(_settle, read, rule, box, most_open, max(SOME, MOST_SOME // len(partitions)))
        whole = _Whole.of(list(map(settle, partitions)), rule)
        num_passes += 1
        if whole.num_open_rows > most_open:
            raise IbpoError(
                f"most_open: {whole.num_open_rows} rows of {whole.num_open} problems are open, more than {most_open}; "
                "many problems have the same gain at the margin: raise it, or give them utilities that differ"
            )
        moved = whole.solve(box, time_limit_s)
        if isinstance(moved, _Answer):
            return PartitionedAllocation(
                objective=moved.objective, upper_bound=moved.objective + moved.gap, gap=moved.gap, price=moved.price,
                spent=moved.spent, status="feasible" if moved.gap else "optimal", num_problems=whole.num_problems,
                num_responses=whole.num_responses, num_passes=num_passes, num_open=whole.num_open, _read=read,
                _rule=rule, _box=box, _chosen=moved.chosen,
            )  # fmt: skip
        if moved is not None:
            box = moved
            continue
        if math.isinf(box.reach):  # not even all of them together: `allocate` says which budget, and by how much
            _allocated(partitions, read, rule, time_limit_s)
            break
        if whole.num_responses <= min(most_open, most_open if turn == MOST_BOXES - 2 else sample):
            # Few enough for memory: all problems are open, those with one response that can be needed aside.
            box = replace(box, half=np.full(len(box.half), FARTHEST), reach=math.inf)
            continue
        if asked_planes:  # a wider box around the same prices
            box = replace(box, half=box.half * 16)
            continue
        # Nothing says where the prices are: the whole dual function does, a pass for each look at it.
        middle, num_looks = _dual_minimum(partitions, read, rule, map, whole, guess)
        num_passes, asked_planes = num_passes + num_looks, True
        box = replace(box, middle=middle, half=1e-4 * np.maximum(np.abs(middle), 1e-3 * guess.scale))
        box = replace(box, reach=max(box.reach, 1e-6 * guess.step))
    raise IbpoError(
        f"partitions: no prices were found in {num_passes} passes; widen a budget, or allow a lower bound less"
    )


def _allocated(partitions: list[Any], read: Read, rule: _Rule, time_limit_s: float) -> Allocation:
    """`allocate` of all partitions in memory."""
    given = [part for part in map(read, partitions) if np.size(part[0])]
    return allocate(
        np.concatenate([np.asarray(utility, np.float64) for utility, _, _ in given]),
        [item for _, problem, _ in given for item in id_items(problem)],
        np.concatenate([np.atleast_2d(costs(cost)) for _, _, cost in given], axis=1),
        rule.budget, at_least=rule.at_least, choose=rule.choose, tie_break=rule.tie_break, time_limit_s=time_limit_s,
    )  # fmt: skip


# -- where to look ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Guess:
    box: _Box
    scale: FloatArray
    """`[K]` typical prices."""
    step: float
    """A typical regret."""


def _take(read: Read, rule: _Rule, size: int, partition: Any) -> tuple[FloatArray, FloatArray, IntArray] | None:
    """Utilities, costs and lengths of some problems of a partition, chosen by their ids."""
    instance = rule.gathered(read, partition)
    if instance is None:
        return None
    some = instance.ids.sample(size) if instance.num_problems > size else np.arange(instance.num_problems)
    rows = instance.segments.rows_of(some)
    return instance.utility[rows], instance.cost[:, rows], instance.segments.length[some]


def _sampled(partitions: list[Any], read: Read, rule: _Rule, map: Map, size: int) -> _Guess:
    """Prices by samples of a few partitions, which lie as far apart as possible."""
    places = np.unique(np.linspace(0, len(partitions) - 1, min(len(partitions), SAMPLED_PARTITIONS)).astype(int))
    taken: list[tuple[FloatArray, FloatArray, IntArray]] = []
    for those in ([partitions[i] for i in places], partitions):  # all, where the first ones are empty
        found_there = map(partial(_take, read, rule, -(-size // len(those))), those)
        if taken := [part for part in found_there if part is not None]:
            break
    if not taken:
        raise IbpoError(f"partitions: none of the {len(partitions)} has a row")
    if len({len(cost) for _, cost, _ in taken}) > 1:
        raise IbpoError("cost: partitions have different numbers of costs")
    utility, length = np.concatenate([part[0] for part in taken]), np.concatenate([part[2] for part in taken])
    cost = np.concatenate([part[1] for part in taken], axis=1)
    num_problems, num_costs = len(length), len(cost)
    start = np.cumsum(length) - length
    problem = np.repeat(np.arange(num_problems), length)

    def spread(values: FloatArray) -> float:
        return float((np.maximum.reduceat(values, start) - np.minimum.reduceat(values, start)).mean())

    step = spread(utility)
    scale = np.array([step / x if (x := spread(row)) > 0 and step > 0 else 1.0 for row in cost])
    low, high = rule.means(num_costs)
    least, most = np.minimum.reduceat(cost, start, axis=1), np.maximum.reduceat(cost, start, axis=1)
    which = np.random.default_rng(0).permutation(num_problems) % NUM_SAMPLES
    found: list[FloatArray] = []
    for each in range(min(NUM_SAMPLES, num_problems)):
        rows, ours = which[problem] == each, which == each
        # A sample's own ends may lie inside the bounds of the whole.
        caps = [
            None if b is None else max(float(b), float(x)) for b, x in zip(high, least[:, ours].mean(1), strict=True)
        ]
        floors = [
            None if b is None else min(float(b), float(x)) for b, x in zip(low, most[:, ours].mean(1), strict=True)
        ]
        try:
            answer = allocate(
                utility[rows], problem[rows], cost[:, rows], caps, at_least=floors, choose="exactly_one",
                relative_gap=1e-3, time_limit_s=5.0,
            )  # fmt: skip
        except IbpoError:
            continue
        found.append(answer.price)
    middle = np.mean(found, axis=0) if found else np.zeros(num_costs)
    half = CARE * np.ptp(found, axis=0) if len(found) > 1 else np.zeros(num_costs)
    half = np.maximum(half, 1e-6 * scale)
    # Below this, rounding errors of the open problems' dual are as large as the reach.
    finest = 2.0**-44 * float(np.abs(utility).max())
    return _Guess(box=_Box(middle=middle, half=half, reach=max(1e-6 * step, finest)), scale=scale, step=step)


def _plane(read: Read, rule: _Rule, price: FloatArray, partition: Any) -> tuple[list[float], list[list[float]]]:
    instance = rule.gathered(read, partition)
    if instance is None:
        return [], [[] for _ in price]
    return best_sums(instance.utility, instance.cost, instance.segments, price)


def _dual_minimum(
    partitions: list[Any], read: Read, rule: _Rule, map: Map, whole: "_Whole", guess: _Guess
) -> tuple[FloatArray, int]:
    """Where the dual function of all partitions is least, and how many passes that took."""
    low, high = whole.bounds.arrays()
    looks = 0

    def plane(price: list[float]) -> tuple[float, list[float]]:
        nonlocal looks
        looks += 1
        found = list(map(partial(_plane, read, rule, np.array(price)), partitions))
        value = math.fsum(x for part, _ in found for x in part)
        bound = [b - HAIR if y < 0 else h + HAIR for y, b, h in zip(price, low.tolist(), high.tolist(), strict=True)]
        slope = [math.fsum([b, *(-x for _, totals in found for x in totals[k])]) for k, b in enumerate(bound)]
        return value, slope

    floor = np.where(np.isfinite(low), -FAR * guess.scale, 0.0)
    start = np.clip(guess.box.middle, floor, FAR * guess.scale)
    return minimum(plane, floor, FAR * guess.scale, start, guess.scale, most=60, close=1e-6)[0], looks


# -- a partition ------------------------------------------------------------------------------------------------------


def _near_rows(instance: AllocationProblem, rule: _Rule, box: _Box) -> tuple[IntArray, IntArray, IntArray]:
    """`[P]` the best row at the box's middle; other rows that may be needed; the problems, rising, that have such."""
    low, high = rule.means(len(instance.cost))
    best: list[IntArray] = []
    near: list[IntArray] = []
    for _, rows, block in instance.segments.blocks():
        utility, cost = instance.utility[rows], instance.cost[:, rows]
        # Regrets up to the reach and all that the box can change: few rows, which are looked at one by one.
        swing = sum(h * float(np.ptp(row)) for h, row in zip(box.half.tolist(), cost, strict=True))
        first, _, others, regret = best_rows(utility, cost, None, block, box.middle, box.reach + swing)
        own = first[block.problem_of(others)]
        slack, worse = regret.copy(), utility[others] <= utility[own]
        for k, row in enumerate(cost):
            excess = row[others] - row[own]
            slack -= box.half[k] * np.abs(excess)
            # No better for the bounds on this cost, and of equally good ones not the cheaper one, which is taken.
            worse &= (excess >= 0) | ((high[k] is None) & (utility[others] < utility[own]))
            worse &= (excess <= 0) | (low[k] is None)
        best.append(first + rows.start)
        near.append(others[(slack <= box.reach) & ~worse] + rows.start)
    rows_near = np.concatenate(near)
    return np.concatenate(best), rows_near, np.unique(instance.segments.problem_of(rows_near))


def _settle(read: Read, rule: _Rule, box: _Box, most_open: int, num_some: int, partition: Any) -> _Settled | None:
    """One partition, read, of which only the open problems are kept; None: it is empty."""
    instance = rule.gathered(read, partition)
    if instance is None:
        return None
    best, near, open_ = _near_rows(instance, rule, box)
    num_open, num_near = len(open_), len(near)
    if num_near > most_open:
        near, open_ = near[:0], open_[:0]
    settled = np.delete(best, open_)
    value: list[float] = []
    add_parts(instance.utility[settled], value)
    places = [decimal_places(row) for row in instance.cost]
    kept = np.sort(np.concatenate([best[open_], near]))
    row = kept if instance.row is None else instance.row[kept]
    ids = instance.ids
    name = ids.ids if ids.ids is not None else np.array([_Name(x) for x in ids.names or ()], object)
    named = name[instance.segments.problem_of(kept)]
    some = np.arange(instance.num_problems)
    if len(some) > num_some:
        key = ids.key(some) if ids.names is None else np.array([crc32(x.encode()) for x in ids.names], np.uint64)
        some = np.argpartition(key, num_some)[:num_some]
    real = row >= 0  # `allocate` adds the empty responses again
    total = [_exact_total(digits, cost[settled]) for digits, cost in zip(places, instance.cost, strict=True)]
    ends = [
        (_exact_total(digits, instance.segments.min(cost)), _exact_total(digits, instance.segments.max(cost)))
        for digits, cost in zip(places, instance.cost, strict=True)
    ]
    return _Settled(
        num_problems=instance.num_problems, num_responses=instance.num_responses, value=value,
        total=total, ends=ends,
        decimal=[x is not None for x in places], utility=instance.utility[kept][real],
        cost=instance.cost[:, kept][:, real], problem=named[real], row=row[real], num_open=num_open, num_near=num_near,
        some=name[some],
    )  # fmt: skip


def _exact_total(digits: int | None, values: FloatArray) -> Fraction:
    """The sum of costs: of decimals with so many digits after the point; None: of the floats as they are."""
    if not len(values):
        return Fraction(0)
    if digits is not None:
        return Fraction(sum_whole(np.rint(values * 10.0**digits)), 10**digits)
    parts: list[float] = []
    add_parts(np.ascontiguousarray(values), parts)
    return sum(map(Fraction, parts), Fraction(0))


# -- all partitions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    objective: float
    gap: float
    price: FloatArray
    spent: FloatArray
    chosen: tuple[IntArray, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Whole:
    """All partitions together."""

    rule: _Rule
    bounds: Bounds
    num_problems: int
    num_responses: int
    num_open: int
    num_open_rows: int
    total: list[Fraction]
    """`[K]` what the settled problems cost."""
    value: float
    """What they are worth."""
    utility: FloatArray
    """`[C]` of the open problems' rows."""
    cost: FloatArray
    """`[K, C]`."""
    problem: NDArray[Any]
    """`[C]` ids."""
    row: tuple[IntArray, ...]
    """Rows of each partition."""

    @classmethod
    def of(cls, found: list[_Settled | None], rule: _Rule) -> "_Whole":
        """Add them up.

        Raises:
            InfeasibleBudget: One bound cannot be kept even by itself.
        """
        parts = [part for part in found if part is not None]
        num_costs, num_problems = len(parts[0].cost), sum(part.num_problems for part in parts)
        if any(len(part.cost) != num_costs for part in parts):
            raise IbpoError("cost: partitions have different numbers of costs")
        low, high = rule.means(num_costs)
        ends = [tuple(sum((part.ends[k][i] for part in parts), Fraction(0)) for i in (0, 1)) for k in range(num_costs)]
        # Sums of costs that are no decimals may be off in the last digit, as in `allocate`.
        slack = [0 if all(part.decimal[k] for part in parts) else TOLERANCE for k in range(num_costs)]
        bounds = Bounds(
            low=tuple(None if b is None else b * num_problems * (1 - s) for b, s in zip(low, slack, strict=True)),
            high=tuple(
                end[1] + 1 if b is None else b * num_problems * (1 + s)
                for b, s, end in zip(high, slack, ends, strict=True)
            ),
            whole=(False,) * num_costs,
        )
        for k, (least, most) in enumerate(ends):
            bounds.check(k, least, most, num_problems)
        _check_ids(parts)
        return cls(
            rule=rule, bounds=bounds, num_problems=num_problems,
            num_responses=sum(part.num_responses for part in parts), num_open=sum(part.num_open for part in parts),
            num_open_rows=sum(part.num_open + part.num_near for part in parts),
            total=[sum((part.total[k] for part in parts), Fraction(0)) for k in range(num_costs)],
            value=math.fsum(x for part in parts for x in part.value),
            utility=np.concatenate([part.utility for part in parts]),
            cost=np.concatenate([part.cost for part in parts], axis=1),
            problem=np.concatenate([part.problem for part in parts]),
            row=tuple(np.zeros(0, np.int64) if part is None else part.row for part in found),
        )  # fmt: skip

    def solve(self, box: _Box, time_limit_s: float) -> "_Answer | _Box | None":
        """The answer; or a box in which to look again; or None where nothing says where."""
        left = [None if b is None else b - x for b, x in zip(self.bounds.low, self.total, strict=True)]
        room = [b - x for b, x in zip(self.bounds.high, self.total, strict=True)]
        if not self.num_open:
            # Every problem has one best response throughout the box. Optimal if that fits, and costs nothing that
            # is left: where the box reaches down to a price of 0, or the bound is met.
            fits = all(r >= 0 for r in room) and all(x is None or x <= 0 for x in left)
            free = np.abs(box.middle) <= box.half
            if fits and all(f or r == 0 or x == 0 for f, r, x in zip(free.tolist(), room, left, strict=True)):
                return _Answer(
                    objective=self.value, gap=0.0, price=np.where(free, 0.0, box.middle),
                    spent=np.array([float(x / self.num_problems) for x in self.total]),
                    chosen=tuple(row[:0] for row in self.row),
                )  # fmt: skip
            return None
        if any(r < 0 for r in room):
            return None
        caps = [r / self.num_open for r in room]
        floors = [None if x is None else max(x, Fraction(0)) / self.num_open for x in left]
        try:
            answer = allocate(
                self.utility, self.problem, self.cost, caps, at_least=floors, choose=self.rule.choose,
                tie_break=self.rule.tie_break, time_limit_s=time_limit_s,
            )  # fmt: skip
        except InfeasibleBudget:
            return None
        away = answer.price - box.middle
        if (np.abs(away) > box.half).any():
            # Out of the box: on towards where the open problems point, no further than a few boxes at a time.
            return replace(box, middle=box.middle + np.clip(away, -8 * box.half, 8 * box.half), half=4 * box.half)
        loss = self._dual(answer, room, left) - answer.objective
        if loss > box.reach:  # a dropped row might still be better
            return replace(box, reach=2 * loss)
        objective = self.value + answer.objective
        ends = np.cumsum([len(row) for row in self.row])[:-1]
        chosen = [row[w == 1] for row, w in zip(self.row, np.split(answer.weight, ends), strict=True)]
        spent = [
            x + _exact_total(decimal_places(row), row[answer.weight == 1])
            for x, row in zip(self.total, self.cost, strict=True)
        ]
        return _Answer(
            objective=objective, gap=max(0.0, answer.gap), price=answer.price,
            spent=np.array([float(x / self.num_problems) for x in spent]), chosen=tuple(chosen),
        )  # fmt: skip

    def _dual(self, answer: Allocation, room: list[Fraction], left: list[Fraction | None]) -> float:
        """D of the open problems at the answer's prices, with its rounding errors."""
        score = self.utility - answer.price @ self.cost
        _, number = np.unique(_comparable(self.problem), return_inverse=True)
        top = np.full(self.num_open, 0.0 if self.rule.choose == "at_most_one" else -np.inf)
        np.maximum.at(top, number, score)
        sides = zip(answer.price.tolist(), room, left, strict=True)
        paid = [y * float(r if y > 0 or x is None else x) for y, r, x in sides if y]
        size = float(np.abs(self.utility).max()) + float(np.abs(answer.price) @ np.abs(self.cost).max(1))
        return math.fsum([exact_sum(top), *paid]) + 2.0**-50 * (size + sum(map(abs, paid)))


def _comparable(ids: NDArray[Any]) -> NDArray[Any]:
    return ids.astype(str) if ids.dtype == object else ids


def _check_ids(parts: list[_Settled]) -> None:
    """Two partitions with a problem in common would give it two responses."""
    named = [np.unique(_comparable(np.concatenate([part.problem, part.some]))) for part in parts]
    found, count = np.unique(np.concatenate(named), return_counts=True)
    if (count > 1).any():
        raise IbpoError(
            f"problem {found[count > 1][0]}: is in two partitions; bring all responses to a problem into one, and "
            "give problems different ids"
        )
