"""From a model's own solutions to a data set of standard and voting responses, with its provenance."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ibpo import __version__
from ibpo.errors import IbpoError
from ibpo.responses import (
    FORMS,
    Attempt,
    Built,
    CannotBuild,
    Solution,
    answer_reader,
    build_response_groups,
    build_responses,
    offer,
)
from ibpo.rewards import Candidate, Judge
from ibpo.rollouts import Request, RolloutStore
from ibpo.runs import RunDir, atomic_file, write_text_atomic
from ibpo.training.cold_start.groups import build_group_responses, group_requests
from ibpo.training.cold_start.recipe import ColdStartConfig, SampleConfig
from ibpo.types import Problem, ResponseGroup

SCHEMA, VERSION = "ibpo.cold_start", 1


def solution_requests(problems: Sequence[Problem], config: ColdStartConfig) -> list[Request]:
    """`num_solutions` standard responses to each problem, or of each group whose bodies are the model's own."""
    if config.response_group:
        return group_requests(problems, config)
    form = FORMS[config.build.form]
    prefix = form.standard.prefix if config.sample.force_opening else ""
    return [
        Request(problem=problem, number=number, response_group=form.standard.name, prefix=prefix)
        for problem in problems
        for number in range(config.sample.num_solutions)
    ]


def offered_groups(config: ColdStartConfig) -> list[ResponseGroup]:
    """Whose instructions the trained policy's prompts carry: all, or the vote's alone."""
    if config.response_group:
        return build_response_groups(config.response_group)
    form = FORMS[config.build.form]
    return [form.voting] if config.build.mixture == "sv" else [form.standard, form.voting]


def build_data_set(
    problems: Sequence[Problem], store: RolloutStore, judge: Judge, config: ColdStartConfig, run: RunDir, *, chat: bool
) -> dict[str, Any]:
    """Judge the solutions, build the responses, write them down; the data set is whole or absent.

    Returns:
        The provenance, as it is written next to the data set: where it comes from, and how many solutions were cut off,
        right, used; how many responses were built, and why others were not.

    Raises:
        IbpoError: where nothing could be built for a response group that the recipe asks for.
    """
    keys = {request.key for request in solution_requests(problems, config)}
    rows = sorted((row for row in store.rows() if row["key"] in keys), key=lambda row: row["key"])
    counts: Counter[str] = Counter(problems=len(problems), solutions=len(rows))
    counts["failed"] = len(keys) - len(rows)
    difficulty: dict[str, float] = {}
    if config.response_group:
        by_problem, refused = build_group_responses(problems, rows, judge, config, counts)
    else:
        by_problem, refused = _votes(problems, rows, judge, config, counts, difficulty)
    lines = []
    for problem in problems:
        built = by_problem.get(problem.problem_id, [])
        counts["problems without a response"] += not built
        for response in built:
            lines.append(
                {
                    "prompt": offer(offered_groups(config), problem.prompt, chat=chat),
                    **asdict(response),
                    "problem_id": problem.problem_id,
                    "level": problem.level,
                    "difficulty": difficulty.get(problem.problem_id),
                }
            )
    built_by_group = Counter(str(line["response_group"]) for line in lines)
    _check_built(built_by_group, refused, counts, config)
    provenance = {
        "schema": SCHEMA,
        "version": VERSION,
        "ibpo": __version__,
        "model": config.model.path,
        "rollouts": {"file": str(store.path), "sha256": _sha256(store.path)},
        "bill": bill_of(rows, config.sample),
        "build": config.build.model_dump(),
        "counts": dict(counts),
        "responses": dict(built_by_group),
        "refused": dict(refused.most_common()),
    }
    with atomic_file(run.dataset) as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text_atomic(run.provenance, json.dumps(provenance, indent=2, ensure_ascii=False) + "\n")
    return provenance


