"""Every rule of `allocate` against enumeration on thousands of tiny problems, and against HiGHS on larger ones."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from ibpo.allocation import InfeasibleBudget, allocate, cutting_planes, lagrangian, limit, slices, stack

VALUES = np.array([-1.0, -0.5, 0.0, 0.0, 0.0, 0.25, 0.5, 1.0, 1.0, 2 / 3])
FORMS = ["one share", "slices", "groups", "nested", "crossing", "tokens", "tokens and share", "three real costs"]
RULES = {
    "one share": {"selection"},
    "slices": {"selection"},
    "groups": {"selection", "transportation"},
    "nested": {"selection", "transportation"},
    "crossing": {"selection", "transportation", "general"},
    "tokens": {"knapsack", "selection"},
    "tokens and share": {"general", "transportation", "selection"},
    "three real costs": {"general"},
}


def costs_of(form, rng, problem):
    """`[K, R]`."""
    R = len(problem)
    group, domain, kind = rng.integers(0, 4, R), problem % 2, rng.integers(0, 2, R)
    tokens = rng.choice([0, 1, 1, 2, 3, 5, 9], R).astype(float)
    extended = group > 1
    rows = {
        "one share": [extended],
        "slices": [extended & (domain == 0), extended & (domain == 1)],
        "groups": [group == 1, group == 2, group == 3],
        "nested": [extended, extended & (domain == 1), (group == 3) & (domain == 1)],
        "crossing": [extended, (kind == 1), (kind == 0) & (group < 3)],
        "tokens": [tokens],
        "tokens and share": [tokens, extended],
        "three real costs": [rng.choice([0.1, 0.2, 0.7, 1.3], R), rng.exponential(1, R).round(2), tokens],
    }[form]
    return np.array(rows, float)


def tiny(form, seed):
    rng = np.random.default_rng([FORMS.index(form), seed])
    num_problems = rng.integers(1, 6)
    problem = np.repeat(np.arange(num_problems), rng.integers(1, 4, num_problems))
    rng.shuffle(problem)
    utility = rng.choice(VALUES, len(problem)) if rng.random() < 0.6 else rng.normal(size=len(problem)).round(2)
    cost = costs_of(form, rng, problem)
    budget = [Fraction(int(x), 12) for x in np.floor(rng.random(len(cost)) * cost.max(1) * 12)]
    at_least = None
    if rng.random() < 0.4:
        at_least = [b * Fraction(int(rng.integers(0, 4)), 4) if rng.random() < 0.6 else None for b in budget]
    return utility, problem, cost, budget, at_least, str(rng.choice(["exactly_one", "at_most_one"]))


def enumerated(utility, problem, cost, budget, at_least, choose):
    """The best objective over all choices, None where none keeps the bounds. The empty response is row R."""
    R, P = len(utility), len(set(problem.tolist()))
    options = [[*np.flatnonzero(problem == p), *([R] if choose == "at_most_one" else [])] for p in range(P)]
    rows = np.stack([x.ravel() for x in np.meshgrid(*options, indexing="ij")])
    cost, utility = np.hstack([cost, np.zeros((len(cost), 1))]), np.append(utility, 0.0)
    total = cost[:, rows].sum(1)
    ok = np.ones(rows.shape[1], bool)
    for k in range(len(cost)):
        whole = (cost[k] % 1 == 0).all()
        slack = 0 if whole else 1e-9
        ok &= total[k] <= float(budget[k] * P) * (1 + slack) + 1e-12
        if at_least is not None and at_least[k] is not None:
            ok &= total[k] >= float(at_least[k] * P) * (1 - slack) - 1e-12
    return utility[rows].sum(0)[ok].max() if ok.any() else None


def check(allocation, utility, problem, cost, budget, at_least, choose):
    """The laws, recomputed from the weights."""
    weight, P = allocation.weight, len(np.unique(problem))
    per_problem = np.bincount(problem, weight)
    assert (per_problem == 1).all() if choose == "exactly_one" else (per_problem <= 1).all()
    assert allocation.objective == math.fsum(utility[weight == 1])
    assert allocation.objective <= allocation.upper_bound
    assert (allocation.gap == 0) == (allocation.status == "optimal")
    for k, row in enumerate(cost):
        total = row @ weight
        assert total <= float(budget[k] * P) * (1 + 1e-9) + 1e-12
        assert allocation.spent[k] == pytest.approx(total / P, rel=1e-12)
        if at_least is not None and at_least[k] is not None:
            assert total >= float(at_least[k] * P) * (1 - 1e-9) - 1e-12
        else:
            assert allocation.price[k] >= 0


@pytest.mark.parametrize("form", FORMS)
def test_equals_enumeration(form):
    seen, infeasible = set(), 0
    for seed in range(400):
        utility, problem, cost, budget, at_least, choose = instance = tiny(form, seed)
        best = enumerated(*instance)
        arguments = {"at_least": at_least, "choose": choose}
        if best is None:
            infeasible += 1
            with pytest.raises(InfeasibleBudget) as caught:
                allocate(utility, problem, cost, budget, **arguments)
            k = caught.value.budget_index
            if at_least is None and len(cost) == 1:  # the value that it names must work
                allocate(utility, problem, cost, [caught.value.nearest], **arguments)
            assert 0 <= k < len(cost)
            continue
        allocation = allocate(utility, problem, cost, budget, **arguments)
        assert allocation.objective == pytest.approx(best, abs=1e-9), seed
        assert allocation.status == "optimal"
        check(allocation, *instance)
        seen.add(allocation.rule)
    assert 10 < infeasible < 390
    assert seen - {"unconstrained"} <= RULES[form] | {"selection"} and seen & RULES[form]


@pytest.mark.parametrize("num_shares", [9, 12, 16, 17])
@pytest.mark.parametrize("kind", ["overlapping", "disjoint", "nested"])
def test_many_shares_equal_enumeration(num_shares, kind):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        problem = np.repeat(np.arange(4), rng.integers(1, 5, 4))
        utility, level = rng.normal(size=len(problem)).round(2), rng.integers(0, num_shares + 1, len(problem))
        cost = {
            "overlapping": rng.random((num_shares, len(problem))) < 0.3,
            "disjoint": np.arange(num_shares)[:, None] == level,
            "nested": np.arange(num_shares)[:, None] < level,
        }[kind].astype(float)
        budget = [Fraction(int(x), 4) for x in rng.integers(1, 4, num_shares)]
        best = enumerated(utility, problem, cost, budget, None, "at_most_one")
        assert allocate(utility, problem, cost, budget, choose="at_most_one").objective == pytest.approx(best, abs=1e-9)


def medium(form, seed, num_problems=60):
    rng = np.random.default_rng([7, FORMS.index(form), seed])
    problem = np.repeat(np.arange(num_problems), rng.integers(1, 6, num_problems))
    rng.shuffle(problem)
    utility = rng.choice(VALUES, len(problem)) if seed % 2 else rng.random(len(problem))
    cost = costs_of(form, rng, problem)
    if form.startswith("tokens"):
        cost[0] = np.floor(rng.lognormal(5, 1, len(problem)))
    least = np.array([sum(row[problem == p].min() for p in range(num_problems)) for row in cost]) / num_problems
    wanted = least + 0.02 + 0.35 * (cost.mean(1) - least).clip(0)
    budget = [Fraction(math.ceil(x * num_problems), num_problems) for x in wanted]
    return utility, problem, cost, budget, None, "exactly_one" if seed % 3 else "at_most_one"


def program(utility, problem, cost, budget, choose, integer=True):
    """The whole integer programme (or its relaxation) by HiGHS: objective, None where infeasible."""
    P = len(np.unique(problem))
    member = (problem == np.arange(P)[:, None]).astype(float)
    scale = np.where(cost.any(1), cost.max(1), 1.0)
    found = milp(
        -utility * 100,
        integrality=np.full(len(utility), int(integer)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(cost / scale[:, None], -np.inf, [float(b * P) for b in budget] / scale),
            LinearConstraint(member, 1 if choose == "exactly_one" else 0, 1),
        ],
        options={"mip_rel_gap": 0},
    )
    return None if found.fun is None else -found.fun / 100


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("narrow", [False, True], ids=["outright", "by narrowing"])
def test_equals_integer_program(form, narrow, monkeypatch):
    """`narrow` sets the sizes down from which the search for prices samples, so that small instances take that way."""
    if narrow:
        monkeypatch.setattr(lagrangian, "SMALL", 15)
        monkeypatch.setattr(lagrangian, "SAMPLE", 8)
    for seed in range(6):
        utility, problem, cost, budget, _, choose = instance = medium(form, seed)
        best = program(utility, problem, cost, budget, choose)
        if best is None:
            with pytest.raises(InfeasibleBudget):
                allocate(utility, problem, cost, budget, choose=choose)
            continue
        allocation = allocate(utility, problem, cost, budget, choose=choose)
        assert allocation.objective == pytest.approx(best, abs=2e-6), seed
        check(allocation, *instance)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_equals_a_thousand_integer_programs(form):
    feasible = 0
    for seed in range(1000):
        utility, problem, cost, budget, _, choose = instance = medium(form, seed, num_problems=8)
        best = program(utility, problem, cost, budget, choose)
        if best is None:
            with pytest.raises(InfeasibleBudget):
                allocate(utility, problem, cost, budget, choose=choose)
            continue
        feasible += 1
        allocation = allocate(utility, problem, cost, budget, choose=choose)
        assert allocation.objective == pytest.approx(best, abs=1e-6), seed
        check(allocation, *instance)
    assert feasible > 500


@pytest.mark.parametrize("form", FORMS)
def test_relaxed_value_is_concave_and_price_is_its_slope(form):
    utility, problem, cost, budget, *_ = medium(form, 2)
    choose = "at_most_one"
    P = len(np.unique(problem))
    price = allocate(utility, problem, cost, budget, choose=choose).price
    value = program(utility, problem, cost, budget, choose, integer=False)
    assert value is not None
    for k in range(len(cost)):
        for sign in (1, -1):
            step = [b + sign * Fraction(j == k) * b / 20 for j, b in enumerate(budget)]
            moved = program(utility, problem, cost, step, choose, integer=False)
            if moved is not None:
                assert moved <= value + price[k] * float(step[k] - budget[k]) * P + 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_order_of_rows_changes_no_bit(form, monkeypatch):
    monkeypatch.setattr(lagrangian, "SMALL", 15)
    monkeypatch.setattr(lagrangian, "SAMPLE", 8)
    for seed in range(4):
        utility, problem, cost, budget, _, choose = medium(form, seed)
        ids = np.arange(len(utility))
        order = np.random.default_rng(seed).permutation(len(utility))
        try:
            first = allocate(utility, problem, cost, budget, choose=choose, response=ids)
        except InfeasibleBudget:
            continue
        second = allocate(utility[order], problem[order], cost[:, order], budget, choose=choose, response=ids[order])
        assert first.weight[order].tolist() == second.weight.tolist()
        assert (first.objective, first.gap, first.rule) == (second.objective, second.gap, second.rule)
        assert first.price.tobytes() == second.price.tobytes() and first.spent.tobytes() == second.spent.tobytes()


@pytest.mark.parametrize(
    ("utility", "problem", "cost", "budget", "at_least"),
    [
        ([-1.89, -1.06, -0.9, 0.6, -0.2], [0, 0, 0, 1, 0], [[1, 0, 1, 1, 0], [0, 1, 0, 0, 1]], [None, 0], None),
        ([1.3, 1.81, 0], [0, 0, 0], [[1, 1, 1], [0, 1, 0]], [None, "0.52"], [1, 0]),
        ([-0.86, 0.04, 0.6, -0.3], [0] * 4, [[5, 5, 4, 6], [0.5, 0.6, 1.0, 0.3]], [None, 0.4], None),
    ],
)
def test_what_bounds_nothing_costs_nothing(utility, problem, cost, budget, at_least):
    """Its price is 0, not what rounding leaves."""
    found = allocate(utility, problem, cost, budget, at_least=at_least)
    assert found.price[0] == 0.0 and found.price[1] > 0


@pytest.mark.parametrize("share", [1, Fraction(1)])
def test_a_share_between_two_that_can_be_had_is_refused(share):
    with pytest.raises(InfeasibleBudget, match=r"at least 0\.285.*together with its budget.*costs 0,"):
        allocate([1.0], ["a"], [share], "3/7", at_least="2/7", choose="at_most_one")


def test_twenty_slices_and_tokens_equal_the_integer_program():
    """Finding the prices of 21 budgets took a second a thousand responses, and no time limit ended it."""
    rng = np.random.default_rng(3)
    num_problems, group = 600, np.tile([0, 1], 600)
    problem, domain = np.repeat(np.arange(num_problems), 2), np.repeat(rng.integers(0, 20, num_problems), 2)
    utility = np.round(rng.random(1200), 3)
    tokens = np.where(group == 1, rng.integers(200, 2000, 1200), rng.integers(20, 200, 1200)).astype(float)
    bounds = slices((group == 1).astype(float), problem, domain, at_most="0.4", at_least="0.1")
    found = allocate(utility, problem, **stack([*bounds, limit(tokens, problem, at_most=400.0)]))
    assert found.status == "optimal" and len(found.price) == 21
    one = np.equal.outer(np.arange(num_problems), problem).astype(float)
    extended = np.array([(domain == d) & (group == 1) for d in range(20)], float)
    size = np.array([np.sum(domain == d) / 2 for d in range(20)])
    solved = milp(
        -utility,
        integrality=np.ones(1200, int),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one, 1, 1),
            LinearConstraint(extended, np.ceil(0.1 * size - 1e-9).tolist(), np.floor(0.4 * size + 1e-9).tolist()),
            LinearConstraint(tokens[None], -np.inf, 400.0 * num_problems),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert solved.fun is not None and found.objective == pytest.approx(-float(solved.fun), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_elimination_of_many_rows_at_once_changes_no_bit(seed):
    rng = np.random.default_rng(seed)
    for size in (1, 2, 7, 12, 25):
        table = rng.normal(size=(size, size + 2)) * 10.0 ** rng.integers(-3, 4, (size, 1))
        table[:, :size][rng.random((size, size)) < 0.4] = 0.0
        one, other = (f(table.tolist()) for f in (cutting_planes.eliminated, cutting_planes.eliminated_at_once))
        for k in range(size):
            assert one[k][k:] == other[k][k:]
