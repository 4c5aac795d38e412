"""Share budgets: all that counts of a problem is its best utility under each set of shares.

A response counts in some of the K shares; the sets that occur are the *kinds*. Among a problem's responses of one kind
only the best can be chosen. With best[g, p] the largest utility of problem p's responses of kind g, and uses[k, g] 1
where kind g counts in share k, else 0,

    maximise sum_p best[kind_p, p]    subject to    low_k <= sum_p uses[k, kind_p] <= high_k.

Letters: R responses, P problems, K shares, G kinds, N problems that are looked at.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import kernels
from ibpo.allocation.highs import Effort
from ibpo.allocation.lagrangian import close_gap, prices
from ibpo.allocation.passes import (
    best_of_kinds,
    best_of_scattered,
    fill_shares,
    mark_rows,
    mark_scattered,
    order_statistic,
    slices_of_scattered,
)
from ibpo.allocation.problem import MAX_OVERLAPPING, AllocationProblem, Arguments, Bounds, MarkArray
from ibpo.allocation.segments import (
    FloatArray,
    IntArray,
    KeyArray,
    ProblemIds,
    ScatteredRows,
    Segments,
    exact_sum,
    slices_of,
)
from ibpo.allocation.units import utility_unit

HUGE = 1.7e308
FAR = 1e300
"""Utilities smaller than this in size vanish against HUGE."""
MAX_KINDS = 32
SMALL = 300
"""Problems up to which nothing is narrowed: HiGHS takes them as they are."""
MOST = 3_000
"""Problems that HiGHS still takes where the prices cannot be narrowed."""
SAMPLE = 4_096
"""Problems that say where the prices of more of them are."""
RANKS = 24
"""By how many problems a share may be off, where all of them are looked at."""
MOST_EXCHANGES = 200
"""Problems that are moved one by one in the end."""
FEW = 2_048
"""Responses that are looked at first."""
COLUMNS = 8_192
"""Problems of a block: G rows of them stay in the cache."""


Found = tuple[NDArray[np.uint8], FloatArray, FloatArray]
"""The kind `[P]` of each problem, prices `[K]` and utilities `[P]`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shares:
    """Best utilities by kind, and how to find the responses that have them.

    Attributes:
        best: `[G, P]` best utility of each kind, -inf where a problem has none.
        uses: `[K, G]` 1 where a kind counts in a share, else 0. Kinds are sorted: the cheaper first.
        num_shares: K.
        slice_P: `[P]` where each problem's responses count in one share at most: which (-1: none), and the kinds are
            two, free and costly, with `uses` `[1, 2]`; None otherwise.
        utility: `[R]`, in the order of `rows`.
        marks: `[R]` the kind of each response, as a mark.
        mark: `[G]` the mark of each kind.
        rows: The rows of each problem: gathered by `order`, or scattered.
        order: `[R]` where a row is the caller's; None: in the same place.
        ids: The problems.
        tie: `[R]` what orders equal responses of one problem, or None.
        skips: `[P]` whether the empty response is the best free one, or None where there is no empty response.
    """

    best: FloatArray
    uses: FloatArray
    num_shares: int
    slice_P: IntArray | None
    utility: FloatArray
    marks: MarkArray
    mark: list[int]
    rows: Segments | ScatteredRows
    order: IntArray | None
    ids: ProblemIds
    tie: KeyArray | None
    skips: NDArray[np.bool_] | None

    @classmethod
    def from_arguments(cls, arguments: Arguments) -> "Shares | None":
        """The table, or None where the costs are no shares or of too many kinds."""
        marks, utility, tie = arguments.marks, arguments.utility, arguments.tie
        if marks is None:
            return None
        rows, order = arguments.ids.rows, None
        if isinstance(rows, Segments) or tie is not None or not _is_plain(utility, marks):
            order, rows = arguments.ids.gathered()
        if order is not None:
            utility, marks = utility[order], marks[order]
            tie = None if tie is None else tie[order]
        num_shares = len(arguments.cost)
        slice_P = _slices(marks, rows, arguments.ids.num_problems, num_shares)
        if slice_P is not None:
            kinds, uses = [0, 1], np.array([[0.0, 1.0]])
        else:
            kinds, uses = _kinds(marks, num_shares, arguments.may_skip)
            if len(kinds) > MAX_KINDS:
                return None
        number = np.zeros(int(np.iinfo(marks.dtype).max) + 1, np.int64)
        if len(kinds) == 2 and not kinds[0]:
            number[1:] = 1
        else:
            number[kinds] = np.arange(len(kinds))
        if isinstance(rows, ScatteredRows):
            best = best_of_scattered(utility, marks, rows, number)
        elif (best := best_of_kinds(utility, marks, rows, number)) is None:
            far = arguments.largest >= FAR
            best = _table(utility, marks, rows, kinds, in_slices=slice_P is not None, is_far=far)
        skips = None
        if arguments.may_skip:  # the empty response: free, worth 0
            skips = best[0] <= 0.0
            np.maximum(best[0], 0.0, out=best[0])
        return cls(
            best=best,
            uses=uses,
            num_shares=num_shares,
            slice_P=slice_P,
            utility=utility,
            marks=marks,
            mark=kinds,
            rows=rows,
            order=order,
            ids=arguments.ids,
            tie=tie,
            skips=skips,
        )

    @property
    def laminar(self) -> bool:
        """Whether any two shares are nested or disjoint.

        With the one-of-each-problem rows these make two laminar families, whose matrix is totally unimodular, so that
        every vertex of the linear relaxation is integral.
        """
        return not any(
            {(1, 0), (0, 1), (1, 1)} <= set(zip(first.tolist(), second.tolist(), strict=True))
            for i, first in enumerate(self.uses)
            for second in self.uses[:i]
        )

    def ranges(self) -> list[tuple[float, float]]:
        """The least and the most problems that can count in each share."""
        has = [row > -np.inf for row in self.best]
        if self.slice_P is not None and self.num_shares == 1:
            return [(float(len(has[0]) - np.count_nonzero(has[0])), float(np.count_nonzero(has[1])))]
        found: list[tuple[float, float]] = []
        for k in range(self.num_shares):
            if self.slice_P is not None:
                here = self.slice_P == k
                free, able = has[0] | ~here, has[1] & here
            else:
                free, able = np.zeros((2, self.ids.num_problems), bool)
                for g, of_kind in enumerate(has):
                    side = able if self.uses[k, g] else free
                    side |= of_kind
            found.append((float(len(free) - np.count_nonzero(free)), float(np.count_nonzero(able))))
        return found

    def total(self, pick: NDArray[np.uint8]) -> list[float]:
        """`[K]` how many problems count in each share."""
        if self.num_shares == 1:
            return [float(np.count_nonzero(pick))]
        if self.slice_P is not None:
            slices = np.bincount(self.slice_P[pick > 0], minlength=self.num_shares)
            return slices.astype(np.float64).tolist()
        return (self.uses @ np.bincount(pick, minlength=len(self.best))).tolist()

    def candidates(
        self, bounds: Bounds, problems: IntArray | None = None
    ) -> tuple[AllocationProblem, NDArray[np.uint8]]:
        """The best responses as candidates, of all problems or of some, and the kind of each candidate."""
        best = self.best if problems is None else self.best[:, problems]
        problem, kind = np.nonzero(np.isfinite(best.T))
        size = np.bincount(problem)
        instance = AllocationProblem(
            utility=best[kind, problem],
            cost=self.uses[:, kind],
            exact=(None,) * self.num_shares,
            row=None,
            segments=Segments.from_start(np.cumsum(size) - size, len(problem)),
            ids=self.ids if problems is None else self.ids.of(problems),
            tie=None,
            bounds=bounds,
            num_responses=len(problem),
        )
        return instance, kind.astype(np.uint8)

    def values(self, pick: NDArray[np.uint8]) -> FloatArray:
        """`[P]` the utility of the chosen kind of each problem."""
        value = np.empty(len(pick))
        bits, best = value.view(np.int64), self.best.view(np.int64)
        for rows in slices_of(len(pick)):
            here, chosen = bits[rows], pick[rows]
            here[:] = best[0, rows]
            # Where chosen, all bits of here ^ best, else none: without the branches of np.where, which take three times
            # as long.
            for g in range(1, len(best)):
                here ^= (here ^ best[g, rows]) & -(chosen == g).astype(np.int64)
        return value

    def weight(self, pick: NDArray[np.uint8], value: FloatArray) -> NDArray[np.int8]:
        """`[R]` 1 for the chosen responses, in the caller's order: the best of the chosen kinds `[P]`.

        Among equal ones, that with the smallest `tie`, or the first.
        """
        if self.skips is not None:
            value = np.where(self.skips & (pick == 0), np.nan, value)
        mark = np.array(self.mark, self.marks.dtype)[pick]
        whole = self.num_shares == 1 or self.slice_P is None
        if isinstance(self.rows, ScatteredRows):
            return mark_scattered(self.utility, self.marks, self.rows, value, mark, whole=whole).view(np.int8)
        hit = mark_rows(self.utility, self.marks, self.tie, self.rows, value, mark, whole=whole)
        if self.order is None:
            return hit.view(np.int8)
        weight = np.zeros(len(hit), np.int8)
        weight[self.order[hit]] = 1
        return weight


