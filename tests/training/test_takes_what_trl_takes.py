"""What GRPOTrainer takes keeps working: two updates each, with what it should have changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from ibpo.training.reference_model import frozen_copy
from tests.training.closed_form import Recorder, flat, relative_error


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def test_peft_config(make_trainer, tmp_path):
    from peft import LoraConfig

    adapter = LoraConfig(r=4, target_modules="all-linear")
    options = {"learning_rate": 0.1, "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(trainer_options={"peft_config": adapter}, **options)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved and all("lora_" in name for name in moved)
    assert (tmp_path / "run" / "checkpoint-2" / "adapter_model.safetensors").exists()
    assert (tmp_path / "run" / "checkpoint-2" / "ibpo_state.npz").exists()


def test_gradient_checkpointing_changes_nothing(make_trainer):
    updates = []
    for name, checkpointing in (("whole", False), ("again", True)):
        trainer = make_trainer(
            name,
            cls=Recorder,
            dtype=torch.float64,
            gradient_checkpointing=checkpointing,
            learning_rate=0.1,
            max_steps=2,
        )
        before = flat(frozen_copy(trainer.model).parameters())
        trainer.train()
        assert trainer.model.is_gradient_checkpointing == checkpointing
        updates.append(flat(trainer.model.parameters()) - before)
    assert relative_error(updates[1], updates[0]) < 1e-9


def test_a_stream_of_prompts(make_trainer):
    trainer = make_trainer(stream=True, cls=Recorder, max_steps=2, learning_rate=1e-3, rollout_log_dir=None)
    trainer.train()
    assert trainer.state.global_step == 2 and len(trainer.seen) == 2
    assert trainer.seen[0][0] != trainer.seen[1][0]
    assert sum(s.chosen.sum() for s in trainer.selections) == 16  # eight prompts an update


def test_an_evaluation_data_set(make_trainer):
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 2, "per_device_eval_batch_size": 8}
    trainer = make_trainer(max_steps=2, learning_rate=1e-3, logging_steps=1, eval_rows=8, **evaluation)
    trainer.train()
    rewards = logged(trainer, "eval_reward")
    assert len(rewards) == 2 and all(0 <= reward <= 1 for reward in rewards)
    assert len(logged(trainer, "ibpo/share/extended")) == 2  # of the two updates alone


def test_an_evaluation_says_whether_the_budget_holds(make_trainer):
    """Over all batches of the evaluation at once, by responses forced into each group and the policy's own."""
    evaluation = {"num_generations_eval": 2, "per_device_eval_batch_size": 8, "rollout_log_dir": None}
    budget = {"extended": 0.25, "tokens": 30.0, "extended@level=2": 0.5}
    trainer = make_trainer(eval_rows=16, budget=budget, **evaluation)
    alone = []
    for rows in (trainer.eval_dataset.select(range(4 * i, 4 * i + 4)) for i in range(4)):
        torch.manual_seed(0)
        alone.append(trainer.evaluate(rows))
    torch.manual_seed(0)
    found = trainer.evaluate()
    assert trainer.evaluate()["eval_ibpo/share/extended"] == pytest.approx(found["eval_ibpo/share/extended"])
    shares = [one["eval_ibpo/share/extended"] for one in alone]
    assert found["eval_ibpo/share/extended"] == pytest.approx(sum(shares) / 4, abs=1e-6)
    assert found["eval_ibpo/spent/extended"] == found["eval_ibpo/share/extended"]
    assert found["eval_ibpo/allowed/extended"] == 0.25 and found["eval_ibpo/allowed/tokens"] == 30.0
    assert 0 <= found["eval_ibpo/reward/standard"] < found["eval_ibpo/reward/extended"] <= 1
    assert found["eval_ibpo/spent/tokens"] == pytest.approx(found["eval_completions/mean_length"], rel=1e-6)
    assert {f"eval_ibpo/price/{key}" for key in budget} <= set(found)
    assert -1 <= found["eval_ibpo/oracle_gap"] <= 1 and len(trainer.held_out.share) == 16


