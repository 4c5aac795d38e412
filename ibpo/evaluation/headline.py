"""What a reader wants to know first: was a budget kept, what would half of it buy, and which problems want the money?

The same verdict as `ibpo allocate` gives of the same responses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ibpo.data import Log
from ibpo.errors import IbpoError
from ibpo.evaluation.log_allocation import Answer, answer_questions, questions
from ibpo.evaluation.log_parts import LogPart, part_of_log
from ibpo.evaluation.log_verdict import verdict
from ibpo.evaluation.responses import Responses, natural

Json = dict[str, Any]
MOST = 0.8
"""The problems that are named take this part of what is spent above the cheapest response group."""
MAX_SHOWN = 5


def first_words(responses: Responses, part: Json, unit: str, *, num_splits: int, seed: int) -> list[str]:
    """The first sentences of a report on some responses, of measured numbers only.

    Args:
        responses: All of the part.
        part: As from `compare`.
        unit: Of the costs.
        num_splits: Random halvings.
        seed: Of the halvings.
    """
    kept = [_kept(row["name"], row["budget"], row["share"]) for row in part["budget_kept"]]
    gathered = _gather(responses, part["among"], unit)
    if gathered is None:
        return [*kept, f"What half of the {unit} would buy is not known: it takes two ways of answering to choose."]
    [asked] = questions(["0.5x"], cost=unit)[1:2]
    try:
        [answer] = answer_questions(
            gathered, [asked], holdout=None, num_splits=num_splits, seed=seed, say=lambda _: None
        )
    except IbpoError:
        cheapest = float(gathered.cost.mean(0).min()) / gathered.now()[1]
        return [*kept, f"Half of today's {unit} is not possible: the cheapest way of answering takes {cheapest:.0%}."]
    text = verdict(gathered, answer).text.removeprefix(f"{asked.label}: ")
    return [*kept, f"At half of today's {unit}: {text}", _wants(gathered, answer)]


def _kept(name: str, budget: float, share: Json) -> str:
    said = f"{share['value']:.1%} of its responses extended (95 %: {share['low']:.1%} to {share['high']:.1%})"
    allowed = f"{budget:.1%} allowed"
    if share["value"] <= budget:
        return f"{name} kept its budget: {said}, {allowed}."
    if share["low"] > budget:
        return f"{name} did not keep its budget: {said}, {allowed}."
    return f"Whether {name} kept its budget is not known: {said}, {allowed}."


def _gather(responses: Responses, among: list[str], unit: str) -> LogPart | None:
    """The responses between which an allocation could choose, as `ibpo allocate` gathers them; None: there are none."""
    own = responses.where(np.isin(responses.configuration.astype(str), among) & ~np.isnan(responses.tokens))
    if len(set(own.configuration.tolist())) < 2:
        return None
    columns = {"problem": "problem", "response_group": "configuration", "reward": "accuracy", "cost": unit}
    log = Log(
        problem=own.problem.astype(str).tolist(),
        response_group=own.configuration.astype(str).tolist(),
        reward=own.reward,
        cost=own.tokens,
        part=[""] * len(own),
        shown=own.level.astype(str).tolist(),
        columns=columns | ({"show": "level"} if any(own.level.tolist()) else {}),
        guessed=(),
    )
    try:
        return part_of_log("", log, lambda _: None)
    except IbpoError:
        return None


def _wants(part: LogPart, answer: Answer) -> str:
    """Which problems get more than the cheapest response group under this budget."""
    cheapest = int(part.cost.mean(0).argmin())
    every = np.arange(len(part.problems))
    extra = np.maximum(part.expected_cost[every, answer.pick] - part.expected_cost[:, cheapest], 0.0)
    total = float(extra.sum())
    if not total:
        return f"No problem wants more than {part.groups[cheapest]} there."
    order = np.argsort(-extra, kind="stable")
    num = 1 + int(np.searchsorted(np.cumsum(extra[order]), MOST * total * (1 - 1e-12)))
    text = f"{MOST:.0%} of what that spends above {part.groups[cheapest]} goes to {num} of {len(every)} problems"
    shares = _by_level(part, answer.pick != cheapest)
    if shares:
        told = ", ".join(f"{level}: {share:.0%}" for level, share in shares)
        return f"{text}; by level, the problems that get more than {part.groups[cheapest]}: {told}."
    shown = [str(part.problems[p]) for p in order[: min(num, MAX_SHOWN)].tolist()]
    return f"{text}: {', '.join(shown)}{', ...' if num > len(shown) else '.'}"


def _by_level(part: LogPart, more: Any) -> list[tuple[str, float]]:
    """Level -> share of its problems; of many levels the first and the last by that share."""
    if part.shown is None:
        return []
    there = {part.shown.names[code]: code for code in set(part.shown.code.tolist())}
    names = sorted(set(there) - {""}, key=natural)
    found = [(name, float(more[part.shown.code == there[name]].mean())) for name in names]
    found.sort(key=lambda one: -one[1])  # stable: levels of one share in their order
    return found if len(found) <= MAX_SHOWN else [*found[: MAX_SHOWN - 1], found[-1]]
