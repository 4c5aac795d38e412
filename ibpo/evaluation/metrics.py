"""How good, at what cost: the numbers of an evaluation, arrays in and arrays out.

Votes and pass@k of several responses, random mixes, areas and ratios of gains. And what it would be worth to know which
configuration pays on each problem, or level: there one half of each problem's responses decides, the other half values,
as an allocation that is valued on the responses that decided it looks better than it is. Letters: N responses, P
problems, S responses per problem, L levels, C configurations, K points of a curve, D bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation import GroupMeans, HoldoutRow, Pick, RankedSteps, by_problem_picks, value_halves
from ibpo.answers import representatives
from ibpo.evaluation.responses import Responses, natural
from ibpo.evaluation.statistics import NAN, Estimate, FloatArray, bootstrap, number_problems, rate_interval

MIN_VOTES_GAIN = 1e-3
"""With less gain than this by votes, as at the cost of hardly more than one response, a ratio to it says nothing."""


def majority_accuracy(
    answers: ArrayLike, correct: ArrayLike, k: int, *, max_subsets: int = 256, seed: int = 0
) -> FloatArray:
    r"""Expected accuracy of maj@k, self-consistency with k votes, for each problem.

    Over subsets K of k of the S responses, with c(a) the votes of answer a in K,

        maj@k = E_K [ mean of correct(a) over the answers a with the most votes ]

    so ties are split evenly. Answers that are equal are one answer, however they are written (`answer_codes`). A
    response without an answer (None) has no vote; a subset of only such responses scores 0.
    If there are at most `max_subsets` subsets the expectation is exact. Otherwise it is the average over disjoint
    subsets: seeded random orders of the responses, each cut into floor(S/k) blocks, so that all responses are used.

    Args:
        answers: `[P, S]` answers, None where a response gives none.
        correct: `[P, S]` whether the answer is right (0 or 1).
        k: Number of votes, 1 to S.
        max_subsets: How many subsets to look at.
        seed: Seed of the random orders.

    Returns:
        `[P]` expected accuracies.

    Raises:
        ValueError: k is not in 1..S.

    Example:
        >>> majority_accuracy([["4", "4", "7"]], [[1, 1, 0]], k=3).tolist()
        [1.0]
        >>> majority_accuracy([["4", "4", "7"]], [[1, 1, 0]], k=1).round(3).tolist()
        [0.667]
    """
    answers_PS = np.asarray(answers, dtype=object)
    correct_PS = np.asarray(correct, float)
    num_responses = answers_PS.shape[1]
    if not 1 <= k <= num_responses:
        raise ValueError(f"k must be in 1..{num_responses} (the responses per problem), got {k}")
    return _majority(answer_codes(answers_PS, correct_PS), correct_PS, k, max_subsets, seed)


def _majority(
    code_PS: NDArray[np.int64], correct_PS: FloatArray, k: int, max_subsets: int = 256, seed: int = 0
) -> FloatArray:
    num_responses = code_PS.shape[1]
    if comb(num_responses, k) <= max_subsets:
        subsets = [np.array(s) for s in combinations(range(num_responses), k)]
    else:
        rng = np.random.default_rng(seed)
        blocks = num_responses // k
        orders = [rng.permutation(num_responses) for _ in range(-(-max_subsets // blocks))]
        subsets = [order[b * k : (b + 1) * k] for order in orders for b in range(blocks)]
    total_P = np.zeros(len(code_PS))
    for subset in subsets:
        code_Pk = code_PS[:, subset]
        votes_Pk = np.zeros(code_Pk.shape, dtype=np.int16)
        for j in range(k):  # votes for the answer of each response of the subset
            votes_Pk += code_Pk == code_Pk[:, j : j + 1]
        votes_Pk[code_Pk < 0] = 0
        # Each tied answer stands `most` times among the leaders, so their mean weighs the tied answers evenly.
        leads_Pk = (votes_Pk == votes_Pk.max(1, keepdims=True)) & (votes_Pk > 0)
        total_P += (leads_Pk * correct_PS[:, subset]).sum(1) / np.maximum(leads_Pk.sum(1), 1)
    return total_P / len(subsets)


def answer_codes(answers: ArrayLike, correct: ArrayLike) -> NDArray[np.int64]:
    """Which responses to a problem give the same answer, as a number from 0 for each answer; -1 for none.

    Right answers are all equal to the gold, so they are one; wrong ones are compared as the mathematics judge does.

    Args:
        answers: `[P, S]` answers, None where a response gives none.
        correct: `[P, S]` whether the answer is right.

    Returns:
        `[P, S]` codes, comparable within a row.

    Example:
        >>> answer_codes([["1/2", "0.5", "7", "7.0", None]], [[1, 1, 0, 0, 0]]).tolist()
        [[0, 0, 1, 1, -1]]
    """
    answers_PS, correct_PS = np.asarray(answers, dtype=object), np.asarray(correct, float)
    code_PS = np.full(answers_PS.shape, -1)
    for row_S, right_S, code_S in zip(answers_PS, correct_PS >= 0.5, code_PS, strict=True):
        wrong = [s for s, answer in enumerate(row_S) if answer is not None and not right_S[s]]
        names: dict[str, int] = {}
        for s, name in zip(wrong, representatives([str(row_S[s]) for s in wrong]), strict=True):
            code_S[s] = names.setdefault(name, len(names) + 1)
        code_S[[s for s, answer in enumerate(row_S) if answer is not None and right_S[s]]] = 0
    return code_PS


def random_mix(acc_standard: float, acc_extended: float, share: float) -> float:
    """Accuracy if a share of the prompts drawn blindly is answered extended: (1 - share) a_0 + share a_+.

    Example:
        >>> random_mix(0.4, 0.8, 0.25)
        0.5
    """
    return (1 - share) * acc_standard + share * acc_extended


def oracle_by_level(
    acc_standard: ArrayLike, acc_extended: ArrayLike, level_share: ArrayLike, share: float
) -> tuple[float, FloatArray]:
    r"""Best accuracy inside a budget for one that knows each level's success rates (but not each problem's).

    With p_l the part of the problems of level l, and g_l = a+_l - a0_l what extended buys there,

        maximise over x in [0, 1]^L   sum_l p_l (a0_l + x_l g_l)   subject to   sum_l p_l x_l <= share

    Solved greedily, by falling gain; no budget goes where the gain is not positive, so less than `share` may be spent.

    Args:
        acc_standard: `[L]` accuracy of standard responses.
        acc_extended: `[L]` accuracy of extended responses.
        level_share: `[L]` part of the problems of each level; sums to 1.
        share: Largest share of prompts answered extended.

    Returns:
        (accuracy, `[L]` share of extended responses by level).

    Example:
        >>> accuracy, by_level = oracle_by_level([1, 0, 0], [1, 0.8, 0], [0.3, 0.5, 0.2], share=0.25)
        >>> round(accuracy, 3), by_level.tolist()
        (0.5, [0.0, 0.5, 0.0])
    """
    acc_L, part_L = np.asarray(acc_standard, float), np.asarray(level_share, float)
    return oracle_by_level_at_cost(acc_L, acc_extended, 0 * acc_L, 0 * acc_L + 1, part_L, share)


def oracle_by_level_at_cost(
    acc_standard: ArrayLike,
    acc_extended: ArrayLike,
    cost_standard: ArrayLike,
    cost_extended: ArrayLike,
    level_share: ArrayLike,
    mean_cost: float,
) -> tuple[float, FloatArray]:
    r"""`oracle_by_level` with a budget of mean cost, e.g. tokens per response.

    With the extra cost d_l = c+_l - c0_l of an extended response,

        maximise over x in [0, 1]^L   sum_l p_l (a0_l + x_l g_l)   subject to   sum_l p_l (c0_l + x_l d_l) <= mean_cost

    is a fractional knapsack: falling gain per extra cost g_l / d_l is exact, and the accuracy concave in `mean_cost`.
    Where extended costs no more and is no worse it is taken at once; where it is cheaper but worse, giving it up again
    is an item like any other.

    Args:
        acc_standard: `[L]` accuracy of standard responses.
        acc_extended: `[L]` accuracy of extended responses.
        cost_standard: `[L]` mean cost of standard responses.
        cost_extended: `[L]` mean cost of extended responses.
        level_share: `[L]` part of the problems of each level; sums to 1.
        mean_cost: Largest mean cost per problem.

    Returns:
        (accuracy, `[L]` share of extended responses by level); nan if even the cheapest responses cost more.

    Example:
        >>> accuracy, by_level = oracle_by_level_at_cost([0.5, 0], [0.9, 0.6], [10, 10], [20, 40], [0.5, 0.5], 20)
        >>> round(accuracy, 3), by_level.round(3).tolist()
        (0.55, [1.0, 0.333])
    """
    acc_L, part_L = np.asarray(acc_standard, float), np.asarray(level_share, float)
    gain_L = np.asarray(acc_extended, float) - acc_L
    base_L = np.asarray(cost_standard, float)
    extra_L = np.asarray(cost_extended, float) - base_L
    x_L = ((extra_L < 0) | ((extra_L == 0) & (gain_L > 0))).astype(float)  # the cheapest choice everywhere
    room = mean_cost - float(part_L @ (base_L + x_L * extra_L))
    # In the costs' own unit: a response may cost a millionth of a dollar.
    if room < -1e-9 * max(float(part_L @ np.maximum(np.abs(base_L), np.abs(base_L + extra_L))), abs(mean_cost)):
        return NAN, np.full(len(acc_L), np.nan)
    room = max(room, 0.0)
    worth_L = gain_L * np.sign(extra_L)  # accuracy bought by leaving the cheapest choice, at |extra| each
    size_L = part_L * np.abs(extra_L)
    rate_L = np.divide(worth_L, np.abs(extra_L), out=np.zeros(len(acc_L)), where=extra_L != 0)
    order = np.argsort(-rate_L, kind="stable")
    order = order[(rate_L[order] > 0) & (size_L[order] > 0)]
    left = room - np.concatenate([[0.0], np.cumsum(size_L[order])[:-1]])  # for each, behind those before it
    x_L[order] = np.abs(x_L[order] - np.clip(left / size_L[order], 0.0, 1.0))
    return float(part_L @ (acc_L + x_L * gain_L)), x_L


def mix_at_cost(cost_points: ArrayLike, acc_points: ArrayLike, cost: float) -> FloatArray:
    """The random mix of a method's measured points that is most accurate at a mean cost: their upper concave envelope.

    Mixing two points is open to everybody, so a rival is given it; costs beyond the measured ones are not.

    Args:
        cost_points: `[N]` mean cost of each point.
        acc_points: `[N]` its accuracy.
        cost: The mean cost of the mix.

    Returns:
        `[N]` the part of each point, at most two of them positive; nan where `cost` lies beyond the points.

    Example:
        >>> mix_at_cost([1, 2, 3], [0.5, 0.4, 0.7], 2).tolist()
        [0.5, 0.0, 0.5]
    """
    cost_N, acc_N = np.asarray(cost_points, float), np.asarray(acc_points, float)
    if not len(cost_N) or not cost_N.min() <= cost <= cost_N.max():
        return np.full(len(cost_N), np.nan)
    hull: list[int] = []
    for n in np.lexsort((-acc_N, cost_N)):
        if hull and cost_N[hull[-1]] == cost_N[n]:
            continue
        while len(hull) > 1:
            a, b = hull[-2:]
            if (acc_N[n] - acc_N[a]) * (cost_N[b] - cost_N[a]) < (acc_N[b] - acc_N[a]) * (cost_N[n] - cost_N[a]):
                break
            hull.pop()
        hull.append(int(n))
    return np.array([np.interp(cost, cost_N[hull], unit) for unit in np.eye(len(cost_N))[:, hull]])


def pass_at_k(num_right: ArrayLike, num_responses: ArrayLike, k: int) -> FloatArray:
    r"""Probability that one of k responses is right, unbiased, for each problem (Chen et al. 2021, arXiv 2107.03374).

    With c right ones of n,

        pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{j < k} (n - c - j) / (n - j)

    Args:
        num_right: `[P]` c.
        num_responses: `[P]` n; problems may differ.
        k: At least 1.

    Returns:
        `[P]`; nan where n < k.

    Example:
        >>> pass_at_k([1, 2, 1], [4, 4, 1], k=2).round(3).tolist()
        [0.5, 0.833, nan]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    right_P, num_P = np.asarray(num_right, float), np.asarray(num_responses, float)
    missed_P = np.ones(np.broadcast_shapes(right_P.shape, num_P.shape))
    for j in range(k):
        missed_P = missed_P * np.clip(num_P - right_P - j, 0, None) / np.maximum(num_P - j, 1)
    return np.where(num_P >= k, 1 - missed_P, NAN)


