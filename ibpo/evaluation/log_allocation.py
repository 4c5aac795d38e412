"""What a budget buys on a log of scored responses: `ibpo allocate` without its printing.

A log is gathered by (problem, response group), a part for each value of the `--by` column; every question (budgets that
hold together) is allocated on a part as a whole, and valued on halves of its responses that had no say. Letters:
P problems, G response groups.
"""

# matplotlib ships no types for what is used here.
# pyright: reportUnknownMemberType=false

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import (
    Allocation,
    Frontier,
    GroupMeans,
    HoldoutRow,
    InfeasibleBudget,
    allocate,
    frontier,
    holdout_value,
    random_mix,
)
from ibpo.budget import Budget, check_budget, check_distinct, costs_named, parse_budget
from ibpo.data import GroupSums, Labels, Log, LogColumns, LogReader, LogRows, OnError, read_log, sum_parts
from ibpo.errors import IbpoError
from ibpo.evaluation.estimates import shrink, within_cells
from ibpo.evaluation.importing import judge_rows
from ibpo.evaluation.oracles import by_problem_pick
from ibpo.runs import atomic_files

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Say = Callable[[str], None]

DEFAULT = ("tokens=25%range", "tokens=50%range", "tokens=75%range")
REFUSED = {
    "slice": "a log is not sliced inside a budget; --by COLUMN solves each part of the log on its own",
}
MAX_DRAWN = 1_000_000
"""Problems from which the picture is drawn: more would show no other line."""
CHUNK = 100_000
"""Problems that are turned into lines of JSON at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Budgets that hold together, and how often their upper bounds are taken: one row of the table."""

    label: str
    budgets: tuple[Budget, ...]
    times: Fraction = Fraction(1)

    def limits(self, cost_name: str, groups: Sequence[str], mean_cost: FloatArray, now: float) -> list["GroupLimit"]:
        """The budgets for one part of a log.

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


def questions(texts: Sequence[str]) -> list[Question]:
    """All budgets together, at half, once and twice their amount; without any, three on the way in cost."""
    if not texts:
        return [Question(label=text, budgets=(parse_budget(text),)) for text in DEFAULT]
    budgets = tuple(map(parse_budget, texts))
    check_distinct(budgets)
    label = ", ".join(map(str, budgets))
    if all(budget.sense == "at_least" for budget in budgets):
        return [Question(label=label, budgets=budgets)]
    scaled = (("half of it", Fraction(1, 2)), (label, Fraction(1)), ("twice it", Fraction(2)))
    return [Question(label=name, budgets=budgets, times=times) for name, times in scaled]


def choose_groups(
    reward: FloatArray, cost: FloatArray, limits: Sequence[GroupLimit], problems: Sequence[Any] | IntArray | None = None
) -> tuple[Allocation, IntArray]:
    """The best response group `[P]` of each problem, from `[P, G]` means, under the limits; ids order the ties."""
    num_problems, num_groups = reward.shape
    problems = np.arange(num_problems) if problems is None else _whole_if_they_are(problems)
    if isinstance(problems, np.ndarray):
        problem = np.repeat(problems, num_groups)
    else:
        problem = [x for x in problems for _ in range(num_groups)]
    group = np.tile(np.arange(num_groups), num_problems)
    rows = [cost.ravel() if x.group is None else (group == x.group).astype(np.float64) for x in limits]
    floors: dict[str, Any] = {}
    if any(x.at_least is not None for x in limits):
        floors["at_least"] = [x.at_least for x in limits]
    allocation = allocate(reward.ravel(), problem, np.stack(rows), [x.at_most for x in limits], **floors)
    return allocation, allocation.weight.reshape(num_problems, num_groups).argmax(1)


def _whole_if_they_are(problems: Sequence[Any] | IntArray) -> Sequence[Any] | IntArray:
    """Ids that are the texts of whole numbers as numbers, for ties follow the ids: however the log was read."""
    if isinstance(problems, np.ndarray) or not str(problems[0]).removeprefix("-").isdecimal():
        return problems
    try:
        whole = np.array(list(map(int, problems)), np.int64)
    except (ValueError, OverflowError):
        return problems
    return whole if list(map(str, whole.tolist())) == list(problems) else problems


def _limit(
    budget: Budget, times: Fraction, cost_name: str, groups: Sequence[str], mean_cost: FloatArray, now: float
) -> GroupLimit:
    if check_budget(budget, groups=groups, costs=costs_named(cost_name), refused=REFUSED):
        amount, group = budget.amount, list(groups).index(budget.name)
    else:
        group, ends = None, (float(mean_cost.min()), float(mean_cost.max()))
        amount = budget.in_cost(now=now, cheapest=ends[0], most_expensive=ends[1])
    if budget.sense == "at_least":
        return GroupLimit(name=budget.name, group=group, at_most=None, at_least=amount)
    return GroupLimit(name=budget.name, group=group, at_most=amount * times, at_least=None)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogPart:
    """One part of a log by (problem, response group), only problems with a response of every response group.

    Attributes:
        name: Value of the `--by` column, "" without one.
        columns: Field -> column.
        problems: P ids.
        groups: G names.
        count: `[P, G]` number of responses.
        reward: `[P, G]` mean reward.
        cost: `[P, G]` mean cost.
        within: `[G, 2, 2]` covariance of reward and cost of one response within its cell.
        expected_reward: `[P, G]` reward to expect of one more response (`ibpo.evaluation.estimates.shrink`).
        expected_cost: `[P, G]` its cost. Choices, prices and the frontier are made of these two.
        shown: `[P]` value of the `--show` column of each problem, or None.
        log: The rows, where they are in memory.
        find: From ids of the log to places in `problems`, -1 for problems that are left out.
    """

    name: str
    columns: dict[str, str]
    problems: Sequence[Any] | IntArray
    groups: list[str]
    count: FloatArray
    reward: FloatArray
    cost: FloatArray
    within: FloatArray
    expected_reward: FloatArray
    expected_cost: FloatArray
    shown: Labels | None
    log: Log | None
    find: Callable[[IntArray | list[str]], IntArray]

    @property
    def place(self) -> str:
        """What begins a message about this part."""
        return f"{self.name}: " if self.name else ""

    def now(self) -> tuple[float, float]:
        """Mean reward and mean cost per problem of the responses as logged."""
        weight = self.count / self.count.sum(1, keepdims=True)
        return float((weight * self.reward).sum(1).mean()), float((weight * self.cost).sum(1).mean())

    def limits(self, question: Question) -> list[GroupLimit]:
        """What is asked, on this part."""
        return question.limits(self.columns["cost"], self.groups, self.cost.mean(0), self.now()[1])

    def frontier(self) -> Frontier:
        """Expected reward against expected cost; of very many problems, of a sample of them."""
        some = slice(None)
        if len(self.problems) > MAX_DRAWN:
            some = np.sort(np.random.default_rng(0).choice(len(self.problems), MAX_DRAWN, replace=False))
        reward, cost = self.expected_reward[some], self.expected_cost[some]
        return frontier(reward.ravel(), np.repeat(np.arange(len(reward)), len(self.groups)), cost.ravel())

    def repeated(self, say: Say) -> Log:
        """The rows in memory of the problems with two responses of every response group: they can be halved."""
        assert self.log is not None
        reason = f"{self.place}held out: problems without 2 responses of every response group"
        twice = _some(self.count >= 2, reason, say)
        return self.log if twice.all() else _rows_where(self.log, twice, self.find)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parts:
    """A log, read and gathered: its parts, the rows that were left out, and columns that nobody named."""

    parts: list[LogPart]
    bad_rows: tuple[str, ...]
    guessed: dict[str, str]
    notes: tuple[str, ...]


def read_parts(
    path: Path,
    names: LogColumns,
    *,
    on_error: OnError = "fail",
    join: Sequence[Path] = (),
    stream: bool = False,
    say: Say,
    progress: Callable[[int], None] | None = None,
) -> Parts:
    """Read a log and gather it by part; one that leaves nothing to choose is left out and named, if there are others.

    Args:
        path: As for `ibpo.data.read_log`.
        names: Which columns hold what.
        on_error: At a bad row "fail", or "skip" it.
        join: Tables whose columns are added to the rows with the same identifier.
        stream: Keep sums, not rows: for a log larger than memory.
        say: Takes what a reader should know.
        progress: Called with the number of rows read, now and then.

    Raises:
        IbpoError: A log that cannot be used, or nothing to choose.
    """
    if stream:
        reader = LogReader(path, names, on_error=on_error, join=join, judge=judge_rows)
        sums = sum_parts(reader, progress)
        columns, bad_rows, notes = reader.columns, tuple(reader.bad_rows), tuple(reader.notes)
        makers = [partial(_part_of_sums, name, of_part, columns, say) for name, of_part in sums.items()]
    else:
        log = read_log(path, names, on_error=on_error, join=join, judge=judge_rows, progress=progress)
        columns, bad_rows, notes = log.columns, log.bad_rows, log.notes
        makers = [partial(_part_of_log, name, of_part, say) for name, of_part in log.parts().items()]
    parts: list[LogPart] = []
    wrong: list[str] = []
    for make in makers:
        try:
            parts.append(make())
        except IbpoError as error:
            if names.by is None:
                raise
            wrong.append(str(error))
    if not parts:
        raise IbpoError(f"--by {names.by}: nothing to choose in any of {len(wrong)} parts; the first: {wrong[0]}")
    for text in wrong:
        say(f"part left out: {text}")
    guessed = {field: columns[field] for field in names.guessed}
    return Parts(parts=parts, bad_rows=bad_rows, guessed=guessed, notes=notes)


def _part_of_log(name: str, log: Log, say: Say) -> LogPart:
    """Gather rows in memory."""
    means = GroupMeans.from_arrays(log.reward, log.problem, log.response_group, log.cost)
    group_R = means.pair % len(means.response_groups)
    both_R = np.stack([means.reward, means.cost])
    squares = np.array([both_R[:, group_R == g] @ both_R[:, group_R == g].T for g in range(len(means.response_groups))])
    place = {str(problem): p for p, problem in enumerate(means.problems)}
    shown = None
    if "show" in log.columns:
        of_problem = dict(zip(log.problem, log.shown, strict=True))
        shown = Labels.from_list([of_problem[str(p)] for p in means.problems])
    return _complete(
        LogPart(
            name=name,
            columns=log.columns,
            problems=means.problems,
            groups=means.response_groups,
            **_estimates(means.count.astype(np.float64), means.mean_reward, means.mean_cost, squares),
            shown=shown,
            log=log,
            find=lambda ids: np.array([place.get(str(x), -1) for x in ids], np.int64),
        ),
        say,
    )


def _part_of_sums(name: str, sums: GroupSums, columns: dict[str, str], say: Say) -> LogPart:
    """The same from the sums of a streamed log; response groups in the same order, which decides between equal ones."""
    groups = sorted(sums.groups, key=repr)
    order = [sums.groups.index(name) for name in groups]
    squares = sums.squares()[order]
    count, reward, cost = (table if groups == sums.groups else table[:, order] for table in sums.tables())
    return _complete(
        LogPart(
            name=name,
            columns=columns,
            problems=sums.problems(),
            groups=groups,
            **_estimates(count, reward, cost, squares),
            shown=sums.shown(),
            log=None,
            find=sums.find,
        ),
        say,
    )


def _estimates(count: FloatArray, reward: FloatArray, cost: FloatArray, squares: FloatArray) -> dict[str, FloatArray]:
    """The tables of a part, by what was seen and what is to be expected; an empty cell has no means."""
    sums = np.nan_to_num(np.stack([reward, cost], axis=-1)) * count[..., None]
    within = within_cells(count, sums, squares)
    expected_reward, expected_cost = shrink(np.nan_to_num(reward), np.nan_to_num(cost), count, within)
    return {"count": count, "reward": reward, "cost": cost, "within": within, "expected_reward": expected_reward,
            "expected_cost": expected_cost}  # fmt: skip


def _complete(part: LogPart, say: Say) -> LogPart:
    """Without the problems that lack a response of some response group; says how many these are."""
    if len(part.groups) < 2:
        raise IbpoError(
            f"{part.place}column '{part.columns['response_group']}' has one response group, {part.groups[0]}; "
            f"an allocation chooses between at least two; name another column with --columns response_group=COLUMN"
        )
    alike = next((two for two in combinations(part.groups, 2) if two[0].casefold() == two[1].casefold()), None)
    if alike:
        say(f"{part.place}response groups {alike[0]!r} and {alike[1]!r} differ by capitals only; write them alike if "
            "they are one")  # fmt: skip
    reason = f"{part.place}problems without a response of every response group"
    full = _some(part.count > 0, reason, say)
    if full.all():
        return part
    kept, problems = np.flatnonzero(full), part.problems
    new_place = np.append(np.where(full, np.cumsum(full) - 1, -1), -1)  # place -1, left out before, stays -1
    return replace(
        part,
        problems=problems[kept] if isinstance(problems, np.ndarray) else [problems[p] for p in kept.tolist()],
        count=part.count[full],
        reward=part.reward[full],
        cost=part.cost[full],
        expected_reward=part.expected_reward[full],
        expected_cost=part.expected_cost[full],
        shown=None if part.shown is None else part.shown.take(kept),
        log=None if part.log is None else _rows_where(part.log, full, part.find),
        find=lambda ids: new_place[part.find(ids)],
    )


def _some(good_PG: NDArray[np.bool_], reason: str, say: Say) -> NDArray[np.bool_]:
    """`[P]` which problems are good for every response group: at least one; says how many are left out, and why."""
    good = np.array(good_PG.all(axis=1))
    if not good.any():
        raise IbpoError(f"{reason}: all {len(good)}; log every problem with every response group")
    if not good.all():
        say(f"{reason}: {int((~good).sum())} of {len(good)} left out")
    return good


def _rows_where(log: Log, good: NDArray[np.bool_], find: Callable[[IntArray | list[str]], IntArray]) -> Log:
    """The rows of the problems that are good `[P]`, all of them having a place."""
    return log.rows(np.flatnonzero(good[find(log.problem)]).tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one question gets; `allocation` is None where the budgets cannot be kept, and `why` says so.

    `pick` `[P]` is the number of each problem's response group; `mixture` `[G]` the best that does not look at the
    problems (`fitting_mixture`); `held_out` is None where responses are single.
    """

    question: Question
    limits: list[GroupLimit]
    allocation: Allocation | None
    pick: NDArray[np.integer]
    why: str
    mixture: FloatArray | None
    held_out: HoldoutRow | None


