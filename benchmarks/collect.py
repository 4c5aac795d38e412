"""Does `ibpo collect` stop at the right time, and are its intervals as wide as it says?

`python benchmarks/collect.py [--runs 100] [--data dev.jsonl.gz]`: the plan, the looks and the stops of the command,
with answers drawn from known truths in place of a server. The truth of an interval is what the same rule gains on a
sample of 1,500 other prompts with as many answers each; for `--data` (dual_mode_dev: 45 problems, three efforts, 8
responses), of which each cell's responses are drawn with replacement, its mean gain over 20 other draws of all 45.

*last misses*: runs whose last interval does not hold the truth; *any misses*: runs in which the interval of any look
does not (at most 5 % are promised); *naive*: what intervals of 95 % at the same looks, without correction, miss.
*choose*: runs that recommend choosing per problem. *one look*: calls with which a single look, at a number of calls
fixed before, would have had an interval as narrow as the last one's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ibpo.data import LogColumns
from ibpo.evaluation import (
    ERROR,
    MOST,
    Look,
    Target,
    answer_questions,
    answers_of,
    calls_to,
    error_of,
    first_target,
    next_target,
    num_looks,
    questions,
    read_parts,
    take_look,
    why_stop,
)
from ibpo.evaluation.statistics import student_quantile

Draw = Callable[[np.random.Generator, int, int], tuple[float, float]]
"""Generator, problem, response group -> reward and tokens of one more answer."""
SPLITS = 20
NUM_PROMPTS = 400
TOKENS = np.array([300.0, 1200.0])


@dataclass
class World:
    """Problems with response groups, and how one answers them."""

    num_problems: int
    num_groups: int
    draw: Draw


def synthetic(name: str, seed: int, num_problems: int) -> World:
    rng = np.random.default_rng([7, seed])
    ease = rng.normal(size=num_problems)
    flat = np.zeros((num_problems, 2))
    if name == "gains by problem":
        chance = 1 / (1 + np.exp(-3 * (ease[:, None] - np.array([0.6, -0.6]))))
    elif name == "small gains":
        chance = np.clip(flat + np.array([0.5, 0.6]) + 0.15 * rng.normal(size=(num_problems, 2)), 0.02, 0.98)
    elif name == "one better everywhere":
        chance = flat + np.array([0.5, 0.75])
    elif name == "noise only":
        chance = flat + 0.6
    else:  # hard prompts, equal gains: between prompts much varies, between response groups nothing
        chance = np.clip(0.5 + 0.2 * ease[:, None] + np.array([-0.1, 0.1]), 0.02, 0.98)
    length = TOKENS * np.exp(-0.3 * ease[:, None] * (name == "cheaper where easy"))
    if name == "cheaper where easy":
        chance = flat + np.array([0.5, 0.75])
    return World(
        num_problems=num_problems,
        num_groups=2,
        draw=lambda rng, p, g: (float(rng.random() < chance[p, g]), float(length[p, g] * rng.gamma(4, 0.25))),
    )


SYNTHETIC = (
    "gains by problem", "small gains", "cheaper where easy", "one better everywhere", "noise only",
    "hard and easy, equal gains",
)  # fmt: skip


def published(path: Path, model: str) -> World:
    """The responses of one model in dual_mode_dev."""
    with gzip.open(path, "rt") as file:
        rows = [row for row in map(json.loads, file) if model in row["model"]]
    groups = sorted({row["effort"] for row in rows})
    problems = sorted({row["question_id"] for row in rows})
    cells: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        cells.setdefault((row["question_id"], row["effort"]), []).append((float(row["correct"]), float(row["tokens"])))
    return World(
        num_problems=len(problems),
        num_groups=len(groups),
        draw=lambda rng, p, g: cells[problems[p], groups[g]][rng.integers(len(cells[problems[p], groups[g]]))],
    )


def look_at(
    rows: list[dict[str, object]], error: float, budget: str, seed: int, folder: Path, splits: int = SPLITS
) -> Look:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [part] = read_parts(path, LogColumns(), say=lambda _: None).parts
    asked = [question for question in questions([budget]) if question.times == 1]
    [answer] = answer_questions(part, asked, holdout=True, num_splits=splits, seed=seed, say=lambda _: None)
    return take_look(part, answer, error)[0]


def answers(world: World, rng: np.random.Generator, wanted: np.ndarray, had: np.ndarray) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for p in np.flatnonzero(wanted > had).tolist():
        for g in range(world.num_groups):
            for _ in range(had[p], wanted[p]):
                reward, tokens = world.draw(rng, p, g)
                rows.append({"problem_id": str(p), "response_group": f"g{g}", "reward": reward, "tokens": tokens})
    return rows


def one_run(
    world: World, seed: int, limit: float, precision: float, budget: str, folder: Path
) -> tuple[list[Look], int]:
    """The looks of one run, and its calls."""
    rng = np.random.default_rng([11, seed])
    logged = np.zeros((world.num_problems, world.num_groups), np.int64)
    targets = [first_target(logged, limit)]
    whole = float(calls_to([Target(num_problems=world.num_problems, answers=MOST)], logged).sum())
    looks = num_looks(float(calls_to(targets, logged).sum()), min(limit, whole))
    had, rows, done = np.zeros(world.num_problems, np.int64), list[dict[str, object]](), list[Look]()
    while True:
        wanted = answers_of(targets, world.num_problems)
        rows += answers(world, rng, wanted, had)
        had = wanted
        left = ERROR - sum(look.error for look in done)
        done.append(look_at(rows, error_of(len(done), looks, left), budget, seed, folder))
        calls = len(rows)
        target = next_target(
            targets, done[-1], logged, calls_left=limit - calls, looks_left=looks - len(done), precision=precision
        )
        if target is None or why_stop(done[-1], precision):
            return done, calls
        targets.append(target)


def truth(world_of: Callable[[int], World], answers_each: int, budget: str, folder: Path, repeats: int) -> float:
    gains: list[float] = []
    for seed in range(repeats):
        world = world_of(10_000 + seed)
        rng = np.random.default_rng([13, seed])
        rows = answers(world, rng, np.full(world.num_problems, answers_each), np.zeros(world.num_problems, np.int64))
        gains.append(look_at(rows, ERROR, budget, seed, folder, splits=10).gain)
    return float(np.mean(gains))


def misses(look: Look, gain: float, error: float) -> bool:
    """Whether an interval of that error does not hold the truth."""
    if look.half_width == math.inf:
        return False
    freedom = max(look.num_problems - 1, 1)
    half = look.half_width * student_quantile(freedom, 1 - error / 2) / student_quantile(freedom, 1 - look.error / 2)
    return abs(look.gain - gain) > half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--limit", type=float, default=4000, help="calls")
    parser.add_argument("--precision", type=float, default=0.03)
    parser.add_argument("--budget", default="50%range")
    parser.add_argument("--data", type=Path, help="dev.jsonl.gz of dual_mode_dev")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    worlds: list[tuple[str, Callable[[int], World], Callable[[int], World], int]] = [
        (
            name,
            lambda seed, name=name: synthetic(name, seed, NUM_PROMPTS),
            lambda seed, name=name: synthetic(name, seed, 1500),
            1,
        )
        for name in SYNTHETIC
    ]
    if options.data:
        for model in ("gpt-5.1", "claude-opus-4-5"):
            found = published(options.data, model)
            worlds.append((model, lambda _, found=found: found, lambda _, found=found: found, 20))
    head = ("truth", "gain", "calls", "one look", "looks", "half width", "choose", "last misses", "any misses", "naive")
    print(
        f"{options.runs} runs each, at most {options.limit:.0f} calls, precision {options.precision}, {options.budget}"
    )
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, world_of, other_of, repeats in worlds:
            if options.only not in title:
                continue
            true: dict[int, float] = {}
            last, some, naive, choose, calls, looks, widths, once = ([] for _ in range(8))
            for seed in range(options.runs):
                done, number = one_run(world_of(seed), seed, options.limit, options.precision, options.budget, folder)
                each = [int(min(MOST, max(2, round(look.answers)))) for look in done]
                for n in set(each) - set(true):
                    true[n] = truth(other_of, n, options.budget, folder, repeats)
                gains = [true[n] for n in each]
                wrong = [misses(look, gain, look.error) for look, gain in zip(done, gains, strict=True)]
                last.append(wrong[-1])
                some.append(any(wrong))
                naive.append(any(misses(look, gain, ERROR) for look, gain in zip(done, gains, strict=True)))
                choose.append(done[-1].per_problem)
                calls.append(number)
                looks.append(len(done))
                widths.append(done[-1].half_width)
                z = student_quantile(200, 1 - ERROR / 2) / student_quantile(200, 1 - done[-1].error / 2)
                once.append(number * z**2)
            cells = (
                title,
                " ".join(f"{n}: {true[n]:+.3f}" for n in sorted(true)),
                f"{np.mean(calls):.0f} ({np.quantile(calls, 0.1):.0f} to {np.quantile(calls, 0.9):.0f})",
                f"{np.mean(once):.0f}",
                f"{np.mean(looks):.1f}",
                f"{np.mean(widths):.3f}",
                *(f"{np.mean(flags):.0%}" for flags in (choose, last, some, naive)),
            )
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
