"""Does a program pass its tests? Both run in processes of their own, confined by the kernel, within hard limits.

`ibpo.rewards.sandbox_child` says what confines them, `ibpo.rewards.sandbox_talk` how they talk. The verdict comes from
the process with the tests, which never ran the program, or from this one, which compares what a program printed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError
from ibpo.rewards.exam import Exam, assemble, same_output
from ibpo.rewards.judges import Candidate, Judgement

CHILD = Path(__file__).with_name("sandbox_child.py")
TALK = Path(__file__).with_name("sandbox_talk.py")
MESSAGE_BYTES = 8192
ENDED_BY_CPU = tuple(-getattr(signal, name, 0) for name in ("SIGXCPU", "SIGPROF"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one program may use; the process with its tests may use as much again."""

    wall_seconds: float = 30.0
    """A backstop for programs that wait; on a busy machine it must not decide, so keep it above the CPU limit."""
    cpu_seconds: int = 10
    """Twice what the slowest of MBPP's own solutions takes (mbpp-123; the next one takes less than a second)."""
    memory_bytes: int = 512 << 20
    """Most address space; every thread takes about 8 MiB of it."""
    output_bytes: int = 64 << 10
    file_bytes: int = 16 << 20
    """Most bytes of one file in the scratch folder."""
    scratch_bytes: int = 64 << 20
    """Most bytes that it writes, to files or elsewhere. Looked at every 20 ms, so it may write more before it is ended.
    Where the kernel grants namespaces, also the size of the scratch folder's file system, which is never exceeded."""
    num_files: int = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a program ended."""

    status: str
    """`passed`, `failed` (raised), or which limit or signal ended it."""
    detail: str
    output: str
    """Stdout and stderr together, at most `Limits.output_bytes`."""

    @property
    def passed(self) -> bool:
        """Whether it ran to its end without an exception."""
        return self.status == "passed"


def run_program(program: str, *, limits: Limits | None = None, isolate: bool = True) -> Outcome:
    r"""Run Python source text to its end.

    Where there are no tests, `passed` is the program's own word: it says that the program came to its end, and nothing
    about right or wrong.

    Args:
        program: source; it runs with `__name__ == "program"` and only the standard library.
        limits: of time, memory, output and files.
        isolate: False runs it with limits of time and memory only: it can then do whatever the user can.

    Raises:
        IbpoError: where the isolation cannot be set up; nothing was run.

    Example:
        >>> run_program("print(1 + 1)").output
        '2\n'
        >>> run_program("import socket; socket.socket()").detail
        'PermissionError: [Errno 1] Operation not permitted (line 1)'
    """
    return _examine(Exam(program=program), limits or Limits(), isolate)


def _examine(exam: Exam, limits: Limits, isolate: bool) -> Outcome:
    """The program in one process, its tests in another."""
    more = max(exam.num_calls - 1, 0)
    answer_seconds = int(limits.wall_seconds) + 1
    limits = replace(
        limits,
        cpu_seconds=limits.cpu_seconds * (1 + more),
        wall_seconds=limits.wall_seconds + more * limits.cpu_seconds,
    )
    call_seconds = limits.cpu_seconds // exam.num_calls if exam.num_calls else 0
    program = {**exam.source(), "call_seconds": call_seconds}
    tests = {"imports": exam.imports, "setup": exam.setup, "tests": exam.tests}
    tests |= {"entry_points": exam.entry_points, "answer_seconds": answer_seconds}
    run = _run([program, tests], limits, isolate, limits.output_bytes)
    output, code = run.output.decode(errors="replace"), run.codes.get("program", 0)
    if run.ended:
        return Outcome(status=run.ended, detail="", output=output)
    status = run.said.get("status", "gone")
    if status == "memory":
        return Outcome(status="ran out of memory", detail="", output=output)
    if status in ("passed", "failed"):
        return Outcome(status=status, detail=str(run.said["detail"]), output=output)
    if status == "late" or code in ENDED_BY_CPU or run.codes.get("tests") in ENDED_BY_CPU:
        return Outcome(status="took too long", detail="", output=output)
    how = f"signal {-code}" if code < 0 else f"status {code}"
    return Outcome(status="ended early", detail=f"{how}, before the tests had ended", output=output)


def _print(exam: Exam, number: int, limits: Limits, isolate: bool) -> Outcome:
    """The program alone, with one text to read; what it prints is compared here."""
    text, expected = exam.inputs[number]
    max_output = max(limits.output_bytes, 2 * len(expected.encode(errors="surrogatepass")) + (1 << 10))
    run = _run([{**exam.source(), "input": text}], limits, isolate, max_output)
    place, code = f"input {number + 1} of {len(exam.inputs)}", run.codes.get("program", 0)
    output = run.output.decode(errors="replace")
    if run.ended or code in ENDED_BY_CPU:
        return Outcome(status=run.ended or "took too long", detail=place, output=output)
    if code:
        how = f"signal {-code}" if code < 0 else f"status {code}"
        said = run.errors.decode(errors="replace").strip().rpartition("\n")[2][:500] or how
        return Outcome(status="failed", detail=f"{said}, {place}", output=output)
    different = same_output(output, expected)
    return Outcome(status="failed" if different else "passed", detail=f"{different}, {place}", output=output)


@cache
def why_not_isolated() -> str:
    """Why programs cannot be isolated on this machine; empty where they can."""
    try:
        outcome = run_program("open('/etc/hostname')", limits=Limits(wall_seconds=60, cpu_seconds=30))
    except IbpoError as error:
        return str(error)
    if outcome.detail.startswith(("PermissionError", "FileNotFoundError")):
        return ""
    return f"a probe could read outside its folder: {outcome.status} {outcome.detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """How the processes of one program ended, and what they wrote."""

    ended: str
    """The limit that they exceeded, or empty."""
    codes: Mapping[str, int]
    said: Mapping[str, Any]
    """The verdict of the process with the tests."""
    output: bytes
    errors: bytes


_starters: dict[tuple[Path, bool], tuple[int, int]] = {}
"""(script, whether isolated) -> (the number of this starter, the descriptor of its control socket)."""
_starters_lock = threading.Lock()
_starter_numbers = itertools.count(1)


def _forget_starters() -> None:
    """In a forked process, which starts its own."""
    global _starters_lock
    _starters_lock = threading.Lock()  # another thread may have held it
    while _starters:
        os.close(_starters.popitem()[1][1])


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_starters)


def _starter(isolate: bool, failed: int = 0) -> tuple[int, socket.socket]:
    """The number and control socket of the process that starts programs; one for isolated ones, one for others.

    It is forked twice, so that it is no child of this process, and ends when this process ends, even by SIGKILL. The
    one with the number `failed` is replaced, once for all threads that found it so.
    """
    key = (CHILD, isolate)
    with _starters_lock:
        if failed and _starters.get(key, (0, -1))[0] == failed:
            os.close(_starters.pop(key)[1])
        if key not in _starters:
            ours, theirs = socket.socketpair()
            number, kind = str(theirs.fileno()), "isolate" if isolate else "free"
            environment = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PATH": "/nonexistent"}
            with theirs:
                subprocess.run(
                    [sys.executable, "-I", "-S", "-B", CHILD, number, str(os.getpid()), TALK, kind],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    cwd="/",
                    env={**environment, "TMPDIR": tempfile.gettempdir()},
                    check=False,
                )
            _starters[key] = next(_starter_numbers), ours.detach()
        number, descriptor = _starters[key]
        return number, socket.socket(fileno=os.dup(descriptor))


def _run(tasks: Sequence[Mapping[str, Any]], limits: Limits, isolate: bool, max_output: int) -> _Run:
    """Start the processes, wait for their end or for the first limit that they exceed, and leave nothing behind."""
    failed = 0
    for _ in range(2):
        failed, control = _starter(isolate, failed)
        scratch = tempfile.mkdtemp(prefix="ibpo-sandbox-")
        try:
            with control:
                run = _run_in(control, scratch, tasks, limits, max_output)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if "unconfined" in run.said:
            raise IbpoError(f"model-written code cannot be confined here: {run.said['unconfined']}")
        if run.codes:
            return run
    raise IbpoError(
        "the process that starts programs ended twice; check that memory is left and that processes may be started"
    )


def _run_in(
    control: socket.socket, scratch: str, tasks: Sequence[Mapping[str, Any]], limits: Limits, max_output: int
) -> _Run:
    lifeline, theirs = socket.socketpair()
    pipes = [os.pipe() for _ in range(2 if len(tasks) == 2 else 3)]  # status, output, errors where they are apart
    files = []
    try:
        for task in tasks:
            files.append(tempfile.TemporaryFile())  # noqa: SIM115
            files[-1].write(json.dumps(task).encode())
            files[-1].seek(0)
        asked = json.dumps({"scratch": scratch, "limits": asdict(limits)}).encode().ljust(MESSAGE_BYTES)
        given = [theirs.fileno(), pipes[0][1], pipes[1][1], pipes[-1][1], *(file.fileno() for file in files)]
        with contextlib.suppress(OSError):  # where it has ended, so has the lifeline
            socket.send_fds(control, [asked], given)
        theirs.close()
        for number, (_, write_end) in enumerate(pipes):
            os.close(write_end)
            pipes[number] = (pipes[number][0], -1)
        ended, received, end = _watch(lifeline, [read_end for read_end, _ in pipes], limits, max_output)
    finally:
        for descriptor in (end for pipe in pipes for end in pipe if end >= 0):
            os.close(descriptor)
        for file in files:
            file.close()
        lifeline.close()
        theirs.close()
    said: dict[str, Any] = {}
    for line in received[0].splitlines():
        with contextlib.suppress(ValueError):
            said |= json.loads(line)
    if (more := end.get("ended", "")) and more != "files":
        said = {"unconfined": more}
    return _Run(
        ended=ended or ("wrote too many or too large files" if more else ""),
        codes=end.get("codes", {}),
        said=said,
        output=received[1][:max_output],
        errors=received[-1][:max_output] if len(tasks) == 1 else b"",
    )


def _watch(
    lifeline: socket.socket, pipes: Sequence[int], limits: Limits, max_output: int
) -> tuple[str, list[bytes], dict[str, Any]]:
    """Read until all processes have ended: (the limit that they exceeded or "", what each pipe brought, their end)."""
    received = {pipe: bytearray() for pipe in pipes}
    end = bytearray()
    deadline = time.monotonic() + limits.wall_seconds
    ended = ""
    with selectors.DefaultSelector() as selector:
        selector.register(lifeline, selectors.EVENT_READ)
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        over = False
        while not over:
            for key, _ in selector.select(None if ended else max(deadline - time.monotonic(), 0.001)):
                chunk = os.read(key.fd, 1 << 16)
                if key.fd == lifeline.fileno():
                    end += chunk
                    over = not chunk
                elif not chunk:
                    selector.unregister(key.fd)
                elif len(received[key.fd]) <= max_output:
                    received[key.fd] += chunk
            if not ended:
                if any(len(data) > max_output for data in received.values()):
                    ended = "wrote too much output"
                elif time.monotonic() > deadline:
                    ended = "took too long"
                if ended:
                    lifeline.shutdown(socket.SHUT_WR)  # the starter kills them, and says when they are gone
    for pipe in pipes:  # what is left; without isolation a child of the program's may hold a pipe open
        os.set_blocking(pipe, False)
        with contextlib.suppress(BlockingIOError):
            while len(received[pipe]) <= max_output and (chunk := os.read(pipe, 1 << 16)):
                received[pipe] += chunk
    if not ended and any(len(data) > max_output for data in received.values()):
        ended = "wrote too much output"
    said = json.loads(end) if end else {}
    return ended, [bytes(data) for data in received.values()], said


class CodeJudge:
    """1.0 where the predicted answer, a program, passes the problem's tests, else 0.0.

    A problem's `info` holds `tests`, source that raises where the program is wrong, and may hold `setup`, source that
    goes before it (HumanEval: the prompt, whose imports and helpers an answer may leave out), and `entry_point`, the
    name that the program has to define (else it is read from the tests). An answer that begins with an indented line
    continues the setup, as HumanEval's own solutions do; any other is a whole program. If a response has
    several blocks, the one that defines the entry point is judged.

    Or `info` holds `cases`, each with `input` and `output`: with `fn_name` they are arguments (JSON, one a line) and
    result of that function or method of `Solution`, without it what is read from stdin and printed to stdout. Both
    are judged by LiveCodeBench's rules, with its imports; each input and each call has the whole CPU time.

    Raises:
        IbpoError: on construction, where model-written code cannot be confined, unless `isolate=False`.

    Example:
        >>> from ibpo.types import Problem
        >>> problem = Problem(problem_id="1", prompt="Double x.", answer="", info={"tests": "assert double(3) == 6"})
        >>> answers = ["def double(x): return 2 * x", "def double(x): return x"]
        >>> candidates = [Candidate(problem=problem, completion=a, predicted_answer=a) for a in answers]
        >>> [(j.reward, j.reason) for j in CodeJudge().judge(candidates)]
        [(1.0, 'passed its tests'), (0.0, 'failed: AssertionError (line 1 of the tests)')]
    """

    def __init__(self, *, limits: Limits | None = None, num_workers: int | None = None, isolate: bool = True) -> None:
        """Programs run in `num_workers` processes at a time (default: one per CPU, at most eight).

        `isolate=False` is for machines that hold nothing of value: programs then run with the user's own rights.
        """
        if isolate and (reason := why_not_isolated()):
            raise IbpoError(
                f"{reason}; judge on a machine that can, or on a throw-away one with judge.isolation = false "
                "(--set judge.isolation=false, isolate=False), where programs run with your own rights"
            )
        if num_workers is not None and num_workers < 1:
            raise IbpoError(f"num_workers: must be at least 1, got {num_workers!r}")
        self._limits, self._isolate = limits or Limits(), isolate
        self._num_workers = num_workers or min(os.cpu_count() or 1, 8)

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """Run each distinct program once.

        Raises:
            IbpoError: for a problem without tests.
        """
        exams = [assemble(candidate) for candidate in candidates]
        distinct = list(dict.fromkeys(exam for exam in exams if exam is not None))
        with ThreadPoolExecutor(self._num_workers) as threads:
            judged = dict(zip(distinct, threads.map(self._sit, distinct), strict=True))
        nothing = Judgement(reward=0.0, reason="no answer")
        return [nothing if exam is None else judged[exam] for exam in exams]

    def _sit(self, exam: Exam) -> Judgement:
        if exam.inputs:
            outcomes = (_print(exam, number, self._limits, self._isolate) for number in range(len(exam.inputs)))
            outcome = next((outcome for outcome in outcomes if not outcome.passed), None)
        else:
            outcome = _examine(exam, self._limits, self._isolate)
        if outcome is None or outcome.passed:
            return Judgement(reward=1.0, reason="passed its tests")
        return Judgement(reward=0.0, reason=f"{outcome.status}{f': {outcome.detail}' if outcome.detail else ''}")
