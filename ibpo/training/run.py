"""A run from a recipe: load the policy, train it by IBPO, evaluate it on held-out problems."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback

from ibpo.config import RunConfig, TrainConfig, check_settings, nearest
from ibpo.errors import IbpoError
from ibpo.evaluation import HeldOutResult, Scorer, evaluate_held_out, held_out_results, read_table, write_table
from ibpo.responses import encode_groups, offer, prompt_notes
from ibpo.rewards import MixtureOfJudges
from ibpo.rollouts import HFSampler, encode_prompt, end_of_sequence_ids, load_policy
from ibpo.runs import RunDir, write_text_atomic
from ibpo.training.checkpoints import STATE_OF_ONE_PROCESS, check_checkpoint, go_on, saving, wrong_setting
from ibpo.training.config import RENAMED
from ibpo.training.judge_reward import JudgeReward
from ibpo.training.monitoring import RecordMetrics, ShowProgress
from ibpo.training.trainer import IBPOConfig, IBPOTrainer
from ibpo.types import Problem, ResponseGroup


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a run is made of."""

    config: RunConfig
    config_text: str
    model_path: str
    training: Sequence[Problem]
    held_out: Sequence[Problem]
    response_groups: Sequence[ResponseGroup]
    judge: MixtureOfJudges
    """Its constraints are for what is imitated; the evaluation counts right answers."""
    run: RunDir


def run_job(job: Job, console: Console) -> list[HeldOutResult]:
    """Train, or go on from the last checkpoint; evaluate; leave the trained policy in the run's folder.

    Raises:
        IbpoError: for anything in the recipe, the model or the machine that the user can fix.
    """
    _check_machine()
    args, adapter = trainer_arguments(job.config, job.run), adapter_of(job.config)
    trained = job.run.model.is_dir()
    if not trained and (checkpoint := job.run.last_checkpoint()) is not None:
        check_checkpoint(checkpoint, needed=() if args.save_only_model else STATE_OF_ONE_PROCESS)
    try:
        model, tokenizer = load_policy(str(job.run.model) if trained else job.model_path, dtype=job.config.model.dtype)
    except IbpoError as error:
        raise IbpoError(f"model.path: {error}") from None
    groups = encode_groups(job.response_groups, tokenizer)
    prompts = {p.problem_id: _prompt(job, tokenizer, p) for p in (*job.training, *job.held_out)}
    options = job.config.trl.get("chat_template_kwargs")
    prompt_ids = {key: encode_prompt(tokenizer, prompt, options) for key, prompt in prompts.items()}
    _check_room(job, model, prompt_ids)
    first = next(iter(prompts.values()))
    for note in prompt_notes(tokenizer, first, [group.prefix for group in job.response_groups], options or {}):
        console.print(f"caution: {note}", highlight=False, markup=False, soft_wrap=True)
    scorer = Scorer(groups, tokenizer, replace(job.judge, constraints=()), end_of_sequence_ids(model, tokenizer))
    try:
        if not trained:
            model = _train(job, args, adapter, model, tokenizer, prompts, console)
        if not job.held_out:
            return []
        return _evaluate(job, model, tokenizer, scorer, prompt_ids, args.temperature, console)
    except torch.cuda.OutOfMemoryError:
        raise IbpoError(
            "the GPU's memory is too small; lower train.prompts_per_step or train.max_completion_length, "
            "or raise trl.gradient_accumulation_steps"
        ) from None


