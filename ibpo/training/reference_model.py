"""The reference model pi_0, the policy before training: the KL penalty holds to it, and its states predict the gains.

Also where a policy's parameters are split among processes (FSDP, ZeRO-3): what works then, and what is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import create_model_from_path, get_config_model_id

from ibpo.errors import IbpoError
from ibpo.rollouts import count_positions_by_mask, pad_left
from ibpo.training.config import IBPOConfig


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that no training of the original can move.

    TRL patches `forward` on the instance, under adapters on the base model's; a plain deep copy keeps that attribute,
    which calls the original, and would silently answer with the live weights.
    """
    copied = copy.deepcopy(model)
    for module in copied.modules():
        is_patched = module.__dict__.pop("forward", None) is not None
        if is_patched and isinstance(module, torch.nn.Linear):  # TRL's `cast_lm_head_to_fp32` did this in its patch
            module.register_forward_pre_hook(lambda head, given: tuple(x.to(head.weight.dtype) for x in given))
    return copied.eval().requires_grad_(False)


NUM_LAYERS, MAX_FEATURES = 4, 384
"""What `prompt_features` keeps: what a regression over some ten thousand prompts can still learn, and quickly."""


def prompt_features(model: PreTrainedModel, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """What the gains are regressed on: float [P, D], D at most 384; see `features_of`."""
    ids, mask = pad_left([list(p) for p in prompts], tokenizer.pad_token_id)
    ids, mask = ids.to(model.device), mask.to(model.device)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, logits_to_keep=1)
    return features_of(out.hidden_states[1:], mask)


def features_of(layers: Sequence[torch.Tensor], mask: torch.Tensor) -> np.ndarray:
    """Hidden states at the prompt's last token, and their mean over the prompt: float [P, D], D at most 384.

    From up to four layers, evenly spaced, the last among them: the last one knows the next token best, but how hard a
    prompt is shows before, too (docs/log.md has the measurement). If that is more than 384 numbers, a fixed Gaussian
    projection keeps their inner products about as they are (Johnson and Lindenstrauss).

    Args:
        layers: states behind each layer, [P, T, H], prompts padded on the left.
        mask: [P, T].
    """
    count, weight = min(NUM_LAYERS, len(layers)), mask[..., None].double()
    columns = []
    for i in range(1, count + 1):
        hidden = layers[round(i * len(layers) / count) - 1].double()
        columns += [hidden[:, -1], (hidden * weight).sum(1) / weight.sum(1)]
    wide = torch.cat(columns, 1).cpu().numpy()
    if wide.shape[1] <= MAX_FEATURES:
        return wide
    return wide @ _projection(wide.shape[1])


@cache
def _projection(width: int) -> np.ndarray:
    return np.random.default_rng(width).normal(size=(width, MAX_FEATURES)) / np.sqrt(MAX_FEATURES)


def is_sharded(trainer: Any) -> bool:
    """Whether each process holds only a part of every parameter."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return bool(trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3))


def check_sharding(args: IBPOConfig) -> None:
    """Refuse what would wait forever, or write a part of the weights for the whole.

    Raises:
        IbpoError: with the reason and the fix.
    """
    if not args.use_vllm:
        raise IbpoError(
            "IBPOConfig: with sharded parameters (FSDP, ZeRO-3) rollouts need use_vllm=True: a forward pass gathers "
            "parameters from all ranks, and ranks whose responses end sooner would leave the others waiting"
        )
    if args.averaging > 0:
        raise IbpoError("IBPOConfig: averaging needs whole parameters; with FSDP or ZeRO-3 set averaging=0")


def make_reference_model(trainer: Any) -> Any:
    """pi_0: a frozen copy of the policy; loaded again and sharded like the policy where that is sharded.

    The parameters of a sharded model are in parts from the moment it is loaded (ZeRO-3), or on one rank only (FSDP):
    copying it would copy nothing.
    """
    if not is_sharded(trainer):
        copied = frozen_copy(trainer.accelerator.unwrap_model(trainer.model))
        # In the policy's precision: rounding alone would be a divergence, and a penalty at pi_0 itself.
        return trainer.accelerator.prepare_model(copied, evaluation_mode=True)
    # Fresh adapters change nothing (lora_B is 0): what is loaded is the initial policy. Trained ones are not in it.
    trained = [name for name, p in trainer.model.named_parameters() if "lora_B" in name and not p.is_meta and p.any()]
    if trained:
        raise IbpoError(
            "model: with sharded parameters (FSDP, ZeRO-3) the initial policy is loaded from the model's id, and these "
            f"adapters are trained already ({trained[0]}): merge them into the model, save it, and name that folder"
        )
    model = create_model_from_path(get_config_model_id(trainer.model.config), dtype=trainer.model.dtype)
    model.eval().requires_grad_(False)
    count_positions_by_mask(model)
    return (prepare_deepspeed if trainer.is_deepspeed_enabled else prepare_fsdp)(model, trainer.accelerator)
