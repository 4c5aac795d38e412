"""Two-stage parsing changes no tree, and an answer in a text is found, not a denied one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ibpo.rewards.math import is_hostile
from ibpo.rewards.math_worker import choice_in, equal, found_in, same_pieces

ANSWERS = r"""
x+1 | \frac{1}{2} | (1, 2]\cup[3,\infty) | \{1,2,3\} | x=2, y=3 | 1,234 | 3,4 | 2\sqrt{3}i | x^{2 | }{ | a < b < c
\begin{pmatrix}1\\2\end{pmatrix} | f(x)=x^2 | 10\% | \sin^2 x | x \in [0,1] | 12_5 | \text{B} | -\frac{3}{4}, 5 | 2.50
90^\circ | 5! | \binom{5}{2} | \log_2 8 | x_1+x_2 | a/b/c | p=q=2 | (x-1)^3(x+1)^3 | 2 \sin b \cos a | 3\,\text{cm}
""".replace("\n", "|").split("|")

IN_A_PROCESS = """
import json, sys
from math_verify import parse
from sympy import srepr
from ibpo.rewards import math_worker
if sys.argv[1] == "faster":
    math_worker.install()
    from latex2sympy2_extended import latex2sympy2
    assert latex2sympy2.PSParser.__name__ == "TwoStage"
for text in json.loads(sys.argv[2]):
    print([part if isinstance(part, str) else srepr(part) for part in parse(f"${text}$", parsing_timeout=None)])
"""


def test_two_stages_parse_what_one_does():
    said = [
        subprocess.run([sys.executable, "-c", IN_A_PROCESS, how, json.dumps(ANSWERS)], capture_output=True, text=True)
        for how in ("as it is", "faster")
    ]
    assert said[0].returncode == said[1].returncode == 0, said[1].stderr
    assert said[0].stdout == said[1].stdout and len(said[0].stdout.splitlines()) == len(ANSWERS)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the total is 72 apples in all.", "72"),
        ("The answer is not 72", ""),
        ("She sold 72 clips in total.", "72"),
        ("a total of 72 clips", "72"),
        ("There are more than 72", ""),
        ("We know that 72 is wrong", ""),
        ("not 71 at all, but it is 72", "72"),
    ],
)
def test_the_answer_of_a_text(text, answer):
    assert found_in(text) == answer


def test_the_letter_of_a_choice():
    said = ["I think the correct answer is C", "It's not A, so it's B", "D. it can't be A or B", "no letter"]
    assert [choice_in(text) for text in said] == ["C", "B", "D", ""]


@pytest.mark.parametrize("said", ["C: 12 cm", "(C): 12", r"\text{C. 12}", "**(C)** 12 cm", "**C**, since 2 + 2 = 4"])
def test_a_choice_with_what_it_stands_for(said):
    assert equal(said, "C") and not equal(said, "B") and not is_hostile(said)
    assert equal("C", said)


def test_a_ratio_is_no_choice():
    assert not equal("A: B", "A") and equal("A:B", "A:B")


def test_what_cannot_be_read_is_written_alike():
    assert same_pieces(r"1+2+\ldots+9", "1 + 2 + ... + 9")
    assert not same_pieces(r"1+2+\ldots+9", r"2+1+\ldots+9")
    assert same_pieces(r"\sum_{k=1}^{n} k", r"∑_{k=1}^n k") and not same_pieces(r"\sum^{n}2", r"\sum^{n2}")
