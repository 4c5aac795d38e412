"""Sample a local policy on problems it has never seen: the tables of a demo run, and of the end of `ibpo train`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ibpo.evaluation.comparison import EXTENDED, describe
from ibpo.evaluation.responses import Responses, row_of, write_table
from ibpo.evaluation.statistics import FloatArray
from ibpo.responses import EncodedGroups, encode_prefix
from ibpo.rewards import ExactJudge, Judge
from ibpo.rollouts import HFSampler, encode_prompt, rollout_of_ids, score
from ibpo.types import Problem, ResponseGroup, Rollout, ScoredResponse

BATCH_SIZE = 512


def roll_out(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    prefixes: Sequence[str],
    max_completion_length: int,
    temperature: float = 1.0,
) -> list[Rollout]:
    """One response per problem; an empty prefix leaves the choice of the response group to the policy."""
    sampler = HFSampler(
        model, tokenizer, max_completion_length=max_completion_length, temperature=temperature, batch_size=BATCH_SIZE
    )
    prompts = [encode_prompt(tokenizer, p.prompt) for p in problems]
    opening = {text: encode_prefix(text, tokenizer) for text in set(prefixes)}
    completions = sampler.sample(prompts, [opening[text] for text in prefixes])
    return to_rollouts(tokenizer, problems, prompts, completions, sampler.eos_token_ids)


def to_rollouts(
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    eos_token_ids: Collection[int],
) -> list[Rollout]:
    """Token ids of one completion to each problem as rollouts; one without an end-of-sequence token was cut off."""
    return [
        rollout_of_ids(tokenizer, problem.problem_id, prompt, ids, eos_token_ids=eos_token_ids)
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
    temperature: float = 1.0,
) -> None:
    """Sample `num_samples` responses per problem, judge them, write them to `path`; the file is whole or absent."""
    torch.manual_seed(seed)
    repeated = [problem for problem in problems for _ in range(num_samples)]
    prefixes = [prefix] * len(repeated)
    rollouts = roll_out(model, tokenizer, repeated, prefixes, max_completion_length, temperature)
    write_scored(path, repeated, score(rollouts, repeated, response_groups, ExactJudge()), num_samples)


def write_scored(
    path: Path,
    problems: Sequence[Problem],
    scored: Sequence[ScoredResponse],
    num_samples: int,
    before: Sequence[ScoredResponse] | None = None,
) -> None:
    """Write judged responses, `num_samples` to each problem one after the other; the file is whole or absent.

    With `before`, the first turn of each dialogue: its tokens count, its text is before the second turn's, the
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
    policy = path.name.removesuffix(".jsonl.gz").replace("__", ", ").replace("_", " ")
    rows = [
        row_of(problem, one, configuration=policy, number=i % num_samples)
        | {"response_group": group[i], "tokens": tokens[i], "finish_reason": finish_reason[i], "completion": texts[i]}
        for i, (problem, one) in enumerate(zip(problems, scored, strict=True))
    ]
    write_table(path, rows)


def write_choices(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    extended: ResponseGroup,
) -> None:
    """Write the policy's probability of opening an extended response to each problem; nothing is generated."""
    sampler = HFSampler(model, tokenizer, max_completion_length=1, batch_size=BATCH_SIZE)
    prompts = [encode_prompt(tokenizer, p.prompt) for p in problems]
    opening = encode_prefix(extended.prefix, tokenizer)[0]
    write_chances(
        path, problems, torch.softmax(sampler.next_token_logits(prompts), -1)[:, opening].double().cpu().numpy()
    )


def write_chances(path: Path, problems: Sequence[Problem], chances: FloatArray) -> None:
    """Write what a policy's probability of opening an extended response is, to each problem [P]."""
    rows = zip(problems, chances.tolist(), strict=True)
    write_table(path, [{"problem_id": p.problem_id, "level": p.level, "p_extended": chance} for p, chance in rows])


class Sampler(Protocol):
    """What evaluation needs of a sampler."""

    def sample(self, prompts: Sequence[Sequence[int]], prefixes: Sequence[Sequence[int]]) -> list[list[int]]:
        """One completion per prompt; an empty prefix lets the policy choose how to open its response."""
        ...


class Scorer:
    """Reads and judges completions in token ids (`ibpo.rollouts.score`)."""

    def __init__(
        self, groups: EncodedGroups, tokenizer: PreTrainedTokenizerBase, judge: Judge, eos_token_ids: Collection[int]
    ) -> None:
        """`eos_token_ids` end a response (`ibpo.rollouts.end_of_sequence_ids`)."""
        self.groups, self.tokenizer, self.judge = groups, tokenizer, judge
        self.eos_token_ids = eos_token_ids

    def score(
        self, problems: Sequence[Problem], prompt_ids: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[ScoredResponse]:
        """Judge one completion to each problem, all at once."""
        rollouts = to_rollouts(self.tokenizer, problems, prompt_ids, completions, self.eos_token_ids)
        return score(rollouts, problems, self.groups.groups, self.judge)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutResult:
    """Numbers of one way of using the policy, with one response to each held-out problem."""

    policy: str
    num_problems: int
    num_right: int
    """Right answers of responses that ended by themselves."""
    num_truncated: int
    """Responses cut off at the length limit: counted apart, never as right."""
    num_unanswered: int
    """Responses that ended by themselves without an answer that could be read."""
    share: dict[str, float]
    """Response group -> share of the problems; "" opens like none of them."""
    mean_tokens: float
    accuracy: float
    """pass@1."""
    interval_95: tuple[float, float]
    """Interval of the accuracy (`ibpo.evaluation.statistics.estimate_rate`)."""


def evaluate_held_out(
    sampler: Sampler, scorer: Scorer, problems: Sequence[Problem], prompt_ids: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """The table of a policy that chooses its response groups by itself, and with each group forced in turn.

    Args:
        sampler: of the policy.
        scorer: reads and judges.
        problems: P of them, at least one.
        prompt_ids: their prompts' token ids.
    """
    names = scorer.groups.names
    forced = [(f"always {name}", ids) for name, ids in zip(names, scorer.groups.prefix_ids, strict=True)]
    ways: list[tuple[str, list[int]]] = [("chooses itself", []), *forced]
    rows: list[dict[str, Any]] = []
    for policy, prefix in ways:
        completions = sampler.sample(prompt_ids, [prefix] * len(problems))
        scored = scorer.score(problems, prompt_ids, completions)
        rows += [row_of(p, one, configuration=policy, number=0) for p, one in zip(problems, scored, strict=True)]
    return rows


def held_out_results(responses: Responses, names: Sequence[str]) -> list[HeldOutResult]:
    """The numbers of each configuration of a table of `evaluate_held_out`; `names` of the response groups."""
    results = []
    for policy in responses.configurations:
        own = responses.of(policy)
        numbers, cut = describe(own)["overall"]["all"], own.truncated == 1
        unanswered = [answer is None for answer in own.answer[~cut]]
        results.append(
            HeldOutResult(
                policy=policy,
                num_problems=len(own),
                num_right=int(own.right.sum()),
                num_truncated=int(cut.sum()),
                num_unanswered=sum(unanswered),
                share={name: float(np.mean(own.response_group == name)) for name in [*names, ""]},
                mean_tokens=numbers["mean_tokens"].value,
                accuracy=numbers["pass@1"].value,
                interval_95=(numbers["pass@1"].low, numbers["pass@1"].high),
            )
        )
    return results
