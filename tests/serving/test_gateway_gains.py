"""Who predicts the gains: a router, and the probe."""

import asyncio
import json
import math

import pytest
from aiohttp import web

from ibpo.data import LogColumns
from ibpo.errors import IbpoError
from ibpo.routing.fit import fit_router, read_routed_log
from ibpo.routing.router import load_router, save_router
from ibpo.serving.gateway.gains import (
    FittedRouter,
    OpeningTokens,
    PredictedGains,
    find_gains,
    read_opening_probabilities,
    split_openings,
    write_probe,
)
from ibpo.serving.gateway.openai_request import read_request
from ibpo.serving.gateway.settings import ModelSettings
from tests.serving.world import GROUPS, TOKENS, ScriptedUpstream, ask, bulk, client_of, groups_of

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.123456789, "seed": 2**60}


def test_probe_asks_for_one_token_of_the_same_prompt():
    groups = [{"name": "a", "prefix": "<|channel|>final"}, {"name": "b", "prefix": "<|channel|>analysis"}]
    model = ModelSettings.model_validate({"name": "*", "choose": ["probe"], "response_group": groups})
    assert split_openings(model) == ("<|channel|>", {"a": "final", "b": "analysis"})
    request = read_request(json.dumps({**CHAT, "max_tokens": 99, "stream": True, "n": 4}).encode())
    body = json.loads(write_probe(request, model) or b"")
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
    assert not {"stream", "n", "seed"} & set(body) and body["messages"][-1]["content"] == "<|channel|>"
    top = [{"token": "ana", "logprob": -1.0}, {"token": "final", "logprob": -2.0}, {"token": "Hm", "logprob": -0.5}]
    answer = json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}).encode()
    chances = read_opening_probabilities(answer, request, model)
    assert chances["b"] == pytest.approx(1 / (1 + 2.718281828**-1)) and sum(chances.values()) == pytest.approx(1)
    odd = [[*top[:1], {"token": "final", "logprob": logprob}] for logprob in (math.nan, math.inf, 2.0)]
    odd = [json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": rows}]}}]}) for rows in odd]
    for bad in (*map(str.encode, odd), b"", b"[]", b'{"choices": []}', b'{"choices": [{"logprobs": null}]}'):
        with pytest.raises(IbpoError, match="no log-probabilities"):
            read_opening_probabilities(bad, request, model)


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_probe_that_was_sent_and_not_answered_in_time_is_charged(is_sent):
    """Its token may have been generated; where the tokenizer took all the time, nothing was."""
    groups = [{"name": "a", "prefix": "Answer"}, {"name": "s", "prefix": "Solution"}]
    model = ModelSettings.model_validate(
        {"name": "*", "choose": ["probe"], "probe": {"seconds": 0.05}, "response_group": groups}
    )

    async def late(body):
        await asyncio.sleep(60)
        return b""

    async def tokenize(body):
        raise IbpoError("status 404")

    async def run():
        opening_tokens = OpeningTokens(tokenize if is_sent else late)
        return await find_gains(
            read_request(json.dumps(CHAT).encode()),
            {},
            model,
            router=None,
            send_probe=late,
            opening_tokens=opening_tokens,
            on_failure=failed.append,
        )

    failed = []
    found = asyncio.run(run())
    assert (found.source, found.probe_tokens, failed) == ("default", int(is_sent), ["probe"])


def probe_answer(**chances):
    top = [{"token": token.replace("_", " "), "logprob": math.log(chance)} for token, chance in chances.items()]
    return json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}).encode()