def vote_at_k(
    problem: ArrayLike, answer: Sequence[str | None] | NDArray[np.object_], correct: ArrayLike, k: int
) -> tuple[list[str], FloatArray]:
    """Expected accuracy of maj@k by problem, ties split evenly, for problems answered unequally often.

    Args:
        problem: `[N]` problem ids.
        answer: `[N]` answers, None where a response gives none.
        correct: `[N]` whether the answer is right.
        k: Number of votes.

    Returns:
        The problems' ids in sorted order, and `[P]` as `majority_accuracy`; nan with fewer than k responses.

    Raises:
        ValueError: k is below 1.

    Example:
        >>> vote_at_k(["a", "a", "a", "b"], ["4", "4", "7", "1"], [1, 1, 0, 1], 3)
        (['a', 'b'], array([ 1., nan]))
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    names, vote_KP = votes_of_codes(problem, code_answers(problem, answer, correct), correct, [k])
    return names, vote_KP[0]


def code_answers(
    problem: ArrayLike, answer: Sequence[str | None] | NDArray[np.object_], correct: ArrayLike
) -> NDArray[np.int64]:
    """`answer_codes` of N responses, `[N]`: comparable between responses to one problem.

    Example:
        >>> code_answers(["a", "b", "a"], ["0.5", "0.5", "1/2"], [0, 1, 0]).tolist()
        [1, 0, 1]
    """
    answer_N, correct_N = np.asarray(answer, dtype=object), np.asarray(correct, float)
    code_N = np.full(len(answer_N), -1)
    for _, index_PS in _alike(number_problems(problem)[1]):
        code_N[index_PS] = answer_codes(answer_N[index_PS], correct_N[index_PS])
    return code_N


def votes_of_codes(
    problem: ArrayLike, code: NDArray[np.int64], correct: ArrayLike, sizes: Sequence[int]
) -> tuple[list[str], FloatArray]:
    """`vote_at_k` for K numbers of votes, `[K, P]`, of answers numbered by `code_answers`, once for all slices."""
    names, p_N = number_problems(problem)
    correct_N = np.asarray(correct, float)
    vote_KP = np.full((len(sizes), len(names)), NAN)
    for same_P, index_PS in _alike(p_N):
        for i, k in enumerate(sizes):
            if k <= index_PS.shape[1]:
                vote_KP[i, same_P] = _majority(code[index_PS], correct_N[index_PS], k)
    return list(map(str, names.tolist())), vote_KP


def _alike(p_N: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Problems with equally many responses, and `[P, S]` the places of these, in their order."""
    order, count_P = np.argsort(p_N, kind="stable"), np.bincount(p_N)
    start_P = np.cumsum(count_P) - count_P
    for num in np.unique(count_P).tolist():
        same_P = np.flatnonzero(count_P == num)
        yield same_P, order[start_P[same_P][:, None] + np.arange(num)]


