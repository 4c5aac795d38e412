r"""How many prompts and answers to ask for next, when to look, and when to stop: the plan of `ibpo collect`.

Asking goes in rounds, each of which ends with a look: `ibpo allocate`'s verdict on what is there. Three rules:

*Looks.* Each interval that may stop the asking may also err by chance, so all of them share one error of 5 %
(Bonferroni, which asks nothing of how they depend on each other). At most four looks are planned before the first. The
first, on a few prompts, gets a tenth of the error, the others the rest in equal parts. A round is as long as what the
last look saw lets one expect to be enough, and at most so long that the rounds that are left grow by equal factors up
to the limit.

*Answers per problem.* For utilities u = reward - price * cost, let B be the variance between problems of the true
difference between two response groups, and W the variance of such a difference within a problem, of one answer each. A
choice by half of n answers gains in proportion to the standard deviation of what that half makes one expect,
B / sqrt(B + 2 W / n), and is known up to sqrt((B + W / n) / P) with P problems. For a number of calls P n their ratio
is largest at n = sqrt(2) W / B. So that many answers are asked, from 2 to 8, before more problems.

*The end.* The interval lies on one side of 0; or it is narrower than asked and the answers per problem are as many as
the second rule wants; or nothing more can be asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibpo.evaluation.log_allocation import Answer, as_shown, differences, price_of
from ibpo.evaluation.log_parts import LogPart
from ibpo.evaluation.log_verdict import Verdict, verdict
from ibpo.evaluation.statistics import student_quantile

FloatArray = NDArray[np.float64]
ERROR = 0.05
"""Error of all looks together: 1 - confidence level."""
MAX_LOOKS = 4
FIRST_SHARE = 0.1
"""Part of the error for the first look."""
FEWEST, MOST = 2, 8
"""Answers per problem and response group: what halving takes, and beyond which more problems say more."""
NOTHING = 1e-9
"""A smaller variance is 0: sums round."""
PILOT = (12, 24)
"""Problems of the first round."""
WORTH = 0.1
"""Part of the interval's width that more answers to the same prompts must take off it."""
MARGIN = 1.1
"""More calls than would just do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What to ask for: `answers` in each response group, for the first `num_problems` problems."""

    num_problems: int
    answers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What one look saw: the gain of choosing per problem over the best mixture that fits the budget."""

    error: float
    """Probability with which this look's interval misses."""
    gain: float
    low: float
    high: float
    num_problems: int
    num_responses: int
    answers: float
    """Fewest answers per response group that half of the problems have."""
    between: float
    within: float
    per_problem: bool
    """Whether the verdict is to choose per problem."""

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    @property
    def best_answers(self) -> int:
        """How many answers per problem and response group say most for their calls."""
        if self.within < NOTHING:
            return FEWEST
        if self.between <= 0:
            return MOST
        return int(min(MOST, max(FEWEST, round(math.sqrt(2) * self.within / self.between))))


def take_look(part: LogPart, answer: Answer, error: float) -> tuple[Look, Answer, Verdict]:
    """The interval of one look, the answer, and the verdict."""
    between, within, _ = differences(part, price_of(answer))
    counts = part.count.min(1)
    facts = {
        "error": error,
        "num_problems": len(part.problems),
        "num_responses": int(part.count.sum()),
        "answers": float(np.median(counts)),
        "between": between,
        "within": within,
    }
    held = answer.held_out
    if held is None or held.mixture_gain is None or held.mixture_gain_stderr is None:
        told = verdict(part, answer, error=error, advice="", is_today=False)
        return Look(**facts, gain=0.0, low=-math.inf, high=math.inf, per_problem=told.per_problem), answer, told
    halved = int((counts >= 2).sum())
    half = student_quantile(max(halved - 1, 1), 1 - error / 2) * held.mixture_gain_stderr
    told = verdict(part, answer, error=error, advice="", is_today=False)
    gain, shown = held.mixture_gain, as_shown(part, held).mixture_gain or 0.0
    return Look(**facts, gain=shown, low=gain - half, high=gain + half, per_problem=told.per_problem), answer, told


def answers_of(targets: Sequence[Target], num_problems: int) -> NDArray[np.int64]:
    """`[P]` how many answers each problem is to have in each response group."""
    wanted = np.zeros(num_problems, np.int64)
    for target in targets:
        wanted[: target.num_problems] = np.maximum(wanted[: target.num_problems], target.answers)
    return wanted


def calls_to(
    targets: Sequence[Target], logged_PG: NDArray[np.int64], asked: Sequence[Target] = ()
) -> NDArray[np.int64]:
    """`[P]` how many calls each problem takes beyond what is logged, and beyond earlier targets."""
    wanted, had = (answers_of(some, len(logged_PG))[:, None] for some in ([*asked, *targets], asked))
    more = np.maximum(wanted - logged_PG, 0) - np.maximum(had - logged_PG, 0)
    return more.sum(1)


def first_target(logged_PG: NDArray[np.int64], calls_left: float) -> Target:
    """A pilot: two answers in each response group for 24 problems, for fewer where the limits allow few calls."""
    num_problems, num_groups = logged_PG.shape
    wanted = calls_left / (FEWEST * num_groups) / 8
    return Target(num_problems=int(min(num_problems, max(PILOT[0], min(PILOT[1], wanted)))), answers=FEWEST)


def num_looks(num_calls: float, most_calls: float) -> int:
    """How many looks there are between `num_calls` and `most_calls`: one for each doubling, at most `MAX_LOOKS`."""
    if num_calls <= 0 or most_calls <= num_calls:
        return 1
    return min(MAX_LOOKS, 1 + math.ceil(math.log2(most_calls / num_calls)))


