"""Logs as the tools that people use write them: each fixture is read without an option, or with one."""

import csv
import gzip
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from ibpo.data import LogColumns, LogError, MissingColumns, Source, files_below, read_log, read_log_rows
from ibpo.data.fields import read_usage
from ibpo.data.server_logs import split_ids
from ibpo.errors import IbpoError
from ibpo.evaluation.importing import ImportOptions, import_responses
from ibpo.prices import Price, Prices

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


@pytest.mark.parametrize("order", ["asked,speed,verdict_right,used,prompt", "speed,asked,prompt,verdict_right,used"])
def test_what_a_problem_has_but_one_of_is_no_response_group_to_name(tmp_path, order):
    """The identifier of the problem was, where `prompt` was taken for the problem; and the other way round."""
    path, names = tmp_path / "a.jsonl", order.split(",")
    rows = [{"asked": f"q{p}", "speed": e, "verdict_right": r, "used": t, "prompt": f"What is {p}?"}
            for p in range(9) for e, r, t in (("fast", 0, 120), ("slow", 1, 900)) * 2]  # fmt: skip
    for lacks, wanted in (([], "response_group=speed,"), (["prompt"], "problem=asked,response_group=speed,")):
        with path.open("w") as file:
            file.writelines(json.dumps({x: row[x] for x in names if x not in lacks}) + "\n" for row in rows)
        with pytest.raises(MissingColumns) as error:
            read_log(path)
        assert error.value.options == ("--columns", f"{wanted}reward=verdict_right,cost=used")
    with path.open("w") as file:
        file.writelines(
            json.dumps({x: row[x] for x in names if x != "speed"} | {"id": row["asked"]}) + "\n" for row in rows
        )
    with pytest.raises(MissingColumns) as error:
        read_log(path)
    assert error.value.options == ("--columns", "response_group=COLUMN,reward=verdict_right,cost=used")


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


@pytest.mark.parametrize("kind", ["aembedding", "rerank", "amoderation", "aimage_generation", "acreate_batch"])
def test_calls_of_litellm_that_answer_no_prompt_are_left_out(kind, rewards, tmp_path):
    path = LOGS / "litellm" / "spend_logs.json"
    logged = json.loads(path.read_text())
    other = logged[0] | {"request_id": "e1", "call_type": kind, "completion_tokens": 0, "metadata": {}}
    (tmp_path / "spend.json").write_text(json.dumps([other, *logged]))
    log = read_log(tmp_path / "spend.json", join=[rewards("request_id", names_of(path))])
    check(cells(log))
    assert "1 left out: calls that answer no prompt (embeddings and the like)" in log.notes


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


@pytest.mark.parametrize("first", ["single", "several"])
def test_of_a_folders_tasks_one_may_be_scored_by_response_and_one_by_document(tmp_path, first):
    """The one's rows bring their metric; the other's responses are judged, whichever is read first."""
    for file in (LOGS.parent / "lm_eval").rglob("samples_*"):
        which = "several" if "repeats" in file.name else "single"
        rows = [json.loads(line) | {"exact_match": 1.0} for line in file.open()]
        path = tmp_path / f"samples_{'a' if which == first else 'b'}_{which}_2026-11-23T10-22-38.046372.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = read_log(tmp_path, LogColumns(by="harness_task"), judge=lambda rows: [0.25] * len(rows)).parts()
    found = {name[2:]: (len(part.reward), set(part.reward)) for name, part in parts.items()}
    assert found == {"single": (12, {1.0}), "several": (36, {0.25})}
    with pytest.raises(LogError, match=r"holds 2 tasks.* give --by harness_task"):
        read_log(tmp_path, judge=lambda rows: [0.25] * len(rows))


def test_lm_eval_runs_are_named_by_what_they_were_asked_with_and_lost_thoughts_are_told():
    log = read_log(LOGS / "lm_eval" / "thinker")
    assert set(log.response_group) == {"thinker reasoning_effort=low", "thinker reasoning_effort=high"}
    assert any("was made with think_end_token" in note for note in read_log(LOGS / "lm_eval").notes)


def test_helm_runs():
    log = read_log(LOGS / "helm")
    assert len(log.problem) == 6 and log.reward.sum() == 5
    assert "HELM counts the tokens of the visible text only: thoughts are not in its costs" in log.notes
    assert log.notes[0].endswith("response group = model, cost = tokens of the completion")  # not "thoughts included"


@pytest.mark.parametrize("effort", [False, True])
def test_dumps_of_trainers_in_several_folders_are_of_several_runs(effort, tmp_path):
    """Two runs, or training and validation, were one."""
    for run in ("one", "two"):
        for step in (1, 2):
            row = {"input": "2 + 2?", "output": "4" * len(run), "score": 1.0, "step": step, "gts": "4"}
            (tmp_path / run).mkdir(exist_ok=True)
            write_rows(tmp_path / run / f"{step}.jsonl", [row | {"effort": f"level {step}"} if effort else row])
    log = read_log(tmp_path)
    assert set(log.response_group) == ({"level 1", "level 2"} if effort else {"one", "two"})
    assert "files of 2 folders: each is a run, unless a column names the response groups" in log.notes
    assert "2 folders" not in " ".join(read_log(tmp_path / "one", LogColumns(response_group="step")).notes)


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
        "skipped, because it is a copy of log (1).jsonl: log.jsonl"
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
        pytest.importorskip("pyarrow.parquet")
        names = head.splitlines()[-1].replace('"', "").split(sign)
        table = pyarrow.table(list(zip(*((p, e + " ", r, t) for p, e, _, r, t in made()), strict=True)), names=names)
        pyarrow.parquet.write_table(table, path)
    check(cells(read_log(path)), failed=False)


def test_two_columns_that_differ_by_capitals_are_not_guessed_between(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"id": 1, "effort": "x", "reward": 1, "Tokens": 1, "TOKENS": 2}] * 2)
    with pytest.raises(MissingColumns, match="no column for the cost"):
        read_log(path)


USAGES = {
    "relay_of_the_new_names": lambda t: {
        "usage": {
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "input_tokens": 9,
            "output_tokens": t,
            "total_tokens": t + 9,
        }
    },
    "relay_of_the_old_names": lambda t: {
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": t,
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": t + 9,
        }
    },
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
    "gemini_tools": lambda t: {
        "usageMetadata": {
            "promptTokenCount": 9,
            "candidatesTokenCount": 8,
            "thoughtsTokenCount": t - 8,
            "toolUsePromptTokenCount": 100,
            "totalTokenCount": t + 109,
        }
    },
    "anthropic": lambda t: {"usage": {"input_tokens": 9, "output_tokens": t, "cache_read_input_tokens": 0}},
    "bedrock": lambda t: {
        "usage": {
            "inputTokens": 9,
            "cacheReadInputTokens": 30,
            "cacheWriteInputTokens": 5,
            "outputTokens": t,
            "totalTokens": t + 44,
        }
    },
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
    with pytest.raises(LogError, match="asks custom_id '1' in another way than another file of its folder"):
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
    assert "2 of 2 rows; one of its rows was added to up to 2" in " ".join(found.notes)


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


def test_a_sample_that_the_scorer_of_inspect_gave_no_score_is_judged_by_nobody(tmp_path):
    """Scored as a whole, it is a bad row for every command; a log without any scores has its gold answers judged."""
    for effort in ("low", "high"):
        document = inspect_log(effort, float)
        document["samples"][1]["scores"]["match"]["value"] = float("nan")
        (tmp_path / f"{effort}.json").write_text(json.dumps(document))

    def judge(rows):
        return [0.25] * len(rows)

    with pytest.raises(LogError, match="column 'reward': no value"):
        read_log(tmp_path, judge=judge)
    with pytest.raises(IbpoError, match="neither a reward"):
        import_responses([("", tmp_path)])
    log = read_log(tmp_path, on_error="skip", judge=judge)
    assert len(log.bad_rows) == 2 and set(log.reward) == {0.0, 1.0}
    [part] = import_responses([("", tmp_path)], ImportOptions(on_error="skip")).parts.values()
    assert len(part) == len(log.reward) and set(part.reward) == {0.0, 1.0}
    for file in tmp_path.iterdir():
        document = json.loads(file.read_text())
        file.write_text(json.dumps(document | {"samples": [x | {"scores": None} for x in document["samples"]]}))
    assert set(read_log(tmp_path, judge=judge).reward) == {0.25}


