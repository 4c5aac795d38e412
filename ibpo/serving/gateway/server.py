"""The gateway as an HTTP server: the process, its connections, and which part answers each path.

Listens, closes slow connections, and on SIGTERM lets requests in flight come to their end. `Gateway.handle` gets every
request: who asks (`Keys`), and for what. Some paths are governed by the budget (`decision.py`), a few are the gateway's
own pages, those that the operator lists go through (`proxy.py`), and all others are refused.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from ibpo.errors import IbpoError
from ibpo.serving.controller import ServingPolicy
from ibpo.serving.gateway.access import Access, governed_api, plain_path, too_large
from ibpo.serving.gateway.async_controller import Clock
from ibpo.serving.gateway.gains import GainPredictor
from ibpo.serving.gateway.governor import Governor
from ibpo.serving.gateway.learning import OUTCOMES, Learner, read_outcome
from ibpo.serving.gateway.leased_controller import make_controller
from ibpo.serving.gateway.money import open_biller
from ibpo.serving.gateway.openai_request import Refusal, is_anthropics
from ibpo.serving.gateway.page import Page
from ibpo.serving.gateway.proxy import Upstream, open_session, pass_through
from ibpo.serving.gateway.quotas import open_quotas
from ibpo.serving.gateway.settings import (
    OPERATOR,
    Keys,
    LimitSettings,
    Settings,
    check_groups,
    check_router,
    find_cautions,
)
from ibpo.serving.gateway.status import describe
from ibpo.serving.gateway.telemetry import Metrics, RequestLog
from ibpo.serving.lengths import Lengths

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_HOSTS = 64
FAILED_CAUTION = (
    "the router decides by whether a check of the first answer failed, and the gateway checks one thing: whether it is "
    "the JSON that was asked for. Every other answer counts as passed; fit the router without `failed` otherwise"
)
MAX_REFUSALS = 600
"""Lines of the log a minute about requests that were refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """Everything that a gateway process needs to know."""

    settings: Settings
    policy: ServingPolicy
    host: str = "127.0.0.1"
    port: int = 8080
    """0: any free one."""
    reuse_port: bool = False
    """Several processes on one port (not on Windows): the kernel spreads the connections."""
    ext_proc: str | None = None
    """Where Envoy's calls are answered, `HOST:PORT` or `unix:PATH`; None: nowhere. With it no upstream is needed."""
    state: str | None = None
    """Where the accounts of the budget are stored: a SQLite file, `redis://...`; None: in memory, lost at the end."""
    lease: float | None = None
    """Seconds between two exchanges of a process that decides by a lease of the shared accounts; None: each decision is
    a transaction of theirs."""
    name: str = "gateway"
    """The name of this process among those that share the state."""
    keys: Keys | None = None
    router: GainPredictor | None = None
    clock: Clock | None = None
    """What days, months and ages are counted by; None: the machine's. `ibpo.testing.Clock` is one for tests."""

    def __post_init__(self) -> None:
        doors = {"--listen": self.host}
        if self.ext_proc is not None and not self.ext_proc.startswith("unix:"):
            doors["--ext-proc"] = self.ext_proc.rpartition(":")[0].strip("[]")
        for option, host in doors.items():
            if self.keys is None and host not in LOOPBACK:
                raise IbpoError(f"{option} {host}: others can reach it, and nobody needs a key; give --keys FILE")
        if not self.settings.upstream.url:
            if self.ext_proc is None:
                raise IbpoError("no upstream; give --upstream http://127.0.0.1:8000/v1")
            if any("probe" in model.choose for model in self.settings.model):
                raise IbpoError("choose: a probe asks the model's server; give --upstream too, or take probe out")
        check_groups(self.settings, self.policy)
        check_router(self.settings, getattr(self.router, "groups", None))
        for tenant, names in (self.keys.slices if self.keys is not None else {}).items():
            for name in names:
                if name not in self.policy.slices:
                    raise IbpoError(
                        f"--keys: slices.{tenant}: the plan has no slice {name!r}; add [slice.{name}] to it"
                    )


PAGES = ("/", "/budget", "/budget.json", "/metrics")


