"""Problems drawn with replacement, once for all the numbers of an evaluation that are bootstrapped."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ibpo.evaluation.metrics import FloatArray


@lru_cache(maxsize=1)
def draw_weights(num_problems: int, num_draws: int, seed: int) -> FloatArray:
    """`[D, P]` weights of the problems, each row of sum 1; read-only, the last one is kept.

    Example:
        >>> draw_weights(4, 2, 0).sum(1).tolist()
        [1.0, 1.0]
    """
    equal_P = np.full(num_problems, 1 / num_problems)
    weight_DP = np.random.default_rng(seed).multinomial(num_problems, equal_P, num_draws) / num_problems
    weight_DP.setflags(write=False)
    return weight_DP
