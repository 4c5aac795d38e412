"""Sampling from a transformers model in this process: load a policy, open responses by forced tokens, decode."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ibpo.errors import IbpoError
from ibpo.rollouts.sampler import PromptWriter, Request, Sampled
from ibpo.rollouts.scoring import rollout_of_ids

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def load_policy(path: str, *, dtype: str = "float32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, on the CPU; code that comes with a model is not run.

    Args:
        path: a local folder, or a hub id such as `Qwen/Qwen2.5-1.5B-Instruct`.
        dtype: of the weights.

    Raises:
        IbpoError: says what is wrong and what to do.
    """
    _check_folder(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise IbpoError(f"{path}: {_reason(path, error)}") from None
    architectures = config.architectures or []
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        found = ", ".join(architectures) or config.model_type
        raise IbpoError(
            f"{path}: is no causal language model but {found}; name one whose architecture is ...ForCausalLM"
        )
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise IbpoError(f"{path}: the weights cannot be loaded: {_reason(path, error)}") from None
    model, info = loaded
    missing = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    if missing:
        raise IbpoError(f"{path}: weights are missing, {len(missing)} in all, first {missing[0]}; copy the model again")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise IbpoError(f"{path}: the tokenizer cannot be loaded: {_reason(path, error)}") from None
    if tokenizer.eos_token_id is None:
        raise IbpoError(f"{path}: the tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    num_embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise IbpoError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, the model {num_embeddings}; "
            "they do not belong together: copy both from one place"
        )
    return model, tokenizer


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
        return "needs code of its own, which is not run here; name a model that transformers itself supports"
    if Path(path).expanduser().is_dir():
        return f"{first[:200]}; copy the model again"
    if isinstance(error, OSError) and ("connect" in str(error) or "offline" in str(error)):
        return (
            "there is no such folder, and the hub cannot be reached; check the connection, "
            "or download the model elsewhere and name its folder"
        )
    return f"{first[:200]}; check the hub id, log in with `hf auth login` if it is gated, or name a local folder"


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
        """Tokens are decoded `chunk` at a time; `on_batch` gets the size of each finished batch (progress bars)."""
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
            prompt, prefix, lead = self.writer.asked(request)
            if room is not None and len(prompt) + length > room:
                yield IbpoError(
                    f"problem {request.problem.problem_id}: {length} tokens after the {len(prompt)} of the prompt "
                    f"exceed the model's {room} positions; lower the limit or leave the problem out"
                )
            else:
                asked.append((request, prompt, prefix, lead))
        asked.sort(key=lambda one: (one[2], len(one[1])))
        for start in range(0, len(asked), self.batch_size):
            batch = asked[start : start + self.batch_size]
            torch.manual_seed(_seed_of([request for request, *_ in batch], self.seed))
            completions = self.sampler.sample([one[1] for one in batch], [one[2] for one in batch])
            for (request, prompt, _, lead), ids in zip(batch, completions, strict=True):
                yield self._sampled(request, prompt, ids, lead)

    def _sampled(self, request: Request, prompt: list[int], ids: list[int], lead: str) -> Sampled:
        tokenizer = self.sampler.tokenizer
        eos = {tokenizer.eos_token_id}
        rollout = rollout_of_ids(tokenizer, request.problem.problem_id, prompt, ids, eos_token_ids=eos, lead=lead)
        return Sampled.of_rollout(request, rollout)


def _seed_of(requests: Sequence[Request], seed: int) -> int:
    keys = "\n".join(request.key for request in requests)
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{keys}".encode(), digest_size=4).digest(), "big") >> 1
