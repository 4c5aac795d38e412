"""What IBPO adds to TRL's settings, and what it refuses of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import GRPOConfig

from ibpo.errors import IbpoError
from ibpo.training.budgets import check_amount
from ibpo.training.refusals import LOSS_TYPE, refused_settings

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
    budget: dict[str, float] | None = field(
        default=None,
        metadata={
            "help": "Response group -> largest share of prompts it may answer; `tokens` -> mean tokens per prompt; "
            "`extended>=` -> least share; `extended@domain=law`, `extended@domain`: within a slice, within each. "
            "Several hold together; see ibpo.training.budgets. None: no budget; see ibpo.training.presets."
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
        metadata={"help": "Strength of that hold at the start, while the choice forms; see ibpo.training.anchor."},
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
        metadata={"help": "`stop`, `warn` or `off`: what ibpo.training.guards may do about what goes wrong."},
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
        for key, amount in (self.budget or {}).items():
            check_amount(key, amount)


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
