"""A governed request of `ibpo serve`, from its body to the end of its answer. The decision itself is `decision.py`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import cached_property

from aiohttp import web
from multidict import CIMultiDict

from ibpo.errors import IbpoError
from ibpo.responses import split_thought
from ibpo.serving.gateway.decision import Decider, Decision, budget_headers, outcome_of_stream
from ibpo.serving.gateway.escalation import (
    FirstAnswer,
    LostFirst,
    as_events,
    escalates,
    lost,
    make_first,
    refuse_fault,
)
from ibpo.serving.gateway.gains import FittedRouter, NoAnswerYet, OpeningTokens
from ibpo.serving.gateway.openai_request import Api, OpenAIRequest, Refusal, is_anthropics, read_request, write_body
from ibpo.serving.gateway.proxy import Upstream, UpstreamFault, pass_headers, relay_stream
from ibpo.serving.gateway.settings import GroupSettings
from ibpo.serving.gateway.usage import read_cost

MAX_PROBE_BYTES = 1 << 20
BUSY = (408, 429, 500, 502, 503, 504)
"""Status of answers after which the same question may be answered."""


@dataclass(frozen=True, kw_only=True)
class Governor(Decider):
    """Answers the requests that a budget governs (`openai_request.PATHS`)."""

    upstream: Upstream

    async def answer(self, http_request: web.BaseRequest, data: bytes, tenant: str, *, api: Api) -> web.StreamResponse:
        """Decide, ask the upstream, pass the answer on, and end the reservation once, whatever happens in between.

        Args:
            http_request: The caller's.
            data: Its body, complete.
            tenant: Who asks; "" belongs to nobody.
            api: Which of the governed APIs it is.

        Raises:
            Refusal: A body or header that cannot be read, or an upstream that gave no answer.
        """
        caller = http_request.headers
        headers = self.upstream.headers_for(caller, governed=True, anthropic=is_anthropics(http_request.path, caller))
        request = read_or_refuse(data, api)
        first = await self._make_first(http_request, request, headers, tenant) if self.decides_after else None
        try:
            decision, body = await self.begin(request, caller, headers, tenant, first=first)
        except asyncio.CancelledError:
            if first is not None:  # the caller is gone, and what was made is not
                self._book_later(self._book(first.alone(), request, caller, headers, tenant, 0))
            raise
        try:
            if first is not None and decision.group.name == first.group.name:
                return self._give(first, decision)
            return await self._forward(http_request, headers, body, decision)
        finally:
            self.end(decision)

    async def begin(
        self,
        request: OpenAIRequest,
        caller: Mapping[str, str],
        headers: CIMultiDict[str],
        tenant: str,
        *,
        first: FirstAnswer | None = None,
    ) -> tuple[Decision, bytes]:
        """Decide, and write the body as the upstream is to get it. The decision is the caller's to `end`.

        Args:
            request: A request from `read_or_refuse`.
            caller: The headers as they came.
            headers: As they are sent on, also with a probe.
            tenant: Who asks; "" belongs to nobody.
            first: As for `decide`.

        Raises:
            Refusal: A request that asks for too much, or a header that cannot be read. Nothing is reserved then.
        """
        path = "/v1/chat/completions" if request.api == "chat" else "/v1/completions"
        try:
            decision = await self.decide(
                request,
                caller,
                tenant,
                send_probe=lambda body: self._send_probe(body, headers, path),
                opening_tokens=self.opening_tokens,
                first=first,
            )
        except IbpoError as error:
            raise Refusal(400, "bad_request", str(error)) from None
        try:
            return decision, write_body(request, decision.group, decision.model)
        except BaseException as error:
            decision.record.outcome, decision.record.status, decision.record.fault = "failed", 400, "refused"
            self.end(decision)
            if isinstance(error, IbpoError):
                raise Refusal(400, "bad_request", str(error)) from None
            raise

    @cached_property
    def decides_after(self) -> bool:
        """Whether the router decides once the cheap answer is there."""
        return isinstance(self.router, FittedRouter) and bool(self.router.first)

    async def _make_first(
        self, http_request: web.BaseRequest, request: OpenAIRequest, headers: CIMultiDict[str], tenant: str
    ) -> FirstAnswer | None:
        """The cheap answer, where the router wants to see it; None: this request is decided at once.

        Raises:
            Refusal: A header that cannot be read, or an answer that was lost; that one is booked.
        """
        model, num_asked, began = self.settings.model_of(request.model), 0, time.perf_counter()
        try:
            router = escalates(self.router, request, model, http_request.headers)
            if router is None:
                return None
            if self.quotas is not None:  # headers that cannot be read are refused before anything is generated
                self.quotas.find(http_request.headers, tenant, self.controller.clock.time())
            num_asked = router.first["answers"]
            first = await make_first(
                router,
                request,
                model,
                upstream=self.upstream,
                path=http_request.raw_path,
                headers=headers,
                limits=self.settings.limits,
                restored=lambda body: self._restored(body, request, model.response_group[0]) or body,
            )
            if first is not None and first.gains.only:  # the router could say nothing
                self.metrics.failures.labels("router").inc()
            return first
        except IbpoError as error:
            raise Refusal(400, "bad_request", str(error)) from None
        except LostFirst as error:
            given_up = lost(model, num_asked, began)
            await self._book(given_up, request, http_request.headers, headers, tenant, error.fault.status)
            raise refuse_fault(error.fault) from None
        except asyncio.CancelledError:
            given_up = lost(model, num_asked, began)
            self._book_later(self._book(given_up, request, http_request.headers, headers, tenant, 0))
            raise

    def _book_later(self, booking: Coroutine[object, None, None]) -> None:
        """Charge a caller that is gone: its handler is being cancelled, the booking is not."""
        task = asyncio.ensure_future(booking)
        self.bookings.add(task)
        task.add_done_callback(self.bookings.discard)

    @cached_property
    def bookings(self) -> set[asyncio.Future[None]]:
        """What callers that are gone are still to be charged."""
        return set()

    async def _book(
        self,
        first: FirstAnswer,
        request: OpenAIRequest,
        caller: Mapping[str, str],
        headers: CIMultiDict[str],
        tenant: str,
        status: int,
    ) -> None:
        """Charge a first answer that nobody gets, if it is lost what was expected; status 0: the caller is gone."""
        decision, _ = await self.begin(request, caller, headers, tenant, first=first)
        decision.record.outcome, decision.record.status = "cut" if status else "disconnected", status
        self.end(decision)

    def _restored(self, body: bytes, request: OpenAIRequest, group: GroupSettings) -> bytes | None:
        """An answer with its text where callers look for it; None: it is there."""
        found = restore_content(body) if continues_answer(request, group) else None
        if found is not None:
            self.metrics.failures.labels("misplaced").inc()
        return found

    def _give(self, first: FirstAnswer, decision: Decision) -> web.Response:
        """The first answer is the answer."""
        record, request = decision.record, decision.request
        record.outcome, record.status = "answered", 200
        self.metrics.count_first_byte(record)
        self.read_cost(decision, first.costs[0])
        shown = pass_headers(first.headers)
        for name in ("Content-Length", "Content-Encoding", "Content-Type"):
            shown.popall(name, None)
        shown.extend(budget_headers(record))
        if request.stream:
            shown["Content-Type"] = "text/event-stream"
            return web.Response(headers=shown, body=as_events(first.answer, request))
        shown["Content-Type"] = "application/json"
        return web.Response(headers=shown, body=json.dumps(first.answer).encode())

    @cached_property
    def opening_tokens(self) -> OpeningTokens:
        """What this process knows of the upstream's tokenizer; asked with no caller's key."""
        headers = self.upstream.headers_for(CIMultiDict(), governed=True)
        return OpeningTokens(lambda body: self._send_probe(body, headers, "/tokenize"))

    async def _send_probe(self, body: bytes, headers: CIMultiDict[str], path: str) -> bytes:
        """One try, and an answer that is not whole is none."""
        try:
            answer = await self.upstream.call("POST", path, headers, body, most=MAX_PROBE_BYTES, retries=0)
        except UpstreamFault as fault:
            if fault.kind == "timeout":  # it may have been generated
                raise TimeoutError from None
            raise NoAnswerYet(f"the probe failed: {fault.kind}") from None
        if not answer.complete or answer.status != 200:
            answer.close()
            kind = NoAnswerYet if answer.status in BUSY else IbpoError
            raise kind(f"the probe failed: status {answer.status}")
        return answer.head

    async def _forward(
        self,
        http_request: web.BaseRequest,
        headers: CIMultiDict[str],
        body: bytes,
        decision: Decision,
    ) -> web.StreamResponse:
        """Ask the upstream and pass its answer on; `decision` keeps what became of it, for `end`.

        An exception that says nothing leaves the outcome at `disconnected`: so it is settled, not cancelled.
        """
        record, usage = decision.record, decision.usage
        limits, added = self.settings.limits, budget_headers(record)
        try:
            answer = await self.upstream.call(
                "POST", http_request.raw_path, headers, body, most=limits.max_buffered_bytes
            )
        except UpstreamFault as fault:
            record.outcome, record.status = "cut" if fault.began else "failed", fault.status
            record.fault = fault.kind  # `connect`, `timeout` or `cut`
            raise refuse_fault(fault, added) from None
        record.retries, record.status = answer.num_retries, answer.status
        self.metrics.count_first_byte(record)
        try:
            shown = pass_headers(answer.headers)
            shown.extend(added)
            if answer.num_retries and answer.status >= 400:
                shown["x-should-retry"] = "false"  # it has been: the caller's client need not multiply that
            is_answer = 200 <= answer.status < 300
            is_read = is_answer and answer.can_decode
            if is_answer and not is_read:
                self.metrics.failures.labels("encoding").inc()
            if answer.complete:
                record.outcome = "answered" if is_answer else "failed"
                whole = answer.decoded(limits.max_buffered_bytes) if is_read else None
                if whole is None:
                    record.is_unread = is_read
                    return web.Response(status=answer.status, headers=shown, body=answer.head)
                self.read_cost(decision, read_cost(whole))
                restored = self._restored(whole, decision.request, decision.group)
                if restored is None:
                    return web.Response(status=answer.status, headers=shown, body=answer.head)
                for name in ("Content-Length", "Content-Encoding"):
                    shown.popall(name, None)
                return web.Response(status=answer.status, headers=shown, body=restored)
            record.is_unread = is_answer and not answer.is_stream
            is_read &= answer.is_stream
            if is_read:
                for name in ("Content-Length", "Content-Encoding"):  # the usage may be taken out
                    shown.popall(name, None)
            response, record.outcome = await relay_stream(
                http_request, answer, shown, limits.body_seconds, usage if is_read else None
            )
            if not is_answer:
                record.outcome = "failed"
            elif is_read and (record.outcome == "answered" or (usage.failed and record.outcome == "cut")):
                record.outcome = outcome_of_stream(usage)
            return response
        finally:
            answer.close()


def read_or_refuse(data: bytes, api: Api) -> OpenAIRequest:
    """The request that a body holds.

    Raises:
        Refusal: It cannot be read.
    """
    try:
        return read_request(data, api=api)
    except IbpoError as error:
        raise Refusal(400, "bad_request", str(error)) from None


def continues_answer(request: OpenAIRequest, group: GroupSettings) -> bool:
    """Whether the group's prefix opens no thought, or closes one: then an answer follows it."""
    return request.api == "chat" and bool(group.prefix) and split_thought(group.prefix).closed


def restore_content(body: bytes) -> bytes | None:
    """An answer whose text the upstream's reasoning parser took for a thought, with the text where callers look for it.

    vLLM 0.32 does so with the continuation of a prefix, where the answer is not streamed: a parser that finds no end of
    a thought takes all for one, though the prefix had begun the answer. None: nothing is misplaced.

    Example:
        >>> restore_content(b'{"choices": [{"message": {"content": null, "reasoning": " 7"}}]}')
        b'{"choices": [{"message": {"content": " 7", "reasoning": null}}]}'
    """
    if b'"reasoning' not in body:
        return None
    try:
        answer = json.loads(body)
        messages = [choice["message"] for choice in answer["choices"]]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    moved = False
    for message in messages:
        if not isinstance(message, dict):
            continue
        name = next((name for name in ("reasoning", "reasoning_content") if message.get(name)), None)
        if name is not None and not message.get("content") and not message.get("tool_calls"):
            message["content"] = message[name]
            for other in ("reasoning", "reasoning_content"):
                if other in message:
                    message[other] = None
            moved = True
    return json.dumps(answer).encode() if moved else None
