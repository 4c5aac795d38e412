import io
import re
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest
from rich.console import Console

from ibpo.demo.page import print_methods
from ibpo.evaluation.comparison import compare
from ibpo.evaluation.methods import compare_methods, load_run, mean_over_seeds
from ibpo.evaluation.report import PageData, methods_part, pick_examples, points, write_page
from ibpo.evaluation.report.figures import (
    inline_svg,
    plot_frontier,
    plot_share_by_level,
    plot_tradeoff,
    plot_training,
)
from ibpo.evaluation.responses import Responses, join
from tests.pages import FILE, copied, opened, prints

VOID = {"meta", "br", "link", "img", "input", "hr"}
LOADING = {"link", "iframe", "object", "embed", "img", "video", "audio", "source", "base", "image"}
SECTIONS = ["asked", "p0", "run", "limits", "published"]


class Page(HTMLParser):
    """Collects tags, checks that they nest, and finds whatever the page would load."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.loads, self.ids, self.figures, self.words = [], [], [], [], [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag in LOADING or "src" in attributes or "srcset" in attributes:
            self.loads.append(tag)
        links = [attributes.get("href"), attributes.get("xlink:href")]
        self.loads += [link for link in links if link and not link.startswith("#")]
        if attributes.get("role") == "img":
            self.figures.append(attributes["aria-label"])
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def choose(calibration_p, test_p, share):
    return test_p > sorted(calibration_p, reverse=True)[int(share * len(calibration_p))]


@pytest.fixture(scope="module")
def make_data(tmp_path_factory):
    def make(build_store, seeds=(0,)):
        directory = build_store(tmp_path_factory.mktemp("store"))
        found = [compare_methods(directory, "voting", seed, choose, ["easy", "medium"], num_draws=20) for seed in seeds]
        responses, _ = load_run(directory)
        forced = join([responses["cold_start", "standard"], responses["cold_start", "extended"]])
        training = [
            {"experiment": "voting", "seed": 0, "budget": q, "step": step, "share": 0.5, "price": 0.1 * step}
            for q in (0.25, 0.5)
            for step in range(4)
        ]
        return {
            "rows": [row for one in found for row in one.rows],
            "merits": [merit for one in found for merit in one.merits],
            "areas": [area for one in found for area in one.areas],
            "training": training,
            "examples": pick_examples(forced, forced.configurations),
        }

    return make


@pytest.fixture(scope="module")
def data(make_data, build_store):
    return make_data(build_store)


def page_of(data, **changes):
    return PageData(
        title="A title",
        answer="It gets 62.5 % right & keeps <its> budget.",
        asked=["What <script>alert(1)</script> asks"],
        parts=[methods_part("voting", "Sums of symbols", **(data | changes))],
        what_ran=[("Command", "ibpo demo"), ("Seeds", "0")],
        limits=["Some errors are designed in."],
    )


def read(folder, data, **changes):
    write_page(folder, page_of(data, **changes))
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_page(folder, page_of(data))
    return folder


@pytest.fixture(scope="module")
def written(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_page_loads_nothing_and_is_well_formed(folder, written):
    text, page = written
    assert page.loads == []
    assert "@import" not in text and "url(http" not in text
    assert len(page.ids) == len(set(page.ids))
    links = [a["href"][1:] for tag, a in page.tags if tag == "a"]
    assert links[: len(SECTIONS)] == SECTIONS and set(links) <= set(page.ids)
    assert not list(folder.glob("*.partial"))


def test_page_has_all_sections_in_order(written):
    _, page = written
    assert [a["id"] for tag, a in page.tags if tag == "h2"] == SECTIONS
    assert sum(tag == "h1" for tag, _ in page.tags) == 1
    tables = [tag for tag, _ in page.tags if tag in ("table", "caption")]
    assert tables == ["table", "caption"] * 6  # the methods twice: those shown first, and all
    assert all("scope" in a for tag, a in page.tags if tag == "th")
    assert sum(tag == "article" for tag, _ in page.tags) == 4
    assert sum(a.get("class") == "ours" for tag, a in page.tags if tag == "tr") == 2 * 4
    headings = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert headings[0] == 1 and all(after <= before + 1 for before, after in pairwise(headings))


def test_twelve_methods_are_shown_first_and_all_folded_up(folder, written, data):
    """A reader needs never, always, the policies, and what they are held against; all others stand behind a fold."""
    _, page = written
    num = len(mean_over_seeds(data["rows"]))
    assert num > 12
    text = (folder / "report.md").read_text(encoding="utf-8")
    first, _, folded = text.partition("<details><summary>All methods")
    assert folded.startswith(f" ({num})</summary>\n\n| method |")
    shown = [line.split(" | ")[0].strip("| ") for line in first.splitlines() if line.startswith("| ")][1:]
    shown = [name for name in shown if name not in ("method", "---")]
    assert len(shown) == 12 and f"12 of {num} methods" in first and "Shown first: never and always" in first
    for name in ("standard only", "extended only", "random mix", "oracle by level", "RAFT without budget"):
        assert name in shown
    assert shown.count("IBPO sampled") == shown.count("IBPO calibrated") == 2
    rows = [line for line in folded.partition("</details>")[0].splitlines() if line.startswith("| ")]
    assert len(rows) == num + 2
    summaries = [a for tag, a in page.tags if tag == "summary"]
    words = "".join(page.words)
    assert f"All methods ({num})" in words and "Published by others, as they state it" in words and len(summaries) > 3


def test_every_figure_of_merit_is_explained_at_its_table(folder, written):
    """Once, where it is first used; later tables link there."""
    html, page = written
    text = (folder / "report.md").read_text(encoding="utf-8")
    for term in (
        "q+", "± and brackets", "Random mix", "Oracle share", "Of its own", "Rank correlation", "Wasted", "Erosion",
        "Gain ratio (gain / self-consistency)", "Retained", "Binds, slack", "Held out", "Sampled, calibrated",
        "Area under accuracy against cost", "Cold start",
    ):  # fmt: skip
        assert html.count(f"<dt>{term}</dt>") == 1, term
        assert text.count(f"- **{term}**: ") == 1, term
    assert html.index('id="p0-t3"') < html.index("<dt>Oracle share</dt>") < html.index('id="p0-t4"')
    opened = [a for tag, a in page.tags if tag == "details" and a.get("class") == "terms"]
    assert opened and all("open" in a for a in opened)
    assert re.search(r'Explained above: .*<a href="#term-q">q\+</a>', html)


def test_colours_have_contrast_in_either_theme():
    """4.5 : 1, as WCAG's AA asks of text."""
    css = files("ibpo.evaluation.report").joinpath("style.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{.*?\}", css, re.DOTALL)[:2]
    )

    def brightness(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in (light, dark):
        for text in ("ink", "soft", "accent", "good", "bad"):
            for paper in ("paper", "wash"):
                low, high = sorted((brightness(theme[text]), brightness(theme[paper])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, paper, theme[text], theme[paper])


def test_what_was_cut_off_and_the_areas_are_shown(data, tmp_path):
    cut = [row | {"truncated_share": 0.125} if row["method"] == "extended only" else row for row in data["rows"]]
    _, page = read(tmp_path, data, rows=cut)
    words = "".join(page.words).replace("\N{NO-BREAK SPACE}", " ")
    assert "truncated" in words and "12.5 %" in words
    areas = {row["name"]: row for row in data["areas"]}
    assert {"random mix", "IBPO calibrated", "oracle by level"} <= set(areas)
    calibrated = areas["IBPO calibrated"]
    assert (calibrated["low"], calibrated["high"]) == (1.5, 2.3)  # its own two points, no farther
    assert calibrated["area"]["value"] == pytest.approx((0.625 + 0.7) / 2)
    assert calibrated["mix"]["value"] == pytest.approx(0.5 + 0.2 * (1.9 - 1) / 2.2)
    assert "1.50 to 2.30 ×" in words


def test_rows_of_older_runs_have_a_page(data, tmp_path):
    old = [{key: value for key, value in row.items() if key != "truncated_share"} for row in data["rows"]]
    read(tmp_path, data, rows=old, areas=())


def test_without_a_policy_that_has_a_budget_no_empty_table_is_shown(data, tmp_path):
    bare = [row for row in data["rows"] if "IBPO" not in row["method"]]
    _, page = read(tmp_path, data, rows=bare, merits=[], training=[])
    assert "No policy here was trained to keep a budget." in "".join(page.words)
    assert len(page.figures) == 2 and [tag for tag, _ in page.tags].count("table") == 4


def test_figures_speak_for_themselves(written):
    _, page = written
    assert len(page.figures) == 4
    frontier, shares, kept, training = page.figures
    assert "IBPO calibrated at 25%: 62.5\N{NO-BREAK SPACE}% at 1.50 times the cost" in frontier
    assert "IBPO sampled at 25%: easy 0.0 %, medium 75.0 %, unknown 0.0 %" in shares.replace("\N{NO-BREAK SPACE}", " ")
    assert "IBPO sampled (q+ 25%): +5.0 points (in training +25.0)" in kept
    assert kept.startswith("Extended share minus the budget. ") and kept.count("IBPO calibrated") == 2
    assert training


def test_everything_is_escaped(written):
    text, page = written
    assert text.count("<script>") == 1 and "<script>alert" not in text
    words = "".join(page.words)
    assert "keeps <its> budget" in words and "<script>alert(1)</script>" in words and "<cot> <answer> 42" in words


def test_the_interval_of_a_merit_stands_beside_it(data, tmp_path):
    merits = [one | {"retained_interval": [0.5, 0.75], "oracle_share_own_interval": None} for one in data["merits"]]
    merits = [one | {"gain_ratio_cold_start": 2.0, "gain_ratio_cold_start_interval": [1.5, None]} for one in merits]
    _, page = read(tmp_path, data, merits=merits)
    words = "".join(page.words).replace("\N{NO-BREAK SPACE}", " ")
    assert "(50.0 to 75.0)" in words and "2.00 (at least 1.50)" in words


def test_the_same_as_markdown(folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# A title\n\nIt gets 62.5 % right") and "arXiv 2501.17974" in text
    for head in (
        "| method | q+ |",
        "| q+ | choice | share on unseen",
        "| q+ | choice | above random mix, points | oracle share |",
        "| curve | costs |",
    ):
        assert head in text
    widths = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| standard only")]
    assert widths == [9, 9]  # those shown first, and all
    for figure in ("frontier", "share_by_level", "kept", "training"):
        assert f"(figures/{figure}_Sums_of_symbols.png)" in text
        assert (folder / "figures" / f"{figure}_Sums_of_symbols.png").stat().st_size > 10_000


def test_the_share_in_training_stands_beside_that_on_unseen_problems(written):
    _, page = written
    assert "in training" in "".join(page.words) and "50.0\N{NO-BREAK SPACE}%" in "".join(page.words)


TOUCHING = """[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim());
  const leans = t => /rotate\\((?!0\\b|-0\\b)/.test(t.getAttribute('transform') ?? '');
  const boxes = texts.filter(t => !leans(t)).map(t => [t.textContent, t.getBoundingClientRect()]);
  const out = boxes.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1).map(([t]) => t);
  const over = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const after = ([s, a], i) => boxes.slice(i + 1).filter(([, b]) => over(a, b)).map(([t]) => s + '|' + t);
  const pairs = boxes.flatMap(after);
  return [...out, ...pairs];
})"""
"""Words of the figures that stand in one another or beyond the figure's edge; those that lean have wide boxes."""


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360], ids=["laptop", "phone"])
def test_in_a_browser(folder, tmp_path, browser, width, theme):
    url = (folder / "report.html").as_uri()
    with opened(browser, url, width, theme, **FILE) as (tab, said, asked):
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        shown = tab.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().width)")
        assert len(shown) == 4 and all(one > 200 for one in shown)
        cost = tab.locator("#p0-t1 thead th", has_text="cost").first
        values = "[...document.querySelectorAll('#p0-t1 tbody tr')].map(r => parseFloat(r.cells[5].innerText))"
        for direction in ("descending", "ascending"):
            cost.get_by_role("button").click()
            assert cost.get_attribute("aria-sort") == direction
            found = tab.evaluate(values)
            assert found == sorted(found, reverse=direction == "descending") and len(set(found)) > 2
        fold = tab.locator("details.long", has_text="All methods").first
        assert not tab.locator("#p0-t1-all").is_visible()
        fold.locator("summary").press("Enter")  # by keyboard
        assert tab.locator("#p0-t1-all").is_visible() and tab.locator("#p0-t1-all tbody tr").count() > len(found)
        assert tab.locator("#term-oracle-share").is_visible()
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert tab.evaluate(TOUCHING) == []
        text = copied(tab, "p0-t1")
        assert text.splitlines()[0].split("\t")[:2] == ["method", "q+"]
        assert len(text.splitlines()) == 1 + len(found) and "standard only\t\t" in text
        assert prints(tab)
        tab.screenshot(path=tmp_path / f"{theme}-{width}.png", full_page=True)  # for whoever wants to look
        assert said == [] and asked == [url]


