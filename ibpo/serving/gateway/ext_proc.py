"""The budget inside Envoy: `ibpo serve --ext-proc` answers Envoy's calls of its external processing filter.

Envoy makes one gRPC call for each HTTP request, and sends what it sees of it in messages; for each it waits for one
answer, which may change headers and body. A governed request, from top to bottom:

    request_headers   -> who asks, for what (`access.py`); ask for the body, and for the answer as it comes
    request_body      -> decide and reserve (`decision.py`), write the body again, with its length
    response_headers  -> what the upstream said; whole (JSON) or piece by piece (a stream)?
    response_body ... -> read the usage; take it out again where the caller did not ask for it
    the call ends     -> settle or cancel, once

All others are one message: passed on or refused, as `ibpo serve` does. What must be known before anything is changed
(measured with Envoy 1.40; docs/how-to/envoy.md):

1. How a call ends says nothing: answers that came whole end in a cancelled call as often as those of a caller that
   left. Settlement follows what was seen: an end of the stream, trailers, `[DONE]`, a usage.
2. The call *is* the request. `x-request-id` is the caller's own if it sends one, and is no key.
3. A call that ends without an answer lets the request through as it was, whatever `failure_mode_allow` says; one that
   is aborted follows that setting. So an error aborts.
4. A body that is changed needs its `content-length` changed in the same answer, or Envoy answers 500.
5. Answers that Envoy makes itself (413, 503, 504) come here too, without `x-envoy-upstream-service-time`.
6. Retries are made below this filter: one call, whatever their number, so one reservation.
7. Each answer that is owed has a time limit (`message_timeout`, 200 ms by default: too short on a busy machine).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from multidict import CIMultiDict

from ibpo.errors import IbpoError
from ibpo.serving.gateway.access import Access, governed_api, plain_path, too_large
from ibpo.serving.gateway.decision import Decision, budget_headers, outcome_of_stream
from ibpo.serving.gateway.ext_proc_messages import ENUMS, SERVICE, ProcessingRequest, ProcessingResponse
from ibpo.serving.gateway.governor import Governor, continues_answer, read_or_refuse, restore_content
from ibpo.serving.gateway.openai_request import OWN_HEADERS, Api, Refusal, is_anthropics
from ibpo.serving.gateway.proxy import STREAM_BEGINS
from ibpo.serving.gateway.usage import read_cost

SEND = ENUMS["HeaderSendMode"]["SEND"]
NONE, STREAMED, BUFFERED = (ENUMS["BodySendMode"][name] for name in ("NONE", "STREAMED", "BUFFERED"))
OVERWRITE = ENUMS["HeaderAppendAction"]["OVERWRITE_IF_EXISTS_OR_ADD"]
FROM_UPSTREAM = "x-envoy-upstream-service-time"
ATTEMPTS = "upstream.request_attempt_count"
MAYBE_GENERATED = (408, 504)
"""Status of Envoy's own answers after which the model may have been at work all the same."""
ENVOYS = frozenset(["host", "content-length", "connection", "transfer-encoding", "te", "expect", "upgrade"])
"""Headers of one connection, which are Envoy's to write."""


@dataclass(kw_only=True, slots=True)
class _Call:
    """One HTTP request, as far as it has been seen."""

    path: str = ""
    api: Api | None = None
    tenant: str = ""
    caller: CIMultiDict[str] = field(default_factory=CIMultiDict)
    """The headers as they came."""
    sent: CIMultiDict[str] = field(default_factory=CIMultiDict)
    """Those that the upstream gets."""
    decision: Decision | None = None
    is_handed_over: bool = False
    """Whether Envoy has been given what was decided."""
    is_answer: bool = False
    """Whether the upstream has answered with a status of success."""
    is_stream: bool = False
    is_read: bool = False
    """Whether what it says can be read here."""
    whole: list[bytes] = field(default_factory=list)
    """An answer that is no stream, so far."""
    num_bytes: int = 0


