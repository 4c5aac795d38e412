# ruff: noqa: E501, RUF001  (values are read as one row)
"""Bad input by the thousand: what does every command, file reader and the gateway's body reader say to it?

`python -m tests.bad_inputs [--inputs 10000] [--seed 0]` makes inputs out of valid ones by seeded mutation and hands each to
the real code, in this process:

- **options** of every command, through the command line (`typer`'s runner);
- **recipes** for `train` and `cold-start`, as files and as `--set`, up to where the heavy work begins (`working_in`);
- **gateway** files, through `ibpo serve` up to where it listens;
- **logs**: all the fixtures of `tests/fixtures`, and plain rows, through `allocate`, `report`, `simulate` and `route fit`;
- **models**: files of a model's folder, as `train` and `eval` load it;
- **bodies** of HTTP requests, through the gateway's reading, check and writing; a part through a running gateway.

An input passes where the command succeeds, or ends with exit code 2 and one line `error: ...` (or a usage error of the
options). Findings are: an exception, more than 20 seconds, an error of several lines or with control characters, a 5xx of
the gateway, and *nonsense*: success on an input that is known to be bad (a wrong type, NaN, a negative cost, ...).
"""

from __future__ import annotations

import argparse
import copy
import csv
import gzip
import importlib
import io
import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
import tomllib
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import typer
from typer.testing import CliRunner

from ibpo.cli import COMMANDS, app
from ibpo.errors import IbpoError
from ibpo.serving.gateway import openai_request
from ibpo.serving.gateway.settings import GroupSettings, LimitSettings, ModelSettings

ROOT = Path(__file__).parent.parent
LOGS = ROOT / "tests" / "fixtures"
SECONDS, WALL_SECONDS = 20.0, 120.0
"""An input that takes more CPU time, or more time, has hung."""
SHARES = {
    "bodies": 0.27,
    "gateway": 0.12,
    "recipes": 0.13,
    "options": 0.12,
    "logs": 0.25,
    "files": 0.08,
    "models": 0.03,
}
RUNNING = 0.1
"""Part of the bodies that also go to a running gateway."""


class Reached(IbpoError):
    """The input was taken, and the work would begin."""


class Hung(BaseException):
    """The alarm; no code under test catches it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input: its kind, what was done to it in words, whether it is known to be bad, and how to hand it over."""

    kind: str
    what: str
    bad: bool
    run: Callable[[], str]
    """Returns `taken` or `refused`, or raises."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    kind: str
    what: str
    verdict: str
    detail: str


class Untidy(Exception):
    """The command ended, but not with one line."""


# Values that no field of the kind takes, as Python and JSON know them.
NOT_NUMBERS: list[Any] = [
    "high",
    "",
    [],
    {},
    [1],
    {"a": 1},
    float("nan"),
    float("inf"),
    -float("inf"),
    10**400,
    "1e999",
]
NOT_TEXTS: list[Any] = [[], {}, [1, "a"], {"a": {"b": []}}, float("nan")]
ODD: list[Any] = [
    *NOT_NUMBERS, *NOT_TEXTS, None, True, False, 0, -1, 1e308, -1e308, 5e-324, 2**63, -(2**63) - 1, 10**30, "\x00", "\ud800",
    "a" * 70_000, "\x1b[31m", "two\nlines", "../../etc", "{problem}", "%s", "<b>", "NaN", "-0", "１２", "0x10", "1_000", " ",
]  # fmt: skip
ODD_TEXTS = [
    "9" * 5000, "-" + "9" * 5000, "[" * 1000, "[" * 100_000, '{"a":' * 2000, "\x00", "\xff", '"', "'", "NaN", "Infinity", "1e999",
    "-1", ",", ";", "\n", "\r", "\u2028", "=", "]", "}", '"""', "\\", "\\ud800", "null", "true", "inf", "1979-05-27", "07:32:00",
    "1979-05-27T07:32:00Z", "0001-01-01", "9999-12-31T23:59:59+23:59", "é", "\ufeff", "#", "x" * 140_000, "🙂", "10" * 40, "1,2,3",
]  # fmt: skip
ARGUMENTS = [
    "", " ", "-1", "0", "1", "nan", "inf", "-inf", "1e308", "1e999", "9" * 5000, "9" * 30, "high", "a=b", "=", "a=", "=1", "%", "-5%",
    "101%", "extended=nan", "extended=1e999", "extended=-1", "extended=" + "9" * 5000, "tokens=-3", "tokens=1e308", "tokens=1e-320",
    "tokens=0x", "extended>=", "tokens=1e99999999", "extended=1/0", "tokens=1e400x", "tokens=10%range", "@", "extended@level=",
    "\x1b[2J", "two\nlines", "é", "\ud800", "[" * 1000, "/dev/null", "/proc/self/mem", ".", "..", "nowhere/at/all", "a" * 5000,
    "reward=", "reward=x,cost=", "cost=y/0", "reward=a/b", "url=http://[", "url=http://127.0.0.1:99999/v1", "\x00", "true", "None",
]  # fmt: skip


