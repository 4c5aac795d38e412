"""docs/reference/trainer.md lists every setting beside TRL's, every default that IBPO changes, and the presets."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from trl import GRPOConfig

from ibpo.training import RAFT, RFT, IBPOConfig

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "trainer.md").read_text(encoding="utf-8")
OF_TRL = {field.name: field.default for field in fields(GRPOConfig)}
OURS = {field.name: field.default for field in fields(IBPOConfig)}


def rows_below(first_line: str) -> list[list[str]]:
    """The cells of the table that begins with this line."""
    table = PAGE[PAGE.index(f"\n{first_line}\n") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


def as_listed(rows: list[list[str]]) -> dict[str, str]:
    """Name -> default, as the page writes them."""
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0].strip("`"): row[1].strip("`") for row in rows}


def test_every_setting_of_ours_is_listed_with_its_default():
    listed = as_listed(rows_below("| setting | default | unit | meaning |"))
    assert listed == {name: str(default) for name, default in OURS.items() if name not in OF_TRL}


def test_every_other_default_of_a_setting_of_trl_is_listed():
    listed = as_listed(rows_below("| setting | default here | why |"))
    assert listed == {name: str(OURS[name]) for name in OF_TRL if OURS[name] != OF_TRL[name]}


def test_what_is_refused_are_settings_of_trl():
    names = [name for row in rows_below("| setting | must be | why |") for name in re.findall(r"`(\w+)`", row[0])]
    assert len(names) >= 20 and sorted(names) == sorted(set(names) & OF_TRL.keys())


def test_presets_are_what_the_page_says():
    rows = {row[0].strip("`"): row[2] for row in rows_below("| | what is imitated | `[trl]` |")}
    listed: dict[str, Any] = tomllib.loads("\n".join(re.findall(r"`(\w+ = [^`]+)`", rows["RAFT"])))
    assert {**OURS, **listed} == {**OURS, **RAFT}
    more: dict[str, Any] = tomllib.loads("\n".join(re.findall(r"`(\w+ = [^`]+)`", rows["RFT"])))
    assert {**OURS, **listed, **more} == {**OURS, **RFT}
