"""OpenAI's responses and Anthropic's messages: served and counted beside chats and completions."""

import json

import pytest
from aiohttp import web

from ibpo.serving.gateway.openai_request import Api, can_set, read_request, write_body
from ibpo.serving.gateway.settings import GroupSettings, ModelSettings
from tests.serving.world import HASHED, KEYS, call, client_of

BY_EFFORT = [
    {"name": "standard", "reasoning_effort": "low", "tokens": 10, "max_tokens": 2000, "max_thinking_tokens": 0},
    {"name": "extended", "reasoning_effort": "high", "tokens": 50, "max_tokens": 4000, "max_thinking_tokens": 2048},
]
TOKENS = {"budget": {"tokens": {"mean": 22, "overdraft": 4500, "burst": 110}}}


def events(rows):
    return b"".join(f"event: {row['type']}\ndata: {json.dumps(row)}\n\n".encode() for row in rows)


def response(count, **more):
    """What OpenAI's responses look like on the wire."""
    part = {"type": "output_text", "text": "w " * count, "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": count // 2}}
    usage = {"input_tokens": 5, "output_tokens": count, "total_tokens": count + 5, **details}
    base = {"id": "r", "object": "response", "created_at": 1, "model": "m", "parallel_tool_calls": True, "tools": []}
    return {**base, "tool_choice": "auto", "status": "completed", "output": [message], "usage": usage, **more}


def response_events(count, cut):
    yield {"type": "response.created", "sequence_number": 0, "response": response(0, usage=None, output=[])}
    place = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    for number in range(count):
        yield {"type": "response.output_text.delta", "sequence_number": number + 1, "delta": "w ", **place}
    if not cut:
        text = {"text": "w " * count, "sequence_number": count + 1}
        yield {"type": "response.output_text.done", **place, **text}
        yield {"type": "response.completed", "sequence_number": count + 2, "response": response(count)}


def message(count):
    """What Anthropic's messages look like on the wire."""
    base = {"id": "msg", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    return {
        **base,
        "content": [{"type": "text", "text": "w " * count}],
        "usage": {"input_tokens": 5, "output_tokens": count},
    }


def message_events(count, cut):
    start = {**message(0), "content": [], "stop_reason": None, "usage": {"input_tokens": 5, "output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for _ in range(count):
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "w "}}
    if not cut:
        yield {"type": "content_block_stop", "index": 0}
        yield {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": count}}
        yield {"type": "message_stop"}


def thinks(body):
    effort = (body.get("reasoning") or body.get("output_config") or {}).get("effort")
    return effort == "high"


@pytest.fixture
def served(world):
    """A gateway in front of a server of both protocols: a thinking answer has 50 tokens, another 10."""
    upstream = world.upstream()
    upstream.cut = False

    async def reply(request, body):
        count = 50 if thinks(body) else 10
        made = (response, response_events) if request.path == "/v1/responses" else (message, message_events)
        if not body.get("stream"):
            return web.json_response(made[0](count))
        return web.Response(body=events(made[1](count, upstream.cut)), content_type="text/event-stream")

    upstream.reply = reply
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS, groups=BY_EFFORT)
    return world, upstream, gateway, url, rows


def ended(world, rows, count):
    world.wait_until(lambda: sum(row["event"] == "request" for row in rows()) == count)
    return [row for row in rows() if row["event"] == "request"]


def test_responses_by_the_official_client(served):
    world, upstream, gateway, url, rows = served
    client = client_of(url)
    made = client.responses.create(model="m", input="hi", extra_headers={"x-ibpo-response-group": "extended"})
    assert made.output_text == "w " * 50 and made.usage.output_tokens == 50
    assert upstream.requests[-1] == {
        "model": "m",
        "input": "hi",
        "reasoning": {"effort": "high"},
        "max_output_tokens": 4000,
    }
    standard = {"x-ibpo-response-group": "standard"}
    body = {"model": "m", "input": "hi", "max_output_tokens": 99, "reasoning": {"summary": "auto"}}
    stream = list(client.responses.create(**body, stream=True, extra_headers=standard))
    assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == "w " * 10
    assert stream[-1].response.usage.output_tokens == 10
    sent = upstream.requests[-1]
    assert sent["max_output_tokens"] == 99 and sent["reasoning"] == {"summary": "auto", "effort": "low"}
    assert "stream_options" not in sent  # this API always tells its usage
    assert [(row["tokens"], row["counted"]) for row in ended(world, rows, 2)] == [(50, "usage"), (10, "usage")]
    budget = world.snapshot(gateway)["budgets"][0]
    assert (budget["spent"], budget["num_requests"], budget["in_flight"]) == (60, 2, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_messages(served, stream):
    world, upstream, gateway, url, rows = served
    body = {"model": "m", "max_tokens": 3000, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    for group, count, thinking, cap in (
        ("extended", 50, {"type": "enabled", "budget_tokens": 2048}, 3000),
        ("standard", 10, {"type": "disabled"}, 2000),
    ):
        status, headers, data = call(f"{url}/v1/messages", body, {"x-ibpo-response-group": group})
        assert status == 200 and headers["x-ibpo-response-group"] == group
        expected = events(message_events(count, False)) if stream else json.dumps(message(count)).encode()
        assert data == expected  # nothing is taken out of it
        sent = upstream.requests[-1]
        assert (sent["thinking"], sent["max_tokens"]) == (thinking, cap) and "stream_options" not in sent
        assert sent["output_config"] == {"effort": "high" if group == "extended" else "low"}
    assert [(row["tokens"], row["counted"]) for row in ended(world, rows, 2)] == [(50, "usage"), (10, "usage")]
    assert world.snapshot(gateway)["budgets"][0]["spent"] == 60


@pytest.mark.parametrize("path", ["responses", "messages"])
def test_a_stream_that_is_cut_is_settled_at_what_came(served, path):
    world, upstream, gateway, url, rows = served
    upstream.cut = True
    body = {"model": "m", "input": "hi", "messages": [], "max_tokens": 100, "stream": True}
    call(f"{url}/v1/{path}", body, {"x-ibpo-response-group": "standard"})
    (row,) = ended(world, rows, 1)
    # Anthropic's first event tells of one token.
    tokens = 11 if path == "messages" else 10
    assert (row["outcome"], row["tokens"], row["counted"]) == ("cut", tokens, "estimated")
    assert world.snapshot(gateway)["budgets"][0]["spent"] == row["tokens"]


def test_keys_as_anthropics_clients_give_them(world, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "the upstream's key")
    upstream = world.upstream()

    async def reply(request, body):
        return web.json_response(message(1))

    upstream.reply = reply
    _, url, _ = world.gateway(upstream.url, keys=HASHED, upstream={"key_env": "UPSTREAM_KEY"})
    body = {"model": "m", "max_tokens": 9, "messages": []}
    assert call(f"{url}/v1/messages", body, {"x-api-key": KEYS["gold"]})[0] == 200
    got = upstream.headers[-1]
    assert (got["x-api-key"], got["Authorization"]) == ("the upstream's key", "Bearer the upstream's key")
    status, _, said = call(f"{url}/v1/messages", body, {"x-api-key": "wrong"})
    assert status == 401 and json.loads(said)["type"] == "error"
    assert call(f"{url}/v1/chat/completions", {"messages": []}, {"x-api-key": KEYS["gold"]})[0] == 401
    call(f"{url}/v1/embeddings", {}, {"Authorization": f"Bearer {KEYS['gold']}", "x-api-key": KEYS["gold"]})
    assert not any(KEYS["gold"] in value for value in upstream.headers[-1].values())


def sent(asked, api: Api, **group):
    settings = GroupSettings.model_validate({"name": "g", **group})
    request = read_request(json.dumps(asked).encode(), api=api)
    return json.loads(write_body(request, settings, ModelSettings(name="*", response_group=[settings])))


def test_what_can_be_set_where():
    template, effort = (
        GroupSettings(name="g", chat_template_kwargs={"a": 1}),
        GroupSettings(name="g", reasoning_effort="low"),
    )
    prefix, thinking = GroupSettings(name="g", prefix="x"), GroupSettings(name="g", max_thinking_tokens=2048)
    asked = {"messages": [], "input": "hi", "prompt": "hi"}
    expected: dict[Api, list[bool]] = {
        "chat": [True, True, True, True],
        "completions": [False, False, True, True],
        "responses": [False, True, False, False],
        "messages": [True, True, True, True],
    }
    for api, settable in expected.items():
        request = read_request(json.dumps(asked).encode(), api=api)
        assert [can_set(request, group) for group in (template, effort, prefix, thinking)] == settable, api
    for forbidden in ({"max_tokens": 1024}, {"temperature": 0.5}, {"top_k": 5}, {"tool_choice": {"type": "any"}}):
        request = read_request(json.dumps({"messages": [], **forbidden}).encode(), api="messages")
        assert not can_set(request, thinking) and can_set(
            request, thinking.model_copy(update={"max_thinking_tokens": 0})
        )
    continued = sent({"messages": [{"role": "user", "content": "hi"}]}, "messages", prefix="So")
    assert continued["messages"][-1] == {"role": "assistant", "content": "So"}


@pytest.mark.parametrize(
    ("given", "group", "expected"),
    [
        (9000, {"max_tokens": 4000}, {"type": "enabled", "budget_tokens": 3999}),
        (9000, {"max_tokens": 1000}, {"type": "disabled"}),
        (9000, {"max_thinking_tokens": 2048}, {"type": "enabled", "budget_tokens": 2048}),
        (1500, {"max_thinking_tokens": 2048}, {"type": "enabled", "budget_tokens": 1500}),
        (9000, {"max_thinking_tokens": 0}, {"type": "disabled"}),
        (9000, {}, {"type": "enabled", "budget_tokens": 9000}),
    ],
)
def test_anthropics_thinking_stays_below_the_cap(given, group, expected):
    thinking = {"type": "enabled", "budget_tokens": given}
    asked = {"messages": [], "max_tokens": 10_000, "thinking": thinking}
    assert sent(asked, "messages", **group)["thinking"] == expected


def test_how_the_thinking_is_shown_stays_the_callers_own():
    for asked in ({"type": "adaptive", "display": "omitted"}, {"type": "enabled", "display": "omitted"}):
        thinking = sent({"messages": [], "thinking": asked}, "messages", max_thinking_tokens=2048)["thinking"]
        assert thinking == {"type": "enabled", "display": "omitted", "budget_tokens": 2048}


def test_what_anthropics_clients_ask_beside_messages(world, monkeypatch):
    """Their key is `x-api-key` there too, the upstream's goes on as such, and errors have their shape."""
    monkeypatch.setenv("UPSTREAM_KEY", "the upstream's key")
    seen = []

    async def echo(request):
        seen.append(dict(request.headers))
        return web.json_response({"input_tokens": 3})

    other = web.Application()
    other.router.add_route("*", "/{rest:.*}", echo)
    allowed = {"allow": ["POST /v1/messages/count_tokens", "GET /v1/models"]}
    _, url, _ = world.gateway(world.serve(other), keys=HASHED, upstream={"key_env": "UPSTREAM_KEY"}, tables=allowed)
    version = {"anthropic-version": "2023-06-01"}
    for path, asked, more in (
        ("messages/count_tokens", {"model": "m", "messages": []}, {}),
        ("models", None, version),
    ):
        status, _, data = call(f"{url}/v1/{path}", asked, {"x-api-key": KEYS["gold"], **more})
        assert (status, json.loads(data)) == (200, {"input_tokens": 3}), path
        sent = {name.lower(): value for name, value in seen[-1].items()}
        assert sent["x-api-key"] == "the upstream's key" and KEYS["gold"] not in str(sent)
        status, _, data = call(f"{url}/v1/{path}", asked, {"x-api-key": "wrong", **more})
        assert status == 401 and json.loads(data)["type"] == "error"
    assert call(f"{url}/v1/models", headers={"x-api-key": KEYS["gold"]})[0] == 401  # nothing says that it is theirs
    assert len(seen) == 2
