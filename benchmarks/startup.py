"""How long does `ibpo` take before it does anything? CPU seconds of imports and helps, beside another checkout.

    python benchmarks/startup.py --base ../ibpo-before -n 9

User and system time of a child process (so that a busy machine counts less), median of n runs, the two checkouts in
turn.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
COMMANDS = ("demo", "cold-start", "train", "eval", "report", "allocate", "calibrate", "simulate", "serve", "replay",
            "route fit", "route show", "route score", "groups check", "task check")  # fmt: skip


def cpu_seconds(arguments: list[str], checkout: Path) -> float:
    """User and system seconds of one Python process on a checkout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run([sys.executable, *arguments], env=env, cwd=checkout, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Time every case on every checkout in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="another checkout, to compare with")
    parser.add_argument("-n", type=int, default=5, help="runs of each")
    parser.add_argument("--out", type=Path, help="JSON file for the medians")
    asked = parser.parse_args()
    cases = {"import ibpo": ["-c", "import ibpo"], "ibpo --help": ["-m", "ibpo", "--help"]}
    cases |= {f"ibpo {name} --help": ["-m", "ibpo", *name.split(), "--help"] for name in COMMANDS}
    checkouts = {"this": HERE} | ({"base": asked.base.resolve()} if asked.base else {})
    times = {(case, name): [] for case in cases for name in checkouts}
    for _ in range(asked.n):
        for case, arguments in cases.items():
            for name, checkout in checkouts.items():
                times[case, name].append(cpu_seconds(arguments, checkout))
    medians = {case: {name: statistics.median(times[case, name]) for name in checkouts} for case in cases}
    for case, row in medians.items():
        print(f"{case:28}", *(f"{name} {seconds:5.2f} s" for name, seconds in row.items()))
    if asked.out is not None:
        asked.out.write_text(json.dumps(medians, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
