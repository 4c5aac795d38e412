"""Figures of merit of an allocation: how much of what the budget could buy did the policy get?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibpo.evaluation.merit_intervals import interval, merit_intervals
from ibpo.evaluation.metrics import (
    MIN_VOTES_GAIN,
    estimate_gain_ratio,
    mix_at_cost,
    oracle_by_level,
    oracle_by_level_at_cost,
    random_mix,
)
from ibpo.evaluation.statistics import FloatArray, rank_correlation
from ibpo.evaluation.store import PerProblem, Problems

MIN_GAIN = 0.03
"""A level where extended responses gain less than this is trivial or hopeless: budget spent there is wasted."""
MIN_ROOM = 0.005
"""With less room than this between random mix and oracle, a share of it is noise and is not reported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfConsistency:
    """The curve of maj@k of one model's standard responses, K points."""

    standard: FloatArray
    """`[P]` accuracy of one response."""
    accuracy: FloatArray
    """`[K, P]` expected accuracy of maj@k."""
    relative_cost: FloatArray
    """`[K]` mean tokens, or `[K, P]` tokens by problem, relative to one standard response of the cold start. By problem
    the intervals of gain ratios know that votes cost more on some problems than on others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocated:
    """What a policy trained inside a budget did, and its own forced responses where they were sampled."""

    budget: float
    variant: str
    """`"sampled"` (the policy chooses) or `"calibrated"` (a threshold on its choice)."""
    result: PerProblem
    own_standard: PerProblem | None
    own_extended: PerProblem | None


def figures_of_merit(
    allocated: Allocated,
    standard: PerProblem,
    extended: PerProblem,
    problems: Problems,
    consistency: Mapping[str, SelfConsistency],
    *,
    num_draws: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    r"""Judge one policy; a number that does not exist is None, and `reasons` says why.

    With accuracy a and realised share s of the policy, budget q, and the cold start's forced responses,

    - `accuracy`, `share`, `share_error` = s - q, `relative_cost`.
    - `binds`: levels where extended gains more than 0.03 hold more than q of the problems, so the oracle wants it all.
    - `oracle_share` = (a - mix(s)) / (oracle(s) - mix(s)): 0 is a blind draw, 1 the best choice by level; above 1 by
      choosing within levels, or by better responses.
    - `oracle_share_own`: the same with the trained policy's own forced accuracies, so that allocation alone counts.
    - `oracle_share_tokens`: the same with mix and oracle at the policy's mean tokens in place of its share.
    - `gain_ratio_cold_start`, `gain_ratio_pretrained` = (a - b) / (maj(c) - b), with b the accuracy of one standard
      response of that model, maj(c) its self-consistency at the policy's cost c, the best mix of two k (the upper
      concave envelope); above 1 exactly if the policy beats self-consistency there. None where self-consistency gains
      less than one (paired) standard error, or less than a tenth of a point.
    - `rank_correlation` of the share and the gain by level.
    - `waste`: part of the extended responses that went to levels with a gain below 0.03; `waste_level_share`: their
      part of the problems, what a blind draw would waste.
    - `erosion`: per response group, forced accuracy minus the cold start's: `difference`, paired `stderr`, `ratio`.
    - `retained` = a / accuracy of extended only.
    - `gain_by_level`: what extended buys at each level, by the cold start.

    Each but `binds`, `waste_level_share` and `erosion` (which has its standard error) has a 95 % interval under its
    name and `_interval`, of a bootstrap over problems; an end without bound is None.

    Args:
        allocated: The policy judged.
        standard: Forced standard responses of the cold start.
        extended: Forced extended responses of the cold start.
        problems: Their levels.
        consistency: `"cold_start"` and `"pretrained"` -> self-consistency; either may be missing.
        num_draws: Bootstrap draws.
        seed: Of the draws.

    Returns:
        The numbers above under these names.
    """
    result, reasons = allocated.result, {}
    accuracy, share, tokens = (float(x.mean()) for x in (result.accuracy, result.share, result.tokens))
    part_L = problems.level_share
    acc0_L, acc1_L = problems.by_level(standard.accuracy), problems.by_level(extended.accuracy)
    gain_L = acc1_L - acc0_L
    poor_L = gain_L < MIN_GAIN
    out: dict[str, Any] = {
        "accuracy": accuracy,
        "share": share,
        "share_error": share - allocated.budget,
        "relative_cost": tokens / float(standard.tokens.mean()),
        "binds": bool(part_L[gain_L > MIN_GAIN].sum() > allocated.budget),
    }

    def put(name: str, numerator: float, denominator: float, why: str, least: float = MIN_ROOM) -> None:
        out[name] = numerator / denominator if denominator >= least else None
        if out[name] is None:
            reasons[name] = why

    def put_oracle_share(name: str, before: PerProblem | None, after: PerProblem | None) -> None:
        if before is None or after is None:
            out[name], reasons[name] = None, "the policy's own forced responses were not sampled"
            return
        mix = random_mix(float(before.accuracy.mean()), float(after.accuracy.mean()), share)
        best, _ = oracle_by_level(problems.by_level(before.accuracy), problems.by_level(after.accuracy), part_L, share)
        put(name, accuracy - mix, best - mix, f"at a share of {share:.2f} the oracle is no better than a random mix")

    put_oracle_share("oracle_share", standard, extended)
    put_oracle_share("oracle_share_own", allocated.own_standard, allocated.own_extended)
    tokens0, tokens1 = float(standard.tokens.mean()), float(extended.tokens.mean())
    at_cost = (tokens - tokens0) / (tokens1 - tokens0) if tokens1 > tokens0 else -1.0
    if 0 <= at_cost <= 1:
        mix = random_mix(float(standard.accuracy.mean()), float(extended.accuracy.mean()), at_cost)
        cost_L = problems.by_level(standard.tokens), problems.by_level(extended.tokens)
        best, _ = oracle_by_level_at_cost(acc0_L, acc1_L, *cost_L, part_L, tokens)
        put("oracle_share_tokens", accuracy - mix, best - mix, "at this cost the oracle is no better than a random mix")
    else:
        out["oracle_share_tokens"] = None
        reasons["oracle_share_tokens"] = "its mean tokens lie outside those of standard only and extended only"

    for name in ("cold_start", "pretrained"):
        key = f"gain_ratio_{name}"
        curve = consistency.get(name)
        out[key], why = _gain_ratio(accuracy, out["relative_cost"], curve)
        if why or curve is None:
            reasons[key] = why
        elif num_draws > 1:
            votes_cost_KP = curve.relative_cost if curve.relative_cost.ndim > 1 else curve.relative_cost[:, None]
            votes_cost_KP = np.broadcast_to(votes_cost_KP, curve.accuracy.shape)
            cost_P = result.tokens / float(standard.tokens.mean())
            ratio = estimate_gain_ratio(result.accuracy, cost_P, curve.accuracy, votes_cost_KP, seed=seed)
            out[f"{key}_interval"] = interval(ratio)
    out["rank_correlation"] = _number(rank_correlation(problems.by_level(result.share), gain_L))
    if out["rank_correlation"] is None:
        reasons["rank_correlation"] = "share or gain is the same at all levels"
    poor_P = poor_L[problems.level]
    put("waste", float(result.share[poor_P].sum()), float(result.share.sum()), "no extended response", least=1e-9)
    out["waste_level_share"] = float(poor_P.mean())
    pairs = {"standard": (allocated.own_standard, standard), "extended": (allocated.own_extended, extended)}
    out["erosion"] = {name: _paired(own, before) for name, (own, before) in pairs.items() if own is not None}
    put("retained", accuracy, float(extended.accuracy.mean()), "extended only is never right", least=1e-9)
    forced = {
        "oracle_share": (standard, extended),
        "oracle_share_own": (allocated.own_standard, allocated.own_extended),
    }
    more: dict[str, Any] = {"min_gain": MIN_GAIN, "min_room": MIN_ROOM, "num_draws": num_draws, "seed": seed}
    found = merit_intervals(result, forced, problems, **more)
    found |= {f"{key}_interval": None for key in reasons}
    out |= found
    if ends := found["share_interval"]:
        out["share_error_interval"] = [end - allocated.budget for end in ends if end is not None]
    out["gain_by_level"] = dict(zip(problems.levels, gain_L.tolist(), strict=True))
    out["reasons"] = reasons
    return out


def summarise(merits: Iterable[Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Bring the figures of merit of several seeds together.

    Args:
        merits: One list of figures of merit per seed, as `Comparison.merits`.

    Returns:
        One entry per experiment, budget and variant. Each number becomes `{"mean", "min", "max", "num_seeds"}` over
        the seeds where it exists, or None where it exists for none; true counts as 1. Intervals are left out, `reasons`
        are those of all seeds.

    Example:
        >>> seeds = [[{"experiment": "e", "budget": 0.5, "variant": "sampled", "share": s}] for s in (0.4, 0.6)]
        >>> summarise(seeds)[0]["share"]
        {'mean': 0.5, 'min': 0.4, 'max': 0.6, 'num_seeds': 2}
    """
    siblings: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in (merit for of_seed in merits for merit in of_seed):
        siblings.setdefault((one.get("experiment"), one.get("budget"), one.get("variant")), []).append(one)
    summaries = []
    for (experiment, budget, variant), same in siblings.items():
        head = {"experiment": experiment, "budget": budget, "variant": variant, "num_seeds": len(same)}
        reasons: dict[str, str] = {}
        for one in same:
            reasons |= one.get("reasons", {})
        bodies = [{k: v for k, v in one.items() if k not in ("seed", "reasons", *head)} for one in same]
        summaries.append(head | _merge(bodies) | {"reasons": reasons})
    return summaries


