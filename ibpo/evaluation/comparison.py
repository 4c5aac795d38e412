r"""Configurations against each other on the same problems: every number of an evaluation is made here, once.

A *configuration* is one way of answering: a response group that is forced, a policy that chooses by itself, votes, a
baseline. What it got on each problem is a `PerProblem`, whoever sampled it; a `Reference` holds it against the blind
draw and the best choice between two configurations; `compare` makes everything that a page says of one table of
responses. Letters: P problems, C configurations, L levels, K points of a curve, D draws, H the two halves of the
responses, G cheapest and most expensive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import enough_splits
from ibpo.errors import IbpoError
from ibpo.evaluation.metrics import (
    area_under_curve,
    code_answers,
    estimate_area,
    estimate_gain_ratio,
    held_out_choice,
    mix_at_cost,
    oracle_by_level_at_cost,
    pass_at_k,
    votes_of_codes,
)
from ibpo.evaluation.responses import Responses, coarse_levels, level_names, natural, with_levels
from ibpo.evaluation.statistics import (
    Estimate,
    FloatArray,
    bootstrap,
    bootstrap_difference,
    estimate_mean,
    estimate_quantile,
    estimate_rate,
    number_problems,
    paired_difference,
    problem_means,
    ratio_of_means,
    with_unseen,
)
from ibpo.pictures import Mark, chart, number_text, short, show, table, text_table

EXTENDED = "extended"
BUDGETS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Mean costs at which to allocate: that far from the cheapest to the most expensive configuration."""
MIN_ROOM = 0.005
"""With less room than this between random mix and oracle, a share of it is noise and does not exist."""
NUM_DRAWS = 500
MOST_MARKS = 40
"""Configurations in the picture of an evaluation."""
Json = dict[str, Any]
Numbers = dict[str, Estimate]


