"""Reading a ledger: all candidates of a run as one table of (prompt, response group) cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.budget import parse_budget_entry
from ibpo.errors import IbpoError

METADATA = b"ibpo"
"""Key of the run's settings in the metadata of every shard."""
NEEDED = ("step", "problem_id", "level", "response_group", "reward", "utility", "tokens", "chosen")
PRICE = "price:"
"""What the column of a budget's price begins with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerTable:
    """P prompts of all steps, in their order, from K response groups; NaN where a group was not sampled."""

    names: list[str]
    """Of the response groups, the standard one first."""
    settings: dict[str, Any]
    """As the trainer wrote them; empty for ledgers of older versions."""
    step: np.ndarray
    """int [P]."""
    utility: np.ndarray
    """float [P, K]: the largest of the group's responses (utilities of groups are the same for all of them)."""
    reward: np.ndarray
    """float [P, K]: mean."""
    tokens: np.ndarray
    """float [P, K]: mean."""
    chosen_group: np.ndarray
    """int [P]: of the response that the run chose; -1 where it chose none."""
    price: Mapping[str, np.ndarray]
    """Key of a budget -> float [P], in that step; of the run's first one alone in ledgers of older versions."""
    columns: Mapping[str, np.ndarray]
    """Column -> text [P]: `level`, `problem_id` and what budgets were sliced by."""


def find_ledger(run: Path) -> Path:
    """The folder of a run's shards: the folder itself, its `ledger`, or the only ledger below it.

    Raises:
        IbpoError: for none, or several: names them.
    """
    if not run.exists():
        raise IbpoError(f"{run}: there is no such run; name its folder, e.g. runs/gsm8k_smoke")
    for place in (run, run / "ledger"):
        if place.is_dir() and any(place.glob("step-*.parquet")):
            return place
    below = sorted({shard.parent for shard in run.rglob("step-*.parquet")}) if run.is_dir() else []
    if len(below) == 1:
        return below[0]
    if not below:
        raise IbpoError(f"{run}: holds no ledger (step-*.parquet); train with ledger_dir, as `ibpo train` does")
    listed = ", ".join(str(place.parent) for place in below[:12])
    raise IbpoError(f"{run}: holds {len(below)} ledgers; name one of {listed}")


def read_ledger(directory: Path) -> LedgerTable:
    """All shards of a ledger.

    Raises:
        IbpoError: names the shard and what is wrong with it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = sorted(directory.glob("step-*.parquet"))
    tables: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    for shard in shards:
        try:
            table = pq.read_table(shard)
        except (pa.ArrowInvalid, OSError):
            raise IbpoError(f"{shard}: is no Parquet file; remove it, or resume the run") from None
        missing = [name for name in NEEDED if name not in table.column_names]
        if missing or not table.num_rows:
            raise IbpoError(f"{shard}: is no shard of a ledger: no column {', '.join(missing) or 'has rows'}")
        settings = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
        tables.append({name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names})
    if not all("prompt" in table for table in tables):
        _number_prompts(tables)
    first = np.cumsum([0, *(int(table["prompt"].max()) + 1 for table in tables)])
    prompt = np.concatenate([table["prompt"] + start for table, start in zip(tables, first, strict=False)])
    # A run that an older version began has fewer columns there.
    common = set.intersection(*(set(table) for table in tables)) - {"violations"}
    rows = {name: np.concatenate([table[name] for table in tables]) for name in sorted(common)}
    names = settings.get("response_groups") or _by_length(rows)
    number = {name: g for g, name in enumerate(names)}
    group = np.array([number.get(name, -1) for name in rows["response_group"]])
    num_prompts, known = int(first[-1]), group >= 0
    cell = prompt[known] * len(names) + group[known]
    size = num_prompts * len(names)
    count = np.bincount(cell, minlength=size)
    utility = np.full(size, -np.inf)
    np.maximum.at(utility, cell, rows["utility"][known].astype(float))
    with np.errstate(invalid="ignore"):
        reward, tokens = (
            np.bincount(cell, rows[name][known].astype(float), size) / count for name in ("reward", "tokens")
        )
    utility[count == 0] = np.nan
    chosen = np.full(num_prompts, -1)
    picked = rows["chosen"].astype(bool)
    chosen[prompt[picked]] = group[picked]
    head = np.unique(prompt, return_index=True)[1]
    slices = [name for name in rows if name in ("level", "problem_id") or _is_slice(settings, name)]
    return LedgerTable(
        names=list(names),
        settings=settings,
        step=rows["step"][head].astype(int),
        utility=utility.reshape(num_prompts, -1),
        reward=reward.reshape(num_prompts, -1),
        tokens=tokens.reshape(num_prompts, -1),
        chosen_group=chosen,
        price={key: rows[name][head].astype(float) for key, name in _prices(settings, rows).items()},
        columns={name: rows[name][head].astype(str) for name in slices},
    )


def _prices(settings: dict[str, Any], rows: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Budget -> its price's column."""
    if "price" in rows:
        return {next(iter(settings.get("budget", {})), "budget"): "price"}
    return {name.removeprefix(PRICE): name for name in rows if name.startswith(PRICE)}


def _is_slice(settings: dict[str, Any], column: str) -> bool:
    budgets = [parse_budget_entry(key, amount) for key, amount in settings.get("budget", {}).items()]
    return any(budget.scope is not None and budget.scope.column == column for budget in budgets)


def _by_length(rows: Mapping[str, np.ndarray]) -> list[str]:
    """Older ledgers do not say which group is the standard one: the shortest responses."""
    names = [name for name in dict.fromkeys(rows["response_group"].tolist()) if name]
    return sorted(names, key=lambda name: rows["tokens"][rows["response_group"] == name].mean())


def _number_prompts(tables: list[dict[str, Any]]) -> None:
    """Older ledgers do not number the prompts: siblings stand together, equally many for each prompt."""
    runs = [len(list(rows)) for table in tables for _, rows in groupby(table["problem_id"].tolist())]
    num_siblings = gcd(*runs)
    for table in tables:
        table["prompt"] = np.arange(len(table["step"])) // num_siblings
