"""The models that come with the package: small, described, safe to load, and able to do both response groups."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
import transformers

from experiments.build import sample_texts
from ibpo.demo import EXPERIMENTS, experiment_named, model_path
from ibpo.errors import IbpoError
from ibpo.tasks.draws import stream

STAGES = ("cold_start", "pretrained")
HOMES = {stage: model_path("thinking", stage).parent.parent for stage in STAGES}
EXPECTED = {"README.md", "config.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}


def load(path: Path):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=False)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def test_both_stages_of_every_experiment_are_shipped_and_nothing_else():
    found = {path.parent.parts[-2:] for home in HOMES.values() for path in home.rglob("config.json")}
    assert "ibpo" not in HOMES["pretrained"].parts[-3:] and "demo" in HOMES["cold_start"].parts
    assert found == {(name, stage) for name in EXPERIMENTS for stage in STAGES}
    with pytest.raises(IbpoError, match="no embedded model thinking/none; this installation holds thinking/cold_start"):
        model_path("thinking", "none")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_model_is_small_described_and_safe(name, stage):
    path = model_path(name, stage)
    files = list(path.rglob("*"))
    assert {file.name for file in files} == EXPECTED | TOKENIZER  # safetensors only: nothing that pickles, no code
    assert sum(file.stat().st_size for file in files) <= 3 * 2**20
    model, tokenizer = load(path)
    assert model.num_parameters() <= 1_000_000
    assert len(tokenizer) <= model.config.vocab_size
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "\n## What is designed into the data\n" in card
    assert f"{model.num_parameters():,} parameters" in card
    assert " ".join(experiment_named(name).designed_in.split()) in " ".join(card.split())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_cold_start_answers_in_both_response_groups(name):
    experiment = experiment_named(name)
    model, tokenizer = load(model_path(name, "cold_start"))
    problems = list(islice(stream(experiment.task, "train", 11), 50))
    torch.manual_seed(0)
    for group in experiment.response_groups:
        texts = sample_texts(model, tokenizer, problems, group.prefix, experiment.max_completion_length)
        assert all(group.matches(text) for text in texts)
        answered = sum(group.extract_answer(text) is not None for text in texts)
        assert answered >= 0.9 * len(problems), group.name
