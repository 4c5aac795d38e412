"""A router that learns from the one answer it chose, on ParetoBandit's data: its experiments 01, 02 and 03.

    python benchmarks/bandit.py --data ../shared/data/paretobandit --embeddings FILE.npz --experiment bandit price loss

FILE.npz holds the prompts' embeddings (`benchmarks/paretobandit.py --embed-model DIR --embeddings FILE.npz` writes it).

`bandit`: as `benchmarks/paretobandit.py` (val shuffled, then test; seven ceilings), but the router (`OnlineRouter`)
starts with "each more expensive model is better by .05", list prices and a projection of the embeddings on 25
principal components, fitted on val's prompts without their rewards. It sees the reward and the cost of the model that
it chose, at once. `--explore` is `ServingPolicy.explore`.

`price` and `loss`: 3 x 608 shuffled test requests; the most expensive model's price times .0178, or the middle model's
reward set to .75, in the middle third, unannounced. Three routers, each in front of the same controller: *frozen*
(fitted offline on val, all rewards seen), *learning* (the same as what is expected before anything is learned, then
`OnlineRouter` on the outcome of the chosen model), and *told* (frozen, but it knows the new price or reward: the best
that is possible). Quality lost is the reward of *told* less that of the router.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from paretobandit import FIRST_SEED, PRICES, PUBLISHED, read, routed, say

from ibpo.routing import OnlineRouter, fit_router, scores_of
from ibpo.serving.controller import BudgetPolicy, Candidate, Controller, ServingPolicy

COMPONENTS = 25
THIRD = 608
PRICE_FACTOR, LOST_REWARD = 0.0178, 0.75
TARGETS = (3.0e-4, 6.6e-4, 1.9e-3)
TOKENS = (100, 300)
"""Prompt and answer, for a first guess of a cost from list prices."""


def project(val: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[N, 26]` 1 and the principal components of val's prompts, each of unit variance on val."""
    centre = val.mean(axis=0)
    _, values, axes = np.linalg.svd(val - centre, full_matrices=False)
    scale = axes[:COMPONENTS].T / (values[:COMPONENTS] / np.sqrt(len(val)))
    found = [np.hstack([np.ones((len(rows), 1)), (rows - centre) @ scale]) for rows in (val, other)]
    return found[0], found[1]


class Run:
    """One controller and perhaps one learning router on a stream of requests."""

    def __init__(self, models: list[str], ceiling: float, explore: float, router: OnlineRouter | None) -> None:
        policy = ServingPolicy(budgets=(BudgetPolicy(name="dollars", mean=ceiling),), explore=explore)
        self.models, self.controller, self.router, self.number = models, Controller(policy), router, 0

    def answer(
        self, x: np.ndarray, expected: np.ndarray, cost: np.ndarray, reward: np.ndarray, paid: np.ndarray
    ) -> tuple[float, float]:
        """Reward and cost of one request, whose rewards and costs by every model are `reward` and `paid`."""
        name = str(self.number)
        self.number += 1
        gain, costs = expected, cost
        if self.router is not None:
            gain, costs = self.router.predict(name, x, reward=expected.tolist(), cost=cost.tolist())
        made = self.controller.decide(
            [
                Candidate(response_group=model, gain=float(gain[k]), cost={"dollars": float(costs[k])})
                for k, model in enumerate(self.models)
            ],
            request_id=name,
            now=0.0,
        )
        k = self.models.index(made.response_group)
        self.controller.settle(name, {"dollars": float(paid[k])})
        if self.router is not None:
            self.router.learn(name, made.response_group, reward=float(reward[k]), cost=float(paid[k]))
        return float(reward[k]), float(paid[k])


