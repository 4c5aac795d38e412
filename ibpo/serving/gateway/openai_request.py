"""The APIs that are governed: what a request asks for, how a response group is set in it, and how it is refused.

Four of them: OpenAI's chats, completions and responses, and Anthropic's messages. A server takes the cap on an answer
under many names, and the last one that it looks at wins; so there is one number here, `max_tokens_of`, which is
reserved, and `write_body` puts it under every name that the request holds. The bound on the budget holds only while
the body allows no more than that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from ibpo.errors import IbpoError
from ibpo.serving.gateway.settings import (
    CAPS,
    TABLES,
    GroupSettings,
    LimitSettings,
    ModelSettings,
    check_options,
    plain_name,
)
from ibpo.usage import COUNTS

Api = Literal["chat", "completions", "responses", "messages"]
PATHS: dict[str, Api] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
"""The governed paths."""
CAP_FIELDS: dict[Api, tuple[str, ...]] = {
    "chat": ("max_tokens", "max_completion_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
"""The names of the cap in each API, the usual one first; servers take the others of `CAPS` too."""
TEMPLATE_APIS = ("chat", "messages")
"""Where servers take `chat_template_kwargs` (vLLM, llama.cpp)."""
THINKING_CAPS = (
    ("", "thinking_token_budget"),  # vLLM
    ("", "thinking_budget"),
    ("", "thinking_budget_tokens"),  # llama.cpp
    ("", "reasoning_budget"),
    ("custom_params", "thinking_budget"),  # SGLang
    ("chat_template_kwargs", "thinking_budget"),
    ("thinking", "budget_tokens"),  # Anthropic
    ("reasoning", "max_tokens"),  # OpenRouter
)
"""Where a request may limit its thinking, table ("": none) and name. It is part of the answer: never above the cap."""
LEAST_LENGTHS = ("min_tokens", "min_new_tokens")
"""What servers call the least length of an answer."""
LEAST_THINKING = 1024
"""Least value of Anthropic's `thinking.budget_tokens`, which also has to be below `max_tokens`."""
OPTION_TEXTS = frozenset(["extrabody", "samplingparams", "parameters", "options", "generationconfig"])
"""Options that some servers also take as a text (as `plain_name` writes the names)."""
READ = frozenset(["model", "stream", "stream_options", "prompt", "messages", "input", "thinking", "background"])
"""The other fields that are read here."""
OWN_HEADERS = "x-ibpo-"
"""How the names of the gateway's own headers begin."""
COMPLETIONS_CAP = 16
"""Cap of `/v1/completions` where a request gives none, by the protocol. It is written into the body: not every server
keeps to it, and a null means none at all to some."""
Json = dict[str, Any]
_NAMES = frozenset([*CAPS, *COUNTS, *READ])
_KNOWN = {plain_name(name): name for name in _NAMES}


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenAIRequest:
    """A request to one of the governed paths."""

    api: Api
    body: Json
    model: str
    stream: bool
    wants_usage: bool
    """Whether the caller asked the stream for its usage."""
    num_answers: int
    """Completions that are generated: n or best_of, times the number of prompts."""
    caps: Mapping[str, int] = field(default_factory=dict)
    """The caps that the caller gave, by name."""

    @property
    def hides_thinking(self) -> bool:
        """Whether the caller has asked not to see the thinking: then the text says little about what was generated."""
        body = self.body
        reasoning, thinking = body.get("reasoning"), body.get("thinking")
        return (
            any(body.get(name) not in (None, True) for name in ("include_reasoning", "stream_reasoning"))
            or (isinstance(reasoning, dict) and bool(reasoning.get("exclude")))
            or (isinstance(thinking, dict) and thinking.get("display") == "omitted")
        )

    @property
    def chat(self) -> bool:
        """Whether it holds messages, which a chat template turns into the prompt."""
        return self.api != "completions"