def _is_plain(utility: FloatArray, marks: MarkArray) -> bool:
    """Whether compiled passes can take them as they are."""
    return marks.dtype == np.uint8 and marks.flags.c_contiguous and utility.flags.c_contiguous


def _table(
    utility: FloatArray, marks: MarkArray, segments: Segments, kinds: list[int], *, in_slices: bool, is_far: bool
) -> FloatArray:
    """`best_of_kinds` in numpy; with `in_slices` the second kind is whatever is not of the first."""
    best = np.empty((len(kinds), segments.num_problems))
    table = np.empty((2, segments.longest_block))
    for problems, rows, block in segments.blocks():
        far, kept = table[:, : block.num_rows]
        for g, mark in enumerate(kinds):
            # u - 0 is u, and u - HUGE is out of reach: four times as fast as np.where.
            if g and in_slices:
                np.subtract(HUGE, far, out=far)
            else:
                far[:] = marks[rows] != mark
                far *= HUGE
            if not is_far:
                np.subtract(utility[rows], far, out=kept)
            else:
                kept[:] = np.where(far > 0, -np.inf, utility[rows])
            top = best[g, problems]
            np.add(block.max(kept), 0.0, out=top)  # no -0.0
            if not is_far and top.min() <= -FAR:
                np.putmask(top, top <= -FAR, -np.inf)
    return best


