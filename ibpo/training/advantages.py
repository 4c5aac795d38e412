"""The allocation as advantages per token, for engines that take their advantages from a function of yours.

An engine with a policy gradient steps along sum_it A_it grad log pi(y_it | x_i, y_i,<t) where its batch is on-policy
(one update a batch, so that every ratio of probabilities is 1). With

    A_it = w_it / P,          w_it = c_i on the tokens that open response i, b_i on those behind them,

P prompts in the batch and the weights of `ibpo.training.lower_level.weigh_prefix_and_completion`, that is IBPO's step:
weighted SFT on what the allocation chose. The engine's own KL penalty takes the place of ours.

`AllocatedAdvantages` knows no engine. `allocate_skyrl` puts it into SkyRL's batch (0.3.0). SkyRL's
`register_advantage_estimator` is not the seam: what is registered there sees rewards and ids of prompts, and not what
the responses say, so it cannot know their response groups; `compute_advantages_and_returns` of its trainer sees all.
Nothing here imports TRL or an engine.

Letters: R responses, P prompts, T tokens of the longest response, D features.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from ibpo.budget import budget_table, check_distinct, parse_budget
from ibpo.errors import IbpoError
from ibpo.responses import encode_groups
from ibpo.training.budgets import read_budget
from ibpo.training.lower_level import UTILITIES, Batch, LowerLevel, Selection, weigh_prefix_and_completion
from ibpo.types import ResponseGroup

IMITATED = ("every_group", "chosen")
REDUCTIONS = ("token_mean", "seq_mean_token_sum_norm")
"""SkyRL's `loss_reduction`s that can be undone, so that the loss is the sum over responses divided by P."""


