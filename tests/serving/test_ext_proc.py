"""Envoy's calls, played by a gRPC client of the tests: what each message is answered with, and what is booked.

The real Envoy is in `test_envoy.py`.
"""

import asyncio
import json
import subprocess
import sys

import grpc
import pytest

from ibpo.errors import IbpoError
from ibpo.serving.controller import ServingPolicy
from ibpo.serving.gateway.ext_proc import ExtProc
from ibpo.serving.gateway.ext_proc_messages import SERVICE, ProcessingRequest, ProcessingResponse
from ibpo.serving.gateway.server import Service, running
from ibpo.serving.gateway.settings import build_settings
from ibpo.serving.gateway.telemetry import RequestLog
from tests.serving.world import GROUPS, HASHED, KEYS, SHARE, TOKENS, call

CHAT = {":method": "POST", ":path": "/v1/chat/completions", "content-type": "application/json"}
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
JSON_ANSWER = {":status": "200", "content-type": "application/json", "x-envoy-upstream-service-time": "3"}
STREAM_ANSWER = {**JSON_ANSWER, "content-type": "text/event-stream"}
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


@pytest.fixture
def door(world):
    """(the gateway, a function that plays a call, the lines of requests)."""
    gateway, _, rows = world.gateway("http://127.0.0.1:9/v1", plan=TOKENS, ext_proc="127.0.0.1:0")
    return gateway, Envoy(world, gateway).play, lambda: [row for row in rows() if row["event"] == "request"]


class Envoy:
    """Sends messages one by one, each after the answer to the one before."""

    def __init__(self, world, gateway):
        self.world, self.address = world, gateway.ext_proc

    def play(self, *messages):
        """The answers to messages; then the call is ended."""

        async def run():
            got = []
            async with grpc.aio.insecure_channel(self.address) as channel:
                process = channel.stream_stream(
                    f"/{SERVICE}/Process",
                    request_serializer=ProcessingRequest.SerializeToString,
                    response_deserializer=ProcessingResponse.FromString,
                )
                stream = process()
                for message in messages:
                    try:
                        await stream.write(message)
                        got.append(await stream.read())
                    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it has ended
                        return [*got, await stream.code()]
                await stream.done_writing()
                return got

        return self.world.run(run())


def headers(kind, rows, *, end=False):
    message = ProcessingRequest()
    part = getattr(message, kind)
    part.end_of_stream = end
    for name, value in rows.items():
        part.headers.headers.add(key=name, raw_value=value.encode())
    return message


def body(kind, data, *, end=True):
    message = ProcessingRequest()
    part = getattr(message, kind)
    part.body, part.end_of_stream = data, end
    return message


def asked(value=BODY, **more):
    rows = {**CHAT, **{name.replace("_", "-"): value for name, value in more.items()}}
    return [headers("request_headers", rows), body("request_body", json.dumps(value).encode())]


def set_by(common):
    return {row.header.key: row.header.raw_value.decode() for row in common.header_mutation.set_headers}


def test_a_request_is_rewritten_with_its_length_and_settled(door, world):
    _, play, rows = door
    answer = json.dumps({"choices": [{"message": {"content": "w"}}], "usage": USAGE}).encode()
    first, second, third, fourth = play(
        *asked(x_ibpo_response_group="extended", accept_encoding="gzip"),
        headers("response_headers", {**JSON_ANSWER, "content-length": str(len(answer))}),
        body("response_body", answer),
    )
    removed = list(first.request_headers.response.header_mutation.remove_headers)
    assert removed == ["accept-encoding", "x-ibpo-response-group"]
    assert (first.mode_override.request_body_mode, first.mode_override.response_body_mode) == (2, 0)
    written = second.request_body.response.body_mutation.body
    assert json.loads(written)["max_tokens"] == 400
    assert set_by(second.request_body.response) == {"content-length": str(len(written))}
    assert set_by(third.response_headers.response)["x-ibpo-response-group"] == "extended"
    assert third.mode_override.response_body_mode == 2  # whole, so that it keeps its length
    assert fourth.WhichOneof("response") == "response_body"
    assert not fourth.response_body.response.HasField("body_mutation")
    world.wait_until(lambda: len(rows()) == 1)
    assert (rows()[0]["outcome"], rows()[0]["tokens"], rows()[0]["counted"]) == ("answered", 7, "usage")


