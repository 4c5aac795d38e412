"""Baselines that learn from labelled responses of the cold start, without reinforcement: SFT, and solve-then-learn.

SFT: does imitating responses that were built by difficulty teach a policy where to spend? SV-SFT imitates extended
responses alone, ASV-SFT-alpha (Yu et al. 2025) either group, with a share of extended ones that grows with the
problem's difficulty for this very model, min(1, alpha d), d = 1 - pass rate of standard responses: the formula of
`ibpo.responses.voting`. All are right responses of the cold start's own to the probe problems, so that nothing but
their mixture differs from the policy that they start from.

Solve-then-learn (Zhai et al. 2026, arXiv 2604.14853): solve the allocation with an oracle, learn to imitate it. On the
probe problems the gains of extended responses are known from samples, and the budget's price makes of them the oracle's
labels. A classifier on the prompt's features, the cold start's hidden states, imitates the labels; it routes unseen
prompts, and the cold start answers. Nothing about the responses is trained. Letters: P problems, D features.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.context import Context
from ibpo.demo import StepProgress
from ibpo.evaluation import FloatArray, Responses, by_number, random_mix, read_table, write_table
from ibpo.responses import BuildConfig, voting_share
from ibpo.tasks import local_rows
from ibpo.training import prompt_features, supervised_fine_tune

RESPONSES_PER_PROBLEM = 4
BATCH_SIZE = 64


def sft(
    context: Context, out_dir: Path, *, learning_rate: float, mixture: Literal["asv", "sv"], alpha: float = 1.0
) -> None:
    """One epoch on the built mixture: `"sv"`, or `"asv"` with its alpha."""
    pairs = mix_by_difficulty(context, BuildConfig(mixture=mixture, alpha=alpha, seed=context.job.seed))
    fine_tune(context, out_dir, pairs, learning_rate=learning_rate)


def mix_by_difficulty(context: Context, config: BuildConfig) -> list[tuple[str, str]]:
    """(prompt, right completion), at most `RESPONSES_PER_PROBLEM` a probe problem, groups drawn by `voting_share`."""
    rng = random.Random(config.seed)
    rows = {
        how: [row for _, row in local_rows(context.responses("cold_start", how, split="probe"))]
        for how in ("standard", "extended")
    }
    right: dict[str, dict[str, list[str]]] = {}
    num_right: dict[str, list[float]] = {}
    for how, found in rows.items():
        for row in found:
            one = right.setdefault(row["prompt"], {"standard": [], "extended": []})
            if row["finish_reason"] != "stop":
                continue
            if row["reward"] > 0:
                one[how].append(row["completion"])
            if how == "standard":
                num_right.setdefault(row["prompt"], []).append(row["reward"])
    pairs = []
    for prompt, one in right.items():
        judged = num_right.get(prompt, [])
        share = voting_share(1 - sum(judged) / len(judged) if judged else 1.0, config)
        for _ in range(RESPONSES_PER_PROBLEM):
            how = "extended" if rng.random() < share else "standard"
            if one[how]:
                pairs.append((prompt, rng.choice(one[how])))
    rng.shuffle(pairs)
    return pairs


def fine_tune(
    context: Context,
    out_dir: Path,
    pairs: Sequence[tuple[str, str]],
    *,
    learning_rate: float,
    loss_on: Callable[[int, list[int]], list[int]] | None = None,
) -> None:
    """One epoch from the cold start; `out_dir/model` is whole or absent, and kept where it is there."""
    if (out_dir / "model").exists():
        return
    tokenizer: Any = AutoTokenizer.from_pretrained(context.cold_start)
    model: Any = AutoModelForCausalLM.from_pretrained(context.cold_start, dtype=torch.float32)
    supervised_fine_tune(
        model,
        tokenizer,
        pairs,
        out_dir / "checkpoints",
        learning_rate=learning_rate,
        batch_size=BATCH_SIZE,
        seed=context.job.seed,
        callbacks=[StepProgress(lambda done: context.job.report("fine-tuning", 0.8 * done))],
        loss_on=loss_on,
        save_strategy="no",
    )
    partial = out_dir / "model.partial"
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    os.replace(partial, out_dir / "model")


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
    """Write `responses/solve-then-learn-Q__sampled.jsonl.gz` for each budget: the cold start's, of the group chosen.

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
        rewards: dict[str, Responses] = {
            how: read_table(context.responses("cold_start", how, split=split)) for how in ("standard", "extended")
        }
        ids = rewards["standard"].problem.astype(str)
        self.problem_id, first = np.unique(ids, return_index=True)
        self.features = features_of(context, rewards["standard"].prompt[first].tolist())
        self.standard, self.extended = (by_number(rewards[how], "reward").mean(1) for how in rewards)

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
    rows = [
        row
        for how, wanted in (("standard", False), ("extended", True))
        for _, row in local_rows(context.responses("cold_start", how))
        if extended[row["problem_id"]] is wanted and row["number"] < 2
    ]
    write_table(context.responses(f"solve-then-learn-{budget:g}"), rows)
