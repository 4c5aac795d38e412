"""The ledger: every candidate of every step, what it was worth, and whether it was chosen; one Parquet shard a step."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


class Ledger:
    """Writes `step-000012.parquet` files; a shard is whole or absent, and a repeated step replaces its shard."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory

    def append(
        self,
        step: int,
        rows: list[dict],
        group_names: list[str],
        reward: np.ndarray,
        utility: np.ndarray,
        chosen: np.ndarray,
        weights: np.ndarray,
        price: float,
    ) -> None:
        """Record the candidates of one step; `weights` [R, 3]: of opening, body, anchor."""
        table = pa.table(
            {
                "step": np.full(len(rows), step),
                "problem_id": [row["problem_id"] for row in rows],
                "level": [row["level"] for row in rows],
                "response_group": [
                    group_names[row["response_group"]] if row["response_group"] >= 0 else "" for row in rows
                ],
                "reward": reward,
                "utility": utility,
                "tokens": [row["tokens"] for row in rows],
                "finish_reason": [row["finish_reason"] for row in rows],
                "price": np.full(len(rows), price),
                "chosen": chosen,
                "choice_weight": weights[:, 0],
                "body_weight": weights[:, 1],
                "anchor_weight": weights[:, 2],
            }
        )
        path = self.directory / f"step-{step:06d}.parquet"
        partial = path.with_suffix(".partial")
        pq.write_table(table, partial)
        os.replace(partial, path)
