"""Guard rails: what commonly goes wrong in a training, said early with its mend; a stop where going on is senseless.

Every guard looks at one step at a time and remembers only for how many steps in a row it has had cause: a cause seen in
one step may be luck. Identical on every rank, as what they look at is.
"""

from __future__ import annotations

import numpy as np

from ibpo.errors import IbpoError
from ibpo.training.settings import GUARD_MODES
from ibpo.training.step_view import StepView

REPEAT = 50
"""Steps before a warning is said again."""
DYING, WANTED = 0.02, 0.05
"""A group that the policy opens less often, and the allocation gives more often, is dying out against the budget's
wish; an update sees it too rarely to bring it back."""
APART = 0.2
"""More probability than this outside of all response groups: the openings are not what the policy writes."""
BROKEN_OFF = 0.1
"""More responses than this that begin with a group's first token and then leave its prefix."""
CUT, MIN_RESPONSES = 0.3, 4
"""More truncated responses of a group than this, of at least so many."""
UNREWARDED = 0.1


class Guards:
    """Looks at each step; says what is wrong, or stops the training.

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
        """Warnings about this step, each one line with its mend.

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
            *self._openings(view),
            *self._truncation(view),
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
            bound, mend = ("at least", "lower") if term.at_least else ("at most", "raise")
            unit = "tokens per prompt" if term.group is None else "of the prompts"
            text = (
                f"{term.key}: {bound} {float(term.amount):g} {unit} cannot be kept with the responses at hand; the "
                f"nearest that can is {nearest or 0.0:.6g}: {mend} it to that"
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
                f"allocation on {allotted:.1%}; raise choice_weight or learning_rate, or go back to a checkpoint before"
            )
            cases += self._case(f"dying {name}", meant and share < DYING and allotted > WANTED, 10, 0, text)
            if view.stratified:
                continue
            unseen = not (view.batch.response_group == g).any()
            text = (
                f"no response of group {name} was sampled any more (the policy opens it on {share:.2%} of the "
                "prompts), and what is not sampled can't come back: set stratified=True, or begin again from an "
                "earlier checkpoint with a lower learning_rate"
            )
            cases += self._case(f"gone {name}", meant and unseen and share < DYING, 1, 5 if view.budgets else 0, text)
        text = (
            f"only {view.complete:.0%} of the prompts have a response of every response group, so that gains are "
            "guessed from other prompts: set stratified=True, or raise num_generations"
        )
        return cases + self._case("incomplete", len(view.budgets) > 0 and view.complete < 0.5, 3, 0, text)

    def _openings(self, view: StepView) -> list:
        outside = 1.0 - float(view.share.sum(1).mean())
        text = (
            f"the policy opens {outside:.0%} of its responses like no response group: its choice is not between them; "
            "fine-tune it on responses of every group first (ibpo.training.cold_start), or give the groups the "
            "prefixes that it writes by itself"
        )
        cases = self._case("outside", outside > APART, 3, 0, text)
        opening = np.array([row["opening"] for row in view.rows])
        broken = float(np.mean((opening >= 0) & (view.batch.response_group < 0)))
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

    def _rewards(self, view: StepView) -> list:
        nothing = not (view.batch.reward > 0).any()
        text = (
            "no response has earned a reward, so there is nothing to learn from: check that the reward function reads "
            "the answers of this format, or take easier prompts"
        )
        cases = self._case("no reward", nothing, 5, 50, text)
        low, high = float(np.nanmin(view.score)), float(np.nanmax(view.score))
        text = f"rewards range from {low:g} to {high:g}; gains, min_gain and body weights take them to be in [0, 1]"
        cases += self._case("range", low < 0 or high > 1, 1, 0, text)
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
