"""The choice alone, on recorded responses: who gets the budget, and whether it is kept where nobody looked."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ibpo.errors import IbpoError
from ibpo.training import Batch, ChoiceStates, LowerLevel, read_budget, reprice, train_choice


def draw_states(num, seed, num_groups=2):
    """Prompts whose difficulty (0, 1, 2) stands in a direction of the hidden state, among noise, as in a model."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 3, num)
    hidden = rng.normal(size=(num, 24))
    hidden[:, 0] = 3.0  # what all prompts share
    hidden[:, 1] = level - 1 + 0.1 * rng.normal(size=num)
    hidden[:, 2] = np.abs(level - 1) + 0.1 * rng.normal(size=num)
    states = ChoiceStates(
        features=hidden.copy(),
        hidden=hidden,
        opening=rng.normal(size=(num, num_groups)) * 0.3,
        rest=np.full(num, -6.0),
    )
    return states, level


def responses(level, rewards, seed):
    """One response of each group to each prompt; `rewards` is [G, levels]."""
    rng = np.random.default_rng(seed)
    num, num_groups = len(level), len(rewards)
    prompt, group = np.repeat(np.arange(num), num_groups), np.tile(np.arange(num_groups), num)
    reward = (rng.random(num * num_groups) < np.array(rewards)[group, level[prompt]]).astype(float)
    return {"prompt": prompt, "response_group": group, "reward": reward, "tokens": np.ones(num * num_groups)}


def trained(budget, rewards, names=("standard", "extended"), num=500, min_gain=0.15, unlabelled=None):
    states, level = draw_states(num, 0, len(names))
    batch = Batch(features=states.features, **responses(level, rewards, 1))
    terms = read_budget(budget, list(names), lambda _: None)
    lower_level = LowerLevel(num_groups=len(names), budgets=terms, utility="regression", window=1, min_gain=min_gain)
    return train_choice(states, batch, lower_level, unlabelled)


REWARDS = [[0.95, 0.1, 0.05], [0.95, 0.9, 0.05]]
"""Only the middle level, a third of the problems, gains."""


@pytest.mark.parametrize("budget", [0.1, 0.25])
def test_a_budget_that_binds_is_kept_on_unseen_prompts_and_goes_where_it_pays(budget):
    found = trained({"extended": budget}, REWARDS)
    unseen, level = draw_states(4_000, 7)
    share = unseen.shares(found.delta)
    assert share[:, 1].mean() == pytest.approx(budget, abs=0.02)
    assert found.share[1] == pytest.approx(budget, abs=0.005)
    assert share[level == 1, 1].mean() > 3 * budget * 0.85
    assert found.selection.price[0] > 0
    assert np.allclose(share.sum(1), 1, atol=0.02)


def test_unlabelled_prompts_set_the_shares():
    """A hundred problems with answers and many prompts without."""
    prompts, _ = draw_states(2_000, 3)
    unseen, _ = draw_states(4_000, 7)
    found = trained({"extended": 0.25}, REWARDS, num=100, unlabelled=prompts)
    assert found.share[1] == pytest.approx(0.25, abs=0.002)
    assert prompts.shares(found.delta)[:, 1].mean() == pytest.approx(0.25, abs=0.01)
    assert unseen.shares(found.delta)[:, 1].mean() == pytest.approx(0.25, abs=0.03)


def test_a_budget_of_a_slice_is_refused():
    """It was left out without a word."""
    states, level = draw_states(60, 0)
    terms = read_budget({"extended": 0.5, "extended@domain=law": 0.1}, ["standard", "extended"], lambda _: {"law"})
    batch = Batch(features=states.features, **responses(level, REWARDS, 1), slices={"domain": np.full(60, "law")})
    with pytest.raises(IbpoError, match="budget extended@domain=law: a choice that is trained alone knows no slices"):
        train_choice(states, batch, LowerLevel(num_groups=2, budgets=terms, window=1))