def answer_questions(
    part: LogPart,
    asked: Sequence[Question],
    *,
    holdout: bool | None,
    num_splits: int,
    seed: int,
    say: Say,
    progress: Callable[[str], Callable[[int, int], None] | None] = lambda _: None,
) -> list[Answer]:
    """Allocate each question on the whole part; value each on held-out halves of its responses.

    Args:
        part: A part of the log.
        asked: One answer for each.
        holdout: Whether to halve; None: if responses repeat.
        num_splits: Random halvings.
        seed: Seed of the halvings.
        say: Takes what a reader should know.
        progress: From a question's label to what is called with (splits done, splits in all).

    Raises:
        IbpoError: Budgets that cannot be kept as they were asked.
    """
    can_halve = part.log is not None and int((part.count >= 2).all(1).sum()) >= 2
    if holdout is None and not can_halve:
        why = "the log is streamed" if part.log is None else "at least 2 responses per problem and group needed"
        say(f"{part.place}no held-out values: {why}")
    holdout = can_halve if holdout is None else holdout
    answers: list[Answer] = []
    for question in asked:
        limits = part.limits(question)
        try:
            allocation, pick = choose_groups(part.expected_reward, part.expected_cost, limits, part.problems)
            mixture = fitting_mixture(part.reward.mean(0), part.cost.mean(0), limits)
            small, why = pick.astype(np.min_scalar_type(len(part.groups))), ""
        except IbpoError as error:
            name = str(question.budgets[error.budget_index]) if isinstance(error, InfeasibleBudget) else question.label
            if not isinstance(error, InfeasibleBudget) or question.times == 1:
                raise IbpoError(f"{part.place}--budget {name}: {error}") from None
            allocation, small, mixture = None, np.zeros(0, np.int64), None
            why = f"not possible: {name} needs at least {error.nearest:.6g} per problem"
        answers.append(
            Answer(
                question=question, limits=limits, allocation=allocation, pick=small, why=why, mixture=mixture,
                held_out=None,
            )
        )  # fmt: skip
    if not (holdout and part.log is not None):
        return answers
    halved, possible = part.repeated(say), [answer for answer in answers if answer.allocation]
    halves = _Halves(part.within)
    rows = holdout_value(
        halved.reward,
        halved.problem,
        halved.response_group,
        halved.cost,
        [partial(halves.choose, answer.limits) for answer in possible],
        against=[answer.mixture for answer in possible],
        num_splits=num_splits,
        seed=seed,
        progress=progress(f"{part.place}held-out values"),
    )
    valued = {id(answer): replace(answer, held_out=row) for answer, row in zip(possible, rows, strict=True)}
    return [valued.get(id(answer), answer) for answer in answers]


