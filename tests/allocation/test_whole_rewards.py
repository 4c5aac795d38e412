"""Rewards of 0 and 1, and means of a few: thousands of equal gains, and a bound that says more than it seems to.

Objectives are multiples of the rewards' unit, so that the linear relaxation, solved here by HiGHS, proves the largest
multiple below it. With many equal gains the prices leave thousands of candidates open, none of which may be forgotten.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array, vstack

from ibpo.allocation import InfeasibleBudget, allocate
from ibpo.allocation.units import utility_unit


def relaxed(utility, problem, cost, low, high, most_one):
    """The value of the linear relaxation, bounds on total costs."""
    one_each = csr_array((np.ones(len(problem)), (problem, np.arange(len(problem)))))
    rows, limits = [csr_array(cost.astype(float))], [*high]
    if low is not None:
        rows, limits = [*rows, -rows[0]], [*limits, *(-x for x in low)]
    if most_one:
        rows, limits = [*rows, one_each], [*limits, *np.ones(one_each.shape[0])]
    equal = {} if most_one else {"A_eq": one_each, "b_eq": np.ones(one_each.shape[0])}
    solve: Any = linprog
    found = solve(-utility, A_ub=vstack(rows), b_ub=limits, bounds=(0, 1), method="highs", **equal)
    assert found.status == 0
    return -found.fun


def forms(rng, size, least):
    """Name -> costs `[K, R]`, budgets, other arguments."""
    group, few = rng.integers(0, 5, size), rng.choice([1.0, 2.0, 4.0], size)
    tokens = np.floor(rng.lognormal(5, 0.7, size) * (1 + group))
    mean = least(tokens)
    four = np.stack([group == k for k in range(1, 5)])
    return {
        "tokens": (tokens[None], [1.5 * mean], {}),
        "tokens, one response or none": (tokens[None], [0.5 * mean], {"choose": "at_most_one"}),
        "share and tokens": (np.stack([(group > 2).astype(float), tokens]), [0.1, 1.6 * mean], {}),
        "three costs": (few[None], [1.3], {}),
        "share and three costs": (np.stack([(group > 2).astype(float), few]), [0.1, 1.4], {}),
        "four shares": (four, [0.1, 0.15, 0.1, 0.05], {}),
        "four shares, with floors": (four, [0.2, 0.15, 0.1, 0.1], {"at_least": [0.1, 0.05, 0.08, 0.1]}),
        "nested shares": (np.stack([group > 1, group > 2, group > 3]), [0.3, 0.2, 0.1], {}),
        "shares that overlap": (np.stack([group > 1, (group > 3) | (few == 4)]), [0.25, 0.15], {}),
    }


@pytest.mark.parametrize("form", list(forms(np.random.default_rng(0), 8, np.mean)))
@pytest.mark.parametrize("answers", [1, 3, 4, 5])
def test_means_of_a_few_rewards_are_allocated_to_the_end(form, answers):
    num_problems, width = 3_000, 8
    rng = np.random.default_rng(answers)
    size = num_problems * width
    utility = rng.binomial(answers, 0.4, size) / answers
    problem = np.repeat(np.arange(num_problems), width)
    cost, budget, more = forms(rng, size, lambda x: x.reshape(-1, width).min(1).mean())[form]
    found = allocate(utility, problem, cost, budget, **more)
    assert found.status == "optimal" and found.gap == 0
    low = None if "at_least" not in more else [math.ceil(x * num_problems - 1e-9) for x in more["at_least"]]
    high = [float(Fraction(str(x)) * num_problems) for x in budget]
    bound = relaxed(utility, problem, cost, low, high, most_one="choose" in more)
    most = math.floor((bound + 1e-6) * answers) / answers
    assert found.objective == pytest.approx(most, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_not_a_problem_to_spare(seed):
    """Budgets that are kept only where every problem with a free response gets one: found, and one less is refused."""
    rng = np.random.default_rng(seed)
    num_problems, width = 20_000, 3
    group = rng.integers(0, 5, (num_problems, width))
    least = group.min(1)
    count = np.bincount(least, minlength=5)[1:]  # of the cheapest groups: feasible, and nobody else may have one
    problem = np.repeat(np.arange(num_problems), width)
    utility = (rng.random(num_problems * width) < 0.3).astype(float)
    cost = np.stack([group.ravel() == k for k in range(1, 5)])
    found = allocate(utility, problem, cost, [Fraction(int(n), num_problems) for n in count])
    assert found.status == "optimal"
    chosen = group.ravel()[found.weight == 1]
    assert (np.bincount(chosen, minlength=5)[1:] <= count).all() and found.weight.sum() == num_problems
    assert chosen.astype(bool).sum() == (least > 0).sum()
    count[0] -= 1
    with pytest.raises(
        InfeasibleBudget, match=r"cannot be kept together with budgets 0 to .*: the cheapest allocation"
    ):
        allocate(utility, problem, cost, [Fraction(int(n), num_problems) for n in count])


def test_the_unit_of_utilities():
    assert utility_unit(np.array([0.0, 0.0])) == (1, True)
    assert utility_unit(np.array([-0.75, 0.5])) == (Fraction(1, 4), True)
    assert utility_unit(np.array([6.0, -9.0])) == (3, True)
    assert utility_unit(np.array([1 / 3, 0.5])) == (Fraction(1, 6), False)
    assert utility_unit(np.array([0.25, np.nextafter(0.25, 1)])) == (Fraction(1, 4), False)
    assert utility_unit(np.array([0.37, 0.001])) == (Fraction(1, 1000), False)
    assert utility_unit(np.random.default_rng(0).random(9)) is None
    assert utility_unit(np.array([1e9, 1.0])) is None  # too large for the grid
    late = np.zeros(100_000)
    late[-1] = 0.1**0.5
    assert utility_unit(late) is None


@pytest.mark.parametrize("seed", range(40))
def test_shares_with_floors_as_scipy_says(seed):
    """Disjoint and nested shares with floors, some of which contradict the bounds above them."""
    rng = np.random.default_rng([20261201, seed])
    num_problems, num_shares = int(rng.choice([310, 700, 1500])), int(rng.integers(2, 5))
    size = rng.integers(1, 7, num_problems)
    problem, group = np.repeat(np.arange(num_problems), size), rng.integers(0, num_shares + 1, size.sum())
    answers = int(rng.integers(1, 6))
    utility = rng.integers(0, answers + 1, len(group)) / answers
    cost = np.stack([group >= k if seed % 2 else group == k for k in range(1, num_shares + 1)]).astype(float)
    most = np.maximum.reduceat(cost, np.cumsum(size) - size, axis=1).sum(1)
    high = np.floor(most * rng.uniform(0, 0.6, num_shares) ** 1.5)
    low = np.floor(high * rng.uniform(0, 1, num_shares))
    one_each = csr_array((np.ones(len(problem)), (problem, np.arange(len(problem)))))
    solve: Any = milp
    right = solve(
        -utility,
        integrality=np.ones(len(utility)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 0, 1), LinearConstraint(cost, low, high)],
    )
    given = [[Fraction(int(x), num_problems) for x in ends] for ends in (high, low)]
    if right.status == 2:
        with pytest.raises(InfeasibleBudget):
            allocate(utility, problem, cost, given[0], at_least=given[1], choose="at_most_one")
        return
    found = allocate(utility, problem, cost, given[0], at_least=given[1], choose="at_most_one")
    assert found.status == "optimal" and found.objective == pytest.approx(-right.fun, abs=1e-6)
    assert (low <= cost @ found.weight).all() and (cost @ found.weight <= high).all()
