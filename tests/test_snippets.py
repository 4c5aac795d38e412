"""Every snippet of the documentation runs, or is at least read by what it is for.

Python: each page's blocks in one namespace and an empty folder, and they print what they say. Shell: every `ibpo`
command has the options that it names (README's and the tutorials' commands run: `docs/run_commands.py`). TOML and JSON
parse.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from ibpo.cli import app

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
ELSEWHERE = {
    "docs/how-to/train.md": "tests/training/test_docs_example.py, once",
    "docs/how-to/calibrate.md": "tests/serving/test_controller.py, with the file that it reads",
}
"""Page -> the test that runs its Python."""


def blocks(page: str, language: str) -> list[str]:
    """A page's blocks of this language that are to be true."""
    return re.findall(rf"^```{language}(?: about)?\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def pages_with(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.mark.parametrize("page", [page for page in pages_with("python") if page not in ELSEWHERE])
def test_python_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    for name in ("trl", "sklearn", "openai", "aiohttp", "math_verify"):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    out, names = io.StringIO(), {"__name__": "snippet"}
    with contextlib.redirect_stdout(out):
        for block in blocks(page, "python"):
            exec(compile(block, page, "exec", dont_inherit=True), names)
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", "\n".join(blocks(page, "python")), re.MULTILINE)
    printed = out.getvalue().splitlines()
    assert [line for line in promised if line not in printed] == []


def test_pages_whose_python_runs_elsewhere_have_some():
    assert [page for page in ELSEWHERE if page not in pages_with("python")] == []


def commands(page: str) -> list[list[str]]:
    """Arguments of every `ibpo` in the page's shell blocks."""
    found = []
    for block in blocks(page, "bash"):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            for part in re.split(r"\s(?:\||&&|;)\s|\$\(", re.sub(r"(^|\s)#.*", "", line)):
                words = shlex.split(part.strip().rstrip("&"))
                if words and words[0].rpartition("/")[2] == "ibpo":
                    found.append(words[1:])
    return found


@pytest.mark.parametrize("page", [page for page in pages_with("bash") if commands(page)])
def test_commands_have_the_options_that_pages_give_them(page):
    group: Any = typer.main.get_command(app)
    for words in commands(page):
        assert words, page
        if words[0].startswith("-"):
            known = {name for parameter in group.params for name in (*parameter.opts, *parameter.secondary_opts)}
            assert words[0] in known | {"-h", "--help"}, words
            continue
        _, command, _ = group.resolve_command(typer.Context(group), [words[0]])
        rest = words[1:]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        options = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
        assert [option for option in options if option not in known | {"-h", "--help"}] == [], words


@pytest.mark.parametrize("page", pages_with("toml"))
def test_toml_parses(page):
    for block in blocks(page, "toml"):
        tomllib.loads(block)


def test_there_are_snippets():
    assert min(len(pages_with(language)) for language in ("python", "bash", "toml")) >= 8


@pytest.mark.parametrize("page", pages_with("json"))
def test_json_parses(page):
    for block in blocks(page, "json"):
        for part in [block] if block.lstrip().startswith(("{\n", "[\n")) else block.splitlines():
            if part.strip():
                json.loads(part)
