"""The passes in C and in numpy: the same bits."""

import importlib.util
import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ibpo.allocation import InfeasibleBudget, allocate, kernels, lagrangian, segments, share_budgets
from ibpo.allocation.passes import (
    best_of_kinds,
    best_rows,
    best_sums,
    fill_shares,
    mark_rows,
    open_rows,
    order_statistic,
    shift_costs,
)
from ibpo.allocation.problem import _checked_sum, gather, validate
from ibpo.allocation.search import Base, search
from ibpo.allocation.segments import ProblemIds, Segments, _changes, _heads, exact_sum
from tests.allocation.test_layout import FORMS, bits, instance

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
assert spec is not None and spec.loader is not None
hatch_build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hatch_build)


@pytest.fixture(scope="module", autouse=True, params=[[], ["-U__SSE2__"]], ids=["here", "portable"])
def library(request, tmp_path_factory):
    """The kernels of this source, whatever is installed: skipped where there is no compiler."""
    root = tmp_path_factory.mktemp("kernels")
    (root / hatch_build.SOURCE).parent.mkdir(parents=True)
    shutil.copy(Path(kernels.__file__).with_name("kernels.c"), root / hatch_build.SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hatch_build, "FLAGS", [*hatch_build.FLAGS, *request.param])
        built = hatch_build.compile_kernels(root)
        if built is None:
            pytest.skip("no C compiler on this machine")
        patch.setattr(kernels, "LIBRARY", kernels.opened(built))
        assert kernels.LIBRARY is not None
        yield


def test_a_build_without_a_compiler_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (tmp_path / hatch_build.SOURCE).parent.mkdir(parents=True)
    (tmp_path / hatch_build.LIBRARY).write_text("of another commit")
    assert hatch_build.compile_kernels(tmp_path) is None and not (tmp_path / hatch_build.LIBRARY).exists()
    assert kernels.opened(tmp_path / hatch_build.LIBRARY) is None


def both(call, monkeypatch) -> Any:
    """What a call returns in C and in numpy."""
    in_c = call()
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "LIBRARY", None)
        return in_c, call()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("narrow", [False, True], ids=["outright", "by narrowing"])
def test_same_bits_with_and_without_kernels(form, narrow, monkeypatch):
    if narrow:
        monkeypatch.setattr(lagrangian, "SMALL", 15)
        monkeypatch.setattr(lagrangian, "SAMPLE", 8)
    for seed in range(6):
        utility, problem, cost, budget, choose = instance(form, seed, num_problems=120)
        order = np.random.default_rng(seed).permutation(len(utility)) if seed % 2 else np.arange(len(utility))

        def answer(u=utility[order], p=problem[order], c=cost[:, order], b=budget, choose: Any = choose, tie=order):
            try:
                return bits(allocate(u, p, c, b, choose=choose, response=tie))
            except InfeasibleBudget as error:
                return str(error)

        in_c, in_numpy = both(answer, monkeypatch)
        assert in_c == in_numpy


