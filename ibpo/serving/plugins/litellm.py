"""The budget as a callback of the LiteLLM proxy: `BudgetLogger` decides, reserves and settles inside it.

Beside the proxy's `config.yaml`, a file `ibpo_budget.py`, and one line in the config's `litellm_settings`:

    from ibpo.serving.plugins.litellm import BudgetLogger
    budget = BudgetLogger("gateway.toml")

    callbacks: ["ibpo_budget.budget"]

One request is followed from top to bottom: `async_pre_call_hook` decides and reserves by the gateway's own code
(`ibpo.serving.gateway.decision`) and writes the response group into the request; what comes first of

    async_post_call_success_deployment_hook    an answer without streaming has come
    async_post_call_streaming_iterator_hook    a stream has ended, was cut, or its caller has left
    async_log_success_event                    where neither of them is called: answers from the cache
    async_post_call_failure_hook               all retries and fallbacks have failed

ends the reservation. What must be known before anything is changed (docs/how-to/litellm.md has the cases):

1. `async_log_failure_event` is not used: it comes before retries and fallbacks, and a success follows it.
2. The key of a booking is ours, and no caller sees it: else one who has a stream could have it cancelled by another
   request of its own that fails. LiteLLM's id is chosen by the caller, with the header `x-litellm-call-id`.
3. The caps are lowered once more before each attempt, retries and fallbacks too: a deployment may bring caps of its own
   under another name, and LiteLLM sends only one of them.
4. What LiteLLM sends differs by API and provider, and what it does not know it drops silently: see `_write`.
5. An answer from the cache brings the usage of the answer that was stored. It costs nothing, and does not count as a
   request either: whoever repeats one question must not earn budget by it.
6. LiteLLM looks for hooks on the class itself, so a subclass has to define all that it wants to be called.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

try:
    from litellm.integrations.custom_logger import CustomLogger  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError:
    raise ImportError("this is a plug-in of the LiteLLM proxy: pip install 'litellm[proxy]==1.108.7'") from None

try:
    from ibpo.serving.gateway.async_controller import Clock
    from ibpo.serving.gateway.decision import SLICE_HEADER, Decider, Decision, budget_headers
    from ibpo.serving.gateway.telemetry import Metrics, RequestLog, open_log
except ModuleNotFoundError as missing:
    raise ImportError(f"the plug-in needs the package {missing.name}: pip install 'ibpo[serve]'") from None

from ibpo.errors import IbpoError
from ibpo.serving.gateway.gains import GainPredictor, OpeningTokens
from ibpo.serving.gateway.leased_controller import make_controller
from ibpo.serving.gateway.money import open_biller
from ibpo.serving.gateway.openai_request import READ, Api, OpenAIRequest, check_request, set_group
from ibpo.serving.gateway.quotas import open_quotas
from ibpo.serving.gateway.settings import (
    CAPS,
    COUNTS,
    build_policy,
    check_groups,
    check_router,
    find_cautions,
    read_settings,
)
from ibpo.serving.gateway.usage import cost_of
from ibpo.serving.lengths import Lengths

APIS: dict[str, Api] = {
    "acompletion": "chat",
    "atext_completion": "completions",
    "aresponses": "responses",
    "anthropic_messages": "messages",
}
"""LiteLLM's call types that a budget governs. All others go through, uncounted."""
STATE = "ibpo"
"""The key of the metadata under which a request's booking is found again."""
PLACES = ("litellm_metadata", "metadata")
"""Where LiteLLM keeps metadata; the first is not sent upstream where the API has a `metadata` of its own."""
INTERNAL = frozenset([*PLACES, "proxy_server_request", "secret_fields", "extra_body"])
"""Entries of a request's data, besides those that begin with `litellm_` or `_`, that are not the caller's fields."""
LEAST_OUTPUT_TOKENS = 16
"""LiteLLM raises a lower cap of `/v1/messages` to this where it sends the request on to `/v1/responses`."""
PROGRESS_ITEMS = 256
"""Items of a stream between two looks at whether it is longer than expected."""
SWEEP_SECONDS = 60.0
MAYBE_GENERATED = (408, 504)
"""Status of failures after which the model may have been at work all the same."""


