"""The sandbox against programs that want out, and the judge on HumanEval's and MBPP's conventions."""

from __future__ import annotations

import os
import platform
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ibpo.errors import IbpoError
from ibpo.rewards import code
from ibpo.rewards.code import CodeJudge, Limits, run_program, why_not_isolated
from ibpo.rewards.judges import Candidate
from ibpo.types import Problem
from tests.rewards.hostile_programs import PROGRAMS

confined = pytest.mark.skipif(bool(why_not_isolated()), reason=f"no isolation here: {why_not_isolated()}")
LIMITS = Limits(wall_seconds=4, cpu_seconds=1, memory_bytes=256 << 20)
STATUSES = {
    "failed",
    "took too long",
    "ran out of memory",
    "wrote too much output",
    "wrote too many or too large files",
    "ended early",
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A file, a TCP server and a local socket that nothing may reach."""
    folder = tmp_path_factory.mktemp("outside")
    canary = folder / "canary"
    canary.write_text("untouched")
    canary.chmod(0o600)
    reached = []
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(tcp.getsockname())
    local = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    local.bind(str(folder / "socket"))

    def listen(sock, receive):
        try:
            reached.append(receive(sock))
        except OSError:
            return

    for sock, receive in ((tcp, socket.socket.accept), (udp, _datagram), (local, _datagram)):
        sock.settimeout(600)
        threading.Thread(target=listen, args=(sock, receive), daemon=True).start()
    words = {"CANARY": str(canary), "PARENT": str(os.getpid()), "PORT": str(tcp.getsockname()[1])}
    yield {**words, "SOCKET": str(folder / "socket")}, canary, reached
    for sock in (tcp, udp, local):
        sock.close()


def _datagram(sock):
    return sock.recvfrom(10)


def test_there_are_at_least_fifty_hostile_programs():
    assert len(PROGRAMS) >= 50


@pytest.fixture(scope="module", params=["this kernel", "Linux 5.13"])
def outcomes(request, outside, tmp_path_factory):
    """All of them at once. The second time Landlock is asked for no more than its first version offers."""
    if why_not_isolated():
        pytest.skip(why_not_isolated())
    words, canary, reached = outside
    child = tmp_path_factory.mktemp("child") / "child.py"
    version = "1" if request.param == "Linux 5.13" else "libc.syscall(444, None, 0, 1)"
    child.write_text(code.CHILD.read_text().replace("libc.syscall(444, None, 0, 1)", version))

    def run(program):
        for word, value in words.items():
            program = program.replace(word, value)
        return run_program(program, limits=LIMITS)

    before = canary.stat()
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(12) as threads:
        patch.setattr(code, "CHILD", child)
        done = dict(zip(PROGRAMS, threads.map(run, PROGRAMS.values()), strict=True))
    assert canary.read_text() == "untouched" and sorted(p.name for p in canary.parent.iterdir()) == ["canary", "socket"]
    after = canary.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime) == (before.st_mode, before.st_uid, before.st_mtime)
    assert not reached
    return done


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_programs_are_contained(name, outcomes):
    if "libc.syscall(" in PROGRAMS[name] and platform.machine() != "x86_64":
        pytest.skip("written with x86_64's numbers")
    outcome = outcomes[name]
    assert outcome.status in STATUSES and "BROKE OUT" not in outcome.detail, outcome
    assert len(outcome.output) <= LIMITS.output_bytes


@confined
def test_hostile_programs_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(code.tempfile, "tempdir", str(tmp_path))
    for name in ("many empty files", "one huge file", "busy loop", "one fork"):
        run_program(PROGRAMS[name], limits=LIMITS)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@confined
@pytest.mark.parametrize(
    "program",
    [
        "open('f', 'w').write('a')\nassert open('f').read() == 'a'\nimport os\nos.rename('f', 'g')\nos.remove('g')",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\nasyncio.run(f())",
        "import threading\nx = []\nt = threading.Thread(target=x.append, args=(1,))\nt.start()\nt.join()\n"
        "assert x == [1]",
        "import array, bisect, collections, cmath, copy, datetime, decimal, fractions, functools, hashlib, heapq\n"
        "import itertools, json, math, operator, random, re, statistics, string, struct, sys, time, typing, zlib\n"
        "assert hashlib.md5(b'').hexdigest()[:4] == 'd41d' and len(sys.stdin.read()) == 0",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nassert A(1) == A(1)",
        "import tempfile\nwith tempfile.TemporaryFile() as f:\n    f.write(b'x')",
        "print('x' * 60_000)",
        "if __name__ == '__main__':\n    raise SystemExit('a main guard must not run')",
        "from concurrent.futures import ThreadPoolExecutor as T\n"
        "with T(4) as t: assert list(t.map(abs, [-1, 2])) == [1, 2]",
    ],
)
def test_honest_programs_run(program):
    assert run_program(program) == code.Outcome(status="passed", detail="", output=run_program(program).output)
    assert run_program(program).passed


@confined
def test_more_folders_can_be_opened_for_reading(tmp_path):
    (tmp_path / "data.txt").write_text("42")
    program = f"assert open({str(tmp_path / 'data.txt')!r}).read() == '42'"
    assert not run_program(program).passed
    assert run_program(program, readable=[tmp_path]).passed
    assert not run_program(f"open({str(tmp_path / 'new')!r}, 'w')", readable=[tmp_path]).passed


def test_it_refuses_where_it_cannot_confine_unless_told_to(monkeypatch, tmp_path):
    """A kernel without Landlock: the child says so before it runs anything."""
    marker = tmp_path / "ran"
    child = tmp_path / "child.py"
    child.write_text(code.CHILD.read_text().replace("libc.syscall(444, None, 0, 1)", "-1"))
    monkeypatch.setattr(code, "CHILD", child)
    program = f"open({str(marker)!r}, 'w')"
    with pytest.raises(IbpoError, match="cannot be confined here: this kernel has no Landlock"):
        run_program(program)
    assert not marker.exists()
    why_not_isolated.cache_clear()
    try:
        with pytest.raises(IbpoError, match=r"or on a throw-away one with --no-isolation \(isolate=False\)"):
            CodeJudge()
    finally:
        why_not_isolated.cache_clear()
    assert run_program(program, isolate=False).passed and marker.exists()
    CodeJudge(isolate=False)


HUMAN_EVAL = Problem(
    problem_id="HumanEval/x",
    prompt="",
    answer="    return helper(x) + 1\n",
    info={
        "setup": 'from typing import List\n\ndef helper(x):\n    return x\n\ndef f(x: int) -> int:\n    """Add 1."""\n',
        "tests": "def check(candidate):\n    assert candidate(1) == 2\n\ncheck(f)\n",
    },
)
MBPP = Problem(problem_id="mbpp-x", prompt="", answer="", info={"tests": "assert g([1]) == 1\nassert g([2, 3]) == 5"})


@confined
@pytest.mark.parametrize(
    ("problem", "answer", "reward", "reason"),
    [
        (HUMAN_EVAL, "    return helper(x) + 1\n", 1.0, "passed its tests"),
        (HUMAN_EVAL, "def f(x: int) -> int:\n    return helper(x) + 1", 1.0, "passed its tests"),
        (HUMAN_EVAL, "    return x\n", 0.0, "failed: AssertionError"),
        (HUMAN_EVAL, "x + 1", 0.0, "failed: NameError"),
        (HUMAN_EVAL, "def h(x): return x", 0.0, "failed: AssertionError"),
        (HUMAN_EVAL, None, 0.0, "no answer"),
        (HUMAN_EVAL, "\n \n", 0.0, "no answer"),
        (MBPP, "def g(x):\r\n\treturn sum(x)", 1.0, "passed its tests"),
        (MBPP, "    def g(x):\n        return sum(x)", 1.0, "passed its tests"),
        (MBPP, "def g(x):\n    return x[0]", 0.0, "failed: AssertionError"),
        (MBPP, "def g(x) return", 0.0, "failed: SyntaxError"),
        (MBPP, "import os\nos._exit(0)", 0.0, "ended early: status 0"),
        (MBPP, "def g(x):\n    while True: pass", 0.0, "took too long"),
        (MBPP, "\0", 0.0, "failed: "),
        (MBPP, "\ud800", 0.0, "failed: "),
    ],
)
def test_the_judge(problem, answer, reward, reason):
    judge = CodeJudge(limits=LIMITS)
    good = Candidate(problem=MBPP, completion="", predicted_answer="g = sum")
    judged = judge.judge([good, Candidate(problem=problem, completion="", predicted_answer=answer), good])
    assert (judged[1].reward, judged[1].reason[: len(reason)]) == (reward, reason)
    assert judged[0].reward == judged[2].reward == 1.0


def test_a_problem_without_tests_is_an_error():
    candidate = Candidate(problem=Problem(problem_id="p7", prompt="", answer=""), completion="", predicted_answer="x")
    with pytest.raises(IbpoError, match=r"problem p7: has no tests; give source text in info\['tests'\]"):
        code.assemble(candidate)
