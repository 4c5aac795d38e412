"""GSM8K by a model of 1.5B in three response groups: the choice is trained for budgets, the bodies are frozen.

    python -m benchmarks.gsm8k_choice pack RUNS                     answers, tokens and verdicts of both runs, no texts
    python -m benchmarks.gsm8k_choice states RUNS --model DIR --data DIR      what the model says of the prompts, once
    python -m benchmarks.gsm8k_choice probe RUNS                    is the gain predictable from the states at all?
    python -m benchmarks.gsm8k_choice table --runs RUNS --data DIR --embed-model DIR
    python -m benchmarks.gsm8k_choice table                         by the packed log alone: no policies, no routers

RUNS holds `train` and `test`, runs of `ibpo eval` with `recipes/gsm8k_three_groups.toml` (docs/real-models.md has the
commands); DIR of `--data` the files of github.com/openai/grade-school-math. Rows of the table, each with its standard
error over unseen problems:

    number, brief, steps           always this response group
    oracle                         by each problem's other responses: half of them choose, the other half are judged
    brief x k                      self-consistency: the commonest answer of k brief responses, at the cost of all
    brief, adaptive                as many brief responses as it takes until two agree, four at most
    IBPO sampled, calibrated       `ibpo.training.train_choice`, by its probabilities; or the group that they make
                                   likeliest at a price that keeps the budget on unlabelled prompts
    states                         the regression of gains and tokens on the prompt's states, with a price set likewise
    route, route + encoder         `ibpo.routing.fit_router` on the same responses, with a price set likewise

Responses of a group were sampled once and stand for all policies, as the bodies are frozen: a policy's accuracy is the
expected one, sum_g pi(g | x) (mean reward of the group's responses to x). "Above the mixture" is beside the best random
mixture of the three groups at the same mean tokens (under a budget of a share: at the same share of steps), which knows
nothing of the prompt; intervals by a bootstrap over problems that makes the mixture anew in each draw.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation import allocate, random_mix
from ibpo.config import read_recipe
from ibpo.data import LogColumns
from ibpo.evaluation import read_table
from ibpo.responses import build_response_groups, encode_groups
from ibpo.rollouts import encode_prompt, load_policy
from ibpo.routing import fit_router, open_encoder, read_routed_log, scores_of
from ibpo.tasks import load_given
from ibpo.training import Batch, ChoiceStates, LowerLevel, read_bodies, read_budget, read_states, train_choice
from ibpo.training.lower_level import ridge

FloatArray = NDArray[np.float64]
GROUPS = ("number", "brief", "steps")
RECIPE = Path("recipes/gsm8k_three_groups.toml")
PACKED = Path("benchmarks/data/gsm8k_three_groups.csv.gz")
TEMPERATURE = 0.7
NUM_BODIES = 24
"""Training problems whose responses show the choice where no opening may be likely."""
NUM_UNLABELLED = 600
"""Problems behind the unseen ones in their file, of which only the prompts are read: budgets are held on what is
what is served, and other prompts are a little easier or harder."""
PARTS = (0.25, 0.5, 0.75)
DRAWS = 2000


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
    for split in ("train", "test"):
        table = read_table(runs / split / "responses.jsonl")
        rows = [
            (int(name) - 1, GROUPS.index(str(group)), int(number), int(tokens), f"{reward:g}", str(answer or ""))
            for name, group, number, tokens, reward, answer in zip(
                table.problem, table.configuration, table.number, table.tokens, table.reward, table.answer, strict=True
            )
        ]
        for problem, group, *rest in sorted(rows):
            out.writerow([split, problem, GROUPS[group], *rest])
    PACKED.parent.mkdir(exist_ok=True)
    with open(PACKED, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.write(text.getvalue().encode())
    print(f"{text.getvalue().count(chr(10)) - 1} responses -> {PACKED}, {PACKED.stat().st_size / 1e3:.0f} kB")


def read_packed() -> dict[str, Recorded]:
    """Split -> its responses."""
    with gzip.open(PACKED, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {split: Recorded.of_rows([row for row in rows if row["split"] == split]) for split in ("train", "test")}


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
        "unlabelled": ("test", slice(num_test, num_test + NUM_UNLABELLED)),
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


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A part of the way in tokens from the cheapest group to the most expensive one, or a share of `steps`."""

    name: str
    part: float
    tokens: float | None
    """None: a share."""

    @property
    def entry(self) -> dict[str, float]:
        """As `IBPOConfig.budget` has it."""
        return {"steps": self.part} if self.tokens is None else {"tokens": self.tokens}

    def cost(self, tokens: FloatArray) -> FloatArray:
        """[P, G]: what it counts."""
        return (
            np.broadcast_to(np.arange(len(GROUPS)) == 2, tokens.shape).astype(float) if self.tokens is None else tokens
        )

    @property
    def limit(self) -> float:
        """Per problem."""
        return self.part if self.tokens is None else self.tokens


