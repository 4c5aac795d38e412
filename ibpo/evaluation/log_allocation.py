"""What a budget buys on a part of a log: the choice, the best that does not look at the problems, and what both keep.

Every question (budgets that hold together) is allocated on a part as a whole, and valued on halves of its responses
that had no say. Letters: P problems, G response groups.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import (
    Allocation,
    GroupMeans,
    HoldoutRow,
    InfeasibleBudget,
    RankedSteps,
    allocate,
    enough_splits,
    random_mix,
    value_halves,
)
from ibpo.budget import (
    TOKENS,
    Budget,
    amount_to_ask,
    check_budget,
    check_distinct,
    costs_named,
    move_budget,
    parse_budget,
)
from ibpo.errors import IbpoError
from ibpo.evaluation.estimates import shrink, within_halves
from ibpo.evaluation.log_parts import FloatArray, IntArray, LogPart, Say
from ibpo.evaluation.statistics import UNSEEN, that_differ
from ibpo.pictures import number_text

DEFAULT = ("0.5x", "25%range", "50%range", "75%range")
GAP, NODES, MANY = 1e-4, 100, 100
"""With more problems than these a choice within this part of the best is good enough, and no search passes this many
nodes: what is expected of them errs more. Expectations of problems that were answered alike are equal, and to prove the
best of thousands of near ties takes minutes."""
ROUNDED = Fraction(1, 10**6)
"""Part of expected costs that rounding takes (`ibpo.evaluation.estimates.shrink`)."""
FOLDS = 3
"""Parts of the problems that are judged by the variance within the others."""
PILOT = 4
"""One in so many halvings says beforehand what the choices spend."""
REFUSED = {
    "slice": "a log is not sliced inside a budget; --by COLUMN solves each part of the log on its own",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Budgets that hold together, and how often their upper bounds are taken: one row of the table."""

    label: str
    budgets: tuple[Budget, ...]
    times: Fraction = Fraction(1)
    was_asked: bool = True
    """False: nobody asked, and budgets that cannot be kept are no error."""

    def limits_on(self, part: LogPart) -> list["GroupLimit"]:
        """The budgets for one part of a log."""
        return self.limits(part.columns["cost"], part.groups, part.cost.mean(0), part.now()[1])

    def limits(self, cost_name: str, groups: Sequence[str], mean_cost: FloatArray, now: float) -> list["GroupLimit"]:
        """The same from what they ask of a part.

        Args:
            cost_name: The log's column.
            groups: The log's response groups, G of them.
            mean_cost: `[G]`, of always taking one of them.
            now: Mean cost per problem of the responses as logged.
        """
        return [_limit(budget, self.times, cost_name, groups, mean_cost, now) for budget in self.budgets]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLimit:
    """A budget on one part of a log: mean cost per problem, or the share of response group number `group`."""

    name: str
    group: int | None
    at_most: Fraction | None
    at_least: Fraction | None


def questions(texts: Sequence[str], cost: str = TOKENS) -> list[Question]:
    """All budgets together, at half, once and twice their amount; without any, half of today's and three on the way.

    Args:
        texts: Budgets, as on the command line.
        cost: What an amount without a name is of, such as `0.5x`: the log's cost.
    """
    if not texts:
        texts = [f"{cost}={text}" for text in DEFAULT]
        return [Question(label=text, budgets=(parse_budget(text),), was_asked=False) for text in texts]
    budgets = tuple(
        replace(budget, name=cost) if "=" not in text else budget
        for text, budget in ((text, parse_budget(text)) for text in texts)
    )
    check_distinct(budgets)
    label = ", ".join(map(str, budgets))
    if all(budget.sense == "at_least" for budget in budgets):
        return [Question(label=label, budgets=budgets)]
    scaled = (("half of it", Fraction(1, 2)), (label, Fraction(1)), ("twice it", Fraction(2)))
    return [Question(label=name, budgets=budgets, times=times) for name, times in scaled]


