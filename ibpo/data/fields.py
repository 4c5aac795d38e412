"""What the rows of logs say: values under dotted names, texts of messages, numbers as people write them, usage."""

# A log holds anything.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ibpo.data.files import LogError, parse_json
from ibpo.prices import CACHE_READ, CACHE_WRITTEN, TOOL_RESULTS, TokenUse, read_prompt_use
from ibpo.usage import as_count, read_tokens

Json = dict[str, Any]
PROBLEM_NAMES = ("problem_id", "problem", "question_id", "sample_id", "example_id", "prompt_id", "task_id")
"""What the identifier of a problem is called, where a row has one of its own."""
PROMPT_COUNTS = ("uncached_input_tokens", "cached_input_tokens", "cache_write_tokens")
"""What the prompt's tokens are called here, of which other names may mean all or a part."""
GEMINI_THOUGHTS = ("thoughtsTokenCount", "thoughts_token_count")
USAGES = ("usage", "usageMetadata", "usage_metadata")
"""What servers call the account of an answer's tokens."""
NOTHING = ("", "nan", "n/a", "na", "null", "none", "-")
"""What tables write where there is nothing."""


def lookup(row: Any, name: str) -> Any:
    """The value of a column, or of a dotted name into structs, lists and cells that hold JSON; None without.

    Example:
        >>> lookup({"usage": '{"details": {"n": 3}}', "a.b": [4]}, "usage.details.n"), lookup({"a.b": [4]}, "a.b.0")
        (3, 4)
    """
    if isinstance(row, str) and row[:1] in "{[":
        row = parse_cell(row)
    if isinstance(row, Mapping):
        if name in row:
            return row[name]
        parts = name.split(".")
        for size in range(len(parts) - 1, 0, -1):  # names that hold dots themselves, such as OpenTelemetry's
            head = ".".join(parts[:size])
            if head in row:
                return lookup(row[head], ".".join(parts[size:]))
    if isinstance(row, list):
        head, _, rest = name.partition(".")
        if head.isdigit() and int(head) < len(row):
            return lookup(row[int(head)], rest) if rest else row[int(head)]
    return None


def parse_cell(text: str) -> Any:
    """Parse a cell that holds JSON, or an object as Python prints it (`{'ok': True}`); None for neither.

    Example:
        >>> parse_cell('{"n": 1}'), parse_cell("{'ok': True, 'n': None}"), parse_cell("{x}")
        ({'n': 1}, {'ok': True, 'n': None}, None)
    """
    try:
        return parse_json("", text)
    except LogError:
        pass
    if not re.match(r"[\[{]\s*['{\[]", text):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def find_alike(names: Iterable[str], wanted: str) -> str | None:
    """The name that is the wanted one, or the only one that differs from it by capitals, spaces and signs alone.

    Example:
        >>> find_alike(["Output tokens", "id"], "output_tokens"), find_alike(["Tokens", "TOKENS"], "tokens")
        ('Output tokens', None)
    """
    names = list(names)
    if wanted in names:
        return wanted
    alike = [name for name in names if _bare(name) == _bare(wanted)]
    return alike[0] if len(alike) == 1 else None


def identifier_of(value: Any) -> str:
    """An identifier as text: 1, "1" and 1.0 are the same one.

    Example:
        >>> identifier_of(1.0), identifier_of(" q1"), identifier_of(0.5)
        ('1', 'q1', '0.5')
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value).strip()


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def first_of(row: Any, *names: str) -> Any:
    """The value of the first of these columns that has one."""
    return next((value for name in names if (value := lookup(row, name)) not in (None, "")), None)


def says_error(row: Mapping[str, Any]) -> bool:
    """Whether a row has an `error`, so its request failed; what tables write for nothing is no error.

    Example:
        >>> says_error({"error": "timeout"}), says_error({"error": "None"}), says_error({"error": False})
        (True, False, False)
    """
    value = row.get("error")
    return value not in (None, False, 0, {}, []) and str(value).strip().lower() not in (*NOTHING, "false", "0")


def read_text(content: Any) -> str:
    """The text of a message: a string, or parts of which some are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else str(first_of(part, "text", "content") or "")
                       for part in content
                       if not (isinstance(part, dict) and part.get("type") in ("reasoning", "thinking")))  # fmt: skip
    return "" if content is None else str(content)


