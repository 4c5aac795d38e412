"""One policy, every budget: a trained choice moved to another share, on prompts without answers.

By how much one opening's logit exceeds the others' says how much its group gains there, at whatever budget that was
learnt. So those differences are made `SHARPNESS` times as large, which takes out most of the sampling noise, and moved
until the mean shares are the budget's. With s = `SHARPNESS` and shifts b,

    pi'(g | x) = pi(some group | x) pi(g | x)^s e^b_g / sum_k pi(k | x)^s e^b_k

What comes out is a plain model whose output matrix differs in one row per response group (`ibpo.training.choice`), and
whose bodies are what they were. Nothing is trained, and no answer is needed; docs/log.md has what it reaches.

Letters: P prompts, G response groups, H width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ibpo.responses import encode_groups
from ibpo.rollouts import HFSampler
from ibpo.training.choice import (
    ChoiceStates,
    FloatArray,
    choose_by_rows,
    into_rows,
    read_bodies,
    read_states,
    with_shares,
)
from ibpo.types import ResponseGroup

SHARPNESS = 8.0
"""Twice as much changes accuracy by less than a tenth of a point; 2 leaves a twentieth of the gain (docs/log.md)."""
NUM_BODIES = 512
"""Prompts whose responses, one of each group, say what must stay as it is."""
LEAST_PROBABILITY = 1e-9


def reprice(
    states: ChoiceStates, target: Sequence[float], bodies: ChoiceStates | None = None
) -> tuple[FloatArray, FloatArray]:
    """Another budget for a policy that has learnt to choose: rows D under which it samples as a threshold would.

    By how much one opening's logit exceeds the others' says how much its group gains there, at whatever budget that was
    learnt. So with s = `SHARPNESS` and shifts b that make the mean shares on prompts without answers the target's,

        pi'(g | x) = pi(some group | x) pi(g | x)^s e^b_g / sum_k pi(k | x)^s e^b_k

    which takes out most of the sampling noise.

    Args:
        states: of P prompts without answers.
        target: [G]: shares of the groups, 1 in all.
        bodies: of tokens within responses (`read_bodies`), where the openings stay as likely as they are.

    Returns:
        D [G, H] for `choose_by_rows`, and the shares [G] on these prompts.
    """
    nothing = np.full(states.opening.shape, np.nan)
    others = np.full(len(states.rest), -np.inf)  # among the openings alone
    wanted = np.asarray(target, float)
    share, _ = with_shares(SHARPNESS * states.opening, others, wanted, nothing, (-np.inf, np.inf))
    opening = logsumexp(states.opening, axis=1, keepdims=True) + np.log(np.maximum(share, LEAST_PROBABILITY))
    delta = into_rows([states], [opening], bodies)
    return delta, states.shares(delta).mean(0)


def reprice_policy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    response_groups: Sequence[ResponseGroup],
    target: Sequence[float],
    *,
    max_completion_length: int,
    temperature: float = 1.0,
    batch_size: int = 256,
) -> FloatArray:
    """`reprice` a model in place: read the prompts, sample responses of each group, write the rows.

    Args:
        model: a causal language model that chooses its response group by its first token.
        tokenizer: its tokenizer.
        prompts: token ids of prompts without answers, drawn as those that the policy will meet.
        response_groups: G of them.
        target: [G]: shares of the groups, 1 in all.
        max_completion_length: of the responses that are sampled, in tokens.
        temperature: at which the policy is sampled.
        batch_size: responses that are sampled at once.

    Returns:
        The shares [G] on these prompts.
    """
    groups = encode_groups(response_groups, tokenizer)
    sampler = HFSampler(
        model,
        tokenizer,
        max_completion_length=max_completion_length,
        temperature=temperature,
        batch_size=batch_size,
    )
    asked = [prompts[i] for i in np.linspace(0, len(prompts) - 1, min(NUM_BODIES, len(prompts))).astype(int)]
    opened = [(prompt, list(prefix)) for prefix in groups.prefix_ids for prompt in asked]
    completions = sampler.sample([prompt for prompt, _ in opened], [prefix for _, prefix in opened])
    bodies = read_bodies(model, tokenizer, [prompt for prompt, _ in opened], completions, groups, temperature)
    delta, share = reprice(read_states(model, tokenizer, prompts, groups, temperature), target, bodies)
    choose_by_rows(model, groups, delta)
    return share
