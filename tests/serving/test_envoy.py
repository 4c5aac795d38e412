"""The budget inside a real Envoy, against a real upstream: see `envoy_env.sh` for its environment."""

import gzip
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from tests.serving.envoy import VARIABLE, Envoy
from tests.serving.world import HASHED, KEYS, TOKENS, World, call, client_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no Envoy; see envoy_env.sh"),
]
EXTENDED, STANDARD = {"x_ibpo_response_group": "extended"}, {"x_ibpo_response_group": "standard"}
LIMITS = {"max_body_bytes": 2 << 20, "max_buffered_bytes": 1 << 20, "drain_seconds": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with World() as world:
        upstream = world.upstream()
        gateway, url, rows = world.gateway(upstream.url, plan=TOKENS, limits=LIMITS, ext_proc="127.0.0.1:0")
        envoy = Envoy(tmp_path_factory.mktemp("envoy"), upstream.url, gateway.ext_proc)
        try:
            yield world, upstream, gateway, envoy, rows, url
        finally:
            envoy.stop()


@pytest.fixture
def case(made):
    """(upstream, Envoy, a function that returns the new lines of the log and what was spent on them)."""
    world, upstream, gateway, envoy, rows, _ = made
    before, already = len(requests_of(rows)), world.snapshot(gateway)["budgets"][0]["spent"]
    upstream.requests.clear()
    upstream.headers.clear()

    def ended(count=1):
        world.wait_until(lambda: len(requests_of(rows)) >= before + count)
        world.wait_until(lambda: world.snapshot(gateway)["num_in_flight"] == 0)
        new = requests_of(rows)[before:]
        assert len(new) == count
        spent = world.snapshot(gateway)["budgets"][0]["spent"] - already
        return (new[0] if count == 1 else new), spent

    yield upstream, envoy, ended
    upstream.fault_of, upstream.reply, upstream.pause, upstream.without_usage = lambda number: None, None, 0.0, False
    upstream.extra_headers = {}


def requests_of(rows):
    return [row for row in rows() if row["event"] == "request"]


def chat(text="hello", **more):
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def test_our_messages_are_envoys():
    """Numbers and kinds of all fields, by the package that holds Envoy's whole API."""
    script = """
import json, sys
sys.path.insert(0, sys.argv[1])
from envoy.service.ext_proc.v3 import external_processor_pb2 as p
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2 as m
from envoy.config.core.v3 import base_pb2 as b
from envoy.type.v3 import http_status_pb2 as s
found = {}
for name in json.loads(sys.argv[2]):
    kind = next(getattr(place, name) for place in (p, m, b, s) if hasattr(place, name))
    found[name] = {f.name: [f.number, f.type, f.is_repeated, f.containing_oneof.name if f.containing_oneof else ""]
                   for f in kind.DESCRIPTOR.fields}
print(json.dumps(found))
"""
    from ibpo.serving.gateway import ext_proc_messages as ours

    protos = Path(os.environ[VARIABLE]).parents[5] / "protos"
    said = subprocess.run(
        [sys.executable, "-c", script, str(protos), json.dumps(list(ours.MESSAGES))],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    theirs = json.loads(said.stdout)
    for name, kind in ours._CLASSES.items():
        for field in kind.DESCRIPTOR.fields:
            number, type_, repeated, oneof = theirs[name][field.name]
            assert (field.number, field.is_repeated) == (number, repeated), (name, field.name)
            assert bool(field.containing_oneof) == bool(oneof), (name, field.name)
            # An enum of theirs is a number on the wire, as `int32` is.
            assert field.type == type_ or (name, field.name) == ("HttpStatus", "code"), (name, field.name)


def test_the_same_decisions_and_bookings_as_ibpo_serve(made):
    """One stream of requests by the official client, through both doors: chats, completions, caps, n, gains, errors."""
    world, upstream, _, envoy, _, _ = made
    other, url, other_rows = world.gateway(upstream.url, plan=TOKENS, limits=LIMITS)
    fresh, _, fresh_rows = world.gateway(upstream.url, plan=TOKENS, limits=LIMITS, ext_proc="127.0.0.1:0")
    folder = envoy.output.parent / "same"
    folder.mkdir()
    mine = Envoy(folder, upstream.url, fresh.ext_proc)
    draw = random.Random(7)
    requests = []
    for number in range(120):
        options: dict[str, Any] = {"extra_headers": {"x-ibpo-gain": f"{draw.random():.3f}"}}
        if draw.random() < 0.3:
            options["max_tokens"] = draw.choice([30, 60, 1000])
        if draw.random() < 0.2:
            options["n"] = 2
        if draw.random() < 0.4:
            options["stream"] = True
            if draw.random() < 0.3:
                options["stream_options"] = {"include_usage": True}
        requests.append((draw.random() < 0.2, options, 1000 + number if draw.random() < 0.1 else None))

    def run(url):
        client, seen, faults = client_of(url), [], []
        upstream.requests.clear()
        upstream.fault_of = lambda number: faults[-1]
        for completes, options, fault in requests:
            faults.append("500" if fault else None)
            kind = client.completions if completes else client.chat.completions
            asked = {"prompt": "hello"} if completes else {"messages": [{"role": "user", "content": "hello"}]}
            try:
                answer = kind.with_raw_response.create(model="m", **asked, **options)
                pieces = list(answer.parse()) if options.get("stream") else []
                names = ("response-group", "price", "budget-left")
                seen.append([answer.headers[f"x-ibpo-{name}"] for name in names] + [len(pieces)])
                assert all(piece.choices for piece in pieces) or "stream_options" in options
            except openai.InternalServerError as error:
                seen.append([error.status_code])
        sent = list(upstream.requests)
        upstream.fault_of = lambda number: None
        return seen, sent

    try:
        theirs, ours = run(url), run(mine.url)
        assert ours == theirs
        world.wait_until(lambda: world.snapshot(fresh)["num_in_flight"] == 0)
        world.wait_until(lambda: len(requests_of(fresh_rows)) == len(requests))
        keys = ("response_group", "outcome", "tokens", "counted", "price", "gains", "stream", "status")
        booked = [[{key: row[key] for key in keys} for row in requests_of(of)] for of in (other_rows, fresh_rows)]
        assert booked[0] == booked[1]
        assert {"answered", "failed"} == {row["outcome"] for row in booked[0]}
        assert len({row["response_group"] for row in booked[0]}) == 2
        shown = [world.snapshot(door)["budgets"][0] for door in (other, fresh)]
        for key in ("spent", "num_requests", "largest_overdraft", "balance"):
            assert shown[0][key] == shown[1][key], key
    finally:
        mine.stop()


def test_chat_keeps_its_length_and_is_settled_at_its_usage(case):
    upstream, envoy, ended = case
    status, headers, data = envoy.post("/v1/chat/completions", chat(), **EXTENDED)
    row, spent = ended()
    assert (status, row["outcome"], row["tokens"], row["counted"], spent) == (200, "answered", 50, "usage", 50)
    assert headers["x-ibpo-response-group"] == row["response_group"] == "extended"
    assert int(headers["content-length"]) == len(data) and "transfer-encoding" not in headers
    sent = upstream.headers[0]
    assert upstream.requests[0]["max_tokens"] == 400
    assert int(sent["Content-Length"]) == len(json.dumps(upstream.requests[0]))
    assert not any(name.lower().startswith("x-ibpo-") or name.lower() == "accept-encoding" for name in sent)


def test_stream_comes_at_once_and_is_settled_once(case):
    """The usage is asked for, counted, and taken out again where the caller did not ask for it."""
    upstream, envoy, ended = case
    upstream.pause = 0.5  # 50 ms a piece
    for options in (None, {"include_usage": True}):
        body = chat(stream=True) | ({"stream_options": options} if options else {})
        request = urllib_request(envoy, body, "extended")
        with request as answer:
            began = time.monotonic()
            first = answer.readline()
            waited = time.monotonic() - began
            data = first + answer.read()
            took = time.monotonic() - began
        assert data.endswith(b"data: [DONE]\n\n") and data.count(b"data: {") == 50 + bool(options)
        assert (b'"usage"' in data) == bool(options)
        assert waited < took / 2  # piece by piece, not held back to the end
    rows, spent = ended(2)
    assert [(row["outcome"], row["tokens"], row["counted"]) for row in rows] == [("answered", 50, "usage")] * 2
    assert spent == 100


def urllib_request(envoy, body, group):
    import urllib.request

    request = urllib.request.Request(
        f"{envoy.url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "x-ibpo-response-group": group},
    )
    return urllib.request.urlopen(request, timeout=60)


@pytest.mark.parametrize("fault", ["500", "429", "400"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_cancelled(case, fault, stream):
    upstream, envoy, ended = case
    upstream.fault_of = lambda number: fault
    status, headers, _ = envoy.post("/v1/chat/completions", chat(stream=stream), **EXTENDED)
    row, spent = ended()
    assert (str(status), row["outcome"], spent) == (fault, "failed", 0)
    assert headers["x-ibpo-response-group"] == row["response_group"]


def test_a_dropped_connection_is_envoys_own_answer_and_cancelled(case):
    upstream, envoy, ended = case
    upstream.fault_of = lambda number: "drop"
    status, _, _ = envoy.post("/v1/chat/completions", chat(), **EXTENDED)
    row, spent = ended()
    assert (status, row["status"], row["outcome"], spent) == (503, 503, "failed", 0)


def test_a_broken_stream_is_settled_at_what_came(case):
    upstream, envoy, ended = case
    upstream.fault_of = lambda number: "cut"
    with (
        pytest.raises((OSError, http.client.HTTPException)),
        urllib_request(envoy, chat(stream=True), "standard") as answer,
    ):
        answer.read()
    row, spent = ended()
    assert row["outcome"] == "disconnected" and 0 < spent <= 50


def test_a_caller_that_leaves_a_stream_pays_what_came(case):
    upstream, envoy, ended = case
    upstream.pause = 0.5
    answer = urllib_request(envoy, chat(stream=True), "extended")
    for _ in range(10):
        answer.readline()
    answer.close()
    row, spent = ended()
    assert row["outcome"] == "disconnected" and 3 <= spent <= 45


def test_a_caller_that_leaves_before_the_answer_pays_what_was_expected(case):
    upstream, envoy, ended = case
    upstream.pause = 1.0
    with socket.create_connection(("127.0.0.1", envoy.port)) as line:
        body = json.dumps(chat()).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}x-ibpo-response-group: extended\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.3)
    row, spent = ended()
    assert row["outcome"] == "disconnected" and row["tokens"] is None and spent > 0


def test_answers_without_length_and_compressed_ones(case):
    upstream, envoy, ended = case
    usage = {"usage": {"completion_tokens": 7, "prompt_tokens": 1, "total_tokens": 8}}
    data = json.dumps({"object": "chat.completion", "choices": [], **usage}).encode()

    async def chunked(request, body):
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for place in range(0, len(data), 20):
            await response.write(data[place : place + 20])
        return response

    upstream.reply = chunked
    assert envoy.post("/v1/chat/completions", chat(), **STANDARD)[2] == data
    row, _ = ended()
    assert (row["tokens"], row["counted"], row["outcome"]) == (7, "usage", "answered")

    async def packed(request, body):
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return web.Response(body=gzip.compress(data), headers=headers)

    upstream.reply = packed
    assert gzip.decompress(envoy.post("/v1/chat/completions", chat(), **STANDARD)[2]) == data
    rows, _ = ended(2)
    # Nobody asked for it, and it cannot be read here: the whole reserve.
    assert (rows[1]["tokens"], rows[1]["counted"]) == (100, "reserve")


def test_a_large_body_comes_whole(case):
    upstream, envoy, ended = case
    text = "x" * (1 << 20)
    assert envoy.post("/v1/chat/completions", chat(text), **STANDARD)[0] == 200
    assert upstream.requests[0]["messages"][0]["content"] == text
    ended()
    status, _, data = envoy.post("/v1/chat/completions", chat("x" * (3 << 20)))
    assert status == 413 and b"too_large" in data


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/chat/completions/", {}, 404),
        ("/v1/chat%2Fcompletions", {}, 400),
        ("/v1/engines/m/completions", {}, 404),
        ("/v1/chat/completions", {"Content-Type": "text/plain"}, 415),
        ("/v1/chat/completions", {"Content-Encoding": "gzip"}, 415),
    ],
)
def test_what_is_not_governed_and_not_listed_is_refused(case, path, headers, status):
    upstream, envoy, _ = case
    seen, _, _ = call(f"{envoy.url}{path}", chat(), {**headers})
    assert seen == status and not upstream.requests