@pytest.mark.parametrize("width", [None, 1, 4, 8, 13, 16, 17, 3000])
def test_passes_are_the_same_to_the_last_bit(width, monkeypatch):
    rng = np.random.default_rng(0)
    for num_costs in (1, 2, 3):
        size = rng.integers(1, 30, 200) if width is None else np.full(200 if width < 100 else 3, width)
        start, num_rows = np.cumsum(size) - size, int(size.sum())
        segments = Segments.from_start(start, num_rows)
        utility = np.round(rng.normal(size=num_rows), 1)  # many ties
        cost = rng.integers(0, 4, (num_costs, num_rows)).astype(float)
        tie = rng.integers(0, 3, num_rows).astype(np.uint64)
        price, half = rng.random(num_costs), rng.random(num_costs) / 9
        for call in (
            lambda u=utility, c=cost, t=tie, s=segments, y=price: best_rows(u, c, t, s, y, 0.3),
            lambda u=utility, c=cost, s=segments, y=price: best_rows(u, c, None, s, y),
        ):
            for first, second in zip(*both(call, monkeypatch), strict=True):
                assert first.tobytes() == second.tobytes()
        (rows, sums), (same_rows, same_sums) = both(
            lambda u=utility, c=cost, s=segments, y=price, h=half: open_rows(u, c, s, y, h), monkeypatch
        )
        assert rows.tobytes() == same_rows.tobytes() and (len(rows) > 0 or width in (1, 3000))
        assert [math.fsum(x) for x in sums] == [math.fsum(x) for x in same_sums]
        for values in (utility, rng.normal(size=num_rows) * 10.0 ** rng.integers(-300, 300, num_rows)):
            in_c, in_numpy = both(lambda u=values, c=cost, s=segments, y=price: best_sums(u, c, s, y), monkeypatch)
            for first, second in zip((in_c[0], *in_c[1]), (in_numpy[0], *in_numpy[1]), strict=True):
                assert math.fsum(first) == math.fsum(second)


def test_exact_sums_and_sorted_rows(monkeypatch):
    rng = np.random.default_rng(0)
    for scale in (1, 12, 300):
        values = rng.normal(size=5000) * 10.0 ** rng.integers(-scale, scale, 5000)
        for some in (values, -np.abs(values), np.full(5000, np.inf), np.full(2000, 5e-324)):
            first, second = both(lambda some=some: exact_sum(some), monkeypatch)
            assert first == second
    for span in (40, 10**6):
        ids = rng.integers(-span, span, 3000)
        first, second = both(lambda ids=ids: ProblemIds.from_values(ids, len(ids), ""), monkeypatch)
        assert second.order is not None and first.ids is not None
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "LIBRARY", None)
            in_numpy = second.gathered()
        in_c = first.gathered()
        assert in_c[0] is not None and in_numpy[0] is not None and in_c[0].tolist() == in_numpy[0].tolist()
        assert first.ids.tolist() == second.ids.tolist() and first.num_problems == second.num_problems
        assert in_c[1].start.tolist() == in_numpy[1].start.tolist()


