"""GRPO and its kin on `trl.GRPOTrainer`: plain, with a length penalty, Thinkless-like, AdaptThink-like.

Each is TRL's trainer with reward functions; two need a few lines more, because their papers change how the opening
token is treated. Problems and lengths are those of IBPO's policies; rollouts per update: `experiments.recipes`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from experiments.context import Context
from experiments.recipes import RESPONSES_PER_UPDATE
from ibpo.demo import StepProgress, common_settings, correctness_reward
from ibpo.responses import encode_prefix
from ibpo.rollouts import HFSampler
from ibpo.runs import write_text_atomic
from ibpo.types import ResponseGroup

RewardFunction = Callable[..., list[float]]
RollOut = Callable[[list[str], GRPOTrainer], dict[str, Any]]


def length_penalty(strength: float, max_length: int) -> RewardFunction:
    """A price on tokens: - strength * tokens / max_length.

    Added to the correctness, the best policy under it takes the extended response exactly where its gain is worth
    strength / max_length a token: a budget's price, set by hand instead of found.

    Example:
        >>> length_penalty(0.5, 10)(completions=["a b"], completion_ids=[[1, 2]])
        [-0.1]
    """

    def penalty(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        del completions
        return [-strength * len(ids) / max_length for ids in completion_ids]

    return penalty


def thinkless_reward(gap: float, response_groups: Sequence[ResponseGroup]) -> RewardFunction:
    """Thinkless (Fang et al. 2025, arXiv 2505.13379): a right standard response 1, a right other one 1 - gap, wrong -1.

    Example:
        >>> from ibpo.demo import THINKING
        >>> reward = thinkless_reward(0.5, THINKING.response_groups)
        >>> reward(completions=["<answer> 4", "<think> a 4 </think> <answer> 4", "<answer> 5"], answer=["4"] * 3)
        [1.0, 0.5, -1.0]
    """
    correctness, standard = correctness_reward(response_groups), response_groups[0]

    def thinkless(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
        right = correctness(completions=completions, answer=answer, **columns)
        return [
            (1.0 if standard.matches(text) else 1.0 - gap) if one > 0 else -1.0
            for text, one in zip(completions, right, strict=True)
        ]

    return thinkless


def standard_bonus(bonus: float, standard: ResponseGroup) -> RewardFunction:
    """AdaptThink (Zhang et al. 2025, arXiv 2505.13417): `bonus` (its delta) for a response of the standard group.

    Example:
        >>> from ibpo.demo import THINKING
        >>> standard_bonus(0.05, THINKING.response_groups[0])(
        ...     completions=["<answer> 4", "<think> a 4 </think> <answer> 4"]
        ... )
        [0.05, 0.0]
    """

    def answers_at_once(completions: list[str], **_: Any) -> list[float]:
        return [bonus * standard.matches(text) for text in completions]

    return answers_at_once


def grpo(context: Context, out_dir: Path, *, learning_rate: float) -> None:
    """Plain GRPO (Shao et al. 2024): correctness alone, TRL's defaults."""
    _train(context, out_dir, [_correctness(context)], learning_rate=learning_rate)


def grpo_with_length_penalty(context: Context, out_dir: Path, *, learning_rate: float, strength: float) -> None:
    """GRPO on correctness less a price on tokens; one point of a curve for each strength."""
    penalty = length_penalty(strength, context.experiment.max_completion_length)
    _train(context, out_dir, [_correctness(context), penalty], learning_rate=learning_rate)


def thinkless(context: Context, out_dir: Path, *, learning_rate: float, gap: float, opening_weight: float) -> None:
    """Thinkless's decoupled GRPO: the opening token has a weight of its own, the other tokens' mean weighs 1."""
    _train(
        context,
        out_dir,
        [thinkless_reward(gap, context.experiment.response_groups)],
        learning_rate=learning_rate,
        trainer=partial(Decoupled, opening_weight=opening_weight),
        loss_type="grpo",  # a mean over each response's own tokens, as in Thinkless
    )


def adaptthink(context: Context, out_dir: Path, *, learning_rate: float, bonus: float) -> None:
    """AdaptThink: half of the rollouts forced into each group, importance weights on the opening token, a bonus.

    Its baseline is the reference's mean reward on the prompt; GRPO's siblings' mean stands for it here.
    """
    groups = context.experiment.response_groups
    _train(
        context,
        out_dir,
        [_correctness(context), standard_bonus(bonus, groups[0])],
        learning_rate=learning_rate,
        trainer=ForcedOpenings,
        prefixes=[group.prefix for group in groups],
        scale_rewards="none",  # as there: a bonus is worth the same on every prompt
    )


