"""Budgets of a training run, in its user's terms: shares, tokens, several at once, slices of the data set.

    extended                    at most this share of the prompts
    tokens                      at most so many tokens per prompt, on average
    extended>=                  at least this share
    extended@domain=geometry    of the prompts whose column `domain` holds geometry
    extended@domain             the same within each value of that column

`ibpo allocate` and `ibpo replay` take the same as text: `extended=0.5`, `tokens=200`, `extended>=0.1`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ibpo.errors import IbpoError

TOKENS = "tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetTerm:
    """One bound on what the chosen responses cost, per prompt of its slice."""

    key: str
    """As the user wrote it; names the term in metrics and messages."""
    group: int | None
    """Index of the response group whose share is bounded; None: mean tokens."""
    amount: float
    """Share in [0, 1], or tokens."""
    at_least: bool = False
    column: str = ""
    """Column of the data set that the slice is cut by; "": all prompts."""
    value: str = ""

    @property
    def is_plain_share(self) -> bool:
        """Whether it caps a share of all prompts: what the feedback can steer."""
        return self.group is not None and not self.at_least and not self.column


def name_of(key: str) -> str:
    """The response group, or `tokens`, that a key is about.

    Example:
        >>> name_of("extended@domain=geometry>="), name_of("tokens")
        ('extended', 'tokens')
    """
    return key.removesuffix(">=").partition("@")[0]


def read_budget(
    budget: Mapping[str, float], names: Sequence[str], values_of: Callable[[str], Collection[str] | None]
) -> list[BudgetTerm]:
    """The terms of a budget, slices by a whole column spread into one term per value.

    Args:
        budget: key -> amount; see the module.
        names: of the response groups, in their order.
        values_of: column -> its distinct values, or None where the data set does not tell (a stream).

    Raises:
        IbpoError: with the key and the mend: an unknown name, column or value, an amount out of range, or bounds that
            no allocation of one response per prompt can keep.

    Example:
        >>> terms = read_budget({"sv": 0.5, "tokens": 200}, ["cot", "sv"], lambda column: None)
        >>> [(term.key, term.group, term.amount) for term in terms]
        [('sv', 1, 0.5), ('tokens', None, 200.0)]
    """
    terms: list[BudgetTerm] = []
    for key, amount in budget.items():
        check_amount(key, amount)
        name, _, place = key.removesuffix(">=").partition("@")
        if name not in (*names, TOKENS):
            raise IbpoError(
                f"IBPOConfig: budget names {name!r}, response groups are {list(names)} (or `tokens`); mend it"
            )
        column, equals, value = place.partition("=")
        if "@" in key and (not column or (equals and not value)):
            raise IbpoError(f"IBPOConfig: budget {key!r}: a slice is NAME@COLUMN=VALUE or NAME@COLUMN; mend it")
        term = BudgetTerm(
            key=key,
            group=None if name == TOKENS else list(names).index(name),
            amount=float(amount),
            at_least=key.endswith(">="),
            column=column,
            value=value,
        )
        terms += _spread(term, equals, values_of(column)) if column else [term]
    _check_together(terms, names)
    return terms


def check_amount(key: str, amount: float) -> None:
    """Refuse a share outside [0, 1] and a negative or infinite number of tokens."""
    if name_of(key) == TOKENS:
        if not (amount > 0 and math.isfinite(amount)):
            raise IbpoError(f"IBPOConfig: budget of {key!r} is mean tokens per prompt, above 0, got {amount}")
    elif not 0.0 <= amount <= 1.0:
        raise IbpoError(f"IBPOConfig: budget of {key!r} is a share of prompts, in [0, 1], got {amount}")


def _spread(term: BudgetTerm, equals: str, values: Collection[str] | None) -> list[BudgetTerm]:
    if values is None:
        if equals:
            return [term]
        raise IbpoError(
            f"IBPOConfig: budget {term.key!r}: the values of a stream's column are not known beforehand; "
            f"write one {term.key}=VALUE for each"
        )
    if equals:
        if term.value not in values:
            near = difflib.get_close_matches(term.value, values, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(values)[:8])}"
            raise IbpoError(f"IBPOConfig: budget {term.key!r}: no prompt has {term.column} = {term.value!r}; {hint}")
        return [term]
    floor = ">=" if term.at_least else ""
    key = term.key.removesuffix(">=")
    return [replace(term, key=f"{key}={value}{floor}", value=value) for value in sorted(values)]


def _check_together(terms: Sequence[BudgetTerm], names: Sequence[str]) -> None:
    """What can be seen before anything is sampled: exactly one response is chosen per prompt."""
    keys = [term.key for term in terms]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise IbpoError(f"IBPOConfig: budget {twice!r} is given twice; leave one out")
    for scope in {(term.column, term.value) for term in terms}:
        here = [term for term in terms if (term.column, term.value) == scope and term.group is not None]
        caps = {term.group: term.amount for term in here if not term.at_least}
        floors = {term.group: term.amount for term in here if term.at_least}
        where = f" where {scope[0]} is {scope[1]}" if scope[0] else ""
        if len(caps) == len(names) and sum(caps.values()) < 1 - 1e-9:
            raise IbpoError(
                f"IBPOConfig: budget: the shares of all response groups sum to {sum(caps.values()):g}{where}, "
                "less than 1: some prompts would get no response; leave the standard one out"
            )
        if sum(floors.values()) > 1 + 1e-9:
            raise IbpoError(
                f"IBPOConfig: budget: the least shares sum to {sum(floors.values()):g}{where}, more than 1; lower them"
            )
        for group, floor in floors.items():
            if group in caps and floor > caps[group]:
                raise IbpoError(
                    f"IBPOConfig: budget: {names[group or 0]!r} must have at least {floor:g} and at most "
                    f"{caps[group]:g}{where}; lower the first"
                )
