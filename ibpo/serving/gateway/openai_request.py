"""OpenAI's protocol: what a request asks for, how a response group is set in it, and how a request is refused.

`max_tokens_of` and `write_body` belong together: the first says what one answer may cost at most, which is reserved;
the second writes what the upstream is allowed. The bound on the budget holds only while the second allows no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ibpo.errors import IbpoError
from ibpo.serving.gateway.settings import GroupSettings, LimitSettings, ModelSettings

CAPS = ("max_completion_tokens", "max_tokens")
COMPLETIONS_CAP = 16
"""Cap of `/v1/completions` where a request gives none, by the protocol."""
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenAIRequest:
    """A request to `/v1/chat/completions` or `/v1/completions`."""

    chat: bool
    body: Json
    model: str
    stream: bool
    wants_usage: bool
    """Whether the caller asked the stream for its usage."""
    num_answers: int
    """Completions that are generated: n or best_of, times the number of prompts."""


class Refusal(Exception):
    """A request that the gateway answers itself, with an error in the shape of OpenAI's.

    Args:
        status: HTTP status.
        code: A short name for programs.
        message: One line for people; never the caller's own text.
        headers: Added to the answer.
        close: Close the connection after it: whatever the caller still sends is of no use.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, *, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers, self.close = status, code, message, headers or {}, close

    def body(self) -> bytes:
        """The error as JSON."""
        kind = "invalid_request_error" if self.status < 500 else "gateway_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()


def read_request(data: bytes, *, chat: bool) -> OpenAIRequest:
    """Parse the body of a request, as far as the gateway has to know it; the upstream checks the rest.

    Raises:
        IbpoError: Not a JSON object in UTF-8, or a field of a wrong kind.

    Example:
        >>> request = read_request(b'{"model": "m", "prompt": ["a", "b"], "n": 3, "stream": true}', chat=False)
        >>> request.model, request.stream, request.num_answers
        ('m', True, 6)
    """
    try:
        body = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise IbpoError("the body is not UTF-8; send JSON in UTF-8") from None
    except RecursionError:
        raise IbpoError("the body is nested too deeply; send a flatter one") from None
    except ValueError as error:
        raise IbpoError(f"the body is not JSON: {error}; correct it") from None
    if not isinstance(body, dict):
        raise IbpoError("the body is not a JSON object; send one")
    model, stream = body.get("model", ""), body.get("stream") or False
    if not isinstance(model, str):
        raise IbpoError("field model: must be a text")
    if not isinstance(stream, bool):
        raise IbpoError("field stream: must be true or false")
    options = body.get("stream_options")
    if not (options is None or isinstance(options, dict)):
        raise IbpoError("field stream_options: must be an object")
    count = max(_count(body, "n"), 1 if chat else _count(body, "best_of"))
    prompt = body.get("prompt")
    if not chat and isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        count *= len(prompt)
    for name in CAPS:
        _count(body, name)
    wants = bool(options and options.get("include_usage"))
    return OpenAIRequest(chat=chat, body=body, model=model, stream=stream, wants_usage=wants, num_answers=count)


def check_size(request: OpenAIRequest, groups: Iterable[GroupSettings], limits: LimitSettings) -> None:
    """Check that one request asks for no more than the operator allows: all of it is reserved at once.

    Raises:
        IbpoError: Names the field and the limit.
    """
    if request.num_answers > limits.max_answers:
        asked, most = request.num_answers, limits.max_answers
        raise IbpoError(f"fields n, best_of and prompt: ask for {asked} answers; ask for {most} or fewer")
    for group in groups:
        if (max_tokens_of(request, group) or 0) > limits.max_answer_tokens:
            raise IbpoError(
                f"field max_tokens or max_completion_tokens: is too large; give {limits.max_answer_tokens} or less"
            )


def can_set(request: OpenAIRequest, group: GroupSettings) -> bool:
    """Whether the group can be set in this request: chat fields need a chat, a prefix needs text before it."""
    if not group.prefix:
        return request.chat or bool(group.body) or not (group.chat_template_kwargs or group.reasoning_effort)
    if request.chat:
        return isinstance(request.body.get("messages"), list)
    prompt = request.body.get("prompt")
    return isinstance(prompt, str) or (isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str))


def max_tokens_of(request: OpenAIRequest, group: GroupSettings) -> int | None:
    """The most tokens that one answer can have; None: no bound is known."""
    caps = [cap for cap in (group.max_tokens, *(request.body.get(name) for name in CAPS)) if cap is not None]
    if not caps and not request.chat:
        return COMPLETIONS_CAP
    return min(caps, default=None)


def write_body(request: OpenAIRequest, group: GroupSettings, model: ModelSettings) -> bytes:
    """The request as the upstream gets it: the caller's, with the response group set.

    It is written anew even where nothing is set: a body with one key twice could mean one thing here and another there.

    Raises:
        IbpoError: A number that JSON cannot say.

    Example:
        >>> request = read_request(b'{"model": "m", "prompt": "2 + 2 ="}', chat=False)
        >>> model = ModelSettings(
        ...     name="m", response_group=[GroupSettings(name="long", prefix=" <think>", max_tokens=9)]
        ... )
        >>> write_body(request, model.response_group[0], model)
        b'{"model": "m", "prompt": "2 + 2 = <think>", "max_tokens": 9}'
    """
    body = dict(request.body)
    if group.prefix and can_set(request, group):
        body |= with_prefix(request, group.prefix)
    if group.chat_template_kwargs and request.chat:
        body["chat_template_kwargs"] = _merged(body.get("chat_template_kwargs"), group.chat_template_kwargs)
    if group.reasoning_effort and request.chat:
        body["reasoning_effort"] = group.reasoning_effort
    if group.max_tokens is not None:
        given = [name for name in CAPS if body.get(name) is not None]
        for name in given or [model.cap_field]:
            body[name] = min(group.max_tokens, body.get(name) or group.max_tokens)
    for name, value in group.body.items():
        body[name] = _merged(body.get(name), value) if isinstance(value, dict) else value
    if request.stream and model.include_usage and not request.wants_usage:
        body["stream_options"] = _merged(body.get("stream_options"), {"include_usage": True})
    return encode(body)


def with_prefix(request: OpenAIRequest, prefix: str) -> Json:
    """The fields that make a response open with this text."""
    if not request.chat:
        prompt = request.body["prompt"]
        return {"prompt": prompt + prefix if isinstance(prompt, str) else [f"{text}{prefix}" for text in prompt]}
    messages = list(request.body["messages"])
    last = messages[-1] if messages else None
    if request.body.get("continue_final_message") and isinstance(last, dict) and isinstance(last.get("content"), str):
        messages[-1] = {**last, "content": last["content"] + prefix}
    else:
        messages.append({"role": "assistant", "content": prefix})
    return {"messages": messages, "add_generation_prompt": False, "continue_final_message": True}


def encode(body: Mapping[str, Any]) -> bytes:
    """A JSON object in ASCII.

    Raises:
        IbpoError: A number beyond what a float holds.
    """
    try:
        return _ENCODER.encode(body).encode()
    except (ValueError, RecursionError):
        raise IbpoError("the body holds a number that is too large, or is nested too deeply; correct it") from None


def _merged(given: Any, more: Mapping[str, Any]) -> Json:
    return {**(given if isinstance(given, dict) else {}), **more}


def _count(body: Json, name: str) -> int:
    value = body.get(name)
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1 << 31:
        raise IbpoError(f"field {name}: must be a whole number, at least 0")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(allow_nan=False)
