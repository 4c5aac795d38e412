"""A cold start of any response groups: bodies by a program, or the model's own right answers, kept by their length.

A recipe with `[[response_group]]` tables says of each group where its bodies come from: a column of the data, into
which a program of any kind has written what follows the prefix, or `own`, the model's own solutions in this group of
which the right ones are kept (rejection sampling). Whatever its origin, a response counts only if it is read back as a
right answer of its own group.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.errors import IbpoError
from ibpo.evaluation import Responses, row_of, write_table
from ibpo.responses import Built, build_response_groups, find_group
from ibpo.rewards import Candidate, Judge
from ibpo.rollouts import Request, rollout_of_row, score
from ibpo.training.cold_start.gate import CHOICE, GateFailure, GroupMeasure, measure_group, shares
from ibpo.training.cold_start.recipe import OWN, ColdStartConfig, GateConfig
from ibpo.types import Problem, ResponseGroup

COLUMNS = "columns"
"""Key of `Problem.info` under which the columns with bodies are."""


def bodies_of(config: ColdStartConfig) -> dict[str, str]:
    """Response group -> column with its bodies; those of the model's own solutions are left out."""
    return {one.name: one.body for one in config.response_group if one.body.partition(":")[0] != OWN}


def own_groups(config: ColdStartConfig) -> list[ResponseGroup]:
    """The response groups whose bodies are the model's own solutions."""
    written = bodies_of(config)
    return [group for group in build_response_groups(config.response_group) if group.name not in written]


def group_requests(problems: Sequence[Problem], config: ColdStartConfig) -> list[Request]:
    """`num_solutions` solutions to each problem in each response group whose bodies are the model's own."""
    return [
        Request(
            problem=problem,
            number=number,
            response_group=group.name,
            prefix=group.prefix if config.sample.force_opening else "",
        )
        for group in own_groups(config)
        for problem in problems
        for number in range(config.sample.num_solutions)
    ]


def build_group_responses(
    problems: Sequence[Problem],
    rows: Sequence[Mapping[str, Any]],
    judge: Judge,
    config: ColdStartConfig,
    counts: Counter[str],
) -> tuple[dict[str, list[Built]], Counter[str]]:
    """Problem's id -> the responses to imitate, and why others were not taken.

    Args:
        problems: of the recipe.
        rows: the stored solutions.
        judge: of the answers and of what may be imitated.
        config: the recipe.
        counts: gets how many solutions were cut off, gave no answer, were right or violated a constraint.
    """
    groups = {group.name: group for group in build_response_groups(config.response_group)}
    known = {problem.problem_id: problem for problem in problems}
    refused: Counter[str] = Counter()
    found: list[tuple[Problem, ResponseGroup, str, str]] = []  # problem, group, completion, source
    for name, column in bodies_of(config).items():
        prefix = groups[name].prefix
        for problem in problems:
            body = str(problem.info[COLUMNS][column])
            if not body.startswith(prefix):
                body = body.lstrip() if opens_with(body, prefix) else prefix + body
            found.append((problem, groups[name], body.rstrip(), column))
    for row in rows:
        if row["finish_reason"] != "stop":
            counts["truncated"] += 1
            continue
        group = groups[row["response_group"]]
        text = str(row["completion"]).strip()
        # Its instruction asked for it and the prefix was not forced. What opens like another group, or with a thought
        # that is closed at once, stays so: it is no response of this group, whatever is put in front.
        if not opens_with(text, group.prefix) and find_group(text, list(groups.values())) is None:
            text = f"{group.prefix} {text}"
        found.append((known[row["problem_id"]], group, text, str(row["key"])))
    responses = _read_and_judge(found, list(groups.values()), judge, counts, refused)
    right = [one for _, one in responses if one.right]
    counts["right"] += sum(one.sources[0] not in bodies_of(config).values() for one in right)
    return _keep(responses, config, refused), refused


def opens_with(text: str, prefix: str) -> bool:
    r"""Whether a text opens with a prefix; white space does not count, as nowhere in membership.

    Example:
        >>> opens_with("\nAnswer: 7", "Answer:"), opens_with("<think>3 + 4", "<think>\n"), opens_with("7", "Answer:")
        (True, True, False)
    """
    return "".join(text.split()).startswith("".join(prefix.split()))


def _read_and_judge(
    found: Sequence[tuple[Problem, ResponseGroup, str, str]],
    groups: Sequence[ResponseGroup],
    judge: Judge,
    counts: Counter[str],
    refused: Counter[str],
) -> list[tuple[str, Built]]:
    """(problem's id, response) of those that are read back as an answer of their own group and violate nothing."""
    read: list[tuple[Problem, ResponseGroup, str, str, str]] = []
    for problem, group, text, source in found:
        answer = group.extract_answer(text)
        if find_group(text, groups) is not group:
            refused[f"{group.name}: reads back as another response group"] += 1
        elif answer is None:
            refused[f"{group.name}: gives no answer"] += 1
            counts["unanswered"] += 1
        else:
            read.append((problem, group, text, source, answer))
    candidates = [Candidate(problem=p, completion=text, predicted_answer=answer) for p, _, text, _, answer in read]
    responses = []
    for (problem, group, text, source, answer), judged in zip(read, judge.judge(candidates), strict=True):
        if not judged.imitable:
            counts["violating"] += 1
            continue
        built = Built(
            response_group=group.name, completion=text, answer=answer, right=judged.reward == 1, sources=(source,)
        )
        responses.append((problem.problem_id, built))
    return responses


