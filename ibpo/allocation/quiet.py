"""HiGHS without its stray line.

The HiGHS that scipy bundles prints `HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();` with a
bare `printf` whenever it repairs a solution: no option turns it off (jump-dev/HiGHS.jl, issue 312), and a program that
writes JSON to its standard output breaks on it.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Generator

_lock = threading.Lock()


@contextlib.contextmanager
def quiet_stdout() -> Generator[None, None, None]:
    """What C code prints to standard output meanwhile is dropped; Python's own buffered output is not touched.

    Of the whole process: what another thread flushes to standard output meanwhile is dropped, too.
    """
    flush = getattr(ctypes.CDLL(None), "fflush", None) if os.name == "posix" else None
    if flush is None:
        yield
        return
    with _lock:
        try:
            kept = os.dup(1)
        except OSError:  # a daemon without standard output
            yield
            return
        flush(None)  # what was printed before is kept
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.close(null)
            yield
        finally:
            flush(None)
            os.dup2(kept, 1)
            os.close(kept)
