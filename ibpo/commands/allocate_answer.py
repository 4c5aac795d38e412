"""What each question's answer is on one part of a log: the choice, and its value on unseen responses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from ibpo.allocation import Allocation, Frontier, GroupMeans, HoldoutRow, InfeasibleBudget, frontier, holdout_value
from ibpo.commands.allocate_budgets import GroupLimit, Question, choose_groups
from ibpo.data import GroupSums, Labels, Log
from ibpo.errors import IbpoError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_DRAWN = 1_000_000
"""Problems from which the picture is drawn: more would show no other line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One question's answer; `allocation` is None where the budgets cannot be kept, and `why` says so."""

    question: Question
    limits: list[GroupLimit]
    allocation: Allocation | None
    pick: NDArray[np.integer]
    why: str
    held_out: HoldoutRow | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """One part of a log by (problem, response group), with its answers.

    Attributes:
        name: Value of the `--by` column, "" without one.
        columns: Field -> column.
        problems: P ids.
        groups: G names.
        count: `[P, G]` number of responses.
        reward: `[P, G]` mean reward.
        cost: `[P, G]` mean cost.
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
        """Mean reward against mean cost, in sample; of very many problems, of a sample of them."""
        some = slice(None)
        if len(self.problems) > MAX_DRAWN:
            some = np.sort(np.random.default_rng(0).choice(len(self.problems), MAX_DRAWN, replace=False))
        reward, cost = self.reward[some], self.cost[some]
        return frontier(reward.ravel(), np.repeat(np.arange(len(reward)), len(self.groups)), cost.ravel())


def part_of_log(name: str, log: Log, say: Callable[[str], None]) -> Part:
    """Gather a log in memory, only the problems with a response of every response group."""
    means = GroupMeans.from_arrays(log.reward, log.problem, log.response_group, log.cost)
    place = f"{name}: " if name else ""
    if len(means.response_groups) < 2:
        raise IbpoError(
            f"{place}column '{log.columns['response_group']}' has one response group, {means.response_groups[0]}; "
            f"an allocation chooses between at least two; name another column with --response-group"
        )
    reason = f"{place}problems without a response of every response group"
    log, means = keep_problems(log, means, at_least=1, reason=reason, say=say)
    shown = None
    if "show" in log.columns:
        of_problem = dict(zip(log.problem, log.shown, strict=True))
        shown = Labels.from_list([of_problem[str(p)] for p in means.problems])
    place_of = {str(problem): p for p, problem in enumerate(means.problems)}
    return Part(
        name=name,
        columns=log.columns,
        problems=means.problems,
        groups=means.response_groups,
        count=means.count.astype(np.float64),
        reward=means.mean_reward,
        cost=means.mean_cost,
        shown=shown,
        log=log,
        find=lambda ids: np.array([place_of.get(str(x), -1) for x in ids], np.int64),
    )


def part_of_sums(name: str, sums: GroupSums, columns: dict[str, str], say: Callable[[str], None]) -> Part:
    """The same from the sums of a streamed log."""
    place, groups = f"{name}: " if name else "", sums.groups
    if len(groups) < 2:
        raise IbpoError(
            f"{place}column '{columns['response_group']}' has one response group, {groups[0]}; "
            f"an allocation chooses between at least two; name another column with --response-group"
        )
    count, reward, cost = sums.tables()
    problems, shown = sums.problems(), sums.shown()
    full, number = np.array((count > 0).all(axis=1)), None
    if not full.all():
        reason = f"{place}problems without a response of every response group"
        if not full.any():
            raise IbpoError(f"{reason}: all {len(full)}; log every problem with every response group")
        say(f"{reason}: {int((~full).sum())} of {len(full)} left out")
        number = np.where(full, np.cumsum(full) - 1, -1)
        count, reward, cost = count[full], reward[full], cost[full]
        kept = np.flatnonzero(full)
        problems = problems[kept] if isinstance(problems, np.ndarray) else [problems[p] for p in kept.tolist()]
        shown = None if shown is None else Labels(code=shown.code[kept], names=shown.names)

    def find(ids: IntArray | list[str]) -> IntArray:
        found = sums.find(ids)
        return found if number is None else number[found]

    return Part(
        name=name,
        columns=columns,
        problems=problems,
        groups=groups,
        count=count,
        reward=reward,
        cost=cost,
        shown=shown,
        log=None,
        find=find,
    )


def keep_problems(
    log: Log, means: GroupMeans, *, at_least: int, reason: str, say: Callable[[str], None]
) -> tuple[Log, GroupMeans]:
    """Only problems with that many responses of every response group; says how many are left out."""
    full = np.array((means.count >= at_least).all(axis=1))
    if full.all():
        return log, means
    if not full.any():
        raise IbpoError(f"{reason}: all {len(full)}; log every problem with every response group")
    say(f"{reason}: {int((~full).sum())} of {len(full)} left out")
    wanted = {name for name, ok in zip(means.problems, full, strict=True) if ok}
    log = log.rows([i for i, x in enumerate(log.problem) if x in wanted])
    return log, GroupMeans.from_arrays(log.reward, log.problem, log.response_group, log.cost)


def answer(
    part: Part,
    asked: Sequence[Question],
    *,
    holdout: bool | None,
    num_splits: int,
    seed: int,
    progress: Callable[[str], Callable[[int, int], None] | None],
) -> list[Line]:
    """Allocate each question on the whole part; value each on held-out halves of its responses."""
    repeated = part.log is not None and int((part.count >= 2).all(1).sum()) >= 2
    if holdout is None and not repeated:
        why = "the log is streamed" if part.log is None else "at least 2 responses per problem and group needed"
        typer.echo(f"{part.place}no held-out values: {why}", err=True)
    holdout = repeated if holdout is None else holdout
    thick = None
    if holdout and part.log is not None:
        reason = f"{part.place}held out: problems without 2 responses of every response group"
        means = GroupMeans.from_arrays(part.log.reward, part.log.problem, part.log.response_group, part.log.cost)
        thick, _ = keep_problems(part.log, means, at_least=2, reason=reason, say=lambda x: typer.echo(x, err=True))
    lines: list[Line] = []
    for question in asked:
        limits = part.limits(question)
        try:
            allocation, pick = choose_groups(part.reward, part.cost, limits, part.problems)
            held_out = None
            if thick is not None:

                def rule(reward: FloatArray, cost: FloatArray, limits: list[GroupLimit] = limits) -> IntArray:
                    return choose_groups(reward, cost, limits)[1]

                held_out = holdout_value(
                    thick.reward,
                    thick.problem,
                    thick.response_group,
                    thick.cost,
                    [rule],
                    num_splits=num_splits,
                    seed=seed,
                    progress=progress(f"{part.place}{question.label}"),
                )[0]
            small = pick.astype(np.min_scalar_type(len(part.groups)))
            line = Line(question=question, limits=limits, allocation=allocation, pick=small, why="", held_out=held_out)
        except IbpoError as error:
            name = str(question.budgets[error.budget_index]) if isinstance(error, InfeasibleBudget) else question.label
            if not isinstance(error, InfeasibleBudget) or question.times == 1:
                raise IbpoError(f"{part.place}--budget {name}: {error}") from None
            why = f"not possible: {name} needs at least {error.nearest:.6g} per problem"
            none = np.zeros(0, np.int64)
            line = Line(question=question, limits=limits, allocation=None, pick=none, why=why, held_out=None)
        lines.append(line)
    return lines
