"""The lower level of IBPO inside a training step: which response does each prompt of this batch imitate?

    reward, response group, tokens of R rollouts  ->  value of each response group on each prompt  ->  exact allocation
    under the budget over a sliding window of prompts  ->  one response per prompt

Arrays only; identical on every rank given identical inputs. Sources: Yu et al. 2025 (arXiv 2501.17974), section 3 for
reward margin, budget and sample accumulation; the regression of the values and the window are ours (docs/log.md says
what each of them bought).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ibpo.allocation import reward_margin
from ibpo.training.budgets import BudgetTerm
from ibpo.training.regression import ridge, shrink
from ibpo.training.solve import mean_spent, members, solve_within

UTILITIES = ("reward", "margin", "group_mean", "shrunken", "regression")
OF_RESPONSES = ("reward", "margin")
"""Utilities of single responses: solved batch by batch, as the window keeps means."""
PRICES = ("running", "batch")
UNSAMPLED = ("zero", "mean", "raise")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one step has sampled: R rollouts of P prompts, from K response groups."""

    prompt: np.ndarray
    """int [R]: index of the prompt, 0..P-1."""
    response_group: np.ndarray
    """int [R]: index of the response group, -1 for a response of none."""
    reward: np.ndarray
    """float [R]."""
    tokens: np.ndarray
    """float [R]."""
    features: np.ndarray
    """float [P, D]: what the values are regressed on; D may be 0."""
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Column -> text [P]: what sliced budgets look at."""
    allowed: np.ndarray | bool = True
    """bool [R]: false for a response that violates a constraint and can't be chosen; True: all may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """One response per prompt."""

    chosen: np.ndarray
    """bool [R]: one rollout per prompt, or none where the assigned group was not sampled on it."""
    best: np.ndarray
    """bool [R]: the best rollout of each response group on each prompt; `chosen` is one of them."""
    assigned_group: np.ndarray
    """int [P]: the response group that the allocation gives the prompt, -1 where it gives none."""
    utility: np.ndarray
    """float [R]."""
    price: np.ndarray
    """float [number of budgets]: what one more unit of budget would buy, per prompt of all."""
    allowed: np.ndarray
    """float [number of budgets]: what was handed out at most (at least), per prompt of the budget's slice."""
    spent: np.ndarray
    """float [number of budgets]: what this batch's prompts were assigned, per prompt of the slice; NaN without any."""
    missed: Mapping[int, float]
    """Budgets that no allocation keeps -> the nearest amount that one does, which was taken instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """What was seen of each response group on each prompt: four float [P, K]; NaN where nothing was sampled."""

    value: np.ndarray
    """Mean reward."""
    tokens: np.ndarray
    """Mean tokens."""
    count: np.ndarray
    """Number of responses."""
    scatter: np.ndarray
    """Sum of squared deviations of the rewards from their mean."""


def group_values(batch: Batch, num_groups: int) -> Cells:
    """Means over the rollouts of each response group on each prompt."""
    num_prompts = len(batch.features)
    known = batch.response_group >= 0
    cell = batch.prompt[known] * num_groups + batch.response_group[known]
    reward, size = batch.reward[known], num_prompts * num_groups
    count = np.bincount(cell, minlength=size).astype(float)
    with np.errstate(invalid="ignore"):
        value = np.bincount(cell, reward, size) / count
        tokens = np.bincount(cell, batch.tokens[known], size) / count
    scatter = np.bincount(cell, (reward - value[cell]) ** 2, size)
    value, tokens, count, scatter = (a.reshape(num_prompts, num_groups) for a in (value, tokens, count, scatter))
    return Cells(value=value, tokens=tokens, count=count, scatter=scatter)


def best_of_each_group(batch: Batch, rng: np.random.Generator) -> np.ndarray:
    """Bool [R]: the allowed rollout with the largest reward of each response group on each prompt, ties at random."""
    score = np.where(batch.allowed, batch.reward + rng.random(len(batch.reward)) * 1e-6, -np.inf)
    order = np.lexsort((-score, batch.response_group, batch.prompt))
    cell = np.stack([batch.prompt, batch.response_group], 1)[order]
    first = np.ones(len(order), bool)
    first[1:] = (cell[1:] != cell[:-1]).any(1)
    best = np.zeros(len(order), bool)
    best[order[first]] = True
    return best & (batch.response_group >= 0) & batch.allowed


class LowerLevel:
    """Margins and allocation over a sliding window of batches (the paper's sample accumulation, made continuous).

    Args:
        num_groups: K; response group 0 is the standard one.
        budgets: what may be spent.
        utility: "reward" (a response's own reward: RAFT), "margin" (the paper's: its reward minus the mean reward of
            the other groups), "group_mean" (the group's mean reward on the prompt), "shrunken" (that mean, shrunk
            towards its regression on the prompt's features over the window), or "regression" (the regression alone).
        window: batches that the regression and the running price look at, this one included.
        min_gain: a group other than the standard one must promise this much more reward, or it gets nothing.
        seed: of the random choice among equally good responses.
        price: "running": allocate over the whole window and keep this batch's part, so that the budget holds over the
            window; "batch": over this batch alone, so that it holds in each. None: "running", but "batch" for
            "reward" and "margin", which know no window.
        unsampled: of "margin", where no other response group was sampled; as in `ibpo.reward_margin`.

    Raises:
        ValueError: for an unknown option.
    """

    def __init__(
        self,
        *,
        num_groups: int,
        budgets: Sequence[BudgetTerm],
        utility: str = "regression",
        window: int = 32,
        min_gain: float = 0.0,
        seed: int = 0,
        price: str | None = None,
        unsampled: str = "zero",
    ) -> None:
        if utility not in UTILITIES:
            raise ValueError(f"utility must be one of {', '.join(UTILITIES)}, got {utility!r}")
        if unsampled not in UNSAMPLED:
            raise ValueError(f"unsampled must be one of {', '.join(UNSAMPLED)}, got {unsampled!r}")
        self.price = price or ("batch" if utility in OF_RESPONSES else "running")
        if self.price not in PRICES:
            raise ValueError(f"price must be one of {', '.join(PRICES)}, got {price!r}")
        if self.price == "running" and utility in OF_RESPONSES:
            raise ValueError(
                f"price=running needs utilities of response groups, and {utility!r} is one of single responses; "
                "take price=batch, or utility=group_mean, which orders the prompts as the margin does"
            )
        self.num_groups, self.budgets = num_groups, list(budgets)
        self.utility, self.min_gain, self.seed, self.unsampled = utility, min_gain, seed, unsampled
        self.history: deque[tuple[np.ndarray, Cells, np.ndarray]] = deque(maxlen=window)
        """Of each batch: features [P, D], cells, in which budgets' slices each prompt lies [P, number of budgets]."""

    def solve(self, batch: Batch, step: int, adjustment: float = 0.0) -> Selection:
        """Allocate over the window, then choose one response per prompt of this batch.

        Args:
            batch: this step's rollouts.
            step: number of the step; with `seed` it fixes the choice among ties.
            adjustment: added to every plain share budget (feedback on the share that the policy really spends).
        """
        rng = np.random.default_rng([self.seed, step])
        cells = group_values(batch, self.num_groups)
        num_prompts = len(cells.value)
        # Single precision: they are most of a checkpoint.
        self.history.append(
            (batch.features.astype(np.float32), cells, members(self.budgets, batch.slices, num_prompts))
        )
        can = (batch.response_group >= 0) & batch.allowed
        if self.utility in OF_RESPONSES:
            utility = self._response_utility(batch)
            candidate_utility = utility[can]
            problem, group = batch.prompt[can], batch.response_group[can]
            cost_tokens, first = batch.tokens[can], 0
            member = self.history[-1][2]
        else:
            values, window_tokens = self._window_values()
            first = len(values) - num_prompts
            utility = np.where(
                batch.response_group >= 0, values[first + batch.prompt, np.maximum(batch.response_group, 0)], np.nan
            )
            member = np.concatenate([m for _, _, m in self.history])
            values = self._without_violating(values, first, batch)
            if self.price == "batch":
                values, window_tokens, member, first = values[first:], window_tokens[first:], member[first:], 0
            observed = ~np.isnan(values)
            problem, group = np.nonzero(observed)
            candidate_utility, cost_tokens = values[observed], window_tokens[observed]
        # At least twice the noise below: a gain of zero never spends budget.
        candidate_utility = candidate_utility - max(self.min_gain, 2e-6) * (group > 0)
        # A tiny random part decides among equals without a leaning: "shortest first" would teach to stop early.
        noise = rng.random(len(candidate_utility)) * 1e-6
        weight, price, allowed, missed = solve_within(
            self.budgets, candidate_utility + noise, problem, group, cost_tokens, member, adjustment
        )
        assigned, tokens = np.full(num_prompts, -1), np.zeros(num_prompts)
        here = weight & (problem >= first)
        assigned[problem[here] - first] = group[here]
        tokens[problem[here] - first] = cost_tokens[here]
        best = best_of_each_group(batch, rng)
        return Selection(
            chosen=best & (batch.response_group == assigned[batch.prompt]),
            best=best,
            assigned_group=assigned,
            utility=np.nan_to_num(utility),
            price=price,
            allowed=allowed,
            spent=mean_spent(self.budgets, assigned, tokens, self.history[-1][2]),
            missed=missed,
        )

    def _response_utility(self, batch: Batch) -> np.ndarray:
        if self.utility == "reward":
            return batch.reward
        known = batch.response_group >= 0
        utility = np.full(len(batch.reward), np.nan)
        group = batch.response_group[known]
        if len(np.unique(group)) < 2 and self.unsampled != "raise":
            utility[known] = 0.0
        else:
            utility[known] = reward_margin(
                batch.reward[known],
                batch.prompt[known],
                group,
                unsampled=self.unsampled,  # pyright: ignore[reportArgumentType]
            )
        return utility

    def _without_violating(self, values: np.ndarray, first: int, batch: Batch) -> np.ndarray:
        """NaN where all responses of a group to a prompt of this batch violate constraints: not to be had."""
        if np.all(batch.allowed):
            return values
        num_seen, num_allowed = np.zeros((2, len(values) - first, self.num_groups))
        known = batch.response_group >= 0
        for count, rows in ((num_seen, known), (num_allowed, known & batch.allowed)):
            np.add.at(count, (batch.prompt[rows], batch.response_group[rows]), 1)
        values = values.copy()
        values[first:][(num_seen > 0) & (num_allowed == 0)] = np.nan
        return values

    def _window_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and tokens [W, K] of all prompts in the window, the last P rows being this batch's."""
        features = np.concatenate([f for f, _, _ in self.history])
        value, tokens, count, scatter = (
            np.concatenate([getattr(cells, name) for _, cells, _ in self.history])
            for name in ("value", "tokens", "count", "scatter")
        )
        if self.utility == "group_mean" or features.shape[1] == 0:
            return value, tokens
        estimate, fitted_tokens = ridge(features, value), np.zeros_like(value)
        if self.utility == "shrunken":
            for g in range(self.num_groups):
                estimate[:, g] = shrink(value[:, g], estimate[:, g], count[:, g], scatter[:, g])
        if any(term.group is None for term in self.budgets):
            fitted_tokens = np.maximum(ridge(features, tokens), 0.0)
        return estimate, fitted_tokens
