"""Judges together: rewards are averaged, constraints only mark, and what violates is never imitable."""

from __future__ import annotations

import os
import select
import shlex
import sys
from typing import Any, cast

import pytest

from ibpo.errors import IbpoError
from ibpo.rewards import (
    GIVES_ANSWER,
    AtLeast,
    Candidate,
    CodeJudge,
    CommandJudge,
    ExactJudge,
    Judgement,
    JudgePerTask,
    MathJudge,
    MixtureOfJudges,
    Rule,
    free_of,
    in_script,
    well_formed,
)
from ibpo.types import Problem


def candidate(completion, answer: str | None = "1", *, finish_reason="stop", task="", gold: Any = "1", info=None):
    problem = Problem(problem_id="p", prompt="q", answer=gold, info=info or {"task": task})
    return Candidate(problem=problem, completion=completion, predicted_answer=answer, finish_reason=finish_reason)


class Exact:
    def __init__(self):
        self.seen = 0

    def judge(self, candidates):
        self.seen += len(candidates)
        return [Judgement(reward=float(c.predicted_answer == c.problem.answer), reason="compared") for c in candidates]


class Constant:
    def __init__(self, reward, *violations):
        self.judgement = Judgement(reward=reward, reason=f"always {reward}", violations=violations)

    def judge(self, candidates):
        return [self.judgement for _ in candidates]


def test_rewards_are_averaged_and_violations_do_not_change_them():
    mixture = MixtureOfJudges(
        rewards={"exact": Exact(), "style": Constant(0.5)},
        constraints=[GIVES_ANSWER, in_script("LATIN"), free_of(["rm -rf"])],
    )
    judged = mixture.judge(
        [candidate("fine"), candidate("хорошо и fine"), candidate("RM -RF /", "2"), candidate("none", None)]
    )
    assert [j.reward for j in judged] == [0.75, 0.75, 0.25, 0.25]
    assert [j.violations for j in judged] == [(), ("language",), ("safety",), ("no answer",)]
    assert [j.imitable for j in judged] == [True, False, False, False]
    assert judged[1].reason.startswith("exact: compared; style: always 0.5; violates language: ")


def test_constraints_of_one_name_all_count():
    """The last of a name was the only one: what the first forbids was imitated."""
    constraints = [free_of(["secret"]), free_of(["zzz"]), in_script("latin"), in_script("LATIN", share=0.1)]
    mixture = MixtureOfJudges(rewards={"exact": Exact()}, constraints=constraints)
    [judged] = mixture.judge([candidate("a secret хорошо")])
    assert judged.violations == ("safety", "language") and judged.reward == 1.0
    assert "holds 'secret'" in judged.reason and "are LATIN, at least 95 %" in judged.reason


def test_truncated_responses_are_not_judged_but_marked():
    exact = Exact()
    judged = MixtureOfJudges(rewards={"exact": exact}).judge(
        [candidate("a", finish_reason="length"), candidate("a"), candidate("a", finish_reason="length")]
    )
    assert [(j.reward, j.reason, j.violations) for j in judged] == [
        (0.0, "truncated", ("truncated",)),
        (1.0, "compared", ()),
        (0.0, "truncated", ("truncated",)),
    ]
    assert exact.seen == 1


def test_a_judge_as_a_constraint_and_violations_of_reward_judges():
    constraints = [AtLeast(name="safe", judge=Constant(0.4), threshold=0.5), AtLeast(name="kind", judge=Constant(1.0))]
    [judged] = MixtureOfJudges(rewards={"a": Constant(1.0, "unjudged")}, constraints=constraints).judge(
        [candidate("a")]
    )
    assert judged.violations == ("unjudged", "safe") and judged.reward == 1.0
    unsure = AtLeast(name="unsure", judge=Constant(1.0, "unjudged"))
    assert unsure.violations([candidate("a")]) == ["always 1.0"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The answer is 7.", True),
        ("α + β = γ so 7", True),
        ("7", True),
        ("", True),
        ("naïve café Ω", True),
        ("答案是 7", False),
        ("so we get ответ 7", False),
        ("a long English explanation that mentions 三 once is accepted", True),
    ],
)
def test_scripts(text, kept):
    assert (in_script("LATIN").check(candidate(text)) is None) is kept


def test_the_format_of_a_response_group_is_a_constraint():
    rule = well_formed(lambda completion: None if completion.endswith("!") else "does not end with !")
    assert rule.violations([candidate("a!"), candidate("a")]) == [None, "does not end with !"]


