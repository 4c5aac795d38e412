"""The allocation solver against generic ones: time, memory, gap. Prints a Markdown table.

    python benchmarks/allocation.py --sizes 1e3 1e4 1e5 1e6 1e7 --limit 60 --out docs/allocation-benchmark.md
    python benchmarks/allocation.py --sizes 1e4 1e5 --against CHECKOUT --turns 25

The second compares this solver with another checkout's: a process for each, which solve the same instance in turns.

Each (form, size, engine) is a process of its own, in which our solver, `np.partition` of the same utilities and the
engine take turns; ratios are medians within that process. Times are CPU seconds of one thread, so that other work on
the machine does not count; an engine that has used `--limit` CPU seconds on one instance is stopped and gets no larger
one. An engine that finishes with another objective than ours ends the benchmark with an error.
Layouts of the rows: *grouped* (the 8 responses of a problem stand together, as in every log and every trainer's batch;
ids need not be sorted), *ragged* (together, 4 to 12 per problem) and *shuffled* (all rows in random order).
OR-Tools runs if it is installed (`pip install 'ibpo[bench]'`). Memory is the peak of resident memory on top of the
input, grouped.
"""

# OR-Tools' stubs ask for exact integer types that numpy's do not promise.
# pyright: reportArgumentType=false

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

FORMS = {
    "share": "one share budget, two response groups, 25 %",
    "groups": "four budgeted response groups of five, 10, 15, 10 and 5 %",
    "tokens": "one token budget, lognormal tokens, twice the cheapest",
}
ENGINES = {
    "share": ("milp", "highs_lp", "flow", "cp_sat"),
    "groups": ("milp", "highs_lp", "flow", "cp_sat"),
    "tokens": ("milp", "cp_sat"),
}
NAMES = {
    "milp": "scipy.optimize.milp, gap 0",
    "highs_lp": "HiGHS, linear relaxation",
    "flow": "OR-Tools min-cost flow",
    "cp_sat": "OR-Tools CP-SAT, one worker",
}
GRID = 10_000_000
"""Utilities are multiples of 1 / GRID: what the integer engines need to be exact."""


