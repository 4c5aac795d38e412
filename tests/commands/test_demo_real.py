"""The demo with a real model's family: the whole way from cold start by program to page, on a tiny random llama."""

from __future__ import annotations

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.demo import DemoSettings, plan_real_jobs, run_real_job, write_outcome

pytest.importorskip("trl")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_model(folder):
    """A random llama of two layers, its embeddings tied, with a tokenizer of bytes and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=True, eos_token_id=2, pad_token_id=2,
        bos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def run(*arguments):
    return CliRunner().invoke(app, ["demo", "--experiment", "smollm2", *map(str, arguments)])


def test_without_the_model_its_command_is_named(tmp_path):
    result = run("--model", tmp_path / "none")
    assert result.exit_code == 2
    assert "no such folder; make it: ibpo models get smollm2 --out" in result.stderr
    result = run("--experiment", "voting", "--model", tmp_path)  # the last --experiment counts
    assert result.exit_code == 2 and "--model: is of --experiment smollm2; voting has a model" in result.stderr
    result = run("--from-scratch")
    assert result.exit_code == 2 and "others made this one" in result.stderr


@pytest.mark.slow
def test_from_cold_start_to_page_and_again_without_repeating_anything(tiny_model, tmp_path):
    """Every job in this process; the command starts one for each, which is tested with the other experiments."""
    settings = DemoSettings(
        experiments=("smollm2",), budgets=(0.5,), seeds=(0,), num_problems=20, num_calibration=20, num_steps=None,
        from_scratch=False, model=str(tiny_model), num_taught=20, num_train=20,
    )  # fmt: skip
    jobs = {job.name: job for job in plan_real_jobs(tmp_path, settings)}
    ready = {"cold-start": ["cold-start"], "untrained": ["untrained", "rollouts"], "rollouts": ["rollouts"]}
    for name, job in jobs.items():
        assert [other for other, one in jobs.items() if one.is_ready() and not one.is_done()] == ready.get(name, [name])
        run_real_job(job)
        assert job.is_done()
    assert list(jobs) == [*ready, "ibpo-0.5"]
    write_outcome(tmp_path, settings, Console(quiet=True), seconds=1.0)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {"standard only", "extended only", "random mix", "IBPO sampled", "IBPO calibrated"} <= {
        row["method"] for row in rows
    }
    page = (tmp_path / "report.html").read_text()
    assert "135 million parameters" in page and "0.36 million" not in page
    policy = tmp_path / "smollm2" / "seed0" / "policies" / "ibpo-0.5" / "model"
    assert json.loads((policy / "config.json").read_text())["tie_word_embeddings"] is False
    # Interrupted in the last job: only what is missing is made again.
    last = jobs["ibpo-0.5"]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "smollm2").rglob("*.gz")}
    sampled = last.responses(last.name, "sampled")
    sampled.unlink()
    run_real_job(last)
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "smollm2").rglob("*.gz")}
    own = {path for path in files if path.name.startswith("ibpo-0.5")}
    assert {path for path in files if files[path] != again[path]} <= own and sampled in again


def test_the_saved_policy_chooses_as_the_recorded_states_say(tiny_model, tmp_path):
    """pi(g | x) of the model on disk is what `ChoiceStates.shares` computed, and other tokens keep their logits."""
    import numpy as np
    import torch

    from ibpo.demo import SMOLLM2
    from ibpo.responses import encode_groups
    from ibpo.rollouts import HFSampler, encode_prompt, load_policy
    from ibpo.tasks import distinct, word_sums
    from ibpo.training import choose_by_rows, read_states

    model, tokenizer = load_policy(str(tiny_model))
    groups = encode_groups(SMOLLM2.response_groups, tokenizer)
    prompts = [encode_prompt(tokenizer, p.prompt) for p in distinct(word_sums, "test", 9, seed=1)]
    states = read_states(model, tokenizer, prompts, groups)
    delta = np.random.default_rng(0).normal(size=(2, states.hidden.shape[1])) * 0.3
    before = HFSampler(model, tokenizer, max_completion_length=1).next_token_logits(prompts)
    choose_by_rows(model, groups, delta)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    saved, _ = load_policy(str(tmp_path))
    after = HFSampler(saved, tokenizer, max_completion_length=1).next_token_logits(prompts)
    first = [prefix[0] for prefix in groups.prefix_ids]
    shares = torch.softmax(after.double(), -1)[:, first].numpy()
    assert np.allclose(states.shares(delta), shares, atol=1e-5)
    others = [i for i in range(before.shape[1]) if i not in first]
    assert torch.allclose(before[:, others], after[:, others], atol=1e-5)
