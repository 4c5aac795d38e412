"""How well a simulation held its budgets, how well anybody could have, and at what loss of value.

Letters: N requests, K budgets.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ibpo.allocation import allocate, frontier
from ibpo.errors import IbpoError
from ibpo.serving.controller import ServingPolicy, TenantPolicy
from ibpo.serving.simulation.simulate import FloatArray, Requests, Simulation


def spent_per_request(requests: Requests, done: Simulation, policy: ServingPolicy) -> FloatArray:
    """`[K, N]` cost of every request in every budget."""
    rows = np.arange(len(requests))
    tokens = requests.cost[rows, done.choice]
    return np.array(
        [
            tokens if b.response_group is None else (done.choice == requests.groups.index(b.response_group))
            for b in policy.budgets
        ],
        float,
    )


def average_windows(cost: FloatArray, width: int) -> FloatArray:
    """Mean over every `width` requests in a row; over all of them where there are fewer.

    Example:
        >>> average_windows(np.array([0.0, 1.0, 1.0, 0.0]), 2).tolist()
        [0.5, 1.0, 0.5]
    """
    if not len(cost):
        return np.zeros(0)
    total = np.concatenate([[0.0], np.cumsum(cost)])
    width = min(width, len(cost))
    return (total[width:] - total[:-width]) / width


def summarise(
    requests: Requests, done: Simulation, policy: ServingPolicy, *, window: int = 1000, warm_up: int = 1000
) -> dict[str, Any]:
    """The figures of a simulation, of the answered requests.

    `value_kept` is the total gain over that of the clairvoyant optimum, which knows all requests beforehand and spends
    the same in total; `value_kept_by_window` over the clairvoyant optima of each `window` requests, which spend the
    same in each; `value_kept_as_predicted` over that of the optimum which knows no more than the controller (predicted
    gains, expected costs), both counted in what was predicted. Gains count from each request's cheapest response group.
    `most` is what the most expensive response to every request would spend: below the budget there is nothing to hold.
    `windows_reachable` is the share of windows within 1 % that nobody could have exceeded without knowing the future
    (`find_reachable`). What the controller expected is `done.estimate`, learned or given. `fairness` is Jain's index of
    the tenants' spending, `windows` the mean of each `window` requests in turn.

    Args:
        requests: What came.
        done: What the controller did.
        policy: What it held.
        window: Requests in a row.
        warm_up: Requests left out of the adherence.
    """
    answered, requests = ~requests.failed, replace(requests, estimate=done.estimate)
    if not answered.any():
        raise IbpoError("every request failed: nothing was answered, so there is nothing to report; lower failures=")
    spent = spent_per_request(requests, done, policy)[:, answered]
    rows = np.arange(len(requests))
    cheapest = requests.cost.argmin(axis=1)
    gain = (requests.gain - requests.gain[rows, cheapest][:, None])[answered]
    cost = requests.cost[answered]
    taken = done.choice[answered]
    value = gain[np.arange(len(gain)), taken]
    budgets = []
    within = find_reachable(requests, done, policy, window=window, warm_up=warm_up)
    for k, budget in enumerate(policy.budgets):
        scale = 1.0 if budget.response_group is not None else budget.mean
        means = average_windows(spent[k, warm_up:] if len(spent[k]) > warm_up + window else spent[k], window)
        off = (means - budget.mean) / scale if len(means) and scale else np.zeros(1)
        budgets.append(
            {
                "name": budget.name,
                "mean": budget.mean,
                "spent": float(spent[k].mean()),
                "most": 1.0 if budget.response_group is not None else float(cost.max(axis=1).mean()),
                "unit": "share" if budget.response_group is not None else "part of the budget",
                "largest_above": float(off.max()),
                "largest_below": float(-off.min()),
                "windows_within_1_percent": float((np.abs(off) <= 0.01 + 1e-12).mean()),
                "windows_above_1_percent": float((off > 0.01 + 1e-12).mean()),
                "windows_reachable": float(within[k].mean()),
                "overdraft": float(done.overdraft[k]),
                "overdraft_allowed": float(done.overdraft_allowed[k]),
                "largest_bound": float(done.bound[k]),
                "bound_broken": bool(done.beyond[k] > 1e-6 * (1.0 + done.overdraft_allowed[k])),
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
        "most_in_flight": done.most_in_flight,
        "window": window,
        "budgets": budgets,
        "value": float(value.sum()),
        "value_kept": _ratio_kept(value.sum(), [_best(gain, cost, spent, policy, requests.groups, problem)]),
        "value_kept_by_window": _ratio_kept(
            value.sum(),
            [
                _best(gain[part], cost[part], spent[:, part], policy, requests.groups, problem[part])
                for part in np.array_split(problem, max(1, len(problem) // window))
            ],
        ),
        "value_kept_as_predicted": _kept_as_predicted(requests, done, policy, answered),
        "tenants": _accounts("tenant", np.array(requests.tenant)[answered], spent, value, policy, window),
        "slices": _accounts("slice", np.array(requests.slice_name)[answered], spent, value, policy, window),
    }


def find_reachable(
    requests: Requests, done: Simulation, policy: ServingPolicy, *, window: int, warm_up: int, seed: int = 0
) -> list[FloatArray]:
    r"""Per budget, of windows all over the simulation, the probability with which the best controller is within 1 %.

    When the last request of a window is decided, some of its responses are still in flight: how long they will be, and
    whether they will fail, is nobody's choice any more. With S their part of the window's sum, less what is known, the
    window is within 1 % if |S - c| <= 0.01 b m for a c that all decisions together have set, so with probability

        sup_c P(|S - c| <= 0.01 b m)

    at most (for a share one point, 0.01 m): the concentration function of S, whatever the controller. Here S is drawn
    1,000 times for each of up to 200 windows: lengths as estimated times a ratio of actual to estimated length of
    another response of the same response group, failures as often as in the simulation. 1 where everything was known.

    Args:
        requests: What came.
        done: What the controller did: the responses in flight are its.
        policy: Its budgets.
        window: m, requests in a row; counted with those that fail.
        warm_up: Requests left out at the start.
        seed: Decides the draws.
    """
    size = len(requests)
    rng = np.random.default_rng(seed)
    rows = np.arange(size)
    expected, actual = requests.estimate[rows, done.choice], requests.cost[rows, done.choice]
    end = requests.time + requests.seconds[rows, done.choice]
    ratio = [(actual / np.maximum(expected, 1e-300))[done.choice == g] for g in range(len(requests.groups))]
    fails = float(requests.failed.mean())
    certain = not fails and bool((expected == actual).all())
    first = warm_up if size > warm_up + 2 * window else 0
    # Windows of answered requests: with those that fail a little longer.
    width = min(size, round(window / (1 - fails)) if fails < 1 else window)
    lasts = np.unique(np.linspace(first + width, size, 200).astype(int)) - 1
    found: list[list[float]] = [[] for _ in policy.budgets]
    for last in lasts.tolist():
        part = np.arange(max(0, last - width + 1), last + 1)
        waiting = part[end[part] > requests.time[last]]
        group = done.choice[waiting]
        length = np.broadcast_to(expected[waiting], (1000, len(waiting))).copy()
        if not certain:
            for g in np.unique(group).tolist():
                place = group == g
                length[:, place] *= ratio[g][rng.integers(len(ratio[g]), size=(1000, int(place.sum())))]
        kept = rng.random(length.shape) >= fails if fails else np.ones(length.shape, bool)
        for k, budget in enumerate(policy.budgets):
            share = budget.response_group is not None
            cost = group == requests.groups.index(str(budget.response_group)) if share else length
            drawn = np.sort(((cost - budget.mean) * kept).sum(axis=1))
            room = 0.02 * window * (1.0 if share else budget.mean) * (1 + 1e-9)
            inside = np.searchsorted(drawn, drawn + room, side="right") - np.arange(len(drawn))
            found[k].append(float(inside.max() / len(drawn)))
    return [np.array(values) for values in found]


def _ratio_kept(value: float, best: list[float]) -> float:
    total = math.fsum(best)
    return float(value / total) if total > 0 else 1.0


def _best(
    gain: FloatArray, cost: FloatArray, spent: FloatArray, policy: ServingPolicy, groups: tuple[str, ...], problem: Any
) -> float:
    """Largest total gain at the same spend in every budget; for one budget that of the linear relaxation, not less."""
    size, width = gain.shape
    rows = [
        cost.ravel() if b.response_group is None else np.tile([float(g == b.response_group) for g in groups], size)
        for b in policy.budgets
    ]
    # A hair above what was spent: the spend itself must be allowed, though it is rounded.
    means = [repr(float(total / size * (1 + 1e-12))) for total in spent.sum(axis=1)]
    if len(rows) == 1:
        problem = np.repeat(np.arange(size), width)
        return size * frontier(gain.ravel(), problem, rows[0]).at(float(means[0])).value
    return allocate(gain.ravel(), np.repeat(problem, width), np.stack(rows), means).objective


def _kept_as_predicted(requests: Requests, done: Simulation, policy: ServingPolicy, answered: Any) -> float:
    predicted = requests.gain if requests.predicted_gain is None else requests.predicted_gain
    rows = np.arange(len(requests))
    gain = (predicted - predicted[rows, requests.estimate.argmin(axis=1)][:, None])[answered]
    expected = replace(requests, cost=requests.estimate)
    spent = spent_per_request(expected, done, policy)[:, answered]
    value = gain[np.arange(len(gain)), done.choice[answered]].sum()
    problem = np.arange(len(gain))
    return _ratio_kept(value, [_best(gain, requests.estimate[answered], spent, policy, requests.groups, problem)])


def _fairness(spent: FloatArray, tenants: Any) -> float:
    """Jain's index of the tenants' mean costs per request: 1 where all are equal, 1 / T where one of T has it all."""
    means = [float(spent[tenants == name].mean()) for name in sorted(set(tenants.tolist()) - {""})]
    square = len(means) * math.fsum(mean * mean for mean in means)
    return math.fsum(means) ** 2 / square if square > 0 else 1.0


def _accounts(
    kind: str, names: Any, spent: FloatArray, value: FloatArray, policy: ServingPolicy, window: int
) -> list[dict[str, Any]]:
    """What each tenant or slice got, with what it was promised and its ceiling (None: it has none)."""
    terms_of, fair_share = (policy.tenants, policy.fair_share) if kind == "tenant" else (policy.slices, 0.0)
    rows = []
    for name in sorted(set(names.tolist()) - {""}):
        own, terms = names == name, terms_of.get(name, TenantPolicy())
        row: dict[str, Any] = {kind: name, "num_requests": int(own.sum()), "mean_value": float(value[own].mean())}
        for k, budget in enumerate(policy.budgets):
            ceiling = terms.at_most.get(budget.name, math.inf)
            means = average_windows(spent[k, own], window)
            row[budget.name] = {
                "spent": float(spent[k, own].mean()),
                "promised": terms.at_least.get(budget.name, min(fair_share * budget.mean, ceiling)),
                "ceiling": None if ceiling == math.inf else ceiling,
                "least_in_a_window": float(means.min()),
                "most_in_a_window": float(means.max()),
            }
        rows.append(row)
    return rows
