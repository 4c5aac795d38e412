"""JSON lines by columns: it must not matter whether pyarrow or Python reads them."""

import gzip
import json
import random

import pytest

from ibpo.data import LogColumns, LogError, LogReader, json_columns, read_log

pytest.importorskip("pyarrow")

PLAIN = '{"problem_id": "%s", "response_group": "%s", "reward": %s, "tokens": %s}'
ODD = [
    PLAIN % ("q1", "low", "true", "3"),
    PLAIN % ("q1", "low", '"1"', "3"),
    PLAIN % ("q1", "low", "1", '"1,297"'),
    PLAIN % ("q1", "low", "0.1234567890123456789012345", "12345678901234567"),
    PLAIN % ("q1", "low", "1E0", "1.5e3"),
    PLAIN % ("q1", "low", "-0.0", "-0"),
    PLAIN % ("q1", "low", "NaN", "1"),
    PLAIN % ("q1", "low", "1", "Infinity"),
    PLAIN % ("q1", "low", "1", "1e400"),
    PLAIN % ("q1", "low", "1", "9" * 25),
    PLAIN % ("q1", "low", "1", "9" * 5000),
    PLAIN % ("q1", "low", "2", "1"),
    PLAIN % ("q1", "low", "1", "-1"),
    PLAIN % ("q1", "low", "1", "null"),
    PLAIN % ("q1", "low", "null", "1"),
    PLAIN % (" q1 ", "low", "1", "1"),
    PLAIN % ("nan", "low", "1", "1"),
    PLAIN % ("", "low", "1", "1"),
    PLAIN % ("q1", "", "1", "1"),
    PLAIN % ("2024-01-02", "2024-01-02 00:00:00", "1", "1"),
    PLAIN % ("\\u0071\\ud83d\\ude00\\n", "l\\u006fw", "1", "1"),
    PLAIN % ("\\ud800", "low", "1", "1"),
    PLAIN % ("tab\t", "low", "1", "1"),
    PLAIN % ("q1", "low", "01", "1"),
    PLAIN % ("q1", "low", "1", "1") + " " + PLAIN % ("q2", "low", "1", "1"),
    PLAIN % ("q1", "low", "1", "1") + "\r\n" + PLAIN % ("q2", "low", "1", "1") + "\r" + PLAIN % ("q3", "low", "1", "1"),
    " " + PLAIN % ("q1", "low", "1", "1") + "\t",
    (PLAIN % ("q1", "low", "1", "1")).replace(', "reward"', '\n, "reward"'),
    "",
    "  ",
    "[1]",
    "{",
    "{}",
    "null",
    "// nothing",
    '{"problem_id": 7, "response_group": "low", "reward": 1, "tokens": 1}',
    '{"problem_id": true, "response_group": "low", "reward": 1, "tokens": 1}',
    '{"problem_id": 1.0, "response_group": "low", "reward": 1, "tokens": 1}',
    '{"problem_id": ["a"], "response_group": "low", "reward": 1, "tokens": 1}',
    '{"problem_id": {"a": 1}, "response_group": ["low"], "reward": 1, "tokens": 1}',
    '{"problem_id": "q1", "problem_id": "q2", "response_group": "low", "reward": 1, "tokens": 1}',
    '{"problem\\u005fid": "q5", "response_group": "low", "reward": 1, "tokens": 1}',
    '{"tokens": 1, "reward": 1, "response_group": "low", "problem_id": "q1", "other": {"tokens": [1, {"reward": 2}]}}',
    '{"problem_id": "q1", "response_group": "low", "reward": 1, "tokens": 1, "other": 1, "other": 2}',
    '{"problem_id": "q1", "response_group": "low", "reward": 1, "tokens": 1, "other": ' + "9" * 5000 + "}",
    '{"problem_id": "q1", "response_group": "low", "reward": 1, "tokens": 1, "x": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"problem_id": "q1", "response_group": "low", "reward": 1, "usage": {"completion_tokens": 9}}',
    '{"problem_id": "q1", "response_group": "low", "error": {"code": 500}}',
    '{"problem_id": "q1", "response_group": "low", "error": "", "reward": 1}',
    '{"problem_id": "q1", "response_group": "", "configuration": "c", "finish_reason": "", "reward": 1, "tokens": 1}',
    '{"problem_id": "q1", "response_group": "low", "reward": 1, "tokens": 1, "model": "m"}',
    '{"problem_id": "q1", "response_group": "m", "reward": 1, "tokens": 1, "model": "m"}',
    '{"problem_id": "q1", "response_group": "low", "reward": 1, "tokens": 1, "model": 3}',
    '{"problem_id": "q1", "response_group": "low", "reward": 1, "tokens": 1, "harness_task": "t1"}',
]  # fmt: skip


