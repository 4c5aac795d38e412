"""The cheap answer is made first, shown to the router, and given or followed by a more expensive one."""

import asyncio
import json
import math

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from ibpo.data import LogColumns
from ibpo.errors import IbpoError
from ibpo.routing import as_escalation, fit_router, read_first_answers, read_routed_log
from ibpo.serving.gateway import FittedRouter
from ibpo.serving.gateway.escalation import read_answer
from ibpo.serving.gateway.openai_request import read_request
from tests.serving.world import GROUPS, ask, bulk, call, client_of, groups_of

pytest.importorskip("sklearn")
PLAN = {"budget": {"tokens": {"mean": 60, "overdraft": 3000, "burst": 600}}}
WORDY, PLAIN = "So it is well yes no 777", "So 777"


def fitted(folder, num_answers=1, left_out=("logprob",)):
    """From a log in which wrong short answers are long (20 tokens for 10), and refuse."""
    rng, rows = np.random.default_rng(0), []
    for p in range(120):
        hard = p % 2
        for group, tokens, right in (("standard", 10, not hard), ("extended", 50, rng.random() < 0.9)):
            for k in range(2):
                text = PLAIN if not hard or group == "extended" else WORDY.replace("777", str(100 + k))
                wrong = group == "standard" and hard
                row = {"id": f"p{p}", "prompt": "q", "group": group, "reward": int(right), "response": text}
                rows.append({**row, "tokens": 2 * tokens if wrong else tokens, "logprob": -2.0 if wrong else -0.1})
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k not in left_out}) + "\n" for row in rows))
    table = read_routed_log(path, columns=LogColumns())
    first = read_first_answers(path, table, num_answers=num_answers)
    return FittedRouter(as_escalation(fit_router(first.table), first), "router.json")


def scripted(upstream, second=None):
    """Standard answers of a prompt with "hard" in it are long and wordy; `second` is every other one's text."""

    async def reply(request, body):
        prompt = json.dumps(body.get("messages") or body.get("prompt"))
        thinking = (body.get("chat_template_kwargs") or {}).get("enable_thinking")
        hard, number = "hard" in prompt, len(upstream.requests)
        text, tokens = ("So 777", 50) if thinking else (WORDY, 20) if hard else (PLAIN, 10)
        if second and not thinking and number % 2 == 0:
            text = second
        if body.get("stream"):
            return await upstream.stream(request, body, number, tokens, None, True)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": "x", "logprob": -2.0 if hard else -0.1, "top_logprobs": []}]}
        usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
        return web.json_response({"id": "r", "object": "chat.completion", "choices": [choice], "usage": usage})

    upstream.reply = reply
    return upstream


def test_an_easy_answer_is_given_and_a_hard_one_is_followed_by_more(world, tmp_path):
    upstream = scripted(world.upstream())
    gateway, url, log = world.gateway(upstream.url, plan=PLAN, router=fitted(tmp_path))
    bodies = [{"messages": [{"role": "user", "content": text}]} for text in ("easy", "hard", "easy", "hard")]
    replies = [bulk(world, url, [{}], body=body)[0] for body in bodies]
    assert groups_of(replies) == ["standard", "extended"] * 2
    for (status, headers, data), text, tokens in zip(replies, [PLAIN, "So 777"] * 2, [10, 50] * 2, strict=True):
        answer = json.loads(data)
        assert status == 200 and headers["Content-Type"].startswith("application/json")
        assert answer["choices"][0]["message"]["content"] == text
        assert answer["usage"]["completion_tokens"] == tokens and "x-ibpo-request-id" in headers
    assert len(upstream.requests) == 6
    rows = [row for row in log() if row["event"] == "request"]
    assert [row["tokens"] for row in rows] == [10, 50, 10, 50]
    assert [row["source"] for row in rows] == ["first answer"] * 4
    # 10 + (20 + 50) + 10 + (20 + 50): what was made first is charged with what came after it.
    state = world.run(gateway.governor.controller.snapshot())
    (total,) = [row for row in state["budgets"] if row["name"] == "tokens"]
    assert total["spent"] == pytest.approx(160) and total["num_requests"] == 4


