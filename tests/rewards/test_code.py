# ruff: noqa: E501
"""The sandbox against programs that want out, and the judge on HumanEval's and MBPP's conventions."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ibpo.errors import IbpoError
from ibpo.programs import last_program
from ibpo.rewards import code
from ibpo.rewards.code import CodeJudge, Limits, run_program, why_not_isolated
from ibpo.rewards.judges import Candidate
from ibpo.types import Problem
from tests.rewards.hostile_programs import FAKES, PROGRAMS, TESTS

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


def test_there_are_enough_hostile_programs():
    assert len(PROGRAMS) >= 60 and len(FAKES) >= 30


NO_NAMESPACES = ("not (isolate and self._make_namespaces())", "True")


@pytest.fixture(scope="module", params=["this kernel", "Linux 5.13"])
def outcomes(request, outside, tmp_path_factory):
    """All of them at once. The second time without namespaces, and with what the first version of Landlock offers."""
    if why_not_isolated():
        pytest.skip(why_not_isolated())
    words, canary, reached = outside
    child = tmp_path_factory.mktemp("child") / "child.py"
    version = "1" if request.param == "Linux 5.13" else "libc.syscall(444, None, 0, 1)"
    source = code.CHILD.read_text().replace("libc.syscall(444, None, 0, 1)", version)
    child.write_text(source.replace(*NO_NAMESPACES) if version == "1" else source)

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


@pytest.fixture(scope="module")
def verdicts():
    if why_not_isolated():
        pytest.skip(why_not_isolated())
    problem = Problem(problem_id="g", prompt="", answer="", info={"tests": TESTS})
    programs = {**FAKES, "": "g = sum"}
    candidates = [Candidate(problem=problem, completion=p, predicted_answer=p) for p in programs.values()]
    return dict(zip(programs, CodeJudge(limits=LIMITS, num_workers=4).judge(candidates), strict=True))


@pytest.mark.parametrize("name", FAKES)
def test_no_program_fakes_its_verdict(name, verdicts):
    assert verdicts[name].reward == 0.0 and verdicts[""].reward == 1.0, verdicts[name]


@confined
@pytest.mark.parametrize(
    ("tests", "program"),
    [
        ("assert all(map(lambda x: g(x) == x, [1, 2]))", "def g(x): raise StopIteration"),
        ("import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(g(1), 2)\n"
         "r = unittest.TestResult()\nT('test').run(r)\nassert r.wasSuccessful()", "import unittest\ndef g(x): raise unittest.SkipTest"),
        ("assert {'a': 1} == g()", "class A:\n    def __hash__(self): return hash('a')\n    def __eq__(self, o): return True\n"
         "def g(): return {A(): 1}"),
        ("assert [1] == g()", "class A(list):\n    def __getattribute__(self, n): return lambda *a: True\n    __eq__ = lambda *a: True\n"
         "def g(): return A()"),
        ("assert g(1).value - 5 == 0", "class A:\n    @property\n    def value(self): return A()\n    def __sub__(self, o): return 0\n"
         "def g(x): return A()"),
        ("assert math.isclose(g(1), 2)", "class M:\n    def isclose(*a): return True\nmath = M()\ndef g(x): return 0"),
        ("class Right:\n    def __eq__(self, o): return o == 5\nassert g() == Right()", "class A:\n    def __eq__(self, o): return True\n"
         "def g(): return A()"),
    ],
)  # fmt: skip
def test_no_program_passes_tests_of_other_forms_by_a_trick(tests, program):
    judged = judge_one(problem_of(tests), f"```python\n{program}\n```")
    assert judged.reward == 0.0, judged


WRITES = """
import mmap, os
keep, written = [], 0
while True:
    with open("f", "w+b") as file:
        file.write(bytes(1 << 20))
    written += 1
    {way}
    os.remove("f")
    print(written, flush=True)
