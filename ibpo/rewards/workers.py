"""Worker processes that may hang, crash or run out of memory without taking anything else with them.

Each worker is a process of its own, `python -m MODULE`, fed through pipes with length-prefixed bytes and answering in
order. A request that takes too long or kills its worker fails alone: the worker is replaced, the requests that waited
behind it go to the next one. No fork of the caller (which may hold threads and a GPU), no import of its `__main__`,
no pickle.

Inside a worker, `serve` answers requests one by one within limits of CPU time and memory. The limits count CPU time,
not wall time, so that a verdict does not depend on how busy the machine is. Two layers: a timer whose exception ends
what runs in Python, and the kernel's limit for what is stuck in one C call (a power of huge integers), which ends the
process; the pool then replaces it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import FrameType
from typing import BinaryIO

from ibpo.errors import IbpoError

HEADER = struct.Struct(">I")

PIPE_BYTES = 60_000
"""What may wait in a worker's pipe: below a pipe's capacity of 64 KiB, so that sending never blocks."""
IN_FLIGHT = 8
"""Requests sent ahead to one worker, so that it never waits for the pipe."""
START_SECONDS = 120.0
CPU_SIGNAL = getattr(signal, "SIGXCPU", 24)
TOO_LONG = "took too long"

ATTEMPTS = 2
"""A crash may be the fault of what the worker did before (memory): the request gets one fresh worker."""


class RequestFailed(Exception):
    """A request took too long, or crashed two workers; the message says which."""


@dataclass(slots=True)
class _Request:
    payload: bytes
    future: Future[bytes] = field(default_factory=Future)
    attempts: int = 0


_Inbox = queue.SimpleQueue[_Request | None]


class WorkerPool:
    """Runs requests in `num_workers` processes; safe to use from any thread, and after a fork."""

    def __init__(self, module: str, *, num_workers: int, max_seconds: float) -> None:
        """Nothing is started before the first request.

        Args:
            module: run as `python -m MODULE`; it calls `serve`.
            num_workers: most processes at a time, each started when there is work for it.
            max_seconds: wall time of one request, a backstop; workers limit their own CPU time.
        """
        if not hasattr(select, "poll"):
            raise IbpoError(
                "worker processes need Linux, macOS or another POSIX system; on Windows run ibpo inside WSL"
            )
        self._module, self._num_workers, self._max_seconds = module, num_workers, max_seconds
        self._lock = threading.Lock()
        self._begin_anew()
        pool = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: (p := pool()) and p._begin_anew())

    def _begin_anew(self) -> None:
        """Without threads: as constructed, and again in a forked child, which inherits none."""
        self._lock = threading.Lock()
        self._inbox: _Inbox = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unanswered = 0
        self._finalizer = weakref.finalize(self, _stop, self._inbox, self._num_workers)

    def submit(self, payload: bytes) -> Future[bytes]:
        """Queue one request; its future holds the reply, or `RequestFailed`, or `IbpoError` if no worker starts.

        Raises:
            ValueError: if the payload exceeds `PIPE_BYTES`.
        """
        if len(payload) > PIPE_BYTES - HEADER.size:
            raise ValueError(f"a request holds at most {PIPE_BYTES - HEADER.size} bytes, got {len(payload)}")
        request = _Request(payload)
        with self._lock:
            self._unanswered += 1
            if len(self._threads) < min(self._num_workers, self._unanswered):
                arguments = (self._inbox, self._module, self._max_seconds)
                thread = threading.Thread(target=_run_worker, args=arguments, name=self._module, daemon=True)
                self._threads.append(thread)
                thread.start()
        pool = weakref.ref(self)
        request.future.add_done_callback(lambda _: (p := pool()) and p._answered())
        self._inbox.put(request)
        return request.future

    def _answered(self) -> None:
        with self._lock:
            self._unanswered -= 1

    def close(self) -> None:
        """Stop the workers once they have answered what is queued; a later request starts them again."""
        self._finalizer()
        self._begin_anew()


def _stop(inbox: _Inbox, num_workers: int) -> None:
    for _ in range(num_workers):
        inbox.put(None)


class _Worker:
    """One process and its two pipes."""

    def __init__(self, module: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C is for the caller, who closes the pipe
            env=environment,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.poll = select.poll()
        self.poll.register(self.stdout, select.POLLIN)
        self.received = bytearray()
        problem = self.receive(START_SECONDS)
        if problem != b"":
            self.kill()
            said = problem.decode(errors="replace") if problem else f"it ended with status {self.process.returncode}"
            raise IbpoError(f"the worker process {module} does not start: {said}")

    def send(self, payload: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # its death is seen when receiving
            self.stdin.write(HEADER.pack(len(payload)) + payload)

    def receive(self, seconds: float) -> bytes | None:
        """The next reply, or None if the worker died; TimeoutError if neither happens in time."""
        deadline = time.monotonic() + seconds
        while True:
            if len(self.received) >= HEADER.size:
                end = HEADER.size + HEADER.unpack_from(self.received)[0]
                if len(self.received) >= end:
                    reply = bytes(self.received[HEADER.size : end])
                    del self.received[:end]
                    return reply
            left = deadline - time.monotonic()
            if left <= 0 or not self.poll.poll(left * 1000):
                raise TimeoutError
            chunk = os.read(self.stdout.fileno(), 1 << 16)
            if not chunk:
                return None
            self.received += chunk

    def kill(self, *, after: float = 0.0) -> int:
        """End the process, if it does not end by itself within `after` seconds, and return its status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(after)
        self.process.kill()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        return self.process.wait()


