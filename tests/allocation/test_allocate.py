"""`allocate` against enumeration and against a plain integer program, and the laws that it must keep."""

import importlib
import itertools
import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from ibpo.allocation import InfeasibleBudget, allocate, share
from ibpo.errors import IbpoError

UTILITIES = st.sampled_from([-1.0, -0.5, 0.0, 0.0, 0.25, 0.5, 1.0, 1 - 1 / 3, 2 / 3])
BUDGETS = st.sampled_from([0, 0.25, 0.29, 0.5, 1 / 3, Fraction(1, 3), 0.75, 1, 2.5])


@st.composite
def instances(draw, shares_only=False):
    """Ragged problems of 1 to 3 responses, 1 or 2 costs: (utility, problem, cost, budget, choose)."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    problem = draw(st.permutations([p for p, size in enumerate(sizes) for _ in range(size)]))
    costs = st.sampled_from([0.0, 1.0] if shares_only else [0.0, 0.0, 1.0, 1.0, 2.0, 0.1, 0.7])
    num_costs = 1 if shares_only else draw(st.integers(1, 2))
    rows = st.lists(costs, min_size=len(problem), max_size=len(problem))
    return (
        draw(st.lists(UTILITIES, min_size=len(problem), max_size=len(problem))),
        problem,
        [draw(rows) for _ in range(num_costs)],
        [draw(BUDGETS) for _ in range(num_costs)],
        draw(st.sampled_from(["exactly_one", "at_most_one"])),
    )


def enumerated(utility, problem, cost, budget, choose):
    """The best objective over all choices, None where none keeps the budgets."""
    names = sorted(set(problem))
    options = [[r for r, p in enumerate(problem) if p == name] for name in names]
    if choose == "at_most_one":
        options = [[None, *rows] for rows in options]
    caps = [Fraction(str(b)) for b in budget]
    best = None
    for rows in itertools.product(*options):
        chosen = [r for r in rows if r is not None]
        totals = [sum(Fraction(str(c[r])) for r in chosen) for c in cost]
        if all(total <= b * len(names) for total, b in zip(totals, caps, strict=True)):
            value = math.fsum(utility[r] for r in chosen)
            best = value if best is None else max(best, value)
    return best


def check_laws(allocation, utility, problem, cost, budget, choose):
    """What every answer must satisfy, recomputed from its weights."""
    weight = allocation.weight
    assert weight.dtype == np.int8 and set(weight.tolist()) <= {0, 1}
    per_problem = [weight[np.array(problem) == p].sum() for p in set(problem)]
    assert all(count == 1 if choose == "exactly_one" else count <= 1 for count in per_problem)
    assert allocation.objective == math.fsum(np.array(utility) * weight)
    np.testing.assert_allclose(allocation.spent, np.atleast_2d(cost) @ weight / len(set(problem)), atol=1e-12)
    assert (allocation.spent <= np.array([float(b) for b in np.atleast_1d(budget)]) * (1 + 1e-9)).all()
    assert allocation.objective <= allocation.upper_bound and allocation.gap >= 0
    assert (allocation.price >= 0).all()
    assert allocation.status == "optimal" and allocation.gap == 0


@settings(max_examples=250, deadline=None)
@given(instances())
def test_equals_enumeration(instance):
    best = enumerated(*instance)
    *arrays, choose = instance
    if best is None:
        with pytest.raises(InfeasibleBudget):
            allocate(*arrays, choose=choose)
        return
    allocation = allocate(*arrays, choose=choose)
    assert allocation.objective == pytest.approx(best, abs=1e-12)
    check_laws(allocation, *instance)


@settings(max_examples=250, deadline=None)
@given(instances(shares_only=True))
def test_selection_equals_enumeration(instance):
    best = enumerated(*instance)
    *arrays, choose = instance
    if best is None:
        with pytest.raises(InfeasibleBudget) as caught:
            allocate(*arrays, choose=choose)
        arrays[3] = [caught.value.nearest]  # the value that it names must work
        allocate(*arrays, choose=choose)
        return
    allocation = allocate(*arrays, choose=choose)
    assert allocation.rule in ("selection", "unconstrained")
    assert allocation.objective == pytest.approx(best, abs=1e-12)
    check_laws(allocation, *instance)


@settings(max_examples=150, deadline=None)
@given(instances(), st.randoms(use_true_random=False))
def test_order_of_rows_changes_nothing(instance, random):
    utility, problem, cost, budget, choose = instance
    order = list(range(len(problem)))
    random.shuffle(order)
    ids = [f"response {r}" for r in range(len(problem))]
    shuffled = (
        [utility[r] for r in order],
        [problem[r] for r in order],
        [[c[r] for r in order] for c in cost],
        budget,
    )
    try:
        first = allocate(utility, problem, cost, budget, choose=choose, response=ids)
    except InfeasibleBudget:
        return
    second = allocate(*shuffled, choose=choose, response=[ids[r] for r in order])
    assert first.weight[order].tolist() == second.weight.tolist()
    for field in ("objective", "upper_bound", "gap", "status", "rule"):
        assert getattr(first, field) == getattr(second, field)
    assert first.price.tobytes() == second.price.tobytes() and first.spent.tobytes() == second.spent.tobytes()


def random_instance(seed, num_problems=120, tokens=True):
    rng = np.random.default_rng(seed)
    problem = np.repeat(np.arange(num_problems), rng.integers(1, 7, num_problems))
    rng.shuffle(problem)
    utility = rng.choice([0, 1.0, rng.random()], len(problem)) - rng.random(len(problem)).round(1)
    cost = rng.integers(50, 20_000, len(problem)) if tokens else rng.exponential(1.0, len(problem))
    return utility, problem, cost.astype(float)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("choose", ["exactly_one", "at_most_one"])
def test_equals_plain_integer_program(seed, choose):
    utility, problem, cost = random_instance(seed, tokens=seed % 2 == 0)
    costs = np.stack([cost, np.random.default_rng(seed).integers(0, 2, len(cost))])
    cheapest = np.array([cost[problem == p].min() for p in range(120)]).mean()
    budget = [float(cheapest * 1.5), 0.7]
    allocation = allocate(utility, problem, costs, budget, choose=choose)
    member = (problem == np.arange(120)[:, None]).astype(float)
    scale = costs.max(1)
    oracle = milp(
        -utility,
        integrality=np.ones(len(cost), np.int64),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(costs / scale[:, None], -np.inf, np.array(budget) * 120 / scale),
            LinearConstraint(member, 1 if choose == "exactly_one" else 0, 1),
        ],
        options={"mip_rel_gap": 0},
    )
    assert oracle.fun is not None
    assert allocation.objective == pytest.approx(-oracle.fun, abs=2e-6)
    assert allocation.rule == "general"
    check_laws(allocation, utility, problem, costs, budget, choose)


def test_more_budget_is_never_worse_and_price_is_the_slope():
    utility, problem, cost = random_instance(3, tokens=False)
    cheapest = np.array([cost[problem == p].min() for p in range(120)]).mean()
    budgets = cheapest * np.linspace(1.05, 3, 12)
    answers = [allocate(utility, problem, cost, float(b)) for b in budgets]
    for low, high, step in zip(answers, answers[1:], np.diff(budgets), strict=False):
        assert low.objective <= high.objective
        assert low.objective >= high.objective - low.price[0] * step * 120 - 0.5  # concave but for one problem's jump
        assert low.price[0] >= high.price[0] - 1e-9


def test_price_of_a_share_is_the_next_gain():
    utility = [0, 0.9, 0, 0.6, 0, 0.3, 0, 0]
    problem, cost = np.arange(4).repeat(2), np.tile([0, 1], 4)
    for budget, objective, price in [(0, 0, 0.9), (0.25, 0.9, 0.6), (0.5, 1.5, 0.3), (0.75, 1.8, 0), (1, 1.8, 0)]:
        allocation = allocate(utility, problem, cost, budget)
        assert (allocation.objective, allocation.price[0]) == (pytest.approx(objective), price)
        assert allocation.spent[0] <= 0.75  # the gain of 0 never spends


def test_budget_is_read_as_the_decimal_that_it_prints():
    problem, cost = np.arange(100).repeat(2), np.tile([0, 1], 100)
    allocation = allocate(np.tile([0.0, 1.0], 100), problem, cost, 0.29)
    assert math.floor(0.29 * 100) == 28
    assert allocation.weight @ cost == 29
    assert allocate([0, 1, 0, 1, 0, 1], [1, 1, 2, 2, 3, 3], [0, 1] * 3, Fraction(1, 3)).objective == 1


def test_ties_follow_the_hash_of_the_problem_not_the_row():
    problem, cost = [f"p{i}" for i in range(20)], np.tile([0, 1], 20)
    names = np.repeat(problem, 2)

    def winners(names, seed=None):
        weight = allocate(np.tile([0.0, 1.0], 20), names, cost, 0.25, tie_break=seed).weight
        return {str(name) for name, w, c in zip(names, weight, cost, strict=True) if w and c}

    assert winners(names) == winners(names[::-1].reshape(20, 2).ravel())
    assert winners(names) != set(problem[:5])
    assert winners(names) != winners(names, "another seed")


def test_within_a_problem_the_cheaper_of_two_equals():
    assert allocate([1, 1, 1], [0, 0, 0], [3, 1, 2], 9).weight.tolist() == [0, 1, 0]
    assert allocate([0.0, -1.0], [0, 1], [0, 0], 9, choose="at_most_one").weight.tolist() == [0, 0]


def test_stopped_early_is_feasible_with_a_true_gap():
    rng = np.random.default_rng(0)
    problem = np.arange(2000).repeat(4)
    cost = rng.integers(1000, 100_000, 8000).astype(float)
    utility = cost / 1e5 + rng.random(8000) * 1e-3  # value follows cost closely: hard to prove
    allocation = allocate(utility, problem, cost, 50_000, time_limit_s=1e-3)
    assert allocation.status == "feasible"
    assert 0 < allocation.gap == pytest.approx(allocation.upper_bound - allocation.objective)
    assert allocation.gap < 0.01 * allocation.objective
    assert allocation.spent[0] <= 50_000


def two_close_budgets(num_problems=24):
    """Value follows two costs closely: many choices are worth nearly the same, and few of them can be ruled out."""
    rng = np.random.default_rng(0)
    cost = rng.integers(1000, 100_000, (2, 4 * num_problems)).astype(float)
    utility = cost.sum(0) / 2e5 + rng.random(4 * num_problems) * 1e-3
    return utility, np.arange(num_problems).repeat(4), cost, [48_000.0, 45_000.0]


@pytest.mark.parametrize("effort", [{"node_limit": 20}, {"relative_gap": 2e-3}])
def test_several_budgets_stop_at_the_same_choice_every_time_with_a_true_gap(effort):
    instance = two_close_budgets()
    one, other = (allocate(*instance, **effort) for _ in range(2))
    assert (one.weight == other.weight).all()
    assert one.status == "feasible" and one.rule == "general"
    assert 0 < one.gap < 2e-3 * one.objective
    assert (one.spent <= instance[3]).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_limit_in_nodes_never_hides_that_a_budget_can_be_kept(seed):
    """Mean costs that exactly one known choice is sure to have: hard to find, and there."""
    rng = np.random.default_rng(seed)
    cost = rng.integers(1, 1000, (2, 24)).astype(float)
    hidden = [4 * p + int(rng.integers(4)) for p in range(6)]
    mean = [Fraction(int(row[hidden].sum()), 6) for row in cost]
    allocation = allocate(rng.random(24), np.arange(6).repeat(4), cost, mean, at_least=mean, node_limit=1)
    assert [float(x) for x in mean] == pytest.approx(allocation.spent)


def test_infeasible_budget_names_itself():
    with pytest.raises(InfeasibleBudget, match=r"budget 1: a mean cost of 2 per problem.*3\.5, over by 1\.5") as caught:
        allocate([1, 1], [0, 1], [[0, 0], [3, 4]], [1, 2])
    assert (caught.value.budget_index, caught.value.budget, caught.value.nearest) == (1, 2, 3.5)
    assert pickle.loads(pickle.dumps(caught.value)).nearest == 3.5
    with pytest.raises(InfeasibleBudget, match=r"together with budget 0.*raise it to at least 5$"):
        allocate([1, 1], [0, 0], [[0, 2], [5, 1]], [1, 3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"node_limit": 0}, "node_limit: must be at least 1"),
        ({"utility": [1, float("nan")]}, r"utility\[1\] is not finite"),
        ({"utility": [1, float("-inf")]}, r"utility\[1\] is not finite"),
        ({"utility": []}, "at least one"),
        ({"utility": ["a", "b"]}, "utility: needs an array of numbers"),
        ({"problem": [0]}, "problem: needs one id per response, 2, got 1"),
        ({"problem": [0, None]}, r"problem\[1\] is None"),
        ({"problem": np.array([0, "NaT"], "M8[s]")}, r"problem\[1\] is None"),
        ({"problem": np.ma.array([0, 1], mask=[False, True])}, r"problem\[1\] is None"),
        ({"problem": None}, "problem: needs a sequence, one for each response, got None"),
        ({"response": 3}, "response: needs a sequence, one for each response, got 3"),
        ({"utility": None}, "utility: needs an array of numbers, got none"),
        ({"utility": np.array([1, 1j])}, "utility: needs an array of numbers, got complex ones"),
        ({"utility": np.ma.array([1.0, 2.0], mask=[False, True])}, r"utility\[1\] is not finite"),
        ({"time_limit_s": "5"}, "time_limit_s: must be at least 0, got '5'"),
        ({"relative_gap": None}, "relative_gap: must be at least 0, got None"),
        ({"node_limit": 1.5}, "node_limit: must be at least 1, a whole number, got 1.5"),
        ({"cost": [1, 2, 3]}, r"cost: needs shape \[2\] or \[K, 2\]"),
        ({"cost": [[0, float("inf")]]}, r"cost\[0, 1\] is not finite"),
        ({"cost": [1, -2]}, r"cost\[0, 1\] is -2"),
        ({"budget": [1, 2]}, "budget: needs one number per cost row, 1, got 2"),
        ({"budget": float("nan")}, r"budget\[0\] is nan: needs a finite number"),
        ({"budget": float("inf")}, r"budget\[0\] is inf: needs a finite number"),
        ({"budget": 10**400}, r"budget\[0\] is a number of type int: needs a finite number"),
        ({"budget": 10**5000}, r"budget\[0\] is a number of type int: needs a finite number"),
        ({"budget": "1" * 5000}, r"budget\[0\] is '1{79}: needs a finite number"),
        ({"cost": [1, 10**400]}, "cost: needs an array of numbers: int too large"),
        ({"utility": [1e308, 1e308]}, "utility: the sum of 1 numbers of up to 1e.308 overflows"),
        ({"budget": -1}, r"budget\[0\] is -1: a budget must be at least 0"),
        ({"choose": "two"}, "choose: must be"),
        ({"response": [1]}, "response: needs one id per response"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"utility": [0, 1], "problem": [0, 0], "cost": [0, 1], "budget": 1, **change}
    with pytest.raises(IbpoError, match=message):
        allocate(**arguments)


def test_share_is_a_cost():
    assert share(np.array(["a", "b"]), "b").tolist() == [0.0, 1.0]


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("shares", [False, True])
def test_gains_that_nearly_all_cost_the_same(offset, shares):
    """A dual function that is flat beside its value: samples that stop at once only look as if they agreed."""
    rng, size = np.random.default_rng(3), 40_000
    cheap = rng.integers(100, 400, size)
    expensive = cheap + rng.integers(500, 3000, size)
    gain = 7e-5 * (expensive - cheap) * (1 + 1e-3 * rng.standard_normal(size))
    utility = (np.stack([np.zeros(size), gain], 1) + offset + rng.random(size)[:, None]).ravel()
    tokens = np.stack([cheap, expensive], 1).ravel()
    cost: Any = np.stack([tokens, np.tile([0, 1], size)]) if shares else tokens
    found = allocate(
        utility, np.repeat(np.arange(size), 2), cost, [900.0, 0.5] if shares else 900.0, relative_gap=1e-13
    )
    assert found.price[0] == pytest.approx(7.0022e-5, rel=1e-4)
    assert found.gap <= 1e-13 * found.objective


@pytest.mark.parametrize("budget", [100.0, 30.0, 25.0])
def test_a_sample_that_is_wrong_about_slack_costs_time_only(budget, monkeypatch):
    """Whether the best of each problem fits is asked a sample first, where the problems are many."""
    rng = np.random.default_rng(0)
    problem, cost = np.repeat(np.arange(3000), 4), rng.integers(0, 100, 12_000)
    utility = rng.random(12_000) + 0.002 * cost
    module = importlib.import_module("ibpo.allocation.allocate")
    found = [allocate(utility, problem, cost, budget)]
    assert module.is_surely_over(module.in_units(module.gather(module.validate(utility, problem, cost, budget)))) == (
        budget < 50
    )
    for said in (False, True):
        monkeypatch.setattr(module, "is_surely_over", lambda instance, said=said: said)
        found.append(allocate(utility, problem, cost, budget))
    for other in found[1:]:
        assert other.objective == found[0].objective and other.gap == 0 and other.price == found[0].price
    assert (found[0].price[0] == 0) == (budget == 100)


def test_texts_that_may_be_missing_and_bytes_are_response_groups():
    """pandas' NA is no truth value; bytes of a text never equal it, so that a budget on it held nobody."""
    pandas = pytest.importorskip("pandas")
    assert share(pandas.Series(["s", None, "s", "l"], dtype="string"), "l").tolist() == [False, False, False, True]
    assert share(np.array([b"s", b"l"]), "l").tolist() == share([b"s", b"l"], "l").tolist() == [False, True]
    assert share([1, 1.0, None, "1"], 1).tolist() == [True, True, False, False]


def test_utilities_of_sixteen_bits_of_torch():
    torch = pytest.importorskip("torch")
    utility, cost = (torch.tensor(x, dtype=torch.bfloat16) for x in ([0, 1, 0, 0.5], [0, 2, 0, 2.5]))
    found = allocate(utility, [0, 0, 1, 1], cost, 1.5)
    assert found.weight.tolist() == [0, 1, 1, 0] and found.objective == 1
