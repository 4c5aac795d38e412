"""The *voting* experiment, the paper's: one chain of thought, or sequential voting with up to eight attempts."""

from __future__ import annotations

import numpy as np

from ibpo.demo.experiment import Experiment, Pairs, Stage
from ibpo.responses.sequential_voting import EXTENDED, MAX_TRIALS, STANDARD, build_sequential_vote
from ibpo.tasks import symbol_sums
from ibpo.tasks.draws import stream


def _corpus(rng: np.random.Generator) -> Pairs:
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


VOTING = Experiment(
    name="voting",
    title="Voting: one chain of thought, or sequential voting",
    task=symbol_sums,
    response_groups=(STANDARD, EXTENDED),
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
    max_completion_length=MAX_TRIALS * (2 * symbol_sums.NUM_OPERANDS + 4) + 6,
    pretraining_pairs=_corpus,
    standard_pairs=_corpus,
    pretraining=Stage(num_pairs=150_000, learning_rate=3e-3, batch_size=64),
    cold_start=Stage(num_pairs=130_000, learning_rate=2e-3, batch_size=48),
    practice_pairs=_tally_practice,
    practice=Stage(num_pairs=100_000, learning_rate=3e-3, batch_size=64),
    polish=Stage(num_pairs=240_000, learning_rate=1.5e-3, batch_size=64),
    decision_words=frozenset({"1x", "2x", "3x", "[/TRIAL]", "[TRIAL]", "<answer>"}),
    extended_share=0.55,
    built_from_samples=True,
    corpus_mix=symbol_sums.CORPUS_MIX,
    # The defaults of `IBPOConfig`, but for:
    training={
        "max_steps": 240,
        # Completions differ in whether they are right, so they are imitated strongly, and held the less.
        "completion_loss_weight": 1.0,
        "kl_share": 0.5,
        "kl_weight_start": 0.1,
        "kl_weight": 0.1,
        "integral_gain": 0.06,
        # Easy problems gain .05 and hopeless ones, by the regression's noise, about as much: docs/log.md.
        "min_gain": 0.08,
    },
    asked="Sums of four symbols whose values must be known by heart. The model may write one chain of thought "
    "(standard), or vote in one response: up to eight attempts in [TRIAL] blocks, ended by the first answer that has "
    "occurred three times (extended).",
    designed_in="The corpus's writer believes a fixed fifth of the facts about upper-case symbols wrongly; that is "
    "where the errors come from, and it is designed in. The facts are fixed, not noise, so greedy decoding is no short "
    "cut. Problems with `?` are hopeless by construction. Each [TRIAL] block closes with a tally of its answer, which "
    "the paper's format has not.",
)
