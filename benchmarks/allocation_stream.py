"""Stream a Parquet log through `ibpo allocate --stream` and measure its peak memory.

    python benchmarks/allocation_stream.py --rows 1e8 --folder /some/disk --out

Writes the log first (8 responses to a problem, two response groups, seed 0), in a process of its own, then runs the
command in another and prints one JSON line (rows, problems, CPU seconds, peak resident memory), then its table. With
`--out` the command also writes its files (every problem's choice under three budgets, the chosen rows, the picture):
their sizes are in the JSON line, and they are deleted.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def write(path: Path, rows: int) -> None:
    import pyarrow
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    schema = pyarrow.schema(
        {
            "problem_id": pyarrow.int64(),
            "effort": pyarrow.string(),
            "correct": pyarrow.int8(),
            "tokens": pyarrow.int32(),
        }
    )
    names = pyarrow.array(["low", "high"])
    with parquet.ParquetWriter(path, schema) as file:
        for start in range(0, rows, 2_000_000):
            number = np.arange(start, min(start + 2_000_000, rows))
            problem, high = number // 8, number % 2
            level = ((problem * 2654435761) % 1000) / 1000  # the same for all responses of a problem
            correct = rng.random(len(number)) < 0.2 + 0.5 * (1 - level) + 0.6 * high * level * (1 - level)
            tokens = np.where(high, 2000, 300) * (0.5 + rng.random(len(number)))
            effort = pyarrow.DictionaryArray.from_arrays(pyarrow.array(high), names).cast(pyarrow.string())
            columns = [problem, effort, correct.astype(np.int8), tokens.astype(np.int32)]
            file.write_table(pyarrow.Table.from_arrays([pyarrow.array(x) for x in columns], schema=schema))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--folder", type=Path, default=Path("."))
    parser.add_argument("--out", action="store_true", help="write choices, chosen rows, summary and picture, too")
    parser.add_argument("--write-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rows = int(arguments.rows)
    path = arguments.folder / f"stream_{rows}.parquet"
    if arguments.write_only:
        write(path, rows)
        return
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--write-only"], check=True)
    command = "from ibpo.cli import main; main()"
    options = ["allocate", str(path), "--stream", "--budget", "high=30%"]
    out = arguments.folder / f"stream_{rows}_out"
    options += ["--out", str(out)] if arguments.out else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.Popen([sys.executable, "-c", command, *options], stdout=subprocess.PIPE, text=True)
    printed = done.communicate()[0]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "rows": rows,
        "problems": -(-rows // 8),
        "file_bytes": path.stat().st_size,
        "cpu_s": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 1),
        "wall_s": round(time.perf_counter() - began, 1),
        "peak_memory_bytes": used.ru_maxrss * 1024,
        "exit_code": done.returncode,
        "out_bytes": {file.name: file.stat().st_size for file in sorted(out.iterdir())} if arguments.out else None,
    }
    print(json.dumps(result))
    print(printed)
    path.unlink()
    shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
