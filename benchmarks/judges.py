"""Judges: throughput against bare math-verify, agreement with published graders' tests.

    python benchmarks/judges.py ../shared/data

The folder holds `benchmarks/math_train.jsonl.gz` (rows with `answer`),
`{math_qwen_100,gsm8k_solutions,otis_mock_aime}/responses.jsonl.gz` (rows with `answer` and `gold`) and
`answer_equivalence/unit_tests.jsonl` (rows with `pred`, `gold`, `equal`).
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

from ibpo.rewards import MathJudge

ROUNDS, PAIRS, GOLD_PAIRS = 5, 1000, 100
"""Of each workload; the bare loop is slow on golds."""
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


def shuffled_golds(data: Path, rng: random.Random) -> list[Pair]:
    """Short golds of MATH against another problem's, one in ten against itself in brackets: most need algebra."""
    golds = sorted({row["answer"] for row in read(data / "benchmarks" / "math_train.jsonl.gz") if row["answer"]})
    golds = [gold for gold in golds if len(gold) <= MAX_CHARACTERS]
    pairs: set[Pair] = set()
    while len(pairs) < (ROUNDS + 1) * GOLD_PAIRS:
        gold = rng.choice(golds)
        pairs.add((f"\\left({gold}\\right)" if rng.random() < 0.1 else rng.choice(golds), gold))
    return sorted(pairs)


def models_answers(data: Path, rng: random.Random) -> list[Pair]:
    """What models answered to problems of MATH (all that there is), GSM8K and a mock AIME (as many each)."""
    sources = ("math_qwen_100", "gsm8k_solutions", "otis_mock_aime")
    pairs: list[Pair] = []
    for name in sources:
        rows = read(data / name / "responses.jsonl.gz")
        found = {(str(row["answer"]), str(row["gold"])) for row in rows if row["answer"] is not None}
        short = sorted(pair for pair in found if len(pair[0]) <= MAX_CHARACTERS)
        most = (ROUNDS + 1) * PAIRS - len(pairs)
        pairs += rng.sample(short, min(len(short), most // (len(sources) - sources.index(name))))
    return pairs


def throughput(data: Path) -> None:
    """Distinct pairs of short answers: the judge with two workers, and a bare loop, in turns."""
    for workload in (shuffled_golds, models_answers):
        rng = random.Random(0)
        pairs = workload(data, rng)
        rng.shuffle(pairs)
        size = len(pairs) // (ROUNDS + 1)
        print(f"  {workload.__name__}, {ROUNDS + 1} rounds of {size} pairs, the first not counted:")
        _compare_speeds([pairs[round_ * size : (round_ + 1) * size] for round_ in range(ROUNDS + 1)])


def _compare_speeds(batches: list[list[Pair]]) -> None:
    judge = MathJudge(num_workers=2)
    speeds: list[tuple[float, ...]] = []
    for round_, batch in enumerate(batches):
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
        ours, theirs = len(batch) / (middle - start), len(batch) / (end - middle)
        speeds.append((ours, theirs, ours / theirs, len(batch) / busy, len(batch) / alone))
        print(f"    round {round_}: {ours:.0f}/s, bare loop {theirs:.0f}/s, ratio {ours / theirs:.2f}; "
              f"{agree} of {len(batch)} verdicts alike, {plain} decided without algebra")  # fmt: skip
    names = ("judge, pairs/s", "bare loop, pairs/s", "ratio", "judge, pairs per CPU-second", "bare, per CPU-second")
    for name, values in zip(names, zip(*speeds, strict=True), strict=True):
        print(f"    {name}: median {statistics.median(values):.2f}, from {min(values):.2f} to {max(values):.2f}")
    last = batches[-1]
    start = time.perf_counter()
    judge.compare(list(last))
    print(f"    the same {len(last)} pairs again, cached: {len(last) / (time.perf_counter() - start):.0f}/s")
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


def main(data: Path) -> None:
    logging.disable(logging.CRITICAL)
    for part in (throughput, agreement):
        print(f"{part.__name__}:")
        part(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
