"""Empirical Bayes over problems: nearer to the truth than the means, and exact where there is no noise."""

import numpy as np
import pytest

from ibpo.evaluation.estimates import shrink, within_cells, within_halves


def simulate(seed, num_problems, num_responses, groups=((0.5, 100.0), (0.7, 400.0))):
    """True success rates and lengths that go together, and what a few responses show of them."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(size=num_problems)
    chance = np.stack([1 / (1 + np.exp(-(np.log(p / (1 - p)) + 1.5 * ease))) for p, _ in groups], axis=1)
    length = np.stack([c * np.exp(-0.5 * ease) for _, c in groups], axis=1)
    reward = rng.random((num_problems, len(groups), num_responses)) < chance[..., None]
    cost = length[..., None] * rng.gamma(4, 0.25, (num_problems, len(groups), num_responses))
    return chance, length, reward.astype(float), cost


def estimate(reward, cost):
    sums = np.stack([reward.sum(2), cost.sum(2)], axis=-1)
    both = np.stack([reward, cost], axis=-1)
    count = np.full(reward.shape[:2], float(reward.shape[2]))
    within = within_cells(count, sums, np.einsum("pgni,pgnj->gij", both, both))
    return shrink(reward.mean(2), cost.mean(2), count, within), within, count


def test_within_cells_is_the_pooled_covariance():
    _, _, reward, cost = simulate(0, 40, 5)
    _, within, _ = estimate(reward, cost)
    for g in range(2):
        pooled = np.mean([np.cov(np.stack([reward[p, g], cost[p, g]])) for p in range(40)], axis=0)
        assert within[g] == pytest.approx(pooled)


@pytest.mark.parametrize("num_responses", [2, 4, 8])
def test_expectations_are_nearer_to_the_truth_than_means_and_keep_their_average(num_responses):
    errors = []
    for seed in range(20):
        chance, length, reward, cost = simulate(seed, 80, num_responses)
        (expected_reward, expected_cost), _, _ = estimate(reward, cost)
        # But for what lies outside [0, 1], where no reward is.
        assert expected_reward.mean(0) == pytest.approx(reward.mean((0, 2)), abs=0.02)
        assert expected_reward.min() >= 0 and expected_reward.max() <= 1
        assert expected_cost.mean(0) == pytest.approx(cost.mean((0, 2)), rel=1e-5)
        gain, true_gain = np.diff(expected_reward)[:, 0], np.diff(chance)[:, 0]
        raw_gain = np.diff(reward.mean(2))[:, 0]
        errors.append([np.mean((gain - true_gain) ** 2), np.mean((raw_gain - true_gain) ** 2),
                       np.mean((expected_cost - length) ** 2), np.mean((cost.mean(2) - length) ** 2)])  # fmt: skip
    gain, raw_gain, cost, raw_cost = np.mean(errors, axis=0)
    assert gain < 0.75 * raw_gain and cost < 0.95 * raw_cost


def test_without_noise_the_means_are_the_truth():
    reward = np.array([[0.0, 1.0], [1.0, 1.0], [0.5, 0.25], [0.0, 0.0]])
    cost = np.array([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [4.0, 6.0]])
    found = shrink(reward, cost, np.full((4, 2), 3.0), np.zeros((2, 2, 2)))
    assert found[0].tolist() == reward.tolist() and found[1].tolist() == cost.tolist()


def test_an_empty_cell_is_predicted_from_the_problems_others():
    chance, _, reward, cost = simulate(3, 400, 8)
    (_, _), within, count = estimate(reward, cost)
    count[:200, 1] = 0
    mean = reward.mean(2)
    mean[:200, 1] = 123.0  # what stands in an empty cell must not matter
    expected, _ = shrink(mean, cost.mean(2), count, within)
    error = np.mean((expected[:200, 1] - chance[:200, 1]) ** 2)
    assert error < 0.6 * chance[:200, 1].var()


def test_equal_problems_stay_equal_and_their_order_does_not_matter():
    _, _, reward, cost = simulate(5, 30, 4)
    reward, cost = np.concatenate([reward, reward]), np.concatenate([cost, cost])
    (expected_reward, expected_cost), _, _ = estimate(reward, cost)
    assert expected_reward[:30].tolist() == expected_reward[30:].tolist()
    assert expected_cost[:30].tolist() == expected_cost[30:].tolist()


def test_variance_within_cells_by_the_halves_of_other_problems():
    rng = np.random.default_rng(0)
    reward, cost = rng.random((2, 300, 2, 4)), rng.gamma(4, 25, (2, 300, 2, 4))
    some = np.arange(300) % 3 > 0
    reward[:, ~some] = 0.0  # what stands in problems that are not pooled must not matter
    count = np.full((2, 300, 2), 4.0)
    found = within_halves(reward.mean(3), cost.mean(3), count, some)
    assert found[:, 0, 0] == pytest.approx(1 / 12, rel=0.25) and found[:, 1, 1] == pytest.approx(2500, rel=0.25)
    d = reward[0, some].mean(2) - reward[1, some].mean(2)
    assert found[:, 0, 0] == pytest.approx((d**2 / (1 / 4 + 1 / 4)).mean(0))


@pytest.mark.parametrize("num_problems", [40, 300])
def test_problems_are_the_prior_where_gains_are_few(num_problems):
    """Nine problems of ten are right whatever the group, one gains: closer to the truth than the linear predictor."""
    errors = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        gains = rng.random(num_problems) < 0.1
        chance = np.stack([np.where(gains, 0.1, 1.0), np.where(gains, 0.9, 1.0)], axis=1)
        reward = (rng.random((num_problems, 2, 4)) < chance[..., None]).astype(float)
        cost = np.array([100.0, 400.0])[:, None] * rng.gamma(4, 0.25, reward.shape)
        (found, _), within, count = estimate(reward, cost)
        linear, _ = shrink(reward.mean(2), cost.mean(2), count, within, np.zeros(num_problems, bool))
        errors.append([np.mean((x - chance) ** 2) for x in (found, linear)])
    found, linear = np.mean(errors, axis=0)
    assert found < 0.9 * linear


def test_more_problems_than_are_compared_change_little():
    """Above `NEIGHBOURS` problems some stand for all: nearly what all would say."""
    _, _, reward, cost = simulate(7, 200, 4)
    (some, _), within, count = estimate(reward, cost)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ibpo.evaluation.estimates.NEIGHBOURS", 200)
        every, _ = shrink(reward.mean(2), cost.mean(2), count, within)
    assert np.abs(some - every).mean() < 0.01 and np.corrcoef(some.ravel(), every.ravel())[0, 1] > 0.99


def test_a_response_group_that_is_free_has_expectations_like_any_other():
    """Its mean cost has no logarithm, and no square above 0: all expectations were nan."""
    rng = np.random.default_rng(0)
    reward = np.stack([rng.integers(0, 3, 40) / 2, rng.integers(1, 3, 40) / 2], axis=1)
    for price in (0.001, 1e-200):
        cost = np.stack([np.zeros(40), np.full(40, price)], axis=1)
        within = np.array([[[0.2, 0.0], [0.0, 0.0]]] * 2)
        with np.errstate(all="raise", under="ignore"):
            found = shrink(reward, cost, np.full((40, 2), 2.0), within)
        assert ((found[0] >= 0) & (found[0] <= 1)).all() and (found[1][:, 0] == 0).all()
