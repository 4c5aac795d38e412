"""Refuse words that a non-native engineer has to read twice, and name the plain word to write.

    python docs/plain_english.py              # all that users and readers see
    python docs/plain_english.py PATH ...     # these files, or all files of these folders

What is read depends on the file: Markdown without code and link targets; docstrings, comments and string literals of
two or more words in Python (errors and `--help` are among them); text, attributes and scripts of HTML pages; comments
of TOML, YAML, shell, C and make. Exit status: 0 no refused word, 1 some, 2 a path that cannot be read. `make lint`
runs it.

A new rule needs a plain alternative that fits nearly always. A true use that a rule refuses goes into `TRUE_USES`
(every file) or `QUOTED` (one file, whose words are not ours).
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

READ = (
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "mkdocs.yml", "pyproject.toml",
    "docs", "ibpo", "experiments", "recipes", "examples", "findings",
)  # fmt: skip
"""What is read where no path is given."""

START = r"(?:^|(?<=[.!?:] ))"
"""The beginning of a sentence, of a cell or of an item."""

END = r"(?= ?[.,;:)!?]| ?$)"
"""The end of a part of a sentence."""

NUMBER = (
    r"(?:\d[\d.,]*|(?:two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|(?:twen|thir|for|fif)ty|hundred)\b)"
)
UNIT = r"(?:seconds?|minutes?|hours?|days?|tokens?|points?|problems?|requests?|lines?|[gmk]i?b)"
PARTICIPLE = (
    r"(?:\w+ed|held|spent|had|made|found|read|put|built|got|done|sent|paid|kept|said|written|chosen|taken|given|seen"
    r"|drawn|known|shown|run|set|left|learnt)"
)

RULES: dict[str, str] = {
    # The words that our texts had most: HOUSE.md, section 2.
    r"dear(er|est|ly)?": "expensive",
    r"mend(s|ed|ing)?": "fix",
    r"tell(s|ing)? (\S+ ){0,4}?apart|told apart": "distinguish",
    r"(be|been|is|are|was|were|not) told from": "distinguished from",
    r"told of|tells? of": "reported, or says that",
    r"(is|are|was|were|be|been) (not |never )?told(?! (to|that|how|what|which|from|apart|of)\b)": "reported",
    r"(lies?|lay|lying) (in|beside|there|under|at|here|next to|on disk)": "is in, or is stored in",
    r"(where|wherever) (\w+ ){1,2}?lies?(?! (above|below|within|between|outside|on|near|far|apart)\b)": "is",
    r"under way": "in flight, or running",
    r"in the mean(" + END + r"|(?= (over|per)\b))": "on average",
    r"leaves? with|leaves? the (program|command|process)|and leaves?" + END: "exit",
    r"leaves? (behind )?(a|an|one) (\w+ ){0,2}?(page|file|folder|report|log|table|picture)": "write",
    r"(" + START + r"|(?<=[,;(] )|\b(that|if|when|as|what|how|because|before|until|whether|models) )"
    r"one (can|cannot|could|needs|must|would|should|wants)": "you",
    r"(that|if|when|as) one (has|may)(?! been\b)": "you",
    # Forms of other languages and of other centuries.
    r"(it|that|this|which|what) (is|are) none(?! of)": "is not one",
    r"(is|are|was|were) (not )?to be " + PARTICIPLE: "must be, can be or will be",
    r"(can|may|could|cannot) be had|to be had|(is|are) had": "available, or possible",
    r"so and so (much|many)": "that much, or the number",
    r"some " + NUMBER + r"( \w+)?[ -]" + UNIT: "about",
    r"next to (no|none|nothing|never)": "almost no",
    r"but for": "except, or except for",
    r"at hand": "available, or here",
    r"as it stands": "as it is, or unchanged",
    r"to the bit": "bit for bit",
    r"without a word": "silently, or without a message",
    r"aloud": "in the output",
    r"for good(" + END + r"|(?= (where|and|if|when|or|with)\b))": "permanently",
    r"for ever": "forever",
    r"in vain": "without success",
    r"in (its|their|his) stead|in the stead of": "instead",
    r"in so far as|inasmuch as|insofar as": "as far as",
    r"an?( good| great) deal": "much",
    r"hence|whence|wherefore": "so, or that is why",
    r"thereby|hereby|whereby|thereupon|whereupon": "so, or by which",
    r"thereof|therein|wherein|whereof|herein|hereof|thereto": "of it, or in which",
    r"hitherto|heretofore|henceforth": "so far, or from now on",
    r"whilst": "while",
    r"amongst": "among",
    r"upon": "on",
    r"lest": "so that it does not",
    r"albeit|notwithstanding": "although, or despite",
    r"nought|naught|aught": "nothing, or anything",
    r"thither|hither|whither|thence|yonder|ere|oft|nigh|betwixt|forthwith|thrice": "an everyday word",
    r"seldom": "rarely",
    r"(?<=, )save for": "except",
    r"apiece": "each",
    r"likewise": "too, or in the same way",
    r"ought to": "should",
    r"shall": "must, or will",
    r"bears|borne": "supports, or holds",
    r"spare[sd]": "saves, or avoids",
    r"owing to|on account of": "because of",
    r"reckon(s|ed|ing)?": "count, or compute",
    r"heed(s|ed|ing)?": "respect, or follow",
}
"""Refused words (a pattern; between words stands one space, also where a line breaks) -> what to write."""

FIRST_WORDS = {
    r"Of (?!course\b)": "begin with what the sentence is about",
    r"Else ": "Otherwise",
}
"""Refused at the beginning of a sentence -> what to write."""

TRUE_USES = (
    r"not (only )?[^.;]{0,60}\bbut for",
    r"(lies?|lay|lying) in ([\[(]|the (interval|range|box|span)\b)",
    r"(problem|task|case) at hand",
    r"^of its own\b",  # a column of the report
)
"""A word inside a match of these is right as it is."""

QUOTED: dict[str, tuple[str, ...]] = {
    "docs/plain_english.py": ("",),
    "ibpo/answers/text.py": ("hence", "was to be"),
    "ibpo/rewards/math_worker.py": ("thrice",),
}
"""File -> beginnings of words that stand in it as others write them; "": all words."""

_RULES = [(re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.MULTILINE), word) for pattern, word in RULES.items()]
_SMALL = str.maketrans({letter: letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"})
_FIRST = [(re.compile(START + pattern, re.MULTILINE), word) for pattern, word in FIRST_WORDS.items()]
_SENTENCE = re.compile(START, re.MULTILINE)
_TRUE = [re.compile(pattern, re.IGNORECASE) for pattern in TRUE_USES]
_NO_PROSE = re.compile(
    r"``.+?``|`[^`\n]+`"  # code
    r"|\w+://[^\s)>\"'\]]+"  # an address
    r"|(?<![\w-])--?[a-z][\w-]*|\b\w+=[^\s=]\S*"  # an option, a setting
    r"|[\w./*-]+\.(?:md|py|pyi|toml|jsonl?|csv|sh|html|txt|ya?ml|sqlite|parquet)\b"  # a file
    r"|\b\w+(?:[./]\w+)*/\w+(?:[./]\w+)*\b"  # a path, a repository
)


class Refusal(NamedTuple):
    """One refused word of a file."""

    line: int
    found: str
    write: str


class Text(NamedTuple):
    """What a reader sees, and the lines of the file where it stands."""

    text: str
    line: int
    last_line: int | None = None
    """Of a literal that is put together from several, whose lines are not those of its text."""


def drop(pattern: str, text: str, flags: int = 0) -> str:
    """The text without what the pattern matches; the rest keeps its lines."""
    return re.sub(pattern, lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=flags)


def read_markdown(text: str) -> Iterator[Text]:
    """Prose of Markdown: no code block, no comment, no target of a link, no tag."""
    text = drop(r"(?ms)^[ \t>]*(`{3,}|~{3,}).*?(?:^[ \t>]*\1[`~]*[ \t]*$|\Z)", text)
    text = drop(r"(?s)<!--.*?-->|(?<=\])\([^()\s]*(?:\([^()]*\)[^()\s]*)*\)|(?<=\])\[[^\]\n]*\]|<[^<>\n]+>", text)
    text = drop(r"(?m)^\[[^\]]+\]:.*$", text)
    yield Text(re.sub(r"\*+", "", text), 1)


def read_python(text: str) -> Iterator[Text]:
    """Docstrings, string literals of two or more words, comments."""
    tree = ast.parse(text)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            said = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            said = node.value
        else:
            continue
        if len(said.split()) > 1:
            last = node.end_lineno or node.lineno
            is_one = said.count("\n") == last - node.lineno
            yield Text(drop(r"(?m)^[ \t]*(?:>>>|\.\.\.(?= )).*$", said), node.lineno, None if is_one else last)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    yield from join_lines((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)


def read_lines(mark: str, text: str) -> Iterator[Text]:
    """Comments that begin with the mark, outside quotes."""
    quoted = drop(r"\"\"\".*?\"\"\"|'''.*?'''", text, re.DOTALL)
    for quote in "\"'":
        quoted = drop(rf"{quote}(?:[^{quote}\\\n]|\\.)*{quote}", quoted)
    found = re.compile(rf"(?:^|(?<=\s)){mark}(.*)$")
    lines = zip(text.splitlines(), quoted.splitlines(), strict=True)
    places = ((number, line, found.search(bare)) for number, (line, bare) in enumerate(lines, 1))
    yield from join_lines((number, line[place.start() :]) for number, line, place in places if place)


def read_script(text: str, line: int = 1) -> Iterator[Text]:
    """Comments of C and JavaScript; string literals of two or more words."""
    pattern = r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`"
    comments = []
    for match in re.finditer(pattern, text, re.DOTALL):
        said, number = match[0], line + text.count("\n", 0, match.start())
        if said.startswith("//"):
            comments.append((number, said))
        elif len(said.split()) > 1:
            yield Text(re.sub(r"\$\{[^{}]*\}", "{}", said.strip("\"'`/* ")), number)
    yield from join_lines(comments)


def read_page(text: str) -> Iterator[Text]:
    """Text, visible attributes and scripts of HTML, also of a Jinja template."""
    for script in re.finditer(r"(?s)<script[^>]*>(.*?)</script>", text):
        yield from read_script(script[1], 1 + text.count("\n", 0, script.start(1)))
    text = drop(r"(?s)<(script|style)\b.*?</\1>|<!--.*?-->|\{[#%].*?[#%]\}|\{\{.*?\}\}", text)
    for attribute in re.finditer(r"\b(?:title|alt|aria-label|placeholder|content)=\"([^\"]*)\"", text):
        yield Text(attribute[1], 1 + text.count("\n", 0, attribute.start()))
    text = re.sub(r"</?(?:p|div|h\d|li|td|th|dt|dd|tr|figcaption|summary|caption|option|label)\b[^>]*>", "\x1f", text)
    yield Text(drop(r"<[^<>]*>", text), 1)


def join_lines(lines: Iterable[tuple[int, str]]) -> Iterator[Text]:
    """Comments on lines that follow each other are one text."""
    first, said = 0, []
    for number, line in [*lines, (-1, "")]:
        if said and number != first + len(said):
            yield Text("\n".join(said), first)
            said = []
        first = first if said else number
        said.append(line.strip().lstrip("#/*!: "))


READERS: dict[str, Callable[[str], Iterator[Text]]] = {
    ".md": read_markdown,
    ".py": read_python,
    ".pyi": read_python,
    ".html": read_page,
    ".j2": read_page,
    ".js": read_script,
    ".c": read_script,
    **dict.fromkeys((".toml", ".yml", ".yaml", ".sh", "Makefile"), partial(read_lines, "#")),
}
"""End of a file's name, or the name -> how it is read."""


