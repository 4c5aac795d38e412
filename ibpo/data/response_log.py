"""Read a log of scored responses: one row per response, as JSON lines, CSV or Parquet.

Every format is read in blocks of columns, so that a log larger than memory can be worked through block by block
(`LogReader.blocks`), and a smaller one is the concatenation of its blocks (`read_log`). Letters: R responses.
"""

# pyarrow ships no types, and a log holds anything.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibpo.errors import IbpoError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
OnError = Literal["fail", "skip"]

GUESSES = {
    "problem": ("problem_id", "question_id", "id"),
    "response_group": ("response_group", "effort", "group"),
    "reward": ("reward", "correct"),
    "cost": ("tokens", "cost"),
}
"""Column names that are tried, in order, for a field that the caller does not name."""
LARGEST = 1e200
"""Rewards and costs beyond it are refused: sums of them would overflow."""
BLOCK = 1_000_000
"""Rows of Parquet read at a time; text is gathered to a tenth of it."""


class LogError(IbpoError):
    """A log that cannot be used: file, line, field and fix in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogColumns:
    """Which columns of a log hold what: as named, else guessed from the first row.

    Attributes:
        problem: The problem's id; guessed among `problem_id`, `question_id`, `id`.
        response_group: The response group; guessed among `response_group`, `effort`, `group`.
        reward: The reward (a number or true/false); guessed among `reward`, `correct`.
        cost: The cost; guessed among `tokens`, `cost`.
        by: What splits the log into parts with an allocation each; never guessed. Required where a column `model` holds
            several models and is not itself the response group.
        show: What the report tells apart, e.g. a level or a domain; never guessed.
    """

    problem: str | None = None
    response_group: str | None = None
    reward: str | None = None
    cost: str | None = None
    by: str | None = None
    show: str | None = None

    def resolve(self, path: Path, present: Iterable[str]) -> dict[str, str]:
        """Field -> column, for the fields that the log has."""
        names = list(present)
        columns = {field: _column(path, names, field, getattr(self, field)) for field in GUESSES}
        for field in ("by", "show"):
            if getattr(self, field) is not None:
                columns[field] = _column(path, names, field, getattr(self, field))
        return columns

    @property
    def guessed(self) -> tuple[str, ...]:
        """The fields that nobody named."""
        return tuple(field for field in GUESSES if getattr(self, field) is None)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labels:
    """Texts of few kinds: `names[code[r]]` is the text of row r."""

    code: NDArray[Any]
    names: list[str]

    @classmethod
    def from_list(cls, texts: list[str]) -> "Labels":
        """Number the texts in order of first appearance."""
        number = {name: n for n, name in enumerate(dict.fromkeys(texts))}
        return cls(code=np.fromiter(map(number.__getitem__, texts), np.int64, len(texts)), names=list(number))

    def take(self, keep: IntArray) -> "Labels":
        """The labels of these rows."""
        return Labels(code=self.code[keep], names=self.names)

    def tolist(self) -> list[str]:
        """The text of each row."""
        return [self.names[code] for code in self.code.tolist()]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogRows:
    """Good rows of a log as columns.

    Attributes:
        problem: Problem ids, whole numbers or texts.
        response_group: Names of the response groups.
        reward: `[R]` finite.
        cost: `[R]` finite, at least 0, in the log's unit.
        part: Value of the `by` column; "" without one.
        shown: Value of the `show` column; None without one.
    """

    problem: IntArray | list[str]
    response_group: Labels
    reward: FloatArray
    cost: FloatArray
    part: Labels
    shown: Labels | None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.reward)

    def by_part(self) -> Iterator[tuple[str, "LogRows"]]:
        """The rows of each part of the log among these."""
        for code, name in enumerate(self.part.names):
            here = self.part.code == code
            if here.all():
                yield name, self
            elif here.any():
                yield name, self.take(np.flatnonzero(here))

    def take(self, keep: IntArray) -> "LogRows":
        """Only these rows."""
        problem = self.problem
        return LogRows(
            problem=problem[keep] if isinstance(problem, np.ndarray) else [problem[r] for r in keep.tolist()],
            response_group=self.response_group.take(keep),
            reward=self.reward[keep],
            cost=self.cost[keep],
            part=self.part.take(keep),
            shown=None if self.shown is None else self.shown.take(keep),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Log:
    """The columns of a log in memory, one entry per response.

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

    def one_part(self, name: str | None, path: Path) -> "Log":
        """The part of that name; None: the only one. `path` begins the error where there is none such."""
        parts, by = self.parts(), self.columns.get("by")
        if name is None and len(parts) > 1:
            raise LogError(f"{path}: column {by!r} holds {', '.join(parts)}; name one of them with --part {by}=VALUE")
        if name is not None and name not in parts:
            raise LogError(f"{path}: column {by!r} holds no {name!r} but {', '.join(parts)}")
        return parts[name] if name is not None else next(iter(parts.values()))

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


