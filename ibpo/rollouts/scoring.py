"""From token ids to rollouts, and from rollouts to scored responses: one way for training, evaluation and the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ibpo.responses import find_group
from ibpo.rewards import Candidate, Judge
from ibpo.types import Problem, ResponseGroup, Rollout, ScoredResponse


def rollout_of_ids(
    tokenizer: Any,
    problem_id: str,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    *,
    eos_token_ids: Collection[int],
    lead: str = "",
) -> Rollout:
    """A response as a model gave it in token ids, the forced prefix included.

    It ended by itself if its last token is one of `eos_token_ids`, which is left out of the text. All other special
    tokens stay in the text, as they may be what marks a response group. `lead` is what the prompt already holds of the
    response, such as a thought that the chat template opens: it stands in the text, not in the tokens.
    """
    ended = bool(completion_ids) and completion_ids[-1] in eos_token_ids
    body = list(completion_ids[:-1] if ended else completion_ids)
    return Rollout(
        problem_id=problem_id,
        prompt_token_ids=tuple(prompt_ids),
        completion_token_ids=tuple(completion_ids),
        completion=lead + str(tokenizer.decode(body, skip_special_tokens=False)),
        finish_reason="stop" if ended else "length",
    )


def rollout_of_row(row: Mapping[str, Any]) -> Rollout:
    """A response as `RolloutStore` keeps it; a served one has no token ids."""
    return Rollout(
        problem_id=row["problem_id"],
        prompt_token_ids=tuple(row.get("prompt_token_ids") or ()),
        completion_token_ids=tuple(row.get("completion_token_ids") or ()),
        completion=row["completion"],
        finish_reason=row["finish_reason"],
    )


def score(
    rollouts: Sequence[Rollout],
    problems: Sequence[Problem],
    response_groups: Sequence[ResponseGroup],
    judge: Judge,
    *,
    asked: Sequence[str] = (),
    read_other: Callable[[str], str | None] | None = None,
) -> list[ScoredResponse]:
    """Tell the response group of each rollout, read its answer as that group's answers are read, and judge it.

    A truncated response gives no answer and earns nothing; the judge still sees it, and may name what it violates.

    Args:
        rollouts: N of them.
        problems: the problem of each.
        response_groups: the groups that a rollout may belong to (`ibpo.responses.find_group`).
        judge: of the answers.
        asked: for each rollout the name of the group that it was asked for, which it then counts for however it opens;
            "": the policy chose, and the completion tells. By default the completion always tells.
        read_other: reads the answers of responses that belong to no group; by default these give none.

    Returns:
        In the order of the rollouts.
    """
    by_name = {group.name: group for group in response_groups}
    groups: list[ResponseGroup | None] = []
    candidates: list[Candidate] = []
    for rollout, problem, name in zip(rollouts, problems, asked or [""] * len(rollouts), strict=True):
        group = by_name[name] if name else find_group(rollout.completion, response_groups)
        read = group.extract_answer if group else read_other
        answer = read(rollout.completion) if read and rollout.finish_reason == "stop" else None
        groups.append(group)
        candidates.append(
            Candidate(
                problem=problem,
                completion=rollout.completion,
                predicted_answer=answer,
                finish_reason=rollout.finish_reason,
            )
        )
    return [
        ScoredResponse(
            rollout=rollout,
            response_group=group.name if group else "",
            predicted_answer=candidate.predicted_answer,
            reward=judgement.reward if rollout.finish_reason == "stop" else 0.0,
            cost=float(len(rollout.completion_token_ids) or "nan"),
            reason=judgement.reason,
            violations=judgement.violations,
        )
        for rollout, group, candidate, judgement in zip(
            rollouts, groups, candidates, judge.judge(candidates), strict=True
        )
    ]
