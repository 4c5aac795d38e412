"""The pool against workers that hang, crash and hog memory: real processes, and every other request is answered."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ibpo.errors import IbpoError
from ibpo.rewards.workers import PIPE_BYTES, RequestFailed, WorkerPool

WORKER = """
import os, time
from ibpo.rewards.workers import serve

def handle(request):
    if request == b"loop":
        while True:
            pass
    if request == b"swallow":
        while True:
            try:
                while True:
                    pass
            except:
                pass
    if request == b"stuck":
        return str(len(str(7 ** (7 ** 9)))).encode()
    if request == b"sleep":
        time.sleep(60)
    if request == b"memory":
        return bytes(4 << 30)
    if request == b"exit":
        os._exit(3)
    if request == b"noise":
        print("not a reply", flush=True)
    return b"re:" + request + b" " + str(os.getpid()).encode()

serve(handle, cpu_seconds=0.3, memory_bytes=1 << 30)
"""


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def pool(request, tmp_path, monkeypatch):
    (tmp_path / "worker_under_test.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent.parent)]))
    pool = WorkerPool("worker_under_test", num_workers=request.param, max_seconds=12)
    yield pool
    pool.close()


def outcome(future):
    try:
        return future.result(60).split()[0].decode()
    except RequestFailed as error:
        return str(error)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("loop", "took too long"),
        ("swallow", "took too long"),
        ("stuck", "took too long"),
        ("sleep", "took too long"),
        ("memory", "crashed its worker (status 70)"),
        ("exit", "crashed its worker (status 3)"),
        ("noise", "re:noise"),
    ],
)
def test_only_the_bad_request_fails(pool, bad, reason):
    requests = [f"a{i}" for i in range(10)] + [bad] + [f"b{i}" for i in range(10)]
    futures = [pool.submit(request.encode()) for request in requests]
    expected = [reason if request == bad else f"re:{request}" for request in requests]
    assert [outcome(future) for future in futures] == expected


def test_many_bad_requests_and_large_ones(pool):
    large = b"x" * (PIPE_BYTES - 4)
    requests = [b"exit", large, b"a", large, b"loop", b"exit", b"b", large]
    out = [outcome(pool.submit(request)) for request in requests]
    assert [text[:7] for text in out] == [
        "crashed",
        "re:xxxx",
        "re:a",
        "re:xxxx",
        "took to",
        "crashed",
        "re:b",
        "re:xxxx",
    ]
    with pytest.raises(ValueError, match="at most"):
        pool.submit(large + b"x")


def test_threads_share_the_pool_and_workers_are_kept(pool):
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda i: pool.submit(f"{i}".encode()).result(60), range(200)))
    assert [reply.split()[0] for reply in replies] == [f"re:{i}".encode() for i in range(200)]
    assert len({reply.split()[1] for reply in replies}) <= pool._num_workers


def test_it_goes_on_after_close_and_in_a_fork(pool):
    first = pool.submit(b"a").result(60)
    pool.close()
    assert pool.submit(b"a").result(60) != first
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if outcome(pool.submit(b"in the child")) == "re:in" else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert outcome(pool.submit(b"after")) == "re:after"


def test_a_worker_that_cannot_start_is_an_error_not_a_hang(tmp_path, monkeypatch):
    pool = WorkerPool("no_such_module_anywhere", num_workers=2, max_seconds=30)
    for _ in range(2):
        with pytest.raises(IbpoError, match="no_such_module_anywhere does not start: it ended with status 1"):
            pool.submit(b"a").result(60)
    (tmp_path / "says_why.py").write_text(
        "from ibpo.rewards.workers import start_failed\nstart_failed(ImportError('no sympy'))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(IbpoError, match="ImportError: no sympy"):
        WorkerPool("says_why", num_workers=1, max_seconds=30).submit(b"a").result(60)


def test_workers_end_with_their_pool():
    code = """
import os, subprocess
from ibpo.rewards.math import MathJudge
judge = MathJudge(num_workers=2)
judge("x+1", "1+x")
listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True)
print(*listed.stdout.split(), flush=True)
"""
    pytest.importorskip("math_verify")
    pids = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100).stdout.split()
    assert pids
    deadline = time.monotonic() + 60
    while any(_is_worker(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_worker(pid):
    try:
        return b"math_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
