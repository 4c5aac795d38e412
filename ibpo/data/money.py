"""What does each row of a log cost in money? Its tokens as they are billed, times the prices that the user gave."""

# A log holds anything.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ibpo.data.fields import (
    PROMPT_COUNTS,
    USAGES,
    find_alike,
    lookup,
    prompt_counts,
    read_number,
    read_object,
    read_usage,
    says_error,
)
from ibpo.data.files import LogError, RawRow, Source
from ibpo.errors import IbpoError
from ibpo.prices import CACHE_READ, CACHE_WRITTEN, CACHED_INSIDE, PROMPT, PROMPT_ALONE, Price, Prices, TokenUse

MONEY = "money"
"""The column that is added."""
TOKENS = ("tokens", "num_completion_tokens", "completion_tokens", "output_tokens")
"""Columns with the tokens of the completion, thoughts included, in this order."""
KNOWN = {
    name.replace("_", "").lower(): name
    for name in (*PROMPT, *PROMPT_ALONE, *CACHED_INSIDE, *CACHE_READ, *CACHE_WRITTEN)
    if "token" in name.lower() and "." not in name
} | {
    "prompttokensdetails": "prompt_tokens_details",
    "inputtokensdetails": "input_tokens_details",
    "cachedinputtokens": "cached_tokens",
    "cachewritetokens": "cache_creation_input_tokens",
}
"""Columns with tokens of the prompt, without capitals and signs -> what servers call them."""
THOUGHTS = ("thinking_tokens", "reasoning_tokens")


def priced_rows(rows: Iterator[RawRow], source: Source, prices: Prices) -> Iterator[RawRow]:
    """The rows with a column `money`; a row without tokens, or of a model without a price, is a bad one.

    Args:
        rows: Rows of a log, whoever wrote it, as `ibpo.data.adapters` hands them on.
        source: Takes what was counted; `source.tokens` names the column with the completion's tokens.
        prices: Prices of the models of the log.
    """
    of_model: dict[str | None, Price] = {}
    for place, row in rows:
        if isinstance(row, LogError):
            yield place, row
            continue
        try:
            model = _model(row)
            if model not in of_model:
                of_model[model] = prices.of(model)
            use = token_use(row, source.tokens)
        except IbpoError as error:
            # A failed request is counted by whoever reads on.
            yield place, row if says_error(row) else LogError(f"{place}: {error}")
            continue
        what = "prompt and completion" if use.input or use.cached_input or use.cache_write else "the completion alone"
        source.note(f"cost = money by {prices.path.name}, of the tokens of {what}")
        yield place, {**row, MONEY: of_model[model].of(use)}


def _model(row: Mapping[str, Any]) -> str | None:
    name = find_alike(row, "model")
    return str(row[name]) if name and row[name] not in (None, "") else None


def token_use(row: Mapping[str, Any], tokens: str = "") -> TokenUse:
    """The tokens of one row, as they are billed.

    Args:
        row: As above: with a `usage`, or with counts in columns of its own.
        tokens: The column with those of the completion; "": one of `TOKENS`.

    Raises:
        LogError: The row does not say how many tokens its completion has.

    Example:
        >>> token_use({"input_tokens": 104, "tokens": 946, "reasoning_tokens": None})
        TokenUse(input=104.0, cached_input=0.0, cache_write=0.0, output=946.0, reasoning=0.0)
    """
    usage = next((made for name in USAGES if (made := read_object(row.get(name)))), {})
    said = read_usage(usage) if usage else {}
    names = (tokens,) if tokens else TOKENS
    output = next((x for name in names if (x := _number(row, name)) is not None), None)
    output = _number(said, "tokens") if output is None and not tokens else output
    if output is None:
        looked = repr(tokens) if tokens else ", ".join(TOKENS)
        raise LogError(
            f"no tokens of the completion (looked for {looked}), which prices need; name their column with "
            "--columns cost=COLUMN"
        )
    told, named = {**row, **said}, _named_tokens(row)
    # Where the whole of the prompt is in a column, that of the cache is a part of it.
    is_counted = PROMPT_COUNTS[0] in told or not any(name in named for name in (*PROMPT, *PROMPT_ALONE))
    thoughts = next((x for name in THOUGHTS if (x := _number(told, name)) is not None), None) or 0.0
    is_counted &= any(name in told for name in PROMPT_COUNTS)
    counts = told if is_counted else prompt_counts(usage or named)
    asked, cached, written = (_number(counts, name) or 0.0 for name in PROMPT_COUNTS)
    return TokenUse(input=asked, cached_input=cached, cache_write=written, output=output, reasoning=thoughts)


def _named_tokens(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's columns that are counts of the prompt's tokens by their names, under those that servers give them."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if known := KNOWN.get(re.sub(r"[\W_]+", "", str(name)).lower()):
            number = _number({known: value}, known)
            found[known] = read_object(value) if number is None else number
    return found


def _number(row: Mapping[str, Any], name: str) -> float | None:
    found = name if name in row else find_alike(row, name)
    value = lookup(row, found or name)
    try:
        number = None if value is None or isinstance(value, bool) else read_number(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and 0 <= number < float("inf") else None
