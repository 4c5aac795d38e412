"""The few lines that some baselines add to TRL's GRPO: the gradient, the forced openings, the second turn."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import transformers

from experiments.context import BaselineJob, Context
from experiments.grpo import Decoupled, ForcedOpenings, build_trainer, opened, standard_bonus, thinkless_reward
from experiments.two_turns import TwoTurns, in_two_turns, on_responses, score_rewards
from ibpo.demo import correctness_reward, model_path

ONE_STEP = {
    "per_device_train_batch_size": 16,
    "optim": "sgd",
    "learning_rate": 1.0,
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": {},
    "warmup_steps": 0,
    "max_grad_norm": 1e9,
    "temperature": 1.0,
}


@pytest.fixture
def context(tmp_path):
    job = BaselineJob(
        name="grpo", experiment="thinking", seed_dir=str(tmp_path), cold_start=str(model_path("thinking")),
        seed=0, num_problems=8, num_validation=8, num_probe=8, num_steps=1, tuning_file=str(tmp_path / "tuning.json"),
    )  # fmt: skip
    return Context(job)


def step(context, tmp_path, rewards, roll_out, cls, own=None, settings=None):
    """One SGD step of rate 1: what its loss was computed from, and how the parameters moved."""
    seen = []

    class Watched(cls):
        def _compute_loss(self, model, inputs):
            seen.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})
            return super()._compute_loss(model, inputs)

    make = partial(Watched, **(own or {}))
    settings = ONE_STEP | (settings or {})
    trainer = build_trainer(context, context.cold_start, tmp_path, rewards, roll_out, make, 1, **settings)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    [inputs] = seen
    return inputs, {name: p.detach() - before[name] for name, p in trainer.model.named_parameters()}


def log_probabilities(model, inputs):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    return logits.gather(2, ids[:, 1:, None])[..., 0][:, -inputs["completion_ids"].shape[1] :]


def test_decoupled_weighs_the_opening_apart(context, tmp_path):
    weight = 0.3
    reward = thinkless_reward(0.5, context.experiment.response_groups)
    inputs, moved = step(
        context,
        tmp_path,
        [reward],
        opened([]),
        Decoupled,
        own={"opening_weight": weight},
        settings={"loss_type": "grpo"},
    )
    mask, length = inputs["completion_mask"], inputs["completion_mask"].sum(1)
    advantage = inputs["advantages"][:, 0] / (weight * length)
    assert advantage.abs().max() > 0
    torch.testing.assert_close(inputs["advantages"][:, 1] * (length - 1) / length, advantage)
    model = transformers.AutoModelForCausalLM.from_pretrained(context.cold_start, dtype=torch.float32)
    logp = log_probabilities(model, inputs) * mask
    loss = -(advantage * (weight * logp[:, 0] + logp[:, 1:].sum(1) / (length - 1))).mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(moved[name], -parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_forced_openings_are_weighed_by_how_likely_the_policy_was(context, tmp_path):
    groups = context.experiment.response_groups
    rewards = [correctness_reward(groups), standard_bonus(0.2, groups[0])]
    inputs, _ = step(
        context,
        tmp_path,
        rewards,
        opened([g.prefix for g in groups]),
        ForcedOpenings,
        settings={"scale_rewards": "none"},
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(context.cold_start)
    openings = [tokenizer.convert_ids_to_tokens(int(i)) for i in inputs["completion_ids"][:, 0]]
    assert openings.count("<answer>") == openings.count("<think>") == 8
    old = inputs["old_per_token_logps"]
    assert torch.equal(old[:, 0], torch.full((16,), -math.log(2.0)))
    model = transformers.AutoModelForCausalLM.from_pretrained(context.cold_start, dtype=torch.float32)
    now, mask = log_probabilities(model, inputs), inputs["completion_mask"][:, 1:].bool()
    torch.testing.assert_close(old[:, 1:][mask], now[:, 1:][mask].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_a_dialogue_carries_loss_on_what_the_policy_wrote(context, tmp_path, stage):
    own = {"held_weight": 0.1, "first_turn_only": stage == 1}
    rewards = score_rewards(context, stage=stage, bonus=10.0)
    inputs, moved = step(context, tmp_path, rewards, in_two_turns(), TwoTurns, own=own)
    assert any(change.abs().max() > 0 for change in moved.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(context.cold_start)
    for row in range(16):
        ids = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()].tolist()
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
        asked = [i for i, own in enumerate(inputs["tool_mask"][row].tolist()[: len(ids)]) if not own]
        assert [ids[i] for i in asked][-len(prompt) :] == prompt
        first = ids[: asked[0]]
        assert first[-1] == tokenizer.eos_token_id or len(asked) == len(prompt) + 1
        held = inputs["kl_mask"][row].bool()
        assert int(held.sum()) == (len(first) if stage == 1 else len(ids) - len(asked))
        assert held[: len(first)].all()
    assert (inputs["kl_weight"] > 0).sum() == 4  # a quarter of the dialogues


def test_built_dialogues_carry_no_loss_on_the_problem_between(context):
    tokenizer = transformers.AutoTokenizer.from_pretrained(context.cold_start)
    pair = ("c +3 f +4 =", "<answer> 6 <eos> c +3 f +4 = <think> c +3 3 f +4 7 </think> <answer> 7")
    ids = [*tokenizer(pair[1], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    mask = on_responses(context, [pair])(0, ids)
    assert [token for token, use in zip(tokenizer.convert_ids_to_tokens(ids), mask, strict=True) if not use] == pair[
        0
    ].split()
    assert mask[:3] == [1, 1, 1] and mask[-1] == 1


def test_what_the_stages_reward(context):
    texts = {"right": "<answer> 4", "wrong": "<answer> 5"}
    columns = {
        "first": [texts["wrong"], texts["right"]],
        "second": [texts["right"], texts["wrong"]],
        "answer": ["4", "4"],
    }
    [second] = score_rewards(context, stage=1, bonus=10.0)
    assert second(**columns) == [1.0, 0.0]
    total = [
        sum(values) for values in zip(*(f(**columns) for f in score_rewards(context, stage=2, bonus=10.0)), strict=True)
    ]
    assert total == [11.0, -9.0]
