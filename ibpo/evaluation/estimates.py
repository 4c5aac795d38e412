"""What does each problem gain and cost, judged by a few responses? Empirical Bayes over the problems of a log.

The mean of two to eight responses is mostly luck, and an allocation that picks the best of such means picks luck: it
promises more than it keeps and spends where nothing is gained. Letters: P problems, G response groups, a cell is a pair
of both; H halves of a log (or the log alone), N problems of all of them, U kinds of problems.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CHUNK = 2**15
"""Problems whose weights are gathered at a time."""


def within_cells(count_PG: FloatArray, sum_PG2: FloatArray, squares_G22: FloatArray) -> FloatArray:
    r"""Covariance of reward and cost of one response around the mean of its cell, pooled over problems.

        S_g = (sum_i x_i x_i' - sum_p n_pg xbar_pg xbar_pg') / sum_p max(n_pg - 1, 0),     x = (reward, cost)

    Args:
        count_PG: `[P, G]` responses.
        sum_PG2: `[P, G, 2]` sums of rewards and costs.
        squares_G22: `[G, 2, 2]` sums of products over all responses of a response group.

    Returns:
        `[G, 2, 2]`; 0 where no cell has two responses, and nothing can be said.
    """
    n_PG = np.maximum(count_PG, 1)
    between = np.einsum("pgi,pgj->gij", sum_PG2 / np.sqrt(n_PG)[..., None], sum_PG2 / np.sqrt(n_PG)[..., None])
    freedom_G = np.maximum(count_PG - 1, 0).sum(0)
    inside = (squares_G22 - between) / np.maximum(freedom_G, 1)[:, None, None]
    return np.where(freedom_G[:, None, None] > 0, inside, 0.0)


def shrink(
    reward: FloatArray, cost: FloatArray, count: FloatArray, within_G22: FloatArray
) -> tuple[FloatArray, FloatArray]:
    r"""Expected reward and cost of one more response in each cell, given all of its problem's.

    The true means of a problem, theta_p = (rewards, costs) in R^2G, are taken to vary between problems with mean mu and
    covariance Sigma; the means that were seen, x_p, vary around them with D_p = blockdiag(S_g / n_pg). Both are
    estimated by moments, Sigma = cov(x) - mean(D_p) without its negative eigenvalues, and

        E[theta_p | x_p] = mu + Sigma (Sigma + D_p)^-1 (x_p - mu),

    the best linear predictor, whatever the distributions (Efron and Morris 1973; Ignatiadis and Wager 2019 on its
    risk).
    A cell without responses has D_p = infinity: the problem's other cells say what to expect there.

    Args:
        reward: `[..., P, G]` mean reward of each cell; anything in an empty one. Each leading index is for itself.
        cost: `[..., P, G]` mean cost.
        count: `[..., P, G]` responses, 0 in an empty cell.
        within_G22: `[G, 2, 2]` of `within_cells`.

    Returns:
        `[..., P, G]` expected rewards, within [0, 1] as all rewards are, and expected costs, at least 0.

    Example:
        >>> reward, cost = np.array([[0.0, 1.0], [1.0, 1.0]] * 9), np.full((18, 2), 5.0)
        >>> noise = np.array([[[0.25, 0], [0, 0]]] * 2)
        >>> shrink(reward, cost, np.full((18, 2), 1.0), noise)[0][0].round(2).tolist()  # all of it is noise
        [0.5, 1.0]
    """
    *_, num_problems, num_groups = reward.shape
    if num_problems < 3 or not within_G22.any():
        return reward, cost  # nothing varies within a cell: the means are the truth
    x = np.concatenate([reward, cost], axis=-1).reshape(-1, num_problems, 2 * num_groups)  # [H, P, 2G]
    count_HPG = count.reshape(-1, num_problems, num_groups)
    there = np.concatenate([count_HPG > 0] * 2, axis=2)
    num = np.maximum(there.sum(1, keepdims=True), 1)
    mu = np.where(there, x, 0.0).sum(1, keepdims=True) / num
    z = np.where(there, x - mu, 0.0)
    scale = np.sqrt((z * z).sum(1, keepdims=True) / num)
    scale[~(scale > 0)] = 1.0
    z /= scale
    # Problems with as many responses in each cell have the same D: the few kinds of them, U, are worked out once.
    counts_UG, kind_HP = _kinds(count_HPG)
    full_U, noise_U = _noise(counts_UG, within_G22)
    num_halves, num_kinds = len(x), len(counts_UG)
    key_N = (np.arange(num_halves)[:, None] * num_kinds + kind_HP).ravel()
    weight_HU = np.bincount(key_N, minlength=num_halves * num_kinds).reshape(num_halves, num_kinds).astype(float)
    both = np.einsum("hu,uij->hij", weight_HU, full_U)  # problems that have both cells
    per_scale = 1 / (scale.transpose(0, 2, 1) * scale)
    mean_noise = np.einsum("hu,uij->hij", weight_HU, noise_U) * per_scale / np.maximum(both, 1)
    sigma = z.transpose(0, 2, 1) @ z / np.maximum(both - 1, 1) - mean_noise
    values, vectors = np.linalg.eigh((sigma + sigma.transpose(0, 2, 1)) / 2)
    sigma = (vectors * np.maximum(values, 0)[:, None, :]) @ vectors.transpose(0, 2, 1)
    used, place_N = np.unique(key_N, return_inverse=True)  # [M] pairs of half and kind
    h, u = used // num_kinds, used % num_kinds
    diagonal = np.eye(2 * num_groups) * np.where(full_U[u].any(2), 1e-12, 1.0)[:, None, :]
    # An empty cell says nothing: its z is 0, and its row of the matrix is that of the identity.
    seen = np.where(full_U[u] > 0, sigma[h] + noise_U[u] * per_scale[h], 0.0) + diagonal
    weights = np.linalg.solve(seen, sigma[h]).transpose(0, 2, 1)  # Sigma (Sigma + D)^-1
    z_N = z.reshape(-1, 2 * num_groups)
    for first in range(0, len(z_N), CHUNK):
        rows = slice(first, first + CHUNK)
        z_N[rows] = np.einsum("nij,nj->ni", weights[place_N[rows]], z_N[rows])
    theta = mu + scale * z
    # Equal problems must stay equal: what is left of rounding would break ties by position.
    expected_reward = np.clip(theta[:, :, :num_groups], 0.0, 1.0).round(8)
    expected_cost = np.maximum(theta[:, :, num_groups:], 0.0)
    digits_H = 6 - np.floor(np.log10(np.maximum(expected_cost.mean((1, 2)), 1e-300))).astype(int)
    for digits in set(digits_H.tolist()):
        expected_cost[digits_H == digits] = expected_cost[digits_H == digits].round(digits)
    return expected_reward.reshape(reward.shape), expected_cost.reshape(cost.shape)


def _kinds(count_HPG: FloatArray) -> tuple[FloatArray, IntArray]:
    """`[U, G]` the different rows of counts, and `[H, P]` which of them each problem has."""
    *shape, num_groups = count_HPG.shape
    rows = count_HPG.reshape(-1, num_groups)
    most = rows.max(0).astype(np.int64) + 1
    if float(np.prod(most.astype(float))) < 2**62:  # a number for a row: much faster than comparing rows
        digits = np.concatenate([[1], np.cumprod(most[:-1])])
        _, first, kind = np.unique(rows.astype(np.int64) @ digits, return_index=True, return_inverse=True)
    else:
        _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return rows[first], kind.reshape(shape)


def _noise(counts_UG: FloatArray, within_G22: FloatArray) -> tuple[FloatArray, FloatArray]:
    """`[U, 2G, 2G]` which cells are both there, and D where they are: blockdiag(S_g / n_ug), rewards before costs."""
    num_kinds, num_groups = counts_UG.shape
    there = np.concatenate([counts_UG > 0] * 2, axis=1)
    full = (there[:, :, None] & there[:, None, :]).astype(float)
    noise = np.zeros((num_kinds, 2 * num_groups, 2 * num_groups))
    for i in (0, 1):
        for j in (0, 1):
            rows, columns = np.arange(num_groups) + i * num_groups, np.arange(num_groups) + j * num_groups
            noise[:, rows, columns] = within_G22[:, i, j] / np.maximum(counts_UG, 1)
    return full, noise * full