@pytest.mark.parametrize("trailers", [False, True])
@pytest.mark.parametrize("size", [7, 40, 10_000])
def test_the_usage_is_taken_out_of_a_stream(door, world, size, trailers):
    """However it is cut into messages, and whether trailers follow or not."""
    _, play, rows = door
    pieces = [{"choices": [{"delta": {"content": "w"}}]}] * 7
    shown = b"".join(b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces)
    counted = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
    data = shown + counted + b"data: [DONE]\n\n"
    cut = [data[place : place + size] for place in range(0, len(data), size)]
    messages = [body("response_body", piece, end=False) for piece in cut]
    messages.append(ProcessingRequest(response_trailers={}) if trailers else body("response_body", b"", end=True))
    answers = play(*asked({**BODY, "stream": True}), headers("response_headers", STREAM_ANSWER), *messages)
    sent = json.loads(answers[1].request_body.response.body_mutation.body)
    assert sent["stream_options"] == {"include_usage": True}
    assert answers[2].mode_override.response_body_mode == 1
    passed = b""
    for piece, answer in zip([*cut, b""], answers[3:], strict=True):
        mutation = answer.response_body.response.body_mutation
        passed += piece if mutation.WhichOneof("mutation") is None else mutation.body
    assert passed == shown + b"data: [DONE]\n\n"
    world.wait_until(lambda: len(rows()) == 1)
    assert (rows()[0]["outcome"], rows()[0]["tokens"], rows()[0]["counted"]) == ("answered", 7, "usage")


@pytest.mark.parametrize(
    ("answer", "end", "outcome", "tokens"),
    [
        ({**JSON_ANSWER, ":status": "500"}, False, "failed", None),
        ({":status": "503"}, False, "failed", None),  # Envoy's own: no connection
        ({":status": "504"}, False, "cut", None),  # Envoy's own: the upstream may have worked
        (JSON_ANSWER, True, "answered", None),  # no body
        (JSON_ANSWER, False, "disconnected", None),
        (STREAM_ANSWER, False, "disconnected", None),
        (None, False, "disconnected", None),  # the caller left while the upstream was at work
    ],
)
def test_what_was_seen_decides_and_not_how_the_call_ends(door, world, answer, end, outcome, tokens):
    gateway, play, rows = door
    more = [] if answer is None else [headers("response_headers", answer, end=end)]
    play(*asked(x_ibpo_response_group="standard"), *more)
    world.wait_until(lambda: len(rows()) == 1)
    assert (rows()[0]["outcome"], rows()[0]["tokens"]) == (outcome, tokens)
    spent = world.snapshot(gateway)["budgets"][0]["spent"]
    assert spent == (0 if outcome == "failed" else 10)  # what a standard answer is expected to cost


def test_a_decision_that_was_never_handed_over_is_cancelled(door, world):
    """The request goes on as it came, or not at all: in no case as decided."""
    gateway, _, rows = door

    async def messages():
        for message in asked():
            yield message
        await asyncio.sleep(30)

    async def run(answers_taken):
        process = ExtProc(gateway.governor, gateway.access).process(messages(), None)
        for _ in range(answers_taken):
            await anext(process)
        await process.aclose()  # as gRPC does where an answer cannot be sent any more

    world.run(run(2))
    world.wait_until(lambda: len(rows()) == 1)
    assert rows()[0]["outcome"] == "failed"
    world.wait_until(lambda: gateway.access.num_in_flight == 0)
    shown = world.snapshot(gateway)
    assert shown["num_in_flight"] == 0 and shown["budgets"][0]["spent"] == 0


