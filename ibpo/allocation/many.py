"""Many problems of one shape and one cost at once: what each half of a log chooses (`ibpo.allocation.holdout`).

For each of H halves, with P problems and G response groups and everything in whole numbers,

    maximise sum_p utility_p,pick    subject to    sum_p cost_p,pick <= high.

As in `ibpo.allocation.lagrangian`: a price at which D is least, then the choice among the candidates of small regrets.
The prices of all halves are found together: D of one price is a maximum of planes v - y total, and the crossing of the
two around the minimum says where to look next, until no plane lies above it.
"""

import math
from fractions import Fraction

import numpy as np

from ibpo.allocation.search import Row, States
from ibpo.allocation.segments import FloatArray, IntArray

MOST_PASSES = 100
"""Rarely are more than a dozen needed."""
FIRST = 120
"""Candidates of a first search, of which most halves need no second; each further one has twice as many."""
FEW = 50_000
"""States of a search."""
LARGEST = 2**52
"""Sums of whole numbers that floats hold exactly."""


def whole(means: FloatArray, count: FloatArray, places: int | None) -> tuple[IntArray, int] | None:
    """Means of numbers with so many decimal places as whole numbers, and what one of them stands for, 1 / that.

    A mean of n such numbers is a multiple of 1 / (n 10^places). None where that is too much for floats.
    """
    if places is None or not (count > 0).all():
        return None
    scale = math.lcm(*np.unique(count).astype(int).tolist()) * 10**places
    if float(np.abs(means).max()) * scale * means.shape[-2] > LARGEST:
        return None
    return np.rint(means * scale).astype(np.int64), scale


def choose_each(utility: IntArray, cost: IntArray, high: Fraction) -> tuple[IntArray, list[int]]:
    """The best pick `[H, P]` of each half, -1 where none keeps the bound; and the halves that stay unsolved.

    Args:
        utility: `[H, P, G]`.
        cost: `[H, P, G]`, of any sign.
        high: Bound on the total cost of each half.
    """
    least = cost.min(2)
    cost = cost - least[:, :, None]
    room = np.array([math.floor(high) - int(x) for x in least.sum(1)])
    pick = np.full(least.shape, -1, np.int64)
    loss = utility.max(2, keepdims=True) - utility
    free = _best(loss, cost, np.zeros(len(pick)))
    fits = _sums(cost, free) <= room
    pick[fits] = free[fits]
    left = np.flatnonzero(~fits & (room >= 0))
    if not len(left):
        return pick, []
    unsolved: list[int] = []
    price = _prices(loss[left], cost[left], room[left])
    score = loss[left] + price[:, None, None] * cost[left]  # what choosing a candidate loses, its cost paid for
    regret = score - score.min(2, keepdims=True)
    base = _best(loss[left], cost[left], price)
    order = np.sort(regret.reshape(len(left), -1), axis=1)[:, len(pick[0]) :]
    for i, h in enumerate(left.tolist()):
        found = _searched(loss[h], cost[h], int(room[h]), float(price[i]), score[i], regret[i], base[i], order[i])
        if found is None:
            unsolved.append(h)
        else:
            pick[h] = found
    return pick, unsolved


def _sums(values: IntArray, pick: IntArray) -> IntArray:
    """`[H]` the sums of what is picked."""
    return np.take_along_axis(values, pick[:, :, None], 2)[:, :, 0].sum(1)


def _best(loss: IntArray, cost: IntArray, price: FloatArray) -> IntArray:
    """`[H, P]` the candidates of the smallest loss + price cost; of equal ones the cheapest, then the first."""
    pick = np.zeros(loss.shape[:2], np.int64)
    score, spent = loss[:, :, 0] + price[:, None] * cost[:, :, 0], cost[:, :, 0]
    for g in range(1, loss.shape[2]):  # numpy's minimum over a last axis of a few takes ten times as long
        new = loss[:, :, g] + price[:, None] * cost[:, :, g]
        better = (new < score) | ((new == score) & (cost[:, :, g] < spent))
        pick[better] = g
        score, spent = np.where(better, new, score), np.where(better, cost[:, :, g], spent)
    return pick


def _prices(loss: IntArray, cost: IntArray, room: IntArray) -> FloatArray:
    """`[H]` prices at which the picks of smallest loss + price cost change from too expensive to not."""
    every = np.zeros(len(room))
    # The two planes: at price 0, which overspends, and at a price that only the cost counts at.
    low, high = _best(loss, cost, every), np.where(cost == 0, loss, np.iinfo(np.int64).max).argmin(2)
    lost, spent = (np.stack([_sums(x, p) for p in (low, high)]).astype(float) for x in (loss, cost))
    price, going = every, np.arange(len(room))
    for _ in range(MOST_PASSES):
        # Where the planes lost + y spent of both cross: there D is least, if no third plane lies below.
        price[going] = (lost[1] - lost[0])[going] / (spent[0] - spent[1])[going]
        pick = _best(loss[going], cost[going], price[going])
        new_lost, new_spent = _sums(loss[going], pick).astype(float), _sums(cost[going], pick).astype(float)
        value = new_lost + price[going] * new_spent
        crossing = lost[0, going] + price[going] * spent[0, going]
        better = value < crossing - 1e-12 * np.abs(crossing) - 1e-9
        over = new_spent > room[going]
        for side, some in ((0, better & over), (1, better & ~over)):
            lost[side, going[some]], spent[side, going[some]] = new_lost[some], new_spent[some]
        going = going[better]
        if not len(going):
            break
    return price


def _searched(
    loss: IntArray,
    cost: IntArray,
    room: int,
    price: float,
    score: FloatArray,
    regret: FloatArray,
    base: IntArray,
    order: FloatArray,
) -> IntArray | None:
    """`[P]` the best pick of one half, or None where that would take too long.

    No choice that needs a candidate with a regret above `reach` loses less than least + reach, where least =
    sum_p min_c (loss_c + price cost_c) - price room.
    """
    every = np.arange(len(base))
    least = math.fsum([*score[every, base].tolist(), -price * room])
    dust = 1e-9 + 1e-12 * float(np.abs(score).sum())
    base_loss, base_cost = loss[every, base], cost[every, base]
    size = FIRST
    while True:
        reach = float(order[size - 1]) if size <= len(order) else math.inf
        inside = regret <= reach + dust  # the base among them: its regret is 0
        count = inside.sum(1)
        open_ = np.flatnonzero(count > 1)
        p, g = np.nonzero(inside[open_])
        picked_loss, picked_cost = loss[open_[p], g], cost[open_[p], g]
        fixed_loss = int(base_loss.sum() - base_loss[open_].sum())
        rest = room - int(base_cost.sum() - base_cost[open_].sum())
        if rest >= 0:
            row = Row(cost=picked_cost, low=None, high=rest, slope=price)
            most = None if math.isinf(reach) else math.floor(least + reach - fixed_loss) + 1
            states = States(picked_loss, [row], np.cumsum(count[open_]) - count[open_], open_, most)
            found, done = states.run(FEW, math.inf)
            if not done:
                return None
            if found is not None:
                pick = base.copy()
                pick[open_[p[found]]] = g[found]
                return pick
        if math.isinf(reach):
            return None
        size *= 2
