"""Sampling from a transformers model: batches of one response group each, opened by forced tokens where asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

TokenIds = Sequence[int]


def pad_left(rows: list[list[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, padded on the left to the longest row, and their attention mask: int [B, T] each."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_token_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return ids, mask


class HFSampler:
    """Samples completions at temperature `temperature` from the full distribution (no top-k, no top-p); at 0, greedily.

    A completion consists of its prefix (forced tokens), what the model wrote after it, and the end-of-sequence token
    if it was reached within `max_completion_length` tokens, prefix included. The randomness is torch's global
    generator.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_completion_length: int,
        temperature: float = 1.0,
        batch_size: int = 256,
        chunk: int = 32,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        """Tokens are decoded `chunk` at a time; `on_batch` is told the size of each finished batch (progress bars)."""
        # The stubs know neither generate() on a model nor that a token's id is one number.
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.max_completion_length, self.temperature, self.batch_size = max_completion_length, temperature, batch_size
        self.chunk = chunk
        self.on_batch = on_batch or (lambda _: None)

    @torch.no_grad()
    def next_token_logits(self, prompts: Sequence[TokenIds]) -> torch.Tensor:
        """Logits of the token that opens a response, one row per prompt: float [P, V]."""
        rows = []
        for start in range(0, len(prompts), self.batch_size):
            batch = [list(p) for p in prompts[start : start + self.batch_size]]
            ids, mask = pad_left(batch, self.tokenizer.pad_token_id)
            ids, mask = ids.to(self.model.device), mask.to(self.model.device)
            rows.append(self.model(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits[:, -1].float())
        return torch.cat(rows)

    def sample(self, prompts: Sequence[TokenIds], prefixes: Sequence[TokenIds]) -> list[list[int]]:
        """One completion per prompt; an empty prefix lets the model choose how to open its response.

        The opening token of unforced responses is sampled first, then all rows are decoded in batches of rows that open
        alike: the distribution is the same, and short responses do not wait for long ones.
        """
        opened = [list(p) for p in prefixes]
        free = [i for i, p in enumerate(opened) if not p]
        if free:
            logits = self.next_token_logits([prompts[i] for i in free])
            if self.temperature:
                tokens = torch.multinomial(torch.softmax(logits / self.temperature, -1), 1)[:, 0]
            else:
                tokens = logits.argmax(-1)
            for i, token in zip(free, tokens.tolist(), strict=True):
                opened[i] = [token]
        done: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (opened[i], len(prompts[i])))
        by_opening: dict[tuple[int, ...], list[int]] = {}
        for i in order:
            by_opening.setdefault(tuple(opened[i]), []).append(i)
        for opening, rows in by_opening.items():
            for start in range(0, len(rows), self.batch_size):
                batch = rows[start : start + self.batch_size]
                for i, body in zip(batch, self._decode([[*prompts[i], *opening] for i in batch], opening), strict=True):
                    done[i] = [*opening, *body]
                self.on_batch(len(batch))
        return done

    def _decode(self, rows: list[list[int]], opening: tuple[int, ...]) -> list[list[int]]:
        """Decode in chunks of tokens; rows that have ended leave the batch, so short ones do not pay for long ones."""
        eos = self.tokenizer.eos_token_id
        bodies: list[list[int]] = [[] for _ in rows]
        room = self.max_completion_length - len(opening)
        alive = [] if eos in opening else list(range(len(rows)))
        while alive and room > 0:
            step = min(self.chunk, room)
            room -= step
            chunks = self._generate([rows[i] + bodies[i] for i in alive], step)
            for i, ids in zip(alive, chunks, strict=True):
                bodies[i] += ids[: ids.index(eos) + 1] if eos in ids else ids
            alive = [i for i in alive if bodies[i][-1] != eos]
        return bodies

    @torch.no_grad()
    def _generate(self, rows: list[list[int]], num_tokens: int) -> list[list[int]]:
        ids, mask = pad_left(rows, self.tokenizer.pad_token_id)
        was_training = self.model.training
        self.model.eval()
        how: dict[str, Any] = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        out = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            **how if self.temperature else {"do_sample": False},
            max_new_tokens=num_tokens,
            cache_implementation="static",
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            disable_compile=True,
        )
        self.model.train(was_training)
        return out[:, ids.shape[1] :].tolist()
