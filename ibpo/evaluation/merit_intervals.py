"""How sure are the figures of merit? Their 95 % intervals, over problems drawn with replacement.

Letters: P problems, L levels, D draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ibpo.evaluation.metrics import oracle_by_level, oracle_by_level_at_cost, random_mix
from ibpo.evaluation.statistics import Estimate, FloatArray, bootstrap, rank_correlation
from ibpo.evaluation.store import PerProblem, Problems

Interval = list[float | None] | None


def merit_intervals(
    result: PerProblem,
    forced: Mapping[str, tuple[PerProblem | None, PerProblem | None]],
    problems: Problems,
    *,
    min_gain: float,
    min_room: float,
    num_draws: int,
    seed: int,
) -> dict[str, Interval]:
    """Intervals of the figures of merit that `ibpo.evaluation.merits.figures_of_merit` explains.

    Levels where extended pays, and the oracle's choice, are found anew in every draw.

    Args:
        result: What the policy did.
        forced: `"oracle_share"` (of the cold start) and `"oracle_share_own"` -> forced standard and extended responses.
        problems: Their levels.
        min_gain: A level that gains less is poor.
        min_room: With less room between mix and oracle a draw has no oracle share.
        num_draws: D; below 2 there are no intervals.
        seed: Of the draws.

    Returns:
        `NAME_interval` -> [low, high]; an end without bound is None, and so is an interval that does not exist.
    """
    standard, extended = forced["oracle_share"]
    assert standard is not None and extended is not None
    index = problems.level
    num_levels = len(problems.levels)

    def by_level(weight_P: FloatArray, value_P: FloatArray) -> FloatArray:
        part_L = np.bincount(index, weight_P, num_levels)
        return np.bincount(index, weight_P * value_P, num_levels) / np.maximum(part_L, 1e-12)

    def oracle_share(weight_P: FloatArray, before: PerProblem, after: PerProblem, *, at_cost: bool) -> float:
        part_L = np.bincount(index, weight_P, num_levels)
        low_L, high_L = (by_level(weight_P, one.accuracy) for one in (before, after))
        share = float(weight_P @ result.share)
        if at_cost:
            cheap_L, dear_L = (by_level(weight_P, one.tokens) for one in (before, after))
            tokens, ends = float(weight_P @ result.tokens), [float(part_L @ one) for one in (cheap_L, dear_L)]
            if not ends[0] <= tokens <= ends[1] or ends[0] == ends[1]:
                return float("nan")
            share = (tokens - ends[0]) / (ends[1] - ends[0])
            best, _ = oracle_by_level_at_cost(low_L, high_L, cheap_L, dear_L, part_L, tokens)
        else:
            best, _ = oracle_by_level(low_L, high_L, part_L, share)
        mix = random_mix(float(part_L @ low_L), float(part_L @ high_L), share)
        return (float(weight_P @ result.accuracy) - mix) / (best - mix) if best - mix >= min_room else float("nan")

    def gain(weight_P: FloatArray) -> FloatArray:
        return by_level(weight_P, extended.accuracy) - by_level(weight_P, standard.accuracy)

    def waste(weight_P: FloatArray) -> float:
        poor_P = (gain(weight_P) < min_gain)[index]
        spent = float(weight_P @ result.share)
        return float(weight_P @ (result.share * poor_P)) / spent if spent > 1e-9 else float("nan")

    def correlation(weight_P: FloatArray) -> float:
        there = np.bincount(index, weight_P, num_levels) > 0
        return rank_correlation(by_level(weight_P, result.share)[there], gain(weight_P)[there])

    def one_by_one(value: Callable[[FloatArray], float]) -> Callable[[FloatArray], FloatArray]:
        return lambda weight_DP: np.array([value(weight_P) for weight_P in weight_DP])

    def ratio(above_P: FloatArray, below_P: FloatArray) -> Callable[[FloatArray], FloatArray]:
        return lambda weight_DP: (weight_DP @ above_P) / np.maximum(weight_DP @ below_P, 1e-12)

    statistics: dict[str, Callable[[FloatArray], FloatArray]] = {
        "accuracy": lambda weight_DP: weight_DP @ result.accuracy,
        "share": lambda weight_DP: weight_DP @ result.share,
        "relative_cost": ratio(result.tokens, standard.tokens),
        "retained": ratio(result.accuracy, extended.accuracy),
        "rank_correlation": one_by_one(correlation),
        "waste": one_by_one(waste),
        "oracle_share_tokens": one_by_one(lambda w: oracle_share(w, standard, extended, at_cost=True)),
    }
    for name, (before, after) in forced.items():
        if before is not None and after is not None:
            statistics[name] = one_by_one(lambda w, b=before, a=after: oracle_share(w, b, a, at_cost=False))
    return {
        f"{name}_interval": interval(bootstrap(statistic, len(index), num_draws=num_draws, seed=seed))
        if num_draws > 1
        else None
        for name, statistic in statistics.items()
    }


def interval(estimate: Estimate) -> Interval:
    """[low, high]; an end without bound is None, and so is an interval that does not exist."""
    ends = [estimate.low, estimate.high]
    if any(np.isnan(end) for end in ends):
        return None
    return [float(end) if np.isfinite(end) else None for end in ends]
