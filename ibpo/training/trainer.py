"""IBPO on TRL: GRPOTrainer with the advantages replaced by the weights of the allocation.

One iteration is: sample (stratified over the response groups) -> reward -> allocation under the budget (lower level) ->
one weighted-SFT step (upper level). TRL brings sampling order, optimiser, accelerate, checkpoints and logging; the
weights go in through two of its methods, `_calculate_rewards` (sees all rewards of all ranks) and
`_generate_and_score_completions` (returns the advantages, which may be per token). `_compute_loss` adds the anchor,
`_get_per_token_logps_and_entropies` spares a forward pass, and `ibpo.training.checkpoints` overrides three more. What
they rely on is pinned by `tests/training/test_trl_contract.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import IterableDataset
from transformers import PreTrainedModel
from trl import GRPOTrainer

from ibpo.config import nearest
from ibpo.errors import IbpoError
from ibpo.responses import encode_groups
from ibpo.training.budgets import read_budget
from ibpo.training.checkpoints import AverageWeights, ExactResume, KeepLowerLevel
from ibpo.training.config import IBPOConfig, check_arguments, check_groups, check_inputs, check_trl
from ibpo.training.generation import look_at_prompts, prompt_token_ids, sample_stratified
from ibpo.training.judge_reward import JudgeReward
from ibpo.training.loss import anchor_loss, by_length, response_weights, take_rows, weighted_batch
from ibpo.training.lower_level import FEEDBACK_AFTER, LowerLevel, adjusted, steered_budget
from ibpo.training.monitoring import Guards, StepView, batch_of, describe
from ibpo.training.reference_model import check_sharding, is_sharded, make_initial_policy
from ibpo.training.rollout_log import Ledger, ledger_settings
from ibpo.types import Prompt, ResponseGroup

logger = logging.getLogger("ibpo.training")


class IBPOTrainer(ExactResume):
    """Trains a policy to spend its costlier response groups where they pay, inside a budget.

    Minimises

        - (1/P) sum_i [ choice_weight * log pi(opening_i) + body_weight * r_i * log pi(body_i | opening_i) ]
        + (1/P) anchor_weight sum_{j, t} KL( pi_0(. | y_j,<t) || pi(. | y_j,<t) )

    over this step's P prompts, where i runs over the responses that the lower level chose, one per prompt (for
    bodies, at wish, the best of every response group: `imitate_bodies`), gradients stopped through the choice:
    weighted SFT, the KL projection of the allocation on the policy (Yu et al. 2025, section 3.2). The anchor is
    ours: j runs over a random part of the policy's own responses, t over their bodies. It is exact in the
    vocabulary and vanishes at pi_0: it holds the bodies without adding noise to the choice, which replayed
    responses and sampled estimates of the divergence did (docs/log.md). Its weight grows
    (`ibpo.training.loss.anchor_weight_at`).

    Args:
        model: a causal LM, or its directory or hub id.
        reward_funcs: as for `trl.GRPOTrainer`; rewards in [0, 1].
        response_groups: two or more; the first is the standard one.
        args: the configuration.
        train_dataset: rows with `prompt` and whatever the reward functions take; `problem_id` and `level`, if there,
            go to the ledger.
        **kwargs: passed on to `trl.GRPOTrainer`; not `rollout_func`, `tools` and `environment_factory`.

    Raises:
        IbpoError: for response groups that share their first token, a budget for a group that does not exist, what
            would make the update another one (see `IBPOConfig`), or a release of TRL that is not verified.
    """

    # Narrower than what TRL and transformers declare.
    args: IBPOConfig
    model: PreTrainedModel
    processing_class: Any
    num_generations: int
    num_generations_eval: int
    max_completion_length: int

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Any,
        response_groups: Sequence[ResponseGroup],
        args: IBPOConfig,
        train_dataset: Any,
        **kwargs: Any,
    ) -> None:
        check_trl()
        check_arguments(args, kwargs)
        super().__init__(
            model=model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=train_dataset,
            rollout_func=self._roll_out,  # pyright: ignore[reportArgumentType]  # chats come too
            **kwargs,
        )
        check_inputs(self)
        for func in self.reward_funcs:
            if isinstance(func, JudgeReward):
                func.eos_token_ids |= set(self.eos_token_ids)
        self.response_groups = list(response_groups)
        names = [group.name for group in self.response_groups]
        check_groups(names, args)
        self.groups = encode_groups(self.response_groups, self.processing_class)
        if is_sharded(self):
            check_sharding(args)
        self.budgets = read_budget(args.budget or {}, names, self._values_of)
        try:
            self.lower_level = LowerLevel(
                num_groups=len(names),
                budgets=self.budgets,
                utility=args.utility,
                window=args.window,
                min_gain=args.min_gain,
                seed=args.seed,
                price=args.price,
                unsampled=args.unsampled,
            )
        except ValueError as error:
            raise IbpoError(f"IBPOConfig: {error}") from None
        self.guards = Guards(args.guards)
        self.adjustment = 0.0
        self._scoring = False
        self._needs_features = args.utility in ("shrunken", "regression")
        self.initial_policy: Any = None
        if args.anchor_share > 0 or self._needs_features:
            self.initial_policy = make_initial_policy(self)
        self.ledger = Ledger(Path(args.ledger_dir), ledger_settings(args, names)) if args.ledger_dir else None
        if args.averaging > 0:
            self.add_callback(AverageWeights(self, args.averaging))
        # Last: its file marks a checkpoint as whole.
        self.add_callback(KeepLowerLevel(self))

    def _values_of(self, column: str) -> set[str] | None:
        """The distinct values of a column that a budget is sliced by, as text; None for a stream."""
        dataset: Any = self.train_dataset
        known: list[str] | None = dataset.column_names
        if known is not None and column not in known:
            raise IbpoError(f"IBPOConfig: budget: the data set has no column {column!r}; {nearest(column, known)}")
        return None if isinstance(dataset, IterableDataset) else {str(value) for value in dataset.unique(column)}

    def _roll_out(self, prompts: list[Prompt], trainer: GRPOTrainer) -> dict[str, Any]:
        """TRL's `rollout_func`: responses of the policy."""
        del trainer
        self._prompt_ids = [prompt_token_ids(self, prompt) for prompt in prompts]
        return {
            "prompt_ids": self._prompt_ids,
            "completion_ids": sample_stratified(self, self._prompt_ids),
            "logprobs": None,
        }

    # -- lower level ---------------------------------------------------------------------------------------------

    def _calculate_rewards(
        self, inputs: list[dict], prompts: list, completions: list, completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if not self.model.training:
            return rewards_per_func
        score = (rewards_per_func * self.reward_weights.to(rewards_per_func)).nansum(1).double().cpu().numpy()
        scored = [func.scored for func in self.reward_funcs if isinstance(func, JudgeReward)]
        columns = {term.column for term in self.budgets if term.column}
        rows = gather_object(
            describe(inputs, completion_ids_list, self.groups, set(self.eos_token_ids), columns, scored)
        )
        prompt = np.arange(len(rows)) // self.num_generations
        features, share = look_at_prompts(self, self._prompt_ids, prompt, with_features=self._needs_features)
        batch = batch_of(rows, score, prompt, features)
        selection = self.lower_level.solve(batch, self.state.global_step, self.adjustment)
        truncated = np.array([row["finish_reason"] == "length" for row in rows])
        self._weights = response_weights(
            selection, batch, truncated, self.args, self.state.global_step, self.state.max_steps
        )
        view = StepView(
            names=[group.name for group in self.response_groups],
            budgets=self.budgets,
            stratified=self.args.stratified,
            rows=rows,
            batch=batch,
            score=score,
            truncated=truncated,
            share=share,
            selection=selection,
        )
        self._record(view)
        return rewards_per_func

    def _record(self, view: StepView) -> None:
        """Metrics, feedback, guards and ledger."""
        step, metrics = self.state.global_step, self._metrics["train"]
        for key, value in view.metrics().items():
            metrics[key].append(value)
        steered = steered_budget(self.budgets) if self.args.feedback else None
        if steered is not None:
            if step >= FEEDBACK_AFTER * self.state.max_steps:
                term = self.budgets[steered]
                share = float(view.share.mean(0)[term.group])
                self.adjustment = adjusted(self.adjustment, term, steered, view.selection, share, self.args.feedback)
            metrics["ibpo/adjustment"].append(self.adjustment)
        if self.ledger and self.accelerator.is_main_process:
            self.ledger.append(step, view, self._weights)
        for warning in self.guards.look(step + 1, view):
            if self.accelerator.is_main_process:
                logger.warning("step %d: %s", step + 1, warning)

    # -- upper level ---------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        """TRL's batch, its advantages replaced by weights per token [B, T], rows without any weight dropped."""
        self._scoring = self.model.training and self.beta == 0.0
        out = super()._generate_and_score_completions(inputs)
        self._scoring = False
        if not self.model.training:
            return out
        kept, weights = weighted_batch(
            out,
            self._weights,
            self.groups,
            num_generations=self.num_generations,
            max_completion_length=self.max_completion_length,
            steps_per_generation=self.args.steps_per_generation or 1,
            rank=self.accelerator.process_index,
            num_ranks=self.accelerator.num_processes,
        )
        logged = self._gather(weights.sum(1)).tolist()
        for place, weight in zip(range(-len(logged), 0), logged, strict=True):
            self._logs["advantages"][place] = weight
        return kept

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        """TRL's, but not of the policy that sampled: weighted SFT has no ratio to it, and it costs a forward pass."""
        if self._scoring:
            return torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device), None, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of all ranks, one after the other; every rank must bring the same shape."""
        gathered: Any = self.accelerator.gather(tensor)
        return gathered

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss of the rows that are imitated, and the anchor of those that are held."""
        imitated = inputs["advantages"].any(1) if inputs["advantages"].dim() > 1 else None
        if imitated is None or not self.model.training:
            return super()._compute_loss(model, inputs)
        index, size = imitated.nonzero()[:, 0], len(imitated)
        held = inputs["anchor"].any()
        several = self.accelerator.num_processes > 1
        if several:  # every rank brings as many rows, and anchors if one does: each forward pass communicates
            most = self._gather(torch.stack([imitated.sum(), held.long()])).view(-1, 2).amax(0)
            index, held = (~imitated).long().argsort(stable=True)[: most[0]], most[1]
        if not len(index):
            index = imitated.new_zeros(1, dtype=torch.long)
        parts = [index] if several else by_length(index, inputs["completion_mask"])  # several ranks must run alike
        losses = [super(IBPOTrainer, self)._compute_loss(model, take_rows(inputs, part)) for part in parts]
        # The normaliser of dr_grpo counts rows: undo what leaving some out changes.
        loss = torch.stack([part_loss * len(part) / size for part_loss, part in zip(losses, parts, strict=True)]).sum()
        if not held:
            return loss
        pull = anchor_loss(model, self.initial_policy, inputs, self.temperature, in_step=several)
        self._metrics["train"]["ibpo/anchor"].append(self._gather(pull.detach()).mean().item())
        return loss + pull
