import json
import math
from typing import Any

import numpy as np
import pytest

from ibpo.errors import IbpoError
from ibpo.routing import OnlineRouter, evaluate_off_policy
from ibpo.serving.controller import Candidate, Controller, ServingPolicy

GROUPS = ["short", "long"]


def serve(router, size, reward_of, choose, seed=0, start=0):
    """Predict, choose and learn `size` times; the gains of the long group."""
    rng, gains = np.random.default_rng(seed), []
    for i in range(start, start + size):
        x = [1.0, float(rng.normal())]
        scores = router.predict(str(i), x, reward=[0.5] * len(router.groups), cost=[1.0] * len(router.groups))
        group = choose(i, scores)
        assert router.learn(str(i), group, reward=reward_of(group, x, rng))
        gains.append(scores.gain)
    return np.array(gains)


def truth(group, x, rng):
    return {"short": 0.4, "long": 0.6 + 0.2 * x[1], "new": 0.8}[group] + 0.1 * rng.normal()


def test_it_learns_the_weights_of_ridge_regression():
    router = OnlineRouter(GROUPS, 2, memory=1e9, ridge=3.0)
    rng = np.random.default_rng(0)
    rows, rewards = rng.normal(size=(50, 2)), rng.random(50)
    for i, x in enumerate(rows):
        router.predict(str(i), x, reward=[0.2, 0.2], cost=[1, 1])
        router.learn(str(i), "long", reward=rewards[i])
    weights = np.linalg.solve(rows.T @ rows + 3 * np.eye(2), rows.T @ (rewards - 0.2))
    scores = router.predict("x", [1.0, 2.0], reward=[0.2, 0.2], cost=[1, 1])
    assert scores.gain == pytest.approx([0.0, float(np.array([1.0, 2.0]) @ weights)], abs=1e-6)


def test_a_group_that_is_added_while_serving_is_learned_and_others_stay_as_they_were():
    router = OnlineRouter(GROUPS, 2)
    serve(router, 400, truth, lambda i, _: GROUPS[i % 2])
    router.add_group("new")
    gains = serve(router, 300, truth, lambda i, _: router.groups[i % 3], seed=1, start=400)
    assert gains[-1, 2] == pytest.approx(0.4, abs=0.1)
    assert router.cautions() == []
    with pytest.raises(IbpoError, match="known already"):
        router.add_group("new")


def test_a_silent_loss_is_noticed_within_some_tens_of_outcomes_and_forgotten_when_it_ends():
    router = OnlineRouter(GROUPS, 2)
    serve(router, 600, truth, lambda i, _: GROUPS[i % 2])
    assert router.cautions() == []

    def worse(group, x, rng):
        return truth(group, x, rng) - (0.3 if group == "long" else 0.0)

    gains = serve(router, 120, worse, lambda i, _: GROUPS[i % 2], seed=2, start=600)
    assert gains[-20:, 1].mean() < 0
    (caution,) = router.cautions()
    assert "'long' has become worse" in caution
    gains = serve(router, 120, truth, lambda i, _: GROUPS[i % 2], seed=3, start=720)
    assert gains[-20:, 1].mean() > 0.1
    assert "better" in router.cautions()[0]