def test_each_task_has_its_judge_and_the_order_is_kept():
    judge = JudgePerTask(judges={"math": Exact(), "chat": Constant(0.25)})
    tasks = ["math", "chat", "math", "chat"]
    judged = judge.judge([candidate("", str(i), task=task) for i, task in enumerate(tasks)])
    assert [j.reward for j in judged] == [0.0, 0.25, 0.0, 0.25]
    with pytest.raises(IbpoError, match="problem p: no judge for task 'code', only math, chat"):
        judge.judge([candidate("", task="code")])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MixtureOfJudges(rewards={}), "at least one that gives the reward"),
        (lambda: free_of(["("]), r"safety: '\(' is not a regular expression"),
        (lambda: free_of("rm -rf"), "safety: 'rm -rf' is one pattern; give a list of them"),  # not each of its letters
        (lambda: in_script("english"), "language: no letter is of the script 'ENGLISH'"),
        (lambda: in_script("LATIN", share=95), "language: share is 95; it must be above 0 and at most 1"),
        (lambda: ExactJudge().judge([candidate("", "7", gold=7)]), "an answer is 7, of type int; give its text"),
        (lambda: MathJudge()("7", cast(Any, 7)), "an answer is 7, of type int; give its text"),
        (lambda: MathJudge(num_workers=-1), "num_workers: must be at least 1"),  # whose pairs would never be judged
        (lambda: CodeJudge(isolate=False, num_workers=0), "num_workers: must be at least 1"),
        (
            lambda: CodeJudge(isolate=False).judge([candidate("x = 1", info={"cases": "[]"})]),
            r"problem p: info\['cases'\] needs a list",
        ),
    ],
)
def test_errors(build, message):
    with pytest.raises(IbpoError, match=message):
        build()


@pytest.mark.parametrize("reward", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_reward_is_between_0_and_1(reward):
    with pytest.raises(ValueError, match="from 0 to 1"):
        Judgement(reward=reward, reason="")


def test_a_rule_sees_one_candidate_at_a_time():
    seen = []
    rule = Rule(name="r", check=lambda c: seen.append(c.completion))
    assert rule.violations([candidate("a"), candidate("b")]) == [None, None] and seen == ["a", "b"]


def test_a_reason_may_hold_a_separator_of_unicode():
    said = [sys.executable, "-c", 'print(\'{"reward": 1, "reason": "one\\u2028two"}\')']
    [judgement] = CommandJudge(shlex.join(said)).judge([candidate("1")])
    assert (judgement.reward, judgement.reason) == (1.0, "one\u2028two")


class Given:
    """A judge and a constraint that say what they were given."""

    name = "given"

    def __init__(self, *said):
        self.said = list(said)

    def judge(self, candidates):
        return self.said

    violations = judge


RIGHT = Judgement(reward=1.0, reason="")


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (MixtureOfJudges(rewards={"own": Given(RIGHT)}), "judge 'own': gave 1 results for 2 candidates"),
        (MixtureOfJudges(rewards={"own": Given(RIGHT, RIGHT, RIGHT)}), "judge 'own': gave 3 results for 2"),
        (MixtureOfJudges(rewards={"own": Given(1.0, 0.0)}), "judge 'own': gave 1.0; give Judgement"),
        (
            MixtureOfJudges(rewards={"own": Given(RIGHT, RIGHT)}, constraints=[Given(None, None, "bad")]),
            "constraint 'given': gave 3 results for 2 candidates",
        ),
        (JudgePerTask(judges={"": Given(RIGHT)}), "judge '': gave 1 results for 2 candidates"),
    ],
)
def test_a_judge_of_ones_own_says_one_thing_of_each(mixture, message):
    """One judgement too many shifted those of all others."""
    with pytest.raises(IbpoError, match=message):
        mixture.judge([candidate("a"), candidate("b")])


def test_how_a_judging_program_ended_and_its_missing_reason():
    killed = CommandJudge(shlex.join([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]))
    with pytest.raises(IbpoError, match="was ended by signal 9: said nothing"):
        killed.judge([candidate("1")])
    [judgement] = CommandJudge("""sed 's/.*/{"reward": 1, "reason": null}/'""").judge([candidate("1")])
    assert judgement.reason == ""


@pytest.mark.parametrize("hang", ["time.sleep(600)", "subprocess.run(['sleep', '600'], close_fds=False)"])
def test_a_judging_program_that_hangs_is_ended_with_what_it_started(tmp_path, hang):
    fifo = tmp_path / "open as long as one of them runs"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    opened = f"os.set_inheritable(os.open({str(fifo)!r}, os.O_WRONLY), True)"
    code = f"import os, subprocess, time; {opened}; {hang}"
    hanging = CommandJudge(shlex.join([sys.executable, "-c", code]), seconds_per_response=1)
    with pytest.raises(IbpoError, match="was not done after 2 seconds, 1 for each response, and was ended"):
        hanging.judge([candidate("1"), candidate("2")])
    assert select.select([reader], [], [], 60)[0] and os.read(reader, 1) == b""
    os.close(reader)
