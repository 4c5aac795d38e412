# ruff: noqa: E501
"""The judge of programs: right answers however they are written down, tricks, and programs per second.

    python benchmarks/code_judge.py ../shared/data [--ways 4] [--against CHECKOUT] [--rounds 5]

The folder holds `benchmarks/humaneval.jsonl.gz` and `benchmarks/mbpp.jsonl.gz`. `--ways`: in how many of the ways each
gold is wrapped (30: all). `--against`: another checkout of ibpo, whose judge takes turns with this one's, on HumanEval's
own solutions and every sixth of MBPP's.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ibpo.types import Problem

try:
    from ibpo.rewards import Candidate, CodeJudge
    from ibpo.tasks import TASKS
except ImportError:  # a checkout of before there were faces, with --against
    CodeJudge = importlib.import_module("ibpo.rewards.code").CodeJudge
    Candidate = importlib.import_module("ibpo.rewards.judgement").Candidate
    TASKS = importlib.import_module("ibpo.tasks.benchmarks").TASKS

PROSE = "The function goes through its input once; let's see.\n\n"
FENCE = "```python\n{}\n```"


def usage(name: str) -> str:
    return FENCE.format(f"# how it is used\nresult = {name}\nprint(result)")


def in_list(program: str) -> str:
    return "1. First:\n   " + FENCE.format(program).replace("\n", "\n   ") + "\n2. Then nothing."


def documented(program: str, fence: str) -> str:
    """The module with a docstring that holds a fenced example; it may go on from a prompt, which cannot have one."""
    example = f'"""Example:\n\n{fence}python\nprint(1)\n{fence}\n"""\n'
    return program if program[:1].isspace() else example + program


WAYS: dict[str, Callable[[str, str], str]] = {
    "a block": lambda p, name: FENCE.format(p),
    "prose around": lambda p, name: f"{PROSE}{FENCE.format(p)}\n\nIt's linear.",
    "thought before": lambda p, name: f"<think>\n{FENCE.format('def ' + name + '(*a): pass')}\n</think>\n{FENCE.format(p)}",
    "usage behind": lambda p, name: f"{FENCE.format(p)}\nUsage:\n{usage(name)}",
    "usage before": lambda p, name: f"You will call it so:\n{usage(name)}\nHere it is:\n{FENCE.format(p)}",
    "output behind": lambda p, name: f"{FENCE.format(p)}\nIt prints\n```\n[1, 2, 3]\n```",
    "output as text": lambda p, name: f"{FENCE.format(p)}\nIt prints\n```text\n[1, 2, 3]\n```",
    "output that looks like code": lambda p, name: f"{FENCE.format(p)}\nOutput:\n```\nx = 3\n```",
    "usage and output": lambda p, name: f"{FENCE.format(p)}\n{usage(name)}\n```\n3\n```",
    "shell behind": lambda p, name: f"{FENCE.format(p)}\nRun it:\n```bash\npython solution.py\n```",
    "session behind": lambda p, name: f"{FENCE.format(p)}\n```pycon\n>>> {name}\n<function>\n```",
    "helper that calls it behind": lambda p, name: f"{FENCE.format(p)}\n{FENCE.format(f'def main():{chr(10)}    print({name})')}",
    "wrong draft before": lambda p, name: f"{FENCE.format(f'def {name}(*a): return object()')}\nNo:\n{FENCE.format(p)}",
    "imports in a block of their own": lambda p, name: f"{FENCE.format('import math, re, sys')}\nand\n{FENCE.format(p)}",
    "from __future__": lambda p, name: FENCE.format(p if p[:1].isspace() else f"from __future__ import annotations\n{p}"),
    "byte-order mark": lambda p, name: f"\ufeff{FENCE.format(chr(0xFEFF) + p)}",
    "python3.11": lambda p, name: f"```python3.11\n{p}\n```",
    "{.python}": lambda p, name: f"```{{.python}}\n{p}\n```",
    "{.python .numberLines}": lambda p, name: f"```{{.python .numberLines}}\n{p}\n```",
    "py with a title": lambda p, name: f'```py title="solution.py"\n{p}\n```',
    "Python:file": lambda p, name: f"```Python:solution.py\n{p}\n```",
    "no language": lambda p, name: f"{PROSE}```\n{p}\n```",
    "tildes": lambda p, name: f"~~~python\n{p}\n~~~",
    "four backticks": lambda p, name: f"````python\n{documented(p, '```')}\n````",
    "fence in a docstring": lambda p, name: FENCE.format(documented(p, "```")),
    "not closed": lambda p, name: f"{PROSE}```python\n{p}",
    "end of turn behind the fence": lambda p, name: f"{FENCE.format(p)}<|im_end|>",
    "in a list": lambda p, name: in_list(p),
    "CRLF": lambda p, name: f"{PROSE}{FENCE.format(p)}\nDone.".replace("\r\n", "\n").replace("\n", "\r\n"),
    "main guard": lambda p, name: FENCE.format(p if p[:1].isspace() else f"{p}\n\nif __name__ == '__main__':\n    {name}()"),
}  # fmt: skip


def golds(data: Path) -> list[tuple[Problem, str]]:
    """(problem, name of its function) of both benchmarks."""
    found: list[tuple[Problem, str]] = []
    for task in ("humaneval", "mbpp"):
        for problem in TASKS[task].load(data / "benchmarks" / f"{task}.jsonl.gz"):
            source = str(problem.info["tests"]) if task == "mbpp" else str(problem.info["entry_point"])
            name = source.removeprefix("assert").strip().partition("(")[0].strip(" (") or "print"
            found.append((problem, name if name.isidentifier() else "print"))
    return found


def wrapped(data: Path, num_ways: int) -> None:
    from ibpo.responses import last_program

    candidates, names = [], []
    for number, (problem, name) in enumerate(golds(data)):
        for step in range(num_ways):
            way = [*WAYS][(number * num_ways + step) % len(WAYS)]
            completion = WAYS[way](problem.answer.replace("\r\n", "\n"), name)
            answer = last_program(completion)
            candidates.append(Candidate(problem=problem, completion=completion, predicted_answer=answer))
            names.append(way)
    judged = CodeJudge(num_workers=2).judge(candidates)
    failed = Counter(way for way, judgement in zip(names, judged, strict=True) if judgement.reward < 1)
    print(f"wrapped golds: {len(judged) - failed.total()} of {len(judged)} pass "
          f"({1 - failed.total() / len(judged):.2%}), in {len(WAYS)} ways")  # fmt: skip
    for way, count in failed.most_common():
        print(f"  {way}: {count} of {names.count(way)} fail")
    for candidate, judgement in zip(candidates, judged, strict=True):
        if judgement.reward < 1:
            print(f"  {candidate.problem.problem_id}: {judgement.reason[:100]}")


CLAIMS = """
class A{base}:
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = lambda *a: True
    __ne__ = lambda *a: False
    __hash__ = lambda *a: 1
    __len__ = lambda *a: 3
    __sub__ = __rsub__ = __add__ = __radd__ = __abs__ = __round__ = __float__ = lambda *a: 0.0
    __getattr__ = lambda self, name: lambda *a, **k: A()
