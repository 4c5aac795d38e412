"""The command, end to end on small logs."""

import csv
import gzip
import io
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.data import LogColumns, identifier_of
from ibpo.evaluation import answer_questions, questions, read_parts, verdict
from tests.killing import KILL, TERM, moment, running, send, wait_until


def run(*arguments):
    return CliRunner().invoke(app, ["allocate", *map(str, arguments)])


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


def test_budgets_hold_together_and_files(log, tmp_path):
    out = tmp_path / "new" / "folder"
    result = run(log, "--budget", "tokens=600", "--budget", "high=25%", "--num-splits", 3, "--out", out)
    assert result.exit_code == 0, result.output
    for text in ("always high", "as logged", "no budget", "tokens=600, high=25%", "half of it", "twice it"):
        assert text in result.stdout
    assert "response group: column 'effort'" in result.stderr
    names = {path.name for path in out.iterdir()} - {".lock"}
    assert names == {"choices.jsonl", "rows.jsonl", "summary.json", "frontier.png"}
    part = json.loads((out / "summary.json").read_text())["parts"][0]
    half, asked, twice = part["budgets"]
    assert asked["share"] == {"high": 0.25, "low": 0.75} and asked["rule"] == "general"
    assert [limit["spent"] for limit in asked["limits"]][1] == 0.25 and asked["limits"][1]["price"] == pytest.approx(1)
    assert twice["share"]["high"] == 0.5 and twice["held_out"]["reward"] == 1 and twice["held_out"]["gain"] > 0.2
    assert half["share"]["high"] == pytest.approx(0.1, abs=0.03)
    choices = [json.loads(line) for line in (out / "choices.jsonl").read_text().splitlines()]
    assert len(choices) == 60
    easy = {c["response_group"] for c in choices if c["budget"] == "twice it" and int(c["problem"][2:]) % 2}
    assert easy == {"low"}
    mine = {(c["problem"], c["response_group"]) for c in choices if c["budget"] == "tokens=600, high=25%"}
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 20 * 4 and {(row["problem"], row["response_group"]) for row in rows} == mine


