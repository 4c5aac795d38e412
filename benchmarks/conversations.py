"""Ten-turn chats at cache prices: what is a switch of the response group worth?

    python benchmarks/conversations.py

Simulated: `--chats` conversations of ten turns that overlap in time (some thirty at a time), prompts that grow by 300
tokens a turn from a first message of 2,000 (`--long`: 20,000), answers of 300 tokens (standard) or 1,500 (extended, 200
of which the next prompt repeats; lengths lognormal, spread .4, known beforehand). The gain of the extended answer is .6
x that of its conversation + .4 x one of the turn (both exponential of mean .1). Prices per million: 1.25 in, .125
cached, 10 out; each response group has a cache of its own, for 300 seconds after its last use, and turns are 120
seconds apart (exponential).

Three ways, each by the same controller under an average budget of money, all billed what the caches make of it:

- *cache in the cost*: `Conversations.costs`, so a switch happens where its gain beats the cache that is lost;
- *each turn anew*: the cost of an answer as if nothing was cached;
- *never switching*: the first turn decides, by what ten turns would gain on average and cost.

For each the mean gain at seven budgets; then the cost at equal gain, by interpolation. Mean of `--seeds` seeds.
"""

from __future__ import annotations

import argparse

import numpy as np

from ibpo.prices import Price
from ibpo.serving import BudgetPolicy, Candidate, Controller, Conversations, ServingPolicy

TURNS = 10
GROUPS = ("standard", "extended")
PRICE = Price(input=1.25, cached_input=0.125, cache_write=1.25, output=10.0, reasoning=10.0)
REPEATED = (300.0, 200.0)
SECONDS = 120.0
"""Mean between two turns; a cache lives 300 seconds after its last use."""
WAYS = ("cache in the cost", "each turn anew", "never switching")


def run(way: str, mean: float, chats: int, first: float, seed: int) -> tuple[float, float, float]:
    """Gain and money per turn, and switches per conversation."""
    rng = np.random.default_rng(seed)
    lasting, passing = rng.exponential(0.1, chats), rng.exponential(0.1, (chats, TURNS))
    gains = 0.6 * lasting[:, None] + 0.4 * passing
    lengths = np.array([300.0, 1500.0]) * np.exp(rng.normal(-0.08, 0.4, (chats, TURNS, 2)))
    begins = np.sort(rng.random(chats)) * chats * SECONDS * TURNS / 30
    came = (begins[:, None] + np.cumsum(rng.exponential(SECONDS, (chats, TURNS)), axis=1)).ravel()
    stream = np.argsort(came, kind="stable")
    policy = ServingPolicy(budgets=(BudgetPolicy(name="money", mean=mean),))
    controller, known = Controller(policy), Conversations(dict.fromkeys(GROUPS, PRICE))
    history, last = [first] * chats, [-1] * chats
    got = np.zeros(2)
    switches = 0
    for n, place in enumerate(stream.tolist()):
        chat, turn = divmod(place, TURNS)
        name, prompt, output = str(chat), history[chat] + 300.0, lengths[chat, turn]
        billed = known.costs(name, prompt, dict(zip(GROUPS, output.tolist(), strict=True)), now=float(came[place]))
        cost, gain = billed, float(gains[chat, turn])
        if way == "each turn anew":
            cost = {g: PRICE.input * prompt * 1e-6 + PRICE.output * output[k] * 1e-6 for k, g in enumerate(GROUPS)}
        elif way == "never switching" and turn == 0:
            gain = float(0.6 * lasting[chat] + 0.4 * 0.1)
        allowed = GROUPS if way != "never switching" or last[chat] < 0 else (GROUPS[last[chat]],)
        candidates = [
            Candidate(response_group=g, gain=gain * (g == "extended"), cost={"money": float(cost[g])}) for g in allowed
        ]
        made = controller.decide(candidates, request_id=str(n), now=0.0)
        k = GROUPS.index(made.response_group)
        controller.settle(str(n), {"money": billed[made.response_group]})
        got += (gains[chat, turn] * k, billed[made.response_group])
        switches += 0 <= last[chat] != k
        last[chat], history[chat] = k, prompt + REPEATED[k]
        known.answered(name, made.response_group, history[chat], now=float(came[place]))
    return float(got[0]) / len(stream), float(got[1]) / len(stream), switches / chats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--long", action="store_true")
    options = parser.parse_args()
    first = 20_000.0 if options.long else 2_000.0
    # From a little above what standard answers cost to what extended ones do.
    cheapest = run(WAYS[2], 1e-9, options.chats, first, 0)[1]
    means = np.linspace(1.1 * cheapest, 1.1 * cheapest + 0.010, 7)
    found = {
        way: np.mean(
            [[run(way, mean, options.chats, first, seed) for mean in means.tolist()] for seed in range(options.seeds)],
            axis=0,
        )
        for way in WAYS
    }
    print("| way: gain, money per turn x 1000, switches a chat | " + " | ".join(f"{1e3 * m:.2f}" for m in means) + " |")
    print("|---|" + "---|" * len(means))
    for way, rows in found.items():
        print(f"| {way} | " + " | ".join(f"{g:.4f}, {1e3 * c:.2f}, {s:.1f}" for g, c, s in rows) + " |")
    ours = found[WAYS[0]]
    for way in WAYS[1:]:
        rows = found[way]
        least, most = max(ours[:, 0].min(), rows[:, 0].min()), min(ours[:, 0].max(), rows[:, 0].max())
        levels = np.linspace(least, most, 9)[1:-1]
        ratio = [np.interp(at, ours[:, 0], ours[:, 1]) / np.interp(at, rows[:, 0], rows[:, 1]) for at in levels]
        print(f"cost at equal gain, {WAYS[0]} / {way}: {min(ratio):.3f} to {max(ratio):.3f}, mean {np.mean(ratio):.3f}")


if __name__ == "__main__":
    main()
