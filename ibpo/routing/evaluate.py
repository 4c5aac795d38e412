"""What is a router worth on problems that it has not seen? Letters: P problems, G response groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import allocate, frontier, holdout_value, random_mix
from ibpo.budget import Budget, check_budget, costs_named, move_budget, write_name
from ibpo.errors import IbpoError
from ibpo.evaluation import estimate_from_draws
from ibpo.pictures import number_text
from ibpo.routing.features import FloatArray
from ibpo.routing.fit import MIN_PROBLEMS, RoutedLog, fit_router, scores_of
from ibpo.routing.router import Scores

IntArray = NDArray[np.int64]
MIN_ROOM = 0.005
"""With less room than this between random mix and oracle, a part of it is noise and is not reported."""


def default_budgets(table: RoutedLog) -> list[Budget]:
    """A quarter, half and three quarters of the way from the cheapest to the most expensive response group."""
    column = table.columns["cost"]
    name = next((x for x in (column, *costs_named(column)) if x not in table.groups), column)  # a group may be `tokens`
    return [Budget(name=name, amount=Fraction(part, 4), unit="range") for part in (1, 2, 3)]


def score_unseen(
    table: RoutedLog,
    *,
    folds: int = 5,
    embedded: FloatArray | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Every problem scored by a router that was fitted, penalties included, on the other folds' problems only.

    Args:
        table: The log.
        folds: Parts of the problems, at random.
        embedded: `[P, E]` embeddings of the prompts.
        seed: Decides which problem is in which part.
        progress: Called with (folds done, folds in all).

    Raises:
        IbpoError: Too few problems for so many folds.
    """
    problem = table.alike()
    size = int(problem.max()) + 1
    if not 2 <= folds <= size or size - math.ceil(size / folds) < MIN_PROBLEMS:
        raise IbpoError(
            f"{size} different problems in {folds} folds: a router needs at least 2 folds and {MIN_PROBLEMS} problems "
            "to learn from, and a problem in each fold"
        )
    part = (np.random.default_rng(seed).permutation(size) % folds)[problem]
    gain, cost = np.zeros(table.reward.shape), np.zeros(table.reward.shape)
    for fold in range(folds):
        learn, judge = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        some = None if embedded is None else embedded[learn]
        other = None if embedded is None else embedded[judge]
        router = fit_router(
            table.take(learn.tolist()), embedded=some, embedding={"model": ""} if some is not None else None, seed=seed
        )
        gain[judge], cost[judge] = scores_of(router, table.take(judge.tolist()), other)
        if progress:
            progress(fold + 1, folds)
    return Scores(gain, cost)


def evaluate_router(
    table: RoutedLog,
    budgets: Sequence[Budget],
    scores: Scores,
    *,
    draws: int = 1000,
    num_splits: int = 100,
    seed: int = 0,
) -> list[dict[str, Any]]:
    r"""Regret of choosing by these scores, against the oracle and the random mix at the same cost.

    Each budget is allocated on the scores. With v the mean recorded reward of the choices and c their mean recorded
    cost (which the budget bounds only as well as costs are predicted),

    - `mix`: the best random mixture of constant policies at cost c (it ignores the problem);
    - `oracle`: the best choice at cost c by the recorded means, one problem mixed: it knows the very responses that it
      is valued on, and where they are few and noisy nobody could be as good;
    - `oracle_unseen`: the same by one half of each problem's responses, valued on the other (None: too few responses);
    - `regret` = oracle - v, `regret_of_mix` = oracle - mix, `gain_over_mix` = v - mix, and
      `captured` = gain_over_mix / regret_of_mix: 0 a blind draw, 1 the oracle.

    Intervals are those of a bootstrap over problems (`ibpo.evaluation.statistics.estimate_from_draws`), equal prompts
    together (`RoutedLog.draws`), choices held as they are: they do not hold how the router would vary with other
    problems to learn from.

    Args:
        table: The log.
        budgets: On the log's cost, or on the share of a response group, each for itself.
        scores: By routers that had not seen the problem: `score_unseen`.
        draws: Bootstrap draws.
        num_splits: Halvings for `oracle_unseen`.
        seed: Decides the bootstrap's draws and the halvings.

    Returns:
        A row per budget: the figures above and their intervals `*_interval`.

    Raises:
        IbpoError: A budget on something that the log has not.
    """
    rows: list[dict[str, Any]] = []
    size = len(set(table.alike().tolist()))
    for budget in budgets:
        paid, expected = _costs_of(table, budget, table.cost), _costs_of(table, budget, scores.cost)
        constant = table.cost.mean(axis=0)
        ends = {"cheapest": float(constant.min()), "most_expensive": float(constant.max())}
        asked = budget.in_cost(now=float(table.log.cost.mean()), **ends)  # exactly: 1/3 of 30 problems are 10
        least = float(paid.min(axis=1).mean())
        if asked < least * (1 - 1e-9):
            raise IbpoError(
                f"budget {budget}: cannot be kept: the cheapest response of each problem costs {number_text(least)} "
                f"on average; write {move_budget(budget, least, is_share=False)}"
            )
        mean = max(asked, Fraction(float(expected.min(axis=1).mean()) * (1 + 1e-9)))
        pick = choose(scores.gain, expected, mean)
        every = np.arange(len(pick))
        value, spent = table.reward[every, pick], paid[every, pick]

        def figures(
            rows: IntArray, value: FloatArray = value, spent: FloatArray = spent, paid: FloatArray = paid
        ) -> tuple[float, ...]:
            reward, cost, at = table.reward[rows], paid[rows], float(spent[rows].mean())
            weight, _ = random_mix(cost.mean(axis=0), reward.mean(axis=0), at=at)
            problem = np.repeat(np.arange(len(rows)), len(table.groups))
            oracle = frontier(reward.ravel(), problem, cost.ravel()).at(at * (1 + 1e-12)).value
            mix, got = float(weight @ reward.mean(axis=0)), float(value[rows].mean())
            room = oracle - mix
            captured = (got - mix) / room if room >= MIN_ROOM else math.nan
            return got, at, mix, oracle, oracle - got, room, got - mix, captured

        names = ("value", "spent", "mix", "oracle", "regret", "regret_of_mix", "gain_over_mix", "captured")
        row: dict[str, Any] = {
            "budget": f"{write_name(budget.name)}={float(asked):.6g}",
            **dict(zip(names, figures(every), strict=True)),
        }
        drawn = np.array([figures(some) for some in table.draws(draws, seed)])
        for name, column in zip(names, drawn.T, strict=True):
            found = estimate_from_draws(row[name], column, size)
            row[f"{name}_interval"] = None if math.isnan(found.low) else [found.low, found.high]
        row["oracle_unseen"] = _oracle_unseen(table, budget, row["spent"], num_splits, seed)
        row["share"] = {g: float((pick == k).mean()) for k, g in enumerate(table.groups)}
        rows.append({name: None if isinstance(x, float) and math.isnan(x) else x for name, x in row.items()})
    return rows