def test_every_part_has_a_picture(log, tmp_path):
    """Names that a disk cannot tell apart, once they are file names, are numbered."""
    table = tmp_path / "parts.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    parts = ["a/b", "a_b", "A_B"]
    table.write_text("".join(json.dumps({**row, "task": part}) + "\n" for part in parts for row in rows))
    result = run(table, "--by", "task", "--budget", "0.5x", "--num-splits", 2, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {"frontier_a_b.png", "frontier_a_b_2.png", "frontier_A_B_3.png"} or names == {
        "frontier_A_B.png", "frontier_a_b_2.png", "frontier_a_b_3.png"
    }  # fmt: skip


def test_half_that_cannot_be_kept_says_so_and_a_floor_holds(log, tmp_path):
    result = run(log, "--budget", "tokens=150", "--num-splits", 2, "--out", tmp_path)
    assert result.exit_code == 0 and "not possible: tokens=150 needs at least" in result.stdout
    assert "infeasible" in json.loads((tmp_path / "summary.json").read_text())["parts"][0]["budgets"][0]
    result = run(log, "--budget", "high>=60%", "--num-splits", 2, "--out", tmp_path)
    lines = json.loads((tmp_path / "summary.json").read_text())["parts"][0]["budgets"]
    assert result.exit_code == 0 and len(lines) == 1 and lines[0]["share"]["high"] == 0.6


def test_who_gets_what_by_a_column(tmp_path):
    log = write_log(tmp_path / "log.jsonl", num_responses=2)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text(
        "".join(json.dumps({**r, "level": "even" if int(r["problem_id"][2:]) % 2 == 0 else "odd"}) + "\n" for r in rows)
    )
    result = run(log, "--show", "level", "--budget", "high=50%", "--num-splits", "0")
    assert result.exit_code == 0, result.output
    table = result.stdout[result.stdout.index("who gets what under high=50%, by level") :].replace("│", " ")
    rows = {words[0]: words[1:] for words in map(str.split, table.splitlines()) if words}
    assert rows["even"] == ["10", "0.00", "1.00"] and rows["odd"] == ["10", "1.00", "0.00"]


def test_bad_rows_are_named_and_counted(tmp_path):
    log = write_log(tmp_path / "log.jsonl", num_responses=2)
    lines = log.read_text().splitlines()
    lines[3:3] = ["{broken", json.dumps({"problem_id": "x", "effort": "low", "correct": 1, "tokens": None})]
    log.write_text("\n".join(lines) + "\n")
    for stream in ((), ("--stream",)):
        result = run(log, *stream)
        assert result.exit_code == 2 and "log.jsonl, line 4: not JSON" in result.stderr
        result = run(log, *stream, "--on-error", "skip", "--num-splits", "0", "--out", tmp_path / "out")
        assert result.exit_code == 0 and "2 bad rows left out, the first: " in result.stderr
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["bad_rows"] == 2


@pytest.mark.parametrize("kind", ["jsonl", "csv.gz", "parquet", "parquet of numbers"])
def test_streamed_equals_in_memory(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("ibpo.data.response_log.BLOCK", 30)
    log = write_log(tmp_path / "log.jsonl", num_responses=3, skip={(3, "low")})
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    np.random.default_rng(0).shuffle(rows)
    if kind == "parquet of numbers":
        rows = [{**row, "problem_id": 7 * int(row["problem_id"][2:])} for row in rows]
    path = tmp_path / f"copy.{kind.split()[0]}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv.gz":
        with gzip.open(path, "wt", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    answers = []
    for stream in ((), ("--stream",)):
        out = tmp_path / f"out{len(stream)}"
        result = run(path, *stream, "--num-splits", "0", "--budget", "high=30%", "--out", out)
        assert result.exit_code == 0, result.output
        assert "1 of 20 left out" in result.stderr
        part = json.loads((out / "summary.json").read_text())["parts"][0]
        assert part["num_responses"] == 19 * 6
        chosen = sorted(line for line in (out / "rows.jsonl").read_text().splitlines())
        answers.append((chosen, [x["share"] for x in part["budgets"]], [x["objective"] for x in part["budgets"]]))
    assert answers[0][1:] == answers[1][1:]
    assert answers[0][0] == answers[1][0]


STREAMED = (
    "nothing is held out of a streamed log; leave out --stream, with a sample of its problems if it is too large."
)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_streamed_parts_and_shown_column_equal_in_memory(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("ibpo.data.response_log.BLOCK", 70)
    log = write_log(tmp_path / "log.jsonl", num_responses=2, skip={(4, "high")})
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for row in rows:
        p = int(row["problem_id"][2:])
        row |= {"tenant": "x" if p < 12 else "y", "level": "odd" if p % 2 else "even", "model": f"m{p % 2}"}
    np.random.default_rng(1).shuffle(rows)
    path = tmp_path / f"copy.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    answers = []
    for stream in ((), ("--stream",)):
        out = tmp_path / f"out{len(stream)}"
        options = ["--num-splits", "0", "--budget", "high=30%", "--by", "tenant", "--show", "level", "--out", out]
        result = run(path, *stream, *options)
        assert result.exit_code == 0, result.output
        assert "x: problems without a response of every response group: 1 of 12 left out" in result.stderr
        files = [sorted((out / f"{name}.jsonl").read_text().splitlines()) for name in ("rows", "choices")]
        # Why nothing was held out is another reason; all else is the same.
        told, parts = (
            " ".join(text.split()).replace(STREAMED, "nothing was held out.")
            for text in (result.stdout, (out / "summary.json").read_text())
        )
        answers.append((told, json.loads(parts)["parts"], *files))
    assert answers[0][1] == answers[1][1] and answers[0] == answers[1]
    assert "who gets what under high=30%, by level" in answers[0][0] and len(answers[0][2]) == 2 * 19
    result = run(path, "--stream")
    assert result.exit_code == 2 and "'model' holds 2 models; give --by model" in result.stderr


def test_streaming_says_what_it_cannot_do(log):
    result = run(log, "--stream", "--num-splits", "9")
    assert result.exit_code == 2 and "--num-splits: halving takes all responses" in result.stderr


def test_default_budgets_are_on_the_way_from_cheapest_to_most_expensive(log, tmp_path):
    assert run(log, "--num-splits", 2, "--out", tmp_path).exit_code == 0
    part = json.loads((tmp_path / "summary.json").read_text())["parts"][0]
    low, high = (part["always"][name]["mean_cost"] for name in ("low", "high"))
    expected = [low + way * (high - low) for way in (0.25, 0.5, 0.75)]
    half, *others = part["budgets"]
    np.testing.assert_allclose([budget["limits"][0]["at_most"] for budget in others], expected)
    assert half["budget"] == "tokens=0.5x" and half["limits"][0]["at_most"] == part["as_logged"]["mean_cost"] / 2


def test_half_of_today_is_answered_unasked_and_no_error_where_it_cannot_be_kept(tmp_path):
    rows = [{"id": p, "effort": e, "correct": p % 2, "tokens": n} for p in range(6) for e, n in (("a", 90), ("b", 100))]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in 2 * rows))
    result = run(path)
    assert result.exit_code == 0 and "tokens=0.5x: not possible: needs at least 90" in result.stdout
    result = run(path, "--budget", "0.5x")
    assert result.exit_code == 2 and "--budget tokens=0.5x: a mean cost of 47.5 per problem" in result.stderr
    assert "raise it to at least 90 (of today's, 0.95x)" in result.stderr


@pytest.mark.parametrize("asked", [["tokens=50"], ["tokens>=9999"], ["high>=80%", "tokens=300"]])
def test_the_advised_budget_works_when_pasted(log, asked):
    result = run(log, "--num-splits", 0, *(x for text in asked for x in ("--budget", text)))
    assert result.exit_code == 2
    advised = re.search(
        r"(?:raise|lower) it to (?:at (?:least|most) )?(?:tokens=)?(\d+(?:\.\d+)?)[ ,\n]", result.stderr
    )
    assert advised, result.stderr
    asked[-1] = re.sub(r"=\d+", f"={advised[1]}", asked[-1])
    result = run(log, "--num-splits", 0, *(x for text in asked for x in ("--budget", text)))
    assert result.exit_code == 0, result.output


def test_budgets_relative_to_what_the_log_spends(log, tmp_path):
    for text, amount in (
        ("tokens=0.8x", lambda part: 0.8 * part["as_logged"]["mean_cost"]),
        ("0.8x", lambda part: 0.8 * part["as_logged"]["mean_cost"]),
        ("cost = 1/2 range", lambda part: np.mean([row["mean_cost"] for row in part["always"].values()])),
    ):
        assert run(log, "--num-splits", "0", "--budget", text, "--out", tmp_path).exit_code == 0
        part = json.loads((tmp_path / "summary.json").read_text())["parts"][0]
        assert part["budgets"][1]["limits"][0]["at_most"] == pytest.approx(amount(part))


def test_single_responses_are_said_to_be_in_sample(tmp_path):
    log = write_log(tmp_path / "log.jsonl", num_responses=1)
    result = run(log)
    assert result.exit_code == 0 and "Not held out" in result.stdout and "no held-out values" in result.stderr
    assert result.stdout.count("hether choosing per problem pays is not known") == 1  # once for all budgets
    assert run(log, "--wide").stdout != result.stdout
    assert json.loads(run(log, "--json").stdout)["parts"]
    result = run(log, "--num-splits", "9")
    assert result.exit_code == 0 and "at least 2 responses per problem and group needed" in result.stderr


def test_incomplete_problems_are_left_out_aloud(tmp_path):
    log = write_log(tmp_path / "log.jsonl", num_responses=2, skip={(3, "low")})
    result = run(log, "--num-splits", "0")
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
    assert [part["budgets"][1]["share"] for part in parts] == [{"a": 1, "b": 0}, {"a": 0, "b": 1}]


def test_a_part_with_nothing_to_choose_is_left_out_aloud(tmp_path):
    rows = [
        {"id": p, "group": group, "reward": p % 2, "cost": 1 + (group == "b"), "tenant": tenant}
        for tenant, groups in (("x", "a"), ("y", "ab"))
        for p in range(3)
        for group in groups
    ]
    log = tmp_path / "log.jsonl"
    for stream in ((), ("--stream",)):
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = run(log, *stream, "--by", "tenant", "--budget", "cost=2")
        assert result.exit_code == 0 and "tenant = y" in result.stdout and "tenant = x" not in result.stdout
        assert "part left out: x: column 'group' has one response group, a" in result.stderr
        log.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
        result = run(log, *stream, "--by", "tenant", "--budget", "cost=2")
        assert (
            result.exit_code == 2 and "--by tenant: nothing to choose in any of 1 parts; the first: x" in result.stderr
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "2000"], "--budget 2000: of what? Name it"),
        (["--budget", "tokens=-3"], "--budget tokens=-3: '-3' is not an amount"),
        (["--budget", "tokens=1/0"], "'1/0' is not an amount"),
        (["--budget", "tokens=25%"], "tokens=0.25x is that part of what is spent now, tokens=25%range that part"),
        (["--budget", "medium=30%"], "is named 'medium'; there are high, low, tokens, cost"),
        (["--budget", "money=3"], "the log's cost is 'tokens', no money; give a table of prices with --prices"),
        (["--budget", "high=30"], "a share is at most 100%; did you mean high=30%"),
        (["--budget", "high@level=3=0.5"], "--by COLUMN solves each part"),
        (["--budget", "high=0.5", "--budget", "high<=40%"], "high: is given twice"),
        (["--budget", "tokens=50"], "--budget tokens=50: a mean cost of 50 per problem cannot be kept"),
        (["--budget", "tokens>=9999"], "--budget tokens>=9999: a mean cost of at least 9,999 per problem cannot be"),
        (
            ["--budget", "high>=80%", "--budget", "tokens=300"],
            "--budget tokens=300: at least 831 tokens per problem are spent together with the other budgets; "
            "raise it to tokens=831,",
        ),
        (
            ["--budget", "low>=50%", "--budget", "high>=60%"],
            "--budget high>=60%: at most 50% of the problems can get high together with the other budgets; "
            "lower it to high>=50%",
        ),
        (["--columns", "reward=score"], "no column 'score'; there are 'problem_id'"),
        (["--columns", "response_group=tokens"], "problems without a response of every response group"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(log, arguments, message):
    result = run(log, *arguments)
    assert result.exit_code == 2
    [said] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in said and "Traceback" not in result.output


def test_unwritable_out(log, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(log, "--num-splits", "0", "--out", tmp_path / "file" / "folder")
    assert result.exit_code == 2 and "cannot be written" in result.stderr


def test_the_responses_of_an_evaluation_that_chose_are_read(tmp_path):
    """`ibpo eval --chooses` writes an empty group where a response opens like none."""
    rows = [
        {"problem_id": f"p{p}", "configuration": "chooses itself", "response_group": name, "number": n,
         "reward": float(name == "b" or p % 2), "tokens": 5.0 + 5.0 * (name == "b"), "finish_reason": "stop"}
        for p in range(8) for n, name in enumerate(["a", "b", "", "a", "b"])
    ]  # fmt: skip
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(path, "--budget", "cost=8")
    assert result.exit_code == 0, result.output
    assert "8 left out: responses that open like no response group" in result.output


def evaluated(path, ways, **columns):
    """A table as `ibpo eval` writes it: way -> (response group, reward, tokens), four responses to 8 problems each."""
    rows = [
        {"problem_id": f"p{p}", "configuration": way, "response_group": group, "number": n, "answer": "1",
         "reward": reward, "tokens": tokens + p, "finish_reason": "stop", **columns}
        for way, (group, reward, tokens) in ways.items() for p in range(8) for n in range(4)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


TURNS = {"low": ("low", 0.0, 10), "high": ("high", 0.0, 10), "low, corrected": ("low", 1.0, 30),
         "low, refined": ("low", 1.0, 40), "low, debated": ("low", 1.0, 50)}  # fmt: skip


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_ways_of_several_turns_are_response_groups_at_their_true_cost(tmp_path, stream):
    """They were taken for more responses of the group that they begin with: low was right on two thirds, at 30."""
    result = run(evaluated(tmp_path / "responses.jsonl", TURNS), "--json", *stream)
    assert result.exit_code == 0, result.output
    [part] = json.loads(result.stdout)["parts"]
    found = {name: (one["mean_reward"], one["mean_cost"] - 3.5) for name, one in part["always"].items()}
    assert found == {way: (reward, cost) for way, (_, reward, cost) in TURNS.items()}
    assert "ways of answering that are response groups of their own: low, corrected; low, refined; low, debated" in (
        result.stderr
    )
    # Who names the column gets it.
    named = run(tmp_path / "responses.jsonl", "--json", "--columns", "response_group=response_group", *stream)
    assert set(json.loads(named.stdout)["parts"][0]["always"]) == {"low", "high"}


def test_a_log_of_one_response_group_names_the_columns_that_could_say_another(log, tmp_path):
    """It said --columns response_group=COLUMN. What differs between problems alone is no choice."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    made = [{**row, "effort": "all", "prompt_style": row["effort"], "level": row["problem_id"][:2]} for row in rows]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row | {"batch": f"run {n % 3}"}) + "\n" for n, row in enumerate(made)))
    for more in ((), ("--stream",), ("--by", "level")):
        result = run(other, *more)
        assert result.exit_code == 2 and "an allocation chooses between at least two" in result.stderr
        assert "name another column with --columns response_group=" in result.stderr
        assert all(name in result.stderr for name in ("prompt_style", "batch")) and "COLUMN" not in result.stderr
        assert "try: ibpo allocate" in result.stderr
    other.write_text("".join(json.dumps(row | {"prompt_style": "b"}) + "\n" for row in made))
    result = run(other)
    assert "no other column differs within problems; have other efforts asked: ibpo collect" in result.stderr
    assert "try:" not in result.stderr


@pytest.mark.parametrize("command", ["allocate", "report"])
def test_a_file_that_was_written_behind_itself_is_told(command, tmp_path):
    path = write_log(tmp_path / "log.jsonl", num_responses=4)
    said = "160 of 320 rows say what an earlier row says: problem, response group, reward and cost"
    for times in (1, 2):
        path.write_text(path.read_text() * times)
        more = ["--out", str(tmp_path / "page")] if command == "report" else []
        result = CliRunner().invoke(app, [command, str(path), "--num-splits", "2", *more])
        assert result.exit_code == 0 and (said in result.stderr) == (times == 2)


def test_no_line_is_wider_than_the_terminal(log, tmp_path):
    """A real terminal of 80 columns: the notes of a log are broken between words."""
    pty = pytest.importorskip("pty")
    import fcntl
    import os
    import struct
    import termios

    log.write_text(log.read_text() * 2)
    rewards = tmp_path / "rewards.csv"
    ids = dict.fromkeys(json.loads(line)["problem_id"] for line in log.read_text().splitlines())
    with rewards.open("w") as file:
        csv.writer(file).writerows([["problem_id", "gold answer of the one who asked"], *([name, 1] for name in ids)])
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "ibpo", "allocate", str(log), str(rewards), "--num-splits", "2"]
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=environment | {"TERM": "xterm"})
    os.close(there)
    said = b""
    with suppress(OSError):  # as a terminal ends
        while piece := os.read(here, 65536):
            said += piece
    os.close(here)
    assert process.wait() == 0, said.decode()
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode()))
    assert "160 of 320 rows say what an earlier row says: problem, response group, reward" in lines  # 77 letters
    assert max(map(len, lines)) <= 80, said.decode()


def test_a_run_without_response_groups_has_ways_all_the_same(tmp_path):
    """It was refused: "72 left out: responses that open like no response group", of which there was none to open as."""
    bare = {name.replace("low", "responses"): ("", *more) for name, (_, *more) in TURNS.items() if name != "high"}
    result = run(evaluated(tmp_path / "responses.jsonl", bare), "--json")
    assert result.exit_code == 0 and "left out" not in result.output, result.output
    assert set(json.loads(result.stdout)["parts"][0]["always"]) == set(bare)
    alone = run(evaluated(tmp_path / "responses.jsonl", {"responses": ("", 1.0, 10)}))
    assert alone.exit_code == 2 and "has one response group, responses; an allocation chooses between at least two" in (
        alone.stderr
    )


def test_a_choice_beside_ways_counts_as_it_opens(tmp_path):
    path = evaluated(tmp_path / "responses.jsonl", TURNS)
    chosen = [json.loads(line) | {"configuration": "chooses itself"} for line in path.read_text().splitlines()[:64]]
    chosen[3]["response_group"] = ""
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in chosen)
    result = run(path, "--json")
    assert result.exit_code == 0 and "1 left out: responses that open like no response group" in result.stderr
    part = json.loads(result.stdout)["parts"][0]
    assert set(part["always"]) == set(TURNS) and part["num_responses"] == 8 * 4 * 7 - 1


@pytest.mark.parametrize("kind", ["whole", "beyond int64", "text", "float", "bool"])
def test_streamed_ties_follow_the_same_ids(kind, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng, number = np.random.default_rng(0), np.arange(2 if kind == "bool" else 60)
    ids = {
        "whole": number - 20,
        "beyond int64": number.astype(np.uint64) + np.uint64(2**63),
        "text": [f"{x:03d}" for x in number],
        "float": number / 4,
        "bool": number > 0,
    }[kind]
    table = {
        "problem_id": np.repeat(ids, 2),
        "effort": ["low", "high"] * len(number),
        "correct": rng.integers(0, 2, 2 * len(number)),
        "tokens": rng.choice([10, 20], 2 * len(number)),
    }
    parquet.write_table(arrow.table(table), tmp_path / "log.parquet")
    answers = []
    for stream in ((), ("--stream",)):
        out = tmp_path / f"out{len(stream)}"
        result = run(tmp_path / "log.parquet", *stream, "--num-splits", "0", "--budget", "tokens=14", "--out", out)
        assert result.exit_code == 0, result.output
        answers.append(sorted((out / "choices.jsonl").read_text().splitlines()))
    assert answers[0] == answers[1]
    # A float that is a whole number is that number: 1.0 and 1 are one problem wherever logs meet.
    assert {json.loads(line)["problem"] for line in answers[0]} == {identifier_of(x) for x in np.asarray(ids).tolist()}
    assert kind != "float" or {"0", "0.25", "1"} <= {json.loads(line)["problem"] for line in answers[0]}


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "num_kills", [pytest.param(5, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.stress)]
)
def test_killed_at_random_moments(log, tmp_path, num_kills):
    """Two questions take turns in one folder: whenever one is killed, no files of both are told for one answer.

    A kill comes at any time, while the files are written, or while they take the place of the old ones.
    """
    asked = {"first": ["tokens=600"], "second": ["tokens=300", "--budget", "high=25%"]}
    said, out, rng, seen = tmp_path / "said", tmp_path / "out", random.Random(num_kills), Counter()

    def arguments(name, folder):
        return "allocate", log, "--budget", *asked[name], "--num-splits", 3, "--out", folder

    def complete(name, folder):
        began = time.monotonic()
        with running(said, *arguments(name, folder)) as process:
            process.join()
            assert process.exitcode == 0, said.read_text()
        return time.monotonic() - began

    seconds = {name: complete(name, tmp_path / name) for name in (*asked, *asked)}  # the second time, all is loaded
    whole = {name: files_of(tmp_path / name) for name in asked}
    assert whole["first"].keys() == whole["second"].keys() and len(whole["first"]) == 4
    assert all(whole["first"][name] != text for name, text in whole["second"].items())
    old, new = asked
    complete(old, out)
    for number in range(num_kills):
        with running(said, *arguments(new, out)) as process:
            when = ("any time", "written", "moved", "moved")[number % 4]
            if when == "any time":
                moment(rng, seconds[new])
            elif when == "written" and wait_until(process, (out / ".partial").exists):
                moment(rng, seconds[new] / 2)
            elif wait_until(process, lambda: not (out / "summary.json").exists()):
                moment(rng, 0.0002)
            killed = send(process, rng.choice((KILL, TERM)))
            assert killed or process.exitcode == 0, said.read_text()
        found = files_of(out)
        assert all(text in (whole[old][name], whole[new][name]) for name, text in found.items())
        if "summary.json" in found:
            assert found in (whole[old], whole[new])
        state = "none" if "summary.json" not in found else "old" if found == whole[old] else "new"
        seen[state if killed else "too late"] += 1
        complete(new, out)
        assert files_of(out) == whole[new] and {path.name for path in out.iterdir()} == {".lock", *whole[new]}
        old, new = new, old
    print(f"{num_kills} kills left", dict(seen))
    assert seen["too late"] < num_kills / 2 and (num_kills < 50 or min(seen["old"], seen["none"]) > 0)


def test_no_more_than_all_right_answers_are_kept(tmp_path):
    """It printed "correct 1.014" and rewards below 0: extrapolated means of halves."""
    rng, rows = np.random.default_rng(4), []
    for p in range(20):
        for effort, tokens in (("low", 10), ("high", 30)):
            right = rng.random(4) < (0.3 if effort == "low" and p % 3 == 0 else 1.0)
            rows += [{"id": p, "effort": effort, "correct": int(one), "tokens": tokens} for one in right.tolist()]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(path, "--budget", "50%range", "--num-splits", 20, "--wide", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    *_, line = [line for line in result.stdout.splitlines() if line.strip().startswith("tokens=50%range")]
    assert "1.000 ±" in line and "correct 1.000 for 20 tokens" in " ".join(result.stdout.split())
    [part] = json.loads((tmp_path / "out" / "summary.json").read_text())["parts"]
    held = part["budgets"][1]["held_out"]
    assert held["reward"] == 1 == held["kept"] and held["gain"] == pytest.approx(1 - held["random_mix"])
    assert held["mixture_gain"] == pytest.approx(1 - held["mixture"])


def test_groups_that_differ_by_capitals_are_told_and_shares_are_never_0_percent(tmp_path):
    rows = [
        {"id": p, "effort": effort, "reward": reward, "tokens": tokens}
        for p in range(9)
        for effort, reward, tokens in (("High", 1, 1000), ("high", 0, 1))
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(path, "--budget", "tokens=999")
    assert result.exit_code == 0, result.output
    assert "response groups 'High' and 'high' differ by capitals only" in result.stderr
    assert "'high' for 0.1% and 'High' for 99.9%" in " ".join(result.stdout.split())


def test_what_only_wins_by_spending_more_is_not_recommended(log):
    part = read_parts(log, LogColumns(), say=print).parts[0]
    asked = questions(["tokens=600"])[1:2]
    answer = answer_questions(part, asked, holdout=None, num_splits=3, seed=0, say=print)[0]
    assert answer.held_out is not None and verdict(part, answer).per_problem
    worse = replace(answer, held_out=replace(answer.held_out, spent=700.0, gain=-0.01))
    told = verdict(part, worse)
    assert not told.per_problem and "it spends 700 tokens, more than asked" in told.text
    assert verdict(part, replace(answer, held_out=replace(answer.held_out, spent=700.0, gain=0.1))).per_problem


@pytest.mark.parametrize("width", [80, 120, 160])
@pytest.mark.parametrize("wide", [False, True])
def test_no_table_is_wider_than_the_terminal_and_no_number_is_cut(log, width, wide):
    """Every number of a table as wide as can be is whole in one of 80 columns, once for each budget."""
    from rich.console import Console

    from ibpo.commands.allocate import _print_part

    def printed(width):
        part = read_parts(log, LogColumns(), say=print).parts[0]
        answers = answer_questions(part, questions([]), holdout=None, num_splits=3, seed=0, say=print)
        console = Console(width=width, record=True, file=io.StringIO())
        _print_part(console, "log.jsonl", part, answers, wide=wide)
        return console.export_text()

    text, whole = printed(width), printed(400)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    for line in whole.splitlines():
        if line.strip().startswith(("tokens=25%range ", "always ", "as logged")):
            name, *cells = line.split("  ")
            lines = [other for other in text.splitlines() if other.startswith(name + "  ")]
            shown = [cell for other in lines for cell in other.split("  ")[1:]]
            assert sorted(filter(None, map(str.strip, cells))) == sorted(filter(None, map(str.strip, shown)))
    assert wide or width < 120 or text.count("gain") == whole.count("gain")


def test_progress_of_a_long_read_is_said_in_lines_where_no_terminal_is(log, monkeypatch):
    monkeypatch.setattr("ibpo.commands.allocate.EVERY", 0.0)
    monkeypatch.setattr("ibpo.data.response_log.BLOCK", 400)
    result = run(log, "--num-splits", 3)
    assert "reading log.jsonl: 160 rows" in result.stderr and "held-out values: split 3 of 3" in result.stderr
    assert "\r" not in result.stderr
    monkeypatch.setattr("ibpo.commands.allocate.EVERY", 60.0)
    assert "rows" not in run(log, "--num-splits", 3).stderr.replace("chosen rows", "")


def test_where_nothing_is_written_it_is_said_how(log, tmp_path):
    assert "nothing is written: --out FOLDER" in run(log, "--num-splits", "0").stderr
    assert "--out FOLDER" not in run(log, "--num-splits", "0", "--out", tmp_path / "out").stderr


def test_numbers_of_a_verdict_are_of_the_same_problems(tmp_path):
    """Half of the problems have four answers a cell, the others one, which is never right: "200% of today's right
    answers" compared the first with all of them."""
    rng, path = random.Random(0), tmp_path / "thin.jsonl"
    rows = [
        {"problem_id": f"q{p}", "effort": effort, "tokens": tokens,
         "correct": int(p < 30 and (effort == "high" or rng.random() < 0.5))}
        for p in range(60)
        for effort, tokens in (("low", 10), ("high", 100))
        for _ in range(4 if p < 30 else 1)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(path, "--budget", "1x", "--num-splits", 5, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    assert "(Of the 30 of 60 problems that have 2 answers per response group.)" in told
    assert "100% of today's tokens keep 100% of today's right answers" in told
    [line] = [line for line in result.stdout.splitlines() if line.lstrip().startswith("tokens=1x") and "±" in line]
    held = json.loads((tmp_path / "out" / "summary.json").read_text())["parts"][0]["budgets"][1]["held_out"]
    assert f"{held['mixture']:.3f}" in line and 0.65 < held["mixture"] < 0.75


def test_a_shown_column_that_differs_within_problems_hangs_on_no_order(tmp_path):
    """In memory as streamed, where blocks of rows come one after the other: the first by name."""
    rows = [
        {"problem_id": f"p{p}", "effort": e, "correct": 1, "tokens": 9, "kind": "bacd"[(p + s) % 4 if s else 0]}
        for p in range(20)
        for e in ("low", "high")
        for s in range(3)
    ]
    told = []
    for some in (rows, rows[::-1]):
        path = tmp_path / "log.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
        for stream in (True, False):
            part = read_parts(path, LogColumns(show="kind"), stream=stream, say=print).parts[0]
            order = np.argsort(list(map(str, part.problems)), kind="stable")
            assert part.shown is not None
            told.append([part.shown.tolist()[p] for p in order.tolist()])
    assert told[0] == told[1] == told[2] == told[3] and set(told[0]) == {"a", "b"}


@pytest.mark.parametrize(
    ("command", "said"),
    [("allocate none.jsonl --out FILE", "cannot be written: File exists"),
     ("allocate none.jsonl --out FILE/new", "cannot be written: Not a directory"),
     ("report none.jsonl --out FILE", "cannot be written: File exists"),
     ("simulate none.jsonl --budget extended=30% --out FILE/a.json", "cannot be written: Not a directory"),
     ("calibrate none.jsonl --out FILE/a.json", "cannot be written: Not a directory"),
     ("route score none.json none.jsonl --out FILE/a.json", "cannot be written: Not a directory")],
)  # fmt: skip
def test_where_nothing_can_be_written_is_said_before_any_reading(tmp_path, command, said):
    (tmp_path / "file").write_text("kept")
    words = [word.replace("FILE", str(tmp_path / "file")) for word in command.split()]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and said in done.stderr and "there is no such file" not in done.stderr
    assert (tmp_path / "file").read_text() == "kept"


def test_a_part_that_cannot_keep_a_budget_costs_the_others_nothing(tmp_path):
    """The first part was solved and printed, the second was an error, and nothing was written."""
    rows = [
        {"model": model, "problem_id": f"{p}", "effort": effort, "correct": int(n < 3 or effort == "high"),
         "tokens": tokens * (10 if model == "b" else 1)}
        for model in "ab" for p in range(12) for effort, tokens in (("low", 10), ("high", 100)) for n in range(4)
    ]  # fmt: skip
    path, out = tmp_path / "log.jsonl", tmp_path / "out"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(path, "--by", "model", "--budget", "tokens=50", "--num-splits", 3, "--out", out)
    assert result.exit_code == 0, result.output
    assert "tokens=50: not possible: needs at least 100 per problem." in result.stdout
    a, b = json.loads((out / "summary.json").read_text())["parts"]
    assert (a["part"], b["part"]) == ("a", "b") and (out / "frontier_a.png").is_file()
    result = run(path, "--by", "model", "--budget", "tokens=5", "--num-splits", 3, "--out", tmp_path / "none")
    assert result.exit_code == 2 and not (tmp_path / "none").exists()
    assert "--budget tokens=5: cannot be kept in any part; a: needs at least 10 per problem" in result.stderr