def instance(form: str, rows: int, layout: str = "grouped"):
    """Utility, problem, cost `[K, R]` (of shares as `ibpo.share` makes them), total allowed `[K]`; seed 0."""
    rng = np.random.default_rng(0)
    size = np.full(rows // 8, 8)
    if layout == "ragged":
        size = rng.integers(4, 13, rows // 8)
        size[-1] = max(1, size[-1] + rows // 8 * 8 - size.sum())
    num_problems, problem = len(size), np.repeat(np.arange(len(size)), size)
    utility = np.floor(rng.random(len(problem)) * GRID) / GRID
    if form == "share":
        cost, total = rng.integers(0, 2, (1, len(problem))) == 1, [math.floor(0.25 * num_problems)]
    elif form == "groups":
        group = rng.integers(0, 5, len(problem))
        cost = np.stack([group == k for k in range(1, 5)])
        total = [math.floor(q * num_problems) for q in (0.1, 0.15, 0.1, 0.05)]
    else:
        tokens = np.floor(rng.lognormal(6, 1, len(problem)))
        utility = np.floor((utility + 0.1 * np.log(tokens + 1)) * GRID) / GRID
        cost, total = tokens[None], [int(2 * np.minimum.reduceat(tokens, np.cumsum(size) - size).sum())]
    if layout == "shuffled":
        order = rng.permutation(len(problem))
        utility, problem, cost = utility[order], problem[order], cost[:, order]
    return utility, problem, cost, total


def floats(data):
    """The same instance, its costs as the engines want them."""
    utility, problem, cost, total = data
    return utility, problem, cost.astype(float), total


def ours(form, utility, problem, cost, total, relative_gap=0.0):
    from fractions import Fraction

    from ibpo.allocation import allocate

    budget = [Fraction(t, len(utility) // 8) for t in total]
    found = allocate(utility, problem, cost, budget, relative_gap=relative_gap)
    return found.objective, found.gap / abs(found.objective)


def milp(form, utility, problem, cost, total, integer=True):
    from typing import Any

    from scipy.optimize import Bounds, LinearConstraint
    from scipy.optimize import milp as solve
    from scipy.sparse import csr_array

    one_each = csr_array((np.ones(len(problem)), (problem, np.arange(len(problem)))))
    found: Any = solve(
        -utility,
        integrality=np.full(len(utility), int(integer)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(cost, -np.inf, total), LinearConstraint(one_each, 1, 1)],
        options={"mip_rel_gap": 0},
    )
    return -found.fun, 0.0


def highs_lp(*arguments):
    return milp(*arguments, integer=False)


def flow(form, utility, problem, cost, total):
    """Problem -> response group -> sink, one unit a problem: the best response of each group is its arc."""
    from ortools.graph.python import min_cost_flow  # pyright: ignore[reportMissingImports]

    num_problems, num_groups = len(utility) // 8, len(cost) + 1
    group = (cost * np.arange(1, num_groups)[:, None]).sum(0).astype(np.int64)
    best = np.full(num_problems * num_groups, -1, np.int64)
    np.maximum.at(best, problem * num_groups + group, np.rint(utility * GRID).astype(np.int64))
    there = np.flatnonzero(best >= 0)
    solver = min_cost_flow.SimpleMinCostFlow()
    sink = num_problems + num_groups
    solver.add_arcs_with_capacity_and_unit_cost(
        there // num_groups, num_problems + there % num_groups, np.ones(len(there), np.int64), -best[there]
    )
    solver.add_arcs_with_capacity_and_unit_cost(
        num_problems + np.arange(num_groups), np.full(num_groups, sink),
        np.array([num_problems, *total]), np.zeros(num_groups, np.int64),
    )  # fmt: skip
    solver.set_nodes_supplies(np.arange(num_problems), np.ones(num_problems, np.int64))
    solver.set_nodes_supplies(np.array([sink]), np.array([-num_problems]))
    if solver.solve() != solver.OPTIMAL:
        raise RuntimeError("not optimal")
    return -solver.optimal_cost() / GRID, 0.0


def cp_sat(form, utility, problem, cost, total):
    from ortools.sat.python import cp_model  # pyright: ignore[reportMissingImports]

    model = cp_model.CpModel()
    x = [model.new_bool_var("") for _ in range(len(utility))]
    for start in range(0, len(x), 8):
        model.add_exactly_one(x[start : start + 8])
    for row, most in zip(cost.astype(int).tolist(), total, strict=True):
        model.add(cp_model.LinearExpr.weighted_sum(x, row) <= int(most))
    model.maximize(cp_model.LinearExpr.weighted_sum(x, np.rint(utility * GRID).astype(int).tolist()))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    if solver.solve(model) != cp_model.OPTIMAL:
        raise RuntimeError("not optimal")
    return solver.objective_value / GRID, 0.0


def timed(call):
    """CPU seconds of this thread for one call (the mean of several short ones) and what it returned."""
    began, calls = time.thread_time(), 0
    while True:
        answer, calls = call(), calls + 1
        if (used := time.thread_time() - began) > 0.02:
            return used / calls, answer


def answer_turns(form: str, rows: int, layout: str) -> None:
    """One process of two: the CPU seconds of a solve for each line that comes."""
    data = instance(form, rows, layout)
    ours(form, *data)  # imports are not part of it
    for _ in sys.stdin:
        print(timed(lambda: ours(form, *data))[0], flush=True)


def compare(forms: list[str], sizes: list[int], other: Path, turns: int) -> None:
    """Our time over another checkout's: the median of the ratios of turns, with its quartiles."""
    print(f"| form | rows | layout | ours | the other's | ours / other's, {turns} turns: median (quartiles) |")
    print("|---|---|---|---|---|---|")
    for form, rows, layout in ((f, s, x) for f in forms for s in sizes for x in ("grouped", "ragged", "shuffled")):
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "--answer", form, str(rows), layout],
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for checkout in (Path(__file__).parent.parent, other)
        ]
        times: list[list[float]] = [[], []]
        for turn in range(turns + 1):
            for i in (0, 1) if turn % 2 else (1, 0):
                process = workers[i]
                assert process.stdin is not None and process.stdout is not None
                print(turn, file=process.stdin, flush=True)
                times[i].append(float(process.stdout.readline()))
        for process in workers:
            process.communicate()
        mine, others = (one[1:] for one in times)  # the first turn warms up
        low, middle, high = statistics.quantiles([a / b for a, b in zip(mine, others, strict=True)], n=4)
        cells = (form, f"{rows:.0e}", layout, seconds(statistics.median(mine)), seconds(statistics.median(others)))
        print("| " + " | ".join(cells) + f" | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(form: str, rows: int, engine: str, limit: float) -> dict:
    """One process: turns of np.partition, ours, and the engine ("ours": none, but the other layouts)."""
    data = instance(form, rows)
    utility, problem, cost, _ = data
    input_bytes = utility.nbytes + problem.nbytes + cost.nbytes
    ours("share", *instance("share", 800))  # imports are not part of it
    if engine != "ours":
        globals()[engine](form, *floats(instance(form, 80)))
    gap = 1e-6 if form == "tokens" and engine == "ours" else 0.0
    before = peak()
    objective, found_gap = ours(form, *data, relative_gap=gap)
    result = {"input_bytes": input_bytes, "objective": objective, "gap": found_gap, "memory": peak() - before}
    layouts, as_floats = {"ours": data}, floats(data)
    if engine == "ours":
        layouts |= {layout: instance(form, rows, layout) for layout in ("ragged", "shuffled")}
    kth = len(utility) // 4
    times: dict[str, list[float]] = {name: [] for name in ("partition", *layouts, "engine")}
    for turn in range(7 if engine == "ours" else 3):
        times["partition"].append(timed(lambda: np.partition(utility, kth))[0])
        for name, rows_of in layouts.items():
            times[name].append(timed(lambda rows_of=rows_of: ours(form, *rows_of, relative_gap=gap))[0])
        if engine == "ours" or (turn and times["engine"][0] > limit / 4):
            continue
        used = resource.getrusage(resource.RUSAGE_SELF)
        stop = int(used.ru_utime + used.ru_stime + limit) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (stop, resource.RLIM_INFINITY))
        seconds, (value, _) = timed(lambda: globals()[engine](form, *as_floats))
        times["engine"].append(seconds)
        result["difference"] = value - objective
    result |= {name: statistics.median(x) for name, x in times.items() if x}
    result |= {f"{name}_ratio": result[name] / result["partition"] for name in layouts}
    return result


def run(form: str, rows: int, engine: str, limit: float) -> dict | None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = ["--worker", form, str(rows), engine, "--limit", str(limit)]
    done = subprocess.run(
        [sys.executable, __file__, *options], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        print(f"{form} {rows} {engine}: no answer {done.stderr[-200:]!r}", file=sys.stderr)
        return None
    print(f"{form} {rows} {engine}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 0.1 else f"{value:.3g} s"


def table(form: str, sizes: list[int], limit: float, engines: list[str]) -> list[str]:
    lines = ["", f"## {FORMS[form]}", "", "| | " + " | ".join(f"{size:.0e}" for size in sizes) + " |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    mine = [run(form, size, "ours", limit) for size in sizes]
    known = [x for x in mine if x is not None]
    assert len(known) == len(mine), "our own solver gave no answer"
    over = {"ours": "grouped", "ragged": "ragged", "shuffled": "shuffled"}
    lines += [
        "| ours, grouped | " + " | ".join(seconds(x["ours"]) for x in known) + " |",
        *(
            f"| - over `np.partition`, {layout} | " + " | ".join(f"{x[f'{name}_ratio']:.1f}x" for x in known) + " |"
            for name, layout in over.items()
        ),
        "| - certified relative gap | " + " | ".join(f"{x['gap']:.0e}" if x["gap"] else "0" for x in known) + " |",
        "| - memory over the input | "
        + " | ".join(f"{x['memory'] / x['input_bytes']:.1f}x" if x["input_bytes"] > 1e7 else "" for x in known)
        + " |",
    ]
    for engine in (x for x in ENGINES[form] if x in engines):
        cells, alive = [], True
        for size in sizes:
            answer = run(form, size, engine, limit) if alive else None
            alive = answer is not None
            if answer is not None and abs(answer["difference"]) > 1e-6 * max(1.0, abs(answer["objective"])):
                raise SystemExit(f"{form} {size}: {engine} found {answer['difference']:+.3g} more than we did")
            cells.append("none" if answer is None else f"{answer['engine'] / answer['ours']:.3g}x")
        lines.append(
            f"| {NAMES[engine]}, over ours{' (exact)' if form == 'tokens' else ''} | " + " | ".join(cells) + " |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e3, 1e4, 1e5])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--limit", type=float, default=60.0, help="CPU seconds for one solve of an engine")
    parser.add_argument("--engines", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path, help="another checkout of ibpo")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--answer", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        form, rows, layout = arguments.answer
        answer_turns(form, int(rows), layout)
        return
    if arguments.worker:
        form, rows, engine = arguments.worker
        print(json.dumps(work(form, int(rows), engine, arguments.limit)))
        return
    sizes = [int(size) for size in arguments.sizes]
    if arguments.against:
        compare(arguments.forms, sizes, arguments.against, arguments.turns)
        return
    command = "python benchmarks/allocation.py --sizes " + " ".join(f"{size:.0e}" for size in sizes)
    command += f" --limit {arguments.limit:g}"
    if arguments.engines != list(NAMES):
        command += " ".join([" --engines", *arguments.engines])
    lines = [
        "# The allocation solver against generic ones",
        "",
        f"Made by `{command}` on Python {platform.python_version()}, numpy {np.__version__}.",
        "Columns: number of responses, 8 to a problem, seed 0. CPU seconds of one thread, medians of turns taken in",
        "one process. Grouped: the responses of a problem stand together, as in every log and every trainer's batch;",
        "ragged: together, 4 to 12 per problem; shuffled: rows in random order. An engine's row is its time as a",
        "multiple of ours (grouped) in its process; its objective equals ours within 1e-6 relative, or the benchmark",
        f'ends with an error. "none": no answer within {arguments.limit:g} CPU seconds at this size or a smaller one.',
        "For tokens, the rows of ours stop at a certified gap of 1e-6; engines are compared with our exact answer.",
        "Costs of shares are truth values, as `ibpo.share` makes them. Memory: what the peak of resident memory grew",
        "by, as a multiple of the input's (the making of the input is counted against it at the largest sizes).",
    ]  # fmt: skip
    for form in arguments.forms:
        lines += table(form, sizes, arguments.limit, arguments.engines)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
