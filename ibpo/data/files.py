"""The rows of any file of a table: JSON lines, JSON, CSV, Parquet or Arrow, packed or not, one file or a folder.

Text is read by the standard library, columns and zstd by pyarrow. Every row comes with its place, as an error would
name it; a line that cannot be read comes as the error that it is, so that the caller stops there or leaves it out.
"""

# pyarrow ships no types, and a file holds anything.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote

from ibpo.errors import IbpoError
from ibpo.prices import Prices

Row = tuple[str, dict[str, Any]]
"""The place of the row, as an error would name it, and its fields."""
RawRow = tuple[str, "dict[str, Any] | LogError"]
"""The same, or in place of the fields what is wrong with the row."""

LINES, TABLES, COLUMNAR = ("jsonl", "ndjson"), ("csv", "tsv", "txt"), ("parquet", "arrow", "feather", "ipc")
KINDS = (*LINES, "json", *TABLES, *COLUMNAR, "eval")
PACKED = ("gz", "zst")
ENDINGS = ".jsonl, .json, .csv, .tsv, .txt, .parquet, .arrow or .feather; all but the last three also .gz or .zst"
DELIMITERS = ",;\t|"
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What is written for no value in the name of a folder."""
MAX_NAMED = 5
"""Lists of a document that a message names."""
DELTA = "_delta_log"
"""The folder by which a table of Delta Lake is known."""
_BLANKS = re.compile(r"\s*")


NUM_PEEKED = 200
"""Rows by which a log is recognised."""


class LogError(IbpoError):
    """A log that cannot be used: file, line, field and fix in one line."""


@dataclass(kw_only=True, slots=True)
class Source:
    """What was read, and what a reader should know about it; filled while the rows go by."""

    path: Path
    metric: str = ""
    """The metric, scorer or reward function that is the reward; "": the first."""
    filter: str = ""
    """lm-evaluation-harness: the filter whose answers count; "": the first."""
    prices: Prices | None = None
    """What tokens cost: the rows get a column `money`."""
    tokens: str = ""
    """Then: the column with the completion's tokens; "": found."""
    problem: str = ""
    """The column that the caller names for the problem: a row that has it needs no other identifier."""
    reward: str = ""
    """The column that the caller names for the reward: none of a harness's metrics need be one."""
    notes: list[str] = field(default_factory=list[str])
    custom_ids: list[str] = field(default_factory=list[str])
    """OpenAI batch: the identifiers of all requests that were answered. Inspect, promptfoo: those of their samples."""
    are_problems: bool = False
    """OpenAI batch: whether the last number of an identifier names a problem, and does not count responses."""
    num_folders: int = 1
    """In how many folders a tool's files are."""
    evaluations: dict[Path, dict[str, dict[str, Any]]] = field(default_factory=dict[Path, dict[str, dict[str, Any]]])
    """OpenTelemetry: folder -> response or span -> name of the evaluation -> score."""
    left_out: Counter[str] = field(default_factory=Counter[str])
    """Why rows were left out -> how many."""

    def note(self, text: str) -> None:
        """Add a note once, however many files it is about."""
        if text not in self.notes:
            self.notes.append(text)

    def closing_notes(self) -> list[str]:
        """All notes, once the rows have gone by."""
        return [*self.notes, *(f"{count} left out: {why}" for why, count in self.left_out.items())]


def kind_of(path: Path) -> str:
    """What the name says the file is, e.g. `jsonl`; "" for what is no table."""
    parts = path.name.lower().split(".")
    packed = parts[-1] in PACKED
    kind = parts[-2] if packed and len(parts) > 2 else parts[-1] if len(parts) > 1 else ""
    return "" if kind not in KINDS or (packed and kind in COLUMNAR) else kind


def files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and those below it, in no order; links to folders are not followed.

    Files that disappear meanwhile are skipped: a run that still writes removes its unfinished models and its oldest
    checkpoints. (`Path.rglob` of Python 3.11 ends with an error there.)

    Raises:
        OSError: A folder may not be read; a part of the files is never returned silently.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for place, _, names in os.walk(folder, onerror=fail):
        yield from (Path(place, name) for name in names)


