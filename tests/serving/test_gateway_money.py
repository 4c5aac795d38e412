"""What answers cost in money, by whose cache holds what, and decisions that stay with their conversation."""

import json
import math
import random
from typing import Any

import pytest
from aiohttp import web

from ibpo.errors import IbpoError
from ibpo.prices import Price, TokenUse
from ibpo.serving.gateway.learning import Learner
from ibpo.serving.gateway.money import Biller, conversation_of, measure_prompt, read_prompt
from ibpo.serving.gateway.openai_request import Api, check_request
from ibpo.serving.gateway.settings import build_settings
from ibpo.serving.stores import SqliteStore
from tests.serving.world import GROUPS, QUICK, bulk, call, groups_of

PRICE = {"input": 2.0, "cached_input": 0.2, "output": 10.0, "reasoning": 20.0}
BILLED = Price(input=2.0, cached_input=0.2, cache_write=2.0, output=10.0, reasoning=20.0)
MONEY = {"budget": {"money": {"mean": 0.02, "overdraft": 0.5}}}


class CachingUpstream:
    """Reports as a server with one prompt cache for each response group: a quarter of a prompt's bytes are tokens."""

    def __init__(self, chat=True):
        self.held, self.used, self.chat = {}, [], chat

    async def __call__(self, request, body):
        thinking = body["chat_template_kwargs"]["enable_thinking"]
        text = json.dumps(body["messages"])
        cached = max((len(t) // 4 for t in self.held.get(thinking, ()) if text.startswith(t[:-1])), default=0)
        self.held.setdefault(thinking, []).append(text)
        prompt, reasoning = len(text) // 4, 40 if thinking else 0
        count = reasoning + 10
        self.used.append((thinking, prompt - cached, cached, count, reasoning))
        details = {"cached_tokens": cached}
        usage = {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}
        usage |= {"prompt_tokens_details": details, "completion_tokens_details": {"reasoning_tokens": reasoning}}
        message = {"role": "assistant", "content": "w " * 10}
        if not body.get("stream"):
            return web.json_response({"choices": [{"index": 0, "message": message}], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for row in ({"choices": [{"index": 0, "delta": message}]}, {"choices": [], "usage": usage}):
            await response.write(b"data: " + json.dumps(row).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    def money(self):
        return [
            BILLED.of(TokenUse(input=new, cached_input=cached, output=count, reasoning=reasoning))
            for _, new, cached, count, reasoning in self.used
        ]


def turns(count, first=40_000):
    """The bodies of a chat that grows."""
    messages = [{"role": "user", "content": "x" * first}]
    for i in range(count):
        yield {"messages": list(messages)}
        messages += [{"role": "assistant", "content": "w " * 10}, {"role": "user", "content": f"and {i}?"}]


@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_is_charged_what_it_is_billed(world, stream):
    upstream = world.upstream()
    upstream.reply = billing = CachingUpstream()
    gateway, url, rows = world.gateway(upstream.url, plan=MONEY, model={"price": PRICE}, upstream=QUICK)
    for body in turns(6, first=4000):
        bulk(world, url, [{"x-ibpo-gain": "0.9"}], stream=stream, body=body)
    lines = [row for row in rows() if row["event"] == "request"]
    assert [row["money"] for row in lines] == pytest.approx(billing.money(), rel=1e-5)
    budget = world.snapshot(gateway)["budgets"][0]
    assert budget["spent"] == pytest.approx(sum(billing.money()))
    assert billing.used[-1][2] > 900  # of the prompt, most was cached


def test_a_conversation_stays_where_its_cache_is_and_moves_where_the_gain_is_larger(world):
    """Gains of .9 and .0 in turn: a short chat changes every time, one of 15,000 tokens stays with what it began."""
    chosen = {}
    plan = {"budget": {"money": {"mean": 0.0005, "overdraft": 0.5}}}
    for chat, first in (("long", 60_000), ("short", 40)):
        upstream = world.upstream()
        upstream.reply = billing = CachingUpstream()
        _, url, _ = world.gateway(upstream.url, plan=plan, model={"price": PRICE}, upstream=QUICK)
        chance = random.Random(0)
        # Other traffic makes the price: an extended answer is .0009 more expensive, and worth it above some .6.
        for i in range(80):
            body = {"messages": [{"role": "user", "content": f"{i}?"}]}
            bulk(world, url, [{"x-ibpo-gain": str(chance.random())}], body=body)
        del billing.used[:]
        for i, body in enumerate(turns(8, first=first)):
            bulk(world, url, [{"x-ibpo-gain": "0.9" if i % 2 == 0 else "0.0"}], body=body)
        chosen[chat] = [row[0] for row in billing.used]
    assert chosen["short"] == [True, False] * 4
    assert chosen["long"] == [True] * 8


def test_without_prices_a_switch_has_to_gain_what_the_operator_says(world):
    upstream = world.upstream()
    tables = {"conversation": {"switch_gain": 0.3}}
    plan = {"budget": {"extended": {"mean": 0.9, "response_group": "extended"}}}
    _, url, _ = world.gateway(upstream.url, plan=plan, tables=tables, upstream=QUICK)
    messages = [{"role": "user", "content": "how?"}]

    def next_group(gain, headers=None):
        (group,) = groups_of(bulk(world, url, [{"x-ibpo-gain": gain, **(headers or {})}], body={"messages": messages}))
        messages.extend([{"role": "assistant", "content": "so"}, {"role": "user", "content": "and?"}])
        return group

    first = next_group("0.0")
    assert first == "standard"
    assert next_group("0.2") == "standard"  # worth less than the switch
    assert next_group("0.4") == "extended"
    assert next_group("0.01") == "extended"  # and it stays there
    # What the caller names is another conversation, and so is another beginning.
    assert next_group("0.2", {"x-ibpo-conversation": "b"}) == "extended"
    assert next_group("0.0", {"x-ibpo-conversation": "c"}) == "standard"


def test_caches_and_prompts_are_known_after_a_restart(world, tmp_path):
    state, bodies = str(tmp_path / "book.sqlite"), list(turns(3))
    upstream = world.upstream()
    upstream.reply = billing = CachingUpstream()
    asked = {"plan": MONEY, "model": {"price": PRICE}, "upstream": QUICK, "state": state, "name": "one"}
    first, url, _ = world.gateway(upstream.url, **asked)
    bulk(world, url, [{"x-ibpo-gain": "0.9"}], body=bodies[0])
    world.wait_until(lambda: world.snapshot(first)["num_in_flight"] == 0)
    controller = first.governor.controller
    world.run(controller._run(controller._save))
    second, url, _ = world.gateway(upstream.url, **asked)
    request = check_request({"model": "m", **bodies[1]}, "chat")
    biller, model = second.governor.biller, second.settings.model[0]
    import time

    bill = biller.begin(request, {}, "", time.time())
    held = [biller.expect(bill, model, group, 0, 0) for group in model.response_group]
    alike = billing.used[0][0]
    assert held[alike] < 0.2 * held[not alike]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_no_model_could_read_is_billed_as_expected(world, stream):
    """The cost was infinite, so that the caller got an error for a good answer, and the reservation was never ended."""
    upstream, counts = world.upstream(), iter([1e308, 1.7e308, 1e300, 2.0**53, 40.0])

    async def reply(request, body):
        prompt = next(counts)
        usage = {"prompt_tokens": prompt, "completion_tokens": 10, "cache_creation_input_tokens": prompt}
        choice = {"index": 0, ("delta" if body.get("stream") else "message"): {"role": "assistant", "content": "w"}}
        row = {"choices": [choice], "usage": usage}
        if not body.get("stream"):
            return web.json_response(row)
        return web.Response(
            body=f"data: {json.dumps(row)}\n\ndata: [DONE]\n\n".encode(), content_type="text/event-stream"
        )

    upstream.reply = reply
    gateway, url, log = world.gateway(upstream.url, plan=MONEY, model={"price": PRICE}, upstream=QUICK)
    replies = bulk(world, url, [{"x-ibpo-gain": "0"}] * 5, stream=stream)
    assert [status for status, _, _ in replies] == [200] * 5
    row = world.snapshot(gateway)["budgets"][0]
    assert row["in_flight"] == 0 and not gateway.governor.controller._store.older_than(float("inf"))
    # 10 tokens of an answer each; of four prompts a quarter of the bytes of `[]`, of the last 40, written into a cache.
    assert row["spent"] == pytest.approx(5 * 10 * 10e-6 + 4 * 0.5 * 2e-6 + 40 * 2e-6)
    assert not [line for line in log() if line["event"] == "internal_error"]
    refused = [(line["tokens"], line["most"]) for line in log() if line["event"] == "usage_refused"]
    assert refused == [(tokens, 1 << 27) for tokens in (1e308, 1.7e308, 1e300, 2.0**53)]
    assert 'ibpo_failures_total{what="usage"} 4.0' in call(f"{url}/metrics")[2].decode()


def test_what_upstreams_report_of_their_caches_is_learned():
    """A server with one cache for all efforts, and one with none."""
    settings = build_settings({"model": [{"name": "*", "response_group": GROUPS, "price": PRICE}]}, "test")
    model = settings.model[0]
    for shares, last in ((True, 0.0), (False, 0.0)):
        biller = Biller(settings)
        for i in range(100):
            request = check_request({"messages": [{"role": "user", "content": f"{i}" * 9000}]}, "chat")
            bill = biller.begin(request, {}, "", float(i))
            for turn, group in enumerate([*model.response_group, model.response_group[0]]):
                cached = 0.0 if turn == 0 or not shares else 2000.0
                use = TokenUse(input=2250.0 - cached, cached_input=cached)
                biller.learn(bill, request, model, group, tokens=0.0, reasoning=0.0, prompt=use)
        request = check_request({"messages": [{"role": "user", "content": "y" * 9000}]}, "chat")
        bill = biller.begin(request, {}, "", 200.0)
        biller.learn(bill, request, model, model.response_group[0], tokens=0.0, reasoning=0.0, prompt=None)
        costs = [biller.expect(bill, model, group, 0.0, 0) for group in model.response_group]
        last = BILLED.of(TokenUse(input=bill.prompt_tokens))
        assert all(cost < 0.4 * last for cost in costs) if shares else all(cost > 0.95 * last for cost in costs)


def responses_turn(biller, model, body, response_id="", prompt=None, now=0.0):
    """A turn of /v1/responses that is asked and, with what the upstream says of its prompt, answered."""
    request = check_request({"model": "m", "input": "x" * 400, **body}, "responses")
    bill = biller.begin(request, {}, "", now)
    if prompt is not None:
        use = TokenUse(input=prompt)
        group = model.response_group[0]
        biller.learn(bill, request, model, group, tokens=10.0, reasoning=0.0, prompt=use, response_id=response_id)
    return bill


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", ["previous_response_id", "conversation"])
def test_what_the_upstream_keeps_is_in_the_reserve_and_no_measure_of_other_prompts(name, restart):
    """It was so for `previous_response_id` only, until a restart; its ratio of tokens to bytes was everybody's."""
    settings = build_settings({"model": [{"name": "*", "response_group": GROUPS, "price": PRICE}]}, "test")
    model, biller = settings.model[0], Biller(settings)
    for number in range(20):
        responses_turn(biller, model, {"input": "y" * 400}, f"other_{number}", 100.0)
    before = {name: "conv_1"} if name == "conversation" else {}
    responses_turn(biller, model, before, "resp_1", 100_000.0)
    if restart:
        state, biller = json.loads(json.dumps(biller.state_dict())), Biller(settings)
        biller.load_state(state)
    bill = responses_turn(biller, model, {name: "conv_1" if name == "conversation" else "resp_1"})
    assert bill.kept_tokens == pytest.approx(100_010)
    assert biller.limit(bill, model, model.response_group[0], 0, 0) > 2.0 * 100_010 / 1e6
    assert responses_turn(biller, model, {}).prompt_tokens == pytest.approx(100, rel=0.05)


def test_a_name_that_is_no_unicode_text_is_a_name():
    """JSON may hold half of a pair (`"\\ud800"`)."""
    settings = build_settings({"model": [{"name": "*", "response_group": GROUPS, "price": PRICE}]}, "test")
    biller, model = Biller(settings), settings.model[0]
    body = {"model": "\ud800", "messages": [{"role": "user", "content": "\udfff"}]}
    request = check_request(body, "chat")
    bill = biller.begin(request, {}, "", 0.0)
    biller.learn(bill, request, model, model.response_group[0], tokens=1.0, reasoning=0.0, prompt=None)
    responses_turn(biller, model, {}, "\ud800", 10.0)


def test_names_of_models_that_callers_make_up_do_not_fill_the_memory():
    """Some upstreams answer to any name; what prompts of each take was kept for good, and stored."""
    settings = build_settings({"model": [{"name": "*", "response_group": GROUPS, "price": PRICE}]}, "test")
    biller, model, use = Biller(settings), settings.model[0], TokenUse(input=50.0)
    for number in range(1500):
        request = check_request({"model": f"{number} " + "x" * 10_000, "messages": []}, "chat")
        bill = biller.begin(request, {}, "", 0.0)
        biller.learn(bill, request, model, model.response_group[0], tokens=1.0, reasoning=0.0, prompt=use)
    ratios = biller.state_dict()["ratios"]
    assert len(ratios) == 1024 and "1499 xxx" in str(list(ratios)[-1]) and max(map(len, ratios)) == 256
    assert biller.begin(request, {}, "", 0.0).prompt_tokens == 50.0  # the last ones are known


def test_conversations_are_named_by_header_api_or_beginning_and_are_the_tenants_own():
    def name(body, caller=None, tenant="", api: Api = "chat"):
        return conversation_of(check_request({"model": "m", **body}, api), caller or {}, tenant)

    hello = [{"role": "user", "content": "hello"}]
    later = [*hello, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "so?"}]
    assert name({"messages": hello}) == name({"messages": later}) != name({"messages": later[2:]})
    assert name({"messages": hello}) != name({"messages": hello}, tenant="gold")
    assert name({"messages": hello, "system": "brief"}, api="messages") != name({"messages": hello}, api="messages")
    named = {"x-ibpo-conversation": "17"}
    assert (
        name({"messages": hello}, named)
        == name({"messages": later[2:]}, named)
        == name({"prompt": "x"}, named, api="completions")
    )
    assert name({"prompt": "x"}, api="completions") == ""
    assert name({"input": "x"}, api="responses") == ""
    assert name({"input": hello}, api="responses") == name({"input": later}, api="responses") != ""


def test_a_prompt_never_has_more_tokens_than_measured_bytes():
    chance = random.Random(0)
    for _ in range(200):
        text = "".join(chr(chance.choice([65, 233, 0x4E2D, 0x1F600])) for _ in range(chance.randrange(40)))
        body = {"messages": [{"role": "user", "content": text}], "tools": [{"name": text}], "max_tokens": 9}
        # A tokenizer of bytes, and the template's marks of one message.
        assert measure_prompt(body) >= 2 * len(text.encode()) + 8


def test_anthropics_prompt_is_read_from_the_first_event():
    first = {"input_tokens": 30, "cache_read_input_tokens": 500, "cache_creation_input_tokens": 20, "output_tokens": 1}
    use = read_prompt([first, {"output_tokens": 400}])
    assert use is not None and (use.input, use.cached_input, use.cache_write) == (30, 500, 20)


@pytest.mark.parametrize("stream", [False, True])
def test_turns_that_name_the_answer_before_are_one_conversation(world, stream):
    """`/v1/responses` with `previous_response_id`: the upstream keeps the history, and bills it."""
    upstream = world.upstream()
    number, seen = [0], []

    async def reply(request, body):
        number[0] += 1
        whole = 10_000 * number[0]
        usage: dict[str, Any] = {"input_tokens": whole, "output_tokens": 20, "total_tokens": whole + 20}
        usage["input_tokens_details"] = {"cached_tokens": whole - 10_000}
        answer = {"id": f"resp_{number[0]}", "object": "response", "output": [], "usage": usage}
        seen.append(body.get("previous_response_id"))
        if not body.get("stream"):
            return web.json_response(answer)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        event = {"type": "response.completed", "response": answer}
        await response.write(b"event: response.completed\ndata: " + json.dumps(event).encode() + b"\n\n")
        return response

    upstream.reply = reply
    groups = [
        {"name": "standard", "reasoning_effort": "low", "tokens": 20, "max_tokens": 100},
        {"name": "extended", "reasoning_effort": "high", "tokens": 20, "max_tokens": 400, "gain": 0.5},
    ]
    gateway, url, rows = world.gateway(upstream.url, plan=MONEY, groups=groups, model={"price": PRICE}, upstream=QUICK)
    before = {}
    for turn in range(3):
        body = {"model": "m", "input": "x" * 40_000, "stream": stream, **before}
        status, _, _ = call(f"{url}/v1/responses", body, {"x-ibpo-gain": "1"})
        assert status == 200
        world.wait_until(lambda: world.snapshot(gateway)["num_in_flight"] == 0)
        before = {"previous_response_id": f"resp_{turn + 1}"}
    assert seen == [None, "resp_1", "resp_2"]
    request = check_request({"model": "m", "input": "x" * 40_000, **before}, "responses")
    biller, model = gateway.governor.biller, gateway.settings.model[0]
    bill = biller.begin(request, {}, "", rows()[-1]["time"])
    assert bill.prompt_tokens == pytest.approx(40_000, rel=0.05)  # 30,000 that are kept, and the new ones
    asked = {row["response_group"] for row in rows() if row["event"] == "request"}
    costs = {group.name: biller.expect(bill, model, group, 20, 0) for group in model.response_group}
    assert asked == {"extended"} and costs["extended"] < 0.5 * costs["standard"]
    # The reserve covers what the upstream keeps, too.
    assert biller.limit(bill, model, model.response_group[0], 100, 0) > BILLED.of(TokenUse(input=40_000, output=100))
    assert biller.begin(request, {}, "another tenant", 0.0).conversation == ""


@pytest.mark.parametrize(
    "damaged",
    [
        *({"ratios": 5}, {"thinking": {"m/standard": [1]}}, {"responses": [1]}, {"chats": {"caches": 5}}, []),
        *({"ratios": {"m": [1.0, 0.0]}}, {"thinking": {"*/standard": [math.nan, 1.0]}}),
        {"chats": {"caches": {"c": {"*/standard": ["x", 1.0]}}, "kept": {}, "shared": {}}},
        {"chats": {"caches": {}, "kept": {"*/standard": "x"}, "shared": {}}},
    ],
)
def test_a_state_of_something_else_stops_no_gateway(world, tmp_path, damaged):
    """What a process had learned of prompts is learned again, and the log says so; it ended with a traceback."""
    state = str(tmp_path / "book.sqlite")
    with SqliteStore(state, ["money"]) as store:
        store.save_state("one biller", damaged or {"ratios": []})
    upstream = world.upstream()
    _, url, rows = world.gateway(
        upstream.url, plan=MONEY, model={"price": PRICE}, upstream=QUICK, state=state, name="one"
    )
    (said,) = [row["message"] for row in rows() if row["event"] == "store"]
    assert "start again without it" in said
    assert [status for status, _, _ in bulk(world, url, [{}])] == [200]


@pytest.mark.parametrize("damaged", [{"level": 5}, {"level": ["a", 1]}, {"level": [1, 2, 3]}, []])
def test_a_learners_state_of_something_else_is_an_error(damaged):
    tables = {"model": [{"name": "m", "learn": True, "response_group": [{"name": "a"}, {"name": "b"}]}]}
    learner = Learner(build_settings(tables, "test"))
    saved = damaged if isinstance(damaged, list) else {**learner.state_dict()["m"], **damaged}
    with pytest.raises(IbpoError, match=r"not one of Learner\.state_dict"):
        learner.load_state({"m": saved})
