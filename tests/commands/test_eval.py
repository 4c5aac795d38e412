"""`ibpo eval`: what it counts, what a misbehaving server, a full disk and a kill do to it."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.commands.eval_setup import default_max_tokens
from ibpo.demo import THINKING
from ibpo.errors import IbpoError
from ibpo.runs import working_in
from tests.commands.eval_server import FAULTS, serving
from tests.killing import KILL, TERM, moment, running, send, wait_until
from tests.openai_server import Fault
from tests.openai_server import serving as chatting

ROOT = Path(__file__).parent.parent.parent
NUM_PROBLEMS, NUM_RESPONSES = 20, 5
TOTAL = NUM_PROBLEMS * NUM_RESPONSES
TWO_GROUPS = ["--response-group", "direct", "--response-group", "standard"]

pytest.importorskip("openai")


@pytest.fixture
def task(tmp_path):
    rows = [{"id": f"p{i}", "question": f"{i} + 1 =", "answer": i + 1, "level": i % 2} for i in range(NUM_PROBLEMS)]
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(task, url, out, *more):
    fixed = ["eval", "m", str(task), "--base-url", url, "--out", str(out), "--num-responses", str(NUM_RESPONSES)]
    return [*fixed, "--set", "data.judge=exact", *map(str, more)]


def run(*args):
    return CliRunner().invoke(app, arguments(*args))


@pytest.mark.parametrize("name", ["responses.jsonl", "config.toml"])
def test_what_something_else_wrote_is_not_replaced(task, tmp_path, name):
    own = tmp_path / "out" / name
    own.parent.mkdir()
    own.write_text("mine")
    result = run(task, "http://127.0.0.1:1/v1", own.parent)
    assert result.exit_code == 2 and own.read_text() == "mine" and list(own.parent.iterdir()) == [own]
    assert f"holds {name} of something else than an evaluation; name another folder" in result.stderr


def rows_of(out):
    return [json.loads(line) for line in (out / "responses.jsonl").open()]


def assert_whole(out, total=TOTAL):
    """Every response is there once, and the accuracy is that of the responses."""
    rows = rows_of(out)
    assert len(rows) == len({(row["problem_id"], row["number"]) for row in rows}) == total
    for row in rows:
        assert row["reward"] == float(row["completion"].endswith(f"It is {int(row['problem_id'][1:]) + 1}"))
        assert (row["tokens"], row["prompt_tokens"], row["finish_reason"]) == (6, 5, "stop")
    keys = [json.loads(line)["key"] for line in list((out / "rollouts.jsonl").open())[1:]]
    assert len(keys) == len(set(keys)) == total
    return rows


def assert_one_line(result, said):
    assert result.exit_code == 2, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ") and said in line, line
    assert "Traceback" not in result.output


def test_an_evaluation_and_its_rerun(task, tmp_path):
    out = tmp_path / "run"
    with serving() as (url, answered, _):
        first = run(task, url, out, "--engine", "price_prompt=1,price_completion=2,num_concurrent=4")
        assert first.exit_code == 0, first.output
        rows = assert_whole(out)
        again = run(task, url, out, "--engine", "price_prompt=1,price_completion=2,num_concurrent=4")
    assert again.exit_code == 0 and f"{TOTAL} of {TOTAL} responses are there already" in again.stderr
    assert rows_of(out) == rows
    assert sum(answered.values()) == TOTAL and set(answered.values()) == {1}  # every seed its own, nothing twice
    about = json.loads((out / "eval.json").read_text())
    assert about["engine"]["server"] == {"version": "0.0-test", "owned_by": "test"}
    assert about["engine"]["openai"] and about["settings"]["seed"] == 0 and about["num_problems"] == NUM_PROBLEMS
    assert {row["level"] for row in rows} == {"0", "1"}


def test_a_response_group_that_is_named_twice_counts_once(task, tmp_path):
    """Each of its responses stood twice in the table, so that two tries were never better than one."""
    twice = ["--response-group", "direct"] * 2
    with serving() as (url, *_):
        result = run(task, url, tmp_path / "run", *twice)
        refused = run(task, url, tmp_path / "refused", *twice, "--also", "chooses")
    assert result.exit_code == 0, result.output
    rows = rows_of(tmp_path / "run")
    assert len({(row["problem_id"], row["number"]) for row in rows}) == len(rows) == TOTAL
    assert refused.exit_code == 2 and "needs at least two response groups" in refused.stderr


def test_one_problem_has_no_interval(task, tmp_path):
    with serving() as (url, *_):
        result = run(task, url, tmp_path / "run", "--limit", 1)
    assert result.exit_code == 0, result.output
    assert "%" in result.output and "nan" not in result.output


def test_a_second_evaluation_of_one_folder_leaves_with_one_line(task, tmp_path):
    """Two that sample into one folder stored every response twice, under one key."""
    out = tmp_path / "run"
    with serving() as (url, answered, _), working_in(out):
        assert_one_line(run(task, url, out), f"{out}: another process of ibpo is using it; wait until it has ended")
    assert not answered and not out.exists()


def test_the_bill(task, tmp_path):
    with serving() as (url, _, _):
        run(task, url, tmp_path / "run", "--engine", "price_prompt=1e6,price_completion=2e6")
        first = json.loads((tmp_path / "run" / "eval.json").read_text())
        run(task, url, tmp_path / "run", "--engine", "price_prompt=1e6,price_completion=2e6")
        again = json.loads((tmp_path / "run" / "eval.json").read_text())
    for about in (first, again):  # a rerun that samples nothing does not forget what was paid
        bill = about["bill"]
        assert (bill["prompt_tokens"], bill["completion_tokens"], bill["cost"]) == (5 * TOTAL, 6 * TOTAL, 17 * TOTAL)
    assert [(call["num_new"], call["ended"]) for call in again["calls"]] == [(TOTAL, True), (0, True)]
    assert again["calls"][0]["engine"]["server"]["version"] == "0.0-test"


def test_killed_between_its_files_no_older_table_stays(task, tmp_path, monkeypatch):
    out, replace = tmp_path / "run", os.replace

    def killed(*paths):
        if str(paths[1]).endswith("responses.jsonl"):
            raise KeyboardInterrupt
        replace(*paths)

    with serving() as (url, _, _):
        assert run(task, url, out, "--num-responses", 2).exit_code == 0
        assert_whole(out, 2 * NUM_PROBLEMS)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            assert run(task, url, out).exit_code == 130
        assert json.loads((out / "eval.json").read_text())["num_responses"] == NUM_RESPONSES
        assert not (out / "responses.jsonl").exists()
        assert run(task, url, out).exit_code == 0
    assert_whole(out)


def test_the_bill_of_a_killed_call_is_that_of_what_it_kept(task, tmp_path):
    out = tmp_path / "run"
    with serving() as (url, _, _):
        run(task, url, out, "--num-responses", 2, "--engine", "price_prompt=1e6,price_completion=2e6")
        lines = (out / "calls.jsonl").read_text().splitlines(keepends=True)
        (out / "calls.jsonl").write_text(lines[0] + lines[1][:10])  # killed while it wrote its end
        assert run(task, url, out, "--engine", "price_prompt=1e6,price_completion=2e6").exit_code == 0
    about = json.loads((out / "eval.json").read_text())
    assert [(call["num_new"], call["ended"]) for call in about["calls"]] == [(40, False), (TOTAL - 40, True)]
    assert about["bill"]["cost"] == 17 * TOTAL


def test_responses_to_edited_problems_are_not_taken_for_answers(task, tmp_path):
    out = tmp_path / "run"
    with serving() as (url, answered, _):
        assert run(task, url, out).exit_code == 0
        task.write_text(task.read_text().replace('"7 + 1 ="', '"8 + 1 ="'))
        edited = run(task, url, out)
        assert_one_line(edited, "problem p7 was asked differently")
        assert sum(answered.values()) == TOTAL
        task.write_text(task.read_text().replace('"8 + 1 =", "answer": 8', '"7 + 1 =", "answer": 99'))
        assert run(task, url, out).exit_code == 0  # another answer to the same prompt is judged anew
        assert {row["reward"] for row in rows_of(out) if row["problem_id"] == "p7"} == {0.0}


@pytest.mark.parametrize(
    ("before", "after"),
    [(["--response-group", "effort_low", "--response-group", "effort_high", "--also", "chooses"], []),
     ([], ["--response-group", "effort_low", "--response-group", "effort_high", "--also", "chooses"])],
)  # fmt: skip
def test_responses_to_another_wording_are_not_taken_for_answers(task, tmp_path, before, after):
    """A free choice and a bare prompt are both asked for without a response group."""
    with serving() as (url, _, _):
        assert run(task, url, tmp_path / "run", *before).exit_code == 0
        assert_one_line(run(task, url, tmp_path / "run", *after), "was asked differently")


def test_another_server_is_another_evaluation(task, tmp_path):
    with serving() as (url, _, _):
        assert run(task, url, tmp_path / "run").exit_code == 0
    with serving() as (url, _, _):
        assert_one_line(run(task, url, tmp_path / "run"), "was started with other settings (in base_url)")


def test_a_policy_trained_again_into_the_same_folder_is_another_one(tmp_path):
    from ibpo.commands.eval_setup import weights_digest

    assert weights_digest(str(tmp_path)) == ""
    (tmp_path / "model.safetensors").write_bytes(bytes(200_000))
    before = weights_digest(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(bytes(100_000) + b"moved" * 4 + bytes(99_980))
    assert "" != before != weights_digest(str(tmp_path)) and weights_digest("org/name-on-a-hub") == ""


def test_a_bill_that_nobody_told_is_unknown(task, tmp_path):
    with serving(metered=False) as (url, _, _):
        result = run(task, url, tmp_path / "run", "--engine", "price_prompt=1e6,price_completion=2e6")
    assert result.exit_code == 0 and f"cost unknown: of {TOTAL} replies the server reported no usage" in result.stderr
    bill = json.loads((tmp_path / "run" / "eval.json").read_text())["bill"]
    assert (bill["num_unmetered"], bill["cost"]) == (TOTAL, None)
    assert {(row["tokens"], row["prompt_tokens"]) for row in rows_of(tmp_path / "run")} == {(None, None)}


def test_reasoning_tokens_are_told_apart_from_the_answers(task, tmp_path):
    with serving(reasoning=4) as (url, _, _):
        assert run(task, url, tmp_path / "told").exit_code == 0
    with serving() as (url, _, _):
        assert run(task, url, tmp_path / "silent").exit_code == 0
    assert {(row["tokens"], row["thinking_tokens"]) for row in rows_of(tmp_path / "told")} == {(6, 4)}
    assert {row["thinking_tokens"] for row in rows_of(tmp_path / "silent")} == {None}
    result = CliRunner().invoke(app, ["report", str(tmp_path / "told"), "--out", str(tmp_path / "page")])
    assert result.exit_code == 0, result.output
    part = json.loads((tmp_path / "page" / "report.json").read_text())["parts"][""]
    overall = part["configurations"][0]["numbers"]["overall"]["all"]
    assert (overall["thinking_tokens"]["value"], overall["answer_tokens"]["value"]) == (4, 2)


def test_a_second_turn_is_asked_after_each_first_one(task, tmp_path):
    out = tmp_path / "run"
    with serving(reasoning=4) as (url, answered, _):
        assert run(task, url, out).exit_code == 0
        first = sum(answered.values())
        result = run(task, url, out, "--also", "two-turns")
        assert result.exit_code == 0, result.output
        again = run(task, url, out, "--also", "two-turns")
    assert f"{TOTAL} of {2 * TOTAL} responses are there already" in result.stderr
    assert f"{2 * TOTAL} of {2 * TOTAL} responses are there already" in again.stderr
    assert (first, sum(answered.values())) == (TOTAL, 2 * TOTAL)  # the first turns are not sampled again
    rows = rows_of(out)
    alone, corrected = rows[:TOTAL], rows[TOTAL:]
    assert {row["configuration"] for row in corrected} == {"responses, corrected"}
    assert {(row["tokens"], row["prompt_tokens"], row["thinking_tokens"]) for row in corrected} == {(12, 10, 8)}
    # The server answers the last number that it was asked about: the second turn is another question to it.
    assert [row["completion"] for row in corrected] != [row["completion"] for row in alone]
    stored = [json.loads(line) for line in list((out / "rollouts.jsonl").open())[1:]]
    assert {row["response_group"] for row in stored} == {"", "second turn"}


def stored_names(out):
    return Counter(json.loads(line)["response_group"] for line in list((out / "rollouts.jsonl").open())[1:])


def test_refining_and_debating_cost_all_their_turns(task, tmp_path):
    out, also = tmp_path / "run", ["--also", "refine", "--also", "debate"]
    with serving(reasoning=4) as (url, answered, _):
        result = run(task, url, out, *also)
        assert result.exit_code == 0, result.output
        asked = sum(answered.values())
        again = run(task, url, out, *also)
        assert sum(answered.values()) == asked == 4 * TOTAL  # first responses, feedback, revisions, choices
    assert f"{4 * TOTAL} of {4 * TOTAL} responses are there already" in again.stderr
    rows = rows_of(out)
    assert Counter(row["configuration"] for row in rows) == {
        "responses": TOTAL,
        "responses, refined": TOTAL,
        "responses, debated": TOTAL,
    }
    for row in rows[TOTAL:]:
        assert (row["tokens"], row["prompt_tokens"], row["thinking_tokens"]) == (18, 15, 12)
        assert row["reward"] == float(row["completion"].endswith(f"It is {int(row['problem_id'][1:]) + 1}"))
    beside = {f"choice beside {n}": NUM_PROBLEMS for n in (1, 2, 3)} | {"choice beside 0": 2 * NUM_PROBLEMS}
    assert stored_names(out) == {"": TOTAL, "feedback": TOTAL, "refined": TOTAL, **beside}


def test_what_a_later_turn_is_asked(task, tmp_path):
    seen = {}

    def answer(body, number):
        text = body["messages"][-1]["content"]
        kind = "feedback" if "Do not solve" in text else "revision" if "put right" in text else "first"
        kind = "choice" if "Solution 2:" in text else kind
        seen[kind] = body["messages"]
        return f"{kind}: it is 3", "stop"

    with chatting(answer) as log:
        result = run(task, log.url, tmp_path / "run", "--also", "refine", "--also", "debate", "--limit", "1")
    assert result.exit_code == 0, result.output
    problem = seen["first"][0]["content"]
    assert [turn["role"] for turn in seen["revision"]] == ["user", "assistant", "user", "assistant", "user"]
    said = [turn["content"] for turn in seen["revision"]]
    assert (said[0], said[1], said[3]) == (problem, "first: it is 3", "feedback: it is 3")
    (choice,) = seen["choice"]
    assert choice["content"].startswith(f"{problem}\n\nSolution 1:\nfirst: it is 3\n\nSolution 2:\nfirst: it is 3\n\n")


def test_more_responses_move_no_stored_debate(task, tmp_path):
    out = tmp_path / "run"
    with serving() as (url, answered, _):
        assert run(task, url, out, "--also", "debate").exit_code == 0
        before = sum(answered.values())
        assert run(task, url, out, "--also", "debate", "--num-responses", "6").exit_code == 0
        # One more first response, its own debate, and that of the one that had no partner of its own.
        assert sum(answered.values()) - before == 3 * NUM_PROBLEMS
    rows = [row for row in rows_of(out) if row["configuration"].endswith("debated")]
    assert Counter(row["tokens"] for row in rows) == {18: 6 * NUM_PROBLEMS}


def test_a_dialogue_behind_another_group_than_the_first(task, tmp_path):
    also = ["--also", "two-turns:standard"]
    with serving() as (url, _, _):
        result = run(task, url, tmp_path / "run", *TWO_GROUPS, *also, *also)
        assert result.exit_code == 0, result.output
    assert "standard share" in result.stdout and "extended" not in result.stdout
    names = Counter(row["configuration"] for row in rows_of(tmp_path / "run"))
    assert names == {"direct": TOTAL, "standard": TOTAL, "standard, corrected": TOTAL}
    assert stored_names(tmp_path / "run") == {"direct": TOTAL, "standard": TOTAL, "second turn, standard": TOTAL}


def test_nobody_goes_on_from_responses_that_were_cut_off(task, tmp_path):
    def answer(body, number):
        return "It goes on and", "length"

    with chatting(answer) as log:
        also = [part for way in ("two-turns", "refine", "debate") for part in ("--also", way)]
        result = run(task, log.url, tmp_path / "run", *also)
        assert result.exit_code == 0, result.output
        again = run(task, log.url, tmp_path / "run", *also)
    assert f"{TOTAL} of {TOTAL} responses are there already" in again.stderr
    tokens = {row["configuration"]: row["tokens"] for row in rows_of(tmp_path / "run")}
    assert tokens["responses, debated"] == 2 * tokens["responses"]
    assert {row["finish_reason"] for row in rows_of(tmp_path / "run")} == {"length"}


def test_where_a_later_turn_is_cut_or_fails_the_first_response_stands_at_its_full_cost(task, tmp_path):
    """Feedback to even problems is cut off; a revision no longer fits the model."""

    def answer(body, number):
        text = body["messages"][-1]["content"]
        if "put right" in text:
            raise Fault(400, "This model's maximum context length is 8 tokens")
        if "Do not solve" in text:
            even = int(body["messages"][0]["content"].split(" + ")[0]) % 2 == 0
            return "A step is 7 and", "length" if even else "stop"
        return f"It is {int(text.split(' + ')[0]) + 1}", "stop"

    out = tmp_path / "run"
    with chatting(answer) as log:
        result = run(task, log.url, out, "--also", "refine", "--engine", "max_retries=0")
        assert result.exit_code == 0, result.output
        # Nothing but refused turns is left to ask: that is no dead server.
        again = run(task, log.url, out, "--also", "refine", "--engine", "max_retries=0")
        assert again.exit_code == 0 and f"{TOTAL // 2} later turns failed" in " ".join(again.stderr.split())
    said = " ".join(result.stderr.split())
    assert f"caution: {TOTAL // 2} later turns failed, the first: problem" in said and "maximum context length" in said
    rows = rows_of(out)
    tokens = {row["tokens"] for row in rows[:TOTAL]}
    assert len(rows) == 2 * TOTAL and len(tokens) == 1
    refined = {(row["reward"], row["tokens"], row["finish_reason"]) for row in rows[TOTAL:]}
    assert refined == {(1.0, tokens.pop() + 5, "stop")}  # the server counts words


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--also", "two-turn"], "--also two-turn: is not one of chooses, two-turns, refine, debate"),
        (["--also", "refine:standart", "--response-group", "standard"], "--also refine:standart: no such"),
        (["--also", "debate", "--num-responses", "1"], "--also debate: compares two responses"),
        (
            [*TWO_GROUPS, "--also", "chooses", "--also", "two-turns:chooses itself"],
            "two-turns:chooses itself: no such response group",
        ),
    ],
)
def test_ways_that_cannot_be_are_refused_before_sampling(task, tmp_path, more, said):
    with serving() as (url, answered, _):
        result = run(task, url, tmp_path / "run", *more)
        assert_one_line(result, said)
        assert not answered


def test_a_store_of_before_is_read_on(task, tmp_path):
    with serving() as (url, answered, _):
        assert run(task, url, tmp_path / "run").exit_code == 0
        store = tmp_path / "run" / "rollouts.jsonl"
        lines = [json.loads(line) for line in store.open()]
        for line in lines[1:]:
            del line["num_thinking_tokens"]
        store.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert run(task, url, tmp_path / "run").exit_code == 0
    assert sum(answered.values()) == TOTAL
    assert {row["thinking_tokens"] for row in rows_of(tmp_path / "run")} == {None}


def test_more_responses_are_added_to_those_that_are_there(task, tmp_path):
    with serving() as (url, answered, _):
        run(task, url, tmp_path / "run", "--num-responses", 2)
        assert run(task, url, tmp_path / "run").exit_code == 0
        assert_whole(tmp_path / "run")
        assert sum(answered.values()) == TOTAL
        other = run(task, url, tmp_path / "run", "--temperature", 0.5)
    assert_one_line(other, "was started with other settings (in temperature)")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fifth_of_the_calls_fails(task, tmp_path, fault):
    rng = random.Random(fault)
    with serving(lambda number: fault if rng.random() < 0.2 else None) as (url, answered, faults):
        result = run(task, url, tmp_path / "run", "--engine", "max_passes=8")
    assert result.exit_code == 0, result.output
    assert faults[fault] >= 5
    assert_whole(tmp_path / "run")
    assert set(answered.values()) == {1}


def test_what_never_answers_is_said_and_the_rest_is_kept(task, tmp_path):
    out = tmp_path / "run"
    with serving(lambda number: "garbage" if number % 2 else None) as (url, _, _):
        result = run(task, url, out, "--engine", "max_passes=1,num_concurrent=1")
    assert_one_line(result, f"{TOTAL // 2} responses failed in 1 passes, the first: problem p")
    assert f"{TOTAL // 2} are kept" in result.stderr and not (out / "responses.jsonl").exists()
    with serving() as (url, answered, _):
        assert run(task, url, out, "--moved").exit_code == 0
    assert sum(answered.values()) == TOTAL // 2
    assert_whole(out)


def test_a_dead_server_is_given_up_soon(task, tmp_path):
    with serving(lambda number: "garbage") as (url, _, faults):
        result = run(task, url, tmp_path / "run")
    assert_one_line(result, "the first 16 requests failed")
    assert faults["garbage"] < TOTAL


def test_tokens_that_the_server_does_not_tell_are_unknown(task, tmp_path):
    from ibpo.evaluation.sampling import Way, judge_ways
    from ibpo.rewards.judges import ExactJudge
    from ibpo.rollouts.sampler import as_sampled
    from ibpo.rollouts.store import RolloutStore
    from ibpo.types import Problem

    problem = Problem(problem_id="p", prompt="", answer="2")
    [request] = Way(configuration="c").requests([problem], 1)
    store = RolloutStore(tmp_path / "s.jsonl")
    store.add(as_sampled(request, "it is 2", "stop", 0, 0))
    [row] = judge_ways([Way(configuration="c")], [problem], 1, store, ExactJudge())
    assert row["tokens"] is None and row["reward"] == 1.0


def test_a_local_model_keeps_the_samplers_contract_and_answers_greedily(tmp_path):
    """What `ibpo eval` samples by is the sampler that tests/rollouts/test_samplers.py holds to the contract."""
    pytest.importorskip("torch")
    from ibpo.commands.eval_setup import local_policy
    from ibpo.evaluation.sampling import Way
    from ibpo.rollouts.hf import HFRequestSampler

    fixed = ["eval", "embedded:thinking", "thinking", "--also", "chooses", "--limit", 6, "--num-responses", 2]
    fixed += ["--max-tokens", 40, "--temperature", 0, "--engine", "batch_size=5"]
    result = CliRunner().invoke(app, [*map(str, fixed), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").open()][1:]
    assert len(rows) == 6 * 2 * 3 and {row["response_group"] for row in rows} == {"standard", "extended", ""}
    said = {(row["problem_id"], row["response_group"]): row["completion"] for row in rows}
    assert all(row["completion"] == said[row["problem_id"], row["response_group"]] for row in rows)
    policy = local_policy("embedded:thinking", max_tokens=9, temperature=0.0, seed=0, batch_size=2, dtype="float32")
    assert isinstance(policy.sampler_for(Way(configuration="w")), HFRequestSampler)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--set", "data.judge=maths"],
            "--set data.judge=maths: 'maths' is not one of math, exact, code, llm",
        ),
        (["--response-group", "cott"], "--response-group cott: no such response group"),
        (["--temperature", "inf"], "--temperature inf: is not a temperature"),
        (["--also", "chooses"], "--also chooses: "),
        (["--engine", "api_key_file=/absent"], "--engine api_key_file: /absent: cannot be read"),
    ],
)
def test_what_is_refused(task, tmp_path, more, said):
    if more == ["--also", "chooses"]:
        more = ["--also", "chooses", "--response-group", "effort_low"]
    result = CliRunner().invoke(app, [*arguments(task, "http://127.0.0.1:9/v1", tmp_path / "run"), *more])
    assert_one_line(result, said)


def spawn(task, url, out, *more, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from ibpo.cli import main; main()", *arguments(task, url, out, *more)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_full_disk_is_said_and_a_rerun_goes_on(task, tmp_path):
    """A limit on the size of files stands in for the disk: the write fails in the middle of a line."""
    out = tmp_path / "run"

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    with serving() as (url, answered, _):
        process = spawn(task, url, out, "--engine", "num_concurrent=2", preexec_fn=limit)
        _, stderr = process.communicate(timeout=280)
        assert process.returncode == 2, stderr
        assert "cannot be written" in stderr and "make room and run the same command again" in stderr
        assert "Traceback" not in stderr
        stored = (out / "rollouts.jsonl").read_text()
        assert stored.endswith("\n") and len(stored) <= 5000  # whole lines only
        kept = len(stored.splitlines()) - 1
        assert 0 < kept < TOTAL
        assert run(task, url, out).exit_code == 0
    assert_whole(out)
    assert sum(answered.values()) <= TOTAL + 2 * 2  # what was in flight when the disk was full is asked again


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "num_kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.stress)]
)
def test_killed_at_random_moments(task, tmp_path, num_kills):
    """Most kills come while responses arrive, after a random number of them; what they lose was in flight.

    Every fifth comes at any time, and the last ones after all responses have come: while they are judged and written.
    """
    out, said, rng, in_flight, seen = tmp_path / "run", tmp_path / "said", random.Random(num_kills), 2, Counter()
    num_responses = 20 if num_kills < 20 else 200
    num_late, wanted = num_kills // 5, num_responses * NUM_PROBLEMS
    store = out / "rollouts.jsonl"

    def stored():
        return max(0, store.read_bytes().count(b"\n") - 1) if store.exists() else 0

    with serving(lambda number: "500" if number % 5 == 0 else None, seconds=0.02) as (url, answered, _):
        more = ("--num-responses", num_responses, "--engine", f"num_concurrent={in_flight}")
        more += ("--engine", "price_prompt=1e6,price_completion=2e6")

        def complete(folder):
            with running(said, *arguments(task, url, folder, *more)) as process:
                process.join()
                assert process.exitcode == 0, said.read_text()

        def interrupt(number, late):
            before = stored()
            with running(said, *arguments(task, url, out, *more)) as process:
                if late or number % 5 == 4:
                    moment(rng, 1.0)
                else:
                    goal = before + rng.randint(1, 12)
                    assert wait_until(process, lambda: stored() >= goal or stored() == wanted, 0.001), said.read_text()
                    moment(rng, 0.02)
                if not send(process, rng.choice((KILL, TERM))):
                    assert process.exitcode == 0, said.read_text()
                    seen["too late"] += 1
            assert len(answered) >= stored() >= before
            seen["while judged and written" if late else "while responses came" if stored() > before else "before"] += 1

        for number in range(num_kills - num_late):
            interrupt(number, late=False)
        num_asked, num_kept = sum(answered.values()), stored()
        assert num_kept < wanted and num_asked <= num_kept + in_flight * (num_kills - num_late)
        complete(out)
        num_asked = sum(answered.values())
        about = json.loads((out / "eval.json").read_text())
        assert sum(call["num_new"] for call in about["calls"]) == wanted
        assert about["bill"]["cost"] >= 17 * wanted  # what was lost in flight costs too, and is not known
        for number in range(num_late):
            if rng.random() < 0.5:
                (out / "responses.jsonl").unlink(missing_ok=True)
            interrupt(number, late=True)
            if (out / "responses.jsonl").exists():
                assert_whole(out, wanted)
        complete(out)
        assert len(answered) == wanted and sum(answered.values()) == num_asked
        complete(tmp_path / "whole")
    assert_whole(out, wanted)
    assert (out / "responses.jsonl").read_bytes() == (tmp_path / "whole" / "responses.jsonl").read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    calls = json.loads((out / "eval.json").read_text())["calls"]
    assert sum(call["num_new"] for call in calls) == wanted and calls[-1]["ended"]
    print(f"{num_kills} ends", dict(seen), "asked again", num_asked - wanted)


@pytest.mark.parametrize("terminal", [True, False])
def test_time_and_money_still_to_come(monkeypatch, terminal):
    import io

    from rich.console import Console

    from ibpo.commands import eval_setup
    from ibpo.endpoint import Bill, Endpoint
    from ibpo.rollouts.sampler import Request, as_sampled
    from ibpo.types import Problem

    now = [100.0]
    monkeypatch.setattr(eval_setup.time, "monotonic", lambda: now[0])
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", model="m")
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=200)
    request = Request(problem=Problem(problem_id="p", prompt="", answer=""), number=0)
    with eval_setup.EvalProgress(console, 100, 40, endpoint) as progress:
        now[0] += 300.0  # the model is loaded: no part of a response's time
        for number in range(10):
            now[0] += 12.0
            endpoint.bill = Bill(cost=0.5 * (number + 1))
            progress.on_outcome(as_sampled(request, "", "stop", 1, 1))
        assert progress.text() == "50 of 100 responses, about 10 min left, cost 5, about 25 to come"
        progress.on_outcome(IbpoError("no"))
        assert progress.text().endswith("1 failed so far")
    assert "40 of 100 responses are there already" in said.getvalue()
    assert ("about 10 min left" in said.getvalue()) or terminal


def told(fields, reason, task, out, *more):
    """`ibpo eval` in front of a server that gives these fields of a message to problem `n + 1 =`; (result, rows)."""

    def answer(body, number):
        del number
        asked = int(body["messages"][0]["content"].split(" + 1 =")[0].split()[-1])
        done = {
            key: value.replace("@", str(asked + 1)) if isinstance(value, str) else value
            for key, value in fields.items()
        }
        return done, reason

    with chatting(answer) as log:
        result = run(task, log.url, out, "--num-responses", 1, *more)
    assert result.exit_code == 0, result.output
    return result, rows_of(out)


def test_all_ways_are_asked_at_once(task, tmp_path):
    """A server that answers nobody before it has been asked for all: no way waits for another's last response."""
    together = threading.Barrier(6, timeout=30)

    def answer(body, number):
        del body, number
        together.wait()
        return r"\boxed{1}", "stop"

    groups = ["--response-group", "thinking_off", "--response-group", "standard", "--also", "chooses"]
    with chatting(answer) as log:
        more = ["--limit", 2, "--num-responses", 1, "--engine", "num_concurrent=6,max_retries=0,max_passes=1"]
        result = run(task, log.url, tmp_path / "run", *groups, *more)
    assert result.exit_code == 0, result.output
    assert len(rows_of(tmp_path / "run")) == 6


