"""The loss of an update: weighted SFT, through TRL's loss with weights per token, and the KL penalty.

    L = - (1/P) sum_i sum_t w_it log pi(y_it | x_i, y_i,<t)  +  (1/P) sum_j a_j sum_t KL(pi_0 || pi)(y_j,<t)

with w_it the weight of response i's prefix or completion at token t, a_j the KL weight of response j, pi_0 the
reference model. The prefix is what opens a response and chooses its group; the completion is what follows it. The
weights of whole responses are made in `ibpo.training.trainer.weigh_responses`.

Letters: R responses of all ranks, B rows of this rank, b of them kept, T tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ibpo.responses import EncodedGroups
from ibpo.training.config import IBPOConfig

KL_GROWS = 0.45, 0.7
"""Parts of the training between which the KL weight grows from `kl_weight_start` to `kl_weight`."""
NUM_PARTS = 4
"""Parts of like length in which the KL penalty is computed: short responses are not padded to the longest."""


def kl_weight_at(args: IBPOConfig, done: float) -> float:
    """Weight of the KL penalty after the part `done` of the training: constant, growing on a straight line, constant.

    A strong penalty from the start keeps the choice of the response group from forming; too weak a one to the end
    leaves the completions eroded. Once the choice is sharp, both are possible (docs/log.md has the measurement).
    """
    first, last = KL_GROWS
    grown = min(1.0, max(0.0, (done - first) / (last - first)))
    return args.kl_weight_start + grown * (args.kl_weight - args.kl_weight_start)


def draw_kl_rows(prompt: np.ndarray, response_group: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which responses get the KL penalty: one of each response group, drawn at random, on a share of the prompts.

    Siblings of one group share most of their contexts, so another prompt holds more than another sibling; and a group
    of short answers has few tokens to be held by, so it must not be held on fewer prompts (docs/log.md has the
    measurement).

    Args:
        prompt: int [R].
        response_group: int [R], -1 for a response of none, which gets no penalty.
        share: of the prompts, in [0, 1].
        rng: draws prompts and responses.

    Returns:
        bool [R].

    Example:
        >>> prompt, group = np.repeat([0, 1, 2, 3], 4), np.tile([0, 0, 1, 1], 4)
        >>> drawn = draw_kl_rows(prompt, group, 0.5, np.random.default_rng(0))
        >>> np.bincount(prompt, drawn).tolist(), np.bincount(group, drawn).tolist()
        ([2.0, 0.0, 2.0, 0.0], [2.0, 2.0])
    """
    prompts = rng.permutation(np.unique(prompt))
    order = rng.permutation(np.flatnonzero(np.isin(prompt, prompts[: round(share * len(prompts))])))
    order = order[response_group[order] >= 0]
    _, first = np.unique(np.stack([prompt, response_group], 1)[order], axis=0, return_index=True)
    drawn = np.zeros(len(prompt), bool)
    drawn[order[first]] = True
    return drawn


# -- from weights of responses to weights of tokens ---------------------------------------------------------------


def prefix_mask(completion_ids: torch.Tensor, groups: EncodedGroups) -> torch.Tensor:
    """Which tokens choose the response group (`EncodedGroups.num_opening_tokens`): bool [B, T]."""
    mask = torch.zeros_like(completion_ids, dtype=torch.bool)
    for i, ids in enumerate(completion_ids.tolist()):
        mask[i, : groups.num_opening_tokens(ids)] = True
    return mask


