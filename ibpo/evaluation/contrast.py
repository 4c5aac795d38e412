"""Configurations against each other on the same problems: cost, random mix, votes, oracles and held-out allocation.

Letters: P problems, C configurations, K points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ibpo.allocation.cells import ResponseCells
from ibpo.allocation.holdout import HoldoutRow, Pick, holdout_value
from ibpo.allocation.hull import envelope
from ibpo.allocation.ids import IntArray
from ibpo.errors import IbpoError
from ibpo.evaluation.describe import describe, natural, vote_sizes
from ibpo.evaluation.estimates import (
    Estimate,
    estimate_mean,
    estimate_rate,
    paired_difference,
    problem_means,
    ratio_of_means,
)
from ibpo.evaluation.metrics import FloatArray, mix_at_cost
from ibpo.evaluation.repeated import estimate_gain_ratio, vote_at_k
from ibpo.evaluation.responses import Responses

BUDGETS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Mean costs at which to allocate: that far from the cheapest to the dearest configuration."""
MAX_LEVELS = 12
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastOptions:
    """What a comparison is asked."""

    standard: str = ""
    """The configuration to which costs are relative; "": the cheapest."""
    among: Sequence[str] = ()
    """Configurations between which to allocate; empty: all whose responses are of one response group."""
    budgets: Sequence[float] = BUDGETS
    num_splits: int = 50
    seed: int = 0
    extended: str = "extended"


def contrast(responses: Responses, options: ContrastOptions | None = None) -> Json:
    r"""Everything that the report says of one part, as plain data for JSON.

    Only problems that every configuration answered count, so that all are compared on the same ones. A configuration
    whose cost is known for none of its responses is refused.

    Returns:
        `problems` (used, left out), `standard`, `levels`, `configurations` (numbers by slice; `relative_cost`,
        `difference` from the standard one, `gain_ratio` against its votes), `votes` (curves of maj@k), `mix` (corners
        of the best random mix and the straight line), `oracles` (by problem and by level, on responses without a say),
        `allocation` (a row per budget), `share_by_level` (of the middle budget), `budget_kept`, `notes`.

    Raises:
        IbpoError: for an unknown configuration, or no problem in common.
    """
    options = options or ContrastOptions()
    names = responses.configurations
    for name in (*options.among, *([options.standard] if options.standard else [])):
        if name not in names:
            raise IbpoError(f"{name}: no such configuration; there are {', '.join(names)}")
    responses, order, left_out = _common(coarse_levels(responses))
    by_name = {name: _cost(responses.of(name), order, name) for name in names}
    names = sorted(names, key=lambda name: float(by_name[name].mean()))  # cheapest first, everywhere in the report
    cost_CP = np.array([by_name[name] for name in names])
    standard = options.standard or names[0]
    notes = [f"{left_out} problems that not every configuration answered are left out"] if left_out else []
    reward_CP = np.array([problem_means(own.reward, own.problem, order) for own in map(responses.of, names)])
    base = names.index(standard)
    votes = {name: _votes(responses.of(name), order, cost_CP[c]) for c, name in enumerate(names)}
    rows = []
    for c, name in enumerate(names):
        own = responses.of(name)
        difference = paired_difference(reward_CP[c], reward_CP[base]) if c != base else None
        rows.append(
            {
                "name": name,
                "num_responses": len(own),
                "numbers": describe(own, extended=options.extended),
                "cost": estimate_mean(cost_CP[c], order, positive=True),
                "relative_cost": ratio_of_means(cost_CP[c], cost_CP[base]),
                "difference": difference,
                "gain_ratio": _gain_ratio(reward_CP[c], cost_CP[c], votes[standard], options.seed)
                if difference
                else None,
            }
        )
    among = list(options.among) or [name for name in names if len(set(responses.of(name).response_group)) == 1]
    found = _oracles(responses, order, among, options, notes) if len(among) > 1 else {}
    return _plain(
        {
            "num_problems": len(order),
            "num_left_out": left_out,
            "standard": standard,
            "levels": _levels(responses),
            "configurations": rows,
            "votes": {name: curve["points"] for name, curve in votes.items() if len(curve["points"]) > 1},
            "mix": _mix(cost_CP, reward_CP, [names.index(name) for name in among]) if len(among) > 1 else [],
            "among": among,
            "oracles": found.get("oracles", {}),
            "allocation": found.get("allocation", []),
            "share_by_level": found.get("share_by_level", {}),
            "budget_kept": _budget_kept(responses, options.extended),
            "notes": notes,
        }
    )