def read_log(
    path: str | Path,
    names: LogColumns | None = None,
    *,
    on_error: OnError = "fail",
    progress: Callable[[int], None] | None = None,
) -> Log:
    """Read a log of scored responses into memory.

    Args:
        path: A `.jsonl`, `.csv` (both also `.gz`) or `.parquet` file.
        names: Which columns hold what; None: all guessed.
        on_error: At a bad row "fail", or "skip" it: `Log.bad_rows` says which and why.
        progress: Called with the number of rows read, now and then.

    Returns:
        The log; `Log.guessed` says which columns nobody named.

    Raises:
        LogError: With file, line, field and fix.
    """
    names = names or LogColumns()
    reader = LogReader(path, names, on_error=on_error)
    blocks = list(reader.blocks(progress))

    def texts(of_block: Callable[[LogRows], list[str]]) -> list[str]:
        return [text for block in blocks for text in of_block(block)]

    return Log(
        problem=texts(lambda block: list(map(str, block.problem))),
        response_group=texts(lambda block: block.response_group.tolist()),
        reward=np.concatenate([block.reward for block in blocks]),
        cost=np.concatenate([block.cost for block in blocks]),
        part=texts(lambda block: block.part.tolist()),
        shown=texts(lambda block: [""] * len(block) if block.shown is None else block.shown.tolist()),
        columns=reader.columns,
        guessed=names.guessed,
        bad_rows=tuple(reader.bad_rows),
    )