class ExtProc:
    """Envoy's calls, answered by a gateway's own decisions.

    Args:
        governor: Decides, and books.
        access: The keys, and the places for requests in flight: one count for all doors of a process.
    """

    def __init__(self, governor: Governor, access: Access) -> None:
        self.governor, self.access = governor, access
        self.settings, self.limits, self.metrics = governor.settings, governor.settings.limits, governor.metrics

    async def process(self, messages: AsyncIterator[Any], context: Any) -> AsyncGenerator[Any, None]:
        """Answer the messages of one call, in turn; its reservation ends with it."""
        call, places = _Call(), ExitStack()
        try:
            async for message in messages:
                kind = message.WhichOneof("request")
                try:
                    answer = await self._answer(call, places, kind, message)
                except Refusal as refusal:
                    self.metrics.refused.labels(refusal.code).inc()
                    yield _refuse(refusal, call)
                    return
                yield answer
                # Only now has it been handed over: a call that is cancelled ends at the line before.
                call.is_handed_over |= call.decision is not None
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # No text of the error: it may hold what the caller wrote.
            self.metrics.failures.labels("internal").inc()
            self.governor.log.write("internal_error", kind=type(error).__name__, at="ext_proc")
            await context.abort(grpc.StatusCode.INTERNAL, "the gateway failed; its log says more")
        finally:
            places.close()
            self._end(call)

    async def _answer(self, call: _Call, places: ExitStack, kind: str | None, message: Any) -> Any:
        if kind == "request_headers":
            return self._begin(call, places, message.request_headers)
        if kind == "request_body":
            return await self._decide(call, message.request_body.body)
        if kind == "response_headers":
            return self._see_headers(call, message)
        if kind == "response_body":
            return self._see_body(call, message.response_body)
        answer = ProcessingResponse()
        if kind is not None:  # trailers
            getattr(answer, kind).SetInParent()
        if kind == "response_trailers":
            self._complete(call)
        return answer

    def _begin(self, call: _Call, places: ExitStack, message: Any) -> Any:
        """Who asks, and for what: a governed request, one that is passed on, or a refusal."""
        headers = _read_headers(message)
        call.caller = headers
        call.path = plain_path(headers.get(":path", ""))
        method, encoding = headers.get(":method", ""), headers.get("content-encoding", "")
        call.tenant = self.access.tenant_of(headers, call.path, method=method)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        call.api = governed_api(call.path, method, kind, encoding)
        if call.api is None and not self.settings.allows(method, call.path):
            raise Refusal(404, "not_allowed", "this gateway does not pass this path on; see allow in its settings")
        places.enter_context(self.access.in_flight(call.tenant))
        answer = ProcessingResponse()
        common = answer.request_headers.response
        call.sent = sent = self._sent_headers(call)
        common.header_mutation.remove_headers.extend(
            sorted({name.lower() for name in headers if name not in sent and not _is_envoys(name)})
        )
        _set_headers(common, {name: sent[name] for name in sent if sent.getall(name) != headers.getall(name, [])})
        if call.api is not None:
            if message.end_of_stream:
                raise Refusal(400, "bad_request", "the body is empty; send JSON")
            mode = answer.mode_override
            # Not yet of the answer's body: asked for at its headers, a JSON answer keeps its length.
            mode.request_body_mode, mode.response_header_mode, mode.response_trailer_mode = BUFFERED, SEND, SEND
        return answer

    def _sent_headers(self, call: _Call) -> CIMultiDict[str]:
        """The headers that the upstream gets, except those that are Envoy's to write."""
        headers = CIMultiDict((name, value) for name, value in call.caller.items() if not _is_envoys(name))
        upstream = self.governor.upstream
        anthropic = is_anthropics(call.path, headers)
        sent = upstream.headers_for(headers, governed=call.api is not None, anthropic=anthropic)
        # One that is not there says the same to any server, and Envoy's filters may add what they compress.
        sent.popall("accept-encoding", None)
        if call.api is None and "accept-encoding" in headers:
            sent["accept-encoding"] = headers["accept-encoding"]
        return sent

    async def _decide(self, call: _Call, body: bytes) -> Any:
        """Decide and reserve; the body says so from here on."""
        answer = ProcessingResponse()
        common = answer.request_body.response
        if call.api is None or call.decision is not None:
            return answer
        if len(body) > self.limits.max_body_bytes:
            raise too_large(self.limits.max_body_bytes)
        request = read_or_refuse(body, call.api)
        call.decision, written = await self.governor.begin(request, call.caller, call.sent, call.tenant)
        common.body_mutation.body = written
        _set_headers(common, {"content-length": str(len(written))})
        return answer

    def _see_headers(self, call: _Call, message: Any) -> Any:
        """What the upstream says, and how its answer is to come."""
        answer = ProcessingResponse()
        common = answer.response_headers.response
        decision = call.decision
        if decision is None:
            return answer
        headers, record = _read_headers(message.response_headers), decision.record
        status = int(headers.get(":status", "0") or 0)
        record.status, record.retries = status, max(0, _num_attempts(message) - 1)
        call.is_answer = 200 <= status < 300
        added = budget_headers(record)
        common.header_mutation.remove_headers.extend(
            sorted({name for name in headers if name.startswith(OWN_HEADERS) and name not in added})
        )
        mode = answer.mode_override
        mode.response_header_mode, mode.response_trailer_mode = SEND, SEND
        if not call.is_answer:
            # Before its answer came an upstream may have worked for as long as Envoy waited.
            record.outcome = "cut" if FROM_UPSTREAM not in headers and status in MAYBE_GENERATED else "failed"
            if record.retries:
                added["x-should-retry"] = "false"  # it has been: the caller's client need not multiply that
            mode.response_body_mode = NONE
            _set_headers(common, added)
            return answer
        self.metrics.count_first_byte(record)
        _set_headers(common, added)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        call.is_stream = kind == "text/event-stream"
        call.is_read = headers.get("content-encoding", "").strip().lower() in ("", "identity")
        if not call.is_read:
            self.metrics.failures.labels("encoding").inc()
        length = headers.get("content-length", "")
        is_short = length.isdecimal() and int(length) <= self.limits.max_buffered_bytes
        mode.response_body_mode = BUFFERED if is_short and not call.is_stream else STREAMED
        if message.response_headers.end_of_stream:
            self._complete(call)
        return answer

    def _see_body(self, call: _Call, message: Any) -> Any:
        """A piece of the answer, or all of it: what it says of its cost, and what goes on of it."""
        answer = ProcessingResponse()
        common, decision, piece = answer.response_body.response, call.decision, message.body
        if decision is None or not call.is_answer:
            answer.response_body.SetInParent()
            return answer
        answer.response_body.SetInParent()
        is_first, call.num_bytes = not call.num_bytes, call.num_bytes + len(piece)
        if is_first and piece.startswith(STREAM_BEGINS):
            call.is_stream = True  # whatever it is called
        if not call.is_read:
            pass
        elif call.is_stream:
            shown = decision.usage.feed(piece)
            if message.end_of_stream:
                shown += decision.usage.end()
            if shown != piece:
                _set_body(common, shown)
        elif call.num_bytes <= self.limits.max_buffered_bytes:
            call.whole.append(piece)
            if is_first and message.end_of_stream and continues_answer(decision.request, decision.group):
                restored = restore_content(piece)
                if restored is not None:
                    self.metrics.failures.labels("misplaced").inc()
                    _set_body(common, restored)
                    _set_headers(common, {"content-length": str(len(restored))})
        if message.end_of_stream:
            self._complete(call)
        return answer

    def _complete(self, call: _Call) -> None:
        """The answer has come to its end."""
        decision = call.decision
        if decision is None or not call.is_answer or decision.record.outcome != "disconnected":
            return
        record, decision.record.outcome = decision.record, "answered"
        if not call.is_read:
            record.is_unread = True
        elif call.is_stream:
            decision.usage.end()
            record.outcome = outcome_of_stream(decision.usage)
        elif call.num_bytes > self.limits.max_buffered_bytes:
            record.is_unread = True
        else:
            self.governor.read_cost(decision, read_cost(b"".join(call.whole)))
        call.whole.clear()

    def _end(self, call: _Call) -> None:
        """Settle or cancel, by what was seen.

        Without the headers of an answer nobody can say whether the caller left while the upstream was at work, or
        Envoy went on without this service: settled at what was expected, or whoever hangs up early would pay nothing.
        """
        decision = call.decision
        if decision is None:
            return
        if not call.is_handed_over:
            # It goes on as it came, or not at all; in no case as decided.
            decision.record.outcome = "failed"
            self.metrics.failures.labels("ext_proc").inc()
        elif call.is_stream and decision.usage.finished:
            self._complete(call)
        elif call.whole:  # complete all the same, perhaps
            self.governor.read_cost(decision, read_cost(b"".join(call.whole)))
        self.governor.end(decision)


