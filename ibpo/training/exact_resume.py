"""TRL's trainer, whose resumed training goes on as the uninterrupted one would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl import GRPOTrainer

from ibpo.training.data_order import DataOrder


class ExactResume(GRPOTrainer):
    """Keeps the order of the prompts, and the checkpoint that the callbacks have to read their part from."""

    data_order: DataOrder | None = None
    resumed_from: Path | None = None

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self.data_order = DataOrder(super()._get_train_sampler(dataset))
        return self.data_order

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self.resumed_from = Path(checkpoint) if checkpoint else None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """None is left where a training was killed after its last checkpoint: transformers would add a step."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True
