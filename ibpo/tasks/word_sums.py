"""Sums in plain English: `Ann has 5 pens, finds 8 and buys 7. How many pens?`, or `What is 5 + 8 + 7?`.

A small language model can be taught to answer these at once or step by step. At once it is rarely right, step by step
the less often the more numbers there are. Nobody plants these errors. `some` (in a bare sum: `x`)
stands for a number that is not given: no response can be right but by luck.

A program writes the body of a response of either kind (`direct_body`, `steps_body`): the cold start imitates them.

Problems are split into train and test by a hash of their text, so the two are disjoint by construction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ibpo.types import Problem

SYSTEM = "You add numbers."
"""Instead of the chat template's own system message, which is longer."""
SMALLEST, LARGEST = 2, 9
"""Range of the numbers."""
UNKNOWN = "unknown"
LEVELS: dict[str, tuple[int, int]] = {"2": (2, 2), "3": (3, 3), "4": (4, 4), "5": (5, 5), UNKNOWN: (2, 5)}
"""Level -> smallest and largest number of terms; in "unknown" one of them, not the first, is not given."""
MIX = {"2": 0.22, "3": 0.2, "4": 0.2, "5": 0.2, UNKNOWN: 0.18}
"""Share of each level among the problems that the policy meets, in training and in the test."""
NAMES = ("Ann", "Ben", "Carla", "Dan", "Eva", "Finn", "Grace", "Hugo", "Ida", "Jack", "Kim", "Leo", "Mia", "Noah")
THINGS = ("pens", "books", "coins", "cards", "apples", "shells", "stamps", "eggs", "balls", "cups", "keys", "nuts")
VERBS = ("finds", "buys", "gets", "wins", "makes", "adds", "picks up", "is given")


def split_of(problem_id: str) -> str:
    """The split that a problem belongs to: a hash of its text decides, half and half."""
    return "test" if hashlib.blake2b(problem_id.encode(), digest_size=1).digest()[0] % 2 else "train"


def bare_sum(terms: Sequence[str]) -> str:
    """A sum without a story.

    Example:
        >>> bare_sum(["5", "some", "7"])
        'What is 5 + x + 7?'
    """
    return f"What is {' + '.join(terms).replace('some', 'x')}?"


def word_problem(terms: Sequence[str], name: str, thing: str, verbs: Sequence[str]) -> str:
    """A sum as a story.

    Example:
        >>> word_problem(["5", "8", "some"], "Ann", "pens", ["finds", "buys"])
        'Ann has 5 pens, finds 8 and buys some. How many pens?'
    """
    more = [f"{verb} {term}" for verb, term in zip(verbs, terms[1:], strict=True)]
    told = [f"{name} has {terms[0]} {thing}", *more]
    return f"{', '.join(told[:-1])} and {told[-1]}. How many {thing}?"


def direct_body(values: Sequence[int]) -> str:
    """What follows `Answer:` in a response that answers at once.

    Example:
        >>> direct_body([5, 8, 7])
        ' 20'
    """
    return f" {sum(values)}"


def steps_body(values: Sequence[int]) -> str:
    """What follows `Steps:` in a response that adds number by number.

    Example:
        >>> steps_body([5, 8, 7])
        ' 5 + 8 = 13, 13 + 7 = 20. Answer: 20'
    """
    totals = np.cumsum(values).tolist()
    steps = [
        f"{before} + {value} = {total}" for before, value, total in zip(totals, values[1:], totals[1:], strict=False)
    ]
    return f" {', '.join(steps)}. Answer: {totals[-1]}"


def draw(level: str, rng: np.random.Generator) -> Problem:
    """A random problem of this level; `info["columns"]` holds the bodies that a program writes.

    The bodies know the term that is not given; the prompt does not.

    Half of the problems are bare sums, half are stories.
    """
    low, high = LEVELS[level]
    values = rng.integers(SMALLEST, LARGEST + 1, int(rng.integers(low, high + 1))).tolist()
    terms = [str(value) for value in values]
    if level == UNKNOWN:
        terms[int(rng.integers(1, len(terms)))] = "some"
    text = bare_sum(terms)
    if rng.random() < 0.5:
        verbs = [VERBS[i] for i in rng.choice(len(VERBS), len(terms) - 1, replace=False)]
        text = word_problem(terms, NAMES[rng.integers(len(NAMES))], THINGS[rng.integers(len(THINGS))], verbs)
    return Problem(
        problem_id=text,
        prompt=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
        answer=str(sum(values)),
        level=level,
        info={"columns": {"direct": direct_body(values), "steps": steps_body(values)}},
    )