def changes(mean, *, rare=2, known=0.15, spread=0.15, size=400, late=1, seed=0):
    """At which outcomes of the long group it is called changed, where its mean reward is `mean` of their number."""
    router, rng, waiting, found = OnlineRouter(GROUPS, 1), np.random.default_rng(seed), [], []
    for i in range(size * rare):
        router.predict(str(i), [1.0], reward=[known] * 2, cost=[1.0, 1.0])
        group = "short" if i % rare else "long"
        level = 0.7 if group == "short" else mean(i // rare)
        noise = spread * rng.normal() if spread else float(rng.random() < level) - level
        waiting.append((str(i), group, level + noise))
        if len(waiting) < late and i < size * rare - 1:
            continue
        for name, of_group, reward in waiting:
            before = router.state_dict()["groups"]["long"]["num_changes"]
            router.learn(name, of_group, reward=reward)
            if router.state_dict()["groups"]["long"]["num_changes"] > before:
                found.append(i // rare)
        waiting = []
    return found


@pytest.mark.parametrize(
    ("rare", "known", "late"), [(2, 0.15, 1), (20, 0.15, 1), (50, 0.15, 1), (2, 0.5, 800), (2, 0.0, 1)]
)
def test_nothing_has_changed_where_a_group_is_rare_or_outcomes_come_late(rare, known, late):
    """What is expected leans on m_g then, and was wrong by the same amount each time: up to 27 changes in 1,200."""
    assert sum(len(changes(lambda _: 0.9, rare=rare, known=known, late=late, seed=seed)) for seed in range(3)) == 0


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.6), (0.4, 0.9)])
@pytest.mark.parametrize("known", [0.0, 0.5])
def test_one_change_is_one(before, after, known):
    """The first one's aftermath was called another, up to 14 times."""
    for seed in range(3):
        found = changes(lambda i: before if i < 400 else after, known=known, spread=0.1, size=800, seed=seed)
        assert len(found) == 1 and 400 <= found[0] < 430


def test_a_state_comes_back_by_the_names_of_its_groups():
    router = OnlineRouter(GROUPS, 2)
    serve(router, 300, truth, lambda i, _: GROUPS[i % 2])
    other = OnlineRouter(["new", "long", "short"], 2)
    other.load_state(json.loads(json.dumps(router.state_dict())))
    assert other.groups == ("new", "long", "short")
    asked = {"reward": [0.5] * 3, "cost": [1.0] * 3}
    gain = router.predict("x", [1.0, 0.0], reward=[0.5] * 2, cost=[1.0] * 2).gain[1]
    new, long, short = other.predict("x", [1.0, 0.0], **asked).gain
    assert new == 0.0 and long - short == pytest.approx(gain, abs=1e-3)  # weights are solved anew now and then


def test_what_is_not_asked_any_more_fades():
    router = OnlineRouter(GROUPS, 2, memory=100)
    serve(router, 100, lambda group, x, rng: 0.1 if group == "long" else 0.5, lambda i, _: GROUPS[i % 2])
    low = router.predict("a", [1, 0], reward=[0.5, 0.5], cost=[1, 1]).gain[1]
    serve(router, 1000, lambda *_: 0.5, lambda *_: "short", start=1000)
    assert low < -0.2 < router.predict("b", [1, 0], reward=[0.5, 0.5], cost=[1, 1]).gain[1]


def test_costs_follow_and_outcomes_count_once_in_any_order():
    router = OnlineRouter(GROUPS, 1)
    for i in range(100):
        router.predict(str(i), [1.0], reward=[0, 0], cost=[1, 10])
        assert router.learn(str(i), "long", cost=2.0)
    assert router.predict("x", [1.0], reward=[0, 0], cost=[1, 10]).cost == pytest.approx([1, 2], rel=0.1)
    assert router.learn("5", "long", reward=1.0)  # late
    assert not router.learn("5", "long", reward=1.0)
    assert not router.learn("never asked", "long", reward=1.0)
    assert router.num_outcomes == 1
    for bad in ({"reward": float("nan")}, {"cost": float("inf")}, {"reward": 10**400}, {"cost": 10**5000}):
        with pytest.raises(IbpoError, match="finite"):
            router.learn("6", "long", **bad)
    for features, reward, cost in (
        ([10**400], [0, 0], [1, 1]),
        ([1], [0, 10**400], [1, 1]),
        ([1], [0, 0], [1, 10**400]),
    ):
        with pytest.raises(IbpoError, match="finite"):
            router.predict("y", features, reward=reward, cost=cost)
    with pytest.raises(IbpoError, match="all finite; they are 1, inf and"):
        OnlineRouter(GROUPS, 1, memory=10**400)
    with pytest.raises(IbpoError, match="cost is -5; it must be at least 0"):
        router.learn("6", "long", cost=-5)
    with pytest.raises(IbpoError, match="no response group"):
        router.learn("6", "huge", reward=1.0)
    for groups in ([], ["long", "long"], "long"):
        with pytest.raises(IbpoError, match="a list of response groups of different names"):
            OnlineRouter(groups, 1)


