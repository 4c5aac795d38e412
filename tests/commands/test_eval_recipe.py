"""`ibpo eval` on a recipe's problems, by a recipe's judge."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from tests import openai_server
from tests.commands.eval_server import serving

pytest.importorskip("openai")


def test_a_recipes_held_out_problems_judged_by_a_language_model(tmp_path):
    task = tmp_path / "task.jsonl"
    rows = [{"id": f"p{i}", "question": f"{i} + 1 =", "answer": i + 1} for i in range(20)]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def grade(body, number):
        mark = body["messages"][0]["content"].rpartition("met):\n")[2].removesuffix(" N")
        return ("I can't say." if "3 + 1 =" in body["messages"][1]["content"] else f"Yes.\n{mark} 1"), "stop"

    recipe = tmp_path / "mine.toml"
    with serving() as (url, _, _), openai_server.serving(grade) as log:
        recipe.write_text(
            f'[data]\npath = "{task}"\njudge = "llm"\nholdout = 19\n[judge]\nbase_url = "{log.url}"\nmodel = "grader"\n'
        )
        fixed = ["eval", "m", str(recipe), "--base-url", url, "--out", str(tmp_path / "run"), "--num-responses", "1"]
        result = CliRunner().invoke(app, fixed)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "responses.jsonl").open()]
    assert len(rows) == 19 and {row["reward"] for row in rows if row["problem_id"] not in ("p3", "p13")} == {1.0}
    unjudged = [row for row in rows if row["violations"]]
    assert unjudged and all(row["violations"] == ["unjudged"] and row["reward"] == 0 for row in unjudged)
    assert f"{len(unjudged)} responses got no grade from the judge" in " ".join(result.stderr.split())
