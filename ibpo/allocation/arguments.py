"""What `allocate` is given: as utility the reward margin, and budgets in an operator's terms as rows of its arguments.

A row is a `cost`, its `budget` and its `at_least`. Letters: R responses, K budgets.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation.problem import Amount, CostArray, costs, finite_array
from ibpo.allocation.segments import MISSING, FloatArray, id_items, id_names, number_texts
from ibpo.errors import IbpoError


def share(response_group: ArrayLike | Sequence[Hashable], name: Hashable) -> NDArray[np.bool_]:
    """The 0/1 cost that makes a budget a share of problems answered by one response group.

    Args:
        response_group: `[R]` response group of each response.
        name: The response group that is budgeted.

    Returns:
        `[R]` true (a cost of 1) where the response is of that response group, else false.

    Example:
        >>> share(["standard", "extended", "standard"], "extended").tolist()
        [False, True, False]
    """
    groups = cast(NDArray[Any], response_group)
    if getattr(getattr(groups, "dtype", None), "kind", "O") in "biuU":  # at once: == means what it does for one item
        same = np.asarray(groups == name)
        if same.shape == groups.shape:
            return same
    items = id_items(response_group, "response_group")
    if isinstance(name, str):
        items = [x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in items]
    return np.array([(x == name) is True for x in items], bool)  # pandas' NA equals nothing, and is no truth value


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Limit:
    """A cost and bounds on its mean over *all* problems: `limit` makes it, `stack` passes several to `allocate`.

    Attributes:
        cost: `[R]`.
        at_most: Mean cost per problem allowed, exact; None: no upper bound.
        at_least: Mean cost per problem that must be reached, exact; None: no lower bound.
    """

    cost: CostArray
    at_most: Fraction | None
    at_least: Fraction | None


def limit(
    cost: ArrayLike,
    problem: ArrayLike | Sequence[Hashable],
    *,
    at_most: Amount | None = None,
    at_least: Amount | None = None,
    within: ArrayLike | None = None,
    total: bool = False,
) -> Limit:
    """Bound a cost: a share, tokens, money; over all problems or within a slice of them.

    With S the number of distinct problems of the slice and P that of all problems, a mean of b per problem of the slice
    is b S / P per problem of all, and a total of b is b / P.

    Args:
        cost: `[R]` e.g. `share(response_group, "extended")`, tokens, dollars, or ones (to count chosen responses).
        problem: `[R]` problem ids.
        at_most: Largest mean cost per problem (of the slice), or total cost with `total`.
        at_least: Smallest mean cost per problem (of the slice), or total cost with `total`.
        within: `[R]` true for the responses of the slice, e.g. `domain == "law"`; None: all.
        total: Bounds are totals instead of means per problem.

    Example:
        >>> one_accepted = limit([1, 1, 1, 1], [0, 0, 1, 2], within=[0, 0, 1, 1], at_least=1, total=True)
        >>> one_accepted.cost.tolist(), one_accepted.at_least
        ([0.0, 0.0, 1.0, 1.0], Fraction(1, 3))
    """
    items = id_items(problem, "problem")
    inside = np.ones(len(items), bool) if within is None else _truths(within, len(items))
    if within is not None and not inside.any():
        raise IbpoError("within: no response is inside the slice; correct its condition")
    return _limits(cost, items, [inside], at_most, at_least, total)[0]


def _limits(
    cost: ArrayLike,
    items: list[Hashable],
    slices_R: Iterable[NDArray[np.bool_]],
    at_most: Amount | None,
    at_least: Amount | None,
    total: bool,
) -> list[Limit]:
    """The same `limit` within each slice, true where a response `[R]` is inside; the ids are looked at once."""
    cost_R = costs(cost)
    if cost_R.dtype != bool:
        cost_R = finite_array("cost", cost_R)
    if cost_R.shape != (len(items),):
        raise IbpoError(f"cost: needs one number per response, {len(items)}, got shape {cost_R.shape}")
    if not items:
        raise IbpoError("cost: needs one number per response, at least one")
    if at_most is None and at_least is None:
        raise IbpoError("limit: give at_most, at_least, or both")
    bounds = [None if bound is None else _exact(bound) for bound in (at_most, at_least)]
    problems, p_R = number_texts(list(map(repr, items)))
    found: list[Limit] = []
    for inside in slices_R:
        # The bound per problem of all: b / P for a total, b S / P for a mean over the slice.
        part = Fraction(1 if total else len(np.unique(p_R[inside])), len(problems))
        most, least = (None if bound is None else bound * part for bound in bounds)
        found.append(Limit(cost=np.where(inside, cost_R, cost_R.dtype.type(0)), at_most=most, at_least=least))
    return found


def slices(
    cost: ArrayLike,
    problem: ArrayLike | Sequence[Hashable],
    domain: ArrayLike | Sequence[Hashable],
    *,
    at_most: Amount | None = None,
    at_least: Amount | None = None,
    total: bool = False,
) -> list[Limit]:
    """One `limit` for each domain, e.g. at most 30 % extended within each tenant; in order of first appearance.

    Args:
        cost: `[R]` e.g. `share(response_group, "extended")`.
        problem: `[R]` problem ids.
        domain: `[R]` the domain of each response's problem.
        at_most: As in `limit`, for every domain.
        at_least: As in `limit`, for every domain.
        total: As in `limit`.
    """
    items, problems = id_items(domain, "domain"), id_items(problem, "problem")
    if len(items) != len(problems):
        raise IbpoError(f"domain: needs one per response, {len(problems)}, got {len(items)}")
    for bad in MISSING & set(map(repr, items)) - {"None"}:
        raise IbpoError(f"domain[{list(map(repr, items)).index(bad)}] is {bad}: give every response one")
    place = {name: d for d, name in enumerate(dict.fromkeys(items))}
    d_R = np.fromiter(map(place.__getitem__, items), np.int64, len(items))
    return _limits(cost, problems, (d_R == d for d in range(len(place))), at_most, at_least, total)


def stack(limits: Sequence[Limit]) -> dict[str, Any]:
    """Join limits into arguments of `allocate`: `allocate(utility, problem, **stack([...]))`.

    Example:
        >>> from ibpo.allocation import allocate, share
        >>> group, tokens, problem = ["short", "long"] * 2, [10, 90, 20, 80], [0, 0, 1, 1]
        >>> rows = [limit(tokens, problem, at_most=60), limit(share(group, "long"), problem, at_least="1/2")]
        >>> allocate([0, 1, 0, 2], problem, **stack(rows)).weight.tolist()
        [1, 0, 0, 1]
    """
    limits = [limits] if isinstance(limits, Limit) else list(limits)
    if not limits:
        raise IbpoError("limits: at least one is needed")
    lengths = {len(row.cost) for row in limits}
    if len(lengths) > 1:
        raise IbpoError(
            f"limits: are of {' and '.join(map(str, sorted(lengths)))} responses; make all of the same ones"
        )
    arguments: dict[str, Any] = {
        "cost": np.stack([row.cost for row in limits]),
        "budget": [row.at_most for row in limits],
    }
    if any(row.at_least is not None for row in limits):
        arguments["at_least"] = [row.at_least for row in limits]
    return arguments


def _truths(within: ArrayLike, length: int) -> NDArray[np.bool_]:
    """`[R]` what is true or false of each response; names, as of the domain itself, are neither."""
    items = id_items(within, "within")
    if len(items) != length:
        raise IbpoError(f"within: needs one truth value per response, {length}, got {len(items)}")
    for r, item in enumerate(items):
        if not isinstance(item, int | float) or item not in (0, 1):
            raise IbpoError(f"within[{r}] is {item!r}: needs true or false, e.g. domain == 'law'")
    return np.array(items, bool)


def _exact(bound: Amount) -> Fraction:
    try:
        return Fraction(str(bound))
    except (ValueError, ZeroDivisionError):
        raise IbpoError(f"a bound is {bound!r}: needs a finite number") from None


def reward_margin(
    reward: ArrayLike,
    problem: ArrayLike | Sequence[Hashable],
    response_group: ArrayLike | Sequence[Hashable],
    *,
    unsampled: Literal["raise", "zero", "mean"] = "raise",
) -> FloatArray:
    r"""Reward minus the mean reward of the *other* response groups on the same problem.

    The utility of the lower level of IBPO (Yu et al., arXiv 2501.17974). With n_pg responses of response group g to
    problem p and their mean reward m_pg, a response r of response group g has

        margin_r = reward_r - sum_{h != g} n_ph m_ph / sum_{h != g} n_ph,

    so the subtracted term is the plain mean over the other response groups' responses.

    Args:
        reward: `[R]` reward of each response, e.g. 1 right, 0 wrong.
        problem: `[R]` problem ids.
        response_group: `[R]` names of the response groups, at least two distinct.
        unsampled: For a problem where no other response group was sampled the margin is undefined: "raise" an error;
            "zero" sets the margin to 0, so that it never earns budget; "mean" subtracts the mean reward of the other
            response groups' responses to *all* problems. To drop such problems, drop their rows before the call.

    Returns:
        `[R]` margins, all finite.

    Raises:
        IbpoError: Malformed input, or an undefined margin with `unsampled="raise"`.

    Example:
        >>> reward_margin([0, 1, 1, 1], ["p", "p", "p", "p"], ["cot", "cot", "sv", "sv"]).tolist()
        [-1.0, 0.0, 0.5, 0.5]
    """
    reward_R = finite_array("reward", reward)
    if reward_R.ndim != 1 or not len(reward_R):
        raise IbpoError(f"reward: needs one number per response, at least one, got shape {reward_R.shape}")
    names, p_R = np.unique(id_names("problem", problem, len(reward_R)), return_inverse=True)
    groups, g_R = np.unique(id_names("response_group", response_group, len(reward_R)), return_inverse=True)
    if len(groups) < 2:
        raise IbpoError(f"response_group: a margin needs at least two response groups, got only {groups[0]}")
    if unsampled not in ("raise", "zero", "mean"):
        raise IbpoError(f"unsampled: must be 'raise', 'zero' or 'mean', got {unsampled!r}")

    # n_pg and n_pg m_pg, added by size: equal rewards in another order of the rows are an equal sum, to the last bit.
    count, total = np.zeros((2, len(names), len(groups)))  # [P, G]
    order = np.lexsort((reward_R, g_R, p_R))
    np.add.at(count, (p_R, g_R), 1)
    np.add.at(total, (p_R[order], g_R[order]), reward_R[order])
    # sum_{h != g} n_ph, and sum_{h != g} n_ph m_ph, of the others alone: what is added and taken off leaves dust.
    others = count.sum(1, keepdims=True) - count
    others_total = np.stack([np.delete(total, g, axis=1).sum(1) for g in range(len(groups))], axis=1)
    undefined = others[p_R, g_R] == 0
    if undefined.any() and unsampled == "raise":
        raise IbpoError(
            f"problem {names[p_R[undefined][0]]}: only response group {groups[g_R[undefined][0]]} was sampled, so its "
            f"margin is undefined; {len(set(p_R[undefined]))} such problems: unsampled='zero' or 'mean', or drop them"
        )
    baseline = (others_total / np.maximum(others, 1))[p_R, g_R]
    if unsampled == "mean":
        elsewhere = (total.sum() - total.sum(0)) / (count.sum() - count.sum(0))
        baseline[undefined] = elsewhere[g_R[undefined]]
    margin = reward_R - baseline
    if unsampled == "zero":
        margin[undefined] = 0.0
    return margin