@dataclass(frozen=True, kw_only=True, slots=True)
class PerProblem:
    """What one configuration got on each problem, on average; the problems of all that are compared in one order."""

    accuracy: FloatArray
    """`[P]` mean reward."""
    tokens: FloatArray
    """`[P]` mean tokens."""
    share: FloatArray
    """`[P]` share of extended responses."""
    truncated: FloatArray
    """`[P]` share of responses that were cut off; nan where it is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problems:
    """The problems of a comparison and their levels."""

    problem_id: NDArray[Any]
    """`[P]`, sorted."""
    levels: tuple[str, ...]
    """Names of the L levels, easiest first."""
    level: NDArray[np.int64]
    """`[P]` index into `levels`."""

    @property
    def level_share(self) -> FloatArray:
        """`[L]` part of the problems of each level."""
        return np.bincount(self.level, minlength=len(self.levels)) / len(self.level)

    def by_level(self, value: FloatArray) -> FloatArray:
        """`[P]` values -> `[L]` means."""
        return np.bincount(self.level, value, len(self.levels)) / np.bincount(self.level, minlength=len(self.levels))


def find_problems(responses: Responses, levels: Sequence[str] = ()) -> Problems:
    """The problems that these responses answer, sorted by id.

    Args:
        responses: Responses of any configuration.
        levels: Names of the levels in the order wanted; those not named come after, in natural order (2 before 10).
    """
    problem_id, first = np.unique(responses.problem.astype(str), return_index=True)
    level_P = responses.level[first]
    found = sorted(set(level_P.tolist()), key=natural)
    names = tuple([name for name in levels if name in found] + [name for name in found if name not in levels])
    index = {name: i for i, name in enumerate(names)}
    return Problems(problem_id=problem_id, levels=names, level=np.array([index[name] for name in level_P.tolist()]))


def per_problem(responses: Responses, problems: Problems) -> PerProblem:
    """Average one configuration's responses to each problem; a response of unknown cost does not count in the tokens.

    Raises:
        ValueError: the responses are to other problems.
    """
    order = problems.problem_id
    answered = number_problems(responses.problem)[0]
    if not np.array_equal(answered.astype(str), np.sort(order.astype(str))):
        raise ValueError(f"{len(answered)} problems answered, not the same {len(order)} as elsewhere")
    known = ~np.isnan(responses.tokens)
    return PerProblem(
        accuracy=problem_means(responses.reward, responses.problem, order),
        tokens=problem_means(responses.tokens[known], responses.problem[known], order),
        share=problem_means((responses.response_group == EXTENDED).astype(float), responses.problem, order),
        truncated=problem_means(responses.truncated, responses.problem, order),
    )


def mix(standard: PerProblem, extended: PerProblem, share: FloatArray) -> PerProblem:
    """The result of answering each problem extended with its own share `[P]`."""
    return PerProblem(
        share=share,
        **{
            name: (1 - share) * getattr(standard, name) + share * getattr(extended, name)
            for name in ("accuracy", "tokens", "truncated")
        },
    )


def by_number(responses: Responses, column: str) -> NDArray[Any]:
    """One column as `[P, S]`, problems sorted; those with more than the smallest number of responses lose the last."""
    names, p_N = number_problems(responses.problem)
    order = np.argsort(p_N, kind="stable")
    count_P = np.bincount(p_N, minlength=len(names))
    start_P = np.cumsum(count_P) - count_P
    return getattr(responses, column)[order[start_P[:, None] + np.arange(count_P.min())]]


def describe(
    responses: Responses,
    *,
    extended: str = EXTENDED,
    code: NDArray[np.int64] | None = None,
    cost_unit: str = "tokens",
) -> dict[str, dict[str, Numbers]]:
    """All metrics of one configuration's responses with standard errors clustered by problem and 95 % intervals.

    Args:
        responses: of one configuration.
        extended: Name of the response group whose share is the extended share.
        code: `[N]` numbers of their answers, as from `code_answers`, where they are known.
        cost_unit: What `responses.tokens` counts. Thinking tokens are a part of tokens, and of no other unit.

    Returns:
        Slice (`"overall"`, `"level=..."`, `"domain=..."`) -> `"all"`, `"right"`, `"wrong"` (that ended by itself) or
        `"cut off"` (and not right) -> metric -> estimate. Metrics of all: `pass@1`, `pass@k` and `maj@k` for k = 2, 4,
        8, ... up to the smallest number of responses of a problem, and of it; `unanswered`. The other three have too:
        `mean_tokens`, `median_tokens`, `p95_tokens`, `thinking_tokens`, `answer_tokens`, `extended_share`, `truncated`.
        What is not known is left out.

    Example:
        >>> rows = [{"problem": "p", "configuration": "low", "reward": r, "tokens": 9} for r in (0, 1)]
        >>> describe(Responses.from_rows(rows))["overall"]["right"]["mean_tokens"].value
        9.0
    """
    slices = {"overall": np.ones(len(responses), bool)}
    for name in ("level", "domain"):
        texts = getattr(responses, name).astype(str)
        values = sorted(set(texts.tolist()) - {""}, key=natural)
        slices |= {f"{name}={value}": texts == value for value in values}
    responses = replace(responses, problem=number_problems(responses.problem)[1])
    code = code_answers(responses.problem, responses.answer, responses.right) if code is None else code
    in_tokens = cost_unit == "tokens"
    return {name: _slice(responses.where(mask), code[mask], extended, in_tokens) for name, mask in slices.items()}


def _slice(responses: Responses, code: NDArray[np.int64], extended: str, in_tokens: bool) -> dict[str, Numbers]:
    right, cut = responses.right, np.nan_to_num(responses.truncated)
    return {
        "all": _repeated(responses, code) | _spent(responses, None, extended, in_tokens),
        "right": _spent(responses, right, extended, in_tokens),
        "wrong": _spent(responses, (1 - right) * (1 - cut), extended, in_tokens),
        "cut off": _spent(responses, (1 - right) * cut, extended, in_tokens),
    }


def _repeated(responses: Responses, code: NDArray[np.int64]) -> Numbers:
    found = {"pass@1": estimate_rate(responses.reward, responses.problem)}
    names, p_N = number_problems(responses.problem)
    count_P, right_P = np.bincount(p_N), np.bincount(p_N, responses.right)
    sizes = [k for k in vote_sizes(int(count_P.min())) if k > 1]
    has_votes = responses.has_votes
    vote_KP = votes_of_codes(responses.problem, code, responses.right, sizes)[1] if has_votes and sizes else []
    for i, k in enumerate(sizes):
        found[f"pass@{k}"] = estimate_rate(pass_at_k(right_P, count_P, k), names)
        if has_votes:
            found[f"maj@{k}"] = estimate_rate(vote_KP[i], names)
    if has_votes:
        unanswered = np.array([float(answer is None) for answer in responses.answer])
        found["unanswered"] = estimate_rate(unanswered, responses.problem)
    return found


def vote_sizes(largest: int) -> list[int]:
    """1, 2, 4, 8, ... and the largest itself.

    Example:
        >>> vote_sizes(10)
        [1, 2, 4, 8, 10]
    """
    return sorted({2**i for i in range(largest.bit_length()) if 2**i <= largest} | {largest})


def _spent(responses: Responses, where: np.ndarray | None, extended: str, in_tokens: bool) -> Numbers:
    problem, found = responses.problem, {}
    thinking = responses.thinking_tokens
    if not np.isnan(responses.tokens).all():
        found["mean_tokens"] = estimate_mean(responses.tokens, problem, where, positive=True)
        found["median_tokens"] = estimate_quantile(responses.tokens, problem, 0.5, where)
        found["p95_tokens"] = estimate_quantile(responses.tokens, problem, 0.95, where)
    if not np.isnan(thinking).all():
        found["thinking_tokens"] = estimate_mean(thinking, problem, where, positive=True)
        if in_tokens:
            found["answer_tokens"] = estimate_mean(responses.tokens - thinking, problem, where, positive=True)
    if any(responses.response_group.tolist()):
        share = (responses.response_group == extended).astype(float)
        found["extended_share"] = estimate_rate(share, problem, where)
    if not np.isnan(responses.truncated).all():
        found["truncated"] = estimate_rate(responses.truncated, problem, where)
    return {name: estimate for name, estimate in found.items() if estimate.num_problems}


class Reference:
    r"""Two configurations, cheapest and most expensive, that every other one is held against.

    `above_random_mix` is a - mix(c), with a and c the accuracy and mean cost of the configuration and mix(c) what a
    blind draw between the two gets at that cost. The one definition of the oracle share is

        oracle share = (a - mix(c)) / (oracle(c) - mix(c))

    the part that a configuration gains of what choosing by level could gain over a blind draw at the same mean cost.
    The oracle knows what both get on each level (on each problem, where levels have no names). 0 is a blind draw, 1 the
    best choice by level; more is possible, by choosing well within levels or by better responses.

    Why so. At equal *cost*, not at an equal share of extended responses: cost is what a budget is paid in, problems
    that need extended answers also take longer ones, and every configuration has a cost, whatever its response groups.
    With the oracle's optimism *removed*: an oracle that is valued on the responses that it knows looks better than
    anybody could be, the more so the fewer responses there are, and would make every share too small. One half of each
    problem's responses decides, the other half says what that is worth, and what a blind draw of the same cost gets;
    both halves take both parts. Problems without a response in each half are left out of the share.
    """

    def __init__(
        self,
        cheapest: Responses,
        expensive: Responses,
        order: Sequence[str] | NDArray[Any],
        *,
        num_draws: int = NUM_DRAWS,
    ) -> None:
        """Halve the responses of both by turns.

        Args:
            cheapest: All its responses.
            expensive: All responses of the most expensive one.
            order: The P problems.
            num_draws: Bootstrap draws.
        """
        names, self.num_draws = [str(name) for name in order], num_draws
        ends = [(one, *_turns(one, names)) for one in (cheapest, expensive)]
        self.reward_GP, cost_GP = (
            np.array([_mean(getattr(one, column), p_N, p_N >= 0, len(names)) for one, p_N, _ in ends])
            for column in ("reward", "tokens")
        )
        # A problem of unknown cost is taken to cost what the others do on average.
        self.cost_GP = np.where(np.isnan(cost_GP), np.nanmean(cost_GP, axis=1, keepdims=True), cost_GP)
        reward_HGP, cost_HGP = (
            np.array(
                [
                    [_mean(getattr(one, column), p_N, turn_N % 2 == half, len(names)) for one, p_N, turn_N in ends]
                    for half in (0, 1)
                ]
            )
            for column in ("reward", "tokens")
        )
        self.keep_P = ~np.isnan(reward_HGP).any((0, 1))
        self.reward_HGP = reward_HGP[:, :, self.keep_P]
        self.cost_HGP = np.where(np.isnan(cost_HGP), self.cost_GP, cost_HGP)[:, :, self.keep_P]
        self.mean_cost_GP = self.cost_HGP.mean(0)
        level_of = {str(p): str(level) for p, level in zip(cheapest.problem, cheapest.level, strict=True)}
        named, level_P = np.unique([level_of.get(name, "") for name in names], return_inverse=True)
        self.is_by_level = len(named) > 1
        self.level_P = level_P[self.keep_P] if self.is_by_level else np.arange(int(self.keep_P.sum()))

    def above_random_mix(self, reward_P: FloatArray, cost_P: FloatArray, *, seed: int = 0) -> Estimate | None:
        """Accuracy less the blind draw's at the same mean cost; None where that cost is beyond both ends."""

        def statistic(weight_DP: FloatArray) -> FloatArray:
            reward_DG, cost_DG, at_D = weight_DP @ self.reward_GP.T, weight_DP @ self.cost_GP.T, weight_DP @ cost_P
            width_D = cost_DG[:, 1] - cost_DG[:, 0]
            part_D = np.divide(at_D - cost_DG[:, 0], width_D, out=np.full(len(at_D), np.nan), where=width_D > 0)
            part_D[(part_D < -1e-9) | (part_D > 1 + 1e-9)] = np.nan  # rounding takes no number from what is at an end
            return weight_DP @ reward_P - (1 - part_D) * reward_DG[:, 0] - part_D * reward_DG[:, 1]

        found = bootstrap(statistic, len(reward_P), num_draws=self.num_draws, seed=seed)
        (cheap, dear), (low, high) = self.cost_GP.mean(1).tolist(), self.reward_GP.mean(1).tolist()
        if np.isnan(found.value):
            return None
        part, slope = (float(cost_P.mean()) - cheap) / (dear - cheap), (high - low) / (dear - cheap)
        mix = np.array([1 - part, part])
        over_P = reward_P - mix @ self.reward_GP - slope * (cost_P - mix @ self.cost_GP)  # linearised
        return _existing(with_unseen(found, over_P))

    def oracle_share(self, reward_P: FloatArray, cost_P: FloatArray, *, seed: int = 0) -> Estimate | None:
        """The oracle share of one configuration.

        None where it costs no more than the cheapest or no less than the most expensive, and where the oracle is hardly
        better than a blind draw (by less than half a point).
        """
        reward_P, cost_P = reward_P[self.keep_P], cost_P[self.keep_P]
        if not self.keep_P.any() or not self._reaches(np.full(len(cost_P), 1 / len(cost_P)), float(cost_P.mean())):
            return None

        def statistic(weight_DP: FloatArray) -> FloatArray:
            return np.array([self._share(weight_P, reward_P, cost_P) for weight_P in weight_DP])

        return _existing(bootstrap(statistic, len(reward_P), num_draws=self.num_draws, seed=seed))

    def why_not(self, cost_P: FloatArray) -> str:
        """Why a configuration of this cost has no oracle share."""
        cost_P = cost_P[self.keep_P]
        if not self.keep_P.any():
            return "it needs two responses of both response groups to a problem"
        if not self._reaches(np.full(len(cost_P), 1 / len(cost_P)), float(cost_P.mean())):
            return "its mean cost is outside those of standard only and extended only"
        return "at this cost the oracle is no better than a random mix"

    def _reaches(self, weight_P: FloatArray, cost: float) -> bool:
        low, high = (self.mean_cost_GP @ weight_P).tolist()
        return low < cost < high

    def _share(self, weight_P: FloatArray, reward_P: FloatArray, cost_P: FloatArray) -> float:
        cost = float(weight_P @ cost_P)
        if not self._reaches(weight_P, cost):
            return float("nan")
        num_levels = int(self.level_P.max()) + 1
        part_L = np.bincount(self.level_P, weight_P, num_levels)
        reward_HGL, cost_HGL = (
            np.array([[np.bincount(self.level_P, weight_P * one_P, num_levels) for one_P in half] for half in halves])
            / np.maximum(part_L, 1e-12)
            for halves in (self.reward_HGP, self.cost_HGP)
        )
        room = 0.0  # oracle(c) - mix(c)
        for decides, values in ((0, 1), (1, 0)):
            # Where this half's cheapest responses cost more than the budget, there is nothing to decide.
            _, x_L = oracle_by_level_at_cost(
                reward_HGL[decides, 0], reward_HGL[decides, 1], cost_HGL[decides, 0], cost_HGL[decides, 1], part_L, cost
            )
            x_L = np.nan_to_num(x_L)
            planned, worth, spent = (
                float(part_L @ (one[0] + x_L * (one[1] - one[0])))
                for one in (cost_HGL[decides], reward_HGL[values], cost_HGL[values])
            )
            # The other half's responses cost a little more or less than planned, so the blind draw next to them does;
            # what the oracle leaves unspent, because nothing more can be gained, the blind draw may spend.
            blind = _line(reward_HGL[values] @ part_L, cost_HGL[values] @ part_L, spent + cost - planned)
            room += (worth - blind) / 2
        if room < MIN_ROOM:
            return float("nan")
        ends = self.reward_GP[:, self.keep_P] @ weight_P, self.cost_GP[:, self.keep_P] @ weight_P
        return (float(weight_P @ reward_P) - _line(*ends, cost)) / room


