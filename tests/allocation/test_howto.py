"""What the page for operators shows runs and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "choose-a-budget.md"


def test_python_block_prints_what_it_says():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block, PAGE.name, "exec"), {})
    assert out.getvalue().splitlines() == re.findall(r"print\(.*\)  # (.*)", block)


def test_picture_is_there():
    assert (PAGE.parents[1] / "images" / "budget_frontier.png").is_file()
