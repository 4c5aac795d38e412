"""What the answers of a log say in words and numbers: the verdict of each budget, and the summary of them all."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.budget import cost_text
from ibpo.evaluation.log_allocation import Answer, as_shown
from ibpo.evaluation.log_parts import LogPart
from ibpo.evaluation.statistics import student_quantile

RIGHT = ("correct", "iscorrect", "right", "accuracy", "acc", "passed")
"""Columns whose sum is the number of right answers, whatever their capitals and signs."""
SMALL = 30
"""So few problems leave wide intervals however many answers there are."""
BLINDLY = "The best that fits without looking at the problems is"


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceGain:
    """What choosing per problem gains over the best mixture inside the budget that does not look at the problems.

    Attributes:
        value: Mean reward more.
        low: Lower end of its interval.
        high: Upper end.
        is_more: Whether it is more than 0 beyond chance.
        is_better: Whether, besides, it is not bought by spending more than the budget.
    """

    value: float
    low: float
    high: float
    is_more: bool
    is_better: bool


def gain_of_choosing(part: LogPart, answer: Answer, *, error: float = 0.05) -> ChoiceGain | None:
    """The held-out gain of one question's choice; None where nothing is held out, or no mixture keeps the budget."""
    held = answer.held_out
    if held is None or answer.mixture is None or held.mixture_gain is None or held.mixture_gain_stderr is None:
        return None
    gain, seen = held.mixture_gain, as_shown(part, held)
    half = student_quantile(max(int(part.repeats.sum()) - 1, 1), 1 - error / 2) * held.mixture_gain_stderr
    ends = max(gain - half, -1.0), min(gain + half, 1.0)  # beyond which no mean of rewards can differ
    told = seen.mixture_gain if seen.mixture_gain is not None else gain
    over = any(x.group is None and x.at_most is not None and held.spent > x.at_most for x in answer.limits)
    return ChoiceGain(
        value=told,
        low=min(ends[0], told),
        high=max(ends[1], told),
        is_more=gain - half > 0,
        is_better=gain - half > 0 and not (over and held.gain <= 0),
    )


def verdict(
    part: LogPart, answer: Answer, *, error: float = 0.05, advice: str | None = None, is_today: bool = True
) -> Verdict:
    """Choose per problem where that is better, by more than chance, than whatever else fits the budget.

    Args:
        part: A part of a log.
        answer: What one question got on it.
        error: With which the interval may miss.
        advice: What would show more, as a sentence; None: what a log in general lacks.
        is_today: Whether the log is what is answered today, so that the two are worth comparing.
    """
    label = answer.question.label
    if answer.allocation is None:
        return Verdict(text=f"{label}: {answer.why}.", per_problem=False, mixture=None)
    weights = None
    if answer.mixture is not None:  # from the cheapest response group to the most expensive one
        by_cost = np.argsort(part.cost.mean(0), kind="stable").tolist()
        weights = {part.groups[g]: float(answer.mixture[g]) for g in by_cost}
    blind = "no mixture of response groups keeps it" if weights is None else _blind(weights)
    held = answer.held_out
    if held is None:
        text = f"{label}: {_unknown(part)} {BLINDLY} {blind}."
        return Verdict(text=text, per_problem=False, mixture=weights)
    seen = as_shown(part, held)
    choose = f"{label}: {_of_today(part, seen.reward, held.spent, is_today)}: choose per problem"
    found = gain_of_choosing(part, answer, error=error)
    if found is None or answer.mixture is None:
        return Verdict(text=f"{choose}: {blind}.{_of_some(part)}", per_problem=True, mixture=None)
    interval = f"{found.value:+.3f} ({100 * (1 - error):.3g} %: {found.low:+.3f} to {found.high:+.3f})"
    if found.is_better:
        text = (
            f"{choose}. That beats {blind}, the best that does not look at the problems, by {interval}.{_of_some(part)}"
        )
        return Verdict(text=text, per_problem=True, mixture=weights)
    mixed = _of_today(part, seen.mixture or 0.0, float(answer.mixture @ part.cost[part.repeats].mean(0)), is_today)
    if found.is_more:
        text = (
            f"{label}: choosing per problem is not worth it on this log: on unseen answers it spends "
            f"{cost_text(held.spent)} {part.columns['cost']}, more than asked, and a mixture of that cost is as good. "
            f"Inside the budget, {mixed}: {blind}, the best that does not look at the problems."
            f"{_cheapest(part, answer, error)}{_of_some(part)}"
        )
        return Verdict(text=text, per_problem=False, mixture=weights)
    if advice is None:
        more = ["more problems"] if part.count.min() >= 8 or len(part.problems) < SMALL else []
        more += ["at least 8 answers per problem and response group"] if part.count.min() < 8 else []
        advice = f"Collect {' and '.join(more)} to see more."
    text = (
        f"{label}: choosing per problem is not worth it on this log: {mixed}: {blind}, the best that does not look at "
        f"the problems, and choosing changes that by {interval}.{_cheapest(part, answer, error)}{_of_some(part)} "
        f"{advice}".rstrip()
    )
    return Verdict(text=text, per_problem=False, mixture=weights)