def test_letters_are_no_openings():
    """Every letter begins some word; and a ratio of next to nothing is none."""
    groups = [{"name": "a", "prefix": "Answer:"}, {"name": "s", "prefix": "Solution:"}]
    model = ModelSettings.model_validate({"name": "*", "choose": ["probe"], "response_group": groups})
    request = read_request(json.dumps(CHAT).encode())
    for chances in (
        {"S": 0.004, "A": 0.008, "The": 0.9},
        {"So": 0.002, "S": 0.3, "An": 0.001, "The": 0.6},
        {"The": 0.9},
    ):
        with pytest.raises(IbpoError, match="of the next token's probability"):
            read_opening_probabilities(probe_answer(**chances), request, model)
    chances = {"Solution": 0.3, "So": 0.4, "S": 0.1, "Answer": 0.1, "_A": 0.05}
    found = read_opening_probabilities(probe_answer(**chances), request, model)
    assert found == pytest.approx({"a": 0.25, "s": 0.75})
    # Where the tokenizer has said which token begins an opening, no other does.
    first = {"a": frozenset(["Answer"]), "s": frozenset(["S"])}
    found = read_opening_probabilities(probe_answer(**chances), request, model, first)
    assert found == pytest.approx({"a": 0.5, "s": 0.5})
    # Of one opening alone, little is an answer too.
    one = ModelSettings.model_validate(
        {"name": "*", "response_group": [{"name": "a"}, {"name": "s", "opening": "<think>"}]}
    )
    assert read_opening_probabilities(probe_answer(So=0.9), request, one) == {"s": 0.0}


@pytest.mark.parametrize("server", ["vllm", "llama.cpp", "another"])
def test_first_tokens_are_asked_of_the_upstream_once(server):
    asked = []

    async def ask(body):
        body = json.loads(body)
        asked.append(body["prompt"])
        if server == "another":
            raise IbpoError("status 404")
        pieces = ["\u0120" if body["prompt"].startswith(" ") else "", "Sol", "ution"]
        if server == "vllm":
            return json.dumps({"tokens": [1, 2, 3], "token_strs": pieces}).encode()
        return json.dumps({"tokens": [{"id": 1, "piece": piece.replace("\u0120", " ")} for piece in pieces]}).encode()

    tokens = OpeningTokens(ask)

    async def run():
        return [await tokens.of("m", {"s": " Solution"}) for _ in range(3)]

    expected = {} if server == "another" else {"s": frozenset(["Sol"])}
    assert asyncio.run(run()) == [expected] * 3
    assert asked == ["Solution", " Solution"][: 1 if server == "another" else 2]


@pytest.mark.parametrize(("fault", "times"), [(503, 2), (429, 2), (404, 1)])
def test_first_tokens_are_asked_again_where_the_upstream_was_only_busy(world, fault, times):
    """Its first fault, as while it starts, was taken for a server without a tokenizer, for good."""
    upstream, asked = world.upstream(), []

    async def echo(request):
        asked.append(request.path)
        if len(asked) == 1:
            return web.json_response({}, status=fault)
        return web.json_response({"tokens": [{"id": 1, "piece": (await request.json())["prompt"]}]})

    upstream.echo = echo
    groups = [GROUPS[0], {**GROUPS[1], "opening": "<think>"}]
    _, url, rows = world.gateway(world.serve(upstream.app()), groups=groups, model={"choose": ["probe"]})
    bulk(world, url, [{}] * 3)
    assert len(asked) == (1 if times == 1 else 3)  # with and without a space, once it answers
    assert [row["source"] for row in rows() if row["event"] == "request"] == ["probe"] * 3


def test_a_probe_that_says_nothing_is_charged_too(world):
    upstream = world.upstream()
    groups = [{**group, "opening": text} for group, text in zip(GROUPS, ("Answer", "Solution"), strict=True)]
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS, groups=groups, model={"choose": ["probe"]})
    bulk(world, url, [{}])
    world.wait_until(lambda: any(row["event"] == "request" for row in rows()))
    (row,) = [row for row in rows() if row["event"] == "request"]
    assert row["source"] == "default" and upstream.num_probes == 1
    assert world.snapshot(gateway)["budgets"][0]["spent"] == row["tokens"] + 1


