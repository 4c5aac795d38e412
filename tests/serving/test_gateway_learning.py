"""Outcomes come back to `/outcomes`, and gains follow them."""

import json

import numpy as np
import pytest

from ibpo.serving.controller import Candidate, Controller, ServingPolicy
from ibpo.serving.gateway.async_controller import AsyncController
from ibpo.serving.gateway.gains import Gains
from ibpo.serving.gateway.learning import Learner
from ibpo.serving.gateway.settings import build_settings
from tests.serving.world import GROUPS, HASHED, KEYS, SHARE, bulk, call, groups_of

MODEL = {
    "name": "*",
    "learn": True,
    "choose": ["router"],
    "response_group": [{**GROUPS[0]}, {**GROUPS[1], "gain": 0.2}],
}


def post(url, outcome, key=""):
    headers = {"Authorization": f"Bearer {key}"} if key else None
    status, _, said = call(f"{url}/outcomes", outcome, headers)
    return status, json.loads(said)


def test_the_gateway_learns_which_group_is_worth_more(world):
    """The settings say that extended gains .2, and outcomes that it loses .5: it is no longer bought."""
    upstream = world.upstream()
    gateway, url, _ = world.gateway(upstream.url, plan=SHARE, model=MODEL)
    first = bulk(world, url, [{} for _ in range(60)])
    names = groups_of(first)
    assert 10 <= names.count("extended") <= 25  # 30 %, and the room
    for status, headers, _ in first:
        assert status == 200
        outcome = {
            "request_id": headers["x-ibpo-request-id"],
            "reward": 0.2 if headers["x-ibpo-response-group"] == "extended" else 0.7,
        }
        assert post(url, outcome) == (200, {"learned": True})
        assert post(url, outcome) == (404, {"learned": False})  # once
    assert groups_of(bulk(world, url, [{} for _ in range(40)])).count("extended") <= 1
    assert world.snapshot(gateway)["cautions"] == []


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_learning_keeps_a_group_that_gains_what_the_settings_say(share):
    """Outcomes have a level, gains have none: what standard answers were worth was held against the rarer group."""
    settings = build_settings(
        {"model": [{**MODEL, "response_group": [{**GROUPS[0]}, {**GROUPS[1], "gain": 0.15}]}]}, ""
    )
    one, model, rng = Learner(settings), settings.model[0], np.random.default_rng(0)
    budget = {"extended": {"mean": share, "response_group": "extended"}}
    controller, bought = Controller(ServingPolicy.from_dict({"budget": budget})), []
    for i in range(1500):
        gains = one.correct(str(i), model, Gains(by_group={"standard": 0.0, "extended": 0.15}, source="default"))
        rows = [Candidate(response_group=name, gain=gain) for name, gain in gains.by_group.items()]
        group = controller.decide(rows, request_id=str(i), now=0.0).response_group
        controller.settle(str(i))
        one.decided(str(i), model, "", group)
        one.outcome(str(i), "", float(rng.random() < (0.95 if group == "extended" else 0.8)))
        bought.append(group == "extended")
    assert np.mean(bought[-500:]) == pytest.approx(share, abs=0.03)


def test_requests_that_are_decided_at_the_same_time_keep_their_own_gains():
    """A store is waited for between the two: what was predicted of one request was taken for the other's."""
    settings, found = build_settings({"model": [MODEL]}, ""), []
    model = settings.model[0]
    for together in (False, True):
        one = Learner(settings)
        for i in range(0, 40, 2):
            for first in (i, i + 1) if not together else (i,):
                for number in (first, first + 1) if together else (first,):
                    gain = 0.1 if number % 2 else 0.7
                    one.correct(
                        str(number), model, Gains(by_group={"standard": 0.0, "extended": gain}, source="router")
                    )
                for number in (first, first + 1) if together else (first,):
                    one.decided(str(number), model, "", "extended")
        for number in range(40):
            assert one.outcome(str(number), "", 0.5)
        found.append(one.state_dict())
    assert found[0]["*"]["level"] == found[1]["*"]["level"]
    one.correct("said", model, Gains(by_group={"standard": 0.0, "extended": 0.3}, source="caller"))
    one.decided("said", model, "", "extended")
    assert not one.outcome("said", "", 1.0) and one.state_dict() == found[1]