def _run_worker(inbox: _Inbox, module: str, max_seconds: float) -> None:
    """The life of one thread: keeps one worker process fed, and replaces it when it fails."""
    pending: deque[_Request] = deque()  # sent, in order, unanswered
    waiting: deque[_Request] = deque()  # to be sent first: behind a failure, or too large for the pipe just now
    worker: _Worker | None = None
    closing = False
    while True:
        while not closing and len(pending) + len(waiting) < IN_FLIGHT:
            try:
                request = inbox.get(block=not pending and not waiting)
            except queue.Empty:
                break
            closing = request is None
            if request is not None:
                waiting.append(request)
        if not pending and not waiting:
            if worker is not None:
                worker.kill()
            return
        try:
            worker = worker or _Worker(module)
        except (IbpoError, OSError, TimeoutError) as error:
            failure = error if isinstance(error, IbpoError) else IbpoError(f"{module} does not start: {error}")
            while waiting:
                waiting.popleft().future.set_exception(failure)
            continue
        room = PIPE_BYTES - sum(len(request.payload) + HEADER.size for request in pending)
        while waiting and (not pending or len(waiting[0].payload) + HEADER.size <= room):
            request = waiting.popleft()
            room -= len(request.payload) + HEADER.size
            pending.append(request)
            worker.send(request.payload)
        try:
            reply = worker.receive(max_seconds)
        except TimeoutError:
            worker.kill()
            failure, again = RequestFailed(TOO_LONG), False
        else:
            if reply:
                pending.popleft().future.set_result(reply)
                continue
            if reply is not None:  # empty: the worker's own limit of CPU time
                pending.popleft().future.set_exception(RequestFailed(TOO_LONG))
                continue
            status = worker.kill(after=5.0)
            again = status != -CPU_SIGNAL
            failure = RequestFailed(f"crashed its worker (status {status})" if again else TOO_LONG)
        worker = None
        head = pending.popleft()
        head.attempts += 1
        waiting.extendleft(reversed(pending))
        pending.clear()
        if again and head.attempts < ATTEMPTS:
            waiting.appendleft(head)
        else:
            head.future.set_exception(failure)


SPARE_SECONDS = 2
"""CPU seconds between the timer and the kernel's limit, which counts whole seconds."""
CRASH_STATUS = 70
_armed = False


class OutOfTime(BaseException):
    """Not an `Exception`: libraries that swallow those must not swallow this."""


def serve(handle: Callable[[bytes], bytes], *, cpu_seconds: float, memory_bytes: int) -> None:
    """Answer requests from stdin on stdout until stdin ends.

    Args:
        handle: request -> reply.
        cpu_seconds: of one request; above it the reply is `b""`, by which the pool knows why.
        memory_bytes: address space of the process; where it does not suffice the process ends, as after a crash.
    """
    import resource  # POSIX only, as is all that runs inside a worker

    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not pass for a reply
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _out_of_time)
    _send(replies, b"")  # ready
    while len(header := requests.read(HEADER.size)) == HEADER.size:
        request = requests.read(HEADER.unpack(header)[0])
        try:
            reply = _limited(handle, request, cpu_seconds)
        except OutOfTime:
            _disarm()  # the timer may have struck once more on the way here
            reply = b""
        except (MemoryError, RecursionError):
            os._exit(CRASH_STATUS)
        _send(replies, reply)


def start_failed(error: Exception) -> None:
    """Tell the pool in place of being ready, and end."""
    _send(os.fdopen(os.dup(1), "wb"), f"{type(error).__name__}: {error}".encode())
    sys.exit(1)


def _limited(handle: Callable[[bytes], bytes], request: bytes, cpu_seconds: float) -> bytes:
    import resource

    global _armed
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    whole = int(usage.ru_utime + usage.ru_stime + cpu_seconds) + SPARE_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (whole if hard == resource.RLIM_INFINITY else min(whole, hard), hard))
    _armed = True
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds, 0.1)  # again and again: one may be lost inside a bare `except`
    try:
        return handle(request)
    finally:
        _disarm()


def _disarm() -> None:
    global _armed
    _armed = False
    signal.setitimer(signal.ITIMER_PROF, 0)


def _out_of_time(signum: int, frame: FrameType | None) -> None:
    if _armed:
        raise OutOfTime


def _send(file: BinaryIO, payload: bytes) -> None:
    file.write(HEADER.pack(len(payload)) + payload)
    file.flush()
