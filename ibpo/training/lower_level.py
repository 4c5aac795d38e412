"""The lower level of IBPO inside a training step: which response does each prompt of this batch imitate?

    reward, response group, tokens of R rollouts  ->  value of each response group on each prompt  ->  exact allocation
    under the budget over a sliding window of prompts  ->  one response per prompt

In the order of this file: `Batch` in, `Selection` out; `LowerLevel`, with what it carries from step to step; the
allocation under the budgets; the values, by regression; the budget's offset, by integral control.

Arrays only; identical on every rank given identical inputs. Sources: Yu et al. 2025 (arXiv 2501.17974), section 3 for
reward margin, budget and sample accumulation; the regression of the values, the window and the offset are ours
(docs/log.md says what each of them bought).

Letters: R responses, P prompts of this batch, W prompts of the window, C candidates, K budgets, G response groups.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction

import numpy as np

from ibpo.allocation import InfeasibleBudget, allocate, reward_margin
from ibpo.errors import IbpoError
from ibpo.training.budgets import BudgetTerm

UTILITIES = ("reward", "margin", "group_mean", "shrunken", "regression")
OF_RESPONSES = ("reward", "margin")
"""Utilities of single responses: solved batch by batch, as the window keeps means."""
FITTED = ("shrunken", "regression")
"""Utilities that are regressed on the prompts' features."""
PRICES = ("running", "batch")
TIE_NOISE = 1e-6
LEAST_GAIN = 2 * TIE_NOISE
LEAST_PRICE = 1e-9
"""Least price of a budget that binds, in gain for all of it: less is rounding."""
SIGNIFICANT = 1.645
"""Standard errors from which on what prompts gain together is a gain: see `least_significant_gain`."""
DEFAULT_MIN_GAIN = 0.08
"""Least gain where none is given and none can be estimated: there is no regression, or no prompt that shows a gain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The scored rows of one step: R responses to P prompts, from G response groups."""

    prompt: np.ndarray
    """int [R]: index of the prompt, 0..P-1."""
    response_group: np.ndarray
    """int [R]: index of the response group, -1 for a response of none."""
    reward: np.ndarray
    """float [R]: 0 where a response is truncated or violates a constraint."""
    tokens: np.ndarray
    """float [R]."""
    features: np.ndarray
    """float [P, D]: what the values are regressed on; D may be 0."""
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Column -> text [P]: what sliced budgets look at."""
    allowed: np.ndarray | bool = True
    """bool [R]: false for a response that violates a constraint and can't be chosen; True: all may be."""
    truncated: np.ndarray | bool = False
    """bool [R]: true for a response that was cut off, whose completion is never imitated; False: none was."""


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
    tokens: np.ndarray
    """float [P, G]: what a response of each group was taken to cost on each prompt, where a budget is of tokens; NaN
    where a group was not seen on it."""
    min_gain: np.ndarray
    """float [G]: what each response group had to promise beyond the standard one, whose own is 0."""
    price: np.ndarray
    """float [K]: what one more unit of budget would buy, per prompt of all."""
    allowed: np.ndarray
    """float [K]: what was handed out at most (at least), per prompt of the budget's slice."""
    spent: np.ndarray
    """float [K]: what this batch's prompts were assigned, per prompt of the slice; NaN without any."""
    missed: Mapping[int, float]
    """Budgets that no allocation keeps -> the nearest amount that one does, which was taken instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservedMeans:
    """What was seen of each response group on each prompt: four float [P, G]; NaN where nothing was sampled."""

    value: np.ndarray
    """Mean reward."""
    tokens: np.ndarray
    """Mean tokens."""
    count: np.ndarray
    """Number of responses."""
    scatter: np.ndarray
    """Sum of squared deviations of the rewards from their mean."""


def weigh_prefix_and_completion(
    selection: Selection,
    batch: Batch,
    *,
    prefix_loss_weight: float,
    completion_loss_weight: float,
    imitate_completions: str,
    imitate_denied: bool,
    balance_groups: bool,
) -> np.ndarray:
    """What the allocation makes each response weigh in the update: float [R, 2].

    With z_j = 1 for the response that the allocation chose on its prompt, r_j the reward, and T_g the mean tokens of
    this batch's responses of group g,

        prefix       c_j = prefix_loss_weight z_j                      (only where r_j > 0, unless `imitate_denied`)
        completion   b_j = completion_loss_weight r_j z_j              (or of the best response of each group)
                           x T_0 / T_g                                 (if `balance_groups`)

    Weights are per token, so that a group of long responses would drown a group of short ones: balanced, the
    completions of all groups weigh as the standard group's do.

    Args:
        selection: of `LowerLevel.solve`.
        batch: the rows that it was made for.
        prefix_loss_weight: of the tokens that open a response.
        completion_loss_weight: of those behind them.
        imitate_completions: `chosen`, `every_group` (the best of each response group) or `rewarded` (RFT: both weights
            of every rewarded response, whatever was chosen).
        imitate_denied: Imitate the choice on every prompt, not only where it was rewarded.
        balance_groups: Divide by the length of the group's responses, and multiply by the standard group's.
    """
    reward, chosen = batch.reward, selection.chosen
    usable = (reward > 0) & ~np.broadcast_to(batch.truncated, reward.shape)
    # z for the prefix, and for the completion
    of_prefix = chosen if imitate_denied else chosen & usable
    of_completion = usable & (selection.best if imitate_completions == "every_group" else chosen)
    if imitate_completions == "rewarded":
        of_prefix = of_completion = usable
    c = np.where(of_prefix, prefix_loss_weight, 0.0)
    b = np.where(of_completion, completion_loss_weight * np.minimum(reward, 1.0), 0.0)
    if balance_groups:
        b = b * length_ratio(batch)
    return np.stack([c, b], 1)


def length_ratio(batch: Batch) -> np.ndarray:
    """T_0 / T_g of each response's group, float [R]: mean tokens of the standard group's responses over its own.

    1 for responses of no group, and for all where the standard group was not sampled.
    """
    known = batch.response_group >= 0
    group = batch.response_group[known]
    mean = np.bincount(group, batch.tokens[known]) / np.maximum(np.bincount(group), 1)
    factor = np.ones(len(known))
    if len(mean) and mean[0] > 0:
        factor[known] = mean[0] / np.maximum(mean[group], 1e-9)
    return factor


def group_means(batch: Batch, num_groups: int) -> ObservedMeans:
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
    return ObservedMeans(value=value, tokens=tokens, count=count, scatter=scatter)


def best_of_each_group(batch: Batch, rng: np.random.Generator) -> np.ndarray:
    """Bool [R]: the allowed rollout with the largest reward of each response group on each prompt, ties at random."""
    score = np.where(batch.allowed, batch.reward + rng.random(len(batch.reward)) * TIE_NOISE, -np.inf)
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
        num_groups: G; response group 0 is the standard one.
        budgets: what may be spent.
        utility: "reward" (a response's own reward: RAFT), "margin" (the paper's: its reward minus the mean reward of
            the other groups; 0 where no other group was sampled), "group_mean" (the group's mean reward on the
            prompt), "shrunken" (that mean, shrunk towards its regression on the prompt's features over the window), or
            "regression" (the regression alone).
        window: batches that the regression and the running price look at, this one included.
        min_gain: a group other than the standard one must promise this much more reward, or it gets nothing; None: from
            where on gains are significant, by `least_significant_gain`, for each group and step again; with another
            utility than "regression", or without features, `DEFAULT_MIN_GAIN`.
        seed: of the random choice among equally good responses.
        price: "running": allocate over the whole window and keep this batch's part, so that the budget holds over the
            window; "batch": over this batch alone, so that it holds in each. None: "running", but "batch" for
            "reward" and "margin", which know no window.

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
        min_gain: float | None = 0.0,
        seed: int = 0,
        price: str | None = None,
    ) -> None:
        if utility not in UTILITIES:
            raise ValueError(f"utility must be one of {', '.join(UTILITIES)}, got {utility!r}")
        self.price = price or ("batch" if utility in OF_RESPONSES else "running")
        if self.price not in PRICES:
            raise ValueError(f"price must be one of {', '.join(PRICES)}, got {price!r}")
        if self.price == "running" and utility in OF_RESPONSES:
            raise ValueError(
                f"price=running needs utilities of response groups, and {utility!r} is one of single responses; "
                "take price=batch, or utility=group_mean, which orders the prompts as the margin does"
            )
        self.num_groups, self.budgets = num_groups, list(budgets)
        self.utility, self.min_gain, self.seed = utility, min_gain, seed
        # All that is carried from step to step; `state` and `restore` take both through a checkpoint.
        self.history: deque[tuple[np.ndarray, ObservedMeans, np.ndarray]] = deque(maxlen=window)
        """Per batch: features [P, D], means [P, G], in which budgets' slices each prompt is [P, K]."""
        self.budget_offset = 0.0
        """Moves the budget that is `steered`: what the policy spends lags what is handed out; see `moved_amount`."""

    def forget(self) -> None:
        """Begin a training: no batch was seen yet."""
        self.history.clear()
        self.budget_offset = 0.0

    def solve(self, batch: Batch, step: int) -> Selection:
        """Allocate over the window, then choose one response per prompt of this batch.

            max_w  sum_c w_c (u_c - min_gain of c's group)   one candidate per prompt, inside every budget

        where a candidate is a response group on a prompt of the window, or a single response of this batch.

        Args:
            batch: this step's scored rows.
            step: number of the step; with `seed` it fixes the choice among ties.
        """
        rng = np.random.default_rng([self.seed, step])
        means = group_means(batch, self.num_groups)
        num_prompts = len(means.value)
        own_slices = members(self.budgets, batch.slices, num_prompts)
        # Single precision: they are most of a checkpoint.
        self.history.append((batch.features.astype(np.float32), means, own_slices))
        can = (batch.response_group >= 0) & batch.allowed
        # Candidates: utility u_c, prompt, group and tokens; the prompts of this batch begin at `first`.
        if self.utility in OF_RESPONSES:
            utility = self._response_utility(batch)
            candidate_utility = utility[can]
            problem, group = batch.prompt[can], batch.response_group[can]
            cost_tokens, first, member = batch.tokens[can], 0, own_slices
            tokens_of_group, least = means.tokens, self._given_gains()
        else:
            values, window_tokens, least = self._window_values()
            first = len(values) - num_prompts
            utility = np.where(
                batch.response_group >= 0, values[first + batch.prompt, np.maximum(batch.response_group, 0)], np.nan
            )
            member = np.concatenate([m for _, _, m in self.history])
            values = self._without_violating(values, first, batch)
            if self.price == "batch":
                values, window_tokens, member, first = values[first:], window_tokens[first:], member[first:], 0
            observed = ~np.isnan(values)
            tokens_of_group = window_tokens[first:]
            problem, group = np.nonzero(observed)
            candidate_utility, cost_tokens = values[observed], window_tokens[observed]
        candidate_utility = candidate_utility - least[group]
        # A tiny random part decides among equals without a leaning: "shortest first" would teach to stop early.
        noise = rng.random(len(candidate_utility)) * TIE_NOISE
        weight, price, allowed, missed = solve_within(
            self.budgets,
            candidate_utility + noise,
            problem,
            group,
            cost_tokens,
            member,
            None if self.steered is None else (self.steered, self.budget_offset),
        )
        # The part of the window's answer that is about this batch.
        assigned, tokens = np.full(num_prompts, -1), np.zeros(num_prompts)
        here = weight & (problem >= first)
        assigned[problem[here] - first] = group[here]
        tokens[problem[here] - first] = cost_tokens[here]
        best = best_of_each_group(batch, rng)
        chosen = best & (batch.response_group == assigned[batch.prompt])
        if self.utility in OF_RESPONSES:  # the candidate was this response, with its own tokens
            chosen = np.zeros_like(best)
            chosen[np.flatnonzero(can)[weight]] = True
            cell = batch.prompt * self.num_groups + batch.response_group
            best = np.where(np.isin(cell, cell[chosen]), chosen, best)
        return Selection(
            chosen=chosen,
            best=best,
            assigned_group=assigned,
            utility=np.nan_to_num(utility),
            tokens=tokens_of_group,
            min_gain=least,
            price=price,
            allowed=allowed,
            spent=mean_spent(self.budgets, assigned, tokens, own_slices),
            missed=missed,
        )

    @property
    def steered(self) -> int | None:
        """Which budget the offset moves: the only cap on a share of all prompts, else the one on their tokens."""
        capped = [k for k, term in enumerate(self.budgets) if term.is_plain_share]
        if len(capped) == 1:
            return capped[0]
        return next((k for k, term in enumerate(self.budgets) if not capped and term.is_plain_total), None)

    def steer(self, selection: Selection, share: np.ndarray, gain: float) -> None:
        """Move the offset after an update, for the next ones.

        Args:
            selection: what was chosen.
            share: float [P, G]: with what probability the policy opens a response of each group.
            gain: of the integral control.
        """
        k = self.steered
        if k is None:
            return
        term = self.budgets[k]
        if term.group is not None:
            unit, measured = 1.0, float(share.mean(0)[term.group])
        else:  # in parts of the budget: what the policy's choice costs, by the same tokens as the allocation's
            unit = float(term.amount) or 1.0
            measured = expected_tokens(share, selection.tokens) / unit
        binds = selection.price[k] * unit > LEAST_PRICE
        allowed, spent = float(term.amount) / unit, float(selection.spent[k]) / unit
        self.budget_offset = next_budget_offset(self.budget_offset, allowed if binds else None, spent, measured, gain)

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed training needs to go on exactly: the offset and the window, as arrays by name."""
        arrays = {"budget_offset": np.array(self.budget_offset)}
        sliced = any(term.column for term in self.budgets)
        if sliced:
            arrays["slices"] = np.array(_slices(self.budgets), str)
        for i, (features, means, member) in enumerate(self.history):
            arrays |= {f"{i:04d}_features": features} | ({f"{i:04d}_member": member} if sliced else {})
            arrays |= {f"{i:04d}_{field.name}": getattr(means, field.name) for field in fields(ObservedMeans)}
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` gave.

        Raises:
            IbpoError: Its prompts were not asked whether they are in a slice that a budget is of now.
        """
        wanted = _slices(self.budgets)
        # States of older versions do not name their slices: their budgets are these.
        unnamed = wanted if any(name.endswith("_member") for name in arrays) else []
        known = np.asarray(arrays.get("slices", unnamed)).tolist()
        unknown = [name for name in wanted if name and name not in known]
        if unknown:
            raise IbpoError(
                f"budget: the window of earlier batches does not say which of its prompts are in {unknown[0]}: the "
                "training began with other budgets; keep those, or begin again from its current weights"
            )
        self.budget_offset = float(arrays["budget_offset"])
        self.history.clear()
        for i in range(sum(name.endswith("_features") for name in arrays)):
            means = ObservedMeans(**{field.name: arrays[f"{i:04d}_{field.name}"] for field in fields(ObservedMeans)})
            member = np.ones((len(means.value), len(self.budgets)), bool)
            for k, name in enumerate(wanted):
                if name:
                    member[:, k] = arrays[f"{i:04d}_member"][:, known.index(name)]
            self.history.append((arrays[f"{i:04d}_features"], means, member))

    def _response_utility(self, batch: Batch) -> np.ndarray:
        if self.utility == "reward":
            return batch.reward
        known = batch.response_group >= 0
        utility = np.full(len(batch.reward), np.nan)
        group = batch.response_group[known]
        if len(np.unique(group)) < 2:
            utility[known] = 0.0
        else:
            utility[known] = reward_margin(batch.reward[known], batch.prompt[known], group, unsampled="zero")
        return utility

    def _without_violating(self, values: np.ndarray, first: int, batch: Batch) -> np.ndarray:
        """NaN where all responses of a group to a prompt of this batch violate constraints: not available."""
        if np.all(batch.allowed):
            return values
        num_seen, num_allowed = np.zeros((2, len(values) - first, self.num_groups))
        known = batch.response_group >= 0
        for count, rows in ((num_seen, known), (num_allowed, known & batch.allowed)):
            np.add.at(count, (batch.prompt[rows], batch.response_group[rows]), 1)
        values = values.copy()
        values[first:][(num_seen > 0) & (num_allowed == 0)] = np.nan
        return values

    def _given_gains(self) -> np.ndarray:
        """`min_gain` as it was given, [G]; at least twice the noise of ties: a gain of zero never spends budget.

        Without a budget, as in RAFT, there is none to spare: equals stay equals where no least gain is asked for.
        """
        given = DEFAULT_MIN_GAIN if self.min_gain is None else self.min_gain
        least = max(given, LEAST_GAIN) if self.budgets or given else 0.0
        return least * (np.arange(self.num_groups) > 0)

    def _window_values(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values and tokens [W, G] of all prompts in the window, the last P rows being this batch's; `min_gain` [G]."""
        value, tokens, count, scatter = (
            np.concatenate([getattr(means, name) for _, means, _ in self.history])
            for name in ("value", "tokens", "count", "scatter")
        )
        least = self._given_gains()
        if self.utility == "group_mean":
            return value, tokens, least
        features = np.concatenate([f for f, _, _ in self.history])
        if features.shape[1] == 0:
            return value, tokens, least
        estimate, leverage = ridge_and_leverage(features, value)
        if self.min_gain is None and self.utility == "regression":
            # What the regression says of a prompt when it has not seen it, and what was seen there.
            left_out = value - (value - estimate) / np.maximum(1.0 - leverage, 1e-9)
            for g in range(1, self.num_groups):
                predicted, seen = left_out[:, g] - left_out[:, 0], value[:, g] - value[:, 0]
                both = ~np.isnan(seen)
                if both.any():
                    least[g] = max(LEAST_GAIN, least_significant_gain(predicted[both], seen[both]))
        if self.utility == "shrunken":
            for g in range(self.num_groups):
                estimate[:, g] = shrink(value[:, g], estimate[:, g], count[:, g], scatter[:, g])
        fitted_tokens = np.zeros_like(value)
        if any(term.group is None for term in self.budgets):
            fitted_tokens = np.maximum(ridge(features, tokens), 0.0)
        return estimate, fitted_tokens, least


def _slices(budgets: Sequence[BudgetTerm]) -> list[str]:
    """What part of the prompts each budget is of; "": all of them."""
    return [f"{term.column}={term.value}" if term.column else "" for term in budgets]


NODES = 100
"""With a limit on nodes, short searches and exchanges choose, and HiGHS is asked only where they leave a gap above a
thousandth (docs/log.md). Nodes and not seconds, so that every rank and every resumed run comes to the same."""


def members(budgets: Sequence[BudgetTerm], slices: Mapping[str, np.ndarray], num_prompts: int) -> np.ndarray:
    """Which prompts are in the slice of which budget: bool [P, K].

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
    offset: tuple[int, float] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, float]]:
    """One candidate per prompt, the best inside all budgets; one that can't be kept gives way as little as it must.

    Args:
        budgets: K of them, possibly none.
        utility: float [C].
        problem: int [C], the prompt of each candidate.
        group: int [C], its response group.
        tokens: float [C].
        member: bool [P, K]: which prompts are in which budget's slice.
        offset: which budget is moved, and by how much (`moved_amount`); as written where the move alone can't be kept.

    Returns:
        Chosen candidates, bool [C]; prices [K]; amounts [K], offset; and for each budget that gave way the nearest
        amount that can be kept.

    Raises:
        InfeasibleBudget: where giving way does not help.
    """
    # Exactly as written, but where the offset moves one.
    amounts: list[float | Fraction] = [term.amount for term in budgets]
    if offset and offset[1]:
        amounts[offset[0]] = moved_amount(budgets, *offset)
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
            if offset and amounts[offset[0]] != budgets[offset[0]].amount:
                amounts[offset[0]] = bounds[offset[0]] = budgets[offset[0]].amount
                continue
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


PENALTIES = 10.0 ** np.arange(-1, 5.01, 0.5)


def ridge(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fitted values of `ridge_and_leverage`, as `target`."""
    return ridge_and_leverage(features, target)[0]


def ridge_and_leverage(features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fitted values of a ridge regression with intercept, its penalty chosen by generalised cross-validation.

    With S = X (X'X + p I)^-1 X' on standardised features X, the penalty p minimises n ||y - S y||^2 / (n - tr S - 1)^2
    over `PENALTIES` (Golub, Heath and Wahba 1979). Rows with a NaN target are fitted but not learnt from.

    Args:
        features: [W, D]; products over the rows are taken in their precision, the rest in double.
        target: [W], or [W, K] for K regressions, each with a penalty of its own.

    Returns:
        Fitted values as `target`, and float [K] (or [1]): (tr S + 1) / n, the mean leverage of a row on its own fitted
        value, which stands for every row's in generalised cross-validation.
    """
    target_WK = target.reshape(len(target), -1)
    fitted_WK, leverage = np.zeros(target_WK.shape), np.zeros(target_WK.shape[1])
    seen_WK = ~np.isnan(target_WK)
    # One decomposition for all targets that are known on the same rows.
    known_on = [column.tobytes() for column in seen_WK.T]
    for rows in dict.fromkeys(known_on):
        which = np.array([other == rows for other in known_on])
        use = seen_WK[:, which][:, 0]
        if use.any():
            fitted_WK[:, which], leverage[which] = _ridge_on(features, target_WK[:, which], use)
    return fitted_WK.reshape(target.shape), leverage


def _ridge_on(features: np.ndarray, target_WK: np.ndarray, use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = features - (features if use.all() else features[use]).mean(0, dtype=float).astype(features.dtype)
    x, y_mean = centred if use.all() else centred[use], target_WK[use].mean(0)
    n, y = len(x), target_WK[use] - y_mean
    gram, correlated = (x.T @ x).astype(float), (x.T @ y.astype(x.dtype)).astype(float)
    scale = np.sqrt(np.diag(gram) / n) + 1e-6
    # X'X = V diag(eigenvalue) V' on standardised X: every penalty p then costs [D] operations.
    eigenvalue, axes = np.linalg.eigh(gram / np.outer(scale, scale))
    eigenvalue = np.maximum(eigenvalue, 0.0)
    projected = axes.T @ (correlated / scale[:, None])  # V' X'y [D, K]
    inverse = 1.0 / (eigenvalue + PENALTIES[:, None])  # [penalties, D]
    # ||y - S y||^2, n - tr S - 1, and their score
    residual = (y**2).sum(0) - 2.0 * inverse @ projected**2 + (eigenvalue * inverse**2) @ projected**2
    freedom = n - 1.0 - (eigenvalue * inverse).sum(1)
    score = np.where(freedom[:, None] > 0, residual / np.maximum(freedom, 1e-9)[:, None] ** 2, np.inf)
    best = np.where(np.isfinite(score).any(0), np.argmin(score, 0), len(PENALTIES) - 1)
    coefficient = axes @ (inverse[best].T * projected) / scale[:, None]
    return y_mean + centred @ coefficient.astype(features.dtype), np.minimum(1.0 - freedom[best] / n, 1.0)


def least_significant_gain(predicted: np.ndarray, seen: np.ndarray) -> float:
    """From which predicted gain on does leaving the standard group pay, beyond what noise explains?

    With prompts in falling order of the predicted gain, and d_i what was gained on prompt i, S(k) = d_1 + ... + d_k is
    what k of them have gained together; it peaks at some k*. The answer lies halfway between the gain predicted at the
    smallest k for which what is left out has gained no more than 1.645 of its standard errors,

        S(k*) - S(k)  <=  1.645 ( sum_(k < i <= k*) d_i^2 )^(1/2),

    and the next lower one: what is fitted to a prompt differs by a little from what is predicted without it, and of
    prompts that are predicted alike all count or none.

    The peak is where it is by the same noise: where nothing gains, something is taken to gain with probability
    exp(-1.645^2 / 2) = .26, but then on few prompts (3 to 5 % on average).

    In the spirit of the one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees, section
    3.4.3): the least spending that cannot be distinguished from the best. It asks for no model of the prediction's
    errors.

    Args:
        predicted: float [N], N > 0: gains on prompts that the prediction was not fitted to.
        seen: float [N]: d, with all the noise of the samples.

    Returns:
        The least gain that counts; above all of `predicted` where nothing pays, -inf where all of them count.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> gain = rng.choice([0.0, 0.5], 2000)  # half of the prompts gain nothing
        >>> predicted = gain + 0.1 * rng.standard_normal(2000)
        >>> bool(0.1 < least_significant_gain(predicted, gain + 0.7 * rng.standard_normal(2000)) < 0.4)
        True
    """
    order = np.argsort(-predicted, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum(seen[order])])
    squares = np.concatenate([[0.0], np.cumsum(seen[order] ** 2)])
    peak = int(np.argmax(gained))
    error = np.sqrt(squares[peak] - squares[: peak + 1])
    k = int(np.argmax(gained[peak] - gained[: peak + 1] <= SIGNIFICANT * error))
    if not k:
        return float(predicted.max()) + LEAST_GAIN
    last = predicted[order[k - 1]]
    lower = predicted[predicted < last - 1e-9 * max(1.0, abs(last))]
    return float(last + lower.max()) / 2 if len(lower) else -np.inf


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


STEER_AFTER = 0.4
"""Part of the training after which the offset sets in: the policy must have had time to learn its choice."""
HEADROOM = 0.02
"""Share of the prompts, or part of the tokens, by which the policy is held below the budget: a bound, not a target."""
LARGEST_OFFSET = 0.1


def moved_amount(budgets: Sequence[BudgetTerm], k: int, budget_offset: float) -> float:
    """What budget k becomes: a share plus the offset, not below a lower bound on its group; tokens times 1 + offset."""
    term = budgets[k]
    if term.group is None:
        return float(term.amount) * (1.0 + budget_offset)
    least = [float(t.amount) for t in budgets if t.at_least and not t.column and t.group == term.group]
    return float(np.clip(float(term.amount) + budget_offset, max(least, default=0.0), 1.0))


def expected_tokens(share: np.ndarray, tokens: np.ndarray) -> float:
    """Mean tokens of the responses that a policy opens.

    Args:
        share: float [P, G], with what probability it opens a response of each group.
        tokens: float [P, G], of a response of each group to each prompt; NaN, where a group was not seen on a prompt,
            counts as the group's mean over the others.

    Example:
        >>> float(expected_tokens(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[2.0, 8.0], [4.0, np.nan]])))
        4.5
    """
    seen = ~np.isnan(tokens)
    mean = np.nan_to_num(tokens).sum(0) / np.maximum(seen.sum(0), 1)
    return float((share * np.where(seen, tokens, mean)).sum(1).mean())


def next_budget_offset(
    budget_offset: float, allowed: float | None, spent: float, measured: float, gain: float
) -> float:
    """Integral control from what the policy spends to what the allocation hands out: shares, or parts of the tokens.

    Over its window the allocation hands out `allowed + budget_offset`; on this batch it handed out `spent`, the
    difference being the luck of the batch, which `measured`, the policy's share on the same prompts, has had too.
    Without that luck the policy spends measured - (spent - allowed - budget_offset), and this is moved towards
    allowed - HEADROOM.

    Args:
        budget_offset: the present one.
        allowed: the budget, or None while it does not bind: the offset then fades.
        spent: share of this batch's prompts that the allocation gave the response group (or the tokens of what it gave
            them, in parts of the budget; `allowed` is 1 then).
        measured: mean probability with which the policy opens a response of that group on them (or its tokens).
        gain: of the integral control.

    Returns:
        The next offset, in [-0.1, 0.1].

    Example:
        >>> round(next_budget_offset(0.0, 0.5, spent=0.6, measured=0.63, gain=0.1), 4)  # three points over, ten of luck
        -0.005
    """
    if allowed is None:
        return (1.0 - gain) * budget_offset
    error = (allowed - HEADROOM) - (measured - (spent - allowed - budget_offset))
    return float(np.clip(budget_offset + gain * error, -LARGEST_OFFSET, LARGEST_OFFSET))
