"""Large, nearly equal and mixed numbers: `allocate` against enumeration in whole numbers and fractions.

Costs of 1e5 to 1e12 that differ by a few units, dollars of six decimals, several scales in one instance, upper and
lower bounds together. Nothing here is compared with a tolerance.
"""

import itertools
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ibpo.allocation import InfeasibleBudget, allocate, limit
from ibpo.errors import IbpoError

FAST = 2_000
ALL = 100_000
UTILITIES = ["whole", "near", "decimal", "real"]


def cost_row(rng, problem, num_problems):
    """One row of costs, as what a caller would give, and what a decimal reader makes of them."""
    size, kind = len(problem), rng.integers(6)
    base = int(10 ** rng.uniform(5, 12))
    few = rng.integers(0, 8, size)
    if kind == 0:  # whole, nearly equal
        return (base + few).tolist()
    if kind == 1:  # whole, nearly equal within a problem, problems of other scales
        of_problem = [int(10 ** rng.uniform(0, 12)) for _ in range(num_problems)]
        return [of_problem[p] + int(x) for p, x in zip(problem, few, strict=True)]
    if kind == 2:  # dollars of six decimals, a few dollars to a million
        dollars = int(10 ** rng.uniform(0, 12))
        return [float(Decimal(dollars + int(x)).scaleb(-6)) for x in few]
    if kind == 3:  # dollars and cents and millionths of very different sizes
        return [float(Decimal(int(10 ** rng.uniform(0, 12))).scaleb(-6)) for _ in range(size)]
    if kind == 4:  # a share
        return [int(x) for x in rng.integers(0, 2, size)]
    step = int(10 ** rng.uniform(3, 9))  # whole, of a few steps and a few units
    return [int(a) * step + int(b) for a, b in zip(rng.integers(0, 4, size), few, strict=True)]


def utilities(rng, size):
    kind = UTILITIES[rng.integers(len(UTILITIES))]
    if kind == "whole":
        return rng.integers(-2, 6, size).astype(float).tolist()
    if kind == "near":
        return (float(int(10 ** rng.uniform(3, 9))) + rng.integers(0, 8, size)).tolist()
    if kind == "decimal":
        return (rng.integers(0, 10**6, size) / 10**6).tolist()
    return rng.random(size).tolist()


def instance(seed):
    """Arguments of `allocate`: 2 to 6 problems, at most some 3,000 choices, 1 to 3 budgets near what a choice costs."""
    rng = np.random.default_rng([20261129, seed])
    num_problems = int(rng.integers(2, 7))
    most = {2: 7, 3: 6, 4: 5, 5: 4, 6: 3}[num_problems]
    problem = [p for p in range(num_problems) for _ in range(rng.integers(1, most + 1))]
    rng.shuffle(problem)
    costs = [cost_row(rng, problem, num_problems) for _ in range(rng.integers(1, 4))]
    choose = "at_most_one" if rng.random() < 0.25 else "exactly_one"
    rows = [[r for r, p in enumerate(problem) if p == name] for name in range(num_problems)]
    budget, at_least = [], []
    for cost in costs:
        chosen = [of[rng.integers(len(of))] for of in rows]
        total = sum(exact(cost[r]) for r in chosen)
        unit = min((abs(exact(a) - exact(b)) for a, b in itertools.pairwise(cost) if a != b), default=Fraction(1))
        high = max(total + int(rng.integers(-2, 4)) * unit, Fraction(0))
        low = max(high - int(rng.integers(0, 5)) * unit, Fraction(0))
        which = rng.integers(4)
        budget.append(None if which == 3 else written(high / num_problems, rng))
        at_least.append(written(low / num_problems, rng) if which > 1 else None)
        if budget[-1] is not None and at_least[-1] is not None and exact(at_least[-1]) > exact(budget[-1]):
            at_least[-1] = budget[-1]
    return utilities(rng, len(problem)), problem, costs, budget, at_least, choose


