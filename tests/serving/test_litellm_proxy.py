"""The plug-in in the real LiteLLM proxy, against a real upstream: see `litellm_env.sh` for its environment.

What the proxy does in each case is in docs/how-to/litellm.md; here is what the plug-in makes of it.
"""

import asyncio
import inspect
import json
import os
import random
import subprocess
import time
import urllib.request
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from tests.serving.litellm_proxy import KEY, VARIABLE, Proxy
from tests.serving.world import World, client_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no environment; see litellm_env.sh"),
]
GROUPS: list[dict[str, Any]] = [
    {"name": "standard", "chat_template_kwargs": {"enable_thinking": False}, "tokens": 10, "max_tokens": 100},
    {"name": "extended", "chat_template_kwargs": {"enable_thinking": True}, "tokens": 50, "max_tokens": 400},
]
GROUPS = [group | {"reasoning_effort": effort} for group, effort in zip(GROUPS, ("low", "high"), strict=True)]
BUDGET = {"tokens": {"mean": 22, "overdraft": 450, "burst": 110}}
BUDGET_TOML = "[budget.tokens]\nmean = 22\noverdraft = 450\nburst = 110\n[session]\ntokens = 600"
GROUPS_TOML = "\n".join(
    f"""[[model.response_group]]
name = "{group["name"]}"
chat_template_kwargs = {{enable_thinking = {str(group["chat_template_kwargs"]["enable_thinking"]).lower()}}}
reasoning_effort = "{group["reasoning_effort"]}"
tokens = {group["tokens"]}
max_tokens = {group["max_tokens"]}
"""
    for group in GROUPS
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with World() as world:
        upstream = world.upstream()
        proxy = Proxy(tmp_path_factory.mktemp("litellm"), upstream.url, budget=BUDGET_TOML, groups=GROUPS_TOML)
        try:
            yield world, upstream, proxy
        finally:
            proxy.stop()


@pytest.fixture
def case(made):
    """(upstream, proxy, a function that returns the one new line of the log and what the account gained)."""
    _, upstream, proxy = made
    before, already = len(proxy.rows()), proxy.account().spent
    upstream.requests.clear()

    def ended(count=1):
        rows = proxy.wait_rows(before + count)[before:]
        give_up = time.monotonic() + 30
        while proxy.account().estimated and time.monotonic() < give_up:
            time.sleep(0.05)
        assert proxy.account().estimated == 0
        return rows[0] if count == 1 else rows, proxy.account().spent - already

    yield upstream, proxy, ended
    upstream.fault_of, upstream.reply, upstream.pause, upstream.without_usage = lambda number: None, None, 0.0, False


def chat(model="m", text="hello", **more):
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


EXTENDED = {"x_ibpo_response_group": "extended"}
STANDARD = {"x_ibpo_response_group": "standard"}


def test_hooks_have_the_signatures_of_the_real_class():
    """The fast tests' stand-in promises no more than the real class."""
    from tests.serving.test_litellm_plugin import HOOKS

    script = (
        "import inspect, json; from litellm.integrations.custom_logger import CustomLogger as C; "
        f"print(json.dumps({{n: list(inspect.signature(getattr(C, n)).parameters) for n in {list(HOOKS)!r}}}))"
    )
    said = subprocess.run([os.environ[VARIABLE], "-c", script], capture_output=True, text=True, check=True, timeout=200)
    assert json.loads(said.stdout.splitlines()[-1]) == {
        name: list(inspect.signature(hook).parameters) for name, hook in HOOKS.items()
    }


def test_the_same_decisions_and_bookings_as_ibpo_serve(made):
    """One stream of requests by the official client, through both: chats, completions, caps, n, gains, errors."""
    world, upstream, proxy = made
    budget = {"budget": BUDGET}
    draw = random.Random(7)
    requests = []
    for number in range(80):
        options: dict[str, Any] = {"extra_headers": {"x-ibpo-gain": f"{draw.random():.3f}"}}
        if draw.random() < 0.3:
            options["max_tokens"] = draw.choice([30, 60, 1000])
        if draw.random() < 0.2:
            options["n"] = 2
        if draw.random() < 0.3:
            options["stream"] = True
        requests.append((draw.random() < 0.2, options, 1000 + number if draw.random() < 0.1 else None))

    def run(url, key):
        client, seen = client_of(url, key), []
        upstream.requests.clear()
        faults = []
        upstream.fault_of = lambda number: faults[-1]
        for completes, options, fault in requests:
            faults.append("500" if fault else None)
            kind = client.completions if completes else client.chat.completions
            asked = {"prompt": "hello"} if completes else {"messages": [{"role": "user", "content": "hello"}]}
            try:
                answer = kind.with_raw_response.create(model="m", **asked, **options)
                pieces = list(answer.parse()) if options.get("stream") else []
                seen.append([answer.headers[f"x-ibpo-{name}"] for name in ("response-group", "price", "budget-left")])
                assert all(piece.choices for piece in pieces)  # no usage that was not asked for
            except openai.InternalServerError as error:
                seen.append([error.status_code])
        keys = ("max_tokens", "reasoning_effort", "chat_template_kwargs", "n", "stream", "stream_options")
        sent = [{key: body[key] for key in keys if key in body} for body in upstream.requests]
        upstream.fault_of = lambda number: None
        return seen, sent

    gateway, url, rows = world.gateway(upstream.url, plan=budget, groups=GROUPS)
    theirs, sent = run(url, "none")
    world.wait_until(lambda: world.snapshot(gateway)["num_in_flight"] == 0)
    ours, sent_by_proxy = run(proxy.url, KEY)
    assert ours == theirs
    assert sent_by_proxy == sent
    keys = ("response_group", "outcome", "tokens", "counted", "price", "gains", "stream")
    booked = [{key: row[key] for key in keys} for row in rows() if row["event"] == "request"]
    assert [{key: row[key] for key in keys} for row in proxy.wait_rows(len(requests))] == booked
    assert {"answered", "failed"} == {row["outcome"] for row in booked}
    assert len({row["response_group"] for row in booked}) == 2
    shown, account = world.snapshot(gateway)["budgets"][0], proxy.account()
    assert (account.spent, account.num_requests, account.estimated) == (shown["spent"], shown["num_requests"], 0)
    assert account.peak == pytest.approx(shown["largest_overdraft"])


def test_chat_is_settled_at_its_usage(case):
    _, proxy, ended = case
    status, headers, _ = proxy.post("/v1/chat/completions", chat(), **EXTENDED)
    row, spent = ended()
    assert (status, row["outcome"], row["tokens"], row["counted"], spent) == (200, "answered", 50, "usage", 50)
    assert headers["x-ibpo-response-group"] == row["response_group"] == "extended"


def test_a_session_is_held_and_said(case):
    _, proxy, ended = case
    client, seen = client_of(proxy.url, KEY), []
    for _ in range(8):
        headers = {"x-ibpo-session": "run", "x-ibpo-gain": "1"}
        answer = client.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": "hello"}], extra_headers=headers
        )
        seen.append([answer.headers[f"x-ibpo-{name}"] for name in ("response-group", "session-left")])
    ended(8)
    # 600 has room for a cap of 400 until more than 200 are spent.
    assert [group for group, _ in seen] == ["extended"] * 5 + ["standard"] * 3
    assert [float(left.removeprefix("tokens=")) for _, left in seen[:2]] == [550, 500]
    assert answer.headers["x-ibpo-used-up"] == "session"