def budgets_of(train: Recorded) -> list[Budget]:
    """Of the training responses' mean tokens, which are all that is known beforehand."""
    mean = train.means()[1].mean(0)
    found = [Budget(name=f"steps {part:.0%}", part=part, tokens=None) for part in PARTS]
    amounts = [round(float(mean[0] + part * (mean[2] - mean[0])), 1) for part in PARTS]
    return found + [Budget(name=f"tokens {x:.0f}", part=q, tokens=x) for q, x in zip(PARTS, amounts, strict=True)]


def best_at_price(value: FloatArray, cost: FloatArray, price: float) -> FloatArray:
    """One group per problem: value - price x cost at its largest."""
    return np.eye(len(GROUPS))[np.argmax(value - price * cost, 1)]


def priced(value: FloatArray, cost: FloatArray, limit: float) -> float:
    """The price at which the best groups of some prompts keep a budget on them."""
    num_problems, num_groups = value.shape
    problem = np.repeat(np.arange(num_problems), num_groups)
    return float(allocate(value.ravel(), problem, cost.ravel(), limit).price[0])


def held_out_oracle(test: Recorded, budget: Budget) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Half of a problem's responses choose under the budget, the others are what it gets: reward, tokens, steps [P]."""
    halves = [np.arange(test.reward.shape[2])[i::2].tolist() for i in (0, 1)]
    found = []
    for own, other in (halves, halves[::-1]):
        (reward, tokens), (judged, spent) = test.some(own).means(), test.some(other).means()
        problem = np.repeat(np.arange(len(reward)), len(GROUPS))
        weight = allocate(reward.ravel(), problem, budget.cost(tokens).ravel(), budget.limit).weight
        choice = weight.reshape(reward.shape)
        found.append(((choice * judged).sum(1), (choice * spent).sum(1), choice[:, 2].astype(float)))
    reward, tokens, steps = np.mean(found, axis=0)
    return reward, tokens, steps


def self_consistency(test: Recorded, size: int, group: int) -> tuple[FloatArray, FloatArray]:
    """The commonest of `size` answers, ties by order, over all subsets of the responses: reward and tokens [P]."""
    reward, tokens = [], []
    for some in combinations(range(test.reward.shape[2]), size):
        part = test.some(list(some))
        reward.append([_voted(part, i, group, range(size)) for i in range(len(part.reward))])
        tokens.append(part.tokens[:, group].sum(1))
    return np.mean(reward, axis=0), np.mean(tokens, axis=0)


def _voted(test: Recorded, problem: int, group: int, numbers: range) -> float:
    answers = [test.answer[problem, group, k] for k in numbers]
    counted = Counter(answer for answer in answers if answer is not None)
    if not counted:
        return 0.0
    return float(test.reward[problem, group, numbers[answers.index(counted.most_common(1)[0][0])]])


def adaptive_consistency(test: Recorded, group: int) -> tuple[FloatArray, FloatArray]:
    """Responses one after the other until two agree, or all are there: reward and tokens [P], from every first one."""
    size = test.reward.shape[2]
    reward, tokens = np.zeros((2, size, len(test.reward)))
    for first in range(size):
        order = [(first + k) % size for k in range(size)]
        turned = test.some(order)
        for i in range(len(test.reward)):
            answers = turned.answer[i, group]
            used = next(
                (k + 1 for k in range(1, size) if answers[k] is not None and answers[k] in answers[:k].tolist()), size
            )
            reward[first, i] = _voted(turned, i, group, range(used))
            tokens[first, i] = turned.tokens[i, group, :used].sum()
    return reward.mean(0), tokens.mean(0)