PARSED = [
    {"content": r"\boxed{@}", "reasoning": "I count."},
    {"content": r"\boxed{@}", "reasoning_content": "I count."},
    {"content": "<think>\nI count.\n</think>\n\n" + r"\boxed{@}"},
    {"content": "I count.\n</think>\n\n" + r"\boxed{@}"},
    {"content": "<|channel|>analysis<|message|>I count.<|end|><|start|>assistant<|channel|>final<|message|>\\boxed{@}"},
    {"content": "analysisI count.assistantfinal" + r"\boxed{@}"},
    {"content": "[THINK]I count.[/THINK]" + r"\boxed{@}"},
    {"content": "I count.[/THINK]" + r"\boxed{@}"},
    {"content": r"\boxed{@}", "reasoning_details": [{"type": "reasoning.text", "text": "I count."}]},
    {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "I count."}]},
            {"type": "text", "text": r"Well \boxed{4}"},
        ]
    },
]


@pytest.mark.parametrize("fields", PARSED)
def test_a_thought_beside_the_answer_is_the_tagged_response(task, tmp_path, fields):
    """Servers with a reasoning parser, with half of one, and with none: the same response, so the same accuracy."""
    groups = ["--response-group", "thinking_on", "--response-group", "thinking_off", "--response-group", "standard"]
    if isinstance(fields["content"], list):  # the same answer to every problem
        task.write_text("".join(line.replace('"answer": ', '"answer": 4, "x": ') for line in task.open()))
    result, rows = told(fields, "stop", task, tmp_path / "run", *groups)
    by_group = {name: [r for r in rows if r["configuration"] == name] for name in groups[1::2]}
    assert {row["reward"] for row in by_group["thinking_on"]} == {1.0}
    assert all(
        row["completion"].startswith("<think>") and "I count." in row["completion"] for row in by_group["thinking_on"]
    )
    assert {row["answer"] for row in by_group["thinking_off"]} == {None}  # it thought
    assert "caution: thinking_off: none of the 20 responses that ended gives an answer" in result.stderr
    assert "does not open with '<think>\\n\\n</think>" in result.stderr
    standard = by_group["standard"]  # opens by a word, which these do not
    assert {row["answer"] for row in standard} == {None} and {row["reasoning"] for row in standard} == {"I count."}