def test_without_usage_the_text_is_counted(case):
    upstream, proxy, ended = case
    upstream.without_usage = True
    proxy.post("/v1/chat/completions", chat(), **STANDARD)
    row, spent = ended()
    assert row["counted"] == "estimated" and spent == row["tokens"] > 0


def test_stream_is_settled_once(case):
    _, proxy, ended = case
    for options in (None, {"include_usage": True}):
        body = chat(stream=True) | ({"stream_options": options} if options else {})
        _, headers, data = proxy.post("/v1/chat/completions", body, **EXTENDED)
        assert headers["x-ibpo-response-group"] == "extended" and data.endswith(b"data: [DONE]\n\n")
        assert (b'"usage"' in data) == bool(options)
    rows, spent = ended(2)
    assert [(row["outcome"], row["tokens"], row["counted"]) for row in rows] == [("answered", 50, "usage")] * 2
    assert spent == 100


def test_stream_without_usage_is_settled_at_what_litellm_counts(case):
    """LiteLLM invents a usage by its own tokenizer: believed as far as the cap allowed it."""
    upstream, proxy, ended = case
    upstream.without_usage = True
    proxy.post("/v1/chat/completions", chat(stream=True), **STANDARD)
    row, spent = ended()
    assert 0 < spent == row["tokens"] <= 100


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_caller_that_leaves_a_stream_pays_what_came(case, path):
    upstream, proxy, ended = case
    upstream.pause = 0.5  # 50 ms a piece
    client = client_of(proxy.url, KEY)
    headers = {"x-ibpo-gain": "1"}
    if path.endswith("chat/completions"):
        stream = client.chat.completions.create(**chat(stream=True), extra_headers=headers)
    else:
        stream = client.completions.create(model="m", prompt="hello", stream=True, extra_headers=headers)
    for _ in range(5):
        next(stream)
    stream.close()
    client.close()
    row, spent = ended()
    assert row["outcome"] == "disconnected" and spent > 0
    # Where the effort may hide the thinking, what came says little: what was expected is paid.
    expected = {"extended": 50, "standard": 10}[row["response_group"]]
    learned = pytest.approx(expected, rel=0.5)  # of the answers before
    assert spent == learned if row["tokens"] is None else 5 <= spent <= 40


