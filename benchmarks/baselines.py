"""CPU seconds of an update of each kind of trained baseline, and what a whole table would take from them.

    python -m benchmarks.baselines thinking --updates 4

One process, one thread; CPU time, which a loaded machine stretches less than wall time. Start-up, sampling and SFT are
not in it: docs/results/baselines.md adds them up.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}

KINDS = {"grpo": "GRPO, length penalty, Thinkless-like", "adaptthink-0.05": "AdaptThink-like", "score": "SCoRe"}
OPTIONS = {"learning_rate": 1e-3}


def seconds(name: str, experiment: str, num_steps: int, folder: Path) -> float:
    """CPU seconds of training one policy for so many updates."""
    from experiments.context import BaselineJob, Context
    from experiments.jobs import run_job
    from experiments.recipes import RECIPES, trainer_of
    from ibpo.demo import model_path

    job = BaselineJob(
        name="probe",
        experiment=experiment,
        seed_dir=str(folder),
        cold_start=str(model_path(experiment)),
        seed=0,
        num_problems=32,
        num_validation=32,
        num_probe=64,
        num_steps=num_steps,
        tuning_file=str(folder / "tuning.json"),
    )
    run_job(job)  # what SCoRe's dialogues are built of; done once
    context = Context(replace(job, name=name))
    begun = time.process_time()
    trainer_of(RECIPES[name])(context, folder / f"{name}-{num_steps}", **OPTIONS, **RECIPES[name].options)
    return time.process_time() - begun


def main() -> None:
    """Print a line for each kind."""
    import torch
    import transformers

    parser = argparse.ArgumentParser(description="CPU seconds of an update of each kind of trained baseline.")
    parser.add_argument("experiment", choices=("thinking", "voting"))
    parser.add_argument("--updates", type=int, default=4, help="even: besides the first two, not counted")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.kind or KINDS:
            first, more = (seconds(name, args.experiment, n, Path(folder)) for n in (2, 2 + args.updates))
            lines.append(f"| {args.experiment} | {KINDS[name]} | {(more - first) / args.updates:.2f} |")
    print("| experiment | baseline | CPU seconds an update |\n|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