def test_a_bare_prompt_offers_no_response_group_to_open_like(task, tmp_path):
    result, _ = told({"content": "", "reasoning": "It is @"}, "stop", task, tmp_path / "run")
    assert "caution: responses: none of the 20 responses that ended gives an answer" in result.stderr
    assert "its reader finds no answer" in result.stderr and "like no response group" not in result.stderr


def test_an_answer_without_thought_is_read_where_thinking_is_off(task, tmp_path):
    group = ["--response-group", "thinking_off"]
    result, rows = told({"content": r"\boxed{@}", "reasoning": None}, "stop", task, tmp_path / "run", *group)
    assert {row["reward"] for row in rows} == {1.0} and "caution" not in result.stderr


@pytest.mark.parametrize(
    ("group", "reasoning", "reason"),
    [
        ("thinking_off", r"It is \boxed{@}", "stop"),
        ("direct", r"Answer: \boxed{@}", "stop"),
        ("standard", "\n\nSolution: it is \\boxed{@}", "stop"),
        ("direct", r"Answer: \boxed{@}", "length"),
    ],
)
def test_an_answer_that_a_parser_calls_a_thought_is_an_answer(task, tmp_path, group, reasoning, reason):
    """vLLM's parser for DeepSeek-R1 waits for the end of a thought that the policy never opened."""
    fields = {"content": None, "reasoning_content": reasoning}
    result, rows = told(fields, reason, task, tmp_path / "run", "--response-group", group)
    assert {row["reward"] for row in rows} == {float(reason == "stop")}
    assert {(row["thought"], row["thinking_tokens"]) for row in rows} == {("", 0)}
    assert "caution" not in result.stderr


