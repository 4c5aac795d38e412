"""Exact resume: what a checkpoint holds besides TRL's state, the order of the prompts, and the averaging of weights."""

from __future__ import annotations

import errno
import json
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from ibpo.errors import IbpoError
from ibpo.runs import atomic_path, cannot_write
from ibpo.training.lower_level import FITTED
from ibpo.training.monitoring import Guards

if TYPE_CHECKING:
    from ibpo.training.trainer import IBPOTrainer

from torch.utils.data import Sampler
from trl import GRPOTrainer

STATE_FILE, AVERAGE_FILE = "ibpo_state.npz", "averaged.npz"
GROUPS = "response_groups"
"""Their names, in the file of the lower level's state."""
STATE_OF_ONE_PROCESS = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""What transformers saves with the weights, and silently begins again where it is missing."""


def check_checkpoint(checkpoint: Path, *, needed: Sequence[str] = ()) -> None:
    """Look through every file of a checkpoint that a training is to go on from, before anything is loaded.

    JSON is parsed, archives (all that `torch.save` and `numpy.savez` write) are compared with their checksums,
    weights with the lengths in their header; they have no checksum.

    Args:
        checkpoint: its folder.
        needed: names of files that have to be there.

    Raises:
        IbpoError: names the first file that is damaged or missing, and the earlier checkpoint if there is one.
    """
    # What begins with a dot was never finished, and nobody reads it.
    found = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    for path in (*found, *(checkpoint / name for name in needed)):
        if (why := _what_is_wrong(path)) is None:
            continue
        raise IbpoError(f"{path}: {why}; {_then(checkpoint)}")


def _then(checkpoint: Path) -> str:
    numbers = [other.name[11:] for other in (checkpoint, *checkpoint.parent.glob("checkpoint-*"))]
    own, *others = [int(number) if number.isdigit() else -1 for number in numbers]
    earlier = max((number for number in others if 0 <= number < own), default=None)
    then = "begins again" if earlier is None else f"continues from checkpoint-{earlier}"
    return f"remove {checkpoint} and run the same command again: it {then}"


class HasBegun(TrainerCallback):
    """Whether the first step has begun, and all of the checkpoint has been read."""

    def __init__(self) -> None:
        self.it = False

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Now it has."""
        self.it = True


def go_on(trainer: Any, checkpoint: Path | None, *, table: str = "") -> None:
    """Train, from a checkpoint where there is one.

    Args:
        trainer: to be trained.
        checkpoint: where it goes on from.
        table: of a recipe, whose settings are at fault where no step is begun.

    Raises:
        IbpoError: The disk is full; or the checkpoint holds no state of this training: a file may be whole and say
            nonsense; or the training cannot begin with these settings.
    """
    begun = HasBegun()
    trainer.add_callback(begun)
    try:
        with saving(Path(trainer.args.output_dir)):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except IbpoError:
        raise
    except Exception as error:
        if begun.it:
            raise
        if checkpoint is None:
            if not table:
                raise
            raise wrong_setting(table, error) from None
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
        raise IbpoError(f"{checkpoint}: is not a state of this training ({said}); {_then(checkpoint)}") from None


def wrong_setting(table: str, error: Exception) -> IbpoError:
    """One line of a recipe for what a library said of the settings that a table passed on to it.

    Raises:
        torch.cuda.OutOfMemoryError: is no matter of one setting.

    Example:
        >>> print(wrong_setting("trl", ValueError("no such optimiser")))
        trl: no such optimiser; fix that key
        >>> print(wrong_setting("trl", IbpoError("IBPOConfig: budget tokens=0.5x: is not known; write another")))
        budget: tokens=0.5x: is not known; write another
    """
    if isinstance(error, torch.cuda.OutOfMemoryError):
        raise error
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if not isinstance(error, IbpoError):
        return IbpoError(f"{table}: {said[:300]}; fix that key")
    said = re.sub(r"^IBPO(Config|Trainer): ", "", said)
    if re.match(r"budget\b", said):
        return IbpoError("budget: " + said.removeprefix("budget").lstrip(": "))
    return IbpoError(f"{table}: {said}")


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turn a full disk, while libraries save into a folder of the run, into one line that names the folder.

    Raises:
        IbpoError: what was whole before is whole, and the run goes on from there.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        number = _number_of(error)
        if number is None:
            raise
        raise cannot_write(folder, OSError(number, os.strerror(number))) from None


