"""Configurations against each other on the same problems: everything that the report says of one part.

Letters: P problems, C configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ibpo.errors import IbpoError
from ibpo.evaluation.curves import areas, gain_over_votes, mix_points, vote_curve
from ibpo.evaluation.describe import describe, natural
from ibpo.evaluation.levels import coarse_levels, level_names
from ibpo.evaluation.oracle_share import OracleShare
from ibpo.evaluation.oracles import held_out_choice
from ibpo.evaluation.responses import Responses
from ibpo.evaluation.statistics import (
    Estimate,
    FloatArray,
    bootstrap_difference,
    estimate_mean,
    estimate_rate,
    paired_difference,
    problem_means,
    ratio_of_means,
)

BUDGETS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Mean costs at which to allocate: that far from the cheapest to the dearest configuration."""
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
        `difference` from the standard one in closed form, `difference_bootstrap`, `oracle_share` between the cheapest
        and the dearest of `among`, `gain_ratio` against its votes), `votes` (curves of maj@k), `mix` (corners of the
        best random mix and the straight line), `areas` (under accuracy against cost, of the mix and of votes),
        `oracles` (by problem and by level, on responses without a say), `allocation` (a row per budget),
        `share_by_level` (of the middle budget), `budget_kept`, `notes`.

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
    base, cost = names.index(standard), cost_CP.mean(1)
    votes = {name: vote_curve(responses.of(name), order, cost_CP[c]) for c, name in enumerate(names)}
    among = list(options.among) or [name for name in names if len(set(responses.of(name).response_group)) == 1]
    among_C = [names.index(name) for name in among]
    oracle, ends = None, []
    if len(among) > 1:  # names begin with the cheapest
        ends = [min(among_C), max(among_C)]
        oracle = OracleShare(responses.of(names[ends[0]]), responses.of(names[ends[1]]), order, cost_CP[ends])
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
                "difference_bootstrap": bootstrap_difference(reward_CP[c], reward_CP[base], seed=options.seed)
                if difference
                else None,
                "oracle_share": oracle.of(reward_CP[c], cost_CP[c], seed=options.seed)
                if oracle and c not in ends
                else None,
                "gain_ratio": gain_over_votes(reward_CP[c], cost_CP[c], votes[standard], options.seed)
                if difference
                else None,
            }
        )
    found: Json = {}
    if len(among) > 1:
        found = held_out_choice(
            responses, len(order), among, options.budgets, notes, num_splits=options.num_splits, seed=options.seed
        )
    curves = {"random mix": (cost_CP[among_C], reward_CP[among_C])} if len(among) > 1 else {}
    curves |= {f"votes, {name}": (curve.cost, curve.accuracy) for name, curve in votes.items()}
    return _plain(
        {
            "num_problems": len(order),
            "num_left_out": left_out,
            "standard": standard,
            "levels": level_names(responses),
            "configurations": rows,
            "votes": {name: curve.points for name, curve in votes.items() if len(curve.points) > 1},
            "mix": mix_points(cost_CP, reward_CP, among_C) if len(among) > 1 else [],
            "areas": areas(curves, float(cost.min()), float(cost.max()), mix="random mix", seed=options.seed),
            "among": among,
            "oracle_knows": "" if oracle is None else "levels" if oracle.is_by_level else "problems",
            "oracles": found.get("oracles", {}),
            "allocation": found.get("allocation", []),
            "share_by_level": found.get("share_by_level", {}),
            "budget_kept": _budget_kept(responses, options.extended, notes),
            "notes": notes,
        }
    )


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


def _budget_kept(responses: Responses, extended: str, notes: list[str]) -> list[Json]:
    rows = []
    known = set(responses.response_group.tolist()) - {""}
    for name in responses.configurations:
        own = responses.of(name)
        budgets = set(own.budget[~np.isnan(own.budget)].tolist())
        if len(budgets) == 1 and known:
            if extended not in known:
                notes.append(
                    f"budget of {name} not shown: no response is of {extended}; --extended names another group"
                )
                continue
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