def read_prompt(asked: Any) -> str:
    """What a request asked: its last message from a user, else all of its text."""
    asked = _asked_in(asked)
    users = _users(asked)
    return read_text(_content(users[-1]) if users else asked)


def read_user_turns(asked: Any) -> str | None:
    """All that users said, where that is more than one text: it distinguishes requests whose last message is the same.

    Example:
        >>> read_user_turns([{"role": "user", "content": "Sure?"}])
        >>> read_user_turns([{"role": role, "content": role[:1]} for role in ("user", "assistant", "user")])
        '["u", "u"]'
    """
    contents = [_content(one) for one in _users(_asked_in(asked))]
    images = any(isinstance(part, dict) and first_of(part, "text", "content") is None
                 for content in contents if isinstance(content, list) for part in content)  # fmt: skip
    if len(contents) < 2 and not images:
        return None
    return json.dumps(contents if images else list(map(read_text, contents)), default=str)


def _asked_in(asked: Any) -> Any:
    """The messages, or the text, of a request or of a cell that holds one."""
    if isinstance(asked, str) and asked[:1] in "[{":
        asked = parse_cell(asked) or asked
    if isinstance(asked, dict):
        return _asked_in(first_of(asked, "messages", "input", "prompt", "contents") or "")
    return asked


def _users(asked: Any) -> list[Json]:
    """The messages of users, or else all; none where it holds no messages."""
    if isinstance(asked, list) and asked and all(isinstance(one, dict) and "role" in one for one in asked):
        return [one for one in asked if one["role"] in ("user", "human")] or asked
    return []


def _content(message: Json) -> Any:
    return first_of(message, "content", "parts")  # which Gemini's are called


def read_usage(usage: Any) -> Json:
    """Tokens of the whole completion, thoughts included, of the thoughts, and of the prompt, by any server's `usage`.

    Every server's names are brought to those of OpenAI's; the arithmetic is `ibpo.usage.read_tokens`.

    Example:
        >>> read_usage({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 33})
        {'tokens': 24, 'thinking_tokens': 20, 'uncached_input_tokens': 9}
        >>> read_usage({"candidatesTokenCount": 4, "thoughtsTokenCount": 3})
        {'tokens': 7, 'thinking_tokens': 3}
    """
    said = _first_counted(usage, "completion_tokens", "output_tokens", "output", "outputTokens")
    asked = _count(_first_counted(usage, "prompt_tokens", "input_tokens", "input", "inputTokens", "promptTokenCount",
                                  "prompt_token_count"))  # fmt: skip
    total = _first_counted(usage, "total_tokens", "total", "totalTokens", "totalTokenCount", "total_token_count")
    thinking = _count(first_of(usage, "completion_tokens_details.reasoning_tokens",
                               "output_tokens_details.reasoning_tokens", "reasoning_tokens", "output_reasoning_tokens",
                               *GEMINI_THOUGHTS))  # fmt: skip
    count = _count(said)
    visible = first_of(usage, "candidatesTokenCount", "candidates_token_count")
    if said is None and (visible is not None or first_of(usage, *GEMINI_THOUGHTS) is not None):
        said, count = visible, (_count(visible) or 0) + (thinking or 0)  # Gemini's: the answer alone
    # What is counted besides the prompt's tokens, and is in the total too.
    beside = sum(_count(first_of(usage, name)) or 0 for name in (*CACHE_READ, *CACHE_WRITTEN, *TOOL_RESULTS))
    whole, thought = read_tokens(
        {"completion_tokens": count, "prompt_tokens": None if asked is None else asked + beside,
         "total_tokens": _count(total), "reasoning_tokens": thinking}
    )  # fmt: skip
    return known(tokens=said if whole is None else whole, thinking_tokens=thought) | prompt_counts(usage)


def prompt_counts(usage: Any) -> Json:
    """The prompt's tokens, by what a cache had of them; what is 0 is left out.

    Example:
        >>> prompt_counts({"input_tokens": 600, "cache_read_input_tokens": 400})
        {'uncached_input_tokens': 600, 'cached_input_tokens': 400}
    """
    use = read_prompt_use(usage) if isinstance(usage, Mapping) else TokenUse()
    counts = zip(PROMPT_COUNTS, (use.input, use.cached_input, use.cache_write), strict=True)
    return {name: int(number) if number == int(number) else number for name, number in counts if number}