def odd_costs(rng, size):
    """Costs at the edges: zero, equal, duplicates, 1e15 and a little more, decimals of twelve places, of any size."""
    kind = rng.integers(7)
    if kind == 0:
        return [0] * size
    if kind == 1:
        return [[1, 10**15, 0.1, 123_456.123_456][rng.integers(4)]] * size
    if kind == 2:
        return (10**15 + rng.integers(0, 4, size)).tolist()
    if kind == 3:
        return [float(Decimal(int(x)).scaleb(-12)) for x in rng.integers(0, 10**15, size)]
    if kind == 4:
        return [Decimal(int(x)) + Decimal(int(y)).scaleb(-12) for x, y in rng.integers(0, 10**12, (size, 2))]
    if kind == 5:
        return [[0, 0, 1, 10**15][x] for x in rng.integers(0, 4, size)]
    return [[0.1, 0.2, 0.3, 0.4][x] for x in rng.integers(0, 4, size)]


def odd_instance(seed):
    """A few problems, some without some of the groups, rows twice, one to three budgets at what a choice costs."""
    rng = np.random.default_rng([20261130, seed])
    num_problems, num_groups = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    cells = [
        (p, g) for p in range(num_problems) for g in range(num_groups) if g == p % num_groups or rng.random() < 0.7
    ]
    cells += [cells[i] for i in rng.integers(0, len(cells), rng.integers(0, 3))]
    rng.shuffle(cells)
    problem, group = [int(p) for p, _ in cells], [int(g) for _, g in cells]
    size = len(cells)
    costs = [
        [int(g == wanted) for g in group] if rng.random() < 0.3 else odd_costs(rng, size)
        for wanted in rng.integers(0, num_groups, rng.integers(1, 4))
    ]
    kinds = (lambda: [0.0] * size, lambda: rng.integers(0, 2, size).astype(float).tolist(),
             lambda: (rng.integers(-3, 4, size) / 10).tolist(), lambda: (1e12 + rng.integers(0, 3, size)).tolist(),
             lambda: rng.choice([-1e15, 0.5, 1.0, 2.0, 1e15], size).tolist())  # fmt: skip
    utility = kinds[rng.integers(len(kinds))]()
    rows = [[r for r, p in enumerate(problem) if p == name] for name in range(num_problems)]
    budget, at_least = [], []
    for cost in costs:
        total = sum(exact(cost[of[rng.integers(len(of))]]) for of in rows)
        unit = min(
            (abs(exact(a) - exact(b)) for a, b in itertools.combinations(cost, 2) if a != b), default=Fraction(1)
        )
        high = max(total + [0, 0, 0, 1, -1, Fraction(1, 2), -Fraction(1, 2)][rng.integers(7)] * unit, Fraction(0))
        low = max(high - [0, 0, 1, Fraction(1, 2), 3][rng.integers(5)] * unit, Fraction(0))
        which = rng.integers(5)
        budget.append(None if which in (0, 1) else high / num_problems)
        at_least.append(None if which in (0, 2) else low / num_problems)
    return utility, problem, costs, budget, at_least, ["exactly_one", "at_most_one"][rng.integers(2)]


def exact(number):
    """A number as the decimal that it prints."""
    return number if isinstance(number, Fraction) else Fraction(str(number))


def written(bound, rng):
    """A bound as a caller may write it: a fraction, its text, or a float, which is the decimal that it prints."""
    return [bound, f"{bound.numerator}/{bound.denominator}", float(bound)][rng.integers(3)]


def scaled(numbers):
    """Whole numbers, and what they have been multiplied by."""
    fractions = [exact(x) for x in numbers]
    scale = math.lcm(*(x.denominator for x in fractions))
    return [int(x * scale) for x in fractions], scale


