"""Which part of a data set is asked for: of a folder or of the hub's repository, its configurations and one split.

Splits of one data set must never mix: training problems among the test's would go unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError
from ibpo.tasks.rows import Row, data_files, is_saved, local_rows, saved, table_rows

Part = tuple[str, Iterable[Row]]
"""Its name ("" where there is one part only), and its rows."""
SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation",
          "dev": "validation"}  # fmt: skip
"""What names of files and folders say -> the split."""


def local_parts(path: Path, configs: Sequence[str] = (), split: str = "") -> list[Part]:
    """The parts of a file, or of a folder the files of one split.

    Names tell the split, as in the hub's repositories: `algebra/train-00000-of-00001.parquet`, `test.jsonl`. Where a
    folder's names tell none, all its files count; a file that is named itself counts whatever its name.

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
    told = sorted(set(split_of.values()) - {""})
    if told:
        files = [file for file in files if split_of[file] == _chosen(path, told, SPLITS.get(split, split))]
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
        f"--revision {revision} --local-dir FOLDER` where there is a connection, and name the folder with --data FOLDER"
    )


def _chosen(path: Path, told: Sequence[str], split: str) -> str:
    if split in told:
        return split
    known = " and ".join(told)
    if split:
        raise IbpoError(f"{path}: holds the split {known}, and {split} is wanted; name the file itself to take it")
    if len(told) > 1:
        raise IbpoError(f"{path}: holds several splits, {known}; name the file or folder of one")
    return told[0]


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
