"""The policy before training: what anchors the bodies, and what the gains are regressed on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ibpo.rollouts.hf import pad_left


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that no training of the original can move.

    TRL patches `forward` on the instance, under adapters on the base model's; a plain deep copy keeps that attribute,
    which calls the original, and would silently answer with the live weights.
    """
    copied = copy.deepcopy(model)
    for module in copied.modules():
        module.__dict__.pop("forward", None)
    return copied.eval().requires_grad_(False)


def prompt_features(model: PreTrainedModel, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Last layer's hidden state at the prompt's last token, and its mean over the prompt: float [P, 2 D]."""
    ids, mask = pad_left([list(p) for p in prompts], tokenizer.pad_token_id)
    ids, mask = ids.to(model.device), mask.to(model.device)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, logits_to_keep=1)
    hidden, mask = out.hidden_states[-1].double(), mask[..., None].double()
    return torch.cat([hidden[:, -1], (hidden * mask).sum(1) / mask.sum(1)], 1).cpu().numpy()
