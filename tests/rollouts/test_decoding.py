"""The decoding loop on a small checkpoint of each kind: what it samples from is what a plain forward pass says."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from ibpo.rollouts import HFSampler, encode_prompt, end_of_sequence_ids, load_policy, pad_left
from ibpo.rollouts.decoding import Decoder, sample_next
from tests.checkpoints import BUSY, KINDS, make_checkpoint

TEXTS = ("1 + 1 =", "what is the time?", "no", "a longer one, a longer one, a longer one")
LIMIT = 24


@pytest.fixture(scope="module")
def policy_of(tmp_path_factory):
    found = {}

    def policy(kind):
        if kind not in found:
            folder = make_checkpoint(kind, tmp_path_factory.mktemp(kind))
            found[kind] = load_policy(str(folder), dtype="bfloat16" if kind == "bfloat16" else "float32")
        return found[kind]

    return policy


def asked(tokenizer, num_siblings=4):
    """Siblings of each prompt, some with a prefix of one or two tokens."""
    ids = [encode_prompt(tokenizer, text) for text in TEXTS]
    prompts = [ids[i // num_siblings] for i in range(len(ids) * num_siblings)]
    return prompts, [([], [70], [71, 72])[i % 3] for i in range(len(prompts))]


class Recorder(Decoder):
    """Keeps the logits of every token that was written."""

    seen: dict[int, list[torch.Tensor]]

    def _write(self, batch, prefixes, done):
        for slot, row in enumerate(batch.rows):
            if row >= 0:
                self.seen.setdefault(row, []).append(batch.logits[slot].float())
        super()._write(batch, prefixes, done)


@pytest.mark.parametrize("batch_size", [5, 99])
@pytest.mark.parametrize("kind", KINDS)
def test_every_token_is_drawn_from_what_a_plain_forward_pass_gives(policy_of, kind, batch_size):
    model, tokenizer = policy_of(kind)
    prompts, prefixes = asked(tokenizer)
    eos = end_of_sequence_ids(model, tokenizer)
    decoder = Recorder(
        model.eval(), eos_token_ids=eos, pad_token_id=0, max_completion_length=LIMIT, temperature=1.0,
        batch_size=batch_size,
    )  # fmt: skip
    decoder.seen = {}
    torch.manual_seed(0)
    responses = decoder.decode(prompts, prefixes)
    for i, (prompt, prefix, response) in enumerate(zip(prompts, prefixes, responses, strict=True)):
        assert response[: len(prefix)] == prefix
        ended = [n for n, token in enumerate(response) if token in eos]
        assert ended in ([], [len(response) - 1]) and (ended or len(response) == LIMIT)
        with torch.no_grad():
            plain = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].float()
        ours = torch.stack(decoder.seen[i])
        difference = (torch.log_softmax(ours, -1) - torch.log_softmax(plain, -1)).abs()
        assert difference.max() < (0.5 if kind == "bfloat16" else 2e-3)
        assert difference.mean() < (0.05 if kind == "bfloat16" else 2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_that_of_generate_under_a_configuration_that_sets_nothing(policy_of, kind):
    model, tokenizer = policy_of(kind)
    prompts, _ = asked(tokenizer, num_siblings=1)
    sampler = HFSampler(model, tokenizer, max_completion_length=LIMIT, temperature=0.0, batch_size=3)
    ours = sampler.sample(prompts, [[]] * len(prompts))
    said, model.generation_config = model.generation_config, GenerationConfig()
    try:
        ids, mask = pad_left(prompts, 0)
        config = GenerationConfig(
            max_new_tokens=LIMIT, do_sample=False, eos_token_id=sampler.eos_token_ids, pad_token_id=0
        )
        theirs = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :]
    finally:
        model.generation_config = said
    same = [a == b[: len(a)] for a, b in zip(ours, theirs.tolist(), strict=True)]
    assert all(same) if kind != "bfloat16" else any(same)  # where ties are rounded apart


def test_no_generation_config_changes_what_is_sampled(policy_of):
    drawn = []
    for kind in ("plain", "busy"):
        model, tokenizer = policy_of(kind)
        torch.manual_seed(5)
        drawn.append(HFSampler(model, tokenizer, max_completion_length=LIMIT, batch_size=7).sample(*asked(tokenizer)))
    assert policy_of("busy")[0].generation_config.repetition_penalty == BUSY["repetition_penalty"]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("kind", ["busy", "several_eos"])
def test_a_model_without_transformers_cache_goes_through_generate(policy_of, kind, monkeypatch):
    model, tokenizer = policy_of(kind)
    prompts, prefixes = asked(tokenizer)
    ways = []
    for dynamic in (True, False):
        monkeypatch.setattr(type(model), "_supports_default_dynamic_cache", lambda self, dynamic=dynamic: dynamic)
        sampler = HFSampler(model, tokenizer, max_completion_length=LIMIT, temperature=0.0, batch_size=5)
        ways.append(sampler.sample(prompts, prefixes))
    assert ways[0] == ways[1]
    assert model.generation_config.repetition_penalty == (BUSY["repetition_penalty"] if kind == "busy" else None)


def test_ends_at_every_id_of_the_model_and_says_so(policy_of):
    model, tokenizer = policy_of("several_eos")
    sampler = HFSampler(model, tokenizer, max_completion_length=200)
    assert sampler.eos_token_ids == [2, 3, 100]
    torch.manual_seed(0)
    prompts, prefixes = asked(tokenizer, num_siblings=20)
    last = {response[-1] for response in sampler.sample(prompts, prefixes)}
    assert {3, 100} <= last


def test_a_prefix_that_fills_the_limit_or_ends_is_the_whole_response(policy_of):
    model, tokenizer = policy_of("plain")
    sampler = HFSampler(model, tokenizer, max_completion_length=3)
    found = sampler.sample([[50], [51], [52]], [[60, 61, 62, 63], [60, 2], []])
    assert found[:2] == [[60, 61, 62, 63], [60, 2]] and len(found[2]) <= 3


def test_siblings_share_their_prompt(policy_of, monkeypatch):
    model, tokenizer = policy_of("plain")
    read = []
    forward = Decoder._forward
    monkeypatch.setattr(
        Decoder,
        "_forward",
        lambda self, ids, mask, cache: read.append(tuple(ids.shape)) or forward(self, ids, mask, cache),
    )
    prompts, prefixes = asked(tokenizer)
    HFSampler(model, tokenizer, max_completion_length=LIMIT, batch_size=8).sample(prompts, prefixes)
    assert sum(rows for rows, width in read if width > 1) == len(TEXTS)
    assert max(rows for rows, _ in read) <= 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_are_drawn_with_their_probabilities(dtype):
    """Over a large vocabulary, most of whose tokens are impossible: never these, the others as often as they should."""
    torch.manual_seed(0)
    chance = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
    places = torch.tensor([1, 7, 20_000, 49_150, 3])
    logits = torch.full((4000, 49_152), -torch.inf)
    logits[:, places] = chance.log()
    drawn = torch.cat([sample_next(part.to(dtype), 1.0) for part in logits.split(500)])
    assert torch.isin(drawn, places).all()
    seen = (drawn[:, None] == places).double().mean(0)
    error = (chance * (1 - chance) / 4000).sqrt()
    assert ((seen - chance).abs() < 5 * error).all(), seen
    hot = torch.cat([sample_next(part.to(dtype), 0.5) for part in logits.split(500)])
    squares = chance**2 / (chance**2).sum()
    assert ((hot[:, None] == places).double().mean(0) - squares).abs().max() < 0.05
    assert (sample_next(logits[:3].to(dtype), 0.0) == 1).all()
