"""Responses that others made: real sample files of lm-evaluation-harness and lighteval, and plain rows."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ibpo.data import LogColumns, read_log
from ibpo.errors import IbpoError
from ibpo.evaluation import importing
from ibpo.evaluation.importing import ImportOptions, import_responses
from ibpo.rewards import Judgement

FIXTURES = Path(__file__).parent.parent / "fixtures"
LM_EVAL = FIXTURES / "lm_eval"
LIGHTEVAL = FIXTURES / "lighteval"
EXACT = ImportOptions(judge="exact")


def write(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def row(**changes):
    base = {"problem_id": "p1", "effort": "low", "correct": 1, "tokens": 10, "answer": "7", "level": "2"}
    return {key: value for key, value in (base | changes).items() if value is not ...}


def read(path, **options):
    return import_responses([("", path)], ImportOptions(judge="exact", **options))


def test_lm_eval_single_responses_carry_their_metric():
    found = import_responses([("", LM_EVAL)], EXACT)
    assert set(found.parts) == {"digit_sums", "digit_sums_repeats"}
    single = found.parts["digit_sums"]
    assert len(single) == 12 and single.configurations == ["tiny__cold_start"]
    assert single.reward.mean() == pytest.approx(0.3333, abs=1e-4)  # what the harness printed
    assert found.cost_unit["digit_sums"] == "characters"  # the harness stores no tokens
    assert single.tokens.tolist() == [len(text) for text in single.completion]
    assert "unknown" in set(single.level) and single.prompt[0].endswith("=")


def test_lm_eval_repeated_responses_are_judged_one_by_one():
    responses = import_responses([("", LM_EVAL)], EXACT).parts["digit_sums_repeats"]
    assert len(responses) == 36 and len(set(responses.problem)) == 12
    first = json.loads(next(LM_EVAL.rglob("*repeats*")).open().readline())
    assert responses.completion[:3].tolist() == first["resps"][0]
    assert responses.answer[:3].tolist() == ["9", "7", "1"]
    assert responses.reward[:3].tolist() == [0, 0, 0]


def test_lighteval_holds_tokens_truncation_and_each_response():
    found = import_responses([("", LIGHTEVAL)], EXACT)
    assert set(found.parts) == {"community|digit_sums|0", "community|digit_sums_repeats|0"}
    for name, num in (("community|digit_sums|0", 12), ("community|digit_sums_repeats|0", 36)):
        responses = found.parts[name]
        assert len(responses) == num and responses.configurations == ["org/tiny"]
        assert found.cost_unit[name] == "tokens" and (responses.tokens > 0).all()
        assert responses.tokens.tolist() == [len(text.split()) for text in responses.completion]
        assert ((responses.truncated == 1) == (responses.tokens >= 24)).all()


def test_the_same_responses_through_both_harnesses_get_the_same_rewards():
    ours = {
        source: np.concatenate([r.reward for r in import_responses([("", path)], EXACT).parts.values()]).sum()
        for source, path in (("lm_eval", LM_EVAL), ("lighteval", LIGHTEVAL))
    }
    assert ours["lm_eval"] == ours["lighteval"] > 0


def test_a_name_replaces_the_folders():
    found = import_responses([("low", LM_EVAL), ("high", LM_EVAL)], EXACT)
    assert found.parts["digit_sums"].configurations == ["low", "high"]


def test_runs_on_different_data_are_not_compared(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(LM_EVAL / "tiny__cold_start", other)
    file = next(other.glob("samples_digit_sums_2*"))
    rows = [json.loads(line) for line in file.open()]
    rows[3]["doc_hash"] = "0" * 64
    write(file, rows)
    with pytest.raises(IbpoError, match=r"problem 3 differs from the one at .*line 4; compare runs on the same"):
        import_responses([("", LM_EVAL), ("", other)], EXACT)


def test_plain_rows_and_their_defaults(tmp_path):
    rows = [row(), row(effort="high", tokens=40, reasoning_tokens=30, finish_reason="length"), row(correct=False)]
    found = read(write(tmp_path / "r.jsonl.gz", rows))
    responses = found.parts[""]
    assert responses.configurations == ["low", "high"] and responses.reward.tolist() == [1, 1, 0]
    assert np.isnan(responses.thinking_tokens[0]) or responses.thinking_tokens[1] == 30
    assert found.cost_unit == {"": "tokens"} and responses.answer[0] == "7"


def test_models_are_parts_of_their_own(tmp_path):
    found = read(write(tmp_path / "r.jsonl", [row(model="a"), row(model="b")]))
    assert set(found.parts) == {"a", "b"}
    assert set(read(write(tmp_path / "s.jsonl", [row(x="1")]), columns={"by": "x"}).parts) == {"1"}


def test_answers_with_gold_are_judged(tmp_path):
    rows = [row(correct=..., gold="7"), row(correct=..., gold="8"), row(correct=..., gold="8", answer=None)]
    found = read(write(tmp_path / "r.jsonl", rows))
    assert found.parts[""].reward.tolist() == [1, 0, 0]
    assert "3 responses judged here, by the exact judge" in found.notes


def test_cost_without_tokens(tmp_path):
    texts = [row(tokens=..., response="abc"), row(tokens=..., response="abcdef")]
    file = write(tmp_path / "r.jsonl", texts)
    assert read(file).cost_unit == {"": "characters"} and read(file).parts[""].tokens.tolist() == [3, 6]
    counted = read(file, count_tokens=lambda text: len(text) // 3)
    assert counted.cost_unit == {"": "tokens"} and counted.parts[""].tokens.tolist() == [1, 2]
    assert read(write(tmp_path / "s.jsonl", [row(tokens=...)])).cost_unit == {"": "responses"}
    some = read(write(tmp_path / "t.jsonl", [row(), row(tokens=None)]))
    assert "tokens unknown for 1 of 2 responses" in some.notes


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row(problem_id=...), "no column for the problem .*name it with --columns problem=COLUMN"),
        (row(effort=...), "no column for the response group .*--columns response_group=COLUMN, or NAME=FILE"),
        (row(correct=...), "no column for the reward .*, and no gold answer to judge by"),
        (row(correct=1.5), "line 1, column 'correct': 1.5 is not from 0 to 1"),
        (row(tokens=-1), "line 1, column 'tokens': -1 is negative"),
        (row(tokens="many"), "line 1, column 'tokens': 'many' is not a finite number"),
        (row(tokens=1e400), "line 1, column 'tokens': inf is not a finite number"),
        (row(problem_id=""), "line 1: column 'problem_id': no problem"),
        (row(problem_id={"a": 1}), "line 1: column 'problem_id': no problem"),
    ],
)
def test_bad_rows_are_named(tmp_path, bad, said):
    with pytest.raises(IbpoError, match=said) as error:
        read(write(tmp_path / "r.jsonl", [bad]))
    assert "\n" not in str(error.value)


def test_bad_rows_may_be_left_out(tmp_path):
    found = read(write(tmp_path / "r.jsonl", [row(), row(tokens=-1), row()]), on_error="skip")
    assert len(found.parts[""]) == 2
    assert any(note.startswith("1 bad rows left out, the first: ") and "line 2" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no responses"), ("{\n", "line 1: not JSON"), ("[1]\n", "line 1: a JSON list")],
)
def test_files_that_are_none(tmp_path, text, said):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(IbpoError, match=said):
        read(tmp_path / "r.jsonl")
    with pytest.raises(IbpoError, match="there is no such file or folder"):
        read(tmp_path / "absent.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(IbpoError, match="holds no file that ends in"):
        read(tmp_path / "empty")


def lm_eval_row(**changes):
    first = json.loads(next(LM_EVAL.rglob("*sums_2*")).open().readline())
    return first | changes


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"resps": [[["-1.5", "False"]], [["-2.5", "False"]]]}, {}, "multiple-choice task"),
        ({"metrics": ["bleu"], "bleu": 31.0}, {}, r"no metric in \[0, 1\]; the row's metrics are bleu"),
        ({}, {"metric": "acc"}, "no metric acc; the row's metrics are exact_match"),
        ({}, {"filter": "strict"}, "no row of filter 'strict'"),
    ],
)
def test_lm_eval_files_that_cannot_be_used(tmp_path, changes, options, said):
    file = write(tmp_path / "samples_t_2026-01-01T00-00-00.000000.jsonl", [lm_eval_row(**changes)])
    with pytest.raises(IbpoError, match=said):
        read(file, **options)


def test_of_several_filters_the_first_counts_and_the_notes_say_so(tmp_path):
    rows = [lm_eval_row(filter=name, exact_match=float(name == "strict")) for name in ("strict", "flexible")]
    file = write(tmp_path / "samples_t_2026-01-01T00-00-00.000000.jsonl", rows)
    found = read(file)
    assert found.parts["t"].reward.tolist() == [1] and "filter strict of flexible, strict" in found.notes[0]
    assert read(file, filter="flexible").parts["t"].reward.tolist() == [0]


def test_the_demos_files(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    for seed in (0, 1):
        folder = tmp_path / "thinking" / f"seed{seed}" / "responses"
        folder.mkdir(parents=True)
        columns = {"problem_id": ["a", "b"], "level": ["1", "2"], "sample": [0, 0], "reward": [1.0, 0.0]}
        columns |= {"tokens": [3, 4], "finish_reason": ["stop", "length"], "predicted_answer": ["1", None]}
        columns |= {"response_group": ["standard", "extended"], "completion": ["x", "y"], "prompt": ["p", "q"]}
        parquet.write_table(pa.table(columns), folder / "cold_start__sampled.parquet")
    found = read(tmp_path)
    assert set(found.parts) == {"thinking seed0", "thinking seed1"}
    responses = found.parts["thinking seed0"]
    assert responses.configurations == ["cold start, sampled"]
    assert responses.response_group.tolist() == ["standard", "extended"] and responses.truncated.tolist() == [0, 1]


def test_the_answer_is_judged_against_the_gold_and_not_the_other_way_round(tmp_path, monkeypatch):
    """Most judges look the same from both sides; this one is right for "yes" to the gold "y" alone."""

    class OneWay:
        def judge(self, candidates):
            pairs = [(one.predicted_answer, one.problem.answer) for one in candidates]
            return [Judgement(reward=float(pair == ("yes", "y")), reason="") for pair in pairs]

    monkeypatch.setattr(importing, "judge_for", lambda name: OneWay())
    rows = [("yes", "y"), ("y", "yes"), ("yes", "yes")]
    path = tmp_path / "rows.jsonl"
    row = {"configuration": "c", "tokens": 1}
    lines = [row | {"id": i, "answer": answer, "gold": gold} for i, (answer, gold) in enumerate(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    [part] = import_responses([("", path)]).parts.values()
    assert part.reward.tolist() == [1.0, 0.0, 0.0]


def test_headers_in_any_form_and_models_that_are_the_configurations(tmp_path):
    rows = [{"Problem ID": 1, "Effort": name, "Correct": 1, "Output tokens": 5, "Model": name} for name in ("a", "b")]
    [part] = import_responses([("", write(tmp_path / "a.jsonl", rows))]).parts.values()
    assert part.configurations == ["a", "b"]
    rows[1]["Model"] = "a"
    assert len(import_responses([("", write(tmp_path / "a.jsonl", rows))]).parts) == 1
    rows[1]["Model"] = "c"
    assert set(import_responses([("", write(tmp_path / "a.jsonl", rows))]).parts) == {"a", "c"}


def test_numbers_words_and_dotted_columns_are_read_as_in_every_other_command(tmp_path):
    """The same log, the same options: what `ibpo allocate` reads, the page reads too."""
    path = tmp_path / "log.csv"
    cells = [(q, *mode) for q in "ab" for mode in (("low", 40, "1,100"), ("high", 90, "1,297"))]
    rows = [f'{q},{mode},{grade},"{{""n"": ""{n}""}}"' for q, mode, grade, n in cells]
    path.write_text("\n".join(["task_id,mode,grade,usage", *rows]))
    columns = {"reward": "grade/100", "cost": "usage.n", "response_group": "mode"}
    [part] = import_responses([("", path)], ImportOptions(columns=columns)).parts.values()
    log = read_log(path, LogColumns(reward=columns["reward"], cost=columns["cost"], response_group="mode"))
    assert part.reward.tolist() == log.reward.tolist() == [0.4, 0.9, 0.4, 0.9]
    assert part.tokens.tolist() == log.cost.tolist() == [1100.0, 1297.0, 1100.0, 1297.0]
    assert part.configuration.tolist() == log.response_group == ["low", "high", "low", "high"]


def test_words_are_rewards(tmp_path):
    words = {"a": "Y", "b": "fail", "c": "True"}
    rows = [{"id": q, "arm": "x", "passed": word, "tokens": 3} for q, word in words.items()]
    path = write(tmp_path / "words.jsonl", rows)
    assert import_responses([("", path)]).parts[""].reward.tolist() == [1.0, 0.0, 1.0]


def test_blanks_around_identifiers_mean_nothing_as_in_every_other_command(tmp_path):
    rows = [row(problem_id=p, effort=e) for p in ("p1", "p1 ", " p1") for e in ("low", "low ")]
    found = read(write(tmp_path / "a.jsonl", rows)).parts[""]
    assert set(found.problem) == {"p1"} and found.configurations == ["low"]
    assert set(read_log(tmp_path / "a.jsonl").problem) == {"p1"}


@pytest.mark.parametrize("field", ["problem_id", "effort"])
def test_identifiers_with_nul_characters_are_refused(tmp_path, field):
    """Arrays of texts drop them at the end: another group's numbers were shown."""
    with pytest.raises(IbpoError, match="holds a NUL character; take it out"):
        read(write(tmp_path / "a.jsonl", [row(), row(**{field: "a\0"})]))


