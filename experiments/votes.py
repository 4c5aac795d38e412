"""Adaptive self-consistency: sample one response after the other and stop when the vote is decided.

Two rules: a *consensus* of c equal answers (sequential voting's own), and Adaptive-Consistency's *posterior* (Aggarwal
et al. 2023, arXiv 2305.11860). Letters: P problems, S responses per problem.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc

from ibpo.evaluation.statistics import FloatArray

Stop = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
"""(votes of the leader `[P]`, votes of the second `[P]`) -> whether to stop."""


def consensus(num_votes: int) -> Stop:
    """Stop as soon as one answer has so many votes."""
    return lambda first, second: first >= num_votes


def posterior(threshold: float) -> Stop:
    r"""Stop when the leader is the majority of the two leading answers with this probability.

    With v1, v2 their votes and a uniform prior on the leader's part p of the two,

        P(p > 1/2 | v1, v2) = 1 - I_{1/2}(v1 + 1, v2 + 1) >= threshold

    Example:
        >>> import numpy as np
        >>> posterior(0.95)(np.array([3, 4, 6]), np.array([0, 0, 1])).tolist()
        [False, True, True]
    """
    return lambda first, second: 1 - betainc(first + 1.0, second + 1.0, 0.5) >= threshold


def adaptive_votes(
    answers: ArrayLike, correct: ArrayLike, tokens: ArrayLike, stop: Stop, *, num_orders: int = 24, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Expected accuracy and cost of voting until `stop`, at the latest after all S responses; ties split evenly.

    A response without an answer (None) costs and has no vote. The expectation is over orders of the responses, all
    problems in the same ones.

    Args:
        answers: `[P, S]` answers, None where a response gives none.
        correct: `[P, S]` whether the answer is right.
        tokens: `[P, S]` cost of each response.
        stop: When to stop.
        num_orders: Random orders to average over.
        seed: Of the orders.

    Returns:
        `[P]` accuracy and `[P]` cost.

    Example:
        >>> accuracy, cost = adaptive_votes([["4", "4", "4", "7"]], [[1, 1, 1, 0]], [[10] * 4], consensus(2))
        >>> accuracy.tolist(), bool(20 <= cost[0] <= 30)
        ([1.0], True)
    """
    answers_PS, correct_PS = np.asarray(answers, dtype=object), np.asarray(correct, float)
    tokens_PS = np.asarray(tokens, float)
    names = {answer: code for code, answer in enumerate({a for a in answers_PS.flat if a is not None})}
    code_PS = np.array([[names.get(a, -1) for a in row] for row in answers_PS]).reshape(answers_PS.shape)
    num_problems, num_responses = len(answers_PS), answers_PS.shape[1]
    rng = np.random.default_rng(seed)
    accuracy_P, cost_P = np.zeros(num_problems), np.zeros(num_problems)
    for _ in range(num_orders):
        order = rng.permutation(num_responses)
        code, right, cost = code_PS[:, order], correct_PS[:, order], tokens_PS[:, order]
        going = np.ones(num_problems, bool)
        for used in range(1, num_responses + 1):
            seen = code[:, :used]
            votes = (seen[:, :, None] == seen[:, None, :]).sum(2) * (seen >= 0)  # of each response's answer
            first = votes.max(1)
            leader = seen[np.arange(num_problems), votes.argmax(1)]
            second = np.where(seen != leader[:, None], votes, 0).max(1)
            done = going & (stop(first, second) if used < num_responses else True)
            leads = (votes == first[:, None]) & (votes > 0)
            vote = (leads * right[:, :used]).sum(1) / np.maximum(leads.sum(1), 1)
            accuracy_P += np.where(done, vote, 0)
            cost_P += np.where(done, cost[:, :used].sum(1), 0)
            going &= ~done
            if not going.any():
                break
    return accuracy_P / num_orders, cost_P / num_orders
