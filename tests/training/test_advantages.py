"""The allocation as advantages of another engine: its step is weighted SFT on what the allocation chose."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ibpo.errors import IbpoError
from ibpo.training import AllocatedAdvantages, Batch, LowerLevel, allocate_skyrl, read_budget
from ibpo.training.lower_level import weigh_prefix_and_completion
from ibpo.types import ResponseGroup

VARIABLE = "IBPO_SKYRL"
GROUPS = [ResponseGroup(name="at_once", prefix="!"), ResponseGroup(name="think", prefix="?")]
TEXTS = ["!7", "?3+4=7", "!9", "?9", "!12", "?5+7", "no group", "?1"]
PROMPTS = ["a", "a", "b", "b", "c", "c", "c", "c"]
REWARDS = [0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, float("nan")]


class Letters:
    """A tokenizer of one token a letter."""

    chat_template = None

    def __call__(self, text, **options):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids, **options):
        return "".join(map(chr, ids))


def made(**options):
    return AllocatedAdvantages(GROUPS, Letters(), **{"budget": {"think": 0.5}, "min_gain": 0.1, **options})


def ids_of(texts):
    return [list(map(ord, text)) for text in texts]


def test_weights_are_those_of_the_trainer():
    rows = made().weigh(PROMPTS, ids_of(TEXTS), REWARDS)
    lower = LowerLevel(
        num_groups=2,
        budgets=read_budget({"think": 0.5}, ["at_once", "think"], lambda column: None),
        utility="group_mean",
        min_gain=0.1,
    )
    batch = Batch(
        prompt=np.array([0, 0, 1, 1, 2, 2, 2, 2]),
        response_group=np.array([0, 1, 0, 1, 0, 1, -1, -1]),
        reward=np.array([0.0, 1, 1, 1, 0, 1, 1, 0]),
        tokens=np.array([len(text) for text in TEXTS], float),
        features=np.zeros((3, 0)),
        truncated=np.zeros(8, bool),
    )
    weights = weigh_prefix_and_completion(
        lower.solve(batch, 0),
        batch,
        prefix_loss_weight=1.0,
        completion_loss_weight=0.3,
        imitate_completions="every_group",
        imitate_denied=True,
        balance_groups=False,
    )
    for row, (of_prefix, of_completion), text in zip(rows, weights / 3, TEXTS, strict=True):
        assert row.tolist() == [of_prefix, *[of_completion] * (len(text) - 1)]
    # Half of three prompts: one may think, and it is one that gains by it.
    assert sum(row[0] > 0 for row, text in zip(rows, TEXTS, strict=True) if text.startswith("?")) == 1
    assert rows[3][0] == 0 and all(not row.any() for row in rows[6:])


def test_what_is_cut_off_earns_nothing():
    rows = made().weigh(["a", "a"], ids_of(["!1", "?2"]), [0.0, 1.0], truncated=[False, True])
    assert not rows[1].any() and rows[0][0] > 0 and rows[0][1] == 0


def test_state_goes_through_a_file(tmp_path):
    whole, first = made(window=3), made(window=3)
    seen = []
    for step in range(4):
        rewards = np.random.default_rng(step).random(8).tolist()
        seen.append(whole.weigh(PROMPTS, ids_of(TEXTS), rewards))
        if step < 2:
            first.weigh(PROMPTS, ids_of(TEXTS), rewards)
    arrays: Any = first.state()
    np.savez(tmp_path / "state.npz", **arrays)
    second = made(window=3)
    second.restore(np.load(tmp_path / "state.npz"))
    for step in (2, 3):
        rows = second.weigh(PROMPTS, ids_of(TEXTS), np.random.default_rng(step).random(8).tolist())
        assert all(np.array_equal(a, b) for a, b in zip(rows, seen[step], strict=True))


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ((["a"], ids_of(TEXTS), REWARDS), "give one of each"),
        ((PROMPTS, ids_of(TEXTS), [float("inf"), *REWARDS[1:]]), "a reward is infinite"),
        ((PROMPTS, ids_of(TEXTS), ["right", *REWARDS[1:]]), "a reward is not a number"),
    ],
)
def test_what_cannot_be_weighed_is_said(given, fix):
    with pytest.raises(IbpoError, match=fix):
        made().weigh(*given)


def test_one_truth_value_is_not_of_all_responses_and_features_are_of_prompts():
    with pytest.raises(IbpoError, match="truncated: needs one truth value for each of 8 responses"):
        made().weigh(PROMPTS, ids_of(TEXTS), REWARDS, truncated=[True])
    with pytest.raises(IbpoError, match="features: need one row for each of"):
        made(utility="regression").weigh(PROMPTS, ids_of(TEXTS), REWARDS, features=np.zeros((len(PROMPTS), 2)))


def test_features_are_numbers_and_equally_many_in_all_batches():
    """NaN chose nothing at all, in silence; another width was a crash in numpy."""
    advantages = made(utility="regression")
    given = PROMPTS, ids_of(TEXTS), REWARDS
    with pytest.raises(IbpoError, match="features: some are NaN or infinite"):
        advantages.weigh(*given, features=np.full((3, 2), np.nan))
    advantages.weigh(*given, features=np.eye(3))
    with pytest.raises(IbpoError, match="features: 2 numbers a prompt, and 3 in the batches before"):
        advantages.weigh(*given, features=np.ones((3, 2)))
    with pytest.raises(IbpoError, match="features: 0 numbers a prompt"):
        advantages.weigh(*given)


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"window": 0}, "window: must be a whole number of at least 1"),
        ({"min_gain": float("nan")}, "min_gain: must be a finite number of at least 0"),
        ({"prefix_loss_weight": -1.0}, "prefix_loss_weight: must be a finite number"),
        ({"completion_loss_weight": float("nan")}, "completion_loss_weight: must be a finite number"),
        ({"imitate_completions": "every"}, "imitate_completions: must be one of every_group, chosen"),
        ({"imitate_completions": "rewarded"}, "imitate_completions: must be one of every_group, chosen"),
        ({"budget": "think=50%"}, "or a list of texts"),
        ({"budget": {"think@domain=law": 0.5}}, "budget think@domain=law: the batches have no columns to slice by"),
        ({"utility": "gain"}, "utility: must be one of reward, margin, group_mean, shrunken, regression, got 'gain'"),
    ],
)
def test_settings_out_of_range_are_refused(options, fix):
    with pytest.raises(IbpoError, match=fix):
        made(**options)


def test_a_budget_is_written_as_in_a_configuration():
    wanted = made(budget={"think": 0.5}).weigh(PROMPTS, ids_of(TEXTS), REWARDS)
    found = made(budget=["think=50%"]).weigh(PROMPTS, ids_of(TEXTS), REWARDS)
    assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True))
    made(budget=None).weigh(PROMPTS, ids_of(TEXTS), REWARDS)


class SkyBatch(dict):
    """As SkyRL's `TrainingInputBatch`: tensors by name, right-aligned responses, and metadata."""

    metadata: dict

    @classmethod
    def of(cls, texts, prompts, rewards, pad=0):
        width = max(map(len, texts))
        batch = cls()
        rows = [*texts, *texts[:pad]]
        batch["sequences"] = torch.tensor([[1, 2, *[0] * (width - len(text)), *map(ord, text)] for text in rows])
        batch["response_mask"] = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in rows])
        batch["loss_mask"] = batch["response_mask"].clone()
        batch["rewards"] = torch.zeros(len(rows), width)
        batch["rewards"][:, -1] = torch.tensor([*rewards, *rewards[:pad]])
        batch.metadata = {"uids": [*prompts, *prompts[:pad]], "pad_size": pad}
        return batch


