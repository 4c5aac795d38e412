"""What commands leave that are killed at a random moment, or whose disk is full in the middle of a file.

`eval`, `allocate`, `train` and `serve` have tests of their own with more to compare (tests/commands/test_eval.py,
test_allocate.py, tests/training/test_kill.py, tests/serving/test_gateway_processes.py).
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.bad_inputs import plain_rows
from tests.killing import KILL, TERM, moment, running, send

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A log, another one, a trace and a fitted router."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = plain_rows()
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    others = [row | {"reward": 1.0 - row["reward"]} for row in rows]
    (folder / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    for name, step in (("trace", 4), ("other_trace", 5)):
        lines = [json.dumps({"t": i / step, "output_tokens": 20 + i % 9}) + "\n" for i in range(400)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    complete(folder / "said", route_fit(folder, folder / "router.json"))
    return folder


def route_fit(inputs, out):
    return ["route", "fit", inputs / "log.jsonl", "--out", out, "--draws", 10, "--folds", 2]


def simulate(trace, out):
    return ["simulate", trace, "--budget", "extended=30%", "--out", out]


def report(log, out):
    return ["report", log, "--out", out, "--num-splits", 2, "--title", log.stem]


def complete(said, arguments, **options):
    began = time.monotonic()
    with running(said, *arguments, **options) as process:
        process.join()
        assert process.exitcode == 0, said.read_text()
    return time.monotonic() - began


def files_in(place):
    """Path -> bytes of what is there; locks mean nothing."""
    found = [place] if place.is_file() else place.rglob("*") if place.is_dir() else ()
    base = place if place.is_dir() else place.parent
    return {str(x.relative_to(base)): x.read_bytes() for x in found if x.is_file() and x.name != ".lock"}


def without_time(name, data):
    """The bytes of a file, less the CPU time of the simulation, which differs."""
    return re.sub(rb'"cpu_microseconds_per_request": [\d.e+-]+', b"", data) if name.endswith("simulate.json") else data


def same(found, whole):
    return {name: without_time(name, data) for name, data in found.items()} == {
        name: without_time(name, data) for name, data in whole.items()
    }


# ---------------------------------------------------------------------------------------------- a full disk

COMMANDS = {
    "allocate": lambda inputs, out: ["allocate", inputs / "log.jsonl", "--budget", "tokens=50%range", "--num-splits", 2,
                                     "--out", out / "allocate"],
    "report": lambda inputs, out: report(inputs / "log.jsonl", out / "report"),
    "simulate": lambda inputs, out: simulate(inputs / "trace.jsonl", out / "simulate.json"),
    "calibrate": lambda inputs, out: ["calibrate", inputs / "log.jsonl", "--columns", "score=p_extended", "--out",
                                      out / "calibration.json"],
    "route fit": lambda inputs, out: route_fit(inputs, out / "router.json"),
    "route score": lambda inputs, out: ["route", "score", inputs / "router.json", inputs / "log.jsonl", "--out",
                                        out / "scores.jsonl"],
}  # fmt: skip
SLOW = {
    "train": lambda inputs, out: ["train", ROOT / "recipes/gsm8k_smoke.toml", "--set",
                                  f"data.path={FIXTURES}/gsm8k_16.jsonl", "--set", "train.steps=2",
                                  "--set", "train.max_completion_length=8", "--set",
                                  "trl.guards=warn", "--out", out / "train"],
    "cold-start": lambda inputs, out: ["cold-start", ROOT / "recipes/cold_start_smoke.toml", "--set",
                                       f"data.path={FIXTURES}/symbol_sums_240.jsonl", "--set", "sample.num_solutions=6",
                                       "--out", out / "cold"],
    "eval": lambda inputs, out: ["eval", "embedded:thinking", "thinking", "--limit", 6, "--num-responses", 2,
                                 "--max-tokens", 40, "--temperature", 0, "--out", out / "eval"],
}  # fmt: skip
GOES_ON = {"train": ["--resume"]}
SAME = {"train": ["train/responses.jsonl", "train/results.json", "train/model/model.safetensors"],
        "eval": ["eval/responses.jsonl"]}  # fmt: skip
"""What is the same after a rerun; a local model that has to answer a part of the requests answers it otherwise, unless
it answers greedily (`HFRequestSampler`)."""


def made(files):
    """The files without a cold start's checkpoints: solutions sampled anew build more or fewer steps."""
    return {path for path in files if "cold/checkpoints/" not in path}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name",
    [
        *COMMANDS,
        *(
            pytest.param(x, marks=pytest.mark.stress if x in ("cold-start", "train") else pytest.mark.slow)
            for x in SLOW
        ),
    ],
)
def test_a_full_disk_is_one_line_and_a_rerun_makes_the_whole(inputs, tmp_path, name):
    """A limit on the bytes of a file stands in for the disk; it strikes in files of each size, near their end."""
    arguments, said = {**COMMANDS, **SLOW}[name], tmp_path / "said"
    (tmp_path / "whole").mkdir()
    complete(said, arguments(inputs, tmp_path / "whole"))
    whole = files_in(tmp_path / "whole")
    sizes = sorted({len(data) for data in whole.values() if len(data) > 60})
    picked = sizes if name in COMMANDS else random.Random(0).sample(sizes, min(len(sizes), 6))
    seen = 0
    for size in picked:
        out = tmp_path / f"full-{size}"
        out.mkdir()
        said.unlink(missing_ok=True)
        with running(said, *arguments(inputs, out), max_file=size - 50) as process:
            process.join()
            code, text = process.exitcode, said.read_text()
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in text, text
        assert f"error: {out}" in lines[0] and "cannot be written" in lines[0] and "make room" in lines[0], lines[0]
        kept = files_in(out)
        assert not [path for path in kept if Path(path).name.startswith(".")], kept.keys()
        if name in COMMANDS:
            assert all(without_time(path, data) == without_time(path, whole[path]) for path, data in kept.items())
        seen += 1
        more = GOES_ON.get(name, []) if (out / "train/checkpoints/checkpoint-1/ibpo_state.npz").exists() else []
        complete(said, [*arguments(inputs, out), *more])
        found = files_in(out)
        assert made(found) == made(whole)
        for path in found if name in COMMANDS else SAME.get(name, ()):
            mine, theirs = (one.replace(str(of).encode(), b"") for one, of in
                            ((found[path], out), (whole[path], tmp_path / "whole")))  # fmt: skip
            assert without_time(path, mine) == without_time(path, theirs), path
    assert seen == len(picked) > 0


