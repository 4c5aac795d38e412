"""Budget terms as rows of the allocation problem: P prompts, C candidates, K budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from ibpo.allocation import InfeasibleBudget, allocate
from ibpo.training.budgets import BudgetTerm

NODES = 100
"""Of each branch and bound, where several budgets bind: to prove the last 1e-4 of the value would take minutes, and to
find it a second (docs/log.md). Nodes and not seconds, so that every rank and every resumed run comes to the same."""


def members(budgets: Sequence[BudgetTerm], slices: Mapping[str, np.ndarray], num_prompts: int) -> np.ndarray:
    """Which prompts lie in the slice of which budget: bool [P, K].

    Args:
        budgets: K of them.
        slices: column -> text [P], at least those that the budgets name.
        num_prompts: P.
    """
    inside = np.ones((num_prompts, len(budgets)), bool)
    for k, term in enumerate(budgets):
        if term.column:
            inside[:, k] = slices[term.column] == term.value
    return inside


def solve_within(
    budgets: Sequence[BudgetTerm],
    utility: np.ndarray,
    problem: np.ndarray,
    group: np.ndarray,
    tokens: np.ndarray,
    member: np.ndarray,
    adjustment: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, float]]:
    """One candidate per prompt, the best inside all budgets; one that can't be kept gives way as little as it must.

    Args:
        budgets: K of them, possibly none.
        utility: float [C].
        problem: int [C], the prompt of each candidate.
        group: int [C], its response group.
        tokens: float [C].
        member: bool [P, K]: which prompts lie in which budget's slice.
        adjustment: added to every plain share.

    Returns:
        Chosen candidates, bool [C]; prices [K]; amounts [K], adjusted; and for each budget that gave way the nearest
        amount that can be kept.

    Raises:
        InfeasibleBudget: where giving way does not help.
    """
    # Exactly as written, but where the feedback moves a share.
    amounts = [
        float(np.clip(float(term.amount) + adjustment, 0.0, 1.0)) if adjustment and term.is_plain_share else term.amount
        for term in budgets
    ]
    # Per prompt of the slice -> per prompt of all, exactly.
    present = member[np.unique(problem)]
    parts = [Fraction(int(present[:, k].sum()), max(len(present), 1)) for k in range(len(budgets))]
    bounds: list[float | Fraction] = [
        Fraction(str(amount)) * part if term.column else amount
        for term, amount, part in zip(budgets, amounts, parts, strict=True)
    ]
    costs = []
    for k, term in enumerate(budgets):
        cost = tokens if term.group is None else (group == term.group).astype(float)
        costs.append(np.where(member[problem, k], cost, 0.0) if term.column else cost)
    missed: dict[int, float] = {}
    while len(problem) and budgets:
        caps = [None if term.at_least else bound for term, bound in zip(budgets, bounds, strict=True)]
        floors = [bound if term.at_least else None for term, bound in zip(budgets, bounds, strict=True)]
        lower = floors if any(floor is not None for floor in floors) else None
        try:
            allocation = allocate(
                utility, problem, np.array(costs), caps, at_least=lower, time_limit_s=600.0, node_limit=NODES
            )
        except InfeasibleBudget as error:
            k = error.budget_index
            if k in missed and error.nearest == bounds[k]:
                raise
            bounds[k], missed[k] = error.nearest, error.nearest / float(parts[k] or 1)
            continue
        return allocation.weight > 0, np.atleast_1d(allocation.price), np.array(amounts, float), missed
    order = np.lexsort((-utility, problem))
    weight = np.zeros(len(problem), bool)
    weight[order[np.unique(problem[order], return_index=True)[1]]] = True
    return weight, np.zeros(len(budgets)), np.array(amounts, float), missed


def mean_spent(
    budgets: Sequence[BudgetTerm], assigned: np.ndarray, tokens: np.ndarray, member: np.ndarray
) -> np.ndarray:
    """Mean cost of what the prompts were assigned, over each budget's slice: float [K], NaN for an empty slice.

    Args:
        budgets: K of them.
        assigned: int [P], response group or -1.
        tokens: float [P].
        member: bool [P, K].
    """
    spent = np.full(len(budgets), np.nan)
    for k, term in enumerate(budgets):
        inside = member[:, k]
        if inside.any():
            cost = tokens if term.group is None else assigned == term.group
            spent[k] = np.mean(cost[inside])
    return spent
