"""Sampling from a transformers model in this process: load a policy, sample its responses, answer requests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ibpo.errors import IbpoError
from ibpo.rollouts.decoding import Decoder, TokenIds, count_positions_by_mask
from ibpo.rollouts.sampler import PromptWriter, Request, Sampled, rollout_of_ids

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def load_policy(path: str, *, dtype: str = "float32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, on the CPU; code that comes with a model is not run.

    If a model also sees or hears (`...ForConditionalGeneration`), only its language model is loaded
    where transformers has a class for it.

    Args:
        path: a local folder, or a hub id such as `Qwen/Qwen2.5-1.5B-Instruct`.
        dtype: of the weights.

    Raises:
        IbpoError: The model cannot be loaded; says what is wrong and what to do.
    """
    _check_folder(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise IbpoError(f"{path}: {_reason(path, error)}") from None
    architectures, text = config.architectures, config.get_text_config()
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        architectures = []
    is_part = any(name.endswith("ForConditionalGeneration") for name in architectures) and text is not config
    if not is_part and not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        found = ", ".join(architectures) or config.model_type
        raise IbpoError(
            f"{path}: is not a causal language model but {found}; name one whose architecture is ...ForCausalLM"
        )
    try:
        model, missing = _load_weights(path, text if is_part else None, dtype)
        if missing == ["lm_head.weight"] and is_part and config.tie_word_embeddings:
            text.tie_word_embeddings = True  # said of the whole model only
            model, missing = _load_weights(path, text, dtype)
    except Exception as error:
        raise IbpoError(f"{path}: the weights cannot be loaded: {_reason(path, error)}") from None
    if missing:
        raise IbpoError(f"{path}: weights are missing, {len(missing)} in all, first {missing[0]}; copy the model again")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer("1 + 2 =")  # some of its settings are looked at only here
    except Exception as error:
        raise IbpoError(f"{path}: the tokenizer cannot be loaded: {_reason(path, error)}") from None
    if tokenizer.eos_token_id is None:
        raise IbpoError(f"{path}: the tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    count_positions_by_mask(model)
    num_embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise IbpoError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, the model {num_embeddings}; "
            "they do not belong together: copy both from one place"
        )
    return model, tokenizer


PARTS = {r"^(model\.)?language_model\.lm_head\.": "lm_head.", r"^(model\.)?language_model\.(model\.)?": "model."}
"""How the parameters of a language model within another one are called -> how they are called alone."""


def _load_weights(path: str, part: Any, dtype: str) -> tuple[Any, list[str]]:
    """A model, or the part of one that this configuration is of; and the parameters that are not in its weights."""
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "trust_remote_code": False, "output_loading_info": True}
    if part is None:
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, **options)
    elif type(part) in MODEL_FOR_CAUSAL_LM_MAPPING:
        loaded = AutoModelForCausalLM.from_pretrained(path, config=part, key_mapping=PARTS, **options)
    else:
        loaded = AutoModelForImageTextToText.from_pretrained(path, **options)
    model, info = loaded
    return model, sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})


def _check_folder(path: str) -> None:
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise IbpoError(f"{path}: holds no model: there is no config.json; name a folder made by save_pretrained")
        if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
            raise IbpoError(f"{path}: holds no weights (*.safetensors); copy the model again")
    elif folder.exists():
        raise IbpoError(f"{path}: is a file; name the model's folder")
    elif path.startswith((".", "~", os.sep)) or path.count("/") > 1 or not path:
        raise IbpoError(f"{path}: there is no such folder; name a model's folder or a hub id such as Qwen/Qwen2.5-0.5B")


def _reason(path: str, error: Exception) -> str:
    """The first line of what a library says, and what to do."""
    first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if "trust_remote_code" in str(error):
        return "needs its own code, which is not run here; name a model that transformers itself supports"
    if Path(path).expanduser().is_dir():
        return f"{first[:200]}; copy the model again"
    if isinstance(error, OSError) and ("connect" in str(error) or "offline" in str(error)):
        return (
            "there is no such folder, and the hub cannot be reached; check the connection, "
            "or download the model elsewhere and name its folder"
        )
    return f"{first[:200]}; check the hub id, log in with `hf auth login` if it is gated, or name a local folder"


