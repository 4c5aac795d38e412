"""A gateway and a misbehaving upstream, both real servers on loopback, in an event loop of their own thread."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import openai
from aiohttp import web

from ibpo.serving.gateway.server import Service, running
from ibpo.serving.gateway.settings import Keys, build_policy, build_settings
from ibpo.serving.gateway.telemetry import RequestLog

GROUPS = [
    {"name": "standard", "chat_template_kwargs": {"enable_thinking": False}, "tokens": 10, "max_tokens": 100},
    {
        "name": "extended",
        "chat_template_kwargs": {"enable_thinking": True},
        "tokens": 50,
        "max_tokens": 400,
        "gain": 0.5,
    },
]
SHARE = {"budget": {"extended": {"mean": 0.3, "response_group": "extended"}}}
TOKENS = {"budget": {"tokens": {"mean": 22, "overdraft": 450, "burst": 110}}}  # room for a cap of 400

QUICK = {"first_byte_seconds": 5, "idle_seconds": 5, "retries": 2}


class ScriptedUpstream:
    """Speaks OpenAI's protocol: a thinking response has 50 tokens, another 10. `fault_of(number)` may spoil a call.

    Faults: a status such as `500`, `drop` (no answer), `hang` (none for long), `cut` (breaks off in the middle),
    `quiet` (goes silent in the middle), `malformed` (no JSON), `half` (promises more than it sends). While `held` is
    true nothing is answered. A request for log-probabilities is a probe: it gets one token.
    """

    def __init__(self):
        self.fault_of: Callable[[int], str | None] = lambda number: None
        self.requests, self.faults, self.num_answered, self.headers, self.num_probes = [], [], 0, [], 0
        self.extra_headers: dict[str, str] = {}
        self.reply: Any = None  # answers a request in the place of what follows
        self.pause, self.without_usage, self.url, self.padding, self.held = 0.0, False, "", 0, False

    def app(self):
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", self.complete)
        for path in ("completions", "responses", "messages"):
            app.router.add_post(f"/v1/{path}", self.complete)
        app.router.add_get("/v1/models", self.models)
        app.router.add_route("*", "/{rest:.*}", self.echo)
        return app

    async def models(self, request):
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "me"}]})

    async def echo(self, request):
        """Says back what came."""
        data = await request.read()
        headers = {"X-Saw-Path": request.raw_path, "X-Saw-Authorization": request.headers.get("Authorization", "-")}
        if request.query.get("gzip"):
            import gzip

            return web.Response(body=gzip.compress(data), headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=data, headers=headers, status=int(request.query.get("status", 200)))

    async def complete(self, request):
        body = await request.json()
        if body.get("logprobs"):
            self.num_probes += 1
            top = [{"token": "<think>", "logprob": -0.7}, {"token": "<answer>", "logprob": -0.7}]
            choice = {"index": 0, "logprobs": {"content": [{"top_logprobs": top}]}}
            return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 1}})
        number = len(self.requests)
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        fault = self.fault_of(number)
        self.faults.append(fault)
        if self.reply is not None:
            return await self.reply(request, body)
        if self.pause:
            await asyncio.sleep(self.pause)
        while self.held:
            await asyncio.sleep(0.01)
        if fault == "hang":
            await asyncio.sleep(30)
        if fault == "drop":
            request.transport.abort()
            return web.Response()
        if fault and fault.isdigit():
            return web.json_response({"error": {"message": "fault"}}, status=int(fault))
        if fault == "malformed":
            return web.Response(body=b'{"choices": [{"mess\xff', content_type="application/json")
        thinking = (body.get("chat_template_kwargs") or {}).get("enable_thinking") or body.get("max_tokens", 0) > 100
        count = 50 if thinking else 10
        chat = request.path.endswith("chat/completions")
        if body.get("stream"):
            return await self.stream(request, body, number, count, fault, chat)
        text = " ".join(f"w{i}" for i in range(count))
        message = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        reply = {"id": "r", "object": "chat.completion" if chat else "text_completion", "created": 1}
        reply |= {"model": "m", "choices": [{"index": 0, "finish_reason": "stop", **message}]}
        if not self.without_usage:
            reply["usage"] = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": count + 5}
        data = json.dumps(reply, indent=1).encode() + b"\n"  # a layout of its own: bytes are compared
        if fault in ("cut", "half"):
            response = web.StreamResponse(
                headers={"Content-Length": str(len(data)), "Content-Type": "application/json"}
            )
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            await asyncio.sleep(0.01)
            request.transport.abort()
            return response
        self.num_answered += 1
        return web.Response(body=data, content_type="application/json", headers=self.extra_headers)

    async def stream(self, request, body, number, count, fault, chat):
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", **self.extra_headers}
        )
        await response.prepare(request)
        for data in self.events(body, number, count, chat):
            if fault == "cut" and b"w7" in data:
                await asyncio.sleep(0.01)
                request.transport.abort()
                return response
            if fault == "quiet" and b"w7" in data:
                await asyncio.sleep(30)
            await response.write(data)
            if self.pause:
                await asyncio.sleep(self.pause / 10)
        self.num_answered += 1
        await response.write_eof()
        return response

    def events(self, body, number, count, chat, with_usage=None):
        asked = (body.get("stream_options") or {}).get("include_usage") if with_usage is None else with_usage
        base = {
            "id": "r",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 1,
            "model": "m",
        }
        for i in range(count):
            text = f"w{i} \u2713 \\u00e9 " + "x" * self.padding
            piece = {"delta": {"content": text}} if chat else {"text": text}
            choice = {"index": 0, "finish_reason": "stop" if i == count - 1 else None, **piece}
            yield b"data: " + json.dumps({**base, "choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"
        if asked and not self.without_usage:
            usage = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": count + 5}
            yield b"data: " + json.dumps({**base, "choices": [], "usage": usage}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"


class World:
    """Starts upstreams and gateways; everything ends with the block."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.stack = AsyncExitStack()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.run(self.stack.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def run(self, coroutine, timeout=60):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def upstream(self):
        scripted = ScriptedUpstream()
        scripted.url = self.serve(scripted.app())
        return scripted

    def serve(self, app):
        """The address of a server of this application."""

        async def start():
            runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.stack.push_async_callback(runner.cleanup)
            return f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

        return self.run(start())

    def gateway(
        self,
        upstream_url,
        *,
        plan=SHARE,
        groups=GROUPS,
        model=None,
        limits=None,
        upstream=None,
        log_bodies=False,
        tables=None,
        **service,
    ):
        """(the gateway, its base URL, its log as a function that returns rows)."""
        tables = {
            **(tables or {}),
            "upstream": {"url": upstream_url, "connect_seconds": 20, **(upstream or {})},
            "model": [{"name": "*", "response_group": groups, **(model or {})}],
            "limits": {"drain_seconds": 5, **(limits or {})},
            "log_bodies": log_bodies,
        }
        written = io.StringIO()
        settings = build_settings(tables, "test")
        made = Service(settings=settings, policy=build_policy(settings, plan), **{"port": 0, **service})

        async def start():
            return await self.stack.enter_async_context(running(made, RequestLog(written)))

        gateway, port = self.run(start())
        return (
            gateway,
            f"http://127.0.0.1:{port}",
            lambda: [json.loads(line) for line in written.getvalue().splitlines()],
        )

    def snapshot(self, gateway):
        return self.run(gateway.governor.controller.snapshot())

    def wait_until(self, true, seconds=60.0):
        """For what happens after the answer; how fast is not asserted."""
        give_up = time.monotonic() + seconds
        while not true() and time.monotonic() < give_up:
            time.sleep(0.02)
        assert true()


