"""Do both response groups work after a cold start? Measured on held-out problems, held against the recipe's gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.errors import IbpoError
from ibpo.evaluation import Responses, describe, estimate_bounded, row_of, write_table
from ibpo.responses import MAX_TRIALS, VotingForm, external_vote, find_group
from ibpo.rewards import Judge
from ibpo.rollouts import Request, rollout_of_row, score
from ibpo.training.cold_start.recipe import GateConfig
from ibpo.types import Problem, ResponseGroup

CHOICE = ""
"""Name of the responses that the policy opens by itself."""


def gate_requests(problems: Sequence[Problem], form: VotingForm, gate: GateConfig, mixture: str) -> list[Request]:
    """A forced vote, eight forced standard responses a round, and where there is a choice a free response, each."""
    wanted = [(form.voting, range(1)), (form.standard, range(MAX_TRIALS * gate.num_rounds))]
    requests = [
        Request(problem=problem, number=number, response_group=group.name, prefix=group.prefix)
        for group, numbers in wanted
        for problem in problems
        for number in numbers
    ]
    if mixture == "asv":
        requests += [Request(problem=problem, number=0, response_group=CHOICE) for problem in problems]
    return requests


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupMeasure:
    """One response group, forced."""

    accuracy: float
    """Share of right answers among all responses; a cut-off one is not right, and counted in `truncated` too."""
    interval_95: tuple[float, float]
    """Clustered by problem."""
    truncated: float
    """Share of responses that were cut off."""
    unanswered: float
    """Share of those that ended by themselves and gave no answer."""
    mean_tokens: float
    num_responses: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GateReport:
    """What was measured."""

    num_problems: int
    standard: GroupMeasure
    voting: GroupMeasure
    keeps_rule: float
    """Share of the votes that ended by themselves which keep form and stop rule."""
    mean_trials: float
    """Mean trials of votes that keep the rule; 0 where none does."""
    external_accuracy: float
    """Voting over separate standard responses by the same rule, at most as many attempts."""
    external_trials: float
    below_external: float
    """`external_accuracy` minus the votes' accuracy."""
    below_external_95: tuple[float, float]
    share: dict[str, float]
    """Response group -> share where the policy chooses; "none": opens like none of them. Empty for `sv`."""
    share_truncated: float
    """Share of those that were cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateFailure:
    """One thing that the policy did not show."""

    what: str
    fix: str


def measure(
    problems: Sequence[Problem],
    rows: Mapping[tuple[str, str, int], Mapping[str, Any]],
    form: VotingForm,
    judge: Judge,
    gate: GateConfig,
    table: Path | None = None,
) -> GateReport:
    """Judge what `gate_requests` asked for.

    Args:
        problems: the held-out ones, P of them.
        rows: (problem's id, response group, number) -> stored rollout; what failed is missing, and its problem is left
            out where that was its vote or a standard response.
        form: of the responses.
        judge: of the answers.
        gate: how many rounds of external votes.
        table: where to write the forced responses, as `ibpo report` reads them.

    Raises:
        IbpoError: where fewer than two problems have all their responses.
    """
    num_standard = MAX_TRIALS * gate.num_rounds
    keys = [(form.voting.name, 0), *((form.standard.name, k) for k in range(num_standard))]
    problems = [p for p in problems if all((p.problem_id, *key) in rows for key in keys)]
    if len(problems) < 2:
        raise IbpoError(
            "gate: fewer than two held-out problems got all their responses; see what failed, or hold out more"
        )
    judged = _judge(problems, rows, keys, form, judge)
    if table is not None:
        write_table(table, judged["table"])
    responses = Responses.of_table(judged["table"])
    answers, right, ended = judged["answers"], judged["right"], judged["ended"]
    external = np.zeros((len(problems), gate.num_rounds))
    used = np.zeros_like(external)
    for i, row in enumerate(answers):
        for k in range(gate.num_rounds):
            some = slice(1 + k * MAX_TRIALS, 1 + (k + 1) * MAX_TRIALS)
            winner, used[i, k] = external_vote(row[some], form.group)
            # A winner is one of the answers, which were judged already.
            external[i, k] = 0.0 if winner is None else right[i, some][row[some].index(winner)]
    below = estimate_bounded(external.mean(axis=1) - right[:, 0], np.arange(len(problems)), -1.0, 1.0)
    votes = [form.read_vote(str(rows[p.problem_id, form.voting.name, 0]["completion"])) for p in problems]
    kept = [v for v, done in zip(votes, ended[:, 0], strict=True) if done and v.problem is None]
    chosen = [row for p in problems if (row := rows.get((p.problem_id, CHOICE, 0))) is not None]
    return GateReport(
        num_problems=len(problems),
        standard=measure_group(responses.of(form.standard.name)),
        voting=measure_group(responses.of(form.voting.name)),
        keeps_rule=len(kept) / max(int(ended[:, 0].sum()), 1),
        mean_trials=float(np.mean([len(v.attempts) for v in kept])) if kept else 0.0,
        external_accuracy=float(external.mean()),
        external_trials=float(used.mean()),
        below_external=below.value,
        below_external_95=(below.low, below.high),
        share=shares(chosen, (form.standard, form.voting)),
        share_truncated=float(np.mean([row["finish_reason"] != "stop" for row in chosen])) if chosen else 0.0,
    )


def check(report: GateReport, gate: GateConfig, mixture: str) -> list[GateFailure]:
    """What falls short of the gate, each with the fix."""
    failures = []

    def expect(kept: bool, what: str, fix: str) -> None:
        if not kept:
            failures.append(GateFailure(what=what, fix=fix))

    more_votes = (
        "imitate more votes (data.limit, build.responses_per_problem, build.alpha), longer (train.num_epochs) or "
        "harder (train.learning_rate)"
    )
    for name, group in (("standard", report.standard), ("voting", report.voting)):
        if name == "standard" and mixture == "sv":
            continue
        expect(
            group.truncated <= gate.truncated,
            f"{group.truncated:.1%} of the {name} responses are cut off, at most {gate.truncated:.1%} may be",
            "raise gate.max_completion_length, or imitate shorter solutions (lower sample.max_tokens)",
        )
    answered = 1 - report.standard.unanswered
    expect(
        mixture == "sv" or answered >= gate.well_formed,
        f"{answered:.1%} of the standard responses give an answer, at least {gate.well_formed:.1%} should",
        "imitate more standard responses (lower build.alpha), or train longer (train.num_epochs)",
    )
    expect(
        report.keeps_rule >= gate.keeps_rule,
        f"{report.keeps_rule:.1%} of the votes keep form and stop rule, at least {gate.keeps_rule:.1%} should",
        more_votes,
    )
    low = report.below_external_95[0]
    expect(
        report.below_external <= gate.below_external,
        f"voting is {report.below_external:.3f} below voting over separate responses, at most "
        f"{gate.below_external:.3f} may be missing",
        f"{report.num_problems} problems cannot separate it from noise: raise data.holdout"
        if low <= gate.below_external
        else more_votes,
    )
    for name, share in report.share.items():
        if name == "none":
            expect(
                share <= 1 - gate.well_formed,
                f"{share:.1%} of the free responses open like no response group",
                "train longer (train.num_epochs) or harder (train.learning_rate)",
            )
        else:
            more = "lower" if name == next(iter(report.share)) else "raise"
            expect(
                share >= gate.min_share,
                f"the policy chooses {name!r} on {share:.1%} of the problems, at least {gate.min_share:.1%} are "
                "needed: a response group that is never chosen cannot be learnt from",
                f"{more} build.alpha",
            )
    return failures


def _judge(
    problems: Sequence[Problem],
    rows: Mapping[tuple[str, str, int], Mapping[str, Any]],
    keys: Sequence[tuple[str, int]],
    form: VotingForm,
    judge: Judge,
) -> dict[str, Any]:
    """Answers (lists, [P][1 + S]), and arrays [P, 1 + S] of what is right, what ended, and the table."""
    every = [rows[p.problem_id, *key] for p in problems for key in keys]
    scored = score(
        [rollout_of_row(row) for row in every],
        [problem for problem in problems for _ in keys],
        [form.standard, form.voting],
        judge,
        asked=[name for _ in problems for name, _ in keys],
    )
    found = [response.predicted_answer for response in scored]
    shape = len(problems), len(keys)
    return {
        "answers": [found[i : i + len(keys)] for i in range(0, len(found), len(keys))],
        "right": np.array([response.reward == 1 for response in scored], dtype=float).reshape(shape),
        "ended": np.array([row["finish_reason"] == "stop" for row in every]).reshape(shape),
        "table": [
            row_of(problem, one, configuration=name, number=number) | {"tokens": row["num_completion_tokens"]}
            for (problem, (name, number)), one, row in zip(
                ((problem, key) for problem in problems for key in keys), scored, every, strict=True
            )
        ],
    }


def measure_group(own: Responses) -> GroupMeasure:
    """The numbers of one response group's forced responses."""
    numbers, ended = describe(own)["overall"]["all"], own.truncated == 0
    unanswered = [answer is None for answer in own.answer[ended]]
    return GroupMeasure(
        accuracy=numbers["pass@1"].value,
        interval_95=(numbers["pass@1"].low, numbers["pass@1"].high),
        truncated=numbers["truncated"].value,
        unanswered=sum(unanswered) / max(len(unanswered), 1),
        mean_tokens=numbers["mean_tokens"].value,
        num_responses=len(own),
    )


def shares(rows: Sequence[Mapping[str, Any]], groups: Sequence[ResponseGroup]) -> dict[str, float]:
    """Response group -> share of free responses that open like it, and `none`; empty without responses."""
    if not rows:
        return {}
    found = [find_group(row["completion"], groups) for row in rows]
    opened = [group.name if group else "none" for group in found]
    return {name: opened.count(name) / len(rows) for name in (*(g.name for g in groups), "none")}
