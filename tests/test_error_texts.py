"""Each message of the page of errors is still one that the code raises."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "errors.md"
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
HOLE = "\0"


def literals():
    """The texts of the package, with a hole for each value that is put in."""
    for path in sorted((ROOT / "ibpo").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


TEXTS = list(dict.fromkeys(literals()))


def is_raised(message: str) -> bool:
    """Whether some text holds the message's fixed parts in their order, with something between them."""
    parts = [re.escape(part) for part in message.split("...")]
    pattern = re.compile("(?s:.*?)".join(parts))
    return any(pattern.search(text) for text in TEXTS)


def test_there_are_messages():
    assert len(MESSAGES) > 40 and len(set(MESSAGES)) == len(MESSAGES)
    assert not is_raised("no such text ... anywhere")


@pytest.mark.parametrize("message", MESSAGES)
def test_a_listed_message_is_in_the_source(message):
    assert is_raised(message)
