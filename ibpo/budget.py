"""The text of a budget: one record and one parser for every command, recipe, plan file and the trainer.

| text | meaning |
|---|---|
| `extended=0.3`, `extended=30%`, `extended<=30%` | at most this share of the problems gets response group `extended` |
| `extended=1/3` | the same with an exact fraction |
| `extended>=10%` | at least this share |
| `tokens=2000` | at most 2,000 tokens per problem, on average; `money=0.002` in the same way, and `cost` is a log's own
cost |
| `tokens=0.5x`, `0.5x` | half of what is spent now |
| `tokens=25%range`, `25%range` | a quarter of the way from the cheapest response group to the most expensive |
| `extended@level=3=0.2` | a share of the problems whose column `level` holds 3 |
| `extended@level=0.2`, `extended@level>=0.2` | the same within each value of that column |
| `"gpt-5@high"=30%` | a name that holds `@`, `=`, `<` or `>`, between quotation marks of either kind |

Spaces may be around every part. A table (`[budget]` in TOML, `IBPOConfig.budget`) has the part before the amount as
its key and the amount as a number or a text: `extended = "30%"`, `"extended>=" = 0.1`, `"extended@level=3" = 0.2`.

Amounts are exact: `0.3` is 3/10. What a command cannot mean it refuses, with the reason; it never means something else.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction
from numbers import Real
from typing import Any, Literal

from ibpo.errors import IbpoError

TOKENS = "tokens"
COSTS = (TOKENS, "money", "cost")
"""Names of costs; every other name is a response group's, unless a command knows better."""
FEATURES = ("share", "cost", "at_least", "slice", "now", "range")
"""What a command may refuse of a budget; see `check_budget`."""
LARGEST = Fraction(10**300)
"""Amounts are multiplied with costs, which are floats."""
ROUNDING = Fraction(1, 10**9)
"""By which shares may miss a sum of 1: three thirds may be written as decimals."""
EXAMPLES = "extended=30%, 'extended>=10%', tokens=2000, tokens=0.5x or tokens=25%range"