def best_mix(cost: ArrayLike, accuracy: ArrayLike, at: ArrayLike) -> FloatArray:
    """Accuracy of the best random mix of a method's points at a mean cost, for D curves at once: their upper envelope.

    Args:
        cost: `[D, K]` mean cost of each point.
        accuracy: `[D, K]` its accuracy.
        at: `[D]` the mean cost of the mix.

    Returns:
        `[D]`, as `mix_at_cost` gives; nan where the points do not reach.

    Example:
        >>> best_mix([[1, 2, 3]], [[0.5, 0.4, 0.7]], [2.0]).tolist()
        [0.6]
    """
    cost_DK, accuracy_DK, at_D = (np.asarray(x, float) for x in (cost, accuracy, at))
    best_D = np.full(len(at_D), NAN)
    for low in range(cost_DK.shape[1]):  # the envelope is the best chord over the cost, one point to either side
        for high in range(cost_DK.shape[1]):
            inside_D = (cost_DK[:, low] <= at_D) & (at_D <= cost_DK[:, high])
            width_D = cost_DK[:, high] - cost_DK[:, low]
            part_D = np.divide(at_D - cost_DK[:, low], width_D, out=np.zeros(len(at_D)), where=width_D > 0)
            chord_D = (1 - part_D) * accuracy_DK[:, low] + part_D * accuracy_DK[:, high]
            best_D = np.where(inside_D, np.fmax(best_D, chord_D), best_D)
    return best_D


