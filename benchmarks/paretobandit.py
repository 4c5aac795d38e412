"""Route between three models at an average price: ParetoBandit's experiments 01, 02 and 03 on its data, beside it.

    python benchmarks/paretobandit.py --embed-model DIR --peer PYTHON --experiment full bandit price loss

*01, seven ceilings* (`full`, `bandit`). `val` is shuffled and answered, then `test` is; each request is settled at once
at its recorded cost; seeds 3000 to 3019; ceilings on the mean cost from the cheapest model's mean on `val` to the most
expensive one's. Reported on `test`: mean reward and what was spent in parts of the ceiling, standard errors over seeds.
`full`: a router (`fit_router`) that was fitted on `val`, where it saw the rewards of all three models for each prompt,
decides; while `val` is answered, routers that had not seen the prompt (five folds). `bandit`: `OnlineRouter` starts
with "each more expensive model is better by .05", list prices and 25 principal components of the embeddings, fitted on
val's prompts without their rewards, and sees the reward and the cost of the model that it chose alone, as ParetoBandit
does, which has priors besides, from a train split that is not in the data. `explore` is .02, the overdraft 24 means
(1.3 % of the 1,824 requests of `test`).

*02, a price that drops* (`price`), *03, a silent loss of quality* (`loss`). `val`, then 3 x 608 requests of `test`, the
last third the first one's prompts again; in the middle third the most expensive model's price times .0178 (announced,
as there: what is expected changes with it), or the middle model's reward .75 (nobody is informed);
seeds 8000 to 8019.
Three routers, each in front of the same controller: *frozen* (`full`'s), *learning* (the same as what is expected
before anything is learned, then `OnlineRouter`, explore .003), and *informed* (frozen, but it knows the reward: the
best possible). Quality lost is the reward of *informed* less that of the router. For `price` the overdraft is 12
means, 2 % of a third, and the burst 4; for `loss` the policy gives neither.

`--embed-model` is the folder of a sentence encoder (all-MiniLM-L6-v2). `--peer` is the Python of an environment of its
own, in which `pip install paretobandit==0.1.1` was run: it gets the same embeddings, in a file, and runs its own
package's pacer, priors and projection on experiment 01.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = 20
FIRST_SEED, FIRST_DRIFT_SEED = 3000, 8000
COMPONENTS = 25
THIRD = 608
PRICE_FACTOR, LOST_REWARD = 0.0178, 0.75
TARGETS = (3.0e-4, 6.6e-4, 1.9e-3)
TOKENS = (100, 300)
"""Prompt and answer, for a first guess of a cost from list prices."""
WANTED = (0.793, 0.827, 0.882, 0.923, 0.926, 0.929, 0.935)
PUBLISHED = (0.7932, 0.8128, 0.8588, 0.8978, 0.9172, 0.9244, 0.9290)
PUBLISHED_USED = (0.982, 1.004, 1.001, 0.979, 0.910, 0.885, 0.738)
"""The authors' committed results of 20 seeds (commit 72ccbef, 2026-04-13)."""
PRICES = {
    "meta-llama/llama-3.1-8b-instruct": (0.1, 0.1),
    "mistralai/mistral-large-2512": (0.5, 1.5),
    "google/gemini-2.5-pro": (1.25, 10.0),
}
"""Dollars per million tokens in and out, as that repository's models_k3.json says: its router's guess of a cost."""