def test_several_seeds_and_nothing_optional(make_data, build_store, tmp_path):
    several = make_data(build_store, seeds=(0, 1))
    _, page = read(tmp_path, several, training=[], examples=[])
    words = "".join(page.words)
    assert "means over 2 seeds" in words and "smallest to largest seed" in words
    assert len(page.figures) == 3 and "Example responses" not in words


def test_figures_are_written_in_any_format(data, tmp_path):
    for name, plot in (("frontier", plot_frontier), ("shares", plot_share_by_level)):
        plot(data["rows"], tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        plot(data["rows"], tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").read_text().count("<path") > 10
    plot_training(data["training"], tmp_path / "training.svg")
    assert "Price of the budget" in (tmp_path / "training.svg").read_text()


def test_ticks_in_percent_have_the_digits_that_they_need():
    from ibpo.evaluation.report.figures import _in_percent

    assert [_in_percent()(value, 0) for value in (0.425, 0.45, 0.0, 1.0, 0.005, -0.1, 0.3 - 0.1)] == [
        "42.5%", "45%", "0%", "100%", "0.5%", "-10%", "20%",
    ]  # fmt: skip


def test_figures_are_reproducible(data, tmp_path):
    first, again = ([tmp_path / f"{name}.png", tmp_path / f"{name}.svg"] for name in ("first", "again"))
    for paths in (first, again):
        plot_frontier(data["rows"], paths)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_figure_with_no_trained_policy(data, tmp_path):
    bare = [row for row in data["rows"] if row["method"] in ("standard only", "extended only")]
    for plot in (plot_frontier, plot_share_by_level):
        plot(bare, tmp_path / "bare.svg")
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_frontier([], tmp_path / "none.svg")


def test_inline_svg_has_its_own_ids_and_follows_the_theme(data, tmp_path):
    plot_frontier(data["rows"], tmp_path / "drawn.svg")
    svg = inline_svg("x1", (tmp_path / "drawn.svg").read_text(), 'a "quoted" <alt>')
    assert 'aria-label="a &#34;quoted&#34; &lt;alt&gt;"' in svg
    assert "var(--ink)" in svg and "var(--paper)" in svg and "#1f2329" not in svg
    assert "metadata" not in svg and "<!DOCTYPE" not in svg
    head = svg[: svg.index(">")]
    assert "viewBox" in head and "width=" not in head and "height=" not in head
    assert 'id="x1-' in svg and "url(#x1-" in svg


def test_examples_are_an_easy_and_a_hard_problem(data):
    easy, *_, hard = data["examples"]
    assert [(e.configuration, e.level) for e in data["examples"]] == [
        (name, level) for level in ("easy", "medium") for name in ("cold_start standard", "cold_start extended")
    ]
    assert (easy.is_right, easy.cost, hard.kind) == (True, 10, "hard (solved 50%)")
    assert easy.prompt == data["examples"][1].prompt


def test_terminal_table_is_short(data):
    console = Console(width=100, record=True, file=io.StringIO())
    print_methods(console, data["rows"])
    text = console.export_text()
    assert "62.5% ± 4" in text and "1.50×" in text
    assert "forced" not in text and text.count("maj@") == 2 and "The page has all methods." in text
    assert "standard only" in text and "oracle by level" in text


def test_terminal_table_without_policies(data):
    bare = [row for row in data["rows"] if "IBPO" not in row["method"]]
    console = Console(width=80, record=True, file=io.StringIO())
    print_methods(console, bare)
    assert "standard only" in console.export_text()


@pytest.mark.parametrize(
    "value, text", [(0.0123, "+1.2"), (-0.05, "−5.0"), (0.0, "0.0"), (-0.0001, "0.0"), (None, "–")]
)
def test_points(value, text):
    assert points(value) == text


def test_costs_on_a_logarithmic_axis_are_numbers(tmp_path):
    """Little more than a decade: there matplotlib labels the minor ticks, too."""
    rows = [
        {
            "problem": f"p{p}",
            "configuration": name,
            "reward": float(p % 3 < most),
            "tokens": tokens + p % 3,
            "answer": "1",
        }
        for name, most, tokens in (("number", 1, 5), ("brief", 2, 47), ("steps", 2, 80))
        for p in range(30)
        for _ in range(2)
    ]
    plot_tradeoff({**compare(Responses.from_rows(rows)), "cost_unit": "tokens"}, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert "mathdefault" not in text and {"5", "10", "20", "50"} <= set(re.findall(r">([\d,]+)<", text))
