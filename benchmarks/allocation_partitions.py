"""Responses in Parquet files that do not fit into memory together, allocated by `allocate_partitions`.

    python -m benchmarks.allocation_partitions --rows 1e7 --check          (against `allocate` on all of it in memory)
    python -m benchmarks.allocation_partitions --rows 1e9 --folder DISK --workers 2

Writes the files first (8 responses to a problem, two response groups, utilities of single precision, tokens; seed 0),
unless they are there, and reads the columns alone once. Then, for each budget, one JSON line: seconds of wall time and
of CPU, per response too, passes, open problems, gap, and the most memory that this process and a worker took so far.
`--weights` also makes the 0/1 weights of every file, and sums their tokens and utilities.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

PER_FILE = 4_000_000
SIBLINGS = 8
BUDGETS: dict[str, Any] = {"share": 0.3, "tokens": 900.0, "share and tokens": [0.3, 800.0]}


def write(folder: Path, rows: int, number: int) -> None:
    """One file, whole or absent."""
    import pyarrow
    from pyarrow import parquet

    path = folder / f"part-{number:05}.parquet"
    if path.exists():
        return
    rng = np.random.default_rng([0, number])
    row = np.arange(number * PER_FILE, min((number + 1) * PER_FILE, rows))
    problem, high = row // SIBLINGS, (row % 2).astype(np.int8)
    level = np.repeat(rng.random(-(-len(row) // SIBLINGS), np.float32), SIBLINGS)[: len(row)]
    # The expected reward of a response, as a reward model gives it: extended ones gain most in the middle.
    utility = (1 - level) * 0.7 + 0.6 * high * level * (1 - level) + 0.1 * rng.random(len(row), np.float32)
    tokens = np.where(high, 2000, 300) * (0.5 + rng.random(len(row), np.float32))
    table = pyarrow.table(
        {"problem": problem, "extended": high, "utility": utility.astype(np.float32), "tokens": tokens.astype(np.int32)}
    )
    partial_path = path.with_suffix(".partial")
    parquet.write_table(table, partial_path, compression="lz4", use_dictionary=False)
    partial_path.rename(path)


def columns(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path, columns=["utility", "problem", "extended", "tokens"], use_threads=False)


def read(kind: str, path: Path) -> tuple[Any, Any, Any]:
    """A file as `allocate` takes it."""
    table = columns(path)
    extended = table["extended"].to_numpy().view(bool)
    tokens = table["tokens"].to_numpy()
    cost = {
        "share": lambda: extended,
        "tokens": lambda: tokens,
        "share and tokens": lambda: np.stack([extended, tokens]),
    }
    return table["utility"].to_numpy(), table["problem"].to_numpy(), cost[kind]()


def touch(path: Path) -> int:
    """Read a file and do nothing with it."""
    return columns(path).num_rows


def spend(found: Any, numbered: tuple[int, Path]) -> tuple[int, float]:
    """Tokens and utilities of the chosen responses of a file."""
    number, path = numbered
    weight = found.weight(number, path)
    table = columns(path)
    chosen = weight == 1
    return int(table["tokens"].to_numpy()[chosen].sum()), float(table["utility"].to_numpy()[chosen].sum(dtype=float))


def memory() -> dict[str, int]:
    """Peak resident memory, MiB: this process, the largest worker."""
    ours, theirs = (
        resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {"main_mib": ours, "worker_mib": theirs}


def cpu() -> float:
    total = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in total)


def measure(kind: str, paths: list[Path], given: argparse.Namespace) -> dict[str, Any]:
    from ibpo.allocation import allocate, allocate_partitions

    line: dict[str, Any] = {"budget": kind, "amount": BUDGETS[kind], "workers": given.workers}
    began, used = time.monotonic(), cpu()
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        found = allocate_partitions(paths, partial(read, kind), BUDGETS[kind], map=pool.map)
    seconds, used = time.monotonic() - began, cpu() - used
    line |= {
        "rows": found.num_responses, "problems": found.num_problems, "seconds": round(seconds, 1),
        "cpu_seconds": round(used, 1), "cpu_ns_per_response": round(1e9 * used / found.num_responses, 1),
        "passes": found.num_passes, "open_problems": found.num_open, "status": found.status, "gap": found.gap,
        "objective": found.objective, "spent": found.spent.tolist(), "price": found.price.tolist(), **memory(),
    }  # fmt: skip
    if given.weights:
        with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
            sums = list(pool.map(partial(spend, found), enumerate(paths)))
        line["tokens_of_weights"] = sum(tokens for tokens, _ in sums) / found.num_problems
        line["utility_of_weights"] = sum(value for _, value in sums)
    if given.check:
        arrays = [read(kind, path) for path in paths]
        utility, problem, cost = (np.concatenate(part, axis=-1) for part in zip(*arrays, strict=True))
        began = time.process_time()
        alone = allocate(utility, problem, cost, BUDGETS[kind])
        line["in_memory"] = {
            "cpu_seconds": round(time.process_time() - began, 2), "objective": alone.objective,
            "status": alone.status, "gap": alone.gap, "price": alone.price.tolist(),
        }  # fmt: skip
        weight = np.concatenate([found.weight(number, path) for number, path in enumerate(paths)])
        line["same_weights"] = bool((weight == alone.weight).all())
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=1e7)
    parser.add_argument("--folder", type=Path, default=Path("runs/partitions"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--budgets", nargs="+", choices=tuple(BUDGETS), default=list(BUDGETS))
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    rows = int(given.rows)
    folder = given.folder / f"{rows}"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(write, folder, rows), range(-(-rows // PER_FILE))))
    paths = sorted(folder.glob("part-*.parquet"))
    size = sum(path.stat().st_size for path in paths)
    print(
        json.dumps(
            {"files": len(paths), "gigabytes": round(size / 1e9, 2), "write_s": round(time.monotonic() - began, 1)}
        )
    )
    used = cpu()
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(touch, paths))
    print(json.dumps({"reading_alone_cpu_s": round(cpu() - used, 1)}), flush=True)
    for kind in given.budgets:
        print(json.dumps(measure(kind, paths, given)), flush=True)


if __name__ == "__main__":
    main()