def read(path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Prompts, models from the cheapest to the most expensive, rewards `[N, 3]` and costs `[N, 3]`."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    models = sorted(rows[0]["arms"], key=lambda name: sum(row["arms"][name]["cost"] for row in rows))
    reward, cost = (np.array([[row["arms"][m][key] for m in models] for row in rows]) for key in ("reward", "cost"))
    return [row["prompt"] for row in rows], models, reward, cost


def routed(name: str, data: tuple[list[str], list[str], np.ndarray, np.ndarray], folder: Path) -> Any:
    """The rows as a log that `ibpo route fit` reads."""
    from ibpo.data import LogColumns
    from ibpo.routing import read_routed_log

    prompts, models, reward, cost = data
    path = folder / f"{name}.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for i, prompt in enumerate(prompts):
            for k, model in enumerate(models):
                row = {"problem_id": f"{i:06d}", "prompt": prompt, "response_group": model}
                file.write(json.dumps({**row, "reward": reward[i, k], "dollars": cost[i, k]}) + "\n")
    return read_routed_log(path, columns=LogColumns(cost="dollars"))


def project(val: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[N, 26]` 1 and the principal components of val's prompts, each of unit variance on val."""
    centre = val.mean(axis=0)
    _, values, axes = np.linalg.svd(val - centre, full_matrices=False)
    scale = axes[:COMPONENTS].T / (values[:COMPONENTS] / np.sqrt(len(val)))
    found = [np.hstack([np.ones((len(rows), 1)), (rows - centre) @ scale]) for rows in (val, other)]
    return found[0], found[1]


class Stream:
    """One controller, and perhaps a router that learns, on a stream of requests."""

    def __init__(self, models: list[str], policy: dict[str, float], *, explore: float = 0.0, learns: bool) -> None:
        from ibpo.routing import OnlineRouter
        from ibpo.serving.controller import BudgetPolicy, Candidate, Controller, ServingPolicy

        overdraft, burst = policy.get("overdraft"), policy.get("burst")
        budget = BudgetPolicy(name="dollars", mean=policy["mean"], overdraft=overdraft, burst=burst)
        self.models, self.number, self._candidate = models, 0, Candidate
        self.controller = Controller(ServingPolicy(budgets=(budget,), explore=explore))
        self.router = OnlineRouter(models, COMPONENTS + 1, memory=2000.0, ridge=10.0) if learns else None

    def answer(
        self, x: np.ndarray, expected: np.ndarray, cost: np.ndarray, reward: np.ndarray, paid: np.ndarray
    ) -> tuple[float, float]:
        """Reward and cost of one request, whose rewards and costs by every model are `reward` and `paid`."""
        name = str(self.number)
        self.number += 1
        gain, costs = expected.tolist(), cost.tolist()
        if self.router is not None:
            gain, costs = self.router.predict(name, x, reward=gain, cost=costs)
        made = self.controller.decide(
            [
                self._candidate(response_group=model, gain=gain[k], cost={"dollars": costs[k]})
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


def stationary(
    ceilings: np.ndarray, models: list[str], splits: list[dict[str, np.ndarray]], seeds: int, *, bandit: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Experiment 01: reward and cost per request `[ceilings, seeds]` on the last split."""
    reward, spent = np.zeros((2, len(ceilings), seeds))
    guess = np.array([(PRICES[m][0] * TOKENS[0] + PRICES[m][1] * TOKENS[1]) * 1e-6 for m in models])
    prior = 0.5 + 0.05 * np.arange(len(models))
    for c, ceiling in enumerate(ceilings.tolist()):
        policy = {"mean": ceiling} | ({"overdraft": 24 * ceiling} if bandit else {})
        for seed in range(seeds):
            rng = np.random.default_rng(FIRST_SEED + seed)
            stream = Stream(models, policy, explore=0.02 if bandit else 0.0, learns=bandit)
            for split in splits:
                got = []
                for i in rng.permutation(len(split["reward"])).tolist():
                    expected, cost = (prior, guess) if bandit else (split["expected"][i], split["expected_cost"][i])
                    got.append(stream.answer(split["x"][i], expected, cost, split["reward"][i], split["cost"][i]))
                reward[c, seed], spent[c, seed] = np.mean(got, axis=0)
    return reward, spent


def drift(kind: str, models: list[str], splits: list[dict[str, np.ndarray]], seeds: int) -> None:
    """Experiments 02 (`price`) and 03 (`loss`)."""
    val, test = splits
    parts = np.random.default_rng(0).permutation(len(test["reward"]))[: 2 * THIRD].reshape(2, THIRD)
    print(f"\n{kind}: reward and spent / target in each third, mean (standard error) of {seeds} seeds")
    print("| target, router | reward | in each third | spent / target | lost beside informed |\n|---|---|---|---|---|")
    for target in TARGETS:
        policy = {"mean": target} | ({"overdraft": 12 * target, "burst": 4 * target} if kind == "price" else {})
        found = {}
        for name in ("frozen", "learning", *(["informed"] if kind == "loss" else [])):
            got = np.zeros((seeds, 3, 2))
            for seed in range(seeds):
                rng, learns = np.random.default_rng(FIRST_DRIFT_SEED + seed), name == "learning"
                stream = Stream(models, policy, explore=0.003 if learns else 0.0, learns=learns)
                phases = [(val, rng.permutation(len(val["reward"])))]
                phases += [(test, rng.permutation(parts[k])) for k in (0, 1, 0)]
                for phase, (split, order) in enumerate(phases):
                    for i in order.tolist():
                        real, paid = split["reward"][i].copy(), split["cost"][i].copy()
                        expected, priced = split["expected"][i].copy(), split["expected_cost"][i].copy()
                        if phase == 2 and kind == "price":
                            paid[2] *= PRICE_FACTOR
                            priced[2] *= PRICE_FACTOR
                        elif phase == 2:
                            real[1] = LOST_REWARD
                            expected[1] = LOST_REWARD if name == "informed" else expected[1]
                        one = stream.answer(split["x"][i], expected, priced, real, paid)
                        if phase:
                            got[seed, phase - 1] += one
            found[name] = got / THIRD
        best = found.get("informed", found["frozen"])[:, :, 0].mean(axis=1)
        for name, rows in found.items():
            lost = best - rows[:, :, 0].mean(axis=1)
            used = rows[:, :, 1] / target
            cells = [f"{rows[:, :, 0].mean():.4f}", " ".join(f"{r:.4f}" for r in rows[:, :, 0].mean(axis=0))]
            cells.append(" ".join(f"{m:.3f} ({e:.3f})" for m, e in zip(used.mean(axis=0), error(used.T), strict=True)))
            cells.append(f"{lost.mean():.4f} ({error(lost[None])[0]:.4f})" if kind == "loss" else "")
            say(f"{target:.2g}, {name}", cells)


def peer(
    python: str,
    ceilings: np.ndarray,
    models: list[str],
    splits: list[dict[str, np.ndarray]],
    folder: Path,
    seeds: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The same of ParetoBandit's own package, in its own environment: see `run_peer`."""
    arrays: dict[str, Any] = {f"{key}{i}": value for i, split in enumerate(splits) for key, value in split.items()}
    np.savez(folder / "peer.npz", ceilings=ceilings, models=models, seeds=seeds, **arrays)
    subprocess.run([python, __file__, "--run-peer", folder / "peer.npz", folder / "found.npz"], check=True)
    found = np.load(folder / "found.npz")
    return found["reward"], found["spent"]


def run_peer(given: str, out: str) -> None:
    """As ParetoBandit's experiments/01_stationary_budget_pacing/run_budget_pacing.py does; imports no ibpo."""
    import logging
    from importlib import import_module  # ours does not have it installed

    pacing, config = import_module("pareto_bandit.budget_pacer"), import_module("pareto_bandit.config")
    features_of = import_module("pareto_bandit.feature_service")
    router_class = import_module("pareto_bandit.router").BanditRouter
    store_class = import_module("pareto_bandit.storage").EphemeralContextStore

    logging.disable(logging.WARNING)
    data = np.load(given)
    models = data["models"].tolist()
    embedded = {f"prompt {i}.{n}": row for i in (0, 1) for n, row in enumerate(data[f"embedded{i}"])}
    service = features_of.FeatureService(
        custom_encoder=embedded.__getitem__, embedding_dim=384, pca_path=config.DEFAULT_PCA_PATH
    )
    features = [
        np.array([service.extract_features(f"prompt {i}.{n}") for n in range(len(data[f"reward{i}"]))]) for i in (0, 1)
    ]
    registry = {
        name: {"model_id": name, "display_name": name, "input_cost_per_m": come, "output_cost_per_m": go}
        for name, (come, go) in PRICES.items()
    }
    seeds = int(data["seeds"])
    reward, spent = np.zeros((2, len(data["ceilings"]), seeds))
    for c, ceiling in enumerate(data["ceilings"].tolist()):
        for seed in range(seeds):
            rng = np.random.default_rng(FIRST_SEED + seed)
            pacer = pacing.BudgetPacer(
                target_avg_spend_usd=ceiling,
                mode=pacing.PacingMode.ADAPTIVE,
                lr=config.DEFAULT_PACER_LR,
                lambda_max=config.DEFAULT_PACER_LAMBDA_MAX,
            )
            router = router_class.create(
                model_registry=registry,
                feature_service=features_of.FeatureService.for_precomputed(features[0].shape[1]),
                context_store=store_class(),
                priors="warmup",
                warmup_path=str(config.DEFAULT_WARMUP_PRIORS_PATH),  # the same file, in the wheel
                prior_n_effective=config.BEST_K3_HPARAMS["prior_n_effective"],
                alpha=config.BEST_K3_HPARAMS["alpha"],
                cost_penalty=0.0,
                forgetting_factor=config.BEST_K3_HPARAMS["forgetting_factor"],
                budget_pacer=pacer,
            )
            for i in (0, 1):
                got = []
                for n in rng.permutation(len(features[i])).tolist():
                    model, log = router.route(features[i][n])
                    k = models.index(model)
                    log.cost_usd = float(data[f"cost{i}"][n, k])
                    router.process_feedback(log.request_id, reward=float(data[f"reward{i}"][n, k]))
                    got.append((data[f"reward{i}"][n, k], data[f"cost{i}"][n, k]))
                reward[c, seed], spent[c, seed] = np.mean(got, axis=0)
    np.savez(out, reward=reward, spent=spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/paretobandit"))
    parser.add_argument("--embed-model", type=Path, help="folder of a sentence encoder")
    parser.add_argument("--embeddings", type=Path, help=".npz in which embeddings are kept between runs")
    parser.add_argument("--peer", help="the Python of an environment with paretobandit")
    parser.add_argument("--experiment", nargs="+", choices=("full", "bandit", "price", "loss"), default=["full"])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--run-peer", nargs=2, metavar=("IN", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_peer:
        run_peer(*arguments.run_peer)
        return
    from ibpo.routing import fit_router, open_encoder, score_unseen, scores_of

    val, test = read(arguments.data / "val.jsonl.gz"), read(arguments.data / "test.jsonl.gz")
    models, seeds = val[1], arguments.seeds
    ceilings = np.geomspace(val[3].mean(axis=0).min(), val[3].mean(axis=0).max(), 7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.embeddings is not None and arguments.embeddings.exists():
            kept = np.load(arguments.embeddings)
            embedded = [kept["val"], kept["test"]]
        else:
            if arguments.embed_model is None:
                parser.error("give --embed-model, the folder of a sentence encoder")
            encoder = open_encoder(arguments.embed_model)
            embedded = [encoder.embed(split[0]) for split in (val, test)]
            if arguments.embeddings is not None:
                np.savez(arguments.embeddings, val=embedded[0], test=embedded[1])
        learn, judge = routed("val", val, folder), routed("test", test, folder)
        assert list(learn.groups) == models == list(judge.groups) and learn.prompts == val[0]
        router = fit_router(learn, embedded=embedded[0], embedding={"model": ""})
        scores = [score_unseen(learn, embedded=embedded[0]), scores_of(router, judge, embedded[1])]
        level = val[2][:, 0].mean()  # rewards, where a router knows gains
        splits = [
            {
                "embedded": vectors,
                "x": x,
                "reward": data[2],
                "cost": data[3],
                "expected": level + scored.gain,
                "expected_cost": scored.cost,
            }
            for vectors, x, data, scored in zip(embedded, project(*embedded), (val, test), scores, strict=True)
        ]
        checks: dict[str, bool] = {}
        if {"full", "bandit"} & set(arguments.experiment):
            say("", [f"{c:.3g}" for c in ceilings])
            print("|---|" + "---|" * len(ceilings))
        for kind in ("full", "bandit"):
            if kind in arguments.experiment:
                found = stationary(ceilings, models, splits, seeds, bandit=kind == "bandit")
                report(f"ours, {kind}", ceilings, *found)
                checks |= check(kind, ceilings, test, *found)
        if arguments.peer:
            both = [{key: split[key] for key in ("embedded", "reward", "cost")} for split in splits]
            report("ParetoBandit, run here", ceilings, *peer(arguments.peer, ceilings, models, both, folder, seeds))
        if checks:
            say("ParetoBandit, published: reward", [f"{r:.4f}" for r in PUBLISHED])
            say("ParetoBandit, published: spent / ceiling", [f"{u:.3f}" for u in PUBLISHED_USED])
            say("best single model that fits on test", [f"{b:.4f}" for b in best_single(ceilings, test)])
            say("wanted of full", [f"{w:.3f}" for w in WANTED])
            print("\n" + "\n".join(f"{name}: {'yes' if held else 'NO'}" for name, held in checks.items()))
        for kind in ("price", "loss"):
            if kind in arguments.experiment:
                drift(kind, models, splits, seeds)
    sys.exit(not all(checks.values()))


def best_single(ceilings: np.ndarray, test: tuple[Any, ...]) -> list[float]:
    """Per ceiling the reward of the best single model whose mean cost on `test` is no more."""
    alone, price = test[2].mean(axis=0), test[3].mean(axis=0)
    return [float(alone[price <= c].max(initial=0.0)) for c in ceilings]


def check(
    kind: str, ceilings: np.ndarray, test: tuple[Any, ...], reward: np.ndarray, spent: np.ndarray
) -> dict[str, bool]:
    """What was wanted, and whether it holds."""
    got, used = reward.mean(axis=1), spent.mean(axis=1) / ceilings
    found = {"at most 1.01 of the ceiling": (used <= 1.01).all(), "monotone": (np.diff(got) >= 0).all()}
    if kind == "full":
        found["reward as wanted"] = (got >= np.array(WANTED)).all()
        found["reward as wanted, to three digits"] = (np.round(got, 3) >= np.array(WANTED) - 1e-9).all()
        found["never below the best single model that fits"] = (got >= np.array(best_single(ceilings, test))).all()
    else:
        found["level with ParetoBandit's table or better"] = (np.round(got, 4) >= np.array(PUBLISHED) - 1e-9).all()
    return {f"{kind}: {name}": bool(held) for name, held in found.items()}


def error(values: np.ndarray) -> np.ndarray:
    """Standard errors of the rows' means `[rows, seeds]`."""
    return values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])


def report(title: str, ceilings: np.ndarray, reward: np.ndarray, spent: np.ndarray) -> None:
    """Means over seeds, with standard errors."""
    used = spent / ceilings[:, None]
    say(f"{title}: reward", [f"{r:.4f} ± {e:.4f}" for r, e in zip(reward.mean(axis=1), error(reward), strict=True)])
    say(f"{title}: spent / ceiling, mean (largest of a seed)", [f"{u.mean():.3f} ({u.max():.3f})" for u in used])


def say(title: str, cells: list[str]) -> None:
    """One row of the table."""
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
