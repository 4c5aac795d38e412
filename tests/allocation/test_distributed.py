"""`allocate_partitions` is `allocate`: the same choice, certificate and errors, however the rows are divided."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

from ibpo.allocation import InfeasibleBudget, allocate, allocate_partitions
from ibpo.errors import IbpoError


def rows(rng, first, num_problems, siblings, discrete):
    """Utilities, problems, whether extended, tokens; extended responses are better and more expensive on average."""
    problem = np.repeat(np.arange(first, first + num_problems), siblings)
    extended = np.tile(np.arange(siblings) % 2, num_problems)
    utility = rng.random(len(problem))
    utility = (np.round(utility * 8) / 8 if discrete else utility) + 0.3 * extended
    tokens = np.round(np.where(extended, 2000, 300) * (0.5 + rng.random(len(problem))))
    return utility, problem, extended.astype(bool), tokens


def instance(seed):
    """Partitions, and arguments after them: a share, tokens, both, or tokens above a least share."""
    rng = np.random.default_rng([20261130, seed])
    size, number, siblings = int(rng.integers(1, 300)), int(rng.integers(1, 6)), int(rng.integers(1, 7))
    kind, discrete = seed % 4, bool(rng.integers(2)) and seed % 4 < 2
    whole = [rows(rng, i * size, size, siblings, discrete) for i in range(number)]
    if kind == 0:
        parts = [(u, p, extended) for u, p, extended, _ in whole]
        budget, least = float(rng.choice([0, 0.1, 0.3, 0.5, 1])), None
    elif kind == 1:
        parts = [(u, p, tokens) for u, p, _, tokens in whole]
        budget, least = float(rng.choice([400, 600, 900, 1500])), None
    else:
        parts = [(u, p, np.stack([extended, tokens])) for u, p, extended, tokens in whole]
        budget, least = ([0.4, 900.0], None) if kind == 2 else ([None, float(rng.choice([900, 1500]))], [0.2, None])
    asked = {"at_least": least, "choose": str(rng.choice(["exactly_one", "at_most_one"]))}
    return parts, budget, asked, discrete


def joined(parts) -> Any:
    return [np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)]


def outcome(function):
    try:
        return function()
    except InfeasibleBudget as error:
        return error.budget_index, pytest.approx(error.nearest), error.floor


def check(parts, budget, asked, *, same=True, **more):
    """Both ways; the weights of the partitions are those of the whole, or worth as much where utilities are equal."""
    utility, problem, cost = joined(parts)
    alone = outcome(lambda: allocate(utility, problem, cost, budget, **asked))
    found = outcome(lambda: allocate_partitions(range(len(parts)), parts.__getitem__, budget, **asked, **more))
    if isinstance(alone, tuple) or isinstance(found, tuple):
        assert found == alone
        return None
    weight = np.concatenate([found.weight(i, i) for i in range(len(parts))])
    assert found.objective == pytest.approx(alone.objective, rel=1e-12)
    assert float(utility @ weight) == pytest.approx(alone.objective, rel=1e-12)
    assert (found.status, found.gap) == ("optimal", 0.0)
    assert found.upper_bound >= found.objective
    num_problems = len(np.unique(problem))
    assert (found.num_problems, found.num_responses) == (num_problems, len(problem))
    assert np.bincount(problem, weight).max() == 1
    np.testing.assert_allclose(found.spent, np.atleast_2d(cost).astype(float) @ weight / num_problems, rtol=1e-12)
    if same:
        np.testing.assert_array_equal(weight, alone.weight)
    return found


@pytest.mark.parametrize("seed", range(48))
def test_it_is_allocate(seed):
    parts, budget, asked, discrete = instance(seed)
    check(parts, budget, asked, same=not discrete)


@pytest.mark.parametrize("seed", range(8))
def test_empty_partitions_change_nothing(seed):
    """As a filter leaves them; among eighty, most of which are empty, the places to sample hold next to nothing."""
    parts, budget, asked, discrete = instance(seed)
    num_costs = np.atleast_2d(parts[0][2]).shape[0]
    none = (np.zeros(0), np.zeros(0, np.int64), np.zeros((num_costs, 0)) if num_costs > 1 else np.zeros(0))
    check([none, *parts, none], budget, asked, same=not discrete)
    found = outcome(lambda: allocate_partitions(range(80), ([none, *parts] + [none] * 80).__getitem__, budget, **asked))
    utility, problem, cost = joined(parts)
    alone = outcome(lambda: allocate(utility, problem, cost, budget, **asked))
    if isinstance(alone, tuple) or isinstance(found, tuple):
        assert found == alone
    else:
        assert found.objective == pytest.approx(alone.objective, rel=1e-12)
        assert found.weight(0, 0).tolist() == []


@pytest.mark.parametrize("seed", range(16))
def test_a_bad_guess_costs_passes_and_nothing_else(seed):
    """Two problems say where the prices are, of partitions that have nothing in common."""
    rng = np.random.default_rng(seed)
    parts = []
    for number, worth in enumerate([1.0, 30.0, 0.01]):
        utility, problem, extended, tokens = rows(rng, 1000 * number, 200, 4, discrete=False)
        parts.append((worth * utility, problem, extended if seed % 2 else tokens))
    check(parts, 0.4 if seed % 2 else 800.0, {}, sample=2)


def test_most_problems_are_settled_where_there_are_many():
    rng = np.random.default_rng(0)
    parts = [rows(rng, 20_000 * number, 20_000, 4, discrete=False) for number in range(5)]
    found = check([(u, p, tokens) for u, p, _, tokens in parts], 900.0, {})
    assert found is not None
    assert found.num_open < 0.1 * found.num_problems and found.num_passes <= 2


def test_equal_gains_at_the_margin_are_ordered_as_allocate_orders_them():
    """All problems gain the same: which of them get the budget is a hash's choice."""
    parts = [
        (np.tile([0.0, 1.0], 50), np.repeat(np.arange(50 * i, 50 * i + 50), 2), np.tile([0, 1], 50)) for i in range(3)
    ]
    check(parts, 0.3, {})
    check(parts, 0.3, {"tie_break": "another"})


