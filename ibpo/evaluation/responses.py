"""Judged responses, whoever sampled them: one table from which every number of an evaluation is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.evaluation.statistics import FloatArray

Texts = NDArray[np.object_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Responses:
    """Columns, one entry per response; N of them.

    A *configuration* is one way of answering that stands as one row in a report: a policy that chooses by itself, a
    response group that was forced, an effort level, a baseline.

    Example:
        >>> rows = [{"problem": "p", "configuration": "low", "reward": r, "tokens": 9} for r in (0, 1)]
        >>> Responses.from_rows(rows).reward.tolist()
        [0.0, 1.0]
    """

    problem: Texts
    configuration: Texts
    reward: FloatArray
    """In [0, 1]."""
    tokens: FloatArray
    """Cost of each response, nan where unknown."""
    thinking_tokens: FloatArray
    """Of the tokens, those of the thinking; nan where unknown."""
    truncated: FloatArray
    """1 where the response was cut off, 0 where it ended by itself, nan where unknown."""
    response_group: Texts
    """As the response itself opens; "" where unknown."""
    answer: Texts
    """None where the response gives none."""
    level: Texts
    domain: Texts
    budget: FloatArray
    """The share of extended responses that the configuration was trained to keep; nan without one."""
    prompt: Texts
    completion: Texts

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Responses:
        """From rows with some of the columns; what a row lacks is unknown."""
        rows = list(rows)
        unknown: dict[str, Any] = dict.fromkeys(cls.__dataclass_fields__, "") | {"answer": None}
        columns: dict[str, Any] = {}
        for field in fields(cls):
            if field.type in ("FloatArray", FloatArray):
                values = [row.get(field.name) for row in rows]
                columns[field.name] = np.array([float("nan") if v is None else float(v) for v in values])
            else:
                values = [row.get(field.name) for row in rows]
                columns[field.name] = np.empty(len(rows), dtype=object)
                columns[field.name][:] = [unknown[field.name] if v is None else v for v in values]
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.problem)

    def where(self, keep: NDArray[Any] | Sequence[int]) -> Responses:
        """Only these responses: a mask, or positions."""
        return Responses(**{name: getattr(self, name)[keep] for name in self.__dataclass_fields__})

    def of(self, configuration: str) -> Responses:
        """Only those of one configuration."""
        return self.where(self.configuration == configuration)

    @property
    def configurations(self) -> list[str]:
        """In order of their first appearance."""
        return list(dict.fromkeys(self.configuration.tolist()))

    @property
    def right(self) -> FloatArray:
        """`[N]` 1 where the reward is at least one half."""
        return (self.reward >= 0.5).astype(float)

    @property
    def has_votes(self) -> bool:
        """Whether answers are there to vote on."""
        return bool(len(self)) and any(answer is not None for answer in self.answer)
