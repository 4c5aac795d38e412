"""What of TRL is refused, and why: it would be another gradient, or have no effect, without a word.

`tests/training/test_trl_contract.py` pins what is relied on; `make test-newest-trl` runs it with the newest TRL.
"""

from __future__ import annotations

from typing import Any

import trl
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from ibpo.errors import IbpoError

LOSS_TYPE = "dr_grpo"
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