def _slices(marks: MarkArray, rows: Segments | ScatteredRows, num_problems: int, num_shares: int) -> IntArray | None:
    """`[P]` the one share that the responses of each problem count in, -1 for none; None where that is not so."""
    if num_shares == 1:
        return np.zeros(num_problems, np.int64)
    of_mark = np.full(int(np.iinfo(marks.dtype).max) + 1, -2)
    of_mark[0] = -1
    for k in range(num_shares):
        of_mark[1 << k if num_shares <= MAX_OVERLAPPING else k + 1] = k
    if isinstance(rows, ScatteredRows):
        mark_P = slices_of_scattered(marks, rows)
        slice_P = None if mark_P is None else of_mark[mark_P]
        return None if slice_P is None or (slice_P == -2).any() else slice_P
    slice_P = np.empty(num_problems, np.int64)
    none = marks.dtype.type(np.iinfo(marks.dtype).max)
    few = itertools.islice(rows.blocks(FEW), 1)  # where it is not so, these mostly say it
    for problems, some, block in itertools.chain(few, rows.blocks()):
        here = marks[some]
        most = block.max(here)
        least = block.min(np.where(here == 0, none, here))
        slices = of_mark[most]
        if ((least != most) & (most > 0)).any() or (slices == -2).any():
            return None
        slice_P[problems] = slices
    return slice_P


