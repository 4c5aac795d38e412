"""How close to a budget could anybody have stayed who does not know what has not happened yet? N requests."""

from __future__ import annotations

import numpy as np

from ibpo.serving.plan import Plan
from ibpo.serving.replay import FloatArray, Replay, Requests


def reachable(
    requests: Requests, done: Replay, plan: Plan, *, window: int, warm_up: int, seed: int = 0
) -> list[FloatArray]:
    r"""Per budget, of windows all over the replay, the probability with which the best controller is within 1 %.

    When the last request of a window is decided, some of its responses are still under way: how long they will be, and
    whether they will fail, is nobody's choice any more. With S their part of the window's sum, less what is known, the
    window is within 1 % if |S - c| <= 0.01 b m for a c that all decisions together have set, so with probability

        sup_c P(|S - c| <= 0.01 b m)

    at most (for a share one point, 0.01 m): the concentration function of S, whatever the controller. Here S is drawn
    1,000 times for each of up to 200 windows: lengths as estimated times a ratio of actual to estimated length of
    another response of the same response group, failures as often as in the replay. 1 where everything was known.

    Args:
        requests: What came.
        done: What the controller did: the responses under way are its.
        plan: Its budgets.
        window: m, requests in a row; counted with those that fail.
        warm_up: Requests left out at the start.
        seed: Of the draws.
    """
    size = len(requests)
    rng = np.random.default_rng(seed)
    rows = np.arange(size)
    told, actual = requests.estimate[rows, done.choice], requests.cost[rows, done.choice]
    end = requests.time + requests.seconds[rows, done.choice]
    ratio = [(actual / np.maximum(told, 1e-300))[done.choice == g] for g in range(len(requests.groups))]
    fails = float(requests.failed.mean())
    certain = not fails and bool((told == actual).all())
    first = warm_up if size > warm_up + 2 * window else 0
    # Windows of answered requests: with those that fail a little longer.
    width = min(size, round(window / (1 - fails)) if fails < 1 else window)
    lasts = np.unique(np.linspace(first + width, size, 200).astype(int)) - 1
    found: list[list[float]] = [[] for _ in plan.budgets]
    for last in lasts.tolist():
        part = np.arange(max(0, last - width + 1), last + 1)
        waiting = part[end[part] > requests.time[last]]
        group = done.choice[waiting]
        length = np.broadcast_to(told[waiting], (1000, len(waiting))).copy()
        if not certain:
            for g in np.unique(group).tolist():
                place = group == g
                length[:, place] *= ratio[g][rng.integers(len(ratio[g]), size=(1000, int(place.sum())))]
        kept = rng.random(length.shape) >= fails if fails else np.ones(length.shape, bool)
        for k, budget in enumerate(plan.budgets):
            share = budget.response_group is not None
            cost = group == requests.groups.index(str(budget.response_group)) if share else length
            drawn = np.sort(((cost - budget.mean) * kept).sum(axis=1))
            room = 0.02 * window * (1.0 if share else budget.mean) * (1 + 1e-9)
            inside = np.searchsorted(drawn, drawn + room, side="right") - np.arange(len(drawn))
            found[k].append(float(inside.max() / len(drawn)))
    return [np.array(values) for values in found]
