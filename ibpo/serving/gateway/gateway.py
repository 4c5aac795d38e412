"""Every request that comes in: who asks, what for, and which part of the gateway answers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDict

from ibpo.errors import IbpoError
from ibpo.serving.gateway.headers import answer_headers, upstream_headers
from ibpo.serving.gateway.keys import OPERATOR, Keys
from ibpo.serving.gateway.refusal import Refusal
from ibpo.serving.gateway.relay import Relay
from ibpo.serving.gateway.upstream import UpstreamFault

GOVERNED = {"/v1/chat/completions": True, "/v1/completions": False}
"""Path -> whether it is a chat."""
PAGES = ("/", "/budget", "/budget.json", "/metrics")
PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Gateway:
    """The handler of a server.

    Args:
        relay: Answers what a budget governs.
        keys: Of the tenants; None: nobody needs a key, and nobody is a tenant.
    """

    def __init__(self, relay: Relay, keys: Keys | None) -> None:
        self.relay, self.keys = relay, keys
        self.limits = relay.settings.limits
        self.draining = False
        self.num_in_flight = 0
        self._by_tenant: Counter[str] = Counter()
        self._page = (files("ibpo.serving.gateway") / "page.html").read_bytes()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, errors included."""
        try:
            return await self._handle(request)
        except Refusal as refusal:
            self.relay.metrics.refused.labels(refusal.code).inc()
            if refusal.status < 500:
                self.relay.log.write("refused", code=refusal.code, status=refusal.status, path=request.path[:200])
            return refusal.response()
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            # No text of the error: it may hold what the caller wrote.
            self.relay.metrics.failures.labels("internal").inc()
            self.relay.log.write("internal_error", kind=type(error).__name__, at=_place(error))
            return Refusal(500, "internal", "the gateway failed; its log has the place").response()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = plain_path(request.raw_path)
        if path == "/ready":
            return web.json_response({"ready": not self.draining}, status=503 if self.draining else 200)
        owner = self._owner(request)
        if path in PAGES and request.method in ("GET", "HEAD"):
            return await self._show(path, owner)
        if owner == OPERATOR and self.keys is not None:
            raise Refusal(403, "operator_key", "the operator's key opens /budget and /metrics only; use a tenant's key")
        if self.draining:
            raise Refusal(503, "draining", "the gateway is going down; ask another", {"Retry-After": "1"}, close=True)
        if self.num_in_flight >= self.limits.max_in_flight:
            raise Refusal(503, "busy", "too many requests are under way; try again", {"Retry-After": "1"})
        if self.keys is not None and self._by_tenant[owner] >= self.limits.max_in_flight_per_tenant:
            raise Refusal(429, "too_many", "too many requests of yours are under way; wait", {"Retry-After": "1"})
        self.num_in_flight += 1
        self._by_tenant[owner] += 1
        self.relay.metrics.in_flight.set(self.num_in_flight)
        try:
            if path in GOVERNED:
                if request.method != "POST":
                    raise Refusal(405, "method", "use POST", {"Allow": "POST"})
                if request.content_type != "application/json":
                    # A page of another site can post anything else without being asked.
                    raise Refusal(415, "content_type", "send Content-Type: application/json", close=True)
                if request.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise Refusal(415, "encoding", "compressed bodies are not taken; send it plain", close=True)
                data = await self._body(request)
                return await self.relay.answer(request, data, owner, chat=GOVERNED[path])
            return await self._pass(request, path)
        finally:
            self.num_in_flight -= 1
            self._by_tenant[owner] -= 1
            if not self._by_tenant[owner]:
                del self._by_tenant[owner]
            self.relay.metrics.in_flight.set(self.num_in_flight)

    def _owner(self, request: web.BaseRequest) -> str:
        """The tenant; "" where there are no keys.

        Raises:
            Refusal: A wrong key, or none.
        """
        if self.keys is None:
            return ""
        owner = self.keys.owner(request.headers.get("Authorization", ""))
        if owner is None:
            browser = request.method == "GET" and "text/html" in request.headers.get("Accept", "")
            how = {"WWW-Authenticate": 'Basic realm="ibpo"' if browser else "Bearer"}
            raise Refusal(401, "invalid_api_key", "the API key is missing or wrong", how, close=True)
        return owner

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The body, within the limits of size and time."""
        limits = self.limits
        if (request.content_length or 0) > limits.max_body_bytes:
            raise _too_large(limits.max_body_bytes)
        try:
            async with asyncio.timeout(limits.body_seconds):
                if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
                    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return await request.read()
        except TimeoutError:
            raise Refusal(408, "slow_body", "the body did not come in time", close=True) from None
        except web.HTTPRequestEntityTooLarge:
            raise _too_large(limits.max_body_bytes) from None
        except (web.RequestPayloadError, web.PayloadAccessError):
            raise Refusal(400, "broken_body", "the body is broken off or wrongly framed", close=True) from None

    async def _pass(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Everything else goes through untouched."""
        relay = self.relay
        if any(fnmatchcase(path, pattern) for pattern in relay.settings.refuse):
            raise Refusal(404, "not_governed", "this gateway does not pass this path on: no budget would count it")
        data = await self._body(request)
        sent = upstream_headers(request.headers, relay.key, own_keys=relay.own_keys, governed=False)
        try:
            retries = None if request.method in ("GET", "HEAD", "OPTIONS") else 0
            answer = await relay.upstream.call(
                request.method,
                request.raw_path,
                sent,
                data or None,
                most=self.limits.max_buffered_bytes,
                retries=retries,
            )
        except UpstreamFault as fault:
            raise Refusal(
                fault.status, f"upstream_{fault.kind}", "the upstream gave no answer; try again later"
            ) from None
        relay.metrics.passed.labels(f"{answer.status // 100}xx").inc()
        try:
            headers = answer_headers(answer.headers)
            if answer.complete:
                return _whole(request.method, answer.status, headers, answer.head)
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            patience, loop = self.limits.body_seconds, asyncio.get_running_loop()
            try:
                async with asyncio.timeout(patience) as limit:
                    await response.write(answer.head)
                    limit.reschedule(None)
                    async for piece in answer.rest():
                        limit.reschedule(loop.time() + patience)
                        await response.write(piece)
                        limit.reschedule(None)
                    limit.reschedule(loop.time() + patience)
                    await response.write_eof()
            except (UpstreamFault, TimeoutError):
                if request.transport is not None:
                    request.transport.abort()
            return response
        finally:
            answer.close()

    async def _show(self, path: str, owner: str) -> web.Response:
        """The live page, its data, and the metrics: for operators only, where there are keys."""
        if self.keys is not None and owner != OPERATOR:
            raise Refusal(403, "operators_only", "this page needs the key of the operator, not a tenant's")
        if path in ("/", "/budget"):
            return web.Response(body=self._page, content_type="text/html", charset="utf-8", headers=PAGE_HEADERS)
        try:
            shown = await self.relay.desk.snapshot()
        except IbpoError as error:
            raise Refusal(503, "book", f"the book cannot be read: {error}") from None
        if path == "/metrics":
            text = self.relay.metrics.render(shown)
            return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
        data: dict[str, Any] = {**shown, "history": list(self.relay.desk.history), "draining": self.draining}
        return web.Response(body=json.dumps(data).encode(), content_type="application/json", headers=PAGE_HEADERS)