def test_metrics_reach_tensorboard(make_trainer, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    make_trainer(max_steps=2, learning_rate=1e-3, report_to="tensorboard", logging_steps=1).train()
    (events,) = (tmp_path / "board").rglob("events.out.tfevents.*")
    written = events.read_bytes()
    for name in ("share/extended", "spent/extended", "price/extended", "group_entropy", "forced_reward/extended"):
        assert f"ibpo/{name}".encode() in written


def test_the_model_card_says_what_it_was_trained_by(make_trainer, tmp_path):
    from huggingface_hub import ModelCard

    budget = {"extended": "30%", "standard>=": "1/4"}
    trainer = make_trainer(budget=budget, save_strategy="steps", save_steps=1)
    trainer.train()
    card: Any = ModelCard.load(tmp_path / "run" / "README.md")
    text = card.text
    assert "GRPO" not in card.content and "None" not in text
    assert {"ibpo", "trl"} <= set(card.data.tags) and "grpo" not in card.data.tags
    for word in (
        "IBPO",
        "`extended=30%`",
        "`standard>=0.25`",
        "`<think>`",
        "`<answer>`",
        "2501.17974",
        "`thinking-cold-start-",
    ):
        assert word in text, word
    assert card.data.base_model is None  # a folder of this machine is not one of the hub's
    trainer.model.config._name_or_path = "owner/model"
    trainer.create_model_card(dataset_name="owner/problems", tags="mine")
    data: Any = ModelCard.load(tmp_path / "run" / "README.md").data
    assert data.base_model == "owner/model" and data.datasets == "owner/problems" and "mine" in data.tags


def test_a_group_whose_reward_does_not_apply_earns_nothing_that_is_known(make_trainer):
    """A forced response that was cut off counted as wrong, also where no reward function applied to it."""
    options = {"num_problems": 16, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 8, "eval_rows": 2}
    found = make_trainer(
        max_completion_length=2, reward_funcs=lambda completions, **_: [None] * len(completions), **options
    ).evaluate()
    assert found["eval_completions/clipped_ratio"] > 0 and "eval_ibpo/share/standard" in found
    assert not [key for key in found if key.startswith(("eval_ibpo/reward", "eval_ibpo/oracle_gap"))]


def test_a_row_without_a_level_has_none(make_trainer, tmp_path):
    """Rows of several sources have None where a source has no such column: it was the level called None."""
    trainer = make_trainer(
        columns=lambda p: {"problem_id": None, "level": None if p.level == "2" else p.level},
        budget={"extended@level": 0.5}, num_problems=16, per_device_train_batch_size=16,
        rollout_log_dir=str(tmp_path / "log"),
    )  # fmt: skip
    trainer.train()
    assert "extended@level=" in {term.key for term in trainer.budgets}
    assert not [key for key in trainer.state.log_history[0] if "None" in key]
    (shard,) = (tmp_path / "log").iterdir()
    rows = pq.read_table(shard).to_pylist()
    assert {row["problem_id"] for row in rows} == {""} and "None" not in {row["level"] for row in rows}


def test_an_evaluation_after_a_prediction_is_of_its_own_prompts(make_trainer):
    """TRL logs no metrics of a prediction, and the evaluation behind it counted the prediction's prompts as its own."""
    trainer = make_trainer(num_problems=16, per_device_train_batch_size=16, per_device_eval_batch_size=8, eval_rows=8)
    two = trainer.eval_dataset.select(range(2))
    alone = trainer.evaluate(two)["eval_ibpo/share/extended"]
    trainer.predict(trainer.eval_dataset)
    assert trainer.evaluate(two)["eval_ibpo/share/extended"] == pytest.approx(alone)


def test_a_head_in_single_precision_on_a_model_in_half_of_it(make_trainer):
    """The reference model's head lost TRL's cast, and the first step failed."""
    options = {"max_steps": 2, "logging_steps": 1, "learning_rate": 0.05, "kl_share": 1.0}
    trainer = make_trainer(cast_lm_head_to_fp32=True, dtype=torch.bfloat16, **options)
    trainer.train()
    first, second = logged(trainer, "ibpo/kl")
    assert first == 0.0 < second


def test_the_temperature_is_that_of_training_in_the_card_and_the_evaluation(make_trainer, tmp_path, monkeypatch):
    """Both said 1 whatever `temperature` was: the share of another policy than the one that was trained."""
    from ibpo.training import run

    trainer = make_trainer(temperature=0.7)
    trainer.write_model_card(tmp_path / "card")
    assert "Sample it at temperature 0.7 without" in (tmp_path / "card" / "README.md").read_text()
    seen = {}

    class Sampler:
        def __init__(self, model, tokenizer, **options):
            seen.update(options)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    monkeypatch.setattr(run, "HFSampler", Sampler)
    monkeypatch.setattr(run, "evaluate_held_out", stop)
    from rich.console import Console

    train: Any = SimpleNamespace(seed=0, max_completion_length=9, prompts_per_step=2, rollouts_per_prompt=2)
    job: Any = SimpleNamespace(config=SimpleNamespace(train=train), held_out=[])
    groups: Any = SimpleNamespace()
    with pytest.raises(Stop):
        run._evaluate(job, trainer.model, trainer.processing_class, groups, {}, 0.7, Console(quiet=True))
    assert seen["temperature"] == 0.7 and seen["max_completion_length"] == 9


def test_a_tokenizer_that_takes_the_reasoning_apart_does_so_for_forced_responses_too(make_trainer):
    """Reward functions got the policy's own responses in fields, and those that an evaluation forces as one text."""
    asked = []

    def seen(completions, **_):
        asked.append([completion[0] for completion in completions])
        return [float("7" in completion["content"]) for completion in asked[-1]]

    trainer = make_trainer(reward_funcs=seen, num_problems=16, per_device_train_batch_size=16, eval_rows=2)
    fields = {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
        "content": {"close_pattern": "$", "content": "text"},
    }
    trainer.processing_class.response_template = {
        "defaults": {"role": "assistant"}, "start_anchor": "=", "fields": fields,
    }  # fmt: skip
    trainer.processing_class.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    chats = trainer.eval_dataset.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
    trainer.evaluate(chats)
    own, forced = asked
    assert len(forced) == 4 and ["reasoning_content" in completion for completion in forced] == [False, True] * 2
    assert not any("<think>" in completion["content"] for completion in own + forced)
