"""The demo: two embedded experiments, whose language models are trained in minutes, from cold start to page.

`import ibpo.demo` loads nothing heavy; every name is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Experiment": "experiment",
    "EXPERIMENTS": "job",
    "THINKING": "thinking",
    "VOTING": "voting",
    "experiment_named": "job",
    "model_path": "embedded",
    "resolve_model": "embedded",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ibpo.demo.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ibpo.demo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
