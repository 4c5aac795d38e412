"""What do tokens cost in money? A small table, model -> prices per million tokens, that the user gives (`--prices`).

| format | form |
|---|---|
| TOML | `[gpt-5]`, then `input = 1.25`, `cached_input = 0.125`, `output = 10`, `reasoning = 10` |
| JSON | `{"gpt-5": {"input": 1.25, "output": 10}}`, or a list of objects with `model` |
| CSV | a header `model,input,cached_input,output,reasoning`, a model a line |
| LiteLLM's price table (JSON) | its names, in money per token: `input_cost_per_token`, `output_cost_per_token`, ... |

`input` and `output` are needed; `cached_input` and `cache_write` are as `input` unless they are given, `reasoning` is
as `output`. The currency is the table's own. Tiers (batches, long contexts, times of the day) are not read: give the
prices that hold for the log.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError

FIELDS = ("input", "cached_input", "cache_write", "output", "reasoning")
NEEDED = ("input", "output")
LITELLM = {
    "input": "input_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "output": "output_cost_per_token",
    "reasoning": "output_cost_per_reasoning_token",
}
"""Field -> its name in LiteLLM's table, which is per token."""
NO_MODELS = ("sample_spec", "fallback_generalizations")
"""Keys of LiteLLM's table that are no models."""
PROMPT = ("prompt_tokens", "promptTokenCount", "prompt_token_count", "prompt")
PROMPT_ALONE = ("input_tokens", "inputTokens", "input")
"""What the tokens of a prompt are called: with those of the cache among them, and where others may be next to it."""
CACHED_INSIDE = (
    "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens",
    "cachedContentTokenCount",
    "cached_content_token_count",
    "prompt_cache_hit_tokens",
    "cached_tokens",
)
CACHE_READ = (
    "cache_read_input_tokens",
    "input_tokens_cache_read",
    "input_cached_tokens",
    "input_cache_read",
    "prompt_cache_read_tokens",
    "cacheReadInputTokens",
)
CACHE_WRITTEN = (
    "cache_creation_input_tokens",
    "input_tokens_cache_write",
    "input_cache_creation",
    "prompt_cache_write_tokens",
    "cacheWriteInputTokens",
)
TOOL_RESULTS = ("toolUsePromptTokenCount", "tool_use_prompt_token_count")
"""Gemini's names for tokens that its own tools added to the prompt; they are not among the prompt's tokens."""
PER = 1_000_000
"""Tokens that a price is of."""
DATED = re.compile(r"[-@]\d{4}-?\d{2}-?\d{2}$")
"""What servers add to a model's name: `gpt-5-2025-08-07`."""
MAX_SHOWN = 10
"""Models that a message lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenUse:
    """Tokens of one request, as they are billed: each of them in one place, but thoughts also in `output`.

    Attributes:
        input: Price of prompt tokens that no cache had.
        cached_input: Price of prompt tokens read from a cache.
        cache_write: Price of prompt tokens written into a cache that is paid for.
        output: Price of completion tokens, thoughts included.
        reasoning: Price of the thoughts' tokens.
    """

    input: float = 0.0
    cached_input: float = 0.0
    cache_write: float = 0.0
    output: float = 0.0
    reasoning: float = 0.0


def read_prompt_use(usage: Mapping[str, Any]) -> TokenUse:
    """The prompt's tokens by any server's `usage`; those of the completion are left 0.

    OpenAI, Gemini, DeepSeek, Kimi and LiteLLM count the tokens of the cache among the prompt's; Anthropic, Bedrock,
    Inspect and Langfuse next to them, under names of their own.

    Example:
        >>> use = read_prompt_use({"prompt_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 400}})
        >>> use.input, use.cached_input
        (600.0, 400.0)
        >>> use = read_prompt_use({"input_tokens": 600, "cache_read_input_tokens": 400})
        >>> use.input, use.cached_input
        (600.0, 400.0)
    """
    whole, alone = _count(usage, *PROMPT), _count(usage, *PROMPT_ALONE)
    inside, read, written = _count(usage, *CACHED_INSIDE), _count(usage, *CACHE_READ), _count(usage, *CACHE_WRITTEN)
    read = read if inside is None else inside
    if alone is not None and whole is None and inside is None:
        return TokenUse(input=alone, cached_input=read or 0.0, cache_write=written or 0.0)
    asked = (whole or alone or 0.0) + (_count(usage, *TOOL_RESULTS) or 0.0)
    cached = min(read or 0.0, asked)
    paid = min(written or 0.0, asked - cached)
    return TokenUse(input=asked - cached - paid, cached_input=cached, cache_write=paid)


def _count(usage: Mapping[str, Any], *names: str) -> float | None:
    """The first of these numbers that is there; a name with a dot is of an object inside."""
    for name in names:
        value: Any = usage
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if 0 <= number < math.inf:
            return number
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Money per million tokens of one model.

    Example:
        >>> price = Price(input=1.25, cached_input=0.125, cache_write=1.25, output=10, reasoning=10)
        >>> price.of(TokenUse(input=800, cached_input=200, output=300, reasoning=250))
        0.004025
    """

    input: float
    cached_input: float
    cache_write: float
    output: float
    reasoning: float

    def of(self, use: TokenUse) -> float:
        """What a request costs."""
        thoughts = min(use.reasoning, use.output)
        spent = (
            (self.input, use.input),
            (self.cached_input, use.cached_input),
            (self.cache_write, use.cache_write),
            (self.reasoning, thoughts),
            (self.output, use.output - thoughts),
        )
        return math.fsum(price * tokens for price, tokens in spent) / PER


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """The prices of some models; `path` begins an error about them."""

    path: Path
    by_model: Mapping[str, Price]

    def of(self, model: str | None) -> Price:
        """The price of a model, however its name is written: capitals, a provider before it, a date behind it.

        Args:
            model: As a log or server names it; None or "": not known, which a table of one model answers.

        Raises:
            IbpoError: No such model in the table, or several that differ.
        """
        if not model:
            if len(set(self.by_model.values())) == 1:
                return next(iter(self.by_model.values()))
            raise IbpoError(
                f"{self.path}: has {len(self.by_model)} models, and the row names none; give a table of one model, or "
                "a log with a column 'model'"
            )
        if model in self.by_model:
            return self.by_model[model]
        for alike in (_plain, _undated):
            found = {price for name, price in self.by_model.items() if alike(name) == alike(model)}
            if len(found) == 1:
                return found.pop()
            if found:
                raise IbpoError(
                    f"{self.path}: several of its models are like {model!r}, at different prices; add {model!r} itself"
                )
        names = list(self.by_model)
        there = ", ".join(names[:MAX_SHOWN]) + (f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else "")
        raise IbpoError(f"{self.path}: has no price for model {model!r}; add it; there are {there}")


def _plain(model: str) -> str:
    """A model's name without its provider: `openai/gpt-5`."""
    return model.rpartition("/")[2].strip().casefold()


def _undated(model: str) -> str:
    return DATED.sub("", _plain(model))


def read_prices(path: str | Path) -> Prices:
    """A table of prices, TOML, JSON (also LiteLLM's) or CSV.

    Raises:
        IbpoError: with file, model, field and fix.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise IbpoError(f"--prices {path}: cannot be read: {why}; name a table of prices (TOML, JSON or CSV)") from None
    try:
        table = _models(path, text)
    except IbpoError:
        raise
    except (ValueError, RecursionError, csv.Error) as error:
        raise IbpoError(
            f"{path}: is not {path.suffix.lstrip('.').upper() or 'TOML'}: {_one_line(error)}; fix it"
        ) from None
    by_model: dict[str, Price] = {}
    for model, entry in table.items():
        if model in NO_MODELS:
            continue
        if not isinstance(entry, Mapping):
            raise IbpoError(f"{path}: model {model!r}: needs input = ... and output = ..., got {str(entry)[:60]!r}")
        price = _price(f"{path}: model {model!r}", entry)
        if price is not None:
            by_model[model] = price
    if not by_model:
        raise IbpoError(f"{path}: holds no prices; give each model input and output, in money per million tokens")
    return Prices(path=path, by_model=by_model)


def read_price(text: str, option: str) -> Price:
    """The price that `input=0.25,output=2` says.

    Raises:
        IbpoError: names the option, the field and the fix.

    Example:
        >>> read_price("input=0.25,output=2", "--prices").reasoning
        2.0
    """
    pairs = [[part.strip() for part in pair.partition("=")] for pair in text.split(",")]
    _once(f"{option} {text}", [name for name, _, _ in pairs], "field")
    entry = {name: value for name, _, value in pairs}
    return make_price(f"{option} {text}", entry)


def make_price(place: str, entry: Mapping[str, Any]) -> Price:
    """The price that a table of fields says.

    Raises:
        IbpoError: A field that is unknown, missing or no number; it begins with `place`.

    Example:
        >>> make_price("model 'm'", {"input": 1.25, "output": 10}).cached_input
        1.25
    """
    price = _price(place, entry)
    if price is None:  # of LiteLLM's names, per token
        raise IbpoError(f"{place}: needs input and output, per million tokens")
    return price


def _models(path: Path, text: str) -> Mapping[str, Any]:
    """Model -> its entry, by the file's form."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        head = text.partition("\n")[0]
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
        names = [name.strip() for name in next(lines, [])]
        _once(path, names, "column")
        rows: Any = list(csv.DictReader(io.StringIO(text, newline=""), names, dialect=lines.dialect))[1:]
    elif suffix == ".json":
        rows = json.loads(text, object_pairs_hook=partial(_object, path))
    else:
        rows = tomllib.loads(text)
    if isinstance(rows, Mapping):
        return rows
    if not isinstance(rows, list):
        raise ValueError("it holds no table of models")
    table: dict[str, Any] = {}
    for number, row in enumerate(rows, start=1):
        model = row.get("model") if isinstance(row, Mapping) else None
        if not (isinstance(model, str) and model.strip()):
            raise IbpoError(f"{path}, entry {number}: has no model; give each its name in the field 'model'")
        if model.strip() in table:
            raise IbpoError(f"{path}, entry {number}: model {model!r} is given twice; keep one of them")
        table[model.strip()] = {key: row[key] for key in row if key != "model" and row[key] not in (None, "")}
    return table


def _object(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; LiteLLM's table has keys twice, which matters only where that gives two prices."""
    names = (*FIELDS, *LITELLM.values())
    found: dict[str, Any] = {}
    for key, value in pairs:
        of_key = [
            {name: x.get(name) for name in names} if isinstance(x, Mapping) else (key in names and x)
            for x in (found.get(key), value)
        ]
        if key in found and of_key[0] != of_key[1]:
            raise IbpoError(f"{path}: {key!r} is given twice, with different prices; keep one of them")
        found[key] = value
    return found


def _once(place: Path | str, names: Sequence[str], what: str) -> None:
    """Refuse a name that is there twice: of two prices none is the right one."""
    for name in names:
        if names.count(name) > 1:
            raise IbpoError(f"{place}: {what} {name!r} is given twice; keep one of them")


def _price(place: str, entry: Mapping[str, Any]) -> Price | None:
    """The prices of one model; None for one of LiteLLM's that is not billed by its tokens."""
    if any("cost_per" in str(key) or key == "litellm_provider" for key in entry):
        if any(entry.get(LITELLM[field]) is None for field in NEEDED):
            return None
        names, times = LITELLM, PER
    else:
        names, times = {field: field for field in FIELDS}, 1
        for key in entry:
            if key not in FIELDS:
                said = "more cells than the header" if key is None else f"unknown field {key!r}"
                if isinstance(entry[key], Mapping):  # TOML's [gpt-4.1] is a table 1 inside of gpt-4
                    raise IbpoError(f'{place}: {said}; if it is part of the name, write the name in quotes: ["NAME"]')
                raise IbpoError(f"{place}: {said}; there are {', '.join(FIELDS)}, per million tokens")
    found = {field: times * _number(f"{place}, field {name!r}", entry[name]) for field, name in names.items()
             if entry.get(name) is not None}  # fmt: skip
    for field in NEEDED:
        if field not in found:
            raise IbpoError(f"{place}: needs {field!r}, in money per million tokens")
    asked = found["input"]
    defaults = {"cached_input": asked, "cache_write": asked, "reasoning": found["output"]}
    return Price(**defaults | found)


def _number(place: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise IbpoError(f"{place}: {str(value)[:40]!r} is not a price; write a number of at least 0, such as 1.25")
    return number


def _one_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