def _number_of(error: Exception) -> int | None:
    """The operating system's number of an error of the disk; None for any other error."""
    if isinstance(error, SafetensorError):
        found = re.search(r"I/O error: .*\(os error (\d+)\)", str(error))
        return int(found[1]) if found else None
    if isinstance(error, OSError):
        is_of_disk = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
        return error.errno if is_of_disk else None
    # `torch.save` says only that the file came out shorter than what was written.
    return errno.ENOSPC if "inline_container" in str(error) else None


class CheckpointsInOrder(TrainerCallback):
    """Keeps the times of checkpoints in the order of their steps, whatever the clock does, and removes old ones.

    Transformers takes the one with the earliest time for the oldest and removes it: were the clock set back, that would
    be the new one.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Before a checkpoint is saved: none is younger than it will be."""
        if not args.should_save:
            return
        now = time.time()
        for path in Path(str(args.output_dir)).glob("checkpoint-*"):
            if path.name[11:].isdigit() and path.stat().st_mtime > (
                most := now - (state.global_step - int(path.name[11:]))
            ):
                os.utime(path, (most, most))

    on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Once the files of all callbacks are there: see `ExactResume._save_checkpoint`."""
        if args.should_save:
            rotate_checkpoints(
                str(args.output_dir),
                save_total_limit=args.save_total_limit,
                best_model_checkpoint=state.best_model_checkpoint,
                use_mtime=True,
            )


def _what_is_wrong(path: Path) -> str | None:
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix in (".pt", ".pth", ".bin", ".npz"):
            with ZipFile(path) as archive:
                if (part := archive.testzip()) is not None:
                    return f"is damaged: {part} differs from its checksum"
        elif path.suffix == ".safetensors":
            with safe_open(path, "np"):
                pass
        else:
            path.stat()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except (
        ValueError,
        RecursionError,
        SafetensorError,
        BadZipFile,
        EOFError,
        NotImplementedError,
        zlib.error,
    ) as error:
        return f"is damaged: {str(error).partition(chr(10))[0][:100] or type(error).__name__}"
    return None


def _save(name: str, args: TrainingArguments, state: TrainerState, arrays: dict[str, Any]) -> None:
    """Write a file of the checkpoint that was just saved, whole or not at all, wherever TRL writes one."""
    directory = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
    if args.should_save and directory.is_dir():
        with atomic_path(directory / name) as partial:
            np.savez(partial, **arrays)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The arrays in a file of the checkpoint that the training goes on from.

    Raises:
        IbpoError: where it is not whole: the training would go on as another one.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        raise IbpoError(
            f"resume_from_checkpoint: {path}: cannot be read: this is not a whole checkpoint of this training; take an "
            "earlier one, or begin again with its weights: IBPOTrainer(model=FOLDER)"
        ) from None


class KeepLowerLevel(TrainerCallback):
    """Saves what the lower level carries from step to step next to each checkpoint, and restores it exactly."""

    def __init__(self, trainer: IBPOTrainer) -> None:
        self.trainer = trainer

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the state of the lower level into the checkpoint that was just saved."""
        _save(STATE_FILE, args, state, self.trainer.lower_level.state() | {GROUPS: np.array(self.trainer.groups.names)})

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After a resume, read it back, and go on with the order of the prompts where it was left."""
        trainer = self.trainer
        if trainer.data_order is not None:
            trainer.data_order.epoch = int((state.epoch or 0.0) + 1e-6) if state.global_step else 0
        # What an earlier training of this trainer left; interrupted in an update, TRL would go on in the middle of one.
        trainer._step, trainer._buffered_inputs = 0, None
        trainer._metrics["train"].clear()
        trainer.guards = Guards(trainer.args.guards)
        trainer.lower_level.forget()
        if state.global_step and trainer.resumed_from is not None:
            self._restore(trainer.resumed_from)
        if trainer.rollout_log and trainer.accelerator.is_main_process:  # last: a refused training removes nothing
            trainer.rollout_log.begin(state.global_step)

    def _restore(self, checkpoint: Path) -> None:
        trainer = self.trainer
        # One reads for all: ranks with different windows would allot differently, and none would notice.
        found: list[Any] = [None]
        if trainer.accelerator.is_main_process:
            try:
                with _reading(checkpoint / STATE_FILE) as file:
                    found = [dict(file)]
            except IbpoError as error:
                found = [str(error)]
        arrays = broadcast_object_list(found)[0]
        if isinstance(arrays, str):
            raise IbpoError(arrays)
        _check_window(arrays, trainer.groups.names, trainer.args.utility)
        trainer.lower_level.restore(arrays)


def _check_window(arrays: Mapping[str, np.ndarray], names: Sequence[str], utility: str) -> None:
    """Whether a training with these settings can go on with the window of a checkpoint.

    Raises:
        IbpoError: It was begun with other response groups, or another utility.
    """
    began = arrays.get(GROUPS, np.array(names)).tolist()  # older versions did not write them
    if began != list(names):
        text = f"the response groups {', '.join(began)}, and would go on with {', '.join(names)}"
    elif utility in FITTED and any(a.shape[1] == 0 for name, a in arrays.items() if name.endswith("_features")):
        text = f"another utility, which keeps no features of the prompts, and {utility} needs those of the window"
    else:
        return
    raise IbpoError(
        f"resume_from_checkpoint: the training was begun with {text}: keep what it was begun with, or begin again with "
        "its weights: IBPOTrainer(model=FOLDER)"
    )


class AverageWeights(TrainerCallback):
    """Averages the weights of the last steps and puts the average into the model when training ends.

    The share that a policy spends swings by some points from step to step; the average holds still. It is kept in
    single precision: in half of it a step's part would be rounded away.
    """

    def __init__(self, trainer: IBPOTrainer, share: float) -> None:
        self.trainer, self.share, self.count = trainer, share, 0
        self.mean: dict[str, torch.Tensor] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Take the weights in, once the last part of the training has begun."""
        if not self._has_begun(state):
            return
        self.count += 1
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue
                if name not in self.mean:
                    self.mean[name] = parameter.detach().clone().to(_precise(parameter))
                else:
                    self.mean[name] += (parameter.detach() - self.mean[name]) / self.count

    def _has_begun(self, state: TrainerState) -> bool:
        return state.global_step > (1.0 - self.share) * state.max_steps

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the running average in the checkpoint."""
        if self.count and args.should_save:
            arrays: dict[str, Any] = {name: tensor.float().cpu().numpy() for name, tensor in self.mean.items()}
            _save(AVERAGE_FILE, args, state, {"count": np.array(self.count), **arrays})

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """After a resume, go on from the kept average; a training that begins has none."""
        self.count, self.mean = 0, {}  # of an earlier training of this trainer
        if self.trainer.resumed_from is None or not self._has_begun(state):
            return
        with _reading(self.trainer.resumed_from / AVERAGE_FILE) as arrays:
            self.count = int(arrays["count"])
            for name, parameter in model.named_parameters():
                if name in arrays:
                    self.mean[name] = torch.from_numpy(arrays[name]).to(parameter.device, _precise(parameter))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Swap the average in."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self.mean:
                    parameter.copy_(self.mean[name])


def _precise(parameter: torch.Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


class DataOrder(Sampler):
    """TRL's `RepeatSampler`, in the order that an uninterrupted training would see.

    TRL draws one permutation per epoch from a generator that a resumed training seeds again: in its second epoch it
    would go through the prompts as in its first. Here the permutations of the epochs before are drawn and dropped.
    """

    def __init__(self, sampler: Any) -> None:
        """Wrap a `trl.trainer.utils.RepeatSampler`."""
        self.sampler = sampler
        self.epoch = 0
        """The next one to be gone through; whoever resumes sets it."""

    def __iter__(self) -> Iterator[int]:
        sampler = self.sampler
        if sampler.shuffle and sampler.seed is not None:
            sampler.generator.manual_seed(sampler.seed)
            for _ in range(self.epoch):
                torch.randperm(sampler.num_samples, generator=sampler.generator)
        self.epoch += 1
        yield from sampler

    def __len__(self) -> int:
        return len(self.sampler)


class ExactResume(GRPOTrainer):
    """Keeps the order of the prompts, and the checkpoint that the callbacks have to read their part from."""

    data_order: DataOrder | None = None
    resumed_from: Path | None = None

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self.data_order = DataOrder(super()._get_train_sampler(dataset))
        return self.data_order

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Transformers would remove the checkpoints before this one, which is whole only with our callbacks' files.

        Killed in between, or where the disk is full, a training with `save_total_limit=1` had nothing to go on from.
        """
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self.resumed_from = Path(checkpoint) if checkpoint else None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """None is left where a training was killed after its last checkpoint: transformers would add a step."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True
