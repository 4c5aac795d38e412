"""Judges: throughput against bare math-verify, agreement with published graders' tests, programs per second.

    python benchmarks/judges.py ../shared/data

The folder holds `benchmarks/math_train.jsonl.gz` and `benchmarks/humaneval.jsonl.gz` (rows with `answer`; HumanEval's
own columns) and `answer_equivalence/unit_tests.jsonl` (rows with `pred`, `gold`, `equal`).
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ibpo.rewards.code import CodeJudge
from ibpo.rewards.judgement import Candidate
from ibpo.rewards.math import MathJudge
from ibpo.types import Problem

ROUNDS, PAIRS = 5, 1000
MAX_CHARACTERS = 40
Pair = tuple[str, str]


def read(path: Path) -> list[dict[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def bare(pairs: list[Pair], wrap: Callable[[str], str]) -> list[bool]:
    """What a user without us would write: one loop, math-verify's defaults."""
    from math_verify import parse, verify

    return [bool(verify(parse(wrap(gold)), parse(wrap(predicted)))) for predicted, gold in pairs]


def cpu_of_children() -> float:
    """CPU seconds of this process's living children: on a busy machine the steadier measure (Linux)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def throughput(data: Path) -> None:
    """Distinct pairs of short MATH answers (a different problem's answer as the prediction, and one in ten right)."""
    rng = random.Random(0)
    golds = sorted({row["answer"] for row in read(data / "benchmarks" / "math_train.jsonl.gz") if row["answer"]})
    golds = [gold for gold in golds if len(gold) <= MAX_CHARACTERS]
    pairs: set[Pair] = set()
    while len(pairs) < (ROUNDS + 1) * PAIRS:
        gold = rng.choice(golds)
        pairs.add((f"\\left({gold}\\right)" if rng.random() < 0.1 else rng.choice(golds), gold))
    shuffled = sorted(pairs)
    rng.shuffle(shuffled)
    judge = MathJudge(num_workers=2)
    speeds: list[tuple[float, ...]] = []
    for round_ in range(ROUNDS + 1):
        batch = shuffled[round_ * PAIRS : (round_ + 1) * PAIRS]
        start, own, workers = time.perf_counter(), time.process_time(), cpu_of_children()
        judged = judge.compare(list(batch))
        middle, busy = time.perf_counter(), cpu_of_children() - workers + time.process_time() - own
        own = time.process_time()
        rewards = bare(batch, lambda text: f"${text}$")
        end, alone = time.perf_counter(), time.process_time() - own
        if round_ == 0:  # both parsers learn their grammar's states from what they parse: the first round is slow
            continue
        agree = sum(j.reward == float(r) for j, r in zip(judged, rewards, strict=True))
        plain = sum(j.reason in ("equal as it stands", "another number") for j in judged)
        ours, theirs = PAIRS / (middle - start), PAIRS / (end - middle)
        speeds.append((ours, theirs, ours / theirs, PAIRS / busy, PAIRS / alone))
        print(f"  round {round_}: {ours:.0f}/s, bare loop {theirs:.0f}/s, ratio {ours / theirs:.2f}; "
              f"{agree} of {PAIRS} verdicts alike, {plain} decided without algebra")  # fmt: skip
    names = ("judge, pairs/s", "bare loop, pairs/s", "ratio", "judge, pairs per CPU-second", "bare, per CPU-second")
    for name, values in zip(names, zip(*speeds, strict=True), strict=True):
        print(f"  {name}: median {statistics.median(values):.2f}, from {min(values):.2f} to {max(values):.2f}")
    start = time.perf_counter()
    judge.compare(list(batch))
    print(f"  the same {PAIRS} pairs again, cached: {PAIRS / (time.perf_counter() - start):.0f}/s")
    judge.close()


def agreement(data: Path) -> None:
    rows = read(data / "answer_equivalence" / "unit_tests.jsonl")
    pairs = [(row["pred"], row["gold"] or "") for row in rows]
    judge = MathJudge(num_workers=2)
    judged = judge.compare(list(pairs))
    theirs = bare(pairs, lambda text: text)
    labels = [bool(row["equal"]) for row in rows]
    for name, verdicts in (("judge", [j.reward == 1.0 for j in judged]), ("math-verify, its defaults", theirs)):
        kinds = Counter(zip(labels, verdicts, strict=True))
        print(f"  {name}: {kinds[True, True] + kinds[False, False]} of {len(rows)} agree; "
              f"{kinds[True, False]} equal ones missed, {kinds[False, True]} unequal ones accepted")  # fmt: skip
    for i, (row, judgement) in enumerate(zip(rows, judged, strict=True)):
        if (judgement.reward == 1.0) != bool(row["equal"]):
            texts = " | ".join(" ".join(str(row[key]).split())[-60:] for key in ("pred", "gold"))
            print(f"  row {i}: label {row['equal']}, {judgement.reason}: {texts} ({row['source']}, {row['params']})")
    judge.close()


def programs(data: Path) -> None:
    candidates = []
    for row in read(data / "benchmarks" / "humaneval.jsonl.gz"):
        info = {"setup": row["prompt"], "tests": f"{row['test']}\ncheck({row['entry_point']})"}
        problem = Problem(problem_id=row["id"], prompt="", answer="", info=info)
        answer = row["canonical_solution"]
        candidates.append(Candidate(problem=problem, completion=answer, predicted_answer=answer))
    start = time.perf_counter()
    judged = CodeJudge(num_workers=2).judge(candidates)
    seconds = time.perf_counter() - start
    passed = sum(j.reward for j in judged)
    print(f"  HumanEval's own solutions: {passed:.0f} of {len(judged)} pass, {len(judged) / seconds:.0f} programs/s")


def main(data: Path) -> None:
    logging.disable(logging.CRITICAL)
    for part in (throughput, agreement, programs):
        print(f"{part.__name__}:")
        part(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
