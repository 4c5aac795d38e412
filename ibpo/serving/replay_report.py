"""How well a replay held its budgets, and at what loss of value. N requests, K budgets."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ibpo.allocation import allocate, frontier
from ibpo.serving.foresight import reachable
from ibpo.serving.plan import Plan, Terms
from ibpo.serving.replay import FloatArray, Replay, Requests


def spent_per_request(requests: Requests, done: Replay, plan: Plan) -> FloatArray:
    """`[K, N]` cost of every request in every budget."""
    rows = np.arange(len(requests))
    tokens = requests.cost[rows, done.choice]
    return np.array(
        [
            tokens if b.response_group is None else (done.choice == requests.groups.index(b.response_group))
            for b in plan.budgets
        ],
        float,
    )


def run_means(cost: FloatArray, width: int) -> FloatArray:
    """Mean over every `width` requests in a row; over all of them where there are fewer.

    Example:
        >>> run_means(np.array([0.0, 1.0, 1.0, 0.0]), 2).tolist()
        [0.5, 1.0, 0.5]
    """
    if not len(cost):
        return np.zeros(0)
    total = np.concatenate([[0.0], np.cumsum(cost)])
    width = min(width, len(cost))
    return (total[width:] - total[:-width]) / width


def summary(requests: Requests, done: Replay, plan: Plan, *, window: int = 1000, warm_up: int = 1000) -> dict[str, Any]:
    """The figures of a replay, of the answered requests.

    `value_kept` is the total gain over that of the clairvoyant optimum, which knows all requests beforehand and spends
    the same in total; `value_kept_by_window` over the clairvoyant optima of each `window` requests, which spend the
    same in each; `value_kept_as_told` is told what the controller was told (its gains and expected costs), and counts
    in these. Gains count from each request's cheapest response group. `windows_reachable` is the share of windows
    within 1 % that nobody could have exceeded without knowing the future (`ibpo.serving.foresight.reachable`).
    `fairness` is Jain's index of the tenants' spending, `windows` the mean of each `window` requests in turn.

    Args:
        requests: What came.
        done: What the controller did.
        plan: What it held.
        window: Requests in a row.
        warm_up: Requests left out of the adherence.
    """
    answered = ~requests.failed
    spent = spent_per_request(requests, done, plan)[:, answered]
    rows = np.arange(len(requests))
    cheapest = requests.cost.argmin(axis=1)
    gain = (requests.gain - requests.gain[rows, cheapest][:, None])[answered]
    cost = requests.cost[answered]
    taken = done.choice[answered]
    value = gain[np.arange(len(gain)), taken]
    budgets = []
    within = reachable(requests, done, plan, window=window, warm_up=warm_up)
    for k, budget in enumerate(plan.budgets):
        scale = 1.0 if budget.response_group is not None else budget.mean
        means = run_means(spent[k, warm_up:] if len(spent[k]) > warm_up + window else spent[k], window)
        off = (means - budget.mean) / scale if len(means) and scale else np.zeros(1)
        budgets.append(
            {
                "name": budget.name,
                "mean": budget.mean,
                "spent": float(spent[k].mean()),
                "unit": "share" if budget.response_group is not None else "part of the budget",
                "largest_above": float(off.max()),
                "largest_below": float(-off.min()),
                "windows_within_1_percent": float((np.abs(off) <= 0.01 + 1e-12).mean()),
                "windows_above_1_percent": float((off > 0.01 + 1e-12).mean()),
                "windows_reachable": float(within[k].mean()),
                "overdraft": float(done.overdraft[k]),
                "overdraft_allowed": budget.overdraft,
                "largest_bound": float(done.bound[k]),
                "bound_broken": bool(done.beyond[k] > 1e-6 * (1.0 + budget.overdraft)),
                "fairness": _fairness(spent[k], np.array(requests.tenant)[answered]),
                "windows": [float(part.mean()) for part in np.array_split(spent[k], max(1, spent.shape[1] // window))],
            }
        )
    problem = np.arange(len(gain))
    return {
        "num_requests": len(requests),
        "num_failed": int(requests.failed.sum()),
        "num_over": int(done.over.sum()),
        "num_drifts": done.num_drifts,
        "most_under_way": done.most_under_way,
        "window": window,
        "budgets": budgets,
        "value": float(value.sum()),
        "value_kept": _kept(value.sum(), [_best(gain, cost, spent, plan, requests.groups, problem)]),
        "value_kept_by_window": _kept(
            value.sum(),
            [
                _best(gain[part], cost[part], spent[:, part], plan, requests.groups, problem[part])
                for part in np.array_split(problem, max(1, len(problem) // window))
            ],
        ),
        "value_kept_as_told": _as_told(requests, done, plan, answered),
        "tenants": _accounts("tenant", np.array(requests.tenant)[answered], spent, value, plan, window),
        "slices": _accounts("slice", np.array(requests.slice_name)[answered], spent, value, plan, window),
    }


def _kept(value: float, best: list[float]) -> float:
    total = math.fsum(best)
    return float(value / total) if total > 0 else 1.0


def _best(
    gain: FloatArray, cost: FloatArray, spent: FloatArray, plan: Plan, groups: tuple[str, ...], problem: Any
) -> float:
    """Largest total gain at the same spend in every budget; of a single one that of the linear relaxation, not less."""
    size, width = gain.shape
    rows = [
        cost.ravel() if b.response_group is None else np.tile([float(g == b.response_group) for g in groups], size)
        for b in plan.budgets
    ]
    # A hair above what was spent: the spend itself must be allowed, though it is rounded.
    means = [repr(float(total / size * (1 + 1e-12))) for total in spent.sum(axis=1)]
    if len(rows) == 1:
        problem = np.repeat(np.arange(size), width)
        return size * frontier(gain.ravel(), problem, rows[0]).at(float(means[0])).value
    return allocate(gain.ravel(), np.repeat(problem, width), np.stack(rows), means).objective


def _as_told(requests: Requests, done: Replay, plan: Plan, answered: Any) -> float:
    told = requests.gain if requests.told_gain is None else requests.told_gain
    rows = np.arange(len(requests))
    gain = (told - told[rows, requests.estimate.argmin(axis=1)][:, None])[answered]
    expected = replace(requests, cost=requests.estimate)
    spent = spent_per_request(expected, done, plan)[:, answered]
    value = gain[np.arange(len(gain)), done.choice[answered]].sum()
    problem = np.arange(len(gain))
    return _kept(value, [_best(gain, requests.estimate[answered], spent, plan, requests.groups, problem)])


def _fairness(spent: FloatArray, tenants: Any) -> float:
    """Jain's index of the tenants' mean costs per request: 1 where all are equal, 1 / T where one of T has it all."""
    means = [float(spent[tenants == name].mean()) for name in sorted(set(tenants.tolist()) - {""})]
    square = len(means) * math.fsum(mean * mean for mean in means)
    return math.fsum(means) ** 2 / square if square > 0 else 1.0


def _accounts(
    kind: str, names: Any, spent: FloatArray, value: FloatArray, plan: Plan, window: int
) -> list[dict[str, Any]]:
    """What each tenant or slice got, beside what it was promised and its ceiling (None: it has none)."""
    terms_of, fair_share = (plan.tenants, plan.fair_share) if kind == "tenant" else (plan.slices, 0.0)
    rows = []
    for name in sorted(set(names.tolist()) - {""}):
        own, terms = names == name, terms_of.get(name, Terms())
        row: dict[str, Any] = {kind: name, "num_requests": int(own.sum()), "mean_value": float(value[own].mean())}
        for k, budget in enumerate(plan.budgets):
            ceiling = terms.at_most.get(budget.name, math.inf)
            means = run_means(spent[k, own], window)
            row[budget.name] = {
                "spent": float(spent[k, own].mean()),
                "promised": terms.at_least.get(budget.name, min(fair_share * budget.mean, ceiling)),
                "ceiling": None if ceiling == math.inf else ceiling,
                "least_in_a_window": float(means.min()),
                "most_in_a_window": float(means.max()),
            }
        rows.append(row)
    return rows