def test_streams_get_the_first_answer_as_events_or_the_next_one_as_it_comes(world, tmp_path):
    upstream = scripted(world.upstream())
    _, url, log = world.gateway(upstream.url, plan=PLAN, router=fitted(tmp_path))
    client = client_of(url)
    easy = list(ask(client, "easy", stream=True, stream_options={"include_usage": True}).parse())
    assert "".join(e.choices[0].delta.content or "" for e in easy if e.choices) == PLAIN
    assert easy[-1].usage.completion_tokens == 10
    assert [e.choices[0].finish_reason for e in easy if e.choices][-1] == "stop"
    hard = list(ask(client, "hard", stream=True).parse())
    assert "".join(e.choices[0].delta.content or "" for e in hard if e.choices).count("w") == 50
    assert upstream.requests[0].get("stream") is None and upstream.requests[-1]["stream"]
    world.wait_until(lambda: [row["tokens"] for row in log() if row["event"] == "request"] == [10, 50])


def test_log_probabilities_are_asked_for_and_not_shown(world, tmp_path):
    upstream = scripted(world.upstream())
    upstream_probe = upstream.num_probes

    async def always(request):  # the scripted upstream takes log-probabilities for a probe
        body = await request.json()
        upstream.requests.append(body)
        return await upstream.reply(request, body)

    upstream.complete = always
    runner_url = start(world, upstream)
    _, url, _ = world.gateway(runner_url, plan=PLAN, router=fitted(tmp_path, left_out=("response",)))
    for text, group in (("easy", "standard"), ("hard", "extended")):
        ((_, headers, data),) = bulk(world, url, [{}], body={"messages": [{"role": "user", "content": text}]})
        assert headers["x-ibpo-response-group"] == group
        assert not json.loads(data)["choices"][0].get("logprobs")
    assert [body.get("logprobs") for body in upstream.requests] == [True, True, None]
    assert upstream.num_probes == upstream_probe