@dataclass(kw_only=True, slots=True)
class _Booking:
    """A request whose reservation is open."""

    decision: Decision
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    """By which it is found; no caller sees it, as the request's id is seen."""
    began: float
    is_asked: bool = False
    """Whether an upstream has been asked: not, where the cache has the answer."""
    is_streaming: bool = False
    """Whether its stream is being passed on: then that ends the reservation."""


class BudgetLogger(CustomLogger):
    """Holds the budget of a gateway's file in a LiteLLM proxy.

    Args:
        config: The gateway's file, as `ibpo serve --config` reads it: `[budget]`, `[[model]]` with their response
            groups, `[tenant.NAME]`, `[limits]`. A model's name is LiteLLM's `model_name`.
        state: Where the budget's accounts are stored: a SQLite file or `redis://...`, also for several workers; None:
            in memory, lost at the end.
        lease: Decide by a lease of the shared accounts, and exchange with them every so many seconds: for many workers.
        name: Name of this process among those that share the state.
        log: The file to which a line for each request is appended; None: nowhere.
        router: Predicts gains, e.g. `ibpo.serving.gateway.FittedRouter`.
        clock: What days, months and ages are counted by; None: the machine's. `ibpo.testing.Clock` is one for tests.

    Raises:
        IbpoError: Names file, field and fix.
    """

    def __init__(
        self,
        config: str | Path,
        *,
        state: str | None = None,
        lease: float | None = None,
        name: str = "litellm",
        log: str | Path | None = None,
        router: GainPredictor | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        settings, tables = read_settings(config)
        try:
            policy = build_policy(settings, tables)
        except IbpoError as error:
            raise IbpoError(f"{config}: {error}") from None
        if not settings.model:
            raise IbpoError(f"{config}: names no [[model]] with response groups; a plug-in asks no server for them")
        if any("probe" in model.choose for model in settings.model):
            raise IbpoError(f"{config}: choose: a plug-in cannot probe the policy; take probe out")
        if any(model.learn for model in settings.model):
            raise IbpoError(f"{config}: learn: no outcomes come back to a plug-in; take learn out")
        check_groups(settings, policy)
        check_router(settings, getattr(router, "groups", None))
        if state is not None:  # a store that cannot be used should stop the proxy at its start
            from ibpo.serving.stores import open_store

            open_store(state, [budget.name for budget in policy.budgets]).close()
        self._log = RequestLog(None) if log is None else open_log(Path(log))
        self._stale_seconds = 2 * settings.upstream.total_seconds
        biller, quotas, lengths = open_biller(settings), open_quotas(settings), Lengths()
        controller = make_controller(
            policy,
            state,
            lease=lease,
            name=name,
            stale_seconds=self._stale_seconds,
            on_failure=lambda message: self._log.write("store", message=message),
            keepers={"lengths": lengths, **({} if biller is None else {"biller": biller})},
            quotas=quotas,
            clock=clock,
        )
        self._clock = controller.clock
        self.decider = Decider(
            settings=settings,
            controller=controller,
            metrics=Metrics(clock),
            log=self._log,
            router=router,
            expected_lengths=lengths,
            biller=biller,
            quotas=quotas,
        )
        self._is_open, self._opening = False, asyncio.Lock()
        self._not_opened = -math.inf  # when opening has failed last
        self._open: dict[str, _Booking] = {}
        self._swept = self._clock.monotonic()
        for caution in find_cautions(settings, policy):
            self._log.write("caution", message=caution)

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any] | None:
        """Decide, reserve, and write the response group into the request.

        Raises:
            HTTPException: 400, a request that cannot be read or asks for too much.
        """
        for name in PLACES:  # a caller's own must not be taken for ours
            if isinstance(data.get(name), dict):
                data[name].pop(STATE, None)
        api = APIS.get(call_type)
        if api is None:
            return None
        await self._open_store()
        try:
            request = _read(data, api)
            decision = await self.decider.decide(
                request,
                _headers(data, user_api_key_dict),
                self._tenant(user_api_key_dict),
                send_probe=_no_probe,
                opening_tokens=OpeningTokens(_no_probe),
            )
        except IbpoError as error:
            from fastapi import HTTPException

            raise HTTPException(status_code=400, detail={"error": str(error)}) from None
        self._sweep()
        record, booking = decision.record, _Booking(decision=decision, began=self._clock.monotonic())
        self._open[booking.key] = booking
        try:
            _write(data, api, decision)
            place = PLACES[api in ("chat", "completions")]
            table = data[place] if isinstance(data.get(place), dict) else data.setdefault(place, {})
            shown = {"response_group": record.response_group, "headers": budget_headers(record)}
            table[STATE] = {"key": booking.key, **shown}
        except BaseException:
            record.outcome = "failed"
            self._end(booking)
            raise
        return data

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        """Lower what a deployment's own settings allow beyond the reserve, before each attempt."""
        booking = self._find(kwargs)
        if booking is None or booking.decision.most is None:
            return None
        request, most = booking.decision.request, booking.decision.most
        limits = {**dict.fromkeys(CAPS, most // request.num_answers), **dict.fromkeys(COUNTS, request.num_answers)}
        lower = {
            name: limits[name]
            for name, value in kwargs.items()
            if name in limits and isinstance(value, int) and value > limits[name]
        }
        return {**kwargs, **lower} if lower else None

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
        """Note that an upstream is asked."""
        booking = self._find(kwargs)
        if booking is not None:
            booking.is_asked = True

    async def async_post_call_success_deployment_hook(self, request_data: Any, response: Any, call_type: Any) -> None:
        """Settle an answer without streaming, before others may refuse to pass it on: it has been generated."""
        booking = self._find(request_data)
        if booking is not None and not booking.decision.request.stream:
            self._settle(booking, response)

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: AsyncIterator[Any], request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Pass a stream on, and settle it however it ends."""
        booking = self._find(request_data)
        if booking is None:
            async for item in response:
                yield item
            return
        record, request = booking.decision.record, booking.decision.request
        hides_usage = request.api == "completions" and not request.wants_usage
        booking.is_streaming = True
        items: list[Any] = []
        on_progress = booking.decision.usage.on_progress
        try:
            async for item in response:
                items.append(item)
                if on_progress is not None and not len(items) % PROGRESS_ITEMS:
                    on_progress(len(items))  # most hold a token
                if not (hides_usage and _holds_usage(item)):
                    yield item
            record.outcome, record.status = "answered", 200
        except Exception as error:
            record.status = _status_of(error)
            # A connection that breaks tells nothing: the stream had begun.
            is_told = _cost_nothing(error) and "Connection" not in type(error).__name__
            record.outcome = "failed" if is_told and not items else "cut"
            raise
        finally:  # a caller that is gone raises here what is no `Exception`: the outcome stays `disconnected`
            booking.is_streaming = False
            _take(booking.decision, items)
            # Where nothing was asked, LiteLLM's event says whether the cache had it.
            if booking.is_asked or record.outcome in ("failed", "cut"):
                self._end(booking)

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Cancel what came from the cache, and settle what no other hook has seen."""
        booking = self._find(kwargs)
        if booking is None:
            return
        if kwargs.get("cache_hit") is True:
            booking.decision.record.outcome = "cached"
            booking.decision.record.tokens = None
            self._end(booking)
        elif not booking.is_streaming:
            self._settle(booking, response_obj)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """All attempts have failed: cancel, unless a model may have been at work."""
        booking = self._find(request_data)
        if booking is None:
            return
        record = booking.decision.record
        record.status = _status_of(original_exception)
        record.outcome = "failed" if _cost_nothing(original_exception) else "cut"
        self._end(booking)

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,
        response: Any,
        request_headers: dict[str, str] | None = None,
        litellm_call_info: dict[str, Any] | None = None,
    ) -> dict[str, str] | None:
        """What `ibpo serve` adds to each answer: response group, price and what is left."""
        found = _state(data)
        return None if found is None else found["headers"]

    async def _open_store(self) -> None:
        """Open the store at the first request: only then is there an event loop that stays.

        While it cannot be opened, requests get the standard group, as where it fails later.
        """
        asked = time.monotonic()  # not the clock of a test, which may stand still: this is about who waits together
        async with self._opening:
            if self._is_open or asked < self._not_opened:  # who has waited behind a failure shares it
                return
            try:
                await self.decider.controller.open()
                self._is_open = True
            except IbpoError as error:
                self._not_opened = time.monotonic()
                self._log.write("store", message=str(error))

    def _find(self, data: Any) -> _Booking | None:
        """The open booking of a request, by the metadata in what LiteLLM hands over."""
        found = _state(data)
        return None if found is None else self._open.get(found["key"])

    def _settle(self, booking: _Booking, answer: Any) -> None:
        """End with an answer that is complete."""
        record = booking.decision.record
        if record.outcome == "disconnected" and not booking.decision.request.stream:
            record.outcome = "answered"
        if record.tokens is None and not booking.decision.usage.total:
            record.status = record.status or 200
            self.decider.read_cost(booking.decision, cost_of(_as_dict(answer)))
        self._end(booking)

    def _end(self, booking: _Booking) -> None:
        """End a reservation; a second time does nothing."""
        if self._open.pop(booking.key, None) is not None:
            self.decider.end(booking.decision)

    def _sweep(self) -> None:
        """End, as expected, what LiteLLM has lost: a stream that was never read, or an event that it dropped."""
        now = self._clock.monotonic()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        for booking in [row for row in self._open.values() if now - row.began > self._stale_seconds]:
            self._end(booking)

    def _tenant(self, key: Any) -> str:
        """The tenant of a key: the first of its names in LiteLLM that the plan promises something to."""
        known = self.decider.controller.policy.tenants
        names = [getattr(key, name, None) for name in ("team_alias", "team_id", "key_alias", "user_id", "org_id")]
        return next((name for name in names if isinstance(name, str) and name in known), "")


def _read(data: Mapping[str, Any], api: Api) -> OpenAIRequest:
    """What a request asks for; `extra_body` is read as LiteLLM sends it, as fields of the request."""
    body = {k: v for k, v in data.items() if k not in INTERNAL and not k.startswith(("litellm_", "_"))}
    extra = data.get("extra_body")
    if data.get("additional_drop_params"):
        raise IbpoError("field additional_drop_params: could take the cap out again; leave it out")
    if api == "chat" and "," in str(data.get("model", "")):
        raise IbpoError("field model: names several, of which LiteLLM asks each for an answer; name one")
    if extra is not None:
        if not isinstance(extra, dict):
            raise IbpoError("field extra_body: must be an object")
        for name in extra:
            if name in READ:
                raise IbpoError(f"field {name}: is inside another field; write it at the top of the request")
        body |= extra
    request = check_request(body, api)
    if api != "messages":
        return request
    landed = _messages_land_at(request.model)
    if landed != "responses":
        return replace(request, api=landed)
    caps = {name: max(LEAST_OUTPUT_TOKENS, cap) for name, cap in request.caps.items()}
    return replace(request, api=landed, caps=caps)


def _messages_land_at(model: str) -> Api:
    """The API to which LiteLLM translates `/v1/messages` for a model: what can be set is what that takes."""
    litellm: Any = import_module("litellm")
    router: Any = import_module("litellm.proxy.proxy_server").llm_router
    configs: Any = import_module("litellm.utils").ProviderConfigManager
    for row in (router.get_model_list(model_name=model) or []) if router is not None else []:
        given = row["litellm_params"]
        try:
            name, provider, _, _ = litellm.get_llm_provider(
                model=given["model"], custom_llm_provider=given.get("custom_llm_provider")
            )
            kind = litellm.LlmProviders(provider)
            if kind == litellm.LlmProviders.OPENAI:
                return "responses"
            is_native = configs.get_provider_anthropic_messages_config(model=name, provider=kind)
        except Exception:  # a provider that LiteLLM cannot name is one of its owner's: it gets what the caller wrote
            return "messages"
        return "messages" if is_native else "chat"
    return "messages"


def _write(data: dict[str, Any], api: Api, decision: Decision) -> None:
    """Write the response group into a request, where LiteLLM sends it on.

    Chats and completions: every field goes upstream, but `reasoning_effort` only to models that LiteLLM's table calls
    reasoning ones, unless `allowed_openai_params` names it. Responses: unknown fields are dropped and an effort may be
    refused, but not in `extra_body`. Fields that the caller wrote there stay there: they are sent last, and win.
    """
    request = decision.request
    extra = dict(data.get("extra_body") or {})
    for name, value in set_group(request, decision.group, decision.model).items():
        if name in request.body and request.body[name] == value:
            continue
        if name in CAPS and name not in request.caps and request.api != api:
            continue  # a cap of the API that the request is translated to; its own is written
        is_known = name in CAPS or name == "model" or (name in ("reasoning", "thinking") and name in data)
        if name in extra or (request.api == "responses" and not is_known):
            extra[name] = value
        else:
            data[name] = value
            if name == "reasoning_effort":
                data["allowed_openai_params"] = [*(data.get("allowed_openai_params") or []), name]
    if extra:
        data["extra_body"] = extra


def _headers(data: Mapping[str, Any], key: Any) -> dict[str, str]:
    """The caller's headers; the slice is that of the key's or its team's metadata, `ibpo_slice`."""
    asked: Any = data.get("proxy_server_request") or {}
    given = asked.get("headers") or {}
    headers = {str(name).lower(): str(value) for name, value in given.items()}
    headers.pop(SLICE_HEADER, None)
    for table in (getattr(key, "metadata", None), getattr(key, "team_metadata", None)):
        if isinstance(table, dict) and isinstance(table.get("ibpo_slice"), str):
            headers.setdefault(SLICE_HEADER, table["ibpo_slice"])
    return headers


def _state(data: Any) -> dict[str, Any] | None:
    """What `async_pre_call_hook` has left in the metadata."""
    if not isinstance(data, dict):
        return None
    for place in (data, data.get("litellm_params")):
        if not isinstance(place, dict):
            continue
        for name in PLACES:
            table = place.get(name)
            found = table.get(STATE) if isinstance(table, dict) else None
            if isinstance(found, dict) and isinstance(found.get("key"), str):
                return found
    return None


def _take(decision: Decision, items: list[Any]) -> None:
    """Read the items of a stream: from the last that holds a usage on, else all for their text."""
    usage = decision.usage
    last = next((i for i in range(len(items) - 1, -1, -1) if _holds_usage(items[i])), 0)
    for item in items[last:] if not any(isinstance(item, bytes | str) for item in items) else items:
        if isinstance(item, bytes | str):
            usage.feed(item if isinstance(item, bytes) else item.encode())
        else:
            usage.take(_as_dict(item))
    usage.end()


def _holds_usage(item: Any) -> bool:
    """Whether an item of a stream says what the answer cost; zeros say nothing."""
    for place in (item, getattr(item, "response", None)):
        usage = getattr(place, "usage", None)
        if getattr(usage, "completion_tokens", 0) or getattr(usage, "output_tokens", 0):
            return True
    return False


def _as_dict(answer: Any) -> dict[str, Any]:
    """An answer of LiteLLM's as the upstream wrote it."""
    if isinstance(answer, dict):
        return answer
    try:
        return answer.model_dump(exclude_none=True)
    except (AttributeError, ValueError, TypeError):
        return {}


def _status_of(error: BaseException) -> int:
    """The HTTP status of a failure; 0: it has none."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and not isinstance(status, bool) else 0


def _cost_nothing(error: BaseException) -> bool:
    """Whether a failure says that there was no answer: an error by its status, and no time-out."""
    return _status_of(error) >= 400 and _status_of(error) not in MAYBE_GENERATED


async def _no_probe(body: bytes) -> bytes:
    raise IbpoError("a plug-in cannot probe the policy")