def _kinds(marks: MarkArray, num_shares: int, may_skip: bool) -> tuple[list[int], FloatArray]:
    """The marks that occur, the cheaper first (by the first cost, then the second ...), and `[K, G]` their shares."""
    codes = [0] if may_skip else []
    for rows in slices_of(len(marks)):
        here = marks[rows]
        new = np.ones(len(here), bool)
        for code in codes:
            new &= here != code
        while new.any() and len(codes) <= MAX_KINDS:
            codes.append(int(here[new.argmax()]))
            new &= here != codes[-1]
    bits = num_shares <= MAX_OVERLAPPING
    rows = [([float(code >> k & 1 if bits else code == k + 1) for k in range(num_shares)], code) for code in codes]
    rows.sort()
    return [code for _, code in rows], np.array([shares for shares, _ in rows]).T


def select(shares: Shares, slice_P: IntArray, bounds: Bounds) -> tuple[NDArray[np.bool_], FloatArray]:
    """Which problems `[P]` get their best costly response, and the price `[K]`.

    With a_p, b_p the best utility of problem p among its free and its costly responses, its gain is b_p - a_p. Within
    each slice the n largest gains get the costly response, n being the number of positive gains, clipped to what the
    bounds allow. The price is the next gain: what one more would add.
    """
    gain = shares.best[1] - shares.best[0]  # inf where only costly responses exist, -inf where none does
    takes = np.zeros(len(gain), bool)
    price = np.zeros(shares.num_shares)
    for k in range(shares.num_shares):
        low, high = bounds.ends(k)
        inside = None if shares.num_shares == 1 else np.flatnonzero(slice_P == k)
        if inside is None:
            takes, price[k] = _largest(gain, None, shares.ids, low, high)
        elif len(inside):
            takes[inside], price[k] = _largest(gain[inside], inside, shares.ids, low, high)
    return takes, price


def _largest(
    gain: FloatArray, problems: IntArray | None, ids: ProblemIds, low: float, high: float
) -> tuple[NDArray[np.bool_], float]:
    """Which of the gains are taken, and the price."""
    takes = gain > 0
    positive = int(np.count_nonzero(takes))
    if low <= positive <= high:
        return takes, 0.0
    # How many of the positive gains fit, or how many others have to be added.
    count = int(high) if positive > high else int(low) - positive
    # Only gains on the near side of 0 are in question. A large atom at 0, as binary rewards make, slows np.partition
    # (where nothing is compiled) down more than a sort would; where there is none, a few more numbers cost less than
    # leaving them out.
    if positive > high and 64 * np.count_nonzero(gain == 0) < len(gain):
        value = gain
    else:
        value = gain[np.flatnonzero(takes if positive > high else ~takes & (gain > -math.inf))]
    if not count:
        return np.zeros(len(gain), bool), max(0.0, float(value.max(initial=0.0)))
    threshold, below = order_statistic(value, len(value) - count)
    price = threshold + 0.0 if positive <= high else max(0.0, below)
    # All gains from the threshold on; where several are equal to it, those of the smallest keys.
    if below < threshold:
        return gain >= threshold, price
    takes = gain > threshold
    room = count - int(np.count_nonzero(value > threshold))
    tied = np.flatnonzero(gain == threshold)
    key = ids.key(tied if problems is None else problems[tied])
    takes[tied[np.argpartition(key, room - 1)[:room]]] = True
    return takes, threshold + 0.0


def transport(shares: Shares, bounds: Bounds) -> Found | None:
    """The optimal kind `[P]`, prices `[K]` and utilities `[P]`, or None where this way does not lead to the end.

    By `_narrowed`; where utilities are multiples of a unit, so that thousands of problems are equal, by `_by_units`.
    """
    if shares.ids.num_problems <= SMALL or not shares.laminar:
        return None
    unit = utility_unit(shares.best.ravel())
    found = None if unit is None else _by_units(shares, bounds, float(unit[0]))
    return _narrowed(shares, bounds) if found is None else found


