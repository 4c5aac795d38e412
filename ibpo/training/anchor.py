"""The anchor: the KL divergence that holds the bodies of the responses near the initial policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ibpo.training.settings import IBPOConfig

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
