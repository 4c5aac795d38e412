"""What an evaluation during training says of the budget: `eval_ibpo/*` on the `eval_dataset`.

Each prompt has the policy's own responses, which TRL's evaluation samples. One more response of each response
group is forced, so that what the groups are worth is known, and with it the best allocation inside the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from trl.chat_template_utils import parse_response
from trl.data_utils import is_conversational

from ibpo.allocation import InfeasibleBudget
from ibpo.responses import EncodedGroups
from ibpo.training.budgets import BudgetTerm
from ibpo.training.generation import describe, look_at_prompts, sample_with
from ibpo.training.lower_level import LEAST_GAIN, members, solve_within

Json = dict[str, Any]


class HeldOutView:
    """All prompts of an evaluation so far, P of them, and what was seen of each of the G response groups.

    Args:
        groups: the response groups.
        budgets: what may be spent.
        num_prompts: of the data set; None: not known. Several processes fill up the last batch with the first prompts
            again, which come last and count once.
    """

    def __init__(self, groups: EncodedGroups, budgets: Sequence[BudgetTerm], num_prompts: int | None = None) -> None:
        self.names, self.budgets, self.num_prompts = groups.names, list(budgets), num_prompts
        self.share: list[np.ndarray] = []
        """Probability with which the policy opens a response of each group, per prompt: float [G]."""
        self.reward: list[np.ndarray] = []
        """Rewards of the forced responses, per prompt: float [G], NaN where no reward function applied."""
        self.tokens: list[np.ndarray] = []
        self.own_reward: list[float] = []
        """Mean of the responses that the policy opened itself, and of their tokens below."""
        self.own_tokens: list[float] = []
        self.slices: list[dict[str, str]] = []

    def add(
        self,
        share: np.ndarray,
        own: Sequence[Json],
        own_score: np.ndarray,
        forced: Sequence[Json],
        forced_score: np.ndarray,
    ) -> None:
        """Take in a batch of P prompts.

        Args:
            share: float [P, G].
            own: rows of the policy's own responses (`generation.describe`), equally many of each prompt.
            own_score: their rewards, NaN where none applied.
            forced: rows of one forced response of each group to each prompt, P x G.
            forced_score: their rewards.
        """
        num_prompts, num_groups = share.shape
        cut = np.array([row["finish_reason"] == "length" for row in own])
        with np.errstate(invalid="ignore"):
            count = (~np.isnan(own_score)).reshape(num_prompts, -1).sum(1)
            reward = np.nansum(np.where(cut & ~np.isnan(own_score), 0.0, own_score).reshape(num_prompts, -1), 1)
            self.own_reward += (reward / count).tolist()
        tokens = np.array([row["tokens"] for row in own], float)
        self.own_tokens += tokens.reshape(num_prompts, -1).mean(1).tolist()
        self.slices += [row["slices"] for row in own[:: len(own) // num_prompts]]
        self.share += list(share)
        cut = np.array([row["finish_reason"] == "length" for row in forced])
        reward = np.where(cut & ~np.isnan(forced_score), 0.0, forced_score)
        self.reward += list(reward.reshape(num_prompts, num_groups))
        self.tokens += list(np.array([row["tokens"] for row in forced], float).reshape(num_prompts, num_groups))
        for column in (self.share, self.reward, self.tokens, self.own_reward, self.own_tokens, self.slices):
            del column[len(column) if self.num_prompts is None else self.num_prompts :]

    def metrics(self) -> dict[str, float]:
        """Metrics of all prompts so far.

            share/GROUP     mean probability with which the policy opens such a response
            reward/GROUP    mean reward of its forced responses; a truncated one earns 0
            spent/BUDGET    what the policy spends, by these probabilities or in tokens; allowed/BUDGET what it may
            price/BUDGET    of the best allocation of the forced responses inside all budgets: reward per unit
            oracle_gap      mean reward of that allocation less that of the policy's own responses

        The allocation sees the rewards that it is measured by, so that the gap is an upper bound.
        """
        share, reward, tokens = np.array(self.share), np.array(self.reward), np.array(self.tokens)
        columns = {term.column for term in self.budgets if term.column}
        inside = members(self.budgets, {c: np.array([row[c] for row in self.slices]) for c in columns}, len(share))
        found = {f"ibpo/share/{name}": float(share[:, g].mean()) for g, name in enumerate(self.names)}
        for g, name in enumerate(self.names):
            known = reward[~np.isnan(reward[:, g]), g]
            found |= {f"ibpo/reward/{name}": float(known.mean())} if len(known) else {}
        own_tokens = np.array(self.own_tokens)
        for k, term in enumerate(self.budgets):
            spent = own_tokens if term.group is None else share[:, term.group]
            found[f"ibpo/allowed/{term.key}"] = float(term.amount)
            if inside[:, k].any():
                found[f"ibpo/spent/{term.key}"] = float(spent[inside[:, k]].mean())
        problem, group = np.nonzero(~np.isnan(reward))
        value = reward[problem, group]
        try:
            weight, price, _, missed = solve_within(
                self.budgets, value - LEAST_GAIN * (group > 0), problem, group, tokens[problem, group], inside
            )
        except InfeasibleBudget:
            return found
        found |= {f"ibpo/price/{term.key}": float(price[k]) for k, term in enumerate(self.budgets)}
        own = np.array(self.own_reward)
        both = np.isin(np.arange(len(own)), problem[weight]) & ~np.isnan(own)
        if not missed and both.any():
            best = np.zeros(len(own))
            best[problem[weight]] = value[weight]
            found["ibpo/oracle_gap"] = float((best - own)[both].mean())
        return found


def _as_read(
    tokenizer: Any, row: Json, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]
) -> list[Any]:
    """Completions as TRL hands the policy's own to reward functions: a tokenizer may take the reasoning apart."""
    if not is_conversational(row):
        return tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
    if any(getattr(tokenizer, name, None) is not None for name in ("response_template", "response_schema")):
        pairs = zip(prompt_ids, completion_ids, strict=True)
        return [[parse_response(tokenizer, list(ids), prefix=list(prompt))] for prompt, ids in pairs]
    texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
    return [[{"role": "assistant", "content": text}] for text in texts]