def area_under_curve(cost: ArrayLike, accuracy: ArrayLike, low: float, high: float) -> float:
    r"""Mean accuracy of a method between two mean costs, mixing its own measured points at will.

        area = 1 / (high - low) * integral from low to high of A(c) dc

    with A the upper concave envelope of the points (`best_mix`): piecewise linear, so its corners give the integral
    exactly. Never extrapolated: nan where the points do not reach from `low` to `high`.

    Args:
        cost: `[K]` mean cost of each point.
        accuracy: `[K]` its accuracy.
        low: Cost at which the area begins.
        high: Cost at which it ends, above `low`.

    Example:
        >>> area_under_curve([1, 3], [0.5, 0.7], 1, 3)
        0.6
    """
    cost_K = np.asarray(cost, float)
    if not high > low or not len(cost_K) or low < cost_K.min() or high > cost_K.max():
        return NAN
    return float(_areas(cost_K[None], np.asarray(accuracy, float)[None], np.array([low]), np.array([high]))[0])


def _areas(cost_DK: FloatArray, accuracy_DK: FloatArray, low_D: FloatArray, high_D: FloatArray) -> FloatArray:
    corners_DC = np.sort(np.clip(np.column_stack([cost_DK, low_D, high_D]), low_D[:, None], high_D[:, None]), axis=1)
    height_DC = np.column_stack([best_mix(cost_DK, accuracy_DK, corner_D) for corner_D in corners_DC.T])
    return ((height_DC[:, 1:] + height_DC[:, :-1]) / 2 * np.diff(corners_DC)).sum(1) / (high_D - low_D)


