"""The concave envelope of each problem's (cost, utility) points: which responses a price can ever choose.

Letters: C candidates, P problems, B breakpoints (steps from one response of a problem to its next on the envelope).
"""

from dataclasses import dataclass

import numpy as np

from ibpo.allocation.given import FloatArray
from ibpo.allocation.ids import IntArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Steps:
    """The steps of all problems, in no particular order between problems, in their order within one.

    Attributes:
        base: `[P]` the candidate that each problem starts from: its cheapest, and the best of these.
        problem: `[B]` index into `base`.
        to: `[B]` the candidate that the step leads to.
        cost: `[B]` what the step costs, above 0.
        gain: `[B]` what it adds to the utility, above 0.
        slope: `[B]` gain / cost; falls within a problem.
    """

    base: IntArray
    problem: IntArray
    to: IntArray
    cost: FloatArray
    gain: FloatArray
    slope: FloatArray


def envelope(problem: IntArray, utility: FloatArray, cost: FloatArray) -> Steps:
    """Steps up the concave envelope of every problem, by repeated removal of points on or below a chord.

    A point on or below the chord of its neighbours, or no better than a cheaper one, is no vertex of the rising
    envelope, whatever else is removed with it: whole sweeps go over all problems at once, until one removes nothing.

    Args:
        problem: `[C]` not decreasing, 0 .. P-1, each at least once.
        utility: `[C]`.
        cost: `[C]`, of any sign.

    Returns:
        The steps with a positive gain, candidates as positions in the arguments.
    """
    order = np.lexsort((-utility, cost, problem))
    p, c = problem[order], cost[order]
    keep = np.ones(len(p), bool)
    keep[1:] = (p[1:] != p[:-1]) | (c[1:] != c[:-1])  # of equal costs the best
    order = order[keep]
    while True:
        p, c, u = problem[order], cost[order], utility[order]
        inner = p[1:] == p[:-1]
        slope = np.full(len(order) + 1, -np.inf)  # slope[i]: from point i - 1 to point i, within a problem
        slope[1:-1][inner] = (u[1:][inner] - u[:-1][inner]) / (c[1:][inner] - c[:-1][inner])
        has_before = np.concatenate([[False], inner])
        has_after = np.concatenate([inner, [False]])
        # Below a chord, or no better than the cheaper point before it.
        drop = has_before & ((slope[:-1] <= 0) | (has_after & (slope[:-1] <= slope[1:])))
        if not drop.any():
            break
        order = order[~drop]
    first = np.concatenate([[True], p[1:] != p[:-1]])
    steps = np.flatnonzero(~first)
    return Steps(
        base=order[first],
        problem=p[steps],
        to=order[steps],
        cost=c[steps] - c[steps - 1],
        gain=u[steps] - u[steps - 1],
        slope=slope[steps],
    )
