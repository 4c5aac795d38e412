"""What passes through byte for byte, and what the caller gets when the upstream fails."""

import asyncio
import base64
import json
import zlib
from typing import Any, cast

import aiohttp
import openai
import pytest
from aiohttp import web

from ibpo.serving.gateway.proxy import Upstream
from ibpo.serving.gateway.settings import UpstreamSettings
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
    added = {"x-ibpo-response-group", "x-ibpo-price", "x-ibpo-budget-left", "x-ibpo-request-id"}
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


@pytest.mark.parametrize(
    ("ends", "chat", "tokenize"),
    [
        ("/v1", "/v1/chat/completions", "/tokenize"),
        ("", "/v1/chat/completions", "/tokenize"),
        ("/openai/v1", "/openai/v1/chat/completions", "/openai/tokenize"),
        ("/v1beta/openai", "/v1beta/openai/chat/completions", "/tokenize"),
        ("/api/paas/v4/", "/api/paas/v4/chat/completions", "/api/paas/tokenize"),
    ],
)
def test_an_upstream_may_have_another_version(ends, chat, tokenize):
    settings = UpstreamSettings(url=f"http://127.0.0.1:9{ends}")
    upstream = Upstream(settings, cast(Any, None), key=None, keep_authorization=False, on_fault=print)
    asked = {path: str(upstream.address(path)) for path in ("/v1/chat/completions", "/tokenize")}
    assert asked == {
        "/v1/chat/completions": f"http://127.0.0.1:9{chat}", "/tokenize": f"http://127.0.0.1:9{tokenize}"
    }  # fmt: skip


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
        # Only what has not reached the model is sent again.
        ("500", False, "500", 1),
        ("502", False, "502", 1),
        ("503", True, "503", 3),
        ("504", True, "504", 1),
        ("429", False, "429", 1),
        ("400", True, "400", 1),
        ("drop", False, "502", 1),
        ("drop", True, "502", 1),
        ("hang", True, "504", 1),
        ("half", False, "502", 1),
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
    # Only what cost nothing counts no longer: where no answer came in time, or half of one, it was generated.
    counted = 1 if fault in ("hang", "half", "cut", "quiet", "malformed") else 0
    budget = world.snapshot(gateway)["budgets"][0]
    assert (budget["num_requests"], budget["in_flight"]) == (counted, 0)


def test_upstream_that_is_not_there(world):
    gateway, url, _ = world.gateway("http://127.0.0.1:9/v1", upstream={"retries": 1})

    async def once():
        async with aiohttp.ClientSession() as session:
            return await ask_once(session, url, 0, stream=False)

    assert world.run(once()) == "502"
    assert world.snapshot(gateway)["budgets"][0]["num_requests"] == 0


@pytest.mark.parametrize(
    ("status", "said", "attempts"),
    [(500, "true", 3), (503, "false", 1), (429, "true", 3), (500, None, 1), (503, None, 3), (200, "true", 1)],
)
def test_the_upstream_says_whether_to_retry_and_callers_do_not_multiply_it(world, status, said, attempts):
    upstream = world.upstream()

    async def reply(request, body):
        headers = {} if said is None else {"x-should-retry": said}
        return web.json_response({"error": {"message": "no"}} if status >= 400 else {}, status=status, headers=headers)

    upstream.reply = reply
    _, url, _ = world.gateway(upstream.url, upstream={"retries": 2})
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2)
    try:
        client.chat.completions.create(model="m", messages=[])
    except openai.APIStatusError as error:
        assert error.status_code == status
    # The openai client retries 500, 503 and 429 by itself where nobody forbids it.
    assert len(upstream.requests) == (3 if said is None else attempts)


