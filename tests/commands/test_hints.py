"""Errors say what to type next."""

import subprocess
import sys
from pathlib import Path

import pytest

IBPO = Path(sys.executable).with_name("ibpo")
LOG = "problem_id,response_group,reward,tokens\n1,a,1,10\n1,b,0,20\n2,a,0,10\n2,b,1,30\n"
CASES = {
    "allocate respones.csv": "respones.csv: there is no such file; did you mean responses.csv?",
    "allocate responses.csv --columns reward=right": "try: ibpo allocate responses.csv --columns reward=reward",
    "allocate responses.csv --bugdet 0.5x": "--budget",
    "route fit responses.csv --part=b --number tokens --out r.json": "--out r.json --part COLUMN=VALUE",
    "allocate numbered.csv": "all 4 of column 'id'; log every problem with every response group, or name the problem's",
    "allocate wide.csv": "write a row for each, with its response group; there are 'id', 'low_correct', 'low_tokens'",
    "allocate runs": "a folder's name may say the response group: effort=low/ for low/",
    "allocate broken.jsonl": "line 2: not JSON: Expecting value: line 2 column 1 (char 7); each line must be one JSON "
    "object (--on-error skip leaves it out)",
    "allocate no_value.csv": "no value; fill it in or drop the row (--on-error skip), or name",
    "route fit no_value.csv --number tokens --out r.json": "no value; fill it in or drop the row, or name",
    "allocate unjudged.csv": "try: ibpo allocate unjudged.csv REWARDS.csv",
    "route fit unjudged.csv --number tokens --out r.json": "put that table into the log's folder and name the folder",
    "alocate responses.csv": "'allocate'",
    "simulate trac.jsonl --budget extended=30%": "did you mean trace.jsonl?",
    "train recipee.toml": "did you mean recipe.toml?",
    "route show ruoter.json": "did you mean router.json?",
    "report empty": "empty: holds no responses; ibpo eval MODEL TASK --out empty makes them",
    "eval embeded:thinking thinking --out o": "did you mean embedded:thinking?",
    "task check trace.jsonl": "--set data.problem=FIELD",
    "serve --upstream http://127.0.0.1:1/v1": "the budgets are missing; give the budgets once: --budget extended=30%",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("work")
    (made / "responses.csv").write_text(LOG)
    (made / "no_value.csv").write_text(LOG + "3,a,,10\n3,b,,20\n")
    (made / "unjudged.csv").write_text("request_id,problem_id,effort,tokens\nr1,a,low,10\nr2,a,high,20\nr3,b,low,9\n")
    (made / "numbered.csv").write_text(
        "id,effort,reward,tokens,q\n" + "".join(f"{n},{['low', 'high'][n % 2]},1,9,q{n // 2}\n" for n in range(4))
    )
    (made / "wide.csv").write_text("id,low_correct,low_tokens,high_correct,high_tokens\n1,1,9,1,90\n2,0,9,1,90\n")
    (made / "broken.jsonl").write_text('{"id": 1, "effort": "low", "reward": 1, "tokens": 9}\n{"id":\n')
    for run in ("low", "high"):
        (made / "runs" / run).mkdir(parents=True)
        (made / "runs" / run / "r.csv").write_text("id,reward,tokens\n1,1,9\n2,0,9\n")
    (made / "empty").mkdir()
    for name in ("trace.jsonl", "recipe.toml", "router.json"):
        (made / name).write_text("{}\n")
    return made


@pytest.mark.parametrize("line", CASES)
def test_the_error_names_what_to_type_next(folder, line):
    done = subprocess.run([IBPO, *line.split()], capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert CASES[line] in " ".join(done.stderr.split())


def test_a_file_like_none_gets_no_hint(folder):
    done = subprocess.run([IBPO, "allocate", "xyz.dat"], capture_output=True, text=True, cwd=folder)
    assert done.stderr == "error: xyz.dat: there is no such file\n"
