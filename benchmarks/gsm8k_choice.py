"""GSM8K by a model of 1.5B in three response groups: the choice is trained for budgets, the bodies are frozen.

    python -m benchmarks.gsm8k_choice pack RUNS                     answers, tokens and verdicts of both runs, no texts
    python -m benchmarks.gsm8k_choice states RUNS --model DIR --data DIR      what the model says of the prompts, once
    python -m benchmarks.gsm8k_choice probe RUNS                    is the gain predictable from the states at all?
    python -m benchmarks.gsm8k_choice policy RUNS --model DIR --under "tokens 41.5" --out DIR      a model to be served
    python -m benchmarks.gsm8k_choice served RUNS --model DIR --policy DIR    does it write what was to be expected?
    python -m benchmarks.gsm8k_choice table --runs RUNS --data DIR --embed-model DIR
    python -m benchmarks.gsm8k_choice table                         by the packed log alone: no policies, no routers

RUNS holds `train` and `test`, runs of `ibpo eval` with `recipes/gsm8k_three_groups.toml` (commands:
docs/how-to/real-models.md), and may hold `turns` and `debate`, the same with `--also`, and `served`, of the policy that
`policy` wrote. DIR of `--data` holds the files of github.com/openai/grade-school-math.
Rows of the table, each with its standard error over unseen problems:

    number, brief, steps           always this response group
    oracle                         by each problem's other responses: half of them choose, the other half are judged
    brief x k, steps x k           self-consistency: the commonest answer of k responses, at the cost of all
    brief, adaptive; steps, ...    as many responses as it takes until two agree (where there are three and more)
    steps, corrected (...)         more than one turn (`ibpo.evaluation.dialogues`), at the cost of all turns
    IBPO sampled, calibrated       `ibpo.training.train_choice`, by its probabilities; or the group that they make
                                   likeliest at a price that keeps the budget on unlabelled prompts
    IBPO served                    the policy that `policy` writes, as vLLM serves it and nobody forces its responses
    states                         the regression of gains and tokens on the prompt's states, with a price set likewise
    route, route + encoder         `ibpo.routing.fit_router` on the same responses, with a price set likewise

Responses of a group were sampled once and stand for all policies, as the bodies are frozen: a policy's accuracy is the
expected one, sum_g pi(g | x) (mean reward of the group's responses to x). "Above the mixture" is beside the best random
mixture of the three groups at the same mean tokens (under a budget of a share: at the same share of steps), which knows
nothing of the prompt; intervals by a bootstrap over problems that makes the mixture anew in each draw. Last, by the
same draws, how much further IBPO is above the mixture than each router.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.votes import adaptive_votes, consensus
from ibpo.allocation import allocate, random_mix
from ibpo.config import read_recipe
from ibpo.data import LogColumns
from ibpo.evaluation import read_table
from ibpo.evaluation.metrics import majority_accuracy
from ibpo.responses import build_response_groups, encode_groups, find_group
from ibpo.rollouts import encode_prompt, load_policy
from ibpo.routing import fit_router, open_encoder, read_routed_log, scores_of
from ibpo.tasks import load_given
from ibpo.training import (
    Batch,
    ChoiceStates,
    LowerLevel,
    TrainedChoice,
    choose_by_rows,
    read_bodies,
    read_budget,
    read_states,
    train_choice,
)
from ibpo.training.budgets import BudgetTerm
from ibpo.training.lower_level import ridge

FloatArray = NDArray[np.float64]
GROUPS = ("number", "brief", "steps")
RECIPE = Path("recipes/gsm8k_three_groups.toml")
PACKED = Path("benchmarks/data/gsm8k_three_groups.csv.gz")
TEMPERATURE = 0.7
NUM_BODIES = 100
"""Training problems whose responses show the choice what has to stay as it is."""
PARTS = (0.25, 0.5, 0.75)
DRAWS = 2000
SERVED = "tokens 41.5"
"""The budget of the policy that was served."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Responses to P problems, S of each group at most; NaN, and no answer, where there is none."""

    reward: FloatArray
    """[P, G, S]."""
    tokens: FloatArray
    answer: NDArray[np.object_]

    @classmethod
    def of_rows(cls, rows: list[dict[str, Any]]) -> Recorded:
        """From the rows of the packed log, of one split."""
        shape = tuple(1 + max(int(row[name]) for row in rows) for name in ("problem", "number"))
        reward, tokens = np.full((2, shape[0], len(GROUPS), shape[1]), np.nan)
        answer = np.full(reward.shape, None, object)
        for row in rows:
            at = int(row["problem"]), GROUPS.index(row["group"]), int(row["number"])
            reward[at], tokens[at], answer[at] = float(row["reward"]), float(row["tokens"]), row["answer"] or None
        return cls(reward=reward, tokens=tokens, answer=answer)

    def some(self, numbers: list[int]) -> Recorded:
        """Only these of each group's responses."""
        return Recorded(
            reward=self.reward[..., numbers], tokens=self.tokens[..., numbers], answer=self.answer[..., numbers]
        )

    def means(self) -> tuple[FloatArray, FloatArray]:
        """Mean reward and tokens, [P, G] each."""
        return np.nanmean(self.reward, 2), np.nanmean(self.tokens, 2)


