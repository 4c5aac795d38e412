"""Odd requests and answers of every kind: refused before anything is booked, or booked at what they allow."""

import asyncio
import gzip
import json
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ibpo.serving.gateway.settings import CAPS, COUNTS
from tests.serving.world import GROUPS, HASHED, KEYS, TOKENS, World, call

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PLAIN = json.dumps(CHAT).encode()


def request(body=None, *lines, path="/v1/chat/completions", method="POST", host="127.0.0.1", length=True, **odd: str):
    """A request as it is on the wire."""
    if not isinstance(body, bytes):
        body = json.dumps({**CHAT, **(body or {})}).encode()
    rows = [f"{method} {path} HTTP/{odd.get('version', '1.1')}", *([f"Host: {host}"] if host != "none" else [])]
    rows += [f"Content-Type: {odd.get('kind', 'application/json')}", "Connection: close", *lines]
    rows += [f"Content-Length: {len(body)}"] if length else []
    end = odd.get("end", "\r\n")
    return end.join(rows).encode("latin-1") + end.encode() * 2 + body


def raw(url, data):
    """Everything that comes back until the connection is closed."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as peer:
        peer.sendall(data)
        got = b""
        while piece := peer.recv(65536):
            got += piece
        return got


class Generous:
    """An upstream that generates all that a request allows, by any of the names that servers know."""

    def __init__(self):
        self.generated = 0
        self.answer: Any = None

    async def reply(self, http_request, body):
        if self.answer is not None:
            return await self.answer(http_request)
        caps, counts = ([body[name] for name in names if body.get(name)] for names in (CAPS, COUNTS))
        prompts = body["prompt"] if http_request.path == "/v1/completions" else ""
        several = isinstance(prompts, list) and not all(isinstance(token, int) for token in prompts)
        count = max(caps) * max(counts, default=1) * (len(prompts) if several else 1)
        self.generated += count
        reported = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
        if not body.get("stream"):
            return web.json_response({"choices": [], "usage": reported})
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(http_request)
        # A careless server's way of reading a truth value.
        if (body.get("stream_options") or {}).get("include_usage") in (True, 1, "yes", "true"):
            await stream.write(b"data: " + json.dumps({"choices": [], "usage": reported}).encode() + b"\n\n")
        await stream.write(b"data: [DONE]\n\n")
        return stream


@pytest.fixture(scope="module")
def served():
    with World() as world:
        upstream, generous = world.upstream(), Generous()
        upstream.reply = generous.reply
        gateway, url, rows = world.gateway(upstream.url, plan=TOKENS, groups=GROUPS)
        yield world, upstream, generous, gateway, url, rows


def spent(world, gateway):
    world.wait_until(lambda: gateway.access.num_in_flight == 0)
    budget = world.snapshot(gateway)["budgets"][0]
    assert budget["in_flight"] == 0
    return budget["spent"], budget["num_requests"]


REFUSED = {
    # Other spellings of the cap and of the number of answers.
    "cap as a text": request({"max_tokens": "5"}),
    "cap as a truth value": request({"max_tokens": True}),
    "cap with an exponent": request(PLAIN[:-1] + b', "max_tokens": 1e3}'),
    "cap with a point": request({"max_tokens": 5.0}),
    "cap as a list": request({"max_tokens": [5]}),
    "cap below zero": request({"max_completion_tokens": -1}),
    "cap in capitals": request({"MAX_TOKENS": 5}),
    "cap in camels": request({"maxOutputTokens": 5}),
    "cap with a hyphen": request({"max-tokens": 5}),
    "cap in a table": request({"extra_body": {"max_tokens": 9999}}),
    "cap in a table of an unknown name": request({"model_kwargs": {"max_tokens": 9999}}),
    "cap deep in a table": request({"options": {"a": {"b": {"num_predict": 9999}}}}),
    "cap in a list of tables": request({"extra_body": [{"n_predict": 9999}]}),
    "cap in the settings of Bedrock": request({"inferenceConfig": {"maxTokens": 9999, "max_tokens": 9999}}),
    "a table as a text": request({"extra_body": '{"max_tokens": 9999}'}),
    "number of answers in a table": request({"sampling_params": {"n": 9}}),
    "number of answers as a text": request({"n": "3"}),
    "best_of of 1000": request({"prompt": "a", "best_of": 1000}, path="/v1/completions"),
    "answers times prompts": request({"prompt": ["a"] * 70, "n": 2}, path="/v1/completions"),
    # Thinking, streams and answers that could not be counted.
    "limit on the thinking as a text": request({"thinking_token_budget": "99999"}),
    "limit on the thinking as a list": request({"thinking": {"budget_tokens": [9]}}),
    "limit of Anthropic's as a text": request(
        {"max_tokens": 5000, "thinking": {"budget_tokens": "9"}}, path="/v1/messages"
    ),
    "no usage, as a text": request({"stream": True, "stream_options": {"include_usage": "false"}}),
    "no usage, as a number": request({"stream": True, "stream_options": {"include_usage": 0}}),
    "options of the stream as a list": request({"stream": True, "stream_options": [1]}),
    "stream as a number": request({"stream": 1}),
    "Stream": request({"Stream": True}),
    "an answer in the background": request({"input": "a", "background": True}, path="/v1/responses"),
    "an answer in the Background": request({"input": "a", "Background": True}, path="/v1/responses"),
    # What is not JSON, or none in UTF-8.
    "NaN": request(PLAIN[:-1] + b', "temperature": NaN}'),
    "minus infinity": request(PLAIN[:-1] + b', "temperature": -Infinity}'),
    "a number of 5,000 digits": request(PLAIN[:-1] + b', "seed": ' + b"9" * 5000 + b"}"),
    "UTF-16": request(json.dumps(CHAT).encode("utf-16"), kind="application/json; charset=utf-16"),
    "byte order mark": request(b"\xef\xbb\xbf" + PLAIN),
    "a list": request(b"[" + PLAIN + b"]"),
    "two objects": request(PLAIN + PLAIN),
    "deep nesting": request(PLAIN[:-1] + b', "options": ' + b'{"a":' * 3000 + b"1" + b"}" * 3001),
    "a compressed body": request(gzip.compress(PLAIN), "Content-Encoding: GZIP"),
    "another kind of content": request(None, kind="text/plain"),
    # Paths and methods.
    "capitals in the path": request(path="/V1/chat/completions"),
    "two slashes": request(path="/v1//chat/completions"),
    "a slash at the end": request(path="/v1/chat/completions/"),
    "percent": request(path="/v1/chat/%63ompletions"),
    "parameters of the path": request(path="/v1/chat/completions;a=b"),
    "dots with a parameter": request(b"", path="/v1/models/..;/shutdown", method="GET"),
    "dots with a parameter, escaped": request(b"", path="/v1/models/%2e%2e;/shutdown", method="GET"),
    "absolute": request(path="http://127.0.0.1/v1/chat/completions"),
    "absolute, elsewhere": request(path="http://example.org/v1/chat/completions"),
    "CONNECT": request(b"", path="127.0.0.1:80", method="CONNECT"),
    "OPTIONS of all": request(b"", path="*", method="OPTIONS"),
    "TRACE": request(b"", method="TRACE"),
    "small letters": request(method="post"),
    "batches": request(path="/v1/batches"),
    "counting tokens": request(path="/v1/messages/count_tokens"),
    "web socket": request(b"", "Upgrade: websocket", path="/v1/realtime", method="GET"),
    # Host and Origin.
    "no host": request(host="none"),
    "an empty host": request(host=""),
    "a host with a dot": request(host="localhost."),
    "a mapped address": request(host="[::ffff:127.0.0.1]"),
    "a host with a user": request(host="localhost@example.org"),
    "a longer host": request(host="127.0.0.1.example.org"),
    "two hosts": request(None, "Host: example.org"),
    "hosts in one line": request(host="localhost, example.org"),
    "no origin": request(None, "Origin: null"),
    "the second origin": request(None, "Origin: http://127.0.0.1", "Origin: http://example.org"),
    # Framing.
    "bare line feeds": request(end="\n"),
    "two lengths": request(None, "Content-Length: 3"),
    "a signed length": request(None, f"Content-Length: +{len(PLAIN)}", length=False),
    "a list of lengths": request(None, f"Content-Length: {len(PLAIN)}, {len(PLAIN)}", length=False),
    "length and chunks": request(None, "Transfer-Encoding: chunked"),
    "bad chunks": request(b"zz\r\n{}", "Transfer-Encoding: chunked", length=False),
    "two kinds of content": request(None, "Content-Type: text/plain"),
    "a mark in a header": request(None, "X-A: a\x01b"),
    "a huge header": request(None, "X-A: " + "a" * 100_000),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_booked(served, name):
    world, upstream, _, gateway, url, rows = served
    before = spent(world, gateway), len(upstream.requests)
    got = raw(url, REFUSED[name])
    assert got[9:11] == b"40" or got[9:12] in (b"413", b"415"), got[:300]
    assert b"Traceback" not in got and not any(row["event"] == "internal_error" for row in rows())
    assert (spent(world, gateway), len(upstream.requests)) == before


CHUNKED = b"%x\r\n%b\r\n0\r\nX-Trailer: a\r\n\r\n" % (len(PLAIN), PLAIN)
ANSWERED = {  # request, answers that it counts as
    "two keys": (request(PLAIN[:-1] + b', "max_tokens": 5, "max_tokens": 9999, "n": 1, "n": 2}'), 2),
    "an escaped key": (request(PLAIN[:-1] + b', "max\\u005ftokens": 9999}'), 1),
    "two caps": (request({"max_tokens": 1, "max_completion_tokens": 9999}), 1),
    "a cap of another server": (request({"n_predict": 9999}), 1),
    "best_of above n": (request({"prompt": "a", "n": 2, "best_of": 5}, path="/v1/completions"), 5),
    "prompts of all kinds": (request({"prompt": [1, "a", [2]]}, path="/v1/completions"), 3),
    "tokens": (request({"prompt": [1, 2, 3]}, path="/v1/completions"), 1),
    "a schema with a field n": (request({"tools": [{"function": {"parameters": {"n": {"type": "integer"}}}}]}), 1),
    "a form with a field n": (request({"format": {"properties": {"n": {"type": "integer"}, "max_tokens": {}}}}), 1),
    "log-probabilities": (request({"logprobs": False, "top_logprobs": None}), 1),
    "no usage asked for": (request({"stream": True, "stream_options": {"include_usage": False}}), 1),
    "a response that goes on": (request({"input": "a", "previous_response_id": "r"}, path="/v1/responses"), 1),
    "half a surrogate": (request(PLAIN[:-1] + b', "user": "\\ud800"}'), 1),
    "chunks and a trailer": (request(CHUNKED, "Transfer-Encoding: chunked", length=False), 1),
    "100-continue": (request(None, "Expect: 100-continue"), 1),
    "another expectation": (request(None, "Expect: 200-maybe"), 1),
    "HTTP/1.0": (request({"stream": True}, version="1.0"), 1),
    "upgrade": (request(None, "Upgrade: websocket", "Sec-WebSocket-Version: 13"), 1),
    "bytes beyond ASCII": (request(None, "X-A: \xff\xfe"), 1),
    "IPv6": (request(host="[::1]:80"), 1),
    "its own origin": (request(None, "Origin: http://127.0.0.1"), 1),
    "two at once": (request().replace(b"Connection: close\r\n", b"") + request(), 2),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_booked_at_what_it_allows(served, name):
    world, _, generous, gateway, url, _ = served
    data, answers = ANSWERED[name]
    before, generated = spent(world, gateway), generous.generated
    got = raw(url, data)
    assert got.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200", b"HTTP/1.1 100")), got[:300]
    after = spent(world, gateway)
    assert after[0] - before[0] == generous.generated - generated > 0 and after[1] - before[1] == answers


LONG = {"choices": [{"logprobs": ["y" * 1000] * 20_000}], "usage": {"completion_tokens": 3}}
EVENTS = (
    b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n',
    b'data: {"choices": [], "usage": {"completion_tokens": 44}}\n\ndata: [DONE]\n\n',
)


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ({"status": 307, "headers": {"Location": "/elsewhere"}}, 0),
        ({"status": 404, "body": b"{}"}, 0),
        ({"body": json.dumps(LONG).encode()}, "all"),
        ({"body": gzip.compress(json.dumps(LONG).encode()), "headers": {"Content-Encoding": "gzip"}}, "all"),
        (
            {
                "body": gzip.compress(b'{"choices": [],') + gzip.compress(b'"usage": {"completion_tokens": 33}}'),
                "headers": {"Content-Encoding": "gzip"},
            },
            33,
        ),
    ],
    ids=["redirect", "not found", "long", "long when unpacked", "two members"],
)
def test_odd_answers(served, answer, tokens):
    world, _, generous, gateway, url, _ = served

    async def reply(_):
        return web.Response(**answer, content_type="application/json")

    before, generous.answer = spent(world, gateway), reply
    got = raw(url, request({"max_tokens": 60}))
    generous.answer = None
    assert b"Access-Control" not in got
    assert spent(world, gateway)[0] - before[0] == (60 if tokens == "all" else tokens)


def test_a_stream_of_several_members_is_read_to_its_end(served):
    world, _, generous, gateway, url, _ = served

    async def reply(http_request):
        kind = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip", "Access-Control-Allow-Origin": "*"}
        stream = web.StreamResponse(headers=kind)
        await stream.prepare(http_request)
        for event in EVENTS:
            await stream.write(gzip.compress(event))
        return stream

    before, generous.answer = spent(world, gateway), reply
    got = raw(url, request({"stream": True}))
    generous.answer = None
    assert b'"hi"' in got and b"[DONE]" in got and b"Access-Control" not in got
    assert spent(world, gateway)[0] - before[0] == 44


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/octet-stream"])
def test_a_stream_is_read_whatever_it_is_called(served, kind):
    world, _, generous, gateway, url, _ = served
    split = b'data: {"choices": [], "usage" : \ndata: {"completion_tokens": 44}}\n\ndata: [DONE]\n\n'
    go_on = asyncio.Event()

    async def reply(http_request):
        stream = web.StreamResponse(headers={"Content-Type": kind})
        await stream.prepare(http_request)
        await stream.write(EVENTS[0])
        await go_on.wait()
        await stream.write(split)
        return stream

    async def once():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True}) as got,
        ):
            first = await got.content.readany()  # comes before the rest is written
            go_on.set()
            return first + await got.content.read()

    before, generous.answer = spent(world, gateway), reply
    assert world.run(once()) == EVENTS[0] + b"data: [DONE]\n\n"
    generous.answer = None
    assert spent(world, gateway)[0] - before[0] == 44


@pytest.mark.parametrize(
    ("fields", "text", "booked"),
    [
        ({}, "content", 1),  # what came is all that there was
        ({"include_reasoning": False}, "content", 50),
        ({"reasoning": {"exclude": True}}, "content", 50),
        ({"include_reasoning": False}, "reasoning", 1),  # it is shown all the same
    ],
)
def test_whoever_hides_the_thinking_and_leaves_pays_what_was_expected(served, fields, text, booked):
    world, _, generous, gateway, url, _ = served

    async def reply(http_request):
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(http_request)
        await stream.write(b"data: " + json.dumps({"choices": [{"delta": {text: "so"}}]}).encode() + b"\n\n")
        http_request.transport.abort()
        return stream

    for _ in range(30):  # so that there is room for an extended answer
        raw(url, request({"max_tokens": 1}))
    before, generous.answer = spent(world, gateway), reply
    got = raw(url, request({"stream": True, **fields}, "x-ibpo-response-group: extended"))
    generous.answer = None
    assert b"x-ibpo-response-group: extended" in got
    assert spent(world, gateway)[0] - before[0] == booked


def test_nobody_reaches_other_places_with_the_operators_key():
    with World() as world:
        upstream = world.upstream()
        _, url, rows = world.gateway(upstream.url, keys=HASHED)
        odd = dict.fromkeys(
            ("X-Original-URL", "X-HTTP-Method-Override", "X-Rewrite-URL", "OpenAI-Project", "Range"), "x"
        )
        key = {"Authorization": f"Bearer {KEYS['gold']}"}
        assert call(f"{url}/v1/chat/completions", CHAT, {**key, **odd})[0] == 200
        assert not {name.lower() for name in odd} & {name.lower() for name in upstream.headers[-1]}
        # Whoever has no key does not fill the disk.
        for _ in range(700):
            assert call(f"{url}/v1/chat/completions", CHAT)[0] == 401
        assert 600 <= sum(row["event"] == "refused" for row in rows()) <= 700