@pytest.mark.parametrize(
    ("messages", "status", "code"),
    [
        ([headers("request_headers", {**CHAT, ":path": "/v1/engines/m/completions"})], 404, "not_allowed"),
        ([headers("request_headers", {**CHAT, ":path": "/v1/chat/%63ompletions"})], 400, "bad_path"),
        ([headers("request_headers", {**CHAT, ":method": "GET"})], 405, "method"),
        ([headers("request_headers", {**CHAT, "content-type": "text/plain"})], 415, "content_type"),
        ([headers("request_headers", {**CHAT, "content-encoding": "gzip"})], 415, "encoding"),
        ([headers("request_headers", CHAT, end=True)], 400, "bad_request"),
        (asked(x_ibpo_gain="much"), 400, "bad_request"),
        ([headers("request_headers", CHAT), body("request_body", b"no JSON")], 400, "bad_request"),
        ([headers("request_headers", CHAT), body("request_body", b" " * (5 << 20))], 413, "too_large"),
    ],
)
def test_refusals_are_those_of_the_gateway(door, world, messages, status, code):
    gateway, play, rows = door
    answer = play(*messages)[-1].immediate_response
    assert answer.status.code == status and json.loads(answer.body)["error"]["code"] == code
    world.wait_until(lambda: world.snapshot(gateway)["num_in_flight"] == gateway.access.num_in_flight == 0)
    assert not rows()


def test_other_paths_are_one_message(door):
    _, play, rows = door
    (answer,) = play(headers("request_headers", {":method": "GET", ":path": "/v1/models"}, end=True))
    assert answer.WhichOneof("response") == "request_headers" and not answer.HasField("mode_override")
    assert not rows()


def test_keys_make_tenants_and_stay_here(world):
    gateway, _, rows = world.gateway("http://127.0.0.1:9/v1", plan=TOKENS, keys=HASHED, ext_proc="127.0.0.1:0")
    play = Envoy(world, gateway).play
    assert play(asked()[0])[0].immediate_response.status.code == 401
    assert play(asked(authorization=f"Bearer {KEYS['operator']}")[0])[0].immediate_response.status.code == 403
    first, _ = play(*asked(authorization=f"Bearer {KEYS['gold']}"))
    assert "authorization" in first.request_headers.response.header_mutation.remove_headers
    world.wait_until(lambda: any(row["event"] == "request" for row in rows()))
    assert [row["tenant"] for row in rows() if row["event"] == "request"] == ["gold"]


def test_a_fault_of_ours_aborts_the_call(door, world, monkeypatch):
    """So that Envoy's own setting says what becomes of the request; a call that just ends would let it through."""
    gateway, play, rows = door

    async def broken(*args, **options):
        raise RuntimeError("a secret of the caller's")

    monkeypatch.setattr(type(gateway.governor), "begin", broken)
    assert play(*asked())[-1] == grpc.StatusCode.INTERNAL
    # The caller knows before the call is over here.
    world.wait_until(lambda: gateway.access.num_in_flight == 0)
    assert not rows()


def test_a_store_that_fails_costs_nobody_the_answer(door, world):
    gateway, play, rows = door

    async def failing(*args, **options):
        raise IbpoError("the store is gone")

    gateway.governor.controller.decide = failing
    answers = play(*asked(x_ibpo_gain="1"))
    assert json.loads(answers[1].request_body.response.body_mutation.body)["max_tokens"] == 100
    world.wait_until(lambda: len(rows()) == 1)
    assert rows()[0]["response_group"] == "standard"


def test_the_process_needs_no_upstream_but_for_a_probe():
    tables = {"model": [{"name": "*", "response_group": GROUPS}]}
    policy = ServingPolicy.from_dict(SHARE)
    Service(settings=build_settings(tables, "t"), policy=policy, ext_proc="127.0.0.1:0")
    with pytest.raises(IbpoError, match=r"--ext-proc 0\.0\.0\.0: others can reach it"):
        Service(settings=build_settings(tables, "t"), policy=policy, ext_proc="0.0.0.0:9002")
    groups = [{**group, "opening": name} for group, name in zip(GROUPS, ("<a>", "<b>"), strict=True)]
    probes = {"model": [{"name": "*", "response_group": groups, "choose": ["probe"]}]}
    with pytest.raises(IbpoError, match="give --upstream too, or take probe out"):
        Service(settings=build_settings(probes, "t"), policy=policy, ext_proc="unix:/tmp/x")


