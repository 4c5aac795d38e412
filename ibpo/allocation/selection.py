"""Shares of separate sets of problems: the budget goes to the largest gains. Exact by an exchange argument.

Letters: P problems, K budgets.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation.given import FloatArray
from ibpo.allocation.ids import ProblemIds
from ibpo.allocation.runs import IntArray
from ibpo.allocation.shares import Shares


def select(
    shares: Shares, slice_P: IntArray, bounds: list[tuple[float, float]]
) -> tuple[NDArray[np.bool_], FloatArray]:
    """Which problems `[P]` get their best costly response, and the price `[K]`.

    With a_p, b_p the best utility of problem p among its free and its costly responses, its gain is b_p - a_p. Within
    each slice the n largest gains get the costly response, n being the number of positive gains, clipped to what the
    bounds allow. The price is the next gain: what one more would add.
    """
    gain = shares.best[1] - shares.best[0]  # inf where only costly responses exist, -inf where none does
    takes = np.zeros(len(gain), bool)
    price = np.zeros(len(bounds))
    for k, (low, high) in enumerate(bounds):
        inside = None if len(bounds) == 1 else np.flatnonzero(slice_P == k)
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
    count = int(high) if positive > high else int(low) - positive
    # Only gains on the near side of 0 are in question. A large atom at 0, as binary rewards make, slows np.partition
    # down more than a sort would; where there is none, a few more numbers cost less than leaving them out.
    if positive > high and 64 * np.count_nonzero(gain == 0) < len(gain):
        value = gain
    else:
        value = gain[np.flatnonzero(takes if positive > high else ~takes & (gain > -math.inf))]
    if not count:
        return np.zeros(len(gain), bool), max(0.0, float(value.max(initial=0.0)))
    last = len(value) - count
    ordered = np.partition(value, last)
    threshold, below = float(ordered[last]), float(ordered[:last].max(initial=-math.inf))
    price = threshold + 0.0 if positive <= high else max(0.0, below)
    if below < threshold:
        return gain >= threshold, price
    takes = gain > threshold
    room = count - int(np.count_nonzero(ordered[last:] > threshold))
    tied = np.flatnonzero(gain == threshold)
    key = ids.key(tied if problems is None else problems[tied])
    takes[tied[np.argpartition(key, room - 1)[:room]]] = True
    return takes, threshold + 0.0
