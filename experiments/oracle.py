"""The oracle by problem under a share budget, without its optimism: half of the responses choose, the others value.

Letters: P problems, S responses per problem.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ibpo.evaluation.oracles import halves
from ibpo.evaluation.statistics import FloatArray


def oracle_by_problem(
    standard: ArrayLike, extended: ArrayLike, budget: float, *, num_splits: int = 50, seed: int = 0
) -> tuple[FloatArray, FloatArray, FloatArray]:
    r"""Who knows half of each problem's responses extends the floor(budget P) problems that gain the most there.

    With a0_p, a+_p mean rewards on the deciding half, the gain g_p = a+_p - a0_p decides, positive ones only, ties at
    random; the other half says what the choice is worth. Both halves take both parts; averages over random halvings.
    Valued on the deciding half instead the same choice looks better than it is: that optimism is what is removed.

    Args:
        standard: `[P, S]` rewards of standard responses, S at least 2.
        extended: `[P, S']` rewards of extended responses, S' at least 2.
        budget: Largest share of problems answered extended.
        num_splits: Random halvings.
        seed: Of halvings and ties.

    Returns:
        `[P]` accuracy on responses without a say, `[P]` share of extended answers, `[P]` accuracy in sample.

    Raises:
        ValueError: for fewer than two responses.

    Example:
        >>> accuracy, share, _ = oracle_by_problem([[0, 0], [1, 1]], [[1, 1], [1, 1]], 0.5)
        >>> accuracy.tolist(), share.tolist()
        ([1.0, 1.0], [1.0, 0.0])
    """
    standard_PS, extended_PS = np.asarray(standard, float), np.asarray(extended, float)
    if min(standard_PS.shape[1], extended_PS.shape[1]) < 2:
        raise ValueError("halving needs two responses of each response group to every problem")
    num_problems, rng = len(standard_PS), np.random.default_rng(seed)
    room = int(np.floor(budget * num_problems + 1e-9))
    accuracy_P, share_P, in_sample_P = np.zeros((3, num_problems))
    for _ in range(num_splits):
        parts = [halves(rewards, rng) for rewards in (standard_PS, extended_PS)]
        for decide, value in ((0, 1), (1, 0)):
            gain_P = parts[1][decide] - parts[0][decide]
            order = np.lexsort((rng.random(num_problems), -gain_P))[:room]
            chosen_P = np.zeros(num_problems)
            chosen_P[order[gain_P[order] > 0]] = 1
            share_P += chosen_P
            accuracy_P += np.where(chosen_P > 0, parts[1][value], parts[0][value])
            in_sample_P += np.where(chosen_P > 0, parts[1][decide], parts[0][decide])
    return accuracy_P / (2 * num_splits), share_P / (2 * num_splits), in_sample_P / (2 * num_splits)
