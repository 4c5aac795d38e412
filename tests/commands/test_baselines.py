"""A whole run of a few baselines, too small to say anything: files, keys, page, and a rerun that repeats nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.test_demo import ROW

ROOT = Path(__file__).parent.parent.parent
CHOSEN = ("adaptive-self-consistency", "oracle-by-problem", "solve-then-learn", "sv-sft")


def baselines(runs):
    arguments = [word for name in CHOSEN for word in ("--baseline", name)]
    command = [sys.executable, "-m", "ibpo", "baselines", "--quick", "--runs", str(runs), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quick_run_and_its_rerun(tmp_path):
    pytest.importorskip("trl")
    pytest.importorskip("sklearn")
    first = baselines(tmp_path)
    assert first.returncode == 0, first.stderr
    directory = tmp_path / "thinking-quick-baselines"
    made = json.loads((directory / "baselines.json").read_text())
    assert all(set(row) == ROW and row["num_problems"] == 200 for row in made["rows"])
    methods = {row["method"] for row in made["rows"]}
    assert {"SV-SFT", "solve-then-learn", "oracle by problem, held out", "oracle by level", "random mix"} <= methods
    assert "adaptive self-consistency (pretrained), posterior 0.95" in methods and "GRPO" not in methods
    tuned = {row["policy"]: row for row in made["tuning"]["thinking"] if row["chosen"]}
    assert set(tuned) == {"asv-sft-1", "solve-then-learn"}
    assert all(area["area"]["low"] <= area["area"]["value"] <= area["area"]["high"] for area in made["areas"])
    html = (directory / "baselines.html").read_text()
    assert "Tuned, thinking: asv-sft-1" in html and str(directory / "baselines.html") in first.stdout.replace("\n", "")
    responses = {path: path.stat().st_mtime_ns for path in directory.rglob("*.parquet")}
    assert baselines(tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*.parquet")} == responses
