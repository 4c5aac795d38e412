"""What results show in a notebook and in a terminal."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import ibpo
from ibpo import testing
from ibpo.errors import IbpoError
from ibpo.evaluation import Responses, compare
from ibpo.pictures import Mark, chart

UTILITY, PROBLEM, COST = [0, 1, 0, 0.5, 0, 0], [7, 7, 8, 8, 9, 9], [0, 1, 0, 1, 0, 1]


class Balanced(HTMLParser):
    """Fails where a tag is not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(html):
    parser = Balanced()
    parser.feed(html)
    assert parser.open == [] and not parser.seen & {"script", "img", "link", "iframe", "object"}
    assert not re.search(r"\bhttps?://(?!www\.w3\.org/2000/svg)|url\(|@import|\bon\w+=", html)
    assert "prefers-color-scheme:dark" in html and "data-jp-theme-light=false" in html
    return parser.seen


def evaluation_of(names):
    policy = testing.FakePolicy(
        tokens={name: 50.0 * (i + 1) for i, name in enumerate(names)},
        accuracy={name: (i + 1) / (len(names) + 1) for i, name in enumerate(names)},
    )
    return compare(Responses.of_table(testing.responses(policy, num_problems=30, num_each=2).rows))


def test_a_frontier_shows_its_curve_and_its_value_at_five_budgets():
    curve = ibpo.frontier(UTILITY, PROBLEM, COST)
    html = curve._repr_html_()
    assert {"svg", "table"} <= check(html) and "3 points for 3 problems" in html
    assert repr(curve) == "Frontier(3 points, num_problems=3, spent=0..0.666667, value=0..0.5)"
    assert str(curve).splitlines()[-1].split() == ["0.6667", "0.5", "0", "100.0%"]
    one = ibpo.frontier([1.0], ["p"], [5.0])  # nothing to choose
    assert check(one._repr_html_()) and str(one).splitlines()[-1].split() == ["5", "1", "0"]


def test_an_allocation_shows_what_it_spent_of_each_budget():
    found = ibpo.allocate(UTILITY, PROBLEM, [COST, [3, 4, 3, 4, 3, 4]], budget=["1/3", None], at_least=[0.1, None])
    assert found.budget.tolist() == pytest.approx([1 / 3, np.inf]) and found.at_least.tolist() == [0.1, 0]
    assert found.num_problems == 3
    html = found._repr_html_()
    assert {"svg", "table"} <= check(html) and "chose 3 of 6 responses to 3 problems" in html
    assert "proved to be the best" in html and "no limit" in html
    assert str(found).splitlines()[3].split() == ["budget", "0", "0.3333", "0.1", "0.3333", "100.0%", "0.5"]
    assert "budget=[0.333333, inf]" in repr(found) and "\n" not in repr(found)


def test_an_evaluation_shows_its_configurations_and_stays_plain_data():
    import json

    names = ["<script>alert(1)</script>", "a & b", 'quo"te', "x" * 500]
    found = evaluation_of(names)
    html = found._repr_html_()
    assert {"svg", "table"} <= check(html)
    assert "<script" not in html and "&lt;script&gt;" in html and "a &amp; b" in html and "x" * 61 not in html
    assert json.loads(json.dumps(found)) == found and isinstance(found, dict)
    assert repr(found) == "Evaluation(4 configurations on 30 problems)"
    assert "standard" in str(found).splitlines()[2]


def test_the_size_does_not_follow_the_data():
    many = 20_000
    rng = np.random.default_rng(0)
    problem, cost = np.repeat(np.arange(many // 2), 2), np.tile([1.0, 9.0], many // 2)
    curve = ibpo.frontier(rng.random(many), problem, cost)
    found = ibpo.allocate(rng.random(many), problem, cost, budget=5)
    assert len(curve.spent) > 2_000
    assert len(curve._repr_html_()) < 10_000 and len(found._repr_html_()) < 10_000 and len(repr(found)) < 300
    found = evaluation_of(["a", "b"])
    found["configurations"] = found["configurations"] * 15
    html = found._repr_html_()
    assert html.count("<tr>") == 1 + 12 and "and 19 more" in html


def test_names_lie_neither_on_marks_nor_on_each_other():
    marks = [Mark(x=100 + 37 * i, y=0.2 + 0.7 * (i / 15) ** 0.5, name=f"configuration {i}") for i in range(16)]
    svg = chart([], marks, x_label="x", y_label="y", what="marks")
    names = re.findall(r'class="ibpo-at" x="([\d.]+)" y="([\d.]+)">([^<]+)', svg)
    centres = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(centres) == 16 and 4 <= len(names) < 16
    boxes = [(float(x), float(x) + 6.6 * len(name), float(y) - 10, float(y)) for x, y, name in names]
    for i, (left, right, high, low) in enumerate(boxes):
        assert not any(left < x < right and high < y < low for x, y in centres)
        assert not any(left < r and other < right and high < lo and hi < low for other, r, hi, lo in boxes[:i])


def test_plot_draws_on_the_axes_that_it_is_given():
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    curve = ibpo.frontier(UTILITY, PROBLEM, COST)
    axes = Figure().subplots()
    assert curve.plot(axes, budget=["1/3"], color="red", label="mine") is axes
    line, point = axes.lines
    drawn: list[list[float]] = [np.asarray(part, float).tolist() for part in line.get_data()]
    assert drawn == [curve.spent.tolist(), curve.value.tolist()]
    assert (line.get_label(), line.get_color(), point.get_color()) == ("mine", "red", "red")
    assert point.get_ydata() == pytest.approx([1 / 3])
    with matplotlib.rc_context({"backend": "agg"}):
        own = curve.plot()
        assert own.get_xlabel() == "cost per problem" and own is not axes
        from matplotlib import pyplot

        pyplot.close("all")
    with pytest.raises(IbpoError, match="budget -1"):
        curve.plot(axes, budget=-1)


def test_pictures_need_no_matplotlib_and_plot_says_what_is_missing():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import ibpo\n"
        "curve = ibpo.frontier([0, 1], [1, 1], [0, 1]); curve._repr_html_()\n"
        "try: curve.plot()\n"
        "except ibpo.IbpoError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "a picture needs matplotlib: pip install 'ibpo[report]'\n", done.stderr


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_readable_text_in_both_themes(browser, scheme, width, tmp_path):
    parts = [
        ibpo.frontier(UTILITY, PROBLEM, COST),
        ibpo.allocate(UTILITY, PROBLEM, COST, "1/3"),
        evaluation_of(["a", "b"]),
    ]
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><meta charset=utf-8>" + "".join(part._repr_html_() for part in parts), "utf-8")
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(path.as_uri())
    style = "getComputedStyle(document.querySelector('.ibpo-result'))"
    colours = page.evaluate(f"[{style}.color, {style}.backgroundColor]")
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (ink < 200 and paper > 700) if scheme == "light" else (ink > 600 and paper < 150)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
