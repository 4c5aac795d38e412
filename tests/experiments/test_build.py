"""Remaking an embedded model: stages follow one another on the weights that they left, and on nothing else."""

from __future__ import annotations

import copy
from itertools import islice

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from ibpo.experiments.build import Fit  # noqa: E402
from ibpo.experiments.experiment import Stage  # noqa: E402
from ibpo.experiments.thinking import THINKING  # noqa: E402
from ibpo.experiments.tiny_model import build_model, build_tokenizer  # noqa: E402


def test_a_copy_of_a_stages_model_does_not_call_the_original(tmp_path):
    tokenizer = build_tokenizer(THINKING.words)
    fit = Fit(tokenizer=tokenizer, scratch=tmp_path, seed=0, on_progress=lambda stage, done: None)
    small = Stage(num_pairs=16, learning_rate=1e-3, batch_size=8)
    made = fit.stage(
        "pretraining", build_model(tokenizer), small, lambda rng, n: list(islice(THINKING.pretraining_pairs(rng), n))
    )
    twin, ids = copy.deepcopy(made), torch.tensor([[3, 4, 5]])
    before = twin(input_ids=ids).logits
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    assert torch.equal(twin(input_ids=ids).logits, before)
    again = fit.stage("pretraining", made, small, lambda rng, n: pytest.fail("a finished stage was repeated"))
    assert torch.equal(again(input_ids=ids).logits, before)