def mutate_tree(draw: random.Random, tree: Any, values: list[Any]) -> tuple[Any, str]:
    """One node of a tree of dictionaries and lists replaced, removed, renamed or doubled; and what was done."""
    tree = copy.deepcopy(tree)
    places: list[tuple[Any, Any, str]] = []

    def walk(node: Any, path: str) -> None:
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            places.append((node, key, f"{path}.{key}"))
            if isinstance(value, dict | list):
                walk(value, f"{path}.{key}")

    if not isinstance(tree, dict | list) or not tree:
        return draw.choice(values), "all of it replaced"
    walk(tree, "")
    node, key, path = draw.choice(places)
    how = draw.choice(["replace"] * 6 + ["remove", "rename", "wrap", "repeat"])
    if how == "replace":
        value = draw.choice(values)
        node[key] = copy.deepcopy(value)
        return tree, f"{path} = {str(value)[:40]!r}"
    if how == "remove":
        del node[key]
    elif how == "rename" and isinstance(node, dict):
        node[draw.choice(["", "x", f"{key} ", str(key).upper(), "a.b", "\n", "é"])] = node.pop(key)
    elif how == "wrap":
        node[key] = draw.choice([[node[key]], {"value": node[key]}, str(node[key])])
    elif isinstance(node, list):
        node.insert(0, copy.deepcopy(node[key]))
    return tree, f"{path}: {how}"


def mutate_bytes(draw: random.Random, data: bytes) -> tuple[bytes, str]:
    """A few bytes flipped, a slice removed, doubled or moved, or something odd put in."""
    how = draw.choice(["flip", "cut", "double", "insert", "insert", "insert", "end", "swap", "encode", "replace value"])
    at, length = draw.randrange(len(data) + 1), draw.choice([1, 2, 8, 40, 400])
    if how == "flip":
        changed = bytearray(data or b"x")
        for _ in range(draw.choice([1, 3, 20])):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed), "bytes flipped"
    if how == "cut":
        return data[:at] + data[at + length :], f"{length} bytes removed at {at}"
    if how == "double":
        return data[: at + length] + data[at:], f"{length} bytes doubled at {at}"
    if how == "end":
        return data[:at], f"cut off at {at}"
    if how == "swap":
        lines = data.splitlines(keepends=True)
        draw.shuffle(lines)
        return b"".join(lines), "lines shuffled"
    text = draw.choice(ODD_TEXTS)
    odd = text.encode("latin-1" if text == "\xff" else "utf-8")
    if how == "encode":
        return data.decode("utf-8", "replace").encode(draw.choice(["utf-16", "utf-32"])), "another encoding"
    if how == "replace value":
        found = list(re.finditer(rb"[-\w.]+", data))
        if found:
            one = draw.choice(found)
            return data[: one.start()] + odd + data[one.end() :], f"{one.group()[:20]!r} -> {text[:20]!r}"
    return data[:at] + odd + data[at:], f"{text[:20]!r} put in at {at}"


def mutate_toml(draw: random.Random, data: bytes) -> tuple[bytes, str]:
    """The bytes of a TOML file changed, or one node of its tables; what TOML cannot say is left to its reader."""
    from ibpo.runs import to_toml

    if draw.random() < 1 / 3:
        return mutate_bytes(draw, data)
    values = [x for x in ODD if x is not None and x != "\ud800"]
    tables, what = mutate_tree(draw, tomllib.loads(data.decode()), values)
    try:
        return to_toml(tables, "x").encode(), what
    except (TypeError, ValueError, AttributeError, KeyError):
        return b"= " + repr(tables).encode("utf-8", "replace"), what


# ---------------------------------------------------------------------------------------------- the command line


def run_command(*args: str) -> str:
    """One command; `taken` or `refused`, or raises what is not an answer to a user."""
    result = CliRunner().invoke(app, list(args), catch_exceptions=True)
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    errors = result.stderr
    if "error: reached\n" in errors or result.exit_code == 0:
        return "taken"
    if result.exit_code == 1 and args[:2] in (("task", "check"), ("groups", "check")):
        return "taken"  # a verdict
    lines = errors.split("\n")
    if result.exit_code == 2 and errors.startswith("Usage: "):
        return "refused"
    first = next((i for i, line in enumerate(lines) if line.startswith("error: ")), None)
    after = [] if first is None else [x for x in lines[first + 1 :] if x and not x.startswith("try: ")]
    if result.exit_code != 2 or first is None or after:
        raise Untidy(f"exit code {result.exit_code}: {errors[-600:]!r}")
    if not all(c.isprintable() or c == "\t" for c in lines[first]) or len(lines[first]) > 2000:
        raise Untidy(f"control characters or no end: {len(lines[first])}: {lines[first][:300]!r}")
    return "refused"


def _begin(*_: object, **__: object) -> Any:
    raise Reached("reached")


@contextmanager
def stopped() -> Iterator[None]:
    """Commands stop where the heavy work begins: the model is found, a run's folder is taken, or the gateway listens."""
    from ibpo.demo import resolve_model

    with (
        mock.patch("ibpo.demo.resolve_model", lambda *told: _begin(resolve_model(*told))),
        mock.patch("ibpo.demo.get_model", _begin),
        mock.patch("ibpo.runs.working_in", _begin),
        mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True),
        mock.patch("ibpo.serving.gateway.server.serve", _begin),
        mock.patch("ibpo.serving.gateway.serve", _begin),
        mock.patch("ibpo.commands.serve._warn_of_groups", lambda *_: None),
        mock.patch("ibpo.commands.options.load_tokenizer", _begin),
        mock.patch("ibpo.commands.check.load_tokenizer", _begin),
    ):
        yield


