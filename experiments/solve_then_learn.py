"""Solve-then-learn (Zhai et al. 2026, arXiv 2604.14853): solve the allocation with an oracle, learn to imitate it.

Solve: on the probe problems the gains of extended responses are known from samples, and the budget's price makes of
them the oracle's labels. Learn: a classifier on the prompt's features, the cold start's hidden states, imitates the
labels; it routes unseen prompts, and the cold start answers. Nothing about the responses is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.context import Context
from ibpo.evaluation.metrics import random_mix
from ibpo.evaluation.sample import write_table
from ibpo.evaluation.statistics import FloatArray
from ibpo.evaluation.store import Columns, by_sample, read_columns
from ibpo.training import prompt_features

PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""C of the logistic regression: the inverse of its penalty; one is chosen on validation problems."""
BATCH = 512


def oracle_labels(gain: FloatArray, budget: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The floor(budget P) largest positive gains `[P]`: extended above the budget's price, ties at random.

    Example:
        >>> oracle_labels(np.array([0.5, 0.0, 1.0, -0.2]), 0.75, np.random.default_rng(0)).tolist()
        [True, False, True, False]
    """
    room = int(np.floor(budget * len(gain) + 1e-9))
    order = np.lexsort((rng.random(len(gain)), -gain))[:room]
    labels = np.zeros(len(gain), bool)
    labels[order[gain[order] > 0]] = True
    return labels


def learn(features: FloatArray, labels: NDArray[np.bool_], penalty: float) -> Any:
    """A standardised logistic regression `[P, D]` -> label."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000)).fit(features, labels)


def route(context: Context, budgets: Sequence[float], tuned: Mapping[float, float]) -> list[dict[str, Any]]:
    """Write `responses/solve-then-learn-Q__sampled.parquet` for each budget: the cold start's, of the group chosen.

    Args:
        context: the job's.
        budgets: shares of problems answered extended, q+.
        tuned: q+ -> C, where the first seed has chosen it; empty: it is chosen here.

    Returns:
        What was tried on the validation problems: options, accuracy, share, accuracy above the random mix of that
        share, and whether it was chosen.
    """
    splits = {name: _Split(context, name) for name in ("probe", "validation", "test")}
    tuning: list[dict[str, Any]] = []
    for budget in budgets:
        rng = np.random.default_rng([context.job.seed, round(1000 * budget)])
        probe, validation = splits["probe"], splits["validation"]
        labels = oracle_labels(probe.gain, budget, rng)
        tried = []
        for penalty in (tuned[budget],) if budget in tuned else PENALTIES:
            classifier = learn(probe.features, labels, penalty) if 0 < labels.sum() < len(labels) else None
            chosen = _decide(classifier, labels, validation.features)
            accuracy = float(np.where(chosen, validation.extended, validation.standard).mean())
            mix = random_mix(float(validation.standard.mean()), float(validation.extended.mean()), chosen.mean())
            row = {
                "policy": "solve-then-learn",
                "goal": "above_random_mix",
                "options": {"q+": budget, "C": penalty},
                "accuracy": accuracy,
                "extended_share": float(chosen.mean()),
                "above_random_mix": accuracy - mix,
                "seed": context.job.seed,
                "num_validation": context.job.num_validation,
            }
            tried.append((row, classifier))
        best = max(range(len(tried)), key=lambda i: tried[i][0]["above_random_mix"])
        tuning += [row | {"chosen": i == best} for i, (row, _) in enumerate(tried)]
        chosen = _decide(tried[best][1], labels, splits["test"].features)
        _write_routed(context, budget, dict(zip(splits["test"].problem_id, chosen.tolist(), strict=True)))
    return tuning


def _decide(classifier: Any, labels: NDArray[np.bool_], features: FloatArray) -> NDArray[np.bool_]:
    if classifier is None:  # the oracle wants the same everywhere
        return np.full(len(features), bool(labels.any()))
    return classifier.predict(features).astype(bool)


class _Split:
    """Problems of one split, sorted by id, with features and the cold start's mean rewards by response group."""

    def __init__(self, context: Context, split: str) -> None:
        rewards: dict[str, Columns] = {
            how: read_columns(context.responses("cold_start", how, split=split)) for how in ("standard", "extended")
        }
        ids = rewards["standard"]["problem_id"]
        self.problem_id, first = np.unique(ids, return_index=True)
        self.features = features_of(context, rewards["standard"]["prompt"][first].tolist())
        self.standard, self.extended = (by_sample(rewards[how], "reward").mean(1) for how in rewards)

    @property
    def gain(self) -> FloatArray:
        """`[P]` what an extended response gains."""
        return self.extended - self.standard


def features_of(context: Context, prompts: Sequence[str]) -> FloatArray:
    """`[P, D]` the cold start's hidden states of the prompts, see `prompt_features`."""
    model = AutoModelForCausalLM.from_pretrained(context.cold_start, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(context.cold_start)
    ids = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    return np.concatenate([prompt_features(model, tokenizer, ids[i : i + BATCH]) for i in range(0, len(ids), BATCH)])


def _write_routed(context: Context, budget: float, extended: dict[str, bool]) -> None:
    parts = []
    for how, wanted in (("standard", False), ("extended", True)):
        table = parquet.read_table(context.responses("cold_start", how))
        keep = [
            extended[problem] is wanted and sample < 2
            for problem, sample in zip(table["problem_id"].to_pylist(), table["sample"].to_pylist(), strict=True)
        ]
        parts.append(table.filter(pa.array(keep)))
    write_table(pa.concat_tables(parts), context.responses(f"solve-then-learn-{budget:g}"))
