"""What one step of a training looked like, and who looks at it: metrics, guard rails, progress.

`StepView` holds the responses of all ranks and what was made of them; `Guards` warns or stops; `RecordMetrics` and
`ShowProgress` are callbacks of `ibpo train` and `ibpo cold-start`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ibpo.budget import amount_to_ask
from ibpo.errors import IbpoError
from ibpo.runs import write_text_atomic
from ibpo.training.budgets import BudgetTerm
from ibpo.training.config import GUARD_MODES
from ibpo.training.lower_level import FITTED, Batch, Selection, group_means

MAX_LEVELS = 12
"""More distinct levels than this in a batch are no levels, and get no metrics."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepView:
    """R responses to P prompts from G response groups, of all ranks."""

    names: Sequence[str]
    """Names of the response groups."""
    budgets: Sequence[BudgetTerm]
    stratified: bool
    utility: str
    """What the allocation values a response by, as `IBPOConfig.utility`."""
    rows: Sequence[dict[str, Any]]
    """What is known of each response, as the trainer gathers it."""
    batch: Batch
    """What the lower level saw; its rewards are 0 where a response is truncated or violates a constraint."""
    score: np.ndarray
    """float [R]: reward as the reward functions gave it; NaN where none of them applied."""
    share: np.ndarray
    """float [P, G]: with what probability the policy opens a response of each group."""
    selection: Selection

    @property
    def truncated(self) -> np.ndarray:
        """Bool [R]: was cut off."""
        return np.broadcast_to(self.batch.truncated, self.score.shape)

    @property
    def violating(self) -> np.ndarray:
        """Bool [R]: may not be chosen."""
        return ~np.broadcast_to(self.batch.allowed, self.score.shape)

    @property
    def margin(self) -> np.ndarray:
        """Float [R]: reward less the mean reward of the other groups' responses to the prompt; NaN without any."""
        group, prompt = self.batch.response_group, self.batch.prompt
        means = group_means(self.batch, len(self.names))
        total, mine = np.nan_to_num(means.value * means.count), (prompt, np.maximum(group, 0))
        count = means.count.sum(1)[prompt] - means.count[mine]
        with np.errstate(invalid="ignore", divide="ignore"):
            margin = self.batch.reward - (total.sum(1)[prompt] - total[mine]) / count
        return np.where((group >= 0) & (count > 0), margin, np.nan)

    def of_group(self, values: np.ndarray, group: int) -> float:
        """Mean over the responses of a group; NaN without any."""
        mine = self.batch.response_group == group
        return float(values[mine].mean()) if mine.any() else float("nan")

    @property
    def complete(self) -> float:
        """Share of the prompts that have a response of every group."""
        seen = np.zeros((len(self.share), len(self.names)), bool)
        known = self.batch.response_group >= 0
        seen[self.batch.prompt[known], self.batch.response_group[known]] = True
        return float(seen.all(1).mean())

    @property
    def agreement(self) -> float:
        """Cohen's kappa of the policy's choice and the allocation's, over the prompts that were assigned a group.

        (a - b) / (1 - b), with a the mean probability of the assigned group on its prompt, and b what that would be if
        the policy chose the same shares blindly. 0: it spends, but not where the allocation does; 1: it does as the
        allocation does everywhere. NaN where one group is assigned to all.
        """
        assigned = self.selection.assigned_group
        known = np.flatnonzero(assigned >= 0)
        share, assigned = self.share[known], assigned[known]
        if len(np.unique(assigned)) < 2:
            return float("nan")
        mean_assigned = np.bincount(assigned, minlength=share.shape[1]) / len(assigned)
        blind = float(share.mean(0) @ mean_assigned)
        followed = float(share[np.arange(len(share)), assigned].mean())
        return (followed - blind) / (1.0 - blind) if blind < 1.0 else float("nan")

    def metrics(self) -> dict[str, float]:
        """What goes to TRL's `report_to`, all but what training keeps to itself."""
        chosen, share, selection = self.selection.chosen, self.share, self.selection
        found = {f"ibpo/share/{name}": float(share.mean(0)[g]) for g, name in enumerate(self.names)}
        for k, term in enumerate(self.budgets):
            found[f"ibpo/spent/{term.key}"] = float(selection.spent[k])
            found[f"ibpo/allowed/{term.key}"] = float(selection.allowed[k])
            found[f"ibpo/price/{term.key}"] = float(selection.price[k])
        for g, name in enumerate(self.names[1:], start=1):
            found[f"ibpo/min_gain/{name}"] = float(selection.min_gain[g])
        found["ibpo/agreement"] = self.agreement
        found["ibpo/group_entropy"] = float(-(share * np.log(np.maximum(share, 1e-12))).sum(1).mean())
        found["ibpo/truncated"] = float(self.truncated.mean())
        found["ibpo/accepted"] = float(np.mean(self.batch.reward[chosen] > 0)) if chosen.any() else 0.0
        found["ibpo/complete"] = self.complete
        violations = [set(row["violations"]) for row in self.rows]
        for name in sorted(set().union(*violations)):
            found[f"ibpo/violates/{name}"] = float(np.mean([name in names for names in violations]))
        for g, name in enumerate(self.names):
            found[f"ibpo/truncated/{name}"] = self.of_group(self.truncated.astype(float), g)
            if self.violating.any():
                found[f"ibpo/violating/{name}"] = self.of_group(self.violating.astype(float), g)
            if self.stratified:
                # Forced whatever the prompt: what the group can do, not what it is chosen for.
                found[f"ibpo/forced_reward/{name}"] = self.of_group(self.score * ~self.truncated, g)
        level_of = [row["level"] for row in self.rows[:: len(self.rows) // len(self.share)]]
        levels = sorted(set(level_of) - {""})
        for level in levels if len(levels) <= MAX_LEVELS else []:
            here = np.array([x == level for x in level_of])
            for g, name in enumerate(self.names[1:], start=1):
                found[f"ibpo/share_by_level/{level}/{name}"] = float(share[here, g].mean())
        return {key: value for key, value in found.items() if not np.isnan(value)}


REPEAT = 50
"""Steps before a warning is said again."""
DYING, WANTED = 0.02, 0.05
"""A group that the policy opens less often, and the allocation gives more often, is dying out against the budget's
wish; an update sees it too rarely to bring it back."""
BLIND = 0.1
"""Less agreement than this with the allocation (`StepView.agreement`): what is spent is spent blindly."""
APART = 0.2
"""More probability than this outside of all response groups: the prefixes are not what the policy writes."""
BROKEN_OFF = 0.1
"""More responses than this that begin with a group's first token and then leave its prefix."""
CUT, MIN_RESPONSES = 0.3, 4
"""More truncated responses of a group than this, of at least so many."""
UNREWARDED = 0.1
ROUNDING = 1e-6


class Guards:
    """Guard rails: what commonly goes wrong is said early, with its fix; a stop where going on is senseless.

    Every guard looks at one step at a time and remembers only for how many steps in a row it has had cause: a cause
    seen in one step may be luck. Identical on every rank, as what they look at is.

    Args:
        mode: "stop", or "warn" where nothing ends the training; "off" looks at nothing.
    """

    def __init__(self, mode: str = "stop") -> None:
        if mode not in GUARD_MODES:
            raise ValueError(f"guards must be one of {', '.join(GUARD_MODES)}, got {mode!r}")
        self.mode = mode
        self._streak: dict[str, int] = {}
        self._said: dict[str, int] = {}

    def look(self, step: int, view: StepView) -> list[str]:
        """Warnings about this step, each one line with its fix.

        Args:
            step: number of the step, from 1.
            view: what it looked like.

        Raises:
            IbpoError: where going on is senseless: a budget that no allocation keeps, a group that is gone, only
                truncated responses of a group, responses of no group, no reward at all.
        """
        if self.mode == "off":
            return []
        found = [
            *self._budgets(step, view),
            *self._groups(view),
            *self._prefixes(view),
            *self._truncation(view),
            *self._readings(view),
            *self._rewards(view),
        ]
        warnings = []
        for name, wait, last, text in found:
            streak = self._streak[name]
            if self.mode == "stop" and last and streak >= last:
                kind = "budget: " if name.startswith("budget") else "IBPOTrainer: "
                since = f" (for {streak} steps)" if streak > 1 else ""
                raise IbpoError(f"{kind}in step {step}{since}: {text}")
            if streak >= wait and step - self._said.get(name, -REPEAT) >= REPEAT:
                self._said[name] = step
                warnings.append(text)
        return warnings

    def _case(self, name: str, has_cause: bool, wait: int, last: int, text: str) -> list[tuple[str, int, int, str]]:
        """Counts the steps in a row; a warning after `wait` of them, a stop after `last` (0: never)."""
        self._streak[name] = self._streak.get(name, 0) + 1 if has_cause else 0
        return [(name, wait, last, text)] if has_cause else []

    def _budgets(self, step: int, view: StepView) -> list:
        cases = []
        for k, term in enumerate(view.budgets):
            nearest = view.selection.missed.get(k)
            bound, fix = ("at least", "lower") if term.at_least else ("at most", "raise")
            unit = "tokens per prompt" if term.group is None else "of the prompts"
            text = (
                f"{term.key}: {bound} {float(term.amount):g} {unit} cannot be kept with these responses; the "
                f"nearest that can is {amount_to_ask(nearest or 0.0, at_least=term.at_least)}: {fix} it to that"
            )
            # At the first step nothing is lost yet; later, responses may have grown longer for a while.
            cases += self._case(f"budget {term.key}", nearest is not None, 1, 1 if step <= 1 else 20, text)
        return cases

    def _groups(self, view: StepView) -> list:
        cases = []
        capped = {t.group: t.amount for t in view.budgets if t.is_plain_share}
        for g, name in enumerate(view.names):
            share = float(view.share[:, g].mean())
            allotted = float(np.mean(view.selection.assigned_group == g))
            meant = capped.get(g, 1.0) >= WANTED
            text = (
                f"response group {name} is dying out: the policy opens it on {share:.1%} of the prompts, the "
                f"allocation on {allotted:.1%}; raise prefix_loss_weight or learning_rate, or go back to a checkpoint "
                "before"
            )
            cases += self._case(f"dying {name}", meant and share < DYING and allotted > WANTED, 10, 0, text)
            if view.stratified:
                continue
            unseen = not (view.batch.response_group == g).any()
            text = (
                f"no response of group {name} was sampled any more (the policy opens it on {share:.2%} of the "
                "prompts), and what is not sampled cannot come back: set stratified=True, or begin again from an "
                "earlier checkpoint with a lower learning_rate"
            )
            cases += self._case(f"gone {name}", meant and unseen and share < DYING, 1, 5 if view.budgets else 0, text)
        text = (
            "the policy chooses blindly: it may open its response groups as often as the allocation, but not on the "
            f"same prompts (agreement {view.agreement:.2f}; 0 is chance, 1 is the allocation's own choice); raise "
            "prefix_loss_weight, or train longer"
        )
        # Other utilities follow the luck of single responses, which no policy can.
        told = len(view.budgets) > 0 and view.utility in FITTED
        cases += self._case("blind", told and view.agreement < BLIND, 60, 0, text)
        text = (
            f"only {view.complete:.0%} of the prompts have a response of every response group, so that gains are "
            "guessed from other prompts: set stratified=True, or raise num_generations"
        )
        return cases + self._case("incomplete", len(view.budgets) > 0 and view.complete < 0.5, 3, 0, text)

    def _prefixes(self, view: StepView) -> list:
        outside = 1.0 - float(view.share.sum(1).mean())
        text = (
            f"the policy opens {outside:.0%} of its responses like no response group: its choice is not between them; "
            "fine-tune it on responses of every group first (ibpo.training.cold_start), or give the groups the "
            "prefixes that it writes by itself"
        )
        cases = self._case("outside", outside > APART, 3, 0, text)
        first_token_of = np.array([row["first_token_of"] for row in view.rows])
        broken = float(np.mean((first_token_of >= 0) & (view.batch.response_group < 0)))
        text = (
            f"{broken:.0%} of the responses begin with the first token of a response group and then leave its prefix: "
            "the first token alone does not separate the groups; shorten the prefixes to what they always begin with"
        )
        cases += self._case("broken off", broken > BROKEN_OFF, 3, 0, text)
        text = (
            "no response can be chosen: none opens like a response group and keeps the constraints; "
            "check the prefixes, or set stratified=True"
        )
        return cases + self._case("nothing chosen", not view.selection.chosen.any(), 1, 3, text)

    def _truncation(self, view: StepView) -> list:
        cases = []
        for g, name in enumerate(view.names):
            cut = view.of_group(view.truncated.astype(float), g)
            enough = int((view.batch.response_group == g).sum()) >= MIN_RESPONSES
            text = (
                f"{cut:.0%} of the responses of group {name} are cut off at max_completion_length, and count as wrong: "
                "raise it, or ask for shorter responses"
            )
            cases += self._case(f"cut {name}", enough and cut > CUT, 2, 0, text)
            text = (
                f"all responses of group {name} are cut off at max_completion_length: it can neither be rewarded nor "
                "imitated; raise max_completion_length"
            )
            cases += self._case(f"all cut {name}", enough and cut == 1.0, 1, 3, text)
        return cases

    def _readings(self, view: StepView) -> list:
        cases = []
        for g, name in enumerate(view.names):
            ended = (view.batch.response_group == g) & ~view.truncated
            why = [view.rows[i].get("unread", "") for i in np.flatnonzero(ended).tolist()]
            text = (
                f"no response of group {name} that ended gives an answer, so it earns nothing whatever the policy "
                f"knows: {next(iter(why), '')}; fix the group's reader or instruction, or cold-start the policy on "
                "its form"
            )
            cases += self._case(f"unread {name}", len(why) >= MIN_RESPONSES and all(why), 2, 0, text)
        return cases

    def _rewards(self, view: StepView) -> list:
        nothing = not (view.batch.reward > 0).any()
        text = (
            "no response has earned a reward, so there is nothing to learn from: check that the reward function reads "
            "the answers of this format, or take easier prompts"
        )
        cases = self._case("no reward", nothing, 5, 50, text)
        scored = view.score[~np.isnan(view.score)]
        low, high = (float(scored.min()), float(scored.max())) if len(scored) else (0.0, 0.0)
        text = f"rewards range from {low:g} to {high:g}; gains, min_gain and loss weights take them to be in [0, 1]"
        # Rewards are summed in single precision: ten functions of a tenth each come to a little more than 1.
        cases += self._case("range", low < -ROUNDING or high > 1 + ROUNDING, 1, 0, text)
        chosen = view.selection.chosen
        accepted = float(np.mean(view.batch.reward[chosen] > 0)) if chosen.any() else 1.0
        text = (
            f"only {accepted:.0%} of the chosen responses are rewarded: for the rest the choice of the response group "
            "is imitated without proof; take easier prompts, or set imitate_denied=False"
        )
        cases += self._case("unrewarded", not nothing and accepted < UNREWARDED, 10, 0, text)
        for g, name in enumerate(view.names):
            broken = view.of_group(view.violating.astype(float), g)
            text = f"every response of group {name} violates a constraint, so none can be chosen; see ibpo/violates/*"
            cases += self._case(f"violating {name}", broken == 1.0, 3, 0, text)
        return cases


class RecordMetrics(TrainerCallback):
    """Appends every log to `metrics.jsonl`; after a resume, lines of steps that are done again go."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines up to the step that training goes on from."""
        kept = []
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                is_before = json.loads(line)["step"] <= state.global_step
            except (ValueError, RecursionError, TypeError, KeyError):  # cut off in the middle of a line, or damaged
                continue
            if is_before:
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
            TextColumn("{task.fields[news]}", markup=False),
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
