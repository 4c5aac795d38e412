"""Pictures: ticks are readable numbers that do not touch, names cover nothing, whatever the costs."""

import itertools
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from ibpo.evaluation.axes import CostTicks, Label, cost_axis, finish, tick_texts
from ibpo.evaluation.comparison import compare
from ibpo.evaluation.report import figures
from ibpo.evaluation.responses import Responses

COSTS = {
    "one": [5.0],
    "within 1 %": [100.0, 100.4, 101.0],
    "large, within 1 %": [1_000_000.0, 1_004_000.0, 1_009_000.0],
    "some": [1.0, 2.2, 7.0],
    "a decade": [5.0, 47.0, 81.0],
    "two decades": [12.0, 300.0, 1900.0],
    "1 to 1e6": [1.0, 900.0, 1e6],
    "a cent": [0.00012, 0.0031, 0.0125],
    "nothing and more": [0.0, 40.0, 900.0],
    "nothing": [0.0, 0.0],
    "twelve decades": [1e-6, 1.0, 1e6],
}


def overlap(one, other, gap=0.0):
    return one.x0 < other.x1 + gap and other.x0 < one.x1 + gap and one.y0 < other.y1 and other.y0 < one.y1


def ticks_of(axes):
    """The boxes and texts of the x axis' numbers that lie in its range."""
    low, high = sorted(axes.get_xlim())
    found = [
        (tick.label1.get_text(), tick.label1.get_window_extent())
        for tick in axes.xaxis.get_major_ticks()
        if low <= tick.get_loc() <= high and tick.label1.get_text()
    ]
    return [text for text, _ in found], [box for _, box in found]


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS)
def test_numbers_of_a_cost_axis_are_readable_and_do_not_touch(costs):
    figure = Figure(figsize=figures.PANEL, layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(costs, np.linspace(0.2, 0.8, len(costs)), "o")
    cost_axis(axes, costs)
    finish(figure)
    figure.draw_without_rendering()
    texts, boxes = ticks_of(axes)
    assert 2 <= len(texts) <= 8 and len(set(texts)) == len(texts), texts
    assert not any(overlap(*pair, gap=2) for pair in itertools.combinations(boxes, 2)), texts
    assert not any("$" in text or "e" in text or "\N{MULTIPLICATION SIGN}" in text for text in texts), texts
    assert all(box.x0 >= -0.5 and box.x1 <= figure.bbox.width + 0.5 for box in boxes)


def test_the_numbers_of_wide_and_narrow_ranges():
    def ticks(low, high, *, is_log):
        return tick_texts(CostTicks(is_log=is_log).tick_values(low, high).tolist())

    assert ticks(0.9, 12, is_log=True) == ["1", "2", "5", "10"]
    assert ticks(900, 21_000, is_log=True) == ["1k", "2k", "5k", "10k", "20k"]
    assert ticks(0.8, 1.2e6, is_log=True) == ["1", "10", "100", "1k", "10k", "100k", "1M"]
    assert ticks(1e-6, 1e6, is_log=True) == ["0.000001", "0.0001", "0.01", "1", "100", "10k", "1M"]
    assert ticks(999_000, 1_010_000, is_log=False)[:2] == ["1,000,000", "1,002,000"]
    assert ticks(0.6, 8.4, is_log=False) == ["1", "2", "3", "4", "5", "6", "7", "8"]


def boxes_of(axes):
    """Of the words; lines that lead to a point may cross."""
    axes.figure.draw_without_rendering()
    for text in axes.texts:
        text.update_positions(axes.figure.canvas.get_renderer())
    return [Text.get_window_extent(text) for text in axes.texts]


@pytest.mark.parametrize("spread", [0.5, 0.05, 0.0])
def test_names_cover_neither_each_other_nor_a_mark_nor_the_frame(spread):
    """Even of points that lie nearly, or wholly, on one another."""
    figure = Figure(figsize=figures.PANEL, layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = [(0.5 + spread * np.cos(i), 0.5 + spread * np.sin(i)) for i in range(6)]
    for x, y in places:
        axes.errorbar([x], [y], yerr=0.1, fmt="o")
    axes.plot([0, 1], [0, 1])
    labels = [Label(text=f"budget {i}", x=x, y=y, colour="#000000") for i, (x, y) in enumerate(places)]
    finish(figure, [(axes, labels)])
    found = boxes_of(axes)
    assert len(found) == 6 and not any(overlap(*pair) for pair in itertools.combinations(found, 2))
    frame = axes.get_window_extent()
    for box in found:
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        for point in places:
            x, y = axes.transData.transform(point)
            assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1)


def responses(costs, num_problems=12):
    return Responses.from_rows(
        [
            {"problem": f"p{p}", "configuration": f"way {i}", "reward": float((p + i * n) % 3 == 0), "answer": "1"}
            | {"tokens": cost + p % 2, "level": str(p % 3)}
            for i, cost in enumerate(costs)
            for p in range(num_problems)
            for n in range(2)
        ]
    )


@pytest.mark.parametrize("costs", [[100.0, 101.0], [1.0, 1000.0, 1e6], [5.0, 47.0, 80.0]])
def test_the_frontier_of_a_report_is_drawn_for_any_range_of_costs(costs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "FigureCanvasAgg", lambda figure: drawn.append(figure) or FigureCanvasAgg(figure))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # among them: a layout that has no room
        figures.plot_tradeoff(
            compare(responses(costs)) | {"cost_unit": "tokens"}, [tmp_path / "f.png", tmp_path / "f.svg"]
        )
    (axes,) = drawn[0].axes
    texts, boxes = ticks_of(axes)
    assert len(texts) >= 2 and not any(overlap(*pair, gap=2) for pair in itertools.combinations(boxes, 2)), texts


def test_fifteen_configurations_of_long_names_leave_room_for_the_picture(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "FigureCanvasAgg", lambda figure: drawn.append(figure) or FigureCanvasAgg(figure))
    part = compare(responses([10.0, 20.0], num_problems=6))
    like = part["configurations"][0]
    part["configurations"] = [
        like | {"name": f"way {i} {'of a very long name ' * 4}", "cost": like["cost"] | {"value": 10.0 * 1.5**i}}
        for i in range(15)
    ]
    figures.plot_tradeoff(part | {"cost_unit": "tokens", "votes": {}}, tmp_path / "f.png")
    figure = drawn[0]
    (axes,), (legend,) = figure.axes, figure.legends
    frame, box = axes.get_window_extent(), legend.get_window_extent()
    assert frame.height > 2.4 * figure.dpi and frame.width > 3.2 * figure.dpi
    assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y1 <= frame.y0
