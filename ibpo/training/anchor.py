"""The anchor: the KL divergence that holds the bodies of the responses near the initial policy."""

from __future__ import annotations

from typing import Any

import torch

from ibpo.training.settings import IBPOConfig

ANCHOR_GROWS = 0.3, 0.6
"""Parts of the training between which the anchor grows from `anchor_weight_start` to `anchor_weight`."""


def anchor_weight_at(args: IBPOConfig, done: float) -> float:
    """Weight of the anchor after the part `done` of the training: constant, growing on a straight line, constant.

    A strong anchor from the start keeps the choice of the response group from forming; a weak one to the end leaves the
    bodies eroded. Once the choice is sharp, both can be had (docs/log.md has the measurement).
    """
    first, last = ANCHOR_GROWS
    grown = min(1.0, max(0.0, (done - first) / (last - first)))
    return args.anchor_weight_start + grown * (args.anchor_weight - args.anchor_weight_start)


def token_divergence(
    policy: Any, initial_policy: Any, inputs: dict[str, torch.Tensor], rows: torch.Tensor, temperature: float
) -> torch.Tensor:
    """KL(pi_0 || pi) of the next-token distributions at each token of some completions: float [rows, T].

    Exact, over the whole vocabulary and without sampling: it has no noise at pi_0, where it vanishes.

    Args:
        policy: pi; the gradient flows through it alone.
        initial_policy: pi_0.
        inputs: TRL's batch, with `prompt_ids`, `completion_ids` and their masks.
        rows: indices of the completions.
        temperature: of both.
    """
    ids, mask = (
        torch.cat([inputs[f"prompt_{kind}"], inputs[f"completion_{kind}"]], 1)[rows] for kind in ("ids", "mask")
    )
    keep = inputs["completion_ids"].shape[1] + 1

    def log_probabilities(model: Any) -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep).logits[:, :-1]
        return torch.log_softmax(logits.float() / temperature, -1)

    with torch.no_grad():
        initial = log_probabilities(initial_policy)
    divergence = torch.nn.functional.kl_div(log_probabilities(policy), initial, log_target=True, reduction="none")
    return divergence.sum(-1)
