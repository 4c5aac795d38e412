"""The example of docs/how-to/train.md runs as it stands."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app

DOC = (Path(__file__).parents[2] / "docs" / "how-to" / "train.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_runs_and_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block, "docs/how-to/train.md", "exec"), {})
    assert out.getvalue().splitlines()[-1] == re.findall(r"print\(.*\)  # (.*)", block)[-1]
    done = CliRunner().invoke(app, ["replay", "run", "--budget", "extended=0.25", "--out", "answer.json"])
    assert done.exit_code == 0, done.output
    assert Path("answer.json").exists()
