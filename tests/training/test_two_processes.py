"""Two real processes (gloo) do what one does: the same allocation on both ranks, and the same step."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ibpo.training.reference_model import frozen_copy
from tests.training.closed_form import Replay, closed_form_gradient, flat, relative_error
from tests.training.ranks import evaluation_metrics
from tests.training.tiny import build_trainer, disturb_reference_model, with_lora

ROOT = Path(__file__).parent.parent.parent
CASES = {
    # 2 ranks x 16 responses of 8 prompts; "split" cuts a prompt in two, its siblings on both ranks.
    "full": {"per_device_train_batch_size": 16, "kl_share": 0.25},
    "parts": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "kl_share": 0.25},
    "split": {
        "per_device_train_batch_size": 6,
        "num_generations": 4,
        "gradient_accumulation_steps": 1,
        "kl_share": 0.0,
    },
    "lora": {"per_device_train_batch_size": 16, "kl_share": 0.25, "lora": True},
}


BUDGET = {"extended": 0.25, "tokens": 30.0, "extended@level=2": 0.5}
EVALUATIONS = {
    # 2 ranks x 8 responses; "uneven" and "one row" end in a batch that is not full, "split prompts" cuts prompts.
    "even": {"eval_rows": 16, "num_generations_eval": 2, "per_device_eval_batch_size": 8, "budget": BUDGET},
    "uneven": {"eval_rows": 11, "num_generations_eval": 2, "per_device_eval_batch_size": 8, "budget": BUDGET},
    "one row": {"eval_rows": 9, "num_generations_eval": 1, "per_device_eval_batch_size": 4, "budget": BUDGET},
    "split prompts": {"eval_rows": 8, "num_generations_eval": 4, "per_device_eval_batch_size": 6, "budget": BUDGET},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What both ranks wrote, for all cases: starting two processes takes longer than all their steps."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `accelerate launch --cpu --num_processes 2` would silently run one process.
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]
    command += ["--master_port", str(port), str(ROOT / "tests" / "training" / "ranks.py"), str(folder)]
    done = subprocess.run(
        [*command, json.dumps(CASES | EVALUATIONS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1000,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_take_the_step_of_one_process(folder, tmp_path, name):
    ranks = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]
    arrays = [dict(np.load(folder / f"{name}-{rank}.npz")) for rank in range(2)]
    assert [rank["num_ranks"] for rank in ranks] == [2, 2]
    for key in ("weights", "chosen", "moved"):
        assert np.array_equal(arrays[0][key], arrays[1][key]), key
    prompts, completions = (ranks[0][key][0] + ranks[1][key][0] for key in ("prompts", "completions"))
    assert len(arrays[0]["weights"][0]) == len(completions)
    assert len(arrays[0]["chosen"][0]) == len(completions) // 4  # the prompts of both ranks

    options = {**CASES[name], "per_device_train_batch_size": len(completions), "gradient_accumulation_steps": 1}
    model = with_lora(torch.float64) if options.pop("lora", False) else None
    one: Any = build_trainer(tmp_path / "one", cls=Replay, model=model, dtype=torch.float64, **options)
    disturb_reference_model(one)
    one.recorded = completions
    before = frozen_copy(one.model)
    for old, new in zip(before.parameters(), one.model.parameters(), strict=True):
        old.requires_grad_(new.requires_grad)
    start = flat(p for p in one.model.parameters() if p.requires_grad)
    one.train()
    assert one.seen[0][0] == prompts
    assert np.array_equal(one.seen[0][2], arrays[0]["weights"][0])
    assert np.array_equal(one.selections[0].assigned_group, arrays[0]["chosen"][0])
    alone = start - flat(p for p in one.model.parameters() if p.requires_grad)
    together = torch.tensor(arrays[0]["moved"])
    assert relative_error(together, alone) < 1e-5
    batch = (prompts, completions, arrays[0]["weights"][0])
    expected = closed_form_gradient(before, one.reference_model or before, [batch], one.groups.prefix_ids)
    assert relative_error(together, expected) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", EVALUATIONS)
def test_two_ranks_evaluate_as_one_process(folder, tmp_path, name):
    """Each prompt counts once, whichever rank it goes to: the last batch is filled up with the first prompts again."""
    ranks = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]
    assert [number for number, _ in ranks] == [2, 2]
    options: dict[str, Any] = dict(EVALUATIONS[name])
    options["per_device_eval_batch_size"] *= 2
    alone = evaluation_metrics(tmp_path / "one", options)
    keys = {f"eval_ibpo/{kind}/{key}" for kind in ("spent", "allowed", "price") for key in BUDGET}
    keys |= {f"eval_ibpo/{kind}/{group}" for kind in ("share", "reward") for group in ("standard", "extended")}
    assert set(alone) == keys | {"eval_ibpo/oracle_gap"}
    assert 0 < alone["eval_ibpo/share/extended"] < 1 and alone["eval_ibpo/reward/extended"] > 0
    for _, found in ranks:
        assert found == pytest.approx(alone, rel=1e-5, abs=1e-7)
