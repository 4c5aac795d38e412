"""Rows of a data set, wherever it lies: JSON lines, Parquet, a folder, or the hub at a pinned revision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def hub_rows(name: str, configs: Sequence[str], split: str, revision: str) -> Iterator[Row]:
    """Rows of a data set on the hub, or of its copy in this machine's cache.

    Raises:
        IbpoError: says how to get what is missing.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise IbpoError(f"{name}: loading it needs {error.name}: pip install 'ibpo[train]', or name a file") from None
    how = f"hf download {name} --repo-type dataset --revision {revision}"
    for config in configs:
        try:
            rows: Any = datasets.load_dataset(name, config or None, split=split, revision=revision)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]
            raise IbpoError(
                f"{name}: is not on this machine and cannot be fetched ({first}); run `{how}` where there is a "
                "connection, or name a local file of it"
            ) from None
        for i, row in enumerate(rows):
            yield f"{name}{f' {config}' if config else ''} row {i}", dict(row)


def _folder(path: Path) -> Iterator[Row]:
    if (path / "dataset_info.json").exists() or (path / "state.json").exists():
        try:
            import datasets

            rows: Any = datasets.load_from_disk(str(path))
        except Exception as error:
            raise IbpoError(f"{path}: cannot be read as a saved data set: {str(error)[:120]}; save it again") from None
        for i, row in enumerate(rows):
            yield f"{path} row {i}", dict(row)
        return
    files = sorted(p for p in path.rglob("*") if p.name.endswith((".jsonl", ".jsonl.gz", ".parquet")))
    if not files:
        raise IbpoError(f"{path}: holds no .jsonl, .jsonl.gz or .parquet file; name the data's own folder")
    for file in files:
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