def _votes(
    problems: Sequence[Problem],
    rows: Sequence[Mapping[str, Any]],
    judge: Judge,
    config: ColdStartConfig,
    counts: Counter[str],
    difficulty: dict[str, float],
) -> tuple[dict[str, list[Built]], Counter[str]]:
    """Standard and voting responses out of the model's solutions, and why others were not built.

    `difficulty` gets the share of each problem's ended solutions that are not right.
    """
    judged = _judged(problems, rows, judge, config, counts)
    refused: Counter[str] = Counter()
    by_problem: dict[str, list[Built]] = {}
    for problem in problems:
        solutions, num_ended = judged.get(problem.problem_id, ([], 0))
        built, reasons = build_responses(
            problem.problem_id, solutions, num_ended, FORMS[config.build.form], config.build
        )
        refused += reasons
        by_problem[problem.problem_id] = built
        if num_ended:
            difficulty[problem.problem_id] = 1 - sum(s.right for s in solutions) / num_ended
    return by_problem, refused


def bill_of(rows: Sequence[Mapping[str, Any]], sample: SampleConfig) -> dict[str, Any]:
    """What the stored solutions cost, those of earlier calls included; requests that failed left nothing to count.

    Where the server did not tell the usage of a response, tokens and cost are None, unknown, and `num_unmetered` says
    of how many. Stores of before have 0 there.
    """
    counts = [(row["num_prompt_tokens"], row["num_completion_tokens"]) for row in rows]
    unmetered = sum(prompt is None or completion is None or prompt == 0 for prompt, completion in counts)
    prompt, completion = (None, None) if unmetered else (sum(p for p, _ in counts), sum(c for _, c in counts))
    cost = None
    if prompt is not None and completion is not None:
        cost = (prompt * sample.price_prompt + completion * sample.price_completion) / 1e6
    return {
        "num_responses": len(rows),
        "num_unmetered": unmetered,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cost": cost,
    }


def read_data_set(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a data set, in order."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _judged(
    problems: Sequence[Problem],
    rows: Sequence[Mapping[str, Any]],
    judge: Judge,
    config: ColdStartConfig,
    counts: Counter[str],
) -> dict[str, tuple[list[Solution], int]]:
    """Problem's id -> its solutions that gave an answer and violate nothing, and how many ended by themselves."""
    form, reader = FORMS[config.build.form], answer_reader(config.sample.answer)
    known = {problem.problem_id: problem for problem in problems}
    read: list[tuple[Mapping[str, Any], Attempt]] = []
    ended: Counter[str] = Counter()
    for row in rows:
        if row["finish_reason"] != "stop":
            counts["truncated"] += 1
            continue
        ended[row["problem_id"]] += 1
        try:
            read.append((row, form.read_attempt(row["completion"], reader)))
        except CannotBuild:
            counts["unanswered"] += 1
    candidates = [
        Candidate(problem=known[row["problem_id"]], completion=attempt.text, predicted_answer=attempt.answer)
        for row, attempt in read
    ]
    found: dict[str, tuple[list[Solution], int]] = {key: ([], number) for key, number in ended.items()}
    for (row, attempt), judgement in zip(read, judge.judge(candidates), strict=True):
        if not judgement.imitable:
            counts["violating"] += 1
            continue
        right = judgement.reward == 1  # a part of a rubric is not a right answer
        counts["right"] += right
        found[row["problem_id"]][0].append(Solution(attempt=attempt, right=right, source=row["key"]))
    return found


def _check_built(built: Counter[str], refused: Counter[str], counts: Counter[str], config: ColdStartConfig) -> None:
    share_is_0 = config.build.alpha == 0 and config.build.mixture == "asv"
    share_is_1 = config.build.alpha >= 1 and not config.build.by_difficulty
    form = FORMS[config.build.form]
    missing = [
        group.name
        for group in offered_groups(config)
        if not built[group.name] and (config.response_group or not (share_is_0 if group is form.voting else share_is_1))
    ]
    if not missing:
        return
    why = f"; refused most often: {refused.most_common(1)[0][0]}" if refused else ""
    raise IbpoError(
        f"build: no response of {missing[0]!r} could be built: of {counts['solutions']} solutions "
        f"{counts['truncated']} were cut off, {counts['unanswered']} gave no answer, {counts['right']} were right"
        f"{why}; "
        + ("look at its body, " if config.response_group else "")
        + "raise sample.max_tokens or sample.num_solutions, give easier problems, or write build.imitate = 'all'"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