def estimate_area(cost: ArrayLike, accuracy: ArrayLike, low: float, high: float, *, seed: int = 0) -> Estimate:
    """`area_under_curve` of means over problems, its interval from problems drawn with replacement.

    Args:
        cost: `[K, P]` cost of each point on each problem, in the unit of `low` and `high`.
        accuracy: `[K, P]` its accuracy.
        low: Cost at which the area begins; a draw whose cheapest point costs more begins there, and so at the top.
        high: Cost at which it ends.
        seed: Seed of the draws.
    """
    cost_KP, accuracy_KP = np.asarray(cost, float), np.asarray(accuracy, float)
    if np.isnan(area_under_curve(cost_KP.mean(1), accuracy_KP.mean(1), low, high)):
        return Estimate(value=NAN, stderr=NAN, low=NAN, high=NAN, num_problems=cost_KP.shape[1])

    def statistic(weight_DP: FloatArray) -> FloatArray:
        cost_DK, accuracy_DK = weight_DP @ cost_KP.T, weight_DP @ accuracy_KP.T
        low_D, high_D = np.maximum(low, cost_DK.min(1)), np.minimum(high, cost_DK.max(1))
        reaches_D = high_D > low_D
        return np.where(reaches_D, _areas(cost_DK, accuracy_DK, low_D, np.where(reaches_D, high_D, low_D + 1)), NAN)

    return bootstrap(statistic, cost_KP.shape[1], seed=seed)