def test_a_problem_has_one_level_whatever_the_order_of_its_rows(tmp_path):
    rows = [row(level=level) for level in ("b", "a", "10", "b", "", "2", "2")]  # 2 and b twice
    for some in (rows, rows[::-1]):
        found = read(write(tmp_path / "a.jsonl", [*some, row(problem_id="p2", level="c")]))
        assert sorted(set(found.parts[""].level)) == ["", "2", "c"]
        assert "levels differ within 1 problems: each has that of most of its rows" in found.notes


def test_what_tables_write_for_no_number_is_none(tmp_path):
    found = read(write(tmp_path / "a.jsonl", [row(tokens="nan"), row(tokens=3), row(tokens="N/A")])).parts[""]
    assert np.isnan(found.tokens).tolist() == [True, False, True]


def test_how_a_response_ended_is_unknown_where_nothing_stands(tmp_path):
    """An empty cell was an end by itself."""
    reasons = ["stop", "length", "", None, "nan", "None", " "]
    found = read(write(tmp_path / "a.jsonl", [row(finish_reason=reason) for reason in reasons])).parts[""]
    assert [None if x != x else x for x in found.truncated.tolist()] == [0, 1, None, None, None, None, None]


def test_thinking_that_is_no_part_of_the_tokens_is_left_out(tmp_path):
    """Where the tokens are those of the answer alone, the answer had fewer than none."""
    rows = [row(tokens=10, reasoning_tokens=500), row(tokens=10, reasoning_tokens=10, problem_id="p2")]
    found = read(write(tmp_path / "a.jsonl", rows))
    assert [None if x != x else x for x in found.parts[""].thinking_tokens.tolist()] == [None, 10]
    assert any("thinking tokens of 1 responses are left out" in note for note in found.notes)


