"""Are the choices of `ibpo allocate` better than what does not look at the problems, and does it say so only then?

    python benchmarks/log_verdicts.py --logs 200 --answers 4

Simulated logs with known truths: four made up, and, where `../shared/data` is there, recorded ones, of which a log
draws its answers anew: AIME problems at three efforts (two models), the game of 24 with and without thinking aloud (100
answers recorded to each), and the prompts of ParetoBandit with three models (the recorded reward is the chance of a
right answer, costs vary by half); `--truths unseen --answers 2 4 7`: of the AIME problems' eight answers those that the
log does not hold are the truth. For every log the command's own choices, mixture and verdict under one budget, all
valued by the truth: the choice by expectations, the choice by the means of the answers (as it was before), the best
mixture that fits, and what is recommended. *held out*: what the choice spends on answers that did not decide, against
what is allowed, as the command prints it. *binds*: logs by whose expectations spending more would gain something, and
after it, of these alone, what is spent on held-out answers, and in truth by the choice that is written. *wrong*:
choosing per problem is recommended, and worse than the mixture. *below*: what is recommended lies under the best
mixture by more than the stated 95 % error of its own reward; *paired*: by more than that of the gain of choosing, of
which what all problems have in common is taken out. *covered*: the stated interval of the gain over the mixture holds
the true one, of the choice by all answers; *not above*: it does not begin above it. *over means*: what expectations
gain over means, costs at the mixture's price, and its interval over *problems*: recorded ones are the same few in
every log.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ibpo.allocation import random_mix
from ibpo.data import Log
from ibpo.evaluation import answer_questions, questions, verdict
from ibpo.evaluation.log_allocation import choose_groups, price_of
from ibpo.evaluation.log_parts import part_of_log

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
GROUPS = (("low", 300.0), ("medium", 1200.0), ("high", 4000.0))
USUAL = ("gains", "one group", "noise", "slack", "dual_mode_dev", "game24", "paretobandit")
SYNTHETIC = ("gains by problem", "one group best everywhere", "noise only", "slack")


@dataclass(frozen=True, kw_only=True)
class Truth:
    """`[P, G]` chances of a right answer and mean costs, and how answers are drawn: rng, number -> `[P, G, n]` both."""

    chance: np.ndarray
    cost: np.ndarray
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def logit(p: np.ndarray | float) -> np.ndarray:
    return np.log(np.asarray(p) / (1 - np.asarray(p)))


def made_up(name: str, rng: np.random.Generator, num_problems: int) -> Truth:
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
    return bernoulli(chance, length)


def bernoulli(chance: np.ndarray, cost: np.ndarray) -> Truth:
    def draw(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (*chance.shape, num)
        return (rng.random(shape) < chance[..., None]).astype(float), cost[..., None] * rng.gamma(4, 0.25, shape)

    return Truth(chance=chance, cost=cost, draw=draw)


def cells_of(rows: list[dict], group: str) -> list[list[np.ndarray]]:
    """Of each problem and group the recorded answers `[N, 2]`, right and tokens."""
    problems = sorted({row["question_id"] for row in rows})
    names = sorted({row[group] for row in rows})
    cells: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["tokens"] is not None and row["tokens"] >= 0:
            cells.setdefault((row["question_id"], row[group]), []).append((float(row["correct"]), float(row["tokens"])))
    problems = [p for p in problems if all((p, g) in cells for g in names)]
    return [[np.array(cells[p, g]) for g in names] for p in problems]


def recorded(every: list[list[np.ndarray]]) -> Truth:
    """The answers of a log as all that there are: its means are the truth."""
    mean = np.array([[cell.mean(0) for cell in row] for row in every])

    def draw(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
        found = np.array([[cell[rng.integers(0, len(cell), num)] for cell in row] for row in every])
        return found[..., 0], found[..., 1]

    return Truth(chance=mean[..., 0], cost=mean[..., 1], draw=draw)


def unseen(every: list[list[np.ndarray]], rng: np.random.Generator, num: int) -> Truth:
    """Answers that a log does not hold are the truth, without bias: `num` of each cell's are drawn for the log."""
    if num >= (most := min(len(cell) for row in every for cell in row)):
        raise SystemExit(f"{most} recorded answers: a log of {num} leaves none unseen; --answers {most - 1} at most")
    mixed = np.array([[rng.permutation(cell)[:most] for cell in row] for row in every])
    mean = mixed[:, :, num:].mean(2)
    return Truth(
        chance=mean[..., 0], cost=mean[..., 1], draw=lambda _, num: (mixed[:, :, :num, 0], mixed[:, :, :num, 1])
    )


