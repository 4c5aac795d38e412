"""The life of a governed request: which group it gets, what is held, and what is settled, once, whatever happens."""

import asyncio
import json
import random
from dataclasses import replace

import aiohttp
import openai
import pytest
from aiohttp import web

from ibpo.errors import IbpoError
from tests.serving.world import (
    GROUPS,
    HASHED,
    KEYS,
    QUICK,
    SHARE,
    TOKENS,
    ask,
    bulk,
    call,
    client_of,
    groups_of,
    many,
)

FAULTS = ("500", "503", "429", "drop", "hang", "cut", "quiet", "malformed", "half")


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


@pytest.mark.parametrize("shared", [False, True], ids=["memory", "sqlite"])
def test_one_call_in_ten_fails(world, tmp_path, shared):
    upstream, chance = world.upstream(), random.Random(0)
    upstream.fault_of = lambda number: chance.choice(FAULTS) if chance.random() < 0.1 else None
    state = str(tmp_path / "book.sqlite") if shared else None
    gateway, url, rows = world.gateway(upstream.url, upstream=QUICK, state=state)
    seen = many(world, url, 200)
    assert len(seen) == 200 and seen.count("whole") > 170
    world.wait_until(lambda: sum(row["event"] == "request" for row in rows()) == 200)
    outcomes = [row["outcome"] for row in rows() if row["event"] == "request"]
    # Once each: failed requests count no longer, all others do, whatever was tried behind the curtain.
    failed, errors = outcomes.count("failed"), sum(status.isdigit() for status in seen)
    assert failed + outcomes.count("cut") == errors + seen.count("broken")
    shown = world.snapshot(gateway)
    budget = shown["budgets"][0]
    assert budget["num_requests"] == 200 - failed and shown["num_in_flight"] == 0
    extended = [row for row in rows() if row["event"] == "request" and row["response_group"] == "extended"]
    assert budget["spent"] == sum(row["outcome"] != "failed" for row in extended)
    assert budget["in_flight"] == 0 and budget["spent"] <= 0.3 * budget["num_requests"] + 5 + 0.3 * failed
    assert any(upstream.faults) and len(upstream.requests) > 200  # those that got a 503 were tried again


def test_one_call_in_ten_fails_and_tokens_are_held(world):
    """Cut and malformed answers are settled too, each once, at what is known of them."""
    upstream, chance = world.upstream(), random.Random(1)
    upstream.fault_of = lambda number: chance.choice(FAULTS) if chance.random() < 0.1 else None
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS, upstream=QUICK)
    seen = many(world, url, 200)
    assert seen.count("whole") > 170
    world.wait_until(lambda: sum(row["event"] == "request" for row in rows()) == 200)
    made = [row for row in rows() if row["event"] == "request"]
    counted = [row for row in made if row["outcome"] != "failed"]
    budget = world.snapshot(gateway)["budgets"][0]
    assert budget["num_requests"] == len(counted) >= sum(not status.isdigit() for status in seen)
    whole = [row["tokens"] for row in made if row["counted"] == "usage"]
    assert set(whole) == {10, 50}
    # What broke off costs what came of it; what cannot be read, what was expected.
    assert {row["outcome"] for row in counted if row["counted"] != "usage"} <= {"cut", "answered"}
    known = sum(row["tokens"] for row in counted if row["tokens"] is not None)
    unknown = sum({"standard": 10, "extended": 50}[row["response_group"]] for row in counted if row["tokens"] is None)
    assert budget["spent"] == pytest.approx(known + unknown, abs=unknown / 4)  # expectations are corrected meanwhile
    assert budget["in_flight"] == 0
    assert budget["spent"] <= 22 * len(counted) + budget["overdraft"] + 22 * (200 - len(counted))
    assert budget["spent"] >= 22 * len(counted) - budget["overdraft"] - budget["burst"] - 50