@pytest.mark.parametrize("pad", [0, 2])
@pytest.mark.parametrize("reduction", ["token_mean", "seq_mean_token_sum_norm"])
def test_the_engines_step_is_weighted_sft(reduction, pad):
    """The loss as SkyRL divides it, its ratio of probabilities 1: gradient and all."""
    rows = made().weigh(PROMPTS, ids_of(TEXTS), REWARDS)
    batch = SkyBatch.of(TEXTS, PROMPTS, REWARDS, pad)
    allocate_skyrl(made(), batch, loss_reduction=reduction, max_seq_len=50)
    advantages, mask = batch["advantages"], batch["loss_mask"]
    divisor = mask.sum() if reduction == "token_mean" else len(mask) * 50
    logits = torch.randn(*mask.shape, requires_grad=True)
    log_probs = torch.nn.functional.logsigmoid(logits)
    loss = -(torch.exp(log_probs - log_probs.detach()) * advantages / divisor * mask).sum()
    loss.backward()
    wanted = torch.zeros_like(logits)
    for i, row in enumerate(rows):
        wanted[i, mask[i].bool()] = torch.tensor(row, dtype=torch.float32)
    expected = torch.autograd.grad(-(wanted * torch.nn.functional.logsigmoid(logits)).sum(), logits)[0]
    torch.testing.assert_close(logits.grad, expected)
    assert torch.equal(batch["returns"], advantages) and not advantages[len(rows) :].any()


