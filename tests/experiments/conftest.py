"""Responses to validation problems as jobs leave them, with known rates."""

from __future__ import annotations

import pytest


@pytest.fixture
def build_responses():
    """Standard right on half of the problems, extended on all; of two candidates one is cheap, the other right."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(context, policy, how, right, tokens, group):
        path = context.responses(policy, how, split="validation")
        path.parent.mkdir(parents=True, exist_ok=True)
        num = 20
        columns = {
            "problem_id": [f"p{i:02d}" for i in range(num)],
            "level": ["2"] * num,
            "sample": [0] * num,
            "response_group": [group] * num,
            "reward": [float(i < right * num) for i in range(num)],
            "tokens": [tokens] * num,
            "finish_reason": ["stop"] * num,
        }
        parquet.write_table(pa.table(columns), path)

    def build(context):
        write(context, "cold_start", "standard", 0.5, 10, "standard")
        write(context, "cold_start", "extended", 1.0, 110, "extended")
        write(context, "mine~x-1", "sampled", 0.7, 20, "standard")
        write(context, "mine~x-2", "sampled", 0.9, 110, "extended")

    return build
