"""docs/reference/recipe.md lists every field of the recipes, with its default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ibpo.config import (
    ConstraintsConfig,
    DataConfig,
    ExampleConfig,
    JudgeConfig,
    ModelConfig,
    ResponseGroupConfig,
    RunConfig,
    TrainConfig,
)
from ibpo.responses import BuildConfig
from ibpo.training.cold_start.recipe import (
    ColdStartConfig,
    ColdStartGroupConfig,
    FineTuneConfig,
    GateConfig,
    SampleConfig,
)

PAGE = (Path(__file__).parent.parent / "docs" / "reference" / "recipe.md").read_text(encoding="utf-8")
TABLES: dict[str, type[BaseModel]] = {
    "`[model]`": ModelConfig,
    "`[data]`": DataConfig,
    "`[[data.examples]]`": ExampleConfig,
    "`[[response_group]]`": ResponseGroupConfig,
    "`[train]`": TrainConfig,
    "`[judge]`": JudgeConfig,
    "`[constraints]`": ConstraintsConfig,
    "`[[response_group]]` of a cold start": ColdStartGroupConfig,
    "`[sample]`": SampleConfig,
    "`[build]`": BuildConfig,
    "`[train]` of a cold start": FineTuneConfig,
    "`[gate]`": GateConfig,
}
"""Heading -> the model whose fields its table lists."""


def rows_below(heading: str) -> Iterator[list[str]]:
    """The cells of the rows of the table below a heading, without its first two lines."""
    section = PAGE.split(f"\n### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def as_cell(value: Any) -> str:
    """A default as the page writes it."""
    if value is None or value in ((), []):
        return "none"
    text = str(value).lower() if isinstance(value, bool) else str(value) or '""'
    return f"`{text}`"


@pytest.mark.parametrize("heading", TABLES)
def test_every_field_is_listed_with_its_default(heading):
    model, listed = TABLES[heading], {row[0].strip("`"): row[2] for row in rows_below(heading)}
    fields = dict(model.model_fields)
    if model is ColdStartGroupConfig:  # the others are those of the table above
        fields = {name: field for name, field in fields.items() if name not in ResponseGroupConfig.model_fields}
    expected = {
        name: "needed" if field.is_required() else as_cell(field.get_default(call_default_factory=True))
        for name, field in fields.items()
    }
    assert listed == expected


def test_every_table_of_a_recipe_has_a_heading():
    headings = set(re.findall(r"^### `\[+([a-z_]+)\]+`", PAGE, re.MULTILINE))
    assert headings == RunConfig.model_fields.keys() | ColdStartConfig.model_fields.keys()
