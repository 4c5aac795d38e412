"""What is an allocation worth on responses that it has not seen?

An allocation that picks the best of noisy means looks better on those means than it is. Here the responses of each pair
(problem, response group) of a log with repeated responses are halved: one half decides, the other values the decision.
Letters: R responses, P problems, G response groups.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation.allocate import allocate
from ibpo.allocation.knapsack import envelope
from ibpo.allocation.many import choose_each, whole
from ibpo.allocation.problem import Amount, InfeasibleBudget, exact_budget, finite_array
from ibpo.allocation.segments import FloatArray, IntArray, id_items, id_names, number_texts
from ibpo.allocation.units import decimal_places
from ibpo.errors import IbpoError

Pick = Callable[[FloatArray, FloatArray, FloatArray], IntArray]
"""Mean rewards, mean costs and numbers of responses of H halves, `[H, P, G]` -> response groups `[H, P]`, -1: none."""
EXTRAPOLATED = ("reward", "random_mix", "straight_line")
"""What `holdout_value` extrapolates, with the gains."""
ROWS = 2**19
"""Responses that are halved at a time, all splits of them counted: what fits a processor's cache is fastest."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupMeans:
    """Responses by (problem, response group), in an order that does not depend on the order of the rows.

    Attributes:
        problems: P ids, sorted by their `repr`.
        response_groups: G names, as text, sorted.
        pair: `[R]` p * G + g, not decreasing.
        reward: `[R]`.
        cost: `[R]`.
        count: `[P, G]` number of responses.
    """

    problems: list[Hashable]
    response_groups: list[str]
    pair: IntArray
    reward: FloatArray
    cost: FloatArray
    count: IntArray

    @classmethod
    def from_arrays(
        cls,
        reward: ArrayLike,
        problem: ArrayLike | Sequence[Hashable],
        response_group: ArrayLike | Sequence[Hashable],
        cost: ArrayLike,
    ) -> "GroupMeans":
        """Check and sort the rows of a log."""
        reward_R, cost_R = finite_array("reward", reward), finite_array("cost", cost)
        problem, response_group = id_items(problem, "problem"), id_items(response_group, "response_group")
        if reward_R.ndim != 1 or not len(reward_R) or cost_R.shape != reward_R.shape:
            raise IbpoError(
                f"reward and cost: need the same shape [R], R >= 1, got {reward_R.shape} and {cost_R.shape}"
            )
        if (cost_R < 0).any():
            r = int(np.flatnonzero(cost_R < 0)[0])
            raise IbpoError(f"cost[{r}] is {cost_R[r]:g}: costs must be at least 0")
        problem_names, group_names = (
            id_names(field, ids, len(reward_R))
            for field, ids in (("problem", problem), ("response_group", response_group))
        )
        (problems, p_R), (groups, g_R) = number_texts(problem_names), number_texts(group_names)
        problem_of = dict(zip(problem_names, problem, strict=True))
        group_of = dict(zip(group_names, response_group, strict=True))
        pair = p_R * len(groups) + g_R
        order = np.lexsort((cost_R, reward_R, pair))  # whatever the order of the rows: sums round alike
        count = np.bincount(pair, minlength=len(problems) * len(groups)).reshape(len(problems), len(groups))
        return cls(
            problems=[problem_of[name] for name in problems],
            response_groups=[str(group_of[name]) for name in groups],
            pair=pair[order],
            reward=reward_R[order],
            cost=cost_R[order],
            count=count,
        )

    def means(self, mask: np.ndarray) -> tuple[FloatArray, FloatArray]:
        """`[P, G]` mean reward and mean cost of the responses in `mask`; NaN in a pair without any."""
        count = np.bincount(self.pair[mask], minlength=self.count.size)
        with np.errstate(invalid="ignore"):
            reward, cost = (
                (np.bincount(self.pair[mask], x[mask], self.count.size) / count).reshape(self.count.shape)
                for x in (self.reward, self.cost)
            )
        return reward, cost

    @property
    def mean_reward(self) -> FloatArray:
        """`[P, G]` mean reward of each pair."""
        return self.means(np.ones(len(self.pair), bool))[0]

    @property
    def mean_cost(self) -> FloatArray:
        """`[P, G]` mean cost of each pair."""
        return self.means(np.ones(len(self.pair), bool))[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldoutRow:
    """One budget, held out; all rewards and costs are means per problem, averaged over splits.

    Attributes:
        budget: Mean cost allowed per problem, kept on the deciding half; NaN for a rule of its own.
        spent: Mean cost on the other half.
        reward: Mean reward on the other half, e.g. accuracy; extrapolated, it may lie outside the log's rewards.
        reward_stderr: Its standard error, clustered by problem.
        random_mix: Reward of the best random mixture of constant policies ("always response group g") at the same cost
            `spent`, on the same half: their upper concave envelope. The mixture is picked there, with hindsight.
        straight_line: The same for mixtures of the cheapest and the most expensive response group only.
        gain: `reward - random_mix`.
        gain_stderr: Its standard error, clustered by problem.
        in_sample: Reward of the choice on the half that made it: optimistic.
        mixture: Reward of the mixture in `against`, of constant policies that keep the budget; None without one.
        mixture_gain: `reward - mixture`.
        mixture_gain_stderr: Its standard error, clustered by problem.
        always_cheapest: Reward of always taking the response group with the smallest mean cost.
        always_most_expensive: The same for the largest mean cost.
        kept: `reward / always_most_expensive`; NaN where that is 0.
        share: Share of problems that each response group answers.
        num_splits: Splits, each used both ways.
        num_unmet: How many of the 2 * num_splits halves had estimated costs that cannot keep the budget; there,
            the cheapest response group of each problem is taken.
    """

    budget: float
    spent: float
    reward: float
    reward_stderr: float
    random_mix: float
    straight_line: float
    gain: float
    gain_stderr: float
    in_sample: float
    mixture: float | None
    mixture_gain: float | None
    mixture_gain_stderr: float | None
    always_cheapest: float
    always_most_expensive: float
    kept: float
    share: dict[str, float]
    num_splits: int
    num_unmet: int


def holdout_value(
    reward: ArrayLike,
    problem: ArrayLike | Sequence[Hashable],
    response_group: ArrayLike | Sequence[Hashable],
    cost: ArrayLike,
    budgets: Sequence[Amount | Pick],
    *,
    against: Sequence[FloatArray | Amount | None] = (),
    num_splits: int = 200,
    seed: int = 0,
    extrapolate: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[HoldoutRow]:
    r"""Value allocations on responses that had no say in them, against random mixing at the same cost.

    Per split, the responses of every pair (problem, response group) are halved at random (an odd one goes to either
    half). One half gives each pair its mean reward and mean cost; `allocate` picks exactly one response group per
    problem under each budget; the other half values the pick. Both halves take both parts.

    Standard errors are jackknives over problems of the linearised statistic, with the picks held as they are: with
    v_p, c_p the held-out reward and cost of the pick for problem p, a_pg, c_pg those of response group g, and the
    random mix that spends as much as the picks putting weights w_g on a segment of slope s,

        gain_p = v_p - sum_g w_g a_pg - s (c_p - sum_g w_g c_pg),     gain = mean_p gain_p,     stderr = std_p / sqrt(P)

    each gain_p first averaged over splits. They say how the figure would vary with other problems (and other responses
    to them), not how it varies between splits.

    A choice by half of the responses is worse than one by all of them. What is lost to noise falls, to first order, as
    one over the number m of responses that decide, so two worse choices say what the better one is worth: with f(m) for
    any of the means above, of choices by a half (m) and by half of it (m / 2; rules of their own may have to do without
    any response of some pairs),

        f(2m) = f(m) + (f(m) - f(m/2)) / 2 = 1.5 f(m) - 0.5 f(m/2),

    problem by problem, so the standard errors are those of the extrapolated statistic (Richardson 1911). That is for
    rewards and gains; what is spent is reported as the halves spend it. An extrapolated mean may lie outside the log's
    rewards, above 1 where nearly every answer is right: it errs as much to either side as any other, so decisions and
    intervals take it as it is, and only where it is shown it is clipped (`ibpo.evaluation.log_allocation.as_shown`).

    Args:
        reward: `[R]` reward of each response.
        problem: `[R]` problem ids.
        response_group: `[R]` names of the response groups; every problem needs at least 2 responses of each.
        cost: `[R]` cost of each response, e.g. tokens, or `share(...)`.
        budgets: Mean cost per problem, each a separate question; or a rule of its own: from mean rewards, mean costs
            and counts `[H, P, G]` of H halves the response group of each problem `[H, P]`; a half for which it can pick
            none has -1 there.
        against: For each budget what to compare with: the mean cost that the best mixture of constant policies may
            have, picked by the half that picks the choice; or the weights `[G]` of a mixture, response groups sorted by
            name.
        num_splits: Number of random halvings.
        seed: Seed of the halvings.
        extrapolate: Say what a choice by all responses gains, not by half of them; takes rules of their own, which
            bear empty pairs (count 0, means NaN).
        progress: Called with (splits done, splits in all).

    Returns:
        One row per budget, in their order.

    Raises:
        IbpoError: Malformed input, or a pair with fewer than 2 responses.
        InfeasibleBudget: A budget below the cost of the cheapest allocation of the whole log.

    Example:
        >>> row = holdout_value(
        ...     [0, 0, 1, 1] + [1, 1, 1, 1],
        ...     ["hard"] * 4 + ["easy"] * 4,
        ...     ["low", "low", "high", "high"] * 2,
        ...     [1, 1, 9, 9] * 2,
        ...     budgets=[5],
        ...     num_splits=4,
        ... )[0]
        >>> row.spent, row.reward, row.random_mix, row.share
        (5.0, 1.0, 0.75, {'high': 0.5, 'low': 0.5})
    """
    log = GroupMeans.from_arrays(reward, problem, response_group, cost)
    return value_halves(
        log, budgets, against=against, num_splits=num_splits, seed=seed, extrapolate=extrapolate, progress=progress
    )


def value_halves(
    log: GroupMeans,
    budgets: Sequence[Amount | Pick],
    *,
    against: Sequence[FloatArray | Amount | None] = (),
    num_splits: int = 200,
    seed: int = 0,
    extrapolate: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[HoldoutRow]:
    """`holdout_value` of a log whose responses are gathered already, for more than one question on it."""
    for name, number, least in (("num_splits", num_splits, 1), ("seed", seed, 0)):
        if not (isinstance(number, Integral) and number >= least):
            raise IbpoError(f"{name}: must be at least {least}, a whole number, got {number!r}")
    budgets, against = _questions(log, budgets, against)
    thin = np.argwhere(log.count < 2)
    if len(thin):
        p, g = thin[0]
        raise IbpoError(
            f"problem {log.problems[p]}, response group {log.response_groups[g]}: {log.count[p, g]} response(s), "
            f"but halving needs 2 ({len(thin)} such pairs in all); drop these problems"
        )
    amounts = [budget for budget in budgets if not callable(budget)]
    few = np.argwhere(log.count < 4)
    if extrapolate and amounts and len(few):  # a half of a half has no response of a pair then
        p, g = few[0]
        raise IbpoError(
            f"extrapolate: problem {log.problems[p]}, response group {log.response_groups[g]}: {log.count[p, g]} "
            f"responses, but a half of a half needs 4 ({len(few)} such pairs in all); drop these problems, give rules "
            "of your own (by_problem_picks), or extrapolate=False"
        )
    for amount in amounts:  # raises where the whole log cannot keep it
        _allocated(log.mean_reward, log.mean_cost, amount)
    shape, num_problems = log.count.shape, len(log.problems)
    by_cost = np.argsort(log.mean_cost.mean(0), kind="stable")
    ends = by_cost[[0, -1]]

    statistics = (
        "spent",
        "reward",
        "random_mix",
        "straight_line",
        "in_sample",
        "always_cheapest",
        "always_most_expensive",
    )
    sums = [dict.fromkeys(statistics, 0.0) for _ in budgets]
    value_P, gain_P, over_P = np.zeros((3, len(budgets), num_problems))
    mixtures = [*against, *[None] * (len(budgets) - len(against))]
    share_G, num_unmet = np.zeros((len(budgets), shape[1])), [0] * len(budgets)
    rng, thinning = np.random.default_rng(seed), np.random.default_rng([seed, 1]) if extrapolate else None
    rank = np.arange(len(log.pair)) - (np.cumsum(log.count) - log.count.ravel())[log.pair]
    places = decimal_places(log.reward), decimal_places(log.cost)
    done = 0
    while done < num_splits:
        splits = range(done, min(num_splits, done + max(1, ROWS // len(log.pair))))
        halves, thinner = _halves(log, rank, len(splits), rng, thinning)
        reward_HPG, cost_HPG, _ = halves
        # The other half of the same split values what this one decides.
        other = np.arange(len(reward_HPG)) ^ 1
        points = cost_HPG.mean(1)[other], reward_HPG.mean(1)[other]  # [H, G] of the constant policies
        for deciding, factor in ((halves, 1.0),) if thinner is None else ((halves, 1.5), (thinner, -0.5)):
            for b, budget in enumerate(budgets):
                pick = _picks(*deciding, budget, places)
                none = pick[:, 0] < 0
                pick[none] = cost_HPG[none].argmin(2)
                value, cost, decided = (
                    np.take_along_axis(table, pick[:, :, None], 2)[:, :, 0]
                    for table in (reward_HPG[other], cost_HPG[other], reward_HPG)
                )
                spent = cost.mean(1)
                weight, slope = _random_mixes(*points, spent)
                line, _ = _random_mixes(points[0][:, ends], points[1][:, ends], spent, line=True)
                now = {
                    "spent": spent,
                    "reward": value.mean(1),
                    "random_mix": (weight * points[1]).sum(1),
                    "straight_line": (line * points[1][:, ends]).sum(1),
                    "in_sample": decided.mean(1),
                    "always_cheapest": points[1][:, ends[0]],
                    "always_most_expensive": points[1][:, ends[1]],
                }
                for key in statistics:
                    if deciding is halves or key in EXTRAPOLATED:
                        sums[b][key] += (factor if key in EXTRAPOLATED else 1.0) * float(now[key].sum())
                value_P[b] += factor * value.sum(0)
                # gain_p = v_p - sum_g w_g a_pg - s (c_p - sum_g w_g c_pg)
                mixed_reward, mixed_cost = (np.einsum("hpg,hg->hp", x[other], weight) for x in (reward_HPG, cost_HPG))
                gain_P[b] += factor * (value - mixed_reward - slope[:, None] * (cost - mixed_cost)).sum(0)
                blind = _blind_HG(mixtures[b], *deciding)
                over_P[b] += factor * (value - np.einsum("hpg,hg->hp", reward_HPG[other], blind)).sum(0)
                if deciding is halves:
                    num_unmet[b] += int(none.sum())
                    share_G[b] += np.bincount(pick.ravel(), minlength=shape[1]) / num_problems
        for done in range(splits.start + 1, splits.stop + 1):
            if progress:
                progress(done, num_splits)
    num_halves = 2 * num_splits
    sums = [{key: total / num_halves for key, total in row.items()} for row in sums]
    value_P, gain_P, over_P, share_G = (x / num_halves for x in (value_P, gain_P, over_P, share_G))
    return [
        HoldoutRow(
            budget=math.nan if callable(budget) else float(Fraction(str(budget))),
            **sums[b],
            reward_stderr=_stderr(value_P[b]),
            gain=sums[b]["reward"] - sums[b]["random_mix"],
            gain_stderr=_stderr(gain_P[b]),
            mixture=None if mixtures[b] is None else sums[b]["reward"] - float(over_P[b].mean()),
            mixture_gain=None if mixtures[b] is None else float(over_P[b].mean()),
            mixture_gain_stderr=None if mixtures[b] is None else _stderr(over_P[b]),
            kept=sums[b]["reward"] / sums[b]["always_most_expensive"] if sums[b]["always_most_expensive"] else math.nan,
            share=dict(zip(log.response_groups, share_G[b].tolist(), strict=True)),
            num_splits=num_splits,
            num_unmet=num_unmet[b],
        )
        for b, budget in enumerate(budgets)
    ]


def _questions(
    log: GroupMeans, budgets: Sequence[Amount | Pick], against: Sequence[FloatArray | Amount | None]
) -> tuple[list[Amount | Pick], list[FloatArray | Amount | None]]:
    """Budgets, and what each is compared with, checked."""
    if isinstance(budgets, str) or not hasattr(budgets, "__iter__"):
        raise IbpoError(f"budgets: needs a list, a mean cost per problem or a rule each, got {budgets!r}")
    if isinstance(against, str) or not hasattr(against, "__iter__"):
        raise IbpoError(f"against: needs a list, a mean cost per problem or weights each, got {against!r}")
    asked, mixtures = list(budgets), list(against)
    if len(mixtures) > len(asked):
        raise IbpoError(f"against: needs at most one for each of {len(asked)} budgets, got {len(mixtures)}")
    for b, budget in enumerate(asked):
        if budget is None:
            raise IbpoError(f"budgets[{b}] is None: needs a number, the mean cost per problem, or a rule")
    exact_budget("budgets", [None if callable(budget) else budget for budget in asked], len(asked))
    amounts = [None if isinstance(mixture, np.ndarray | list | tuple) else mixture for mixture in mixtures]
    exact_budget("against", amounts, len(mixtures))
    for b, mixture in enumerate(mixtures):
        if isinstance(mixture, np.ndarray | list | tuple):
            weights = finite_array(f"against[{b}]", mixture)
            if weights.shape != (len(log.response_groups),) or (weights < 0).any() or abs(weights.sum() - 1) > 1e-6:
                raise IbpoError(
                    f"against[{b}]: needs weights that add up to 1, one for each of {', '.join(log.response_groups)}, "
                    f"got {weights.tolist()}"
                )
            mixtures[b] = weights
    return asked, mixtures


def enough_splits(num_problems: int) -> int:
    """Random halvings that are enough: 100, above 400 problems fewer, for each says more then, but at least 10.

    With 10 halvings of 4,000 problems, or of 1,000, the gain differed between seeds by a tenth of its standard error
    (docs/log.md).

    Example:
        >>> enough_splits(400), enough_splits(1_000), enough_splits(10**6)
        (100, 40, 10)
    """
    return max(10, min(100, 40_000 // num_problems))


def _blind_HG(mixture: FloatArray | Amount | None, *tables: FloatArray) -> FloatArray:
    """`[H, G]` the mixture of constant policies to compare with: given, or the best by each half for a cost."""
    reward_HPG, cost_HPG, count_HPG = tables
    if isinstance(mixture, np.ndarray) or mixture is None:
        weights = np.full(reward_HPG.shape[2], np.nan) if mixture is None else mixture
        return np.tile(weights, (len(reward_HPG), 1))
    there = count_HPG > 0
    number_HG: FloatArray = there.sum(1, dtype=np.float64)

    def means(x: FloatArray) -> FloatArray:
        """`[H, G]`; of a response group that a half has no response of, as by all halves."""
        total_HG: FloatArray = np.where(there, x, 0.0).sum(1)
        found_HG: FloatArray = total_HG / np.maximum(number_HG, 1)
        return np.array(np.where(number_HG > 0, found_HG, total_HG.sum(0) / number_HG.sum(0)), np.float64)

    at_H = np.full(len(reward_HPG), float(Fraction(str(mixture))))
    return _random_mixes(means(cost_HPG), means(reward_HPG), at_H)[0]


class RankedSteps:
    """The steps up each problem's concave envelope, half by half by falling gain per cost: a choice at every budget.

    A choice is within one problem's step of the optimum, which `ibpo.allocate` finds exactly; this is what hundreds of
    random halves can be asked in a second: all of them at once, N = H * P problems with a budget for each half.
    """

    def __init__(self, reward: FloatArray, cost: FloatArray) -> None:
        """Sort the steps of all problems, once for all budgets.

        Args:
            reward: `[H, P, G]` mean rewards of H halves.
            cost: `[H, P, G]` mean costs.
        """
        *self.shape, self.num_problems, self.num_groups = reward.shape
        problem_of: IntArray = np.arange(reward.size, dtype=np.int64) // self.num_groups
        # Within a problem alone: an eighth of the time that sorting all candidates takes.
        within = np.lexsort((-reward.reshape(-1, self.num_groups), cost.reshape(-1, self.num_groups)))
        order = (within + self.num_groups * np.arange(len(within))[:, None]).ravel()
        steps = envelope(problem_of, reward.ravel(), cost.ravel(), order)
        self.base, self.least_H = steps.base, cost.ravel()[steps.base].reshape(-1, self.num_problems).sum(1)
        order = np.lexsort((-steps.slope, steps.problem // self.num_problems))  # a problem's stay in their order
        self.half, self.spent = steps.problem[order] // self.num_problems, steps.cost[order]
        begin = np.searchsorted(self.half, np.arange(len(self.least_H)))
        total = np.concatenate([[0.0], np.cumsum(self.spent)])
        self.reached = total[1:] - total[begin][self.half]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        is_next = np.concatenate([[False], steps.problem[1:] == steps.problem[:-1]])
        self.before = np.where(is_next, np.roll(place, 1), -1)[order]
        self.order, self.problem, self.to = order, steps.problem, steps.to

    def within(self, amount: float) -> IntArray:
        """`[H, P]` the response groups at a mean cost of at most `amount`."""
        room = amount * self.num_problems * (1 + 1e-12) - self.least_H  # a third of thirty is ten
        taken = self.reached <= room[self.half]  # the first of each half: they fit together
        room -= np.bincount(self.half[taken], self.spent[taken], len(room))
        # One of the others fits if there is still room for it, and the problem's step before it was taken.
        left = room.tolist()
        for step in np.flatnonzero(~taken & (self.spent <= room[self.half])).tolist():
            half, before = self.half[step], self.before[step]
            if self.spent[step] <= left[half] and (before < 0 or taken[before]):
                taken[step] = True
                left[half] -= float(self.spent[step])
        last = np.sort(self.order[taken])  # of a problem's steps the last one counts
        chosen = self.base.copy()
        chosen[self.problem[last]] = self.to[last]
        return (chosen % self.num_groups).reshape(*self.shape, self.num_problems)


def by_problem_picks(amounts: Sequence[float]) -> list[Pick]:
    """Rules for `holdout_value`, one for each mean cost, that choose by `RankedSteps`; they sort each half once."""
    seen: tuple[FloatArray, RankedSteps] | None = None

    def pick(amount: float, reward: FloatArray, cost: FloatArray, _: FloatArray) -> IntArray:
        nonlocal seen
        if seen is None or seen[0] is not reward:
            seen = reward, RankedSteps(reward, cost)
        return seen[1].within(amount)

    return [partial(pick, amount) for amount in amounts]


Tables = tuple[FloatArray, FloatArray, FloatArray]
"""Mean reward, mean cost and number of responses, `[H, P, G]`."""


def _halves(
    log: GroupMeans, rank: IntArray, num_splits: int, rng: np.random.Generator, thinning: np.random.Generator | None
) -> tuple[Tables, Tables | None]:
    """Both halves of each split, one behind the other; and half of the responses of each of them, with `thinning`.

    Every other response of a pair, in random order, goes to one half; `rank` `[R]` counts the responses of a pair.
    """
    num_cells = log.count.size
    key = np.empty((num_splits, len(log.pair)), np.int64)
    kept = np.zeros(key.shape, bool)
    for split in range(num_splits):
        # Pairs are sorted, and a number below 1 next to them leaves them so.
        order = np.argsort(log.pair + rng.random(len(log.pair)))
        place = rank + rng.integers(0, 2, num_cells)[log.pair]
        key[split, order] = place % 2
        if thinning is not None:  # every other one of those in a half, too
            first = thinning.integers(0, 2, (2, num_cells))[place % 2, log.pair]
            kept[split, order] = (place // 2 + first) % 2 == 0
        key[split] += 2 * split
    key *= num_cells
    key += log.pair
    size, shape = 2 * num_splits * num_cells, (2 * num_splits, *log.count.shape)

    def tables(some: NDArray[np.bool_] | slice) -> Tables:
        where = key[some].ravel()
        count = np.bincount(where, minlength=size)
        values = (np.broadcast_to(x, key.shape)[some].ravel() for x in (log.reward, log.cost))
        with np.errstate(invalid="ignore"):
            reward, cost = ((np.bincount(where, x, size) / count).reshape(shape) for x in values)
        return reward, cost, count.reshape(shape).astype(np.float64)

    return tables(slice(None)), None if thinning is None else tables(kept)


def random_mix(cost: FloatArray, reward: FloatArray, at: float, *, line: bool = False) -> tuple[FloatArray, float]:
    """The random mixture of constant policies with the largest reward at a mean cost of at most `at`.

    Args:
        cost: `[G]` mean cost of always taking response group g.
        reward: `[G]` its mean reward.
        at: Mean cost allowed. Below the cheapest, the cheapest is taken.
        line: Spend all of `at` instead of at most `at`: the straight line between two points, even where it falls.

    Returns:
        The weights `[G]`, of at most two response groups, and the slope of reward over cost at that point.

    Example:
        >>> weight, slope = random_mix(np.array([1.0, 9.0]), np.array([0.5, 1.0]), at=5.0)
        >>> weight.tolist(), slope
        ([0.5, 0.5], 0.0625)
    """
    points = [finite_array(name, values) for name, values in (("cost", cost), ("reward", reward))]
    if points[0].ndim != 1 or not len(points[0]) or points[0].shape != points[1].shape:
        raise IbpoError(f"cost and reward: need the same shape [G], G >= 1, got {points[0].shape}, {points[1].shape}")
    weight, slope = _random_mixes(points[0][None], points[1][None], np.array([at], float), line=line)
    return weight[0], float(slope[0])


def _random_mixes(
    cost_HG: FloatArray, reward_HG: FloatArray, at_H: FloatArray, *, line: bool = False
) -> tuple[FloatArray, FloatArray]:
    """`random_mix` of each half: weights `[H, G]` and slopes `[H]`."""
    num_halves, num_groups = cost_HG.shape
    every: IntArray = np.arange(num_halves, dtype=np.int64)
    inside = cost_HG <= at_H[:, None]
    cheapest = cost_HG == cost_HG.min(1, keepdims=True)
    best_inside = np.where(inside, cost_HG if line else reward_HG, -np.inf).argmax(1)
    best_cheapest = np.where(cheapest, reward_HG, -np.inf).argmax(1)
    low_H: IntArray = np.array(np.where(inside.any(1), best_inside, best_cheapest), np.int64)
    high_H: IntArray = np.array(low_H, np.int64)
    part_H, slope_H = np.zeros(num_halves), np.zeros(num_halves)
    value_H = reward_HG[every, low_H]
    for low in range(num_groups):
        for high in range(num_groups):
            step = np.where(cost_HG[:, high] > cost_HG[:, low], cost_HG[:, high] - cost_HG[:, low], np.inf)
            part = (at_H - cost_HG[:, low]) / step
            value = (1 - part) * reward_HG[:, low] + part * reward_HG[:, high]
            here = inside[:, low] & ~inside[:, high] & ((value > value_H) | line)
            low_H[here], high_H[here], part_H[here], value_H[here] = low, high, part[here], value[here]
            slope_H[here] = ((reward_HG[:, high] - reward_HG[:, low]) / step)[here]
    weight = np.zeros((num_halves, num_groups))
    weight[every, low_H] += 1 - part_H
    weight[every, high_H] += part_H
    return weight, slope_H


def _picks(
    reward: FloatArray,
    cost: FloatArray,
    count: FloatArray,
    budget: Amount | Pick,
    places: tuple[int | None, int | None],
) -> IntArray:
    """`[H, P]` the response group of each problem by each half; -1 in a half that cannot keep the budget."""
    if callable(budget):
        picked = np.array(budget(reward, cost, count))
        shape, num_groups = reward.shape[:2], reward.shape[2]
        if picked.shape != shape or picked.dtype.kind not in "iu" or not ((picked >= -1) & (picked < num_groups)).all():
            raise IbpoError(
                f"budgets: a rule has to give whole numbers of shape {shape}, from -1 (none) to {num_groups - 1}; it "
                f"gave {picked.dtype} of shape {picked.shape}"
            )
        return picked
    utility, price = (whole(x, count, n) for x, n in zip((reward, cost), places, strict=True))
    pick, left = np.full(reward.shape[:2], -1, np.int64), list(range(len(reward)))
    shares = not ((cost != 0) & (cost != 1)).any()  # as fast one by one, and ties between problems go by their ids
    if utility is not None and price is not None and not shares:  # all halves together
        pick, left = choose_each(utility[0], price[0], Fraction(str(budget)) * reward.shape[1] * price[1])
    for h in left:
        try:
            pick[h] = _allocated(reward[h], cost[h], budget)
        except InfeasibleBudget:
            continue
    return pick


def _allocated(reward: FloatArray, cost: FloatArray, budget: Amount) -> IntArray:
    """`[P]` the response group of each problem that `allocate` chooses from `[P, G]` means."""
    num_problems, num_groups = reward.shape
    problem: IntArray = np.arange(reward.size, dtype=np.int64) // num_groups
    allocation = allocate(reward.ravel(), problem, cost.ravel(), budget)
    return allocation.weight.reshape(num_problems, num_groups).argmax(1)


def _stderr(value: FloatArray) -> float:
    """Standard error of a mean over problems: `std / sqrt(P)`, which is also its jackknife."""
    return float(value.std(ddof=1) / math.sqrt(len(value))) if len(value) > 1 else math.nan
