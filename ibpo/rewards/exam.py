"""What a problem asks of a program: the tests, the names that they need, and the program out of a response."""

from __future__ import annotations

import ast
import builtins
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from ibpo.errors import IbpoError
from ibpo.programs import MARKS, choose_program
from ibpo.rewards.judges import Candidate

STARRED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
IMPORTED = [name for name in STARRED if name not in ("builtins", "typing")]
CONTEST_PRELUDE = "".join(
    [
        *(f"from {name} import *\n" for name in STARRED),
        *(f"import {name}\n" for name in IMPORTED),
        "sys.setrecursionlimit(50000)\n",
    ]
)
"""What LiveCodeBench's programs may use without importing it (`lcb_runner/evaluation/testing_util.py`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """One program, and what decides about it: tests that call it, or inputs with the outputs that they should give."""

    program: str
    support: tuple[str, ...] = ()
    """Other blocks of the response, whose definitions the program uses."""
    prelude: str = ""
    setup: str = ""
    """The problem's own source, before the program."""
    tests: str = ""
    entry_points: tuple[str, ...] = ()
    """Names of the tests that the program defines, even where Python or the setup has something of that name."""
    imports: str = ""
    """Imports that the tests rely on and do not make: a program's own modules of these names do not count."""
    num_calls: int = 0
    """Where each call has its own limit of CPU time: how many there are."""
    inputs: tuple[tuple[str, str], ...] = ()
    """(stdin, expected stdout)."""

    def source(self) -> dict[str, Any]:
        """All that the program's process is given."""
        return {
            "program": self.program,
            "support": self.support,
            "prelude": self.prelude,
            "setup": self.setup,
        }


def assemble(candidate: Candidate) -> Exam | None:
    """The program of a response and the problem's tests; None where there is no answer.

    Raises:
        IbpoError: for a problem without tests.
    """
    problem = candidate.problem
    answer = (candidate.predicted_answer or "").replace("\r\n", "\n").lstrip(MARKS)
    cases = problem.info.get("cases")
    if cases:
        if isinstance(cases, str) or not all(
            isinstance(case, Mapping) and all(isinstance(case.get(key), str) for key in ("input", "output"))
            for case in cases
        ):
            raise IbpoError(
                f"problem {problem.problem_id}: info['cases'] needs a list of {{'input': TEXT, 'output': TEXT}}"
            )
        return _contest_exam(candidate, answer, cases) if answer.strip() else None
    tests, setup = problem.info.get("tests"), str(problem.info.get("setup") or "").lstrip(MARKS)
    if not isinstance(tests, str) or not tests.strip():
        raise IbpoError(f"problem {problem.problem_id}: has no tests; give source text in info['tests']")
    if not answer.strip():
        return None
    names, imports = entry_points(tests, setup, problem.answer), library_imports(tests, setup, problem.answer)
    if isinstance(named := problem.info.get("entry_point"), str) and named:
        names = tuple({*names, named})
    program, support = choose_program(candidate.completion, answer, names, continues=bool(setup.strip()))
    return Exam(program=program, support=tuple(support), setup=setup, tests=tests, entry_points=names, imports=imports)


def _contest_exam(candidate: Candidate, answer: str, cases: Sequence[Mapping[str, str]]) -> Exam:
    """A problem of LiveCodeBench's form: calls of one function, or inputs and outputs."""
    name = str(candidate.problem.info.get("fn_name") or "")
    if not name:
        program, support = choose_program(candidate.completion, answer, (), reads=True)
        inputs = tuple((case["input"], case["output"]) for case in cases)
        return Exam(program=program, support=tuple(support), prelude=CONTEST_PRELUDE, inputs=inputs)
    program, support = choose_program(candidate.completion, answer, ("Solution", name))
    method = "class Solution" in program
    try:
        calls = [([json.loads(line) for line in case["input"].split("\n") if line.strip()], json.loads(case["output"]))
                 for case in cases]  # fmt: skip
    except ValueError:
        raise IbpoError(
            f"problem {candidate.problem.problem_id}: info['cases'] holds arguments or a result of {name} that are not "
            "JSON; write the arguments one a line, texts in quotation marks"
        ) from None
    tests = (
        f"import json\ncalls = json.loads({json.dumps(calls)!r})\n"
        f"function = {'Solution().' if method else ''}{name}\n"
        "for number, (arguments, expected) in enumerate(calls, start=1):\n"
        "    found = function(*arguments)\n"
        "    if isinstance(found, tuple):\n"
        "        found = list(found)\n"
        "    assert found == expected, f'another result for call {number} of {len(calls)}'\n"
    )
    return Exam(
        program=program,
        support=tuple(support),
        prelude=CONTEST_PRELUDE,
        tests=tests,
        entry_points=("Solution" if method else name,),
        num_calls=len(calls),
    )


