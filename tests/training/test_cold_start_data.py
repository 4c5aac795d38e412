"""From stored solutions to a data set, and from stored responses to the gate; nothing heavy is loaded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ibpo.config import ConstraintsConfig
from ibpo.errors import IbpoError
from ibpo.rewards.judges import ExactJudge, Judgement
from ibpo.rollouts.sampler import ScriptedSampler
from ibpo.rollouts.store import RolloutStore, collect
from ibpo.runs import RunDir
from ibpo.tasks.recipe_data import build_judge
from ibpo.training.cold_start.data_set import bill_of, build_data_set, read_data_set, solution_requests
from ibpo.training.cold_start.gate import check, gate_requests, measure
from ibpo.training.cold_start.recipe import GateConfig, SampleConfig, read_cold_start_recipe
from ibpo.types import Problem

PROBLEMS = [Problem(problem_id=f"p{i}", prompt=f"{i} + 1 =", answer=str(i + 1), level="1") for i in range(8)]
RECIPE = """
[model]
path = "m"
[data]
path = "d"
holdout = 4
judge = "exact"
[sample]
max_tokens = 20
[build]
responses_per_problem = 6
"""


def config(tmp_path, *overrides):
    path = tmp_path / "r.toml"
    path.write_text(RECIPE)
    return read_cold_start_recipe(path, overrides)


def solve(request):
    """Problem 3 is cut off, problem 4 gives no answer, problem 5 is right half of the time, problem 6 never."""
    number, name = request.number, request.problem.problem_id
    if name == "p3":
        return "on and " * 30
    if name == "p4":
        return "I do not know"
    wrong = (name == "p5" and number % 2) or name == "p6"
    answer = int(request.problem.answer) + (10 + number if wrong else 0)
    return f"Solution: by way {number} it is \\boxed{{{answer}}}"


def built(tmp_path, *overrides, chat=False):
    settings = config(tmp_path, *overrides)
    store = RolloutStore(tmp_path / "s.jsonl")
    collect(ScriptedSampler(answer=solve, max_tokens=20), solution_requests(PROBLEMS, settings), store)
    run = RunDir(tmp_path / "run")
    provenance = build_data_set(PROBLEMS, store, ExactJudge(), settings, run, chat=chat)
    assert provenance == json.loads(run.provenance.read_text())
    return provenance, list(read_data_set(run.dataset))


def test_the_bill_counts_what_is_stored_and_says_what_was_not_told():
    sample = SampleConfig(price_prompt=1e6, price_completion=2e6)
    told = {"num_prompt_tokens": 3, "num_completion_tokens": 4}
    assert bill_of([told, told], sample) == {
        "num_responses": 2, "num_unmetered": 0, "prompt_tokens": 6, "completion_tokens": 8, "cost": 22.0,
    }  # fmt: skip
    for unknown in (None, 0):  # stores of before have 0
        silent = bill_of([told, {"num_prompt_tokens": unknown, "num_completion_tokens": unknown}], sample)
        assert (silent["num_unmetered"], silent["completion_tokens"], silent["cost"]) == (1, None, None)


def test_what_violates_a_constraint_is_never_imitated(tmp_path):
    settings = config(tmp_path, "build.imitate=all")
    store = RolloutStore(tmp_path / "s.jsonl")
    collect(ScriptedSampler(answer=solve, max_tokens=20), solution_requests(PROBLEMS, settings), store)
    judge = build_judge("exact", settings.judge, ConstraintsConfig(free_of=("by way [0-3]",)))
    provenance = build_data_set(PROBLEMS, store, judge, settings, RunDir(tmp_path / "run"), chat=False)
    rows = list(read_data_set(tmp_path / "run" / "dataset.jsonl"))
    assert provenance["counts"]["violating"] == 6 * 4
    assert rows and not any(f"by way {i}" in row["completion"] for row in rows for i in range(4))


class Rubric:
    """Grades of a rubric: half of it is met by problem 0."""

    def judge(self, candidates):
        rewards = [0.5 if c.problem.problem_id == "p0" else 1.0 for c in candidates]
        return [Judgement(reward=reward, reason="") for reward in rewards]


def test_half_a_rubric_is_not_a_right_answer(tmp_path):
    settings = config(tmp_path, "build.alpha=0")
    store = RolloutStore(tmp_path / "s.jsonl")
    collect(ScriptedSampler(answer=solve, max_tokens=20), solution_requests(PROBLEMS, settings), store)
    provenance = build_data_set(PROBLEMS, store, Rubric(), settings, RunDir(tmp_path / "run"), chat=False)
    assert provenance["counts"]["right"] == 8 * 5
    assert "p0" not in {row["problem_id"] for row in read_data_set(tmp_path / "run" / "dataset.jsonl")}


def test_the_data_set_and_where_it_comes_from(tmp_path):
    provenance, rows = built(tmp_path)
    counts = provenance["counts"]
    assert (counts["solutions"], counts["truncated"], counts["unanswered"], counts["right"]) == (64, 8, 8, 36)
    # Truncated ones are neither right nor wrong: nothing is built, and the problem has no difficulty.
    assert provenance["refused"]["no solution ended by itself"] == 6 and counts["problems without a response"] == 3
    names = {
        row["problem_id"]: {r["response_group"] for r in rows if r["problem_id"] == row["problem_id"]} for row in rows
    }
    assert names["p0"] == {"standard"} and names["p5"] == {"standard", "sequential_voting"}
    assert set(names) == {"p0", "p1", "p2", "p5", "p7"}
    assert {row["difficulty"] for row in rows if row["problem_id"] == "p5"} == {0.5}
    assert all(row["right"] and row["level"] == "1" for row in rows)
    assert all("Begin with `Solution:`" in row["prompt"] and "[TRIAL]" in row["prompt"] for row in rows)
    assert len(provenance["rollouts"]["sha256"]) == 64


def test_chat_prompts_and_votes_alone(tmp_path):
    _, rows = built(tmp_path, "build.mixture=sv", "build.imitate=all", chat=True)
    assert {row["response_group"] for row in rows} == {"sequential_voting"}
    [message] = rows[0]["prompt"]
    assert message["role"] == "user" and "Begin with `Solution:`" not in message["content"]
    assert any(not row["right"] for row in rows)


def test_nothing_to_imitate(tmp_path):
    with pytest.raises(IbpoError, match=r"no response of 'sequential_voting' could be built.*raise sample.max_tokens"):
        settings = config(tmp_path)
        store = RolloutStore(tmp_path / "s.jsonl")
        easy = PROBLEMS[:2]
        collect(ScriptedSampler(answer=solve), solution_requests(easy, settings), store)
        build_data_set(easy, store, ExactJudge(), settings, RunDir(tmp_path / "run"), chat=False)


def vote_of(answers, final):
    """A vote, less the `[TRIAL]` that forces it."""
    trials = "\n[TRIAL]".join(f"\n so \\boxed{{{a}}}\n[/TRIAL]" for a in answers)
    return f"{trials}\n\\boxed{{{final}}}"


def respond(request):
    """Votes: right where the problem is even. Standard: right three times of four. Free: p0 votes, p1 opens oddly."""
    gold = int(request.problem.answer)
    if request.response_group == "sequential_voting":
        answer = gold if gold % 2 else gold + 1
        return vote_of([answer] * 3, answer)
    if request.response_group == "standard":
        return f" it is \\boxed{{{gold + (request.number % 4 == 3)}}}"
    opened = {"p0": "[TRIAL]" + vote_of([1] * 3, 1), "p1": "Well, \\boxed{2}"}
    return opened.get(request.problem.problem_id, "Solution: \\boxed{1}")


def report_of(answer=respond, gate=GateConfig(), max_tokens=1000, mixture="asv"):  # noqa: B008
    from ibpo.responses.voting import BOXED

    rows = {}
    requests = gate_requests(PROBLEMS, BOXED, gate, mixture)
    sampled: Any
    for sampled in ScriptedSampler(answer=answer, max_tokens=max_tokens).sample_requests(requests):
        request, rollout = sampled.request, sampled.rollout
        rows[request.problem.problem_id, request.response_group, request.number] = {
            "problem_id": rollout.problem_id,
            "completion": rollout.completion,
            "finish_reason": rollout.finish_reason,
            "num_completion_tokens": sampled.num_completion_tokens,
        }
    return measure(PROBLEMS, rows, BOXED, ExactJudge(), gate)


def test_what_the_gate_measures():
    report = report_of()
    assert (report.standard.accuracy, report.voting.accuracy, report.external_accuracy) == (0.75, 0.5, 1.0)
    assert report.standard.num_responses == 8 * 16 and report.keeps_rule == 1.0
    assert report.mean_trials == report.external_trials == 3.0
    assert report.below_external == 0.5 and report.below_external_95[0] > 0
    assert report.share == {"standard": 0.75, "sequential_voting": 0.125, "none": 0.125}
    failures = {f.what.split(",")[0]: f.fix for f in check(report, GateConfig(), "asv")}
    assert list(failures) == [
        "voting is 0.500 below voting over separate responses",
        "12.5% of the free responses open like no response group",
    ]
    assert "imitate more votes" in failures["voting is 0.500 below voting over separate responses"]
    # Where noise would do, more problems are asked for rather than more training.
    [failure] = check(report, GateConfig(below_external=0.4, well_formed=0.8), "asv")
    assert "cannot separate it from noise: raise data.holdout" in failure.fix


def test_a_group_that_is_not_chosen_and_votes_that_break_the_rule():
    def broken(request):
        if request.response_group == "sequential_voting":
            return vote_of([1, 2], 1)
        return "Solution: \\boxed{1}" if request.response_group == "" else respond(request)

    found = [f.what for f in check(report_of(broken), GateConfig(below_external=1.0), "asv")]
    assert [text[:40] for text in found] == [
        "0.0% of the votes keep form and stop rul",
        "the policy chooses 'sequential_voting' o",
    ]
    found = [f.what for f in check(report_of(broken, mixture="sv"), GateConfig(below_external=1.0), "sv")]
    assert len(found) == 1


def test_cut_off_responses_are_counted_and_never_right():
    report = report_of(max_tokens=5)
    assert report.voting.truncated == 1.0 and report.voting.accuracy == 0.0 and report.voting.unanswered == 0.0
    assert report.standard.truncated == 0.0
    found = [f for f in check(report, GateConfig(), "asv") if "cut off" in f.what]
    assert [f.fix.split(",")[0] for f in found] == ["raise gate.max_completion_length"]