def test_of_several_values_in_one_score_of_inspect_the_first_counts_and_the_notes_say_so(tmp_path):
    for effort in ("low", "high"):
        document = inspect_log(effort, lambda right: {"exact": float(right), "style": 0.25})
        (tmp_path / f"{effort}.json").write_text(json.dumps(document))
    log = read_log(tmp_path)
    [note] = [note for note in log.notes if note.startswith("reward = ")]
    assert set(log.reward) == {0.0, 1.0} and note.startswith("reward = exact of exact, style (--columns reward=")
    other = read_log(tmp_path, LogColumns(reward=note.partition("reward=")[2].partition(" names")[0]))
    assert set(other.reward) == {0.25} and not any(note.startswith("reward = ") for note in other.notes)


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
    rows = [{"id": n, "kind": "ab"[n % 2], "arms": {arm: {"reward": 1, "cost": 2} for arm in ("x/1.5", "y")}}
            for n in range(8)]  # fmt: skip
    path = write_rows(tmp_path / "nested.jsonl", rows)
    with pytest.raises(
        MissingColumns, match=r"a row holds the answers of arms\.x/1\.5, arms\.y: write a row"
    ) as caught:
        read_log(path)
    assert caught.value.options == ()  # `response_group=kind` would be wrong
    for name in ("azure_2023_conv.csv", "azure_2024_code_1week.csv", "burstgpt_1.csv", "mooncake.jsonl",
                 "bailian.jsonl"):  # fmt: skip
        with pytest.raises(LogError, match=r"a trace of requests .* ibpo simulate reads it"):
            read_log(LOGS / "traces" / name)


def batch_input(custom_id, effort, prompt, **more):
    body = {"model": "m", "reasoning_effort": effort, "messages": [{"role": "user", "content": prompt}], **more}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


NUMBERED = {
    # form: (whether requests that differ by the number s alone ask the same, what the problems are called)
    "gsm8k-{e}-{s}": (False, "gsm8k-{s}"),
    "{e}/gsm8k/{s}": (False, "gsm8k/{s}"),
    "gsm8k/sample{s}/{e}": (False, "gsm8k/sample{s}"),
    "{e}-{s}": (False, "{s}"),
    "q{p}-{e}-{s}": (True, "q{p}"),
    "{e}/q{p}/{s}": (True, "q{p}"),
    "q{p}/{s}/{e}": (True, "q{p}"),
    "gsm8k/{p}/{e}/sample/{s}": (True, "gsm8k/{p}"),
    "{e}_q{p}_sample{s}": (True, "q{p}"),
}


@pytest.mark.parametrize("form", NUMBERED)
@pytest.mark.parametrize("beside", ["input", "lengths", "folders", "shards"])
def test_numbers_in_custom_ids_count_responses_only_where_they_ask_the_same(form, beside, tmp_path):
    """With the batch's input in the folder, the prompts' lengths alone, a folder an effort, a folder a few ids."""
    same, called = NUMBERED[form]
    if beside == "lengths" and form == "q{p}/{s}/{e}":
        called = "q{p}/{s}"  # equal lengths are no proof, and a number before the effort mostly names a problem
    wanted, rewards = {}, []
    for e, t in (("low", 10), ("high", 50)):
        for p in range(4 if same else 1):
            for s in range(5):
                name = form.format(p=p, e=e, s=s)
                prompt = "add " * (p if same else s) + "up"
                folder = tmp_path / "batch" / {"folders": e, "shards": str(s)}.get(beside, "")
                line = batch_line(name, t)
                line["response"]["body"]["usage"]["prompt_tokens"] = len(prompt)
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / "output.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                if beside != "lengths":
                    with (folder / "input.jsonl").open("a") as file:
                        file.write(json.dumps(batch_input(name, e, prompt)) + "\n")
                rewards.append({"custom_id": name, "reward": 1})
                wanted.setdefault((called.format(p=p, s=s), e), []).append(t)
    log = read_log(tmp_path / "batch", join=[write_rows(tmp_path / "r.jsonl", rewards)])
    found = {}
    for problem, group, cost in zip(log.problem, log.response_group, log.cost, strict=True):
        found.setdefault((problem, group), []).append(cost)
    assert found == wanted


@pytest.mark.parametrize(
    ("ids", "problems"),
    [
        (["low/q17/0", "high/q17/0", "low/q17/1"], ["q17"] * 3),
        (["gsm8k-low-1", "gsm8k-high-1", "gsm8k-low-2"], ["gsm8k-1", "gsm8k-1", "gsm8k-2"]),
        (["aime-2024-low-1", "aime-2024-high-1", "aime-2024-low-2"], ["aime-2024-1", "aime-2024-1", "aime-2024-2"]),
        (["low-1", "high-1", "low-2"], ["1", "1", "2"]),
        (["low-sample1", "high-sample1"], ["sample1"] * 2),
        (["q1-low-0", "q1-high-1"], ["q1"] * 2),
        (["seed3/gsm8k/17/low", "seed3/gsm8k/18/high"], ["gsm8k/17", "gsm8k/18"]),
    ],
)
def test_identifiers_alone_name_a_problem_and_never_an_empty_one(ids, problems):
    split = split_ids(ids)
    assert split and [split(name)[0] for name in ids] == problems
    assert split_ids(["low", "high"]) is None and split_ids(["-low", "-high"]) is None