def _train(
    job: Job,
    args: IBPOConfig,
    adapter: Any,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[str, Any],
    console: Console,
) -> PreTrainedModel:
    rows = data_rows(job.training, [prompts[p.problem_id] for p in job.training])
    write_text_atomic(job.run.config, job.config_text)
    train = job.config.train
    console.print(
        f"{job.config.model.path}: {len(rows)} problems, {train.steps} steps of {train.prompts_per_step} x "
        f"{train.rollouts_per_prompt} responses -> {job.run.path}",
        highlight=False,
        soft_wrap=True,
    )
    progress = ShowProgress(console)
    where = "trl" if adapter is None else "lora"
    checkpoint = job.run.last_checkpoint()
    if checkpoint is None:
        shutil.rmtree(job.run.rollout_log, ignore_errors=True)
    try:
        trainer = IBPOTrainer(
            model=model,
            reward_funcs=JudgeReward(
                job.judge, job.response_groups, tokenizer, {problem.problem_id: problem for problem in job.training}
            ),
            response_groups=job.response_groups,
            args=args,
            train_dataset=Dataset.from_list(rows).select(_order(len(rows), train)),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[RecordMetrics(job.run.metrics), progress],
        )
    except Exception as error:  # what peft and TRL find only where they have the model
        raise wrong_setting(where, error) from None
    trainer.remove_callback(PrinterCallback)
    try:
        go_on(trainer, checkpoint, table=where)
    finally:
        progress.stop()
    policy: Any = trainer.accelerator.unwrap_model(trainer.model)
    if adapter is not None:
        policy = policy.merge_and_unload()  # what is left is a whole model, like any other run's
    partial = job.run.model.with_name("model.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with saving(job.run.model):
        policy.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        trainer.write_model_card(partial, job.run.path.name)
        os.replace(partial, job.run.model)
    return policy


def _order(num_problems: int, train: TrainConfig) -> np.ndarray:
    """The problems of all steps, one random order after the other.

    Drawn beforehand, because a trainer that resumes after its first pass would shuffle as if it began again.
    """
    rng = np.random.default_rng(train.seed)
    size = train.steps * train.prompts_per_step
    return np.concatenate([rng.permutation(num_problems) for _ in range(-(-size // num_problems))])[:size]


def _evaluate(
    job: Job,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    prompt_ids: dict[str, list[int]],
    temperature: float,
    console: Console,
) -> list[HeldOutResult]:
    train = job.config.train
    torch.manual_seed(train.seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # pyright: ignore[reportArgumentType]
    with console.status(f"evaluating {len(job.held_out)} held-out problems"):
        sampler = HFSampler(
            model,
            tokenizer,
            max_completion_length=train.max_completion_length,
            temperature=temperature,
            batch_size=min(256, train.prompts_per_step * train.rollouts_per_prompt),
        )
        rows = evaluate_held_out(sampler, scorer, job.held_out, [prompt_ids[p.problem_id] for p in job.held_out])
    table = job.run.path / "responses.jsonl"
    write_table(table, rows)
    return held_out_results(read_table(table), scorer.groups.names)


def data_rows(problems: Sequence[Problem], prompts: Sequence[Any]) -> list[dict[str, Any]]:
    """The trainer's data set: what the policy is asked, what slices of budgets look at, and the gold answer."""
    return [
        {
            "prompt": prompt,
            "problem_id": problem.problem_id,
            "level": problem.level,
            "domain": str(problem.info.get("domain", "")),
            "gold": problem.answer,
        }
        for problem, prompt in zip(problems, prompts, strict=True)
    ]


def _prompt(job: Job, tokenizer: PreTrainedTokenizerBase, problem: Problem) -> Any:
    return offer(job.response_groups, problem.prompt, chat=bool(tokenizer.chat_template))


def _check_room(job: Job, model: PreTrainedModel, prompt_ids: dict[str, list[int]]) -> None:
    problem_id, ids = max(prompt_ids.items(), key=lambda item: len(item[1]))
    length, room = job.config.train.max_completion_length, getattr(model.config, "max_position_embeddings", None)
    if room is not None and len(ids) + length > room:
        raise IbpoError(
            f"train.max_completion_length: {length} tokens after the {len(ids)} of problem {problem_id} exceed the "
            f"model's {room} positions; lower it to {max(room - len(ids), 0)} or leave long problems out"
        )


def _check_machine() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise IbpoError("`ibpo train` runs in one process; recipes/distributed.py runs the same recipe in several")
    if torch.cuda.device_count() > 1:
        raise IbpoError(
            f"{torch.cuda.device_count()} GPUs are visible, `ibpo train` uses one: put CUDA_VISIBLE_DEVICES=0 before "
            "it, or use them all by recipes/distributed.py"
        )


def as_rows(results: Sequence[HeldOutResult]) -> list[dict[str, Any]]:
    """Results as they go to `results.json`."""
    return [asdict(result) for result in results]


SET_BY_RECIPE = {
    "budget": "[budget]",
    "generation_batch_size": "train.prompts_per_step",
    "learning_rate": "train.learning_rate",
    "rollout_log_dir": "--out",
    "max_completion_length": "train.max_completion_length",
    "max_steps": "train.steps",
    "num_generations": "train.rollouts_per_prompt",
    "num_train_epochs": "train.steps",
    "output_dir": "--out",
    "per_device_train_batch_size": "train.prompts_per_step",
    "resume_from_checkpoint": "--resume",
    "seed": "train.seed",
    "shuffle_dataset": "train.seed",
    "steps_per_generation": "train.prompts_per_step",
}
"""Options of the trainer that have their place elsewhere in the recipe."""
NO_DATA = ("do_eval", "eval_on_start", "eval_strategy")
"""What asks for an evaluation during training."""
OWN_KINDS = ("chat_template_kwargs",)
"""What is looked at with the recipe."""


def adapter_of(config: RunConfig) -> Any:
    """A `peft.LoraConfig` from `[lora]`, on all linear layers unless `target_modules` says otherwise; None without.

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
    check_settings("lora", config.lora, LoraConfig)
    try:
        return LoraConfig(**{"target_modules": "all-linear", "task_type": "CAUSAL_LM", **config.lora})
    except Exception as error:
        raise wrong_setting("lora", error) from None


def trainer_arguments(config: RunConfig, run: RunDir, *, num_processes: int = 1) -> IBPOConfig:
    """`IBPOConfig` out of `[train]`, `[budget]` and `[trl]`.

    Args:
        config: the recipe.
        run: where checkpoints and rollout log go.
        num_processes: among which the rollouts of a step are split.

    Raises:
        IbpoError: for an unknown key of `[trl]` (names the nearest), one that has its place elsewhere, or a bad value.
    """
    train, trl = config.train, config.trl
    known = {f.name for f in fields(IBPOConfig) if f.init}
    for key in trl:
        if key in SET_BY_RECIPE:
            raise IbpoError(f"trl.{key}: is set by {SET_BY_RECIPE[key]}; set it there")
        if key in RENAMED:
            raise IbpoError(f"trl.{key}: is now called {RENAMED[key]}; write that")
        if key not in known:
            raise IbpoError(f"trl.{key}: unknown key of IBPOConfig; {nearest(key, known - set(SET_BY_RECIPE))}")
    check_settings("trl", {k: v for k, v in trl.items() if k not in OWN_KINDS}, IBPOConfig)
    for key in NO_DATA:
        if trl.get(key) not in (None, False, "no"):
            raise IbpoError(
                f"trl.{key}: a recipe has no problems for an evaluation during training, data.holdout is for its end; "
                "leave it out, or pass an eval_dataset in Python"
            )
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
            rollout_log_dir=str(run.rollout_log),
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
    except Exception as error:
        raise wrong_setting("trl", error) from None
