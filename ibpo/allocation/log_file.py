"""Read a log of scored responses: one row per response, JSON lines, CSV or Parquet."""

# pyarrow ships no types, and a log holds anything.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false

import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.allocation.problem import FloatArray
from ibpo.errors import IbpoError

GUESSES = {
    "problem": ("problem_id", "question_id", "id"),
    "response_group": ("response_group", "effort", "group"),
    "reward": ("reward", "correct"),
    "cost": ("tokens", "cost"),
}
"""Column names that are tried, in order, for a field that the caller does not name."""


class LogError(IbpoError):
    """A log that cannot be used: file, line, field and mend in one line."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Log:
    """The columns of a log, one entry per response.

    Attributes:
        problem: Problem ids, as text.
        response_group: Names of the response groups, as text.
        reward: `[R]` finite.
        cost: `[R]` finite, at least 0, in the log's unit.
        part: Value of the `by` column, as text; "" without one. Each part is an allocation of its own.
        columns: The column that each field was read from.
        guessed: The fields whose column was guessed.
    """

    problem: list[str]
    response_group: list[str]
    reward: FloatArray
    cost: FloatArray
    part: list[str]
    columns: dict[str, str]
    guessed: tuple[str, ...]

    def parts(self) -> dict[str, "Log"]:
        """One log per value of the `by` column, in order of first appearance."""
        return {
            name: self.rows([i for i, part in enumerate(self.part) if part == name])
            for name in dict.fromkeys(self.part)
        }

    def rows(self, keep: list[int]) -> "Log":
        """The log with only these rows."""
        return Log(
            problem=[self.problem[i] for i in keep],
            response_group=[self.response_group[i] for i in keep],
            reward=self.reward[keep],
            cost=self.cost[keep],
            part=[self.part[i] for i in keep],
            columns=self.columns,
            guessed=self.guessed,
        )


def read_log(
    path: str | Path,
    *,
    problem: str | None = None,
    response_group: str | None = None,
    reward: str | None = None,
    cost: str | None = None,
    by: str | None = None,
) -> Log:
    """Read a log of scored responses.

    Args:
        path: A `.jsonl`, `.csv` (both also `.gz`) or `.parquet` file.
        problem: Column with the problem's id; guessed among `problem_id`, `question_id`, `id`.
        response_group: Column with the response group; guessed among `response_group`, `effort`, `group`.
        reward: Column with the reward (a number or true/false); guessed among `reward`, `correct`.
        cost: Column with the cost; guessed among `tokens`, `cost`.
        by: Column that splits the log into parts with an allocation each. Required where a column `model` holds several
            models and is not itself the response group.

    Returns:
        The log; `Log.guessed` says which columns nobody named.

    Raises:
        LogError: With file, line, field and mend.
    """
    path = Path(path)
    named = {"problem": problem, "response_group": response_group, "reward": reward, "cost": cost}
    columns: dict[str, str] = {}
    values: dict[str, list[Any]] = {field: [] for field in (*named, "by")}
    models: set[str] = set()
    for line, row in _rows(path):
        if not columns:
            columns = {field: _column(path, row, field, name) for field, name in named.items()}
            if by is not None:
                columns["by"] = _column(path, row, "by", by)
        for field, column in columns.items():
            place = f"{path}, line {line}, column {column!r}"
            value = row.get(column)
            if value is None or value == "" or value != value:
                mend = "fill it in or drop the row"
                if field in named:
                    mend += f", or name another column with --{field.replace('_', '-')}"
                raise LogError(f"{place}: no value; {mend}")
            values[field].append(_number(place, value, field) if field in ("reward", "cost") else str(value))
        if row.get("model") is not None:
            models.add(str(row["model"]))
    if not columns:
        raise LogError(f"{path}: no rows; a log needs one row per response")
    if by is None and len(models) > 1 and columns["response_group"] != "model":
        raise LogError(f"{path}: column 'model' holds {len(models)} models; give --by model, an allocation for each")
    return Log(
        problem=values["problem"],
        response_group=values["response_group"],
        reward=np.array(values["reward"]),
        cost=np.array(values["cost"]),
        part=values["by"] or [""] * len(values["problem"]),
        columns=columns,
        guessed=tuple(field for field, name in named.items() if name is None),
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (row number for Parquet), counted from 1, and row."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in ("jsonl", "csv", "parquet") or path.name.endswith(".parquet.gz"):
        raise LogError(f"{path}: the name must end in .jsonl, .jsonl.gz, .csv, .csv.gz or .parquet")
    if not path.is_file():
        raise LogError(f"{path}: there is no such file")
    if kind == "parquet":
        yield from enumerate(_parquet_rows(path), start=1)
        return
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            if kind == "csv":
                reader = csv.DictReader(file)
                for row in reader:
                    if None in row:
                        raise LogError(f"{path}, line {reader.line_num}: more values than the header has columns")
                    yield reader.line_num, row
            else:
                for line, text in enumerate(file, start=1):
                    if text.strip():
                        yield line, _json_row(f"{path}, line {line}", text)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise LogError(f"{path}: cannot be read: {error}; write it again as UTF-8 text") from None


def _json_row(place: str, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise LogError(f"{place}: not JSON: {error}; each line must be one JSON object") from None
    if not isinstance(row, dict):
        raise LogError(f"{place}: a JSON {type(row).__name__}, but each line must be one JSON object")
    return row


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise LogError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or give a .jsonl file") from None
    try:
        return parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise LogError(f"{path}: cannot be read as Parquet: {error}") from None


def _column(path: Path, row: dict[str, Any], field: str, name: str | None) -> str:
    tried = GUESSES[field] if name is None else (name,)
    for column in tried:
        if column in row:
            return column
    option = f"--{field.replace('_', '-')}"
    raise LogError(
        f"{path}: no column {' or '.join(map(repr, tried))}; name one of {', '.join(map(repr, row))} with {option}"
    )


def _number(place: str, value: Any, field: str) -> float:
    truth = {"true": 1.0, "false": 0.0}.get(str(value).strip().lower())
    try:
        number = float(value) if truth is None else truth
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise LogError(f"{place}: {value!r} is not a finite number; the {field} of every response must be one")
    if field == "cost" and number < 0:
        raise LogError(f"{place}: {value!r} is negative; a cost must be at least 0")
    return number
