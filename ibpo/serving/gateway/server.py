"""The gateway as a process: listens, closes slow connections, and on SIGTERM lets what is under way come to its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from ibpo.errors import IbpoError
from ibpo.serving.gateway.checks import cautions, check_groups, check_router
from ibpo.serving.gateway.desk import Desk
from ibpo.serving.gateway.gateway import Gateway
from ibpo.serving.gateway.keys import Keys
from ibpo.serving.gateway.logs import RequestLog
from ibpo.serving.gateway.metrics import Metrics
from ibpo.serving.gateway.relay import Relay
from ibpo.serving.gateway.routers import Router
from ibpo.serving.gateway.settings import Limits, Settings
from ibpo.serving.gateway.upstream import Upstream
from ibpo.serving.plan import Plan

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """Everything that a gateway process is told."""

    settings: Settings
    plan: Plan
    host: str = "127.0.0.1"
    port: int = 8080
    """0: any free one."""
    reuse_port: bool = False
    """Several processes on one port (not on Windows): the kernel spreads the connections."""
    state: str | None = None
    """Of the budget: a SQLite file, `redis://...`, or None: in memory, lost with the process."""
    name: str = "gateway"
    """Of this process among those that share the state."""
    keys: Keys | None = None
    router: Router | None = None

    def __post_init__(self) -> None:
        if not self.settings.upstream.url:
            raise IbpoError("no upstream; give --upstream http://127.0.0.1:8000/v1")
        if self.keys is None and self.host not in LOOPBACK:
            raise IbpoError(f"--host {self.host}: others can reach it, and nobody needs a key; give --keys FILE")
        check_groups(self.settings, self.plan)
        check_router(self.settings, self.router)
        for tenant, names in (self.keys.slices if self.keys is not None else {}).items():
            for name in names:
                if name not in self.plan.slices:
                    raise IbpoError(
                        f"--keys: slices.{tenant}: the plan has no slice {name!r}; add [slice.{name}] to it"
                    )


class _Connection(web.RequestHandler):
    """One connection; closed if its first request takes too long to say what it is."""

    def __init__(self, manager: Any, *, limits: Limits, **options: Any) -> None:
        super().__init__(manager, **options)
        self._limits = limits
        self.began = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self._manager
        if server is not None and len(server.connections) >= self._limits.max_connections:
            transport.abort()  # pyright: ignore[reportAttributeAccessIssue]  # a server's transports have it
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._limits.header_seconds, self._check)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _check(self) -> None:
        if not self.began:
            self.force_close()


class _Server(web.Server):
    """Makes guarded connections, and requests with the limit on their bodies."""

    def __init__(self, handler: Callable[[web.BaseRequest], Any], limits: Limits, **options: Any) -> None:
        self._limits, self._options = limits, options

        def make(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            protocol.began = True
            loop = asyncio.get_running_loop()
            return web.BaseRequest(
                message, payload, protocol, writer, task, loop, client_max_size=limits.max_body_bytes
            )

        super().__init__(handler, request_factory=make, handler_cancellation=True)  # pyright: ignore[reportArgumentType]

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, limits=self._limits, loop=asyncio.get_running_loop(), **self._options)


@asynccontextmanager
async def running(service: Service, log: RequestLog) -> AsyncIterator[tuple[Gateway, int]]:
    """A gateway that listens as long as the block runs; then it drains.

    Yields:
        The gateway and its port.

    Raises:
        IbpoError: The address is taken, or the state cannot be used.
    """
    settings, metrics = service.settings, Metrics()
    variable = settings.upstream.key_env
    key = os.environ.get(variable) if variable else None
    if variable and not key:
        raise IbpoError(f"upstream.key_env: the environment variable {variable} is empty; put the upstream's key in it")
    desk = Desk(
        service.plan,
        service.state,
        name=service.name,
        stale_seconds=2 * settings.upstream.total_seconds,
        on_failure=lambda message: log.write("book", message=message),
    )
    upstream = Upstream(settings.upstream, on_fault=lambda kind: metrics.faults.labels(kind).inc())
    await desk.open()
    try:
        async with upstream:
            relay = Relay(settings, desk, upstream, metrics, log, router=service.router, key=key, keys=service.keys)
            gateway = Gateway(relay, service.keys)
            limits = settings.limits
            server = _Server(
                gateway.handle,
                limits,
                access_log=None,
                # What hostile clients send is no news, and must not fill the disk: the request log is the log.
                logger=_silent(),
                keepalive_timeout=limits.keep_alive_seconds,
                max_line_size=limits.max_header_bytes,
                max_field_size=limits.max_header_bytes,
                lingering_time=2.0,
                auto_decompress=False,
            )
            runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
            await runner.setup()
            site = web.TCPSite(runner, service.host, service.port, reuse_port=service.reuse_port or None, backlog=1024)
            try:
                await site.start()
            except OSError as error:
                await runner.cleanup()
                said = error.strerror or str(error)
                raise IbpoError(f"{service.host}:{service.port}: cannot listen: {said}; give another --port") from None
            try:
                port = runner.addresses[0][1]
                for caution in cautions(settings, service.plan):
                    log.write("caution", message=caution)
                log.write("listening", host=service.host, port=port, upstream=settings.upstream.url, pid=os.getpid())
                yield gateway, port
            finally:
                await _drain(gateway, site, limits.drain_seconds, log)
                await runner.cleanup()
    finally:
        await desk.close()
        log.write("stopped")


async def _drain(gateway: Gateway, site: web.TCPSite, seconds: float, log: RequestLog) -> None:
    """Take no more requests, and wait for those under way."""
    gateway.draining = True
    log.write("draining", under_way=gateway.num_in_flight)
    await site.stop()
    give_up = time.monotonic() + seconds
    while gateway.num_in_flight and time.monotonic() < give_up:
        await asyncio.sleep(0.05)
    if gateway.num_in_flight:
        log.write("cut_off", under_way=gateway.num_in_flight)


def serve(service: Service, log: RequestLog, on_ready: Callable[[str], None] = lambda url: None) -> None:
    """Run a gateway until SIGTERM or Ctrl-C; a second one ends it at once.

    Raises:
        IbpoError: As of `running`.
    """

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asked() -> None:
            if stop.is_set():
                os._exit(1)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, asked)
        async with running(service, log) as (_, port):
            # Every module loaded stays: looking through them all again stops every stream for 50 to 80 ms.
            gc.collect()
            gc.freeze()
            on_ready(f"http://{service.host}:{port}/")
            await stop.wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(main())


def _silent() -> logging.Logger:
    logger = logging.getLogger("ibpo.serving.gateway.http")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def open_log(path: Path | None) -> RequestLog:
    """The log: standard output, or a file that is appended to.

    Raises:
        IbpoError: The file cannot be written.
    """
    if path is None:
        return RequestLog(sys.stdout)
    try:
        return RequestLog(path.open("a", encoding="utf-8"))
    except OSError as error:
        raise IbpoError(f"{path}: cannot be written: {error.strerror}; name another file") from None
