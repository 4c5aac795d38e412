"""How do bytes get to the upstream and back? One call with time limits and retries, and its answer passed on as it is.

What may have reached the model is not sent again: it may have been answered, and paid for, and callers' clients
retry too. Where the upstream breaks off, the caller's connection is broken off too:
a proper end would say that nothing is missing.
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from ibpo.serving.gateway.openai_request import OWN_HEADERS, Refusal, is_anthropics
from ibpo.serving.gateway.settings import LimitSettings, UpstreamSettings
from ibpo.serving.gateway.telemetry import Metrics
from ibpo.serving.gateway.usage import StreamUsage

VERSION = re.compile(r"/v\d+[a-z]*\d*(/openai)?$")
"""Where an upstream's address ends: `/v1`, as a rule; others have `/v4` or, as Gemini, `/v1beta/openai`."""
FIRST_PAUSE = 0.05
"""Seconds before the first retry, doubled with each, times a random factor in [0.5, 1.5]."""
KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept: less than common servers do (5), or a request would meet a closing one."""
COMPRESSED = ("gzip", "x-gzip", "deflate")
STREAM_BEGINS = (b"data:", b"event:", b"id:", b"retry:", b": ")
"""How a stream of events may begin, and JSON does not."""
ZLIB_OR_GZIP = 47
"""`wbits` of zlib: either, by its header."""
HOP_BY_HOP = frozenset(
    [
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    ]
)
"""Headers that belong to one connection."""
REWRITTEN = frozenset(["accept-encoding", "content-encoding", "content-type", "range", "if-range"])
"""Headers of a governed request that the gateway writes, or that ask for a part of the answer, without its usage."""
OTHER_PLACES = frozenset(
    [
        *("x-original-url", "x-rewrite-url", "x-http-method-override", "x-http-method", "x-method-override"),
        *("openai-organization", "openai-project"),
    ]
)
"""Headers that make some servers take another path or method than the request's, or another account of the key's."""


class UpstreamFault(Exception):
    """The upstream gave no usable answer.

    Args:
        kind: `connect`, `timeout` or `cut`.
        status: The caller's answer: 502 or 504.
    """

    def __init__(self, kind: str, status: int) -> None:
        super().__init__(kind)
        self.kind, self.status = kind, status
        self.began = False
        """Whether the model may have been at work all the same: no answer came in time, or a part of one."""


class UpstreamAnswer:
    """An answer that has begun: what came first, and the way to the rest.

    `head` is the whole body where `complete`; else the first piece of a stream, or the first bytes of a body that is
    longer than what is held back.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        idle_seconds: float,
        give_up: float,
        on_fault: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self.head = b""
        self.complete = False
        self.num_retries = 0
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self.is_stream = kind == "text/event-stream"
        self._encoding = self.headers.get("Content-Encoding", "").strip().lower()
        self.can_decode = self._encoding in ("", "identity", *COMPRESSED)
        """Whether what it says can be read here."""
        self._response = response
        self._watched = _watch_connection(response)
        self._idle, self._give_up, self._on_fault = idle_seconds, give_up, on_fault

    def decoded(self, most: int) -> bytes | None:
        """The complete body without its compression; b"": it is broken; None: it is longer than `most`."""
        if self._encoding not in COMPRESSED:
            return self.head
        try:
            whole = Decompressor().feed(self.head, most + 1)
        except zlib.error:
            return b""
        return None if len(whole) > most else whole

    async def begin(self, most: int) -> None:
        """Read until something can be passed on: a stream's first piece, or a whole body of at most `most` bytes."""
        content = self._response.content
        if self.is_stream:
            self.head = await content.readany()
            return
        pieces, size = [], 0
        while size <= most:
            piece = await content.readany()
            if not piece:
                self.complete = True
                break
            if not pieces and piece.startswith(STREAM_BEGINS):
                self.is_stream = True  # whatever it is called
                self.head = piece
                return
            pieces.append(piece)
            size += len(piece)
        self.head = b"".join(pieces)

    async def pieces(self, *, decode: bool) -> AsyncIterator[bytes]:
        """All pieces as they come.

        Args:
            decode: Without their compression.

        Raises:
            UpstreamFault: It stopped, broke off, or is not compressed as it says.
        """
        decoder = Decompressor() if decode and self._encoding in COMPRESSED else None
        content, loop, piece = self._response.content, asyncio.get_running_loop(), self.head
        try:
            while piece:
                yield decoder.feed(piece) if decoder else piece
                async with asyncio.timeout_at(min(loop.time() + self._idle, self._give_up)):
                    piece = await content.readany()
        except (TimeoutError, aiohttp.ClientError, OSError, zlib.error) as error:
            fault = UpstreamFault("cut", 502) if isinstance(error, zlib.error) else _as_fault(error)
            if isinstance(fault, UpstreamFault):
                self._on_fault(fault.kind)
            raise fault from None

    def close(self) -> None:
        """Return the connection if the answer was read to its end; else close it, so that the upstream may stop."""
        self._watched()
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Decompressor:
    """Reads gzip, of one member or of several one after the other, or deflate.

    Example:
        >>> import gzip
        >>> Decompressor().feed(gzip.compress(b"ab") + gzip.compress(b"c"))
        b'abc'
    """

    def __init__(self) -> None:
        self._member = zlib.decompressobj(ZLIB_OR_GZIP)

    def feed(self, data: bytes, most: int = 0) -> bytes:
        """What these bytes say, at most `most` bytes of it (0: all).

        Raises:
            zlib.error: They are not compressed as they say.
        """
        found = self._member.decompress(data, most)
        while self._member.eof and (rest := self._member.unused_data) and not 0 < most <= len(found):
            self._member = zlib.decompressobj(ZLIB_OR_GZIP)
            found += self._member.decompress(rest, most and most - len(found))
        return found


