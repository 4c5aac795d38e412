"""After the cheap answer: what it shows says whether a more expensive one is worth buying.

Letters: P problems, A cheap answers of all problems together, G response groups.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.answers import representatives
from ibpo.data import (
    LogError,
    Source,
    divided,
    identifier_of,
    is_own,
    lookup,
    own_group,
    read_log_rows,
    read_number,
    says_error,
)
from ibpo.errors import IbpoError
from ibpo.evaluation import estimate_from_draws
from ibpo.responses import boxed, last_number
from ibpo.routing.curve import hull_at, mean_height, price_choices
from ibpo.routing.features import FloatArray
from ibpo.routing.fit import RoutedLog
from ibpo.routing.router import Router, Scores

IntArray = NDArray[np.int64]

SHOWN = ("tokens", "characters", "logprob", "refused", "failed", "agree")
"""What can be seen of an answer without judging it: see `read_shown`."""
_TOKENS = ("completion_tokens", "output_tokens", "tokens", "num_tokens")
_TEXTS = ("response", "response_text", "completion", "output", "text")
_LOGPROBS = ("logprob", "mean_logprob", "avg_logprob")
_LARGEST = sys.float_info.max
_LONGEST_ANSWER = 1000
"""Characters of an answer that is read as mathematics."""
_PARTS = (0.25, 0.5, 0.75)
_REFUSAL = re.compile(
    r"\s*(i(['\u2019]m| am) (sorry|unable|not able)|sorry,|i (can(['\u2019]|no)t|cannot|won['\u2019]t|will not)|"
    r"as an ai|unfortunately,? i)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FirstAnswers:
    """Every answer of the cheapest response group, and what could be bought after it."""

    table: RoutedLog
    """A row per cheap answer: `problems` repeats, `numbers` holds what the answer shows; the first response group is
    to leave it at that answer, the others are bought after it: their costs hold what was spent."""
    place: IntArray
    """`[A]` whose answer each is: places in the log's `problems`."""
    shown: tuple[str, ...]
    """Names of the numbers that are read off the answer."""
    num_answers: int
    """Cheap answers that are made: 1, or 2 (the first is given, the second only says whether they agree)."""


def read_shown(
    *,
    tokens: float | None = None,
    texts: Sequence[str] = (),
    logprob: float | None = None,
    failed: bool | None = None,
    answers: Sequence[str | None] = (),
) -> dict[str, float]:
    r"""What one or two cheap answers show, as numbers for a router; only what is known.

    Args:
        tokens: Length of the first.
        texts: One text, or two.
        logprob: Mean log-probability of the first one's tokens.
        failed: Whether a check of the first one failed, e.g. that it is the JSON that was asked for.
        answers: The final answers of both; none: read from the texts (the last box, else the last number, else all).

    Example:
        >>> read_shown(tokens=99, texts=["I'm sorry, I can't.", "It is 7."])["refused"]
        1.0
        >>> read_shown(texts=["So it is 0.5", r"Hence \boxed{1/2}"])["agree"]
        1.0
    """
    if isinstance(texts, str) or isinstance(answers, str):
        raise IbpoError("texts and answers: need lists, of one or two; give [text]")
    found: dict[str, float] = {}
    if tokens is not None and abs(tokens) <= _LARGEST:
        found["tokens"] = math.log1p(max(0.0, tokens))
    if texts:
        found["characters"] = math.log1p(len(texts[0]))
        found["refused"] = float(_REFUSAL.match(texts[0]) is not None or not texts[0].strip())
    if logprob is not None and abs(logprob) <= _LARGEST:
        found["logprob"] = float(logprob)
    if failed is not None:
        found["failed"] = float(failed)
    answers = answers or [boxed(text) or last_number(text) or text.strip() for text in texts]
    if len(answers) == 2:
        found["agree"] = float(all(answers) and _agree(*map(str, answers)))
    return found


def _agree(one: str, other: str) -> bool:
    """Whether two answers are equal: as mathematics, where they are no longer than that is ever written."""
    if max(len(one), len(other)) > _LONGEST_ANSWER:  # 14 kB of nested boxes take the judge 38 seconds
        return one.split() == other.split()
    return len(set(representatives([one, other]))) == 1