def several(e, t, p, n=4, **more):
    """A request with several answers and what a server says of it."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": f"{p}{i}"}, "finish_reason": "stop"} for i in range(n)
    ]
    usage = {
        "prompt_tokens": 8,
        "completion_tokens": n * t,
        "total_tokens": 8 + n * t,
        "completion_tokens_details": {"reasoning_tokens": n * 4},
    }
    asked = {"model": "m", "n": n, "reasoning_effort": e, "messages": [{"role": "user", "content": f"What is {p}?"}]}
    said = {"id": f"{p}{e}", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}
    return {"problem_id": p, "request": asked, "response": said, **more}


def test_a_request_with_several_answers_is_a_row_for_each_at_its_share_of_the_tokens(tmp_path):
    rows = [several(e, t, p, reward=[1, 0, 1, 0]) for p in "ab" for e, t in (("low", 10), ("high", 51))]
    log = read_log(write_rows(tmp_path / "a.jsonl", rows))
    assert len(log.problem) == 16 and log.reward.tolist() == [1, 0, 1, 0] * 4
    assert cells(log) == {(p, e): (0, t) for p in "ab" for e, t in (("low", 10), ("high", 51))}
    assert "of requests with several answers each is a row" in " ".join(log.notes)
    found = rows_of(tmp_path / "a.jsonl")
    assert [row["completion"] for row in found[:4]] == ["a0", "a1", "a2", "a3"]
    assert [row["request_id"] for row in found[:2]] == ["alow#0", "alow#1"] and found[0]["thinking_tokens"] == 4
    # As named by the caller too, each has its own part of the response.
    named = read_log(tmp_path / "a.jsonl", LogColumns(cost="response.usage.completion_tokens"))
    assert named.cost.tolist() == log.cost.tolist()
    assert [row["response"]["choices"][0]["message"]["content"] for row in found[:2]] == ["a0", "a1"]


def test_several_answers_cost_the_money_of_their_request_together(tmp_path):
    price = Price(input=1000, cached_input=100, cache_write=1000, output=10_000, reasoning=20_000)
    prices = LogColumns(prices=Prices(path=tmp_path, by_model={"m": price}))
    rows = [several(e, 10, "a", reward=[1, 1, 0, 0]) for e in ("low", "high")]
    pairs = read_log(write_rows(tmp_path / "a.jsonl", rows), prices)
    stored = [row["response"] | {"metadata": {"problem": "a"}, "effort": row["request"]["reasoning_effort"],
                                 "reward": row["reward"]} for row in rows]  # fmt: skip
    for log in (pairs, read_log(write_rows(tmp_path / "b.jsonl", stored), prices)):
        assert log.cost.tolist() == pytest.approx([(8 * 0.001 + 24 * 0.01 + 16 * 0.02) / 4] * 8)


def test_one_reward_for_several_answers_is_nobodys(tmp_path):
    """Not the first one's, nor each one's: it may be of a vote. A list is, and so is a gold answer for all."""
    rows = [several(e, 10, p, reward=1) for p in "ab" for e in ("low", "high")]
    with pytest.raises(MissingColumns, match="no column for the reward") as error:
        read_log(write_rows(tmp_path / "a.jsonl", rows))
    assert any("reward left out where it is one for several answers" in note for note in error.value.notes)
    table = [{"request_id": f"{p}{e}#{i}", "reward": i % 2} for p in "ab" for e in ("low", "high") for i in range(4)]
    assert read_log(tmp_path / "a.jsonl", join=[write_rows(tmp_path / "r.jsonl", table)]).reward.sum() == 8
    rows = [several(e, 10, p, gold="a1") for p in "ab" for e in ("low", "high")]
    log = read_log(
        write_rows(tmp_path / "b.jsonl", rows),
        judge=lambda rows: [float(row["completion"] == row["gold"]) for row in rows],
    )
    assert log.reward.tolist() == [0, 1, 0, 0] * 2 + [0] * 8


def test_metadata_of_several_answers_holds_no_reward_of_one(tmp_path):
    rows = [several(e, 10, p)["response"] | {"metadata": {"problem": p, "effort": e, "reward": "1"}}
            for p in "ab" for e in ("low", "high")]  # fmt: skip
    with pytest.raises(MissingColumns, match="no column for the reward"):
        read_log(write_rows(tmp_path / "a.jsonl", rows))


def test_a_batch_with_several_answers_a_request(tmp_path):
    for e, t in (("low", 10), ("high", 50)):
        for p in ("q1", "q2"):
            row = several(e, t, p)
            line = {"id": "b", "custom_id": f"{p}-{e}", "error": None,
                    "response": {"status_code": 200, "body": row["response"]}}  # fmt: skip
            with (tmp_path / "output.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            with (tmp_path / "input.jsonl").open("a") as file:
                file.write(json.dumps({"custom_id": f"{p}-{e}", "url": "/v1", "body": row["request"]}) + "\n")
    names = [f"{p}-{e}" for p in ("q1", "q2") for e in ("low", "high")]
    one = write_rows(tmp_path / "one" / "r.jsonl", [{"custom_id": name, "reward": 1} for name in names])
    with pytest.raises(LogError, match="no row has the custom_id of a row"):
        read_log(tmp_path / "output.jsonl", join=[one])
    each = [{"custom_id": f"{name}#{i}", "reward": int(i == 2)} for name in names for i in range(4)]
    log = read_log(tmp_path / "output.jsonl", join=[write_rows(tmp_path / "each" / "r.jsonl", each)])
    assert len(log.problem) == 16 and log.reward.sum() == 4 and set(log.cost.tolist()) == {10, 50}
    assert set(log.problem) == {"q1", "q2"}


def test_answers_that_are_counted_one_by_one_cost_what_they_took(tmp_path):
    """Gemini counts each candidate; the thoughts before them are shared."""
    parts = [{"content": {"parts": [{"text": text}]}, "tokenCount": n, "finishReason": "STOP"}
             for text, n in (("4", 3), ("It is 4", 7))]  # fmt: skip
    usage = {"promptTokenCount": 6, "candidatesTokenCount": 10, "thoughtsTokenCount": 20, "totalTokenCount": 36}
    rows = [{"problem_id": p, "effort": e, "correct": [1, 0], "response": {"candidates": parts, "usageMetadata": usage}}
            for p in "ab" for e in ("low", "high")]  # fmt: skip
    log = read_log(write_rows(tmp_path / "a.jsonl", rows))
    assert log.cost.tolist() == [13, 17] * 4 and log.reward.tolist() == [1, 0] * 4
    assert [row["uncached_input_tokens"] for row in rows_of(tmp_path / "a.jsonl")[:2]] == [3, 3]


@pytest.mark.parametrize("tool", ["litellm", "helicone", "langfuse", "otel"])
def test_several_answers_in_the_logs_of_gateways_and_tracers(tool, tmp_path):
    said = several("low", 10, "a")["response"]
    texts = [choice["message"] for choice in said["choices"]]
    row = {
        "litellm": {"request_id": "r", "spend": 0.4, "startTime": "t", "completion_tokens": 40, "prompt_tokens": 8,
                    "model": "m", "response": said,
                    "metadata": json.dumps({"spend_logs_metadata": {"problem_id": "a", "reasoning_effort": "low"}})},
        "helicone": {"request_id": "r", "completion_tokens": 40, "response_status": 200, "cost_usd": 0.4, "model": "m",
                     "request_properties": {"Problem_Id": "a", "Effort": "low"}, "response_body": json.dumps(said)},
        "langfuse": {"id": "r", "traceId": "t", "type": "GENERATION", "usageDetails": {"input": 8, "output": 40},
                     "totalCost": 0.4, "modelParameters": {"reasoning_effort": "low", "n": 4}, "output": texts,
                     "metadata": {"problem_id": "a"}},
        "otel": {"context": {"trace_id": "t", "span_id": "s"},
                 "attributes": {"gen_ai.operation.name": "chat", "gen_ai.usage.output_tokens": 40,
                                "gen_ai.response.id": "r", "gen_ai.response.finish_reasons": ["stop"] * 4,
                                "gen_ai.output.messages": [{"role": "assistant", "parts": [
                                    {"type": "text", "content": text["content"]}]} for text in texts],
                                "my.problem_id": "a", "my.effort": "low"}},
    }[tool]  # fmt: skip
    found = rows_of(write_rows(tmp_path / "a.jsonl", [row]))
    assert [row["completion"] for row in found] == ["a0", "a1", "a2", "a3"]
    assert [row["tokens"] for row in found] == [10] * 4
    assert [row["request_id"] for row in found] == ["r#0", "r#1", "r#2", "r#3"]
    if tool == "langfuse":
        assert [row["usageDetails"] for row in found] == [{"input": 2, "output": 10}] * 4
    assert all(row.get("cost_usd", row.get("spend", 0.1)) == pytest.approx(0.1) for row in found)


def test_a_run_of_promptfoo_in_two_forms_counts_once(tmp_path):
    """`promptfoo eval -o out.json -o out.jsonl` writes both; their answers were twice as many as were asked for."""
    for name in ("out.json", "out.jsonl"):
        shutil.copy(LOGS / "promptfoo" / name, tmp_path)
    log, one = read_log(tmp_path), read_log(tmp_path / "out.json")
    assert (log.problem, log.cost.tolist()) == (one.problem, one.cost.tolist())
    assert "12 left out: results that an earlier file holds too, by their id" in log.notes


def promptfoo_row(test, prompt, provider, variables, tokens, label="{{question}}"):
    return {"testIdx": test, "promptIdx": prompt, "provider": {"id": provider, "label": ""}, "score": 1,
            "prompt": {"raw": "Q", "label": label}, "vars": {**variables, "_conversation": [test]},
            "testCase": {"vars": variables}, "success": True, "failureReason": 0,
            "response": {"output": "4", "tokenUsage": {"completion": tokens, "prompt": 9}}}  # fmt: skip


def test_promptfoos_repetitions_are_responses_to_one_problem(tmp_path):
    """`--repeat 3`: each repetition has a number of its own under `testIdx`."""
    rows = [
        promptfoo_row(3 * test + repeat, n, provider, {"question": f"What is {test}?"}, tokens)
        for test in range(2)
        for repeat in range(3)
        for n, (provider, tokens) in enumerate((("small", 10), ("large", 100)))
    ]
    log = read_log(write_rows(tmp_path / "a.jsonl", rows))
    assert set(log.problem) == {"What is 0?", "What is 1?"} and set(log.response_group) == {"small", "large"}
    assert len(log.problem) == 12
    rows = [promptfoo_row(n, 0, "small", {"a": n % 2, "b": "x"}, 10) for n in range(4)]
    assert len(set(read_log(write_rows(tmp_path / "b.jsonl", rows)).problem)) == 2
    rows = [promptfoo_row(n, 0, "small", {}, 10) for n in range(4)]
    assert len(set(read_log(write_rows(tmp_path / "c.jsonl", rows), LogColumns()).problem)) == 4


@pytest.mark.parametrize("labels", [("at once", "step by step"), ("x" * 80, "y" * 80), ("alike", "alike")])
def test_promptfoos_prompts_of_one_provider_are_configurations(labels, tmp_path):
    rows = [
        promptfoo_row(test, n, "m", {"question": str(test)}, tokens, label)
        for test in range(2)
        for n, (label, tokens) in enumerate(zip(labels, (10, 100), strict=True))
    ]
    log = read_log(write_rows(tmp_path / "a.jsonl", rows))
    names = ("m, at once", "m, step by step") if labels[0] == "at once" else ("m, prompt 0", "m, prompt 1")
    assert cells(log) == {(p, name): (1, c) for p in "01" for name, c in zip(names, (10, 100), strict=True)}
    assert "m got 2 prompts: with each it is a configuration" in log.notes


def test_a_retried_inspect_task_counts_its_samples_once(tmp_path):
    """The interrupted log and its retry hold what was finished under the same uuid; without uuids all count."""
    whole = read_log(LOGS / "inspect" / "numeric")
    num_again = 0
    for file in (LOGS / "inspect" / "numeric").iterdir():
        log = json.loads(file.read_text())
        effort = log["plan"]["config"]["reasoning_effort"]
        (tmp_path / f"2026-11-28T12_{effort}.json").write_text(json.dumps(log))
        done = [sample for sample in log["samples"] if sample["id"] in ("q1", "q2", "q3")]
        num_again += sum(not sample.get("error") for sample in done)
        (tmp_path / f"2026-11-28T10_{effort}.json").write_text(json.dumps(log | {"status": "error", "samples": done}))
    log = read_log(tmp_path)
    assert sorted(zip(log.problem, log.response_group, log.reward, log.cost, strict=True)) == sorted(
        zip(whole.problem, whole.response_group, whole.reward, whole.cost, strict=True)
    )
    assert any(note.startswith(f"{num_again} left out: samples that an earlier log holds too") for note in log.notes)
    for name in ("a.json", "b.json"):
        (tmp_path / "old" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "old" / name).write_text(json.dumps(inspect_log("low", float) | {"status": name}))
    assert len(read_log(tmp_path / "old").problem) == 12


def test_helms_originals_keep_their_statistics_beside_perturbed_instances(tmp_path):
    states, stats = [], []
    for p in range(3):
        for change in (None, {"name": "typos", "robustness": True, "computed_on": "perturbed"}):
            right, tokens = (0, 5) if change else (1, 90)
            instance = {"id": f"id{p}", "input": {"text": "x"}, **({"perturbation": change} if change else {})}
            about = {"instance_id": f"id{p}", "train_trial_index": 0, **({"perturbation": change} if change else {})}
            states.append({"instance": instance, "train_trial_index": 0,
                           "result": {"success": True, "completions": [{"text": "4", "tokens": []}]}})  # fmt: skip
            for name, mean in (("exact_match", right), ("num_completion_tokens", tokens)):  # an entry a metric
                stats.append({**about, "stats": [{"name": {"name": name}, "mean": mean}]})
    (tmp_path / "scenario_state.json").write_text(
        json.dumps({"adapter_spec": {"model": "m"}, "request_states": states})
    )
    (tmp_path / "per_instance_stats.json").write_text(json.dumps(stats))
    log = read_log(tmp_path)
    assert cells(log) == {(f"id{p}", "m"): (1, 90) for p in range(3)} and len(log.problem) == 3
    assert "3 left out: requests of perturbed instances, which are not new problems" in log.notes


def test_helms_tokens_that_nobody_counted_are_no_cost_of_nothing(tmp_path):
    """HELM 0.5.16 with a server of its own: no tokens, statistics of 0, and every answer was free."""
    for effort, text in (("low", "42"), ("high", "it is 42")):
        folder = tmp_path / f"mine:model=m-{effort}"
        folder.mkdir()
        states = [{"instance": {"id": f"q{p}", "input": {"text": f"{p}?"}}, "train_trial_index": 0,
                   "result": {"success": True, "completions": [{"text": text, "tokens": []}, {"text": "7"}]}}
                  for p in range(2)]  # fmt: skip
        names = {"num_completion_tokens": 0.0, "num_output_tokens": 0.0, "exact_match": 1.0}
        stats = [{"instance_id": f"q{p}", "train_trial_index": 0,
                  "stats": [{"name": {"name": name}, "mean": mean} for name, mean in names.items()]}
                 for p in range(2)]  # fmt: skip
        document = {"adapter_spec": {"model": f"m-{effort}"}, "request_states": states}
        (folder / "scenario_state.json").write_text(json.dumps(document))
        (folder / "per_instance_stats.json").write_text(json.dumps(stats))
        (folder / "scenario.json").write_text(json.dumps({"name": "mine", "tags": []}))
    log = read_log(tmp_path)
    assert sorted(zip(log.response_group, log.cost, strict=True)) == [("m-high", 8), ("m-high", 8), ("m-low", 2),
                                                                       ("m-low", 2)]  # fmt: skip
    assert "the log holds no tokens: cost = characters of the completion" in log.notes
    assert "4 left out: further completions of a request, which HELM does not score one by one" in log.notes
    assert not any("scenario.json" in note for note in log.notes)


PLAIN = [
    {"problem_id": p, "request_id": f"{p}{effort}", "effort": effort, "tokens": 5}
    for p in "ab"
    for effort in ("x", "y")
]
GIVEN = [{"request_id": row["request_id"], "reward": n % 2} for n, row in enumerate(PLAIN)]


@pytest.mark.parametrize(
    ("log", "table"),
    [
        ([{"Request ID" if x == "request_id" else x: y for x, y in row.items()} for row in PLAIN], GIVEN),
        ([{**row, "reward": None} for row in PLAIN], GIVEN),
        ([{**row, "reward": ""} for row in PLAIN], GIVEN),
        (PLAIN, [{"RequestId": row["request_id"], "Reward": row["reward"]} for row in GIVEN]),
    ],
    ids=["capitals of the log", "an empty column", "an empty text", "capitals of the table"],
)
def test_joined_rewards_however_the_columns_are_written(tmp_path, log, table):
    found = read_log(write_rows(tmp_path / "log.jsonl", log), join=[write_rows(tmp_path / "rewards.jsonl", table)])
    assert found.reward.tolist() == [0, 1, 0, 1]


def test_a_first_row_without_the_identifier_keeps_no_table_from_being_joined(tmp_path):
    log = write_rows(tmp_path / "log.jsonl", [{"problem_id": "a", "error": "timeout"}, *PLAIN])
    found = read_log(log, join=[write_rows(tmp_path / "rewards.jsonl", GIVEN)])
    assert found.reward.tolist() == [0, 1, 0, 1] and "1 left out: failed requests" in found.notes


def test_a_bad_row_of_a_joined_table_is_not_passed_over(tmp_path):
    log, table = write_rows(tmp_path / "log.jsonl", PLAIN), write_rows(tmp_path / "rewards.jsonl", GIVEN)
    table.write_text(table.read_text() + '{"request_id": "b')
    with pytest.raises(LogError, match=r"rewards.jsonl, line 5: not JSON"):
        read_log(log, join=[table])
    assert len(read_log(log, join=[table], on_error="skip").bad_rows) == 1


@pytest.mark.parametrize("name", ["rewards.jsonl", "a.jsonl"])
def test_a_table_of_rewards_in_the_folder_of_a_plain_log(tmp_path, name):
    write_rows(tmp_path / "log.jsonl", PLAIN)
    write_rows(tmp_path / name, GIVEN)
    assert read_log(tmp_path).reward.tolist() == [0, 1, 0, 1]
    # Files that hold all of it are parts of the log.
    whole = [{**row, "reward": 1} for row in PLAIN]
    for part in ("log.jsonl", name):
        write_rows(tmp_path / part, whole if part == name else whole[:2])
    assert len(read_log(tmp_path).reward) == 6


def test_a_packed_copy_beside_the_file_does_not_count_twice(tmp_path):
    path = write_rows(tmp_path / "log.jsonl", [{**row, "reward": 1} for row in PLAIN])
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    log = read_log(tmp_path)
    assert len(log.reward) == 4 and "skipped, because it is a copy of log.jsonl: log.jsonl.gz" in log.notes
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()[::-1])[:-9])
    with pytest.raises(LogError, match=r"log.jsonl.gz: cannot be read: .*; it is cut off or damaged: copy it again"):
        read_log(tmp_path)


SPANS = {
    "openllmetry 0.33.12": lambda q, effort, n: {
        "llm.request.type": "chat", "gen_ai.request.model": "m", "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": q, "gen_ai.usage.completion_tokens": n, "gen_ai.usage.prompt_tokens": 9,
        "gen_ai.completion.0.finish_reason": "length", "gen_ai.completion.0.content": "42", "my.effort": effort},
    "openinference 0.1.66": lambda q, effort, n: {
        "openinference.span.kind": "LLM", "llm.model_name": "m", "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": q, "llm.token_count.completion": n, "llm.token_count.prompt": 9,
        "llm.finish_reason": "length", "llm.output_messages.0.message.contents.0.message_content.text": "42",
        "llm.token_count.completion_details.reasoning": n - 1, "output.value": '{"id": "r1"}',
        "llm.invocation_parameters": json.dumps({"model": "m", "reasoning": {"effort": effort}})},
    "logfire 4": lambda q, effort, n: {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.response.finish_reasons": '["length"]',
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": q}]}]),
        "gen_ai.output.messages": '[{"role": "assistant", "parts": [{"type": "text", "content": "42"}]}]',
        "gen_ai.usage.output_tokens": n, "gen_ai.usage.input_tokens": 9, "my.effort": effort},
}  # fmt: skip
"""The attributes that instrumentations write, by those that were run: the text asked, effort, tokens."""


@pytest.mark.parametrize("make", SPANS.values(), ids=SPANS)
def test_spans_by_other_conventions_say_the_same(make, tmp_path):
    """Names of before, messages as attributes of their own, OpenInference's names: rows were dropped."""
    asked = [("17 + 25?", "low", 12), ("17 + 25?", "high", 96), ("9 + 9?", "low", 13)]
    spans = [{"context": {"trace_id": f"t{n}", "span_id": f"s{n}"}, "parent_id": None, "attributes": make(*one)}
             for n, one in enumerate(asked)]  # fmt: skip
    failed = spans[0] | {"status": {"status_code": "ERROR"}, "context": {"trace_id": "t7", "span_id": "s7"}}
    about = {"openinference.span.kind": "EMBEDDING", "gen_ai.operation.name": "embeddings"}
    other = spans[0] | {"attributes": about, "context": {"trace_id": "t8", "span_id": "s8"}}
    source = Source(path=write_rows(tmp_path / "spans.jsonl", [*spans, failed, other]))
    rows = [row for _, row in read_log_rows(source) if not isinstance(row, LogError)]
    assert [(row["prompt"], row["response_group"], row["tokens"]) for row in rows] == asked
    assert len({row["problem_id"] for row in rows}) == 2  # though a server may give two requests one identifier
    assert all(row["finish_reason"] == "length" and row["completion"] == "42" for row in rows)
    assert all(row["uncached_input_tokens"] == 9 for row in rows)
    assert sorted(source.left_out.items()) == [
        ("failed requests", 1),
        ("spans in which no model answers a prompt (agents, tools, embeddings)", 1),
    ]


