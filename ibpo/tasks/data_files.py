"""Rows of data sets: JSON lines, Parquet, folders of them, and the part of the hub's repository that is asked for.

Splits of one data set must never mix: training problems among the test's would go unnoticed.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ibpo.data import files_below, good_rows, json_value
from ibpo.errors import IbpoError


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line; blank ones are passed over.

    Raises:
        IbpoError: names file, line and fix.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json_value(line)
                except (ValueError, RecursionError) as error:  # also an integer of more digits than Python converts
                    said = str(error).partition(";")[0]
                    if isinstance(error, json.JSONDecodeError):
                        said = f"{error.msg.removesuffix(' at')} at column {error.colno}"
                    raise IbpoError(
                        f"{path} line {number}: is not JSON: {said}; the file needs one JSON object a line"
                    ) from None
                if not isinstance(row, dict):
                    raise IbpoError(f"{path} line {number}: is not a JSON object; write {{...}} on each line")
                yield number, row
    except FileNotFoundError:
        raise IbpoError(f"{path}: there is no such file; name another") from None
    except UnicodeDecodeError:
        raise IbpoError(f"{path} line {number + 1}: is not UTF-8 text; save the file as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise IbpoError(f"{path}: is not a whole gzip file; copy it again") from None
    except OSError as error:
        raise IbpoError(f"{path}: cannot be read: {error.strerror}; name another") from None


Row = tuple[str, dict[str, Any]]
"""The place of the row, as an error would name it, and its fields."""


def local_rows(path: Path) -> Iterator[Row]:
    """Rows of a `.jsonl`, `.jsonl.gz` or `.parquet` file, of a folder of such files, or one by `save_to_disk`.

    Raises:
        IbpoError: names file, row and fix.
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


def prompt_rows(path: Path) -> Iterator[Row]:
    """Rows of prompts without answers: what `local_rows` reads, and every other table that a log may be.

    Raises:
        IbpoError: names file, row and fix.
    """
    own = path.is_dir() or path.name.endswith((".jsonl", ".jsonl.gz", ".parquet"))
    yield from local_rows(path) if own else good_rows(path)


def data_files(folder: Path) -> list[Path]:
    """The data files in a folder and those below it, in order of their names.

    Raises:
        IbpoError: where there are none.
    """
    files = sorted(p for p in files_below(folder) if p.name.endswith((".jsonl", ".jsonl.gz", ".parquet")))
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
        from pyarrow import ArrowException
    except ModuleNotFoundError:
        raise IbpoError(f"{path}: reading Parquet needs pyarrow: pip install 'ibpo[train]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            names, number = file.schema_arrow.names, 0
            if twice := sorted({name for name in names if names.count(name) > 1}):  # a row would hold the last of them
                raise IbpoError(f"{path}: several columns are called {twice[0]!r}; rename one of them")
            for batch in file.iter_batches(1000):
                for row in batch.to_pylist():
                    yield f"{path} row {number}", row
                    number += 1
    except IbpoError:
        raise
    except FileNotFoundError:
        raise IbpoError(f"{path}: there is no such file; name one") from None
    except (OSError, ValueError, OverflowError, ArrowException) as error:
        raise IbpoError(f"{path}: is not a whole Parquet file: {str(error)[:100]}; copy it again") from None


Part = tuple[str, Iterable[Row]]
"""Its name ("" where there is one part only), and its rows."""

SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation",
          "dev": "validation"}  # fmt: skip
"""What names of files and folders say -> the split."""


def local_parts(path: Path, configs: Sequence[str] = (), split: str = "") -> list[Part]:
    """The parts of a file, or of a folder the files of one split.

    Names say of which split a file is, as in the hub's repositories: `algebra/train-00000-of-00001.parquet`,
    `test.jsonl`. Where a folder's names say nothing, all its files count; a file that is named itself counts whatever
    its name.

    Args:
        path: File or folder.
        configs: Where files or folders in it have these names, the others are left out.
        split: The wanted one; "": there must be one only.

    Raises:
        IbpoError: for a folder of several splits, of which none is wanted, or without the wanted one.
    """
    if not path.is_dir():
        return [("", local_rows(path))]
    if is_saved(path):
        found = saved(path)
        if not isinstance(found, dict):
            return [("", table_rows(found, str(path)))]
        name = _chosen(path, list(found), split)
        return [("", table_rows(found[name], f"{path} {name}"))]
    files = data_files(path)
    split_of = {file: _split(file.relative_to(path)) for file in files}
    named = sorted(set(split_of.values()) - {""})
    if named:
        wanted = _chosen(path, named, SPLITS.get(split, split))
        unnamed = next((file for file in files if not split_of[file]), None)
        if unnamed is not None and not split:  # left out, it would go unnoticed
            raise IbpoError(
                f"{path}: holds the split {wanted}, and {unnamed.relative_to(path)}, whose name says of which split it "
                f"is not; name the file or folder of one, or write data.split = {wanted!r} to leave it out"
            )
        files = [file for file in files if split_of[file] == wanted]
    chosen = [(config, file) for config in configs for file in files if config and config in _words(file, path)]
    if not chosen:
        chosen = [("", file) for file in files]
    if len(chosen) == 1:
        return [("", local_rows(chosen[0][1]))]
    several = len({config for config, _ in chosen}) < len(chosen)
    return [(_stem(file.relative_to(path)) if several else config, local_rows(file)) for config, file in chosen]


def hub_parts(name: str, configs: Sequence[str], split: str, revision: str) -> list[Part]:
    """The parts of a data set on the hub: out of this machine's cache at just this revision, else fetched.

    The repository's files are read, not what `datasets` kept of them: offline that would be the latest version that it
    happened to load, whatever the revision.

    Raises:
        IbpoError: says how to get what is missing.
    """
    try:
        import datasets
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise IbpoError(f"{name}: loading it needs {error.name}: pip install 'ibpo[train]', or name a file") from None
    said = ""
    for local in (True, False):
        try:
            folder = snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=local)
            tables: list[tuple[str, Any]] = [
                (config, datasets.load_dataset(folder, config or None, split=split)) for config in configs
            ]
        except Exception as error:
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]
            continue
        places = {config: f"{name}{f' {config}' if config else ''}" for config in configs}
        return [(config if len(configs) > 1 else "", table_rows(table, places[config])) for config, table in tables]
    raise IbpoError(
        f"{name}: is not on this machine and cannot be fetched ({said}); run `hf download {name} --repo-type dataset "
        f"--revision {revision} --local-dir FOLDER` where there is a connection, and name the folder with --set "
        "data.path=FOLDER"
    )


def _chosen(path: Path, named: Sequence[str], split: str) -> str:
    if split in named:
        return split
    known = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    if split:
        several = "s" if len(named) > 1 else ""
        raise IbpoError(
            f"{path}: holds the split{several} {known}, and {split} is wanted; name the file itself to take it"
        )
    if len(named) > 1:
        raise IbpoError(f"{path}: holds several splits: {known}; name the file or folder of one")
    return named[0]


def _split(file: Path) -> str:
    """What a file's name says, or else the nearest folder's that says something."""
    for part in reversed(file.parts):
        for word in re.split(r"[-_.]", part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return ""


def _words(file: Path, root: Path) -> set[str]:
    """The names that may be a configuration's."""
    relative = file.relative_to(root)
    return {*relative.parts[:-1], _stem(Path(relative.name))}


def _stem(file: Path) -> str:
    return re.sub(r"\.(jsonl|jsonl\.gz|parquet)$", "", file.as_posix())
