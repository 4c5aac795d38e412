import gzip
import json
from pathlib import Path

import pytest

from ibpo.data_config import DataConfig
from ibpo.errors import IbpoError
from ibpo.tasks.given import hold_out, load_given

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
            "line 1: no field problem or question for the problem; the row's fields are text, answer",
        ),
        ('\n{"question": "q", "answer": " "}', {}, "line 2: field 'answer': there is nothing for the answer"),
        ('{"question": "", "answer": "1"}', {}, "line 1: field 'question': there is nothing for the problem"),
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
            "line 2: id '7' stands at",
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
