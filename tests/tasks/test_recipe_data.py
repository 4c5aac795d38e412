import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.config import ConstraintsConfig, DataConfig, JudgeConfig, read_recipe
from ibpo.errors import IbpoError
from ibpo.responses.formats import FORMATS
from ibpo.responses.groups import build_response_groups
from ibpo.rewards.judges import Candidate
from ibpo.runs import to_toml
from ibpo.tasks.recipe_data import build_judge, hold_out, load_given, named_data
from ibpo.tasks.task import Task
from ibpo.types import Problem, ResponseGroup

GSM8K = Path(__file__).parent.parent / "fixtures" / "gsm8k_16.jsonl"


def load_problems(path, **keys):
    return load_given(DataConfig(path=str(path), **keys))[1]


def test_gsm8k_in_its_original_format():
    problems = load_problems(GSM8K, answer_after="####")
    assert len(problems) == 16 and problems[0].answer == "72" and str(problems[0].prompt).startswith("Natalia")
    assert [p.problem_id for p in problems] == [str(i) for i in range(1, 17)]
    assert all(p.answer.replace(".", "").isdigit() for p in problems)


def test_other_columns_gzip_and_limit(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    rows = [{"q": f"{i} + 1 =", "a": i + 1, "key": f"k{i}", "hard": i} for i in range(5)]
    path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, rows)).encode()))
    problems = load_problems(path, problem="q", answer="a", id="key", level="hard", limit=3)
    assert [(p.problem_id, p.answer, p.level) for p in problems] == [
        ("k0", "1", "0"),
        ("k1", "2", "1"),
        ("k2", "3", "2"),
    ]


def test_whole_numbers_of_a_column_with_gaps_are_whole(tmp_path):
    """pandas writes 2 as 2.0 where a cell of the column is empty."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "1 + 1 =", "answer": 2.0, "level": 3.0}\n{"question": "1 / 2 =", "answer": 0.5}\n')
    assert [(p.answer, p.level) for p in load_problems(path)] == [("2", "3"), ("0.5", "")]


def test_numbers_of_a_data_base_are_their_text(tmp_path):
    """Spark and SQL export numbers as decimals, which are no floats."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    answers = [Decimal("2.00"), Decimal("0.50"), Decimal("-12345678901234567890.25")]
    table = pa.table({"question": ["a", "b", "c"], "total": pa.array(answers, pa.decimal128(30, 2))})
    parquet.write_table(table, tmp_path / "rows.parquet")
    told = [p.answer for p in load_problems(tmp_path / "rows.parquet", answer="total")]
    assert told == ["2", "0.50", "-12345678901234567890.25"]


def test_columns_of_bodies_are_texts_as_answers_are(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "1 + 1 =", "answer": 2.0}\n{"question": "1 / 2 =", "answer": 0.5}\n')
    _, problems = load_given(DataConfig(path=str(path)), ["answer"])
    assert [(p.answer, p.info["columns"]["answer"]) for p in problems] == [("2", "2"), ("0.5", "0.5")]


def test_what_stands_in_a_problem_or_its_tests_is_no_place_of_the_template(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"text": "Fill {tests} and {form}.", "answer": "f = str", "tests": ['assert f("{problem}") == "{problem}"']}
    path.write_text(json.dumps(row) + "\n")
    template = "{problem}\nTests:\n{tests}\nGive {one}."
    [problem] = load_problems(path, problem="text", tests="tests", judge="code", template=template)
    assert problem.prompt == f"{row['text']}\nTests:\n{row['tests'][0]}\nGive {{one}}."


