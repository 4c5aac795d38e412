"""What does an answer cost in money, before it is made and afterwards? Prices, prompts, and what caches hold of them.

Before: the prompt's tokens are guessed by its bytes and what earlier prompts of the model had per byte; those that a
cache holds (`ibpo.serving.conversation`) are billed at its price, so that a switch of the response group has to gain
more than the cache that it loses. After: by the upstream's usage, as far as it says.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ibpo.errors import IbpoError
from ibpo.prices import Price, TokenUse, read_prompt_use
from ibpo.serving.conversation import Conversations, conversation_key
from ibpo.serving.gateway.openai_request import OpenAIRequest
from ibpo.serving.gateway.settings import GroupSettings, ModelSettings, Settings

CONVERSATION_HEADER = "x-ibpo-conversation"
PROMPT_FIELDS = (
    *("messages", "input", "prompt", "system", "instructions", "tools", "functions", "response_format", "documents"),
    *("text", "mcp_servers", "prediction"),
)
"""Fields of a request that become tokens of the prompt."""
TOKENS_PER_BYTE = 0.25
"""Before anything is known of a model's prompts."""
HIDDEN_TOKENS = 1000
"""What a chat template or a server's own instructions may add to a prompt's bytes: more is history that the
upstream keeps, or a file, and says nothing of the next prompt."""
MOST_PROMPT_TOKENS = 1 << 27
"""More than any model reads: a larger report is wrong, and one that is believed would end the budget."""
MOST_RESPONSES = 16_384
MOST_MODELS, MOST_NAME = 1024, 256
"""Most models as callers name them, which some upstreams ignore: the last ones, by the beginnings of their names."""
_MEMORY = 64
_FREE = Price(input=0.0, cached_input=0.0, cache_write=0.0, output=0.0, reasoning=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What is known of one request's cost in money before it is decided."""

    conversation: str
    """"": it belongs to none."""
    prompt_tokens: float
    """Expected."""
    prompt_bytes: int
    """At least as many as tokens can be."""
    now: float
    tenant: str = ""
    kept_tokens: float = 0.0
    """The part of the prompt that the upstream keeps of earlier turns (`previous_response_id`, `conversation`)."""


class Biller:
    """Prices requests and answers, and remembers whose cache holds what.

    Args:
        settings: With prices of models, and `[conversation]`.
    """

    def __init__(self, settings: Settings) -> None:
        prices = {
            _name(model, group): model.price_of(group) or _FREE
            for model in settings.model
            for group in model.response_group
        }
        self.is_priced = any(price is not _FREE for price in prices.values())
        self.switch_gain = settings.conversation.switch_gain
        self._chats = Conversations(prices, seconds=settings.conversation.cache_seconds) if prices else None
        self._ratios: OrderedDict[str, tuple[float, float]] = OrderedDict()  # model -> tokens, bytes of its prompts
        self._responses: OrderedDict[str, str] = OrderedDict()  # tenant and id of a response -> conversation
        self._thinking: dict[str, tuple[float, float]] = {}  # response group -> tokens of its thoughts, and of all

    def begin(
        self, request: OpenAIRequest, caller: Mapping[str, str], tenant: str, now: float, size: int | None = None
    ) -> Bill:
        """Look at a request; `size` as `measure_prompt` says, where it has been asked."""
        size = measure_prompt(request.body) if size is None else size
        tokens, of_bytes = self._ratios.get(request.model[:MOST_NAME], (TOKENS_PER_BYTE, 1.0))
        before = request.body.get("previous_response_id") if request.api == "responses" else None
        conversation = self._responses.get(f"{tenant}\0{before}", "") if before else ""
        is_kept = bool(conversation) or (request.api == "responses" and request.body.get("conversation") is not None)
        conversation = conversation or conversation_of(request, caller, tenant)
        kept = self._chats.size(conversation) if is_kept and self._chats is not None else 0.0
        return Bill(
            conversation=conversation,
            prompt_tokens=size * tokens / of_bytes + kept,
            prompt_bytes=size,
            now=now,
            tenant=tenant,
            kept_tokens=kept,
        )

    def expect(self, bill: Bill, model: ModelSettings, group: GroupSettings, tokens: float, probed: int) -> float:
        """Expected cost of an answer of so many tokens; a probe has the prompt read once more, from the cache."""
        name = _name(model, group)
        if self._chats is None or name not in self._chats.prices:
            return 0.0
        use = self._chats.use(bill.conversation, name, bill.prompt_tokens, tokens + probed, now=bill.now)
        thinking, of_tokens = self._thinking.get(name, (0.0, 1.0))
        use = replace(use, reasoning=use.output * thinking / of_tokens)
        return self._chats.prices[name].of(use) + self._probe(name, bill, probed)

    def limit(self, bill: Bill, model: ModelSettings, group: GroupSettings, tokens: float, probed: int) -> float:
        """The most that an answer of so many tokens can cost: nothing of the prompt cached, a token for each byte."""
        name = _name(model, group)
        if self._chats is None or name not in self._chats.prices:
            return 0.0
        price = self._chats.prices[name]
        asked, said = max(price.input, price.cache_write), max(price.output, price.reasoning)
        return (asked * (bill.prompt_bytes + bill.kept_tokens) + said * (tokens + probed)) / 1e6 + self._probe(
            name, bill, probed
        )

    def charge(
        self,
        bill: Bill,
        model: ModelSettings,
        group: GroupSettings,
        *,
        tokens: float,
        reasoning: float,
        probed: int,
        prompt: TokenUse | None,
    ) -> float:
        """What an answer has cost.

        Args:
            bill: As the request was seen.
            model: Its model.
            group: Its response group.
            tokens: Tokens of the completion, thoughts included.
            reasoning: Tokens of the thoughts.
            probed: Tokens that the probe generated.
            prompt: The prompt's tokens as the upstream reports them; None: as expected.
        """
        name = _name(model, group)
        if self._chats is None or name not in self._chats.prices:
            return 0.0
        if prompt is None:
            prompt = self._chats.use(bill.conversation, name, bill.prompt_tokens, 0.0, now=bill.now)
        use = TokenUse(
            input=prompt.input,
            cached_input=prompt.cached_input,
            cache_write=prompt.cache_write,
            output=tokens + probed,
            reasoning=reasoning,
        )
        return self._chats.prices[name].of(use) + self._probe(name, bill, probed)

    def compare(self, model: ModelSettings, response_group: str, prompt: TokenUse) -> tuple[float, float]:
        """What a prompt, cached as it was, would be billed by another response group, and its price of an output token.

        Thoughts are priced apart where the settings say so, at their part of what the group has written so far.
        """
        name = f"{model.name}/{response_group}"
        if self._chats is None or name not in self._chats.prices:
            return 0.0, 0.0
        price = self._chats.prices[name]
        thinking, of_tokens = self._thinking.get(name, (0.0, 1.0))
        rate = price.output + (price.reasoning - price.output) * min(1.0, thinking / of_tokens)
        asked = price.input * prompt.input + price.cached_input * prompt.cached_input
        return (asked + price.cache_write * prompt.cache_write) / 1e6, rate / 1e6

    def learn(
        self,
        bill: Bill,
        request: OpenAIRequest,
        model: ModelSettings,
        group: GroupSettings,
        *,
        tokens: float,
        reasoning: float,
        prompt: TokenUse | None,
        response_id: str = "",
    ) -> None:
        """An answer is complete: its cache holds the prompt and what was said, without the thoughts."""
        whole, conversation = bill.prompt_tokens, bill.conversation
        if request.api == "responses" and response_id:  # the next turn may name it
            key = f"{bill.tenant}\0{response_id}"
            conversation = conversation or hashlib.blake2b(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
            self._responses[key] = conversation
            if len(self._responses) > MOST_RESPONSES:
                self._responses.popitem(last=False)
        if prompt is not None and bill.prompt_bytes:
            whole = prompt.input + prompt.cached_input + prompt.cache_write
            new = max(0.0, whole - bill.kept_tokens)
            if new <= bill.prompt_bytes + HIDDEN_TOKENS:
                called = request.model[:MOST_NAME]
                self._ratios[called] = _add(self._ratios.pop(called, None), new, bill.prompt_bytes)
                if len(self._ratios) > MOST_MODELS:
                    self._ratios.popitem(last=False)
        name = _name(model, group)
        self._thinking[name] = _add(self._thinking.get(name), reasoning, max(1.0, tokens))
        if conversation and self._chats is not None and name in self._chats.prices:
            self._chats.answered(
                conversation,
                name,
                whole + tokens - reasoning,
                now=bill.now,
                prompt_tokens=whole,
                cached_tokens=None if prompt is None else prompt.cached_input,
            )

    def penalty(self, bill: Bill, model: ModelSettings, group: GroupSettings) -> float:
        """What the group's gain counts less because another answered this conversation last."""
        if not self.switch_gain or self._chats is None or not bill.conversation:
            return 0.0
        last = self._chats.last_group(bill.conversation, now=bill.now)
        return self.switch_gain if last not in (None, _name(model, group)) else 0.0

    def _probe(self, name: str, bill: Bill, probed: int) -> float:
        if not probed or self._chats is None:
            return 0.0
        return self._chats.prices[name].of(TokenUse(cached_input=bill.prompt_tokens))

    def state_dict(self) -> dict[str, Any]:
        """What is known of prompts and caches, for JSON."""
        chats = None if self._chats is None else self._chats.state_dict()
        responses = list(self._responses.items())
        return {"chats": chats, "ratios": self._ratios, "thinking": self._thinking, "responses": responses}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            IbpoError: A state of something else.
        """
        try:
            ratios, thinking = (
                {name: _pair(row) for name, row in state.get(key, {}).items()} for key in ("ratios", "thinking")
            )
            responses = OrderedDict((str(name), str(chat)) for name, chat in state.get("responses", ()))
            chats = state.get("chats")
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            raise IbpoError(f"state: not one of Biller.state_dict: {error!r}; start again without it") from None
        if self._chats is not None and chats:
            self._chats.load_state(chats)
        self._ratios, self._thinking, self._responses = OrderedDict(ratios), thinking, responses


def open_biller(settings: Settings) -> Biller | None:
    """A biller, where prices or conversations matter."""
    biller = Biller(settings)
    return biller if biller.is_priced or biller.switch_gain > 0 else None


def measure_prompt(body: Mapping[str, Any]) -> int:
    """Bytes of the fields that become the prompt, as JSON: no tokenizer makes more tokens of them.

    Example:
        >>> measure_prompt({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5})
        32
    """
    given = [body[name] for name in PROMPT_FIELDS if body.get(name) is not None]
    return sum(len(json.dumps(value, separators=(",", ":"))) for value in given)


def conversation_of(request: OpenAIRequest, caller: Mapping[str, str], tenant: str) -> str:
    """Which conversation a request belongs to; "": none.

    What the caller says (`x-ibpo-conversation`), what the API has for it, else how its messages begin; each tenant's
    and each model's are its own.
    """
    body = request.body
    given = caller.get(CONVERSATION_HEADER, "").strip()
    if not given and isinstance(held := body.get("conversation"), str | dict):  # of /v1/responses
        given = json.dumps(held, sort_keys=True)
    if not given:
        rows = body.get("messages") if request.api != "responses" else body.get("input")
        if not isinstance(rows, list):
            return ""
        messages = [row for row in rows if isinstance(row, dict)]
        if not messages:
            return ""
        head = body.get("system") or body.get("instructions")
        given = conversation_key([{"role": "system", "content": head}, *messages] if head else messages)
    text = f"{tenant}\0{request.model}\0{given}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def read_prompt(usages: Iterable[Mapping[str, Any]]) -> TokenUse | None:
    """The prompt's tokens by the fullest of an answer's usages; None: none of them says, or none can be believed.

    Example:
        >>> read_prompt([{"completion_tokens": 5}]), read_prompt([{"prompt_tokens": 9}, {"prompt_tokens": 1e308}]).input
        (None, 9.0)
    """
    found = [use for use in map(read_prompt_use, usages) if 0 < _prompt_tokens(use) <= MOST_PROMPT_TOKENS]
    return max(found, key=_prompt_tokens, default=None)


def refused_prompt(usages: Iterable[Mapping[str, Any]]) -> float | None:
    """The prompt's tokens of a usage that cannot be believed; None: there is none.

    Example:
        >>> refused_prompt([{"prompt_tokens": 9}]), refused_prompt([{"prompt_tokens": 9}, {"prompt_tokens": 1e9}])
        (None, 1000000000.0)
    """
    most = max((_prompt_tokens(read_prompt_use(usage)) for usage in usages), default=0.0)
    return min(most, sys.float_info.max) if most > MOST_PROMPT_TOKENS else None  # JSON has no infinity


def _prompt_tokens(use: TokenUse) -> float:
    return use.input + use.cached_input + use.cache_write


def _add(row: tuple[float, float] | None, one: float, other: float) -> tuple[float, float]:
    """Two sums with fading weights, one entry on."""
    first, second = row or (0.0, 0.0)
    return first * (1 - 1 / _MEMORY) + one, second * (1 - 1 / _MEMORY) + other


def _pair(row: Sequence[float]) -> tuple[float, float]:
    """Two sums of a state, the second of them above 0.

    Raises:
        ValueError: They are not.
    """
    one, other = float(row[0]), float(row[1])
    if not (0 <= one <= sys.float_info.max and 0 < other <= sys.float_info.max):
        raise ValueError(f"{one} and {other} are not sums")
    return one, other


def _name(model: ModelSettings, group: GroupSettings) -> str:
    return f"{model.name}/{group.name}"
