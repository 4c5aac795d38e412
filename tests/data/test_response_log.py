"""Reading logs, and saying what is wrong with them."""

import gzip
import json
import sys
from collections import Counter

import numpy as np
import pytest

from ibpo.data import LogColumns, LogError, note_repeats, read_log
from ibpo.prices import Price, Prices

ROWS = [
    {"question_id": 1, "effort": "low", "correct": True, "tokens": 10, "model": "m"},
    {"question_id": 1, "effort": "high", "correct": 0, "tokens": 30.5, "model": "n"},
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path, text):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


CSV = "question_id,effort,correct,tokens,model\n1,low,true,10,m\n1,high,0,30.5,n\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", lines(ROWS)), ("a.jsonl.gz", "\n" + lines(ROWS)), ("a.csv", CSV), ("a.csv.gz", CSV)],
)
def test_reads_text(tmp_path, name, text):
    log = read_log(write(tmp_path / name, text), LogColumns(by="model"))
    assert (log.problem, log.response_group, log.part) == (["1", "1"], ["low", "high"], ["m", "n"])
    assert (log.reward.tolist(), log.cost.tolist()) == ([1, 0], [10, 30.5])
    assert log.columns["response_group"] == "effort"
    assert log.guessed == ("problem", "response_group", "reward", "cost")
    assert [(part, x.cost.tolist()) for part, x in log.parts().items()] == [("m", [10]), ("n", [30.5])]