def enumerated(utility, problem, costs, budget, at_least, choose):
    """The largest objective as a fraction, None where no choice keeps the bounds; by whole numbers of any size."""
    num_problems = max(problem) + 1
    skip = [len(problem)] if choose == "at_most_one" else []
    options = [[r for r, p in enumerate(problem) if p == name] + skip for name in range(num_problems)]
    choices = np.stack([x.ravel() for x in np.meshgrid(*options, indexing="ij")])
    inside = np.ones(choices.shape[1], bool)
    for cost, high, low in zip(costs, budget, at_least, strict=True):
        whole, scale = scaled(cost)
        total = np.array([*whole, 0], object if max(whole) > 2**50 else np.int64)[choices].sum(0)
        if high is not None:
            inside &= (total <= math.floor(exact(high) * num_problems * scale)).astype(bool)
        if low is not None:
            inside &= (total >= math.ceil(exact(low) * num_problems * scale)).astype(bool)
    if not inside.any():
        return None
    whole, scale = scaled(utility)
    total = np.array([*whole, 0], object)[choices[:, inside]].sum(0)
    return Fraction(int(total.max()), scale)


def wrong(seed, make=instance):
    """What is wrong with the answer to this instance; None if nothing is."""
    utility, problem, costs, budget, at_least, choose = case = make(seed)
    best = enumerated(*case)
    try:
        found = allocate(utility, problem, costs, budget, at_least=at_least, choose=choose)
    except InfeasibleBudget as error:
        return None if best is None else f"feasible, but called infeasible: {error}"
    if best is None:
        return "infeasible, but answered"
    num_problems, chosen = max(problem) + 1, np.flatnonzero(found.weight).tolist()
    each = [problem[r] for r in chosen]
    if len(set(each)) != len(each) or (choose == "exactly_one" and len(each) != num_problems):
        return "not one response for each problem"
    for k, (cost, high, low) in enumerate(zip(costs, budget, at_least, strict=True)):
        total = sum((exact(cost[r]) for r in chosen), Fraction(0))
        if (high is not None and total > exact(high) * num_problems) or (
            low is not None and total < exact(low) * num_problems
        ):
            return f"bound {k} is not kept"
        if found.spent[k] != float(total / num_problems):
            return f"spent {found.spent[k]!r}, not {float(total / num_problems)!r}"
    value = sum((exact(utility[r]) for r in chosen), Fraction(0))
    if value != best:
        return f"{found.status} at {float(value)!r}, {float(best - value):.3g} below the optimum"
    if found.objective != math.fsum(utility[r] for r in chosen) or found.upper_bound < found.objective:
        return f"objective {found.objective!r}, bound {found.upper_bound!r}"
    last_bit = 1e-15 if make is odd_instance else 0.0  # of the bound, where utilities differ by 15 digits
    if found.gap > last_bit or (found.status != "optimal" and not found.gap):
        return f"{found.status}, not proved: gap {found.gap!r}"
    return None


def failures(seeds, make=instance):
    found = {}
    for seed in seeds:
        try:
            text = wrong(seed, make)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        if text is not None:
            found[seed] = text
    return found


def test_equals_enumeration_in_whole_numbers():
    assert failures(range(FAST)) == {}