def _by_units(shares: Shares, bounds: Bounds, unit: float) -> Found | None:
    """`transport`, for utilities that are multiples of a unit, as rewards of 0 and 1 and means of a few are.

    No prices settle the thousands of problems that are equal then. They are set apart by a little, different for each
    problem, and less where a kind counts in more shares: all together by less than the unit of the objective, so that
    the best choice stays one of the best, and prices are multiples of the unit (a vertex of the dual of a totally
    unimodular programme).
    """
    num_problems, counts = shares.ids.num_problems, shares.uses.sum(0)
    most = 1.0 + 2.0 * float(counts.max())
    size = unit / (4.0 * num_problems * most)
    key, best = shares.ids.key(np.arange(num_problems)), shares.best.copy()
    for g, row in enumerate(best):
        part = (key * np.uint64(2 * g + 3) >> np.uint64(11)).astype(np.float64) * 2.0**-53  # 0 to 1, by problem
        row += size * (part - 2.0 * counts[g])
    apart = replace(shares, best=best)

    def rounded(found: Found | None) -> Found | None:
        if found is None:
            return None
        pick, price = found[0], np.rint(found[1] / unit) * unit
        values = shares.values(pick)
        return (pick, price, values) if is_met(shares, price, bounds, values) else None

    if (found := rounded(_narrowed(apart, bounds))) is not None:
        return found
    # Between two multiples prices that are moved one by one may stop where only several together lead on: cutting
    # planes do not.
    middle = np.rint(prices(shares.candidates(bounds)[0]) / unit) * unit
    reach = 8.0 * size * most * shares.num_shares
    return rounded(_narrowed(apart, bounds, (middle - reach, middle + reach)))


def _narrowed(shares: Shares, bounds: Bounds, around: tuple[FloatArray, FloatArray] | None = None) -> Found | None:
    """`transport`, where not too many problems are equal; `around`: the least and the largest prices `[K]`.

    Prices decide: at price y a problem takes the kind with the largest utility - y . uses. A sample gives prices y by
    turns, each the order statistic at which its share is filled given the others, and how many ranks it can be off. A
    problem that takes the same kind throughout that box of prices is settled; what is left gives a smaller box, now
    without sampling, and the few problems that it leaves open go to HiGHS with what is left of the bounds. Are HiGHS's
    prices inside the box, they are optimal for all problems: settled ones stay as they are.
    """
    num_problems = shares.ids.num_problems
    ends = np.stack(bounds.arrays(), axis=1)  # [K, 2]
    for care in (1.0, 4.0, 16.0):
        best, open_ = shares.best, None
        pick, used = np.zeros(num_problems, np.uint8), np.zeros(shares.num_shares)
        floor, ceiling = around or np.full((2, shares.num_shares), np.inf) * [[-1], [1]]
        price = np.zeros(shares.num_shares) if around is None else (floor + ceiling) / 2
        while best.shape[1] > SMALL:
            floor, ceiling, price = _box(shares, best, open_, ends - used[:, None], (floor, ceiling), price, care)
            # Who takes the same kind throughout the box is settled.
            kind, several = _settle(best, shares.uses, floor, ceiling)
            left = np.flatnonzero(several)
            if len(left) > 0.5 * best.shape[1]:
                if best.shape[1] > MOST or open_ is None:
                    return None
                break
            rest = kind[left]
            counts = [np.count_nonzero(kind == g) - np.count_nonzero(rest == g) for g in range(len(best))]
            used = used + shares.uses @ counts
            if open_ is None:
                pick, open_ = kind, left
            else:
                pick[open_], open_ = kind, open_[left]
            best = best.take(left, axis=1)
        if open_ is not None and len(open_):
            rest = Bounds(
                low=tuple(None if b is None else b - int(n) for b, n in zip(bounds.low, used, strict=True)),
                high=tuple(b - int(n) for b, n in zip(bounds.high, used, strict=True)),
                whole=bounds.whole,
            )
            exchanged = _exchanged(best, shares.uses, rest, price, shares.ids.key(open_))
            if exchanged is not None:
                pick[open_], price = exchanged
            else:
                instance, kind = shares.candidates(rest, open_)
                price = prices(instance)
                chosen, _ = close_gap(instance, price, Effort(time_limit_s=60.0))
                if chosen is None or not instance.all_fit(chosen):
                    continue
                pick[open_] = kind[chosen]
        values = shares.values(pick)
        if not np.isfinite(values).all():  # a problem without a response of its kind: the bounds leave it none
            continue
        if not bounds.fit(shares.total(pick)):  # all were settled in a box without the optimal prices
            continue
        if is_met(shares, price, bounds, values):
            return pick, price, values
    return None


