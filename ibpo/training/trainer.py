"""IBPO on TRL: GRPOTrainer with the advantages replaced by the weights of the allocation.

One iteration, in the order of this file:

    rollouts      `_roll_out`                  sampled, equally many of each response group
    scored rows   `_score_rows`                what every response of all ranks earned, and how the policy chooses
    allocation    `weigh_responses`            the lower level: one response per prompt, inside the budget
    weights       `weigh_responses`            what each response's prefix, completion and KL penalty weigh
    loss          `_compute_loss`              weighted SFT per token, and the KL penalty

TRL brings sampling order, optimiser, accelerate, checkpoints and logging. It calls three methods of ours in a step:
`rollout_func` (`_roll_out`), `_calculate_rewards` (sees all rewards of all ranks), `_generate_and_score_completions`
(returns the advantages, which may be per token); and `_compute_loss` in every part of an update. What one of them
leaves for the next is in one record, `Handover`. `_get_per_token_logps_and_entropies` saves a forward pass, and
`ibpo.training.checkpoints.ExactResume` overrides four methods more; `create_model_card` writes ours. All nine are
compared with TRL's at start (`ibpo.training.trl_methods`), and what they rely on is pinned by
`tests/training/test_trl_contract.py`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import IterableDataset
from transformers import PreTrainedModel
from trl import GRPOTrainer
from trl.trainer.utils import get_config_model_id

from ibpo.config import nearest
from ibpo.errors import IbpoError
from ibpo.responses import check_trainable, encode_groups
from ibpo.rollouts import count_positions_by_mask, encode_prompt, end_of_sequence_ids
from ibpo.training.budgets import read_budget
from ibpo.training.checkpoints import AverageWeights, CheckpointsInOrder, ExactResume, KeepLowerLevel
from ibpo.training.config import IBPOConfig, check_arguments, check_groups, check_inputs
from ibpo.training.generation import batch_of, describe, look_at_prompts, sample_stratified, text_of
from ibpo.training.held_out import HeldOutView, look_at_evaluation
from ibpo.training.judge_reward import JudgeReward, check_finite, checked
from ibpo.training.loss import by_length, draw_kl_rows, kl_penalty, kl_weight_at, take_rows, weighted_batch
from ibpo.training.lower_level import (
    FITTED,
    STEER_AFTER,
    Batch,
    LowerLevel,
    Selection,
    length_ratio,
    weigh_prefix_and_completion,
)
from ibpo.training.model_card import write_model_card
from ibpo.training.monitoring import Guards, StepView
from ibpo.training.reference_model import check_sharding, is_sharded, make_reference_model
from ibpo.training.rollout_log import RolloutLog, log_settings
from ibpo.training.trl_methods import check_trl_methods
from ibpo.types import Prompt, ResponseGroup

logger = logging.getLogger("ibpo.training")


@dataclass(kw_only=True, slots=True)
class Handover:
    """What one of TRL's calls leaves for the next, within one step."""

    prompt_ids: list[list[int]] = field(default_factory=list)
    """Token ids of this rank's prompts: `_roll_out` -> `_score_rows`."""
    weights: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    """Weights of all ranks' responses [R, 3]: `_calculate_rewards` -> `_generate_and_score_completions`."""
    skips_scoring: bool = False
    """Whether TRL is about to score rollouts under the policy that sampled them, which nothing here uses."""


