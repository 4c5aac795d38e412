"""The grammar of budgets: what texts mean, what is refused, and that what is written reads back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibpo.budget import (
    Budget,
    Slice,
    check_budget,
    check_distinct,
    costs_named,
    parse_budget,
    parse_budget_entry,
    parse_budget_table,
)
from ibpo.errors import IbpoError

THIRD, TENTH = Fraction(1, 3), Fraction(1, 10)
LEVEL_3, A_IS_B = Slice(column="level", value="3"), Slice(column="level", value="a = b")


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("extended=0.3", Budget(name="extended", amount=Fraction(3, 10))),
        ("extended=30%", Budget(name="extended", amount=Fraction(3, 10), unit="percent")),
        ("  extended  =  30 % ", Budget(name="extended", amount=Fraction(3, 10), unit="percent")),
        ("extended<=30%", Budget(name="extended", amount=Fraction(3, 10), unit="percent")),
        ("extended=1/3", Budget(name="extended", amount=THIRD)),
        ("extended = 1 / 3", Budget(name="extended", amount=THIRD)),
        ("extended=.1", Budget(name="extended", amount=TENTH)),
        ("extended>=10%", Budget(name="extended", sense="at_least", amount=TENTH, unit="percent")),
        ("extended >= 1e-1", Budget(name="extended", sense="at_least", amount=TENTH)),
        ("tokens=2000", Budget(name="tokens", amount=Fraction(2000))),
        ("tokens=2_000", Budget(name="tokens", amount=Fraction(2000))),
        ("money=0.002", Budget(name="money", amount=Fraction(1, 500))),
        ("tokens=0.5x", Budget(name="tokens", amount=Fraction(1, 2), unit="now")),
        ("0.5x", Budget(name="tokens", amount=Fraction(1, 2), unit="now")),
        ("tokens=25%range", Budget(name="tokens", amount=Fraction(1, 4), unit="range")),
        ("tokens = 25% of range", Budget(name="tokens", amount=Fraction(1, 4), unit="range")),
        ("0.25 range", Budget(name="tokens", amount=Fraction(1, 4), unit="range")),
        (
            "extended@level=3=0.2",
            Budget(name="extended", amount=Fraction(1, 5), scope=LEVEL_3),
        ),
        (
            "extended @ level = a = b >= 0.2",
            Budget(name="extended", sense="at_least", amount=Fraction(1, 5), scope=A_IS_B),
        ),
        ("extended@level=0.2", Budget(name="extended", amount=Fraction(1, 5), scope=Slice(column="level"))),
        (
            "tokens@level>=20",
            Budget(name="tokens", sense="at_least", amount=Fraction(20), scope=Slice(column="level")),
        ),
        ('"gpt@high"=30%', Budget(name="gpt@high", amount=Fraction(3, 10), unit="percent")),
        (" 'effort=low' >= 1/3 ", Budget(name="effort=low", sense="at_least", amount=THIRD)),
        ('"a@b" @ level = 3 <= 0.2', Budget(name="a@b", amount=Fraction(1, 5), scope=LEVEL_3)),
        ("'extended'=0.3", Budget(name="extended", amount=Fraction(3, 10))),
        ("it's=0.3", Budget(name="it's", amount=Fraction(3, 10))),
    ],
)
def test_texts(text, budget):
    assert parse_budget(text) == budget
    assert parse_budget(str(budget)) == budget
    assert parse_budget_entry(budget.key, budget.amount_text) == budget


COLUMNS = st.text("abcXYZ019_-. ", min_size=1).map(str.strip).filter(bool)
NAMES = st.text("abc019_-. @=<>\"'", min_size=1).map(str.strip).filter(lambda text: text and not {'"', "'"} <= {*text})
VALUES = st.text("abc019_ =<>@%x", min_size=1).map(str.strip).filter(lambda text: text and text[-1] not in "<>=")
AMOUNTS = st.fractions(min_value=0, max_value=10**9, max_denominator=10**6)


@given(
    st.builds(
        Budget,
        name=NAMES,
        sense=st.sampled_from(["at_most", "at_least"]),
        amount=AMOUNTS,
        unit=st.sampled_from(["number", "percent", "now", "range"]),
        scope=st.none() | st.builds(Slice, column=COLUMNS, value=st.none() | VALUES),
    )
)
def test_what_is_written_reads_back(budget):
    assert parse_budget(str(budget)) == budget
    assert parse_budget_entry(budget.key, budget.amount_text) == budget


@given(st.text("aextoknslv@=<>.0123%/ xrange\"'", max_size=20))
def test_any_text_is_a_budget_or_is_refused_with_its_place(text):
    try:
        budget = parse_budget(text)
    except IbpoError as error:
        assert str(error).startswith(f"--budget {text}: ")
    else:
        assert parse_budget(str(budget)) == budget


def test_a_name_that_needs_quotation_marks_is_shown_with_them():
    with pytest.raises(IbpoError, match=r'named \'gpt\'; there are "gpt@low", "gpt@high"; did you mean "gpt@high"\?'):
        check_budget(parse_budget("gpt@high>=30%"), groups=["gpt@low", "gpt@high"], costs=())
    assert check_budget(parse_budget('"gpt@high">=30%'), groups=["gpt@low", "gpt@high"])


@given(st.floats(0, 1e9))
def test_a_number_of_a_table_is_the_decimal_that_it_shows(number):
    assert parse_budget_entry("tokens", number).amount == Fraction(repr(number))
    assert parse_budget_entry("tokens", np.float64(number)).amount == Fraction(repr(number))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs NAME=AMOUNT"),
        ("extended", "needs NAME=AMOUNT"),
        ("0.5", r"of what\? Name it: extended=0.5 \(a response group\) or tokens=0.5"),
        ("=0.5", "needs NAME=AMOUNT"),
        ("extended>10%", "needs NAME=AMOUNT"),
        ("extended==0.5", "needs NAME=AMOUNT"),
        ("extended=", "'' is not an amount"),
        ("extended=>0.5", "'>0.5' is not an amount"),
        ("tokens=-3", "'-3' is not an amount"),
        ("tokens=1/0", "'1/0' is not an amount"),
        ("tokens=inf", "'inf' is not an amount"),
        ("tokens=nan", "is not an amount"),
        ("tokens=1e9999999999", "is not an amount"),
        ("tokens=1e400x", "'1e400x' is more than can be counted"),
        ("tokens=1e301", "is more than can be counted"),
        ("tokens=50%x", "is not an amount"),
        ("extended@=0.2", "a slice is NAME@COLUMN=VALUE=AMOUNT"),
        ("extended@level==0.2", "a slice is NAME@COLUMN=VALUE=AMOUNT"),
    ],
)
def test_bad_texts(text, said):
    with pytest.raises(IbpoError, match=rf"^--budget {text}: .*{said}"):
        parse_budget(text)


@pytest.mark.parametrize("amount", [True, None, [1], {}])
def test_bad_amounts_in_a_table(amount):
    with pytest.raises(IbpoError, match=r"^recipe.toml: budget.extended: needs a number or a text"):
        parse_budget_table({"extended": amount}, "recipe.toml: budget.")


def test_two_bounds_of_one_kind_are_refused():
    with pytest.raises(IbpoError, match=r"^x: extended: is given twice; keep one"):
        parse_budget_table({"extended": 0.2, "extended <=": 0.3}, "x: ")
    both = [parse_budget("extended=20%"), parse_budget("extended>=10%"), parse_budget("extended@level=20%")]
    check_distinct(both)


@pytest.mark.parametrize(
    ("text", "is_share"), [("extended=1", True), ("tokens>=3", False), ("money=7", False), ("tokens=2x", False)]
)
def test_a_share_or_a_cost(text, is_share):
    assert check_budget(parse_budget(text), groups=None) is is_share
    assert check_budget(parse_budget(text), groups=["standard", "extended"]) is is_share
    assert check_budget(parse_budget("money=0.5"), groups=["money", "extended"])  # a response group of that name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tokens=25%", "a percentage of what? tokens=0.25x is that part of what is spent now, tokens=25%range that"),
        ("extended=30", "a share is at most 100%; did you mean extended=30%?"),
        ("extended>=30", "a share is at most 100%; did you mean extended>=30%?"),
        ("extended=130%", "a share is at most 100%; did you mean tokens=1.3x, so much of today's cost?"),
        ("extended>=130%", "a share is at most 100%; did you mean tokens>=1.3x, so much of today's cost?"),
        ("extended@level=3=130%", "a share is at most 100%; write at most extended@level=3=100%, which leaves the"),
        ("extended@level=3>=130%", "a share is at most 100%; write at most extended@level=3>=100%, that response"),
        ("extended=3000", "a share is at most 100%; a cost is named tokens or money or cost"),
        ("extended@level=3", "a slice of one value is extended@level=VALUE=SHARE"),
        ("extended=0.5x", "0.5x is of a cost; a share is a number or a percentage"),
        ("extended=5%range", "5%range is of a cost"),
        ("tokens=120%range", "goes from 0%range, the cheapest response group, to 100%range"),
        (
            "extendde=0.3",
            "is named 'extendde'; there are standard, extended, tokens, money, cost; did",
        ),
    ],
)
def test_what_cannot_be_meant(text, said):
    with pytest.raises(IbpoError) as error:
        check_budget(parse_budget(text), groups=["standard", "extended"])
    assert str(error.value).startswith(f"--budget {text}: ") and said in str(error.value)


@pytest.mark.parametrize(
    ("feature", "text"),
    [
        ("share", "extended=0.3"),
        ("cost", "tokens=3"),
        ("at_least", "extended>=0.3"),
        ("slice", "extended@level=0.3"),
        ("now", "tokens=0.5x"),
        ("range", "tokens=25%range"),
    ],
)
def test_what_a_caller_refuses_it_refuses_with_its_reason(feature, text):
    check_budget(parse_budget(text), groups=["extended"], refused={})
    with pytest.raises(IbpoError, match=rf"^--budget {text}: because; do that$"):
        check_budget(parse_budget(text), groups=["extended"], refused={feature: "because; do that"})


def test_amounts_of_costs():
    known = {"now": 700.0, "cheapest": 100.0, "most_expensive": 900.0}
    for text, amount in (("tokens=0.1", TENTH), ("tokens=0.5x", 350), ("tokens=25%range", 300), ("tokens=1/3", THIRD)):
        assert parse_budget(text).in_cost(**known) == amount


def test_a_log_of_tokens_knows_no_money():
    assert "money" not in costs_named("output_tokens") and "tokens" not in costs_named("cost_usd")


@pytest.mark.parametrize(
    ("text", "known", "amount"),
    [
        ("1x", {"now": 4 / 3}, Fraction(4, 3)),
        ("tokens=3/2x", {"now": 1000 / 3}, 500),
        ("money=0.5x", {"now": (0.1 + 0.2) / 3}, Fraction(1, 20)),
        ("money=1x", {"now": 0.0001 / 7}, Fraction(1, 70_000)),
        ("0%range", {"cheapest": 11 / 3}, Fraction(11, 3)),
        ("100%range", {"cheapest": 11 / 3, "most_expensive": 7 / 6}, Fraction(7, 6)),
        ("1x", {"now": 0.0}, 0),
        ("1x", {"now": 2.0**0.5}, Fraction("1.4142135623730951")),
    ],
)
def test_means_are_what_they_were_before_a_float_rounded_them(text, known, amount):
    """Else 1x of four tokens for three problems were three: 3 x 1.3333333333333333 is less than 4."""
    assert parse_budget(text).in_cost(**{"now": 1.0, "cheapest": 1.0, "most_expensive": 2.0, **known}) == amount
