"""The picture of a log: what each way of answering gets for what it costs, and what the budgets get of them."""

# matplotlib ships no types for what is used here.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.allocation import random_mix
from ibpo.budget import cost_text
from ibpo.errors import IbpoError, printable
from ibpo.evaluation.log_allocation import Answer, as_shown
from ibpo.evaluation.log_parts import FloatArray, LogPart
from ibpo.evaluation.log_verdict import verdict
from ibpo.evaluation.statistics import rate_interval

NUM_POINTS = 2000
"""Of a curve: more would show no other line."""
BLUE, GREY, RED, INK = "#1f5fa8", "#8a8a8a", "#c8452c", "#222222"


def draw_answers(part: LogPart, answers: Sequence[Answer], path: str | Path) -> None:
    """Draw one part of a log and the answers to its budgets.

    Single response groups and held-out choices carry 95 % intervals, over problems; a choice that the verdict
    recommends is filled.

    Raises:
        IbpoError: matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError:
        raise IbpoError("a picture needs matplotlib: pip install 'ibpo[report]'") from None
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():  # names may hold dollars
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for what the font does not have
        figure = Figure(figsize=(7.2, 4.8), layout="constrained")
        _draw(figure.subplots(), part, answers, FuncFormatter(lambda x, _: cost_text(x)))
        figure.savefig(path, dpi=150)


def _draw(axes: Any, part: LogPart, answers: Sequence[Answer], costs: Any) -> None:
    curve = part.frontier()
    some = np.unique(np.linspace(0, len(curve.spent) - 1, NUM_POINTS).astype(np.int64))
    axes.plot(curve.spent[some], curve.value[some], color=BLUE, alpha=0.45, label="best per problem, as expected")
    _draw_groups(axes, part)
    now = part.now()
    axes.plot([now[1]], [now[0]], "x", color=INK, markersize=7, label="as logged")
    _draw_held_out(axes, part, answers)
    cost, reward, name = (printable(text) for text in (part.columns["cost"], part.columns["reward"], part.name))
    axes.set(xlabel=f"{cost} per problem", ylabel=reward, title=name or None)
    axes.xaxis.set_major_formatter(costs)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right", fontsize=8)


def _draw_groups(axes: Any, part: LogPart) -> None:
    """The response groups, each alone, and the best that mixes them without looking at the problems."""
    cost_G, reward_G = part.cost.mean(0), part.reward.mean(0)
    at = np.unique(np.concatenate([cost_G, np.linspace(cost_G.min(), cost_G.max(), 200)]))
    mixed = [float(random_mix(cost_G, reward_G, x)[0] @ reward_G) for x in at.tolist()]
    axes.plot(at, mixed, "--", color=GREY, linewidth=1.2, label="best mixture that does not look")
    num_problems = len(part.reward)
    error_G = part.reward.std(0, ddof=min(1, num_problems - 1)) / np.sqrt(num_problems)
    bars = _intervals(reward_G, error_G, num_problems)
    axes.errorbar(cost_G, reward_G, yerr=bars, fmt="s", color=GREY, markersize=5, capsize=2, linewidth=1)
    near_end = cost_G.min() + 0.85 * (cost_G.max() - cost_G.min())
    for g, name in enumerate(part.groups):
        side, reach = ("left", 5) if cost_G[g] <= near_end else ("right", -5)
        axes.annotate(
            printable(name),
            (cost_G[g], reward_G[g]),
            xytext=(reach, -11),
            textcoords="offset points",
            fontsize=8,
            ha=side,
        )


def _draw_held_out(axes: Any, part: LogPart, answers: Sequence[Answer]) -> None:
    """Each budget's choice on responses that did not decide; without such, as it is expected."""
    labels = {True: "chosen per problem: recommended", False: "chosen per problem: no better than a mixture"}
    for answer in answers:
        if answer.allocation is None:
            continue
        recommended, held = verdict(part, answer).per_problem, answer.held_out
        if held is None:
            spent = float(np.take_along_axis(part.expected_cost, answer.pick[:, None], 1).mean())
            reward, bars, label = answer.allocation.objective / len(part.problems), None, "chosen, not held out"
        else:
            spent, reward, label = held.spent, as_shown(part, held).reward, labels.pop(recommended, None)
            # Of the problems that were halved, which may be a few of all.
            bars = _intervals(np.array([reward]), np.array([held.reward_stderr]), int(part.repeats.sum()))
        face = RED if recommended else "white"
        axes.errorbar([spent], [reward], yerr=bars, fmt="o", color=RED, mfc=face, capsize=2, linewidth=1, label=label)
        below = reward if bars is None else reward - float(bars[0, 0])
        axes.annotate(
            printable(answer.question.label), (spent, below), xytext=(0, -5), textcoords="offset points", fontsize=8,
            color=RED, rotation=90, ha="center", va="top",
        )  # fmt: skip
        # Room for the words below the bar, some 5 points a letter, or they stand in the numbers of the axis.
        part_of = min(0.4, (5 + 5 * len(answer.question.label)) / (axes.bbox.height / axes.figure.dpi * 72))
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom=min(bottom, (below - part_of * top) / (1 - part_of)))


def _intervals(value: FloatArray, stderr: FloatArray, num_problems: int) -> FloatArray:
    """`[2, N]` how far the 95 % intervals reach below and above; nowhere for a single problem, which tells none."""
    if num_problems < 2:
        return np.zeros((2, len(value)))
    pairs = zip(value.tolist(), stderr.tolist(), strict=True)
    ends = np.array([rate_interval(mean, error, num_problems) for mean, error in pairs])
    return np.abs(ends.T - value)
