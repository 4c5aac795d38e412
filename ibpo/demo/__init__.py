"""The demo: two embedded experiments, whose language models are trained in minutes, from cold start to page.

`import ibpo.demo` loads nothing heavy; every name is imported when it is first asked for. What `experiments/` of the
repository needs to spend the same budget in other ways is public here: the demo's jobs, its runner and its settings.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES_OF = {
    "experiments": ("EXPERIMENTS", "LONGEST_CHAIN", "THINKING", "VOTING", "Experiment", "experiment_named"),
    "job": (
        *("NUM_SAMPLED", "JobSpec", "progress_file", "quiet_libraries", "sample_baselines", "sample_policy", "teller"),
        "test_problems",
    ),
    "models": ("model_path", "resolve_model"),
    "page": ("calibrated_choice", "training_steps", "write_outcome"),
    "policy": ("StepProgress", "common_settings", "correctness_reward", "settings_of", "train_policy"),
    "run": ("DemoSettings", "check_settings", "plan_jobs", "run_jobs"),
}
_FILE_OF = {name: file for file, names in _NAMES_OF.items() for name in names}
__all__ = sorted(_FILE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _FILE_OF:
        return getattr(importlib.import_module(f"ibpo.demo.{_FILE_OF[name]}"), name)
    raise AttributeError(f"module 'ibpo.demo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