class Inputs:
    """Makes the cases; everything that they write is in `folder`."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.draw, self.folder = random.Random(seed), folder
        (folder / "runs").mkdir(exist_ok=True)
        self.log = folder / "valid.jsonl"
        self.rows = plain_rows()
        self.log.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self.trace = folder / "trace.jsonl"
        self.trace.write_text("".join(json.dumps({"t": i / 4, "output_tokens": 20 + i % 9}) + "\n" for i in range(60)))
        self.files = sorted(
            path
            for path in LOGS.rglob("*")
            if path.is_file() and path.suffix != ".md" and path.stat().st_size < 300_000
        )
        self.recipes = {path.name: path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.toml"))}
        page = (ROOT / "docs" / "how-to" / "gateway.md").read_text(encoding="utf-8")
        found = re.search(r"```toml\n(# ibpo serve.*?)```", page, re.DOTALL)
        assert found is not None
        self.gateway_file = found[1].encode()
        self.models: dict[str, Any] = {}

    def make(self, kind: str) -> Case:
        """The next case of a kind."""
        return getattr(self, f"_{kind}")()

    # ------------------------------------------------------------------------------------------ options

    def _options(self) -> Case:
        draw, name = self.draw, self.draw.choice(sorted({*COMMANDS} - {"doctor"}))  # it reads nothing of a user's
        base = self.valid(name)
        how = draw.choice(["value"] * 4 + ["argument", "unknown option", "two"])
        command, path = _command(base)
        options = [x for x in command.params if x.param_type_name == "option" and x.name not in ("help", "out", "host")]
        if how == "unknown option" or not options:
            return self._case("options", f"{path}: --no-such", True, [*base, "--no-such"])
        if how == "argument":
            places = [i for i, x in enumerate(base) if i >= len(path.split()) and not x.startswith("--")]
            if places:
                value = draw.choice(ARGUMENTS)
                base[draw.choice(places)] = value
                return self._case("options", f"{path}: {value[:40]!r}", False, base)
        if how == "two":  # whatever they are: what one of them means may hang on the other
            pairs = [(option.opts[0], draw.choice(ARGUMENTS)) for option in draw.choices(options, k=2)
                     if not getattr(option, "is_flag", False)]  # fmt: skip
            what = ", ".join(f"{name} {value[:20]!r}" for name, value in pairs)
            return self._case("options", f"{path}: {what}", False, [*base, *(x for pair in pairs for x in pair)])
        option = draw.choice(options)
        value, bad = draw.choice(ARGUMENTS), False
        if getattr(option, "is_flag", False):
            return self._case("options", f"{path}: {option.opts[0]}", False, [*base, option.opts[0]])
        kind = getattr(getattr(option, "type_descriptor", None), "annotation", str)
        if kind in (int, float):
            number, low, high = _number(value, kind), option.min, option.max
            bad = number is None or (low is not None and number < low) or (high is not None and number > high)
            bad = bad or number != number
        elif option.name == "budget":
            bad = value in ("", " ", "-1", "nan", "high", "=", "a=", "=1", "%", "-5%", "101%", "@") or value.startswith(
                ("extended=nan", "extended=-1", "tokens=-3", "extended=1e999", "extended=1/0", "extended>=")
            )
        return self._case("options", f"{path}: {option.opts[0]} {value[:40]!r}", bad, [*base, option.opts[0], value])

    def valid(self, name: str) -> list[str]:
        """A call of a command that is in order."""
        out, log, recipe = str(self.folder / "out.json"), str(self.log), str(ROOT / "recipes" / "gsm8k_smoke.toml")
        data = f"data.path={ROOT}/tests/fixtures/gsm8k_16.jsonl"
        symbols = f"data.path={ROOT}/tests/fixtures/symbol_sums_240.jsonl"
        return {
            "demo": ["demo", "--quick", "--runs", str(self.folder / "runs")],
            "models": ["models", "get", "smollm2", "--out", out + "d"],
            "cold-start": [
                "cold-start",
                str(ROOT / "recipes/cold_start_smoke.toml"),
                "--set",
                symbols,
                "--out",
                out + "d",
            ],
            "train": ["train", recipe, "--set", data, "--out", out + "d"],
            "eval": ["eval", "embedded:thinking", "thinking", "--out", out + "d"],
            "report": ["report", log, "--out", str(self.folder / "page"), "--num-splits", "2"],
            "allocate": ["allocate", log, "--budget", "tokens=50%range", "--num-splits", "2"],
            "collect": [
                *("collect", str(ROOT / "tests/fixtures/gsm8k_16.jsonl"), "--by", "effort", "--model", "m", "--plan"),
                *("--base-url", "http://127.0.0.1:9/v1", "--limit", "calls=9", "--out", out + "d"),
            ],
            "calibrate": ["calibrate", log, "--columns", "score=p_extended", "--out", out],
            "simulate": ["simulate", str(self.trace), "--budget", "extended=30%", "--out", out],
            "serve": ["serve", "--upstream", "http://127.0.0.1:9/v1", "--budget", "extended=30%"],
            "replay": ["replay", str(self.folder / "runs")],
            "route": ["route", "fit", log, "--out", out, "--draws", "10", "--folds", "2"],
            "groups": ["groups", "check", str(self.folder), "--response-group", "standard"],
            "task": ["task", "check", str(ROOT / "tests/fixtures/gsm8k_16.jsonl"), "--set", "data.answer_after=####"],
        }[name]

    def _case(self, kind: str, what: str, bad: bool, args: list[str]) -> Case:
        return Case(kind=kind, what=what, bad=bad, run=lambda: run_command(*args))

    # ------------------------------------------------------------------------------------------ recipes

    def _recipes(self) -> Case:
        draw, name = self.draw, self.draw.choice(sorted(self.recipes))
        command = "cold-start" if name.startswith("cold") else "train"
        data, tables = self.recipes[name], tomllib.loads(self.recipes[name].decode())
        sets, bad = [], False
        how = draw.choice(["mutate"] * 3 + ["known", "known", "set", "table"])
        if how == "mutate":
            data, what = mutate_toml(draw, data)
        elif how == "table":  # said twice, unknown, or a key beside all tables
            more = draw.choice(["[model]", "[no_such_table]\na = 1", "[[response_group]]", "[[train]]\nsteps = 1"])
            data, what, bad = data + f"\n{more}\n".encode(), f"and {more!r}", True
        elif how == "known":
            part = draw.choice(["model", "data", "train"])
            key = draw.choice(sorted(tables[part]))
            value = tables[part][key]
            wrong = (
                draw.choice(["[]", "{}", "1", "nan", "1979-05-27", "[1]"])
                if isinstance(value, str)
                else draw.choice(
                    ["[]", "{}", '"many"', "nan", "-inf", "-3", "1979-05-27", '""', "-1e400", "0x", "9" * 5000]
                )
            )
            bad = key not in ("answer_after",) or wrong != '"many"'
            data = b"".join(
                f"{key} = {wrong}\n".encode() if re.match(rf"{key}\s*=".encode(), line) else line
                for line in data.splitlines(keepends=True)
            )
            what = f"{part}.{key} = {wrong[:40]}"
        else:
            part = draw.choice([x for x in tables if isinstance(tables[x], dict)])
            key = draw.choice([*tables[part], "no_such_key"])
            value = draw.choice(ARGUMENTS)
            bad = key == "no_such_key" and part != "budget"
            sets, what = [f"{part}.{key}={value}"], f"--set {part}.{key}={value[:40]!r}"
        path = self.folder / "recipe.toml"
        rows = "symbol_sums_240" if command == "cold-start" else "gsm8k_16"

        def run() -> str:
            path.write_bytes(data)
            # No network: the rows are those that are here, unless their place is what is bad.
            given = [] if "data.path" in what else [f"data.path={ROOT}/tests/fixtures/{rows}.jsonl"]
            pairs = [x for text in (*given, *sets) for x in ("--set", text)]
            return run_command(command, str(path), *pairs, "--out", str(self.folder / "no-run"))

        return Case(kind="recipes", what=f"{name}: {what}", bad=bad, run=run)

    # ------------------------------------------------------------------------------------------ the gateway's file

    def _gateway(self) -> Case:
        draw, bad, data = self.draw, False, self.gateway_file
        how = draw.choice(["mutate"] * 3 + ["known", "known", "key"])
        if how == "mutate":
            data, what = mutate_toml(draw, data)
        elif how == "key":  # unknown, in a table that there is
            head = draw.choice(re.findall(rb"(?m)^\[+[\w.]+\]+$", data))
            data = data.replace(head, head + b"\nno_such_key = 1", 1)
            what, bad = f"{head.decode()} no_such_key", True
        else:
            found = draw.choice(list(re.finditer(rb"(?m)^(\w+) = (\S+|\[.*?\]|\{.*?\})", data)))
            number = re.fullmatch(rb"[\d.]+", found[2]) is not None
            wrong = draw.choice(
                ['"many"', "nan", "-inf", "[]", "{}", "-5", "1979-05-27", "1e400", "-1e308"]
                if number
                else ["nan", "1", "true", "1979-05-27", "-5", "07:32:00", "inf"]
            )
            # A gain may be negative; every other number of the file may not.
            bad = not (found[1] == b"gain" and wrong in ("-5", "-1e308"))
            data = data[: found.start()] + found[1] + b" = " + wrong.encode() + b"\n#" + data[found.end() :]
            what = f"{found[1].decode()} = {wrong}"
        path = self.folder / "gateway.toml"

        def run() -> str:
            path.write_bytes(data)
            return run_command("serve", "--config", str(path))

        return Case(kind="gateway", what=what, bad=bad, run=run)

    # ------------------------------------------------------------------------------------------ logs

    def _logs(self) -> Case:
        return self._plain_log() if self.draw.random() < 0.5 else self._tools_log()

    def _plain_log(self) -> Case:
        """Rows of our own with one cell or one line that is known to be bad, as JSON lines, CSV or Parquet."""
        draw, rows = self.draw, copy.deepcopy(self.rows)
        form = draw.choice(["jsonl", "jsonl", "jsonl.gz", "json", "csv", "csv.gz", "tsv", "parquet", "arrow"])
        is_json, is_table = form.startswith("json"), form in ("csv", "csv.gz", "tsv")
        field = draw.choice(["reward", "reward", "tokens", "tokens", "problem_id", "response_group"])
        at, how = draw.randrange(len(rows)), draw.choice(["value"] * 5 + ["column", "line", "line"])
        bad, what, lines = True, "", None
        if how == "column":
            what = f"no column {field}"
            for row in rows:
                del row[field]
            bad = field in ("reward", "response_group")  # characters may stand for tokens, the prompt for a problem
        elif how == "line" and form.startswith("jsonl"):
            broken = [
                "[" * 100_000,
                "{",
                "9" * 5000,
                "null",
                "[1]",
                '"a"',
                '{"reward": 1',
                "\x00",
                "NaN",
                '{"a": ' + "[" * 3000,
                "}",
            ]
            lines = [json.dumps(row) for row in rows]
            lines[at] = draw.choice(broken)
            what = f"line {lines[at][:30]!r}"
        else:
            if field in ("reward", "tokens"):
                odd = ["high", float("nan"), float("inf"), -float("inf"), -0.5, "-3", "", "1e999", "9" * 5000, "NaN"]
                odd += [None] if not is_table else []
                odd += [2.5, "7"] if field == "reward" else []
                odd += [[], {}, [1], {"a": 1}, 10**400] if is_json else []
            else:
                odd = [None, "", [], {}, float("nan")] if is_json else [""]
            value = draw.choice(odd)
            rows[at][field] = value
            what = f"{field} = {str(value)[:30]!r}"
            if form in ("parquet", "arrow") and isinstance(value, str) and field in ("reward", "tokens"):
                for row in rows:  # a column has one type
                    row[field] = str(row[field])
        path = self.folder / f"log.{form}"
        args = self._log_command(path)
        if (
            args[0] == "report"
        ):  # what has no tokens is counted and said, and problems may be told apart by their prompt
            bad = bad and not (
                field == "tokens"
                and (how == "column" or what in ("tokens = 'nan'", "tokens = ''", "tokens = 'None'", "tokens = 'NaN'"))
            )

        def run() -> str:
            if is_json or is_table:
                text = json.dumps(rows) if form == "json" else "\n".join(lines or map(json.dumps, rows)) + "\n"
                if is_table:
                    file = io.StringIO(newline="")
                    writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if form == "tsv" else ",")
                    writer.writeheader()
                    writer.writerows(rows)
                    text = file.getvalue()
                path.write_bytes(gzip.compress(text.encode()) if form.endswith(".gz") else text.encode())
            else:
                import pyarrow
                import pyarrow.feather
                import pyarrow.parquet

                table = pyarrow.Table.from_pylist(rows)
                write = pyarrow.parquet.write_table if form == "parquet" else pyarrow.feather.write_feather
                write(table, path)
            return run_command(*args)

        return Case(kind="logs", what=f"{args[0]} {form}: {what}", bad=bad, run=run)

    def _log_command(self, path: Path) -> list[str]:
        how = self.draw.random()
        if how < 0.06:
            return ["report", str(path), "--out", str(self.folder / "page"), "--num-splits", "2"]
        if how < 0.16:
            return ["route", "fit", str(path), "--out", str(self.folder / "r.json"), "--draws", "10", "--folds", "2"]
        if how < 0.26:
            return ["simulate", str(self.trace), "--budget", "extended=30%", "--gains", str(path)]
        return ["allocate", str(path), "--budget", "tokens=50%range", "--num-splits", "2"]

    def _tools_log(self) -> Case:
        """A fixture of a tool's log, one of its files changed."""
        draw, source = self.draw, self.draw.choice(self.files)
        copied = self.folder / "logs"
        root = LOGS / source.relative_to(LOGS).parts[0]
        data = source.read_bytes()
        if source.suffix in (".json", ".jsonl") and draw.random() < 0.7:
            whole = source.suffix == ".json"
            lines = [data.decode()] if whole else data.decode().splitlines()
            at = draw.randrange(len(lines))
            tree, what = mutate_tree(draw, json.loads(lines[at]), ODD)
            lines[at] = json.dumps(tree)
            data = "\n".join(lines).encode()
        elif source.suffix == ".parquet" and draw.random() < 0.7:
            data, what = _mutate_parquet(draw, data)
        elif source.suffix == ".eval" and draw.random() < 0.8 and (changed := _mutate_eval(draw, data)):
            data, what = changed
        elif source.suffix == ".gz" and draw.random() < 0.7:
            inner, what = mutate_bytes(draw, gzip.decompress(data))
            data = gzip.compress(inner)
        else:
            data, what = mutate_bytes(draw, data)
        trace = "traces" in source.parts
        one_file = trace or root == source or "plain" in source.parts
        args = self._log_command(copied / source.name)
        if trace:
            args = ["simulate", str(copied / source.name), "--budget", "extended=30%"]
        elif not one_file:
            args = self._log_command(copied / source.parent.relative_to(root) if root.is_dir() else copied)

        def run() -> str:
            shutil.rmtree(copied, ignore_errors=True)
            if one_file:
                copied.mkdir()
                (copied / source.name).write_bytes(data)
            else:
                shutil.copytree(source.parent, copied / source.parent.relative_to(root))
                (copied / source.relative_to(root)).write_bytes(data)
            return run_command(*args)

        return Case(kind="logs", what=f"{args[0]} {source.relative_to(LOGS)}: {what}", bad=False, run=run)

    # ------------------------------------------------------------------------------------------ other files

    def _files(self) -> Case:
        """What commands wrote themselves or take beside a log: routers, calibrations, plans, keys, problems, runs."""
        draw, bad = self.draw, False
        name, command = draw.choice(list(self.written().items()))
        path = self.folder / "written" / name
        data = self.own[name]
        if path.suffix in (".json", ".jsonl") and draw.random() < 0.6:
            lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
            at = draw.randrange(len(lines))
            tree, what = mutate_tree(draw, json.loads(lines[at]), ODD)
            lines[at] = json.dumps(tree)
            data = "\n".join(lines).encode()
        elif path.suffix == ".toml" and "mean" in data.decode() and draw.random() < 0.5:
            wrong = draw.choice(["9" * 400, "9" * 5000, "nan", "-1", '"many"', "[]", "inf", "1979-05-27", "true"])
            data, what, bad = data.replace(b"mean = 0.3", b"mean = " + wrong.encode()), f"mean = {wrong[:20]}", True
        else:
            data, what = mutate_bytes(draw, data)

        def run() -> str:
            for other in self.own:
                self.restore(other)
            path.write_bytes(data)
            return run_command(*command)

        return Case(kind="files", what=f"{command[0]} {name}: {what}", bad=bad, run=run)

    def restore(self, name: str) -> None:
        """Write a file of `own` as it was."""
        path = self.folder / "written" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.own[name])

    def written(self) -> dict[str, list[str]]:
        """File -> a command that reads it; made once, by the commands themselves."""
        folder = self.folder / "written"
        commands = {
            "router.json": ["route", "show", str(folder / "router.json")],
            "score.json": ["route", "score", str(folder / "score.json"), str(self.log), "--out", str(folder / "s.jsonl")],
            "calibration.json": ["simulate", str(self.trace), "--budget", "extended=30%", "--gains",
                                 str(folder / "calibration.json")],
            "plan.toml": ["simulate", str(self.trace), "--plan", str(folder / "plan.toml")],
            "keys.toml": ["serve", "--upstream", "http://127.0.0.1:9/v1", "--budget", "extended=30%", "--keys",
                          str(folder / "keys.toml")],
            "problems.jsonl": ["task", "check", str(folder / "problems.jsonl"), "--set", "data.answer_after=####"],
            "prompts.jsonl": ["calibrate", str(folder / "prompts.jsonl"), "--out", str(folder / "c.json")],
            "run/config.toml": ["train", str(ROOT / "recipes/gsm8k_smoke.toml"), "--set",
                                f"data.path={ROOT}/tests/fixtures/gsm8k_16.jsonl", "--out", str(folder / "run"), "--resume"],
            "run/results.json": ["train", str(folder / "run/config.toml"), "--out", str(folder / "run"), "--resume"],
            "trace.jsonl": ["simulate", str(folder / "trace.jsonl"), "--budget", "extended=30%"],
        }  # fmt: skip
        if not hasattr(self, "own"):
            from ibpo.config import read_recipe
            from ibpo.runs import to_toml

            folder.mkdir()
            log, rows = str(self.log), self.log.read_bytes()
            run_command("route", "fit", log, "--out", str(folder / "router.json"), "--draws", "10", "--folds", "2")
            run_command("calibrate", log, "--out", str(folder / "calibration.json"))
            router = (folder / "router.json").read_bytes()
            recipe = read_recipe(ROOT / "recipes/gsm8k_smoke.toml", [f"data.path={ROOT}/tests/fixtures/gsm8k_16.jsonl"])
            held = {"policy": "chooses", "num_right": 1, "num_problems": 8, "interval_95": [0, 0.5], "num_truncated": 0,
                    "num_unanswered": 1, "mean_tokens": 3.5, "share": {"standard": 0.5, "extended": 0.5}}  # fmt: skip
            results = {"model": "m", "steps": 3, "num_training_problems": 8, "num_held_out_problems": 8,
                       "budget": {"extended": 0.5}, "held_out": [held]}  # fmt: skip
            self.own = {
                "router.json": router,
                "score.json": router,
                "calibration.json": (folder / "calibration.json").read_bytes(),
                "plan.toml": b"[budget.extended]\nmean = 0.3\nresponse_group = 'extended'\n"
                b"[tenant.gold]\nat_least = { extended = 0.1 }\n",
                "keys.toml": b'[keys]\ngold = ["sha256:' + b"0a" * 32 + b'"]\n',
                "problems.jsonl": b"".join((LOGS / "gsm8k_16.jsonl").read_bytes().splitlines(keepends=True)[:3]),
                "prompts.jsonl": rows,
                "run/config.toml": to_toml(recipe.model_dump(), "ibpo train").encode(),
                "run/results.json": json.dumps(results).encode(),
                "trace.jsonl": self.trace.read_bytes(),
            }
        return commands

    # ------------------------------------------------------------------------------------------ models

    def _models(self) -> Case:
        """A file of a model's folder changed: read as `ibpo train` and `ibpo eval` read it, one prompt rendered."""
        from ibpo.demo import model_path

        draw, folder, source = self.draw, self.folder / "model", Path(model_path("thinking"))
        name = draw.choice(sorted(path.name for path in source.iterdir() if path.is_file()))
        data = (source / name).read_bytes()
        if name.endswith(".json") and draw.random() < 0.6:
            tree, what = mutate_tree(draw, json.loads(data), ODD)
            data = json.dumps(tree).encode()
        else:
            data, what = mutate_bytes(draw, data)

        def run() -> str:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            (folder / name).write_bytes(data)
            return read_model(folder)

        return Case(kind="models", what=f"{name}: {what}", bad=False, run=run)

    # ------------------------------------------------------------------------------------------ bodies

    def _bodies(self) -> Case:
        api, body, bad, what = self.body()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Case(kind="bodies", what=f"{api}: {what}", bad=bad, run=lambda: read_body(api, data))

    def body(self) -> tuple[openai_request.Api, Any, bool, str]:
        """API, body (a tree or bytes), whether it is known to be bad, and why."""
        draw = self.draw
        api: openai_request.Api = draw.choice(["chat", "completions", "responses", "messages"])
        body: dict[str, Any] = {"model": "m", "temperature": 0.5, "stream": False, "metadata": {"a": [1, {"b": None}]}}
        body |= {"completions": {"prompt": ["a", "b"], "n": 2}, "responses": {"input": "hi"}}.get(
            api, {"messages": [{"role": "user", "content": "hi"}]}
        )
        body[openai_request.CAP_FIELDS[api][0]] = 50
        how = draw.choice(["bytes", "tree", "tree", "cap", "cap", "field", "broken"])
        if how == "bytes":
            data, what = mutate_bytes(draw, json.dumps(body).encode())
            return api, data, False, what
        if how == "tree":
            body, what = mutate_tree(draw, body, ODD)
            return api, body, False, what
        if how == "cap":
            name = draw.choice([*openai_request.CAPS, *openai_request.COUNTS])
            value = draw.choice([x for x in (*NOT_NUMBERS, -1, 0, True, 1.5, -(10**30), 10**30) if x not in ("1e999",)])
            return api, {**body, name: value}, True, f"{name} = {str(value)[:30]!r}"
        if how == "field":
            name, values = draw.choice([("model", [1, [], {}, True]), ("stream", ["yes", 1, [1], {"a": 1}]),
                                        ("stream_options", ["a", 1, [1]]), ("background", [True])])  # fmt: skip
            value = draw.choice(values)
            return api, {**body, name: value}, True, f"{name} = {value!r}"
        text = draw.choice(
            [
                "[" * 100_000,
                "",
                "null",
                "[]",
                '"a"',
                "9" * 5000,
                '{"a": ' * 5000,
                "{",
                '{"n": 1e999}',
                '{"n": ' + "9" * 5000 + "}",
            ]
        )
        return api, text.encode(), True, f"{text[:20]!r}"