def evaluated(folder, model="base", task="sums.jsonl", ways=("responses",), prompt="{} + 1 =", of="p", **settings):
    """The folder of an `ibpo eval` run, as far as the page reads it: two responses to each of three problems."""
    folder.mkdir(parents=True)
    rows = [
        {"problem_id": f"{of}{p}", "configuration": way, "number": n,
         "response_group": way.partition(",")[0].replace("responses", ""),
         "answer": str(p + 1), "reward": float(model == "tuned"), "tokens": 10 + n,
         "finish_reason": "stop", "level": "", "domain": "", "prompt": prompt.format(p), "completion": "It is so."}
        for way in ways for p in range(3) for n in range(2)
    ]  # fmt: skip
    asked = {"model": model, "task": task, "max_tokens": 1024, "temperature": 1.0, "top_p": None, "seed": 0,
             "forced": False, "base_url": "http://127.0.0.1:1/v1", "weights": None}  # fmt: skip
    (folder / "eval.json").write_text(json.dumps({"settings": asked | settings}))
    write(folder / "responses.jsonl", rows)
    return folder


def ways_of(*paths):
    """Part -> configuration -> its number of responses."""
    found = import_responses([path if isinstance(path, tuple) else ("", path) for path in paths])
    return {
        part: {name: len(responses.of(name)) for name in responses.configurations}
        for part, responses in found.parts.items()
    }


