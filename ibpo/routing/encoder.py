"""A sentence encoder in this process: embeddings of prompts without a server."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.errors import IbpoError
from ibpo.routing.features import FloatArray

_AT_ONCE = 512
"""Tokens, padding included, that go through the model together: more leave the processor's cache, where a prompt takes
twice as long."""
_MOST_TOKENS = 512


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoder:
    """A transformer whose token states are averaged (or the first one taken), and scaled to length 1 where it says so.

    Made by `open_encoder`.
    """

    name: str
    """Name of its folder."""
    sha256: str
    """Hash of its weights: a router that was fitted on others is refused."""
    tokenizer: Any
    model: Any
    first_token: bool
    """Whether the first token's state is the embedding; else it is the mean of all."""
    normalised: bool
    max_tokens: int
    bfloat16: bool
    """Whether matrices are multiplied in bfloat16 (inputs rounded, sums in float32): where the processor does that
    itself it takes .55 to .7 of the time, and turns an embedding by a cosine of .99998."""

    @property
    def num_layers(self) -> int:
        """Transformer layers that a prompt goes through."""
        return len(_layers(self.model)[0])

    def cut(self, num_layers: int) -> Encoder:
        """The same encoder without its last layers; its weights are shared. A prompt's time goes by the layers left.

        With 0 layers the tokens' own embeddings are averaged: which words there are, and no context.

        Raises:
            IbpoError: It does not have so many.
        """
        if not 0 <= num_layers <= self.num_layers:
            raise IbpoError(f"encoder {self.name}: cannot be cut to {num_layers} layers; it has {self.num_layers}")
        shared = {id(weights): weights for weights in (*self.model.parameters(), *self.model.buffers())}
        model = copy.deepcopy(self.model, shared)
        layers, owner, name = _layers(model)
        setattr(owner, name, layers[:num_layers])
        model.config.num_hidden_layers = num_layers
        return replace(self, model=model)

    def embed(self, prompts: Sequence[str]) -> FloatArray:
        """`[N, E]` embeddings; what is beyond `max_tokens` of a prompt is not read."""
        import torch

        found: list[FloatArray] = [np.zeros(0)] * len(prompts)
        ids = self.tokenizer(list(prompts), truncation=True, max_length=self.max_tokens)["input_ids"] if prompts else []
        for places in _batches([len(row) for row in ids]):
            tokens = self.tokenizer.pad({"input_ids": [ids[i] for i in places]}, return_tensors="pt")
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                states = self.model(**tokens).last_hidden_state
            states = states.float()
            mask = tokens["attention_mask"][:, :, None].to(states.dtype)
            vector = states[:, 0] if self.first_token else (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            if self.normalised:
                vector = torch.nn.functional.normalize(vector, dim=1)
            for i, row in zip(places, vector.double().numpy(), strict=True):
                found[i] = row
        return np.array(found)


def _layers(model: Any) -> tuple[Any, Any, str]:
    """The list of a model's layers, the module that has it, and its name there; an empty list where there is none."""
    import torch

    wanted = getattr(model.config, "num_hidden_layers", None)
    for owner in model.modules():
        for name, part in owner.named_children():
            if isinstance(part, torch.nn.ModuleList) and len(part) == wanted:
                return part, owner, name
    return torch.nn.ModuleList(), torch.nn.Module(), "layer"


def _batches(length: Sequence[int]) -> list[list[int]]:
    """Numbers of prompts that go together: alike in length, so that there is little padding.

    Example:
        >>> _batches([300, 200, 210, 4])
        [[3, 1], [2], [0]]
    """
    found: list[list[int]] = []
    for i in sorted(range(len(length)), key=lambda i: length[i]):
        if not found or length[i] * (len(found[-1]) + 1) > _AT_ONCE:
            found.append([])
        found[-1].append(i)
    return found


def open_encoder(folder: str | Path) -> Encoder:
    """Load an encoder from a folder: nothing is downloaded, and no code of the folder is run.

    Args:
        folder: As `save_pretrained` or sentence-transformers write it (`config.json`, `model.safetensors`, a tokenizer;
            `modules.json` and `1_Pooling/config.json`, where there are, say how token states become one vector).

    Raises:
        IbpoError: A package is missing, or there is no encoder.
    """
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise IbpoError(
            f"{folder}: no folder with a config.json; name one of a sentence encoder, e.g. all-MiniLM-L6-v2"
        )
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise IbpoError(f"{folder}: no model.safetensors; save it with save_pretrained(..., safe_serialization=True)")
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise IbpoError(f"an encoder needs {error.name}: pip install 'ibpo[encoder]'") from None
    pooling = _read(path / "1_Pooling" / "config.json")
    modules: Any = _read(path / "modules.json") or []
    most = _read(path / "sentence_bert_config.json").get("max_seq_length")
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        model = AutoModel.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise IbpoError(f"{folder}: the encoder cannot be loaded: {said}; name another folder") from None
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    model, bfloat16 = model.eval().float(), _multiplies_bfloat16()
    if bfloat16:  # once, or autocast rounds them again for every batch: half of the time of a single prompt
        import torch

        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.to(torch.bfloat16)
    return Encoder(
        name=path.resolve().name,
        sha256=digest,
        tokenizer=tokenizer,
        model=model,
        first_token=bool(pooling.get("pooling_mode_cls_token")),
        normalised=any(str(row.get("type", "")).endswith("Normalize") for row in modules),
        max_tokens=int(most or min(_MOST_TOKENS, getattr(model.config, "max_position_embeddings", _MOST_TOKENS))),
        bfloat16=bfloat16,
    )


def _multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it; emulated it is slower than float32."""
    import torch

    able = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _read(path: Path) -> Any:
    """A JSON file of the folder; {} where there is none.

    Raises:
        IbpoError: It is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise IbpoError(f"{path}: cannot be read: {error}; name another folder") from None
