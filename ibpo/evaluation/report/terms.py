"""The words of a page, each defined once: a table explains those that its columns use, right below it."""

from __future__ import annotations

import re
from collections.abc import Sequence

TERMS = {
    "pass@1": "The chance that one response is right: the mean over problems of the share of right responses.",
    "pass@k, maj@k": "The chance that one of k responses is right; that the most frequent answer of k responses is "
    "right, ties split evenly (self-consistency). k responses cost k times as much.",
    "± and brackets": "± is one standard error over problems. In brackets stands a 95 % interval, clustered by "
    "problem, or, of several seeds, the smallest and the largest of their values, as the caption says.",
    "q+": "The budget: the largest share of problems that may be answered extended.",
    "Sampled, calibrated": "Sampled: the policy chooses by itself how to answer. Calibrated: the same policy, its "
    "choice moved by a threshold that is set on prompts without answers, so that the share is the budget.",
    "Random mix": "Answering a part of the problems, drawn blindly, by the most expensive configuration and the rest "
    "by the cheapest. “Above random mix” is the accuracy less that of the mix that costs the same, in points (1 point: "
    "one percent of the problems).",
    "Gain ratio (gain / self-consistency)": "Gain of accuracy over one standard response, divided by what voting over "
    "standard responses (self-consistency) gains at the same cost. Above 1: better than voting. Empty where voting was "
    "not measured at that cost, or gains nothing to speak of.",
    "Oracle share": "The part that a configuration gains of what choosing by level (by problem, where levels have no "
    "names) between the cheapest and the most expensive configuration could gain over a random mix at the same cost. "
    "0 is a random mix, 1 the best choice by level; more is possible, by choosing well within levels or by "
    "better responses. One half of the responses decides the oracle's choice, the other half values it.",
    "Of its own": "The oracle share between the trained policy's own forced responses, so that only its choice counts.",
    "Rank correlation": "Whether the levels that gain more got more budget: 1 in the same order, 0 unrelated, −1 "
    "reversed.",
    "Wasted": "Share of the extended responses spent on levels where they gain almost nothing (under 3 points), "
    "because the problems are too easy or hopeless; beside it, what a blind draw would spend there.",
    "Erosion": "How accuracy changed in training where the response group is forced, in percentage points ± paired "
    "standard error. Below zero: training cost something.",
    "Retained": "Accuracy as a part of what answering everything extended gets.",
    "Binds, slack": "A budget binds where extended responses gain something on more problems than it allows. Otherwise "
    "it has slack, and spending less is right.",
    "Price": "What the last unit of budget buys: the reward margin below which no extended response was worth its "
    "share. It is 0 where the budget has slack.",
    "Held out": "Half of each problem's responses decide which configuration it gets; the other half says what that "
    "is worth. An allocation valued on the responses that decided it looks better than it is.",
    "Area under accuracy against cost": "The mean accuracy over all mean costs between two ends, mixing a curve's "
    "own points as is best. A curve has no area beyond the costs at which it was measured; beside it stands the "
    "random mix between the same ends.",
    "Cold start": "The model before it is trained to keep a budget: it can answer both ways, and does not yet choose.",
    "Truncated": "The share of responses that were cut off at the limit of tokens. No answer: none could be read.",
}
"""Term -> what it means, in the words of docs/explanation/evaluation.md."""
_HEADS = (
    (r"^pass@1$", "pass@1"),
    (r"^(pass|maj)@(?!1$)", "pass@k, maj@k"),
    (r"±", "± and brackets"),
    (r"^q\+$", "q+"),
    (r"^choice$", "Sampled, calibrated"),
    (r"random mix", "Random mix"),
    (r"^gain ratio", "Gain ratio (gain / self-consistency)"),
    (r"^oracle share$", "Oracle share"),
    (r"^of its own$", "Of its own"),
    (r"^rank correlation$", "Rank correlation"),
    (r"^wasted$", "Wasted"),
    (r"^erosion", "Erosion"),
    (r"^retained$", "Retained"),
    (r"^binds\?$", "Binds, slack"),
    (r"^area$", "Area under accuracy against cost"),
    (r"^gain, points$", "Held out"),
    (r"^truncated$", "Truncated"),
)
_ROWS = (
    (r"^(IBPO )?(sampled|calibrated)", "Sampled, calibrated"),
    (r"cold start", "Cold start"),
    (r"maj@", "pass@k, maj@k"),
    (r"^oracle by", "Held out"),
)


def terms_of(heads: Sequence[str], rows: Sequence[str] = ()) -> list[str]:
    """The terms that a table's columns and the names of its rows use, in their order.

    Example:
        >>> terms_of(["method", "q+", "oracle share", "truncated"], ["oracle by level", "mine"])
        ['q+', 'Oracle share', 'Truncated', 'Held out']
    """
    found = [term for head in heads for pattern, term in _HEADS if re.search(pattern, head)]
    return list(dict.fromkeys([*found, *(term for row in rows for pattern, term in _ROWS if re.search(pattern, row))]))
