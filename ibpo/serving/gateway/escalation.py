"""The cheap answer first: it is made, what it shows is read, and the budget's price decides whether more is bought.

A router of `ibpo route fit --first-answers` decides after an answer of the standard response group. So that answer is
asked of the upstream, whole, before anything is decided: it comes in every case, and every response group costs it. The
decision is then one as any other, between leaving it at that answer (which costs what it has cost, and gains nothing)
and another group's (which costs its own besides); the request counts once, and the theorem of
`ibpo.serving.controller.admission.Admission` holds of what is booked: first answers that are still being made are not,
each the cost of one standard answer at most. A caller that leaves while they are made is charged what was expected.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from multidict import CIMultiDict

from ibpo.routing import read_shown
from ibpo.serving.gateway.gains import FittedRouter, Gains, PredictedGains, read_gain_headers
from ibpo.serving.gateway.openai_request import OpenAIRequest, Refusal, can_set, check_size, encode, set_group
from ibpo.serving.gateway.proxy import Upstream, UpstreamAnswer, UpstreamFault
from ibpo.serving.gateway.settings import GroupSettings, LimitSettings, ModelSettings
from ibpo.serving.gateway.usage import AnswerCost, cost_of

APIS = ("chat", "completions")


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstAnswer:
    """What is there before the decision."""

    group: GroupSettings
    """The standard response group, which it is of."""
    began: float
    """When the request came, by `time.perf_counter`."""
    gains: Gains
    """Gains of the other groups over it; `only` the standard one where nothing can be said."""
    answer: dict[str, Any] = field(default_factory=dict)
    """The first answer, as JSON, as the caller may see it; empty: it was lost."""
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    """The upstream's."""
    costs: tuple[AnswerCost, ...] = ()
    """Cost of each first answer, as it says."""
    tokens: tuple[float, ...] = ()
    """Completion tokens of each; 0 where they were lost."""

    def alone(self) -> FirstAnswer:
        """It without any answer that comes after it."""
        return replace(self, gains=_gains(None, self.group))


def escalates(
    router: Any, request: OpenAIRequest, model: ModelSettings, caller: Mapping[str, str]
) -> FittedRouter | None:
    """The router, where it decides about this request once the cheap answer is there.

    Not where the caller says what it wants, for several answers, nor in APIs whose answers are not read here.

    Raises:
        IbpoError: A header of the caller that cannot be read.
    """
    if not isinstance(router, FittedRouter) or not router.first or "router" not in model.choose:
        return None
    names = [group.name for group in model.response_group]
    if len(names) < 2 or names[0] != router.groups[0] or request.api not in APIS or request.num_answers != 1:
        return None
    if "caller" in model.choose and read_gain_headers(caller, model) is not None:
        return None
    return router if can_set(request, model.response_group[0]) else None


async def make_first(
    router: FittedRouter,
    request: OpenAIRequest,
    model: ModelSettings,
    *,
    upstream: Upstream,
    path: str,
    headers: CIMultiDict[str],
    limits: LimitSettings,
    restored: Callable[[bytes], bytes],
) -> FirstAnswer | None:
    """Ask for the first answer, or two of them, and estimate what the other groups would gain over it.

    Args:
        router: Decides after it.
        request: What is asked for.
        model: Its table.
        upstream: Is asked.
        path: With its parameters, as the caller wrote it.
        headers: Headers of the request to the upstream.
        limits: Limits of the gateway.
        restored: An answer as callers are to see it.

    Returns:
        None: the upstream gave an error or a redirect, which cost nothing: decide as if there were no router.

    Raises:
        IbpoError: A request that asks for too much.
        LostFirst: The upstream broke off, or gave nothing that can be read: there may have been an answer.
    """
    began = time.perf_counter()
    check_size(request, model.response_group, limits)
    group, asks = model.response_group[0], "logprob" in router.first["shown"]
    body = _body(request, group, model, asks)
    calls = [
        upstream.call("POST", path, headers, body, most=limits.max_buffered_bytes)
        for _ in range(router.first["answers"])
    ]
    found = await asyncio.gather(*calls, return_exceptions=True)
    answers = [one for one in found if isinstance(one, UpstreamAnswer)]
    try:
        for one in found:
            if isinstance(one, UpstreamFault):
                if one.began or len(answers):
                    raise LostFirst(one)
                return None
            if isinstance(one, BaseException):
                raise one
        if any(not 200 <= one.status < 300 for one in answers):
            if all(one.status >= 300 for one in answers):
                return None
            raise LostFirst(UpstreamFault("cut", 502))
        read = [_read(one, limits.max_buffered_bytes, restored) for one in answers]
    finally:
        for one in answers:
            one.close()
    rows = [row for row in read if row is not None]
    costs = [cost_of(row) for row in rows]
    if len(rows) == len(read) and all(one.failed and not (one.tokens or one.text_tokens) for one in costs):
        return None  # an error, whatever its status
    if not all(map(_has_choice, read)):
        raise LostFirst(UpstreamFault("cut", 502))
    spent = [float(cost.tokens or cost.text_tokens) for cost in costs]  # some servers report 0 beside a text
    try:
        shown = read_answer(rows, request, spent[0])
        scores = await asyncio.to_thread(router.gain_after, request.body, shown)
    except Exception:  # whatever the router does and the answer says, the request is answered
        scores = None
    return FirstAnswer(
        group=group,
        began=began,
        gains=_gains(scores, group),
        answer=_without_logprobs(rows[0]) if asks and not _wants_logprobs(request) else rows[0],
        headers=CIMultiDict(answers[0].headers),
        costs=tuple(costs),
        tokens=tuple(spent),
    )