_NUMBER = r"[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+(?:[eE][+-]?[0-9]{1,3})?|[0-9]+\s*/\s*[0-9]+"
_ODD = re.compile("^[\"']|[@=<>]")
_QUOTED = re.compile(r"""\s*(["'])(.+?)\1\s*(@?)(.*)""", re.DOTALL)
_AMOUNT = re.compile(rf"\s*({_NUMBER})\s*(%?)\s*((?:of\s+)?range|x)?\s*", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The part of the problems that a budget is about: a column and its value; `None`: each value for itself."""

    column: str
    value: str | None = None

    def __str__(self) -> str:
        return self.column if self.value is None else f"{self.column}={self.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """One bound on what answers cost, as it was written; `str` writes it again.

    Example:
        >>> budget = parse_budget(" extended@level=3 >= 10 %")
        >>> budget.name, budget.sense, budget.amount, budget.unit, budget.key
        ('extended', 'at_least', Fraction(1, 10), 'percent', 'extended@level=3>=')
        >>> str(budget)
        'extended@level=3>=10%'
    """

    name: str
    """A response group, whose share is bounded, or a cost: `tokens`, `money`."""
    sense: Literal["at_most", "at_least"] = "at_most"
    amount: Fraction
    """At least 0; 30 % is 3/10."""
    unit: Literal["number", "percent", "now", "range"] = "number"
    """`now`: times what is spent now; `range`: the part of the way from the cheapest to the most expensive group."""
    scope: Slice | None = None
    """None: all problems."""

    @property
    def key(self) -> str:
        """All but the amount, as a key of a table; of each problem's bounds no two may have the same.

        Example:
            >>> parse_budget("'gpt-5@high' >= 10%").key
            '"gpt-5@high">='
        """
        return write_name(self.name) + self._after_name

    @property
    def _after_name(self) -> str:
        where = "" if self.scope is None else f"@{self.scope}"
        return f"{where}{'>=' if self.sense == 'at_least' else ''}"

    @property
    def amount_text(self) -> str:
        """The amount alone, exactly."""
        number = self.amount * 100 if self.unit in ("percent", "range") else self.amount
        return _exact(number) + {"number": "", "percent": "%", "now": "x", "range": "%range"}[self.unit]

    def __str__(self) -> str:
        return self.key + ("" if self.sense == "at_least" else "=") + self.amount_text

    def in_cost(self, *, now: float, cheapest: float, most_expensive: float) -> Fraction:
        """The amount of a budget on a cost, in units of that cost.

        Args:
            now: What is spent now per problem, on average.
            cheapest: Mean cost of answering everything with the cheapest response group.
            most_expensive: The same with the most expensive one.

        Example:
            >>> parse_budget("tokens=25%range").in_cost(now=700, cheapest=100, most_expensive=900)
            Fraction(300, 1)
            >>> parse_budget("1x").in_cost(now=4 / 3, cheapest=1, most_expensive=2)  # four tokens for three problems
            Fraction(4, 3)
        """
        if self.unit == "now":
            return self.amount * _mean(now)
        if self.unit == "range":
            least = _mean(cheapest)
            return least + self.amount * (_mean(most_expensive) - least)
        return self.amount


def parse_budget(text: str, where: str = "") -> Budget:
    """The budget that a text says; see the module for the grammar.

    Args:
        text: As on the command line.
        where: What an error begins with; default: `--budget TEXT`.

    Raises:
        IbpoError: with the place, the cause and the fix.

    Example:
        >>> str(parse_budget("extended <= 1/3")), str(parse_budget("0.5x"))
        ('extended=1/3', 'tokens=0.5x')
    """
    where = where or f"--budget {text}"
    key, equals, amount = text.rpartition("=")
    if not equals:
        if not (found := _AMOUNT.fullmatch(text)):
            raise IbpoError(f"{where}: needs NAME=AMOUNT, e.g. {EXAMPLES}")
        if not found[3]:
            amount = text.strip()
            raise IbpoError(f"{where}: of what? Name it: extended={amount} (a response group) or tokens={amount}")
        key, amount = TOKENS, text
    at_least = key.endswith(">")
    return _budget(key[:-1] if key.endswith((">", "<")) else key, at_least, amount, where)


def parse_budget_entry(key: str, amount: Any, where: str = "") -> Budget:
    """The same from a table's key and value, which may be a number.

    Example:
        >>> str(parse_budget_entry("extended@level=3", 0.2)), str(parse_budget_entry("extended>=", "10%"))
        ('extended@level=3=0.2', 'extended>=10%')
    """
    where = where or f"budget {key!r}"
    if isinstance(amount, bool) or not isinstance(amount, str | Real):
        raise IbpoError(f"{where}: needs a number or a text like 30%, 0.5x or 25%range, got {amount!r}")
    key = key.strip()
    at_least, at_most = key.endswith(">="), key.endswith("<=")
    return _budget(key[:-2] if at_least or at_most else key, at_least, str(amount), where)


def parse_budget_table(table: Mapping[str, Any], where: str) -> list[Budget]:
    """All entries of a table; an error begins with `where` and the key, e.g. `recipe.toml: budget.extended`.

    Raises:
        IbpoError: also where two entries bound the same.
    """
    budgets = [parse_budget_entry(key, amount, f"{where}{key}") for key, amount in table.items()]
    check_distinct(budgets, where)
    return budgets


def budget_table(budgets: Iterable[Budget]) -> dict[str, float | str]:
    """A table that reads as these budgets: key -> a number, or a text where a number does not say it.

    Example:
        >>> budget_table(map(parse_budget, ("extended = 0.5", "extended >= 10%", "tokens@level=1/3")))
        {'extended': 0.5, 'extended>=': '10%', 'tokens@level': '1/3'}
    """
    return {
        budget.key: float(budget.amount)
        if budget.unit == "number" and Fraction(repr(float(budget.amount))) == budget.amount
        else budget.amount_text
        for budget in budgets
    }


def check_distinct(budgets: Iterable[Budget], where: str = "--budget ") -> None:
    """Refuse two bounds of one kind on the same thing, where all budgets hold together."""
    seen: set[str] = set()
    for budget in budgets:
        if budget.key in seen:
            raise IbpoError(f"{where}{budget.key}: is given twice; keep one of them")
        seen.add(budget.key)


def check_together(budgets: Iterable[Budget], groups: Collection[str], where: str = "--budget ") -> None:
    """Refuse shares that no choice of one response per problem can keep together, within each slice.

    Args:
        budgets: All that hold together.
        groups: The response groups.
        where: What an error begins with.

    Raises:
        IbpoError: with the place, the cause and the fix.
    """
    budgets = list(budgets)
    check_distinct(budgets, where)
    place = where.rstrip(" .")
    for scope in dict.fromkeys(budget.scope for budget in budgets):
        here = [budget for budget in budgets if budget.scope == scope and budget.name in groups]
        caps = {budget.name: budget.amount for budget in here if budget.sense == "at_most"}
        floors = {budget.name: budget.amount for budget in here if budget.sense == "at_least"}
        at = "" if scope is None else f" where {scope.column} is {scope.value or 'any one value'}"
        if len(caps) == len(groups) and sum(caps.values()) < 1 - ROUNDING:
            raise IbpoError(
                f"{place}: the shares of all response groups sum to {float(sum(caps.values())):g}{at}, less than 1: "
                "some problems would get no response; leave the standard one out"
            )
        if sum(floors.values()) > 1 + ROUNDING:
            raise IbpoError(
                f"{place}: the least shares sum to {float(sum(floors.values())):g}{at}, more than 1; lower them"
            )
        for name, floor in floors.items():
            if floor > caps.get(name, floor):
                raise IbpoError(
                    f"{place}: {name!r} must have at least {float(floor):g} and at most {float(caps[name]):g}{at}; "
                    "lower the first"
                )


def check_budget(
    budget: Budget,
    *,
    groups: Collection[str] | None,
    costs: Collection[str] = COSTS,
    refused: Mapping[str, str] | None = None,
    where: str = "",
) -> bool:
    """Whether a budget bounds a response group's share (else a cost), once it is clear that it can be meant.

    Args:
        budget: As it was parsed.
        groups: The response groups; None: not known yet, every name that is no cost is one.
        costs: Names of the costs that can be bounded.
        refused: Those of `FEATURES` that the caller cannot mean, with the reason and the fix.
        where: What an error begins with; default: `--budget TEXT`.

    Raises:
        IbpoError: with the place, the cause and the fix.
    """
    where = where or f"--budget {budget}"
    if groups is not None and budget.name not in groups and budget.name not in costs:
        whole = budget.key.removesuffix(">=")  # a name that was not put between quotation marks
        close = [whole] if whole in groups else difflib.get_close_matches(budget.name, [*groups, *costs], 1, 0.5)
        hint = f"; did you mean {write_name(close[0])}?" if close else ""
        costs = () if refused and "cost" in refused else costs
        cost = " and no cost" if costs else ""
        raise IbpoError(
            f"{where}: no response group{cost} is named {budget.name!r}; there are "
            f"{', '.join(map(write_name, [*groups, *costs]))}{hint}"
        )
    is_share = budget.name in groups if groups is not None else budget.name not in costs
    features = {
        "share": is_share,
        "cost": not is_share,
        "at_least": budget.sense == "at_least",
        "slice": budget.scope is not None,
    }
    _refuse(features, refused, where)
    relative = budget.unit in ("now", "range")
    amount = _exact(budget.amount)
    if is_share and relative:
        raise IbpoError(f"{where}: {budget.amount_text} is of a cost; a share is a number or a percentage: 0.3, 30%")
    if is_share and budget.amount > 1:
        equals = "" if budget.sense == "at_least" else "="
        fix = f"did you mean {budget.key}{equals}{amount}%?"
        if budget.scope is not None and budget.scope.value is None:
            fix = f"a slice of one value is {budget.key.removesuffix('>=')}=VALUE=SHARE"
        elif budget.unit == "percent" and costs and budget.scope is None and not set(refused or ()) & {"cost", "now"}:
            cost = f"{next(iter(costs))}{budget._after_name}"
            fix = f"did you mean {cost}{equals}{amount}x, so much of today's cost?"
        elif budget.unit == "percent":
            fix = f"write at most {budget.key}{equals}100%, which leaves the choice free"
            if budget.sense == "at_least":
                fix = f"write at most {budget.key}100%, that response group for every problem"
        elif budget.amount > 100:
            fix = f"a cost is named {' or '.join(costs)}" if costs else "lower it"
        raise IbpoError(f"{where}: a share is at most 100%; {fix}")
    if not is_share and budget.unit == "percent":
        raise IbpoError(
            f"{where}: a percentage of what? {budget.name}={amount}x is that part of what is spent now, "
            f"{budget.name}={_exact(100 * budget.amount)}%range that part of the way from the cheapest response group "
            "to the most expensive"
        )
    _refuse({budget.unit: relative}, refused, where)
    if budget.name == TOKENS and not is_share and not budget.amount and budget.unit != "range":
        raise IbpoError(f"{where}: every response costs tokens; write an amount above 0")
    if budget.unit == "range" and budget.amount > 1:
        raise IbpoError(f"{where}: goes from 0%range, the cheapest response group, to 100%range, the most expensive")
    return is_share


def write_name(name: str) -> str:
    """A name as a budget's text has it: between quotation marks where it holds a sign that means something else there.

    Example:
        >>> write_name("extended"), write_name("effort=low")
        ('extended', '"effort=low"')
    """
    mark = "'" if '"' in name else '"'
    return f"{mark}{name}{mark}" if _ODD.search(name) else name


def costs_named(column: str) -> tuple[str, ...]:
    """Names of the cost that a log's column holds: its own, `cost`, and `tokens` or `money` unless its name denies it.

    Example:
        >>> costs_named("completion_tokens"), costs_named("usd"), costs_named("c")
        (('tokens', 'cost', 'completion_tokens'), ('money', 'cost', 'usd'), ('tokens', 'money', 'cost', 'c'))
    """
    name = column.lower()
    money = any(word in name for word in ("money", "usd", "dollar", "eur", "price"))
    units = (TOKENS,) if "token" in name else ("money",) if money else (TOKENS, "money")
    return tuple(dict.fromkeys((*units, "cost", column)))


def cost_text(value: float) -> str:
    """An amount of a cost as people read it: tokens whole, money to three digits.

    Example:
        >>> cost_text(12345.6), cost_text(0.0040249), cost_text(5.0)
        ('12,346', '0.00402', '5')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def amount_to_ask(limit: float, *, at_least: bool = False) -> str:
    """A limit as an error advises it: few digits, without commas, and never on the side that cannot be kept.

    Args:
        limit: The least that can be kept, or with `at_least` the most.
        at_least: The budget is a lower bound, so that the digits are rounded down.

    Example:
        >>> amount_to_ask(1193.8777111111112), amount_to_ask(0.0040241), amount_to_ask(90.0)
        ('1194', '0.004025', '90')
        >>> amount_to_ask(1193.8777111111112, at_least=True), amount_to_ask(2 / 3, at_least=True)
        ('1193', '0.6666')
    """
    if not math.isfinite(limit):
        return str(limit)
    exact = Decimal(repr(float(limit)))
    last_digit = min(0, exact.adjusted() - 3)  # the fourth, and no digit of the whole part is lost
    with localcontext(prec=400):  # as many digits as floats have
        side = ROUND_FLOOR if at_least else ROUND_CEILING
        return _exact(Fraction(exact.quantize(Decimal(1).scaleb(last_digit), side)))


def move_budget(budget: Budget, limit: float, *, is_share: bool) -> Budget:
    """A budget that cannot be kept, moved to a limit that can: what an error advises to write instead.

    Args:
        budget: As it was asked.
        limit: The nearest mean cost, or share, that can be kept.
        is_share: It bounds a response group's share; it stays a percentage where it was one.

    Example:
        >>> str(move_budget(parse_budget("0.1x"), 1193.88, is_share=False))
        'tokens=1194'
        >>> str(move_budget(parse_budget("extended>=80%"), 2 / 3, is_share=True))
        'extended>=66.66%'
    """
    percent = is_share and budget.unit == "percent"
    asked = Fraction(amount_to_ask(100 * limit if percent else limit, at_least=budget.sense == "at_least"))
    return replace(budget, amount=asked / 100 if percent else asked, unit="percent" if percent else "number")


def _refuse(features: Mapping[str, bool], refused: Mapping[str, str] | None, where: str) -> None:
    for feature, has in features.items():
        if has and refused and feature in refused:
            raise IbpoError(f"{where}: {refused[feature]}")


def _budget(key: str, at_least: bool, amount: str, where: str) -> Budget:
    if quoted := _QUOTED.fullmatch(key):
        name, at, place = quoted[2], quoted[3], quoted[4].strip()
    else:
        name, at, place = (part.strip() for part in key.partition("@"))
    column, equals, value = (part.strip() for part in place.partition("="))
    if not name or (not quoted and _ODD.search(name)) or (place and not at):
        raise IbpoError(f"{where}: needs NAME=AMOUNT, e.g. {EXAMPLES}")
    if at and (not column or re.search("[<>]", column) or (equals and (not value or value[-1] in "<>="))):
        raise IbpoError(f"{where}: a slice is NAME@COLUMN=VALUE=AMOUNT or NAME@COLUMN=AMOUNT, for each value")
    number, unit = _amount(amount, where)
    scope = Slice(column=column, value=value if equals else None) if at else None
    return Budget(name=name, sense="at_least" if at_least else "at_most", amount=number, unit=unit, scope=scope)


def _amount(text: str, where: str) -> tuple[Fraction, Literal["number", "percent", "now", "range"]]:
    found = _AMOUNT.fullmatch(text)
    if found and found[3] == "x" and found[2]:
        found = None
    try:
        number = Fraction(re.sub(r"\s", "", found[1])) if found else None
    except (ValueError, ZeroDivisionError):
        number = None
    if found is None or number is None:
        raise IbpoError(
            f"{where}: {text.strip()!r} is not an amount; write a number (2000, 0.3), a fraction (1/3), a percentage "
            "(30%), a multiple of what is spent now (0.5x) or a part of the range (25%range)"
        )
    if number > LARGEST:
        raise IbpoError(f"{where}: {text.strip()!r} is more than can be counted; write at most 1e300")
    number = number / 100 if found[2] else number
    if found[3]:
        return number, "now" if found[3] == "x" else "range"
    return number, "percent" if found[2] else "number"


def _mean(value: float) -> Fraction:
    """The mean that a float stands for: the fraction that it is, up to its last bits, or the decimal that it prints.

    1.3333333333333333 tokens for each of three problems are less than the four that were spent.

    Example:
        >>> _mean(4 / 3), _mean(0.1 + 0.2), float(_mean(0.5**0.5))
        (Fraction(4, 3), Fraction(3, 10), 0.7071067811865476)
    """
    value = abs(float(value))
    # Fractions of denominators up to q are 1 / q^2 apart: not closer than the last bits.
    found = Fraction(value).limit_denominator(max(1, int(2.0**25 / math.sqrt(value)))) if value else Fraction(0)
    return found if abs(found - Fraction(value)) <= Fraction(value) / 2**50 else Fraction(str(value))


def _exact(number: Fraction) -> str:
    """As a decimal where it has one, else as a fraction.

    Example:
        >>> _exact(Fraction(1, 8)), _exact(Fraction(1, 3)), _exact(Fraction(2000))
        ('0.125', '1/3', '2000')
    """
    rest, places = number.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest > 1:
        return f"{number.numerator}/{number.denominator}"
    digits = str(number.numerator * 10**places // number.denominator).zfill(places + 1)
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits
