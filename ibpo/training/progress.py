"""What a training run shows while it goes: a bar with the remaining time, and a line of metrics for every step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ibpo.runs import write_text_atomic


class RecordMetrics(TrainerCallback):
    """Appends every log to `metrics.jsonl`; after a resume, lines of steps that are done again go."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines up to the step that training goes on from."""
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # cut off in the middle of a line
                continue
            if row["step"] <= state.global_step:
                kept.append(line + "\n")
        write_text_atomic(self.path, "".join(kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line."""
        row = {"step": state.global_step, **(logs or {})}
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")


class ShowProgress(TrainerCallback):
    """A progress bar on a terminal, a line per log elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[news]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("training", news="")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start, after a resume where it was left."""
        self.bar.update(self.task, total=state.max_steps, completed=state.global_step)
        self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One step further."""
        self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Say reward and shares, or the loss where there is no reward."""
        logs = logs or {}
        shares = [f"{k.removeprefix('ibpo/share/')} {v:.2f}" for k, v in logs.items() if k.startswith("ibpo/share/")]
        if "reward" in logs:
            news = f"reward {logs['reward']:.3f}, share {', '.join(shares)}"
        elif "loss" in logs:
            news = f"loss {float(logs['loss']):.3f}"
        else:
            return
        self.bar.update(self.task, news=news)
        if not self.console.is_terminal:
            self.console.print(f"step {state.global_step}/{state.max_steps}: {news}", highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the bar off, also after an error."""
        self.bar.stop()
