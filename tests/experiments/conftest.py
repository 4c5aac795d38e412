"""Responses to validation problems as jobs leave them, with known rates."""

from __future__ import annotations

import pytest

from ibpo.evaluation.responses import write_table


@pytest.fixture
def build_responses():
    """Standard right on half of the problems, extended on all; of two candidates one is cheap, the other right."""

    def write(context, policy, how, right, tokens, group):
        path = context.responses(policy, how, split="validation")
        row = {"level": "2", "number": 0, "response_group": group, "tokens": tokens, "finish_reason": "stop"}
        num = 20
        write_table(path, [row | {"problem_id": f"p{i:02d}", "reward": float(i < right * num)} for i in range(num)])

    def build(context):
        write(context, "cold_start", "standard", 0.5, 10, "standard")
        write(context, "cold_start", "extended", 1.0, 110, "extended")
        write(context, "mine~x-1", "sampled", 0.7, 20, "standard")
        write(context, "mine~x-2", "sampled", 0.9, 110, "extended")

    return build
