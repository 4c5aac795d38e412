"""A judge as TRL's reward function: it scores, and says which responses may not be imitated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ibpo.responses.groups import stable_prefix
from ibpo.rewards.judgement import Candidate, Judge, Judgement
from ibpo.types import Problem, ResponseGroup


class JudgeReward:
    """Pass it in `reward_funcs`; a response that violates a constraint can't be chosen by the trainer.

    The judge sees the data set's row as a problem: `prompt`, `answer` (or `gold`), `problem_id`, `level`, and all other
    columns as `info`. The answer is read by the response group that the completion opens like; one that opens like none
    gives no answer. Special tokens stay in the completion, as they may be what marks a group.

    Args:
        judge: e.g. `ibpo.rewards.constraints.MixtureOfJudges`, which joins rewards and constraints.
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
        self.prefix_ids = [
            stable_prefix(group.prefix, lambda text: self.tokenizer(text, add_special_tokens=False)["input_ids"])
            for group in self.response_groups
        ]
        self.eos_token_ids: set[int] = {self.tokenizer.eos_token_id}
        """What ends a response; the trainer adds the model's own, at which vLLM stops."""
        self.judgements: list[Judgement] = []
        """Of the last batch."""

    def __call__(self, *, prompts: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        """TRL's reward function: one number per completion."""
        rows = [{k: v[i] for k, v in columns.items() if isinstance(v, list)} for i in range(len(prompts))]
        self.judgements = self.judge.judge(
            [self._candidate(*row) for row in zip(prompts, completion_ids, rows, strict=True)]
        )
        return [judgement.reward for judgement in self.judgements]

    def _candidate(self, prompt: Any, ids: list[int], row: dict[str, Any]) -> Candidate:
        stopped = bool(ids) and ids[-1] in self.eos_token_ids
        body = list(ids[:-1] if stopped else ids)
        completion = str(self.tokenizer.decode(body, skip_special_tokens=False))
        group = next(
            (g for g, p in zip(self.response_groups, self.prefix_ids, strict=True) if body[: len(p)] == p), None
        )
        own = {"answer", "gold", "problem_id", "level", "completions"}
        problem = self.problems.get(str(row.get("problem_id", ""))) or Problem(
            problem_id=str(row.get("problem_id", "")),
            prompt=prompt,
            answer=str(row.get("answer", row.get("gold", ""))),
            level=str(row.get("level", "")),
            info={k: v for k, v in row.items() if k not in own},
        )
        return Candidate(
            problem=problem,
            completion=completion,
            predicted_answer=group.extract_answer(completion) if group else None,
            finish_reason="stop" if stopped else "length",
        )
