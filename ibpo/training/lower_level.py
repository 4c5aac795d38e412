"""The lower level of IBPO inside a training step: which response does each prompt of this batch imitate?

    reward, response group, tokens of R rollouts  ->  value of each response group on each prompt  ->  exact allocation
    under the budget over a sliding window of prompts  ->  one response per prompt

Arrays only; identical on every rank given identical inputs. Sources: Yu et al. 2025 (arXiv 2501.17974), section 3 for
reward margin, budget and sample accumulation; the regression of the values and the window are ours (docs/log.md says
what each of them bought).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from ibpo.allocation import allocate
from ibpo.training.regression import ridge, shrink

UTILITIES = ("reward", "margin", "group_mean", "shrunken", "regression")


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
    """float [number of budgets]: what one more unit of budget would buy."""
    allowed: np.ndarray
    """float [number of budgets]."""
    spent: np.ndarray
    """float [number of share budgets]: share of this batch's prompts that were assigned the group."""


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
    """Bool [R]: the rollout with the largest reward of each response group on each prompt, ties at random."""
    score = batch.reward + rng.random(len(batch.reward)) * 1e-6
    order = np.lexsort((-score, batch.response_group, batch.prompt))
    cell = np.stack([batch.prompt, batch.response_group], 1)[order]
    first = np.ones(len(order), bool)
    first[1:] = (cell[1:] != cell[:-1]).any(1)
    best = np.zeros(len(order), bool)
    best[order[first]] = True
    return best & (batch.response_group >= 0)


class LowerLevel:
    """Margins and allocation over a sliding window of batches (the paper's sample accumulation, made continuous).

    Args:
        num_groups: K; response group 0 is the standard one.
        budgets: response group index -> share of prompts that it may answer at most, in [0, 1].
        token_budget: mean tokens per prompt, or None.
        utility: "reward" (a response's own reward: RAFT), "margin" (the paper's: its reward minus the mean reward of
            the other groups), "group_mean" (the group's mean reward on the prompt), "shrunken" (that mean, shrunk
            towards its regression on the prompt's features over the window), or "regression" (the regression alone).
        window: batches that the regression and the allocation look at, this one included; "reward" and "margin" look
            at this one alone.
        min_gain: a group other than the standard one must promise this much more reward, or it gets nothing.
        seed: of the random choice among equally good responses.
    """

    def __init__(
        self,
        *,
        num_groups: int,
        budgets: dict[int, float],
        token_budget: float | None = None,
        utility: str = "regression",
        window: int = 32,
        min_gain: float = 0.0,
        seed: int = 0,
    ) -> None:
        if utility not in UTILITIES:
            raise ValueError(f"utility must be one of {', '.join(UTILITIES)}, got {utility!r}")
        self.num_groups, self.budgets, self.token_budget = num_groups, budgets, token_budget
        self.utility, self.min_gain, self.seed = utility, min_gain, seed
        self.history: deque[tuple[np.ndarray, Cells]] = deque(maxlen=window)

    def solve(self, batch: Batch, step: int, adjustment: float = 0.0) -> Selection:
        """Allocate over the window, then choose one response per prompt of this batch.

        Args:
            batch: this step's rollouts.
            step: number of the step; with `seed` it fixes the choice among ties.
            adjustment: added to every share budget (feedback on the share that the policy really spends).
        """
        rng = np.random.default_rng([self.seed, step])
        cells = group_values(batch, self.num_groups)
        self.history.append((batch.features, cells))
        num_prompts = len(cells.value)
        if self.utility in ("reward", "margin"):
            utility = self._response_utility(batch, cells.value)
            usable = batch.response_group >= 0
            candidate_utility = utility[usable]
            problem, group = batch.prompt[usable], batch.response_group[usable]
            cost_tokens, first = batch.tokens[usable], 0
        else:
            values, window_tokens = self._window_values()
            total = len(values)
            first = total - num_prompts
            observed = ~np.isnan(values)
            problem, group = np.nonzero(observed)
            candidate_utility, cost_tokens = values[observed], window_tokens[observed]
            utility = np.where(
                batch.response_group >= 0, values[first + batch.prompt, np.maximum(batch.response_group, 0)], np.nan
            )
        # At least twice the noise below: a gain of zero never spends budget.
        candidate_utility = candidate_utility - max(self.min_gain, 2e-6) * (group > 0)
        cost, allowed = self._budgets(group, cost_tokens, adjustment)
        # A tiny random part decides among equals without a leaning: "shortest first" would teach to stop early.
        noise = rng.random(len(candidate_utility)) * 1e-6
        if not len(problem):
            weight, price = np.zeros(0, bool), np.zeros(len(allowed))
        elif len(allowed):
            allocation = allocate(candidate_utility + noise, problem, cost, allowed, choose="exactly_one")
            weight, price = allocation.weight > 0, np.atleast_1d(allocation.price)
        else:
            order = np.lexsort((-(candidate_utility + noise), problem))
            weight = np.zeros(len(problem), bool)
            weight[order[np.unique(problem[order], return_index=True)[1]]] = True
            price = np.zeros(0)
        assigned = np.full(num_prompts, -1)
        here = weight & (problem >= first)
        assigned[problem[here] - first] = group[here]
        best = best_of_each_group(batch, rng)
        chosen = best & (batch.response_group == assigned[batch.prompt])
        spent = np.array([np.mean(assigned == g) for g in self.budgets])
        return Selection(
            chosen=chosen,
            best=best,
            assigned_group=assigned,
            utility=np.nan_to_num(utility),
            price=price,
            allowed=allowed,
            spent=spent,
        )

    def _response_utility(self, batch: Batch, value: np.ndarray) -> np.ndarray:
        if self.utility == "reward":
            return batch.reward
        others = np.full(len(batch.reward), np.nan)
        for g in range(self.num_groups):
            other = np.delete(value, g, axis=1)
            known = ~np.isnan(other)
            mean = np.where(known.any(1), np.nansum(other, 1) / np.maximum(known.sum(1), 1), 0.0)
            mine = batch.response_group == g
            others[mine] = mean[batch.prompt[mine]]
        return batch.reward - np.nan_to_num(others)

    def _window_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and tokens [W, K] of all prompts in the window, the last P rows being this batch's."""
        features = np.concatenate([f for f, _ in self.history])
        value, tokens, count, scatter = (
            np.concatenate([getattr(cells, name) for _, cells in self.history])
            for name in ("value", "tokens", "count", "scatter")
        )
        if self.utility == "group_mean" or features.shape[1] == 0:
            return value, tokens
        standard = (features - features.mean(0)) / (features.std(0) + 1e-6)
        estimate, fitted_tokens = np.empty_like(value), np.zeros_like(value)
        for g in range(self.num_groups):
            estimate[:, g] = ridge(standard, value[:, g])
            if self.utility == "shrunken":
                estimate[:, g] = shrink(value[:, g], estimate[:, g], count[:, g], scatter[:, g])
            if self.token_budget is not None:
                fitted_tokens[:, g] = np.maximum(ridge(standard, tokens[:, g]), 0.0)
        return estimate, fitted_tokens

    def _budgets(self, group: np.ndarray, tokens: np.ndarray, adjustment: float) -> tuple[np.ndarray, np.ndarray]:
        rows = [(group == g).astype(float) for g in self.budgets]
        allowed = [float(np.clip(share + adjustment, 0.0, 1.0)) for share in self.budgets.values()]
        if self.token_budget is not None:
            rows.append(tokens)
            allowed.append(self.token_budget)
        return np.array(rows).reshape(len(rows), len(group)), np.array(allowed)