def both(path, monkeypatch, piece=400, **options):
    """What the two readers say of a log: its columns, or why it cannot be read."""
    said = []
    for small in (0, 10**9):
        monkeypatch.setattr(json_columns, "SMALL", small)
        monkeypatch.setattr(json_columns, "PIECE", piece)
        try:
            log = read_log(path, LogColumns(**options.get("names", {})), on_error=options.get("on_error", "skip"))
            said.append((log.problem, log.response_group, log.reward.tolist(), log.cost.tolist(), log.part, log.columns,
                         log.bad_rows, log.notes))  # fmt: skip
        except LogError as error:
            said.append(str(error))
    return said


def count_columns(monkeypatch):
    """How many pieces pyarrow reads from here on, and how many it leaves to Python."""
    seen = {True: 0, False: 0}
    read = json_columns.read_columns

    def counted(*args):
        batch = read(*args)
        seen[batch is not None] += 1
        return batch

    monkeypatch.setattr("ibpo.data.response_log.read_columns", counted)
    return seen


@pytest.mark.parametrize("line", ODD)
@pytest.mark.parametrize("on_error", ["skip", "fail"])
def test_an_odd_line_among_plain_ones_is_read_the_same(tmp_path, monkeypatch, line, on_error):
    path = tmp_path / "a.jsonl"
    plain = [PLAIN % (f"q{n % 9}", ("low", "high")[n % 2], n % 2, 10 + n) for n in range(240)]
    path.write_text("\n".join([*plain[:220], line, *plain[220:]]) + "\n", errors="surrogatepass")
    seen = count_columns(monkeypatch)
    columns, rows = both(path, monkeypatch, on_error=on_error)
    assert columns == rows and seen[True] > 10


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_of_odd_lines_is_read_the_same(tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    path = tmp_path / "a.jsonl"
    plain = [PLAIN % (f"q{n % 9}", ("low", "high")[n % 2], n % 2, 10 + n) for n in range(210)]
    some = [rng.choice(ODD) if rng.random() < 0.3 else rng.choice(plain) for _ in range(60)]
    path.write_text("\n".join([*plain, *some]) + "\n" * rng.randrange(2), errors="surrogatepass")
    columns, rows = both(path, monkeypatch, piece=rng.choice([100, 500, 10**6]))
    assert columns == rows


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"id": 7, "group": True, "correct": False, "cost": 0.5}, {}),
        ({"question_id": "a", "effort": "low", "score": 0.25, "output_tokens": 7, "model": "m"}, {"by": "model"}),
        ({"question_id": "a", "effort": "low", "score": 0.25, "tokens": 7, "level": 3}, {"show": "level"}),
        ({"question_id": "a", "model": "m", "reward": 1, "tokens": 7}, {}),
        ({"problem_id": "a", "response_group": "m", "reward": 1, "tokens": 7, "model": "m"}, {}),
        ({"problem_id": "a", "response_group": "m", "reward": 1, "tokens": 7}, {"cost": "reward"}),
    ],
)
def test_other_columns_are_read_the_same(tmp_path, monkeypatch, row, names):
    rows = [{**row, "completion": "x" * 50, "n": n} for n in range(300)]
    for packed in (False, True):
        text = "\ufeff" + "".join(json.dumps(row) + "\n" for row in rows)
        path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        seen = count_columns(monkeypatch)
        columns, read = both(path, monkeypatch, names=names)
        assert columns == read and seen[True] and not seen[False]


def test_several_models_are_refused_by_both(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(PLAIN[:-1] % ("q", "low", 1, 1) + f', "model": "m{n > 250}"}}\n' for n in range(300)))
    columns, rows = both(path, monkeypatch)
    assert columns == rows and "holds 2 models; give --by model" in columns


def test_no_utf_8_is_an_error_of_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    plain = "".join(PLAIN % (f"q{n}", "low", 1, 1) + "\n" for n in range(300)).encode()
    path.write_bytes(plain + plain.replace(b"}", b', "x": "\xff"}'))
    for said in both(path, monkeypatch):
        assert "cannot be read: 'utf-8' codec can't decode byte 0xff" in said and "\n" not in said


def test_blocks_are_as_long_as_the_pieces(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(PLAIN % (f"q{n}", "low", 1, 1) + "\n" for n in range(300)))
    monkeypatch.setattr(json_columns, "SMALL", 0)
    monkeypatch.setattr(json_columns, "PIECE", 1000)
    blocks = list(LogReader(path, LogColumns()).blocks())
    assert len(blocks) > 10 and sum(map(len, blocks)) == 300
