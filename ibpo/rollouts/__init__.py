"""The only room that talks to a policy, and the one scorer of what it answers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ibpo.rollouts.sampler import PromptWriter, Request, Sampled, Sampler, renderer
from ibpo.rollouts.scoring import rollout_of_ids, rollout_of_row, score
from ibpo.rollouts.served import EndpointSampler, Forcing, VLLMSampler, load_vllm
from ibpo.rollouts.store import Collected, RolloutStore, collect, settings_of

if TYPE_CHECKING:
    from ibpo.rollouts.hf import HFRequestSampler, HFSampler, load_policy, pad_left

__all__ = [
    "Collected",
    "EndpointSampler",
    "Forcing",
    "HFRequestSampler",
    "HFSampler",
    "PromptWriter",
    "Request",
    "RolloutStore",
    "Sampled",
    "Sampler",
    "VLLMSampler",
    "collect",
    "load_policy",
    "load_vllm",
    "pad_left",
    "renderer",
    "rollout_of_ids",
    "rollout_of_row",
    "score",
    "settings_of",
]


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is first named."""
    if name in __all__:
        return getattr(importlib.import_module("ibpo.rollouts.hf"), name)
    raise AttributeError(f"module 'ibpo.rollouts' has no attribute {name!r}")