def test_envoy_writes_a_path_plainly_before_it_is_looked_at(case):
    _, envoy, ended = case
    for path in ("/v1/chat/%63ompletions", "/v1//chat/completions", "/v1/models/../chat/completions"):
        status, headers, _ = envoy.post(path, chat(), **STANDARD)
        assert (status, headers["x-ibpo-response-group"]) == (200, "standard")
    ended(3)


def test_other_paths_go_through(case):
    _, envoy, _ = case
    status, _, data = call(f"{envoy.url}/v1/models", method="GET")
    assert status == 200 and b'"m"' in data
    assert envoy.post("/v1/embeddings", {"input": "x"})[2] == b'{"input": "x"}'


def test_keys_are_asked_for_and_stay_here(made, tmp_path, monkeypatch):
    world, upstream, _, _, _, _ = made
    monkeypatch.setenv("IBPO_TEST_UPSTREAM_KEY", "of the upstream")
    settings = {"key_env": "IBPO_TEST_UPSTREAM_KEY"}
    gateway, _, rows = world.gateway(
        upstream.url, plan=TOKENS, upstream=settings, keys=HASHED, ext_proc="127.0.0.1:0", limits=LIMITS
    )
    envoy = Envoy(tmp_path, upstream.url, gateway.ext_proc)
    try:
        upstream.headers.clear()
        assert envoy.post("/v1/chat/completions", chat())[0] == 401
        assert envoy.post("/v1/chat/completions", chat(), Authorization=f"Bearer {KEYS['operator']}")[0] == 403
        assert not upstream.headers
        assert envoy.post("/v1/chat/completions", chat(), Authorization=f"Bearer {KEYS['gold']}")[0] == 200
        assert upstream.headers[0]["Authorization"] == "Bearer of the upstream"
        world.wait_until(lambda: len(requests_of(rows)) == 1)
        assert requests_of(rows)[0]["tenant"] == "gold"
    finally:
        envoy.stop()


