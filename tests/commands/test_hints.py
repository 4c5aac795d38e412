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
