"""What does each problem gain and cost, judged by a few responses? Empirical Bayes over the problems of a log.

The mean of two to eight responses is mostly luck, and an allocation that picks the best of such means picks luck: it
promises more than it keeps and spends where nothing is gained. Letters: P problems, G response groups, a cell is a pair
of both; H halves of a log (or the log alone), N problems of all of them, U kinds of problems, K neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CHUNK = 2**15
"""Problems whose weights are gathered at a time."""
FEW = 10
"""Fewer problems than these are no prior: there the linear prediction is all."""
NEIGHBOURS = 128
"""Problems that each problem is compared with; of more, as many are taken, evenly by their expected rewards."""
BANDWIDTH = 0.5
"""Standard deviations of log costs between problems that are added to what a mean of a few responses varies by."""
WEIGHTS = 2**16
"""Weights of neighbours that are held at a time: what fits a core's own cache."""
EDGE = 0.005
"""No neighbour is taken to be right, or wrong, more surely than this."""


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


def within_halves(reward: FloatArray, cost: FloatArray, count: FloatArray, some_P: NDArray[np.bool_]) -> FloatArray:
    r"""The same, `[G, 2, 2]`, of some problems `[P]` by how the two halves of a log differ, on average over S splits.

        S_g = mean_sp d_spg d_spg' / (1 / n_spg + 1 / m_spg),     d = (reward, cost) of one half - those of the other

    Args:
        reward: `[2S, P, G]` mean rewards of the halves, those of a split one behind the other; anything where none is.
        cost: `[2S, P, G]` mean costs.
        count: `[2S, P, G]` responses.
        some_P: The problems to pool.
    """
    n, m = count[0::2, some_P], count[1::2, some_P]
    both = (n > 0) & (m > 0)
    per = both / (1 / np.maximum(n, 1) + 1 / np.maximum(m, 1))
    r, c = (x[0::2, some_P] - x[1::2, some_P] for x in (reward, cost))
    sums = [(per * x * y).sum((0, 1)) for x, y in ((r, r), (r, c), (c, c))]
    rr, rc, cc = (x / np.maximum(both.sum((0, 1)), 1) for x in sums)
    return np.moveaxis(np.array([[rr, rc], [rc, cc]]), 2, 0)


