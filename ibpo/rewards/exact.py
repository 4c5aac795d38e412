"""Correctness by exact match: for tasks whose answers are single words."""

from __future__ import annotations


def exact_match(predicted: str | None, gold: str) -> float:
    """1.0 if the predicted answer is the gold one, white space aside; 0.0 otherwise, and for no answer at all.

    Example:
        >>> exact_match(" 7", "7"), exact_match(None, "7")
        (1.0, 0.0)
    """
    return float(predicted is not None and predicted.strip() == gold.strip())
