"""The embedded models with heads that vLLM takes: the same function, in evaluation and in training."""

import copy

import pytest

from ibpo.errors import IbpoError


@pytest.fixture(scope="module")
def policy():
    from transformers import AutoModelForCausalLM

    from ibpo.demo import model_path

    return AutoModelForCausalLM.from_pretrained(model_path("thinking")).eval()


def test_the_widened_model_is_the_same_function(policy, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from experiments.widen_heads import write_widened

    wide = AutoModelForCausalLM.from_pretrained(write_widened("embedded:thinking", tmp_path / "wide")).eval()
    assert wide.config.head_dim == 32 and policy.config.head_dim == 24
    ids = torch.randint(3, policy.config.vocab_size, (4, 300), generator=torch.manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(wide(ids).logits, policy(ids).logits, rtol=1e-4, atol=2e-4)


def test_training_keeps_the_padding_at_zero(policy):
    import torch

    from experiments.widen_heads import widen_heads

    narrow, wide = copy.deepcopy(policy), widen_heads(policy, 32)
    ids = torch.randint(3, policy.config.vocab_size, (2, 40), generator=torch.manual_seed(1))
    for model in (narrow, wide):
        step = torch.optim.SGD(model.parameters(), lr=1e-3)
        model(ids, labels=ids).loss.backward()
        step.step()
    for name, value in wide.state_dict().items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = value.view(-1, 2, 16, value.shape[1])
            assert not heads[:, :, 12:].any() and heads[:, :, :12].any()


def test_what_cannot_be_widened_is_refused(policy):
    from experiments.widen_heads import widen_heads

    with pytest.raises(IbpoError, match="heads of 24 cannot become heads of 16"):
        widen_heads(policy, 16)
