"""Does it all run on one GPU, how fast, and does the budget hold? One command, at most eight minutes.

    ibpo models get smollm2 --out models/smollm2
    python -m benchmarks.gpu_check models/smollm2 --out runs/gpu_check
    python -m benchmarks.gpu_check models/smollm2 --out runs/gpu_check --tiny      (a CPU: does the script itself run?)

    device      card, memory, versions, speed of a product of matrices in bfloat16
    sampling    our own sampler in bfloat16: tokens per second and memory by responses at once
    vllm        the same prompts by vLLM's offline engine, if it is installed; greedy responses compared with ours
    trainers    each phase of a step, IBPOTrainer against GRPOTrainer (`benchmarks/trainer_throughput.py`)
    cold-start  SmolLM2-135M-Instruct taught both kinds of response, as by `ibpo demo --experiment smollm2`
    updates     30 updates of IBPO, all weights, q+ = 50 %: the smollm2 experiment with its bodies trained, too
    budget      the trained policy on unseen problems: share and accuracy, sampled and forced

Each phase is a process of its own with a time limit: one that fails, hangs or runs out of memory leaves the others.
What a phase finds is written to OUT/results.jsonl at once, a line for each figure, and shown as OUT/results.md. A phase
that is done is not repeated; `--again` repeats all. Prints what was measured and judges nothing but the budget.

**Not run on a GPU yet**: `--tiny` on a CPU, and `--phase vllm` with vLLM 0.32 for a CPU, by the Python of an
environment that `tests/vllm/make_env.sh` made.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ibpo.runs import write_text_atomic

ROOT = Path(__file__).resolve().parent.parent
Write = Callable[..., None]
LIMITS = {"device": 60, "sampling": 60, "vllm": 120, "trainers": 120, "cold-start": 120, "updates": 180, "budget": 60}
"""Seconds that a phase may take; all together at most `--seconds`."""
Q_PLUS = 0.5


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done of each."""

    batches: Sequence[int]
    """Responses that are decoded at once."""
    num_tokens: int
    num_prompts: int
    """Of a step, in `trainers` and `updates`."""
    num_siblings: int
    num_timed_steps: int
    num_taught: int
    num_updates: int
    num_unseen: int


FULL = Size(
    batches=(64, 256, 1024), num_tokens=256, num_prompts=32, num_siblings=8, num_timed_steps=6, num_taught=300,
    num_updates=30, num_unseen=400,
)  # fmt: skip
TINY = Size(
    batches=(2, 4), num_tokens=8, num_prompts=2, num_siblings=2, num_timed_steps=2, num_taught=20, num_updates=2,
    num_unseen=10,
)  # fmt: skip


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def most_memory() -> float:
    """GiB at most, of the card or of the process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def wait_for_device() -> float:
    """The time when all that was asked of the card is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# -- phases ---------------------------------------------------------------------------------------------------------


def check_device(given: argparse.Namespace, size: Size, write: Write) -> None:
    """What card this is, and what it can do at best."""
    import torch
    import transformers
    import trl

    write(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__)
    write(trl=trl.__version__, vllm=importlib.util.find_spec("vllm") is not None)
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        write(card=card.name, memory_gib=round(card.total_memory / 2**30, 1), bf16=torch.cuda.is_bf16_supported())
        write(cuda=torch.version.cuda, capability=f"{card.major}.{card.minor}")
    else:
        write(card="no GPU", threads=torch.get_num_threads(), processor=platform.processor() or platform.machine())
    n = 512 if given.tiny else 8192
    a = torch.randn(n, n, device=device(), dtype=torch.bfloat16)
    (a @ a).sum().item()
    began = wait_for_device()
    for _ in range(10):
        b = a @ a
    del b
    write(bf16_product_tflops=round(10 * 2 * n**3 / (wait_for_device() - began) / 1e12, 2))