def test_held_out_problems_are_never_trained_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{i % 12}", "answer": "1"}) + "\n" for i in range(24)))
    problems = load_problems(path)
    training, held_out = hold_out(problems, 5)
    assert len(held_out) == 5 and not {str(p.prompt) for p in training} & {str(p.prompt) for p in held_out}
    assert hold_out(problems[::-1], 5)[1] == held_out
    assert hold_out(problems, 0) == (problems, [])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ('{"question": "q", "answer": "1"}\n{"question"', {}, "line 2: is not JSON"),
        ("[1]\n", {}, "line 1: is not a JSON object"),
        (
            '{"text": "q", "answer": "1"}',
            {},
            "line 1: no field problem or question or prompt for the problem; the row's fields are text, answer",
        ),
        ('\n{"question": "q", "answer": " "}', {}, "line 2: field 'answer': there is nothing for the answer"),
        ('{"question": "q", "answer": NaN}', {}, "line 1: field 'answer': there is nothing for the answer"),
        ('{"question": "", "answer": "1"}', {}, "line 1: field 'question': there is nothing for the problem"),
        ('{"question": "q", "answer": ["1"]}', {}, "line 1: field 'answer' holds ['1']; text or a number is needed"),
        ('{"question": "q", "answer": true}', {}, "line 1: field 'answer' holds True; text or a number is needed"),
        ('{"question": [{"role": "user"}], "answer": "1"}', {}, "'question', message 1: needs texts role and content"),
        ('{"prompt": ["q"], "answer": "1"}', {"problem": "prompt"}, "line 1: field 'prompt', message 1: needs texts"),
        ('{"prompt": [], "answer": "1"}', {}, "line 1: field 'prompt': a chat must end with a message of the user"),
        (
            '{"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "So"}], "answer": "1"}',
            {},
            "field 'prompt': a chat must end with a message of the user, which the policy responds to; remove what",
        ),
        (
            '{"prompt": [{"role": "user", "content": "q", "tool_calls": [1]}], "answer": "1"}',
            {},
            "message 1: holds 'tool_calls', and a prompt is of role and content alone; remove it",
        ),
        (
            '{"question": "q", "answer": null}',
            {"answer": "answer"},
            "line 1: field 'answer' holds None; text or a number is needed",
        ),
        ('{"question": "q", "answer": "so 1"}', {"answer_after": "####"}, "line 1: the answer holds no '####'"),
        ('{"question": "q", "answer": "so 1 ####"}', {"answer_after": "####"}, "there is nothing for the answer"),
        (
            '{"question": "q", "answer": 1, "id": 7}\n{"question": "p", "answer": 2, "id": "7"}',
            {"id": "id"},
            "line 2: id '7' is already at",
        ),
        ("\n\n", {}, "holds no problems"),
    ],
)
def test_errors_name_file_line_field(tmp_path, text, options, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(IbpoError) as error:
        load_problems(path, **options)
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_a_template_without_the_problem_is_refused():
    with pytest.raises(IbpoError, match=r"data.template: 'Solve \{question\}' does not hold \{problem\}"):
        load_problems(GSM8K, template="Solve {question}")


def test_unreadable_files(tmp_path):
    with pytest.raises(IbpoError, match="there is no such file"):
        load_problems(tmp_path / "none.jsonl")
    with pytest.raises(IbpoError, match="holds no"):
        load_problems(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}')
    with pytest.raises(IbpoError, match="line 1: is not UTF-8"):
        load_problems(tmp_path / "latin.jsonl")
    whole = gzip.compress(b'{"question": "q", "answer": "1"}\n' * 2000)
    for name, content in (("cut", whole[: len(whole) // 2]), ("plain", b"{}")):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(content)
        with pytest.raises(IbpoError, match="not a whole gzip file"):
            load_problems(tmp_path / f"{name}.jsonl.gz")


def test_columns_that_are_not_named_are_found_and_named_ones_are_needed(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"id": "a", "problem": "1 + 1 =", "answer": 2, "level": "Level 3", "subject": "sums", "key": "k"}
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "b"}))
    task, problems = load_given(DataConfig(path=str(path)))
    assert [(p.problem_id, p.level, p.info["domain"]) for p in problems] == [("a", "3", "sums"), ("b", "3", "sums")]
    assert (task.name, task.judge) == ("rows.jsonl", "math")
    with pytest.raises(IbpoError, match="id 'k' is already at"):
        load_given(DataConfig(path=str(path), id="key"))
    for key in ("id", "level", "domain", "tests", "setup", "entry_point"):
        with pytest.raises(IbpoError, match="line 1: no field 'kye'; the row's fields are id, problem"):
            load_given(DataConfig(path=str(path)).model_copy(update={key: "kye"}))


def test_a_shipped_task_with_columns_of_ones_own(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "q", "solution": "so #### 7", "key": "k", "level": "2"}))
    task, [problem] = load_given(DataConfig(task="gsm8k_train", path=str(path), answer="solution", id="key"))
    assert (task.name, problem.problem_id, problem.answer, problem.level) == ("gsm8k_train", "k", "7", "2")
    with pytest.raises(IbpoError, match=r"data.task: no task 'gsm8k_tran'; did you mean gsm8k_train\?"):
        load_given(DataConfig(task="gsm8k_tran"))


