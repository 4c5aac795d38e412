"""Sample a policy on problems it has never seen, and write what it answered: one Parquet file per policy and way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ibpo.evaluation.store import EXTENDED
from ibpo.responses import encode_prefix
from ibpo.rewards import ExactJudge
from ibpo.rollouts import HFSampler, rollout_of_ids, score
from ibpo.types import Problem, ResponseGroup, Rollout, ScoredResponse

BATCH_SIZE = 512


def roll_out(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    prefixes: Sequence[str],
    max_completion_length: int,
    on_batch: Callable[[int], None] | None = None,
) -> list[Rollout]:
    """One response per problem; an empty prefix leaves the choice of the response group to the policy."""
    sampler = HFSampler(
        model, tokenizer, max_completion_length=max_completion_length, batch_size=BATCH_SIZE, on_batch=on_batch
    )
    prompts = tokenizer([str(p.prompt) for p in problems], add_special_tokens=False)["input_ids"]
    opening = {text: encode_prefix(text, tokenizer) for text in set(prefixes)}
    completions = sampler.sample(prompts, [opening[text] for text in prefixes])
    return to_rollouts(tokenizer, problems, prompts, completions)


def to_rollouts(
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> list[Rollout]:
    """Token ids of one completion to each problem as rollouts; one without an end-of-sequence token was cut off."""
    eos: Any = tokenizer.eos_token_id
    return [
        rollout_of_ids(tokenizer, problem.problem_id, prompt, ids, eos_token_ids={eos})
        for problem, prompt, ids in zip(problems, prompts, completions, strict=True)
    ]


def write_responses(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    response_groups: Sequence[ResponseGroup],
    *,
    prefix: str,
    num_samples: int,
    max_completion_length: int,
    seed: int,
    on_batch: Callable[[int], None] | None = None,
) -> None:
    """Sample `num_samples` responses per problem, judge them, write them to `path`; the file is whole or absent."""
    torch.manual_seed(seed)
    repeated = [problem for problem in problems for _ in range(num_samples)]
    rollouts = roll_out(model, tokenizer, repeated, [prefix] * len(repeated), max_completion_length, on_batch)
    write_scored(path, repeated, score(rollouts, repeated, response_groups, ExactJudge()), num_samples)


def write_scored(
    path: Path,
    problems: Sequence[Problem],
    scored: Sequence[ScoredResponse],
    num_samples: int,
    before: Sequence[ScoredResponse] | None = None,
) -> None:
    """Write judged responses, `num_samples` to each problem one after the other; the file is whole or absent.

    With `before`, the first turn of each dialogue: its tokens count, its text stands before the second turn's, the
    dialogue is extended if one of its turns is, and cut off if one of them is.
    """
    group = [s.response_group for s in scored]
    tokens, texts = [int(s.cost) for s in scored], [s.rollout.completion for s in scored]
    finish_reason = [s.rollout.finish_reason for s in scored]
    for i, first in enumerate(before or ()):
        group[i] = EXTENDED if EXTENDED in (first.response_group, group[i]) else group[i]
        tokens[i] += int(first.cost)
        texts[i] = f"{first.rollout.completion}\n{texts[i]}"
        finish_reason[i] = first.rollout.finish_reason if first.rollout.finish_reason != "stop" else finish_reason[i]
    table = pa.table(
        {
            "problem_id": [p.problem_id for p in problems],
            "level": [p.level for p in problems],
            "sample": np.arange(len(problems)) % num_samples,
            "response_group": group,
            "reward": [s.reward for s in scored],
            "tokens": tokens,
            "finish_reason": finish_reason,
            "predicted_answer": [s.predicted_answer for s in scored],
            "completion": texts,
            "prompt": [str(p.prompt) for p in problems],
        }
    )
    write_table(table, path)


def write_choices(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    extended: ResponseGroup,
) -> None:
    """Write the policy's probability of opening an extended response to each problem; nothing is generated."""
    sampler = HFSampler(model, tokenizer, max_completion_length=1, batch_size=BATCH_SIZE)
    prompts = tokenizer([str(p.prompt) for p in problems], add_special_tokens=False)["input_ids"]
    opening = encode_prefix(extended.prefix, tokenizer)[0]
    probability = torch.softmax(sampler.next_token_logits(prompts), -1)[:, opening].double().cpu().numpy()
    table = pa.table(
        {
            "problem_id": [p.problem_id for p in problems],
            "level": [p.level for p in problems],
            "p_extended": probability,
        }
    )
    write_table(table, path)


def write_table(table: pa.Table, path: Path) -> None:
    """As Parquet; the file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    os.replace(partial, path)
