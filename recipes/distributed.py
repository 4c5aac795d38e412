"""A recipe in several processes: what `ibpo train` does in one, without the evaluation. `[lora]` leaves the adapter.

accelerate launch --config_file recipes/accelerate/fsdp2_8.yaml recipes/distributed.py RECIPE [--set KEY=VALUE]

Run it again after an interruption, and it goes on from the last whole checkpoint.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer

from ibpo.config import read_recipe
from ibpo.demo import resolve_model
from ibpo.responses import build_response_groups, offer
from ibpo.runs import RunDir
from ibpo.tasks import build_judge, read_problems
from ibpo.training import IBPOTrainer, JudgeReward, adapter_of, check_checkpoint, data_rows, trainer_arguments


def main() -> None:
    """Read the recipe, build the trainer, train or go on, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    config = read_recipe(given.recipe, given.overrides)
    run = RunDir(given.out or Path("runs") / given.recipe.stem)

    training, _, judge_name = read_problems(config.data)
    path = resolve_model(config.model.path, "model.path")
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    groups = build_response_groups(config.response_group)
    prompt_of = [offer(groups, problem.prompt, chat=bool(tokenizer.chat_template)) for problem in training]

    args = trainer_arguments(config, run, num_processes=int(os.environ.get("WORLD_SIZE", "1")))
    args.model_init_kwargs = {"dtype": config.model.dtype}
    args.shuffle_dataset = True
    judge = build_judge(judge_name, config.judge, config.constraints, groups)
    trainer = IBPOTrainer(
        model=path,
        reward_funcs=JudgeReward(judge, groups, tokenizer, {problem.problem_id: problem for problem in training}),
        response_groups=groups,
        args=args,
        train_dataset=Dataset.from_list(data_rows(training, prompt_of)),
        processing_class=tokenizer,
        peft_config=adapter_of(config),
    )
    last = run.last_checkpoint()
    if last is not None:
        check_checkpoint(last)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.save_model(str(run.model))


if __name__ == "__main__":
    main()
