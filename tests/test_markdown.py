"""Names in reports and tables are read to the letter: by a Markdown parser, by Rich, by a browser and in figures."""

from __future__ import annotations

import html
import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.errors import printable
from ibpo.markdown import markdown_code, markdown_row, markdown_table, markdown_text

PARSER = MarkdownIt("commonmark").enable("table").enable("strikethrough")
NAMES = ["a|b`c`<script>alert(1)</script>", "_under*score*_ [x](http://e) &amp;", "$\\frac$ [/red] :x: [bold]",
         "# head\nline", "1. one | two\\", "日本 \x1b[31m"]  # fmt: skip
TEXTS = st.text(st.sampled_from("ab1 .)#>+-=_*`[]()<>|&;!~\\\n\t\x1b$:é") | st.characters(codec="utf-8"), max_size=30)


def to_the_letter(text):
    return printable(" ".join(text.split()))


def words_of(inline):
    """The text of an inline token, which holds nothing but text."""
    assert {child.type for child in inline.children} <= {"text", "text_special"}, inline
    return "".join(child.content for child in inline.children)


@given(TEXTS)
def test_a_text_is_nothing_but_text(text):
    shown, wanted = markdown_text(text), to_the_letter(text)
    for line, kinds in ((shown, ["paragraph"]), (f"- {shown}", ["bullet_list", "list_item", "paragraph"])):
        tokens = PARSER.parse(line)
        if wanted:
            assert [token.type.removesuffix("_open") for token in tokens if token.nesting == 1] == kinds
            assert [words_of(token) for token in tokens if token.type == "inline"] == [wanted]


@given(st.lists(st.lists(TEXTS, min_size=3, max_size=3), min_size=2, max_size=4))
def test_a_table_has_its_cells(rows):
    tokens = PARSER.parse("\n".join(markdown_table(["a", "b", "c"], rows)))
    cells = [words_of(token) for token in tokens if token.type == "inline"]
    assert cells == ["a", "b", "c", *(to_the_letter(cell) for row in rows for cell in row)]
    assert markdown_row(rows[0]).count("\n") == 0


@given(TEXTS)
def test_a_command_is_one_block_of_code(text):
    (token,) = PARSER.parse(markdown_code(f"ibpo {text}"))
    assert token.type == "code_block" and token.content.rstrip("\n") == f"ibpo {printable(text)}"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("names") / "log.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for p in range(24):
            for j, name in enumerate(NAMES):
                for k in range(2):
                    row = {"problem_id": f"p|{p}`", "prompt": "<i>", "level": ["1|2", "<b>$x$", "_l_"][p % 3]}
                    row |= {"response_group": name, "reward": float((p + j + k) % 3 > 0), "tokens": 30 + 7 * p + 40 * j}
                    file.write(json.dumps(row | {"completion": "</pre><script>alert(2)</script>"}) + "\n")
    return path


def test_a_report_shows_names_to_the_letter(log, tmp_path):
    title = "A <b>|` title\ntwo"
    done = CliRunner().invoke(app, ["report", str(log), "--out", str(tmp_path), "--num-splits", "2", "--title", title])
    assert done.exit_code == 0, done.output
    tokens = PARSER.parse((tmp_path / "report.md").read_text(encoding="utf-8"))
    assert tokens[1].content and words_of(tokens[1]) == "A <b>|` title two"
    inline = [token for token in tokens if token.type == "inline"]
    pictures = [token for token in inline if [child.type for child in token.children or ()][:1] == ["image"]]
    # Our own words under a table are in bold: **term**: what it means.
    terms = [token for token in inline if token.content.startswith("**")]
    texts = {words_of(token) for token in inline if token not in pictures + terms}
    assert terms and not any(name in token.content for token in terms for name in NAMES)
    assert {to_the_letter(name) for name in NAMES} | {"1|2", "<b>$x$", "_l_"} < texts
    assert len(pictures) == 3 and all(
        to_the_letter(NAMES[0]) in words_of((one.children or [one])[0]) for one in pictures
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1 and "</pre><script" not in page
    for name in NAMES[:3]:
        assert html.escape(name, quote=False) in html.unescape(page.replace("&", "&amp;")).replace("&#34;", '"')
    for figure in ("tradeoff", "levels", "shares"):
        drawn = ElementTree.parse(tmp_path / "figures" / f"{figure}.svg")
        shown = {
            "".join(text.itertext()).strip().strip("\N{HAIR SPACE}") for text in drawn.iter() if "text" in text.tag
        }
        assert {printable(name) for name in NAMES} <= shown, figure


def test_a_terminal_shows_names_to_the_letter(log, tmp_path):
    arguments = ["allocate", str(log), "--budget", "tokens=50%range", "--num-splits", "2", "--wide"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "[red] :x:")])
    assert done.exit_code == 0, done.output
    assert "[/red] :x: [bold]" in " ".join(done.stdout.split())
