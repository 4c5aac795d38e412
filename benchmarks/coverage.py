"""Do the 95 % intervals cover the truth 93 to 97 times in 100? By simulation, clustered data included.

    python benchmarks/coverage.py [--replications 2000] [--seed 0] [--metric NAME ...]

Each population is a law of problems: a problem has a chance of a right standard and a right extended response, lengths
that go with its difficulty, and chances of wrong answers that agree with each other. The truth is the mean over a large
draw of problems, with as many responses each as an evaluation has. Then many evaluations of P problems and S
responses each are drawn, every interval is made as `ibpo report` makes it, and those that hold the truth are counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from ibpo.evaluation import (
    NOTHING,
    Estimate,
    Reference,
    Responses,
    bootstrap,
    estimate_area,
    estimate_gain_ratio,
    estimate_mean,
    estimate_quantile,
    estimate_rate,
    paired_difference,
    pass_at_k,
    problem_means,
    rate_interval,
    ratio_of_means,
    vote_at_k,
)

NUM_TRUTH = 200_000
"""Problems of the large draw."""
AREA_FROM, AREA_TO = 700.0, 1200.0
"""Tokens between which the area is taken: inside what every evaluation reaches."""
SETTINGS = {
    "one response, 200 problems": (200, 1, False),
    "8 responses, 100 problems, clustered": (100, 8, True),
    "8 responses, 500 problems, clustered": (500, 8, True),
}
Draw = dict[str, np.ndarray]


def draw(rng: np.random.Generator, num: int, size: int, clustered: bool) -> Draw:
    """`[P, S]` of a standard and an extended configuration, and of a policy that chooses between them."""
    ability = rng.beta(0.8, 0.8, (num, 1)) if clustered else np.full((num, 1), 0.62)
    chance = {"standard": 0.75 * ability, "extended": 0.2 + 0.75 * ability}
    out: Draw = {}
    chosen = rng.random((num, size)) < 0.2 + 0.6 * (1 - ability)
    spread = 0.5 if clustered else 0.0
    length = {}
    for name, mean in (("standard", 300.0), ("extended", 1500.0)):
        right = rng.random((num, size)) < chance[name]
        by_problem = np.exp(spread * rng.normal(size=(num, 1)) + 0.8 * (0.5 - ability))
        length[name] = mean * by_problem * np.exp(0.5 * rng.normal(size=(num, size))) * np.where(right, 0.8, 1.25)
        out[f"right {name}"], out[f"tokens {name}"] = right.astype(float), length[name]
        wrong = np.where(rng.random((num, size)) < 0.5, 1, rng.integers(2, 6, (num, size)))
        out[f"answer {name}"] = np.where(right, 0, wrong)
    out["right policy"] = np.where(chosen, out["right extended"], out["right standard"])
    out["tokens policy"] = np.where(chosen, length["extended"], length["standard"])
    out["extended policy"] = chosen.astype(float)
    # Levels as a benchmark has them: by the problem's chance, in four classes.
    out["level"] = np.minimum((4 * ability[:, 0]).astype(int), 3)
    out["thinking policy"] = np.where(chosen, 0.8, 0.3) * out["tokens policy"]
    out["truncated policy"] = (out["tokens policy"] > 3000).astype(float)
    return out


def estimates(drawn: Draw, seed: int, wanted: list[str]) -> dict[str, Estimate]:
    """The wanted metrics of one evaluation; all, if none is named."""
    num, size = drawn["right policy"].shape
    problem, every = np.repeat(np.arange(num), size), np.arange(num)
    flat = {name: value.ravel() for name, value in drawn.items()}
    mean = {name: value.mean(1) for name, value in drawn.items() if not name.startswith(("answer", "level"))}
    right, tokens = flat["right policy"], flat["tokens policy"]
    gain_P = mean["right policy"] - mean["right standard"]
    three = ("standard", "policy", "extended")

    def votes(k: int) -> np.ndarray:
        names, vote_P = vote_at_k(problem, flat["answer standard"].astype(str), flat["right standard"], k)
        return problem_means(vote_P, names, every)

    def gain_ratio() -> Estimate:
        costs = np.vstack([k * mean["tokens standard"] for k in (1, 3, 5)])
        curve = np.vstack([votes(k) for k in (1, 3, 5)])
        return estimate_gain_ratio(mean["right policy"], mean["tokens policy"], curve, costs, seed=seed)

    def area() -> Estimate:
        cost, accuracy = (np.vstack([mean[f"{kind} {name}"] for name in three]) for kind in ("tokens", "right"))
        return estimate_area(cost, accuracy, AREA_FROM, AREA_TO, seed=seed)

    def responses(name: str) -> Responses:
        rows = len(problem)
        unknown, texts = np.full(rows, np.nan), np.full(rows, "", dtype=object)
        return Responses(
            problem=problem.astype(object), configuration=texts, reward=flat[f"right {name}"],
            tokens=flat[f"tokens {name}"], thinking_tokens=unknown, truncated=unknown, response_group=texts,
            answer=texts, level=drawn["level"][problem].astype(object), domain=texts, budget=unknown, prompt=texts,
            completion=texts, number=unknown,
        )  # fmt: skip

    def oracle_share() -> Estimate:
        reference = Reference(responses("standard"), responses("extended"), every)
        return reference.oracle_share(mean["right policy"], mean["tokens policy"], seed=seed) or NOTHING

    def held_out() -> Estimate:
        """The reward on one half of a choice that the other half made: its bar is that of a clustered mean."""
        half = max(size // 2, 1)
        gain_P = drawn["right extended"][:, :half].mean(1) - drawn["right standard"][:, :half].mean(1)
        other = slice(half, None) if size > 1 else slice(None)
        value = np.where(gain_P[:, None] > 0, drawn["right extended"][:, other], drawn["right standard"][:, other])
        value_P = value.mean(1)
        found, stderr = float(value_P.mean()), float(value_P.std(ddof=1)) / np.sqrt(num)
        low, high = rate_interval(found, stderr, num)
        return Estimate(value=found, stderr=stderr, low=low, high=high, num_problems=num)

    def passes(k: int) -> Estimate:
        return estimate_rate(pass_at_k(drawn["right standard"].sum(1), np.full(num, size), k), every)

    metrics: dict[str, Callable[[], Estimate]] = {
        "pass@1": lambda: estimate_rate(right, problem),
        "extended share": lambda: estimate_rate(flat["extended policy"], problem),
        "truncation rate": lambda: estimate_rate(flat["truncated policy"], problem),
        "share on wrong answers": lambda: estimate_rate(flat["extended policy"], problem, 1 - right),
        "mean tokens": lambda: estimate_mean(tokens, problem, positive=True),
        "mean tokens, right answers": lambda: estimate_mean(tokens, problem, right, positive=True),
        "mean tokens, wrong answers": lambda: estimate_mean(tokens, problem, 1 - right, positive=True),
        "median tokens": lambda: estimate_quantile(tokens, problem, 0.5),
        "95th percentile of tokens": lambda: estimate_quantile(tokens, problem, 0.95),
        "95th percentile, wrong answers": lambda: estimate_quantile(tokens, problem, 0.95, 1 - right),
        "paired difference, closed form": lambda: paired_difference(mean["right policy"], mean["right standard"]),
        "paired difference, bootstrap": lambda: bootstrap(lambda w: w @ gain_P, num, num_draws=500, seed=seed),
        "relative cost": lambda: ratio_of_means(mean["tokens policy"], mean["tokens standard"]),
        "area under accuracy-cost": area,
        "thinking tokens": lambda: estimate_mean(flat["thinking policy"], problem, positive=True),
        "answer tokens": lambda: estimate_mean(tokens - flat["thinking policy"], problem, positive=True),
        "held-out bars": held_out,
    }
    if size > 1:
        metrics |= {f"pass@{k}": partial(passes, k) for k in (2, 4, 8)}
        metrics |= {"maj@3": lambda: estimate_rate(votes(3), every), "gain ratio": gain_ratio}
        metrics |= {"oracle share": oracle_share}
    return {name: metric() for name, metric in metrics.items() if not wanted or name in wanted}


def truth(size: int, clustered: bool, seed: int, wanted: list[str]) -> dict[str, float]:
    """The same metrics of a large draw; area and gain ratio in slices, whose mean is as good and takes less memory."""
    rng = np.random.default_rng(seed)
    parts: list[dict[str, float]] = []
    for _ in range(10):
        found = values(draw(rng, NUM_TRUTH // 10, size, clustered), wanted)
        parts.append(found)
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}


def values(drawn: Draw, wanted: list[str]) -> dict[str, float]:
    """Point values only: the bootstraps are left out."""
    import ibpo.evaluation.comparison as comparison
    import ibpo.evaluation.metrics as metrics

    def no_draws(statistic: Callable[[np.ndarray], np.ndarray], num_problems: int, **_: object) -> Estimate:
        value = float(statistic(np.full((1, num_problems), 1 / num_problems))[0])
        return Estimate(value=value, stderr=0, low=0, high=0, num_problems=num_problems)

    kept = metrics.bootstrap, globals()["bootstrap"]
    metrics.bootstrap = comparison.bootstrap = globals()["bootstrap"] = no_draws  # pyright: ignore[reportPrivateImportUsage]
    try:
        return {name: estimate.value for name, estimate in estimates(drawn, 0, wanted).items()}
    finally:
        metrics.bootstrap, globals()["bootstrap"] = kept
        comparison.bootstrap = kept[0]  # pyright: ignore[reportPrivateImportUsage]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--metric", action="append", default=[], help="Only this row of the table; repeat.")
    options = parser.parse_args()
    columns: dict[str, dict[str, str]] = {}
    begun = time.process_time()
    for label, (num, size, clustered) in SETTINGS.items():
        target = truth(size, clustered, options.seed + 1_000_000, options.metric)
        hits = dict.fromkeys(target, 0)
        missing = dict.fromkeys(target, 0)
        rng = np.random.default_rng(options.seed)
        for replication in range(options.replications):
            for name, found in estimates(draw(rng, num, size, clustered), replication, options.metric).items():
                missing[name] += bool(np.isnan(found.low))
                hits[name] += found.low <= target[name] <= found.high
        for name, count in hits.items():
            made = options.replications - missing[name]
            covered = f"{count / made:.3f}" if made else "-"
            columns.setdefault(name, {})[label] = covered + (f" ({missing[name]} not made)" if missing[name] else "")
    print(f"{options.replications} evaluations each, seed {options.seed}, {time.process_time() - begun:.0f} CPU s")
    print("| metric | " + " | ".join(SETTINGS) + " |")
    print("|---" * (len(SETTINGS) + 1) + "|")
    for name, row in columns.items():
        print(f"| {name} | " + " | ".join(row.get(label, "") for label in SETTINGS) + " |")


if __name__ == "__main__":
    main()