def test_the_state_goes_through_json():
    router = OnlineRouter(GROUPS, 2)
    serve(router, 50, truth, lambda i, _: GROUPS[i % 2])
    other = OnlineRouter(GROUPS, 2)
    other.load_state(json.loads(json.dumps(router.state_dict())))
    asked = {"reward": [0.5, 0.5], "cost": [1.0, 1.0]}
    # Weights are solved anew when they have faded by a hundredth.
    for ours, theirs in zip(other.predict("x", [1, 1], **asked), router.predict("x", [1, 1], **asked), strict=True):
        assert ours == pytest.approx(theirs, rel=0.01)
    with pytest.raises(IbpoError, match=r"^state: of version 2 with 2 features, not 3"):
        OnlineRouter(GROUPS, 3).load_state(router.state_dict())


@pytest.mark.parametrize(
    ("of_group", "of_all"),
    [
        ({"gram": [[math.nan, 0.0], [0.0, 1.0]]}, {}),
        ({"gram": [[None, 0.0], [0.0, 1.0]]}, {}),
        ({"mean": "a"}, {}),
        ({"variance": -1.0}, {}),
        ({"paid": None}, {}),
        ({"paid": -5.0}, {}),
        ({"num_costs": 0.0}, {}),
        ({"at": 51}, {}),
        ({"recent": [[[1.0], 0.5, 3]]}, {}),
        ({"recent": [[[1.0, 1.0], 0.5, math.inf]]}, {}),
        ({}, {"num_outcomes": math.inf}),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(of_group, of_all):
    """They were taken: every later gain was nan, or the next request ended in a traceback."""
    router = OnlineRouter(GROUPS, 2)
    for i in range(50):
        router.predict(str(i), [1.0, i / 50], reward=[0.5, 0.5], cost=[1.0, 1.0])
        router.learn(str(i), GROUPS[i % 2], reward=i % 3 / 2, cost=1.0)
    state = router.state_dict() | of_all
    state["groups"]["long"] |= of_group
    other = OnlineRouter(GROUPS, 2)
    with pytest.raises(IbpoError, match=r"^state: not one of OnlineRouter.state_dict: .*; start again without it$"):
        other.load_state(state)
    assert other.state_dict() == OnlineRouter(GROUPS, 2).state_dict()


def test_features_beside_which_the_ridge_is_lost_and_the_largest_numbers_leave_finite_gains():
    """Two equal features of 1e9 ended in a traceback; one of 1e200 made every later gain nan."""
    for size in (1e9, 1e100):
        router = OnlineRouter(GROUPS, 2)
        for i in range(100):
            router.predict(str(i), [size, size], reward=[0.0, 0.0], cost=[1e-320, 1e100])
            router.learn(str(i), GROUPS[i % 2], reward=float(i % 2), cost=1e100)
        scores = router.predict("x", [size, size], reward=[0.0, 0.0], cost=[1.0, 1.0])
        assert scores.gain[1] == pytest.approx(1.0, abs=1e-6) and np.isfinite(scores.cost).all()
    with pytest.raises(IbpoError, match="2 finite features, 1e\\+100 at most in size"):
        router.predict("y", [1.0, 1e200], reward=[0.0, 0.0], cost=[1.0, 1.0])
    with pytest.raises(IbpoError, match="reward is 1e\\+308; it must be a finite number, 1e\\+100 at most"):
        router.learn("x", "long", reward=1e308)


def explored(size, explore, seed=0):
    """Served by a controller that explores: gains, choices and propensities; and the controller."""
    rng = np.random.default_rng(seed)
    policy = {"budget": {"long": {"mean": 0.4, "response_group": "long"}}, "explore": explore}
    controller, gain, made = Controller(ServingPolicy.from_dict(policy)), rng.normal(0.1, 0.2, size), []
    for i in range(size):
        candidates = [Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=gain[i])]
        made.append(controller.decide(candidates, request_id=f"{seed} {i}", now=0.0))
        controller.settle(f"{seed} {i}")
    place = np.array([GROUPS.index(one.response_group) for one in made])
    return gain, place, np.array([one.propensity for one in made]), controller


def test_exploration_draws_with_the_propensities_that_it_says_and_keeps_the_budget():
    _, place, propensity, controller = explored(6000, 0.1)
    chance = np.where(place == 1, propensity, 1 - propensity)  # of the long group
    assert (propensity < 1).mean() > 0.9
    assert abs((place - chance).sum()) <= 4 * np.sqrt((chance * (1 - chance)).sum())
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        few = (chance > low) & (chance <= high)
        assert abs((place - chance)[few].sum()) <= 4 * np.sqrt((chance * (1 - chance))[few].sum())
    assert place.mean() == pytest.approx(0.4, abs=0.01)
    assert controller.store.buckets("total")[0].peak <= 5.0
    assert (explored(500, 0.0)[2] == 1).all()


def test_off_policy_values_are_those_of_the_candidate():
    gain, place, propensity, _ = explored(6000, 0.1)
    rng = np.random.default_rng(1)
    expected = np.stack([np.full(6000, 0.5), 0.5 + gain], axis=1)
    reward = expected[np.arange(6000), place] + 0.1 * rng.normal(size=6000)
    candidate = np.eye(2)[(gain > 0).astype(int)]
    value = (candidate * expected).sum(axis=1).mean()
    found = evaluate_off_policy(place.tolist(), reward.tolist(), propensity.tolist(), candidate, expected)
    assert abs(found.ips - value) <= 4 * found.ips_error
    assert abs(found.self_normalised - value) <= 4 * found.self_normalised_error
    assert found.doubly_robust is not None and found.doubly_robust_error is not None
    assert abs(found.doubly_robust - value) <= 4 * found.doubly_robust_error
    assert found.doubly_robust_error < found.ips_error
    assert 1 < found.effective_size <= 6000
    with pytest.raises(IbpoError, match="propensities from 1e-100 to 1"):
        evaluate_off_policy([0], [1.0], [0.0], np.array([[1.0, 0.0]]))
    wrong: Any = (["long"], [float("nan")], [2])
    for group in wrong:
        with pytest.raises(IbpoError, match=r"response.group"):
            evaluate_off_policy(group, [1.0], [0.5], np.array([[0.0, 1.0]]))
    with pytest.raises(IbpoError, match="explore more"):
        evaluate_off_policy([0], [1.0], [1.0], np.array([[0.0, 1.0]]))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.5, 0.9, 0.98])
