"""The embedded tasks: right answers, exact mixes, and a test that training can never have seen."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from experiments.corpora import CURRICULA
from ibpo.tasks import digit_sums, symbol_sums, word_sums
from ibpo.tasks.task import distinct, stream

TASKS = [digit_sums, symbol_sums]


@pytest.mark.parametrize("task", TASKS)
def test_test_problems_are_disjoint_from_everything_the_model_is_trained_on(task):
    test = {p.problem_id for p in distinct(task, "test", 2000, seed=0)}
    name = {digit_sums: "thinking", symbol_sums: "voting"}[task]
    curriculum = CURRICULA[name]
    policy_training = {p.problem_id for p in islice(stream(task, "train", 1000), 20_000)}
    assert len(test) == 2000
    assert not test & policy_training
    rng = np.random.default_rng(0)
    corpora = [curriculum.standard_pairs(rng)]
    if curriculum.extended_pairs:
        corpora.append(curriculum.extended_pairs(rng))
    for corpus in corpora:
        prompts = [prompt for prompt, _ in islice(corpus, 5000)]
        ids = prompts if task is digit_sums else ["".join(sorted(p.rstrip("=").replace(" ", ""))) for p in prompts]
        assert not test & set(ids)
        assert {task.split_of(i) for i in ids} == {"train"}


@pytest.mark.parametrize("task", TASKS)
def test_distinct_problems_keep_the_mix_exactly_and_do_not_depend_on_chance(task):
    problems = distinct(task, "test", 1000, seed=3)
    counts = Counter(p.level for p in problems)
    for level, share in task.MIX.items():
        assert abs(counts[level] - share * 1000) <= 1
    assert problems == distinct(task, "test", 1000, seed=3)
    assert problems != distinct(task, "test", 1000, seed=4)


def test_a_level_that_has_too_few_problems_says_so():
    with pytest.raises(ValueError, match="level 'easy' has fewer than 2550"):
        distinct(symbol_sums, "test", 15_000, seed=0)


def test_digit_sums_answers_are_the_last_digit_of_the_sum():
    for problem in distinct(digit_sums, "train", 500, seed=0):
        digits = [word for word in str(problem.prompt).split() if word.startswith("+")]
        if problem.level == "unknown":
            assert digits.count("+x") == 1
        else:
            low, high = digit_sums.LEVELS[problem.level]
            assert low <= len(digits) <= high
            assert int(problem.answer) == sum(map(int, digits)) % 10


def test_symbol_sums_believed_facts_are_wrong_only_about_upper_case():
    totals = np.arange(symbol_sums.MODULUS)[:, None]
    true = (totals + np.array(list(symbol_sums.VALUES.values()))) % symbol_sums.MODULUS
    wrong = true != symbol_sums.BELIEVED
    plain = len(symbol_sums.PLAIN)
    assert not wrong[:, :plain].any()
    assert abs(wrong[:, plain:].mean() - symbol_sums.WRONG_SHARE) < 0.05
    rng = np.random.default_rng(0)
    for problem in distinct(symbol_sums, "train", 300, seed=0):
        symbols = str(problem.prompt).replace(" ", "").rstrip("=")
        path = symbol_sums.believed_path(symbols, rng)
        assert sorted(symbol for symbol, _ in path) == sorted(symbols)
        if problem.level == "easy":
            assert f"={path[-1][1]}" == problem.answer


def test_word_sums_are_told_in_the_prompt_and_written_out_by_the_program():
    problems = distinct(word_sums, "train", 400, seed=0)
    assert not {p.problem_id for p in problems} & {p.problem_id for p in distinct(word_sums, "test", 400, seed=0)}
    for problem in problems:
        told = [int(number) for number in re.findall(r"\d+", problem.problem_id)]
        columns = problem.info["columns"]
        steps = re.findall(r"(\d+) \+ (\d+) = (\d+)", columns["steps"])
        assert columns["direct"] == f" {problem.answer}" and columns["steps"].endswith(f". Answer: {problem.answer}")
        assert all(int(a) + int(b) == int(c) for a, b, c in steps) and int(steps[-1][2]) == int(problem.answer)
        low, high = word_sums.LEVELS[problem.level]
        if problem.level == word_sums.UNKNOWN:  # hopeless: the number that is not told is at least 2
            assert low <= len(told) + 1 <= high and int(problem.answer) >= sum(told) + 2
        else:
            assert low <= len(told) <= high and int(problem.answer) == sum(told) and len(steps) == len(told) - 1
