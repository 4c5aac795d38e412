"""Before the lower level: responses of the policy, its choice on each prompt, and both as scored rows.

Rollouts are sampled by transformers, or by vLLM as TRL runs it (server or colocated); both begin with forced prefixes
where the training is stratified.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from ibpo.responses import FORMATS, EncodedGroups
from ibpo.rewards import NOT_TRUNCATED
from ibpo.rollouts import HFSampler
from ibpo.training.lower_level import Batch
from ibpo.training.reference_model import prompt_features
from ibpo.types import ScoredResponse

TokenIds = Sequence[int]


def sample_stratified(trainer: Any, prompt_ids: list[list[int]]) -> list[list[int]]:
    """One completion per row: siblings begin with each group's prefix in turn, where the training is stratified."""
    training = trainer.model.training
    num_siblings = trainer.num_generations if training else trainer.num_generations_eval
    num_groups = len(trainer.groups.prefix_ids)
    first = trainer.accelerator.process_index * len(prompt_ids)
    forced = [place % num_siblings * num_groups // num_siblings for place in range(first, first + len(prompt_ids))]
    prefixes = [trainer.groups.prefix_ids[g] if trainer.args.stratified and training else [] for g in forced]
    return sample_with(trainer, prompt_ids, prefixes)


def sample_with(trainer: Any, prompt_ids: Sequence[TokenIds], prefixes: Sequence[TokenIds]) -> list[list[int]]:
    """One completion per prompt, which begins with its prefix, by whatever the trainer samples with."""
    if trainer.use_vllm:
        return sample_served(trainer.vllm_generation, prompt_ids, prefixes, trainer.max_completion_length)
    return _sampler(trainer, trainer.max_completion_length).sample(prompt_ids, prefixes)


def look_at_prompts(
    trainer: Any, prompt_ids: list[list[int]], prompt: np.ndarray, *, with_features: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What the policies say of each prompt of all ranks.

    Args:
        trainer: gives the policy and the reference model pi_0.
        prompt_ids: token ids of this rank's rows.
        prompt: the number of each row's prompt, over all ranks [N].
        with_features: else none are made (D = 0).

    Returns:
        pi_0's features [P, D] and the policy's probabilities of each group's first token [P, K].
    """
    first = trainer.accelerator.process_index * len(prompt_ids)
    local = dict(zip(prompt[first : first + len(prompt_ids)].tolist(), prompt_ids, strict=True))
    ids = list(local.values())
    logits = _sampler(trainer, 1).next_token_logits(ids)
    first_tokens = [prefix[0] for prefix in trainer.groups.prefix_ids]
    shares = torch.softmax(logits / trainer.temperature, -1)[:, first_tokens].cpu().numpy()
    hidden = np.zeros((len(ids), 0))
    if with_features:
        hidden = prompt_features(trainer.reference_model, trainer.processing_class, ids)
    # Ranks may share a prompt.
    seen = {number: row for number, *row in gather_object(list(zip(local, hidden, shares, strict=True)))}
    features, share = zip(*(seen[number] for number in sorted(seen)), strict=True)
    return np.array(features), np.array(share)


def _sampler(trainer: Any, max_completion_length: int) -> HFSampler:
    return HFSampler(
        trainer.accelerator.unwrap_model(trainer.model),
        trainer.processing_class,
        max_completion_length=max_completion_length,
        temperature=trainer.temperature,
        batch_size=trainer.args.sampling_batch_size,
    )


def sample_served(
    generation: Any, prompts: Sequence[TokenIds], prefixes: Sequence[TokenIds], max_completion_length: int
) -> list[list[int]]:
    """One completion per prompt, as `ibpo.rollouts.hf.HFSampler.sample` gives them.

    The prefix goes behind the prompt, and every response is asked for by itself: siblings may open differently. vLLM
    counts `max_completion_length` from the end of the prefix; what is beyond it, prefix included, is cut off here.

    Args:
        generation: `trainer.vllm_generation`.
        prompts: token ids.
        prefixes: token ids that are forced; empty: the policy begins as it likes.
        max_completion_length: prefix and end-of-sequence token included.
    """
    begun = [[*prompt, *prefix] for prompt, prefix in zip(prompts, prefixes, strict=True)]
    _, rest, _, _ = generation.generate(prompts=begun, images=None, num_generations=1)
    return [[*prefix, *ids][:max_completion_length] for prefix, ids in zip(prefixes, rest, strict=True)]


def describe(
    inputs: Sequence[dict],
    completion_ids: Sequence[list[int]],
    groups: EncodedGroups,
    eos: Collection[int],
    columns: Collection[str],
    scored: Sequence[Sequence[ScoredResponse]],
) -> list[dict[str, Any]]:
    """What all ranks have to know of each of this rank's responses.

    Args:
        inputs: the data set's row of each response.
        completion_ids: the responses.
        groups: the response groups.
        eos: ids that end a response.
        columns: that budgets are sliced by.
        scored: of each judge, one per response.
    """
    first_tokens = [prefix[0] for prefix in groups.prefix_ids]
    return [
        {
            "problem_id": text_of(row.get("problem_id")),
            "level": text_of(row.get("level")),
            "slices": {column: text_of(row.get(column)) for column in columns},
            "response_group": groups.index_of(ids),
            "first_token_of": first_tokens.index(ids[0]) if ids[0] in first_tokens else -1,
            "tokens": len(ids),
            "finish_reason": "stop" if ids[-1] in eos else "length",
            "violations": sorted({name for judged in scored for name in judged[i].violations}),
            "unread": _unread([judged[i] for judged in scored]),
        }
        for i, (row, ids) in enumerate(zip(inputs, completion_ids, strict=True))
    ]


def text_of(value: object) -> str:
    """A column's value as text; "" where a row has none, as data sets of several sources have them."""
    return "" if value is None else str(value)


def _unread(scored: Sequence[ScoredResponse]) -> str:
    """Why no answer can be read out of a response that ended by itself; "" where one can, or nothing reads it."""
    if not scored or any(one.predicted_answer is not None for one in scored):
        return ""
    first = scored[0]
    form = FORMATS.get(first.response_group)
    text = first.rollout.completion
    reason = form.problem_of(text) if form is not None else None
    return f"{reason or 'its reader finds no answer'} (it begins {text[:40]!r})"


def batch_of(rows: Sequence[dict[str, Any]], score: np.ndarray, prompt: np.ndarray, features: np.ndarray) -> Batch:
    """What the lower level sees of the responses that all ranks have gathered.

    A truncated response is neither right nor wrong: it earns nothing, and its group may still be chosen. One that
    violates a constraint earns nothing and can't be chosen (Xu et al. 2024, CGPO, section 3).
    """
    truncated = np.array([row["finish_reason"] == "length" for row in rows])
    violating = np.array([bool(set(row["violations"]) - {NOT_TRUNCATED.name}) for row in rows])
    per_prompt = rows[:: len(rows) // len(features)]
    return Batch(
        prompt=prompt,
        response_group=np.array([row["response_group"] for row in rows]),
        reward=np.where(truncated | violating | np.isnan(score), 0.0, score),
        tokens=np.array([row["tokens"] for row in rows], float),
        features=features,
        slices={column: np.array([row["slices"][column] for row in per_prompt]) for column in rows[0]["slices"]},
        allowed=~violating,
        truncated=truncated,
    )
