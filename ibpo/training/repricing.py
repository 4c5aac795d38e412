"""One policy, every budget: a trained choice moved to another share, on prompts without answers.

By how much one opening's logit exceeds the others' says how much its group gains there, at whatever budget that was
learnt. So those differences are made `SHARPNESS` times as large, which takes out most of the sampling noise, and moved
until the mean shares among the responses that open as any group are the budget's. With s = `SHARPNESS` and shifts b,

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

from ibpo.responses import EncodedGroups, encode_groups
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
NUM_BODY_TOKENS, PER_WIDTH = 20_000, 64
"""Tokens of sampled responses that say what must stay as it is: so many, or for narrow models so many times H. At a
width of 4,096 their states take 1.3 GB."""
LEAST_PROBABILITY = 1e-9


def reprice(
    states: ChoiceStates, target: Sequence[float], bodies: ChoiceStates | None = None
) -> tuple[FloatArray, FloatArray]:
    """Move a policy that has learnt to choose to another budget: rows D under which it samples as a threshold would.

    Args:
        states: of P prompts without answers.
        target: [G]: shares of the groups among responses that open as one of them, 1 in all.
        bodies: of tokens within responses (`read_bodies`), where the openings stay as likely as they are.

    Returns:
        D [G, H] for `choose_by_rows`, and the shares [G] of all responses to these prompts; what they lack to 1 opens
        as no group, as before.
    """
    among = np.full(len(states.rest), -np.inf)  # among the openings alone
    total = logsumexp(states.opening, axis=1, keepdims=True)
    opens = states.shares().sum(1)
    share, _ = with_shares(SHARPNESS * (states.opening - total), among, np.asarray(target, float), weight=opens)
    delta = into_rows([states], [total + np.log(np.maximum(share, LEAST_PROBABILITY))], bodies)
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
        target: [G]: shares of the groups among responses that open as one of them, 1 in all.
        max_completion_length: of the responses that are sampled, in tokens.
        temperature: at which the policy is sampled.
        batch_size: responses that are sampled at once, by torch's random state.

    Returns:
        The shares [G] of all responses to these prompts.
    """
    groups = encode_groups(response_groups, tokenizer)
    states = read_states(model, tokenizer, prompts, groups, temperature)
    sampler = HFSampler(
        model,
        tokenizer,
        max_completion_length=max_completion_length,
        temperature=temperature,
        batch_size=batch_size,
    )
    delta, share = reprice(states, target, sample_bodies(sampler, prompts, groups))
    choose_by_rows(model, groups, delta)
    return share


def sample_bodies(sampler: HFSampler, prompts: Sequence[Sequence[int]], groups: EncodedGroups) -> ChoiceStates:
    """States of tokens within responses of each group to prompts, drawn from these: `NUM_BODY_TOKENS` at most."""
    num_tokens = min(NUM_BODY_TOKENS, PER_WIDTH * sampler.model.get_output_embeddings().weight.shape[1])
    rng = np.random.default_rng(0)
    asked: list[Sequence[int]] = []
    written: list[list[int]] = []
    order = rng.permutation(len(prompts)).tolist()
    per_batch = max(1, sampler.batch_size // len(groups.prefix_ids))
    while order and sum(map(len, written)) < num_tokens:
        some, order = order[:per_batch], order[per_batch:]
        opened = [(prompts[i], list(prefix)) for prefix in groups.prefix_ids for i in some]
        asked += [prompt for prompt, _ in opened]
        written += sampler.sample([prompt for prompt, _ in opened], [prefix for _, prefix in opened])
    bodies = read_bodies(sampler.model, sampler.tokenizer, asked, written, groups, sampler.temperature)
    return bodies.some(np.sort(rng.permutation(len(bodies.rest))[:num_tokens]))