# -- the table --------------------------------------------------------------------------------------------------------


def above_mixture(
    reward: FloatArray, cost: FloatArray, group_reward: FloatArray, group_cost: FloatArray, seed: int = 0
) -> tuple[float, tuple[float, float], float]:
    """Mean reward above the best random mixture at the same cost: value, 95 % interval, standard error.

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
    for a, b in permutations(range(len(GROUPS)), 2):
        low, high = mean_cost[:, a], mean_cost[:, b]
        between = (low < high) & (low <= at) & (at <= high)
        part = np.where(between, (at - low) / np.where(low < high, high - low, 1.0), 0.0)
        line = mean_reward[:, a] + part * (mean_reward[:, b] - mean_reward[:, a])
        best = np.where(between, np.maximum(best, line), best)
    # Where nothing is as cheap, the cheapest is what there is.
    cheapest = np.take_along_axis(mean_reward, mean_cost.argmin(1)[:, None], 1)[:, 0]
    above = weight @ reward - np.where(np.isfinite(best), best, cheapest)
    low, high = np.quantile(above[1:], [0.025, 0.975])
    return float(above[0]), (float(low), float(high)), float(above[1:].std())


class Printer:
    """Rows of the table as they come, and as records."""

    def __init__(self, test: Recorded) -> None:
        self.group_reward, self.group_tokens = test.means()
        self.rows = list[dict[str, Any]]()
        print("| | budget | accuracy | tokens | steps | above the mixture (95 %) | in standard errors |")
        print("|---|---|---|---|---|---|---|")

    def add(
        self, name: str, budget: Budget | None, reward: FloatArray, tokens: FloatArray, steps: FloatArray | None = None
    ) -> None:
        """One row, of rewards, tokens and shares of `steps` [P]."""
        cost, group_cost = tokens, self.group_tokens
        if budget is not None and budget.tokens is None and steps is not None:
            cost, group_cost = steps, budget.cost(self.group_tokens)
        above, (low, high), error = above_mixture(reward, cost, self.group_reward, group_cost)
        root = np.sqrt(len(reward))
        share = "" if steps is None else f"{steps.mean():.3f} ± {steps.std() / root:.3f}"
        print(
            f"| {name} | {budget.name if budget else ''} | {reward.mean():.3f} ± {reward.std() / root:.3f} | "
            f"{tokens.mean():.1f} ± {tokens.std() / root:.1f} | {share} | {above:+.3f} ({low:+.3f} to {high:+.3f}) | "
            f"{above / error if error > 1e-9 else 0.0:.1f} |",
            flush=True,
        )
        self.rows.append(
            {"name": name, "budget": budget and budget.name, "accuracy": reward.mean(), "tokens": tokens.mean()}
            | {"accuracy_error": reward.std() / root, "steps": None if steps is None else steps.mean()}
            | {"above": above, "low": low, "high": high}
        )

    def add_choice(self, name: str, budget: Budget | None, choice: FloatArray) -> None:
        """One row, of the probabilities [P, G] of the groups."""
        reward, tokens = (choice * self.group_reward).sum(1), (choice * self.group_tokens).sum(1)
        self.add(name, budget, reward, tokens, choice[:, 2])


def policies(
    train: Recorded, budget: Budget, states: dict[str, ChoiceStates], numbers: list[int], cost: dict[str, FloatArray]
) -> Iterator[tuple[str, FloatArray]]:
    """IBPO's choice on the unseen prompts, sampled and calibrated, trained on these of the responses."""
    some = train.some(numbers)
    problem, group, _ = np.nonzero(~np.isnan(some.reward))
    kept = ~np.isnan(some.reward)
    batch = Batch(
        prompt=problem,
        response_group=group,
        reward=some.reward[kept],
        tokens=some.tokens[kept],
        features=states["train"].features,
    )
    terms = read_budget(budget.entry, list(GROUPS), lambda _: None)
    lower_level = LowerLevel(num_groups=len(GROUPS), budgets=terms, utility="regression", window=1)
    found = train_choice(states["train"], batch, lower_level, states["unlabelled"], states["bodies"])
    shares = {name: states[name].shares(found.delta) for name in ("unlabelled", "test")}
    yield "sampled", shares["test"] / shares["test"].sum(1, keepdims=True)
    # Calibrated: the likeliest group at a price on its expected tokens, or on `steps`.
    likely = {name: np.log(share + 1e-12) for name, share in shares.items()}
    price = priced(likely["unlabelled"], budget.cost(cost["unlabelled"]), budget.limit)
    yield "calibrated", best_at_price(likely["test"], budget.cost(cost["test"]), price)