def bandit(models: list[str], splits: list[tuple[Any, ...]], ceilings: np.ndarray, options: Any) -> None:
    """Experiment 01 with bandit feedback only."""
    say("", [f"{c:.3g}" for c in ceilings])
    print("|---|" + "---|" * len(ceilings))
    guess = np.array([(PRICES[m][0] * TOKENS[0] + PRICES[m][1] * TOKENS[1]) * 1e-6 for m in models])
    prior = 0.5 + 0.05 * np.arange(len(models))
    reward, spent = np.zeros((2, len(ceilings), options.seeds))
    for c, ceiling in enumerate(ceilings.tolist()):
        for seed in range(options.seeds):
            rng = np.random.default_rng(FIRST_SEED + seed)
            router = OnlineRouter(models, COMPONENTS + 1, memory=options.memory, ridge=options.ridge)
            run = Run(models, ceiling, options.explore, router)
            for features, rewards, costs in splits:
                got = [
                    run.answer(features[i], prior, guess, rewards[i], costs[i])
                    for i in rng.permutation(len(rewards)).tolist()
                ]
            reward[c, seed], spent[c, seed] = np.mean(got, axis=0)
    error = reward.std(axis=1) / np.sqrt(max(1, options.seeds - 1))
    say(
        "learning, bandit feedback only: reward",
        [f"{r:.4f} ± {e:.4f}" for r, e in zip(reward.mean(axis=1), error, strict=True)],
    )
    used = spent / ceilings[:, None]
    say("spent / ceiling, mean (largest)", [f"{u.mean():.3f} ({u.max():.3f})" for u in used])
    say("ParetoBandit, published: reward", [f"{r:.4f}" for r in PUBLISHED])


def drift(kind: str, models: list[str], test: tuple[Any, ...], base: tuple[Any, ...], options: Any) -> None:
    """Experiments 02 (`price`) and 03 (`loss`)."""
    features, rewards, costs = test
    expected, cost = base
    print(f"\n{kind}: reward and spent / target in each third, mean of {options.seeds} seeds")
    print("| target, router | reward | spent / target | lost beside told |\n|---|---|---|---|")
    for target in TARGETS:
        found = {}
        for name in ("frozen", "learning", "told"):
            got = np.zeros((options.seeds, 3, 2))
            for seed in range(options.seeds):
                order = np.random.default_rng(FIRST_SEED + seed).permutation(len(rewards))[: 3 * THIRD]
                router = None
                if name == "learning":
                    router = OnlineRouter(models, features.shape[1], memory=options.memory, ridge=options.ridge)
                run = Run(models, target, options.explore if router else 0.0, router)
                for n, i in enumerate(order.tolist()):
                    real, paid, known, priced = rewards[i].copy(), costs[i].copy(), expected[i].copy(), cost[i].copy()
                    if n // THIRD == 1 and kind == "price":
                        paid[2] *= PRICE_FACTOR
                        priced[2] *= PRICE_FACTOR if name == "told" else 1.0
                    elif n // THIRD == 1:
                        real[1] = LOST_REWARD
                        known[1] = LOST_REWARD if name == "told" else known[1]
                    got[seed, n // THIRD] += run.answer(features[i], known, priced, real, paid)
            found[name] = got.mean(axis=0) / THIRD
        best = found["told"][:, 0].mean()
        for name, row in found.items():
            thirds = " ".join(f"{r:.4f}" for r in row[:, 0])
            used = " ".join(f"{c / target:.3f}" for c in row[:, 1])
            print(
                f"| {target:.2g}, {name} | {row[:, 0].mean():.4f} ({thirds}) | {used} | {best - row[:, 0].mean():.4f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/paretobandit"))
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--experiment", nargs="+", choices=("bandit", "price", "loss"), default=["bandit"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--explore", type=float, default=0.02)
    parser.add_argument("--memory", type=float, default=2000.0)
    parser.add_argument("--ridge", type=float, default=10.0)
    options = parser.parse_args()
    val, test = read(options.data / "val.jsonl.gz"), read(options.data / "test.jsonl.gz")
    models, kept = val[1], np.load(options.embeddings)
    ceilings = np.geomspace(val[3].mean(axis=0).min(), val[3].mean(axis=0).max(), 7)
    seen, unseen = project(kept["val"], kept["test"])
    if "bandit" in options.experiment:
        bandit(models, [(seen, val[2], val[3]), (unseen, test[2], test[3])], ceilings, options)
    if {"price", "loss"} & set(options.experiment):
        with tempfile.TemporaryDirectory() as name:
            learn, judge = routed("val", val, Path(name)), routed("test", test, Path(name))
            router = fit_router(learn, embedded=kept["val"], embedding={"model": ""})
            scores = scores_of(router, judge, kept["test"])
        level = val[2][:, 0].mean()  # rewards, where a router knows gains
        for kind in ("price", "loss"):
            if kind in options.experiment:
                drift(kind, models, (unseen, test[2], test[3]), (level + scores.gain, scores.cost), options)


if __name__ == "__main__":
    main()
