"""What passes through byte for byte, and what the caller gets when the upstream fails."""

from typing import Any

import aiohttp
import pytest

from tests.serving.world import HASHED, KEYS, ask, ask_once, call, client_of

FRAMING = {"Date", "Server", "Connection", "Transfer-Encoding", "Content-Length"}


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


def test_what_the_operator_lists_passes(world):
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
    assert call(f"{url}/v1/chat/completions", method="GET")[0] == 405


def test_without_keys_the_callers_own_goes_on(world):
    upstream = world.upstream()
    _, url, _ = world.gateway(upstream.url)
    ask(client_of(url, "mine"))
    assert upstream.headers[-1]["Authorization"] == "Bearer mine"
    got = call(f"{url}/v1/embeddings", {}, {"Authorization": "Bearer mine"})
    assert got[1]["X-Saw-Authorization"] == "Bearer mine"


ELSEWHERE = [
    *(("POST", path) for path in ("/chat/completions", "/completion", "/completions", "/infill", "/api/chat", "/")),
    *(("POST", path) for path in ("/responses", "/anthropic/v1/messages", "/v1/batches", "/V1/Chat/Completions")),
    *(("POST", path) for path in ("/v1/chat/completions/", "/generate", "/inference/v1/generate", "/invocations")),
    *(("POST", path) for path in ("/shutdown", "/v1/load_lora_adapter", "/v1/fine_tuning/jobs", "/v1/audio/speech")),
    *(("POST", path) for path in ("/v1/chat/completions/batch", "/v1/models", "/models/load", "/Generate")),
    *(("GET", path) for path in ("/v1/files", "/metrics/", "/v1/responses/r", "/slots", "/v1/embeddings", "/docs")),
    *(("DELETE", path) for path in ("/v1/models/m", "/v1/files/f")),
]


@pytest.mark.parametrize("keys", [None, HASHED], ids=["trusted", "tenants"])
def test_the_upstreams_key_opens_listed_paths_only(world, monkeypatch, keys):
    monkeypatch.setenv("UPSTREAM_KEY", "the upstream's key")
    upstream = world.upstream()
    _, url, _ = world.gateway(upstream.url, keys=keys, upstream={"key_env": "UPSTREAM_KEY"})
    own = {"Authorization": f"Bearer {KEYS['gold']}"}
    for method, path in ELSEWHERE:
        got = call(f"{url}{path}", {} if method == "POST" else None, own, method=method)
        assert got[0] in (404, 405) and "X-Saw-Authorization" not in got[1], (method, path)
    assert upstream.requests == []
    assert call(f"{url}/v1/embeddings", {}, own)[1]["X-Saw-Authorization"] == "Bearer the upstream's key"
    assert call(f"{url}/v1/models/m", headers=own)[0] == 200
    # And what the operator names, it in turn no longer.
    _, url, _ = world.gateway(upstream.url, keys=keys, tables={"allow": ["POST /v1/rerank"]})
    assert call(f"{url}/v1/rerank", {}, own)[0] == 200 and call(f"{url}/v1/embeddings", {}, own)[0] == 404


@pytest.mark.parametrize(
    ("fault", "stream", "said", "attempts"),
    [
        ("500", False, "500", 3),
        ("503", True, "503", 3),
        ("429", False, "429", 1),
        ("400", True, "400", 1),
        ("drop", False, "502", 3),
        ("drop", True, "502", 3),
        ("hang", True, "504", 3),
        ("half", False, "502", 3),
        ("cut", True, "broken", 1),
        ("quiet", True, "broken", 1),
        ("malformed", False, "malformed", 1),
    ],
)
def test_each_fault(world, fault, stream, said, attempts):
    upstream = world.upstream()
    upstream.fault_of = lambda number: fault
    # Short only where the limit is what is tested: a busy machine must not look like a fault.
    limits = {"hang": {"first_byte_seconds": 0.3}, "quiet": {"idle_seconds": 0.3}}.get(fault, {})
    gateway, url, rows = world.gateway(upstream.url, upstream={"retries": 2, **limits})

    async def once():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
            return await ask_once(session, url, 0, stream=stream)

    assert world.run(once()) == said
    assert len(upstream.requests) == attempts
    world.wait_until(lambda: any(row["event"] == "request" for row in rows()))
    counted = 1 if said in ("broken", "malformed") else 0
    budget = world.snapshot(gateway)["budgets"][0]
    assert (budget["num_requests"], budget["in_flight"]) == (counted, 0)


def test_upstream_that_is_not_there(world):
    gateway, url, _ = world.gateway("http://127.0.0.1:9/v1", upstream={"retries": 1})

    async def once():
        async with aiohttp.ClientSession() as session:
            return await ask_once(session, url, 0, stream=False)

    assert world.run(once()) == "502"
    assert world.snapshot(gateway)["budgets"][0]["num_requests"] == 0
