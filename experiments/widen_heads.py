"""The same Llama with a larger head size: what vLLM's attention kernels take (multiples of 32).

    python -m experiments.widen_heads embedded:thinking FOLDER [--head-dim 32]

The embedded models have heads of 24, which vLLM refuses. No weight is trained again, and no figure moves:

- Head size d becomes D: each head's queries, keys and values get D - d zeros. Rotary positions turn number i of the
  first half with number i of the second, so half of the zeros go behind either half.
- Rotary frequencies are theta^(-2i/d). They stay the same with D and theta' = theta^(D/d).
- Scores are divided by sqrt(D) where they were divided by sqrt(d): queries are multiplied by sqrt(D/d).

Training keeps the zeros: the gradient of a query's padding is a product with the key's padding, which is zero, and the
other way around; so are values and the columns of the output that read them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ibpo.demo import resolve_model
from ibpo.errors import IbpoError


def widen_heads(model: Any, head_dim: int) -> Any:
    """A new `LlamaForCausalLM` in float32 that computes what `model` does, with heads of `head_dim`.

    Raises:
        IbpoError: for another architecture than Llama's with plain rotary positions, or a head size that is not larger
            and even.
    """
    import torch
    from transformers import LlamaForCausalLM

    old = model.config
    before, rope = old.head_dim, dict(old.rope_parameters)
    if old.model_type != "llama" or rope["rope_type"] != "default" or old.attention_bias:
        raise IbpoError("only Llama's attention without bias and with plain rotary positions can be widened")
    if head_dim < before or head_dim % 2 or before % 2:
        raise IbpoError(f"heads of {before} cannot become heads of {head_dim}: an even number, no smaller")
    config = type(old)(**{
        **old.to_dict(),
        "head_dim": head_dim,
        "rope_parameters": {**rope, "rope_theta": rope["rope_theta"] ** (head_dim / before)},
        "dtype": "float32",
    })  # fmt: skip
    weights = {name: value.float() for name, value in model.state_dict().items()}
    half, more = before // 2, (head_dim - before) // 2
    for name, value in weights.items():
        kind = name.split(".")[-2]
        if kind in ("q_proj", "k_proj", "v_proj"):
            heads = value.view(-1, 2, half, value.shape[1])
            wide = torch.nn.functional.pad(heads, (0, 0, 0, more)).reshape(-1, value.shape[1])
            weights[name] = wide * (head_dim / before) ** 0.5 if kind == "q_proj" else wide
        elif kind == "o_proj":
            heads = value.view(value.shape[0], -1, 2, half)
            weights[name] = torch.nn.functional.pad(heads, (0, more)).reshape(value.shape[0], -1)
    wide_model = LlamaForCausalLM(config)
    wide_model.load_state_dict(weights)
    wide_model.generation_config = model.generation_config
    return wide_model.eval()


def write_widened(path: str, folder: Path, head_dim: int = 32) -> Path:
    """Write the widened model and its tokenizer into `folder`.

    Args:
        path: a folder, or `embedded:EXPERIMENT`.
        folder: a new folder.
        head_dim: of the new model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = resolve_model(path)
    widen_heads(AutoModelForCausalLM.from_pretrained(source), head_dim).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, or embedded:thinking, embedded:voting")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--head-dim", type=int, default=32)
    args = parser.parse_args()
    try:
        print(write_widened(args.model, args.folder, args.head_dim))
    except IbpoError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