def test_runs_of_two_models_are_two_configurations(tmp_path):
    """Their responses were pooled: two models, right on none and on all, were one way that is right on half."""
    base, tuned = evaluated(tmp_path / "a"), evaluated(tmp_path / "b", model="tuned", ways=("responses", "low"))
    found = import_responses([("", base), ("", tuned)])
    [part] = found.parts.values()
    assert ways_of(base, tuned) == {"": {"a: responses": 6, "b: responses": 6, "b: low": 6}}
    assert part.of("a: responses").reward.mean() == 0 and part.of("b: responses").reward.mean() == 1
    assert "configurations are named by their runs, which differ in model" in found.notes
    assert found.called == (("", {"responses": "a: responses"}),
                            ("", {"responses": "b: responses", "low": "b: low"}))  # fmt: skip
    # The table in its run is the run.
    assert set(ways_of(base / "responses.jsonl", tuned)[""]) == {"a: responses", "b: responses", "b: low"}


def test_an_empty_cell_of_a_table_is_nothing(tmp_path):
    """Python writes NaN for it: "nan" was a level of its own, and an answer that was voted for."""
    empty = {"level": float("nan"), "domain": float("nan"), "answer": float("nan"), "response": float("nan")}
    found = read(write(tmp_path / "a.jsonl", [row(response="so"), row(**empty)])).parts[""]
    assert (found.level.tolist(), found.domain.tolist()) == (["2", ""], ["", ""])
    assert (found.answer.tolist(), found.completion.tolist()) == (["7", None], ["so", ""])


