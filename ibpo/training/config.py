"""What IBPO adds to TRL's settings, what of TRL it refuses and why, and the relatives of IBPO as presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trl
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from ibpo.budget import TOKENS, budget_table, check_budget, parse_budget_table
from ibpo.errors import IbpoError
from ibpo.training.budgets import CONFIG, NOT_BEFORE_SAMPLING

LOSS_TYPE = "dr_grpo"
GUARD_MODES = ("stop", "warn", "off")
IMITATED = ("chosen", "every_group", "rewarded")


@dataclass
class IBPOConfig(GRPOConfig):
    """`trl.GRPOConfig` and what IBPO adds. One dial: `budget`."""

    loss_type: str = field(
        default=LOSS_TYPE, metadata={"help": "Its normaliser is a constant, as weighted SFT needs; no other is taken."}
    )
    vllm_importance_sampling_correction: bool = field(
        default=False,
        metadata={"help": "Stays off: it would weigh what is imitated by who sampled it."},
    )
    budget: dict[str, float | str] | None = field(
        default=None,
        metadata={
            "help": "Response group -> largest share of prompts it may answer, as 0.5, '50%' or '1/2'; `tokens` -> "
            "mean tokens per prompt; `extended>=` -> least share; `extended@domain=law`, `extended@domain`: within a "
            "slice, within each. Several hold together; see ibpo.budget. None: no budget; see ibpo.training.config."
        },
    )
    utility: str = field(default="regression", metadata={"help": "See ibpo.training.lower_level.LowerLevel."})
    stratified: bool = field(
        default=True,
        metadata={"help": "Force the opening tokens of rollouts so that every response group is seen on every prompt."},
    )
    imitate_denied: bool = field(
        default=True,
        metadata={"help": "Imitate the choice of the response group on every prompt, not only where it was rewarded."},
    )
    choice_weight: float = field(default=1.0, metadata={"help": "Weight of the tokens that open a response."})
    body_weight: float = field(default=0.02, metadata={"help": "Weight of the other tokens, where rewarded."})
    imitate_bodies: str = field(
        default="chosen",
        metadata={
            "help": "Whose other tokens are imitated: `chosen`, the response that the allocation chose, or "
            "`every_group`, the best of each response group: all may get better, whatever the budget gives them; or "
            "`rewarded`, every rewarded response, with its opening tokens (RFT; without a budget)."
        },
    )
    anchor_share: float = field(
        default=0.5,
        metadata={
            "help": "Share of the prompts on which one response of each response group is held near the initial policy."
        },
    )
    anchor_weight: float = field(
        default=3.0, metadata={"help": "Strength of that hold at the end: weight of the KL divergence."}
    )
    anchor_weight_start: float = field(
        default=0.05,
        metadata={"help": "Strength of that hold at the start, while the choice forms; see ibpo.training.loss."},
    )
    window: int = field(
        default=64,
        metadata={"help": "Batches that the regression and the allocation look at (not `reward` and `margin`)."},
    )
    price: str | None = field(
        default=None,
        metadata={
            "help": "`running`: the budget holds over the window, `batch`: in each batch; None: running, but batch for "
            "the utilities `reward` and `margin`. See ibpo.training.lower_level.LowerLevel."
        },
    )
    unsampled: str = field(
        default="zero",
        metadata={
            "help": "Margin where no other response group was sampled: `zero`, `mean` (less the others' mean on other "
            "prompts) or `raise`; see ibpo.reward_margin."
        },
    )
    min_gain: float = field(default=0.03, metadata={"help": "Reward that leaving the standard group must promise."})
    feedback: float = field(
        default=0.06,
        metadata={"help": "Gain of the feedback from the share really spent to the share allotted; 0: off."},
    )
    averaging: float = field(default=0.0, metadata={"help": "Share of the last steps whose weights are averaged."})
    guards: str = field(
        default="stop",
        metadata={"help": "`stop`, `warn` or `off`: what ibpo.training.monitoring may do about what goes wrong."},
    )
    sampling_batch_size: int = field(
        default=256, metadata={"help": "Responses that are decoded at once; fewer need less memory."}
    )
    ledger_dir: str | None = field(default=None, metadata={"help": "Where the ledger's Parquet shards go."})

    def __post_init__(self) -> None:
        """Refuse, with the reason, what would break the identity with weighted SFT or be left undone."""
        super().__post_init__()
        for name, reason in refused_settings(self).items():
            raise IbpoError(f"IBPOConfig: {name} {reason}")
        if self.imitate_bodies not in IMITATED:
            raise IbpoError(
                f"IBPOConfig: imitate_bodies must be one of {', '.join(IMITATED)}, got {self.imitate_bodies!r}"
            )
        if self.imitate_bodies == "rewarded" and self.budget:
            raise IbpoError(
                "IBPOConfig: imitate_bodies=rewarded imitates the choice of every rewarded response, so that a budget "
                "would decide nothing: leave budget out, or take every_group"
            )
        if self.guards not in GUARD_MODES:
            raise IbpoError(f"IBPOConfig: guards must be one of {', '.join(GUARD_MODES)}, got {self.guards!r}")
        if self.sampling_batch_size < 1:
            raise IbpoError(f"IBPOConfig: sampling_batch_size must be at least 1, got {self.sampling_batch_size}")
        if self.budget is not None:
            self.budget = _checked(self.budget)


def _checked(budget: Any) -> dict[str, float | str]:
    """What can be said of a budget before the response groups are known; keys as `Budget.key` writes them."""
    if not isinstance(budget, Mapping) or not budget:
        raise IbpoError(
            f"IBPOConfig: budget: needs entries like {{'extended': 0.5}}, got {budget!r}; no budget is budget=None"
        )
    budgets = parse_budget_table(budget, CONFIG)
    for one in budgets:
        check_budget(one, groups=None, costs=(TOKENS,), refused=NOT_BEFORE_SAMPLING, where=f"{CONFIG}{one}")
    return budget_table(budgets)


def check_groups(names: list[str], args: IBPOConfig) -> None:
    """Refuse response groups that do not fit the settings.

    Raises:
        IbpoError: with the mend.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise IbpoError(f"IBPOTrainer: at least two response groups of different names are needed, got {names}")
    if args.stratified and (args.num_generations or 0) % len(names):
        raise IbpoError(
            f"IBPOConfig: num_generations={args.num_generations} must be a multiple of the {len(names)} response groups"
        )


