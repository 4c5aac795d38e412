"""What would another router have been worth on requests that were served by this one? From the log of the served."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.budget import costs_named
from ibpo.errors import IbpoError
from ibpo.routing.features import FloatArray
from ibpo.routing.router import MOST_NUMBER, Router
from ibpo.usage import COUNTS

LEAST_PROPENSITY = 1e-100
"""Weights of smaller ones have squares that are no floats; nothing so improbable is ever drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OffPolicyValue:
    """Mean reward of a candidate, estimated three ways, each with its standard error (NaN: of one request)."""

    ips: float
    """Inverse propensity: unbiased, of large variance where weights are."""
    ips_error: float
    self_normalised: float
    """Divided by the sum of the weights: a little biased, and never outside the rewards' range."""
    self_normalised_error: float
    doubly_robust: float | None
    """With predicted rewards: unbiased if the propensities are right, of small variance if the predictions are."""
    doubly_robust_error: float | None
    effective_size: float
    """(sum of weights)^2 / sum of their squares: how many requests the estimate is worth."""
    largest_weight: float


def evaluate_off_policy(
    response_group: Sequence[int],
    reward: Sequence[float],
    propensity: Sequence[float],
    candidate: FloatArray,
    predicted: FloatArray | None = None,
) -> OffPolicyValue:
    r"""Estimate the mean reward of a candidate router from served requests.

    With p_i the probability with which the response group a_i that answered was chosen (`Reservation.propensity`), pi
    the candidate's probabilities, w_i = pi_i(a_i) / p_i, r_i the reward and q predicted rewards,

        IPS = mean w r,     SNIPS = sum w r / sum w,     DR = mean [ sum_a pi(a) q(a) + w (r - q(a_i)) ].

    Assumed: the propensities are those by which was drawn (the controller's are, given all that came before); each is
    above 0 wherever the candidate would act (with `explore` at 0 they are 1, and only agreement can be judged); a
    request's reward depends on its own answer alone; whose outcome is missing is missing whatever it was. A budget
    couples requests by its price: the candidate is judged with the choices given here, at whatever price made them, and
    not by what the budget would have made of other spending.

    Args:
        response_group: `[N]` places of the response groups that answered.
        reward: `[N]`.
        propensity: `[N]` in (0, 1].
        candidate: `[N, G]` probabilities of the candidate, each row's sum 1; 0/1 for a router that does not draw.
        predicted: `[N, G]` expected rewards, e.g. of a fitted router; they must not come from these rewards.

    Raises:
        IbpoError: Lengths that differ, or numbers out of range; or a candidate that agrees with none of the log.

    Example:
        >>> found = evaluate_off_policy([0, 1, 1, 0], [0, 1, 1, 0], [0.5] * 4, np.array([[0.0, 1.0]] * 4))
        >>> found.ips, found.self_normalised, found.effective_size
        (1.0, 1.0, 2.0)
    """
    named, r, p, pi = (
        _numbers(*given)
        for given in (
            ("response_group", response_group),
            ("reward", reward),
            ("propensity", propensity),
            ("candidate", candidate),
        )
    )
    size = len(named) if named.ndim == 1 else 0
    if not size or r.shape != (size,) or p.shape != (size,) or pi.ndim != 2 or len(pi) != size:
        raise IbpoError("off-policy evaluation needs one response group, reward, propensity and row for each request")
    if not (np.abs(r) <= MOST_NUMBER).all() or not ((p >= LEAST_PROPENSITY) & (p <= 1)).all():
        raise IbpoError(
            f"off-policy evaluation needs finite rewards, {MOST_NUMBER:g} at most in size, and propensities from "
            f"{LEAST_PROPENSITY:g} to 1"
        )
    if not np.isin(named, np.arange(pi.shape[1])).all():
        raise IbpoError(f"a response group is not among the candidate's {pi.shape[1]}")
    place = named.astype(int)
    if (pi < 0).any() or not np.allclose(pi.sum(axis=1), 1.0):
        raise IbpoError("each row of the candidate must be probabilities, whose sum is 1")
    rows = np.arange(size)
    weight = pi[rows, place] / p
    total = float(weight.sum())
    if total == 0:
        raise IbpoError("the candidate agrees with none of these choices: the log says nothing about it; explore more")
    normalised = float(weight @ r / total)
    direct, direct_error = None, None
    if predicted is not None:
        q = _numbers("predicted", predicted)
        if q.shape != pi.shape or not np.isfinite(q).all():
            raise IbpoError(f"predicted must be {pi.shape} finite numbers; it is {q.shape}")
        direct, direct_error = _mean((pi * q).sum(axis=1) + weight * (r - q[rows, place]))
    ips, ips_error = _mean(weight * r)
    spread = weight * (r - normalised) / (total / size)
    return OffPolicyValue(
        ips=ips,
        ips_error=ips_error,
        self_normalised=normalised,
        # One request that the candidate agrees with is its own mean, however far that is from the others.
        self_normalised_error=_mean(spread)[1] if np.count_nonzero(weight) > 1 else math.nan,
        doubly_robust=direct,
        doubly_robust_error=direct_error,
        effective_size=float(total * total / (weight @ weight)),
        largest_weight=float(weight.max()),
    )


