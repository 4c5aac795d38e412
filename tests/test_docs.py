"""What the documentation names exists, and what it links to resolves."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import pkgutil
import re
from pathlib import Path

import pytest

from ibpo.rewards.code import why_not_isolated
from ibpo.tasks.task import TASKS
from tests.openai_server import serving

ROOT = Path(__file__).parent.parent
DOCS = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))}
README = ROOT / "README.md"


def named(pattern):
    """(file, name) of every match in docs/ but the log, whose names are those of their day; there are some."""
    pages = {path.name: text for path, text in DOCS.items() if path.name != "log.md"}
    found = sorted({(page, name) for page, text in pages.items() for name in re.findall(pattern, text)})
    assert found
    return found


def exists(dotted_name):
    """Whether a module, or an attribute of one, has this name."""
    try:
        pkgutil.resolve_name(dotted_name)
    except (ImportError, AttributeError):
        with contextlib.suppress(ImportError, AttributeError):  # a plug-in is not loaded without its host
            return importlib.util.find_spec(dotted_name) is not None
        return False
    return True


def anchors(markdown):
    """The fragments that GitHub gives the headings."""
    headings = re.findall(r"^#+ +(.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_names_of_the_package_exist():
    pytest.importorskip("trl")
    assert [(file, name) for file, name in named(r"\b(?:ibpo|experiments)(?:\.(?!py\b)\w+)+") if not exists(name)] == []


def test_every_row_of_the_paper_index_has_a_name_and_a_test():
    page = DOCS[ROOT / "docs" / "explanation" / "paper-index.md"]
    statements, tests = page.split("\n## Tests\n")
    with_name, with_test = (
        [int(number) for number in re.findall(rf"^\| (\d+) \|.*`{begins}", part, re.MULTILINE)]
        for begins, part in ((r"(?:ibpo|experiments)\.", statements), ("tests/", tests))
    )
    assert with_name == with_test == list(range(1, len(re.findall(r"^\| \d+ \|", statements, re.MULTILINE)) + 1))
    assert len(with_test) > 30


@pytest.mark.parametrize(
    ("page", "room", "first", "last"),
    [
        ("reference/judges.md", "ibpo.rewards", "| `MathJudge` |", "| each problem to the judge"),
        ("reference/response-groups.md", "ibpo.rollouts", "`ScriptedSampler`,", " and keep one"),
    ],
)
def test_what_a_page_lists_is_in_the_face_of_its_room(page, room, first, last):
    face, text = importlib.import_module(room), DOCS[ROOT / "docs" / page]
    listed = re.findall(r"`([A-Za-z_]+)`", text[text.index(first) : text.index(last)])
    assert len(listed) >= 5 and [name for name in listed if name not in face.__all__] == []


def test_tests_exist():
    missing = []
    for file, name in named(r"\btests/[\w/]+\.py(?:::\w+)?"):
        path, _, function = name.partition("::")
        if not (ROOT / path).is_file():
            missing.append((file, name))
        elif function:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            if function not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
                missing.append((file, name))
    assert missing == []


@pytest.mark.parametrize("path", [README, *DOCS], ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, fragment = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not fragment or fragment in anchors(target.read_text(encoding="utf-8")), link


def test_formulas_are_on_the_pages_where_the_site_draws_them():
    pytest.importorskip("latex2mathml")
    with_formulas, drawn = set(), importlib.import_module("docs.site_hooks").WITH_FORMULAS
    for path, text in DOCS.items():
        prose = re.sub(r"(?ms)^ *```(?!math).*?^ *```|`[^`\n]*`", "", text)
        if "```math" in prose or re.search(r"\$[^$]*[\\_^][^$]*\$", prose):
            with_formulas.add(path.relative_to(ROOT / "docs").as_posix())
    assert with_formulas == set(drawn)


def test_a_formula_at_the_beginning_of_a_line_stays_in_its_sentence():
    pytest.importorskip("latex2mathml")
    markdown, hooks = importlib.import_module("markdown"), importlib.import_module("docs.site_hooks")
    page = markdown.markdown(hooks.draw_formulas("The price\n$\\lambda$ and the share\n$q$ of `$x$`.\n"))
    assert page.count("<p>") == 1 and page.startswith("<p>") and page.endswith("</p>")
    assert page.count("<math") == 2 and "<code>$x$</code>" in page


def test_every_task_is_listed():
    page = DOCS[ROOT / "docs" / "reference" / "tasks.md"]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    listed = {tuple(re.findall(r"`([^`]+)`", row)): row.rpartition("| ")[2] for row in rows}
    assert listed == {(name, task.source.name): f"{task.source.split} |" for name, task in TASKS.items() if task.source}


@pytest.mark.skipif(bool(why_not_isolated()), reason=f"no isolation here: {why_not_isolated()}")
def test_what_the_page_of_judges_shows_runs(tmp_path, monkeypatch):
    """One block after the other, as a reader would; the judge by language model asks a server on loopback."""
    pytest.importorskip("math_verify")
    pytest.importorskip("openai")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"```python(?: notest)?\n(.*?)^```", DOCS[ROOT / "docs" / "how-to" / "add-a-judge.md"], re.DOTALL | re.MULTILINE
    )
    blocks = [block for block in blocks if "IBPOTrainer" not in block]
    out, names = io.StringIO(), {}

    def grade(body, number):
        return re.findall(r"GRADE-\w+:", body["messages"][0]["content"])[0] + " 3", "stop"

    with serving(grade) as log, contextlib.redirect_stdout(out):
        for block in blocks:
            exec(compile(block.replace("http://127.0.0.1:8000/v1", log.url), "add-a-judge.md", "exec"), names)
    names["judge"].close()
    promised = re.findall(r"print\(.*\)  # (.*)", "\n".join(blocks))
    assert out.getvalue().splitlines() == promised and len(blocks) == 7
