"""The seam: one step is weighted SFT to the last digit; what would break that is refused; a resume changes nothing."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from ibpo.errors import IbpoError
from ibpo.rollouts import encode_prompt
from ibpo.training import checkpoints
from ibpo.training.checkpoints import AverageWeights, DataOrder
from ibpo.training.loss import kl_weight_at
from ibpo.training.reference_model import frozen_copy
from tests.training.closed_form import Recorder, Replay, closed_form_gradient, flat, relative_error
from tests.training.tiny import disturb_reference_model, with_lora


def assert_closed_form(trainer):
    """One SGD step at a learning rate of 1 moves the weights by minus the closed form's gradient."""
    before = frozen_copy(trainer.model)  # a plain copy would answer with the live weights
    for old, new in zip(before.parameters(), trainer.model.parameters(), strict=True):
        old.requires_grad_(new.requires_grad)
    start = flat(p for p in trainer.model.parameters() if p.requires_grad)
    trainer.train()
    moved = start - flat(p for p in trainer.model.parameters() if p.requires_grad)
    expected = closed_form_gradient(before, trainer.reference_model or before, trainer.seen, trainer.groups.prefix_ids)
    assert relative_error(moved, expected) < 1e-5


class StopAfter(TrainerCallback):
    """Ends a training early, as an interruption would, after the checkpoint is written."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        """Stop."""
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize(
    "options",
    [
        {"kl_share": 0.25},
        {"imitate_completions": "every_group", "completion_loss_weight": 0.3, "kl_share": 0.0},
        {"utility": "margin", "kl_share": 0.0, "stratified": False},
        {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "kl_share": 0.25},
        {"budget": None, "utility": "reward", "imitate_denied": False, "completion_loss_weight": 1.0, "kl_share": 0.0},
    ],
)
def test_one_sgd_step_is_the_gradient_of_weighted_sft(make_trainer, options):
    trainer = make_trainer(cls=Recorder, dtype=torch.float64, **options)
    disturb_reference_model(trainer)
    assert_closed_form(trainer)


def test_the_same_with_lora(make_trainer):
    trainer = make_trainer(cls=Recorder, model=with_lora(torch.float64), kl_share=0.25)
    disturb_reference_model(trainer)
    assert_closed_form(trainer)
    frozen = [name for name, p in trainer.model.named_parameters() if not p.requires_grad]
    assert frozen and all("lora_" not in name for name in frozen)


def test_accumulation_changes_nothing(make_trainer):
    whole = make_trainer("whole", cls=Recorder, dtype=torch.float64, kl_share=0.25)
    before = flat(whole.model.parameters())
    disturb_reference_model(whole)
    whole.train()
    parts = make_trainer(
        "parts",
        cls=Replay,
        dtype=torch.float64,
        kl_share=0.25,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=8,
    )
    disturb_reference_model(parts)
    parts.recorded = whole.seen[0][1]
    parts.train()
    assert np.array_equal(whole.seen[0][2], parts.seen[0][2])
    step = flat(whole.model.parameters()) - before
    assert relative_error(flat(parts.model.parameters()) - before, step) < 1e-5


@pytest.mark.parametrize("num_updates", [2, 4])
def test_terms_weigh_alike_however_many_updates_a_rollout_gets(make_trainer, num_updates):
    """Each update is of its part of the rows with the weight of all; the KL penalty was divided by their number."""

    def moved(name, updates, **weights):
        trainer = make_trainer(
            f"{name}-{updates}",
            dtype=torch.float64,
            per_device_train_batch_size=32 // updates,
            gradient_accumulation_steps=1,
            steps_per_generation=updates,
            max_steps=updates,
            learning_rate=1e-3,
            **weights,
        )
        disturb_reference_model(trainer)
        before = flat(trainer.model.parameters())
        trainer.train()
        return 1e3 * (flat(trainer.model.parameters()) - before) / updates

    # The same rollouts: small steps, one after the other, are nearly one step.
    kl = {
        "prefix_loss_weight": 0.0,
        "completion_loss_weight": 0.0,
        "kl_share": 1.0,
        "kl_weight_start": 1.0,
        "kl_weight": 1.0,
    }
    imitated = {"prefix_loss_weight": 1.0, "kl_share": 0.0}
    for name, weights in (("kl", kl), ("imitated", imitated)):
        assert relative_error(moved(name, num_updates, **weights), moved(name, 1, **weights)) < 0.15, name


def test_averages_are_taken_in_single_precision_and_anew_in_each_training(make_trainer, tmp_path):
    """In bfloat16 a third of the shift was lost; a second `train()` went on with the first one's average."""
    trainer = make_trainer(averaging=1.0, max_steps=3)
    average = next(one for one in trainer.callback_handler.callbacks if isinstance(one, AverageWeights))
    model = torch.nn.Linear(1, 1, dtype=torch.bfloat16)
    state: Any = SimpleNamespace(global_step=1, max_steps=1)
    control: Any = None
    average.on_train_begin(trainer.args, state, control, model=model)
    for step in range(200):
        with torch.no_grad():
            model.weight.fill_(1.0 if step < 100 else 1.0078125)
        average.on_step_end(trainer.args, state, control, model=model)
    assert average.mean["weight"].item() == pytest.approx(1.00390625)
    average.on_train_begin(trainer.args, state, control, model=model)
    assert (average.count, average.mean) == (0, {})
    average.on_step_end(trainer.args, state, control, model=model)
    trainer.resumed_from, average.share = tmp_path, 0.5  # from a checkpoint before the averaging
    state.max_steps = 4
    average.on_train_begin(trainer.args, state, control, model=model)
    assert (average.count, average.mean) == (0, {})


