"""How the help of a command looks: metavars that say what to write, and ranges in words."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from typer.core import TyperCommand, TyperGroup

MOST_CHARACTERS = 60
"""Most characters of the help next to a completion."""


class PlainCommand(TyperCommand):
    """A command whose arguments are called by what stands for them in the usage line, without Python types."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] LOG [TABLE]...`."""
        return ["[OPTIONS]", *[_argument(param) for param in self.get_params(ctx) if _is_argument(param)]]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The arguments, then the options."""
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record: Any = param.get_help_record(ctx)  # pyright: ignore[reportAttributeAccessIssue]
            if record is not None:
                name = _argument(param) if _is_argument(param) else _without_type(record[0])
                text = in_words(record[1])
                # Every argument is required, and the usage line says so.
                rows["Arguments" if _is_argument(param) else "Options"].append(
                    (name, text.removesuffix("[required]").rstrip() if _is_argument(param) else text)
                )
        for title, some in rows.items():
            if some:
                with formatter.section(title):
                    formatter.write_dl(some)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Options, each with the beginning of its help."""
        return shortened(super().shell_complete(ctx, incomplete))


class PlainGroup(TyperGroup):
    """A group of commands whose help says each command's line whole."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Commands and options, each with the beginning of its help."""
        return shortened(super().shell_complete(ctx, incomplete))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Name and line of each command."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_sentence(found.help or "")) for name, found in commands if found])


def shortened(items: list[Any]) -> list[Any]:
    """Completions whose help has one line: Typer wraps a longer one, and fish takes each line for a word."""
    for item in items:
        text = " ".join((item.help or "").split())
        item.help = textwrap.shorten(text, MOST_CHARACTERS, placeholder=" ...") if text else None
    return items


def first_sentence(text: str) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(text.split("\n\n")[0].split())


def in_words(text: str) -> str:
    """The limits of a number, which Typer writes as `1<=x<=1000`.

    Example:
        >>> in_words("Seeds.  [default: 1; 1<=x<=1000]"), in_words("Seed.  [x>=0]")
        ('Seeds.  [default: 1; from 1 to 1000]', 'Seed.  [at least 0]')
    """
    text = re.sub(r"\b([\d.e-]+)<=x<=([\d.e+]+)", r"from \1 to \2", text)
    return re.sub(r"\bx>=([\d.e-]+)", r"at least \1", text)


def _is_argument(param: Any) -> bool:
    return param.param_type_name == "argument"


def _argument(param: Any) -> str:
    return param.metavar or param.name.upper()


def _without_type(name: str) -> str:
    """`--judge <math|exact>` as `--judge math|exact`."""
    return re.sub(r" [<\[]([^<>\[\] ]+\|[^<>\[\] ]+)[>\]]$", r" \1", name)