def coarse_levels(responses: Responses) -> Responses:
    """Levels that are more than twelve numbers, in four classes of about equally many problems.

    Example:
        >>> rows = [{"problem": i, "configuration": "c", "reward": 1, "level": i} for i in range(20)]
        >>> sorted(set(coarse_levels(Responses.from_rows(rows)).level), key=natural)
        ['0 to 4', '5 to 9', '10 to 14', '15 to 19']
    """
    texts = responses.level.astype(str)
    names = sorted(set(texts.tolist()) - {""}, key=natural)
    if len(names) <= MAX_LEVELS:
        return responses
    try:
        number_N = np.array([float(text) if text else np.nan for text in texts.tolist()])
    except ValueError:
        return responses
    _, first = np.unique(responses.problem.astype(str), return_index=True)
    edges = np.nanquantile(number_N[first], [0.25, 0.5, 0.75], method="higher")
    part_N = np.searchsorted(edges, number_N, side="right")
    level = np.empty(len(responses), dtype=object)
    for part in range(4):
        inside = (part_N == part) & ~np.isnan(number_N)
        if inside.any():
            level[inside] = f"{number_N[inside].min():g} to {number_N[inside].max():g}"
    level[np.isnan(number_N)] = ""
    columns = {name: getattr(responses, name) for name in Responses.__dataclass_fields__}
    return Responses(**(columns | {"level": level}))


def _common(responses: Responses) -> tuple[Responses, list[str], int]:
    answered = [set(responses.of(name).problem.astype(str).tolist()) for name in responses.configurations]
    common = set.intersection(*answered)
    if not common:
        raise IbpoError("no problem was answered by every configuration; compare runs on the same problems")
    keep = np.array([problem in common for problem in responses.problem.astype(str).tolist()])
    return responses.where(keep), sorted(common, key=natural), len(set.union(*answered)) - len(common)


def _cost(own: Responses, order: Sequence[str], name: str) -> FloatArray:
    known = ~np.isnan(own.tokens)
    if not known.any():
        raise IbpoError(f"{name}: no response has a cost; add its tokens, or leave the configuration out")
    cost_P = problem_means(own.tokens[known], own.problem[known], order)
    # A problem of unknown cost is taken to cost what the others do on average, so that it keeps its accuracy.
    return np.where(np.isnan(cost_P), np.nanmean(cost_P), cost_P)


def _votes(own: Responses, order: Sequence[str], cost_P: FloatArray) -> Json:
    """Points of the curve of maj@k with intervals, and accuracy and cost by problem `[K, P]`."""
    if not own.has_votes:
        return {"points": [], "accuracy": None, "cost": None}
    smallest = int(np.unique(own.problem.astype(str), return_counts=True)[1].min())
    points, accuracy_KP, cost_KP = [], [], []
    for k in sorted({*vote_sizes(smallest), *(k for k in (3, 5) if k <= smallest)}):
        problems, vote_P = vote_at_k(own.problem, own.answer, own.right, k)
        accuracy_P = problem_means(vote_P, problems, order)
        points.append({"k": k, "cost": k * float(cost_P.mean()), "accuracy": estimate_rate(accuracy_P, order)})
        accuracy_KP.append(accuracy_P)
        cost_KP.append(k * cost_P)
    return {"points": points, "accuracy": np.array(accuracy_KP), "cost": np.array(cost_KP)}


def _gain_ratio(reward_P: FloatArray, cost_P: FloatArray, votes: Json, seed: int) -> Estimate | None:
    if votes["accuracy"] is None or len(votes["points"]) < 2:
        return None
    return estimate_gain_ratio(reward_P, cost_P, votes["accuracy"], votes["cost"], seed=seed)


def _mix(cost_CP: FloatArray, reward_CP: FloatArray, among: Sequence[int]) -> list[Json]:
    """The best random mix of configurations on a grid between the cheapest and the dearest, and the straight line."""
    cost_C, reward_C = cost_CP[list(among)].mean(1), reward_CP[list(among)].mean(1)
    low, high = int(cost_C.argmin()), int(cost_C.argmax())
    points = []
    for cost in np.unique(np.concatenate([np.linspace(cost_C[low], cost_C[high], 41), cost_C])):
        at = min(max(float(cost), float(cost_C[low])), float(cost_C[high]))
        part = (at - cost_C[low]) / (cost_C[high] - cost_C[low]) if high != low else 0.0
        line = (1 - part) * reward_C[low] + part * reward_C[high]
        points.append({"cost": at, "best": float(mix_at_cost(cost_C, reward_C, at) @ reward_C), "line": float(line)})
    return points