def test_programs_of_ones_own(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {
        "q": "Double x.",
        "a": "def double(x):\n    return 2 * x",
        "t": ["assert double(3) == 6"],
        "s": "import math",
    }
    path.write_text(json.dumps(row))
    data = DataConfig(path=str(path), problem="q", answer="a", tests="t", setup="s", judge="code",
                      template="{problem} {tests}")  # fmt: skip
    _, [problem] = load_given(data)
    assert problem.prompt == "Double x. assert double(3) == 6"
    assert (problem.info["tests"], problem.info["setup"]) == ("assert double(3) == 6", "import math")
    with pytest.raises(IbpoError, match=r"rows.jsonl: names no column with tests"):
        load_given(DataConfig(path=str(path), problem="q", answer="a", judge="code"))


def roles_and_texts(problem: Any):
    return [(message["role"], message["content"]) for message in problem.prompt]


def test_examples_are_turns_between_the_system_message_and_the_problem(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"problem": "2 + 2", "answer": "4"}\n')
    recipe = tmp_path / "recipe.toml"
    data = {"path": str(path), "examples": [{"problem": "1 + 1", "reply": "Answer:\n2"}]}
    recipe.write_text(to_toml({"data": data}, "ibpo eval"))
    given, _ = named_data(str(recipe))
    [problem] = load_given(given)[1]
    turns = [("user", "1 + 1"), ("assistant", "Answer:\n2"), ("user", "2 + 2")]
    assert roles_and_texts(problem) == turns
    [problem] = load_given(given.model_copy(update={"system": "Add."}))[1]
    assert roles_and_texts(problem) == [("system", "Add."), *turns]
    recipe.write_text(to_toml({"data": data | {"examples": [{"problem": "1 + 1"}]}}, "ibpo eval"))
    with pytest.raises(IbpoError, match=r"recipe.toml: data\.examples.*reply"):
        named_data(str(recipe))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_problem_is_a_chat_as_in_trls_data_sets(tmp_path, kind):
    system, first, reply, last = (
        {"role": role, "content": text}
        for role, text in (("system", "Add."), ("user", "1 + 1"), ("assistant", "2"), ("user", " 2 + {tests} "))
    )
    rows = [{"prompt": prompt, "answer": 4} for prompt in ([system, first, reply, last], [last], [first, reply, last])]
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        rows[0]["prompt"] = [message | {"name": None} for message in rows[0]["prompt"]]
        parquet.write_table(pa.Table.from_pylist(rows), path)
    whole, single, turns = load_problems(path, template="Sum: {problem}")
    assert whole.prompt == [system, first, reply, {"role": "user", "content": "Sum: 2 + {tests}"}]
    assert (single.prompt, single.answer) == ("Sum: 2 + {tests}", "4")  # one message is its text
    assert turns.prompt == whole.prompt[1:]
    whole, single, turns = load_problems(path, problem="prompt", examples=[{"problem": "3", "reply": "3"}])
    texts = [text for _, text in roles_and_texts(whole)]
    assert texts == ["Add.", "3", "3", "1 + 1", "2", "2 + {tests}"]
    assert [text for _, text in roles_and_texts(single)] == ["3", "3", "2 + {tests}"]
    with pytest.raises(IbpoError, match=r"^data.system: problem [01] has a system message of its own; leave data.syst"):
        load_problems(path, system="Subtract.")


def test_the_hub_at_a_pinned_commit_only(monkeypatch):
    asked = []

    def load(task, path=None, *, limit=None):
        asked.append((task.name, task.source, path, limit))
        return []

    monkeypatch.setattr(Task, "load", load)
    commit = "0123456789" * 4
    load_given(DataConfig(path=f"hub:me/mine@{commit}", config="main", split="dev", limit=3))
    [(name, source, path, limit)] = asked
    assert (name, path, limit) == ("me/mine", None, 3)
    assert (source.name, source.revision, source.split, source.configs) == ("me/mine", commit, "dev", ("main",))
    for loose in ("hub:me/mine", "hub:me/mine@main", f"hub:mine@{commit}"):
        with pytest.raises(IbpoError, match="names no commit"):
            load_given(DataConfig(path=loose))
    load_given(DataConfig(task="gsm8k", split="train"))
    assert asked[-1][1].split == "train" and asked[-1][1].name == "openai/gsm8k"


THREE_LINES = """
[data]
path = "{path}"
problem = "q"
judge = "exact"
"""


def test_a_recipe_of_three_lines_is_checked(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"q": "a", "answer": "b"}))
    recipe = tmp_path / "mine.toml"
    recipe.write_text(THREE_LINES.format(path=tmp_path / "rows.jsonl"))
    result = CliRunner().invoke(app, ["task", "check", str(recipe)])
    assert result.exit_code == 0 and "rows.jsonl: 1 problems" in result.stdout, result.output
    for name, text, message in [
        ("table", "[constraint]\nanswered = true", "constraint: unknown table; did you mean constraints?"),
        ("llm", '[judge]\nmodel = "m"\n[data]\ntask = "gsm8k"\njudge = "llm"', "judge.base_url: is needed"),
        ("key", '[data]\ntask = "gsm8k"\njugde = "exact"', "data.jugde: unknown key; did you mean judge?"),
        ("judge", '[data]\ntask = "gsm8k"\njudge = "maths"', "data.judge: 'maths' is not one of math, exact, code"),
        ("list", '[data]\ntask = "gsm8k"\n[constraints]\nfree_of = "x"', "constraints.free_of: needs a list"),
        ("share", '[data]\ntask = "gsm8k"\n[constraints]\nscript_share = 2', "script_share: must be at most 1"),
    ]:  # fmt: skip
        bad = tmp_path / f"{name}.toml"
        bad.write_text(text)
        with pytest.raises(IbpoError) as error:
            named_data(str(bad))
        assert str(error.value).startswith(f"{bad}: ") and message in str(error.value)


