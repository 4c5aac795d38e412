"""The picture of a log: what each way of answering gets for what it costs, and what the budgets get of them."""

# matplotlib ships no types for what is used here.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibpo.allocation import random_mix
from ibpo.errors import IbpoError, printable
from ibpo.evaluation.log_allocation import Answer, as_shown
from ibpo.evaluation.log_parts import FloatArray, LogPart
from ibpo.evaluation.log_verdict import verdict
from ibpo.evaluation.statistics import rate_interval

if TYPE_CHECKING:
    from ibpo.evaluation.axes import Label

NUM_POINTS = 2000
"""Points of a curve: more would show no other line."""
# Okabe and Ito's: readers with any kind of colour blindness can distinguish them; marks differ as well.
BLUE, GREY, RED, INK = "#0072b2", "#6b7178", "#d55e00", "#1f2329"
SIZE = (6.4, 4.6)
MAX_NAME = 28
"""Characters of a response group's name that the picture shows."""


def draw_answers(part: LogPart, answers: Sequence[Answer], path: str | Path) -> None:
    """Draw one part of a log and the answers to its budgets.

    Single response groups and held-out choices carry 95 % intervals, over problems; a choice that the verdict
    recommends is filled.

    Raises:
        IbpoError: matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise IbpoError("a picture needs matplotlib: pip install 'ibpo[report]'") from None
    from ibpo.evaluation.axes import finish

    with rc_context({"text.parse_math": False, "font.size": 10}), warnings.catch_warnings():  # names may hold dollars
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for what the font does not have
        figure = Figure(figsize=SIZE, layout="constrained", dpi=180)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        labels = _draw(axes, part, answers)
        names = axes.get_legend_handles_labels()[1]
        figure.set_size_inches(SIZE[0], SIZE[1] + 0.2 * ((len(names) + 1) // 2))  # room for the legend
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False, fontsize=9)
        finish(figure, [(axes, labels)])
        figure.set_layout_engine("none")
        figure.savefig(path, dpi="figure")


def _draw(axes: Any, part: LogPart, answers: Sequence[Answer]) -> list[Label]:
    from ibpo.evaluation.axes import cost_axis

    curve = part.frontier()
    some = np.unique(np.linspace(0, len(curve.spent) - 1, NUM_POINTS).astype(np.int64))
    axes.plot(curve.spent[some], curve.value[some], color=BLUE, label="best per problem, as expected")
    labels = _draw_groups(axes, part)
    now = part.now()
    axes.plot([now[1]], [now[0]], "x", color=INK, markersize=7, markeredgewidth=1.8, label="as logged")
    labels += _draw_held_out(axes, part, answers)
    cost, reward, name = (printable(text) for text in (part.columns["cost"], part.columns["reward"], part.name))
    axes.set(xlabel=f"{cost} per problem", ylabel=reward, title=shorten(name, 60) or None)
    cost_axis(axes, [float(x) for x in (*part.cost.mean(0), *curve.spent[some], now[1])])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return labels


def _draw_groups(axes: Any, part: LogPart) -> list[Label]:
    """The response groups, each alone, and the best that mixes them without looking at the problems; their names."""
    from ibpo.evaluation.axes import Label

    cost_G, reward_G = part.cost.mean(0), part.reward.mean(0)
    at = np.unique(np.concatenate([cost_G, np.linspace(cost_G.min(), cost_G.max(), 200)]))
    mixed = [float(random_mix(cost_G, reward_G, x)[0] @ reward_G) for x in at.tolist()]
    axes.plot(at, mixed, "--", color=GREY, linewidth=1.2, label="best mixture that does not look")
    num_problems = len(part.reward)
    error_G = part.reward.std(0, ddof=min(1, num_problems - 1)) / np.sqrt(num_problems)
    bars = _intervals(reward_G, error_G, num_problems)
    axes.errorbar(cost_G, reward_G, yerr=bars, fmt="s", color=GREY, markersize=5, capsize=2, linewidth=1)
    names = shorten_apart([printable(name) for name in part.groups], MAX_NAME)
    return [Label(text=name, x=float(cost_G[g]), y=float(reward_G[g]), colour=INK) for g, name in enumerate(names)]


def _draw_held_out(axes: Any, part: LogPart, answers: Sequence[Answer]) -> list[Label]:
    """Each budget's choice on responses that did not decide; without such, as it is expected; the budgets' names."""
    from ibpo.evaluation.axes import Label

    labels = {True: "chosen per problem: recommended", False: "chosen per problem: no better than a mixture"}
    found = []
    for answer in answers:
        if answer.allocation is None:
            continue
        recommended, held = verdict(part, answer).per_problem, answer.held_out
        if held is None:
            spent = float(np.take_along_axis(part.expected_cost, answer.pick[:, None], 1).mean())
            reward, bars, label = answer.allocation.objective / len(part.problems), None, "chosen, not held out"
        else:
            spent, reward, label = held.spent, as_shown(part, held).reward, labels.pop(recommended, None)
            # These are the problems that were halved, which may be a few of all.
            bars = _intervals(np.array([reward]), np.array([held.reward_stderr]), int(part.repeats.sum()))
        face = RED if recommended else "white"
        axes.errorbar([spent], [reward], yerr=bars, fmt="o", color=RED, mfc=face, capsize=2, linewidth=1, label=label)
        text = printable(answer.question.label)
        found.append(Label(text=text, x=float(spent), y=float(reward), colour=RED))
    return found


def shorten(text: str, width: int) -> str:
    """A text with at most so many characters, its two ends: names of one beginning differ at their ends.

    Example:
        >>> shorten("abc", 3), shorten("abcd", 3), shorten("model-effort-low", 10)
        ('abc', 'a…d', 'model…-low')
    """
    if len(text) <= width:
        return text
    return f"{text[: width // 2]}…{text[len(text) - (width - width // 2 - 1) :]}"


def shorten_apart(names: Sequence[str], width: int) -> list[str]:
    """Names with at most so many characters; those that would look the same begin where they differ.

    Example:
        >>> shorten_apart(["think-16000-long", "think-32000-long", "low"], 9)
        ['…160…long', '…320…long', 'low']
    """
    found: list[str] = []
    for name in names:
        alike = {other for other in names if shorten(other, width) == shorten(name, width)}
        at = (i for i, letters in enumerate(zip(*alike, strict=False)) if len(set(letters)) > 1)
        start = next(at, min(map(len, alike))) if len(alike) > 1 else 0
        found.append(shorten("…" * bool(start) + name[start:], width))
    return found


def _intervals(value: FloatArray, stderr: FloatArray, num_problems: int) -> FloatArray:
    """`[2, N]` how far the 95 % intervals reach below and above; nowhere for a single problem, which tells none."""
    if num_problems < 2:
        return np.zeros((2, len(value)))
    pairs = zip(value.tolist(), stderr.tolist(), strict=True)
    ends = np.array([rate_interval(mean, error, num_problems) for mean, error in pairs])
    return np.abs(ends.T - value)