def test_retries_are_one_request(made, tmp_path):
    world, upstream, _, _, _, _ = made
    gateway, _, rows = world.gateway(upstream.url, plan=TOKENS, ext_proc="127.0.0.1:0", limits=LIMITS)
    retries = "timeout: 0s, retry_policy: {retry_on: 5xx, num_retries: 2}"
    envoy = Envoy(tmp_path, upstream.url, gateway.ext_proc, **{"timeout: 0s": retries})
    try:
        upstream.requests.clear()
        upstream.fault_of = lambda number: "500" if number < 2 else None
        status, _, _ = envoy.post("/v1/chat/completions", chat(), **EXTENDED)
        world.wait_until(lambda: len(requests_of(rows)) == 1)
        row = requests_of(rows)[0]
        assert (status, len(upstream.requests), row["retries"], row["outcome"]) == (200, 3, 2, "answered")
        assert upstream.requests[0] == upstream.requests[2]
    finally:
        upstream.fault_of = lambda number: None
        envoy.stop()


@pytest.mark.parametrize("allow", [True, False])
def test_a_gateway_that_is_gone(made, tmp_path, allow):
    """Fail-open goes on as it came and is counted by Envoy; fail-closed is a 500."""
    _, upstream, _, _, _, _ = made
    text = f"failure_mode_allow: {str(allow).lower()}"
    envoy = Envoy(tmp_path, upstream.url, "127.0.0.1:9", **{"failure_mode_allow: true": text})
    try:
        upstream.requests.clear()
        status, headers, _ = envoy.post("/v1/chat/completions", chat())
        assert "x-ibpo-response-group" not in headers
        assert status == (200 if allow else 500)
        assert upstream.requests == ([chat()] if allow else [])
        assert envoy.counter("ext_proc.failure_mode_allowed") == int(allow)
    finally:
        envoy.stop()


