"""Which rows TRL's loss sees, and with which weight per token: weighted SFT in the clothes of GRPO.

Letters: B rows of this rank, T tokens, R responses of all ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ibpo.responses.groups import EncodedGroups
from ibpo.training.weights import openings, rows_to_keep


def weighted_batch(
    batch: dict[str, Any],
    weights: np.ndarray,
    groups: EncodedGroups,
    *,
    num_generations: int,
    max_completion_length: int,
    steps_per_generation: int,
    rank: int,
    num_ranks: int,
) -> tuple[dict[str, Any], torch.Tensor]:
    """TRL's batch of one generation, its advantages replaced by weights, rows without any weight left out.

    TRL's dr_grpo divides the sum over tokens by rows x `max_completion_length`, DDP averages over ranks. The weights
    are scaled so that what comes out is the sum over responses divided by the number of prompts of all ranks.

    Args:
        batch: of `GRPOTrainer._generate_and_score_completions`; its `advantages` are overwritten.
        weights: [R, 3] of opening, body and anchor (`response_weights`), one rank after the other.
        groups: the response groups.
        num_generations: responses of a prompt.
        max_completion_length: in tokens.
        steps_per_generation: into how many updates the rows are split, hence of how many rows there is a multiple.
        rank: whose rows the batch has.
        num_ranks: among which the responses are split evenly.

    Returns:
        The batch that the updates see, with `advantages` [b, T], `anchor` [b] and `body_mask` [b, T] for the b rows
        kept, cut to their longest completion; and the weights of all rows [B, T].
    """
    num_rows = len(batch["completion_ids"])
    local = weights[rank * num_rows : (rank + 1) * num_rows]
    keep = rows_to_keep(weights, steps_per_generation, num_ranks, rank)
    num_prompts = max(1, len(weights) // num_generations)
    scale = len(keep) * max_completion_length * num_ranks / num_prompts
    opening = openings(batch["completion_ids"], groups)
    choice, body = torch.tensor(local[:, :2].T, dtype=torch.float32, device=opening.device)[..., None]
    advantages = torch.where(opening, choice, body) * scale
    batch["advantages"] = advantages
    anchor = torch.tensor(local[:, 2] * num_ranks / num_prompts, dtype=advantages.dtype)
    batch["anchor"] = anchor.to(advantages.device)
    batch["body_mask"] = batch["completion_mask"] * ~opening
    batch.pop("old_per_token_logps", None)
    index = torch.tensor(keep, device=advantages.device)
    return take_rows(batch, index), advantages


def by_length(index: torch.Tensor, completion_mask: torch.Tensor) -> list[torch.Tensor]:
    """Rows with short completions apart from rows with long ones, as padding costs as much as tokens."""
    length = completion_mask[index].sum(1)
    return list(index[length.argsort(stable=True)].tensor_split(min(2, len(index))))


def take_rows(batch: dict[str, Any], index: torch.Tensor) -> dict[str, Any]:
    """These rows of a batch, without the columns in which none of them has a token."""
    num_rows = len(batch["completion_mask"])
    taken = {
        name: value[index] if isinstance(value, torch.Tensor) and value.dim() and len(value) == num_rows else value
        for name, value in batch.items()
    }
    longest = int(taken["completion_mask"].sum(1).max())
    per_token = ("completion_ids", "completion_mask", "advantages", "body_mask")
    return taken | {name: taken[name][:, :longest] for name in per_token}
