"""The recipe of a cold start: frozen tables read from TOML, with typed overrides; an unknown key is an error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ibpo.config import LARGEST_SEED, Recipe, RecipeReader, ResponseGroupConfig, Table
from ibpo.responses import BuildConfig

Share = Annotated[float, Field(ge=0, le=1)]


class SampleConfig(Table):
    """`[sample]`: the model's own solutions."""

    engine: Literal["transformers", "vllm", "endpoint"] = "transformers"
    """`transformers`, `vllm` (offline, one GPU) or `endpoint` (any OpenAI-compatible server)."""
    num_solutions: int = Field(default=8, ge=3)
    """Per problem; a vote without consensus needs eight."""
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=512, ge=1)
    """Most tokens of a solution."""
    force_opening: bool = False
    """Force the standard response group's prefix; else the instruction asks for it, and it is put in front."""
    answer: str = "boxed"
    """How the answer of a solution without box is read: `boxed`, `last_number`, or `after:MARKER`."""
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=64, ge=1)
    rollouts: str = ""
    """A store of solutions to use or go on with, e.g. another run's `rollouts.jsonl`; "": the run's own."""
    base_url: str = ""
    """Address of the server, down to the version: `http://127.0.0.1:8000/v1`."""
    served_model: str = ""
    """The model's name at the server; "": as in `[model]`."""
    forcing: Literal["render", "prefill", "none"] = "render"
    """How the server is asked; see `ibpo.rollouts.served.EndpointSampler`."""
    api_key_file: str = ""
    """A file whose text is the key; "": none is sent."""
    num_concurrent: int = Field(default=16, ge=1)
    price_prompt: float = Field(default=0.0, ge=0)
    """Price of a million prompt tokens at the server; below, of completion tokens: for the bill in the results."""
    price_completion: float = Field(default=0.0, ge=0)


OWN, KEPT = "own", ("", "shortest", "longest")


class ColdStartGroupConfig(ResponseGroupConfig):
    """`[[response_group]]`: as in `ibpo train`, and who writes what follows the prefix."""

    body: str = OWN
    """A column of the data, filled by a program; or `own`: right solutions of the model itself in this group, any of
    them, or the shortest or longest: `own:shortest`, `own:longest`."""

    @model_validator(mode="after")
    def _body(self) -> Self:
        kind, _, which = self.body.partition(":")
        if not self.body or (kind == OWN and which not in KEPT):
            raise ValueError(f"body: {self.body!r} is not a column, own, own:shortest or own:longest; write one")
        return self


class FineTuneConfig(Table):
    """`[train]`: supervised fine-tuning on the built responses."""

    num_epochs: float = Field(default=2.0, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    batch_size: int = Field(default=16, ge=1)
    """Responses per step."""
    lora_rank: int = Field(default=0, ge=0)
    """0: all weights are trained."""
    lora_alpha: int = 32
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)


class GateConfig(Table):
    """`[gate]`: what the trained policy has to show on held-out problems."""

    keeps_rule: Share = 0.98
    """Least share of ended votes that keep form and stop rule. 0.98 and 0.01: from our embedded experiments."""
    below_external: Share = 0.01
    """Largest shortfall of voting's accuracy against voting over separate responses by the same rule."""
    well_formed: Share = 0.95
    """Least share of ended standard responses that give an answer."""
    truncated: Share = 0.05
    """Largest share of cut-off responses of either response group."""
    min_share: Share = 0.02
    """Least share of each response group where the policy chooses; of the mixture `asv`."""
    num_rounds: int = Field(default=2, ge=1)
    """External votes of eight separate responses per problem."""
    max_completion_length: int = Field(default=4096, ge=1)


class ColdStartConfig(Recipe):
    """A whole recipe of `ibpo cold-start`; the problems of `[data]` that are held out are for the gate."""

    response_group: tuple[ColdStartGroupConfig, ...] = Field(default=(), strict=False)
    """The response groups, the standard one first; without them, one of the voting forms of `build.form`."""
    sample: SampleConfig = SampleConfig()
    build: BuildConfig = BuildConfig()
    train: FineTuneConfig = FineTuneConfig()
    gate: GateConfig = GateConfig()
    sft: dict[str, Any] = Field(default={})
    """`[sft]`: goes to `trl.SFTConfig` word for word."""
    template: dict[str, Any] = Field(default={})
    """`[template]`: goes to the tokenizer's `apply_chat_template`, e.g. `enable_thinking = false`."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        data, sample = self.data, self.sample
        if len(self.response_group) == 1 or len({one.name for one in self.response_group}) < len(self.response_group):
            raise ValueError("response_group: two or more of different names are needed, the standard one first")
        if data.holdout < 2:
            raise ValueError(f"data.holdout: must be at least 2, for the gate, got {data.holdout}")
        if data.limit is not None and data.limit <= data.holdout:
            raise ValueError(f"data.limit: must be above data.holdout = {data.holdout}, got {data.limit}")
        if sample.engine == "endpoint" and not sample.base_url.startswith(("http://", "https://")):
            raise ValueError("sample.base_url: is needed for engine = 'endpoint'; write http://HOST:PORT/v1")
        if sample.engine == "endpoint" and sample.force_opening and sample.forcing == "none":
            raise ValueError("sample.force_opening: needs sample.forcing = 'render' or 'prefill'")
        return self


def read_cold_start_recipe(path: Path, overrides: Iterable[str] = ()) -> ColdStartConfig:
    """Read a TOML recipe; overrides are `build.alpha=2`.

    Raises:
        IbpoError: names file (or override), key and fix.
    """
    reader = RecipeReader(path, overrides, ColdStartConfig)
    reader.refuse_other_command(("budget", "trl"), "train")
    return reader.read(ColdStartConfig)
