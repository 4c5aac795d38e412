"""The demo: two embedded experiments, whose language models are trained in minutes, from cold start to page.

`import ibpo.demo` loads nothing heavy; every name is imported when it is first asked for. What `experiments/` of the
repository needs to spend the same budget in other ways is public here: the demo's jobs, its runner and its settings.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES_OF = {
    "experiments": ("EXPERIMENTS", "LONGEST_CHAIN", "THINKING", "VOTING", "Experiment", "experiment_named"),
    "models": ("model_path", "resolve_model"),
    "page": ("calibrated_choice", "training_steps", "write_outcome"),
    "policy": (
        *("NUM_SAMPLED", "StepProgress", "common_settings", "correctness_reward", "quiet_libraries", "run_job"),
        *("sample_policy", "sample_untrained", "settings_of", "train_policy"),
    ),
    "run": (
        "UNTRAINED",
        "DemoJob",
        "DemoSettings",
        "Job",
        "ModelJob",
        "check_settings",
        "plan_jobs",
        "run_jobs",
        "table_file",
    ),
}
_FILE_OF = {name: file for file, names in _NAMES_OF.items() for name in names}
__all__ = sorted(_FILE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _FILE_OF:
        return getattr(importlib.import_module(f"ibpo.demo.{_FILE_OF[name]}"), name)
    raise AttributeError(f"module 'ibpo.demo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
