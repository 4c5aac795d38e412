"""Share budgets: all that counts of a problem is its best utility under each set of shares.

A response counts in some of the K shares; the sets that occur are the *kinds*. Of a problem's responses of one kind
only the best can be chosen. Letters: R responses, P problems, K shares, G kinds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation.given import MAX_OVERLAPPING, FloatArray, Given, MarkArray
from ibpo.allocation.ids import KeyArray, ProblemIds
from ibpo.allocation.limits import Limits
from ibpo.allocation.problem import AllocationProblem
from ibpo.allocation.runs import IntArray, Runs, slices_of

HUGE = 1.7e308
FAR = 1e300
"""Utilities smaller than this in size vanish against HUGE."""
MAX_KINDS = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shares:
    """Best utilities by kind, and how to find the responses that have them.

    Attributes:
        best: `[G, P]` best utility of each kind, -inf where a problem has none.
        uses: `[K, G]` 1 where a kind counts in a share, else 0. Kinds are sorted: the cheaper first.
        num_shares: K.
        slice_P: `[P]` where each problem's responses count in one share at most: which (-1: none), and the kinds are
            two, free and costly, with `uses` `[1, 2]`. Else None.
        utility: `[R]`, gathered by problem.
        marks: `[R]` the kind of each response, as a mark.
        mark: `[G]` the mark of each kind.
        runs: The rows of each problem.
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
    runs: Runs
    ids: ProblemIds
    tie: KeyArray | None
    skips: NDArray[np.bool_] | None

    @classmethod
    def from_given(cls, given: Given) -> "Shares | None":
        """The table, or None where the costs are no shares or of too many kinds."""
        marks, order, runs = given.marks, given.ids.order, given.ids.runs
        if marks is None:
            return None
        utility, tie = given.utility, given.tie
        if order is not None:
            utility, marks = utility[order], marks[order]
            tie = None if tie is None else tie[order]
        num_shares = len(given.cost)
        slice_P = _slices(marks, runs, num_shares)
        if slice_P is not None:
            kinds, uses = [0, 1], np.array([[0.0, 1.0]])
        else:
            kinds, uses = _kinds(marks, num_shares, given.may_skip)
            if len(kinds) > MAX_KINDS:
                return None
        best = np.empty((len(kinds), runs.num_problems))
        table = np.empty((2, runs.longest_block))
        for problems, rows, part in runs.blocks():
            far, kept = table[:, : part.num_rows]
            for g, mark in enumerate(kinds):
                # u - 0 is u, and u - HUGE is out of reach: four times as fast as np.where.
                if g and slice_P is not None:
                    np.subtract(HUGE, far, out=far)
                else:
                    far[:] = marks[rows] != mark
                    far *= HUGE
                if given.largest < FAR:
                    np.subtract(utility[rows], far, out=kept)
                else:
                    kept[:] = np.where(far > 0, -np.inf, utility[rows])
                top = best[g, problems]
                np.add(part.max(kept), 0.0, out=top)  # no -0.0
                if given.largest < FAR and top.min() <= -FAR:
                    np.putmask(top, top <= -FAR, -np.inf)
        skips = None
        if given.may_skip:
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
            runs=runs,
            ids=given.ids,
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
                free, able = np.zeros((2, self.runs.num_problems), bool)
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
        self, limits: Limits, problems: IntArray | None = None
    ) -> tuple[AllocationProblem, NDArray[np.uint8]]:
        """The best responses as candidates, of all problems or of some, and the kind of each candidate."""
        best = self.best if problems is None else self.best[:, problems]
        problem, kind = np.nonzero(np.isfinite(best.T))
        size = np.bincount(problem)
        instance = AllocationProblem(
            utility=best[kind, problem],
            cost=self.uses[:, kind],
            row=None,
            runs=Runs.from_start(np.cumsum(size) - size, len(problem)),
            ids=self.ids if problems is None else self.ids.of(problems),
            tie=None,
            limits=limits,
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
            # Where chosen, all bits of here ^ best, else none: without the branches of np.where, which take thrice as
            # long.
            for g in range(1, len(best)):
                here ^= (here ^ best[g, rows]) & -(chosen == g).astype(np.int64)
        return value

    def weight(self, pick: NDArray[np.uint8], value: FloatArray) -> NDArray[np.int8]:
        """`[R]` 1 for the chosen responses, in the caller's order: the best of the chosen kinds `[P]`.

        Of equal ones that with the smallest `tie`, or the first.
        """
        if self.skips is not None:
            value = np.where(self.skips & (pick == 0), np.nan, value)
        mark = np.array(self.mark, self.marks.dtype)[pick]
        hit = np.empty(self.runs.num_rows, bool)
        for problems, rows, part in self.runs.blocks():
            here = hit[rows]
            np.equal(self.utility[rows], part.spread(value[problems]), out=here)
            if self.skips is None and np.count_nonzero(here) == part.num_problems:
                continue  # one each, of the right kind
            of_row = self.marks[rows]
            here &= (of_row if self.num_shares == 1 or self.slice_P is None else of_row != 0) == part.spread(
                mark[problems]
            )
            if np.count_nonzero(here) > part.num_problems or self.skips is not None:
                hit[rows] = _one_each(here, part, None if self.tie is None else self.tie[rows])
        if self.ids.order is None:
            return hit.view(np.int8)
        weight = np.zeros(len(hit), np.int8)
        weight[self.ids.order[hit]] = 1
        return weight


def _one_each(hit: NDArray[np.bool_], part: Runs, tie: KeyArray | None) -> NDArray[np.bool_]:
    rows = np.flatnonzero(hit)
    problem = part.problem_of(rows)
    if tie is not None:
        order = np.lexsort((tie[rows], problem))
        rows, problem = rows[order], problem[order]
    one = np.zeros(len(hit), bool)
    one[rows[np.flatnonzero(np.concatenate([[True], problem[1:] != problem[:-1]]))] if len(rows) else rows] = True
    return one


def _slices(marks: MarkArray, runs: Runs, num_shares: int) -> IntArray | None:
    """`[P]` the one share that the responses of each problem count in, -1 for none; None where that is not so."""
    if num_shares == 1:
        return np.zeros(runs.num_problems, np.int64)
    slice_P = np.empty(runs.num_problems, np.int64)
    of_mark = np.full(int(np.iinfo(marks.dtype).max) + 1, -2)
    of_mark[0] = -1
    for k in range(num_shares):
        of_mark[1 << k if num_shares <= MAX_OVERLAPPING else k + 1] = k
    none = marks.dtype.type(np.iinfo(marks.dtype).max)
    for problems, rows, part in runs.blocks():
        here = marks[rows]
        most = part.max(here)
        least = part.min(np.where(here == 0, none, here))
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
        codes += np.unique(here[new]).tolist() if new.any() else []
    bits = num_shares <= MAX_OVERLAPPING
    rows = [([float(code >> k & 1 if bits else code == k + 1) for k in range(num_shares)], code) for code in codes]
    rows.sort()
    return [code for _, code in rows], np.array([shares for shares, _ in rows]).T
