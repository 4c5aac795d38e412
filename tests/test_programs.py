"""Which program a response gives: fences of every kind, and the block that defines what is asked for."""

from __future__ import annotations

import pytest

from ibpo.programs import choose_program, last_program, python_blocks
from ibpo.responses import FAMILIES

F = "def f(x):\n    return x + 1"
DOC = 'def f(x):\n    """Add one.\n\n```python\nf(1)\n```\n\n    ```\n    2\n    ```\n    """\n    return x + 1'


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        (f"```python\n{F}\n```", F),
        (f"```python3.11\n{F}\n```", F),
        (f"```{{.python}}\n{F}\n```", F),
        (f"```{{.python .numberLines startFrom=1}}\n{F}\n```", F),
        (f'```python title="f.py"\n{F}\n```', F),
        (f"```python:f.py\n{F}\n```", F),
        (f"```Python 3\n{F}\n```", F),
        (f"``` py\n{F}\n```", F),
        (f"~~~python\n{F}\n~~~", F),
        (f"````python\n{DOC}\n````", DOC),
        (f"```python\n{DOC}\n```\nIt works.", DOC),
        (f"```python\n{DOC}", DOC),
        (f"\ufeff```python\n\ufeff{F}\n```", F),
        (f"```python\r\n{F}\r\n```\r\n".replace("\n", "\r\n").replace("\r\r", "\r"), F),
        ("1. So:\n   ```python\n" + F.replace("def", "   def").replace("    return", "       return") + "\n   ```", F),
        ("> ```python\n> def f(x):\n>     return x + 1\n> ```", F),
        (f"It is ```python\n{F}\n```", F),
        (f"```python\n{F}\n```\nUsage:\n```python\nprint(f(3))\n```", F),
        (f"```python\n{F}\n```\nIt prints\n```\n4\n```", F),
        (f"```python\n{F}\n```\n```text\n4\n```\n```bash\npython f.py\n```", F),
        (f"```python\n{F}\n```\n```pycon\n>>> f(3)\n4\n```", F),
        (f"<think>\n```python\ndef f(x): return 0\n```\n</think>\n```python\n{F}\n```", F),
        (f"```python\ndef f(x): return 0\n```\nNo:\n```python\n{F}\n```", F),
        (f"```python\n{F}\n```<|im_end|>", F),
        (f"```\npython\n{F}\n```", F),
        (f"<|channel|>final<|message|>```python\n{F}\n```", F),
        (f"```python\n{F}<|eot_id|>", F),
        (f"```{{code-cell}} python\n{F}\n```", F),
        (f"```python\n{F}\n```".replace("\n", "\r"), F),
        ("```python\n" + F.replace("    ", "\u00a0\u00a0\u00a0 ") + "\n```", F),
        (F, F),
        (f"[PYTHON]\n{F}\n[/PYTHON]", F),
        (f"So:\n[BEGIN]\n{F}\n[DONE]", F),
        (f"[PYTHON]\n```python\n{F}\n```\n[/PYTHON]", F),
        (f"<think>\nMaybe\n```python\n{F}\n```\nNo, but", None),
        ("the answer is 3", None),
        ("```text\nx\n```", None),
        ("```python\n\n```", None),
    ],
)
def test_the_program_of_a_response(completion, program):
    assert last_program(completion) == program


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_program_is_taken_out_of_a_thought(family):
    draft, block = "Try\n```python\ndef f(x):\n    return 0\n```\n", f"```python\n{F}\n```"
    whole = f"{family.think}{draft}{family.end_think}{family.to_answer}{block}"
    assert python_blocks(whole) == python_blocks(whole.removeprefix(family.think)) == [F]
    assert python_blocks(family.think + draft) == []


def test_a_string_without_end_hides_no_later_block():
    assert python_blocks(f'```python\nx = """\n```\nBetter:\n```python\n{F}\n```')[-1] == F
    assert last_program(f"```\nit's 4\n```\n```python\n{F}\n```") == F


def test_the_block_that_defines_what_is_asked_for():
    uses = "def main():\n    print(f(3))\n\nmain()"
    helper = "import math\n\ndef helper(x):\n    return x"
    needs = "def f(x):\n    return helper(x) + 1"
    completion = f"```python\n{needs}\n```\n```python\n{helper}\n```\n```python\n{uses}\n```"
    program, support = choose_program(completion, uses, ["f"])
    assert program == needs and support == [helper]
    assert choose_program("Other", "x = 1", ["f"]) == ("x = 1", [])
    body = "    return x + 1"
    assert choose_program(f"```\n{body}\n```\n```\nf(3)\n```", "f(3)", ["f"], continues=True) == (body, [])
    reads = "n = int(input())\nprint(n)"
    assert choose_program(f"```\n{reads}\n```\n```\n3\n```", "3", [], reads=True) == (reads, [])


def test_time_is_linear():
    for piece in ("```python\n", '"""\n', "```\n'''\n", "```python\nx = '''\n```\n", "`" * 50 + "\n", "'\\"):
        last_program(piece * 20_000)
