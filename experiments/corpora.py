"""What the embedded experiments' models read before any reinforcement learning: vocabulary, corpora, and stages.

All of it is drawn here, problem by problem, from the train split; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ibpo.demo import LONGEST_CHAIN
from ibpo.responses import MAX_TRIALS, build_sequential_vote
from ibpo.tasks import digit_sums, stream, symbol_sums

Pairs = Iterator[tuple[str, str]]
"""(prompt, completion) texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of supervised training."""

    num_pairs: int
    learning_rate: float
    batch_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Curriculum:
    """What an experiment's model is made of, in the order in which it learns it."""

    words: tuple[str, ...]
    """The tokenizer's vocabulary."""
    pretraining_pairs: Callable[[np.random.Generator], Pairs]
    """The corpus of pretraining."""
    standard_pairs: Callable[[np.random.Generator], Pairs]
    """Standard responses of the task's corpus."""
    extended_pairs: Callable[[np.random.Generator], Pairs] | None = None
    """Extended responses of the task's corpus; None: they are built from the pretrained model's own samples."""
    corpus_mix: Mapping[str, float] | None = None
    """Level -> share of the problems whose sampled solutions make the extended responses; None: the task's mix."""
    practice_pairs: Callable[[np.random.Generator], Pairs] | None = None
    """What the cold start practises first: a part of the extended group that is hard for so small a model."""
    pretraining: Stage
    practice: Stage | None = None
    cold_start: Stage
    extended_share: float = 0.5
    """Share of extended responses in the cold start."""
    polish: Stage | None = None
    """A last stage in which most sequences carry loss on `decision_words` and what follows `<answer>` alone."""
    decision_words: frozenset[str] = frozenset()


# Thinking: answer at once, or work step by step.

DIRECT_DECAY, WORKED_DECAY = 0.75, 0.9
"""Long chains are rarer in the corpus than short ones, by this factor an operand: as in most corpora, and more so where
nobody writes the working down."""
UNKNOWN_SHARE = 0.12
WORKED_SHARE = 0.65
"""Share of the pretraining corpus."""


def _digit_sums(rng: np.random.Generator, worked: bool) -> Pairs:
    lengths = np.arange(1, LONGEST_CHAIN + 1)
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


def _direct_and_worked(rng: np.random.Generator) -> Pairs:
    direct, worked = _digit_sums(rng, worked=False), _digit_sums(rng, worked=True)
    while True:
        yield next(worked if rng.random() < WORKED_SHARE else direct)


# Voting: one chain of thought, or sequential voting with up to eight attempts.


def _symbol_sums(rng: np.random.Generator) -> Pairs:
    for problem in stream(symbol_sums, "train", int(rng.integers(2**31)), symbol_sums.CORPUS_MIX):
        path = symbol_sums.believed_path(str(problem.prompt).replace(" ", "").rstrip("="), rng)
        working = " ".join(f"{symbol} {total}" for symbol, total in path)
        yield str(problem.prompt), f"<cot> {working} <answer> ={path[-1][1]}"


def _tally_practice(rng: np.random.Generator) -> Pairs:
    """Votes on random answers without any working: counting is the hard part for so small a model."""
    prompt = " ".join(symbol_sums.UNKNOWN * symbol_sums.NUM_OPERANDS) + " ="
    while True:
        candidates = rng.integers(0, symbol_sums.MODULUS, int(rng.integers(1, 9)))
        answers = rng.choice(candidates, MAX_TRIALS)
        yield prompt, build_sequential_vote([("", f"={answer}") for answer in answers])


CURRICULA = {
    "thinking": Curriculum(
        words=(
            *(f"+{digit}" for digit in [*range(10), digit_sums.UNKNOWN]),
            *(str(digit) for digit in range(10)),
            *digit_sums.NAMES,
            "=",
            "<think>",
            "</think>",
            "<answer>",
        ),
        pretraining_pairs=_direct_and_worked,
        standard_pairs=lambda rng: _digit_sums(rng, worked=False),
        extended_pairs=lambda rng: _digit_sums(rng, worked=True),
        pretraining=Stage(num_pairs=300_000, learning_rate=3e-3, batch_size=64),
        cold_start=Stage(num_pairs=100_000, learning_rate=1e-3, batch_size=64),
        extended_share=0.5,
    ),
    "voting": Curriculum(
        words=(
            *symbol_sums.PLAIN,
            *symbol_sums.TRICKY,
            symbol_sums.UNKNOWN,
            *(str(total) for total in range(symbol_sums.MODULUS)),
            *(f"={total}" for total in range(symbol_sums.MODULUS)),
            "=",
            "<cot>",
            "[TRIAL]",
            "[/TRIAL]",
            "1x",
            "2x",
            "3x",
            "<answer>",
        ),
        pretraining_pairs=_symbol_sums,
        standard_pairs=_symbol_sums,
        corpus_mix=symbol_sums.CORPUS_MIX,
        practice_pairs=_tally_practice,
        pretraining=Stage(num_pairs=150_000, learning_rate=3e-3, batch_size=64),
        practice=Stage(num_pairs=100_000, learning_rate=3e-3, batch_size=64),
        cold_start=Stage(num_pairs=130_000, learning_rate=2e-3, batch_size=48),
        extended_share=0.55,
        polish=Stage(num_pairs=240_000, learning_rate=1.5e-3, batch_size=64),
        decision_words=frozenset({"1x", "2x", "3x", "[/TRIAL]", "[TRIAL]", "<answer>"}),
    ),
}
"""By the name of the experiment."""
