"""Policies whose parameters are split among processes (FSDP, ZeRO-3): what works, what is refused, and pi_0."""

from __future__ import annotations

from typing import Any

from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import create_model_from_path, get_config_model_id

from ibpo.errors import IbpoError
from ibpo.training.initial_policy import frozen_copy
from ibpo.training.settings import IBPOConfig


def is_sharded(trainer: Any) -> bool:
    """Whether each process holds only a part of every parameter."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return bool(trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3))


def check_sharding(args: IBPOConfig) -> None:
    """Refuse what would wait for ever, or write a part of the weights for the whole.

    Raises:
        IbpoError: with the reason and the mend.
    """
    if not args.use_vllm:
        raise IbpoError(
            "IBPOConfig: with sharded parameters (FSDP, ZeRO-3) rollouts need use_vllm=True: a forward pass gathers "
            "parameters from all ranks, and ranks whose responses end sooner would leave the others waiting"
        )
    if args.averaging > 0:
        raise IbpoError("IBPOConfig: averaging needs whole parameters; with FSDP or ZeRO-3 set averaging=0")


def make_initial_policy(trainer: Any) -> Any:
    """pi_0: a frozen copy of the policy; loaded anew and sharded like the policy where that is sharded.

    The parameters of a sharded model are in parts from the moment it is loaded (ZeRO-3), or on one rank only (FSDP):
    copying it would copy nothing.
    """
    if not is_sharded(trainer):
        return frozen_copy(trainer.accelerator.unwrap_model(trainer.model))
    model = create_model_from_path(get_config_model_id(trainer.model.config), dtype=trainer.model.dtype)
    model.eval().requires_grad_(False)
    return (prepare_deepspeed if trainer.is_deepspeed_enabled else prepare_fsdp)(model, trainer.accelerator)