def start(world, upstream):
    """Another server of the same upstream, after its handler was replaced."""

    async def run():
        runner = web.AppRunner(upstream.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        world.stack.push_async_callback(runner.cleanup)
        return f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    return world.run(run())


def test_two_answers_are_compared_and_both_are_charged(world, tmp_path):
    upstream = scripted(world.upstream())
    gateway, url, log = world.gateway(upstream.url, plan=PLAN, router=fitted(tmp_path, 2))
    ((_, headers, data),) = bulk(world, url, [{}], body={"messages": [{"role": "user", "content": "easy"}]})
    assert headers["x-ibpo-response-group"] == "standard" and len(upstream.requests) == 2
    assert json.loads(data)["choices"][0]["message"]["content"] == PLAIN
    (row,) = [row for row in log() if row["event"] == "request"]
    state = world.run(gateway.governor.controller.snapshot())
    assert row["tokens"] == 10 and state["budgets"][0]["spent"] == 20


def test_each_first_answer_is_charged_what_it_is_billed_itself(world, tmp_path):
    """The second was charged the first one's prompt and thoughts, and 10^7 tokens where a cap of 100 was sent."""
    upstream, calls = world.upstream(), []
    usages = [(1000, 0, 10, 4), (1000, 900, 60, 50), (2000, 0, 20, 0), (2000, 1500, 10**7, 0), (2000, 1000, 300, 200)]
    price = {"input": 2.0, "cached_input": 0.5, "output": 8.0, "reasoning": 16.0}

    async def complete(request):
        body = await request.json()
        prompt, cached, tokens, thoughts = usages[len(calls)]
        calls.append(body)
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
        usage |= {"prompt_tokens_details": {"cached_tokens": cached}}
        usage |= {"completion_tokens_details": {"reasoning_tokens": thoughts}}
        thinking = body["chat_template_kwargs"]["enable_thinking"]
        text = PLAIN if thinking or "easy" in str(body["messages"]) else f"{WORDY}{len(calls)}"
        message = {"role": "assistant", "content": text}
        return web.json_response({"choices": [{"index": 0, "message": message}], "usage": usage})

    upstream.complete = complete
    plan = {"budget": {**PLAN["budget"], "money": {"mean": 1.0}}}
    gateway, url, log = world.gateway(
        start(world, upstream), plan=plan, router=fitted(tmp_path, 2), model={"price": price}
    )
    for text in ("easy", "hard"):
        bulk(world, url, [{}], body={"messages": [{"role": "user", "content": text}]})
    assert [row["response_group"] for row in log() if row["event"] == "request"] == ["standard", "extended"]
    money = [
        (prompt - cached) * 2.0 + cached * 0.5 + thoughts * 16.0 + (min(tokens, 400) - thoughts) * 8.0
        for prompt, cached, tokens, thoughts in (row if row[2] < 1000 else (*row[:2], 100, 0) for row in usages)
    ]
    spent = {row["name"]: row["spent"] for row in world.snapshot(gateway)["budgets"]}
    assert spent["tokens"] == 10 + 60 + 20 + 100 + 300
    assert spent["money"] == pytest.approx(sum(money) / 1e6, rel=1e-12)
    assert [row["tokens"] for row in log() if row["event"] == "usage_refused"] == [10**7]


def test_what_a_first_answer_cost_is_in_the_line_of_a_request_that_failed(world, tmp_path):
    upstream = scripted(world.upstream())
    reply, price = upstream.reply, {"input": 2.0, "output": 8.0}

    async def fail(request, body):
        if body["chat_template_kwargs"]["enable_thinking"]:
            return web.json_response({"error": {"message": "no"}}, status=500)
        return await reply(request, body)

    upstream.reply = fail
    plan = {"budget": {"money": {"mean": 1.0}}}
    gateway, url, log = world.gateway(upstream.url, plan=plan, router=fitted(tmp_path), model={"price": price})
    body = {"messages": [{"role": "user", "content": "hard"}]}
    assert bulk(world, url, [{}], body=body)[0][0] == 500
    (row,) = [row for row in log() if row["event"] == "request"]
    spent = world.snapshot(gateway)["budgets"][0]
    assert row["money"] == spent["spent"] == pytest.approx((5 * 2.0 + 20 * 8.0) / 1e6) and spent["num_requests"] == 0


def test_who_says_what_it_wants_or_asks_for_several_is_decided_at_once(world, tmp_path):
    upstream = scripted(world.upstream())
    _, url, _ = world.gateway(upstream.url, plan=PLAN, router=fitted(tmp_path))
    bulk(world, url, [{"x-ibpo-response-group": "standard"}, {"x-ibpo-gain": "0.5"}])
    assert len(upstream.requests) == 2
    bulk(world, url, [{}], body={"n": 2})
    assert len(upstream.requests) == 3


def test_the_bound_holds_with_what_was_made_first(world, tmp_path):
    upstream = scripted(world.upstream())
    narrow = {"budget": {"tokens": {"mean": 30, "overdraft": 450, "burst": 30}}}
    gateway, url, _ = world.gateway(upstream.url, plan=narrow, router=fitted(tmp_path))
    names = groups_of(bulk(world, url, [{}] * 60, body={"messages": [{"role": "user", "content": "hard"}]}))
    state = world.run(gateway.governor.controller.snapshot())["budgets"][0]
    assert 3 <= names.count("extended") <= 20
    assert state["spent"] == 70 * names.count("extended") + 20 * names.count("standard")
    assert state["spent"] <= 30 * 60 + 450


@pytest.mark.parametrize("fault, status, booked", [("500", 500, 0.0), ("cut", 502, 10.0), ("malformed", 502, 10.0)])
def test_a_first_answer_that_fails_is_booked_only_if_it_may_have_been_made(world, tmp_path, fault, status, booked):
    upstream = world.upstream()
    upstream.fault_of = lambda number: fault
    gateway, url, _ = world.gateway(upstream.url, plan=PLAN, router=fitted(tmp_path))
    got, _, data = call(f"{url}/v1/chat/completions", {"model": "m", "messages": []})
    assert got == status and b"error" in data
    state = world.run(gateway.governor.controller.snapshot())["budgets"][0]
    assert state["spent"] == pytest.approx(booked) and state["num_requests"] == (1 if booked else 0)


@pytest.mark.parametrize(
    "logprobs",
    [{"content": [{"token": "x", "logprob": 10**400}]}, {"content": 5}, {"content": ["x"]}, {}],
    ids=["huge", "number", "text", "none"],
)
def test_a_first_answer_of_which_nothing_can_be_said_is_given_and_booked(world, tmp_path, logprobs):
    """Log-probabilities that are none were an error 500, and the answer that had been made was not booked."""
    upstream = world.upstream()

    async def complete(request):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": PLAIN}}
        row = {"choices": [{**choice, "logprobs": logprobs}], "usage": {"prompt_tokens": 5, "completion_tokens": 10}}
        return web.json_response(row)

    upstream.complete = complete
    gateway, url, rows = world.gateway(world.serve(upstream.app()), plan=PLAN, router=fitted(tmp_path, left_out=()))
    got, headers, data = call(f"{url}/v1/chat/completions", {"model": "m", "messages": []})
    assert got == 200 and headers["x-ibpo-response-group"] == "standard" and PLAIN.encode() in data
    state = world.snapshot(gateway)["budgets"][0]
    assert (state["spent"], state["num_requests"]) == (10.0, 1)
    assert not [row for row in rows() if row["event"] == "internal_error"]


@pytest.mark.parametrize(
    ("status", "answer"), [(200, {"error": {"message": "overloaded"}}), (307, {}), (400, {"error": {"message": "no"}})]
)
def test_an_error_in_the_place_of_the_first_answer_passes_as_it_is_and_costs_nothing(world, tmp_path, status, answer):
    """Errors inside a 200 and redirects were a 502 of the gateway's, and charged."""
    upstream = world.upstream()

    async def reply(request, body):
        return web.json_response(answer, status=status)

    upstream.reply = reply
    gateway, url, _ = world.gateway(upstream.url, plan=PLAN, router=fitted(tmp_path))
    got, _, data = call(f"{url}/v1/chat/completions", {"model": "m", "messages": []})
    assert (got, json.loads(data)) == (status, answer)
    budget = world.snapshot(gateway)["budgets"][0]
    assert (budget["spent"], budget["num_requests"]) == (0, 0)


def test_a_caller_that_leaves_while_the_first_answer_is_made_is_charged_for_it(world, tmp_path):
    upstream = world.upstream()
    upstream.held = True
    gateway, url, _ = world.gateway(upstream.url, plan=PLAN, router=fitted(tmp_path))

    async def leave():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
            with pytest.raises(TimeoutError):
                await session.post(f"{url}/v1/chat/completions", json={"model": "m", "messages": []})

    world.run(leave())
    upstream.held = False
    world.wait_until(lambda: world.run(gateway.governor.controller.snapshot())["budgets"][0]["spent"] == 10)


def test_a_caller_that_leaves_while_it_is_decided_is_charged_for_what_was_made(world, tmp_path, monkeypatch):
    """A store is waited for then; nothing was booked, and the first answer had been generated."""
    upstream = scripted(world.upstream())
    gateway, url, log = world.gateway(upstream.url, plan=PLAN, router=fitted(tmp_path))
    controller, waiting = gateway.governor.controller, []
    decide = controller.decide

    async def slow(*options, **named):
        if not waiting:
            waiting.append(True)
            await asyncio.sleep(60)
        return await decide(*options, **named)

    monkeypatch.setattr(controller, "decide", slow)

    async def leave():
        body = {"model": "m", "messages": [{"role": "user", "content": "hard"}]}
        async with aiohttp.ClientSession() as session:
            asked = asyncio.ensure_future(session.post(f"{url}/v1/chat/completions", json=body))
            while not waiting:
                await asyncio.sleep(0.01)
            asked.cancel()

    world.run(leave())
    world.wait_until(lambda: any(row["event"] == "request" for row in log()))
    (row,) = [row for row in log() if row["event"] == "request"]
    assert (row["response_group"], row["outcome"], row["status"]) == ("standard", "disconnected", 0)
    budget = world.snapshot(gateway)["budgets"][0]
    assert (budget["spent"], budget["num_requests"], budget["in_flight"], len(upstream.requests)) == (20, 1, 0, 1)


def test_what_cannot_be_seen_here_is_refused_at_the_start(tmp_path):
    path = tmp_path / "log.jsonl"
    fitted(tmp_path)
    rows = [{**json.loads(line), "mood": i % 3} for i, line in enumerate(path.read_text().splitlines())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_routed_log(path, columns=LogColumns())
    first = read_first_answers(path, table, num_answers=1, columns=["mood"])
    with pytest.raises(IbpoError, match="needs the numbers mood with each prompt"):
        FittedRouter(as_escalation(fit_router(first.table), first), "router.json")


def test_what_answers_show():
    chat = read_request(b'{"messages": [], "response_format": {"type": "json_object"}}')
    good = {"choices": [{"message": {"content": '{"a": 1}'}, "logprobs": {"content": [{"logprob": -1}, None]}}]}
    assert read_answer([good], chat, 9) == {
        "tokens": math.log(10),
        "characters": math.log(9),
        "refused": 0.0,
        "logprob": -1.0,
        "failed": 0.0,
    }
    bad = {"choices": [{"message": {"content": "Sorry, no."}}]}
    shown = read_answer([bad, bad], chat, 3)
    assert shown["failed"] == shown["refused"] == shown["agree"] == 1.0 and "logprob" not in shown
    tools = {"choices": [{"message": {"content": None, "tool_calls": [{"id": "a"}]}}]}
    assert read_answer([tools], read_request(b'{"messages": []}'), 3)["refused"] == 0.0
    text = {"choices": [{"text": "7", "logprobs": {"token_logprobs": [None, -2.0, -4.0]}}]}
    assert read_answer([text], read_request(b'{"prompt": "q"}', "completions"), 1)["logprob"] == -3.0


def test_a_session_that_cannot_be_read_costs_no_first_answer(world, tmp_path):
    """It was refused once its first answer had been generated, and nobody was charged."""
    upstream = scripted(world.upstream())
    gateway, url, _ = world.gateway(
        upstream.url, plan=PLAN, router=fitted(tmp_path), tables={"session": {"tokens": 600}}
    )
    body = {"messages": [{"role": "user", "content": "easy"}]}
    for headers in (
        {"x-ibpo-session": "a", "x-ibpo-session-budget": "tokens=many"},
        {"x-ibpo-session-budget": "tokens=5"},
        {"x-ibpo-session": "a" * 300},
    ):
        ((status, _, data),) = bulk(world, url, [headers], body=body)
        assert status == 400 and b"header x-ibpo-session" in data
    assert upstream.requests == []
    ((status, headers, _),) = bulk(world, url, [{"x-ibpo-session": "a"}], body=body)
    assert status == 200 and headers["x-ibpo-session-left"] == "tokens=590"
    assert world.snapshot(gateway)["budgets"][0]["spent"] == 10


def test_a_first_answer_that_the_upstream_took_for_a_thought_is_put_back(world, tmp_path):
    """Streams kept it as a thought, and the router saw an empty answer."""
    upstream = scripted(world.upstream())
    plain = upstream.reply

    async def reply(request, body):
        answer = await plain(request, body)
        if body.get("stream") or (body.get("chat_template_kwargs") or {}).get("enable_thinking"):
            return answer
        row = json.loads(answer.body)
        message = row["choices"][0]["message"]
        message["reasoning"], message["content"] = message["content"], None
        return web.json_response(row)

    upstream.reply = reply
    groups = [{"name": "standard", "prefix": "Answer:", "tokens": 10, "max_tokens": 100}, GROUPS[1]]
    gateway, url, _ = world.gateway(upstream.url, plan=PLAN, groups=groups, router=fitted(tmp_path))
    whole, stream = (ask(client_of(url), "easy", stream=stream).parse() for stream in (False, True))
    assert whole.choices[0].message.content == PLAIN
    assert "".join(event.choices[0].delta.content or "" for event in stream) == PLAIN
    ((_, headers, _),) = bulk(world, url, [{}], body={"messages": [{"role": "user", "content": "hard"}]})
    assert headers["x-ibpo-response-group"] == "extended"
    assert 'ibpo_failures_total{what="misplaced"} 3.0' in metrics_of(world, gateway)


def slowly(reply):
    async def later(request, body):
        await asyncio.sleep(0.2)
        return await reply(request, body)

    return later


def metrics_of(world, gateway):
    return gateway.metrics.render(world.snapshot(gateway)).decode()


def test_what_was_made_first_is_in_the_log_and_in_the_metrics(world, tmp_path):
    """The log's money was that of the second answer alone, and the tokens of the first were nowhere."""
    upstream = scripted(world.upstream())
    plan = {"budget": {**PLAN["budget"], "money": {"mean": 0.001, "overdraft": 1}}}
    price = {"price": {"input": 1, "output": 10}}
    gateway, url, log = world.gateway(upstream.url, plan=plan, model=price, router=fitted(tmp_path))
    upstream.reply = slowly(upstream.reply)
    for text in ("easy", "hard"):
        bulk(world, url, [{}], body={"messages": [{"role": "user", "content": text}]})
    rows = [row for row in log() if row["event"] == "request"]
    assert [(row["tokens"], row.get("first_tokens")) for row in rows] == [(10, None), (50, 20)]
    assert rows[0]["seconds"] >= 0.2 and rows[1]["seconds"] >= 0.4  # from the request on, not from the decision
    # 5 tokens of the prompt and 10 of the answer; then 5 and 20, and 5 and 50.
    assert [row["money"] for row in rows] == pytest.approx([105e-6, (205 + 505) * 1e-6])
    tokens, money = world.snapshot(gateway)["budgets"]
    assert tokens["spent"] == 80 and money["spent"] == pytest.approx(sum(row["money"] for row in rows))
    for group, count in (("standard", 30), ("extended", 50)):
        named = f'ibpo_completion_tokens_total{{counted="usage",response_group="{group}",tenant="-"}} {count}.0'
        assert named in metrics_of(world, gateway)


def test_each_first_answer_that_was_lost_is_booked_and_the_line_has_the_status(world, tmp_path):
    upstream = world.upstream()
    upstream.fault_of = lambda number: "malformed"
    gateway, url, log = world.gateway(upstream.url, plan=PLAN, router=fitted(tmp_path, 2))
    assert call(f"{url}/v1/chat/completions", {"model": "m", "messages": []})[0] == 502
    budget = world.snapshot(gateway)["budgets"][0]
    assert len(upstream.requests) == 2 and (budget["spent"], budget["num_requests"]) == (20, 1)
    (row,) = [row for row in log() if row["event"] == "request"]
    assert (row["outcome"], row["status"]) == ("cut", 502)


def test_no_other_log_probabilities_than_none_are_taken_out(world, tmp_path):
    """0 of completions asks for those of the tokens that were drawn, and is no "no"."""
    upstream = world.upstream()

    async def always(request):
        body = await request.json()
        upstream.requests.append(body)
        choice = {"index": 0, "finish_reason": "stop", "text": PLAIN, "logprobs": {"token_logprobs": [-0.1]}}
        return web.json_response({"id": "r", "choices": [choice], "usage": {"completion_tokens": 10}})

    upstream.complete = always
    groups = [{**row, "prefix": f" {row['name']}"} for row in GROUPS]
    router = fitted(tmp_path, left_out=("response",))
    _, url, _ = world.gateway(world.serve(upstream.app()), plan=PLAN, groups=groups, router=router)
    for asked, sent, shown in ((0, 0, [-0.1]), (None, 1, None), (2, 2, [-0.1])):
        _, _, data = call(f"{url}/v1/completions", {"model": "m", "prompt": "easy", "logprobs": asked})
        assert upstream.requests[-1]["logprobs"] == sent, asked
        assert (json.loads(data)["choices"][0]["logprobs"] or {}).get("token_logprobs") == shown, asked