def _oracles(
    responses: Responses, order: Sequence[str], among: Sequence[str], options: ContrastOptions, notes: list[str]
) -> Json:
    """Allocation at several budgets that one half of the responses decides and the other half values."""
    known = np.array([c in among for c in responses.configuration.tolist()]) & ~np.isnan(responses.tokens)
    own = responses.where(known)
    names, p_N = np.unique(own.problem.astype(str), return_inverse=True)
    c_N = np.array([list(among).index(c) for c in own.configuration.tolist()])
    count_PC = np.bincount(p_N * len(among) + c_N, minlength=len(names) * len(among)).reshape(len(names), len(among))
    thick = np.all(count_PC >= 2, axis=1)
    if thick.sum() < 2:
        notes.append("no held-out allocation: it takes two responses of every configuration to a problem")
        return {}
    if not thick.all() or len(names) < len(order):
        notes.append(f"held-out allocation on {int(thick.sum())} problems with two responses of every configuration")
    own = own.where(thick[p_N])
    arrays = (own.reward, own.problem.astype(str), own.configuration.astype(str), own.tokens)
    cells = ResponseCells.from_arrays(*arrays)
    level_of = dict(zip(own.problem.astype(str).tolist(), own.level.astype(str).tolist(), strict=True))
    level_P = np.array([level_of[str(problem)] for problem in cells.problems])
    mean_C = cells.mean_cost.mean(0)
    amounts = [float(mean_C.min() + f * (mean_C.max() - mean_C.min())) for f in options.budgets]
    more: Json = {"num_splits": options.num_splits, "seed": options.seed}
    by_problem = holdout_value(*arrays, [_by_problem(amount) for amount in amounts], **more)
    oracles = {"by problem": _curve(by_problem)}
    if len(set(level_P) - {""}) > 1:
        by_level = holdout_value(*arrays, [_by_level(amount, level_P) for amount in amounts], **more)
        oracles["by level"] = _curve(by_level)
    rows = [
        {"budget": amount, "fraction": fraction} | asdict(row) | {"budget": amount}
        for fraction, amount, row in zip(options.budgets, amounts, by_problem, strict=True)
    ]
    pick = _by_problem(amounts[len(amounts) // 2])(cells.mean_reward, cells.mean_cost)
    share_by_level = {
        level: {name: float(np.mean(pick[level_P == level] == g)) for g, name in enumerate(cells.response_groups)}
        for level in sorted(set(level_P) - {""}, key=natural)
    }
    return {"oracles": oracles, "allocation": rows, "share_by_level": share_by_level}


def _by_problem(amount: float) -> Pick:
    """The steps up each problem's concave envelope by falling gain per cost, as far as the budget goes.

    Within one problem's step of the optimum, which `ibpo.allocate` finds exactly; this is what hundreds of random
    halves can be asked in a second.
    """

    def pick(reward_PC: FloatArray, cost_PC: FloatArray) -> IntArray:
        num_problems, num_configurations = reward_PC.shape
        problem = np.repeat(np.arange(num_problems), num_configurations)
        steps = envelope(problem, reward_PC.ravel(), cost_PC.ravel())
        chosen = steps.base.copy()
        room = amount * num_problems - float(cost_PC.ravel()[chosen].sum())
        order = np.argsort(-steps.slope, kind="stable")  # within a problem slopes fall: its steps stay in order
        closed = np.zeros(num_problems, bool)
        for step in order.tolist():
            p = steps.problem[step]
            if steps.cost[step] <= room and not closed[p]:
                chosen[p] = steps.to[step]
                room -= float(steps.cost[step])
            else:
                closed[p] = True
        return chosen % num_configurations

    return pick


def _by_level(amount: float, level_P: np.ndarray) -> Pick:
    """Knows what each configuration gets on a level, but not on a problem."""

    def pick(reward_PC: FloatArray, cost_PC: FloatArray) -> IntArray:
        reward, cost = np.empty_like(reward_PC), np.empty_like(cost_PC)
        for level in set(level_P):
            same = level_P == level
            reward[same], cost[same] = reward_PC[same].mean(0), cost_PC[same].mean(0)
        return _by_problem(amount)(reward, cost)

    return pick


def _curve(rows: Sequence[HoldoutRow]) -> list[Json]:
    return [{"cost": row.spent, "accuracy": row.reward, "stderr": row.reward_stderr} for row in rows]


def _levels(responses: Responses) -> list[str]:
    return sorted({str(level) for level in responses.level.tolist() if level != ""}, key=natural)


def _budget_kept(responses: Responses, extended: str) -> list[Json]:
    rows = []
    for name in responses.configurations:
        own = responses.of(name)
        budgets = set(own.budget[~np.isnan(own.budget)].tolist())
        if len(budgets) == 1 and any(own.response_group.tolist()):
            share = estimate_rate((own.response_group == extended).astype(float), own.problem)
            rows.append({"name": name, "budget": budgets.pop(), "share": share})
    return rows


def _plain(value: Any) -> Any:
    """JSON's own types: estimates as objects, what does not exist as null."""
    if isinstance(value, Estimate):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return None if not np.isfinite(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value
