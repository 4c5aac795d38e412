"""`RunningPrice` on streams of small batches against one big solve. Prints a Markdown table.

    python benchmarks/running_price.py --problems 8192 --seeds 3 --out docs/running-price-benchmark.md

Each stream has two responses to a problem. `value`: what the stream's choices are worth, in % of one allocation of the
whole stream under the same budget. `alone`: the same where every batch is solved on its own. `used`: cost in % of the
budget. `overdraft`: by how many problems, each at the dearest response, the bank was ever overdrawn. Means over seeds,
of `overdraft` the largest; in brackets half the range over seeds.
"""

import argparse
from pathlib import Path

import numpy as np

from ibpo.allocation import InfeasibleBudget, RunningPrice, allocate

STREAMS = {
    "share 25 %, normal gains": ("normal", 0.25),
    "share 10 %, normal gains": ("normal", 0.1),
    "share 25 %, gains -1, 0 or 1": ("binary", 0.25),
    "tokens, 600 per problem": ("tokens", 600),
}
SIZES = (4, 16, 64)


def stream(kind: str, num_problems: int, seed: int):
    """Utility, problem, cost of two responses to each problem."""
    rng = np.random.default_rng(seed)
    gain = rng.normal(0.2, 0.5, num_problems)
    if kind == "binary":
        gain = rng.choice([-1.0, 0, 0, 0, 1, 1], num_problems)
    cost = np.tile([0.0, 1.0], num_problems)
    if kind == "tokens":
        cost = np.stack([rng.integers(50, 200, num_problems), rng.integers(500, 4000, num_problems)], 1).ravel()
    utility = np.stack([np.zeros(num_problems), gain], 1).ravel()
    return utility, np.arange(num_problems).repeat(2), cost.astype(float)


def measure(kind: str, budget: float, size: int, num_problems: int, seed: int) -> list[float]:
    """Value, value of batches alone, use of the budget (all in %), worst overdraft."""
    utility, problem, cost = stream(kind, num_problems, seed)
    whole = allocate(utility, problem, cost, budget, relative_gap=1e-6).objective
    running, value, alone, worst = RunningPrice(budget), 0.0, 0.0, 0.0
    for start in range(0, len(utility), 2 * size):
        part = slice(start, start + 2 * size)
        batch = utility[part], problem[part], cost[part]
        value += float(utility[part] @ running.allocate(*batch))
        worst = max(worst, -running.bank / running.dearest)
        try:
            alone += allocate(*batch, budget).objective
        except InfeasibleBudget:  # not even the cheapest responses fit
            alone += 0.0
    used = running.spent / (budget * num_problems)
    return [100 * value / whole, 100 * alone / whole, 100 * used, worst]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=8192)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    command = f"python benchmarks/running_price.py --problems {arguments.problems} --seeds {arguments.seeds}"
    lines = [
        "# The running price against one big solve",
        "",
        f"Made by `{command}`: streams of {arguments.problems:,} problems, two responses each, in batches of",
        "4 to 64, the price carried by `ibpo.RunningPrice` with its defaults (window 2048, overdraft at most 25",
        "problems). *value*: of the stream's choices, in % of one allocation of the whole stream; *alone*: of every",
        "batch solved on its own; *used*: cost in % of the budget; *overdraft*: the worst on the way, in problems at",
        f"the dearest response. Means over {arguments.seeds} seeds, half their range; of the overdraft the largest.",
        "",
        "| stream | problems a batch | value | alone | used | overdraft |",
        "|---|---|---|---|---|---|",
    ]
    for name, (kind, budget) in STREAMS.items():
        for size in SIZES:
            rows = np.array([measure(kind, budget, size, arguments.problems, seed) for seed in range(arguments.seeds)])
            mean, half = rows.mean(0), np.ptp(rows, axis=0) / 2
            cells = [f"{mean[i]:.2f} ± {half[i]:.2f}" for i in range(3)]
            lines.append(f"| {name} | {size} | {' | '.join(cells)} | {rows[:, 3].max():.1f} |")
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