def error_of(number: int, looks: int, error_left: float) -> float:
    """The error of look `number` (from 0) of `looks`, out of what is left for it and the later ones."""
    if number == 0 and looks > 1:
        return error_left * FIRST_SHARE
    return error_left / max(1, looks - number)


def next_target(
    targets: Sequence[Target],
    look: Look,
    logged_PG: NDArray[np.int64],
    *,
    calls_left: float,
    looks_left: int,
    precision: float,
) -> Target | None:
    """What to ask for until the next look; None where nothing more can be asked.

    Args:
        targets: What was asked for so far.
        look: What the last look saw.
        logged_PG: `[P, G]` responses that the log holds.
        calls_left: How many calls the limits still allow.
        looks_left: How many looks there still are.
        precision: The half width of the interval that is narrow enough.
    """
    have = answers_of(targets, len(logged_PG))
    deepest = int(have.max(initial=FEWEST))
    answers = min(max(look.best_answers, deepest), 2 * deepest, MOST)
    done = float(calls_to(targets, logged_PG).sum())
    possible = float(calls_to([Target(num_problems=len(logged_PG), answers=MOST)], logged_PG, targets).sum())
    left = min(calls_left, possible)
    if looks_left < 1 or left < 1:
        return None
    most = max(done, 1.0) * ((done + left) / max(done, 1.0)) ** (1 / looks_left) - done
    enough = _enough_problems(look, answers, precision)
    if enough < len(logged_PG):
        few = Target(num_problems=math.ceil(enough), answers=answers)
        most = min(most, max(float(calls_to([few], logged_PG, targets).sum()), done / 4))
    most = min(max(most, 1.0), left)
    while True:
        target = Target(num_problems=len(logged_PG), answers=answers)
        cost = np.cumsum(calls_to([target], logged_PG, targets))
        if cost[-1] > 0 or answers >= MOST:
            break
        if _spread(look, MOST) > (1 - WORTH) ** 2 * _spread(look, look.answers):
            return None  # every prompt is asked, and more answers would hardly narrow the interval
        answers += 1
    num_problems = int(np.searchsorted(cost, most, side="right"))
    some = max(num_problems, int(np.flatnonzero(cost > 0)[0]) + 1)
    return Target(num_problems=some, answers=answers)


def _spread(look: Look, answers: float) -> float:
    """Variance between problems of the observed difference of two response groups, with so many answers."""
    return look.between + look.within / answers


def _enough_problems(look: Look, answers: int, precision: float) -> float:
    """How many problems with this many answers are enough for an interval that is narrow, or excludes 0."""
    if look.half_width == math.inf:
        return math.inf

    def reach(n: float) -> float:
        return look.between / math.sqrt(look.between + 2 * look.within / n) if look.between > 0 else 1.0

    gain = abs(look.gain) * (reach(answers) / reach(look.answers) if look.gain > 0 else 1.0)
    before = _spread(look, look.answers)
    ratio = _spread(look, answers) / before if before > 0 else 1.0
    return MARGIN * look.num_problems * ratio * (look.half_width / max(precision, gain)) ** 2


def why_stop(look: Look, precision: float) -> str:
    """Why no more calls are needed; "" where more calls would show more."""
    if look.per_problem and look.low > 0:
        return "the interval is above 0"
    if look.high < 0:
        return "the interval is below 0"
    if look.half_width <= precision and look.answers >= min(look.best_answers, MOST):
        return f"the interval is within {precision:g} of its middle"
    return ""


def what_more(look: Look, targets: Sequence[Target], logged_PG: NDArray[np.int64], money_per_call: float | None) -> str:
    """What more calls would show, as a sentence.

    Args:
        look: The last one.
        targets: What was asked for.
        logged_PG: `[P, G]` responses that the log holds.
        money_per_call: What a call costs; None: no money is counted.
    """
    done = int(calls_to(targets, logged_PG).sum())
    wanted = answers_of(targets, len(logged_PG))
    answers, num_problems = int(wanted.max(initial=FEWEST)), int((wanted > 0).sum())
    wider = Target(num_problems=len(logged_PG), answers=answers)
    possible = int(calls_to([wider], logged_PG, targets).sum())
    # An interval is as wide as one over the root of the number of problems, whoever answered them.
    four = Target(num_problems=4 * num_problems, answers=answers)
    halve = int(calls_to([four], logged_PG, targets).sum())
    parts: list[str] = []
    if look.half_width < math.inf and 4 * num_problems <= len(logged_PG) and halve:
        parts.append(f"another {_calls(halve, money_per_call)} would halve the interval")
    elif look.half_width < math.inf and possible:
        narrow = look.half_width * math.sqrt(num_problems / len(logged_PG))
        parts.append(
            f"the log's other prompts would take {_calls(possible, money_per_call)} and bring the interval to about "
            f"{narrow:.3f} on either side"
        )
    elif possible:
        parts.append(f"{_calls(min(possible, max(done, 1)), money_per_call)} more would show an interval")
    if look.answers < min(look.best_answers, MOST):
        parts.append(
            f"{look.best_answers} answers per problem and response group instead of {look.answers:g} would let the "
            "choice see more"
        )
    if not parts:
        return "All prompts of the log are asked: only more prompts would show more."
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _calls(number: int, money_per_call: float | None) -> str:
    about = "" if money_per_call is None else f" (money about {number * money_per_call:.3g})"
    return f"{number:,} calls{about}"
