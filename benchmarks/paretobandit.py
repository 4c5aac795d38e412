"""Route between three models at an average price: the protocol of ParetoBandit's experiment 01, beside ParetoBandit.

    python benchmarks/paretobandit.py --data ../shared/data/paretobandit --embed-model DIR --peer PYTHON

`val` is shuffled and answered, then `test` is; each request is settled at once at its recorded cost; 20 seeds (3000 to
3019) and seven ceilings on the mean cost, from the cheapest model's mean on `val` to the most expensive one's. Reported
on `test`: mean reward and what was spent in parts of the ceiling, with standard errors over seeds.

What each knows: ours decides by a router (`ibpo.routing.fit_router`) that was fitted on `val`, where it saw the rewards
of all three models for each prompt; while `val` is answered it decides by routers that had not seen the prompt (five
folds). ParetoBandit learns online from the reward of the model that it chose (bandit feedback), from priors that its
authors fitted on a train split that is not in the data, and goes on learning on `test`.

`--embed-model` is the folder of a sentence encoder (all-MiniLM-L6-v2); without it the router sees hashed words.
`--peer` is the Python of an environment of its own, in which `pip install paretobandit` was run: it gets the same
embeddings, in a file, and runs its own package's pacer, priors and projection.
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
FIRST_SEED = 3000
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


def ours(
    ceilings: np.ndarray, models: list[str], splits: list[tuple[Any, np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Reward and cost per request `[ceilings, seeds]` on the last split; splits hold scores, rewards, costs."""
    from ibpo.serving.controller import BudgetPolicy, Candidate, Controller, ServingPolicy

    reward, spent = np.zeros((2, len(ceilings), SEEDS))
    for c, ceiling in enumerate(ceilings.tolist()):
        policy = ServingPolicy(budgets=(BudgetPolicy(name="dollars", mean=ceiling),))
        for seed in range(SEEDS):
            rng, controller, number = np.random.default_rng(FIRST_SEED + seed), Controller(policy), 0
            for scores, rewards, costs in splits:
                got = []
                for i in rng.permutation(len(rewards)).tolist():
                    made = controller.decide(
                        [
                            Candidate(response_group=m, gain=scores.gain[i, k], cost={"dollars": scores.cost[i, k]})
                            for k, m in enumerate(models)
                        ],
                        request_id=str(number),
                        now=0.0,
                    )
                    k = models.index(made.response_group)
                    controller.settle(str(number), {"dollars": costs[i, k]})
                    got.append((rewards[i, k], costs[i, k]))
                    number += 1
                reward[c, seed], spent[c, seed] = np.mean(got, axis=0)
    return reward, spent


def peer(
    python: str, ceilings: np.ndarray, models: list[str], splits: list[dict[str, np.ndarray]], folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The same of ParetoBandit's own package, in its own environment: see `run_peer`."""
    arrays: dict[str, Any] = {f"{key}{i}": value for i, split in enumerate(splits) for key, value in split.items()}
    np.savez(folder / "peer.npz", ceilings=ceilings, models=models, **arrays)
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
    reward, spent = np.zeros((2, len(data["ceilings"]), SEEDS))
    for c, ceiling in enumerate(data["ceilings"].tolist()):
        for seed in range(SEEDS):
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
                warmup_path=str(config.K3_WARMUP_PRIORS_PATH),
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
    parser.add_argument("--peer", help="the Python of an environment with paretobandit; needs --embed-model")
    parser.add_argument("--run-peer", nargs=2, metavar=("IN", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_peer:
        run_peer(*arguments.run_peer)
        return
    from ibpo.routing import fit_router, open_encoder, score_unseen, scores_of

    val, test = read(arguments.data / "val.jsonl.gz"), read(arguments.data / "test.jsonl.gz")
    models = val[1]
    ceilings = np.geomspace(val[3].mean(axis=0).min(), val[3].mean(axis=0).max(), 7)
    embedded: list[np.ndarray] | None = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.embeddings is not None and arguments.embeddings.exists():
            kept = np.load(arguments.embeddings)
            embedded = [kept["val"], kept["test"]]
        elif arguments.embed_model is not None:
            encoder = open_encoder(arguments.embed_model)
            embedded = [encoder.embed(split[0]) for split in (val, test)]
            if arguments.embeddings is not None:
                np.savez(arguments.embeddings, val=embedded[0], test=embedded[1])
        learn, judge = routed("val", val, folder), routed("test", test, folder)
        assert list(learn.groups) == models == list(judge.groups) and learn.prompts == val[0]
        first, last = (None, None) if embedded is None else (embedded[0], embedded[1])
        router = fit_router(learn, embedded=first, embedding=None if first is None else {"model": ""})
        splits = [
            (score_unseen(learn, embedded=first), val[2], val[3]),
            (scores_of(router, judge, last), test[2], test[3]),
        ]
        say("", [f"{c:.3g}" for c in ceilings])
        print("|---|" + "---|" * len(ceilings))
        rows = {"ours": ours(ceilings, models, splits)}
        report("ours", ceilings, *rows["ours"])
        if arguments.peer and embedded is not None:
            both = [
                {"embedded": embedded[i], "reward": split[2], "cost": split[3]} for i, split in enumerate((val, test))
            ]
            report("ParetoBandit, run here", ceilings, *peer(arguments.peer, ceilings, models, both, folder))
    say("ParetoBandit, published: reward", [f"{r:.4f}" for r in PUBLISHED])
    say("ParetoBandit, published: spent / ceiling", [f"{u:.3f}" for u in PUBLISHED_USED])
    alone = test[2].mean(axis=0)
    best = [float(alone[test[3].mean(axis=0) <= c].max(initial=0.0)) for c in ceilings]
    say("best single model that fits on test", [f"{b:.4f}" for b in best])
    say("wanted", [f"{w:.3f}" for w in WANTED])
    got, used = rows["ours"][0].mean(axis=1), rows["ours"][1].mean(axis=1) / ceilings
    checks = {
        "reward as wanted, to three digits": (np.round(got, 3) >= np.array(WANTED) - 1e-9).all(),
        "at most 1.01 of the ceiling": (used <= 1.01).all(),
        "never falls as the ceiling rises": (np.diff(got) >= 0).all(),
        "never below the best single model that fits": (got >= np.array(best) - 5e-4).all(),
    }
    print("\n" + "\n".join(f"{name}: {'yes' if held else 'NO'}" for name, held in checks.items()))
    sys.exit(not all(checks.values()))


def report(title: str, ceilings: np.ndarray, reward: np.ndarray, spent: np.ndarray) -> None:
    """Means over seeds, with standard errors."""
    error = reward.std(axis=1, ddof=1) / SEEDS**0.5
    used = spent / ceilings[:, None]
    say(f"{title}: reward", [f"{r:.4f} ± {e:.4f}" for r, e in zip(reward.mean(axis=1), error, strict=True)])
    say(f"{title}: spent / ceiling, mean", [f"{u:.3f}" for u in used.mean(axis=1)])
    say(f"{title}: spent / ceiling, largest of a seed", [f"{u:.3f}" for u in used.max(axis=1)])


def say(title: str, cells: list[str]) -> None:
    """One row of the table."""
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