def look_at_evaluation(
    trainer: Any, inputs: list[Json], completion_ids: list[list[int]], rewards: Any, view: HeldOutView
) -> None:
    """Take a batch of TRL's evaluation into the view, after forcing a response of each group to its prompts.

    Args:
        trainer: the `IBPOTrainer`.
        inputs: the data set's row of each response of this rank.
        completion_ids: the policy's own responses.
        rewards: of all ranks [R, functions].
        view: of the evaluation so far.
    """
    groups, columns = trainer.groups, {term.column for term in trainer.budgets if term.column}
    eos, prompt_ids = set(trainer.eos_token_ids), trainer.handover.prompt_ids

    def rows_of(some_inputs: list[Json], ids: list[list[int]]) -> list[Json]:
        return describe(some_inputs, ids, groups, eos, columns, [])

    own = gather_object(rows_of(inputs, completion_ids))
    prompt = np.arange(len(own)) // trainer.num_generations_eval
    _, share = look_at_prompts(trainer, prompt_ids, prompt, with_features=False)
    # One row of each of this rank's prompts, equally many on every rank: rewards are gathered as one tensor.
    first = trainer.accelerator.process_index * len(inputs)
    numbers, places = np.unique(prompt[first : first + len(inputs)], return_index=True)
    most = max(gather_object([len(numbers)]))
    wanted = [int(i % len(numbers)) for i in range(most)]
    at = [int(places[i]) for i in wanted for _ in groups.names]
    forced_ids = sample_with(trainer, [prompt_ids[i] for i in at], list(groups.prefix_ids) * most)
    forced_inputs = [inputs[i] for i in at]
    completions = _as_read(trainer.processing_class, inputs[0], [prompt_ids[i] for i in at], forced_ids)
    told = deepcopy((trainer._pending_extra_logs, trainer._pending_metrics))
    prompts = [row["prompt"] for row in forced_inputs]
    forced_rewards = trainer.reward_rows(forced_inputs, prompts, completions, forced_ids)
    trainer._pending_extra_logs, trainer._pending_metrics = told  # what reward functions log is of TRL's responses
    forced = gather_object(
        [
            row | {"place": (int(numbers[wanted[i // len(groups.names)]]), i % len(groups.names))}
            for i, row in enumerate(rows_of(forced_inputs, forced_ids))
        ]
    )
    by_place = {row["place"]: (row, score) for row, score in zip(forced, trainer.scores(forced_rewards), strict=True)}
    ordered = [by_place[place] for place in sorted(by_place)]
    view.add(share, own, trainer.scores(rewards), [row for row, _ in ordered], np.array([s for _, s in ordered]))
