"""What would each response group gain on a new prompt, and cost? Learned from logs, for models that you cannot train.

In the order of reading: `fit` (from a log to a router), `features` (what it looks at), `router` (its file and its
scores), `evaluate` (what it is worth on problems that it has not seen).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibpo.routing.evaluate import check_routed, default_budgets, evaluate_router, score_unseen
    from ibpo.routing.features import as_text
    from ibpo.routing.fit import PROMPTS, RoutedLog, embedder, fit_router, read_routed_log
    from ibpo.routing.router import Embed, Router, Scores, load_router, save_router

_HOME = {
    "PROMPTS": "fit",
    "Embed": "router",
    "RoutedLog": "fit",
    "Router": "router",
    "Scores": "router",
    "as_text": "features",
    "check_routed": "evaluate",
    "default_budgets": "evaluate",
    "embedder": "fit",
    "evaluate_router": "evaluate",
    "fit_router": "fit",
    "load_router": "router",
    "read_routed_log": "fit",
    "save_router": "router",
    "score_unseen": "evaluate",
}
__all__ = [
    "PROMPTS",
    "Embed",
    "RoutedLog",
    "Router",
    "Scores",
    "as_text",
    "check_routed",
    "default_budgets",
    "embedder",
    "evaluate_router",
    "fit_router",
    "load_router",
    "read_routed_log",
    "save_router",
    "score_unseen",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ibpo.routing.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ibpo.routing' has no attribute {name!r}")