def read_first_answers(
    path: Path,
    table: RoutedLog,
    *,
    num_answers: int,
    columns: Sequence[str] = (),
    part: str | None = None,
    join: Sequence[Path] = (),
) -> FirstAnswers:
    """What the cheapest response group's answers show, from the log that `read_routed_log` has read.

    Args:
        path: The log.
        table: As read.
        num_answers: 1, or 2: each problem needs so many answers of the cheapest response group.
        columns: Further columns of numbers that are known once the answer is, e.g. a check's result.
        part: As for `read_routed_log`.
        join: As for `read_routed_log`.

    Raises:
        IbpoError: Names file, row and fix.
    """
    group, problem_column, by = table.groups[0], table.columns["problem"], table.columns.get("by")
    numbers = [divided(table.columns[field])[0] for field in ("reward", "cost")]
    seen: dict[str, list[dict[str, Any]]] = {}
    source = Source(path=path, problem=problem_column, reward=table.columns["reward"])
    for place, row in read_log_rows(source, join=join):
        if isinstance(row, LogError) or (
            by is not None and part is not None and identifier_of(lookup(row, by)) != part
        ):
            continue
        if says_error(row) and any(lookup(row, name) in (None, "") for name in numbers):
            continue  # a failed request
        if _group_of(row, table.columns["response_group"]) == group:
            seen.setdefault(identifier_of(lookup(row, problem_column)), []).append({**row, "": place})
    log, rewards, costs = table.log, dict[str, list[float]](), dict[str, list[float]]()
    for name, other, reward, cost in zip(log.problem, log.response_group, log.reward, log.cost, strict=True):
        if other == group:
            rewards.setdefault(name, []).append(float(reward))
            costs.setdefault(name, []).append(float(cost))
    # An `answer` that is the same for all answers to a problem is the right one, as data sets have it: no sign.
    reads_answer = any(len({_answer(row) for row in answers}) > 1 for answers in seen.values())
    rows: list[tuple[int, float, float, dict[str, float]]] = []
    for p, name in enumerate(table.problems):
        answers = seen.get(name, [])
        if len(answers) != len(rewards[name]):
            raise IbpoError(f"{path}: problem {name!r} has rows that were left out; correct them, or leave them out")
        if len(answers) < num_answers:
            raise IbpoError(
                f"{path}: problem {name!r} has {len(answers)} answer of {group!r}; {num_answers} are needed first: "
                "give --first-answers 1, or log more"
            )
        for i, row in enumerate(answers):
            more = [(i + k) % len(answers) for k in range(num_answers)]
            shown = _shown(row, [answers[k] for k in more], reads_answer) | _numbers(row, columns)
            rows.append((p, rewards[name][i], sum(costs[name][k] for k in more), shown))
    names = [name for name in dict.fromkeys([*SHOWN, *columns]) if all(name in row[3] for row in rows)]
    if not names:
        raise IbpoError(
            f"{path}: only the reward of an answer is known: log its text ({', '.join(_TEXTS)}), its tokens, "
            "its mean logprob, or whether a check failed"
        )
    place = np.array([p for p, *_ in rows])
    reward, spent = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    cost = table.cost[place] + spent[:, None]
    cost[:, 0] = spent
    after = table.take(place.tolist())
    count = after.count / np.bincount(place)[place][:, None]  # its sum is still the number of responses
    count[:, 0] = 1.0
    after = replace(
        after,
        count=count,
        reward=np.hstack([reward[:, None], after.reward[:, 1:]]),
        cost=cost,
        numbers=after.numbers | {name: [row[3][name] for row in rows] for name in names},
    )
    return FirstAnswers(table=after, place=place, shown=tuple(names), num_answers=num_answers)


def _group_of(row: Mapping[str, Any], column: str) -> str:
    """The response group of a row; in a table of ours the way of answering may be one of its own."""
    return own_group(row) if column == "response_group" and is_own(row) else identifier_of(lookup(row, column))


def _shown(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], reads_answer: bool) -> dict[str, float]:
    """What the columns that are known by name say."""
    number = {
        name: next((found for key in keys if (found := _number(row.get(key))) is not None), None)
        for name, keys in (("tokens", _TOKENS), ("logprob", _LOGPROBS), ("failed", ("failed", "check_failed")))
    }
    text = next((key for key in _TEXTS if isinstance(row.get(key), str)), None)
    texts = [str(other.get(text) or "") for other in rows] if text is not None else []
    answers = [_answer(other) for other in rows] if reads_answer and "answer" in row else []
    failed = number["failed"]
    return read_shown(
        tokens=number["tokens"],
        texts=texts,
        logprob=number["logprob"],
        failed=None if failed is None else failed > 0,
        answers=answers,
    )


def _answer(row: Mapping[str, Any]) -> str | None:
    value = row.get("answer")
    return None if value is None else str(value)


