"""Figures: the frontier of accuracy against cost, who got the budget, whether it was kept, and the training curves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ibpo.evaluation.compare import Row, mean_over_seeds
from ibpo.evaluation.statistics import rate_interval

INK, PAPER, FAINT = "#1f2329", "#fefefd", "#7d838a"
"""Text and axes; background; guides. The report replaces the first two to follow the reader's light or dark theme."""
# Okabe and Ito's palette, which readers with any kind of colour blindness can tell apart; markers differ as well.
SKY, BLUE, GREEN, ORANGE, VERMILLION, PURPLE = "#56b4e9", "#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7"
BUDGET_COLOURS = (SKY, ORANGE, PURPLE, GREEN, BLUE, VERMILLION)
PANEL = (5.4, 4.3)
STYLE: Any = {
    "font.size": 11,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "ibpo",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


POINTS: dict[str, dict[str, Any]] = {
    "standard only": {"color": INK, "marker": "o"},
    "extended only": {"color": INK, "marker": "h", "markersize": 8},
    "RAFT without budget": {"color": PURPLE, "marker": "D"},
    "IBPO sampled": {"color": GREEN, "marker": "s", "markerfacecolor": PAPER, "markeredgewidth": 1.8},
    "IBPO calibrated": {"color": VERMILLION, "marker": "P", "markersize": 8.5},
}
SHAPES = "<>*Xdp8H"
"""Of the other baselines; none of those above, and none of the votes'."""
DRAWN_OTHERWISE = ("random mix", "oracle by level", "self-consistency", "IBPO forced", "RAFT forced")


def families(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Other baselines, their strengths brought together: the method's name up to its comma or number.

    Example:
        >>> families({"method": name} for name in ("GRPO", "ASV-SFT-0.5", "ASV-SFT-1", "random mix")).keys()
        dict_keys(['GRPO', 'ASV-SFT'])
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["method"] not in POINTS and not row["method"].startswith(DRAWN_OTHERWISE):
            name = re.sub(r",? ?-?[0-9.]+$", "", row["method"])
            found.setdefault(name, []).append(row)
    return found


def plot_frontier(rows: Iterable[Row], path: Path | IO[bytes], titles: Mapping[str, str] | None = None) -> None:
    """Accuracy (bars: 95 % intervals, clustered by problem) against cost, one panel per experiment; means over seeds.

    Self-consistency is cut off somewhat beyond the dearest other method.

    Args:
        rows: As `Comparison.rows`, of any number of experiments and seeds.
        path: Where to write; the suffix decides the format, a file object gets SVG.
        titles: Experiment -> title of its panel.
    """
    merged = mean_over_seeds(rows)

    def draw(axes: Axes, experiment: str) -> None:
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
        for i, (name, points) in enumerate(families(own).items()):
            label = name.replace("self-consistency", "votes")
            _curve(axes, points, label, linewidth=0.8, zorder=2, **_family_style(i))
        for method, style in POINTS.items():
            label = method + " (its q+ beside it)" * (method == "IBPO calibrated")
            _points(axes, [row for row in own if row["method"] == method], label, style)
        for i, row in enumerate(row for row in own if row["method"] == "IBPO calibrated"):
            # On either side in turn: where the budget has slack, two policies cost nearly the same.
            label, where = f"{row['budget']:.0%}", (row["relative_cost"], row["accuracy"])
            offset, side = ((7, 5), "left") if i % 2 == 0 else ((-7, 5), "right")
            axes.annotate(label, where, offset, textcoords="offset points", fontsize=9.5, color=INK, ha=side)
        axes.set_xlim(left=min(0.9, *(row["relative_cost"] for row in others)), right=right)
        axes.set_xlabel("Cost (mean tokens, × one standard response)")
        axes.set_ylabel("Accuracy on unseen problems")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    _panels([row["experiment"] for row in merged], draw, path, titles)


def plot_share_by_level(rows: Iterable[Row], path: Path | IO[bytes], titles: Mapping[str, str] | None = None) -> None:
    """Who got the budget: extended share by level (bars) over what extended responses gain there (outline).

    Of the calibrated policies where there are any, else of the sampled ones; means over seeds.
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
            axes.bar(place, share, 0.9 * width, color=colour, label=label, zorder=0)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xticks(range(len(levels)), levels)
        axes.set_xlabel("Level")
        axes.set_ylabel("Extended share; gain of accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    _panels([row["experiment"] for row in merged], draw, path, titles)


def plot_budget_kept(
    rows: Iterable[Row],
    path: Path | IO[bytes],
    titles: Mapping[str, str] | None = None,
    in_training: Sequence[tuple[str, float, float]] = (),
) -> None:
    """Extended share on unseen problems minus the budget q+, with a band of one percentage point; a mark per seed.

    `in_training` has (experiment, budget, share) at the end of each policy's training, to set beside it.
    """
    rows = list(rows)

    def draw(axes: Axes, experiment: str) -> None:
        own = [row for row in rows if row["experiment"] == experiment]
        axes.axhspan(-1, 1, color=FAINT, alpha=0.3, linewidth=0, label="±1 percentage point")
        axes.axhline(0, color=INK, linewidth=0.8)
        for method, shift, style in (
            ("IBPO sampled", -0.006, {"color": GREEN, "marker": "s", "markerfacecolor": PAPER, "markeredgewidth": 1.8}),
            ("IBPO calibrated", 0.006, {"color": VERMILLION, "marker": "P", "markersize": 8.5}),
        ):
            picked = [row for row in own if row["method"] == method]
            budgets = [row["budget"] + shift for row in picked]
            error = [100 * (row["extended_share"] - row["budget"]) for row in picked]
            if picked:
                axes.plot(budgets, error, linestyle="", label=method, **style)
        trained = [(q, 100 * (share - q)) for name, q, share in in_training if name == experiment]
        if trained:
            at, error = [q + 0.018 for q, _ in trained], [one for _, one in trained]
            axes.plot(at, error, linestyle="", label="in training", color=ORANGE, marker="D", markersize=5)
        ticks = sorted({row["budget"] for row in own if row["budget"] is not None})
        axes.set_xticks(ticks, [f"{q:.0%}" for q in ticks])
        axes.margins(x=0.15)
        axes.set_xlabel("Budget q+")
        axes.set_ylabel("Share − q+ (points)")

    _panels([row["experiment"] for row in rows], draw, path, titles, legend_columns=3, height=3.0)


def plot_training(steps: Sequence[Mapping[str, Any]], path: Path | IO[bytes]) -> None:
    """Share (left, dashed: the budget) and price (right) per step; one line per policy, of one experiment.

    Args:
        steps: One entry per step and policy: `seed`, `budget`, `step`, `share`, `price`.
        path: As for `plot_frontier`.
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
            axes.plot(steps_x, value, color=colours[q], linewidth=1.4, label=None if label in old else label)
        for q in budgets if key == "share" else ():
            axes.axhline(q, color=colours[q], linestyle="--", linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("Step")

    _panels(["Share", "Price"], draw, path, {"Share": "Extended share while training", "Price": "Price of the budget"})


def _family_style(i: int) -> dict[str, Any]:
    """No two of 16 families look alike: eight shapes, filled, then hollow; colours alone would repeat after six."""
    color = BUDGET_COLOURS[(i + i // len(SHAPES)) % len(BUDGET_COLOURS)]
    hollow = i // len(SHAPES) % 2 == 1
    inside = {"markerfacecolor": PAPER, "markeredgecolor": color, "markeredgewidth": 1.3} if hollow else {
        "markeredgecolor": INK, "markeredgewidth": 0.5
    }  # fmt: skip
    return {"color": color, "marker": SHAPES[i % len(SHAPES)], **inside}


def _curve(axes: Axes, rows: Sequence[Row], label: str, **style: Any) -> None:
    ordered = sorted(rows, key=lambda row: row["relative_cost"])
    cost, accuracy = [row["relative_cost"] for row in ordered], [row["accuracy"] for row in ordered]
    if ordered and style.get("marker"):
        axes.errorbar(cost, accuracy, _reach(ordered), label=label, elinewidth=0.7, **style)
    elif ordered:
        axes.plot(cost, accuracy, label=label, **style)


def _points(axes: Axes, rows: Sequence[Row], label: str, style: Mapping[str, Any]) -> None:
    cost, accuracy = ([row[key] for row in rows] for key in ("relative_cost", "accuracy"))
    if rows:
        axes.errorbar(
            cost, accuracy, _reach(rows), linestyle="", capsize=3, elinewidth=1.2, label=label, zorder=3, **style
        )


def _reach(rows: Sequence[Row]) -> list[list[float]]:
    """How far the 95 % interval of each row's accuracy goes down, and up."""
    ends = [rate_interval(row["accuracy"], row["stderr"], row["num_problems"]) for row in rows]
    down = [max(row["accuracy"] - low, 0.0) for row, (low, _) in zip(rows, ends, strict=True)]
    return [down, [max(high - row["accuracy"], 0.0) for row, (_, high) in zip(rows, ends, strict=True)]]


def _fitting(labels: Sequence[str], most: int, inches: float) -> int:
    """Columns of a legend that fit; labels fill them one after the other.

    Example:
        >>> _fitting(["GRPO"] * 8, 4, 10.8), _fitting(["adaptive votes (pretrained), consensus"] * 8, 4, 10.8)
        (4, 3)
    """
    for columns in range(most, 1, -1):
        lines = -(-len(labels) // columns)
        widths = [0.6 + 0.075 * max(map(len, labels[i : i + lines])) for i in range(0, len(labels), lines)]
        if sum(widths) <= inches:
            return columns
    return 1


def _panels(
    names: Iterable[str],
    draw: Callable[[Axes, str], None],
    path: Path | IO[bytes],
    titles: Mapping[str, str] | None,
    legend_columns: int = 2,
    height: float = PANEL[1],
) -> None:
    """One panel per name side by side, one legend for all below."""
    panels = list(dict.fromkeys(names))
    if not panels:
        raise ValueError("nothing to plot")
    with rc_context(STYLE):
        figure = Figure(figsize=(PANEL[0] * len(panels), height + 0.5), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        labelled: dict[str, Any] = {}
        for axes, name in zip(grid, panels, strict=True):
            draw(axes, name)
            axes.set_title((titles or {}).get(name, name), loc="left")
            handles, labels = axes.get_legend_handles_labels()
            labelled = dict(zip(labels, handles, strict=True)) | labelled
        columns = legend_columns if len(panels) == 1 else 2 * legend_columns
        columns = _fitting(list(labelled), min(columns, 4), figure.get_figwidth()) if len(panels) > 1 else columns
        # Room for a long legend, which would be taken from the panels.
        lines = -(-len(labelled) // columns)
        if lines > 5:
            width = max(1.35 * PANEL[0], PANEL[0] * len(panels))
            figure.set_size_inches(width, height + 0.5 + 0.22 * (lines - 5))
        figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=columns, fontsize=10)
        kind = path.suffix.lstrip(".") if isinstance(path, Path) else "svg"
        figure.savefig(path, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
