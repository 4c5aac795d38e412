r"""How answers are read out of responses: boxes, numbers, programs, and the marked blocks of the shipped formats.

Responses made of marked blocks look like `[TRIAL] ... [/TRIAL] [TRIAL] ... [/TRIAL] ... \boxed{7}`, and one reader
serves all formats that have blocks. It is strict: a marker that is nested, unclosed, of another format or in the wrong
place makes the response malformed, with the reason, and a malformed response gives no answer. Only these exact markers
count: `[TRIAL]` in full-width brackets or in another language is plain text. All readers are linear in the length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ibpo.answers import representatives
from ibpo.errors import IbpoError
from ibpo.programs import last_program

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
BRACE = re.compile(
    r"\\(?:boxed|fbox)\s*(?:\{|(?P<bare>[-+−]?(?:[\d.,]*\d|[A-Za-z](?![A-Za-z]))))|(?P<sign>(?<!\\)\\[{}])|[{}]"
)
r"""A box without braces holds one number or letter. Braces behind a backslash are signs: `\left\{ x \right.`"""
SPACED = r"(?:,|\{,\}|,\\!|\\,|\\ |~|['\u2019\u00a0\u2009\u202f])"
"""What separates thousands, except a plain space, which separates words too."""
DIGITS = (
    rf"(?:\d{{1,3}}(?:{SPACED}\d{{3}})+(?!\d)"
    r"|(?<!\d)(?<!\d{3} )\d{1,3}(?= (?:\d{3} )*0\d\d(?!\d))(?: \d{3})+(?!\d)"
    r"|\d+)"
)
"""A whole number. Plain spaces part its thousands where one of the groups of three begins with 0, as none in a list of
numbers does: `1 000 000` is one number; `5 100 200` is three, and so is `1 234 567`, which looks like such a list."""
RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
EXPONENT = r"(?: ?\^ ?|\*\*)[{(]?"
PART = "[¼-¾⅐-⅞]"
LATEX = (
    r"(?:(?P<before>\d+) ?)?\\[dtc]?frac\s*(?:\{(?P<inner>[-−])?(?P<over>\d+)\}|(?P<short_over>\d))"
    r"\s*(?:\{(?P<under>\d+)\}|(?P<short_under>\d))"
)
FRACTION = (
    rf"(?:(?P<whole>{DIGITS}) (?!0))?(?<![\d./\u2044])(?<![/\u2044] )(?P<top>{DIGITS}) ?[/\u2044] ?(?P<bottom>{DIGITS})"
    r"(?!\d|[.,]\d| ?[/\u2044] ?\d)"
)
"""It may end a sentence; a date, `3/4/2024`, is none."""
POWER = (
    r"[eE](?P<e>[-+]?\d+)(?!\w)"
    rf"|\s*(?:\\times|\\cdot|[×·x*])\s*10\s*(?:{EXPONENT}(?P<power>[-+−]?\d+)[)}}]?|(?P<raised>[{RAISED}]+))"
    rf"|{EXPONENT}(?P<own>[-+−]?\d+)(?![.,/]?\d)[)}}]?|(?P<own_raised>[{RAISED}]+)"
)
NUMBER = re.compile(
    rf"(?=[-−–\d.\\^*]|{PART})(?:"  # nearly every character of a response begins none: seen at once
    r"(?<=[A-Za-z}])(?:\^|\*\*)[{(]?[-−]?\d+|"  # the exponent of a unit or a variable, cm^3, is not a number of its own
    rf"(?P<minus>(?<![\w)\]}}])[-−–](?:\\?[$€£¥₹])?)?(?:{LATEX}|{FRACTION}"
    rf"|(?P<number>{DIGITS}(?:\.\d+)?|(?<!\.)\.\d+)(?:{POWER})?(?: ?(?P<part>{PART}))?|(?P<part_alone>{PART})))"
)


def boxed(completion: str) -> str | None:
    r"""What the last `\boxed{...}` holds, braces balanced; an unclosed one counts for nothing.

    Example:
        >>> boxed(r"so \boxed{1}, no: \boxed{\frac{1}{2}}."), boxed(r"\boxed 5."), boxed(r"$\fbox {5}$")
        ('\\frac{1}{2}', '5', '5')
    """
    opened: list[int] = []
    start, end = 0, 0
    for brace in BRACE.finditer(completion):
        if brace["sign"]:
            continue
        if brace["bare"]:
            start, end = brace.span("bare")
        elif brace[0] != "}":
            opened.append(brace.end() if brace[0] != "{" else 0)
        elif opened and (first := opened.pop()) > start:
            start, end = first, brace.start()
    return completion[start:end].strip() or None


def last_number(completion: str) -> str | None:
    r"""The last number, thousands separators taken out; a fraction or a power belongs to it.

    Plain spaces part thousands where nothing else can be meant (`DIGITS`). The exponent of a unit or a variable, as in
    `12 cm^3`, is not a number of its own.

    Example:
        >>> [
        ...     last_number(text)
        ...     for text in ("she pays 3 x $1,250.50.", "it is −5", "1.5 × 10^3", "3/4.", r"2\frac{1}{2}")
        ... ]
        ['1250.50', '-5', '1.5e3', '3/4', '2 1/2']
        >>> [last_number(text) for text in ("10^6", "2^10.", "1 000 000", "5 100 200", "12 cm^3", "on 3/4/2024")]
        ['1e6', '2^10', '1000000', '200', '12', '2024']
    """
    numbers = [found for found in NUMBER.finditer(completion) if found.lastindex]
    if not numbers:
        return None
    found = numbers[-1]
    sign = "-" if bool(found["minus"]) != bool(found["inner"]) else ""
    if found["part_alone"]:
        return sign + found["part_alone"]
    top, bottom = found["over"] or found["short_over"], found["under"] or found["short_under"]
    if top or found["top"]:
        whole = _digits(found["before"] or found["whole"] or "")
        top, bottom = _digits(top or found["top"]), _digits(bottom or found["bottom"])
        return f"{sign}{whole}{' ' if whole else ''}{top}/{bottom}"
    digits, part = _digits(found["number"]), found["part"] or ""
    if own := _exponent(found["own"] or found["own_raised"]):
        return f"{sign}1e{own}" if digits == "10" else f"{sign}{digits}^{own}"
    power = _exponent(found["e"] or found["power"] or found["raised"])
    return f"{sign}{digits}{'e' + power if power else ''}{part}"


def _digits(text: str) -> str:
    """A number without what parts its thousands."""
    return re.sub(r"[^\d.]", "", text)


def _exponent(text: str | None) -> str:
    """An exponent in plain digits; "" without one."""
    return (text or "").translate(str.maketrans(RAISED + "−", "0123456789-+-")).removeprefix("+")


def after(marker: str) -> Callable[[str], str | None]:
    r"""A reader of what follows the last `marker` on its line or the next, without a colon or half an emphasis.

    Example:
        >>> after("####")("48 + 24 = 72 #### 72 "), after("Answer:")("**Answer:** 72")
        ('72', '72')
        >>> after("<answer>")("<answer>72</answer>")
        '72'
        >>> after("answer is")("So the answer is:\n\\[\n\\frac{1}{2}\n\\]\nas we saw.")
        '\\[ \\frac{1}{2} \\]'
    """

    def read(completion: str) -> str | None:
        _, found, rest = completion.rpartition(marker)
        if not found:
            return None
        if marker[0] == "<" and marker[-1] == ">":
            rest = rest.partition(f"</{marker[1:]}")[0]
        lines = rest.splitlines()
        for number, line in enumerate(lines):
            if (text := _whole_emphasis(line.strip().lstrip(":：").strip())) in DISPLAYS:  # noqa: RUF001
                return " ".join([text, *_until(DISPLAYS[text], lines[number + 1 :])])
            if text:
                return text
        return None

    return read


DISPLAYS = {r"\[": r"\]", "$$": "$$"}


def _until(end: str, lines: list[str]) -> list[str]:
    """The lines up to the one that ends a formula; all where none does."""
    stripped = [line.strip() for line in lines]
    last = next((i for i, line in enumerate(stripped) if line.rstrip(".").endswith(end)), len(stripped) - 1)
    return stripped[: last + 1]


def _whole_emphasis(line: str) -> str:
    """Without the end of an emphasis that begins before it, or the beginning of one that ends after it."""
    for mark in ("**", "__", "*", "_"):
        others = line if len(mark) == 2 else line.replace(2 * mark, "")
        odd = others.count(mark) % 2 == 1
        ends = others.rstrip(".").endswith(mark)
        if others.startswith(mark) and (odd or (others.startswith(f"{mark} ") and not ends)):
            line = line.removeprefix(mark).strip()
        elif odd and ends:
            line = line.rstrip(".").removesuffix(mark).strip()
    return line


LAST_ANSWER = re.compile(r"<answer>\s*(\S+)\s*$")


def tagged_answer(completion: str) -> str | None:
    """The word after the last `<answer>`, if the completion ends with it."""
    found = LAST_ANSWER.search(completion)
    return found.group(1) if found else None


def thought_answer(completion: str) -> str | None:
    """Like `tagged_answer`, for a response whose thought was closed; an unclosed thought gives no answer."""
    return tagged_answer(completion) if completion.count("</think>") == 1 else None


def answer_reader(spec: str) -> Callable[[str], str | None]:
    """The reader of a spec: `boxed`, `last_number`, `code` (see `last_program`) or `after:MARKER`.

    Raises:
        IbpoError: for any other spec.
    """
    if spec == "boxed":
        return boxed
    if spec == "last_number":
        return last_number
    if spec == "code":
        return last_program
    kind, colon, marker = spec.partition(":")
    if kind == "after" and colon and marker.strip():
        return after(marker.strip())
    raise IbpoError(f"{spec!r} reads no answer; write boxed, last_number, code or after:MARKER")


TAGS = ("TRIAL", "DRAFT", "REFLECTION", "ATTEMPT", "REVISION", "VOICE")
"""Every tag of every shipped format: one format's marker inside another's response is an error, not text."""
MARKER = re.compile(rf"\[(/?)({'|'.join(TAGS)})\]")


class CannotBuild(IbpoError):
    """The parts do not make a response that would be read back as them; says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a response holds, read back from its text."""

    attempts: tuple[str, ...] = ()
    """The answers of its blocks, in order; of blocks that must give one."""
    answer: str | None = None
    """The final answer; None where the response is malformed."""
    problem: str | None = None
    """What is wrong with its form, in one line; None where nothing is."""


def malformed(problem: str, attempts: tuple[str, ...] = ()) -> Reading:
    """A reading without an answer, with the reason."""
    return Reading(attempts=attempts, problem=problem)


def split_blocks(completion: str) -> tuple[list[tuple[str, str]], str]:
    """(tag, body) of each block, and the text after the last one.

    Raises:
        CannotBuild: says which marker is out of place.

    Example:
        >>> split_blocks("[TRIAL] a [/TRIAL] [TRIAL] b [/TRIAL] so c")
        ([('TRIAL', 'a'), ('TRIAL', 'b')], 'so c')
    """
    blocks: list[tuple[str, str]] = []
    opened, start, end = "", 0, 0
    for marker in MARKER.finditer(completion):
        closing, tag = marker.groups()
        if closing:
            if tag != opened:
                raise CannotBuild(f"{marker[0]} closes nothing that is open")
            blocks.append((tag, completion[start : marker.start()].strip()))
            opened, end = "", marker.end()
        else:
            if opened:
                raise CannotBuild(f"{marker[0]} stands inside [{opened}]")
            if completion[end : marker.start()].strip():
                raise CannotBuild(f"there is text between blocks, before {marker[0]}")
            opened, start = tag, marker.end()
    if opened:
        raise CannotBuild(f"[{opened}] is not closed")
    return blocks, completion[end:].strip()


def one_box(text: str, place: str) -> str:
    r"""The answer of a text that boxes one; several boxes are allowed if they hold the same.

    Raises:
        CannotBuild: where there is none, an unclosed one, or several that differ.
    """
    starts = [match.start() for match in BOX.finditer(text)]
    if not starts:
        raise CannotBuild(f"{place} boxes no answer")
    # Each box up to where the next one begins; a box within a box leaves the outer one unclosed.
    found = [boxed(text[start:end]) for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    answers = [answer for answer in found if answer is not None]
    if len(answers) < len(found):
        raise CannotBuild(f"{place} holds a box that is empty, unclosed or nested")
    if len(set(representatives(answers))) > 1:
        raise CannotBuild(f"{place} boxes several answers")
    return answers[-1]
