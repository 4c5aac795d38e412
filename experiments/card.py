"""The model card of an embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ibpo.demo.experiment import Experiment

STAGES = {
    "pretrained": "after pretraining, before the cold start",
    "cold_start": "after the cold start: it knows both response groups, and not yet where each one pays",
}


def write_card(directory: Path, experiment: Experiment, stage: str, num_parameters: int, gate: dict[str, Any]) -> None:
    """Write `README.md` beside the weights: what it is, how it was made, what is designed in, what it is not for."""
    standard, extended = experiment.response_groups
    measured = "".join(f"- {name}: {round(value, 4)}\n" for name, value in gate.items())
    levels = ", ".join(f"{level} ({share:.0%})" for level, share in experiment.task.MIX.items())
    (directory / "README.md").write_text(
        f"""---
license: apache-2.0
library_name: transformers
tags: [toy-model, ibpo]
---
# ibpo embedded model: {experiment.name}, {stage.replace("_", " ")}

A Llama of {num_parameters:,} parameters, {STAGES[stage]}. It exists to show inference-budget-constrained policy
optimisation on two CPU cores in minutes, and is good for nothing else.

## The task
{experiment.asked}

- standard response opens with `{standard.prefix}`, extended response with `{extended.prefix}`
- levels of the problems: {levels}

## What is designed into the data
{experiment.designed_in}

## How it was made
From nothing, on a corpus that the package draws itself, with `trl.SFTTrainer`:

    ibpo demo --experiment {experiment.name} --from-scratch

Stages: pretraining {json.dumps(_stage(experiment.pretraining))}; practice {json.dumps(_stage(experiment.practice))};
cold start {json.dumps(_stage(experiment.cold_start))}; polish {json.dumps(_stage(experiment.polish))}.
Problems of the test split (half of all, by a hash of the problem itself) are in none of them.

## Gate of the cold start, on 2,000 problems of the train split
{measured}""",
        encoding="utf-8",
    )


def _stage(stage: Any) -> dict[str, Any] | None:
    if stage is None:
        return None
    return {"num_pairs": stage.num_pairs, "learning_rate": stage.learning_rate, "batch_size": stage.batch_size}
