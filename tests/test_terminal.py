"""Tables in a terminal: nothing wider than it, no number cut, every row named in every part."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ibpo.terminal import PIPED, plain_console, print_table


def printed(width, *args, **kwargs):
    console = Console(width=width, record=True, file=io.StringIO(), markup=False, emoji=False)
    print_table(console, *args, **kwargs)
    return console.export_text()


@given(st.integers(40, 120), st.lists(st.lists(st.integers(1, 24), min_size=6, max_size=6), min_size=1, max_size=5))
def test_every_cell_is_whole_and_no_line_is_too_long(width, lengths):
    """Each number once, in a line that begins with the name of its row."""
    rows = [[f"row-{i}", *(f"{i}.{j}" + "7" * n for j, n in enumerate(row))] for i, row in enumerate(lengths)]
    heads = ["name", *[f"head-{n}" for n in range(6)]]
    lines = printed(width, heads, rows).splitlines()
    assert all(len(line) <= width for line in lines)
    for name, *cells in [heads, *rows]:
        own = [line.split() for line in lines if line.split()[:1] == [name]]
        assert sorted(cell for line in own for cell in line[1:]) == sorted(cells)


def test_a_table_that_is_too_wide_goes_on_below_with_the_names_of_its_rows():
    heads = ["method", *[f"number {n}" for n in range(12)]]
    text = printed(60, heads, [["standard", *"0123456789ab"], None, ["extended", *"0123456789ab"]], title="the title")
    assert text.startswith("the title") and text.count("the title") == 1
    parts = text.count("method")
    assert parts == text.count("standard") == text.count("extended") > 1
    assert all(text.count(f"number {n} ") == 1 for n in (0, 5, 9))


def test_cells_of_two_lines_and_names_that_are_long():
    name = "vendor/a-model-whose-name-is-very-long-indeed@high"
    rows = [[name, "0.500\n[0.40, 0.60]", "1"], ["short"]]
    lines = [line.rstrip() for line in printed(40, ["group", "gain", "n"], rows).splitlines()]
    assert max(map(len, lines)) <= 40 and "…" not in "".join(lines)
    assert name in "".join(line[1:21].strip() for line in lines)  # folded, whole
    (first,), (second,) = ([line for line in lines if mark in line] for mark in ("0.500", "[0.40, 0.60]"))
    assert first.index("0.500") + len("0.500") == second.index("[0.40, 0.60]") + len("[0.40, 0.60]")


@pytest.mark.parametrize("name", ["[red]x[/red]", ":x: [bold]"])
def test_names_are_shown_to_the_letter(capsys, name):
    console = plain_console()
    assert console.width == PIPED
    print_table(console, ["name", "value"], [[name, "1"]], title=name)
    assert capsys.readouterr().out.count(name) == 2
