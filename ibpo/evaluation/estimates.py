"""What does each problem gain and cost, judged by a few responses? Empirical Bayes over the problems of a log.

The mean of two to eight responses is mostly luck, and an allocation that picks the best of such means picks luck: it
promises more than it keeps and spends where nothing is gained. Letters: P problems, G response groups; a cell is a pair
of both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


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
    reward_PG: FloatArray, cost_PG: FloatArray, count_PG: FloatArray, within_G22: FloatArray
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
        reward_PG: `[P, G]` mean reward of each cell; anything in an empty one.
        cost_PG: `[P, G]` mean cost.
        count_PG: `[P, G]` responses, 0 in an empty cell.
        within_G22: `[G, 2, 2]` of `within_cells`.

    Returns:
        `[P, G]` expected rewards and `[P, G]` expected costs, whose means over problems are those of the log.

    Example:
        >>> reward, cost = np.array([[0.0, 1.0], [1.0, 1.0]] * 9), np.full((18, 2), 5.0)
        >>> noise = np.array([[[0.25, 0], [0, 0]]] * 2)
        >>> shrink(reward, cost, np.full((18, 2), 1.0), noise)[0][0].round(2).tolist()  # all of it is noise
        [0.5, 1.0]
    """
    num_problems, num_groups = reward_PG.shape
    if num_problems < 3 or not within_G22.any():
        return reward_PG, cost_PG  # nothing varies within a cell: the means are the truth
    there = np.concatenate([count_PG > 0] * 2, axis=1)  # [P, 2G]: rewards, then costs
    x = np.where(there, np.concatenate([reward_PG, cost_PG], axis=1), np.nan)
    mu = np.nanmean(x, axis=0)
    scale = np.nanstd(x, axis=0)
    scale[~(scale > 0)] = 1.0
    z = np.where(there, (x - mu) / scale, 0.0)
    both = there.T.astype(float) @ there
    total = z.T @ z / np.maximum(both - 1, 1)
    noise = np.zeros((num_problems, 2 * num_groups, 2 * num_groups))
    inverse_PG = 1 / np.maximum(count_PG, 1)
    for i in (0, 1):
        for j in (0, 1):
            rows, columns = np.arange(num_groups) + i * num_groups, np.arange(num_groups) + j * num_groups
            noise[:, rows, columns] = within_G22[:, i, j] * inverse_PG / (scale[rows] * scale[columns])
    full = there[:, :, None] & there[:, None, :]
    mean_noise = (noise * full).sum(0) / np.maximum(both, 1)
    sigma = total - mean_noise
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    sigma = (vectors * np.maximum(values, 0)) @ vectors.T
    # An empty cell says nothing: its row of the weights is 0, whatever stands in z.
    seen = np.where(full, sigma + noise, 0.0) + np.eye(2 * num_groups) * np.where(there, 1e-12, 1.0)[:, None, :]
    theta = mu + scale * np.einsum("ij,pj->pi", sigma, np.linalg.solve(seen, z[..., None])[..., 0] * there)
    # Equal problems must stay equal: what is left of rounding would break ties by position.
    reward, cost = theta[:, :num_groups].round(8), np.maximum(theta[:, num_groups:], 0.0)
    digits = 6 - int(np.floor(np.log10(max(float(cost.mean()), 1e-300))))
    return reward, cost.round(digits)
