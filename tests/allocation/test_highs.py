"""Nothing but the caller's own output reaches standard output."""

import subprocess
import sys

PROGRAM = """
import ctypes
import os
import numpy as np
from ibpo.allocation import allocate
from ibpo.allocation.highs import quiet_stdout

libc = ctypes.CDLL(None)
libc.puts(b"before")
with quiet_stdout():
    libc.puts(b"inside")
    os.write(1, b"inside, unbuffered")
libc.puts(b"after")

r = np.random.default_rng(0)  # an instance on which HiGHS 1.12 prints its line
problem = np.repeat(np.arange(200), 5)
utility, cost = r.normal(size=1000).round(1), np.floor(r.lognormal(5, 1, 1000))
allocate(utility, problem, cost, float(np.median(cost)), choose="at_most_one")
libc.fflush(None)
"""


def test_highs_prints_nothing():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["before", "after"]
