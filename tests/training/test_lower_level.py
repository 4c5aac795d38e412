"""The lower level: budgets kept, best responses chosen, ties without a leaning, the noise taken out of the gains."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from ibpo.training.budgets import BudgetTerm
from ibpo.training.lower_level import (
    DEFAULT_MIN_GAIN,
    PENALTIES,
    Batch,
    LowerLevel,
    best_of_each_group,
    group_means,
    least_significant_gain,
    length_ratio,
    next_budget_offset,
    ridge,
    shrink,
    weigh_prefix_and_completion,
)


def at_most(*amounts):
    """At most these shares for the response groups after the standard one."""
    return [
        BudgetTerm(key=f"group {g}", group=g, amount=Fraction(str(amount))) for g, amount in enumerate(amounts, start=1)
    ]


def make_batch(rng, num_prompts=64, num_siblings=4, gain=None, dim=4):
    """Response groups alternate half and half; group 1 is right more often by `gain` (a function of the features)."""
    features = rng.normal(size=(num_prompts, dim))
    prompt = np.repeat(np.arange(num_prompts), num_siblings)
    group = np.tile(np.arange(num_siblings) * 2 // num_siblings, num_prompts)
    gains = (gain or (lambda x: 0.5 * (x[:, 0] > 0)))(features)
    probability = 0.3 + gains[prompt] * group
    return Batch(
        prompt=prompt,
        response_group=group,
        reward=(rng.random(len(prompt)) < probability).astype(float),
        tokens=np.where(group == 1, 20.0, 3.0),
        features=features,
    ), gains


@pytest.mark.parametrize("utility", ["margin", "group_mean", "shrunken", "regression"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_the_budget_holds_over_the_window_and_one_response_is_chosen_per_prompt(utility, share):
    rng = np.random.default_rng(0)
    level = LowerLevel(num_groups=2, budgets=at_most(share), utility=utility, window=8)
    assigned = []
    for step in range(8):
        batch, _ = make_batch(rng)
        selection = level.solve(batch, step)
        assigned.append(selection.assigned_group)
        assert np.all(np.bincount(batch.prompt[selection.chosen], minlength=64) == 1)
        assert np.all(batch.response_group[selection.chosen] == selection.assigned_group)
    if utility == "margin":
        assert all(np.mean(a == 1) <= share for a in assigned)
    else:
        assert np.mean(assigned[-1] == 1) <= share + 0.1
        assert abs(np.mean(np.concatenate(assigned) == 1) - min(share, 0.5)) < 0.1


def test_raft_draws_among_all_equals_whatever_their_groups():
    """They all went to the standard group: it had to be outdone by twice the noise that breaks ties."""
    level = LowerLevel(num_groups=2, budgets=[], utility="reward", min_gain=0.0, window=1)
    batch, _ = make_batch(np.random.default_rng(0), num_prompts=2000)
    assigned = level.solve(replace(batch, reward=np.ones(len(batch.reward))), 0).assigned_group
    assert np.mean(assigned == 1) == pytest.approx(0.5, abs=0.04)
    # Three right responses of one group and one of the other are four equals.
    reward = np.where(batch.response_group == 0, 1.0, np.arange(len(batch.reward)) % 4 == 3)
    assert np.mean(level.solve(replace(batch, reward=reward), 1).assigned_group == 1) == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize("utility", ["margin", "reward"])
def test_the_response_that_was_allocated_is_the_one_that_is_imitated(utility):
    """Under a budget of tokens: another one of its group may be five times as long."""
    tokens = BudgetTerm(key="tokens", group=None, amount=Fraction(20))
    level = LowerLevel(num_groups=2, budgets=[tokens], utility=utility, window=1)
    batch, _ = make_batch(np.random.default_rng(0), num_prompts=400)
    long = batch.response_group * np.tile([0, 1], len(batch.tokens) // 2)
    batch = replace(batch, reward=batch.response_group.astype(float), tokens=np.where(long == 1, 100.0, 20.0))
    selection = level.solve(batch, 0)
    imitated = np.bincount(batch.prompt[selection.chosen], batch.tokens[selection.chosen], minlength=400)
    assert imitated.mean() <= 20.0 and selection.spent[0] == pytest.approx(imitated.mean())
    assert np.all(selection.best[selection.chosen])
    cell = (batch.prompt * 2 + batch.response_group)[selection.best]
    assert len(np.unique(cell)) == len(cell)


def test_the_offset_does_not_undercut_a_lower_bound_on_the_same_group():
    budgets = [*at_most(0.5), BudgetTerm(key="extended>=", group=1, amount=Fraction(48, 100), at_least=True)]
    level = LowerLevel(num_groups=2, budgets=budgets, utility="group_mean", window=1)
    batch, _ = make_batch(np.random.default_rng(0), num_prompts=500)
    level.budget_offset = -0.2
    selection = level.solve(batch, 0)
    assert not selection.missed and selection.allowed[0] == pytest.approx(0.48)
    assert 0.478 <= np.mean(selection.assigned_group == 1) <= 0.482


def test_regression_gives_the_budget_to_the_prompts_that_gain_where_samples_alone_blur_it():
    shares = {}
    for utility in ("group_mean", "regression"):
        rng = np.random.default_rng(1)
        level = LowerLevel(num_groups=2, budgets=at_most(0.3), utility=utility, window=32)
        hits = []
        for step in range(32):
            batch, gains = make_batch(rng, gain=lambda x: 0.3 * (x[:, 0] > 0))
            selection = level.solve(batch, step)
            hits.append((gains[selection.assigned_group == 1] > 0).mean())
        shares[utility] = np.mean(hits[16:])
    assert shares["regression"] > 0.95 > 0.85 > shares["group_mean"]


def test_the_best_response_of_the_assigned_group_is_chosen_and_ties_have_no_leaning():
    chosen = np.zeros(4)
    for seed in range(400):
        batch = Batch(
            prompt=np.zeros(4, int),
            response_group=np.array([0, 0, 0, 0]),
            reward=np.array([1.0, 0.0, 1.0, 1.0]),
            tokens=np.array([3.0, 4.0, 9.0, 5.0]),
            features=np.zeros((1, 0)),
        )
        selection = LowerLevel(num_groups=2, budgets=at_most(0.5), utility="group_mean", seed=seed).solve(batch, 0)
        chosen += selection.chosen
    assert chosen[1] == 0
    assert chosen.sum() == 400
    assert np.all(np.abs(chosen[[0, 2, 3]] - 400 / 3) < 50)


def test_the_best_of_each_group_is_one_per_group_and_prompt_and_the_chosen_one_is_among_them():
    rng = np.random.default_rng(3)
    batch, _ = make_batch(rng, num_siblings=6)
    batch.response_group[rng.random(len(batch.prompt)) < 0.2] = -1
    best = best_of_each_group(batch, rng)
    for prompt in range(64):
        for group in range(2):
            here = (batch.prompt == prompt) & (batch.response_group == group)
            assert best[here].sum() == here.any()
            assert not here.any() or batch.reward[best & here] == batch.reward[here].max()
    assert not best[batch.response_group == -1].any()
    selection = LowerLevel(num_groups=2, budgets=at_most(0.5), utility="group_mean").solve(batch, 0)
    assert np.all(selection.best[selection.chosen])


def test_responses_of_no_group_are_never_chosen():
    batch = Batch(
        prompt=np.array([0, 0]),
        response_group=np.array([-1, 0]),
        reward=np.array([1.0, 0.0]),
        tokens=np.array([1.0, 1.0]),
        features=np.zeros((1, 0)),
    )
    for utility in ("reward", "margin", "group_mean"):
        selection = LowerLevel(num_groups=2, budgets=at_most(1.0), utility=utility).solve(batch, 0)
        assert selection.chosen.tolist() == [False, True]


def test_a_gain_below_the_least_one_buys_nothing_even_with_a_slack_budget():
    rng = np.random.default_rng(0)
    level = LowerLevel(num_groups=2, budgets=at_most(1.0), utility="regression", min_gain=0.1, window=16)
    for step in range(16):
        batch, gains = make_batch(rng, gain=lambda x: 0.1 + 0.2 * x[:, 0].clip(-2, 2))
        selection = level.solve(batch, step)
    assert (gains[selection.assigned_group == 1] > 0.1).mean() > 0.9
    assert selection.price[0] == 0


def test_balanced_completions_of_all_groups_weigh_alike():
    rng = np.random.default_rng(0)
    batch, _ = make_batch(rng, num_prompts=8)
    batch = replace(batch, reward=np.ones(32), response_group=np.where(np.arange(32) == 5, -1, batch.response_group))
    assert length_ratio(batch).tolist() == [1.0 if group < 1 else 0.15 for group in batch.response_group]  # 3 / 20
    options = {"prefix_loss_weight": 1.0, "completion_loss_weight": 2.0, "imitate_denied": True}
    level = LowerLevel(num_groups=2, budgets=at_most(0.5), utility="group_mean")
    selection = level.solve(batch, 0)
    plain, balanced = (
        weigh_prefix_and_completion(
            selection, batch, imitate_completions="every_group", balance_groups=balance, **options
        )
        for balance in (False, True)
    )
    assert (plain[:, 0] == balanced[:, 0]).all()
    of_group = [[rows[batch.response_group == g, 1] @ batch.tokens[batch.response_group == g] for g in (0, 1)]
                for rows in (plain, balanced)]  # fmt: skip
    assert of_group == [[2 * 8 * 3, 2 * 8 * 20], [2 * 8 * 3, 2 * 8 * 3]]
    alone = replace(batch, response_group=np.where(batch.response_group == 0, -1, batch.response_group))
    assert (length_ratio(alone) == 1).all() and len(length_ratio(replace(batch, response_group=np.full(32, -1)))) == 32


def test_where_nothing_can_be_estimated_the_least_gain_is_a_number():
    rng = np.random.default_rng(0)
    batch, _ = make_batch(rng)
    for utility in ("group_mean", "shrunken", "margin"):
        level = LowerLevel(num_groups=2, budgets=at_most(0.5), utility=utility, min_gain=None)
        assert level.solve(batch, 0).min_gain.tolist() == [0.0, DEFAULT_MIN_GAIN]
    # No features; no prompt with both groups.
    bare = replace(batch, features=np.zeros((64, 0)))
    apart = replace(batch, response_group=(batch.prompt % 2).astype(int))
    for given in (bare, apart):
        level = LowerLevel(num_groups=2, budgets=at_most(0.5), min_gain=None)
        assert level.solve(given, 0).min_gain.tolist() == [0.0, DEFAULT_MIN_GAIN]
    level = LowerLevel(num_groups=2, budgets=at_most(0.5), min_gain=None)
    assert level.solve(batch, 0).min_gain[1] != DEFAULT_MIN_GAIN
    assert level.solve(batch, 0).min_gain[0] == 0.0


@pytest.mark.parametrize("num_groups", [2, 3])
@pytest.mark.parametrize("noise", [0.2, 0.7])
def test_by_default_a_slack_budget_goes_where_gains_are_significant(num_groups, noise):
    """Two thirds of the prompts gain nothing in any group; few of those are taken for gaining something."""
    rng = np.random.default_rng(0)
    num, width = 5000, 40
    features = rng.normal(size=(num, width)).astype(np.float32)
    gains = features[:, 0] > 0.43
    group = np.tile(np.arange(num_groups), num)
    prompt = np.repeat(np.arange(num), num_groups)
    worth = 0.3 + 0.4 * (gains[prompt] & (group > 0))
    features[:, 1] = gains  # a probe of the model sees it
    batch = Batch(
        prompt=prompt,
        response_group=group,
        reward=worth + noise * rng.normal(size=len(worth)),
        tokens=1.0 + group,
        features=features,
    )
    level = LowerLevel(num_groups=num_groups, budgets=at_most(1.0), min_gain=None, window=1)
    found = level.solve(batch, 0)
    assert (found.assigned_group[~gains] > 0).mean() < 0.1 * (num_groups - 1)
    assert (found.assigned_group[gains] > 0).mean() > 0.95
    assert found.min_gain[0] == 0 and found.price[0] == 0
    greedy = LowerLevel(num_groups=num_groups, budgets=at_most(1.0), min_gain=0.0, window=1).solve(batch, 0)
    assert (greedy.assigned_group[~gains] > 0).mean() > 0.3


def test_the_least_gain_is_where_the_rest_gains_nothing_significant():
    """By brute force over all splits; and with nothing to gain, nothing counts."""
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 1.0):
        true = 0.3 * (rng.random(400) < share)
        predicted, seen = true + 0.1 * rng.normal(size=400), true + 0.5 * rng.normal(size=400)
        least = least_significant_gain(predicted, seen)
        most = max(seen[predicted >= t].sum() for t in [np.inf, *predicted])
        peak = next(t for t in [np.inf, *np.sort(predicted)[::-1]] if seen[predicted >= t].sum() == most)
        kept = []
        for t in [np.inf, *predicted]:
            rest = seen[(predicted < t) & (predicted >= peak)]
            if t >= peak and rest.sum() <= 1.645 * np.sqrt((rest**2).sum()):
                kept.append(t)
        if max(kept) == np.inf:
            assert least > predicted.max()
        else:  # halfway to the next
            assert least == pytest.approx((max(kept) + predicted[predicted < max(kept)].max()) / 2)
    assert least_significant_gain(predicted, -np.ones(400)) > predicted.max()


def test_prompts_that_are_predicted_alike_all_count_or_none():
    assert least_significant_gain(np.ones(64), np.ones(64)) == -np.inf
    assert least_significant_gain(np.ones(64), -np.ones(64)) > 1
    # What is predicted of a prompt without it is the lower, the more it gained: three in four gain, and all of them
    # have to count, by the estimate that they share (.77) as by what is predicted of them.
    gained = np.where(np.arange(26) < 24, 0.75, 1.0)
    predicted = (gained.sum() - gained) / 25
    assert least_significant_gain(predicted, gained) < gained.mean()


@pytest.mark.parametrize("kinds", [1, 2])
def test_where_every_prompt_gains_the_same_every_prompt_gets_it(kinds):
    """The standard group is never right, the other one always; features tell nothing, or nothing that matters."""
    num_prompts, siblings = 64, 4
    prompt = np.repeat(np.arange(num_prompts), 2 * siblings)
    group = np.tile(np.repeat([0, 1], siblings), num_prompts)
    features = np.random.default_rng(0).normal(size=(num_prompts, 5)) if kinds == 1 else np.eye(2)[prompt[::8] % 2]
    level = LowerLevel(num_groups=2, budgets=at_most(1.0), min_gain=None)
    batch = Batch(
        prompt=prompt, response_group=group, reward=group.astype(float), tokens=np.full(len(group), 10.0),
        features=features,
    )  # fmt: skip
    for step in range(4):
        assert (level.solve(batch, step).assigned_group == 1).all()


def test_a_gain_of_zero_never_spends_budget():
    batch = Batch(
        prompt=np.repeat(np.arange(50), 2),
        response_group=np.tile([0, 1], 50),
        reward=np.ones(100),
        tokens=np.ones(100),
        features=np.zeros((50, 0)),
    )
    for utility in ("margin", "group_mean"):
        level = LowerLevel(num_groups=2, budgets=at_most(0.5), utility=utility)
        assert not (level.solve(batch, 0).assigned_group == 1).any()


def test_a_token_budget_is_kept_over_the_window():
    rng = np.random.default_rng(0)
    tokens = BudgetTerm(key="tokens", group=None, amount=Fraction(8))
    level = LowerLevel(num_groups=2, budgets=[tokens], utility="group_mean", window=1)
    batch, _ = make_batch(rng)
    selection = level.solve(batch, 0)
    assert batch.tokens[selection.chosen].mean() <= 8.0 + 1e-9


def test_reward_utility_without_a_budget_is_raft():
    rng = np.random.default_rng(0)
    batch, _ = make_batch(rng)
    selection = LowerLevel(num_groups=2, budgets=[], utility="reward").solve(batch, 0)
    best = np.array([batch.reward[batch.prompt == p].max() for p in range(64)])
    assert np.array_equal(batch.reward[selection.chosen], best)


def test_three_groups_and_two_budgets():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(60), 6)
    batch = Batch(
        prompt=prompt,
        response_group=np.tile([0, 0, 1, 1, 2, 2], 60),
        reward=rng.random(360).round(),
        tokens=np.ones(360),
        features=np.zeros((60, 0)),
    )
    selection = LowerLevel(num_groups=3, budgets=at_most(0.3, 0.1), utility="group_mean", window=1).solve(batch, 0)
    assert np.mean(selection.assigned_group == 1) <= 0.3
    assert np.mean(selection.assigned_group == 2) <= 0.1


def test_group_values_and_ridge_against_closed_forms():
    batch = Batch(
        prompt=np.array([0, 0, 1]),
        response_group=np.array([0, 1, 0]),
        reward=np.array([1.0, 0.0, 0.5]),
        tokens=np.array([2.0, 4.0, 6.0]),
        features=np.zeros((2, 1)),
    )
    cells = group_means(batch, 2)
    value, tokens = cells.value, cells.tokens
    assert value[0].tolist() == [1.0, 0.0]
    assert value[1, 0] == 0.5
    assert np.isnan(value[1, 1])
    assert tokens[1, 0] == 6.0
    x = np.random.default_rng(0).normal(size=(50, 3))
    y = x @ [1.0, -2.0, 0.5] + 3.0
    y[::7] = np.nan
    assert np.allclose(ridge(x, y), x @ [1.0, -2.0, 0.5] + 3.0, atol=0.02)
    noise = np.random.default_rng(1).normal(size=(400, 150))
    assert ridge(noise, np.random.default_rng(2).normal(size=400)).std() < 0.4  # least squares: about 0.6


@pytest.mark.parametrize("bias", [-0.04, 0.0, 0.04])
def test_the_offset_brings_a_biased_policy_to_the_budget_whatever_the_luck_of_the_batches(bias):
    rng = np.random.default_rng(0)
    budget_offset, shares = 0.0, []
    for _ in range(600):
        luck = 0.07 * rng.normal()
        spent = 0.5 + budget_offset + luck
        shares.append(0.5 + budget_offset + bias)
        budget_offset = next_budget_offset(budget_offset, 0.5, spent, spent + bias, gain=0.03)
    assert abs(shares[-1] - 0.48) < 0.002  # two points below the budget: it is a bound, not a target
    for _ in range(600):
        budget_offset = next_budget_offset(budget_offset, None, 0.3, 0.3, gain=0.03)
    assert abs(budget_offset) < 1e-4
    # A policy that never, or always, opens the group moves it by a tenth at most.
    assert next_budget_offset(0.09, 0.5, spent=0.59, measured=0.0, gain=0.5) == 0.1
    assert next_budget_offset(-0.09, 0.5, spent=0.41, measured=1.0, gain=0.5) == -0.1


def test_equal_gains_are_drawn_without_a_leaning():
    """Of 40 prompts that all gain 1, half get the budget: any of them alike, whatever their order and length."""
    num = 40
    tokens = np.ravel(np.column_stack([np.ones(num), np.arange(num) + 2.0]))
    batch = Batch(
        prompt=np.repeat(np.arange(num), 2),
        response_group=np.tile([0, 1], num),
        reward=np.tile([0.0, 1.0], num),
        tokens=tokens,
        features=np.zeros((num, 0)),
    )
    times = np.zeros(num)
    for seed in range(200):
        level = LowerLevel(num_groups=2, budgets=at_most(0.5), utility="group_mean", seed=seed)
        assigned = level.solve(batch, 0).assigned_group
        assert assigned.sum() == 20
        times += assigned
    assert times.min() > 60 and times.max() < 140  # 100, six standard deviations around it
    assert abs(np.corrcoef(times, np.arange(num))[0, 1]) < 0.5


def generalised_cross_validation(x, y, exponent=2, intercept=1):
    """Fit with the penalty that minimises n ||y - S y||^2 / (n - tr S - intercept)^exponent, by matrices."""
    n = len(x)
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    centred = y - y.mean()
    best = None
    for penalty in PENALTIES:
        smoother = x @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T)
        score = n * np.sum((centred - smoother @ centred) ** 2) / (n - np.trace(smoother) - intercept) ** exponent
        if best is None or score < best[0]:
            best = score, y.mean() + smoother @ centred
    assert best is not None
    return best[1]


def test_the_penalty_is_that_of_generalised_cross_validation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 20))
    y = x[:, 0] * 0.5 + rng.normal(size=60)
    right = generalised_cross_validation(x, y)
    assert np.allclose(ridge(x, y), right, atol=1e-4)
    for exponent in (1, 3):  # else the choice of the data would hide a wrong one
        assert not np.allclose(generalised_cross_validation(x, y, exponent), right, atol=1e-2)
    # With few prompts the intercept's own degree of freedom decides.
    rng = np.random.default_rng(15)
    x = rng.normal(size=(12, 6))
    y = x[:, 0] * 0.5 + rng.normal(size=12)
    right = generalised_cross_validation(x, y)
    assert np.allclose(ridge(x, y), right, atol=1e-4)
    assert not np.allclose(generalised_cross_validation(x, y, intercept=0), right, atol=1e-1)


def test_means_of_few_samples_move_towards_their_regression_as_far_as_their_noise_asks_for():
    value, fitted = np.array([1.5, -0.5, np.nan, 1.0]), np.full(4, 0.5)
    count, scatter = np.array([2, 8, 0, 2]), np.array([0.5, 3.5, 0.0, 0.5])
    # s2 = 4.5 / (1 + 7 + 1); t2 = (1 + 1 + .25) / 3 - s2 (1/2 + 1/8 + 1/2) / 3 = .5625
    t2, s2 = 0.5625, 0.5
    weight = np.array([t2 / (t2 + s2 / 2), t2 / (t2 + s2 / 8), 0.0, t2 / (t2 + s2 / 2)])
    assert np.allclose(shrink(value, fitted, count, scatter), 0.5 + weight * [1.0, -1.0, 0.0, 0.5])
    # Residuals that noise explains, and noise that nothing tells, leave the regression.
    assert np.array_equal(shrink(value, fitted, count, 100 * scatter), fitted)
    assert np.array_equal(shrink(value, fitted, np.minimum(count, 1), 0 * scatter), fitted)


@pytest.mark.parametrize("spread", [0.2, 0.4])
def test_the_shrunken_means_are_nearly_as_near_the_truth_as_can_be(spread):
    """Of normal truths about a known regression, seen with normal noise, the posterior means have the least error."""
    rng = np.random.default_rng(0)
    num, sigma = 4000, 0.5
    fitted, count = rng.random(num), rng.integers(1, 9, num)
    truth = fitted + spread * rng.normal(size=num)
    samples = [t + sigma * rng.normal(size=n) for t, n in zip(truth, count, strict=True)]
    value, scatter = np.array([x.mean() for x in samples]), np.array([len(x) * x.var() for x in samples])
    error = np.mean((shrink(value, fitted, count, scatter) - truth) ** 2)
    least = np.mean(1 / (1 / spread**2 + count / sigma**2))
    assert error == pytest.approx(least, rel=0.1)
    assert error < 0.9 * min(np.mean((value - truth) ** 2), np.mean((fitted - truth) ** 2))


def test_the_scatter_of_a_cell_is_the_sum_of_its_squared_deviations():
    batch = Batch(
        prompt=np.array([0, 0, 0, 1, 1]),
        response_group=np.array([0, 0, 1, 0, -1]),
        reward=np.array([1.0, 0.0, 1.0, 0.5, 7.0]),
        tokens=np.ones(5),
        features=np.zeros((2, 1)),
    )
    cells = group_means(batch, 2)
    assert cells.count.tolist() == [[2, 1], [1, 0]]
    assert np.allclose(cells.scatter, [[0.5, 0.0], [0.0, 0.0]])


def test_shrunken_gains_hear_the_samples_where_features_say_nothing():
    hits = {}
    for utility in ("regression", "shrunken"):
        rng = np.random.default_rng(2)
        level = LowerLevel(num_groups=2, budgets=at_most(0.4), utility=utility, window=4)
        found = []
        for step in range(4):
            batch, gains = make_batch(rng, num_siblings=32, gain=lambda x: 0.6 * (np.cos(50 * x[:, 0]) > 0))
            found.append((gains[level.solve(batch, step).assigned_group == 1] > 0).mean())
        hits[utility] = np.mean(found)
    assert hits["shrunken"] > 0.95 and hits["regression"] < 0.75


def test_only_one_cap_on_a_share_or_on_the_tokens_of_all_prompts_is_steered():
    share, other = at_most(0.3, 0.2)
    tokens = BudgetTerm(key="tokens", group=None, amount=Fraction(8))
    floor = BudgetTerm(key="floor", group=1, amount=Fraction(1, 10), at_least=True)
    part = BudgetTerm(key="part", group=1, amount=Fraction(1, 2), column="level", value="3")
    for budgets, steered in (
        ([share], 0),
        ([tokens, floor, part, share], 3),
        ([share, other], None),
        ([tokens], 0),
        ([floor, tokens], 1),
        ([tokens, share, other], None),
        ([replace(tokens, column="level", value="3")], None),
        ([floor], None),
        ([part], None),
        ([], None),
    ):
        assert LowerLevel(num_groups=3, budgets=budgets, utility="group_mean").steered == steered


@pytest.mark.parametrize("utility", ["group_mean", "regression"])
def test_a_token_budget_is_offset_by_what_the_policys_choice_costs(utility):
    """One group costs 10 tokens, the other 50; 30 are allowed, so half of the prompts get the other."""
    num_prompts = 200
    budget = [BudgetTerm(key="tokens", group=None, amount=Fraction(30))]
    level = LowerLevel(num_groups=2, budgets=budget, utility=utility, min_gain=0.0, window=1)
    batch = Batch(
        prompt=np.repeat(np.arange(num_prompts), 2),
        response_group=np.tile([0, 1], num_prompts),
        reward=np.tile([0.0, 1.0], num_prompts),
        tokens=np.tile([10.0, 50.0], num_prompts),
        features=np.random.default_rng(0).normal(size=(num_prompts, 2))
        if utility == "regression"
        else np.zeros((200, 0)),
    )
    selection = level.solve(batch, 0)
    assert selection.price[0] > 0 and selection.spent[0] == pytest.approx(30, abs=0.2)
    assert np.allclose(selection.tokens, [10.0, 50.0], atol=0.5)
    # The policy opens the other on 60 %: 34 tokens, and 2 % of headroom: a tenth of .98 - 34/30, as moved as it is.
    level.steer(selection, np.tile([0.4, 0.6], (num_prompts, 1)), gain=0.1)
    luck = selection.spent[0] / 30 - 1
    assert level.budget_offset == pytest.approx(0.1 * (0.98 - (34 / 30 - luck)), abs=2e-3)
    level.budget_offset = -0.1
    assert level.solve(batch, 1).spent[0] == pytest.approx(27, abs=0.2)
    assert level.solve(batch, 1).allowed[0] == pytest.approx(27)


def test_a_token_budget_that_only_its_offset_breaks_is_kept_as_written():
    """40 % at least of the group of 50 tokens: 26 is the least, 27 allowed, and the offset would make it 24.3."""
    budget = [
        BudgetTerm(key="tokens", group=None, amount=Fraction(27)),
        BudgetTerm(key="extended>=", group=1, amount=Fraction(2, 5), at_least=True),
    ]
    level = LowerLevel(num_groups=2, budgets=budget, utility="group_mean", min_gain=0.0, window=1)
    batch = Batch(
        prompt=np.repeat(np.arange(100), 2),
        response_group=np.tile([0, 1], 100),
        reward=np.tile([0.0, 1.0], 100),
        tokens=np.tile([10.0, 50.0], 100),
        features=np.zeros((100, 0)),
    )
    level.budget_offset = -0.1
    selection = level.solve(batch, 0)
    assert not selection.missed and selection.allowed[0] == 27 and 26 <= selection.spent[0] <= 27


def test_the_offset_follows_the_share_of_the_budgets_own_group():
    level = LowerLevel(num_groups=2, budgets=at_most(0.5), utility="group_mean", window=1)
    batch = Batch(
        prompt=np.repeat(np.arange(10), 2),
        response_group=np.tile([0, 1], 10),
        reward=np.tile([0.0, 1.0], 10),
        tokens=np.ones(20),
        features=np.zeros((10, 0)),
    )
    selection = level.solve(batch, 0)
    assert selection.price[0] > 0 and selection.spent[0] == 0.5
    level.steer(selection, np.tile([0.1, 0.9], (10, 1)), gain=0.1)
    # Nine in ten where half are allowed, two points of headroom: a tenth of .48 - .9.
    assert level.budget_offset == pytest.approx(-0.042)