@pytest.mark.parametrize("num_updates", [1, 2])
def test_the_logged_penalty_is_that_of_the_update_whatever_its_parts(make_trainer, num_updates):
    """It was the mean over the parts: half of it with two, and less yet with more."""

    def logged(parts):
        trainer = make_trainer(
            f"parts-{parts}",
            per_device_train_batch_size=32 // parts // num_updates,
            gradient_accumulation_steps=parts,
            steps_per_generation=parts * num_updates,
            max_steps=num_updates,
            logging_steps=num_updates,
            learning_rate=0.0,
        )
        disturb_reference_model(trainer)
        trainer.train()
        return next(entry["ibpo/kl"] for entry in trainer.state.log_history if "ibpo/kl" in entry)

    whole = logged(1)
    assert whole > 0 and [logged(parts) for parts in (2, 8)] == pytest.approx([whole, whole], rel=1e-5)


def test_a_logged_completion_has_the_weight_of_its_own_tokens(make_trainer, tmp_path):
    """It also had that of the padding behind it, times a factor that depends on the batch."""
    options = {"log_completions": True, "num_completions_to_print": 0, "logging_steps": 1}
    weights = {"imitate_completions": "every_group", "completion_loss_weight": 0.3}
    trainer = make_trainer(rollout_log_dir=str(tmp_path / "log"), **options, **weights)
    trainer.train()
    (shard,) = (tmp_path / "log").glob("*.parquet")
    rows = pq.read_table(shard).to_pylist()
    (table,) = (tmp_path / "run" / "completions").glob("*.parquet")
    # Both prefixes are of one token.
    expected = [
        row["prefix_loss_weight"] + row["completion_loss_weight"] * (row["tokens"] - 1) for row in rows
    ]  # fmt: skip
    assert len({row["tokens"] for row in rows}) > 1 and max(expected) > 1
    assert pq.read_table(table)["advantage"].to_pylist() == pytest.approx(expected)