VERIFIED_TRL = "1.16"
"""Minor release of TRL that the tests run with; pyproject.toml pins the same."""
REFUSED_ARGUMENTS = {
    "rollout_func": "rollouts are opened by the response groups; reward_funcs and vLLM are yours to choose",
    "tools": "a response is one turn, told by its opening tokens",
    "environment_factory": "a response is one turn, told by its opening tokens",
}
"""Arguments of `trl.GRPOTrainer` that IBPOTrainer does not take -> why."""


def check_trl() -> None:
    """Refuse a TRL that is not verified: what changed in its loss would be a wrong gradient, not an error.

    Raises:
        IbpoError: with both versions and the mend.
    """
    major, minor = map(int, VERIFIED_TRL.split("."))
    if trl.__version__.split(".")[:2] != VERIFIED_TRL.split("."):
        raise IbpoError(
            f"IBPOTrainer: trl {trl.__version__} is installed, and the update is verified with {VERIFIED_TRL} alone: "
            f"pip install 'trl>={VERIFIED_TRL},<{major}.{minor + 1}'"
        )


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
    """Refuse images, and a mixture of experts' own loss, once TRL has loaded the model.

    Raises:
        IbpoError: with the mend.
    """
    columns = getattr(trainer.train_dataset, "column_names", None) or []
    if not isinstance(trainer.processing_class, PreTrainedTokenizerBase) or {"image", "images"} & set(columns):
        raise IbpoError(
            "IBPOTrainer: rollouts are of text alone: pass a tokenizer as processing_class, and remove the data set's "
            "columns image and images"
        )
    if trainer.aux_loss_enabled:
        raise IbpoError(
            "IBPOTrainer: this mixture of experts adds its router's loss, which would be of the imitated responses "
            "only: set router_aux_loss_coef=0.0"
        )


def refused_settings(args: GRPOConfig) -> dict[str, str]:
    """Options of TRL that have a value under which the update would not be weighted SFT, or without effect -> why."""
    parts, per_rollout = args.gradient_accumulation_steps, args.steps_per_generation or 1
    updates = max(1, per_rollout // parts)
    full = "the policy's choice is read from the full distribution, and responses are drawn from it"
    own = "rollouts by transformers are IBPO's own"
    wrong = {
        "loss_type": (args.loss_type != LOSS_TYPE, f"must be {LOSS_TYPE}: its normaliser is a constant"),
        "num_iterations": (args.num_iterations != 1, "must be 1: the weights are of this step's responses"),
        "beta": (args.beta != 0.0, "must be 0: the anchor is anchor_weight"),
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
            "must be False: it drops the openings too, which are imitated; bodies that are cut off never are",
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
        "use_liger_kernel": (args.use_liger_kernel, "must be False: it takes no weights per token"),
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
        "save_steps": (
            args.save_strategy == "steps" and args.save_steps % updates != 0,
            f"must be a multiple of {updates}: a checkpoint between two updates of one rollout is not resumed exactly",
        ),
    }
    return {name: reason for name, (broken, reason) in wrong.items() if broken}


RAFT: dict[str, Any] = {
    "budget": None,
    "utility": "reward",
    "stratified": False,
    "imitate_denied": False,
    "choice_weight": 1.0,
    "body_weight": 1.0,
    "anchor_share": 0.0,
    "feedback": 0.0,
}
"""One response per prompt, of those with the largest reward, weighed by it (Dong et al. 2023, arXiv 2304.06767)."""

RFT: dict[str, Any] = {**RAFT, "imitate_bodies": "rewarded"}
"""Every rewarded response (Yuan et al. 2023, arXiv 2308.01825), of this step's policy; equal ones are not left out."""

UNCONSTRAINED: dict[str, Any] = {"budget": None, "feedback": 0.0}
"""IBPO's gains and update with all that one may spend: each prompt gets the response group that gains most."""
