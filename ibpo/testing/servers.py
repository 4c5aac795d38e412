"""A real server on loopback that speaks OpenAI's protocol, answers by a fake policy, and fails when you say so."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from ibpo.errors import IbpoError
from ibpo.testing.clock import Clock
from ibpo.testing.policy import FakeAnswer, FakePolicy, num_prompt_tokens

PIECES = 8
"""Pieces of a stream, besides its beginning and end."""
LOW, HIGH = ("none", "minimal", "low", "off"), ("high", "xhigh", "max", "on")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """How an answer goes wrong.

    Args:
        status: Answer with this status, e.g. 429 or 500, and an error as OpenAI words it.
        retry_after: The header of that name, in seconds.
        seconds: Wait so long first: by the clock of `upstream`, else really.
        cut: Break the connection: "before" a byte is sent, or in the "middle" of the answer.
        malformed: Answer 200 with what is no JSON.
        message: Message of the error.
    """

    status: int = 200
    retry_after: float | None = None
    seconds: float = 0.0
    cut: Literal["", "before", "middle"] = ""
    malformed: bool = False
    message: str = "made up by ibpo.testing"

    def __post_init__(self) -> None:
        if not isinstance(self.status, int) or not 200 <= self.status < 600:
            raise IbpoError(f"Fault: status is {self.status!r}; give one from 200 to 599, e.g. 429")
        if not self.seconds >= 0:
            raise IbpoError(f"Fault: seconds is {self.seconds!r}; it must be at least 0")


@dataclass(kw_only=True)
class FakeUpstream:
    """A server that runs, and what it has seen."""

    url: str = ""
    """The base URL, which ends in /v1."""
    policy: FakePolicy
    clock: Clock | None = None
    group_of: Callable[[Mapping[str, Any]], str] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Bodies of the requests, in order."""
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """Their headers, with names in small letters."""
    answers: list[FakeAnswer] = field(default_factory=list[FakeAnswer])
    """What was answered, faults apart."""
    usage: bool = True
    """Whether answers say how many tokens they took."""
    _faults: list[tuple[Fault, list[int]]] = field(default_factory=list[tuple[Fault, list[int]]], repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)
    _numbers: dict[str, int] = field(default_factory=dict[str, int], repr=False)
    _closed: bool = False

    def fail(self, status: int = 500, *, times: int | None = 1, **fault: Any) -> None:
        """Let the next requests go wrong; what is said first comes first.

        Args:
            status: Answered with; 200 where only the other fields of `Fault` matter.
            times: How many requests; None: all until `recover`.
            **fault: Further fields of `Fault`.

        Example:
            >>> with upstream() as server:
            ...     server.fail(429, retry_after=1)
            ...     server.fail(200, cut="middle", times=2)
        """
        if times is not None and times < 1:
            raise IbpoError(f"fail: times is {times!r}; give 1 or more, or None for all")
        known = [one.name for one in fields(Fault)]
        if unknown := set(fault) - set(known):
            raise IbpoError(f"fail: no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        with self._lock:
            self._faults.append((Fault(status=status, **fault), [-1 if times is None else times]))

    def recover(self) -> None:
        """Let no further request go wrong."""
        with self._lock:
            self._faults.clear()

    def asked_for(self, body: Mapping[str, Any]) -> str:
        """The response group that a request asks for; "": the policy chooses."""
        if self.group_of is not None:
            return self.group_of(body)
        names = self.policy.groups
        options = {**(body.get("chat_template_kwargs") or {})}
        for source in (body, options):
            effort = source.get("reasoning_effort")
            if effort in names:
                return str(effort)
            if effort in LOW:
                return names[0]
            if effort in HIGH:
                return names[-1]
        for switch in ("enable_thinking", "thinking"):
            if isinstance(options.get(switch), bool):
                return names[-1] if options[switch] else names[0]
        prompt = _prompt(body)
        for group in sorted(self.policy.response_groups, key=lambda group: -len(group.prefix)):
            if group.prefix and prompt.endswith(group.prefix):
                return group.name
        return ""

    def _take(self, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[Fault | None, int]:
        with self._lock:
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            key = json.dumps([_prompt(body), self.asked_for(body)])
            number = self._numbers[key] = self._numbers.get(key, -1) + 1
            if not self._faults:
                return None, number
            fault, left = self._faults[0]
            left[0] -= 1
            if not left[0]:
                del self._faults[0]
            return fault, number

    def _wait(self, seconds: float) -> None:
        if self.clock is not None:
            self.clock.wait(seconds, lambda: self._closed)
        else:
            end = time.monotonic() + seconds
            while not self._closed and time.monotonic() < end:
                time.sleep(min(0.01, max(end - time.monotonic(), 0)))


@contextmanager
def upstream(
    policy: FakePolicy | None = None,
    *,
    clock: Clock | None = None,
    group_of: Callable[[Mapping[str, Any]], str] | None = None,
    port: int = 0,
) -> Iterator[FakeUpstream]:
    """A server that answers `/v1/chat/completions`, `/v1/completions` and `/v1/models` while the block runs.

    It listens on the loopback, and needs no package beside ibpo. Streams, `n`, `max_tokens` and usage
    are as OpenAI has them. The same question asked again is the next of its answers, from 0, as after a restart.

    Args:
        policy: `FakePolicy()` by default; with your `problems` it knows their answers.
        clock: By which `Fault.seconds` pass; None: really.
        group_of: Body of a request -> name of the response group that it asks for, or "": the policy chooses. By
            default told by `reasoning_effort`, `enable_thinking` of the chat template, or the prefix that the prompt
            ends with.
        port: 0: any free one.

    Example:
        >>> import json, urllib.request
        >>> body = {"model": "m", "messages": [{"role": "user", "content": "2 + 2?"}], "reasoning_effort": "high"}
        >>> with upstream(
        ...     FakePolicy(tokens={"low": 5, "high": 70}, accuracy={"low": 0, "high": 1}, spread=0)
        ... ) as server:
        ...     request = urllib.request.Request(f"{server.url}/chat/completions", json.dumps(body).encode())
        ...     answer = json.load(urllib.request.urlopen(request))
        >>> answer["usage"]["completion_tokens"], len(server.requests)
        (70, 1)
    """
    state = FakeUpstream(policy=FakePolicy() if policy is None else policy, clock=clock, group_of=group_of)

    class Handler(_Handler):
        upstream = state

    server = _Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        state._closed = True  # pyright: ignore[reportPrivateUsage]
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that hang up are none."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    upstream: FakeUpstream
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.rstrip("/") != "/v1/models":
            return self._send(404, _error("no such path", 404))
        model = {"id": "fake", "object": "model", "created": 0, "owned_by": "ibpo"}
        return self._send(200, {"object": "list", "data": [model]})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path not in ("/v1/chat/completions", "/v1/completions"):
            return self._send(404, _error("no such path", 404))
        try:
            body = json.loads(data)
            is_chat = path == "/v1/chat/completions"
            assert isinstance(body, dict) and ("messages" in body) == is_chat
        except (ValueError, AssertionError):
            return self._send(400, _error("the body is no request of this path", 400))
        fault, number = self.upstream._take(body, dict(self.headers.items()))  # pyright: ignore[reportPrivateUsage]
        if fault is not None:
            self.upstream._wait(fault.seconds)  # pyright: ignore[reportPrivateUsage]
            if fault.cut == "before":
                return self._break()
            if fault.status >= 300:
                after = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
                return self._send(fault.status, _error(fault.message, fault.status), after)
            if fault.malformed:
                return self._send(200, b'{"choices": [{"mess')
        cut = fault is not None and fault.cut == "middle"
        try:
            answers = self._answers(body, number)
        except IbpoError as error:
            return self._send(400, _error(str(error), 400))
        if not cut:
            self.upstream.answers.extend(answers)
        return (self._stream if body.get("stream") else self._whole)(body, answers, number, is_chat, cut)

    def _answers(self, body: Mapping[str, Any], number: int) -> list[FakeAnswer]:
        policy, group = self.upstream.policy, self.upstream.asked_for(body)
        limits = [body.get(name) for name in ("max_completion_tokens", "max_tokens")]
        limit = min((limit for limit in limits if isinstance(limit, int)), default=None)
        problem = policy.find(_prompt(body))
        num = body.get("n") or 1
        return [policy.answer(problem, group, number * num + i, max_tokens=limit) for i in range(num)]

    def _head(self, body: Mapping[str, Any], number: int, kind: str) -> dict[str, Any]:
        return {"id": f"fake-{number}", "object": kind, "created": 0, "model": body.get("model", "fake")}

    def _whole(self, body: Mapping[str, Any], answers: list[FakeAnswer], number: int, is_chat: bool, cut: bool) -> None:
        choices = [
            {
                "index": i,
                "finish_reason": one.finish_reason,
                "logprobs": None,
                **({"message": {"role": "assistant", "content": one.text}} if is_chat else {"text": one.text}),
            }
            for i, one in enumerate(answers)
        ]
        reply = self._head(body, number, "chat.completion" if is_chat else "text_completion") | {"choices": choices}
        if self.upstream.usage:
            reply["usage"] = _usage(body, answers)
        if not cut:
            return self._send(200, reply)
        data = json.dumps(reply).encode()
        self._begin(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        self.wfile.write(data[: len(data) // 2])
        return self._break()

    def _stream(
        self, body: Mapping[str, Any], answers: list[FakeAnswer], number: int, is_chat: bool, cut: bool
    ) -> None:
        self._begin(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        head = self._head(body, number, "chat.completion.chunk" if is_chat else "text_completion")
        for i, one in enumerate(answers):
            words = one.text.split(" ")
            size = max(1, -(-len(words) // PIECES))
            for at in range(0, len(words), size):
                piece = " ".join(words[at : at + size]) + " " * (at + size < len(words))
                said = {"delta": {"content": piece}} if is_chat else {"text": piece}
                self._event({**head, "choices": [{"index": i, "finish_reason": None, **said}]})
                if cut and at + size >= len(words) // 2:
                    return self._break()
            end = {"delta": {}} if is_chat else {"text": ""}
            self._event({**head, "choices": [{"index": i, "finish_reason": one.finish_reason, **end}]})
        if self.upstream.usage and (body.get("stream_options") or {}).get("include_usage"):
            self._event({**head, "choices": [], "usage": _usage(body, answers)})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, data: Mapping[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(data).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, reply: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None) -> None:
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self._begin(status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def _break(self) -> None:
        """As when a machine dies: the connection is reset, not closed."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a test's output is the test's."""


def _prompt(body: Mapping[str, Any]) -> str:
    """The last message, or the prompt, as text."""
    given = body["messages"][-1].get("content") if body.get("messages") else body.get("prompt")
    if isinstance(given, list):
        return " ".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in given)  # pyright: ignore
    return str(given or "")


def _usage(body: Mapping[str, Any], answers: list[FakeAnswer]) -> dict[str, int]:
    prompt = num_prompt_tokens(body.get("messages") or _prompt(body))
    completion = sum(answer.tokens for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _error(message: str, status: int) -> dict[str, Any]:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