class Decoupled(GRPOTrainer):
    """Weighs the opening token apart from the rest.

    With A a response's advantage, T its tokens and w the weight, its loss is
    - w A log pi(y_1) - A / (T - 1) sum_{t > 1} log pi(y_t).
    """

    def __init__(self, *args: Any, opening_weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opening_weight = opening_weight

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        out = super()._generate_and_score_completions(inputs)
        mask, length = out["completion_mask"], out["completion_mask"].sum(1, keepdim=True)
        opening = torch.zeros_like(mask, dtype=torch.bool)
        opening[:, 0] = True
        # loss_type="grpo" divides each response by its length: undo it on either side.
        scale = torch.where(opening, self.opening_weight * length, length / (length - 1).clamp(min=1))
        out["advantages"] = out["advantages"][:, None] * scale
        return out


class ForcedOpenings(GRPOTrainer):
    """Rollouts with forced openings are off-policy in their first token: its old probability is the forcing's own."""

    num_openings = 2

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        out = super()._generate_and_score_completions(inputs)
        ids = torch.cat([out["prompt_ids"], out["completion_ids"]], 1)
        mask = torch.cat([out["prompt_mask"], out["completion_mask"]], 1)
        with torch.no_grad():
            old, *_ = self._get_per_token_logps_and_entropies(self.model, ids, mask, out["completion_ids"].shape[1])
        old[:, 0] = -math.log(self.num_openings)
        out["old_per_token_logps"] = old
        return out


def sampler_of(trainer: GRPOTrainer) -> HFSampler:
    """Samples the policy as it is now."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    tokenizer: Any = trainer.processing_class
    max_length: Any = trainer.max_completion_length
    return HFSampler(model, tokenizer, max_completion_length=max_length, temperature=trainer.temperature)


def opened(prefixes: Sequence[str]) -> RollOut:
    """TRL's `rollout_func`: equal parts of each prompt's responses opened by each prefix; none: the policy chooses."""

    def roll_out(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        tokenizer: Any = trainer.processing_class
        prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        ids = [encode_prefix(prefix, tokenizer) for prefix in prefixes] or [()]
        siblings: Any = trainer.num_generations
        forced = [ids[place % siblings * len(ids) // siblings] for place in range(len(prompts))]
        completion_ids = sampler_of(trainer).sample(prompt_ids, forced)
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    return roll_out


def _correctness(context: Context) -> RewardFunction:
    return correctness_reward(context.experiment.response_groups)


def _train(
    context: Context,
    out_dir: Path,
    rewards: list[RewardFunction],
    *,
    trainer: Callable[..., GRPOTrainer] = GRPOTrainer,
    prefixes: Sequence[str] = (),
    **settings: Any,
) -> None:
    made = build_trainer(
        context, context.cold_start, out_dir, rewards, opened(prefixes), trainer, context.job.num_steps, **settings
    )
    made.add_callback(StepProgress(lambda done: context.job.report("training", 0.8 * done)))
    made.train()
    save(made, out_dir)


def build_trainer(
    context: Context,
    model_dir: Path,
    out_dir: Path,
    rewards: list[RewardFunction],
    roll_out: RollOut,
    trainer: Callable[..., GRPOTrainer],
    num_steps: int,
    *,
    num_before: int = 0,
    **settings: Any,
) -> Any:
    """The trainer of one policy, on the prompts of IBPO's policies, after those of `num_before` updates."""
    common: dict[str, Any] = {
        **common_settings(context.experiment, context.job.seed, num_steps),
        "per_device_train_batch_size": RESPONSES_PER_UPDATE[context.job.experiment],
        "save_strategy": "no",
    }
    args = GRPOConfig(output_dir=str(out_dir / "checkpoints"), **(common | settings))
    per_step = args.per_device_train_batch_size // (args.num_generations or 1)
    rows = context.training_rows(per_step * num_steps, skip=per_step * num_before)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    return trainer(
        model=AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32),
        reward_funcs=rewards,  # pyright: ignore[reportArgumentType]  # more general than a list of them
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        rollout_func=roll_out,  # pyright: ignore[reportArgumentType]
    )


def save(trainer: Any, out_dir: Path) -> None:
    """Write the policy; `out_dir/model` is whole or absent."""
    partial = out_dir / "model.partial"
    trainer.model.save_pretrained(partial)
    trainer.processing_class.save_pretrained(partial)
    write_text_atomic(out_dir / "metrics.json", json.dumps(trainer.state.log_history))
    os.replace(partial, out_dir / "model")
