"""Figures of a page: accuracy against cost, who got the budget, whether it was kept, training; each also in words.

They show a comparison (`ibpo.evaluation.comparison.compare`), or the methods of a demo or of baselines as means
(`ibpo.evaluation.methods`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ibpo.budget import cost_text
from ibpo.errors import printable
from ibpo.evaluation.axes import Label, cost_axis, finish
from ibpo.evaluation.methods import mean_over_seeds
from ibpo.evaluation.report.tables import families, percent, points
from ibpo.evaluation.statistics import rate_interval

INK, PAPER, FAINT = "#1f2329", "#fefefd", "#7d838a"
"""Text and axes; background; guides. The report replaces the first two to follow the reader's light or dark theme."""
# Okabe and Ito's palette: readers with any kind of colour blindness can distinguish it; markers differ as well.
SKY, BLUE, GREEN, ORANGE, VERMILLION, PURPLE = "#56b4e9", "#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7"
BUDGET_COLOURS = (BLUE, VERMILLION, PURPLE, ORANGE, SKY, GREEN)
"""The darker ones first: lines that have no marks must be seen on white."""
MARKERS = "osD^vPhX*<>p"
PANEL = (4.9, 3.7)
"""Inches: on a phone of 360 pixels a point of the text is then a pixel."""
LEGEND_LINE = 0.19
WIDE = 25.0
"""Costs of methods that span so many times have a logarithmic axis; mixtures are straight lines on a linear one."""
MOST_DRAWN = {"levels": 6, "votes": 3}
"""Lines by level, and curves of votes, that a reader can still distinguish."""
MAX_NAME = 44
"""Characters of a name in one line of a legend."""
STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "ibpo",
    "text.parse_math": False,  # a name may hold dollars
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


Json = Mapping[str, Any]
Row = dict[str, Any]
Out = Path | Sequence[Path]
POINTS: dict[str, dict[str, Any]] = {
    "standard only": {"color": INK, "marker": "o"},
    "extended only": {"color": INK, "marker": "h", "markersize": 8},
    "RAFT without budget": {"color": PURPLE, "marker": "D"},
    "IBPO sampled": {"color": GREEN, "marker": "s", "markerfacecolor": PAPER, "markeredgewidth": 1.8},
    "IBPO calibrated": {"color": VERMILLION, "marker": "P", "markersize": 8.5},
}
SHAPES = "<>*Xdp8H"
"""Markers of the other baselines; none of those above, and none of the votes'."""


def plot_frontier(rows: Iterable[Row], out: Out, titles: Mapping[str, str] | None = None) -> None:
    """Accuracy (bars: 95 % intervals, clustered by problem) against cost, one panel per experiment; means over seeds.

    Self-consistency is cut off somewhat beyond the most expensive other method.

    Args:
        rows: As `Comparison.rows`, of any number of experiments and seeds.
        out: Where to write, .svg or .png. Several paths get one drawing each, of the same layout.
        titles: Experiment -> title of its panel.
    """
    merged = mean_over_seeds(rows)

    def draw(axes: Axes, experiment: str) -> Sequence[Label]:
        own = [row for row in merged if row["experiment"] == experiment]
        anchors = [row for row in own if row["method"] in ("standard only", "extended only")]
        others = [row for row in own if "self-consistency" not in row["method"]]
        right = 1.12 * max((row["relative_cost"] for row in others), default=1.0)
        _curve(axes, anchors, "random mix", color=FAINT, linestyle="-", linewidth=1.2)
        oracle = [anchors[0], *(row for row in own if row["method"] == "oracle by level")]
        _curve(axes, oracle, "oracle by level (cold start)", color=INK, linestyle="--", linewidth=1.2, dashes=(5, 3))
        for model, style in (
            ("cold start", {"color": SKY, "marker": "^", "linestyle": "-"}),
            ("pretrained", {"color": BLUE, "marker": "v", "linestyle": "-."}),
        ):
            votes = [row for row in own if row["method"].startswith(f"self-consistency ({model})")]
            inside = [row for row in votes if row["relative_cost"] <= right]
            _curve(
                axes,
                inside,
                f"self-consistency, {model}",
                markersize=5,
                markeredgecolor=INK,
                markeredgewidth=0.6,
                **style,
            )
        for i, (name, family) in enumerate(families(own).items()):
            label = name.replace("self-consistency", "votes")
            _curve(axes, family, label, linewidth=0.8, zorder=2, **_family_style(i))
        for method, style in POINTS.items():
            label = method + " (q+)" * (method == "IBPO calibrated")
            same = [row for row in own if row["method"] == method]
            _curve(axes, same, label, **{"linestyle": "", "capsize": 3, "elinewidth": 1.2, "zorder": 3} | style)
        least = min(row["relative_cost"] for row in others)
        cost_axis(axes, [least, right], "×", log_from=WIDE)
        axes.set_xlim(left=min(0.9, 0.9 * least), right=right)
        axes.set_xlabel("Cost (mean tokens, × one standard response)")
        axes.set_ylabel("Accuracy on unseen problems")
        axes.yaxis.set_major_formatter(_in_percent())
        return [
            Label(text=f"{row['budget']:.0%}", x=row["relative_cost"], y=row["accuracy"], colour=INK)
            for row in own
            if row["method"] == "IBPO calibrated"
        ]

    _panels([row["experiment"] for row in merged], draw, out, titles)


