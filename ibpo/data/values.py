"""What one cell of a log says: numbers as people write them, words for right and wrong, nothing where nothing is."""

# A log holds anything.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ibpo.data.adapters import COSTS, GROUPS
from ibpo.data.fields import NOTHING, Commas, identifier_of, lookup, read_number
from ibpo.data.files import LogError

GUESSES = {
    "problem": ("problem_id", "question_id", "id", "doc_id", "sample_id", "example_id", "prompt_id", "task_id",
                "problem", "custom_id", "question", "prompt", "input"),
    "response_group": GROUPS,
    "reward": ("reward", "correct", "is_correct", "score", "accuracy", "acc", "passed"),
    "cost": COSTS,
}  # fmt: skip
"""Column names that are tried, in order, for a field that the caller does not name."""
OWN_COLUMNS = ("configuration", "response_group", "finish_reason")
"""By which the rows of a table of ours are known: of `ibpo eval` and whatever else writes such tables."""
BARE = "responses"
"""What `ibpo eval` calls the way of answering that has no response group."""
COMPLETIONS = ("completion", "response_text", "response")
"""Columns that are tried for the text of a response."""
LARGEST = 1e200
"""Costs beyond it are refused: sums of them would overflow."""
DIVIDED = re.compile(r"(?P<column>.+?)\s*/\s*(?P<by>\d+(\.\d+)?)")
"""`score/100`: a column and what its numbers are divided by."""
WORDS = {1.0: ("true", "yes", "y", "t", "pass", "passed", "correct", "right", "c"),
         0.0: ("false", "no", "n", "f", "fail", "failed", "incorrect", "wrong", "i")}  # fmt: skip
TRUTH = {word: value for value, words in WORDS.items() for word in words}
"""What a reward may be called."""


def read_field(place: str, row: Mapping[str, Any], field: str, column: str, commas: Commas | None = None) -> Any:
    """The checked value of one field of one row: a number for `reward` and `cost`, else a text.

    Args:
        place: The place of the row, for the error.
        row: The row.
        field: What is read.
        column: From which column.
        commas: What they part in the log's numbers; None: what each looks like by itself.

    Raises:
        LogError: with place, column and fix.
    """
    value = row.get(column)
    if field in ("reward", "cost"):  # most values need no second look
        is_truth = isinstance(value, bool) and field == "cost"  # true is no cost of 1
        if isinstance(value, int | float) and not is_truth and 0 <= value <= (1 if field == "reward" else LARGEST):
            return float(value)
    elif isinstance(value, str) and value and not (value[0].isspace() or value[-1].isspace()):
        return value
    place = f"{place}, column {column!r}"
    name, divisor = (column, 1.0) if column in row else divided(column)
    value = row[name] if name in row else lookup(row, name)
    absent = field in ("reward", "cost") and str(value).strip().lower() in NOTHING
    if value is None or value in ("", [], {}) or value != value or absent:
        fix = "fill it in or drop the row (--on-error skip)"
        if field in GUESSES:
            fix += f", or name another column with --columns {field}=COLUMN"
        raise LogError(f"{place}: no value; {fix}")
    if isinstance(value, list | Mapping) and field != "problem":  # which may be a list of messages
        kind, inner = ("a list", "0") if isinstance(value, list) else ("an object", str(next(iter(value))))
        fix = f"; name a value in it with --columns {field}={name}.{inner}" if field in GUESSES else ""
        raise LogError(f"{place}: is {kind}; the {field.replace('_', ' ')} must be a text or a number{fix}")
    if field in ("reward", "cost"):
        decimal_comma = commas is not None and commas.are_decimal(place, name, value)
        return check_number(place, value, field, name, divisor, decimal_comma=decimal_comma)
    return identifier_of(value)


def is_own(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a table of ours, which names the way of answering next to the response group."""
    return all(name in row for name in OWN_COLUMNS)


def own_group(row: Mapping[str, Any]) -> str:
    """The response group of a row of ours: the way of answering, where that has a cost and an accuracy of its own.

    `ibpo eval --also two-turns` and the like go on after the responses of a group: the column `response_group` says
    behind which, `configuration` which way it is. A bare prompt has no response group, and is a way like any other.
    What a policy chose by itself, whatever it is called, belongs to the response group as which it opens; "": to none.

    Example:
        >>> row = {"configuration": "steps, corrected", "response_group": "steps", "finish_reason": "stop"}
        >>> own_group(row), own_group(row | {"configuration": "chooses itself"})
        ('steps, corrected', 'steps')
        >>> own_group({"configuration": "responses, refined", "response_group": "", "finish_reason": "stop"})
        'responses, refined'
    """
    group, way = (str(row.get(name) or "").strip() for name in ("response_group", "configuration"))
    first = group or BARE
    return way if way == first or way.startswith(f"{first}, ") else group


def completion_of(row: Mapping[str, Any]) -> str | None:
    """The text of a row's response; None where it has none."""
    return next((row[name] for name in COMPLETIONS if isinstance(row.get(name), str)), None)


@lru_cache(maxsize=1024)  # asked for every row
def divided(name: str) -> tuple[str, float]:
    """The column of `score/100`, and what its numbers are divided by.

    Example:
        >>> divided("score/100"), divided("a/b")
        (('score', 100.0), ('a/b', 1.0))
    """
    found = DIVIDED.fullmatch(name)
    return (found["column"], float(found["by"]) or 1.0) if found else (name, 1.0)


def check_number(
    place: str, value: Any, field: str, name: str, divisor: float = 1.0, *, decimal_comma: bool = False
) -> float:
    """Read a number of a log as people write it, and divide it by `divisor`.

    Args:
        place: File, row and column, for the error.
        value: What is there.
        field: What it is: a `reward` may be a word, and is from 0 to 1; `truncated` may be a word; none is below 0.
        name: The column, for the advice.
        divisor: As `divided` reads it.
        decimal_comma: Whether `1,297` has decimals, as `Commas` says of its column.

    Raises:
        LogError: The value is not of this kind.

    Example:
        >>> check_number("row 1", "Y", "reward", "right"), check_number("row 1", "1,297", "cost", "tokens")
        (1.0, 1297.0)
    """
    if divisor == 1 and type(value) in (int, float) and 0 <= value <= (1 if field == "reward" else LARGEST):
        return float(value)  # as nearly all are written
    truth = TRUTH.get(str(value).strip().lower()) if field in ("reward", "truncated") else None
    if field == "reward" and divisor == 1 and str(value).strip().endswith("%"):
        divisor = 100.0
    try:
        if isinstance(value, bool) and truth is None:  # true is no cost of 1
            raise TypeError
        number = read_number(value, decimal_comma=decimal_comma) / divisor if truth is None else truth
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, list):
        raise LogError(f"{place}: a list of {len(value)}; write a row per response, or name one as {name}.0")
    if not math.isfinite(number):
        raise LogError(f"{place}: {value!r} is not a finite number; the {field} of every response must be one")
    if field == "reward" and not 0 <= number <= 1:
        divided_by = f"{name}/{divisor * (100 if number > 10 else 10):g}"
        fix = f"divide it, for instance by --columns reward={divided_by}, or rescale it" if number > 0 else "rescale it"
        raise LogError(f"{place}: {value!r} is not from 0 to 1, as a reward must be; {fix}")
    if number < 0:
        raise LogError(f"{place}: {value!r} is negative; the {field.replace('_', ' ')} must be at least 0")
    if number > LARGEST:
        raise LogError(f"{place}: {value!r} is above {LARGEST:g}; give it in a larger unit")
    return number
