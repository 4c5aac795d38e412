"""A whole run of every baseline, too small to say anything: files, keys, page, and a rerun that repeats nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.test_demo import ROW

ROOT = Path(__file__).parent.parent.parent
FIGURES = {"above_random_mix", "gain_ratio_cold_start", "gain_ratio_pretrained", "oracle_share"}
EVERY = {
    *("standard only", "extended only", "random mix", "oracle by level", "oracle by problem, held out"),
    *("self-consistency (cold start) maj@8", "self-consistency (IBPO) maj@8", "self-consistency (RAFT) maj@8"),
    *("adaptive self-consistency (cold start), consensus 2", "adaptive self-consistency (pretrained), posterior 0.95"),
    *("SV-SFT", "ASV-SFT-0.5", "ASV-SFT-1", "RAFT without budget", "GRPO"),
    *("GRPO, length penalty 0.1", "GRPO, length penalty 0.4", "GRPO, length penalty 1"),
    *("Thinkless-like, gap 0.5", "AdaptThink-like, bonus 0.05", "AdaptThink-like, bonus 0.3"),
    *("self-correction by prompting", "SCoRe, two turns", "solve-then-learn", "IBPO sampled", "IBPO calibrated"),
}


def baselines(runs):
    command = [sys.executable, "-m", "experiments.baselines", "--quick", "--runs", str(runs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_baseline_runs_to_its_end_and_a_rerun_repeats_nothing(tmp_path):
    pytest.importorskip("trl")
    pytest.importorskip("sklearn")
    first = baselines(tmp_path)
    assert first.returncode == 0, first.stderr
    directory = tmp_path / "thinking-quick-baselines"
    made = json.loads((directory / "baselines.json").read_text())
    rows = {(row["method"], row["budget"]): row for row in made["rows"]}
    assert {method for method, _ in rows} >= EVERY
    for row in made["rows"]:
        assert set(row) == ROW | FIGURES | {"num_updates", "num_training_responses"} and row["num_problems"] == 200
        ends = [row[name] for name in FIGURES if row[name] and None not in row[name].values()]
        assert all(found["low"] <= found["high"] for found in ends)
    assert rows["standard only", None]["above_random_mix"]["value"] == pytest.approx(0, abs=1e-9)
    for method, got in (
        ("GRPO", (2, 512)),
        ("SCoRe, two turns", (2, 1024 + 1600)),
        ("SV-SFT", (None, 1600)),
        ("standard only", (0, 0)),
    ):
        row = rows[method, None]
        assert (row["num_updates"], row["num_training_responses"]) == got
    assert rows["IBPO sampled", 0.5]["num_training_responses"] == 2 * 128
    assert rows["RAFT without budget", None]["num_training_responses"] == 2 * 128
    tuned = {row["policy"] for row in made["tuning"]["thinking"] if row["chosen"]}
    assert tuned == {"asv-sft-1", "grpo", "grpo-length-0.4", "thinkless-0.5", "adaptthink-0.05", "score",
                     "solve-then-learn"}  # fmt: skip
    assert all(area["area"]["low"] <= area["area"]["value"] <= area["area"]["high"] for area in made["areas"])
    html, table = ((directory / name).read_text() for name in ("baselines.html", "table.md"))
    assert "Tuned, thinking: asv-sft-1" in html and "Trained, thinking: GRPO" in html and "baselines --quick" in html
    assert str(directory / "baselines.html") in first.stdout.replace("\n", "")
    assert all(f"| {method} |" in table for method in EVERY) and "sampled in training" in table
    responses = {path: path.stat().st_mtime_ns for path in directory.rglob("*.jsonl.gz")}
    assert baselines(tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*.jsonl.gz")} == responses
    assert len((directory / "commands.jsonl").read_text().splitlines()) == 2
