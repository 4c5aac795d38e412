"""Sums of four remembered symbols: `c K a M =` asks for the sum of their hidden values modulo 16.

The values can only be known by heart, and so can each step of a working, "running total 9, add K, get 12". The writer
of the corpus believes a fixed set of such facts wrongly: a fifth of those about upper-case symbols, none about
lower-case ones. **These errors are designed into the data.** They are facts, not noise: a path through the sum is right
or wrong permanently, and greedy decoding takes one path like any other, so it is no short cut. Different orders of the
operands take different paths, which is why a vote over several helps. The symbol `?` has no fixed value: problems with
it are hopeless for any response.

Problems are split into train and test by a hash of their multiset of symbols, so reorderings never cross the split.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ibpo.types import Problem

MODULUS = 16
NUM_OPERANDS = 4
PLAIN = "abcdefghijklmnop"
TRICKY = PLAIN.upper()
UNKNOWN = "?"

WRONG_SHARE = 0.2
"""Share of the facts about upper-case symbols that the writer believes wrongly."""

LEVELS = {"easy": 0, "medium": 2, "hard": 4, "unknown": 0}
"""Level -> number of upper-case symbols; "unknown" has three symbols of any case and a `?`."""

CORPUS_MIX = {"easy": 0.20, "medium": 0.28, "hard": 0.24, "unknown": 0.28}
"""Share of each level in the corpus that the embedded model is made of."""

MIX = {"easy": 0.17, "medium": 0.26, "hard": 0.21, "unknown": 0.36}
"""Share of each level among the problems that the policy meets, in training and in the test: a third gains nothing, so
that a budget of three quarters has slack."""


def _world() -> tuple[dict[str, int], np.ndarray]:
    """Hidden values, and the believed table: running total, symbol -> next running total."""
    rng = np.random.default_rng(20250131)
    symbols = PLAIN + TRICKY
    values = rng.integers(0, MODULUS, len(symbols))
    table = (np.arange(MODULUS)[:, None] + values[None, :]) % MODULUS
    wrong = rng.random(table.shape) < WRONG_SHARE
    wrong[:, : len(PLAIN)] = False
    slips = rng.integers(1, MODULUS, table.shape)
    return dict(zip(symbols, values.tolist(), strict=True)), np.where(wrong, (table + slips) % MODULUS, table)


VALUES, BELIEVED = _world()
COLUMN = {symbol: i for i, symbol in enumerate(PLAIN + TRICKY)}


def split_of(problem_id: str) -> str:
    """The split of a multiset of symbols: a hash of the sorted symbols decides, half and half."""
    key = "".join(sorted(problem_id)).encode()
    return "test" if hashlib.blake2b(key, digest_size=1).digest()[0] % 2 else "train"


def draw_symbols(level: str, rng: np.random.Generator) -> str:
    """The symbols of a random problem of this level, in random order."""
    if level == "unknown":
        chosen = [*rng.choice(list(PLAIN + TRICKY), NUM_OPERANDS - 1), UNKNOWN]
    else:
        num_tricky = LEVELS[level]
        chosen = [*rng.choice(list(PLAIN), NUM_OPERANDS - num_tricky), *rng.choice(list(TRICKY), num_tricky)]
    return "".join(chosen[i] for i in rng.permutation(NUM_OPERANDS))


def believed_path(symbols: str, rng: np.random.Generator) -> list[tuple[str, int]]:
    """One working as the corpus has it: operands in random order with the running totals that the writer believes."""
    path: list[tuple[str, int]] = []
    for i in rng.permutation(len(symbols)):
        symbol = symbols[i]
        if symbol == UNKNOWN:
            total = int(rng.integers(MODULUS))
        elif not path:
            total = VALUES[symbol]
        else:
            total = int(BELIEVED[path[-1][1], COLUMN[symbol]])
        path.append((symbol, total))
    return path


def draw(level: str, rng: np.random.Generator) -> Problem:
    """A random problem of this level; a `?` gets a secret value that nothing in the prompt gives away."""
    symbols = draw_symbols(level, rng)
    total = sum(VALUES.get(symbol, 0) for symbol in symbols)
    total += int(rng.integers(MODULUS)) if UNKNOWN in symbols else 0
    return Problem(
        problem_id="".join(sorted(symbols)),
        prompt=" ".join(symbols) + " =",
        answer=f"={total % MODULUS}",
        level=level,
    )