def choose_groups(
    reward: FloatArray, cost: FloatArray, limits: Sequence[GroupLimit], ids: IntArray | None = None
) -> tuple[Allocation, IntArray]:
    """The best response group `[P]` of each problem, from `[P, G]` means, under the limits; ids order the ties."""
    num_problems, num_groups = reward.shape
    problem = np.repeat(np.arange(num_problems) if ids is None else ids, num_groups)
    group = np.tile(np.arange(num_groups), num_problems)
    limits = [_unrounded(x, cost) for x in limits]
    rows = [cost.ravel() if x.group is None else (group == x.group).astype(np.float64) for x in limits]
    floors: dict[str, Any] = {}
    if any(x.at_least is not None for x in limits):
        floors["at_least"] = [x.at_least for x in limits]
    effort: dict[str, Any] = {"relative_gap": GAP, "node_limit": NODES} if num_problems > MANY else {}
    allocation = allocate(reward.ravel(), problem, np.stack(rows), [x.at_most for x in limits], **floors, **effort)
    return allocation, allocation.weight.reshape(num_problems, num_groups).argmax(1)


def _unrounded(limit: GroupLimit, cost: FloatArray) -> GroupLimit:
    """The limit, or what the cheapest (for a least cost, the most expensive) choice costs, if only rounding is amiss.

    Expected costs have six digits, so that the cheapest response group's may be above its own mean: 0%range.
    """
    if limit.group is not None:
        return limit
    least, most = (Fraction(float(x.mean())) for x in (cost.min(1), cost.max(1)))
    at_most, at_least = limit.at_most, limit.at_least
    if at_most is not None and at_most < least <= at_most * (1 + ROUNDED):
        at_most = least * (1 + ROUNDED / 1000)
    if at_least is not None and at_least > most >= at_least * (1 - ROUNDED):
        at_least = most * (1 - ROUNDED / 1000)
    return replace(limit, at_most=at_most, at_least=at_least)


def numbered(problems: Sequence[Any] | IntArray) -> IntArray:
    """Ids as numbers that do not depend on how the log was read: their own where all are whole, else by their order.

    Ties follow them, and hashing each text again for each budget takes longer than solving.

    Example:
        >>> numbered(["7", "10"]).tolist(), numbered(["q7", "q10"]).tolist()
        ([7, 10], [1, 0])
    """
    if isinstance(problems, np.ndarray):
        return problems
    texts = np.array(list(map(str, problems)))
    if all(map(str.isdecimal, (texts[0].removeprefix("-"), texts[-1].removeprefix("-")))):
        with suppress(ValueError, OverflowError):
            whole = np.array(list(map(int, problems)), np.int64)
            if (whole.astype(texts.dtype) == texts).all():
                return whole
    rank = np.empty(len(texts), np.int64)
    rank[np.argsort(texts, kind="stable")] = np.arange(len(texts))
    return rank


