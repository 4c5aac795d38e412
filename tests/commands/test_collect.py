"""`ibpo collect`: a real server on loopback whose answers are right by a known chance, per problem and effort."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import sys
from collections import Counter

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from tests.killing import KILL, running, send, wait_until
from tests.openai_server import Fault, serving

pytest.importorskip("openai")

CHANCE = {
    # Helped by effort, right either way, never right: choosing pays.
    "pays": {"low": (0.05, 1.0, 0.0), "high": (0.95, 1.0, 0.0)},
    # Effort is worth the same everywhere: nothing to choose by.
    "same": {"low": (0.4, 0.4, 0.4), "high": (0.7, 0.7, 0.7)},
}
WORDS = {"low": 5, "high": 40}


def uniform(*parts):
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big") / 2**56


def answer_by(truth):
    def answer(body, number):
        del number
        prompt = body["messages"][-1]["content"]
        problem, effort = int(re.findall(r"\d+", prompt)[0]), body["reasoning_effort"]
        right = uniform(prompt, effort, body["seed"]) < CHANCE[truth][effort][problem % 3]
        result = problem + 1 if right else -7
        return " ".join(["so"] * (WORDS[effort] - 1) + [str(result)]), "stop"

    return answer


def write_log(path, num_problems=60, **more):
    rows = [
        {"id": f"p{i}", "question": f"What is {i} + 1 ?", "answer": i + 1, "level": str(i % 3), **more}
        for i in range(num_problems)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(log, url, out, *more):
    return [
        *("collect", str(log), "--model", "m", "--base-url", url, "--out", str(out), "--by", "effort=low,high"),
        *("--max-tokens", "64", "--engine", "num_concurrent=4", *map(str, more)),
    ]


def run(*args):
    return CliRunner().invoke(app, arguments(*args))


def read(out):
    rows = [json.loads(line) for line in (out / "responses.jsonl").open()]
    return rows, json.loads((out / "summary.json").read_text())["collect"]


def test_it_stops_where_choosing_pays(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl"), tmp_path / "run"
    with serving(answer_by("pays")) as server:
        result = run(log, server.url, out, "--limit", "calls=2000", "--show", "level")
        assert result.exit_code == 0, result.output
        rows, said = read(out)
        num_asked = len(server.requests)
        assert said["per_problem"] and said["stopped"] == "the interval is above 0"
        assert "choose per problem" in result.stdout and said["calls"] == num_asked == len(rows)
        assert num_asked < 60 * 2 * 8  # it did not ask for all that it might have
        levels = Counter(row["level"] for row in rows)
        assert max(levels.values()) - min(levels.values()) <= 2 * 2 * 2  # stratified: a prompt more or less
        again = run(log, server.url, out, "--limit", "calls=2000", "--show", "level")
        assert again.exit_code == 0 and len(server.requests) == num_asked
        assert again.stdout == result.stdout and read(out)[1]["looks"] == said["looks"]
    keys = [(row["problem_id"], row["response_group"], row["number"]) for row in rows]
    assert len(keys) == len(set(keys))
    for row in rows:
        assert row["tokens"] == WORDS[row["response_group"]]
        assert row["reward"] == float(row["completion"].endswith(f" {int(row['problem_id'][1:]) + 1}"))
    for command in (["allocate", out, "--budget", "50%range"], ["route", "fit", out, "--out", tmp_path / "router"]):
        other = CliRunner().invoke(app, list(map(str, command)))
        assert other.exit_code == 0, other.output


def test_where_effort_is_worth_the_same_it_does_not_recommend_a_choice(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl"), tmp_path / "run"
    with serving(answer_by("same")) as server:
        result = run(log, server.url, out, "--limit", "calls=700")
        rows, said = read(out)
        assert result.exit_code == 0 and not said["per_problem"] and len(server.requests) <= 700
    assert "not worth it" in result.stdout or "whether choosing" in result.stdout
    looks = said["looks"]
    assert sum(look["error"] for look in looks) <= 0.05 + 1e-9 and len(looks) <= said["planned_looks"] <= 6
    assert said["more"] and len(rows) == said["calls"]


PRICES = ("--prices", "input=1000,output=10000")


def money_of(server):
    """What the requests that were answered have cost, by the usage that the server told."""
    total = 0.0
    for body in server.requests:
        total += len(body["messages"][-1]["content"].split()) * 1e-3 + WORDS[body["reasoning_effort"]] * 1e-2
    return total


@pytest.mark.parametrize("limit", [3.0, 20.0])
def test_money_is_never_more_than_the_limit(tmp_path, limit):
    log, out = write_log(tmp_path / "log.jsonl"), tmp_path / "run"
    with serving(answer_by("same")) as server:
        result = run(log, server.url, out, "--limit", f"money={limit}", *PRICES)
        assert result.exit_code == 0, result.output
        assert 0 < money_of(server) <= limit
        ledger = [json.loads(line) for line in (out / "calls.jsonl").open()]
        assert math.isclose(sum(row.get("money", 0.0) for row in ledger), money_of(server))
        first = len(server.requests)
        more = run(log, server.url, out, "--limit", f"money={2 * limit}", *PRICES)
        assert more.exit_code == 0 and first < len(server.requests) and money_of(server) <= 2 * limit
    said = read(out)[1]
    assert math.isclose(said["money"], money_of(server))
    assert sum(look["error"] for look in said["looks"]) <= said["error_of_all_looks"] + 1e-9 <= 0.1 + 1e-6


def test_a_server_without_usage_is_charged_in_full(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl", 12), tmp_path / "run"
    with serving(answer_by("same"), usage=False) as server:
        result = run(log, server.url, out, "--limit", "money=60", *PRICES)
        assert result.exit_code == 0, result.output
        most = (len(b"userWhat is 11 + 1 ?") + 512) * 1e-3 + (64 + 16) * 1e-2
        assert len(server.requests) == 60 // most  # a whole reserve each
    assert read(out)[1]["charged_in_full"] == 60 // most and "characters" in result.stdout


def test_faults_of_a_server_are_retried_and_cost_what_they_may(tmp_path, monkeypatch):
    monkeypatch.setattr("ibpo.commands.collect_run.pause", lambda seconds: None)
    log, out = write_log(tmp_path / "log.jsonl", 12), tmp_path / "run"
    good = answer_by("same")
    lost = set()

    def answer(body, number):
        if number % 5 == 0:
            raise Fault(429, "slow down")
        if number % 7 == 0:
            lost.add(number)
            raise Fault(0)
        return good(body, number)

    with serving(answer) as server:
        result = run(log, server.url, out, "--limit", "calls=120", "--engine", "num_concurrent=1")
        assert result.exit_code == 0, result.output
    rows, said = read(out)
    # Refused for the rate: free. Lost: perhaps answered, so it counts.
    assert said["calls"] == len(rows) + len(lost) <= 120 and said["charged_in_full"] == len(lost) > 0
    assert len({(row["problem_id"], row["response_group"], row["number"]) for row in rows}) == len(rows)


def test_the_name_of_the_limit_that_a_server_takes(tmp_path):
    log, out, good = write_log(tmp_path / "log.jsonl", 12), tmp_path / "run", answer_by("same")

    def answer(body, number):
        if "max_tokens" in body:
            raise Fault(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        assert body["max_completion_tokens"] == 64 and "temperature" not in body
        return good(body, number)

    with serving(answer) as server:
        assert run(log, server.url, out, "--limit", "calls=60").exit_code == 0
        assert sum("max_tokens" in body for body in server.requests) <= 16  # those that were in flight at first


def test_responses_of_the_log_count(tmp_path):
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    rows = [
        {"id": i, "question": f"What is {i} + 1 ?", "gold": i + 1, "reasoning_effort": "low", "tokens": 5,
         "completion": f"It is {i + 1 if i % 2 else -7}", "correct": i % 2, "model": "m-2026-01-01"}
        for i in range(24)
    ]  # fmt: skip
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(answer_by("same")) as server:
        result = run(log, server.url, out, "--limit", "calls=72")
        assert result.exit_code == 0, result.output
        asked = Counter(body["reasoning_effort"] for body in server.requests)
    assert "24 responses of the log count as answers already: 24 of low" in result.stderr
    rows, _ = read(out)
    whole = {row["problem_id"] for row in rows}
    assert sum(asked.values()) == 72 and asked["high"] - asked["low"] == len(whole)  # one answer of low was there
    logged = [row for row in rows if row.get("logged")]
    assert len(logged) == len(whole) and all(
        row["reward"] == row["logged_reward"] and row["number"] == 0 for row in logged
    )
    other = CliRunner().invoke(app, [*arguments(log, server.url, tmp_path / "b", "--plan"), "--logged", "none"])
    assert (
        other.exit_code == 0
        and "first round: 12 of 24 prompts, 2 answers of each response group: 48 calls" in other.stdout
    )


def test_a_wrong_key_is_one_line_and_costs_nothing(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl", 12), tmp_path / "run"

    def refuse(body, number):
        raise Fault(401, "wrong key")

    with serving(refuse) as server:
        result = run(log, server.url, out, "--limit", "money=60", *PRICES)
        assert result.exit_code == 2 and "the key is refused" in result.stderr.splitlines()[-1]
        assert 1 <= len(server.requests) <= 8
    assert all(row.get("money", 0.0) == 0.0 for row in map(json.loads, (out / "calls.jsonl").open()))
    calls = [json.loads(line) for line in (out / "calls.jsonl").open()]
    assert sum("reserved" in row for row in calls) == sum("money" in row for row in calls)


def test_where_all_calls_failed_the_server_is_named_and_not_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("ibpo.commands.collect_run.pause", lambda seconds: None)
    log = write_log(tmp_path / "log.jsonl", 12)

    def lose(body, number):
        raise Fault(0)

    with serving(lose) as server:
        result = run(log, server.url, tmp_path / "run", "--limit", "calls=6")
    assert result.exit_code == 2
    assert "cannot be reached" in result.stderr and "no response was got, and the limits" in result.stderr


def test_a_server_that_gives_more_than_is_asked_for_is_left(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl", 12), tmp_path / "run"
    with serving(answer_by("same"), usage={"completion_tokens": 200, "total_tokens": 300}) as server:
        result = run(log, server.url, out, "--limit", "money=60", *PRICES)
    assert result.exit_code == 2 and "no limit on money can be kept" in result.stderr.splitlines()[-1]


def test_programs_are_judged_by_their_tests(tmp_path):
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    rows = [
        {"id": i, "prompt": f"Write f that adds {i}.", "tests": f"assert f(1) == {i} + 1"} for i in range(1, 13)
    ]  # fmt: skip
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(body, number):
        added = int(re.findall(r"\d+", body["messages"][-1]["content"])[0])
        added += body["reasoning_effort"] == "low" and added % 2
        return f"```python\ndef f(x):\n    return x + {added}\n```", "stop"

    with serving(answer) as server:
        result = run(
            log, server.url, out, "--limit", "calls=48", "--set", "data.judge=code", "--columns", "answer=tests"
        )
    assert result.exit_code == 0, result.output
    for row in read(out)[0]:
        assert row["reward"] == float(row["response_group"] == "high" or int(row["problem_id"]) % 2 == 0)


def test_a_judge_of_ones_own(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl", 12), tmp_path / "run"
    judge = tmp_path / "judge.py"
    judge.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    row = json.loads(line)\n"
        "    print(json.dumps({'reward': 0.25 if row['completion'].endswith(row['answer']) else 0.75}))\n"
    )
    own = f"{sys.executable} {judge}"
    with serving(answer_by("same")) as server:
        result = run(log, server.url, out, "--limit", "calls=48", "--judge-command", own)
        assert result.exit_code == 0, result.output
        rows, _ = read(out)
        assert {row["reward"] for row in rows} == {0.25, 0.75}
        asked = len(server.requests)
        broken = run(log, server.url, out, "--limit", "calls=48", "--judge-command", f"{sys.executable} -c 1/0")
        assert broken.exit_code == 2 and "ZeroDivisionError" in broken.stderr.splitlines()[-1]
        assert len(server.requests) == asked


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "no limit"),
        (["--limit", "money=1"], "needs the prices"),
        (["--limit", "money=1", "--prices", "input=1"], "'output'"),
        (["--limit", "calls=9.5"], "--limit calls=9.5: needs a whole number of at least 1"),
        (["--limit", "calls=9", "--temperature", "inf"], "--temperature inf: is not a temperature"),
        (["--limit", "calls=9", "--judge-command", "nowhere judge.py"], "nowhere: is not a program that can be"),
        (["--limit", "calls=9", "--logged", "medium"], "is not one of the response groups"),
        (["--limit", "calls=9", "--columns", "prompt=ask"], "no such column"),
        (["--limit", "calls=9", "--columns", "answer=gold"], "no such column"),
        (["--limit", "calls=9", "--show", "color"], "--show color"),
        (["--limit", "calls=9", "--budget", "0.5x"], "does not say what is spent today"),
        (["--limit", "calls=9", "--engine", "price_prompt=1"], "--prices"),
    ],
)
def test_mistakes_are_one_line(tmp_path, more, said):
    log = write_log(tmp_path / "log.jsonl", 12)
    result = run(log, "http://127.0.0.1:9/v1", tmp_path / "run", *more)
    planned = run(log, "http://127.0.0.1:9/v1", tmp_path / "run", *more, "--plan")
    for found in (result, planned) if more else (result,):  # a plan needs no limit, and finds all else
        assert found.exit_code == 2 and "Traceback" not in found.output
        line = found.stderr.strip().splitlines()[-1]
        assert line.startswith("error: ") and said in line, line


def test_a_prompt_of_another_name_comes_with_the_command_to_paste(tmp_path):
    """It was "no prompt: --columns prompt=COLUMN: there is no such column"."""
    log = tmp_path / "log.csv"
    log.write_text(
        "item,prompt_tokens,user prompt,answer\n" + "".join(f"{i},5,What is {i} + 1?,{i}\n" for i in range(8))
    )
    result = run(log, "http://127.0.0.1:9/v1", tmp_path / "run", "--plan")
    assert result.exit_code == 2 and "no column for the prompt (looked for prompt, question" in result.stderr
    again = shlex.split(result.stderr.rpartition("try: ibpo ")[2])
    assert again[-2:] == ["--columns", "prompt=user prompt"]
    assert "8 of 8 prompts" in CliRunner().invoke(app, again).stdout


def test_a_plan_asks_nothing(tmp_path):
    log = write_log(tmp_path / "log.jsonl")
    with serving(answer_by("same")) as server:
        result = run(log, server.url, tmp_path / "run", "--plan", "--limit", "money=5", "--prices", "input=1,output=10")
        assert result.exit_code == 0 and not server.requests and not (tmp_path / "run").exists()
    assert "first round: 24 of 60 prompts, 2 answers of each response group: 96 calls" in result.stdout


def test_killed_it_goes_on_and_asks_nothing_twice(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl"), tmp_path / "run"
    limit = ("--limit", "money=30", *PRICES)
    with serving(answer_by("same")) as server:
        for kill in range(1, 4):
            with running(tmp_path / f"said{kill}", *arguments(log, server.url, out, *limit)) as process:
                wait_until(process, lambda kill=kill: len(server.requests) > 25 * kill)
                send(process, KILL)
        result = run(log, server.url, out, *limit)
        assert result.exit_code == 0, result.output
        rows, said = read(out)
        asked = Counter((b["messages"][-1]["content"], b["reasoning_effort"], b["seed"]) for b in server.requests)
        twice = sum(asked.values()) - len(asked)
        assert twice <= 3 * 4  # those in flight at a kill
        assert money_of(server) <= said["money"] <= 30
    assert len({(row["problem_id"], row["response_group"], row["number"]) for row in rows}) == len(rows)
