"""`ibpo collect` in front of `transformers serve`: a server and a language model that nobody wrote for it."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.tasks import digit_sums, distinct
from tests.model_servers import serving

pytestmark = pytest.mark.slow


def test_a_real_model_behind_a_real_server(tmp_path):
    """It answers short sums at once and long ones by steps, so choosing pays at half of the way."""
    problems = distinct(digit_sums, "test", 200, seed=0)
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    rows = [{"id": p.problem_id, "prompt": p.prompt, "gold": p.answer, "level": p.level} for p in problems]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(tmp_path) as (model, url):
        arguments = [
            *("collect", log, "--model", model, "--base-url", url, "--out", out, "--by", "thinking", "--show", "level"),
            *(
                "--max-tokens",
                40,
                "--prices",
                "input=1000,output=10000",
                "--limit",
                "money=60",
                "--set",
                "data.judge=exact",
            ),
            *("--engine", "num_concurrent=4,timeout_seconds=300", "--temperature", 1.0),
        ]
        result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    said = json.loads((out / "summary.json").read_text())["collect"]
    answers = [json.loads(line) for line in (out / "responses.jsonl").open()]
    by_group = {group: [row for row in answers if row["response_group"] == group] for group in ("none", "thinking")}
    right = {group: sum(row["reward"] for row in rows) / len(rows) for group, rows in by_group.items()}
    tokens = {group: sum(row["tokens"] for row in rows) / len(rows) for group, rows in by_group.items()}
    assert right["thinking"] > right["none"] > 0.2 and tokens["thinking"] > 2 * tokens["none"]
    assert said["money"] <= 60 and said["calls"] == len(answers) and not said["charged_in_full"]
    assert min(Counter(row["problem_id"] for row in answers).values()) >= 4
    assert said["looks"][0]["gain"] > 0 and "caution" not in result.stderr
    assert any("</think>" in row["completion"] for row in by_group["thinking"])
    page = CliRunner().invoke(app, ["report", str(out), "--num-splits", "2"])
    assert page.exit_code == 0 and (out / "report.html").exists(), page.output