def test_a_problem_that_a_table_numbers_with_gaps_is_the_same_one(tmp_path):
    whole = write(tmp_path / "a.jsonl", [row(problem_id=1)])
    found = import_responses([("", whole), ("", write(tmp_path / "b.jsonl", [row(problem_id=1.0, effort="high")]))])
    assert found.parts[""].problem.tolist() == ["1", "1"]


def test_a_budget_is_a_share(tmp_path):
    """50% was 5,000 % allowed."""
    rows = [row(budget="50%"), row(budget=0.5), row(budget="0,5"), row(budget=None)]
    found = read(write(tmp_path / "a.jsonl", rows)).parts[""].budget.tolist()
    assert found[:3] == [0.5, 0.5, 0.5] and found[3] != found[3]
    for wrong in (50, "120%"):
        with pytest.raises(IbpoError, match=r"column 'budget': .* is not a share of the responses; write a number"):
            read(write(tmp_path / "b.jsonl", [row(budget=wrong)]))


@pytest.mark.parametrize("budgets", [("low", "high"), (1024, 8192), (None, "8k")])
def test_a_budget_of_words_or_tokens_is_no_share(tmp_path, budgets):
    """A log with the tokens that a model may think was refused, and one whose response groups are in that column."""
    rows = [row(budget=b, effort=e) for b, e in zip(budgets, ("low", "high"), strict=True)]
    found = read(write(tmp_path / "a.jsonl", rows))
    assert np.isnan(found.parts[""].budget).all() and found.parts[""].configurations == ["low", "high"]
    assert any("column 'budget' is not read: it holds no shares of the responses" in note for note in found.notes)
    if None not in budgets:
        named = read(tmp_path / "a.jsonl", columns={"response_group": "budget"})
        assert named.parts[""].configurations == list(map(str, budgets))


def test_a_file_that_is_given_twice_counts_once(tmp_path):
    """Its responses stood in both halves of every split, and a choice by one half looked sure in the other."""
    plain = write(tmp_path / "a.jsonl", [row(correct=n % 2, tokens=n) for n in range(3)])
    copy = write(tmp_path / "b.jsonl.gz", [row(correct=n % 2, tokens=n) for n in range(3)])
    ran = evaluated(tmp_path / "run")
    shutil.copytree(ran, tmp_path / "again")
    for paths, number, said in (
        ([plain, plain], 3, str(plain)),
        ([plain, copy], 3, str(copy)),
        ([ran, ran / "responses.jsonl"], 6, str(ran / "responses.jsonl")),
        ([ran, tmp_path / "again"], 6, str(tmp_path / "again" / "responses.jsonl")),
    ):
        found = import_responses([("", path) for path in paths])
        assert len(found.parts[""]) == number
        assert any(
            note.startswith("skipped, because it is a copy of ") and note.endswith(f": {said}") for note in found.notes
        )
    # Under two names they are two configurations; other responses to the same problems are more.
    assert ways_of(("x", plain), ("y", copy)) == {"": {"x": 3, "y": 3}}
    assert ways_of(plain, write(tmp_path / "c.jsonl", [row(correct=n % 2, tokens=9) for n in range(3)])) == {
        "": {"low": 6}
    }