def test_cents_add_up_as_decimals():
    """Thirty responses of .1: three times ten floats of .1 are more than 3, decimals are not."""
    parts = [(np.ones(10) * (i + 1), np.arange(10 * i, 10 * i + 10), np.full(10, 0.1)) for i in range(3)]
    assert check(parts, 0.1, {}) is not None
    with pytest.raises(InfeasibleBudget, match=r"raise it to at least 0\.1"):
        allocate_partitions(range(3), parts.__getitem__, "0.0999999999999")


def test_texts_are_ids_too():
    rng = np.random.default_rng(1)
    parts = [rows(rng, 100 * number, 100, 4, discrete=False) for number in range(3)]
    named = [(u, [f"p{x}" for x in p], extended) for u, p, extended, _ in parts]
    found = allocate_partitions(range(3), named.__getitem__, 0.3)
    utility, problem, extended = joined([(u, p, extended) for u, p, extended, _ in parts])
    alone = allocate(utility, [f"p{x}" for x in problem], extended, 0.3)
    np.testing.assert_array_equal(np.concatenate([found.weight(i, i) for i in range(3)]), alone.weight)


@pytest.mark.parametrize("name", ["q{}".format, lambda x: (x, "a"), int])
def test_texts_break_ties_as_they_do_in_memory(name):
    parts = [(np.tile([0.0, 1.0], 20), np.repeat(np.arange(20) + 20 * i, 2), np.tile([0, 1], 20)) for i in range(3)]
    parts = [(u, [name(x) for x in p.tolist()], c) for u, p, c in parts]
    found = allocate_partitions(range(3), parts.__getitem__, 0.3)
    utility, cost = (np.concatenate([part[i] for part in parts]) for i in (0, 2))
    alone = allocate(utility, [x for part in parts for x in part[1]], cost, 0.3)
    np.testing.assert_array_equal(np.concatenate([found.weight(i, i) for i in range(3)]), alone.weight)


