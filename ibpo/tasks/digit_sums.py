"""Sums of named digits: `c +3 f +4 k +9 =` asks for the last digit of the total (6).

A direct answer is a serial computation done in a fixed number of layers, so it stops working after a few operands; the
same model that writes the running total down works through chains of any trained length. Nobody planted these errors.
The names, in alphabetical order, only serve to refer to the operands. The operand `+x` is unknown: no response can be
right but by luck.

Problems are split into train and test by a hash of their text, so the two are disjoint by construction.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ibpo.types import Problem

MODULUS = 10
UNKNOWN = "x"
NAMES = "abcdefghijklmnop"

LEVELS: dict[str, tuple[int, int]] = {
    "2": (2, 2),
    "3": (3, 3),
    "4": (4, 4),
    "5-7": (5, 7),
    "8-10": (8, 10),
    "11-12": (11, 12),
    "unknown": (2, 12),
}
"""Level -> smallest and largest number of operands; "unknown" has exactly one unknown operand."""

MIX = {"2": 0.22, "3": 0.10, "4": 0.09, "5-7": 0.20, "8-10": 0.11, "11-12": 0.05, "unknown": 0.23}
"""Share of each level among the problems that the policy meets, in training and in the test."""

Operands = list[tuple[str, str]]
"""(name, signed digit) of each operand."""


def split_of(problem_id: str) -> str:
    """The split that a problem belongs to: a hash of its text decides, half and half."""
    return "test" if hashlib.blake2b(problem_id.encode(), digest_size=1).digest()[0] % 2 else "train"


def draw_operands(length: int, unknown: bool, rng: np.random.Generator) -> Operands:
    """A random chain of `length` operands, the position of the unknown one (if any) uniform."""
    names = np.sort(rng.choice(len(NAMES), length, replace=False))
    digits = [f"+{digit}" for digit in rng.integers(0, MODULUS, length)]
    if unknown:
        digits[int(rng.integers(length))] = f"+{UNKNOWN}"
    return [(NAMES[i], digit) for i, digit in zip(names, digits, strict=True)]


def prompt_of(operands: Operands) -> str:
    """The problem as the model reads it.

    Example:
        >>> prompt_of([("c", "+3"), ("f", "+4")])
        'c +3 f +4 ='
    """
    return " ".join(f"{name} {digit}" for name, digit in operands) + " ="


def running_totals(operands: Operands, unknown_value: int) -> list[int]:
    """Last digit of the total after each operand.

    Example:
        >>> running_totals([("c", "+3"), ("f", "+9")], 0)
        [3, 2]
    """
    digits = [unknown_value if digit[1:] == UNKNOWN else int(digit[1:]) for _, digit in operands]
    return (np.cumsum(digits) % MODULUS).tolist()


def draw(level: str, rng: np.random.Generator) -> Problem:
    """A random problem of this level; an unknown operand gets a secret value that nothing in the prompt gives away."""
    low, high = LEVELS[level]
    operands = draw_operands(int(rng.integers(low, high + 1)), level == "unknown", rng)
    prompt = prompt_of(operands)
    answer = running_totals(operands, int(rng.integers(MODULUS)))[-1]
    return Problem(problem_id=prompt, prompt=prompt, answer=str(answer), level=level)
