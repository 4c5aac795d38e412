"""What IBPO adds to a step of plain GRPO on the same rollouts, and the lower level's own time.

    python benchmarks/trainer_overhead.py [--prompts 32] [--siblings 8] [--steps 20]
    git worktree add --detach ../ibpo-before 13baf26
    python benchmarks/trainer_overhead.py --base ../ibpo-before --turns 5

The embedded *thinking* model. A recorded set of rollouts is given to three trainers, step by step in turn (interleaved,
so that a busy machine slows all alike):

    grpo       trl.GRPOTrainer, its own advantages, every response in the update
    ibpo       IBPOTrainer as the paper has it: margins, all responses' rewards, no KL penalty, no features
    ibpo full  IBPOTrainer with its defaults: regression on the prompts' features, KL penalty

Prints the median seconds of a step after sampling, the difference to grpo in percent of a whole step (with sampling,
measured once per step for all), and then the lower level alone at 32 x 8 and 4,096 x 16. IBPO trains on the chosen
responses only, so its step may well be shorter: the last column says what scoring, allocation and bookkeeping cost.

With `--base` another thing: CPU seconds of an update of the demo's own *thinking* policy (sampling of 128 responses,
scoring, allocation, the step) here and in another checkout, in turn. A process each trains for 10 and for 50 updates;
what is between them, by 40, is an update.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from ibpo.demo import THINKING, model_path
from ibpo.rewards import exact_match
from ibpo.rollouts import HFSampler
from ibpo.tasks import distinct
from ibpo.training import Batch, IBPOConfig, IBPOTrainer, LowerLevel, read_budget

PATH = model_path("thinking", "cold_start")


def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    return [
        max(exact_match(group.extract_answer(text), gold) for group in THINKING.response_groups)
        for text, gold in zip(completions, answer, strict=True)
    ]


class Clock:
    """Times what a trainer does beside sampling, one step at a time."""

    def __init__(self, trainer: Any, rollouts: list[list[list[int]]]) -> None:
        self.trainer, self.rollouts, self.seconds = trainer, rollouts, []
        self.bookkeeping: list[float] = []
        trainer.rollout_func = self._recorded
        self.model = trainer.model
        trainer.create_optimizer()
        self.data = list(trainer.train_dataset)

    def _recorded(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
        if isinstance(trainer, IBPOTrainer):
            trainer.handover.prompt_ids = ids
        return {"prompt_ids": ids, "completion_ids": [list(x) for x in self.rollouts[self.step]], "logprobs": None}

    def run(self, step: int) -> None:
        trainer, self.step = self.trainer, step
        siblings = trainer.num_generations
        prompts = len(self.rollouts[step]) // siblings
        rows = [dict(row) for row in self.data[step * prompts : (step + 1) * prompts] for _ in range(siblings)]
        trainer.model.train()
        trainer.state.global_step, trainer.state.max_steps = step, len(self.rollouts)
        trainer.current_gradient_accumulation_steps = 1
        began = time.perf_counter()
        batch = trainer._generate_and_score_completions(rows)
        scored = time.perf_counter()
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        self.seconds.append(time.perf_counter() - began)
        self.bookkeeping.append(scored - began)


def make(kind: str, folder: Path, prompts: int, siblings: int, steps: int) -> Any:
    options: dict[str, Any] = {
        "output_dir": str(folder / kind),
        "per_device_train_batch_size": prompts * siblings,
        "num_generations": siblings,
        "max_completion_length": THINKING.max_completion_length,
        "max_steps": steps,
        "learning_rate": 1e-6,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "loss_type": "dr_grpo",
    }
    rows = [
        {"prompt": p.prompt, "answer": p.answer, "problem_id": p.problem_id, "level": p.level}
        for p in distinct(THINKING.task, "train", prompts * steps, seed=0)
    ]
    tokenizer = AutoTokenizer.from_pretrained(PATH)
    common: dict[str, Any] = {
        "model": AutoModelForCausalLM.from_pretrained(PATH, dtype=torch.float32),
        "reward_funcs": reward,
        "train_dataset": Dataset.from_list(rows),
        "processing_class": tokenizer,
    }
    if kind == "grpo":
        return GRPOTrainer(args=GRPOConfig(**options), rollout_func=lambda prompts, trainer: {}, **common)
    more = {} if kind == "ibpo full" else {"utility": "margin", "kl_share": 0.0}
    log = str(folder / f"{kind}-log")
    args = IBPOConfig(budget={"extended": 0.5}, rollout_log_dir=log, **options, **more)
    return IBPOTrainer(response_groups=list(THINKING.response_groups), args=args, **common)


def step_times(prompts: int, siblings: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainers = {kind: make(kind, Path(folder), prompts, siblings, steps) for kind in ("grpo", "ibpo", "ibpo full")}
        teacher = trainers["ibpo"]
        sampler = HFSampler(
            teacher.model, teacher.processing_class, max_completion_length=teacher.max_completion_length
        )
        rows = list(teacher.train_dataset)
        torch.manual_seed(0)
        rollouts, sampling = [], []
        for step in range(steps):
            began = time.perf_counter()
            asked = [rows[step * prompts + i // siblings]["prompt"] for i in range(prompts * siblings)]
            ids = [teacher.processing_class(text)["input_ids"] for text in asked]
            prefixes = [teacher.groups.prefix_ids[i % siblings * 2 // siblings] for i in range(len(ids))]
            rollouts.append(sampler.sample(ids, prefixes))
            sampling.append(time.perf_counter() - began)
        clocks = {kind: Clock(trainer, rollouts) for kind, trainer in trainers.items()}
        for step in range(steps):
            for clock in clocks.values():
                clock.run(step)
    sampled = statistics.median(sampling)
    plain = clocks["grpo"]
    print(f"{prompts} x {siblings}, {steps} steps, median seconds; sampling {sampled:.3f}")
    print("| trainer | after sampling | whole step, against grpo | scoring to weights | the same in % of grpo's step |")
    print("|---|---|---|---|---|")
    whole = sampled + statistics.median(plain.seconds)
    for kind, clock in clocks.items():
        seconds, book = statistics.median(clock.seconds), statistics.median(clock.bookkeeping)
        more = 100 * (sampled + seconds - whole) / whole
        extra = 100 * (book - statistics.median(plain.bookkeeping)) / whole
        print(f"| {kind} | {seconds:.3f} | {more:+.1f} % | {book:.3f} | {extra:+.1f} % |")


def lower_level_times(num_prompts: int, num_siblings: int, dim: int, window: int) -> None:
    rng = np.random.default_rng(0)
    print(f"lower level alone, {num_prompts:,} x {num_siblings}, median of 5 seconds")
    for utility, price, budget in (
        ("margin", "batch", {"extended": 0.5}),
        ("group_mean", "batch", {"extended": 0.5, "tokens": 12.0}),
        ("shrunken", "running", {"extended": 0.5}),
    ):
        terms = read_budget(budget, ["standard", "extended"], lambda column: None)
        level = LowerLevel(num_groups=2, budgets=terms, utility=utility, window=window, price=price)
        seconds = []
        for step in range(5):
            group = np.tile(np.arange(num_siblings) * 2 // num_siblings, num_prompts)
            batch = Batch(
                prompt=np.repeat(np.arange(num_prompts), num_siblings),
                response_group=group,
                reward=(rng.random(len(group)) < 0.4 + 0.3 * group).astype(float),
                tokens=5 + 12 * group + rng.integers(0, 8, len(group)).astype(float),
                features=rng.normal(size=(num_prompts, dim)) if utility == "shrunken" else np.zeros((num_prompts, 0)),
            )
            began = time.perf_counter()
            level.solve(batch, step)
            seconds.append(time.perf_counter() - began)
        print(f"- {utility}, price {price}, {', '.join(budget)}: {statistics.median(seconds):.4f}")


UPDATES = (10, 50)
TRAIN = """
import sys, tempfile
from pathlib import Path
try:
    from ibpo.demo.experiments import THINKING
    from ibpo.demo.models import model_path
    from ibpo.demo.policy import train_policy