class _Halves:
    """What one half of the responses would choose; the expectations of a half serve all budgets that are asked."""

    def __init__(self, within: FloatArray) -> None:
        self.within = within
        self._seen: tuple[Any, tuple[FloatArray, FloatArray]] | None = None

    def choose(self, limits: Sequence[GroupLimit], reward: FloatArray, cost: FloatArray, count: FloatArray) -> IntArray:
        """`[P]` the response group of each problem."""
        if self._seen is None or self._seen[0] is not reward:
            self._seen = reward, shrink(reward, cost, count, self.within)
        reward, cost = self._seen[1]
        amount = limits[0].at_most if len(limits) == 1 and limits[0].group is None else None
        if amount is not None and cost.min(1).mean() <= amount:
            return by_problem_pick(float(amount))(reward, cost, count)
        return choose_groups(reward, cost, limits)[1]


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


def write_files(
    out: Path,
    path: Path,
    names: LogColumns,
    all_answers: list[tuple[LogPart, list[Answer]]],
    *,
    on_error: OnError,
    join: Sequence[Path] = (),
    num_bad: int,
    say: Say,
) -> None:
    """Write choices.jsonl (a problem and a budget a line), rows.jsonl (the chosen rows), summary.json, frontier.png.

    All of them or none; where summary.json is, the other files are those that it belongs to.

    Args:
        out: Folder.
        path: The log; it is read again for the chosen rows.
        names: Which columns hold what.
        all_answers: Each part with its answers.
        on_error: As when the log was read.
        join: As when the log was read.
        num_bad: Rows that were left out then.
        say: Takes what a reader should know.
    """
    choices = (row for part, answers in all_answers for answer in answers for row in _choices(part, answer))
    whole = summarise_parts(path, names.by, all_answers, num_bad=num_bad)
    with atomic_files(out, "summary.json") as folder:
        for name, lines in (
            ("choices.jsonl", choices),
            ("rows.jsonl", _chosen_rows(path, names, all_answers, on_error, join)),
            ("summary.json", [json.dumps(whole, indent=2) + "\n"]),
        ):
            with (folder / name).open("w", encoding="utf-8") as file:
                file.writelines(lines)
        for part, answers in all_answers:
            name = f"frontier_{_file_name(part.name)}.png" if part.name else "frontier.png"
            try:
                _draw(folder / name, part, answers)
            except IbpoError as error:
                say(f"no picture: {error}")