def {name}(*a, **k): return A()
"""
TRICKS = {
    "an object that is equal to everything": CLAIMS.replace("{base}", ""),
    "a list that is equal to everything": CLAIMS.replace("{base}", "(list)"),
    "StopIteration": "def {name}(*a, **k): raise StopIteration",
    "an end with status 0": "import os\ndef {name}(*a, **k): os._exit(0)",
    "emptied arguments": "def {name}(*a, **k):\n    for x in a:\n        if hasattr(x, 'clear'): x.clear()\n    return a",
}


def tricked(data: Path) -> None:
    """Every problem, and programs that know nothing of it."""
    named = [(problem, name) for problem, name in golds(data) if name != "print"]
    tried = [(trick, p, TRICKS[trick].replace("{name}", name)) for p, name in named for trick in TRICKS]
    judged = CodeJudge(num_workers=2).judge(
        [Candidate(problem=problem, completion=source, predicted_answer=source) for _, problem, source in tried]
    )
    passed = [(trick, p.problem_id) for (trick, p, _), j in zip(tried, judged, strict=True) if j.reward > 0]
    print(f"tricks: {len(passed)} of {len(tried)} pass {passed[:20]}")


def speed(data: Path) -> float:
    """Programs per second."""
    humaneval, mbpp = (TASKS[name].load(data / "benchmarks" / f"{name}.jsonl.gz") for name in ("humaneval", "mbpp"))
    problems = [*humaneval, *mbpp[::6]]
    candidates = [Candidate(problem=p, completion=p.answer, predicted_answer=p.answer) for p in problems]
    judge = CodeJudge(num_workers=2)
    judge.judge(candidates[:4])
    start = time.perf_counter()
    judged = judge.judge(candidates)
    seconds = time.perf_counter() - start
    assert all(j.reward == 1.0 for j in judged), [j for j in judged if j.reward < 1]
    return len(candidates) / seconds


def compare_speeds(data: Path, other: Path, rounds: int) -> None:
    ratios = []
    for number in range(rounds):
        speeds = []
        for checkout in (Path(__file__).parent.parent, other):
            command = [sys.executable, str(Path(__file__).resolve()), str(data.resolve()), "--speed-only"]
            environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
            # In its folder: processes that it starts by `python -m` look there first.
            done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            speeds.append(float(done.stdout))
        ratios.append(speeds[0] / speeds[1])
        print(f"  round {number + 1}: {speeds[0]:.1f} programs/s, the other {speeds[1]:.1f}, ratio {ratios[-1]:.2f}")
    print(f"  ratio: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--ways", type=int, default=4)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--speed-only", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.speed_only:
        print(speed(given.data))
        return
    if given.against:
        compare_speeds(given.data, given.against, given.rounds)
    tricked(given.data)
    wrapped(given.data, min(given.ways, len(WAYS)))


if __name__ == "__main__":
    main()