def _keep(
    responses: Sequence[tuple[str, Built]], config: ColdStartConfig, refused: Counter[str]
) -> dict[str, list[Built]]:
    """At most `responses_per_problem` distinct ones of each group, the right ones unless the recipe says `all`."""
    which = {one.name: one.body.partition(":")[2] for one in config.response_group}
    by_problem: dict[str, dict[str, list[Built]]] = {}
    for problem_id, one in responses:
        if not one.right and config.build.imitate == "right":
            refused[f"{one.response_group}: its answer is wrong"] += 1
            continue
        siblings = by_problem.setdefault(problem_id, {}).setdefault(one.response_group, [])
        if all(one.completion != other.completion for other in siblings):
            siblings.append(one)
    kept: dict[str, list[Built]] = {}
    for problem_id, groups in by_problem.items():
        rng = random.Random(f"{config.build.seed}\t{problem_id}")
        for name, siblings in groups.items():
            rng.shuffle(siblings)
            if which[name]:
                siblings.sort(key=lambda one: len(one.completion), reverse=which[name] == "longest")
            kept.setdefault(problem_id, []).extend(siblings[: config.build.responses_per_problem])
    return kept


# -- the gate ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupGateReport:
    """What was measured of each response group."""

    num_problems: int
    groups: dict[str, GroupMeasure]
    """Forced."""
    share: dict[str, float]
    """Response group -> share where the policy chooses; "none": opens like none of them."""
    share_truncated: float
    """Share of those that were cut off."""


def group_gate_requests(problems: Sequence[Problem], config: ColdStartConfig) -> list[Request]:
    """`gate.num_rounds` responses to each problem forced into each response group, and a free one."""
    forced = [
        Request(problem=problem, number=number, response_group=group.name, prefix=group.prefix)
        for group in build_response_groups(config.response_group)
        for problem in problems
        for number in range(config.gate.num_rounds)
    ]
    return forced + [Request(problem=problem, number=0, response_group=CHOICE) for problem in problems]


def measure_groups(
    problems: Sequence[Problem],
    rows: Mapping[tuple[str, str, int], Mapping[str, Any]],
    config: ColdStartConfig,
    judge: Judge,
    table: Path,
) -> GroupGateReport:
    """Judge what `group_gate_requests` asked for; a problem of which something failed is left out.

    Raises:
        IbpoError: where fewer than two problems have all their responses.
    """
    groups = build_response_groups(config.response_group)
    keys = [(group.name, number) for group in groups for number in range(config.gate.num_rounds)]
    problems = [p for p in problems if all((p.problem_id, *key) in rows for key in keys)]
    if len(problems) < 2:
        raise IbpoError(
            "gate: fewer than two held-out problems got all their responses; see what failed, or hold out more"
        )
    asked = [(problem, *key) for problem in problems for key in keys]
    every = [rows[problem.problem_id, name, number] for problem, name, number in asked]
    repeated, names = [problem for problem, _, _ in asked], [name for _, name, _ in asked]
    scored = score([rollout_of_row(row) for row in every], repeated, groups, judge, asked=names)
    lines = [
        row_of(problem, one, configuration=name, number=number) | {"tokens": row["num_completion_tokens"]}
        for (problem, name, number), one, row in zip(asked, scored, every, strict=True)
    ]
    write_table(table, lines)
    responses = Responses.of_table(lines)
    chosen = [row for p in problems if (row := rows.get((p.problem_id, CHOICE, 0))) is not None]
    return GroupGateReport(
        num_problems=len(problems),
        groups={group.name: measure_group(responses.of(group.name)) for group in groups},
        share=shares(chosen, groups),
        share_truncated=float(np.mean([row["finish_reason"] != "stop" for row in chosen])) if chosen else 0.0,
    )


def check_groups(report: GroupGateReport, gate: GateConfig) -> list[GateFailure]:
    """What falls short of the gate, each with the fix."""
    more = "imitate more of them (data.limit), longer (train.num_epochs) or harder (train.learning_rate)"
    failures = []
    for name, group in report.groups.items():
        answered = 1 - group.unanswered
        if group.truncated > gate.truncated:
            failures.append(
                GateFailure(
                    what=f"{group.truncated:.1%} of the {name} responses are cut off, at most {gate.truncated:.1%} "
                    "may be",
                    fix="raise gate.max_completion_length, or imitate shorter bodies",
                )
            )
        if answered < gate.well_formed:
            what = f"{answered:.1%} of the {name} responses give an answer, at least {gate.well_formed:.1%} should"
            failures.append(GateFailure(what=what, fix=more))
    for name, share in report.share.items():
        if name == "none" and share > 1 - gate.well_formed:
            failures.append(
                GateFailure(what=f"{share:.1%} of the free responses open like no response group", fix=more)
            )
        elif name != "none" and share < gate.min_share:
            what = (
                f"the policy chooses {name!r} on {share:.1%} of the problems, at least {gate.min_share:.1%} are "
                "needed: a response group that is never chosen cannot be learnt from"
            )
            failures.append(GateFailure(what=what, fix="imitate more responses of this group"))
    return failures