def test_a_table_says_problem_and_response_group_of_requests_whose_log_does_not(tmp_path):
    """A log without the texts was left out whole, whatever was joined to it."""
    spans = [
        {"context": {"trace_id": "t", "span_id": f"s{n}"}, "parent_id": None,
         "attributes": {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.response.id": f"r{n}",
                        "gen_ai.usage.output_tokens": 10 + n}}
        for n in range(4)
    ]  # fmt: skip
    helicone = [{"request_id": f"r{n}", "request_properties": {}, "completion_tokens": 10 + n, "response_status": 200,
                 "request_model": "m"} for n in range(4)]  # fmt: skip
    for column in ("effort", "response_group"):
        table = [{"request_id": f"r{n}", "problem_id": f"q{n // 2}", column: "ab"[n % 2], "reward": n % 2}
                 for n in range(4)]  # fmt: skip
        path = write_rows(tmp_path / "table.jsonl", table)
        for rows in (spans, helicone):
            log = read_log(write_rows(tmp_path / "log.jsonl", rows), join=[path])
            assert (log.problem, log.response_group) == (["q0", "q0", "q1", "q1"], ["a", "b", "a", "b"])
            assert (log.cost.tolist(), log.reward.tolist()) == ([10, 11, 12, 13], [0, 1, 0, 1])
            assert log.notes[0].startswith("read as ") and log.notes[1].startswith("joined table.jsonl")


