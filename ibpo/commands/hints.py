"""What to type next: near names of files that are not there, and the same command with what it lacked."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

MOST_FILES = 10_000
"""Entries of a folder that are compared with a name."""
SKIPPING = ("allocate", "collect", "report")
"""Commands that can leave bad rows out."""
JOINING = ("allocate", "collect")
"""Commands that take tables besides the log; the others join those that are in the log's folder."""
ABSENT = ("there is no such", "no such file")
"""What an error line says of a file that is not there."""


def near_file(text: str, args: Sequence[str]) -> str:
    """The end of an error line: a file like the one that the line names and that is not there.

    Args:
        text: the error line.
        args: the command's arguments.
    """
    if "did you mean" in text or not any(words in text.lower() for words in ABSENT):
        return ""
    for arg in args:
        name = arg if not arg.startswith("-") else arg.partition("=")[2]
        path = Path(name).expanduser() if name and "\0" not in name else Path()
        if name and name in text and path.name and not os.path.lexists(path) and path.parent.is_dir():
            with os.scandir(path.parent) as entries:
                names = [entry.name for entry, _ in zip(entries, range(MOST_FILES), strict=False)]
            if close := difflib.get_close_matches(path.name, names, n=1, cutoff=0.7):
                return f"; did you mean {path.parent / close[0] if path.parent != Path() else close[0]}?"
    return ""


def completed(args: Sequence[str], lacks: Sequence[str]) -> str:
    """The same command with what it lacked, in place of what it said of the same field.

    Example:
        >>> completed(["allocate", "log", "--columns", "reward=corect"], ["--columns", "reward=correct"])
        'ibpo allocate log --columns reward=correct'
    """
    said = {_field(*pair) for pair in zip(lacks[::2], lacks[1::2], strict=False)}
    kept: list[str] = []
    left = list(args)
    while left:
        option, equals, value = left[0].partition("=")
        if equals and option.startswith("--") and _field(option, value) in said:
            left = left[1:]
        elif left[0].startswith("--") and left[1:] and _field(*left[:2]) in said:
            left = left[2:]
        else:
            kept.append(left.pop(0))
    return shlex.join(["ibpo", *kept, *lacks])


def for_command(called: Sequence[str], text: str, lacks: Sequence[str]) -> tuple[str, list[str]]:
    """What a log lacks, by the options of the command: those that take one part of a log name its column in --part.

    Where the command has no option `--on-error`, or takes no tables besides the log, the advice has neither.

    Example:
        >>> for_command(["simulate", "--part=claude"], "name it with --by COLUMN", ["--by", "COLUMN"])
        ('name it with --part COLUMN=VALUE', ['--part', 'COLUMN=VALUE'])
    """
    options = list(lacks)
    if not called or called[0] not in SKIPPING:
        text = re.sub(r" \(--on-error skip[^)]*\)", "", text)
    if options[-1:] == ["REWARDS.csv"] and called[:1] and called[0] not in JOINING:
        options.pop()
        put = "put that table into the log's folder and name the folder"
        text = text.replace("name it with REWARDS.csv", put).replace(" REWARDS.csv", f", and {put}")
    if "--by" not in options or not any(one.partition("=")[0] == "--part" for one in called):
        return text, options
    place = options.index("--by")
    options[place : place + 2] = ["--part", "COLUMN=VALUE"]
    return text.replace("--by COLUMN", "--part COLUMN=VALUE"), options


def _field(option: str, value: str) -> tuple[str, str]:
    """An option, and of `--columns FIELD=COLUMN` the field; several fields in one text are nobody's."""
    several = option == "--columns" and "," in value
    return option, value if several else value.partition("=")[0] if option == "--columns" else ""
