"""What did it save that not every request got the most expensive response group? An estimate, with its error.

Nobody made those answers, so nobody knows what they would have cost. What is known: what the gateway expected each of
them to take, and by which factor answers of that response group differed from what was expected of them. With e_i the
tokens expected of request i by the most expensive response group that it could have had, a_i the tokens of its answer,
and the factor r = sum a / sum e over the requests that did get that group,

    saved = sum_i (r e_i - a_i)            over the requests that got a cheaper one,
    variance = (sum_i e_i)^2 var(r) + n s^2,

var(r) = m s^2 / (sum e)^2 with m answers in r and s^2 their mean square of a - r e. In money the prompt is billed as it
was, cached alike, at the most expensive group's price, and r e_i tokens of output at its price.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

FEWEST = 30
"""Answers of the most expensive response group before anything is claimed."""


class Comparison(NamedTuple):
    """The most expensive response group that a request could have had."""

    response_group: str
    tokens: float
    """Expected of its answers, all together."""


@dataclass(slots=True)
class _Sums:
    """Sums of one model and its most expensive response group."""

    num: int = 0
    expected: float = 0.0
    squares: float = 0.0  # of the actual tokens
    products: float = 0.0  # actual times expected
    expected_squares: float = 0.0
    actual: float = 0.0
    num_cheaper: int = 0
    cheaper_expected: float = 0.0
    cheaper_actual: float = 0.0
    num_billed: int = 0  # of the cheaper ones, those whose price is known
    billed_prompts: float = 0.0
    billed_expected: float = 0.0
    billed_rates: float = 0.0  # expected tokens times the price of one
    billed_actual: float = 0.0
    billed_all: float = 0.0  # what all answers were billed


class Saving(NamedTuple):
    """An estimate: what was saved, its standard error, and what it is a part of."""

    amount: float
    error: float
    compared: float
    """What the same requests would have cost by the most expensive response group."""
    num_requests: int

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return self.amount - 1.96 * self.error

    @property
    def high(self) -> float:
        """The upper end."""
        return self.amount + 1.96 * self.error


class Savings:
    """Adds up what answers took and what the most expensive response group was expected to take.

    Example:
        >>> savings = Savings()
        >>> for i in range(40):
        ...     savings.add("m", "long", Comparison("long", 100.0), 90.0 + i % 3)
        ...     savings.add("m", "short", Comparison("long", 100.0), 10.0)
        >>> saving = savings.of_tokens()
        >>> round(saving.amount), round(saving.compared), saving.num_requests
        (3239, 7278, 40)
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], _Sums] = {}

    def add(
        self,
        model: str,
        response_group: str,
        comparison: Comparison,
        tokens: float,
        money: tuple[float, float, float] | None = None,
    ) -> None:
        """Take an answer in.

        Args:
            model: As the settings name it.
            response_group: What it got.
            comparison: What it could have had.
            tokens: What it took, as the upstream reported.
            money: What it was billed; what its prompt would be billed by the other group; that group's price of a token
                of output. None: there are no prices, or the prompt is not known.
        """
        sums = self._sums.get((model, comparison.response_group))
        if sums is None:
            sums = self._sums[model, comparison.response_group] = _Sums()
        expected = comparison.tokens
        if money is not None:
            sums.billed_all += money[0]
        if response_group == comparison.response_group:
            sums.num += 1
            sums.expected += expected
            sums.actual += tokens
            sums.squares += tokens * tokens
            sums.products += tokens * expected
            sums.expected_squares += expected * expected
            return
        sums.num_cheaper += 1
        sums.cheaper_expected += expected
        sums.cheaper_actual += tokens
        if money is not None:
            sums.num_billed += 1
            sums.billed_actual += money[0]
            sums.billed_prompts += money[1]
            sums.billed_expected += expected
            sums.billed_rates += expected * money[2]

    @property
    def num_cheaper(self) -> int:
        """Answers that a cheaper response group gave."""
        return sum(sums.num_cheaper for sums in self._sums.values())

    @property
    def num_answers(self) -> int:
        """All answers that were taken in."""
        return sum(sums.num + sums.num_cheaper for sums in self._sums.values())

    def missing(self) -> list[tuple[str, str, int]]:
        """Model, response group, and its number of answers, where they are too few for a claim."""
        return [
            (model, group, sums.num)
            for (model, group), sums in self._sums.items()
            if sums.num_cheaper and (sums.num < FEWEST or not sums.expected)
        ]

    def of_tokens(self) -> Saving | None:
        """Completion tokens saved; None: too little is known for any model."""
        found: list[Saving] = []
        for sums, ratio, variance in self._known():
            compared = ratio * sums.cheaper_expected
            error = _error(sums, sums.cheaper_expected, sums.num_cheaper, variance)
            all_compared = compared + sums.actual
            found.append(Saving(compared - sums.cheaper_actual, error, all_compared, sums.num_cheaper))
        return _total(found)

    def of_money(self) -> Saving | None:
        """Money saved; None: too little is known for any model, or there are no prices."""
        found: list[Saving] = []
        for sums, ratio, variance in self._known():
            if not sums.num_billed or not sums.billed_expected:
                continue
            price = sums.billed_rates / sums.billed_expected
            compared = sums.billed_prompts + ratio * sums.billed_rates
            error = price * _error(sums, sums.billed_expected, sums.num_billed, variance)
            all_compared = compared + sums.billed_all - sums.billed_actual
            found.append(Saving(compared - sums.billed_actual, error, all_compared, sums.num_billed))
        return _total(found)

    def _known(self) -> list[tuple[_Sums, float, float]]:
        """Sums with enough answers of the most expensive group, its factor, and the variance of one answer."""
        found: list[tuple[_Sums, float, float]] = []
        for sums in self._sums.values():
            if sums.num >= FEWEST and sums.expected > 0 and sums.num_cheaper:
                ratio = sums.actual / sums.expected
                square = sums.squares - 2 * ratio * sums.products + ratio**2 * sums.expected_squares
                found.append((sums, ratio, max(0.0, square) / (sums.num - 1)))
        return found


