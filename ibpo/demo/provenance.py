"""Which calls made a run, with which seeds and versions: a line for each, written before it does anything."""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ibpo.runs import write_text_atomic

FILE = "commands.jsonl"
PACKAGES = ("ibpo", "torch", "transformers", "trl", "numpy", "scikit-learn")


def note_call(run_dir: Path, seeds: Sequence[int], program: Sequence[str] = ("ibpo",)) -> None:
    """Add this call of `program` to the run's: command, when, seeds, versions; a killed call stands there, too."""
    call = {
        "command": shlex.join([*program, *sys.argv[1:]]),
        "begun": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "seeds": list(seeds),
        "python": f"{platform.python_version()} on {platform.machine()}",
        "versions": {name: _version(name) for name in PACKAGES},
    }
    path = run_dir / FILE
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text_atomic(path, before + json.dumps(call) + "\n")


def facts_of(run_dir: Path) -> list[tuple[str, str]]:
    """(label, value) of each call, one that only repeats the one before left out; none for a folder that says nothing.

    Example:
        >>> facts_of(Path("no such run"))
        []
    """
    try:
        calls = [json.loads(line) for line in (run_dir / FILE).read_text(encoding="utf-8").splitlines()]
        told = [(call["begun"], _spoken(call)) for call in calls]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    new = [one for i, one in enumerate(told) if i == 0 or one[1] != told[i - 1][1]]
    return [(f"Command, {begun}", text) for begun, text in new]


def _spoken(call: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in call["versions"].items() if number)
    return f"{call['command']} (seeds {', '.join(map(str, call['seeds']))}; Python {call['python']}; {versions})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
