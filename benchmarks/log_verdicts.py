"""Are the choices of `ibpo allocate` better than what does not look at the problems, and does it say so only then?

`python benchmarks/log_verdicts.py [--logs 200]`: simulated logs with known truths. For every log the command's own
choices, mixture and verdict under one budget, all valued by the truth: the choice by expectations, the choice by the
means of the responses (as it was before), the best mixture that fits, and what is recommended. A verdict is *wrong*
where it recommends choosing per problem and that is worse than the mixture by the truth; *below* counts logs where what
is recommended lies under the best mixture by more than the stated 95 % error of its own reward.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from ibpo.allocation import random_mix
from ibpo.data import LogColumns
from ibpo.evaluation import answer_questions, questions, read_parts, verdict
from ibpo.evaluation.log_allocation import choose_groups

GROUPS = (("low", 300.0), ("medium", 1200.0), ("high", 4000.0))


def logit(p: np.ndarray | float) -> np.ndarray:
    return np.log(np.asarray(p) / (1 - np.asarray(p)))


def truth_of(name: str, rng: np.random.Generator, num_problems: int) -> tuple[np.ndarray, np.ndarray]:
    """`[P, G]` chances of a right answer, and mean lengths."""
    ease = rng.normal(size=(num_problems, 1))
    length = np.array([cost for _, cost in GROUPS]) * np.exp(-0.4 * ease)
    flat = np.zeros((num_problems, 3))
    if name == "gains by problem":  # nobody gains on the easy and the hopeless, most on those between
        chance = 1 / (1 + np.exp(-4 * (ease - np.array([0.8, 0.0, -0.8]))))
    elif name == "one group best everywhere":
        chance = flat + np.array([0.55, 0.8, 0.6])
    elif name == "noise only":
        chance = flat + 0.6
    else:  # "slack": medium is as good as high for nearly all, so most of a large budget buys nothing
        chance = np.clip(1 / (1 + np.exp(-(logit(np.array([0.5, 0.8, 0.8])) + 1.5 * ease))), 0, 1)
        chance[:, 2] = np.where(rng.random(num_problems) < 0.1, np.minimum(chance[:, 1] + 0.3, 1), chance[:, 1])
    return chance, length


def one_log(name: str, seed: int, num_problems: int, num_responses: int, budget: str, folder: Path) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    chance, length = truth_of(name, rng, num_problems)
    path = folder / "log.jsonl"
    with path.open("w") as file:
        for p in range(num_problems):
            for g, (group, _) in enumerate(GROUPS):
                for _ in range(num_responses):
                    row = {"problem_id": p, "response_group": group, "reward": int(rng.random() < chance[p, g])}
                    file.write(json.dumps(row | {"tokens": float(length[p, g] * rng.gamma(4, 0.25))}) + "\n")
    [part] = read_parts(path, LogColumns(), say=lambda _: None).parts
    asked = questions([budget])[1:2]
    [answer] = answer_questions(part, asked, holdout=None, num_splits=50, seed=seed, say=lambda _: None)
    order = [part.groups.index(group) for group, _ in GROUPS]
    place = np.argsort([int(x) for x in part.problems])
    every = np.arange(num_problems)

    def value(pick: np.ndarray) -> tuple[float, float]:
        g = np.array([order.index(x) for x in pick[place].tolist()])
        return float(chance[every, g].mean()), float(length[every, g].mean())

    allowed = float(answer.limits[0].at_most or 0)
    mine, spent = value(np.asarray(answer.pick))
    before, spent_before = value(choose_groups(part.reward, part.cost, answer.limits, part.problems)[1])
    weight, _ = random_mix(length.mean(0), chance.mean(0), at=max(allowed, spent))
    weight_before, _ = random_mix(length.mean(0), chance.mean(0), at=max(allowed, spent_before))
    told = verdict(part, answer)
    assert answer.mixture is not None and answer.held_out is not None
    blind = float(answer.mixture[order] @ chance.mean(0))
    error = 1.96 * (answer.held_out.mixture_gain_stderr or 0)
    own_error = 1.96 * answer.held_out.reward_stderr
    gain = mine - float(weight @ chance.mean(0))
    return {
        "gain": gain,
        "before": before - float(weight_before @ chance.mean(0)),
        "spent": spent / allowed - 1,
        "spent before": spent_before / allowed - 1,
        "recommends": float(told.per_problem),
        "wrong": float(told.per_problem and gain < 0),
        "below": float((mine if told.per_problem else blind) < float(weight @ chance.mean(0)) - own_error),
        "covered": float(abs((answer.held_out.mixture_gain or 0) - (mine - blind)) <= error),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=200)
    parser.add_argument("--problems", type=int, default=100)
    arguments = parser.parse_args()
    print(f"{arguments.logs} logs of {arguments.problems} problems, tokens=40%range (slack: 80%range), 50 splits")
    print("| truth | answers | gain, expectations | means | spent | by means | recommended | wrong | below | covered |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("gains by problem", "one group best everywhere", "noise only", "slack"):
            for num_responses in (2, 4, 8):
                rows = [
                    one_log(name, 1000 * num_responses + seed, arguments.problems, num_responses,
                            "tokens=80%range" if name == "slack" else "tokens=40%range", Path(folder))
                    for seed in range(arguments.logs)
                ]  # fmt: skip
                table = {key: np.array([row[key] for row in rows]) for key in rows[0]}

                def mean(key: str, table: dict[str, np.ndarray] = table) -> str:
                    error = table[key].std(ddof=1) / np.sqrt(len(table[key]))
                    return f"{table[key].mean():+.4f} ± {error:.4f}"

                shares = " | ".join(f"{table[key].mean():+.1%}" for key in ("spent", "spent before"))
                told = f"{table['recommends'].mean():.0%} | {int(table['wrong'].sum())} | {int(table['below'].sum())}"
                covered = f"{table['covered'].mean():.0%}"
                gains = f"{mean('gain')} | {mean('before')}"
                print(f"| {name} | {num_responses} | {gains} | {shares} | {told} | {covered} |", flush=True)


if __name__ == "__main__":
    main()