def test_an_outcome_is_a_tenants_own_and_well_formed(world):
    upstream = world.upstream()
    _, url, _ = world.gateway(upstream.url, plan=SHARE, model=MODEL, keys=HASHED)
    ((_, headers, _),) = bulk(world, url, [{"Authorization": f"Bearer {KEYS['gold']}"}])
    outcome = {"request_id": headers["x-ibpo-request-id"], "reward": 1}
    assert call(f"{url}/outcomes", outcome)[0] == 401
    assert post(url, outcome, KEYS["operator"])[0] == 403
    assert post(url, outcome, KEYS["quiet"]) == (404, {"learned": False})
    for bad in ({**outcome, "reward": 2}, {**outcome, "reward": "much"}, {"reward": 1}, [1], b"{", b'{"reward": NaN}'):
        status, said = post(url, bad if isinstance(bad, bytes) else json.dumps(bad).encode(), KEYS["gold"])
        assert status == 400 and said["error"]["message"]
    assert post(url, outcome, KEYS["gold"]) == (200, {"learned": True})
    assert call(f"{url}/outcomes", headers={"Authorization": f"Bearer {KEYS['gold']}"})[0] == 405


def test_without_learning_there_is_no_such_path(world):
    upstream = world.upstream()
    _, url, _ = world.gateway(upstream.url)
    assert call(f"{url}/outcomes", {"request_id": "a", "reward": 1})[0] == 404
    assert upstream.requests == []


def test_a_length_is_learned_though_the_outcome_came_before_it():
    """As of a stream that is judged while it runs: how long such answers are was never learned."""
    settings = build_settings({"model": [MODEL]}, "test")
    model, found = settings.model[0], []
    gains = Gains(by_group={"standard": 0.0, "extended": 0.2}, source="router", tokens={"standard": 10, "extended": 50})
    for early in (False, True):
        one = Learner(settings)
        for i in range(100):
            one.correct(str(i), model, gains)
            one.decided(str(i), model, "", "extended")
            steps = [
                lambda i=i, one=one: one.ended(str(i), model, "extended", 500.0),
                lambda i=i, one=one: one.outcome(str(i), "", 0.5),
            ]
            for step in reversed(steps) if early else steps:
                step()
        found.append(one.correct("x", model, gains).tokens["extended"])
    assert found[0] == found[1] == pytest.approx(500, rel=0.1)


def learner():
    return Learner(build_settings({"model": [MODEL]}, "test"))


def test_what_was_learned_survives_a_restart_with_the_accounts(world, tmp_path):
    before, settings = learner(), build_settings({"model": [MODEL]}, "test")
    model, gains = settings.model[0], Gains(by_group={"standard": 0.0, "extended": 0.2}, source="default")
    for i in range(200):
        before.correct(str(i), model, gains)
        before.decided(str(i), model, "", "extended" if i % 2 else "standard")
        before.ended(str(i), model, "extended" if i % 2 else "standard", 500.0)
        assert before.outcome(str(i), "", 0.9 if i % 2 else 0.3)
    learned = before.correct("x", model, gains)
    assert learned.by_group["extended"] == pytest.approx(0.6, abs=0.1)
    assert learned.tokens == {}  # which nothing predicts: they are learned as without outcomes

    async def run(one):
        state = str(tmp_path / "budget.sqlite")
        controller = AsyncController(ServingPolicy.from_dict(SHARE), state, learner=one)
        await controller.open()
        await controller.close()

    world.run(run(before))
    after = learner()
    world.run(run(after))
    assert after.state_dict() == before.state_dict()
    # The same groups in another order: their gains are of other requests' features.
    turned = build_settings({"model": [{**MODEL, "response_group": MODEL["response_group"][::-1]}]}, "test")
    one = Learner(turned)
    one.load_state(json.loads(json.dumps(before.state_dict())))
    assert one.state_dict() == Learner(turned).state_dict()
    assert after.correct("x", model, Gains(by_group=gains.by_group, source="caller")).by_group == gains.by_group
