"""k nearest neighbours in an embedding: the field's null, which ridge regression has to beat.

Letters: N prompts, M problems that were learned from, E numbers of an embedding, T targets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ibpo.routing.features import FloatArray

NUM_NEIGHBOURS = (5, 10, 20, 40, 80, 160)
"""What is tried for k."""


def unit_rows(embedded: FloatArray) -> FloatArray:
    """`[N, E]` embeddings scaled to length 1, rounded to the float32 in which a router's file keeps them."""
    length = np.linalg.norm(embedded, axis=1, keepdims=True)
    return (embedded / np.where(length > 0, length, 1.0)).astype(np.float32).astype(np.float64)


def mean_of_nearest(near: FloatArray, target: FloatArray, num: FloatArray, embedded: FloatArray) -> FloatArray:
    r"""`[N, T]` mean target of the `num_t` problems whose embeddings have the largest cosine with the prompt's.

    Args:
        near: `[M, E]` of the problems, of length 1 (`unit_rows`).
        target: `[M, T]`.
        num: `[T]` k of each target, at least 1; all M where that is fewer.
        embedded: `[N, E]` of the prompts.
    """
    found = np.zeros((len(embedded), target.shape[1]))
    ks = np.minimum(num.astype(int), len(near))
    if not len(embedded) or not len(ks):
        return found
    order = _nearest(unit_rows(embedded) @ near.T, int(ks.max()))
    for k in np.unique(ks).tolist():
        which = np.flatnonzero(ks == k)
        found[:, which] = target[order[:, :k][:, :, None], which].mean(axis=1)
    return found


def leave_one_out(unit: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Per target the k of the least mean squared error when each problem is predicted by the others, exactly.

    Args:
        unit: `[M, E]` embeddings of length 1.
        target: `[M, T]`.

    Returns:
        k `[T]`, and target less prediction at that k `[M, T]`.
    """
    tried = [k for k in NUM_NEIGHBOURS if k < len(unit)] or [max(1, len(unit) - 1)]
    close = unit @ unit.T
    np.fill_diagonal(close, -np.inf)
    sums = np.cumsum(target[_nearest(close, max(tried))], axis=1)
    errors = np.array([((target - sums[:, k - 1] / k) ** 2).mean(axis=0) for k in tried])
    num = np.array(tried)[np.argmin(errors, axis=0)]
    return num.astype(np.float64), target - sums[:, num - 1, np.arange(target.shape[1])] / num


def _nearest(close: FloatArray, num: int) -> NDArray[np.int64]:
    """`[N, num]` places of the largest of each row `[N, M]`, the largest first."""
    some = np.argpartition(-close, num - 1, axis=1)[:, :num] if num < close.shape[1] else _every(close)
    order = np.argsort(-np.take_along_axis(close, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def _every(close: FloatArray) -> NDArray[np.int64]:
    return np.tile(np.arange(close.shape[1]), (len(close), 1))
