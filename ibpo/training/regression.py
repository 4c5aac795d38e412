"""Denoised values: what a response group is worth on a prompt, from few noisy rewards and the prompt's features."""

from __future__ import annotations

import numpy as np

PENALTIES = 10.0 ** np.arange(-1, 5.01, 0.5)


def ridge(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fitted values of a ridge regression with intercept, its penalty chosen by generalised cross-validation.

    With S = X (X'X + p I)^-1 X' on standardised features X, the penalty p minimises n ||y - S y||^2 / (n - tr S - 1)^2
    over `PENALTIES` (Golub, Heath and Wahba 1979). Rows with a NaN target are fitted but not learnt from.

    Args:
        features: [W, D]; products over the rows are taken in their precision, the rest in double.
        target: [W], or [W, K] for K regressions, each with a penalty of its own.

    Returns:
        As `target`.
    """
    target_WK = target.reshape(len(target), -1)
    fitted_WK = np.zeros(target_WK.shape)
    seen_WK = ~np.isnan(target_WK)
    # One decomposition for all targets that are known on the same rows.
    for use in np.unique(seen_WK, axis=1).T:
        which = (seen_WK == use[:, None]).all(0)
        if use.any():
            fitted_WK[:, which] = _ridge_on(features, target_WK[:, which], use)
    return fitted_WK.reshape(target.shape)


def _ridge_on(features: np.ndarray, target_WK: np.ndarray, use: np.ndarray) -> np.ndarray:
    centred = features - (features if use.all() else features[use]).mean(0, dtype=float).astype(features.dtype)
    x, y_mean = centred if use.all() else centred[use], target_WK[use].mean(0)
    n, y = len(x), target_WK[use] - y_mean
    gram, correlated = (x.T @ x).astype(float), (x.T @ y.astype(x.dtype)).astype(float)
    scale = np.sqrt(np.diag(gram) / n) + 1e-6
    eigenvalue, axes = np.linalg.eigh(gram / np.outer(scale, scale))
    eigenvalue = np.maximum(eigenvalue, 0.0)
    projected = axes.T @ (correlated / scale[:, None])  # [D, K]
    inverse = 1.0 / (eigenvalue + PENALTIES[:, None])  # [penalties, D]
    residual = (y**2).sum(0) - 2.0 * inverse @ projected**2 + (eigenvalue * inverse**2) @ projected**2
    freedom = n - 1.0 - (eigenvalue * inverse).sum(1)
    score = np.where(freedom[:, None] > 0, residual / np.maximum(freedom, 1e-9)[:, None] ** 2, np.inf)
    best = np.where(np.isfinite(score).any(0), np.argmin(score, 0), len(PENALTIES) - 1)
    coefficient = axes @ (inverse[best].T * projected) / scale[:, None]
    return y_mean + centred @ coefficient.astype(features.dtype)


def shrink(value: np.ndarray, fitted: np.ndarray, count: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """Empirical Bayes: means of few samples, moved towards their regression as far as their noise asks for.

    With s2 the variance of a single reward within a cell (pooled) and t2 the variance of the true values about the
    regression (the residuals' variance less the noise), the estimate is

        fitted + t2 / (t2 + s2 / n) (value - fitted)

    and `fitted` where nothing was sampled. All arrays are [W] for one response group.
    """
    seen = count > 0
    freedom = np.sum(np.maximum(count[seen] - 1, 0))
    if not freedom:
        return fitted
    noise = scatter[seen].sum() / freedom / np.maximum(count, 1)
    spread = max(0.0, float(np.mean((value[seen] - fitted[seen]) ** 2) - noise[seen].mean()))
    if spread == 0.0:
        return fitted
    return np.where(seen, fitted + spread / (spread + noise) * (np.nan_to_num(value) - fitted), fitted)
