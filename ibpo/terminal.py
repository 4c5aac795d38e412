"""What commands print: a console that shows names to the letter, and tables that no terminal cuts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPED = 100
"""Columns of a table where standard output is no terminal: a file, a pipe, a log of CI."""


def plain_console(*, stderr: bool = False, width: int = PIPED) -> Console:
    """A console that shows names and paths to the letter: `[red]` and `:x:` in them are no marks.

    Args:
        stderr: print there.
        width: of standard output, where that is no terminal.
    """
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, width=None if stderr or sys.stdout.isatty() else width)


def say(text: str, *, err: bool = True) -> None:
    """Print a sentence, to standard error or output; on a terminal it is broken between words, elsewhere one line."""
    import shutil
    import textwrap

    import typer

    if (sys.stderr if err else sys.stdout).isatty():
        width = max(40, shutil.get_terminal_size().columns)
        lines = [textwrap.wrap(one, width, break_long_words=False, break_on_hyphens=False) for one in text.split("\n")]
        text = "\n".join("\n".join(line) for line in lines)
    typer.echo(text, err=err)


def print_table(
    console: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[str] | None],
    *,
    title: str = "",
    bold: Sequence[Sequence[str]] = (),
) -> None:
    """A table whose first column names the rows; one that is too wide goes on below itself, and no number is cut.

    Args:
        console: a terminal, or what stands for one, of at least 40 columns.
        heads: one for each column.
        rows: cells, of one line or several; a row may end early, and None draws a line.
        title: printed above.
        bold: the rows that stand out.
    """
    from rich import box
    from rich.table import Table

    full = [None if row is None else [*row, *[""] * (len(heads) - len(row))] for row in rows]
    cells = [list(heads), *[row for row in full if row is not None]]
    width = [max(len(line) for row in cells for line in row[i].split("\n")) for i in range(len(heads))]
    width[0] = min(width[0], max(20, console.width // 3))
    blocks: list[list[int]] = [[]]
    room = free = console.width - width[0] - 2
    for i in range(1, len(heads)):
        if blocks[-1] and width[i] + 2 > free:
            blocks.append([])
            free = room
        blocks[-1].append(i)
        free -= width[i] + 2

    def aligned(cell: str, i: int) -> str:
        # Here, since Rich aligns no cell that may not be cut.
        return "\n".join(line.rjust(width[i]) for line in cell.split("\n"))

    if title:
        console.print(title, markup=False, highlight=False)
    for block in blocks:
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        table.add_column(heads[0], width=width[0], overflow="fold")
        for i in block:
            table.add_column(aligned(heads[i], i), no_wrap=True, overflow="ignore")
        for row, original in zip(full, rows, strict=True):
            if row is None:
                table.add_section()
            else:
                style = "bold" if original in bold else None
                table.add_row(row[0], *(aligned(row[i], i) for i in block), style=style)
        console.print(table)
