"""Judges: throughput against bare math-verify and against another commit's judge, agreement with graders' tests.

    python benchmarks/judges.py ../shared/data
    python benchmarks/judges.py ../shared/data --against CHECKOUT [--rounds 5]

`--against`: another checkout of ibpo (a folder made by `git worktree add --detach FOLDER COMMIT`); its judge and this
one take turns, each in processes of its own, on the same pairs, and nothing else is measured.

The folder holds `benchmarks/math_train.jsonl.gz` (rows with `answer`),
`{math_qwen_100,gsm8k_solutions,otis_mock_aime}/responses.jsonl.gz` (rows with `answer` and `gold`) and
`answer_equivalence/unit_tests.jsonl` (rows with `pred`, `gold`, `equal`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ibpo.rewards.math import MathJudge  # where older commits have it, too

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
    nanoseconds = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid():  # by the scheduler, as `stat` counts hundredths of a second
                threads = path.parent.glob("task/*/schedstat")
                nanoseconds += sum(int(thread.read_text().split()[0]) for thread in threads)
        except OSError:
            continue
    return nanoseconds / 1e9


def shuffled_golds(data: Path, rng: random.Random, count: int = (ROUNDS + 1) * GOLD_PAIRS) -> list[Pair]:
    """Short golds of MATH against another problem's, one in ten against itself in brackets: most need algebra."""
    golds = sorted({row["answer"] for row in read(data / "benchmarks" / "math_train.jsonl.gz") if row["answer"]})
    golds = [gold for gold in golds if len(gold) <= MAX_CHARACTERS]
    pairs: set[Pair] = set()
    while len(pairs) < count:
        gold = rng.choice(golds)
        pairs.add((f"\\left({gold}\\right)" if rng.random() < 0.1 else rng.choice(golds), gold))
    return sorted(pairs)


def models_answers(data: Path, rng: random.Random, count: int = (ROUNDS + 1) * PAIRS) -> list[Pair]:
    """What models answered to problems of MATH (all that there is), GSM8K and a mock AIME (as many each)."""
    sources = ("math_qwen_100", "gsm8k_solutions", "otis_mock_aime")
    pairs: list[Pair] = []
    for name in sources:
        rows = read(data / name / "responses.jsonl.gz")
        found = {(str(row["answer"]), str(row["gold"])) for row in rows if row["answer"] is not None}
        short = sorted(pair for pair in found if len(pair[0]) <= MAX_CHARACTERS)
        most = count - len(pairs)
        pairs += rng.sample(short, min(len(short), most // (len(sources) - sources.index(name))))
    return pairs


WORKLOADS = (shuffled_golds, models_answers)


def batches_of(
    workload: Callable[..., list[Pair]], data: Path, rounds: int, size: int | None = None
) -> list[list[Pair]]:
    """The pairs of a workload in as many batches as there are rounds, and one more to warm up on."""
    rng = random.Random(0)
    pairs = workload(data, rng) if size is None else workload(data, rng, (rounds + 1) * size)
    rng.shuffle(pairs)
    size = len(pairs) // (rounds + 1)
    return [pairs[number * size : (number + 1) * size] for number in range(rounds + 1)]


def throughput(data: Path) -> None:
    """Distinct pairs of short answers: the judge with two workers, and a bare loop, in turns."""
    for workload in WORKLOADS:
        batches = batches_of(workload, data, ROUNDS)
        print(f"  {workload.__name__}, {ROUNDS + 1} rounds of {len(batches[0])} pairs, the first not counted:")
        _compare_speeds(batches)


def one_round(data: Path, number: int, rounds: int) -> list[tuple[float, float, int]]:
    """Of each workload: pairs per CPU second (workers included), pairs per second, pairs judged equal."""
    found = []
    for workload in WORKLOADS:
        batches = batches_of(workload, data, rounds, PAIRS)
        judge = MathJudge(num_workers=2)
        judge.compare(list(batches[0]))  # starts the workers; parsers learn their grammar's states
        start, own, workers = time.perf_counter(), time.process_time(), cpu_of_children()
        judged = judge.compare(list(batches[number]))
        busy, seconds = cpu_of_children() - workers + time.process_time() - own, time.perf_counter() - start
        equal = sum(judgement.reward == 1.0 for judgement in judged)
        found.append((len(judged) / busy, len(judged) / seconds, equal))
        judge.close()
    return found


def compare_checkouts(data: Path, other: Path, rounds: int) -> None:
    """This judge and another checkout's, in turns, in processes of their own."""
    if not (other / "ibpo" / "__init__.py").is_file():
        sys.exit(f"--against {other}: there is no ibpo in it; name the folder of a checkout")
    checkouts = (Path(__file__).parent.parent.resolve(), other.resolve())
    rows: list[list[tuple[float, float, int]]] = []  # two of each round
    for number in range(1, rounds + 1):
        for checkout in checkouts if number % 2 else checkouts[::-1]:
            script, folder = Path(__file__).resolve(), data.resolve()
            command = [sys.executable, str(script), str(folder), "--round", str(number), "--rounds", str(rounds)]
            environment = {**os.environ, "PYTHONPATH": str(checkout)}
            # In its folder: the workers are started by `python -m`, which looks there first.
            done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            rows.append(json.loads(done.stdout))
        if number % 2 == 0:
            rows[-2:] = rows[:-3:-1]
    for place, workload in enumerate(WORKLOADS):
        pairs = [(rows[i][place], rows[i + 1][place]) for i in range(0, len(rows), 2)]
        print(f"  {workload.__name__}, {rounds} rounds of {len(batches_of(workload, data, rounds, PAIRS)[0])} pairs:")
        for which, name in enumerate(("pairs per CPU second", "pairs per second")):
            speeds = [(ours[which], theirs[which]) for ours, theirs in pairs]
            columns = {"this judge": [a for a, _ in speeds], "the other": [b for _, b in speeds],
                       "ratio": [a / b for a, b in speeds]}  # fmt: skip
            said = (
                f"{who} median {statistics.median(values):.4g}, from {min(values):.4g} to {max(values):.4g}"
                for who, values in columns.items()
            )
            print(f"    {name}: {'; '.join(said)}")
        print(f"    judged equal: {sum(a[2] for a, _ in pairs)}, the other {sum(b[2] for _, b in pairs)}")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--round", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if given.round is not None:
        print(json.dumps(one_round(given.data, given.round, given.rounds)))
        return
    if given.against is not None:
        compare_checkouts(given.data, given.against, given.rounds)
        return
    for part in (throughput, agreement):
        print(f"{part.__name__}:")
        part(given.data)


if __name__ == "__main__":
    main()