def test_odd_kinds_equal_enumeration():
    assert failures(range(FAST // 2), odd_instance) == {}


def test_planes_infinitely_far_above_others_make_no_warning():
    """Beside bounds of 1e15 that no choice comes near, prices are looked for that far out."""
    assert failures([15_218], odd_instance) == {}


def test_no_size_is_too_large_to_be_exact():
    huge = 10**30
    cost = [[huge + 1, huge + 2, huge + 4, huge + 8]]
    for budget, best in ((Fraction(2 * huge + 5, 2), 1), (huge + 3, 2), (Fraction(2 * huge + 9, 2), 3), (huge + 5, 4)):
        found = allocate([0, 1, 1, 3], [0, 0, 1, 1], cost, [budget])
        assert (found.objective, found.status) == (best, "optimal")
    with pytest.raises(InfeasibleBudget):
        allocate([0, 1, 1, 3], [0, 0, 1, 1], cost, [huge + 2])
    assert allocate([1, 2], [0, 0], [1e308, 1e308], 1e308).objective == 2
    assert allocate([1, 1, 2, 2], [0, 1, 0, 1], [1e308] * 4, None).spent == [1e308]
    decimals: Any = [Decimal("0.1"), Decimal("10000000000000000000000.1")]
    assert allocate([0, 1], [0, 0], decimals, 10**22).objective == 0


def test_a_sum_of_decimals_keeps_the_budget_that_it_equals():
    assert sum([0.1] * 3) > 0.3
    found = allocate([0, 1] * 3, [0, 0, 1, 1, 2, 2], [0.0, 0.1] * 3, "1/10")
    assert (found.objective, found.spent.tolist(), found.status) == (3, [0.1], "optimal")
    dollars = [10_000.000001, 10_000.000002, 10_000.000001, 10_000.000002]
    assert allocate([0, 1, 0, 1], [0, 0, 1, 1], dollars, 10_000.000001).objective == 0
    assert allocate([0, 1, 0, 1], [0, 0, 1, 1], dollars, 10_000.0000015).objective == 1


def test_numbers_that_are_no_decimals_have_a_tolerance():
    mean = float(np.mean([1 / 3, 2 / 3, 1 / 7]))
    assert allocate([1, 1, 1], [0, 1, 2], [1 / 3, 2 / 3, 1 / 7], mean, at_least=mean).objective == 3
    with pytest.raises(InfeasibleBudget):
        allocate([1, 1, 1], [0, 1, 2], [1 / 3, 2 / 3, 1 / 7], mean * (1 - 1e-11))


def test_bounds_that_cross_are_told_apart():
    with pytest.raises(IbpoError, match=r"at_least\[0\] is 543,340,001, above budget\[0\], 543,340,000: lower it"):
        allocate([1, 1], [0, 1], [3, 4], 543_340_000, at_least=543_340_001)
    with pytest.raises(IbpoError, match=r"at_least\[0\] is 0\.5, above budget\[0\], 0\.25: lower it"):
        allocate([1, 1], [0, 1], [3, 4], 0.25, at_least=0.5)
    with pytest.raises(
        InfeasibleBudget, match=r"of 1,000,000,000,000\.5 per problem.*costs 1,000,000,000,001, over by 0\.5;"
    ):
        allocate([1, 1], [0, 1], [10**12, 10**12 + 2], 1_000_000_000_000.5)


@pytest.mark.parametrize(
    ("cost", "budget", "least", "index", "said", "nearest"),
    [
        # 1, 5 or 9 tokens: none of them is between 6 and 7, and the most that a budget of 7 leaves are 5.
        ([1, 5, 9], "7", "6", 0, "together with its budget", 5.0),
        ([0.2, 0.3, 0.71], "0.5", "0.5", 0, "together with its budget", 0.3),
        ([[0, 1, 0], [1, 5, 9]], ["1", "7"], [None, "6"], 1, "together with budget 0 and its own", 5.0),
        ([[0, 1, 0], [1, 5, 9]], ["0", None], [None, "10"], 1, "cannot be reached:", 9.0),
        ([[0, 0, 1], [1, 5, 9]], ["0", None], [None, "6"], 1, "together with budget 0:", 5.0),
        # Shares: of three problems one or two.
        ([0, 1, 0, 1, 0, 1], "0.6", "0.4", 0, "together with its budget", 1 / 3),
        ([Fraction(x) for x in (0, 1, 0, 1, 0, 1)], "0.6", "0.4", 0, "together with its budget", 1 / 3),
    ],
)
def test_the_nearest_cost_between_two_bounds_is_one_that_can_be_had(cost, budget, least, index, said, nearest):
    num_responses = np.shape(cost)[-1]
    problem = [0] * 3 if num_responses == 3 else [0, 0, 1, 1, 2, 2]
    with pytest.raises(InfeasibleBudget, match=said) as found:
        allocate(range(num_responses), problem, cost, budget, at_least=least)
    error = found.value
    assert (error.budget_index, error.floor, error.nearest) == (index, True, pytest.approx(nearest, rel=1e-15))
    floors = [error.nearest if k == index else None for k in range(len(least) if isinstance(least, list) else 1)]
    allocate(range(num_responses), problem, cost, budget, at_least=floors)  # as the message says


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, list])
def test_short_floats_are_the_decimals_that_they_print(kind):
    """.7 in 32 bits is .699999988 as a Python float, of ten problems six, and .1 more than .1."""
    budget = np.float32(0.7) if kind is list else np.array([0.7], kind)
    assert allocate([0, 1] * 10, np.repeat(range(10), 2), [0, 1] * 10, budget).spent.tolist() == [0.7]
    cost = [np.float32(x) for x in (0.1, 0.3, 0.2, 0.5)] if kind is list else np.array([0.1, 0.3, 0.2, 0.5], kind)
    found = allocate([0, 1, 0, 2], [0, 0, 1, 1], cost, 0.4)
    assert found.weight.tolist() == [0, 1, 0, 1] and found.spent.tolist() == [0.4]
    assert limit(cost, [0, 0, 1, 1], at_most=0.4).cost.tolist() == [0.1, 0.3, 0.2, 0.5]


