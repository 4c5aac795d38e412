"""What do votes and random mixes get at each cost? Curves of accuracy over cost, and the areas under them.

Letters: P problems, C configurations, K points of a curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibpo.evaluation.describe import vote_sizes
from ibpo.evaluation.metrics import area_under_curve, estimate_area, estimate_gain_ratio, mix_at_cost, vote_at_k
from ibpo.evaluation.responses import Responses
from ibpo.evaluation.statistics import Estimate, FloatArray, estimate_rate, problem_means

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteCurve:
    """maj@k of one configuration, K points; none where its responses have no answers to vote on."""

    points: list[Json]
    """`k`, mean `cost`, `accuracy` with interval."""
    accuracy: FloatArray
    """`[K, P]`."""
    cost: FloatArray
    """`[K, P]`."""


def vote_curve(own: Responses, order: Sequence[str], cost_P: FloatArray) -> VoteCurve:
    """The curve of maj@k for k = 1, 2, 3, 4, 5, 8, ...; the order is that of the problems, `cost_P` of one response."""
    if not own.has_votes:
        return VoteCurve(points=[], accuracy=np.zeros((0, len(order))), cost=np.zeros((0, len(order))))
    smallest = int(np.unique(own.problem.astype(str), return_counts=True)[1].min())
    points, accuracy_KP, cost_KP = [], [], []
    for k in sorted({*vote_sizes(smallest), *(k for k in (3, 5) if k <= smallest)}):
        problems, vote_P = vote_at_k(own.problem, own.answer, own.right, k)
        accuracy_P = problem_means(vote_P, problems, order)
        points.append({"k": k, "cost": k * float(cost_P.mean()), "accuracy": estimate_rate(accuracy_P, order)})
        accuracy_KP.append(accuracy_P)
        cost_KP.append(k * cost_P)
    return VoteCurve(points=points, accuracy=np.array(accuracy_KP), cost=np.array(cost_KP))


def gain_over_votes(reward_P: FloatArray, cost_P: FloatArray, votes: VoteCurve, seed: int) -> Estimate | None:
    """The gain ratio against these votes; None where there are none."""
    if len(votes.points) < 2:
        return None
    return estimate_gain_ratio(reward_P, cost_P, votes.accuracy, votes.cost, seed=seed)


def mix_points(cost_CP: FloatArray, reward_CP: FloatArray, among: Sequence[int]) -> list[Json]:
    """The best random mix of configurations on a grid between the cheapest and the dearest, and the straight line."""
    cost_C, reward_C = cost_CP[list(among)].mean(1), reward_CP[list(among)].mean(1)
    low, high = int(cost_C.argmin()), int(cost_C.argmax())
    points = []
    for cost in np.unique(np.concatenate([np.linspace(cost_C[low], cost_C[high], 41), cost_C])):
        at = min(max(float(cost), float(cost_C[low])), float(cost_C[high]))
        part = (at - cost_C[low]) / (cost_C[high] - cost_C[low]) if high != low else 0.0
        line = (1 - part) * reward_C[low] + part * reward_C[high]
        points.append({"cost": at, "best": float(mix_at_cost(cost_C, reward_C, at) @ reward_C), "line": float(line)})
    return points


def areas(
    curves: Mapping[str, tuple[FloatArray, FloatArray]], low: float, high: float, *, mix: str = "", seed: int = 0
) -> list[Json]:
    """The area under each curve between two costs, or between its cheapest and its dearest point where it has less.

    Nothing is extrapolated: a curve that covers a part of the range has the area of that part, and beside it stands
    the area of the curve `mix` over the same part.

    Args:
        curves: Name -> cost `[K, P]` and accuracy `[K, P]`.
        low: Mean cost at which the range begins.
        high: Mean cost at which it ends.
        mix: The curve to stand beside the others, e.g. the random mix; "": none.
        seed: Of the bootstraps.

    Returns:
        `name`, `low`, `high`, `area` and `mix` (None where there is no number); curves of one cost, or nearly so, are
        left out.

    Example:
        >>> flat = np.ones((1, 30))
        >>> line = np.vstack([flat, 3 * flat]), np.vstack([0.5 * flat, 0.7 * flat])
        >>> [row] = areas({"line": line}, 0, 2)
        >>> row["low"], row["high"], round(row["area"].value, 3)
        (1.0, 2, 0.55)
    """
    rows = []
    for name, (cost_KP, accuracy_KP) in curves.items():
        if len(cost_KP) < 2:
            continue
        cost_K = cost_KP.mean(1)
        begin, end = max(low, float(cost_K.min())), min(high, float(cost_K.max()))
        if end <= begin:
            continue
        beside = None
        if mix in curves and name != mix:
            mix_cost_KP, mix_KP = curves[mix]
            reaches = not np.isnan(area_under_curve(mix_cost_KP.mean(1), mix_KP.mean(1), begin, end))
            beside = estimate_area(mix_cost_KP, mix_KP, begin, end, seed=seed) if reaches else None
            beside = beside if beside and np.isfinite(beside.low) else None
        area = estimate_area(cost_KP, accuracy_KP, begin, end, seed=seed)
        if not np.isfinite(area.low):  # its points cost so nearly the same that most draws do not cover the range
            continue
        rows.append({"name": name, "low": begin, "high": end, "area": area, "mix": beside})
    return rows