def summarise_parts(
    path: Path, by: str | None, all_answers: Sequence[tuple[LogPart, list[Answer]]], *, num_bad: int
) -> dict[str, Any]:
    """What summary.json holds: the parts, each with a line per budget and what it recommends."""
    parts = [_summary(part, answers) for part, answers in all_answers]
    return {"log": path.name, "by": by, "bad_rows": num_bad, "parts": parts}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What to do under one budget.

    Attributes:
        text: In sentences.
        per_problem: Whether to choose per problem; else the best that does not look at the problems.
        mixture: That: response group -> its share; None where no mixture keeps the budget.
    """

    text: str
    per_problem: bool
    mixture: dict[str, float] | None


def verdict(part: LogPart, answer: Answer) -> Verdict:
    """Choose per problem where that is better, by more than chance, than whatever else fits the budget."""
    label, reward, unit = answer.question.label, part.columns["reward"], part.columns["cost"]
    if answer.allocation is None:
        return Verdict(text=f"{label}: {answer.why}.", per_problem=False, mixture=None)
    weights = None
    if answer.mixture is not None:  # from the cheapest response group to the most expensive one
        by_cost = np.argsort(part.cost.mean(0), kind="stable").tolist()
        weights = {part.groups[g]: float(answer.mixture[g]) for g in by_cost}
    blind = "no mixture of response groups keeps it" if weights is None else _blind(weights)
    held, now = answer.held_out, part.now()
    if held is None:
        text = (
            f"{label}: whether choosing per problem pays cannot be told: that takes 2 answers per problem and response "
            f"group. Not looking at the problems, {blind} is the best that fits."
        )
        return Verdict(text=text, per_problem=False, mixture=weights)
    kept = (
        f", {held.reward / now[0]:.0%} of today's for {held.spent / now[1]:.0%} of its cost"
        if now[0] and now[1]
        else ""
    )
    mine = f"{reward} {held.reward:.3f} for {_rounded(held.spent)} {unit}{kept}"
    if answer.mixture is None or held.mixture_gain is None or held.mixture_gain_stderr is None:
        return Verdict(text=f"{label}: choose per problem ({mine}): {blind}.", per_problem=True, mixture=None)
    gain, error = held.mixture_gain, 1.96 * held.mixture_gain_stderr
    interval = f"{gain:+.3f} (95 %: {gain - error:+.3f} to {gain + error:+.3f})"
    over = any(x.group is None and x.at_most is not None and held.spent > x.at_most for x in answer.limits)
    if gain - error > 0 and not (over and held.gain <= 0):
        text = (
            f"{label}: choose per problem: {mine}. That beats {blind}, the best that does not look at the problems, by "
            f"{interval}."
        )
        return Verdict(text=text, per_problem=True, mixture=weights)
    cost = float(answer.mixture @ part.cost.mean(0))
    if gain - error > 0:
        text = (
            f"{label}: choosing per problem is not worth it on this log: on unseen answers it spends "
            f"{_rounded(held.spent)} {unit}, more than asked, and a mixture of that cost is as good. Inside the "
            f"budget, {blind}, {reward} {held.mixture:.3f} for {_rounded(cost)} {unit}, is the best that does not look "
            "at the problems."
        )
        return Verdict(text=text, per_problem=False, mixture=weights)
    fewest = int(part.count.min())
    advice = "more problems" if fewest >= 8 else "at least 8 answers per problem and response group"
    text = (
        f"{label}: choosing per problem is not worth it on this log: {blind}, {reward} {held.mixture:.3f} for "
        f"{_rounded(cost)} {unit}, is the best that does not look at the problems, and choosing changes that by "
        f"{interval}. Collect {advice} to see more."
    )
    return Verdict(text=text, per_problem=False, mixture=weights)


def _blind(weights: dict[str, float]) -> str:
    """A mixture in words."""
    parts = [(name, weight) for name, weight in weights.items() if weight > 5e-4]
    if len(parts) == 1:
        return f"always {parts[0][0]}"
    digits = 0 if all(0.005 <= weight < 0.995 for _, weight in parts) else 1  # never 0% of the problems
    return (
        " and ".join(f"{name} for {weight:.{digits}%}" for name, weight in parts) + " of the problems, drawn at random"
    )


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _file_name(name: str) -> str:
    return "".join(x if x.isalnum() or x in ".-" else "_" for x in name)


def _draw(file: Path, part: LogPart, answers: list[Answer]) -> None:
    """The frontier on the log's cost, with the budget that was asked, where it is one on that cost."""
    asked = [x for answer in answers if answer.question.times == 1 for x in answer.limits]
    budgets = [float(x.at_most) for x in asked if x.group is None and x.at_most is not None]
    names = {"cost_name": f"{part.columns['cost']} per problem", "value_name": f"{part.columns['reward']} to expect"}
    draw_frontier(part.frontier(), file, budget=budgets[0] if len(budgets) == 1 else None, **names)