class AllocatedAdvantages:
    """Solves the budget over each batch, and says what every token of it weighs.

    Args:
        response_groups: Two or more; the first is the standard one.
        tokenizer: The policy's.
        budget: As `IBPOConfig.budget`: `{"extended": 0.5}`, `{"tokens": 200}`, `["extended=50%"]`; None: no budget.
        utility: Utility of `ibpo.training.lower_level.LowerLevel`; without features `group_mean` is the one.
        window: Batches over which the budget holds, and the gains are learnt.
        min_gain: Reward that leaving the standard group must promise; None: as `LowerLevel` has it.
        prefix_loss_weight: Weight of the tokens that choose the response group.
        completion_loss_weight: Weight of those behind them, where rewarded.
        imitate_completions: `every_group` or `chosen`.
        balance_groups: Weigh completions by their group's length, so that long ones do not drown the others.
        seed: Seed of ties.

    Raises:
        IbpoError: Groups that the tokenizer cannot distinguish, a budget that cannot be read, or another setting that
            is out of range.

    Example:
        The second response of prompt "a" thinks and is right; half of the prompts may think.

        >>> from ibpo.types import ResponseGroup
        >>> class Letters:  # a tokenizer of one token a letter
        ...     chat_template = None
        ...
        ...     def __call__(self, text, **options):
        ...         return {"input_ids": [ord(letter) for letter in text]}
        ...
        ...     def decode(self, ids, **options):
        ...         return "".join(map(chr, ids))
        >>> groups = [ResponseGroup(name="at_once", prefix="!"), ResponseGroup(name="think", prefix="?")]
        >>> advantages = AllocatedAdvantages(groups, Letters(), budget={"think": 0.5}, min_gain=0.1)
        >>> texts = ["!7", "?3+4=7", "!9", "?9"]
        >>> rows = advantages.weigh(["a", "a", "b", "b"], [list(map(ord, t)) for t in texts], [0.0, 1.0, 1.0, 1.0])
        >>> [row.round(2).tolist() for row in rows]
        [[0.0, 0.0], [0.5, 0.15, 0.15, 0.15, 0.15, 0.15], [0.5, 0.15], [0.0, 0.15]]
    """

    def __init__(
        self,
        response_groups: Sequence[ResponseGroup],
        tokenizer: Any,
        *,
        budget: Mapping[str, Any] | Sequence[str] | None,
        utility: str = "group_mean",
        window: int = 32,
        min_gain: float | None = None,
        prefix_loss_weight: float = 1.0,
        completion_loss_weight: float = 0.3,
        imitate_completions: str = "every_group",
        balance_groups: bool = False,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("window", window, 1),
            ("min_gain", 0 if min_gain is None else min_gain, 0),
            ("prefix_loss_weight", prefix_loss_weight, 0),
            ("completion_loss_weight", completion_loss_weight, 0),
            ("seed", seed, 0),
        ):
            whole = name in ("window", "seed")
            if not (isinstance(value, Integral if whole else Real) and least <= value < math.inf):
                kind = "a whole number" if whole else "a finite number"
                raise IbpoError(f"{name}: must be {kind} of at least {least}, got {value!r}")
        if imitate_completions not in IMITATED:
            raise IbpoError(f"imitate_completions: must be one of {', '.join(IMITATED)}, got {imitate_completions!r}")
        self.groups = encode_groups(response_groups, tokenizer)
        self._weights: dict[str, Any] = {
            "prefix_loss_weight": prefix_loss_weight,
            "completion_loss_weight": completion_loss_weight,
            "imitate_completions": imitate_completions,
            "imitate_denied": True,
            "balance_groups": balance_groups,
        }
        budgets = read_budget(_as_table(budget), self.groups.names, lambda column: None)
        sliced = next((term.key for term in budgets if term.column), None)
        if sliced:
            raise IbpoError(f"budget {sliced}: the batches have no columns to slice by; write a budget of all prompts")
        if utility not in UTILITIES:
            raise IbpoError(f"utility: must be one of {', '.join(UTILITIES)}, got {utility!r}")
        self.lower_level = LowerLevel(
            num_groups=len(response_groups),
            budgets=budgets,
            utility=utility,
            window=window,
            min_gain=min_gain,
            seed=seed,
        )
        self.step = 0
        """Batches so far; with `seed` it fixes the choice among ties, so all ranks must call alike."""
        self.selection: Selection | None = None
        """The last batch: what was chosen, prices, what is spent."""

    def weigh(
        self,
        prompt: Sequence[Hashable],
        completion_ids: Sequence[Sequence[int]],
        reward: Sequence[float],
        *,
        truncated: Sequence[bool] | None = None,
        features: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """The advantages A_it of a batch, the responses of all ranks and of several response groups to each prompt.

        Args:
            prompt: Whose response it is, [R].
            completion_ids: The responses' tokens, [R] of any length.
            reward: In [0, 1], [R]. NaN where none applies: then it is neither counted nor imitated.
            truncated: [R]: which were cut off; they earn nothing and are not imitated.
            features: [P, D], in the order in which prompts come first, for utilities that learn gains.

        Returns:
            Per response as many numbers as it has tokens.

        Raises:
            IbpoError: Arrays of different lengths, or a reward that is not a number.
        """
        if not 0 < len(prompt) == len(completion_ids) == len(reward):
            raise IbpoError(
                f"{len(prompt)} prompts, {len(completion_ids)} responses and {len(reward)} rewards; give one of each "
                "for every response"
            )
        names = list(dict.fromkeys(prompt))
        index = {name: place for place, name in enumerate(names)}
        try:
            rewards = np.asarray(reward, float)
        except (TypeError, ValueError):
            raise IbpoError("a reward is not a number; give numbers in [0, 1], or NaN where none applies") from None
        if np.isinf(rewards).any():
            raise IbpoError("a reward is infinite; give numbers in [0, 1], or NaN where none applies")
        cut = np.zeros(len(prompt), bool) if truncated is None else np.asarray(truncated, bool)
        if cut.shape != (len(prompt),):
            raise IbpoError(f"truncated: needs one truth value for each of {len(prompt)} responses, got {cut.shape}")
        if features is not None and (np.ndim(features) != 2 or len(features) != len(names)):
            raise IbpoError(
                f"features: need one row for each of {len(names)} prompts, in the order in which they come first, got "
                f"shape {np.shape(features)}"
            )
        if features is not None and not np.isfinite(features).all():
            raise IbpoError("features: some are NaN or infinite, and no gain could be learnt from them; leave them out")
        width, before = 0 if features is None else np.shape(features)[1], self.lower_level.history
        if before and before[-1][0].shape[1] != width:
            raise IbpoError(
                f"features: {width} numbers a prompt, and {before[-1][0].shape[1]} in the batches before; give the "
                "same number in all of them"
            )
        group = np.array([self.groups.index_of(ids) for ids in completion_ids])
        batch = Batch(
            prompt=np.array([index[name] for name in prompt]),
            response_group=np.where(np.isnan(rewards), -1, group),
            reward=np.where(cut | np.isnan(rewards), 0.0, rewards),
            tokens=np.array([len(ids) for ids in completion_ids], float),
            features=np.zeros((len(names), 0)) if features is None else np.asarray(features, float),
            truncated=cut,
        )
        self.selection = self.lower_level.solve(batch, self.step)
        self.step += 1
        weights = weigh_prefix_and_completion(self.selection, batch, **self._weights) / max(1, len(names))
        rows: list[np.ndarray] = []
        for ids, (of_prefix, of_completion) in zip(completion_ids, weights, strict=True):
            row = np.full(len(ids), of_completion)
            row[: self.groups.num_opening_tokens(ids)] = of_prefix
            rows.append(row)
        return rows

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed training needs to go on exactly, as arrays by name (`numpy.savez`)."""
        return {**self.lower_level.state(), "step": np.array(self.step)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The inverse of `state`."""
        self.step = int(arrays["step"])
        self.lower_level.restore({name: value for name, value in arrays.items() if name != "step"})


def _as_table(budget: Mapping[str, Any] | Sequence[str] | None) -> Mapping[str, Any]:
    if budget is None or isinstance(budget, Mapping):
        return budget or {}
    if isinstance(budget, str) or not all(isinstance(text, str) for text in budget):
        raise IbpoError(f"budget: needs entries like {{'extended': 0.5}}, or a list of texts, got {budget!r}")
    budgets = [parse_budget(text) for text in budget]
    check_distinct(budgets)
    return budget_table(budgets)


def allocate_skyrl(advantages: AllocatedAdvantages, batch: Any, *, loss_reduction: str, max_seq_len: int = 0) -> None:
    """Replace the advantages of a SkyRL batch (`TrainingInputBatch`), in place.

    To be called at the end of the trainer's `compute_advantages_and_returns`:

        class BudgetTrainer(RayPPOTrainer):
            def compute_advantages_and_returns(self, data):
                data = super().compute_advantages_and_returns(data)
                algorithm = self.cfg.trainer.algorithm
                allocate_skyrl(
                    self.advantages, data, loss_reduction=algorithm.loss_reduction, max_seq_len=algorithm.max_seq_len
                )
                return data

    with one update a batch (`policy_mini_batch_size` = `train_batch_size`, `update_epochs_per_batch` = 1) and without
    normalised advantages. SkyRL divides by the tokens of the batch or by a constant; that is undone, so that the loss
    is

        - (1/P) sum_i sum_t w_it log pi(y_it | x_i, y_i,<t)

    Args:
        advantages: Solves the budget; it takes this batch in.
        batch: With `sequences`, `response_mask`, `loss_mask` and `rewards`, right-aligned, and `metadata["uids"]`.
        loss_reduction: SkyRL's setting, one of `REDUCTIONS`.
        max_seq_len: SkyRL's setting, for `seq_mean_token_sum_norm`.

    Raises:
        IbpoError: Another reduction, steps of trajectories, or no `max_seq_len`.
    """
    import torch

    if loss_reduction not in REDUCTIONS:
        raise IbpoError(
            f"loss_reduction: {loss_reduction!r} divides by each response's own length, which no weight undoes for all "
            f"tokens alike; take {' or '.join(REDUCTIONS)}"
        )
    if batch.metadata.get("is_last_step") is not None:
        raise IbpoError("step_wise_trajectories: a response of several steps has no response group; turn it off")
    mask = batch["response_mask"].bool()
    num_rows = len(mask) - int(batch.metadata.get("pad_size", 0) or 0)  # repeated rows, so that ranks get equally many
    tokens = batch["sequences"][:, -mask.shape[1] :]
    ids = [tokens[i][mask[i]].tolist() for i in range(num_rows)]
    rewards = batch["rewards"][:num_rows].sum(-1).tolist()
    rows = advantages.weigh(list(batch.metadata["uids"])[:num_rows], ids, rewards)
    if loss_reduction == "token_mean":
        scale = float(batch["loss_mask"].sum())
    else:
        if max_seq_len < 1:
            raise IbpoError("max_seq_len: give the setting that seq_mean_token_sum_norm divides by")
        scale = float(len(mask) * max_seq_len)
    found = torch.zeros_like(batch["response_mask"], dtype=torch.float32)
    for i, row in enumerate(rows):
        found[i, mask[i]] = torch.tensor(row, dtype=torch.float32) * scale
    batch["advantages"], batch["returns"] = found, found.clone()
