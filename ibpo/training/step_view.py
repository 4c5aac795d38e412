"""What one step looked like, for metrics, guards and ledger: the responses of all ranks, and what was made of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibpo.responses.groups import EncodedGroups
from ibpo.rewards.constraints import NOT_TRUNCATED
from ibpo.training.budgets import BudgetTerm
from ibpo.training.lower_level import Batch, Selection, group_values
from ibpo.types import ScoredResponse

MAX_LEVELS = 12
"""More distinct levels than this in a batch are no levels, and get no metrics."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepView:
    """R responses to P prompts from K response groups, of all ranks."""

    names: Sequence[str]
    """Of the response groups."""
    budgets: Sequence[BudgetTerm]
    stratified: bool
    rows: Sequence[dict[str, Any]]
    """What is known of each response, as the trainer gathers it."""
    batch: Batch
    """What the lower level saw; its rewards are 0 where a response is truncated or violates a constraint."""
    score: np.ndarray
    """float [R]: reward as the reward functions gave it."""
    truncated: np.ndarray
    """bool [R]."""
    share: np.ndarray
    """float [P, K]: with what probability the policy opens a response of each group."""
    selection: Selection

    @property
    def violating(self) -> np.ndarray:
        """Bool [R]: may not be chosen."""
        return ~np.broadcast_to(self.batch.allowed, self.score.shape)

    @property
    def margin(self) -> np.ndarray:
        """Float [R]: reward less the mean reward of the other groups' responses to the prompt; NaN without any."""
        group, prompt = self.batch.response_group, self.batch.prompt
        cells = group_values(self.batch, len(self.names))
        total, mine = np.nan_to_num(cells.value * cells.count), (prompt, np.maximum(group, 0))
        count = cells.count.sum(1)[prompt] - cells.count[mine]
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

    def metrics(self) -> dict[str, float]:
        """What goes to TRL's `report_to`, all but what training keeps to itself."""
        chosen, share, selection = self.selection.chosen, self.share, self.selection
        found = {f"ibpo/share/{name}": float(share.mean(0)[g]) for g, name in enumerate(self.names)}
        for k, term in enumerate(self.budgets):
            found[f"ibpo/spent/{term.key}"] = float(selection.spent[k])
            found[f"ibpo/allowed/{term.key}"] = float(selection.allowed[k])
            found[f"ibpo/price/{term.key}"] = float(selection.price[k])
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


def describe(
    inputs: Sequence[dict],
    completion_ids: Sequence[list[int]],
    groups: EncodedGroups,
    eos: Collection[int],
    columns: Collection[str],
    scored: Sequence[Sequence[ScoredResponse]],
) -> list[dict[str, Any]]:
    """What all ranks have to know of each of this rank's responses.

    Args:
        inputs: the data set's row of each response.
        completion_ids: the responses.
        groups: the response groups.
        eos: ids that end a response.
        columns: that budgets are sliced by.
        scored: of each judge, one per response.
    """
    first_tokens = [prefix[0] for prefix in groups.prefix_ids]
    return [
        {
            "problem_id": str(row.get("problem_id", "")),
            "level": str(row.get("level", "")),
            "slices": {column: str(row.get(column, "")) for column in columns},
            "response_group": groups.index_of(ids),
            "opening": first_tokens.index(ids[0]) if ids[0] in first_tokens else -1,
            "tokens": len(ids),
            "finish_reason": "stop" if ids[-1] in eos else "length",
            "violations": sorted({name for judged in scored for name in judged[i].violations}),
        }
        for i, (row, ids) in enumerate(zip(inputs, completion_ids, strict=True))
    ]


def batch_of(rows: Sequence[dict[str, Any]], score: np.ndarray, prompt: np.ndarray, features: np.ndarray) -> Batch:
    """What the lower level sees of the responses that all ranks have gathered.

    A truncated response is neither right nor wrong: it earns nothing, and its opening may still be chosen. One that
    violates a constraint earns nothing and can't be chosen (Xu et al. 2024, CGPO, section 3).
    """
    truncated = np.array([row["finish_reason"] == "length" for row in rows])
    violating = np.array([bool(set(row["violations"]) - {NOT_TRUNCATED.name}) for row in rows])
    per_prompt = rows[:: len(rows) // len(features)]
    return Batch(
        prompt=prompt,
        response_group=np.array([row["response_group"] for row in rows]),
        reward=np.where(truncated | violating, 0.0, score),
        tokens=np.array([row["tokens"] for row in rows], float),
        features=features,
        slices={column: np.array([row["slices"][column] for row in per_prompt]) for column in rows[0]["slices"]},
        allowed=~violating,
    )