def test_a_prompt_is_read_alike_beside_a_longer_one_where_positions_are_learned(make_trainer):
    """GPT-2 counts padding where no positions are given, and TRL gives none."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from ibpo.demo import model_path

    tokenizer = AutoTokenizer.from_pretrained(model_path("thinking"))
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    trainer = make_trainer(
        cls=Recorder,
        model=GPT2LMHeadModel(config).double(),
        kl_share=0.25,
        num_problems=16,
        utility="group_mean",
        guards="off",
        reward_funcs=lambda completions, **_: [float(len(text) % 2) for text in completions],
    )
    disturb_reference_model(trainer)
    assert_closed_form(trainer)
    assert len({len(ids) for ids in trainer.seen[0][0]}) > 1


def test_the_kl_penalty_vanishes_at_the_reference_model(make_trainer):
    trainer = make_trainer(cls=Recorder, prefix_loss_weight=0.0, completion_loss_weight=0.0, kl_share=1.0)
    before = frozen_copy(trainer.model)
    trainer.train()
    moved = max(
        float((a - b).detach().abs().max())
        for a, b in zip(before.parameters(), trainer.model.parameters(), strict=True)
    )
    assert moved < 1e-4  # rounding, at a learning rate of 1


def test_no_forward_pass_without_gradient_goes_through_trl(make_trainer, monkeypatch):
    """TRL would score each rollout of two updates under the policy that sampled it, for a ratio that is not used."""
    with_gradient, scored = [], GRPOTrainer._get_per_token_logps_and_entropies

    def counted(*args, **kwargs):
        with_gradient.append(torch.is_grad_enabled())
        return scored(*args, **kwargs)

    trainer = make_trainer(max_steps=2, steps_per_generation=2)
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", counted)
    trainer.train()
    assert with_gradient and all(with_gradient)


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_model_stays_what_it_was(make_trainer, lora):
    trainer = make_trainer(learning_rate=0.1, max_steps=2, model=with_lora() if lora else None)
    prompt = torch.tensor([[3, 4, 5]])
    before = trainer.reference_model(input_ids=prompt).logits.clone()
    live = trainer.model(input_ids=prompt).logits.clone()
    assert torch.equal(before, live)
    trainer.train()
    assert torch.equal(trainer.reference_model(input_ids=prompt).logits, before)
    assert not torch.equal(trainer.model(input_ids=prompt).logits, live)


@pytest.mark.parametrize("steps_per_generation", [1, 2])
def test_resumed_training_ends_with_the_same_weights_to_the_bit(make_trainer, steps_per_generation):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.1, "averaging": 0.75}
    options["steps_per_generation"] = steps_per_generation
    whole = make_trainer("whole", **options)
    whole.train()
    first = make_trainer("halves", **options)
    first.add_callback(StopAfter(2))
    first.train()
    second = make_trainer("halves", **options)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 4
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert second.lower_level.budget_offset == whole.lower_level.budget_offset
    assert len(second.lower_level.history) == len(whole.lower_level.history) == 4 // steps_per_generation


def test_a_resume_from_another_folder_is_exact_too(make_trainer, tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.1, "averaging": 0.75}
    whole = make_trainer("whole", **options)
    whole.train()
    elsewhere = shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "elsewhere" / "checkpoint-2")
    shutil.rmtree(tmp_path / "whole")
    again = make_trainer("new", **options)
    again.train(resume_from_checkpoint=str(elsewhere))
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.lower_level.budget_offset == whole.lower_level.budget_offset and len(again.lower_level.history) == 4
    (elsewhere / "averaged.npz").unlink()
    with pytest.raises(IbpoError, match=r"averaged.npz: cannot be read: this is not a whole checkpoint"):
        make_trainer("new", **options).train(resume_from_checkpoint=str(elsewhere))
    (elsewhere / "ibpo_state.npz").write_bytes(b"PK")
    with pytest.raises(IbpoError, match=r"ibpo_state.npz: cannot be read"):
        make_trainer("new", **options | {"averaging": 0.0}).train(resume_from_checkpoint=str(elsewhere))


def test_a_resume_with_another_window_is_refused_and_removes_nothing(make_trainer, tmp_path):
    """numpy stopped the first step, or the groups' gains changed places; the log of later steps was gone by then."""
    log = tmp_path / "log"
    options = {"num_problems": 8, "per_device_train_batch_size": 16, "max_completion_length": 4, "guards": "off"}
    options |= {"learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 1, "rollout_log_dir": str(log)}
    make_trainer("fitted", max_steps=2, **options).train()
    make_trainer("plain", max_steps=1, utility="group_mean", **options | {"rollout_log_dir": None}).train()
    standard, extended = make_trainer("fitted", **options).response_groups
    third = replace(standard, name="third", prefix="=")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("fitted", {"groups": [extended, standard]}, "standard, extended, and would go on with extended, standard"),
        (
            "fitted",
            {"groups": [standard, extended, third], "stratified": False},
            "go on with standard, extended, third",
        ),
        ("plain", {}, "another utility, which keeps no features of the prompts, and regression needs those"),
    ]
    for begun, other, said in cases:
        last = str(tmp_path / begun / "checkpoint-1")
        with pytest.raises(IbpoError, match=f"^resume_from_checkpoint: the training was begun with .*{said}"):
            make_trainer("other", max_steps=3, **options | other).train(resume_from_checkpoint=last)
    assert [path.stem for path in sorted(log.iterdir())] == ["step-000000", "step-000001"]
    # Means of groups are in every window.
    again = make_trainer("other", max_steps=2, utility="group_mean", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "fitted" / "checkpoint-1"))
    assert len(again.lower_level.history) == 2


