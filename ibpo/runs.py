"""The folder of a run: the one place that knows its file names."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from ibpo.errors import IbpoError, printable

CHECKPOINT_FILES = ("trainer_state.json", "ibpo_state.npz")
"""What is written last into a checkpoint: where both are, it is whole."""
LOCK = ".lock"
RESPONSES = "responses.jsonl"
"""The table of judged responses, in every folder of a run that has one."""
_PACKAGES = ("ibpo", "torch", "transformers", "trl", "numpy", "scikit-learn")
"""Whose versions a run notes."""


def cannot_write(path: Path, error: OSError) -> IbpoError:
    """The error for a file or folder that cannot be written."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    fix = "make room and run the same command again, or name another folder" if is_full else "name a folder that can"
    return IbpoError(f"{path}: cannot be written: {error.strerror or error}; {fix}")


def check_out(path: Path, *, is_folder: bool = False) -> None:
    """Complain before any work where a file or folder could not be written at its end.

    Raises:
        IbpoError: as whoever writes it would say.
    """
    if not is_folder and path.is_dir():
        raise IbpoError(f"{path}: is a folder; name a file in it")
    if is_folder and path.exists() and not path.is_dir():
        raise cannot_write(path, OSError(errno.EEXIST, os.strerror(errno.EEXIST)))
    if not is_folder and path.exists() and not path.is_file():
        return  # a device or a pipe
    above = path if is_folder and path.exists() else path.parent
    while not above.exists():
        above = above.parent
    wrong = errno.ENOTDIR if not above.is_dir() else 0 if os.access(above, os.W_OK | os.X_OK) else errno.EACCES
    if wrong:
        raise cannot_write(path, OSError(wrong, os.strerror(wrong)))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write a file at, which replaces `path` when the block ends well; else what was there stays.

    A link stays a link: what it leads to is replaced. A device or a pipe (`/dev/null`, `/dev/stdout`) stays what it is,
    and gets the file's content: a file put in its place would take it away from every program of the machine.
    What a process leaves that is killed meanwhile, the next that writes the same file removes.

    Raises:
        IbpoError: where the folder cannot be written, or the disk is full.
    """
    if path.is_dir():
        raise IbpoError(f"{path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder) / f"file{path.suffix}"
            yield partial
            try:
                with partial.open("rb") as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except OSError as error:
                raise cannot_write(path, error) from None
        return
    path = path.resolve() if path.is_symlink() else path
    # Not by mkstemp, which takes the rights of the group and of others away.
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):
            partial.unlink()


def _remove_left(path: Path) -> None:
    """Remove what processes that are no more left of this file."""
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        number = left.name.removeprefix(f".{path.stem}.").removesuffix(path.suffix)
        if number.isdecimal() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            with suppress(OSError):
                left.unlink()


@contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """A text file to write, whole or not at all; see `atomic_path`."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process: two that write into one store everything twice.

    The operating system lets go of it when the process ends, however it ends; the file `.lock` stays and means nothing.

    Raises:
        IbpoError: where another process works there, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise IbpoError(
            f"{folder}: another process of ibpo is using it; wait until it has ended, or name another folder"
        ) from None
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        yield
    finally:
        lock.release()
        if is_new and [file.name for file in folder.iterdir()] == [LOCK]:  # nothing came of it
            with suppress(OSError):
                (folder / LOCK).unlink()
                folder.rmdir()