def test_the_budget_holds_under_load_and_faults(made, tmp_path):
    """300 requests, eight at a time, a fault for every tenth: each is ended once, and nothing is left open."""
    from tests.serving.world import many

    world, upstream, _, _, _, _ = made
    gateway, _, rows = world.gateway(upstream.url, plan=TOKENS, ext_proc="127.0.0.1:0", limits=LIMITS)
    envoy = Envoy(tmp_path, upstream.url, gateway.ext_proc)
    kinds = ["500", "drop", "cut"]
    try:
        upstream.fault_of = lambda number: kinds[number // 10 % 3] if number % 10 == 0 else None
        seen = many(world, envoy.url, 300)
        world.wait_until(lambda: len(requests_of(rows)) == 300)
        shown = world.snapshot(gateway)
        budget = shown["budgets"][0]
        assert shown["num_in_flight"] == 0 and budget["in_flight"] == pytest.approx(0, abs=1e-9)
        assert seen.count("whole") >= 250
        failed = 300 - budget["num_requests"]
        assert budget["spent"] <= 22 * (budget["num_requests"] + failed) + 450
    finally:
        upstream.fault_of = lambda number: None
        envoy.stop()


def test_the_command_drains(made, tmp_path):
    """`ibpo serve --ext-proc` without an upstream: SIGTERM lets an open stream come to its end."""
    from tests.serving.envoy import free_port

    _, upstream, _, _, _, _ = made
    config = tmp_path / "gateway.toml"
    config.write_text(
        '[budget.tokens]\nmean = 22\noverdraft = 450\nburst = 110\n[[model]]\nname = "*"\n'
        '[[model.response_group]]\nname = "standard"\nmax_tokens = 100\ntokens = 10\n'
        '[[model.response_group]]\nname = "extended"\nmax_tokens = 400\ntokens = 50\n'
        "chat_template_kwargs = {enable_thinking = true}\n"
    )
    port = free_port()
    command = [sys.executable, "-m", "ibpo", "serve", "--config", str(config), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--ext-proc", f"127.0.0.1:{port}", "--log", str(tmp_path / "log")], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline() + process.stderr.readline()
        assert f"Envoy's calls are answered at 127.0.0.1:{port}" in said
        envoy = Envoy(tmp_path, upstream.url, f"127.0.0.1:{port}")
        try:
            upstream.pause = 0.5
            with urllib_request(envoy, chat(stream=True), "extended") as answer:
                first = answer.readline()
                process.terminate()
                data = first + answer.read()
            assert data.endswith(b"data: [DONE]\n\n") and data.count(b"data: {") == 50
            assert process.wait(30) == 0
        finally:
            upstream.pause = 0.0
            envoy.stop()
        row = next(
            row for row in map(json.loads, (tmp_path / "log").read_text().splitlines()) if row["event"] == "request"
        )
        assert (row["outcome"], row["tokens"], row["counted"]) == ("answered", 50, "usage")
    finally:
        process.kill()
        process.wait()
