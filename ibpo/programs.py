"""Which program does a response give? Fenced blocks of Python, and what they define.

Responses are read by their text alone: nothing here parses a program, because what a policy writes may be made to
exhaust a parser. All readers are linear in the length.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Sequence

OPEN_THOUGHT = re.compile(
    r"\s*(?:<(?:\w+:)?think(?::\w+)?>|\[THINK\]|<\|(?:START_THINKING|inner_prefix|think)\|>|<\|open\|>think<\|sep\|>"
    r"|<\|channel\|?>(?:analysis|thought)|to=self<\|message\|>|Here are my reasoning steps:)"
)
END_THOUGHT = re.compile(
    r"</(?:\w+:)?think(?::\w+)?>|\[/THINK\]|<\|(?:END_THINKING|inner_suffix)\|>|<\|close\|>think<\|sep\|>|<channel\|>"
    r"|<\|(?:end|eom)\|><\|(?:start|begin)\|>assistant|<\|channel\|>final<\|message\|>|\[BEGIN FINAL RESPONSE\]"
)
"""The marks of every family of models (`ibpo.responses.FAMILIES`), around what is no answer."""
TAGGED = re.compile(r"\[(?:PYTHON|BEGIN)\](.*?)(?:\[/PYTHON\]|\[DONE\]|\Z)", re.S)
"""Programs as the prompts of CodeLlama and of MBPP's paper ask for them, without fences."""
ANSWER_MARKS = re.compile(r"\s*(?:(?:<\|[A-Za-z_ ]{1,40}\|>|final|to=user)\s*)*")
"""Between the end of a thought and the answer."""
FENCE = re.compile(
    r"^(?P<indent>[ \t>]*)(?P<fence>`{3,}|~{3,})(?P<language>[^`\n]*)$"
    r"|[^`\n]*[ \t>](?P<inline>`{3,})(?P<python>\{?\.?(?i:py)[^`\n]*)$"  # behind text only where it says Python
)
PYTHON = re.compile(r"(?:\{code(?:-cell|-block)?\}[ \t]*)?\{?[ \t]*\.?(?:i?python|py)[\d.]*(?![\w-])", re.IGNORECASE)
TOKEN = re.compile(
    r"""(?P<comment>\#.*)|(?P<quote>\"{3}|'{3})|"(?:\\.|[^"\\])*(?:"|$)|'(?:\\.|[^'\\])*(?:'|$)""",
)
CODE = re.compile(r"(?:async +def|def|class) +\w|import +\w|from +[\w.]+ +import\b|@\w|#!")
SPECIAL = re.compile(r"(?:<\|[A-Za-z_]{1,40}\|>\s*)+\Z")
"""Special tokens that a decoder left at the end of a text."""
BROKEN_INDENT = re.compile(r"^[ \t]*\u00a0[ \t\u00a0]*", re.MULTILINE)
MARKS = "\ufeff\u200b\u200e\u2060"
"""Invisible characters that some editors and models put before a text."""
MADE = re.compile(
    r"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)"
    r"|(\w+)[ \t]*(?::[^=\n]+)?=(?!=)(?![ \t]*(?:[-\d\"'\[{(]|(?:True|False|None)\b)))",
    re.MULTILINE,
)
"""What a program makes itself, and might be called: no name that it imports, and none of a number, text or list."""
DEFINED = re.compile(
    r"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)"
    r"|(\w+)[ \t]*(?::[^=\n]+)?=(?!=)"
    r"|(?:from[ \t]+\S+[ \t]+)?import[ \t]+(.+))",
    re.MULTILINE,
)


def python_blocks(completion: str) -> list[str]:
    r"""What the fenced blocks of Python hold, in their order; blocks without a language count as Python.

    Blocks of other languages (shell, output) are passed over, and so is all that is thought. A fence inside a string of
    several lines, such as an example in a docstring, does not close its block. A last block that is not closed goes to
    the end: a server may have stopped at the closing fence. The indentation of the fence itself (in a list) is taken
    away, that of the program is kept: HumanEval's answers may continue a function. A text without any fence that
    begins as code does is a program as a whole.

    Example:
        >>> python_blocks("Try\n```python\nx = 1\n```\nIt prints\n```text\n1\n```\nor\n```{.python}\ny = 2\n```")
        ['x = 1', 'y = 2']
    """
    answer = SPECIAL.sub("", _answer(completion).lstrip(MARKS))
    lines = answer.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not any(FENCE.match(line) for line in lines):
        tagged = [block.strip("\r\n").rstrip() for block in TAGGED.findall(answer)]
        return tagged or ([answer.rstrip()] if CODE.match(answer.lstrip()) else [])
    blocks = [block for language, block in _blocks(lines) if is_python(language) and block.strip()]
    return [re.sub(r"\A(?:python|py)3?[ \t]*\n", "", block, flags=re.IGNORECASE) for block in blocks]


def _answer(completion: str) -> str:
    """What is behind the thought; nothing behind one without end."""
    ends = [found.end() for found in END_THOUGHT.finditer(completion)]
    if not ends:
        return "" if OPEN_THOUGHT.match(completion) else completion
    answer = completion[ends[-1] :]
    marks = ANSWER_MARKS.match(answer)
    return answer[marks.end() :] if marks and marks[0].strip() else answer


def is_python(language: str) -> bool:
    """Whether the words behind a fence say Python, or nothing.

    Example:
        >>> [is_python(said) for said in ("", "python3.11", "{.python .numberLines}", "py:main.py", "pycon", "text")]
        [True, True, True, True, False, False]
    """
    return not language.strip() or PYTHON.match(language.strip()) is not None


