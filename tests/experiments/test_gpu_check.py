"""`benchmarks/gpu_check.py` with next to nothing of each phase, on a tiny random llama."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.test_demo_real import write_tiny_model

pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]
PHASES = ["device", "sampling", "vllm", "trainers", "cold-start", "updates", "budget"]


def check(model, out, *more):
    command = [sys.executable, "-m", "benchmarks.gpu_check", model, "--out", out, "--tiny", *more]
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_phase_leaves_its_figures_and_a_broken_one_the_others(tmp_path):
    model, out = write_tiny_model(tmp_path / "model"), tmp_path / "out"
    done = check(model, out, "--seconds", "1100")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "results.jsonl").open()]
    assert {row["phase"]: row["ended"] for row in rows if "ended" in row} == dict.fromkeys(PHASES, "done"), done.stdout
    figures = {phase: [row for row in rows if row["phase"] == phase and "ended" not in row] for phase in PHASES}
    assert [row["at_once"] for row in figures["sampling"]] == [2, 4]
    assert [(row["trainer"], row["part"]) for row in figures["trainers"]] == [
        (trainer, part) for trainer in ("GRPOTrainer", "IBPOTrainer") for part in ("sampling", "update", "step")
    ]
    assert [row["update"] for row in figures["updates"]] == [1, 2]
    assert {row["how"] for row in figures["budget"] if row["policy"] == "ibpo"} == {"standard", "extended", "sampled"}

    # The policy is lost: what was made of it is made again, nothing else; a phase that fails says so and ends.
    (out / "policy").rename(out / "lost")
    kept = [row for row in rows if row["phase"] != "budget"]
    (out / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    again = check(model, out)
    rows = [json.loads(line) for line in (out / "results.jsonl").open()]
    assert rows[: len(kept)] == kept
    assert rows[-1]["ended"] == "failed with 1, see budget.log" and "is there already" in again.stdout
    assert {row["policy"] for row in rows if row["phase"] == "budget" and "policy" in row} == {"cold start"}
    assert "failed with 1" in (out / "results.md").read_text()
