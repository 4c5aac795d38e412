import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ibpo.evaluation.statistics import (
    bootstrap,
    bootstrap_difference,
    estimate_bounded,
    estimate_from_draws,
    estimate_mean,
    estimate_quantile,
    estimate_rate,
    paired_difference,
    problem_means,
    rank_correlation,
    rate_interval,
    ratio_of_means,
    unseen_square,
    wilson,
)

rates = st.floats(0, 1).map(lambda x: round(x, 3))
values = st.lists(st.tuples(st.integers(0, 5), st.floats(1, 100).map(lambda x: round(x, 2))), min_size=3, max_size=40)


def test_one_response_per_problem_is_the_textbook():
    rng = np.random.default_rng(0)
    value = rng.normal(5, 2, 40)
    found = estimate_mean(value, np.arange(40))
    low, high = stats.t.interval(0.95, 39, value.mean(), stats.sem(value))
    assert (found.value, found.stderr, found.low, found.high) == pytest.approx(
        (value.mean(), stats.sem(value), low, high)
    )


def test_wilson_is_scipys():
    for right, num in ((0, 10), (3, 17), (17, 17)):
        expected = stats.binomtest(right, num).proportion_ci(method="wilson")
        assert wilson(right / num, num, stats.norm.ppf(0.975)) == pytest.approx((expected.low, expected.high))


def test_cluster_sandwich():
    """The standard error is the cluster-robust one of a weighted regression on a constant, written out as matrices."""
    rng = np.random.default_rng(1)
    problem = rng.integers(0, 30, 200)
    value, where = rng.random(200), rng.random(200) < 0.4
    weight = where / np.bincount(problem)[problem]
    mean = weight @ value / weight.sum()
    score = np.array([(weight * (value - mean))[problem == p].sum() for p in range(30)])
    expected = math.sqrt(30 / 29 * (score @ score)) / weight.sum()
    found = estimate_mean(value, problem, where)
    assert (found.value, found.stderr) == pytest.approx((mean, expected))


@settings(deadline=None)
@given(values, st.integers(2, 4))
def test_repeating_every_response_changes_nothing(rows, times):
    """Responses that say nothing new do not shrink the error."""
    problem, value = map(np.array, zip(*rows, strict=True))
    for estimate in (estimate_mean, lambda v, p: estimate_quantile(v, p, 0.5)):
        once, often = estimate(value, problem), estimate(np.repeat(value, times), np.repeat(problem, times))
        assert often.value == pytest.approx(once.value)
        assert often.stderr == pytest.approx(once.stderr, nan_ok=True)


@settings(deadline=None)
@given(values, st.randoms(use_true_random=False))
def test_order_and_names_do_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    for estimate in (estimate_mean, lambda v, p: estimate_quantile(v, p, 0.9)):
        first = estimate([v for _, v in rows], [p for p, _ in rows])
        other = estimate([v for _, v in shuffled], [f"problem {5 - p}" for p, _ in shuffled])
        assert other.value == pytest.approx(first.value) and other.stderr == pytest.approx(first.stderr, nan_ok=True)


@given(st.lists(st.integers(0, 1), min_size=2, max_size=30))
def test_a_rate_lies_in_its_interval_inside_zero_and_one(outcomes):
    found = estimate_rate(outcomes, np.arange(len(outcomes)))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0


def test_quantiles_of_one_response_each_are_order_statistics():
    value = np.random.default_rng(2).permutation(np.arange(1.0, 102.0))
    for q in (0.5, 0.95):
        expected = np.quantile(value, q, method="inverted_cdf")
        found = estimate_quantile(value, np.arange(101), q)
        assert found.value == expected and found.low <= expected <= found.high
    median = estimate_quantile(value, np.arange(101), 0.5)
    ranks = [
        float(stats.binom.ppf(tail, 101, 0.5)) for tail in (0.025, 0.975)
    ]  # the classical order-statistic interval
    assert abs(median.low - ranks[0]) <= 2 and abs(median.high - ranks[1]) <= 2


def test_a_problem_weighs_the_same_however_often_it_was_answered():
    assert estimate_mean([1, 1, 1, 1, 0], ["a", "a", "a", "a", "b"]).value == 0.5
    assert estimate_quantile([9, 9, 9, 9, 1], ["a", "a", "a", "a", "b"], 0.5).value == 1


def test_paired_difference_is_scipys_paired_test():
    rng = np.random.default_rng(3)
    a, b = rng.random(25), rng.random(25)
    expected = stats.ttest_rel(a, b).confidence_interval()
    found = paired_difference(a, b)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert paired_difference([*a, math.nan], [*b, 0.0]) == found


def test_ratio_of_means_scales_with_the_unit_and_knows_that_pairs_belong_together():
    rng = np.random.default_rng(4)
    base = rng.lognormal(5, 1, 50)
    assert ratio_of_means(3 * base, base).stderr == pytest.approx(0, abs=1e-12)
    other = base * rng.lognormal(0.5, 0.3, 50)
    one, two = ratio_of_means(other, base), ratio_of_means(7 * other, 7 * base)
    assert two.value == pytest.approx(one.value) and two.low == pytest.approx(one.low)
    assert one.low < one.value < one.high


