"""Sample a policy on problems it has never seen, and write what it answered: one Parquet file per policy and way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ibpo.rewards.exact import exact_match
from ibpo.rollouts.hf import HFSampler
from ibpo.types import Problem, ResponseGroup, Rollout, ScoredRollout

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
    opening = {text: tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in set(prefixes)}
    completions = sampler.sample(prompts, [opening[text] for text in prefixes])
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    return [
        Rollout(
            problem_id=problem.problem_id,
            prompt_token_ids=tuple(prompt),
            completion_token_ids=tuple(ids),
            completion=text,
            finish_reason="stop" if ids[-1] == tokenizer.eos_token_id else "length",
        )
        for problem, prompt, ids, text in zip(problems, prompts, completions, texts, strict=True)
    ]


def score(rollout: Rollout, problem: Problem, response_groups: Sequence[ResponseGroup]) -> ScoredRollout:
    """Tell the response group, read the answer, judge it by exact match; the cost is the number of tokens."""
    group = next((g for g in response_groups if g.matches(rollout.completion)), None)
    stopped = rollout.finish_reason == "stop"
    answer = group.extract_answer(rollout.completion) if group and stopped else None
    return ScoredRollout(
        rollout=rollout,
        response_group=group.name if group else "",
        predicted_answer=answer,
        reward=exact_match(answer, problem.answer),
        cost=float(len(rollout.completion_token_ids)),
    )


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
    scored = [score(r, p, response_groups) for r, p in zip(rollouts, repeated, strict=True)]
    table = pa.table(
        {
            "problem_id": [p.problem_id for p in repeated],
            "level": [p.level for p in repeated],
            "sample": np.arange(len(repeated)) % num_samples,
            "response_group": [s.response_group for s in scored],
            "reward": [s.reward for s in scored],
            "tokens": [int(s.cost) for s in scored],
            "finish_reason": [s.rollout.finish_reason for s in scored],
            "predicted_answer": [s.predicted_answer for s in scored],
            "completion": [s.rollout.completion for s in scored],
            "prompt": [str(p.prompt) for p in repeated],
        }
    )
    _write(table, path)


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
    opening = tokenizer(extended.prefix, add_special_tokens=False)["input_ids"][0]
    probability = torch.softmax(sampler.next_token_logits(prompts), -1)[:, opening].double().cpu().numpy()
    table = pa.table(
        {
            "problem_id": [p.problem_id for p in problems],
            "level": [p.level for p in problems],
            "p_extended": probability,
        }
    )
    _write(table, path)


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    os.replace(partial, path)
