"""Axes and labels of pictures: ticks that are readable numbers, and names that lie on nothing else.

Both are found when everything has its place: `finish` is called once, before a figure is printed.
"""

# matplotlib ships no types for what is used here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, Locator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

LOG_FROM = 8.0
"""An axis is logarithmic where its largest cost is more than so many times its smallest."""
MOST_TICKS, LEAST_TICKS = 8, 2
SUBS = ((1, 2, 5), (1, 3), (1,))
"""Digits of the ticks in each decade, the densest first."""
LETTERS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
MARK = 5.0
"""Half a mark, in points."""


def tick_texts(values: Sequence[float]) -> list[str]:
    """The numbers of one axis, short, and no two alike.

    Example:
        >>> tick_texts([1, 10, 100, 1000, 10_000, 1_000_000]), tick_texts([0, 5000, 10_000, 12_500])
        (['1', '10', '100', '1k', '10k', '1M'], ['0', '5k', '10k', '12.5k'])
        >>> tick_texts([10_020, 10_040]), tick_texts([0.002, 0.005]), tick_texts([99.5, 100])
        (['10,020', '10,040'], ['0.002', '0.005'], ['99.5', '100'])
    """
    return [_short(value) or _plain(value) for value in values] if _all_short(values) else [*map(_plain, values)]


def _all_short(values: Sequence[float]) -> bool:
    """Whether no number needs more than three digits before its letter; else all are written out."""
    return all(abs(value) < 1000 or _short(value) for value in values)


def _short(value: float) -> str:
    for size, letter in LETTERS:
        if abs(value) >= size:
            text = f"{value / size:.3g}"
            exact = math.isclose(float(text) * size, value, rel_tol=1e-9) and "e" not in text
            return f"{text}{letter}".replace("-", "−") if exact else ""
    return ""


def _plain(value: float) -> str:
    if value and abs(value) < 1e-6:
        return f"{value:.3g}".replace("-", "−")
    text = f"{value:,.9f}".rstrip("0").rstrip(".")  # ticks are round numbers: what is left are their digits
    return text.replace("-", "−") if text not in ("-0", "") else "0"