class HFSampler:
    """Samples completions in token ids from the model's full distribution (no top-k, no top-p); at 0, greedily.

    No `generation_config.json` changes it: see `ibpo.rollouts.decoding`. A completion consists of its prefix (forced
    tokens), what the model wrote after it, and the end-of-sequence token if one was reached within
    `max_completion_length` tokens, prefix included. The randomness is torch's global generator.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_completion_length: int,
        temperature: float = 1.0,
        batch_size: int = 256,
    ) -> None:
        # The stubs do not know that a token's id is one number.
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.eos_token_ids = end_of_sequence_ids(model, tokenizer)
        self.max_completion_length, self.temperature, self.batch_size = max_completion_length, temperature, batch_size

    def next_token_logits(self, prompts: Sequence[TokenIds]) -> torch.Tensor:
        """Logits of the token that opens a response, one row per prompt: float [P, V]."""
        with self._decoder() as decoder:
            return decoder.next_token_logits(prompts)

    def sample(self, prompts: Sequence[TokenIds], prefixes: Sequence[TokenIds]) -> list[list[int]]:
        """One completion per prompt; an empty prefix lets the model choose how to open its response."""
        with self._decoder() as decoder:
            return decoder.decode(prompts, prefixes)

    @contextmanager
    def _decoder(self) -> Iterator[Decoder]:
        was_training = self.model.training
        self.model.eval()
        pad = self.tokenizer.pad_token_id
        try:
            yield Decoder(
                self.model,
                eos_token_ids=self.eos_token_ids,
                pad_token_id=0 if pad is None else pad,
                max_completion_length=self.max_completion_length,
                temperature=self.temperature,
                batch_size=self.batch_size,
            )
        finally:
            self.model.train(was_training)


def end_of_sequence_ids(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end a response, the tokenizer's first: many chat models have several.

    Those of the tokenizer, of `generation_config.json`, and of `config.json`: from this only the tokenizer's special
    tokens, as a configuration that names none has its class's default, which may be any token.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    found = [tokenizer.eos_token_id]
    found += _as_list(getattr(model.generation_config, "eos_token_id", None))
    found += [i for i in _as_list(model.config.get_text_config().eos_token_id) if i in special]
    return list(dict.fromkeys(int(i) for i in found if i is not None))


def _as_list(ids: Any) -> list[Any]:
    return list(ids) if isinstance(ids, list | tuple) else [ids]


class HFRequestSampler:
    """Answers requests by an `HFSampler`, `batch_size` at a time, bucketed by opening and length of prompt.

    The seed of a batch follows from its requests, so the same requests get the same responses; a rerun that asks for
    some of them only gets others. Completions count their prefix, and keep special tokens except the end of sequence.
    """

    def __init__(self, sampler: HFSampler, writer: PromptWriter, *, seed: int = 0, batch_size: int = 64) -> None:
        self.sampler, self.writer, self.seed, self.batch_size = sampler, writer, seed, batch_size

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `Sampler`; a prompt that leaves the model no room is an error of its own."""
        asked = []
        room = getattr(self.sampler.model.config, "max_position_embeddings", None)
        length = self.sampler.max_completion_length
        for request in requests:
            prompt, prefix, lead = self.writer.asked(request)
            if room is not None and len(prompt) + length > room:
                yield IbpoError(
                    f"problem {request.problem.problem_id}: {length} tokens after the {len(prompt)} of the prompt "
                    f"exceed the model's {room} positions; lower the limit or leave the problem out"
                )
            else:
                asked.append((request, prompt, prefix, lead))
        asked.sort(key=lambda one: (one[2], len(one[1]), one[1]))  # siblings share what is computed of their prompt
        for start in range(0, len(asked), self.batch_size):
            batch = asked[start : start + self.batch_size]
            torch.manual_seed(_seed_of([request for request, *_ in batch], self.seed))
            completions = self.sampler.sample([one[1] for one in batch], [one[2] for one in batch])
            for (request, prompt, _, lead), ids in zip(batch, completions, strict=True):
                named, eos = request.problem.problem_id, self.sampler.eos_token_ids
                rollout = rollout_of_ids(self.sampler.tokenizer, named, prompt, ids, eos_token_ids=eos, lead=lead)
                yield Sampled.of_rollout(request, rollout)


def _seed_of(requests: Sequence[Request], seed: int) -> int:
    keys = "\n".join(request.key for request in requests)
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{keys}".encode(), digest_size=4).digest(), "big") >> 1