def weigh_responses(
    lower_level: LowerLevel, batch: Batch, args: IBPOConfig, step: int, num_steps: int
) -> tuple[Selection, np.ndarray]:
    """From scored rows to weights: the allocation, and what it makes each response weigh in the update.

    The weights of prefix and completion are those of `ibpo.training.lower_level.weigh_prefix_and_completion`; the KL
    penalty weighs a_j = kl_weight(t) on responses drawn at random, times `length_ratio` if `balance_groups`. Gradients
    are stopped through the choice: weighted SFT is the KL projection of the allocation on the policy (Yu et al. 2025,
    section 3.2).

    Args:
        lower_level: the window and the budgets; it takes this batch in.
        batch: the scored rows of all ranks.
        args: the weights and what they apply to.
        step: number of this update; with `args.seed` it fixes ties and which responses get the KL penalty.
        num_steps: of the whole training.

    Returns:
        What was chosen, and float [R, 3]: weights of prefix, completion and KL penalty.
    """
    selection = lower_level.solve(batch, step)
    weights = weigh_prefix_and_completion(
        selection,
        batch,
        prefix_loss_weight=args.prefix_loss_weight,
        completion_loss_weight=args.completion_loss_weight,
        imitate_completions=args.imitate_completions,
        imitate_denied=args.imitate_denied,
        balance_groups=args.balance_groups,
    )
    rng = np.random.default_rng([args.seed, step, 1])
    penalised = draw_kl_rows(batch.prompt, batch.response_group, args.kl_share, rng) & ~batch.truncated
    a = np.where(penalised, kl_weight_at(args, step / num_steps), 0.0)
    if args.balance_groups:
        a = a * length_ratio(batch)
    return selection, np.column_stack([weights, a])


