"""What is a router worth that has learned from a log? Held out, against a random mix and the oracle at the same cost.

    python benchmarks/router.py --dual examples/dual_mode_dev.jsonl.gz --gsm8k LOG --game24 LOG

Prints a Markdown table row after row: 5 folds by problem, 1,000 bootstrap draws over problems, seed 0. The logs are
those of `../shared/data`: `dual_mode_dev` (45 problems, 8 responses; it holds no prompts, so the router sees the
prompt's length in tokens, and in a second run the problem's place in its paper as well), `gsm8k_solutions` (1,319
prompts, one response: sampled, or the best of 100 by a verifier, whose cost the log does not hold: shares are asked
for) and `game24` (100 puzzles, 100 responses each, costs in characters).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ibpo.budget import Budget, parse_budget
from ibpo.data import LogColumns
from ibpo.routing import RoutedLog, default_budgets, evaluate_router, fit_router, read_routed_log, score_unseen


def logs(dual: Path | None, gsm8k: Path | None, game24: Path | None) -> Iterator[tuple[str, RoutedLog]]:
    """Name and log of every run."""
    if dual is not None:
        columns = LogColumns(by="model", response_group="effort")
        for model in ("openai/gpt-5.1", "anthropic/claude-opus-4-5-20251101"):
            for numbers in (["input_tokens"], ["input_tokens", "level"]):
                table = read_routed_log(dual, columns=columns, numbers=numbers, part=model)
                yield f"dual_mode_dev, {model.partition('/')[2]}: {', '.join(numbers)}", table
    if gsm8k is not None:
        columns = LogColumns(by="size", response_group="method", cost="chars")
        for size in ("6b", "175b"):
            yield f"gsm8k_solutions, {size}: prompt", read_routed_log(gsm8k, columns=columns, part=size)
    if game24 is not None:
        yield "game24: prompt", read_routed_log(game24, columns=LogColumns(response_group="group", cost="chars"))


def budgets_of(name: str, table: RoutedLog) -> list[Budget]:
    """Of the logs without a true cost, shares of the more expensive response group."""
    if name.startswith("gsm8k"):
        return [parse_budget(f"verification={share}") for share in (0.25, 0.5)]
    return default_budgets(table)


def figure(row: dict[str, Any], name: str) -> str:
    interval = row[f"{name}_interval"]
    if row[name] is None:
        return "no room"
    return f"{row[name]:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--dual", "--gsm8k", "--game24"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    print(
        "| log: what the router sees | budget: asked, spent | value | random mix | oracle | on unseen halves | "
        "gain over mix | captured | µs per prompt: alone, of 256 |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name, table in logs(arguments.dual, arguments.gsm8k, arguments.game24):
        rows = evaluate_router(table, budgets_of(name, table), score_unseen(table))
        router = fit_router(table)
        some, numbers = table.prompts[:1] * 256, {key: values[:1] * 256 for key, values in table.numbers.items()}
        took = []
        for size in (1, 256):
            few = {key: values[:size] for key, values in numbers.items()}
            began = time.process_time()
            for _ in range(512 // size):
                router.scores(some[:size], few)
            took.append(1e6 * (time.process_time() - began) / 512)
        for row in rows:
            unseen = "-" if row["oracle_unseen"] is None else f"{row['oracle_unseen']:.3f}"
            print(
                f"| {name} | {row['budget']}, {row['spent']:.6g} | {row['value']:.3f} | {row['mix']:.3f} | "
                f"{row['oracle']:.3f} | {unseen} | {figure(row, 'gain_over_mix')} | {figure(row, 'captured')} | "
                f"{took[0]:.0f}, {took[1]:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
