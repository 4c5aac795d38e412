"""What each response weighs in the update, and which rows the update has to look at at all."""

from __future__ import annotations

import numpy as np
import torch

from ibpo.responses.groups import EncodedGroups
from ibpo.training.anchor import anchor_weight_at, held_responses
from ibpo.training.lower_level import Batch, Selection
from ibpo.training.settings import IBPOConfig


def response_weights(
    selection: Selection, batch: Batch, truncated: np.ndarray, args: IBPOConfig, step: int, num_steps: int
) -> np.ndarray:
    """Weights of the opening, of the body and of the anchor, for every response of all ranks: float [R, 3].

    Args:
        selection: what the lower level chose.
        batch: the responses.
        truncated: bool [R]; their bodies are never imitated.
        args: the weights and what they apply to.
        step: number of this update; with `args.seed` it fixes which responses are anchored.
        num_steps: of the whole training.
    """
    reward, chosen = batch.reward, selection.chosen
    usable = (reward > 0) & ~truncated
    imitated = chosen if args.imitate_denied else chosen & usable
    bodies = usable & (selection.best if args.imitate_bodies == "every_group" else chosen)
    if args.imitate_bodies == "rewarded":
        imitated = bodies = usable
    rng = np.random.default_rng([args.seed, step, 1])
    anchored = held_responses(batch.prompt, batch.response_group, args.anchor_share, rng)
    return np.stack(
        [
            np.where(imitated, args.choice_weight, 0.0),
            np.where(bodies, args.body_weight * np.minimum(reward, 1.0), 0.0),
            np.where(anchored & ~truncated, anchor_weight_at(args, step / num_steps), 0.0),
        ],
        1,
    )


def openings(completion_ids: torch.Tensor, groups: EncodedGroups) -> torch.Tensor:
    """Which tokens choose the response group (`EncodedGroups.num_opening_tokens`): bool [B, T]."""
    opening = torch.zeros_like(completion_ids, dtype=torch.bool)
    for i, ids in enumerate(completion_ids.tolist()):
        opening[i, : groups.num_opening_tokens(ids)] = True
    return opening


def rows_to_keep(weights: np.ndarray, multiple: int, num_ranks: int = 1, rank: int = 0) -> list[int]:
    """This rank's rows that carry weight, filled up with rows that carry none to a positive multiple.

    As many on every rank: TRL gathers a number per row, and ranks that bring different numbers of them break silently.

    Args:
        weights: [R, W] of the responses of all ranks, one rank after the other.
        multiple: of how many rows the result has.
        num_ranks: among which the responses are split evenly.
        rank: whose rows are asked for.

    Returns:
        Indices among the rank's own rows, ascending.

    Example:
        >>> weights = np.array([[0], [1], [1], [0], [0], [1]])
        >>> rows_to_keep(weights, 1, num_ranks=2, rank=0), rows_to_keep(weights, 1, num_ranks=2, rank=1)
        ([1, 2], [0, 2])
    """
    used = weights.any(1).reshape(num_ranks, -1)
    count = max(int(used.sum(1).max()), 1)
    order = np.argsort(~used[rank], kind="stable")
    return sorted(order[: -(-count // multiple) * multiple].tolist())
