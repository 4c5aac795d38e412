"""What does a request ask for, and how is a response group set in it?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ibpo.errors import IbpoError
from ibpo.serving.gateway.settings import GroupSettings, Limits, ModelSettings
from ibpo.serving.option import Option
from ibpo.serving.plan import Budget

CAPS = ("max_completion_tokens", "max_tokens")
DEFAULT_TOKENS = 512.0
"""Of a response group without `tokens` and without a cap; corrected by what responses cost."""
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """A request to `/v1/chat/completions` or `/v1/completions`."""

    chat: bool
    body: Json
    model: str
    stream: bool
    wants_usage: bool
    """Whether the caller asked the stream for its usage."""
    num_answers: int
    """Completions that are generated: n or best_of, times the number of prompts."""


def read_demand(data: bytes, *, chat: bool) -> Demand:
    """Parse the body of a request, as far as the gateway has to know it; the upstream checks the rest.

    Raises:
        IbpoError: Not a JSON object in UTF-8, or a field of a wrong kind.

    Example:
        >>> demand = read_demand(b'{"model": "m", "prompt": ["a", "b"], "n": 3, "stream": true}', chat=False)
        >>> demand.model, demand.stream, demand.num_answers
        ('m', True, 6)
    """
    try:
        body = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise IbpoError("the body is not UTF-8; send JSON in UTF-8") from None
    except RecursionError:
        raise IbpoError("the body is nested too deeply; send a flatter one") from None
    except ValueError as error:
        raise IbpoError(f"the body is not JSON: {error}; mend it") from None
    if not isinstance(body, dict):
        raise IbpoError("the body is no JSON object; send one")
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
    return Demand(chat=chat, body=body, model=model, stream=stream, wants_usage=wants, num_answers=count)


def check_size(demand: Demand, groups: Iterable[GroupSettings], limits: Limits) -> None:
    """Nobody asks for more in one request than the operator would let many have: all of it is booked at once.

    Raises:
        IbpoError: Names the field and the limit.
    """
    if demand.num_answers > limits.max_answers:
        raise IbpoError(
            f"fields n, best_of and prompt: ask for {demand.num_answers} answers; ask for {limits.max_answers} or fewer"
        )
    for group in groups:
        if (cap_of(demand, group) or 0) > limits.max_answer_tokens:
            raise IbpoError(
                f"field max_tokens or max_completion_tokens: is too large; give {limits.max_answer_tokens} or less"
            )


def usable(demand: Demand, group: GroupSettings) -> bool:
    """Whether the group can be set in this request: chat fields need a chat, a prefix needs text to stand behind."""
    if not group.prefix:
        return demand.chat or bool(group.body) or not (group.chat_template_kwargs or group.reasoning_effort)
    if demand.chat:
        return isinstance(demand.body.get("messages"), list)
    prompt = demand.body.get("prompt")
    return isinstance(prompt, str) or (isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str))


def cap_of(demand: Demand, group: GroupSettings) -> int | None:
    """The most tokens that one answer can have."""
    caps = [cap for cap in (group.max_tokens, *(demand.body.get(name) for name in CAPS)) if cap is not None]
    if not caps and not demand.chat:
        return 16  # the protocol's default of completions
    return min(caps, default=None)


def option_of(
    demand: Demand, group: GroupSettings, gain: float, budgets: tuple[Budget, ...], tokens: float | None = None
) -> Option:
    """What the controller is told about answering this request so; `tokens`: what a router expects of one answer.

    Example:
        >>> demand = read_demand(b'{"max_tokens": 100, "n": 2}', chat=True)
        >>> option = option_of(demand, GroupSettings(name="long", tokens=5000), 1.0, (Budget(name="tokens", mean=9.0),))
        >>> option.cost, option.reserve
        ({'tokens': 200.0}, {'tokens': 200.0})
    """
    if all(budget.response_group is not None for budget in budgets):
        return Option(response_group=group.name, gain=gain)
    cap = cap_of(demand, group)
    if tokens is None:
        tokens = group.tokens if group.tokens is not None else DEFAULT_TOKENS
    if cap is None:
        return Option(response_group=group.name, gain=gain, cost={"tokens": tokens * demand.num_answers})
    most = float(cap * demand.num_answers)
    cost = {"tokens": min(tokens * demand.num_answers, most)}
    return Option(response_group=group.name, gain=gain, cost=cost, reserve={"tokens": most})


def write_body(demand: Demand, group: GroupSettings, model: ModelSettings) -> bytes:
    """The request as the upstream gets it: the caller's, with the response group set.

    It is written anew even where nothing is set: a body with one key twice could mean one thing here and another there.

    Raises:
        IbpoError: A number that JSON cannot say.

    Example:
        >>> demand = read_demand(b'{"model": "m", "prompt": "2 + 2 ="}', chat=False)
        >>> model = ModelSettings(
        ...     name="m", response_group=[GroupSettings(name="long", prefix=" <think>", max_tokens=9)]
        ... )
        >>> write_body(demand, model.response_group[0], model)
        b'{"model": "m", "prompt": "2 + 2 = <think>", "max_tokens": 9}'
    """
    body = dict(demand.body)
    if group.prefix and usable(demand, group):
        body |= with_prefix(demand, group.prefix)
    if group.chat_template_kwargs and demand.chat:
        body["chat_template_kwargs"] = _merged(body.get("chat_template_kwargs"), group.chat_template_kwargs)
    if group.reasoning_effort and demand.chat:
        body["reasoning_effort"] = group.reasoning_effort
    if group.max_tokens is not None:
        given = [name for name in CAPS if body.get(name) is not None]
        for name in given or [model.cap_field]:
            body[name] = min(group.max_tokens, body.get(name) or group.max_tokens)
    for name, value in group.body.items():
        body[name] = _merged(body.get(name), value) if isinstance(value, dict) else value
    if demand.stream and model.include_usage and not demand.wants_usage:
        body["stream_options"] = _merged(body.get("stream_options"), {"include_usage": True})
    return encode(body)


def with_prefix(demand: Demand, prefix: str) -> Json:
    """The fields that make a response open with this text."""
    if not demand.chat:
        prompt = demand.body["prompt"]
        return {"prompt": prompt + prefix if isinstance(prompt, str) else [f"{text}{prefix}" for text in prompt]}
    messages = list(demand.body["messages"])
    last = messages[-1] if messages else None
    if demand.body.get("continue_final_message") and isinstance(last, dict) and isinstance(last.get("content"), str):
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
        raise IbpoError("the body holds a number that is too large, or is nested too deeply; mend it") from None


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