def last_program(completion: str) -> str | None:
    r"""The last block of Python that defines something, else the last one; None where there is none.

    So a block that only shows how the function is used, or what it prints, is not taken for the program. A judge that
    knows what must be defined looks again (`choose_program`).

    Example:
        >>> last_program("Try\n```python\nx = 1\n```\nor\n```\nx = 2\n```\nIt prints\n```text\n2\n```")
        'x = 2'
        >>> last_program("```python\ndef f():\n    return 2\n```\nSo:\n```python\nprint(f())\n```")
        'def f():\n    return 2'
    """
    blocks = python_blocks(completion)
    blocks = [block for block in blocks if re.search(r"[^\W\d_]", block)] or blocks  # numbers are what it prints
    defining = [
        block for block in blocks if block[:1].isspace() or re.search(r"^(?:async +def|def|class) ", block, re.M)
    ]
    return (defining or blocks or [None])[-1]


def choose_program(
    completion: str, answer: str, names: Collection[str], *, continues: bool = False, reads: bool = False
) -> tuple[str, list[str]]:
    """The block that defines what is asked for, and those other blocks whose definitions it uses.

    Args:
        completion: the response.
        answer: what a reader took out of it. Where that is not one of its blocks, it is the program as it is.
        names: what the program has to define.
        continues: whether the program may be the rest of a function that the problem began.
        reads: whether it has to read its input, where it need not define anything.
    """
    blocks = python_blocks(completion)
    if answer.strip() not in [block.strip() for block in blocks] and answer.strip() != completion.strip():
        return answer, []
    defined = [definitions(block) for block in blocks]
    made = [{name for found in MADE.findall(textwrap.dedent(block)) for name in found} for block in blocks]
    # A usage block may import what is asked for, and an output may show a value of its name.
    counts = [tuple(len(found & {*names}) for found in both) for both in zip(made, defined, strict=True)]
    if any(map(any, counts)):
        chosen = max(range(len(blocks)), key=lambda i: (counts[i], i))
    elif continues and (inside := [i for i, block in enumerate(blocks) if block[:1].isspace()]):
        chosen = inside[-1]
    elif reads and (found := _last(blocks, r"\b(?:input|stdin)\b|\bopen\(0", r"\b(?:print|stdout)\b")) is not None:
        chosen = found
    else:
        return answer, []
    program = blocks[chosen]
    missing = ({*re.findall(r"[^\W\d]\w*", program)} | {*names}) - defined[chosen]
    return program, [block for i, block in enumerate(blocks) if i != chosen and defined[i] & missing]


def definitions(program: str) -> set[str]:
    r"""The names that lines without indentation define, assign or import.

    Example:
        >>> sorted(definitions("import os.path, sys as system\nx: int = 3\nclass A:\n    y = 1\nif x == 3: pass"))
        ['A', 'os', 'system', 'x']
    """
    found: set[str] = set()
    for defined, assigned, imported in DEFINED.findall(textwrap.dedent(program)):
        parts = re.split(r",", imported.partition("#")[0].strip("() \t"))
        found |= {(part.split(" as ")[-1].strip().partition(".")[0]) for part in parts} | {defined, assigned}
    return found - {""}


def _last(blocks: Sequence[str], *patterns: str) -> int | None:
    """The number of the last block in which the first of these patterns is found that is found at all."""
    for pattern in patterns:
        if found := [i for i, block in enumerate(blocks) if re.search(pattern, block)]:
            return found[-1]
    return None


def _blocks(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(language, content) of each fenced block."""
    number = 0
    look_into_strings = True
    while number < len(lines):
        opening = FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        fence = opening["fence"] or opening["inline"]
        language, indent = opening["language"] or opening["python"] or "", opening["indent"] or ""
        end, closed = _find_end(lines, number, fence, in_strings=look_into_strings and is_python(language))
        if not closed:  # a string that never ends: fences count as they stand, from here on
            look_into_strings = False
            end, _ = _find_end(lines, number, fence, in_strings=False)
        inside = [_unindented(line, indent) for line in lines[number:end]]
        block = BROKEN_INDENT.sub(lambda m: " " * len(m[0]), "\n".join(inside))
        yield language, block.lstrip(MARKS).rstrip()
        reopened = end < len(lines) and re.search(r"[^\s`~]", lines[end]) is not None
        number = end if reopened else end + 1


def _find_end(lines: Sequence[str], start: int, fence: str, *, in_strings: bool) -> tuple[int, bool]:
    """The line that closes a block, and whether no string was open there that hides an earlier one."""
    closing = re.compile(rf"[ \t>]*{re.escape(fence)}{re.escape(fence[0])}*(?P<rest>[^`\n]*)$")
    quote, hidden = "", False
    for number in range(start, len(lines)):
        found = closing.match(lines[number])
        if found and (
            not found["rest"].strip() or PYTHON.match(found["rest"].strip()) or not found["rest"][0].isalnum()
        ):
            if not quote:
                return number, True
            hidden = True
        elif in_strings:
            quote = _open_quote(lines[number], quote)
    return len(lines), not hidden or not quote


def _open_quote(line: str, quote: str) -> str:
    """The quotation marks of the string that is open after this line, if one is."""
    at = 0
    while True:
        if quote:
            end = re.compile(rf"(?:\\.|(?!{quote}).)*{quote}").match(line, at)
            if end is None:
                return quote
            quote, at = "", end.end()
        token = TOKEN.search(line, at)
        if token is None or token["comment"]:
            return ""
        quote, at = token["quote"] or "", token.end()


def _unindented(line: str, indent: str) -> str:
    return line.removeprefix(indent) if line.startswith(indent) else line.lstrip(" \t>") if ">" in indent else line