@pytest.mark.parametrize(("fault", "stream"), [("hang", False), ("hang", True), ("quiet", True)])
def test_a_caller_that_disconnects_is_settled_once(world, fault, stream):
    """At the pieces that came; else at what was expected, for the upstream may have been at work."""
    upstream = world.upstream()
    upstream.fault_of = lambda number: fault
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS)

    async def read(reply):
        data = b""
        while b"w6" not in data:
            data += await reply.content.readany()

    async def disconnect():
        async with aiohttp.ClientSession() as session:
            body = {"model": "m", "messages": [], "stream": stream}
            asked = asyncio.ensure_future(session.post(f"{url}/v1/chat/completions", json=body))
            while not upstream.requests:
                await asyncio.sleep(0.01)
            if fault == "quiet":
                await read(await asked)
            asked.cancel()

    world.run(disconnect())
    world.wait_until(lambda: any(row["event"] == "request" for row in rows()))
    (row,) = [row for row in rows() if row["event"] == "request"]
    assert (row["outcome"], row["tokens"]) == ("disconnected", 7 if fault == "quiet" else None)
    world.wait_until(lambda: gateway.access.num_in_flight == 0)
    shown, expected = world.snapshot(gateway), 10 if row["response_group"] == "standard" else 50
    assert shown["num_in_flight"] == gateway.access.num_in_flight == 0
    (budget,) = shown["budgets"]
    assert (budget["num_requests"], budget["in_flight"]) == (1, 0)
    assert budget["spent"] == (7 if fault == "quiet" else expected)


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_probe_generated_is_charged_with_the_answer(world, stream):
    upstream = world.upstream()
    groups = [{**group, "opening": text} for group, text in zip(GROUPS, ("<answer>", "<think>"), strict=True)]
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS, groups=groups, model={"choose": ["probe"]})
    answers = bulk(world, url, [{}] * 5, stream=stream)
    assert upstream.num_probes == len(upstream.requests) == 5
    world.wait_until(lambda: sum(row["event"] == "request" for row in rows()) == 5)
    made = [row for row in rows() if row["event"] == "request"]
    assert {row["source"] for row in made} == {"probe"} and made[0]["gains"] == {"standard": 0, "extended": 0.5}
    tokens = sum(data.count(b"w") for _, _, data in answers)
    assert sum(row["tokens"] for row in made) == tokens  # the caller's usage
    assert world.snapshot(gateway)["budgets"][0]["spent"] == tokens + 5  # what was generated for it


def settled_rows(world, rows, count=1):
    """The log's lines of requests, once so many have ended."""
    world.wait_until(lambda: sum(row["event"] == "request" for row in rows()) >= count)
    return [row for row in rows() if row["event"] == "request"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_absurd_usage_is_not_believed(world, stream):
    """Above what the request allowed: booked at the reserve, and counted as a failure."""
    upstream = world.upstream()
    usage = {"prompt_tokens": 5, "completion_tokens": 1 << 31}

    async def reply(request, body):
        data = {"choices": [], "usage": usage}
        if not body["stream"]:
            return web.json_response(data)
        text = b"data: " + json.dumps(data).encode() + b"\n\ndata: [DONE]\n\n"
        return web.Response(body=text, content_type="text/event-stream")

    upstream.reply = reply
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS)
    body = {"messages": [], "stream": stream, "n": 2}
    call(f"{url}/v1/chat/completions", body, {"x-ibpo-response-group": "standard"})
    (row,) = settled_rows(world, rows)
    assert (row["tokens"], row["counted"]) == (200, "reserve")
    budget = world.snapshot(gateway)["budgets"][0]
    assert (budget["spent"], budget["num_requests"]) == (200, 2)
    assert b'ibpo_failures_total{what="usage"} 1' in call(f"{url}/metrics")[2]
    # Where nothing is capped, the operator's limit on caps is the bound, and what was expected is booked.
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS, groups=[{"name": "standard", "tokens": 10}])
    call(f"{url}/v1/chat/completions", {"messages": [], "stream": stream})
    settled_rows(world, rows)
    assert world.snapshot(gateway)["budgets"][0]["spent"] == 10


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_an_error_inside_a_200_is_no_answer(world, stream, begun):
    """It is cancelled, unless something had been generated before it."""
    upstream = world.upstream()
    error = {"error": {"message": "overloaded", "code": 503}}

    async def reply(request, body):
        if not stream:
            text = {"choices": [{"message": {"content": "w0 w1 w2 w3"}}]} if begun else {}
            return web.json_response({**text, **error})
        rows = [{"choices": [{"delta": {"content": "w0"}}]}] * 3 * begun + [error]
        data = b"".join(b"data: " + json.dumps(row).encode() + b"\n\n" for row in rows)
        return web.Response(body=data, content_type="text/event-stream")

    upstream.reply = reply
    for plan in (SHARE, TOKENS):
        gateway, url, rows = world.gateway(upstream.url, plan=plan)
        _, _, data = call(f"{url}/v1/chat/completions", {"messages": [], "stream": stream})
        assert b"overloaded" in data
        (row,) = settled_rows(world, rows)
        budget = world.snapshot(gateway)["budgets"][0]
        assert row["outcome"] == ("cut" if begun else "failed")
        assert (budget["num_requests"], budget["in_flight"]) == (int(begun), 0)
        if plan is TOKENS:
            assert budget["spent"] == ((3 if stream else 1) if begun else 0)


