"""Logs as the tools that people use write them: each fixture is read without an option, or with one."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from ibpo.data import LogColumns, LogError, MissingColumns, Source, files_below, read_log, read_log_rows

LOGS = Path(__file__).parent.parent / "fixtures" / "logs"
TOKENS = {("q1", "low"): 12, ("q2", "low"): 16, ("q1", "high"): 96, ("q2", "high"): 133, ("q6", "low"): 21}
RIGHT = {("q1", "low"), ("q2", "low"), ("q3", "low"), *((f"q{n}", "high") for n in range(1, 6))}
FAILED = ("q3", "high")
"""The request that failed, in the logs of tools that record failures."""
OPENAI = {f"q{n}-{effort}": (f"q{n}", effort) for n in range(1, 7) for effort in ("low", "high")}


@pytest.fixture
def rewards(tmp_path):
    """The rewards that many logs do not hold, as a table of their own."""

    def write(identifier, names):
        path = tmp_path / "rewards.csv"
        rows = [f"{name},{int(key in RIGHT)}" for name, key in names.items()]
        path.write_text("\n".join([f"{identifier},reward", *rows]) + "\n")
        return path

    return write


def rows_of(path):
    return [row for _, row in read_log_rows(Source(path=path)) if not isinstance(row, LogError)]


def names_of(path):
    return {row["request_id"]: (row["problem_id"], row["response_group"]) for row in rows_of(path)}


def cells(log):
    keys = zip(log.problem, log.response_group, strict=True)
    return dict(zip(keys, zip(log.reward, log.cost, strict=True), strict=True))


def check(found, *, failed=True, last=512):
    """Every problem at both efforts, right or wrong as made, with its tokens, but for the failed request."""
    gone = {FAILED} if failed else set()
    assert set(found) == {(f"q{n}", e) for n in range(1, 7) for e in ("low", "high")} - gone
    assert {key for key, (reward, _) in found.items() if reward} == RIGHT - gone
    for key, cost in (TOKENS | {("q6", "high"): last}).items():
        assert found[key][1] == cost


@pytest.mark.parametrize(
    "name",
    ["semicolon.csv", "yes_no.csv", "json_cell.csv", "array.json", "log.jsonl.gz", "log.jsonl.zst", "struct.parquet",
     "log.arrow", "log.feather", "hive"],
)  # fmt: skip
def test_plain_tables_of_every_shape(name):
    check(cells(read_log(LOGS / "plain" / name)), failed=False, last=1297)


def test_dotted_names_reach_into_cells_that_hold_json():
    log = read_log(
        LOGS / "plain" / "json_cell.csv", LogColumns(cost="usage.completion_tokens_details.reasoning_tokens")
    )
    assert cells(log)["q1", "low"] == (1.0, 8.0)


def test_a_row_of_a_failed_request_is_left_out_and_counted():
    log = read_log(LOGS / "plain" / "object.json")
    check(cells(log), last=1297)
    assert "1 left out: failed requests" in log.notes


def test_what_is_missing_is_said_at_once_with_what_the_command_lacks():
    with pytest.raises(MissingColumns, match="no column for the response group") as error:
        read_log(LOGS / "plain" / "tabs.tsv")
    assert error.value.options == ("--columns", "response_group=budget")
    log = read_log(LOGS / "plain" / "tabs.tsv", LogColumns(response_group="budget"))
    assert len(log.problem) == 24 and set(log.response_group) == {"low", "high"}


def test_four_missing_columns_are_one_error(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{p},{e},{r},{t}" for p in "xy" for e, r, t in (("fast", 0, 120), ("slow", 1, 900))]
    path.write_text("\n".join(["asked,speed,verdict_right,used", *rows]) + "\n")
    with pytest.raises(MissingColumns) as error:
        read_log(path)
    assert all(
        f"no column for the {what}" in str(error.value) for what in ("problem", "response group", "reward", "cost")
    )
    assert error.value.options == ("--columns", "problem=asked,response_group=speed,reward=verdict_right,cost=used")


@pytest.mark.parametrize("name", ["output.jsonl", "responses", "responses/output.jsonl"])
def test_openai_batch_is_joined_to_its_input_and_to_rewards(name, rewards):
    path = LOGS / "openai_batch" / name
    with pytest.raises(MissingColumns, match="join a table with custom_id and reward") as error:
        read_log(path)
    assert error.value.options == ("REWARDS.csv",)
    log = read_log(path, join=[rewards("custom_id", OPENAI)])
    check(cells(log))
    said = " ".join(log.notes)
    assert "read as OpenAI batch" in said and "requests of the batch's input by custom_id" in said
    assert "joined rewards.csv by custom_id: 11 of 11 rows" in said


def test_rewards_beside_a_log_are_joined(tmp_path, rewards):
    folder = tmp_path / "batch"
    folder.mkdir()
    for file in (LOGS / "openai_batch").glob("*.jsonl"):
        (folder / file.name).write_bytes(file.read_bytes())
    rewards("custom_id", OPENAI).rename(folder / "rewards.csv")
    log = read_log(folder)
    check(cells(log))
    assert "2 left out: failed requests" in log.notes


def test_the_input_of_a_batch_alone_is_no_log():
    with pytest.raises(LogError, match="the input of a batch, which has no answers"):
        read_log(LOGS / "openai_batch" / "input.jsonl")


@pytest.mark.parametrize("name", ["pairs.jsonl", "responses.jsonl", "stored_completions.json"])
def test_answers_of_openais_api(name, rewards):
    path = LOGS / "openai_chat" / name
    rows = rows_of(path)
    check(cells(read_log(path, join=[rewards("request_id", names_of(path))])), failed=len(rows) == 11)
    assert {row["finish_reason"] for row in rows} <= {"stop", "length", "max_output_tokens"}
    assert all(row["thinking_tokens"] < row["tokens"] or row["finish_reason"] != "stop" for row in rows)


def test_litellm_spend_logs(rewards):
    for name in ("spend_logs.json", "LiteLLM_SpendLogs.csv"):
        source = Source(path=LOGS / "litellm" / name)
        rows = [row for _, row in read_log_rows(source)]
        assert len(rows) == 11 and source.left_out["failed requests"] == 1
        assert any("read as LiteLLM spend log" in note for note in source.notes)
    path = LOGS / "litellm" / "spend_logs.json"
    check(cells(read_log(path, join=[rewards("request_id", names_of(path))])))


@pytest.mark.parametrize("name", ["match", "numeric"])
def test_inspect_logs_packed_by_zstd_or_as_json(name):
    log = read_log(LOGS / "inspect" / name)
    assert len(log.problem) == 23 and "1 left out: samples that ended in an error" in log.notes
    assert any("response group = reasoning effort of the plan" in note for note in log.notes)
    found = {}
    for *key, reward, cost in zip(log.problem, log.response_group, log.reward, log.cost, strict=True):
        found.setdefault(tuple(key), []).append((reward, cost))
    assert found["q1", "low"][0] == (1.0, 12.0) and found["q6", "high"][0] == (0.0, 512.0)
    assert sorted(reward for reward, _ in found["q3", "low"]) == [0.0, 1.0]


def test_inspect_packed_by_deflate_as_earlier_versions_did_is_the_same(tmp_path):
    source = min((LOGS / "inspect" / "numeric").iterdir())
    log = json.loads(source.read_text())
    samples = log.pop("samples")
    with zipfile.ZipFile(tmp_path / "log.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps(log))
        for sample in samples:
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
    packed, whole = (
        [(row["problem_id"], row["reward"], row["tokens"], row["response_group"]) for row in rows_of(path)]
        for path in (tmp_path / "log.eval", source)
    )
    assert packed == whole and len(whole) == 12


def test_promptfoos_failed_assertions_are_wrong_answers_and_failed_requests_are_left_out():
    for name in ("out.json", "out.jsonl"):
        log = read_log(LOGS / "promptfoo" / name)
        check({(p, g.removeprefix("thinker-")): v for (p, g), v in cells(log).items()})
        assert "1 left out: failed requests" in log.notes
    with pytest.raises(LogError, match=r"promptfoo's CSV holds no tokens; write its results with -o FILE.json"):
        read_log(LOGS / "promptfoo" / "out.csv")


def test_langfuse_exports():
    log = read_log(LOGS / "langfuse" / "observations.csv")
    check(cells(log))
    assert "reward = score correct" in log.notes
    with pytest.raises(MissingColumns, match="no column for the cost") as error:
        read_log(LOGS / "langfuse" / "traces.json")
    assert "an export of traces holds no tokens: export the observations" in error.value.notes


def test_helicone_exports(rewards):
    path = LOGS / "helicone" / "output.csv"
    check(cells(read_log(path, join=[rewards("request_id", names_of(path))])))


@pytest.mark.parametrize("name", ["console_spans.jsonl", "otlp_traces.jsonl"])
def test_opentelemetry_spans_with_their_evaluation_events(name):
    check(cells(read_log(LOGS / "otel" / name)))


def test_trl_completions():
    log = read_log(LOGS / "trl" / "extra")
    assert set(log.response_group) == {"low", "high"} and "reward = has_first_digit" in log.notes
    with pytest.raises(MissingColumns, match="no column for the response group"):
        read_log(LOGS / "trl" / "default")


def test_verl_rollouts_have_no_groups_and_scores_of_minus_one_are_wrong():
    with pytest.raises(MissingColumns, match="no column for the response group") as error:
        read_log(LOGS / "verl" / "rollout")
    assert error.value.options == ("--columns", "response_group=COLUMN")  # a gold answer is none
    assert any("read as verl rollouts" in note for note in error.value.notes)
    log = read_log(LOGS / "verl" / "rollout", LogColumns(response_group="step"))
    assert set(log.reward) == {0.0, 1.0} and "the log holds no tokens: cost = characters of the completion" in log.notes


def test_lm_eval_runs_in_one_folder_are_configurations_of_their_own(tmp_path):
    samples = next((LOGS.parent / "lm_eval").rglob("samples_digit_sums_2*"))
    folder = tmp_path / "model"
    folder.mkdir()
    dates = ("2026-11-01T00-00-00.000000", "2026-11-02T00-00-00.000000")
    for date in dates:
        (folder / f"samples_t_{date}.jsonl").write_bytes(samples.read_bytes())
    config = {"config": {"model_args": "pretrained=x,think_end_token=</think>"}}
    (folder / f"results_{dates[1]}.json").write_text(json.dumps(config))
    log = read_log(folder)
    assert set(log.response_group) == {f"model {date}" for date in dates}
    said = " ".join(log.notes)
    assert "model holds 2 runs of t" in said and "its texts hold no thoughts" in said and "passed over" not in said


def test_lm_eval_runs_are_named_by_what_they_were_asked_with_and_lost_thoughts_are_told():
    log = read_log(LOGS / "lm_eval" / "thinker")
    assert set(log.response_group) == {"thinker reasoning_effort=low", "thinker reasoning_effort=high"}
    assert any("was made with think_end_token" in note for note in read_log(LOGS / "lm_eval").notes)


def test_helm_runs():
    log = read_log(LOGS / "helm")
    assert len(log.problem) == 6 and log.reward.sum() == 5
    assert "HELM counts the tokens of the visible text only: thoughts are not in its costs" in log.notes


def test_rewards_above_one_are_refused_with_the_fix_and_can_be_divided(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"id": p, "effort": e, "score": s, "tokens": 5} for p in "ab" for e, s in (("low", 40), ("high", 90))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(LogError, match=r"40 is not from 0 to 1.*--columns reward=score/100"):
        read_log(path)
    assert read_log(path, LogColumns(reward="score/100")).reward.tolist() == [0.4, 0.9, 0.4, 0.9]


def test_a_folder_of_several_tools_is_refused(tmp_path):
    for name in ("promptfoo/out.jsonl", "otel/console_spans.jsonl"):
        (tmp_path / Path(name).name).write_bytes((LOGS / name).read_bytes())
    with pytest.raises(LogError, match=r"holds logs of several tools, .*name the folder or file of one"):
        read_log(tmp_path)


def test_a_folder_that_a_run_still_works_in_can_be_listed(tmp_path):
    """A checkpoint that the run removes between two looks is passed over; `Path.rglob` ended with FileNotFoundError."""
    for name in ("log.jsonl", "checkpoint-1/state.json", "checkpoint-2/state.json"):
        write_rows(tmp_path / name, [{"name": name}])
    found = files_below(tmp_path)
    assert next(found) == tmp_path / "log.jsonl"
    shutil.rmtree(tmp_path / "checkpoint-1")
    assert list(found) == [tmp_path / "checkpoint-2" / "state.json"]


def test_a_copied_file_does_not_count_twice(tmp_path):
    """The same bytes in the same folder; in other folders the effort or the model may be what they are called."""
    rows = [{"id": p, "reward": 1, "tokens": 5} for p in "ab"]
    for name in ("effort=low/log.jsonl", "effort=low/log (1).jsonl", "effort=high/log.jsonl"):
        write_rows(tmp_path / name, rows)
    write_rows(tmp_path / "effort=high/more.jsonl", rows[::-1])
    log = read_log(tmp_path)
    assert len(log.reward) == 6
    assert [note for note in log.notes if "copy" in note] == [
        "passed over, for it is a copy of log (1).jsonl: log.jsonl"
    ]


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(num_samples=1):
    """(problem, effort, sample, reward, tokens) of what `check` expects of a log in which nothing failed."""
    spent = (
        {(f"q{p}", e): 10 * p + len(e) for p in range(1, 7) for e in ("low", "high")} | TOKENS | {("q6", "high"): 512}
    )
    return [(*key, s, int(key in RIGHT), tokens) for key, tokens in spent.items() for s in range(num_samples)]


@pytest.mark.parametrize(
    "head",
    ["Problem,Effort,Correct,Tokens", "PROBLEM_ID,EFFORT,IS_CORRECT,OUTPUT_TOKENS", "id, effort, reward, tokens",
     "Problem ID,Reasoning effort,Is correct,Output tokens", "problemId,reasoningEffort,isCorrect,outputTokens",
     "sep=,\nid,effort,reward,tokens", "\n\nid,effort,reward,tokens", '"id", "effort", "reward", "tokens"'],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_headers_are_found_whatever_their_capitals_spaces_and_signs(head, kind, tmp_path):
    sign = ", " if ", " in head else ","
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        lines = [sign.join(map(str, (p, e, r, t))) for p, e, _, r, t in made()]
        path.write_text("\n".join([head, *lines]) + "\n")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        names = head.splitlines()[-1].replace('"', "").split(sign)
        table = pyarrow.table(list(zip(*((p, e + " ", r, t) for p, e, _, r, t in made()), strict=True)), names=names)
        pyarrow.parquet.write_table(table, path)
    check(cells(read_log(path)), failed=False)


def test_two_columns_that_differ_by_capitals_are_not_guessed_between(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"id": 1, "effort": "x", "reward": 1, "Tokens": 1, "TOKENS": 2}] * 2)
    with pytest.raises(MissingColumns, match="no column for the cost"):
        read_log(path)


USAGES = {
    "xai": lambda t: {"usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": t + 9}},
    "xai_without_total": lambda t: {
        "usage": {"completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": t - 2}}
    },
    "gemini": lambda t: {
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 8, "thoughtsTokenCount": t - 8}
    },
    "gemini_sdk": lambda t: {
        "usage_metadata": {"prompt_token_count": 9, "thoughts_token_count": t, "total_token_count": t + 9}
    },
    "anthropic": lambda t: {"usage": {"input_tokens": 9, "output_tokens": t, "cache_read_input_tokens": 0}},
}


@pytest.mark.parametrize("server", USAGES)
def test_rows_of_ones_own_with_a_servers_usage_cost_their_thoughts_too(server, tmp_path):
    rows = [{"id": p, "effort": e, "correct": r, **USAGES[server](t)} for p, e, _, r, t in made()]
    log = read_log(write_rows(tmp_path / "a.jsonl", rows))
    check(cells(log), failed=False)
    assert "thoughts included" in " ".join(log.notes)


@pytest.mark.parametrize("how", ["effort", "budget", "gemini"])
def test_answers_of_anthropic_and_gemini(how, tmp_path):
    room = {"low": 1024, "high": 16384}

    def row(p, e, r, t):
        asked = {
            "model": "m",
            "messages": [{"role": "user", "content": f"What is {p}"}],
            "thinking": {"type": "adaptive"},
        }
        said = {"id": "msg", "type": "message", "model": "m", "stop_reason": "end_turn",
                "content": [{"type": "thinking", "thinking": "so"}, {"type": "text", "text": "4"}],
                "usage": {"input_tokens": 9, "output_tokens": t}}  # fmt: skip
        if how == "effort":
            asked["output_config"] = {"effort": e}
        elif how == "budget":
            asked["thinking"] = {"type": "enabled", "budget_tokens": room[e]}
        else:
            asked = {"contents": [{"role": "user", "parts": [{"text": p}]}],
                     "generationConfig": {"thinkingConfig": {"thinkingLevel": e}}}  # fmt: skip
            parts = [{"text": "so", "thought": True}, {"text": "4"}]
            said = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}], **USAGES["gemini"](t)}
        return {"problem_id": p, "request": asked, "response": said, "correct": r}

    path = write_rows(tmp_path / "a.jsonl", [row(p, e, r, t) for p, e, _, r, t in made()])
    assert {row["completion"] for row in rows_of(path)} == {"4"}
    names = {str(value): name for name, value in room.items()} if how == "budget" else {}
    found = cells(read_log(path))
    check({(p, names.get(group, group)): value for (p, group), value in found.items()}, failed=False)


def batch_line(custom_id, tokens, *, anthropic=False):
    usage = {"usage": {"output_tokens": tokens, "completion_tokens": tokens}}
    if anthropic:
        message = {"model": "m", "content": [{"type": "text", "text": "4"}], **usage}
        return {"custom_id": custom_id, "result": {"type": "succeeded", "message": message}}
    body = {"model": "m", "choices": [{"message": {"content": "4"}}], **usage}
    return {"id": "b", "custom_id": custom_id, "response": {"status_code": 200, "body": body}, "error": None}


IDS = {
    "{p}-{e}-{s}": False,
    "aime-{p}-{e}-{s}|{p}-{e}-{s}": False,
    "AIME 2024: problem {p} (effort={e}, sample {s})": False,
    "{p}/sample{s}/{e}": False,
    "{e}_{p}": True,
}


@pytest.mark.parametrize("form", IDS)
@pytest.mark.parametrize("split", [True, False])
def test_custom_ids_that_name_problem_and_effort(form, split, tmp_path):
    """Sorted by effort, with more rows of one than are looked at first; in one file, or a file an effort."""
    num_samples = 1 if IDS[form] else 40
    forms = form.split("|")
    rows = sorted(made(num_samples), key=lambda row: row[1])
    ids = [forms[int(p[1:]) % len(forms)].format(p=p, e=e, s=s) for p, e, s, _, _ in rows]
    lines = [batch_line(name, row[4], anthropic=IDS[form]) for name, row in zip(ids, rows, strict=True)]
    if split:
        for effort in ("low", "high"):
            of_effort = [line for line, row in zip(lines, rows, strict=True) if row[1] == effort]
            path = write_rows(tmp_path / "batch" / f"{effort}.jsonl", of_effort).parent
    else:
        path = write_rows(tmp_path / "batch.jsonl", lines)
    table = write_rows(
        tmp_path / "r.jsonl", [{"Custom ID": name, "Reward": row[3]} for name, row in zip(ids, rows, strict=True)]
    )
    log = read_log(path, join=[table])
    assert len(set(log.problem)) == 6 and len(log.problem) == 12 * num_samples
    problems = {problem: next(f"q{n}" for n in range(1, 7) if f"q{n}" in problem) for problem in log.problem}
    check({(problems[p], group): value for (p, group), value in cells(log).items()}, failed=False)
    assert f"custom_id {ids[0]} = problem" in " ".join(log.notes)


def test_batches_that_share_a_folder_and_identifiers_are_refused(tmp_path):
    for effort in ("low", "high"):
        asked = {"model": "m", "reasoning_effort": effort, "messages": []}
        write_rows(tmp_path / f"{effort}_in.jsonl", [{"custom_id": "1", "url": "/v1", "body": asked}])
        write_rows(tmp_path / f"{effort}_out.jsonl", [batch_line("1", 5)])
    with pytest.raises(LogError, match="asks custom_id '1' otherwise than another file of its folder"):
        read_log(tmp_path)


def test_joined_tables_with_an_identifier_twice(tmp_path):
    rows = [{"problem_id": p, "id": f"{p}{e}", "effort": e, "tokens": t} for p, e, _, _, t in made()]
    log = write_rows(tmp_path / "a.jsonl", rows)
    table = [{"problem_id": p, "id": f"{p}{e}", "reward": r} for p, e, _, r, _ in made()]
    check(cells(read_log(log, join=[write_rows(tmp_path / "r.jsonl", [*table, table[0]])])), failed=False)
    without = [{"problem_id": row["problem_id"], "reward": row["reward"]} for row in table]
    with pytest.raises(LogError, match="several rows have the problem_id 'q4' and differ"):
        read_log(log, join=[write_rows(tmp_path / "s.jsonl", without)])
    num = write_rows(tmp_path / "n.jsonl", [{"id": 1, "effort": e, "tokens": 3} for e in "xy"])
    found = read_log(num, join=[write_rows(tmp_path / "f.jsonl", [{"id": 1.0, "reward": 0.5}])])
    assert found.reward.tolist() == [0.5, 0.5]
    assert "2 of 2 rows; one of its rows was added to as many as 2" in " ".join(found.notes)


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_litellm_metadata_as_json_or_as_python_prints_it(write, tmp_path):
    rows = [
        {"request_id": f"{p}{e}", "spend": 0.1, "startTime": "t", "completion_tokens": t, "model": "m",
         "metadata": write({"ok": True, "spend_logs_metadata": {"problem_id": p, "reward": r, "reasoning_effort": e}})}
        for p, e, _, r, t in made()
    ]  # fmt: skip
    check(cells(read_log(write_rows(tmp_path / "a.jsonl", rows))), failed=False)


def test_why_no_row_is_left_is_said(tmp_path):
    rows = [{"request_id": "a", "spend": 0.1, "startTime": "t", "completion_tokens": 3, "model": "m"}]
    with pytest.raises(LogError, match=r"no usable rows \(1 left out: rows that say neither what was asked"):
        read_log(write_rows(tmp_path / "a.jsonl", rows))


def test_langfuse_scores_can_be_named(tmp_path):
    rows = [
        {"id": f"{p}{e}", "traceId": f"{p}{e}", "type": "GENERATION", "usageDetails": {"output": t}, "tone": "[0.5]",
         "right": [r], "modelParameters": {"reasoning_effort": e}, "metadata": {"problem_id": p}}
        for p, e, _, r, t in made()
    ]  # fmt: skip
    path = write_rows(tmp_path / "a.jsonl", rows)
    check(cells(read_log(path, LogColumns(reward="right"))), failed=False)
    assert "reward = score tone of tone, right" in " ".join(read_log(path).notes)


def inspect_log(effort, value, model="m", effort_known=True):
    samples = [
        {"id": p, "target": "4", "output": {"completion": "4"}, "model_usage": {model: {"output_tokens": t}},
         "scores": {"match": {"value": value(r), "answer": "4"}}}
        for p, e, _, r, t in made() if e == effort
    ]  # fmt: skip
    config = {"reasoning_effort": effort} if effort_known else {}
    return {"version": 2, "eval": {"task": "t", "model": model}, "plan": {"config": config}, "samples": samples}


@pytest.mark.parametrize("value", [float, bool, str, lambda r: "CI"[1 - r], lambda r: ("no", "yes")[r]])
def test_inspect_scores_in_words_are_rewards_not_reasons_to_judge(value, tmp_path):
    for effort in ("low", "high"):
        (tmp_path / f"{effort}.json").write_text(json.dumps(inspect_log(effort, value)))
    check(cells(read_log(tmp_path)), failed=False)


def test_inspect_grades_that_nobody_knows_are_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(inspect_log("low", lambda _: "GRADE: I")))
    with pytest.raises(LogError, match="'GRADE: I' is not a finite number"):
        read_log(path, judge=lambda rows: [1.0] * len(rows))


def test_models_as_response_groups_do_not_split_the_log(tmp_path):
    for effort in ("low", "high"):
        document = inspect_log(effort, float, model=effort, effort_known=False)
        (tmp_path / f"{effort}.json").write_text(json.dumps(document))
    check(cells(read_log(tmp_path)), failed=False)


def test_percents_are_hundredths_and_dots_that_may_part_thousands_are_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id;effort;score;tokens\n1;low;1%;1.234\n1;high;85 %;912\n")
    log = read_log(path)
    assert log.reward.tolist() == [0.01, 0.85] and log.cost.tolist() == [1.234, 912]
    assert "column 'tokens': 1.234 is read as a number with decimals" in " ".join(log.notes)
    assert read_log(path, LogColumns(reward="score/100")).reward.tolist() == [0.01, 0.85]
    path.write_text("id;effort;score;cost\n1;low;1;0.234\n1;high;1;1.250\n")
    assert not read_log(path).notes


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_models_split_the_log_whatever_the_capitals_of_their_column(kind, tmp_path):
    rows = [{"id": p, "Effort": e, "Correct": r, "Tokens": t, "Model": p} for p, e, _, r, t in made()]
    path = write_rows(tmp_path / "a.jsonl", rows)
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(LogError, match="holds 6 models; give --by Model,"):
        read_log(path)


def test_failed_requests_do_not_say_how_identifiers_are_made(tmp_path):
    lines = [batch_line(f"{p}-{e}", t) for p, e, _, _, t in made()]
    lines.append({"id": "b", "custom_id": "warm up", "response": None, "error": {"code": "x"}})
    table = write_rows(tmp_path / "r.jsonl", [{"custom_id": f"{p}-{e}", "reward": r} for p, e, _, r, _ in made()])
    check(cells(read_log(write_rows(tmp_path / "a.jsonl", lines), join=[table])), failed=False)


WRITTEN = [(f"q{p}", group, p % 2, 100 + p) for p in range(6) for group in ("low", "high")]


def as_csv(head, form="{},{},{},{}\n"):
    return head + "".join(form.format(*row) for row in WRITTEN)


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("excel.txt", as_csv("ID\tEffort\tIs Correct?\tOutput tokens\n", "{}\t{}\t{}\t{}\n"), "utf-16"),
        ("excel.csv", as_csv("ID;Effort;Score;Tokens\n", "{};{};{},0;{}\n"), "utf-8-sig"),
        ("comment.csv", as_csv("# exported 2026-11-30\n\nid,effort,correct,tokens\n"), "utf-8"),
        ("config.csv", as_csv("id,config,correct,tokens\n"), "utf-8"),
        (
            "flat.jsonl",  # a request's fields beside those of its response
            "".join(
                json.dumps({"messages": [{"role": "user", "content": p}], "reasoning_effort": g, "score": r,
                            "choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": t}}) + "\n"
                for p, g, r, t in WRITTEN
            ),
            "utf-8",
        ),
    ],
)  # fmt: skip
def test_tables_as_people_export_them(tmp_path, name, text, encoding):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    log = read_log(path)
    assert list(zip(log.response_group, log.reward, log.cost, strict=True)) == [(g, r, t) for _, g, r, t in WRITTEN]
    assert len(set(log.problem)) == 6


@pytest.mark.parametrize("nothing", ["NaN", "N/A", "null", "-", ""])
def test_what_tables_write_for_nothing_is_no_value(tmp_path, nothing):
    path = tmp_path / "a.csv"
    path.write_text(as_csv("id,effort,correct,tokens\n") + f"q9,low,1,{nothing}\n")
    with pytest.raises(LogError, match=r"line 14, column 'tokens': no value; fill it in or drop the row \(--on-error"):
        read_log(path)


def test_a_note_beside_a_log_is_no_log(tmp_path):
    (tmp_path / "a.csv").write_text(as_csv("id,effort,correct,tokens\n"))
    (tmp_path / "README.txt").write_text("made on Monday\n")
    assert len(read_log(tmp_path).problem) == 12


def test_a_row_for_several_groups_and_a_trace_of_requests_are_told_from_a_log(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text("id,low_correct,low_tokens,high_correct,high_tokens\na,0,1,1,9\nb,1,2,1,8\n")
    with pytest.raises(MissingColumns, match="a row holds the answers of low, high: write a row for each"):
        read_log(path)
    for name in ("azure_2023_conv.csv", "azure_2024_code_1week.csv", "burstgpt_1.csv", "mooncake.jsonl",
                 "bailian.jsonl"):  # fmt: skip
        with pytest.raises(LogError, match=r"a trace of requests .* ibpo simulate reads it"):
            read_log(LOGS / "traces" / name)