def is_anthropics(path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request is of Anthropic's protocol: keys are `x-api-key` there, and errors have its shape.

    Its messages and what is below them (`/v1/messages/count_tokens`), and all else that its clients ask for.

    Example:
        >>> is_anthropics("/v1/messages/batches", {}), is_anthropics("/v1/models", {"anthropic-version": "2023-06-01"})
        (True, True)
    """
    return f"{path}/".startswith("/v1/messages/") or "anthropic-version" in headers


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

    def body(self, *, anthropic: bool = False) -> bytes:
        """The error as JSON, in the shape of OpenAI's or of Anthropic's."""
        kind = "invalid_request_error" if self.status < 500 else "gateway_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return json.dumps({"type": "error", "error": error} if anthropic else {"error": error}).encode()


def read_request(data: bytes, api: Api = "chat") -> OpenAIRequest:
    """Parse the body of a request, as far as the gateway has to know it; the upstream checks the rest.

    Args:
        data: The body.
        api: Which of the APIs it is for.

    Raises:
        IbpoError: Not a JSON object in UTF-8, a field of a wrong kind, or one that could raise the cap unseen.

    Example:
        >>> request = read_request(b'{"model": "m", "prompt": ["a", "b"], "n": 3, "stream": true}', "completions")
        >>> request.model, request.stream, request.num_answers
        ('m', True, 6)
    """
    try:
        body = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise IbpoError("the body is not UTF-8; send JSON in UTF-8") from None
    except RecursionError:
        raise IbpoError("the body is nested too deeply; send a flatter one") from None
    except json.JSONDecodeError as error:
        raise IbpoError(f"the body is not JSON: {error}; correct it") from None
    except IbpoError:
        raise
    except ValueError:  # a whole number of thousands of digits
        raise IbpoError(_TOO_LARGE) from None
    if not isinstance(body, dict):
        raise IbpoError("the body is not a JSON object; send one")
    return check_request(body, api)


def check_request(body: Json, api: Api) -> OpenAIRequest:
    """What a body that is an object already asks for; see `read_request`."""
    model, stream = body.get("model", ""), body.get("stream") or False
    if not isinstance(model, str):
        raise IbpoError("field model: must be a text")
    if not isinstance(stream, bool):
        raise IbpoError("field stream: must be true or false")
    options = body.get("stream_options")
    if not (options is None or isinstance(options, dict)):
        raise IbpoError("field stream_options: must be an object")
    if options and not isinstance(options.get("include_usage"), bool | None):
        # "no" is false to some servers, and true here.
        raise IbpoError("field stream_options: include_usage must be true or false")
    if body.get("background"):
        raise IbpoError("field background: answers in the background cannot be counted here; leave it out")
    caps: dict[str, int] = {}
    num_answers = 1
    for name, value in body.items():
        if name not in _NAMES:
            _check_spelling(name, value)
        elif value is not None and name not in READ:
            count = _read_count(name, value)
            if name in COUNTS:
                num_answers = max(num_answers, count)
            else:
                caps[name] = count
    _check_thinking(body)
    return OpenAIRequest(
        api=api,
        body=body,
        model=model,
        stream=stream,
        # The other two APIs always tell it.
        wants_usage=bool(options and options.get("include_usage")) or api in ("responses", "messages"),
        num_answers=num_answers * _count_prompts(body, api),
        caps=caps,
    )


def check_size(request: OpenAIRequest, groups: Iterable[GroupSettings], limits: LimitSettings) -> None:
    """Check that one request asks for no more than the operator allows: all of it is reserved at once.

    Raises:
        IbpoError: Names the field and the limit.
    """
    if request.num_answers > limits.max_answers:
        asked, most = request.num_answers, limits.max_answers
        raise IbpoError(f"fields n, best_of and prompt: ask for {asked} answers; ask for {most} or fewer")
    for group in groups if request.caps else ():
        if (max_tokens_of(request, group) or 0) > limits.max_answer_tokens:
            names = " or ".join(CAP_FIELDS[request.api])
            raise IbpoError(f"field {names}: is too large; give {limits.max_answer_tokens} or less")


def can_set(request: OpenAIRequest, group: GroupSettings) -> bool:
    """Whether the group can be set in this request.

    Chat fields need a chat, a prefix needs text before it and nothing that thinks first, and thinking has its terms.
    """
    if request.api == "messages" and group.max_thinking_tokens and not _may_think(request, group):
        return False
    if not group.prefix:
        thinks = group.max_thinking_tokens is not None
        by_template = bool(group.chat_template_kwargs) and request.api in TEMPLATE_APIS
        by_effort = bool(group.reasoning_effort) and request.chat
        here = by_template or by_effort or bool(group.body) or (thinks and request.api != "responses")
        return here or not (group.chat_template_kwargs or group.reasoning_effort or thinks)
    if request.api == "responses":
        return False
    if request.chat:
        return isinstance(request.body.get("messages"), list)
    prompt = request.body.get("prompt")
    return isinstance(prompt, str) or (isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str))


def max_tokens_of(request: OpenAIRequest, group: GroupSettings) -> int | None:
    """The most tokens that one answer can have, the least of all caps; None: no bound is known.

    Example:
        >>> request = read_request(b'{"max_tokens": 100, "n_predict": 9000}')
        >>> max_tokens_of(request, GroupSettings(name="long", max_tokens=4096))
        100
    """
    caps = [*request.caps.values(), *([] if group.max_tokens is None else [group.max_tokens])]
    if not caps and request.api == "completions":
        return COMPLETIONS_CAP
    return min(caps, default=None)


def write_body(request: OpenAIRequest, group: GroupSettings, model: ModelSettings) -> bytes:
    """The request as the upstream gets it: the caller's, with the response group set.

    It is written again even where nothing is set: a body with one key twice could mean one thing here and another
    there.

    Raises:
        IbpoError: A number that JSON cannot say.

    Example:
        >>> request = read_request(b'{"model": "m", "prompt": "2 + 2 ="}', "completions")
        >>> model = ModelSettings(
        ...     name="m", response_group=[GroupSettings(name="long", prefix=" <think>", max_tokens=9)]
        ... )
        >>> write_body(request, model.response_group[0], model)
        b'{"model": "m", "prompt": "2 + 2 = <think>", "max_tokens": 9}'
    """
    return encode(set_group(request, group, model))


def set_group(request: OpenAIRequest, group: GroupSettings, model: ModelSettings) -> Json:
    """The fields of `write_body`: nothing that the caller wrote is missing, and only what the group says differs."""
    body, cap = dict(request.body), max_tokens_of(request, group)
    if group.prefix and can_set(request, group):
        body |= with_prefix(request, group.prefix)
    if group.chat_template_kwargs and request.api in TEMPLATE_APIS:
        body["chat_template_kwargs"] = _merged(body.get("chat_template_kwargs"), group.chat_template_kwargs)
    if group.reasoning_effort and request.chat:
        _set_effort(body, request.api, group.reasoning_effort)
    for name, value in group.body.items():
        body[name] = _merged(body.get(name), value) if isinstance(value, dict) else value
    if cap is not None:
        own = CAP_FIELDS[request.api]
        usual = model.cap_field if request.api == "chat" else own[0]
        # Every name says the same; one that only some servers know does not stand alone.
        for name in (*request.caps, *([] if any(name in request.caps for name in own) else [usual])):
            body[name] = cap
        for name in LEAST_LENGTHS:  # servers refuse one above the cap
            if isinstance(body.get(name), int | float) and body[name] > cap:
                body[name] = cap
    _set_thinking(body, request.api, group.max_thinking_tokens, cap)
    if request.stream and model.include_usage and not request.wants_usage:
        body["stream_options"] = _merged(body.get("stream_options"), {"include_usage": True})
    return body


def _set_effort(body: Json, api: Api, effort: str) -> None:
    if api == "responses":
        body["reasoning"] = _merged(body.get("reasoning"), {"effort": effort})
    elif api == "messages":
        body["output_config"] = _merged(body.get("output_config"), {"effort": effort})
    else:
        body["reasoning_effort"] = effort


def _set_thinking(body: Json, api: Api, most: int | None, cap: int | None) -> None:
    """Write the group's limit on the thinking, and lower the caller's to it and to the cap."""
    least = min((limit for limit in (most, cap) if limit is not None), default=None)
    if least is None:
        return
    for outer, name in THINKING_CAPS:
        table: Any = body.get(outer) if outer else body
        value = table.get(name) if isinstance(table, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value <= least:
            body |= {outer: {**table, name: least}} if outer else {name: least}
    if api == "messages":
        thinking = body.get("thinking")
        if most is not None:
            asked = thinking if isinstance(thinking, dict) else {}
            given = asked.get("budget_tokens")
            thinking = {**asked, "type": "enabled", "budget_tokens": most if given is None else given}
        if isinstance(thinking, dict) and isinstance(thinking.get("budget_tokens"), int | float):
            tokens = min(thinking["budget_tokens"], least if cap is None else cap - 1)
            body["thinking"] = (
                {**thinking, "budget_tokens": tokens} if tokens >= LEAST_THINKING else {"type": "disabled"}
            )
    elif most is not None and api != "responses":
        given = body.get("thinking_token_budget")
        body["thinking_token_budget"] = least if given is None else given


def _may_think(request: OpenAIRequest, group: GroupSettings) -> bool:
    """Whether Anthropic's API takes thinking in this request: room below the cap, nothing with it that it forbids."""
    body, cap, choice = request.body, max_tokens_of(request, group), request.body.get("tool_choice")
    forced = isinstance(choice, dict) and choice.get("type") in ("any", "tool")
    plain = body.get("temperature") in (None, 1) and body.get("top_k") is None and not forced
    return plain and (cap is None or cap > LEAST_THINKING)


def _check_spelling(name: str, value: Any) -> None:
    """Check that a field is not one of those read here in another spelling, and no table of options that caps again.

    Raises:
        IbpoError: Names the field as it should be written.
    """
    plain = plain_name(name)
    if plain in _KNOWN:
        raise IbpoError(f"field {_KNOWN[plain]}: is spelt differently; write {_KNOWN[plain]}")
    if isinstance(value, dict | list) and name not in TABLES:
        check_options(value)
    elif plain in OPTION_TEXTS and isinstance(value, str) and value.strip():
        raise IbpoError("a table of options is text, which is not read here; send an object")


def _check_thinking(body: Json) -> None:
    """Check that the limits on the thinking are numbers: a text that servers take for one would not be lowered."""
    for outer, name in THINKING_CAPS:
        table: Any = body.get(outer) if outer else body
        value = table.get(name) if isinstance(table, dict) else None
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise IbpoError(f"field {name}: must be a number")


def _count_prompts(body: Json, api: Api) -> int:
    """How many prompts one request holds."""
    if api == "completions":
        prompt, more = body.get("prompt"), body.get("prompt_embeds")
        is_list = isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt)
        count = len(prompt) if is_list and prompt else int(prompt is not None)
        count += len(more) if isinstance(more, list) else int(more is not None)
        return max(1, count)
    messages = body.get("messages")
    # Some servers take a list of conversations.
    return sum(isinstance(row, list) for row in messages) or 1 if isinstance(messages, list) else 1


def with_prefix(request: OpenAIRequest, prefix: str) -> Json:
    """The fields that make a response open with this text."""
    if request.api == "completions":
        prompt = request.body["prompt"]
        return {"prompt": prompt + prefix if isinstance(prompt, str) else [f"{text}{prefix}" for text in prompt]}
    messages = list(request.body["messages"])
    if request.api == "messages":  # an assistant's last message is the beginning of the answer
        return {"messages": [*messages, {"role": "assistant", "content": prefix}]}
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


def _read_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 31:
        # Nothing, or a negative number, is "as many as you like" to some servers.
        raise IbpoError(f"field {name}: must be a whole number, at least 1")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise IbpoError(f"the body is not JSON: {name} is not JSON; correct it")


def _read_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):  # 1e999: nobody could write it again
        raise IbpoError(_TOO_LARGE)
    return value


_TOO_LARGE = "the body holds a number that is too large; correct it"
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_read_float)
_ENCODER = json.JSONEncoder(allow_nan=False)
