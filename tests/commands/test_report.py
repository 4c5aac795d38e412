"""`ibpo report`: files in, a page out; the page in a real browser where there is one."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from tests.pages import copied, opened, prints

FIXTURES = Path(__file__).parent.parent / "fixtures"


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def rows():
    rng, made = random.Random(0), []
    for p in range(24):
        for name, chance, cost in (("low", 0.9 - 0.3 * (p % 3), 100), ("high", 0.95 - 0.1 * (p % 3), 900)):
            for _ in range(4):
                right = rng.random() < chance
                made.append(
                    {"problem_id": f"p{p}", "effort": name, "correct": right, "tokens": cost * rng.uniform(0.5, 1.5)}
                    | {"level": p % 3, "subject": "ab"[p % 2], "answer": "1" if right else "2"}
                    | {"question": f"<script>alert({p})</script>", "response": "because | it\nis " + "so " * 700}
                    | {"reasoning_tokens": cost / 2, "finish_reason": "stop" if rng.random() < 0.9 else "length"}
                )
    return made


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    file = folder / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    result = run(file, "--out", folder / "out", "--num-splits", 4)
    assert result.exit_code == 0, result.output
    return folder / "out"


def test_the_files(page):
    assert {path.name for path in page.iterdir()} == {"report.html", "report.md", "report.json", "figures"}
    figures = {path.name for path in (page / "figures").iterdir()}
    assert figures == {f"{name}{kind}" for name in ("tradeoff", "levels", "shares") for kind in (".png", ".svg")}
    for path in (page / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
    data = json.loads((page / "report.json").read_text())
    assert data["parts"][""]["standard"] == "low"


def test_the_page_loads_nothing_and_trusts_no_text(page):
    html = (page / "report.html").read_text()
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    assert not re.search(r"<(link|iframe|img|object|embed)\b|\bsrc=|@import|url\((?!#)", html)
    outside = re.findall(r'(?:href|xlink:href)="([^"#][^"]*)"', html)
    assert outside == []
    assert html.count('role="img" aria-label="') == 3 and "more characters" in html


def test_what_others_published_stands_apart(page):
    html = (page / "report.html").read_text()
    before, after = html.split('id="published"')
    assert "2501.17974" in after and "2501.17974" not in before
    assert "not measured here" in after
    assert "2501.17974" not in (page / "report.json").read_text()


def test_markdown_tables_are_whole(page):
    lines = (page / "report.md").read_text().splitlines()
    assert any("![Accuracy against cost." in line for line in lines)
    widths = []
    for line in lines:
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        if widths and widths[-1] is not None and cells is not None:
            assert cells == widths[-1], line
        widths.append(cells)


def test_names_and_harnesses(tmp_path):
    result = run(
        f"one={FIXTURES / 'lighteval'}", f"two={FIXTURES / 'lighteval'}", "--judge", "exact", "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "report.json").read_text())
    part = data["parts"]["community|digit_sums_repeats|0"]
    assert [row["name"] for row in part["configurations"]] == ["one", "two"]
    assert part["configurations"][1]["difference"]["value"] == 0
    assert "lighteval details" in data["what_ran"]["How they were read"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--standard", "none"], "none: no such configuration; there are low, high"),
        (["--only", "none"], "--only none: no such configuration"),
        (["--budget", "2"], "--budget: a part of the way"),
        (["--reward", "score"], "no column 'score' for the reward"),
    ],
)
def test_what_is_refused(page, more, said, tmp_path):
    result = run(page.parent / "log.jsonl", "--out", tmp_path, *more)
    assert result.exit_code == 2 and said in result.stderr
    assert result.stderr.startswith("error: ") and "Traceback" not in result.output


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375], ids=["laptop", "phone"])
def test_in_a_browser(page, browser, width, theme):
    url = (page / "report.html").as_uri()
    with opened(browser, url, width, theme) as (tab, said, asked):
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        boxes = tab.evaluate(
            "[...document.querySelectorAll('figure svg')].map(s => [s.getBoundingClientRect().width,"
            " s.querySelectorAll('path').length, s.getAttribute('aria-label').length])"
        )
        assert len(boxes) == 3
        for shown, paths, words in boxes:
            assert 200 < shown <= width and paths > 10 and words > 40
        # Text is legible in either theme: contrast of ink on paper.
        assert tab.evaluate(CONTRAST) > 7
        column = tab.locator("#p0-t1 thead th", has_text="mean tokens").first
        for direction in ("descending", "ascending"):
            column.get_by_role("button").click()
            assert column.get_attribute("aria-sort") == direction
            index = column.evaluate("cell => cell.cellIndex")
            values = tab.evaluate(
                "index => [...document.querySelectorAll('#p0-t1 tbody tr')].map(r => +r.cells[index].dataset.sort)",
                index,
            )
            assert values == sorted(values, reverse=direction == "descending") and len(set(values)) == 2
        lines = [line.split("\t") for line in copied(tab, "p0-t1").splitlines()]
        assert lines[0][:2] == ["Configuration", "pass@1"] and {line[0] for line in lines[1:]} == {"low", "high"}
        assert len({len(line) for line in lines}) == 1 and "%" in lines[1][1]
        tab.locator("summary", has_text="By level").click()
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        tab.screenshot(path=page.parent / f"{theme}-{width}.png", full_page=True)  # for whoever wants to look
        assert prints(tab)
        assert said == [] and asked == [url]


CONTRAST = """() => {
  const light = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(document.documentElement);
  const [a, b] = [light(style.color), light(style.backgroundColor)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""
