"""A log of scored responses, gathered by (problem, response group): a part for each value of the `--by` column.

Letters: P problems, G response groups.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import Frontier, GroupMeans, frontier
from ibpo.data import (
    GroupSums,
    Labels,
    Log,
    LogColumns,
    LogReader,
    MissingColumns,
    OnError,
    other_groups,
    read_log,
    sum_parts,
)
from ibpo.errors import IbpoError
from ibpo.evaluation.estimates import shrink, within_cells

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Say = Callable[[str], None]

MAX_DRAWN = 1_000_000
"""Problems from which the picture is drawn: more would show no other line."""


class OneGroup(IbpoError):
    """A part of a log that leaves nothing to choose."""


def judge_when_needed(rows: Sequence[Mapping[str, Any]]) -> Sequence[float]:
    """Rewards of rows that have a gold answer; only a log without rewards loads the judges."""
    from ibpo.evaluation.importing import judge_rows

    return judge_rows(rows)


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
    find: Callable[[IntArray | Labels], IntArray]

    @property
    def place(self) -> str:
        """What begins a message about this part."""
        return f"{self.name}: " if self.name else ""

    @property
    def repeats(self) -> NDArray[np.bool_]:
        """`[P]` which problems have two responses of every response group: held-out values are of these."""
        return np.array((self.count >= 2).all(axis=1))

    def now(self, some: NDArray[np.bool_] | slice = slice(None)) -> tuple[float, float]:
        """Mean reward and mean cost per problem of the responses as logged; of `some` `[P]` of the problems."""
        count = self.count[some]
        weight = count / count.sum(1, keepdims=True)
        return float((weight * self.reward[some]).sum(1).mean()), float((weight * self.cost[some]).sum(1).mean())

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
        twice = _some(self.count >= 2, reason, say, self.columns["problem"])
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
        reader = LogReader(path, names, on_error=on_error, join=join, judge=judge_when_needed)
        sums = sum_parts(reader, progress)
        columns, bad_rows, notes = reader.columns, tuple(reader.bad_rows), tuple(reader.notes)
        makers = [partial(_part_of_sums, name, of_part, columns, say) for name, of_part in sums.items()]
    else:
        log = read_log(path, names, on_error=on_error, join=join, judge=judge_when_needed, progress=progress)
        columns, bad_rows, notes = log.columns, log.bad_rows, log.notes
        makers = [partial(part_of_log, name, of_part, say) for name, of_part in log.parts().items()]
    parts: list[LogPart] = []
    wrong: list[IbpoError] = []
    for make in makers:
        try:
            parts.append(make())
        except IbpoError as error:
            if names.by is None:
                left_out = f"; {len(bad_rows)} bad rows are left out, the first: {bad_rows[0]}" if bad_rows else ""
                error = type(error)(f"{path}: {error}{left_out}")
            wrong.append(error)
    if not parts:
        several = f"--by {names.by}: nothing to choose in any of {len(wrong)} parts; the first: {wrong[0]}"
        text = str(wrong[0]) if names.by is None else several
        is_one = isinstance(wrong[0], OneGroup)
        raise _with_others(text, path, columns, join, notes) if is_one else IbpoError(text) from None
    for text in wrong:
        say(f"part left out: {text}")
    guessed = {field: columns[field] for field in names.guessed}
    return Parts(parts=parts, bad_rows=bad_rows, guessed=guessed, notes=notes)


def _with_others(
    text: str, path: Path, columns: Mapping[str, str], join: Sequence[Path], notes: Sequence[str]
) -> IbpoError:
    """The same with the columns that could name other response groups, if the log has any."""
    others = other_groups(path, columns, join)
    ask = "have other efforts asked: ibpo collect"
    if not others:
        return MissingColumns(f"{text}, and no other column differs within problems; {ask}", (), notes)
    option = f"response_group={others[0]}"
    more = f" (or {', '.join(others[1:3])})" if others[1:] else ""
    said = f"{text}; name another column with --columns {option}{more}, or {ask}"
    return MissingColumns(said, ["--columns", option], notes)


def part_of_log(name: str, log: Log, say: Say) -> LogPart:
    """Gather the rows of one part that are in memory.

    Raises:
        IbpoError: One response group only, or no problem with a response of every one.
    """
    means = GroupMeans.from_arrays(log.reward, log.problem, log.response_group, log.cost)
    group_R = means.pair % len(means.response_groups)
    offset = np.array([means.cost[np.argmax(group_R == g)] for g in range(len(means.response_groups))])
    both_R = np.stack([means.reward, means.cost - offset[group_R]])
    squares = np.array([both_R[:, group_R == g] @ both_R[:, group_R == g].T for g in range(len(means.response_groups))])
    place = {str(problem): p for p, problem in enumerate(means.problems)}
    shown = None
    if "show" in log.columns:
        of_problem: dict[str, str] = {}
        for problem, text in zip(log.problem, log.shown, strict=True):
            # Where they differ within a problem the first by name, as `GroupSums` has it: not that of the last row.
            if text < of_problem.setdefault(problem, text):
                of_problem[problem] = text
        shown = Labels.from_list([of_problem[str(p)] for p in means.problems])
    return _complete(
        LogPart(
            name=name,
            columns=log.columns,
            problems=means.problems,
            groups=means.response_groups,
            **_estimates(means.count.astype(np.float64), means.mean_reward, means.mean_cost, squares, offset),
            shown=shown,
            log=log,
            find=partial(_places, place),
        ),
        say,
    )


def _places(place: Mapping[str, int], ids: IntArray | Labels) -> IntArray:
    """The place of each id; -1 for others."""
    names = map(str, ids.tolist()) if isinstance(ids, np.ndarray) else ids.names
    found = np.array([place.get(x, -1) for x in names], np.int64)
    return found if isinstance(ids, np.ndarray) else found[ids.code]


def _part_of_sums(name: str, sums: GroupSums, columns: dict[str, str], say: Say) -> LogPart:
    """The same from the sums of a streamed log; response groups in the same order, which decides between equal ones."""
    groups = sorted(sums.groups, key=repr)
    order = [sums.groups.index(name) for name in groups]
    squares, offset = sums.squares()[order], sums.offsets()[order]
    count, reward, cost = (table if groups == sums.groups else table[:, order] for table in sums.tables())
    return _complete(
        LogPart(
            name=name,
            columns=columns,
            problems=sums.problems(),
            groups=groups,
            **_estimates(count, reward, cost, squares, offset),
            shown=sums.shown(),
            log=None,
            find=sums.find,
        ),
        say,
    )


def _estimates(
    count: FloatArray, reward: FloatArray, cost: FloatArray, squares: FloatArray, offset: FloatArray
) -> dict[str, FloatArray]:
    """The tables of a part, by what was seen and what is expected; an empty cell has no means.

    Args:
        count: `[P, G]` responses of each cell.
        reward: `[P, G]` mean reward.
        cost: `[P, G]` mean cost.
        squares: `[G, 2, 2]` sums of products of (reward, cost - offset).
        offset: `[G]` what was taken off the costs, whose covariance does not hang on it.
    """
    sums = np.nan_to_num(np.stack([reward, cost - offset], axis=-1)) * count[..., None]
    within = within_cells(count, sums, squares)
    expected_reward, expected_cost = shrink(np.nan_to_num(reward), np.nan_to_num(cost), count, within)
    return {"count": count, "reward": reward, "cost": cost, "within": within, "expected_reward": expected_reward,
            "expected_cost": expected_cost}  # fmt: skip


def _complete(part: LogPart, say: Say) -> LogPart:
    """Without the problems that lack a response of some response group; says how many these are."""
    if len(part.groups) < 2:
        raise OneGroup(
            f"{part.place}column '{part.columns['response_group']}' has one response group, {part.groups[0]}; "
            "an allocation chooses between at least two"
        )
    alike = next((two for two in combinations(part.groups, 2) if two[0].casefold() == two[1].casefold()), None)
    if alike:
        say(f"{part.place}response groups {alike[0]!r} and {alike[1]!r} differ by capitals only; write them alike if "
            "they are one")  # fmt: skip
    reason = f"{part.place}problems without a response of every response group"
    full = _some(part.count > 0, reason, say, part.columns["problem"])
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


def _some(good_PG: NDArray[np.bool_], reason: str, say: Say, column: str) -> NDArray[np.bool_]:
    """`[P]` which problems are good for every response group: at least one; says how many are left out, and why."""
    good = np.array(good_PG.all(axis=1))
    if not good.any():
        raise IbpoError(
            f"{reason}: all {len(good)} of column {column!r}; log every problem with every response group, or name the "
            "problem's column with --columns problem=COLUMN"
        )
    if not good.all():
        say(f"{reason}: {int((~good).sum())} of {len(good)} left out")
    return good


def _rows_where(log: Log, good: NDArray[np.bool_], find: Callable[[IntArray | Labels], IntArray]) -> Log:
    """The rows of the problems that are good `[P]`, all of them having a place."""
    return log.rows(np.flatnonzero(good[find(Labels.from_list(log.problem))]).tolist())
