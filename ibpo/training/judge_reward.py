"""Reward functions as the trainer calls them: a judge as one of them, and what all of them may return."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ibpo.errors import IbpoError
from ibpo.rewards import Judge
from ibpo.rollouts import rollout_of_ids, score
from ibpo.types import Problem, ResponseGroup, ScoredResponse

LARGEST_REWARD = float(torch.finfo(torch.float32).max)
"""TRL keeps rewards in single precision, where anything larger is infinite."""


class JudgeReward:
    """Pass it in `reward_funcs`; a response that violates a constraint can't be chosen by the trainer.

    The judge sees the data set's row as a problem: `prompt`, `answer` (or `gold`), `problem_id`, `level`, and all other
    columns as `info`. The answer is read by the response group that the completion belongs to (`ibpo.rollouts.score`);
    a completion that opens like none gives no answer.

    Args:
        judge: e.g. `ibpo.rewards.judges.MixtureOfJudges`, which joins rewards and constraints.
        response_groups: as given to the trainer.
        tokenizer: the policy's.
        problems: by id, for data sets whose rows do not hold all of them; else the row is the problem.
    """

    __name__ = "judge"

    def __init__(
        self,
        judge: Judge,
        response_groups: Sequence[ResponseGroup],
        tokenizer: PreTrainedTokenizerBase,
        problems: Mapping[str, Problem] | None = None,
    ) -> None:
        self.problems = problems or {}
        self.judge, self.response_groups = judge, list(response_groups)
        self.tokenizer: Any = tokenizer  # the stubs know no text-to-ids call without `text=`
        self.eos_token_ids: set[int] = {self.tokenizer.eos_token_id}
        """What ends a response; the trainer adds the model's own, at which vLLM stops."""
        self.scored: list[ScoredResponse] = []
        """The last batch."""

    def __call__(self, *, prompts: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        """TRL's reward function: one number per completion."""
        rows = [{k: v[i] for k, v in columns.items() if isinstance(v, list)} for i in range(len(prompts))]
        problems = [self._problem(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
        rollouts = [
            rollout_of_ids(self.tokenizer, problem.problem_id, (), ids, eos_token_ids=self.eos_token_ids)
            for problem, ids in zip(problems, completion_ids, strict=True)
        ]
        self.scored = score(rollouts, problems, self.response_groups, self.judge)
        return [scored.reward for scored in self.scored]

    def _problem(self, prompt: Any, row: dict[str, Any]) -> Problem:
        own = {"answer", "gold", "problem_id", "level", "completions"}

        def text(*keys: str) -> str:  # the first that is there; a row holds None where a column has no value
            return str(next((row[key] for key in keys if row.get(key) is not None), ""))

        return self.problems.get(text("problem_id")) or Problem(
            problem_id=text("problem_id"),
            prompt=prompt,
            answer=text("answer", "gold"),
            level=text("level"),
            info={k: v for k, v in row.items() if k not in own},
        )


def checked(reward_func: Any) -> Any:
    """A reward function of which NaN, infinite and missing rewards are errors; None, not applicable, stays.

    TRL makes NaN of None, so that afterwards nobody can tell a broken reward from one that does not apply. Reward
    models (modules, or their names) are returned as they are; see `check_finite`.
    """
    if isinstance(reward_func, str | torch.nn.Module):
        return reward_func
    # What a partial function wraps, or an object's class: as TRL names and awaits them.
    told = reward_func
    while isinstance(told, functools.partial):
        told = told.func
    name = getattr(told, "__name__", type(told).__name__)
    call = told if inspect.isroutine(told) else type(told).__call__

    async def later(**given: Any) -> Any:
        return _check(name, await reward_func(**given), given)

    def at_once(**given: Any) -> Any:
        return _check(name, reward_func(**given), given)

    wrapped = later if inspect.iscoroutinefunction(call) else at_once
    functools.update_wrapper(wrapped, reward_func, updated=())
    wrapped.__name__ = name
    return wrapped


def _check(name: str, rewards: Any, given: Mapping[str, Any]) -> Any:
    wanted = len(given["prompts"])
    try:
        rewards = list(rewards)
    except TypeError:
        raise IbpoError(
            f"reward function {name!r}: gave {rewards!r}; it must give a list, one reward per completion"
        ) from None
    if len(rewards) != wanted:
        raise IbpoError(
            f"reward function {name!r}: gave {len(rewards)} rewards for {wanted} completions; give one for each"
        )
    for i, reward in enumerate(rewards):
        try:
            fine = reward is None or (math.isfinite(reward) and abs(float(reward)) <= LARGEST_REWARD)
        except (TypeError, ValueError):
            fine = False
        if not fine:
            ids = given.get("problem_id")
            row = f"problem_id {ids[i]!r}" if ids else f"prompt {_short(given['prompts'][i])}"
            raise IbpoError(
                f"reward function {name!r}: gave {reward!r} for a response to the row with {row}; "
                "a reward is a number, or None where the function does not apply"
            )
    return rewards


def _short(prompt: Any) -> str:
    text = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def check_finite(reward_funcs: Sequence[Any], names: Sequence[str], rewards: torch.Tensor) -> None:
    """Refuse NaN and infinite scores of reward models: [R, functions].

    Raises:
        IbpoError: names the model.
    """
    for i, (func, name) in enumerate(zip(reward_funcs, names, strict=True)):
        if isinstance(func, torch.nn.Module) and not rewards[:, i].isfinite().all():
            raise IbpoError(
                f"reward model {name!r}: scored {int((~rewards[:, i].isfinite()).sum())} of {len(rewards)} responses "
                "NaN or infinite; load it in another precision, or take another model"
            )
