"""The allocation solver against generic ones: time, memory, gap. Prints a Markdown table.

    python benchmarks/allocation.py --sizes 1e3 1e4 1e5 1e6 1e7 --limit 60 --out docs/results/allocation.md
    python benchmarks/allocation.py --sizes 1e4 1e5 --against CHECKOUT --turns 25
    python benchmarks/allocation.py --targets --limit 20

The second compares this solver with another checkout's: a process for each, which solve the same instance in turns.
The third prints what the solver has to reach at each size and layout, and what it does: a process for each line, in
which ours, `np.partition` of as many utilities and the peers take turns on `--turns` (5) instances, seeds 0, 1, 2 ...

Each (form, size, engine) is a process of its own, in which our solver, `np.partition` of the same utilities and the
engine take turns; ratios are medians within that process. Times are CPU seconds of one thread, so that other work on
the machine does not count; an engine that has used `--limit` CPU seconds on one instance is stopped and gets no larger
one. An engine that finishes with another objective than ours ends the benchmark with an error.
Layouts of the rows: *grouped* (the 8 responses of a problem stand together, as in every log and every trainer's batch;
ids need not be sorted), *ragged* (together, 4 to 12 per problem) and *shuffled* (all rows in random order).
OR-Tools and highspy run if they are installed (`pip install 'ibpo[bench]' highspy`). Memory is the most that a solve
holds on top of the input.
"""

# OR-Tools' stubs ask for exact integer types that numpy's do not promise.
# pyright: reportArgumentType=false

import argparse
import importlib.util
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

FORMS = {
    "share": "one share budget, two response groups, 25 %",
    "groups": "four budgeted response groups of five, 10, 15, 10 and 5 %",
    "tokens": "one token budget, lognormal tokens, twice the cheapest",
    "both": "a share, 25 %, and tokens, twice the cheapest, together; the costly group's are twice as long",
}
ENGINES = {
    "share": ("milp", "highs_lp", "flow", "cp_sat"),
    "groups": ("milp", "highs_lp", "flow", "cp_sat"),
    "tokens": ("milp", "highs", "cp_sat"),
    "both": ("milp", "highs", "cp_sat"),
}
NAMES = {
    "milp": "scipy.optimize.milp, gap 0",
    "highs": "highspy, gap 0",
    "highs_lp": "HiGHS, linear relaxation",
    "flow": "OR-Tools min-cost flow",
    "cp_sat": "OR-Tools CP-SAT, one worker",
    "knapsack": "OR-Tools knapsack, branch and bound",
}
GRID = 10_000_000
"""Utilities are multiples of 1 / GRID: what the integer engines need to be exact."""


