"""What would be another update than weighted SFT, or have no effect, is refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from datasets import Dataset

from ibpo.demo import THINKING
from ibpo.errors import IbpoError
from ibpo.training.config import check_inputs
from ibpo.training.trainer import IBPOConfig, IBPOTrainer
from ibpo.types import ResponseGroup
from tests.checkpoints import make_checkpoint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss_type": "cispo"}, "loss_type must be dr_grpo"),
        ({"loss_type": "dapo"}, "loss_type must be dr_grpo"),  # TRL's own default
        ({"num_iterations": 2}, "num_iterations must be 1"),
        ({"beta": 0.1}, "beta must be 0"),
        # Such a checkpoint was none to go on from, and `ibpo train` took the end of its training for the end of all.
        ({"enable_jit_checkpoint": True}, "enable_jit_checkpoint must be False: .*: lower save_steps"),
        ({"delta": 2.0}, "delta must be None"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level must be token"),
        ({"vllm_importance_sampling_correction": True}, "vllm_importance_sampling_correction must be False"),
        ({"off_policy_mask_threshold": 0.1}, "off_policy_mask_threshold must be None"),
        ({"mask_truncated_completions": True}, "mask_truncated_completions must be False"),
        ({"top_entropy_quantile": 0.5}, "top_entropy_quantile"),
        ({"entropy_coef": 0.01}, "entropy_coef must be 0"),
        ({"use_adaptive_entropy": True}, "use_adaptive_entropy must be False"),
        ({"router_aux_loss_coef": 0.001}, "router_aux_loss_coef must be 0"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "multi_objective_aggregation must be"),
        ({"use_liger_kernel": True}, "use_liger_kernel must be False"),
        ({"top_p": 0.9}, "top_p must be 1"),
        ({"top_k": 50}, "top_k must be 0"),
        ({"min_p": 0.1}, "min_p must be None"),
        ({"repetition_penalty": 1.1}, "repetition_penalty must be 1"),
        ({"generation_kwargs": {"num_beams": 2}}, "generation_kwargs must be None"),
        ({"cache_implementation": "static"}, "cache_implementation must be None"),
        ({"use_transformers_continuous_batching": True}, "use_transformers_continuous_batching must be False"),
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 1}, "steps_per_generation must be a multiple"),
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 3}, "gradient_accumulation_steps=2, got 3"),
        ({"steps_per_generation": 2, "save_steps": 5}, "save_steps must be a multiple of 2"),
        ({"steps_per_generation": 2, "save_steps": 0.1}, "save_steps must be a multiple of 2"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps"}, "load_best_model_at_end must be False, or averag"),
        ({"kl_share": 50}, "kl_share must be from 0 to 1, got 50"),
        ({"averaging": -1.0}, "averaging must be from 0 to 1"),
        ({"reward_weights": [1.0, float("nan")]}, "reward_weights must be finite numbers"),
        ({"min_gain": float("nan")}, "min_gain must be finite and at least 0, got nan"),
        ({"kl_weight": -1.0}, "kl_weight must be finite and at least 0"),
        ({"kl_weight": float("inf")}, "kl_weight must be finite and at least 0, got inf"),
        ({"completion_loss_weight": float("nan")}, "completion_loss_weight must be finite and at least 0"),
        ({"window": 0}, "window must be finite and at least 1"),
        ({"window": 2.5}, "window must be a whole number, got 2.5"),
        ({"window": None}, "window must be a whole number, got None"),
        ({"sampling_batch_size": "8"}, "sampling_batch_size must be a whole number, got '8'"),
        ({"kl_weight": "0.5"}, "kl_weight must be a number, got '0.5'"),
        ({"averaging": None}, "averaging must be a number, got None"),
        ({"integral_gain": True}, "integral_gain must be a number, got True"),
        ({"stratified": "false"}, "stratified must be True or False, got 'false'"),
        ({"imitate_denied": 0}, "imitate_denied must be True or False, got 0"),
        ({"temperature": 0.0}, "temperature must be a number above 0"),
        ({"temperature": -1.0}, "temperature must be a number above 0"),
        (
            {"steps_per_generation": 2, "save_strategy": "best", "eval_strategy": "steps", "eval_steps": 3},
            "eval_steps must be a multiple of 2",
        ),
        ({"budget": {"extended": 1.5}}, "budget extended=1.5: a share is at most 1"),
        ({"budget": {"extended": [1]}}, "budget extended: needs a number or a text"),
        ({"budget": {"tokens": "50%"}}, r"budget tokens=50%: a percentage of what\?"),
        ({"budget": {"tokens": "0.5x"}}, "budget tokens=0.5x: what is spent is not known before"),
        ({"budget": {}}, "for no budget write budget=None"),
        ({"budget": "extended=0.5"}, "needs entries like"),
        ({"budget": ["extended=0.5", "extended<=1/2"]}, "budget extended: is given twice"),
        ({"budget": [0.5]}, "budget: 0.5 is not text"),
        ({"budget": '{"extended": 0.5'}, "is not JSON: Expecting"),
    ],
)
def test_what_would_break_the_identity_is_refused(tmp_path, options, said):
    with pytest.raises(IbpoError, match=said):
        IBPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **options)


def test_a_script_reads_the_configuration_as_it_reads_trls(tmp_path):
    """The parsers of transformers and TRL took none of it: one type of its fields was none that argparse can read."""
    from trl import TrlParser

    fixed = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"]
    table = '{"extended": 0.5, "extended@level=3": "30%", "tokens": 200}'
    given = ["--budget", table, "--min_gain", "0.1", "--stratified", "false", "--lr_scheduler_type", "cosine"]
    (args,) = TrlParser(IBPOConfig).parse_args_and_config([*fixed, *given])  # pyright: ignore[reportArgumentType]
    assert args.budget == {"extended": 0.5, "extended@level=3": "30%", "tokens": 200.0}
    assert (args.min_gain, args.stratified, args.lr_scheduler_type) == (0.1, False, "cosine")
    (args,) = TrlParser(IBPOConfig).parse_args_and_config(fixed)  # pyright: ignore[reportArgumentType]
    assert args.budget is None and args.imitate_denied


@pytest.mark.parametrize("source", ["removed", "stream"])
def test_a_budget_by_a_column_that_the_rows_do_not_have_is_refused_in_the_first_step(make_trainer, source):
    """It held nobody, and nothing was said."""
    options = {"columns": lambda problem: {"domain": "law"}, "budget": {"extended@domain=law": 0.25}}
    if source == "removed":
        trainer = make_trainer(
            remove_unused_columns=True, reward_funcs=lambda completions, **_: [1.0] * len(completions), **options
        )
    else:
        trainer = make_trainer(stream=True, **options)
        columns = trainer.train_dataset.column_names
        trainer.train_dataset = trainer.train_dataset.rename_column("domain", "area")
        assert "domain" in columns
    with pytest.raises(IbpoError, match="no row of the first step has a column 'domain'"):
        trainer.train()


def test_a_budget_by_a_column_of_lists_is_refused(make_trainer):
    with pytest.raises(IbpoError, match="the column 'tags' holds lists or tables, and a slice needs one value a row"):
        make_trainer(columns=lambda problem: {"tags": [problem.level]}, budget={"extended@tags": 0.5})


def test_checkpoints_may_come_at_parts_of_the_training(tmp_path):
    """As transformers has it: a tenth of the steps."""
    assert IBPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, save_steps=0.1).save_steps == 0.1


def test_a_budget_takes_the_texts_of_the_command_line(tmp_path):
    budget = {"long": "50%", " tokens <=": 200, "long@level = 3 >=": "1/3"}
    args = IBPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, budget=budget)
    assert args.budget == {"long": "50%", "tokens": 200.0, "long@level=3>=": "1/3"}
    assert IBPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, budget=args.budget).budget == args.budget
    texts: Any = ["long = 50%", "tokens<=200", "long@level=3>=1/3"]
    assert IBPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, budget=texts).budget == args.budget


@pytest.mark.parametrize("name", ["rollout_func", "tools", "environment_factory"])
def test_arguments_that_do_not_go_with_response_groups_are_refused(make_trainer, name):
    with pytest.raises(IbpoError, match=f"{name} is not taken: .*; leave it out"):
        make_trainer(trainer_options={name: [print]})
    assert make_trainer(trainer_options={name: None}).rollout_func is not None


def test_images_and_a_routers_own_loss_are_refused(make_trainer):
    with pytest.raises(IbpoError, match="rollouts are of text alone"):
        make_trainer(columns=lambda problem: {"image": ""})
    trainer = make_trainer()
    trainer.aux_loss_enabled = True
    with pytest.raises(IbpoError, match=r"set router_aux_loss_coef=0\.0"):
        check_inputs(trainer)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reasoning_effort": "high"}, r"chat_template_kwargs\.reasoning_effort: the chat template .* ignores it"),
        ({"enable_thinking": False}, "extended.prefix: .* prompts behind a closed thought .* would open another"),
        ({}, None),
    ],
)
def test_a_chat_template_that_does_otherwise_is_refused_before_the_first_step(tmp_path, options, said):
    folder = make_checkpoint("hybrid", tmp_path / "model")
    groups = [ResponseGroup(name="standard", prefix="Answer:"), ResponseGroup(name="extended", prefix="<think>")]

    def build() -> IBPOTrainer:
        args = IBPOConfig(output_dir=str(tmp_path), use_cpu=True, num_generations=4, chat_template_kwargs=options)
        rows = [{"prompt": [{"role": "user", "content": f"{i} + {i} ="}]} for i in range(8)]
        return IBPOTrainer(str(folder), lambda completions, **_: [0.0], groups, args, Dataset.from_list(rows))

    if said is None:
        assert build().groups.names == ["standard", "extended"]
        return
    with pytest.raises(IbpoError, match=said):
        build()


def test_response_groups_that_cannot_be_told_apart_are_refused(make_trainer):
    twin = ResponseGroup(name="twin", prefix="<answer> 3", extract_answer=lambda text: text)
    with pytest.raises(IbpoError, match="first tokens must differ"):
        make_trainer(groups=[THINKING.response_groups[0], twin])
    with pytest.raises(IbpoError, match="no cost is named 'thoughtful'"):
        make_trainer(budget={"thoughtful": 0.5})
    with pytest.raises(IbpoError, match="at least two"):
        make_trainer(groups=THINKING.response_groups[:1], budget=None)
    for name in ("tokens", ""):  # the cost of that name would be meant, and the row of no group
        named = [THINKING.response_groups[0], replace(THINKING.response_groups[1], name=name)]
        with pytest.raises(IbpoError, match=f"a response group cannot be called '{name}'; give it another name"):
            make_trainer(groups=named, budget={"tokens": 0.5})


def test_a_prompt_of_no_token_is_named(make_trainer):
    trainer = make_trainer(columns=lambda problem: {"prompt": ""})
    with pytest.raises(IbpoError, match=r"the prompt .. has no token, .*leave such rows out"):
        trainer.train()
