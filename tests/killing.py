"""Commands of ibpo as processes of their own that a test kills.

They are forked off a server of `multiprocessing` that has imported what the commands import: a start takes a tenth of
a second instead of two, and the kills hit the command's work instead of its imports.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_IMPORTED = (
    *("pytest", "tests.killing", "ibpo.cli", "ibpo.data", "ibpo.evaluation.log_files", "ibpo.rollouts"),
    *("ibpo.evaluation.sampling", "ibpo.commands.allocate", "ibpo.commands.eval", "ibpo.commands.eval_setup"),
    *("ibpo.commands.simulate", "ibpo.commands.report", "ibpo.commands.route", "ibpo.commands.calibrate"),
    *("ibpo.evaluation.report.page", "ibpo.evaluation.comparison", "ibpo.serving.simulation", "ibpo.routing.fit"),
    *("ibpo.commands.serve", "ibpo.serving.gateway", "ibpo.serving.stores", "ibpo.rewards", "ibpo.runs"),
    *(
        "filelock",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "openai",
        "redis",
        "rich.table",
        "scipy.stats",
    ),
)
_CONTEXT.set_forkserver_preload(list(_IMPORTED))
KILL, TERM = signal.SIGKILL, signal.SIGTERM


def _run(arguments: list[str], output: str, max_file: int | None, prepare: Callable[[], None] | None) -> None:
    if prepare is not None:
        prepare()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if max_file is not None:  # Python ignores SIGXFSZ: a write that goes further is an error
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file, max_file))
    sys.argv = ["ibpo", *arguments]
    from ibpo.cli import main

    main()


@contextmanager
def running(output: Path, *arguments: object, max_file: int | None = None, prepare: Callable[[], None] | None = None):
    """`ibpo ARGUMENTS` as a process, which does not outlive the block; what it says goes to a file.

    Args:
        output: The file.
        arguments: Of the command.
        max_file: Bytes that a file may have; more is an error of the disk.
        prepare: Is called in the process before; a function of a module.
    """
    process = _CONTEXT.Process(target=_run, args=(list(map(str, arguments)), str(output), max_file, prepare))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def send(process, number: int) -> bool:
    """Send a signal and wait for the end; whether it was the signal that ended the process."""
    if process.exitcode is None:
        os.kill(process.pid, number)
    process.join()
    return process.exitcode == -number


def wait_until(process, true, pause: float = 0.0, seconds: float = 120.0) -> bool:
    """Whether it came true before the process ended."""
    give_up = time.monotonic() + seconds
    while process.exitcode is None:
        if true():
            return True
        assert time.monotonic() < give_up
        time.sleep(pause)
    return False


def moment(rng: random.Random, most: float) -> None:
    """Sleep for a random time."""
    time.sleep(rng.uniform(0.0, most))
