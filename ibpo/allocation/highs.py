"""Small allocation problems outright, by HiGHS: the linear relaxation and the integer programme.

What the prices leave open of a large problem comes here. Problems with the same candidates are one *type*, taken
several times: with binary rewards a thousand problems are a few dozen types. scipy is imported where HiGHS is called:
share budgets of few kinds never need it. Letters: C candidates, P problems, T candidates of types, K budgets.
"""

# scipy.optimize's results are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import contextlib
import ctypes
import math
import os
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibpo.allocation.segments import FloatArray, IntArray, KeyArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """When HiGHS stops though a gap is left.

    Attributes:
        time_limit_s: Seconds.
        relative_gap: Gap to be content with, as a part of the objective.
        node_limit: Nodes of one branch and bound; None: any number.
    """

    time_limit_s: float
    relative_gap: float = 0.0
    node_limit: int | None = None

    def is_enough(self, value: float, bound: float) -> bool:
        """Whether the gap between a value (-inf: none) and a bound is no reason to go on."""
        return bound <= value or (math.isfinite(value) and bound - value <= self.relative_gap * abs(value))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HighsProgram:
    """Candidates aggregated to types, in an order that does not depend on the order of the rows.

    Attributes:
        utility: `[T]` of each type's candidates.
        cost: `[K, T]`.
        kind: `[T]` which type, not decreasing.
        count: `[types]` how many problems are of it.
        low: `[K]` lower bounds on the total cost, -inf where none.
        high: `[K]` upper bounds, inf where none.
        choices: `[T]` matrix of candidates: for each type's candidate the candidates of its members, in that order.
    """

    utility: FloatArray
    cost: FloatArray
    kind: IntArray
    count: IntArray
    low: FloatArray
    high: FloatArray
    choices: list[IntArray]

    @classmethod
    def from_candidates(
        cls,
        utility: FloatArray,
        cost: FloatArray,
        problem: IntArray,
        key: KeyArray,
        low: FloatArray,
        high: FloatArray,
    ) -> "HighsProgram":
        """Aggregate candidates; `problem` is not decreasing, 0 .. P-1, `key` `[P]` orders the members of a type."""
        order = np.lexsort((*cost[::-1], -utility, problem))  # within a problem: the best first, then the cheapest
        size_P = np.bincount(problem)
        start_P = np.cumsum(size_P) - size_P
        parts: list[tuple[FloatArray, IntArray]] = []
        # Problems of one number of candidates make a matrix [members, size x (1 + K)]; equal rows are one type.
        for size in np.unique(size_P).tolist():
            members = np.flatnonzero(size_P == size)
            table = order[start_P[members][:, None] + np.arange(size)]  # [members, size] candidates
            values = np.concatenate([utility[table][..., None], np.moveaxis(cost[:, table], 0, -1)], axis=2)
            types, which = np.unique(values.reshape(len(members), -1), axis=0, return_inverse=True)
            which = which.reshape(-1)
            by_type = np.lexsort((key[members], which))
            ends = np.cumsum(np.bincount(which))[:-1]
            blocks = np.split(by_type, ends)
            for type_, block in zip(types, blocks, strict=True):
                parts.append((type_.reshape(size, -1), table[block]))
        columns = np.concatenate([values for values, _ in parts])
        return cls(
            utility=columns[:, 0],
            cost=np.ascontiguousarray(columns[:, 1:].T),
            kind=np.repeat(np.arange(len(parts)), [len(values) for values, _ in parts]),
            count=np.array([len(table) for _, table in parts]),
            low=low,
            high=high,
            choices=[column for _, table in parts for column in table.T],
        )

    def candidates(self, amount: IntArray) -> IntArray:
        """`[P]` candidates, given how many members of its type `[T]` take each: the first members take the first."""
        chosen: list[IntArray] = []
        begin, kind = 0, -1
        for t, n in enumerate(amount.tolist()):
            begin = begin if self.kind[t] == kind else 0
            kind = self.kind[t]
            if n:
                chosen.append(self.choices[t][begin : begin + n])
            begin += n
        return np.concatenate(chosen)

    def relax(self) -> tuple[FloatArray | None, FloatArray]:
        """The linear relaxation: amounts `[T]` of an optimal vertex (None: infeasible) and prices `[K]`.

        A price is at least 0 where the upper bound binds and at most 0 where the lower one does.
        """
        from scipy.optimize import linprog

        scaled = _Scaled(self)
        found: Any = linprog(  # pyright: ignore[reportCallIssue]
            scaled.objective,
            A_ub=scaled.inequalities[0],
            b_ub=scaled.inequalities[1],
            A_eq=scaled.one_each,  # pyright: ignore[reportArgumentType]  # the stubs do not know sparse arrays
            b_eq=self.count.astype(float),
            method="highs-ds",
        )
        if found.x is None:
            return None, np.zeros(len(self.cost))
        # From HiGHS's multipliers of the scaled inequalities to prices of the costs.
        dual = np.zeros(len(self.cost))
        multiplier = np.maximum(-found.ineqlin.marginals, 0.0)  # HiGHS's may be a rounding error below 0
        np.add.at(dual, scaled.rows[0], multiplier * scaled.rows[1])
        return found.x, dual / (scaled.value_scale * scaled.row_scale)

    def integer(self, effort: Effort, *, slack: float = 0.0, known: float = math.inf) -> tuple[IntArray | None, float]:
        """Amounts `[T]` of the integer programme (None: none found), and an upper bound on its value.

        Args:
            effort: When to stop.
            slack: Gap at which to stop, in the unit of the utility.
            known: An upper bound. HiGHS takes its gap relative to the regret, and this says how small that may be.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        scaled = _Scaled(self)
        tight = np.zeros(len(self.cost))
        bound = math.inf
        least_regret = max(scaled.offset - known, slack)
        options: Any = {
            "mip_rel_gap": 0.5 * slack / least_regret if slack and math.isfinite(least_regret) else 0.0,
            "time_limit": effort.time_limit_s,
            **({} if effort.node_limit is None else {"node_limit": effort.node_limit}),
        }
        amount: IntArray | None = None
        for _ in range(4):
            asked: Any = dict(options)  # milp takes keys out of it
            with quiet_stdout():
                found: Any = milp(
                    scaled.objective,
                    integrality=np.ones(len(self.utility), np.int64),
                    bounds=Bounds(0, np.inf),
                    constraints=[
                        LinearConstraint(scaled.cost, scaled.low + tight, scaled.high - tight),
                        LinearConstraint(scaled.one_each, self.count, self.count),
                    ],
                    options=asked,
                )
            if found.x is None and found.status != 2 and options.pop("node_limit", None) is not None:
                continue  # nodes are counted from the first choice that keeps the bounds
            if not tight.any():
                if found.status == 2:
                    bound = -math.inf
                elif found.mip_dual_bound is not None and math.isfinite(found.mip_dual_bound):
                    bound = scaled.offset - found.mip_dual_bound / scaled.value_scale
            if found.x is None:
                return None, bound
            rounded: IntArray = np.rint(found.x).astype(np.int64)
            # The whole numbers that were meant: do they keep the bounds, without HiGHS's tolerance of 1e-6?
            amount, total = rounded, scaled.cost @ rounded
            over = np.maximum(np.maximum(total - scaled.high, scaled.low - total), 0.0)
            if not (over > 1e-12 * np.maximum(1.0, np.abs(total))).any():
                break
            # A tolerance of HiGHS let it through: ask again, a little tighter. The bound stays that of the first time.
            tight = tight + 2 * over
        return amount, bound


class _Scaled:
    """The programme in HiGHS's terms.

    It minimises regrets (best utility of the type minus utility), scaled so that its absolute tolerances (1e-6 on the
    gap) are 1e-10 of the largest regret; costs are scaled to at most 1 in size.
    """

    def __init__(self, program: HighsProgram) -> None:
        from scipy.sparse import csr_array

        # regret = (best utility of the type) - utility; objective = offset - sum regret amount
        best = np.maximum.reduceat(program.utility, np.searchsorted(program.kind, np.arange(len(program.count))))
        regret = best[program.kind] - program.utility
        self.value_scale = 1e4 / (float(regret.max()) or 1.0)
        self.offset = math.fsum(best * program.count)
        self.objective = regret * self.value_scale
        largest = np.abs(program.cost).max(axis=1)
        self.row_scale = np.where(largest > 0, largest, 1.0)
        self.cost = program.cost / self.row_scale[:, None]
        self.low, self.high = program.low / self.row_scale, program.high / self.row_scale
        # sum_{t of type} amount_t = count_type
        self.one_each = csr_array((np.ones(len(program.kind)), (program.kind, np.arange(len(program.kind)))))
        # low <= cost amount <= high as inequalities, for linprog; `rows` says which budget each is of, and its sign.
        up, down = np.flatnonzero(np.isfinite(self.high)), np.flatnonzero(np.isfinite(self.low))
        self.rows = np.concatenate([up, down]), np.concatenate([np.ones(len(up)), -np.ones(len(down))])
        self.inequalities = (
            np.concatenate([self.cost[up], -self.cost[down]]),
            np.concatenate([self.high[up], -self.low[down]]),
        )


_lock = threading.Lock()


@contextlib.contextmanager
def quiet_stdout() -> Generator[None, None, None]:
    """What C code prints to standard output meanwhile is dropped; Python's own buffered output is not touched.

    The HiGHS that scipy bundles prints `HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();` with
    a bare `printf` whenever it repairs a solution: no option turns it off (jump-dev/HiGHS.jl, issue 312), and a program
    that writes JSON to its standard output breaks on it. Standard output is the whole process's: what another thread
    flushes to it meanwhile is dropped, too.
    """
    flush = getattr(ctypes.CDLL(None), "fflush", None) if os.name == "posix" else None
    if flush is None:
        yield
        return
    with _lock:
        try:
            kept = os.dup(1)
        except OSError:  # a daemon without standard output
            yield
            return
        flush(None)  # what was printed before is kept
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.close(null)
            yield
        finally:
            flush(None)
            os.dup2(kept, 1)
            os.close(kept)
