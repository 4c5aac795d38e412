"""RAFT as published, its ties drawn among all groups: what comes of it on an embedded experiment.

    python -m benchmarks.raft_ties thinking --seeds 3

The demo's RAFT gives ties between the response groups to the standard one, so that of right responses it imitates the
cheapest. Here the preset (`ibpo.training.config.RAFT`) is trained otherwise alike, a seed after the other, on one core:
4 minutes each for *thinking*, some 45 for *voting*. A Markdown row for each: right as sampled, share of extended
responses, tokens, and right where each group is forced, on the demo's unseen problems. What is finished stays in
`--runs` and is not repeated.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
import torch

from ibpo.demo import DemoJob, experiment_named, forced_counts, model_path, sample_policy, train_policy
from ibpo.evaluation import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["thinking", "voting"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="updates; not given: as many as the demo's")
    parser.add_argument("--problems", type=int, default=4_000)
    parser.add_argument("--runs", type=Path, default=Path("runs/raft_ties"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    experiment, cold_start = experiment_named(given.experiment), model_path(given.experiment)
    print("| seed | sampled | extended share | tokens | forced standard | forced extended |\n|---|---|---|---|---|---|")
    for seed in range(given.seeds):
        job = DemoJob(
            name="raft",
            experiment=given.experiment,
            seed_dir=str(given.runs / given.experiment / f"seed{seed}"),
            cold_start=str(cold_start),
            pretrained="",
            seed=seed,
            num_problems=given.problems,
            num_calibration=1,
        )
        options = {"budget": None, "seed": seed, "num_steps": given.steps, "min_gain": 0.0}
        train_policy(experiment, cold_start, job.policy_dir, **options)
        sample_policy(job, experiment, forced_counts(experiment))
        sampled, *forced = (read_table(job.responses("raft", how)) for how in ("sampled", "standard", "extended"))
        share = np.mean([group == "extended" for group in sampled.response_group])
        right = [f"{table.reward.mean():.1%}" for table in forced]
        cells = [str(seed), f"{sampled.reward.mean():.1%}", f"{share:.1%}", f"{sampled.tokens.mean():.2f}", *right]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