def _first_counted(usage: Any, *names: str) -> Any:
    """What the first name says that counts something: relays fill in the names of another API with 0."""
    said = [value for name in names if (value := first_of(usage, name)) is not None]
    return next((value for value in said if _count(value)), next(iter(said), None))


def _count(value: Any) -> int | None:
    """A count of tokens, as a number or as a text; None where it is no count."""
    try:
        return None if isinstance(value, bool) else as_count(read_number(value))
    except (TypeError, ValueError, OverflowError):
        return None


def known(**fields: Any) -> Json:
    """Only what has a value."""
    return {name: value for name, value in fields.items() if value is not None}


def read_object(value: Any) -> Json:
    """An object, or a cell that holds one as JSON; anything else is empty."""
    if isinstance(value, str) and value[:1] == "{":
        # Some exports double the quotes of a cell twice.
        value = parse_cell(value.replace('""', '"') if value.startswith('{""') and value != '{""}' else value)
    return value if isinstance(value, dict) else {}


_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([, '\u2019\u00a0\u202f]\d{3})+(\.\d+)?")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_POINTS = re.compile(r"[+-]?[1-9]\d{0,2}([. '\u2019\u00a0\u202f]\d{3})+(?P<decimals>,\d+)?")
"""Thousands as they are parted where a comma separates decimals."""


def read_number(value: Any, *, decimal_comma: bool = False) -> float:
    """Read a number as people write it: `1,297` and `1 297` are thousands, `0,5` is a half.

    Args:
        value: A number, or a text that says one.
        decimal_comma: Whether `1,297` is 1.297, as where `0,5` is in the same column; `1.297` is 1297 then.

    Raises:
        ValueError: The value is not valid.

    Example:
        >>> read_number("1,297"), read_number("0,5"), read_number(" 12.5 "), read_number("1,297,300.5")
        (1297.0, 0.5, 12.5, 1297300.5)
        >>> read_number("1,297", decimal_comma=True), read_number("1.297,5"), read_number("1.297", decimal_comma=True)
        (1.297, 1297.5, 1297.0)
    """
    if not isinstance(value, str):
        return float(value)
    text = value.strip().removesuffix("%").rstrip()  # a blank may be before the sign
    if _COMMA.fullmatch(text) and (decimal_comma or not _THOUSANDS.fullmatch(text)):
        text = text.replace(",", ".")
    elif (found := _POINTS.fullmatch(text)) and (decimal_comma or found["decimals"]):
        text = re.sub(r"[^-+\d,]", "", text).replace(",", ".")
    elif _THOUSANDS.fullmatch(text):
        text = re.sub(r"[, '\u2019\u00a0\u202f]", "", text)
    return float(text)


class Commas:
    """What a comma separates in the numbers of each column, thousands or decimals: the same in all rows.

    Args:
        rows: The first rows, which decide: `0,5` and `12,75` have decimals, and so has `1,297` next to them.
        columns: Columns of numbers.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> None:
        names = set(columns)
        self._decimal = {name for row in rows for name in names if _comma(lookup(row, name)) == "decimals"}
        self._thousands: dict[str, str] = {}

    def are_decimal(self, place: str, name: str, value: Any) -> bool:
        """Whether the commas of this column, which holds this value here, separate decimals.

        Raises:
            LogError: They do here, and were read as parting thousands before.
        """
        if name in self._decimal or not isinstance(value, str) or "," not in value:
            return name in self._decimal
        if _comma(value) == "thousands":
            self._thousands.setdefault(name, value)
        elif _comma(value) == "decimals" and name in self._thousands:
            raise LogError(
                f"{place}: {value!r} has decimals behind its comma, but {self._thousands[name]!r} was read as "
                "thousands; write decimals behind a point in all rows"
            )
        return False


def _comma(value: Any) -> str:
    """What the one comma of a text that says a number parts; "" where it has none."""
    text = value.strip().removesuffix("%").rstrip() if isinstance(value, str) else ""
    if (found := _POINTS.fullmatch(text)) and found["decimals"]:
        return "decimals"
    return "" if not _COMMA.fullmatch(text) else "thousands" if _THOUSANDS.fullmatch(text) else "decimals"
