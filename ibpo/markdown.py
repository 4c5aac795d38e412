"""Texts of others as Markdown: which name or path may be in a report without being read as its marks?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ibpo.errors import printable

_MARKS = re.compile(
    r"[\\`*\[\]<|]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # an underscore inside a word is none
    r"|~(?=~)|&(?=#?\w+;)"
    r"|^(?:[#>]|[+-](?=[ -]|$)|=(?=[= ]*$)|\d+(?=[.)](?: |$)))"  # the begin of a heading, a quotation or a list
)


def markdown_text(text: str) -> str:
    r"""A text as GitHub's Markdown shows it to the letter, in one line: marks escaped, control characters written out.

    Example:
        >>> print(markdown_text("a|b `c` <i>d</i> my_model\n# 12 _e_ 3*4"))
        a\|b \`c\` \<i>d\</i> my_model # 12 \_e\_ 3\*4
        >>> print(*map(markdown_text, ("# no heading", "1. no list", "1.5 x", "-5 points")), sep=", ")
        \# no heading, 1\. no list, 1.5 x, -5 points
    """
    line = printable(" ".join(text.split()))
    return _MARKS.sub(lambda mark: f"{mark[0]}\\" if mark[0].isdigit() else f"\\{mark[0]}", line)


def markdown_row(cells: Sequence[str]) -> str:
    r"""A row of a table.

    Example:
        >>> print(markdown_row(["a|b", "1"]))
        | a\|b | 1 |
    """
    return f"| {' | '.join(markdown_text(cell) for cell in cells)} |"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first column names the rows and whose others are numbers.

    Example:
        >>> markdown_table(["name", "n"], [["a", "1"]])
        ['| name | n |', '| --- | ---: |', '| a | 1 |']
    """
    rule = f"| {' | '.join(['---', *['---:'] * (len(head) - 1)])} |"
    return [markdown_row(head), rule, *(markdown_row(row) for row in rows)]


def markdown_code(text: str) -> str:
    r"""A command as a block of code, in one line.

    Example:
        >>> markdown_code("ibpo train 'a\nb'")
        "    ibpo train 'a\\nb'"
    """
    return f"    {printable(text)}"
