"""Response formats on real solutions: construct, then parse, with faults put in; and extraction against labels.

    python benchmarks/response_formats.py ../shared/data

The folder holds `gsm8k_solutions` and `math_qwen_100`, each with `responses.jsonl.gz` (rows with `question_id`,
`response_text`, `answer`). Prints the tables of docs/results/response-groups.md. Faults go into every solution of 200
problems drawn with seed 0 (10 where a solution becomes 100 kB long).
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ibpo.answers import representatives
from ibpo.responses import (
    ADAPTIVE,
    COT,
    DEBATE,
    DIRECT,
    EFFORT_HIGH,
    EFFORT_LOW,
    EFFORT_MEDIUM,
    REFLECTION,
    SELF_CORRECTION,
    SEQUENTIAL_VOTING,
    TAGS,
    TALLY,
    THINKING_OFF,
    THINKING_ON,
    Attempt,
    CannotBuild,
    Reading,
    answer_reader,
    build_correction,
    build_debate,
    build_reflection,
    build_single,
    build_thinking,
    build_voting,
    one_box,
    vote,
    with_box,
)

NAMES = ("gsm8k_solutions", "math_qwen_100")
NUM_CASES = 14
"""Of `cases`: 13 formats, the adaptive one in both of its ways."""
Case = tuple[Callable[[str], Reading], Callable[[], str], tuple[str, ...], str]


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(folder / name / "responses.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def insert(text: str, piece: str, rng: random.Random) -> str:
    words = text.split(" ")
    at = rng.randrange(len(words) + 1)
    return " ".join([*words[:at], piece, *words[at:]])


FAULTS: dict[str, Callable[[str, random.Random], str]] = {
    "none": lambda s, rng: s,
    "nested marker": lambda s, rng: insert(s, f"[{rng.choice(TAGS)}]", rng),
    "closing marker": lambda s, rng: insert(s, f"[/{rng.choice(TAGS)}]", rng),
    "block in a block": lambda s, rng: insert(s, "[TRIAL] x \\boxed{1} [/TRIAL]", rng),
    "thought inside": lambda s, rng: insert(s, rng.choice(["<think>", "</think>"]), rng),
    "answer missing": lambda s, rng: s.replace("\\boxed", "boxed"),
    "box unclosed": lambda s, rng: s + " \\boxed{7",
    "box empty": lambda s, rng: s + " \\boxed{}",
    "two answers": lambda s, rng: s + " or else \\boxed{-12345}",
    "marker in Chinese": lambda s, rng: insert(s, "【试验】第一次【/试验】", rng),
    "marker in Russian": lambda s, rng: insert(s, "[ПОПЫТКА] да [/ПОПЫТКА]", rng),
    "full-width marker": lambda s, rng: insert(s, "\uff3bTRIAL\uff3d no \uff3b/TRIAL\uff3d", rng),
    "100 kB of text": lambda s, rng: "so we go on and on. " * 5000 + s,
    "100 kB of markers": lambda s, rng: "[TRIAL]" * 14_000 + s,
    "100 kB of boxes": lambda s, rng: "\\boxed{" * 14_000 + s,
}


def cases(solutions: Sequence[str]) -> Iterator[Case]:
    """(reader, how to build it, its attempts' answers, its answer); a solution that boxes nothing clear is `?`."""
    answers = [read_answer(s) for s in solutions]
    first, last = solutions[0], solutions[-1]
    a, z = answers[0], answers[-1]
    for form in (COT, DIRECT, EFFORT_LOW, EFFORT_MEDIUM, EFFORT_HIGH):
        yield form.read, lambda form=form: build_single(first, form), (a,), a
    yield ADAPTIVE.read, lambda: build_single(first), (a,), a
    eight = (list(solutions) * 8)[:8]
    votes = (answers * 8)[:8]
    final, used = vote(representatives(votes))
    for form in (SEQUENTIAL_VOTING, ADAPTIVE):
        yield form.read, lambda: build_voting(eight), tuple(votes[:used]), final
    # The embedded models' form: answers are words of their own, equal where they are the same.
    words = ["".join(answer.split()) for answer in votes]
    tallied = [Attempt(text=text, answer=word) for text, word in zip(eight, words, strict=True)]
    winner, used = vote(words)
    yield TALLY.read_vote, lambda: TALLY.build_voting(tallied), tuple(words[:used]), winner
    yield SELF_CORRECTION.read, lambda: build_correction(first, last), (a, z), z
    yield REFLECTION.read, lambda: build_reflection(first, "Is the last step right?", last), (a,), z
    yield DEBATE.read, lambda: build_debate(solutions[:4], last), tuple(answers[:4]), z
    yield THINKING_ON.read, lambda: build_thinking(first.replace("\\boxed", ""), last), (z,), z
    yield THINKING_OFF.read, lambda: build_thinking("", last), (z,), z


def read_answer(solution: str) -> str:
    try:
        return one_box(solution, "it")
    except CannotBuild:
        return "?"


def construct_then_parse(
    problems: Sequence[list[tuple[str, str | None]]],
) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Fault -> recovered, refused, wrong; and the reasons of refusals without a fault."""
    outcomes: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    for fault, spoil in FAULTS.items():
        rng = random.Random(f"0 {fault}")
        found = outcomes.setdefault(fault, Counter())
        size = len(problems) if fault == "none" else 10 if "100 kB" in fault else 200
        some = rng.sample(problems, min(size, len(problems)))
        for pairs in some:
            try:
                solutions = [with_box(text, answer) for text, answer in pairs]
            except CannotBuild as error:
                if fault == "none":
                    found["refused"] += NUM_CASES
                    reasons[str(error)] += NUM_CASES
                continue
            # Every one, so that whatever a format takes of them is spoilt.
            solutions = [spoil(solution, rng) for solution in solutions]
            for read_back, build, attempts, answer in cases(solutions):
                try:
                    text = build()
                except CannotBuild as error:
                    found["refused"] += 1
                    if fault == "none":
                        reasons[str(error)] += 1
                    continue
                ok = read_back(text) == Reading(attempts=attempts, answer=answer)
                found["recovered" if ok else "wrong"] += 1
    return outcomes, reasons


def extraction(rows: Sequence[dict[str, Any]]) -> tuple[int, list[str]]:
    """How many answers read after `A:` are the label, and the others."""
    line, number = answer_reader("after:A:"), answer_reader("last_number")
    agree, others = 0, []
    for row in rows:
        text = line(row["response_text"])
        answer = number(text) if text else None
        if answer == (row["answer"] or None):
            agree += 1
        else:
            others.append(
                f"{row['question_id']} {row['model']}: read {answer!r}, label {row['answer']!r}, text {text!r}"
            )
    return agree, others


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    problems: dict[tuple[str, str], list[tuple[str, str | None]]] = {}
    for name in NAMES:
        for row in read(folder, name):
            problems.setdefault((name, row["question_id"]), []).append((row["response_text"], row["answer"]))
    outcomes, reasons = construct_then_parse(list(problems.values()))
    print(f"{len(problems)} problems, {sum(map(len, problems.values()))} solutions, 13 formats\n")
    print("| fault, in every solution | recovered | refused with a reason | read back as something else |")
    print("|---|---|---|---|")
    for fault, found in outcomes.items():
        print(f"| {fault} | {found['recovered']} | {found['refused']} | {found['wrong']} |")
    print("\nrefused without a fault:")
    for reason, count in reasons.most_common():
        print(f"  {count} {reason}")
    agree, others = extraction(read(folder, "gsm8k_solutions"))
    print(f"\nextraction: {agree} of {agree + len(others)} are the label; the others:")
    for line in others:
        print(f"  {line}")
    if any(found["wrong"] for found in outcomes.values()):
        sys.exit("a response was read back as something else")


if __name__ == "__main__":
    main()