@pytest.mark.parametrize("differs", [{"temperature": 0.0}, {"max_tokens": 64}, {"weights": "0123"}, {"forced": True}])
def test_runs_that_were_sampled_otherwise_are_not_pooled(tmp_path, differs):
    runs = evaluated(tmp_path / "a"), evaluated(tmp_path / "b", **differs)
    assert ways_of(*runs) == {"": {"a: responses": 6, "b: responses": 6}}


def test_runs_of_one_model_on_one_task_stay_parts_of_one_evaluation(tmp_path):
    """Other seeds, servers and problems of the task: more responses of the same configuration."""
    first = evaluated(tmp_path / "a")
    more = [evaluated(tmp_path / "b", seed=1, base_url="http://127.0.0.1:2/v1"), evaluated(tmp_path / "c", of="q")]
    assert ways_of(first, *more) == {"": {"responses": 18}}
    assert ways_of(first, *more, evaluated(tmp_path / "d", model="tuned")) == {
        "": {"a + 2 more: responses": 18, "d: responses": 6}
    }
    assert ways_of(first, more[0], tmp_path / "d") == {"": {"a + b: responses": 12, "d: responses": 6}}
    # The weights tell which policy it is, wherever they lie.
    moved = [
        evaluated(tmp_path / "e", model="x/model", weights="01"),
        evaluated(tmp_path / "f", model="y", weights="01"),
    ]
    assert ways_of(*moved) == {"": {"responses": 12}}


def test_folders_of_one_name_are_told_apart(tmp_path):
    runs = evaluated(tmp_path / "x" / "run"), evaluated(tmp_path / "y" / "run", model="tuned")
    assert set(ways_of(*runs)[""]) == {"x/run: responses", "y/run: responses"}


def test_a_name_stands_alone_for_one_way_and_before_several(tmp_path):
    """It was the name of all of them: what a second turn gains was nowhere to be seen."""
    several = evaluated(tmp_path / "a", ways=("responses", "responses, corrected"))
    one = evaluated(tmp_path / "b", model="tuned")
    assert ways_of(("x", several), ("y", one)) == {"": {"x: responses": 6, "x: responses, corrected": 6, "y": 6}}
    assert ways_of(("y", one), several) == {"": {"y": 6, "a: responses": 6, "a: responses, corrected": 6}}
    # Two runs of one name together are of several ways.
    more = evaluated(tmp_path / "c", seed=1, ways=("responses",))
    assert ways_of(("x", several), ("x", more)) == {"": {"x: responses": 12, "x: responses, corrected": 6}}
    assert ways_of(("x", several / "responses.jsonl")) == {"": {"x: responses": 6, "x: responses, corrected": 6}}


def test_runs_of_two_tasks_are_parts(tmp_path):
    """Problems of two tasks may have the same number, and are no alternatives to each other."""
    sums = evaluated(tmp_path / "a"), evaluated(tmp_path / "b", model="tuned")
    other = evaluated(tmp_path / "c", task="products.jsonl", prompt="{} * 2 =")
    both = {"a: responses": 6, "b: responses": 6}
    assert ways_of(*sums, other) == {"sums.jsonl": both, "products.jsonl": {"responses": 6}}
    # What the task's file is called does not tell: here are the same problems under another name.
    assert ways_of(*sums, evaluated(tmp_path / "d", task="data/s.jsonl")) == {
        "": {"a + d: responses": 12, "b: responses": 6}
    }


@pytest.mark.parametrize("has_settings", [True, False])
def test_equal_ids_of_other_prompts_are_refused(tmp_path, has_settings):
    runs = evaluated(tmp_path / "a"), evaluated(tmp_path / "b", prompt="what is {} + 1?")
    if not has_settings:
        for run in runs:
            (run / "eval.json").unlink()
    said = (
        r"b.responses\.jsonl, line 1: problem p0 differs from the one at .*a.responses\.jsonl, line 1; compare runs on"
    )
    with pytest.raises(IbpoError, match=said):
        import_responses([("", run) for run in runs])
    # In the files of others a prompt may hold a word of the response group.
    theirs = [write(tmp_path / f"{e}.jsonl", [row(effort=e, prompt=f"{e}: 1 + 1")]) for e in ("low", "high")]
    assert ways_of(*theirs) == {"": {"low": 1, "high": 1}}


