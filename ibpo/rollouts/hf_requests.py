"""The transformers sampler behind the protocol of all samplers: requests in, responses out, batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch

from ibpo.errors import IbpoError
from ibpo.rollouts.hf import HFSampler
from ibpo.rollouts.prompts import PromptWriter
from ibpo.rollouts.sampler import Request, Sampled
from ibpo.rollouts.scoring import rollout_of_ids


class HFRequestSampler:
    """Answers requests by an `HFSampler`, `batch_size` at a time, bucketed by opening and length of prompt.

    The seed of a batch follows from its requests, so the same requests get the same responses; a rerun that asks for
    some of them only gets others. Completions count their prefix, and keep special tokens but for the end of sequence.
    """

    def __init__(self, sampler: HFSampler, writer: PromptWriter, *, seed: int = 0, batch_size: int = 64) -> None:
        self.sampler, self.writer, self.seed, self.batch_size = sampler, writer, seed, batch_size

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `Sampler`; a prompt that leaves the model no room is an error of its own."""
        asked = []
        room = getattr(self.sampler.model.config, "max_position_embeddings", None)
        length = self.sampler.max_completion_length
        for request in requests:
            prompt, prefix = self.writer.ids(request)
            if room is not None and len(prompt) + length > room:
                yield IbpoError(
                    f"problem {request.problem.problem_id}: {length} tokens after the {len(prompt)} of the prompt "
                    f"exceed the model's {room} positions; lower the limit or leave the problem out"
                )
            else:
                asked.append((request, prompt, prefix))
        asked.sort(key=lambda one: (one[2], len(one[1])))
        for start in range(0, len(asked), self.batch_size):
            batch = asked[start : start + self.batch_size]
            torch.manual_seed(_seed_of([request for request, _, _ in batch], self.seed))
            completions = self.sampler.sample([prompt for _, prompt, _ in batch], [prefix for _, _, prefix in batch])
            for (request, prompt, _), ids in zip(batch, completions, strict=True):
                yield self._sampled(request, prompt, ids)

    def _sampled(self, request: Request, prompt: list[int], ids: list[int]) -> Sampled:
        tokenizer = self.sampler.tokenizer
        eos = {tokenizer.eos_token_id}
        rollout = rollout_of_ids(tokenizer, request.problem.problem_id, prompt, ids, eos_token_ids=eos)
        return Sampled.of_rollout(request, rollout)


def _seed_of(requests: Sequence[Request], seed: int) -> int:
    keys = "\n".join(request.key for request in requests)
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{keys}".encode(), digest_size=4).digest(), "big") >> 1
