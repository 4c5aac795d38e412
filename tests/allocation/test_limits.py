"""Budgets in an operator's terms."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ibpo.allocation import InfeasibleBudget, allocate, limit, share, slices, stack
from ibpo.errors import IbpoError

PROBLEM = np.arange(10).repeat(2)
GROUP = ["short", "long"] * 10
DOMAIN = np.where(PROBLEM < 4, "law", "code")
GAIN = np.stack([np.zeros(10), np.arange(1.0, 11)], 1).ravel()


def chosen(allocation):
    return np.flatnonzero(allocation.weight.reshape(10, 2)[:, 1]).tolist()


def test_share_within_a_slice_is_of_the_slice():
    rows = slices(share(GROUP, "long"), PROBLEM, DOMAIN, at_most="1/2")
    assert [row.at_most for row in rows] == [Fraction(2, 10), Fraction(3, 10)]
    allocation = allocate(GAIN, PROBLEM, **stack(rows))
    assert chosen(allocation) == [2, 3, 7, 8, 9] and allocation.rule == "selection"
    assert allocation.price.tolist() == [2, 7]


def test_nested_slice_and_whole():
    rows = [
        limit(share(GROUP, "long"), PROBLEM, at_most=0.4),
        limit(share(GROUP, "long"), PROBLEM, within=DOMAIN == "law", at_least=0.5),
    ]
    allocation = allocate(GAIN, PROBLEM, **stack(rows))
    assert chosen(allocation) == [2, 3, 8, 9] and allocation.rule == "transportation"
    assert allocation.price[1] == pytest.approx(-5)  # one less of the floor buys 8 - 3


def test_lower_bounds():
    unwanted = -np.abs(GAIN)
    rows = [limit(share(GROUP, "long"), PROBLEM, at_least=0.1)]
    allocation = allocate(unwanted, PROBLEM, **stack(rows))
    assert chosen(allocation) == [0] and allocation.price[0] == -1
    accepted = slices(np.ones(20), PROBLEM, DOMAIN, at_least=1, total=True)
    allocation = allocate(unwanted - 1, PROBLEM, **stack(accepted), choose="at_most_one")
    assert allocation.weight.sum() == 2 and allocation.objective == -2
    tokens = np.tile([10.0, 30.5], 10)
    allocation = allocate(unwanted, PROBLEM, tokens, None, at_least=20.25)
    assert chosen(allocation) == [0, 1, 2, 3, 4] and allocation.rule == "knapsack" and allocation.price[0] < 0


def test_floor_out_of_reach():
    with pytest.raises(InfeasibleBudget, match=r"at_least 0.*cannot be reached.*lower it to at most 30\.5") as caught:
        allocate(GAIN, PROBLEM, np.tile([10.0, 30.5], 10), None, at_least=31)
    assert caught.value.floor and caught.value.nearest == 30.5
    with pytest.raises(InfeasibleBudget, match="together with its budget"):
        allocate(GAIN, PROBLEM, share(GROUP, "long"), 0.29, at_least=0.21)


def test_bad_input_is_named():
    with pytest.raises(IbpoError, match="at_most, at_least, or both"):
        limit([1.0], [0])
    with pytest.raises(IbpoError, match="no response is inside"):
        limit([1.0], [0], at_most=1, within=[False])
    with pytest.raises(IbpoError, match="within: needs one truth value"):
        limit([1.0, 2.0], [0, 1], at_most=1, within=[True])
    with pytest.raises(IbpoError, match="cost: needs one number per response"):
        limit([1.0], [0, 1], at_most=1)
    with pytest.raises(IbpoError, match="needs a finite number"):
        limit([1.0], [0], at_most="many")
    with pytest.raises(IbpoError, match="cost: needs one number per response, at least one"):
        limit([], [], at_most=1)
    with pytest.raises(IbpoError, match="at least one"):
        stack([])
    with pytest.raises(IbpoError, match=r"at_least\[0\] is 2, above budget\[0\], 1"):
        allocate([1.0], [0], [1.0], 1, at_least=2)


def test_a_slice_is_cut_by_truth_values_and_not_by_names():
    """Names are all true, also the text "False", so that the bound would be on every problem."""
    wrong: Any = ((["law", "code"], r"within\[0\] is 'law'"), (["False", "True"], r"within\[0\] is 'False'"))
    for within, place in wrong:
        with pytest.raises(IbpoError, match=place):
            limit([1.0, 2.0], [0, 1], at_most=1, within=within)
    with pytest.raises(IbpoError, match=r"within\[1\] is nan"):
        limit([1.0, 2.0], [0, 1], at_most=1, within=[1, float("nan")])
    assert limit([1.0, 2.0], [0, 1], at_most=1, within=[1, 0]).cost.tolist() == [1, 0]
    once: Any = (x == 1 for x in (0, 1))
    assert limit([1.0, 2.0], [0, 1], at_most=1, within=once).cost.tolist() == [0, 2]
    with pytest.raises(IbpoError, match=r"domain\[1\] is nan"):
        slices([1.0, 2.0], [0, 1], ["law", float("nan")], at_most=1)
    with pytest.raises(IbpoError, match="domain: needs one per response, 2, got 1"):
        slices([1.0, 2.0], [0, 1], ["law"], at_most=1)


def test_limits_that_can_be_read_once_are_all_stacked():
    problem: Any = iter(PROBLEM.tolist())
    rows = slices(share(GROUP, "long"), problem, DOMAIN, at_most="1/2")
    once: Any = iter(rows)
    stacked = stack(once)
    assert stacked["budget"] == [Fraction(2, 10), Fraction(3, 10)]
    texts: Any = map(str, PROBLEM.tolist())
    assert chosen(allocate(GAIN, texts, **stacked)) == [2, 3, 7, 8, 9]
    with pytest.raises(IbpoError, match="of 1 and 20 responses"):
        stack([*rows, limit([1.0], [0], at_most=1)])


def test_columns_of_arrow_are_shares_too():
    """What they hold is equal to no Python object, so that nothing would count in the budget."""
    pyarrow: Any = pytest.importorskip("pyarrow")
    cost = share(pyarrow.chunked_array([GROUP[:7], GROUP[7:]]), "long")
    assert cost.tolist() == share(GROUP, "long").tolist() and cost.any()
    assert chosen(allocate(GAIN, pyarrow.array(PROBLEM), cost, 0.3)) == [7, 8, 9]