def test_a_caller_that_leaves_without_streaming_pays_for_the_answer(case):
    upstream, proxy, ended = case
    upstream.pause = 1.0
    with pytest.raises(openai.APITimeoutError):
        client_of(proxy.url, KEY).with_options(timeout=0.3).chat.completions.create(**chat())
    row, spent = ended()
    assert row["outcome"] == "answered" and spent == row["tokens"]


@pytest.mark.parametrize("status", ["400", "429", "500"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_cancelled(case, status, stream):
    upstream, proxy, ended = case
    upstream.fault_of = lambda number: status
    seen, headers, _ = proxy.post("/v1/chat/completions", chat(stream=stream), **EXTENDED)
    row, spent = ended()
    assert (str(seen), row["outcome"], spent) == (status, "failed", 0)
    assert headers["x-ibpo-response-group"] == row["response_group"]


def test_a_retry_is_one_request(case):
    upstream, proxy, ended = case
    upstream.fault_of = lambda number: "500" if number == 0 else None
    status, _, _ = proxy.post("/v1/chat/completions", chat(num_retries=2), **EXTENDED)
    row, spent = ended()
    assert (status, len(upstream.requests), row["outcome"], spent) == (200, 2, "answered", row["tokens"])


def test_a_fallback_is_one_request_and_keeps_the_cap(case):
    upstream, proxy, ended = case
    status, _, _ = proxy.post("/v1/chat/completions", chat("away"), **EXTENDED)
    row, spent = ended()
    assert (status, row["outcome"], spent) == (200, "answered", row["tokens"])
    assert upstream.requests[0]["max_tokens"] == {"standard": 100, "extended": 400}[row["response_group"]]


def test_a_timeout_is_settled_as_expected(case):
    """The model may have been at work all the same."""
    upstream, proxy, ended = case
    upstream.fault_of = lambda number: "hang"
    status, _, _ = proxy.post("/v1/chat/completions", chat(), **STANDARD)
    row, spent = ended()
    assert (status, row["outcome"], row["tokens"]) == (408, "cut", None)
    assert spent == pytest.approx(10, rel=0.5)  # learned of the answers before


def test_a_stream_that_is_cut_is_settled_at_what_came(case):
    upstream, proxy, ended = case
    upstream.fault_of = lambda number: "cut"
    proxy.post("/v1/chat/completions", chat(stream=True), x_ibpo_gain="0")
    row, spent = ended()
    assert row["outcome"] == "cut"
    assert spent > 0


def test_a_stream_that_goes_silent_is_cut(case):
    upstream, proxy, ended = case
    upstream.fault_of = lambda number: "quiet"
    proxy.post("/v1/chat/completions", chat(stream=True), x_ibpo_gain="0")
    row, spent = ended()
    assert row["outcome"] == "cut" and spent > 0


@pytest.mark.parametrize("stream", [False, True])
def test_the_cache_costs_nothing_and_counts_nothing(case, stream):
    upstream, proxy, ended = case
    # An extended request does not get a standard answer, though only the template differs.
    body = chat(text=f"cached {stream}", stream=stream, cache={"use-cache": True}, max_tokens=60)
    before = proxy.account()
    for group in (STANDARD, STANDARD, STANDARD):
        proxy.post("/v1/chat/completions", body, **group)
        time.sleep(0.3)
    rows, spent = ended(3)
    assert [row["outcome"] for row in rows] == ["answered", "cached", "cached"]
    assert len(upstream.requests) == 1 and spent == rows[0]["tokens"]
    assert proxy.account().num_requests == before.num_requests + 1


def test_several_answers_count_as_several_requests(case):
    _, proxy, ended = case
    before = proxy.account().num_requests
    proxy.post("/v1/chat/completions", chat(n=2, max_tokens=30), **STANDARD)
    row, _ = ended()
    assert row["outcome"] == "answered" and proxy.account().num_requests == before + 2


@pytest.mark.parametrize("model", ["m", "v", "plain"])
def test_responses(case, model):
    upstream, proxy, ended = case
    _, headers, _ = proxy.post("/v1/responses", {"model": model, "input": "hello"}, **EXTENDED)
    row, _ = ended()
    group = GROUPS[row["response_group"] == "extended"]
    sent = upstream.requests[0]
    assert sent["max_output_tokens"] == group["max_tokens"]
    assert sent["reasoning"] == {"effort": group["reasoning_effort"]} and "max_tokens" not in sent
    assert headers["x-ibpo-response-group"] == group["name"]


@pytest.mark.parametrize(("model", "cap"), [("m", 16), ("v", 5)])
def test_messages(case, model, cap):
    """LiteLLM sends them on as responses (`openai/`), where 16 is the least cap, or as chats."""
    upstream, proxy, ended = case
    proxy.post("/v1/messages", chat(model, max_tokens=5), **EXTENDED)
    row, spent = ended()
    group, sent = GROUPS[row["response_group"] == "extended"], upstream.requests[0]
    if model == "m":
        assert sent["max_output_tokens"] == cap and sent["reasoning"]["effort"] == group["reasoning_effort"]
    else:
        assert sent["max_tokens"] == cap and sent["reasoning_effort"] == group["reasoning_effort"]
        assert sent["chat_template_kwargs"] == group["chat_template_kwargs"]
    assert spent <= cap


def test_completions_in_a_stream_are_counted(case):
    """LiteLLM asks no usage of them, and reports zeros; the plug-in asks for it."""
    _, proxy, ended = case
    _, _, data = proxy.post("/v1/completions", {"model": "m", "prompt": "hello", "stream": True, "max_tokens": 60})
    row, spent = ended()
    assert row["counted"] == "usage" and spent == row["tokens"] > 0
    assert b"completion_tokens" not in data and data.endswith(b"data: [DONE]\n\n")


def events_of(path):
    """A stream of 30 pieces and its usage, as upstreams write them."""
    pieces = [f"w{i} " for i in range(30)]
    if path.endswith("responses"):
        base = {"id": "r", "object": "response", "created_at": 1, "model": "m", "output": [], "tools": []}
        base |= {"parallel_tool_calls": False, "tool_choice": "auto"}
        yield {"type": "response.created", "sequence_number": 0, "response": {**base, "status": "in_progress"}}
        place = {"item_id": "i", "output_index": 0, "content_index": 0, "logprobs": []}
        for number, piece in enumerate(pieces):
            yield {"type": "response.output_text.delta", "delta": piece, "sequence_number": number, **place}
        usage = {"input_tokens": 5, "output_tokens": 30, "total_tokens": 35}
        usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        whole = {**base, "status": "completed", "usage": usage}
        yield {"type": "response.completed", "sequence_number": 40, "response": whole}
        return
    base = {"id": "r", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    for piece in pieces:
        yield {**base, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
    yield {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield {**base, "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 30, "total_tokens": 35}}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("leaves", [False, True])
def test_streams_of_the_other_apis(case, path, leaves):
    """Settled at the usage at their end; at the pieces that came, or as expected, where the caller leaves."""
    upstream, proxy, ended = case

    async def reply(request, body):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events_of(request.path):
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(0.05)
        return response

    upstream.reply = reply
    body = chat("v", stream=True, max_tokens=90) if path.endswith("messages") else {"model": "v", "stream": True}
    body |= {} if path.endswith("messages") else {"input": "hello"}
    request = urllib.request.Request(
        f"{proxy.url}{path}",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "x-ibpo-gain": "0"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["x-ibpo-response-group"] == "standard"
        if leaves:
            answer.read(600)
        else:
            assert b"w29" in answer.read()
    row, spent = ended()
    if leaves:  # the effort may hide the thinking: at least what was expected
        assert row["outcome"] == "disconnected" and 10 <= spent <= 30
    else:
        assert (row["outcome"], row["counted"], spent) == ("answered", "usage", 30)


def test_embeddings_go_through(case):
    _, proxy, _ = case
    before = len(proxy.rows())
    proxy.post("/v1/embeddings", {"model": "m", "input": "hello"})
    time.sleep(0.3)
    assert len(proxy.rows()) == before


def test_the_callers_id_and_metadata_are_not_ours(case):
    _, proxy, ended = case
    for _ in range(2):
        body = chat(
            metadata={"ibpo": {"id": "x", "headers": {}}}, litellm_metadata={"ibpo": {"id": "y", "headers": {}}}
        )
        _, headers, _ = proxy.post("/v1/chat/completions", body, x_litellm_call_id="same")
        assert headers["x-ibpo-response-group"]
    rows, _ = ended(2)
    assert rows[0]["request_id"] != rows[1]["request_id"]


def test_a_deployments_own_caps_and_counts_are_lowered(case):
    """LiteLLM sends only `max_completion_tokens` to this model, which its deployment sets to 4,000; and asks three."""
    upstream, proxy, ended = case
    proxy.post("/v1/chat/completions", chat("capped"), **STANDARD)
    ended()
    sent = upstream.requests[0]
    assert sent["max_completion_tokens"] == 100 and sent.get("n", 1) == 1


def test_a_caller_cannot_raise_the_cap_through_litellm(case):
    upstream, proxy, ended = case
    status, _, data = proxy.post("/v1/chat/completions", chat(additional_drop_params=["max_tokens"]))
    assert status == 400 and b"additional_drop_params" in data
    status, _, data = proxy.post("/v1/chat/completions", chat(fallbacks=[{"model": "v", "max_tokens": 9999}]))
    assert status == 400 and b"max_tokens" in data
    status, _, data = proxy.post("/v1/chat/completions", chat("m,v,m"))  # LiteLLM asked all three, and one was booked
    assert status == 400 and b"names several" in data and not upstream.requests
    extra = {"max_tokens": 9999, "chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "high"}
    proxy.post("/v1/chat/completions", chat("v", extra_body=extra), **STANDARD)
    row, _ = ended()
    sent = upstream.requests[0]
    assert row["response_group"] == "standard" and sent["max_tokens"] == 100
    assert sent["chat_template_kwargs"] == {"enable_thinking": False} and sent["reasoning_effort"] == "low"


def test_an_invented_usage_is_not_believed(case):
    upstream, proxy, ended = case

    async def reply(request, body):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "w"}}
        usage = {"prompt_tokens": 1, "completion_tokens": 10**6, "total_tokens": 10**6 + 1}
        return web.json_response({"id": "r", "object": "chat.completion", "choices": [choice], "usage": usage})

    upstream.reply = reply
    proxy.post("/v1/chat/completions", chat(n=2, max_tokens=30), **STANDARD)
    row, spent = ended()
    assert (row["counted"], spent) == ("reserve", 60)


def test_others_hooks(case):
    """Refused by another hook before the call: it cost nothing. After it: the answer was generated."""
    _, proxy, ended = case
    assert proxy.post("/v1/chat/completions", chat(text="refuse before"), **STANDARD)[0] == 403
    assert proxy.post("/v1/chat/completions", chat(text="refuse after"), **STANDARD)[0] == 403
    rows, spent = ended(2)
    assert [row["outcome"] for row in rows] == ["failed", "answered"]
    assert spent == rows[1]["tokens"] == 10


async def ask_many(url, count):
    """What callers see: the status, or how it broke off."""
    gate = asyncio.Semaphore(8)

    async def one(session, number):
        body = chat(stream=number % 2 == 0)
        headers = {"Authorization": f"Bearer {KEY}", "x-ibpo-gain": str((37 * number % 100) / 100)}
        patience = 0.05 if number % 10 == 0 else 60
        async with gate:
            try:
                async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
                    async with asyncio.timeout(patience):
                        await reply.content.readany() if patience < 1 else await reply.read()
                    return reply.status
            except (aiohttp.ClientError, TimeoutError) as error:
                return type(error).__name__

    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*(one(session, number) for number in range(count)))


def test_the_budget_is_held_under_random_requests_and_failures(made):
    """160 requests, 8 at a time: errors, time-outs, cut and silent streams, callers that leave; nothing stays open."""
    world, upstream, proxy = made
    before, first = proxy.account(), len(proxy.rows())
    draw = random.Random(3)
    faults = [draw.choice([None] * 8 + ["500", "429", "drop", "cut", "quiet", "half", "malformed"]) for _ in range(400)]
    upstream.fault_of = lambda number: faults[number % len(faults)]
    upstream.pause = 0.02
    seen = world.run(ask_many(proxy.url, 160), timeout=280)
    rows = proxy.wait_rows(first + 160)[first:]
    account = proxy.account()
    assert account.estimated == pytest.approx(0, abs=1e-6)
    cancelled = sum(row["outcome"] == "failed" for row in rows)
    assert account.num_requests - before.num_requests == 160 - cancelled
    booked = sum(row["tokens"] or 0 for row in rows if row["outcome"] != "failed")
    assert account.spent - before.spent >= booked > 0
    # The stated bound: 8 in flight may exceed their expectation by their caps, and who is cancelled takes credit back.
    assert account.spent - before.spent <= 22 * (160 - cancelled) + 450 + 8 * 400 + 22 * cancelled
    assert {"answered", "failed", "cut", "disconnected"} == {row["outcome"] for row in rows}, seen
