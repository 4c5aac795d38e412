"""How a response gives a program: in a fenced block of Python, of which the last counts."""

from __future__ import annotations

import re

END_THINK = "</think>"
PYTHON = ("", "py", "python", "python3")
FENCED = re.compile(
    r"(?:^(?P<indent>[ \t]*)|[ \t](?=`{3,}py))"  # in the middle of a line only where it says Python
    r"(?P<fence>`{3,}|~{3,})(?P<language>[^\n`]*)\n"
    r"(?P<program>.*?)(?:^[ \t]*(?P=fence)[`~]*[ \t\r]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)


def last_program(completion: str) -> str | None:
    r"""What the last fenced block of Python holds; None without one.

    Blocks of other languages (shell, output) are passed over, and so is all that is thought. A block without language
    is Python. A last one that is not closed goes to the end: a server may have stopped at the closing fence. The
    indentation of the fence itself (in a list) is taken away, that of the program is kept: HumanEval's answers may
    continue a function.

    Example:
        >>> last_program("Try\n```python\nx = 1\n```\nor\n```\nx = 2\n```\nIt prints\n```text\n2\n```")
        'x = 2'
    """
    programs = []
    for block in FENCED.finditer(completion.rpartition(END_THINK)[2]):
        language = block["language"].split()
        if (language[0].lower() if language else "") in PYTHON and block["program"].strip():
            indent = block["indent"]
            programs.append(re.sub(f"^{indent}", "", block["program"], flags=re.M) if indent else block["program"])
    return programs[-1].rstrip() if programs else None