def test_tables_without_their_run_are_pooled_and_said(tmp_path):
    runs = evaluated(tmp_path / "a"), evaluated(tmp_path / "b", model="tuned")
    (runs[1] / "eval.json").unlink()
    found = import_responses([("", run) for run in runs])
    assert found.parts[""].configurations == ["responses"]
    assert any(note.startswith("the model is not known: ") and str(runs[1]) in note for note in found.notes)
    (runs[1] / "config.toml").write_text("")  # a policy that was trained there
    assert set(ways_of(*runs)[""]) == {"a: responses", "b: responses"}
    (runs[1] / "config.toml").unlink()
    header = {"schema": "ibpo.rollouts", "version": 1, "settings": {"model": "tuned"}}  # of ibpo collect
    write(runs[1] / "rollouts.jsonl", [header])
    assert set(ways_of(*runs)[""]) == {"a: responses", "b: responses"}


def test_a_demos_name_stands_before_its_policies(tmp_path):
    """It was left out, and two demos of one experiment were pooled."""
    for demo in ("a", "b"):
        folder = tmp_path / demo / "thinking" / "seed0" / "responses"
        folder.mkdir(parents=True)
        rows = [
            {"problem_id": p, "configuration": "raft, sampled", "response_group": "standard", "finish_reason": "stop",
             "number": 0, "reward": 1.0, "tokens": 3, "prompt": f"{p} ="} for p in ("p1", "p2")
        ]  # fmt: skip
        for how in ("sampled", "standard"):
            write(folder / f"raft__{how}.jsonl.gz", rows)
    one = {"x: raft, sampled": 2, "x: raft, standard": 2}
    assert ways_of(("x", tmp_path / "a")) == {"thinking": one}
    assert ways_of(tmp_path / "a") == {"thinking": {"raft, sampled": 2, "raft, standard": 2}}
    files = [tmp_path / demo / "thinking" / "seed0" / "responses" / "raft__sampled.jsonl.gz" for demo in "ab"]
    assert len(ways_of(*files)[""]) == 2 and ways_of(files[0]) == {"": {"raft, sampled": 2}}
    assert set(ways_of(tmp_path / "a", tmp_path / "b")["thinking"]) == {
        f"{demo}: raft, {how}" for demo in "ab" for how in ("sampled", "standard")
    }


def test_failed_requests_are_no_wrong_answers(tmp_path):
    """As in every other command: with a gold answer they were judged, and without one refused."""
    failed = {"answer": ..., "completion": None, "tokens": None, "error": "timeout"}
    rows = [row(), row(correct=0), row(correct=..., **failed)]
    for gold in ({}, {"gold": "7"}):
        found = read(write(tmp_path / "r.jsonl", [one | gold for one in rows]))
        assert found.parts[""].reward.tolist() == [1, 0] and "1 left out: failed requests" in found.notes[0]
    # An error beside an answer, or none in words, changes nothing.
    found = read(write(tmp_path / "s.jsonl", [row(error="None"), row(correct=0, error="finished late")]))
    assert len(found.parts[""].reward) == 2
    with pytest.raises(IbpoError, match="neither a reward"):
        read(write(tmp_path / "t.jsonl", [row(), row(correct=None, error="None")]))


def test_columns_inside_of_objects_are_found_as_in_every_other_command(tmp_path):
    rows = [
        {"id": 1, "config": {"effort": effort}, "eval": {"correct": n}, "stats": {"output_tokens": 5 + n}}
        for n, effort in enumerate(("low", "high"))
    ]
    responses = read(write(tmp_path / "r.jsonl", rows)).parts[""]
    assert responses.configurations == ["low", "high"]
    assert responses.reward.tolist() == [0, 1] and responses.tokens.tolist() == [5, 6]


def test_a_comma_parts_the_same_in_all_rows(tmp_path):
    rows = [row(tokens="1,297"), row(tokens="0,5")]
    assert read(write(tmp_path / "r.jsonl", rows)).parts[""].tokens.tolist() == [1.297, 0.5]


