"""Rows in one segment per problem or shuffled, of one length or ragged, in blocks of any size: the same bits."""

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibpo.allocation import InfeasibleBudget, allocate, lagrangian, segments, share_budgets
from ibpo.allocation.segments import ProblemIds, Segments, exact_sum

entry = importlib.import_module("ibpo.allocation.allocate")  # its name is the function's, too
FORMS = ["share", "slices", "groups", "nested", "crossing", "tokens", "tokens and share"]


def instance(form, seed, num_problems=60, width=4):
    """Utility, problem (in segments of one length), cost `[K, R]`, budget, choose."""
    rng = np.random.default_rng([FORMS.index(form), seed])
    problem = rng.permutation(3 * num_problems)[:num_problems].repeat(width)
    R = len(problem)
    group, domain, tokens = rng.integers(0, 4, R), problem % 2, np.floor(rng.lognormal(4, 1, R))
    group[::width] = 0  # every problem has a free response: any share can be kept
    utility = rng.integers(0, 2, R).astype(float) if seed % 3 == 0 else rng.normal(size=R)
    extended = group > 1
    cost, budget = {
        "share": ([extended], [0.3]),
        "slices": ([extended & (domain == 0), extended & (domain == 1)], [0.1, 0.2]),
        "groups": ([group == 1, group == 2, group == 3], [0.2, 0.1, 0.15]),
        "nested": ([extended, extended & (domain == 1), (group == 3) & (domain == 1)], [0.4, 0.15, 0.05]),
        "crossing": ([extended, group % 2 == 1], [0.3, 0.2]),
        "tokens": ([tokens], [60]),
        "tokens and share": ([tokens, extended], [60, 0.3]),
    }[form]
    return utility, problem, np.array(cost, float), budget, "at_most_one" if seed % 4 == 3 else "exactly_one"


def bits(allocation, order=None):
    """Everything that an allocation says, as bytes; weights of shuffled rows put back."""
    weight = allocation.weight.copy()
    if order is not None:
        weight[order] = allocation.weight
    numbers = [allocation.objective, allocation.upper_bound, allocation.gap, *allocation.price, *allocation.spent]
    return weight.tobytes(), np.array(numbers).tobytes(), allocation.status, allocation.rule


def small_sizes(monkeypatch):
    """The ways of large instances on small ones."""
    monkeypatch.setattr(share_budgets, "SMALL", 40)
    monkeypatch.setattr(share_budgets, "SAMPLE", 1400)
    monkeypatch.setattr(share_budgets, "RANKS", 2)
    monkeypatch.setattr(lagrangian, "SMALL", 15)
    monkeypatch.setattr(lagrangian, "SAMPLE", 8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("large", [False, True], ids=["as small", "as large"])
def test_same_bits_in_every_layout(form, large, monkeypatch):
    size = 40
    if large:
        small_sizes(monkeypatch)
        size = 3000 if form in ("groups", "nested") else 100
    found = []
    monkeypatch.setattr(
        entry, "transport", lambda *arguments: found.append(share_budgets.transport(*arguments)) or found[-1]
    )
    for seed in range(2):
        utility, problem, cost, budget, choose = instance(form, seed, num_problems=size)
        response = np.arange(len(utility))
        answer = bits(allocate(utility, problem, cost, budget, choose=choose, response=response))
        order = np.random.default_rng(seed).permutation(len(utility))
        shuffled = utility[order], problem[order], cost[:, order], budget
        assert bits(allocate(*shuffled, choose=choose, response=order), order) == answer
        if form not in ("tokens", "tokens and share"):  # truth values are a share's costs
            assert bits(allocate(utility, problem, cost > 0, budget, choose=choose, response=response)) == answer
        for block in (1000,) if large else (7, 60):
            with monkeypatch.context() as patch:
                patch.setattr(segments, "BLOCK", block)
                assert bits(allocate(utility, problem, cost, budget, choose=choose, response=response)) == answer
                assert bits(allocate(*shuffled, choose=choose, response=order), order) == answer
        with monkeypatch.context() as patch:  # as if the segments were ragged
            patch.setattr(segments, "_heads", lambda *_: None)
            patch.setattr(Segments, "from_start", lambda start, n: Segments(num_rows=n, width=None, begin=start))
            assert bits(allocate(utility, problem, cost, budget, choose=choose, response=response)) == answer
    if form in ("groups", "nested"):
        assert any(answer is not None for answer in found) == large


@pytest.mark.parametrize("form", ["share", "slices", "groups", "nested", "crossing"])
def test_shares_equal_the_general_way(form, monkeypatch):
    """Without its table of best utilities, an instance of shares goes to prices and HiGHS: the same choice."""
    for seed in (1, 2, 4, 7):
        arguments = instance(form, seed, num_problems=120)
        with monkeypatch.context() as patch:
            small_sizes(patch)
            fast = allocate(*arguments[:4], choose=arguments[4])
        monkeypatch.setattr(entry.Shares, "from_arguments", lambda arguments: None)
        slow = allocate(*arguments[:4], choose=arguments[4])
        monkeypatch.undo()
        assert fast.weight.tolist() == slow.weight.tolist() and fast.objective == slow.objective
        assert slow.rule in ("general", "knapsack", "unconstrained") and fast.rule != "knapsack"


def test_huge_utilities_take_the_slow_way_exactly():
    utility, problem, cost, budget, _ = instance("share", 1)
    whole = np.round(utility * 2**20)
    plain = allocate(whole, problem, cost, budget)
    huge = allocate(np.ldexp(whole, 990), problem, cost, budget)
    assert huge.weight.tolist() == plain.weight.tolist() and huge.price[0] == np.ldexp(plain.price[0], 990)


def test_a_utility_of_minus_zero_is_zero():
    for zero in (0.0, -0.0):
        answer = allocate([zero, zero, zero, 1.0], [0, 0, 1, 1], [0, 1, 0, 1], 0)
        assert str(answer.objective) == "0.0" and str(answer.price[0]) == "1.0"


def test_what_is_no_bound_has_no_price():
    utility = [1.755859601539432e150, -2.2e149, -1.75e149, 8.2e149]
    cost = [[0, 0, 0, 0], [0.39, 0.09, 0.33, 0.11], [0, 0, 0, 0]]
    answer = allocate(utility, [1, 1, 1, 0], cost, [0, 0.205, None])
    assert answer.price[1] > 0 and str(answer.price[2]) == "0.0"
    tiny = np.array([-1.29, 0.747, 0.404, -0.925, -0.29, 1.46, -0.19, -0.388, -0.206]) * 1e-200
    cost = [15774, 21047, 5193, 6744, 13203, 5606, 20499, 20264, 973]
    answer = allocate(tiny, [2, 2, 1, 0, 1, 2, 3, 0, 0], cost, None, at_least=13410.5, node_limit=1)
    assert answer.price[0] <= 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.booleans(), st.integers(1, 9), st.integers(0, 99))
