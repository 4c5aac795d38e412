"""What the trainer relies on in TRL. `make test-newest-trl` runs this and test_trainer.py with the newest release.

If something here fails with a new TRL, the seam in ibpo/training/trainer.py has to be looked at again.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import trl
from torch.utils.data import DataLoader
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from ibpo.errors import IbpoError
from ibpo.training.checkpoints import ExactResume
from ibpo.training.trainer import IBPOTrainer
from ibpo.training.trl_methods import VERIFIED, check_trl_methods, fingerprint
from tests.training.closed_form import Recorder


def test_the_overridden_methods_are_the_verified_ones():
    """A new release whose tests pass: its fingerprints, shown here, join `VERIFIED`."""
    found = {name: fingerprint(getattr(GRPOTrainer, name)) for name in VERIFIED}
    assert {name: text for name, text in found.items() if text not in VERIFIED[name]} == {}


def test_every_overridden_method_is_compared():
    own = {name for cls in (IBPOTrainer, ExactResume) for name, value in vars(cls).items() if callable(value)}
    assert {name for name in own if hasattr(GRPOTrainer, name)} - set(dir(object)) == set(VERIFIED)


def changed(**methods):
    return type("GRPOTrainer", (GRPOTrainer,), methods)


def test_the_same_methods_are_taken_in_silence(caplog):
    check_trl_methods(changed(), IBPOTrainer)
    assert not [record for record in caplog.records if record.name == "ibpo.training"]


def test_another_source_is_warned_of_once_by_name(caplog):
    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        return GRPOTrainer._calculate_rewards(self, inputs, prompts, completions, completion_ids_list)

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, batch_size, more=0):
        return None  # a new argument, which ours hands on

    new = changed(
        _calculate_rewards=_calculate_rewards, _get_per_token_logps_and_entropies=_get_per_token_logps_and_entropies
    )
    for _ in range(2):
        check_trl_methods(new, IBPOTrainer)
    (record,) = caplog.records
    names = "GRPOTrainer._calculate_rewards, GRPOTrainer._get_per_token_logps_and_entropies"
    assert names in record.getMessage() and trl.__version__ in record.getMessage()


def test_another_signature_is_refused_by_name():
    def _compute_loss(self, model, inputs, num_items_in_batch):
        return None

    with pytest.raises(IbpoError, match=r"trl .* takes other parameters in GRPOTrainer\._compute_loss"):
        check_trl_methods(changed(_compute_loss=_compute_loss), IBPOTrainer)
    with pytest.raises(IbpoError, match=r"has no GRPOTrainer\._calculate_rewards"):
        check_trl_methods(changed(_calculate_rewards=None), IBPOTrainer)


def test_nothing_caps_trl_and_torch():
    pins = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for name in ("trl", "torch"):
        (pin,) = [text for text in pins["optional-dependencies"]["train"] if text.startswith(name + ">")]
        assert "<" not in pin and "==" not in pin


@pytest.mark.parametrize("parts", [1, 4])
def test_the_loss_is_weights_per_token_over_a_constant(make_trainer, monkeypatch, parts):
    """- sum of weight x log-probability over rows x `max_completion_length`, divided among the accumulated parts."""
    trainer = make_trainer(max_completion_length=10)
    rng = torch.Generator().manual_seed(0)
    logps = torch.randn(3, 5, generator=rng).requires_grad_()
    weights = torch.rand(3, 5, generator=rng)
    mask = (torch.arange(5) < torch.tensor([[5], [2], [4]])).long()
    monkeypatch.setattr(
        GRPOTrainer,
        "_get_per_token_logps_and_entropies",
        lambda *args, **kwargs: (logps, torch.zeros(3, 5), None),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = parts
    ids = torch.ones(3, 5, dtype=torch.long)
    inputs = {"prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": mask}
    GRPOTrainer._compute_loss(trainer, trainer.model, inputs | {"advantages": weights}).backward()
    assert torch.allclose(logps.grad, -weights * mask / (3 * 10 * parts))  # pyright: ignore[reportArgumentType]


class Spy(Recorder):
    """Keeps what TRL hands over, and what it makes of it."""

    def _roll_out(self, prompts, trainer):
        self.asked = list(prompts)
        self.out = super()._roll_out(prompts, trainer)
        return self.out

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self.rewarded = [row["prompt"] for row in inputs], list(prompts), [list(ids) for ids in completion_ids_list]
        self.rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.calls = getattr(self, "calls", 0) + 1
        return self.rewards

    def _generate_and_score_completions(self, inputs):
        batch = GRPOTrainer._generate_and_score_completions(self, inputs)
        self.batch = {key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)}
        self.logged = list(self._logs["advantages"])
        return super()._generate_and_score_completions(inputs)


def test_rollouts_and_rewards_come_in_the_order_of_the_prompts_siblings_together(make_trainer):
    trainer = make_trainer(cls=Spy, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    trainer.train()
    assert trainer.asked == [prompt for prompt in trainer.asked[::4] for _ in range(4)]
    assert trainer.rewarded == (trainer.asked, trainer.asked, trainer.out["completion_ids"])
    assert trainer.rewards.shape == (16, 1) and len(trainer.asked) == 16  # all accumulation steps at once
    assert trainer.calls == 2  # once for each of the two batches that the spy has made


def test_the_batch_that_the_weights_go_into(make_trainer):
    trainer = make_trainer(cls=Spy, per_device_train_batch_size=8)
    trainer.train()
    batch, lengths = trainer.batch, [len(prompt) for prompt in trainer.handover.prompt_ids]
    assert batch["advantages"].shape == (8,) and len(trainer.logged) == 8
    mask = batch["completion_mask"]
    assert mask.shape == batch["completion_ids"].shape == (8, int(mask.sum(1).max()))
    assert (mask.diff(dim=1) <= 0).all()  # padded on the right
    assert batch["prompt_mask"].sum(1).tolist() == lengths and (batch["prompt_mask"].diff(dim=1) >= 0).all()
    assert "old_per_token_logps" not in batch or not batch["old_per_token_logps"].any()


def test_a_sampler_draws_one_permutation_per_pass():
    """`DataOrder` draws those of the passes before, to find the order of a later one again."""
    sampler = RepeatSampler(list(range(8)), mini_repeat_count=2, batch_size=4, repeat_count=1, shuffle=True, seed=3)
    first, second = list(sampler), list(sampler)
    generator = torch.Generator().manual_seed(3)
    for seen in (first, second):
        assert seen[::2] == seen[1::2] == torch.randperm(sampler.num_samples, generator=generator).tolist()
    assert sampler.shuffle and sampler.seed == 3 and first != second


def test_trainer_batches_are_what_the_sampler_orders(make_trainer):
    trainer = make_trainer(cls=Spy, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    loader = trainer.get_train_dataloader()
    assert isinstance(loader, DataLoader)
    prompts = [row["prompt"] for row in next(iter(loader))]
    assert len(prompts) == 16 and len(set(prompts)) == 4
    assert np.all([prompts[i] == prompts[i - i % 4] for i in range(16)])


@pytest.mark.parametrize("name", ["ibpo", "ibpo.training"])
def test_a_folder_that_is_taken_for_vllm_is_named(tmp_path, name):
    """TRL asks for the version of whatever `import vllm` finds, and Python takes any folder for a package."""
    (tmp_path / "vllm").mkdir()
    command = [sys.executable, "-c", f"from {name} import IBPOTrainer"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert f"IbpoError: {tmp_path / 'vllm'}: TRL takes this folder for the package vllm" in result.stderr
