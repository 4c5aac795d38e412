"""Hold the budget on unseen prompts: a threshold on the policy's own choice, set on unlabelled prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """Answer a prompt extended if the policy's probability of opening so lies above `value`."""

    value: float
    tie_share: float
    """Of the prompts whose probability equals `value`, the part that is answered extended too."""
    share: float
    """The budget that was asked for."""
    calibration_share: float
    """Share of the calibration prompts that this threshold answers extended: below `share` where the floor bites."""
    num_prompts: int
    """Number of calibration prompts."""

    def choose(self, p_extended: ArrayLike) -> NDArray[np.bool_]:
        """Which prompts to answer extended.

        Ties are dealt with evenly in the order of the prompts: after j tied ones, floor(j tie_share) are extended.

        Args:
            p_extended: `[P]` probability of opening an extended response.

        Returns:
            `[P]` True where the prompt is answered extended.

        Example:
            >>> threshold([0.9, 0.9, 0.9, 0.9], share=0.5).choose([0.95, 0.9, 0.9, 0.1]).tolist()
            [True, False, True, False]
        """
        p_P = np.asarray(p_extended, float)
        tied_P = p_P == self.value
        quota_P = np.floor(np.cumsum(tied_P) * self.tie_share + 1e-9)
        chosen_P = p_P > self.value
        chosen_P[tied_P] = np.diff(quota_P, prepend=0.0)[tied_P] > 0
        return chosen_P


def threshold(p_extended: ArrayLike, share: float, floor: float = 0.0) -> Threshold:
    r"""The (1 - share) quantile of the policy's probability of an extended response, over unlabelled prompts.

    Let m = floor(share n) and p_(1) >= ... >= p_(n) the sorted probabilities. The threshold lies halfway between p_(m)
    and p_(m+1), so exactly m calibration prompts are above it; an unseen prompt from the same source is above it with
    probability about share, whatever the policy is (the sampling error of a quantile: sqrt(share (1 - share) / n)).
    Halfway, because the expected share of unseen prompts above p_(m) itself is m / (n + 1), too few, and above p_(m+1)
    it is (m + 1) / (n + 1), too many. If p_(m) = p_(m+1), the tied prompts are split, `tie_share` of them extended.

    A budget is a bound, not a target: where it had slack in training (price 0), the policy's choice is what pays, not
    what it may spend, and a prompt that it would rather answer standard (p <= 1/2) gains nothing. `floor=0.5` leaves
    such prompts alone and the rest of the budget unspent. Where the budget was binding, the policy was denied what
    would have paid, and there must be no floor.

    Args:
        p_extended: `[n]` probabilities on the calibration prompts; or a router's gains, which may be negative.
        share: The budget q+ in [0, 1].
        floor: Prompts whose probability is not above this are never answered extended; 0 for no floor, but of gains it
            leaves alone those that are not above 0.

    Returns:
        The threshold; without a floor, on the calibration prompts its `choose` takes exactly m.

    Raises:
        ValueError: no prompts, a score that is not finite, or a share or floor outside [0, 1].

    Example:
        >>> found = threshold([0.1, 0.8, 0.3, 0.6], share=0.5)
        >>> round(found.value, 3), found.calibration_share
        (0.45, 0.5)
        >>> found = threshold([0.1, 0.8, 0.3, 0.6], share=0.75, floor=0.5)
        >>> found.value, found.calibration_share
        (0.5, 0.5)
    """
    p_n = np.sort(np.asarray(p_extended, float).ravel())[::-1]
    if not len(p_n):
        raise ValueError("p_extended: a threshold needs at least one calibration prompt")
    if not np.isfinite(p_n).all():
        raise ValueError("p_extended: probabilities and gains must be finite numbers")
    if not 0 <= share <= 1:
        raise ValueError(f"share: must be in [0, 1], got {share!r}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor: must be in [0, 1], got {floor!r}")
    admitted = int(np.floor(share * len(p_n) + 1e-9))
    probable = p_n[-1] >= 0 and p_n[0] <= 1
    value, tie_share = (1.0 if probable else np.inf), 0.0  # no probability lies above 1
    if admitted == len(p_n):
        value, tie_share = (0.0 if probable else -np.inf), 1.0
    elif admitted > 0:
        above, below = p_n[admitted - 1], p_n[admitted]
        value = float((above + below) / 2)
        if above == below:
            tie_share = float((admitted - (p_n > value).sum()) / (p_n == value).sum())
        elif value >= above:  # neighbouring floats have no number between them
            value = float(below)
    if (floor > 0 or p_n[-1] < 0) and value <= floor:
        value, tie_share, admitted = floor, 0.0, min(admitted, int((p_n > floor).sum()))
    return Threshold(
        value=value,
        tie_share=tie_share,
        share=float(share),
        calibration_share=admitted / len(p_n),
        num_prompts=len(p_n),
    )