def draw_frontier(
    curve: Frontier,
    path: str | Path,
    *,
    budget: float | None = None,
    cost_name: str = "mean cost per problem",
    value_name: str = "mean utility per problem",
) -> None:
    """Draw a frontier, the straight line that random mixing follows, and a budget with its price, to a file."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise IbpoError("a plot needs matplotlib: pip install 'ibpo[report]'") from None
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    some = np.unique(np.linspace(0, len(curve.spent) - 1, 2000).astype(np.int64))
    axes.plot(curve.spent[some], curve.value[some], color="#1f5fa8", label="best allocation")
    ends = [0, -1]
    axes.plot(curve.spent[ends], curve.value[ends], "--", color="#888888", label="random mix of its two ends")
    if budget is not None and budget >= curve.spent[0]:
        point = curve.at(budget)
        axes.plot([point.spent], [point.value], "o", color="#c8452c", label=f"budget {budget:,.6g}")
        reach = 0.12 * (curve.spent[-1] - curve.spent[0])
        x = np.array([point.spent - reach, point.spent + reach])
        y = point.value + point.price * (x - point.spent)
        axes.plot(x, y, color="#c8452c", linewidth=1, label=f"its price {point.price:.3g}")
    axes.set(xlabel=cost_name, ylabel=value_name)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def _choices(part: LogPart, answer: Answer) -> Iterator[str]:
    head = f'{{"part": {json.dumps(part.name)}, "budget": {json.dumps(answer.question.label)}, "problem": '
    groups = [f', "response_group": {json.dumps(name)}, "mean_reward": ' for name in part.groups]
    for first in range(0, len(answer.pick), CHUNK):
        rows = slice(first, first + CHUNK)
        pick = answer.pick[rows].astype(np.int64)[:, None]
        values = (np.take_along_axis(table[rows], pick, 1)[:, 0].tolist() for table in (part.reward, part.cost))
        for problem, g, reward, cost in zip(_ids(part.problems[rows]), pick[:, 0].tolist(), *values, strict=True):
            yield f'{head}{problem}{groups[g]}{reward!r}, "mean_cost": {cost!r}}}\n'


def _ids(problems: Any) -> list[str]:
    """Ids as JSON strings."""
    if isinstance(problems, np.ndarray):
        return [f'"{x}"' for x in problems.tolist()]
    return [json.dumps(str(x)) for x in problems]


def _chosen_rows(
    path: Path,
    names: LogColumns,
    all_answers: list[tuple[LogPart, list[Answer]]],
    on_error: OnError,
    join: Sequence[Path],
) -> Iterator[str]:
    """The second pass: the log's rows whose response group was chosen for their problem under the budget as asked."""
    parts = {
        part.name: (part, [x for x in answers if x.question.times == 1 and x.allocation])
        for part, answers in all_answers
    }
    reader = LogReader(path, names, on_error=on_error, join=join, judge=judge_rows)
    for block in reader.blocks():
        for name, rows in block.by_part():
            if name in parts:
                yield from _written(
                    rows.take(np.flatnonzero(_is_chosen(rows, *parts[name]))), name if names.by else None
                )


