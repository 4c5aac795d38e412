"""Self-correction in two turns: prompting for it, and SCoRe, which trains it (Kumar et al. 2024, arXiv 2409.12917).

A dialogue of the embedded models is the problem, the first response, the problem once more, the second response; the
second turn's answer counts, and both turns' responses are paid for. The shipped models have never seen a second turn,
so prompting alone loses nearly everything (reported as it is), and SCoRe begins with supervised fine-tuning on two-turn
dialogues out of the cold start's own responses: its authors' models can hold a dialogue to begin with.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOTrainer

from experiments.context import Context
from experiments.grpo import RollOut, build_trainer, sampler_of, save
from experiments.supervised import fine_tune
from ibpo.demo import StepProgress, correctness_reward
from ibpo.evaluation import to_rollouts, write_scored
from ibpo.rewards import ExactJudge
from ibpo.rollouts import HFSampler, score
from ibpo.tasks import local_rows
from ibpo.training import frozen_copy, kl_penalty
from ibpo.types import Problem

TokenIds = Sequence[int]
DIALOGUES_PER_PROBLEM = 4
HELD_SHARE = 0.25
"""Share of the dialogues that the divergence from the initial policy is taken on, each step."""


def dialogues(sampler: HFSampler, prompts: Sequence[TokenIds]) -> tuple[list[list[int]], list[list[int]]]:
    """The first and the second response to each prompt: token ids, each with its end-of-sequence token if it ended."""
    first = sampler.sample(prompts, [[]] * len(prompts))
    eos = sampler.tokenizer.eos_token_id
    follow_up = [[*p, *ended(y, eos), *p] for p, y in zip(prompts, first, strict=True)]
    return first, sampler.sample(follow_up, [[]] * len(prompts))


def ended(response: TokenIds, eos: int) -> list[int]:
    """The response with an end, as the next turn needs it."""
    return [*response] if response[-1] == eos else [*response, eos]


def write_dialogues(
    path: Path, model_dir: Path, context: Context, problems: Sequence[Problem], num_samples: int, seed: int
) -> None:
    """Sample and judge dialogues: the second answer counts, and the tokens of both; extended if one of them is."""
    experiment = context.experiment
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    torch.manual_seed(seed)
    repeated = [problem for problem in problems for _ in range(num_samples)]
    prompts = tokenizer([str(p.prompt) for p in repeated], add_special_tokens=False)["input_ids"]
    sampler = HFSampler(model, tokenizer, max_completion_length=experiment.max_completion_length, batch_size=512)
    both, eos = dialogues(sampler, prompts), sampler.eos_token_ids
    turns = [to_rollouts(tokenizer, repeated, prompts, ids, eos) for ids in both]
    first, second = (score(turn, repeated, experiment.response_groups, ExactJudge()) for turn in turns)
    write_scored(path, repeated, second, num_samples, before=first)


class TwoTurns(GRPOTrainer):
    """GRPO on dialogues, with the exact divergence from the initial policy on the first turn, or on both."""

    def __init__(self, *args: Any, held_weight: float, first_turn_only: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held_weight, self.first_turn_only = held_weight, first_turn_only
        unwrapped: Any = self.accelerator.unwrap_model(self.model)
        self.reference_model = frozen_copy(unwrapped)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        out = super()._generate_and_score_completions(inputs)
        own = out["completion_mask"] * out["tool_mask"]
        if self.first_turn_only:  # up to the first token that the policy did not write
            own = own * ((1 - out["tool_mask"]).cumsum(1) == 0)
        rows = torch.arange(len(own), device=own.device) % round(1 / HELD_SHARE) == 0
        tokens = (own * rows[:, None]).sum().clamp(min=1)
        out["kl_weight"], out["kl_mask"] = rows * self.held_weight / tokens, own
        return out

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return super()._compute_loss(model, inputs) + kl_penalty(model, self.reference_model, inputs, self.temperature)


def in_two_turns() -> RollOut:
    """TRL's `rollout_func`: a dialogue as one completion, whose second problem carries no loss (`env_mask`)."""

    def roll_out(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        tokenizer: Any = trainer.processing_class
        prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        sampler = sampler_of(trainer)
        first, second = dialogues(sampler, prompt_ids)
        whole, mask = [], []
        for prompt, one, two in zip(prompt_ids, first, second, strict=True):
            added = len(ended(one, tokenizer.eos_token_id)) - len(one) + len(prompt)
            whole.append([*ended(one, tokenizer.eos_token_id), *prompt, *two])
            mask.append([1] * len(one) + [0] * added + [1] * len(two))
        texts = {
            name: tokenizer.batch_decode(ids, skip_special_tokens=True)
            for name, ids in (("first", first), ("second", second))
        }
        return {"prompt_ids": prompt_ids, "completion_ids": whole, "logprobs": None, "env_mask": mask, **texts}

    return roll_out


def score_rewards(context: Context, *, stage: int, bonus: float) -> list[Any]:
    """Stage 1: the second answer alone. Stage 2: both answers, and `bonus` times what the second turn changed."""
    correctness = correctness_reward(context.experiment.response_groups)

    def second_answer(second: list[str], answer: list[str], **_: Any) -> list[float]:
        return correctness(completions=second, answer=answer)

    def first_answer(first: list[str], answer: list[str], **_: Any) -> list[float]:
        return correctness(completions=first, answer=answer)

    def progress(first: list[str], second: list[str], answer: list[str], **_: Any) -> list[float]:
        before, after = (correctness(completions=texts, answer=answer) for texts in (first, second))
        return [bonus * (b - a) for a, b in zip(before, after, strict=True)]

    return [second_answer] if stage == 1 else [first_answer, second_answer, progress]


def score_policy(
    context: Context,
    out_dir: Path,
    *,
    learning_rate: float,
    bonus: float = 10.0,
    first_held: float = 0.1,
    both_held: float = 0.01,
) -> None:
    """SCoRe: dialogues by SFT, stage 1, stage 2, half of the updates each; what a stage has left is not repeated.

    Args:
        context: the job's.
        out_dir: the policy's.
        learning_rate: of both stages.
        bonus: alpha, on the change that the second turn makes.
        first_held: beta_2, weight of the divergence of the first turn in stage 1.
        both_held: beta_1, weight of the divergence of both turns in stage 2.
    """
    begun = out_dir / "stage0"
    pairs = _built_dialogues(context)
    fine_tune(context, begun, pairs, learning_rate=1e-3, loss_on=on_responses(context, pairs))
    model_dir, num_steps = begun / "model", max(1, context.job.num_steps // 2)
    for stage, weight in ((1, first_held), (2, both_held)):
        stage_dir = out_dir if stage == 2 else out_dir / "stage1"
        if not (stage_dir / "model").exists():
            trainer = build_trainer(
                context,
                model_dir,
                stage_dir,
                score_rewards(context, stage=stage, bonus=bonus),
                in_two_turns(),
                partial(TwoTurns, held_weight=weight, first_turn_only=stage == 1),
                num_steps,
                num_before=num_steps * (stage - 1),
                learning_rate=learning_rate,
            )
            part = 0.4 * (stage - 1)
            trainer.add_callback(
                StepProgress(lambda done, part=part: context.job.report("training", part + 0.4 * done))
            )
            trainer.train()
            save(trainer, stage_dir)
        model_dir = stage_dir / "model"


def on_responses(context: Context, pairs: Sequence[tuple[str, str]]) -> Callable[[int, list[int]], list[int]]:
    """Loss on both responses, none on the problem between them."""
    tokenizer: Any = AutoTokenizer.from_pretrained(context.cold_start)
    length = [len(ids) for ids in tokenizer([prompt for prompt, _ in pairs], add_special_tokens=False)["input_ids"]]

    def loss_on(index: int, tokens: list[int]) -> list[int]:
        end = tokens.index(tokenizer.eos_token_id)
        return [0 if end < i <= end + length[index] else 1 for i in range(len(tokens))]

    return loss_on


def _built_dialogues(context: Context) -> list[tuple[str, str]]:
    """Any response, then a right one, of the cold start's own to the same probe problem."""
    rng = random.Random(context.job.seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(context.cold_start)
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for how in ("standard", "extended"):
        rows = [row for _, row in local_rows(context.responses("cold_start", how, split="probe"))]
        for row in rows:
            if row["finish_reason"] == "stop":
                by_problem.setdefault(row["prompt"], []).append(row)
    pairs = []
    for prompt, rows in by_problem.items():
        right = [row["completion"] for row in rows if row["reward"] > 0]
        for _ in range(DIALOGUES_PER_PROBLEM if right else 0):
            first = rng.choice(rows)["completion"]
            pairs.append((prompt, f"{first} {tokenizer.eos_token} {prompt} {rng.choice(right)}"))
    rng.shuffle(pairs)
    return pairs