def instance(form: str, rows: int, layout: str = "grouped", seed: int = 0):
    """Utility, problem, cost `[K, R]` (of shares as `ibpo.share` makes them), total allowed `[K]`."""
    rng = np.random.default_rng(seed)
    size = np.full(rows // 8, 8)
    if layout == "ragged":
        size = rng.integers(4, 13, rows // 8)
        size[-1] = max(1, size[-1] + rows // 8 * 8 - size.sum())
    num_problems, problem = len(size), np.repeat(np.arange(len(size)), size)
    utility = np.floor(rng.random(len(problem)) * GRID) / GRID
    if layout == "rewards":
        utility = (utility < 0.4).astype(float)
    if form == "share":
        cost, total = rng.integers(0, 2, (1, len(problem))) == 1, [math.floor(0.25 * num_problems)]
    elif form == "groups":
        group = rng.integers(0, 5, len(problem))
        cost = np.stack([group == k for k in range(1, 5)])
        total = [math.floor(q * num_problems) for q in (0.1, 0.15, 0.1, 0.05)]
    else:
        costly = rng.integers(0, 2, len(problem)) if form == "both" else np.zeros(len(problem), np.int64)
        tokens = np.floor(rng.lognormal(6, 1, len(problem)) * (1 + costly))
        if layout != "rewards":
            utility = np.floor((utility + 0.1 * np.log(tokens + 1)) * GRID) / GRID
        cost, total = tokens[None], [int(2 * np.minimum.reduceat(tokens, np.cumsum(size) - size).sum())]
        if form == "both":
            cost, total = np.stack([costly.astype(float), tokens]), [math.floor(0.25 * num_problems), *total]
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


def highs(form, utility, problem, cost, total):
    """The same programme by highspy, without scipy between."""
    import highspy  # pyright: ignore[reportMissingImports]

    model, num_costs = highspy.HighsLp(), len(cost)
    num_problems = int(problem[-1]) + 1
    model.num_col_, model.num_row_ = len(utility), num_costs + num_problems
    model.col_cost_, model.col_lower_, model.col_upper_ = -utility, np.zeros(len(utility)), np.ones(len(utility))
    model.row_lower_ = np.concatenate([np.full(num_costs, -highspy.kHighsInf), np.ones(num_problems)])
    model.row_upper_ = np.concatenate([np.array(total, float), np.ones(num_problems)])
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = np.arange(len(utility) + 1) * (num_costs + 1)
    rows = np.concatenate([np.tile(np.arange(num_costs), (len(utility), 1)), num_costs + problem[:, None]], axis=1)
    model.a_matrix_.index_ = rows.ravel()
    model.a_matrix_.value_ = np.concatenate([cost.T, np.ones((len(utility), 1))], axis=1).ravel()
    model.integrality_ = [highspy.HighsVarType.kInteger] * len(utility)
    solver = highspy.Highs()
    for option, value in (("output_flag", False), ("threads", 1), ("mip_rel_gap", 0.0), ("mip_abs_gap", 0.0)):
        solver.setOptionValue(option, value)
    solver.passModel(model)
    solver.run()
    return -solver.getInfo().objective_function_value, 0.0


def knapsack(form, utility, problem, cost, total):
    """One response a problem, or none: what OR-Tools' knapsack solvers are made for."""
    from ortools.algorithms.python import knapsack_solver  # pyright: ignore[reportMissingImports]

    kind = knapsack_solver.SolverType.KNAPSACK_MULTIDIMENSION_BRANCH_AND_BOUND_SOLVER
    solver = knapsack_solver.KnapsackSolver(kind, "")
    solver.init(np.rint(utility * GRID).astype(int).tolist(), cost.astype(int).tolist(), [int(x) for x in total])
    return solver.solve() / GRID, 0.0


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


def memory_of(call) -> int:
    """The most that a call holds at once on top of what was there, in bytes, as numpy reports it to tracemalloc."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def work(form: str, rows: int, engine: str, limit: float) -> dict:
    """One process: turns of np.partition, ours, and the engine ("ours": none, but the other layouts)."""
    data = instance(form, rows)
    utility, problem, cost, _ = data
    input_bytes = utility.nbytes + problem.nbytes + cost.nbytes
    ours("share", *instance("share", 800))  # imports are not part of it
    if engine != "ours":
        globals()[engine](form, *floats(instance(form, 80)))
    gap = 1e-6 if form in ("tokens", "both") and engine == "ours" else 0.0
    memory = memory_of(lambda: ours(form, *data, relative_gap=gap))
    objective, found_gap = ours(form, *data, relative_gap=gap)
    result = {"input_bytes": input_bytes, "objective": objective, "gap": found_gap, "memory": memory}
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


PACKAGES = {"highs": "highspy", "flow": "ortools", "cp_sat": "ortools", "knapsack": "ortools"}


def is_installed(peer: str) -> bool:
    return peer not in PACKAGES or importlib.util.find_spec(PACKAGES[peer]) is not None


PARTITION = "np.partition"


def line(name: str, form: str, rows: float, target: str, peers: tuple[str, ...] = (), **settings):
    return {"name": name, "form": form, "rows": int(rows), "target": target, "peers": peers, **settings}


def targets() -> list[dict]:
    """What is asked for: `most` times `over`, or `most` seconds."""
    exact = ("milp", "highs", "cp_sat")
    lines = [
        line("share + tokens, 1e4, exact", "both", 1e4, "1/15 of milp", exact, over="milp", most=1 / 15),
        line("share + tokens, 1e5, gap 1e-6", "both", 1e5, "30 x", over=PARTITION, most=30, gap=1e-6),
        line("share + tokens, 1e6, gap 1e-6", "both", 1e6, "25 x", over=PARTITION, most=25, gap=1e-6),
        line("share + tokens, 1e7, gap 1e-6", "both", 1e7, "25 x, memory 1.5 x", over=PARTITION, most=25, gap=1e-6),
        line("tokens, 1e4, exact", "tokens", 1e4, "7.8 ms, before every peer", exact, most=0.0078),
        line("tokens, 1e5, exact", "tokens", 1e5, "116 ms, before every peer", exact, most=0.116),
        line("tokens, one response or none, 1e4, exact", "pick", 1e4, "before every peer", ("milp", "knapsack")),
        line("tokens, 1e7, exact", "tokens", 1e7, "5 x", over=PARTITION, most=5),
        line("five groups, 1e5", "groups", 1e5, "1/6 of the flow", ("flow",), over="flow", most=1 / 6),
        line("share, 1e7", "share", 1e7, "1.5 x", over=PARTITION, most=1.5),
    ]
    for name, form, peers in (
        ("tokens", "tokens", exact),
        ("share + tokens", "both", exact),
        ("five groups", "groups", ("flow",)),
    ):
        lines.append(
            line(f"{name}, 1e5, rewards of 0 and 1, exact", form, 1e5, "before every peer", peers, layout="rewards")
        )
    for layout, most in (("ragged", (3, 5, 7)), ("shuffled", (8, 10, 12))):
        for form, times in zip(("share", "groups", "tokens"), most, strict=True):
            gap = 1e-6 if form == "tokens" else 0.0
            name = f"{form}, 1e7, {layout}"
            lines.append(line(name, form, 1e7, f"{times} x", over=PARTITION, most=times, layout=layout, gap=gap))
    for prompts, most in ((512, 0.05), (4096, 0.2)):
        for utility in ("group_mean", "shrunken"):
            name = f"lower level, {prompts:,} prompts x 16, share and tokens, {utility}"
            lines.append(line(name, utility, prompts, f"{most * 1e3:.0f} ms", most=most, step=True))
    for budgets in (1, 3):
        name = f"held-out value, 200 splits of 1,080 responses, {budgets} token budgets"
        lines.append(line(name, "holdout", budgets, ".3 s", most=0.3))
    return lines


def training_steps(num_prompts: int, utility: str, turns: int):
    """CPU seconds of a training step's lower level: 16 responses a prompt, 8 batches of a window, 2 response groups."""
    from fractions import Fraction

    from ibpo.training.budgets import BudgetTerm
    from ibpo.training.lower_level import Batch, LowerLevel

    rng = np.random.default_rng(0)
    terms = [BudgetTerm(key="extended", group=1, amount=Fraction(1, 2))]
    terms.append(BudgetTerm(key="tokens", group=None, amount=Fraction(12)))
    level = LowerLevel(num_groups=2, budgets=terms, utility=utility, window=8)
    group = np.tile(np.arange(16) * 2 // 16, num_prompts)
    for step in range(turns):
        batch = Batch(
            prompt=np.repeat(np.arange(num_prompts), 16),
            response_group=group,
            reward=(rng.random(len(group)) < 0.4 + 0.3 * group).astype(float),
            tokens=5 + 12 * group + rng.integers(0, 8, len(group)).astype(float),
            features=rng.normal(size=(num_prompts, 64 if utility == "shrunken" else 0)),
        )
        began = time.thread_time()
        level.solve(batch, step)
        yield time.thread_time() - began


def held_out(num_budgets: int, seed: int) -> float:
    """CPU seconds of 200 splits of 90 problems with 3 response groups and 4 responses each."""
    from ibpo.allocation import holdout_value

    rng = np.random.default_rng(seed)
    problem, group, _ = np.indices((90, 3, 4)).reshape(3, -1)
    tokens = np.floor(rng.lognormal(5, 0.5, len(problem)) * (1 + group))
    reward = (rng.random(len(problem)) < 0.3 + 0.2 * group).astype(float)
    budgets = [float(tokens.mean() * part) for part in (0.7, 0.9, 1.1)[:num_budgets]]
    began = time.thread_time()
    holdout_value(reward, problem, group, tokens, budgets, num_splits=200)
    return time.thread_time() - began


def picks(rows: int, seed: int):
    """One response a problem, or none, half of all tokens: a 0/1 knapsack."""
    utility, _, cost, _ = instance("tokens", rows, seed=seed)
    return utility, np.arange(rows), cost, [int(cost.sum()) // 2]


def solve(form: str, data, gap: float):
    from ibpo.allocation import allocate

    if form != "pick":
        return ours(form, *data, relative_gap=gap)
    utility, problem, cost, total = data
    found = allocate(utility, problem, cost, total[0] / len(utility), choose="at_most_one")
    return found.objective, found.gap / found.objective


def work_on(asked: dict, turns: int, limit: float) -> dict:
    """One process: medians of ours, of np.partition and of the peers, and of the ratio that is asked for."""
    times: dict[str, list[float]] = {"ours": [], PARTITION: []}
    form, rows, gap = asked["form"], asked["rows"], asked.get("gap", 0.0)
    if asked.get("step"):
        times["ours"] = list(training_steps(rows, form, turns))
        return {"ours": statistics.median(times["ours"]), "worst": max(times["ours"])}
    if form == "holdout":
        held_out(1, 99)
        times["ours"] = [held_out(rows, seed) for seed in range(turns)]
        return {"ours": statistics.median(times["ours"]), "worst": max(times["ours"])}
    solve("both", instance("both", 800), 0.0)  # imports are not part of it
    result: dict[str, Any] = {"worst_gap": 0.0}
    for seed in range(turns if rows < 5e6 else 1):  # at 1e7 five turns of one instance
        data = picks(rows, seed) if form == "pick" else instance(form, rows, asked.get("layout", "grouped"), seed)
        if not seed:
            held = memory_of(lambda data=data: solve(form, data, gap))
            result["memory"] = held / (data[0].nbytes + data[1].nbytes + data[2].nbytes)
        for _ in range(turns if rows >= 5e6 else 1):
            times[PARTITION].append(timed(lambda data=data: np.partition(data[0], len(data[0]) // 4))[0])
            spent, (objective, found_gap) = timed(lambda data=data: solve(form, data, gap))
            times["ours"].append(spent)
            result["worst_gap"] = max(result["worst_gap"], found_gap)
        for peer in asked["peers"]:
            if peer in result.get("stopped", {}):
                continue
            spent, value = peer_in_a_process(peer, form, rows, seed, asked.get("layout", "grouped"), limit)
            if value is None:
                result.setdefault("stopped", {})[peer] = seed
                continue
            times.setdefault(peer, []).append(spent)
            if abs(value - objective) > 1e-6 * abs(objective):
                raise SystemExit(
                    f"{asked['name']}, seed {seed}: {peer} found {value - objective:+.3g} more than we did"
                )
    result |= {name: statistics.median(x) for name, x in times.items() if x}
    result["worst"] = max(times["ours"])
    result["ratios"] = {
        name: statistics.median(a / b for a, b in zip(times["ours"], x, strict=False))
        for name, x in times.items()
        if x and name != "ours"
    }
    return result


def peer_in_a_process(
    peer: str, form: str, rows: int, seed: int, layout: str, limit: float
) -> tuple[float, float | None]:
    """CPU seconds of a peer's solve, and its value; None where it takes longer than the limit."""
    done = subprocess.run(
        [sys.executable, __file__, "--peer", peer, form, str(rows), str(seed), layout, "--limit", str(limit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return math.inf, None
    spent, value = done.stdout.splitlines()[-1].split()
    return float(spent), float(value)


def answer_as_peer(peer: str, form: str, rows: int, seed: int, layout: str, limit: float) -> None:
    """One process: a peer on one instance."""
    if form == "pick":
        utility, problem, cost, total = picks(rows, seed)
        if peer == "milp":  # "or none" as a second response of each problem
            utility, problem = np.append(utility, np.zeros(rows)), np.append(problem, problem)
            cost = np.append(cost, np.zeros((1, rows)), axis=1)
        data = utility, problem, cost, total
        globals()[peer](form, *(x[..., :8] for x in data[:3]), [1]) if peer == "knapsack" else None
    else:
        globals()[peer](form, *floats(instance(form, 80)))  # imports are not part of it
        data = floats(instance(form, rows, layout, seed))
    used = resource.getrusage(resource.RUSAGE_SELF)
    stop = int(used.ru_utime + used.ru_stime + limit) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (stop, resource.RLIM_INFINITY))
    began = time.process_time()
    value, _ = globals()[peer](form, *data)
    print(f"\n{time.process_time() - began} {value!r}")


def print_targets(turns: int, limit: float, only: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    print(
        f"CPU seconds of one thread, medians of {turns} instances or turns, peers up to {limit:g} s; x: `np.partition`."
    )
    print(
        "\n| instance | target | ours | reached | np.partition | memory over input | gap at most | peers, over ours |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for i, asked in enumerate(targets()):
        if only not in asked["name"]:
            continue
        command = [sys.executable, __file__, "--line", str(i), "--limit", str(limit), "--turns", str(turns)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{asked['name']}: {done.stderr[-500:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        over, most = asked.get("over"), asked.get("most")
        value = found["ratios"].get(over) if over else found["ours"]
        peers = {peer: found["ratios"].get(peer) for peer in asked["peers"]}
        missing = [peer for peer in peers if not is_installed(peer)]
        exact = found.get("worst_gap", 0.0) <= asked.get("gap", 0.0)
        met = (
            exact
            and (value is None or most is None or value <= most)
            and all(x is None or x < 1 for x in peers.values())
        )
        if over == PARTITION:
            reached = f"{value:.3g} x"
        elif over:
            reached = f"1/{1 / value:.3g}" if value else f"more than {limit / found['ours']:.3g} times faster"
        else:
            reached = f"{seconds(value)} (worst {seconds(found['worst'])})"
        ahead = ", ".join(
            f"{NAMES[peer]}: "
            + ("not installed" if peer in missing else "none" if ratio is None else f"{1 / ratio:.3g}x")
            for peer, ratio in peers.items()
        )
        verdict = " **not measured**" if missing else " yes" if met else " **no**"
        cells = (
            asked["name"], asked["target"], seconds(found["ours"]), ("" if over in missing else reached) + verdict,
            seconds(found[PARTITION]) if PARTITION in found else "",
            f"{found['memory']:.2f}x" if asked["rows"] >= 1e6 else "",
            f"{found['worst_gap']:.0e}" if "worst_gap" in found else "", ahead,
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


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
        "| - grows as rows to the power of | | "
        + " | ".join(
            f"{math.log(b['ours'] / a['ours']) / math.log(n / m):.2f}"
            for a, b, m, n in zip(known, known[1:], sizes, sizes[1:], strict=False)
        )
        + " |",
        "| - certified relative gap | " + " | ".join(f"{x['gap']:.0e}" if x["gap"] else "0" for x in known) + " |",
        "| - memory over the input | "
        + " | ".join(f"{x['memory'] / x['input_bytes']:.1f}x" if x["input_bytes"] > 1e7 else "" for x in known)
        + " |",
    ]
    for engine in (x for x in ENGINES[form] if x in engines):
        cells, alive = [], True
        for size in sizes:
            answer = run(form, size, engine, limit) if alive and is_installed(engine) else None
            alive = answer is not None
            if answer is not None and abs(answer["difference"]) > 1e-6 * max(1.0, abs(answer["objective"])):
                raise SystemExit(f"{form} {size}: {engine} found {answer['difference']:+.3g} more than we did")
            none = "none" if is_installed(engine) else "not installed"
            cells.append(none if answer is None else f"{answer['engine'] / answer['ours']:.3g}x")
        lines.append(
            f"| {NAMES[engine]}, over ours{' (exact)' if form in ('tokens', 'both') else ''} | "
            + " | ".join(cells)
            + " |"
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
    parser.add_argument("--turns", type=int, help="25 against another checkout, 5 for targets")
    parser.add_argument("--targets", nargs="?", const="", help="what has to be reached, of lines with this text")
    parser.add_argument("--line", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--peer", nargs=5, help=argparse.SUPPRESS)
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
    if arguments.peer:
        peer, form, rows, seed, layout = arguments.peer
        answer_as_peer(peer, form, int(rows), int(seed), layout, arguments.limit)
        return
    if arguments.line is not None:
        print(json.dumps(work_on(targets()[arguments.line], arguments.turns or 5, arguments.limit)))
        return
    if arguments.targets is not None:
        print_targets(arguments.turns or 5, arguments.limit, arguments.targets)
        return
    sizes = [int(size) for size in arguments.sizes]
    if arguments.against:
        compare(arguments.forms, sizes, arguments.against, arguments.turns or 25)
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
        "Costs of shares are truth values, as `ibpo.share` makes them. Memory: the most that a solve holds on top of",
        "the input, as a multiple of it.",
    ]  # fmt: skip
    for form in arguments.forms:
        lines += table(form, sizes, arguments.limit, arguments.engines)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