def _number(value: Any) -> float | None:
    """A number, also as the text of a CSV's cell; None where it is not a number."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return float(value.lower() == "true")
    try:
        found = read_number(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _numbers(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in columns:
        try:
            value = read_number(lookup(row, name))
        except (KeyError, TypeError, ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            raise IbpoError(f"{row['']}, column {name!r}: {row.get(name)!r} is not a finite number; fill it in")
        found[name] = value
    return found


def judge_escalation(
    table: RoutedLog, before: Scores, first: FirstAnswers, after: Scores, *, draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    r"""Is it worth making the cheap answer first? Three ways at the same cost, each by scores of unseen problems.

    `mix`: always one response group, at random; `before`: a router that decides by the prompt alone, and makes one
    answer; `after`: the cheap answer is made for every request, and the more expensive one bought where what it shows
    says so, at the cost of both. Each way has the non-decreasing concave hull of the (cost, reward) that it reaches
    over 21 prices, constant policies included (who escalates may also answer some requests directly); reported are its
    mean height between the cheapest and the most expensive group's cost, and its height at a quarter, half and three
    quarters of the way, with the differences to the other two and their intervals over problems.

    Args:
        table: The log.
        before: Scores from `score_unseen(table)`.
        first: Its cheap answers.
        after: Scores from `score_unseen(first.table)`.
        draws: Bootstrap draws over problems, equal prompts together.
        seed: Decides them.
    """
    size = len(table.problems)
    owner = first.place
    answers = np.bincount(owner, minlength=size)

    def paths(log: RoutedLog, scores: Scores) -> tuple[FloatArray, FloatArray]:
        """`[21, P]` mean cost and reward per problem at every price."""
        pick, every = price_choices(scores), np.arange(len(log.problems))
        cost, reward = log.cost[every, pick], log.reward[every, pick]
        if len(every) == size:
            return cost, reward
        sums = [np.array([np.bincount(owner, row, size) for row in values]) for values in (cost, reward)]
        return sums[0] / answers, sums[1] / answers

    ways = {"before": paths(table, before), "after": paths(first.table, after)}

    def figures(rows: Any) -> list[float]:
        cost, reward = table.cost[rows].mean(axis=0), table.reward[rows].mean(axis=0)
        constant = list(zip(cost.tolist(), reward.tolist(), strict=True))
        low, high = float(cost.min()), float(cost.max())
        reached = {"mix": constant}
        for name, (paid, got) in ways.items():
            points = zip(paid[:, rows].mean(axis=1).tolist(), got[:, rows].mean(axis=1).tolist(), strict=True)
            reached[name] = constant + list(points)
        found: list[float] = []
        for name in _WAYS:
            found.append(mean_height(reached[name], low, high))
            found += [hull_at(reached[name], low + part * (high - low)) for part in _PARTS]
        grid = np.array(found).reshape(len(_WAYS), -1)
        return [*grid.ravel(), *(grid[2] - grid[0]), *(grid[2] - grid[1])]

    found, different = figures(np.arange(size)), len(set(table.alike().tolist()))
    drawn = np.array([figures(some) for some in table.draws(draws, seed)])
    result: dict[str, Any] = {"answers": first.num_answers, "shown": list(first.shown)}
    names = [*_WAYS, "after_over_mix", "after_over_before"]
    for i, name in enumerate(names):
        place = i * (1 + len(_PARTS))
        result[name], result[f"{name}_at"] = found[place], found[place + 1 : place + 1 + len(_PARTS)]
        if "over" in name:
            spread = [
                estimate_from_draws(found[place + k], drawn[:, place + k], different) for k in range(1 + len(_PARTS))
            ]
            result[f"{name}_interval"] = [spread[0].low, spread[0].high]
            result[f"{name}_at_interval"] = [[one.low, one.high] for one in spread[1:]]
    return result


_WAYS = ("mix", "before", "after")


def escalation_verdict(found: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether to make the cheap answer first, and a sentence; `found` is of `judge_escalation`."""
    gain, (low, high) = found["after_over_before"], found["after_over_before_interval"]
    mix, (mix_low, mix_high) = found["after_over_mix"], found["after_over_mix_interval"]
    said = (
        f"mean reward over all costs {found['after']:.3f}, {gain:+.4f} [{low:+.4f}, {high:+.4f}] against a router that "
        f"decides before, {mix:+.4f} [{mix_low:+.4f}, {mix_high:+.4f}] against the mix"
    )
    if gain <= 1e-12 or mix <= 1e-12:
        return False, f"does not pay: {said}"
    return True, f"pays{'' if low > 0 else ', not for sure (the interval holds 0)'}: {said}"


def as_escalation(router: Router, first: FirstAnswers) -> Router:
    """A router that was fitted on `first.table`, marked as one that decides after the cheap answer."""
    return replace(router, first={"answers": first.num_answers, "shown": list(first.shown)})
