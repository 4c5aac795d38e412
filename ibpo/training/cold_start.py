"""Supervised fine-tuning on constructed responses: how a model gets its response groups, by trl.SFTTrainer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer


def supervised_fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Iterable[tuple[str, str]],
    out_dir: Path,
    *,
    learning_rate: float,
    batch_size: int,
    seed: int,
    num_epochs: float = 1.0,
    loss_on: Callable[[int, list[int]], list[int]] | None = None,
    callbacks: list[TrainerCallback] | None = None,
    peft_config: Any = None,
    quiet: bool = False,
    **sft_options: Any,
) -> PreTrainedModel:
    """Minimise the mean negative log-likelihood of the completions' tokens; prompts carry no loss.

    Args:
        model: the model to train, in place.
        tokenizer: its tokenizer; the end-of-sequence token is appended to each completion.
        pairs: (prompt, completion) texts.
        out_dir: where checkpoints go; the last one is resumed if there is one.
        learning_rate: peak, with 3 % linear warm-up and cosine decay to zero.
        batch_size: sequences a step; sequences of about the same length go together.
        seed: of the data order.
        num_epochs: passes over the pairs.
        loss_on: (index of the pair, completion token ids) -> 1 for each token that carries loss; None: all of them.
        callbacks: passed on to the trainer.
        peft_config: of peft, e.g. a `LoraConfig`: only the adapter is trained, and merged into the model at the end.
        quiet: do not print the logs; callbacks get them anyway.
        **sft_options: passed on to `trl.SFTConfig`.
    """
    rows: dict[str, list[list[int]]] = {"input_ids": [], "completion_mask": []}
    prompts, completions = zip(*pairs, strict=True)
    prompt_ids = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(list(completions), add_special_tokens=False)["input_ids"]
    for i, (prompt, completion) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
        completion = [*completion, tokenizer.eos_token_id]
        rows["input_ids"].append(prompt + completion)
        mask = loss_on(i, completion) if loss_on else [1] * len(completion)
        rows["completion_mask"].append([0] * len(prompt) + mask)
    options: dict[str, Any] = {
        "use_cpu": model.device.type == "cpu",
        "bf16": model.device.type != "cpu",
        "gradient_checkpointing": False,
        "train_sampling_strategy": "group_by_length",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "logging_steps": 50,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": 200,
        "save_total_limit": 1,
        "max_length": None,
    } | sft_options
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(rows),
        args=SFTConfig(
            output_dir=str(out_dir),
            learning_rate=learning_rate,
            per_device_train_batch_size=batch_size,
            num_train_epochs=num_epochs,
            seed=seed,
            completion_only_loss=True,
            **options,
        ),
        callbacks=callbacks,
        peft_config=peft_config,
    )
    if quiet:
        trainer.remove_callback(PrinterCallback)
    for checkpoint in out_dir.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").exists():  # written last: a kill left the checkpoint half-written
            shutil.rmtree(checkpoint)
    has_checkpoint = any(out_dir.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=has_checkpoint or None)
    if peft_config is not None:
        adapted: Any = trainer.accelerator.unwrap_model(trainer.model)
        return adapted.merge_and_unload()
    return model