def test_a_malformed_chunk_ends_the_answer_at_once(world):
    """A chunk's length that is not a number: the caller does not wait until the stream counts as silent."""
    upstream = world.upstream()

    async def reply(request, body):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        piece = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
        request.transport.write(head + b"%x\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(0.2)
        request.transport.write(b"zzz\r\nabc\r\n")
        await asyncio.sleep(60)
        raise asyncio.CancelledError

    upstream.reply = reply
    _, url, rows = world.gateway(upstream.url, upstream={"idle_seconds": 3600, "first_byte_seconds": 3600})

    async def once():
        async with aiohttp.ClientSession() as session:
            return await ask_once(session, url, 0, stream=True)

    assert world.run(once(), timeout=50) == "broken"
    world.wait_until(lambda: any(row["event"] == "request" for row in rows()))
    (row,) = [row for row in rows() if row["event"] == "request"]
    assert (row["outcome"], row["tokens"]) == ("cut", 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_are_compressed_all_the_same(world, encoding, stream):
    """A stream is passed on plainly, event by event; what cannot be read is passed on as it is."""
    upstream = world.upstream()
    go_on = asyncio.Event()
    events = [
        b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[],"usage":{"completion_tokens":7}}\n\n',
    ]
    plain = json.dumps({"choices": [], "usage": {"completion_tokens": 7}}).encode()

    async def reply(request, body):
        assert request.headers["Accept-Encoding"] == "identity"
        made = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
        headers = {"Content-Encoding": encoding, "Content-Type": "text/event-stream" if stream else "application/json"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if not stream:
            await response.write(made.compress(plain) + made.flush())
            return response
        await response.write(made.compress(events[0]) + made.flush(zlib.Z_SYNC_FLUSH))
        await go_on.wait()
        await response.write(made.compress(events[1]) + made.flush())
        return response

    upstream.reply = reply
    _, url, rows = world.gateway(upstream.url)

    async def once():
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.post(f"{url}/v1/chat/completions", json={"messages": [], "stream": stream}) as got,
        ):
            first = await got.content.readany()  # comes before the second is written
            go_on.set()
            return got.headers, first + await got.content.read()

    headers, data = world.run(once())
    world.wait_until(lambda: any(row["event"] == "request" for row in rows()))
    (row,) = [row for row in rows() if row["event"] == "request"]
    if encoding == "br":  # not known here; passed on all the same
        assert headers["Content-Encoding"] == "br" and row["tokens"] is None
        assert b'ibpo_failures_total{what="encoding"} 1' in call(f"{url}/metrics")[2]
        return
    assert (row["tokens"], row["counted"], row["outcome"]) == (7, "usage", "answered")
    if stream:
        assert "Content-Encoding" not in headers and data == events[0]
    else:
        assert headers["Content-Encoding"] == encoding and zlib.decompress(data, 47) == plain


def test_a_user_and_a_password_in_the_upstreams_address_are_said_to_it_alone(world):
    """They stood in the log, and every request that had an `Authorization` of its own was answered by a 500."""
    upstream = world.upstream()
    for keys in (None, HASHED):
        _, url, rows = world.gateway(upstream.url.replace("http://", "http://me:se%20cret@"), keys=keys)
        own = {"Authorization": f"Bearer {KEYS['gold']}"}
        assert call(f"{url}/v1/chat/completions", {"messages": []}, own)[0] == 200
        basic = "Basic " + base64.b64encode(b"me:se cret").decode()
        assert upstream.headers[-1]["Authorization"] == basic
        assert call(f"{url}/v1/embeddings", {}, own)[1]["X-Saw-Authorization"] == basic
        (line,) = [row for row in rows() if row["event"] == "listening"]
        assert line["upstream"] == upstream.url and "cret" not in json.dumps(rows())


def test_an_upstream_that_breaks_off_is_not_said_to_be_out_of_reach(world):
    upstream = world.upstream()
    upstream.fault_of = lambda number: "drop"
    _, url, _ = world.gateway(upstream.url)
    status, _, data = call(f"{url}/v1/chat/completions", {"messages": []})
    assert (status, json.loads(data)["error"]["message"]) == (502, "the upstream broke off; try again later")