def test_segments_reduce_and_spread_like_loops(sizes, uniform, block, seed):
    sizes = [sizes[0]] * len(sizes) if uniform else sizes
    problem = np.repeat(np.random.default_rng(seed).permutation(len(sizes)) * 7, sizes)
    values = np.random.default_rng(seed).integers(0, 9, len(problem)).astype(float)
    found = ProblemIds.from_values(problem, len(problem), "")
    assert found.order is None and found.ids is not None
    where = [np.flatnonzero(problem == p) for p in found.ids]
    rows = found.gathered()[1]
    assert found.num_problems == rows.num_problems == len(sizes) and (rows.width is not None) == (len(set(sizes)) == 1)
    most = np.concatenate([values[rows].max() for rows in where], axis=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "BLOCK", block)
        parts = [(rows, slice(0, len(sizes)), slice(0, len(problem)))]
        parts += [(part, problems, rows) for problems, rows, part in rows.blocks()]
    for part, problems, rows in parts:
        assert part.max(values[rows]).tolist() == most[problems].tolist()
        assert (-part.min(-values[rows])).tolist() == most[problems].tolist()
        assert part.spread(most[problems]).tolist() == [values[problem == p].max() for p in problem[rows]]
    assert sum(part.num_rows for part, *_ in parts[1:]) == len(problem)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.booleans())
def test_ids_are_gathered_in_any_order(values, wide):
    whole = np.array(values) * (2**60 if wide else 1)
    found = ProblemIds.from_values(whole, len(whole), "")
    order, rows = found.gathered()
    gathered = whole if order is None else whole[order]
    assert found.ids is not None and sorted(found.ids.tolist()) == sorted(set(whole.tolist()))
    assert rows.spread(found.ids).tolist() == gathered.tolist()
    if order is not None:  # rows of one problem keep their order
        same = gathered[1:] == gathered[:-1]
        assert (np.diff(order)[same] > 0).all() and sorted(order.tolist()) == list(range(len(whole)))


def test_infeasible_in_every_layout():
    utility, problem, cost = np.zeros(6), np.array([5, 5, 9, 9, 7, 7]), np.array([1, 1, 1, 1, 0, 1.0])
    messages = set()
    for order in ([0, 1, 2, 3, 4, 5], [5, 0, 2, 1, 3, 4]):
        with pytest.raises(InfeasibleBudget) as caught:
            allocate(utility[order], problem[order], cost[order], 0.5)
        messages.add(str(caught.value))
    assert len(messages) == 1 and "raise it to at least 0.666" in messages.pop()


def test_budgets_that_leave_a_problem_no_response_are_named():
    """Very many problems, some without a response outside the shares: it once summed -inf for ever."""
    rng = np.random.default_rng(0)
    problem, group = np.arange(1200).repeat(4), rng.integers(0, 4, 4800)
    cost = np.array([group == 1, group == 2, group == 3], float)
    with pytest.raises(InfeasibleBudget, match="together with budgets 0 to 1"):
        allocate(rng.normal(size=4800), problem, cost, [0.04, 0.04, 0.04])
    assert exact_sum(np.full(2000, -np.inf)) == -np.inf


def test_exact_sum_of_many_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=5000) * 10.0 ** rng.integers(-12, 12, 5000)
    whole = exact_sum(values)
    monkeypatch.setattr(segments, "BLOCK", 64)
    assert exact_sum(values) == whole == exact_sum(values[::-1].copy())