def test_one_metric_is_the_reward_of_all_rows(tmp_path):
    """A BLEU of 0 is within [0, 1], that of the next row is not: wrong answers had the one, right ones the other."""
    rows = [
        lm_eval_row(doc_id=n, metrics=["bleu", "right"], bleu=bleu, right=right)
        for n, (bleu, right) in enumerate([(0.0, 1.0), (34.5, 0.0), (0.5, 1.0)])
    ]
    name = "samples_trivia_2026-11-29T17-04-12.253678.jsonl"
    path = write(tmp_path / name, rows)
    assert read(path).parts["trivia"].reward.tolist() == [1, 0, 1]
    with pytest.raises(
        IbpoError, match=r"no metric in .0, 1.; the row's metrics are bleu: name one .* reward=bleu/100"
    ):
        read(write(tmp_path / name, [lm_eval_row(metrics=["bleu"], bleu=34.5)]))
    assert read(tmp_path / name, columns={"reward": "bleu/100"}).parts["trivia"].reward.tolist() == [0.345]


def test_older_rows_of_lm_eval_name_neither_metrics_nor_filters(tmp_path):
    """As 0.4.5 writes them: a document comes once for each filter, which are no two responses."""
    old = [{name: value for name, value in lm_eval_row(doc_id=n, exact_match=float(n == right)).items()
            if name not in ("metrics", "filter")} for right in (1, 0) for n in (0, 1)]  # fmt: skip
    found = read(write(tmp_path / "samples_t_2024-10-08T00-00-00.000000.jsonl", old))
    assert found.parts["t"].reward.tolist() == [0, 1]
    assert any("2 left out: rows of further filters" in note for note in found.notes)


def test_costs_may_be_divided_as_rewards_are(tmp_path):
    rows = [row(tokens=500), row(tokens="1,500")]
    found = read(write(tmp_path / "r.jsonl", rows), columns={"cost": "tokens/1000"})
    assert found.parts[""].tokens.tolist() == [0.5, 1.5]
    rows = [row(**{"right/2": 1, "tokens/2": 10})]  # which are called so
    found = read(write(tmp_path / "s.jsonl", rows), columns={"cost": "tokens/2", "reward": "right/2"})
    assert (found.parts[""].tokens.tolist(), found.parts[""].reward.tolist()) == ([10], [1])


def test_two_models_of_one_effort_are_parts_of_a_harnesss_task(tmp_path):
    """Their responses were taken for those of one configuration."""
    paths = []
    for model, value in (("m", "C"), ("n", "I")):
        sample = {"id": "q1", "scores": {"match": {"value": value}}, "model_usage": {model: {"output_tokens": 5}}}
        log = {"version": 2, "eval": {"model": model, "task": "sums"}, "samples": [sample],
               "plan": {"config": {"reasoning_effort": "low"}}}  # fmt: skip
        paths.append(tmp_path / f"{model}.json")
        paths[-1].write_text(json.dumps(log))
    for given in ([("", tmp_path)], [("", path) for path in paths]):
        found = import_responses(given, EXACT)
        rewards = {part: responses.reward.tolist() for part, responses in found.parts.items()}
        assert rewards == {"sums, m": [1], "sums, n": [0]}
        assert "sums: configurations are of several models, each of which has a part" in found.notes
    named = import_responses([("a", paths[0]), ("b", paths[1])], EXACT)  # as alternatives
    assert named.parts["sums"].configurations == ["a", "b"]


def test_a_log_without_rewards_says_which_table_would_give_them(tmp_path):
    """`report` takes no further tables: one in the log's folder is joined."""
    span = {"context": {"trace_id": "t", "span_id": "s"}, "parent_id": None, "attributes": {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.response.id": "r",
        "gen_ai.usage.output_tokens": 5, "gen_ai.prompt.0.content": "2 + 2?"}}  # fmt: skip
    path = write(tmp_path / "spans.jsonl", [span])
    with pytest.raises(IbpoError, match="no gold answer to judge by: join a table with request_id and reward"):
        read(path)
    write(tmp_path / "rewards.jsonl", [{"request_id": "r", "reward": 1}])
    assert read(tmp_path).parts[""].reward.tolist() == [1]