@pytest.mark.parametrize(
    ("options", "metadata", "fix"),
    [
        ({"loss_reduction": "sequence_mean"}, {}, "take token_mean or"),
        ({"loss_reduction": "seq_mean_token_sum_norm"}, {}, "max_seq_len: give"),
        ({"loss_reduction": "token_mean"}, {"is_last_step": [True]}, "step_wise_trajectories"),
    ],
)
def test_settings_that_make_another_step_are_refused(options, metadata, fix):
    batch = SkyBatch.of(TEXTS, PROMPTS, REWARDS)
    batch.metadata |= metadata
    with pytest.raises(IbpoError, match=fix):
        allocate_skyrl(made(), batch, **options)


REAL = """
import json, sys, typing, typing_extensions
typing.TypedDict = typing_extensions.TypedDict  # pydantic refuses typing's below Python 3.12
import torch
from skyrl.backends.skyrl_train.training_batch import TrainingInputBatch
from skyrl.backends.skyrl_train.utils import ppo_utils
from skyrl.train.config import AlgorithmConfig
from skyrl.train.dataset.preprocess import convert_prompts_responses_to_batch_tensors
from skyrl.train.trainer import RayPPOTrainer
from ibpo.training import allocate_skyrl
from tests.training.test_advantages import PROMPTS, REWARDS, TEXTS, Letters, ids_of, made

rows = made().weigh(PROMPTS, ids_of(TEXTS), REWARDS)
ids = ids_of(TEXTS)
tokenizer = Letters()
tokenizer.pad_token_id = 0
prompts = [[1, 2, 3][: 1 + i % 3] for i in range(len(ids))]
rewards = [[0.0] * (len(row) - 1) + [reward] for row, reward in zip(ids, REWARDS)]
found = convert_prompts_responses_to_batch_tensors(tokenizer, prompts, ids, rewards, [[1] * len(row) for row in ids])
sequences, attention, response_mask, token_rewards, loss_mask = found[:5]
for reduction in ("token_mean", "seq_mean_token_sum_norm"):
    batch = TrainingInputBatch(
        {
            "sequences": sequences,
            "attention_mask": attention,
            "response_mask": response_mask,
            "rewards": token_rewards,
            "loss_mask": loss_mask,
            "values": torch.zeros_like(token_rewards),
        }
    )
    batch.metadata = {"uids": PROMPTS, "pad_size": 0, "avg_response_length": 4.0}

    class Engine(RayPPOTrainer):  # the real method of the real trainer, without a cluster
        def __init__(self):
            algorithm = AlgorithmConfig(advantage_estimator="grpo")
            generator = type("G", (), {"step_wise_trajectories": False})
            trainer = type("T", (), {"algorithm": algorithm})
            self.cfg = type("C", (), {"generator": generator, "trainer": trainer})
            self.all_metrics, self.advantages = {}, made()

        def compute_advantages_and_returns(self, data):
            data = super().compute_advantages_and_returns(data)
            allocate_skyrl(self.advantages, data, loss_reduction=reduction, max_seq_len=50)
            return data

    batch = Engine().compute_advantages_and_returns(batch)
    scaled = ppo_utils.apply_loss_reduction_to_advantages_minibatch(
        batch["advantages"], batch["loss_mask"], reduction, 2, 50
    )
    logits = torch.randn(response_mask.shape, requires_grad=True, generator=torch.Generator().manual_seed(0))
    log_probs = torch.nn.functional.logsigmoid(logits)
    config = AlgorithmConfig(policy_loss_type="regular")
    loss, _ = ppo_utils.ppo_policy_loss(log_probs, log_probs.detach(), scaled, config, batch["loss_mask"])
    loss.backward()
    wanted = torch.zeros_like(logits)
    for i, row in enumerate(rows):
        wanted[i, response_mask[i].bool()] = torch.tensor(row, dtype=torch.float32)
    expected = torch.autograd.grad(-(wanted * torch.nn.functional.logsigmoid(logits)).sum(), logits)[0]
    torch.testing.assert_close(logits.grad, expected)
    print(json.dumps({"reduction": reduction, "largest": float(expected.abs().max())}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no folder; see skyrl_env.sh")
def test_the_step_of_the_real_skyrl():
    """Its batch, its trainer's method, its reduction and its loss; its workers and vLLM are not run."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": f"{os.environ[VARIABLE]}{os.pathsep}{root}"}
    said = subprocess.run(
        [sys.executable, "-c", REAL], capture_output=True, text=True, env=environment, cwd=root, timeout=280
    )
    assert said.returncode == 0, said.stderr[-3000:]
    rows = [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]
    assert [row["reduction"] for row in rows] == ["token_mean", "seq_mean_token_sum_norm"]
    assert all(row["largest"] > 0 for row in rows)
