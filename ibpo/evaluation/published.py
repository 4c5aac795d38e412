"""What others published, with its conditions: context beside measured numbers, never mixed with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One published number."""

    method: str
    paper: str
    model: str
    benchmark: str
    result: str
    cost: str
    conditions: str
    evidence: str
    """What of the source was read: abstract, README, ..."""


def published() -> tuple[str, list[Published]]:
    """What the numbers are, in one sentence, and the numbers; the paper that the project follows comes first.

    Example:
        >>> about, rows = published()
        >>> rows[0].paper, rows[0].result
        ('arXiv 2501.17974', 'pass@1 +4.14 points (+8.08 % relative)')
    """
    data = json.loads(files("ibpo.evaluation").joinpath("published.json").read_text(encoding="utf-8"))
    return data["about"], [Published(**row) for row in data["rows"]]
