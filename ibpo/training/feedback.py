"""Feedback that holds the sampled share at its budget: what the policy spends lags what the allocation hands out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ibpo.training.budgets import BudgetTerm
from ibpo.training.step_view import StepView

FEEDBACK_AFTER = 0.4
"""Part of the training after which it sets in: the policy must have had time to learn its choice."""
HEADROOM = 0.02
"""Share of the prompts by which the feedback stays below the budget: it is a bound, not a target."""


def adjust(adjustment: float, allowed: float | None, spent: float, measured: float, gain: float) -> float:
    """Feedback from the share that the policy spends to the share that the allocation hands out.

    Over its window the allocation hands out `allowed + adjustment`; on this batch it handed out `spent`, the difference
    being the luck of the batch, which `measured`, the policy's share on the same prompts, has had too. Without it the
    policy spends measured - (spent - allowed - adjustment), and that is moved towards allowed - HEADROOM.

    Args:
        adjustment: the present one.
        allowed: the budget, or None while it does not bind: the adjustment then fades.
        spent: share of this batch's prompts that the allocation gave the response group.
        measured: mean probability with which the policy opens a response of that group on them.
        gain: of the integral control.

    Returns:
        The next adjustment, in [-0.1, 0.1].

    Example:
        >>> round(adjust(0.0, 0.5, spent=0.6, measured=0.63, gain=0.1), 4)  # three points too many, ten of luck
        -0.005
    """
    if allowed is None:
        return (1.0 - gain) * adjustment
    error = (allowed - HEADROOM) - (measured - (spent - allowed - adjustment))
    return float(np.clip(adjustment + gain * error, -0.1, 0.1))


def steered_budget(budgets: Sequence[BudgetTerm]) -> int | None:
    """Which budget the feedback steers: the only one that caps a share of all prompts, else none."""
    capped = [k for k, term in enumerate(budgets) if term.is_plain_share]
    return capped[0] if len(capped) == 1 else None


def adjusted(adjustment: float, view: StepView, budget: int, gain: float) -> float:
    """The next adjustment after an update, for the steered budget."""
    term, selection = view.budgets[budget], view.selection
    return adjust(
        adjustment,
        float(term.amount) if selection.price[budget] > 0 else None,
        float(selection.spent[budget]),
        float(view.share.mean(0)[term.group]),
        gain,
    )
