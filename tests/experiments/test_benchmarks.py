"""The commands that documented numbers come from still run: with small sizes, and every figure is a number."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
COMMANDS = [
    "allocation.py --sizes 1e3 --limit 2",
    'allocation.py --targets "1e4, exact" --turns 1 --limit 1',
    "allocation_partitions.py --rows 1e5 --folder FOLDER --check",
    "allocation_stream.py --rows 1e4 --folder FOLDER",
    "collect.py --runs 1 --only noise",
    "controller.py --requests 2e3",
    "conversations.py --chats 30 --seeds 1",
    "coverage.py --replications 3",
    "decision.py --requests 500 --runs 1",
    "families.py",
    "gateway.py --rates 50 --seconds 1 --blocks 1",
    "leases.py --requests 2000 --state sqlite --forms share",
    "log_speed.py -n 1 --rows 10000",
    'log_verdicts.py --logs 2 --splits 3 --problems 30 --truths "gains,one group,noise,slack"',
    "memory.py",
    "proxies.py --rates 5 --seconds 1 --blocks 1",
    "startup.py -n 1",
    "trainer_overhead.py --steps 2 --prompts 4 --siblings 4",
    "trainer_throughput.py --steps 2 --prompts 4 --siblings 2",
    "whole_responses.py --alone",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_benchmark_prints_its_table(command, tmp_path):
    if command.startswith("trainer"):
        pytest.importorskip("trl")
    name, *options = shlex.split(command.replace("FOLDER", str(tmp_path)))
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / name, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = [line for line in done.stdout.splitlines() if re.search(r"\d", line)]
    assert figures, done.stdout
    assert not re.search(r"\b(nan|inf)\b", done.stdout), done.stdout