class Upstream:
    """The server behind the gateway.

    Args:
        settings: `[upstream]`.
        session: Session from `open_session`.
        key: Its API key; None: there is none here.
        keep_authorization: Whether, without `key`, the caller's own `Authorization` goes on.
        on_fault: Called with the kind of each fault, and `status` where an answer was not taken and asked for again.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        session: aiohttp.ClientSession,
        *,
        key: str | None,
        keep_authorization: bool,
        on_fault: Callable[[str], None],
    ) -> None:
        self.settings, self._session = settings, session
        self._key, self._on_fault = key, on_fault
        self._base = settings.address
        self._root = VERSION.sub("", self._base)
        self._authorization = None if key is None else f"Bearer {key}"
        if settings.address != settings.url:
            # Left in the address, aiohttp would refuse each request that has an `Authorization` of its own.
            given = URL(settings.url)
            said = base64.b64encode(f"{given.user or ''}:{given.password or ''}".encode()).decode()
            self._authorization = f"Basic {said}"
        keys = set[str]() if self._authorization is None and keep_authorization else {"authorization", "x-api-key"}
        passed = HOP_BY_HOP | {"host", "content-length", "expect"} | keys | (OTHER_PLACES if keys else set())
        self._left_out = {False: passed, True: passed | REWRITTEN}

    def address(self, path: str) -> URL:
        """The address of a path (with its parameters): `/v1/...` is below the upstream's version, all else next to it.

        Without a version in the upstream's address that is `/v1`.
        """
        is_versioned = self._root != self._base and path.startswith("/v1/")
        return URL(self._base + path.removeprefix("/v1") if is_versioned else self._root + path, encoded=True)

    def headers_for(self, headers: MultiMapping[str], *, governed: bool, anthropic: bool = False) -> CIMultiDict[str]:
        """The caller's headers as the upstream gets them.

        Left out: what belongs to one connection, the gateway's own (`x-ibpo-...`), the caller's key where it is one of
        the gateway's, and for governed requests `Accept-Encoding`, as the usage is read off the answer. Anthropic's API
        takes the key as `x-api-key`, other servers of its protocol take either.
        """
        kept = pass_headers(headers, self._left_out[governed])
        if governed:
            kept["Accept-Encoding"] = "identity"
            kept["Content-Type"] = "application/json"
        if self._key is not None and anthropic:
            kept["x-api-key"] = self._key
        is_other = self._key is None or not anthropic or self.address("").host != "api.anthropic.com"
        if self._authorization is not None and is_other:
            kept["Authorization"] = self._authorization
        return kept

    async def call(
        self,
        method: str,
        path: str,
        headers: CIMultiDict[str],
        body: bytes | None,
        *,
        most: int,
        retries: int | None = None,
    ) -> UpstreamAnswer:
        """Send a request, again where that can help, until an answer has begun.

        Args:
            method: The request's.
            path: With its parameters, as the caller wrote it.
            headers: Headers of the request to the upstream.
            body: None: there is none.
            most: See `UpstreamAnswer.begin`.
            retries: None: as in the settings.

        Raises:
            UpstreamFault: No answer, retries included.
        """
        left = self.settings.retries if retries is None else retries
        pause, tried = FIRST_PAUSE, 0
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self.settings.total_seconds
        while True:
            fault = None
            try:
                answer = await self._once(method, path, headers, body, most, give_up)
                if tried >= left or not _may_retry(answer):
                    answer.num_retries = tried
                    return answer
                answer.close()
                self._on_fault("status")
            except UpstreamFault as found:
                fault = found
                self._on_fault(fault.kind)
            pause_now = pause * random.uniform(0.5, 1.5)
            if fault and (tried >= left or fault.kind != "connect" or loop.time() + pause_now > give_up):
                raise fault
            await asyncio.sleep(pause_now)
            pause, tried = 2 * pause, tried + 1

    async def _once(
        self, method: str, path: str, headers: CIMultiDict[str], body: bytes | None, most: int, give_up: float
    ) -> UpstreamAnswer:
        response = answer = None
        until = min(give_up, asyncio.get_running_loop().time() + self.settings.first_byte_seconds)
        try:
            async with asyncio.timeout_at(until):
                response = await self._session.request(
                    method, self.address(path), headers=headers, data=body, allow_redirects=False
                )
                answer = UpstreamAnswer(response, self.settings.idle_seconds, give_up, self._on_fault)
                await answer.begin(most)
                if answer.is_stream and not answer.head:
                    # It ended before it began: no better than no answer.
                    raise UpstreamFault("cut", 502)
                if answer.complete:
                    answer.close()
                return answer
        except BaseException as error:
            if answer is not None:
                answer.close()
            if response is not None:
                response.close()
            fault = _as_fault(error)
            if isinstance(fault, UpstreamFault) and fault is not error:
                fault.began = fault.kind == "timeout" or (response is not None and response.ok)
            raise fault from None


def open_session(settings: UpstreamSettings) -> aiohttp.ClientSession:
    """The pool of connections to the upstream; to be closed."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.max_connections, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=300),
        # One caller's cookies are not another's.
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_seconds),
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        max_line_size=65536,
        max_field_size=65536,
    )