def pack(runs: Path) -> None:
    """The compact log: split, problem (the row of its file), group, number, tokens, reward, answer."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["split", "problem", "group", "number", "tokens", "reward", "answer"])
    folders_of = {"train": ("train",), "test": ("test", "turns", "debate"), "served": ("served",)}
    for split, folders in folders_of.items():
        rows = list[tuple[Any, ...]]()
        for folder in folders:
            if not (path := runs / folder / "responses.jsonl").exists():
                continue
            table = read_table(path)
            groups = table.configuration
            if split == "served":  # asked without any response group: its text says which
                known = build_response_groups(read_recipe(RECIPE).response_group)
                opened = [find_group(str(text), known) for text in table.completion]
                groups = np.array([group.name if group else "none" for group in opened])
            columns = (table.problem, groups, table.number, table.tokens, table.reward, table.answer)
            for name, group, number, tokens, reward, answer in zip(*columns, strict=True):
                if folder == split or ", " in group:  # the first turns are those of `test`
                    order = (*GROUPS, group).index(group)
                    rows.append((int(name) - 1, order, group, int(number), int(tokens), f"{reward:g}", answer or ""))
        for problem, _, *rest in sorted(rows):
            out.writerow([split, problem, *rest])
    PACKED.parent.mkdir(exist_ok=True)
    with open(PACKED, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.write(text.getvalue().encode())
    print(f"{text.getvalue().count(chr(10)) - 1} responses -> {PACKED}, {PACKED.stat().st_size / 1e3:.0f} kB")


def read_packed() -> dict[str, Recorded]:
    """Split -> its responses."""
    rows = [row for row in _packed_rows() if row["group"] in GROUPS and row["split"] != "served"]
    return {split: Recorded.of_rows([row for row in rows if row["split"] == split]) for split in ("train", "test")}


def read_dialogues() -> dict[str, tuple[FloatArray, FloatArray]]:
    """Ways of more than one turn on the unseen problems -> mean reward and tokens of each problem's dialogues [P]."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for row in _packed_rows():
        if row["group"] not in GROUPS and row["split"] != "served":
            own = found.setdefault(row["group"], {}).setdefault(int(row["problem"]), [])
            own.append((float(row["reward"]), float(row["tokens"])))
    means = {name: np.array([np.mean(by[i], 0) for i in sorted(by)]) for name, by in sorted(found.items())}
    return {name: (mean[:, 0], mean[:, 1]) for name, mean in means.items()}