@lru_cache(maxsize=1 << 14)
def entry_points(tests: str, setup: str, answer: str) -> tuple[str, ...]:
    """The names that tests use and a program has to define.

    These are names that neither the tests nor the setup define (a function of the setup without a body counts as not
    defined). A name of Python's own counts where the problem's own answer defines it, as some of MBPP's do, or where
    the tests use no other name.

    Example:
        >>> entry_points("assert sum(10, 15) == 6", "", ""), entry_points("assert abs(f(2) - x) < 1", "x = 3", "")
        (('sum',), ('f',))
    """
    tree = _parse(tests)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    used -= _defined(tree)
    own = {name for name in used if hasattr(builtins, name)}
    theirs = set(re.findall(r"^(?:async +def|def|class) +(\w+)", answer.replace("\r", ""), re.MULTILINE))
    found = (used - own - _defined_in(setup) - _defined_in(library_imports(tests, setup, answer))) | (own & theirs)
    if not found:
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        inner = [call for call in calls if not any(isinstance(n, ast.Call) for a in call.args for n in ast.walk(a))]
        found = {call.func.id for call in inner if isinstance(call.func, ast.Name)} & own
    return tuple(sorted(found))


@lru_cache(maxsize=1 << 14)
def library_imports(tests: str, setup: str, answer: str) -> str:
    r"""Imports of the standard library whose names tests use without importing them.

    They are those of the problem's own answer; where there is none, modules of which the tests use attributes.

    Example:
        >>> library_imports("assert isclose(f(1), sys.maxsize)", "", "import sys, re\nfrom math import isclose")
        'import sys\nfrom math import isclose'
        >>> library_imports("assert f(1) == math.pi", "", "")
        'import math'
    """
    tree, own = _parse(tests), _parse(answer)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - _defined(tree) - _defined_in(setup)
    if not own.body:
        used = {n.value.id for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
        return "\n".join(f"import {name}" for name in sorted(used & names & sys.stdlib_module_names))
    found: list[str] = []
    for node in own.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            kept = [alias for alias in node.names if _defined(alias) & names]
            node.names = [a for a in kept if (module or a.name).partition(".")[0] in sys.stdlib_module_names]
            found += [ast.unparse(node)] if node.names else []
    return "\n".join(found)


def _parse(source: str) -> ast.Module:
    """A source's tree; an empty one where it does not parse by itself, as the rest of a function is not."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.parse("")


def _defined(tree: ast.AST) -> set[str]:
    """All names that are given a meaning somewhere in the tree."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found.add(other or name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)):
                found.add(name)
            case _:
                pass
    return found


def _defined_in(setup: str) -> set[str]:
    tree = _parse(setup)
    tree.body = [node for node in tree.body if not _is_stub(node)]
    return {name for node in tree.body for name in _defined(node) if not isinstance(node, ast.ClassDef)}


def _is_stub(node: ast.stmt) -> bool:
    """A function or class with nothing but imports, a docstring, `pass` or `...`."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and all(
        isinstance(line, ast.Pass | ast.Import | ast.ImportFrom)
        or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        for line in node.body
    )


def same_output(found: str, expected: str) -> str:
    r"""How an output differs from the expected one, by LiveCodeBench's rules; empty where it does not.

    As many lines, each equal without white space around it, or equal as numbers, word by word and exactly.

    Example:
        >>> same_output("1.0 2\n3 \n\n", "1 2.00\n3"), same_output("1\n2", "1 2"), same_output("a", "b")
        ('', '2 lines, 1 expected', 'line 1 differs')
    """
    lines, wanted = ([line.strip() for line in text.strip().split("\n")] for text in (found, expected))
    if len(lines) != len(wanted):
        return f"{len(lines)} lines, {len(wanted)} expected"
    for number, (line, other) in enumerate(zip(lines, wanted, strict=True), start=1):
        if line != other and not _same_numbers(line, other):
            return f"line {number} differs"
    return ""


def _same_numbers(line: str, other: str) -> bool:
    try:
        return [Decimal(word) for word in line.split()] == [Decimal(word) for word in other.split()]
    except (InvalidOperation, ValueError):
        return False