def _is_chosen(rows: LogRows, part: LogPart, answers: list[Answer]) -> NDArray[np.bool_]:
    place = part.find(rows.problem)
    group = np.array([part.groups.index(x) if x in part.groups else -1 for x in rows.response_group.names])
    group_R = group[rows.response_group.code]
    chosen = np.zeros(len(rows), bool)
    for answer in answers:
        chosen |= answer.pick[place] == group_R
    return chosen & (place >= 0)


def _written(rows: LogRows, part: str | None) -> Iterator[str]:
    """The rows as lines of JSON; by hand, for `json.dumps` of a dictionary takes five times as long."""

    def texts(labels: Labels, key: str) -> list[str]:
        return Labels(code=labels.code, names=[f', "{key}": {json.dumps(x)}' for x in labels.names]).tolist()

    by = "" if part is None else f', "by": {json.dumps(part)}'
    columns = (
        _ids(rows.problem),
        texts(rows.response_group, "response_group"),
        rows.reward.tolist(),
        rows.cost.tolist(),
        [""] * len(rows) if rows.shown is None else texts(rows.shown, "show"),
    )
    for problem, group, reward, cost, shown in zip(*columns, strict=True):
        yield f'{{"problem": {problem}{group}, "reward": {reward!r}, "cost": {cost!r}{by}{shown}}}\n'


