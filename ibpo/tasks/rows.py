"""Rows of local files: JSON lines, Parquet, or a folder of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError
from ibpo.tasks.jsonl import read_jsonl

Row = tuple[str, dict[str, Any]]
"""Where it stands, as an error would name it, and its fields."""


def local_rows(path: Path) -> Iterator[Row]:
    """Rows of a `.jsonl`, `.jsonl.gz` or `.parquet` file, of a folder of such files, or one by `save_to_disk`.

    Raises:
        IbpoError: names file, row and mend.
    """
    if path.is_dir():
        yield from _folder(path)
    elif path.suffix == ".parquet":
        yield from _parquet(path)
    elif path.suffixes[-1:] == [".jsonl"] or path.suffixes[-2:] == [".jsonl", ".gz"] or not path.exists():
        for number, row in read_jsonl(path):
            yield f"{path} line {number}", row
    else:
        raise IbpoError(f"{path}: is neither .jsonl, .jsonl.gz nor .parquet; convert it or rename it")


def data_files(folder: Path) -> list[Path]:
    """The data files in a folder and those below it, in order of their names.

    Raises:
        IbpoError: where there are none.
    """
    files = sorted(p for p in folder.rglob("*") if p.name.endswith((".jsonl", ".jsonl.gz", ".parquet")))
    if not files:
        raise IbpoError(f"{folder}: holds no .jsonl, .jsonl.gz or .parquet file; name the data's own folder")
    return files


def is_saved(folder: Path) -> bool:
    """Whether `datasets` wrote this folder by `save_to_disk`."""
    return any((folder / name).exists() for name in ("dataset_info.json", "state.json", "dataset_dict.json"))


def saved(folder: Path) -> Any:
    """What `save_to_disk` wrote: a data set, or a dict of them by split.

    Raises:
        IbpoError: where it cannot be read.
    """
    try:
        import datasets

        return datasets.load_from_disk(str(folder))
    except Exception as error:
        raise IbpoError(f"{folder}: cannot be read as a saved data set: {str(error)[:120]}; save it again") from None


def table_rows(table: Any, place: str) -> Iterator[Row]:
    """The rows of a data set of `datasets`."""
    for i, row in enumerate(table):
        yield f"{place} row {i}", dict(row)


def _folder(path: Path) -> Iterator[Row]:
    if is_saved(path):
        found = saved(path)
        for name, table in found.items() if isinstance(found, dict) else [("", found)]:
            yield from table_rows(table, f"{path}{f' {name}' if name else ''}")
        return
    for file in data_files(path):
        yield from local_rows(file)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise IbpoError(f"{path}: reading Parquet needs pyarrow: pip install 'ibpo[train]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(1000):
                for row in batch.to_pylist():
                    yield f"{path} row {number}", row
                    number += 1
    except FileNotFoundError:
        raise IbpoError(f"{path}: there is no such file; name one") from None
    except (OSError, ValueError) as error:
        raise IbpoError(f"{path}: is not a whole Parquet file: {str(error)[:100]}; copy it again") from None