def _error(sums: _Sums, expected: float, count: int, variance: float) -> float:
    """The standard error of what so many answers, expected to take so much, would have taken."""
    return math.sqrt(variance * (sums.num * (expected / sums.expected) ** 2 + count))


def _total(found: Sequence[Saving]) -> Saving | None:
    if not found:
        return None
    error = math.sqrt(sum(row.error**2 for row in found))
    amount, compared = (sum(row[i] for row in found) for i in (0, 2))
    return Saving(amount, error, compared, sum(row.num_requests for row in found))


def most_expensive(expected: Mapping[str, float]) -> Comparison | None:
    """The response group with the most expected tokens, of several the last; None: there is no choice.

    Example:
        >>> most_expensive({"standard": 400.0, "extended": 5000.0}).response_group
        'extended'
    """
    if len(expected) < 2:
        return None
    name, most = "", -1.0
    for group, tokens in expected.items():
        if tokens >= most:
            name, most = group, tokens
    return Comparison(name, most)


def describe_savings(savings: Savings, *, is_priced: bool, has_usage: bool) -> dict[str, Any]:
    """What was saved, for the page: numbers, a sentence, and what it assumes.

    A saving is claimed only where its 95 % interval excludes 0.
    """
    assumes = (
        "Compared with the most expensive response group that each request could have had. Nobody made those answers: "
        "each is taken to be as long as the gateway expected, times the factor by which that group's real answers "
        "differed from what was expected of them; requests that got it may have been harder than the others."
    )
    missing = [
        f"{group} of model {model} has {count} answers with reported usage, a claim needs {FEWEST}"
        for model, group, count in savings.missing()
    ]
    rows: list[dict[str, Any]] = []
    kinds = [("tokens", savings.of_tokens())]
    if is_priced:
        kinds.append(("money", savings.of_money()))
        assumes += " Money is at the prices in the settings, with each prompt billed and cached as it was."
    for unit, saving in kinds:
        row: dict[str, Any] = {"unit": unit, "claim": "unknown"}
        rows.append(row)
        if saving is None:
            why = "; ".join(missing) or (
                "no request got a cheaper response group than it could have had"
                if has_usage
                else "no answer with reported usage yet"
            )
            row["words"] = f"Nothing is claimed about {unit}: {why}."
            continue
        row |= {
            "amount": saving.amount,
            "standard_error": saving.error,
            "low": saving.low,
            "high": saving.high,
            "compared": saving.compared,
            "num_requests": saving.num_requests,
        }
        part = saving.amount / saving.compared if saving.compared else 0.0
        interval = f"95 % interval {show_number(saving.low)} to {show_number(saving.high)}"
        what = "completion tokens" if unit == "tokens" else "money"
        whole = show_number(saving.compared)
        of = f"{100 * abs(part):.0f} % of the {whole} the most expensive response group would have cost"
        if saving.low > 0:
            row["claim"], row["words"] = "saved", f"Saved {show_number(saving.amount)} {what} ({interval}): {of}."
        elif saving.high < 0:
            row["claim"], row["words"] = "lost", f"Cost {show_number(-saving.amount)} {what} more ({interval}): {of}."
        else:
            row["claim"], row["words"] = "none", f"No saving of {unit} can be claimed: {interval} includes 0."
    return {"rows": rows, "assumes": assumes, "missing": missing}


def show_number(value: float) -> str:
    """A number for people: four digits, or all of a whole part.

    Example:
        >>> [show_number(x) for x in (0.0, 15.000000001, 12345.6, 1e-5, 2.5e12)]
        ['0', '15', '12,346', '1e-05', '2.5e+12']
    """
    if abs(value) < 1e-9:
        return "0"
    if abs(value) >= 1e10:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