def _numbers(argument: str, values: Any) -> FloatArray:
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError, OverflowError) as error:
        said = "; give places, not names" if argument == "response_group" else ""
        raise IbpoError(f"{argument}: needs an array of numbers: {error}{said}") from None


def _mean(values: FloatArray) -> tuple[float, float]:
    """Mean and its standard error, which one value has not."""
    return float(values.mean()), float(values.std() / np.sqrt(len(values) - 1)) if len(values) > 1 else math.nan


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Served:
    """Requests of a gateway's log whose prompt and outcome are known. N of them."""

    prompts: list[Any]
    response_group: list[str]
    reward: FloatArray
    tokens: FloatArray
    """`[N]` completion tokens; NaN where they were not counted."""
    propensity: FloatArray
    price: list[dict[str, float | None]]
    """Budget -> gain that a unit had to bring; None: no gain was enough."""
    counts: dict[str, str]
    """Budget -> what it counts: the name of a response group, "tokens" or "money"; {}: the log does not say."""
    num_requests: int
    """In the log, with or without an outcome."""


def read_served(path: str | Path) -> Served:
    """Read the log of `ibpo serve` (JSON lines): requests that were answered, and their outcomes.

    Prompts are in the log with `log_bodies = true`, outcomes where they were posted to `/outcomes`. Requests for
    several answers are left out: their outcome is of no one of them.

    Raises:
        IbpoError: No such file, a line that is not a JSON object, or nothing to be judged by.
    """
    requests: dict[str, dict[str, Any]] = {}
    rewards: dict[str, float] = {}
    counts: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line) if line.strip() else {}
                    event, name = row.get("event"), str(row.get("request_id"))
                    if event == "listening":
                        counts |= row.get("budgets") or {}
                    elif event == "outcome":
                        rewards[name] = _number(row, "reward")
                    elif event == "request" and row["outcome"] == "answered":
                        requests[name] = _checked(row)
                except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
                    raise IbpoError(f"{path} line {number}: no line of a gateway's log: {error!r}; remove it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise IbpoError(f"{path}: cannot be read: {error}; name the log of ibpo serve") from None
    found = [
        (row, prompt, rewards[name])
        for name, row in requests.items()
        if name in rewards and (prompt := _prompt(row.get("body"))) is not None
    ]
    if not found:
        raise IbpoError(
            f"{path}: {len(requests)} answered requests, {len(rewards)} outcomes, none with its prompt; serve with "
            "log_bodies = true and learn = true, and post outcomes to /outcomes"
        )
    return Served(
        prompts=[prompt for _, prompt, _ in found],
        response_group=[str(row.get("response_group")) for row, _, _ in found],
        reward=np.array([reward for _, _, reward in found]),
        tokens=np.array([row["tokens"] for row, _, _ in found]),
        propensity=np.array([row["propensity"] for row, _, _ in found]),
        price=[row["price"] for row, _, _ in found],
        counts=counts,
        num_requests=len(requests),
    )


def _number(row: dict[str, Any], name: str, least: float = -MOST_NUMBER, most: float = MOST_NUMBER) -> float:
    """A number of a line.

    Raises:
        ValueError, TypeError: It is not one, or it is out of range.
    """
    if not least <= (value := float(row[name])) <= most:
        raise ValueError(f"{name} is {value:g}; it must be from {least:g} to {most:g}")
    return value


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """A request's line with numbers for its tokens (NaN: not counted), propensity (1: nothing was drawn) and prices."""
    prices = row.get("price") or {}
    return row | {
        "tokens": math.nan if row.get("tokens") is None else _number(row, "tokens", 0.0),
        "propensity": _number({"propensity": 1.0} | row, "propensity", LEAST_PROPENSITY, 1.0),
        "price": {name: None if price is None else _number(prices, name) for name, price in prices.items()},
    }


def _prompt(body: Any) -> Any:
    """The one prompt of a request for one answer, as text or messages; None: there are several, or tokens."""
    if not isinstance(body, dict) or any(body.get(name) not in (None, 1) for name in COUNTS):
        return None
    found = next((body[name] for name in ("messages", "prompt", "input") if body.get(name)), None)
    if isinstance(found, list) and not all(isinstance(one, dict) for one in found):
        return found[0] if len(found) == 1 and isinstance(found[0], str) else None
    return found if isinstance(found, str | list) else None


def judge_served(router: Router, served: Served) -> dict[str, Any]:
    """What a router would have been worth on served requests, at the prices that they were served at.

    It takes the response group with the largest gain - sum of price x cost: a budget on a response group costs 1 of it,
    one of tokens or of money what the router expects, where it was fitted on that. Where no gain was enough it takes
    the first one. Predicted rewards, for the doubly robust estimate, are its gains above a level that the other half of
    the requests says.

    Returns:
        `value` (`OffPolicyValue`), `served` and `served_error` (the mean reward as it was), `agreement`, `tokens` (the
        candidate's mean, self-normalised; None: not known), `served_tokens`, `explored` (part with propensity below 1).

    Raises:
        IbpoError: Response groups that the router does not know, a router that needs more than prompts, or a budget
            that counts what the router does not expect.
    """
    names = {name: i for i, name in enumerate(router.groups)}
    unknown = sorted(set(served.response_group) - set(names))
    if unknown:
        raise IbpoError(
            f"the log has the response groups {', '.join(unknown)}, and the router knows {', '.join(router.groups)}; "
            "judge it on requests for its own model"
        )
    if router.first:
        raise IbpoError("a router that decides after the first answer cannot be judged by prompts; fit it without")
    scores, size = router.scores(served.prompts), len(served.prompts)
    net = scores.gain.copy()
    kinds = costs_named(router.cost_name)
    for i, prices in enumerate(served.price):
        for budget, price in prices.items():
            counted = served.counts.get(budget, budget)
            if counted not in names and counted not in kinds:
                said = counted if budget in served.counts else "the log does not say what"
                raise IbpoError(
                    f"the requests were priced by the budget {budget!r}, of {said}, and the router knows "
                    f"{', '.join(names)} and {kinds[0]}: judge it on the log of a gateway with such budgets"
                )
            cost = (np.arange(len(names)) == names[counted]).astype(float) if counted in names else scores.cost[i]
            if price is None:
                net[i, cost > cost.min()] = -math.inf
            else:
                net[i] -= price * cost
    pick = net.argmax(axis=1)
    candidate = np.eye(len(names))[pick]
    place = np.array([names[name] for name in served.response_group])
    left = served.reward - scores.gain[np.arange(size), place]
    half = np.arange(size) % 2
    level = np.array([left[half != side].mean() if (half != side).any() else 0.0 for side in (0, 1)])[half]
    value = evaluate_off_policy(
        place.tolist(), served.reward.tolist(), served.propensity.tolist(), candidate, level[:, None] + scores.gain
    )
    counted = np.isfinite(served.tokens)
    tokens = None
    if counted.any() and (place == pick)[counted].any():
        tokens = evaluate_off_policy(
            place[counted].tolist(),
            served.tokens[counted].tolist(),
            served.propensity[counted].tolist(),
            candidate[counted],
        ).self_normalised
    mean, error = _mean(served.reward)
    return {
        "value": value,
        "served": mean,
        "served_error": error,
        "agreement": float((place == pick).mean()),
        "tokens": tokens,
        "served_tokens": float(served.tokens[counted].mean()) if counted.any() else None,
        "explored": float((served.propensity < 1).mean()),
    }
