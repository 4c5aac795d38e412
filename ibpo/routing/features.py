"""Cheap features of a prompt: what can be counted in it, and hashed n-grams. N prompts, F features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.data import parse_cell
from ibpo.errors import IbpoError

FloatArray = NDArray[np.float64]

NUM_HASHES = 4096
"""Columns of the hashed block; a power of two."""

_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"\w+")
_TERM = re.compile(r"\w+|[^\w\s]")
_SENTENCE = re.compile(r"[.!?](?:\s|$)")

COUNTED = (
    "characters",
    "words",
    "distinct words",
    "lines",
    "sentences",
    "digits",
    "numbers",
    "distinct numbers",
    "digits of the longest number",
    "mean word length",
    "longest word",
    "upper case",
    "operators + - * / ^ = < >",
    "backslashes",
    "dollar signs",
    "brackets",
    "commas",
    "question marks",
    "quotes",
    "not ASCII",
)
"""What `counts` counts, in order."""


def as_text(prompt: Any) -> str:
    r"""The text of a prompt: itself, or of chat messages their contents, one after the other.

    Raises:
        IbpoError: Something else.

    Example:
        >>> as_text([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}])
        'Be brief.\n2 + 2?'
    """
    if isinstance(prompt, str):
        return _whole(prompt)
    if isinstance(prompt, list) and all(isinstance(message, dict) for message in prompt):
        return _whole("\n".join(_content(message.get("content")) for message in prompt))
    raise IbpoError(f"a prompt is {type(prompt).__name__}; it must be text or a list of chat messages")


def read_prompt(value: Any) -> str:
    r"""The text of a prompt as a table holds it: as `as_text`, also of chat messages that are JSON in a cell.

    An answer behind the messages is left out: who has to choose does not know it.

    Example:
        >>> read_prompt('[{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]')
        '2 + 2?'
    """
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        parsed = parse_cell(value.strip())
        is_chat = isinstance(parsed, list) and parsed and all(isinstance(x, dict) and "role" in x for x in parsed)
        value = parsed if is_chat else value
    if isinstance(value, list):
        while value and isinstance(value[-1], dict) and value[-1].get("role") == "assistant":
            value = value[:-1]
    return as_text(value)


def _whole(text: str) -> str:
    """The text with a question mark for half of a character, as JSON may hold it: what hashes and embeds takes none."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def counts(prompts: Sequence[str]) -> FloatArray:
    """`[N, 20]` log(1 + count) of everything in `COUNTED`.

    Example:
        >>> row = counts(["Add 12 and 7, then 7."])[0]
        >>> [round(float(np.expm1(row[COUNTED.index(name)]))) for name in ("words", "numbers", "distinct numbers")]
        [6, 3, 2]
    """
    rows: list[tuple[float, ...]] = []
    for text in prompts:
        words, numbers = _WORD.findall(text), _NUMBER.findall(text)
        lengths = [len(word) for word in words] or [0]
        rows.append(
            (
                len(text),
                len(words),
                len({word.lower() for word in words}),
                text.count("\n") + 1,
                len(_SENTENCE.findall(text)),
                sum(map(len, numbers)),
                len(numbers),
                len(set(numbers)),
                max(map(len, numbers), default=0),
                sum(lengths) / len(lengths),
                max(lengths),
                sum(map(str.isupper, text)),
                sum(text.count(c) for c in "+-*/^=<>"),
                text.count("\\"),
                text.count("$"),
                sum(text.count(c) for c in "()[]{}"),
                text.count(","),
                text.count("?"),
                text.count('"') + text.count("'"),
                0.0 if text.isascii() else sum(ord(c) > 127 for c in text),
            )
        )
    return np.log1p(np.array(rows, float).reshape(len(rows), len(COUNTED)))


def bends(column: FloatArray) -> FloatArray:
    """`[B]` where a piecewise linear function of a feature may bend: its quartiles and extreme tenths, each once.

    Args:
        column: `[N]` the feature of the prompts that are learned from.
    """
    return np.unique(np.quantile(column, (0.1, 0.25, 0.5, 0.75, 0.9)))


def hashed(prompts: Sequence[str]) -> Any:
    """`[N, 4096]` sparse: words, signs and pairs of them, hashed; each row of length 1, or 0 without words.

    The hash (MurmurHash3, with signs) is the same everywhere: nothing is learned here, and nothing has to be kept.

    Raises:
        IbpoError: scikit-learn is not installed.
    """
    from scipy import sparse

    if not prompts:
        return sparse.csr_matrix((0, NUM_HASHES))
    found = _hasher().transform([_terms(text) for text in prompts])
    length = np.sqrt(np.asarray(found.multiply(found).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags_array(1.0 / np.where(length > 0, length, 1.0)) @ found)


def _terms(text: str) -> list[str]:
    words = _TERM.findall(text.lower())
    return words + [f"{a} {b}" for a, b in pairwise(words)]


@cache
def _hasher() -> Any:
    try:
        from sklearn.feature_extraction import FeatureHasher
    except ModuleNotFoundError:
        raise IbpoError("a router needs scikit-learn: pip install 'ibpo[router]'") from None
    return FeatureHasher(NUM_HASHES, input_type="string")


def _content(content: Any) -> str:
    """Text of a message: a string, or parts of which those with text count."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