def find_refused(said: str) -> Iterator[tuple[int, str, str]]:
    r"""The refused words of a text: position of the first, the words, what to write.

    >>> [found for _, found, _ in find_refused("Dear, and it is\ntold from `mend` in leave-one-out")]
    ['Dear', 'is told from']
    """
    said = drop(_NO_PROSE.pattern, said)
    # One space between words; a new line only where a sentence, an item or a cell begins.
    said = re.sub(r"\n(?=[ \t]*(?:\n|[-+>|#]|\d+\. |$))", "\x1f", said)
    words = [(match.start(), match[0]) for match in re.finditer(r"[^\s\x1f|]+|[\x1f|]+", said)]
    line, starts, places = "", [], []
    for place, word in words:
        is_break = word[0] in "\x1f|"
        is_first = not line or line.endswith("\n")
        if is_break or (is_first and re.fullmatch(r"[-+>#]+|\d+\.", word)):  # the mark of an item
            line = line if is_first else line.rstrip() + "\n"
            continue
        starts.append(len(line))
        places.append(place)
        line += word + " "
    true = [(match.start(), match.end()) for pattern in _TRUE for match in pattern.finditer(line)]
    small = line.translate(_SMALL)
    found = [(match.span(), write) for pattern, write in _RULES for match in pattern.finditer(small)]
    # A capital within a sentence begins a name.
    found = [row for row in found if not line[row[0][0]].isupper() or _SENTENCE.match(line, row[0][0])]
    found += [(match.span(), write) for pattern, write in _FIRST for match in pattern.finditer(line)]
    for (begin, end), write in found:
        if not any(first <= begin and end <= last for first, last in true):
            yield places[bisect_right(starts, begin) - 1], line[begin:end].strip(), write


