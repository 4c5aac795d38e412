"""The update written out, response by response: what the trainer's step is held against."""

from __future__ import annotations

from typing import Any

import torch

from ibpo.rollouts import encode_prompt
from ibpo.training.trainer import IBPOTrainer


class Recorder(IBPOTrainer):
    """Keeps what was sampled on this rank, and how the responses of all ranks were allotted and weighed."""

    seen: list[tuple[list[list[int]], list[list[int]], Any]]
    selections: list[Any]

    def _record(self, view, weights):
        super()._record(view, weights)
        self.selections = [*getattr(self, "selections", []), view.selection]

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.seen = [
            *getattr(self, "seen", []),
            (list(self.handover.prompt_ids), completion_ids_list, self.handover.weights.copy()),
        ]
        return rewards


class Replay(Recorder):
    """Samples nothing: its rollouts are recorded ones, `recorded` in the order of the prompts."""

    recorded: list[list[int]]

    def _roll_out(self, prompts, trainer):
        self.handover.prompt_ids = [encode_prompt(self.processing_class, prompt) for prompt in prompts]
        first = self.accelerator.process_index * len(prompts)
        completion_ids = [list(ids) for ids in self.recorded[first : first + len(prompts)]]
        return {"prompt_ids": self.handover.prompt_ids, "completion_ids": completion_ids, "logprobs": None}


def completion_logps(model, prompt, completion):
    """Log-probabilities [T, V] at each token of the completion."""
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1)


def closed_form_gradient(model, initial, batches, prefix_ids):
    """Of - sum_i [c_i log pi(opening_i) + b_i log pi(body_i) - a_i KL(pi_0 || pi on body_i)] / P, one by one.

    With respect to the parameters that are trained; `model` is left with their gradients.
    """
    model = model.train()
    num_prompts = sum(len(prompts) for prompts, _, _ in batches) // 4
    for prompts, completions, weights in batches:
        for prompt, completion, (choice, body, anchor) in zip(prompts, completions, weights, strict=True):
            if not (choice or body or anchor):
                continue
            policy = completion_logps(model, prompt, completion)
            with torch.no_grad():
                start = completion_logps(initial, prompt, completion)
            logps = policy[range(len(completion)), completion]
            divergence = (start.exp() * (start - policy)).sum(-1)
            n = len(next((p for p in prefix_ids if completion[: len(p)] == p), completion[:1]))
            loss = -choice * logps[:n].sum() - body * logps[n:].sum() + anchor * divergence[n:].sum()
            (loss / num_prompts).backward()
    return flat([p.grad for p in model.parameters() if p.requires_grad])


def flat(tensors):
    """All numbers in a row."""
    return torch.cat([t.detach().flatten() for t in tensors])


def relative_error(got, expected):
    """In the Euclidean norm; the expected vector must not vanish, or nothing was tested."""
    assert expected.norm() > 1e-3
    return float((got - expected).norm() / expected.norm())
