"""Figures of the report of one part, from its plain data: frontier, accuracy and share by level, budget kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from ibpo.evaluation.frontier import BLUE, BUDGET_COLOURS, FAINT, GREEN, INK, ORANGE, STYLE, plot_training

MARKERS = "osD^vPhX*<>p"
Json = Mapping[str, Any]
Out = Path | IO[bytes]


def plot_tradeoff(part: Json, path: Out, title: str = "") -> None:
    """Accuracy against mean cost of every configuration, 95 % intervals, beside random mix, votes and allocations."""
    rows = part["configurations"]

    def draw(axes: Axes) -> None:
        dearest = max(row["cost"]["value"] for row in rows)
        mix = part["mix"]
        if mix:
            cost = [point["cost"] for point in mix]
            axes.plot(
                cost, [p["line"] for p in mix], color=FAINT, linewidth=1.4, label="random mix, cheapest and dearest"
            )
            if any(p["best"] > p["line"] + 1e-9 for p in mix):
                axes.plot(
                    cost, [p["best"] for p in mix], color=FAINT, linestyle=":", linewidth=1.6, label="best random mix"
                )
        for name, colour, dashes in (("by problem", GREEN, (5, 2)), ("by level", ORANGE, (2, 2))):
            curve = sorted(part["oracles"].get(name, []), key=lambda p: p["cost"])
            if curve:
                x, y = [p["cost"] for p in curve], [p["accuracy"] for p in curve]
                bars = [_bars(p | {"value": p["accuracy"]}) for p in curve]
                label = f"allocated {name}, held out"
                axes.errorbar(
                    x, y, [[b[side][0] for b in bars] for side in (0, 1)], color=colour, linestyle="--", dashes=dashes,
                    marker=".", elinewidth=0.8, capsize=2, label=label, zorder=2,
                )  # fmt: skip
        for i, (name, points) in enumerate(part["votes"].items()):
            inside = [p for p in points if p["cost"] <= 1.15 * dearest]
            if len(inside) > 1:
                bars = [_bars(p["accuracy"]) for p in inside]
                axes.errorbar(
                    [p["cost"] for p in inside], [p["accuracy"]["value"] for p in inside],
                    [[b[side][0] for b in bars] for side in (0, 1)], color=_colour(i), alpha=0.75, linestyle="-.",
                    linewidth=1.2, elinewidth=0.7, marker="|", markersize=6, label=f"votes (maj@k), {name}",
                )  # fmt: skip
        for i, row in enumerate(rows):
            accuracy, cost = row["numbers"]["overall"]["all"]["pass@1"], row["cost"]
            axes.errorbar(
                [cost["value"]], [accuracy["value"]], _bars(accuracy), _bars(cost), color=_colour(i), capsize=3,
                marker=MARKERS[i % len(MARKERS)], markersize=8, markeredgecolor=INK, markeredgewidth=0.7,
                elinewidth=1.2, linestyle="", label=row["name"], zorder=4,
            )  # fmt: skip
        cheapest = min(row["cost"]["value"] for row in rows)
        if dearest > 8 * cheapest > 0:
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 10 else f"{x:g}"))
        axes.set_xlabel(f"Cost (mean {part['cost_unit']} per response)")
        axes.set_ylabel("Accuracy (pass@1)")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    _figure(draw, path, title, legend_columns=2)


def plot_levels(part: Json, path: Out, title: str = "") -> None:
    """Accuracy of every configuration by level, with 95 % intervals."""
    _plot_by_level(part["configurations"], part["levels"], "pass@1", "Accuracy (pass@1)", path, title)


def choosing(part: Json) -> list[Json]:
    """The configurations that choose by themselves: some of their responses are extended, not all."""
    shares = [(row, row["numbers"]["overall"]["all"].get("extended_share")) for row in part["configurations"]]
    return [row for row, share in shares if share is not None and 0 < share["value"] < 1]


def plot_choices(part: Json, path: Out, title: str = "") -> None:
    """Extended share by level of the configurations that choose by themselves, with 95 % intervals."""
    _plot_by_level(choosing(part), part["levels"], "extended_share", "Extended share", path, title)


def _plot_by_level(rows: Sequence[Json], levels: Sequence[str], metric: str, what: str, path: Out, title: str) -> None:
    """One metric of some configurations by level."""

    def draw(axes: Axes) -> None:
        for i, row in enumerate(rows):
            found = [(x, row["numbers"].get(f"level={level}")) for x, level in enumerate(levels)]
            known = [(x, one["all"][metric]) for x, one in found if one is not None]
            shift = 0.5 * ((i + 0.5) / len(rows) - 0.5)
            bars = [_bars(one) for _, one in known]
            axes.errorbar(
                [x + shift for x, _ in known], [one["value"] for _, one in known],
                [[b[0][0] for b in bars], [b[1][0] for b in bars]], color=_colour(i), linestyle="-", linewidth=0.9,
                marker=MARKERS[i % len(MARKERS)], markeredgecolor=INK, markeredgewidth=0.6, capsize=2,
                label=row["name"],
            )  # fmt: skip
        _by_level(axes, levels, what)

    _figure(draw, path, title)


def plot_shares(part: Json, path: Out, title: str = "") -> None:
    """Which configuration each level's problems get under the middle budget: stacked bars."""
    shares = part["share_by_level"]

    def draw(axes: Axes) -> None:
        levels, names = list(shares), [row["name"] for row in part["configurations"]]
        bottom = [0.0] * len(levels)
        for i, name in enumerate(names):
            height = [shares[level].get(name, 0.0) for level in levels]
            if name in part["among"]:
                hatch = ("", "//", "..", "xx", "\\\\", "++")[i % 6]
                axes.bar(
                    range(len(levels)), height, 0.75, bottom, color=_colour(i), hatch=hatch, edgecolor=INK,
                    linewidth=0.6, label=name,
                )  # fmt: skip
                bottom = [b + h for b, h in zip(bottom, height, strict=True)]
        _by_level(axes, levels, "Share of the problems")

    _figure(draw, path, title)


