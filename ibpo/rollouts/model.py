"""Sampling what is asked for from a local model: the `Sampler` protocol on `HFSampler`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ibpo.errors import IbpoError
from ibpo.responses.groups import offer
from ibpo.rollouts.hf import HFSampler
from ibpo.rollouts.sampler import Request, Sampled, seed_of
from ibpo.types import ResponseGroup, Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSampler:
    """Responses of a transformers model, a batch at a time; a rerun of the same requests gives the same ones."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    """Of the completion, forced prefix included."""
    temperature: float = 1.0
    seed: int = 0
    batch_size: int = 64
    response_groups: Sequence[ResponseGroup] = ()
    """Whose instructions the prompt carries; a request of one response group carries that one's alone."""
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Goes to the chat template, e.g. `enable_thinking`."""

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `Sampler`; a problem that leaves no room for a response is that request's error."""
        tokenizer: Any = self.tokenizer
        sampler = HFSampler(
            self.model,
            self.tokenizer,
            max_completion_length=self.max_tokens,
            temperature=self.temperature,
            batch_size=self.batch_size,
        )
        room = getattr(self.model.config, "max_position_embeddings", None)
        for start in range(0, len(requests), self.batch_size):
            batch = list(requests[start : start + self.batch_size])
            prompts = [self.prompt_ids(request) for request in batch]
            for request, prompt in zip(batch, prompts, strict=True):
                if room is not None and len(prompt) + self.max_tokens > room:
                    yield IbpoError(
                        f"problem {request.problem.problem_id}: {len(prompt)} tokens and {self.max_tokens} more exceed "
                        f"the model's {room} positions; lower --max-tokens to {max(room - len(prompt), 0)}"
                    )
            fits = [i for i, prompt in enumerate(prompts) if room is None or len(prompt) + self.max_tokens <= room]
            if not fits:
                continue
            torch.manual_seed(seed_of(batch[fits[0]], self.seed))
            prefixes = [tokenizer(batch[i].prefix, add_special_tokens=False)["input_ids"] for i in fits]
            completions = sampler.sample(
                [prompts[i] for i in fits], [p if batch[i].prefix else [] for i, p in zip(fits, prefixes, strict=True)]
            )
            for i, ids in zip(fits, completions, strict=True):
                yield self._sampled(batch[i], prompts[i], ids)

    def prompt_ids(self, request: Request) -> list[int]:
        """The prompt's token ids, instructions in front of the problem, by the chat template where there is one."""
        tokenizer: Any = self.tokenizer
        asked = [g for g in self.response_groups if request.response_group in ("", g.name)]
        prompt = offer(asked, request.problem.prompt, chat=bool(tokenizer.chat_template))
        if isinstance(prompt, str):
            return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        options = dict(self.template_options)
        return list(
            tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True, **options)["input_ids"]
        )

    def _sampled(self, request: Request, prompt: list[int], ids: list[int]) -> Sampled:
        stopped = bool(ids) and ids[-1] == self.tokenizer.eos_token_id
        body = ids[:-1] if stopped else ids
        rollout = Rollout(
            problem_id=request.problem.problem_id,
            prompt_token_ids=tuple(prompt),
            completion_token_ids=tuple(ids),
            completion=str(self.tokenizer.decode(body, skip_special_tokens=False)),
            finish_reason="stop" if stopped else "length",
        )
        return Sampled(request=request, rollout=rollout, num_prompt_tokens=len(prompt), num_completion_tokens=len(ids))
