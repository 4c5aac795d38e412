"""The contract of the transformers sampler, on an embedded model."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
import transformers

from ibpo.demo import THINKING, model_path
from ibpo.rollouts.hf import HFSampler, load_policy
from ibpo.tasks.task import stream
from tests.checkpoints import tokenizer_of

LENGTH = 24
"""Short enough for some responses to be cut off, long enough for others to end."""


@pytest.fixture(scope="module")
def policy():
    path = model_path("thinking", "cold_start")
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def prompts(policy):
    texts = [str(problem.prompt) for problem in islice(stream(THINKING.task, "train", 7), 24)]
    return policy[1](texts, add_special_tokens=False)["input_ids"]


def draw(policy, prompts, prefixes, *, seed=0, length=LENGTH, **options):
    torch.manual_seed(seed)
    return HFSampler(*policy, max_completion_length=length, **options).sample(prompts, prefixes)


def openings(policy, count):
    """Each response group's prefix in turn, then none."""
    prefixes = [policy[1](group.prefix, add_special_tokens=False)["input_ids"] for group in THINKING.response_groups]
    return [[*prefixes, []][i % 3] for i in range(count)]


@pytest.mark.parametrize("length", [1, 5, LENGTH, THINKING.max_completion_length])
def test_a_completion_keeps_its_prefix_and_ends_by_itself_or_at_the_limit(policy, prompts, length):
    prefixes = openings(policy, len(prompts))
    eos = policy[1].eos_token_id
    completions = draw(policy, prompts, prefixes, length=length)
    assert len(completions) == len(prompts)
    for prefix, completion in zip(prefixes, completions, strict=True):
        assert completion[: len(prefix)] == prefix
        assert eos not in completion[:-1]
        assert completion[-1] == eos or len(completion) == length
        assert 1 <= len(completion) <= length
    if length == LENGTH:
        ended = [completion[-1] == eos for completion in completions]
        assert any(ended) and not all(ended)


def test_the_seed_decides(policy, prompts):
    prefixes = [[]] * len(prompts)
    first = draw(policy, prompts, prefixes, seed=1)
    assert draw(policy, prompts, prefixes, seed=1) == first
    assert draw(policy, prompts, prefixes, seed=2) != first


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5}, {"batch_size": 9}])
def test_batches_do_not_change_what_is_written(policy, prompts, options):
    prefixes = openings(policy, len(prompts))
    whole = draw(policy, prompts, prefixes, temperature=1e-4)
    assert draw(policy, prompts, prefixes, temperature=1e-4, **options) == whole


def test_temperature_0_is_greedy(policy, prompts):
    prefixes = openings(policy, len(prompts))
    greedy = draw(policy, prompts, prefixes, temperature=0.0)
    assert greedy == draw(policy, prompts, prefixes, temperature=0.0, seed=1, batch_size=7)
    assert greedy == draw(policy, prompts, prefixes, temperature=1e-4)


def test_a_model_in_training_stays_in_training(policy, prompts):
    model, tokenizer = policy
    model.train()
    try:
        draw((model, tokenizer), prompts[:2], [[], []])
        assert model.training
    finally:
        model.eval()


def test_next_token_logits_are_those_of_one_forward_per_prompt(policy, prompts):
    model, _ = policy
    found = HFSampler(*policy, max_completion_length=1, batch_size=7).next_token_logits(prompts)
    assert found.shape == (len(prompts), model.config.vocab_size)
    with torch.no_grad():
        for row, prompt in zip(found, prompts, strict=True):
            direct = model(input_ids=torch.tensor([prompt])).logits[0, -1]
            assert torch.allclose(row, direct, atol=1e-4)


def test_unforced_openings_follow_the_policy(policy, prompts):
    prompt = prompts[0]
    probabilities = torch.softmax(HFSampler(*policy, max_completion_length=1).next_token_logits([prompt])[0], -1)
    completions = draw(policy, [prompt] * 2000, [[]] * 2000, length=1)
    counts = torch.bincount(torch.tensor([completion[0] for completion in completions]), minlength=len(probabilities))
    # Five standard errors; a tiny floor for tokens that hardly ever open a response.
    slack = 5 * (probabilities * (1 - probabilities) / 2000).sqrt() + 0.002
    assert ((counts / 2000 - probabilities).abs() <= slack).all()


TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "eos_token_id": 2}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
QWEN = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
WHOLE = {
    "Gemma3": ("Gemma3ForCausalLM", {}, VISION, {"image_token_index": 5}),
    "Llava": ("LlamaForCausalLM", {"model_type": "llama"}, VISION | {"model_type": "clip_vision_model"},
              {"image_token_index": 5}),
    "Mistral3": ("MistralForCausalLM", {"model_type": "mistral"}, VISION | {"model_type": "pixtral"},
                 {"image_token_index": 5}),  # its head is tied, which only the whole model's configuration says
    "Qwen2_5_VL": ("Qwen2_5_VLForConditionalGeneration", ROPE, QWEN,
                   {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7}),  # no class for text alone
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_of_a_model_that_sees_its_language_model_is_loaded(name, tmp_path):
    loads, text, vision, more = WHOLE[name]
    tokenizer = tokenizer_of("plain")
    config = getattr(transformers, f"{name}Config")(
        text_config=TEXT | text | {"vocab_size": len(tokenizer)}, vision_config=vision, **more
    )
    whole = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_policy(str(tmp_path))
    assert type(model).__name__ == loads
    prompts = [[11, 12, 13, 19], [50, 51]]
    responses = HFSampler(model, tokenizer, max_completion_length=9, temperature=0.0).sample(prompts, [[], []])
    for prompt, response in zip(prompts, responses, strict=True):
        with torch.no_grad():
            logits = whole(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == response
