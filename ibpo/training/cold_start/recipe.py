"""The recipe of a cold start: frozen parts read from TOML, with typed overrides; an unknown key is an error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ibpo.config import DTYPES, ModelConfig, RecipeReader, nearest
from ibpo.data_config import ConstraintsConfig, DataConfig, JudgeConfig
from ibpo.responses import FORMS, BuildConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """`[sample]`: the model's own solutions."""

    engine: str = "transformers"
    """`transformers`, `vllm` (offline, one GPU) or `endpoint` (any OpenAI-compatible server)."""
    num_solutions: int = 8
    """Per problem; a vote without consensus needs eight."""
    temperature: float = 1.0
    max_tokens: int = 512
    """Of a solution."""
    force_opening: bool = False
    """Force the standard response group's prefix; else the instruction asks for it, and it is put in front."""
    answer: str = "boxed"
    """How the answer of a solution without box is read: `boxed`, `last_number`, or `after:MARKER`."""
    seed: int = 0
    batch_size: int = 64
    rollouts: str = ""
    """A store of solutions to use or go on with, e.g. another run's `rollouts.jsonl`; "": the run's own."""
    base_url: str = ""
    """Of the server, down to the version: `http://127.0.0.1:8000/v1`."""
    served_model: str = ""
    """The model's name at the server; "": as in `[model]`."""
    forcing: str = "render"
    """How the server is asked; see `ibpo.rollouts.served.EndpointSampler`."""
    api_key_file: str = ""
    """A file whose text is the key; "": none is sent."""
    num_concurrent: int = 16
    price_prompt: float = 0.0
    """Of a million prompt tokens at the server, and of completion tokens below: the bill in the results."""
    price_completion: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuneConfig:
    """`[train]`: supervised fine-tuning on the built responses."""

    num_epochs: float = 2.0
    learning_rate: float = 1e-5
    batch_size: int = 16
    """Responses per step."""
    lora_rank: int = 0
    """0: all weights are trained."""
    lora_alpha: int = 32
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """`[gate]`: what the trained policy has to show on held-out problems."""

    keeps_rule: float = 0.98
    """Least share of ended votes that keep form and stop rule. 0.98 and 0.01: from our embedded experiments."""
    below_external: float = 0.01
    """Largest shortfall of voting's accuracy against voting over separate responses by the same rule."""
    well_formed: float = 0.95
    """Least share of ended standard responses that give an answer."""
    truncated: float = 0.05
    """Largest share of cut-off responses of either response group."""
    min_share: float = 0.02
    """Least share of each response group where the policy chooses; of the mixture `asv`."""
    num_rounds: int = 2
    """External votes of eight separate responses per problem."""
    max_completion_length: int = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ColdStartConfig:
    """A whole recipe."""

    model: ModelConfig
    data: DataConfig
    """Those held out are for the gate."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    build: BuildConfig = field(default_factory=BuildConfig)
    train: FineTuneConfig = field(default_factory=FineTuneConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    sft: dict[str, Any] = field(default_factory=dict)
    """`[sft]`: goes to `trl.SFTConfig` word for word."""
    template: dict[str, Any] = field(default_factory=dict)
    """`[template]`: goes to the tokenizer's `apply_chat_template`, e.g. `enable_thinking = false`."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)


CHOICES = {
    "model.dtype": DTYPES,
    "sample.engine": ("transformers", "vllm", "endpoint"),
    "sample.forcing": ("render", "prefill", "none"),
    "build.form": tuple(FORMS),
    "build.mixture": ("asv", "sv"),
    "build.imitate": ("right", "all"),
    "build.order": ("shuffled", "sampled"),
}
LEAST = {
    "data.holdout": 2,
    "sample.num_solutions": 3,
    "sample.max_tokens": 1,
    "sample.batch_size": 1,
    "sample.num_concurrent": 1,
    "sample.seed": 0,
    "sample.price_prompt": 0,
    "sample.price_completion": 0,
    "build.responses_per_problem": 1,
    "build.seed": 0,
    "build.alpha": 0,
    "train.batch_size": 1,
    "train.lora_rank": 0,
    "train.seed": 0,
    "gate.num_rounds": 1,
    "gate.max_completion_length": 1,
}
POSITIVE = ("sample.temperature", "train.learning_rate", "train.num_epochs")
SHARES = ("gate.keeps_rule", "gate.below_external", "gate.well_formed", "gate.truncated", "gate.min_share")


def read_cold_start_recipe(path: Path, overrides: Iterable[str] = ()) -> ColdStartConfig:
    """Read a TOML recipe; overrides are `build.alpha=2`.

    Raises:
        IbpoError: names file (or override), key and fix.
    """
    reader = RecipeReader(str(path))
    tables = reader.load(path, overrides)
    reader.known(tables, ColdStartConfig)
    config = ColdStartConfig(
        model=reader.part(ModelConfig, tables.get("model", {}), "model"),
        **reader.judged_data(tables),
        sample=reader.part(SampleConfig, tables.get("sample", {}), "sample"),
        build=reader.part(BuildConfig, tables.get("build", {}), "build"),
        train=reader.part(FineTuneConfig, tables.get("train", {}), "train"),
        gate=reader.part(GateConfig, tables.get("gate", {}), "gate"),
        sft=reader.table(tables.get("sft", {}), "sft"),
        template=reader.table(tables.get("template", {}), "template"),
    )
    _check(reader, config)
    return config


def _check(reader: RecipeReader, config: ColdStartConfig) -> None:
    def value(key: str) -> Any:
        table, _, name = key.partition(".")
        return getattr(getattr(config, table), name)

    for key, choices in CHOICES.items():
        if value(key) not in choices:
            reader.fail(key, f"{value(key)!r} is none of {', '.join(choices)}; {nearest(value(key), choices)}")
    for key, least in LEAST.items():
        if not value(key) >= least:
            reader.fail(key, f"must be at least {least}, got {value(key)}")
    for key in POSITIVE:
        if not (value(key) > 0 and math.isfinite(value(key))):
            reader.fail(key, f"must be above 0, got {value(key):g}")
    for key in SHARES:
        if not 0 <= value(key) <= 1:
            reader.fail(key, f"is a share, from 0 to 1, got {value(key):g}")
    if config.data.limit is not None and config.data.limit <= config.data.holdout:
        reader.fail("data.limit", f"must be above data.holdout = {config.data.holdout}, got {config.data.limit}")
    if config.sample.engine == "endpoint" and not config.sample.base_url.startswith(("http://", "https://")):
        reader.fail("sample.base_url", "is needed for engine = 'endpoint'; write http://HOST:PORT/v1")
    if config.sample.engine == "endpoint" and config.sample.force_opening and config.sample.forcing == "none":
        reader.fail("sample.force_opening", "needs sample.forcing = 'render' or 'prefill'")
