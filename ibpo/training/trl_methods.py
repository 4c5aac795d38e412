"""The methods of TRL's trainer that IBPO overrides: compared at start with those that the update was verified with.

A method with the same source is what it was. One with another source may well be, and the user is warned. One that is
called in another way is not overridden by ours any more: the training would go on as plain GRPO, so it is refused.
`make test-newest-trl` tests what is relied on with the newest release, whose sources then join `VERIFIED`.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import textwrap
from collections.abc import Callable

import transformers
import trl

from ibpo.errors import IbpoError

logger = logging.getLogger("ibpo.training")

VERIFIED: dict[str, tuple[str, ...]] = {
    "_calculate_rewards": ("8ffa0c7ca9307c40",),
    "_compute_loss": ("765e782ef258696a",),
    "_generate_and_score_completions": ("8ad618f3882bc520",),
    "_get_per_token_logps_and_entropies": ("ddcb878f6df4bae5",),
    "_get_train_sampler": ("77de8ae531b5b0c4",),
    "_load_optimizer_and_scheduler": ("108fd4e5bf0dd4c8",),
    "_run_epoch": ("a0fca088bae61fb6",),
    "_save_checkpoint": ("6f5313d411006bd8",),
    "create_model_card": ("ac9227c98c713149",),
}
"""Overridden method -> fingerprints of its source in the releases that the tests have passed with: trl 1.16 with
transformers 5.23 and 5.24."""
_warned: set[tuple[str, ...]] = set()


def fingerprint(method: Callable[..., object]) -> str:
    """Hash of a method's source, without comments, blank lines and indentation."""
    lines = textwrap.dedent(inspect.getsource(method)).splitlines()
    kept = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def is_overridden_by(theirs: Callable[..., object], ours: Callable[..., object]) -> bool:
    """Whether ours can be called wherever theirs is: it takes the same parameters, or hands the rest on.

    Example:
        >>> def theirs(self, model, inputs, scale=1): ...
        >>> def same(self, model, inputs, scale=1): ...
        >>> def hands_on(self, model, *args, **kwargs): ...
        >>> def misses(self, model, inputs): ...
        >>> [is_overridden_by(theirs, ours) for ours in (same, hands_on, misses)]
        [True, True, False]
    """
    kinds = inspect.Parameter
    own, rest = [], set()
    for name, parameter in inspect.signature(ours).parameters.items():
        if parameter.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD):
            rest.add(parameter.kind)
        else:
            own.append(name)
    named = list(inspect.signature(theirs).parameters)
    return named[: len(own)] == own if len(rest) == 2 else named == own


def installed() -> str:
    """The releases that are compared."""
    return f"trl {trl.__version__} with transformers {transformers.__version__}"


def changed_methods(base: type, trainer: type) -> list[str]:
    """Names of TRL's methods that are called as before and have another source than those in `VERIFIED`.

    Args:
        base: TRL's class.
        trainer: ours, which overrides them.

    Raises:
        IbpoError: for a method that is gone or is called in another way.
    """
    changed = []
    for name, fingerprints in VERIFIED.items():
        theirs = getattr(base, name, None)
        if theirs is None or not is_overridden_by(theirs, getattr(trainer, name)):
            what = "has no" if theirs is None else "takes other parameters in"
            raise IbpoError(
                f"IBPOTrainer: {installed()} {what} {base.__name__}.{name}, which the update goes through: it would be "
                "another update than IBPO's; install a newer ibpo, or the trl and transformers of its constraints.txt"
            )
        if fingerprint(theirs) not in fingerprints:
            changed.append(name)
    return changed


def check_trl_methods(base: type, trainer: type) -> None:
    """Compare TRL's methods with the verified ones: silent, one warning, or a refusal.

    Args:
        base: TRL's class.
        trainer: ours, which overrides them.

    Raises:
        IbpoError: for a method that is gone or is called in another way.
    """
    changed = [f"{base.__name__}.{name}" for name in changed_methods(base, trainer)]
    if changed and tuple(changed) not in _warned:
        _warned.add(tuple(changed))
        logger.warning(
            "%s: the source of %s is not the one that IBPO's update is verified with; it is called as before and "
            "probably does the same: run `make test-newest-trl` in ibpo's source to check",
            installed(),
            ", ".join(changed),
        )