def test_short_floats_of_many_digits_are_what_they_are():
    cost = (np.arange(1, 5) / 3).astype(np.float32)
    assert allocate([1, 1, 1, 1], range(4), cost, None).spent[0] == cost.astype(np.float64).mean()


@pytest.mark.stress
@pytest.mark.parametrize("part", range(10))
def test_equals_enumeration_a_hundred_thousand_times(part):
    assert failures(range(part, ALL, 10)) == {}


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_odd_kinds_equal_enumeration_thirty_thousand_times():
    assert failures(range(30_000), odd_instance) == {}


@pytest.mark.parametrize("cost", [[0, Fraction(10**20 + 1, 10**20)], [Decimal(0), Decimal("1.00000000000000000001")]])
def test_what_looks_like_a_share_as_floats_is_exact(cost: Any):
    for given in (cost, np.array(cost, object), [cost, [0, 1]]):
        assert allocate([0, 1], [0, 0], given, [1] * np.atleast_2d(given).shape[0]).weight.tolist() == [1, 0]
    one: Any = [0, Fraction(1)]
    assert allocate([0, 1], [0, 0], one, 1).rule == "unconstrained"
    below: Any = [0, Fraction(-1, 10**30)]
    with pytest.raises(IbpoError, match=r"cost\[0, 1\] is -1e-30: costs must be at least 0"):
        allocate([0, 1], [0, 0], below, 1)


def test_a_number_is_exact_whatever_stands_before_it():
    cost: Any = [0, 2, 2 + Fraction(1, 10**20)]
    assert allocate([0, 1, 2], [0, 0, 0], cost, 2).weight.tolist() == [0, 1, 0]


def test_numbers_that_no_float_comes_close_to_are_refused_in_words():
    with pytest.raises(IbpoError, match=r"^cost 0: takes more than 300 digits to add up exactly; round all its"):
        allocate([0, 1, 2], [0, 0, 0], [0, 1e-320, 1e300], 1)
    for utility in ([1e-310, 5e-324], [3e-280, 0]):
        with pytest.raises(IbpoError, match=r"^utility: numbers of up to \S+ are too small .*; multiply all by one"):
            allocate(utility, [0, 0], [1, 0], 1)
    assert allocate([0, 0], [0, 0], [1, 0], 0).price.tolist() == [0]
    assert allocate([0, 1e-200], [0, 0], [0, 1e-200], 0).price.tolist() == [1]
