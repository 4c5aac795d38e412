"""The file that type checkers read uses every public name; `make lint` runs pyright on it, strictly."""

import ast
from importlib.resources import files
from pathlib import Path

import pytest

import ibpo
import ibpo.testing

FILE = Path(__file__).with_name("public_api.py")


@pytest.mark.parametrize("room", [ibpo, ibpo.testing], ids=["ibpo", "ibpo.testing"])
def test_every_public_name_is_used_where_types_are_checked(room):
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert sorted(set(room.__all__) - used) == []


def test_the_package_says_that_it_has_types():
    assert (files("ibpo") / "py.typed").is_file()
