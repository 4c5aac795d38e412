"""Loading a policy from a folder or the hub, with one clear line for everything that can be wrong with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ibpo.errors import IbpoError

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