@pytest.mark.parametrize(
    ("tokenize", "logprob"),
    [({"tokens": []}, 10**400), ({"token_strs": 5}, -0.7), ({"tokens": 5}, -0.7), ({"tokens": []}, [])],
    ids=["huge", "names", "tokens", "list"],
)
def test_a_probe_or_tokenizer_that_makes_no_sense_costs_nobody_the_answer(world, tokenize, logprob):
    """A log-probability of 401 digits, and names of tokens that are a number, were an error 500."""
    upstream = world.upstream()

    async def echo(request):
        return web.json_response(tokenize)

    async def complete(request):
        body = await request.json()
        if not body.get("logprobs"):
            return await ScriptedUpstream.complete(upstream, request)
        upstream.num_probes += 1
        top = [{"token": "<think>", "logprob": logprob}]
        return web.json_response({"choices": [{"index": 0, "logprobs": {"content": [{"top_logprobs": top}]}}]})

    upstream.echo, upstream.complete = echo, complete
    groups = [GROUPS[0], {**GROUPS[1], "opening": "<think>"}]
    gateway, url, rows = world.gateway(
        world.serve(upstream.app()), plan=TOKENS, groups=groups, model={"choose": ["probe"]}
    )
    assert bulk(world, url, [{}])[0][0] == 200
    world.wait_until(lambda: any(row["event"] == "request" for row in rows()))
    assert not [row for row in rows() if row["event"] == "internal_error"]
    (row,) = [row for row in rows() if row["event"] == "request"]
    assert world.snapshot(gateway)["budgets"][0]["spent"] == row["tokens"] + upstream.num_probes


def test_a_fitted_router_speaks_of_requests(tmp_path):
    pytest.importorskip("sklearn")
    rows = []
    for p in range(40):
        prompt = f"What is {' + '.join(map(str, range(2 + 6 * (p % 2))))} and {p}?"
        for name, tokens, right in (("standard", 50, 0.9 - 0.8 * (p % 2)), ("extended", 400, 0.9)):
            rows.append({"id": f"p{p}", "prompt": prompt, "group": name, "reward": right, "tokens": tokens + p})
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_router(fit_router(read_routed_log(log, columns=LogColumns())), tmp_path / "router.json")
    router = FittedRouter(load_router(tmp_path / "router.json"), "router.json")
    hard, easy = (router.gain({"prompt": rows[i]["prompt"]}) for i in (2, 0))
    assert hard.gain["standard"] == easy.gain["standard"] == 0
    assert hard.gain["extended"] == pytest.approx(0.8, abs=0.2) and easy.gain["extended"] == pytest.approx(0, abs=0.2)
    assert hard.tokens["extended"] > 5 * hard.tokens["standard"] > 0
    as_chat = {"messages": [{"role": "user", "content": rows[2]["prompt"]}]}
    again = router.gain(as_chat)
    assert again.gain == pytest.approx(hard.gain) and again.tokens == pytest.approx(hard.tokens)
    assert router.groups == ("standard", "extended")


class LengthRouter:
    """A real if simple rule: long questions gain."""

    def gain(self, request):
        content = request["messages"][-1]["content"]
        if content == "crash":
            raise RuntimeError("a router may do anything")
        return PredictedGains({"extended": min(1.0, len(content) / 100), "unknown": 3.0})


def test_a_router_predicts_gains_and_may_fail(world):
    upstream = world.upstream()
    _, url, rows = world.gateway(upstream.url, router=LengthRouter())
    client = client_of(url)
    lengths = [(37 * number) % 100 for number in range(120)]
    bodies = [{"messages": [{"role": "user", "content": "x" * length}]} for length in lengths]
    got = [
        (length, *groups_of(bulk(world, url, [{}], body=body))) for length, body in zip(lengths, bodies, strict=True)
    ]
    long = [group == "extended" for length, group in got[50:] if length > 85]
    short = [group == "extended" for length, group in got[50:] if length < 50]
    assert sum(long) / len(long) > 0.8 and sum(short) / len(short) < 0.15
    ask(client, "crash")
    sources = [row["source"] for row in rows() if row["event"] == "request"]
    assert sources == ["router"] * 120 + ["default"]