class InterruptAt(TrainerCallback):
    """Ctrl-C in the middle of an update, once."""

    def __init__(self, step, part):
        self.step, self.left = step, part

    def on_substep_end(self, args, state, control, **kwargs):
        """Interrupt."""
        self.left -= state.global_step == self.step
        if state.global_step == self.step and self.left == 0:
            raise KeyboardInterrupt


def test_a_training_that_is_interrupted_in_an_update_is_resumed_by_the_same_trainer(make_trainer):
    """In a notebook. It went on with the rest of the old rollouts, and solved the budget in the middle of updates."""
    options = {"num_problems": 8, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_steps": 4}
    options |= {"save_strategy": "steps", "save_steps": 1, "learning_rate": 0.1, "averaging": 0.75, "logging_steps": 1}
    whole = make_trainer("whole", **options)
    whole.train()
    broken = make_trainer("broken", **options)
    broken.add_callback(InterruptAt(2, 2))
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    broken.train(resume_from_checkpoint=True)
    for a, b in zip(whole.model.parameters(), broken.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for one, other in zip(whole.state.log_history, broken.state.log_history, strict=True):
        assert {key: one[key] for key in one if key.startswith(("ibpo/", "reward", "loss", "entropy", "grad"))} == {
            key: other[key] for key in other if key.startswith(("ibpo/", "reward", "loss", "entropy", "grad"))
        }


def test_a_second_training_begins_anew(make_trainer):
    """It went on with the first one's window and offset, and its guards had said before what they had to say."""
    trainer = make_trainer(max_steps=3, learning_rate=1e-3, budget={"extended": 0.1}, kl_share=0.0)
    trainer.train()
    guards = trainer.guards
    assert trainer.lower_level.budget_offset != 0
    trainer.add_callback(StopAfter(1))
    trainer.train()
    assert trainer.lower_level.budget_offset == 0 and len(trainer.lower_level.history) == 1
    assert trainer.guards is not guards


def test_the_checkpoint_before_goes_once_the_new_one_is_whole(make_trainer, tmp_path, monkeypatch):
    """With `save_total_limit=1`, the demo's, nothing was left where the disk was full or a kill came in between."""
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "learning_rate": 0.1, "max_steps": 3}
    first, save = make_trainer(**options), checkpoints._save

    def full(name, args, state, arrays):
        if state.global_step == 2:
            raise OSError(28, "No space left on device")
        save(name, args, state, arrays)

    monkeypatch.setattr(checkpoints, "_save", full)
    with pytest.raises(OSError, match="No space left"):
        first.train()
    monkeypatch.undo()
    files = [{path.name for path in (tmp_path / "run" / f"checkpoint-{step}").iterdir()} for step in (1, 2)]
    assert "ibpo_state.npz" in files[0] and "ibpo_state.npz" not in files[1]
    second = make_trainer(**options)
    second.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]
    whole = make_trainer("whole", **options)
    whole.train()
    assert whole.args.save_total_limit == 1
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_clock_that_was_set_back_costs_no_checkpoint(make_trainer, tmp_path):
    """Transformers takes the checkpoint with the earliest time for the oldest, and keeps `save_total_limit` of them."""
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "learning_rate": 0.1}
    first = make_trainer("run", max_steps=4, **options)
    first.add_callback(StopAfter(2))
    first.train()
    for number in (1, 2):  # as if they had been saved tomorrow
        tomorrow = time.time() + 86_400 + number
        os.utime(tmp_path / "run" / f"checkpoint-{number}", (tomorrow, tomorrow))
    second = make_trainer("run", max_steps=4, **options)
    second.train(resume_from_checkpoint=True)
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert (tmp_path / "run" / "checkpoint-4" / "ibpo_state.npz").exists()
    whole = make_trainer("whole", max_steps=4, **options)
    whole.train()
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_new_training_leaves_no_shards_of_an_old_one(make_trainer, tmp_path):
    options = {"rollout_log_dir": str(tmp_path / "rollout_log"), "kl_share": 0.0, "learning_rate": 1e-3}
    make_trainer(max_steps=3, **options).train()
    make_trainer(max_steps=2, **options)  # making a trainer removes nothing
    names = [f"step-{step:06d}.parquet" for step in range(3)]
    assert sorted(path.name for path in (tmp_path / "rollout_log").iterdir()) == names
    make_trainer(max_steps=2, **options).train()
    assert sorted(path.name for path in (tmp_path / "rollout_log").iterdir()) == names[:2]


