"""Every number of one configuration: overall, by level and by domain, on right and on wrong answers."""

from __future__ import annotations

import re

import numpy as np

from ibpo.evaluation.metrics import pass_at_k, vote_at_k
from ibpo.evaluation.responses import Responses
from ibpo.evaluation.statistics import Estimate, estimate_mean, estimate_quantile, estimate_rate

Numbers = dict[str, Estimate]
LEVEL, DOMAIN = "level", "domain"


def describe(responses: Responses, *, extended: str = "extended") -> dict[str, dict[str, Numbers]]:
    """All metrics of one configuration's responses with standard errors clustered by problem and 95 % intervals.

    Args:
        responses: of one configuration.
        extended: Name of the response group whose share is the extended share.

    Returns:
        Slice (`"overall"`, `"level=..."`, `"domain=..."`) -> `"all"`, `"right"`, `"wrong"` (that ended by itself) or
        `"cut off"` (and not right) -> metric -> estimate. Metrics of all: `pass@1`, `pass@k` and `maj@k` for k = 2, 4,
        8, ... up to the smallest number of responses of a problem, and of it; `unanswered`. Of the other three too:
        `mean_tokens`, `median_tokens`, `p95_tokens`, `thinking_tokens`, `answer_tokens`, `extended_share`, `truncated`.
        What is not known is left out.

    Example:
        >>> rows = [{"problem": "p", "configuration": "low", "reward": r, "tokens": 9} for r in (0, 1)]
        >>> describe(Responses.from_rows(rows))["overall"]["right"]["mean_tokens"].value
        9.0
    """
    slices = {"overall": np.ones(len(responses), bool)}
    for name in (LEVEL, DOMAIN):
        column = getattr(responses, name)
        values = sorted({str(value) for value in column.tolist() if value != ""}, key=natural)
        slices |= {f"{name}={value}": column.astype(str) == value for value in values}
    return {name: _slice(responses.where(mask), extended) for name, mask in slices.items()}


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorting key: 2 before 10.

    Example:
        >>> sorted(["level 10", "level 2"], key=natural)
        ['level 2', 'level 10']
    """
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _slice(responses: Responses, extended: str) -> dict[str, Numbers]:
    right, cut = responses.right, np.nan_to_num(responses.truncated)
    return {
        "all": _repeated(responses) | _spent(responses, None, extended),
        "right": _spent(responses, right, extended),
        "wrong": _spent(responses, (1 - right) * (1 - cut), extended),
        "cut off": _spent(responses, (1 - right) * cut, extended),
    }


def _repeated(responses: Responses) -> Numbers:
    found = {"pass@1": estimate_rate(responses.reward, responses.problem)}
    names, p_N = np.unique(responses.problem.astype(str), return_inverse=True)
    count_P, right_P = np.bincount(p_N), np.bincount(p_N, responses.right)
    for k in vote_sizes(int(count_P.min())):
        if k > 1:
            found[f"pass@{k}"] = estimate_rate(pass_at_k(right_P, count_P, k), names)
        if k > 1 and responses.has_votes:
            problem, vote_P = vote_at_k(responses.problem, responses.answer, responses.right, k)
            found[f"maj@{k}"] = estimate_rate(vote_P, np.array(problem))
    if responses.has_votes:
        unanswered = np.array([float(answer is None) for answer in responses.answer])
        found["unanswered"] = estimate_rate(unanswered, responses.problem)
    return found


def vote_sizes(largest: int) -> list[int]:
    """1, 2, 4, 8, ... and the largest itself.

    Example:
        >>> vote_sizes(10)
        [1, 2, 4, 8, 10]
    """
    return sorted({2**i for i in range(largest.bit_length()) if 2**i <= largest} | {largest})


def _spent(responses: Responses, where: np.ndarray | None, extended: str) -> Numbers:
    problem, found = responses.problem, {}
    thinking = responses.thinking_tokens
    if not np.isnan(responses.tokens).all():
        found["mean_tokens"] = estimate_mean(responses.tokens, problem, where, positive=True)
        found["median_tokens"] = estimate_quantile(responses.tokens, problem, 0.5, where)
        found["p95_tokens"] = estimate_quantile(responses.tokens, problem, 0.95, where)
    if not np.isnan(thinking).all():
        found["thinking_tokens"] = estimate_mean(thinking, problem, where, positive=True)
        found["answer_tokens"] = estimate_mean(responses.tokens - thinking, problem, where, positive=True)
    if any(responses.response_group.tolist()):
        share = (responses.response_group == extended).astype(float)
        found["extended_share"] = estimate_rate(share, problem, where)
    if not np.isnan(responses.truncated).all():
        found["truncated"] = estimate_rate(responses.truncated, problem, where)
    return {name: estimate for name, estimate in found.items() if estimate.num_problems}