def regression(train: Recorded, features: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Expected reward and tokens [P, G] on prompts without responses, by the lower level's own regression."""
    nothing = np.full((len(others), len(GROUPS)), np.nan)
    every = np.concatenate([features, others]).astype(np.float32)
    reward, tokens = (ridge(every, np.concatenate([mean, nothing]))[len(features) :] for mean in train.means())
    return reward, np.maximum(tokens, 1.0)


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
    for prompts in (questions["test"][num_test : num_test + NUM_UNLABELLED], questions["test"][:num_test]):
        asked = _as_table(table, prompts)
        scores = scores_of(router, asked, None if encoder is None else encoder.embed(prompts))
        order = [router.groups.index(name) for name in GROUPS]
        found += [scores.gain[:, order], scores.cost[:, order]]
    return found[0], found[1], found[2], found[3]


def _as_table(table: Any, prompts: list[str]) -> Any:
    from dataclasses import replace

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
        rows.add_choice(name, None, np.eye(len(GROUPS))[np.full(len(test.reward), g)])
    for size in range(2, test.reward.shape[2] + 1):
        rows.add(f"brief x {size}", None, *self_consistency(test, size, 1))
    if test.reward.shape[2] > 2:
        rows.add("brief, adaptive", None, *adaptive_consistency(test, 1))
    states = {}
    if runs is not None:
        states = {
            name: ChoiceStates.load(runs / "states" / f"{name}.npz")
            for name in ("train", "unlabelled", "test", "bodies")
        }
    expected: dict[str, FloatArray] = {}
    routers: dict[str, Any] = {}
    if data is not None:
        routers["route"] = routed(train, data, len(test.reward), None)
        if encoder is not None:
            routers["route + encoder"] = routed(train, data, len(test.reward), encoder)
    if states:
        value, cost = regression(
            train, states["train"].features, np.concatenate([states["unlabelled"].features, states["test"].features])
        )
        cut = len(states["unlabelled"].features)
        expected = {"unlabelled": cost[:cut], "test": cost[cut:]}
        routers["states"] = value[:cut], cost[:cut], value[cut:], cost[cut:]
    every = list(range(train.reward.shape[2]))
    for budget in budgets_of(train):
        if test.reward.shape[2] > 1:
            rows.add("oracle", budget, *held_out_oracle(test, budget))
        for name, (gain, tokens, own_gain, own_tokens) in routers.items():
            price = priced(gain, budget.cost(tokens), budget.limit)
            rows.add_choice(name, budget, best_at_price(own_gain, budget.cost(own_tokens), price))
        if states:
            began = time.process_time()
            for seed, numbers in enumerate([every] if len(every) == 1 else [every, *([k] for k in every)]):
                of = "" if not seed else f", response {seed} alone"
                for how, choice in policies(train, budget, states, numbers, expected):
                    rows.add_choice(f"IBPO {how}{of}", budget, choice)
            print(f"<!-- {time.process_time() - began:.0f} CPU s -->")
    if out is not None:
        out.write_text(json.dumps(rows.rows, indent=1) + "\n")
        draw(rows.rows, out.with_suffix(".png"))


def probe(runs: Path, folds: int = 5, seed: int = 0) -> None:
    """What part of the variance of rewards and gains the training prompts' states explain, on problems left out."""
    features = ChoiceStates.load(runs / "states" / "train.npz").features.astype(np.float32)
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
        return [row for row in rows if row["name"] == name and str(row["budget"]).startswith("tokens")]

    alone = {row["name"]: row for row in rows if row["budget"] is None}
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
    else:
        table(options.runs, options.data, options.embed_model, options.out)


if __name__ == "__main__":
    main()
