"""A stream of small batches against one big solve."""

import json
import math
from typing import Any

import numpy as np
import pytest

from ibpo.allocation import RunningPrice, allocate
from ibpo.errors import IbpoError


def stream(kind, num_problems, seed):
    """Utility, problem, cost of a stream of problems with two responses each."""
    rng = np.random.default_rng(seed)
    problem = np.arange(num_problems).repeat(2)
    gain = rng.normal(0.2, 0.5, num_problems)
    if kind == "binary":
        gain = rng.choice([-1.0, 0, 0, 0, 1, 1], num_problems)
    utility = np.stack([np.zeros(num_problems), gain], 1).ravel()
    cost = np.tile([0.0, 1.0], num_problems)
    if kind == "tokens":
        cost = np.stack([rng.integers(50, 200, num_problems), rng.integers(500, 4000, num_problems)], 1).ravel()
    return utility, problem, cost.astype(float)


def run(running, utility, problem, cost, size):
    """Objective of the stream in batches of `size` problems, and the largest overdraft on the way."""
    value, worst = 0.0, 0.0
    for start in range(0, len(utility), 2 * size):
        part = slice(start, start + 2 * size)
        weight = running.allocate(utility[part], problem[part], cost[part])
        assert (np.bincount(problem[part] - problem[part].min(), weight) == 1).all()
        value += float(utility[part] @ weight)
        worst = max(worst, -running.bank)
    return value, worst


@pytest.mark.parametrize("size", [4, 16, 64])
@pytest.mark.parametrize(("kind", "budget"), [("real", 0.25), ("real", 0.1), ("binary", 0.25), ("tokens", 600)])
def test_ends_close_to_one_big_solve(kind, budget, size):
    utility, problem, cost = stream(kind, 8_000, seed=size)
    whole = allocate(utility, problem, cost, budget, relative_gap=1e-5).objective
    running = RunningPrice(budget)
    value, worst = run(running, utility, problem, cost, size)
    assert value > 0.99 * whole
    assert worst <= 25 * cost.max() + 1e-6
    assert running.spent / 8_000 < 1.01 * budget + 25 * cost.max() / 8_000


def test_overdraft_holds_in_the_worst_order():
    """All the gains come first: the bank must stop them."""
    utility, problem, cost = stream("real", 4000, seed=1)
    order = np.argsort(-utility[1::2]).repeat(2) * 2 + np.tile([0, 1], 4000)
    for overdraft in (0, 3, 25):
        running = RunningPrice(0.2, overdraft=overdraft)
        _, worst = run(running, utility[order], problem, cost[order], 8)
        assert worst <= overdraft + 1e-9


def test_a_plain_solve_of_each_batch_is_worse():
    utility, problem, cost = stream("real", 4000, seed=2)
    running, _ = run(RunningPrice(0.1), utility, problem, cost, 8)
    alone = sum(
        allocate(utility[i : i + 16], problem[i : i + 16], cost[i : i + 16], 0.1).objective for i in range(0, 8000, 16)
    )
    assert alone == 0 and running > 100


def test_state_restores_exactly():
    utility, problem, cost = stream("tokens", 800, seed=3)
    first = RunningPrice(600, window=64)
    run(first, utility[:800], problem[:800], cost[:800], 8)
    second = RunningPrice.from_state(json.loads(json.dumps(first.state_dict())))
    for start in range(800, 1600, 16):
        part = slice(start, start + 16)
        both = [x.allocate(utility[part], problem[part], cost[part]) for x in (first, second)]
        assert both[0].tolist() == both[1].tolist()
    assert first.state_dict() == second.state_dict() and math.isfinite(first.bank)


def test_bad_input_leaves_the_state():
    running = RunningPrice("1/3")
    before = running.state_dict()
    with pytest.raises(IbpoError, match="not finite"):
        running.allocate([float("nan")], [0], [1])
    with pytest.raises(IbpoError, match="one cost"):
        running.allocate([1.0], [0], [[1.0]])
    assert running.state_dict() == before
    changes: list[dict[str, Any]] = [
        {"budget": "x"},
        {"budget": -1},
        {"budget": 1, "overdraft": -1},
        {"budget": 1, "window": 0},
    ]
    for change in changes:
        with pytest.raises(IbpoError):
            RunningPrice(**change)
    with pytest.raises(IbpoError, match="state: not one of"):
        RunningPrice.from_state({"budget": "1"})
