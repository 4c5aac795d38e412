"""What did a response cost? Read off an answer while it passes: the reported usage, else an estimate by the text.

Servers disagree on where they report what. Completion tokens are what is left of the total without the prompt, since
some leave the reasoning out of `completion_tokens`; counts only grow, since some end with zeros; and a usage may stand
in `usage`, in a choice, or in the message or response that an event holds. Streams are read by the HTML standard,
section 9.2 (server-sent events).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from ibpo.usage import as_count, read_tokens

EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
"""An empty line, whatever ends it and the line before; never inside a CR LF."""
LINE_END = re.compile(rb"\r\n|\n|\r")
MAX_EVENT_BYTES = 1 << 20
"""Bytes. If an event is longer, e.g. with a picture, only the first `KEPT_HEAD` and the last `KEPT_LAST` are kept."""
KEPT_HEAD, KEPT_LAST = 1 << 12, 1 << 16
TOKEN_BYTES = 16
"""A piece of text of no more bytes is taken for one token; of a longer one, four bytes are."""
TELLING = (b'"error"', b"[DONE]", b'"timings"', b"event: error", b"event:error", b'"message_stop"', b'"x_groq"')
"""Marks of events that are read as JSON, besides those with a usage: to read all would cost as much as the rest of a
stream."""
USAGE = re.compile(rb'"usage"\s*+:\s*+(?!null)')
"""Inside a JSON string the quotes are escaped, so a text that says "usage" does not match."""
TEXT = re.compile(
    rb'"(content|text|reasoning_content|reasoning|thinking|arguments|partial_json|refusal|delta)"\s*:\s*'
    rb'"((?:[^"\\]|\\.)*)"'
)
"""A piece of text, key and value."""
TYPE = re.compile(rb'"type"\s*+:\s*+"([^"]*)"')
RESPONSE_ID = re.compile(rb'"id"\s*+:\s*+"(resp[^"]*)"')
THINKING_TEXT = (b"reasoning_content", b"reasoning", b"thinking")
MAX_UNREAD_BYTES = 1 << 16
MAX_ID = 256
MAX_USAGES = 4
"""Most usages that are read of a stream; servers that send one with every piece repeat the prompt's."""
NO_TEXT = frozenset(
    [
        *("role", "id", "call_id", "tool_call_id", "item_id", "type", "object", "status", "index", "model", "usage"),
        *("finish_reason", "stop_reason", "native_finish_reason", "logprobs", "signature", "encrypted_content"),
        *("token_ids", "prompt_token_ids", "annotations", "content_filter_results", "error"),
        *("provider_specific_fields", "thinking_blocks"),  # LiteLLM repeats in them what is next to them
    ]
)
"""Keys of an answer whose strings the model has not written."""
BARE = frozenset(["id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "provider"])
"""Keys that say nothing where an event has no choices."""


class AnswerCost(NamedTuple):
    """What an answer, or an event of a stream, says about its cost."""

    tokens: int | None = None
    """Completion tokens by its usage; None: there is none."""
    text_tokens: int = 0
    """An estimate by the text that it holds, where there is no usage."""
    failed: bool = False
    """Whether it is an error, whatever its HTTP status."""
    reasoning: int = 0
    """The thinking's part of the tokens, as far as it is reported."""
    usages: tuple[dict[str, Any], ...] = ()
    """The usages themselves, for what they say of the prompt."""
    response_id: str = ""
    """By which the next turn may name this one (`previous_response_id`)."""


def read_cost(body: bytes) -> AnswerCost:
    """The cost of an answer without streaming.

    Example:
        >>> read_cost(b'{"error": {"message": "overloaded"}}').failed
        True
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return AnswerCost()
    return cost_of(answer) if isinstance(answer, dict) else AnswerCost()


class StreamUsage:
    r"""Passes the events of a stream on, and remembers what they say about its cost.

    A stream may report its usage several times, each time for all of the answer so far: the largest counts, and the
    text that came after it.

    Args:
        strip: Take the usage out again: the gateway asked for it, the caller did not. An event that holds nothing else
            is dropped.

    Example:
        >>> usage = StreamUsage(strip=True)
        >>> usage.feed(b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: {"choices":[],"us')
        b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
        >>> usage.feed(b'age":{"completion_tokens":1}}\n\ndata: [DONE]\n\n'), usage.tokens, usage.finished
        (b'data: [DONE]\n\n', 1, True)
    """

    def __init__(self, *, strip: bool) -> None:
        self.tokens: int | None = None
        """By the largest usage; None: there was none."""
        self.finished = False
        """Whether the stream said that it ended: `[DONE]`, or the last event of its API."""
        self.failed = False
        """Whether there was an error in it."""
        self.reasoning = 0
        """Tokens of the thinking, by the usage."""
        self.on_progress: Callable[[int], None] | None = None
        """Called with the tokens so far, every `MAX_UNREAD_BYTES`."""
        self.next_progress = 0.0
        """From how many tokens on it is worth while."""
        self.response_id = ""
        """By which the next turn may name this one."""
        self.usages: list[dict[str, Any]] = []
        """The usages that came, the last few."""
        self.saw_thinking = False
        """Whether there was a text of it; known once `text_tokens` has been asked for."""
        self._strip = strip
        self._tail = b""
        self._is_start = False  # the largest usage is that of Anthropic's first event: nothing had been generated
        self._head, self._last, self._num_long = b"", b"", 0  # of an event that is too long to be kept
        self._begun = False
        self._text_tokens = 0
        self._unread: list[bytes] = []
        self._unread_bytes = 0

    @property
    def text_tokens(self) -> int:
        """An estimate of what came after the largest usage, or of all."""
        if self._unread:
            pieces = TEXT.findall(b"\n".join(self._unread))
            self._unread, self._unread_bytes = [], 0
            last = (b"", b"")
            self.saw_thinking |= any(text and key in THINKING_TEXT for key, text in pieces)
            for key, text in pieces:
                if text == last[1] and key != last[0]:  # some servers say one thing under two names
                    last = (b"", b"")
                    continue
                self._text_tokens += _count_tokens(len(text) - 3 * text.count(b"\\u"))
                last = (key, text)
        return self._text_tokens

    @property
    def is_counted(self) -> bool:
        """Whether a usage has come for all that came, not that of Anthropic's first event alone."""
        return self.tokens is not None and not self._is_start and not self.text_tokens

    @property
    def total(self) -> int | None:
        """Completion tokens so far, reported or estimated; None: nothing is known."""
        if self.tokens is None:
            return self.text_tokens or None
        return self.tokens + self.text_tokens

    def feed(self, data: bytes) -> bytes:
        """Take bytes in; return what to pass on: whole events, as they came."""
        passed: list[bytes] = []
        if self._head:
            through = self._skim(data)
            if through == len(data):
                return data
            passed.append(data[:through])
            data = data[through:]
        data = self._tail + data
        start = 0
        self._begun |= not data.startswith(b"\xef")  # of a byte order mark
        if self._begun:
            # Nearly all events are pieces of text: they are passed on together.
            start = data.rfind(b"\n\n", 0, _find_telling(data)) + 2
            if start == 1 or b"\r" in data:
                start = 0
            elif start == len(data):
                self._tail = b""
                self._keep(data)
                return b"".join([*passed, data])
            else:
                passed.append(data[:start])
                self._keep(data[:start])
        for match in EVENT_END.finditer(data, start):
            passed.append(self._read(data[start : match.end()]))
            start = match.end()
        self._tail = data[start:]
        if len(self._tail) > MAX_EVENT_BYTES:
            passed.append(self._tail)
            self._head, self._last, self._num_long = self._tail[:KEPT_HEAD], self._tail[-KEPT_LAST:], len(self._tail)
            self._tail = b""
        return b"".join(passed)

    def _skim(self, data: bytes) -> int:
        """Go on with a long event; returns how many bytes of these are its own."""
        known = self._last + data
        end = EVENT_END.search(known, max(0, len(self._last) - 3))
        if end is None:
            self._last, self._num_long = known[-KEPT_LAST:], self._num_long + len(data)
            return len(data)
        through = end.end() - len(self._last)
        self._last, self._num_long = known[: end.start()], self._num_long + through
        self._end_long()
        return through

    def _end_long(self) -> None:
        """Note what a long event says of its cost: its usage is near its end."""
        head, last, size = self._head, self._last, self._num_long
        self._head, self._last, self._num_long = b"", b"", 0
        found, name = TYPE.search(head), RESPONSE_ID.search(head)
        kind = found[1].decode("utf-8", "replace") if found else ""
        answer: dict[str, Any] = {"usage": None}
        for match in USAGE.finditer(last):
            with suppress(ValueError, RecursionError):
                answer["usage"] = json.JSONDecoder().raw_decode(last[match.end() :].decode("utf-8", "replace"))[0]
        if kind.startswith("response."):
            answer = {"type": kind, "response": {**answer, "id": name[1].decode("utf-8", "replace") if name else ""}}
        elif answer["usage"] is None:
            self._text_tokens += _count_tokens(size)
        self.take(answer)

    def take(self, answer: dict[str, Any]) -> None:
        """Note what an event says that has been read already."""
        cost = cost_of(answer)
        self.failed |= cost.failed
        self.finished |= answer.get("type") in ("message_stop", "response.completed", "response.incomplete")
        self._text_tokens += cost.text_tokens
        self.reasoning = max(self.reasoning, cost.reasoning)
        self.response_id = cost.response_id or self.response_id
        if cost.usages:
            # Anthropic reports the prompt in the first event, others in the last.
            self.usages = [*self.usages[:MAX_USAGES], *cost.usages]
        # The last of several may be zeros.
        tokens = cost.tokens
        if tokens is not None and tokens >= (self.tokens or 0) and (tokens > 0 or not self.text_tokens):
            self.tokens, self._text_tokens, self._unread, self._unread_bytes = tokens, 0, [], 0
            self._is_start = answer.get("type") == "message_start"

    def end(self) -> bytes:
        """What is left when the stream has ended."""
        if self._head:
            self._end_long()
        tail, self._tail = self._tail, b""
        return self._read(tail) if tail else b""

    def _keep(self, events: bytes) -> None:
        """Keep events, to be read for their text when that is asked for."""
        self._unread.append(events)
        self._unread_bytes += len(events)
        if self._unread_bytes > MAX_UNREAD_BYTES:
            _ = self.text_tokens
            if self.on_progress is not None:
                self.on_progress(self.total or 0)

    def _read(self, event: bytes) -> bytes:
        """Note what an event says; return what to pass on of it."""
        shown = event if self._begun else event.removeprefix(b"\xef\xbb\xbf")
        self._begun = True
        if _find_telling(shown) == len(shown):
            self._keep(shown)
            return event
        kind, data = _read_event(shown)
        if data.strip() == b"[DONE]":
            self.finished = True
            return event
        try:
            answer = json.loads(data) if data else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self.failed |= kind == b"error"
            return event
        self.failed |= kind == b"error"
        self.take(answer)
        if self._strip and not answer.get("choices") and isinstance(answer.get("usage"), dict):
            return _without_usage(event, answer)
        return event


def _find_telling(events: bytes) -> int:
    """Where events of a stream first say more than a piece of text may; their length, if nowhere."""
    found = [place for mark in TELLING if (place := events.find(mark)) >= 0]
    if b'"usage"' in events and (match := USAGE.search(events)):  # null in every event of some servers
        found.append(match.start())
    if b'"response.' in events and events.count(b'.delta"') < events.count(b"data:"):
        return 0
    return min(found, default=len(events))


def cost_of(answer: dict[str, Any]) -> AnswerCost:
    """What an answer, or the event of a stream, says about its cost."""
    kind, inner = answer.get("type"), answer.get("response") or answer.get("message")
    inner = inner if isinstance(inner, dict) else {}
    choices = answer.get("choices")
    choices = [row for row in choices if isinstance(row, dict)] if isinstance(choices, list) else []
    counts: list[int | None] = []
    usages: list[dict[str, Any]] = []
    reasoning = 0
    for place in (answer, inner, answer.get("x_groq")):
        if isinstance(place, dict) and "usage" in place:
            tokens, thinking = read_tokens(place["usage"])
            if isinstance(place["usage"], dict):
                usages.append(place["usage"])
            counts.append(tokens)
            reasoning = max(reasoning, thinking or 0)
    failed = bool(answer.get("error") or inner.get("error")) or kind in ("error", "response.failed")
    failed |= answer.get("object") == "error"
    in_choices = 0
    for row in choices:
        failed |= bool(row.get("error"))
        if "usage" in row:
            in_choices += read_tokens(row["usage"])[0] or 0
            if isinstance(row["usage"], dict):
                usages.append(row["usage"])
    counts.append(in_choices or None)
    timings = answer.get("timings")
    if isinstance(timings, dict):  # llama.cpp
        counts.append(as_count(timings.get("predicted_n")))
    tokens = max((count for count in counts if count is not None), default=None)
    name = (inner if isinstance(kind, str) and kind.startswith("response.") else answer).get("id")
    name = name if isinstance(name, str) and len(name) <= MAX_ID else ""
    if tokens:  # the text need not be looked at
        return AnswerCost(tokens, 0, failed, reasoning, tuple(usages), name)
    if isinstance(kind, str) and kind.startswith("response."):
        pieces = [answer.get("delta")] if kind.endswith(".delta") else []  # other events repeat what these say
    elif kind == "content_block_delta":
        pieces = [answer.get("delta")]
    else:
        pieces = choices or [answer.get("output"), answer.get("content")]
    text = sum(_count_tokens(_text_bytes(piece)) for piece in pieces)
    return AnswerCost(tokens, text, failed, reasoning, tuple(usages), name)


def _count_tokens(num_bytes: int) -> int:
    return int(num_bytes > 0) if num_bytes <= TOKEN_BYTES else round(num_bytes / 4)


def _text_bytes(value: Any) -> int:
    """Bytes of the text that the model has written."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, dict):
        return sum(_text_bytes(inner) for key, inner in value.items() if key not in NO_TEXT)
    return sum(map(_text_bytes, value)) if isinstance(value, list) else 0


def _read_event(event: bytes) -> tuple[bytes, bytes]:
    """The type of an event, and its data."""
    kind, data = b"", []
    for line in LINE_END.split(event):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value
    return kind, b"\n".join(data)


def _without_usage(event: bytes, answer: dict[str, Any]) -> bytes:
    """The event without its usage; nothing, if that was all that it held."""
    rest = {key: value for key, value in answer.items() if key != "usage"}
    if not any(value not in (None, [], {}, "") for key, value in rest.items() if key not in BARE):
        return b""
    kept = [line for line in LINE_END.split(event) if line and not line.startswith(b"data")]
    return b"\n".join([*kept, b"data: " + json.dumps(rest).encode()]) + b"\n\n"
