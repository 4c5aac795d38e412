"""What would another router have been worth on requests that were served by this one? From the log of the served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ibpo.errors import IbpoError
from ibpo.routing.features import FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class OffPolicyValue:
    """Mean reward of a candidate, estimated three ways, each with its standard error."""

    ips: float
    """Inverse propensity: unbiased, of large variance where weights are."""
    ips_error: float
    self_normalised: float
    """Divided by the sum of the weights: a little biased, and never outside the rewards' range."""
    self_normalised_error: float
    doubly_robust: float | None
    """With predicted rewards: unbiased if the propensities are right, of small variance if the predictions are."""
    doubly_robust_error: float | None
    effective_size: float
    """(sum of weights)^2 / sum of their squares: by how many requests the estimate stands."""
    largest_weight: float


def evaluate_off_policy(
    response_group: Sequence[int],
    reward: Sequence[float],
    propensity: Sequence[float],
    candidate: FloatArray,
    predicted: FloatArray | None = None,
) -> OffPolicyValue:
    r"""Estimate the mean reward of a candidate router from served requests.

    With p_i the probability with which the response group a_i that answered was chosen (`Reservation.propensity`), pi
    the candidate's probabilities, w_i = pi_i(a_i) / p_i, r_i the reward and q predicted rewards,

        IPS = mean w r,     SNIPS = sum w r / sum w,     DR = mean [ sum_a pi(a) q(a) + w (r - q(a_i)) ].

    Assumed: the propensities are those by which was drawn (the controller's are, given all that came before); each is
    above 0 wherever the candidate would act (with `explore` at 0 they are 1, and only agreement can be judged); a
    request's reward depends on its own answer alone; whose outcome is missing is missing whatever it was. A budget
    couples requests by its price: the candidate is judged with the choices given here, at whatever price made them, and
    not by what the budget would have made of other spending.

    Args:
        response_group: `[N]` places of the response groups that answered.
        reward: `[N]`.
        propensity: `[N]` in (0, 1].
        candidate: `[N, G]` probabilities of the candidate, each row's sum 1; 0/1 for a router that does not draw.
        predicted: `[N, G]` expected rewards, e.g. of a fitted router; they must not come from these rewards.

    Raises:
        IbpoError: Lengths that differ, or numbers out of range; or a candidate that agrees with none of the log.

    Example:
        >>> found = evaluate_off_policy([0, 1, 1, 0], [0, 1, 1, 0], [0.5] * 4, np.array([[0.0, 1.0]] * 4))
        >>> found.ips, found.self_normalised, found.effective_size
        (1.0, 1.0, 2.0)
    """
    place, r, p = np.asarray(response_group, int), np.asarray(reward, float), np.asarray(propensity, float)
    pi, size = np.asarray(candidate, float), len(np.asarray(response_group))
    if not size or r.shape != (size,) or p.shape != (size,) or pi.ndim != 2 or len(pi) != size:
        raise IbpoError("off-policy evaluation needs one response group, reward, propensity and row for each request")
    if not np.isfinite(r).all() or not ((p > 0) & (p <= 1)).all():
        raise IbpoError("off-policy evaluation needs finite rewards, and propensities above 0 and at most 1")
    if (place < 0).any() or (place >= pi.shape[1]).any():
        raise IbpoError(f"a response group is not among the candidate's {pi.shape[1]}")
    if (pi < 0).any() or not np.allclose(pi.sum(axis=1), 1.0):
        raise IbpoError("each row of the candidate must be probabilities, whose sum is 1")
    rows = np.arange(size)
    weight = pi[rows, place] / p
    total = float(weight.sum())
    if total == 0:
        raise IbpoError("the candidate agrees with none of these choices: the log says nothing about it; explore more")
    normalised = float(weight @ r / total)
    direct, direct_error = None, None
    if predicted is not None:
        q = np.asarray(predicted, float)
        if q.shape != pi.shape:
            raise IbpoError(f"predicted is {q.shape}; it must be {pi.shape}")
        direct, direct_error = _mean((pi * q).sum(axis=1) + weight * (r - q[rows, place]))
    ips, ips_error = _mean(weight * r)
    spread = weight * (r - normalised) / (total / size)
    return OffPolicyValue(
        ips=ips,
        ips_error=ips_error,
        self_normalised=normalised,
        self_normalised_error=_mean(spread)[1],
        doubly_robust=direct,
        doubly_robust_error=direct_error,
        effective_size=float(total * total / (weight @ weight)),
        largest_weight=float(weight.max()),
    )


def _mean(values: FloatArray) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std() / np.sqrt(max(1, len(values) - 1)))
