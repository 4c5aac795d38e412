"""Logs as the tools that people use write them: each fixture is read without an option, or with one."""

import json
import zipfile
from pathlib import Path

import pytest

from ibpo.data import LogColumns, LogError, MissingColumns, Source, read_log, read_log_rows

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
    with pytest.raises(MissingColumns, match="an export of traces holds no tokens: export the observations"):
        read_log(LOGS / "langfuse" / "traces.json")


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
    with pytest.raises(MissingColumns, match=r"read as verl rollouts.*no column for the response group"):
        read_log(LOGS / "verl" / "rollout")
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