def test_of_equal_responses_the_cheaper_one_is_taken_under_a_lower_bound():
    parts = [
        ([1.0, 1, 0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2], [5.0, 5, 3, 5, 1, 2, 1, 4, 4]),
        ([0.0, 0, 1, 1, 0, 1, 0, 0, 0], [3, 3, 3, 4, 4, 4, 5, 5, 5], [0.0, 3, 1, 1, 1, 1, 0, 1, 1]),
    ]
    found = check(parts, None, {"at_least": "7/6"})
    assert found is not None and found.spent.tolist() == [1.5]


@pytest.mark.parametrize(
    ("budget", "at_least"),
    [
        ([None, 0.2], [500.0, None]),  # tokens that only extended responses spend, and too few of these
        ([450.0, None], [None, 0.9]),
        ([451.0, None], [450.9999, None]),  # no whole number of tokens
    ],
)
def test_budgets_that_cannot_be_kept_together_are_named(budget, at_least):
    parts = [
        (np.arange(40.0), np.repeat(np.arange(20) + 20 * i, 2), np.array([[100, 900], [0, 1]]).repeat(20, 1))
        for i in range(3)
    ]
    parts = [(u, p, np.tile([[100.0, 900.0], [0.0, 1.0]], 20)) for u, p, _ in parts]
    utility, problem, cost = joined(parts)
    with pytest.raises(InfeasibleBudget) as alone:
        allocate(utility, problem, cost, budget, at_least=at_least)
    with pytest.raises(InfeasibleBudget) as found:
        allocate_partitions(range(3), parts.__getitem__, budget, at_least=at_least)
    assert str(found.value) == str(alone.value)


def test_a_problem_in_two_partitions_is_refused_though_its_choice_is_clear():
    """No budget: every problem is settled when its partition is read, and nothing is solved together."""
    first = ([0.0, 1.0] * 500, np.repeat(np.arange(500), 2), [0, 1] * 500)
    second = (first[0], first[1] + 400, first[2])
    for budget in (None, 0.9):
        with pytest.raises(IbpoError, match=r"problem 4[0-9][0-9]: is in two partitions"):
            allocate_partitions(range(2), [first, second].__getitem__, budget)
    texts = [(u, [f"q{x}" for x in p.tolist()], c) for u, p, c in (first, second)]
    with pytest.raises(IbpoError, match=r"problem 'q4[0-9][0-9]': is in two partitions"):
        allocate_partitions(range(2), texts.__getitem__, None)


def read_rows(seed, number):
    utility, problem, extended, _ = rows(np.random.default_rng([seed, number]), 500 * number, 500, 4, discrete=False)
    return utility, problem, extended


def test_workers_are_processes():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = allocate_partitions(range(4), partial(read_rows, 5), 0.25, map=pool.map)
        weight = np.concatenate(list(pool.map(found.weight, range(4), range(4))))
    utility, problem, extended = joined([read_rows(5, number) for number in range(4)])
    alone = allocate(utility, problem, extended, 0.25)
    np.testing.assert_array_equal(weight, alone.weight)


@pytest.mark.parametrize(
    ("parts", "more", "said"),
    [
        ([], {}, "partitions: at least one"),
        ([([0, 1], [1, 1], [0, 1]), ([0, 2], [1, 1], [0, 1])], {}, "problem 1: is in two partitions"),
        ([([0, 1], [1, 1], [0, 1]), ([0, 2], [2, 2], [[0, 1], [1, 0]])], {}, "budget: needs one number per cost row"),
        ([([0, 1], [1, 1], [0, float("nan")])], {}, "partition 0: cost[1] is not finite"),
        ([([], [], []), ([], [], [])], {}, "partitions: none of the 2 has a row"),
        ([([0, 1], [1, 1], [0, 1]), ([], [7], [])], {}, "partition 1: utility: needs one number per response"),
        ([([0, 1], [1, 1], [0, 2**60 + 1])], {}, "partition 0: cost: needs floats or whole numbers"),
        ([([0, 1] * 9, [x // 2 for x in range(18)], [0, 1] * 9)], {"most_open": 3}, "most_open: "),
    ],
)
def test_what_is_refused(parts, more, said):
    with pytest.raises(IbpoError) as error:
        allocate_partitions(range(len(parts)), parts.__getitem__, 0.5, **more)
    assert said in str(error.value)
