"""The gateway's promises under random requests, upstreams and crashes, against a server that obeys caps."""

import asyncio
import gzip
import json
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from ibpo.serving.controller import Candidate
from ibpo.serving.gateway.openai_request import CAP_FIELDS, PATHS
from ibpo.serving.gateway.settings import CAPS, COUNTS
from tests.serving.world import World, call

GROUPS = [
    {"name": "standard", "body": {"level": 0}, "tokens": 10, "max_tokens": 20},
    {"name": "extended", "body": {"level": 1}, "tokens": 50, "max_tokens": 300, "gain": 0.5},
]
MEAN, OVERDRAFT = 22.0, 400.0  # the standard cap is below the mean: whoever finds no room costs no more than it brings
PLAN = {"budget": {"tokens": {"mean": MEAN, "overdraft": OVERDRAFT, "burst": 100}}}

BEHAVIOURS = [
    *("usage", "total", "text", "absurd", "error", "inside", "late error", "cut", "malformed"),
    *("gzip", "retry", "away", "redirect", "leave", "hidden", "half"),
]
requests = st.tuples(
    st.sampled_from([*PATHS]),
    st.dictionaries(st.sampled_from([*CAPS, *COUNTS]), st.integers(1, 3) | st.none() | st.just(3000), max_size=3),
    st.lists(st.just("a"), max_size=2),
    st.booleans(),
    st.sampled_from(BEHAVIOURS),
    st.floats(0, 1),
    st.sampled_from(["standard", "extended", ""]),
)
CRASH = st.just("crash")


