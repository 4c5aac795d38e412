"""The frontier against `allocate` at every breakpoint."""

import math
import re
from typing import Any

import numpy as np
import pytest

from ibpo.allocation import allocate, envelope, frontier
from ibpo.errors import IbpoError


def instance(seed, binary=False):
    rng = np.random.default_rng(seed)
    problem = np.repeat(np.arange(25), rng.integers(1, 7, 25))
    rng.shuffle(problem)
    utility = rng.integers(0, 2, len(problem)).astype(float) if binary else rng.normal(size=len(problem))
    return utility, problem, rng.integers(0, 30, len(problem)).astype(float)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("choose", ["exactly_one", "at_most_one"])
def test_breakpoints_are_optimal_and_the_curve_is_concave(seed, choose):
    utility, problem, cost = instance(seed, binary=seed % 2 == 1)
    curve = frontier(utility, problem, cost, choose=choose)
    assert (np.diff(curve.spent) > 0).all() and (np.diff(curve.price) <= 1e-12).all() and curve.price[-1] == 0
    for place in range(0, len(curve.spent), 4):
        budget = curve.spent[place]
        total = round(budget * 25)
        allocation = allocate(utility, problem, cost, f"{total}/25", choose=choose)
        assert allocation.objective / 25 == pytest.approx(curve.value[place], abs=1e-9)
        assert allocation.price[0] == pytest.approx(curve.price[place], abs=1e-9)
    for budget in np.linspace(curve.spent[0], curve.spent[-1] * 1.2, 11):
        point = curve.at(budget)
        allocation = allocate(utility, problem, cost, float(budget), choose=choose)
        assert allocation.objective / 25 <= point.value + 1e-9
        assert point.value - allocation.objective / 25 <= 2.1 / 25 * max(1, np.abs(utility).max())
        assert point.spent <= budget


def test_order_of_rows_changes_no_bit():
    utility, problem, cost = instance(3)
    order = np.random.default_rng(0).permutation(len(utility))
    first, second = frontier(utility, problem, cost), frontier(utility[order], problem[order], cost[order])
    assert first.value.tobytes() == second.value.tobytes() and first.price.tobytes() == second.price.tobytes()


def test_envelope_equals_brute_force():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 8))
        utility, cost = rng.integers(-3, 4, n).astype(float), rng.integers(0, 6, n).astype(float)
        steps = envelope(np.zeros(n, np.int64), utility, cost)
        for price in np.arange(0.05, 4, 0.1):
            best = (utility - price * cost).max()
            path = [steps.base[0], *steps.to]
            assert (utility[path] - price * cost[path]).max() == pytest.approx(best)
        assert (np.diff(steps.slope) < 0).all() and (steps.slope > 0).all()
        assert len(steps.base) == 1 and math.isclose(steps.gain.sum(), utility.max() - utility[steps.base[0]])


def test_errors():
    curve = frontier(*instance(0))
    with pytest.raises(IbpoError, match="the cheapest allocation costs"):
        curve.at(curve.spent[0] - 0.5)
    with pytest.raises(IbpoError, match=rf"costs {re.escape(repr(float(curve.spent[0])))} per problem"):
        curve.at(-1)
    wrong: Any = ("many", None, float("nan"), [5])
    for budget in wrong:
        with pytest.raises(IbpoError, match="budget: needs one number"):
            curve.at(budget)
    last = float(curve.spent[-1])
    assert curve.at(str(last)) == curve.at(last)
    with pytest.raises(IbpoError, match="one cost"):
        frontier([1.0], [0], [[1.0], [2.0]])
