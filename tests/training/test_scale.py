"""What the pages on scale rest on, as far as it needs no hardware: schemas, refusals, openings, the memory table."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from ibpo.config import read_recipe
from ibpo.errors import IbpoError
from ibpo.rollouts import encode_prompt
from ibpo.rollouts.hf import HFSampler
from ibpo.runs import RunDir
from ibpo.training.generation import sample_served
from ibpo.training.reference_model import check_sharding, is_sharded, make_reference_model
from ibpo.training.run import trainer_arguments
from tests.training.tiny import with_lora

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


def test_trained_adapters_are_no_start_where_parameters_are_sharded():
    """The initial policy is loaded from the model's id there, without them."""
    state = SimpleNamespace(deepspeed_plugin=None)
    trainer = SimpleNamespace(is_fsdp_enabled=True, accelerator=SimpleNamespace(state=state), model=with_lora())
    with pytest.raises(IbpoError, match=r"these adapters are trained already \(.*lora_B.*merge them into the model"):
        make_reference_model(trainer)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_configurations_fit_its_schema_and_the_recipe(path, tmp_path):
    config: Any = load_config_from_file(str(path))
    said = (ROOT / "docs" / "how-to" / "scale.md").read_text()
    assert path.name in said or config.num_processes == 1
    parts = 8 if config.num_processes == 32 else 32
    overrides = [f"trl.gradient_accumulation_steps={parts}"]
    args = trainer_arguments(
        read_recipe(ROOT / "recipes" / "math_llama.toml", overrides),
        RunDir(tmp_path),
        num_processes=config.num_processes,
    )
    rollouts = args.per_device_train_batch_size * args.gradient_accumulation_steps * config.num_processes
    assert rollouts == 32 * 8 and args.use_vllm and not args.vllm_importance_sampling_correction


def test_the_paper_recipe_is_the_papers_set_up(tmp_path):
    for share in (0.25, 0.5, 0.75):
        config = read_recipe(ROOT / "recipes" / "math_llama.toml", [f"budget.extended={share}"])
        assert config.budget == {"extended": share}
        assert (config.train.steps, config.train.prompts_per_step) == (240, 32)
    with pytest.raises(IbpoError, match="32 times 24 processes must divide the 256 rollouts"):
        trainer_arguments(config, RunDir(tmp_path), num_processes=24)


def test_sharded_parameters_refuse_what_would_wait_or_break():
    args = {"use_vllm": True, "averaging": 0.0}
    check_sharding(SimpleNamespace(**args))  # pyright: ignore[reportArgumentType]
    for change, said in (({"use_vllm": False}, "rollouts need use_vllm=True"), ({"averaging": 0.2}, "averaging=0")):
        with pytest.raises(IbpoError, match=said):
            check_sharding(SimpleNamespace(**{**args, **change}))  # pyright: ignore[reportArgumentType]


def test_what_counts_as_sharded(make_trainer):
    trainer = make_trainer()
    assert not is_sharded(trainer)
    trainer.is_fsdp_enabled = True
    assert is_sharded(trainer)
    trainer.is_fsdp_enabled = False
    for stage, sharded in ((2, False), (3, True)):
        state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=stage))
        stand_in = SimpleNamespace(accelerator=SimpleNamespace(state=state), is_fsdp_enabled=False)
        assert is_sharded(stand_in) == sharded


def test_served_rollouts_are_opened_and_cut_like_those_of_transformers(make_trainer):
    trainer = make_trainer()
    tokenizer = trainer.processing_class

    class Generation:
        """vLLM's part, played by the real model: continues what it is given, and knows nothing of prefixes."""

        def generate(self, prompts, images, num_generations):
            assert images is None and num_generations == 1
            sampler = HFSampler(trainer.model, tokenizer, max_completion_length=10)
            return prompts, sampler.sample(prompts, [[]] * len(prompts)), None, None

    torch.manual_seed(0)
    prompts = [encode_prompt(trainer.processing_class, row["prompt"]) for row in trainer.train_dataset.select(range(8))]
    prefixes = [trainer.groups.prefix_ids[i % 2] for i in range(8)]
    completions = sample_served(Generation(), prompts, prefixes, 10)
    for prefix, ids in zip(prefixes, completions, strict=True):
        assert ids[: len(prefix)] == prefix and len(ids) <= 10
        assert len(ids) == 10 or ids[-1] == tokenizer.eos_token_id


def test_the_memory_table_is_the_formulas():
    script = runpy.run_path(str(ROOT / "benchmarks" / "memory.py"))
    assert script["table"]() in (ROOT / "docs" / "results" / "scale.md").read_text()
    small, _, large = script["MODELS"]
    whole, _, eight, _ = script["SETUPS"]
    for model in (small, large):
        one, many = script["memory"](model, whole), script["memory"](model, eight)
        assert one["training"] == pytest.approx(8 * many["training"])
        assert one["weights"] + one["training"] >= 16 * model.parameters


@pytest.mark.parametrize("lora", [0.0, 0.005])
def test_the_memory_table_counts_what_the_trainer_holds(make_trainer, lora):
    """On the embedded model: the initial policy, and the keys and values of `sampling_batch_size` sequences."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "memory.py"))
    trainer = make_trainer(dtype=torch.bfloat16 if lora else torch.float32)
    config = trainer.model.config
    model = script["Model"](
        name="embedded",
        parameters=trainer.model.num_parameters(),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        key_value=config.num_key_value_heads * config.head_dim,
        words=config.vocab_size,
    )
    parts = script["memory"](model, script["Setup"](name="", shards=1, lora=lora, tokens=40, sampled=8))
    assert parts["initial"] == sum(p.numel() * p.element_size() for p in trainer.reference_model.parameters())
    cache = trainer.model(input_ids=torch.ones(8, 40, dtype=torch.long), use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert parts["rollouts"] == held