def _existing(estimate: Estimate) -> Estimate | None:
    return None if np.isnan(estimate.value) else estimate


def _line(reward_G: FloatArray, cost_G: FloatArray, cost: float) -> float:
    """What a blind draw between the two gets at a mean cost."""
    part = (cost - cost_G[0]) / (cost_G[1] - cost_G[0]) if cost_G[1] != cost_G[0] else 0.0
    return float((1 - part) * reward_G[0] + part * reward_G[1])


def _turns(own: Responses, order: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The problem of each response, and which of its problem's responses it is, from 0."""
    at = {name: p for p, name in enumerate(order)}
    p_N = np.array([at[str(name)] for name in own.problem.tolist()], dtype=np.intp)
    sorted_N = np.argsort(p_N, kind="stable")
    _, first, count = np.unique(p_N[sorted_N], return_index=True, return_counts=True)
    turn_N = np.empty(len(p_N), dtype=np.intp)
    turn_N[sorted_N] = np.arange(len(p_N)) - np.repeat(first, count)
    return p_N, turn_N


def _mean(value_N: FloatArray, p_N: NDArray[np.intp], keep_N: NDArray[np.bool_], num: int) -> FloatArray:
    """`[P]` means of what is known and kept; nan where nothing is."""
    keep_N = keep_N & ~np.isnan(value_N)
    count_P = np.bincount(p_N[keep_N], minlength=num)
    total_P = np.bincount(p_N[keep_N], value_N[keep_N], num)
    return np.divide(total_P, count_P, out=np.full(num, np.nan), where=count_P > 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteCurve:
    """maj@k of one configuration, K points; none where its responses have no answers to vote on."""

    points: list[Json]
    """`k`, mean `cost`, `accuracy` with interval."""
    accuracy: FloatArray
    """`[K, P]`."""
    cost: FloatArray
    """`[K, P]`."""


def vote_curve(
    own: Responses,
    order: Sequence[str] | NDArray[Any],
    cost_P: FloatArray,
    sizes: Sequence[int] = (),
    code: NDArray[np.int64] | None = None,
) -> VoteCurve:
    """The curve of maj@k.

    Args:
        own: Responses of one configuration.
        order: The problems.
        cost_P: Cost of one response to each.
        sizes: The k; empty: 1, 2, 3, 4, 5, 8, ... up to the smallest number of responses to a problem.
        code: `[N]` numbers of their answers, as from `code_answers`, where they are known.
    """
    if not own.has_votes:
        return VoteCurve(points=[], accuracy=np.zeros((0, len(order))), cost=np.zeros((0, len(order))))
    smallest = int(np.bincount(number_problems(own.problem)[1]).min())
    points, accuracy_KP, cost_KP = [], [], []
    sizes = sizes or sorted({*vote_sizes(smallest), *(k for k in (3, 5) if k <= smallest)})
    code = code_answers(own.problem, own.answer, own.right) if code is None else code
    problems, vote_KP = votes_of_codes(own.problem, code, own.right, sizes)
    for k, vote_P in zip(sizes, vote_KP, strict=True):
        accuracy_P = problem_means(vote_P, problems, order)
        points.append({"k": k, "cost": k * float(cost_P.mean()), "accuracy": estimate_rate(accuracy_P, order)})
        accuracy_KP.append(accuracy_P)
        cost_KP.append(k * cost_P)
    return VoteCurve(points=points, accuracy=np.array(accuracy_KP), cost=np.array(cost_KP))


def gain_over_votes(reward_P: FloatArray, cost_P: FloatArray, votes: VoteCurve, seed: int) -> Estimate | None:
    """The gain ratio against these votes; None where there are none."""
    if len(votes.points) < 2:
        return None
    return estimate_gain_ratio(reward_P, cost_P, votes.accuracy, votes.cost, seed=seed)


def mix_points(cost_CP: FloatArray, reward_CP: FloatArray, among: Sequence[int]) -> list[Json]:
    """The best random mix of configurations on a grid of costs between the two ends, and the straight line."""
    cost_C, reward_C = cost_CP[list(among)].mean(1), reward_CP[list(among)].mean(1)
    low, high = int(cost_C.argmin()), int(cost_C.argmax())
    points = []
    for cost in np.unique(np.concatenate([np.linspace(cost_C[low], cost_C[high], 41), cost_C])):
        at = min(max(float(cost), float(cost_C[low])), float(cost_C[high]))
        part = (at - cost_C[low]) / (cost_C[high] - cost_C[low]) if high != low else 0.0
        line = (1 - part) * reward_C[low] + part * reward_C[high]
        points.append({"cost": at, "best": float(mix_at_cost(cost_C, reward_C, at) @ reward_C), "line": float(line)})
    return points


def areas(
    curves: Mapping[str, tuple[FloatArray, FloatArray]], low: float, high: float, *, mix: str = "", seed: int = 0
) -> list[Json]:
    """The area under each curve between two costs, or between its cheapest and its most expensive point if it has less.

    Nothing is extrapolated: a curve that covers a part of the range has the area of that part, and next to it is
    the area of the curve `mix` over the same part.

    Args:
        curves: Name -> cost `[K, P]` and accuracy `[K, P]`.
        low: Mean cost at which the range begins.
        high: Mean cost at which it ends.
        mix: The curve to show with the others, e.g. the random mix; "": none.
        seed: Seed of the bootstraps.

    Returns:
        `name`, `low`, `high`, `area` and `mix` (None where there is no number); curves of one cost, or nearly so, are
        left out.

    Example:
        >>> flat = np.ones((1, 30))
        >>> line = np.vstack([flat, 3 * flat]), np.vstack([0.5 * flat, 0.7 * flat])
        >>> [row] = areas({"line": line}, 0, 2)
        >>> row["low"], row["high"], round(row["area"].value, 3)
        (1.0, 2, 0.55)
    """
    rows = []
    for name, (cost_KP, accuracy_KP) in curves.items():
        if len(cost_KP) < 2:
            continue
        cost_K = cost_KP.mean(1)
        begin, end = max(low, float(cost_K.min())), min(high, float(cost_K.max()))
        if end <= begin:
            continue
        beside = None
        if mix in curves and name != mix:
            mix_cost_KP, mix_KP = curves[mix]
            reaches = not np.isnan(area_under_curve(mix_cost_KP.mean(1), mix_KP.mean(1), begin, end))
            beside = estimate_area(mix_cost_KP, mix_KP, begin, end, seed=seed) if reaches else None
            beside = beside if beside and np.isfinite(beside.low) else None
        area = estimate_area(cost_KP, accuracy_KP, begin, end, seed=seed)
        if not np.isfinite(area.low):  # its points cost so nearly the same that most draws do not cover the range
            continue
        rows.append({"name": name, "low": begin, "high": end, "area": area, "mix": beside})
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """Options of `compare`."""

    standard: str = ""
    """The configuration to which costs are relative; "": the cheapest."""
    among: Sequence[str] = ()
    """Configurations between which to allocate; empty: all whose responses are of one response group."""
    budgets: Sequence[float] = BUDGETS
    reference: Sequence[str] = ()
    """Cheapest and most expensive of the oracle share and the blind draw; empty: those of `among`."""
    num_splits: int | None = None
    """Random halvings; None: `splits_of_report`."""
    seed: int = 0
    extended: str = EXTENDED
    cost_unit: str = "tokens"
    """What a response's cost counts."""


def splits_of_report(asked: int | None, num_problems: int) -> int:
    """How many random halvings a report draws: what is asked, else 50, or `enough_splits` where these are fewer."""
    return asked or min(50, enough_splits(num_problems))


class Evaluation(dict[str, Any]):
    """What `compare` found: plain data for JSON; a notebook shows it as a picture and a table, `print` as a table."""

    def __repr__(self) -> str:
        rows = self.get("configurations", [])
        return f"Evaluation({len(rows)} configurations on {self.get('num_problems', 0)} problems)"

    def __str__(self) -> str:
        return f"Evaluation: {self._lead()}\n{text_table(*self._table())}"

    def _repr_html_(self) -> str:
        """For notebooks: accuracy against mean cost, with 95 % intervals; a summary, never the responses."""
        marks: list[Mark] = []
        for row in self._rows():
            found = row["numbers"]["overall"]["all"]["pass@1"]
            cost, value = row["cost"]["value"], found["value"]
            if cost is not None and value is not None:
                marks.append(Mark(x=cost, y=value, name=str(row["name"]), low=found["low"], high=found["high"]))
        drawing = ""
        if marks:
            mix = self.get("mix") or []
            drawing = chart(
                [([point["cost"] for point in mix], [point["line"] for point in mix])] if mix else [],
                marks[:MOST_MARKS],
                x_label="mean cost per response",
                y_label="accuracy, 95 % intervals" + " (line: random mix)" * bool(mix),
                what=f"accuracy against mean cost: {self._lead()}",
                is_dashed=True,
            )
        return show("Evaluation", self._lead(), drawing, table(*self._table()), " ".join(self.get("notes", [])))

    def _rows(self) -> list[Json]:
        return self.get("configurations", [])

    def _lead(self) -> str:
        left = f" ({self['num_left_out']:,} left out)" if self.get("num_left_out") else ""
        return f"{len(self._rows()):,} configurations on {self.get('num_problems', 0):,} problems{left}"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """A row per configuration, the cheapest first."""
        standard = self.get("standard")
        body: list[list[str]] = []
        for row in self._rows():
            right, cost, difference = row["numbers"]["overall"]["all"]["pass@1"], row["cost"], row["difference"]
            against = "" if difference is None else _with_ends(difference, 100.0, "+.1f")
            if row["name"] == standard:
                against = "standard"
            body.append(
                [
                    short(str(row["name"])),
                    f"{row['num_responses']:,}",
                    _with_ends(right, 100.0, ".1f"),
                    number_text(cost["value"]),
                    against,
                ]
            )
        return [
            "configuration",
            "responses",
            "right, %\u00a0(95\u00a0%)",
            "mean cost",
            "difference, points\u00a0(95\u00a0%)",
        ], body


def _with_ends(estimate: Json, factor: float, form: str) -> str:
    """A number with its interval; "" where there is none."""
    value, low, high = (estimate.get(name) for name in ("value", "low", "high"))
    if value is None:
        return ""
    text = f"{factor * value:{form}}"
    return text if low is None or high is None else f"{text} ({factor * low:{form}} to {factor * high:{form}})"


def compare(responses: Responses, options: CompareOptions | None = None) -> Evaluation:
    r"""Everything that the report says of one part, as plain data for JSON.

    Only problems that every configuration answered count, so that all are compared on the same ones. A configuration
    whose cost is known for none of its responses is refused.

    Returns:
        `problems` (used, left out), `standard`, `levels`, `configurations` (numbers by slice; `relative_cost`,
        `difference` from the standard one in closed form, `difference_bootstrap`, `oracle_share` between the cheapest
        and the most expensive of `among`, `gain_ratio` against its votes), `votes` (curves of maj@k), `mix` (corners of
        the best random mix and the straight line), `areas` (under accuracy against cost, of the mix and of votes),
        `oracles` (by problem and by level, on responses without a say), `allocation` (a row per budget),
        `share_by_level` (of the middle budget), `budget_kept`, `notes`.

    Raises:
        IbpoError: for an unknown configuration, or no problem in common.
    """
    options = options or CompareOptions()
    names = responses.configurations
    for name in (*options.among, *options.reference, *([options.standard] if options.standard else [])):
        if name not in names:
            raise IbpoError(f"{name}: no such configuration; there are {', '.join(names)}")
    responses, problems, left_out = _common(coarse_levels(with_levels(responses)))
    # Numbers for problems and answers from here on: sorting texts again for each figure took a quarter of the time.
    sorted_names, p_N = number_problems(responses.problem)
    at = {name: p for p, name in enumerate(sorted_names.tolist())}
    order = np.array([at[name] for name in problems])
    numbered = replace(responses, problem=p_N)
    own_of = {name: numbered.of(name) for name in names}
    code_of = {name: code_answers(own.problem, own.answer, own.right) for name, own in own_of.items()}
    by_name = {name: _cost(own, order, name) for name, own in own_of.items()}
    names = sorted(names, key=lambda name: float(by_name[name].mean()))  # cheapest first, everywhere in the report
    cost_CP = np.array([by_name[name] for name in names])
    standard = options.standard or names[0]
    notes = [f"{left_out} problems that not every configuration answered are left out"] if left_out else []
    reward_CP = np.array([problem_means(own_of[name].reward, own_of[name].problem, order) for name in names])
    base, cost = names.index(standard), cost_CP.mean(1)
    votes = {name: vote_curve(own_of[name], order, cost_CP[c], code=code_of[name]) for c, name in enumerate(names)}
    among = list(dict.fromkeys(options.among)) or [name for name in names if len(set(own_of[name].response_group)) == 1]
    among_C = [names.index(name) for name in among]
    reference, ends = None, []
    if len(among) > 1 or options.reference:  # names begin with the cheapest
        ends = [names.index(name) for name in options.reference] or [min(among_C), max(among_C)]
        reference = Reference(own_of[names[ends[0]]], own_of[names[ends[1]]], order)
    rows = []
    for c, name in enumerate(names):
        own = own_of[name]
        difference = paired_difference(reward_CP[c], reward_CP[base]) if c != base else None
        rows.append(
            {
                "name": name,
                "num_responses": len(own),
                "numbers": describe(own, extended=options.extended, code=code_of[name], cost_unit=options.cost_unit),
                "cost": estimate_mean(cost_CP[c], order, positive=True),
                "relative_cost": ratio_of_means(cost_CP[c], cost_CP[base]),
                "difference": difference,
                "difference_bootstrap": bootstrap_difference(reward_CP[c], reward_CP[base], seed=options.seed)
                if difference
                else None,
                "above_random_mix": reference.above_random_mix(reward_CP[c], cost_CP[c], seed=options.seed)
                if reference and c not in ends
                else None,
                "oracle_share": reference.oracle_share(reward_CP[c], cost_CP[c], seed=options.seed)
                if reference and c not in ends
                else None,
                "gain_ratio": gain_over_votes(reward_CP[c], cost_CP[c], votes[standard], options.seed)
                if difference
                else None,
            }
        )
    found: Json = {}
    if len(among) > 1:
        found = held_out_choice(
            responses,
            len(order),
            among,
            options.budgets,
            notes,
            num_splits=splits_of_report(options.num_splits, len(order)),
            seed=options.seed,
        )
    curves = {"random mix": (cost_CP[among_C], reward_CP[among_C])} if len(among) > 1 else {}
    curves |= {f"votes, {name}": (curve.cost, curve.accuracy) for name, curve in votes.items()}
    numbers = {
        "num_problems": len(order),
        "num_left_out": left_out,
        "standard": standard,
        "levels": level_names(responses),
        "configurations": rows,
        "votes": {name: curve.points for name, curve in votes.items() if len(curve.points) > 1},
        "mix": mix_points(cost_CP, reward_CP, among_C) if len(among) > 1 else [],
        "areas": areas(curves, float(cost.min()), float(cost.max()), mix="random mix", seed=options.seed),
        "num_held_out": found.get("num_problems", 0),
        "among": among,
        "reference": [names[c] for c in ends],
        "oracle_knows": "" if reference is None else "levels" if reference.is_by_level else "problems",
        "oracles": found.get("oracles", {}),
        "allocation": found.get("allocation", []),
        "share_by_level": found.get("share_by_level", {}),
        "budget_kept": _budget_kept(numbered, options.extended, notes),
        "notes": notes,
    }
    return Evaluation(plain(numbers))


def _common(responses: Responses) -> tuple[Responses, list[str], int]:
    answered = [set(responses.of(name).problem.astype(str).tolist()) for name in responses.configurations]
    common = set.intersection(*answered)
    if not common:
        raise IbpoError(
            "no problem was answered by every configuration; compare runs on the same problems, or name the problem's "
            "column with --columns problem=COLUMN"
        )
    keep = np.array([problem in common for problem in responses.problem.astype(str).tolist()])
    return responses.where(keep), sorted(common, key=natural), len(set.union(*answered)) - len(common)


def _cost(own: Responses, order: NDArray[np.int64], name: str) -> FloatArray:
    known = ~np.isnan(own.tokens)
    if not known.any():
        raise IbpoError(f"{name}: no response has a cost; add its tokens, or leave the configuration out")
    cost_P = problem_means(own.tokens[known], own.problem[known], order)
    # A problem of unknown cost is taken to cost what the others do on average, so that it keeps its accuracy.
    return np.where(np.isnan(cost_P), np.nanmean(cost_P), cost_P)


def _budget_kept(responses: Responses, extended: str, notes: list[str]) -> list[Json]:
    rows = []
    known = set(responses.response_group.tolist()) - {""}
    for name in responses.configurations:
        own = responses.of(name)
        budgets = set(own.budget[~np.isnan(own.budget)].tolist())
        if len(budgets) == 1 and known:
            if extended not in known:
                notes.append(
                    f"budget of {name} not shown: no response is of {extended}; --extended names another group"
                )
                continue
            share = estimate_rate((own.response_group == extended).astype(float), own.problem)
            rows.append({"name": name, "budget": budgets.pop(), "share": share})
    return rows


def plain(value: Any) -> Any:
    """JSON's own types: estimates as objects, what does not exist as null."""
    if isinstance(value, Estimate):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return None if not np.isfinite(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value
