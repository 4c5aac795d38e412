r"""Of what choosing by level could gain over a blind draw at the same cost, which part does a configuration gain?

    oracle share = (a - mix(c)) / (oracle - mix)

with a and c the accuracy and mean cost of the configuration, the mix a blind draw between the cheapest and the dearest
of the others, and the oracle one that knows what both get on each level (on each problem, where levels have no names).
The oracle's optimism is removed: one half of each problem's responses decides, the other half says what that is worth,
and what a blind draw of the same cost gets. Problems without a response in each half are left out.

Letters: P problems, L levels, D draws, H the two halves, G cheapest and dearest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ibpo.evaluation.metrics import oracle_by_level_at_cost
from ibpo.evaluation.responses import Responses
from ibpo.evaluation.statistics import Estimate, FloatArray, bootstrap

MIN_ROOM = 0.005
"""With less room than this between random mix and oracle, a share of it is noise and does not exist."""
NUM_DRAWS = 500


class OracleShare:
    """The oracle between two configurations, for all that stand between them."""

    def __init__(self, cheapest: Responses, dearest: Responses, order: Sequence[str], cost: FloatArray) -> None:
        """Halve the responses of both by turns.

        Args:
            cheapest: All its responses.
            dearest: All its responses.
            order: The P problems.
            cost: `[2, P]` mean cost of both, for halves whose cost is unknown.
        """
        halves = [_halves(one, order) for one in (cheapest, dearest)]
        reward_HGP, cost_HGP = (np.array([[half[h][i] for half in halves] for h in range(2)]) for i in range(2))
        self.keep_P = ~np.isnan(reward_HGP).any((0, 1))
        self.reward_HGP = reward_HGP[:, :, self.keep_P]
        self.cost_HGP = np.where(np.isnan(cost_HGP), cost, cost_HGP)[:, :, self.keep_P]
        level_of = {str(p): str(level) for p, level in zip(cheapest.problem, cheapest.level, strict=True)}
        names, level_P = np.unique([level_of[name] for name in order], return_inverse=True)
        self.is_by_level = len(names) > 1
        self.level_P = level_P[self.keep_P] if self.is_by_level else np.arange(int(self.keep_P.sum()))

    def of(self, reward_P: FloatArray, cost_P: FloatArray, *, seed: int = 0) -> Estimate | None:
        """The oracle share of one configuration and its interval.

        None where it costs no more than the cheapest or no less than the dearest, and where the oracle is no better
        than a blind draw.
        """
        reward_P, cost_P = reward_P[self.keep_P], cost_P[self.keep_P]
        if not self.keep_P.any() or not self._ends(np.full(len(cost_P), 1 / len(cost_P)), float(cost_P.mean())):
            return None

        def statistic(weight_DP: FloatArray) -> FloatArray:
            return np.array([self._share(weight_P, reward_P, cost_P) for weight_P in weight_DP])

        found = bootstrap(statistic, len(reward_P), num_draws=NUM_DRAWS, seed=seed)
        return None if np.isnan(found.value) else found

    def _ends(self, weight_P: FloatArray, cost: float) -> bool:
        low, high = (self.cost_HGP.mean(0) @ weight_P).tolist()
        return low < cost < high

    def _share(self, weight_P: FloatArray, reward_P: FloatArray, cost_P: FloatArray) -> float:
        cost = float(weight_P @ cost_P)
        if not self._ends(weight_P, cost):
            return float("nan")
        num_levels = int(self.level_P.max()) + 1
        part_L = np.bincount(self.level_P, weight_P, num_levels)
        reward_HGL, cost_HGL = (
            np.array([[np.bincount(self.level_P, weight_P * one_P, num_levels) for one_P in half] for half in halves])
            / np.maximum(part_L, 1e-12)
            for halves in (self.reward_HGP, self.cost_HGP)
        )
        room = 0.0
        for decides, values in ((0, 1), (1, 0)):
            # Where this half's cheapest responses cost more than the budget, there is nothing to decide.
            _, x_L = oracle_by_level_at_cost(
                reward_HGL[decides, 0], reward_HGL[decides, 1], cost_HGL[decides, 0], cost_HGL[decides, 1], part_L, cost
            )
            x_L = np.nan_to_num(x_L)
            reward_GL, cost_GL = reward_HGL[values], cost_HGL[values]
            worth, spent = (float(part_L @ (one[0] + x_L * (one[1] - one[0]))) for one in (reward_GL, cost_GL))
            room += (worth - _line(reward_GL @ part_L, cost_GL @ part_L, spent)) / 2
        if room < MIN_ROOM:
            return float("nan")
        ends = self.reward_HGP.mean(0) @ weight_P, self.cost_HGP.mean(0) @ weight_P
        return (float(weight_P @ reward_P) - _line(*ends, cost)) / room


def _line(reward_G: FloatArray, cost_G: FloatArray, cost: float) -> float:
    """What a blind draw between the two gets at a mean cost."""
    part = (cost - cost_G[0]) / (cost_G[1] - cost_G[0]) if cost_G[1] != cost_G[0] else 0.0
    return float((1 - part) * reward_G[0] + part * reward_G[1])


def _halves(own: Responses, order: Sequence[str]) -> list[tuple[FloatArray, FloatArray]]:
    """Mean reward and mean cost `[P]` of the first, third, ... response to each problem, and of the others."""
    at = {name: p for p, name in enumerate(order)}
    p_N = np.array([at[str(name)] for name in own.problem.tolist()])
    turn_N = _turns(p_N)
    return [tuple(_mean(value, p_N, turn_N % 2 == h, len(order)) for value in (own.reward, own.tokens)) for h in (0, 1)]  # pyright: ignore[reportReturnType]


def _turns(p_N: NDArray[np.intp]) -> NDArray[np.intp]:
    """Which of its problem's responses each one is, from 0."""
    order = np.argsort(p_N, kind="stable")
    _, first, count = np.unique(p_N[order], return_index=True, return_counts=True)
    turn_N = np.empty(len(p_N), dtype=np.intp)
    turn_N[order] = np.arange(len(p_N)) - np.repeat(first, count)
    return turn_N


def _mean(value_N: FloatArray, p_N: NDArray[np.intp], keep_N: NDArray[np.bool_], num: int) -> FloatArray:
    keep_N = keep_N & ~np.isnan(value_N)
    count_P = np.bincount(p_N[keep_N], minlength=num)
    total_P = np.bincount(p_N[keep_N], value_N[keep_N], num)
    return np.divide(total_P, count_P, out=np.full(num, np.nan), where=count_P > 0)