def test_the_shipped_recipe_says_it_all():
    config = read_recipe(Path(__file__).parents[2] / "recipes" / "judged_qwen.toml")
    groups = build_response_groups(config.response_group)
    judge = build_judge("math", config.judge, config.constraints, groups)
    names = ["no answer", "format", "language", "safety", "rubric"]
    assert [c.name for c in judge.constraints] == names and list(judge.rewards) == ["math"]
    vote = f"{groups[1].prefix}]\n" + "a \\boxed{3}\n[/TRIAL]\n[TRIAL]\n" * 2 + "a \\boxed{3}\n[/TRIAL]\n\\boxed{3}"
    good, bad = (
        Candidate(problem=Problem(problem_id="p", prompt="", answer="3"), completion=text, predicted_answer="3")
        for text in (vote, vote.replace("[/TRIAL]", "", 1))
    )
    reasons = judge.constraints[1].violations([good, bad])
    assert reasons[0] is None and "stands inside [TRIAL]" in str(reasons[1])


def test_every_constraint_by_its_word():
    groups = [FORMATS["standard"].group, FORMATS["sequential_voting"].group]
    constraints = ConstraintsConfig(answered=True, format=True, script="latin", free_of=("as an ai",))
    judge = build_judge("exact", JudgeConfig(), constraints, groups)
    problem = Problem(problem_id="p", prompt="", answer="3")

    def violated(completion, answer: str | None = "3", finish_reason="stop"):
        candidate = Candidate(
            problem=problem, completion=completion, predicted_answer=answer, finish_reason=finish_reason
        )
        return judge.judge([candidate])[0].violations

    whole = f"{groups[0].prefix} so it is \\boxed{{3}}."
    assert violated(whole) == ()
    assert violated(whole, None) == ("no answer",)
    assert violated(whole.replace("boxed", "box")) == ("format",)
    assert violated("so it is \\boxed{3}.") == ("format",)
    assert violated(whole.replace("so it is", "所以答案是三三三三三三三三三三")) == ("language",)
    assert violated(whole.replace("so", "As an AI, so")) == ("safety",)
    assert violated(whole, finish_reason="length") == ("truncated",)
    with pytest.raises(IbpoError, match=r"constraints.script: language: no letter is of the script 'ENGLISH'"):
        build_judge("exact", JudgeConfig(), ConstraintsConfig(script="english"))
    with pytest.raises(IbpoError, match=r"constraints.free_of: safety: '\('"):
        build_judge("exact", JudgeConfig(), ConstraintsConfig(free_of=("(",)))
    other = [ResponseGroup(name="extended", prefix="<x>", extract_answer=str)]
    with pytest.raises(IbpoError, match=r"constraints.format: response group 'extended' is not a shipped format"):
        build_judge("exact", JudgeConfig(), constraints, other)
