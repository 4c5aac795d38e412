"""Run every command of README.md and of the tutorials as a new user would: a fresh clone, a clean environment.

    python docs/run_commands.py                 # README.md, then docs/tutorials/*.md
    python docs/run_commands.py PAGE ...        # these pages, after README.md's installation
    python docs/run_commands.py --wheel FILE    # README.md's quick starts with this wheel, outside the clone

Each ```bash block runs, the blocks of a page in one shell, and must succeed. A ```text block behind it says what it
prints, in this order, however a terminal wraps it; `...` stands for anything. In a block marked `about` the numbers may
differ by a fifth, or by five. Blocks marked `notest` are left out. Prints the time that each block took.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 1800
"""For the commands of one page."""
KEPT = (
    "PATH",
    "TERM",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
)
"""What is kept of the environment, with pip's and uv's variables: a machine says where packages come from."""
BLOCK = re.compile(r"^```(bash|text)( \w+)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")


@dataclass(frozen=True, slots=True)
class Command:
    """A block of a page."""

    text: str
    expected: str = ""
    about: bool = False


def read_commands(page: str) -> Iterator[Command]:
    r"""The blocks that run, each with what the page says that it prints.

    [Command(text='echo 1\n', expected='1\n', about=True)]
    [Command(text='echo 1\\n', expected='1\\n', about=True)]
    >>> list(read_commands("No block."))
    []
    """
    blocks = [(kind, mark.strip(), text) for kind, mark, text in BLOCK.findall(page)]
    for (kind, mark, text), (kind_after, mark_after, text_after) in pairwise([*blocks, ("", "", "")]):
        if kind == "bash" and mark != "notest":
            said = text_after if kind_after == "text" else ""
            yield Command(text, said, mark_after == "about")


def find_difference(printed: str, command: Command) -> str:
    r"""The first part that is missing, or "".

    >>> find_difference("a\nb 10\nc\n", Command("", "...\nb 11\n...\n", about=True))
    ''
    >>> find_difference("a long\nline, 3 of 4\n", Command("", "a\n... line, 3 ...\n"))
    ''
    >>> find_difference("a\n", Command("", "b\n"))
    'b'
    """
    words, place = " ".join(printed.split()), 0
    for part in (" ".join(part.split()) for part in command.expected.split("...")):
        pieces = [re.escape(piece) for piece in NUMBER.split(part)]
        wanted = [float(number.replace(",", "")) for number in NUMBER.findall(part)]
        for match in re.compile(f"({NUMBER.pattern})".join(pieces)).finditer(words, place):
            found = [float(number.replace(",", "")) for number in match.groups()]
            pairs = zip(found, wanted, strict=True)
            if all(abs(a - b) <= (max(5, abs(b) / 5) if command.about else 0) for a, b in pairs):
                place = match.end()
                break
        else:
            return part
    return ""


def run_page(path: Path, folder: Path, home: Path, wheel: Path | None = None) -> list[str]:
    """Run a page's commands in the folder; what went wrong."""
    commands = list(read_commands(path.read_text(encoding="utf-8")))
    work = Path(tempfile.mkdtemp(prefix="blocks-", dir=home))
    script = ["set -eo pipefail", "[ ! -f .venv/bin/activate ] || . .venv/bin/activate"]
    for number, command in enumerate(commands):
        text = command.text
        if wheel is not None:
            text = re.sub(r"pip install (')?\.", lambda match: f"pip install {match[1] or ''}{wheel}", text)
        (work / f"{number}.sh").write_text(text, encoding="utf-8")
        script += [f"exec > {work}/{number}.out 2>&1", f". {work}/{number}.sh", f"date +%s.%N > {work}/{number}.end"]
    env = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(("PIP_", "UV_"))}
    # An environment that this script itself runs in is no part of a new user's PATH.
    env["PATH"] = os.pathsep.join(x for x in env["PATH"].split(os.pathsep) if not (Path(x) / "activate").exists())
    env |= {"HOME": str(home), "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1"}
    start = time.time()
    shell = subprocess.Popen(["bash", "-c", "\n".join(script)], cwd=folder, env=env, start_new_session=True)
    try:
        status = shell.wait(TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        status = -1
    finally:  # what runs in the background too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)
    faults = []
    for number, command in enumerate(commands):
        out, end = work / f"{number}.out", work / f"{number}.end"
        printed = out.read_text(encoding="utf-8", errors="replace") if out.exists() else ""
        name = f"{path.name}, {command.text.strip().splitlines()[-1][:70]}"
        if not end.exists():
            why = "did not end" if status == -1 else f"exit status {status}"
            return [*faults, f"{name}: {why}\n{printed[-3000:]}"]
        ended = float(end.read_text())
        print(f"{ended - start:7.1f} s  {name}", flush=True)
        start = ended
        if missing := find_difference(printed, command):
            faults.append(f"{name}: does not print as the page says: {missing!r}\n{printed[-3000:]}")
    return faults


def main() -> None:
    """Run the pages; exit with 1 where one is not true."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="pages to run instead of the tutorials")
    parser.add_argument("--wheel", type=Path, help="install this wheel instead of the clone, and run README.md alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ibpo-") as name:
        home = Path(name)
        clone = home / "ibpo"
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(clone)], check=True)
        folder = clone
        if options.wheel:
            folder = home / "elsewhere"
            shutil.copytree(clone / "examples", folder / "examples")
        pages = [clone / "README.md"]
        if not options.wheel:
            pages += [path.resolve() for path in options.pages] or sorted((clone / "docs" / "tutorials").glob("*.md"))
        start, faults = time.time(), []
        for page in pages:
            print(page.name, flush=True)
            faults += run_page(page, folder, home, options.wheel and options.wheel.resolve())
        print(f"{time.time() - start:7.1f} s  in all")
    if faults:
        sys.exit("\n\n".join(faults))


if __name__ == "__main__":
    main()