def shrink(
    reward: FloatArray,
    cost: FloatArray,
    count: FloatArray,
    within_G22: FloatArray,
    only: NDArray[np.bool_] | None = None,
) -> tuple[FloatArray, FloatArray]:
    r"""Expected reward and cost of one more response in each cell, given all of its problem's.

    Twice: first by the best linear predictor. The true means of a problem, theta_p = (rewards, costs) in R^2G, are
    taken to vary between problems with mean mu and covariance Sigma; the means that were seen, x_p, vary around them
    with D_p = blockdiag(S_g / n_pg). Both are estimated by moments, Sigma = cov(x) - mean(D_p) without its negative
    eigenvalues, and

        E[theta_p | x_p] = mu + Sigma (Sigma + D_p)^-1 (x_p - mu),

    whatever the distributions (Efron and Morris 1973; Ignatiadis and Wager 2019 on its risk). A cell without responses
    has D_p = infinity: the problem's other cells say what to expect there. Costs are left at that.

    Rewards are not spread as a linear predictor is good for: many problems are right, or wrong, whatever the group, and
    a few gain much. So the problems themselves are the prior: what was seen of p may have come from any problem q,

        E[r_p | x_p] = sum_q L_pq a_q / sum_q L_pq,
        log L_pq = sum_g n_pg / phi_g (x_pg log a_qg + (1 - x_pg) log(1 - a_qg)) - (l_pg - b_qg)^2 / (2 v_pg)

    with phi_g = S_g / mean(r (1 - r)), 1 for rewards of 0 and 1, l the logarithms of the mean costs and v_pg their
    variance by noise and by a bandwidth (Robbins 1956; Jiang and Zhang 2009, whose weights are fitted: here they are
    equal). The neighbours a_q, b_q are the linear predictions, moved back towards the means of q by the part 1/G of
    their reliability, since predictions vary less than the truth.

    Args:
        reward: `[..., P, G]` mean reward of each cell; anything in an empty one. Each leading index is for itself.
        cost: `[..., P, G]` mean cost.
        count: `[..., P, G]` responses, 0 in an empty cell.
        within_G22: `[G, 2, 2]` of `within_cells`.
        only: `[P]` problems that are asked for; what is returned for the others is the linear predictor's.

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
    if num_problems >= FEW:
        signal = np.einsum("hii->hi", sigma)
        reliable = signal / np.maximum(signal + np.einsum("hii->hi", mean_noise), 1e-12)
        back = np.where(there, reliable[:, None, :] / num_groups, 0.0)
        neighbours = theta + back * (x - theta)
        asked: IntArray = np.arange(num_problems) if only is None else np.flatnonzero(only)
        theta[:, asked, :num_groups] = _by_neighbours(x, neighbours, count_HPG, within_G22, asked)
    # Equal problems must stay equal: what is left of rounding would break ties by position.
    expected_reward = np.clip(theta[:, :, :num_groups], 0.0, 1.0).round(8)
    expected_cost = np.maximum(theta[:, :, num_groups:], 0.0)
    digits_H = 6 - np.floor(np.log10(np.maximum(expected_cost.mean((1, 2)), 1e-300))).astype(int)
    for digits in set(digits_H.tolist()):
        expected_cost[digits_H == digits] = expected_cost[digits_H == digits].round(digits)
    return expected_reward.reshape(reward.shape), expected_cost.reshape(cost.shape)


def _by_neighbours(
    x: FloatArray, a: FloatArray, count_HPG: FloatArray, within_G22: FloatArray, asked: IntArray
) -> FloatArray:
    """Expected rewards of the problems `asked`, all being the prior: `x` seen, `a` of the neighbours, `[H, P, 2G]`.

    A log-likelihood is a product of what was seen and of a neighbour, F . N, up to what is equal for all neighbours:
    (n x / phi, n (1 - x) / phi, l / v, -1 / 2v) . (log a, log(1 - a), b, b^2).
    """
    num_halves, num_problems, num_groups = count_HPG.shape
    seen, cost = x[:, :, :num_groups], x[:, :, num_groups:]
    there, n = count_HPG > 0, np.maximum(count_HPG, 1)
    num = np.maximum(there.sum(1, keepdims=True), 1)

    def mean(values: FloatArray) -> FloatArray:
        return np.where(there, values, 0.0).sum(1, keepdims=True) / num

    noise_r, noise_c = within_G22[:, 0, 0], within_G22[:, 1, 1]
    binomial = mean(seen * (1 - seen) + noise_r / n)
    phi = np.where(binomial > 0, np.clip(noise_r / np.where(binomial > 0, binomial, 1), 1e-3, 1), 1.0)
    usual = mean(cost)
    usual[usual < 1e-150] = 1.0  # a response group that is free; its square would be 0
    squared = np.maximum(mean(cost * cost - noise_c / n), 1e-3 * usual**2)
    log_cost = np.log(np.maximum(cost / usual, 1e-3))
    spread = BANDWIDTH**2 * (mean(log_cost**2) - mean(log_cost) ** 2)
    per_v = there / np.maximum(noise_c / squared / n + spread, 1e-6)
    trials = count_HPG / phi
    found = np.concatenate([trials * seen, trials * (1 - seen), per_v * log_cost, -per_v / 2], axis=2)
    reward = np.clip(a[:, :, :num_groups], 0, 1)
    inside, log_a = np.clip(reward, EDGE, 1 - EDGE), np.log(np.maximum(a[:, :, num_groups:] / usual, 1e-3))
    own = np.concatenate([np.log(inside), np.log(1 - inside), log_a, log_a**2], axis=2)
    expected = np.empty((num_halves, len(asked), num_groups))
    if num_problems <= NEIGHBOURS:
        step = max(1, WEIGHTS // (max(len(asked), 1) * num_problems))
        for some in (slice(first, first + step) for first in range(0, num_halves, step)):
            weight = found[some, asked] @ own[some].transpose(0, 2, 1)
            weight -= weight.max(2, keepdims=True)
            np.exp(weight, out=weight)
            expected[some] = (weight @ reward[some]) / weight.sum(2, keepdims=True)
        return expected
    step = WEIGHTS // NEIGHBOURS
    for h in range(num_halves):  # some represent all, and the problem itself
        order = np.lexsort((*a[h].T, reward[h].sum(1)))
        some = order[np.linspace(0, num_problems - 1, NEIGHBOURS).astype(int)]
        for part in (slice(first, first + step) for first in range(0, len(asked), step)):
            rows = asked[part]
            weight = found[h, rows] @ own[h, some].T
            most = weight.max(1, keepdims=True)
            weight -= most
            np.exp(weight, out=weight)
            alone = np.minimum((found[h, rows] * own[h, rows]).sum(1, keepdims=True) - most, 700.0)
            alone = np.exp(alone) * NEIGHBOURS / num_problems
            total = weight.sum(1, keepdims=True) + alone
            expected[h, part] = (weight @ reward[h, some] + alone * reward[h, rows]) / total
    return expected


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