def data_files(folder: Path) -> list[Path]:
    """The tables in a folder and those below it, in order of their names; what begins with a dot or `_` is passed over.

    Raises:
        LogError: where there are none; for a table of Delta Lake, whose folder keeps the files of its earlier versions.
    """
    found = list(files_below(folder))
    if delta := next((file.parent.parent for file in found if file.parent.name == DELTA), None):
        raise LogError(
            f"{delta}: is a table of Delta Lake, whose folder holds the files of its earlier versions too; write the "
            "version that you mean as a .parquet file and give that"
        )
    files = sorted(
        file
        for file in found
        if kind_of(file) not in ("", "txt")
        and file.is_file()
        and not any(p[0] in "._" for p in file.relative_to(folder).parts)
    )
    if not files:
        raise LogError(f"{folder}: holds no file that ends in {ENDINGS}; name the folder of the data itself")
    return files


def partition_of(file: Path, root: Path) -> dict[str, str | None]:
    """What the folders between say of every row of the file: `model=a/effort=low/part-0.parquet`.

    Whoever writes such folders writes signs that a file's name cannot hold as `%2F`, and has a name for no value.

    Example:
        >>> partition_of(Path("log/effort=low/0.parquet"), Path("log"))
        {'effort': 'low'}
        >>> partition_of(Path("log/model=openai%2Fgpt-5/level=__HIVE_DEFAULT_PARTITION__/0.parquet"), Path("log"))
        {'model': 'openai/gpt-5', 'level': None}
    """
    pairs = (part.partition("=") for part in file.relative_to(root).parts[:-1])
    return {
        unquote(name): None if value == NO_VALUE else unquote(value)
        for name, equals, value in pairs
        if equals and name and value
    }


def read_rows(path: Path) -> Iterator[RawRow]:
    """The rows of one file.

    Args:
        path: Its name says what it is. A `.json` file holds a list of objects, an object in which one list of objects
            is, or an object a line.

    Raises:
        LogError: for a file that is not there, of another kind, or broken as a whole.
    """
    kind = kind_of(path)
    if not kind and path.exists():
        raise LogError(f"{path}: the name must end in {ENDINGS}")
    if not path.is_file():
        raise LogError(f"{path}: there is no such file")
    if kind in COLUMNAR:
        for number, row in enumerate(_columnar_rows(path, kind), start=1):
            yield f"{path}, line {number}", row
        return
    try:
        with open_text(path) as file:
            if kind in TABLES:
                yield from _csv_rows(path, file)
            elif kind == "json":
                yield from document_rows(path, read_document(path, file.read()))
            else:
                yield from json_lines(path, file)
    except UNREADABLE as error:
        raise unreadable(path, error) from None


def good_rows(path: Path) -> Iterator[Row]:
    """The rows of one file, all of which must be good.

    Raises:
        LogError: for the first that is not.
    """
    for place, row in read_rows(path):
        if isinstance(row, LogError):
            raise row
        yield place, row


UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)
"""What reading a text raises that is damaged or none."""


def unreadable(path: Path, error: Exception) -> LogError:
    """The same as an error of one line."""
    is_text = isinstance(error, (UnicodeDecodeError, csv.Error)) and not path.name.lower().endswith((".gz", ".zst"))
    fix = "write it again as UTF-8 text" if is_text else "it is cut off or damaged: copy it again"
    if isinstance(error, OSError) and error.errno:  # of the system: it says what is wrong, and the file is whole
        return LogError(f"{path}: cannot be read: {error.strerror}")
    return LogError(f"{path}: cannot be read: {error}; {fix}")


def open_text(path: Path) -> TextIO:
    """A text file, packed or not; a mark of the byte order is passed over, one of UTF-16 (as Excel writes) followed."""
    stream = open_bytes(path)
    wide = stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
    return io.TextIOWrapper(stream, encoding="utf-16" if wide else "utf-8-sig", newline="")


GZIP, ZSTD = re.compile(rb"\x1f\x8b"), re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
"""How packed files begin; the second form of zstd is a frame that its readers pass over."""


def open_bytes(path: Path) -> Any:
    """The bytes of a file: a binary file that is read from its beginning.

    Whether it is packed its first bytes say: downloads unpack a file and keep its name, or pack it and do not tell.
    """
    file = path.open("rb")
    head = file.peek(4)
    if not (GZIP.match(head) or ZSTD.match(head)):
        return file
    file.close()
    if GZIP.match(head):
        return gzip.open(path, "rb")
    return io.BufferedReader(pyarrow_for(path).input_stream(str(path), compression="zstd"))


def json_value(text: str) -> Any:
    r"""Parse JSON like `json.loads`, but half of a character, where a text was cut off, becomes a question mark.

    Example:
        >>> json_value(r'["cut \ud83d", "\ud83d\ude42"]')
        ['cut ?', '🙂']
    """
    found = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    return found