@pytest.mark.parametrize("scaling", [1.0, 8.0])
def test_a_model_that_scales_its_logits_is_moved_as_far(scaling):
    """Granite divides them: its output matrix is `scaling` times as large for the same function."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

    from ibpo.training import choose_by_rows, read_states

    torch.manual_seed(0)
    size: Any = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}
    model = GraniteForCausalLM(GraniteConfig(**size, logits_scaling=scaling, initializer_range=0.3)).eval()
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    groups: Any = SimpleNamespace(prefix_ids=((3,), (5,)))
    prompts = [[int(x) for x in np.random.default_rng(seed).integers(6, 40, 3 + seed % 4)] for seed in range(20)]
    states = read_states(model, tokenizer, prompts, groups)
    delta = np.random.default_rng(0).normal(size=(2, 16))
    choose_by_rows(model, groups, delta)
    assert np.allclose(read_states(model, tokenizer, prompts, groups).shares(), states.shares(delta), atol=1e-5)
    capped = Gemma2ForCausalLM(Gemma2Config(**size, head_dim=8)).eval()
    with pytest.raises(IbpoError, match="changes its logits behind the output matrix"):
        read_states(capped, tokenizer, prompts, groups)


def test_a_budget_with_slack_is_not_spent():
    found = trained({"extended": 0.75}, REWARDS)
    unseen, level = draw_states(4_000, 7)
    share = unseen.shares(found.delta)[:, 1]
    assert 0.3 < share.mean() < 0.45 and found.selection.price[0] == 0
    assert share[level == 1].mean() > 0.9 and share[level != 1].mean() < 0.2


def test_three_groups():
    rewards = [[0.95, 0.1, 0.05], [0.95, 0.9, 0.05], [0.95, 0.9, 0.9]]
    found = trained({"long": 0.2, "short": 0.3}, rewards, names=("standard", "short", "long"))
    unseen, level = draw_states(4_000, 7, 3)
    share = unseen.shares(found.delta)
    assert share.mean(0)[1:] == pytest.approx([0.3, 0.2], abs=0.025)
    assert share[level == 2].mean(0).argmax() in (0, 2) and share[level == 2, 1].mean() < 0.05


@pytest.mark.parametrize("num_unlabelled", [0, 2_000])
def test_a_budget_of_tokens_is_kept_where_costs_differ(num_unlabelled):
    """Long responses to the hardest problems are three times as long, and never right."""
    names, rewards = ("standard", "short", "long"), [[0.95, 0.1, 0.05], [0.95, 0.5, 0.05], [0.95, 0.9, 0.1]]
    lengths = np.array([[4, 4, 4], [50, 60, 70], [150, 250, 450]])
    states, level = draw_states(500, 0, 3)
    drawn = responses(level, rewards, 1)
    drawn["tokens"] = lengths[drawn["response_group"], level[drawn["prompt"]]] * np.tile([0.9, 1.1], 750)
    batch = Batch(features=states.features, **drawn)
    terms = read_budget({"tokens": 60}, list(names), lambda _: None)
    lower_level = LowerLevel(num_groups=3, budgets=terms, utility="regression", window=1, min_gain=0.05)
    unlabelled = draw_states(num_unlabelled, 3, 3)[0] if num_unlabelled else None
    found = train_choice(states, batch, lower_level, unlabelled)
    unseen, seen_level = draw_states(4_000, 7, 3)
    share = unseen.shares(found.delta)
    spent = float((share * lengths.T[seen_level]).sum(1).mean())
    assert found.tokens == pytest.approx(60, rel=0.005) and found.selection.price[0] > 0
    # Of a sample of unseen prompts, whose mix of levels is another one's.
    assert spent == pytest.approx(60, rel=0.1)
    right = float((share * np.array(rewards).T[seen_level]).sum(1).mean())
    mixed = 60 / lengths[2].mean()
    assert right > (1 - mixed) * np.mean(rewards[0]) + mixed * np.mean(rewards[2]) + 0.05
    assert share[seen_level == 2, 2].mean() < 0.1 < share[seen_level == 1, 2].mean()


def test_tokens_beside_a_share_keep_both():
    names, rewards = ("standard", "short", "long"), [[0.95, 0.1, 0.05], [0.95, 0.5, 0.05], [0.95, 0.9, 0.1]]
    lengths = np.array([[4, 4, 4], [50, 60, 70], [150, 250, 450]])
    states, level = draw_states(500, 0, 3)
    drawn = responses(level, rewards, 1)
    drawn["tokens"] = lengths[drawn["response_group"], level[drawn["prompt"]]].astype(float)
    batch = Batch(features=states.features, **drawn)
    for budget, tokens in (({"tokens": 60, "long": 0.15}, 60), ({"tokens": 45, "long": 0.15}, 45)):
        terms = read_budget(budget, list(names), lambda _: None)
        lower_level = LowerLevel(num_groups=3, budgets=terms, utility="regression", window=1, min_gain=0.05)
        found = train_choice(states, batch, lower_level, draw_states(2_000, 3, 3)[0])
        assert found.tokens <= 1.005 * tokens and found.share[2] <= 0.15 + 2e-3


def test_states_come_back_from_disk_as_they_were(tmp_path):
    states, _ = draw_states(10, 0)
    states.save(tmp_path / "states.npz")
    again = ChoiceStates.load(tmp_path / "states.npz")
    assert np.allclose(states.shares(), again.shares(), atol=1e-6)
    assert np.allclose(states.features, again.features, atol=1e-6)


def test_what_all_prompts_begin_with_is_read_once_and_changes_nothing(monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ibpo.demo import experiment_named, model_path
    from ibpo.responses import encode_groups
    from ibpo.training import read_bodies, read_states

    path = model_path("thinking")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    groups = encode_groups(experiment_named("thinking").response_groups, tokenizer)
    rng = np.random.default_rng(0)
    common = rng.integers(5, 20, 90).tolist()
    prompts = [common + rng.integers(5, 20, size).tolist() for size in rng.integers(1, 30, 20)]
    completions = [rng.integers(5, 20, size).tolist() for size in rng.integers(2, 9, 20)]
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **asked: seen.append(asked["input_ids"].numel()) or forward(**asked))
    found = []
    for least in (64, 10_000):
        monkeypatch.setattr("ibpo.training.choice.LEAST_SHARED", least)
        seen.clear()
        states = read_states(model, tokenizer, prompts, groups, 0.7)
        found.append((sum(seen), states, read_bodies(model, tokenizer, prompts, completions, groups, 0.7)))
    (few, states, bodies), (many, alone, bodies_alone) = found
    assert few < many / 2
    for name in states.__slots__:
        assert np.allclose(getattr(states, name), getattr(alone, name), atol=1e-4, rtol=1e-4), name
        assert np.allclose(getattr(bodies, name), getattr(bodies_alone, name), atol=1e-4, rtol=1e-4), name


@pytest.fixture(scope="module")
def embedded():
    """A real policy that chooses by itself: states of prompts, and of tokens within its bodies, in two halves.

    An extended body of *thinking* closes with `<answer>`, which opens a standard response.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ibpo.demo import experiment_named, model_path
    from ibpo.responses import encode_groups, encode_prefix
    from ibpo.rollouts import HFSampler, encode_prompt
    from ibpo.tasks import distinct
    from ibpo.training import read_bodies, read_states

    torch.manual_seed(0)
    experiment, path = experiment_named("thinking"), model_path("thinking")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    groups = encode_groups(experiment.response_groups, tokenizer)
    problems = distinct(experiment.task, "train", 1_000, seed=1)
    prompts = [encode_prompt(tokenizer, problem.prompt) for problem in problems]
    sampler = HFSampler(model, tokenizer, max_completion_length=experiment.max_completion_length, batch_size=256)
    opened = [encode_prefix(group.prefix, tokenizer) for group in experiment.response_groups]
    some = prompts[:300] * 2
    responses = sampler.sample(some, [opened[i // 300] for i in range(600)])
    bodies = [read_bodies(model, tokenizer, some[start::2], responses[start::2], groups) for start in (0, 1)]
    level = np.array([min(len(ids) // 9, 2) for ids in prompts])
    return model, groups, read_states(model, tokenizer, prompts, groups), bodies, level, (sampler, some, responses)


def change(states, delta):
    """By how much the probability of an opening moves, largest over the groups [M]."""
    return np.abs(states.shares(delta) - states.shares()).max(1)


def test_a_trained_choice_leaves_the_bodies_as_they_are(embedded):
    """Without the bodies' states the same rows make openings likely within responses, or unlikely where they belong."""
    _, _, states, (seen, unseen), level, _ = embedded
    drawn = responses(level, REWARDS, 1)
    batch = Batch(features=states.features, **drawn)
    terms = read_budget({"extended": 0.25}, ["standard", "extended"], lambda _: None)
    changes = []
    for bodies in (None, seen):
        lower_level = LowerLevel(num_groups=2, budgets=terms, utility="regression", window=1, min_gain=0.15)
        found = train_choice(states, batch, lower_level, states, bodies)
        assert found.share[1] == pytest.approx(0.25, abs=0.01)
        assert states.shares(found.delta)[level == 1, 1].mean() > 1.5 * 0.25
        changes.append(change(unseen, found.delta))
    assert unseen.shares().max() > 0.99  # where an opening belongs
    assert changes[0].max() > 0.5
    # Of bodies that had no say in it; a hidden state of 96 numbers tells prompts from bodies only so well.
    assert changes[1].mean() < 0.1 * changes[0].mean() and changes[1].mean() < 0.02


@pytest.fixture(scope="module")
def chooser(embedded):
    """The same model with a choice that was trained for a budget of 40 %, and its states."""
    from ibpo.training import choose_by_rows

    model, groups, states, (seen, unseen), level, _ = embedded
    batch = Batch(features=states.features, **responses(level, REWARDS, 1))
    terms = read_budget({"extended": 0.4}, ["standard", "extended"], lambda _: None)
    lower_level = LowerLevel(num_groups=2, budgets=terms, utility="regression", window=1)
    delta = train_choice(states, batch, lower_level, states, seen).delta
    policy = copy.deepcopy(model)
    choose_by_rows(policy, groups, delta)
    return policy, *(replace(one, opening=one.opening + one.hidden @ delta.T) for one in (states, seen, unseen))


@pytest.mark.parametrize("share", [0.05, 0.25, 0.6])
def test_a_repriced_choice_is_sharp_keeps_its_share_and_its_bodies(embedded, chooser, share):
    from ibpo.rollouts import HFSampler
    from ibpo.training import choose_by_rows

    _, groups, _, _, _, (sampler, prompts, before) = embedded
    policy, states, seen, unseen = chooser
    delta, found = reprice(states, [1 - share, share], seen)
    after, own = states.shares(delta), states.shares()
    assert found[1] == pytest.approx(share, abs=0.005) and found.sum() == pytest.approx(own.sum(1).mean(), abs=0.002)
    # The order of the prompts is the policy's own, and nearly all of them are decided.
    first = own[:, 1] > np.quantile(own[:, 1], 1 - share)
    agreement = np.where(first, after[:, 1], after[:, 0]).mean()
    assert agreement > 0.9 and agreement > np.where(first, own[:, 1], own[:, 0]).mean()
    assert (change(unseen, delta) > 0.05).mean() < 0.03
    # And the plain model that it is written into samples so.
    repriced = copy.deepcopy(policy)
    choose_by_rows(repriced, groups, delta)
    torch.manual_seed(1)
    longest = sampler.max_completion_length
    sampled = HFSampler(repriced, sampler.tokenizer, max_completion_length=longest, batch_size=256).sample(
        prompts, [[]] * len(prompts)
    )
    index = np.array([groups.index_of(ids) for ids in sampled])
    assert (index == 1).mean() == pytest.approx(after[:300, 1].mean(), abs=0.06) and (index < 0).mean() < 0.02
    if share > 0.5:  # bodies are as long as they were
        length = np.array([len(ids) for ids in sampled])[index == 1].mean()
        assert length == pytest.approx(np.mean([len(ids) for ids in before[300:]]), rel=0.25)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.45, 0.55, 1.0])
@pytest.mark.parametrize(("apart", "others"), [(2, -3), (20, -3), (20, 3)])
def test_any_share_is_reached_where_prompts_form_clusters_and_where_many_open_as_no_group(share, apart, others):
    """Steep logits with nothing between them; the share is among the responses that open as a group."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(1_000, 24))
    hidden[:, 0], hidden[:, 1] = 3.0, rng.integers(0, 2, 1_000) * 2 - 1
    opening = hidden[:, 1:3] @ np.array([[0.0, 0.0], [apart, 0.5]]).T
    states = ChoiceStates(features=hidden, hidden=hidden, opening=opening, rest=others + hidden[:, 3])
    _, found = reprice(states, [1 - share, share])
    opens = states.shares().sum(1).mean()
    assert found / found.sum() == pytest.approx([1 - share, share], abs=0.004)
    assert found.sum() == pytest.approx(opens, abs=0.02)
