"""The reward margin: what a response group buys over the others."""

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ibpo.allocation.problem import finite_array
from ibpo.allocation.segments import FloatArray, id_names
from ibpo.errors import IbpoError


def reward_margin(
    reward: ArrayLike,
    problem: ArrayLike | Sequence[Hashable],
    response_group: ArrayLike | Sequence[Hashable],
    *,
    unsampled: Literal["raise", "zero", "mean"] = "raise",
) -> FloatArray:
    r"""Reward minus the mean reward of the *other* response groups on the same problem.

    The utility of the lower level of IBPO (Yu et al., arXiv 2501.17974). With n_pg responses of response group g to
    problem p and their mean reward m_pg, a response r of response group g has

        margin_r = reward_r - sum_{h != g} n_ph m_ph / sum_{h != g} n_ph,

    so the subtracted term is the plain mean over the other response groups' responses.

    Args:
        reward: `[R]` reward of each response, e.g. 1 right, 0 wrong.
        problem: `[R]` problem ids.
        response_group: `[R]` names of the response groups, at least two distinct.
        unsampled: For a problem where no other response group was sampled the margin is undefined: "raise" an error;
            "zero" sets the margin to 0, so that it never earns budget; "mean" subtracts the mean reward of the other
            response groups' responses to *all* problems. To drop such problems, drop their rows before the call.

    Returns:
        `[R]` margins, all finite.

    Raises:
        IbpoError: Malformed input, or an undefined margin with `unsampled="raise"`.

    Example:
        >>> reward_margin([0, 1, 1, 1], ["p", "p", "p", "p"], ["cot", "cot", "sv", "sv"]).tolist()
        [-1.0, 0.0, 0.5, 0.5]
    """
    reward_R = finite_array("reward", reward)
    if reward_R.ndim != 1 or not len(reward_R):
        raise IbpoError(f"reward: needs one number per response, at least one, got shape {reward_R.shape}")
    names, p_R = np.unique(id_names("problem", problem, len(reward_R)), return_inverse=True)
    groups, g_R = np.unique(id_names("response_group", response_group, len(reward_R)), return_inverse=True)
    if len(groups) < 2:
        raise IbpoError(f"response_group: a margin needs at least two response groups, got only {groups[0]}")
    if unsampled not in ("raise", "zero", "mean"):
        raise IbpoError(f"unsampled: must be 'raise', 'zero' or 'mean', got {unsampled!r}")

    # n_pg and n_pg m_pg
    count, total = np.zeros((2, len(names), len(groups)))  # [P, G]
    np.add.at(count, (p_R, g_R), 1)
    np.add.at(total, (p_R, g_R), reward_R)
    # sum_{h != g} n_ph, and sum_{h != g} n_ph m_ph
    others = count.sum(1, keepdims=True) - count
    others_total = total.sum(1, keepdims=True) - total
    undefined = others[p_R, g_R] == 0
    if undefined.any() and unsampled == "raise":
        raise IbpoError(
            f"problem {names[p_R[undefined][0]]}: only response group {groups[g_R[undefined][0]]} was sampled, so its "
            f"margin is undefined; {len(set(p_R[undefined]))} such problems: unsampled='zero' or 'mean', or drop them"
        )
    baseline = (others_total / np.maximum(others, 1))[p_R, g_R]
    if unsampled == "mean":
        elsewhere = (total.sum() - total.sum(0)) / (count.sum() - count.sum(0))
        baseline[undefined] = elsewhere[g_R[undefined]]
    margin = reward_R - baseline
    if unsampled == "zero":
        margin[undefined] = 0.0
    return margin
