"""The inside of a worker process: answer requests one by one, within limits of CPU time and memory.

The limits count CPU time, not wall time, so that a verdict does not depend on how busy the machine is. Two layers: a
timer whose exception ends what runs in Python, and the kernel's limit for what is stuck in one C call (a power of huge
integers), which ends the process; the pool then replaces it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import BinaryIO

from ibpo.rewards.workers import HEADER

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
        cpu_seconds: of one request; above it the reply is `b""` and the pool is told why.
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
