"""Budgets of a training run: what `ibpo.budget` reads, as bounds on the responses that the allocation chooses.

Shares of response groups and mean tokens per prompt, at most or at least, several at once, of all prompts or of slices
of the data set.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from ibpo.budget import TOKENS, Budget, check_budget, check_together, parse_budget_table, write_name
from ibpo.errors import IbpoError

CONFIG = "IBPOConfig: budget "
"""What an error begins with, where nobody says otherwise."""
UNKNOWN = (
    "what is spent is not known before anything is sampled; measure it (ibpo eval), and write mean tokens per prompt, "
    "e.g. tokens=200"
)
NOT_BEFORE_SAMPLING = {"now": UNKNOWN, "range": UNKNOWN}
"""What a training cannot mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetTerm:
    """One bound on what the chosen responses cost, per prompt of its slice."""

    key: str
    """`Budget.key`; names the term in metrics and messages."""
    group: int | None
    """Index of the response group whose share is bounded; None: mean tokens."""
    amount: Fraction
    """Share in [0, 1], or tokens."""
    at_least: bool = False
    column: str = ""
    """Column of the data set that the slice is cut by; "": all prompts."""
    value: str = ""

    @property
    def is_plain_share(self) -> bool:
        """Whether it caps a share of all prompts."""
        return self.group is not None and not self.at_least and not self.column

    @property
    def is_plain_total(self) -> bool:
        """Whether it caps the tokens of all prompts."""
        return self.group is None and not self.at_least and not self.column


def read_budget(
    budget: Mapping[str, Any], names: Sequence[str], values_of: Callable[[str], Collection[str] | None]
) -> list[BudgetTerm]:
    """The terms of `IBPOConfig.budget`: `bind_budgets` of its entries.

    Example:
        >>> terms = read_budget({"sv": "50%", "tokens": 200}, ["cot", "sv"], lambda column: None)
        >>> [(term.key, term.group, term.amount) for term in terms]
        [('sv', 1, Fraction(1, 2)), ('tokens', None, Fraction(200, 1))]
    """
    return bind_budgets(parse_budget_table(budget, CONFIG), names, values_of, refused=NOT_BEFORE_SAMPLING)


def bind_budgets(
    budgets: Sequence[Budget],
    names: Sequence[str],
    values_of: Callable[[str], Collection[str] | None],
    *,
    refused: Mapping[str, str] | None = None,
    spent: Mapping[str, float] | None = None,
    where: str = CONFIG,
) -> list[BudgetTerm]:
    """Budgets that hold together as terms over response groups; a slice by a whole column becomes a term per value.

    Args:
        budgets: as they were parsed.
        names: of the response groups, in their order.
        values_of: column -> its distinct values, or None where the data set does not tell (a stream).
        refused: see `check_budget`.
        spent: mean tokens: `now`, `cheapest`, `most_expensive`; needed unless `refused` holds `now` and `range`.
        where: what an error begins with.

    Raises:
        IbpoError: with the budget and the fix: an unknown name, column or value, an amount out of range, or bounds that
            no allocation of one response per prompt can keep.
    """
    bound: list[Budget] = []
    for budget in budgets:
        check_budget(budget, groups=names, costs=(TOKENS,), refused=refused, where=f"{where}{budget}")
        bound += _spread(budget, values_of(budget.scope.column), where) if budget.scope else [budget]
    check_together(bound, names, where)
    return [_term(budget, names, spent) for budget in bound]


def _spread(budget: Budget, values: Collection[str] | None, where: str) -> list[Budget]:
    scope, place = budget.scope, f"{where}{budget}"
    assert scope is not None
    if values is None:
        if scope.value is not None:
            return [budget]
        raise IbpoError(
            f"{place}: the values of a stream's column are not known in advance; write one budget "
            f"{write_name(budget.name)}@{scope.column}=VALUE for each"
        )
    if scope.value is None:
        return [replace(budget, scope=replace(scope, value=value)) for value in sorted(values)]
    if scope.value not in values:
        near = difflib.get_close_matches(scope.value, values, n=1)
        known = sorted(value for value in values if value)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known[:8])}"
        hint = hint if known else "no prompt has any; name the column that holds it, or leave the slice out"
        raise IbpoError(f"{place}: no prompt has {scope.column} = {scope.value!r}; {hint}")
    return [budget]


def _term(budget: Budget, names: Sequence[str], spent: Mapping[str, float] | None) -> BudgetTerm:
    group = list(names).index(budget.name) if budget.name in names else None
    return BudgetTerm(
        key=budget.key,
        group=group,
        amount=budget.in_cost(**spent) if group is None and spent else budget.amount,
        at_least=budget.sense == "at_least",
        column=budget.scope.column if budget.scope else "",
        value=(budget.scope and budget.scope.value) or "",
    )
