"""SFT alone: does imitating responses that were built by difficulty teach a policy where to spend?

SV-SFT imitates extended responses alone, ASV-SFT-alpha (Yu et al. 2025) either group, with a share of extended ones
that grows with the problem's difficulty for this very model, min(1, alpha d), d = 1 - pass rate of standard responses:
the formula of `ibpo.responses.voting`. All are right responses of the cold start's own to the probe problems, so that
nothing but their mixture differs from the policy that they start from.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.context import Context
from ibpo.demo import StepProgress
from ibpo.responses import BuildConfig, voting_share
from ibpo.training import supervised_fine_tune

RESPONSES_PER_PROBLEM = 4
BATCH_SIZE = 64


def sft(context: Context, out_dir: Path, *, learning_rate: float, mixture: str, alpha: float = 1.0) -> None:
    """One epoch on the built mixture: `"sv"`, or `"asv"` with its alpha."""
    pairs = mix_by_difficulty(context, BuildConfig(mixture=mixture, alpha=alpha, seed=context.job.seed))
    fine_tune(context, out_dir, pairs, learning_rate=learning_rate)


def mix_by_difficulty(context: Context, config: BuildConfig) -> list[tuple[str, str]]:
    """(prompt, right completion), at most `RESPONSES_PER_PROBLEM` a probe problem, groups drawn by `voting_share`."""
    rng = random.Random(config.seed)
    rows = {
        how: parquet.read_table(context.responses("cold_start", how, split="probe")).to_pylist()
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
        callbacks=[StepProgress(lambda done: context.tell("fine-tuning", 0.8 * done))],
        loss_on=loss_on,
        save_strategy="no",
    )
    partial = out_dir / "model.partial"
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    os.replace(partial, out_dir / "model")
