"""Chains of signed digits: `a +3 b -4 c +9 =` asks for the last digit of the total (8).

A direct answer is a serial computation done in a fixed number of layers, so it stops working after a few operands; the
same model that writes the running total down works through chains of any trained length. Nobody planted these errors.
The letters name the steps, so that a working can refer to them. The operands `+x` and `-x` are unknown: no response can
be right but by luck.

Problems are split into train and test by a hash of their text, so the two are disjoint by construction.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ibpo.types import Problem

MODULUS = 10
UNKNOWN = "x"
NAMES = "abcdefghijkl"
LEVELS: dict[str, tuple[int, int]] = {
    "2": (2, 2),
    "3": (3, 3),
    "4-5": (4, 5),
    "6-8": (6, 8),
    "9-12": (9, 12),
    "unknown": (2, 12),
}
"""Level -> smallest and largest number of operands; "unknown" has exactly one unknown operand."""
MIX = {"2": 0.08, "3": 0.16, "4-5": 0.22, "6-8": 0.20, "9-12": 0.16, "unknown": 0.18}
"""Share of each level among the problems that the policy meets, in training and in the test."""


def split_of(problem_id: str) -> str:
    """The split that a problem belongs to: a hash of its text decides, half and half."""
    return "test" if hashlib.blake2b(problem_id.encode(), digest_size=1).digest()[0] % 2 else "train"


def draw_words(length: int, unknown: bool, rng: np.random.Generator) -> list[str]:
    """One random chain of `length` operands, the position of the unknown one (if any) uniform."""
    signs = np.where(rng.random(length) < 0.5, "+", "-")
    words = [f"{s}{d}" for s, d in zip(signs, rng.integers(0, MODULUS, length), strict=True)]
    if unknown:
        where = int(rng.integers(length))
        words[where] = words[where][0] + UNKNOWN
    return words


def prompt_of(words: list[str]) -> str:
    """The problem as the model reads it: ["+3", "-4"] -> "a +3 b -4 ="."""
    return " ".join(f"{name} {word}" for name, word in zip(NAMES, words, strict=False)) + " ="


def evaluate(words: list[str], unknown_value: int) -> list[int]:
    """Running totals (last digit) after each operand."""
    totals, total = [], 0
    for word in words:
        digit = unknown_value if word[1:] == UNKNOWN else int(word[1:])
        total = (total + (digit if word[0] == "+" else -digit)) % MODULUS
        totals.append(total)
    return totals


def draw(level: str, rng: np.random.Generator) -> Problem:
    """A random problem of this level; an unknown operand gets a secret value that nothing in the prompt tells."""
    low, high = LEVELS[level]
    words = draw_words(int(rng.integers(low, high + 1)), level == "unknown", rng)
    prompt = prompt_of(words)
    answer = evaluate(words, int(rng.integers(MODULUS)))[-1]
    return Problem(problem_id=prompt, prompt=prompt, answer=str(answer), level=level)