def is_met(shares: Shares, price: FloatArray, bounds: Bounds, values: FloatArray) -> bool:
    """Whether D at these prices is what the chosen utilities `[P]` sum to, to the last bits: then these are optimal."""
    value = exact_sum(values)
    return _dual(shares, price, bounds) - value <= 4 * np.spacing(abs(value))


def _exchanged(
    best: FloatArray, uses: FloatArray, bounds: Bounds, price: FloatArray, key: KeyArray
) -> tuple[NDArray[np.uint8], FloatArray] | None:
    """The optimal kind `[N]` of a few problems, and prices `[K]`; None where shares overlap or prices are far off.

    Let the nodes be the shares, and one for what counts in none. The kinds that are best at any prices are the best for
    the numbers of problems that they give the nodes. From there problems are exchanged: to move one more from node a to
    node b loses the length of the shortest path between them, where edge a -> b is as long as the least that a problem
    of a loses in b. Shortest paths first leave no negative cycle (successive shortest paths, Ford and Fulkerson), so
    that the choice stays the best for its numbers; when these keep the bounds, and no path between nodes that may give
    and take is shorter than 0, it is the best of all. The prices are what these paths say of one more in a share.

    Args:
        best: `[G, N]`.
        uses: `[K, G]`.
        bounds: On the number of problems in each share.
        price: `[K]` prices to begin with.
        key: `[N]` orders problems that would lose the same.
    """
    if (uses.sum(0) > 1).any():
        return None
    num_nodes, size = len(uses) + 1, best.shape[1]
    node_of = np.where(uses.any(0), uses.argmax(0), num_nodes - 1)  # of each kind
    low, high = (np.append(x, end) for x, end in zip(bounds.arrays(), (0.0, np.inf), strict=True))
    low = np.maximum(low, 0.0)
    values, kinds = np.full((num_nodes, size), -np.inf), np.zeros((num_nodes, size), np.uint8)
    for g, (node, row) in enumerate(zip(node_of.tolist(), best, strict=True)):
        better = row > values[node]
        values[node][better], kinds[node][better] = row[better], g
    every: IntArray = np.arange(size, dtype=np.int64)
    order = np.argsort(key)
    values, kinds = values[:, order], kinds[:, order]  # of equal losses the first: the smallest key
    node_P = (values - np.append(price, 0.0)[:, None]).argmax(0)
    far = _exchange(values, low, high, node_P)
    if far is None:
        return None
    found = np.empty(size, np.uint8)
    found[order] = kinds[node_P, every]
    return found, 0.0 - far[:-1]


def _exchange(values: FloatArray, low: FloatArray, high: FloatArray, node_P: IntArray) -> FloatArray | None:
    """Changes `node_P` until its numbers are the best of all, for values `[M, N]`; `[M]` how far each node then is."""
    num_nodes, size = values.shape
    if kernels.LIBRARY is not None and num_nodes <= MAX_KINDS + 1:
        far, table, sizes = np.empty(num_nodes), np.ascontiguousarray(values), map(kernels.Int, (size, num_nodes))
        ends, most = map(kernels.at, (low, high)), kernels.Int(MOST_EXCHANGES)
        moved = kernels.LIBRARY.exchange(kernels.at(table), *sizes, *ends, most, *map(kernels.at, (node_P, far)))
        return far if moved else None
    every: IntArray = np.arange(size, dtype=np.int64)
    nodes = range(num_nodes)
    for _ in range(MOST_EXCHANGES):
        count = np.bincount(node_P, minlength=num_nodes)
        # edge[a][b]: the least that a problem of a loses in b, and which one that is
        loss = values[node_P, every] - values
        edge, mover = np.full((num_nodes, num_nodes), np.inf), np.zeros((num_nodes, num_nodes), np.int64)
        for a in nodes:
            inside = np.flatnonzero(node_P == a)
            if len(inside):
                mover[a] = inside[loss[:, inside].argmin(1)]
                edge[a] = loss[nodes, mover[a]]
        edge[nodes, nodes] = 0.0
        # Which may give and take: those that hold too many or too few first.
        over, under = count > high, count < low
        gives = over if over.any() else count > low
        takes = under if under.any() and not over.any() else count < high
        far, before = np.where(gives, 0.0, np.inf), np.full(num_nodes, -1)
        for _ in nodes:  # Bellman and Ford
            along = far[:, None] + edge
            nearest = along.argmin(0)
            shorter = along[nearest, nodes] < far
            if not shorter.any():
                break
            far, before = np.where(shorter, along[nearest, nodes], far), np.where(shorter, nearest, before)
        else:
            return None  # a negative cycle: rounding
        reached = np.where(takes & (before >= 0), far, np.inf)
        b = int(reached.argmin())
        if not over.any() and not under.any() and not reached[b] < 0:
            if not np.isfinite(far).all():
                return None
            return far
        if not math.isfinite(reached[b]):
            return None
        path = [b]
        while before[path[-1]] >= 0 and len(path) <= num_nodes:
            path.append(int(before[path[-1]]))
        for to, a in itertools.pairwise(path):
            node_P[mover[a, to]] = to
    return None


