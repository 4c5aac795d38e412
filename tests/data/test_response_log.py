"""Reading logs, and saying what is wrong with them."""

import gzip
import json

import pytest

from ibpo.data import LogError, read_log

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
    log = read_log(write(tmp_path / name, text), by="model")
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
    assert read_log(path, by="model").cost.tolist() == [10, 30.5]
    with pytest.raises(LogError, match="cannot be read as Parquet"):
        read_log(write(tmp_path / "b.parquet", "no"))


def test_named_columns_are_not_guessed(tmp_path):
    rows = [{"x": "p", "model": "m", "score": 0.5, "dollars": 2}, {"x": "p", "model": "n", "score": 1, "dollars": 3}]
    path = write(tmp_path / "a.jsonl", lines(rows))
    log = read_log(path, problem="x", response_group="model", reward="score", cost="dollars")
    assert log.guessed == () and log.response_group == ["m", "n"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "no rows"),
        ("a.txt", "", "must end in"),
        ("a.jsonl", lines(ROWS), "'model' holds 2 models; give --by model"),
        ("a.jsonl", lines(ROWS[:1]) + "{", "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: a JSON list"),
        ("a.jsonl", lines([{**ROWS[0], "effort": None}]), r"line 1, column 'effort': no value.*--response-group"),
        ("a.jsonl", "\n" + lines([{**ROWS[0], "tokens": "many"}]), "line 2, column 'tokens': 'many' is not a finite"),
        ("a.jsonl", lines([{**ROWS[0], "tokens": -1}]), "column 'tokens': -1 is negative"),
        ("a.jsonl", lines([{**ROWS[0], "correct": float("nan")}]), "column 'correct': no value"),
        ("a.jsonl", lines([{**ROWS[0], "correct": float("inf")}]), "column 'correct': inf is not a finite"),
        ("a.csv", CSV + "1,low,1\n", "line 4, column 'tokens': no value"),
        ("a.csv", CSV + "1,low,1,2,m,extra\n", "line 4: more values"),
        ("a.csv", CSV.replace("tokens", "t"), r"no column 'tokens' or 'cost'; name one of 'question_id'.* with --cost"),
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
        read_log(tmp_path / "a.jsonl.gz", by="model")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LogError, match="cannot be read"):
        read_log(tmp_path / "b.jsonl")
    with pytest.raises(LogError, match="no column 'tenant'"):
        read_log(write(tmp_path / "c.jsonl", lines(ROWS)), by="tenant")
