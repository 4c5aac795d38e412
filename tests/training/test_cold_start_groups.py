"""A cold start of any response groups: bodies from columns, the model's own short and long solutions, and the gate."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ibpo.errors import IbpoError
from ibpo.rewards import ExactJudge
from ibpo.rollouts import RolloutStore, collect
from ibpo.rollouts.sampler import ScriptedSampler
from ibpo.runs import RunDir
from ibpo.tasks import read_problems
from ibpo.training import read_cold_start_recipe
from ibpo.training.cold_start.data_set import build_data_set, read_data_set, solution_requests
from ibpo.training.cold_start.groups import (
    bodies_of,
    build_group_responses,
    check_groups,
    group_gate_requests,
    measure_groups,
)
from ibpo.types import Problem

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "cold_start_sums.toml"


def read(*overrides):
    config = read_cold_start_recipe(RECIPE, ["data.limit=24", "build.imitate=right", *overrides])
    training, held_out, _ = read_problems(config.data, list(bodies_of(config).values()))
    return config, [p for p in training if p.level != "unknown"], held_out


def write_recipe(path, *, body):
    """The recipe, its second group with another body; data named from anywhere."""
    text = RECIPE.read_text().replace('body = "steps"', f'body = "{body}"')
    path.write_text(text.replace("../tests", str(ROOT / "tests")))
    return path


def build(config, problems, out, answer=None):
    store = RolloutStore(out / "store.jsonl")
    if answer:
        collect(ScriptedSampler(answer=answer, max_tokens=30), solution_requests(problems, config), store)
    provenance = build_data_set(problems, store, ExactJudge(), config, RunDir(out / "run"), chat=True)
    return provenance, list(read_data_set(out / "run" / "dataset.jsonl"))


def test_bodies_that_a_program_wrote_are_read_back_and_judged(tmp_path):
    config, problems, _ = read()
    assert not solution_requests(problems, config)
    wrong = problems[0]
    wrong.info["columns"]["steps"] = " 1 + 1 = 2. Answer: 2"
    problems[1].info["columns"]["direct"] = "Answer: " + problems[1].answer  # the prefix may be there already
    problems[2].info["columns"]["direct"] = ""
    provenance, rows = build(config, problems, tmp_path)
    assert provenance["refused"] == {"standard: gives no answer": 1, "extended: its answer is wrong": 1}
    assert provenance["responses"] == {"standard": len(problems) - 1, "extended": len(problems) - 1}
    by_group = {(row["problem_id"], row["response_group"]): row["completion"] for row in rows}
    assert by_group[problems[1].problem_id, "standard"] == f"Answer: {problems[1].answer}"
    assert all(text.startswith(("Answer: ", "Steps: ")) for text in by_group.values())
    system, user = rows[0]["prompt"]
    assert system == {"role": "system", "content": "You add numbers."} and user["role"] == "user"


THINKING = """
[model]
path = "m"
[data]
path = "d"
holdout = 2
judge = "exact"
[build]
imitate = "all"
[[response_group]]
name = "direct"
prefix = "Answer:"
answer = "last_number"
body = "a"
[[response_group]]
name = "thinking"
prefix = "<think>\\n"
answer = "last_number"
body = "b"
"""


@pytest.mark.parametrize(
    ("direct", "thinking", "texts"),
    [
        ("\n Answer: 7", "<think>3 + 4</think>7", ["Answer: 7", "<think>3 + 4</think>7"]),
        (" 7", "\n<think>\n\n3 + 4</think>7\n", ["Answer: 7", "<think>\n\n3 + 4</think>7"]),
        ("Answer : 7", "3 + 4</think>7", ["Answer : 7", "<think>\n3 + 4</think>7"]),
        ("7", "<think></think>7", ["Answer:7"]),  # thinks nothing: of no group, whatever is put in front
    ],
)
def test_a_prefix_that_a_body_has_in_other_white_space_is_not_written_twice(tmp_path, direct, thinking, texts):
    (tmp_path / "r.toml").write_text(THINKING)
    config = read_cold_start_recipe(tmp_path / "r.toml")
    problem = Problem(problem_id="p", prompt="3 + 4 =", answer="7", info={"columns": {"a": direct, "b": thinking}})
    found, refused = build_group_responses([problem], [], ExactJudge(), config, Counter())
    assert [one.completion for one in found["p"]] == texts
    assert len(texts) + refused["thinking: reads back as another response group"] == 2


def test_a_solution_in_another_group_is_not_made_one_of_the_group_that_was_asked_for(tmp_path):
    (tmp_path / "r.toml").write_text(THINKING.replace('body = "a"', "").replace('body = "b"', ""))
    config = read_cold_start_recipe(tmp_path / "r.toml")
    problem = Problem(problem_id="p", prompt="3 + 4 =", answer="7")
    written = {
        "direct": ["<think>\n3 + 4</think>7", " 7", "Answer: 7"],  # another group's, without the prefix, with it
        "thinking": ["<think>\n\n</think>\n\n7", "Answer: 7", "3 + 4 is 7"],
    }
    rows = [
        {"key": f"p\t{name}\t{number}", "problem_id": "p", "response_group": name, "completion": text,
         "finish_reason": "stop"}
        for name, texts in written.items()
        for number, text in enumerate(texts)
    ]  # fmt: skip
    found, refused = build_group_responses([problem], rows, ExactJudge(), config, Counter())
    assert {one.completion for one in found["p"]} == {"Answer: 7", "<think>\n 3 + 4 is 7"}
    assert refused == {
        "direct: reads back as another response group": 1,
        "thinking: reads back as another response group": 2,
    }


@pytest.mark.parametrize(("body", "kept"), [("own:shortest", "short"), ("own:longest", "long"), ("own", "")])
def test_of_the_models_own_solutions_the_right_ones_are_kept_by_their_length(tmp_path, body, kept):
    def solve(request):
        gold = request.problem.answer
        return [
            f" well, it is short. Answer: {gold}",
            f" well, it takes long, long, long. Answer: {gold}",
            " nothing",
            " a short one. Answer: 99",
            " so on " * 40,
        ][request.number % 5]

    path = write_recipe(tmp_path / "own.toml", body=body)
    config = read_cold_start_recipe(
        path,
        ["data.limit=24", "build.imitate=right", "sample.force_opening=true", "build.responses_per_problem=1",
         "sample.num_solutions=5"],
    )  # fmt: skip
    problems, _, _ = read_problems(config.data, list(bodies_of(config).values()))
    problems = [p for p in problems if p.level != "unknown"]
    num = len(problems)
    provenance, rows = build(config, problems, tmp_path, solve)
    own = [row for row in rows if row["response_group"] == "extended"]
    assert len(own) == num and all(row["right"] for row in own)
    assert all(kept in row["completion"] for row in own)
    counts = provenance["counts"]
    assert (counts["truncated"], counts["unanswered"], counts["right"]) == (num, num, 2 * num)
    assert provenance["refused"]["extended: its answer is wrong"] == num


def test_a_column_that_is_not_there_and_a_body_that_is_nothing(tmp_path):
    with pytest.raises(IbpoError, match="no field 'stepps'"):
        config = read_cold_start_recipe(write_recipe(tmp_path / "r.toml", body="stepps"))
        read_problems(config.data, list(bodies_of(config).values()))
    with pytest.raises(IbpoError, match="own:middle' is not a column, own, own:shortest or own:longest"):
        read_cold_start_recipe(write_recipe(tmp_path / "r.toml", body="own:middle"))


def test_nothing_to_imitate_names_the_group(tmp_path):
    config, problems, _ = read()
    for problem in problems:
        problem.info["columns"]["direct"] = " x"
    with pytest.raises(IbpoError, match=r"no response of 'standard' could be built.*look at its body"):
        build(config, problems, tmp_path)


def test_the_gate_measures_each_group_and_the_choice(tmp_path):
    def respond(request):
        gold = request.problem.answer
        if request.response_group == "standard":
            return f" {gold}" if int(gold) % 2 else " "
        return f" 1 + 1. Answer: {gold}" if request.response_group == "extended" else f"Answer: {gold}"

    config, _, held_out = read()
    store = RolloutStore(tmp_path / "gate.jsonl")
    collect(ScriptedSampler(answer=respond), group_gate_requests(held_out, config), store)
    rows = {(row["problem_id"], row["response_group"], row["number"]): row for row in store.rows()}
    report = measure_groups(held_out, rows, config, ExactJudge(), tmp_path / "table.jsonl")
    odd = sum(int(p.answer) % 2 for p in held_out) / len(held_out)
    assert report.groups["standard"].accuracy == pytest.approx(odd) and report.groups["extended"].accuracy == 1
    assert report.groups["standard"].unanswered == pytest.approx(1 - odd)
    assert report.share == {"standard": 1.0, "extended": 0.0, "none": 0.0}
    found = [failure.what for failure in check_groups(report, config.gate)]
    assert [text.partition(" at least")[0].partition(" %")[0][-40:] for text in found]
    assert any("of the standard responses give an answer" in text for text in found)
    assert any("chooses 'extended' on 0.0%" in text for text in found)
