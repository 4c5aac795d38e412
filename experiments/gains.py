"""What every row gains, whatever it is made of: against self-consistency, and against the oracle, at its own cost.

Letters: P problems, L levels, K points of a curve, D bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ibpo.evaluation.merits import MIN_ROOM
from ibpo.evaluation.metrics import estimate_gain_ratio, oracle_by_level_at_cost, random_mix
from ibpo.evaluation.statistics import FloatArray, estimate_from_draws
from ibpo.evaluation.store import PerProblem, Problems

Interval = dict[str, float | None]


class Yardsticks:
    """Standard only, extended only and the votes of one seed, drawn once for all rows that are held against them."""

    def __init__(
        self,
        standard: PerProblem,
        extended: PerProblem,
        problems: Problems,
        votes: Mapping[str, tuple[FloatArray, FloatArray]],
        *,
        num_draws: int = 500,
        seed: int = 0,
    ) -> None:
        """Draw problems with replacement.

        Args:
            standard: Forced standard responses of the cold start.
            extended: Forced extended responses of the cold start.
            problems: Their levels.
            votes: Model -> accuracy `[K, P]` and tokens `[K, P]` of maj@1, maj@2, ...
            num_draws: Bootstrap draws.
            seed: Of the draws.
        """
        num = len(problems.level)
        self.votes, self.seed = votes, seed
        # The first is not drawn: every problem once, which gives the value itself.
        drawn_DP = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), num_draws)
        self.weight_DP = np.vstack([np.ones((1, num)), drawn_DP]) / num
        member_PL = np.eye(len(problems.levels))[problems.level]
        self.part_DL = self.weight_DP @ member_PL
        self.level_DL = [
            (self.weight_DP @ (member_PL * value[:, None])) / np.maximum(self.part_DL, 1e-12)
            for value in (standard.accuracy, extended.accuracy, standard.tokens, extended.tokens)
        ]

    def of(self, result: PerProblem) -> dict[str, Any]:
        """Figures of one row, at its own mean tokens.

        `gain_ratio_MODEL` of each model with votes, and `oracle_share_tokens`, as `figures_of_merit` defines them, and
        `above_random_mix`, accuracy less that of the random mix of standard only and extended only that costs the same.
        Each is `value`, `low` and `high` (95 %, problems drawn with replacement; None for an end without bound), or
        None where the number does not exist.
        """
        found: dict[str, Interval | None] = {}
        for model, (accuracy_KP, tokens_KP) in self.votes.items():
            with np.errstate(invalid="ignore"):  # where votes gain next to nothing some draws are infinite
                ratio = estimate_gain_ratio(result.accuracy, result.tokens, accuracy_KP, tokens_KP, seed=self.seed)
            found[f"gain_ratio_{model}"] = _told(ratio.value, ratio.low, ratio.high)
        return found | self._against_mix(result)

    def _against_mix(self, result: PerProblem) -> dict[str, Interval | None]:
        accuracy_D, tokens_D = self.weight_DP @ result.accuracy, self.weight_DP @ result.tokens
        num = len(result.accuracy)
        above_D, share_D = np.full((2, len(accuracy_D)), np.nan)
        for d, part_L in enumerate(self.part_DL):
            acc0_L, acc1_L, cost0_L, cost1_L = (value_DL[d] for value_DL in self.level_DL)
            low, high = float(part_L @ cost0_L), float(part_L @ cost1_L)
            # Rounding must not take its number away from what lies at an end.
            at = min(max(tokens_D[d], low), high)
            if not low < high or abs(at - tokens_D[d]) > 1e-9 * high:
                continue
            mix = random_mix(float(part_L @ acc0_L), float(part_L @ acc1_L), (at - low) / (high - low))
            room = oracle_by_level_at_cost(acc0_L, acc1_L, cost0_L, cost1_L, part_L, at)[0] - mix
            above_D[d] = accuracy_D[d] - mix
            share_D[d] = above_D[d] / room if room >= MIN_ROOM else np.nan
        return {"above_random_mix": _interval(above_D, num), "oracle_share_tokens": _interval(share_D, num)}


def _interval(value_D: FloatArray, num_problems: int) -> Interval | None:
    """Of the first, which is not drawn, and the percentiles of the rest; no ends where one in twenty does not exist."""
    found = estimate_from_draws(float(value_D[0]), value_D[1:], num_problems)
    return _told(found.value, found.low, found.high)


def _told(value: float, low: float, high: float) -> Interval | None:
    """Plain numbers for JSON."""
    if not np.isfinite(value):
        return None
    return {
        name: float(end) if np.isfinite(end) else None for name, end in (("value", value), ("low", low), ("high", high))
    }


def spoken(one: Interval | None, form: str = "{:.2f}", times: float = 1.0) -> str:
    """A figure with its interval, as tables show it.

    Example:
        >>> spoken({"value": 1.234, "low": 0.5, "high": None}), spoken(None)
        ('1.23 (0.50 to –)', '–')
    """
    if one is None:
        return "–"
    value, low, high = ("–" if x is None else form.format(times * x) for x in (one["value"], one["low"], one["high"]))
    return f"{value} ({low} to {high})"
