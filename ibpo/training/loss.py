"""The update: what each response weighs, weighted SFT per token through TRL's loss, and the KL that holds the bodies.

Letters: B rows of this rank, T tokens, R responses of all ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ibpo.responses import EncodedGroups
from ibpo.training.config import IBPOConfig
from ibpo.training.lower_level import Batch, Selection

ANCHOR_GROWS = 0.45, 0.7
"""Parts of the training between which the anchor grows from `anchor_weight_start` to `anchor_weight`."""

NUM_PARTS = 4


def anchor_weight_at(args: IBPOConfig, done: float) -> float:
    """Weight of the anchor after the part `done` of the training: constant, growing on a straight line, constant.

    A strong anchor from the start keeps the choice of the response group from forming; a weak one to the end leaves the
    bodies eroded. Once the choice is sharp, both can be had (docs/log.md has the measurement).
    """
    first, last = ANCHOR_GROWS
    grown = min(1.0, max(0.0, (done - first) / (last - first)))
    return args.anchor_weight_start + grown * (args.anchor_weight - args.anchor_weight_start)


def held_responses(
    prompt: np.ndarray, response_group: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Which responses to anchor: one of each response group, drawn at random, on a share of the prompts.

    Siblings of one group share most of their contexts, so another prompt holds more than another sibling; and a group
    of short answers has few tokens to be held by, so it must not be held on fewer prompts (docs/log.md has the
    measurement).

    Args:
        prompt: int [R].
        response_group: int [R], -1 for a response of none, which is not held.
        share: of the prompts, in [0, 1].
        rng: draws prompts and responses.

    Returns:
        bool [R].

    Example:
        >>> prompt, group = np.repeat([0, 1, 2, 3], 4), np.tile([0, 0, 1, 1], 4)
        >>> held = held_responses(prompt, group, 0.5, np.random.default_rng(0))
        >>> np.bincount(prompt, held).tolist(), np.bincount(group, held).tolist()
        ([2.0, 0.0, 2.0, 0.0], [2.0, 2.0])
    """
    prompts = rng.permutation(np.unique(prompt))
    order = rng.permutation(np.flatnonzero(np.isin(prompt, prompts[: round(share * len(prompts))])))
    order = order[response_group[order] >= 0]
    _, first = np.unique(np.stack([prompt, response_group], 1)[order], axis=0, return_index=True)
    held = np.zeros(len(prompt), bool)
    held[order[first]] = True
    return held


def anchor_loss(
    policy: Any, initial_policy: Any, inputs: dict[str, torch.Tensor], temperature: float, *, in_step: bool = False
) -> torch.Tensor:
    """sum_j anchor_j sum_t KL(pi_0 || pi) at token t of body j: float [].

    Computed in parts of like length, so that answers at once are not padded to the length of the longest working.

    Args:
        policy: pi; the gradient flows through it alone.
        initial_policy: pi_0.
        inputs: TRL's batch, with `prompt_ids`, `completion_ids` and their masks, `anchor` [B] and `body_mask` [B, T].
        temperature: of both.
        in_step: run the policy equally often whatever the rows: with several ranks every forward pass communicates.
    """
    rows = inputs["anchor"].nonzero()[:, 0]
    if not len(rows):
        rows = rows.new_zeros(1)
    # By the length of the completion, those of one length by the prompt's.
    lengths = inputs["completion_mask"][rows].sum(1) * inputs["prompt_ids"].shape[1]
    lengths = lengths + inputs["prompt_mask"][rows].sum(1)
    rows = rows[lengths.argsort(stable=True)]
    parts = list(rows.tensor_split(min(NUM_PARTS, len(rows))))
    idle = [rows[:1]] * (NUM_PARTS - len(parts)) if in_step else []
    pull = inputs["anchor"].new_zeros(())
    for part, weight in [*((part, inputs["anchor"][part]) for part in parts), *((part, pull[None]) for part in idle)]:
        body_mask = inputs["body_mask"][part]
        divergence = token_divergence(policy, initial_policy, inputs, part, temperature)
        pull = pull + (divergence * body_mask[:, : divergence.shape[1]]).sum(1) @ weight.to(divergence.dtype)
    return pull


def token_divergence(
    policy: Any, initial_policy: Any, inputs: dict[str, torch.Tensor], rows: torch.Tensor, temperature: float
) -> torch.Tensor:
    """KL(pi_0 || pi) of the next-token distributions at each token of some completions: float [rows, longest].

    Exact, over the whole vocabulary and without sampling: it has no noise at pi_0, where it vanishes.

    Args:
        policy: pi; the gradient flows through it alone.
        initial_policy: pi_0.
        inputs: TRL's batch, with `prompt_ids`, `completion_ids` and their masks.
        rows: indices of the completions.
        temperature: of both.
    """
    longest = int(inputs["completion_mask"][rows].sum(1).max())
    padding = inputs["prompt_mask"].shape[1] - int(inputs["prompt_mask"][rows].sum(1).max())
    ids, mask = (
        torch.cat([inputs[f"prompt_{kind}"][rows, padding:], inputs[f"completion_{kind}"][rows, :longest]], 1)
        for kind in ("ids", "mask")
    )
    keep = longest + 1

    def log_probabilities(model: Any) -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep).logits[:, :-1]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return torch.log_softmax(logits / temperature, -1)

    with torch.no_grad():
        initial = log_probabilities(initial_policy)
    divergence = torch.nn.functional.kl_div(log_probabilities(policy), initial, log_target=True, reduction="none")
    return divergence.sum(-1)


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