def asked_prompts(tokenizer: Any, number: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of the experiment as token ids, and the opening of each: both response groups in turn."""
    from ibpo.demo import SMOLLM2
    from ibpo.responses import encode_groups
    from ibpo.rollouts import encode_prompt
    from ibpo.tasks import distinct

    prefixes = encode_groups(SMOLLM2.response_groups, tokenizer).prefix_ids
    problems = distinct(SMOLLM2.task, "train", number, seed=11)
    return [list(encode_prompt(tokenizer, p.prompt)) for p in problems], [list(prefixes[i % 2]) for i in range(number)]


def check_sampling(given: argparse.Namespace, size: Size, write: Write) -> None:
    """`HFSampler` in bfloat16; the untaught model, whose responses are as long as it likes."""
    from ibpo.rollouts import HFSampler, load_policy

    model, tokenizer = load_policy(given.model, dtype="bfloat16")
    moved: Any = model.to(device())  # pyright: ignore[reportArgumentType]
    prompts, prefixes = asked_prompts(tokenizer, max(size.batches))
    sampler = HFSampler(moved, tokenizer, max_completion_length=size.num_tokens, batch_size=max(size.batches))
    sampler.sample(prompts[:2], prefixes[:2])
    for batch in size.batches:
        began = wait_for_device()
        rows = sampler.sample(prompts[:batch], prefixes[:batch])
        seconds, tokens = wait_for_device() - began, sum(map(len, rows))
        write(at_once=batch, tokens=tokens, seconds=round(seconds, 2), tokens_per_s=round(tokens / seconds),
              peak_gib=round(most_memory(), 2))  # fmt: skip
    greedy = HFSampler(moved, tokenizer, max_completion_length=size.num_tokens, temperature=0)
    number = min(64, max(size.batches))
    kept = greedy.sample(prompts[:number], prefixes[:number])
    (given.out / "greedy.json").write_text(json.dumps([list(map(int, row)) for row in kept]), encoding="utf-8")


def check_vllm(given: argparse.Namespace, size: Size, write: Write) -> None:
    """The offline engine as the product drives it, and whether it writes what our sampler wrote."""
    if importlib.util.find_spec("vllm") is None:
        write(skipped="vLLM is not installed")
        return
    from transformers import AutoTokenizer

    from ibpo.demo import SMOLLM2
    from ibpo.rollouts import PromptWriter, Request, VLLMSampler, load_vllm
    from ibpo.tasks import distinct

    tokenizer: Any = AutoTokenizer.from_pretrained(given.model)
    llm, make_params = load_vllm(str(given.model), dtype="bfloat16", max_model_len=1024)
    prefixes = [group.prefix for group in SMOLLM2.response_groups]
    problems = distinct(SMOLLM2.task, "train", max(size.batches), seed=11)
    requests = [Request(problem=p, number=0, prefix=prefixes[i % 2]) for i, p in enumerate(problems)]
    writer = PromptWriter(tokenizer=tokenizer)

    def sample(number: int, temperature: float) -> list[list[int]]:
        sampler = VLLMSampler(llm, make_params, writer, max_tokens=size.num_tokens, temperature=temperature)
        found = list(sampler.sample_requests(requests[:number]))
        for outcome in found:
            if isinstance(outcome, Exception):
                raise outcome
        return [list(outcome.rollout.completion_token_ids) for outcome in found if not isinstance(outcome, Exception)]

    sample(2, 1.0)
    for batch in size.batches:
        began = time.perf_counter()
        rows = sample(batch, 1.0)
        seconds, tokens = time.perf_counter() - began, sum(map(len, rows))
        write(at_once=batch, tokens=tokens, seconds=round(seconds, 2), tokens_per_s=round(tokens / seconds))
    if (given.out / "greedy.json").is_file():
        ours = json.loads((given.out / "greedy.json").read_text(encoding="utf-8"))
        same = statistics.mean(a == b for a, b in zip(sample(len(ours), 0.0), ours, strict=True))
        write(greedy_the_same=round(same, 3), of=len(ours))


def check_trainers(given: argparse.Namespace, size: Size, write: Write) -> None:
    """`benchmarks/trainer_throughput.py`, whose rows come as it goes."""
    command = [sys.executable, "-m", "benchmarks.trainer_throughput", "--model", str(given.model),
               "--prompts", str(size.num_prompts), "--siblings", str(size.num_siblings),
               "--tokens", str(size.num_tokens), "--steps", str(size.num_timed_steps)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if len(cells) == 5 and cells[1] in ("sampling", "update", "step"):
                trainer, part, seconds, tokens, rate = cells
                write(trainer=trainer, part=part, seconds=float(seconds), tokens=tokens, tokens_per_s=rate)
    if process.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {process.returncode}")


def taught_model(given: argparse.Namespace) -> Path:
    return given.out / "seed" / "cold_start" / "model"


def teach(given: argparse.Namespace, size: Size, write: Write) -> None:
    """The demo's cold start, by its own recipe."""
    from ibpo.demo import SMOLLM2
    from ibpo.demo.real_policy import RealJob, teach

    job = RealJob(
        name="cold-start", experiment="smollm2", seed_dir=str(given.out / "seed"), cold_start=str(taught_model(given)),
        seed=0, num_problems=size.num_unseen, model=str(given.model), num_taught=size.num_taught, num_train=1,
        num_calibration=1,
    )  # fmt: skip
    began = time.perf_counter()
    teach(job, SMOLLM2)
    gate = json.loads((taught_model(given).parent / "results.json").read_text(encoding="utf-8"))["gate"]
    write(seconds=round(time.perf_counter() - began, 1), peak_gib=round(most_memory(), 2), gate=json.dumps(gate)[:400])


def update(given: argparse.Namespace, size: Size, write: Write) -> None:
    """IBPO from the cold start, every update's figures as they come."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    from ibpo import IBPOConfig, IBPOTrainer
    from ibpo.demo import SMOLLM2
    from ibpo.rewards import ExactJudge
    from ibpo.tasks import stream
    from ibpo.training import JudgeReward

    class Report(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            kept = ("ibpo/share/extended", "ibpo/spent/extended", "ibpo/price/extended", "reward", "loss", "grad_norm")
            figures = {key: float(logs[key]) for key in kept if key in (logs or {})}
            if figures:
                seconds, self.last = time.perf_counter() - self.last, time.perf_counter()
                write(update=state.global_step, seconds=round(seconds, 2), **figures, peak_gib=round(most_memory(), 2))

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.last = time.perf_counter()

    on_gpu, groups = device() == "cuda", list(SMOLLM2.response_groups)
    tokenizer: Any = AutoTokenizer.from_pretrained(taught_model(given))
    source = islice(stream(SMOLLM2.task, "train", 7000), size.num_prompts * size.num_updates)
    rows = [{"prompt": as_chat(p.prompt), "answer": p.answer, "problem_id": p.problem_id} for p in source]
    args = IBPOConfig(
        output_dir=str(given.out / "checkpoints"),
        per_device_train_batch_size=size.num_prompts * size.num_siblings, num_generations=size.num_siblings,
        max_completion_length=SMOLLM2.max_completion_length, max_steps=size.num_updates, learning_rate=3e-5,
        temperature=SMOLLM2.temperature, budget={"extended": Q_PLUS},
        bf16=on_gpu, use_cpu=not on_gpu, gradient_checkpointing=False, save_strategy="no", report_to="none",
        disable_tqdm=True, logging_steps=1, seed=0,
    )  # fmt: skip
    trainer = IBPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(taught_model(given), dtype=torch.float32),
        reward_funcs=JudgeReward(ExactJudge(), groups, tokenizer), response_groups=groups,
        args=args, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[Report()],
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(given.out / "policy"))


def as_chat(prompt: Any) -> Any:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def check_budget(given: argparse.Namespace, size: Size, write: Write) -> None:
    """Forced and chosen by the policy, before and after the updates, on problems that no training has seen."""
    import numpy as np
    import torch

    from ibpo.demo import SMOLLM2
    from ibpo.evaluation.local_sampling import roll_out
    from ibpo.rewards import ExactJudge
    from ibpo.rollouts import load_policy, score
    from ibpo.tasks import distinct

    problems = distinct(SMOLLM2.task, "test", size.num_unseen, seed=0)
    extended = SMOLLM2.response_groups[1].name
    prefixes = {group.name: group.prefix for group in SMOLLM2.response_groups} | {"sampled": ""}
    for name, path in (("cold start", taught_model(given)), ("ibpo", given.out / "policy")):
        loaded, tokenizer = load_policy(str(path))
        model: Any = loaded.to(device())  # pyright: ignore[reportArgumentType]
        for how, prefix in prefixes.items():
            torch.manual_seed(0)
            openings = [prefix] * len(problems)
            rollouts = roll_out(
                model, tokenizer, problems, openings, SMOLLM2.max_completion_length, SMOLLM2.temperature
            )
            scored = score(rollouts, problems, list(SMOLLM2.response_groups), ExactJudge())
            right = np.array([one.reward for one in scored])
            share = np.array([one.response_group == extended for one in scored])
            error = 1 / np.sqrt(len(problems))
            figures: dict[str, Any] = {
                "accuracy": round(float(right.mean()), 3), "accuracy_error": round(float(right.std() * error), 3),
                "tokens": round(float(np.mean([one.cost for one in scored])), 1),
            }  # fmt: skip
            if how == "sampled":
                figures |= {"share": round(float(share.mean()), 3), "share_error": round(float(share.std() * error), 3)}
                figures |= {"q_plus": Q_PLUS, "kept": bool(share.mean() <= Q_PLUS + 0.02 + 2 * share.std() * error)}
            write(policy=name, how=how, problems=len(problems), **figures)
        del model, loaded


PHASES: dict[str, Callable[[argparse.Namespace, Size, Write], None]] = {
    "device": check_device, "sampling": check_sampling, "vllm": check_vllm, "trainers": check_trainers,
    "cold-start": teach, "updates": update, "budget": check_budget,
}  # fmt: skip


# -- one after the other --------------------------------------------------------------------------------------------


def append(path: Path, row: dict[str, Any]) -> None:
    """A line that a kill of anything leaves whole."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def show(path: Path) -> str:
    """All figures so far, as one table."""
    lines = ["| phase | figures |", "|---|---|"]
    for row in map(json.loads, path.open(encoding="utf-8")):
        phase = row.pop("phase")
        if row.keys() - {"ended"}:
            lines.append(f"| {phase} | {', '.join(f'{key} {value}' for key, value in row.items())} |")
    return "\n".join(lines) + "\n"


def run_phase(name: str, given: argparse.Namespace, results: Path, limit: float) -> None:
    """A phase in a process group of its own, which ends with it."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", str(given.model), "--out", str(given.out), "--phase", name]
    began = time.monotonic()
    log = given.out / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command + ["--tiny"] * given.tiny, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit)
            ended = "done" if code == 0 else f"failed with {code}, see {log.name}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    append(results, {"phase": name, "ended": ended, "seconds": round(time.monotonic() - began, 1)})
    print(f"{name}: {ended}, {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=480, help="of all phases together")
    parser.add_argument("--tiny", action="store_true", help="next to nothing of each, for a CPU")
    parser.add_argument("--again", action="store_true", help="repeat what is there")
    parser.add_argument("--phase", choices=tuple(PHASES), help="this one alone, in this process, without limit")
    given = parser.parse_args()
    given.out, given.model = given.out.resolve(), given.model.resolve()
    if not (given.model / "config.json").is_file():
        raise SystemExit(f"{given.model}: no model there; ibpo models get smollm2 --out {given.model}")
    size, results = TINY if given.tiny else FULL, given.out / "results.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    if given.phase:
        PHASES[given.phase](given, size, lambda **row: append(results, {"phase": given.phase, **row}))
        return
    if given.again:
        for path in given.out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    rows = [json.loads(line) for line in results.open(encoding="utf-8")] if results.exists() else []
    there = {row["phase"] for row in rows if row.get("ended") == "done"}
    kept = [row for row in rows if row["phase"] in there]
    write_text_atomic(results, "".join(json.dumps(row) + "\n" for row in kept))  # what was begun is done anew
    began = time.monotonic()
    for name in PHASES:
        left = given.seconds - (time.monotonic() - began)
        if name in there:
            print(f"{name}: is there already")
        elif left < 5:
            append(results, {"phase": name, "ended": "not begun: no time left"})
            print(f"{name}: not begun, the {given.seconds:.0f} s are over")
        else:
            run_phase(name, given, results, min(left, LIMITS[name] * (10 if given.tiny else 1)))
        (given.out / "results.md").write_text(show(results), encoding="utf-8")
    print((given.out / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
