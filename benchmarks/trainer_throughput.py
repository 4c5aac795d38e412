"""Tokens per second of each phase of a step, IBPOTrainer against plain GRPOTrainer: **not verified on hardware yet**.

    python benchmarks/trainer_throughput.py --model Qwen/Qwen2.5-0.5B-Instruct --prompts 32 --siblings 8 --tokens 512
    python benchmarks/trainer_throughput.py --model embedded:thinking --prompts 8 --siblings 4 --tokens 40 --steps 3

On CUDA in bf16 where there is a GPU, else on the CPU in float32 (the second command: does it run at all?). Both take
the same prompts and the same reward; each decodes by its own means, so that what is compared is what a user gets.
Phases: sampling (tokens decoded), update (tokens of the rows that the loss sees, KL penalty and scoring included in the
seconds), whole step (tokens decoded). The first step warms up and is left out; medians of the others. Prints card,
versions, command and a table. IBPO forces half of the responses open, which may make them longer, and its loss sees
fewer rows: read the seconds together with the tokens.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from ibpo import IBPOConfig, IBPOTrainer, ResponseGroup
from ibpo.demo import model_path
from ibpo.responses import last_number

DIGIT_SUMS = ("c +1 n +0 =", "d +6 b +6 =", "a +6 b +6 e +2 f +0 g +2 k +8 p +7 =", "b +3 e +9 f +4 h +2 k +6 =")


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Of no meaning, and never all the same: some responses of each group are right."""
    return [float(sum(ids) % 2) for ids in completion_ids]


class Timed:
    """Mixed into a trainer: seconds and tokens of each step's sampling and update."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seconds: list[dict[str, float]] = []
        self.tokens: list[dict[str, int]] = []
        super().__init__(*args, **kwargs)

    def _clock(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def _generate(self, prompts: list) -> Any:
        began = self._clock()
        out = super()._generate(prompts)  # pyright: ignore[reportAttributeAccessIssue]
        self.seconds.append({"sampling": self._clock() - began, "update": 0.0, "step": 0.0})
        self.tokens.append({"sampling": sum(map(len, out[1])), "update": 0})
        return out

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self.tokens[-1]["update"] += int(inputs["completion_mask"].sum())
        return super()._compute_loss(model, inputs)  # pyright: ignore[reportAttributeAccessIssue]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        began = self._clock()
        out = super().training_step(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        self.seconds[-1]["step"] += self._clock() - began
        self.seconds[-1]["update"] = self.seconds[-1]["step"] - self.seconds[-1]["sampling"]
        return out


class TimedGRPO(Timed, GRPOTrainer):
    pass


class TimedIBPO(Timed, IBPOTrainer):
    pass


def make(kind: str, folder: Path, given: argparse.Namespace) -> Any:
    on_gpu = torch.cuda.is_available()
    embedded = given.model.startswith("embedded:")
    path = str(model_path(given.model.removeprefix("embedded:"))) if embedded else given.model
    openings = ("<answer>", "<think>") if embedded else ("Step 1", "[TRIAL")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    questions = (
        DIGIT_SUMS if embedded else tuple(f"What is {a} times {a + 7}? Reason in steps." for a in range(11, 111))
    )
    prompts = [questions[i % len(questions)] for i in range(given.prompts * given.steps)]
    chat = tokenizer.chat_template is not None
    rows = [{"prompt": [{"role": "user", "content": text}] if chat else text} for text in prompts]
    options: dict[str, Any] = {
        "output_dir": str(folder / kind),
        "per_device_train_batch_size": given.prompts * given.siblings // given.parts,
        "gradient_accumulation_steps": given.parts,
        "num_generations": given.siblings,
        "max_completion_length": given.tokens,
        "max_steps": given.steps,
        "learning_rate": 1e-6,
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": on_gpu,
        "model_init_kwargs": {"dtype": "float32"},
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "loss_type": "dr_grpo",
        "seed": 0,
    }
    common: dict[str, Any] = {
        "model": path,
        "reward_funcs": reward,
        "train_dataset": Dataset.from_list(rows),
        "processing_class": tokenizer,
    }
    if kind == "GRPOTrainer":
        return TimedGRPO(args=GRPOConfig(**options), **common)
    groups = [
        ResponseGroup(name=name, prefix=prefix, extract_answer=last_number)
        for name, prefix in zip(("standard", "extended"), openings, strict=True)
    ]
    more = {"sampling_batch_size": given.sampled, "budget": {"extended": 0.5}, "guards": "off"}
    return TimedIBPO(response_groups=groups, args=IBPOConfig(**options, **more), **common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:thinking")
    parser.add_argument("--prompts", type=int, default=8, help="per step")
    parser.add_argument("--siblings", type=int, default=4, help="responses of a prompt")
    parser.add_argument("--tokens", type=int, default=40, help="longest response")
    parser.add_argument("--parts", type=int, default=1, help="gradient accumulation steps")
    parser.add_argument("--sampled", type=int, default=256, help="responses that IBPO decodes at once")
    parser.add_argument("--steps", type=int, default=6, help="the first one is not counted")
    given = parser.parse_args()
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else f"no GPU: {platform.processor() or 'CPU'}"
    print(f"{card}; torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}")
    print(f"python {shlex.join(sys.argv)}\n")
    print("| trainer | phase | seconds | tokens | tokens/s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("GRPOTrainer", "IBPOTrainer"):
            trainer = make(kind, Path(folder), given)
            trainer.train()
            for phase in ("sampling", "update", "step"):
                seconds = statistics.median(step[phase] for step in trainer.seconds[1:])
                tokens = statistics.median(
                    step["sampling" if phase == "step" else phase] for step in trainer.tokens[1:]
                )
                print(f"| {kind} | {phase} | {seconds:.3f} | {tokens:,.0f} | {tokens / seconds:,.0f} |")
            del trainer


if __name__ == "__main__":
    main()
