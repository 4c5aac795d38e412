"""The shortcuts put into math-verify change no verdict."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import grader
from sympy import I, Integral, Matrix, exp, log, pi, simplify, sqrt, symbols
from sympy.parsing.sympy_parser import parse_expr

from ibpo.rewards.math_worker import differ, looked_at

x, y = symbols("x y", real=True)


def test_what_differs_at_a_point_is_not_equal():
    assert differ(x**2, x**3) and differ(x, y) and differ(sqrt(2), pi) and differ(1 + I, 1 - I)
    assert differ(x / 10**30, 2 * x / 10**30)  # relative, not absolute


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((x + 1) ** 2, x**2 + 2 * x + 1),
        (log(x * y), log(x) + log(y)),  # true of positive numbers
        (sqrt(x**2), x),
        (exp(I * pi), -x / x),
        ((sqrt(3) + sqrt(2)) ** 4, 49 + 20 * sqrt(6)),
        (10**400 * x, 10**400 * x + x),  # beyond a double
        (1 / (x - x), x),
        (Matrix([1]), x),
        (Integral(x, (x, 0, 1)), y),
    ],
    ids=lambda part: str(part)[:40],
)
def test_what_a_look_cannot_tell_is_left_to_simplify(a, b):
    assert not differ(a, b)


terms = st.sampled_from(["x", "y", "2", "3", "7", "pi", "sqrt(2)", "sin(x)"])
expressions = st.recursive(
    terms, lambda inner: st.builds("({}{}{})".format, inner, st.sampled_from("+-*/"), inner), max_leaves=5
)


@settings(deadline=None)
@given(expressions, expressions)
def test_no_verdict_changes(left, right):
    a, b = (parse_expr(text, {"x": x, "y": y}) for text in (left, right))
    plainly = grader.sympy_symbolic_eq(a, b)
    assert looked_at(grader.sympy_symbolic_eq)(a, b) is plainly
    assert not differ(a, simplify(a))


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
    from math_verify import grader
    assert latex2sympy2.PSParser.__name__ == "TwoStage" and grader.sympy_symbolic_eq.__name__ == "compare"
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
