"""What IBPO adds to TRL's settings, with the defaults of README's tables; what of TRL it refuses, and why; presets.

`RAFT`, `RFT` and `UNCONSTRAINED` are relatives of IBPO without a budget, as settings of the same trainer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from transformers import PreTrainedTokenizerBase, SchedulerType
from trl import GRPOConfig

from ibpo.budget import TOKENS, budget_table, check_budget, check_distinct, parse_budget, parse_budget_table
from ibpo.errors import IbpoError
from ibpo.training.budgets import CONFIG, NOT_BEFORE_SAMPLING

LOSS_TYPE = "dr_grpo"
GUARD_MODES = ("stop", "warn", "off")
IMITATED = ("chosen", "every_group", "rewarded")
HELD_UP = "warmup_stable_decay"
RANGES: dict[str, tuple[float, float]] = {
    "kl_share": (0.0, 1.0),
    "averaging": (0.0, 1.0),
    "min_gain": (0.0, math.inf),  # of the rewards' unit: beyond 1 where they are not in [0, 1]
    "prefix_loss_weight": (0.0, math.inf),
    "completion_loss_weight": (0.0, math.inf),
    "kl_weight_start": (0.0, math.inf),
    "kl_weight": (0.0, math.inf),
    "integral_gain": (0.0, math.inf),
    "window": (1, math.inf),
}
"""What the settings can be."""
RENAMED = {
    "anchor_share": "kl_share",
    "anchor_weight": "kl_weight",
    "anchor_weight_start": "kl_weight_start",
    "body_weight": "completion_loss_weight",
    "choice_weight": "prefix_loss_weight",
    "feedback": "integral_gain",
    "imitate_bodies": "imitate_completions",
    "ledger_dir": "rollout_log_dir",
}
"""Field of earlier versions -> its name now; the old one is refused with the new one."""


def held_up_schedule(max_steps: int) -> dict[str, Any]:
    """TRL's settings of a learning rate that is held up, and comes down in the last third.

    The choice of the response group stays as it was for some eighty updates, then forms within thirty: a learning rate
    that has come down by then leaves it blurred (docs/log.md).
    """
    return {
        "lr_scheduler_type": HELD_UP,
        "lr_scheduler_kwargs": {"num_decay_steps": round(0.35 * max_steps), "min_lr_ratio": 0.03},
        "warmup_steps": 5,
    }


@dataclass
class IBPOConfig(GRPOConfig):
    """Settings of `IBPOTrainer`: those of `trl.GRPOConfig`, and what IBPO adds. The one to set is `budget`.

    Defaults are those of README's tables: what both experiments share, and of the KL penalty and the completions'
    weight the values of *thinking*. What depends on the task: those weights, and whether groups weigh alike.
    """

    loss_type: str = field(
        default=LOSS_TYPE, metadata={"help": "Its normaliser is a constant, as weighted SFT needs; no other is taken."}
    )
    vllm_importance_sampling_correction: bool = field(
        default=False,
        metadata={"help": "Stays off: it would weigh what is imitated by who sampled it."},
    )
    lr_scheduler_type: SchedulerType | str = field(
        default=HELD_UP,
        metadata={"help": "The learning rate is held up until the last third (`linear` without `max_steps`)."},
    )
    warmup_steps: float = field(default=5, metadata={"help": "As TRL's."})
    # With `str`, as TRL has it: its parser and that of transformers give this class a table as a text of JSON.
    budget: dict[str, float | str] | str | None = field(
        default=None,
        metadata={
            "help": "Response group -> largest share of prompts it may answer, as 0.5, '50%' or '1/2'; `tokens` -> "
            "mean tokens per prompt; `extended>=` -> least share; `extended@domain=law`, `extended@domain`: within a "
            "slice, within each. Several hold together; see ibpo.budget. A list of texts as on the command line is "
            "taken, too: ['extended=50%']. None: no budget; see UNCONSTRAINED."
        },
    )
    utility: str = field(default="regression", metadata={"help": "See ibpo.training.lower_level.LowerLevel."})
    min_gain: float | None = field(
        default=None,
        metadata={
            "help": "Reward that leaving the standard group must promise. None: estimated; prompts that promise less "
            "gain nothing significant together (.08 for other utilities than the regression)."
        },
    )
    window: int = field(
        default=128,
        metadata={"help": "Batches that the regression and the allocation look at (not `reward` and `margin`)."},
    )
    price: str | None = field(
        default=None,
        metadata={
            "help": "`running`: the budget holds over the window, `batch`: in each batch; None: running, but batch for "
            "the utilities `reward` and `margin`. See ibpo.training.lower_level.LowerLevel."
        },
    )
    integral_gain: float = field(
        default=0.1,
        metadata={
            "help": "Gain of the integral control that offsets the budget (one share, or else the tokens of all "
            "prompts) by what the policy really spends; 0: off."
        },
    )
    stratified: bool = field(
        default=True,
        metadata={"help": "Force the prefixes of rollouts so that every response group is seen on every prompt."},
    )
    imitate_denied: bool = field(
        default=True,
        metadata={"help": "Imitate the choice of the response group on every prompt, not only where it was rewarded."},
    )
    imitate_completions: str = field(
        default="every_group",
        metadata={
            "help": "Which responses are imitated beyond their prefix, where rewarded: `chosen`, the one that the "
            "allocation chose; `every_group`, the best of each response group: all may get better, whatever the budget "
            "gives them; `rewarded`, every rewarded response, with its prefix (RFT; without a budget)."
        },
    )
    prefix_loss_weight: float = field(
        default=1.0, metadata={"help": "Weight of the tokens that open a response, and choose its group."}
    )
    completion_loss_weight: float = field(
        default=0.3, metadata={"help": "Weight of the tokens behind them, where rewarded."}
    )
    balance_groups: bool = field(
        default=False,
        metadata={
            "help": "Multiply the weights of completions and of the KL penalty by the length of the standard group's "
            "responses over their own group's: all groups weigh alike, however long they are. For tasks on which every "
            "group has much to learn."
        },
    )
    kl_share: float = field(
        default=1.0,
        metadata={
            "help": "Share of the prompts on which one response of each response group gets the KL penalty, which "
            "holds the policy near the reference model. 0: no penalty."
        },
    )
    kl_weight_start: float = field(
        default=0.1,
        metadata={"help": "Weight of the KL penalty at the start, while the choice forms; see ibpo.training.loss."},
    )
    kl_weight: float = field(default=0.25, metadata={"help": "Weight of the KL penalty at the end."})
    averaging: float = field(default=0.25, metadata={"help": "Share of the last steps whose weights are averaged."})
    guards: str = field(
        default="stop",
        metadata={"help": "`stop`, `warn` or `off`: what ibpo.training.monitoring may do about what goes wrong."},
    )
    sampling_batch_size: int = field(
        default=256, metadata={"help": "Responses that are decoded at once; fewer need less memory."}
    )
    rollout_log_dir: str | None = field(
        default=None, metadata={"help": "Where the rollout log's Parquet shards go; None: none is written."}
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> IBPOConfig:
        """Refuse names of earlier versions, which the generated `__init__` would call unexpected."""
        for old in sorted(RENAMED.keys() & kwargs.keys()):
            raise IbpoError(f"IBPOConfig: {old} is now called {RENAMED[old]}; write that")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Refuse, with the reason, what would break the identity with weighted SFT or be left undone."""
        if self.lr_scheduler_type == HELD_UP and self.lr_scheduler_kwargs is None:
            if self.max_steps > 0:
                self.lr_scheduler_kwargs = held_up_schedule(self.max_steps)["lr_scheduler_kwargs"]
            else:  # how many steps there will be is known only once the data set is
                self.lr_scheduler_type = "linear"
        super().__post_init__()
        _check_kinds(self)
        for name, reason in refused_settings(self).items():
            raise IbpoError(f"IBPOConfig: {name} {reason}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and math.isfinite(value)):  # NaN, too
                text = f"from {low:g} to {high:g}" if high < math.inf else f"finite and at least {low:g}"
                raise IbpoError(f"IBPOConfig: {name} must be {text}, got {value!r}; fix it")
        for name, known in (("imitate_completions", IMITATED), ("guards", GUARD_MODES)):
            if getattr(self, name) not in known:
                raise IbpoError(
                    f"IBPOConfig: {name} must be one of {', '.join(known)}, got {getattr(self, name)!r}; fix it"
                )
        if self.imitate_completions == "rewarded" and self.budget:
            raise IbpoError(
                "IBPOConfig: imitate_completions=rewarded imitates the choice of every rewarded response, so that a "
                "budget would decide nothing: leave budget out, or take every_group"
            )
        if self.sampling_batch_size < 1:
            raise IbpoError(f"IBPOConfig: sampling_batch_size must be at least 1, got {self.sampling_batch_size}")
        if self.budget is not None:
            self.budget = _checked(self.budget)


def _check_kinds(args: IBPOConfig) -> None:
    """Whether IBPO's own settings are numbers and truth values: a text like "false" would count as true."""
    kinds: dict[str, tuple[type, str]] = dict.fromkeys(RANGES, (Real, "a number"))
    kinds |= dict.fromkeys(("window", "sampling_batch_size"), (Integral, "a whole number"))
    kinds |= dict.fromkeys(("stratified", "imitate_denied", "balance_groups"), (bool, "True or False"))
    for name, (kind, said) in kinds.items():
        value = getattr(args, name)
        is_of_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not is_of_kind and not (value is None and name == "min_gain"):
            raise IbpoError(f"IBPOConfig: {name} must be {said}, got {value!r}; fix it")


def _checked(budget: Any) -> dict[str, float | str]:
    """What can be said of a budget before the response groups are known; keys as `Budget.key` writes them."""
    if isinstance(budget, str) and budget.startswith("{"):  # from a script's command line
        try:
            budget = json.loads(budget)
        except ValueError as error:
            raise IbpoError(f"IBPOConfig: budget: {budget!r} is not JSON: {error}; fix it") from None
    if not isinstance(budget, Mapping | list | tuple) or not budget:
        raise IbpoError(
            f"IBPOConfig: budget: needs entries like {{'extended': 0.5}}, or a list of texts like ['extended=50%'], "
            f"got {budget!r}; for no budget write budget=None"
        )
    if isinstance(budget, Mapping):
        budgets = parse_budget_table(budget, CONFIG)
    else:
        for text in budget:
            if not isinstance(text, str):
                raise IbpoError(f"IBPOConfig: budget: {text!r} is not text; write one like 'extended=50%'")
        budgets = [parse_budget(text, f"{CONFIG}{text}") for text in budget]
        check_distinct(budgets, CONFIG)
    for one in budgets:
        check_budget(one, groups=None, costs=(TOKENS,), refused=NOT_BEFORE_SAMPLING, where=f"{CONFIG}{one}")
    return budget_table(budgets)


RAFT: dict[str, Any] = {
    "budget": None,
    "utility": "reward",
    "min_gain": 0.0,
    "stratified": False,
    "imitate_denied": False,
    "imitate_completions": "chosen",
    "prefix_loss_weight": 1.0,
    "completion_loss_weight": 1.0,
    "balance_groups": False,
    "kl_share": 0.0,
    "integral_gain": 0.0,
}
"""One response per prompt, any of those with the largest reward whatever their groups, its completion weighed by it
(Dong et al. 2023, arXiv 2304.06767)."""

RFT: dict[str, Any] = {**RAFT, "imitate_completions": "rewarded"}
"""Every rewarded response (Yuan et al. 2023, arXiv 2308.01825), of this step's policy; equal ones are not left out."""

UNCONSTRAINED: dict[str, Any] = {"budget": None, "utility": "regression", "stratified": True, "integral_gain": 0.0}
"""IBPO's gains and update without a bound on what is spent: each prompt gets the response group that gains most."""


def check_groups(names: list[str], args: IBPOConfig) -> None:
    """Refuse response groups that do not fit the settings.

    Raises:
        IbpoError: with the fix.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise IbpoError(f"IBPOTrainer: at least two response groups of different names are needed, got {names}")
    for name in ("", TOKENS):
        if name in names:
            raise IbpoError(f"IBPOTrainer: a response group cannot be called {name!r}; give it another name")
    if args.stratified and (args.num_generations or 0) % len(names):
        raise IbpoError(
            f"IBPOConfig: num_generations={args.num_generations} must be a multiple of the {len(names)} response groups"
        )


REFUSED_ARGUMENTS = {
    "rollout_func": "rollouts begin with the response groups' prefixes; choose reward_funcs and vLLM instead",
    "tools": "a response is one turn, and its prefix says of which group",
    "environment_factory": "a response is one turn, and its prefix says of which group",
}
"""Arguments of `trl.GRPOTrainer` that IBPOTrainer does not take -> why."""


def check_arguments(args: GRPOConfig, given: dict[str, Any]) -> None:
    """Refuse, and take out of `given`, arguments of `trl.GRPOTrainer` that don't go together with response groups.

    Raises:
        IbpoError: with the reason.
    """
    for name, reason in REFUSED_ARGUMENTS.items():
        if given.pop(name, None) is not None:
            raise IbpoError(f"IBPOTrainer: {name} is not taken: {reason}; leave it out")
    if not hasattr(args, "budget"):
        raise IbpoError(f"IBPOTrainer: args must be an IBPOConfig, got {type(args).__name__}")


def check_inputs(trainer: Any) -> None:
    """Refuse images, a data set without one whole step, and a mixture of experts' own loss, once TRL has loaded all.

    Raises:
        IbpoError: with the fix.
    """
    columns = getattr(trainer.train_dataset, "column_names", None) or []
    if not isinstance(trainer.processing_class, PreTrainedTokenizerBase) or {"image", "images"} & set(columns):
        raise IbpoError(
            "IBPOTrainer: rollouts are of text alone: pass a tokenizer as processing_class, and remove the data set's "
            "columns image and images"
        )
    num_prompts = trainer.args.generation_batch_size // trainer.num_generations
    num_rows = len(trainer.train_dataset) if hasattr(trainer.train_dataset, "__len__") else None
    if num_rows is not None and num_rows < num_prompts:
        raise IbpoError(
            f"IBPOTrainer: the data set has {num_rows} rows and one step takes {num_prompts} prompts, so that nothing "
            "would be trained: give more rows, or lower per_device_train_batch_size or gradient_accumulation_steps"
        )
    if not any(parameter.requires_grad for parameter in trainer.model.parameters()):
        raise IbpoError(
            "IBPOTrainer: no weight of the model is trainable, so that nothing would be trained: let some of them "
            "require gradients, or leave inference_mode out of the adapter's settings"
        )
    if trainer.aux_loss_enabled:
        raise IbpoError(
            "IBPOTrainer: this mixture of experts adds its router's loss, which would be of the imitated responses "
            "only: set router_aux_loss_coef=0.0"
        )


def _cuts(steps: float, updates: int) -> bool:
    """Whether every so many steps fall between two of the updates of a rollout.

    Below 1 it is a part of the training, which transformers rounds up: with one update per rollout only.
    """
    return steps % updates != 0 if steps >= 1 else updates > 1


def refused_settings(args: GRPOConfig) -> dict[str, str]:
    """Options of TRL that have a value under which the update would not be weighted SFT, or without effect -> why."""
    parts, per_rollout = args.gradient_accumulation_steps, args.steps_per_generation or 1
    updates = max(1, per_rollout // parts)
    full = "the policy's choice is read from the full distribution, and responses are drawn from it"
    own = "rollouts by transformers are IBPO's own"
    between = f"must be a multiple of {updates}: a checkpoint between two updates of one rollout is not resumed exactly"
    wrong = {
        "loss_type": (args.loss_type != LOSS_TYPE, f"must be {LOSS_TYPE}: its normaliser is a constant"),
        "num_iterations": (args.num_iterations != 1, "must be 1: the weights are of this step's responses"),
        "beta": (args.beta != 0.0, "must be 0: the KL penalty is kl_weight"),
        "delta": (args.delta is not None, "must be None: nothing may be clipped"),
        "importance_sampling_level": (
            args.importance_sampling_level != "token",
            "must be token: a ratio per sequence would spread each token's weight over its whole response",
        ),
        "vllm_importance_sampling_correction": (
            args.vllm_importance_sampling_correction,
            "must be False: it weighs what is imitated by a clipped ratio, whoever sampled it",
        ),
        "off_policy_mask_threshold": (args.off_policy_mask_threshold is not None, "must be None: nothing is masked"),
        "mask_truncated_completions": (
            args.mask_truncated_completions,
            "must be False: it drops the prefixes too, which are imitated; completions that are cut off never are",
        ),
        "top_entropy_quantile": (args.top_entropy_quantile != 1.0, "must be 1: every token counts"),
        "entropy_coef": (
            args.entropy_coef != 0.0,
            "must be 0: the bonus would be of the imitated responses only, and rescaled; see ibpo/group_entropy",
        ),
        "use_adaptive_entropy": (args.use_adaptive_entropy, "must be False, as entropy_coef must be 0"),
        "router_aux_loss_coef": (
            bool(args.router_aux_loss_coef),
            "must be 0: it would be of the imitated responses only, and rescaled",
        ),
        "multi_objective_aggregation": (
            args.multi_objective_aggregation != "sum_then_normalize",
            "must be sum_then_normalize: gains are differences of the rewards' weighted sum",
        ),
        "scale_rewards": (
            args.scale_rewards not in ("group", "batch", "none", True, False),
            "must be group, batch or none; no update depends on it, as advantages are the allocation's weights",
        ),
        "reward_weights": (
            not all(map(math.isfinite, args.reward_weights or ())),
            "must be finite numbers: NaN would leave every response out",
        ),
        "use_liger_kernel": (args.use_liger_kernel, "must be False: it takes no weights per token"),
        "temperature": (
            not 0.0 < args.temperature < math.inf,
            "must be a number above 0: responses are drawn, and the policy's choice is read at it",
        ),
        "top_p": (args.top_p != 1.0, f"must be 1: {full}"),
        "top_k": (args.top_k > 0, f"must be 0: {full}"),
        "min_p": (bool(args.min_p), f"must be None: {full}"),
        "repetition_penalty": (args.repetition_penalty != 1.0, f"must be 1: {full}"),
        "generation_kwargs": (bool(args.generation_kwargs), f"must be None: {full}"),
        "cache_implementation": (args.cache_implementation is not None, f"must be None: {own}"),
        "use_transformers_continuous_batching": (
            args.use_transformers_continuous_batching,
            f"must be False: {own}, in batches of sampling_batch_size",
        ),
        "steps_per_generation": (
            per_rollout % parts != 0,
            f"must be a multiple of gradient_accumulation_steps={parts}, got {per_rollout}: the budget is solved "
            "over all accumulation steps of an update at once",
        ),
        "save_steps": (args.save_strategy == "steps" and _cuts(args.save_steps, updates), between),
        "eval_steps": (
            args.save_strategy == "best" and args.eval_strategy == "steps" and _cuts(args.eval_steps or 0, updates),
            f"{between}, and save_strategy=best saves where it evaluates",
        ),
        "enable_jit_checkpoint": (
            getattr(args, "enable_jit_checkpoint", False),
            "must be False: its checkpoint, in the middle of an update and without the budget's window, cannot be gone "
            "on from; a training that is killed goes on from its last one: lower save_steps",
        ),
        "load_best_model_at_end": (
            args.load_best_model_at_end and getattr(args, "averaging", 0.0) > 0,
            "must be False, or averaging=0: the average of the last steps would take the best model's place",
        ),
    }
    return {name: reason for name, (broken, reason) in wrong.items() if broken}
