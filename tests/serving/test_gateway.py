"""The gateway by the official client: what passes through, what is set, what is held and settled."""

import hashlib
import json
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import aiohttp
import openai
import pytest

from ibpo.errors import IbpoError
from ibpo.serving.gateway.gains import Scores
from ibpo.serving.gateway.settings import Keys
from tests.serving.world import SHARE, TOKENS, World

KEYS = {
    "gold": "the key of the gold tenant",
    "quiet": "the key of the quiet tenant",
    "operator": "the operator's own key",
}
HASHED = Keys(rows=tuple((hashlib.sha256(key.encode()).digest(), tenant) for tenant, key in KEYS.items()))
FRAMING = {"Date", "Server", "Connection", "Transfer-Encoding", "Content-Length"}


@pytest.fixture
def world():
    with World() as made:
        yield made


def client_of(url, key="none", **options) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30, **options)


def ask(client, content="hello", **options):
    return client.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": content}], **options
    )


def bulk(world, url, headers, *, stream=False, body=None):
    """(status, headers, bytes) of one chat request per row of headers, one after the other."""

    async def run():
        got = []
        async with aiohttp.ClientSession() as session:
            for row in headers:
                data = {"model": "m", "messages": [], "stream": stream, **(body or {})}
                async with session.post(f"{url}/v1/chat/completions", json=data, headers=row) as reply:
                    got.append((reply.status, reply.headers, await reply.read()))
        return got

    return world.run(run())


def groups_of(replies):
    return [headers["x-ibpo-response-group"] for _, headers, _ in replies]


