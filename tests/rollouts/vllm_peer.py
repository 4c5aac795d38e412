"""A stand-in with vLLM's signatures (LLM.generate, SamplingParams, RequestOutput) that really decodes, on transformers.

vLLM needs a GPU. What is checked against this peer is our side of the seam: what is asked, per request, and how the
answers are read. Names, positions and defaults as in vLLM's source of 2026 (entrypoints/llm.py, sampling_params.py,
outputs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 16


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool


class LLM:
    """Refuses a whole call for one prompt that is too long, as vLLM does."""

    def __init__(self, model: Any, tokenizer: Any, max_model_len: int) -> None:
        self.model, self.tokenizer, self.max_model_len = model, tokenizer, max_model_len
        self.calls: list[list[SamplingParams]] = []

    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
        priority: list[int] | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        del use_tqdm, lora_request, priority, tokenization_kwargs
        given: Any = sampling_params if isinstance(sampling_params, Sequence) else [sampling_params] * len(prompts)
        if len(given) != len(prompts):
            raise ValueError("The lengths of prompts and params must be the same.")
        for prompt in prompts:
            if len(prompt["prompt_token_ids"]) > self.max_model_len:
                raise ValueError(f"The decoder prompt is longer than the maximum model length of {self.max_model_len}.")
        self.calls.append(list(given))
        return [self._one(i, p["prompt_token_ids"], s) for i, (p, s) in enumerate(zip(prompts, given, strict=True))]

    @torch.no_grad()
    def _one(self, number: int, prompt: list[int], params: SamplingParams) -> RequestOutput:
        torch.manual_seed(params.seed or 0)
        out = self.model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=params.temperature > 0,
            temperature=params.temperature or None,
            top_k=params.top_k,
            top_p=params.top_p,
            max_new_tokens=params.max_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        ids = out[0, len(prompt) :].tolist()
        ended = ids[-1] == self.tokenizer.eos_token_id
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        output = CompletionOutput(index=0, text=text, token_ids=ids, finish_reason="stop" if ended else "length")
        return RequestOutput(request_id=str(number), prompt_token_ids=prompt, outputs=[output], finished=True)
