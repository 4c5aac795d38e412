"""Simulate the serving controller: does it hold the budget in every window, and what does that cost?

    python benchmarks/controller.py --requests 1e6
    python benchmarks/controller.py --requests 2e4 --traces ../request_traces --gains ../dual_mode_dev/dev.jsonl.gz
    python benchmarks/controller.py --unknown --traces ../request_traces --gains ../dual_mode_dev/dev.jsonl.gz \\
        --rewards ../paretobandit

With `--unknown` another table: budgets of tokens as they come (no `overdraft` given, but where the title says one), of
answers whose lengths nobody knows, means over six seeds. Each trace once, its answers ten times as long where they are
extended, uniform gains, the budget 42 % of the way from all standard to all extended, lengths learned by the prompt's;
its times with recorded problems, 8,000 requests, of which the controller knows each problem's mean; and with
`--rewards` with the models of ParetoBandit, a budget of $6.64e-4, of which it knows each model's mean and learns by the
prompt's length. "The best price in hindsight" is that of a router with the same expectations and no windows to hold.

Prints a Markdown table row after row. Each run has two tenants, "loud" with 80 % of the requests and "quiet", and
`fair_share = 0.5`. Responses take 200 tokens a second, 20 requests come in a second: some 600 are in flight. Seed 0.
"Windows" are all runs of 1,000 answered requests in a row after the first 1,000; "reachable" is the share of them
within 1 % that nobody could exceed who does not know how long the responses in flight will be, and which will fail
(`ibpo.serving.simulation.find_reachable`). The clairvoyant optimum spends the same in total, knows every request
beforehand, and owes nothing to any tenant; "as predicted" it knows of the lengths what the controller knows.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ibpo.serving import (
    BudgetPolicy,
    Requests,
    ServingPolicy,
    Simulation,
    TenantPolicy,
    read_trace,
    recorded_requests,
    repeat_trace,
    simulate,
    summarise,
    synthetic_requests,
    with_caps,
    with_exact_estimates,
)

SHARE, TOKENS = 0.3, 6000.0
RECORDED = {"openai/gpt-5.1": 7000.0, "anthropic/claude-opus-4-5-20251101": 6000.0}
"""Model -> a budget of tokens that binds."""
DOLLARS = {
    "meta-llama/llama-3.1-8b-instruct": 0.1,
    "mistralai/mistral-large-2512": 1.5,
    "google/gemini-2.5-pro": 10.0,
}
"""Of ParetoBandit's data, dollars per million tokens of an answer (`benchmarks/paretobandit.py`)."""