class LogReader:
    """One log, read as often as it is asked for.

    Args:
        path: As for `read_log`.
        names: Which columns hold what.
        on_error: At a bad row "fail", or "skip" it.
    """

    def __init__(self, path: str | Path, names: LogColumns, *, on_error: OnError = "fail") -> None:
        self.path, self.names, self.on_error = Path(path), names, on_error
        self.columns: dict[str, str] = {}
        """Field -> column, once a pass has begun."""
        self.bad_rows: list[str] = []
        """What was wrong with the rows that the last pass left out."""
        self._models: set[str] = set()

    def blocks(self, progress: Callable[[int], None] | None = None) -> Iterator[LogRows]:
        """One pass over the log, in blocks.

        Args:
            progress: Called with the number of rows read after each block.

        Raises:
            LogError: With file, line, field and fix; a log without a good row; several models and no `by`.
        """
        self.columns, self.bad_rows, self._models = {}, [], set()
        num_rows = 0
        by_column = self.path.name.endswith(".parquet") and self.path.is_file()
        for block in self._parquet_blocks() if by_column else self._row_blocks():
            num_rows += len(block)
            if progress:
                progress(num_rows)
            if len(block):
                yield block
        if not num_rows:
            raise LogError(
                f"{self.path}: no {'usable ' if self.bad_rows else ''}rows; a log needs one row per response"
            )
        if len(self._models) > 1:
            raise LogError(
                f"{self.path}: column 'model' holds {len(self._models)} models; give --by model, an allocation for each"
            )

    @property
    def _looks_at_models(self) -> bool:
        """Whether a column `model` would split the log without anybody having said so."""
        return self.names.by is None and self.columns["response_group"] != "model"

    def _skip(self, error: LogError) -> None:
        """Stop at a bad row, or note it and go on."""
        if self.on_error == "fail":
            raise error
        self.bad_rows.append(str(error))

    def _row_blocks(self, wanted: Sequence[str] | None = None) -> Iterator[LogRows]:
        """Row by row: JSON lines, CSV, and these columns of Parquet where they are not plain numbers and texts."""
        rows: list[dict[str, Any]] = []
        for line, row in raw_rows(self.path, wanted):
            if isinstance(row, LogError):
                self._skip(row)
                continue
            self.columns = self.columns or self.names.resolve(self.path, row)
            try:
                rows.append(self._parsed(line, row))
            except LogError as error:
                self._skip(error)
                continue
            if row.get("model") is not None and self._looks_at_models:
                self._models.add(str(row["model"]))
            if len(rows) == max(1, BLOCK // 10):
                yield _from_rows(rows)
                rows = []
        if rows:
            yield _from_rows(rows)

    def _parsed(self, line: int, row: dict[str, Any]) -> dict[str, Any]:
        """Field -> checked value of one row."""
        return {field: _field(self.path, line, row, field, column) for field, column in self.columns.items()}

    def _parquet_blocks(self) -> Iterator[LogRows]:
        """Column by column; a row that looks bad is looked at by itself, for the same words as in any other format."""
        arrow = _arrow(self.path)
        try:
            with arrow.parquet.ParquetFile(self.path) as file:
                schema = file.schema_arrow
                self.columns = self.names.resolve(self.path, schema.names)
                _check_once(self.path, schema.names, self.columns.values())
                plain = all(
                    _is_plain(arrow.types, schema.field(column).type, numbers=field in ("reward", "cost"))
                    for field, column in self.columns.items()
                )
                wanted = list(dict.fromkeys([*self.columns.values(), *["model"] * ("model" in schema.names)]))
                first = 1
                for batch in file.iter_batches(BLOCK, columns=wanted) if plain else ():
                    yield self._from_batch(batch, first, arrow)
                    first += len(batch)
        except (arrow.ArrowException, OSError) as error:
            raise LogError(f"{self.path}: cannot be read as Parquet: {error}") from None
        if not plain:
            yield from self._row_blocks(wanted)

    def _from_batch(self, batch: Any, first: int, arrow: Any) -> LogRows:
        """The good rows of a batch; `first` is the number of its first row."""
        pc = arrow.compute
        column = {field: batch.column(name) for field, name in self.columns.items()}
        reward, cost = (
            pc.fill_null(pc.cast(column[field], "float64", safe=False), np.nan).to_numpy(zero_copy_only=False)
            for field in ("reward", "cost")
        )
        good = (np.abs(reward) <= LARGEST) & (cost >= 0) & (cost <= LARGEST)
        labels: dict[str, Labels] = {}
        # Beyond int64 ids are texts, and so all ids of such a column.
        whole_ids = arrow.types.is_integer(column["problem"].type) and not arrow.types.is_uint64(column["problem"].type)
        for field in {"problem", "response_group", "by", "show"} & set(column):
            if field == "problem" and whole_ids:
                good &= pc.is_valid(column[field]).to_numpy(zero_copy_only=False)
            else:
                labels[field], there = _labels(column[field], arrow)
                good &= there
        for r in np.flatnonzero(~good).tolist():
            try:
                self._parsed(first + r, {name: batch.column(name)[r].as_py() for name in batch.schema.names})
                good[r] = True  # a text that only looks like nothing
            except LogError as error:
                self._skip(error)
        if "model" in batch.schema.names and self._looks_at_models:
            models = pc.unique(batch.column("model").filter(good)).to_pylist()
            self._models |= {str(model) for model in models if model is not None}
        if whole_ids:
            problem = pc.fill_null(column["problem"], 0).to_numpy(zero_copy_only=False).astype(np.int64)
        else:
            problem = labels["problem"].tolist()
        rows = LogRows(
            problem=problem,
            response_group=labels["response_group"],
            reward=reward,
            cost=cost,
            part=labels.get("by", Labels(code=np.zeros(len(batch), np.int8), names=[""])),
            shown=labels.get("show"),
        )
        return rows if good.all() else rows.take(np.flatnonzero(good))


def _is_plain(types: Any, kind: Any, *, numbers: bool) -> bool:
    """Whether a Parquet column can be read as an array: numbers, or for the other fields texts too."""
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return True
    if not numbers and types.is_dictionary(kind):
        return _is_plain(types, kind.value_type, numbers=False)
    return not numbers and (types.is_string(kind) or types.is_large_string(kind))


def raw_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[int, Any]]:
    """Line number (row number for Parquet), counted from 1, and row, or what is wrong with it.

    Args:
        path: As for `read_log`.
        columns: All that is read of Parquet; None: every column.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in ("jsonl", "csv", "parquet") or path.name.endswith(".parquet.gz"):
        raise LogError(f"{path}: the name must end in .jsonl, .jsonl.gz, .csv, .csv.gz or .parquet")
    if not path.is_file():
        raise LogError(f"{path}: there is no such file")
    if kind == "parquet":
        yield from enumerate(_parquet_rows(path, columns), start=1)
        return
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            if kind == "csv":
                csv.field_size_limit(2**31 - 1)  # a completion may be longer than the 131,072 characters of old
                reader = csv.DictReader(file)
                header = list(reader.fieldnames or ())
                _check_once(path, header, filter(None, header))
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
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or a number of thousands of digits
        return LogError(f"{place}: not JSON that can be read: {error}; each line must be one JSON object")
    if not isinstance(row, dict):
        return LogError(f"{place}: a JSON {type(row).__name__}, but each line must be one JSON object")
    return row


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    arrow = _arrow(path)
    try:
        with arrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_once(path, names, names if columns is None else columns)
            for batch in file.iter_batches(10_000, columns=columns):
                yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise LogError(f"{path}: cannot be read as Parquet: {error}") from None
    except (OverflowError, ValueError) as error:  # Python has no dates after the year 9999
        raise LogError(
            f"{path}: a value cannot be read: {error}; write dates and times of the columns that are read as text"
        ) from None


def _check_once(path: Path, present: Sequence[str], used: Iterable[str]) -> None:
    """Refuse a log where a column that is read stands twice: which of the two was meant?"""
    for name in used:
        if present.count(name) > 1:
            raise LogError(f"{path}: {present.count(name)} columns are named {name!r}; rename all but one")


def _arrow(path: Path) -> Any:
    """The module pyarrow, with what is used of it; no stub knows it."""
    try:
        import pyarrow
        import pyarrow.compute  # pyright: ignore[reportUnusedImport]
        import pyarrow.parquet  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise LogError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or give a .jsonl file") from None
    return pyarrow


def _labels(column: Any, arrow: Any) -> tuple[Labels, NDArray[np.bool_]]:
    """The texts of a Parquet column, as Python writes its values, and which rows certainly have one."""
    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    found = column.dictionary_encode()
    names = [str(value) for value in found.dictionary.to_pylist()] or [""]
    code = arrow.compute.fill_null(found.indices, 0).to_numpy(zero_copy_only=False)
    there = arrow.compute.is_valid(column).to_numpy(zero_copy_only=False)
    return Labels(code=code, names=names), there & np.array([name not in ("", "nan") for name in names])[code]


def _from_rows(rows: list[dict[str, Any]]) -> LogRows:
    return LogRows(
        problem=[row["problem"] for row in rows],
        response_group=Labels.from_list([row["response_group"] for row in rows]),
        reward=np.array([row["reward"] for row in rows]),
        cost=np.array([row["cost"] for row in rows]),
        part=Labels.from_list([row.get("by", "") for row in rows]),
        shown=Labels.from_list([row["show"] for row in rows]) if "show" in rows[0] else None,
    )


def _field(path: Path, line: int, row: dict[str, Any], field: str, column: str) -> Any:
    """The checked value of one field of one row: a number for `reward` and `cost`, else a text."""
    place = f"{path}, line {line}, column {column!r}"
    value = row.get(column)
    if value is None or value == "" or value != value:
        fix = "fill it in or drop the row (--on-error skip)"
        if field in GUESSES:
            fix += f", or name another column with --columns {field}=COLUMN"
        raise LogError(f"{place}: no value; {fix}")
    return _number(place, value, field) if field in ("reward", "cost") else str(value)


def _column(path: Path, present: list[str], field: str, name: str | None) -> str:
    tried = GUESSES[field] if name is None else (name,)
    for column in tried:
        if column in present:
            return column
    option = f"--{field}" if field in ("by", "show") else f"--columns {field}=COLUMN"
    raise LogError(
        f"{path}: no column {' or '.join(map(repr, tried))}; name one of {', '.join(map(repr, present))} with {option}"
    )


def _number(place: str, value: Any, field: str) -> float:
    truth = {"true": 1.0, "false": 0.0}.get(str(value).strip().lower())
    try:
        number = float(value) if truth is None else truth
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise LogError(f"{place}: {_short(value)} is not a finite number; the {field} of every response must be one")
    if abs(number) > LARGEST:
        raise LogError(f"{place}: {number!r} is above {LARGEST:g} in size; give the {field} in a larger unit")
    if field == "cost" and number < 0:
        raise LogError(f"{place}: {value!r} is negative; a cost must be at least 0")
    return number


def _short(value: Any) -> str:
    """The value as in Python, of a length that fits a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"
