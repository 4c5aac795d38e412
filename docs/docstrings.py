"""Docstrings as the site shows them: doctests become code blocks (an extension of griffe, which reads the sources)."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
"""From a prompt to the next empty line; in a section it is indented, and known to be code."""


class Doctests(Extension):
    """Put each doctest between fences: as Markdown `>>>` would be a quotation in a quotation."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = fence_doctests(obj.docstring.value)


def fence_doctests(text: str) -> str:
    r"""The docstring with fences; the section `Example:` under the name that griffe knows.

    >>> print(fence_doctests("Adds.\n\n>>> 1 + 1\n2"))
    Adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    return DOCTEST.sub(lambda match: f"```pycon\n{match[0]}\n```", text)