def plot_share_by_level(rows: Iterable[Row], out: Out, titles: Mapping[str, str] | None = None) -> None:
    """Who got the budget: extended share by level (bars) over what extended responses gain there (outline).

    It shows the calibrated policies where there are any, else the sampled ones; means over seeds.
    """
    merged = mean_over_seeds(rows)

    def draw(axes: Axes, experiment: str) -> None:
        own = {(row["method"], row["budget"]): row for row in merged if row["experiment"] == experiment}
        standard, extended = own["standard only", None], own["extended only", None]
        levels = list(standard["accuracy_by_level"])
        gain = [extended["accuracy_by_level"][name] - standard["accuracy_by_level"][name] for name in levels]
        axes.bar(range(len(levels)), gain, 0.92, fill=False, edgecolor=INK, linewidth=1.6, label="gain by extended")
        method = "IBPO calibrated" if any(name == "IBPO calibrated" for name, _ in own) else "IBPO sampled"
        policies = [row for (name, _), row in own.items() if name == method]
        width = 0.8 / max(len(policies), 1)
        for i, row in enumerate(policies):
            place = [level - 0.4 + (i + 0.5) * width for level in range(len(levels))]
            share = [row["share_by_level"][name] for name in levels]
            colour = BUDGET_COLOURS[i % len(BUDGET_COLOURS)]
            label = f"share, {method.removeprefix('IBPO ')}, q+ = {row['budget']:.0%}"
            style: dict[str, Any] = {"color": colour, "edgecolor": INK, "linewidth": 0.5}
            axes.bar(place, share, 0.9 * width, label=label, zorder=0, **style)
        axes.axhline(0, color=INK, linewidth=0.8)
        _level_axes(axes, levels, "Extended share; gain of accuracy")

    _panels([row["experiment"] for row in merged], draw, out, titles)


def plot_training(steps: Sequence[Mapping[str, Any]], out: Out) -> None:
    """Share (left, dashed: the budget) and price (right) per step; one line per policy, of one experiment.

    Args:
        steps: One entry per step and policy: `seed`, `budget`, `step`, `share`, `price`.
        out: As for `plot_frontier`.
    """
    budgets = sorted({row["budget"] for row in steps if row["budget"] is not None})
    colours = {q: BUDGET_COLOURS[i % len(BUDGET_COLOURS)] for i, q in enumerate(budgets)}

    def draw(axes: Axes, name: str) -> None:
        key = name.lower()
        for q, seed in sorted({(row["budget"], row["seed"]) for row in steps if row["budget"] is not None}):
            own = [row for row in steps if (row["budget"], row["seed"]) == (q, seed) and row.get(key) is not None]
            own.sort(key=lambda row: row["step"])
            old = axes.get_legend_handles_labels()[1]
            label = f"q+ = {q:.0%}"
            steps_x, value = [row["step"] for row in own], [row[key] for row in own]
            style = {"color": colours[q], "linewidth": 1.4, "linestyle": ("-", "-.", (0, (6, 1)))[budgets.index(q) % 3]}
            axes.plot(steps_x, value, label=None if label in old else label, **style)
        for q in budgets if key == "share" else ():
            axes.axhline(q, color=colours[q], linestyle="--", linewidth=1)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if key == "share":
            axes.yaxis.set_major_formatter(_in_percent())
        axes.set_xlabel("Step")

    _panels(["Share", "Price"], draw, out, {"Share": "Extended share while training", "Price": "Price of the budget"})