@asynccontextmanager
async def serving_ext_proc(
    governor: Governor, access: Access, address: str, *, reuse_port: bool = False
) -> AsyncIterator[str]:
    """A gRPC server for Envoy as long as the block runs; then calls that are open come to their end.

    Args:
        governor: Decides.
        access: Access of the process.
        address: `HOST:PORT` (port 0: any free one) or `unix:PATH`.
        reuse_port: Share the port with other processes.

    Yields:
        The address, with its port.

    Raises:
        IbpoError: It is taken.
    """
    # No limit of gRPC's own (4 MiB): a message above it fails the call, and where calls may fail, a caller would get
    # past the budget by a long body. Envoy's limit on what it holds back is the one that counts.
    options = {"grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1}
    server = grpc.aio.server(options=[*options.items(), ("grpc.so_reuseport", int(reuse_port))])
    handler = grpc.stream_stream_rpc_method_handler(
        ExtProc(governor, access).process,
        request_deserializer=ProcessingRequest.FromString,
        response_serializer=ProcessingResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Process": handler}),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise IbpoError(f"--ext-proc {address}: cannot listen there; give another HOST:PORT or unix:PATH") from None
    await server.start()
    try:
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    finally:
        access.draining = True
        await server.stop(governor.settings.limits.drain_seconds)


def _is_envoys(name: str) -> bool:
    return name.startswith((":", "x-envoy-")) or name.lower() in ENVOYS


def _read_headers(message: Any) -> CIMultiDict[str]:
    """The headers of a message. Bytes that are no UTF-8 stay what they are, as in aiohttp."""
    return CIMultiDict(
        (row.key, row.raw_value.decode("utf-8", "surrogateescape") if row.raw_value else row.value)
        for row in message.headers.headers
    )


def _set_headers(common: Any, headers: Any) -> None:
    for name, value in headers.items():
        row = common.header_mutation.set_headers.add(append_action=OVERWRITE)
        row.header.key, row.header.raw_value = name.lower(), value.encode("utf-8", "surrogateescape")


def _set_body(common: Any, body: bytes) -> None:
    if body:
        common.body_mutation.body = body
    else:
        common.body_mutation.clear_body = True


def _num_attempts(message: Any) -> int:
    """How often the upstream was asked, where Envoy's `response_attributes` say so."""
    for table in message.attributes.values():
        if ATTEMPTS in table.fields:
            return int(table.fields[ATTEMPTS].number_value)
    return 1


def _refuse(refusal: Refusal, call: _Call) -> Any:
    """An error that Envoy sends in the place of the upstream's answer."""
    answer = ProcessingResponse()
    immediate = answer.immediate_response
    immediate.status.code = refusal.status
    immediate.body = refusal.body(anthropic=is_anthropics(call.path, call.caller))
    immediate.details = f"ibpo_{refusal.code}"
    for name, value in {"content-type": "application/json", **refusal.headers}.items():
        row = immediate.headers.set_headers.add(append_action=OVERWRITE)
        row.header.key, row.header.raw_value = name.lower(), value.encode()
    return answer
