"""What did a response cost? The usage is read off the bytes of an answer while they pass; none of them is changed."""

from __future__ import annotations

import json
import re
from typing import Any

USAGE = re.compile(rb'"usage"\s*:\s*\{')
"""Inside a JSON string the quotes are escaped, so a text that says "usage" does not match."""
EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
MAX_EVENT_BYTES = 1 << 20
MAX_TOKENS = 1 << 31


def read_completion_tokens(usage: Any) -> int | None:
    """The completion's tokens of a `usage` object; None where it does not say.

    Example:
        >>> read_completion_tokens({"completion_tokens": 7}), read_completion_tokens({"completion_tokens": "7"})
        (7, None)
    """
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    whole = isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_TOKENS
    return count if whole else None


def read_usage(body: bytes) -> int | None:
    """The completion's tokens of an answer without streaming."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return read_completion_tokens(answer.get("usage")) if isinstance(answer, dict) else None


class StreamUsage:
    r"""Passes the events of a stream on, and remembers what they say about its cost.

    A stream may report its usage several times, each time for all of the answer so far: the last one counts.

    Args:
        strip: Remove the event that holds nothing but the usage: the gateway asked for it, the caller did not.

    Example:
        >>> usage = StreamUsage(strip=True)
        >>> usage.feed(b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: {"choices":[],"us')
        b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
        >>> usage.feed(b'age":{"completion_tokens":1}}\n\ndata: [DONE]\n\n'), usage.tokens, usage.finished
        (b'data: [DONE]\n\n', 1, True)
    """

    def __init__(self, *, strip: bool) -> None:
        self.tokens: int | None = None
        """By the last usage; None: there was none."""
        self.num_events = 0
        """Events with a piece of a completion: about one token each."""
        self.finished = False
        """Whether the stream ended with `[DONE]`."""
        self._strip = strip
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes in; returns what is to be passed on: whole events, as they came."""
        data = self._tail + data
        start = 0
        passed: list[bytes] = []
        for match in EVENT_END.finditer(data):
            event = data[start : match.end()]
            start = match.end()
            if self._read(event):
                passed.append(event)
        self._tail = data[start:]
        if len(self._tail) > MAX_EVENT_BYTES:
            passed.append(self._tail)
            self._tail = b""
        return b"".join(passed)

    def end(self) -> bytes:
        """What is left when the stream has ended."""
        tail, self._tail = self._tail, b""
        return tail if tail and self._read(tail) else b""

    def _read(self, event: bytes) -> bool:
        """Note what an event says; returns whether it is to be passed on."""
        if USAGE.search(event):
            answer = _payload(event)
            if answer is not None:
                tokens = read_completion_tokens(answer.get("usage"))
                self.tokens = self.tokens if tokens is None else tokens
                if not answer.get("choices"):
                    return not self._strip
        elif b"[DONE]" in event and event.strip() == b"data: [DONE]":
            self.finished = True
            return True
        self.num_events += b'"choices"' in event
        return True


def _payload(event: bytes) -> dict[str, Any] | None:
    """The JSON object of an event's data lines."""
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    try:
        answer = json.loads(b"\n".join(lines))
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
