"""Progress of a training stage, told as the share of its steps that is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StepProgress(TrainerCallback):
    """Calls `tell(share done)` after every step."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self.tell = tell

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Tell."""
        self.tell(state.global_step / max(1, state.max_steps))