def parse_json(place: str, text: str) -> Any:
    """What a JSON text says.

    Raises:
        LogError: The text is not JSON, is nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json_value(text)
    except RecursionError:
        raise LogError(f"{place}: not JSON: nested more deeply than any log needs; fix or drop it") from None
    except ValueError as error:  # not JSON, or an integer of more digits than Python converts
        said = str(error).partition(";")[0]
        raise LogError(f"{place}: not JSON: {said}; each line must be one JSON object") from None


def read_document(path: Path, text: str) -> Any:
    """The whole of a `.json` file; where it holds objects one behind the other, a line each or many, their list.

    An empty file is an empty list, as it is of JSON lines.

    Raises:
        LogError: where it is not JSON.
    """
    if not text.strip():
        return []
    try:
        return parse_json(str(path), text)
    except LogError:
        decoder, found, at = json.JSONDecoder(), list[Any](), 0
        with suppress(ValueError, RecursionError):
            while (start := _BLANKS.match(text, at).end()) < len(text):  # pyright: ignore[reportOptionalMemberAccess]
                _, at = decoder.raw_decode(text, start)
                found.append(json_value(text[start:at]))
        if text[at:].strip() or len(found) < 2 or not all(isinstance(one, dict) for one in found):
            raise
        return found


def _json_kind(value: Any) -> str:
    """What JSON calls a value that is no object.

    Example:
        >>> _json_kind(None), _json_kind("a"), _json_kind([1]), _json_kind(True), _json_kind(0.5)
        ('null', 'string', 'list', 'boolean', 'number')
    """
    kinds = {"NoneType": "null", "str": "string", "bool": "boolean", "int": "number", "float": "number"}
    return kinds.get(name := type(value).__name__, name)


def document_rows(path: Path, document: Any) -> Iterator[RawRow]:
    """The rows of a JSON document: of its list, or of the one list of objects that it holds.

    Raises:
        LogError: where there is none, or several.
    """
    if isinstance(document, dict):
        found = _lists_of_objects(document)
        if len(found) > 1:
            names = ", ".join(list(found)[:MAX_NAMED]) + ", ..." * (len(found) > MAX_NAMED)
            raise LogError(
                f"{path}: several lists of objects, {names}; write the one that you mean into a file of its own"
            )
        fields = [set(value) for value in document.values() if isinstance(value, dict)]
        fix = "write a list of objects, one per response (pandas: orient='records')"
        if not found and len(document) == len(fields) > 1 and fields[0] and all(one == fields[0] for one in fields):
            raise LogError(f"{path}: an object of {len(document)} objects with the same fields; {fix}")
        if {"columns", "data"} <= set(document) and not found:
            raise LogError(f"{path}: the names of the columns are apart from the rows; {fix}")
        name, document = next(iter(found.items()), ("", [document]))
    else:
        name = ""
    if not isinstance(document, list):
        raise LogError(f"{path}: a JSON {_json_kind(document)}; it takes a list of objects, one per response")
    for number, row in enumerate(document, start=1):
        place = f"{path}, {name + ' ' if name else ''}item {number}"
        if isinstance(row, dict):
            yield place, row
        else:
            yield place, LogError(f"{place}: a JSON {_json_kind(row)}, but each must be one JSON object")


def _lists_of_objects(document: dict[str, Any]) -> dict[str, list[Any]]:
    """Dotted name -> list of objects, at the top or one level below it."""
    found: dict[str, list[Any]] = {}
    for name, value in document.items():
        inner = value.items() if isinstance(value, dict) else ()
        for dotted, one in [(name, value), *((f"{name}.{below}", x) for below, x in inner)]:
            if isinstance(one, list) and one and all(isinstance(x, dict) for x in one):
                found[dotted] = one
    return found


def json_lines(path: Path, file: Iterable[str], first: int = 1) -> Iterator[RawRow]:
    """The rows of JSON lines; `first` is the number of the first of them in the file."""
    for line, text in enumerate(file, start=first):
        if not text.strip():
            continue
        place = f"{path}, line {line}"
        try:
            row = parse_json(place, text)
        except LogError as error:
            yield place, LogError(f"{error} (--on-error skip leaves it out)")
            continue
        if isinstance(row, dict):
            yield place, row
        else:
            yield place, LogError(f"{place}: a JSON {_json_kind(row)}, but each line must be one JSON object")


def _csv_rows(path: Path, file: TextIO) -> Iterator[RawRow]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold a whole conversation
    head, passed = file.readline(), 0
    told = re.fullmatch(r"sep=(.)\s*", head)  # as spreadsheets write and expect it
    while head and (not head.strip() or (told and not passed) or (head[0] == "#" and not set(DELIMITERS) & set(head))):
        head, passed = file.readline(), passed + 1
    sign = told[1] if told else delimiter_of(head)
    spaced = bool(re.search(re.escape(sign) + " +\\S", re.sub(r'"[^"]*"', '"', head)))
    reader = csv.reader(_from(head, file), delimiter=sign, skipinitialspace=spaced)
    names = [name.strip() for name in next(reader, [])]
    while names and not names[-1]:  # as spreadsheets write them behind a table
        names.pop()
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice and {"Status", "Named Scores"} <= set(names):
        raise LogError(f"{path}: promptfoo's CSV holds no tokens; write its results with -o FILE.json and name that")
    if twice:
        raise LogError(f"{path}: {len(names)} columns, of which several are called {twice[0]!r}; rename one of them")
    for values in reader:
        while len(values) > len(names) and not values[-1].strip():
            values.pop()
        if not any(map(str.strip, values)):
            continue  # an empty line, or one of delimiters alone
        place = f"{path}, line {reader.line_num + passed}"
        if len(values) > len(names):
            yield place, LogError(f"{place}: more values than the header has columns")
        else:
            yield place, dict(zip(names, values + [None] * (len(names) - len(values)), strict=True))


def _from(head: str, file: Iterable[str]) -> Iterator[str]:
    yield head
    yield from file


def delimiter_of(head: str) -> str:
    r"""What parts the columns of a header: the most frequent of comma, semicolon, tab and bar outside quotes.

    Example:
        >>> delimiter_of('id;"a, b";x'), delimiter_of("id\tgroup"), delimiter_of("id")
        (';', '\t', ',')
    """
    bare = re.sub(r'"[^"]*"', "", head)
    return max(DELIMITERS, key=lambda sign: (bare.count(sign), -DELIMITERS.index(sign)))


def _columnar_rows(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    arrow = pyarrow_for(path)
    place = f"{path}: cannot be read as {'Parquet' if kind == 'parquet' else 'Arrow'}"
    try:
        for batch in _batches(path, kind, arrow):
            names = batch.schema.names
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise LogError(f"{path}: several columns are called {twice[0]!r}; rename one of them")
            if kind != "parquet":  # offsets of a damaged file may point anywhere, and are followed without a look
                batch.validate(full=True)
            yield from _readable(batch, arrow).to_pylist(maps_as_pydicts="lossy")
    except LogError:
        raise
    except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise LogError(f"{place}: {str(error)[:200]}; write it again") from None


def _readable(batch: Any, arrow: Any) -> Any:
    """The batch with texts where Python has no such value: times to the nanosecond, years beyond 9999, bytes of texts.

    Columns that nobody asks for would keep the others from being read.
    """
    columns = []
    for column in batch.columns:
        kind = _plain_type(column.type, arrow)
        with suppress(arrow.ArrowException):  # bytes that are no text stay what they are
            column = column if kind == column.type else column.cast(kind)
        columns.append(column)
    return arrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _plain_type(kind: Any, arrow: Any) -> Any:
    types = arrow.types
    if types.is_temporal(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        return arrow.string()
    if types.is_struct(kind):
        return arrow.struct([kind.field(i).with_type(_plain_type(kind.field(i).type, arrow))
                             for i in range(kind.num_fields)])  # fmt: skip
    if types.is_list(kind):
        return arrow.list_(_plain_type(kind.value_type, arrow))
    return kind


def _batches(path: Path, kind: str, arrow: Any) -> Iterator[Any]:
    if kind == "parquet":
        with arrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(10_000)
        return
    with arrow.memory_map(str(path)) as source:
        try:
            reader: Any = arrow.ipc.open_file(source)
        except arrow.ArrowInvalid:  # the form without an index at its end, as a stream has it
            source.seek(0)
            if source.read(4) == b"FEA1":
                fix = "write it again as version 2 (pandas: to_feather)"
                raise LogError(f"{path}: is Feather of version 1; {fix}") from None
            source.seek(0)
            yield from arrow.ipc.open_stream(source)
            return
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def pyarrow_for(path: Path) -> Any:
    """The module pyarrow, with what is used of it; no stub knows it.

    Raises:
        LogError: without it.
    """
    try:
        import pyarrow
        import pyarrow.compute  # pyright: ignore[reportUnusedImport]
        import pyarrow.ipc  # pyright: ignore[reportUnusedImport]
        import pyarrow.parquet  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise LogError(f"{path}: reading it needs pyarrow: pip install pyarrow, or give a .jsonl file") from None
    return pyarrow