@contextmanager
def atomic_files(folder: Path, last: str) -> Iterator[Path]:
    """A folder to write files that belong together: they replace those in `folder` when the block ends well.

    What was in `folder` stays until then. The file `last` goes first and comes last: where it is, it is that of the
    others, whenever the process is killed. What a killed process leaves is a folder `.partial`, which the next clears.

    Raises:
        IbpoError: where the folder cannot be written.
    """
    partial = folder / ".partial"
    with working_in(folder):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            (folder / last).unlink(missing_ok=True)
            for file in sorted(partial.iterdir(), key=lambda file: (file.name == last, file.name)):
                os.replace(file, folder / file.name)
        except OSError as error:
            raise cannot_write(folder, error) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def number_equal_names(names: Sequence[str]) -> list[str]:
    """Names of files, each otherwise: later ones that a disk might not tell from one before get a number.

    Example:
        >>> number_equal_names(["a_b", "A_B", "c", "a_b"])
        ['a_b', 'A_B_2', 'c', 'a_b_3']
    """
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        numbered = ("_".join(filter(None, (name, str(number) if number > 1 else ""))) for number in count(1))
        found.append(next(one for one in numbered if one.casefold() not in taken))
        taken.add(found[-1].casefold())
    return found


def write_text_atomic(path: Path, text: str) -> None:
    """Write the whole file or leave what was there; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(text)


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines at the end of a file, down to the disk's cache: all, or none, as what a full disk took is cut off.

    Raises:
        OSError: The disk is full, or the file cannot be written.
    """
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise


class Journal:
    """A file of JSON lines that grows: killed at any moment, the lines that were written whole are there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """Every whole line; what a kill left of the last one is cut off.

        Raises:
            IbpoError: for a line that is no object of JSON.
        """
        try:
            data = self.path.read_bytes() if self.path.exists() else b""
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(self.path, whole)
        except OSError as error:
            raise IbpoError(f"{self.path}: cannot be read: {error.strerror}; name another folder") from None
        found: list[dict[str, Any]] = []
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError
            except (ValueError, RecursionError):
                raise IbpoError(f"{self.path} line {number}: is not a row of it; remove the line") from None
            found.append(row)
        return found

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Write rows (`append_rows`).

        Raises:
            IbpoError: where the disk is full or the folder cannot be written.
        """
        try:
            append_rows(self.path, rows)
        except OSError as error:
            raise cannot_write(self.path, error) from None


