"""What would it be worth to know which configuration pays on each problem, or on each level?

One half of each problem's responses decides, the other half values: an allocation that is valued on the responses that
decided it looks better than it is. Letters: P problems, C configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import GroupMeans, HoldoutRow, Pick, envelope, holdout_value
from ibpo.evaluation.responses import Responses, natural
from ibpo.evaluation.statistics import FloatArray, rate_interval

Json = dict[str, Any]


def held_out_choice(
    responses: Responses,
    num_problems: int,
    among: Sequence[str],
    budgets: Sequence[float],
    notes: list[str],
    *,
    num_splits: int,
    seed: int,
) -> Json:
    """Allocation at several budgets that one half of the responses decides and the other half values.

    Args:
        responses: All of them; those of `among` with a known cost count.
        num_problems: Of the report; a note says so where fewer have two responses of every configuration.
        among: Configurations to choose from.
        budgets: Mean costs, as parts of the way from the cheapest to the most expensive configuration.
        notes: Takes what a reader should know.
        num_splits: Random halvings.
        seed: Of the halvings.

    Returns:
        `oracles` (name -> points of its curve), `allocation` (a row per budget), `share_by_level` (of the middle
        budget); empty where it takes more responses.
    """
    known = np.array([c in among for c in responses.configuration.tolist()]) & ~np.isnan(responses.tokens)
    own = responses.where(known)
    names, p_N = np.unique(own.problem.astype(str), return_inverse=True)
    c_N = np.array([list(among).index(c) for c in own.configuration.tolist()])
    count_PC = np.bincount(p_N * len(among) + c_N, minlength=len(names) * len(among)).reshape(len(names), len(among))
    thick = np.all(count_PC >= 2, axis=1)
    if thick.sum() < 2:
        notes.append("no held-out allocation: it takes two responses of every configuration to a problem")
        return {}
    if not thick.all() or len(names) < num_problems:
        notes.append(f"held-out allocation on {int(thick.sum())} problems with two responses of every configuration")
    own = own.where(thick[p_N])
    arrays = (own.reward, own.problem.astype(str), own.configuration.astype(str), own.tokens)
    means = GroupMeans.from_arrays(*arrays)
    level_of = dict(zip(own.problem.astype(str).tolist(), own.level.astype(str).tolist(), strict=True))
    level_P = np.array([level_of[str(problem)] for problem in means.problems])
    mean_C = means.mean_cost.mean(0)
    amounts = [float(mean_C.min() + f * (mean_C.max() - mean_C.min())) for f in budgets]
    more: Json = {"num_splits": num_splits, "seed": seed}
    by_problem = holdout_value(*arrays, [by_problem_pick(amount) for amount in amounts], **more)
    oracles = {"by problem": _curve(by_problem, len(level_P))}
    if len(set(level_P) - {""}) > 1:
        by_level = holdout_value(*arrays, [by_level_pick(amount, level_P) for amount in amounts], **more)
        oracles["by level"] = _curve(by_level, len(level_P))
    rows = [
        {"budget": amount, "fraction": fraction} | asdict(row) | {"budget": amount}
        for fraction, amount, row in zip(budgets, amounts, by_problem, strict=True)
    ]
    pick = by_problem_pick(amounts[len(amounts) // 2])(
        means.mean_reward, means.mean_cost, means.count.astype(np.float64)
    )
    share_by_level = {
        level: {name: float(np.mean(pick[level_P == level] == g)) for g, name in enumerate(means.response_groups)}
        for level in sorted(set(level_P) - {""}, key=natural)
    }
    return {"oracles": oracles, "allocation": rows, "share_by_level": share_by_level}


def by_problem_pick(amount: float) -> Pick:
    """The steps up each problem's concave envelope by falling gain per cost, as far as the budget goes.

    Within one problem's step of the optimum, which `ibpo.allocate` finds exactly; this is what hundreds of random
    halves can be asked in a second: all of them at once, N = H * P problems with a budget for each half.
    """

    def pick(reward: FloatArray, cost: FloatArray, _: FloatArray) -> NDArray[np.int64]:
        *shape, num_problems, num_configurations = reward.shape
        problem_of = np.repeat(np.arange(reward.size // num_configurations), num_configurations)
        steps = envelope(problem_of, reward.ravel(), cost.ravel())
        chosen = steps.base.copy()
        room = amount * num_problems - cost.ravel()[chosen].reshape(-1, num_problems).sum(1)
        order = np.lexsort((-steps.slope, steps.problem // num_problems))  # half by half; a problem's stay in order
        half, spent = steps.problem[order] // num_problems, steps.cost[order]
        begin = np.searchsorted(half, np.arange(len(room)))
        total = np.concatenate([[0.0], np.cumsum(spent)])
        taken = total[1:] - total[begin][half] <= room[half]  # the first of each half: they fit together
        room -= np.bincount(half[taken], spent[taken], len(room))
        # Of the others one fits if there is still room for it, and the problem's step before it was taken.
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        is_next = np.concatenate([[False], steps.problem[1:] == steps.problem[:-1]])
        before = np.where(is_next, np.roll(place, 1), -1)[order]
        left = room.tolist()
        for step in np.flatnonzero(~taken & (spent <= room[half])).tolist():
            if spent[step] <= left[half[step]] and (before[step] < 0 or taken[before[step]]):
                taken[step] = True
                left[half[step]] -= float(spent[step])
        last = np.sort(order[taken])  # of a problem's steps the last one counts
        chosen[steps.problem[last]] = steps.to[last]
        return (chosen % num_configurations).reshape(*shape, num_problems)

    return pick


def by_level_pick(amount: float, level_P: np.ndarray) -> Pick:
    """Knows what each configuration gets on a level, but not on a problem."""

    def pick(reward: FloatArray, cost: FloatArray, count: FloatArray) -> NDArray[np.int64]:
        of_level = np.empty_like(reward), np.empty_like(cost)
        for level in set(level_P):
            same = level_P == level
            for mean, values in zip(of_level, (reward, cost), strict=True):
                mean[..., same, :] = values[..., same, :].mean(-2, keepdims=True)
        return by_problem_pick(amount)(*of_level, count)

    return pick


def _curve(rows: Sequence[HoldoutRow], num_problems: int) -> list[Json]:
    """Points with the interval of a rate: each problem's value is a mean over halvings, clustered by problem."""
    points = []
    for row in rows:
        low, high = rate_interval(row.reward, row.reward_stderr, num_problems)
        points.append(
            {"cost": row.spent, "accuracy": row.reward, "stderr": row.reward_stderr, "low": low, "high": high}
        )
    return points
