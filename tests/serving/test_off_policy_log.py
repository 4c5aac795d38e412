"""What another router would have been worth, from the log of a gateway that explored: `ibpo route show --served`."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ibpo.data import LogColumns
from ibpo.errors import IbpoError
from ibpo.routing import evaluate_off_policy, fit_router, judge_served, read_routed_log, read_served, save_router
from tests.routing.test_router import run
from tests.serving.world import GROUPS, bulk, call

pytest.importorskip("sklearn")
MODEL = {
    "name": "*",
    "learn": True,
    "choose": ["router"],
    "response_group": [{**GROUPS[0]}, {**GROUPS[1], "gain": 0.1}],
}
PLAN = {"budget": {"extended": {"mean": 0.5, "response_group": "extended"}}, "explore": 0.2}


def router_of(folder, good=True):
    """Knows (or has it upside down) that prompts with many words gain."""
    rows = []
    for p in range(60):
        many = bool(p % 2) == good
        for group, tokens, right in (("standard", 10, not many), ("extended", 50, many)):
            prompt = " ".join(["word"] * (30 if p % 2 else 3))
            rows.append({"id": f"p{p}", "prompt": prompt, "group": group, "reward": int(right), "tokens": tokens})
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return fit_router(read_routed_log(path, columns=LogColumns()))


def served(world, tmp_path, *, explore=0.2, size=120):
    upstream = world.upstream()
    _, url, log = world.gateway(upstream.url, plan={**PLAN, "explore": explore}, model=MODEL, log_bodies=True)
    rng = np.random.default_rng(0)
    for _ in range(size):
        many = bool(rng.random() < 0.5)
        prompt = " ".join(["word"] * (30 if many else 3))
        ((_, headers, _),) = bulk(world, url, [{}], body={"messages": [{"role": "user", "content": prompt}]})
        right = (headers["x-ibpo-response-group"] == "extended") == many
        outcome = {"request_id": headers["x-ibpo-request-id"], "reward": float(right)}
        assert call(f"{url}/outcomes", outcome)[0] == 200
    path = tmp_path / "gateway.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in log()))
    return path


def test_a_better_and_a_worse_router_are_told_apart_from_what_was_served(world, tmp_path):
    path = served(world, tmp_path)
    log = read_served(path)
    assert len(log.prompts) == log.num_requests == 120 and (log.propensity < 1).mean() > 0.5
    found = {good: judge_served(router_of(tmp_path, good), log) for good in (True, False)}
    for good, row in found.items():
        value = row["value"]
        assert abs(value.self_normalised - float(good)) <= 4 * value.self_normalised_error + 0.1
        assert row["served_tokens"] == pytest.approx(np.mean(log.tokens))
    assert found[True]["value"].self_normalised > found[False]["value"].self_normalised + 0.5
    # By hand: one-hot choices at the prices of the time.
    router = router_of(tmp_path)
    scores = router.scores(log.prompts)
    price = np.array([row["extended"] if row["extended"] is not None else np.inf for row in log.price])
    pick = (scores.gain[:, 1] > price).astype(int)
    place = [int(name == "extended") for name in log.response_group]
    byhand = evaluate_off_policy(place, log.reward.tolist(), log.propensity.tolist(), np.eye(2)[pick])
    assert found[True]["value"].ips == pytest.approx(byhand.ips)
    assert found[True]["agreement"] == pytest.approx(np.mean(pick == np.array(place)))
    save_router(router, tmp_path / "router.json")
    shown = run("route", "show", tmp_path / "router.json", "--served", path)
    assert shown.exit_code == 0, shown.output
    assert "120 of 120 answered requests with prompt and outcome" in shown.output
    assert "doubly robust" in shown.output and "nothing was explored" not in shown.output


def test_without_exploring_it_says_that_only_agreement_is_judged(world, tmp_path):
    path = served(world, tmp_path, explore=0.0, size=30)
    save_router(router_of(tmp_path), tmp_path / "router.json")
    shown = run("route", "show", tmp_path / "router.json", "--served", path)
    assert shown.exit_code == 0, shown.output
    assert "nothing was explored: only where it agrees is anything known" in shown.output


def test_logs_that_say_nothing_are_refused(tmp_path):
    path, router = tmp_path / "gateway.jsonl", router_of(tmp_path)
    request = {"event": "request", "request_id": "a", "outcome": "answered", "response_group": "standard", "tokens": 9}
    outcome = {"event": "outcome", "request_id": "a", "reward": 1.0}

    def write(*rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    for rows, message in (
        ([request, outcome], "1 answered requests, 1 outcomes, none with its prompt; serve with log_bodies"),
        ([{**request, "body": {"prompt": "q", "n": 2}}, outcome], "none with its prompt"),
        ([request, [1]], "line 2: no line of a gateway's log"),
        ([{**outcome, "reward": "much"}], "line 1: no line of a gateway's log"),
        ([outcome, {**request, "propensity": 0}], r"line 2: .*propensity is 0; it must be from 1e-100 to 1"),
        ([{**request, "propensity": "half"}], r"line 1: no line of a gateway's log"),
        ([{**request, "tokens": "nine"}], r"line 1: no line of a gateway's log"),
        ([{**request, "price": [1]}], r"line 1: no line of a gateway's log"),
        ([{**request, "price": {"extended": math.nan}}], r"line 1: .*extended is nan"),
        ([{**request, "body": {"prompt": 5}}, outcome], "none with its prompt"),
    ):
        with pytest.raises(IbpoError, match=message):
            read_served(write(*rows))
    with pytest.raises(IbpoError, match="cannot be read"):
        read_served(tmp_path / "none")
    write({**request, "body": {"prompt": "q"}, "response_group": "huge"}, outcome)
    with pytest.raises(IbpoError, match="has the response groups huge, and the router knows standard, extended"):
        judge_served(router, read_served(path))
    write({**request, "body": {"prompt": "q"}, "price": {"extended": None, "tokens": 0.001}}, outcome)
    found = judge_served(router, read_served(path))
    assert found["agreement"] == 1.0 and found["tokens"] == 9.0 and found["explored"] == 0.0
    write({**request, "body": {"prompt": "q"}, "price": {"money": 20.0}}, outcome)
    with pytest.raises(IbpoError, match="priced by the budget 'money', of the log does not say what, and the router"):
        judge_served(router, read_served(path))


def test_one_request_has_no_standard_error(tmp_path):
    """It was 0, as if one answer were sure to be the next."""
    alone = evaluate_off_policy([1], [1.0], [0.5], np.array([[0.0, 1.0]]))
    agreed = evaluate_off_policy([0, 0, 1], [0.0, 1.0, 1.0], [0.5] * 3, np.array([[0.0, 1.0]] * 3))
    assert math.isnan(alone.ips_error) and math.isnan(alone.self_normalised_error)
    assert agreed.ips_error > 0 and math.isnan(agreed.self_normalised_error)
    path, router = tmp_path / "gateway.jsonl", tmp_path / "router.json"
    save_router(router_of(tmp_path), router)
    row = {"event": "request", "request_id": "a", "outcome": "answered", "response_group": "standard", "tokens": 9}
    outcome = {"event": "outcome", "request_id": "a", "reward": 1.0}
    body = {"prompt": "word"}
    path.write_text(json.dumps({**row, "body": body, "price": {"extended": 1.0}}) + "\n" + json.dumps(outcome) + "\n")
    assert "reward 1.0000 ± not known as served" in run("route", "show", router, "--served", path).output


def test_prices_are_of_what_their_budget_counts(tmp_path):
    """A share may be called as one likes: its price was multiplied by tokens."""
    path, router = tmp_path / "gateway.jsonl", router_of(tmp_path)
    found = []
    for name in ("extended", "thinking"):
        rows = [{"event": "listening", "budgets": {name: "extended"}}]
        for i in range(20):
            body = {"messages": [{"role": "user", "content": " ".join(["word"] * (30 if i % 2 else 3))}]}
            row = {"event": "request", "request_id": f"{i}", "outcome": "answered", "tokens": 9, "body": body}
            rows.append({**row, "response_group": "extended" if i % 2 else "standard", "price": {name: 0.2}})
            rows.append({"event": "outcome", "request_id": f"{i}", "reward": 1.0})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found.append(judge_served(router, read_served(path))["agreement"])
    assert found == [1.0, 1.0]


def test_a_router_of_money_is_not_charged_by_prices_of_tokens(tmp_path):
    """A column `price_usd` was taken for tokens, and one named `cost` was not taken for money."""
    path, router = tmp_path / "gateway.jsonl", router_of(tmp_path)
    row = {"event": "request", "request_id": "a", "outcome": "answered", "response_group": "standard", "tokens": 9}

    def judge(cost_name, budget):
        request = {**row, "body": {"prompt": "q"}, "price": {budget: 0.001}}
        outcome = {"event": "outcome", "request_id": "a", "reward": 1.0}
        path.write_text(json.dumps(request) + "\n" + json.dumps(outcome) + "\n")
        return judge_served(replace(router, cost_name=cost_name), read_served(path))["agreement"]

    with pytest.raises(IbpoError, match=r"priced by the budget 'tokens', .* knows standard, extended and money"):
        judge("price_usd", "tokens")
    assert judge("price_usd", "money") == judge("cost", "money") == judge("cost", "tokens") == 1.0


def test_requests_with_several_prompts_or_tokens_are_left_out(tmp_path):
    """One of them was the end of the whole judgement."""
    path, rows = tmp_path / "gateway.jsonl", []
    bodies = [
        {"prompt": ["q"]},
        {"prompt": "q"},
        {"prompt": ["a", "b"]},
        {"prompt": [1, 2]},
        {"prompt": "q", "best_of": 4},
    ]
    for i, body in enumerate(bodies):
        row = {"event": "request", "request_id": f"{i}", "outcome": "answered", "response_group": "standard"}
        rows += [{**row, "tokens": 9, "body": body}, {"event": "outcome", "request_id": f"{i}", "reward": 1.0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_served(path).prompts == ["q", "q"]
    judge_served(router_of(tmp_path), read_served(path))