def _as_fault(error: BaseException) -> BaseException:
    """What a failed call means: no answer in time, no connection, or one that broke; any other error stays itself."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamFault("connect", 504)
    if isinstance(error, TimeoutError):  # aiohttp's time-outs too
        return UpstreamFault("timeout", 504)
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamFault("connect", 502)
    if isinstance(error, aiohttp.ClientError | OSError):
        return UpstreamFault("cut", 502)
    return error


def _may_retry(answer: UpstreamAnswer) -> bool:
    """Whether a request may be sent again: its answer says so, or that it has not been looked at (503)."""
    said = answer.headers.get("x-should-retry", "").strip().lower()
    return answer.status >= 400 and (said == "true" or (answer.status == 503 and said != "false"))


def _watch_connection(response: aiohttp.ClientResponse) -> Callable[[], None]:
    """Fail the answer's readers when its connection is gone: after a malformed chunk aiohttp lets them wait forever.

    Returns:
        Ends the watch.
    """
    content, connection = response.content, response.connection
    protocol = connection.protocol if connection is not None else None
    closed = protocol.closed if protocol is not None else None

    def fail(_: Any) -> None:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was lost"))

    def end() -> None:
        if closed is not None:
            closed.remove_done_callback(fail)

    if closed is not None:
        closed.add_done_callback(fail)
    return end


def pass_headers(headers: MultiMapping[str], left_out: frozenset[str] | set[str] = HOP_BY_HOP) -> CIMultiDict[str]:
    """The headers that go from end to end: without what belongs to one connection, and without what is the gateway's.

    That is its own (`x-ibpo-...`), and which pages of other sites may read its answers: none.

    Args:
        headers: As they came.
        left_out: Names in small letters; those that `Connection` lists are left out, too.
    """
    for listed in headers.getall("Connection", ()):
        left_out = left_out | {part.strip().lower() for part in listed.split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if (lower := name.lower()) not in left_out and not lower.startswith((OWN_HEADERS, "access-control-"))
    )


async def relay_stream(
    http_request: web.BaseRequest,
    answer: UpstreamAnswer,
    headers: CIMultiDict[str],
    write_seconds: float,
    usage: StreamUsage | None,
) -> tuple[web.StreamResponse, str]:
    """Pass an answer on piece by piece, as it comes.

    Args:
        http_request: The caller's.
        answer: The upstream's.
        headers: The caller's answer gets these.
        write_seconds: Longest time for the caller to take one piece. One that does not read holds a place here and the
            upstream's attention: not for long.
        usage: Reads the stream, and decides what goes on; None: all of it does, as it comes.

    Returns:
        The response, and how it ended: `answered`; `cut`: the upstream broke off; `disconnected`: the caller did.
    """
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(http_request)

    try:
        async for piece in answer.pieces(decode=usage is not None):
            shown = usage.feed(piece) if usage else piece
            if shown:
                async with asyncio.timeout(write_seconds):
                    await response.write(shown)
        async with asyncio.timeout(write_seconds):
            await response.write_eof(usage.end() if usage else b"")
        return response, "answered"
    except UpstreamFault:
        outcome = "cut"
    except (ConnectionError, TimeoutError):
        outcome = "disconnected"
    if http_request.transport is not None:
        with suppress(Exception):
            http_request.transport.abort()
    return response, outcome


async def pass_through(
    http_request: web.BaseRequest, data: bytes, upstream: Upstream, limits: LimitSettings, metrics: Metrics
) -> web.StreamResponse:
    """Answer a request that no budget governs: it goes through untouched.

    Raises:
        Refusal: The upstream gave no answer.
    """
    method, headers = http_request.method, http_request.headers
    try:
        answer = await upstream.call(
            method,
            http_request.raw_path,
            upstream.headers_for(headers, governed=False, anthropic=is_anthropics(http_request.path, headers)),
            data or None,
            most=limits.max_buffered_bytes,
            # Whatever changes something upstream must not happen twice.
            retries=None if method in ("GET", "HEAD", "OPTIONS") else 0,
        )
    except UpstreamFault as fault:
        raise Refusal(fault.status, f"upstream_{fault.kind}", "the upstream gave no answer; try again later") from None
    metrics.passed.labels(f"{answer.status // 100}xx").inc()
    try:
        headers = pass_headers(answer.headers)
        if not answer.complete:
            response, _ = await relay_stream(http_request, answer, headers, limits.body_seconds, None)
            return response
        if method == "HEAD" or answer.status in (204, 304):
            return web.Response(status=answer.status, headers=headers)
        headers.popall("Content-Length", None)
        return web.Response(status=answer.status, headers=headers, body=answer.head)
    finally:
        answer.close()