def plain_path(raw: str) -> str:
    """The path that decides who answers.

    Raises:
        Refusal: One that could mean one thing here and another upstream.

    Example:
        >>> plain_path("/v1/models?limit=3")
        '/v1/models'
    """
    path = raw.partition("?")[0].partition("#")[0]
    plain = unquote(path)
    odd = plain != path and any(mark in plain for mark in "/\\%?#") and plain.count("/") != path.count("/")
    if odd or "//" in plain or "\\" in plain or any(part in (".", "..") for part in plain.split("/")):
        raise Refusal(400, "bad_path", "the path is ambiguous; write it plainly")
    if not plain.startswith("/") or any(ord(mark) < 32 for mark in plain):
        raise Refusal(400, "bad_path", "the path must begin with /")
    if plain != path and (plain.rstrip("/") in GOVERNED or plain.startswith("/v1/")):
        raise Refusal(400, "bad_path", "the path is ambiguous; write it without %")
    if plain.rstrip("/") in GOVERNED and plain not in GOVERNED:
        raise Refusal(404, "bad_path", "write the path without the / at its end")
    return plain


def _whole(method: str, status: int, headers: CIMultiDict[str], body: bytes) -> web.Response:
    if method == "HEAD" or status in (204, 304):
        return web.Response(status=status, headers=headers)
    headers.popall("Content-Length", None)
    return web.Response(status=status, headers=headers, body=body)


def _too_large(most: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is larger than {most} bytes; send less", close=True)


def _place(error: BaseException) -> str:
    """File and line where an error arose."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else ""
