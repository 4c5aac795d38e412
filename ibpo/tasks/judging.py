"""Who judges the responses to a recipe's problems, and what they have to keep, by the recipe's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ibpo.config import ConstraintsConfig, JudgeConfig
from ibpo.endpoint import Endpoint, read_api_key
from ibpo.errors import IbpoError
from ibpo.responses.formats import FORMATS
from ibpo.responses.groups import find_group
from ibpo.rewards.constraints import (
    GIVES_ANSWER,
    AtLeast,
    Constraint,
    MixtureOfJudges,
    Rule,
    free_of,
    in_script,
)
from ibpo.rewards.judgement import Candidate
from ibpo.rewards.llm import CORRECTNESS, LLMJudge
from ibpo.tasks.check import judge_for
from ibpo.tasks.task import JudgeName
from ibpo.types import ResponseGroup

NOTHING_MORE = ConstraintsConfig()


def build_judge(
    name: str,
    judge: JudgeConfig,
    constraints: ConstraintsConfig = NOTHING_MORE,
    response_groups: Sequence[ResponseGroup] = (),
) -> MixtureOfJudges:
    """The judge of a recipe; a truncated response is not shown to it, gets 0 and violates `truncated`.

    Args:
        name: `math`, `exact`, `code` or `llm`.
        judge: the language model, for `llm` and for a rubric among the constraints; and whether programs are confined.
        constraints: what a response must keep to be imitated.
        response_groups: of the recipe, for `constraints.format`.

    Raises:
        IbpoError: names the key and the mend.
    """
    if name == "llm":
        gives = _language_model(judge, judge.rubric)
    else:
        gives = judge_for(cast(JudgeName, name), isolate=judge.isolation)
    return MixtureOfJudges(rewards={name: gives}, constraints=_constraints(constraints, judge, response_groups))


def _constraints(
    config: ConstraintsConfig, judge: JudgeConfig, response_groups: Sequence[ResponseGroup]
) -> list[Constraint]:
    found: list[Constraint] = [GIVES_ANSWER] if config.answered else []
    if config.format:
        found.append(_format(response_groups))
    if config.script:
        found.append(in_script(config.script.upper(), share=config.script_share))
    if config.free_of:
        try:
            found.append(free_of(config.free_of))
        except IbpoError as error:
            raise IbpoError(f"constraints.free_of: {error}") from None
    if config.rubric:
        found.append(AtLeast(name="rubric", judge=_language_model(judge, config.rubric, scale=1)))
    return found


def _format(response_groups: Sequence[ResponseGroup]) -> Rule:
    unknown = [group.name for group in response_groups if group.name not in FORMATS]
    if unknown:
        raise IbpoError(
            f"constraints.format: response group {unknown[0]!r} is no shipped format ({', '.join(FORMATS)}); rename it "
            "or write false"
        )

    def check(candidate: Candidate) -> str | None:
        group = find_group(candidate.completion, response_groups)
        return "opens like no response group" if group is None else FORMATS[group.name].problem_of(candidate.completion)

    return Rule(name="format", check=check)


def _language_model(judge: JudgeConfig, rubric: str, scale: int | None = None) -> LLMJudge:
    if not (judge.base_url and judge.model):
        raise IbpoError("judge.base_url: a language model is to judge; write [judge] with base_url and model")
    on_failure: Any = judge.on_failure
    return LLMJudge(
        Endpoint(
            base_url=judge.base_url,
            model=judge.model,
            api_key=read_api_key(judge.api_key_file, "judge.api_key_file"),
            num_concurrent=judge.num_concurrent,
        ),
        rubric=rubric or CORRECTNESS,
        scale=scale or judge.scale,
        on_failure=on_failure,
        show_reference=judge.show_reference,
        max_tokens=judge.max_tokens,
    )
