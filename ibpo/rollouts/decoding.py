"""Decoding: one loop over a model's forward pass, which nothing in `generation_config.json` can change.

Every distinct prompt is read once, and its cache is repeated for its siblings. Responses that have ended leave the
batch, and waiting prompts take their places (with full attention in all layers; elsewhere a batch is decoded to its
end). Prefixes are forced as the first tokens. Models whose cache is not transformers' `DynamicCache` go through their
own `generate`.

Letters: B rows in the batch, L columns of the cache, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from ibpo.errors import IbpoError

TokenIds = Sequence[int]

ROOM = 32
"""Columns that a layer's cache grows by: copying all keys and values at every token costs a tenth of a step."""
REFILL_AT = 4
"""Waiting prompts are read once this part of the batch is free (a quarter): few at a time would be read slowly."""
LARGE_VOCABULARY = 8192
COMPACT_AT = 8
"""Ended responses leave the batch once they are this part of it (an eighth): leaving copies the rest of the cache."""


LEARNED_POSITIONS = ("gpt2", "gpt_neo", "gpt_bigcode", "openai-gpt")
"""Types of models that count positions from the first token, padding included, where `position_ids` are not given."""


def count_positions_by_mask(model: Any) -> None:
    """Make a model count positions from a prompt's first token: batches are padded left, and TRL gives no positions.

    Otherwise a prompt is read differently next to a longer one, and trained as it is never asked. transformers 5.23.
    """
    config = getattr(model, "config", None)
    if getattr(config, "model_type", "") not in LEARNED_POSITIONS or getattr(model, "counts_by_mask", False):
        return
    model.counts_by_mask = True

    def add_positions(module: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        is_given = given.get("position_ids") is not None or given.get("past_key_values") is not None
        if not is_given and ids is not None and mask is not None and mask.shape == ids.shape:
            given = {**given, "position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0)}
        return args, given

    model.register_forward_pre_hook(add_positions, with_kwargs=True)


def pad_left(rows: Sequence[TokenIds], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Put token ids of unequal length into one batch, padded on the left: ids and attention mask, int [B, L]."""
    longest = max(len(r) for r in rows)
    ids = torch.full((len(rows), longest), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, longest - len(row) :] = 1
    return ids, mask


def sample_next(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Tokens from the full distribution, or the likeliest at temperature 0: int [B] from float [B, V].

    By one uniform number a row, where its cumulative distribution reaches it. `torch.multinomial` draws V exponential
    ones, which takes a seventh of a step of a small model with a large vocabulary; with a small one it stays, so that
    the embedded experiments draw for a seed what their tables were made with.
    """
    if not temperature:
        return logits.argmax(-1)
    chance = torch.softmax(logits.float() / temperature, -1)
    if not chance[:, 0].isfinite().all():  # one NaN or infinite logit makes NaN of the whole row
        raise IbpoError(
            "the model's logits are NaN or infinite, so that no token can be drawn: its weights are broken. In a "
            "training lower the learning rate and go on from a checkpoint before; else load it in float32"
        )
    if chance.shape[-1] < LARGE_VOCABULARY:
        return torch.multinomial(chance, 1)[:, 0]
    below = chance.cumsum(-1, dtype=torch.float64)
    total = below[:, -1:]
    at = torch.rand(len(below), 1, dtype=torch.float64, device=below.device) * total
    at = torch.minimum(at, torch.nextafter(total, torch.zeros_like(total)))  # rounded up, it would be behind them all
    return torch.searchsorted(below, at, right=True)[:, 0]


class GrowingLayer(DynamicLayer):
    """Keys and values [B, heads, L, size] of full attention, with room for the next tokens."""

    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[torch.Tensor | None] = [None, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens; returns those of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = self._append(0, self.keys, key_states), self._append(1, self.values, value_states)
        return self.keys, self.values

    def _append(self, which: int, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        if not old.numel():
            return new
        length, end, room = old.shape[-2], old.shape[-2] + new.shape[-2], self._rooms[which]
        if room is None or room.shape[-2] < end:
            room = self._rooms[which] = old.new_empty((*old.shape[:-2], end + ROOM, old.shape[-1]))
            room[..., :length, :] = old
        room[..., length:end, :] = new
        return room[..., :end, :]

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows; a row may be taken several times, or not at all."""
        super().reorder_cache(beam_idx)  # pyright: ignore[reportArgumentType]
        self._rooms = [None, None]

    def join(self, keep: torch.Tensor, first: int, other: GrowingLayer, width: int) -> None:
        """Rows `keep` without their first columns, then those of another cache; padded on the left to `width`."""
        joined = []
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            both = mine.new_zeros((len(keep) + len(theirs), mine.shape[1], width, mine.shape[3]))
            both[: len(keep), :, width - (mine.shape[2] - first) :] = mine[keep, :, first:]
            both[len(keep) :, :, width - theirs.shape[2] :] = theirs
            joined.append(both)
        self.keys, self.values = joined
        self._rooms = [None, None]


@dataclass(kw_only=True, slots=True)
class Decoding:
    """The batch that is being decoded; rows that have ended stay in it until it is compacted."""

    rows: list[int]
    """Which response each row is, or -1 for one that has ended."""
    cache: DynamicCache
    mask: torch.Tensor
    """int [B, L]: 0 for padding."""
    logits: torch.Tensor
    """float [B, V]: of the next token."""

    @property
    def alive(self) -> list[int]:
        """Rows that have not ended."""
        return [slot for slot, row in enumerate(self.rows) if row >= 0]

    @property
    def can_join(self) -> bool:
        """Whether other rows can be put next to these in the cache."""
        return all(type(layer) is GrowingLayer for layer in self.cache.layers)

    def select(self, slots: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may be taken several times."""
        if list(slots) == list(range(len(self.mask))):
            return
        index = torch.tensor(slots, device=self.mask.device)
        self.cache.reorder_cache(index)  # pyright: ignore[reportArgumentType]
        self.mask, self.logits = self.mask[index], self.logits[index]

    def join(self, other: Decoding) -> None:
        """Rows of another batch in the places of those that have ended."""
        alive = self.alive
        keep = torch.tensor(alive, device=self.mask.device)
        mask = self.mask[keep]
        first = int(mask.argmax(1).min())  # columns before are padding in every row
        width = max(mask.shape[1] - first, other.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            assert isinstance(mine, GrowingLayer) and isinstance(theirs, GrowingLayer)
            mine.join(keep, first, theirs, width)
            theirs.keys = theirs.values = None  # one layer at a time: not twice the memory
        padded = [torch.nn.functional.pad(m, (width - m.shape[1], 0)) for m in (mask[:, first:], other.mask)]
        self.rows = [self.rows[slot] for slot in alive] + other.rows
        self.mask, self.logits = torch.cat(padded), torch.cat([self.logits[keep], other.logits])


class Decoder:
    """Samples continuations of prompts from the full distribution of a model.

    Args:
        model: a causal language model, possibly under adapters.
        eos_token_ids: ids that end a response.
        pad_token_id: any id of the vocabulary.
        max_completion_length: of a response, its prefix and the end-of-sequence token included.
        temperature: of the distribution; 0: the likeliest token.
        batch_size: rows that are decoded at once.
    """

    def __init__(
        self,
        model: Any,
        *,
        eos_token_ids: Collection[int],
        pad_token_id: int,
        max_completion_length: int,
        temperature: float,
        batch_size: int,
    ) -> None:
        self.model, self.eos, self.pad = model, frozenset(eos_token_ids), pad_token_id
        self.limit, self.temperature = max_completion_length, temperature
        self.batch_size = batch_size
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.config = bare.config
        self.takes = inspect.signature(bare.forward).parameters
        self.has_dynamic_cache = "past_key_values" in self.takes and bare._supports_default_dynamic_cache()

    @torch.no_grad()
    def next_token_logits(self, prompts: Sequence[TokenIds]) -> torch.Tensor:
        """Logits of the token that opens a response, one row per prompt: float [P, V]."""
        rows = []
        for start in range(0, len(prompts), self.batch_size):
            ids, mask = self._pad(prompts[start : start + self.batch_size])
            rows.append(self._forward(ids, mask, None).float())
        return torch.cat(rows)

    @torch.no_grad()
    def decode(self, prompts: Sequence[TokenIds], prefixes: Sequence[TokenIds]) -> list[list[int]]:
        """One response to each prompt, its prefix included; an empty prefix leaves the opening to the model.

        A prefix that holds an end-of-sequence token, or fills the limit, is the whole response.
        """
        done: list[list[int]] = [[] for _ in prompts]
        siblings: dict[tuple[int, ...], list[int]] = {}
        for i in sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), len(prefixes[i]))):
            if len(prefixes[i]) >= self.limit or self.eos & set(prefixes[i]):
                done[i] = list(prefixes[i])
            else:
                siblings.setdefault(tuple(prompts[i]), []).append(i)
        waiting = deque(siblings.items())
        if not self.has_dynamic_cache:
            self._generate(waiting, prefixes, done)
            return done
        batch: Decoding | None = None
        while batch or waiting:
            if waiting and (batch is None or batch.can_join):
                batch = self._refill(batch, waiting)
            assert batch is not None
            self._write(batch, prefixes, done)
            alive = batch.alive
            if not alive:
                batch = None
                continue
            ended = len(batch.rows) - len(alive)
            if ended * COMPACT_AT >= len(batch.rows) and not (waiting and batch.can_join):
                batch.select(alive)
                batch.rows = [batch.rows[slot] for slot in alive]
            last = [done[row][-1] if row >= 0 else self.pad for row in batch.rows]
            ids = torch.tensor(last, device=batch.mask.device)[:, None]
            batch.mask = torch.nn.functional.pad(batch.mask, (0, 1), value=1)
            batch.logits = self._forward(ids, batch.mask, batch.cache)
        return done

    def _refill(self, batch: Decoding | None, waiting: deque[tuple[tuple[int, ...], list[int]]]) -> Decoding:
        """Read waiting prompts where enough of the batch is free; siblings come together where they fit."""
        free = self.batch_size - (len(batch.alive) if batch else 0)
        if batch and free * REFILL_AT < self.batch_size:
            return batch
        prompts: list[tuple[int, ...]] = []
        rows: list[int] = []
        source: list[int] = []
        while waiting and len(rows) < free:
            prompt, asked = waiting[0]
            room = free - len(rows)
            if len(asked) > room and (rows or (batch and 2 * free < self.batch_size)):
                break  # they come together, later; those of one prompt that are more than half a batch do not
            rows += asked[:room]
            source += [len(prompts)] * len(asked[:room])
            prompts.append(prompt)
            if len(asked) > room:
                waiting[0] = (prompt, asked[room:])
            else:
                waiting.popleft()
        if not rows:
            assert batch is not None
            return batch
        cache = DynamicCache(config=self.config)
        cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
        ids, mask = self._pad(prompts)
        new = Decoding(rows=rows, cache=cache, mask=mask, logits=self._forward(ids, mask, cache))
        new.select(source)
        if batch is None:
            return new
        batch.join(new)
        return batch

    def _write(self, batch: Decoding, prefixes: Sequence[TokenIds], done: list[list[int]]) -> None:
        """One more token of every row that has not ended: of its prefix, else sampled."""
        for slot, token in enumerate(sample_next(batch.logits, self.temperature).tolist()):
            row = batch.rows[slot]
            if row < 0:
                continue
            response, prefix = done[row], prefixes[row]
            token = prefix[len(response)] if len(response) < len(prefix) else token
            response.append(token)
            if token in self.eos or len(response) == self.limit:
                batch.rows[slot] = -1

    def _pad(self, prompts: Sequence[TokenIds]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = pad_left(prompts, self.pad)
        return ids.to(self.model.device), mask.to(self.model.device)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache | None) -> torch.Tensor:
        """Logits behind the last of these tokens: [B, V]; `mask` covers what is in the cache, too."""
        options: dict[str, Any] = {"use_cache": cache is not None}
        if cache is not None:
            options["past_key_values"] = cache
        if "logits_to_keep" in self.takes:
            options["logits_to_keep"] = 1
        if "position_ids" in self.takes:
            options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.model(input_ids=ids, attention_mask=mask, **options).logits[:, -1]

    def _generate(
        self, waiting: deque[tuple[tuple[int, ...], list[int]]], prefixes: Sequence[TokenIds], done: list[list[int]]
    ) -> None:
        """By the model's own `generate`, batch by batch, in an order in which those of one length come together."""
        begun = [(i, [*prompt, *prefixes[i]]) for prompt, rows in waiting for i in rows]
        begun.sort(key=lambda one: (len(prefixes[one[0]]), len(one[1])))
        how: dict[str, Any] = {"do_sample": False}
        if self.temperature:
            how = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        theirs = self.model.generation_config
        start = 0
        while start < len(begun):
            length = len(prefixes[begun[start][0]])
            batch = [one for one in begun[start : start + self.batch_size] if len(prefixes[one[0]]) == length]
            start += len(batch)
            ids, mask = self._pad([ids for _, ids in batch])
            self.model.generation_config = GenerationConfig()  # what is not set would be taken from it
            try:
                config = GenerationConfig(
                    max_new_tokens=self.limit - length,
                    eos_token_id=sorted(self.eos),
                    pad_token_id=self.pad,
                    disable_compile=True,
                    **how,
                )
                out = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            finally:
                self.model.generation_config = theirs
            for (i, _), written in zip(batch, out[:, ids.shape[1] :].tolist(), strict=True):
                end = next((n for n, token in enumerate(written) if token in self.eos), len(written))
                done[i] = [*prefixes[i], *written[: end + 1]]