def _box(
    shares: Shares,
    best: FloatArray,
    problems: IntArray | None,
    bounds: FloatArray,
    box: tuple[FloatArray, FloatArray],
    price: FloatArray,
    care: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Prices `[K]` below and above the optimal ones, as far as a sample (or all of these problems) can tell; its own.

    All are inside the `box` of before, and looked for from `price` on.
    """
    size, off, (floor, ceiling) = best.shape[1], RANKS * care, box
    if size > 2 * SAMPLE:
        best = best.take((shares.ids if problems is None else shares.ids.of(problems)).sample(SAMPLE), axis=1)
        sampled = best.shape[1]
        part = np.clip(bounds / size, 0, 1)
        spread = np.sqrt(sampled * part * (1 - part))  # of a count in the sample
        bounds, off = bounds * (sampled / size), care * (6.0 * spread.max(axis=1) + RANKS / 6)
    off = np.broadcast_to(off, price.shape)
    price, lower, upper = fill_shares(best, shares.uses, bounds.T, off, np.stack(box), price)
    width = 1e-9 * (1.0 + np.abs(price))  # a price may be one number: a tie
    floor, ceiling = np.maximum(floor, lower - width), np.minimum(ceiling, upper + width)
    return floor, ceiling, np.clip(price, floor, ceiling)


def _settle(
    best: FloatArray, uses: FloatArray, floor: FloatArray, ceiling: FloatArray
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """`[N]` a kind that is best somewhere in the box of prices, and whether there may be several such."""
    middle, half = (floor + ceiling) / 2 @ uses, (ceiling - floor) / 2 @ uses
    lowest, highest = middle - half, middle + half
    kind, several = np.empty(best.shape[1], np.uint8), np.empty(best.shape[1], bool)
    if kernels.LIBRARY is not None and best.flags.c_contiguous:
        shape = map(kernels.Int, reversed(best.shape))
        kernels.LIBRARY.settle(kernels.at(best), *shape, *map(kernels.at, (lowest, highest, kind, several)))
        return kind, several
    for first in range(0, best.shape[1], COLUMNS):
        block = best[:, first : first + COLUMNS]
        # The kind that is best at the highest prices of the box: a kind that reaches it at the lowest may be best, too.
        sure = (block - highest[:, None]).max(axis=0)
        sure -= 1e-12 * (1.0 + np.abs(sure))
        count, which = np.zeros((2, block.shape[1]), np.uint8)
        for g, row in enumerate(block):
            able = (row - lowest[g] >= sure).view(np.uint8)
            count += able
            which |= able * np.uint8(g)
        kind[first : first + COLUMNS] = which
        several[first : first + COLUMNS] = count > 1
    return kind, several


def _dual(shares: Shares, price: FloatArray, bounds: Bounds) -> float:
    """What no allocation exceeds: sum_p max_g (best[g, p] - price . uses[:, g]) + price . b."""
    net = price @ shares.uses
    top = np.empty(shares.best.shape[1])
    for rows in slices_of(len(top)):
        np.subtract(shares.best[0, rows], net[0], out=top[rows])
        for g in range(1, len(net)):
            np.maximum(top[rows], shares.best[g, rows] - net[g], out=top[rows])
    return math.fsum([exact_sum(top), *bounds.paid(price)])