def rows_to_keep(weights: np.ndarray, multiple: int, num_ranks: int = 1, rank: int = 0) -> list[int]:
    """This rank's rows that carry weight, filled up with rows that carry none to a positive multiple.

    As many on every rank: TRL gathers a number per row, and ranks that bring different numbers of them break silently.

    Args:
        weights: [R, 3] of the responses of all ranks, one rank after the other.
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
    num_updates: int,
    rank: int,
    num_ranks: int,
) -> tuple[dict[str, Any], torch.Tensor]:
    """TRL's batch of one generation, its advantages replaced by weights, rows without any weight left out.

    TRL's dr_grpo divides the sum over tokens by rows x `max_completion_length`, DDP averages over ranks. The weights
    are scaled so that what comes out is the sum over responses divided by the number of prompts of all ranks.

    Args:
        batch: of `GRPOTrainer._generate_and_score_completions`; its `advantages` are overwritten.
        weights: [R, 3] of prefix, completion and KL penalty (`weigh_responses`), one rank after the other.
        groups: the response groups.
        num_generations: responses of a prompt.
        max_completion_length: in tokens.
        steps_per_generation: into how many parts the rows are split; the number of rows is a multiple of it.
        num_updates: that these parts are: each of them has its part of the rows, and the whole (1/P) sum's weight.
        rank: whose rows the batch has.
        num_ranks: among which the responses are split evenly.

    Returns:
        The batch that the updates see, with `advantages` [b, T], `kl_weight` [b] and `kl_mask` [b, T] for the b rows
        kept, cut to their longest completion; and the weights w_it of all rows [B, T], 0 behind their completions.
    """
    num_rows = len(batch["completion_ids"])
    local = weights[rank * num_rows : (rank + 1) * num_rows]
    keep = rows_to_keep(weights, steps_per_generation, num_ranks, rank)
    num_prompts = max(1, len(weights) // num_generations)
    # w_it: undo TRL's rows x length and DDP's ranks, and divide by P.
    scale = len(keep) * max_completion_length * num_ranks / num_prompts
    prefix = prefix_mask(batch["completion_ids"], groups)
    of_prefix, of_completion = torch.tensor(local[:, :2].T, dtype=torch.float32, device=prefix.device)[..., None]
    per_token = torch.where(prefix, of_prefix, of_completion)
    batch["advantages"] = advantages = per_token * scale
    # a_j: the penalty is added to TRL's loss, which DDP averages over ranks, and which is of a part of the rows.
    kl_weight = torch.tensor(local[:, 2] * num_updates * num_ranks / num_prompts, dtype=advantages.dtype)
    batch["kl_weight"] = kl_weight.to(advantages.device)
    batch["kl_mask"] = batch["completion_mask"] * ~prefix
    batch.pop("old_per_token_logps", None)
    index = torch.tensor(keep, device=advantages.device)
    return take_rows(batch, index), per_token * batch["completion_mask"]


def take_rows(batch: dict[str, Any], index: torch.Tensor) -> dict[str, Any]:
    """These rows of a batch, without the columns in which none of them has a token."""
    num_rows = len(batch["completion_mask"])
    taken = {
        name: value[index] if isinstance(value, torch.Tensor) and value.dim() and len(value) == num_rows else value
        for name, value in batch.items()
    }
    longest = int(taken["completion_mask"].sum(1).max())
    per_token = ("completion_ids", "completion_mask", "advantages", "kl_mask")
    return taken | {name: taken[name][:, :longest] for name in per_token}


def by_length(index: torch.Tensor, completion_mask: torch.Tensor) -> list[torch.Tensor]:
    """Rows with short completions apart from rows with long ones, as padding costs as much as tokens."""
    length = completion_mask[index].sum(1)
    return list(index[length.argsort(stable=True)].tensor_split(min(2, len(index))))


# -- the KL penalty -----------------------------------------------------------------------------------------------


def kl_penalty(
    policy: Any, reference_model: Any, inputs: dict[str, torch.Tensor], temperature: float, *, in_step: bool = False
) -> torch.Tensor:
    """sum_j a_j sum_t KL(pi_0 || pi) at token t of completion j: float [].

    Computed in parts of like length, so that answers at once are not padded to the length of the longest working.

    Args:
        policy: pi; the gradient flows through it alone.
        reference_model: pi_0.
        inputs: TRL's batch, with `prompt_ids`, `completion_ids` and their masks, `kl_weight` [B] and `kl_mask` [B, T].
        temperature: of both.
        in_step: run the policy equally often whatever the rows: with several ranks every forward pass communicates.
    """
    rows = inputs["kl_weight"].nonzero()[:, 0]
    if not len(rows):
        rows = rows.new_zeros(1)
    # By the length of the completion, those of one length by the prompt's.
    lengths = inputs["completion_mask"][rows].sum(1) * inputs["prompt_ids"].shape[1]
    lengths = lengths + inputs["prompt_mask"][rows].sum(1)
    rows = rows[lengths.argsort(stable=True)]
    parts = list(rows.tensor_split(min(NUM_PARTS, len(rows))))
    penalty = inputs["kl_weight"].new_zeros(())
    weighted = [(part, inputs["kl_weight"][part]) for part in parts]
    if in_step:
        weighted += [(rows[:1], penalty[None])] * (NUM_PARTS - len(parts))
    for part, weight in weighted:
        kl_mask = inputs["kl_mask"][part]
        divergence = token_divergence(policy, reference_model, inputs, part, temperature)
        penalty = penalty + (divergence * kl_mask[:, : divergence.shape[1]]).sum(1) @ weight.to(divergence.dtype)
    return penalty


def token_divergence(
    policy: Any, reference_model: Any, inputs: dict[str, torch.Tensor], rows: torch.Tensor, temperature: float
) -> torch.Tensor:
    """KL(pi_0 || pi) of the next-token distributions at each token of some completions: float [rows, longest].

    Exact, over the whole vocabulary and without sampling: it has no noise at pi_0, where it vanishes.

    Args:
        policy: pi; the gradient flows through it alone.
        reference_model: pi_0.
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
        reference = log_probabilities(reference_model)
    divergence = torch.nn.functional.kl_div(log_probabilities(policy), reference, log_target=True, reduction="none")
    return divergence.sum(-1)