Make = Callable[[np.random.Generator, int], Truth]
"""From the answers per problem and group of a log to its truth."""


def truths(num_problems: int) -> dict[str, Make]:
    """Name -> what makes the truth of one log."""
    found: dict[str, Make] = {name: lambda rng, _, name=name: made_up(name, rng, num_problems) for name in SYNTHETIC}

    def rows_of(path: Path) -> list[dict]:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return list(map(json.loads, file))

    if DATA.is_dir():
        dual = rows_of(DATA / "dual_mode_dev" / "dev.jsonl.gz")
        for model in sorted({row["model"] for row in dual}):
            cells = cells_of([row for row in dual if row["model"] == model], "effort")
            one, short = recorded(cells), model.partition("/")[2][:13]
            found[f"dual_mode_dev, {short}"] = lambda _, num, one=one: one
            found[f"unseen answers, {short}"] = lambda rng, num, cells=cells: unseen(cells, rng, num)
        game = recorded(cells_of(rows_of(DATA / "game24" / "responses.jsonl.gz"), "group"))
        found["game24"] = lambda *_: game
        arms = [row["arms"] for row in rows_of(DATA / "paretobandit" / "val.jsonl.gz")]
        names = sorted(arms[0])
        chance = np.array([[min(max(row[name]["reward"], 0.0), 1.0) for name in names] for row in arms])
        dollars = np.array([[row[name]["cost"] for name in names] for row in arms])

        def some(rng: np.random.Generator, _: int) -> Truth:
            own = rng.choice(len(arms), num_problems, replace=False)
            return bernoulli(chance[own], dollars[own])

        found["paretobandit, three groups"] = some
    return found


def log_of(truth: Truth, rng: np.random.Generator, num_responses: int) -> Log:
    reward, cost = truth.draw(rng, num_responses)
    shape = np.indices(reward.shape).reshape(3, -1)
    return Log(
        problem=[f"{p:06}" for p in shape[0].tolist()],
        response_group=[f"g{g}" for g in shape[1].tolist()],
        reward=reward.ravel(),
        cost=cost.ravel(),
        part=[""] * reward.size,
        shown=[""] * reward.size,
        columns={"problem": "p", "response_group": "g", "reward": "reward", "cost": "tokens"},
        guessed=(),
    )


