"""Read a log of scored responses: one row per response, JSON lines, CSV or Parquet."""

# pyarrow ships no types, and a log holds anything.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ibpo.allocation.given import FloatArray
from ibpo.errors import IbpoError

GUESSES = {
    "problem": ("problem_id", "question_id", "id"),
    "response_group": ("response_group", "effort", "group"),
    "reward": ("reward", "correct"),
    "cost": ("tokens", "cost"),
}
"""Column names that are tried, in order, for a field that the caller does not name."""

OnError = Literal["fail", "skip"]


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
        shown: Value of the `show` column, as text; "" without one.
        columns: The column that each field was read from.
        guessed: The fields whose column was guessed.
        bad_rows: What was wrong with the rows that were left out.
    """

    problem: list[str]
    response_group: list[str]
    reward: FloatArray
    cost: FloatArray
    part: list[str]
    shown: list[str]
    columns: dict[str, str]
    guessed: tuple[str, ...]
    bad_rows: tuple[str, ...] = ()

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
            shown=[self.shown[i] for i in keep],
            columns=self.columns,
            guessed=self.guessed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LogColumns:
    """Which columns of a log hold what: as named, else guessed from the first row."""

    problem: str | None = None
    response_group: str | None = None
    reward: str | None = None
    cost: str | None = None
    by: str | None = None
    show: str | None = None

    def resolve(self, path: Path, row: dict[str, Any]) -> dict[str, str]:
        """Field -> column, for the fields that the log has."""
        columns = {field: _column(path, row, field, getattr(self, field)) for field in GUESSES}
        for field in ("by", "show"):
            if getattr(self, field) is not None:
                columns[field] = _column(path, row, field, getattr(self, field))
        return columns

    @property
    def guessed(self) -> tuple[str, ...]:
        """The fields that nobody named."""
        return tuple(field for field in GUESSES if getattr(self, field) is None)


def read_log(
    path: str | Path,
    *,
    problem: str | None = None,
    response_group: str | None = None,
    reward: str | None = None,
    cost: str | None = None,
    by: str | None = None,
    show: str | None = None,
    on_error: OnError = "fail",
    progress: Callable[[int], None] | None = None,
) -> Log:
    """Read a log of scored responses into memory.

    Args:
        path: A `.jsonl`, `.csv` (both also `.gz`) or `.parquet` file.
        problem: Column with the problem's id; guessed among `problem_id`, `question_id`, `id`.
        response_group: Column with the response group; guessed among `response_group`, `effort`, `group`.
        reward: Column with the reward (a number or true/false); guessed among `reward`, `correct`.
        cost: Column with the cost; guessed among `tokens`, `cost`.
        by: Column that splits the log into parts with an allocation each. Required where a column `model` holds several
            models and is not itself the response group.
        show: Column whose values the report tells apart, e.g. a level or a domain.
        on_error: At a bad row "fail", or "skip" it: `Log.bad_rows` says which and why.
        progress: Called with the number of rows read, now and then.

    Returns:
        The log; `Log.guessed` says which columns nobody named.

    Raises:
        LogError: With file, line, field and mend.
    """
    path = Path(path)
    names = LogColumns(problem=problem, response_group=response_group, reward=reward, cost=cost, by=by, show=show)
    values: dict[str, list[Any]] = {field: [] for field in (*GUESSES, "by", "show")}
    bad: list[str] = []
    columns: dict[str, str] = {}
    for number, (found, row) in enumerate(parsed_rows(path, names, on_error, bad), start=1):
        columns = found
        for field, value in row.items():
            values[field].append(value)
        if progress and number % 10_000 == 0:
            progress(number)
    if not values["problem"]:
        raise LogError(f"{path}: no {'usable ' if bad else ''}rows; a log needs one row per response")
    return Log(
        problem=values["problem"],
        response_group=values["response_group"],
        reward=np.array(values["reward"]),
        cost=np.array(values["cost"]),
        part=values["by"] or [""] * len(values["problem"]),
        shown=values["show"] or [""] * len(values["problem"]),
        columns=columns,
        guessed=names.guessed,
        bad_rows=tuple(bad),
    )


def parsed_rows(
    path: Path, names: LogColumns, on_error: OnError, bad: list[str]
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Field -> column, and field -> checked value of each good row; what is wrong with the others goes to `bad`."""
    columns: dict[str, str] = {}
    models: set[str] = set()
    for line, row in raw_rows(path):
        try:
            if isinstance(row, LogError):
                raise row
            if not columns:
                columns = names.resolve(path, row)
        except LogError as error:
            if on_error == "fail" or (not isinstance(row, LogError) and not columns):
                raise
            bad.append(str(error))
            continue
        try:
            parsed = {field: _field(path, line, row, field, column) for field, column in columns.items()}
        except LogError as error:
            if on_error == "fail":
                raise
            bad.append(str(error))
            continue
        if row.get("model") is not None and names.by is None and columns["response_group"] != "model":
            models.add(str(row["model"]))
        yield columns, parsed
    if len(models) > 1:
        raise LogError(f"{path}: column 'model' holds {len(models)} models; give --by model, an allocation for each")


def _field(path: Path, line: int, row: dict[str, Any], field: str, column: str) -> Any:
    place = f"{path}, line {line}, column {column!r}"
    value = row.get(column)
    if value is None or value == "" or value != value:
        mend = "fill it in or drop the row (--on-error skip)"
        if field in GUESSES:
            mend += f", or name another column with --{field.replace('_', '-')}"
        raise LogError(f"{place}: no value; {mend}")
    return _number(place, value, field) if field in ("reward", "cost") else str(value)


def raw_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number (row number for Parquet), counted from 1, and row, or what is wrong with it."""
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
                        yield (
                            reader.line_num,
                            LogError(f"{path}, line {reader.line_num}: more values than the header has columns"),
                        )
                    else:
                        yield reader.line_num, row
            else:
                for line, text in enumerate(file, start=1):
                    if text.strip():
                        yield line, _json_row(f"{path}, line {line}", text)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise LogError(f"{path}: cannot be read: {error}; write it again as UTF-8 text") from None


def _json_row(place: str, text: str) -> dict[str, Any] | LogError:
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        return LogError(f"{place}: not JSON: {error}; each line must be one JSON object")
    if not isinstance(row, dict):
        return LogError(f"{place}: a JSON {type(row).__name__}, but each line must be one JSON object")
    return row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise LogError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or give a .jsonl file") from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(10_000):
                yield from batch.to_pylist()
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
