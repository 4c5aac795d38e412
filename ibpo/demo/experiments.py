"""The demo's experiments, two embedded and one with a real model: task, response groups, settings of the training.

How their language models were made from nothing (corpora, pretraining, cold start): `experiments/build.py` of the
repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ibpo.responses import MAX_TRIALS, TALLY, answer_reader, tagged_answer, thought_answer
from ibpo.tasks import EmbeddedTask, digit_sums, symbol_sums, word_sums
from ibpo.types import ResponseGroup

EXPERIMENTS = ("thinking", "voting")
"""Names of the embedded experiments."""
TINY = (
    "The models are tiny (0.36 million parameters) and the tasks are made up: this shows that the method does what it "
    "says, not how much it gains on a large model."
)
LONGEST_CHAIN = 12
"""Operands of the longest sum in *thinking*."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """An embedded experiment."""

    name: str
    title: str
    task: EmbeddedTask
    response_groups: Sequence[ResponseGroup]
    """The first one is the standard group."""
    max_completion_length: int
    temperature: float = 1.0
    """Temperature of responses and of the choice."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What this task needs besides the defaults of `IBPOConfig`."""
    num_siblings_standard: int = 8
    """Standard responses per problem in the evaluation: self-consistency needs as many as its largest k."""
    asked: str = ""
    """What the model is asked, for the report and the model card."""
    model: str = TINY
    """What the model is, for the report's limits."""
    designed_in: str = ""
    """Whatever about the errors is designed into the data, said openly in the model card and the report."""


THINKING = Experiment(
    name="thinking",
    title="Thinking: answer at once, or work step by step",
    task=digit_sums,
    response_groups=(
        ResponseGroup(name="standard", prefix="<answer>", extract_answer=tagged_answer),
        ResponseGroup(name="extended", prefix="<think>", extract_answer=thought_answer),
    ),
    max_completion_length=3 * LONGEST_CHAIN + 6,
    training={
        "max_steps": 190,
        # One response of each group on each prompt, decoded for two updates at once: more updates in the same time
        # lose less of the direct answers (docs/log.md). With one response, "shrunken" would be the regression too.
        "num_generations": 2,
        "per_device_train_batch_size": 2 * 64,
        "steps_per_generation": 2,
    },
    asked="Sums of 1 to 12 digits; the answer is the last digit of the total. The model may answer at once "
    "(standard) or write its running total down first (extended).",
    designed_in="Nothing about the errors is designed in: a direct answer to a long chain fails because the model has "
    "too few layers for the serial computation, and long workings fail now and then because long chains are rare in "
    "the corpus. Chains with an unknown operand (`+x`) are hopeless by construction.",
)
"""Answer at once, or work step by step: the setting of today's hybrid models."""

VOTING = Experiment(
    name="voting",
    title="Voting: one chain of thought, or sequential voting",
    task=symbol_sums,
    response_groups=(TALLY.standard, TALLY.voting),
    max_completion_length=MAX_TRIALS * (2 * symbol_sums.NUM_OPERANDS + 4) + 6,
    training={
        "max_steps": 480,
        "steps_per_generation": 2,
        # There is much to learn in both groups: completions are imitated strongly, held the less, and votes, which are
        # six times as long, do not drown single chains (docs/log.md).
        "completion_loss_weight": 2.0,
        "balance_groups": True,
        "kl_share": 0.5,
        "kl_weight_start": 0.025,
        "kl_weight": 0.025,
        "integral_gain": 0.06,
    },
    asked="Sums of four symbols whose values must be known by heart. The model may write one chain of thought "
    "(standard), or vote in one response: up to eight attempts in [TRIAL] blocks, ended by the first answer that has "
    "occurred three times (extended).",
    designed_in="The corpus's writer believes a fixed fifth of the facts about upper-case symbols wrongly; that is "
    "where the errors come from, and it is designed in. The facts are fixed, not noise, so greedy decoding is no short "
    "cut. Problems with `?` are hopeless by construction. Each [TRIAL] block closes with a tally of its answer, which "
    "the paper's format has not.",
)
"""One chain of thought, or sequential voting with up to eight attempts: the paper's own setting."""


SMOLLM2 = Experiment(
    name="smollm2",
    title="A real model: answer at once, or step by step",
    task=word_sums,
    response_groups=(
        ResponseGroup(name="standard", prefix="Answer:", extract_answer=answer_reader("after:Answer:")),
        ResponseGroup(name="extended", prefix="Steps:", extract_answer=answer_reader("after:Answer:")),
    ),
    max_completion_length=64,
    # After so short a cold start most errors at 1 are slips of a blurred distribution (docs/how-to/real-models.md).
    temperature=0.3,
    training={
        # All weights, each problem once; docs/how-to/real-models.md says what half as many steps came to.
        "cold_start": {"learning_rate": 2e-4},
    },
    num_siblings_standard=4,
    asked="SmolLM2-135M-Instruct, a chat model that others made, adds two to five numbers, in stories and as bare "
    "sums. It may answer at once (standard) or write the sum down number by number (extended).",
    model="The model is real (135 million parameters); it was taught both kinds of response by imitation of a "
    "program's, and the task is made up. Then the choice alone was trained: the trained model chooses, and what "
    "follows its first token is written by the cold start.",
    designed_in="Nothing about the errors is designed in: the model is rarely right at once, and step by step the less "
    "often the more numbers there are. A fifth of the problems hold a number that is not given and are hopeless by "
    "construction. Responses are sampled at temperature 0.3.",
)
"""A real language model, from a folder: the choice is trained, bodies are those of the cold start."""


def experiment_named(name: str) -> Experiment:
    """The experiment of a name: `"thinking"`, `"voting"` or `"smollm2"`."""
    return {"thinking": THINKING, "voting": VOTING, "smollm2": SMOLLM2}[name]
