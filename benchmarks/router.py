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
import csv
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ibpo.budget import Budget, parse_budget
from ibpo.data import LogColumns
from ibpo.errors import IbpoError
from ibpo.routing import (
    RoutedLog,
    default_budgets,
    escalation_verdict,
    evaluate_router,
    fit_router,
    judge_escalation,
    read_first_answers,
    read_routed_log,
    score_unseen,
)


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


def answered(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path, RoutedLog, str | None]]:
    """Name, file, log and part of every run on what first answers show."""
    if arguments.dual is not None:
        columns = LogColumns(by="model", response_group="effort")
        for model in ("openai/gpt-5.1", "anthropic/claude-opus-4-5-20251101"):
            table = read_routed_log(arguments.dual, columns=columns, numbers=["input_tokens", "level"], part=model)
            yield f"dual_mode_dev, {model.partition('/')[2]}", arguments.dual, table, model
    if arguments.game24 is not None:
        path, seen = folder / "game24.jsonl", dict[tuple[str, str], int]()
        with gzip.open(arguments.game24, "rt", encoding="utf-8") as file, open(path, "w", encoding="utf-8") as out:
            for row in map(json.loads, file):
                key = row["question_id"], row["group"]
                seen[key] = seen.get(key, 0) + 1
                if seen[key] <= 10:
                    out.write(json.dumps({**row, "failed": 1 - row["correct"]}) + "\n")
        yield "game24, verified", path, read_routed_log(path, columns=LogColumns(cost="chars")), None
    if arguments.routellm is not None:
        path = folder / "routellm.jsonl"
        csv.field_size_limit(sys.maxsize)
        with gzip.open(arguments.routellm / "gsm8k_responses.csv.gz", "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name != "prompt" and not name.endswith("_response")]
        with open(path, "w", encoding="utf-8") as out:
            for i, row in enumerate(rows):
                for cost, name in enumerate(names):
                    cell = {"problem_id": f"{i:05d}", "prompt": row["prompt"], "response_group": name}
                    cell |= {"response": row[f"{name}_response"]} if f"{name}_response" in row else {}
                    out.write(json.dumps({**cell, "reward": float(row[name] == "True"), "calls": cost}) + "\n")
        yield "routellm_gsm8k", path, read_routed_log(path, columns=LogColumns(cost="calls")), None


def compare_first_answers(arguments: argparse.Namespace) -> None:
    """The table of `--first-answers`."""
    print(
        "| log | cheap answers: what they show | mix | before | after | at 1/4, 1/2, 3/4 of the costs: before | after |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    verdicts = []
    with tempfile.TemporaryDirectory() as name:
        for title, path, table, part in answered(arguments, Path(name)):
            before = score_unseen(table)
            for number in (1, 2):
                try:
                    first = read_first_answers(path, table, num_answers=number, part=part)
                except IbpoError:
                    continue  # one answer each
                found = judge_escalation(table, before, first, score_unseen(first.table))
                ways = [f"{found[way]:.4f}" for way in ("mix", "before", "after")]
                at = [", ".join(f"{value:.3f}" for value in found[f"{way}_at"]) for way in ("before", "after")]
                print(f"| {title} | {number}: {', '.join(first.shown)} | {' | '.join([*ways, *at])} |", flush=True)
                verdicts.append(f"{title}, {number}: {escalation_verdict(found)[1]}")
    print("\n" + "\n".join(verdicts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--dual", "--gsm8k", "--game24", "--routellm"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--first-answers", action="store_true")
    arguments = parser.parse_args()
    if arguments.first_answers:
        compare_first_answers(arguments)
        return
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