def test_the_rollout_log_records_every_candidate_and_one_choice_per_own_prompt(make_trainer, tmp_path):
    trainer = make_trainer(rollout_log_dir=str(tmp_path / "rollout_log"), kl_share=0.25)
    trainer.train()
    (shard,) = sorted((tmp_path / "rollout_log").glob("*.parquet"))
    rows = pq.read_table(shard).to_pylist()
    assert len(rows) == 32
    assert sum(row["chosen"] for row in rows) == 8
    held = [(row["problem_id"], row["response_group"]) for row in rows if row["kl_weight"] > 0]
    assert 1 <= len(held) == len(set(held)) <= 4  # one of each group on two of the eight prompts, less the truncated
    assert {row["response_group"] for row in rows} == {"standard", "extended"}
    assert all(row["prefix_loss_weight"] == row["chosen"] for row in rows)
    for start in range(0, 32, 4):
        for row in rows[start : start + 4]:
            others = [r["reward"] for r in rows[start : start + 4] if r["response_group"] != row["response_group"]]
            assert row["margin"] == pytest.approx(row["reward"] - np.mean(others))
    (price,) = {row["price:extended"] for row in rows}
    assert price >= 0 and trainer.state.log_history[0]["ibpo/price/extended"] == pytest.approx(price)


def test_truncated_responses_are_neither_rewarded_nor_imitated(make_trainer, tmp_path):
    trainer = make_trainer(rollout_log_dir=str(tmp_path / "rollout_log"), max_completion_length=12)
    trainer.train()
    rows = pq.read_table(next((tmp_path / "rollout_log").glob("*.parquet"))).to_pylist()
    truncated = [row for row in rows if row["finish_reason"] == "length"]
    assert truncated
    assert not any(row["completion_loss_weight"] or row["reward"] for row in truncated)
    assert all(row["score"] == row["reward"] for row in rows if row["finish_reason"] == "stop")