LIMITS = LimitSettings()
GROUPS = (
    GroupSettings(name="standard", chat_template_kwargs={"enable_thinking": False}, tokens=10, max_tokens=100),
    GroupSettings(name="opened", prefix="<think>", max_tokens=400),
    GroupSettings(name="effort", reasoning_effort="high", max_thinking_tokens=2048, max_tokens=4096),
    GroupSettings(name="free", body={"top_p": 0.9, "extra": {"a": 1}}),
)
MODEL = ModelSettings(name="*", response_group=list(GROUPS))


def read_model(folder: Path) -> str:
    """What is said of a model's folder before it is used."""
    from ibpo.errors import one_line
    from ibpo.rollouts import encode_prompt, load_policy

    try:
        _, tokenizer = load_policy(str(folder), dtype="float32")
        encode_prompt(tokenizer, "1 2 3")
    except IbpoError as error:
        if not one_line(str(error)).isprintable():
            raise Untidy(f"not one line: {str(error)[:300]!r}") from None
        return "refused"
    return "taken"


def read_body(api: openai_request.Api, data: bytes) -> str:
    """What the gateway's decision does with a body before anything is sent; what it writes holds the caps."""
    try:
        request = openai_request.read_request(data, api=api)
        openai_request.check_size(request, GROUPS, LIMITS)
        for group in GROUPS:
            cap = openai_request.max_tokens_of(request, group)
            openai_request.can_set(request, group)
            written = json.loads(openai_request.write_body(request, group, MODEL))
            for name in openai_request.CAPS:
                if isinstance(given := written.get(name), int | float) and cap is not None and given > cap:
                    raise AssertionError(f"{name} = {given} is written, {cap} is reserved")
    except IbpoError as error:
        if not str(error).isprintable() or len(str(error)) > 500:
            raise Untidy(f"not one line: {str(error)[:300]!r}") from None
        return "refused"
    return "taken"


