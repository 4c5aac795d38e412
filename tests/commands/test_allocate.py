"""The command, end to end on small logs."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from ibpo.commands.allocate import allocate_command

app = typer.Typer()
app.command("allocate")(allocate_command)


def run(*arguments):
    return CliRunner().invoke(app, [str(x) for x in arguments])


@pytest.fixture
def log(tmp_path):
    """20 problems, half easy; `low` is right on easy ones only, `high` on all."""
    return write_log(tmp_path / "log.jsonl", num_responses=4)


def write_log(path, num_responses, skip=()):
    rows = [
        {"problem_id": f'p"{p}', "effort": effort, "correct": int(effort == "high" or p % 2), "tokens": tokens + p + s}
        for p in range(20)
        for effort, tokens in (("low", 100), ("high", 1000))
        for s in range(num_responses)
        if (p, effort) not in skip
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_held_out_table_and_files(log, tmp_path):
    out = tmp_path / "new" / "folder"
    result = run(log, "--budget", "tokens=600", "--budget", "high=25%", "--num-splits", 3, "--out", out)
    assert result.exit_code == 0, result.output
    assert "always high" in result.stdout and "tokens=600" in result.stdout and "high=25%" in result.stdout
    assert "response group: column 'effort'" in result.stderr
    choices = [json.loads(line) for line in (out / "choices.jsonl").read_text().splitlines()]
    assert len(choices) == 40
    assert {c["response_group"] for c in choices if c["budget"] == "tokens=600" and int(c["problem"][2:]) % 2} == {
        "low"
    }
    summary = json.loads((out / "summary.json").read_text())
    tokens, high = summary["parts"][0]["budgets"]
    assert tokens["share"] == {"high": 0.5, "low": 0.5}
    assert tokens["held_out"]["reward"] == 1 and tokens["held_out"]["gain"] > 0.2
    assert high["spent"] == 0.25 and high["rule"] == "selection" and high["price"] == 1
    assert sorted(path.name for path in out.iterdir()) == ["choices.jsonl", "summary.json"]


def test_default_budgets_are_on_the_way_from_cheapest_to_dearest(log, tmp_path):
    assert run(log, "--num-splits", 2, "--out", tmp_path).exit_code == 0
    part = json.loads((tmp_path / "summary.json").read_text())["parts"][0]
    low, high = (part["always"][name]["mean_cost"] for name in ("low", "high"))
    expected = [low + way * (high - low) for way in (0.25, 0.5, 0.75)]
    np.testing.assert_allclose([budget["allowed"] for budget in part["budgets"]], expected)


def test_single_responses_are_said_to_be_in_sample(tmp_path):
    log = write_log(tmp_path / "log.jsonl", num_responses=1)
    result = run(log)
    assert result.exit_code == 0 and "Not held out" in result.stdout and "no held-out values" in result.stderr
    result = run(log, "--holdout")
    assert result.exit_code == 2 and "problems without 2 responses of every response group: all 20" in result.stderr


def test_incomplete_problems_are_left_out_aloud(tmp_path):
    log = write_log(tmp_path / "log.jsonl", num_responses=2, skip={(3, "low")})
    result = run(log, "--no-holdout")
    assert result.exit_code == 0 and "19 problems" in result.stdout
    assert "problems without a response of every response group: 1 of 20 left out" in result.stderr


def test_undefined_numbers_are_null(tmp_path):
    log = write_log(tmp_path / "log.jsonl", num_responses=2)
    log.write_text(log.read_text().replace('"correct": 1', '"correct": 0'))
    assert run(log, "--num-splits", 2, "--out", tmp_path).exit_code == 0
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text and json.loads(text)["parts"][0]["budgets"][0]["held_out"]["kept"] is None


def test_parts_are_solved_apart(tmp_path):
    rows = [
        {"id": p, "group": group, "reward": int(group == best), "cost": 1 + (group == "b"), "tenant": tenant}
        for tenant, best in (("x", "a"), ("y", "b"))
        for p in range(3)
        for group in "ab"
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(log, "--by", "tenant", "--budget", "cost=2", "--out", tmp_path)
    assert result.exit_code == 0 and "tenant = x" in result.stdout and "tenant = y" in result.stdout
    parts = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert [part["budgets"][0]["share"] for part in parts] == [{"a": 1, "b": 0}, {"a": 0, "b": 1}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "2000"], "--budget 2000: needs NAME=NUMBER"),
        (["--budget", "tokens=-3"], "--budget tokens=-3: needs NAME=NUMBER"),
        (["--budget", "tokens=1/0"], "needs NAME=NUMBER"),
        (["--budget", "medium=30%"], "no response group 'medium'; name tokens or one of high, low"),
        (["--budget", "high=30"], "a share is at most 1; did you mean high=30%"),
        (["--budget", "tokens=50"], "--budget tokens=50: budget 0: a mean cost of 50 per problem cannot be kept"),
        (["--reward", "score"], "no column 'score'; name one of"),
        (["--response-group", "tokens"], "problems without a response of every response group"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(log, arguments, message):
    result = run(log, *arguments)
    assert result.exit_code == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last and "Traceback" not in result.output


def test_unwritable_out(log, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(log, "--no-holdout", "--out", tmp_path / "file" / "folder")
    assert result.exit_code == 2 and "cannot be written" in result.stderr
