"""What a whole command takes: `ibpo demo`, `ibpo report` and others, beside another checkout, in turn.

    git worktree add --detach ../ibpo-before 13baf26
    python benchmarks/whole_commands.py --base ../ibpo-before -n 1 demo
    python benchmarks/whole_commands.py --base ../ibpo-before -n 2 report runs/thinking

The command's own arguments come last; each run gets an empty folder of its own (`--runs` or `--out`). Prints seconds by
the clock, CPU seconds of the command and all processes that it started and waited for, and the most memory that they
held together (resident, five times a second); of a demo also what the policies gain over the random mix. Idle machine:
two processes at a time use two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent.parent
FOLDER_OPTION = {"demo": "--runs", "report": "--out", "allocate": "--out"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one run took."""

    seconds: float
    cpu_seconds: float
    mebibytes: float


def run_command(checkout: Path, arguments: list[str], folder: Path) -> Run:
    """Run `ibpo ARGUMENTS` of a checkout to its end."""
    option = FOLDER_OPTION.get(arguments[0])
    command = [sys.executable, "-m", "ibpo", *arguments, *([option, str(folder)] if option else [])]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": str(checkout)}, cwd=checkout, stdout=said, stderr=said
        )
        most, watched = 0, psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.Error):
                most = max(most, sum(_resident(one) for one in [watched, *watched.children(recursive=True)]))
            time.sleep(0.2)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"{checkout}: {(folder / 'said.txt').read_text()[-2_000:]}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(seconds=seconds, cpu_seconds=cpu, mebibytes=most / 2**20)


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def gains(folder: Path) -> list[str]:
    """Of a demo: what each IBPO policy gets above the random mix of the same budget, in points."""
    found = []
    for path in sorted(folder.rglob("results.json")):
        rows = json.loads(path.read_text())
        mix = {(row["experiment"], row["budget"]): row["accuracy"] for row in rows if row["method"] == "random mix"}
        for row in rows:
            key = row["experiment"], row["budget"]
            if row["method"].startswith("IBPO") and key in mix:
                gain, share = 100 * (row["accuracy"] - mix[key]), row.get("extended_share")
                found.append(
                    f"{row['experiment']} {row['method']} at {row['budget']:g}: {gain:+.1f}, share {share:.3f}"
                )
    return found


def main() -> None:
    """Run the command of each checkout in turn, and print what each run took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="another checkout, to compare with")
    parser.add_argument("-n", type=int, default=1, help="runs of each")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary one")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="e.g. demo --quick")
    asked = parser.parse_args()
    checkouts = {"this": HERE} | ({"base": asked.base.resolve()} if asked.base else {})
    command = [str(Path(text).resolve()) if Path(text).exists() else text for text in asked.command]
    taken: dict[str, list[Run]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(asked.n):
            for name, checkout in checkouts.items():
                folder = (asked.folder or Path(temporary)) / f"{name}{number}"
                folder.mkdir(parents=True)
                run = run_command(checkout, command, folder)
                taken[name].append(run)
                print(
                    f"{name:5} {run.seconds:7.1f} s {run.cpu_seconds:7.1f} CPU s {run.mebibytes:7.0f} MiB", flush=True
                )
                for line in gains(folder):
                    print(f"      {line}", flush=True)
    if asked.base:
        for what in ("seconds", "cpu_seconds", "mebibytes"):
            this, base = (statistics.median(getattr(run, what) for run in taken[name]) for name in ("this", "base"))
            print(f"{what:12} {this / base:.3f} of the other checkout's")


if __name__ == "__main__":
    main()