def test_without_upstream_the_http_door_shows_pages_only(world):
    gateway, url, _ = world.gateway("", plan=TOKENS, ext_proc="127.0.0.1:0")
    assert call(f"{url}/budget.json")[0] == call(f"{url}/metrics")[0] == call(f"{url}/ready")[0] == 200
    status, _, data = call(f"{url}/v1/chat/completions", BODY)
    assert status == 404 and b"no_upstream" in data
    assert Envoy(world, gateway).play(*asked())[1].request_body.response.body_mutation.body


def test_outcomes_of_what_envoy_asked_come_by_the_http_door(world):
    """There was no door for them where no upstream is named, so that `learn` learned nothing."""
    gateway, url, _ = world.gateway("", plan=TOKENS, model={"learn": True}, ext_proc="127.0.0.1:0")
    answers = Envoy(world, gateway).play(*asked(), headers("response_headers", JSON_ANSWER))
    name = set_by(answers[-1].response_headers.response)["x-ibpo-request-id"]
    status, _, data = call(f"{url}/outcomes", {"request_id": name, "reward": 1})
    assert (status, json.loads(data)) == (200, {"learned": True})
    assert call(f"{url}/outcomes", {"request_id": name, "reward": 1})[0] == 404  # counts once


def test_both_doors_are_closed_at_once(world, tmp_path):
    """While a call of Envoy's came to its end the other door stayed open, and then requests had as long once more."""
    tables = {"model": [{"name": "*", "response_group": GROUPS}], "limits": {"drain_seconds": 20}}
    settings, policy = build_settings(tables, "t"), ServingPolicy.from_dict(TOKENS)
    made = Service(settings=settings, policy=policy, port=0, ext_proc="127.0.0.1:0")
    answer = json.dumps({"choices": [{"message": {"content": "w"}}], "usage": USAGE}).encode()

    async def run():
        process = running(made, RequestLog(None))
        gateway, port = await process.__aenter__()
        async with grpc.aio.insecure_channel(gateway.ext_proc) as channel:
            stream = channel.stream_stream(
                f"/{SERVICE}/Process",
                request_serializer=ProcessingRequest.SerializeToString,
                response_deserializer=ProcessingResponse.FromString,
            )()
            for message in asked():
                await stream.write(message)
                await stream.read()
            ending = asyncio.ensure_future(process.__aexit__(None, None, None))
            refused = False
            for _ in range(100):
                await asyncio.sleep(0.02)
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                except ConnectionRefusedError:
                    refused = True
                    break
            was_open = not ending.done()
            for message in (headers("response_headers", JSON_ANSWER), body("response_body", answer)):
                await stream.write(message)
                await stream.read()
            await stream.done_writing()
            await asyncio.wait_for(ending, 20)
        return refused, was_open, gateway.governor.controller._store.accounts["total"][0].spent

    assert world.run(run()) == (True, True, 7)


def test_an_address_in_use_is_said(tmp_path, world):
    gateway, _, _ = world.gateway("", plan=TOKENS, ext_proc="127.0.0.1:0")
    command = [sys.executable, "-m", "ibpo", "serve", "--budget", "extended=30%", "--listen", "127.0.0.1:0"]
    said = subprocess.run([*command, "--ext-proc", gateway.ext_proc], capture_output=True, text=True, timeout=120)
    assert said.returncode == 2 and "cannot listen there" in said.stderr and "Traceback" not in said.stderr
    said = subprocess.run([*command, "--ext-proc", "nowhere"], capture_output=True, text=True, timeout=120)
    assert "--ext-proc nowhere: needs HOST:PORT" in said.stderr