def test_reads_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{**row, "correct": float(row["correct"])} for row in ROWS]), path)
    assert read_log(path, LogColumns(by="model")).cost.tolist() == [10, 30.5]
    with pytest.raises(LogError, match="cannot be read as Parquet"):
        read_log(write(tmp_path / "b.parquet", "no"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("packing", ["none", "gzip", "zstd"])
def test_whether_a_file_is_packed_its_bytes_say(name, packing, tmp_path):
    """A download unpacks a file and keeps its name, or packs it and does not tell."""
    pyarrow = pytest.importorskip("pyarrow")
    text = lines(ROWS).encode()
    halves = [text[:20], text[20:]]  # packed one by one, as a log that is appended to
    made = {"none": lambda: text, "gzip": lambda: b"".join(map(gzip.compress, halves)),
            "zstd": lambda: b"".join(pyarrow.compress(x, codec="zstd", asbytes=True) for x in halves)}  # fmt: skip
    (tmp_path / name).write_bytes(made[packing]())
    assert read_log(tmp_path / name, LogColumns(by="model")).cost.tolist() == [10, 30.5]


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.feather", lambda arrow, rows: b"FEA1" + b"x" * 100, r"a.feather: is Feather of version 1; write it again"),
        ("a.arrow", lambda arrow, rows: _stream(arrow, rows * 2), r"columns are called 'x'; rename one of them$"),
        ("a.json", lambda arrow, rows: json.dumps({"columns": ["a"], "index": [0], "data": [[1]]}).encode(),
         r"a.json: the names of the columns are apart from the rows; write a list of objects"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_read_say_what_to_write(name, make, message, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(make(arrow, [arrow.array([1])]))
    with pytest.raises(LogError, match=message):
        read_log(tmp_path / name)


def _stream(arrow, columns):
    batch, sink = arrow.RecordBatch.from_arrays(columns, names=["x"] * len(columns)), arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def test_a_list_names_a_value_in_it(tmp_path):
    path = write(tmp_path / "a.jsonl", lines([{**row, "correct": [float(row["correct"])]} for row in ROWS]))
    with pytest.raises(LogError, match=r"is a list; .* name a value in it with --columns reward=correct.0"):
        read_log(path, LogColumns(by="model"))
    assert read_log(path, LogColumns(by="model", reward="correct.0")).cost.tolist() == [10, 30.5]


def test_named_columns_are_not_guessed(tmp_path):
    rows = [{"x": "p", "model": "m", "score": 0.5, "dollars": 2}, {"x": "p", "model": "n", "score": 1, "dollars": 3}]
    path = write(tmp_path / "a.jsonl", lines(rows))
    log = read_log(path, LogColumns(problem="x", response_group="model", reward="score", cost="dollars"))
    assert log.guessed == () and log.response_group == ["m", "n"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "no rows"),
        ("a.json", "\n", "no rows"),
        ("a.json", "null", "a JSON null; it takes a list of objects"),
        ("a.xlsx", "", "must end in"),
        ("a.jsonl", lines([*ROWS, {**ROWS[0], "model": "n"}]), "'model' holds 2 models; give --by model"),
        ("a.jsonl", lines([{**ROWS[0], "tokens": True}]), "column 'tokens': True is not a finite number"),
        ("a.jsonl", lines(ROWS[:1]) + "{", "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: a JSON list"),
        (
            "a.jsonl",
            lines([{**ROWS[0], "effort": None}]),
            r"line 1, column 'effort': no value.*--columns response_group=",
        ),
        ("a.jsonl", "\n" + lines([{**ROWS[0], "tokens": "many"}]), "line 2, column 'tokens': 'many' is not a finite"),
        ("a.jsonl", lines([{**ROWS[0], "tokens": -1}]), "column 'tokens': -1 is negative"),
        ("a.jsonl", lines([{**ROWS[0], "correct": float("nan")}]), "column 'correct': no value"),
        ("a.jsonl", lines([{**ROWS[0], "correct": float("inf")}]), "column 'correct': inf is not a finite"),
        ("a.csv", CSV + "1,low,1\n", "line 4, column 'tokens': no value"),
        ("a.csv", CSV + "1,low,1,2,m,extra\n", "line 4: more values"),
        (
            "a.csv",
            CSV.replace("tokens", "t"),
            r"no column for the cost \(looked for tokens, .*there are 'question_id'.* --columns cost=t$",
        ),
    ],
)
def test_errors_name_place_and_fix(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(LogError, match=message) as caught:
        read_log(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(LogError, match="no such file"):
        read_log(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode())[:-9])
    with pytest.raises(LogError, match="cannot be read"):
        read_log(tmp_path / "a.jsonl.gz", LogColumns(by="model"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LogError, match="cannot be read"):
        read_log(tmp_path / "b.jsonl")
    with pytest.raises(LogError, match="no column 'tenant'"):
        read_log(write(tmp_path / "c.jsonl", lines(ROWS)), LogColumns(by="tenant"))


def parquet_of(path, rows, **types):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(rows)
    for name, kind in types.items():
        column = table.column(name)
        column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
        table = table.set_column(table.column_names.index(name), name, column)
    parquet.write_table(table, path)
    return path


BAD = [
    {"id": "a", "group": "low", "reward": 1.0, "cost": 2.0},
    {"id": "a", "group": "high", "reward": None, "cost": 2.0},
    {"id": "", "group": "low", "reward": 0.0, "cost": 2.0},
    {"id": "nan", "group": "high", "reward": 0.0, "cost": -3.0},
    {"id": "nan", "group": None, "reward": 0.0, "cost": 3.0},
    {"id": "nan", "group": "low", "reward": 0.5, "cost": float("inf")},
    {"id": "nan", "group": "low", "reward": 0.5, "cost": 0.0},
]


@pytest.mark.parametrize("types", [{}, {"group": "dictionary"}, {"cost": "string", "reward": "string"}])
def test_parquet_says_what_json_lines_say(tmp_path, types):
    """By columns, or row by row where numbers are texts: the same rows are good, the others bad for the same reason."""
    logs = [
        read_log(path, on_error="skip")
        for path in (write(tmp_path / "a.jsonl", lines(BAD)), parquet_of(tmp_path / "a.parquet", BAD, **types))
    ]
    for log in logs:
        assert (log.problem, log.response_group) == (["a", "nan"], ["low", "low"])
        assert (log.reward.tolist(), log.cost.tolist()) == ([1.0, 0.5], [2.0, 0.0])
    said, again = ([text.split(", ", 1)[1] for text in log.bad_rows] for log in logs)
    assert [text.split(":")[0] for text in said] == [text.split(":")[0] for text in again]
    if not types:
        assert said == again
    assert said[0].startswith("line 2, column 'reward': no value; fill it in")
    assert "line 4, column 'cost': -3.0 is negative" in said[2]


def test_ids_of_parquet_are_the_texts_that_they_are_in_other_tables(tmp_path):
    rows = [{"id": x, "group": True, "reward": 1, "cost": 1, "level": None} for x in (1.0, 2.5)]
    log = read_log(parquet_of(tmp_path / "a.parquet", rows))
    assert (log.problem, log.response_group) == (["1", "2.5"], ["True", "True"])
    log = read_log(parquet_of(tmp_path / "b.parquet", [{**row, "id": int(row["id"])} for row in rows]))
    assert log.problem == ["1", "2"]
    log = read_log(parquet_of(tmp_path / "c.parquet", [{**row, "id": {"task": "x"}} for row in rows]))
    assert log.problem == ["{'task': 'x'}"] * 2


@pytest.mark.parametrize("twice", ["correct", "model", "note"])
def test_parquet_whose_columns_have_one_name_is_refused(tmp_path, twice):
    """`model` is looked at although nobody named it, `note` by nobody; the same words for all."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"id": ["1", "1"], "effort": ["low", "high"], "correct": [1, 0], "tokens": [10, 30], "model": ["a", "a"]}
    table = pyarrow.table(columns).append_column(twice, [["b", "b"]])
    if twice == "note":
        table = table.append_column(twice, [["c", "c"]])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(LogError, match=f"several columns are called {twice!r}; rename one"):
        read_log(tmp_path / "a.parquet")


def test_models_of_parquet_are_seen_in_good_rows_only(tmp_path):
    rows = [{"id": 1, "group": "a", "reward": 1.0, "cost": float(cost), "model": f"m{cost}"} for cost in (1, -2)]
    assert len(read_log(parquet_of(tmp_path / "a.parquet", rows), on_error="skip").problem) == 1
    rows[1]["cost"] = 2.0
    with pytest.raises(LogError, match="'model' holds 2 models; give --by model"):
        read_log(parquet_of(tmp_path / "b.parquet", rows))


def parquet_log(path, **columns):
    """Two problems with two responses each, some columns as given."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {"problem_id": [1, 1, 2, 2], "group": ["a", "b"] * 2, "reward": [0, 1, 1, 1], "cost": [1.0, 2.0] * 2}
    parquet.write_table(arrow.table({**table, **columns}), path)
    return path


def test_parquet_ids_beyond_int64_are_themselves(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    ids = [2**63, 2**63, 2**64 - 1, 2**64 - 1]
    log = read_log(parquet_log(tmp_path / "x.parquet", problem_id=arrow.array(ids, arrow.uint64())))
    assert log.problem == list(map(str, ids))


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ("1" * 5000, "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("1e308", r"1e\+308 is above 1e\+200"),
    ],
)
def test_numbers_without_measure_are_named(tmp_path, cost, message):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 1, "group": "a", "reward": 1, "cost": ' + cost + "}\n")
    with pytest.raises(LogError, match=message):
        read_log(path)


def test_a_csv_field_may_be_long(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,group,reward,cost,completion\n1,a,0,1," + "x" * 200_000 + "\n")
    assert read_log(path).problem == ["1"]


def test_efforts_that_run_on_different_models_are_alternatives(tmp_path):
    """What the model is follows from the response group: there is nothing to split; it was refused."""
    rows = [
        {"id": p, "effort": effort, "reward": 1.0, "cost": 2.0, "model": model}
        for p in (1, 2)
        for effort, model in (("low", "small"), ("mid", "large"), ("high", "large"))
    ]
    for path in (write(tmp_path / "a.jsonl", lines(rows)), parquet_of(tmp_path / "a.parquet", rows)):
        log = read_log(path, LogColumns(response_group="effort"))
        assert set(log.response_group) == {"low", "mid", "high"}
        assert "every response group is of one model: high of large, low of small, mid of large" in log.notes


def test_true_is_no_cost_of_1_by_columns_either(tmp_path):
    rows = [{"id": p, "effort": e, "reward": 1.0, "cost": True} for p in range(300) for e in ("low", "high")]
    for path in (write(tmp_path / "a.jsonl", lines(rows) * 300), parquet_of(tmp_path / "a.parquet", rows)):
        with pytest.raises(LogError, match=r"line 1, column 'cost': True is not a finite number"):
            read_log(path)


def test_a_file_that_goes_while_it_is_read_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("ibpo.data.response_log.is_small", lambda path: path.unlink())  # between two looks at it
    with pytest.raises(LogError, match=r"a.jsonl: was removed or replaced while it was read; run the command again"):
        read_log(write(tmp_path / "a.jsonl", lines([{**ROWS[0], "correct": 1}] * 2)), LogColumns(by="model"))


@pytest.mark.parametrize("kind", ["jsonl", "large", "parquet", "csv"])
def test_ways_of_several_turns_are_no_more_responses_of_their_first_group(tmp_path, kind):
    """However a table of `ibpo eval` is kept, and whichever of our readers reads it."""
    ways = {"low": "low", "high": "high", "low, corrected": "low", "responses": "", "responses, debated": "",
            "chooses itself": "high"}  # fmt: skip
    rows = [
        {"problem_id": p, "configuration": way, "response_group": group, "reward": 1.0, "tokens": 5.0,
         "finish_reason": "stop", "completion": "x" * (9 if kind != "large" else 9000)}
        for p in range(60) for way, group in ways.items()
    ]  # fmt: skip
    if kind == "parquet":
        path = parquet_of(tmp_path / "a.parquet", rows)
    elif kind == "csv":
        head = ",".join(rows[0])
        text = "".join(",".join(f'"{value}"' for value in row.values()) + "\n" for row in rows)
        path = write(tmp_path / "a.csv", f"{head}\n{text}")
    else:
        path = write(tmp_path / "a.jsonl", lines(rows))
    log = read_log(path)
    assert Counter(log.response_group) == {
        "low": 60, "high": 120, "low, corrected": 60, "responses": 60, "responses, debated": 60,
    }  # fmt: skip
    assert log.columns["response_group"] == "response_group" and "low, corrected" in "".join(log.notes)
    # Other logs may have such columns and mean what they say.
    for row in rows:
        del row["finish_reason"]
    assert set(read_log(write(tmp_path / "b.jsonl", lines(rows)), on_error="skip").response_group) == {"low", "high"}


def test_collecting_counts_no_response_of_several_turns(tmp_path):
    from ibpo.evaluation import match_logged, read_prompt_log

    rows = [
        {"problem_id": "p", "configuration": way, "response_group": "low", "reward": 1.0, "tokens": 5, "number": n,
         "finish_reason": "stop", "prompt": "1 + 1 =", "completion": "2"}
        for way in ("low", "low, corrected") for n in range(3)
    ]  # fmt: skip
    log = read_prompt_log(write(tmp_path / "a.jsonl", lines(rows)), columns={})
    assert len(log.logged["p"]) == 3 and "3 left out: responses of several turns" in " ".join(log.notes)
    counted, _ = match_logged(log, ["low"], model="m", asked_with=None, by_model=False)
    assert len(counted["p"]) == 3


def answered(right=True, **changes):
    """A row of a log without rewards and tokens: a gold answer, and a text to judge and to count."""
    row = {"id": "p", "effort": "low", "gold": "7", "completion": "It is 7." if right else "It is 8."}
    return {name: value for name, value in (row | changes).items() if value is not ...}


def judge(rows):
    from ibpo.evaluation.importing import judge_rows

    return judge_rows(rows)


def test_a_row_without_the_text_that_is_counted_is_a_bad_row(tmp_path):
    """It was a traceback: `KeyError: 'completion'`."""
    rows = [answered(reward=1) for _ in range(250)] + [answered(reward=1, completion=...)]
    for bad in (rows, [*rows[:250], answered(reward=1, completion=None)]):
        path = write(tmp_path / "a.jsonl", lines(bad))
        with pytest.raises(LogError, match=r"line 251: no completion, whose characters are the cost here"):
            read_log(path)
        log = read_log(path, on_error="skip")
        assert log.cost.tolist() == [8] * 250 and len(log.bad_rows) == 1


def test_a_failed_request_does_not_hide_that_texts_can_be_counted(tmp_path):
    rows = [answered(reward=None, completion=None, error="timeout"), answered(reward=1), answered(False, reward=0)]
    log = read_log(write(tmp_path / "a.jsonl", lines(rows)))
    assert log.cost.tolist() == [8, 8] and "1 left out: failed requests" in log.notes


@pytest.mark.parametrize("column", ["completion", "response", "response_text"])
def test_the_text_of_a_response_is_judged_whatever_its_column_is_called(tmp_path, column):
    """All that is not called completion was judged as if nothing had been answered, and wrong."""
    rows = [answered(**{"completion": ..., column: f"It is {said}."}) for said in (7, 8)]
    log = read_log(write(tmp_path / "a.jsonl", lines(rows)), judge=judge)
    assert log.reward.tolist() == [1, 0] and log.cost.tolist() == [8, 8]


def test_what_cannot_be_judged_is_no_wrong_answer(tmp_path):
    path = write(tmp_path / "a.jsonl", lines([answered(), answered(gold=None)]))
    with pytest.raises(LogError, match="line 2: neither a reward nor a gold answer to judge by"):
        read_log(path, judge=judge)
    assert read_log(path, judge=judge, on_error="skip").reward.tolist() == [1]
    failed = answered(completion="", tokens=0, error="timeout")
    log = read_log(write(tmp_path / "b.jsonl", lines([answered(tokens=5), failed])), judge=judge)
    assert log.reward.tolist() == [1] and "1 left out: failed requests" in log.notes
    with pytest.raises(LogError, match="no completion or response_text or response to hold against gold"):
        read_log(
            write(tmp_path / "c.jsonl", lines([answered(completion=..., output="It is 7.", tokens=5)])), judge=judge
        )


@pytest.mark.parametrize("nothing", ["None", "nan", "null", "N/A", "-", "False", "0", 0, False, None, "", float("nan")])
def test_what_tables_write_for_no_error_is_none(tmp_path, nothing):
    rows = [{**ROWS[0], "error": nothing}, {**ROWS[1], "model": "m", "correct": None, "error": nothing}]
    with pytest.raises(LogError, match="line 2, column 'correct': no value"):
        read_log(write(tmp_path / "a.jsonl", lines(rows)))


def test_failed_requests_are_left_out_of_parquet_too(tmp_path):
    """Where all columns are plain only those that are read were looked at."""
    rows = [{**row, "correct": 1.0, "tokens": 5, "error": None, "model": "m"} for row in ROWS]
    failed = {**rows[0], "correct": None, "tokens": None, "error": "timeout"}
    log = read_log(parquet_of(tmp_path / "a.parquet", [*rows, failed]))
    assert len(log.reward) == 2 and "1 left out: failed requests" in log.notes


@pytest.mark.parametrize(
    ("texts", "costs"),
    [
        (["0,531", "1,297", "12,5"], [0.531, 1.297, 12.5]),  # 1297 before
        (["1,297", "0,531"], [1.297, 0.531]),
        (["1,297", "950"], [1297, 950]),
        (["1,297,300", "1,297.5"], [1297300, 1297.5]),
    ],
)
def test_a_comma_parts_the_same_in_all_rows_of_a_column(tmp_path, texts, costs):
    rows = "".join(f"p;low;1,000;{text}\np;high;0,5;{text}\n" for text in texts)
    log = read_log(write(tmp_path / "a.csv", f"id;effort;score;cost_usd\n{rows}"))
    assert log.cost.tolist() == [cost for cost in costs for _ in "ab"]
    assert log.reward.tolist() == [1, 0.5] * len(texts)


def test_a_comma_that_parts_otherwise_further_down_is_refused(tmp_path):
    rows = [{**ROWS[0], "tokens": "1,297"} for _ in range(300)] + [{**ROWS[0], "tokens": "0,5"}]
    path = write(tmp_path / "a.jsonl", lines(rows))
    with pytest.raises(LogError, match=r"line 301, column 'tokens': '0,5' has decimals behind its comma, but '1,297'"):
        read_log(path)
    assert read_log(path, on_error="skip").cost.tolist() == [1297.0] * 300


def test_a_column_of_objects_names_nothing(tmp_path):
    rows = [{"id": 1, "config": {"effort": effort}, "eval": {"correct": 1}, "usage": {"completion_tokens": 5}}
            for effort in ("low", "high")]  # fmt: skip
    log = read_log(write(tmp_path / "a.jsonl", lines(rows)))
    assert log.response_group == ["low", "high"] and log.columns["response_group"] == "config.effort"


def test_the_advice_to_divide_a_reward_that_is_divided_already(tmp_path):
    with pytest.raises(LogError, match=r"--columns reward=points/100, or rescale"):
        read_log(write(tmp_path / "a.jsonl", lines([{**ROWS[0], "points": 47}])), LogColumns(reward="points/10"))


def test_objects_behind_one_another_in_a_json_file(tmp_path):
    """A line each, with a separator that JSON takes for a letter, or over many lines, as consoles print them."""
    rows = [{**row, "model": "m", "prompt": "a\u2028b"} for row in ROWS]
    for indent in (None, 4):
        text = "\n".join(json.dumps(row, indent=indent, ensure_ascii=False) for row in rows)
        assert read_log(write(tmp_path / "a.json", text + "\n")).cost.tolist() == [10, 30.5]
    with pytest.raises(LogError, match="not JSON: Extra data"):
        read_log(write(tmp_path / "b.json", text + "\n{"))


@pytest.mark.parametrize("num_rows", [2, 4000])  # read line by line, and by columns
def test_half_of_a_character_is_a_question_mark(tmp_path, num_rows):
    """Tools that count in UTF-16 cut texts there: no table, page or file took them, which was a traceback."""
    rows = [
        {"id": f"p{i}\ud83d", "effort": effort, "correct": i % 2, "tokens": 5, "text": "x" * 500 + "\ud83d"}
        for i in range(num_rows)
        for effort in ("low", "\ude42high")
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_log(path, LogColumns(show="text"))
    assert log.problem[:2] == ["p0?", "p0?"] and sorted(set(log.response_group)) == ["?high", "low"]
    assert log.shown[0] == "x" * 500 + "?" and len(log.reward) == 2 * num_rows


def test_collecting_counts_no_failed_request(tmp_path):
    """One with an empty text was a wrong answer, one without tokens ended the reading."""
    from ibpo.evaluation import read_prompt_log

    rows = [answered(prompt="3 + 4 =", tokens=5)]
    rows += [
        answered(prompt="3 + 4 =", completion=text, tokens=n, error="timeout") for text, n in (("", 0), (None, None))
    ]
    assert len(read_prompt_log(write(tmp_path / "a.jsonl", lines(rows)), columns={}).logged["p"]) == 1


def test_folders_named_by_columns_are_read_as_they_were_written(tmp_path):
    """DuckDB, Polars and Spark write `%2F` for a slash, which was taken as it stands, and a name for no value."""
    for effort, tokens in (("low", 5), ("very high", 50)):
        folder = (
            tmp_path
            / "model=openai%2Fgpt-5"
            / f"effort={effort.replace(' ', '%20')}"
            / "kind=__HIVE_DEFAULT_PARTITION__"
        )
        folder.mkdir(parents=True)
        (folder / "0.jsonl").write_text(json.dumps({"id": "a", "correct": 1, "tokens": tokens}) + "\n")
    price = Price(input=1, cached_input=1, cache_write=1, output=2, reasoning=2)
    prices = Prices(path=tmp_path / "prices.toml", by_model={"gpt-5": price})
    log = read_log(tmp_path, LogColumns(prices=prices))
    assert dict(zip(log.response_group, log.cost, strict=True)) == {"low": 1e-5, "very high": 1e-4}
    with pytest.raises(LogError, match="column 'kind': no value"):
        read_log(tmp_path, LogColumns(show="kind"))


def test_a_delta_table_is_refused_for_its_folder_holds_earlier_versions_too(tmp_path):
    """What had been overwritten counted beside what overwrote it."""
    (tmp_path / "log" / "_delta_log").mkdir(parents=True)
    (tmp_path / "log" / "_delta_log" / "00000000000000000000.json").write_text("{}")
    (tmp_path / "log" / "part-0.jsonl").write_text("{}")
    for folder in (tmp_path, tmp_path / "log"):
        with pytest.raises(LogError, match=r"log: is a table of Delta Lake, .* write the version that you mean as"):
            read_log(folder)


@pytest.mark.parametrize("by_row", [True, False])
def test_an_object_of_objects_is_no_row(tmp_path, by_row):
    """As pandas writes by default, and with orient="index": of all rows the first was read, and nothing said."""
    rows = {str(n): {"id": n, "effort": "low", "correct": 1, "tokens": 5} for n in range(3)}
    columns = {name: {key: row[name] for key, row in rows.items()} for name in rows["0"]}
    (tmp_path / "a.json").write_text(json.dumps(rows if by_row else columns))
    with pytest.raises(LogError, match=f"an object of {3 if by_row else 4} objects with the same fields; write a list"):
        read_log(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps(rows["0"]))
    assert read_log(tmp_path / "a.json").cost.tolist() == [5]


def test_a_blank_may_stand_before_the_sign_of_a_percentage(tmp_path):
    rows = ["id;effort;score;tokens", "a;low;12,5 %;1", "a;high;50\u00a0%;1", "b;low;0 %;1", "b;high;100%;1"]
    (tmp_path / "a.csv").write_text("\n".join(rows), encoding="utf-8")
    assert read_log(tmp_path / "a.csv").reward.tolist() == [0.125, 0.5, 0, 1]


def test_what_is_not_there_is_said_to_be_not_there_whatever_its_name(tmp_path):
    with pytest.raises(LogError, match="log: there is no such file"):
        read_log(tmp_path / "log")


def test_a_document_of_many_lists_names_a_few_of_them(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"eval": {f"task {n}": [{"id": n}] for n in range(164)}}))
    with pytest.raises(LogError, match=r"several lists of objects, eval\.task 0, .*, eval\.task 4, \.\.\.; write"):
        read_log(tmp_path / "a.json")


def test_thousands_as_swiss_spreadsheets_write_them(tmp_path):
    (tmp_path / "a.csv").write_text(
        "id;effort;score;tokens\na;low;1;1\u2019234\na;high;1;2'000\u2019000\n", encoding="utf-8"
    )
    assert read_log(tmp_path / "a.csv").cost.tolist() == [1234, 2000000]


def test_what_spreadsheets_leave_behind_and_below_a_table_is_nothing(tmp_path):
    rows = ["id;effort;score;tokens;;", "a;low;1;10;;", "a;high;0;20;;", ";;;;;", " ; ; ; "]
    assert read_log(write(tmp_path / "a.csv", "\n".join(rows))).cost.tolist() == [10, 20]
    rows = ["id,effort,score,tokens", "a,low,1,10,", "a,high,0,20,,"]
    assert read_log(write(tmp_path / "b.csv", "\n".join(rows))).cost.tolist() == [10, 20]
    with pytest.raises(LogError, match="line 2: more values than the header has columns"):
        read_log(write(tmp_path / "c.csv", "id,effort,score,tokens\na,low,1,10,,7\n"))


@pytest.mark.parametrize("blank", [".", "\u00a0", "\u202f", " "])
def test_thousands_beside_a_decimal_comma(tmp_path, blank):
    rows = f"id;effort;score;tokens\na;low;1;1{blank}234,5\na;high;0,5;2{blank}000{blank}000\na;low;1;1,234\n"
    (tmp_path / "a.csv").write_text(rows, encoding="utf-8")
    assert read_log(tmp_path / "a.csv").cost.tolist() == [1234.5, 2000000, 1.234]


def test_parquet_columns_without_a_value_of_python_stop_no_other(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setitem(sys.modules, "pandas", None)  # with which pyarrow would read nanoseconds
    table = pa.table(
        {
            "id": pa.array([b"a", b"a"]),
            "effort": pa.array([b"low", b"high"], pa.large_binary()),
            "score": [1, 0],
            "usage": pa.array([[("completion_tokens", 5)], [("completion_tokens", 9)]], pa.map_("string", "int64")),
            "at": pa.array([{"start": 1_700_000_000_123_456_789}] * 2, pa.struct([("start", pa.timestamp("ns"))])),
            "until": pa.array([400_000_000_000_000] * 2, pa.timestamp("ms")),
            "picture": pa.array([b"\xff\xfe", b"\xff"]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    log = read_log(tmp_path / "a.parquet")
    assert (log.response_group, log.cost.tolist()) == (["low", "high"], [5, 9])
    assert list(map(str, log.problem)) == ["a", "a"]


@pytest.mark.parametrize("few", [False, True])
def test_rows_that_repeat_others_are_told_unless_costs_are_few(few):
    """Answers of one token count are alike by chance; those of a thousand, one time in a thousand."""
    rng = np.random.default_rng(0)
    for share in (0.0, 0.5, 1.0):
        cell = np.repeat(np.arange(400), 4)
        cost = rng.integers(1, 4 if few else 4000, len(cell)).astype(float)
        reward = rng.integers(0, 2, len(cell)).astype(float)
        more = rng.permutation(np.r_[np.arange(len(cell)), np.arange(int(share * len(cell)))])
        note = note_repeats(cell[more], cell[more] % 2, reward[more], cost[more])
        assert bool(note) == ((share > 0 and not few) or share == 1)  # all of them twice is no chance
        if note and not few:
            assert note.startswith(f"{int(share * 1600):,} of {len(more):,} rows say what an earlier row says") or (
                abs(int(note.split()[0].replace(",", "")) - share * 1600) < 20
            )


def test_copies_within_a_file_are_told_for_every_format(tmp_path):
    rows = [{"question_id": p, "effort": effort, "correct": p % 2, "tokens": 97 * p + tokens, "note": f"{p}"}
            for p in range(20) for effort, tokens in (("low", 10), ("high", 300))]  # fmt: skip
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "a.jsonl", lines(rows * 2))
    parquet.write_table(arrow.Table.from_pylist(rows * 2), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert read_log(tmp_path / name).notes[-1].startswith("40 of 80 rows say what an earlier row says")
    assert read_log(write(tmp_path / "b.jsonl", lines(rows))).notes == ()