def test_bootstrap_of_a_mean_agrees_with_its_closed_form_and_repeats_by_its_seed():
    value = np.random.default_rng(5).random(200)
    closed, drawn = estimate_mean(value, np.arange(200)), bootstrap(lambda w: w @ value, 200, num_draws=4000)
    assert drawn.value == pytest.approx(closed.value)
    assert (drawn.low, drawn.high, drawn.stderr) == pytest.approx((closed.low, closed.high, closed.stderr), rel=0.05)
    assert bootstrap(lambda w: w @ value, 200) == bootstrap(lambda w: w @ value, 200)
    assert bootstrap(lambda w: w @ value, 200, seed=1) != bootstrap(lambda w: w @ value, 200)


def test_a_bootstrap_that_mostly_does_not_exist_has_no_interval():
    found = bootstrap(lambda w: np.where(w[:, 0] > 0, 1.0, np.nan), 10)
    assert found.value == 1 and math.isnan(found.low)


def test_nothing_and_too_little():
    assert estimate_mean([], []).num_problems == 0
    assert estimate_rate([1, 0], ["a", "b"], where=[0, 0]).num_problems == 0
    single = estimate_rate([1, 0], ["a", "a"])
    assert single.value == 0.5 and math.isnan(single.stderr) and math.isnan(single.low)
    assert math.isnan(estimate_quantile([1, 2], ["a", "a"], 0.5).low)
    assert math.isnan(bootstrap(lambda w: w.sum(1), 1).low) and math.isnan(ratio_of_means([], []).value)
    unknown = estimate_mean([1, math.nan, 3], ["a", "a", "b"])
    assert unknown.value == 2


def test_problem_means_keeps_the_order_asked_for():
    assert problem_means([1, 2, 4], [10, 10, 9], [9, 10]).tolist() == [4, 1.5]


def test_the_standard_error_counts_problems_not_responses():
    value_P = np.random.default_rng(0).random(50)
    found = estimate_mean(np.repeat(value_P, 8), np.repeat(np.arange(50), 8))
    assert found.value == pytest.approx(value_P.mean()) and found.stderr == pytest.approx(stats.sem(value_P))
    assert np.isnan(estimate_mean([1.0], ["p"]).stderr) and np.isnan(estimate_mean([], []).value)


@given(arrays(float, 7, elements=rates), arrays(float, 7, elements=rates))
def test_rank_correlation_equals_scipy_on_rounded_values(x, y):
    grid = [np.round(v / 0.02) for v in (x, y)]
    found = rank_correlation(x, y)
    if len(set(grid[0])) == 1 or len(set(grid[1])) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(*grid)[0])


def test_wilsons_number_is_that_of_independent_responses():
    """Right on half of 64 problems by 1 response each: the error of 64 coins; 8 alike on each of 8 problems: of 8."""
    many = estimate_rate([1, 0] * 32, np.arange(64))
    few = estimate_rate(np.repeat([1, 0] * 4, 8), np.repeat(np.arange(8), 8))
    for found, num in ((many, 64), (few, 8)):
        # With stderr^2 = p (1 - p) / (num - 1) the number of independent responses is num - 1.
        expected = wilson(0.5, num - 1, float(stats.t.ppf(0.975, num - 1)))
        assert (found.low, found.high) == pytest.approx(expected)
        assert rate_interval(found.value, found.stderr, num) == pytest.approx(expected)
    # Where nothing varies between problems their number is all that is known.
    for outcomes, rate in (([1, 0, 0, 1], 0.5), ([1], 1.0)):
        found = estimate_rate(outcomes * 16, np.repeat(np.arange(16), len(outcomes)))
        assert (found.low, found.high) == pytest.approx(wilson(rate, 16, float(stats.t.ppf(0.975, 15))))


@pytest.mark.parametrize("num", [2, 5, 20, 1000])
def test_a_bootstraps_percentiles_are_expanded(num):
    """Hesterberg (2015): the percentiles at the level of sqrt(P / (P - 1)) t in place of 1.96."""
    drawn = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    found = estimate_from_draws(0.0, drawn, num)
    reach = math.sqrt(num / (num - 1)) * float(stats.t.ppf(0.975, num - 1))
    assert found.high == pytest.approx(min(reach, drawn[-1]), rel=1e-3) and found.low == pytest.approx(-found.high)
    assert found.high > 1.96


def test_bounded_values_that_all_agree_are_not_certain():
    found = estimate_bounded(np.zeros(16), np.arange(16), -1, 1)
    coins = wilson(0.5, 16, float(stats.t.ppf(0.975, 15)))
    assert found.value == 0 and (found.low, found.high) == pytest.approx((2 * coins[0] - 1, 2 * coins[1] - 1))
    value, problem = np.random.default_rng(0).normal(0.1, 0.2, 400).clip(-1, 1), np.arange(400)
    assert estimate_bounded(value, problem, -1, 1).low == pytest.approx(estimate_mean(value, problem).low, abs=2e-3)