def test_an_error_status_with_a_stream_is_no_answer(world):
    upstream = world.upstream()

    async def reply(request, body):
        return web.Response(status=429, body=b'data: {"error": {}}\n\n', content_type="text/event-stream")

    upstream.reply = reply
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS)
    assert call(f"{url}/v1/chat/completions", {"messages": [], "stream": True})[0] == 429
    assert settled_rows(world, rows)[0]["outcome"] == "failed"
    assert world.snapshot(gateway)["budgets"][0]["num_requests"] == 0


def test_several_answers_count_as_several_requests(world):
    upstream = world.upstream()
    gateway, url, _ = world.gateway(upstream.url)
    wanted = {"x-ibpo-response-group": "extended"}
    groups = groups_of(bulk(world, url, [wanted] * 40, body={"n": 4}))
    budget = world.snapshot(gateway)["budgets"][0]
    assert budget["num_requests"] == 160 and budget["spent"] == 4 * groups.count("extended")
    assert 0.3 * 160 - 10 <= budget["spent"] <= 0.3 * 160 + 5


def test_no_number_stands_for_a_price_that_nothing_is_worth(world):
    upstream = world.upstream()
    plan = {"budget": {"extended": {"mean": 0.05, "response_group": "extended", "overdraft": 1}}}
    _, url, rows = world.gateway(upstream.url, plan=plan)
    answers = bulk(world, url, [{"x-ibpo-gain": str(0.5 + number / 1000)} for number in range(60)])
    prices = [headers.get("x-ibpo-price") for _, headers, _ in answers]
    assert None in prices  # nothing is to be had at any price
    shown = [row["price"]["extended"] for row in rows() if row["event"] == "request"]
    shown += [row["price"] for row in json.loads(call(f"{url}/budget.json")[2])["budgets"]]
    shown += [float(price.partition("=")[2]) for price in prices if price]
    assert None in shown and all(price is None or 0 <= price < 1e6 for price in shown)
    metrics = call(f"{url}/metrics")[2]
    assert b"e+99" not in metrics and b"e+100" not in metrics


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_beyond_its_limit_is_told(world, stream):
    """A thought without the marker that the server looks for is not limited, and its answer ends as any other."""
    upstream = world.upstream()

    async def reply(request, body):
        assert body["thinking_token_budget"] == 20
        usage = {"completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 80}}
        data = {"choices": [{"message": {"content": "a"}, "delta": {"content": "a"}}], "usage": usage}
        if not stream:
            return web.json_response(data)
        text = b"data: " + json.dumps(data).encode() + b"\n\ndata: [DONE]\n\n"
        return web.Response(body=text, content_type="text/event-stream")

    upstream.reply = reply
    groups = [{"name": "standard", "max_thinking_tokens": 20, "max_tokens": 100, "tokens": 10}]
    _, url, rows = world.gateway(upstream.url, plan=TOKENS, groups=groups)
    call(f"{url}/v1/chat/completions", {"messages": [], "stream": stream})
    (row,) = settled_rows(world, rows)
    assert (row["tokens"], row["thinking_tokens"]) == (90, 80)
    assert b'ibpo_failures_total{what="thinking"} 1' in call(f"{url}/metrics")[2]


def test_groups_that_do_not_differ_are_told(world):
    """The upstream knows nothing of what sets the group, and says nothing."""
    upstream = world.upstream()
    groups = [
        {"name": name, "chat_template_kwargs": {"enable_thinkin": name == "extended"}}
        for name in ("standard", "extended")
    ]
    _, url, rows = world.gateway(
        upstream.url, groups=groups, plan={"budget": {"extended": {"mean": 0.9, "response_group": "extended"}}}
    )
    for group in ("standard", "extended"):
        bulk(world, url, [{"x-ibpo-response-group": group}] * 60)
    cautions = [row["message"] for row in rows() if row["event"] == "caution"]
    assert ["response group extended of model * takes no more tokens than standard" in text for text in cautions] == [
        True
    ]
    assert b'ibpo_failures_total{what="group"} 1' in call(f"{url}/metrics")[2]


@pytest.mark.parametrize(
    ("prefix", "message", "content", "reasoning"),
    [
        ("Answer:", {"content": None, "reasoning": " 7"}, " 7", None),
        ("<think>\n\n</think>\n\n", {"content": "", "reasoning_content": "7"}, "7", None),
        ("<think>", {"content": None, "reasoning": "3 + 4"}, None, "3 + 4"),  # cut off in its thought
        ("Answer:", {"content": "7", "reasoning": "3 + 4"}, "7", "3 + 4"),
        ("", {"content": None, "reasoning": "3 + 4"}, None, "3 + 4"),
    ],
)
def test_an_answer_that_the_upstream_took_for_a_thought_is_put_back(world, prefix, message, content, reasoning):
    """Behind a reasoning parser the continuation of a prefix arrives as reasoning, and the content is null."""
    upstream = world.upstream()

    async def reply(request, body):
        return web.json_response({"choices": [{"message": dict(message)}], "usage": {"completion_tokens": 2}})

    upstream.reply = reply
    groups = [{"name": "standard", "prefix": prefix, "max_tokens": 9, "tokens": 5}]
    _, url, rows = world.gateway(upstream.url, plan=TOKENS, groups=groups)
    status, _, body = call(f"{url}/v1/chat/completions", {"messages": [{"role": "user", "content": "3 + 4"}]})
    found = json.loads(body)["choices"][0]["message"]
    assert status == 200 and found["content"] == content
    assert (found.get("reasoning") or found.get("reasoning_content")) == reasoning
    (row,) = settled_rows(world, rows)
    assert (row["tokens"], row["outcome"]) == (2, "answered")
    moved = b'ibpo_failures_total{what="misplaced"} 1' in call(f"{url}/metrics")[2]
    assert moved == (content != message["content"])


def test_the_operator_is_told_of_a_group_that_costs_more_than_there_is_room_for(world):
    groups = [GROUPS[0], {**GROUPS[1], "tokens": 4000, "max_tokens": 5000}]
    gateway, url, _ = world.gateway(world.upstream().url, plan={"budget": {"tokens": {"mean": 20}}}, groups=groups)
    assert set(groups_of(bulk(world, url, [{}] * 6))) == {"standard"}
    (caution,) = world.snapshot(gateway)["cautions"]
    assert caution.startswith("response group 'extended' is expected to cost more than there is room for at a time")
    assert "raise the budget, or set overdraft" in caution


@pytest.mark.parametrize("path", ["completions", "responses"])
def test_a_standard_group_that_cannot_be_set_competes_all_the_same(world, path):
    """Else the other one, which its `body` lets be set anywhere, was given to everybody, whatever the budget said."""
    extended = {**GROUPS[1], "body": {"custom_params": {"thinking_budget": 300}}}
    upstream = world.upstream()
    gateway, url, _ = world.gateway(upstream.url, groups=[GROUPS[0], extended])
    body = {"model": "m", "prompt": "hi", "input": "hi", "max_tokens": 300}
    _, headers, _ = call(f"{url}/v1/{path}", body, {"x-ibpo-response-group": "standard"})
    assert headers["x-ibpo-response-group"] == "standard"
    sent = upstream.requests[-1]
    assert "custom_params" not in sent and sent["max_tokens"] == 100
    given = [call(f"{url}/v1/{path}", body)[1]["x-ibpo-response-group"] for _ in range(40)]
    budget = world.snapshot(gateway)["budgets"][0]
    assert 5 <= given.count("extended") == budget["spent"] <= 0.3 * 41 + 5