def _family_style(i: int) -> dict[str, Any]:
    """No two of 16 families look alike: eight shapes, filled, then hollow; colours alone would repeat after six."""
    color = BUDGET_COLOURS[(i + i // len(SHAPES)) % len(BUDGET_COLOURS)]
    hollow = i // len(SHAPES) % 2 == 1
    inside = {"markerfacecolor": PAPER, "markeredgecolor": color, "markeredgewidth": 1.3} if hollow else {
        "markeredgecolor": INK, "markeredgewidth": 0.5
    }  # fmt: skip
    return {"color": color, "marker": SHAPES[i % len(SHAPES)], **inside}


def _curve(axes: Axes, rows: Sequence[Json], label: str, **style: Any) -> None:
    """Rows by their cost: with a marker each has its 95 % interval."""
    ordered = sorted(rows, key=lambda row: row["relative_cost"])
    cost = [row["relative_cost"] for row in ordered]
    if ordered and style.get("marker"):
        _errorbar(axes, cost, map(_estimate, ordered), label=label, **({"elinewidth": 0.7} | style))
    elif ordered:  # mixtures of neighbours: curves on a logarithmic axis
        at = np.unique(np.concatenate([cost, np.linspace(cost[0], cost[-1], 200)]))
        axes.plot(at, np.interp(at, cost, [row["accuracy"] for row in ordered]), label=label, **style)


def _estimate(row: Json) -> Json:
    """The accuracy of a row with its 95 % interval."""
    low, high = rate_interval(row["accuracy"], row["stderr"], row["num_problems"])
    return {"value": row["accuracy"], "low": low, "high": high}


def _errorbar(axes: Axes, x: Sequence[float], estimates: Iterable[Json], **style: Any) -> None:
    """Estimates at x, each with its interval."""
    shown = list(estimates)
    axes.errorbar(x, [one["value"] for one in shown], _reach(shown), **style)


def _reach(estimates: Sequence[Json]) -> list[list[float]]:
    """How far each interval goes down, and up; 0 where an end is not known."""
    down, up = [], []
    for one in estimates:
        known = one["low"] is not None and one["high"] is not None
        down.append(max(one["value"] - one["low"], 0.0) if known else 0.0)
        up.append(max(one["high"] - one["value"], 0.0) if known else 0.0)
    return [down, up]


def _in_percent() -> FuncFormatter:
    """Ticks in percent, with as many digits as they have: 42.5 % is not 43 %."""
    return FuncFormatter(lambda value, _: f"{round(100 * value, 2):g}%")


def _fitting(labels: Sequence[str], most: int, inches: float) -> int:
    """Columns of a legend that fit; labels fill them one after the other.

    Example:
        >>> _fitting(["GRPO"] * 8, 4, 9.8), _fitting(["adaptive votes (pretrained), consensus"] * 8, 4, 9.8)
        (4, 2)
    """
    for columns in range(most, 1, -1):
        lines = -(-len(labels) // columns)
        widths = [0.65 + 0.07 * max(map(len, labels[i : i + lines])) for i in range(0, len(labels), lines)]
        if sum(widths) <= inches:
            return columns
    return 1


def _wrapped(name: str, width: int = MAX_NAME) -> str:
    """A long name in lines, a very long one cut."""
    lines = wrap(name, width, max_lines=3, placeholder=" …", break_on_hyphens=False)
    return "\n".join(lines) if len(name) > width else name


def _shown(name: str) -> str:
    r"""A name in a figure: legends leave out what begins with an underscore, and SVG holds no control characters.

    Example:
        >>> _shown("a\nb"), _shown("_a")
        ('a\\nb', '\u200a_a')
    """
    return "\N{HAIR SPACE}" * name.startswith("_") + printable(name)


def _panels(
    names: Iterable[str],
    draw: Callable[[Axes, str], Sequence[Label] | None],
    out: Out,
    titles: Mapping[str, str] | None = None,
) -> None:
    """One panel per name side by side, one legend for all below."""
    panels = list(dict.fromkeys(names))
    if not panels:
        raise ValueError("nothing to plot")
    with rc_context(STYLE):
        width = PANEL[0] * len(panels)
        figure = Figure(figsize=(width, PANEL[1]), layout="constrained", dpi=220)
        FigureCanvasAgg(figure)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        labelled: dict[str, Any] = {}
        placed: list[tuple[Any, Sequence[Label]]] = []
        for axes, name in zip(grid, panels, strict=True):
            placed.append((axes, draw(axes, name) or ()))
            if title := (titles or {}).get(name, name):
                axes.set_title(_wrapped(title), loc="left")
            handles, labels = axes.get_legend_handles_labels()
            labelled = dict(zip(map(_wrapped, labels), handles, strict=True)) | labelled
        if labelled:
            columns = _fitting(list(labelled), 2 if len(panels) == 1 else 4, width)
            # Room for the legend, which would be taken from the panels.
            lines = -(-sum(1 + label.count("\n") for label in labelled) // columns)
            figure.set_size_inches(width, PANEL[1] + LEGEND_LINE * lines)
            figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=columns, fontsize=9)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a browser has them, for the SVG
            # Not `savefig`, which draws everything once more before; and where everything stands is found once.
            finish(figure, placed)
            figure.set_layout_engine("none")
            for one in [out] if isinstance(out, Path) else out:
                if one.suffix == ".svg":
                    FigureCanvasSVG(figure).print_svg(one, metadata={"Date": None})
                else:
                    FigureCanvasAgg(figure).print_png(one)


def plot_tradeoff(part: Json, out: Out) -> None:
    """Accuracy against mean cost of every configuration, 95 % intervals, beside random mix, votes and allocations."""
    rows, places = part["configurations"], _places(part)

    def draw(axes: Axes, _: str) -> None:
        most_expensive = max(row["cost"]["value"] for row in rows)
        mix = part["mix"]
        if mix:
            cost = [point["cost"] for point in mix]
            # Straight lines in the cost, on an axis that may be logarithmic.
            inner = np.geomspace(cost[0], cost[-1], 200) if cost[0] > 0 else np.linspace(cost[0], cost[-1], 200)
            at = np.unique(np.concatenate([cost, inner]))
            line, best = (np.interp(at, cost, [p[key] for p in mix]) for key in ("line", "best"))
            axes.plot(at, line, color=FAINT, linewidth=1.4, label="random mix, both ends")
            if any(p["best"] > p["line"] + 1e-9 for p in mix):
                axes.plot(at, best, color=FAINT, linestyle=":", linewidth=1.6, label="best random mix")
        for name, colour, dashes in (("by problem", GREEN, (5, 2)), ("by level", ORANGE, (2, 2))):
            curve = sorted(part["oracles"].get(name, []), key=lambda p: p["cost"])
            if curve:
                style = {"color": colour, "linestyle": "--", "dashes": dashes, "marker": ".", "elinewidth": 0.8}
                values = [p | {"value": p["accuracy"]} for p in curve]
                label = f"allocated {name}, held out"
                _errorbar(axes, [p["cost"] for p in curve], values, capsize=2, label=label, zorder=2, **style)
        for name, curve in part["votes"].items():
            i = places[name]
            inside = [p for p in curve if p["cost"] <= 1.15 * most_expensive]
            if len(inside) > 1:
                style = {"color": _colour(i), "alpha": 0.75, "linestyle": "-.", "linewidth": 1.2, "elinewidth": 0.7}
                cost, values, label = (
                    [p["cost"] for p in inside],
                    [p["accuracy"] for p in inside],
                    f"votes (maj@k), {name}",
                )
                _errorbar(axes, cost, values, marker="|", markersize=6, label=label, **style)
        for row in rows:
            i = places[row["name"]]
            style = {"linestyle": "", "marker": MARKERS[i % len(MARKERS)], "markersize": 8, "markeredgecolor": INK}
            style |= {"color": _colour(i), "capsize": 3, "markeredgewidth": 0.7, "elinewidth": 1.2, "zorder": 4}
            accuracy, across = row["numbers"]["overall"]["all"]["pass@1"], _reach([row["cost"]])
            _errorbar(axes, [row["cost"]["value"]], [accuracy], xerr=across, label=_shown(row["name"]), **style)
        cost_axis(axes, [row["cost"]["value"] for row in rows])
        axes.set_xlabel(f"Cost (mean {part['cost_unit']} per response)")
        axes.set_ylabel("Accuracy (pass@1)")
        axes.yaxis.set_major_formatter(_in_percent())

    _panels([""], draw, out)


def choosing(part: Json) -> list[Json]:
    """The configurations that choose by themselves: some of their responses are extended, not all."""
    shares = [(row, row["numbers"]["overall"]["all"].get("extended_share")) for row in part["configurations"]]
    return [row for row, share in shares if share is not None and 0 < share["value"] < 1]


def by_level(rows: Sequence[Json], levels: Sequence[str], metric: str) -> dict[str, dict[str, Json]]:
    """Configuration -> level -> a metric's estimate; levels without one are left out."""
    return {
        row["name"]: {
            level: found["all"][metric]
            for level in levels
            if (found := row["numbers"].get(f"level={level}")) is not None
        }
        for row in rows
    }


def plot_by_level(
    part: Json, values: Mapping[str, Mapping[str, Json]], levels: Sequence[str], what: str, out: Out
) -> None:
    """A metric of some configurations by level, with 95 % intervals; `values` as from `by_level`."""
    places = _places(part)

    def draw(axes: Axes, _: str) -> None:
        for number, (name, known) in enumerate(values.items()):
            i, shift = places[name], 0.5 * ((number + 0.5) / len(values) - 0.5)
            style = {"color": _colour(i), "linestyle": "-", "linewidth": 0.9, "marker": MARKERS[i % len(MARKERS)]}
            style |= {"markeredgecolor": INK, "markeredgewidth": 0.6, "capsize": 2, "label": _shown(name)}
            _errorbar(axes, [levels.index(level) + shift for level in known], known.values(), **style)
        _level_axes(axes, levels, what)

    _panels([""], draw, out)


def plot_shares(part: Json, out: Out) -> None:
    """Which configuration each level's problems get under the middle budget: stacked bars."""
    shares = part["share_by_level"]

    def draw(axes: Axes, _: str) -> None:
        levels, names = list(shares), [row["name"] for row in part["configurations"]]
        bottom = [0.0] * len(levels)
        for i, name in enumerate(names):
            height = [shares[level].get(name, 0.0) for level in levels]
            if name in part["among"]:
                style: dict[str, Any] = {
                    "color": _colour(i),
                    "hatch": ("", "//", "..", "xx", "\\\\", "++")[(i + i // 6) % 6],
                    "edgecolor": INK,
                }
                axes.bar(range(len(levels)), height, 0.75, bottom, linewidth=0.6, label=_shown(name), **style)
                bottom = [b + h for b, h in zip(bottom, height, strict=True)]
        _level_axes(axes, levels, "Share of the problems")

    _panels([""], draw, out)


def plot_kept(rows: Sequence[Json], out: Out) -> None:
    """Extended share minus the budget of each policy trained to keep one, with 95 % intervals.

    Args:
        rows: `name`, `budget`, `share` (an estimate), and `in_training` where it is known; those of one name and
            budget, the seeds of a policy, are on one line.
        out: As for `plot_frontier`.
    """
    places = {label: y for y, label in enumerate(dict.fromkeys(map(_kept_label, rows)))}

    def draw(axes: Axes, _: str) -> None:
        axes.axvspan(-1, 1, color=FAINT, alpha=0.3, linewidth=0, label="±1 percentage point")
        axes.axvline(0, color=INK, linewidth=0.8)
        at = [100 * (row["share"]["value"] - row["budget"]) for row in rows]
        across = [[100 * reach for reach in side] for side in _reach([row["share"] for row in rows])]
        y = [places[_kept_label(row)] for row in rows]
        style = {"color": BLUE, "marker": "s", "capsize": 3, "linestyle": "", "label": "unseen problems, 95 %"}
        axes.errorbar(at, y, xerr=across, **style)
        known = [row for row in rows if row.get("in_training") is not None]
        if known:
            at = [100 * (row["in_training"] - row["budget"]) for row in known]
            y = [places[_kept_label(row)] + 0.25 for row in known]
            label = "in training, last tenth of the steps"
            axes.plot(at, y, color=ORANGE, marker="D", linestyle="", label=label)
        axes.set_yticks(
            range(len(places)),
            [_wrapped(_shown(place).replace("(q+ ", "(q+\N{NO-BREAK SPACE}"), 26) for place in places],
        )
        axes.set_ylim(-0.6, len(places) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_xlabel("Extended share − budget (points)")

    _panels([""], draw, out)


def _kept_label(row: Json) -> str:
    return f"{row['name']} (q+ {row['budget']:.0%})"


def _colour(i: int) -> str:
    """With the marks, no two of 72 configurations look alike."""
    return BUDGET_COLOURS[(i + i // len(MARKERS)) % len(BUDGET_COLOURS)]


def _places(part: Json) -> dict[str, int]:
    """Configuration -> which colour and mark it has in every figure."""
    names = part.get("every", [row["name"] for row in part["configurations"]])
    return {name: i for i, name in enumerate(names)}


def _level_axes(axes: Axes, levels: Sequence[str], what: str) -> None:
    names = [_wrapped(_shown(level), 20) for level in levels]
    widths = [max(map(len, name.split("\n"))) for name in names]
    # Names that would touch lean.
    leans = any((one + other) / 2 + 2 > MAX_NAME / len(names) for one, other in pairwise(widths))
    axes.set_xticks(range(len(levels)), names, rotation=40 if leans else 0, ha="right" if leans else "center")
    axes.tick_params(axis="x", pad=2)
    axes.set_xlabel("Level")
    axes.set_ylabel(what)
    axes.yaxis.set_major_formatter(_in_percent())


def speak(what: str, texts: Iterable[str]) -> str:
    """A figure in words, for those who cannot see it: what it shows, and each thing in it."""
    return f"{what}. " + "; ".join(texts) + "."


def spoken_tradeoff(part: Json) -> str:
    """The frontier in words."""
    texts = []
    for row in part["configurations"]:
        accuracy = row["numbers"]["overall"]["all"]["pass@1"]["value"]
        texts.append(f"{row['name']}: {accuracy:.1%} at {cost_text(row['cost']['value'])} {part['cost_unit']}")
    for name, curve in part["oracles"].items():
        allocated = ", ".join(f"{p['accuracy']:.1%} at {cost_text(p['cost'])}" for p in curve)
        texts.append(f"allocated {name}: {allocated}")
    return speak("Accuracy against cost", texts)


def spoken_by_level(what: str, values: Mapping[str, Mapping[str, float]]) -> str:
    """Rates by level in words: configuration -> level -> rate, or the other way round."""
    lists = {name: ", ".join(f"{key} {percent(rate)}" for key, rate in known.items()) for name, known in values.items()}
    return speak(what, (f"{name}: {rates}" for name, rates in lists.items()))


def spoken_kept(rows: Sequence[Json]) -> str:
    """Distance from the budget in words; `rows` as for `plot_kept`."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        text = f"{points(row['share']['value'] - row['budget'])} points"
        if row.get("in_training") is not None:
            text += f" (in training {points(row['in_training'] - row['budget'])})"
        texts.setdefault(_kept_label(row), []).append(text)
    return speak("Extended share minus the budget", (f"{name}: {', '.join(each)}" for name, each in texts.items()))


def spoken_training(steps: Sequence[Json]) -> str:
    """First and last share and price of each policy in words."""
    texts = []
    for name in dict.fromkeys(step["configuration"] for step in steps):
        own = [step for step in steps if step["configuration"] == name and step.get("price") is not None]
        if own:
            first, last = own[0], own[-1]
            shares = ""
            if first.get("share") is not None and last.get("share") is not None:
                shares = f"share {first['share']:.1%} at first, {last['share']:.1%} after {last['step']} steps, "
            texts.append(f"{name}: {shares}price {first['price']:.3g} at first, {last['price']:.3g} after them")
    return speak("Extended share and price of the budget at each training step", texts)


def spoken_name(row: Json) -> str:
    """A method and its budget in words."""
    return row["method"] if row["budget"] is None else f"{row['method']} at {row['budget']:.0%}"


def spoken_frontier(rows: Sequence[Json]) -> str:
    """The frontier of methods in words."""
    texts = (
        f"{spoken_name(row)}: {percent(row['accuracy'])} at {row['relative_cost']:.2f} times the cost"
        for row in rows
        if row["method"] in (*POINTS, "oracle by level")
    )
    return speak("Accuracy against cost", texts)


def inline_svg(key: str, svg: str, alt: str) -> Markup:
    """An SVG element that follows the page's light or dark theme and has an alternative text.

    Args:
        key: Put before every id, so that several figures can stand in one page.
        svg: The text of an SVG file.
        alt: What it shows, in words.
    """
    svg = svg[svg.index("<svg") :]
    for pattern in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        svg = re.sub(pattern, "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{key}-", svg)
    # Blue is too dim on a dark page.
    for colour, name in ((INK, "ink"), (PAPER, "paper"), (BLUE, "blue")):
        svg = svg.replace(colour, f"var(--{name})")
    head = re.compile(
        r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"|<svg ([^>]*?)width="[^"]*"([^>]*?)height="[^"]*"'
    )
    svg = head.sub(lambda m: "<svg " + " ".join(g for g in m.groups() if g), svg, count=1)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1))
