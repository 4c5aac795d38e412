"""The trainer's arguments, and the adapter, out of a recipe."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from ibpo.config import RunConfig, nearest
from ibpo.errors import IbpoError
from ibpo.runs import RunDir
from ibpo.training.trainer import IBPOConfig

SET_BY_RECIPE = {
    "budget": "[budget]",
    "generation_batch_size": "train.prompts_per_step",
    "learning_rate": "train.learning_rate",
    "ledger_dir": "--out",
    "max_completion_length": "train.max_completion_length",
    "max_steps": "train.steps",
    "num_generations": "train.rollouts_per_prompt",
    "num_train_epochs": "train.steps",
    "output_dir": "--out",
    "per_device_train_batch_size": "train.prompts_per_step",
    "seed": "train.seed",
    "shuffle_dataset": "train.seed",
    "steps_per_generation": "train.prompts_per_step",
}
"""Options of the trainer that have their place elsewhere in the recipe."""


def adapter_of(config: RunConfig) -> Any:
    """`peft.LoraConfig` out of `[lora]`, on all linear layers unless `target_modules` says otherwise; None without.

    Raises:
        IbpoError: for an unknown key (names the nearest), a bad value, or without peft.
    """
    if not config.lora:
        return None
    try:
        from peft import LoraConfig
    except ModuleNotFoundError:
        raise IbpoError("lora: adapters need peft: pip install 'ibpo[lora]'") from None
    known = {f.name for f in fields(LoraConfig) if f.init}
    for key in config.lora:
        if key not in known:
            raise IbpoError(f"lora.{key}: unknown key of peft.LoraConfig; {nearest(key, known)}")
    try:
        return LoraConfig(**{"target_modules": "all-linear", "task_type": "CAUSAL_LM", **config.lora})
    except (ValueError, TypeError) as error:
        raise IbpoError(f"lora: {next(iter(str(error).splitlines()), '')}; mend that key") from None


def trainer_arguments(config: RunConfig, run: RunDir, *, num_processes: int = 1) -> IBPOConfig:
    """`IBPOConfig` out of `[train]`, `[budget]` and `[trl]`.

    Args:
        config: the recipe.
        run: where checkpoints and ledger go.
        num_processes: among which the rollouts of a step are split.

    Raises:
        IbpoError: for an unknown key of `[trl]` (names the nearest), one that has its place elsewhere, or a bad value.
    """
    train, trl = config.train, config.trl
    known = {f.name for f in fields(IBPOConfig) if f.init}
    for key in trl:
        if key in SET_BY_RECIPE:
            raise IbpoError(f"trl.{key}: is set by {SET_BY_RECIPE[key]}; say it there")
        if key not in known:
            raise IbpoError(f"trl.{key}: unknown key of IBPOConfig; {nearest(key, known - set(SET_BY_RECIPE))}")
    num_rollouts = train.prompts_per_step * train.rollouts_per_prompt
    num_parts = trl.get("gradient_accumulation_steps", 1)
    if not isinstance(num_parts, int) or num_parts < 1 or num_rollouts % (num_parts * num_processes):
        if num_processes > 1 and isinstance(num_parts, int):
            raise IbpoError(
                f"trl.gradient_accumulation_steps: {num_parts} times {num_processes} processes must divide the "
                f"{num_rollouts} rollouts of a step; lower it to {max(1, num_rollouts // num_processes)} or a divisor"
            )
        raise IbpoError(
            f"trl.gradient_accumulation_steps: must divide the {num_rollouts} rollouts of a step, got {num_parts}"
        )
    on_gpu = torch.cuda.is_available()
    options: dict[str, Any] = {
        "report_to": "none",
        "logging_steps": 1,
        "save_steps": max(1, min(50, train.steps // 10)),
        "save_total_limit": 2,
        "use_cpu": not on_gpu,
        "bf16": on_gpu and torch.cuda.is_bf16_supported(),
        "gradient_checkpointing": on_gpu,
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
    } | trl
    try:
        return IBPOConfig(
            output_dir=str(run.checkpoints),
            ledger_dir=str(run.ledger),
            max_steps=train.steps,
            learning_rate=train.learning_rate,
            seed=train.seed,
            per_device_train_batch_size=num_rollouts // (num_parts * num_processes),
            shuffle_dataset=False,
            num_generations=train.rollouts_per_prompt,
            max_completion_length=train.max_completion_length,
            budget=dict(config.budget) or None,
            **options,
        )
    except (ValueError, TypeError) as error:
        raise IbpoError(f"trl: {next(iter(str(error).splitlines()), '')}; mend that key") from None