def estimate_gain_ratio(
    accuracy: ArrayLike, cost: ArrayLike, votes: ArrayLike, vote_cost: ArrayLike, *, seed: int = 0
) -> Estimate:
    r"""Gain over one standard response, divided by what self-consistency gains at the same cost.

        ratio = (a - b) / (maj(c) - b)

    with a, c the method's accuracy and mean cost, b that of one standard response (the curve's first point) and maj(c)
    the best mix of two points of self-consistency. Above 1 exactly where the method beats voting. Does not exist where
    self-consistency was not measured at that cost or gains less than one standard error, or a tenth of a point, there.

    Args:
        accuracy: `[P]` the method's, by problem.
        cost: `[P]` its cost.
        votes: `[K, P]` accuracy of maj@1, maj@2, ...
        vote_cost: `[K, P]` their costs.
        seed: Seed of the bootstrap over problems.

    Example:
        >>> flat = np.ones((1, 40))
        >>> votes = np.vstack([0.5 * flat, 0.5 * flat, 0.6 * flat])
        >>> costs = np.vstack([flat, 2 * flat, 3 * flat])
        >>> round(estimate_gain_ratio(0.7 * flat[0], 2 * flat[0], votes, costs).value, 6)
        4.0
    """
    accuracy_P, cost_P = np.asarray(accuracy, float), np.asarray(cost, float)
    votes_KP, vote_cost_KP = np.asarray(votes, float), np.asarray(vote_cost, float)
    num_problems = len(accuracy_P)
    mix_K = mix_at_cost(vote_cost_KP.mean(1), votes_KP.mean(1), float(cost_P.mean()))
    gain_P = mix_K @ votes_KP - votes_KP[0]
    stderr = gain_P.std(ddof=1) / np.sqrt(num_problems) if num_problems > 1 else NAN
    if np.isnan(gain_P.mean()) or gain_P.mean() <= max(MIN_VOTES_GAIN, stderr):  # of one problem no error is known
        return Estimate(value=NAN, stderr=NAN, low=NAN, high=NAN, num_problems=num_problems)

    def statistic(weight_DP: FloatArray) -> FloatArray:
        votes_DK, cost_DK = weight_DP @ votes_KP.T, weight_DP @ vote_cost_KP.T
        at_D = np.clip(weight_DP @ cost_P, cost_DK.min(1), cost_DK.max(1))
        room_D, gain_D = best_mix(cost_DK, votes_DK, at_D) - votes_DK[:, 0], weight_DP @ accuracy_P - votes_DK[:, 0]
        no_room_D = np.copysign(np.inf, gain_D)
        return np.divide(gain_D, room_D, out=no_room_D, where=room_D > 0)

    return bootstrap(statistic, num_problems, seed=seed)


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
        num_problems: Problems of the report; a note says so where fewer have two responses of every configuration.
        among: Configurations to choose from.
        budgets: Mean costs, as parts of the way from the cheapest to the most expensive configuration.
        notes: Takes what a reader should know.
        num_splits: Random halvings.
        seed: Seed of the halvings.

    Returns:
        `oracles` (name -> points of its curve), `allocation` (a row per budget), `share_by_level` (of the middle
        budget), `num_problems` (of all these); empty where it takes more responses.
    """
    known = np.array([c in among for c in responses.configuration.tolist()]) & ~np.isnan(responses.tokens)
    own = responses.where(known)
    names, p_N = number_problems(own.problem)
    place = {c: i for i, c in enumerate(among)}
    c_N = np.array([place[c] for c in own.configuration.tolist()])
    count_PC = np.bincount(p_N * len(among) + c_N, minlength=len(names) * len(among)).reshape(len(names), len(among))
    thick = np.all(count_PC >= 2, axis=1)
    if thick.sum() < 2:
        notes.append("no held-out allocation: it needs two responses of every configuration to a problem")
        return {}
    if not thick.all() or len(names) < num_problems:
        notes.append(f"held-out allocation on {int(thick.sum())} problems with two responses of every configuration")
    own = own.where(thick[p_N])
    means = GroupMeans.from_arrays(own.reward, own.problem.astype(str), own.configuration.astype(str), own.tokens)
    level_of = dict(zip(own.problem.astype(str).tolist(), own.level.astype(str).tolist(), strict=True))
    level_P = np.array([level_of[str(problem)] for problem in means.problems])
    mean_C = means.mean_cost.mean(0)
    amounts = [float(mean_C.min() + f * (mean_C.max() - mean_C.min())) for f in budgets]
    more: Json = {"num_splits": num_splits, "seed": seed}
    by_problem = value_halves(means, by_problem_picks(amounts), **more)
    oracles = {"by problem": _curve(by_problem, len(level_P))}
    if len(set(level_P) - {""}) > 1:
        by_level = value_halves(means, by_level_picks(amounts, level_P), **more)
        oracles["by level"] = _curve(by_level, len(level_P))
    rows = [
        {"budget": amount, "fraction": fraction} | asdict(row) | {"budget": amount}
        for fraction, amount, row in zip(budgets, amounts, by_problem, strict=True)
    ]
    pick = RankedSteps(means.mean_reward, means.mean_cost).within(amounts[len(amounts) // 2])
    share_by_level = {
        level: {name: float(np.mean(pick[level_P == level] == g)) for g, name in enumerate(means.response_groups)}
        for level in sorted(set(level_P) - {""}, key=natural)
    }
    return {
        "oracles": oracles,
        "allocation": rows,
        "share_by_level": share_by_level,
        "num_problems": len(means.problems),
    }


def by_level_picks(amounts: Sequence[float], level_P: np.ndarray) -> list[Pick]:
    """As `by_problem_picks`, by somebody who knows what each configuration gets on a level, but not on a problem."""
    _, l_P, size_L = np.unique(level_P, return_inverse=True, return_counts=True)
    order, begin_L = np.argsort(l_P, kind="stable"), np.cumsum(size_L) - size_L
    seen: tuple[FloatArray, FloatArray, FloatArray] | None = None

    def of_levels(values: FloatArray) -> FloatArray:
        return (np.add.reduceat(values[..., order, :], begin_L, axis=-2) / size_L[:, None])[..., l_P, :]

    def pick(choose: Pick, reward: FloatArray, cost: FloatArray, count: FloatArray) -> NDArray[np.int64]:
        nonlocal seen
        if seen is None or seen[0] is not reward:
            seen = reward, of_levels(reward), of_levels(cost)
        return choose(seen[1], seen[2], count)

    return [partial(pick, choose) for choose in by_problem_picks(amounts)]


def _curve(rows: Sequence[HoldoutRow], num_problems: int) -> list[Json]:
    """Points with the interval of a rate: each problem's value is a mean over halvings, clustered by problem."""
    points = []
    for row in rows:
        low, high = rate_interval(row.reward, row.reward_stderr, num_problems)
        points.append(
            {"cost": row.spent, "accuracy": row.reward, "stderr": row.reward_stderr, "low": low, "high": high}
        )
    return points