"""


@confined
@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.parametrize(
    "way",
    [
        "pass",
        "keep.append(os.open('f', 0))",
        "keep.append(mmap.mmap(os.open('f', 0), 9, mmap.MAP_PRIVATE, mmap.PROT_READ))",
    ],
)
def test_bytes_written_are_bounded_whatever_is_unlinked(way, namespaces, tmp_path, monkeypatch):
    """A program of gigabytes is ended soon after its 64 MiB, on disk too, and where no file keeps its name."""
    if not namespaces:
        child = tmp_path / "child.py"
        child.write_text(code.CHILD.read_text().replace(*NO_NAMESPACES))
        monkeypatch.setattr(code, "CHILD", child)
    outcome = run_program(WRITES.format(way=way), limits=Limits(wall_seconds=60))
    assert outcome.status in ("failed", "wrote too many or too large files"), outcome
    assert "File too large" in outcome.detail or "No space" in outcome.detail or "open files" in outcome.detail or (
        outcome.status == "wrote too many or too large files"
    ), outcome  # fmt: skip
    assert int(outcome.output.split()[-1]) < 2048


def _descendants_of_a_judge():
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline") as file:
                found += [int(name)] if "ibpo-mark" in file.read() else []
        except OSError:
            pass
    return found


@confined
@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize("killed", ["judge", "starter"])
def test_a_sleeping_program_dies_with_its_judge(isolate, killed, tmp_path):
    child = tmp_path / "ibpo-mark.py"
    child.write_text(code.CHILD.read_text())
    judge = (
        "from pathlib import Path\nfrom ibpo.rewards import code\n"
        f"code.CHILD = Path({str(child)!r})\nlimits = code.Limits(wall_seconds=900)\n"
        f"code.run_program('import time; time.sleep(900)', limits=limits, isolate={isolate})"
    )
    process = subprocess.Popen([sys.executable, "-c", judge])
    try:
        while len(found := _descendants_of_a_judge()) < 3:  # the starter, the program, its tests
            assert process.poll() is None
            time.sleep(0.02)
        starter = min(found)
        os.kill(process.pid if killed == "judge" else starter, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while set(found) & set(_descendants_of_a_judge()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not set(found) & set(_descendants_of_a_judge())
    finally:
        process.kill()
        process.wait()


@confined
def test_a_starter_that_is_killed_is_replaced_for_all_who_used_it(tmp_path, monkeypatch):
    child = tmp_path / "ibpo-mark.py"
    child.write_text(code.CHILD.read_text())
    monkeypatch.setattr(code, "CHILD", child)
    problem = Problem(problem_id="p", prompt="", answer="", info={"tests": "assert f() == 1"})
    programs = [f"import time\ntime.sleep(1)\ndef f(): return 1  # {i}" for i in range(6)]
    candidates = [Candidate(problem=problem, completion=p, predicted_answer=p) for p in programs]

    def kill():
        while len(found := _descendants_of_a_judge()) < 7:
            time.sleep(0.01)
        os.kill(min(found), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    judged = CodeJudge(num_workers=6).judge(candidates)
    killer.join()
    assert [j.reward for j in judged] == [1.0] * 6


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
def test_no_other_folder_can_be_read_or_written(tmp_path):
    (tmp_path / "data.txt").write_text("42")
    assert not run_program(f"open({str(tmp_path / 'data.txt')!r})").passed
    assert not run_program(f"open({str(tmp_path / 'new')!r}, 'w')").passed


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
        with pytest.raises(IbpoError, match=r"or on a throw-away one with judge.isolation = false \(--set"):
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


def judge_one(problem, completion, answer=None):
    answer = last_program(completion) if answer is None else answer
    [judgement] = CodeJudge(limits=LIMITS).judge(
        [Candidate(problem=problem, completion=completion, predicted_answer=answer)]
    )
    return judgement


def problem_of(tests, **info):
    return Problem(problem_id="p", prompt="", answer="", info={"tests": tests, **info})


@confined
@pytest.mark.parametrize(
    ("tests", "program"),
    [
        # Data of every kind comes back as it is.
        ("assert f() == [1, (2, 3), {4: {5}}, None, True, 2.5, 'x', b'y', 3 + 4j, frozenset([6]), range(7)]",
         "def f(): return [1, (2, 3), {4: {5}}, None, True, 2.5, 'x', b'y', 3 + 4j, frozenset([6]), range(7)]"),
        ("assert f(2) == 2 ** 20000 and f(0.5) == 0.5 ** 20000", "def f(x): return x ** 20000"),
        ("import math\nassert math.isnan(f()[0]) and f()[1] == math.inf", "def f(): return [float('nan'), float('inf')]"),
        ("from collections import Counter, deque\nassert f('aab') == Counter('aab') and g([1]) == deque([1])",
         "from collections import Counter as f, deque as g"),
        ("from decimal import Decimal\nfrom fractions import Fraction\nassert f() == (Decimal('1.10'), Fraction(1, 3))",
         "import decimal, fractions\ndef f(): return decimal.Decimal('1.10'), fractions.Fraction(1, 3)"),
        ("import datetime\nassert f(datetime.date(2024, 2, 28)) == datetime.date(2024, 2, 29)",
         "import datetime\ndef f(x): return x + datetime.timedelta(days=1)"),
        ("assert f('\\ud800\\x00') == 2", "f = len"),
        ("assert f(3).x == 3 and f(3) == (3, 4)", "from collections import namedtuple\nP = namedtuple('P', 'x y')\n"
         "def f(x): return P(x, 4)"),
        ("assert f() == 2", "import enum\nclass A(enum.IntEnum):\n    B = 2\ndef f(): return A.B"),
        # Arguments: changed in place, functions, types, iterators.
        ("x = [3, 1, [2]]\ny = x[2]\nf(x)\nassert x == [[2, 9], 1, 3] and y == [2, 9] or x[0] is not y",
         "def f(x):\n    x[2].append(9)\n    x.reverse()"),
        ("x = {'a': [1]}\ny = x['a']\nf(x)\nassert x == {'a': [1, 2], 'b': 0} and y == [1, 2]",
         "def f(x):\n    x['a'].append(2)\n    x['b'] = 0"),
        ("assert f(lambda x: x + 1, [1, 2]) == [2, 3]", "def f(g, x): return list(map(g, x))"),
        ("assert f(lambda x: f(None, x), [1]) == [[1]]", "def f(g, x): return [g(x)] if g else x"),
        ("import math\nassert f(math.sqrt, int, iter([4])) == 2", "def f(g, kind, x): return kind(g(next(x)))"),
        # What is returned may be no data: generators, functions, objects.
        ("assert list(f(3)) == [0, 1, 2] and next(f(3)) == 0 and 2 in f(3)", "def f(n): yield from range(n)"),
        ("assert sorted(f([2, 1])) == [1, 2] and len(list(zip(f([1]), [2]))) == 1", "def f(x): return map(int, x)"),
        ("assert f(2)(3) == 5", "def f(x): return lambda y: x + y"),
        ("root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)\nassert depth(root) == 3 and root.left.value == 2",
         "class Node:\n    def __init__(self, value): self.value, self.left = value, None\n"
         "def depth(n): return n and 1 + (depth(n.left) or 0)"),
        ("s = Stack()\ns.push(1)\ns.push([2])\nassert len(s) == 2 and s.pop() == [2] and s[0] == 1 and str(s) == 'S'",
         "class Stack(list):\n    push = list.append\n    def __str__(self): return 'S'"),
        ("assert Point(1, 2) == Point(1, 2) != Point(2, 1) and isinstance(move(Point(0, 1)), Point) and Point(1, 0) < Point(1, 1)\n"
         "assert {Point(1, 2)} == {Point(1, 2)} and (Point(1, 2) + Point(1, 2)).y == 4",
         "from dataclasses import dataclass\n@dataclass(frozen=True, order=True)\nclass Point:\n    x: int\n    y: int\n"
         "    def __add__(self, p): return Point(self.x + p.x, self.y + p.y)\ndef move(p): return Point(p.x + 1, p.y)"),
        ("with Manager() as m:\n    assert m == 3\nassert closed()", "done = []\nclass Manager:\n    def __enter__(self): return 3\n"
         "    def __exit__(self, *e): done.append(e)\ndef closed(): return done == [(None, None, None)]"),
        ("f()\nassert COUNT == 1\nf()\nassert COUNT == 2", "COUNT = 0\ndef f():\n    global COUNT\n    COUNT += 1"),
        # Exceptions, of Python's own and of the program's.
        ("try: f(0)\nexcept ZeroDivisionError as e: assert 'zero' in str(e)\nelse: assert False", "def f(x): return 1 / x"),
        ("try: f()\nexcept Base as e: assert type(e).__name__ == 'Other' and e.args == (1,)\nelse: assert False",
         "class Base(ValueError): pass\nclass Other(Base): pass\ndef f(): raise Other(1)"),
        ("import json\ntry: f('{')\nexcept json.JSONDecodeError: pass\nelse: assert False", "from json import loads as f"),
        ("import queue\ntry: f()\nexcept queue.Empty: pass\nelse: assert False", "import queue\ndef f(): queue.Queue().get_nowait()"),
        ("r = f()\nassert next(r) == 1\ntry: next(r)\nexcept StopIteration: pass\nelse: assert False", "def f(): yield 1"),
        ("x = list(range(100_000))\ny = x[::-1]\nassert f(x) == y and x[100_000:] == [2 ** 64]", "def f(x):\n    y = x[::-1]\n    x.append(2 ** 64)\n    return y"),
        # What is printed and read.
        ("import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as out:\n    f()\nassert out.getvalue() == 'hi\\n'",
         "def f(): print('hi')"),
        ("import io, sys\nsys.stdin = io.StringIO('3\\n')\nassert f() == 3", "def f(): return int(input())"),
        ("import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(f(1), 2)\n"
         "        self.assertRaises(TypeError, f, 'x')\nr = unittest.TestResult()\nT('test').run(r)\nassert r.wasSuccessful(), r.errors",
         "def f(x): return x + 1"),
        # Names of Python's own, and of modules that only the program imports.
        ("assert sum(10, 15) == 6", "def sum(a, b): return 6"),
        ("assert f((1, 2)) == sys.getsizeof((1, 2))", "import sys\ndef f(x): return sys.getsizeof(x)"),
        ("def check(candidate):\n    assert candidate([1.5]) == 1.5\ncheck(f)", "from __future__ import annotations\ndef f(x: Any): return x[0]"),
    ],
)  # fmt: skip
def test_right_programs_pass_whatever_goes_between_them_and_the_tests(tests, program):
    judged = judge_one(problem_of(tests), f"```python\n{program}\n```")
    assert judged.reward == 1.0, judged


@confined
@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("```python\ndef g(x):\n    return sum(x)\n```\nUsage:\n```python\nprint(g(input()))\n```", 1.0),
        ("```python\ndef g(x):\n    return add(x)\n```\nwith\n```python\ndef add(x):\n    return sum(x)\n```", 1.0),
        (
            "```python\ndef main():\n    print(g(1))\nmain()\n```\nbefore that\n```python\ndef g(x): return sum(x)\n```",
            1.0,
        ),
        ("```python\ndef g(x): return sum(x)\n```\nBetter:\n```python\ndef g(x): return 0\n```", 0.0),
        ("```python\ndef g(x): return sum(x)\n```\nBetter:\n```python\ndef g(x) return sum(x)\n```", 0.0),
        (
            "```python\ndef g(x): return sum(x)\n```\nTest it:\n```python\nfrom solution import g\ndef test(): g([1])\n```",
            1.0,
        ),
        ("```python\ndef g(x): return sum(x)\n```\nIt gives\n```\ng = 3\n```", 1.0),
        ("```python\ndef g(x): return 0\n```\nBetter:\n```python\ng = sum\n```", 1.0),
        ("```python\nfrom builtins import sum as g\n```", 1.0),
        ("\ufeffdef g(x):\n    return sum(x)", 1.0),
    ],
)
def test_the_block_that_defines_the_entry_point_is_judged(completion, reward):
    assert judge_one(MBPP, completion).reward == reward
    answer = "x = 1"  # a reader of your own: what it found is the program
    assert judge_one(MBPP, completion, answer).reason.startswith("failed: NameError")


@confined
@pytest.mark.parametrize(
    "answer",
    [
        "```python\n    return helper(x) + 1\n```\nSo f(1) is\n```python\nf(1)\n```",
        "```python\nreturn helper(x) + 1\n```",
        "```python\ny = helper(x)\n    return y + 1\n```",
        "```python\nfrom __future__ import annotations\ndef f(x: int) -> int:\n    return helper(x) + 1\n```",
        "```python\nf = lambda x: helper(x) + 1\n```",
        "```python\n    def f(x: int) -> int:\n        return helper(x) + 1\n```",
        "```python\ndef f(x: int) -> int:\n    return helper(x) + 1\n\nprint(f(int(input('x: '))))\n```",
    ],
)
def test_answers_that_go_on_from_a_prompt(answer):
    assert judge_one(HUMAN_EVAL, answer).reward == 1.0


def contest(*cases, name=""):
    found = [
        {"input": given, "output": result, "testtype": "functional" if name else "stdin"} for given, result in cases
    ]
    return Problem(problem_id="c", prompt="", answer="", info={"cases": found, **({"fn_name": name} if name else {})})


READS = contest(("2\n1 2\n", "3.0\n"), ("1\n5", "5\n\n"))
ADD = contest(("[1, 2]\n3", "[4, 5]"), ("[]\n3", "[]"), name="add")
SOLUTION = "class Solution:\n    def add(self, nums: List[int], k: int) -> List[int]:\n        return {}"


@confined
@pytest.mark.parametrize(
    ("problem", "program", "reason"),
    [
        (READS, "n = int(input())\nprint(sum(map(int, input().split())))", "passed its tests"),
        (READS, "import sys\ndef main():\n    print(sum(map(int, sys.stdin.read().split()[1:])))\n"
         "if __name__ == '__main__':\n    main()", "passed its tests"),
        (READS, "n, *x = map(int, open(0).read().split())\nprint(fsum(x))\nexit(0)", "passed its tests"),
        (READS, "import threading\ndef main():\n    input()\n    print(eval(input().replace(' ', '+')))\n"
         "threading.Thread(target=main).start()", "passed its tests"),
        (READS, "import atexit\natexit.register(lambda: print(sum(map(int, input().split()))))\ninput()", "passed its tests"),
        (READS, "from __future__ import annotations\ninput()\nprint(sum(map(int, input().split())))", "passed its tests"),
        (READS, "print(3)", "failed: line 1 differs, input 2 of 2"),
        (READS, "print(3)\nprint(3)", "failed: 2 lines, 1 expected, input 1 of 2"),
        (READS, "print(3)\n1 / 0", "failed: ZeroDivisionError: division by zero (line 2), input 1 of 2"),
        (READS, "import os\nos._exit(0)", "failed: line 1 differs, input 1 of 2"),
        (READS, "import os\nos._exit(3)", "failed: status 3, input 1 of 2"),
        (READS, "while True: pass", "took too long: input 1 of 2"),
        (READS, "print('x' * 100_000)", "wrote too much output"),
        (READS, "x = (", "failed: SyntaxError"),
        (ADD, SOLUTION.format("[n + k for n in nums]"), "passed its tests"),
        (ADD, SOLUTION.format("tuple(n + k for n in nums)"), "passed its tests"),
        (ADD, "def add(nums, k): return list(accumulate([k])) and [n + k for n in nums]", "passed its tests"),
        (ADD, SOLUTION.format("[n + k + 1 for n in nums]"), "failed: AssertionError: another result for call 1 of 2"),
        (ADD, SOLUTION.format("None"), "failed: AssertionError: another result for call 1 of 2"),
        (ADD, "class Solution:\n    def other(self): pass", "failed: AttributeError"),
        (ADD, SOLUTION.format("[n + k for n in nums] or exec('while 1: pass')"), "took too long"),
        (ADD, SOLUTION.format("[n + k for n in nums] or exec('import time; time.sleep(99)')"), "took too long"),
        (ADD, "class A(list):\n    def __eq__(self, o): return True\n" + SOLUTION.format("A()"), "failed: AssertionError"),
    ],
)  # fmt: skip
def test_contest_problems(problem, program, reason):
    judged = judge_one(problem, f"So:\n```python\n{program}\n```\nFor\n```\n1\n```")
    assert judged.reason.startswith(reason) and judged.reward == float(reason == "passed its tests"), judged


@confined
def test_large_inputs_and_outputs():
    numbers = "\n".join(map(str, range(200_000)))
    judged = judge_one(contest((numbers, numbers)), "```python\nprint(open(0).read())\n```")
    assert judged.reward == 1.0, judged


def test_a_problem_without_tests_is_an_error():
    candidate = Candidate(problem=Problem(problem_id="p7", prompt="", answer=""), completion="", predicted_answer="x")
    with pytest.raises(IbpoError, match=r"problem p7: has no tests; give source text in info\['tests'\]"):
        code.assemble(candidate)


@confined
@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (contest((3, "6")), "problem c: info.'cases'. needs a list of"),
        (contest(("3", None)), "problem c: info.'cases'. needs a list of"),
        (
            contest(("[1, 2]\nthree", "[4, 5]"), name="add"),
            "problem c: info.'cases'. holds arguments .* of add that are",
        ),
    ],
)
def test_cases_of_ones_own_that_are_no_texts(problem, message):
    with pytest.raises(IbpoError, match=message):
        judge_one(problem, "def add(nums, k):\n    return nums")