def test_a_word_behind_a_thought_is_read_and_the_thought_kept_beside(task, tmp_path):
    fields = {"content": r"Quickly: \boxed{@}", "reasoning": "I count."}
    result, rows = told(fields, "stop", task, tmp_path / "run", "--response-group", "effort_low")
    assert {(row["reward"], row["reasoning"]) for row in rows} == {(1.0, "I count.")}
    assert "caution: effort_low: 20 of 20 responses think before they open as asked" in result.stderr


@pytest.mark.parametrize(
    ("said", "reason"),
    [(word, "stop") for word in ("eos", "eos_token", "stop_sequence", "STOP", "end_turn", "COMPLETE")]
    + [(word, "length") for word in ("max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens", "length")],
)
def test_what_servers_call_an_end_and_a_limit(task, tmp_path, said, reason):
    result, rows = told({"content": "It is @"}, said, task, tmp_path / "run")
    assert {row["finish_reason"] for row in rows} == {reason}
    assert {row["reward"] for row in rows} == {float(reason == "stop")}
    assert ("100.0%" if reason == "length" else "0.0%") in result.stdout.splitlines()[-3]


def test_an_end_that_is_neither_is_said(task, tmp_path):
    result, _ = told({"content": "It is @"}, "content_filter", task, tmp_path / "run")
    assert "caution: 20 responses ended by 'content_filter', which is neither an end nor a limit" in result.stderr