def call(url, body: Any = None, headers: Any = None, method: str | None = None) -> tuple[int, Any, bytes]:
    """(status, headers, bytes) as they are on the wire."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_share_is_held_and_said(world):
    upstream = world.upstream()
    gateway, url, rows = world.gateway(upstream.url)
    client = client_of(url)
    chosen = []
    for _ in range(10):
        raw = ask(client)
        assert raw.parse().choices[0].message.content.startswith("w0 w1")
        chosen.append(raw.headers["x-ibpo-response-group"])
        assert raw.headers["x-ibpo-budget-left"].startswith("extended=")
        assert raw.headers["x-ibpo-price"].startswith("extended=")
    chosen += groups_of(bulk(world, url, [{}] * 110))
    assert abs(chosen.count("extended") - 36) <= 5  # the overdraft
    thinking = [body["chat_template_kwargs"]["enable_thinking"] for body in upstream.requests]
    assert thinking == [group == "extended" for group in chosen]
    shown = world.snapshot(gateway)["budgets"][0]
    assert (shown["spent"], shown["num_requests"], shown["in_flight"]) == (chosen.count("extended"), 120, 0)
    assert len([row for row in rows() if row["event"] == "request"]) == 120
    assert "hello" not in json.dumps(rows())


def test_actual_tokens_are_settled_streaming_or_not(world):
    upstream = world.upstream()
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS)
    client, tokens = client_of(url), 0
    for _ in range(5):
        chunks = client.chat.completions.create(model="m", messages=[], stream=True)
        tokens += "".join(chunk.choices[0].delta.content or "" for chunk in chunks).count("w")
        tokens += ask(client).parse().usage.completion_tokens
    for stream in (True, False):
        tokens += sum(data.count(b"w") for _, _, data in bulk(world, url, [{}] * 55, stream=stream))
    world.wait_until(lambda: world.snapshot(gateway)["num_in_flight"] == 0)
    shown = world.snapshot(gateway)["budgets"][0]
    assert shown["spent"] == tokens and shown["in_flight"] == 0
    assert shown["spent"] <= 22 * 120 + shown["overdraft"]
    assert shown["spent"] >= 22 * 120 - shown["overdraft"] - shown["burst"] - 50
    assert {row["counted"] for row in rows() if row["event"] == "request"} == {"usage"}


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("stream", [False, True, "with usage"])
def test_answers_pass_byte_for_byte(world, path, stream):
    upstream = world.upstream()
    upstream.extra_headers = {"X-Request-Id": "abc", "Set-Cookie": "a=b"}
    _, url, _ = world.gateway(upstream.url)
    body: Any = (
        {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        if "chat" in path
        else {"model": "m", "prompt": "hi"}
    )
    if stream:
        body["stream"] = True
    if stream == "with usage":
        body["stream_options"] = {"include_usage": True}
    _, through, got = call(f"{url}/v1/{path}", body)
    sent = dict(upstream.requests[-1])
    if stream:
        assert sent["stream_options"] == {"include_usage": True}
    if stream is True:
        del sent["stream_options"]
    _, direct, expected = call(f"{upstream.url}/{path}", sent)
    assert got == expected and len(got) > 100
    added = {"x-ibpo-response-group", "x-ibpo-price", "x-ibpo-budget-left"}
    kept = [(name.lower(), value) for name, value in through.items() if name not in added | FRAMING]
    assert kept == [(name.lower(), value) for name, value in direct.items() if name not in FRAMING]
    assert {name for name in through if name.startswith("x-ibpo")} == added


def test_everything_else_passes(world):
    upstream = world.upstream()
    _, url, _ = world.gateway(upstream.url)
    assert [model.id for model in client_of(url).models.list()] == ["m"]
    data = bytes(range(256)) * 300
    for query in ("", "?gzip=1", "?a=%20b&status=418"):
        got, expected = (call(f"{base}/v1/embeddings{query}", data) for base in (url, upstream.url.removesuffix("/v1")))
        assert (
            got[0] == expected[0] and got[2][:3] == expected[2][:3] and got[1]["X-Saw-Path"] == f"/v1/embeddings{query}"
        )
        assert len(got[2]) == len(expected[2])
    assert call(f"{url}/v1/things/3", method="DELETE")[0] == 200
    assert call(f"{url}/v1/responses", {"input": "hi"})[0] == 404  # it would generate, and nobody would count
    assert call(f"{url}/v1/chat/completions", method="GET")[0] == 405


def test_stream_without_usage_is_counted_by_its_events(world):
    upstream = world.upstream()
    upstream.without_usage = True
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS)
    call(f"{url}/v1/chat/completions", {"model": "m", "messages": [], "stream": True})
    world.wait_until(lambda: any(row["event"] == "request" for row in rows()))
    row = next(row for row in rows() if row["event"] == "request")
    assert row["counted"] == "estimated" and row["tokens"] in (10, 50)
    assert world.snapshot(gateway)["budgets"][0]["spent"] == row["tokens"]


def test_callers_choose_inside_the_budget(world):
    upstream = world.upstream()
    gateway, url, _ = world.gateway(upstream.url)
    client = client_of(url)
    wanted = groups_of(bulk(world, url, [{"x-ibpo-response-group": "extended"}] * 60))
    extended = wanted.count("extended")
    assert 60 * 0.3 - 5 <= extended <= 60 * 0.3 + 5
    assert set(groups_of(bulk(world, url, [{"x-ibpo-response-group": "standard"}] * 20))) == {"standard"}
    # Those that gain most get it.
    gains = [((7 * i) % 100) / 100 for i in range(200)]
    got = groups_of(bulk(world, url, [{"x-ibpo-gain": str(gain)} for gain in gains]))
    above = [group == "extended" for gain, group in zip(gains[60:], got[60:], strict=True) if gain > 0.8]
    below = [group == "extended" for gain, group in zip(gains[60:], got[60:], strict=True) if gain < 0.5]
    assert sum(above) / len(above) > 0.8 and sum(below) / len(below) < 0.1
    assert world.snapshot(gateway)["budgets"][0]["largest_overdraft"] <= 5 + 1e-9
    with pytest.raises(openai.BadRequestError, match="name one of standard, extended"):
        ask(client, extra_headers={"x-ibpo-response-group": "huge"})
    with pytest.raises(openai.BadRequestError, match=r"gains in \[0, 1\]"):
        ask(client, extra_headers={"x-ibpo-gain": "lots"})


class LengthRouter:
    """A real if simple rule: long questions gain."""

    def gain(self, request):
        content = request["messages"][-1]["content"]
        if content == "crash":
            raise RuntimeError("a router may do anything")
        return Scores({"extended": min(1.0, len(content) / 100), "unknown": 3.0})


def test_a_router_predicts_gains_and_may_fail(world):
    upstream = world.upstream()
    _, url, rows = world.gateway(upstream.url, router=LengthRouter())
    client = client_of(url)
    lengths = [(37 * number) % 100 for number in range(120)]
    bodies = [{"messages": [{"role": "user", "content": "x" * length}]} for length in lengths]
    got = [
        (length, *groups_of(bulk(world, url, [{}], body=body))) for length, body in zip(lengths, bodies, strict=True)
    ]
    long = [group == "extended" for length, group in got[50:] if length > 85]
    short = [group == "extended" for length, group in got[50:] if length < 50]
    assert sum(long) / len(long) > 0.8 and sum(short) / len(short) < 0.15
    ask(client, "crash")
    sources = [row["source"] for row in rows() if row["event"] == "request"]
    assert sources == ["router"] * 120 + ["default"]


def test_keys_make_tenants_and_stay_here(world, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "the upstream's key")
    upstream = world.upstream()
    plan = {"budget": {"extended": {"mean": 0.3, "response_group": "extended"}}, "fair_share": 0.5}
    gateway, url, rows = world.gateway(upstream.url, plan=plan, keys=HASHED, upstream={"key_env": "UPSTREAM_KEY"})
    for tenant in ("gold", "gold", "quiet"):
        ask(client_of(url, KEYS[tenant]))
    assert {h["Authorization"] for h in upstream.headers} == {"Bearer the upstream's key"}
    shown = world.snapshot(gateway)
    assert {row["name"]: row["num_requests"] for row in shown["tenants"]} == {"gold": 2, "quiet": 1}
    for wrong in ("the key of the gold tenanT", "", "the operator's own key"):
        refused = openai.AuthenticationError if wrong != KEYS["operator"] else openai.PermissionDeniedError
        with pytest.raises((refused, openai.OpenAIError)):
            ask(client_of(url, wrong or "x"))
    assert world.snapshot(gateway)["budgets"][0]["num_requests"] == 3
    bearer = {name: {"Authorization": f"Bearer {key}"} for name, key in KEYS.items()}
    for page in ("/", "/budget", "/budget.json", "/metrics"):
        assert call(f"{url}{page}")[0] == 401
        assert call(f"{url}{page}", headers=bearer["gold"])[0] == 403
        assert call(f"{url}{page}", headers=bearer["operator"])[0] == 200
    _, _, text = call(f"{url}/metrics", headers=bearer["operator"])
    assert b'ibpo_requests_total{outcome="answered",response_group=' in text
    assert b'ibpo_tenant_used{budget="extended",tenant="gold"}' in text
    everything = json.dumps(rows()) + text.decode()
    assert not any(key in everything for key in [*KEYS.values(), "the upstream's key"])


def test_without_keys_the_callers_own_goes_on(world):
    upstream = world.upstream()
    _, url, _ = world.gateway(upstream.url)
    ask(client_of(url, "mine"))
    assert upstream.headers[-1]["Authorization"] == "Bearer mine"
    assert call(f"{url}/v1/echo", headers={"Authorization": "Bearer mine"})[1]["X-Saw-Authorization"] == "Bearer mine"


def test_bodies_are_logged_where_asked_for_only(world):
    upstream = world.upstream()
    for asked in (False, True):
        _, url, rows = world.gateway(upstream.url, log_bodies=asked)
        ask(client_of(url), "a secret")
        world.wait_until(lambda rows=rows: any(row["event"] == "request" for row in rows()))
        assert ("a secret" in json.dumps(rows())) is asked


def test_ready_until_it_drains(world):
    upstream = world.upstream()
    gateway, url, _ = world.gateway(upstream.url, keys=HASHED)
    assert call(f"{url}/ready")[0] == 200  # without a key: load balancers have none
    gateway.draining = True
    assert call(f"{url}/ready")[::2] == (503, b'{"ready": false}')
    headers = {"Authorization": f"Bearer {KEYS['gold']}"}
    status, _, said = call(f"{url}/v1/chat/completions", {"model": "m", "messages": []}, headers)
    assert status == 503 and b'"draining"' in said and upstream.requests == []


def test_traffic_that_changes_raises_the_alarm(world):
    """Easy requests, then hard ones only: at the price of the easy ones all would think."""
    upstream = world.upstream()
    gateway, url, _ = world.gateway(upstream.url)
    bulk(world, url, [{"x-ibpo-gain": str(37 * number % 100 / 400)} for number in range(224)])
    quiet = world.snapshot(gateway)
    assert quiet["num_drifts"] == 0 and quiet["last_drift"] == 0
    seen = groups_of(bulk(world, url, [{"x-ibpo-gain": str(0.7 + 37 * n % 100 / 400)} for n in range(160)]))
    shown = world.snapshot(gateway)
    assert shown["num_drifts"] >= 1 and shown["last_drift"] > quiet["time"]
    assert b"ibpo_drifts 1" in call(f"{url}/metrics")[2]
    # And the budget is held through it, at a price for the new traffic.
    assert seen[64:].count("extended") == pytest.approx(0.3 * 96, abs=10)
    assert shown["budgets"][0]["largest_overdraft"] <= 5 + 1e-9 and shown["budgets"][0]["price"] > 0.7


def test_a_slice_is_the_keys_affair(world):
    """A ceiling is not left by naming no slice, nor another's promise claimed by naming it."""
    upstream = world.upstream()
    plan = {**SHARE, "slice": {"law": {"at_most": {"extended": 0.1}}, "vip": {"at_least": {"extended": 0.3}}}}
    keys = replace(HASHED, slices={"gold": ("law",)})
    gateway, url, _ = world.gateway(upstream.url, plan=plan, keys=keys)
    seen = []
    for number in range(60):
        headers = {"Authorization": f"Bearer {KEYS['gold' if number % 2 else 'quiet']}"}
        if number % 3:
            headers["x-ibpo-slice"] = "vip"
        _, got, _ = call(f"{url}/v1/chat/completions", {"model": "m", "messages": []}, headers)
        seen.append((number % 2, got["x-ibpo-response-group"]))
    assert [group for gold, group in seen if gold].count("extended") <= 0.1 * 30 + 5
    accounts = gateway.governor.controller._store.accounts
    assert "slice vip" not in accounts and accounts["slice law"][0].num_requests == 30
    # Without keys the callers are trusted, and the header is what counts.
    gateway, url, _ = world.gateway(upstream.url, plan=plan)
    for name in ("vip", "vip", "law", "other"):
        call(f"{url}/v1/chat/completions", {"model": "m", "messages": []}, {"x-ibpo-slice": name})
    accounts = gateway.governor.controller._store.accounts
    assert [accounts[f"slice {name}"][0].num_requests for name in ("vip", "law")] == [2, 1]
    assert "slice other" not in accounts
    with pytest.raises(IbpoError, match="the plan has no slice 'law'"):
        world.gateway(upstream.url, keys=keys)