def _summary(part: LogPart, answers: list[Answer]) -> dict[str, Any]:
    now, mean_cost, mean_reward = part.now(), part.cost.mean(0).tolist(), part.reward.mean(0).tolist()
    return {
        "part": part.name,
        "columns": part.columns,
        "num_problems": len(part.problems),
        "num_responses": int(part.count.sum()),
        "as_logged": {"mean_reward": now[0], "mean_cost": now[1]},
        "always": {
            group: {"mean_cost": c, "mean_reward": r}
            for group, c, r in zip(part.groups, mean_cost, mean_reward, strict=True)
        },
        "no_budget": {"expected_reward": float(part.expected_reward.max(1).mean())},
        "budgets": [_line_summary(part, answer) for answer in answers],
    }


def _line_summary(part: LogPart, answer: Answer) -> dict[str, Any]:
    limits = [{"name": x.name, "at_most": _float(x.at_most), "at_least": _float(x.at_least)} for x in answer.limits]
    head = {"budget": answer.question.label, "times": float(answer.question.times), "limits": limits}
    if answer.allocation is None:
        return {**head, "infeasible": answer.why}
    allocation = answer.allocation
    for x, spent, price in zip(limits, allocation.spent.tolist(), allocation.price.tolist(), strict=True):
        x.update(spent=spent, price=price)
    told = verdict(part, answer)
    share = np.bincount(answer.pick, minlength=len(part.groups)) / len(part.problems)
    return {
        **head,
        "expected_reward": allocation.objective / len(part.problems),
        "objective": allocation.objective,
        "upper_bound": allocation.upper_bound,
        "status": allocation.status,
        "rule": allocation.rule,
        "share": dict(zip(part.groups, share.tolist(), strict=True)),
        "recommended": {"per_problem": told.per_problem, "mixture": told.mixture, "verdict": told.text},
        "held_out": None if answer.held_out is None else _json_numbers(asdict(answer.held_out)),
    }


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _json_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: an undefined number is null."""
    return {key: None if value != value else value for key, value in row.items()}
