"""How good, at what cost: the numbers of an evaluation, arrays in and arrays out.

Letters in names: N responses, P problems, S responses per problem, L levels.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

NOISE = 0.02
"""Differences of rates below this are ties for `rank_correlation`."""


def mean_and_stderr(value: ArrayLike, problem: ArrayLike) -> tuple[float, float]:
    r"""Mean over problems, and its standard error clustered by problem.

    With m_p the mean value of problem p's responses and n problems,

        mean = 1/n sum_p m_p,      stderr = std(m_p, ddof 1) / sqrt(n)

    Responses to one problem are not independent; their number does not shrink the error, that of the problems does.

    Args:
        value: `[N]` e.g. reward of each response.
        problem: `[N]` problem ids.

    Returns:
        (mean, stderr); the stderr of fewer than two problems is nan.

    Example:
        >>> mean_and_stderr([1, 1, 0, 0], ["p", "p", "q", "q"])
        (0.5, 0.5)
    """
    value_N = np.asarray(value, float)
    _, p_N = np.unique(np.asarray(problem), return_inverse=True)
    if not len(value_N):
        return float("nan"), float("nan")
    mean_P = np.bincount(p_N, value_N) / np.bincount(p_N)
    stderr = mean_P.std(ddof=1) / np.sqrt(len(mean_P)) if len(mean_P) > 1 else float("nan")
    return float(mean_P.mean()), float(stderr)


def majority_accuracy(
    answers: ArrayLike, correct: ArrayLike, k: int, *, max_subsets: int = 256, seed: int = 0
) -> FloatArray:
    r"""Expected accuracy of maj@k, self-consistency with k votes, for each problem.

    Over subsets K of k of the S responses, with c(a) the votes of answer a in K,

        maj@k = E_K [ mean of correct(a) over the answers a with the most votes ]

    so ties are split evenly. A response without an answer (None) has no vote; a subset of only such responses scores 0.
    If there are at most `max_subsets` subsets the expectation is exact. Otherwise it is the average over disjoint
    subsets: seeded random orders of the responses, each cut into floor(S/k) blocks, so that all responses are used.

    Args:
        answers: `[P, S]` answers, None where a response gives none.
        correct: `[P, S]` whether the answer is right (0 or 1).
        k: Number of votes, 1 to S.
        max_subsets: How many subsets to look at.
        seed: Of the random orders.

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
    names = {answer: code for code, answer in enumerate({a for a in answers_PS.flat if a is not None})}
    code_PS = np.array([[names.get(a, -1) for a in row] for row in answers_PS]).reshape(answers_PS.shape)
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
    Where extended is no dearer and no worse it is taken at once; where it is cheaper but worse, giving it up again is
    an item like any other.

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
    if room < -1e-9 * max(1.0, abs(mean_cost)):
        return float("nan"), np.full(len(acc_L), np.nan)
    room = max(room, 0.0)
    worth_L = gain_L * np.sign(extra_L)  # accuracy bought by leaving the cheapest choice, at |extra| each
    size_L = part_L * np.abs(extra_L)
    rate_L = np.divide(worth_L, np.abs(extra_L), out=np.zeros(len(acc_L)), where=extra_L != 0)
    for level in np.argsort(-rate_L, kind="stable"):
        if rate_L[level] <= 0 or size_L[level] <= 0:
            continue
        taken = min(1.0, room / size_L[level])
        x_L[level] = abs(x_L[level] - taken)
        room -= taken * size_L[level]
    return float(part_L @ (acc_L + x_L * gain_L)), x_L


def average_ranks(value: ArrayLike) -> FloatArray:
    """Ranks from 1; equal values share the average of their ranks.

    Example:
        >>> average_ranks([0.3, 0.1, 0.3]).tolist()
        [2.5, 1.0, 2.5]
    """
    value_N = np.asarray(value, float)
    below = (value_N[None, :] < value_N[:, None]).sum(1)
    equal = (value_N[None, :] == value_N[:, None]).sum(1)
    return below + (equal + 1) / 2


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of two rates by level, blind to noise around zero.

    Both are first rounded to multiples of 0.02 (`NOISE`), so that e.g. gains of 0.003 and -0.004 are a tie, not an
    order; then rho is Pearson's correlation of the average ranks. Where one side has no order left, rho is nan.

    Args:
        x: `[L]` e.g. share of extended responses by level.
        y: `[L]` e.g. gain by level.

    Returns:
        rho in [-1, 1], or nan.

    Example:
        >>> round(rank_correlation([0.001, 0.9, 0.5, 0.0], [0.0, 0.8, 0.4, 0.004]), 6)
        1.0
    """
    ranks = [average_ranks(np.round(np.asarray(value, float) / NOISE)) for value in (x, y)]
    a, b = (rank - rank.mean() for rank in ranks)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


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