def verdict(rows: Sequence[dict[str, Any]]) -> tuple[bool, str]:
    """Whether a router should be used, and a sentence: is it better on unseen problems than a blind draw?

    A router whose gain over the mix, averaged over the budgets, is not above 0 is not used: the mix needs no features.

    Args:
        rows: Rows of `evaluate_router`, one per budget.
    """
    gains = [float(row["gain_over_mix"]) for row in rows]
    mean = sum(gains) / len(gains)
    told = []
    for row in rows:
        low_high = row["gain_over_mix_interval"]
        said = f" [{low_high[0]:+.3f}, {low_high[1]:+.3f}]" if low_high else ""
        told.append(f"{row['budget']}: {row['gain_over_mix']:+.3f}{said}")
    above = [row["gain_over_mix_interval"] is not None and row["gain_over_mix_interval"][0] > 0 for row in rows]
    if mean <= 1e-12:
        said = "no better than a random mix of the same cost: the mix is written instead; it predicts the means"
    elif any(above):
        said = "better than a random mix of the same cost"
        said += "" if all(above) else f", for sure at {sum(above)} of {len(above)} budgets"
    else:
        said = "better than a random mix of the same cost in this sample, not for sure (every interval holds 0)"
    return mean > 1e-12, f"{said}; reward above the mix on unseen problems, {'; '.join(told)}"


def choose(gain: FloatArray, cost: FloatArray, mean: Fraction) -> IntArray:
    """The response group `[P]` of each problem with the largest total gain at this mean cost; both `[P, G]`."""
    size, width = gain.shape
    problem = np.repeat(np.arange(size), width)
    # A certificate within 1e-6 of the gain: the last problem of thousands need not be proved.
    found = allocate(gain.ravel(), problem, cost.ravel(), mean, relative_gap=1e-6, time_limit_s=5.0)
    return found.weight.reshape(size, width).argmax(axis=1)


def check_routed(budget: Budget, table: RoutedLog) -> bool:
    """Whether a budget bounds the share of a response group (else the log's cost), once it is clear what it means.

    Raises:
        IbpoError: With the place, the cause and the fix.
    """
    refused = {
        "at_least": "a router is judged at an upper bound; leave out the >",
        "slice": "a router is judged on the whole log; name a part of it with --part",
    }
    return check_budget(budget, groups=table.groups, costs=costs_named(table.columns["cost"]), refused=refused)


def _costs_of(table: RoutedLog, budget: Budget, cost: FloatArray) -> FloatArray:
    """`[P, G]` what each response group costs in this budget."""
    if not check_routed(budget, table):
        return cost
    return np.tile([float(group == budget.name) for group in table.groups], (len(cost), 1))


def _oracle_unseen(table: RoutedLog, budget: Budget, spent: float, num_splits: int, seed: int) -> float | None:
    if (table.count < 2).any():
        return None
    log = table.log
    paid = log.cost
    if budget.name in table.groups:
        paid = np.array([float(group == budget.name) for group in log.response_group])
    try:
        row = holdout_value(
            log.reward, log.problem, log.response_group, paid, [spent * (1 + 1e-12)], num_splits=num_splits, seed=seed
        )[0]
    except IbpoError:
        return None
    return row.reward
