"""Rollouts by vLLM, as TRL runs it (server or colocated), opened by forced tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TokenIds = Sequence[int]


def sample_served(
    generation: Any, prompts: Sequence[TokenIds], prefixes: Sequence[TokenIds], max_completion_length: int
) -> list[list[int]]:
    """One completion per prompt, as `ibpo.rollouts.hf.HFSampler.sample` gives them.

    The prefix goes behind the prompt, and every response is asked for by itself: siblings may open differently. vLLM
    counts `max_completion_length` from the end of the prefix; what is beyond it, prefix included, is cut off here.

    Args:
        generation: `trainer.vllm_generation`.
        prompts: token ids.
        prefixes: token ids that are forced; empty: the policy opens as it likes.
        max_completion_length: prefix and end-of-sequence token included.
    """
    opened = [[*prompt, *prefix] for prompt, prefix in zip(prompts, prefixes, strict=True)]
    _, bodies, _, _ = generation.generate(prompts=opened, images=None, num_generations=1)
    return [[*prefix, *body][:max_completion_length] for prefix, body in zip(prefixes, bodies, strict=True)]
