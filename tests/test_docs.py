"""What the documentation names exists, and what it links to resolves."""

from __future__ import annotations

import ast
import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
README = ROOT / "README.md"


def named(pattern):
    """(file, name) of every match in docs/*.md; there are some, or the pattern is wrong."""
    found = sorted({(path.name, name) for path, text in DOCS.items() for name in re.findall(pattern, text)})
    assert found
    return found


def exists(dotted_name):
    """Whether a module, or an attribute of one, has this name."""
    try:
        pkgutil.resolve_name(dotted_name)
    except (ImportError, AttributeError):
        return False
    return True


def anchors(markdown):
    """The fragments that GitHub gives the headings."""
    headings = re.findall(r"^#+ +(.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_names_of_the_package_exist():
    pytest.importorskip("trl")
    assert [(file, name) for file, name in named(r"\bibpo(?:\.\w+)+") if not exists(name)] == []


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


@pytest.mark.parametrize("path", [README, *DOCS], ids=lambda path: path.name)
def test_relative_links_resolve(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, fragment = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not fragment or fragment in anchors(target.read_text(encoding="utf-8")), link
