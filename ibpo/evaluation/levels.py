"""Levels of a report: few enough to be read as rows."""

from __future__ import annotations

import numpy as np

from ibpo.evaluation.describe import natural
from ibpo.evaluation.responses import Responses

MAX_LEVELS = 12


def level_names(responses: Responses) -> list[str]:
    """The levels that are named, 2 before 10."""
    return sorted({str(level) for level in responses.level.tolist() if level != ""}, key=natural)


def coarse_levels(responses: Responses) -> Responses:
    """Levels that are more than twelve numbers, in four classes of about equally many problems.

    Example:
        >>> rows = [{"problem": i, "configuration": "c", "reward": 1, "level": i} for i in range(20)]
        >>> sorted(set(coarse_levels(Responses.from_rows(rows)).level), key=natural)
        ['0 to 4', '5 to 9', '10 to 14', '15 to 19']
    """
    texts = responses.level.astype(str)
    names = sorted(set(texts.tolist()) - {""}, key=natural)
    if len(names) <= MAX_LEVELS:
        return responses
    try:
        number_N = np.array([float(text) if text else np.nan for text in texts.tolist()])
    except ValueError:
        return responses
    _, first = np.unique(responses.problem.astype(str), return_index=True)
    edges = np.nanquantile(number_N[first], [0.25, 0.5, 0.75], method="higher")
    part_N = np.searchsorted(edges, number_N, side="right")
    level = np.empty(len(responses), dtype=object)
    for part in range(4):
        inside = (part_N == part) & ~np.isnan(number_N)
        if inside.any():
            level[inside] = f"{number_N[inside].min():g} to {number_N[inside].max():g}"
    level[np.isnan(number_N)] = ""
    columns = {name: getattr(responses, name) for name in Responses.__dataclass_fields__}
    return Responses(**(columns | {"level": level}))
