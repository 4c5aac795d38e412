"""Responses that others made, one row each: our own column names and those that are common elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from ibpo.errors import IbpoError
from ibpo.tasks import Row

COLUMNS = {
    "problem": ("problem_id", "question_id", "problem", "id"),
    "configuration": ("configuration", "response_group", "effort", "group"),
    "response_group": ("response_group",),
    "reward": ("reward", "correct"),
    "tokens": ("tokens", "num_completion_tokens", "completion_tokens", "output_tokens", "cost"),
    "thinking_tokens": ("thinking_tokens", "reasoning_tokens"),
    "answer": ("answer", "predicted_answer"),
    "gold": ("gold", "target"),
    "level": ("level",),
    "domain": ("domain", "subject"),
    "truncated": ("truncated", "finish_reason"),
    "budget": ("budget",),
    "prompt": ("prompt", "question"),
    "completion": ("completion", "response_text", "response"),
}
"""Field -> the columns that are tried for it, the first that the first row has."""
NEEDED = ("problem", "configuration")
OnError = Literal["fail", "skip"]
NUMBERS = ("reward", "tokens", "thinking_tokens", "budget")


def plain_rows(
    rows: Iterable[Row],
    named: dict[str, str],
    configuration: str = "",
    *,
    on_error: OnError = "fail",
    bad: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Check and rename the columns of a file with one response a row.

    Args:
        rows: Where each stands, and its columns.
        named: Field -> column, for those that the caller names; `by` is the column that splits the file into parts.
        configuration: Name of them all; else a column holds it.
        on_error: At a bad row "fail", or "skip" it.
        bad: Takes what was wrong with the rows that were left out.

    Returns:
        One dict per row: the fields of `Responses`, and `part`, `gold`, `place`. A row without reward has answer and
        gold, to be judged.

    Raises:
        IbpoError: names place, column and mend.

    Example:
        >>> plain_rows([("line 1", {"id": 7, "effort": "low", "correct": True, "tokens": 12})], {})[0]["reward"]
        1.0
    """
    found: list[dict[str, Any]] = []
    columns: dict[str, str] = {}
    for place, row in rows:
        if not columns:
            columns = _resolve(place, row, named, configuration)
        try:
            found.append(_row(place, row, columns, configuration))
        except IbpoError as error:
            if on_error == "fail":
                raise
            if bad is not None:
                bad.append(str(error))
    return found


def _row(place: str, row: dict[str, Any], columns: dict[str, str], configuration: str) -> dict[str, Any]:
    fields = {field: row.get(column) for field, column in columns.items()}
    made: dict[str, Any] = {"place": place, "part": _text(place, columns, fields, "by") if "by" in columns else ""}
    made["configuration"] = configuration or _text(place, columns, fields, "configuration")
    made["problem"] = _text(place, columns, fields, "problem")
    for field in NUMBERS:
        made[field] = _number(place, columns.get(field, field), fields.get(field))
    made["truncated"] = _cut_off(place, columns.get("truncated", ""), fields.get("truncated"))
    for field in ("response_group", "level", "domain", "prompt", "completion"):
        value = fields.get(field)
        made[field] = "" if value is None else str(value)
    for field in ("answer", "gold"):
        value = fields.get(field)
        made[field] = None if value is None or value == "" else str(value)
    made["level"] = made["level"].removeprefix("Level ")
    if made["reward"] is None and made["gold"] is None:
        raise IbpoError(
            f"{place}: neither a reward ({' or '.join(COLUMNS['reward'])}) nor a gold answer to judge by "
            f"({' or '.join(COLUMNS['gold'])}); add one of them"
        )
    return made


def _resolve(place: str, row: dict[str, Any], named: dict[str, str], configuration: str) -> dict[str, str]:
    columns = {}
    for field, tried in (COLUMNS | {"by": ()}).items():
        wanted = named.get(field)
        names = (wanted,) if wanted else tried
        column = next((name for name in names if name in row), None)
        if column is not None:
            columns[field] = column
        elif wanted or (field in NEEDED and not (field == "configuration" and configuration)):
            option = "--by" if field == "by" else f"--columns {field}=COLUMN"
            more = ", or NAME=FILE, a name for all" if field == "configuration" else ""
            raise IbpoError(
                f"{place}: no column {' or '.join(map(repr, names))} for the {field.replace('_', ' ')}; "
                f"the row's columns are {', '.join(row) or 'none'}: name one with {option}{more}"
            )
    if not configuration and columns.get("response_group") == columns["configuration"]:
        del columns["response_group"]  # it names the rows of the report; the share of each is 0 or 1
    if "by" not in columns and "model" in row and columns.get("configuration") != "model":
        columns["by"] = "model"  # response groups of different models are no alternatives to each other
    return columns


def _text(place: str, columns: dict[str, str], fields: dict[str, Any], field: str) -> str:
    value = fields.get(field)
    if value is None or value == "" or isinstance(value, dict | list):
        raise IbpoError(f"{place}: column {columns[field]!r}: no {field.replace('_', ' ')}; fill it in or drop the row")
    return str(value)


def _number(place: str, column: str, value: Any) -> float | None:
    if value is None or value == "" or value != value:
        return None
    try:
        truth = {"true": 1.0, "false": 0.0}.get(str(value).strip().lower())
        number = float(value) if truth is None else truth
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise IbpoError(
            f"{place}: column {column!r}: {value!r} is no finite number of at least 0; mend or drop the row"
        )
    if column in COLUMNS["reward"] and number > 1:
        raise IbpoError(f"{place}: column {column!r}: {value!r} is above 1; a reward lies in [0, 1]: divide by its top")
    return number


def _cut_off(place: str, column: str, value: Any) -> float | None:
    if column == "finish_reason":
        return None if value is None else float(value == "length")
    return _number(place, column, value)
