"""IBPO: which response should each prompt get, so that the total stays inside an inference budget?

`import ibpo` loads numpy at most; the trainer and what needs torch are imported when they are first named.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Allocation": "ibpo.allocation",
    "Frontier": "ibpo.allocation",
    "InfeasibleBudget": "ibpo.allocation",
    "IBPOConfig": "ibpo.training.trainer",
    "IBPOTrainer": "ibpo.training.trainer",
    "IbpoError": "ibpo.errors",
    "Problem": "ibpo.types",
    "ResponseGroup": "ibpo.types",
    "Rollout": "ibpo.types",
    "ScoredResponse": "ibpo.types",
    "allocate": "ibpo.allocation",
    "frontier": "ibpo.allocation",
    "limit": "ibpo.allocation",
    "reward_margin": "ibpo.allocation",
    "share": "ibpo.allocation",
    "slices": "ibpo.allocation",
    "stack": "ibpo.allocation",
}
__all__ = [*sorted(_HOME), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ibpo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