def verdicts(part: LogPart, answers: Sequence[Answer]) -> list[str]:
    """The verdicts of several questions: where nothing is known of any, once for all."""
    known = [answer for answer in answers if answer.held_out or answer.allocation is None]
    unknown = [answer for answer in answers if not (answer.held_out or answer.allocation is None)]
    if len(unknown) < 2:
        return [verdict(part, answer).text for answer in answers]
    best = [verdict(part, answer).text.removesuffix(".").partition(f"{BLINDLY} ")[2] for answer in unknown]
    lines = "; ".join(f"{one} ({answer.question.label})" for one, answer in zip(best, unknown, strict=True))
    said = _unknown(part)
    together = f"{said[0].upper()}{said[1:]} {BLINDLY} {lines}."
    return [*(verdict(part, answer).text for answer in known), together]


def _unknown(part: LogPart) -> str:
    """Why nobody knows whether to choose per problem, as a sentence."""
    lacks = "that takes 2 answers per problem and response group"
    if part.log is None:
        lacks = (
            "nothing is held out of a streamed log; leave out --stream, with a sample of its problems if it is "
            "too large"
        )
    elif int(part.repeats.sum()) >= 2:
        lacks = "nothing was held out"
    elif part.repeats.any():
        lacks = "that takes a second problem with 2 answers per response group"
    else:
        lacks += " (ibpo collect asks for them)"
    return f"whether choosing per problem pays is not known: {lacks}."


def _of_some(part: LogPart) -> str:
    """A sentence that says which problems a verdict is about, where it is not about all."""
    num = int(part.repeats.sum())
    if num == len(part.problems):
        return ""
    return f" (Of the {num} of {len(part.problems)} problems that have 2 answers per response group.)"


def _cheapest(part: LogPart, answer: Answer, error: float) -> str:
    """A sentence about the cheapest response group, where nothing shows that it is worse than the mixture."""
    rows, mixture = part.repeats, answer.mixture
    cheapest = int(part.cost[rows].mean(0).argmin())
    kept_out = any(limit.at_least is not None for limit in answer.limits)
    if mixture is None or kept_out or mixture[cheapest] > 1 - 5e-4 or int(rows.sum()) < 2:
        return ""
    more = part.reward[rows] @ mixture - part.reward[rows, cheapest]
    mean, half = float(more.mean()), student_quantile(len(more) - 1, 1 - error / 2) * float(more.std(ddof=1))
    half /= math.sqrt(len(more))
    if mean - half > 0:
        return ""
    cost = f"{cost_text(float(part.cost[rows, cheapest].mean()))} {part.columns['cost']}"
    interval = f"{mean:+.3f} ({100 * (1 - error):.3g} %: {mean - half:+.3f} to {mean + half:+.3f})"
    return f" But nothing shows that always '{part.groups[cheapest]}', for {cost}, is worse: this gains {interval}."


def _of_today(part: LogPart, reward: float, spent: float, is_today: bool) -> str:
    """What a policy gets for what it spends, compared with what the log got and spent on the same problems."""
    (reward_now, spent_now), name, unit = part.now(part.repeats), part.columns["reward"], part.columns["cost"]
    exact = f"{name} {reward:.3f} for {cost_text(spent)} {unit}"
    if not (is_today and reward_now and spent_now):
        return exact
    keeps = "keep" if reward <= reward_now else "give"
    bare = "".join(filter(str.isalpha, name.rpartition(".")[2].lower()))
    said = "right answers" if bare in RIGHT else name
    return f"{spent / spent_now:.0%} of today's {unit} {keeps} {reward / reward_now:.0%} of today's {said} ({exact})"


def _blind(weights: dict[str, float]) -> str:
    """A mixture in words."""
    parts = [(name, weight) for name, weight in weights.items() if weight > 5e-4]
    if len(parts) == 1:
        return f"always '{parts[0][0]}'"
    digits = 0 if all(0.005 <= weight < 0.995 for _, weight in parts) else 1  # never 0% of the problems
    shares = [f"'{name}' for {weight:.{digits}%}" for name, weight in parts]
    return f"{' and '.join(shares)} of the problems, drawn at random"


def summarise_parts(
    path: Path, by: str | None, all_answers: Sequence[tuple[LogPart, list[Answer]]], *, num_bad: int
) -> dict[str, Any]:
    """What summary.json holds: the parts, each with a line per budget and what it recommends."""
    parts = [_summary(part, answers) for part, answers in all_answers]
    return {"log": path.name, "by": by, "bad_rows": num_bad, "parts": parts}


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
        "aim": float(answer.aim),
        "expected_reward": allocation.objective / len(part.problems),
        "objective": allocation.objective,
        "upper_bound": allocation.upper_bound,
        "status": allocation.status,
        "rule": allocation.rule,
        "share": dict(zip(part.groups, share.tolist(), strict=True)),
        "recommended": {"per_problem": told.per_problem, "mixture": told.mixture, "verdict": told.text},
        "held_out": None if answer.held_out is None else _json_numbers(asdict(as_shown(part, answer.held_out))),
    }


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _json_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: an undefined number is null."""
    return {key: None if value != value else value for key, value in row.items()}
