"""What does the next turn of a conversation cost by each response group, given whose cache holds what came before?

A provider bills the part of a prompt that its cache holds at a fraction of the price; a cache belongs to one model, at
one effort. So who answers the next turn otherwise than the last one pays for the whole history again: with the cost in
money, and what the cache saves in it, the controller's own rule (gain less price times cost) switches only where the
gain beats what the cache would have saved.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ibpo.errors import IbpoError
from ibpo.prices import Price, TokenUse
from ibpo.serving.controller import LARGEST, show

_LEARNING = 1 / 16
"""Weight of a new report about a cache."""


class Conversations:
    """Tracks how much of each conversation each group's cache holds. In memory; not for several processes.

    What upstreams report of their caches is learned from (`answered`): how much of what a group's own cache should hold
    it does hold, and how much of another's it can use. Some servers have one cache for all efforts, some have none.

    Args:
        prices: Response group -> what its model bills.
        seconds: How long a cache lives after its last use: five minutes with most providers.
        most: Conversations that are remembered; the one that was silent longest is forgotten first.

    Raises:
        IbpoError: No response group, or a number that is not above 0.

    Example:
        >>> price = Price(input=1.0, cached_input=0.1, cache_write=1.0, output=10.0, reasoning=10.0)
        >>> chats = Conversations({"standard": price, "extended": price})
        >>> lengths = {"standard": 100.0, "extended": 1000.0}
        >>> chats.costs("a", 10_000, lengths, now=0.0)
        {'standard': 0.011, 'extended': 0.02}
        >>> chats.answered("a", "extended", 11_000, now=0.0)
        >>> chats.costs("a", 11_100, lengths, now=60.0)
        {'standard': 0.0121, 'extended': 0.0112}
    """

    def __init__(self, prices: Mapping[str, Price], *, seconds: float = 300.0, most: int = 10_000) -> None:
        if not prices or not seconds > 0 or most < 1:
            raise IbpoError(
                f"conversations need the price of each response group, seconds > 0 and most >= 1; they are "
                f"{list(prices)}, {show(seconds)} and {show(most)}"
            )
        self.prices, self.seconds, self._most = dict(prices), seconds, most
        self._caches: OrderedDict[str, dict[str, _Cache]] = OrderedDict()
        self._kept: dict[str, float] = {}  # response group -> part of its own cache that was there
        self._shared: dict[str, float] = {}  # -> part of another's cache that it could use

    def costs(
        self, conversation: str, prompt_tokens: float, output_tokens: Mapping[str, float], *, now: float
    ) -> dict[str, float]:
        """Expected cost of the next turn in money, for `Candidate.cost`.

        Args:
            conversation: Its name, e.g. `conversation_key`'s.
            prompt_tokens: All of the prompt, the history included.
            output_tokens: Response group -> expected tokens of the answer, thoughts included.
            now: Seconds, by any clock that goes on.

        Raises:
            IbpoError: A response group without a price, a number that is not finite, or tokens below 0.
        """
        return {
            group: self.price_of(group).of(self.use(conversation, group, prompt_tokens, tokens, now=now))
            for group, tokens in output_tokens.items()
        }

    def use(self, conversation: str, group: str, prompt_tokens: float, output_tokens: float, *, now: float) -> TokenUse:
        """The tokens as they will be billed, if the caches do what they did.

        Raises:
            IbpoError: A number that is not finite, or tokens below 0.
        """
        _check(prompt_tokens=prompt_tokens, output_tokens=output_tokens, now=now)
        own, other = self._held(conversation, group, prompt_tokens, now)
        cached = max(self._kept.get(group, 1.0) * own, self._shared.get(group, 0.0) * other)
        return TokenUse(input=prompt_tokens - cached, cached_input=cached, output=output_tokens)

    def answered(
        self,
        conversation: str,
        group: str,
        tokens: float,
        *,
        now: float,
        prompt_tokens: float = 0.0,
        cached_tokens: float | None = None,
    ) -> None:
        """A turn has been answered by this response group: its cache holds this many tokens now.

        Args:
            conversation: As for `costs`.
            group: The one that answered.
            tokens: Tokens of the prompt, and of the answer as far as the next prompt repeats it (thoughts are left
                out).
            now: Seconds.
            prompt_tokens: Tokens of the prompt alone.
            cached_tokens: Those of them that were billed as cached; None: it is not reported.
        """
        self.price_of(group)
        _check(tokens=tokens, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens or 0.0, now=now)
        if cached_tokens is not None:
            own, other = self._held(conversation, group, prompt_tokens, now)
            rates, expected, usual = (self._kept, own, 1.0) if own > 0 else (self._shared, other, 0.0)
            if expected > 0:
                known = rates.get(group, usual)
                rates[group] = known + (min(1.0, cached_tokens / expected) - known) * _LEARNING
        caches = self._caches.setdefault(conversation, {})
        self._caches.move_to_end(conversation)
        caches[group] = _Cache(tokens, now)
        while len(self._caches) > self._most:
            self._caches.popitem(last=False)

    def size(self, conversation: str) -> float:
        """Tokens of the conversation so far, by the fullest of its caches, alive or not; 0 where it is not known."""
        return max((cache.tokens for cache in self._caches.get(conversation, {}).values()), default=0.0)

    def last_group(self, conversation: str, *, now: float) -> str | None:
        """Who answered last, if that cache still lives."""
        caches = self._caches.get(conversation, {})
        alive = {group: cache.used for group, cache in caches.items() if now - cache.used <= self.seconds}
        return max(alive, key=alive.__getitem__) if alive else None

    def _held(self, conversation: str, group: str, prompt_tokens: float, now: float) -> tuple[float, float]:
        """Tokens of the prompt in the group's own cache, and in the fullest of the others."""
        own = other = 0.0
        for name, cache in self._caches.get(conversation, {}).items():
            if now - cache.used <= self.seconds:
                tokens = min(cache.tokens, prompt_tokens)
                own, other = (tokens, other) if name == group else (own, max(other, tokens))
        return own, other

    def price_of(self, group: str) -> Price:
        """The price of a response group.

        Raises:
            IbpoError: It has none.
        """
        found = self.prices.get(group)
        if found is None:
            raise IbpoError(f"response group {group!r} has no price; known: {', '.join(self.prices)}")
        return found

    def state_dict(self) -> dict[str, Any]:
        """What is known, for JSON."""
        caches = {name: {group: list(cache) for group, cache in row.items()} for name, row in self._caches.items()}
        return {"caches": caches, "kept": self._kept, "shared": self._shared}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; response groups without a price are left out.

        Raises:
            IbpoError: A state of something else.
        """
        try:
            caches = {
                name: {
                    group: _Cache(_within(tokens, 0.0, LARGEST), _within(used, -LARGEST, LARGEST))
                    for group, (tokens, used) in row.items()
                    if group in self.prices
                }
                for name, row in state["caches"].items()
            }
            kept, shared = (
                {name: _within(rate, 0.0, 1.0) for name, rate in state[key].items()} for key in ("kept", "shared")
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise IbpoError(f"state: not one of Conversations.state_dict: {error!r}; start again without it") from None
        self._caches.update((name, row) for name, row in caches.items() if row)
        self._kept, self._shared = kept, shared


def _check(now: float, **tokens: float) -> None:
    """Check what a caller says, before anything is remembered of it."""
    for name, value in (*tokens.items(), ("now", abs(now))):
        if not 0 <= value <= LARGEST:
            raise IbpoError(f"conversations: {name} is {show(value)}; it must be finite, and tokens at least 0")


def _within(value: float, least: float, most: float) -> float:
    """A number of a state: a part above 1 would make a turn's cost negative.

    Raises:
        ValueError: It is not one, or out of range.
    """
    if not least <= (found := float(value)) <= most:
        raise ValueError(f"{found} is not from {least:g} to {most:g}")
    return found


class _Cache(NamedTuple):
    tokens: float
    used: float


def conversation_key(messages: Sequence[Mapping[str, Any]], given: str | None = None) -> str:
    """Which conversation does a chat belong to? What the caller says, else a hash of how it began.

    That is all messages up to the first of the user: every later turn repeats them. Two conversations that begin alike
    share their name, and indeed the cache of that beginning, but what is known of the rest is then the later one's.

    Example:
        >>> first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
        >>> later = [*first, {"role": "assistant", "content": "4"}, {"role": "user", "content": "3 + 3?"}]
        >>> conversation_key(first) == conversation_key(later) != conversation_key(later[2:])
        True
    """
    if given:
        return given
    place = next((i for i, message in enumerate(messages) if message.get("role") == "user"), len(messages) - 1)
    text = json.dumps([[m.get("role"), m.get("content")] for m in messages[: place + 1]], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