class ObedientUpstream:
    """Generates a part of what a request allows, by whatever name; and then behaves in one of many ways."""

    def __init__(self, gateway_of):
        self.gateway_of, self.behaviour, self.part = gateway_of, "usage", 0.0
        self.generated, self.most, self.reserved = 0, 0, 0.0
        self.num_calls, self.holds = 0, threading.Event()

    async def reply(self, request, body):
        api = PATHS[request.path]
        caps = [body[name] for name in CAPS if body.get(name) is not None]
        assert any(body.get(name) is not None for name in CAP_FIELDS[api])
        answers = max([body[name] for name in COUNTS if body.get(name)], default=1)
        if api == "completions":
            answers *= max(1, len(body["prompt"]))
        self.most = max(caps) * answers
        open_now = self.gateway_of().governor.controller._store.reservations
        self.reserved = next(row.reserve[0] for name, row in open_now.items() if not name.startswith("crashed"))
        self.num_calls += 1
        count = self.generated = round(self.part * self.most)
        refusals = {"error": 500, "away": 503, "redirect": 307, **({"retry": 503} if self.num_calls == 1 else {})}
        if self.behaviour in refusals:
            self.generated = 0
            return web.json_response({"error": {"message": "no"}}, status=refusals[self.behaviour])
        if self.behaviour == "leave" and not body.get("stream"):
            self.holds.set()
            await asyncio.sleep(60)  # until the caller is gone
        if self.behaviour == "malformed" and not body.get("stream"):
            return web.Response(body=b"{", content_type="application/json")
        rows = list(self.rows(count, api))
        if not body.get("stream"):
            merged = {key: value for row in rows for key, value in row.items() if key in ("usage", "error")}
            choices = [choice for row in rows for choice in row.get("choices", [])]
            data = json.dumps({"choices": choices, "object": "x", **merged}).encode()
            if self.behaviour == "half":  # all has been generated, and breaks off on its way
                response = web.StreamResponse(headers={"Content-Length": str(len(data) + 1)})
                await response.prepare(request)
                await response.write(data)
                request.transport.abort()
                return response
            packed = {"Content-Encoding": "gzip"} if self.behaviour == "gzip" else {}
            return web.Response(
                body=gzip.compress(data) if packed else data, content_type="application/json", headers=packed
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if self.behaviour == "gzip":
            response.headers["Content-Encoding"] = "gzip"
        await response.prepare(request)
        for row in rows:
            event = b"data: " + json.dumps(row).encode() + b"\n\n"
            await response.write(gzip.compress(event) if self.behaviour == "gzip" else event)
        if self.behaviour == "leave":
            self.holds.set()
            await asyncio.sleep(60)
        if self.behaviour in ("cut", "hidden"):
            request.transport.abort()
        elif self.behaviour == "gzip":
            await response.write(gzip.compress(b"data: [DONE]\n\n"))
        elif self.behaviour != "malformed":
            await response.write(b"data: [DONE]\n\n")
        return response

    def rows(self, count, api):
        """Events of a stream, a token in each piece of text."""
        if self.behaviour == "inside":
            self.generated = 0
            yield {"error": {"message": "no"}}
            return
        if self.behaviour == "hidden":  # all but one of the tokens are of the thinking, which is not shown
            yield {"choices": [{"index": 0, "delta": {"content": "w"}}]} if count else {"choices": []}
            return
        if self.behaviour in ("text", "late error", "cut", "malformed", "leave"):
            # In this form every API's text is read alike.
            for number in range(count):
                yield {"choices": [{"index": 0, "delta": {"content": f"w{number % 9}"}, "message": None}]}
            if self.behaviour == "late error":
                yield {"error": {"message": "no"}}
            return
        usage = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": count + 5}
        if self.behaviour == "total":
            usage["completion_tokens"] = count // 3
        if self.behaviour == "absurd":
            usage["completion_tokens"] = 1 << 31
        yield {"choices": [{"index": 0, "delta": {"content": "w"}}]} if count else {"choices": []}
        yield {"choices": [], "usage": usage}


@pytest.mark.parametrize(
    "num_examples", [pytest.param(40, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.stress)]
)
@pytest.mark.timeout(3600)
def test_nothing_is_overspent_nor_counted_twice_nor_left_out(num_examples):
    seen = Counter()

    @given(st.lists(st.one_of(requests, requests, requests, CRASH), min_size=1, max_size=8))
    @settings(max_examples=num_examples, deadline=None, database=None)
    def check(steps):
        with World() as world:
            check_steps(world, steps, seen)

    check()
    print(sum(seen.values()), dict(seen))


def check_steps(world, steps, seen):
    """All promises after each step; `seen` counts outcomes."""
    upstream = world.upstream()
    gateway, url, rows = world.gateway(upstream.url, plan=PLAN, groups=GROUPS, upstream={"retries": 1})
    obedient = ObedientUpstream(lambda: gateway)
    upstream.reply = obedient.reply
    controller = gateway.governor.controller
    booked, count, ended, excess, cancelled, crashed = 0.0, 0, 0, 0.0, 0, []
    for number, step in enumerate(steps):
        if step == "crash":  # a process decided, and is gone
            candidate = Candidate(response_group="extended", gain=1.0, cost={"tokens": 50.0}, reserve={"tokens": 300.0})
            standard = Candidate(response_group="standard", gain=0.0, cost={"tokens": 10.0}, reserve={"tokens": 20.0})
            made = controller._controller.decide([standard, candidate], request_id=f"crashed{number}", now=0.0)
            crashed.append(made)
            count += 1
            seen["crashed"] += 1
            continue
        path, fields, prompts, stream, behaviour, part, group = step
        obedient.behaviour, obedient.part = behaviour, part
        body = {"messages": [], "prompt": prompts or ["a"], "input": "hi", "stream": stream, **fields}
        body |= {"include_reasoning": False} if behaviour == "hidden" else {}
        obedient.num_calls = 0
        obedient.holds.clear()
        headers = {"x-ibpo-response-group": group} if group else {}
        if behaviour == "leave":
            if not leave(url, path, body, headers, obedient):
                continue
        elif call_whatever(f"{url}{path}", body, headers)[0] == 400:
            continue
        ended += 1
        world.wait_until(lambda: sum(row["event"] == "request" for row in rows()) == ended)  # noqa: B023
        row = [row for row in rows() if row["event"] == "request"][-1]
        assert obedient.most <= obedient.reserved, "the body allows what is reserved"
        assert row["retries"] == obedient.num_calls - 1 == (behaviour in ("retry", "away"))
        seen[row["outcome"], behaviour] += 1
        answers = request_count(path, fields, prompts)
        if row["outcome"] == "failed":
            cancelled += answers
            assert obedient.generated == 0, "only what cost nothing is cancelled"
        else:
            count += answers
            expected = {"standard": 10, "extended": 50}[row["response_group"]] * answers
            unknown = behaviour in ("malformed", "leave", "half") and not stream
            unknown |= behaviour == "hidden" or (obedient.generated == 0 and behaviour != "usage")
            if behaviour == "absurd":
                booked += obedient.most
            elif row["tokens"] is None:
                assert unknown
                booked += min(expected, obedient.most)  # never nothing because nothing is known
            elif stream or behaviour in ("usage", "total", "gzip", "retry", "half"):
                assert row["tokens"] == obedient.generated, "every token is booked once"
                booked += obedient.generated
            else:  # one text instead of pieces
                booked += row["tokens"]
        bucket = world.snapshot(gateway)["budgets"][0]
        assert bucket["spent"] == pytest.approx(booked) and bucket["num_requests"] == count
        # The stated bound: what is open may exceed its expectation, and requests that failed take their credit back.
        excess = max(excess, obedient.reserved + sum(row.reserve[0] - row.estimate[0] for row in crashed))
        bound = OVERDRAFT + excess + MEAN * cancelled
        spent = bucket["spent"] + sum(row.reserve[0] for row in crashed)
        assert spent - MEAN * count <= bound + 1e-6
    controller._controller.expire(time.time())
    bucket = world.snapshot(gateway)["budgets"][0]
    assert bucket["in_flight"] == pytest.approx(0.0, abs=1e-9) and bucket["num_requests"] == count
    assert bucket["spent"] == pytest.approx(booked + sum(row.estimate[0] for row in crashed))


def leave(url, path, body, headers, obedient):
    """Ask, and hang up once all has come that will; whether the request was taken."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection((host, int(port)), timeout=60) as peer:
        peer.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        got = b""
        while not obedient.holds.wait(0.01):
            peer.settimeout(0.01)
            with suppress(TimeoutError):
                got += peer.recv(65536)
            if got.startswith(b"HTTP/1.1 400"):
                return False
        peer.settimeout(60)
        while body["stream"] and got.count(b'"delta"') < obedient.generated:
            got += peer.recv(65536)
    return True


def call_whatever(url, body, headers):
    try:
        return call(url, body, headers)
    except OSError:
        return 0, None, b""
    except Exception as error:  # an answer that breaks off
        assert type(error).__name__ == "IncompleteRead"
        return 0, None, b""


def request_count(path, fields, prompts):
    answers = max([fields[name] for name in COUNTS if fields.get(name)], default=1)
    return answers * (max(1, len(prompts)) if path == "/v1/completions" else 1)
