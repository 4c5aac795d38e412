"""Tasks in the columns that their publishers use, and the command that makes them prove themselves."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.errors import IbpoError
from ibpo.rewards.code import CodeJudge, Limits, why_not_isolated
from ibpo.tasks.task import TASKS, Source, Task, check_task, perturb
from ibpo.types import Problem

pytest.importorskip("math_verify")
ROOT = Path(__file__).parent.parent.parent
GSM8K = ROOT / "tests" / "fixtures" / "gsm8k_16.jsonl"
DATA = ROOT.parent / "shared" / "data" / "benchmarks"
ROWS = {
    "gsm8k": {"question": "What is 3 + 4?", "answer": "3+4=<<3+4=7>>7\n#### 7"},
    "math_train": {
        "problem": "Halve 1.", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "level": "Level 2", "type": "Algebra",
    },
    "math_500": {"problem": "Halve 1.", "answer": "\\frac{1}{2}", "level": 2, "subject": "Algebra",
                 "unique_id": "a/1.json"},
    "aime_24": {"id": 60, "problem": "Find m+n.", "answer": "204"},
    "aime_25": {"id": "0", "problem": "Find m+n.", "answer": "70"},
    "amc_23": {"id": 0, "question": "How far?", "answer": 27.0, "url": "x"},
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": 'def one() -> int:\n    """Return 1.\n    >>> one()\n    1\n    """\n',
        "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
        "entry_point": "one",
    },
    "mbpp": {
        "task_id": 11,
        "text": "Write a function to double a number.",
        "code": "def double(x):\r\n  return 2 * x",
        "test_setup_code": "two = double(1)",
        "test_list": ["assert double(1) == 2", "assert two * 3 == 6"],
    },
    "livecodebench": {
        "question_id": "abc1_a",
        "question_content": "Read n, print 2n.",
        "platform": "atcoder",
        "difficulty": "easy",
        "starter_code": "",
        "public_test_cases": '[{"input": "1\\n", "output": "2\\n", "testtype": "stdin"}]',
        "private_test_cases": '[{"input": "3\\n", "output": "6\\n", "testtype": "stdin"}]',
        "metadata": "{}",
        "code": "print(2 * int(input()))",
    },
}  # fmt: skip


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["task", "check", *map(str, arguments)])


@pytest.mark.parametrize("name", ROWS)
def test_every_task_proves_itself_on_its_publishers_columns(name, tmp_path):
    if TASKS[name].judge == "code" and why_not_isolated():
        pytest.skip(why_not_isolated())
    result = run(name, "--set", f"data.path={write(tmp_path / 'rows.jsonl', ROWS[name])}")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{name}: 1 problems, ")


def test_levels_domains_and_ids_are_kept(tmp_path):
    [problem] = TASKS["math_train"].load(write(tmp_path / "r.jsonl", ROWS["math_train"]))
    assert (problem.level, problem.info["domain"], problem.answer) == ("2", "Algebra", "\\frac{1}{2}")
    [problem] = TASKS["math_500"].load(write(tmp_path / "r.jsonl", ROWS["math_500"]))
    assert (problem.problem_id, problem.level, problem.info["task"]) == ("a/1.json", "2", "math_500")
    [problem] = TASKS["mbpp"].load(write(tmp_path / "r.jsonl", ROWS["mbpp"]))
    assert "assert two * 3 == 6" in str(problem.prompt) and problem.info["tests"].count("assert") == 2


FUNCTIONAL = {
    **{key: value for key, value in ROWS["livecodebench"].items() if key != "code"},
    "starter_code": "class Solution:\n    def add(self, nums: List[int], k: int) -> List[int]:\n        ",
    "public_test_cases": json.dumps([{"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}]),
    "private_test_cases": json.dumps([{"input": "[]\n3", "output": "[]", "testtype": "functional"}]),
    "metadata": '{"func_name": "add"}',
}


def test_livecodebench_in_its_published_form(tmp_path):
    """Both kinds: the prompt says what is asked, all tests count, and rows without an own answer are counted apart."""
    path = write(tmp_path / "test.jsonl", ROWS["livecodebench"], {**FUNCTIONAL, "question_id": "2"})
    reads, calls = TASKS["livecodebench"].load(path)
    assert "reads its input from stdin" in str(reads.prompt) and "class Solution" in str(calls.prompt)
    assert [len(p.info["cases"]) for p in (reads, calls)] == [2, 2] and calls.info["fn_name"] == "add"
    assert (reads.level, reads.info["domain"], calls.answer) == ("easy", "atcoder", "")
    if not why_not_isolated():
        result = run("livecodebench", "--set", f"data.path={path}")
        assert result.exit_code == 0 and "without an own answer, so not checked: 1" in result.stdout, result.output


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("private_test_cases", "eJxrYJmqzgABPRLFqSWJAA==", "field 'private_test_cases' is not JSON"),
        ("private_test_cases", '[{"input": 1, "output": "2"}]', "test 1: needs texts input and output"),
        ("private_test_cases", '{"input": "1"}', "field 'private_test_cases' holds no list of tests"),
        ("public_test_cases", '[{"input": "1", "output": "2", "testtype": "x"}]', "test 1: testtype is neither stdin"),
        ("public_test_cases", '[{"input": "1", "output": "2", "testtype": "stdin"}]', "tests of two kinds"),
        ("public_test_cases", '[{"input": "a", "output": "2", "testtype": "functional"}]', "must be JSON"),
        ("metadata", "{}", "'metadata' names no function"),
        ("metadata", '{"func_name": "a.b"}', "'metadata' names no function"),
        ("metadata", "{", "field 'metadata' is not JSON"),
    ],
)
def test_rows_of_livecodebench_that_are_refused(field, value, message, tmp_path):
    with pytest.raises(IbpoError) as error:
        TASKS["livecodebench"].load(write(tmp_path / "rows.jsonl", {**FUNCTIONAL, field: value}))
    assert message in str(error.value) and "rows.jsonl line 1" in str(error.value)


def test_pickled_tests_are_refused_with_the_way_out(tmp_path):
    row = {**FUNCTIONAL, "private_test_cases": "eJxrYJmqzgABPRLFqSWJAA=="}
    with pytest.raises(IbpoError, match=r"pickles it.*does not; take livecodebench/code_generation.*or convert it"):
        TASKS["livecodebench"].load(write(tmp_path / "rows.jsonl", row))


def test_gsm8k_in_its_own_format():
    result = run("gsm8k", "--set", f"data.path={GSM8K}")
    assert result.exit_code == 0 and "gsm8k: 16 problems" in result.stdout


def test_every_benchmark_is_pinned_to_a_commit():
    loose = [name for name, task in TASKS.items() if task.source is None or len(task.source.revision) != 40]
    assert loose == []
    # Without a pin nothing is fetched: what would come might be another set of problems tomorrow.
    mine = Task(name="mine", source=Source(name="me/mine", split="test", revision=""))
    with pytest.raises(IbpoError, match=r"mine: no revision of me/mine is pinned .* --revision COMMIT"):
        mine.load()


def test_parquet_folders_and_saved_data_sets_hold_the_same_rows(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"q": f"{i} + 1 =", "a": str(i + 1)} for i in range(5)]
    table = datasets.Dataset.from_list(rows)
    (tmp_path / "folder").mkdir()
    table.to_parquet(tmp_path / "folder" / "rows.parquet")
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(write(tmp_path / "x.jsonl", *rows).read_bytes()))
    mine = Task(name="mine", problem=("q",), answer=("a",), judge="exact")
    for name in ("folder", "folder/rows.parquet", "saved", "rows.jsonl.gz"):
        problems = mine.load(tmp_path / name)
        assert [(p.prompt, p.answer) for p in problems] == [(row["q"], row["a"]) for row in rows], name
    result = run(
        tmp_path / "saved",
        "--set",
        "data.problem=q",
        "--set",
        "data.answer=a",
        "--set",
        "data.judge=exact",
        "--set",
        "data.limit=3",
    )
    assert result.exit_code == 0 and "saved: 3 problems" in result.stdout


def test_a_wrong_gold_is_found(tmp_path):
    path = write(tmp_path / "r.jsonl", {**ROWS["mbpp"], "code": "def double(x):\n  return x"})
    if not why_not_isolated():
        result = run("mbpp", "--set", f"data.path={path}")
        assert result.exit_code == 1 and "11: gold answer" in result.stdout and "scores 0: failed" in result.stdout

    class Generous:
        def judge(self, candidates):
            from ibpo.rewards.judges import Judgement

            return [Judgement(reward=1.0, reason="kind") for _ in candidates]

    failures = check_task([Problem(problem_id="p", prompt="", answer="3")], "math", Generous())
    assert [(f.kind, f.answer) for f in failures] == [("perturbed", "4")]


@pytest.mark.parametrize(
    ("answer", "other"),
    [
        ("72", "82"),
        ("-9.50", "-1.50"),
        ("0.5", "1.5"),
        (r"\frac{1}{2}", r"\frac{1}{3}"),
        (r"\text{Evelyn}", r"not \text{Evelyn}"),
        (r"2400 \mbox{ cm}^2", r"3400 \mbox{ cm}^2"),
        (r"\$\dfrac23 \approx \$0.67", r"\$\dfrac33"),
        (r"0.56 = 56\%", "1.56"),
        (r"\frac{1}{2^{98}}", r"\frac{1}{2^{18}}"),
        ("y = 2x + 3", "y = 2x + 4"),
    ],
)
def test_perturbed_answers(answer, other):
    problem = Problem(problem_id="p", prompt="", answer=answer)
    assert perturb(problem, "math") == other
    assert check_task([problem], "math") == []


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"text": "q"}, "no field problem or question for the problem; the row's fields are text"),
        ("gsm8k", {"question": "q", "answer": " "}, "line 1: field 'answer': there is nothing for the answer"),
        ("gsm8k", {"question": "", "answer": "1"}, "field 'question': there is nothing for the problem"),
        ("mbpp", {"text": "t", "code": "x", "test_list": []}, "field 'test_list': there is nothing for the tests"),
        ("mbpp", {"text": "t", "code": "x"}, "no field test_list for the tests"),
    ],
)
def test_rows_that_lack_something(name, row, message, tmp_path):
    with pytest.raises(IbpoError) as error:
        TASKS[name].load(write(tmp_path / "rows.jsonl", row))
    assert message in str(error.value) and "rows.jsonl line 1" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gsm9k"], "gsm9k: is not a task, recipe or file; did you mean gsm8k?"),
        (["gsm8k", "--set", "data.path=none.jsonl"], "none.jsonl: there is no such file"),
        (["gsm8k", "--set", f"data.path={Path(__file__)}"], "is neither .jsonl, .jsonl.gz nor .parquet"),
        (
            ["gsm8k", "--set", f"data.path={GSM8K}", "--set", "data.judge=maths"],
            "data.judge=maths: 'maths' is not one of math, exact, code, llm; did you mean math?",
        ),
        (
            ["gsm8k", "--set", f"data.path={GSM8K}", "--set", "data.judge=code"],
            "gsm8k: names no column with tests, which judging programs needs",
        ),
    ],
)
def test_errors_are_one_line(arguments, message):
    result = run(*arguments)
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and len(lines) == 1 and message in lines[0], result.output


def test_programs_run_unconfined_only_where_the_user_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("ibpo.rewards.code.why_not_isolated", lambda: "no Landlock here")
    path = write(tmp_path / "rows.jsonl", ROWS["mbpp"])
    refused = run("mbpp", "--set", f"data.path={path}")
    assert (
        refused.exit_code == 2
        and "no Landlock here" in refused.stderr
        and "--set judge.isolation=false" in refused.stderr
    )
    assert run("mbpp", "--set", f"data.path={path}", "--set", "judge.isolation=false").exit_code == 0


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("name", "file"),
    [("gsm8k", "gsm8k_train"), ("humaneval", "humaneval"), ("mbpp", "mbpp"), ("math_train", "math_train")],
)
def test_full_benchmarks_prove_themselves(name, file):
    if TASKS[name].judge == "code" and why_not_isolated():
        pytest.skip(why_not_isolated())
    problems = TASKS[name].load(DATA / f"{file}.jsonl.gz")
    # The shipped limit of CPU time; of wall time a busy machine may take more.
    judge = CodeJudge(limits=Limits(wall_seconds=120)) if TASKS[name].judge == "code" else None
    failures = check_task(problems, TASKS[name].judge, judge)
    assert failures == [], [(f.problem_id, f.kind, f.answer, f.judgement.reason) for f in failures][:20]