def test_the_standard_log_of_litellm(tmp_path):
    """What it sends to buckets and callbacks: it was read as OpenAI's, each request a problem of its own."""
    row = {"call_type": "acompletion", "cache_hit": False, "status": "success", "startTime": 1.5, "model": "m",
           "response_cost": 0.1, "prompt_tokens": 9, "metadata": {}}  # fmt: skip

    def one(n, effort, tokens, text="2 + 2?", **more):
        said = {"id": f"c{n}", "object": "chat.completion", "choices": [{"message": {"content": "4"}}], "usage": {}}
        return {**row, "id": f"c{n}", "messages": [{"role": "user", "content": text}], "completion_tokens": tokens,
                "response": said, "model_parameters": {"reasoning_effort": effort}, **more}  # fmt: skip

    failed = one(4, "low", 0, status="failure", response={}, error_str="boom")
    rows = [one(0, "low", 5), one(1, "high", 50), one(2, "low", 6, "3 + 3?"), one(3, "low", 0, cache_hit=True), failed]
    source = Source(path=write_rows(tmp_path / "log.jsonl", rows))
    found = [row for _, row in read_log_rows(source) if not isinstance(row, LogError)]
    assert [(x["request_id"], x["response_group"], x["tokens"]) for x in found] == [
        ("c0", "low", 5), ("c1", "high", 50), ("c2", "low", 6)]  # fmt: skip
    assert len({x["problem_id"] for x in found}) == 2 and source.left_out.total() == 2
    hidden = [one(n, "low", 5, "redacted-by-litellm") for n in range(2)]  # by which no problem is known
    assert rows_of(write_rows(tmp_path / "hidden.jsonl", hidden)) == []


