"""Callbacks of the trainer: the lower level's state in every checkpoint, and the averaging of weights."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ibpo.training.lower_level import Cells

if TYPE_CHECKING:
    from ibpo.training.trainer import IBPOTrainer

STATE_FILE = "ibpo_state.npz"


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


class KeepLowerLevel(TrainerCallback):
    """Saves the window of the lower level and the feedback beside each checkpoint, and restores them exactly."""

    def __init__(self, trainer: IBPOTrainer) -> None:
        self.trainer = trainer

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the state of the lower level into the checkpoint that was just saved."""
        directory = _checkpoint(args, state)
        if not state.is_world_process_zero or not directory.is_dir():
            return
        arrays: dict[str, Any] = {"adjustment": np.array(self.trainer.adjustment)}
        sliced = any(term.column for term in self.trainer.lower_level.budgets)
        for i, (features, cells, member) in enumerate(self.trainer.lower_level.history):
            arrays |= {f"{i:04d}_features": features} | ({f"{i:04d}_member": member} if sliced else {})
            arrays |= {f"{i:04d}_{field.name}": getattr(cells, field.name) for field in fields(Cells)}
        partial = directory / "ibpo_state.partial.npz"
        np.savez(partial, **arrays)
        os.replace(partial, directory / STATE_FILE)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After a resume, read it back, and go on with the order of the prompts where it was left."""
        if self.trainer.data_order is not None:
            self.trainer.data_order.epoch = int((state.epoch or 0.0) + 1e-6) if state.global_step else 0
        path = _checkpoint(args, state) / STATE_FILE
        if state.global_step == 0 or not path.exists():
            return
        with np.load(path, allow_pickle=False) as arrays:
            self.trainer.adjustment = float(arrays["adjustment"])
            lower_level = self.trainer.lower_level
            lower_level.history.clear()
            for i in range(sum(name.endswith("_features") for name in arrays.files)):
                cells = Cells(**{field.name: arrays[f"{i:04d}_{field.name}"] for field in fields(Cells)})
                everywhere = np.ones((len(cells.value), len(lower_level.budgets)), bool)
                member = arrays[f"{i:04d}_member"] if f"{i:04d}_member" in arrays.files else everywhere
                lower_level.history.append((arrays[f"{i:04d}_features"], cells, member))


class AverageWeights(TrainerCallback):
    """Averages the weights of the last steps and puts the average into the model when training ends.

    The share that a policy spends swings by some points from step to step; the average holds still.
    """

    def __init__(self, share: float) -> None:
        self.share, self.count = share, 0
        self.mean: dict[str, torch.Tensor] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Take the weights in, once the last part of the training has begun."""
        if state.global_step <= (1.0 - self.share) * state.max_steps:
            return
        self.count += 1
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue
                if name not in self.mean:
                    self.mean[name] = parameter.detach().clone()
                else:
                    self.mean[name] += (parameter.detach() - self.mean[name]) / self.count

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the running average in the checkpoint."""
        directory = _checkpoint(args, state)
        if self.count and directory.is_dir() and state.is_world_process_zero:
            torch_free: dict[str, Any] = {name: tensor.float().cpu().numpy() for name, tensor in self.mean.items()}
            partial = directory / "averaged.partial.npz"
            np.savez(partial, count=np.array(self.count), **torch_free)
            os.replace(partial, directory / "averaged.npz")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """After a resume, go on from the kept average."""
        path = _checkpoint(args, state) / "averaged.npz"
        if state.global_step == 0 or not path.exists():
            return
        with np.load(path, allow_pickle=False) as arrays:
            self.count = int(arrays["count"])
            for name, parameter in model.named_parameters():
                if name in arrays.files:
                    self.mean[name] = torch.from_numpy(arrays[name]).to(parameter)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Swap the average in."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self.mean:
                    parameter.copy_(self.mean[name])
