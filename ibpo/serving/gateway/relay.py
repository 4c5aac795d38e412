"""One request with a budget, from its body to its settlement. The bytes of the answer pass through as they are."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from ibpo.errors import IbpoError
from ibpo.serving.gateway.demand import Demand, check_size, option_of, read_demand, usable, write_body
from ibpo.serving.gateway.desk import Desk, Ticket
from ibpo.serving.gateway.gains import Gains, find_gains
from ibpo.serving.gateway.headers import answer_headers, budget_headers, upstream_headers
from ibpo.serving.gateway.keys import Keys
from ibpo.serving.gateway.logs import RequestLog
from ibpo.serving.gateway.meter import StreamMeter, read_usage
from ibpo.serving.gateway.metrics import Metrics
from ibpo.serving.gateway.refusal import Refusal
from ibpo.serving.gateway.routers import Router
from ibpo.serving.gateway.settings import GroupSettings, ModelSettings, Settings
from ibpo.serving.gateway.upstream import Answer, Upstream, UpstreamFault

SLICE_HEADER = "x-ibpo-slice"
PROBE_BYTES = 1 << 20


@dataclass(kw_only=True, slots=True)
class Account:
    """What is known about a request so far, for its log line."""

    request_id: str
    tenant: str
    began: float
    outcome: str = "left"
    status: int = 0
    tokens: int | None = None
    counted: str = "estimated"
    retries: int = 0
    fields: dict[str, Any] = field(default_factory=dict)


class Relay:
    """Answers the requests that a budget governs.

    Args:
        settings: The gateway's.
        desk: Where the budget is.
        upstream: Who answers.
        metrics: Counted here.
        log: Written here.
        router: Predicts gains, if there is one.
        key: The upstream's API key; None: the caller's `Authorization` goes on.
        keys: The callers', if they are the gateway's own, and no affair of the upstream.
    """

    def __init__(
        self,
        settings: Settings,
        desk: Desk,
        upstream: Upstream,
        metrics: Metrics,
        log: RequestLog,
        *,
        router: Router | None = None,
        key: str | None = None,
        keys: Keys | None = None,
    ) -> None:
        self.settings, self.desk, self.upstream, self.metrics, self.log = settings, desk, upstream, metrics, log
        self.router, self.key, self.keys, self.own_keys = router, key, keys, keys is not None

    async def answer(self, request: web.BaseRequest, data: bytes, tenant: str, *, chat: bool) -> web.StreamResponse:
        """Decide, ask the upstream, pass the answer on, and settle once, whatever happens in between.

        Raises:
            Refusal: A body or header that cannot be read, or an upstream that gave no answer.
        """
        account = Account(request_id=uuid.uuid4().hex, tenant=tenant, began=time.perf_counter())
        try:
            demand = read_demand(data, chat=chat)
            model = self.settings.model_of(demand.model)
            check_size(demand, model.response_group, self.settings.limits)
            sent = upstream_headers(request.headers, self.key, own_keys=self.own_keys, governed=True)
            gains = await find_gains(
                demand,
                request.headers,
                model,
                router=self.router,
                ask=lambda demand, body: self._ask(demand, body, sent),
                on_failure=lambda what: self.metrics.failures.labels(what).inc(),
            )
            groups = {group.name: group for group in model.response_group if usable(demand, group)}
            if gains.only:
                groups = {gains.only: groups[gains.only]} if gains.only in groups else groups
            groups = groups or {model.response_group[0].name: _plain(model.response_group[0])}
        except IbpoError as error:
            raise Refusal(400, "bad_request", str(error)) from None
        if self.settings.log_bodies:
            account.fields["body"] = demand.body
        ticket = await self._decide(account, request, demand, gains, groups)
        group = groups[ticket.response_group] if ticket else next(iter(groups.values()))
        self.metrics.gains.labels(gains.source).inc()
        self.metrics.decide_seconds.observe(time.perf_counter() - account.began)
        shown = {name: round(gain, 6) for name, gain in gains.by_group.items()}
        account.fields |= {"source": gains.source, "gains": shown, "model": model.name, "stream": demand.stream}
        meter = StreamMeter(strip=demand.stream and model.include_usage and not demand.wants_usage)
        try:
            return await self._relay(request, demand, model, group, sent, ticket, account, meter)
        finally:
            self._finish(account, ticket, group, gains, meter)

    async def _decide(
        self,
        account: Account,
        request: web.BaseRequest,
        demand: Demand,
        gains: Gains,
        groups: Mapping[str, GroupSettings],
    ) -> Ticket | None:
        """The reservation; None where the book cannot be used: the request gets the standard response group."""
        plan = self.desk.plan
        options = [
            option_of(demand, group, gains.by_group.get(name, group.gain), plan.budgets, gains.tokens.get(name))
            for name, group in groups.items()
        ]
        # Only slices of the plan: a caller must not open accounts.
        named = request.headers.get(SLICE_HEADER, "")
        if self.keys is not None:
            named = self.keys.slice_of(account.tenant, named)
        slice_name = named if named in plan.slices else ""
        try:
            return await self.desk.decide(
                options, request_id=account.request_id, tenant=account.tenant, slice_name=slice_name
            )
        except IbpoError as error:
            self.metrics.failures.labels("book").inc()
            self.metrics.unbudgeted.inc()
            self.log.write("book_failed", request_id=account.request_id, message=str(error))
            return None

    async def _ask(self, demand: Demand, body: bytes, sent: CIMultiDict[str]) -> bytes:
        """One probe: no retries, and an answer without log-probabilities is none."""
        path = "/v1/chat/completions" if demand.chat else "/v1/completions"
        try:
            answer = await self.upstream.call("POST", path, sent, body, most=PROBE_BYTES, retries=0)
        except UpstreamFault as fault:
            raise IbpoError(f"the probe failed: {fault.kind}") from None
        if not answer.complete or answer.status != 200:
            answer.close()
            raise IbpoError(f"the probe failed: status {answer.status}")
        return answer.head

    async def _relay(
        self,
        request: web.BaseRequest,
        demand: Demand,
        model: ModelSettings,
        group: GroupSettings,
        sent: CIMultiDict[str],
        ticket: Ticket | None,
        account: Account,
        meter: StreamMeter,
    ) -> web.StreamResponse:
        try:
            body = write_body(demand, group, model)
        except IbpoError as error:
            account.outcome, account.status = "failed", 400
            raise Refusal(400, "bad_request", str(error)) from None
        try:
            answer = await self.upstream.call(
                "POST", request.raw_path, sent, body, most=self.settings.limits.max_buffered_bytes
            )
        except UpstreamFault as fault:
            account.outcome, account.status = "failed", fault.status
            said = (
                "the upstream did not answer in time" if fault.kind == "timeout" else "the upstream cannot be reached"
            )
            raise Refusal(
                fault.status, f"upstream_{fault.kind}", f"{said}; try again later", budget_headers(group.name, ticket)
            ) from None
        account.retries, account.status = answer.num_retries, answer.status
        self.metrics.first_byte_seconds.labels(group.name).observe(time.perf_counter() - account.began)
        try:
            headers = answer_headers(answer.headers)
            headers.extend(budget_headers(group.name, ticket))
            if answer.complete:
                account.outcome = "answered" if answer.status < 400 else "failed"
                account.tokens = read_usage(answer.head)
                return web.Response(status=answer.status, headers=headers, body=answer.head)
            return await self._stream(request, answer, headers, account, meter)
        finally:
            answer.close()

    async def _stream(
        self, request: web.BaseRequest, answer: Answer, headers: CIMultiDict[str], account: Account, meter: StreamMeter
    ) -> web.StreamResponse:
        """Pass pieces on as they come; where the upstream breaks off, break off too."""
        governed = answer.is_stream and answer.status < 400
        if governed:
            headers.popall("Content-Length", None)
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        idle = self.settings.limits.body_seconds
        loop = asyncio.get_running_loop()
        try:
            first = meter.feed(answer.head) if governed else answer.head
            async with asyncio.timeout(idle) as limit:
                if first:
                    await response.write(first)
                limit.reschedule(None)
                async for piece in answer.rest():
                    piece = meter.feed(piece) if governed else piece
                    if piece:
                        # A caller that does not read holds a place and an upstream's attention: not for long.
                        limit.reschedule(loop.time() + idle)
                        await response.write(piece)
                        limit.reschedule(None)
                limit.reschedule(loop.time() + idle)
                if governed and (tail := meter.end()):
                    await response.write(tail)
                await response.write_eof()
            account.tokens = meter.tokens
            # Not every server says [DONE]; one that ended in good order without a word of its cost is suspect.
            whole = not governed or meter.finished or meter.tokens is not None
            account.outcome = "answered" if whole else "cut"
            return response
        except UpstreamFault as fault:
            account.outcome = "cut"
            self.metrics.faults.labels(fault.kind).inc()
        except (ConnectionError, TimeoutError):
            account.outcome = "left"
        account.tokens = meter.tokens
        # No proper end: the caller has to see that something is missing.
        if request.transport is not None:
            with suppress(Exception):
                request.transport.abort()
        return response

    def _finish(
        self, account: Account, ticket: Ticket | None, group: GroupSettings, gains: Gains, meter: StreamMeter
    ) -> None:
        """Settle or cancel, count, and write the line."""
        tokens: float | None = account.tokens
        if tokens is not None:
            account.counted = "usage"
        elif account.outcome != "failed" and meter.num_events:
            tokens = meter.num_events
        if ticket is not None:
            if account.outcome == "failed":
                self.desk.cancel(ticket)
            else:
                self.desk.settle(ticket, None if tokens is None else {"tokens": tokens + gains.probe_tokens})
        tenant = account.tenant or "-"
        self.metrics.requests.labels(tenant, group.name, account.outcome).inc()
        if tokens is not None:
            self.metrics.tokens.labels(tenant, group.name, account.counted).inc(tokens)
        self.log.write(
            "request",
            request_id=account.request_id,
            tenant=account.tenant,
            response_group=group.name,
            outcome=account.outcome,
            status=account.status,
            tokens=tokens,
            counted=account.counted,
            retries=account.retries,
            seconds=round(time.perf_counter() - account.began, 4),
            price=dict(ticket.price) if ticket else None,
            **account.fields,
        )


def _plain(group: GroupSettings) -> GroupSettings:
    """Where nothing else can be set: the standard response group's cap, and what it is expected to take."""
    return GroupSettings(name=group.name, max_tokens=group.max_tokens, tokens=group.tokens)