def plot_kept(part: Json, path: Out, title: str = "") -> None:
    """Extended share minus the budget of each configuration trained to keep one, with 95 % intervals."""
    rows = part["budget_kept"]

    def draw(axes: Axes) -> None:
        axes.axvspan(-1, 1, color=FAINT, alpha=0.3, linewidth=0, label="±1 percentage point")
        axes.axvline(0, color=INK, linewidth=0.8)
        for y, row in enumerate(rows):
            share = row["share"]
            bars = [[100 * b for b in side] for side in _bars(share)]
            at = 100 * (share["value"] - row["budget"])
            label = "unseen problems, 95 %" if y == 0 else None
            axes.errorbar([at], [y], xerr=bars, color=BLUE, marker="s", capsize=3, linestyle="", label=label)
        told = [(y, row) for y, row in enumerate(rows) if row.get("in_training") is not None]
        if told:
            at, place = [100 * (row["in_training"] - row["budget"]) for _, row in told], [y + 0.25 for y, _ in told]
            axes.plot(at, place, color=ORANGE, marker="D", linestyle="", label="in training, last tenth of the steps")
        axes.set_yticks(range(len(rows)), [f"{row['name']} (q+ {row['budget']:.0%})" for row in rows])
        axes.margins(y=0.3)
        axes.set_xlabel("Extended share − budget (points)")

    _figure(draw, path, title)


def plot_training_of(part: Json, path: Out) -> None:
    """Share and price of each configuration while it was trained."""
    plot_training([step | {"seed": step["configuration"]} for step in part["training"]], path)


def _colour(i: int) -> str:
    return BUDGET_COLOURS[(4, 5, 2, 1, 0, 3)[i % 6]]


def _bars(estimate: Json) -> list[list[float]]:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if low is None or high is None:
        return [[0.0], [0.0]]
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]]


def _figure(draw: Any, path: Out, title: str, legend_columns: int = 3) -> None:
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        axes: Axes = figure.subplots()
        draw(axes)
        if title:
            axes.set_title(title, loc="left")
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            longest = max(map(len, labels))
            columns = min(legend_columns, len(labels), 1 if longest > 40 else 2 if longest > 18 else 3)
            figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)
        kind = path.suffix.lstrip(".") if isinstance(path, Path) else "svg"
        figure.savefig(path, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)


def spoken_tradeoff(part: Json) -> str:
    """The frontier in words, for those who cannot see it."""
    texts = []
    for row in part["configurations"]:
        accuracy = row["numbers"]["overall"]["all"]["pass@1"]["value"]
        texts.append(f"{row['name']}: {accuracy:.1%} at {row['cost']['value']:,.0f} {part['cost_unit']}")
    for name, curve in part["oracles"].items():
        points = ", ".join(f"{p['accuracy']:.1%} at {p['cost']:,.0f}" for p in curve)
        texts.append(f"allocated {name}: {points}")
    return "Accuracy against cost. " + "; ".join(texts) + "."


def spoken_levels(part: Json) -> str:
    """Accuracy by level in words."""
    texts = []
    for row in part["configurations"]:
        found = [(level, row["numbers"].get(f"level={level}")) for level in part["levels"]]
        numbers = ", ".join(f"{level} {one['all']['pass@1']['value']:.0%}" for level, one in found if one)
        texts.append(f"{row['name']}: {numbers}")
    return "Accuracy by level. " + "; ".join(texts) + "."


def spoken_choices(part: Json) -> str:
    """Extended share by level in words."""
    texts = []
    for row in choosing(part):
        found = [(level, row["numbers"].get(f"level={level}")) for level in part["levels"]]
        numbers = ", ".join(f"{level} {one['all']['extended_share']['value']:.0%}" for level, one in found if one)
        texts.append(f"{row['name']}: {numbers}")
    return "Extended share by level. " + "; ".join(texts) + "."


def spoken_shares(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Who gets what in words."""
    texts = [f"{level}: " + ", ".join(f"{n} {s:.0%}" for n, s in one.items()) for level, one in shares.items()]
    return "Share of each configuration by level. " + "; ".join(texts) + "."


def spoken_kept(rows: Sequence[Json]) -> str:
    """Distance from the budget in words."""
    texts = []
    for row in rows:
        text = f"{row['name']}: {100 * (row['share']['value'] - row['budget']):+.1f} points"
        if row.get("in_training") is not None:
            text += f" (in training {100 * (row['in_training'] - row['budget']):+.1f})"
        texts.append(text)
    return "Extended share minus the budget. " + "; ".join(texts) + "."


def spoken_training(steps: Sequence[Json]) -> str:
    """First and last price of each policy in words."""
    texts = []
    for name in dict.fromkeys(step["configuration"] for step in steps):
        own = [step for step in steps if step["configuration"] == name and step.get("price") is not None]
        if own:
            texts.append(
                f"{name}: {own[0]['price']:.3g} at first, {own[-1]['price']:.3g} after {own[-1]['step']} steps"
            )
    return "Extended share and price of the budget at each training step. " + "; ".join(texts) + "."


def _by_level(axes: Axes, levels: Sequence[str], what: str) -> None:
    axes.set_xticks(range(len(levels)), levels, rotation=30 if len(levels) > 6 else 0)
    axes.set_xlabel("Level")
    axes.set_ylabel(what)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
