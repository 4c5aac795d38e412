"""Do the budgets, the response groups and the router of a gateway belong together? Asked once, at the start."""

from __future__ import annotations

import math
from typing import Any

from ibpo.config import nearest
from ibpo.errors import IbpoError
from ibpo.serving.gateway.demand import DEFAULT_TOKENS
from ibpo.serving.gateway.settings import GroupSettings, ModelSettings, Settings
from ibpo.serving.plan import Budget, Plan


def check_groups(settings: Settings, plan: Plan) -> None:
    """Budgets speak of response groups that exist, and have room for each of them.

    Raises:
        IbpoError: Names the budget or the response group.
    """
    rows = _rows(settings)
    names = sorted({group.name for _, group in rows})
    for budget in plan.budgets:
        if budget.response_group is not None:
            if budget.response_group not in names:
                raise IbpoError(
                    f"budget {budget.name!r}: no model has a response group {budget.response_group!r}; "
                    f"{nearest(budget.response_group, names)}"
                )
            continue
        if budget.name != "tokens":
            raise IbpoError(
                f"budget {budget.name!r}: a gateway counts tokens; name it tokens, or give it a response_group"
            )
        room = budget.mean + budget.overdraft + budget.carry
        for model, group in rows:
            if group is model.response_group[0]:
                continue
            where = f"response group {group.name!r} of model {model.name!r}"
            if _expected(group) > room:
                raise IbpoError(
                    f"budget 'tokens': has room for {room:g} tokens at a time, and an answer of {where} is expected "
                    f"to take {_expected(group):g}: none would ever be given; set overdraft to that or more"
                )
            if (group.max_tokens or 0) > room + budget.cushion:
                raise IbpoError(
                    f"budget 'tokens': has room for {room + budget.cushion:g} tokens with its cushion, and an answer "
                    f"of {where} may take {group.max_tokens}: none would ever be given; raise the cushion to "
                    f"{group.max_tokens} or more, or lower the group's cap"
                )


def check_router(settings: Settings, router: Any) -> None:
    """The router knows the response groups of every model that asks it.

    Args:
        settings: The gateway's.
        router: If it says which response groups it knows, as `groups`.

    Raises:
        IbpoError: Names the model and both sides' response groups.
    """
    known = getattr(router, "groups", None)
    if known is None:
        return
    for model in settings.model:
        names = [group.name for group in model.response_group]
        if len(names) > 1 and "router" in model.choose and not set(names) <= set(known):
            raise IbpoError(
                f"--router: knows the response groups {', '.join(known)}, and model {model.name!r} has "
                f"{', '.join(names)}: it would say nothing; name them alike, or take router out of the model's choose"
            )


def cautions(settings: Settings, plan: Plan) -> list[str]:
    """What an operator should know of the bound on the tokens, one sentence each; nothing without such a budget."""
    said: list[str] = []
    for budget in plan.budgets:
        rows = [row for row in _rows(settings) if len(row[0].response_group) > 1]
        if budget.response_group is None and rows:
            said += _of_tokens(budget, rows, settings.limits.max_in_flight)
    return said


def _of_tokens(budget: Budget, rows: list[tuple[ModelSettings, GroupSettings]], most: int) -> list[str]:
    open_ended = [f"{group.name} of model {model.name}" for model, group in rows if group.max_tokens is None]
    if open_ended:
        return [
            f"budget {budget.name}: the overdraft has no hard bound, as {', '.join(open_ended)} has no max_tokens and "
            "callers need not give any: an overrun is paid back later"
        ]
    excess = max((group.max_tokens or 0) - min(_expected(group), group.max_tokens or 0) for _, group in rows)
    if budget.cushion < most * excess:
        held = math.floor(budget.cushion / excess)
        return [
            f"budget {budget.name}: its cushion of {budget.cushion:,.0f} has room for the caps of some {held} answers "
            f"at a time, and {most} may be under way (limits.max_in_flight): more get no extended reasoning"
        ]
    return [
        f"budget {budget.name}: if all of {most} answers under way (limits.max_in_flight) ran into their caps, it "
        f"would be overspent by {budget.overdraft + most * excess:,.0f} tokens; lower caps or set a cushion for less"
    ]


def _rows(settings: Settings) -> list[tuple[ModelSettings, GroupSettings]]:
    return [(model, group) for model in settings.model for group in model.response_group]


def _expected(group: GroupSettings) -> float:
    """Completion tokens that an answer is taken for before any has ended."""
    tokens = DEFAULT_TOKENS if group.tokens is None else group.tokens
    return min(tokens, group.max_tokens or math.inf)