@pytest.mark.parametrize("right", range(1, 10))
@pytest.mark.parametrize("num", [3, 6, 10, 30])
def test_problems_that_all_say_the_same_count_as_problems(num, right):
    """Rounding leaves a standard error of 1e-17, and three problems at .7 each gave .7 to .7."""
    student = float(stats.t.ppf(0.975, num - 1))
    outcomes = [1] * right + [0] * (10 - right)
    for found in (
        estimate_rate([right / 10] * num, np.arange(num)), estimate_rate(outcomes * num, np.repeat(np.arange(num), 10))
    ):  # fmt: skip
        assert (found.low, found.high) == pytest.approx(wilson(right / 10, num, student))
        assert (found.low, found.high) == pytest.approx(rate_interval(found.value, 1e-17, num))
        assert found.stderr == 0 and found.high - found.low > 0.05
    for mean in (
        estimate_mean([right / 10] * num, np.arange(num)),
        bootstrap(lambda w: w @ np.full(num, right / 10), num),
    ):
        assert mean.low == mean.value == mean.high  # of no known scale: no interval, and none is shown


SPARSE = [(30, 0.04, 0.01), (45, 0.03, 0.01), (100, 0.01, 0.005), (200, 0.01, 0.002), (500, 0.005, 0.001),
          (1000, 0.003, 0.0), (100, 0.05, 0.0), (30, 0.0, 0.1), (20, 0.2, 0.1), (100, 0.98, 0.01)]  # fmt: skip


@pytest.mark.parametrize(("num", "up", "down"), SPARSE)
def test_differences_of_few_problems_are_covered(num, up, down):
    """Rates of which few problems differ: the interval held the truth .78 times in one, and had no width in .22."""
    rng, hit = np.random.default_rng(0), 0
    for _ in range(1000):
        draw = rng.random(num)
        sign = np.where(draw < up, 1, np.where(draw < up + down, -1, 0))
        found = paired_difference(0.5 + sign / 2, 0.5 - sign / 2)
        assert -1 <= found.low < found.high <= 1 and found.low <= found.value <= found.high
        hit += found.low <= up - down <= found.high
    assert hit >= 930


@pytest.mark.parametrize("num", [45, 100, 300])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_the_interval_of_many_differences_hardly_moves(num, size):
    """Responses of policies of which each is better somewhere: three problems more say nothing new."""
    rng, wider = np.random.default_rng(1), []
    for _ in range(200):
        ability = rng.beta(0.8, 0.8, num)
        value, baseline = (rng.binomial(size, a + 0.75 * ability) / size for a in (0.2, 0.0))
        found = paired_difference(value, baseline)
        plain = float(stats.t.ppf(0.975, num - 1)) * found.stderr
        wider.append((found.high - found.low) / (2 * plain))
    assert min(wider) >= 1 - 1e-9 and np.mean(wider) < 1.015


def test_what_few_differ_by_is_what_others_may_differ_by():
    """A tenth of a point on two problems says as little of the others as a whole one does, at a tenth of its size."""
    few = np.zeros(100)
    few[:2] = 1.0
    whole, part = paired_difference(few, 0 * few), paired_difference(few / 10, 0 * few)
    assert (part.low, part.high) == pytest.approx((whole.low / 10, whole.high / 10))
    assert unseen_square(few / 10) == pytest.approx(unseen_square(few) / 100)
    # The same on nearly all as on nearly none, but for the side on which the end of the scale lies.
    most = paired_difference(1 - few, 0 * few)
    assert most.value - most.low == pytest.approx(whole.high - whole.value) and most.high == 1.0
    same = paired_difference(0 * few, 0 * few)
    assert (same.value, same.stderr) == (0, 0) and same.high == -same.low == pytest.approx(0.034, abs=1e-3)


def test_a_difference_by_bootstrap_is_as_wide():
    few = np.zeros(200)
    for num in (0, 1, 3):
        few[:num] = 1.0
        closed, drawn = paired_difference(few, 0 * few), bootstrap_difference(few, 0 * few)
        assert drawn.low < drawn.value < drawn.high
        assert (drawn.low, drawn.high) == pytest.approx((closed.low, closed.high), abs=0.004)
    value = np.random.default_rng(0).random(200)
    plain = bootstrap(lambda w: w @ (value - 0.5), 200)
    assert bootstrap_difference(value, np.full(200, 0.5)) == plain


def test_bounded_values_of_which_few_differ_are_not_certain():
    """One problem of 400 that differs does not make the others certain."""
    few = np.zeros(400)
    few[0] = 1.0
    found = estimate_bounded(few, np.arange(400), -1, 1)
    assert found.high - found.low == pytest.approx(2 * 1.97 * 2 / 400, rel=0.02)  # as if three more did
    assert estimate_mean(few, np.arange(400)).high < found.high


def test_a_rate_that_was_cut_at_its_end_has_the_interval_of_its_problems():
    """What is extrapolated above 1 is shown as 1, with its standard error: the interval went down to .2."""
    assert rate_interval(1.0, 0.03, 45) == rate_interval(1.0, 0.0, 45)
    assert rate_interval(0.0, 0.03, 45) == rate_interval(0.0, 0.0, 45)