def check(path: Path) -> list[Refusal]:
    """The refused words of a file, by line.

    Raises:
        OSError, ValueError, SyntaxError: The file cannot be read, or is not what its name says.
    """
    text = path.read_text(encoding="utf-8")
    read = READERS.get(path.suffix) or READERS[path.name]
    quoted = QUOTED.get(path.relative_to(ROOT).as_posix(), ()) if path.is_relative_to(ROOT) else ()
    lines = text.splitlines()
    refused = set()
    for said, first, last in read(text):
        for place, found, write in find_refused(said):
            if found.lower().startswith(quoted):
                continue
            line = first + said.count("\n", 0, place)
            if last is not None:  # the first line of the literal that has the words, or their first one
                span = range(first, last + 1)
                having = [n for words in (found, found.split()[0]) for n in span if words in lines[n - 1]]
                line = (having or [first])[0]
            refused.add(Refusal(line, found, write))
    return sorted(refused)


def find_files(path: Path) -> list[Path]:
    """The file, or all files of the folder that have a reader."""
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sorted(file for file in files if file.suffix in READERS or file.name in READERS)


def main() -> int:
    """Print one line for each refused word; 0 where there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="*", type=Path, metavar="PATH", help="file or folder; default: all that is read")
    asked = parser.parse_args()
    paths = [path.resolve() for path in asked.path] or [ROOT / name for name in READ]
    number, files = 0, []
    for path in paths:
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
        if path.is_file() and path.suffix not in READERS and path.name not in READERS:
            parser.error(f"{path}: unknown kind of file; give one of {', '.join(READERS)}")
        files += find_files(path)
    for path in files:
        try:
            refused = check(path)
        except (OSError, ValueError, SyntaxError) as error:
            parser.error(f"{path}: {error}")
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        for line, found, write in refused:
            print(f'{shown}:{line}: "{found}": write: {write}')
        number += len(refused)
    words = "1 refused word" if number == 1 else f"{number} refused words"
    print(f"plain English: {words} in {'1 file' if len(files) == 1 else f'{len(files)} files'}")
    return 1 if number else 0


if __name__ == "__main__":
    sys.exit(main())
