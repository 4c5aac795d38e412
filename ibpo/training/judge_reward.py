"""A judge as TRL's reward function: it scores, and says which responses may not be imitated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ibpo.rewards import Judge
from ibpo.rollouts import rollout_of_ids, score
from ibpo.types import Problem, ResponseGroup, ScoredResponse


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
        return self.problems.get(str(row.get("problem_id", ""))) or Problem(
            problem_id=str(row.get("problem_id", "")),
            prompt=prompt,
            answer=str(row.get("answer", row.get("gold", ""))),
            level=str(row.get("level", "")),
            info={k: v for k, v in row.items() if k not in own},
        )
