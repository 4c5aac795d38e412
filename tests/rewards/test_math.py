import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ibpo.rewards.exact import exact_match
from ibpo.rewards.math import MathJudge, is_hostile, judge_pair
from ibpo.tasks.jsonl import load_problems

pytest.importorskip("math_verify")
GSM8K = Path(__file__).parent.parent / "fixtures" / "gsm8k_16.jsonl"
EQUAL = [
    ("1,000", "1000"),
    ("$72", "72"),
    (r"\$72.00", "72"),
    ("72.", "72"),
    ("$72$", "72"),
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{6}{4}", r"\frac{3}{2}"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"2\pi", r"\pi \cdot 2"),
    ("(1, 2)", "(1,2)"),
    (r"\{2, 1\}", r"\{1, 2\}"),
    (r"e^{x^2}", r"e^{x^{2}}"),
]
DIFFERENT = [
    ("73", "72"),
    ("-72", "72"),
    ("7200", "72"),
    (r"\frac{1}{3}", "0.5"),
    ("x^2+2x+2", "(x+1)^2"),
    ("(2, 1)", "(1,2)"),
    ("", "72"),
    ("no idea", "72"),
    ("\\frac{1}{", "1"),
]
HOSTILE = [
    "10^{10^{10}}",
    "10^{(10^{10})}",
    "10**10**10",
    "9^9^9^9",
    "2^{1000000000}",
    "((x+1)^{99})^{99}",
    r"2^{9999 \cdot 9999}",
    "99999999!",
    "((9)!)!",
    r"\binom{100000000}{50000000}",
    "(" * 300 + "1" + ")" * 300,
    r"\frac{1}{" * 20 + "2" + "}" * 20,
    "7" * 100_000,
    "x" * 100_000,
    "^" * 150,
]


@pytest.mark.parametrize(("predicted", "gold"), EQUAL)
def test_equivalent_answers(predicted, gold):
    assert MathJudge()(predicted, gold) == 1.0


@pytest.mark.parametrize(("predicted", "gold"), DIFFERENT)
def test_wrong_answers(predicted, gold):
    assert MathJudge()(predicted, gold) == 0.0


def test_gold_scores_one_and_perturbed_gold_zero():
    judge = MathJudge()
    golds = [p.answer for p in load_problems(GSM8K, answer_after="####")]
    assert all(judge(gold, gold) == 1.0 for gold in golds)
    assert all(judge(f"{float(gold) + 1:g}", gold) == 0.0 for gold in golds)
    assert all(judge(None, gold) == 0.0 for gold in golds)


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: answer[:20])
def test_hostile_answers_cost_nothing(answer):
    start = time.perf_counter()
    assert MathJudge()(answer, "72") == 0.0
    assert time.perf_counter() - start < 0.5
    assert is_hostile(" ".join(answer.split()))


def test_a_hostile_gold_is_matched_verbatim_only():
    assert judge_pair("10^{10^{10}}", "10^{10^{10}}") == 1.0
    assert judge_pair("10", "10^{10^{10}}") == 0.0


def test_works_in_threads():
    judge = MathJudge()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda pair: judge(*pair), EQUAL)) == [1.0] * len(EQUAL)


def test_pairs_are_judged_once():
    judge = MathJudge()
    for _ in range(3):
        judge(r"\frac{1}{2}", "0.5")
    assert judge._judge.cache_info().misses == 1


def test_exact_match():
    assert exact_match(" =7 ", "=7") == 1.0 and exact_match("7", "=7") == 0.0 and exact_match(None, "") == 0.0
