"""One trained policy moved to many budgets: what it spends and gains on unseen problems, beside policies trained there.

    python -m benchmarks.repricing RUN/thinking/seed0 --shares 0.05 0.25 0.5 0.75 0.95 --train 0.25 0.75

The folder is a seed's of `ibpo demo`. Each row: the policy's mean probability of an extended response on unseen
problems (its share, sampled), how right it is, and which part of the oracle's gain over a random mix of the same share
it gets, both made of the policy's own forced responses; then the same really sampled, once to each problem; and within
responses to unseen problems, how many tokens get an opening with a probability that differs by more than .05.
`--train`: policies that are trained at a budget of their own, into the same folder, from the same cold start and seed;
`--move Q`: the one trained there is moved, instead of the demo's.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from ibpo.demo import TRAINED, DemoJob, experiment_named, quiet_libraries, sample_forced, train_policy
from ibpo.evaluation import read_table
from ibpo.evaluation.local_sampling import write_choices, write_responses
from ibpo.responses import encode_groups
from ibpo.rollouts import HFSampler, encode_prompt, load_policy
from ibpo.tasks import distinct, local_rows
from ibpo.training import read_bodies, reprice_policy

NUM_BODIES = 256


def forced(path: Path) -> dict[str, float]:
    """Problem -> mean reward of a policy's responses, forced into a group."""
    found: dict[str, list[float]] = {}
    table = read_table(path)
    for problem, reward in zip(table.problem, table.reward, strict=True):
        found.setdefault(str(problem), []).append(float(reward))
    return {problem: float(np.mean(rewards)) for problem, rewards in found.items()}


def row(name: str, chance: np.ndarray, standard: np.ndarray, extended: np.ndarray, level: np.ndarray) -> str:
    """Share, accuracy and part of the oracle's gain of probabilities of an extended response [P]."""
    gain, share = extended - standard, chance.mean()
    by_level = {one: gain[level == one].mean() for one in np.unique(level)}
    order = np.argsort(-np.array([by_level[one] for one in level]), kind="stable")
    oracle = np.zeros(len(gain))
    oracle[order[: round(share * len(gain))]] = 1.0
    own, best = (float((choice * gain).mean() - share * gain.mean()) for choice in (chance, oracle))
    part = f"{own / best:.3f}" if best > 0.002 else ""
    return f"| {name} | {share:.3f} | {(standard + chance * gain).mean():.4f} | {part} |"


def trained(folder: Path, budget: float) -> str:
    """Train a policy at a budget into the run's folder, sample it forced as the demo does; its name."""
    spec = json.loads((folder / "progress" / f"{TRAINED}.spec.json").read_text(encoding="utf-8"))
    job = DemoJob(**spec | {"name": f"trained-{budget:g}", "seed_dir": str(folder)})
    experiment = experiment_named(job.experiment)
    with contextlib.redirect_stdout(sys.stderr):  # the trainer's log
        train_policy(
            experiment, Path(job.cold_start), job.policy_dir, budget=budget, seed=job.seed, num_steps=job.num_steps
        )
    sample_forced(job, experiment, job.name)
    return job.name


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="RUN/EXPERIMENT/seedN")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.25, 0.5, 0.75, 0.95])
    parser.add_argument("--train", type=float, nargs="*", default=[], help="budgets of policies to compare with")
    parser.add_argument("--move", type=float, help="move the policy trained at this budget")
    parser.add_argument("--num-prompts", type=int, default=4096)
    parser.add_argument("--num-problems", type=int, default=4000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    experiment, seed = experiment_named(options.folder.parent.name), int(options.folder.name.removeprefix("seed"))
    extended = experiment.response_groups[1]
    test = distinct(experiment.task, "test", options.num_problems, seed=seed)
    level = np.array([problem.level for problem in test])
    policies = [TRAINED, *(trained(options.folder, budget) for budget in options.train)]
    one = TRAINED if options.move is None else trained(options.folder, options.move)
    model, tokenizer = load_policy(str(options.folder / "policies" / one / "model"), dtype="float32")
    prompts = distinct(experiment.task, "train", options.num_prompts, seed=5000 + seed)
    ids = [encode_prompt(tokenizer, problem.prompt) for problem in prompts]

    def values(policy: str) -> tuple[np.ndarray, np.ndarray]:
        folder = options.folder / "policies" / policy / "forced"
        both = [forced(folder / f"{group.name}.jsonl.gz") for group in experiment.response_groups]
        standard, more = (np.array([one[problem.problem_id] for problem in test]) for one in both)
        return standard, more

    def chances(of: object, folder: Path) -> np.ndarray:
        path = folder / "choices.jsonl.gz"
        path.unlink(missing_ok=True)
        write_choices(path, of, tokenizer, test, extended)  # pyright: ignore[reportArgumentType]  # a module
        return np.array([float(found["p_extended"]) for _, found in local_rows(path)])

    groups = encode_groups(experiment.response_groups, tokenizer)
    some = [encode_prompt(tokenizer, problem.prompt) for problem in test[:NUM_BODIES]] * len(groups.prefix_ids)
    opened = [list(prefix) for prefix in groups.prefix_ids for _ in test[:NUM_BODIES]]
    sampler = HFSampler(model, tokenizer, max_completion_length=experiment.max_completion_length, batch_size=256)
    written = sampler.sample(some, opened)
    before = read_bodies(model, tokenizer, some, written, groups).shares()
    print("| | share | accuracy | of the oracle's gain |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for policy in policies:
            as_trained, _ = load_policy(str(options.folder / "policies" / policy / "model"), dtype="float32")
            print(row(f"{policy}, as trained", chances(as_trained, folder), *values(policy), level), flush=True)
        own = values(one)
        for share in options.shares:
            moved = copy.deepcopy(model)
            torch.manual_seed(60_000 + seed)
            reprice_policy(
                moved,
                tokenizer,
                ids,
                experiment.response_groups,
                [1.0 - share, share],
                max_completion_length=experiment.max_completion_length,
            )
            print(row(f"moved to {share:g}", chances(moved, folder), *own, level), flush=True)
            path = folder / "sampled.jsonl.gz"
            path.unlink(missing_ok=True)
            write_responses(
                path,
                moved,
                tokenizer,
                test,
                experiment.response_groups,
                prefix="",
                num_samples=1,
                max_completion_length=experiment.max_completion_length,
                seed=20_000 + 100 * seed,
            )
            table = read_table(path)
            after = read_bodies(moved, tokenizer, some, written, groups).shares()
            changed = (np.abs(after - before).max(1) > 0.05).sum()
            spent, right = (table.response_group == extended.name).mean(), float(np.mean(table.reward))
            print(f"| really sampled | {spent:.3f} | {right:.4f} | |", flush=True)
            print(f"<!-- {changed} of {len(before)} tokens within responses changed -->", flush=True)


if __name__ == "__main__":
    main()
