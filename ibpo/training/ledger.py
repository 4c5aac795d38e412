"""The ledger: every candidate of every step, what it was worth, and whether it was chosen; one Parquet shard a step."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ibpo.training.ledger_table import METADATA, PRICE
from ibpo.training.lower_level import OF_RESPONSES
from ibpo.training.step_view import StepView


def ledger_settings(args: Any, names: Sequence[str]) -> dict[str, Any]:
    """What `ibpo replay` has to know besides the candidates; goes into the metadata of every shard."""
    price = args.price or ("batch" if args.utility in OF_RESPONSES else "running")
    return {
        "response_groups": list(names),
        "budget": dict(args.budget or {}),
        "utility": args.utility,
        "min_gain": args.min_gain,
        "window": args.window if price == "running" else 1,
    }


class Ledger:
    """Writes `step-000012.parquet` files; a shard is whole or absent, and a repeated step replaces its shard.

    A row per response: what it is (`problem_id`, `level`, `response_group`, `tokens`, `finish_reason`, `violations`),
    what it earned (`score` as the reward functions gave it, `reward` as the allocation saw it: 0 if truncated or
    violating), what it was worth (`margin` over the other groups' mean reward on its prompt, null where none was
    sampled; `utility`, which decided), `price:KEY` of each budget, `chosen`, and its weights in the update.
    """

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.settings = directory, settings

    def begin(self, step: int) -> None:
        """Remove the shards of this step and later ones: of another training, or of a future that a resume undoes."""
        for path in self.directory.glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) >= step:
                path.unlink()

    def append(self, step: int, view: StepView, weights: np.ndarray) -> None:
        """Record the candidates of one step; `weights` [R, 3]: of opening, body, anchor."""
        names, selection, rows = view.names, view.selection, view.rows
        columns = {
            "step": np.full(len(rows), step),
            "prompt": view.batch.prompt,
            "problem_id": [row["problem_id"] for row in rows],
            "level": [row["level"] for row in rows],
            "response_group": [names[row["response_group"]] if row["response_group"] >= 0 else "" for row in rows],
            "score": view.score,
            "reward": view.batch.reward,
            "margin": pa.array(view.margin, from_pandas=True),
            "utility": selection.utility,
            "tokens": [row["tokens"] for row in rows],
            "finish_reason": [row["finish_reason"] for row in rows],
            "violations": pa.array([row["violations"] for row in rows], pa.list_(pa.string())),
            **{
                f"{PRICE}{term.key}": np.full(len(rows), price)
                for term, price in zip(view.budgets, selection.price, strict=True)
            },
            "chosen": selection.chosen,
            "choice_weight": weights[:, 0],
            "body_weight": weights[:, 1],
            "anchor_weight": weights[:, 2],
        }
        for column in sorted({term.column for term in view.budgets} - {"", *columns}):
            columns[column] = [row["slices"][column] for row in rows]
        table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(self.settings).encode()})
        path = self.directory / f"step-{step:06d}.parquet"
        partial = path.with_suffix(".partial")
        pq.write_table(table, partial)
        os.replace(partial, path)
