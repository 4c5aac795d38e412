"""`ibpo eval` where the answers are programs: what is asked for, and that a right one in a fenced block scores 1."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.rewards import code
from ibpo.rewards.code import why_not_isolated
from tests.openai_server import serving
from tests.tasks.test_task import ROWS

pytest.importorskip("openai")
confined = pytest.mark.skipif(bool(why_not_isolated()), reason=f"no isolation here: {why_not_isolated()}")
RIGHT = {"humaneval": "def one() -> int:\n    return 1", "mbpp": "def double(x):\n    return 2 * x"}
WRONG = {"humaneval": "def one() -> int:\n    return 2", "mbpp": "def double(x):\n    return x"}
RECIPE = """
[model]
path = "m"
[data]
path = "x.jsonl"
[[response_group]]
name = "standard"
prefix = "Solution:"
answer = "{answer}"
[[response_group]]
name = "thinking_on"
prefix = "<think>"
answer = "code"
[budget]
thinking_on = 0.5
"""


def evaluate(name, tmp_path, answer, *more):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[name]) + "\n")
    with serving(answer) as log:
        fixed = ["eval", "m", name, "--set", f"data.path={path}", "--base-url", log.url, "--out", str(tmp_path / "run")]
        result = CliRunner().invoke(app, [*fixed, "--num-responses", "2", "--engine", "num_concurrent=1", *more])
    responses = tmp_path / "run" / "responses.jsonl"
    return result, [json.loads(line) for line in responses.open()] if responses.exists() else [], log


@confined
@pytest.mark.parametrize("group", ["", "direct", "thinking_on"])
@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_score_1_and_wrong_ones_0(name, group, tmp_path):
    opening = {"": "Let us 3 times see.", "direct": "Answer:", "thinking_on": "<think>\n```\nx\n```\nhm\n</think>"}[
        group
    ]

    def answer(body, number):
        program = (RIGHT if number % 2 else WRONG)[name]
        return f"{opening}\n```python\n{program}\n```\nIt takes 1 step, \\boxed{{1}}.", "stop"

    result, rows, log = evaluate(name, tmp_path, answer, *(["--response-group", group] if group else []))
    assert result.exit_code == 0, result.output
    assert sorted(row["reward"] for row in rows) == [0.0, 1.0]
    assert {row["answer"] for row in rows} == {RIGHT[name], WRONG[name]}
    asked = log.requests[0]["messages"][-1]["content"]
    assert "in one ```python block" in asked and "boxed" not in asked


@confined
def test_groups_that_give_no_program_are_refused_before_sampling(tmp_path):
    recipe = tmp_path / "recipe.toml"
    for answer, more, said in [
        ("boxed", ["--response-group", str(recipe)], "response_group.standard.answer: 'boxed' does not read programs"),
        ("code", ["--response-group", "debate"], "debate: compares boxed answers, and programs are none; take one of"),
        ("code", ["--also", "two-turns"], "--also two-turns: it asks for a boxed answer"),
    ]:
        recipe.write_text(RECIPE.format(answer=answer))
        result, _, log = evaluate("mbpp", tmp_path, lambda body, number: ("", "stop"), *more)
        assert result.exit_code == 2 and said in result.stderr and log.requests == [], result.output
    result, rows, _ = evaluate(
        "mbpp",
        tmp_path,
        lambda body, n: (f"<think>\nIt doubles.\n</think>\n```python\n{RIGHT['mbpp']}", "stop"),
        "--response-group",
        str(recipe),
    )
    assert result.exit_code == 0 and [row["reward"] for row in rows] == [1.0] * 4, result.output


def test_where_programs_cannot_be_confined_it_is_said_before_sampling(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "why_not_isolated", lambda: "no Landlock here")
    result, _, log = evaluate("mbpp", tmp_path, lambda body, number: (f"```\n{RIGHT['mbpp']}\n```", "stop"))
    assert result.exit_code == 2 and "no Landlock here" in result.stderr and log.requests == []
    assert "--set judge.isolation=false" in result.stderr
    result, rows, _ = evaluate(
        "mbpp", tmp_path, lambda body, number: (f"```\n{RIGHT['mbpp']}\n```", "stop"), "--set", "judge.isolation=false"
    )
    assert result.exit_code == 0 and [row["reward"] for row in rows] == [1.0, 1.0], result.output


def test_an_own_file_without_tests_is_refused_before_sampling(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    arguments = ["eval", "m", str(tmp_path / "own.jsonl"), "--set", "data.judge=code", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*arguments, "--base-url", "http://127.0.0.1:9/v1"])
    assert (
        result.exit_code == 2 and "own.jsonl: names no column with tests, which judging programs needs" in result.stderr
    )