def run_gateway(inputs: Inputs, count: int) -> tuple[Counter[str], list[Finding]]:
    """Bodies to a running gateway in front of a scripted upstream: 200, or an error of the caller's, and never a 5xx."""
    from tests.serving.world import World, call

    paths = {api: path for path, api in openai_request.PATHS.items()}
    counts, findings = Counter[str](), list[Finding]()
    with World() as world:
        _, url, _ = world.gateway(world.upstream().url)
        for _ in range(count):
            api, body, bad, what = inputs.body()
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            status, _, answer = call(f"{url}{paths[api]}", data)
            counts["taken" if status == 200 else "refused"] += 1
            verdict = "nonsense" if bad and status == 200 else ""
            if status != 200:
                error = json.loads(answer).get("error", {}) if answer[:1] == b"{" else {}
                tidy = 400 <= status < 500 and str(error.get("message", "\n")).isprintable()
                verdict = "" if tidy else f"status {status}"
            if verdict:
                findings.append(
                    Finding(kind="running", what=f"{api}: {what}", verdict=verdict, detail=repr(answer[:200]))
                )
    return counts, findings


# ---------------------------------------------------------------------------------------------- verdicts


def judge(case: Case) -> tuple[str, str]:
    """(verdict, detail) of one case: `taken` and `refused` are good, all else is a finding."""

    def ring(*_: object) -> None:
        raise Hung

    clocks = ((signal.SIGALRM, signal.ITIMER_REAL, WALL_SECONDS), (signal.SIGPROF, signal.ITIMER_PROF, SECONDS))
    before, began = [signal.signal(number, ring) for number, _, _ in clocks], time.process_time()
    for _, clock, most in clocks:
        signal.setitimer(clock, most)
    try:
        verdict, detail = case.run(), ""
    except Hung:
        verdict, detail = "hang", traceback.format_exc()[-1500:]
    except Untidy as error:
        verdict, detail = "untidy", str(error)
    except Exception as error:
        frames = [f"{Path(x.filename).name}:{x.lineno}" for x in traceback.extract_tb(error.__traceback__)]
        verdict, detail = "traceback", f"{type(error).__name__}: {str(error)[:200]!r} at {' '.join(frames[-6:])}"
    finally:
        for (number, clock, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)
    if time.process_time() - began > SECONDS:
        verdict = "hang"
    return ("nonsense" if verdict == "taken" and case.bad else verdict), detail