def test_bodies_of_every_group_are_imitated_where_rewarded(make_trainer, tmp_path):
    trainer = make_trainer(
        rollout_log_dir=str(tmp_path / "rollout_log"), imitate_completions="every_group", kl_share=0.0
    )
    trainer.train()
    rows = pq.read_table(next((tmp_path / "rollout_log").glob("*.parquet"))).to_pylist()
    cells = {}
    for place, row in enumerate(rows):
        cells.setdefault((place // 4, row["response_group"]), []).append(row)
    assert any(row["completion_loss_weight"] > 0 and not row["chosen"] for row in rows)
    for cell in cells.values():
        assert sum(row["completion_loss_weight"] > 0 for row in cell) == any(row["reward"] > 0 for row in cell)


def test_the_kl_weight_grows_from_its_start_to_its_end():
    args: Any = SimpleNamespace(kl_weight_start=0.0, kl_weight=4.0)
    weights = [kl_weight_at(args, done) for done in (0.0, 0.45, 0.575, 0.7, 1.0)]
    assert weights == pytest.approx([0.0, 0.0, 2.0, 4.0, 4.0])


def test_the_choice_learns_to_follow_the_budget(make_trainer):
    trainer = make_trainer(
        max_steps=30,
        optim="adamw_torch",
        learning_rate=1e-3,
        budget={"extended": 0.0},
        kl_share=0.0,
        num_train_epochs=9,
    )
    trainer.train()
    shares = [log["ibpo/share/extended"] for log in trainer.state.log_history if "ibpo/share/extended" in log]
    standard = [log["ibpo/share/standard"] for log in trainer.state.log_history if "ibpo/share/standard" in log]
    assert standard[-1] > 0.9
    assert shares[-1] < 0.05


def test_state_of_the_lower_level_survives_a_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    with np.load(tmp_path / "run" / "checkpoint-2" / "ibpo_state.npz", allow_pickle=False) as arrays:
        assert len(arrays.files) == 2 + 5 * 2
        assert arrays["response_groups"].tolist() == ["standard", "extended"]


@pytest.mark.parametrize("num_generations", [4, 6])
def test_stratified_rollouts_are_split_equally_over_the_groups_on_every_prompt(make_trainer, num_generations):
    trainer = make_trainer(
        cls=Recorder, num_generations=num_generations, per_device_train_batch_size=num_generations * 4
    )
    trainer.train()
    ((_, completions, _),) = trainer.seen
    first_tokens = [prefix[0] for prefix in trainer.groups.prefix_ids]
    for start in range(0, len(completions), num_generations):
        opened = [ids[0] for ids in completions[start : start + num_generations]]
        assert [opened.count(token) for token in first_tokens] == [num_generations // 2] * 2


def test_the_order_of_the_prompts_is_found_again_in_a_later_epoch(make_trainer):
    # 64 problems, 8 a step: an epoch is 8 steps, and the resume falls into the second one.
    options = {"max_steps": 12, "save_strategy": "steps", "save_steps": 10, "cls": Recorder}
    options |= {"kl_share": 0.0, "learning_rate": 1e-3}
    whole = make_trainer("whole", **options)
    whole.train()
    first = make_trainer("halves", **options)
    first.add_callback(StopAfter(10))
    first.train()
    second = make_trainer("halves", **options)
    second.train(resume_from_checkpoint=True)
    prompts = [seen[0] for seen in whole.seen]
    assert prompts[:4] != prompts[8:12]
    assert [seen[0] for seen in first.seen + second.seen] == prompts
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_prompts_are_tokenised_as_trl_does(make_trainer):
    from tokenizers.processors import TemplateProcessing

    trainer = make_trainer()
    tokenizer = trainer.processing_class
    eos = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{eos} $A", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    text = trainer.train_dataset[0]["prompt"]
    ours, theirs = encode_prompt(trainer.processing_class, text), trainer._tokenize_prompts([text])[0][0]
    assert ours == theirs and ours[0] == tokenizer.eos_token_id


def test_a_resume_from_the_last_checkpoint_adds_no_step(make_trainer):
    # 16 problems, 8 a step: the third step lies within the second epoch, where transformers would go on.
    options = {"max_steps": 3, "num_problems": 16, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    first = make_trainer(**options, averaging=0.7)
    first.train()
    again = make_trainer(**options, averaging=0.7)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_each_pass_over_the_prompts_has_an_order_of_its_own():
    def sampler():
        return RepeatSampler(list(range(16)), mini_repeat_count=2, batch_size=4, repeat_count=1, shuffle=True, seed=3)

    plain, ordered, resumed = sampler(), DataOrder(sampler()), DataOrder(sampler())
    first, second = list(plain), list(plain)
    assert first != second
    assert [list(ordered), list(ordered)] == [first, second]
    resumed.epoch = 1
    assert list(resumed) == second


def test_the_offset_sets_in_after_two_fifths_of_the_training(make_trainer):
    trainer = make_trainer(max_steps=5, learning_rate=1e-4, logging_steps=1, budget={"extended": 0.1}, kl_share=0.0)
    trainer.train()
    offsets = [log["ibpo/budget_offset"] for log in trainer.state.log_history if "ibpo/budget_offset" in log]
    assert [offset != 0 for offset in offsets] == [False, False, True, True, True]