class LostFirst(Exception):
    """A first answer that may have been generated, and did not come: it is booked as it was expected."""

    def __init__(self, fault: UpstreamFault) -> None:
        super().__init__(fault.kind)
        self.fault = fault


def lost(model: ModelSettings, num_answers: int, began: float) -> FirstAnswer:
    """What is decided about where so many first answers were asked for and did not come: it is those or none."""
    group = model.response_group[0]
    return FirstAnswer(
        group=group,
        began=began,
        gains=_gains(None, group),
        costs=(AnswerCost(),) * num_answers,
        tokens=(0.0,) * num_answers,
    )


def _gains(scores: PredictedGains | None, group: GroupSettings) -> Gains:
    if scores is None:
        return Gains(by_group={group.name: 0.0}, source="first answer", only=group.name)
    return Gains(by_group=scores.gain, source="first answer", tokens=scores.tokens)


def _body(request: OpenAIRequest, group: GroupSettings, model: ModelSettings, asks: bool) -> bytes:
    """As the standard group is asked for, whole, with log-probabilities where they are looked at."""
    plain = {name: value for name, value in request.body.items() if name not in ("stream", "stream_options")}
    body = set_group(replace(request, body=plain, stream=False), group, model)
    if asks and not _wants_logprobs(request):
        body["logprobs"] = True if request.api == "chat" else 1
    return encode(body)


def _wants_logprobs(request: OpenAIRequest) -> bool:
    """Whether the caller asked for log-probabilities; 0 of completions means those of the tokens that were drawn."""
    wanted = request.body.get("logprobs")
    return wanted is not None and wanted is not False


def _read(answer: UpstreamAnswer, most: int, restored: Callable[[bytes], bytes]) -> dict[str, Any] | None:
    """The JSON object of a whole answer; None where it is not one."""
    data = answer.decoded(most) if answer.complete and answer.can_decode else None
    try:
        row = json.loads(restored(data or b""))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _has_choice(row: dict[str, Any] | None) -> bool:
    choices = None if row is None else row.get("choices")
    return isinstance(choices, list) and bool(choices) and all(isinstance(choice, dict) for choice in choices)


def read_answer(rows: list[dict[str, Any]], request: OpenAIRequest, tokens: float) -> dict[str, float]:
    """What answers show, as `ibpo.routing.read_shown` says it; `failed`: JSON was asked for, and this is not JSON."""
    choices = [row["choices"][0] for row in rows]
    texts = [_text(choice) for choice in choices]
    wanted = request.body.get("response_format")
    failed = False
    if isinstance(wanted, dict) and str(wanted.get("type", "")).startswith("json"):
        try:
            json.loads(texts[0])
        except (ValueError, RecursionError):
            failed = True
    return read_shown(tokens=tokens, texts=texts, logprob=_mean_logprob(choices[0]), failed=failed)


def _text(choice: Mapping[str, Any]) -> str:
    message = choice.get("message")
    if not isinstance(message, dict):
        return str(choice.get("text") or "")
    if message.get("tool_calls"):
        return json.dumps(message["tool_calls"])
    return message["content"] if isinstance(message.get("content"), str) else ""


def _mean_logprob(choice: Mapping[str, Any]) -> float | None:
    """Mean log-probability: of a chat's `logprobs.content[].logprob`, of a completion's `logprobs.token_logprobs`."""
    found = choice.get("logprobs")
    if not isinstance(found, dict):
        return None
    content, listed = found.get("content"), found.get("token_logprobs")
    values = listed if isinstance(listed, list) else [one.get("logprob") for one in content or () if one]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else None


def _without_logprobs(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "choices": [{**choice, "logprobs": None} for choice in row["choices"]]}


def as_events(answer: Mapping[str, Any], request: OpenAIRequest) -> bytes:
    r"""A whole answer as the stream that the caller asked for: its text in one event, the end, its usage if wanted.

    Example:
        >>> from ibpo.serving.gateway.openai_request import read_request
        >>> answer = {"id": "a", "choices": [{"index": 0, "text": "7", "finish_reason": "stop"}], "usage": {"x": 1}}
        >>> as_events(answer, read_request(b'{"prompt": "3 + 4", "stream": true}', "completions")).count(b"data: ")
        3
    """
    base = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    if request.api == "chat":
        base["object"] = "chat.completion.chunk"
    events: list[dict[str, Any]] = []
    for choice in answer["choices"]:
        rest = {name: value for name, value in choice.items() if name not in ("message", "text", "finish_reason")}
        if request.api == "chat":
            delta = dict(choice.get("message") or {})
            if delta.get("tool_calls"):
                delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(delta["tool_calls"])]
            said, ended = {"delta": delta}, {"delta": {}}
        else:
            said, ended = {"text": choice.get("text", "")}, {"text": ""}
        events.append({**base, "choices": [{**rest, **said, "finish_reason": None}]})
        end = {"index": choice.get("index", 0), **ended, "finish_reason": choice.get("finish_reason")}
        events.append({**base, "choices": [end]})
    if request.wants_usage and answer.get("usage") is not None:
        events.append({**base, "choices": [], "usage": answer["usage"]})
    return b"".join(b"data: " + encode(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def refuse_fault(fault: UpstreamFault, headers: Mapping[str, str] | None = None) -> Refusal:
    """The caller's answer where the upstream gave none."""
    cause = {"timeout": "did not answer in time", "cut": "broke off"}.get(fault.kind, "cannot be reached")
    return Refusal(fault.status, f"upstream_{fault.kind}", f"the upstream {cause}; try again later", headers)
