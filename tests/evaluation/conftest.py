"""A sampling stage's files, written from policies whose every probability is known."""

from pathlib import Path

import pytest

from ibpo.evaluation.responses import write_table

LEVELS: tuple[str, ...] = ("easy", "medium", "unknown")
PARTS = {"easy": 0.4, "medium": 0.4, "unknown": 0.2}
STANDARD = {"easy": 1.0, "medium": 0.25, "unknown": 0.0}
EXTENDED = {"easy": 1.0, "medium": 0.75, "unknown": 0.0}
TOKENS = {"standard": 10, "extended": {"easy": 20, "medium": 30, "unknown": 60}}
NUM_SAMPLES = 4


def problems(num: int) -> list[tuple[str, str]]:
    """(problem id, level); ids in an order that mixes the levels."""
    levels = [level for level in LEVELS for _ in range(round(PARTS[level] * num))]
    return [(f"p{7 * i % num:04d}", level) for i, level in enumerate(levels)]


def write_responses(path: Path, num: int, accuracy: dict[str, float], share: dict[str, float]) -> None:
    """Exact counts: of the responses of each problem, `share` are extended, and `accuracy` right."""
    rows = []
    for number, (problem_id, level) in enumerate(problems(num)):
        for sample in range(NUM_SAMPLES):
            turn = (sample + number) % NUM_SAMPLES
            extended = turn < share[level] * NUM_SAMPLES
            right = turn < accuracy[level] * NUM_SAMPLES
            answer = "42" if right else (None if level == "unknown" else str(sample))
            row = {"problem_id": problem_id, "level": level, "number": sample, "reward": float(right)}
            row |= {"response_group": "extended" if extended else "standard", "finish_reason": "stop", "answer": answer}
            row |= {"tokens": TOKENS["extended"][level] if extended else TOKENS["standard"]}
            row |= {"completion": ("[TRIAL] " if extended else "<cot> ") + f"<answer> {answer}"}
            rows.append(row | {"prompt": f"{problem_id} =", "configuration": path.name})
    write_table(path, rows)


def write_choices(path: Path, num: int, p_extended: dict[str, float]) -> None:
    """The policy's probability of an extended response depends on the level, and slightly on the problem."""
    rows = [
        {"problem_id": problem_id, "level": level, "p_extended": p_extended[level] + 1e-4 * number / num}
        for number, (problem_id, level) in enumerate(problems(num))
    ]
    write_table(path, rows)


@pytest.fixture(scope="session")
def build_store():
    """Write a store of one experiment and seed; the policies at 25 % and 50 % allocate as said below."""

    def build(directory: Path, num: int = 100, share: dict[float, dict[str, float]] | None = None) -> Path:
        share = share or {
            0.25: {"easy": 0.0, "medium": 0.75, "unknown": 0.0},  # share 0.30, all where extended helps
            0.5: {"easy": 0.25, "medium": 1.0, "unknown": 0.5},  # share 0.60, partly wasted
        }
        ways = {"standard": (STANDARD, 0.0), "extended": (EXTENDED, 1.0)}
        for policy in ("pretrained", "cold_start", "raft", *(f"ibpo-{q:g}" for q in share)):
            for how, (accuracy, forced) in ways.items():
                if (policy, how) != ("pretrained", "extended"):
                    everywhere = dict.fromkeys(LEVELS, forced)
                    write_responses(directory / "responses" / f"{policy}__{how}.jsonl.gz", num, accuracy, everywhere)
        for q, own in share.items():
            mixed = {x: (1 - own[x]) * STANDARD[x] + own[x] * EXTENDED[x] for x in LEVELS}
            mixed["medium"] = round(mixed["medium"] * NUM_SAMPLES) / NUM_SAMPLES
            write_responses(directory / "responses" / f"ibpo-{q:g}__sampled.jsonl.gz", num, mixed, own)
            p_extended = {"easy": 0.1, "medium": 0.8, "unknown": 0.2}
            for split in ("test", "calibration"):
                write_choices(directory / "choices" / f"ibpo-{q:g}__{split}.jsonl.gz", num, p_extended)
        everything = dict.fromkeys(LEVELS, 1.0)
        write_responses(directory / "responses" / "raft__sampled.jsonl.gz", num, EXTENDED, everything)
        return directory

    return build