def run(
    count: int, seed: int, *, say: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, Counter[str]], list[Finding]]:
    """`count` inputs over all kinds; (kind -> verdict -> how many, the findings)."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in (*SHARES, "running")}
    findings: list[Finding] = []
    here = Path.cwd()
    # Heavy libraries are loaded once, and not inside of an input.
    importlib.import_module("ibpo.rollouts.hf")
    transformers_logging = importlib.import_module("transformers.utils.logging")
    for quieten in (transformers_logging.disable_progress_bar, transformers_logging.set_verbosity_error):
        quieten()
    with tempfile.TemporaryDirectory() as name, stopped():
        try:
            os.chdir(name)  # whatever a command writes without being told where
            for kind, share in SHARES.items():
                inputs = Inputs(seed, Path(name))
                number = round(count * share)
                if kind == "bodies":
                    some = round(number * RUNNING)
                    counts["running"], found = run_gateway(inputs, some)
                    findings += found
                    number -= some
                for i in range(number):
                    case = inputs.make(kind)
                    verdict, detail = judge(case)
                    counts[kind][verdict] += 1
                    counts[kind]["known to be bad"] += case.bad
                    if verdict not in ("taken", "refused"):
                        findings.append(Finding(kind=kind, what=case.what, verdict=verdict, detail=detail))
                        say(f"{kind} {i}: {verdict}: {case.what[:150]!r}: {detail[:900]}")
        finally:
            os.chdir(here)
    return counts, findings


def plain_rows() -> list[dict[str, Any]]:
    """A valid log: 24 problems, two response groups, two answers each."""
    return [
        {"problem_id": f"p{p}", "prompt": f"question {p}?", "level": str(p % 2), "response_group": group,
         "reward": float((p + j) % 3 > 0 or group == "extended"), "tokens": 30 + 7 * p + (200 if group == "extended" else 0),
         "p_extended": p / 24, "completion": "so 4"}
        for p in range(24) for group in ("standard", "extended") for j in range(2)
    ]  # fmt: skip


def _command(base: list[str]) -> tuple[Any, str]:
    """The command that is called by these arguments, and its name."""
    module, _, function = COMMANDS[base[0]][0].partition(":")
    found = getattr(importlib.import_module(f"ibpo.commands.{module}"), function)
    if isinstance(found, typer.Typer):
        group: Any = typer.main.get_command(found)
        return group.commands[base[1]], f"{base[0]} {base[1]}"
    alone = typer.Typer()
    alone.command()(found)
    return typer.main.get_command(alone), base[0]


def _number(text: str, kind: type) -> float | None:
    try:
        return kind(text)
    except ValueError:
        return None


def _mutate_parquet(draw: random.Random, data: bytes) -> tuple[bytes, str]:
    """One column with other values of another type: dates out of range, decimals, nulls, lists, bytes."""
    import pyarrow as pa
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(data))
    n, at = table.num_rows, draw.randrange(table.num_columns)
    name, columns = draw.choice([
        ("dates out of range", pa.array([2**62] * n, pa.timestamp("us"))),
        ("days out of range", pa.array([2**30] * n, pa.date32())),
        ("durations", pa.array([2**62] * n, pa.duration("s"))),
        ("nulls", pa.nulls(n)),
        ("bytes", pa.array([b"\xff\xfe"] * n)),
        ("lists", pa.array([[1, None]] * n)),
        ("nan", pa.array([float("nan")] * n)),
        ("infinity", pa.array([float("-inf")] * n)),
        ("half floats", pa.array([1e-7] * n).cast(pa.float32()).cast(pa.float16())),
        ("dictionary", pa.array(["a"] * n).dictionary_encode()),
        ("times", pa.array([10**9] * n, pa.time64("ns"))),
        ("decimals", pa.array([10**30] * n, pa.decimal128(38, 0))),
        ("structs", pa.array([{"a": None}] * n)),
    ])  # fmt: skip
    column = table.column_names[at]
    written = io.BytesIO()
    pyarrow.parquet.write_table(table.set_column(at, column, columns), written)
    return written.getvalue(), f"{column}: {name}"


def _mutate_eval(draw: random.Random, data: bytes) -> tuple[bytes, str] | None:
    """One document of a log of Inspect changed; None where this Python cannot unpack it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except NotImplementedError:
        return None
    name = draw.choice([name for name in members if name == "header.json" or name.startswith("samples/")])
    tree, what = mutate_tree(draw, json.loads(members[name]), ODD)
    members[name] = json.dumps(tree).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for other, content in members.items():
            archive.writestr(other, content)
    return written.getvalue(), f"{name}: {what}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    counts, findings = run(arguments.inputs, arguments.seed, say=lambda text: print(text, flush=True))
    print("| kind | inputs | known to be bad | taken | refused | findings |\n|---|---|---|---|---|---|")
    for kind, row in counts.items():
        bad = row.pop("known to be bad", 0)
        total = row.total()
        wrong = sum(finding.kind == kind for finding in findings)
        print(f"| {kind} | {total:,} | {bad or '-'} | {row['taken']:,} | {row['refused']:,} | {wrong} |")
    print(f"seed {arguments.seed}, {time.monotonic() - began:.0f} s; {Counter(x.verdict for x in findings)}")


if __name__ == "__main__":
    main()
