"""What an embedded experiment consists of: a task, its response groups, and how its model is made from nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ibpo.tasks.draws import EmbeddedTask
from ibpo.types import ResponseGroup

Pairs = Iterator[tuple[str, str]]
"""(prompt, completion) texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of supervised training."""

    num_pairs: int
    learning_rate: float
    batch_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """An embedded experiment; `ibpo.demo.thinking` and `ibpo.demo.voting` define one each."""

    name: str
    title: str
    task: EmbeddedTask
    response_groups: Sequence[ResponseGroup]
    """The first one is the standard group."""
    words: Sequence[str]
    """The tokenizer's vocabulary."""
    max_completion_length: int
    pretraining_pairs: Callable[[np.random.Generator], Pairs]
    """The corpus of pretraining."""
    standard_pairs: Callable[[np.random.Generator], Pairs]
    """Standard responses of the task's corpus."""
    pretraining: Stage
    cold_start: Stage
    built_from_samples: bool
    """Whether extended responses are built from the pretrained model's own samples, or come from the task's corpus."""
    corpus_mix: Mapping[str, float] | None = None
    """Level -> share of the problems whose sampled solutions make the extended responses; None: the task's mix."""
    extended_pairs: Callable[[np.random.Generator], Pairs] | None = None
    practice_pairs: Callable[[np.random.Generator], Pairs] | None = None
    """What the cold start practises first: a part of the extended group that is hard for so small a model."""
    practice: Stage | None = None
    polish: Stage | None = None
    """A last stage in which most sequences carry loss on `decision_words` and what follows `<answer>` alone."""
    decision_words: frozenset[str] = frozenset()
    extended_share: float = 0.5
    """Share of extended responses in the cold start."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `IBPOConfig` that differ from its defaults."""
    num_siblings_standard: int = 8
    """Standard responses per problem in the evaluation: self-consistency needs as many as its largest k."""
    asked: str = ""
    designed_in: str = ""
    """Whatever about the errors is designed into the data, said openly in the model card and the report."""
