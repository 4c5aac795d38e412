"""How many tokens did an answer take? The one arithmetic of servers' `usage`: of logs, evaluations and the gateway."""

from __future__ import annotations

from typing import Any

COUNTS = ("n", "best_of", "n_cmpl", "num_return_sequences", "candidate_count")
"""What servers call the number of answers that a request asks for to one prompt."""
MAX_COUNT = 1 << 53
"""A larger number is no count."""


def read_tokens(usage: Any) -> tuple[int | None, int | None]:
    """Tokens of a completion by a `usage` object, and those of the thinking in it; None where it does not say.

    With completion c, reasoning r, prompt p and total t as far as they are reported, the completion has max(c, t - p),
    as some servers leave the reasoning out of c, and c + r where r > c, as those r cannot be among the c.

    Example:
        >>> read_tokens({"completion_tokens": 7}), read_tokens({"completion_tokens": "7"})
        ((7, None), (None, None))
        >>> read_tokens({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 517})
        (507, 500)
        >>> read_tokens({"output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 500}})
        (507, 500)
        >>> read_tokens({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17, "output_tokens": 0})
        (7, None)
    """
    if not isinstance(usage, dict):
        return None, None
    kind, prompt = _names(usage)
    count, before = as_count(usage.get(f"{kind}_tokens")), as_count(usage.get(prompt))
    total, details = as_count(usage.get("total_tokens")), usage.get(f"{kind}_tokens_details")
    reasoning = as_count(usage.get("reasoning_tokens"))
    if isinstance(details, dict) and (inner := as_count(details.get("reasoning_tokens"))) is not None:
        reasoning = max(reasoning or 0, inner)
    rest = max(0, total - before) if total is not None and before is not None else None
    if count is None:
        return rest, reasoning
    whole = max(count, rest or 0, count + reasoning if reasoning is not None and reasoning > count else 0)
    return whole, max(reasoning or 0, whole - count) if whole > count else reasoning


def _names(usage: dict[str, Any]) -> tuple[str, str]:
    """What completion and prompt are called: some relays fill in both names and leave 0 or null under one of them."""
    old, new = as_count(usage.get("completion_tokens")), as_count(usage.get("output_tokens"))
    is_new = (new or 0) > (old or 0) if old is not None else "output_tokens" in usage
    return ("output", "input_tokens") if is_new else ("completion", "prompt_tokens")


def as_count(value: Any) -> int | None:
    """A count; None where the value is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value) if value == int(value) else None
