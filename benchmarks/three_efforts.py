"""Three efforts, trained: answer at once, by every second running total, or by all of them (*thinking*, K = 3 groups).

    python -m benchmarks.three_efforts DIR --seeds 3

The embedded model of *thinking* is taught a third kind of response, `brief` (some fifteen minutes of imitation, once),
and is then trained by IBPO for each budget, three of tokens and one of shares with a lower bound. Whatever DIR holds
already is kept. Each row of the table is a policy as it is sampled (`NUM_SAMPLED` responses to each of 4,000 unseen
problems) beside what its own forced responses (`NUM_FORCED` of each group) say of others who would spend as much:

    random mixture    the best of the three groups, blind to the prompt
    oracle            the best group for each level of problem, by the levels' means on these very problems
    oracle, two       the same without `brief`

"Of the oracle's gain" is (policy - mixture) / (oracle - mixture). Intervals: 95 %, bootstrap over problems, with the
mixture made anew in each draw.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.gsm8k_choice import above_mixture
from experiments.corpora import UNKNOWN_SHARE
from ibpo.allocation import allocate
from ibpo.demo import LONGEST_CHAIN, THINKING, model_path
from ibpo.demo.policy import quiet_libraries, train_policy, write_policy
from ibpo.evaluation import FloatArray, by_number, read_table
from ibpo.evaluation.local_sampling import write_responses
from ibpo.responses import tagged_answer, thought_answer
from ibpo.rollouts import load_policy
from ibpo.tasks import digit_sums, distinct
from ibpo.training import supervised_fine_tune
from ibpo.training.budgets import read_budget
from ibpo.types import ResponseGroup

NUM_PROBLEMS, NUM_SAMPLED, NUM_FORCED = 4000, 4, 4
NUM_PAIRS, OF_GROUP, DECAY = 400_000, (0.2, 0.6, 0.2), (0.65, 0.9, 1.05)
"""Responses that the third group is taught by, how many of them are of each group, and by which factor an operand they
become rarer with length: where effort has nothing to do with length, the model does not know it where it chooses."""
BRIEF = "<brief>"
EXPERIMENT = replace(
    THINKING,
    response_groups=(
        ResponseGroup(name="at_once", prefix="<answer>", extract_answer=tagged_answer),
        ResponseGroup(name="brief", prefix=BRIEF, extract_answer=thought_answer),
        ResponseGroup(name="full", prefix="<think>", extract_answer=thought_answer),
    ),
    training={
        **THINKING.training,
        # One response of each group on each prompt.
        "num_generations": 3,
        "per_device_train_batch_size": 3 * 64,
        # At 1, from a cold start whose efforts had nothing to do with length, the choice was blind (docs/log.md).
        "prefix_loss_weight": 3.0,
    },
)
NAMES = [group.name for group in EXPERIMENT.response_groups]
BUDGETS: dict[str, dict[str, Any]] = {
    "tokens=5": {"tokens": 5},
    "tokens=7": {"tokens": 7},
    "tokens=10": {"tokens": 10},
    "full=15%, brief>=40%": {"full": "15%", "brief>=": "40%"},
}


def response_to(operands: digit_sums.Operands, group: int, total_of_unknown: int) -> str:
    """A program's response: `<brief> d 7 k 2 </think> <answer> 2` names every second operand, and the last."""
    totals = digit_sums.running_totals(operands, total_of_unknown)
    steps = [f"{name} {digit} {total}" for (name, digit), total in zip(operands, totals, strict=True)]
    if group == 1:
        kept = sorted({*range(1, len(operands), 2), len(operands) - 1})
        steps = [f"{operands[i][0]} {totals[i]}" for i in kept]
    working = "" if group == 0 else " ".join([("", BRIEF, "<think>")[group], *steps, "</think>", ""])
    return f"{working}<answer> {totals[-1]}"