def test_rewards_of_0_and_1_that_do_not_change_are_hardly_ever_called_a_change(rate):
    """One wrong answer in fifty is most of the variance: clipped, it was taken for next to none, and every other one
    for a change; 800 of them in 40,000 outcomes."""
    rng = np.random.default_rng(0)
    router = OnlineRouter(["short", "long"], num_features=1)
    for i in range(8_000):
        router.predict(str(i), [1.0], reward=[rate, rate], cost=[1.0, 10.0])
        router.learn(str(i), "long" if i % 2 else "short", reward=float(rng.random() < rate))
    assert sum(group.num_changes for group in router._groups.values()) <= 3


def test_reward_and_cost_come_in_any_order_and_each_once():
    """A cost that came twice counted twice, and one that came after the reward was dropped."""
    router = OnlineRouter(GROUPS, 1)
    for name in ("a", "b"):
        router.predict(name, [1.0], reward=[0, 0], cost=[1, 10])
    assert router.learn("a", "long", cost=30.0) and not router.learn("a", "long", cost=30.0)
    assert router.predict("x", [1.0], reward=[0, 0], cost=[1, 10]).cost == pytest.approx([1, 20])
    assert router.learn("b", "long", reward=1.0) and router.learn("b", "long", cost=30.0)
    assert not router.learn("b", "long", reward=1.0, cost=30.0)
    kept = 1 - 1 / 64  # two outcomes of 30 where 10 were expected, and one as expected
    assert router.predict("y", [1.0], reward=[0, 0], cost=[1, 10]).cost[1] == pytest.approx(
        10 * (30 * (1 + kept) + 10) / (10 * (1 + kept) + 10)
    )
