"""Budgets of every form in the lower level: kept exactly, against enumeration; what can't be kept is said."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ibpo.allocation import reward_margin
from ibpo.errors import IbpoError
from ibpo.training.budgets import read_budget
from ibpo.training.lower_level import Batch, LowerLevel

GROUPS = ["standard", "extended"]
VALUES = {"domain": {"law", "geometry"}, "level": {"1", "2", "3"}}


def read(budget, groups=GROUPS, values=VALUES.get):
    return read_budget(budget, groups, values)


def random_batch(rng, num_prompts, num_groups, num_siblings=2):
    num = num_prompts * num_groups * num_siblings
    group = np.tile(np.repeat(np.arange(num_groups), num_siblings), num_prompts)
    return Batch(
        prompt=np.repeat(np.arange(num_prompts), num_groups * num_siblings),
        response_group=group,
        reward=rng.random(num).round(2),
        tokens=rng.integers(1, 9, num) + 10.0 * group,
        features=np.zeros((num_prompts, 0)),
        slices={"domain": rng.permutation(np.resize(["law", "geometry"], num_prompts))},
    )


def enumerated(batch, num_groups, keeps):
    """The best total of group means over all assignments that keep the budgets, and whether there is one."""
    num_prompts = len(batch.features)
    cell = batch.prompt * num_groups + batch.response_group
    count = np.bincount(cell)
    value, tokens = (
        (np.bincount(cell, x) / count).reshape(num_prompts, num_groups) for x in (batch.reward, batch.tokens)
    )
    every = np.arange(num_prompts)
    totals = [
        value[every, list(chosen)].sum()
        for chosen in product(range(num_groups), repeat=num_prompts)
        if keeps(np.array(chosen), tokens[every, list(chosen)])
    ]
    return max(totals, default=None), value


@pytest.mark.parametrize("seed", range(6))
def test_shares_tokens_and_slices_together_equal_enumeration(seed):
    rng = np.random.default_rng(seed)
    batch = random_batch(rng, num_prompts=8, num_groups=2)
    law = batch.slices["domain"] == "law"
    budget = {"extended": 0.75, "tokens": 12.0, "extended@domain=law": 0.5, "extended@domain=geometry>=": 0.25}

    def keeps(group, tokens):
        inside = np.mean(group == 1) <= 0.75 and tokens.mean() <= 12 + 1e-9
        return inside and np.mean(group[law] == 1) <= 0.5 and np.mean(group[~law] == 1) >= 0.25

    best, value = enumerated(batch, 2, keeps)
    level = LowerLevel(num_groups=2, budgets=read(budget), utility="group_mean", window=1)
    selection = level.solve(batch, 0)
    assert best is not None and not selection.missed
    got = value[np.arange(8), selection.assigned_group].sum()
    assert got == pytest.approx(best, abs=1e-4)  # ties are broken by noise of 1e-6
    assert selection.spent.tolist() == pytest.approx(
        [
            np.mean(selection.assigned_group == 1),
            selection.spent[1],
            np.mean(selection.assigned_group[law] == 1),
            np.mean(selection.assigned_group[~law] == 1),
        ]
    )
    assert selection.spent[1] <= 12 + 1e-9 and len(selection.price) == 4


def test_a_share_within_each_value_of_a_column():
    rng = np.random.default_rng(0)
    terms = read({"extended@domain": 0.25})
    assert [(term.key, term.value) for term in terms] == [
        ("extended@domain=geometry", "geometry"),
        ("extended@domain=law", "law"),
    ]
    level = LowerLevel(num_groups=2, budgets=terms, utility="group_mean", window=4)
    assigned, domains = [], []
    for step in range(4):
        batch = random_batch(rng, 40, 2)
        assigned.append(level.solve(batch, step).assigned_group)
        domains.append(batch.slices["domain"])
    first = LowerLevel(num_groups=2, budgets=terms, utility="group_mean", window=1)
    selection = first.solve(batch, 0)
    for name in ("law", "geometry"):
        assert np.mean(selection.assigned_group[batch.slices["domain"] == name] == 1) <= 0.25
        over = np.concatenate(assigned)[np.concatenate(domains) == name]
        assert abs(np.mean(over == 1) - 0.25) < 0.06


def test_batch_price_keeps_the_budget_in_every_batch_and_running_price_over_the_window():
    shares = {}
    for price in ("batch", "running"):
        rng = np.random.default_rng(0)
        level = LowerLevel(num_groups=2, budgets=read({"extended": 0.3}), utility="group_mean", window=32, price=price)
        shares[price] = [np.mean(level.solve(random_batch(rng, 8, 2), s).assigned_group == 1) for s in range(64)]
    assert max(shares["batch"]) <= 2 / 8  # floor(.3 * 8): what a small batch wastes
    assert max(shares["running"]) > 0.3
    assert abs(np.mean(shares["running"][16:]) - 0.3) < 0.04


def test_a_budget_that_nothing_keeps_gives_way_as_little_as_it_must():
    rng = np.random.default_rng(0)
    batch = random_batch(rng, 12, 2)
    level = LowerLevel(num_groups=2, budgets=read({"tokens": 1.5, "extended": 0.5}), utility="group_mean", window=1)
    selection = level.solve(batch, 0)
    cheapest = [
        min(batch.tokens[(batch.prompt == p) & (batch.response_group == g)].mean() for g in (0, 1)) for p in range(12)
    ]
    assert selection.missed == {0: pytest.approx(np.mean(cheapest))}
    assert selection.spent[0] == pytest.approx(np.mean(cheapest))


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"extendd": 0.5}, "budget extendd=0.5: no response group and no cost is named 'extendd'"),
        ({"extended": 1.5}, "a share is at most 1"),
        ({"tokens": 0}, "every response costs tokens"),
        ({"extended@domain=geometri": 0.2}, "did you mean 'geometry'"),
        ({"tokens": "0.5x"}, "not known before anything is sampled; measure it"),
        ({"tokens": "25%range"}, "not known before anything is sampled; measure it"),
        ({"extended@": 0.2}, "a slice is NAME@COLUMN=VALUE"),
        ({"extended@stream": 0.2}, "values of a stream's column are not known"),
        ({"standard": 0.3, "extended": 0.5}, "sum to 0.8, less than 1"),
        ({"standard@level=1": 0.3, "extended@level=1": 0.5}, "sum to 0.8 where level is 1"),
        ({"extended": 0.2, "extended>=": 0.4}, "at least 0.4 and at most 0.2; lower the first"),
        ({"standard>=": 0.6, "extended>=": 0.6}, "sum to 1.2, more than 1"),
        ({"extended@domain": 0.2, "extended@domain=law": 0.1}, "extended@domain=law: is given twice"),
    ],
)
def test_bad_budgets_are_refused_with_the_mend(budget, said):
    with pytest.raises(IbpoError, match=said):
        read(budget)


@pytest.mark.parametrize("num_groups", [2, 3, 4])
def test_margin_is_the_packages_margin(num_groups):
    rng = np.random.default_rng(num_groups)
    batch = random_batch(rng, 20, num_groups, num_siblings=3)
    seen = rng.random(len(batch.prompt)) < 0.8
    batch.response_group[~seen] = -1
    level = LowerLevel(num_groups=num_groups, budgets=[], utility="margin")
    utility = level.solve(batch, 0).utility
    known = batch.response_group >= 0
    expected = reward_margin(batch.reward[known], batch.prompt[known], batch.response_group[known], unsampled="zero")
    assert np.allclose(utility[known], expected)


def test_margin_without_another_response_group_is_zero():
    batch = Batch(
        prompt=np.array([0, 0, 1, 1]),
        response_group=np.array([0, 1, 1, 1]),
        reward=np.array([0.25, 0.5, 1.0, 1.0]),
        tokens=np.ones(4),
        features=np.zeros((2, 0)),
    )

    level = LowerLevel(num_groups=2, budgets=read({"extended": 0.5}), utility="margin")
    assert level.solve(batch, 0).utility.tolist() == [-0.25, 0.25, 0.0, 0.0]


def test_running_price_of_single_responses_is_refused():
    with pytest.raises(ValueError, match="price=running needs utilities of response groups"):
        LowerLevel(num_groups=2, budgets=[], utility="margin", price="running")


@pytest.mark.parametrize("utility", ["margin", "group_mean"])
def test_a_response_that_violates_a_constraint_is_never_chosen(utility):
    rng = np.random.default_rng(0)
    whole = random_batch(rng, 40, 2)
    allowed = rng.random(len(whole.prompt)) < 0.5
    batch = Batch(
        prompt=whole.prompt,
        response_group=whole.response_group,
        reward=np.where(allowed, whole.reward, 0.0),
        tokens=whole.tokens,
        features=whole.features,
        allowed=allowed,
    )
    selection = LowerLevel(num_groups=2, budgets=read({"extended": 0.5}), utility=utility).solve(batch, 0)
    assert not (selection.chosen & ~allowed).any() and not (selection.best & ~allowed).any()
    for prompt in range(40):
        mine = batch.prompt == prompt
        assert selection.chosen[mine].sum() == allowed[mine].any()  # another group's, where one has none left


def test_a_window_goes_on_only_under_budgets_that_it_knows_the_slices_of():
    """Its prompts were all taken to be in a new slice, or those of another one; fewer slices were a crash."""

    def lower_level(budget):
        return LowerLevel(num_groups=2, budgets=read(budget), utility="group_mean", window=4)

    rng = np.random.default_rng(0)
    first, again = random_batch(rng, 12, 2), random_batch(rng, 12, 2)
    began = lower_level({"extended@domain": 0.25})  # geometry, law
    began.solve(first, 0)
    state = began.state()
    for budget in ({"extended": 0.5}, {"extended@domain=law": 0.25}, {"extended": 0.5, "extended@domain=law": 0.25}):
        resumed, expected = lower_level(budget), lower_level(budget)
        resumed.restore(state)
        expected.solve(first, 0)
        found, wanted = resumed.solve(again, 1), expected.solve(again, 1)
        assert np.array_equal(found.assigned_group, wanted.assigned_group), budget
        assert np.array_equal(found.spent, wanted.spent), budget
    plain = lower_level({"extended": 0.5})
    plain.solve(first, 0)
    for other in ({"extended@domain=law": 0.25}, {"extended@level=1": 0.25}):
        with pytest.raises(IbpoError, match=r"does not say which of its prompts are in (domain=law|level=1)"):
            lower_level(other).restore(plain.state())
    # A state of an older version does not name its slices: they are those of its budgets.
    older = lower_level({"extended@domain": 0.25})
    older.restore({name: value for name, value in state.items() if name != "slices"})
    assert np.array_equal(older.history[0][2], began.history[0][2])


def test_a_slice_by_a_column_without_values_says_so():
    with pytest.raises(IbpoError, match="no prompt has level = 'easy'; no prompt has any; name the column"):
        read_budget({"b@level=easy": 0.3}, ["a", "b"], lambda column: {""})