except ImportError:
    from ibpo.experiments.embedded import model_path
    from ibpo.experiments.policy import train_policy
    from ibpo.experiments.thinking import THINKING
import torch
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as folder:
    train_policy(
        THINKING, model_path("thinking", "cold_start"), Path(folder), budget=0.5, seed=0, num_steps=int(sys.argv[1])
    )
"""
"""Both checkouts understand it."""


def cpu_of_updates(checkout: Path, num_updates: int) -> float:
    """CPU seconds of a process that trains the demo's policy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", TRAIN, str(num_updates)],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def compare_updates(base: Path, turns: int) -> None:
    """An update here beside another checkout's."""
    here = Path(__file__).resolve().parent.parent
    ratios = list[float]()
    for turn in range(turns):
        order = [base.resolve(), here][:: 1 if turn % 2 else -1]
        few, many = ({checkout: cpu_of_updates(checkout, n) for checkout in order} for n in UPDATES)
        one = {checkout: (many[checkout] - few[checkout]) / (UPDATES[1] - UPDATES[0]) for checkout in order}
        ratios.append(one[here] / one[base.resolve()])
        print(f"{one[base.resolve()]:.3f} and {one[here]:.3f} CPU s an update, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--siblings", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--base", type=Path, help="another checkout, whose updates take turns with this one's")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    if given.base is not None:
        compare_updates(given.base, given.turns)
        return
    torch.set_num_threads(1)
    step_times(given.prompts, given.siblings, given.steps)
    lower_level_times(32, 8, dim=192, window=64)
    lower_level_times(4096, 16, dim=192, window=2)


if __name__ == "__main__":
    main()