class CostTicks(Locator):
    """Round numbers, as many as fit: 1, 2, 5, 10 on a logarithmic axis, evenly spaced ones on a linear axis."""

    def __init__(self, *, is_log: bool) -> None:
        """At most `MOST_TICKS`; `most` may be set lower."""
        self.is_log, self.most = is_log, MOST_TICKS

    def __call__(self) -> Any:
        """The ticks of the axis as it is now."""
        return self.tick_values(*cast(Any, self.axis).get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """The ticks between two ends.

        Example:
            >>> CostTicks(is_log=True).tick_values(4, 90).tolist()
            [5.0, 10.0, 20.0, 50.0]
            >>> CostTicks(is_log=True).tick_values(0.9, 1.1e6).tolist()
            [1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0, 1000000.0]
            >>> CostTicks(is_log=False).tick_values(100, 101).tolist()
            [100.0, 100.2, 100.4, 100.6, 100.8, 101.0]
        """
        low, high = sorted((float(vmin), float(vmax)))
        if self.is_log and low > 0 and high > 2 * low:
            for ticks in _log_ticks(low, high):
                if len(ticks) <= self.most:
                    if len(ticks) >= LEAST_TICKS:
                        return np.array(ticks)
                    break  # sparser ones are still fewer
        return np.array(_even_ticks(low, high, self.most))


def _even_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, as many as may be."""
    power = math.floor(math.log10(max(high - low, 1e-300) / max(most, 1)))
    for sub, more in ((1, 0), (2, 0), (5, 0), (1, 1), (2, 1), (5, 1), (1, 2)):
        step = float(f"{sub}e{power + more}")
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    # Rounding: 100.60000000000001 is written out otherwise.
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[list[float]]:
    """Ticks of a logarithmic axis, the densest first: of each decade, then of every second and third one, ..."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1)
    found = [[float(f"{sub}e{n}") for n in decades for sub in subs] for subs in SUBS]
    found += [[float(f"1e{n}") for n in decades if n % step == 0] for step in range(2, last - first + 1)]
    edge = 1 + 1e-9
    return [[tick for tick in ticks if low / edge <= tick <= high * edge] for ticks in found]


class CostTexts(Formatter):
    """The numbers of `tick_texts`, each with a unit behind it."""

    def __init__(self, unit: str = "") -> None:
        """`unit`: what is behind each number, e.g. a times sign."""
        self.unit = unit

    def __call__(self, x: float, pos: Any = None) -> str:
        """One number."""
        return tick_texts([x])[0] + self.unit

    def format_ticks(self, values: Any) -> list[str]:
        """The numbers of an axis."""
        return [text + self.unit for text in tick_texts([float(value) for value in values])]


def cost_axis(axes: Any, costs: Sequence[float], unit: str = "", *, log_from: float = LOG_FROM) -> None:
    """Make the x axis one of costs: logarithmic where they span more than so many times, ticks as above.

    Args:
        axes: What is drawn on.
        costs: Every cost that is shown.
        unit: What is behind each number.
        log_from: The largest cost is more than so many times the smallest on a logarithmic axis.
    """
    least, most = min(costs), max(costs)
    is_log = most > log_from * least > 0
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif most - least <= 1e-9 * max(abs(most), abs(least)):  # one cost alone: matplotlib would show a millionth of it
        reach = 0.1 * abs(most) or 1.0
        axes.set_xlim(least - reach, most + reach)
    axes.xaxis.set_major_locator(CostTicks(is_log=is_log))
    axes.xaxis.set_major_formatter(CostTexts(unit))


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A name to put next to a point."""

    text: str
    x: float
    y: float
    colour: str
    size: float = 9.0


def finish(figure: Figure, labels: Sequence[tuple[Any, Sequence[Label]]] = ()) -> None:
    """Lay the figure out, thin out ticks that would touch, and put each label where it covers nothing.

    Args:
        figure: All of it is drawn but the labels.
        labels: (axes, its labels).
    """
    figure.draw_without_rendering()
    thinned = False
    for axes in figure.axes:
        locator = axes.xaxis.get_major_locator()
        while isinstance(locator, CostTicks) and locator.most > LEAST_TICKS and _touch(axes):
            locator.most -= 1
            thinned = True
    if thinned:
        figure.draw_without_rendering()
    for axes, own in labels:
        _place(axes, own)


def _touch(axes: Any) -> bool:
    """Whether two numbers of the x axis stand closer than a space."""
    ticks = axes.xaxis.get_major_ticks(len(axes.xaxis.get_majorticklocs()))
    texts = axes.xaxis.get_major_formatter().format_ticks(axes.xaxis.get_majorticklocs())
    boxes = []
    for tick, text, place in zip(ticks, texts, axes.xaxis.get_majorticklocs(), strict=True):
        tick.label1.set_text(text)
        x = axes.transData.transform((place, axes.get_ylim()[0]))[0]
        width = tick.label1.get_window_extent().width
        boxes.append((x - width / 2, x + width / 2))
    gap = 0.06 * axes.figure.dpi
    return any(right + gap > left for (_, right), (left, _) in pairwise(boxes))


AROUND = [(math.cos(math.pi * turn), math.sin(math.pi * turn)) for turn in (0.25, 0.75, -0.25, -0.75, 0.5, -0.5, 0, 1)]
"""Directions from a point in which its label may stand, the best first."""
LEADER = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
"""The line from a label that stands far off to its point."""
DISTANCES = (7.0, 14.0, 24.0, 36.0, 52.0)


def _place(axes: Any, labels: Sequence[Label]) -> None:
    frame, scale = axes.get_window_extent(), axes.figure.dpi / 72
    marks, paths = _drawn(axes, scale)
    taken: list[Bbox] = []
    leaders = np.zeros((0, 2))
    for label in labels:
        x, y = axes.transData.transform((label.x, label.y))
        probe = axes.text(0, 0, label.text, fontsize=label.size)
        size = probe.get_window_extent()
        probe.remove()
        best, found, shift = math.inf, None, (0.0, 0.0)
        for far in DISTANCES:
            for right, up in AROUND:
                # The nearest corner or edge of the text stands that far from the point.
                left = x + far * scale * right - size.width * (0.5 - 0.5 * right / max(abs(right), 0.7))
                low = y + far * scale * up - size.height * (0.5 - 0.5 * up / max(abs(up), 0.7))
                box = Bbox.from_bounds(left, low, size.width, size.height)
                cost = _cost(box, frame, taken, marks, paths) + far / 4
                line = _leader(box, x, y)
                cost += 50.0 * _inside(box, leaders) + 50.0 * sum(_inside(other, line) for other in taken)
                if cost < best:
                    best, found, shift = cost, box, ((left - x) / scale, (low - y) / scale)
        assert found is not None
        taken.append(found)
        leaders = np.concatenate([leaders, _leader(found, x, y)])
        gaps = max(found.x0 - x, x - found.x1, 0.0), max(found.y0 - y, y - found.y1, 0.0)
        away = math.hypot(*gaps) > DISTANCES[1] * 0.9 * scale
        axes.annotate(
            label.text, (label.x, label.y), xytext=shift, textcoords="offset points", fontsize=label.size,
            color=label.colour, ha="left", va="bottom", annotation_clip=False,
            arrowprops=LEADER | {"color": label.colour} if away else None,
        )  # fmt: skip


def _leader(box: Bbox, x: float, y: float) -> NDArray[Any]:
    """Points of the line from a label's middle to its point, outside the label."""
    middle = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    points = middle + np.linspace(0, 1, 25)[:, None] * (np.array([x, y]) - middle)
    outside = ~(
        (box.x0 <= points[:, 0]) & (points[:, 0] <= box.x1) & (box.y0 <= points[:, 1]) & (points[:, 1] <= box.y1)
    )
    return points[outside]


def _cost(box: Bbox, frame: Bbox, taken: Sequence[Bbox], marks: NDArray[Any], paths: NDArray[Any]) -> float:
    """How bad a place is: outside the frame or on another label, on a mark, on a line."""
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    cost = 0.0 if inside else 1000.0
    cost += sum(1000.0 for other in taken if box.overlaps(other.padded(1)))
    return cost + 100.0 * _inside(box, marks) + 4.0 * _inside(box, paths)


def _inside(box: Bbox, points: NDArray[Any]) -> int:
    if not len(points):
        return 0
    x, y = points.T
    return int(((x >= box.x0) & (x <= box.x1) & (y >= box.y0) & (y <= box.y1)).sum())


def _drawn(axes: Any, scale: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixels of the marks (their middle and edge), and of lines and bars, some for every few points of their length."""
    marks: list[Any] = []
    paths: list[Any] = []
    for line in axes.lines:
        if line.get_transform() != axes.transData:
            continue
        points = axes.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
        points = points[np.isfinite(points).all(1)]
        if line.get_marker() not in ("", " ", "None", None, "_", "|"):
            reach = MARK * scale
            around = [(0, 0), (reach, 0), (-reach, 0), (0, reach), (0, -reach)]
            marks += [(x + dx, y + dy) for x, y in points.tolist() for dx, dy in around]
        if line.get_linestyle() not in ("", " ", "None", "none"):
            paths += _along(points, scale)
    for collection in axes.collections:
        if hasattr(collection, "get_segments"):
            for segment in collection.get_segments():
                paths += _along(axes.transData.transform(segment), scale)
    return np.array(marks).reshape(-1, 2), np.array(paths).reshape(-1, 2)


def _along(points: NDArray[Any], scale: float) -> list[Any]:
    found: list[Any] = []
    for a, b in pairwise(points):
        steps = min(int(np.hypot(*(b - a)) / (3 * scale)) + 1, 500)
        found += (a + (b - a) * np.linspace(0, 1, steps + 1)[:, None]).tolist()
    return found