def made(name: str, size: int) -> Requests:
    """A synthetic scenario."""
    rng = np.random.default_rng(0)
    number = np.arange(size)
    gain = rng.random(size)
    rate = np.full(size, 20.0)
    long = 14000 * np.exp(rng.normal(0, 0.4, size) - 0.08)
    tenant = np.where(rng.random(size) < 0.2, "quiet", "loud")
    failed = np.zeros(size, bool)
    if name == "diurnal":  # days of 100,000 requests, at least one: by day more requests, more of them hard
        day = 0.5 - 0.5 * np.cos(2 * np.pi * number / min(size, 100_000))
        gain = np.where(rng.random(size) < 0.2 + 0.6 * day, 0.5 + 0.5 * gain, 0.3 * gain)
        rate = 5 + 30 * day
    elif name == "shift":  # easy, hard, easy
        gain = np.where(number // (size / 3) == 1, 0.5 + 0.5 * gain, 0.2 * gain)
    elif name == "bursts":  # every 2,000 requests 400 of the loud tenant at once, all claiming the largest gain
        burst = number % 2000 < 400
        gain = np.where(burst, 1.0, 0.5 * gain)
        tenant = np.where(burst, "loud", tenant)
        rate = np.where(burst, 1e6, 20.0)
    elif name == "heavy":  # Pareto with exponent 1.5, cut at 40 times the least
        long = 6000 * np.minimum(40.0, rng.pareto(1.5, size) + 1)
    elif name == "failures":
        failed = rng.random(size) < 0.1
    cost = np.stack([1200 * np.exp(rng.normal(0, 0.4, size) - 0.08), long], axis=1)
    return Requests(
        time=np.cumsum(rng.exponential(1, size) / rate),
        groups=("standard", "extended"),
        gain=np.stack([np.zeros(size), gain], axis=1),
        cost=cost,
        estimate=cost,
        seconds=cost / 200,
        failed=failed,
        tenant=tenant.tolist(),
        slice_name=[""] * size,
    )


def unknown(requests: Requests) -> Requests:
    """The controller knows the mean length of each response group only."""
    return replace(requests, estimate=np.tile(requests.cost.mean(axis=0), (len(requests), 1)))


def recorded(trace: Path, gains: Path, model: str, size: int) -> Requests:
    """A real trace, asking problems of a log of recorded responses."""
    came = repeat_trace(read_trace(trace), size)
    drawn = recorded_requests(came, gains, by="model", part=model, response_group="effort", tokens_per_second=200)
    tenant = np.where(np.random.default_rng(1).random(size) < 0.2, "quiet", "loud")
    return replace(drawn, tenant=tenant.tolist())


def runs(size: int, traces: Path | None, gains: Path | None) -> Iterator[tuple[str, Requests, BudgetPolicy]]:
    """Name, requests and budget of every run."""
    share = BudgetPolicy(name="extended", mean=SHARE, response_group="extended")
    tight, loose = (
        BudgetPolicy(name="tokens", mean=TOKENS, overdraft=5 * TOKENS),
        BudgetPolicy(name="tokens", mean=TOKENS, overdraft=25 * TOKENS),
    )
    names = ("iid", "diurnal", "shift", "bursts", "heavy", "failures")
    for name in names:
        yield name, made(name, size), share
    yield "bursts, the quiet one promised the mean", made("bursts", size), share
    for name in names:
        yield name + ", lengths known", made(name, size), tight
    yield "iid, lengths known", made("iid", size), loose
    for name in ("iid", "heavy"):
        yield name + ", lengths unknown", unknown(made(name, size)), loose
    caps = {"standard": 8192.0, "extended": 65536.0}
    bounded = replace(loose, overcommit=200 * 65536.0)
    for rate in (1, 5, 20):  # some 30, 150 and 600 in flight
        came = unknown(made("iid", size))
        came = with_caps(replace(came, time=came.time * 20 / rate), caps)
        yield f"iid, lengths unknown, caps, {rate} a second", came, loose
    yield "iid, lengths unknown, caps, 20 a second, overcommit of 200 caps", came, bounded
    yield "heavy, lengths unknown, caps, 20 a second", with_caps(unknown(made("heavy", size)), caps), loose
    if traces is not None and gains is not None:
        for file in sorted(traces.glob("*.jsonl.gz")):
            for model, most_expensive, mean in (
                ("openai/gpt-5.1", "high", 7000.0),
                ("anthropic/claude-opus-4-5-20251101", "32000", 6000.0),
            ):
                came = recorded(file, gains, model, size)
                title = f"{file.name.partition('.')[0]}, {model.partition('/')[2]}"
                yield title, came, BudgetPolicy(name=most_expensive, mean=SHARE, response_group=most_expensive)
                for slack in (5, 25):
                    budget = BudgetPolicy(name="tokens", mean=mean, overdraft=slack * mean)
                    yield title + ", lengths known", with_exact_estimates(came), budget
                yield title + ", lengths unknown", came, BudgetPolicy(name="tokens", mean=mean, overdraft=25 * mean)


def routed(trace: Path, folder: Path, size: int, seed: int) -> Requests:
    """A real trace, asking prompts of ParetoBandit's data: three models, rewards as recorded, costs in millionths of a
    dollar, of which the controller knows each model's mean; answers take as long as their price says, at 200 tokens a
    second."""
    rows = []
    for name in ("val", "test"):
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows += [json.loads(line) for line in file]
    models = sorted(DOLLARS, key=lambda name: sum(row["arms"][name]["cost"] for row in rows))
    gain, cost = (np.array([[row["arms"][m][key] for m in models] for row in rows]) for key in ("reward", "cost"))
    came = repeat_trace(read_trace(trace), size)
    drawn = np.random.default_rng(seed).integers(len(rows), size=size)
    return Requests(
        time=came.time,
        groups=tuple(models),
        gain=gain[drawn],
        cost=1e6 * cost[drawn],
        estimate=np.tile(1e6 * cost.mean(axis=0), (size, 1)),
        seconds=1e6 * cost[drawn] / np.array([DOLLARS[m] for m in models]) / 200,
        failed=np.zeros(size, bool),
        tenant=[""] * size,
        slice_name=[""] * size,
        prompt_tokens=np.array([len(row["prompt"]) for row in rows], float)[drawn],
    )


def reach(requests: Requests, done: Simulation) -> float:
    """The value of the best single price in hindsight, by the gains and lengths that the controller expected.

    It spends the same in total, is bound by nothing on the way, and knows what is expected of every request.
    """
    rows, gain = np.arange(len(requests)), requests.gain
    spent = requests.cost[rows, done.choice].sum()
    least, most = 0.0, float(gain.max() / done.estimate.min(initial=1e9, where=done.estimate > 0))
    for _ in range(60):
        price = (least + most) / 2
        choice = np.argmax(gain - price * done.estimate, axis=1)
        least, most = (price, most) if requests.cost[rows, choice].sum() > spent else (least, price)
    choice = np.argmax(gain - most * done.estimate, axis=1)
    cheapest = requests.cost.argmin(axis=1)
    return float((gain[rows, choice] - gain[rows, cheapest]).sum())


def unknown_traffic(
    traces: Path, gains: Path, rewards: Path | None, seed: int
) -> Iterator[tuple[str, Requests, float, float | None]]:
    """Title, requests, budget and overdraft in means of every row of `--unknown`."""
    for file in sorted(traces.glob("*.jsonl.gz")):
        came, name = read_trace(file), file.name.partition(".")[0]
        requests = synthetic_requests(came, seed=seed)
        low, high = requests.cost.mean(axis=0)
        mean = float(low + 0.42 * (high - low))
        yield name, requests, mean, None
        for model, budget in RECORDED.items():
            drawn = recorded_requests(
                repeat_trace(came, 8000),
                gains,
                by="model",
                part=model,
                response_group="effort",
                tokens_per_second=200,
                seed=seed,
            )
            title = f"{name}, {model.partition('/')[2]}"
            yield title, drawn, budget, None
            if "gpt" in model and name == "azure2023_code":
                for room in (5.0, 10.0, 20.0):
                    yield f"{title}, overdraft of {room:.0f} means", drawn, budget, room
        if name == "mooncake_conversation":
            for room in (5.0, 10.0, 20.0):
                yield f"{name}, overdraft of {room:.0f} means", requests, mean, room
        if rewards is not None:
            yield f"{name}, ParetoBandit's models", routed(file, rewards, 8000, seed), 664.0, None


def print_unknown(traces: Path, gains: Path, rewards: Path | None, seeds: int = 6) -> None:
    """The table of `--unknown`."""
    print(
        "| traffic | budget | spent / budget | windows within 1 %: found, reachable one by one | value kept of the "
        "clairvoyant's: found, by the best price in hindsight | of the best as predicted | largest overdraft / mean | "
        "bound broken | drift alarms |\n|---|---|---|---|---|---|---|---|---|"
    )
    found: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        for title, requests, mean, room in unknown_traffic(traces, gains, rewards, seed):
            overdraft = None if room is None else room * mean
            policy = ServingPolicy(budgets=(BudgetPolicy(name="tokens", mean=mean, overdraft=overdraft),))
            done = simulate(requests, policy)
            figures = summarise(requests, done, policy)
            row = figures["budgets"][0]
            best = figures["value"] / figures["value_kept"]
            found.setdefault(title, []).append(
                [
                    mean,
                    row["spent"] / mean,
                    row["windows_within_1_percent"],
                    row["windows_reachable"],
                    figures["value_kept"],
                    reach(requests, done) / best,
                    figures["value_kept_as_predicted"],
                    row["overdraft"] / mean,
                    float(row["bound_broken"]),
                    figures["num_drifts"],
                ]
            )
    for title, rows in found.items():
        mean, spent, windows, reachable, kept, best, predicted, over, broken, drifts = np.mean(rows, axis=0)
        print(
            f"| {title} | {mean:.0f} | {spent:.3f} | {windows:.1%}, {reachable:.1%} | {kept:.1%}, {best:.1%} | "
            f"{predicted:.1%} | {over:.1f} | {broken * seeds:.0f} of {seeds} | {drifts:.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=float, default=1e6)
    parser.add_argument("--traces", type=Path, help="folder with *.jsonl.gz")
    parser.add_argument("--gains", type=Path, help="log of scored responses of two models")
    parser.add_argument("--rewards", type=Path, help="folder of ParetoBandit's data, for --unknown")
    parser.add_argument("--seeds", type=int, default=6, help="of --unknown")
    parser.add_argument("--only", default="", help="runs whose name holds this")
    parser.add_argument("--skip", default="no run", help="but not those whose name holds this")
    parser.add_argument("--unknown", action="store_true", help="the table of unknown lengths")
    arguments = parser.parse_args()
    if arguments.unknown:
        print_unknown(arguments.traces, arguments.gains, arguments.rewards, arguments.seeds)
        return
    size = int(arguments.requests)
    print(
        "| traffic | requests | most in flight | budget, overdraft | spent | above, below in the worst window | "
        "windows within 1 %: found, reachable | "
        "overdraft: largest, bound | value kept, of the best per window, of the best as predicted | "
        "quiet tenant: least, promised | CPU µs |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name, requests, budget in runs(size, arguments.traces, arguments.gains):
        if arguments.only not in name or arguments.skip in name:
            continue
        promised = {"quiet": TenantPolicy(at_least={budget.name: budget.mean})} if "promised" in name else {}
        policy = ServingPolicy(budgets=(budget,), fair_share=0.5, tenants=promised)
        began = time.process_time()
        done = simulate(requests, policy)
        micros = 1e6 * (time.process_time() - began) / size
        figures = summarise(requests, done, policy)
        row = figures["budgets"][0]
        quiet = next(row for row in figures["tenants"] if row["tenant"] == "quiet")[budget.name]
        kind = f"share {budget.mean:.0%}" if budget.response_group else f"tokens {budget.mean:.0f}"
        cells = [
            name,
            f"{size:.0e}",
            f"{done.most_in_flight}",
            f"{kind}, {budget.overdraft:.6g}",
            f"{row['spent']:.5g}",
            f"{row['largest_above']:+.2%}, {-row['largest_below']:+.2%}",
            f"{row['windows_within_1_percent']:.1%}, {row['windows_reachable']:.1%}",
            f"{row['overdraft']:.5g}, {row['largest_bound']:.5g}{' BROKEN' if row['bound_broken'] else ''}",
            ", ".join(f"{figures[f'value_kept{of}']:.1%}" for of in ("", "_by_window", "_as_predicted")),
            f"{quiet['least_in_a_window']:.4g}, {quiet['promised']:.4g}",
            f"{micros:.0f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
