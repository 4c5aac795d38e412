"""Shares of separate sets of problems: the budget goes to the largest gains. Exact by an exchange argument.

Letters: C candidates, P problems, K budgets.
"""

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation.ids import IntArray, ProblemIds
from ibpo.allocation.problem import AllocationProblem, FloatArray, cheapest_of


def separate_shares(instance: AllocationProblem) -> IntArray | None:
    """`[P]` the one budget that each problem's candidates can spend (-1: none), or None where that is not so.

    One 0/1 cost is such a case, and so is a 0/1 cost per slice where every problem lies in one slice.
    """
    if not instance.shares:
        return None
    if len(instance.cost) == 1:
        return np.zeros(instance.num_problems, np.int64)
    slice_P = np.full(instance.num_problems, -1)
    for k, row in enumerate(instance.cost):
        touched = np.maximum.reduceat(row, instance.start) > 0
        if (slice_P[touched] >= 0).any():
            return None
        slice_P[touched] = k
    return slice_P


def select(instance: AllocationProblem, slice_P: IntArray) -> tuple[IntArray, FloatArray]:
    """The optimal candidates `[P]` and the price `[K]`.

    With a_p, b_p the best utility of problem p among its free and its costly candidates, its gain is b_p - a_p. Within
    each slice the n largest gains get the costly candidate, n being the number of positive gains, clipped to what the
    bounds allow. The price is the next gain: what one more would add.
    """
    costly_C = instance.cost[0] > 0 if len(instance.cost) == 1 else instance.cost.any(axis=0)
    free, costly = (
        np.maximum.reduceat(np.where(side, instance.utility, -np.inf), instance.start) for side in (~costly_C, costly_C)
    )
    with np.errstate(invalid="ignore"):
        gain = costly - free  # inf where only costly candidates exist, -inf where none does
    takes_P = np.zeros(instance.num_problems, bool)
    price = np.zeros(len(instance.cost))
    for k in range(len(instance.cost)):
        inside = None if len(instance.cost) == 1 else np.flatnonzero(slice_P == k)
        gain_k = gain if inside is None else gain[inside]
        takes, price[k] = _largest(gain_k, inside, instance.ids, *instance.bounds(k))
        takes_P[... if inside is None else inside] = takes
    wanted = instance.spread(np.where(takes_P, costly, free))
    hits = np.flatnonzero((instance.utility == wanted) & (instance.spread(takes_P) == costly_C))
    return cheapest_of(instance, hits), price


def _largest(
    gain: FloatArray, problems: IntArray | None, ids: ProblemIds, low: float, high: float
) -> tuple[NDArray[np.bool_], float]:
    """Which of the gains are taken, and the price."""
    positive = int(np.count_nonzero(gain > 0))
    if low <= positive <= high:
        return gain > 0, 0.0
    count = int(high if positive > high else low)
    # Only gains on the near side of 0 are in question. A large atom at 0, as binary rewards make, slows np.partition
    # down more than a sort would.
    open_ = np.flatnonzero(gain > 0) if positive > high else np.flatnonzero((gain <= 0) & (gain > -np.inf))
    takes = np.zeros(len(gain), bool) if positive > high else gain > 0
    value = gain[open_]
    count -= int(takes.sum())
    threshold = np.partition(value, len(value) - count)[len(value) - count] if count else np.inf
    takes[open_[value > threshold]] = True
    tied = open_[value == threshold]
    room = count - int(np.count_nonzero(value > threshold))
    if room:
        key = ids.key(tied if problems is None else problems[tied])
        takes[tied[np.argpartition(key, room - 1)[:room]] if room < len(tied) else tied] = True
    if positive <= high:
        return takes, float(threshold)
    if room < len(tied):
        return takes, float(threshold)
    below = value[value < threshold]
    return takes, max(0.0, float(below.max())) if len(below) else 0.0
