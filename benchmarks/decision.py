"""CPU time of one decision and its settlement, in memory, in turn with another checkout.

    git worktree add --detach ../before 13baf26
    python benchmarks/decision.py --other ../before --peer PYTHON

A share of 30 %, and 6,000 tokens with lengths that are known; two response groups, uniform gains, no tenants, settled
at once. 20,000 requests a run, the median of `--runs` runs of each checkout in turn, each in a process of its own with
one thread; candidates are made beforehand, and the garbage collector stands still (thousands of candidates kept for
the measurement would be what it walks through). `--peer` is the Python of an environment of its own with `pip install
paretobandit`: in turn with the others its router of three models chooses (`route`) and learns (`process_feedback`) on
vectors of 26 numbers made beforehand, with its own budget pacer, contexts in memory and no priors.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ONE = """
import gc, sys, time
import numpy as np
try:
    from ibpo.serving.controller import Candidate, Controller, ServingPolicy
except ImportError:  # as they were called in 13baf26
    from ibpo.serving.controller import Controller
    from ibpo.serving.option import Option as Candidate
    from ibpo.serving.plan import Plan as ServingPolicy

kind, size = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
share = {"extended": {"mean": 0.3, "response_group": "extended"}}
budget = share if kind == "share" else {"tokens": {"mean": 6000.0}}
controller = Controller(ServingPolicy.from_dict({"budget": budget}))
gain = rng.random(size).tolist()
short, long = (
    (mean * np.exp(rng.normal(0, 0.4, size) - 0.08)).tolist() for mean in (1200.0, 14000.0)
)
candidates = [
    [
        Candidate(response_group="standard", gain=0.0, cost={"tokens": short[i]}),
        Candidate(response_group="extended", gain=gain[i], cost={"tokens": long[i]}),
    ]
    for i in range(size)
]
names = [str(i) for i in range(size)]
gc.disable()
began = time.process_time()
for i in range(size):
    made = controller.decide(candidates[i], request_id=names[i], now=0.0)
    tokens = long[i] if made.response_group == "extended" else short[i]
    controller.settle(names[i], None if kind == "share" else {"tokens": tokens})
print(1e6 * (time.process_time() - began) / size)
"""

PEER = """
import gc, logging, sys, time
import numpy as np
from pareto_bandit.budget_pacer import BudgetPacer, PacingMode
from pareto_bandit.feature_service import FeatureService
from pareto_bandit.router import BanditRouter
from pareto_bandit.storage import EphemeralContextStore

logging.disable(logging.WARNING)
size = int(sys.argv[2])
rng = np.random.default_rng(0)
prices = {"cheap": (0.1, 0.1), "middle": (0.5, 1.5), "expensive": (1.25, 10.0)}
router = BanditRouter.create(
    model_registry={
        name: {"model_id": name, "display_name": name, "input_cost_per_m": come, "output_cost_per_m": go}
        for name, (come, go) in prices.items()
    },
    feature_service=FeatureService.for_precomputed(26),
    context_store=EphemeralContextStore(),
    priors="none",
    budget_pacer=BudgetPacer(target_avg_spend_usd=6.6e-4, mode=PacingMode.ADAPTIVE),
)
vectors, rewards = rng.normal(size=(size, 26)), rng.random(size)
gc.disable()
began = time.process_time()
for i in range(size):
    model, log = router.route(vectors[i])
    log.cost_usd = 5e-4
    router.process_feedback(log.request_id, reward=float(rewards[i]))
print(1e6 * (time.process_time() - began) / size)
"""


def measure_peer(python: str, size: int) -> float:
    """Microseconds a request of ParetoBandit's own router."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [python, "-c", PEER, "peer", str(size)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(checkout: Path, kind: str, size: int) -> float:
    """Microseconds a request."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ONE, kind, str(size)]
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="another checkout, to be measured in turn")
    parser.add_argument("--peer", help="the Python of an environment with paretobandit")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    checkouts = {"here": Path(__file__).resolve().parents[1]}
    if arguments.other is not None:
        checkouts["other"] = arguments.other.resolve()
    found: dict[tuple[str, str], list[float]] = {(c, k): [] for c in checkouts for k in ("share", "tokens")}
    own = list(found)
    for _ in range(arguments.runs):
        for name, kind in own:
            found[name, kind].append(measure(checkouts[name], kind, arguments.requests))
        if arguments.peer:
            found.setdefault(("ParetoBandit", "dollars"), []).append(
                measure_peer(arguments.peer, min(2000, arguments.requests))
            )
    print("| checkout | budget | µs a request: median | least, largest |\n|---|---|---|---|")
    for (name, kind), took in found.items():
        print(f"| {name} | {kind} | {statistics.median(took):.1f} | {min(took):.1f}, {max(took):.1f} |")


if __name__ == "__main__":
    main()
