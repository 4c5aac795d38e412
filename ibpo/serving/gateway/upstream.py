"""One call to the upstream: a pool of connections, time limits, and retries as long as the caller has seen nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from ibpo.serving.gateway.settings import UpstreamSettings

RETRIED = frozenset({500, 502, 503, 504})
FIRST_PAUSE = 0.05
"""Seconds before the first retry, doubled with each, times a random factor in [0.5, 1.5]."""


class UpstreamFault(Exception):
    """The upstream gave no usable answer.

    Args:
        kind: `connect`, `timeout` or `cut`.
        status: What the caller is told: 502 or 504.
    """

    def __init__(self, kind: str, status: int) -> None:
        super().__init__(kind)
        self.kind, self.status = kind, status


class Answer:
    """An answer that has begun: what came first, and the way to the rest.

    `head` is the whole body where `complete`; else the first piece of a stream, or the first bytes of a body that is
    longer than what is held back.
    """

    def __init__(self, response: aiohttp.ClientResponse, idle_seconds: float, give_up: float) -> None:
        self.status = response.status
        self.headers = response.headers
        self.head = b""
        self.complete = False
        self.num_retries = 0
        self._response = response
        self._idle, self._give_up = idle_seconds, give_up

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream of events."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "text/event-stream"

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
            pieces.append(piece)
            size += len(piece)
        self.head = b"".join(pieces)

    async def rest(self) -> AsyncIterator[bytes]:
        """The pieces after `head`.

        Raises:
            UpstreamFault: It stopped, or broke off.
        """
        content, loop = self._response.content, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                while True:
                    limit.reschedule(min(loop.time() + self._idle, self._give_up))
                    piece = await content.readany()
                    if not piece:
                        return
                    limit.reschedule(None)
                    yield piece
        except TimeoutError:
            raise UpstreamFault("timeout", 504) from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamFault("cut", 502) from None

    def close(self) -> None:
        """Give the connection back if the answer was read to its end; else close it, and the upstream may stop."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Upstream:
    """The server behind the gateway.

    Args:
        settings: `[upstream]`.
        on_fault: Told the kind of each fault, and `status` where a status was retried.
    """

    def __init__(self, settings: UpstreamSettings, on_fault: Callable[[str], None] = lambda kind: None) -> None:
        self.settings = settings
        self._on_fault = on_fault
        self._root = settings.url.removesuffix("/v1")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Upstream:
        connector = aiohttp.TCPConnector(limit=self.settings.max_connections, keepalive_timeout=30, ttl_dns_cache=300)
        self._session = aiohttp.ClientSession(
            connector=connector,
            # One caller's cookies are not another's.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.settings.connect_seconds),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            max_line_size=65536,
            max_field_size=65536,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def address(self, path: str) -> URL:
        """Where a path of the gateway (with its parameters) lies upstream: `/v1/...` is the upstream's `/v1/...`."""
        return URL(self._root + path, encoded=True)

    async def call(
        self,
        method: str,
        path: str,
        headers: CIMultiDict[str],
        body: bytes | None,
        *,
        most: int,
        retries: int | None = None,
    ) -> Answer:
        """Send a request, again where that can help, until an answer has begun.

        Args:
            method: Of the request.
            path: With its parameters, as the caller wrote it.
            headers: As they are to be sent.
            body: Or None.
            most: See `Answer.begin`.
            retries: None: as set.

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
                if answer.status not in RETRIED or tried >= left:
                    answer.num_retries = tried
                    return answer
                answer.close()
                self._on_fault("status")
            except UpstreamFault as found:
                fault = found
                self._on_fault(fault.kind)
            pause_now = pause * random.uniform(0.5, 1.5)
            if fault and (tried >= left or loop.time() + pause_now > give_up):
                raise fault
            await asyncio.sleep(pause_now)
            pause, tried = 2 * pause, tried + 1

    async def _once(
        self, method: str, path: str, headers: CIMultiDict[str], body: bytes | None, most: int, give_up: float
    ) -> Answer:
        assert self._session is not None
        response = answer = None
        until = min(give_up, asyncio.get_running_loop().time() + self.settings.first_byte_seconds)
        try:
            async with asyncio.timeout_at(until):
                response = await self._session.request(
                    method, self.address(path), headers=headers, data=body, allow_redirects=False
                )
                answer = Answer(response, self.settings.idle_seconds, give_up)
                await answer.begin(most)
                if answer.is_stream and not answer.head:
                    # Ended before it began: as good as no answer.
                    raise UpstreamFault("cut", 502)
                if answer.complete:
                    answer.close()
                return answer
        except (TimeoutError, aiohttp.ServerTimeoutError):
            fault = UpstreamFault("timeout", 504)
        except aiohttp.ClientConnectorError:
            fault = UpstreamFault("connect", 502)
        except (aiohttp.ClientError, OSError):
            fault = UpstreamFault("cut", 502)
        except BaseException:
            if response is not None:
                response.close()
            raise
        if response is not None:
            with suppress(Exception):
                response.close()
        raise fault