@pytest.mark.parametrize(
    ("fields", "reason", "thought"),
    [
        ({"content": None, "reasoning": "I count to 4"}, "length", "cut"),
        ({"content": None, "reasoning": "I count to 4"}, "stop", "unanswered"),
        ({"content": "<think>\nI count to 4"}, "stop", "cut"),  # a stop string, a budget of thinking
        ({"content": "<think>\nI count to 4\n</think>\n\n"}, "stop", "unanswered"),
    ],
)
@pytest.mark.parametrize("group", [[], ["--response-group", "thinking_on"]])
def test_thoughts_that_were_cut_are_told_apart(task, tmp_path, fields, reason, thought, group):
    result, rows = told(fields, reason, task, tmp_path / "run", *group)
    assert {row["thought"] for row in rows} == {thought} and {row["answer"] for row in rows} == {None}
    said = "a thought that was cut" if thought == "cut" else "a thought and no answer"
    assert f"20 of 20 responses are {said}" in result.stderr
    assert ("thought cut" if thought == "cut" else "no answer") in result.stdout


def test_an_embedded_model_is_evaluated_with_the_defaults(tmp_path):
    """Its positions are 1,024, prompt included."""
    run = tmp_path / "run"
    result = CliRunner().invoke(app, ["eval", "embedded:thinking", "thinking", "--out", str(run), "--limit", "2"])
    assert result.exit_code == 0, result.output
    assert json.loads((run / "eval.json").read_text())["settings"]["max_tokens"] == THINKING.max_completion_length
    assert default_max_tokens("embedded:thinking", "gsm8k") == 512 and default_max_tokens(None, "gsm8k") == 1024


