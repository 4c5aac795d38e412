"""The *thinking* experiment: answer at once, or work step by step (the setting of today's hybrid models)."""

from __future__ import annotations

import numpy as np

from ibpo.demo.experiment import Experiment, Pairs, Stage
from ibpo.responses.thinking import EXTENDED, STANDARD
from ibpo.tasks import digit_sums

LONGEST = 12
DIRECT_DECAY, WORKED_DECAY = 0.75, 0.9
"""Long chains are rarer in the corpus than short ones, by this factor an operand: as in most corpora, and more so where
nobody writes the working down."""
UNKNOWN_SHARE = 0.12
WORKED_SHARE = 0.65
"""Of the pretraining corpus."""


def _corpus(rng: np.random.Generator, worked: bool) -> Pairs:
    lengths = np.arange(1, LONGEST + 1)
    weights = (WORKED_DECAY if worked else DIRECT_DECAY) ** lengths
    while True:
        length = int(rng.choice(lengths, p=weights / weights.sum()))
        operands = digit_sums.draw_operands(length, bool(rng.random() < UNKNOWN_SHARE), rng)
        prompt = digit_sums.prompt_of(operands)
        if digit_sums.split_of(prompt) != "train":
            continue
        totals = digit_sums.running_totals(operands, int(rng.integers(digit_sums.MODULUS)))
        steps = " ".join(f"{name} {digit} {total}" for (name, digit), total in zip(operands, totals, strict=True))
        thought = f"<think> {steps} </think> " if worked else ""
        yield prompt, f"{thought}<answer> {totals[-1]}"


def _mixed(rng: np.random.Generator) -> Pairs:
    direct, worked = _corpus(rng, worked=False), _corpus(rng, worked=True)
    while True:
        yield next(worked if rng.random() < WORKED_SHARE else direct)


THINKING = Experiment(
    name="thinking",
    title="Thinking: answer at once, or work step by step",
    task=digit_sums,
    response_groups=(STANDARD, EXTENDED),
    words=(
        *(f"+{digit}" for digit in [*range(10), digit_sums.UNKNOWN]),
        *(str(digit) for digit in range(10)),
        *digit_sums.NAMES,
        "=",
        "<think>",
        "</think>",
        "<answer>",
    ),
    max_completion_length=3 * LONGEST + 6,
    pretraining_pairs=_mixed,
    standard_pairs=lambda rng: _corpus(rng, worked=False),
    extended_pairs=lambda rng: _corpus(rng, worked=True),
    pretraining=Stage(num_pairs=300_000, learning_rate=3e-3, batch_size=64),
    cold_start=Stage(num_pairs=100_000, learning_rate=1e-3, batch_size=64),
    extended_share=0.5,
    built_from_samples=False,
    # The defaults of `IBPOConfig`, but for:
    training={
        "max_steps": 190,
        # One response of each group on each prompt, decoded for two updates at once: more updates in the same time
        # lose less of the direct answers (docs/log.md). Of one response, "shrunken" would be the regression too.
        "num_generations": 2,
        "per_device_train_batch_size": 2 * 64,
        "steps_per_generation": 2,
        # Below this a gain is taken for noise: the regression's error is .14.
        "min_gain": 0.2,
    },
    asked="Sums of 1 to 12 digits; the answer is the last digit of the total. The model may answer at once "
    "(standard) or write its running total down first (extended).",
    designed_in="Nothing about the errors is designed in: a direct answer to a long chain fails because the model has "
    "too few layers for the serial computation, and long workings fail now and then because long chains are rare in "
    "the corpus. Chains with an unknown operand (`+x`) are hopeless by construction.",
)
