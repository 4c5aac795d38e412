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
    """bool [R]: exactly one rollout per prompt, or none where the prompt has no usable one."""
    assigned_group: np.ndarray
    """int [P]: the response group that the allocation gives the prompt, -1 where none was chosen."""
    utility: np.ndarray
    """float [R]."""
    price: np.ndarray
    """float [number of budgets]: what one more unit of budget would buy."""
    allowed: np.ndarray
    """float [number of budgets]."""
    spent: np.ndarray
    """float [number of budgets]: mean cost per prompt of this batch's choices."""


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


def shrink(value: np.ndarray, fitted: np.ndarray, count: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """Empirical Bayes: means of few samples, moved towards their regression as far as their noise asks for.

    With s2 the variance of a single reward within a cell (pooled) and t2 the variance of the true values about the
    regression (the residuals' variance less the noise), the estimate is

        fitted + t2 / (t2 + s2 / n) (value - fitted)

    and `fitted` where nothing was sampled. All arrays are [W] for one response group.
    """
    seen = count > 0
    freedom = np.sum(np.maximum(count[seen] - 1, 0))
    if not freedom:
        return fitted
    noise = scatter[seen].sum() / freedom / np.maximum(count, 1)
    spread = max(0.0, float(np.mean((value[seen] - fitted[seen]) ** 2) - noise[seen].mean()))
    if spread == 0.0:
        return fitted
    return np.where(seen, fitted + spread / (spread + noise) * (np.nan_to_num(value) - fitted), fitted)


PENALTIES = 10.0 ** np.arange(-1, 5.01, 0.5)


def ridge(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fitted values [W] of a ridge regression with intercept, its penalty chosen by generalised cross-validation.

    With S = X (X'X + p I)^-1 X' on centred features X, the penalty p minimises n ||y - S y||^2 / (n - tr S - 1)^2 over
    `PENALTIES` (Golub, Heath and Wahba 1979). Rows with a NaN target are fitted but not learnt from.
    """
    use = ~np.isnan(target)
    if not use.any():
        return np.zeros(len(features))
    x_mean, y_mean = features[use].mean(0), target[use].mean()
    x, y = features[use] - x_mean, target[use] - y_mean
    n = len(y)
    eigenvalue, axes = np.linalg.eigh(x.T @ x)
    eigenvalue = np.maximum(eigenvalue, 0.0)
    projected = axes.T @ (x.T @ y)
    inverse = 1.0 / (eigenvalue + PENALTIES[:, None])
    residual = y @ y - 2.0 * (projected**2 * inverse).sum(1) + (eigenvalue * projected**2 * inverse**2).sum(1)
    freedom = n - 1.0 - (eigenvalue * inverse).sum(1)
    score = np.where(freedom > 0, residual / np.maximum(freedom, 1e-9) ** 2, np.inf)
    best = inverse[int(np.argmin(score))] if np.isfinite(score).any() else inverse[-1]
    return y_mean + (features - x_mean) @ (axes @ (best * projected))


HEADROOM = 0.005
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
        -0.0035
    """
    if allowed is None:
        return (1.0 - gain) * adjustment
    error = (allowed - HEADROOM) - (measured - (spent - allowed - adjustment))
    return float(np.clip(adjustment + gain * error, -0.1, 0.1))


class LowerLevel:
    """Margins and allocation over a sliding window of batches (the paper's sample accumulation, made continuous).

    Args:
        num_groups: K; response group 0 is the standard one.
        budgets: response group index -> share of prompts that it may answer at most, in [0, 1].
        token_budget: mean tokens per prompt, or None.
        utility: "reward" (a response's own reward: RAFT), "margin" (the paper's: its reward minus the mean reward of
            the other groups), "group_mean" (the group's mean reward on the prompt), or "regression" (that mean, shrunk
            towards its regression on the prompt's features over the window).
        window: batches that the regression and the allocation look at, this one included.
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
        candidate_utility = candidate_utility - self.min_gain * (group > 0)
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
        chosen = self._choose(batch, assigned, utility, rng)
        spent = np.array([np.mean(assigned == g) for g in self.budgets])
        return Selection(
            chosen=chosen,
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

    def _choose(self, batch: Batch, assigned: np.ndarray, utility: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The best rewarded response of the assigned group, ties at random."""
        score = batch.reward + rng.random(len(batch.reward)) * 1e-6
        score = np.where(batch.response_group == assigned[batch.prompt], score, -np.inf)
        score[batch.response_group < 0] = -np.inf
        chosen = np.zeros(len(score), bool)
        order = np.lexsort((-score, batch.prompt))
        best = order[np.unique(batch.prompt[order], return_index=True)[1]]
        chosen[best] = np.isfinite(score[best])
        return chosen
