"""Nested or disjoint shares of very many problems: prices from samples and order statistics leave a few problems open.

Letters: P problems, K shares, G kinds of responses, N problems that are looked at.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation.dual import prices
from ibpo.allocation.exact_sum import exact_sum
from ibpo.allocation.given import FloatArray
from ibpo.allocation.limits import Limits
from ibpo.allocation.runs import IntArray, slices_of
from ibpo.allocation.shares import Shares

SMALL = 300
"""Problems up to which nothing is narrowed: HiGHS takes them as they are."""
MOST = 3_000
"""Problems that HiGHS still takes where the prices cannot be narrowed."""
SAMPLE = 32_768
"""Problems that say where the prices of more of them are."""
RANKS = 24
"""By how many problems a share may be off, where all of them are looked at."""
MAX_TURNS = 40
COLUMNS = 8_192
"""Problems of a block: G rows of them stay in the cache."""


def transport(shares: Shares, limits: Limits) -> tuple[NDArray[np.uint8], FloatArray, FloatArray] | None:
    """The optimal kind `[P]`, prices `[K]` and utilities `[P]`, or None where this way does not lead to the end.

    Prices decide: at price y a problem takes the kind with the largest utility - y . uses. A sample gives prices y by
    turns, each the order statistic at which its share is filled given the others, and how many ranks it can be off. A
    problem that takes the same kind throughout that box of prices is settled; what is left gives a smaller box, now
    without sampling, and the few problems that it leaves open go to HiGHS with what is left of the bounds. Are HiGHS's
    prices inside the box, they are optimal for all problems: settled ones stay as they are.
    """
    num_problems = shares.runs.num_problems
    if num_problems <= SMALL or not shares.laminar:
        return None
    bounds = np.array([limits.bounds(k) for k in range(shares.num_shares)])
    for care in (1.0, 4.0, 16.0):
        best, open_ = shares.best, None
        pick, used = np.zeros(num_problems, np.uint8), np.zeros(shares.num_shares)
        floor, ceiling = np.full((2, shares.num_shares), np.inf) * [[-1], [1]]
        while best.shape[1] > SMALL:
            floor, ceiling = _box(shares, best, open_, bounds - used[:, None], floor, ceiling, care)
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
            best = best[:, left]
        price = np.where(np.isfinite(floor) & np.isfinite(ceiling), (floor + ceiling) / 2, 0.0)
        if open_ is not None and len(open_):
            rest = Limits(
                low=tuple(None if b is None else b - int(n) for b, n in zip(limits.low, used, strict=True)),
                high=tuple(b - int(n) for b, n in zip(limits.high, used, strict=True)),
                whole=limits.whole,
            )
            instance, kind = shares.candidates(rest, open_)
            price, chosen = prices(instance)
            if chosen is None or not instance.all_fit(chosen):
                continue
            pick[open_] = kind[chosen]
        values = shares.values(pick)
        value = exact_sum(values)
        if _bound(shares, price, bounds) - value <= 1e-9 * (float(np.ptp(values)) + abs(value)):
            return pick, price, values
    return None


def _box(
    shares: Shares,
    best: FloatArray,
    problems: IntArray | None,
    bounds: FloatArray,
    floor: FloatArray,
    ceiling: FloatArray,
    care: float,
) -> tuple[FloatArray, FloatArray]:
    """Prices `[K]` below and above the optimal ones, as far as a sample (or all of these problems) can tell."""
    size, off = best.shape[1], RANKS * care
    if size > 2 * SAMPLE:
        best = best[:, (shares.ids if problems is None else shares.ids.of(problems)).sample(SAMPLE)]
        sampled = best.shape[1]
        part = np.clip(bounds / size, 0, 1)
        spread = np.sqrt(sampled * part * (1 - part))  # of a count in the sample
        bounds, off = bounds * (sampled / size), care * (6.0 * spread.max(axis=1) + RANKS / 6)
    low, high = bounds.T
    off = np.broadcast_to(off, low.shape)
    price = (floor + ceiling) / 2 if np.isfinite([floor, ceiling]).all() else np.zeros(len(bounds))
    gain = [np.zeros(0)] * len(bounds)
    for _ in range(MAX_TURNS):
        misses = np.zeros(len(bounds))
        for k in range(len(bounds)):
            before, price[k] = price[k], 0.0
            net = best - (price @ shares.uses)[:, None]
            inside = shares.uses[k] > 0
            gain[k] = net[inside].max(axis=0) - net[~inside].max(axis=0)
            price[k] = np.clip(_price(gain[k], low[k], high[k]), floor[k], ceiling[k])
            between = (gain[k] > min(before, price[k])) & (gain[k] <= max(before, price[k]))
            misses[k] = np.count_nonzero(between)
        if (misses <= off / 8).all():
            break
        _shift(best, shares.uses, price, low, high)
    ends = [
        (_price(gain[k], low[k] + off[k], high[k] + off[k]), _price(gain[k], low[k] - off[k], high[k] - off[k]))
        for k in range(len(bounds))
    ]
    lower, upper = np.array(ends).T
    width = 1e-9 * (1.0 + np.abs(price))  # a price may be one number: a tie
    return np.maximum(floor, lower - width), np.minimum(ceiling, upper + width)


def _shift(best: FloatArray, uses: FloatArray, price: FloatArray, low: FloatArray, high: FloatArray) -> None:
    """Move the prices that bind together: one by one they would follow each other in small steps."""
    up = price > 0
    count = up @ uses
    if np.count_nonzero(up) < 2 or set(count.tolist()) != {0.0, 1.0}:
        return
    net = best - (price @ uses)[:, None]
    gain = net[count > 0].max(axis=0) - net[count == 0].max(axis=0)
    total = float(high[up].sum())
    place = len(gain) - 1 - math.floor(total)
    if 0 <= place < len(gain):
        step = float(np.partition(gain, place)[place])
        price[up] += max(step, -float(price[up].min())) if math.isfinite(step) else 0.0


def _price(gain: FloatArray, low: float, high: float) -> float:
    """The price at which between `low` and `high` of the gains are above it: the one nearest to 0."""
    positive = np.count_nonzero(gain > 0)
    if positive > high:
        rank = max(0, math.floor(high))
    elif positive < low:
        rank = min(len(gain), math.ceil(low)) - 1
    else:
        return 0.0
    place = len(gain) - 1 - rank
    found = float(np.partition(gain, place)[place])
    if math.isinf(found):
        inside = gain[np.isfinite(gain)]
        ends = (float(inside.min()), float(inside.max())) if len(inside) else (0.0, 0.0)
        return max(0.0, ends[1]) if found > 0 else min(0.0, ends[0])
    return found


def _settle(
    best: FloatArray, uses: FloatArray, floor: FloatArray, ceiling: FloatArray
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """`[N]` a kind that is best somewhere in the box of prices, and whether there may be several such."""
    middle, half = (floor + ceiling) / 2 @ uses, (ceiling - floor) / 2 @ uses
    kind, several = np.empty(best.shape[1], np.uint8), np.empty(best.shape[1], bool)
    for first in range(0, best.shape[1], COLUMNS):
        block = best[:, first : first + COLUMNS]
        sure = (block - (middle + half)[:, None]).max(axis=0)
        sure -= 1e-12 * (1.0 + np.abs(sure))
        count, which = np.zeros((2, block.shape[1]), np.uint8)
        for g, row in enumerate(block):
            able = (row - (middle[g] - half[g]) >= sure).view(np.uint8)
            count += able
            which |= able * np.uint8(g)
        kind[first : first + COLUMNS] = which
        several[first : first + COLUMNS] = count > 1
    return kind, several


def _bound(shares: Shares, price: FloatArray, bounds: FloatArray) -> float:
    """What no allocation exceeds: the dual function at these prices."""
    net = price @ shares.uses
    top = np.empty(shares.best.shape[1])
    for rows in slices_of(len(top)):
        np.subtract(shares.best[0, rows], net[0], out=top[rows])
        for g in range(1, len(net)):
            np.maximum(top[rows], shares.best[g, rows] - net[g], out=top[rows])
    paid = [p * (high if p > 0 else low) for p, (low, high) in zip(price.tolist(), bounds.tolist(), strict=True) if p]
    return math.fsum([exact_sum(top), *paid])