class Gateway:
    """The handler of a server.

    Args:
        governor: Answers what a budget governs. Without its `keys` nobody needs one, and nobody is a tenant.
        host: The address that it listens on.
        scope: Whose numbers it shows: `is_shared`, `by_lease` and `process`.
    """

    def __init__(self, governor: Governor, host: str = "127.0.0.1", *, scope: Mapping[str, Any] | None = None) -> None:
        self.governor, self.keys, self.metrics = governor, governor.keys, governor.metrics
        self.settings, self.limits = governor.settings, governor.settings.limits
        self.access = Access(self.keys, self.limits)
        self.metrics.in_flight.set_function(lambda: self.access.num_in_flight)
        self.ext_proc = ""
        """Where Envoy's calls are answered; "": nowhere."""
        self._hosts = {*LOOPBACK, host.lower()}
        self._minute, self._num_logged = 0, 0
        self._page = Page()
        given = scope or {"is_shared": False, "by_lease": False, "process": "gateway"}
        self._scope = {**given, "pid": os.getpid(), "began": self.metrics.began}
        self._is_priced = any(model.price_of(group) for model in self.settings.model for group in model.response_group)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, with an error if need be."""
        try:
            return await self._handle(request)
        except Refusal as refusal:
            self.metrics.refused.labels(refusal.code).inc()
            if refusal.status < 500 and self._may_log():
                self.governor.log.write("refused", code=refusal.code, status=refusal.status, path=request.path[:200])
            return _refuse(refusal, request)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            # No text of the error: it may hold what the caller wrote.
            self.metrics.failures.labels("internal").inc()
            self.governor.log.write("internal_error", kind=type(error).__name__, at=_place(error))
            return _refuse(Refusal(500, "internal", "the gateway failed; its log has the place"), request)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = plain_path(request.raw_path)
        if path == "/ready":
            return web.json_response({"ready": not self.access.draining}, status=503 if self.access.draining else 200)
        self._check_browser(request)
        tenant = self.access.tenant_of(request.headers, path, method=request.method)
        if path in PAGES and request.method in ("GET", "HEAD"):
            return await self._show(path, tenant)
        learns = path == OUTCOMES and self.governor.learner is not None
        if not (learns or self.settings.upstream.url):
            raise Refusal(404, "no_upstream", "this process answers Envoy; here are /budget, /metrics and /ready only")
        with self.access.in_flight(tenant):
            if learns:
                if request.method != "POST" or request.content_type != "application/json":
                    raise Refusal(405, "method", "use POST with Content-Type: application/json", {"Allow": "POST"})
                return self._learn(await self._body(request), tenant)
            encoding = request.headers.get("Content-Encoding", "")
            api = governed_api(path, request.method, request.content_type, encoding)
            if api is not None:
                return await self.governor.answer(request, await self._body(request), tenant, api=api)
            if not self.settings.allows(request.method, path):
                raise Refusal(404, "not_allowed", "this gateway does not pass this path on; see allow in its settings")
            if request.body_exists and request.content_type not in ("application/json", "multipart/form-data"):
                raise Refusal(415, "content_type", "send Content-Type: application/json", close=True)
            data = await self._body(request)
            return await pass_through(request, data, self.governor.upstream, self.limits, self.metrics)

    def _learn(self, data: bytes, tenant: str) -> web.Response:
        """An outcome of one of the tenant's own requests."""
        learner = self.governor.learner
        try:
            name, reward = read_outcome(data)
        except IbpoError as error:
            raise Refusal(400, "bad_request", str(error)) from None
        known = learner is not None and learner.outcome(name, tenant, reward)
        if known:
            self.governor.log.write("outcome", request_id=name, reward=reward)
        return web.json_response({"learned": known}, status=200 if known else 404)

    def _may_log(self) -> bool:
        """Whether one more refusal goes into the log: whoever has no key must not fill the disk. All are counted."""
        minute = int(time.monotonic() / 60)
        if minute != self._minute:
            self._minute, self._num_logged = minute, 0
        self._num_logged += 1
        return self._num_logged <= MAX_REFUSALS

    def _check_browser(self, request: web.BaseRequest) -> None:
        """Check that no page of another site is asking through a browser of somebody who can reach this server.

        Without keys a foreign `Host` is refused, too: such a page reaches the loopback under a name of its own.

        Raises:
            Refusal: A page of another site.
        """
        named = request.headers.getall("Host", ())
        origins = request.headers.getall("Origin", ())
        if len(named) > 1 or (self.keys is None and named and not self._is_known(named[0])):
            raise Refusal(403, "host", "this server is not known under that name; use its address", close=True)
        if any(not named or origin.partition("://")[2].lower() != named[0].lower() for origin in origins):
            raise Refusal(403, "origin", "pages of other sites are not answered", close=True)

    def _is_known(self, host: str) -> bool:
        """Whether this server is known under that name."""
        if host not in self._hosts and _host_name(host) in LOOPBACK and len(self._hosts) < MAX_HOSTS:
            self._hosts.add(host)  # with its port
        return host in self._hosts or _host_name(host) in self._hosts

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The request's body, within the limits of size and time."""
        limits = self.limits
        if (request.content_length or 0) > limits.max_body_bytes:
            raise too_large(limits.max_body_bytes)
        try:
            if request.content.is_eof():  # it came with the headers
                return await request.read()
            async with asyncio.timeout(limits.body_seconds):
                if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
                    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return await request.read()
        except TimeoutError:
            raise Refusal(408, "slow_body", "the body did not come in time", close=True) from None
        except web.HTTPRequestEntityTooLarge:
            raise too_large(limits.max_body_bytes) from None
        except (web.RequestPayloadError, web.PayloadAccessError):
            raise Refusal(400, "broken_body", "the body is broken off or wrongly framed", close=True) from None

    async def _show(self, path: str, tenant: str) -> web.Response:
        """The live page, its data, and the metrics; where there are keys, for the operator only."""
        if self.keys is not None and tenant != OPERATOR:
            raise Refusal(403, "operators_only", "this page needs the key of the operator, not a tenant's")
        shown, why = None, ""
        try:
            shown = self._describe(await self.governor.controller.snapshot())
        except IbpoError as error:
            why = f"the store of the budget cannot be read: {error}"
            if path == "/budget.json":
                raise Refusal(503, "store", why) from None
        if path in ("/", "/budget"):
            body, headers = self._page.render(shown, why), self._page.headers
            return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)
        if path == "/metrics":  # without a budget: that says that it cannot be used
            text = self.metrics.render(shown)
            return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
        data = {**(shown or {}), "history": list(self.governor.controller.history)}
        body = json.dumps(data, allow_nan=False).encode()
        return web.Response(body=body, content_type="application/json", headers=self._page.headers)

    def _describe(self, snapshot: Mapping[str, Any]) -> dict[str, Any]:
        """What the page, the JSON and the metrics show."""
        session, policy = self.settings.session, self.governor.controller.policy
        shown = describe(
            snapshot,
            self.metrics,
            scope=self._scope,
            quotas=self.governor.quotas,
            sessions=None if session is None else (session.totals(), session.idle_seconds),
            is_priced=self._is_priced,
            fair_share=policy.fair_share,
        )
        return {**shown, "num_open": self.access.num_in_flight, "draining": self.access.draining}