@pytest.mark.parametrize("shares", ["one", "groups", "slices", "two slices of one problem"])
@pytest.mark.parametrize("choose", ["exactly_one", "at_most_one"])
def test_rows_in_random_order_need_no_gathering(monkeypatch, shares, choose):
    """The same answer, to the row, as where they are gathered first, and as in numpy; some ids do not occur."""
    rng = np.random.default_rng(3)
    for num, step in ((40, 1), (3000, 1), (3000, 2)):
        ids = rng.permutation(np.repeat(rng.choice(num, num - num // 9, replace=False) * step - 7, 6))
        utility = np.round(rng.normal(size=len(ids)), 1)  # ties within a problem, and -0.0
        group = rng.integers(0, 3, len(ids))
        if "slices" in shares:
            group = np.where(rng.random(len(ids)) < 0.5, ids % 2 + 1, 0)
        if shares == "two slices of one problem":
            group[-1] = 3 - max(int(group[-1]), 1)
        cost = np.array([group > 0] if shares == "one" else [group == 1, group == 2])
        low = [0.2] * len(cost)
        for names in (ids, [f"p{i}" for i in ids]):

            def answer(ids=names, utility=utility, cost=cost, low=low):
                floor = None if len(cost) > 1 else low
                return allocate(utility, ids, cost, [0.3] * len(cost), at_least=floor, choose=choose)

            first, second = both(answer, monkeypatch)
            assert first.weight.tobytes() == second.weight.tobytes() and first.price.tolist() == second.price.tolist()
            with monkeypatch.context() as patch:
                patch.setattr(segments.ScatteredRows, "from_ids", classmethod(lambda *_: None))
                gathered = answer()
            assert first.weight.tobytes() == gathered.weight.tobytes() and first.upper_bound == gathered.upper_bound
        by_rank = allocate(utility, ids, cost, [0.3] * len(cost), choose=choose, response=rng.permutation(len(ids)))
        assert by_rank.objective == allocate(utility, ids, cost, [0.3] * len(cost), choose=choose).objective


@pytest.mark.parametrize("marks", [[0, 1], [0, 3], [1, 4], [0, 1, 4]], ids=str)
@pytest.mark.parametrize("width", [None, 1, 8, 16, 40])
def test_what_share_budgets_are_solved_by(width, marks):
    rng = np.random.default_rng(0)
    size = rng.integers(1, 30, 300) if width is None else np.full(300, width)
    segments = Segments.from_start(np.cumsum(size) - size, int(size.sum()))
    kinds = np.minimum(np.arange(256), 1)
    if marks[0] or len(marks) > 2:
        kinds = np.zeros(256, np.int64)
        kinds[marks] = np.arange(len(marks))
    for scale in (1.0, 1e301):
        utility = np.round(rng.normal(size=segments.num_rows), 1) * scale  # -0.0 among them
        mark = rng.choice(np.array(marks, np.uint8), segments.num_rows)
        table = share_budgets._table(utility, mark, segments, marks, in_slices=False, is_far=scale > share_budgets.FAR)
        best = best_of_kinds(utility, mark, segments, kinds)
        assert best is not None and best.tobytes() == table.tobytes()


def test_costs_are_checked_alike(monkeypatch):
    """What is whole, what is none at all, and sums that a float does not hold."""
    rng = np.random.default_rng(0)
    odd = 0.5, 2.0**52 - 0.5, 2.0**52 + 1, 2.0**53, 1e-320, 1e308, -0.0, -1e-9, -1.0, math.inf, -math.inf, math.nan
    for n, value in itertools.product((1, 2, 3, 4, 5, 7, 8, 1001), (0.0, *odd)):
        cost = rng.integers(0, 5000, n).astype(float)
        cost[rng.integers(n)] = value
        first, second = both(lambda cost=cost: _checked_sum(cost), monkeypatch)
        assert first == second or (math.isnan(first) and math.isnan(second))
        if value in (0.0, 2.0**52 + 1):
            assert second == sum(map(int, cost.tolist()))
    for total in both(lambda: _checked_sum(np.full(5, 1e308)), monkeypatch):  # infinite, of costs that are finite
        assert math.isnan(total)


def test_values_in_their_order(monkeypatch):
    rng = np.random.default_rng(0)
    for n, digits in itertools.product((1, 2, 23, 24, 25, 3000), (0, 1, 9)):
        values = np.round(rng.normal(size=n), digits) + 0.0
        values[rng.random(n) < 0.1] = math.inf
        values[rng.random(n) < 0.1] = -math.inf
        for place in {0, n // 3, n - 1}:
            ordered = np.sort(values)
            right = ordered[place], ordered[place - 1] if place else -math.inf
            assert both(lambda v=values, p=place: order_statistic(v, p), monkeypatch) == (right, right)


@pytest.mark.parametrize("break_at", [None, 0, 7, 8, -3, -1], ids=str)
@pytest.mark.parametrize("width", [1, 5, 8])
def test_segments_of_one_length(width, break_at, monkeypatch):
    """Ids that change between segments only, or within one, or not from one to the next."""
    ids = np.repeat(np.random.default_rng(0).permutation(10**6)[:16], width)
    if break_at is not None:
        ids[break_at] = ids[break_at - 1]  # of the last row, where it is the first
    segments = Segments(num_rows=len(ids), width=width, begin=None)
    first, second = both(lambda: _heads(ids, segments), monkeypatch)
    assert (first is None) == (second is None) and (first is None or first.tolist() == ids[::width].tolist())
    assert all(
        x.tolist() == (np.flatnonzero(np.diff(ids)) + 1).tolist() for x in both(lambda: _changes(ids), monkeypatch)
    )


def test_costs_are_shifted_and_rows_marked_alike(monkeypatch):
    rng = np.random.default_rng(0)
    for width in (0, 1, 3, 8, 9):
        size = np.full(400, width) if width else rng.integers(1, 30, 400)
        segments = Segments.from_start(np.cumsum(size) - size, int(size.sum()))
        cost = rng.integers(0, 2**40, segments.num_rows).astype(float)

        def shifted(cost=cost, segments=segments):
            out = np.empty_like(cost)
            return (*shift_costs(cost, segments, out), out)

        assert all(a.tobytes() == b.tobytes() for a, b in zip(*both(shifted, monkeypatch), strict=True))
        marks, ties = rng.integers(0, 3, segments.num_rows).astype(np.uint8), rng.random(segments.num_rows).round(1)
        for utility, whole in itertools.product((rng.random(segments.num_rows), ties), (True, False)):
            rows = segments.start + rng.integers(0, size)
            mark = marks[rows] if whole else (marks[rows] > 0).astype(np.uint8)
            tie = rng.integers(0, 3, segments.num_rows).astype(np.uint64) if rng.random() < 0.5 else None
            given = utility, marks, tie, segments, np.where(rng.random(400) < 0.1, np.nan, utility[rows]), mark
            first, second = both(lambda g=given, w=whole: mark_rows(*g, whole=w), monkeypatch)
            assert np.array_equal(first, second)
            assert np.array_equal(np.add.reduceat(first, segments.start, dtype=int), ~np.isnan(given[4]))


def test_boxes_settle_alike(monkeypatch):
    uses = np.eye(4)[1:]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        best = rng.normal(size=(4, 5000)).round(seed % 3 + 1)
        best[1:][rng.random((3, 5000)) < 0.2] = -np.inf
        floor = rng.uniform(-1, 1, 3).round(1)
        for half in (0.0, 0.1, 0.5):
            first, second = both(lambda b=best, f=floor, h=half: share_budgets._settle(b, uses, f, f + h), monkeypatch)
            assert all(one.tobytes() == other.tobytes() for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("spread", ["normal", "few", "wide", "tiny", "infinite"])
def test_order_statistics_are_those_of_a_sort(spread, monkeypatch):
    rng = np.random.default_rng(0)
    for n in (1, 16, 17, 300, 4096):
        values: Any = rng.normal(size=n)
        if spread == "few":
            values = np.round(values)
        if spread == "wide":
            values *= 10.0 ** rng.integers(-300, 300, n)
        if spread == "tiny":
            values = rng.integers(-9, 9, n) * 5e-324
        if spread == "infinite":
            values[rng.random(n) < 0.3], values[rng.random(n) < 0.3] = -np.inf, np.inf
        best, uses, anything = np.stack([np.zeros(n), values]), np.array([[0.0, 1.0]]), np.array([[-np.inf], [np.inf]])
        for place in {0, n // 3, n // 2, n - 2, n - 1} - {-1}:
            right, rank = float(np.sort(values)[place]), n - 1 - place
            ends = np.array([[-np.inf], [rank]] if right > 0 else [[rank + 1], [np.inf]])
            if np.isinf(right):  # there is no such price: the furthest gain that is a number
                finite = values[np.isfinite(values)]
                right = float(finite.max(initial=0.0) if right > 0 else finite.min(initial=0.0))
            given = best, uses, ends, np.zeros(1), anything, np.zeros(1)
            for price, _, _ in both(lambda g=given: fill_shares(*g), monkeypatch):
                assert price == right


def test_prices_fill_shares_alike(monkeypatch):
    """Disjoint and nested shares, with floors, ties, kinds that are missing, and a box to stay inside."""
    binding = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        num_shares, size = int(rng.integers(1, 5)), int(rng.choice([2, 30, 65, 700, 4096]))
        uses = np.eye(num_shares + 1)[1:]
        if seed % 3 == 0:  # every share holds those after it
            uses = np.maximum.accumulate(uses[::-1])[::-1] if seed % 2 else np.tril(uses.T[::-1]).T[:, ::-1]
        uses = uses[:, rng.permutation(num_shares + 1)]
        best = rng.normal(size=(num_shares + 1, size))
        best = np.round(best, 1) if seed % 2 else best
        best[1:][rng.random((num_shares, size)) < 0.2] = -np.inf
        lowest = 0 if seed % 7 else -size  # below 0: the settled ones use more than there is
        high = rng.uniform(lowest, size / num_shares, num_shares)
        low = np.where(rng.random(num_shares) < 0.3, np.abs(high) / 2, -np.inf)
        inside = np.full((2, num_shares), np.inf) * [[-1], [1]]
        if seed % 5 == 0:
            inside = np.stack([rng.uniform(-1, 0.2, num_shares), rng.uniform(0.2, 1, num_shares)])
        off, price = rng.uniform(0, 30, num_shares), rng.uniform(0, 0.3, num_shares)
        given = best, uses, np.stack([low, high]), off, inside, price
        first, second = both(lambda g=given: fill_shares(*g), monkeypatch)
        for one, other in zip(first, second, strict=True):
            assert one.tobytes() == other.tobytes()
        binding += bool(first[0].any())
    assert binding > 150


def test_prices_move_together_alike(monkeypatch):
    """Also where the bounds of two shares are below 0 together: nothing is read outside of the gains."""
    rng = np.random.default_rng(0)
    best = rng.random((3, 700))
    for total in (-700.5, -1.0, -0.5, 0.0, 0.5, 699.5, 1400.0):
        ends = np.stack([np.full(2, -np.inf), np.full(2, total / 2)])
        given = best, np.eye(3)[1:], ends, np.zeros(2), np.full((2, 2), np.inf) * [[-1], [1]], np.full(2, 0.5)
        first, second = both(lambda g=given: fill_shares(*g), monkeypatch)
        assert all(one.tobytes() == other.tobytes() for one, other in zip(first, second, strict=True))


def test_exchanges_along_shortest_paths(monkeypatch):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        num_nodes, size = int(rng.integers(2, 7)), int(rng.integers(5, 60))
        values = rng.normal(size=(num_nodes, size))
        values = np.round(values, 1) if seed % 2 else values  # ties
        values[:-1][rng.random((num_nodes - 1, size)) < 0.2] = -np.inf
        low, high = np.zeros(num_nodes), np.append(rng.integers(0, size, num_nodes - 1), np.inf)
        low[0] = min(1.0, high[0])
        start = values.argmax(0)

        def answer(values=values, low=low, high=high, start=start):
            node = start.copy()
            far = share_budgets._exchange(values, low, high, node)
            return node.tolist(), None if far is None else far.tolist()

        in_c, in_numpy = both(answer, monkeypatch)
        assert in_c[1] == in_numpy[1]
        assert in_c[1] is None or in_c[0] == in_numpy[0]


@pytest.mark.parametrize("compiled", [True, False])
def test_a_search_whose_candidates_all_fit(compiled, monkeypatch):
    """No candidate can exceed a budget, so no budget is looked at: the best of each problem, and it is certain."""
    if not compiled:
        monkeypatch.setattr(kernels, "LIBRARY", None)
    arguments = validate([3.0, 2.5, 1.0, 0.5], [0, 0, 1, 1], [5.0, 1.0, 4.0, 2.0], 100.0)
    instance = gather(arguments)
    base = Base.from_choice(instance, np.array([1, 2]))
    for limit in (None, 1000):
        found = search(instance, base, np.array([0, 3]), np.array([0.1]), None, limit=limit)
        assert found.chosen is not None
        assert found.chosen.tolist() == [0, 2]
        assert found.done == (limit is not None)