def one_log(make: Make, seed: int, num: int, budget: str, num_splits: int) -> tuple[dict[str, float], np.ndarray]:
    """What one log shows, and `[P]` what each problem's choice gains over that by the means, its cost at the price."""
    rng = np.random.default_rng(seed)
    truth = make(rng, num)
    part = part_of_log("", log_of(truth, rng, num), lambda _: None)
    asked = questions([budget])[1:2]
    [answer] = answer_questions(part, asked, holdout=None, num_splits=num_splits, seed=seed, say=lambda _: None)
    chance, cost = truth.chance, truth.cost
    every = np.arange(len(chance))

    def value(pick: np.ndarray) -> tuple[float, float]:
        return float(chance[every, pick].mean()), float(cost[every, pick].mean())

    allowed = float(answer.limits[0].at_most or 0)
    mine, spent = value(np.asarray(answer.pick))
    by_means = choose_groups(part.reward, part.cost, answer.limits)[1]
    before, spent_before = value(by_means)
    weight, price = random_mix(cost.mean(0), chance.mean(0), at=max(allowed, spent))
    utility = chance - price * cost
    each = utility[every, np.asarray(answer.pick)] - utility[every, by_means]
    weight_before, _ = random_mix(cost.mean(0), chance.mean(0), at=max(allowed, spent_before))
    told = verdict(part, answer)
    assert answer.mixture is not None and answer.held_out is not None
    blind = float(answer.mixture @ chance.mean(0))
    error = 1.96 * (answer.held_out.mixture_gain_stderr or 0)
    gain = mine - float(weight @ chance.mean(0))
    recommended = mine if told.per_problem else blind
    row = {
        "gain": gain,
        "before": before - float(weight_before @ chance.mean(0)),
        "held out": answer.held_out.spent / allowed - 1,
        "spent": spent / allowed - 1,
        "spent before": spent_before / allowed - 1,
        "recommends": float(told.per_problem),
        "wrong": float(told.per_problem and gain < -1e-9),  # and not by rounding
        "below": float(recommended < float(weight @ chance.mean(0)) - 1.96 * answer.held_out.reward_stderr),
        "paired": float(recommended < float(weight @ chance.mean(0)) - error - 1e-9),
        "binds": float(price_of(answer) > 0),
        "covered": float(abs((answer.held_out.mixture_gain or 0) - (mine - blind)) <= error),
        "not above": float((answer.held_out.mixture_gain or 0) - error <= mine - blind),
    }
    return row, each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=200)
    parser.add_argument("--problems", type=int, default=100, help="of made-up truths and of ParetoBandit")
    parser.add_argument("--answers", type=int, nargs="+", default=[4], help="per problem and group")
    parser.add_argument("--splits", type=int, default=50, help="random halvings of a log")
    parser.add_argument("--truths", default="", help="only those whose names hold one of these, parted by commas")
    arguments = parser.parse_args()
    about = f"{arguments.splits} splits; {arguments.problems} problems a log"
    print(f"{arguments.logs} logs, tokens=40%range (slack: 80%range), {about}")
    print("| truth | answers | gain, expectations | means | held out | binds | held out | spent | by means |"
          " recommended | wrong | below | paired | covered | not above | over means, ± of problems |")  # fmt: skip
    print("|---" * 16 + "|")
    for name, make in truths(arguments.problems).items():
        if not any(part in name for part in (arguments.truths or ",".join(USUAL)).split(",")):
            continue
        budget = "tokens=80%range" if name == "slack" else "tokens=40%range"
        for num in arguments.answers:
            seeds = range(1000 * num, 1000 * num + arguments.logs)
            logs = [one_log(make, seed, num, budget, arguments.splits) for seed in seeds]
            rows = [row for row, _ in logs]
            table = {key: np.array([row[key] for row in rows]) for key in rows[0]}
            binds = table["binds"] > 0

            def mean(key: str, form: str, which: np.ndarray | None = None, table: dict[str, np.ndarray] = table) -> str:
                one = table[key] if which is None else table[key][which]
                if len(one) < 2:
                    return "-"
                error = 1.96 * one.std(ddof=1) / np.sqrt(len(one))
                return f"{one.mean():{form}} ± {error:{form.lstrip('+')}}"

            cells = [mean("gain", "+.4f"), mean("before", "+.4f"), mean("held out", "+.2%"), f"{binds.mean():.0%}"]
            cells += [mean("held out", "+.2%", binds), mean("spent", "+.2%", binds)]
            cells += [f"{table['spent before'].mean():+.1%}", f"{table['recommends'].mean():.0%}"]
            cells += [str(int(table[key].sum())) for key in ("wrong", "below", "paired")]
            cells.append(f"{table['covered'].mean():.0%}")
            cells.append(f"{table['not above'].mean():.1%}")
            more = np.array([each for _, each in logs]).mean(0)
            cells.append(f"{more.mean():+.4f} ± {1.96 * more.std(ddof=1) / np.sqrt(len(more)):.4f}")
            print(f"| {name} | {num} | {' | '.join(cells)} |", flush=True)
    print(f"± 95 %; {time.process_time():.0f} CPU seconds")


if __name__ == "__main__":
    main()
