"""What another budget would have chosen, from the ledger alone: exact allocation over the recorded utilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibpo.training.budgets import BudgetTerm
from ibpo.training.ledger_table import LedgerTable
from ibpo.training.solve import members, solve_within


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """The answer of one question."""

    assigned: np.ndarray
    """int [P]: the response group of each prompt; -1 where nothing was sampled."""
    price: np.ndarray
    """float [K budgets]: mean over the steps."""
    num_missed: int
    """Steps in which a budget could not be kept with the responses at hand."""


def replay(table: LedgerTable, budgets: Sequence[BudgetTerm], *, window: int, min_gain: float) -> Replay:
    """Allocate step by step as the trainer would have: over the last `window` steps, keeping the last one's part.

    Recorded utilities are those of their own step; the trainer regresses older ones anew each time, and follows the
    share that the policy really spends. So a replay of the run's own budget comes close to what was chosen, not equal.

    Args:
        table: the run.
        budgets: what may be spent; none: the best of each prompt.
        window: steps, at least 1.
        min_gain: what leaving the standard group must promise.
    """
    steps, start = np.unique(table.step, return_index=True)
    ends = [*start[1:].tolist(), len(table.step)]
    observed = ~np.isnan(table.utility)
    inside = members(budgets, table.columns, len(table.step))
    assigned, prices, num_missed = np.full(len(table.step), -1), [], 0
    for i in range(len(steps)):
        first, last = int(start[max(0, i - window + 1)]), ends[i]
        problem, group = np.nonzero(observed[first:last])
        if not len(problem):
            continue
        # As the trainer's: a gain of zero never spends budget.
        utility = table.utility[first:last][problem, group] - max(min_gain, 2e-6) * (group > 0)
        tokens = table.tokens[first:last][problem, group]
        weight, price, _, missed = solve_within(budgets, utility, problem, group, tokens, inside[first:last])
        mine = weight & (problem >= start[i] - first)
        assigned[first + problem[mine]] = group[mine]
        prices.append(price)
        num_missed += bool(missed)
    price = np.mean(prices, 0) if prices else np.zeros(len(budgets))
    return Replay(assigned=assigned, price=price, num_missed=num_missed)


def tokens_spent(table: LedgerTable) -> dict[str, float]:
    """What `bind_budgets` takes a run to have spent: mean tokens of its choices, and of its response groups."""
    of_group = np.nanmean(table.tokens, 0)
    now = summary(table, table.chosen_group)["tokens"]
    return {"now": now, "cheapest": float(of_group.min()), "most_expensive": float(of_group.max())}


def summary(table: LedgerTable, assigned: np.ndarray) -> dict[str, Any]:
    """What an assignment is worth: shares, mean reward and tokens of the groups' recorded responses.

    Rewards are those that the choice was made by: optimistic, the more so the fewer responses a cell has. `random_mix`
    gives the same shares to prompts at random.
    """
    has = assigned >= 0
    every = np.flatnonzero(has)
    share = [float(np.mean(assigned[has] == g)) if has.any() else 0.0 for g in range(len(table.names))]
    of_group = np.nanmean(table.reward, 0)
    return {
        "num_prompts": len(assigned),
        "share": dict(zip(table.names, share, strict=True)),
        "reward": float(np.nanmean(table.reward[every, assigned[has]])) if has.any() else 0.0,
        "tokens": float(np.nanmean(table.tokens[every, assigned[has]])) if has.any() else 0.0,
        "random_mix": float(np.dot(share, of_group)),
    }


def compare(table: LedgerTable, answer: Replay) -> dict[str, Any]:
    """The run beside the replay: overall, by level, and which choices change."""
    both = (table.chosen_group >= 0) & (answer.assigned >= 0)
    before, after = table.chosen_group[both], answer.assigned[both]
    changes = [
        {"from": table.names[a], "to": table.names[b], "share": float(np.mean((before == a) & (after == b)))}
        for a in range(len(table.names))
        for b in range(len(table.names))
        if a != b and np.any((before == a) & (after == b))
    ]
    levels = []
    for level in sorted(set(table.columns["level"].tolist()) - {""}):
        here = table.columns["level"] == level
        part = _part(table, here)
        levels.append(
            {
                "level": level,
                "recorded": summary(part, table.chosen_group[here]),
                "replayed": summary(part, answer.assigned[here]),
            }
        )
    return {
        "recorded": summary(table, table.chosen_group),
        "replayed": summary(table, answer.assigned),
        "changed": float(np.mean(before != after)) if both.any() else 0.0,
        "changes": changes,
        "by_level": levels,
    }


def _part(table: LedgerTable, here: np.ndarray) -> LedgerTable:
    arrays = ("step", "utility", "reward", "tokens", "chosen_group")
    return LedgerTable(
        names=table.names,
        settings=table.settings,
        columns={name: values[here] for name, values in table.columns.items()},
        price={key: values[here] for key, values in table.price.items()},
        **{name: getattr(table, name)[here] for name in arrays},
    )
