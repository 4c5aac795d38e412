"""JSON lines read by columns: pyarrow takes pieces of a file straight into arrays, far faster than line by line.

It must not matter who reads. pyarrow accepts some texts that Python's JSON refuses, and the other way round; so a piece
in which the two could differ is not read here at all, and its lines are read one by one.
"""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.data.files import UNREADABLE, open_bytes, unreadable

PIECE = 2**23
"""Bytes read at a time, and on to the end of a line."""
SMALL = 2**21
"""Bytes. Reading a smaller file line by line takes no longer than loading pyarrow; a tenth of it for a packed file."""
MAX_OPENINGS = 900
"""Python's JSON gives up on nesting a little above it."""
MAX_DIGITS = 4300
"""Python converts no longer whole number."""
TOO_LONG = re.compile(rb"\d{%d}" % (MAX_DIGITS + 1))


def is_small(path: Path) -> bool:
    """Whether the file is not worth loading pyarrow."""
    packed = path.name.lower().endswith((".gz", ".zst"))
    return path.stat().st_size < (SMALL // 10 if packed else SMALL)


def pieces(path: Path) -> Iterator[bytes]:
    """The file in pieces of whole lines of UTF-8.

    Raises:
        LogError: it is no such file, or a broken one.
    """
    try:
        with open_bytes(path) as file:
            head = file.read(len(codecs.BOM_UTF8))
            kept = b"" if head == codecs.BOM_UTF8 else head
            while piece := kept + file.read(PIECE):
                kept = b""
                piece += b"" if piece.endswith(b"\n") else file.readline()
                piece.decode()  # which pyarrow would not look at
                yield piece
    except UNREADABLE as error:
        raise unreadable(path, error) from None


def kinds_of(rows: Sequence[Mapping[str, Any]], fields: Mapping[str, Iterable[str]]) -> dict[str, str] | None:
    """The type of each column by the first rows; None where one has none that holds for all of them.

    Args:
        rows: The first rows.
        fields: Column -> the fields that are read from it: of `reward` and `cost` any number will do.

    Example:
        >>> kinds_of([{"id": 7, "x": 1}, {"id": 8, "x": 0.5}], {"id": ["problem"], "x": ["cost"]})
        {'id': 'int64', 'x': 'float64'}
    """
    found: dict[str, str] = {}
    for column, of in fields.items():
        types = {type(row[column]) for row in rows if row.get(column) is not None}
        numbers = set(of) & {"reward", "cost"}
        if types == {str} and not numbers:
            found[column] = "string"
        elif types == {bool} and "cost" not in of:
            found[column] = "bool"
        elif types == {int} and not numbers:
            found[column] = "int64"
        elif types and types <= {int, float} and numbers == set(of):
            found[column] = "float64"
        else:
            return None
    return found


def read_columns(piece: bytes, kinds: Mapping[str, str], arrow: Any) -> Any | None:
    """The columns of these lines as one batch of pyarrow, a row a line; None where they must be read one by one.

    Args:
        piece: Whole lines.
        kinds: Column -> its type. Other columns are not looked at, and may hold anything that is JSON.
        arrow: The module pyarrow.
    """
    import pyarrow.json as reader

    if not piece.endswith(b"\n"):
        piece += b"\n"
    # Each line is one object: what ends before a line's end and begins behind it is never inside an object.
    num_lines = piece.count(b"\n")
    if piece[:1] != b"{" or piece[-2:] != b"}\n" or piece.count(b"}\n{") != num_lines - 1 or b"\r" in piece:
        return None
    if b'"harness_task"' in piece or not _is_flat(piece):
        return None
    schema = arrow.schema([(name, getattr(arrow, {"bool": "bool_"}.get(kind, kind))()) for name, kind in kinds.items()])
    try:
        table = reader.read_json(
            arrow.BufferReader(piece),
            read_options=reader.ReadOptions(use_threads=False, block_size=len(piece) + 1),
            parse_options=reader.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except arrow.ArrowInvalid:
        return None
    return table.combine_chunks().to_batches()[0] if len(table) == num_lines else None


def _is_flat(piece: bytes) -> bool:
    """Whether no line can hold what Python's JSON refuses for its size: deep nesting, whole numbers of many digits."""
    letters = np.frombuffer(piece, np.uint8)
    ends = np.flatnonzero(letters == ord("\n"))
    longest = int(np.diff(ends, prepend=-1).max())
    if longest <= 2 * MAX_OPENINGS:
        return True
    openings = (letters == ord("[")) | (letters == ord("{"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    if np.add.reduceat(openings, starts, dtype=np.int64).max() > MAX_OPENINGS:
        return False
    return longest <= MAX_DIGITS or TOO_LONG.search(piece) is None
