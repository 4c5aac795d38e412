"""Trains again and again, is killed each time at a random moment, and goes on: prints what every run ended with.

    python tests/training/kill_and_resume.py FOLDER NUM_KILLS SEED

Each training is a process of its own, forked from one that has its libraries loaded: starting Python anew would take
most of the time.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer

from experiments.build import build_model
from ibpo.demo import model_path
from ibpo.runs import RunDir
from tests.training.tiny import build_trainer

STEPS = 6


def train(run: RunDir) -> None:
    """Train, or go on; every step leaves a checkpoint, and the fifth step begins the second pass over the problems."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_path("thinking", "cold_start"))
    trainer = build_trainer(
        run.checkpoints,
        model=build_model(tokenizer, hidden_size=16, num_layers=1),
        num_problems=16,
        per_device_train_batch_size=16,
        max_completion_length=6,
        max_steps=STEPS,
        optim="adamw_torch",
        learning_rate=1e-2,
        lr_scheduler_type="linear",
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        logging_strategy="no",
        averaging=0.5,
        window=4,
        utility="shrunken",
        budget={"extended": 0.5, "tokens": 6, "extended@level=2": 0.4},
        rollout_log_dir=str(run.rollout_log),
        guards="off",
    )
    last = run.last_checkpoint()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    digest = hashlib.sha256()
    for parameter in trainer.model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    for shard in sorted(run.rollout_log.glob("step-*.parquet")):
        digest.update(repr(pq.read_table(shard).to_pylist()).encode())
    run.report.write_text(digest.hexdigest())


def start(run: RunDir) -> int:
    """A training in a process of its own."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        log = os.open(run.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        train(run)
        status = 0
    finally:
        os._exit(status)


def finish(pid: int, run: RunDir) -> str:
    """Wait for a training to end by itself."""
    _, status = os.waitpid(pid, 0)
    assert status == 0, (run.path / "log").read_text()[-3000:]
    return run.report.read_text()


def kill_after(pid: int, seconds: float) -> bool:
    """Kill a training at that moment; false where it has ended by itself before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def main() -> None:
    folder, num_kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    rng = random.Random(seed)

    def new(name: str) -> RunDir:
        (folder / name).mkdir(parents=True)
        return RunDir(folder / name)

    run = new("whole")
    began = time.monotonic()
    whole = finish(start(run), run)
    duration = time.monotonic() - began
    kills = []
    for number in range(num_kills):
        run = new(f"run-{number}")
        pid = start(run)
        killed = kill_after(pid, rng.uniform(0.0, duration))
        last = run.last_checkpoint()
        steps = int(last.name.rpartition("-")[2]) if last else 0
        began = time.monotonic()
        digest = finish(start(run), run)
        if not steps:  # a whole training: how long it takes now, on a machine that does other things too
            duration = time.monotonic() - began
        kills.append({"killed": killed, "steps": steps, "digest": digest})
    print(json.dumps({"whole": whole, "kills": kills}))


if __name__ == "__main__":
    main()