def _host_name(host: str) -> str:
    """The name in a `Host` header, without its port; "" where there is no name.

    Example:
        >>> _host_name("LOCALHOST:8080"), _host_name("[::1]:8080"), _host_name("a b")
        ('localhost', '::1', '')
    """
    try:
        return (urlsplit(f"//{host}").hostname or "") if not set(host) & set(" /?#@") else ""
    except ValueError:
        return ""


def _refuse(refusal: Refusal, request: web.BaseRequest) -> web.Response:
    headers = {"Content-Type": "application/json", **refusal.headers}
    body = refusal.body(anthropic=is_anthropics(request.path, request.headers))
    response = web.Response(status=refusal.status, body=body, headers=headers)
    if refusal.close:
        response.force_close()
    return response


def _place(error: BaseException) -> str:
    """File and line where an error arose."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else ""


class _Connection(web.RequestHandler):
    """One connection; closed if its first request takes too long to say what it is."""

    def __init__(self, manager: Any, *, limits: LimitSettings, **options: Any) -> None:
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

    def __init__(self, handler: Callable[[web.BaseRequest], Any], limits: LimitSettings, **options: Any) -> None:
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
    settings, metrics = service.settings, Metrics(service.clock)
    variable = settings.upstream.key_env
    key = os.environ.get(variable) if variable else None
    if variable and not key:
        raise IbpoError(f"upstream.key_env: the environment variable {variable} is empty; put the upstream's key in it")
    learner = Learner(settings) if any(model.learn for model in settings.model) else None
    biller, quotas, lengths = open_biller(settings), open_quotas(settings), Lengths()
    controller = make_controller(
        service.policy,
        service.state,
        lease=service.lease,
        name=service.name,
        stale_seconds=2 * settings.upstream.total_seconds,
        on_failure=lambda message: log.write("store", message=message),
        learner=learner,
        keepers={"lengths": lengths, **({} if biller is None else {"biller": biller})},
        quotas=quotas,
        clock=service.clock,
    )
    controller.on_beat = metrics.beat
    await controller.open()
    try:
        async with open_session(settings.upstream) as session:
            upstream = Upstream(
                settings.upstream,
                session,
                key=key,
                keep_authorization=service.keys is None,
                on_fault=lambda kind: metrics.faults.labels(kind).inc(),
            )
            governor = Governor(
                settings=settings,
                controller=controller,
                upstream=upstream,
                metrics=metrics,
                log=log,
                router=service.router,
                keys=service.keys,
                learner=learner,
                expected_lengths=lengths,
                biller=biller,
                quotas=quotas,
            )
            scope = {
                "is_shared": service.state is not None,
                "by_lease": service.lease is not None,
                "process": service.name,
            }
            gateway = Gateway(governor, service.host, scope=scope)
            limits = settings.limits
            server = _Server(
                gateway.handle,
                limits,
                access_log=None,
                # What hostile clients send must not fill the disk: the request log is the log.
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
                cause = error.strerror or str(error)
                raise IbpoError(f"{service.host}:{service.port}: cannot listen: {cause}; give another --port") from None
            give_up: float | None = None
            try:
                port = runner.addresses[0][1]
                async with _answering_envoy(service, gateway) as gateway.ext_proc:
                    shown = getattr(service.router, "first", {}).get("shown", ())
                    for caution in [
                        *find_cautions(settings, service.policy),
                        *([FAILED_CAUTION] if "failed" in shown else []),
                    ]:
                        log.write("caution", message=caution)
                    doors = {"host": service.host, "port": port, "ext_proc": gateway.ext_proc or None}
                    # What the prices in the lines of requests are of.
                    budgets = {budget.name: budget.response_group or budget.name for budget in service.policy.budgets}
                    more = {"upstream": settings.upstream.address, "budgets": budgets, "pid": os.getpid()}
                    log.write("listening", **doors, **more)
                    try:
                        yield gateway, port
                    finally:  # before Envoy's calls are waited for
                        give_up = await _begin_drain(gateway, site, limits.drain_seconds, log)
            finally:
                if give_up is None:
                    give_up = await _begin_drain(gateway, site, limits.drain_seconds, log)
                await _drain(gateway, give_up, log)
                await runner.cleanup()
    finally:
        await controller.close()
        log.write("stopped")


async def _begin_drain(gateway: Gateway, site: web.TCPSite, seconds: float, log: RequestLog) -> float:
    """Take no more requests; until when those in flight are waited for."""
    gateway.access.draining = True
    log.write("draining", in_flight=gateway.access.num_in_flight)
    await site.stop()
    return time.monotonic() + seconds


async def _drain(gateway: Gateway, give_up: float, log: RequestLog) -> None:
    """Wait for what is in flight."""
    while (gateway.access.num_in_flight or gateway.governor.bookings) and time.monotonic() < give_up:
        await asyncio.sleep(0.05)
    if gateway.access.num_in_flight:
        log.write("cut_off", in_flight=gateway.access.num_in_flight)


def serve(service: Service, log: RequestLog, on_ready: Callable[[str, str], None] = lambda url, ext_proc: None) -> None:
    """Run a gateway until SIGTERM or Ctrl-C; a second one ends it at once.

    Args:
        service: What it needs to know.
        log: Its lines go there.
        on_ready: Gets its URL, and where Envoy's calls are answered ("": nowhere).

    Raises:
        IbpoError: See `running`.
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
        async with running(service, log) as (gateway, port):
            # Modules stay loaded: a collection that looks through them all would stop every stream for 50 to 80 ms.
            gc.collect()
            gc.freeze()
            host = f"[{service.host}]" if ":" in service.host else service.host
            on_ready(f"http://{host}:{port}/", gateway.ext_proc)
            await stop.wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(main())


def _answering_envoy(service: Service, gateway: Gateway) -> AbstractAsyncContextManager[str]:
    """The second door of the process, where there is one."""
    if service.ext_proc is None:
        return nullcontext("")
    try:
        from ibpo.serving.gateway.ext_proc import serving_ext_proc
    except ModuleNotFoundError as error:
        raise IbpoError(f"--ext-proc needs the package {error.name}: pip install 'ibpo[envoy]'") from None
    return serving_ext_proc(gateway.governor, gateway.access, service.ext_proc, reuse_port=service.reuse_port)


def _silent() -> logging.Logger:
    logger = logging.getLogger("ibpo.serving.gateway.http")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