def pairs(rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Problems of the train split as in the embedded corpus, long ones rare, and a program's responses to them."""
    lengths = np.arange(1, LONGEST_CHAIN + 1)
    while True:
        group = int(rng.choice(3, p=OF_GROUP))
        weights = DECAY[group] ** lengths
        length = int(rng.choice(lengths, p=weights / weights.sum()))
        operands = digit_sums.draw_operands(length, bool(rng.random() < UNKNOWN_SHARE), rng)
        prompt = digit_sums.prompt_of(operands)
        if digit_sums.split_of(prompt) == "train":
            yield prompt, response_to(operands, group, int(rng.integers(digit_sums.MODULUS)))


def cold_start(folder: Path) -> Path:
    """The embedded model of *thinking* with a third kind of response."""
    done = folder / "cold_start" / "model"
    if not done.exists():
        torch.manual_seed(0)
        tokenizer: Any = AutoTokenizer.from_pretrained(model_path("thinking"))
        model: Any = AutoModelForCausalLM.from_pretrained(model_path("thinking"), dtype=torch.float32)
        tokenizer.add_tokens([BRIEF])
        model.resize_token_embeddings(len(tokenizer))
        supervised_fine_tune(
            model,
            tokenizer,
            list(islice(pairs(np.random.default_rng(0)), NUM_PAIRS)),
            done.parent / "checkpoints",
            learning_rate=2e-3,
            batch_size=64,
            seed=0,
            quiet=True,
            save_strategy="no",
        )
        write_policy(done.parent, model, tokenizer, [])
    return done


def sample(model_dir: Path, folder: Path, seed: int) -> None:
    """A policy's own responses to the unseen problems, and forced ones of each group; finished files are kept."""
    model, tokenizer = load_policy(str(model_dir), dtype="float32")
    problems = distinct(digit_sums, "test", NUM_PROBLEMS, seed=seed)
    ways = [("sampled", "", NUM_SAMPLED), *((g.name, g.prefix, NUM_FORCED) for g in EXPERIMENT.response_groups)]
    for i, (how, prefix, count) in enumerate(ways):
        path = folder / f"{how}.jsonl.gz"
        if not path.exists():
            write_responses(
                path,
                model,
                tokenizer,
                problems,
                EXPERIMENT.response_groups,
                prefix=prefix,
                num_samples=count,
                max_completion_length=EXPERIMENT.max_completion_length,
                seed=80_000 + 100 * seed + i,
            )


def run(folder: Path, budget: str, seed: int) -> None:
    """Train a policy for a budget, and sample it."""
    quiet_libraries()
    out = folder_of(folder, budget, seed)
    train_policy(EXPERIMENT, folder / "cold_start" / "model", out, budget=BUDGETS[budget], seed=seed)
    sample(out / "model", out, seed)


def folder_of(folder: Path, budget: str, seed: int) -> Path:
    """A policy's folder."""
    return folder / f"seed{seed}" / budget.replace(" ", "")


# -- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """A policy's responses to P unseen problems, means over each problem's."""

    level: np.ndarray
    """[P]."""
    reward: FloatArray
    """[P], of the responses whose group the policy chose."""
    tokens: FloatArray
    share: FloatArray
    """[P, G], of each group among them."""
    group_reward: FloatArray
    """[P, G], of forced responses."""
    group_tokens: FloatArray


def read_sampled(folder: Path) -> Sampled:
    """A policy's finished files."""
    own = read_table(folder / "sampled.jsonl.gz")
    forced = [read_table(folder / f"{name}.jsonl.gz") for name in NAMES]
    group = by_number(own, "response_group")
    return Sampled(
        level=by_number(own, "level")[:, 0],
        reward=by_number(own, "reward").mean(1),
        tokens=by_number(own, "tokens").mean(1),
        share=np.stack([(group == name).mean(1) for name in NAMES], 1),
        group_reward=np.stack([by_number(table, "reward").mean(1) for table in forced], 1),
        group_tokens=np.stack([by_number(table, "tokens").mean(1) for table in forced], 1),
    )


def oracle(found: Sampled, budget: str, groups: Sequence[int]) -> float:
    """Accuracy of the best group for each level, by these problems' means, inside the budget.

    Of tokens, it may spend what the policy spent; of shares, what the budget says.
    """
    levels, of_level = np.unique(found.level, return_inverse=True)
    reward, tokens = (
        np.array([values[of_level == i].mean(0) for i in range(len(levels))])[of_level][:, groups]
        for values in (found.group_reward, found.group_tokens)
    )
    problem = np.repeat(np.arange(len(reward)), len(groups))
    group = np.tile(groups, len(reward))
    if "tokens" in BUDGETS[budget]:
        # As many decimals as the means of thousands of responses have.
        weight = allocate(reward.ravel(), problem, tokens.ravel().round(4), float(found.tokens.mean())).weight
    else:
        terms = read_budget(BUDGETS[budget], NAMES, lambda _: None)
        costs = np.stack([group == term.group for term in terms]).astype(float)
        caps = [None if term.at_least else term.amount for term in terms]
        floors = [term.amount if term.at_least else None for term in terms]
        weight = allocate(reward.ravel(), problem, costs, caps, at_least=floors).weight
    return float((weight * reward.ravel()).sum() / len(reward))


def mixture_gain(found: Sampled, budget: str) -> FloatArray:
    """Accuracy above the random mixture, and of bootstrap draws: [1 + draws].

    Of tokens: the best mixture at the policy's tokens. Of shares: the mixture with the policy's own shares.
    """
    if "tokens" in BUDGETS[budget]:
        return above_mixture(found.reward, found.tokens, found.group_reward, found.group_tokens)
    num = len(found.reward)
    draws = np.random.default_rng(0).multinomial(num, np.full(num, 1 / num), 1000)
    weight = np.vstack([np.ones(num), draws]) / num
    return weight @ found.reward - ((weight @ found.share) * (weight @ found.group_reward)).sum(1)


def percent(value: float | np.floating[Any]) -> str:
    """In points, one decimal."""
    return f"{100 * float(value):.1f}"


def write_table(folder: Path, seeds: Sequence[int]) -> None:
    """Print the policies beside mixture and oracle, and then what each group does by level; means over seeds."""
    print(
        "| budget | tokens | at once, brief, full, % | accuracy, % | above the mixture, points | "
        "oracle's | oracle's with two groups | of the oracle's gain (worst seed) |\n|---|---|---|---|---|---|---|---|"
    )
    for budget in BUDGETS:
        found = [read_sampled(folder_of(folder, budget, seed)) for seed in seeds]
        gains = [mixture_gain(one, budget) for one in found]
        gain = np.mean(gains, 0)
        low, high = np.quantile(gain[1:], [0.025, 0.975])
        mixture = np.array([one.reward.mean() - own[0] for one, own in zip(found, gains, strict=True)])
        three = np.array([oracle(one, budget, (0, 1, 2)) for one in found]) - mixture
        # Two groups cannot keep a lower bound on the third.
        two = "–"
        if "tokens" in BUDGETS[budget]:
            two = percent((np.array([oracle(one, budget, (0, 2)) for one in found]) - mixture).mean())
        part = np.array([own[0] for own in gains]) / three
        share = np.mean([one.share.mean(0) for one in found], 0)
        print(
            f"| {budget} | {np.mean([one.tokens.mean() for one in found]):.2f} | {', '.join(map(percent, share))} | "
            f"{percent(np.mean([one.reward.mean() for one in found]))} | "
            f"{percent(gain[0])} ({percent(low)} to {percent(high)}) | {percent(three.mean())} | "
            f"{two} | {part.mean():.2f} ({part.min():.2f}) |"
        )
    for budget in BUDGETS:
        found = [read_sampled(folder_of(folder, budget, seed)) for seed in seeds]
        print(f"\n{budget}: forced accuracy and tokens, and the shares the policy chose\n")
        print(f"| level | {' | '.join(NAMES)} | shares, % |\n|---|---|---|---|---|")
        for level in ["all", *digit_sums.MIX]:
            inside = [one.level == level if level != "all" else np.ones(len(one.level), bool) for one in found]
            reward, tokens, share = (
                np.mean([getattr(one, name)[i].mean(0) for one, i in zip(found, inside, strict=True)], 0)
                for name in ("group_reward", "group_tokens", "share")
            )
            cells = " | ".join(f"{percent(r)} % for {t:.1f}" for r, t in zip(reward, tokens, strict=True))
            print(f"| {level} | {cells} | {', '.join(map(percent, share))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cold_start(options.folder)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(run, options.folder, budget, seed) for seed in range(options.seeds) for budget in BUDGETS]
        for job in jobs:
            job.result()
    write_table(options.folder, range(options.seeds))


if __name__ == "__main__":
    main()