def test_the_report_of_a_run_that_did_not_end_says_so(tmp_path):
    run = tmp_path / "run"
    failed = ["eval", "embedded:thinking", "thinking", "--out", str(run), "--limit", "2", "--max-tokens", "1024"]
    result = CliRunner().invoke(app, failed)
    assert result.exit_code and "exceed the model's 1024 positions" in result.output
    told = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "page")])
    assert "is a run of ibpo eval that has not ended" in told.output


def test_a_system_message_stands_in_front_of_every_problem(task, tmp_path):
    recipe = tmp_path / "data.toml"
    recipe.write_text(f'[data]\npath = "{task}"\njudge = "exact"\nsystem = "Be brief."\n')
    with chatting(lambda body, number: ("It is 1", "stop")) as log:
        result = CliRunner().invoke(
            app, ["eval", "m", str(recipe), "--base-url", log.url, "--out", str(tmp_path / "run"), "--limit", "2"]
        )
    assert result.exit_code == 0, result.output
    roles = [[message["role"] for message in body["messages"]] for body in log.requests]
    assert roles and all(one == ["system", "user"] for one in roles)


def test_a_free_choice_that_opens_like_no_group_is_said():
    """Then the share of each group says nothing of the policy (R4)."""
    from ibpo.evaluation.sampling import CHOOSES, cautions
    from ibpo.types import ResponseGroup

    row = {"configuration": CHOOSES, "finish_reason": "stop", "answer": "4", "completion": "4", "thought": ""}
    groups = [ResponseGroup(name="standard", prefix="Answer:"), ResponseGroup(name="extended", prefix="<think>")]
    for lost in (1, 2, 3):
        rows = [row | {"response_group": "" if i < lost else "standard"} for i in range(4)]
        said = [text for text in cautions(rows, groups) if "open like no response group" in text]
        assert said == ([f"{CHOOSES}: 3 of 4 responses that ended open like no response group"] if lost == 3 else [])