def read_served() -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Mean reward, tokens and share of `steps` of what the served policy wrote to each unseen problem [P]."""
    found: dict[int, list[tuple[float, float, float]]] = {}
    for row in _packed_rows():
        if row["split"] == "served":
            own = found.setdefault(int(row["problem"]), [])
            own.append((float(row["reward"]), float(row["tokens"]), float(row["group"] == GROUPS[2])))
    if not found:
        return None
    mean = np.array([np.mean(found[i], 0) for i in sorted(found)])
    return mean[:, 0], mean[:, 1], mean[:, 2]


def _packed_rows() -> list[dict[str, Any]]:
    with gzip.open(PACKED, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def prompts_of(data: Path, split: str, numbers: slice) -> list[Any]:
    """The problems' chats, as the recipe writes them."""
    config = read_recipe(RECIPE, [f"data.path={data / split}.jsonl"])
    return [problem.prompt for problem in load_given(config.data)[1]][numbers]


def write_states(runs: Path, model_path: Path, data: Path) -> None:
    """What the model says of the training, unlabelled and unseen prompts, and within some bodies."""
    began, spent = time.time(), time.process_time()
    model, tokenizer = load_policy(str(model_path), dtype="bfloat16")
    groups = encode_groups(build_response_groups(read_recipe(RECIPE).response_group), tokenizer)
    packed = read_packed()
    num_train, num_test = (len(packed[split].reward) for split in ("train", "test"))
    wanted = {
        "train": ("train", slice(num_train)),
        # The rest of the test file, of which only the prompts are read; the training file's are of another mix.
        "unlabelled": ("test", slice(num_test, None)),
        "test": ("test", slice(num_test)),
    }
    (runs / "states").mkdir(exist_ok=True)
    for name, (split, numbers) in wanted.items():
        path = runs / "states" / f"{name}.npz"
        if not path.exists():
            prompts = [encode_prompt(tokenizer, prompt) for prompt in prompts_of(data, split, numbers)]
            read_states(model, tokenizer, prompts, groups, TEMPERATURE).save(path)
        print(f"{path}: {time.time() - began:.0f} s, {time.process_time() - spent:.0f} CPU s so far", flush=True)
    path = runs / "states" / "bodies.npz"
    if not path.exists():
        prompts = [encode_prompt(tokenizer, prompt) for prompt in prompts_of(data, "train", slice(NUM_BODIES))]
        table = read_table(runs / "train" / "responses.jsonl")
        keep = [i for i in range(len(table)) if int(table.problem[i]) <= NUM_BODIES and table.number[i] == 0]
        asked = [prompts[int(str(table.problem[i])) - 1] for i in keep]
        texts: Any = [tokenizer(table.completion[i], add_special_tokens=False)["input_ids"] for i in keep]
        written = [[*ids, tokenizer.eos_token_id] for ids in texts]
        read_bodies(model, tokenizer, asked, written, groups, TEMPERATURE).save(path)
    print(f"{path}: {time.time() - began:.0f} s, {time.process_time() - spent:.0f} CPU s", flush=True)


# -- choices: [P, G] probabilities of the groups ----------------------------------------------------------------------


def budgets_of(train: Recorded) -> dict[str, BudgetTerm]:
    """Shares of `steps`, and tokens by the training responses' means, which are all that is known beforehand."""
    mean = train.means()[1].mean(0)
    amounts = [round(float(mean[0] + part * (mean[2] - mean[0])), 1) for part in PARTS]
    asked = {f"steps {part:.0%}": {"steps": part} for part in PARTS} | {f"tokens {x}": {"tokens": x} for x in amounts}
    return {name: read_budget(entry, list(GROUPS), lambda _: None)[0] for name, entry in asked.items()}


def cost_of(budget: BudgetTerm, tokens: FloatArray) -> FloatArray:
    """[P, G]: what the budget counts, for expected tokens [P, G]."""
    if budget.group is None:
        return tokens
    return np.broadcast_to(np.arange(len(GROUPS)) == budget.group, tokens.shape).astype(float)


def best_at_price(value: FloatArray, cost: FloatArray, price: float) -> FloatArray:
    """One group per problem: value - price x cost at its largest."""
    return np.eye(len(GROUPS))[np.argmax(value - price * cost, 1)]


