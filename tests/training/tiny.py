"""A tiny trainer on a task that the embedded model can be sampled on; fixtures and spawned processes share it."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def reward(completions, answer, **_):
    from ibpo.demo import THINKING
    from ibpo.rewards.judges import exact_match

    return [
        max(exact_match(group.extract_answer(text), gold) for group in THINKING.response_groups)
        for text, gold in zip(completions, answer, strict=True)
    ]


def build_trainer(
    output_dir,
    cls=None,
    groups=None,
    model=None,
    dtype=None,
    reward_funcs=None,
    num_problems=64,
    stream=False,
    eval_rows=0,
    columns=None,
    trainer_options=None,
    **options,
):
    """On the embedded model; `columns` maps a problem to more columns, `options` go to `IBPOConfig`."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ibpo.demo import THINKING, model_path
    from ibpo.tasks.task import distinct
    from ibpo.training.trainer import IBPOConfig, IBPOTrainer

    path = model_path("thinking", "cold_start")
    tokenizer = AutoTokenizer.from_pretrained(path)
    torch.manual_seed(0)
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 32,
        "num_generations": 4,
        "max_completion_length": 40,
        "max_steps": 1,
        "learning_rate": 1.0,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e9,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "averaging": 0.0,
        # Small weights and a strong penalty: sums are taken in float32, and tests ask for five digits of them.
        "window": 64,
        "min_gain": 0.03,
        "integral_gain": 0.06,
        "imitate_completions": "chosen",
        "completion_loss_weight": 0.02,
        "kl_share": 0.5,
        "kl_weight_start": 0.05,
        "kl_weight": 3.0,
        "budget": {"extended": 0.5},
        "seed": 0,
    } | options
    problems = distinct(THINKING.task, "train", num_problems, seed=0)
    rows = [
        {"prompt": p.prompt, "answer": p.answer, "problem_id": p.problem_id, "level": p.level}
        | (columns(p) if columns else {})
        for p in problems
    ]
    return (cls or IBPOTrainer)(
        model=model or AutoModelForCausalLM.from_pretrained(path, dtype=dtype or torch.float32),
        reward_funcs=reward_funcs or reward,
        response_groups=list(groups or THINKING.response_groups),
        args=IBPOConfig(**settings),
        train_dataset=Dataset.from_list(rows).to_iterable_dataset() if stream else Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:eval_rows]) if eval_rows else None,
        processing_class=tokenizer,
        **(trainer_options or {}),
    )


def with_lora(dtype=None, fresh=False):
    """The embedded model under LoRA adapters, disturbed: fresh ones have a zero factor, and half a gradient."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ibpo.demo import model_path

    base = AutoModelForCausalLM.from_pretrained(model_path("thinking", "cold_start"), dtype=dtype or torch.float32)
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and not fresh:
                parameter.normal_(std=0.02)
    return model


def disturb_reference_model(trainer):
    """Else the KL penalty's gradient is zero at the first step, and nothing is tested."""
    if trainer.reference_model is not None:
        for parameter in trainer.reference_model.parameters():
            parameter.mul_(1.1)
