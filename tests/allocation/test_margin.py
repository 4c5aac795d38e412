"""The reward margin."""

import itertools

import numpy as np
import pytest

from ibpo.allocation import reward_margin
from ibpo.errors import IbpoError

REWARD = [1, 0, 1, 1, 0, 1]
PROBLEM = ["p", "p", "p", "q", "q", "r"]
GROUP = ["low", "low", "high", "low", "high", "high"]


def test_mean_of_the_other_response_groups():
    margin = reward_margin([1, 0, 1, 0], ["p"] * 4, ["a", "b", "b", "c"])
    np.testing.assert_allclose(margin, [1 - 1 / 3, 0 - 0.5, 1 - 0.5, 0 - 2 / 3])


def test_unsampled_is_an_explicit_choice():
    with pytest.raises(IbpoError, match="problem 'r': only response group 'high' was sampled"):
        reward_margin(REWARD, PROBLEM, GROUP)
    zero = reward_margin(REWARD, PROBLEM, GROUP, unsampled="zero")
    mean = reward_margin(REWARD, PROBLEM, GROUP, unsampled="mean")
    np.testing.assert_allclose(zero, [0, -1, 0.5, 1, -1, 0])
    np.testing.assert_allclose(mean, [0, -1, 0.5, 1, -1, 1 - 2 / 3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response_group": ["low"] * 6}, "at least two response groups"),
        ({"unsampled": "drop"}, "unsampled: must be"),
        ({"reward": [1, 0, 1, 1, 0, float("nan")]}, r"reward\[5\] is not finite"),
        ({"reward": []}, "reward: needs one number"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"reward": REWARD, "problem": PROBLEM, "response_group": GROUP, **change}
    with pytest.raises(IbpoError, match=message):
        reward_margin(**arguments)


def test_the_order_of_the_rows_changes_no_bit():
    """Rewards that sum to the same are a tie between problems, which their ids break, not what rounding leaves."""
    found = {
        tuple(reward_margin([*low, 0.4], ["p"] * 4, ["low"] * 3 + ["high"])[[3]].tolist())
        for low in itertools.permutations([0.8, 0.7, 0.6])
    }
    assert found == {(0.4 - (0.6 + 0.7 + 0.8) / 3,)}
