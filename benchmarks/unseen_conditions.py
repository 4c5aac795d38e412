"""A trained policy on problems that are not drawn as those of its training: what happens to its share and its gain?

    python -m benchmarks.unseen_conditions RUN/thinking/seed0 --budgets 0.25 0.5

The folder is a seed's of `ibpo demo`. Conditions: the training's own mix of problems, twice as many hopeless ones,
mostly easy, mostly hard, and sums longer than any that was trained on. Each row: the policy that was moved to a budget
on 4,096 prompts of the training's mix, and the same moved again on 256 prompts of the condition, without answers: mean
probability of an extended response on 2,000 problems, accuracy, and the part of the gain of an oracle by level over a
random mix of the same share, by the policy's own forced responses (two of each group to each problem).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.repricing import forced, row
from ibpo.demo import TRAINED, experiment_named
from ibpo.evaluation.local_sampling import write_choices, write_responses
from ibpo.rollouts import encode_prompt, load_policy
from ibpo.tasks import digit_sums, distinct, local_rows
from ibpo.training import reprice_policy
from ibpo.types import Problem

NUM_PROBLEMS, NUM_UNLABELLED, NUM_FORCED = 2000, 256, 2
LONGER, LONGEST = "13-16", 16
MIXES: dict[str, Mapping[str, float]] = {
    "as in training": digit_sums.MIX,
    "twice as many hopeless": {
        level: 0.46 if level == "unknown" else share * 0.54 / 0.77 for level, share in digit_sums.MIX.items()
    },
    "mostly easy": {"2": 0.5, "3": 0.2, "4": 0.05, "5-7": 0.1, "8-10": 0.03, "11-12": 0.02, "unknown": 0.1},
    "mostly hard": {"2": 0.05, "3": 0.05, "4": 0.15, "5-7": 0.4, "8-10": 0.2, "11-12": 0.1, "unknown": 0.05},
    "a third longer than in training": {"2": 0.2, "4": 0.1, "5-7": 0.2, LONGER: 0.33, "unknown": 0.17},
}


def task_of(mix: Mapping[str, float]) -> Any:
    """Sums of digits with another mix of levels, 13 to 16 operands among them."""

    def draw(level: str, rng: np.random.Generator) -> Problem:
        if level != LONGER:
            return digit_sums.draw(level, rng)
        operands = digit_sums.draw_operands(int(rng.integers(13, LONGEST + 1)), False, rng)
        prompt = digit_sums.prompt_of(operands)
        answer = str(digit_sums.running_totals(operands, 0)[-1])
        return Problem(problem_id=prompt, prompt=prompt, answer=answer, level=level)

    return SimpleNamespace(MIX=mix, draw=draw, split_of=digit_sums.split_of)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="RUN/thinking/seedN")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.5])
    options = parser.parse_args()
    torch.set_num_threads(1)
    experiment, seed = experiment_named("thinking"), int(options.folder.name.removeprefix("seed"))
    standard, extended = experiment.response_groups
    longest = 3 * LONGEST + 6

    def policy_of(name: str) -> tuple[Any, Any]:
        return load_policy(str(options.folder / "policies" / name / "model"), dtype="float32")

    print("| problems | budget | moved on | share | accuracy | of the oracle's gain |\n|---|---|---|---|---|---|")
    for condition, mix in MIXES.items():
        task = task_of(mix)
        test = distinct(task, "test", NUM_PROBLEMS, seed=seed + 900)
        unlabelled = distinct(task, "train", NUM_UNLABELLED, seed=seed + 900)
        level = np.array([problem.level for problem in test])
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            trained, tokenizer = policy_of(TRAINED)
            means = []
            for i, group in enumerate((standard, extended)):
                path = folder / f"{group.name}.jsonl.gz"
                write_responses(
                    path,
                    trained,
                    tokenizer,
                    test,
                    experiment.response_groups,
                    prefix=group.prefix,
                    num_samples=NUM_FORCED,
                    max_completion_length=longest,
                    seed=70_000 + 10 * seed + i,
                )
                reward = forced(path)
                means.append(np.array([reward[problem.problem_id] for problem in test]))
            for budget in options.budgets:
                there, _ = policy_of(f"ibpo-{budget:g}")
                again, _ = policy_of(TRAINED)
                torch.manual_seed(60_000 + seed)
                prompts = [encode_prompt(tokenizer, problem.prompt) for problem in unlabelled]
                reprice_policy(
                    again,
                    tokenizer,
                    prompts,
                    experiment.response_groups,
                    [1.0 - budget, budget],
                    max_completion_length=longest,
                )
                for moved_on, model in (("training's mix", there), (f"{NUM_UNLABELLED} of these", again)):
                    path = folder / "choices.jsonl.gz"
                    path.unlink(missing_ok=True)
                    write_choices(path, model, tokenizer, test, extended)
                    chance = np.array([float(found["p_extended"]) for _, found in local_rows(path)])
                    print(
                        row(f"{condition} | {budget:.0%} | {moved_on}", chance, means[0], means[1], level), flush=True
                    )


if __name__ == "__main__":
    main()