class IBPOTrainer(ExactResume):
    """Trains a policy to spend its more expensive response groups where they pay, inside a budget.

    Minimises, over this step's P prompts,

        - (1/P) sum_j [ c_j log pi(prefix_j) + b_j log pi(completion_j | prefix_j) ]
        + (1/P) sum_j a_j sum_t KL( pi_0(. | y_j,<t) || pi(. | y_j,<t) )

    with the weights c, b and a of `weigh_responses`, and t over the tokens behind the prefix. The KL penalty is ours.
    It is exact in the vocabulary and vanishes at the reference model pi_0: it holds the completions without adding
    noise to the choice, which replayed responses and sampled estimates of the divergence did (docs/log.md). Its weight
    grows (`ibpo.training.loss.kl_weight_at`).

    Args:
        model: a causal LM, or its directory or hub id.
        reward_funcs: as for `trl.GRPOTrainer`; rewards in [0, 1]. None, where a function does not apply: a response to
            which none applies is left out of the gains and is not imitated.
        response_groups: two or more; the first is the standard one.
        args: the configuration.
        train_dataset: rows with `prompt` and whatever the reward functions take; `problem_id` and `level`, if there,
            go to the rollout log.
        **kwargs: passed on to `trl.GRPOTrainer`; not `rollout_func`, `tools` and `environment_factory`.

    Raises:
        IbpoError: for response groups that share their first token, a budget for a group that does not exist, what
            would make the update another one (see `IBPOConfig`), or a TRL whose methods are called in another way.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "ibpo"]
    _name = "IBPO"
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
        check_trl_methods(GRPOTrainer, IBPOTrainer)
        check_arguments(args, kwargs)
        given = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
        self.judges = [func for func in given if isinstance(func, JudgeReward)]
        with warnings.catch_warnings():
            # The experimental feature is our seam, not the caller's choice; check_trl_methods looks after it.
            warnings.filterwarnings("ignore", "You are using 'rollout_func'")
            super().__init__(
                model=model,
                reward_funcs=[checked(func) for func in given],
                args=args,
                train_dataset=train_dataset,
                rollout_func=self._roll_out,  # pyright: ignore[reportArgumentType]  # chats come too
                **kwargs,
            )
        check_inputs(self)
        count_positions_by_mask(self.model)
        self.eos_token_ids = end_of_sequence_ids(self.model, self.processing_class)
        for judge in self.judges:
            judge.eos_token_ids |= set(self.eos_token_ids)
        self.response_groups = list(response_groups)
        names = [group.name for group in self.response_groups]
        check_groups(names, args)
        self._check_prompt()
        self.groups = encode_groups(self.response_groups, self.processing_class)
        if is_sharded(self):
            check_sharding(args)
        budget: Any = args.budget or {}
        self.budgets = read_budget(budget, names, self._values_of)
        try:
            self.lower_level = LowerLevel(
                num_groups=len(names),
                budgets=self.budgets,
                utility=args.utility,
                window=args.window,
                min_gain=args.min_gain,
                seed=args.seed,
                price=args.price,
            )
        except ValueError as error:
            raise IbpoError(f"IBPOConfig: {error}") from None
        self.handover = Handover()
        self.held_out = HeldOutView(self.groups, self.budgets)
        self._evaluated: Any = None
        self.guards = Guards(args.guards)
        self._needs_features = args.utility in FITTED
        self.reference_model: Any = None
        if args.kl_share > 0 or self._needs_features:
            self.reference_model = make_reference_model(self)
        directory = args.rollout_log_dir
        self.rollout_log = RolloutLog(Path(directory), log_settings(args, names)) if directory else None
        if args.averaging > 0:
            self.add_callback(AverageWeights(self, args.averaging))
        # Last: its file marks a checkpoint as whole.
        self.add_callback(KeepLowerLevel(self))
        self.add_callback(CheckpointsInOrder())

    def _check_prompt(self) -> None:
        """Whether the first prompt is rendered as its options say, and leaves the openings to the policy."""
        dataset: Any = self.train_dataset
        if dataset is None or isinstance(dataset, IterableDataset):  # a stream is read once
            return
        prefixes = {group.name: group.prefix for group in self.response_groups}
        options: Any = self.args.chat_template_kwargs or {}
        check_trainable(self.processing_class, dataset[0]["prompt"], prefixes, options, "chat_template_kwargs")

    def _values_of(self, column: str) -> set[str] | None:
        """The distinct values of a column that a budget is sliced by, as text; None for a stream."""
        dataset: Any = self.train_dataset
        known: list[str] | None = dataset.column_names
        if known is not None and column not in known:
            raise IbpoError(f"IBPOConfig: budget: the data set has no column {column!r}; {nearest(column, known)}")
        if isinstance(dataset, IterableDataset):
            return None
        try:
            return {text_of(value) for value in dataset.unique(column)}
        except NotImplementedError:  # pyarrow's
            raise IbpoError(
                f"IBPOConfig: budget: the column {column!r} holds lists or tables, and a slice needs one value a row; "
                "name another column, or add one with that value"
            ) from None

    def _check_columns(self, inputs: list[dict], columns: set[str]) -> None:
        """Whether the first step's rows, of all ranks, have what budgets are sliced by: a stream's are known only here.

        Raises:
            IbpoError: where none has it, so that the budget would hold nobody.
        """
        known = set(gather_object([name for row in inputs for name in row]))
        for column in sorted(columns - known):
            raise IbpoError(
                f"IBPOConfig: budget: no row of the first step has a column {column!r}, so that no budget by it could "
                f"be kept; {nearest(column, known)}, or set remove_unused_columns=False if it was True"
            )

    # -- rollouts ------------------------------------------------------------------------------------------------

    def _roll_out(self, prompts: list[Prompt], trainer: GRPOTrainer) -> dict[str, Any]:
        """TRL's `rollout_func`: responses of the policy."""
        del trainer
        options: Any = self.args.chat_template_kwargs
        prompt_ids = [encode_prompt(self.processing_class, prompt, options) for prompt in prompts]
        if [] in prompt_ids:
            raise IbpoError(
                f"IBPOTrainer: the prompt {prompts[prompt_ids.index([])]!r} has no token, and nothing can be sampled "
                "behind it: leave such rows out of the data set"
            )
        self.handover.prompt_ids = prompt_ids
        return {"prompt_ids": prompt_ids, "completion_ids": sample_stratified(self, prompt_ids), "logprobs": None}

    # -- scored rows -> allocation -> weights --------------------------------------------------------------------

    def _calculate_rewards(
        self, inputs: list[dict], prompts: list, completions: list, completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        """TRL's rewards of all ranks; in training, the weights of the update follow from them."""
        rewards_per_func = self.reward_rows(inputs, prompts, completions, completion_ids_list)
        if not self.model.training:
            self._look_at_evaluation(inputs, completion_ids_list, rewards_per_func)
            return rewards_per_func
        score = self.scores(rewards_per_func)
        rows, batch, share = self._score_rows(inputs, completion_ids_list, score)
        selection, weights = weigh_responses(
            self.lower_level, batch, self.args, self.state.global_step, self.state.max_steps
        )
        self.handover.weights = weights
        view = StepView(
            names=[group.name for group in self.response_groups],
            budgets=self.budgets,
            stratified=self.args.stratified,
            utility=self.args.utility,
            rows=rows,
            batch=batch,
            score=score,
            share=share,
            selection=selection,
        )
        self._record(view, weights)
        return rewards_per_func

    def reward_rows(
        self, inputs: list[dict], prompts: list, completions: list, completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        """What each reward function says of the responses of all ranks: float [R, functions], NaN where it says None.

        Raises:
            IbpoError: for NaN and infinite rewards.
        """
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        check_finite(self.reward_funcs, self.reward_func_names, rewards_per_func)
        return rewards_per_func

    def scores(self, rewards_per_func: torch.Tensor) -> np.ndarray:
        """The weighted sum of the functions that apply to a response, NaN where none does: float [R]."""
        weighted = rewards_per_func * self.reward_weights.to(rewards_per_func)
        return weighted.nansum(1).where(~weighted.isnan().all(1), torch.nan).double().cpu().numpy()

    def _look_at_evaluation(
        self, inputs: list[dict], completion_ids_list: list[list[int]], rewards_per_func: torch.Tensor
    ) -> None:
        """`eval_ibpo/*` of all prompts of this evaluation so far: TRL logs what is there when it ends."""
        metrics, loader = self._metrics["eval"], self.callback_handler.eval_dataloader
        # TRL has logged the one before; what `predict` sampled it never logs.
        if loader is not self._evaluated or not any(key.startswith("ibpo/") for key in metrics):
            self._evaluated, dataset = loader, getattr(loader, "dataset", None)
            num_prompts = len(dataset) if isinstance(dataset, Sized) else None
            self.held_out = HeldOutView(self.groups, self.budgets, num_prompts)
        look_at_evaluation(self, inputs, completion_ids_list, rewards_per_func, self.held_out)
        metrics.update({key: [value] for key, value in self.held_out.metrics().items()})

    def _score_rows(
        self, inputs: list[dict], completion_ids_list: list[list[int]], score: np.ndarray
    ) -> tuple[list[dict[str, Any]], Batch, np.ndarray]:
        """What is known of every response of all ranks, as rows and as arrays, and the policy's choice [P, G]."""
        scored = [judge.scored for judge in self.judges]
        columns = {term.column for term in self.budgets if term.column}
        if columns and not self.lower_level.history:
            self._check_columns(inputs, columns)
        rows = gather_object(
            describe(inputs, completion_ids_list, self.groups, set(self.eos_token_ids), columns, scored)
        )
        for i in np.flatnonzero(np.isnan(score)):  # neither a gain nor a choice can be read from it
            rows[i] |= {"response_group": -1, "first_token_of": -1}
        prompt = np.arange(len(rows)) // self.num_generations
        features, share = look_at_prompts(self, self.handover.prompt_ids, prompt, with_features=self._needs_features)
        return rows, batch_of(rows, score, prompt, features), share

    def _record(self, view: StepView, weights: np.ndarray) -> None:
        """Metrics, the budget's offset, rollout log and guards."""
        step, metrics = self.state.global_step, self._metrics["train"]
        for key, value in view.metrics().items():
            metrics[key].append(value)
        if self.args.integral_gain and self.lower_level.steered is not None:
            if step >= STEER_AFTER * self.state.max_steps:
                self.lower_level.steer(view.selection, view.share, self.args.integral_gain)
            metrics["ibpo/budget_offset"].append(self.lower_level.budget_offset)
        if self.rollout_log and self.accelerator.is_main_process:
            self.rollout_log.append(step, view, weights)
        for warning in self.guards.look(step + 1, view):
            if self.accelerator.is_main_process:
                logger.warning("step %d: %s", step + 1, warning)

    # -- weights -> loss -----------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        """TRL's batch, its advantages replaced by weights per token [B, T], rows without any weight dropped."""
        self.handover.skips_scoring = self.model.training and self.beta == 0.0
        out = super()._generate_and_score_completions(inputs)
        self.handover.skips_scoring = False
        if not self.model.training:
            return out
        kept, weights = weighted_batch(
            out,
            self.handover.weights,
            self.groups,
            num_generations=self.num_generations,
            max_completion_length=self.max_completion_length,
            steps_per_generation=self.args.steps_per_generation or 1,
            num_updates=(self.args.steps_per_generation or 1) // self.args.gradient_accumulation_steps,
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
        if self.handover.skips_scoring:
            return torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device), None, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss of the rows that are imitated, and the KL penalty of those that were drawn for it."""
        imitated = inputs["advantages"].any(1) if inputs["advantages"].dim() > 1 else None
        if imitated is None or not self.model.training:
            return super()._compute_loss(model, inputs)
        index, size = imitated.nonzero()[:, 0], len(imitated)
        penalised = inputs["kl_weight"].any()
        several = self.accelerator.num_processes > 1
        if several:  # every rank brings as many rows, and a penalty if one does: each forward pass communicates
            most = self._gather(torch.stack([imitated.sum(), penalised.long()])).view(-1, 2).amax(0)
            index, penalised = (~imitated).long().argsort(stable=True)[: most[0]], most[1]
        if not len(index):
            index = imitated.new_zeros(1, dtype=torch.long)
        # - (1/P) sum_j [c_j log pi(prefix_j) + b_j log pi(completion_j | prefix_j)]
        parts = [index] if several else by_length(index, inputs["completion_mask"])  # several ranks must run alike
        losses = [super(IBPOTrainer, self)._compute_loss(model, take_rows(inputs, part)) for part in parts]
        # The normaliser of dr_grpo counts rows: undo what leaving some out changes.
        loss = torch.stack([part_loss * len(part) / size for part_loss, part in zip(losses, parts, strict=True)]).sum()
        # + (1/P) sum_j a_j sum_t KL(pi_0 || pi)
        penalty = loss.new_zeros(())
        if penalised:
            penalty = kl_penalty(model, self.reference_model, inputs, self.temperature, in_step=several)
        if self.args.kl_share > 0:  # the parts of an update add up, and TRL logs their mean
            whole = penalty.detach() * self.current_gradient_accumulation_steps
            self._metrics["train"]["ibpo/kl"].append(self._gather(whole).mean().item())
        return loss + penalty

    # -- the model that comes out ----------------------------------------------------------------------------------

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write this method's model card into `output_dir`, as TRL does at every checkpoint."""
        if self.is_world_process_zero():
            self.write_model_card(Path(str(self.args.output_dir)), model_name, dataset_name, tags)

    def write_model_card(
        self,
        directory: Path,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """Write a model card into a folder; its model is called like the folder unless `model_name` says otherwise."""
        write_model_card(
            directory,
            model_name or directory.name,
            get_config_model_id(self.model.config),
            self.response_groups,
            self.args,
            dataset=dataset_name,
            tags=[tags] if isinstance(tags, str) else tags or (),
        )

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all ranks, one after the other; every rank must bring the same shape."""
        gathered: Any = self.accelerator.gather(tensor)
        return gathered
