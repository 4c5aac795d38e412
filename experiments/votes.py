"""Baselines that only sample: adaptive self-consistency, and the oracle by problem.

Adaptive self-consistency: sample one response after the other and stop when the vote is decided. Two rules: a
*consensus* of c equal answers (sequential voting's own), and Adaptive-Consistency's *posterior* (Aggarwal et al. 2023,
arXiv 2305.11860). The oracle by problem knows the answers. Letters: P problems, S responses per problem.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc

from ibpo.evaluation import FloatArray, answer_codes, halves

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
        seed: Seed of the orders.

    Returns:
        `[P]` accuracy and `[P]` cost.

    Example:
        >>> accuracy, cost = adaptive_votes([["4", "4", "4", "7"]], [[1, 1, 1, 0]], [[10] * 4], consensus(2))
        >>> accuracy.tolist(), bool(20 <= cost[0] <= 30)
        ([1.0], True)
    """
    answers_PS, correct_PS = np.asarray(answers, dtype=object), np.asarray(correct, float)
    tokens_PS = np.asarray(tokens, float)
    code_PS = answer_codes(answers_PS, correct_PS)
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
        seed: Seed of halvings and ties.

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