def priced(value: FloatArray, cost: FloatArray, budget: BudgetTerm) -> float:
    """The price at which the best groups of some prompts keep a budget on them."""
    num_problems, num_groups = value.shape
    problem = np.repeat(np.arange(num_problems), num_groups)
    return float(allocate(value.ravel(), problem, cost.ravel(), budget.amount).price[0])


def held_out_oracle(test: Recorded, budget: BudgetTerm) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Half of a problem's responses choose under the budget, the others are what it gets: reward, tokens, steps [P]."""
    halves = [np.arange(test.reward.shape[2])[i::2].tolist() for i in (0, 1)]
    found = []
    for own, other in (halves, halves[::-1]):
        (reward, tokens), (judged, spent) = test.some(own).means(), test.some(other).means()
        problem = np.repeat(np.arange(len(reward)), len(GROUPS))
        weight = allocate(reward.ravel(), problem, cost_of(budget, tokens).ravel(), budget.amount).weight
        choice = weight.reshape(reward.shape)
        found.append(((choice * judged).sum(1), (choice * spent).sum(1), choice[:, 2].astype(float)))
    reward, tokens, steps = np.mean(found, axis=0)
    return reward, tokens, steps


# -- the table --------------------------------------------------------------------------------------------------------


def above_mixture(
    reward: FloatArray, cost: FloatArray, group_reward: FloatArray, group_cost: FloatArray, seed: int = 0
) -> FloatArray:
    """Mean reward above the best random mixture at the same cost, and the same of `DRAWS` draws of the problems.

    Args:
        reward: [P] of a policy.
        cost: [P].
        group_reward: [P, G].
        group_cost: [P, G].
        seed: of the bootstrap.
    """
    num = len(reward)
    weight = np.vstack([np.ones(num), np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), DRAWS)]) / num
    at, mean_reward, mean_cost = weight @ cost, weight @ group_reward, weight @ group_cost
    # Alone where it fits, and on the lines between a cheaper and a more expensive one.
    best = np.where(mean_cost <= at[:, None] + 1e-9, mean_reward, -np.inf).max(1)
    for a, b in permutations(range(mean_cost.shape[1]), 2):
        low, high = mean_cost[:, a], mean_cost[:, b]
        between = (low < high) & (low <= at) & (at <= high)
        part = np.where(between, (at - low) / np.where(low < high, high - low, 1.0), 0.0)
        line = mean_reward[:, a] + part * (mean_reward[:, b] - mean_reward[:, a])
        best = np.where(between, np.maximum(best, line), best)
    # Where nothing is as cheap, the cheapest is what there is.
    cheapest = np.take_along_axis(mean_reward, mean_cost.argmin(1)[:, None], 1)[:, 0]
    return weight @ reward - np.where(np.isfinite(best), best, cheapest)


def interval(drawn: FloatArray) -> str:
    """A value, with the 95 % interval of its draws."""
    low, high = np.quantile(drawn[1:], [0.025, 0.975])
    return f"{drawn[0]:+.3f} ({low:+.3f} to {high:+.3f})"


