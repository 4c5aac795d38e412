"""What each option of the trainer bought: one policy per option, all else equal; prints a Markdown table.

    python benchmarks/ablation.py thinking --budget 0.5 --seed 0 --runs runs/ablation

Two policies train at a time; what is finished stays and is not repeated.
"""

from __future__ import annotations

import argparse
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}

VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "learning rate down from the start": {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.03},
    },
    "no stratified rollouts": {"stratified": False},
    "choice imitated only where rewarded": {"imitate_denied": False},
    "choice weighted .3, as thinking's bodies are": {"prefix_loss_weight": 0.3},
    "gains: the prompt's own samples (paper's margin)": {"utility": "margin"},
    "gains: the prompt's own group means": {"utility": "group_mean"},
    "gains: shrunken towards the regression": {"utility": "shrunken"},
    "four responses a prompt, rollouts for each update": {
        "num_generations": 4,
        "per_device_train_batch_size": 256,
        "steps_per_generation": 1,
    },
    "no KL penalty": {"kl_share": 0.0},
    "KL penalty strong from the start": {"kl_weight_start": 3.0, "kl_weight": 3.0},
    "KL penalty that grows to 3": {"kl_weight": 3.0},
    "bodies of the chosen response alone": {"imitate_completions": "chosen"},
    "no bodies": {"completion_loss_weight": 0.0},
    "allocation on one batch alone": {"window": 1},
    "no feedback": {"integral_gain": 0.0},
    "no averaged weights": {"averaging": 0.0},
}


def one(experiment_name: str, variant: str, budget: float, seed: int, runs: str, num_steps: int | None) -> None:
    """Train and sample one policy."""
    import torch

    from ibpo.demo import (
        DemoJob,
        experiment_named,
        forced_counts,
        model_path,
        sample_policy,
        sample_untrained,
        train_policy,
    )

    torch.set_num_threads(1)
    experiment, cold_start = experiment_named(experiment_name), model_path(experiment_name)
    job = DemoJob(
        name=f"ibpo-{budget:g}",
        experiment=experiment_name,
        seed_dir=str(Path(runs) / experiment_name / f"q{budget:g}-seed{seed}" / _slug(variant)),
        cold_start=str(cold_start),
        pretrained=str(model_path(experiment_name, "pretrained")),
        seed=seed,
        num_problems=4_000,
        num_calibration=4_096,
    )
    if variant == "baselines":
        sample_untrained(job, experiment)
        return
    options: dict[str, Any] = {"budget": budget, "seed": seed, "num_steps": num_steps, **VARIANTS[variant]}
    train_policy(experiment, cold_start, job.policy_dir, **options)
    sample_policy(job, experiment, forced_counts(experiment))


def _slug(variant: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in variant)


def row(experiment_name: str, variant: str, budget: float, seed: int, runs: str) -> str:
    """One line of the table."""
    from ibpo.demo import calibrated_choice, experiment_named
    from ibpo.evaluation import compare_methods

    base = Path(runs) / experiment_name / f"q{budget:g}-seed{seed}"
    directory = base / _slug(variant)
    for how in ("standard", "extended"):
        name = f"cold_start__{how}.jsonl.gz"
        shutil.copyfile(base / "baselines" / "responses" / name, directory / "responses" / name)
    levels = list(experiment_named(experiment_name).task.MIX)
    merits = compare_methods(directory, experiment_name, seed, calibrated_choice(directory), levels).merits
    by_variant = {merit["variant"]: merit for merit in merits}
    sampled, calibrated = by_variant["sampled"], by_variant["calibrated"]

    def share(merit: dict[str, Any]) -> str:
        value, interval = merit["oracle_share"], merit["oracle_share_interval"]
        return "" if value is None else f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"

    eroded = " / ".join(
        f"{100 * e['difference']:+.1f} ± {100 * e['stderr']:.1f}"
        for e in (sampled["erosion"][how] for how in ("standard", "extended"))
    )
    return (
        f"| {variant} | {100 * sampled['accuracy']:.1f} | {100 * sampled['share_error']:+.1f} | {share(sampled)} "
        f"| {share(calibrated)} | {eroded} |"
    )


def main() -> None:
    """Train what is missing, two at a time, and print the table."""
    parser = argparse.ArgumentParser(description="What each option of the trainer bought.")
    parser.add_argument("experiment", choices=("thinking", "voting"))
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs/ablation")
    parser.add_argument("--steps", type=int, default=None, help="updates per policy; the experiment's own by default")
    args = parser.parse_args()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        tasks = {
            variant: pool.submit(one, args.experiment, variant, args.budget, args.seed, args.runs, args.steps)
            for variant in ("baselines", *VARIANTS)
        }
        for task in tasks.values():
            task.result()
    print("| | accuracy, sampled | share - q+, pp | oracle share, sampled | calibrated | eroded, pp: std / ext |")
    print("|---|---|---|---|---|---|")
    for variant in VARIANTS:
        print(row(args.experiment, variant, args.budget, args.seed, args.runs), flush=True)


if __name__ == "__main__":
    main()
