import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ibpo.serving.calibration import threshold

probabilities = arrays(float, st.integers(1, 40), elements=st.floats(0, 1))
# Few distinct values: most prompts are tied, as with a saturated policy.
tied = arrays(float, st.integers(1, 40), elements=st.sampled_from([0.0, 0.2, 0.5, 1.0]))


@given(st.one_of(probabilities, tied), st.floats(0, 1))
def test_the_calibration_share_is_exact(p, share):
    found = threshold(p, share)
    assert found.choose(p).sum() == np.floor(share * len(p) + 1e-9) == round(found.calibration_share * len(p))


@given(probabilities, st.floats(0, 1))
def test_a_likelier_prompt_is_never_passed_over(p, share):
    chosen = threshold(p, share).choose(p)
    if chosen.any() and not chosen.all():
        assert p[chosen].min() >= p[~chosen].max()


@given(tied, st.floats(0, 1), st.floats(0, 1))
def test_more_budget_never_raises_the_threshold(p, a, b):
    assert threshold(p, max(a, b)).value <= threshold(p, min(a, b)).value


def test_the_share_on_unseen_prompts_is_unbiased():
    rng = np.random.default_rng(0)
    shares = [threshold(rng.random(39), 0.25).choose(rng.random(500)).mean() for _ in range(2000)]
    # m = 9 of 39: the halfway threshold is exceeded with probability (m + 1/2) / (n + 1).
    assert np.mean(shares) == pytest.approx(9.5 / 40, abs=0.005)


@given(st.one_of(probabilities, tied), st.floats(0, 1), st.sampled_from([0.2, 0.5, 1.0]))
def test_a_floor_takes_back_those_at_or_below_it_and_no_other(p, share, floor):
    found, free = threshold(p, share, floor), threshold(p, share)
    chosen = found.choose(p)
    assert (p[chosen] > floor).all()
    assert chosen.sum() == round(found.calibration_share * len(p)) <= free.choose(p).sum()
    if (p[free.choose(p)] > floor).all() and free.value > floor:
        assert found == free


def test_gains_may_be_negative_and_losses_are_never_bought():
    gains = np.array([-0.2, -0.03, 0.1, 0.4, 1.7])
    assert threshold(gains, 0.4).choose(gains).tolist() == [False, False, False, True, True]
    for share in (0.8, 1.0):
        found = threshold(gains, share)
        assert found.choose(gains).tolist() == [False, False, True, True, True]
        assert found.calibration_share == 0.6
    assert not threshold(gains, 0.0).choose([9.0]).any()


def test_a_saturated_policy_keeps_its_budget():
    found = threshold(np.ones(10), 0.3)
    assert found.choose(np.ones(1000)).mean() == pytest.approx(0.3)


@pytest.mark.parametrize("share, chosen", [(0.0, 0), (1.0, 4)])
def test_ends(share, chosen):
    assert threshold([0.1, 0.5, 0.0, 1.0], share).choose([0.0, 0.3, 1.0, 0.7]).sum() == chosen


@pytest.mark.parametrize("p, share", [([], 0.5), ([0.5, np.nan], 0.5), ([-np.inf], 0.5), ([0.5], 1.2)])
def test_bad_input(p, share):
    with pytest.raises(ValueError):
        threshold(p, share)
    with pytest.raises(ValueError, match="floor"):
        threshold([0.5], 0.5, floor=1.5)