def _merge(bodies: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for body in bodies for key in body):
        values = [body[key] for body in bodies if body.get(key) is not None]
        if not values:
            merged[key] = None
        elif isinstance(values[0], Mapping):
            merged[key] = _merge([dict(value) for value in values])
        elif isinstance(values[0], (int, float)):
            low, high = float(min(values)), float(max(values))
            merged[key] = {"mean": float(np.mean(values)), "min": low, "max": high, "num_seeds": len(values)}
    return {key: value for key, value in merged.items() if not key.endswith("_interval")}


def _gain_ratio(accuracy: float, cost: float, curve: SelfConsistency | None) -> tuple[float | None, str]:
    if curve is None:
        return None, "self-consistency was not sampled"
    base = float(curve.standard.mean())
    votes_cost_K = curve.relative_cost.reshape(len(curve.accuracy), -1).mean(1)
    mix_K = mix_at_cost(votes_cost_K, curve.accuracy.mean(1), cost)
    at_cost_P = mix_K @ curve.accuracy
    votes = float(at_cost_P.mean())
    if np.isnan(votes):
        low, high = votes_cost_K.min(), votes_cost_K.max()
        return None, f"costs {cost:.2f} times one response; self-consistency was measured from {low:.2f} to {high:.2f}"
    stderr = (at_cost_P - curve.standard).std(ddof=1) / np.sqrt(len(at_cost_P))
    if votes - base <= max(stderr, MIN_VOTES_GAIN):
        return (
            None,
            f"self-consistency gains {votes - base:+.4f} at this cost, less than .001 or than its standard error "
            f"{stderr:.4f}",
        )
    return (accuracy - base) / (votes - base), ""


def _paired(own: PerProblem, before: PerProblem) -> dict[str, float | None]:
    difference = own.accuracy - before.accuracy
    stderr = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else float("nan")
    mean = float(difference.mean())
    return {"difference": mean, "stderr": _number(stderr), "ratio": _number(mean / stderr) if stderr > 0 else None}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
