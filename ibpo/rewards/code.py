"""Does a program pass its tests? Each runs in a process of its own, confined by the kernel, within hard limits.

See `ibpo.rewards.sandbox_child` for what confines it. The machine is protected, the verdict less so: tests run in the
program's own process, as in HumanEval's and MBPP's own harnesses, so a program written to look for its grader (an
`__eq__` that is always true, a search through its process's memory) can pass tests that it should not.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from ibpo.errors import IbpoError
from ibpo.rewards.judges import Candidate, Judgement

CHILD = Path(__file__).with_name("sandbox_child.py")
POLL_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one program may use."""

    wall_seconds: float = 30.0
    """A backstop for programs that wait; on a busy machine it must not decide, so keep it above the CPU limit."""
    cpu_seconds: int = 10
    """Twice what the slowest of MBPP's own solutions takes (mbpp-123; the next one takes less than a second)."""
    memory_bytes: int = 512 << 20
    """Of address space; every thread takes some 8 MiB of it."""
    output_bytes: int = 64 << 10
    file_bytes: int = 16 << 20
    """Of one file in the scratch folder."""
    scratch_bytes: int = 64 << 20
    """Of all files; looked at every 20 ms, so more may be written before the program is ended."""
    num_files: int = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a program ended."""

    status: str
    """`passed` (ran to its end), `failed` (raised), or which limit or signal ended it."""
    detail: str
    output: str
    """Stdout and stderr together, at most `Limits.output_bytes`."""

    @property
    def passed(self) -> bool:
        """Whether it ran to its end without an exception."""
        return self.status == "passed"


def run_program(
    program: str, *, limits: Limits | None = None, isolate: bool = True, readable: Sequence[Path] = ()
) -> Outcome:
    r"""Run Python source text to its end.

    Args:
        program: source; it runs with `__name__ == "program"` and only the standard library.
        limits: of time, memory, output and files.
        isolate: False runs it with limits of time and memory only: it can then do whatever the user can.
        readable: more folders that it may read.

    Raises:
        IbpoError: where the isolation cannot be set up; nothing was run.

    Example:
        >>> run_program("print(1 + 1)").output
        '2\n'
        >>> run_program("import socket; socket.socket()").detail
        'PermissionError: [Errno 1] Operation not permitted (line 1)'
    """
    limits = limits or Limits()
    token = secrets.token_hex(16)
    scratch = tempfile.mkdtemp(prefix="ibpo-sandbox-")
    read_end, write_end = os.pipe()
    try:
        job = {"program": program, "token": token, "scratch": scratch, "isolate": isolate, "limits": asdict(limits)}
        job["readable"] = [str(path) for path in readable]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(CHILD), str(write_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[write_end],
            cwd=scratch,
            env={"HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PATH": "/nonexistent"},
            start_new_session=True,
        )
        os.close(write_end)
        write_end = -1
        ended = None
        try:
            with contextlib.suppress(BrokenPipeError):
                assert process.stdin is not None
                process.stdin.write(json.dumps(job).encode())
                process.stdin.close()
            ended, output, verdict = _watch(process, read_end, Path(scratch), limits)
        finally:
            _kill(process)
        outcome = _judge_end(process.returncode, ended, output.decode(errors="replace"), verdict, token)
    finally:
        for descriptor in (read_end, write_end):
            if descriptor >= 0:
                os.close(descriptor)
        shutil.rmtree(scratch, ignore_errors=True)
    if outcome.status == "unconfined":
        raise IbpoError(f"model-written code cannot be confined here: {outcome.detail}")
    return outcome


@cache
def why_not_isolated() -> str:
    """What stands in the way of isolation on this machine; empty where nothing does."""
    try:
        outcome = run_program("open('/etc/hostname')", limits=Limits(wall_seconds=60, cpu_seconds=30))
    except IbpoError as error:
        return str(error)
    if outcome.detail.startswith(("PermissionError", "FileNotFoundError")):
        return ""
    return f"a probe could read outside its folder: {outcome.status} {outcome.detail}"


def _watch(
    process: subprocess.Popen[bytes], verdict_fd: int, scratch: Path, limits: Limits
) -> tuple[str | None, bytes, bytes]:
    """Read until the program ends or exceeds a limit: (the limit or None, output, verdict)."""
    assert process.stdout is not None
    output_fd = process.stdout.fileno()
    received = {output_fd: bytearray(), verdict_fd: bytearray()}
    deadline = time.monotonic() + limits.wall_seconds
    ended: str | None = None
    with selectors.DefaultSelector() as selector:
        for descriptor in received:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and ended is None:
            for key, _ in selector.select(POLL_SECONDS):
                chunk = os.read(key.fd, 1 << 16)
                received[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
            if any(len(data) > limits.output_bytes for data in received.values()):
                ended = "wrote too much output"
            elif time.monotonic() > deadline:
                ended = "took too long"
            elif _overfull(scratch, limits):
                ended = "wrote too many or too large files"
    return ended, bytes(received[output_fd][: limits.output_bytes]), bytes(received[verdict_fd])


def _overfull(scratch: Path, limits: Limits) -> bool:
    size = 0
    try:
        with os.scandir(scratch) as entries:
            for count, entry in enumerate(entries, start=1):
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                if size > limits.scratch_bytes or count > limits.num_files:
                    return True
    except OSError:
        pass
    return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.05)  # both pipes are closed, or it is over a limit
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def _judge_end(status: int, ended: str | None, output: str, verdict: bytes, token: str) -> Outcome:
    if ended is not None:
        return Outcome(status=ended, detail="", output=output)
    for line in verdict.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("token") == token:
            kind = "ran out of memory" if said["status"] == "memory" else str(said["status"])
            return Outcome(status=kind, detail=str(said["detail"]), output=output)
    if status == -signal.SIGXCPU:
        return Outcome(status="took too long", detail="", output=output)
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return Outcome(status="ended early", detail=f"{how}, before the tests were through", output=output)


class CodeJudge:
    """1.0 where the predicted answer, a program, passes the problem's tests, else 0.0.

    A problem's `info` holds `tests`, source that raises where the program is wrong, and may hold `setup`, source that
    goes before it (HumanEval: the prompt, whose imports and helpers an answer may leave out). An answer that begins
    with an indented line continues the setup, as HumanEval's own solutions do; any other stands for itself after it.

    Raises:
        IbpoError: on construction, where model-written code cannot be confined, unless `isolate=False`.

    Example:
        >>> from ibpo.types import Problem
        >>> problem = Problem(problem_id="1", prompt="Double x.", answer="", info={"tests": "assert double(3) == 6"})
        >>> answers = ["def double(x): return 2 * x", "def double(x): return x"]
        >>> candidates = [Candidate(problem=problem, completion=a, predicted_answer=a) for a in answers]
        >>> [(j.reward, j.reason) for j in CodeJudge().judge(candidates)]
        [(1.0, 'passed its tests'), (0.0, 'failed: AssertionError (line 5)')]
    """

    def __init__(self, *, limits: Limits | None = None, num_workers: int | None = None, isolate: bool = True) -> None:
        """Programs run in `num_workers` processes at a time (default: one per CPU, at most eight).

        `isolate=False` is for machines that hold nothing of value: programs then run with the user's own rights.
        """
        if isolate and (reason := why_not_isolated()):
            raise IbpoError(
                f"{reason}; judge on a machine that can, or on a throw-away one with --no-isolation (isolate=False), "
                "in a recipe judge.isolation = false, where programs run with your own rights"
            )
        self._limits, self._isolate = limits or Limits(), isolate
        self._num_workers = num_workers or min(os.cpu_count() or 1, 8)

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """Run each distinct program once.

        Raises:
            IbpoError: for a problem without tests.
        """
        programs = [assemble(candidate) for candidate in candidates]
        distinct = list(dict.fromkeys(program for program in programs if program is not None))
        with ThreadPoolExecutor(self._num_workers) as threads:
            judged = dict(zip(distinct, threads.map(self._run, distinct), strict=True))
        nothing = Judgement(reward=0.0, reason="no answer")
        return [nothing if program is None else judged[program] for program in programs]

    def _run(self, program: str) -> Judgement:
        outcome = run_program(program, limits=self._limits, isolate=self._isolate)
        if outcome.passed:
            return Judgement(reward=1.0, reason="passed its tests")
        return Judgement(reward=0.0, reason=f"{outcome.status}{f': {outcome.detail}' if outcome.detail else ''}")


def assemble(candidate: Candidate) -> str | None:
    """Setup, answer and tests as one program; None where there is no answer."""
    problem, answer = candidate.problem, candidate.predicted_answer
    tests, setup = problem.info.get("tests"), problem.info.get("setup", "")
    if not isinstance(tests, str) or not tests.strip():
        raise IbpoError(f"problem {problem.problem_id}: has no tests; give source text in info['tests']")
    if answer is None or not answer.strip():
        return None
    answer = answer.replace("\r\n", "\n")
    first = next(line for line in answer.splitlines() if line.strip())
    if first[0].isspace() and not setup:
        answer = textwrap.dedent(answer)
    gap = "" if first[0].isspace() else "\n\n"
    return f"{setup}{gap}{answer}\n\n{tests}\n"