# ---------------------------------------------------------------------------------------------- kills

NUM_KILLS = [pytest.param(6, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.stress)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_kills", NUM_KILLS)
@pytest.mark.parametrize("name", ["simulate", "report"])
def test_killed_at_random_moments(inputs, tmp_path, name, num_kills):
    """Two questions take turns in one place: each file is whole, an old one or a new one; a rerun makes all of them."""
    place, said = tmp_path / ("simulate.json" if name == "simulate" else "page"), tmp_path / "said"
    asked = {
        "simulate": [simulate(inputs / f"{trace}.jsonl", place) for trace in ("trace", "other_trace")],
        "report": [report(inputs / f"{log}.jsonl", place) for log in ("log", "other")],
    }[name]
    rng, seen, whole, seconds = random.Random(num_kills), Counter(), [], 0.0
    for arguments in (*asked, *asked):  # the second time, all is loaded
        seconds = complete(said, arguments)
        whole.append(files_in(place))
    whole = whole[2:]
    assert whole[0].keys() == whole[1].keys() and not same(whole[0], whole[1])
    for number in range(num_kills):
        old, new = whole[1 - number % 2], whole[number % 2]
        with running(said, *asked[number % 2]) as process:
            moment(rng, seconds)
            killed = send(process, rng.choice((KILL, TERM)))
            assert killed or process.exitcode == 0, said.read_text()
        found = {path: data for path, data in files_in(place).items() if not Path(path).name.startswith(".")}
        for path, data in found.items():
            assert without_time(path, data) in (without_time(path, old[path]), without_time(path, new[path])), path
        state = "old" if same(found, old) else "new" if same(found, new) else "both"
        seen[state if killed else "too late"] += 1
        complete(said, asked[number % 2])
        assert same(files_in(place), new)
        if name == "simulate":
            assert sorted(path.name for path in tmp_path.iterdir()) == ["said", "simulate.json"]
    print(f"{num_kills} kills of {name} left", dict(seen))
    assert seen["too late"] < num_kills


def quick_demo():
    """A demo of seconds instead of minutes."""
    from ibpo.commands import demo

    demo.QUICK_STEPS, demo.QUICK_PROBLEMS, demo.NUM_CALIBRATION = 3, 24, 24


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "num_kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.stress)]
)
def test_a_demo_that_is_killed_goes_on_to_the_same_end(tmp_path, num_kills):
    """Kills of the process that starts the jobs: no job outlives it, what is finished stays, the end is the same."""
    pytest.importorskip("trl")
    said, rng, kept = tmp_path / "said", random.Random(num_kills), {}
    arguments = ["demo", "--quick", "--budget", "extended=50%", "--runs"]
    seconds = complete(said, [*arguments, tmp_path / "whole"], prepare=quick_demo)
    for _ in range(num_kills):
        with running(said, *arguments, tmp_path / "runs", prepare=quick_demo) as process:
            moment(rng, seconds / 2)
            killed = send(process, rng.choice((KILL, TERM)))
            assert killed or process.exitcode == 0, said.read_text()
        give_up = time.monotonic() + 120  # a job that still loads its libraries ends when it begins
        while jobs := jobs_in(tmp_path / "runs"):
            assert time.monotonic() < give_up, jobs
            time.sleep(0.05)
        found = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.jsonl.gz")}
        assert all(found.get(path) == when for path, when in kept.items())  # nothing finished is done again
        kept = found
    complete(said, [*arguments, tmp_path / "runs"], prepare=quick_demo)
    for name in ("results.json", "merits.json"):
        whole, mine = ((tmp_path / of / "thinking-quick" / name).read_text() for of in ("whole", "runs"))
        assert mine == whole
    for path in (tmp_path / "whole").rglob("*.jsonl.gz"):
        assert path.read_bytes() == (tmp_path / "runs" / path.relative_to(tmp_path / "whole")).read_bytes(), path
    shutil.rmtree(tmp_path / "whole")


def jobs_in(folder):
    """Processes that still work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(os.fsencode(folder)) and word.endswith(b".spec.json") for word in words):
            found.append(int(process.name))
    return found
