"""How long does `ibpo allocate` take from a log to its answer? CPU seconds and memory, beside another checkout.

    python benchmarks/log_speed.py --base ../ibpo-before -n 5

Two logs: the example (2,160 rows, `--by model`), and simulated ones of `--rows` rows (a tenth as many problems and
response groups together, five responses each), as JSON lines and as Parquet, also with `--stream`. User and system time
of a child process, start included, with one thread each for linear algebra, and the largest resident memory; medians of
n runs (of the large logs: of `--large`), the checkouts in turn. Every checkout runs once before, for its bytecode.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
GROUPS = (("low", 300.0), ("high", 2000.0))
RESPONSES = 5
ROW = '{{"problem_id": "{}", "response_group": "{}", "reward": {}, "tokens": {}}}\n'


def write_logs(folder: Path, num_rows: int, seed: int = 0) -> dict[str, Path]:
    """One simulated log in both forms, its rows in random order."""
    import numpy as np
    import pyarrow
    from pyarrow import parquet

    rng = np.random.default_rng(seed)
    num_problems = num_rows // (len(GROUPS) * RESPONSES)
    ease = rng.normal(size=num_problems)
    cells = rng.permutation(np.repeat(np.arange(num_problems * len(GROUPS)), RESPONSES))
    problem, group = cells // len(GROUPS), cells % len(GROUPS)
    chance = 1 / (1 + np.exp(-3 * (ease[problem] - np.array([0.5, -0.5])[group])))
    reward = (rng.random(len(cells)) < chance).astype(int)
    mean = np.array([cost for _, cost in GROUPS])[group] * np.exp(-0.4 * ease[problem])
    tokens = np.maximum(mean * rng.gamma(4, 0.25, len(cells)), 1).astype(int)
    names = [GROUPS[g][0] for g in group.tolist()]
    ids = [f"q{p}" for p in problem.tolist()]
    lines, columns = folder / "log.jsonl", folder / "log.parquet"
    with lines.open("w") as file:
        for row in zip(ids, names, reward.tolist(), tokens.tolist(), strict=True):
            file.write(ROW.format(*row))
    table = {"problem_id": ids, "response_group": names, "reward": reward, "tokens": tokens}
    parquet.write_table(pyarrow.table(table), columns)
    return {"jsonl": lines, "parquet": columns}


def run(arguments: list[str], checkout: Path, scratch: Path) -> tuple[float, float]:
    """CPU seconds and largest resident memory (MiB) of one `ibpo` on a checkout."""
    env = os.environ | {
        "PYTHONPATH": str(checkout), "PYTHONPYCACHEPREFIX": str(scratch / checkout.name), "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    # In its folder, for `-m` takes what is there before PYTHONPATH.
    command = [sys.executable, "-m", "ibpo", *arguments]
    child = subprocess.Popen(command, env=env, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    if child.returncode:
        raise SystemExit(f"{checkout.name}: ibpo {' '.join(arguments)}: {said.decode()[-500:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Time every case on every checkout in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="another checkout, to compare with")
    parser.add_argument("-n", type=int, default=5, help="runs of the example")
    parser.add_argument("--large", type=int, default=1, help="runs of the large logs; 0 leaves them out")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--streamed", action="store_true", help="of the large logs only --stream")
    asked = parser.parse_args()
    checkouts = {"this": HERE} | ({"base": asked.base.resolve()} if asked.base else {})
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        example = str(HERE / "examples" / "dual_mode_dev.jsonl.gz")
        cases = {"example": ["allocate", example, "--by", "model"]}
        if asked.large:
            with ProcessPoolExecutor(1, get_context("spawn")) as other:  # a child's resident memory begins with ours
                forms = other.submit(write_logs, scratch, asked.rows).result()
            for more in (["--stream"], ["--num-splits", "10"])[: 1 if asked.streamed else 2]:
                for form, path in forms.items():
                    cases[f"{asked.rows:,} rows, {form}, {' '.join(more)}"] = ["allocate", str(path), *more]
        for checkout in checkouts.values():
            run(cases["example"], checkout, scratch)
        print("| log | " + " | ".join(f"{name}: CPU s | MiB" for name in checkouts) + " |")
        print("|---|" + "---|---|" * len(checkouts))
        for case, arguments in cases.items():
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
            for _ in range(asked.n if case == "example" else asked.large):
                for name, checkout in checkouts.items():
                    found[name].append(run(arguments, checkout, scratch))
            cells = [
                f"{statistics.median(s for s, _ in runs):.2f} | {statistics.median(m for _, m in runs):.0f}"
                for runs in found.values()
            ]
            print(f"| {case} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