class Printer:
    """Rows of the table as they come, and as records."""

    def __init__(self, test: Recorded) -> None:
        self.group_reward, self.group_tokens = test.means()
        self.rows = list[dict[str, Any]]()
        self.above: dict[tuple[str, str], FloatArray] = {}
        print("| | budget | accuracy | tokens | steps | above the mixture (95 %) | in standard errors |")
        print("|---|---|---|---|---|---|---|")

    def add(
        self,
        name: str,
        reward: FloatArray,
        tokens: FloatArray,
        steps: FloatArray | None = None,
        under: str = "",
        budget: BudgetTerm | None = None,
    ) -> None:
        """One row, of rewards, tokens and shares of `steps`, of all problems or of the first [P]."""
        group_reward, group_tokens = self.group_reward[: len(reward)], self.group_tokens[: len(reward)]
        cost, group_cost = tokens, group_tokens
        if budget is not None and budget.group is not None and steps is not None:
            cost, group_cost = steps, cost_of(budget, group_tokens)
        above = above_mixture(reward, cost, group_reward, group_cost)
        root, error = np.sqrt(len(reward)), above[1:].std()
        share = "" if steps is None else f"{steps.mean():.3f} ± {steps.std() / root:.3f}"
        print(
            f"| {name} | {under} | {reward.mean():.3f} ± {reward.std() / root:.3f} | "
            f"{tokens.mean():.1f} ± {tokens.std() / root:.1f} | {share} | {interval(above)} | "
            f"{above[0] / error if error > 1e-9 else 0.0:.1f} |",
            flush=True,
        )
        self.above[name, under] = above
        low, high = np.quantile(above[1:], [0.025, 0.975])
        self.rows.append(
            {"name": name, "budget": under, "accuracy": reward.mean(), "tokens": tokens.mean()}
            | {"accuracy_error": reward.std() / root, "steps": None if steps is None else steps.mean()}
            | {"above": above[0], "low": low, "high": high}
        )

    def add_choice(self, name: str, choice: FloatArray, under: str = "", budget: BudgetTerm | None = None) -> None:
        """One row, of the probabilities [P, G] of the groups."""
        reward, tokens = (choice * self.group_reward).sum(1), (choice * self.group_tokens).sum(1)
        self.add(name, reward, tokens, choice[:, 2], under, budget)

    def compare(self, own: str, others: Sequence[str]) -> None:
        """How much further one is above the mixture than others, budget by budget."""
        unders = [under for name, under in self.above if name == own]
        print(f"\n| {own} less | {' | '.join(unders)} |\n|---|{'---|' * len(unders)}")
        for other in others:
            found = [interval(self.above[own, under] - self.above[other, under]) for under in unders]
            print(f"| {other} | {' | '.join(found)} |")


def policies(train: Recorded, budget: BudgetTerm, states: dict[str, ChoiceStates]) -> Iterator[tuple[str, FloatArray]]:
    """IBPO's choice on the unseen prompts, sampled and calibrated."""
    found = trained(train, budget, states)
    shares = {name: states[name].shares(found.delta) for name in ("unlabelled", "test")}
    yield "sampled", shares["test"] / shares["test"].sum(1, keepdims=True)
    # Calibrated: the likeliest group at a price on its expected tokens, or on `steps`.
    likely = {name: np.log(share + 1e-12) for name, share in shares.items()}
    _, before, _, own = regression(train, states)
    price = priced(likely["unlabelled"], cost_of(budget, before), budget)
    yield "calibrated", best_at_price(likely["test"], cost_of(budget, own), price)


def trained(train: Recorded, budget: BudgetTerm, states: dict[str, ChoiceStates]) -> TrainedChoice:
    """The choice, as `ibpo.training.train_choice` makes it for one budget."""
    kept = ~np.isnan(train.reward)
    problem, group, _ = np.nonzero(kept)
    batch = Batch(
        prompt=problem,
        response_group=group,
        reward=train.reward[kept],
        tokens=train.tokens[kept],
        features=states["train"].features,
    )
    lower_level = LowerLevel(num_groups=len(GROUPS), budgets=[budget], utility="regression", window=1)
    return train_choice(states["train"], batch, lower_level, states["unlabelled"], states["bodies"])