def _limit(
    budget: Budget, times: Fraction, cost_name: str, groups: Sequence[str], mean_cost: FloatArray, now: float
) -> GroupLimit:
    costs = costs_named(cost_name)
    if budget.name == "money" and "money" not in (*groups, *costs):
        raise IbpoError(
            f"--budget {budget}: the log's cost is {cost_name!r}, no money; give a table of prices with --prices, or "
            "name a column with money with --columns cost=COLUMN"
        )
    if check_budget(budget, groups=groups, costs=costs, refused=REFUSED):
        amount, group = budget.amount, list(groups).index(budget.name)
    else:
        group, ends = None, (float(mean_cost.min()), float(mean_cost.max()))
        amount = budget.in_cost(now=now, cheapest=ends[0], most_expensive=ends[1])
    if budget.sense == "at_least":
        return GroupLimit(name=budget.name, group=group, at_most=None, at_least=amount)
    return GroupLimit(name=budget.name, group=group, at_most=amount * times, at_least=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one question gets; `allocation` is None where the budgets cannot be kept, and `why` says so.

    `pick` `[P]` is the number of each problem's response group; `mixture` `[G]` the best that does not look at the
    problems (`fitting_mixture`); `aim` the part of the allowed cost that was allocated, so that on unseen responses all
    of it is spent and no more; `held_out` is None where responses are single.
    """

    question: Question
    limits: list[GroupLimit]
    allocation: Allocation | None
    pick: NDArray[np.integer]
    why: str
    mixture: FloatArray | None
    aim: Fraction
    held_out: HoldoutRow | None


def answer_questions(
    part: LogPart,
    asked: Sequence[Question],
    *,
    holdout: bool | None,
    num_splits: int | None,
    seed: int,
    say: Say,
    progress: Callable[[str], Callable[[int, int], None] | None] = lambda _: None,
) -> list[Answer]:
    """Allocate each question on the whole part; value each on held-out halves of its responses.

    Args:
        part: A part of the log.
        asked: One answer for each.
        holdout: Whether to halve; None: if responses repeat.
        num_splits: Random halvings; None: `enough_splits`.
        seed: Seed of the halvings.
        say: Takes what a reader should know.
        progress: From a question's label to what is called with (splits done, splits in all).

    Raises:
        IbpoError: Budgets that cannot be kept as they were asked.
    """
    can_halve = part.log is not None and int(part.repeats.sum()) >= 2
    if holdout is None and not can_halve:
        why = "the log is streamed" if part.log is None else "at least 2 responses per problem and group needed"
        say(f"{part.place}no held-out values: {why}")
    holdout = can_halve if holdout is None else holdout
    answers: list[Answer] = []
    ids = numbered(part.problems)
    for question in asked:
        limits = question.limits_on(part)
        try:
            allocation, pick = choose_groups(part.expected_reward, part.expected_cost, limits, ids)
            mixture = fitting_mixture(part.reward.mean(0), part.cost.mean(0), limits)
            small, why = pick.astype(np.min_scalar_type(len(part.groups))), ""
        except IbpoError as error:
            name = str(question.budgets[error.budget_index]) if isinstance(error, InfeasibleBudget) else question.label
            if not isinstance(error, InfeasibleBudget) or (question.times == 1 and question.was_asked):
                said = str(error)
                if isinstance(error, InfeasibleBudget) and (len(limits) > 1 or limits[0].group is not None):
                    said = _not_kept(error, question.budgets, limits, part.columns["cost"])
                elif isinstance(error, InfeasibleBudget):
                    said = said.partition(": ")[2]  # there is one budget only: which of them says nothing
                    round_ = math.floor if error.floor else math.ceil
                    times = round_(100 * error.nearest / part.now()[1]) / 100 if part.now()[1] else 0.0
                    said += f" (of today's, {times:g}x)" if times else ""
                raise IbpoError(f"{part.place}--budget {name}: {said}") from None
            allocation, small, mixture = None, np.zeros(0, np.int64), None
            what = "" if name == question.label else f"{name} "
            of, unit = (1, " per problem") if limits[error.budget_index].group is None else (100, "% of the problems")
            needs = f"{'reaches at most' if error.floor else 'needs at least'}"
            why = f"not possible: {what}{needs} {amount_to_ask(of * error.nearest, at_least=error.floor)}{unit}"
        answers.append(
            Answer(
                question=question, limits=limits, allocation=allocation, pick=small, why=why, mixture=mixture,
                aim=Fraction(1), held_out=None,
            )
        )  # fmt: skip
    if not (holdout and part.log is not None):
        return answers
    possible = [answer for answer in answers if answer.allocation]
    show = progress(f"{part.place}held-out values")
    num_splits = num_splits or enough_splits(len(part.problems))
    log = part.repeated(say)
    gathered = GroupMeans.from_arrays(log.reward, log.problem, log.response_group, log.cost)
    value = partial(_held_out, gathered, part.within, seed=seed)
    bounded = [answer for answer in possible if _allowed(answer) is not None]
    pilot = value(bounded, num_splits=-(-num_splits // PILOT)) if bounded else []
    aimed = {answer.question: _aimed(answer, row.spent, part, ids) for answer, row in zip(bounded, pilot, strict=True)}
    possible = [aimed.get(answer.question, answer) for answer in possible]
    rows = value(possible, num_splits=num_splits, progress=show)
    valued = {answer.question: _widened(replace(answer, held_out=row), part)
              for answer, row in zip(possible, rows, strict=True)}  # fmt: skip
    return [valued.get(answer.question, answer) for answer in answers]


def _not_kept(error: InfeasibleBudget, budgets: Sequence[Budget], limits: Sequence[GroupLimit], cost: str) -> str:
    """By how much a budget cannot be kept, in its own words: a share of the problems, or a cost per problem."""
    limit, together = limits[error.budget_index], " together with the other budgets" if len(limits) > 1 else ""
    if limit.group is not None:
        can = "at most {}% of the problems can" if error.floor else "at least {}% of the problems have to"
        found = f"{can.format(number_text(100 * error.nearest))} get {limit.name}"
    else:
        found = f"{'at most' if error.floor else 'at least'} {number_text(error.nearest)} {cost} per problem are spent"
    another = ", or loosen another" if together else ""
    asked = move_budget(budgets[error.budget_index], error.nearest, is_share=limit.group is not None)
    return f"{found}{together}; {'lower' if error.floor else 'raise'} it to {asked}{another}"


def _held_out(log: GroupMeans, within: FloatArray, answers: Sequence[Answer], **options: Any) -> list[HoldoutRow]:
    """What choosing as for these answers is worth on responses that had no say."""
    halves = _Halves()

    def against(answer: Answer) -> FloatArray | Fraction | None:
        """The best mixture by the half that chooses, as the choice is: by all responses it would be the luckiest."""
        one = answer.limits[0].at_most if len(answer.limits) == 1 and answer.limits[0].group is None else None
        return answer.mixture if one is None else one

    return value_halves(
        log,
        [partial(halves.choose, _lowered(answer.limits, _aim_of_halves(answer.aim))) for answer in answers],
        against=list(map(against, answers)),
        extrapolate=bool(within.any()),
        **options,
    )


def _allowed(answer: Answer) -> Fraction | None:
    """The mean cost that is allowed; None where only shares are bounded."""
    return next((x.at_most for x in answer.limits if x.group is None and x.at_most is not None), None)


def _aimed(answer: Answer, spent: float, part: LogPart, ids: IntArray) -> Answer:
    """The answer that spends on unseen responses what is allowed, where halves as they are spend more, `spent`.

    Choices favour response groups whose costs look low, some of them by luck; what is left of that after shrinking is
    a part of the cost, so as much less is aimed at. The variance of a mean of twice as many responses is half as large,
    and so is what luck takes: the choice by all responses exceeds by half of what halves exceed by.
    """
    allowed = _allowed(answer)
    if allowed is None or spent <= allowed:
        return answer
    aim = Fraction(f"{2 / (1 + spent / float(allowed)):.6f}")
    try:
        found = choose_groups(part.expected_reward, part.expected_cost, _lowered(answer.limits, aim), ids)
    except IbpoError:  # nothing cheaper keeps the other budgets
        return answer
    return replace(answer, aim=aim, allocation=found[0], pick=found[1].astype(answer.pick.dtype))


def _aim_of_halves(aim: Fraction) -> Fraction:
    """What halves of the responses aim at, where all of them aim at `aim` (see `_aimed`)."""
    return 1 / (2 / aim - 1)


def _widened(answer: Answer, part: LogPart) -> Answer:
    """The answer with a standard error of its gain that allows for what happened not to be seen.

    Where the same group is chosen for nearly all problems, the gain is the same, 0, for nearly all of them, and its
    standard error says nothing of problems that would have been chosen otherwise. So the variance is enlarged as if
    three of the P problems (the upper 95 % limit where none was seen) differed by as much as two groups do:
    3 D / P^2 with D the variance between problems of the observed differences. Where two groups differ alike on all
    problems but n < 3, that variance says little, and D is at least s (1 - n / 3), with s the square of what these
    rewards differ by (`that_differ`).
    """
    held = answer.held_out
    if held is None or held.mixture_gain_stderr is None:
        return answer
    num_problems = int(part.repeats.sum())
    reward = part.reward[part.repeats]
    pairs = combinations(range(len(part.groups)), 2)
    few = [that_differ(reward[:, g] - reward[:, h]) for g, h in pairs]
    least = sum(square * max(1 - number / UNSEEN, 0.0) for number, square in few) / len(few)
    more = UNSEEN * max(differences(part, price_of(answer))[2], least) / num_problems**2
    return replace(answer, held_out=replace(held, mixture_gain_stderr=math.sqrt(held.mixture_gain_stderr**2 + more)))


def as_shown(part: LogPart, held: HoldoutRow) -> HoldoutRow:
    """The row as it is printed, drawn and written: means of rewards lie within the rewards of the log.

    Extrapolated ones may not (`ibpo.allocation.holdout_value`), and nobody keeps 104 % of all answers right. Gains and
    the part of the most expensive group's reward that is kept follow; standard errors stay. Decisions are made on the
    row itself.

    Args:
        part: The part of the log.
        held: What a choice is worth on responses that had no say.
    """
    assert part.log is not None
    low, high = float(part.log.reward.min()), float(part.log.reward.max())
    names = ("reward", "random_mix", "straight_line", *(["mixture"] if held.mixture is not None else []))
    inside = {name: min(max(getattr(held, name), low), high) for name in names}
    if all(getattr(held, name) == value for name, value in inside.items()):
        return held
    reward, most = inside["reward"], held.always_most_expensive
    gains = {"gain": reward - inside["random_mix"], "kept": reward / most if most else math.nan}
    if "mixture" in inside:
        gains["mixture_gain"] = reward - inside["mixture"]
    return replace(held, **inside, **gains)


def price_of(answer: Answer) -> float:
    """Reward per unit of cost at the budget; 0 where it has slack, or bounds shares only."""
    if answer.allocation is None:
        return 0.0
    prices = zip(answer.limits, answer.allocation.price.tolist(), strict=True)
    return float(sum(price for limit, price in prices if limit.group is None))


def differences(part: LogPart, price: float) -> tuple[float, float, float]:
    """Variances of the difference between two response groups, means over all pairs of them.

    Args:
        part: A log by problem and response group.
        price: Reward per unit of cost.

    Returns:
        Between problems, of the true differences (at least 0); within a problem, of one answer each; and between
        problems, of the differences as observed.
    """
    utility = part.reward - price * part.cost
    taste = np.array([1.0, -price])
    within_G = np.einsum("i,gij,j->g", taste, part.within, taste)
    noise = within_G / np.maximum(part.count, 1)
    found: list[tuple[float, float, float]] = []
    for g, h in combinations(range(len(part.groups)), 2):
        observed = float((utility[:, g] - utility[:, h]).var(ddof=1)) if len(utility) > 1 else 0.0
        luck = float((noise[:, g] + noise[:, h]).mean())
        found.append((max(observed - luck, 0.0), float(within_G[g] + within_G[h]), observed))
    between, within, seen = np.array(found).mean(0).tolist()
    return between, within, seen


def _lowered(limits: Sequence[GroupLimit], aim: Fraction) -> list[GroupLimit]:
    """The limits with a part of the cost that they allow."""
    return [replace(x, at_most=x.at_most * aim) if x.group is None and x.at_most is not None else x for x in limits]


class _Halves:
    """What each half of the responses would choose; the expectations of halves serve all budgets that are asked.

    How much answers vary within a cell, a half of one answer each cannot say; both halves together can. But where they
    agree by luck, variance within looks small, so choices are trusted just where the other half confirms them. So a
    problem is judged by the variance within the *other* problems, in `FOLDS` parts.
    """

    def __init__(self) -> None:
        self._seen: tuple[Any, tuple[FloatArray, FloatArray]] | None = None
        self._steps: tuple[Any, RankedSteps] | None = None

    def _expect(self, reward: FloatArray, cost: FloatArray, count: FloatArray) -> tuple[FloatArray, FloatArray]:
        expected = np.empty_like(reward), np.empty_like(cost)
        fold_P = np.random.default_rng(0).permutation(reward.shape[1]) % FOLDS
        for fold in range(FOLDS):
            here = fold_P == fold
            if here.any():
                within = within_halves(reward, cost, count, ~here)
                for whole, found in zip(expected, shrink(reward, cost, count, within, here), strict=True):
                    whole[:, here] = found[:, here]
        return expected

    def choose(self, limits: Sequence[GroupLimit], reward: FloatArray, cost: FloatArray, count: FloatArray) -> IntArray:
        """`[H, P]` the response group of each problem; -1 in a half that cannot keep the budgets."""
        if self._seen is None or self._seen[0] is not reward:
            there = count > 0
            self._seen = reward, self._expect(np.where(there, reward, 0.0), np.where(there, cost, 0.0), count)
        reward, cost = self._seen[1]
        amount = limits[0].at_most if len(limits) == 1 and limits[0].group is None else None
        if amount is not None:
            if self._steps is None or self._steps[0] is not reward:
                self._steps = reward, RankedSteps(reward, cost)
            pick = self._steps[1].within(float(amount))
            pick[cost.min(2).mean(1) > float(amount)] = -1
            return pick
        pick = np.full(reward.shape[:2], -1, np.int64)
        for h in range(len(pick)):
            try:
                pick[h] = choose_groups(reward[h], cost[h], limits)[1]
            except InfeasibleBudget:
                continue
        return pick


def fitting_mixture(reward_G: FloatArray, cost_G: FloatArray, limits: Sequence[GroupLimit]) -> FloatArray | None:
    r"""The best that does not look at the problems: weights `[G]` of constant policies that keep the budgets.

        max_w  sum_g w_g r_g   subject to   sum_g w_g = 1,  w >= 0,  and each budget on sum_g w_g c_g or on one w_g

    With hindsight: by the means of all responses. None where no mixture keeps the budgets.

    Example:
        >>> limit = GroupLimit(name="tokens", group=None, at_most=Fraction(5), at_least=None)
        >>> fitting_mixture(np.array([0.5, 1.0]), np.array([1.0, 9.0]), [limit]).tolist()
        [0.5, 0.5]
    """
    if len(limits) == 1 and limits[0].group is None and limits[0].at_most is not None:
        return random_mix(cost_G, reward_G, float(limits[0].at_most))[0]
    from scipy.optimize import linprog

    rows = [cost_G if x.group is None else np.eye(len(cost_G))[x.group] for x in limits]
    upper = [(row, float(x.at_most)) for row, x in zip(rows, limits, strict=True) if x.at_most is not None]
    lower = [(-row, -float(x.at_least)) for row, x in zip(rows, limits, strict=True) if x.at_least is not None]
    left, right = (np.array(side) for side in zip(*upper, *lower, strict=True))
    found = linprog(-reward_G, A_ub=left, b_ub=right, A_eq=np.ones((1, len(cost_G))), b_eq=[1.0], bounds=(0, 1))
    return np.asarray(found.x) if found.status == 0 else None