KEYS = {
    "gold": "the key of the gold tenant",
    "quiet": "the key of the quiet tenant",
    "operator": "the operator's own key",
}


HASHED = Keys(rows=tuple((hashlib.sha256(key.encode()).digest(), tenant) for tenant, key in KEYS.items()))


def client_of(url, key="none", **options) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120, **options)


def ask(client, content="hello", **options):
    return client.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": content}], **options
    )


def bulk(world, url, headers, *, stream=False, body=None):
    """(status, headers, bytes) of one chat request per row of headers, one after the other."""

    async def run():
        got = []
        async with aiohttp.ClientSession() as session:
            for row in headers:
                data = {"model": "m", "messages": [], "stream": stream, **(body or {})}
                async with session.post(f"{url}/v1/chat/completions", json=data, headers=row) as reply:
                    got.append((reply.status, reply.headers, await reply.read()))
        return got

    return world.run(run())


def groups_of(replies):
    return [headers["x-ibpo-response-group"] for _, headers, _ in replies]


def call(url, body: Any = None, headers: Any = None, method: str | None = None) -> tuple[int, Any, bytes]:
    """(status, headers, bytes) as they are on the wire."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


async def ask_once(session, url, number, *, stream):
    """What one caller sees: `whole`, `broken` (cut off), or the status of an error."""
    body = {"model": "m", "messages": [], "stream": stream}
    headers = {"x-ibpo-gain": str((37 * number % 100) / 100)}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
            data = await reply.read()
    except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionResetError):
        return "broken"
    if reply.status != 200:
        assert b"error" in data  # Envoy's own answers are no JSON
        return str(reply.status)
    if stream:
        assert data.endswith(b"data: [DONE]\n\n")
    return "malformed" if b"\xff" in data else "whole"


def many(world, url, count, *, parallel=8):
    """All outcomes; fails if one hangs."""

    async def run():
        gate, timeout = asyncio.Semaphore(parallel), aiohttp.ClientTimeout(total=200)

        async def one(session, number):
            async with gate:
                return await ask_once(session, url, number, stream=number % 2 == 0)

        async with aiohttp.ClientSession(timeout=timeout) as session:
            return await asyncio.gather(*(one(session, number) for number in range(count)))

    return world.run(run(), timeout=280)