def write_policy(runs: Path, model_path: Path, under: str, out: Path) -> None:
    """A plain model that chooses under one of the table's budgets."""
    model, tokenizer = load_policy(str(model_path), dtype="bfloat16")
    train = read_packed()["train"]
    found = trained(train, budgets_of(train)[under], read_all_states(runs))
    choose_by_rows(
        model, encode_groups(build_response_groups(read_recipe(RECIPE).response_group), tokenizer), found.delta
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{under}: shares {found.share.round(4).tolist()}, {found.tokens:.1f} tokens expected -> {out}")


def compare_served(runs: Path, model_path: Path, policy_path: Path) -> None:
    """What the served policy wrote, less what its choice and the recorded responses let expect, problem by problem."""
    from safetensors import safe_open
    from transformers import AutoTokenizer

    groups = encode_groups(
        build_response_groups(read_recipe(RECIPE).response_group), AutoTokenizer.from_pretrained(model_path)
    )
    first = [prefix[0] for prefix in groups.prefix_ids]
    rows = []
    for path in (model_path, policy_path):
        with safe_open(path / "model.safetensors", "pt") as file:
            rows.append(file.get_tensor("lm_head.weight")[first].double().numpy())
    states, served = read_all_states(runs), read_served()
    assert served is not None, "no responses of a served policy in the packed log"
    delta, size = rows[1] - rows[0], len(served[0])
    share = states["test"].shares(delta)[:size]
    share /= share.sum(1, keepdims=True)
    for name, wrote, recorded in zip(("right", "tokens"), served, read_packed()["test"].means(), strict=False):
        expected = (share * recorded[:size]).sum(1)
        less, error = (wrote - expected).mean(), (wrote - expected).std() / np.sqrt(size)
        print(f"{name}: {wrote.mean():.3f}, expected {expected.mean():.3f}, difference {less:+.3f} ± {error:.3f}")
    moved = np.abs(states["bodies"].shares(delta) - states["bodies"].shares()).max(1) > 0.05
    print(f"{moved.sum()} of {len(moved)} tokens within responses have an opening more or less likely by .05")


def read_all_states(runs: Path) -> dict[str, ChoiceStates]:
    """What `states` has written."""
    names = ("train", "unlabelled", "test", "bodies")
    return {name: ChoiceStates.load(runs / "states" / f"{name}.npz") for name in names}


def regression(
    train: Recorded, states: dict[str, ChoiceStates]
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """As `routed`, by the lower level's own regression on the prompts' states."""
    every = np.concatenate([states[name].features for name in ("train", "unlabelled", "test")]).astype(np.float32)
    first, last = len(train.reward), len(states["test"].rest)
    nothing = np.full((len(every) - first, len(GROUPS)), np.nan)
    reward, tokens = (ridge(every, np.concatenate([mean, nothing]))[first:] for mean in train.means())
    tokens = np.maximum(tokens, 1.0)
    return reward[:-last], tokens[:-last], reward[-last:], tokens[-last:]


def routed(
    train: Recorded, data: Path, num_test: int, encoder_path: Path | None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """A router's expected reward and tokens [P, G] of the unlabelled and of the unseen prompts."""
    questions = {split: _questions(data, split) for split in ("train", "test")}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        with log.open("w", encoding="utf-8") as file:
            for i, g, s in zip(*np.nonzero(~np.isnan(train.reward)), strict=True):
                row = {"problem_id": f"{i:05d}", "prompt": questions["train"][i], "response_group": GROUPS[g]}
                row |= {"reward": float(train.reward[i, g, s]), "tokens": float(train.tokens[i, g, s])}
                file.write(json.dumps(row) + "\n")
        table = read_routed_log(log, columns=LogColumns())
    encoder = None if encoder_path is None else open_encoder(encoder_path)
    embedded = None if encoder is None else encoder.embed(table.prompts)
    router = fit_router(table, embedded=embedded, embedding=None if embedded is None else {"model": "encoder"})
    found = []
    for prompts in (questions["test"][num_test:], questions["test"][:num_test]):
        asked = _as_table(table, prompts)
        scores = scores_of(router, asked, None if encoder is None else encoder.embed(prompts))
        order = [router.groups.index(name) for name in GROUPS]
        found += [scores.gain[:, order], scores.cost[:, order]]
    return found[0], found[1], found[2], found[3]


def _as_table(table: Any, prompts: list[str]) -> Any:
    blank = np.zeros((len(prompts), len(GROUPS)))
    return replace(
        table, problems=[str(i) for i in range(len(prompts))], prompts=prompts, reward=blank, cost=blank, count=blank
    )


def _questions(data: Path, split: str) -> list[str]:
    return [json.loads(line)["question"] for line in (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def table(runs: Path | None, data: Path | None, encoder: Path | None, out: Path | None) -> None:
    """Everything, in the order of the module's text."""
    packed = read_packed()
    train, test = packed["train"], packed["test"]
    print(
        f"{len(train.reward)} problems to train on, {np.isfinite(train.reward).sum()} responses; {len(test.reward)} "
        f"unseen ones, {np.isfinite(test.reward).sum()} responses\n"
    )
    rows = Printer(test)
    for g, name in enumerate(GROUPS):
        rows.add_choice(name, np.eye(len(GROUPS))[np.full(len(test.reward), g)])
    num_responses = test.reward.shape[2]
    for g, name in ((1, "brief"), (2, "steps")):
        answers, right, tokens = test.answer[:, g], test.reward[:, g], test.tokens[:, g]
        for k in range(2, num_responses + 1):
            rows.add(f"{name} x {k}", majority_accuracy(answers, right, k), k * tokens.mean(1))
        if num_responses > 2:
            rows.add(f"{name}, adaptive", *adaptive_votes(answers, right, tokens, consensus(2)))
    for name, (right, tokens) in read_dialogues().items():
        rows.add(name, right, tokens, under=f"first {len(right)}" if len(right) < len(test.reward) else "")
    states = {} if runs is None else read_all_states(runs)
    routers: dict[str, tuple[FloatArray, FloatArray, FloatArray, FloatArray]] = {}
    if data is not None:
        routers["route"] = routed(train, data, len(test.reward), None)
        if encoder is not None:
            routers["route + encoder"] = routed(train, data, len(test.reward), encoder)
    if states:
        routers["states"] = regression(train, states)
    seeds = {"": train}
    if (size := train.reward.shape[2]) > 1:
        seeds |= {f", response {k + 1} alone": train.some([k]) for k in range(size)}
    for under, budget in budgets_of(train).items():
        if num_responses > 1:
            rows.add("oracle", *held_out_oracle(test, budget), under, budget)
        for name, (gain, tokens, own_gain, own_tokens) in routers.items():
            price = priced(gain, cost_of(budget, tokens), budget)
            rows.add_choice(name, best_at_price(own_gain, cost_of(budget, own_tokens), price), under, budget)
        for of, some in seeds.items() if states else ():
            began = time.process_time()
            for how, choice in policies(some, budget, states):
                rows.add_choice(f"IBPO {how}{of}", choice, under, budget)
            print(f"<!-- {time.process_time() - began:.0f} CPU s -->")
    if states:
        for how in ("sampled", "calibrated"):
            rows.compare(f"IBPO {how}", list(routers))
    if (served := read_served()) is not None:
        rows.add("IBPO served", *served, f"{SERVED}, first {len(served[0])}")
    if out is not None:
        out.write_text(json.dumps(rows.rows, indent=1) + "\n")
        draw(rows.rows, out.with_suffix(".png"))


def probe(runs: Path, folds: int = 5, seed: int = 0) -> None:
    """What part of the variance of rewards and gains the training prompts' states explain, on problems left out."""
    states = ChoiceStates.load(runs / "states" / "train.npz")
    opened = ", ".join(f"{name} {share:.3f}" for name, share in zip(GROUPS, states.shares().mean(0), strict=True))
    print(f"before any training a response opens as {opened}, else as none")
    features = states.features.astype(np.float32)
    reward = read_packed()["train"].means()[0]
    fold = np.random.default_rng(seed).permutation(len(reward)) % folds
    targets = {name: reward[:, g] for g, name in enumerate(GROUPS)}
    targets |= {f"{GROUPS[a]} - {GROUPS[b]}": reward[:, a] - reward[:, b] for a, b in ((1, 0), (2, 0), (2, 1))}
    for name, target in targets.items():
        fitted = np.zeros(len(target))
        for k in range(folds):
            fitted[fold == k] = ridge(features, np.where(fold == k, np.nan, target))[fold == k]
        explained = 1 - ((target - fitted) ** 2).mean() / target.var()
        top = np.argsort(-fitted)[: len(target) // 2]
        print(f"{name}: explained {explained:+.3f}; mean {target.mean():.3f}, of the half expected to be larger "
              f"{target[top].mean():.3f}")  # fmt: skip


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against tokens: budgets of tokens, and what needs none."""
    from matplotlib.figure import Figure

    def curve(name: str) -> list[dict[str, Any]]:
        return [row for row in rows if row["name"] == name and row["budget"].startswith("tokens")]

    alone = {row["name"]: row for row in rows if not row["budget"]}
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    groups = [alone[name] for name in GROUPS]
    at = np.linspace(groups[0]["tokens"], groups[-1]["tokens"], 200)
    cost, reward = (np.array([row[key] for row in groups]) for key in ("tokens", "accuracy"))
    mixed = [float(random_mix(cost, reward, x)[0] @ reward) for x in at.tolist()]
    axes.plot(at, mixed, "--", color="#8a8a8a", label="best random mixture")
    votes = [alone["brief"], *(row for name, row in alone.items() if name.startswith("brief x"))]
    lines = (("self-consistency of brief", votes, "D:", "#cc79a7"), ("route fit", curve("route"), "v-", "#e69f00"),
             ("oracle, held out", curve("oracle"), "o:", "#222222"),
             ("IBPO sampled", curve("IBPO sampled"), "s-", "#009e73"),
             ("IBPO calibrated", curve("IBPO calibrated"), "P-", "#d55e00"))  # fmt: skip
    for label, found, style, colour in lines:
        shown = [row for row in found if row["tokens"] <= 1.3 * groups[-1]["tokens"]]
        if shown:
            x, y, error = ([row[key] for row in shown] for key in ("tokens", "accuracy", "accuracy_error"))
            axes.errorbar(x, y, yerr=error, fmt=style, color=colour, capsize=2, label=label)
    x, y, error = ([row[key] for row in groups] for key in ("tokens", "accuracy", "accuracy_error"))
    axes.errorbar(x, y, yerr=error, fmt="s", color="#8a8a8a", capsize=2)
    for row in groups:
        axes.annotate(row["name"], (row["tokens"], row["accuracy"]), xytext=(5, -13), textcoords="offset points")
    axes.set(
        xlabel="tokens a problem", ylabel="accuracy", title="GSM8K, Qwen2.5-Coder-1.5B-Instruct, three response groups"
    )
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("pack").add_argument("runs", type=Path)
    what.add_parser("probe").add_argument("runs", type=Path)
    states = what.add_parser("states")
    states.add_argument("runs", type=Path)
    states.add_argument("--model", type=Path, required=True)
    states.add_argument("--data", type=Path, required=True)
    policy = what.add_parser("policy")
    policy.add_argument("runs", type=Path)
    policy.add_argument("--model", type=Path, required=True)
    policy.add_argument("--under", default=SERVED)
    policy.add_argument("--out", type=Path, required=True)
    compared = what.add_parser("served")
    compared.add_argument("runs", type=Path)
    compared.add_argument("--model", type=Path, required=True)
    compared.add_argument("--policy", type=Path, required=True)
    shown = what.add_parser("table")
    for name in ("--runs", "--data", "--embed-model", "--out"):
        shown.add_argument(name, type=Path)
    options = parser.parse_args()
    if options.what == "pack":
        pack(options.runs)
    elif options.what == "probe":
        probe(options.runs)
    elif options.what == "states":
        write_states(options.runs, options.model, options.data)
    elif options.what == "policy":
        write_policy(options.runs, options.model, options.under, options.out)
    elif options.what == "served":
        compare_served(options.runs, options.model, options.policy)
    else:
        table(options.runs, options.data, options.embed_model, options.out)


if __name__ == "__main__":
    main()