def test_a_request_that_two_exports_hold_counts_once(tmp_path):
    """Exports of two days that overlap. A server that draws identifiers out of a thousand gives one to two requests."""
    row = {"spend": 0.4, "startTime": "t", "model": "m"}
    rows = [{**row, "request_id": f"r{n}", "completion_tokens": 10 + n,
             "metadata": {"problem_id": f"q{n // 2}", "effort": "ab"[n % 2], "reward": n % 2}}
            for n in range(6)]  # fmt: skip
    other = rows[0] | {"completion_tokens": 99}  # of the same identifier
    for name, some in (("monday", rows[:4]), ("tuesday", [*rows[2:], other])):
        (tmp_path / f"{name}.json").write_text(json.dumps(some))
    log = read_log(tmp_path)
    assert sorted(log.cost) == [10, 11, 12, 13, 14, 15, 99]
    assert "2 left out: requests that an earlier row holds too, by identifier, tokens and text" in log.notes
    # The same as CSV, whose cells are texts.
    cells = [{k: json.dumps(v) if k == "metadata" else v for k, v in row.items()} for row in rows]
    with (tmp_path / "week.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, cells[0])
        writer.writeheader()
        writer.writerows(cells)
    assert sorted(read_log(tmp_path).cost) == [10, 11, 12, 13, 14, 15, 99]


@pytest.mark.parametrize("form", ["interface", "bucket"])
def test_langfuse_by_its_programming_interface_and_its_export_to_a_bucket(form, tmp_path):
    """The one was read as OpenAI's log, the other as a table without costs."""
    rows: list[dict[str, object]] = []
    for n, (question, effort, tokens) in enumerate([("2 + 2?", "low", 5), ("2 + 2?", "high", 50), ("3?", "low", 6)]):
        asked, said = [{"role": "user", "content": question}], {"role": "assistant", "content": "4"}
        spent = {"input": 9, "output": 1, "output_reasoning_tokens": tokens - 1, "total": 9 + tokens}
        one = {
            "interface": {"id": f"o{n}", "traceId": f"t{n}", "type": "GENERATION", "model": "m", "input": asked,
                          "modelParameters": {"reasoning_effort": effort}, "output": said, "usageDetails": spent,
                          "usage": {"input": 9, "output": tokens}, "level": "DEFAULT", "calculatedTotalCost": 0.5},
            "bucket": {"id": f"o{n}", "trace_id": f"t{n}", "type": "GENERATION", "provided_model_name": "m",
                       "input": json.dumps(asked), "model_parameters": json.dumps({"reasoning_effort": effort}),
                       "output": json.dumps(said), "usage_details": spent, "level": "DEFAULT", "total_cost": 0.5},
        }[form]  # fmt: skip
        span = {**one, "type": "SPAN", "id": f"p{n}"}
        rows += [span | {name: {} for name in one if name.startswith("usage")}, one]
    path = tmp_path / "observations.json"
    path.write_text(json.dumps({"data": rows, "meta": {"page": 1}}))
    scores = write_rows(tmp_path / "scores.jsonl", [{"traceId": f"t{n}", "value": n % 2} for n in range(3)])
    log = read_log(path, LogColumns(reward="value"), join=[scores])
    assert (log.response_group, log.cost.tolist(), log.reward.tolist()) == (
        ["low", "high", "low"],
        [5, 50, 6],
        [0, 1, 0],
    )
    assert len(set(log.problem)) == 2
    assert "3 left out: observations in which no model answers (spans, events, tools)" in log.notes
    assert [(row["model"], row["cost_usd"]) for row in rows_of(path)] == [("m", 0.5)] * 3


@pytest.mark.parametrize("packed", [".json", ".jsonl", ".ndjson"])
def test_opentelemetry_files_by_the_names_that_the_collectors_examples_have(tmp_path, packed):
    for name in ("otlp_traces", "otlp_logs"):
        shutil.copy(LOGS / "otel" / f"{name}.jsonl", tmp_path / f"{name}{packed}")
    check(cells(read_log(tmp_path)))
    check(cells(read_log(tmp_path / f"otlp_traces{packed}")))


def test_one_batch_of_spans_is_no_list_of_its_parts(tmp_path):
    first = (LOGS / "otel" / "otlp_traces.jsonl").read_text().splitlines()[0]
    (tmp_path / "traces.json").write_text(json.dumps(json.loads(first), indent=2))
    assert rows_of(tmp_path / "traces.json")[0]["request_id"] == "chatcmpl-fixture-q1-low"


def test_of_several_evaluations_of_a_span_one_is_the_reward(tmp_path):
    """Whatever their order: the last one was taken, here in half of the spans another than in the rest."""

    def event(name, value):
        return {"name": "gen_ai.evaluation.result",
                "attributes": {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": value}}  # fmt: skip

    both = [event("right", 1), event("short", 0)]
    spans = [
        {"context": {"trace_id": "t", "span_id": f"s{n}"}, "events": both[:: 1 - 2 * (n % 2)],
         "attributes": {"gen_ai.operation.name": "chat", "demo.problem": f"p{n // 2}", "demo.effort": "ab"[n % 2],
                        "gen_ai.usage.output_tokens": 5}}
        for n in range(4)
    ]  # fmt: skip
    path = write_rows(tmp_path / "spans.jsonl", spans)
    log = read_log(path)
    assert log.reward.tolist() == [1, 1, 1, 1]
    assert "reward = evaluation right of right, short (--columns reward=NAME names another)" in log.notes
    assert read_log(path, LogColumns(reward="short")).reward.tolist() == [0, 0, 0, 0]


def test_evaluations_of_spans_without_a_response_id_are_told_apart(tmp_path):
    """As the SDK's console exporter writes them by itself: all spans had the evaluation of the last one."""
    spans = [
        {"context": {"trace_id": "t", "span_id": f"0x{n}"},
         "events": [{"attributes": {"gen_ai.evaluation.name": "right", "gen_ai.evaluation.score.value": float(n > 2)}}],
         "attributes": {"gen_ai.operation.name": "chat", "demo.problem": f"p{n // 2}", "demo.effort": "ab"[n % 2],
                        "gen_ai.usage.output_tokens": 5}}
        for n in range(4)
    ]  # fmt: skip
    (tmp_path / "spans.json").write_text("".join(json.dumps(span, indent=4) + "\n" for span in spans))
    assert read_log(tmp_path / "spans.json").reward.tolist() == [0, 0, 0, 1]


def test_the_column_of_efforts_of_a_tools_log_can_be_named(tmp_path):
    """It was taken away, and the advice of docs/reference/log-formats.md refused."""
    rows = [
        {"input": "1 + 1 =", "output": "2", "score": 1.0, "step": 1, "effort": effort, "mode": "a"} for effort in "xy"
    ]
    path = write_rows(tmp_path / "1.jsonl", rows)
    assert read_log(path, LogColumns(response_group="effort")).response_group == ["x", "y"]
    assert read_log(path, LogColumns(response_group="mode")).response_group == ["a", "a"]


def test_a_batch_that_was_written_as_a_list(tmp_path):
    lines = (LOGS / "openai_batch" / "output.jsonl").read_text().splitlines()
    (tmp_path / "output.json").write_text(json.dumps([json.loads(line) for line in lines]))
    assert {row["response_group"] for row in rows_of(tmp_path / "output.json")} == {"low", "high"}


def test_a_langfuse_row_without_the_score_does_not_get_another_one(tmp_path):
    """The first score of each row was its reward, so that some had `kind` and others `right`."""
    rows = [
        {"id": str(n), "traceId": str(n), "type": "GENERATION", "metadata": {"problem": f"q{n}", "effort": "low"},
         "usageDetails": {"output": 5}, "right": right, "kind": [1.0]}
        for n, right in enumerate(([0.0], None, [1.0]))
    ]  # fmt: skip
    path = write_rows(tmp_path / "observations.jsonl", rows)
    with pytest.raises(LogError, match="line 2, column 'reward': no value"):
        read_log(path)
    log = read_log(path, on_error="skip")
    assert log.reward.tolist() == [0, 1] and "reward = score right of right, kind" in " ".join(log.notes)


def test_a_sample_without_a_score_of_the_first_scorer_does_not_get_another_ones(tmp_path):
    [path] = sorted((LOGS / "inspect" / "numeric").glob("*VH8*.json"))
    document = json.loads(path.read_text())
    for n, sample in enumerate(document["samples"]):
        [score] = (sample.get("scores") or {"none": {"value": 0}}).values()
        sample["scores"] = {"first": score, "second": score | {"value": 0.25}} if n else {"first": score}
    document["samples"][1]["scores"].pop("first")
    (tmp_path / "log.json").write_text(json.dumps(document))
    assert 0.25 not in read_log(tmp_path / "log.json", on_error="skip").reward.tolist()


def inspect_sample(effort, *, model="m", task="sums", problem="q1", calls=(), usage=20, **more):
    """A log of one sample as Inspect writes it; `calls` are (span, tokens) of its calls of the model."""
    spans = [
        {"event": "span_begin", "id": "solve", "type": "solvers", "span_id": "solve"},
        {"event": "span_begin", "id": "score", "type": "scorers", "span_id": "score"},
        {"event": "span_begin", "id": "grade", "type": "scorer", "parent_id": "score", "span_id": "grade"},
        {"event": "span_begin", "id": "inner", "type": "agent", "parent_id": "grade", "span_id": "inner"},
    ]
    events = [
        {"event": "model", "model": model, "span_id": span,
         "output": {"usage": {"input_tokens": 5, "output_tokens": tokens}}}
        for span, tokens in calls
    ]  # fmt: skip
    sample = {"id": problem, "epoch": 1, "scores": {"model_graded_qa": {"value": "C"}}, "events": spans + events,
              "model_usage": {model: {"input_tokens": 5 * len(calls), "output_tokens": usage}},
              "output": {"usage": {"output_tokens": 20}}}  # fmt: skip
    scorers = [{"name": "model_graded_qa", "options": {}}]
    return {"version": 2, "plan": {"config": {"reasoning_effort": effort}}, "samples": [sample | more],
            "eval": {"model": model, "task": task, "scorers": scorers},
            "results": {"headline": {"score": "model_graded_qa"}}}  # fmt: skip


@pytest.mark.parametrize(
    ("calls", "usage", "cost"),
    [
        ([("solve", 20), ("grade", 77)], 97, 20),
        ([("solve", 20), ("solve", 30), ("inner", 77)], 127, 50),
        ([("solve", 20), ("grade", 77)], 20, 20),  # graded later on, by `inspect score`: that is in no usage
        ([("solve", 20), ("grade", 77), ("grade", 77)], 97, 20),  # both
        ([("grade", 77)], 77, 20),  # the answer was of a cache, which is in no usage either
        ([("solve", 20)], 20, 20),
    ],
)
def test_what_a_model_spends_on_grading_its_own_answer_is_no_cost_of_it(tmp_path, calls, usage, cost):
    """`model_graded_qa` asks the evaluated model unless another is named: costs were those of both."""
    (tmp_path / "a.json").write_text(json.dumps(inspect_sample("low", calls=calls, usage=usage)))
    log = read_log(tmp_path / "a.json")
    assert log.cost.tolist() == [cost]
    assert any("graded its answers" in note for note in log.notes) == any(span != "solve" for span, _ in calls)
    if calls == [("solve", 20), ("grade", 77)]:
        assert rows_of(tmp_path / "a.json")[0]["uncached_input_tokens"] == 5


def test_a_log_without_events_says_that_its_costs_may_hold_the_grading(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(inspect_sample("low", usage=97, events=[])))
    log = read_log(tmp_path / "a.json")
    assert log.cost.tolist() == [97] and any("the log has no events" in note for note in log.notes)


def test_what_an_inspect_run_came_to_is_no_reward_of_a_sample(tmp_path):
    """`results.headline.score`, the name of a scorer, was taken for the rewards of samples that have none."""
    (tmp_path / "a.json").write_text(json.dumps(inspect_sample("low", scores={"model_graded_qa": {"value": None}})))
    with pytest.raises(MissingColumns, match="no column for the reward"):
        read_log(tmp_path / "a.json")


def test_which_of_several_scorers_is_the_reward_is_said_with_what_names_another(tmp_path):
    scores = {"includes": {"value": "C"}, "match": {"value": "I"}}
    (tmp_path / "a.json").write_text(json.dumps(inspect_sample("low", scores=scores)))
    log, other = read_log(tmp_path / "a.json"), "sample.scores.match.value"
    assert log.reward.tolist() == [1]
    assert f"reward = includes of includes, match (--columns reward={other} names another)" in log.notes
    assert read_log(tmp_path / "a.json", LogColumns(reward=other)).reward.tolist() == [0]


def test_models_and_tasks_stay_apart_where_the_other_one_splits_the_log(tmp_path):
    """A folder of runs held four answers to each problem: two models' or two tasks' were taken for one's."""
    for number, (effort, model, task) in enumerate(
        [(effort, model, task) for effort in ("low", "high") for model in "mn" for task in ("sums", "words")]
    ):
        log = inspect_sample(effort, model=model, task=task, calls=[("solve", 20)])
        (tmp_path / f"{number}.json").write_text(json.dumps(log))
    with pytest.raises(LogError, match=r"holds 2 tasks, sums, words, .*; give --by harness_task"):
        read_log(tmp_path)
    with pytest.raises(LogError, match=r"column 'model' holds 2 models; name the files of one$"):
        read_log(tmp_path, LogColumns(by="harness_task"))
    with pytest.raises(LogError, match=r"holds 2 tasks, sums, words, .*; name the files of one$"):
        read_log(tmp_path, LogColumns(by="model"))
    by_model = read_log(tmp_path, LogColumns(by="harness_task", response_group="model"))
    assert {name: len(part.problem) for name, part in by_model.parts().items()} == {"sums": 4, "words": 4}


def test_models_of_one_effort_can_be_the_response_groups_and_the_error_says_so(tmp_path):
    rows = [
        {"id": p, "effort": "low", "model": model, "correct": 1, "tokens": t}
        for p in "ab"
        for model, t in (("m", 1), ("n", 9))
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(LogError, match=r"; or --columns response_group=model, to choose between them$"):
        read_log(path)
    assert read_log(path, LogColumns(response_group="model")).response_group == ["m", "n", "m", "n"]


def spans_around(status="UNSET"):
    """As the SDK writes them with instrumented clients: the connection's span, the model's, the application's."""
    for n in range(4):
        context = {"trace_id": f"t{n}", "trace_state": "[]"}
        yield {"name": "POST", "context": context | {"span_id": f"h{n}"}, "parent_id": f"m{n}",
               "status": {"status_code": status}, "attributes": {"http.request.method": "POST"}}  # fmt: skip
        yield {"name": "chat m", "context": context | {"span_id": f"m{n}"}, "parent_id": f"a{n}",
               "status": {"status_code": "UNSET"},
               "attributes": {"gen_ai.operation.name": "chat", "gen_ai.usage.output_tokens": 5 + n,
                              "app.problem_id": f"p{n // 2}", "app.effort": ("low", "high")[n % 2]},
               "events": [{"attributes": {"gen_ai.evaluation.score.value": n % 2}}]}  # fmt: skip
        yield {"name": "answer", "context": context | {"span_id": f"a{n}"}, "parent_id": None,
               "status": {"status_code": status}, "attributes": {"app.problem_id": f"p{n // 2}"}}  # fmt: skip


def test_spans_around_a_models_work_are_no_responses(tmp_path):
    """The application's was a row without tokens, and a connection's that came first hid whose log it is."""
    path = write_rows(tmp_path / "spans.jsonl", list(spans_around()))
    log = read_log(path)
    assert cells(log) == {("p0", "low"): (0, 5), ("p0", "high"): (1, 6), ("p1", "low"): (0, 7), ("p1", "high"): (1, 8)}
    assert "8 left out: spans without attributes gen_ai.*, which are not of a model" in log.notes
    failed = read_log(write_rows(tmp_path / "spans.jsonl", list(spans_around("ERROR"))))
    assert not any("failed requests" in note for note in failed.notes)  # for which none of the model's did
    write_rows(tmp_path / "spans.jsonl", [span for span in spans_around() if "answer" in span["name"]])
    with pytest.raises(LogError, match=r"no usable rows .4 left out: spans without attributes"):
        read_log(path)


@pytest.mark.parametrize("name", ["pairs.jsonl", "responses.jsonl"])
def test_a_log_whose_first_request_failed_is_known_all_the_same(name, rewards, tmp_path):
    """It was read as a plain table, to which no rewards could be joined."""
    rows = [json.loads(line) for line in (LOGS / "openai_chat" / name).read_text().splitlines()]
    failed = [row for row in rows if row.get("status") == "failed" or "error" in (row.get("response") or {})]
    assert len(failed) == 1
    rest = [row for row in rows if row not in failed]
    path = write_rows(
        tmp_path / "a.jsonl", [failed[0] | {"response": None} if name == "pairs.jsonl" else failed[0], *rest]
    )
    check(cells(read_log(path, join=[rewards("request_id", names_of(path))])))


def turns(last, image=None):
    content = [{"type": "text", "text": last}, *([{"type": "image_url", "image_url": {"url": image}}] if image else [])]
    return [{"role": "system", "content": "s"}, {"role": "user", "content": content}]


CONVERSATIONS = {
    "turns": [[*turns(f"Capital of {land}?"), {"role": "assistant", "content": "x"}, *turns("Why?")[1:]]
              for land in ("France", "Spain")],
    "images": [turns("What is this?", f"data:{n}") for n in range(2)],
}  # fmt: skip


@pytest.mark.parametrize("tool", ["pairs", "litellm", "litellm_stored", "langfuse", "otel", "batch"])
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_conversations_with_the_same_last_message_are_several_problems(kind, tool, tmp_path):
    """They were one: "Why?" to whatever was asked before, or "What is this?" to any image."""
    rows, inputs = [], []
    asked = [(messages, effort) for messages in CONVERSATIONS[kind] for effort in ("low", "high")]
    for n, (messages, effort) in enumerate(asked):
        request = {"model": "m", "messages": messages, "reasoning_effort": effort}
        response = {"id": f"c{n}", "object": "chat.completion", "model": "m",
                    "choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": 5}}  # fmt: skip
        spent = {"request_id": f"c{n}", "spend": 0.1, "startTime": "2026", "completion_tokens": 5, "model": "m"}
        parts = [{"role": one["role"], "parts": one["content"]} for one in messages]
        inputs.append({"custom_id": f"c{n}", "url": "/v1/chat/completions", "body": request})
        rows.append({
            "pairs": {"request": request, "response": response},
            "litellm": spent | {"proxy_server_request": request, "response": response, "messages": {}},
            "litellm_stored": spent | {"messages": json.dumps(messages), "metadata": {"effort": effort}},
            "langfuse": {"id": f"c{n}", "traceId": "t", "input": {"messages": messages}, "usageDetails": {"output": 5},
                         "modelParameters": {"reasoning_effort": effort}},
            "otel": {"context": {"trace_id": "t", "span_id": f"c{n}"},
                     "attributes": {"gen_ai.operation.name": "chat", "gen_ai.usage.output_tokens": 5,
                                    "app.effort": effort, "gen_ai.input.messages": json.dumps(parts)}},
            "batch": {"custom_id": f"c{n}", "response": {"status_code": 200, "body": response}, "error": None},
        }[tool])  # fmt: skip
    write_rows(tmp_path / "output.jsonl", rows)
    if tool == "batch":
        write_rows(tmp_path / "input.jsonl", inputs)
    found = [(row["problem_id"], row["response_group"]) for row in rows_of(tmp_path)]
    assert [group for _, group in found] == ["low", "high"] * 2
    assert [found[0][0] == name for name, _ in found] == [True, True, False, False]


@pytest.mark.parametrize("keyed", [False, True])
def test_gemini_batches_say_what_was_asked_or_which_key_it_has(keyed, tmp_path):
    """Vertex writes the request beside the response, the Gemini API the key that it was given."""
    rows = []
    for n, (problem, effort) in enumerate([("p", "low"), ("p", "high"), ("q", "low"), ("q", "high")]):
        usage = {"promptTokenCount": 9, "candidatesTokenCount": 2, "thoughtsTokenCount": n}
        said = {"responseId": f"r{n}", "modelVersion": "m", "usageMetadata": usage,
                "candidates": [{"content": {"parts": [{"text": "4"}]}}]}  # fmt: skip
        asked = {"contents": [{"role": "user", "parts": [{"text": f"What is {problem}?"}]}],
                 "generationConfig": {"thinkingConfig": {"thinkingLevel": effort}}}  # fmt: skip
        rows.append({"key": problem, "response": said} if keyed else {"status": "", "request": asked, "response": said})
    path = write_rows(tmp_path / "a.jsonl", rows)
    found = [(row["problem_id"], row["response_group"], row["tokens"]) for row in rows_of(path)]
    names = ("p", "p", "q", "q") if keyed else ("r0", "r0", "r2", "r2")
    groups = ("m",) * 4 if keyed else ("low", "high") * 2
    assert found == list(zip(names, groups, (2, 3, 4, 5), strict=True))


def test_a_problem_that_is_named_is_enough_of_an_identifier(tmp_path):
    """Rows that say not what was asked were left out, whatever column the caller named for the problem."""
    rows = [
        {"record": f"p{n // 2}", "correct": 1,
         "response": {"id": f"r{n}", "object": "chat.completion", "model": "m", "reasoning_effort": ("a", "b")[n % 2],
                      "choices": [{"message": {"content": "4"}}], "usage": {"completion_tokens": n}}}
        for n in range(4)
    ]  # fmt: skip
    path = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(LogError, match="4 left out: rows that say neither what was asked nor which problem it is"):
        read_log(path)
    assert cells(read_log(path, LogColumns(problem="record"))) == {
        ("p0", "a"): (1, 0), ("p0", "b"): (1, 1), ("p1", "a"): (1, 2), ("p1", "b"): (1, 3)
    }  # fmt: skip


@pytest.mark.parametrize("knowing_first", [True, False])
def test_two_instrumentations_of_a_call_are_one_response(tmp_path, knowing_first):
    """Each writes a span, one inside of the other: every response counted twice, once without an effort."""
    spans = []
    for n in range(4):
        both = [
            {"context": {"trace_id": f"t{n // 2}", "span_id": f"{name}{n}"}, "parent_id": "a",
             "attributes": {"gen_ai.operation.name": "chat", "gen_ai.response.id": f"r{n}",
                            "gen_ai.usage.input_tokens": 20, "gen_ai.usage.output_tokens": n, **more}}
            for name, more in (("x", {"app.effort": ("low", "high")[n % 2], "gen_ai.usage.cache_read.input_tokens": 8}),
                               ("y", {"app.problem_id": f"p{n // 2}"}))
        ]  # fmt: skip
        both[1]["events"] = [{"attributes": {"gen_ai.evaluation.score.value": n % 2}}]
        spans += both if knowing_first else both[::-1]
    path = write_rows(tmp_path / "spans.jsonl", spans)
    log = read_log(path)
    assert cells(log) == {("p0", "low"): (0, 0), ("p0", "high"): (1, 1), ("p1", "low"): (0, 2), ("p1", "high"): (1, 3)}
    assert len(log.problem) == 4 and {row["uncached_input_tokens"] for row in rows_of(path)} == {12}
    assert "4 left out: spans of a response that another span of its trace has too" in log.notes


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"promptTokenCount": 20, "cachedContentTokenCount": 4, "toolUsePromptTokenCount": 100}, (116, 4, None)),
        ({"inputTokens": 12, "cacheReadInputTokens": 8, "cacheWriteInputTokens": 5}, (12, 8, 5)),
    ],
)
def test_tokens_of_the_prompt_that_stand_beside_it_are_no_thoughts(usage, counts):
    found = read_usage(usage)
    assert tuple(map(found.get, ("uncached_input_tokens", "cached_input_tokens", "cache_write_tokens"))) == counts


def test_kinds_of_langfuses_input_are_no_thoughts(tmp_path):
    usage = {"input": 12, "input_audio_tokens": 30, "input_cached_tokens": 8, "output": 4, "output_reasoning_tokens": 6,
             "total": 60}  # fmt: skip
    row = {"id": "1", "traceId": "1", "input": "a", "metadata": {"effort": "low"}, "usageDetails": usage}
    [found] = rows_of(write_rows(tmp_path / "a.jsonl", [row]))
    assert (found["tokens"], found["thinking_tokens"], found["uncached_input_tokens"]) == (10, 6, 42)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_ids_that_a_table_made_of_another_type_are_the_same_problems(ending, tmp_path):
    """Where a column has a gap, pandas writes its whole numbers with a point: 1 and 1.0 are one problem."""
    for group, kind in (("low", int), ("high", float)):
        rows = [{"problem": kind(n), "response_group": group, "reward": n % 2, "tokens": 9} for n in range(20)]
        if ending == "parquet":
            table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
            pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / f"{group}.parquet")
        else:
            (tmp_path / f"{group}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_log(tmp_path)
    assert set(log.problem) == {str(n) for n in range(20)} and len(log.problem) == 40