def digest_file(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal; of a folder, of its responses, else of the names and hashes of its files."""
    path = Path(path)
    if path.is_dir() and (path / RESPONSES).is_file():
        path = path / RESPONSES
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        listed = "".join(f"{file.relative_to(path).as_posix()}\t{digest_file(file)}\n" for file in files)
        return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_document(text: str, where: str, kind: str, version: int, command: str) -> dict[str, Any]:
    """The JSON object that `command` wrote, once its `kind` and `version` are those that this ibpo reads.

    Raises:
        IbpoError: Something else, or of another version; names `where`, and the command that makes it again.
    """
    again = f"make it again with {command}"
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # also an integer of more digits than Python converts
        raise IbpoError(f"{where}: not JSON: {str(error).partition(';')[0]}; {again}") from None
    if not isinstance(row, dict) or row.get("kind") != kind:
        raise IbpoError(f"{where}: no {kind.removeprefix('ibpo.')}; make one with {command}")
    if row.get("version") != version:
        raise IbpoError(f"{where}: of version {row.get('version')!r}, this ibpo reads {version}; {again}")
    return row


def to_toml(tables: Mapping[str, Any], command: str) -> str:
    """Tables, and tuples of tables, as TOML whose first comment is the command; None values are left out.

    Example:
        >>> print(to_toml({"train": {"steps": 3}}, "ibpo train r.toml"), end="")
        # ibpo train r.toml
        <BLANKLINE>
        [train]
        steps = 3
    """
    lines = [f"# {printable(command)}"]
    for name, part in tables.items():
        for table in part if isinstance(part, tuple) else [part]:
            lines += ["", f"[[{name}]]" if isinstance(part, tuple) else f"[{name}]"]
            lines += [f"{_key(key)} = {_value(value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value) if isinstance(value, bool) else str(value)


def changed_keys(before: str, now: str) -> list[str]:
    r"""Where two recipes, as TOML, differ.

    Example:
        >>> changed_keys("[train]\nsteps = 3\nseed = 0", "[train]\nsteps = 4\nseed = 0")
        ['train.steps']
    """
    old, new = _flat(tomllib.loads(before)), _flat(tomllib.loads(now))
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {name: value}
    return {k: v for key, part in items for k, v in _flat(part, f"{name}.{key}".lstrip(".")).items()}


class RunDir:
    """File names of a run, and what state it is in.

    Example:
        >>> RunDir(Path("runs/first")).metrics.as_posix()
        'runs/first/metrics.jsonl'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        """The recipe as run, overrides included."""
        self.metrics = path / "metrics.jsonl"
        self.rollout_log = path / "rollout_log"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        """The trained policy and its tokenizer; there only when training is over."""
        self.rollouts = path / "rollouts.jsonl"
        """A cold start's sampled solutions."""
        self.dataset = path / "dataset.jsonl"
        """The responses built out of them; where it is, it is whole."""
        self.provenance = path / "dataset.json"
        self.gate = path / "gate.jsonl"
        """Responses of the trained policy to held-out problems."""
        self.next_recipe = path / "train.toml"
        """A recipe of `ibpo train` that goes on from a cold start."""
        self.report = path / "report.md"
        self.results = path / "results.json"
        """Written last: where it is, the run is finished."""

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config.exists()

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on from."""
        return self.exists and (self.is_finished or self.model.is_dir() or self.last_checkpoint() is not None)

    @property
    def is_finished(self) -> bool:
        """Whether the run was trained and evaluated."""
        return self.results.exists()

    @property
    def is_foreign(self) -> bool:
        """Whether the folder holds something else than a run."""
        if self.exists or not self.path.exists():
            return False
        return not self.path.is_dir() or any(file.name != LOCK for file in self.path.iterdir())

    def changed_keys(self, recipe: str) -> list[str]:
        """Where the recipe differs from the one that the run was begun with.

        Raises:
            IbpoError: The run's own cannot be read.
        """
        try:
            return changed_keys(self.config.read_text(encoding="utf-8"), recipe)
        except (OSError, ValueError, RecursionError) as error:
            said = str(error).partition(";")[0]
            raise IbpoError(f"{self.config}: is damaged: {said}; name another folder with --out") from None

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; one that was cut off while it was written does not count."""
        whole = [
            path
            for path in self.checkpoints.glob("checkpoint-*")
            if all((path / name).exists() for name in CHECKPOINT_FILES) and path.name[11:].isdigit()
        ]
        return max(whole, key=lambda path: int(path.name[11:]), default=None)


def note_call(run_dir: Path, seeds: Sequence[int], program: Sequence[str] = ("ibpo",)) -> None:
    """Add this call of `program` to the run's: command, when, seeds, versions; a call that is killed is noted, too."""
    call = {
        "command": shlex.join([*program, *sys.argv[1:]]),
        "begun": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "seeds": list(seeds),
        "python": f"{platform.python_version()} on {platform.machine()}",
        "versions": versions_of(_PACKAGES),
    }
    Journal(run_dir / "commands.jsonl").add(call)


def noted_calls(run_dir: Path) -> list[tuple[str, str]]:
    """(label, value) of each call, one that only repeats the one before left out; none for a folder that says nothing.

    Example:
        >>> noted_calls(Path("no such run"))
        []
    """
    try:
        calls = [json.loads(line) for line in (run_dir / "commands.jsonl").read_text(encoding="utf-8").splitlines()]
        said = [(call["begun"], _call_text(call)) for call in calls]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    new = [one for i, one in enumerate(said) if i == 0 or one[1] != said[i - 1][1]]
    return [(f"Command, {begun}", text) for begun, text in new]


def _call_text(call: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in call["versions"].items() if number)
    return f"{call['command']} (seeds {', '.join(map(str, call['seeds']))}; Python {call['python']}; {versions})"


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found: dict[str, str] = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
