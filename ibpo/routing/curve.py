"""A router as the literature judges it: quality over calls and over cost. P problems, G response groups."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import frontier
from ibpo.evaluation import estimate_from_draws
from ibpo.routing.features import FloatArray
from ibpo.routing.fit import RoutedLog
from ibpo.routing.router import Scores

_QUANTILES = 10


def judge_curve(table: RoutedLog, scores: Scores, *, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    r"""APGR, CPT(50) and AIQ of scores by routers that had not seen the problem.

    `apgr` and `cpt_50` are RouteLLM's (Ong et al., arXiv 2406.18665), between the cheapest response group (weak) and
    the most expensive (strong): the share of calls to the strong one is raised in ten steps by the predicted gain, and
    with A the area under the reward over that share, APGR = (A - weak) / (strong - weak): a blind draw has .5. CPT(50)
    is the share of strong calls at which half of the gap is closed. None where the strong one is not better.

    `aiq` is RouterBench's (Hu et al., arXiv 2403.12031) over all response groups: the mean height, over the costs from
    the cheapest group's to the most expensive's, of the non-decreasing concave hull of (cost, reward) that the choices
    reach; `aiq_of_mix` is that of the constant policies alone. `quality_at_cost` is the hull at a quarter, half and
    three quarters of the way.

    Args:
        table: The log.
        scores: Scores of its problems.
        draws: Bootstrap draws over problems for the `*_interval`, equal prompts together.
        seed: Decides them.
    """
    choices = price_choices(scores)
    every = np.arange(len(table.problems))
    got, paid = table.reward[every, choices], table.cost[every, choices]

    def figures(rows: NDArray[np.int64]) -> list[float]:
        reward, cost = table.reward[rows], table.cost[rows]
        apgr, cpt = _apgr(scores.gain[rows, -1], reward[:, 0], reward[:, -1])
        low, high = float(cost.mean(axis=0).min()), float(cost.mean(axis=0).max())
        constant = [(float(c), float(r)) for c, r in zip(cost.mean(axis=0), reward.mean(axis=0), strict=True)]
        reached = constant + list(
            zip(paid[:, rows].mean(axis=1).tolist(), got[:, rows].mean(axis=1).tolist(), strict=True)
        )
        at = [hull_at(reached, low + part * (high - low)) for part in (0.25, 0.5, 0.75)]
        return [apgr, cpt, mean_height(reached, low, high), mean_height(constant, low, high), *at]

    names = ("apgr", "cpt_50", "aiq", "aiq_of_mix")
    size = len(set(table.alike().tolist()))
    found = figures(every)
    drawn = np.array([figures(some) for some in table.draws(draws, seed)])
    result: dict[str, Any] = {}
    for i, name in enumerate(names):
        result[name] = None if np.isnan(found[i]) else found[i]
        estimate = estimate_from_draws(found[i], drawn[:, i], size)
        low, high = estimate.low, estimate.high
        result[f"{name}_interval"] = None if np.isnan(found[i]) or np.isnan(low) else [low, high]
    result["quality_at_cost"] = found[4:]
    return result


def _apgr(gain: FloatArray, weak: FloatArray, strong: FloatArray) -> tuple[float, float]:
    """APGR and CPT(50); NaN without a gap."""
    gap = float(strong.mean() - weak.mean())
    # Sums of the same numbers in another order: what differs by rounding is equal.
    close = 1e-9 * float(np.abs(strong).max() + np.abs(weak).max())
    if gap <= close:
        return float("nan"), float("nan")
    # Falling gain; problems of equal gain are drawn blindly, so each of them gets what they get on average.
    _, tie = np.unique(-gain, return_inverse=True)
    mean = np.bincount(tie, strong - weak) / np.bincount(tie)
    total = np.concatenate([[0.0], np.cumsum(mean[np.sort(tie)])]) / len(gain)
    share = np.linspace(0, 1, _QUANTILES + 1)
    closed = np.interp(share * len(gain), np.arange(len(total)), total) / gap  # part of a problem: drawn so often
    half = np.flatnonzero(total >= gap / 2 - close)
    return float(np.trapezoid(closed, share)), float(half[0] / len(gain))


def price_choices(scores: Scores) -> NDArray[np.int64]:
    """`[21, P]` what is chosen at 21 prices between what is never and always worth it."""
    gain, cost = scores
    size, width = gain.shape
    told = frontier(gain.ravel(), np.repeat(np.arange(size), width), cost.ravel())
    least = float(cost.min(axis=1).mean())
    means = np.linspace(least, float(cost[np.arange(size), gain.argmax(axis=1)].mean()), 21)
    bids = [told.at(max(mean, least * (1 + 1e-12))).price for mean in means.tolist()]
    # A price of the frontier is where some problem's two groups are worth the same: which of them comes out larger is
    # rounding, and differs between processors. The cheaper one then.
    close = 1e-9 * float(np.abs(gain).max(initial=0.0))
    worth = [gain - bid * cost for bid in bids]
    kept = [np.where(net >= net.max(axis=1, keepdims=True) - close, cost, np.inf) for net in worth]
    return np.array([np.argmin(costs, axis=1) for costs in kept])


def hull_at(points: list[tuple[float, float]], cost: float) -> float:
    """The height of the points' non-decreasing concave hull at a cost."""
    hull = _hull(points)
    return float(np.interp(cost, [x for x, _ in hull], [y for _, y in hull]))


def mean_height(points: list[tuple[float, float]], low: float, high: float) -> float:
    """The hull's mean height between two costs."""
    grid = np.linspace(low, high, 201)
    hull = _hull(points)
    return float(np.interp(grid, [x for x, _ in hull], [y for _, y in hull]).mean())


def _hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The non-decreasing concave hull, from the cheapest point on."""
    hull: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if hull and y <= hull[-1][1]:
            continue
        while len(hull) >= 2 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) <= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    return hull
